// SPDX-License-Identifier: Apache-2.0
// The reference interpreter, private header: what its files share.
//
// How it runs: instructions are decoded once into blocks (cache.c) of compact `struct interp_insn`, each
// with the function that executes it. A function of the common forms ends by calling the next
// instruction's function (a tail call); the last one returns to the loop (loop.c), which looks at events
// and finds the next block. All other forms are plain functions `void exec(cpu, insn)` behind a wrapper
// that brings cpu->rip, insn_rip and icount up to date first.
//
// Rules to keep:
//  - A handler changes nothing before its last possible fault.
//  - Between block boundaries cpu->rip lags: a threaded handler knows its address only as
//    soft.rip + insn->off. One that may fault sets cpu->soft.insn = insn before the access.
//  - In a plain function cpu->insn_rip is the instruction, cpu->rip the next one, both exact.
//  - A chain returns the instruction behind the last one that retired; cpu->rip is exact then.
#pragma once

#include "base/types.h"
#include "x86/insn.h"
#include "x86/mem.h"
#include "x86/state.h"
#include "x86/system.h"

// A plain function: executes one instruction. May raise.
typedef void interp_exec_fn(struct x86_cpu *cpu, const struct x86_insn *insn);

// The function for an x87, MMX, SSE or AVX instruction (exec_vector.c, exec_x87.c); NULL when the form is
// not one of theirs. `insn` is fully decoded, so the choice may depend on vex_l, vex_w, has_mem... Fills
// insn->aux, which the function wants to find there when it runs.
interp_exec_fn *interp_select_vector(struct x86_insn *insn);

// For plain functions: offset of the memory operand, truncated to the address size.
ALWAYS_INLINE uint64_t interp_ea(const struct x86_cpu *cpu, const struct x86_insn *insn)
{
    uint64_t ea = (uint64_t)insn->disp;
    if (insn->base == X86_REG_RIP)
        ea += cpu->rip;
    else if (insn->base != X86_REG_NONE)
        ea += cpu->gpr[insn->base & 15];
    if (insn->index != X86_REG_NONE)
        ea += cpu->gpr[insn->index & 15] << insn->scale;
    if (insn->adsize == 4)
        ea = (uint32_t)ea;
    else if (insn->adsize == 2)
        ea = (uint16_t)ea;
    return ea;
}

// General-purpose registers as operands. Byte registers 16..19 are AH CH DH BH.
ALWAYS_INLINE uint8_t interp_get8(const struct x86_cpu *cpu, unsigned reg)
{
    return reg < X86_REG8_HIGH ? (uint8_t)cpu->gpr[reg] : (uint8_t)(cpu->gpr[reg & 3] >> 8);
}
ALWAYS_INLINE void interp_put8(struct x86_cpu *cpu, unsigned reg, uint8_t value)
{
    if (reg < X86_REG8_HIGH)
        cpu->gpr[reg] = (cpu->gpr[reg] & ~UINT64_C(0xff)) | value;
    else
        cpu->gpr[reg & 3] = (cpu->gpr[reg & 3] & ~UINT64_C(0xff00)) | (uint64_t)value << 8;
}
// `size` 1, 2, 4 or 8; a 4-byte write clears the upper half.
ALWAYS_INLINE uint64_t interp_get(const struct x86_cpu *cpu, unsigned reg, unsigned size)
{
    switch (size) {
    case 1:
        return interp_get8(cpu, reg);
    case 2:
        return (uint16_t)cpu->gpr[reg];
    case 4:
        return (uint32_t)cpu->gpr[reg];
    default:
        return cpu->gpr[reg];
    }
}
ALWAYS_INLINE void interp_put(struct x86_cpu *cpu, unsigned reg, unsigned size, uint64_t value)
{
    switch (size) {
    case 1:
        interp_put8(cpu, reg, (uint8_t)value);
        break;
    case 2:
        cpu->gpr[reg] = (cpu->gpr[reg] & ~UINT64_C(0xffff)) | (uint16_t)value;
        break;
    case 4:
        cpu->gpr[reg] = (uint32_t)value;
        break;
    default:
        cpu->gpr[reg] = value;
    }
}
ALWAYS_INLINE uint64_t interp_read(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned size)
{
    switch (size) {
    case 1:
        return x86_read8(cpu, seg, off);
    case 2:
        return x86_read16(cpu, seg, off);
    case 4:
        return x86_read32(cpu, seg, off);
    default:
        return x86_read64(cpu, seg, off);
    }
}
ALWAYS_INLINE void interp_write(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned size,
                                uint64_t value)
{
    switch (size) {
    case 1:
        x86_write8(cpu, seg, off, (uint8_t)value);
        break;
    case 2:
        x86_write16(cpu, seg, off, (uint16_t)value);
        break;
    case 4:
        x86_write32(cpu, seg, off, (uint32_t)value);
        break;
    default:
        x86_write64(cpu, seg, off, value);
    }
}
// The r/m operand of `size` bytes.
ALWAYS_INLINE uint64_t interp_get_rm(struct x86_cpu *cpu, const struct x86_insn *insn,
                                     unsigned size)
{
    if (insn->has_mem)
        return interp_read(cpu, insn->seg, interp_ea(cpu, insn), size);
    return interp_get(cpu, insn->rm, size);
}
ALWAYS_INLINE void interp_put_rm(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size,
                                 uint64_t value)
{
    if (insn->has_mem)
        interp_write(cpu, insn->seg, interp_ea(cpu, insn), size, value);
    else
        interp_put(cpu, insn->rm, size, value);
}
