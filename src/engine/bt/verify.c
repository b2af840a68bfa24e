// SPDX-License-Identifier: Apache-2.0
// --bt-verify: proves of every block, from its bytes alone, that it keeps to its bounds.
//
// What is proved: only computing instructions; memory is struct x86_cpu (and there only what translated code may
// write), or the guest's RAM within what a check against a page slot covers on every way to the access; branches
// go to instructions of the block, to the helpers' stubs with a site of the right kind, to entries of blocks, or
// through the table of targets; the flags are the guest's wherever somebody relies on that. What is not proved:
// that the code computes what the guest's instructions do. The oracle and the lockstep runs are for that.
//
// Helpers come back in two ways. At `retry` of an access the slot is filled anew: checks of that slot that came
// before are void. At `resume` the interpreter has executed what lies between: registers are what the way
// through the code makes them, and checks made in between are void.
#include "engine/bt/verify.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

bool vfail(struct verifier *v, const char *rule, ...)
{
    struct bt *bt = v->bt;
    char text[96] = "", why[128];
    va_list args;
    if (bt->broken_why[0])
        return false;
    va_start(args, rule);
    vsnprintf(why, sizeof(why), rule, args);
    va_end(args);
    x86_disassemble(text, sizeof(text), bt->rw + v->at, v->block->end - v->at, X86_CODE64, v->at);
    snprintf(bt->broken_why, sizeof(bt->broken_why),
             "translated code breaks a rule: block %#llx (guest instruction %d), host offset %#x "
             "(+%u), '%s': %s",
             (unsigned long long)v->block->rip, v->state.insn, v->at, v->at - v->layout->start,
             text, why);
    atomic_store_explicit(&bt->broken, true, memory_order_release);
    return false;
}

static bool inside(const struct verifier *v, uint32_t to)
{
    return to >= v->layout->start && to < v->block->end;
}

static bool is_boundary(const struct verifier *v, uint32_t to)
{
    return inside(v, to) && v->boundary[to - v->layout->start];
}

// Control may also get from here to `to`, later in the block.
static bool edge(struct verifier *v, uint32_t to, const struct vstate *state)
{
    if (!is_boundary(v, to) || to <= v->at)
        return vfail(v, "goes to %#x, where no instruction of the block begins", to);
    if (v->edges == VEDGES_MAX)
        return vfail(v, "more branches than the checker can hold");
    v->edge[v->edges].to = to;
    v->edge[v->edges++].state = *state;
    return true;
}

static bool entry_flags(struct verifier *v, bool in_rflags)
{
    const struct vstate *s = &v->state;
    if (in_rflags && s->flags != VF_GUEST)
        return vfail(v, "enters a block that wants the guest's flags in RFLAGS");
    if (!in_rflags && s->reg[HOST_RAX].tag != V_FLAGS)
        return vfail(v, "enters a block that wants the guest's flags in AX");
    return true;
}

static void forget_facts(struct verifier *v, struct vstate *s, uint32_t from, uint32_t slot)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < s->known_count; i++) {
        const struct vfact *fact = &v->fact[s->known[i]];
        if (fact->at < from && fact->slot != slot)
            s->known[kept++] = s->known[i];
    }
    s->known_count = (uint16_t)kept;
}

static bool
in_block(const struct bt_site *site) // its helper executes the instruction and comes back
{
    return site->kind == BT_SITE_EXEC || site->kind == BT_SITE_SEG || site->kind == BT_SITE_SYSTEM;
}

// --- helpers ------------------------------------------------------------------------------------------------------

// The state in which the helper of an EXEC site comes back.
static void helper_returns(struct verifier *v, struct vstate *s)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < 16; i++)
        s->reg[i] = vfresh(v);
    for (unsigned i = 0; i < VCELLS; i++)
        s->cell[i] = vfresh(v);
    s->reg[HOST_RAX] = (struct vvalue){.tag = V_FLAGS};
    s->flags = VF_GUEST;
    s->found = s->found_pending = 0;
    s->site = 0;
    // Checks of constant addresses hold on: what could change a mapping ends its block.
    for (unsigned i = 0; i < s->known_count; i++)
        if (vconstant(&v->fact[s->known[i]].address))
            s->known[kept++] = s->known[i];
    s->known_count = (uint16_t)kept;
}

