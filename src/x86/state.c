// SPDX-License-Identifier: Apache-2.0
// The saved form of struct x86_cpu (base/state.h), and what a loaded one must satisfy: a snapshot
// is input that may be hostile, so nothing that other code relies on is taken on trust.
//
// Rules to keep: derived fields are not saved but rebuilt; events are saved without the engine's
// own bits. A snapshot is taken at an instruction boundary, so nothing of a delivery in progress is
// kept.
#include "base/state.h"
#include "x86/descriptor.h"

static const struct state_field seg_fields[] = {
    STATE_FIELD(struct x86_seg, sel),
    STATE_FIELD(struct x86_seg, attr),
    STATE_FIELD(struct x86_seg, limit),
    STATE_FIELD(struct x86_seg, base),
    STATE_TRANSIENT(struct x86_seg, unchecked),
    STATE_TRANSIENT(struct x86_seg, eff_base),
    STATE_END,
};

static const struct state_field table_fields[] = {
    STATE_FIELD(struct x86_table, base),
    STATE_FIELD(struct x86_table, limit),
    STATE_END,
};

static const struct state_field x87_fields[] = {
    STATE_ARRAY(struct x86_x87, reg, uint8_t), STATE_FIELD(struct x86_x87, fcw),
    STATE_FIELD(struct x86_x87, fsw),          STATE_FIELD(struct x86_x87, ftw),
    STATE_FIELD(struct x86_x87, fop),          STATE_FIELD(struct x86_x87, fip),
    STATE_FIELD(struct x86_x87, fdp),          STATE_FIELD(struct x86_x87, fcs),
    STATE_FIELD(struct x86_x87, fds),          STATE_END,
};

#define CPU(f) STATE_FIELD(struct x86_cpu, f)
#define CPU_TRANSIENT(f) STATE_TRANSIENT(struct x86_cpu, f)
#define CPU_ARRAY(f) STATE_ARRAY(struct x86_cpu, f, uint64_t)
static const struct state_field cpu_fields[] = {
    CPU_ARRAY(gpr),
    CPU(rip),
    CPU(cc_res),
    CPU(cc_aux),
    CPU(rflags),
    CPU(insn_rip),
    CPU_TRANSIENT(tlb),
    CPU_TRANSIENT(lin_mask),
    STATE_STRUCT(struct x86_cpu, seg, struct x86_seg, seg_fields),
    CPU(cpl),
    CPU_TRANSIENT(code_size),
    CPU_TRANSIENT(stack_size),
    CPU_TRANSIENT(long_mode),
    CPU(shadow),
    CPU_TRANSIENT(stepping),
    CPU(activity),
    CPU(events),
    CPU(icount),
    CPU_TRANSIENT(soft),
    CPU_ARRAY(vec),
    CPU(mxcsr),
    STATE_STRUCT(struct x86_cpu, x87, struct x86_x87, x87_fields),
    CPU(xcr0),
    CPU(xss),
    CPU(cr0),
    CPU(cr2),
    CPU(cr3),
    CPU(cr4),
    CPU_ARRAY(dr),
    CPU(dr6),
    CPU(dr7),
    CPU(dr6_pending),
    CPU(efer),
    CPU(star),
    CPU(lstar),
    CPU(cstar),
    CPU(sfmask),
    CPU(kernel_gs_base),
    CPU(tsc_aux),
    CPU(sysenter_cs),
    CPU(sysenter_esp),
    CPU(sysenter_eip),
    CPU(pat),
    CPU(misc_enable),
    CPU(tsc_offset),
    CPU(tsc_adjust),
    CPU(spec_ctrl),
    CPU(debugctl),
    CPU(mtrr_def),
    CPU_ARRAY(mtrr_fixed),
    CPU_ARRAY(mtrr_base),
    CPU_ARRAY(mtrr_mask),
    CPU(mcg_status),
    CPU(mcg_ctl),
    CPU_ARRAY(mc_bank),
    CPU_ARRAY(pdpte),
    STATE_STRUCT(struct x86_cpu, ldtr, struct x86_seg, seg_fields),
    STATE_STRUCT(struct x86_cpu, tr, struct x86_seg, seg_fields),
    STATE_STRUCT(struct x86_cpu, gdtr, struct x86_table, table_fields),
    STATE_STRUCT(struct x86_cpu, idtr, struct x86_table, table_fields),
    CPU(ferr),
    CPU(nmi_blocked),
    CPU(nmi_pending),
    CPU(sipi_vector),
    CPU_TRANSIENT(fault),
    CPU_TRANSIENT(delivering),
    CPU_TRANSIENT(nested),
    CPU_TRANSIENT(fpu_ignored),
    CPU_TRANSIENT(dr6_before),
    CPU_TRANSIENT(unwind),
    CPU_TRANSIENT(platform),
    CPU_TRANSIENT(model),
    CPU_TRANSIENT(interp),
    CPU_TRANSIENT(engine_vcpu),
    CPU_TRANSIENT(fpu_resident),
    CPU_TRANSIENT(frame),
    STATE_END,
};

