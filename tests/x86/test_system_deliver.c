// SPDX-License-Identifier: Apache-2.0
// Delivery of exceptions and interrupts: frames byte for byte, error codes, double and triple
// faults, priorities of events.
#include "system_fixture.h"

#define FLAGS_ALL (X86_FLAG_CF | X86_FLAG_ZF | X86_FLAG_IF | X86_FLAG_R1)

static void test_reset(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    assert_int_equal(cpu->cr0, 0x60000010);
    assert_int_equal(cpu->rip, 0xfff0);
    assert_int_equal(cpu->seg[X86_CS].sel, 0xf000);
    assert_int_equal(cpu->seg[X86_CS].base, 0xffff0000);
    assert_int_equal(cpu->gpr[X86_RDX], 0x50654);
    assert_int_equal(x86_get_rflags(cpu), 2);
    assert_int_equal(cpu->dr6, 0xffff0ff0);
    assert_int_equal(cpu->dr7, 0x400);
    assert_int_equal(cpu->idtr.limit, 0xffff);
    assert_int_equal(cpu->x87.fcw, 0x40);
    assert_int_equal(cpu->mxcsr, 0x1f80);
    assert_int_equal(cpu->code_size, X86_CODE16);
    assert_int_equal(cpu->stack_size, 2);
    cpu->mxcsr = 0x1fa0;
    cpu->lstar = 5;
    cpu->cr0 = X86_CR0_PE | X86_CR0_NW | X86_CR0_CD;
    x86_reset(cpu, true);
    assert_int_equal(cpu->mxcsr, 0x1fa0);
    assert_int_equal(cpu->lstar, 5);
    assert_int_equal(cpu->cr0, 0x60000010);
}

static void test_real(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    put(f, 0x20 * 4, 0x12345678, 4);
    cpu->gpr[X86_RSP] = 0xdead0002; // wraps in 16 bits; the rest stays
    x86_set_rflags(cpu, FLAGS_ALL | X86_FLAG_TF);
    cpu->rip = 0x4321;
    assert_int_equal(FAULT(f, x86_int(cpu, 0x20, X86_DELIVER_SOFT_INT)), -1);
    assert_int_equal(cpu->seg[X86_CS].sel, 0x1234);
    assert_int_equal(cpu->seg[X86_CS].base, 0x12340);
    assert_int_equal(cpu->rip, 0x5678);
    assert_int_equal(cpu->gpr[X86_RSP], 0xdead0000 | 0xfffc);
    assert_int_equal(get(f, 0x0000, 2), FLAGS_ALL | X86_FLAG_TF);
    assert_int_equal(get(f, 0xfffe, 2), 0xf000);
    assert_int_equal(get(f, 0xfffc, 2), 0x4321);
    assert_int_equal(x86_get_rflags(cpu), FLAGS_ALL & ~X86_FLAG_IF);
    // and back
    assert_int_equal(FAULT(f, x86_iret(cpu, 2)), -1);
    assert_int_equal(cpu->rip, 0x4321);
    assert_int_equal(cpu->seg[X86_CS].base, 0xf0000);
    assert_int_equal(x86_get_rflags(cpu), FLAGS_ALL | X86_FLAG_TF);
    assert_int_equal(cpu->gpr[X86_RSP], 0xdead0002);
    // outside the table
    cpu->idtr.limit = 0x7f;
    assert_int_equal(FAULT(f, x86_int(cpu, 0x20, X86_DELIVER_SOFT_INT)), X86_GP);
    // an odd SP of 1 cannot be pushed to
    cpu->idtr.limit = 0x3ff;
    cpu->gpr[X86_RSP] = 1;
    assert_int_equal(FAULT(f, x86_int(cpu, 0x20, X86_DELIVER_SOFT_INT)), X86_SS_FAULT);
}