static bool stub_jump(struct verifier *v, uint32_t to)
{
    const struct bt *bt = v->bt;
    const struct {
        uint32_t stub;
        enum bt_site_kind kind;
    } bt_stubs[] = {{bt->stub_miss, BT_SITE_ACCESS},   {bt->stub_slow, BT_SITE_ACCESS},
                    {bt->stub_system, BT_SITE_SYSTEM}, {bt->stub_scattered, BT_SITE_ACCESS},
                    {bt->stub_seg, BT_SITE_SEG},       {bt->stub_fp, BT_SITE_FP},
                    {bt->stub_exec, BT_SITE_EXEC},     {bt->stub_exit, BT_SITE_EXIT},
                    {bt->stub_branch, BT_SITE_BRANCH}, {bt->stub_step, BT_SITE_STEP},
                    {bt->stub_poll, BT_SITE_POLL},     {bt->stub_entry, BT_SITE_ENTRY}};
    const struct vstate *s = &v->state;
    const struct bt_site *site;
    struct vstate after;
    if (s->site == 0 || s->site - 1 < v->layout->site_first || s->site - 1 >= v->layout->site_end)
        return vfail(v, "calls a helper without a site of the block");
    site = &bt->sites[s->site - 1];
    for (size_t i = 0; i < ARRAY_SIZE(bt_stubs); i++) {
        if (bt_stubs[i].stub != to)
            continue;
        if (bt_stubs[i].kind != site->kind)
            return vfail(v, "calls %s with a site of another kind", bt_stub_name(bt, to));
        if (s->reg[HOST_RAX].tag != V_FLAGS)
            return vfail(v, "calls %s without the flags in AX", bt_stub_name(bt, to));
        // An exit's site says where it goes by itself; those of an entry mean the block's beginning.
        if (site->kind == BT_SITE_ENTRY
                ? s->insn != -1
                : site->kind != BT_SITE_EXIT && site->kind != BT_SITE_POLL &&
                      site->kind != BT_SITE_FP && s->insn != site->done)
            return vfail(v, "calls %s for another instruction", bt_stub_name(bt, to));
        if (to == bt->stub_miss || to == bt->stub_scattered) {
            const struct vvalue *s1 = &s->reg[BT_S1];
            for (unsigned k = 0; k < s1->terms; k++)
                if (s1->tag != V_SUM || vsym_internal(s1->term[k].symbol))
                    return vfail(v, "calls %s without a linear address", bt_stub_name(bt, to));
        }
        // Out of line: the way through the code gets there, too (returns_here).
        if (!in_block(site) || site->resume == BT_NO_RESUME ||
            (site->resume <= v->at && site->resume > v->layout->boundary[site->done]))
            return true;
        after = *s;
        helper_returns(v, &after);
        return edge(v, site->resume, &after);
    }
    return vfail(v, "jumps to %#x, which is no helper's stub", to);
}

// Where helpers may come back to: called with what the way through the code knows.
static bool returns_here(struct verifier *v)
{
    struct vstate *s = &v->state;
    for (uint32_t i = v->layout->site_first; i < v->layout->site_end; i++) {
        const struct bt_site *site = &v->bt->sites[i];
        const bool access = site->kind == BT_SITE_ACCESS;
        const bool retry = site->retry == v->at && (access || site->kind == BT_SITE_FP);
        const bool resume = site->resume == v->at && (access || in_block(site));
        if (!retry && !resume)
            continue;
        if (!v->reachable)
            return vfail(v, "a helper comes back to where the block does not get by itself");
        if (resume && access)
            forget_facts(v, s, site->retry, UINT32_MAX);
        if (retry && access)
            forget_facts(v, s, UINT32_MAX, site->slot);
        s->reg[BT_S1] = vfresh(v);
        s->reg[BT_S2] = vfresh(v);
        if (s->reg[HOST_RAX].tag != V_FLAGS)
            s->reg[HOST_RAX] = vfresh(v);
        if (s->flags != VF_GUEST)
            s->flags = VF_LOST;
        s->found = s->found_pending = 0;
        s->site = 0;
    }
    return true;
}

