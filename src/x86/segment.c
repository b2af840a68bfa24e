// SPDX-License-Identifier: Apache-2.0
// Segment registers: loading them with every check, LDTR and TR, and the instructions that look at
// descriptors (SDM vol. 3, chapter 5; the instructions' pages in vol. 2). Also the pieces that
// exceptions and far transfers share: accessed bits, inner stacks, stack frames.
//
// Rules to keep:
//  - A load changes the register last, after the accessed bit is written.
//  - In real and V86 mode a load sets selector and base only (V86 also sets limit and rights).
//  - Vendors: a null selector loaded by MOV leaves base and limit on AMD, clears them on Intel.
#include "x86/descriptor.h"

// --- table bytes ---------------------------------------------------------------------------------

// The host byte behind lin when the processor may write it in RAM, after filling the TLB.
static _Atomic uint8_t *sys_byte(struct x86_cpu *cpu, gva_t lin, struct x86_tlb_entry **entry)
{
    x86_sys_write_check(cpu, lin, 1);
    struct x86_tlb_entry *e = x86_sys_entry(cpu, lin);
    if (!x86_tlb_hit(e->tag_write, lin, 1))
        return NULL;
    *entry = e;
    return (_Atomic uint8_t *)(lin + e->addend);
}

void x86_sys_or8(struct x86_cpu *cpu, gva_t lin, uint8_t bits)
{
    struct x86_tlb_entry *e;
    lin = x86_sys_lin(cpu, lin);
    _Atomic uint8_t *host = sys_byte(cpu, lin, &e);
    if (host != NULL) {
        atomic_fetch_or(host, bits);
        x86_stored(cpu, e, lin, 1);
    } else {
        x86_sys_write(cpu, lin, x86_sys_read(cpu, lin, 1) | bits, 1);
    }
}

void x86_sys_andnot8(struct x86_cpu *cpu, gva_t lin, uint8_t bits)
{
    struct x86_tlb_entry *e;
    lin = x86_sys_lin(cpu, lin);
    _Atomic uint8_t *host = sys_byte(cpu, lin, &e);
    if (host != NULL) {
        atomic_fetch_and(host, (uint8_t)~bits);
        x86_stored(cpu, e, lin, 1);
    } else {
        x86_sys_write(cpu, lin, x86_sys_read(cpu, lin, 1) & (uint8_t)~bits, 1);
    }
}

void x86_desc_touch_slow(struct x86_cpu *cpu, struct x86_desc *d)
{
    x86_sys_or8(cpu, d->lin + 5, X86_TYPE_ACCESSED);
    d->hi |= X86_TYPE_ACCESSED << 8;
}

// --- stack frames --------------------------------------------------------------------------------

// The push number i (1 is the first): its limit, its canonical form, its page.
static void frame_check_push(struct x86_cpu *cpu, const struct x86_frame *f, unsigned i,
                             unsigned slot, uint32_t error)
{
    uint64_t at = (f->sp - (uint64_t)i * slot) & f->mask;
    gva_t lin = (f->base + at) & f->lin_mask;
    if (f->ss ? !x86_seg_within(f->ss, (uint32_t)at, slot)
              : !x86_canonical(at) || !x86_canonical(at + slot - 1))
        x86_raise_error(cpu, X86_SS_FAULT, error);
    if (f->system)
        x86_sys_write_check(cpu, lin, slot);
    else
        x86_write_check_slow(cpu, X86_SS, lin, slot);
}

void x86_frame_reserve(struct x86_cpu *cpu, const struct x86_frame *f, unsigned slots,
                       unsigned slot, uint32_t error)
{
    unsigned bytes = slots * slot;
    uint64_t top = f->sp & f->mask;
    uint64_t low = (top - bytes) & f->mask;
    bool whole = low + bytes == top; // does not wrap

    if (f->ss == NULL) {
        whole &= x86_canonical(low) && x86_canonical(top - 1);
    } else {
        if (f->ss->attr & X86_ATTR_UNUSABLE)
            x86_raise_error(cpu, X86_SS_FAULT, error);
        whole &= x86_seg_within(f->ss, (uint32_t)low, bytes);
    }
    gva_t first = (f->base + low) & f->lin_mask;
    gva_t last = (f->base + ((top - 1) & f->mask)) & f->lin_mask;
    // Within one page, aligned: the first push faults or none does.
    if (likely(whole && ((first ^ last) & PAGE_MASK) == 0))
        return;
    for (unsigned i = 1; i <= slots; i++)
        frame_check_push(cpu, f, i, slot, error);
}

