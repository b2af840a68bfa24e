// SPDX-License-Identifier: Apache-2.0
// Segment loads, LAR and its kin, far transfers, call gates, IRET forms, SYSCALL and SYSENTER.
#include "system_fixture.h"

// The call raises `vec` with code `err` and leaves registers, segments and flags alone.
#define RAISES(vec, err, call)                                               \
    do {                                                                     \
        struct x86_cpu before_ = f->cpu;                                     \
        assert_int_equal(FAULT(f, call), vec);                               \
        assert_int_equal(FAULT_ERROR(f), err);                               \
        assert_memory_equal(f->cpu.gpr, before_.gpr, sizeof(before_.gpr));   \
        assert_memory_equal(f->cpu.seg, before_.seg, sizeof(before_.seg));   \
        assert_int_equal(f->cpu.rip, before_.rip);                           \
        assert_int_equal(x86_get_rflags(&f->cpu), x86_get_rflags(&before_)); \
        assert_int_equal(f->cpu.cpl, before_.cpl);                           \
    } while (0)
#define WORKS(call) assert_int_equal(FAULT(f, call), -1)

static void test_load_seg(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    const uint32_t rw = X86_ACCESS_READ | X86_ACCESS_WRITE;
    // flat data: no checks needed
    WORKS(x86_load_seg(cpu, X86_DS, SEL_DATA0));
    assert_int_equal(cpu->seg[X86_DS].unchecked, rw);
    assert_int_equal(cpu->seg[X86_DS].limit, 0xffffffff);
    assert_int_equal(get(f, GDT + SEL_DATA0 + 5, 1), 0x93);
    WORKS(x86_load_seg(cpu, X86_DS, SEL_RODATA | 3));
    assert_int_equal(cpu->seg[X86_DS].unchecked, X86_ACCESS_READ);
    WORKS(x86_load_seg(cpu, X86_DS, SEL_CONF0 | 3)); // conforming: any RPL
    WORKS(x86_load_seg(cpu, X86_DS, SEL_DOWN));
    assert_int_equal(cpu->seg[X86_DS].unchecked, 0);
    WORKS(x86_load_seg(cpu, X86_DS, 3));
    assert_true(cpu->seg[X86_DS].attr & X86_ATTR_UNUSABLE);
    assert_int_equal(cpu->seg[X86_DS].sel, 3);
    assert_int_equal(cpu->seg[X86_DS].unchecked, 0);
    assert_int_equal(FAULT(f, x86_read8(cpu, X86_DS, 0)), X86_GP);
    RAISES(X86_GP, 0x1000, x86_load_seg(cpu, X86_ES, 0x1003));
    RAISES(X86_GP, SEL_ROCODE, x86_load_seg(cpu, X86_ES, SEL_ROCODE));
    RAISES(X86_GP, SEL_TSS, x86_load_seg(cpu, X86_ES, SEL_TSS));
    RAISES(X86_GP, SEL_DATA0, x86_load_seg(cpu, X86_ES, SEL_DATA0 | 1)); // RPL > DPL
    RAISES(X86_NP, SEL_ABSENT, x86_load_seg(cpu, X86_ES, SEL_ABSENT));
    RAISES(X86_GP, 4, x86_load_seg(cpu, X86_ES, 4)); // no LDT
    // SS
    RAISES(X86_GP, 0, x86_load_seg(cpu, X86_SS, 0));
    RAISES(X86_GP, SEL_DATA3, x86_load_seg(cpu, X86_SS, SEL_DATA3 | 3));
    RAISES(X86_GP, SEL_DATA0, x86_load_seg(cpu, X86_SS, SEL_DATA0 | 1));
    RAISES(X86_GP, SEL_CODE0, x86_load_seg(cpu, X86_SS, SEL_CODE0));
    RAISES(X86_SS_FAULT, SEL_ABSENT, x86_load_seg(cpu, X86_SS, SEL_ABSENT));
    WORKS(x86_load_seg(cpu, X86_SS, SEL_DATA16));
    assert_int_equal(cpu->stack_size, 2);
    WORKS(x86_load_seg(cpu, X86_SS, SEL_DATA0));
    assert_int_equal(cpu->stack_size, 4);
    // LDT
    put_desc(f, LDT + 8, 0x1000, 0xfff, 0x92, 0);
    WORKS(x86_lldt(cpu, SEL_LDT));
    WORKS(x86_load_seg(cpu, X86_ES, 8 | 4));
    assert_int_equal(cpu->seg[X86_ES].base, 0x1000);
    RAISES(X86_GP, 0x104, x86_load_seg(cpu, X86_ES, 0x104));
    RAISES(X86_GP, SEL_TSS, x86_lldt(cpu, SEL_TSS));
    RAISES(X86_GP, 0xc, x86_lldt(cpu, 0xc));
    WORKS(x86_lldt(cpu, 0));
    RAISES(X86_GP, SEL_TSS, x86_ltr(cpu, SEL_TSS)); // busy
    RAISES(X86_GP, 0, x86_ltr(cpu, 0));
    assert_int_equal(get(f, GDT + SEL_TSS + 5, 1), 0x8b);
}

