// SPDX-License-Identifier: Apache-2.0
// What one host instruction may be, may touch, and does to what the checker knows.
#include "engine/bt/verify.h"
#include "x86/system.h"
#include <string.h>

// --- which instructions ----------------------------------------------------------------------------------------

// Instructions that compute; control flow is verify.c's. What raises for other reasons than its memory operand
// (a division) is not for translated code.
static bool allowed(const struct x86_insn *x)
{
    const struct x86_form *form = x86_insn_form(x);
    const uint32_t never = X86_INSN_STACK | X86_INSN_BRANCH | X86_INSN_SENSITIVE | X86_INSN_REP |
                           X86_INSN_REPZ | X86_INSN_END_BLOCK;
    if (form->privilege != X86_PRIV_NONE || (form->attr & never) ||
        (form->treatment != X86_TREAT_COPY && form->treatment != X86_TREAT_MEM &&
         form->mnemonic_id != X86_MN_EMMS))
        return false;
    switch (form->mnemonic_id) {
    case X86_MN_CLD: // the host's DF stays clear
    case X86_MN_STD:
    case X86_MN_PUSH: // RSP is the guest's
    case X86_MN_POP:
    case X86_MN_LEAVE:
    case X86_MN_DIV:
    case X86_MN_IDIV:
    case X86_MN_FLDENV:
    case X86_MN_LDMXCSR:
        return false;
    default:
        return true;
    }
}

// --- fields of struct x86_cpu ----------------------------------------------------------------------------------

// Fields that code may write.
#define FIELD(f)                                                      \
    {                                                                 \
        offsetof(struct x86_cpu, f), sizeof(((struct x86_cpu *)0)->f) \
    }
#define FRAME_FIELD(f)                                    \
    {                                                     \
        FRAME(f), sizeof(((struct x86_code_frame *)0)->f) \
    }
static const struct {
    size_t at, size;
} writable[] = {
    {GPR(X86_R9), 3 * 8}, FIELD(icount),
    FIELD(rflags), // DF only: see below
    FRAME_FIELD(site),    FRAME_FIELD(scratch), FRAME_FIELD(x87_site),
    FRAME_FIELD(x87_seg),     FIELD(x87.fcw),
    FIELD(x87.fdp),       FIELD(x87.fds),
};
// Real mode and virtual-8086 mode load segment registers by themselves.
static const struct {
    size_t at, size;
} segment_fields[] = {
    {offsetof(struct x86_seg, sel), 2},      {offsetof(struct x86_seg, base), 8},
    {offsetof(struct x86_seg, attr), 4},     {offsetof(struct x86_seg, limit), 4},
    {offsetof(struct x86_seg, eff_base), 8},
};

// Kernels exchange their GS base with the user's.
static const struct {
    size_t at, size;
} swapgs_fields[] = {
    FIELD(kernel_gs_base),
    FIELD(seg[X86_GS].base),
    FIELD(seg[X86_GS].eff_base),
    FIELD(seg[X86_GS].unchecked),
};

static bool segment_writable(const struct verifier *v, size_t at, unsigned size)
{
    const size_t off = at - offsetof(struct x86_cpu, seg), n = off / sizeof(struct x86_seg);
    if ((v->bt->contexts[v->block->context].bits & BT_CTX_PROT) ||
        at < offsetof(struct x86_cpu, seg) || n >= X86_SEG_COUNT || n == X86_CS || n == X86_SS)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(segment_fields); i++)
        if (off % sizeof(struct x86_seg) == segment_fields[i].at && size == segment_fields[i].size)
            return true;
    return false;
}

// Index of a guest register or segment base in state.cell, or VCELLS.
static unsigned cell_of(int64_t at, bool *exact)
{
    *exact = false;
    static const size_t base[VCELLS] = {GPR(9),
                                        GPR(10),
                                        GPR(11),
                                        offsetof(struct x86_cpu, seg[X86_ES].eff_base),
                                        offsetof(struct x86_cpu, seg[X86_CS].eff_base),
                                        offsetof(struct x86_cpu, seg[X86_SS].eff_base),
                                        offsetof(struct x86_cpu, seg[X86_DS].eff_base),
                                        offsetof(struct x86_cpu, seg[X86_FS].eff_base),
                                        offsetof(struct x86_cpu, seg[X86_GS].eff_base),
                                        FRAME(scratch[1])};
    for (unsigned i = 0; i < VCELLS; i++) {
        if (at >= (int64_t)base[i] && at < (int64_t)base[i] + 8) {
            *exact = at == (int64_t)base[i];
            return i;
        }
    }
    return VCELLS;
}

