// SPDX-License-Identifier: Apache-2.0
// The few host instructions that the translator writes by itself; guest instructions go through encode.h.
// Every function appends to the buffer; the caller sees to room (ASM_ROOM). Encodings: SDM vol. 2.
#pragma once

#include "base/types.h"
#include "engine/bt/encode.h"

enum host_reg {
    HOST_RAX,
    HOST_RCX,
    HOST_RDX,
    HOST_RBX,
    HOST_RSP,
    HOST_RBP,
    HOST_RSI,
    HOST_RDI,
    HOST_R8,
    HOST_R9,
    HOST_R10,
    HOST_R11,
    HOST_R12,
    HOST_R13,
    HOST_R14,
    HOST_R15,
};

// Condition codes as in the low bits of the opcodes.
enum host_cc {
    CC_O,
    CC_NO,
    CC_B,
    CC_AE,
    CC_E,
    CC_NE,
    CC_BE,
    CC_A,
    CC_S,
    CC_NS,
    CC_P,
    CC_NP,
    CC_L,
};

struct asm_buf {
    uint8_t *p; // where the next byte goes
};

ALWAYS_INLINE void asm8(struct asm_buf *b, uint8_t v)
{
    *b->p++ = v;
}
ALWAYS_INLINE void asm32(struct asm_buf *b, uint32_t v)
{
    __builtin_memcpy(b->p, &v, 4);
    b->p += 4;
}
ALWAYS_INLINE void asm64(struct asm_buf *b, uint64_t v)
{
    __builtin_memcpy(b->p, &v, 8);
    b->p += 8;
}

ALWAYS_INLINE struct bt_mem mem_gs(size_t offset)
{
    return (struct bt_mem){BT_REG_NONE, BT_REG_NONE, 0, true, (int32_t)offset};
}
ALWAYS_INLINE struct bt_mem mem_gs_at(unsigned reg, size_t offset)
{
    return (struct bt_mem){(uint8_t)reg, BT_REG_NONE, 0, true, (int32_t)offset};
}
ALWAYS_INLINE struct bt_mem mem_at(unsigned base, int64_t disp)
{
    return (struct bt_mem){(uint8_t)base, BT_REG_NONE, 0, false, (int32_t)disp};
}
ALWAYS_INLINE struct bt_mem mem_sum(unsigned base, unsigned index, unsigned scale, int64_t disp)
{
    return (struct bt_mem){(uint8_t)base, (uint8_t)index, (uint8_t)scale, false, (int32_t)disp};
}

