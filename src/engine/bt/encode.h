// SPDX-License-Identifier: Apache-2.0
// One decoded guest instruction as one host instruction (64-bit mode) on other registers and memory.
//
// The bytes are built from the form's row in instructions.def, never from the guest's bytes: operand size,
// immediate, VEX.L and LOCK come from the decoded instruction, every register and the memory operand from the
// caller. Address size is always 64 bits, and nothing is RIP-relative. Where an encoding does not exist in
// 64-bit mode or names the accumulator implicitly, an equivalent one is used (ADD AL,Ib as 80 /0, INC 40+r as
// FF /0, XCHG 90+r as 87 /r, MOV moffs as 88..8B with the caller's memory operand); every NOP with operands,
// and ENDBR, becomes 90.
//
// What stays the caller's business:
//  - implicit registers (RAX and RDX of MUL and DIV, RAX of CMPXCHG, CL of shifts, RDX of MULX, RAX/RDX/RCX of
//    PCMPxSTRx: gpr_read and gpr_write of the form; XMM0 of the blends and of PCMPxSTRM) are the host's of the
//    same name; FNSTSW AX is encoded with reg 0 only;
//  - the width and alignment of what a memory operand touches, and BT Ev,Gv's bit offset beyond it;
//  - whether the host has the form's feature (without it LZCNT runs as BSR).
#pragma once

#include "x86/insn.h"

#define BT_REG_NONE 0xff
#define BT_ENCODE_MAX 16

struct bt_mem {          // a host memory operand
    uint8_t base, index; // host GPR 0..15 or BT_REG_NONE; index never 4 (a gather's: vector 0..15)
    uint8_t scale;       // shift 0..3
    bool gs;             // GS-relative; base and index NONE: absolute disp32
    int32_t disp;
};

// What replaces the guest's operands. GPR operands: 0..15. Byte operands: 0..15 low bytes, 16..19 AH CH DH BH.
// Vector and MMX operands: the register number as it is. ST(i) is always the guest's own.
struct bt_operands {
    uint8_t
        reg; // ModRM.reg; the register in the opcode (Zb, Zv); the accumulator of AL and rAX forms
    uint8_t rm; // ModRM.rm when mem is NULL; the accumulator of XCHG Zv,rAX
    uint8_t vvvv, is4;
    const struct bt_mem
        *mem; // NULL: register form. Need not be what the guest has, as long as the form
              // allows it.
};

// Bytes written (at most 15), or 0 when there is no such instruction: a form that is not to be emitted, or
// operands that do not go together (AH and a REX prefix, memory for a register-only operand...).
unsigned bt_encode(uint8_t out[BT_ENCODE_MAX], const struct x86_insn *x,
                   const struct bt_operands *o);