void x86_frame_write_slow(struct x86_cpu *cpu, const struct x86_frame *f, gva_t lin, uint64_t value,
                          unsigned slot)
{
    if (f->system)
        x86_sys_write(cpu, lin, value, slot);
    else
        x86_write_slow(cpu, X86_SS, lin, value, slot);
}

// --- stacks of inner levels (SDM vol. 3, 7.2, 7.7) -----------------------------------------------

void x86_tss_stack(struct x86_cpu *cpu, unsigned level, uint32_t ext, uint16_t *ss, uint32_t *esp)
{
    const struct x86_seg *tr = &cpu->tr;
    bool wide = (tr->attr & X86_ATTR_TYPE & ~X86_TSS_BUSY) == X86_SYS_TSS32;
    uint32_t at = wide ? level * 8 + 4 : level * 4 + 2;
    if (at + (wide ? 5 : 3) > tr->limit)
        x86_raise_error(cpu, X86_TS, x86_sel_error(tr->sel, ext));
    if (wide) {
        *esp = x86_sys_read32(cpu, tr->base + at);
        *ss = x86_sys_read16(cpu, tr->base + at + 4);
    } else {
        *esp = x86_sys_read16(cpu, tr->base + at);
        *ss = x86_sys_read16(cpu, tr->base + at + 2);
    }
}

uint64_t x86_tss_rsp(struct x86_cpu *cpu, unsigned byte_offset, uint32_t ext)
{
    const struct x86_seg *tr = &cpu->tr;
    if (unlikely(byte_offset + 7 > tr->limit))
        x86_raise_error(cpu, X86_TS, x86_sel_error(tr->sel, ext));
    return x86_sys_read64(cpu, tr->base + byte_offset);
}

void x86_inner_ss(struct x86_cpu *cpu, uint16_t sel, unsigned new_cpl, uint32_t ext,
                  struct x86_seg *seg, struct x86_desc *d)
{
    if (x86_sel_null(sel))
        x86_raise_error(cpu, X86_TS, ext);
    if ((sel & X86_SEL_RPL) != new_cpl || !x86_desc_read(cpu, sel, d) ||
        x86_desc_dpl(d) != new_cpl || !x86_desc_writable_data(d))
        x86_raise_error(cpu, X86_TS, x86_sel_error(sel, ext));
    if (!x86_desc_present(d))
        x86_raise_error(cpu, X86_SS_FAULT, x86_sel_error(sel, ext));
    x86_seg_from_desc(seg, sel, d);
    seg->attr |= X86_TYPE_ACCESSED;
}

// --- loading -------------------------------------------------------------------------------------

void x86_seg_null(struct x86_cpu *cpu, unsigned n, uint16_t sel)
{
    struct x86_seg *seg = &cpu->seg[n];
    // AMD processors before Zen 2 kept base and limit; those since clear them as Intel's do.
    seg->sel = sel;
    seg->attr = X86_ATTR_UNUSABLE;
    seg->limit = 0;
    seg->base = 0;
    x86_seg_changed(cpu, n);
}

void x86_seg_v86(struct x86_cpu *cpu, unsigned n, uint16_t sel)
{
    cpu->seg[n] =
        (struct x86_seg){.sel = sel, .attr = 0xf3, .limit = 0xffff, .base = (uint64_t)sel << 4};
    x86_seg_changed(cpu, n);
}

void x86_load_real(struct x86_cpu *cpu, unsigned n, uint16_t sel)
{
    if (x86_v86_mode(cpu)) {
        x86_seg_v86(cpu, n, sel);
        return;
    }
    struct x86_seg *seg = &cpu->seg[n];
    seg->sel = sel;
    seg->base = (uint64_t)sel << 4;
    if (unlikely(seg->attr & X86_ATTR_UNUSABLE)) { // null since protected mode: usable again
        seg->attr = 0x93;
        seg->limit = 0xffff;
    }
    if (n == X86_SS)
        x86_ss_loaded(cpu);
    else
        x86_seg_changed(cpu, n);
}

