// SPDX-License-Identifier: Apache-2.0
// Exceptions and interrupts: raising, combining into double and triple faults, and delivery through
// the real-mode vector table, the protected-mode IDT and the long-mode IDT (SDM vol. 3, chapter 6
// and 20; the order of checks is that of INT n in vol. 2).
//
// Rules to keep:
//  - Delivery is all or nothing: every check and the whole stack frame come before the first
//    change. Accessed bits are the exception, as they are in hardware.
//  - An error code's EXT bit is 1 unless INT n, INT3 or INTO is what is being delivered.
//  - cpu->rip is the address to return to when x86_deliver() is called.
#include "x86/descriptor.h"

// --- raising -------------------------------------------------------------------------------------

_Noreturn void x86_raise(struct x86_cpu *cpu, enum x86_vector vector)
{
    cpu->fault.vector = (uint8_t)vector;
    cpu->fault.has_error = false;
    cpu->fault.error = 0;
    longjmp(cpu->unwind, 1);
}

_Noreturn void x86_raise_error(struct x86_cpu *cpu, enum x86_vector vector, uint32_t error)
{
    cpu->fault.vector = (uint8_t)vector;
    cpu->fault.has_error = true;
    cpu->fault.error = error;
    longjmp(cpu->unwind, 1);
}

_Noreturn void x86_raise_pf(struct x86_cpu *cpu, gva_t lin, uint32_t error)
{
    cpu->fault.cr2 = lin;
    x86_raise_error(cpu, X86_PF, error);
}

// A place among the vectors that no exception has.
#define FREEZE 0xff

_Noreturn void x86_freeze(struct x86_cpu *cpu)
{
    x86_raise(cpu, (enum x86_vector)FREEZE);
}

// --- delivery ------------------------------------------------------------------------------------

struct event {
    enum x86_deliver_kind kind;
    uint8_t vector;
    bool software; // INT n, INT3, INTO: the gate's DPL counts
    bool has_error;
    uint32_t error;
    uint32_t ext;   // EXT bit of error codes of faults during delivery
    uint64_t flags; // RFLAGS to push
};

static uint32_t idt_error(const struct event *ev)
{
    return ev->vector * 8u + 2 + ev->ext;
}

// A vector table of 16:16 pointers at `table`: real mode, and INT n that VME leaves in V86 mode.
static void deliver_vector_table(struct x86_cpu *cpu, const struct event *ev, uint64_t table,
                                 uint64_t flags, uint64_t clear)
{
    uint32_t target = x86_sys_read32(cpu, table + ev->vector * 4u);
    struct x86_frame f;
    x86_frame_current(cpu, &f);
    x86_frame_reserve(cpu, &f, 3, 2, ev->ext);
    x86_frame_push(cpu, &f, flags, 2);
    x86_frame_push(cpu, &f, cpu->seg[X86_CS].sel, 2);
    x86_frame_push(cpu, &f, cpu->rip, 2);
    cpu->gpr[X86_RSP] = f.sp;
    cpu->rflags &= ~clear;
    cpu->rip = target & 0xffff;
    x86_load_real(cpu, X86_CS, (uint16_t)(target >> 16));
    x86_cs_loaded(cpu); // also AC
}

static void deliver_real(struct x86_cpu *cpu, const struct event *ev)
{
    if (ev->vector * 4u + 3 > cpu->idtr.limit)
        x86_raise_error(cpu, X86_GP, idt_error(ev));
    deliver_vector_table(cpu, ev, cpu->idtr.base, ev->flags,
                         X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_AC | X86_FLAG_RF);
}

// INT n in V86 mode (SDM vol. 3, table 20-2). True when the virtual machine's own vector table took
// it.
static bool deliver_vme(struct x86_cpu *cpu, const struct event *ev)
{
    bool iopl3 = (cpu->rflags & X86_FLAG_IOPL) == X86_FLAG_IOPL;
    if (cpu->cr4 & X86_CR4_VME) {
        const struct x86_seg *tr = &cpu->tr;
        if ((tr->attr & X86_ATTR_TYPE) != X86_SYS_TSS32_BUSY || tr->limit < 103)
            x86_raise_error(cpu, X86_GP, 0);
        // The redirection bitmap is the 32 bytes below the I/O bitmap.
        uint32_t at = x86_sys_read16(cpu, tr->base + 102) - 32u + ev->vector / 8u;
        if (at > tr->limit)
            x86_raise_error(cpu, X86_GP, 0);
        if (!((x86_sys_read8(cpu, tr->base + at) >> (ev->vector & 7)) & 1)) {
            uint64_t flags = ev->flags, clear = X86_FLAG_TF | X86_FLAG_RF;
            if (iopl3) {
                clear |= X86_FLAG_IF;
            } else {
                flags &= ~(uint64_t)X86_FLAG_IF;
                flags |= X86_FLAG_IOPL | (flags & X86_FLAG_VIF ? X86_FLAG_IF : 0);
                clear |= X86_FLAG_VIF;
            }
            deliver_vector_table(cpu, ev, 0, flags, clear);
            return true;
        }
    }
    if (!iopl3)
        x86_raise_error(cpu, X86_GP, 0);
    return false;
}

