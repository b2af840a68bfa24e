// SPDX-License-Identifier: Apache-2.0
// Helpers shared by the plain functions, and the list of them that exec_table.c turns into a table.
#pragma once

#include "engine/interp/interp.h"
#include "x86/flags.h"

#define EXEC(name) static void name(struct x86_cpu *cpu, const struct x86_insn *x)

ALWAYS_INLINE bool exec_is64(const struct x86_cpu *cpu)
{
    return cpu->code_size == X86_CODE64;
}
// Replaces ZF, keeps the other arithmetic flags.
ALWAYS_INLINE void exec_put_zf(struct x86_cpu *cpu, bool zf)
{
    x86_cc_put(cpu, (x86_cc_get(cpu) & ~X86_FLAG_ZF) | (zf ? X86_FLAG_ZF : 0));
}
ALWAYS_INLINE uint64_t exec_mask(unsigned size)
{
    return size == 8 ? ~UINT64_C(0) : (UINT64_C(1) << (size * 8)) - 1;
}

// --- the stack, in any mode -------------------------------------------------------------------------
ALWAYS_INLINE uint64_t exec_sp(const struct x86_cpu *cpu)
{
    return cpu->gpr[X86_RSP] & exec_mask(cpu->stack_size);
}
ALWAYS_INLINE void exec_set_sp(struct x86_cpu *cpu, uint64_t sp)
{
    interp_put(cpu, X86_RSP, cpu->stack_size, sp);
}
ALWAYS_INLINE void exec_push(struct x86_cpu *cpu, unsigned size, uint64_t value)
{
    uint64_t sp = (cpu->gpr[X86_RSP] - size) & exec_mask(cpu->stack_size);
    interp_write(cpu, X86_SS, sp, size, value);
    exec_set_sp(cpu, sp);
}

// Tables of plain functions by form, one per file; NULL where the form is not in it.
struct exec_entry {
    uint16_t form;
    interp_exec_fn *fn;
};
#define EXEC_ENTRY(form_name, fn) \
    {                             \
        X86_FORM_##form_name, fn  \
    }
extern const struct exec_entry exec_alu_entries[], exec_bits_entries[], exec_flow_entries[],
    exec_string_entries[], exec_system_entries[]; // each ends with a NULL fn
