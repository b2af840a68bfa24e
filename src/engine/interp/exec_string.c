// SPDX-License-Identifier: Apache-2.0
// String instructions, repeated or not. Registers are brought up to date after every element or run of
// elements, so that a fault or an interrupt in the middle resumes exactly there. An instruction that stops
// early puts rip back on itself.
//
// MOVS and STOS upwards run page-wise on host memory when segments allow any offset; the result is what
// element after element would give, for overlapping ranges too.
#include "engine/interp/exec.h"
#include "x86/fpu.h"
#include <string.h>

struct string {
    unsigned size; // of an element
    unsigned adsize;
    uint64_t mask; // of addresses and of the counter
    int64_t step;
    bool rep;
};

static struct string string_begin(struct x86_cpu *cpu, const struct x86_insn *x)
{
    struct string s = {
        .size = x->opsize,
        .adsize = x->adsize,
        .mask = exec_mask(x->adsize),
        .rep = (x->prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE)) != 0,
    };
    s.step = cpu->rflags & X86_FLAG_DF ? -(int64_t)s.size : (int64_t)s.size;
    return s;
}
static uint64_t reg_get(struct x86_cpu *cpu, const struct string *s, unsigned reg)
{
    return cpu->gpr[reg] & s->mask;
}
static void reg_add(struct x86_cpu *cpu, const struct string *s, unsigned reg, int64_t delta)
{
    interp_put(cpu, reg, s->adsize, cpu->gpr[reg] + (uint64_t)delta);
}
// Must a repeated instruction pause between two elements?
static bool must_pause(struct x86_cpu *cpu)
{
    uint32_t events = atomic_load_explicit(&cpu->events, memory_order_relaxed);
    if (likely(events == 0))
        return cpu->stepping || x86_debug_armed(cpu);
    return cpu->stepping || x86_debug_armed(cpu) || x86_events_ready(cpu) ||
           (events & (X86_EVENT_EXIT | X86_EVENT_FLUSH | X86_EVENT_CODE));
}
// After `done` elements: true when the instruction is over, be it finished or paused.
static bool advance(struct x86_cpu *cpu, const struct string *s, uint64_t done)
{
    if (!s->rep)
        return true;
    reg_add(cpu, s, X86_RCX, -(int64_t)done);
    if (reg_get(cpu, s, X86_RCX) == 0)
        return true;
    if (must_pause(cpu)) {
        // Whatever comes between two iterations saves RF = 1, and a breakpoint on the instruction does not fire
        // again (SDM vol. 3, 17.3.1.1).
        cpu->rip = cpu->insn_rip;
        cpu->rflags |= X86_FLAG_RF;
        return true;
    }
    return false;
}
static bool nothing_to_do(struct x86_cpu *cpu, const struct string *s)
{
    return s->rep && reg_get(cpu, s, X86_RCX) == 0;
}
// Elements upwards from offset `off`, at linear address `lin`, that stay in the page and do not wrap.
static uint64_t run_length(const struct string *s, uint64_t off, gva_t lin, uint64_t count)
{
    uint64_t room = (PAGE_SIZE - (lin & PAGE_OFFSET_MASK)) / s->size;
    uint64_t wrap = s->mask - off;
    if (wrap < PAGE_SIZE && (wrap + 1) / s->size < room)
        room = (wrap + 1) / s->size;
    return room < count ? room : count;
}
static bool unlimited(struct x86_cpu *cpu, unsigned seg, unsigned access)
{
    return (cpu->seg[seg].unchecked & access) == access;
}

// --- MOVS -----------------------------------------------------------------------------------------------------