// The code segment a gate names (SDM: TRAP-OR-INTERRUPT-GATE).
static void gate_code_segment(struct x86_cpu *cpu, uint16_t sel, uint32_t ext, struct x86_desc *cs)
{
    if (unlikely(x86_sel_null(sel)))
        x86_raise_error(cpu, X86_GP, ext);
    if (unlikely(!x86_desc_read(cpu, sel, cs) || !x86_desc_is_code(cs) ||
                 x86_desc_dpl(cs) > cpu->cpl ||
                 (cpu->long_mode && (!x86_desc_long(cs) || x86_desc_db(cs)))))
        x86_raise_error(cpu, X86_GP, x86_sel_error(sel, ext));
    if (unlikely(!x86_desc_present(cs)))
        x86_raise_error(cpu, X86_NP, x86_sel_error(sel, ext));
}

static void commit_code_segment(struct x86_cpu *cpu, uint16_t sel, const struct x86_desc *cs,
                                unsigned cpl)
{
    x86_seg_from_desc(&cpu->seg[X86_CS], (uint16_t)((sel & ~X86_SEL_RPL) | cpl), cs);
    cpu->cpl = (uint8_t)cpl;
    x86_cs_loaded(cpu);
}

static void deliver_long(struct x86_cpu *cpu, const struct event *ev)
{
    uint32_t at = ev->vector * 16u;
    if (unlikely(at + 15 > cpu->idtr.limit))
        x86_raise_error(cpu, X86_GP, idt_error(ev));
    uint64_t low = x86_sys_read64(cpu, cpu->idtr.base + at);
    uint64_t high = x86_sys_read64(cpu, cpu->idtr.base + at + 8);
    struct x86_desc gate = {.lo = (uint32_t)low, .hi = (uint32_t)(low >> 32)};
    if (unlikely(x86_desc_is_segment(&gate) || (x86_desc_type(&gate) & ~1u) != X86_SYS_INT32))
        x86_raise_error(cpu, X86_GP, idt_error(ev));
    if (unlikely(ev->software && x86_desc_dpl(&gate) < cpu->cpl))
        x86_raise_error(cpu, X86_GP, idt_error(ev));
    if (unlikely(!x86_desc_present(&gate)))
        x86_raise_error(cpu, X86_NP, idt_error(ev));

    uint16_t sel = x86_gate_selector(&gate);
    struct x86_desc cs;
    gate_code_segment(cpu, sel, ev->ext, &cs);
    unsigned cpl = x86_desc_conforming(&cs) ? cpu->cpl : x86_desc_dpl(&cs);
    bool inner = cpl < cpu->cpl;

    unsigned ist = gate.hi & 7;
    uint64_t rsp = cpu->gpr[X86_RSP];
    if (ist != 0)
        rsp = x86_tss_rsp(cpu, ist * 8 + 28, ev->ext);
    else if (inner)
        rsp = x86_tss_rsp(cpu, cpl * 8 + 4, ev->ext);

    struct x86_frame f;
    x86_frame_long(&f, rsp & ~UINT64_C(15), inner);
    x86_frame_reserve(cpu, &f, ev->has_error ? 6 : 5, 8, ev->ext);
    uint64_t target = x86_gate_offset(&gate) | (high << 32);
    x86_check_target(cpu, &cs, target, ev->ext);
    x86_desc_touch(cpu, &cs);

    x86_frame_push(cpu, &f, cpu->seg[X86_SS].sel, 8);
    x86_frame_push(cpu, &f, cpu->gpr[X86_RSP], 8);
    x86_frame_push(cpu, &f, ev->flags, 8);
    x86_frame_push(cpu, &f, cpu->seg[X86_CS].sel, 8);
    x86_frame_push(cpu, &f, cpu->rip, 8);
    if (ev->has_error)
        x86_frame_push(cpu, &f, ev->error, 8);

    cpu->gpr[X86_RSP] = f.sp;
    cpu->rip = target;
    cpu->rflags &= ~(uint64_t)(X86_FLAG_TF | X86_FLAG_NT | X86_FLAG_RF |
                               (x86_desc_type(&gate) & 1 ? 0 : X86_FLAG_IF));
    if (inner)
        cpu->seg[X86_SS] = (struct x86_seg){.sel = (uint16_t)cpl,
                                            .attr = X86_ATTR_UNUSABLE | cpl << X86_ATTR_DPL_SHIFT};
    commit_code_segment(cpu, sel, &cs, cpl);
    if (inner)
        x86_ss_loaded(cpu);
}

