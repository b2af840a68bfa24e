// SPDX-License-Identifier: Apache-2.0
// Faults in the middle: random straight-line programs whose pages are missing, read-only or the supervisor's. At each fault
// every register, the six flags, IP, CR2, the error code and the memory around the operand must be what the model
// says; then the page is given, others are taken, and the program goes on. Each program runs several times, first
// with all pages there, so that a translator has its code when the faults come.
#include "midfault.h"

#define CONTEXT 0x280000ul // 128 bytes that XMM registers come from, 128 that they go to
#define RESIDENT 5u        // pages that stay: an instruction needs at most four

enum {
    PAGE_RW,
    PAGE_ABSENT,
    PAGE_READ,
    PAGE_SUPERVISOR
};
static const u8 page_flags[] = {STRESS_RW, 0, PAGE_P | PAGE_U, PAGE_P | PAGE_W};

struct event {
    ulong gpr[LAB_GPRS], cr2;
    const struct insn *insn;
    u32 error, flags, undefined;
    bool loose, flush; // CR2 only to the page; INVLPG for what the fault brings in
    u8 page, taken, taken_as;
    u32 look; // offset of 16 bytes of memory
    u8 bytes[16];
};
static struct event events[EVENTS_MAX];
static u32 event_count, event_next;
static bool run_failed;
static u32 case_number, run_number;
static bool user;
static u32 faults;

static u8 page_state[PAGES], order[PAGES]; // order: present pages, the oldest first
static u32 order_count;

// --- the model's run -----------------------------------------------------------------------------------------

static bool page_fault(ulong address, const struct reach *r, u32 *error)
{
    u32 state = page_state[(address - STRESS_LINEAR) >> 12];
    u32 rights = (r->write ? 2 : 0) | (user ? 4 : 0);
    bool present = state != PAGE_ABSENT;
    *error = rights | present;
    return !present || (state == PAGE_READ && r->write) || (state == PAGE_SUPERVISOR && user);
}

static bool reach_fault(const struct reach *r, ulong *cr2, u32 *error)
{
    ulong last = r->address + r->size - 1;
    *cr2 = r->address;
    if (page_fault(r->address, r, error))
        return true;
    *cr2 = last & ~0xffful;
    return (last ^ r->address) >> 12 && page_fault(last, r, error);
}

static void page_take(struct event *e)
{
    u32 page = (u32)((e->cr2 - STRESS_LINEAR) >> 12);
    e->page = (u8)page;
    e->taken = 0xff;
    e->flush = stress_chance(50) || page_state[page] != PAGE_ABSENT;
    page_state[page] = PAGE_RW;
    u32 n = 0;
    for (u32 i = 0; i < order_count; i++)
        if (order[i] != page)
            order[n++] = order[i];
    order[n++] = (u8)page;
    order_count = n;
    if (n <= RESIDENT)
        return;
    e->taken = order[0];
    e->taken_as = (u8)(1 + stress_below(user ? 3 : 2));
    if (!user && !PROBE_LONG && e->taken >= STACK_PAGE)
        e->taken_as = PAGE_RW;
    page_state[e->taken] = e->taken_as;
    order_count--;
    for (u32 i = 0; i < order_count; i++)
        order[i] = order[i + 1];
}

static bool foresee(const struct insn *in, const struct reach *r, u32 n)
{
    for (u32 i = 0; i < n; i++) {
        struct event *e = &events[event_count];
        if (!reach_fault(&r[i], &e->cr2, &e->error))
            continue;
        if (event_count + 1 == EVENTS_MAX)
            return false;
        event_count++;
        for (u32 g = 0; g < LAB_GPRS; g++)
            e->gpr[g] = machine.gpr[g];
        e->insn = in;
        e->flags = machine.flags;
        e->undefined = machine.undefined;
        e->loose = in->op == OP_PUSHA || in->op == OP_POPA || in->op == OP_FARCALL ||
                   in->op == OP_FARRET || in->op == OP_ENTER;
        e->look = (u32)((in->mem ? in->address : r[i].address) - STRESS_LINEAR) & ~7u;
        if (e->look > sizeof(machine.memory) - 16)
            e->look = sizeof(machine.memory) - 16;
        for (u32 b = 0; b < 16; b++)
            e->bytes[b] = machine.memory[e->look + b];
        page_take(e);
        i = ~0u; // from the start
    }
    return true;
}

static struct {
    u32 offset, size;
} written[1024];
static u32 written_count;

