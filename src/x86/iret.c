// SPDX-License-Identifier: Apache-2.0
// IRET in every mode: real, V86, protected (same level, outer level, to V86, to the previous task)
// and long (SDM vol. 2, IRET/IRETD/IRETQ), and what it shares with far RET.
//
// Rules to keep: everything is popped and checked before anything changes, but for the block of NMIs,
// which IRET ends even when it faults (SDM vol. 3A, 6.7.1; APM vol. 2, 8.2.3: until an IRET is executed).
#include "x86/descriptor.h"

void x86_return_cs(struct x86_cpu *cpu, uint16_t sel, struct x86_desc *cs)
{
    if (unlikely(x86_sel_null(sel)))
        x86_raise_error(cpu, X86_GP, 0);
    unsigned rpl = sel & X86_SEL_RPL;
    if (unlikely(!x86_desc_read(cpu, sel, cs) || !x86_desc_is_code(cs) || rpl < cpu->cpl ||
                 (x86_desc_conforming(cs) ? x86_desc_dpl(cs) > rpl : x86_desc_dpl(cs) != rpl) ||
                 (cpu->long_mode && x86_desc_long(cs) && x86_desc_db(cs))))
        x86_raise_error(cpu, X86_GP, x86_sel_error(sel, 0));
    if (unlikely(!x86_desc_present(cs)))
        x86_raise_error(cpu, X86_NP, x86_sel_error(sel, 0));
}

void x86_return_ss(struct x86_cpu *cpu, uint16_t sel, unsigned new_cpl, const struct x86_desc *cs,
                   struct x86_seg *ss)
{
    struct x86_desc d;
    if (x86_sel_null(sel)) {
        if (!cpu->long_mode || !x86_desc_long(cs) || new_cpl == 3)
            x86_raise_error(cpu, X86_GP, 0);
        if ((sel & X86_SEL_RPL) != new_cpl)
            x86_raise_error(cpu, X86_GP, x86_sel_error(sel, 0));
        *ss =
            (struct x86_seg){.sel = sel, .attr = X86_ATTR_UNUSABLE | new_cpl << X86_ATTR_DPL_SHIFT};
        return;
    }
    if (unlikely(!x86_desc_read(cpu, sel, &d) || (sel & X86_SEL_RPL) != new_cpl ||
                 !x86_desc_writable_data(&d) || x86_desc_dpl(&d) != new_cpl))
        x86_raise_error(cpu, X86_GP, x86_sel_error(sel, 0));
    if (unlikely(!x86_desc_present(&d)))
        x86_raise_error(cpu, X86_SS_FAULT, x86_sel_error(sel, 0));
    x86_desc_touch(cpu, &d);
    x86_seg_from_desc(ss, sel, &d);
}

void x86_return_commit(struct x86_cpu *cpu, uint16_t cs_sel, const struct x86_desc *cs,
                       const struct x86_seg *ss, uint64_t sp)
{
    unsigned cpl = cs_sel & X86_SEL_RPL;
    bool outer = cpl != cpu->cpl;
    x86_seg_from_desc(&cpu->seg[X86_CS], cs_sel, cs);
    cpu->seg[X86_SS] = *ss;
    cpu->cpl = (uint8_t)cpl;
    x86_cs_loaded(cpu);
    x86_ss_loaded(cpu);
    // A 16-bit stack takes SP only; the rest of ESP stays what it was, as on real processors.
    if (cpu->stack_size == 8)
        cpu->gpr[X86_RSP] = sp;
    else if (cpu->stack_size == 4)
        cpu->gpr[X86_RSP] = (uint32_t)sp;
    else
        cpu->gpr[X86_RSP] = (cpu->gpr[X86_RSP] & ~UINT64_C(0xffff)) | (sp & 0xffff);
    if (outer)
        x86_segs_outer(cpu, cpl);
}

static void unblock_nmi(struct x86_cpu *cpu)
{
    cpu->nmi_blocked = false;
    if (unlikely(cpu->nmi_pending)) {
        cpu->nmi_pending = false;
        atomic_fetch_or(&cpu->events, X86_EVENT_NMI);
    }
}

// RFLAGS without a mode change: the caller makes AC take effect.
static void merge_flags(struct x86_cpu *cpu, uint64_t flags, uint64_t may)
{
    cpu->rflags = (cpu->rflags & ~may) | (flags & may & ~(uint64_t)X86_FLAGS_ARITH);
    x86_cc_put(cpu, (uint32_t)flags);
}

void x86_check_virtual_interrupt(struct x86_cpu *cpu)
{
    const uint64_t both = X86_FLAG_VIF | X86_FLAG_VIP;
    if (likely((cpu->rflags & both) != both) || cpu->cpl != 3)
        return;
    if (cpu->cr4 & (x86_v86_mode(cpu) ? X86_CR4_VME : X86_CR4_PVI)) {
        cpu->insn_rip = cpu->rip;
        x86_raise_error(cpu, X86_GP, 0);
    }
}

#define FLAGS_LOW \
    (X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_IF | X86_FLAG_DF | X86_FLAG_IOPL | X86_FLAG_NT)