static void test_null_selectors(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    cpu->seg[X86_FS].base = 0xffff800012345678;
    x86_seg_changed(cpu, X86_FS);
    assert_int_equal(cpu->seg[X86_FS].eff_base, 0xffff800012345678);
    // On processors of both vendors (AMD: since Zen 2, measured).
    WORKS(x86_load_seg(cpu, X86_FS, 0));
    assert_int_equal(cpu->seg[X86_FS].base, 0);
    assert_int_equal(cpu->seg[X86_FS].eff_base, 0);
    WORKS(x86_load_seg(cpu, X86_SS, 0)); // long mode, CPL 0
    assert_int_equal(cpu->stack_size, 8);
    RAISES(X86_GP, 0, x86_load_seg(cpu, X86_SS, 3));
    // 16-byte LDT descriptor
    put(f, GDT + SEL_LDT + 8, 0xffff8000, 8);
    WORKS(x86_lldt(cpu, SEL_LDT));
    assert_int_equal(cpu->ldtr.base, 0xffff800000000000 | LDT);
    put(f, GDT + SEL_LDT + 8, 0x00018000, 8);
    RAISES(X86_GP, SEL_LDT, x86_lldt(cpu, SEL_LDT));
}

static void test_unreal(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    x86_load_seg(cpu, X86_DS, 0x1234);
    assert_int_equal(cpu->seg[X86_DS].base, 0x12340);
    assert_int_equal(cpu->seg[X86_DS].limit, 0xffff);
    fix_protected(f);
    WORKS(x86_load_seg(cpu, X86_DS, SEL_DATA0));
    cpu->cr0 &= ~X86_CR0_PE;
    x86_mode_changed(cpu);
    x86_load_seg(cpu, X86_DS, 0x100);
    assert_int_equal(cpu->seg[X86_DS].base, 0x1000);
    assert_int_equal(cpu->seg[X86_DS].limit, 0xffffffff);
    WORKS(x86_seg_check(cpu, X86_DS, 0xfffffffc, 4, X86_ACCESS_WRITE));
    RAISES(X86_GP, 0, x86_seg_check(cpu, X86_DS, 0xfffffffd, 4, X86_ACCESS_WRITE));
}