// --- what a loaded state must satisfy ------------------------------------------------------------

#define CR0_DEFINED UINT64_C(0xe005003f)
#define CR4_DEFINED UINT64_C(0x00771fff)
#define EFER_DEFINED (X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_FFXSR)
#define RFLAGS_DEFINED UINT64_C(0x3f7fd7)
#define SEG_ATTR_DEFINED 0x1f0ffu
#define XCR0_DEFINED UINT64_C(7) // x87, SSE, AVX

static const char *check_control(const struct x86_cpu *cpu)
{
    if (cpu->cr0 & ~CR0_DEFINED)
        return "cr0 has reserved bits";
    if ((cpu->cr0 & X86_CR0_PG) && !(cpu->cr0 & X86_CR0_PE))
        return "cr0 has paging without protection";
    if ((cpu->cr0 & X86_CR0_NW) && !(cpu->cr0 & X86_CR0_CD))
        return "cr0 has NW without CD";
    if (cpu->cr4 & (~CR4_DEFINED | X86_CR4_LA57 | X86_CR4_VMXE))
        return "cr4 has bits that are not implemented";
    if (cpu->efer & ~(uint64_t)EFER_DEFINED)
        return "efer has bits that are not implemented";
    bool lma = cpu->efer & X86_EFER_LMA;
    if (lma != ((cpu->efer & X86_EFER_LME) && (cpu->cr0 & X86_CR0_PG)))
        return "efer.LMA does not follow from LME and cr0.PG";
    if (lma && !(cpu->cr4 & X86_CR4_PAE))
        return "long mode without cr4.PAE";
    if ((cpu->cr4 & X86_CR4_PCIDE) && !lma)
        return "cr4.PCIDE outside long mode";
    if (cpu->cr3 >> 52)
        return "cr3 has reserved bits";
    if ((cpu->xcr0 & ~XCR0_DEFINED) || !(cpu->xcr0 & 1) || (cpu->xcr0 & 6) == 4)
        return "xcr0 is not a combination that is implemented";
    if (cpu->xss != 0)
        return "xss has bits that are not implemented";
    if (cpu->mxcsr & ~0xffffu)
        return "mxcsr has reserved bits";
    if ((cpu->dr6 >> 32) || (cpu->dr7 >> 32))
        return "dr6 or dr7 has reserved bits";
    if (cpu->dr6_pending & ~UINT64_C(0xe00f))
        return "dr6_pending has reserved bits";
    return NULL;
}