static void test_protected_same(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    PROT_GATE(f, 13, SEL_CODE0, 0x8e);
    PROT_GATE(f, 14, SEL_CODE0, 0x8f);
    x86_set_rflags(cpu, FLAGS_ALL | X86_FLAG_NT | X86_FLAG_AC);
    uint64_t sp = cpu->gpr[X86_RSP];
    cpu->insn_rip = CODE + 5;
    cpu->rip = CODE + 9;
    assert_int_equal(FAULT(f, x86_raise_error(cpu, X86_GP, 0x18)), X86_GP);
    assert_true(FAULT(f, x86_fault_pending(cpu)) == -1);
    assert_int_equal(cpu->rip, 0x5000d);
    assert_int_equal(cpu->gpr[X86_RSP], sp - 16);
    assert_int_equal(get(f, sp - 4, 4), FLAGS_ALL | X86_FLAG_NT | X86_FLAG_AC | X86_FLAG_RF);
    assert_int_equal(get(f, sp - 8, 4), SEL_CODE0);
    assert_int_equal(get(f, sp - 12, 4), CODE + 5);
    assert_int_equal(get(f, sp - 16, 4), 0x18);
    assert_int_equal(x86_get_rflags(cpu), (FLAGS_ALL & ~X86_FLAG_IF) | X86_FLAG_AC);
    // a trap gate keeps IF; #PF sets CR2
    x86_set_rflags(cpu, FLAGS_ALL);
    assert_int_equal(FAULT(f, x86_raise_pf(cpu, 0x1234567, 2)), X86_PF);
    assert_true(FAULT(f, x86_fault_pending(cpu)) == -1);
    assert_int_equal(cpu->cr2, 0x1234567);
    assert_true(cpu->rflags & X86_FLAG_IF);
    // the accessed bit of the code segment was set
    assert_int_equal(get(f, GDT + SEL_CODE0 + 5, 1), 0x9b);
}

static void test_protected_inner(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    fix_level(f, 3, SEL_CODE3, SEL_DATA3);
    PROT_GATE(f, 0x80, SEL_CODE0, 0xee);
    PROT_GATE(f, 0x81, SEL_CODE0, 0x8e);
    put_gate(f, IDT + 0x82 * 8, SEL_CODE0, 0x1234, 0xe6, 0, false); // 16-bit
    cpu->gpr[X86_RSP] = STACK3;
    cpu->rip = CODE + 2;
    cpu->insn_rip = CODE;
    x86_set_rflags(cpu, FLAGS_ALL);
    assert_int_equal(FAULT(f, x86_int(cpu, 0x81, X86_DELIVER_SOFT_INT)), X86_GP);
    assert_int_equal(FAULT_ERROR(f), 0x81 * 8 + 2);
    cpu->delivering = -1;
    assert_int_equal(FAULT(f, x86_int(cpu, 0x80, X86_DELIVER_SOFT_INT)), -1);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->seg[X86_CS].sel, SEL_CODE0);
    assert_int_equal(cpu->seg[X86_SS].sel, SEL_DATA0);
    assert_int_equal(cpu->gpr[X86_RSP], STACK0 - 20);
    assert_int_equal(get(f, STACK0 - 4, 4), SEL_DATA3 | 3);
    assert_int_equal(get(f, STACK0 - 8, 4), STACK3);
    assert_int_equal(get(f, STACK0 - 12, 4), FLAGS_ALL);
    assert_int_equal(get(f, STACK0 - 16, 4), SEL_CODE3 | 3);
    assert_int_equal(get(f, STACK0 - 20, 4), CODE + 2);
    // IRET to ring 3 drops segments that ring 3 may not use
    assert_int_equal(FAULT(f, x86_load_seg(cpu, X86_DS, SEL_DATA0)), -1);
    assert_int_equal(FAULT(f, x86_iret(cpu, 4)), -1);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->rip, CODE + 2);
    assert_int_equal(cpu->gpr[X86_RSP], STACK3);
    assert_int_equal(cpu->seg[X86_DS].sel, 0);
    assert_true(cpu->seg[X86_DS].attr & X86_ATTR_UNUSABLE);
    assert_int_equal(cpu->seg[X86_ES].sel, SEL_DATA3 | 3);
    // 16-bit gate
    assert_int_equal(FAULT(f, x86_int(cpu, 0x82, X86_DELIVER_SOFT_INT)), -1);
    assert_int_equal(cpu->rip, 0x1234);
    assert_int_equal(cpu->gpr[X86_RSP], STACK0 - 10);
    assert_int_equal(get(f, STACK0 - 2, 2), SEL_DATA3 | 3);
    assert_int_equal(get(f, STACK0 - 10, 2), (CODE + 2) & 0xffff);
}

