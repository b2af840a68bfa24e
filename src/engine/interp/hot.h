// SPDX-License-Identifier: Apache-2.0
// Building stones of threaded handlers: operand kinds, memory access, the eight arithmetic operations,
// conditions. Everything is inlined with constant sizes and kinds.
#pragma once

#include "engine/interp/block.h"
#include "x86/flags.h"

#define HANDLER(name) \
    static const struct interp_insn *name(struct x86_cpu *cpu, const struct interp_insn *insn)
// The last statement of a handler.
#define NEXT return insn[1].fn(cpu, insn + 1)

// Where the r/m operand is.
enum hot_kind {
    KIND_REG,
    KIND_FLAT,  // 64-bit code, no segment base: base + disp
    KIND_FLATX, // 64-bit code, no segment base: base + index * scale + disp
    KIND_SEG,   // everything else
    KIND_COUNT
};

ALWAYS_INLINE uint64_t *hot_reg64(struct x86_cpu *cpu, unsigned off)
{
    return (uint64_t *)((uint8_t *)cpu + off);
}
ALWAYS_INLINE uint64_t hot_get(struct x86_cpu *cpu, unsigned bits, unsigned off)
{
    uint8_t *p = (uint8_t *)cpu + off;
    switch (bits) {
    case 8:
        return *p;
    case 16:
        return *(uint16_t *)p;
    case 32:
        return *(uint32_t *)p;
    default:
        return *(uint64_t *)p;
    }
}
ALWAYS_INLINE void hot_put(struct x86_cpu *cpu, unsigned bits, unsigned off, uint64_t value)
{
    uint8_t *p = (uint8_t *)cpu + off;
    switch (bits) {
    case 8:
        *p = (uint8_t)value;
        break;
    case 16:
        *(uint16_t *)p = (uint16_t)value;
        break;
    case 32:
        *(uint64_t *)p = (uint32_t)value;
        break;
    default:
        *(uint64_t *)p = value;
    }
}
ALWAYS_INLINE uint64_t hot_host_load(unsigned bits, const void *p)
{
    uint8_t v8;
    uint16_t v16;
    uint32_t v32;
    uint64_t v64;
    switch (bits) {
    case 8:
        __builtin_memcpy(&v8, p, 1);
        return v8;
    case 16:
        __builtin_memcpy(&v16, p, 2);
        return v16;
    case 32:
        __builtin_memcpy(&v32, p, 4);
        return v32;
    default:
        __builtin_memcpy(&v64, p, 8);
        return v64;
    }
}
ALWAYS_INLINE void hot_host_store(unsigned bits, void *p, uint64_t value)
{
    __builtin_memcpy(p, &value, bits / 8); // little endian host
}

ALWAYS_INLINE uint64_t hot_ea(struct x86_cpu *cpu, const struct interp_insn *insn,
                              enum hot_kind kind)
{
    const uint64_t *slot = (const uint64_t *)cpu;
    uint64_t ea;
    if (kind == KIND_SEG) {
        const struct interp_detail *d = insn->detail;
        return (slot[insn->base] + (slot[insn->index] << insn->scale) + (uint64_t)d->disp) &
               d->ea_mask;
    }
    ea = slot[insn->base] + (uint64_t)(int64_t)insn->disp;
    if (kind == KIND_FLATX)
        ea += slot[insn->index] << insn->scale;
    return ea;
}
ALWAYS_INLINE gva_t hot_lin(struct x86_cpu *cpu, const struct interp_insn *insn, enum hot_kind kind,
                            unsigned bits, unsigned access)
{
    uint64_t ea = hot_ea(cpu, insn, kind);
    cpu->soft.insn = insn;
    return kind == KIND_SEG ? x86_lin(cpu, insn->seg, ea, bits / 8, access) : ea;
}

// Access by linear address; soft.insn must be set.
ALWAYS_INLINE uint64_t hot_load_lin(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned bits)
{
    struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);
    if (x86_tlb_hit(e->tag_read, lin, bits / 8))
        return hot_host_load(bits, (void *)(lin + e->addend));
    return x86_read_slow(cpu, seg, lin, bits / 8);
}
ALWAYS_INLINE void hot_store_lin(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned bits,
                                 uint64_t value)
{
    struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);
    if (x86_tlb_hit(e->tag_write, lin, bits / 8)) {
        hot_host_store(bits, (void *)(lin + e->addend), value);
        x86_stored(cpu, e, lin, bits / 8);
        return;
    }
    x86_write_slow(cpu, seg, lin, value, bits / 8);
}

ALWAYS_INLINE uint64_t hot_load(struct x86_cpu *cpu, const struct interp_insn *insn,
                                enum hot_kind kind, unsigned bits)
{
    if (kind == KIND_REG)
        return hot_get(cpu, bits, insn->rm);
    return hot_load_lin(cpu, insn->seg, hot_lin(cpu, insn, kind, bits, X86_ACCESS_READ), bits);
}
ALWAYS_INLINE void hot_store(struct x86_cpu *cpu, const struct interp_insn *insn,
                             enum hot_kind kind, unsigned bits, uint64_t value)
{
    if (kind == KIND_REG)
        hot_put(cpu, bits, insn->rm, value);
    else
        hot_store_lin(cpu, insn->seg, hot_lin(cpu, insn, kind, bits, X86_ACCESS_WRITE), bits,
                      value);
}

