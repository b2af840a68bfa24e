// SPDX-License-Identifier: Apache-2.0
// Threaded handlers: near branches. Those named 64 are for 64-bit code with 64-bit operands; the others work
// in any mode through x86_branch(), which knows CS limits and operand sizes.
#include "engine/interp/hot.h"

ALWAYS_INLINE void exact(struct x86_cpu *cpu, const struct interp_insn *insn)
{
    cpu->icount += (uint64_t)(insn - (const struct interp_insn *)cpu->soft.first);
    cpu->soft.first = insn;
    cpu->soft.insn = NULL;
    cpu->insn_rip = (cpu->soft.rip + insn->off) & cpu->lin_mask;
    cpu->rip = (cpu->soft.rip + insn[1].off) & cpu->lin_mask;
}

// Leaves the block for `target`, 64-bit code.
ALWAYS_INLINE const struct interp_insn *go64(struct x86_cpu *cpu, const struct interp_insn *insn,
                                             uint64_t target)
{
    if (unlikely(!x86_canonical(target))) {
        exact(cpu, insn);
        x86_branch(cpu, target, 8);
        return insn + 1;
    }
    cpu->rip = target;
    return insn + 1;
}

#define JCC(cc)                                                                   \
    HANDLER(jcc##cc##_64)                                                         \
    {                                                                             \
        if (hot_cond(cpu, cc))                                                    \
            return go64(cpu, insn, cpu->soft.rip + (uint64_t)(int64_t)insn->imm); \
        cpu->rip = cpu->soft.rip + insn[1].off;                                   \
        return insn + 1;                                                          \
    }                                                                             \
    HANDLER(jcc##cc)                                                              \
    {                                                                             \
        exact(cpu, insn);                                                         \
        if (hot_cond(cpu, cc))                                                    \
            x86_branch(cpu, cpu->soft.rip + (uint64_t)insn->detail->target,       \
                       insn->detail->x.opsize);                                   \
        return insn + 1;                                                          \
    }
JCC(0)
JCC(1) JCC(2) JCC(3) JCC(4) JCC(5) JCC(6) JCC(7) JCC(8) JCC(9) JCC(10) JCC(11) JCC(12) JCC(13)
    JCC(14) JCC(15)
#define JCC_ROW(cc)           \
    {                         \
        jcc##cc, jcc##cc##_64 \
    }
        interp_fn *const hot_jcc_table[16][2] = {
            JCC_ROW(0),  JCC_ROW(1),  JCC_ROW(2),  JCC_ROW(3), JCC_ROW(4),  JCC_ROW(5),
            JCC_ROW(6),  JCC_ROW(7),  JCC_ROW(8),  JCC_ROW(9), JCC_ROW(10), JCC_ROW(11),
            JCC_ROW(12), JCC_ROW(13), JCC_ROW(14), JCC_ROW(15)};

HANDLER(jmp_rel)
{
    exact(cpu, insn);
    x86_branch(cpu, cpu->soft.rip + (uint64_t)insn->detail->target, insn->detail->x.opsize);
    return insn + 1;
}
HANDLER(jmp_rel64)
{
    return go64(cpu, insn, cpu->soft.rip + (uint64_t)(int64_t)insn->imm);
}

// The return address is pushed when nothing else can fault any more.
ALWAYS_INLINE const struct interp_insn *call64(struct x86_cpu *cpu, const struct interp_insn *insn,
                                               uint64_t target)
{
    uint64_t rsp = cpu->gpr[X86_RSP] - 8;
    uint64_t back = cpu->soft.rip + insn[1].off;
    if (unlikely(!x86_canonical(target))) {
        uint64_t rip = cpu->rip;
        exact(cpu, insn);
        x86_branch(cpu, target, 8); // raises, unless the processor faults at the target instead
        target = cpu->rip;
        cpu->rip = rip;
    }
    cpu->soft.insn = insn;
    hot_store_lin(cpu, X86_SS, rsp, 64, back);
    cpu->gpr[X86_RSP] = rsp;
    cpu->rip = target;
    return insn + 1;
}
HANDLER(call_rel64)
{
    return call64(cpu, insn, cpu->soft.rip + (uint64_t)(int64_t)insn->imm);
}
HANDLER(ret64)
{
    uint64_t rsp = cpu->gpr[X86_RSP], target;
    cpu->soft.insn = insn;
    target = hot_load_lin(cpu, X86_SS, rsp, 64);
    if (unlikely(!x86_canonical(target))) {
        exact(cpu, insn);
        x86_branch(cpu, target, 8);
    }
    cpu->gpr[X86_RSP] = rsp + 8;
    cpu->rip = target;
    return insn + 1;
}
#define INDIRECT(K)                                           \
    HANDLER(jmp_ind64_##K)                                    \
    {                                                         \
        return go64(cpu, insn, hot_load(cpu, insn, K, 64));   \
    }                                                         \
    HANDLER(call_ind64_##K)                                   \
    {                                                         \
        return call64(cpu, insn, hot_load(cpu, insn, K, 64)); \
    }
INDIRECT(KIND_REG)
INDIRECT(KIND_FLAT)
INDIRECT(KIND_FLATX)
INDIRECT(KIND_SEG)
interp_fn *const hot_jmp_ind64[KIND_COUNT] = {jmp_ind64_KIND_REG, jmp_ind64_KIND_FLAT,
                                              jmp_ind64_KIND_FLATX, jmp_ind64_KIND_SEG};
interp_fn *const hot_call_ind64[KIND_COUNT] = {call_ind64_KIND_REG, call_ind64_KIND_FLAT,
                                               call_ind64_KIND_FLATX, call_ind64_KIND_SEG};
interp_fn *const hot_branch_table[HOT_BRANCHES] = {
    [HOT_JMP_REL] = jmp_rel,
    [HOT_JMP_REL64] = jmp_rel64,
    [HOT_CALL_REL64] = call_rel64,
    [HOT_RET64] = ret64,
};