// Every check of the gate, its code segment and the TSS stack, with exact codes.
static void test_protected_errors(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    fix_level(f, 3, SEL_CODE3, SEL_DATA3);
    cpu->gpr[X86_RSP] = STACK3;
    struct x86_cpu before = *cpu;
#define DELIVER(vec, err, ...)                                                    \
    do {                                                                          \
        before = *cpu;                                                            \
        assert_int_equal(FAULT(f, x86_deliver(cpu, __VA_ARGS__, false, 0)), vec); \
        assert_int_equal(FAULT_ERROR(f), err);                                    \
        assert_memory_equal(cpu->gpr, before.gpr, sizeof(cpu->gpr));              \
        assert_memory_equal(cpu->seg, before.seg, sizeof(cpu->seg));              \
        assert_int_equal(cpu->rip, before.rip);                                   \
        assert_int_equal(cpu->cpl, 3);                                            \
    } while (0)
    DELIVER(X86_GP, 0x30 * 8 + 3, X86_DELIVER_EXTERNAL, 0x30); // type 0
    DELIVER(X86_GP, 0x30 * 8 + 2, X86_DELIVER_SOFT_INT, 0x30);
    PROT_GATE(f, 0x30, SEL_CODE0, 0x0e);
    DELIVER(X86_NP, 0x30 * 8 + 3, X86_DELIVER_EXTERNAL, 0x30);
    PROT_GATE(f, 0x30, 3, 0x8e);
    DELIVER(X86_GP, 1, X86_DELIVER_EXTERNAL, 0x30);
    PROT_GATE(f, 0x30, 0x1000, 0x8e);
    DELIVER(X86_GP, 0x1001, X86_DELIVER_EXTERNAL, 0x30);
    PROT_GATE(f, 0x30, SEL_DATA0, 0x8e);
    DELIVER(X86_GP, SEL_DATA0 + 1, X86_DELIVER_EXTERNAL, 0x30);
    put_desc(f, GDT + SEL_ROCODE, 0, 0xfffff, 0x18, 0xc);
    PROT_GATE(f, 0x30, SEL_ROCODE, 0x8e);
    DELIVER(X86_NP, SEL_ROCODE + 1, X86_DELIVER_EXTERNAL, 0x30);
    PROT_GATE(f, 0x30, SEL_CODE0, 0x8e);
    cpu->tr.limit = 8;
    DELIVER(X86_TS, SEL_TSS + 1, X86_DELIVER_EXTERNAL, 0x30);
    cpu->tr.limit = 0x67;
    put(f, TSS + 8, 0, 4);
    DELIVER(X86_TS, 1, X86_DELIVER_EXTERNAL, 0x30);
    put(f, TSS + 8, SEL_DATA3 | 3, 4);
    DELIVER(X86_TS, SEL_DATA3 + 1, X86_DELIVER_EXTERNAL, 0x30);
    put(f, TSS + 8, SEL_DATA3, 4); // RPL 0, DPL 3
    DELIVER(X86_TS, SEL_DATA3 + 1, X86_DELIVER_EXTERNAL, 0x30);
    put(f, TSS + 8, SEL_ABSENT, 4);
    DELIVER(X86_SS_FAULT, SEL_ABSENT + 1, X86_DELIVER_EXTERNAL, 0x30);
    put(f, TSS + 8, SEL_DATA16, 4);
    put(f, TSS + 4, 0xfffff, 4); // SP 0xffff, but 16 bits only: pushes below it fit
    put_desc(f, GDT + SEL_DATA16, 0, 0x0fff, 0x92, 0);
    DELIVER(X86_SS_FAULT, SEL_DATA16 + 1, X86_DELIVER_EXTERNAL, 0x30);
    put(f, TSS + 8, SEL_DATA0, 4);
    put_desc(f, GDT + SEL_CODE0, 0, 0x4ffff, 0x9a, 0x4);
    DELIVER(X86_GP, 1, X86_DELIVER_EXTERNAL, 0x30);
#undef DELIVER
}

