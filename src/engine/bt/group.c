// SPDX-License-Identifier: Apache-2.0
// Which of a block's accesses one check can cover: those of the same registers, as long as these are known to
// have moved by constants only. And which page slot each such group has.
#include "engine/bt/translate.h"

// What becomes of the general registers: a new version for each that gets an unknown value, a known distance
// for those that are moved by a constant.
struct registers {
    uint8_t version[BASE_COUNT];
    uint8_t version16[BASE_COUNT]; // of the low 16 bits
    int64_t delta[BASE_COUNT];     // of the value now from that at the version's start
    uint8_t segment[X86_SEG_COUNT];
};

static void reg_new(struct registers *r, unsigned reg)
{
    r->version[reg & 15]++;
    r->version16[reg & 15]++;
    r->delta[reg & 15] = 0;
}

// The register moves by a constant, as an operand of `size` bytes.
static void reg_move(const struct bt_tr *t, struct registers *r, unsigned reg, unsigned size,
                     int64_t by)
{
    if (size == 1 || (tr_64(t) && size != 8)) {
        reg_new(r, reg & (size == 1 && reg >= X86_REG8_HIGH ? 3 : 15));
        return;
    }
    r->delta[reg & 15] += by;
    if (size == 2)
        r->version[reg & 15]++;
}

static void registers_after(const struct bt_tr *t, struct registers *r, const struct bt_op *op)
{
    const struct x86_insn *x = &op->x;
    const struct x86_form *form = x86_insn_form(x);
    const unsigned mn = form->mnemonic_id;
    switch ((enum bt_kind)op->kind) {
    case KIND_PUSH:
    case KIND_PUSH_MEM:
        reg_move(t, r, X86_RSP, tr_stack(t), -(int64_t)x->opsize);
        return;
    case KIND_POP:
        reg_move(t, r, X86_RSP, tr_stack(t), x->opsize);
        reg_new(r, x->reg);
        return;
    case KIND_SEG_POP:
        reg_move(t, r, X86_RSP, tr_stack(t), x->opsize);
        r->segment[form->operand[0].fixed]++;
        return;
    case KIND_SEG_LOAD:
        r->segment[x->modrm >> 3 & 7]++;
        return;
    case KIND_LEAVE:
        reg_new(r, X86_RSP);
        reg_new(r, X86_RBP);
        return;
    case KIND_PUSHF:
        r->delta[X86_RSP] -= op->x.opsize;
        return;
    case KIND_POPF:
        r->delta[X86_RSP] += op->x.opsize;
        return;
    case KIND_EXEC:
    case KIND_EXEC_SEG:
    case KIND_SYSTEM:
        for (unsigned i = 0; i < 16; i++)
            reg_new(r, i);
        r->version[BASE_FS]++; // WRFSBASE
        r->version[BASE_GS]++;
        for (unsigned i = 0; i < X86_SEG_COUNT; i++)
            r->segment[i]++;
        return;
    case KIND_SWAPGS:
        r->version[BASE_GS]++;
        return;
    default:
        break;
    }
    if ((mn == X86_MN_ADD || mn == X86_MN_SUB) && !x->has_mem && tr_operand(form, X86_OPND_RM) &&
        tr_operand(form, X86_OPND_IMM)) {
        int64_t imm = (int64_t)x->imm;
        reg_move(t, r, x->rm, form->operand[0].size == 1 ? 1 : x->opsize,
                 mn == X86_MN_ADD ? imm : -imm);
        return;
    }
    if ((mn == X86_MN_INC || mn == X86_MN_DEC) && !x->has_mem) {
        const bool rm = form->operand[0].kind == X86_OPND_RM;
        reg_move(t, r, rm ? x->rm : x->reg, form->operand[0].size == 1 ? 1 : x->opsize,
                 mn == X86_MN_INC ? 1 : -1);
        return;
    }
    if (op->kind == KIND_LEA && x->opsize <= x->adsize && x->base == x->reg &&
        x->index == X86_REG_NONE) {
        reg_move(t, r, x->reg, x->opsize, x->disp);
        return;
    }
    for (unsigned i = 0; i < form->operand_count; i++) {
        const struct x86_operand_desc *d = &form->operand[i];
        struct x86_operand o = x86_operand_get(x, i);
        if (!(d->rw & X86_RW_WRITE) || o.is_mem ||
            (o.kind >= X86_OPND_VEC_REG && o.kind <= X86_OPND_VSIB))
            continue;
        // Byte registers 16 to 19 are halves of 0 to 3.
        reg_new(r, o.kind == X86_OPND_FIXED_GPR ? d->fixed & 15
                   : o.reg >= X86_REG8_HIGH     ? o.reg & 3
                                                : o.reg);
    }
    for (unsigned i = 0; i < 16; i++)
        if (form->gpr_write >> i & 1)
            reg_new(r, i);
}

