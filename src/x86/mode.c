// SPDX-License-Identifier: Apache-2.0
// The processor's mode and everything that is derived from it: code and stack size, the linear
// address mask, which TLB set is current, and which segment accesses need no check. Also the
// power-up and INIT states (SDM vol. 3, table 9-1).
//
// Rules to keep:
//  - Derived fields are written here only. cpl is truth in protected mode, derived in real (0) and
//    V86 mode (3).
//  - Segment loads and privilege changes are frequent: they take the narrow functions
//    (descriptor.h), x86_mode_changed() is for control register writes, V86 entry and exit, and
//    state loading.
#include "x86/descriptor.h"
#include "x86/fpu.h"

static void seg_derive(struct x86_cpu *cpu, unsigned n)
{
    struct x86_seg *seg = &cpu->seg[n];
    const uint32_t all = X86_ACCESS_READ | X86_ACCESS_WRITE | X86_ACCESS_EXEC;

    if (cpu->code_size == X86_CODE64) {
        seg->eff_base = n >= X86_FS ? seg->base : 0;
        seg->unchecked = seg->eff_base && x86_is_amd(cpu) ? 0 : all; // see x86_seg_check()
        return;
    }
    seg->eff_base = seg->base;
    seg->unchecked = 0;
    // With a base, an operand that runs past offset 4 GiB cannot be told by its linear address.
    if (seg->limit != 0xffffffff || seg->base != 0 || (seg->attr & X86_ATTR_UNUSABLE))
        return;
    if (x86_real_mode(cpu) || x86_v86_mode(cpu)) {
        seg->unchecked = all; // no types here, only limits
    } else if (n == X86_CS && !(seg->attr & X86_TYPE_CODE)) {
        seg->unchecked = all; // still the data-like CS of real mode, before the first far jump
    } else if (seg->attr & X86_TYPE_CODE) {
        seg->unchecked = X86_ACCESS_EXEC | (seg->attr & X86_TYPE_READABLE ? X86_ACCESS_READ : 0);
    } else if (!(seg->attr & X86_TYPE_EXPAND_DOWN)) {
        seg->unchecked = X86_ACCESS_READ | (seg->attr & X86_TYPE_WRITABLE ? X86_ACCESS_WRITE : 0);
    }
}

void x86_seg_changed(struct x86_cpu *cpu, unsigned seg)
{
    seg_derive(cpu, seg);
}

static unsigned code_size(const struct x86_cpu *cpu)
{
    uint32_t attr = cpu->seg[X86_CS].attr;
    if (cpu->long_mode && (attr & X86_ATTR_L))
        return X86_CODE64;
    return attr & X86_ATTR_DB ? X86_CODE32 : X86_CODE16;
}

static void stack_size_derive(struct x86_cpu *cpu)
{
    if (cpu->code_size == X86_CODE64)
        cpu->stack_size = 8;
    else
        cpu->stack_size = cpu->seg[X86_SS].attr & X86_ATTR_DB ? 4 : 2;
}

static void derive_all(struct x86_cpu *cpu)
{
    cpu->lin_mask = cpu->code_size == X86_CODE64 ? ~UINT64_C(0) : 0xffffffff;
    stack_size_derive(cpu);
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        seg_derive(cpu, i);
}

void x86_cs_loaded(struct x86_cpu *cpu)
{
    unsigned before = cpu->code_size;
    cpu->code_size = code_size(cpu);
    if (unlikely((before == X86_CODE64) != (cpu->code_size == X86_CODE64)))
        derive_all(cpu);
    else
        seg_derive(cpu, X86_CS);
    x86_tlb_select(cpu);
}

void x86_ss_loaded(struct x86_cpu *cpu)
{
    stack_size_derive(cpu);
    seg_derive(cpu, X86_SS);
}

void x86_mode_changed(struct x86_cpu *cpu)
{
    cpu->long_mode = (cpu->efer & X86_EFER_LMA) != 0;
    if (x86_real_mode(cpu))
        cpu->cpl = 0;
    else if (x86_v86_mode(cpu))
        cpu->cpl = 3;
    cpu->code_size = code_size(cpu);
    derive_all(cpu);
    x86_tlb_select(cpu);
}

// CPUID.1:EAX, which reset leaves in EDX.
static uint32_t signature(const struct x86_cpu_model *model)
{
    if (model == NULL)
        return 0x600;
    uint32_t family = model->family < 15 ? model->family : 15;
    uint32_t extended = model->family - family;
    return (model->stepping & 15u) | ((model->model & 15u) << 4) | (family << 8) |
           ((uint32_t)(model->model >> 4) << 16) | (extended << 20);
}