static void test_double_triple(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    PROT_GATE(f, 8, SEL_CODE0, 0x8e);
    uint64_t sp = cpu->gpr[X86_RSP];
    // #GP whose gate is missing: #GP again, so #DF with code 0
    assert_int_equal(FAULT(f, x86_raise_error(cpu, X86_GP, 0x18)), X86_GP);
    assert_int_equal(FAULT(f, x86_fault_pending(cpu)), X86_GP);
    assert_int_equal(FAULT_ERROR(f), 13 * 8 + 3);
    assert_int_equal(FAULT(f, x86_fault_pending(cpu)), -1);
    assert_int_equal(cpu->rip, 0x50008);
    assert_int_equal(get(f, sp - 16, 4), 0);
    assert_int_equal(get(f, sp - 4, 4) & X86_FLAG_RF, 0);
    // benign first: serially
    cpu->gpr[X86_RSP] = sp;
    PROT_GATE(f, 13, SEL_CODE0, 0x8e);
    assert_int_equal(FAULT(f, x86_raise(cpu, X86_UD)), X86_UD);
    assert_int_equal(FAULT(f, x86_fault_pending(cpu)), X86_GP);
    assert_int_equal(FAULT(f, x86_fault_pending(cpu)), -1);
    assert_int_equal(cpu->rip, 0x5000d);
    assert_int_equal(get(f, sp - 16, 4), 6 * 8 + 3);
    // an external interrupt with vector 13 is benign
    put(f, IDT + 0xd * 8 + 4, 0, 4);
    assert_int_equal(FAULT(f, x86_deliver(cpu, X86_DELIVER_EXTERNAL, 13, false, 0)), X86_GP);
    PROT_GATE(f, 13, SEL_CODE0, 0x8e);
    assert_int_equal(FAULT(f, x86_fault_pending(cpu)), -1);
    assert_int_equal(cpu->rip, 0x5000d);
    // triple
    put(f, IDT + 8 * 8 + 4, 0, 4);
    put(f, IDT + 13 * 8 + 4, 0, 4);
    assert_int_equal(FAULT(f, x86_raise_error(cpu, X86_GP, 0)), X86_GP);
    assert_int_equal(FAULT(f, x86_fault_pending(cpu)), X86_GP);
    assert_int_equal(FAULT(f, x86_fault_pending(cpu)), X86_GP);
    assert_int_equal(cpu->delivering, X86_DF);
    if (setjmp(cpu->unwind) == 0)
        assert_false(x86_fault_pending(cpu));
    else
        fail();
    assert_int_equal(cpu->activity, X86_SHUTDOWN);
}