// A group for the access alone; sets the access's `rel`, too. Offsets in segments are modulo the address size.
static struct bt_group group_of(struct bt_access *a, const struct registers *r)
{
    const bool seg = a->class == ACCESS_SEG;
    const uint8_t *version = seg && a->adsize == 2 ? r->version16 : r->version;
    if (seg || a->class == ACCESS_SUM)
        a->rel = a->disp + r->delta[a->base] + (int64_t)((uint64_t)r->delta[a->index] << a->scale);
    if (seg)
        a->rel = a->adsize == 2 ? (int16_t)a->rel : (int32_t)a->rel;
    return (struct bt_group){.class = a->class,
                             .base = a->base,
                             .index = a->index,
                             .scale = a->scale,
                             .base_version = version[a->base],
                             .index_version = version[a->index],
                             .adsize = a->adsize,
                             .seg = a->seg,
                             .seg_version = seg ? r->segment[a->seg] : 0};
}

static bool group_takes(const struct bt_tr *t, const struct bt_group *g, const struct bt_access *a,
                        const struct bt_group *made, unsigned now)
{
    int64_t low = g->low < a->rel ? g->low : a->rel;
    int64_t high = g->high > a->rel + a->size ? g->high : a->rel + a->size;
    if (g->class != a->class)
        return false;
    // A check for reading becomes one for writing when the write is certain to follow.
    for (unsigned i = g->first; i < now && a->write && !g->write; i++)
        if (t->op[i].kind == KIND_JCC ||
            (t->op[i].kind >= KIND_EXEC && t->op[i].kind <= KIND_SWAPGS))
            return false;
    if (a->class == ACCESS_CONST)
        return (low & (int64_t)PAGE_MASK) == ((high - 1) & (int64_t)PAGE_MASK);
    if (a->class == ACCESS_SEG &&
        (g->adsize != made->adsize || g->seg != made->seg || g->seg_version != made->seg_version))
        return false;
    return g->base == a->base && g->index == a->index && g->scale == a->scale &&
           g->base_version == made->base_version && g->index_version == made->index_version &&
           high - low <= BT_GROUP_SPAN;
}

#define STACK_SLOTS 4
// Stacks stay in their page, so all blocks share a few slots for them. Others take turns.
static void slot_choose(struct bt_tr *t, struct bt_group *g)
{
    unsigned set = (t->key->bits & BT_CTX_SET) >> BT_CTX_SET_SHIFT, n;
    uint16_t *next = &t->bt->next_slot[set][g->write];
    // No two groups of a block may have the same one: their lives overlap.
    if (g->class == ACCESS_SUM && g->base == X86_RSP && !t->stack_slot[g->write]) {
        t->stack_slot[g->write] = true;
        n = (t->rip >> 6) % STACK_SLOTS;
    } else {
        n = STACK_SLOTS + *next;
        *next = (*next + 1) % (X86_FRAME_SLOTS - STACK_SLOTS);
    }
    g->slot = (uint16_t)(offsetof(struct x86_code_frame, slot) +
                         sizeof(struct x86_page_slot) *
                             ((set * X86_FRAME_KINDS + g->write) * X86_FRAME_SLOTS + n));
}

void tr_group(struct bt_tr *t)
{
    struct registers r = {0};
    for (unsigned i = 0; i < t->count; i++) {
        struct bt_op *op = &t->op[i];
        for (unsigned k = 0; k < op->access_count; k++) {
            struct bt_access *a = &op->access[k];
            struct bt_group *g = NULL, made = group_of(a, &r);
            for (unsigned n = 0; n < t->groups && !t->single && a->class != ACCESS_GENERAL; n++) {
                if (group_takes(t, &t->group[n], a, &made, i)) {
                    g = &t->group[n];
                    break;
                }
            }
            if (!g) {
                g = &t->group[t->groups++];
                *g = made;
                g->first = (uint8_t)i;
                g->low = a->rel;
                g->high = a->rel + a->size;
            }
            a->group = (uint8_t)(g - t->group);
            g->write |= a->write;
            g->last = (uint8_t)i;
            if (a->rel < g->low)
                g->low = a->rel;
            if (a->rel + a->size > g->high)
                g->high = a->rel + a->size;
        }
        registers_after(t, &r, op);
    }
    t->stack_slot[0] = t->stack_slot[1] = false;
    for (unsigned n = 0; n < t->groups; n++) {
        struct bt_group *g = &t->group[n];
        const unsigned h = bt_scatter_hash(t->rip + t->op[g->first].off);
        g->scattered =
            g->class == ACCESS_SUM && !t->single &&
            (atomic_load_explicit(&t->bt->scattered[h / 64], memory_order_relaxed) >> h % 64 & 1);
        if (g->scattered) {
            g->slot = (uint16_t)(offsetof(struct x86_code_frame, loose) +
                                 t->bt->next_loose * sizeof(struct x86_page_slot));
            t->bt->next_loose = (t->bt->next_loose + 1) % X86_FRAME_SLOTS;
        } else {
            slot_choose(t, g);
        }
    }
}
