// SPDX-License-Identifier: Apache-2.0
// Outside 64-bit mode: memory operands through segments that are not flat or by 16-bit addresses, and what
// reads and loads segment registers.
//
// A block knows of each segment only what its context says (BT_SEG_): rights, and how far its limit reaches at
// least. Base and limit come from memory, so that 16-bit code may load its segment registers all the time
// without leaving translated code. A check that fails here may fail for the instruction too or only for the
// group's range: the interpreter finds out.
//
// Rule to keep: no group goes on behind an instruction that loads its segment register (group.c).
#include "engine/bt/translate.h"
#include "x86/system.h"

static uint32_t segment_now(const struct x86_cpu *cpu, unsigned n)
{
    const struct x86_seg *seg = &cpu->seg[n];
    const bool code = seg->attr & 8, down = !code && (seg->attr & 4), rw = seg->attr & 2;
    uint32_t bits = BT_SEG_READ | BT_SEG_WRITE;
    if ((seg->unchecked & (X86_ACCESS_READ | X86_ACCESS_WRITE)) !=
        (X86_ACCESS_READ | X86_ACCESS_WRITE)) {
        if ((seg->attr & X86_ATTR_UNUSABLE) || down)
            return 0;
        if (x86_prot_mode(cpu)) {
            if (!(seg->attr & X86_ATTR_S))
                return 0;
            bits = (code && !rw ? 0 : BT_SEG_READ) | (code || !rw ? 0 : BT_SEG_WRITE);
        }
    }
    if (seg->limit == UINT32_MAX)
        bits |= BT_SEG_MAX;
    if (seg->limit >= 0xffff)
        bits |= BT_SEG_64K;
    // In 16-bit code a base of 0 is nothing that would stay.
    if (seg->limit == UINT32_MAX && seg->eff_base == 0 && cpu->code_size != X86_CODE16)
        bits |= BT_SEG_ZERO;
    return bits;
}

uint32_t bt_segments_now(const struct x86_cpu *cpu)
{
    uint32_t all = 0;
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        all |= segment_now(cpu, i) << i * BT_SEG_BITS;
    return all;
}

// S1 = the offset of disp from the access's registers.
static void offset(struct bt_tr *t, const struct bt_access *a, int64_t disp)
{
    const unsigned base = a->base < 16 ? bt_home[a->base] : BT_REG_NONE;
    const unsigned index = a->index < 16 ? bt_home[a->index] : BT_REG_NONE;
    const uint32_t mask = a->adsize == 2 ? 0xffff : 0xffffffff;
    if (base == BT_REG_NONE && index == BT_REG_NONE) {
        asm_mov_imm(&t->b, BT_S1, (uint32_t)disp & mask);
        return;
    }
    if (a->adsize == 2 && index == BT_REG_NONE && disp == 0) {
        asm_reg(&t->b, false, 0x0fb7, BT_S1, base); // movzx
        return;
    }
    asm_lea(&t->b, false, BT_S1, mem_sum(base, index, a->scale, disp));
    if (a->adsize == 2)
        asm_reg(&t->b, false, 0x0fb7, BT_S1, BT_S1);
}

// Compares the range from S1 on with the limit: the displacement of the jump of failure, or NULL when it lies
// within for certain.
static uint8_t *limit_check(struct bt_tr *t, const struct bt_access *a, unsigned span)
{
    const unsigned seg = tr_segment(t, a->seg);
    if (a->adsize == 2 && (seg & BT_SEG_64K)) {
        // A range of several accesses must not wrap; one may, within a limit beyond 64 KiB: the interpreter's.
        if (span == 1)
            return NULL;
        asm_alu_imm(&t->b, false, 7, BT_S1, 0x10000 - (int32_t)span);
        return asm_jcc(&t->b, CC_A);
    }
    if (seg & BT_SEG_MAX) {
        if (span == 1)
            return NULL;
        asm_alu_imm(&t->b, false, 7, BT_S1, -(int32_t)span);
        return asm_jcc(&t->b, CC_A);
    }
    if (span == 1) {
        asm_mem(&t->b, false, 0x3b, BT_S1, mem_gs(SEG(a->seg, limit)));
        return asm_jcc(&t->b, CC_A);
    }
    asm_load32(&t->b, BT_S2, mem_gs(SEG(a->seg, limit)));
    asm_reg(&t->b, true, 0x29, BT_S1, BT_S2); // sub s2, s1
    asm_alu_imm(&t->b, true, 7, BT_S2, (int32_t)span - 1);
    return asm_jcc(&t->b, CC_L);
}