static void test_lar(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    uint32_t v = 0;
    fix_protected(f);
    assert_true(x86_lar(cpu, SEL_DATA3 | 3, &v));
    assert_int_equal(v, 0x00cff300); // touched by fix_protected
    assert_true(x86_lsl(cpu, SEL_DATA3 | 3, &v));
    assert_int_equal(v, 0xffffffff);
    assert_true(x86_lsl(cpu, SEL_DATA16, &v));
    assert_int_equal(v, 0xffff);
    assert_false(x86_lar(cpu, 0, &v));
    assert_false(x86_lar(cpu, SEL_DATA0 | 3, &v));
    assert_true(x86_lar(cpu, SEL_CONF0 | 3, &v));
    assert_true(x86_lar(cpu, SEL_TASKGATE, &v));
    assert_false(x86_lsl(cpu, SEL_TASKGATE, &v));
    assert_true(x86_lsl(cpu, SEL_TSS, &v));
    assert_int_equal(v, 0x7ff);
    put_gate(f, GDT + SEL_GATE, SEL_CODE0, 0, 0x8e, 0, false); // interrupt gate: no
    assert_false(x86_lar(cpu, SEL_GATE, &v));
    assert_true(x86_verify(cpu, SEL_DATA3 | 3, true));
    assert_true(x86_verify(cpu, SEL_RODATA, false));
    assert_false(x86_verify(cpu, SEL_RODATA, true));
    assert_false(x86_verify(cpu, SEL_ROCODE, false));
    assert_false(x86_verify(cpu, SEL_TSS, false));
    assert_true(x86_verify(cpu, SEL_CODE0, false));
    assert_false(x86_verify(cpu, SEL_CODE0, true));
    fix_level(f, 3, SEL_CODE3, SEL_DATA3);
    assert_false(x86_verify(cpu, SEL_DATA0, false));
    assert_false(x86_lar(cpu, SEL_TSS, &v));
}

static void test_lar_long(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    uint32_t v = 0;
    fix_long(f);
    assert_true(x86_lar(cpu, SEL_TSS, &v));
    put_desc(f, GDT + SEL_GATE, 0, 0, 0x81, 0); // 16-bit TSS
    assert_false(x86_lar(cpu, SEL_GATE, &v));
    put_desc(f, GDT + SEL_GATE, 0, 0, 0x85, 0); // task gate
    assert_false(x86_lar(cpu, SEL_GATE, &v));
    put_desc(f, GDT + SEL_GATE, 0, 0, 0x8c, 0);
    assert_true(x86_lar(cpu, SEL_GATE, &v));
}

static void test_far_same(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    uint64_t sp = cpu->gpr[X86_RSP];
    WORKS(x86_far_jmp(cpu, SEL_CODE16, 0x12345, 2));
    assert_int_equal(cpu->rip, 0x2345);
    assert_int_equal(cpu->code_size, X86_CODE16);
    WORKS(x86_far_call(cpu, SEL_CODE0, 0x12345, 4));
    assert_int_equal(cpu->gpr[X86_RSP], sp - 8);
    assert_int_equal(get(f, sp - 4, 4), SEL_CODE16);
    assert_int_equal(get(f, sp - 8, 4), 0x2345);
    assert_int_equal(cpu->code_size, X86_CODE32);
    put(f, sp, 0, 8);
    WORKS(x86_far_ret(cpu, 4, 4));
    assert_int_equal(cpu->gpr[X86_RSP], sp + 4);
    assert_int_equal(cpu->rip, 0x2345);
    assert_int_equal(cpu->code_size, X86_CODE16);
    RAISES(X86_GP, 0, x86_far_jmp(cpu, 0, 0, 4));
    RAISES(X86_GP, SEL_CODE3, x86_far_jmp(cpu, SEL_CODE3 | 3, 0, 4));
    RAISES(X86_GP, SEL_DATA0, x86_far_jmp(cpu, SEL_DATA0, 0, 4));
    RAISES(X86_GP, 0x2000, x86_far_jmp(cpu, 0x2000, 0, 4));
    RAISES(X86_GP, 0, x86_far_jmp(cpu, SEL_CODE16, 0x10000, 4));
    RAISES(X86_GP, SEL_TSS, x86_far_jmp(cpu, SEL_TSS, 0, 4)); // busy
    // near
    RAISES(X86_GP, 0, x86_branch(cpu, 0x10000, 4));
    WORKS(x86_branch(cpu, 0x12345, 2));
    assert_int_equal(cpu->rip, 0x2345);
    // conforming keeps CPL
    fix_level(f, 3, SEL_CODE3, SEL_DATA3);
    WORKS(x86_far_jmp(cpu, SEL_CONF0, 0x100, 4));
    assert_int_equal(cpu->seg[X86_CS].sel, SEL_CONF0 | 3);
    assert_int_equal(cpu->cpl, 3);
}