// Offset of a slot in the frame when `at` is its field.
static bool slot_of(int64_t at, size_t field, uint16_t *slot)
{
    const int64_t off = at - (int64_t)offsetof(struct x86_cpu, frame) - (int64_t)field;
    *slot = (uint16_t)off;
    return off >= 0 && off < (int64_t)sizeof(((struct x86_code_frame *)0)->slot) &&
           off % (int64_t)sizeof(struct x86_page_slot) == 0;
}
static bool loose_of(int64_t at, uint16_t *slot)
{
    const int64_t off = at - (int64_t)offsetof(struct x86_cpu, frame) -
                        (int64_t)offsetof(struct x86_page_slot, addend);
    const int64_t in = off - (int64_t)offsetof(struct x86_code_frame, loose);
    *slot = (uint16_t)off;
    return in >= 0 && in < (int64_t)sizeof(((struct x86_code_frame *)0)->loose) &&
           in % (int64_t)sizeof(struct x86_page_slot) == 0;
}
#define PAGE_FIELD offsetof(struct x86_page_slot, page)
#define ADDEND_FIELD offsetof(struct x86_page_slot, addend)

static bool is_field(const struct x86_insn *x)
{
    return x->has_mem && x->seg == X86_GS && x->base == X86_REG_NONE && x->index == X86_REG_NONE;
}

bool vtarget_operand(const struct verifier *v, size_t field, unsigned *set)
{
    const struct x86_insn *x = &v->x;
    const int64_t size = sizeof(((struct x86_code_frame *)0)->target[0]);
    const int64_t off = x->disp - (int64_t)FRAME(target) - (int64_t)field;
    if (!x->has_mem || x->seg != X86_GS || x->base >= 16 || x->index != X86_REG_NONE ||
        x->adsize != 8 || off < 0 || off % size != 0 || off / size >= X86_FRAME_SETS)
        return false;
    const struct vvalue *index = &v->state.reg[x->base];
    *set = (unsigned)(off / size);
    return index->tag == V_SUM && index->scaled && index->max <= VINDEX_MAX;
}

static bool field_access(struct verifier *v, unsigned size, bool write)
{
    const struct x86_insn *x = &v->x;
    const struct x86_form *form = x86_insn_form(x);
    char name[64];
    const int64_t at = x->disp;
    const bool cpl0 = v->bt->contexts[v->block->context].bits & BT_CTX_CPL0;
    if (at < 0 || at + size > (int64_t)sizeof(struct x86_cpu))
        return vfail(v, "reaches outside of struct x86_cpu");
    if (!write)
        return true;
    bt_field_name(name, sizeof(name), at);
    for (size_t i = 0; i < ARRAY_SIZE(writable); i++) {
        if (at < (int64_t)writable[i].at ||
            at + size > (int64_t)(writable[i].at + writable[i].size))
            continue;
        if (writable[i].at == offsetof(struct x86_cpu, rflags)) {
            const unsigned mn = form->mnemonic_id;
            const bool imm = form->operand[1].kind == X86_OPND_IMM;
            const uint32_t may = X86_FLAG_DF | (cpl0 ? X86_FLAG_IF : 0);
            const bool ok = imm ? (mn == X86_MN_OR && !((uint32_t)x->imm & ~may)) ||
                                      (mn == X86_MN_AND && !(~(uint32_t)x->imm & ~may))
                                : mn == X86_MN_XOR && cpl0 && x->reg < 16 &&
                                      v->state.reg[x->reg].max == X86_FLAG_IF;
            if (size != 4 || !ok)
                return vfail(v, "changes more of %s than DF and, with CPL 0, IF", name);
        }
        if (writable[i].at == FRAME(site) &&
            (size != 4 || form->mnemonic_id != X86_MN_MOV || form->operand[1].kind != X86_OPND_IMM))
            return vfail(v, "writes %s other than by a constant", name);
        return true;
    }
    uint16_t slot;
    for (size_t i = 0; i < ARRAY_SIZE(swapgs_fields) && cpl0; i++)
        if (at == (int64_t)swapgs_fields[i].at && size == swapgs_fields[i].size)
            return true;
    if (segment_writable(v, (size_t)at, size) ||
        (loose_of(at, &slot) && size == 8 && form->mnemonic_id == X86_MN_MOV)) // more: in mov()
        return true;
    return vfail(v, "writes %s, which is not translated code's", name);
}

// --- the guest's memory ------------------------------------------------------------------------------------------