static void deliver_protected(struct x86_cpu *cpu, const struct event *ev)
{
    uint32_t at = ev->vector * 8u;
    if (at + 7 > cpu->idtr.limit)
        x86_raise_error(cpu, X86_GP, idt_error(ev));
    uint64_t raw = x86_sys_read64(cpu, cpu->idtr.base + at);
    struct x86_desc gate = {.lo = (uint32_t)raw, .hi = (uint32_t)(raw >> 32)};
    unsigned type = x86_desc_type(&gate);
    if (x86_desc_is_segment(&gate) || (type != X86_SYS_TASK_GATE && (type & ~9u) != X86_SYS_INT16))
        x86_raise_error(cpu, X86_GP, idt_error(ev));
    if (ev->software && x86_desc_dpl(&gate) < cpu->cpl)
        x86_raise_error(cpu, X86_GP, idt_error(ev));
    if (!x86_desc_present(&gate))
        x86_raise_error(cpu, X86_NP, idt_error(ev));

    uint16_t sel = x86_gate_selector(&gate);
    if (type == X86_SYS_TASK_GATE) {
        cpu->rflags |= ev->flags & X86_FLAG_RF; // goes into the outgoing TSS
        x86_task_switch(cpu, sel, X86_TASK_GATE, ev->ext, ev->has_error, ev->error);
        return;
    }

    struct x86_desc cs, ss_desc;
    gate_code_segment(cpu, sel, ev->ext, &cs);
    bool v86 = x86_v86_mode(cpu);
    unsigned cpl = x86_desc_conforming(&cs) ? cpu->cpl : x86_desc_dpl(&cs);
    if (v86 && cpl != 0)
        x86_raise_error(cpu, X86_GP, x86_sel_error(sel, ev->ext));
    bool inner = cpl < cpu->cpl;

    unsigned slot = type & 8 ? 4 : 2;
    uint32_t target = slot == 4 ? x86_gate_offset(&gate) : gate.lo & 0xffff;
    struct x86_frame f;
    struct x86_seg ss;
    unsigned slots = 3;
    uint32_t ss_error = ev->ext;
    if (inner) {
        uint16_t ss_sel;
        uint32_t esp;
        x86_tss_stack(cpu, cpl, ev->ext, &ss_sel, &esp);
        x86_inner_ss(cpu, ss_sel, cpl, ev->ext, &ss, &ss_desc);
        x86_frame_inner(&f, &ss, esp);
        slots = v86 ? 9 : 5;
        ss_error = x86_sel_error(ss_sel, ev->ext);
    } else {
        x86_frame_current(cpu, &f);
    }
    x86_frame_reserve(cpu, &f, slots + ev->has_error, slot, ss_error);
    x86_check_target(cpu, &cs, target, ev->ext);
    if (inner)
        x86_desc_touch(cpu, &ss_desc);
    x86_desc_touch(cpu, &cs);

    if (v86) {
        x86_frame_push(cpu, &f, cpu->seg[X86_GS].sel, slot);
        x86_frame_push(cpu, &f, cpu->seg[X86_FS].sel, slot);
        x86_frame_push(cpu, &f, cpu->seg[X86_DS].sel, slot);
        x86_frame_push(cpu, &f, cpu->seg[X86_ES].sel, slot);
    }
    if (inner) {
        x86_frame_push(cpu, &f, cpu->seg[X86_SS].sel, slot);
        x86_frame_push(cpu, &f, cpu->gpr[X86_RSP], slot);
    }
    x86_frame_push(cpu, &f, ev->flags, slot);
    x86_frame_push(cpu, &f, cpu->seg[X86_CS].sel, slot);
    x86_frame_push(cpu, &f, cpu->rip, slot);
    if (ev->has_error)
        x86_frame_push(cpu, &f, ev->error, slot);

    cpu->gpr[X86_RSP] = f.sp;
    cpu->rip = target;
    cpu->rflags &= ~(uint64_t)(X86_FLAG_TF | X86_FLAG_NT | X86_FLAG_RF | X86_FLAG_VM |
                               (type & 1 ? 0 : X86_FLAG_IF));
    if (inner)
        cpu->seg[X86_SS] = ss;
    if (v86) {
        static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
        for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
            cpu->seg[data[i]] = (struct x86_seg){.attr = X86_ATTR_UNUSABLE};
            x86_seg_changed(cpu, data[i]);
        }
    }
    commit_code_segment(cpu, sel, &cs, cpl);
    if (inner)
        x86_ss_loaded(cpu);
}

