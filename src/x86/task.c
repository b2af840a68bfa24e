// SPDX-License-Identifier: Apache-2.0
// Hardware task switching between 16-bit and 32-bit TSSs (SDM vol. 3, chapter 7).
//
// A switch has two halves. Up to the commit point every fault belongs to the old task and leaves it
// unchanged. Past it the processor is in the new task: faults from loading its LDT and segments are
// raised there, with its registers, selectors and instruction pointer already in place.
#include "x86/descriptor.h"

// Offsets (SDM vol. 3, figures 7-2 and 7-10). Only what a switch touches.
struct layout {
    uint8_t width; // of registers
    uint8_t link, ip, flags, gpr, seg, ldt;
    uint8_t segs; // number of segment registers: ES CS SS DS FS GS, or the first four
    uint8_t seg_step;
    uint8_t save_last; // last byte that leaving a task writes
    uint8_t min_limit;
};
static const struct layout layouts[2] = {
    {.width = 2,
     .ip = 0x0e,
     .flags = 0x10,
     .gpr = 0x12,
     .seg = 0x22,
     .ldt = 0x2a,
     .segs = 4,
     .seg_step = 2,
     .save_last = 0x29,
     .min_limit = 0x2b},
    {.width = 4,
     .ip = 0x20,
     .flags = 0x24,
     .gpr = 0x28,
     .seg = 0x48,
     .ldt = 0x60,
     .segs = 6,
     .seg_step = 4,
     .save_last = 0x5d,
     .min_limit = 0x67},
};
#define TSS32_CR3 0x1c
#define TSS32_TRAP 0x64

static const struct layout *layout_of(unsigned type)
{
    return &layouts[(type >> 3) & 1];
}

static uint32_t tss_read(struct x86_cpu *cpu, uint64_t at, unsigned width)
{
    return width == 4 ? x86_sys_read32(cpu, at) : x86_sys_read16(cpu, at);
}
static void tss_write(struct x86_cpu *cpu, uint64_t at, uint32_t value, unsigned width)
{
    if (width == 4)
        x86_sys_write32(cpu, at, value);
    else
        x86_sys_write16(cpu, at, (uint16_t)value);
}

struct incoming {
    uint32_t cr3, ip, flags, gpr[8];
    uint16_t seg[X86_SEG_COUNT], ldt;
    bool trap;
};

static void read_task(struct x86_cpu *cpu, const struct layout *l, uint64_t base,
                      struct incoming *in)
{
    *in = (struct incoming){.ip = tss_read(cpu, base + l->ip, l->width),
                            .flags = tss_read(cpu, base + l->flags, l->width),
                            .ldt = x86_sys_read16(cpu, base + l->ldt)};
    for (unsigned i = 0; i < 8; i++)
        in->gpr[i] = tss_read(cpu, base + l->gpr + i * l->width, l->width);
    for (unsigned i = 0; i < l->segs; i++)
        in->seg[i] = x86_sys_read16(cpu, base + l->seg + i * l->seg_step);
    if (l->width == 4) {
        in->cr3 = x86_sys_read32(cpu, base + TSS32_CR3);
        in->trap = x86_sys_read8(cpu, base + TSS32_TRAP) & 1;
    }
}

static void save_task(struct x86_cpu *cpu, const struct layout *l, uint64_t base, uint32_t flags)
{
    tss_write(cpu, base + l->ip, (uint32_t)cpu->rip, l->width);
    tss_write(cpu, base + l->flags, flags, l->width);
    for (unsigned i = 0; i < 8; i++)
        tss_write(cpu, base + l->gpr + i * l->width, (uint32_t)cpu->gpr[i], l->width);
    for (unsigned i = 0; i < l->segs; i++)
        x86_sys_write16(cpu, base + l->seg + i * l->seg_step, cpu->seg[i].sel);
}

// --- the new task's segments (SDM vol. 3, table 7-1) ---------------------------------------------

static _Noreturn void ts(struct x86_cpu *cpu, uint16_t sel, uint32_t ext)
{
    x86_raise_error(cpu, X86_TS, x86_sel_error(sel, ext));
}

