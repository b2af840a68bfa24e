// SPDX-License-Identifier: Apache-2.0
// Transfers of control: near branches, far JMP, CALL and RET with call gates, and INT n (SDM vol.
// 3, chapter 5; the order of checks is that of the instructions' pages in vol. 2). IRET is in
// iret.c, SYSCALL and SYSENTER in syscall.c.
//
// Rules to keep: nothing changes before the last check; a stack frame is reserved before it is
// written.
#include "x86/descriptor.h"

void x86_branch(struct x86_cpu *cpu, uint64_t target, unsigned opsize)
{
    if (opsize == 2)
        target &= 0xffff;
    else if (opsize == 4)
        target &= 0xffffffff;
    if (likely(cpu->code_size == X86_CODE64 ? x86_canonical(target)
                                            : target <= cpu->seg[X86_CS].limit))
        cpu->rip = target;
    else
        x86_raise_error(cpu, X86_GP, 0);
}

void x86_int(struct x86_cpu *cpu, uint8_t vector, enum x86_deliver_kind kind)
{
    x86_deliver(cpu, kind, vector, false, 0);
}

static _Noreturn void gp(struct x86_cpu *cpu, uint16_t sel)
{
    x86_raise_error(cpu, X86_GP, x86_sel_error(sel, 0));
}

static void set_cs(struct x86_cpu *cpu, uint16_t sel, const struct x86_desc *cs, unsigned cpl)
{
    x86_seg_from_desc(&cpu->seg[X86_CS], (uint16_t)((sel & ~X86_SEL_RPL) | cpl), cs);
    cpu->cpl = (uint8_t)cpl;
    x86_cs_loaded(cpu);
}

// Long mode refuses code segments with both L and D.
static bool bad_long(const struct x86_cpu *cpu, const struct x86_desc *cs)
{
    return cpu->long_mode && x86_desc_long(cs) && x86_desc_db(cs);
}

// --- call gates ----------------------------------------------------------------------------------

struct gate {
    uint16_t cs_sel;
    uint64_t target;
    unsigned slot;   // bytes of a stack slot
    unsigned params; // slots to copy
};

// Reads the rest of the call gate `d` that sel names and the code segment behind it. `jmp`: the
// target must be reachable without a change of privilege.
static void call_gate(struct x86_cpu *cpu, uint16_t sel, const struct x86_desc *d, bool jmp,
                      struct gate *gate, struct x86_desc *cs)
{
    unsigned dpl = x86_desc_dpl(d);
    if (dpl < cpu->cpl || dpl < (sel & X86_SEL_RPL))
        gp(cpu, sel);
    if (!x86_desc_present(d))
        x86_raise_error(cpu, X86_NP, x86_sel_error(sel, 0));
    gate->cs_sel = x86_gate_selector(d);
    gate->params = d->hi & 31;
    if (cpu->long_mode) { // 16 bytes
        uint32_t limit = sel & X86_SEL_TI ? cpu->ldtr.limit : cpu->gdtr.limit;
        if ((sel & ~7u) + 15 > limit)
            gp(cpu, sel);
        uint64_t upper = x86_sys_read64(cpu, d->lin + 8);
        if ((upper >> 40) & 0x1f)
            gp(cpu, sel);
        gate->target = x86_gate_offset(d) | (upper << 32);
        gate->slot = 8;
        gate->params = 0;
    } else if (x86_desc_type(d) == X86_SYS_CALL32) {
        gate->target = x86_gate_offset(d);
        gate->slot = 4;
    } else {
        gate->target = d->lo & 0xffff;
        gate->slot = 2;
    }

    if (x86_sel_null(gate->cs_sel))
        x86_raise_error(cpu, X86_GP, 0);
    if (!x86_desc_read(cpu, gate->cs_sel, cs) || !x86_desc_is_code(cs) ||
        x86_desc_dpl(cs) > cpu->cpl ||
        (jmp && !x86_desc_conforming(cs) && x86_desc_dpl(cs) != cpu->cpl) ||
        (cpu->long_mode && (!x86_desc_long(cs) || x86_desc_db(cs))))
        gp(cpu, gate->cs_sel);
    if (!x86_desc_present(cs))
        x86_raise_error(cpu, X86_NP, x86_sel_error(gate->cs_sel, 0));
}