// An entry of the TLB, or the flags of its page?
static bool tlb_operand(const struct verifier *v, unsigned *entry, enum ventry *part)
{
    const struct x86_insn *x = &v->x;
    const struct vstate *s = &v->state;
    const unsigned set = (v->bt->contexts[v->block->context].bits & BT_CTX_SET) >> BT_CTX_SET_SHIFT;
    const int64_t at = x->disp - (int64_t)offsetof(struct x86_tlb, set) -
                       (int64_t)(set * X86_TLB_ENTRIES * sizeof(struct x86_tlb_entry));
    const struct vvalue *base = x->base < 16 ? &s->reg[x->base] : NULL;
    if (!x->has_mem || x->seg == X86_GS || x->adsize != 8 || !base || x->index != X86_REG_NONE ||
        base->tag != V_SUM || base->terms != 1 || base->add != 0 || base->term[0].factor != 1 ||
        base->term[0].symbol - VSYM_ENTRY >= VENTRIES_MAX * VENTRY_PARTS)
        return false;
    *entry = (base->term[0].symbol - VSYM_ENTRY) / VENTRY_PARTS;
    if ((base->term[0].symbol - VSYM_ENTRY) % VENTRY_PARTS == VENTRY_FLAGS && x->disp == 0) {
        // The pointer is one when the tag was found to fit.
        for (unsigned i = 0; i < s->known_count; i++)
            if (v->fact[s->known[i]].slot == VSYM_ENTRY + *entry) {
                *part = VENTRY_FLAGS;
                return true;
            }
        return false;
    }
    if ((base->term[0].symbol - VSYM_ENTRY) % VENTRY_PARTS != VENTRY_POINTER)
        return false;
    *part = at == (int64_t)offsetof(struct x86_tlb_entry, tag_read)    ? VENTRY_TAG_READ
            : at == (int64_t)offsetof(struct x86_tlb_entry, tag_write) ? VENTRY_TAG_WRITE
            : at == (int64_t)offsetof(struct x86_tlb_entry, flags)     ? VENTRY_FLAGS
            : at == (int64_t)offsetof(struct x86_tlb_entry, addend)    ? VENTRY_ADDEND
                                                                       : VENTRY_POINTER;
    return *part != VENTRY_POINTER;
}

void vfacts_copy(struct verifier *v, uint32_t from, uint32_t to, bool write)
{
    struct vstate *s = &v->state;
    const unsigned count = s->known_count;
    for (unsigned i = 0; i < count; i++) {
        struct vfact fact = v->fact[s->known[i]];
        if (fact.slot != from || v->facts == VFACTS_MAX || s->known_count == VKNOWN_MAX)
            continue;
        fact.slot = to;
        fact.write |= write;
        v->fact[v->facts] = fact;
        s->known[s->known_count++] = (uint16_t)v->facts++;
    }
}

static bool guest_access(struct verifier *v, unsigned size, bool write)
{
    const struct x86_insn *x = &v->x;
    const struct vstate *s = &v->state;
    struct vvalue sum = vconst(x->disp), addend;
    uint32_t symbol = 0;
    unsigned addends = 0, slots, set;
    uint16_t slot;
    bool loose;
    unsigned entry;
    enum ventry part;
    if (x->adsize != 8)
        return vfail(v, "an address that is not 64 bits wide");
    if (!write && tlb_operand(v, &entry, &part) &&
        (size == 8 || (size == 1 && part == VENTRY_FLAGS)))
        return true;
    if (x->base < 16)
        sum = vsum(v, &sum, &s->reg[x->base], 1, 0);
    if (x->index < 16)
        sum = vsum(v, &sum, &s->reg[x->index], (int64_t)1 << x->scale, 0);
    for (unsigned i = 0; i < sum.terms; i++) {
        if (sum.term[i].symbol - VSYM_ADDEND < VSYM_LOW - VSYM_ADDEND) {
            symbol = sum.term[i].symbol;
            addends += sum.term[i].factor == 1 ? 1 : 2;
        }
    }
    if (addends != 1)
        return vfail(v, "accesses memory by what is not an address plus a slot's addend");
    slot = (uint16_t)(symbol - VSYM_ADDEND);
    loose = slot >= sizeof(((struct x86_code_frame *)0)->slot); // see TLB entries
    slots = slot / (unsigned)sizeof(struct x86_page_slot);
    set = slots / X86_FRAME_SLOTS / X86_FRAME_KINDS;
    if (!loose && set != (v->bt->contexts[v->block->context].bits & BT_CTX_SET) >> BT_CTX_SET_SHIFT)
        return vfail(v, "uses a slot of set %u, another privilege's", set);
    if (write && !loose && slots / X86_FRAME_SLOTS % X86_FRAME_KINDS != X86_FRAME_WRITE)
        return vfail(v, "writes through a slot for reading");
    addend = vsymbol(symbol);
    sum = vsum(v, &sum, &addend, -1, 0);
    for (unsigned i = 0; i < s->known_count; i++) {
        const struct vfact *fact = &v->fact[s->known[i]];
        int64_t off;
        if (fact->slot == slot && (!write || !loose || fact->write) &&
            vdistance(v, fact, &sum, &off) && off >= 0 && off + (int64_t)size <= fact->size)
            return true;
    }
    return vfail(v, "accesses %u bytes of the guest's memory that no check before it covers", size);
}