static void test_call_gate(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    fix_level(f, 3, SEL_CODE3, SEL_DATA3);
    put_gate(f, GDT + SEL_GATE, SEL_CODE0, 0x123456, 0xec, 3, false);
    cpu->gpr[X86_RSP] = STACK3;
    for (unsigned i = 0; i < 3; i++)
        put(f, STACK3 + i * 4, 0xa0 + i, 4);
    RAISES(X86_GP, SEL_CODE0, x86_far_jmp(cpu, SEL_GATE, 0, 4));
    WORKS(x86_far_call(cpu, SEL_GATE, 0x999, 4));
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->rip, 0x123456);
    assert_int_equal(cpu->gpr[X86_RSP], STACK0 - 28);
    const uint32_t frame[7] = {CODE, SEL_CODE3 | 3, 0xa0, 0xa1, 0xa2, STACK3, SEL_DATA3 | 3};
    for (unsigned i = 0; i < 7; i++)
        assert_int_equal(get(f, STACK0 - 28 + i * 4, 4), frame[i]);
    // RETF 12 releases the parameters on both stacks
    WORKS(x86_far_ret(cpu, 4, 12));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->rip, CODE);
    assert_int_equal(cpu->gpr[X86_RSP], STACK3 + 12);
    assert_int_equal(cpu->seg[X86_SS].sel, SEL_DATA3 | 3);
    // gate privilege and presence
    put_gate(f, GDT + SEL_GATE, SEL_CODE0, 0, 0x8c, 0, false);
    RAISES(X86_GP, SEL_GATE, x86_far_call(cpu, SEL_GATE, 0, 4));
    put_gate(f, GDT + SEL_GATE, SEL_CODE0, 0, 0x6c, 0, false);
    RAISES(X86_NP, SEL_GATE, x86_far_call(cpu, SEL_GATE | 3, 0, 4));
    put_gate(f, GDT + SEL_GATE, 0, 0, 0xec, 0, false);
    RAISES(X86_GP, 0, x86_far_call(cpu, SEL_GATE, 0, 4));
    // 16-bit gate
    put_gate(f, GDT + SEL_GATE, SEL_CODE0, 0x123456, 0xe4, 1, false);
    put(f, STACK3 + 12, 0xbbaa, 2);
    WORKS(x86_far_call(cpu, SEL_GATE, 0, 4));
    assert_int_equal(cpu->rip, 0x3456);
    assert_int_equal(cpu->gpr[X86_RSP], STACK0 - 10);
    assert_int_equal(get(f, STACK0 - 6, 2), 0xbbaa);
}

static void test_call_gate_long(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    fix_level(f, 3, SEL_CODE64_3, SEL_DATA3);
    cpu->gpr[X86_RSP] = STACK3;
    put_gate(f, GDT + SEL_GATE, SEL_CODE64_0, 0xffff800000123456, 0xec, 0, true);
    WORKS(x86_far_call(cpu, SEL_GATE, 0, 8));
    assert_int_equal(cpu->rip, 0xffff800000123456);
    assert_int_equal(cpu->gpr[X86_RSP], STACK0 - 32);
    assert_int_equal(get(f, STACK0 - 8, 8), SEL_DATA3 | 3);
    assert_int_equal(get(f, STACK0 - 16, 8), STACK3);
    assert_int_equal(get(f, STACK0 - 24, 8), SEL_CODE64_3 | 3);
    assert_int_equal(cpu->seg[X86_SS].sel, 0);
    WORKS(x86_far_ret(cpu, 8, 0));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->gpr[X86_RSP], STACK3);
    put(f, GDT + SEL_GATE + 12, 0x100, 4); // upper type must be 0
    RAISES(X86_GP, SEL_GATE, x86_far_call(cpu, SEL_GATE, 0, 8));
    // 64-bit mode to compatibility mode and back
    WORKS(x86_far_jmp(cpu, SEL_CODE3 | 3, 0x1000, 4));
    assert_int_equal(cpu->code_size, X86_CODE32);
    assert_int_equal(cpu->lin_mask, 0xffffffff);
    assert_int_equal(cpu->stack_size, 4);
    WORKS(x86_far_jmp(cpu, SEL_CODE64_3 | 3, 0x1000, 4));
    assert_int_equal(cpu->code_size, X86_CODE64);
    assert_int_equal(cpu->stack_size, 8);
}