// Read, modify and write the r/m operand with r = expr(a). `OLD` is declared as the old value.
#define HOT_RMW(kind, bits, OLD, EXPR)                                                          \
    do {                                                                                        \
        if ((kind) == KIND_REG) {                                                               \
            uint64_t OLD = hot_get(cpu, bits, insn->rm);                                        \
            hot_put(cpu, bits, insn->rm, EXPR);                                                 \
        } else {                                                                                \
            gva_t rmw_lin = hot_lin(cpu, insn, kind, bits, X86_ACCESS_READ | X86_ACCESS_WRITE); \
            struct x86_tlb_entry *rmw_e = x86_tlb_entry(cpu, rmw_lin);                          \
            if (x86_tlb_hit(rmw_e->tag_write, rmw_lin, (bits) / 8)) {                           \
                void *rmw_host = (void *)(rmw_lin + rmw_e->addend);                             \
                uint64_t OLD = hot_host_load(bits, rmw_host);                                   \
                hot_host_store(bits, rmw_host, EXPR);                                           \
                x86_stored(cpu, rmw_e, rmw_lin, (bits) / 8);                                    \
            } else {                                                                            \
                struct x86_rmw rmw_m;                                                           \
                uint64_t OLD = hot_rmw_begin(cpu, &rmw_m, insn->seg, rmw_lin, bits);            \
                hot_rmw_end(cpu, &rmw_m, EXPR);                                                 \
            }                                                                                   \
        }                                                                                       \
    } while (0)

// Slow halves of HOT_RMW (hot_alu.c).
uint64_t hot_rmw_begin(struct x86_cpu *cpu, struct x86_rmw *m, unsigned seg, gva_t lin,
                       unsigned bits);
void hot_rmw_end(struct x86_cpu *cpu, struct x86_rmw *m, uint64_t value);

// --- arithmetic ----------------------------------------------------------------------------------------

enum hot_alu {
    ALU_ADD,
    ALU_OR,
    ALU_ADC,
    ALU_SBB,
    ALU_AND,
    ALU_SUB,
    ALU_XOR,
    ALU_CMP,
    ALU_COUNT
};

// Result and flags of one operation; bits of a and b above the operand size do not matter.
ALWAYS_INLINE uint64_t hot_alu(struct x86_cpu *cpu, enum hot_alu op, unsigned bits, uint64_t a,
                               uint64_t b)
{
    uint64_t r;
    switch (op) {
    case ALU_ADD:
        r = a + b;
        x86_cc_set(cpu, bits, r, (a & b) | ((a | b) & ~r));
        return r;
    case ALU_ADC:
        r = a + b + x86_cf(cpu);
        x86_cc_set(cpu, bits, r, (a & b) | ((a | b) & ~r));
        return r;
    case ALU_SUB:
    case ALU_CMP:
        r = a - b;
        x86_cc_set(cpu, bits, r, (~a & b) | ((~a | b) & r));
        return r;
    case ALU_SBB:
        r = a - b - x86_cf(cpu);
        x86_cc_set(cpu, bits, r, (~a & b) | ((~a | b) & r));
        return r;
    case ALU_AND:
        r = a & b;
        break;
    case ALU_OR:
        r = a | b;
        break;
    default:
        r = a ^ b;
        break;
    }
    x86_cc_logic(cpu, bits, r);
    return r;
}

// INC and DEC keep CF.
ALWAYS_INLINE uint64_t hot_incdec(struct x86_cpu *cpu, bool dec, unsigned bits, uint64_t a)
{
    bool cf = x86_cf(cpu);
    uint64_t r = hot_alu(cpu, dec ? ALU_SUB : ALU_ADD, bits, a, 1);
    x86_cc_set_cf_of(cpu, cf, x86_of(cpu));
    return r;
}

// SHL, SHR, SAR by 1..bits-1 or more (masked count), as the manual's 3-operand view: SDM vol. 2, SAL/SHR.
// A count of 0 changes no flag. AF is undefined: 1, as on AMD's processors.
enum hot_shift {
    SHIFT_SHL,
    SHIFT_SHR,
    SHIFT_SAR,
    SHIFT_COUNT
};

ALWAYS_INLINE uint64_t hot_shift(struct x86_cpu *cpu, enum hot_shift op, unsigned bits, uint64_t a,
                                 unsigned count)
{
    uint64_t r, msb = UINT64_C(1) << (bits - 1);
    bool cf, of;
    count &= bits == 64 ? 63 : 31;
    if (count == 0)
        return a;
    if (op == SHIFT_SHL) {
        uint64_t last = a << (count - 1); // the last bit that leaves is at the top
        cf = (last & msb) != 0;
        r = last << 1;
        of = ((r & msb) != 0) ^ cf;
    } else if (op == SHIFT_SHR) {
        uint64_t last = a >> (count - 1);
        cf = last & 1;
        r = last >> 1;
        of = (last & msb) != 0;
    } else {
        int64_t s = (int64_t)(a << (64 - bits)) >> (64 - bits);
        s >>= count - 1;
        cf = s & 1;
        r = (uint64_t)(s >> 1);
        of = false;
    }
    x86_cc_logic(cpu, bits, r);
    cpu->cc_aux |= X86_CC_AF;
    x86_cc_set_cf_of(cpu, cf, of);
    return r;
}