static void load_ldt(struct x86_cpu *cpu, uint16_t sel, uint32_t ext)
{
    struct x86_desc d;
    if (x86_sel_null(sel))
        return;
    if ((sel & X86_SEL_TI) || !x86_desc_read(cpu, sel, &d) || x86_desc_is_segment(&d) ||
        x86_desc_type(&d) != X86_SYS_LDT || !x86_desc_present(&d))
        ts(cpu, sel, ext);
    x86_seg_from_desc(&cpu->ldtr, sel, &d);
}

static void load_code(struct x86_cpu *cpu, uint16_t sel, uint32_t ext)
{
    struct x86_desc d;
    unsigned rpl = sel & X86_SEL_RPL;
    if (x86_sel_null(sel) || !x86_desc_read(cpu, sel, &d) || !x86_desc_is_code(&d) ||
        (x86_desc_conforming(&d) ? x86_desc_dpl(&d) > rpl : x86_desc_dpl(&d) != rpl))
        ts(cpu, sel, ext);
    if (!x86_desc_present(&d))
        x86_raise_error(cpu, X86_NP, x86_sel_error(sel, ext));
    x86_desc_touch(cpu, &d);
    x86_seg_from_desc(&cpu->seg[X86_CS], sel, &d);
    x86_cs_loaded(cpu);
}

static void load_stack(struct x86_cpu *cpu, uint16_t sel, uint32_t ext)
{
    struct x86_desc d;
    if (x86_sel_null(sel) || !x86_desc_read(cpu, sel, &d) || !x86_desc_writable_data(&d) ||
        x86_desc_dpl(&d) != cpu->cpl || (sel & X86_SEL_RPL) != cpu->cpl)
        ts(cpu, sel, ext);
    if (!x86_desc_present(&d))
        x86_raise_error(cpu, X86_SS_FAULT, x86_sel_error(sel, ext));
    x86_desc_touch(cpu, &d);
    x86_seg_from_desc(&cpu->seg[X86_SS], sel, &d);
    x86_ss_loaded(cpu);
}

static void load_data(struct x86_cpu *cpu, unsigned n, uint16_t sel, uint32_t ext)
{
    struct x86_desc d;
    if (x86_sel_null(sel))
        return; // already unusable
    if (!x86_desc_read(cpu, sel, &d) || !x86_desc_readable(&d) ||
        (!(x86_desc_is_code(&d) && x86_desc_conforming(&d)) &&
         (x86_desc_dpl(&d) < cpu->cpl || x86_desc_dpl(&d) < (sel & X86_SEL_RPL))))
        ts(cpu, sel, ext);
    if (!x86_desc_present(&d))
        x86_raise_error(cpu, X86_NP, x86_sel_error(sel, ext));
    x86_desc_touch(cpu, &d);
    x86_seg_from_desc(&cpu->seg[n], sel, &d);
    x86_seg_changed(cpu, n);
}

static void load_segments(struct x86_cpu *cpu, const struct incoming *in, uint32_t ext)
{
    load_ldt(cpu, in->ldt, ext);
    if (x86_v86_mode(cpu)) {
        for (unsigned i = 0; i < X86_SEG_COUNT; i++)
            x86_seg_v86(cpu, i, in->seg[i]);
        x86_mode_changed(cpu);
        return;
    }
    load_stack(cpu, in->seg[X86_SS], ext);
    load_code(cpu, in->seg[X86_CS], ext);
    load_data(cpu, X86_DS, in->seg[X86_DS], ext);
    load_data(cpu, X86_ES, in->seg[X86_ES], ext);
    load_data(cpu, X86_FS, in->seg[X86_FS], ext);
    load_data(cpu, X86_GS, in->seg[X86_GS], ext);
}

// --- the switch ----------------------------------------------------------------------------------

static void read_tss_descriptor(struct x86_cpu *cpu, uint16_t sel, enum x86_task_reason reason,
                                uint32_t ext, struct x86_desc *d)
{
    enum x86_vector bad = reason == X86_TASK_IRET ? X86_TS : X86_GP;
    if ((sel & X86_SEL_TI) || x86_sel_null(sel) || !x86_desc_read(cpu, sel, d) ||
        x86_desc_is_segment(d))
        x86_raise_error(cpu, bad, x86_sel_error(sel, ext));
    unsigned type = x86_desc_type(d);
    bool busy = type & X86_TSS_BUSY;
    type &= ~(unsigned)X86_TSS_BUSY;
    if ((type != X86_SYS_TSS16 && type != X86_SYS_TSS32) || busy != (reason == X86_TASK_IRET))
        x86_raise_error(cpu, bad, x86_sel_error(sel, ext));
    if (!x86_desc_present(d))
        x86_raise_error(cpu, X86_NP, x86_sel_error(sel, ext));
    if (x86_desc_limit(d) < layout_of(type)->min_limit)
        ts(cpu, sel, ext);
}