void x86_deliver(struct x86_cpu *cpu, enum x86_deliver_kind kind, uint8_t vector, bool has_error,
                 uint32_t error)
{
    bool software = kind == X86_DELIVER_SOFT_INT || kind == X86_DELIVER_SOFT_EXC;
    struct event ev = {
        .kind = kind,
        .vector = vector,
        .software = software,
        .has_error = has_error,
        .error = error,
        .ext = !software,
        .flags = x86_get_rflags(cpu),
    };
    // Faults return with RF set, so that a breakpoint on the instruction does not fire again; not
    // those that are debug exceptions themselves, nor the abort #DF.
    if (kind == X86_DELIVER_FAULT && vector != X86_DB && vector != X86_DF)
        ev.flags |= X86_FLAG_RF;
    cpu->delivering =
        kind == X86_DELIVER_FAULT || kind == X86_DELIVER_TRAP ? vector : X86_DELIVERING_BENIGN;

    if (likely(cpu->long_mode))
        deliver_long(cpu, &ev);
    else if (x86_real_mode(cpu))
        deliver_real(cpu, &ev);
    else if (!(kind == X86_DELIVER_SOFT_INT && x86_v86_mode(cpu) && deliver_vme(cpu, &ev)))
        deliver_protected(cpu, &ev);

    cpu->delivering = -1;
    cpu->nested = 0;
    cpu->shadow = 0;
    cpu->stepping = false;
    cpu->activity = X86_ACTIVE;
    if (kind == X86_DELIVER_NMI)
        cpu->nmi_blocked = true;
    else if (vector == X86_DB && !software && kind != X86_DELIVER_EXTERNAL) {
        cpu->dr7 &= ~UINT64_C(0x2000); // GD
        cpu->debugctl &= ~UINT64_C(3); // LBR, BTF
    }
}

// --- combining -----------------------------------------------------------------------------------

enum fault_class {
    BENIGN,
    CONTRIBUTORY,
    PAGE_FAULT,
    DOUBLE_FAULT
};

static enum fault_class classify(int vector)
{
    switch (vector) {
    case X86_DE:
    case X86_TS:
    case X86_NP:
    case X86_SS_FAULT:
    case X86_GP:
        return CONTRIBUTORY;
    case X86_PF:
        return PAGE_FAULT;
    case X86_DF:
        return DOUBLE_FAULT;
    default:
        return BENIGN;
    }
}

// Faults in a row before a delivery is given up. Hardware has no such limit: with #AC, which is benign,
// two handlers at CPL 3 can refuse each other for ever, and no interrupt would get in between.
#define NESTED_MAX 8

static bool shut_down(struct x86_cpu *cpu)
{
    cpu->delivering = -1;
    cpu->nested = 0;
    cpu->rip = cpu->insn_rip;
    cpu->activity = X86_SHUTDOWN;
    return false;
}

bool x86_fault_pending(struct x86_cpu *cpu)
{
    uint8_t vector = cpu->fault.vector;
    bool has_error = cpu->fault.has_error;
    uint32_t error = cpu->fault.error;
    cpu->dr6_pending &=
        cpu->dr6_before | ~UINT64_C(15); // no breakpoint on data of what did not complete
    if (unlikely(vector == FREEZE)) {
        cpu->rip = cpu->insn_rip;
        cpu->activity = X86_FROZEN;
        cpu->stepping = false;
        if (x86_debug_armed(cpu)) // its breakpoint was reported
            cpu->rflags |= X86_FLAG_RF;
        return true;
    }
    if (vector == X86_PF)
        cpu->cr2 = cpu->fault.cr2;
    if (unlikely(cpu->delivering >= 0)) {
        enum fault_class first = classify(cpu->delivering), second = classify(vector);
        if (first == DOUBLE_FAULT || ++cpu->nested > NESTED_MAX)
            return shut_down(cpu);
        if ((first == CONTRIBUTORY && second == CONTRIBUTORY) ||
            (first == PAGE_FAULT && second != BENIGN)) {
            vector = X86_DF;
            has_error = true;
            error = 0;
        }
    }
    cpu->rip = cpu->insn_rip;
    x86_deliver(cpu, X86_DELIVER_FAULT, vector, has_error, error);
    return true;
}