// --- conditions -------------------------------------------------------------------------------------------

// Condition `cc` as in the low four bits of the opcodes.
ALWAYS_INLINE bool hot_cond(const struct x86_cpu *cpu, unsigned cc)
{
    unsigned r; // not bool: no branches for `|`
    switch (cc >> 1) {
    case 0:
        r = x86_of(cpu);
        break;
    case 1:
        r = x86_cf(cpu);
        break;
    case 2:
        r = x86_zf(cpu);
        break;
    case 3:
        r = (unsigned)x86_cf(cpu) | x86_zf(cpu);
        break;
    case 4:
        r = x86_sf(cpu);
        break;
    case 5:
        r = x86_pf(cpu);
        break;
    case 6:
        r = x86_sf(cpu) ^ x86_of(cpu);
        break;
    default:
        r = (unsigned)x86_zf(cpu) | (x86_sf(cpu) ^ x86_of(cpu));
        break;
    }
    return r ^ (cc & 1);
}

// --- tables that select.c draws from -----------------------------------------------------------------------

// Index of an operand size: 0..3 for 8..64 bits.
#define HOT_SIZES 4
enum hot_shape { // of a two-operand instruction
    SHAPE_RR,    // rm <- rm op reg
    SHAPE_RI,    // rm <- rm op imm
    SHAPE_RM,    // reg <- reg op rm; 3 memory kinds
    SHAPE_MR = SHAPE_RM + 3,
    SHAPE_MI = SHAPE_MR + 3,
    SHAPE_COUNT = SHAPE_MI + 3
};
extern interp_fn *const hot_alu_table[ALU_COUNT][HOT_SIZES][SHAPE_COUNT];
extern interp_fn *const hot_test_table[HOT_SIZES][SHAPE_COUNT]; // no SHAPE_RM
extern interp_fn *const hot_incdec_table[2][HOT_SIZES][KIND_COUNT];
extern interp_fn *const hot_notneg_table[2][HOT_SIZES][KIND_COUNT];
extern interp_fn *const hot_shift_table[SHIFT_COUNT][2][HOT_SIZES][KIND_COUNT]; // [][by CL]
extern interp_fn *const hot_rotate_table[2][2][2];        // [ror][by CL][64], registers
extern interp_fn *const hot_imul_table[2][3][KIND_COUNT]; // [with imm][16, 32, 64]
extern interp_fn *const hot_mov_table[HOT_SIZES][SHAPE_COUNT];
extern interp_fn *const hot_mov_imm64;
extern interp_fn *const hot_extend_table[2][3][2][KIND_COUNT]; // [sign][to 16, 32, 64][from 8, 16]
extern interp_fn *const hot_movsxd_table[3][KIND_COUNT];       // to 16, 32 (moves), 64
extern interp_fn *const hot_lea_table[3][3];                   // [16, 32, 64][KIND_FLAT.. - 1]
extern interp_fn *const hot_cmov_table[16][3][KIND_COUNT];
extern interp_fn *const hot_set_table[16][KIND_COUNT];
extern interp_fn *const hot_jcc_table[16][2]; // [][64-bit code]
extern interp_fn *const hot_bt_table[2][2];   // [by imm][64], registers
enum hot_small {
    HOT_NOP,
    HOT_PUSH64,
    HOT_PUSH_IMM64,
    HOT_POP64,
    HOT_LEAVE64,
    HOT_CBW,
    HOT_CWDE,
    HOT_CDQE,
    HOT_CWD,
    HOT_CDQ,
    HOT_CQO,
    HOT_CLC,
    HOT_STC,
    HOT_CMC,
    HOT_CLD,
    HOT_STD,
    HOT_XCHG32,
    HOT_XCHG64,
    HOT_BSWAP32,
    HOT_BSWAP64,
    HOT_SMALLS
};
enum hot_branch {
    HOT_JMP_REL,
    HOT_JMP_REL64,
    HOT_CALL_REL64,
    HOT_RET64,
    HOT_BRANCHES
};
extern interp_fn *const hot_small_table[HOT_SMALLS];
extern interp_fn *const hot_branch_table[HOT_BRANCHES];
extern interp_fn *const hot_jmp_ind64[KIND_COUNT], *const hot_call_ind64[KIND_COUNT];
extern interp_fn *const hot_push_mem64[KIND_COUNT];

// hot_vector.c: the threaded handler for a vector instruction whose plain function is known, or NULL.
// memory_kind() has filled the memory operand.
interp_fn *hot_select_vector(struct interp_insn *insn, const struct interp_detail *detail,
                             enum hot_kind kind);
interp_fn *hot_select_x87(struct interp_insn *insn, const struct interp_detail *detail,
                          enum hot_kind kind);