static const struct x86_seg reset_data = {.sel = 0, .attr = 0x93, .limit = 0xffff, .base = 0};
static const struct x86_seg reset_code = {
    .sel = 0xf000, .attr = 0x9b, .limit = 0xffff, .base = 0xffff0000};
static const struct x86_seg reset_ldtr = {.attr = 0x82, .limit = 0xffff};
static const struct x86_seg reset_tr = {.attr = 0x8b, .limit = 0xffff};

// What INIT leaves alone: x87, SSE and AVX state, XCR0, MXCSR, TSC, MTRRs, PAT and most MSRs.
static void power_up_only(struct x86_cpu *cpu)
{
    cpu->cr0 = X86_CR0_CD | X86_CR0_NW;
    for (unsigned i = 0; i < ARRAY_SIZE(cpu->vec); i++)
        cpu->vec[i] = (union x86_vec){0};
    cpu->mxcsr = 0x1f80;
    cpu->x87 = (struct x86_x87){.fcw = 0x40, .ftw = 0x5555};
    cpu->ferr = false;
    cpu->xcr0 = 1;
    cpu->xss = 0;
    cpu->star = cpu->lstar = cpu->cstar = cpu->sfmask = 0;
    cpu->kernel_gs_base = 0;
    cpu->tsc_aux = 0;
    cpu->sysenter_cs = cpu->sysenter_esp = cpu->sysenter_eip = 0;
    cpu->pat = UINT64_C(0x0007040600070406);
    cpu->misc_enable = 1; // fast strings
    cpu->tsc_offset = cpu->tsc_adjust = 0;
    cpu->spec_ctrl = 0;
    cpu->mtrr_def = 0;
    __builtin_memset(cpu->mtrr_fixed, 0, sizeof(cpu->mtrr_fixed));
    __builtin_memset(cpu->mtrr_base, 0, sizeof(cpu->mtrr_base));
    __builtin_memset(cpu->mtrr_mask, 0, sizeof(cpu->mtrr_mask));
    cpu->mcg_status = cpu->mcg_ctl = 0;
    __builtin_memset(cpu->mc_bank, 0, sizeof(cpu->mc_bank));
    cpu->icount = 0;
    cpu->sipi_vector = 0;
}

void x86_reset(struct x86_cpu *cpu, bool init)
{
    x86_fpu_sync(cpu);
    if (!init)
        power_up_only(cpu);

    __builtin_memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->gpr[X86_RDX] = signature(cpu->model);
    cpu->rip = cpu->insn_rip = 0xfff0;
    cpu->rflags = X86_FLAG_R1;
    x86_cc_put(cpu, 0);

    cpu->cr0 = (cpu->cr0 & (X86_CR0_CD | X86_CR0_NW)) | X86_CR0_ET;
    cpu->cr2 = cpu->cr3 = cpu->cr4 = 0;
    cpu->efer = 0;
    __builtin_memset(cpu->pdpte, 0, sizeof(cpu->pdpte));
    __builtin_memset(cpu->dr, 0, sizeof(cpu->dr));
    cpu->dr6 = 0xffff0ff0;
    cpu->dr7 = 0x400;
    cpu->dr6_pending = cpu->dr6_before = 0;
    cpu->debugctl = 0;

    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        cpu->seg[i] = i == X86_CS ? reset_code : reset_data;
    cpu->ldtr = reset_ldtr;
    cpu->tr = reset_tr;
    cpu->gdtr = cpu->idtr = (struct x86_table){.base = 0, .limit = 0xffff};

    cpu->cpl = 0;
    cpu->shadow = 0;
    cpu->stepping = false;
    cpu->activity = X86_ACTIVE;
    cpu->nmi_blocked = cpu->nmi_pending = false;
    cpu->delivering = -1;
    // What was pending for the old life is gone; the engine's own requests are not the processor's.
    atomic_fetch_and(&cpu->events, X86_EVENT_EXIT | X86_EVENT_FLUSH | X86_EVENT_CODE |
                                       (init ? X86_EVENT_INTR | X86_EVENT_SIPI : 0));
    if (cpu->tlb != NULL)
        x86_tlb_flush_all(cpu);
    x86_mode_changed(cpu);
}
