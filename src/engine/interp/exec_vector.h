// SPDX-License-Identifier: Apache-2.0
// What the interpreter's vector and x87 files share: the checks that such instructions start with,
// and their memory operands.
#pragma once

#include "engine/interp/interp.h"
#include "x86/fpu.h"
#include "x86/hostexec.h"

#define X87_FSW_ES 0x0080
#define X87_FSW_B 0x8000

// The usual case of x86_check_*() inline; the function raises what is due.
ALWAYS_INLINE void vector_check_sse(struct x86_cpu *cpu)
{
    if (unlikely((cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)) != 0 || !(cpu->cr4 & X86_CR4_OSFXSR)))
        x86_check_sse(cpu);
}
ALWAYS_INLINE void vector_check_avx(struct x86_cpu *cpu)
{
    if (unlikely((cpu->cr0 & (X86_CR0_TS | X86_CR0_PE)) != X86_CR0_PE ||
                 !(cpu->cr4 & X86_CR4_OSXSAVE) || (cpu->xcr0 & 6) != 6 || x86_v86_mode(cpu)))
        x86_check_avx(cpu);
}
ALWAYS_INLINE void vector_check_mmx(struct x86_cpu *cpu)
{
    if (unlikely((cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)) != 0 || (cpu->x87.fsw & X87_FSW_ES)))
        x86_check_mmx(cpu);
}
ALWAYS_INLINE void vector_check_x87(struct x86_cpu *cpu, bool wait)
{
    if (unlikely((cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)) != 0 ||
                 (wait && (cpu->x87.fsw & X87_FSW_ES))))
        x86_check_x87(cpu, wait);
}

// Real processors (Zen 4) look at the alignment before the segment's limit: #GP, not #SS.
ALWAYS_INLINE void vector_check_align(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t ea,
                                      unsigned align)
{
    if (unlikely((cpu->seg[insn->seg].eff_base + ea) & (align - 1)))
        x86_raise_error(cpu, X86_GP, 0);
}

// The bytes of a memory operand: in guest memory itself when the TLB allows, else copied to
// `bounce`. `align`: #GP(0) unless the linear address is a multiple of it.
ALWAYS_INLINE void *vector_read_at(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t ea,
                                   unsigned size, unsigned align, void *bounce)
{
    vector_check_align(cpu, insn, ea, align);
    gva_t lin = x86_lin(cpu, insn->seg, ea, size, X86_ACCESS_READ);
    struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);
    if (x86_tlb_hit(e->tag_read, lin, size))
        return (void *)(lin + e->addend);
    x86_read_block_slow(cpu, insn->seg, lin, bounce, size);
    return bounce;
}
ALWAYS_INLINE void *vector_read(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size,
                                unsigned align, void *bounce)
{
    return vector_read_at(cpu, insn, interp_ea(cpu, insn), size, align, bounce);
}

// A memory operand to be written. begin() makes sure that it can be; the caller stores at the
// returned pointer; end() finishes the store (not called: nothing is stored, where `bounce` was
// returned).
struct vector_store {
    struct x86_tlb_entry *entry; // NULL: bounced
    gva_t lin;
    void *bounce;
};
ALWAYS_INLINE void *vector_store_begin(struct x86_cpu *cpu, const struct x86_insn *insn,
                                       uint64_t ea, unsigned size, unsigned align, void *bounce,
                                       struct vector_store *s)
{
    vector_check_align(cpu, insn, ea, align);
    s->lin = x86_lin(cpu, insn->seg, ea, size, X86_ACCESS_WRITE);
    s->entry = x86_tlb_entry(cpu, s->lin);
    if (x86_tlb_hit(s->entry->tag_write, s->lin, size))
        return (void *)(s->lin + s->entry->addend);
    x86_write_check_slow(cpu, insn->seg, s->lin, size);
    s->entry = NULL;
    s->bounce = bounce;
    return bounce;
}
ALWAYS_INLINE void vector_store_end(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size,
                                    struct vector_store *s)
{
    if (likely(s->entry != NULL))
        x86_stored(cpu, s->entry, s->lin, size);
    else
        x86_write_block_slow(cpu, insn->seg, s->lin, s->bounce, size);
}

// SIMD floating-point exception: #XM, or #UD where the guest has not announced a handler.
ALWAYS_INLINE void vector_check_trap(struct x86_cpu *cpu, uint64_t result)
{
    if (unlikely(result >> 62))
        x86_raise(cpu,
                  (result & HOSTEXEC_TRAP_FP) && (cpu->cr4 & X86_CR4_OSXMMEXCPT) ? X86_XM : X86_UD);
}

// After an MMX instruction executed: every register valid, TOP 0. `written` is the register it
// changed, or -1. The state must not be resident.
void vector_mmx_done(struct x86_cpu *cpu, int written);

interp_exec_fn *vector_select_move(const struct x86_insn *insn); // exec_vector_move.c
interp_exec_fn *vector_select_mask(const struct x86_insn *insn); // exec_vector_mask.c
interp_exec_fn *x87_select(struct x86_insn *insn);               // exec_x87.c
interp_exec_fn *x87_select_env(const struct x86_insn *insn);     // exec_x87_env.c

// The functions of exec_vector_move.c that hot_vector.c has a faster version of: loads and stores of 4, 8, 16
// or 32 bytes (_A: aligned), register copies, exclusive or of registers, general registers.
enum vector_move {
    VECTOR_MOVE_NONE,
    VECTOR_LOAD4_SSE,
    VECTOR_LOAD8_SSE,
    VECTOR_LOAD_SSE,
    VECTOR_LOAD_A_SSE,
    VECTOR_STORE4_SSE,
    VECTOR_STORE8_SSE,
    VECTOR_STORE_SSE,
    VECTOR_STORE_A_SSE,
    VECTOR_COPY_SSE,
    VECTOR_XOR_SSE,
    VECTOR_FROM_GPR4_SSE,
    VECTOR_FROM_GPR8_SSE,
    VECTOR_TO_GPR4_SSE,
    VECTOR_TO_GPR8_SSE,
    VECTOR_LOAD4_AVX,
    VECTOR_LOAD8_AVX,
    VECTOR_LOAD_AVX,
    VECTOR_LOAD_A_AVX,
    VECTOR_STORE4_AVX,
    VECTOR_STORE8_AVX,
    VECTOR_STORE_AVX,
    VECTOR_STORE_A_AVX,
    VECTOR_COPY_AVX,
    VECTOR_XOR_AVX,
    VECTOR_FROM_GPR4_AVX,
    VECTOR_FROM_GPR8_AVX,
    VECTOR_TO_GPR4_AVX,
    VECTOR_TO_GPR8_AVX,
    VECTOR_LOAD_YMM,
    VECTOR_LOAD_A_YMM,
    VECTOR_STORE_YMM,
    VECTOR_STORE_A_YMM,
    VECTOR_COPY_YMM,
    VECTOR_XOR_YMM,
    VECTOR_MOVES
};
enum vector_move vector_move_of(interp_exec_fn *fn);