void x86_task_switch(struct x86_cpu *cpu, uint16_t tss_sel, enum x86_task_reason reason,
                     uint32_t ext, bool has_error, uint32_t error)
{
    struct x86_desc d;
    read_tss_descriptor(cpu, tss_sel, reason, ext, &d);
    const struct layout *to = layout_of(x86_desc_type(&d));
    const struct layout *from = layout_of(cpu->tr.attr & X86_ATTR_TYPE);
    uint64_t base = x86_desc_base(&d), old_base = cpu->tr.base;
    uint16_t old_sel = cpu->tr.sel;
    bool nest = reason == X86_TASK_CALL || reason == X86_TASK_GATE;
    gva_t old_type = cpu->gdtr.base + (old_sel & ~7u) + 5;

    if (cpu->tr.limit < from->save_last)
        ts(cpu, old_sel, ext);
    struct incoming in;
    read_task(cpu, to, base, &in);
    x86_sys_write_check(cpu, x86_sys_lin(cpu, old_base + from->ip), from->save_last - from->ip + 1);
    if (nest)
        x86_sys_write_check(cpu, x86_sys_lin(cpu, base), 2);
    x86_sys_write_check(cpu, x86_sys_lin(cpu, old_type), 1);
    x86_sys_write_check(cpu, x86_sys_lin(cpu, d.lin + 5), 1);

    // The old task, and the chain between the two.
    uint32_t flags = (uint32_t)x86_get_rflags(cpu);
    if (reason == X86_TASK_IRET)
        flags &= ~X86_FLAG_NT;
    if (!nest)
        x86_sys_andnot8(cpu, old_type, X86_TSS_BUSY);
    save_task(cpu, from, old_base, flags);
    if (nest) {
        x86_sys_write16(cpu, base, old_sel);
        in.flags |= X86_FLAG_NT;
    }
    if (reason != X86_TASK_IRET)
        x86_sys_or8(cpu, d.lin + 5, X86_TSS_BUSY);

    // Commit: from here on this is the new task.
    x86_seg_from_desc(&cpu->tr, tss_sel, &d);
    cpu->tr.attr |= X86_TSS_BUSY;
    cpu->cr0 |= X86_CR0_TS;
    cpu->dr7 &= ~UINT64_C(0x155); // L0..L3, LE
    cpu->stepping = false;
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = in.gpr[i];
    cpu->rip = cpu->insn_rip = in.ip;
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        cpu->seg[i] = (struct x86_seg){.sel = in.seg[i], .attr = X86_ATTR_UNUSABLE};
    cpu->ldtr = (struct x86_seg){.sel = in.ldt, .attr = X86_ATTR_UNUSABLE};
    x86_set_rflags(cpu, in.flags);
    cpu->cpl = in.seg[X86_CS] & X86_SEL_RPL; // V86: x86_mode_changed makes it 3
    x86_mode_changed(cpu);
    if (to->width == 4 && (cpu->cr0 & X86_CR0_PG))
        x86_write_cr(cpu, 3, in.cr3);
    load_segments(cpu, &in, ext);

    if (has_error) {
        struct x86_frame f;
        x86_frame_current(cpu, &f);
        x86_frame_reserve(cpu, &f, 1, to->width, ext);
        x86_frame_push(cpu, &f, error, to->width);
        cpu->gpr[X86_RSP] = f.sp;
    }
    if (cpu->rip > cpu->seg[X86_CS].limit)
        x86_raise_error(cpu, X86_GP, ext);
    if (in.trap) {
        cpu->dr6_pending |= UINT64_C(1) << 15; // BT
        atomic_fetch_or(&cpu->events, X86_EVENT_TRAP);
    }
    x86_check_virtual_interrupt(cpu);
}