static void test_v86(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    PROT_GATE(f, 0x21, SEL_CODE0, 0xee);
    PROT_GATE(f, 13, SEL_CODE0, 0xee);
    // enter by IRET
    uint64_t sp = STACK0 - 36;
    const uint32_t frame[9] = {0x7c00, 0x1111, X86_FLAG_VM | X86_FLAG_IF | 2,
                               0xff00, 0x2222, 0x3333,
                               0x4444, 0x5555, 0x6666};
    for (unsigned i = 0; i < 9; i++)
        put(f, sp + i * 4, frame[i], 4);
    cpu->gpr[X86_RSP] = sp;
    assert_int_equal(FAULT(f, x86_iret(cpu, 4)), -1);
    assert_true(x86_v86_mode(cpu));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->rip, 0x7c00);
    assert_int_equal(cpu->gpr[X86_RSP], 0xff00);
    assert_int_equal(cpu->seg[X86_CS].base, 0x11110);
    assert_int_equal(cpu->seg[X86_SS].base, 0x22220);
    assert_int_equal(cpu->seg[X86_ES].base, 0x33330);
    assert_int_equal(cpu->seg[X86_DS].base, 0x44440);
    assert_int_equal(cpu->seg[X86_FS].base, 0x55550);
    assert_int_equal(cpu->seg[X86_GS].base, 0x66660);
    assert_int_equal(cpu->seg[X86_GS].attr, 0xf3);
    assert_int_equal(cpu->code_size, X86_CODE16);
    // INT n with IOPL 0: #GP(0); an interrupt goes to ring 0 with nine slots
    assert_int_equal(FAULT(f, x86_int(cpu, 0x21, X86_DELIVER_SOFT_INT)), X86_GP);
    assert_int_equal(FAULT_ERROR(f), 0);
    cpu->delivering = -1;
    assert_int_equal(FAULT(f, x86_deliver(cpu, X86_DELIVER_EXTERNAL, 0x21, false, 0)), -1);
    assert_int_equal(cpu->cpl, 0);
    assert_false(x86_v86_mode(cpu));
    assert_int_equal(cpu->gpr[X86_RSP], STACK0 - 36);
    for (unsigned i = 0; i < 9; i++)
        assert_int_equal(get(f, sp + i * 4, 4), frame[i]);
    assert_int_equal(cpu->seg[X86_DS].sel, 0);
    assert_true(cpu->seg[X86_GS].attr & X86_ATTR_UNUSABLE);
    assert_int_equal(cpu->code_size, X86_CODE32);
    // VME: redirected to the virtual machine's own table
    assert_int_equal(FAULT(f, x86_iret(cpu, 4)), -1);
    cpu->cr4 |= X86_CR4_VME;
    cpu->rflags |= X86_FLAG_VIF;
    put(f, TSS + 102, 0x88, 2); // redirection bitmap at 0x68
    put(f, 0x21 * 4, 0x00504321, 4);
    assert_int_equal(FAULT(f, x86_int(cpu, 0x21, X86_DELIVER_SOFT_INT)), -1);
    assert_true(x86_v86_mode(cpu));
    assert_int_equal(cpu->rip, 0x4321);
    assert_int_equal(cpu->seg[X86_CS].base, 0x500);
    assert_false(cpu->rflags & X86_FLAG_VIF);
    assert_true(cpu->rflags & X86_FLAG_IF);
    assert_int_equal(get(f, 0x22220 + 0xff00 - 2, 2), 0x3202); // IOPL 3, IF from VIF
    // STI, PUSHF and POPF act on VIF
    x86_sti(cpu);
    assert_true(cpu->rflags & X86_FLAG_VIF);
    assert_int_equal(cpu->shadow, 0);
    assert_int_equal(x86_pushf_value(cpu, 2), 0x3202);
    assert_int_equal(FAULT(f, x86_pushf_value(cpu, 4)), X86_GP);
    x86_popf(cpu, 0, 2);
    assert_false(cpu->rflags & X86_FLAG_VIF);
    cpu->rflags |= X86_FLAG_VIP;
    assert_int_equal(FAULT(f, x86_sti(cpu)), X86_GP);
    assert_int_equal(FAULT(f, x86_popf(cpu, X86_FLAG_IF, 2)), X86_GP);
}