bool vaccess(struct verifier *v, unsigned size, bool write)
{
    const struct x86_insn *x = &v->x;
    unsigned set;
    if (size == 0)
        return vfail(v, "accesses memory of unknown size");
    if (x->seg == X86_FS || x->base == X86_REG_RIP)
        return vfail(v, "accesses the monitor's own memory");
    if (is_field(x))
        return field_access(v, size, write);
    if (x->seg == X86_GS) {
        if (write || (!vtarget_operand(v, offsetof(struct x86_branch_target, rip), &set) &&
                      !vtarget_operand(v, offsetof(struct x86_branch_target, code), &set)))
            return vfail(v,
                         "indexes struct x86_cpu other than the table of targets, in its bounds");
        return true;
    }
    return guest_access(v, size, write);
}

// --- effects -----------------------------------------------------------------------------------------------------

static void set_reg(struct verifier *v, unsigned reg, struct vvalue value)
{
    struct vstate *s = &v->state;
    // What the guest computes itself becomes one symbol before sums of it get too long.
    if (value.tag == V_SUM && value.terms > 2 && reg != BT_S1 && reg != BT_S2)
        value = vfresh(v);
    s->reg[reg] = value;
    if (s->target_reg == reg)
        s->found = s->found_pending = 0;
}

// reg = value, `size` bytes of it.
static void write_reg(struct verifier *v, unsigned reg, unsigned size, struct vvalue value)
{
    if (size == 8)
        set_reg(v, reg, value);
    else if (size == 4)
        set_reg(v, reg, vlow(v, &value));
    else
        set_reg(v, reg >= X86_REG8_HIGH ? reg - X86_REG8_HIGH : reg,
                size == 2 ? vhalf(v, &value) : vfresh(v));
}

// What a load from the field gives.
static struct vvalue load_field(struct verifier *v, unsigned size)
{
    struct vstate *s = &v->state;
    bool exact;
    uint16_t slot;
    unsigned cell = cell_of(v->x.disp, &exact);
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        if (size == 4 && v->x.disp == (int64_t)offsetof(struct x86_cpu, seg[i].limit))
            return vsymbol(VSYM_LIMIT + i);
    if (size != 8)
        return cell < VCELLS && exact && size == 4 ? vlow(v, &s->cell[cell]) : vfresh(v);
    if (cell < VCELLS && exact)
        return s->cell[cell];
    if (slot_of(v->x.disp, ADDEND_FIELD, &slot) || loose_of(v->x.disp, &slot))
        return vsymbol(VSYM_ADDEND + slot);
    return vfresh(v);
}

static void store_field(struct verifier *v, unsigned size, const struct vvalue *value)
{
    struct vstate *s = &v->state;
    const int64_t at = v->x.disp;
    bool exact;
    unsigned cell = cell_of(at, &exact);
    if (cell < VCELLS)
        s->cell[cell] = exact && size == 8 && value && value->terms <= 2 ? *value : vfresh(v);
    if (at == (int64_t)FRAME(site))
        s->site = (uint32_t)v->x.imm + 1;
}

// A shift by a constant: the table says that flags are read because a count of 0 leaves them.
static bool shifts_for_certain(const struct x86_insn *x)
{
    const struct x86_form *form = x86_insn_form(x);
    const unsigned mn = form->mnemonic_id;
    if ((mn != X86_MN_SHL && mn != X86_MN_SHR && mn != X86_MN_SAR) || form->operand_count != 2)
        return false;
    return form->operand[1].kind == X86_OPND_ONE ||
           (form->operand[1].kind == X86_OPND_IMM && (x->imm & (x->opsize == 8 ? 63 : 31)) != 0);
}

// What becomes of RFLAGS. `internal`: the operation is the translator's own.
static bool flags_after(struct verifier *v, bool internal)
{
    const struct x86_form *form = x86_insn_form(&v->x);
    struct vstate *s = &v->state;
    const uint32_t touched = (form->flags_written | form->flags_undefined) & X86_FLAGS_ARITH;
    uint32_t read = form->flags_read & X86_FLAGS_ARITH;
    if (shifts_for_certain(&v->x))
        read = 0;
    if (read && s->flags != VF_GUEST)
        return vfail(v, "reads flags that are not the guest's");
    if (!touched)
        return true;
    if (internal)
        s->flags = form->mnemonic_id == X86_MN_TEST || form->mnemonic_id == X86_MN_CMP ? VF_COMPARE
                                                                                       : VF_LOST;
    else if (touched == X86_FLAGS_ARITH)
        s->flags = VF_GUEST;
    else if (s->flags != VF_GUEST)
        s->flags = VF_LOST;
    return true;
}

static bool fact_new(struct verifier *v, uint8_t kind, const struct vvalue *address, uint32_t slot,
                     int32_t size)
{
    if (v->facts == VFACTS_MAX)
        return vfail(v, "more checks than the checker can hold");
    v->fact[v->facts] = (struct vfact){.address = *address,
                                       .slot = slot,
                                       .size = size,
                                       .wrap_symbol = v->state.wrap_symbol,
                                       .wrap = v->state.wrap,
                                       .at = v->at};
    v->state.flags = kind;
    v->state.flags_fact = (uint16_t)v->facts++;
    return true;
}