// False: too many events.
static bool model_run(u32 flags)
{
    for (u32 i = 0; i < LAB_GPRS; i++)
        machine.gpr[i] = initial_gpr[i];
    for (u32 i = 0; i < 8; i++)
        for (u32 k = 0; k < 2; k++)
            machine.xmm[i][k] = ((const u64 *)CONTEXT)[i * 2 + k];
    machine.flags = 2 | flags;
    machine.undefined = 0;
    event_count = written_count = 0;
    bool skip = false, room = true;
    for (u32 i = 0; i < program_count && room; i++) {
        const struct insn *in = &program[i];
        struct reach r[8];
        bool done = skip;
        skip = false;
        while (!done) {
            u32 n = insn_reaches(in, r);
            if (!foresee(in, r, n))
                return false;
            for (u32 k = 0; k < n; k++)
                if (r[k].write && written_count < 1024) { // (ENTER's second only looks)
                    written[written_count].offset = (u32)(r[k].address - STRESS_LINEAR);
                    written[written_count++].size = r[k].size;
                }
            done = insn_do(in, &skip);
        }
    }
    return true;
}

// --- the processor's ----------------------------------------------------------------------------------------

static void tell(const struct insn *in, const char *what, u64 got, u64 want)
{
    run_failed = true;
    if (!stress_tell())
        return;
    lab_print("note: case %u run %u ring %u event %u: %s (%u) at %lx, size %u, bytes", case_number,
              run_number, user ? 3u : 0u, event_next, in ? insn_name(in) : "end",
              in ? (u32)(in - program) : 0, in ? in->ip : 0, in ? in->size : 0);
    for (ulong at = in ? in->ip : 0; in && at < in->next; at++)
        lab_print(" %02x", *(const u8 *)at);
    lab_print(": %s: got %llx, want %llx\n", what, got, want);
}

static bool agree(const struct insn *in, const char *what, u64 got, u64 want)
{
    if (got != want)
        tell(in, what, got, want);
    return got == want;
}