// A run of elements by host memory; returns how many were moved, 0 for "one by one".
static uint64_t movs_run(struct x86_cpu *cpu, const struct string *s, unsigned seg, uint64_t count)
{
    uint64_t si = reg_get(cpu, s, X86_RSI), di = reg_get(cpu, s, X86_RDI), n, bytes;
    gva_t src_lin, dst_lin;
    uint8_t *src, *dst;
    struct x86_tlb_entry *entry;
    if (!unlimited(cpu, seg, X86_ACCESS_READ) || !unlimited(cpu, X86_ES, X86_ACCESS_WRITE))
        return 0;
    src_lin = (cpu->seg[seg].eff_base + si) & cpu->lin_mask;
    dst_lin = (cpu->seg[X86_ES].eff_base + di) & cpu->lin_mask;
    n = run_length(s, si, src_lin, count);
    n = run_length(s, di, dst_lin, n);
    if (n < 2)
        return 0;
    src = x86_host_ptr(cpu, seg, src_lin, X86_ACCESS_READ, NULL);
    dst = src ? x86_host_ptr(cpu, X86_ES, dst_lin, X86_ACCESS_WRITE, &entry) : NULL;
    if (!dst)
        return 0;
    bytes = n * s->size;
    if (dst <= src || dst >= src + bytes) {
        memmove(dst, src, bytes);
    } else { // each element is read after those before it were written
        for (uint64_t i = 0; i < n; i++) {
            uint8_t element[8];
            memcpy(element, src + i * s->size, s->size);
            memcpy(dst + i * s->size, element, s->size);
        }
    }
    x86_stored(cpu, entry, dst_lin, (unsigned)bytes);
    return n;
}
EXEC(movs)
{
    struct string s = string_begin(cpu, x);
    uint64_t n;
    if (nothing_to_do(cpu, &s))
        return;
    do {
        n = 0;
        if (s.rep && s.step > 0 && !cpu->stepping && !x86_debug_armed(cpu))
            n = movs_run(cpu, &s, x->seg, reg_get(cpu, &s, X86_RCX));
        if (n == 0) {
            uint64_t value = interp_read(cpu, x->seg, reg_get(cpu, &s, X86_RSI), s.size);
            interp_write(cpu, X86_ES, reg_get(cpu, &s, X86_RDI), s.size, value);
            n = 1;
        }
        reg_add(cpu, &s, X86_RSI, (int64_t)n * s.step);
        reg_add(cpu, &s, X86_RDI, (int64_t)n * s.step);
    } while (!advance(cpu, &s, n));
}

// --- STOS -----------------------------------------------------------------------------------------------------

static uint64_t stos_run(struct x86_cpu *cpu, const struct string *s, uint64_t count)
{
    uint64_t di = reg_get(cpu, s, X86_RDI), n, value = cpu->gpr[X86_RAX];
    gva_t lin;
    uint8_t *dst;
    struct x86_tlb_entry *entry;
    if (!unlimited(cpu, X86_ES, X86_ACCESS_WRITE))
        return 0;
    lin = (cpu->seg[X86_ES].eff_base + di) & cpu->lin_mask;
    n = run_length(s, di, lin, count);
    if (n < 2)
        return 0;
    dst = x86_host_ptr(cpu, X86_ES, lin, X86_ACCESS_WRITE, &entry);
    if (!dst)
        return 0;
    if (s->size == 1) {
        memset(dst, (int)(uint8_t)value, n);
    } else {
        for (uint64_t i = 0; i < n; i++)
            memcpy(dst + i * s->size, &value, s->size);
    }
    x86_stored(cpu, entry, lin, (unsigned)(n * s->size));
    return n;
}
EXEC(stos)
{
    struct string s = string_begin(cpu, x);
    uint64_t n;
    if (nothing_to_do(cpu, &s))
        return;
    do {
        n = 0;
        if (s.rep && s.step > 0 && !cpu->stepping && !x86_debug_armed(cpu))
            n = stos_run(cpu, &s, reg_get(cpu, &s, X86_RCX));
        if (n == 0) {
            interp_write(cpu, X86_ES, reg_get(cpu, &s, X86_RDI), s.size,
                         interp_get(cpu, X86_RAX, s.size));
            n = 1;
        }
        reg_add(cpu, &s, X86_RDI, (int64_t)n * s.step);
    } while (!advance(cpu, &s, n));
}

// --- LODS, SCAS, CMPS --------------------------------------------------------------------------------------------