static const char *check_mode(const struct x86_cpu *cpu)
{
    if ((cpu->rflags & ~RFLAGS_DEFINED) || (cpu->rflags & X86_FLAGS_ARITH))
        return "rflags has reserved bits";
    bool lma = cpu->efer & X86_EFER_LMA, v86 = cpu->rflags & X86_FLAG_VM;
    if (v86 && (lma || x86_real_mode(cpu)))
        return "rflags.VM outside protected mode";
    if (cpu->cpl > 3 || (x86_real_mode(cpu) && cpu->cpl != 0) || (v86 && cpu->cpl != 3))
        return "cpl does not fit the mode";
    if (cpu->shadow & ~(X86_SHADOW_STI | X86_SHADOW_MOVSS))
        return "shadow has unknown bits";
    if (cpu->activity > X86_SHUTDOWN)
        return "activity is unknown";
    uint32_t cs = cpu->seg[X86_CS].attr;
    bool long64 = lma && (cs & X86_ATTR_L);
    if (long64 && (cs & X86_ATTR_DB))
        return "cs has both L and D";
    // A non-canonical RIP can be reached (SYSRET on AMD); outside 64-bit mode RIP has 32 bits.
    if (!long64 && (cpu->rip >> 32))
        return "rip exceeds 32 bits outside 64-bit mode";
    return NULL;
}

static const char *check_segments(const struct x86_cpu *cpu)
{
    for (unsigned i = 0; i < X86_SEG_COUNT + 2u; i++) {
        const struct x86_seg *seg = i < X86_SEG_COUNT    ? &cpu->seg[i]
                                    : i == X86_SEG_COUNT ? &cpu->ldtr
                                                         : &cpu->tr;
        if (seg->attr & ~SEG_ATTR_DEFINED)
            return "a segment has reserved rights";
        bool wide = i == X86_FS || i == X86_GS || i >= X86_SEG_COUNT;
        if (wide ? !x86_canonical(seg->base) : (seg->base >> 32) != 0)
            return "a segment's base is out of range";
        if (!(seg->attr & X86_ATTR_UNUSABLE) &&
            ((seg->attr & X86_ATTR_S) != 0) != (i < X86_SEG_COUNT))
            return "a segment is of the wrong kind";
    }
    unsigned type = cpu->tr.attr & X86_ATTR_TYPE;
    if ((cpu->tr.attr & X86_ATTR_UNUSABLE) ||
        (type != X86_SYS_TSS32_BUSY && (type != X86_SYS_TSS16_BUSY || (cpu->efer & X86_EFER_LMA))))
        return "tr is not a busy TSS";
    if (cpu->seg[X86_CS].attr & X86_ATTR_UNUSABLE)
        return "cs is null";
    if (!x86_canonical(cpu->gdtr.base) || !x86_canonical(cpu->idtr.base) ||
        !x86_canonical(cpu->kernel_gs_base) || !x86_canonical(cpu->lstar) ||
        !x86_canonical(cpu->cstar) || !x86_canonical(cpu->sysenter_esp) ||
        !x86_canonical(cpu->sysenter_eip))
        return "a base address is not canonical";
    return NULL;
}

static int cpu_post_load(void *object, struct error *err)
{
    struct x86_cpu *cpu = object;
    cpu->rflags |= X86_FLAG_R1;
    const char *why = check_control(cpu);
    if (why == NULL)
        why = check_mode(cpu);
    if (why == NULL)
        why = check_segments(cpu);
    if (why != NULL)
        return error_set(err, ERROR_INPUT, "processor state: %s", why);

    for (unsigned i = 0; i < 8; i++) // the padding of an 80-bit value is relied upon to be zero
        __builtin_memset(&cpu->x87.reg[i][10], 0, 6);
    cpu->x87.fop &= 0x7ff;
    cpu->delivering = -1;
    cpu->stepping = false;
    cpu->fpu_ignored = 0;
    cpu->dr6_before = 0;
    const uint32_t kept = X86_EVENT_INTR | X86_EVENT_NMI | X86_EVENT_SMI | X86_EVENT_INIT |
                          X86_EVENT_SIPI | X86_EVENT_TRAP;
    atomic_store(&cpu->events, (atomic_load(&cpu->events) & kept) | X86_EVENT_FLUSH);
    x86_mode_changed(cpu);
    if (cpu->tlb != NULL)
        x86_tlb_flush_all(cpu);
    return 0;
}

const struct state_desc x86_cpu_state = {
    .name = "cpu",
    .version = 1,
    .size = sizeof(struct x86_cpu),
    .fields = cpu_fields,
    .post_load = cpu_post_load,
};