static void load_ss(struct x86_cpu *cpu, uint16_t sel)
{
    struct x86_desc d;
    if (x86_sel_null(sel)) {
        if (cpu->code_size != X86_CODE64 || cpu->cpl == 3 || (sel & X86_SEL_RPL) != cpu->cpl)
            x86_raise_error(cpu, X86_GP, 0);
        cpu->seg[X86_SS] = (struct x86_seg){
            .sel = sel, .attr = X86_ATTR_UNUSABLE | (uint32_t)cpu->cpl << X86_ATTR_DPL_SHIFT};
        x86_ss_loaded(cpu);
        return;
    }
    if (!x86_desc_read(cpu, sel, &d) || (sel & X86_SEL_RPL) != cpu->cpl ||
        !x86_desc_writable_data(&d) || x86_desc_dpl(&d) != cpu->cpl)
        x86_raise_error(cpu, X86_GP, x86_sel_error(sel, 0));
    if (!x86_desc_present(&d))
        x86_raise_error(cpu, X86_SS_FAULT, x86_sel_error(sel, 0));
    x86_desc_touch(cpu, &d);
    x86_seg_from_desc(&cpu->seg[X86_SS], sel, &d);
    x86_ss_loaded(cpu);
}

void x86_load_seg(struct x86_cpu *cpu, unsigned n, uint16_t sel)
{
    struct x86_desc d;
    if (!x86_prot_mode(cpu)) {
        x86_load_real(cpu, n, sel);
        return;
    }
    if (n == X86_SS) {
        load_ss(cpu, sel);
        return;
    }
    if (x86_sel_null(sel)) {
        x86_seg_null(cpu, n, sel);
        return;
    }
    if (!x86_desc_read(cpu, sel, &d) || !x86_desc_readable(&d))
        x86_raise_error(cpu, X86_GP, x86_sel_error(sel, 0));
    if (!x86_desc_is_code(&d) || !x86_desc_conforming(&d)) {
        unsigned dpl = x86_desc_dpl(&d);
        if ((sel & X86_SEL_RPL) > dpl || cpu->cpl > dpl)
            x86_raise_error(cpu, X86_GP, x86_sel_error(sel, 0));
    }
    if (!x86_desc_present(&d))
        x86_raise_error(cpu, X86_NP, x86_sel_error(sel, 0));
    x86_desc_touch(cpu, &d);
    x86_seg_from_desc(&cpu->seg[n], sel, &d);
    x86_seg_changed(cpu, n);
}

void x86_segs_outer(struct x86_cpu *cpu, unsigned new_cpl)
{
    static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
        struct x86_seg *seg = &cpu->seg[data[i]];
        if (seg->attr & X86_ATTR_UNUSABLE)
            continue;
        bool conforming = (seg->attr & (X86_TYPE_CODE | X86_TYPE_CONFORMING)) ==
                          (X86_TYPE_CODE | X86_TYPE_CONFORMING);
        if (!conforming && ((seg->attr & X86_ATTR_DPL) >> X86_ATTR_DPL_SHIFT) < new_cpl) {
            seg->sel = 0;
            seg->attr |= X86_ATTR_UNUSABLE;
            x86_seg_changed(cpu, data[i]);
        }
    }
}

// Bits 63:32 of the base of a 16-byte system descriptor in long mode; its upper type must be 0.
static uint64_t system_base(struct x86_cpu *cpu, uint16_t sel, const struct x86_desc *d)
{
    uint64_t base = x86_desc_base(d);
    if (cpu->long_mode) {
        uint64_t upper = x86_sys_read64(cpu, d->lin + 8);
        base |= upper << 32;
        if (((upper >> 40) & 0x1f) != 0 || !x86_canonical(base))
            x86_raise_error(cpu, X86_GP, x86_sel_error(sel, 0));
    }
    return base;
}
// Is all of the system descriptor (16 bytes in long mode) within the GDT?
static bool system_within(const struct x86_cpu *cpu, uint16_t sel)
{
    return (sel & ~7u) + (cpu->long_mode ? 15u : 7u) <= cpu->gdtr.limit;
}