// CALL through a gate to an inner level.
static void call_inner(struct x86_cpu *cpu, const struct gate *gate, struct x86_desc *cs)
{
    unsigned cpl = x86_desc_dpl(cs), slot = gate->slot;
    struct x86_frame f;
    struct x86_seg ss;
    struct x86_desc ss_desc;
    uint32_t params[31];
    bool legacy = !cpu->long_mode;

    if (!legacy) {
        x86_frame_long(&f, x86_tss_rsp(cpu, cpl * 8 + 4, 0), true);
        x86_frame_reserve(cpu, &f, 4, 8, 0);
        ss = (struct x86_seg){.sel = (uint16_t)cpl,
                              .attr = X86_ATTR_UNUSABLE | cpl << X86_ATTR_DPL_SHIFT};
    } else {
        uint16_t ss_sel;
        uint32_t esp;
        x86_tss_stack(cpu, cpl, 0, &ss_sel, &esp);
        x86_inner_ss(cpu, ss_sel, cpl, 0, &ss, &ss_desc);
        x86_frame_inner(&f, &ss, esp);
        x86_frame_reserve(cpu, &f, 4 + gate->params, slot, x86_sel_error(ss_sel, 0));
    }
    x86_check_target(cpu, cs, gate->target, 0);
    for (unsigned i = 0; i < gate->params; i++)
        params[i] = (uint32_t)x86_stack_peek(cpu, i, slot);
    if (legacy)
        x86_desc_touch(cpu, &ss_desc);
    x86_desc_touch(cpu, cs);

    x86_frame_push(cpu, &f, cpu->seg[X86_SS].sel, slot);
    x86_frame_push(cpu, &f, cpu->gpr[X86_RSP], slot);
    for (unsigned i = gate->params; i-- > 0;)
        x86_frame_push(cpu, &f, params[i], slot);
    x86_frame_push(cpu, &f, cpu->seg[X86_CS].sel, slot);
    x86_frame_push(cpu, &f, cpu->rip, slot);

    cpu->gpr[X86_RSP] = f.sp;
    cpu->rip = gate->target;
    cpu->seg[X86_SS] = ss;
    set_cs(cpu, gate->cs_sel, cs, cpl);
    x86_ss_loaded(cpu);
}

// --- far JMP and CALL ----------------------------------------------------------------------------

// Pushes CS and the return address of a far CALL that stays at its level, and goes there.
static void call_same(struct x86_cpu *cpu, uint16_t sel, struct x86_desc *cs, uint64_t target,
                      unsigned slot)
{
    struct x86_frame f;
    // AMD's processors are in the new mode already when they push; they push one after the other, and
    // before they look at the target.
    bool amd = x86_is_amd(cpu), to_compat = cpu->code_size == X86_CODE64 && !x86_desc_long(cs);
    if (cpu->long_mode && x86_desc_long(cs) && cpu->code_size != X86_CODE64)
        x86_frame_long(&f, cpu->gpr[X86_RSP], false);
    else if (to_compat && amd)
        x86_frame_segment(cpu, &f);
    else
        x86_frame_current(cpu, &f);
    if (to_compat && amd && f.mask == 0xffffffff)
        f.sp &= f.mask;
    x86_frame_reserve(cpu, &f, amd ? 1 : 2, slot, 0);
    if (!amd)
        x86_check_target(cpu, cs, target, 0);
    x86_frame_push(cpu, &f, cpu->seg[X86_CS].sel, slot);
    if (amd)
        x86_frame_reserve(cpu, &f, 1, slot, 0);
    x86_frame_push(cpu, &f, cpu->rip, slot);
    x86_check_target(cpu, cs, target, 0);
    x86_desc_touch(cpu, cs);
    cpu->gpr[X86_RSP] = f.sp;
    cpu->rip = target;
    set_cs(cpu, sel, cs, cpu->cpl);
}

