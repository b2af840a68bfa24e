// SPDX-License-Identifier: Apache-2.0
// Memory operands: the check against a page slot, and the host address behind it.
//
// A check compares the whole range that its group touches; the group's other accesses only load the slot's
// addend again. It destroys RFLAGS (saved first), S1 and, for some, S2. What a failed check leaves in S1 is
// turned into the linear address of the range's first byte by its cold code.
#include "engine/bt/translate.h"

// Where the interpreter must get to when it takes over at instruction `from`, so that every group that began
// on the way has also ended: nothing behind relies on a check that was skipped.
static unsigned takeover_end(const struct bt_tr *t, unsigned from, unsigned last)
{
    for (bool more = true; more;) {
        more = false;
        for (unsigned i = 0; i < t->groups; i++) {
            const struct bt_group *g = &t->group[i];
            if (g->first >= from && g->first <= last && g->last > last) {
                last = g->last;
                more = true;
            }
        }
    }
    return last;
}

struct bt_cold *tr_check_fails(struct bt_tr *t, const struct bt_access *a, uint8_t *retry,
                               uint8_t *from)
{
    const struct bt_group *g = &t->group[a->group];
    uint32_t number;
    struct bt_site *site = tr_site(t, BT_SITE_ACCESS, &number);
    site->retry = tr_offset(t, retry);
    site->slot = g->slot;
    site->span = (uint16_t)(g->high - g->low);
    site->head = (int16_t)(a->rel - g->low);
    site->size = a->size;
    site->seg = a->seg;
    site->align = t->op[t->now].align ? t->op[t->now].align - 1 : 0;
    site->access = a->write ? X86_ACCESS_READ | X86_ACCESS_WRITE : X86_ACCESS_READ;
    site->stores = g->write;
    site->early = g->write && !a->write;
    site->count = (uint8_t)(takeover_end(t, t->now, g->last) + 1 - t->now);
    t->reached[t->now + site->count] = true;
    site->next = t->now + site->count < t->count ? t->op[t->now + site->count].off : t->bytes;
    site->scattered = g->scattered;
    site->patience = g->class == ACCESS_SUM ? BT_PATIENCE : INT32_MAX; // only sums may ask the TLB
    return tr_cold(t, number, g->scattered ? t->bt->stub_scattered : t->bt->stub_miss, from);
}

void tr_address(struct bt_tr *t, const struct x86_insn *x)
{
    const bool wide = x->adsize == 8;
    unsigned base = x->base < 16 ? bt_home[x->base] : BT_REG_NONE;
    unsigned index = x->index < 16 ? bt_home[x->index] : BT_REG_NONE;
    t->s1_slot = SLOT_NONE;
    if (x->base == X86_REG_RIP) {
        uint64_t at = t->rip + t->op[t->now].off + x->len + (uint64_t)x->disp;
        asm_mov_imm(&t->b, BT_S1, wide ? at : (uint32_t)at);
    } else if (!tr_fits32(x->disp)) { // moffs
        asm_mov_imm(&t->b, BT_S1, (uint64_t)x->disp);
    } else {
        if (x->index < 16 && index == BT_REG_NONE) {
            asm_load(&t->b, BT_S2, mem_gs(GPR(x->index)));
            index = BT_S2;
        }
        if (x->base < 16 && base == BT_REG_NONE) {
            asm_load(&t->b, BT_S1, mem_gs(GPR(x->base)));
            base = BT_S1;
        }
        if (base == BT_REG_NONE && index == BT_REG_NONE)
            asm_mov_imm(&t->b, BT_S1, wide ? (uint64_t)x->disp : (uint64_t)(uint32_t)x->disp);
        else
            asm_lea(&t->b, wide, BT_S1, mem_sum(base, index, x->scale, x->disp));
        if (x->adsize == 2)
            asm_reg(&t->b, false, 0x0fb7, BT_S1, BT_S1); // movzx
    }
}

static struct bt_mem general(struct bt_tr *t, const struct bt_access *a)
{
    const struct bt_group *g = &t->group[a->group];
    const struct x86_insn *x = &t->op[t->now].x;
    const bool based = x->seg >= X86_FS && tr_64(t);
    uint8_t *retry, *over = NULL;
    struct bt_cold *cold;
    tr_flags_clobber(t);
    retry = t->b.p;
    tr_address(t, x);
    if (based && x->adsize == 8) {
        // The offset has to be canonical by itself: it is when 47 bits hold it.
        asm_mov(&t->b, BT_S2, BT_S1);
        asm_shift(&t->b, true, 4, BT_S2, 17);
        asm_shift(&t->b, true, 7, BT_S2, 17);
        asm_reg(&t->b, true, 0x3b, BT_S2, BT_S1); // cmp
        over = asm_jcc(&t->b, CC_NE);
    }
    if (based)
        asm_mem(&t->b, true, 0x03, BT_S1,
                mem_gs(offsetof(struct x86_cpu, seg) + x->seg * sizeof(struct x86_seg) +
                       offsetof(struct x86_seg, eff_base))); // add
    asm_mov(&t->b, BT_S2, BT_S1);
    asm_mem(&t->b, true, 0x2b, BT_S2, mem_gs(SLOT_PAGE(g->slot))); // sub
    asm_alu_imm(&t->b, true, 7, BT_S2, (int32_t)PAGE_SIZE - a->size);
    cold = tr_check_fails(t, a, retry, asm_jcc(&t->b, CC_A));
    if (over)
        tr_cold(t, cold->site, t->bt->stub_slow, over);
    asm_mem(&t->b, true, 0x03, BT_S1, mem_gs(SLOT_ADDEND(g->slot))); // add
    return mem_at(BT_S1, 0);
}

