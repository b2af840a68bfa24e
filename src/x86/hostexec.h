// SPDX-License-Identifier: Apache-2.0
// The host's own vector and x87 instructions, one at a time, on the guest's registers.
//
// A stub is a small host function: load the operands from where its pointers say, execute one
// instruction, store what it wrote. Stubs are shared by the whole process and are never freed:
// their number is bounded, because they know neither registers nor addresses of the guest
// (reencode.h).
//
// Rules to keep:
//  - Stub memory is mapped twice, writable and executable, never both.
//  - Between its fixed prologue and epilogue a stub executes only the instruction built from the
//    table.
//  - A stub touches no stack, so the signal handler may leave it at any instruction by a plain jump
//    to a `ret` with a trap code in RAX.
#pragma once

#include "base/error.h"
#include "x86/insn.h"
#include "x86/reencode.h"

// Prepares stub memory and the SIGFPE and SIGILL handlers (signals that are not ours go to the
// handlers that were there before). Any thread, any number of times. Returns 0, or -1 with err set.
int hostexec_init(struct error *err);

// Result of a stub: RFLAGS' SF ZF AF PF CF in bits 15:8 and OF in bit 0 when the instruction writes
// flags, else 0; or one of the traps, and then nothing was stored but MXCSR.
#define HOSTEXEC_TRAP_FP (UINT64_C(1) << 63) // unmasked SIMD floating-point exception
#define HOSTEXEC_TRAP_UD (UINT64_C(1) << 62) // the host lacks the instruction
typedef uint64_t hostexec_fn(void *op0, void *op1, void *op2, void *op3, uint32_t *mxcsr,
                             uint64_t *gpr);

// What must hold before the instruction executes.
#define HOSTEXEC_CHECK_SSE 1
#define HOSTEXEC_CHECK_AVX 2
#define HOSTEXEC_CHECK_MMX 4

struct hostexec_operand {
    uint16_t base; // pointer = cpu + base + ((byte `field` of the insn & mask) << shift)
    uint8_t field, mask, shift;
};

struct hostexec_stub {
    hostexec_fn *plain; // computes with the host's current MXCSR
    hostexec_fn *exact; // loads and stores *mxcsr around it; NULL when MXCSR does not matter
    uint64_t key;
    struct hostexec_operand operand[X86_HOST_OPERANDS];
    int8_t mem; // index of the memory operand, or -1
    uint8_t mem_size, mem_write, mem_align;
    uint8_t operand_count;
    uint8_t checks; // HOSTEXEC_CHECK_
    bool flags, mmx;
    uint8_t mmx_written; // 1 + index of the MMX register operand that is written, or 0
};

// Stub number (never 0) for an MMX, SSE or AVX instruction, built when it is new; 0 when it is not
// one that a stub can execute, the host lacks it, or memory is exhausted. Any thread.
uint32_t hostexec_stub_find(const struct x86_insn *insn);
extern struct hostexec_stub *hostexec_stubs; // by stub number

// One x87 instruction on the host's x87 unit. `opcode` is D8..DF; a memory operand is at *mem.
// `flags` (laid out as the result) is in RFLAGS before it; the result is as of a stub. The number
// is never 0 and is an index of hostexec_x87_code; 0: no such instruction. Control instructions are
// not among them.
typedef uint64_t hostexec_x87_fn(void *mem, uint64_t flags);
uint32_t hostexec_x87_find(uint8_t opcode, uint8_t modrm);
#define HOSTEXEC_X87_CODES (1 + 8 * 72)
extern hostexec_x87_fn *_Atomic hostexec_x87_code[HOSTEXEC_X87_CODES];

// Does the host execute what this feature promises? (Operating system support included.)
bool hostexec_has(unsigned feature); // enum x86_feature
// Bytes of stubs built so far.
size_t hostexec_code_used(void);