static bool site_rules(struct verifier *v)
{
    const struct bt_layout *l = v->layout;
    const struct bt_block *block = v->block;
    for (uint32_t i = l->site_first; i < l->site_end; i++) {
        const struct bt_site *site = &v->bt->sites[i];
        const uint32_t end = site->done + site->count;
        v->at = l->start;
        if (site->block != block || site->done >= block->count)
            return vfail(v, "site %u is not the block's", i);
        if (site->kind == BT_SITE_ACCESS) {
            if (!is_boundary(v, site->retry) || site->retry < l->boundary[site->done] ||
                site->retry >= l->boundary[site->done + 1])
                return vfail(v, "site %u: the retry is not in its instruction", i);
            if (end > block->count ||
                (site->resume != BT_NO_RESUME &&
                 (site->resume != l->boundary[end] || !is_boundary(v, site->resume))))
                return vfail(v, "site %u: does not go on behind its instruction", i);
        } else if (in_block(site)) {
            if (site->count != 1 ||
                (site->resume != BT_NO_RESUME && site->resume != l->boundary[end]))
                return vfail(v, "site %u: does not go on behind its instruction", i);
        } else if (site->kind == BT_SITE_EXIT) {
            const uint8_t *p = v->bt->rw + site->resume;
            const bool jmp = is_boundary(v, site->resume - 1) && p[-1] == 0xe9;
            const bool jcc =
                is_boundary(v, site->resume - 2) && p[-2] == 0x0f && (p[-1] & 0xf0) == 0x80;
            if (!jmp && !jcc)
                return vfail(v, "site %u: no jump can be patched there", i);
            if ((site->resume & 63) > 60)
                return vfail(v, "site %u: what is patched lies in two cache lines", i);
        }
    }
    return true;
}

// --- branches -------------------------------------------------------------------------------------------------------

