// SPDX-License-Identifier: Apache-2.0
// Machine code of the programs' instructions.
#include "midfault.h"

static void modrm(struct insn *in, u32 reg, u32 immediate_bytes)
{
    reg = reg << 3 & 0x38;
    if (!in->mem) {
        put8(0xc0 | reg | (in->rm & 7));
        return;
    }
    if (in->form == FORM_ABSOLUTE) {
        if (PROBE_LONG) {
            put8(reg | 4);
            put8(0x25);
        } else {
            put8(reg | 5);
        }
        put32((u32)in->address);
        return;
    }
    if (in->form == FORM_RIP) {
        put8(reg | 5);
        put32((u32)(in->address - ((ulong)stress_at + 4 + immediate_bytes)));
        return;
    }
    bool sib = in->form == FORM_INDEX || (in->base & 7) == 4;
    bool byte = in->disp >= -128 && in->disp <= 127;
    u32 mod = in->disp == 0 && (in->base & 7) != 5 ? 0 : byte ? 0x40 : 0x80;
    put8(mod | reg | (sib ? 4 : (in->base & 7u)));
    if (sib)
        put8((u32)in->scale << 6 | (in->form == FORM_INDEX ? in->index & 7u : 4) << 3 |
             (in->base & 7));
    if (mod == 0x40)
        put8((u32)in->disp);
    else if (mod == 0x80)
        put32((u32)in->disp);
}

// (`rex` tells the model whether byte registers 4 to 7 are SPL to DIL.)
static void prefixes(struct insn *in, u32 size, u32 must, u32 reg)
{
    if (in->lock)
        put8(0xf0);
    if (size == 2)
        put8(0x66);
    if (must)
        put8(must);
    u32 rex = (size == 8 ? 8 : 0) | (reg >= 8 ? 4 : 0);
    if (in->mem && in->form <= FORM_INDEX)
        rex |= (in->base >= 8 ? 1 : 0) | (in->form == FORM_INDEX && in->index >= 8 ? 2 : 0);
    else if (!in->mem)
        rex |= in->rm >= 8 ? 1 : 0;
    if (rex || in->rex) {
        put8(0x40 | rex);
        in->rex = true;
    }
}

// Opcode whose lowest bit tells bytes from larger operands.
static void usual(struct insn *in, u32 opcode, u32 reg, u32 immediate_bytes)
{
    prefixes(in, in->size, 0, reg);
    if (opcode > 0xff)
        put8(opcode >> 8);
    put8(opcode | (in->size > 1 ? 1 : 0));
    modrm(in, reg, immediate_bytes);
}

static void immediate(const struct insn *in, u32 bytes)
{
    for (u32 i = 0; i < bytes; i++)
        put8((u32)(in->imm >> i * 8));
}

static void push_like(struct insn *in, u32 reg_opcode, u32 mem_opcode, u32 digit)
{
    if (in->mem) {
        prefixes(in, 4, 0, 0);
        put8(mem_opcode);
        modrm(in, digit, 0);
    } else if (in->source == SRC_IMM) {
        put8(0x68);
        immediate(in, 4);
    } else {
        if (in->rm >= 8)
            put8(0x41);
        put8(reg_opcode + (in->rm & 7));
    }
}

