// SPDX-License-Identifier: Apache-2.0
// Lazy arithmetic flags. After an operation the processor keeps its result and its carries; a flag is
// computed when somebody asks.
//
//   cc_res  the result, sign-extended to 64 bits.   ZF = (cc_res == 0)
//   cc_aux  bit 63     CF: carry (borrow) out of the most significant bit
//           bit 62     carry into the most significant bit;  OF = bit 63 ^ bit 62
//           bit 3      AF: carry out of bit 3
//           bit 0      SF = (cc_res >> 63) ^ bit 0   (0 after any arithmetic)
//           bits 15:8  PF = even parity of (cc_res ^ (cc_aux >> 8)) & 0xff   (0 after any arithmetic)
//
// Flags that the manuals leave undefined become what AMD's processors make of them; tests/oracle/undefined.c
// lists them, and the laboratory counts where a host differs.
//
// Carry-out vectors: add  (a & b) | ((a | b) & ~r);   sub  (~a & b) | ((~a | b) & r).
#pragma once

#include "x86/state.h"

#define X86_CC_AF 8u // in cc_aux

ALWAYS_INLINE bool x86_cf(const struct x86_cpu *cpu)
{
    return cpu->cc_aux >> 63;
}
ALWAYS_INLINE bool x86_of(const struct x86_cpu *cpu)
{
    return ((cpu->cc_aux >> 63) ^ (cpu->cc_aux >> 62)) & 1;
}
ALWAYS_INLINE bool x86_af(const struct x86_cpu *cpu)
{
    return (cpu->cc_aux >> 3) & 1;
}
ALWAYS_INLINE bool x86_zf(const struct x86_cpu *cpu)
{
    return cpu->cc_res == 0;
}
ALWAYS_INLINE bool x86_sf(const struct x86_cpu *cpu)
{
    return ((cpu->cc_res >> 63) ^ cpu->cc_aux) & 1;
}
ALWAYS_INLINE bool x86_pf(const struct x86_cpu *cpu)
{
    return !__builtin_parity((unsigned)((cpu->cc_res ^ (cpu->cc_aux >> 8)) & 0xff));
}

// `bits` is 8, 16, 32 or 64 (a constant after inlining); carries is the carry-out vector.
ALWAYS_INLINE void x86_cc_set(struct x86_cpu *cpu, unsigned bits, uint64_t result, uint64_t carries)
{
    cpu->cc_res = (uint64_t)((int64_t)(result << (64 - bits)) >> (64 - bits));
    cpu->cc_aux = ((carries << (64 - bits)) & (UINT64_C(3) << 62)) | (carries & 8);
}
// After AND, OR, XOR, TEST: CF = OF = 0 (AF undefined: 0).
ALWAYS_INLINE void x86_cc_logic(struct x86_cpu *cpu, unsigned bits, uint64_t result)
{
    cpu->cc_res = (uint64_t)((int64_t)(result << (64 - bits)) >> (64 - bits));
    cpu->cc_aux = 0;
}
// Changes CF and OF, keeps the other four.
ALWAYS_INLINE void x86_cc_set_cf_of(struct x86_cpu *cpu, bool cf, bool of)
{
    cpu->cc_aux =
        (cpu->cc_aux & ~(UINT64_C(3) << 62)) | ((uint64_t)cf << 63) | ((uint64_t)(cf ^ of) << 62);
}

// The six arithmetic flags at their places in RFLAGS.
static inline uint32_t x86_cc_get(const struct x86_cpu *cpu)
{
    return (x86_cf(cpu) ? X86_FLAG_CF : 0) | (x86_pf(cpu) ? X86_FLAG_PF : 0) |
           (x86_af(cpu) ? X86_FLAG_AF : 0) | (x86_zf(cpu) ? X86_FLAG_ZF : 0) |
           (x86_sf(cpu) ? X86_FLAG_SF : 0) | (x86_of(cpu) ? X86_FLAG_OF : 0);
}
// Sets all six from RFLAGS bits, any combination.
static inline void x86_cc_put(struct x86_cpu *cpu, uint32_t flags)
{
    bool cf = flags & X86_FLAG_CF, of = flags & X86_FLAG_OF, zf = flags & X86_FLAG_ZF;
    cpu->cc_res = zf ? 0 : 0x100; // low byte 0: even parity, sign 0
    cpu->cc_aux = ((uint64_t)cf << 63) | ((uint64_t)(cf ^ of) << 62) |
                  ((flags & X86_FLAG_AF) ? 8 : 0) | ((flags & X86_FLAG_SF) ? 1 : 0) |
                  ((flags & X86_FLAG_PF) ? 0 : 0x100);
}

static inline uint64_t x86_get_rflags(const struct x86_cpu *cpu)
{
    return cpu->rflags | x86_cc_get(cpu) | X86_FLAG_R1;
}
// Sets all of RFLAGS as given (no privilege rule). Calls x86_mode_changed() when AC or VM changed.
void x86_set_rflags(struct x86_cpu *cpu, uint64_t rflags);
