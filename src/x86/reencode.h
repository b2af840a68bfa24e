// SPDX-License-Identifier: Apache-2.0
// A guest's vector instruction as a host instruction on registers and a pointer of our choice.
//
// The k-th operand (immediates not counted) becomes, whatever the guest named:
//   vector register  xmm/ymm k+1      implicit XMM0  xmm0
//   MMX register     mm k+1           general register  rax
//   memory           [rdi], [rsi], [rdx] or [rcx] for k = 0..3
// so the bytes depend on the form, VEX.L, W, register or memory, and the immediate only: there is a
// bounded number of them. They are built from the table, never from the guest's bytes.
#pragma once

#include "x86/insn.h"

#define X86_HOST_OPERANDS 4

enum x86_host_kind {
    X86_HOST_VEC,
    X86_HOST_MMX,
    X86_HOST_GPR,
    X86_HOST_MEM
};

struct x86_host_operand {
    uint8_t kind;  // enum x86_host_kind
    uint8_t rw;    // X86_RW_
    uint8_t reg;   // host register (xmm, mm) where it is one
    uint8_t size;  // bytes of a memory operand
    uint8_t field; // offset in struct x86_insn of the byte with the guest's register number
    uint8_t mask;  // of that byte: 7, 15, or 0 for the implicit XMM0
};

struct x86_host_insn {
    uint8_t bytes[16];
    uint8_t len;
    bool vex, vex_l, w;
    uint8_t operand_count;
    int8_t mem; // index of the memory operand, or -1
    struct x86_host_operand operand[X86_HOST_OPERANDS];
};

// The host register that points at operand k: 7 (rdi), 6 (rsi), 2 (rdx), 1 (rcx).
unsigned x86_host_pointer(unsigned k);
// False when the form is not an MMX, SSE or AVX instruction of the usual shape.
bool x86_reencode(struct x86_host_insn *out, const struct x86_insn *insn);