void insn_encode(struct insn *in)
{
    u32 full = in->size > 4 ? 4 : in->size; // bytes of a full immediate
    in->ip = (ulong)stress_at;
    switch (in->op) {
    case OP_ALU:
        if (in->source == SRC_IMM) {
            bool small = in->size > 1 && (long)in->imm == (int8_t)in->imm;
            prefixes(in, in->size, 0, 0);
            put8(in->size == 1 ? 0x80 : small ? 0x83 : 0x81);
            modrm(in, in->sub, small ? 1 : full);
            immediate(in, small ? 1 : full);
        } else {
            usual(in, in->sub * 8u | (in->source == SRC_RM ? 2 : 0), in->reg, 0);
        }
        break;
    case OP_TEST:
        if (in->source == SRC_IMM) {
            usual(in, 0xf6, 0, full);
            immediate(in, full);
        } else {
            usual(in, 0x84, in->reg, 0);
        }
        break;
    case OP_UNARY:
        usual(in, in->sub < 2 ? 0xfe : 0xf6, in->sub, 0);
        break;
    case OP_SHIFT:
        if (in->imm == 1 && in->wide) {
            usual(in, 0xd0, in->sub, 0);
        } else {
            usual(in, 0xc0, in->sub, 1);
            immediate(in, 1);
        }
        break;
    case OP_MOV:
        if (in->source != SRC_IMM) {
            usual(in, in->source == SRC_RM ? 0x8a : 0x88, in->reg, 0);
        } else if (!in->mem && in->wide) { // the full word
            if (PROBE_LONG)
                put8(0x48 | (in->rm >= 8));
            put8(0xb8 | (in->rm & 7));
            immediate(in, sizeof(ulong));
        } else {
            usual(in, 0xc6, 0, full);
            immediate(in, full);
        }
        break;
    case OP_MOVZX:
        prefixes(in, in->size, 0, in->reg);
        put8(0x0f);
        put8(0xb6 | in->wide | in->sub << 3);
        modrm(in, in->reg, 0);
        break;
    case OP_LEA:
        prefixes(in, in->size, 0, in->reg);
        put8(0x8d);
        modrm(in, in->reg, 0);
        break;
    case OP_XCHG:
        usual(in, 0x86, in->reg, 0);
        break;
    case OP_XADD:
        usual(in, 0x0fc0, in->reg, 0);
        break;
    case OP_CMPXCHG:
        usual(in, 0x0fb0, in->reg, 0);
        break;
    case OP_BT:
        prefixes(in, in->size, 0, 0);
        put8(0x0f);
        put8(0xba);
        modrm(in, in->sub, 1);
        immediate(in, 1);
        break;
    case OP_SETCC:
        prefixes(in, 1, 0, 0);
        put8(0x0f);
        put8(0x90 | in->cc);
        modrm(in, 0, 0);
        break;
    case OP_CMOV:
        prefixes(in, in->size, 0, in->reg);
        put8(0x0f);
        put8(0x40 | in->cc);
        modrm(in, in->reg, 0);
        break;
    case OP_JCC: // the distance comes with the next instruction
        put8(0x70 | in->cc);
        put8(0);
        break;
    case OP_PUSH:
        push_like(in, 0x50, 0xff, 6);
        break;
    case OP_POP:
        push_like(in, 0x58, 0x8f, 0);
        break;
    case OP_SAHF:
        put8(0x9e);
        break;
    case OP_FLAG:
        put8((u32)in->imm);
        break;
    case OP_STRING:
        if (in->sub)
            put8(in->sub == 1 ? 0xf3 : 0xf2);
        prefixes(in, in->size, 0, 0);
        put8((u32)in->imm | (in->size > 1 ? 1 : 0));
        break;
    case OP_PUSHA:
        put8(0x60);
        break;
    case OP_POPA:
        put8(0x61);
        break;
    case OP_ENTER:
        put8(0xc8);
        put8((u32)in->imm);
        put8((u32)in->imm >> 8);
        put8(0);
        break;
    case OP_LEAVE:
        put8(0xc9);
        break;
    case OP_CALL:
        put8(0xe8);
        put32(0);
        break;
    case OP_CALLM:
        prefixes(in, 4, 0, 0);
        put8(0xff);
        modrm(in, 2, 0);
        break;
    case OP_RET:
        put8(0xc3);
        break;
    case OP_FARCALL:
        put8(0x9a);
        put32((u32)(ulong)stress_at + 6);
        put8((u32)in->imm);
        put8(0);
        break;
    case OP_FARRET:
        put8(0xcb);
        break;
    case OP_XMM:
        prefixes(in, 4, in->sub >= 2 ? 0x66 : 0, in->reg);
        put8(0x0f);
        put8(in->sub >= 2 ? 0xfe : in->sub == 1 ? 0x11 : 0x10);
        modrm(in, in->reg, 0);
        break;
    case OP_FILD:
    case OP_FISTP:
        prefixes(in, 4, 0, 0);
        put8(0xdf);
        modrm(in, in->op == OP_FILD ? 5 : 7, 0);
        break;
    }
    in->next = (ulong)stress_at;
}
