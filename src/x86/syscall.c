// SPDX-License-Identifier: Apache-2.0
// SYSCALL, SYSRET, SYSENTER, SYSEXIT and SWAPGS (SDM vol. 2; AMD64 APM vol. 3). They load flat
// segments without reading a descriptor.
//
// Vendors: SYSCALL and SYSRET exist outside 64-bit mode on AMD only; SYSENTER and SYSEXIT exist in
// long mode on Intel only. A SYSRET to a non-canonical address faults in the kernel on Intel, at
// the target on AMD.
#include "x86/descriptor.h"

static void flat(struct x86_seg *seg, uint16_t sel, uint32_t attr, unsigned dpl)
{
    *seg =
        (struct x86_seg){.sel = sel, .attr = attr | dpl << X86_ATTR_DPL_SHIFT, .limit = 0xffffffff};
}

static void enter(struct x86_cpu *cpu, uint16_t cs, uint32_t code, uint16_t ss, unsigned cpl)
{
    flat(&cpu->seg[X86_CS], cs, code, cpl);
    flat(&cpu->seg[X86_SS], ss, X86_ATTR_FLAT_DATA, cpl);
    cpu->cpl = (uint8_t)cpl;
    x86_cs_loaded(cpu);
    x86_ss_loaded(cpu);
}

void x86_syscall(struct x86_cpu *cpu)
{
    bool amd = x86_is_amd(cpu);
    if (unlikely(!(cpu->efer & X86_EFER_SCE) || (!amd && cpu->code_size != X86_CODE64)))
        x86_raise(cpu, X86_UD);
    uint16_t cs = (uint16_t)(cpu->star >> 32) & 0xfffc;

    if (unlikely(!cpu->long_mode)) {
        bool v86 = x86_v86_mode(cpu);
        cpu->gpr[X86_RCX] = (uint32_t)cpu->rip;
        cpu->rip = (uint32_t)cpu->star;
        cpu->rflags &= ~(uint64_t)(X86_FLAG_IF | X86_FLAG_RF | X86_FLAG_VM);
        enter(cpu, cs, X86_ATTR_FLAT_CODE32, (uint16_t)(cs + 8), 0);
        if (v86)
            x86_mode_changed(cpu);
        return;
    }
    cpu->gpr[X86_RCX] = cpu->rip;
    cpu->gpr[X86_R11] = x86_get_rflags(cpu) & ~(uint64_t)X86_FLAG_RF;
    cpu->rip = cpu->code_size == X86_CODE64 ? cpu->lstar : cpu->cstar;
    uint64_t clear = cpu->sfmask | X86_FLAG_RF;
    if (clear & X86_FLAGS_ARITH)
        x86_cc_put(cpu, x86_cc_get(cpu) & ~(uint32_t)clear);
    cpu->rflags = (cpu->rflags & ~clear) | X86_FLAG_R1;
    // A single-step trap follows only when TF survived the mask.
    cpu->stepping = cpu->stepping && (cpu->rflags & X86_FLAG_TF);
    enter(cpu, cs, X86_ATTR_FLAT_CODE64, (uint16_t)(cs + 8), 0);
}

