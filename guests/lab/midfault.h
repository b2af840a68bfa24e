// SPDX-License-Identifier: Apache-2.0
// Random straight-line programs and a model of their instructions: what the files of the midfault guest share.
// midfault_gen.c makes programs, midfault_encode.c their machine code, midfault_model.c says what they do, which
// accesses they make in which order, and so where they fault when pages are missing.
//
// Rules to keep: no flag that the manuals leave undefined gets into a register, memory or a branch; a page may be
// missing only where the manuals say which access faults.
#pragma once

#include "stress.h"

#define PAGES 8u // of the region: data, then two of stack
#define STACK_PAGE 6u
#define ARITHMETIC (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)
#define INSNS_MAX 64u
#define EVENTS_MAX 400u

enum op {
    OP_ALU, // sub: ADD OR ADC SBB AND SUB XOR CMP
    OP_TEST,
    OP_UNARY, // sub: INC DEC NOT NEG
    OP_SHIFT, // sub: ROL ROR RCL RCR SHL SHR - SAR; RCx by 1 only
    OP_MOV,
    OP_MOVZX, // sub: 0 MOVZX, 1 MOVSX, from 8 bits (16 with `wide`)
    OP_LEA,
    OP_XCHG,
    OP_XADD,
    OP_CMPXCHG,
    OP_BT, // sub: 4 BT, BTS, BTR, BTC, by immediate
    OP_SETCC,
    OP_CMOV,
    OP_JCC, // skips the next instruction
    OP_PUSH,
    OP_POP,
    OP_SAHF,
    OP_FLAG,   // imm: the opcode, CMC CLC STC CLD STD
    OP_STRING, // imm: the opcode; sub: 0 alone, 1 REP or REPE, 2 REPNE
    OP_PUSHA,
    OP_POPA,
    OP_ENTER,
    OP_LEAVE,
    OP_CALL,    // to the next instruction
    OP_CALLM,   // the same by memory
    OP_RET,     // pops the address of the next instruction
    OP_FARCALL, // 32-bit flavour: to the next instruction
    OP_FARRET,
    OP_XMM,  // sub: 0 load, 1 store, 2 PADDD from memory, 3 PADDD of two registers
    OP_FILD, // ST0 from 64 bits of memory, FISTP into them
    OP_FISTP,
};
enum source {
    SRC_REG, // reg and rm or memory, rm the destination
    SRC_RM,  // rm or memory the source, reg the destination
    SRC_IMM
};
enum form { // of a memory operand
    FORM_BASE,
    FORM_INDEX,
    FORM_ABSOLUTE,
    FORM_RIP
};

struct insn {
    u8 op, sub, size, source;
    bool mem, lock, rex, wide;
    u8 reg, rm, base, index, scale, form, cc;
    ulong address; // that the operand has: the generator knows it
    int32_t disp;
    ulong imm;
    ulong ip, next; // where it lies
};

struct machine {
    ulong gpr[LAB_GPRS];
    u32 flags, undefined;
    u64 xmm[8][2];
    u64 st;
    bool st_full;
    u8 memory[PAGES * 4096] __attribute__((aligned(16)));
};

struct reach {
    ulong address;
    u8 size;
    bool write;
};

extern struct insn program[INSNS_MAX];
extern u32 program_count;
extern struct machine machine; // the model's
extern const ulong initial_gpr[LAB_GPRS];

static inline ulong size_mask(u32 size)
{
    return size == sizeof(ulong) ? ~(ulong)0 : ((ulong)1 << size * 8) - 1;
}
static inline bool in_region(ulong address, u32 size)
{
    return address >= STRESS_LINEAR && address + size <= STRESS_LINEAR + PAGES * 4096ul;
}
ulong memory_get(ulong address, u32 size);
void memory_put(ulong address, u32 size, ulong value);

void program_make(ulong at, u32 count, bool user); // midfault_gen.c
void insn_encode(struct insn *in);                 // midfault_encode.c: at stress_at
// The accesses that the instruction (one turn of a string instruction) makes before it changes anything, in order.
u32 insn_reaches(const struct insn *in, struct reach out[8]);
// Does it; false: a string instruction that has turns left. `skip`: the next instruction is jumped over.
bool insn_do(const struct insn *in, bool *skip);
const char *insn_name(const struct insn *in);
bool condition(u32 cc, u32 flags);
u32 condition_reads(u32 cc);