static void test_long(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    LONG_GATE(f, 14, SEL_CODE64_0, 0x8e, 0);
    LONG_GATE(f, 2, SEL_CODE64_0, 0x8e, 3);
    put(f, TSS + 0x24 + 16, 0x28008, 8); // IST3, misaligned
    // from ring 3: RSP0, null SS
    fix_level(f, 3, SEL_CODE64_3, SEL_DATA3);
    cpu->gpr[X86_RSP] = STACK3 + 3;
    x86_set_rflags(cpu, FLAGS_ALL);
    assert_int_equal(FAULT(f, x86_raise_pf(cpu, 0xffff800000001000, 4)), X86_PF);
    assert_int_equal(FAULT(f, x86_fault_pending(cpu)), -1);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->seg[X86_SS].sel, 0);
    assert_int_equal(cpu->gpr[X86_RSP], STACK0 - 48);
    const uint64_t frame[6] = {4,          CODE,         SEL_CODE64_3 | 3, FLAGS_ALL | X86_FLAG_RF,
                               STACK3 + 3, SEL_DATA3 | 3};
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(get(f, STACK0 - 48 + i * 8, 8), frame[i]);
    assert_int_equal(cpu->rip, 0x5000e);
    assert_int_equal(cpu->cr2, 0xffff800000001000);
    assert_ptr_equal(cpu->tlb->cur, cpu->tlb->set[X86_TLB_SUPERVISOR]);
    // nested NMI on its IST stack, 16-byte aligned
    atomic_fetch_or(&cpu->events, X86_EVENT_NMI);
    assert_true(x86_events_ready(cpu));
    assert_int_equal(FAULT(f, x86_events_deliver(cpu)), -1);
    assert_int_equal(cpu->gpr[X86_RSP], 0x28000 - 40);
    assert_true(cpu->nmi_blocked);
    assert_int_equal(get(f, 0x28000 - 8, 8), 0);
    assert_int_equal(get(f, 0x28000 - 16, 8), STACK0 - 48);
    // a second NMI waits for IRETQ
    atomic_fetch_or(&cpu->events, X86_EVENT_NMI);
    assert_int_equal(FAULT(f, assert_false(x86_events_deliver(cpu))), -1);
    assert_false(x86_events_ready(cpu));
    assert_int_equal(FAULT(f, x86_iret(cpu, 8)), -1);
    assert_int_equal(cpu->gpr[X86_RSP], STACK0 - 48);
    assert_int_equal(cpu->rip, 0x5000e);
    assert_false(cpu->nmi_blocked);
    assert_true(x86_events_ready(cpu));
    atomic_store(&cpu->events, 0);
    // IRETQ to ring 3
    cpu->gpr[X86_RSP] += 8;
    assert_int_equal(FAULT(f, x86_iret(cpu, 8)), -1);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->gpr[X86_RSP], STACK3 + 3);
    assert_int_equal(cpu->seg[X86_SS].sel, SEL_DATA3 | 3);
    assert_int_equal(x86_get_rflags(cpu), FLAGS_ALL | X86_FLAG_RF);
    assert_ptr_equal(cpu->tlb->cur, cpu->tlb->set[X86_TLB_USER]);
}

static void test_long_errors(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    fix_level(f, 3, SEL_CODE64_3, SEL_DATA3);
    cpu->gpr[X86_RSP] = STACK3;
    LONG_GATE(f, 0x30, SEL_CODE0, 0x8e, 0); // not a 64-bit segment
    assert_int_equal(FAULT(f, x86_deliver(cpu, X86_DELIVER_EXTERNAL, 0x30, false, 0)), X86_GP);
    assert_int_equal(FAULT_ERROR(f), SEL_CODE0 + 1);
    LONG_GATE(f, 0x30, SEL_CODE64_0, 0x8e, 0);
    put(f, TSS + 4, 0x0000800000000000, 8);
    assert_int_equal(FAULT(f, x86_deliver(cpu, X86_DELIVER_EXTERNAL, 0x30, false, 0)), X86_PF);
    // [0x7fff'ffff'ffd8, 0x8000'0000'0000) is canonical, only not mapped
}