static void test_iret_long(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    uint64_t sp = cpu->gpr[X86_RSP];
#define FRAME(ip, cs, fl, rsp, ss)                    \
    do {                                              \
        const uint64_t w_[5] = {ip, cs, fl, rsp, ss}; \
        for (unsigned i_ = 0; i_ < 5; i_++)           \
            put(f, sp + i_ * 8, w_[i_], 8);           \
        cpu->gpr[X86_RSP] = sp;                       \
    } while (0)
    // same level, null SS
    FRAME(0xffff800000001000, SEL_CODE64_0, 0x202, 0x1238, 0);
    WORKS(x86_iret(cpu, 8));
    assert_int_equal(cpu->rip, 0xffff800000001000);
    assert_int_equal(cpu->gpr[X86_RSP], 0x1238);
    FRAME(0x0000900000000000, SEL_CODE64_0, 0x202, 0x1238, 0);
    RAISES(X86_GP, 0, x86_iret(cpu, 8));
    FRAME(0x1000, SEL_CODE64_3 | 3, 0x202, 0x1238, 3); // null SS for ring 3
    RAISES(X86_GP, 0, x86_iret(cpu, 8));
    FRAME(0x1000, SEL_CODE64_3 | 3, 0x202, 0x1238, SEL_DATA0);
    RAISES(X86_GP, SEL_DATA0, x86_iret(cpu, 8));
    FRAME(0x1000, SEL_CODE64_0 | 3, 0x202, 0x1238, SEL_DATA3 | 3);
    RAISES(X86_GP, SEL_CODE64_0, x86_iret(cpu, 8));
    FRAME(0x1000, 0, 0x202, 0x1238, SEL_DATA3 | 3);
    RAISES(X86_GP, 0, x86_iret(cpu, 8));
    cpu->rflags |= X86_FLAG_NT;
    RAISES(X86_GP, 0, x86_iret(cpu, 8));
    cpu->rflags &= ~(uint64_t)X86_FLAG_NT;
    // to compatibility mode; upper flags of a 16-bit return stay
    FRAME(0x1000, SEL_CODE3 | 3, 0x40202 | X86_FLAG_VM, 0x1111000012345678, SEL_DATA3 | 3);
    WORKS(x86_iret(cpu, 8));
    assert_int_equal(cpu->code_size, X86_CODE32);
    assert_int_equal(cpu->gpr[X86_RSP], 0x12345678);
    assert_int_equal(x86_get_rflags(cpu), 0x40202);
    assert_int_equal(cpu->cpl, 3);
    // CR0.AM turns the alignment set on
    cpu->cr0 |= X86_CR0_AM;
    x86_mode_changed(cpu);
    assert_ptr_equal(cpu->tlb->cur, cpu->tlb->set[X86_TLB_ALIGN]);
    // outer to inner is refused
    fix_level(f, 3, SEL_CODE64_3, SEL_DATA3);
    cpu->cr0 &= ~X86_CR0_AM;
    x86_mode_changed(cpu);
    FRAME(0x1000, SEL_CODE64_0, 0x202, 0x1238, SEL_DATA0);
    RAISES(X86_GP, SEL_CODE64_0, x86_iret(cpu, 8));
    // ring 3 cannot change IF or IOPL
    FRAME(0x1000, SEL_CODE64_3 | 3, 0x3002, 0x1238, SEL_DATA3 | 3);
    WORKS(x86_iret(cpu, 8));
    assert_int_equal(x86_get_rflags(cpu), 0x202);
}