static const struct bt_block *block_at(const struct verifier *v, uint32_t at)
{
    size_t low = 0, high = v->block_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (v->blocks[middle]->end <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low < v->block_count && at >= v->blocks[low]->layout->start ? v->blocks[low] : NULL;
}

static uint64_t page_of(const struct verifier *v, const struct bt_block *block)
{
    return (v->bt->contexts[block->context].cs_base + block->rip) & PAGE_MASK;
}

// A direct jump that was patched.
static bool link_jump(struct verifier *v, uint32_t to)
{
    const struct bt *bt = v->bt;
    const struct bt_block *target = block_at(v, to);
    const struct bt_site *site = NULL;
    const uint32_t field = v->at + v->x.len - 4;
    for (uint32_t i = v->layout->site_first; i < v->layout->site_end; i++)
        if (bt->sites[i].kind == BT_SITE_EXIT && bt->sites[i].resume == field)
            site = &bt->sites[i];
    if (!v->linked || !target || !site)
        return vfail(v, "leaves the block for %#x", to);
    if (to != target->checked && to != target->entry_a && to != target->entry_e)
        return vfail(v, "enters another block at %#x, where it has no entry", to);
    if (!entry_flags(v, to == target->entry_e && to != target->entry_a))
        return false;
    if (site->target != target->rip)
        return vfail(v, "goes to the block of %#llx, not of %#llx", (unsigned long long)target->rip,
                     (unsigned long long)site->target);
    const struct bt_context *a = &bt->contexts[v->block->context],
                            *b = &bt->contexts[target->context];
    if (((a->bits ^ b->bits) & ~(uint32_t)BT_CTX_SINGLE) || a->segs != b->segs ||
        a->cs_base != b->cs_base || a->cs_limit != b->cs_limit)
        return vfail(v, "enters a block of another context");
    if (to != target->checked &&
        (page_of(v, v->block) != page_of(v, target) || (v->block->gpa ^ target->gpa) >> PAGE_SHIFT))
        return vfail(v, "enters a block of another page unchecked");
    return true;
}

static bool direct_jump(struct verifier *v, uint32_t to, const struct vstate *state)
{
    if (!inside(v, to) || (to <= v->at && v->linked)) {
        if (to < v->bt->stubs_end)
            return v->x.map == X86_MAP_1 && v->x.opcode == 0xe9
                       ? stub_jump(v, to)
                       : vfail(v, "jumps to a stub on a condition");
        return link_jump(v, to);
    }
    return edge(v, to, state);
}

static bool conditional(struct verifier *v, uint32_t to)
{
    struct vstate *s = &v->state;
    const unsigned cc = v->x.opcode & 15;
    struct vstate taken;
    if (s->flags == VF_LOST || s->flags == VF_HALF)
        return vfail(v, "asks for flags that nobody set");
    taken = *s;
    if (taken.flags != VF_GUEST)
        taken.flags = VF_LOST;
    if (!direct_jump(v, to, &taken))
        return false;
    if ((s->flags == VF_SLOT && cc == CC_A) || (s->flags == VF_PAGE && cc == CC_NE)) {
        if (s->known_count == VKNOWN_MAX)
            return vfail(v, "more checks than the checker can hold");
        s->known[s->known_count++] = s->flags_fact;
    }
    if (s->flags == VF_PLAIN && cc == CC_NE)
        vfacts_copy(v, VSYM_ENTRY + s->plain, VSYM_ENTRY + s->plain, true);
    if (s->flags == VF_WRAP && (cc == CC_A || cc == 0xc)) {
        s->wrap_symbol = s->wrap_pending_symbol;
        s->wrap = s->wrap_pending;
    }
    if (s->flags == VF_TARGET && cc == CC_NE)
        s->found = s->found_pending;
    if (s->flags != VF_GUEST)
        s->flags = VF_LOST;
    return true;
}

static bool indirect(struct verifier *v)
{
    const struct x86_insn *x = &v->x;
    struct vstate *s = &v->state;
    unsigned set;
    const bool field = x->has_mem && x->seg == X86_GS && x->base == X86_REG_NONE &&
                       x->index == X86_REG_NONE && x->disp == (int64_t)FRAME(scratch[1]);
    if (field ? s->cell[VCELL_SCRATCH].tag != V_CODE
              : !vtarget_operand(v, offsetof(struct x86_branch_target, code), &set) ||
                    s->found != set + 1 || s->target_reg != x->base)
        return vfail(v, "jumps to what is not an entry from the table of targets");
    return entry_flags(v, false);
}

// *falls: control may go on behind it.
static bool step(struct verifier *v, bool *falls)
{
    const struct x86_form *form = x86_insn_form(&v->x);
    const uint32_t next = v->at + v->x.len;
    *falls = true;
    if (v->at == v->block->head) {
        // A NOP, or a jump out since the block died.
        if (v->x.len != 5 ||
            (form->mnemonic_id != X86_MN_NOP &&
             !(v->x.opcode == 0xe9 && next + (uint32_t)v->x.imm == v->block->gone)))
            return vfail(v, "the head is not what it has to be");
        return edge(v, v->block->gone, &v->state);
    }
    if (!(form->attr & X86_INSN_BRANCH))
        return vexecute(v);
    if (form->operand_count == 1 && form->operand[0].kind == X86_OPND_REL &&
        form->mnemonic_id == X86_MN_JMP) {
        *falls = false;
        return direct_jump(v, next + (uint32_t)v->x.imm, &v->state);
    }
    if (form->operand_count == 1 && form->operand[0].kind == X86_OPND_REL &&
        ((v->x.map == X86_MAP_0F && (v->x.opcode & 0xf0) == 0x80) ||
         (v->x.map == X86_MAP_1 && (v->x.opcode & 0xf0) == 0x70)))
        return conditional(v, next + (uint32_t)v->x.imm);
    if (form->mnemonic_id == X86_MN_JMP && v->x.has_mem && form->operand_count == 1 &&
        form->operand[0].kind == X86_OPND_RM) {
        *falls = false;
        return indirect(v);
    }
    return vfail(v, "not an instruction for translated code");
}

// --- a block ---------------------------------------------------------------------------------------------------------

static bool boundaries(struct verifier *v)
{
    const uint32_t start = v->layout->start, end = v->block->end;
    v->at = start;
    if (end - start > sizeof(v->boundary))
        return vfail(v, "a block of more bytes than there may be");
    memset(v->boundary, 0, end - start);
    while (v->at < end) {
        if (x86_decode(&v->x, v->bt->rw + v->at, end - v->at, X86_CODE64, NULL) != X86_DECODE_OK)
            return vfail(v, "no instruction");
        v->boundary[v->at - start] = 1;
        v->at += v->x.len;
    }
    return true;
}

static void arrive(struct verifier *v, const struct vstate *state)
{
    if (v->reachable)
        vjoin(v, &v->state, state);
    else
        v->state = *state;
    v->reachable = true;
}

static void entry_state(struct verifier *v, struct vstate *s, bool in_rflags)
{
    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < 16; i++)
        s->reg[i] = vfresh(v);
    for (unsigned i = 0; i < VCELLS; i++)
        s->cell[i] = vfresh(v);
    s->insn = -1;
    if (in_rflags)
        s->flags = VF_GUEST;
    else
        s->reg[HOST_RAX] = (struct vvalue){.tag = V_FLAGS};
}

