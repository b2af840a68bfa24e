// SPDX-License-Identifier: Apache-2.0
// RFLAGS as a whole: PUSHF, POPF, CLI and STI with the rules of IOPL, VME and PVI (SDM vol. 2, the
// instructions' pages; vol. 3, 20.3 and 20.4), and the I/O permission check (vol. 1, 19.5).
//
// Rules to keep: the interrupt shadow is set only when STI turns IF on.
#include "x86/descriptor.h"

#define FLAGS_DEFINED                                                                          \
    (X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_IF | X86_FLAG_DF | X86_FLAG_IOPL | X86_FLAG_NT | \
     X86_FLAG_RF | X86_FLAG_VM | X86_FLAG_AC | X86_FLAG_VIF | X86_FLAG_VIP | X86_FLAG_ID)

void x86_set_rflags(struct x86_cpu *cpu, uint64_t rflags)
{
    uint64_t before = cpu->rflags;
    cpu->rflags = (rflags & FLAGS_DEFINED & ~(uint64_t)X86_FLAGS_ARITH) | X86_FLAG_R1;
    x86_cc_put(cpu, (uint32_t)rflags);
    uint64_t changed = before ^ cpu->rflags;
    if (unlikely(changed & (X86_FLAG_VM | X86_FLAG_AC))) {
        if (changed & X86_FLAG_VM)
            x86_mode_changed(cpu);
        else
            x86_cpl_changed(cpu);
    }
}

static unsigned iopl(const struct x86_cpu *cpu)
{
    return (cpu->rflags & X86_FLAG_IOPL) >> X86_FLAG_IOPL_SHIFT;
}

uint64_t x86_pushf_value(struct x86_cpu *cpu, unsigned opsize)
{
    uint64_t flags = x86_get_rflags(cpu) & ~(uint64_t)(X86_FLAG_RF | X86_FLAG_VM);
    if (unlikely(x86_v86_mode(cpu)) && iopl(cpu) < 3) {
        if (!(cpu->cr4 & X86_CR4_VME) || opsize != 2)
            x86_raise_error(cpu, X86_GP, 0);
        flags &= ~(uint64_t)X86_FLAG_IF;
        flags |= X86_FLAG_IOPL | (flags & X86_FLAG_VIF ? X86_FLAG_IF : 0);
    }
    return opsize == 2 ? flags & 0xffff : flags;
}

void x86_popf(struct x86_cpu *cpu, uint64_t value, unsigned opsize)
{
    uint64_t old = x86_get_rflags(cpu);
    uint64_t may = X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT;
    if (opsize != 2)
        may |= X86_FLAG_AC | X86_FLAG_ID;
    if (unlikely(x86_v86_mode(cpu))) {
        if (iopl(cpu) == 3) {
            may |= X86_FLAG_IF;
        } else {
            if (!(cpu->cr4 & X86_CR4_VME) || opsize != 2)
                x86_raise_error(cpu, X86_GP, 0);
            if ((value & X86_FLAG_TF) || ((value & X86_FLAG_IF) && (old & X86_FLAG_VIP)))
                x86_raise_error(cpu, X86_GP, 0);
            old = (old & ~(uint64_t)X86_FLAG_VIF) | (value & X86_FLAG_IF ? X86_FLAG_VIF : 0);
        }
    } else if (cpu->cpl == 0) {
        may |= X86_FLAG_IF | X86_FLAG_IOPL;
    } else if (cpu->cpl <= iopl(cpu)) {
        may |= X86_FLAG_IF;
    }
    old &= ~(uint64_t)X86_FLAG_RF;
    x86_set_rflags(cpu, (old & ~may) | (value & may));
}

// Who governs IF here: the flag itself, its virtual twin, or nobody (#GP).
enum if_rule {
    IF_REAL,
    IF_VIRTUAL
};

static enum if_rule if_rule(struct x86_cpu *cpu)
{
    if (cpu->cpl <= iopl(cpu))
        return IF_REAL;
    if (x86_v86_mode(cpu) ? (cpu->cr4 & X86_CR4_VME) != 0
                          : cpu->cpl == 3 && (cpu->cr4 & X86_CR4_PVI))
        return IF_VIRTUAL;
    x86_raise_error(cpu, X86_GP, 0);
}

void x86_cli(struct x86_cpu *cpu)
{
    cpu->rflags &= ~(uint64_t)(if_rule(cpu) == IF_REAL ? X86_FLAG_IF : X86_FLAG_VIF);
}

void x86_sti(struct x86_cpu *cpu)
{
    if (if_rule(cpu) == IF_VIRTUAL) {
        if (cpu->rflags & X86_FLAG_VIP)
            x86_raise_error(cpu, X86_GP, 0);
        cpu->rflags |= X86_FLAG_VIF;
    } else if (!(cpu->rflags & X86_FLAG_IF)) {
        cpu->rflags |= X86_FLAG_IF;
        cpu->shadow |= X86_SHADOW_STI;
    }
}

void x86_check_io(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
    if (x86_real_mode(cpu) || (!x86_v86_mode(cpu) && cpu->cpl <= iopl(cpu)))
        return;
    // The bitmap's two bytes that cover the port must lie within a 32-bit (or 64-bit) TSS.
    const struct x86_seg *tr = &cpu->tr;
    if (!(tr->attr & X86_ATTR_UNUSABLE) && (tr->attr & X86_ATTR_P) &&
        (tr->attr & X86_ATTR_TYPE) == X86_SYS_TSS32_BUSY && tr->limit >= 103) {
        uint32_t offset = x86_sys_read16(cpu, tr->base + 102) + port / 8u;
        if (offset + 1 <= tr->limit) {
            unsigned bits = x86_sys_read16(cpu, tr->base + offset) >> (port & 7);
            if (!(bits & ((1u << size) - 1)))
                return;
        }
    }
    x86_raise_error(cpu, X86_GP, 0);
}