EXEC(lods)
{
    struct string s = string_begin(cpu, x);
    if (nothing_to_do(cpu, &s))
        return;
    do {
        uint64_t value = interp_read(cpu, x->seg, reg_get(cpu, &s, X86_RSI), s.size);
        interp_put(cpu, X86_RAX, s.size, value);
        reg_add(cpu, &s, X86_RSI, s.step);
    } while (!advance(cpu, &s, 1));
}
static void compare(struct x86_cpu *cpu, unsigned size, uint64_t a, uint64_t b)
{
    uint64_t r = a - b;
    x86_cc_set(cpu, size * 8, r, (~a & b) | ((~a | b) & r));
}
// REPE goes on while equal, REPNE while different.
static bool wrong_zf(struct x86_cpu *cpu, const struct x86_insn *x)
{
    if (x->prefixes & X86_PREFIX_REPNE)
        return x86_zf(cpu);
    return (x->prefixes & X86_PREFIX_REP) && !x86_zf(cpu);
}
// After one comparison: true when the instruction is over, by its result or as advance() says.
static bool advance_compared(struct x86_cpu *cpu, const struct x86_insn *x, const struct string *s)
{
    if (!wrong_zf(cpu, x))
        return advance(cpu, s, 1);
    reg_add(cpu, s, X86_RCX, -1);
    return true;
}
EXEC(scas)
{
    struct string s = string_begin(cpu, x);
    uint64_t a = interp_get(cpu, X86_RAX, s.size);
    if (nothing_to_do(cpu, &s))
        return;
    do {
        uint64_t b = interp_read(cpu, X86_ES, reg_get(cpu, &s, X86_RDI), s.size);
        compare(cpu, s.size, a, b);
        reg_add(cpu, &s, X86_RDI, s.step);
    } while (!advance_compared(cpu, x, &s));
}
EXEC(cmps)
{
    struct string s = string_begin(cpu, x);
    if (nothing_to_do(cpu, &s))
        return;
    do {
        // The order decides which operand faults: AMD's processors read ES:rDI first, save for REPE CMPSB.
        uint64_t a = 0, b;
        bool source_first = s.size == 1 && (x->prefixes & X86_PREFIX_REP);
        if (source_first)
            a = interp_read(cpu, x->seg, reg_get(cpu, &s, X86_RSI), s.size);
        b = interp_read(cpu, X86_ES, reg_get(cpu, &s, X86_RDI), s.size);
        if (!source_first)
            a = interp_read(cpu, x->seg, reg_get(cpu, &s, X86_RSI), s.size);
        compare(cpu, s.size, a, b);
        reg_add(cpu, &s, X86_RSI, s.step);
        reg_add(cpu, &s, X86_RDI, s.step);
    } while (!advance_compared(cpu, x, &s));
}

// --- INS, OUTS -----------------------------------------------------------------------------------------------------

// Ports are at most four bytes wide. Raises #GP(0) when this CPL may not use the port.
static struct string string_begin_io(struct x86_cpu *cpu, const struct x86_insn *x, uint16_t port)
{
    struct string s = string_begin(cpu, x);
    if (s.size > 4)
        s.size = 4;
    s.step = s.step < 0 ? -(int64_t)s.size : (int64_t)s.size;
    x86_check_io(cpu, port, s.size);
    x86_fpu_sync(cpu);
    return s;
}
EXEC(ins)
{
    uint16_t port = (uint16_t)cpu->gpr[X86_RDX];
    struct string s = string_begin_io(cpu, x, port);
    if (nothing_to_do(cpu, &s))
        return;
    do {
        uint64_t di = reg_get(cpu, &s, X86_RDI);
        x86_write_check(cpu, X86_ES, di, s.size); // a read from a port cannot be taken back
        interp_write(cpu, X86_ES, di, s.size, memory_pio_read(cpu->platform->memory, port, s.size));
        reg_add(cpu, &s, X86_RDI, s.step);
        if (unlikely(x86_debug_armed(cpu)))
            x86_debug_check_io(cpu, port, s.size);
    } while (!advance(cpu, &s, 1));
}
EXEC(outs)
{
    uint16_t port = (uint16_t)cpu->gpr[X86_RDX];
    struct string s = string_begin_io(cpu, x, port);
    if (nothing_to_do(cpu, &s))
        return;
    do {
        uint64_t value = interp_read(cpu, x->seg, reg_get(cpu, &s, X86_RSI), s.size);
        memory_pio_write(cpu->platform->memory, port, value, s.size);
        reg_add(cpu, &s, X86_RSI, s.step);
        if (unlikely(x86_debug_armed(cpu)))
            x86_debug_check_io(cpu, port, s.size);
    } while (!advance(cpu, &s, 1));
}

const struct exec_entry exec_string_entries[] = {
    EXEC_ENTRY(movs_Yb_Xb, movs),  EXEC_ENTRY(movs_Yv_Xv, movs),  EXEC_ENTRY(stos_Yb_AL, stos),
    EXEC_ENTRY(stos_Yv_rAX, stos), EXEC_ENTRY(lods_AL_Xb, lods),  EXEC_ENTRY(lods_rAX_Xv, lods),
    EXEC_ENTRY(scas_AL_Yb, scas),  EXEC_ENTRY(scas_rAX_Yv, scas), EXEC_ENTRY(cmps_Xb_Yb, cmps),
    EXEC_ENTRY(cmps_Xv_Yv, cmps),  EXEC_ENTRY(ins_Yb_DX, ins),    EXEC_ENTRY(ins_Yz_DX, ins),
    EXEC_ENTRY(outs_DX_Xb, outs),  EXEC_ENTRY(outs_DX_Xz, outs),  {0, NULL},
};
