// SPDX-License-Identifier: Apache-2.0
// x87 instructions on the host's x87 unit.
//
// How it works: the guest's registers, control word and status word are loaded into the host's unit
// when the first instruction needs them and stay there (x86/fpu.h); each guest instruction then is
// one host instruction. Control instructions and environments are in exec_x87_env.c.
//
// Rules to keep:
//  - A host x87 trap never fires. The host's unit is never loaded while an exception is pending,
//    and as soon as an instruction leaves one pending (FSW.ES) the state goes back to struct
//    x86_cpu.
//  - cpu->x87.fcw is always current; cpu->x87.fsw while resident only in its ES bit, which is 0.
//  - The instruction and data pointers are kept here, not by the host: every instruction but the
//    control instructions sets FIP, FCS and FOP, one with a memory operand FDP and FDS too, pending
//    exception or not (as AMD's and older Intel processors do). FNSTENV and FNSAVE always store
//    them.

#include "engine/interp/exec_vector.h"
#include "x86/cpuid.h"
#include "x86/flags.h"

#include <string.h>

// Exceptions that keep a result from being stored when they are not masked: #I, #Z, #O, #U.
#define X87_NO_STORE 0x1d

ALWAYS_INLINE hostexec_x87_fn *code_of(const struct x86_insn *insn)
{
    return atomic_load_explicit(&hostexec_x87_code[insn->aux], memory_order_relaxed);
}

ALWAYS_INLINE void enter(struct x86_cpu *cpu)
{
    vector_check_x87(cpu, true);
    if (unlikely(!(cpu->fpu_resident & X86_FPU_X87)))
        x86_fpu_load_x87(cpu);
}

// After an instruction whose exceptions are not all masked: fetches FSW, gives the host's unit up
// when one is pending. Returns the unmasked exceptions of this instruction.
static NOINLINE unsigned fetch_pending(struct x86_cpu *cpu)
{
    uint16_t fsw;
    __asm__ volatile("fnstsw %0" : "=m"(fsw));
    if (!(fsw & X87_FSW_ES) && !cpu->fpu_ignored)
        return 0;
    x86_fpu_sync(cpu);
    if (cpu->fpu_ignored) { // passed with IGNNE#: they still pend
        cpu->x87.fsw |= (uint16_t)(X87_FSW_ES | X87_FSW_B | cpu->fpu_ignored);
        cpu->fpu_ignored = 0;
    }
    return fsw & ~cpu->x87.fcw & 0x3f;
}

ALWAYS_INLINE unsigned leave(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    struct x86_x87 *x = &cpu->x87;
    x->fop = (uint16_t)((insn->opcode & 7) << 8 | insn->modrm);
    x->fip = cpu->insn_rip;
    x->fcs = cpu->seg[X86_CS].sel;
    if (unlikely((x->fcw & 0x3f) != 0x3f))
        return fetch_pending(cpu);
    return 0;
}

ALWAYS_INLINE void record_data(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t ea)
{
    cpu->x87.fdp = ea;
    cpu->x87.fds = cpu->seg[insn->seg].sel;
}

// --- operands ------------------------------------------------------------------------------------

// Where the upper two bytes of an 80-bit operand are.
ALWAYS_INLINE uint64_t high_part(const struct x86_insn *insn, uint64_t ea)
{
    ea += 8;
    return insn->adsize == 8 ? ea : insn->adsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

ALWAYS_INLINE void exec_load(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
    uint8_t bounce[16];
    uint64_t ea = interp_ea(cpu, insn);
    vector_check_x87(cpu, true);
    void *p = bounce;
    if (size == 10) { // two accesses: the low part may fault before the high part is looked at
        uint64_t low = x86_read64(cpu, insn->seg, ea);
        uint16_t high = x86_read16(cpu, insn->seg, high_part(insn, ea));
        memcpy(bounce, &low, 8);
        memcpy(bounce + 8, &high, 2);
    } else {
        p = vector_read_at(cpu, insn, ea, size, 1, bounce);
    }
    enter(cpu);
    code_of(insn)(p, 0);
    record_data(cpu, insn, ea);
    leave(cpu, insn);
}

ALWAYS_INLINE void exec_store(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
    uint8_t bounce[16];
    struct vector_store store;
    uint64_t ea = interp_ea(cpu, insn);
    vector_check_x87(cpu, true);
    if (size == 10) {
        x86_write_check(cpu, insn->seg, ea, 8);
        x86_write_check(cpu, insn->seg, high_part(insn, ea), 2);
    }
    void *p = vector_store_begin(cpu, insn, ea, size, 1, bounce, &store);
    enter(cpu);
    code_of(insn)(p, 0);
    record_data(cpu, insn, ea);
    if (unlikely(leave(cpu, insn) & X87_NO_STORE))
        return; // the host did not store either
    vector_store_end(cpu, insn, size, &store);
}

#define DEFINE(name, call)                                             \
    static void name(struct x86_cpu *cpu, const struct x86_insn *insn) \
    {                                                                  \
        call;                                                          \
    }
DEFINE(load2, exec_load(cpu, insn, 2))
DEFINE(load4, exec_load(cpu, insn, 4))
DEFINE(load8, exec_load(cpu, insn, 8))
DEFINE(load10, exec_load(cpu, insn, 10))
DEFINE(store2, exec_store(cpu, insn, 2))
DEFINE(store4, exec_store(cpu, insn, 4))
DEFINE(store8, exec_store(cpu, insn, 8))
DEFINE(store10, exec_store(cpu, insn, 10))

static void exec_registers(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    enter(cpu);
    code_of(insn)(NULL, 0);
    leave(cpu, insn);
}

// FCMOVcc tests the guest's flags: the stub loads them into the host's.
static void exec_fcmov(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    enter(cpu);
    code_of(insn)(NULL, (x86_cc_get(cpu) & 0xd5) << 8);
    leave(cpu, insn);
}

// FCOMI and its like.
static void exec_fcomi(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    enter(cpu);
    uint64_t r = code_of(insn)(NULL, (x86_cc_get(cpu) & 0xd5) << 8 | x86_of(cpu));
    leave(cpu, insn);
    x86_cc_put(cpu, (uint32_t)((r >> 8 & 0xd5) | (r & 1) << 11));
}

static interp_exec_fn *select_memory(const struct x86_insn *insn)
{
    struct x86_operand_desc d = x86_insn_form(insn)->operand[0];
    bool store = d.rw & X86_RW_WRITE;
    switch (d.size) {
    case 2:
        return store ? store2 : load2;
    case 4:
        return store ? store4 : load4;
    case 8:
        return store ? store8 : load8;
    case 10:
        return store ? store10 : load10;
    default:
        return NULL;
    }
}

interp_exec_fn *x87_select(struct x86_insn *insn)
{
    const struct x86_form *form = x86_insn_form(insn);
    interp_exec_fn *fn = x87_select_env(insn);
    if (fn != NULL)
        return fn;
    insn->aux = hostexec_has(form->feature) ? hostexec_x87_find(insn->opcode, insn->modrm) : 0;
    if (insn->aux == 0)
        return NULL;
    if (insn->has_mem)
        return select_memory(insn);
    if (form->flags_read)
        return exec_fcmov;
    return form->flags_written ? exec_fcomi : exec_registers;
}