static struct bt_mem constant(struct bt_tr *t, const struct bt_access *a, bool check)
{
    const struct bt_group *g = &t->group[a->group];
    t->s1_slot = SLOT_NONE;
    if (check) {
        const int64_t page = g->low & (int64_t)PAGE_MASK;
        uint8_t *retry;
        struct bt_cold *cold;
        tr_flags_clobber(t);
        retry = t->b.p;
        if (tr_fits32(page)) {
            asm_alu_mem_imm(&t->b, true, 7, mem_gs(SLOT_PAGE(g->slot)), (int32_t)page, false);
        } else {
            asm_mov_imm(&t->b, BT_S1, (uint64_t)page);
            asm_mem(&t->b, true, 0x3b, BT_S1, mem_gs(SLOT_PAGE(g->slot))); // cmp
        }
        cold = tr_check_fails(t, a, retry, asm_jcc(&t->b, CC_NE));
        cold->s1 = S1_CONST;
        cold->value = (uint64_t)g->low;
    }
    asm_load(&t->b, BT_S1, mem_gs(SLOT_ADDEND(g->slot)));
    if (tr_fits32(a->disp))
        return mem_at(BT_S1, a->disp);
    asm_mov_imm(&t->b, BT_S2, (uint64_t)a->disp);
    return mem_sum(BT_S1, BT_S2, 0, 0);
}

static unsigned home_of(unsigned guest)
{
    return guest < 16 ? bt_home[guest] : BT_REG_NONE;
}

static bool in_memory(unsigned guest)
{
    return guest != BASE_NONE && home_of(guest) == BT_REG_NONE;
}

// Where a register, or the base of a segment, is in memory.
static struct bt_mem memory_of(unsigned guest)
{
    if (guest < 16)
        return mem_gs(GPR(guest));
    return mem_gs(offsetof(struct x86_cpu, seg) +
                  (guest == BASE_FS ? X86_FS : X86_GS) * sizeof(struct x86_seg) +
                  offsetof(struct x86_seg, eff_base));
}

// The registers of the sum: those in memory are loaded, the base to S1 and the index to S2.
static struct bt_mem sum(struct bt_tr *t, const struct bt_access *a, int64_t disp)
{
    unsigned base = home_of(a->base), index = home_of(a->index);
    if (in_memory(a->base)) {
        asm_load(&t->b, BT_S1, memory_of(a->base));
        base = BT_S1;
    }
    if (in_memory(a->index)) {
        asm_load(&t->b, BT_S2, memory_of(a->index));
        index = BT_S2;
    }
    return mem_sum(base, index, a->scale, disp);
}

// S1 = sum.
static void sum_to_s1(struct bt_tr *t, struct bt_mem m)
{
    if (m.index != BT_REG_NONE || m.disp != 0)
        asm_lea(&t->b, tr_64(t), BT_S1, m);
    else if (m.base != BT_S1)
        asm_reg(&t->b, tr_64(t), 0x89, m.base, BT_S1);
}

void tr_low_address(struct bt_tr *t, const struct bt_access *a)
{
    sum_to_s1(t, sum(t, a, a->disp - (a->rel - t->group[a->group].low)));
}