// The end of a range of 16-bit offsets against the end of its segment: by `cmp offset, 10000h - span; ja`, or by
// `cmp limit - offset, span - 1; jl` where the context says that the limit is below 64 KiB.
static bool wrap_compare(struct verifier *v, unsigned size, unsigned reg)
{
    const struct vvalue *value = &v->state.reg[reg];
    struct vvalue symbol, offset;
    uint32_t low16 = vis_low16(value);
    struct vstate *s = &v->state;
    if (low16 && reg == BT_S1 && size == 4 && v->x.imm <= 0xffff) {
        s->flags = VF_WRAP;
        s->wrap_pending_symbol = low16;
        s->wrap_pending = (int32_t)(0x10000 - v->x.imm);
        return true;
    }
    for (unsigned i = 0; size == 8 && reg == BT_S2 && value->tag == V_SUM && i < value->terms;
         i++) {
        const unsigned seg = value->term[i].symbol - VSYM_LIMIT;
        if (seg >= X86_SEG_COUNT || value->term[i].factor != 1)
            continue;
        s->flags = VF_COMPARE;
        symbol = vsymbol(value->term[i].symbol);
        offset = vsum(v, &symbol, value, -1, 0);
        low16 = vis_low16(&offset);
        if (low16 && v->x.imm < 0x10000 &&
            !(v->bt->contexts[v->block->context].segs >> seg * BT_SEG_BITS & BT_SEG_64K)) {
            s->flags = VF_WRAP;
            s->wrap_pending_symbol = low16;
            s->wrap_pending = (int32_t)v->x.imm + 1;
        }
        return true;
    }
    return false;
}

// CMP with something of the translator's own; *done when it is.
static bool compare(struct verifier *v, bool *done)
{
    const struct x86_insn *x = &v->x;
    const struct x86_operand a = x86_operand_get(x, 0), b = x86_operand_get(x, 1);
    struct vstate *s = &v->state;
    struct vvalue value;
    uint16_t slot;
    unsigned set;
    bool exact;
    unsigned entry;
    enum ventry part;
    *done = true;
    if (a.is_mem && a.size == 1 && tlb_operand(v, &entry, &part) && part == VENTRY_FLAGS) {
        s->flags = (x->imm & 0xff) == PAGE_FLAGS_PLAIN ? VF_PLAIN : VF_COMPARE;
        s->plain = (uint16_t)entry;
        return true;
    }
    if (vtarget_operand(v, offsetof(struct x86_branch_target, rip), &set) && !a.is_mem) {
        s->flags = VF_TARGET;
        s->target_reg = x->base;
        s->found = 0;
        s->found_pending = (uint8_t)(set + 1);
        return true;
    }
    if (is_field(x) && cell_of(x->disp, &exact) == VCELLS) {
        s->flags = VF_COMPARE;
        if (a.size != 8 || !slot_of(x->disp, PAGE_FIELD, &slot))
            return true;
        value = a.is_mem && b.kind == X86_OPND_IMM ? vconst((int64_t)x->imm)
                : a.is_mem                         ? vfresh(v)
                                                   : s->reg[a.reg];
        if (!vconstant(&value) || (value.add & (int64_t)PAGE_OFFSET_MASK) != 0)
            return true;
        return fact_new(v, VF_PAGE, &value, slot, PAGE_SIZE);
    }
    if (!a.is_mem && a.size >= 4 && a.reg < 16 && b.kind == X86_OPND_IMM &&
        wrap_compare(v, a.size, a.reg))
        return true;
    if (!a.is_mem && a.size == 8 && b.kind == X86_OPND_IMM) {
        value = s->reg[a.reg];
        for (unsigned i = 0; value.tag == V_SUM && i < value.terms; i++) {
            const struct vterm *t = &value.term[i];
            const uint32_t in_entry = (t->symbol - VSYM_ENTRY) % VENTRY_PARTS;
            const bool tag = t->symbol - VSYM_ENTRY < VENTRIES_MAX * VENTRY_PARTS &&
                             (in_entry == VENTRY_TAG_READ || in_entry == VENTRY_TAG_WRITE);
            if (!tag && t->symbol - VSYM_PAGE >= VSYM_ADDEND - VSYM_PAGE)
                continue;
            s->flags = VF_COMPARE;
            if (t->factor != -1 || x->imm >= PAGE_SIZE)
                return true;
            struct vvalue page = vsymbol(t->symbol);
            value = vsum(v, &value, &page, 1, 0);
            return fact_new(v, VF_SLOT, &value,
                            tag ? VSYM_ENTRY + (page.term[0].symbol - VSYM_ENTRY) / VENTRY_PARTS
                                : page.term[0].symbol - VSYM_PAGE,
                            (int32_t)(PAGE_SIZE - x->imm));
        }
    }
    *done = false;
    return true;
}

