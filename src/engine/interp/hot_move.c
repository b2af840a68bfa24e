// SPDX-License-Identifier: Apache-2.0
// Threaded handlers: moves, extensions, LEA, CMOV, SETcc, stack, flags and other small ones.
#include "engine/interp/hot.h"

#define IMM ((uint64_t)(int64_t)insn->imm)
#define KINDS(name)                                                           \
    {                                                                         \
        name##_KIND_REG, name##_KIND_FLAT, name##_KIND_FLATX, name##_KIND_SEG \
    }
#define EACH_KIND(M, ...)    \
    M(__VA_ARGS__, KIND_REG) \
    M(__VA_ARGS__, KIND_FLAT) M(__VA_ARGS__, KIND_FLATX) M(__VA_ARGS__, KIND_SEG)

// --- MOV ----------------------------------------------------------------------------------------------------------

#define MOV_MEM(bits, K)                                              \
    HANDLER(mov##bits##_rm_##K)                                       \
    {                                                                 \
        hot_put(cpu, bits, insn->reg, hot_load(cpu, insn, K, bits));  \
        NEXT;                                                         \
    }                                                                 \
    HANDLER(mov##bits##_mr_##K)                                       \
    {                                                                 \
        hot_store(cpu, insn, K, bits, hot_get(cpu, bits, insn->reg)); \
        NEXT;                                                         \
    }                                                                 \
    HANDLER(mov##bits##_mi_##K)                                       \
    {                                                                 \
        hot_store(cpu, insn, K, bits, IMM);                           \
        NEXT;                                                         \
    }
#define MOV(bits)                                                    \
    HANDLER(mov##bits##_rr)                                          \
    {                                                                \
        hot_put(cpu, bits, insn->rm, hot_get(cpu, bits, insn->reg)); \
        NEXT;                                                        \
    }                                                                \
    HANDLER(mov##bits##_ri)                                          \
    {                                                                \
        hot_put(cpu, bits, insn->rm, IMM);                           \
        NEXT;                                                        \
    }                                                                \
    MOV_MEM(bits, KIND_FLAT)                                         \
    MOV_MEM(bits, KIND_FLATX)                                        \
    MOV_MEM(bits, KIND_SEG)
MOV(8)
MOV(16)
MOV(32)
MOV(64)
#define MOV_ROW(bits)                                                                        \
    {                                                                                        \
        mov##bits##_rr, mov##bits##_ri, mov##bits##_rm_KIND_FLAT, mov##bits##_rm_KIND_FLATX, \
            mov##bits##_rm_KIND_SEG, mov##bits##_mr_KIND_FLAT, mov##bits##_mr_KIND_FLATX,    \
            mov##bits##_mr_KIND_SEG, mov##bits##_mi_KIND_FLAT, mov##bits##_mi_KIND_FLATX,    \
            mov##bits##_mi_KIND_SEG                                                          \
    }
interp_fn *const hot_mov_table[HOT_SIZES][SHAPE_COUNT] = {MOV_ROW(8), MOV_ROW(16), MOV_ROW(32),
                                                          MOV_ROW(64)};
HANDLER(mov64_imm64)
{
    *hot_reg64(cpu, insn->rm) = insn->detail->x.imm;
    NEXT;
}
interp_fn *const hot_mov_imm64 = mov64_imm64;

// --- extensions -----------------------------------------------------------------------------------------------------

#define EXTEND(to, from, K)                                                      \
    HANDLER(movzx##to##_##from##_##K)                                            \
    {                                                                            \
        hot_put(cpu, to, insn->reg, hot_load(cpu, insn, K, from));               \
        NEXT;                                                                    \
    }                                                                            \
    HANDLER(movsx##to##_##from##_##K)                                            \
    {                                                                            \
        hot_put(cpu, to, insn->reg,                                              \
                (uint64_t)(int64_t)(int##from##_t)hot_load(cpu, insn, K, from)); \
        NEXT;                                                                    \
    }
EACH_KIND(EXTEND, 16, 8)
EACH_KIND(EXTEND, 32, 8)
EACH_KIND(EXTEND, 64, 8)
EACH_KIND(EXTEND, 16, 16)
EACH_KIND(EXTEND, 32, 16)
EACH_KIND(EXTEND, 64, 16)
#define MOVSXD(to, K)                                                                        \
    HANDLER(movsxd##to##_##K)                                                                \
    {                                                                                        \
        hot_put(cpu, to, insn->reg, (uint64_t)(int64_t)(int32_t)hot_load(cpu, insn, K, 32)); \
        NEXT;                                                                                \
    }
EACH_KIND(MOVSXD, 16) // reads four bytes all the same
EACH_KIND(MOVSXD, 32)
EACH_KIND(MOVSXD, 64)
#define EXTEND_ROWS(n)                                                        \
    {                                                                         \
        {KINDS(n##16_8), KINDS(n##16_16)}, {KINDS(n##32_8), KINDS(n##32_16)}, \
        {                                                                     \
            KINDS(n##64_8), KINDS(n##64_16)                                   \
        }                                                                     \
    }
interp_fn *const hot_extend_table[2][3][2][KIND_COUNT] = {EXTEND_ROWS(movzx), EXTEND_ROWS(movsx)};
interp_fn *const hot_movsxd_table[3][KIND_COUNT] = {KINDS(movsxd16), KINDS(movsxd32),
                                                    KINDS(movsxd64)};
// --- LEA -------------------------------------------------------------------------------------------------------------

#define LEA(bits)                                                     \
    HANDLER(lea##bits##_seg)                                          \
    {                                                                 \
        hot_put(cpu, bits, insn->reg, hot_ea(cpu, insn, KIND_SEG));   \
        NEXT;                                                         \
    }                                                                 \
    HANDLER(lea##bits##_flat)                                         \
    {                                                                 \
        hot_put(cpu, bits, insn->reg, hot_ea(cpu, insn, KIND_FLAT));  \
        NEXT;                                                         \
    }                                                                 \
    HANDLER(lea##bits##_flatx)                                        \
    {                                                                 \
        hot_put(cpu, bits, insn->reg, hot_ea(cpu, insn, KIND_FLATX)); \
        NEXT;                                                         \
    }
LEA(16)
LEA(32)
LEA(64)
interp_fn *const hot_lea_table[3][3] = {{lea16_flat, lea16_flatx, lea16_seg},
                                        {lea32_flat, lea32_flatx, lea32_seg},
                                        {lea64_flat, lea64_flatx, lea64_seg}};

// --- CMOV, SETcc -----------------------------------------------------------------------------------------------------

// The load is done whatever the condition, and a 32-bit destination loses its upper half either way.
#define CMOV(cc, bits, K)                          \
    HANDLER(cmov##cc##_##bits##_##K)               \
    {                                              \
        uint64_t v = hot_load(cpu, insn, K, bits); \
        if (!hot_cond(cpu, cc))                    \
            v = hot_get(cpu, bits, insn->reg);     \
        hot_put(cpu, bits, insn->reg, v);          \
        NEXT;                                      \
    }
#define SET(cc, K)                                     \
    HANDLER(set##cc##_##K)                             \
    {                                                  \
        hot_store(cpu, insn, K, 8, hot_cond(cpu, cc)); \
        NEXT;                                          \
    }
#define CC(cc) \
    EACH_KIND(CMOV, cc, 16) EACH_KIND(CMOV, cc, 32) EACH_KIND(CMOV, cc, 64) EACH_KIND(SET, cc)
CC(0)
CC(1)
CC(2)
CC(3)
CC(4)
CC(5)
CC(6)
CC(7)
CC(8)
CC(9)
CC(10)
CC(11)
CC(12)
CC(13)
CC(14)
CC(15)
#define CMOV_ROW(cc)                                                     \
    {                                                                    \
        KINDS(cmov##cc##_16), KINDS(cmov##cc##_32), KINDS(cmov##cc##_64) \
    }
interp_fn *const hot_cmov_table[16][3][KIND_COUNT] = {
    CMOV_ROW(0),  CMOV_ROW(1),  CMOV_ROW(2),  CMOV_ROW(3), CMOV_ROW(4),  CMOV_ROW(5),
    CMOV_ROW(6),  CMOV_ROW(7),  CMOV_ROW(8),  CMOV_ROW(9), CMOV_ROW(10), CMOV_ROW(11),
    CMOV_ROW(12), CMOV_ROW(13), CMOV_ROW(14), CMOV_ROW(15)};
interp_fn *const hot_set_table[16][KIND_COUNT] = {
    KINDS(set0),  KINDS(set1),  KINDS(set2),  KINDS(set3), KINDS(set4),  KINDS(set5),
    KINDS(set6),  KINDS(set7),  KINDS(set8),  KINDS(set9), KINDS(set10), KINDS(set11),
    KINDS(set12), KINDS(set13), KINDS(set14), KINDS(set15)};

// --- stack, 64-bit code ----------------------------------------------------------------------------------------------

ALWAYS_INLINE void push64(struct x86_cpu *cpu, const struct interp_insn *insn, uint64_t value)
{
    uint64_t rsp = cpu->gpr[X86_RSP] - 8;
    cpu->soft.insn = insn;
    hot_store_lin(cpu, X86_SS, rsp, 64, value);
    cpu->gpr[X86_RSP] = rsp;
}
HANDLER(push64_reg)
{
    push64(cpu, insn, *hot_reg64(cpu, insn->rm));
    NEXT;
}
HANDLER(push64_imm)
{
    push64(cpu, insn, IMM);
    NEXT;
}
#define PUSH_MEM(x, K)                                 \
    HANDLER(push64_##K)                                \
    {                                                  \
        push64(cpu, insn, hot_load(cpu, insn, K, 64)); \
        NEXT;                                          \
    }
EACH_KIND(PUSH_MEM, )
interp_fn *const hot_push_mem64[KIND_COUNT] = KINDS(push64);
HANDLER(pop64_reg)
{
    uint64_t rsp = cpu->gpr[X86_RSP], value;
    cpu->soft.insn = insn;
    value = hot_load_lin(cpu, X86_SS, rsp, 64);
    cpu->gpr[X86_RSP] = rsp + 8;
    *hot_reg64(cpu, insn->rm) = value; // POP RSP: the value popped stays
    NEXT;
}
HANDLER(leave64)
{
    uint64_t rbp = cpu->gpr[X86_RBP], value;
    cpu->soft.insn = insn;
    value = hot_load_lin(cpu, X86_SS, rbp, 64);
    cpu->gpr[X86_RSP] = rbp + 8;
    cpu->gpr[X86_RBP] = value;
    NEXT;
}

// --- small ones ------------------------------------------------------------------------------------------------------

HANDLER(nop)
{
    NEXT;
}
HANDLER(cbw)
{
    hot_put(cpu, 16, 0, (uint64_t)(int64_t)(int8_t)cpu->gpr[X86_RAX]);
    NEXT;
}
HANDLER(cwde)
{
    cpu->gpr[X86_RAX] = (uint32_t)(int16_t)cpu->gpr[X86_RAX];
    NEXT;
}
HANDLER(cdqe)
{
    cpu->gpr[X86_RAX] = (uint64_t)(int64_t)(int32_t)cpu->gpr[X86_RAX];
    NEXT;
}
HANDLER(cwd)
{
    hot_put(cpu, 16, X86_RDX * 8, (uint64_t)((int16_t)cpu->gpr[X86_RAX] >> 15));
    NEXT;
}
HANDLER(cdq)
{
    cpu->gpr[X86_RDX] = (uint32_t)((int32_t)cpu->gpr[X86_RAX] >> 31);
    NEXT;
}
HANDLER(cqo)
{
    cpu->gpr[X86_RDX] = (uint64_t)((int64_t)cpu->gpr[X86_RAX] >> 63);
    NEXT;
}
HANDLER(clc)
{
    x86_cc_set_cf_of(cpu, false, x86_of(cpu));
    NEXT;
}
HANDLER(stc)
{
    x86_cc_set_cf_of(cpu, true, x86_of(cpu));
    NEXT;
}
HANDLER(cmc)
{
    x86_cc_set_cf_of(cpu, !x86_cf(cpu), x86_of(cpu));
    NEXT;
}
HANDLER(cld)
{
    cpu->rflags &= ~(uint64_t)X86_FLAG_DF;
    NEXT;
}
HANDLER(std)
{
    cpu->rflags |= X86_FLAG_DF;
    NEXT;
}
HANDLER(xchg32)
{
    uint64_t a = hot_get(cpu, 32, insn->rm), b = hot_get(cpu, 32, insn->reg);
    hot_put(cpu, 32, insn->rm, b);
    hot_put(cpu, 32, insn->reg, a);
    NEXT;
}
HANDLER(xchg64)
{
    uint64_t a = hot_get(cpu, 64, insn->rm), b = hot_get(cpu, 64, insn->reg);
    hot_put(cpu, 64, insn->rm, b);
    hot_put(cpu, 64, insn->reg, a);
    NEXT;
}
HANDLER(bswap32)
{
    hot_put(cpu, 32, insn->rm, __builtin_bswap32((uint32_t)hot_get(cpu, 32, insn->rm)));
    NEXT;
}
HANDLER(bswap64)
{
    hot_put(cpu, 64, insn->rm, __builtin_bswap64(hot_get(cpu, 64, insn->rm)));
    NEXT;
}

interp_fn *const hot_small_table[HOT_SMALLS] = {
    [HOT_NOP] = nop,         [HOT_PUSH64] = push64_reg, [HOT_PUSH_IMM64] = push64_imm,
    [HOT_POP64] = pop64_reg, [HOT_LEAVE64] = leave64,   [HOT_CBW] = cbw,
    [HOT_CWDE] = cwde,       [HOT_CDQE] = cdqe,         [HOT_CWD] = cwd,
    [HOT_CDQ] = cdq,         [HOT_CQO] = cqo,           [HOT_CLC] = clc,
    [HOT_STC] = stc,         [HOT_CMC] = cmc,           [HOT_CLD] = cld,
    [HOT_STD] = std,         [HOT_XCHG32] = xchg32,     [HOT_XCHG64] = xchg64,
    [HOT_BSWAP32] = bswap32, [HOT_BSWAP64] = bswap64,
};