// JMP or CALL to a TSS or task gate (SDM vol. 3, 7.3).
static void to_task(struct x86_cpu *cpu, uint16_t sel, const struct x86_desc *d, bool call)
{
    unsigned dpl = x86_desc_dpl(d);
    if (dpl < cpu->cpl || dpl < (sel & X86_SEL_RPL))
        gp(cpu, sel);
    if (x86_desc_type(d) == X86_SYS_TASK_GATE) {
        if (!x86_desc_present(d))
            x86_raise_error(cpu, X86_NP, x86_sel_error(sel, 0));
        sel = x86_gate_selector(d);
    }
    x86_task_switch(cpu, sel, call ? X86_TASK_CALL : X86_TASK_JMP, 0, false, 0);
}

static void far_real(struct x86_cpu *cpu, uint16_t sel, uint64_t off, unsigned opsize, bool call)
{
    if (off > cpu->seg[X86_CS].limit)
        x86_raise_error(cpu, X86_GP, 0);
    if (call) {
        struct x86_frame f;
        x86_frame_current(cpu, &f);
        x86_frame_reserve(cpu, &f, 2, opsize, 0);
        x86_frame_push(cpu, &f, cpu->seg[X86_CS].sel, opsize);
        x86_frame_push(cpu, &f, cpu->rip, opsize);
        cpu->gpr[X86_RSP] = f.sp;
    }
    cpu->rip = off;
    x86_load_real(cpu, X86_CS, sel);
}

static void far_transfer(struct x86_cpu *cpu, uint16_t sel, uint64_t off, unsigned opsize,
                         bool call)
{
    struct x86_desc d;
    if (opsize == 2)
        off &= 0xffff;
    else if (opsize == 4)
        off &= 0xffffffff;
    if (!x86_prot_mode(cpu)) {
        far_real(cpu, sel, off, opsize, call);
        return;
    }
    if (x86_sel_null(sel))
        x86_raise_error(cpu, X86_GP, 0);
    if (!x86_desc_read(cpu, sel, &d))
        gp(cpu, sel);

    if (x86_desc_is_code(&d)) {
        unsigned dpl = x86_desc_dpl(&d);
        if (x86_desc_conforming(&d) ? dpl > cpu->cpl
                                    : (sel & X86_SEL_RPL) > cpu->cpl || dpl != cpu->cpl)
            gp(cpu, sel);
        if (bad_long(cpu, &d))
            gp(cpu, sel);
        if (!x86_desc_present(&d))
            x86_raise_error(cpu, X86_NP, x86_sel_error(sel, 0));
        if (call) {
            call_same(cpu, sel, &d, off, opsize);
        } else {
            x86_check_target(cpu, &d, off, 0);
            x86_desc_touch(cpu, &d);
            cpu->rip = off;
            set_cs(cpu, sel, &d, cpu->cpl);
        }
        return;
    }
    if (x86_desc_is_segment(&d))
        gp(cpu, sel);

    switch (x86_desc_type(&d)) {
    case X86_SYS_CALL16:
        if (cpu->long_mode)
            gp(cpu, sel);
        break;
    case X86_SYS_CALL32:
        break;
    case X86_SYS_TASK_GATE:
    case X86_SYS_TSS16:
    case X86_SYS_TSS32:
    case X86_SYS_TSS16_BUSY: // refused by the task switch, after the privilege check
    case X86_SYS_TSS32_BUSY:
        if (cpu->long_mode)
            gp(cpu, sel);
        to_task(cpu, sel, &d, call);
        return;
    default:
        gp(cpu, sel);
    }

    struct gate gate;
    struct x86_desc cs;
    call_gate(cpu, sel, &d, !call, &gate, &cs);
    if (!call) {
        x86_check_target(cpu, &cs, gate.target, 0);
        x86_desc_touch(cpu, &cs);
        cpu->rip = gate.target;
        set_cs(cpu, gate.cs_sel, &cs, cpu->cpl);
    } else if (!x86_desc_conforming(&cs) && x86_desc_dpl(&cs) < cpu->cpl) {
        call_inner(cpu, &gate, &cs);
    } else {
        call_same(cpu, gate.cs_sel, &cs, gate.target, gate.slot);
    }
}