static void test_syscall(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    cpu->star = (uint64_t)SEL_CODE3 << 48 | (uint64_t)SEL_CODE64_0 << 32 | 0x77770;
    cpu->lstar = 0xffff800000001000;
    cpu->cstar = 0xffff800000002000;
    cpu->sfmask = X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_CF;
    fix_level(f, 3, SEL_CODE64_3, SEL_DATA3);
    x86_set_rflags(cpu, 0x303 | X86_FLAG_RF);
    cpu->stepping = true;
    WORKS(x86_syscall(cpu));
    assert_false(cpu->stepping);
    assert_int_equal(cpu->gpr[X86_RCX], CODE);
    assert_int_equal(cpu->gpr[X86_R11], 0x303);
    assert_int_equal(x86_get_rflags(cpu), 2);
    assert_int_equal(cpu->rip, 0xffff800000001000);
    assert_int_equal(cpu->seg[X86_CS].sel, SEL_CODE64_0);
    assert_int_equal(cpu->seg[X86_CS].attr, 0xa09b);
    assert_int_equal(cpu->seg[X86_SS].sel, SEL_CODE64_0 + 8);
    assert_int_equal(cpu->seg[X86_SS].attr, 0xc093);
    assert_int_equal(cpu->cpl, 0);
    assert_ptr_equal(cpu->tlb->cur, cpu->tlb->set[X86_TLB_SUPERVISOR]);
    WORKS(x86_sysret(cpu, 8));
    assert_int_equal(cpu->rip, CODE);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->seg[X86_CS].sel, SEL_CODE64_3 | 3);
    assert_int_equal(cpu->seg[X86_CS].attr, 0xa0fb);
    assert_int_equal(cpu->seg[X86_SS].sel, SEL_DATA3 | 3);
    assert_int_equal(x86_get_rflags(cpu), 0x303);
    assert_int_equal(cpu->dr6_pending, 0x4000); // TF as loaded traps at once
    assert_true(cpu->events & X86_EVENT_TRAP);
    cpu->dr6_pending = 0;
    atomic_store(&cpu->events, 0);
    RAISES(X86_GP, 0, x86_sysret(cpu, 8));
    // non-canonical target: in the kernel on Intel, at the target on AMD
    fix_level(f, 0, SEL_CODE64_0, SEL_DATA0);
    cpu->gpr[X86_RCX] = 0x800000000000;
    RAISES(X86_GP, 0, x86_sysret(cpu, 8));
    f->model.vendor = X86_VENDOR_AMD;
    WORKS(x86_sysret(cpu, 8));
    assert_int_equal(cpu->rip, 0x800000000000);
    assert_int_equal(cpu->cpl, 3);
    // compatibility mode
    fix_level(f, 3, SEL_CODE3, SEL_DATA3);
    cpu->rip = 0x1234;
    WORKS(x86_syscall(cpu));
    assert_int_equal(cpu->rip, 0xffff800000002000);
    assert_int_equal(cpu->code_size, X86_CODE64);
    WORKS(x86_sysret(cpu, 4));
    assert_int_equal(cpu->code_size, X86_CODE32);
    assert_int_equal(cpu->rip, 0x1234);
    f->model.vendor = X86_VENDOR_INTEL;
    RAISES(X86_UD, 0, x86_syscall(cpu));
    cpu->efer &= ~(uint64_t)X86_EFER_SCE;
    fix_level(f, 3, SEL_CODE64_3, SEL_DATA3);
    RAISES(X86_UD, 0, x86_syscall(cpu));
}