static void iret_real(struct x86_cpu *cpu, unsigned opsize)
{
    uint64_t target = x86_stack_peek(cpu, 0, opsize);
    uint16_t sel = (uint16_t)x86_stack_peek(cpu, 1, opsize);
    uint64_t flags = x86_stack_peek(cpu, 2, opsize);
    uint64_t may = FLAGS_LOW;
    if (opsize != 2)
        may |= X86_FLAG_RF | X86_FLAG_AC | X86_FLAG_ID;
    if (x86_v86_mode(cpu)) {
        may &= ~(uint64_t)X86_FLAG_IOPL;
        if ((cpu->rflags & X86_FLAG_IOPL) != X86_FLAG_IOPL) {
            if (!(cpu->cr4 & X86_CR4_VME) || opsize != 2 || (flags & X86_FLAG_TF) ||
                ((flags & X86_FLAG_IF) && (cpu->rflags & X86_FLAG_VIP)))
                x86_raise_error(cpu, X86_GP, 0);
            may = (may & ~(uint64_t)X86_FLAG_IF) | X86_FLAG_VIF;
            if (flags & X86_FLAG_IF)
                flags |= X86_FLAG_VIF;
        }
    }
    if (target > cpu->seg[X86_CS].limit)
        x86_raise_error(cpu, X86_GP, 0);
    cpu->gpr[X86_RSP] = x86_sp_add(cpu->gpr[X86_RSP], 3 * opsize, cpu->stack_size);
    cpu->rip = target;
    merge_flags(cpu, flags, may);
    x86_load_real(cpu, X86_CS, sel);
    x86_cpl_changed(cpu);
}

static void iret_to_v86(struct x86_cpu *cpu, uint64_t target, uint16_t cs, uint64_t flags)
{
    uint32_t esp = (uint32_t)x86_stack_peek(cpu, 3, 4);
    uint16_t sel[5];
    static const uint8_t reg[5] = {X86_SS, X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < 5; i++)
        sel[i] = (uint16_t)x86_stack_peek(cpu, 4 + i, 4);
    if (target > 0xffff)
        x86_raise_error(cpu, X86_GP, 0);

    cpu->gpr[X86_RSP] = esp;
    cpu->rip = target;
    merge_flags(cpu, flags,
                FLAGS_LOW | X86_FLAG_RF | X86_FLAG_VM | X86_FLAG_AC | X86_FLAG_VIF | X86_FLAG_VIP |
                    X86_FLAG_ID);
    x86_seg_v86(cpu, X86_CS, cs);
    for (unsigned i = 0; i < 5; i++)
        x86_seg_v86(cpu, reg[i], sel[i]);
    x86_mode_changed(cpu);
    x86_check_virtual_interrupt(cpu);
}

static void iret_protected(struct x86_cpu *cpu, unsigned opsize)
{
    if (unlikely(cpu->rflags & X86_FLAG_NT)) {
        if (cpu->long_mode)
            x86_raise_error(cpu, X86_GP, 0);
        x86_task_switch(cpu, x86_sys_read16(cpu, cpu->tr.base), X86_TASK_IRET, 0, false, 0);
        return;
    }
    // The order decides which page faults first: AMD's processors read flags, CS, rIP, SS, rSP.
    if (!x86_is_amd(cpu)) {
        x86_stack_peek(cpu, 0, opsize);
        x86_stack_peek(cpu, 1, opsize);
    }
    uint64_t flags = x86_stack_peek(cpu, 2, opsize);
    uint16_t sel = (uint16_t)x86_stack_peek(cpu, 1, opsize);
    uint64_t target = x86_stack_peek(cpu, 0, opsize);
    if (unlikely(!cpu->long_mode && opsize == 4 && (flags & X86_FLAG_VM) && cpu->cpl == 0)) {
        iret_to_v86(cpu, target, sel, flags);
        return;
    }

    struct x86_desc cs;
    struct x86_seg ss;
    uint64_t sp = 0;
    uint16_t ss_sel = 0;
    unsigned cpl = sel & X86_SEL_RPL;
    bool stack = cpu->code_size == X86_CODE64 || cpl != cpu->cpl; // SS:rSP is popped too
    if (stack) {
        ss_sel = (uint16_t)x86_stack_peek(cpu, 4, opsize);
        sp = x86_stack_peek(cpu, 3, opsize);
    }
    x86_return_cs(cpu, sel, &cs);
    if (x86_is_amd(cpu)) // before SS; Intel's after it
        x86_check_target(cpu, &cs, target, 0);
    if (stack)
        x86_return_ss(cpu, ss_sel, cpl, &cs, &ss);
    x86_check_target(cpu, &cs, target, 0);
    x86_desc_touch(cpu, &cs);

    uint64_t may = X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT;
    if (opsize != 2)
        may |= X86_FLAG_RF | X86_FLAG_AC | X86_FLAG_ID;
    if (cpu->cpl <= (cpu->rflags & X86_FLAG_IOPL) >> X86_FLAG_IOPL_SHIFT)
        may |= X86_FLAG_IF;
    if (cpu->cpl == 0) {
        may |= X86_FLAG_IOPL;
        if (opsize != 2)
            may |= X86_FLAG_VIF | X86_FLAG_VIP;
    }
    merge_flags(cpu, flags, may);
    cpu->rip = target;
    if (stack) {
        x86_return_commit(cpu, sel, &cs, &ss, sp);
    } else {
        // The last of the three: AMD's processors are in the new mode when they release it, so that a
        // carry out of a 16-bit SP reaches RSP in 64-bit mode.
        unsigned stack_size = cpu->stack_size;
        cpu->gpr[X86_RSP] = x86_sp_add(cpu->gpr[X86_RSP], 2 * opsize, stack_size);
        x86_seg_from_desc(&cpu->seg[X86_CS], sel, &cs);
        x86_cs_loaded(cpu);
        if (x86_is_amd(cpu))
            stack_size = cpu->stack_size;
        cpu->gpr[X86_RSP] = x86_sp_add(cpu->gpr[X86_RSP], opsize, stack_size);
    }
    x86_check_virtual_interrupt(cpu);
}

void x86_iret(struct x86_cpu *cpu, unsigned opsize)
{
    unblock_nmi(cpu);
    if (x86_prot_mode(cpu))
        iret_protected(cpu, opsize);
    else
        iret_real(cpu, opsize);
}