// Opcode `op` (one byte, or 0F xx as 0x0fxx) with a memory operand.
static inline void asm_mem(struct asm_buf *b, bool w, unsigned op, unsigned reg, struct bt_mem m)
{
    bool has_base = m.base != BT_REG_NONE, has_index = m.index != BT_REG_NONE;
    unsigned rex = (w ? 8u : 0u) | (reg >= 8 ? 4u : 0u) | (has_index && m.index >= 8 ? 2u : 0u) |
                   (has_base && m.base >= 8 ? 1u : 0u);
    unsigned mod;
    if (m.gs)
        asm8(b, 0x65);
    if (rex)
        asm8(b, (uint8_t)(0x40 | rex));
    if (op > 0xff)
        asm8(b, (uint8_t)(op >> 8));
    asm8(b, (uint8_t)op);
    reg = (reg & 7) << 3;
    if (!has_base) {
        asm8(b, (uint8_t)(reg | 4));
        asm8(b, (uint8_t)(m.scale << 6 | (has_index ? m.index & 7 : 4) << 3 | 5));
        asm32(b, (uint32_t)m.disp);
        return;
    }
    mod = m.disp == 0 && (m.base & 7) != 5 ? 0 : m.disp == (int8_t)m.disp ? 1 : 2;
    if (has_index || (m.base & 7) == 4) {
        asm8(b, (uint8_t)(mod << 6 | reg | 4));
        asm8(b, (uint8_t)(m.scale << 6 | (has_index ? m.index & 7 : 4) << 3 | (m.base & 7)));
    } else {
        asm8(b, (uint8_t)(mod << 6 | reg | (m.base & 7)));
    }
    if (mod == 1)
        asm8(b, (uint8_t)m.disp);
    else if (mod == 2)
        asm32(b, (uint32_t)m.disp);
}
// Opcode with two registers: `reg` in ModRM.reg, `rm` in ModRM.rm.
static inline void asm_reg(struct asm_buf *b, bool w, unsigned op, unsigned reg, unsigned rm)
{
    unsigned rex = (w ? 8u : 0u) | (reg >= 8 ? 4u : 0u) | (rm >= 8 ? 1u : 0u);
    if (rex)
        asm8(b, (uint8_t)(0x40 | rex));
    if (op > 0xff)
        asm8(b, (uint8_t)(op >> 8));
    asm8(b, (uint8_t)op);
    asm8(b, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

static inline void asm_mov(struct asm_buf *b, unsigned dst, unsigned src)
{
    asm_reg(b, true, 0x89, src, dst);
}
static inline void asm_mov32(struct asm_buf *b, unsigned dst, unsigned src)
{
    asm_reg(b, false, 0x89, src, dst);
}
static inline void asm_load(struct asm_buf *b, unsigned reg, struct bt_mem m)
{
    asm_mem(b, true, 0x8b, reg, m);
}
static inline void asm_load32(struct asm_buf *b, unsigned reg, struct bt_mem m)
{
    asm_mem(b, false, 0x8b, reg, m);
}
static inline void asm_store(struct asm_buf *b, struct bt_mem m, unsigned reg)
{
    asm_mem(b, true, 0x89, reg, m);
}
static inline void asm_store32(struct asm_buf *b, struct bt_mem m, unsigned reg)
{
    asm_mem(b, false, 0x89, reg, m);
}
static inline void asm_store16(struct asm_buf *b, struct bt_mem m, unsigned reg)
{
    asm8(b, 0x66);
    if (m.gs) { // legacy prefixes come before REX in any order
        asm8(b, 0x65);
        m.gs = false;
    }
    asm_mem(b, false, 0x89, reg, m);
}
static inline void asm_lea(struct asm_buf *b, bool w, unsigned reg, struct bt_mem m)
{
    asm_mem(b, w, 0x8d, reg, m);
}
// reg = value, in the shortest encoding that leaves the flags alone.
static inline void asm_mov_imm(struct asm_buf *b, unsigned reg, uint64_t value)
{
    if (value <= UINT32_MAX) {
        if (reg >= 8)
            asm8(b, 0x41);
        asm8(b, (uint8_t)(0xb8 | (reg & 7)));
        asm32(b, (uint32_t)value);
    } else if ((int64_t)value == (int32_t)value) {
        asm_reg(b, true, 0xc7, 0, reg);
        asm32(b, (uint32_t)value);
    } else {
        asm8(b, reg >= 8 ? 0x49 : 0x48);
        asm8(b, (uint8_t)(0xb8 | (reg & 7)));
        asm64(b, value);
    }
}
// dword [m] = imm; qword [m] = sign-extended imm.
static inline void asm_store_imm(struct asm_buf *b, bool w, struct bt_mem m, int32_t imm)
{
    asm_mem(b, w, 0xc7, 0, m);
    asm32(b, (uint32_t)imm);
}
// ADD /0, OR /1, AND /4, SUB /5, CMP /7 with an immediate.
static inline void asm_alu_imm(struct asm_buf *b, bool w, unsigned op, unsigned reg, int32_t imm)
{
    bool small = imm == (int8_t)imm;
    asm_reg(b, w, small ? 0x83 : 0x81, op, reg);
    if (small)
        asm8(b, (uint8_t)imm);
    else
        asm32(b, (uint32_t)imm);
}
static inline void asm_alu_mem_imm(struct asm_buf *b, bool w, unsigned op, struct bt_mem m,
                                   int32_t imm, bool wide)
{
    bool small = !wide && imm == (int8_t)imm;
    asm_mem(b, w, small ? 0x83 : 0x81, op, m);
    if (small)
        asm8(b, (uint8_t)imm);
    else
        asm32(b, (uint32_t)imm);
}
static inline void asm_shift(struct asm_buf *b, bool w, unsigned op, unsigned reg, unsigned count)
{
    asm_reg(b, w, 0xc1, op, reg);
    asm8(b, (uint8_t)count);
}
static inline void asm_flags_save(struct asm_buf *b) // AX = flags
{
    asm8(b, 0x9f); // lahf
    asm8(b, 0x0f); // seto al
    asm8(b, 0x90);
    asm8(b, 0xc0);
}
static inline void asm_flags_load(struct asm_buf *b) // flags = AX, which loses its meaning
{
    asm8(b, 0x04); // add al, 7fh: OF = bit 0
    asm8(b, 0x7f);
    asm8(b, 0x9e); // sahf
}
// Branches to be patched or fixed up: return where the 32-bit displacement stands.
static inline uint8_t *asm_jmp(struct asm_buf *b)
{
    asm8(b, 0xe9);
    asm32(b, 0);
    return b->p - 4;
}
static inline uint8_t *asm_jcc(struct asm_buf *b, unsigned cc)
{
    asm8(b, 0x0f);
    asm8(b, (uint8_t)(0x80 | cc));
    asm32(b, 0);
    return b->p - 4;
}
static inline void asm_fix(uint8_t *field, const uint8_t *target)
{
    int32_t rel = (int32_t)(target - (field + 4));
    __builtin_memcpy(field, &rel, 4);
}
// Multi-byte NOPs, 1 to 9 bytes (SDM vol. 2, NOP).
static inline void asm_nop(struct asm_buf *b, unsigned n)
{
    static const uint8_t nops[9][9] = {{0x90},
                                       {0x66, 0x90},
                                       {0x0f, 0x1f, 0x00},
                                       {0x0f, 0x1f, 0x40, 0},
                                       {0x0f, 0x1f, 0x44, 0, 0},
                                       {0x66, 0x0f, 0x1f, 0x44, 0, 0},
                                       {0x0f, 0x1f, 0x80, 0, 0, 0, 0},
                                       {0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0},
                                       {0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}};
    while (n) {
        unsigned k = n > 9 ? 9 : n;
        __builtin_memcpy(b->p, nops[k - 1], k);
        b->p += k;
        n -= k;
    }
}