static bool state_agrees(const struct insn *in, const struct lab_trap *t, const ulong *gpr,
                         u32 flags, u32 undefined)
{
    static const char *const names[] = {"ax", "cx", "dx",  "bx",  "sp",  "bp",  "si",  "di",
                                        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    bool ok = true;
    faults++;
    for (u32 i = 0; i < LAB_GPRS; i++)
        ok = agree(in, names[i], t->gpr[i], gpr[i]) && ok;
    return agree(in, "flags", t->flags & ~undefined, (flags | FLAG_RF) & ~undefined) && ok;
}

static bool page_fault_came(struct lab_trap *t)
{
    struct event *e = &events[event_next];
    bool ok;

    if (event_next == event_count) {
        tell(NULL, "a page fault more than there should be, at", t->cr2, t->ip);
        return false;
    }
    ok = agree(e->insn, "ip", t->ip, e->insn->ip);
    ok = agree(e->insn, "error", t->error, e->error) && ok;
    ok = agree(e->insn, "cr2", t->cr2 >> (e->loose ? 12 : 0), e->cr2 >> (e->loose ? 12 : 0)) && ok;
    // (POPA on AMD's processors keeps what it has loaded; all comes again.)
    if (e->insn->op != OP_POPA)
        ok = state_agrees(e->insn, t, e->gpr, e->flags, e->undefined) && ok;
    else
        ok = agree(e->insn, "sp", t->sp, e->gpr[4]) && ok;
    const u8 *at = stress_physical(0) + e->look;
    bool same = true;
    for (u32 b = 0; b < 16; b++)
        same = same && at[b] == e->bytes[b];
    // (What a larger push stores before the fault is below the stack pointer.)
    if (!e->loose)
        ok = agree(e->insn, "memory as before", same, 1) && ok;
    if (e->flush)
        stress_page(e->page, e->page, STRESS_RW);
    else
        stress_page_quietly(e->page, e->page, STRESS_RW);
    if (e->taken != 0xff)
        stress_page(e->taken, e->taken, page_flags[e->taken_as]);
    if (event_next++ & 1)
        lab_set_flags(t, t->flags & ~(ulong)FLAG_RF);
    return ok;
}

static void memory_compare(u32 offset, u32 size, const ulong *sp)
{
    for (u32 i = offset; i < offset + size; i++) {
        if (sp && STRESS_LINEAR + i < *sp && i >= STACK_PAGE * 4096)
            continue; // the exceptions' frames
        if (stress_physical(0)[i] != machine.memory[i]) {
            tell(NULL, "memory at", STRESS_LINEAR + i, machine.memory[i]);
            return;
        }
    }
}

static void xmm_code(u32 opcode, ulong address)
{
    for (u32 i = 0; stress_sse && i < 8; i++) {
        put8(0x0f);
        put8(opcode);
        put8(PROBE_LONG ? i << 3 | 4 : i << 3 | 5);
        if (PROBE_LONG)
            put8(0x25);
        put32((u32)address + i * 16);
    }
}

static void pages_prepare(void)
{
    order_count = 0;
    for (u32 i = 0; i < PAGES; i++) {
        u32 state = run_number < 2 ? (u32)PAGE_RW : stress_below(user ? 4 : 3);
        bool fixed = !user && !PROBE_LONG && i >= STACK_PAGE;
        if (order_count >= RESIDENT && run_number >= 2 && state == PAGE_RW && !fixed)
            state = PAGE_ABSENT;
        if (fixed)
            state = PAGE_RW;
        page_state[i] = (u8)state;
        if (state == PAGE_RW && !fixed)
            order[order_count++] = (u8)i;
        stress_page(i, i, page_flags[state]);
    }
}

static bool run(ulong code, u32 flags)
{
    struct lab_state s;

    pages_prepare();
    event_next = 0;
    run_failed = false;
    if (!model_run(flags))
        return false;
    s = (struct lab_state){.ip = code,
                           .cs = user ? SEL_CODE3 : SEL_CODE0,
                           .flags = 2 | flags,
                           .sp = initial_gpr[4],
                           .ss = user ? SEL_DATA3 : SEL_DATA0};
    s.ds = s.es = s.fs = s.gs = s.ss;
    for (u32 i = 0; i < LAB_GPRS; i++)
        s.gpr[i] = initial_gpr[i];
    const struct lab_trap *t = lab_enter(&s);
    if (t && t->vector == 0xffff)
        return false;
    if (!run_failed) {
        if (!t || t->vector != VEC_UD || t->ip != (ulong)stress_at)
            tell(NULL, "ended by vector, at", t ? t->vector : 999, t ? t->ip : 0);
        else
            state_agrees(NULL, t, machine.gpr, machine.flags, machine.undefined);
        agree(NULL, "faults", event_next, event_count);
        const ulong *sp = user || PROBE_LONG ? NULL : &machine.gpr[4];
        for (u32 i = 0; i < written_count; i++)
            memory_compare(written[i].offset, written[i].size, sp);
        for (u32 i = 0; stress_sse && i < 16; i++)
            agree(NULL, "xmm", ((const u64 *)CONTEXT)[16 + i], machine.xmm[i / 2][i & 1]);
        if (stress_chance(3))
            memory_compare(0, sizeof(machine.memory), sp);
    }
    stress_check(!run_failed);
    return true;
}

static void resynchronise(u32 from)
{
    for (u32 i = from; i < sizeof(machine.memory); i += sizeof(ulong))
        *(ulong *)(machine.memory + i) = *(ulong *)(stress_physical(0) + i);
}

static void programs(u32 cases)
{
    for (u32 i = 0; i < cases; i++, case_number++) {
        ulong code = STRESS_CODE + (case_number & 15) * 0x1800 + stress_below(0x800);
        stress_at = (u8 *)code;
        put8(0xdb); // FNINIT
        put8(0xe3);
        xmm_code(0x10, CONTEXT);
        program_make((ulong)stress_at, 6 + stress_below(24), user);
        xmm_code(0x11, CONTEXT + 128);
        u8 *end = stress_at;
        put8(0x0f);
        put8(0x0b);
        stress_at = end;
        resynchronise(0); // the generator's model has run
        for (u32 n = 0; n < 7; n++) {
            run_number = n;
            u32 flags = 0;
            for (u32 bit = 0; bit < 12; bit++)
                flags |= ARITHMETIC & 1u << bit && stress_chance(50) ? 1u << bit : 0;
            if (!run(code, flags) || run_failed)
                resynchronise(0);
            else if (!user && !PROBE_LONG) // the exceptions' frames
                resynchronise(STACK_PAGE * 4096);
        }
    }
}

static void ring(bool three, const char *name, u32 cases)
{
    lab_section(name);
    user = three;
#ifdef __x86_64__
    static u8 stack[4096] __attribute__((aligned(16)));
    lab_tss.ist[0] = (ulong)stack + sizeof(stack);
    if (!user)
        lab_gate_set(&lab_idt[VEC_PF], (ulong)lab_stubs + VEC_PF * 16, SEL_CODE0, 0x8e, 1);
    if (!user)
        lab_gate_set(&lab_idt[VEC_UD], (ulong)lab_stubs + VEC_UD * 16, SEL_CODE0, 0x8e, 1);
#endif
    programs(stress_cases(cases));
    lab_gate_default(VEC_PF);
    lab_gate_default(VEC_UD);
}

int main(void)
{
    stress_begin();
    for (u32 i = 0; i < sizeof(machine.memory); i += 4)
        *(u32 *)(stress_physical(0) + i) = (u32)stress_word();
    for (u32 i = 0; i < 64; i++)
        ((u32 *)CONTEXT)[i] = stress_random();
    lab_handler[VEC_PF] = page_fault_came;
    ring(true, "ring 3", 1500);
    ring(false, "ring 0", 1200);
    lab_note("%u states compared", faults);
    return 0;
}