struct bt_mem tr_segment_access(struct bt_tr *t, const struct bt_access *a, bool check)
{
    const struct bt_group *g = &t->group[a->group];
    const int64_t ahead = a->rel - g->low; // of the group's first byte
    const unsigned span = (unsigned)(g->high - g->low);
    const bool zero = tr_segment(t, a->seg) & BT_SEG_ZERO;
    t->s1_slot = SLOT_NONE;
    if (!check) {
        offset(t, a, a->disp + (a->base == X86_RSP ? t->rsp_lag : 0));
        if (!zero) {
            asm_load32(&t->b, BT_S2, mem_gs(SEG(a->seg, eff_base)));
            asm_lea(&t->b, false, BT_S1, mem_sum(BT_S1, BT_S2, 0, 0));
        }
        asm_load(&t->b, BT_S2, mem_gs(SLOT_ADDEND(g->slot)));
        asm_lea(&t->b, true, BT_S1, mem_sum(BT_S1, BT_S2, 0, 0));
        return mem_at(BT_S1, 0);
    }
    tr_flags_clobber(t);
    uint8_t *retry = t->b.p, *over;
    offset(t, a, a->disp - ahead);
    over = limit_check(t, a, span);
    if (!zero)
        asm_mem(&t->b, false, 0x03, BT_S1, mem_gs(SEG(a->seg, eff_base))); // add: 32-bit linear
    asm_mov(&t->b, BT_S2, BT_S1);
    asm_mem(&t->b, true, 0x2b, BT_S2, mem_gs(SLOT_PAGE(g->slot))); // sub
    asm_alu_imm(&t->b, true, 7, BT_S2, (int32_t)(PAGE_SIZE - span));
    struct bt_cold *cold = tr_check_fails(t, a, retry, asm_jcc(&t->b, CC_A));
    if (over)
        tr_cold(t, cold->site, t->bt->stub_slow, over);
    asm_mem(&t->b, true, 0x03, BT_S1, mem_gs(SLOT_ADDEND(g->slot)));
    return mem_at(BT_S1, ahead);
}

// Stores the selector of `seg`.
void tr_segment_store(struct bt_tr *t, const struct bt_op *op)
{
    const struct x86_insn *x = &op->x;
    const struct bt_mem sel = mem_gs(SEG(x->modrm >> 3 & 7, sel));
    if (x->has_mem) {
        struct bt_mem m = tr_access(t, &op->access[0]);
        asm_lea(&t->b, true, BT_S1, m);
        asm_mem(&t->b, false, 0x0fb7, BT_S2, sel);
        asm_store16(&t->b, mem_at(BT_S1, 0), BT_S2);
        return;
    }
    if (x->opsize == 2) {
        asm_mem(&t->b, false, 0x0fb7, BT_S2, sel);
        asm8(&t->b, 0x66);
        asm_mov32(&t->b, bt_home[x->rm], BT_S2);
    } else {
        asm_mem(&t->b, false, 0x0fb7, bt_home[x->rm], sel);
    }
}

// May the segment register be loaded by storing its base, as real mode and virtual-8086 mode do? Not where a
// limit of 4 GiB makes more follow from a base.
bool tr_segment_real(const struct bt_tr *t, unsigned n)
{
    const unsigned seg = tr_segment(t, n), plain = BT_SEG_READ | BT_SEG_WRITE;
    if ((t->key->bits & BT_CTX_PROT) || (seg & BT_SEG_MAX) || (seg & plain) != plain)
        return false;
    return (seg & BT_SEG_64K) || !tr_v86(t);
}

// The segment register gets the selector in S2.
void tr_segment_set(struct bt_tr *t, unsigned n)
{
    asm_store16(&t->b, mem_gs(SEG(n, sel)), BT_S2);
    asm_lea(&t->b, true, BT_S2, mem_sum(BT_REG_NONE, BT_S2, 3, 0));
    asm_lea(&t->b, true, BT_S2, mem_sum(BT_S2, BT_S2, 0, 0));
    asm_store(&t->b, mem_gs(SEG(n, base)), BT_S2);
    asm_store(&t->b, mem_gs(SEG(n, eff_base)), BT_S2);
    if (tr_v86(t)) {
        asm_store_imm(&t->b, false, mem_gs(SEG(n, attr)), 0xf3);
        asm_store_imm(&t->b, false, mem_gs(SEG(n, limit)), 0xffff);
    }
}

// MOV of a segment register in real mode or virtual-8086 mode.
void tr_segment_load(struct bt_tr *t, const struct bt_op *op)
{
    const struct x86_insn *x = &op->x;
    if (x->has_mem)
        asm_mem(&t->b, false, 0x0fb7, BT_S2, tr_access(t, &op->access[0]));
    else
        asm_reg(&t->b, false, 0x0fb7, BT_S2, bt_home[x->rm]);
    tr_segment_set(t, x->modrm >> 3 & 7);
}