static void test_long_stack_faults(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    fix_level(f, 3, SEL_CODE64_3, SEL_DATA3);
    cpu->gpr[X86_RSP] = STACK3;
    LONG_GATE(f, 0x30, SEL_CODE64_0, 0x8e, 0);
    put(f, TSS + 4, 0x0000900000000000, 8);
    assert_int_equal(FAULT(f, x86_deliver(cpu, X86_DELIVER_EXTERNAL, 0x30, false, 0)),
                     X86_SS_FAULT);
    assert_int_equal(FAULT_ERROR(f), 1);
    put_gate(f, IDT + 0x30 * 16, SEL_CODE64_0, 0x0000900000000000, 0x8e, 0, true);
    put(f, TSS + 4, STACK0, 8);
    assert_int_equal(FAULT(f, x86_deliver(cpu, X86_DELIVER_EXTERNAL, 0x30, false, 0)), X86_GP);
    assert_int_equal(FAULT_ERROR(f), 1);
    LONG_GATE(f, 0x30, SEL_CODE64_0, 0x8e, 0);
    cpu->tr.limit = 10;
    assert_int_equal(FAULT(f, x86_deliver(cpu, X86_DELIVER_EXTERNAL, 0x30, false, 0)), X86_TS);
    assert_int_equal(FAULT_ERROR(f), SEL_TSS + 1);
    cpu->tr.limit = 0x67;
    // a frame across two pages whose lower one is read-only: #PF, and the upper page keeps its
    // bytes
    put(f, TSS + 4, 0x21010, 8);
    put(f, PT + 0x20 * 8, 0x20000 | 5, 8);
    put(f, 0x21008, 0x1122334455667788, 8);
    struct x86_cpu before = *cpu;
    assert_int_equal(FAULT(f, x86_deliver(cpu, X86_DELIVER_EXTERNAL, 0x30, false, 0)), X86_PF);
    assert_int_equal(FAULT_ERROR(f), 3); // supervisor write, protection
    assert_int_equal(get(f, 0x21008, 8), 0x1122334455667788);
    assert_memory_equal(cpu->gpr, before.gpr, sizeof(cpu->gpr));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->fault.cr2 & ~0xfffull, 0x20000);
    // external interrupt (benign), then #PF delivered
    LONG_GATE(f, 14, SEL_CODE64_0, 0x8e, 1);
    put(f, TSS + 0x24, STACK0, 8);
    put(f, PT + 0x20 * 8, 0x20000 | 7, 8);
    x86_tlb_flush_all(cpu);
    assert_int_equal(FAULT(f, x86_fault_pending(cpu)), -1);
    assert_int_equal(cpu->rip, 0x5000e);
}

static void test_events(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    LONG_GATE(f, 1, SEL_CODE64_0, 0x8e, 0);
    LONG_GATE(f, 2, SEL_CODE64_0, 0x8e, 0);
    LONG_GATE(f, 0x40, SEL_CODE64_0, 0x8e, 0);
    atomic_fetch_or(&cpu->events, X86_EVENT_INTR);
    f->interrupt = 0x40;
    // IF clear
    assert_false(x86_events_ready(cpu));
    assert_false(x86_events_deliver(cpu));
    // STI and its shadow
    x86_sti(cpu);
    assert_int_equal(cpu->shadow, X86_SHADOW_STI);
    assert_false(x86_events_ready(cpu));
    assert_false(x86_events_deliver(cpu));
    cpu->shadow = 0;
    cpu->activity = X86_HALTED;
    cpu->rip = CODE + 1;
    assert_int_equal(FAULT(f, assert_true(x86_events_deliver(cpu))), -1);
    assert_int_equal(cpu->rip, 0x50040);
    assert_int_equal(cpu->activity, X86_ACTIVE);
    assert_int_equal(get(f, cpu->gpr[X86_RSP], 8), CODE + 1);
    // STI while IF is set makes no shadow
    x86_sti(cpu);
    cpu->shadow = 0;
    x86_sti(cpu);
    assert_int_equal(cpu->shadow, 0);
    // nothing to acknowledge: the event goes away
    assert_false(x86_events_deliver(cpu));
    assert_int_equal(cpu->events, 0);
    // trap before NMI before interrupt; each runs with the next one pending
    cpu->rip = CODE;
    f->interrupt = 0x40;
    atomic_fetch_or(&cpu->events, X86_EVENT_INTR | X86_EVENT_NMI);
    cpu->stepping = true;
    x86_single_step_done(cpu);
    cpu->dr7 = 0x2400;
    assert_int_equal(FAULT(f, assert_true(x86_events_deliver(cpu))), -1);
    assert_int_equal(cpu->rip, 0x50001);
    assert_int_equal(cpu->dr6, 0xffff4ff0);
    assert_int_equal(cpu->dr7, 0x400);
    assert_int_equal(get(f, cpu->gpr[X86_RSP], 8), CODE);
    assert_int_equal(FAULT(f, assert_true(x86_events_deliver(cpu))), -1);
    assert_int_equal(cpu->rip, 0x50002);
    assert_false(x86_events_deliver(cpu)); // IF is clear
    // MOV SS shadows single-step
    cpu->shadow = X86_SHADOW_MOVSS;
    cpu->stepping = true;
    x86_single_step_done(cpu);
    assert_int_equal(cpu->dr6_pending, 0);
    assert_false(cpu->stepping);
}