// The pushes of a far call from 64-bit to compatibility mode: AMD's processors use 32-bit addresses (measured).
static void test_call_to_compatibility(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    cpu->gpr[X86_RSP] = UINT64_C(0x800000000000) | (STACK0 - 0x100);
    f->model.vendor = X86_VENDOR_INTEL;
    RAISES(X86_SS_FAULT, 0, x86_far_call(cpu, SEL_CODE0, 0x1234, 4));
    f->model.vendor = X86_VENDOR_AMD;
    WORKS(x86_far_call(cpu, SEL_CODE0, 0x1234, 4));
    assert_int_equal(cpu->code_size, X86_CODE32);
    assert_int_equal(cpu->rip, 0x1234);
    assert_int_equal(cpu->gpr[X86_RSP], STACK0 - 0x108);
    assert_int_equal(get(f, STACK0 - 0x104, 4), SEL_CODE64_0);
    fix_level(f, 0, SEL_CODE64_0, SEL_DATA0);
    cpu->gpr[X86_RSP] = UINT64_C(0x8000ffffffff);
    RAISES(X86_PF, 2, x86_far_call(cpu, SEL_CODE0, 0x1234, 4));
    assert_int_equal(cpu->fault.cr2, 0xfffffffb);
}

static void test_sysenter(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    fix_level(f, 3, SEL_CODE64_3, SEL_DATA3);
    RAISES(X86_GP, 0, x86_sysenter(cpu));
    cpu->sysenter_cs = 0x13;
    cpu->sysenter_esp = 0xffff800000003000;
    cpu->sysenter_eip = 0xffff800000004000;
    x86_set_rflags(cpu, 0x202);
    f->model.vendor = X86_VENDOR_AMD;
    RAISES(X86_UD, 0, x86_sysenter(cpu));
    f->model.vendor = X86_VENDOR_INTEL;
    WORKS(x86_sysenter(cpu));
    assert_int_equal(cpu->rip, 0xffff800000004000);
    assert_int_equal(cpu->gpr[X86_RSP], 0xffff800000003000);
    assert_int_equal(cpu->seg[X86_CS].sel, 0x10);
    assert_int_equal(cpu->seg[X86_SS].sel, 0x18);
    assert_int_equal(x86_get_rflags(cpu), 2);
    cpu->gpr[X86_RDX] = 0x1000;
    cpu->gpr[X86_RCX] = 0x2000;
    WORKS(x86_sysexit(cpu, 8));
    assert_int_equal(cpu->seg[X86_CS].sel, 0x33);
    assert_int_equal(cpu->seg[X86_SS].sel, 0x3b);
    assert_int_equal(cpu->rip, 0x1000);
    assert_int_equal(cpu->cpl, 3);
    RAISES(X86_GP, 0, x86_sysexit(cpu, 8));
    RAISES(X86_GP, 0, x86_swapgs(cpu));
    fix_level(f, 0, SEL_CODE64_0, SEL_DATA0);
    cpu->kernel_gs_base = 0xffff888000000000;
    WORKS(x86_swapgs(cpu));
    assert_int_equal(cpu->seg[X86_GS].eff_base, 0xffff888000000000);
}

static void test_smap_set(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    cpu->cr4 |= X86_CR4_SMAP;
    x86_mode_changed(cpu);
    assert_ptr_equal(cpu->tlb->cur, cpu->tlb->set[X86_TLB_SUPERVISOR_SMAP]);
    x86_set_rflags(cpu, X86_FLAG_AC);
    assert_ptr_equal(cpu->tlb->cur, cpu->tlb->set[X86_TLB_SUPERVISOR]);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fix_setup, fix_teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_load_seg),  TEST(test_null_selectors), TEST(test_unreal),
        TEST(test_lar),       TEST(test_lar_long),       TEST(test_far_same),
        TEST(test_call_gate), TEST(test_call_gate_long), TEST(test_iret_long),
        TEST(test_syscall),   TEST(test_sysenter),       TEST(test_call_to_compatibility),
        TEST(test_smap_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