// ADD and SUB of a slot's field to a register; *done when it is one.
static bool add_slot(struct verifier *v, bool *done)
{
    const struct x86_insn *x = &v->x;
    const struct x86_operand a = x86_operand_get(x, 0);
    const bool sub = x86_insn_form(x)->mnemonic_id == X86_MN_SUB;
    struct vvalue field;
    uint16_t slot;
    const struct x86_operand b = x86_operand_get(x, 1);
    bool exact;
    *done = false;
    if (sub && !a.is_mem && !b.is_mem && a.size == 8 && b.kind != X86_OPND_IMM && b.reg == BT_S1 &&
        a.reg == BT_S2 && v->state.reg[BT_S2].terms == 1 &&
        v->state.reg[BT_S2].term[0].symbol - VSYM_LIMIT < X86_SEG_COUNT) { // limit - offset
        *done = true;
        v->state.flags = VF_LOST;
        set_reg(v, a.reg, vsum(v, &v->state.reg[a.reg], &v->state.reg[b.reg], -1, 0));
        return true;
    }
    unsigned entry;
    enum ventry part;
    if (sub && !a.is_mem && a.size == 8 && tlb_operand(v, &entry, &part) &&
        (part == VENTRY_TAG_READ || part == VENTRY_TAG_WRITE)) {
        *done = true;
        v->state.flags = VF_LOST;
        field = vsymbol(VSYM_ENTRY + entry * VENTRY_PARTS + (uint32_t)part);
        set_reg(v, a.reg, vsum(v, &v->state.reg[a.reg], &field, -1, 0));
        return true;
    }
    if (a.is_mem || !is_field(x))
        return true;
    if (!sub && a.size == 8 && x->disp == (int64_t)offsetof(struct x86_cpu, tlb) &&
        v->state.reg[a.reg].tag == V_SUM && v->state.reg[a.reg].entries &&
        v->entries < VENTRIES_MAX) {
        *done = true;
        v->state.flags = VF_LOST;
        set_reg(v, a.reg, vsymbol(VSYM_ENTRY + v->entries++ * VENTRY_PARTS));
        return true;
    }
    if (!sub && a.size == 4 && cell_of(x->disp, &exact) >= 3 &&
        cell_of(x->disp, &exact) < VCELL_SCRATCH && exact) { // a segment's base
        *done = true;
        v->state.flags = VF_LOST;
        field = vsum(v, &v->state.reg[a.reg], &v->state.cell[cell_of(x->disp, &exact)], 1, 0);
        set_reg(v, a.reg, vlow(v, &field));
        return true;
    }
    if (a.size != 8)
        return true;
    if (slot_of(x->disp, PAGE_FIELD, &slot))
        field = vsymbol(VSYM_PAGE + slot);
    else if (slot_of(x->disp, ADDEND_FIELD, &slot))
        field = vsymbol(VSYM_ADDEND + slot);
    else
        return true;
    *done = true;
    v->state.flags = VF_LOST;
    set_reg(v, a.reg, vsum(v, &v->state.reg[a.reg], &field, sub ? -1 : 1, 0));
    return true;
}

// ADD, SUB, AND, SHL of a register and a constant: what is known of the result.
static struct vvalue with_constant(struct verifier *v, unsigned mnemonic, unsigned reg,
                                   unsigned size)
{
    const struct x86_insn *x = &v->x;
    const struct vvalue *old = &v->state.reg[reg];
    struct vvalue value = vfresh(v);
    if (mnemonic == X86_MN_SHL && size == 4 && x->imm == 8) {
        value.high = true;
        return value;
    }
    if (mnemonic == X86_MN_INC || mnemonic == X86_MN_DEC)
        return vsum(v, old, NULL, 0, mnemonic == X86_MN_INC ? 1 : -1);
    if (mnemonic == X86_MN_ADD)
        return vsum(v, old, NULL, 0, (int64_t)x->imm);
    if (mnemonic == X86_MN_SUB)
        return vsum(v, old, NULL, 0, -(int64_t)x->imm);
    if (mnemonic == X86_MN_AND && (int64_t)x->imm > 0 && x->imm <= INT32_MAX) {
        value.max = (uint32_t)x->imm;
        value.entries = x->imm == (X86_TLB_ENTRIES - 1) << 6 && sizeof(struct x86_tlb_entry) == 64;
    } else if (mnemonic == X86_MN_SHL && size == 4 && old->tag == V_SUM && old->max &&
               old->max <= UINT32_MAX >> 4 && x->imm == 4) {
        value.max = old->max << 4;
        value.scaled = true;
    }
    return value;
}