void x86_sysret(struct x86_cpu *cpu, unsigned opsize)
{
    bool amd = x86_is_amd(cpu);
    if (!(cpu->efer & X86_EFER_SCE) || (!amd && cpu->code_size != X86_CODE64))
        x86_raise(cpu, X86_UD);
    if (!x86_prot_mode(cpu) || cpu->cpl != 0)
        x86_raise_error(cpu, X86_GP, 0);
    uint16_t base = (uint16_t)(cpu->star >> 48);

    if (unlikely(cpu->code_size != X86_CODE64)) {
        cpu->rip = (uint32_t)cpu->gpr[X86_RCX];
        cpu->rflags |= X86_FLAG_IF;
        enter(cpu, base | 3, X86_ATTR_FLAT_CODE32, (uint16_t)(base + 8) | 3, 3);
        return;
    }
    uint64_t target = cpu->gpr[X86_RCX];
    if (opsize == 8 && !amd && !x86_canonical(target))
        x86_raise_error(cpu, X86_GP, 0);
    cpu->rip = opsize == 8 ? target : (uint32_t)target;
    uint64_t flags = cpu->gpr[X86_R11];
    const uint64_t loaded = 0x3c7fd7 & ~(uint64_t)X86_FLAGS_ARITH;
    cpu->rflags = (flags & loaded) | X86_FLAG_R1;
    x86_cc_put(cpu, (uint32_t)flags);
    // The trap follows TF as loaded, and comes before the first instruction at the target.
    cpu->stepping = false;
    if (unlikely(flags & X86_FLAG_TF))
        x86_single_step_done(cpu);
    if (opsize == 8)
        enter(cpu, (uint16_t)(base + 16) | 3, X86_ATTR_FLAT_CODE64, (uint16_t)(base + 8) | 3, 3);
    else
        enter(cpu, base | 3, X86_ATTR_FLAT_CODE32, (uint16_t)(base + 8) | 3, 3);
}

void x86_sysenter(struct x86_cpu *cpu)
{
    if (cpu->long_mode && x86_is_amd(cpu))
        x86_raise(cpu, X86_UD);
    uint16_t cs = (uint16_t)cpu->sysenter_cs & 0xfffc;
    if (x86_real_mode(cpu) || cs == 0)
        x86_raise_error(cpu, X86_GP, 0);
    bool v86 = x86_v86_mode(cpu);
    cpu->rflags &= ~(uint64_t)(X86_FLAG_VM | X86_FLAG_IF);
    enter(cpu, cs, cpu->long_mode ? X86_ATTR_FLAT_CODE64 : X86_ATTR_FLAT_CODE32, (uint16_t)(cs + 8),
          0);
    cpu->gpr[X86_RSP] = cpu->sysenter_esp & cpu->lin_mask;
    cpu->rip = cpu->sysenter_eip & cpu->lin_mask;
    if (v86)
        x86_mode_changed(cpu);
}

void x86_sysexit(struct x86_cpu *cpu, unsigned opsize)
{
    if (cpu->long_mode && x86_is_amd(cpu)) {
        if (cpu->cpl != 0) // Zen 4 looks at the privilege first
            x86_raise_error(cpu, X86_GP, 0);
        x86_raise(cpu, X86_UD);
    }
    uint16_t base = (uint16_t)cpu->sysenter_cs & 0xfffc;
    if (!x86_prot_mode(cpu) || cpu->cpl != 0 || base == 0)
        x86_raise_error(cpu, X86_GP, 0);
    uint64_t target = cpu->gpr[X86_RDX], sp = cpu->gpr[X86_RCX];
    if (opsize == 8) {
        if (!x86_canonical(target) || !x86_canonical(sp))
            x86_raise_error(cpu, X86_GP, 0);
        enter(cpu, (uint16_t)(base + 32) | 3, X86_ATTR_FLAT_CODE64, (uint16_t)(base + 40) | 3, 3);
    } else {
        target = (uint32_t)target;
        sp = (uint32_t)sp;
        enter(cpu, (uint16_t)(base + 16) | 3, X86_ATTR_FLAT_CODE32, (uint16_t)(base + 24) | 3, 3);
    }
    cpu->rip = target;
    cpu->gpr[X86_RSP] = sp;
}

void x86_swapgs(struct x86_cpu *cpu)
{
    if (cpu->code_size != X86_CODE64)
        x86_raise(cpu, X86_UD);
    if (cpu->cpl != 0)
        x86_raise_error(cpu, X86_GP, 0);
    uint64_t base = cpu->seg[X86_GS].base;
    cpu->seg[X86_GS].base = cpu->kernel_gs_base;
    cpu->kernel_gs_base = base;
    x86_seg_changed(cpu, X86_GS);
}