void x86_lldt(struct x86_cpu *cpu, uint16_t sel)
{
    struct x86_desc d;
    if (x86_sel_null(sel)) {
        cpu->ldtr.sel = sel;
        cpu->ldtr.attr |= X86_ATTR_UNUSABLE;
        return;
    }
    if ((sel & X86_SEL_TI) || !system_within(cpu, sel) || !x86_desc_read(cpu, sel, &d) ||
        x86_desc_is_segment(&d) || x86_desc_type(&d) != X86_SYS_LDT)
        x86_raise_error(cpu, X86_GP, x86_sel_error(sel, 0));
    if (!x86_desc_present(&d))
        x86_raise_error(cpu, X86_NP, x86_sel_error(sel, 0));
    uint64_t base = system_base(cpu, sel, &d);
    x86_seg_from_desc(&cpu->ldtr, sel, &d);
    cpu->ldtr.base = base;
}

void x86_ltr(struct x86_cpu *cpu, uint16_t sel)
{
    struct x86_desc d;
    if (x86_sel_null(sel))
        x86_raise_error(cpu, X86_GP, 0);
    if ((sel & X86_SEL_TI) || !system_within(cpu, sel) || !x86_desc_read(cpu, sel, &d) ||
        x86_desc_is_segment(&d) ||
        (x86_desc_type(&d) != X86_SYS_TSS32 &&
         (cpu->long_mode || x86_desc_type(&d) != X86_SYS_TSS16)))
        x86_raise_error(cpu, X86_GP, x86_sel_error(sel, 0));
    if (!x86_desc_present(&d))
        x86_raise_error(cpu, X86_NP, x86_sel_error(sel, 0));
    uint64_t base = system_base(cpu, sel, &d);
    x86_sys_or8(cpu, d.lin + 5, X86_TSS_BUSY);
    x86_seg_from_desc(&cpu->tr, sel, &d);
    cpu->tr.attr |= X86_TSS_BUSY;
    cpu->tr.base = base;
}

// --- LAR, LSL, VERR, VERW ------------------------------------------------------------------------

// System types that LAR and LSL accept, as a bit per type.
#define LAR_LEGACY 0x1a3eu // 1 2 3 4 5 9 B C
#define LAR_LONG 0x1a04u   // 2 9 B C
#define LSL_LEGACY 0x0a0eu // 1 2 3 9 B
#define LSL_LONG 0x0a04u   // 2 9 B

// Reads sel's descriptor when it is one that this CPL and RPL may see. Faults of the access itself
// (#PF) are raised.
static bool visible(struct x86_cpu *cpu, uint16_t sel, unsigned legacy, unsigned lng,
                    struct x86_desc *d)
{
    if (x86_sel_null(sel) || !x86_desc_read(cpu, sel, d))
        return false;
    if (!x86_desc_is_segment(d)) {
        if (!(((cpu->long_mode ? lng : legacy) >> x86_desc_type(d)) & 1))
            return false;
    } else if (x86_desc_is_code(d) && x86_desc_conforming(d)) {
        return true;
    }
    unsigned dpl = x86_desc_dpl(d);
    return cpu->cpl <= dpl && (sel & X86_SEL_RPL) <= dpl;
}

bool x86_lar(struct x86_cpu *cpu, uint16_t sel, uint32_t *value)
{
    struct x86_desc d;
    if (!visible(cpu, sel, LAR_LEGACY, LAR_LONG, &d))
        return false;
    *value = d.hi & 0x00ffff00; // with limit bits 19:16, as processors do (documented as undefined)
    return true;
}

bool x86_lsl(struct x86_cpu *cpu, uint16_t sel, uint32_t *value)
{
    struct x86_desc d;
    if (!visible(cpu, sel, LSL_LEGACY, LSL_LONG, &d))
        return false;
    *value = x86_desc_limit(&d);
    return true;
}

bool x86_verify(struct x86_cpu *cpu, uint16_t sel, bool write)
{
    struct x86_desc d;
    if (!visible(cpu, sel, 0, 0, &d))
        return false;
    return write ? x86_desc_writable_data(&d) : x86_desc_readable(&d);
}