static bool lea(struct verifier *v)
{
    const struct x86_insn *x = &v->x;
    struct vstate *s = &v->state;
    struct vvalue sum = vconst(x->disp);
    if (x->base == X86_REG_RIP)
        return vfail(v, "makes an address of the code cache");
    if (x->base < 16)
        sum = vsum(v, &sum, &s->reg[x->base], 1, 0);
    if (x->index < 16)
        sum = vsum(v, &sum, &s->reg[x->index], (int64_t)1 << x->scale, 0);
    if (x->adsize == 4)
        sum = vlow(v, &sum);
    else if (x->adsize != 8)
        sum = vfresh(v);
    write_reg(v, x->reg, x->opsize, sum);
    return true;
}

// A loose slot gets the addend of a TLB entry, and with it what is known of that entry.
static bool store_loose(struct verifier *v, uint16_t slot, unsigned reg, const struct vvalue *value)
{
    struct vstate *s = &v->state;
    const uint32_t symbol =
        value->tag == V_SUM && value->terms == 1 && value->add == 0 && value->term[0].factor == 1
            ? value->term[0].symbol - VSYM_ENTRY
            : UINT32_MAX;
    unsigned kept = 0;
    if (symbol >= VENTRIES_MAX * VENTRY_PARTS || symbol % VENTRY_PARTS != VENTRY_ADDEND)
        return vfail(v, "stores what is not the addend of a TLB entry");
    for (unsigned i = 0; i < s->known_count; i++)
        if (v->fact[s->known[i]].slot != slot)
            s->known[kept++] = s->known[i];
    s->known_count = (uint16_t)kept;
    vfacts_copy(v, VSYM_ENTRY + symbol / VENTRY_PARTS, slot, false);
    set_reg(v, reg, vsymbol(VSYM_ADDEND + slot));
    return true;
}

static bool mov(struct verifier *v)
{
    const struct x86_insn *x = &v->x;
    const struct x86_operand to = x86_operand_get(x, 0), from = x86_operand_get(x, 1);
    struct vvalue value;
    unsigned set;
    uint16_t slot;
    if (to.kind == X86_OPND_SREG || to.kind == X86_OPND_CREG || to.kind == X86_OPND_DREG ||
        from.kind == X86_OPND_SREG || from.kind == X86_OPND_CREG || from.kind == X86_OPND_DREG)
        return vfail(v, "not an instruction for translated code");
    if (x->has_mem && !vaccess(v, to.size, to.is_mem))
        return false;
    if (from.is_mem) {
        unsigned entry;
        enum ventry part;
        value = is_field(x) ? load_field(v, from.size) : vfresh(v);
        if (from.size == 8 && tlb_operand(v, &entry, &part) && part >= VENTRY_FLAGS &&
            x->base != X86_REG_NONE)
            value = vsymbol(VSYM_ENTRY + entry * VENTRY_PARTS + (uint32_t)part);
        if (from.size == 8 && vtarget_operand(v, offsetof(struct x86_branch_target, code), &set)) {
            if (v->state.found != set + 1 || v->state.target_reg != x->base)
                return vfail(v, "takes a target that was not compared");
            value.tag = V_CODE;
        }
    } else if (from.kind == X86_OPND_IMM) {
        value = vconst((int64_t)x->imm);
    } else {
        value = from.size >= 4 ? v->state.reg[from.reg] : vfresh(v);
        if (from.size == 4)
            value = vlow(v, &value);
    }
    if (!to.is_mem)
        write_reg(v, to.reg, to.size, value);
    else if (is_field(x) && loose_of(x->disp, &slot))
        return store_loose(v, slot, from.reg, &value);
    else if (is_field(x))
        store_field(v, to.size, &value);
    return true;
}

// The pieces of saving and restoring the flags. *done when it is one.
static bool flag_pieces(struct verifier *v, bool *done)
{
    const struct x86_insn *x = &v->x;
    const unsigned mn = x86_insn_form(x)->mnemonic_id;
    struct vstate *s = &v->state;
    struct vvalue *rax = &s->reg[HOST_RAX];
    const struct x86_operand to = x86_operand_get(x, 0);
    const bool al = !to.is_mem && to.size == 1 && to.reg == HOST_RAX && !x->has_mem;
    *done = true;
    if (mn == X86_MN_LAHF) {
        if (s->flags != VF_GUEST)
            return vfail(v, "saves flags that are not the guest's");
        set_reg(v, HOST_RAX, (struct vvalue){.tag = V_AH});
    } else if (mn == X86_MN_SETO && al && rax->tag == V_AH) {
        if (s->flags != VF_GUEST)
            return vfail(v, "saves flags that are not the guest's");
        rax->tag = V_FLAGS;
    } else if (mn == X86_MN_ADD && al && rax->tag == V_FLAGS && x->imm == 0x7f) {
        rax->tag = V_LAST;
        s->flags = VF_HALF;
    } else if (mn == X86_MN_SAHF) {
        if (rax->tag != V_LAST || s->flags != VF_HALF)
            return vfail(v, "restores flags that were not saved");
        *rax = vfresh(v);
        s->flags = VF_GUEST;
    } else if (mn == X86_MN_OR && !x->has_mem && to.size == 4 && to.reg == HOST_RAX && rax->high &&
               s->reg[x86_operand_get(x, 1).reg & 15].max == 1) {
        // Put together from a flags image: POPF.
        *rax = (struct vvalue){.tag = V_FLAGS};
        s->flags = VF_LOST;
    } else {
        *done = false;
    }
    return true;
}