void x86_far_jmp(struct x86_cpu *cpu, uint16_t sel, uint64_t off, unsigned opsize)
{
    far_transfer(cpu, sel, off, opsize, false);
}

void x86_far_call(struct x86_cpu *cpu, uint16_t sel, uint64_t off, unsigned opsize)
{
    far_transfer(cpu, sel, off, opsize, true);
}

// --- far RET -------------------------------------------------------------------------------------

void x86_far_ret(struct x86_cpu *cpu, unsigned opsize, uint16_t pop_bytes)
{
    // The order decides which page faults first: AMD's processors read CS, rIP, SS, rSP.
    if (!x86_is_amd(cpu))
        x86_stack_peek(cpu, 0, opsize);
    uint16_t sel = (uint16_t)x86_stack_peek(cpu, 1, opsize);
    uint64_t target = x86_stack_peek(cpu, 0, opsize);
    if (!x86_prot_mode(cpu)) {
        if (target > cpu->seg[X86_CS].limit)
            x86_raise_error(cpu, X86_GP, 0);
        cpu->gpr[X86_RSP] = x86_sp_add(cpu->gpr[X86_RSP], 2 * opsize + pop_bytes, cpu->stack_size);
        cpu->rip = target;
        x86_load_real(cpu, X86_CS, sel);
        return;
    }

    struct x86_desc cs;
    unsigned cpl = sel & X86_SEL_RPL;
    if (cpl == cpu->cpl) {
        x86_return_cs(cpu, sel, &cs);
        x86_check_target(cpu, &cs, target, 0);
        x86_desc_touch(cpu, &cs);
        cpu->gpr[X86_RSP] = x86_sp_add(cpu->gpr[X86_RSP], 2 * opsize, cpu->stack_size);
        unsigned stack_size = cpu->stack_size;
        cpu->rip = target;
        set_cs(cpu, sel, &cs, cpl);
        // The parameters: AMD's processors are in the new mode when they release them.
        if (x86_is_amd(cpu))
            stack_size = cpu->stack_size;
        cpu->gpr[X86_RSP] = x86_sp_add(cpu->gpr[X86_RSP], pop_bytes, stack_size);
        return;
    }

    // To an outer level: SS:ESP lies above the parameters, which leave both stacks. AMD's processors read
    // it before they look at CS, also when CS then asks for an inner level.
    if (!x86_is_amd(cpu))
        x86_return_cs(cpu, sel, &cs);
    uint64_t at = x86_sp_add(cpu->gpr[X86_RSP], 2 * opsize + pop_bytes, cpu->stack_size);
    uint64_t at_ss = x86_sp_add(at, opsize, cpu->stack_size);
    uint64_t mask = cpu->stack_size == 8   ? ~UINT64_C(0)
                    : cpu->stack_size == 4 ? 0xffffffff
                                           : 0xffff;
    uint16_t ss_sel = (uint16_t)(opsize == 8   ? x86_read64(cpu, X86_SS, at_ss)
                                 : opsize == 4 ? x86_read32(cpu, X86_SS, at_ss & mask)
                                               : x86_read16(cpu, X86_SS, at_ss & mask));
    uint64_t sp = opsize == 8   ? x86_read64(cpu, X86_SS, at)
                  : opsize == 4 ? x86_read32(cpu, X86_SS, at & mask)
                                : x86_read16(cpu, X86_SS, at & mask);
    struct x86_seg ss;
    if (x86_is_amd(cpu))
        x86_return_cs(cpu, sel, &cs);
    x86_return_ss(cpu, ss_sel, cpl, &cs, &ss);
    x86_check_target(cpu, &cs, target, 0);
    x86_desc_touch(cpu, &cs);

    cpu->rip = target;
    x86_return_commit(cpu, sel, &cs, &ss, sp);
    cpu->gpr[X86_RSP] = x86_sp_add(cpu->gpr[X86_RSP], pop_bytes, cpu->stack_size);
}