// The check of a place that goes to another page nearly each time: looks the page up in the TLB. Leaves the
// addend in S1 and in the group's loose slot.
static void scattered_check(struct bt_tr *t, const struct bt_access *a)
{
    const struct bt_group *g = &t->group[a->group];
    const unsigned set = (t->key->bits & BT_CTX_SET) >> BT_CTX_SET_SHIFT;
    const int64_t entry = (int64_t)offsetof(struct x86_tlb, set) +
                          (int64_t)(set * X86_TLB_ENTRIES * sizeof(struct x86_tlb_entry));
    uint8_t *retry;
    struct bt_cold *cold;
    tr_flags_clobber(t);
    retry = t->b.p;
    tr_low_address(t, a);
    asm_mov(&t->b, BT_S2, BT_S1);
    asm_shift(&t->b, true, 5, BT_S2, PAGE_SHIFT - 6); // 64 bytes an entry
    asm_alu_imm(&t->b, false, 4, BT_S2, (X86_TLB_ENTRIES - 1) << 6);
    asm_mem(&t->b, true, 0x03, BT_S2, mem_gs(offsetof(struct x86_cpu, tlb))); // add
    asm_mem(&t->b, true, 0x2b, BT_S1,
            mem_at(BT_S2, entry + (int64_t)(g->write ? offsetof(struct x86_tlb_entry, tag_write)
                                                     : offsetof(struct x86_tlb_entry, tag_read))));
    asm_alu_imm(&t->b, true, 7, BT_S1, (int32_t)(PAGE_SIZE - (g->high - g->low)));
    cold = tr_check_fails(t, a, retry, asm_jcc(&t->b, CC_A));
    if (g->write) {
        asm_load(&t->b, BT_S1,
                 mem_at(BT_S2, entry + (int64_t)offsetof(struct x86_tlb_entry, flags)));
        asm_mem(&t->b, false, 0x80, 7, mem_at(BT_S1, 0)); // cmp
        asm8(&t->b, PAGE_FLAGS_PLAIN);
        cold->from[1] = asm_jcc(&t->b, CC_NE);
    }
    asm_load(&t->b, BT_S1, mem_at(BT_S2, entry + (int64_t)offsetof(struct x86_tlb_entry, addend)));
    asm_store(&t->b, mem_gs(SLOT_ADDEND(g->slot)), BT_S1);
    cold->s1 = S1_SUM;
    cold->access = a;
}

static struct bt_mem summed(struct bt_tr *t, const struct bt_access *a, bool check)
{
    const struct bt_group *g = &t->group[a->group];
    const struct bt_mem addend = mem_gs(SLOT_ADDEND(g->slot));
    struct bt_mem m;
    if (check && g->scattered) {
        scattered_check(t, a);
    } else if (check) {
        uint8_t *retry;
        struct bt_cold *cold;
        tr_flags_clobber(t);
        retry = t->b.p;
        tr_low_address(t, a);
        asm_mem(&t->b, true, 0x2b, BT_S1, mem_gs(SLOT_PAGE(g->slot))); // sub
        asm_alu_imm(&t->b, true, 7, BT_S1, (int32_t)(PAGE_SIZE - (g->high - g->low)));
        cold = tr_check_fails(t, a, retry, asm_jcc(&t->b, CC_A));
        cold->s1 = S1_ADD_PAGE;
        cold->slot = g->slot;
    }
    const int64_t disp = a->disp + (a->base == X86_RSP ? t->rsp_lag : 0);
    const bool kept = !check && t->s1_slot == g->slot;
    const bool held = check ? g->scattered : kept && !t->s1_based; // S1 is the addend
    // Base and index are what they were: a group's accesses differ by known distances only.
    const bool summed_already = kept && t->s1_based && t->s1_bias == a->rel - a->disp;
    t->s1_slot = SLOT_NONE;
    if (!tr_64(t)) { // 32-bit addresses wrap
        sum_to_s1(t, sum(t, a, disp));
        asm_load(&t->b, BT_S2, addend);
        return mem_sum(BT_S1, BT_S2, 0, 0);
    }
    m = sum(t, a, disp);
    if (!in_memory(a->base) && !in_memory(a->index)) {
        if (summed_already && m.base != BT_REG_NONE && m.index != BT_REG_NONE &&
            tr_fits32(m.disp - t->s1_disp)) {
            t->s1_slot = g->slot;
            m.base = BT_S1;
            m.disp -= (int32_t)t->s1_disp;
            return m;
        }
        if (!held)
            asm_load(&t->b, BT_S1, addend);
        if (m.base == BT_REG_NONE) {
            m.base = BT_S1;
        } else if (m.index == BT_REG_NONE) {
            m.index = BT_S1;
            t->s1_slot = g->slot;
            t->s1_based = false;
        } else {
            asm_lea(&t->b, true, BT_S1, mem_sum(m.base, BT_S1, 0, m.disp));
            t->s1_slot = g->slot;
            t->s1_based = true;
            t->s1_bias = a->rel - a->disp;
            t->s1_disp = m.disp;
            m.base = BT_S1;
            m.disp = 0;
        }
        return m;
    }
    if (m.index == BT_REG_NONE) {
        asm_load(&t->b, BT_S2, addend);
        m.index = BT_S2;
        return m;
    }
    asm_lea(&t->b, true, BT_S1, m);
    asm_load(&t->b, BT_S2, addend);
    return mem_sum(BT_S1, BT_S2, 0, 0);
}

bool tr_access_covered(const struct bt_tr *t, const struct bt_access *a)
{
    return (a->class == ACCESS_SUM || a->class == ACCESS_SEG) && t->group[a->group].first < t->now;
}

struct bt_mem tr_access(struct bt_tr *t, const struct bt_access *a)
{
    const struct bt_group *g = &t->group[a->group];
    const bool check = g->first == t->now &&
                       (a == &t->op[t->now].access[0] || t->op[t->now].access[0].group != a->group);
    if (a->class == ACCESS_GENERAL)
        return general(t, a);
    if (a->class == ACCESS_SEG)
        return tr_segment_access(t, a, check);
    if (a->class == ACCESS_CONST)
        return constant(t, a, check);
    return summed(t, a, check);
}