static void test_init_sipi(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    f->bsp = false;
    cpu->sipi_vector = 0x9a;
    atomic_fetch_or(&cpu->events, X86_EVENT_INIT | X86_EVENT_SIPI);
    assert_true(x86_events_deliver(cpu));
    assert_int_equal(cpu->activity, X86_WAIT_SIPI);
    assert_false(cpu->long_mode);
    assert_true(x86_events_deliver(cpu));
    assert_int_equal(cpu->activity, X86_ACTIVE);
    assert_int_equal(cpu->seg[X86_CS].sel, 0x9a00);
    assert_int_equal(cpu->seg[X86_CS].base, 0x9a000);
    assert_int_equal(cpu->rip, 0);
    atomic_fetch_or(&cpu->events, X86_EVENT_SIPI); // ignored while active
    assert_false(x86_events_deliver(cpu));
    f->bsp = true;
    atomic_fetch_or(&cpu->events, X86_EVENT_INIT);
    assert_true(x86_events_deliver(cpu));
    assert_int_equal(cpu->activity, X86_ACTIVE);
    assert_int_equal(cpu->rip, 0xfff0);
}

static void test_flags(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    x86_popf(cpu, 0xffffffff, 4);
    assert_int_equal(x86_get_rflags(cpu), 0x247fd7); // not RF, VM, VIF, VIP
    x86_popf(cpu, 0, 2);
    assert_int_equal(x86_get_rflags(cpu), 0x240002);
    fix_level(f, 3, SEL_CODE3, SEL_DATA3);
    x86_popf(cpu, 0xffff, 2);
    assert_int_equal(x86_get_rflags(cpu), 0x244dd7); // not IF, IOPL
    assert_int_equal(FAULT(f, x86_cli(cpu)), X86_GP);
    assert_int_equal(FAULT(f, x86_sti(cpu)), X86_GP);
    cpu->cr4 |= X86_CR4_PVI;
    assert_int_equal(FAULT(f, x86_sti(cpu)), -1);
    assert_true(cpu->rflags & X86_FLAG_VIF);
    // I/O bitmap
    put(f, TSS + 102, 0x100, 2);
    put(f, TSS + 0x100 + 0x80, 0xfffe, 2);
    assert_int_equal(FAULT(f, x86_check_io(cpu, 0x400, 1)), -1);
    assert_int_equal(FAULT(f, x86_check_io(cpu, 0x400, 2)), X86_GP);
    assert_int_equal(FAULT(f, x86_check_io(cpu, 0x3fc, 4)), -1);
    assert_int_equal(FAULT(f, x86_check_io(cpu, 0x3fe, 4)), X86_GP);
    assert_int_equal(FAULT(f, x86_check_io(cpu, 0xffff, 4)), X86_GP); // beyond the limit
    cpu->rflags |= X86_FLAG_IOPL;
    assert_int_equal(FAULT(f, x86_check_io(cpu, 0x400, 2)), -1);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fix_setup, fix_teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reset),
        TEST(test_real),
        TEST(test_protected_same),
        TEST(test_protected_inner),
        TEST(test_protected_errors),
        TEST(test_double_triple),
        TEST(test_v86),
        TEST(test_long),
        TEST(test_long_errors),
        TEST(test_long_stack_faults),
        TEST(test_events),
        TEST(test_init_sipi),
        TEST(test_flags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