// Something that no guest's register holds?
static bool is_internal(const struct vvalue *value)
{
    for (unsigned i = 0; value->tag == V_SUM && i < value->terms; i++)
        if (vsym_internal(value->term[i].symbol))
            return true;
    return value->tag != V_SUM;
}

static bool generic(struct verifier *v)
{
    const struct x86_insn *x = &v->x;
    const struct x86_form *form = x86_insn_form(x);
    const unsigned mn = form->mnemonic_id;
    bool exact, internal = is_field(x) && cell_of(x->disp, &exact) == VCELLS;
    struct vvalue value[5];
    if (x->has_mem) {
        unsigned size = 0;
        bool write = false, found = false;
        for (unsigned i = 0; i < form->operand_count; i++) {
            struct x86_operand o = x86_operand_get(x, i);
            if (!o.is_mem)
                continue;
            if (o.kind == X86_OPND_VSIB)
                return vfail(v, "gathers");
            size = o.size;
            write = form->operand[i].rw & X86_RW_WRITE;
            found = true;
        }
        // A bit offset in a register reaches beyond the operand.
        if ((mn == X86_MN_BT || mn == X86_MN_BTS || mn == X86_MN_BTR || mn == X86_MN_BTC) &&
            form->operand[1].kind == X86_OPND_REG)
            return vfail(v, "reaches beyond its operand");
        if (!found || !vaccess(v, size, write))
            return found ? false : vfail(v, "accesses memory that is no operand");
        if (write && is_field(x))
            store_field(v, size, NULL);
    }
    for (unsigned i = 0; i < form->operand_count; i++) {
        struct x86_operand o = x86_operand_get(x, i);
        if (!o.is_mem && (form->operand[i].rw & X86_RW_READ) &&
            (o.kind == X86_OPND_RM || o.kind == X86_OPND_REG))
            internal |=
                is_internal(&v->state.reg[o.reg >= X86_REG8_HIGH ? o.reg - X86_REG8_HIGH : o.reg]);
    }
    if (!flags_after(v, internal))
        return false;
    for (unsigned i = 0; i < form->operand_count; i++) {
        struct x86_operand o = x86_operand_get(x, i);
        const bool imm = (form->operand_count == 2 && form->operand[1].kind == X86_OPND_IMM) ||
                         mn == X86_MN_INC || mn == X86_MN_DEC;
        value[i] = i == 0 && imm && !o.is_mem && o.size >= 4 && o.reg < 16
                       ? with_constant(v, mn, o.reg, o.size)
                       : vfresh(v);
    }
    for (unsigned i = 0; i < form->operand_count; i++) {
        struct x86_operand o = x86_operand_get(x, i);
        if (o.is_mem || !(form->operand[i].rw & X86_RW_WRITE))
            continue;
        if (o.kind == X86_OPND_RM || o.kind == X86_OPND_RM_REG || o.kind == X86_OPND_REG ||
            o.kind == X86_OPND_OPREG || o.kind == X86_OPND_VVVV_GPR)
            write_reg(v, o.reg, o.size, value[i]);
        else if (o.kind == X86_OPND_FIXED_GPR)
            write_reg(v, form->operand[i].fixed, o.size, value[i]);
    }
    for (unsigned i = 0; i < 16; i++)
        if (form->gpr_write >> i & 1)
            set_reg(v, i, vfresh(v));
    return true;
}

bool vexecute(struct verifier *v)
{
    const struct x86_insn *x = &v->x;
    const unsigned mn = x86_insn_form(x)->mnemonic_id;
    bool done = false;
    if (!allowed(x))
        return vfail(v, "not an instruction for translated code");
    if (mn == X86_MN_NOP)
        return true;
    if (mn == X86_MN_LEA)
        return lea(v);
    if (mn == X86_MN_MOV)
        return mov(v);
    if (mn == X86_MN_MOVZX && !x->has_mem && x86_operand_get(x, 1).size == 2 && x->opsize >= 4) {
        set_reg(v, x->reg, vlow16(v, &v->state.reg[x->rm]));
        return true;
    }
    if (!flag_pieces(v, &done))
        return false;
    if (done)
        return true;
    if (mn == X86_MN_CMP) {
        const struct x86_operand a = x86_operand_get(x, 0);
        if ((x->has_mem && !vaccess(v, a.size, false)) || !compare(v, &done))
            return false;
        if (done)
            return true;
    }
    if (mn == X86_MN_ADD || mn == X86_MN_SUB) {
        if (!add_slot(v, &done))
            return false;
        if (done)
            return true;
    }
    return generic(v);
}
