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

// Goes on with `block` at `rip`, or returns to the loop with cpu->rip set. `end` is behind the last
// instruction that retired.
ALWAYS_INLINE const struct interp_insn *enter(struct x86_cpu *cpu, const struct interp_insn *end,
                                              struct interp_block *block, uint64_t rip)
{
    uint64_t icount = cpu->icount + (uint64_t)(end - (const struct interp_insn *)cpu->soft.first);
    if (unlikely(cpu->soft.fuel == 0 || atomic_load_explicit(&cpu->events, memory_order_relaxed))) {
        cpu->rip = rip;
        return end;
    }
    cpu->soft.fuel--;
    cpu->icount = icount;
    cpu->soft.first = block->insn;
    cpu->soft.rip = rip;
    cpu->soft.block = block;
    return block->insn[0].fn(cpu, block->insn);
}

ALWAYS_INLINE bool link_holds(struct x86_cpu *cpu, const struct interp_block *block, uint64_t rip)
{
    struct x86_tlb_entry *e = x86_tlb_entry(cpu, rip);
    return e->tag_exec == (rip & PAGE_MASK) &&
           block->link_gpa == (e->gpa | (rip & PAGE_OFFSET_MASK));
}

// Without a link that holds: looks the block up, remembers it and goes on.
NOINLINE static const struct interp_insn *go_slow(struct x86_cpu *cpu,
                                                  const struct interp_insn *insn, uint64_t target,
                                                  struct interp_block **link)
{
    struct interp_block *block;
    if (unlikely(!x86_canonical(target))) {
        exact(cpu, insn);
        x86_branch(cpu, target, 8);
        return insn + 1;
    }
    cpu->rip = target;
    block = interp_block_find(cpu->interp);
    if (!block) {
        cpu->soft.link = (void **)link;
        return insn + 1;
    }
    if (block->link_gpa != INTERP_NO_PAGE)
        *link = block;
    return enter(cpu, insn + 1, block, target);
}

// Goes on at cpu->rip, whatever the mode; icount is settled up to `end` - 1.
const struct interp_insn *interp_go_on(struct x86_cpu *cpu, const struct interp_insn *end)
{
    struct interp_block *block = cpu->soft.fuel ? interp_block_find(cpu->interp) : NULL;
    return block ? enter(cpu, end, block, cpu->rip) : end;
}

// Leaves the block for `target`, 64-bit code; `n` is the link to follow.
ALWAYS_INLINE const struct interp_insn *go64(struct x86_cpu *cpu, const struct interp_insn *insn,
                                             uint64_t target, unsigned n)
{
    struct interp_block **link = (struct interp_block **)&insn[1].link[n];
    if (likely(link_holds(cpu, *link, target)))
        return enter(cpu, insn + 1, *link, target);
    return go_slow(cpu, insn, target, link);
}

// A block's sentinel: goes on behind the block's last instruction.
const struct interp_insn *interp_fall(struct x86_cpu *cpu, const struct interp_insn *insn)
{
    uint64_t rip = (cpu->soft.rip + insn->off) & cpu->lin_mask;
    struct interp_block *block = insn->link[0];
    if (cpu->code_size == X86_CODE64 && link_holds(cpu, block, rip))
        return enter(cpu, insn, block, rip);
    cpu->rip = rip;
    cpu->soft.link = (void **)&insn->link[0];
    return insn;
}

#define JCC(cc)                                                                      \
    HANDLER(jcc##cc##_64)                                                            \
    {                                                                                \
        if (hot_cond(cpu, cc))                                                       \
            return go64(cpu, insn, cpu->soft.rip + (uint64_t)(int64_t)insn->imm, 0); \
        return go64(cpu, insn, cpu->soft.rip + insn[1].off, 1);                      \
    }                                                                                \
    HANDLER(jcc##cc)                                                                 \
    {                                                                                \
        exact(cpu, insn);                                                            \
        if (hot_cond(cpu, cc))                                                       \
            x86_branch(cpu, cpu->soft.rip + (uint64_t)insn->detail->target,          \
                       insn->detail->x.opsize);                                      \
        return interp_go_on(cpu, insn + 1);                                          \
    }
JCC(0)
JCC(1)
JCC(2)
JCC(3)
JCC(4)
JCC(5)
JCC(6)
JCC(7)
JCC(8)
JCC(9)
JCC(10)
JCC(11)
JCC(12)
JCC(13)
JCC(14)
JCC(15)
#define JCC_ROW(cc)           \
    {                         \
        jcc##cc, jcc##cc##_64 \
    }
interp_fn *const hot_jcc_table[16][2] = {JCC_ROW(0),  JCC_ROW(1),  JCC_ROW(2),  JCC_ROW(3),
                                         JCC_ROW(4),  JCC_ROW(5),  JCC_ROW(6),  JCC_ROW(7),
                                         JCC_ROW(8),  JCC_ROW(9),  JCC_ROW(10), JCC_ROW(11),
                                         JCC_ROW(12), JCC_ROW(13), JCC_ROW(14), JCC_ROW(15)};

HANDLER(jmp_rel)
{
    exact(cpu, insn);
    x86_branch(cpu, cpu->soft.rip + (uint64_t)insn->detail->target, insn->detail->x.opsize);
    return interp_go_on(cpu, insn + 1);
}
HANDLER(jmp_rel64)
{
    return go64(cpu, insn, cpu->soft.rip + (uint64_t)(int64_t)insn->imm, 0);
}

// A target that cannot be is refused before anything is pushed, but after the stack is looked at.
ALWAYS_INLINE const struct interp_insn *call64(struct x86_cpu *cpu, const struct interp_insn *insn,
                                               uint64_t target)
{
    uint64_t rsp = cpu->gpr[X86_RSP] - 8;
    uint64_t back = cpu->soft.rip + insn[1].off;
    if (unlikely(!x86_canonical(target))) {
        exact(cpu, insn);
        x86_write_check(cpu, X86_SS, rsp, 8);
        x86_branch(cpu, target, 8);
        return insn + 1;
    }
    cpu->soft.insn = insn;
    hot_store_lin(cpu, X86_SS, rsp, 64, back);
    cpu->gpr[X86_RSP] = rsp;
    return go64(cpu, insn, target, 0);
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
        x86_branch(cpu, target, 8); // raises
        return insn + 1;
    }
    cpu->gpr[X86_RSP] = rsp + 8;
    return go64(cpu, insn, target, 0);
}
#define INDIRECT(K)                                            \
    HANDLER(jmp_ind64_##K)                                     \
    {                                                          \
        return go64(cpu, insn, hot_load(cpu, insn, K, 64), 0); \
    }                                                          \
    HANDLER(call_ind64_##K)                                    \
    {                                                          \
        return call64(cpu, insn, hot_load(cpu, insn, K, 64));  \
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
