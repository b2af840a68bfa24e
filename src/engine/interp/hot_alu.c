// SPDX-License-Identifier: Apache-2.0
// Threaded handlers: the eight arithmetic operations, TEST, INC, DEC, NOT, NEG, shifts, rotates, IMUL, BT.
#include "engine/interp/hot.h"

uint64_t hot_rmw_begin(struct x86_cpu *cpu, struct x86_rmw *m, unsigned seg, gva_t lin,
                       unsigned bits)
{
    m->lin = lin;
    m->size = bits / 8;
    m->seg = seg;
    x86_rmw_begin_slow(cpu, m, seg, lin, bits / 8);
    return m->host ? hot_host_load(bits, m->host) : x86_rmw_load(cpu, m);
}

void hot_rmw_end(struct x86_cpu *cpu, struct x86_rmw *m, uint64_t value)
{
    if (m->host)
        hot_host_store(m->size * 8, m->host, value);
    else
        x86_rmw_store(cpu, m, value);
    x86_rmw_end(cpu, m);
}

// --- two operands -------------------------------------------------------------------------------------------

#define IMM ((uint64_t)(int64_t)insn->imm)

#define ALU_REGS(op, OP, bits)                                                                   \
    HANDLER(op##bits##_rr)                                                                       \
    {                                                                                            \
        uint64_t r =                                                                             \
            hot_alu(cpu, OP, bits, hot_get(cpu, bits, insn->rm), hot_get(cpu, bits, insn->reg)); \
        if (OP != ALU_CMP)                                                                       \
            hot_put(cpu, bits, insn->rm, r);                                                     \
        NEXT;                                                                                    \
    }                                                                                            \
    HANDLER(op##bits##_ri)                                                                       \
    {                                                                                            \
        uint64_t r = hot_alu(cpu, OP, bits, hot_get(cpu, bits, insn->rm), IMM);                  \
        if (OP != ALU_CMP)                                                                       \
            hot_put(cpu, bits, insn->rm, r);                                                     \
        NEXT;                                                                                    \
    }
#define ALU_MEM(op, OP, bits, K)                                               \
    HANDLER(op##bits##_rm_##K)                                                 \
    {                                                                          \
        uint64_t b = hot_load(cpu, insn, K, bits);                             \
        uint64_t r = hot_alu(cpu, OP, bits, hot_get(cpu, bits, insn->reg), b); \
        if (OP != ALU_CMP)                                                     \
            hot_put(cpu, bits, insn->reg, r);                                  \
        NEXT;                                                                  \
    }                                                                          \
    HANDLER(op##bits##_mr_##K)                                                 \
    {                                                                          \
        uint64_t b = hot_get(cpu, bits, insn->reg);                            \
        if (OP == ALU_CMP)                                                     \
            hot_alu(cpu, OP, bits, hot_load(cpu, insn, K, bits), b);           \
        else                                                                   \
            HOT_RMW(K, bits, a, hot_alu(cpu, OP, bits, a, b));                 \
        NEXT;                                                                  \
    }                                                                          \
    HANDLER(op##bits##_mi_##K)                                                 \
    {                                                                          \
        if (OP == ALU_CMP)                                                     \
            hot_alu(cpu, OP, bits, hot_load(cpu, insn, K, bits), IMM);         \
        else                                                                   \
            HOT_RMW(K, bits, a, hot_alu(cpu, OP, bits, a, IMM));               \
        NEXT;                                                                  \
    }
#define ALU_SIZE(op, OP, bits)        \
    ALU_REGS(op, OP, bits)            \
    ALU_MEM(op, OP, bits, KIND_FLAT)  \
    ALU_MEM(op, OP, bits, KIND_FLATX) \
    ALU_MEM(op, OP, bits, KIND_SEG)
#define ALU(op, OP)      \
    ALU_SIZE(op, OP, 8)  \
    ALU_SIZE(op, OP, 16) \
    ALU_SIZE(op, OP, 32) \
    ALU_SIZE(op, OP, 64)
ALU(add, ALU_ADD)
ALU(or, ALU_OR)
ALU(adc, ALU_ADC)
ALU(sbb, ALU_SBB)
ALU(and, ALU_AND)
ALU(sub, ALU_SUB)
ALU(xor, ALU_XOR)
ALU(cmp, ALU_CMP)

#define ALU_ROW(op, bits)                                                                \
    {                                                                                    \
        op##bits##_rr, op##bits##_ri, op##bits##_rm_KIND_FLAT, op##bits##_rm_KIND_FLATX, \
            op##bits##_rm_KIND_SEG, op##bits##_mr_KIND_FLAT, op##bits##_mr_KIND_FLATX,   \
            op##bits##_mr_KIND_SEG, op##bits##_mi_KIND_FLAT, op##bits##_mi_KIND_FLATX,   \
            op##bits##_mi_KIND_SEG                                                       \
    }
#define ALU_ROWS(op)                                                      \
    {                                                                     \
        ALU_ROW(op, 8), ALU_ROW(op, 16), ALU_ROW(op, 32), ALU_ROW(op, 64) \
    }
interp_fn *const hot_alu_table[ALU_COUNT][HOT_SIZES][SHAPE_COUNT] = {
    [ALU_ADD] = ALU_ROWS(add), [ALU_OR] = ALU_ROWS(or),   [ALU_ADC] = ALU_ROWS(adc),
    [ALU_SBB] = ALU_ROWS(sbb), [ALU_AND] = ALU_ROWS(and), [ALU_SUB] = ALU_ROWS(sub),
    [ALU_XOR] = ALU_ROWS(xor), [ALU_CMP] = ALU_ROWS(cmp),
};

// --- TEST -----------------------------------------------------------------------------------------------------

#define TEST_KIND(bits, K)                                           \
    HANDLER(test##bits##_r_##K)                                      \
    {                                                                \
        uint64_t a = hot_load(cpu, insn, K, bits);                   \
        x86_cc_logic(cpu, bits, a &hot_get(cpu, bits, insn->reg));   \
        NEXT;                                                        \
    }                                                                \
    HANDLER(test##bits##_i_##K)                                      \
    {                                                                \
        x86_cc_logic(cpu, bits, hot_load(cpu, insn, K, bits) & IMM); \
        NEXT;                                                        \
    }
#define TEST_SIZE(bits)         \
    TEST_KIND(bits, KIND_REG)   \
    TEST_KIND(bits, KIND_FLAT)  \
    TEST_KIND(bits, KIND_FLATX) \
    TEST_KIND(bits, KIND_SEG)
TEST_SIZE(8)
TEST_SIZE(16)
TEST_SIZE(32)
TEST_SIZE(64)
#define TEST_ROW(bits)                                                                    \
    {                                                                                     \
        test##bits##_r_KIND_REG, test##bits##_i_KIND_REG, NULL, NULL, NULL,               \
            test##bits##_r_KIND_FLAT, test##bits##_r_KIND_FLATX, test##bits##_r_KIND_SEG, \
            test##bits##_i_KIND_FLAT, test##bits##_i_KIND_FLATX, test##bits##_i_KIND_SEG  \
    }
interp_fn *const hot_test_table[HOT_SIZES][SHAPE_COUNT] = {TEST_ROW(8), TEST_ROW(16), TEST_ROW(32),
                                                           TEST_ROW(64)};

// --- one operand ------------------------------------------------------------------------------------------------

#define ONE_KIND(bits, K)                                                                    \
    HANDLER(inc##bits##_##K)                                                                 \
    {                                                                                        \
        HOT_RMW(K, bits, a, hot_incdec(cpu, false, bits, a));                                \
        NEXT;                                                                                \
    }                                                                                        \
    HANDLER(dec##bits##_##K)                                                                 \
    {                                                                                        \
        HOT_RMW(K, bits, a, hot_incdec(cpu, true, bits, a));                                 \
        NEXT;                                                                                \
    }                                                                                        \
    HANDLER(not ##bits##_##K)                                                                \
    {                                                                                        \
        HOT_RMW(K, bits, a, ~a);                                                             \
        NEXT;                                                                                \
    }                                                                                        \
    HANDLER(neg##bits##_##K)                                                                 \
    {                                                                                        \
        HOT_RMW(K, bits, a, hot_alu(cpu, ALU_SUB, bits, 0, a));                              \
        NEXT;                                                                                \
    }                                                                                        \
    HANDLER(shl##bits##_i_##K)                                                               \
    {                                                                                        \
        HOT_RMW(K, bits, a, hot_shift(cpu, SHIFT_SHL, bits, a, (unsigned)insn->imm));        \
        NEXT;                                                                                \
    }                                                                                        \
    HANDLER(shr##bits##_i_##K)                                                               \
    {                                                                                        \
        HOT_RMW(K, bits, a, hot_shift(cpu, SHIFT_SHR, bits, a, (unsigned)insn->imm));        \
        NEXT;                                                                                \
    }                                                                                        \
    HANDLER(sar##bits##_i_##K)                                                               \
    {                                                                                        \
        HOT_RMW(K, bits, a, hot_shift(cpu, SHIFT_SAR, bits, a, (unsigned)insn->imm));        \
        NEXT;                                                                                \
    }                                                                                        \
    HANDLER(shl##bits##_c_##K)                                                               \
    {                                                                                        \
        HOT_RMW(K, bits, a, hot_shift(cpu, SHIFT_SHL, bits, a, (uint8_t)cpu->gpr[X86_RCX])); \
        NEXT;                                                                                \
    }                                                                                        \
    HANDLER(shr##bits##_c_##K)                                                               \
    {                                                                                        \
        HOT_RMW(K, bits, a, hot_shift(cpu, SHIFT_SHR, bits, a, (uint8_t)cpu->gpr[X86_RCX])); \
        NEXT;                                                                                \
    }                                                                                        \
    HANDLER(sar##bits##_c_##K)                                                               \
    {                                                                                        \
        HOT_RMW(K, bits, a, hot_shift(cpu, SHIFT_SAR, bits, a, (uint8_t)cpu->gpr[X86_RCX])); \
        NEXT;                                                                                \
    }
#define ONE_SIZE(bits)         \
    ONE_KIND(bits, KIND_REG)   \
    ONE_KIND(bits, KIND_FLAT)  \
    ONE_KIND(bits, KIND_FLATX) \
    ONE_KIND(bits, KIND_SEG)
ONE_SIZE(8)
ONE_SIZE(16)
ONE_SIZE(32)
ONE_SIZE(64)
#define KINDS(name)                                                           \
    {                                                                         \
        name##_KIND_REG, name##_KIND_FLAT, name##_KIND_FLATX, name##_KIND_SEG \
    }
#define SIZES(name, tail)                                                                         \
    {                                                                                             \
        KINDS(name##8##tail), KINDS(name##16##tail), KINDS(name##32##tail), KINDS(name##64##tail) \
    }
interp_fn *const hot_incdec_table[2][HOT_SIZES][KIND_COUNT] = {SIZES(inc, ), SIZES(dec, )};
interp_fn *const hot_notneg_table[2][HOT_SIZES][KIND_COUNT] = {SIZES(not, ), SIZES(neg, )};
interp_fn *const hot_shift_table[SHIFT_COUNT][2][HOT_SIZES][KIND_COUNT] = {
    [SHIFT_SHL] = {SIZES(shl, _i), SIZES(shl, _c)},
    [SHIFT_SHR] = {SIZES(shr, _i), SIZES(shr, _c)},
    [SHIFT_SAR] = {SIZES(sar, _i), SIZES(sar, _c)},
};

// --- rotates of registers ------------------------------------------------------------------------------------------

ALWAYS_INLINE uint64_t rotate(struct x86_cpu *cpu, bool right, unsigned bits, uint64_t a,
                              unsigned count)
{
    uint64_t r;
    bool top;
    count &= bits - 1;
    if (count == 0)
        return a;
    r = right ? a >> count | a << (bits - count) : a << count | a >> (bits - count);
    top = r >> (bits - 1) & 1;
    if (right)
        x86_cc_set_cf_of(cpu, top, top ^ (r >> (bits - 2) & 1));
    else
        x86_cc_set_cf_of(cpu, r & 1, top ^ (r & 1));
    return r;
}
#define ROTATE(name, right, bits)                                                                \
    HANDLER(name##bits##_i)                                                                      \
    {                                                                                            \
        hot_put(cpu, bits, insn->rm,                                                             \
                rotate(cpu, right, bits, hot_get(cpu, bits, insn->rm), (unsigned)insn->imm));    \
        NEXT;                                                                                    \
    }                                                                                            \
    HANDLER(name##bits##_c)                                                                      \
    {                                                                                            \
        hot_put(                                                                                 \
            cpu, bits, insn->rm,                                                                 \
            rotate(cpu, right, bits, hot_get(cpu, bits, insn->rm), (uint8_t)cpu->gpr[X86_RCX])); \
        NEXT;                                                                                    \
    }
ROTATE(rol, false, 32)
ROTATE(rol, false, 64)
ROTATE(ror, true, 32)
ROTATE(ror, true, 64)
interp_fn *const hot_rotate_table[2][2][2] = {
    {{rol32_i, rol64_i}, {rol32_c, rol64_c}},
    {{ror32_i, ror64_i}, {ror32_c, ror64_c}},
};

// --- IMUL with a truncated result, BT of registers ------------------------------------------------------------------

ALWAYS_INLINE uint64_t imul(struct x86_cpu *cpu, unsigned bits, uint64_t a, uint64_t b)
{
    int64_t sa = (int64_t)(a << (64 - bits)) >> (64 - bits);
    int64_t sb = (int64_t)(b << (64 - bits)) >> (64 - bits);
    int64_t r;
    bool over = __builtin_mul_overflow(sa, sb, &r);
    if (bits < 64)
        over = (int64_t)((uint64_t)r << (64 - bits)) >> (64 - bits) != r;
    x86_cc_set_cf_of(cpu, over, over); // SF, ZF, AF, PF are undefined: kept, as by AMD's processors
    return (uint64_t)r;
}
#define IMUL_KIND(bits, K)                                                                 \
    HANDLER(imul##bits##_##K)                                                              \
    {                                                                                      \
        uint64_t b = hot_load(cpu, insn, K, bits);                                         \
        hot_put(cpu, bits, insn->reg, imul(cpu, bits, hot_get(cpu, bits, insn->reg), b));  \
        NEXT;                                                                              \
    }                                                                                      \
    HANDLER(imuli##bits##_##K)                                                             \
    {                                                                                      \
        hot_put(cpu, bits, insn->reg, imul(cpu, bits, hot_load(cpu, insn, K, bits), IMM)); \
        NEXT;                                                                              \
    }
#define IMUL_SIZE(bits)         \
    IMUL_KIND(bits, KIND_REG)   \
    IMUL_KIND(bits, KIND_FLAT)  \
    IMUL_KIND(bits, KIND_FLATX) \
    IMUL_KIND(bits, KIND_SEG)
IMUL_SIZE(16)
IMUL_SIZE(32)
IMUL_SIZE(64)
interp_fn *const hot_imul_table[2][3][KIND_COUNT] = {
    {KINDS(imul16), KINDS(imul32), KINDS(imul64)},
    {KINDS(imuli16), KINDS(imuli32), KINDS(imuli64)},
};

#define BT(bits)                                                                   \
    HANDLER(bt##bits##_r)                                                          \
    {                                                                              \
        unsigned n = hot_get(cpu, bits, insn->reg) & (bits - 1);                   \
        x86_cc_set_cf_of(cpu, hot_get(cpu, bits, insn->rm) >> n & 1, x86_of(cpu)); \
        NEXT;                                                                      \
    }                                                                              \
    HANDLER(bt##bits##_i)                                                          \
    {                                                                              \
        unsigned n = (unsigned)insn->imm & (bits - 1);                             \
        x86_cc_set_cf_of(cpu, hot_get(cpu, bits, insn->rm) >> n & 1, x86_of(cpu)); \
        NEXT;                                                                      \
    }
BT(32)
BT(64)
interp_fn *const hot_bt_table[2][2] = {{bt32_r, bt64_r}, {bt32_i, bt64_i}};