static bool block_run(struct verifier *v)
{
    const struct bt_layout *l = v->layout;
    const struct bt_block *block = v->block;
    struct vstate entry;
    unsigned insn = 0;
    bool falls;
    v->facts = v->edges = v->lows[0] = v->lows[1] = v->entries = v->halves = 0;
    v->fresh = 0;
    v->reachable = false;
    v->state.insn = -1;
    if (!boundaries(v) || !site_rules(v))
        return false;
    v->at = l->start;
    if (!is_boundary(v, block->checked) || !is_boundary(v, block->entry_a) ||
        !is_boundary(v, block->entry_e) || !is_boundary(v, block->head) ||
        !is_boundary(v, block->gone) || (block->head & 7) > 3)
        return vfail(v, "an entry is not at an instruction");
    for (uint32_t at = l->start; at < block->end; at += v->x.len) {
        v->at = at;
        if (at == block->checked || at == block->entry_a) {
            entry_state(v, &entry, false);
            arrive(v, &entry);
        }
        if (at == block->entry_e) {
            entry_state(v, &entry, true);
            if (block->entry_a == block->entry_e)
                return vfail(v, "the two entries are one");
            arrive(v, &entry);
        }
        for (unsigned i = 0; i < v->edges; i++)
            if (v->edge[i].to == at)
                arrive(v, &v->edge[i].state);
        for (; insn < block->count && l->boundary[insn] <= at; insn++)
            if (v->reachable)
                v->state.insn = (int16_t)insn;
        if (!returns_here(v))
            return false;
        x86_decode(&v->x, v->bt->rw + at, block->end - at, X86_CODE64, NULL);
        if (!v->reachable)
            continue;
        if (!step(v, &falls))
            return false;
        v->reachable = falls;
    }
    v->at = l->start;
    return v->reachable ? vfail(v, "control runs out of the block") : true;
}

struct verifier *bt_verifier_create(struct bt *bt, struct error *err)
{
    struct verifier *v = calloc(1, sizeof(*v));
    if (v)
        v->bt = bt;
    else
        error_set(err, ERROR_HOST, "out of memory for the checker of translated code");
    return v;
}

void bt_verifier_destroy(struct verifier *v)
{
    if (v)
        free((void *)v->blocks);
    free(v);
}

static bool check(struct verifier *v, const struct bt_block *block, bool linked)
{
    v->block = block;
    v->layout = block->layout;
    v->linked = linked;
    return block_run(v);
}

bool bt_verify_block(struct verifier *v, const struct bt_block *block)
{
    if (v->block_count == v->blocks_max) {
        size_t max = v->blocks_max ? v->blocks_max * 2 : 1024;
        void *blocks = realloc((void *)v->blocks, max * sizeof(v->blocks[0]));
        if (blocks) {
            v->blocks = blocks;
            v->blocks_max = max;
        }
    }
    if (!check(v, block, false))
        return false;
    if (v->block_count < v->blocks_max)
        v->blocks[v->block_count++] = block;
    return true;
}

bool bt_verify_cache(struct verifier *v)
{
    for (size_t i = 0; i < v->block_count; i++)
        if (!check(v, v->blocks[i], true))
            return false;
    return true;
}

void bt_verify_flushed(struct verifier *v)
{
    v->block_count = 0;
}