// --- events at instruction boundaries ------------------------------------------------------------

void x86_single_step_done(struct x86_cpu *cpu)
{
    cpu->stepping = false;
    if (cpu->shadow & X86_SHADOW_MOVSS)
        return;
    cpu->dr6_pending |= UINT64_C(1) << 14; // BS
    atomic_fetch_or(&cpu->events, X86_EVENT_TRAP);
}

static bool bootstrap_processor(struct x86_cpu *cpu)
{
    const struct x86_platform *p = cpu->platform;
    uint64_t apic_base;
    if (p == NULL)
        return true;
    if (p->msr_read != NULL && p->msr_read(p->opaque, 0x1b, &apic_base)) // IA32_APIC_BASE
        return (apic_base >> 8) & 1;
    return p->apic_id == 0;
}

static void clear_event(struct x86_cpu *cpu, uint32_t event)
{
    atomic_fetch_and(&cpu->events, ~event);
}

// INIT and SIPI (SDM vol. 3, 8.4.3 and 9.1).
static bool start_stop(struct x86_cpu *cpu, uint32_t events)
{
    if (events & X86_EVENT_INIT) {
        clear_event(cpu, X86_EVENT_INIT);
        if (cpu->activity != X86_WAIT_SIPI) {
            x86_reset(cpu, true);
            if (!bootstrap_processor(cpu))
                cpu->activity = X86_WAIT_SIPI;
        }
        return true;
    }
    clear_event(cpu, X86_EVENT_SIPI);
    if (cpu->activity != X86_WAIT_SIPI)
        return false;
    struct x86_seg *cs = &cpu->seg[X86_CS];
    cs->sel = (uint16_t)(cpu->sipi_vector << 8);
    cs->base = (uint64_t)cpu->sipi_vector << 12;
    cpu->rip = cpu->insn_rip = 0;
    cpu->activity = X86_ACTIVE;
    x86_seg_changed(cpu, X86_CS);
    return true;
}

static void deliver_debug_trap(struct x86_cpu *cpu)
{
    // DR6 is written before delivery, as for every debug exception; it stays when delivery faults.
    clear_event(cpu, X86_EVENT_TRAP);
    cpu->dr6 = (cpu->dr6 & ~UINT64_C(15)) | cpu->dr6_pending | 0xffff0ff0;
    cpu->dr6_pending = cpu->dr6_before = 0;
    x86_deliver(cpu, X86_DELIVER_TRAP, X86_DB, false, 0);
}

bool x86_events_deliver(struct x86_cpu *cpu)
{
    uint32_t events = atomic_load(&cpu->events);
    if (unlikely(events & (X86_EVENT_INIT | X86_EVENT_SIPI))) {
        if (start_stop(cpu, events))
            return true;
        events = atomic_load(&cpu->events);
    }
    if (cpu->activity >= X86_WAIT_SIPI) // or shut down: only INIT helps
        return false;
    if (unlikely(events & X86_EVENT_SMI))
        clear_event(cpu, X86_EVENT_SMI); // no system management mode

    cpu->insn_rip = cpu->rip;
    if ((events & X86_EVENT_TRAP) && !(cpu->shadow & X86_SHADOW_MOVSS)) {
        if (cpu->dr6_pending != 0) {
            deliver_debug_trap(cpu);
            return true;
        }
        clear_event(cpu, X86_EVENT_TRAP);
    }
    if ((events & X86_EVENT_NMI) && !(cpu->shadow & X86_SHADOW_MOVSS)) {
        clear_event(cpu, X86_EVENT_NMI);
        if (!cpu->nmi_blocked) {
            x86_deliver(cpu, X86_DELIVER_NMI, X86_NMI, false, 0);
            return true;
        }
        cpu->nmi_pending = true; // IRET posts it again
    }
    if ((events & X86_EVENT_INTR) && (cpu->rflags & X86_FLAG_IF) && cpu->shadow == 0) {
        // Cleared before asking, so that one posted meanwhile is not lost; set again after a
        // vector, since there may be more.
        clear_event(cpu, X86_EVENT_INTR);
        int vector = cpu->platform->intr_ack(cpu->platform->opaque);
        if (vector >= 0) {
            atomic_fetch_or(&cpu->events, X86_EVENT_INTR);
            x86_deliver(cpu, X86_DELIVER_EXTERNAL, (uint8_t)vector, false, 0);
            return true;
        }
    }
    return false;
}
