// SPDX-License-Identifier: Apache-2.0
// Delivery, returns, transfers and tasks at their edges: the last byte that a limit allows, each privilege
// that is compared, error codes, flags that stay. What seeded faults showed to be untested elsewhere
// (docs/seeded-faults.md).
#include "system_fixture.h"
#include "x86/descriptor.h"

#define OK(call) assert_int_equal(FAULT(f, call), -1)
#define RAISES(vector, code, call)                \
    do {                                          \
        assert_int_equal(FAULT(f, call), vector); \
        assert_int_equal(FAULT_ERROR(f), code);   \
        f->cpu.delivering = -1;                   \
    } while (0)
#define SOFT(v) x86_int(cpu, v, X86_DELIVER_SOFT_INT)

static void push(struct fix *f, uint64_t value, unsigned size)
{
    f->cpu.gpr[X86_RSP] -= size;
    put(f, f->cpu.gpr[X86_RSP], value, size);
}

// --- delivery ------------------------------------------------------------------------------------

static void test_real_limit(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    cpu->gpr[X86_RSP] = 0x8000;
    for (unsigned i = 0; i < 4; i++) {
        cpu->idtr.limit = (uint16_t)(0x20 * 4 + i);
        assert_int_equal(FAULT(f, SOFT(0x20)), i < 3 ? X86_GP : -1);
        cpu->delivering = -1;
    }
    cpu->nmi_blocked = true;
    OK(x86_iret(cpu, 2));
    assert_false(cpu->nmi_blocked);
}

static void test_long_gates(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    // the last byte of a gate
    LONG_GATE(f, 0x30, SEL_CODE64_0, 0x8e, 0);
    cpu->idtr.limit = 0x30 * 16 + 14;
    RAISES(X86_GP, 0x30 * 8 + 2, SOFT(0x30));
    cpu->idtr.limit++;
    x86_set_rflags(cpu, X86_FLAG_NT | X86_FLAG_TF | X86_FLAG_IF);
    OK(SOFT(0x30));
    assert_int_equal(x86_get_rflags(cpu), X86_FLAG_R1);
    cpu->idtr.limit = 0xfff;
    // not present; of a 16-bit type; to an outer level
    LONG_GATE(f, 0x31, SEL_CODE64_0, 0x0e, 0);
    RAISES(X86_NP, 0x31 * 8 + 2, SOFT(0x31));
    for (unsigned type = 0; type < 16; type++) {
        LONG_GATE(f, 0x32, SEL_CODE64_0, 0x80 | type, 0);
        if (type < 14)
            RAISES(X86_GP, 0x32 * 8 + 2, SOFT(0x32));
        else
            OK(SOFT(0x32));
    }
    LONG_GATE(f, 0x33, SEL_CODE64_3, 0x8e, 0);
    RAISES(X86_GP, SEL_CODE64_3, SOFT(0x33));
    // DPL counts for INT3 as for INT n
    LONG_GATE(f, X86_BP, SEL_CODE64_0, 0x8e, 0);
    fix_level(f, 3, SEL_CODE64_3, SEL_DATA3);
    RAISES(X86_GP, X86_BP * 8 + 2, x86_int(cpu, X86_BP, X86_DELIVER_SOFT_EXC));
    // the null SS of an inner level holds its RPL
    put_desc(f, GDT + SEL_CODE16, 0, 0xfffff, 0xba, 0xa);
    put(f, TSS + 12, STACK0, 8);
    LONG_GATE(f, 0x34, SEL_CODE16, 0xee, 0);
    OK(SOFT(0x34));
    assert_int_equal(cpu->cpl, 1);
    assert_int_equal(cpu->seg[X86_SS].sel, 1);
}

static void test_protected_gates(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    PROT_GATE(f, 0x33, SEL_CODE3, 0x8e);
    RAISES(X86_GP, SEL_CODE3, SOFT(0x33));
    // A conforming handler runs at the level it interrupts, on its stack.
    fix_level(f, 3, SEL_CODE3, SEL_DATA3);
    cpu->gpr[X86_RSP] = STACK3;
    PROT_GATE(f, 0x34, SEL_CONF0, 0xee);
    OK(SOFT(0x34));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->seg[X86_CS].sel, SEL_CONF0 | 3);
    assert_int_equal(cpu->gpr[X86_RSP], STACK3 - 12);
    // V86 mode: a handler outside ring 0
    fix_level(f, 0, SEL_CODE0, SEL_DATA0);
    PROT_GATE(f, 0x35, SEL_CODE3, 0xee);
    put(f, TSS + 16, SEL_CODE3, 4);
    x86_set_rflags(cpu, X86_FLAG_VM | X86_FLAG_IOPL);
    RAISES(X86_GP, SEL_CODE3, SOFT(0x35));
    RAISES(X86_GP, SEL_CODE3 | 1, x86_deliver(cpu, X86_DELIVER_EXTERNAL, 0x35, false, 0));
}

static void test_pushed_rf(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    PROT_GATE(f, X86_DB, SEL_CODE0, 0x8e);
    PROT_GATE(f, X86_GP, SEL_CODE0, 0x8e);
    PROT_GATE(f, X86_DF, SEL_CODE0, 0x8e);
    uint64_t sp = cpu->gpr[X86_RSP];
    cpu->shadow = X86_SHADOW_STI;
    assert_int_equal(FAULT(f, x86_raise(cpu, X86_DB)), X86_DB);
    OK((void)x86_fault_pending(cpu));
    assert_int_equal(get(f, sp - 4, 4) & X86_FLAG_RF, 0);
    assert_int_equal(cpu->shadow, 0);
    sp = cpu->gpr[X86_RSP];
    assert_int_equal(FAULT(f, x86_raise_error(cpu, X86_GP, 0)), X86_GP);
    OK((void)x86_fault_pending(cpu));
    assert_int_equal(get(f, sp - 4, 4) & X86_FLAG_RF, X86_FLAG_RF);
    // #GP while #PF is delivered: a double fault with error code 0
    sp = cpu->gpr[X86_RSP];
    cpu->delivering = X86_PF;
    assert_int_equal(FAULT(f, x86_raise_error(cpu, X86_GP, 0x123)), X86_GP);
    OK((void)x86_fault_pending(cpu));
    assert_int_equal(cpu->rip, 0x50000 + X86_DF);
    assert_int_equal(get(f, sp - 16, 4), 0);
}

static void test_events(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    PROT_GATE(f, X86_NMI, SEL_CODE0, 0x8e);
    PROT_GATE(f, X86_DB, SEL_CODE0, 0x8e);
    // NMI and traps wait behind MOV SS
    cpu->shadow = X86_SHADOW_MOVSS;
    atomic_fetch_or(&cpu->events, X86_EVENT_NMI);
    assert_false(x86_events_deliver(cpu));
    cpu->shadow = X86_SHADOW_STI;
    assert_true(x86_events_deliver(cpu));
    assert_int_equal(cpu->rip, 0x50000 + X86_NMI);
    // a trap clears what earlier ones left in DR6
    cpu->dr6 = 0xffff0fff;
    cpu->dr6_pending = 2;
    atomic_fetch_or(&cpu->events, X86_EVENT_TRAP);
    assert_true(x86_events_deliver(cpu));
    assert_int_equal(cpu->dr6, 0xffff0ff2);
    cpu->dr6 = 0xffff0fff;
    cpu->dr[1] = CODE;
    cpu->dr7 = 0x404;
    assert_int_equal(FAULT(f, x86_debug_check_exec(cpu, CODE)), X86_DB);
    assert_int_equal(cpu->dr6, 0xffff0ff2);
    // INIT keeps CR0.CD and NW as they are
    cpu->cr0 &= ~(uint64_t)(X86_CR0_CD | X86_CR0_NW);
    x86_reset(cpu, true);
    assert_int_equal(cpu->cr0, X86_CR0_ET);
}

// --- returns and transfers -----------------------------------------------------------------------

static void test_returns(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    // to a conforming segment whose DPL is below the RPL; readable code stays in DS
    assert_int_equal(FAULT(f, x86_load_seg(cpu, X86_DS, SEL_CONF0)), -1);
    assert_int_equal(FAULT(f, x86_load_seg(cpu, X86_ES, SEL_DATA0)), -1);
    push(f, SEL_DATA3 | 3, 4);
    push(f, STACK3, 4);
    push(f, SEL_CONF0 | 3, 4);
    push(f, 0x1234, 4);
    OK(x86_far_ret(cpu, 4, 0));
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->seg[X86_CS].sel, SEL_CONF0 | 3);
    assert_int_equal(cpu->seg[X86_DS].sel, SEL_CONF0);
    assert_int_equal(cpu->seg[X86_ES].sel, 0);
    // IF with IOPL 3
    x86_set_rflags(cpu, X86_FLAG_IOPL);
    push(f, X86_FLAG_IF, 4);
    push(f, SEL_CONF0 | 3, 4);
    push(f, 0x1234, 4);
    OK(x86_iret(cpu, 4));
    assert_int_equal(x86_get_rflags(cpu), X86_FLAG_IOPL | X86_FLAG_IF | X86_FLAG_R1);
    OK(x86_popf(cpu, 0, 4));
    assert_int_equal(x86_get_rflags(cpu), X86_FLAG_IOPL | X86_FLAG_R1);
    OK(x86_popf(cpu, X86_FLAG_IF, 2));
    assert_int_equal(x86_get_rflags(cpu), X86_FLAG_IOPL | X86_FLAG_IF | X86_FLAG_R1);
    // IOPL in ring 0
    fix_level(f, 0, SEL_CODE0, SEL_DATA0);
    push(f, 0x1000, 4);
    push(f, SEL_CODE0, 4);
    push(f, 0x1234, 4);
    OK(x86_iret(cpu, 4));
    assert_int_equal(x86_get_rflags(cpu), 0x1000 | X86_FLAG_R1);
    // a stack segment that is not present
    put_desc(f, GDT + SEL_ABSENT, 0, 0xfffff, 0x72, 0xc);
    push(f, SEL_ABSENT | 3, 4);
    push(f, STACK3, 4);
    push(f, SEL_CODE3 | 3, 4);
    push(f, 0x1234, 4);
    RAISES(X86_SS_FAULT, SEL_ABSENT, x86_far_ret(cpu, 4, 0));
    // a 16-bit stack takes SP only
    put_desc(f, GDT + SEL_DATA16, 0, 0xffff, 0xf2, 0);
    uint64_t high = cpu->gpr[X86_RSP] & 0xffff0000;
    put(f, cpu->gpr[X86_RSP] + 8, 0x55554444, 4);
    put(f, cpu->gpr[X86_RSP] + 12, SEL_DATA16 | 3, 4);
    OK(x86_far_ret(cpu, 4, 0));
    assert_int_equal(cpu->gpr[X86_RSP], high | 0x4444);
}

static void test_far_targets(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    RAISES(X86_GP, SEL_CODE0, x86_far_jmp(cpu, SEL_CODE0 | 3, 0, 4)); // RPL above CPL
    put_desc(f, GDT + SEL_ABSENT, 0, 0xfffff, 0x1a, 0xc);
    RAISES(X86_NP, SEL_ABSENT, x86_far_jmp(cpu, SEL_ABSENT, 0, 4));
    // the last byte of the code segment can be branched to
    cpu->seg[X86_CS].limit = 0xfff;
    OK(x86_branch(cpu, 0xfff, 4));
    RAISES(X86_GP, 0, x86_branch(cpu, 0x1000, 4));
    cpu->seg[X86_CS].limit = 0xffffffff;
    // call gates: the selector's RPL against the gate's DPL, 31 parameters
    put_gate(f, GDT + SEL_GATE, SEL_CODE0, 0x123456, 0x8c, 0, false);
    RAISES(X86_GP, SEL_GATE, x86_far_call(cpu, SEL_GATE | 1, 0, 4));
    put_gate(f, GDT + SEL_GATE, SEL_CODE0, 0x123456, 0xec, 31, false);
    fix_level(f, 3, SEL_CODE3, SEL_DATA3);
    cpu->gpr[X86_RSP] = STACK3;
    for (unsigned i = 0; i < 31; i++)
        push(f, 0x100 + i, 4);
    OK(x86_far_call(cpu, SEL_GATE, 0, 4));
    assert_int_equal(cpu->gpr[X86_RSP], STACK0 - 4 * 35);
    for (unsigned i = 0; i < 31; i++)
        assert_int_equal(get(f, STACK0 - 12 - 4 * i, 4), 0x100 + i);
    // a push whose first byte would lie at the limit of an expand-down stack
    fix_level(f, 0, SEL_CODE0, SEL_DOWN);
    cpu->gpr[X86_RSP] = 0xfff + 8;
    RAISES(X86_SS_FAULT, 0, x86_far_call(cpu, SEL_CODE0, 0, 4));
    cpu->gpr[X86_RSP]++;
    OK(x86_far_call(cpu, SEL_CODE0, 0, 4));
}

static void test_long_call_gate(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    for (unsigned bit = 0; bit < 8; bit++) {
        put_gate(f, GDT + SEL_GATE, SEL_CODE64_0, 0x123456, 0xec, 0, true);
        put(f, GDT + SEL_GATE + 13, 1u << bit, 1); // the upper half's type must be 0
        if (bit < 5)
            RAISES(X86_GP, SEL_GATE, x86_far_call(cpu, SEL_GATE, 0, 4));
        else
            OK(x86_far_call(cpu, SEL_GATE, 0, 4));
    }
    // SYSRET does not load RF
    cpu->star = (uint64_t)(SEL_CODE3 | 3) << 48;
    cpu->gpr[X86_R11] = X86_FLAG_RF | X86_FLAG_IF | X86_FLAG_ID | X86_FLAG_AC;
    cpu->gpr[X86_RCX] = 0x1234;
    OK(x86_sysret(cpu, 8));
    assert_int_equal(x86_get_rflags(cpu), X86_FLAG_IF | X86_FLAG_ID | X86_FLAG_AC | X86_FLAG_R1);
}

// --- flags and ports -----------------------------------------------------------------------------

static void test_virtual_flags(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    cpu->cr4 = X86_CR4_PVI;
    for (unsigned cpl = 1; cpl <= 3; cpl++) {
        cpu->cpl = (uint8_t)cpl;
        cpu->rflags = X86_FLAG_R1 | X86_FLAG_VIF;
        assert_int_equal(FAULT(f, x86_cli(cpu)), cpl == 3 ? -1 : X86_GP);
        assert_int_equal(cpu->rflags & X86_FLAG_VIF, cpl == 3 ? 0 : X86_FLAG_VIF);
    }
}

static void test_io_bitmap_end(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    fix_level(f, 3, SEL_CODE3, SEL_DATA3);
    put(f, TSS + 102, 0x80, 2);
    put(f, TSS + 0x80, 0, 8);
    cpu->tr.limit = 0x84; // the bytes of ports 0..27h
    OK(x86_check_io(cpu, 0x1f, 1));
    RAISES(X86_GP, 0, x86_check_io(cpu, 0x20, 1)); // two bytes are read
    OK(x86_check_io(cpu, 0x1c, 4));
    put(f, TSS + 0x83, 0x80, 1);
    RAISES(X86_GP, 0, x86_check_io(cpu, 0x1e, 2)); // its second port
    OK(x86_check_io(cpu, 0x1e, 1));
}

// --- tasks ---------------------------------------------------------------------------------------

static void put_task(struct fix *f, uint32_t cr3, uint16_t data)
{
    put(f, TSS2 + 0x1c, cr3, 4);
    put(f, TSS2 + 0x20, 0x1234, 4);
    put(f, TSS2 + 0x24, 2, 4);
    put(f, TSS2 + 0x28 + 16, STACK3, 4);
    const uint16_t seg[6] = {data, SEL_CODE0, SEL_DATA0, data, data, data};
    for (unsigned i = 0; i < 6; i++)
        put(f, TSS2 + 0x48 + i * 4, seg[i], 4);
}

static void test_task_cr3(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    put(f, 0x10000, 0xe3, 4); // 4 MiB pages
    put(f, 0x11000, 0xe3, 4);
    cpu->cr4 = X86_CR4_PSE;
    cpu->cr3 = 0x10000;
    OK(x86_write_cr(cpu, 0, cpu->cr0 | X86_CR0_PG));
    put_task(f, 0x11000, 0);
    OK(x86_far_jmp(cpu, SEL_TSS2, 0, 4));
    assert_int_equal(cpu->cr3, 0x11000);
}

static void test_task_privilege(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    put_task(f, 0, SEL_DATA0 | 3); // RPL 3 above DPL 0
    RAISES(X86_TS, SEL_DATA0, x86_far_jmp(cpu, SEL_TSS2, 0, 4));
}

// A task gate to a 16-bit task: the error code takes two bytes of its stack.
static void test_task16_error(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    put_gate(f, IDT + X86_GP * 8, SEL_TSS16, 0, 0x85, 0, false);
    put(f, TSS2 + 0x0e, 0x1234, 2);
    put(f, TSS2 + 0x10, 2, 2);
    put(f, TSS2 + 0x12 + 8, 0x8000, 2); // SP
    put(f, TSS2 + 0x22, 0, 2);
    put(f, TSS2 + 0x24, SEL_CODE0, 2);
    put(f, TSS2 + 0x26, SEL_DATA16, 2);
    put(f, TSS2 + 0x28, 0, 2);
    put(f, TSS2 + 0x2a, 0, 2);
    put(f, 0x7ffc, 0xaaaaaaaa, 4);
    assert_int_equal(FAULT(f, x86_raise_error(cpu, X86_GP, 0x1238)), X86_GP);
    OK((void)x86_fault_pending(cpu));
    assert_int_equal(cpu->tr.sel, SEL_TSS16);
    assert_int_equal(cpu->gpr[X86_RSP] & 0xffff, 0x7ffe);
    assert_int_equal(get(f, 0x7ffc, 4), 0x1238aaaa);
}

// --- AVX in V86 mode -----------------------------------------------------------------------------

static void test_avx_v86(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    cpu->cr4 |= X86_CR4_OSXSAVE;
    cpu->xcr0 = 7;
    OK(x86_check_avx(cpu));
    x86_set_rflags(cpu, X86_FLAG_VM);
    assert_int_equal(FAULT(f, x86_check_avx(cpu)), X86_UD);
    x86_set_rflags(cpu, 0);
    cpu->cr0 &= ~(uint64_t)X86_CR0_PE;
    assert_int_equal(FAULT(f, x86_check_avx(cpu)), X86_UD);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fix_setup, fix_teardown)
// INT n in V86 mode with VME: the redirection bitmap must lie in a 32-bit TSS that has the pointer to it.
static void test_redirection_bitmap(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    cpu->cr4 |= X86_CR4_VME;
    PROT_GATE(f, 0x40, SEL_CODE0, 0xee);
    put(f, TSS + 102, 0x200, 2); // the bitmap: 1E0h..1FFh, vector 40h in 1E8h
    put(f, 0x40 * 4, 0x12345678, 4);
    x86_set_rflags(cpu, X86_FLAG_VM | X86_FLAG_IOPL);
    cpu->gpr[X86_RSP] = 0x8000;
    x86_mode_changed(cpu);
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        x86_seg_v86(cpu, i, 0x100);
    cpu->tr.limit = 102;
    RAISES(X86_GP, 0, SOFT(0x40));
    cpu->tr.limit = 0x1e7;
    RAISES(X86_GP, 0, SOFT(0x40));
    uint32_t attr = cpu->tr.attr;
    cpu->tr.limit = 0x1e8;
    cpu->tr.attr = (attr & ~(uint32_t)X86_ATTR_TYPE) | 3; // 16-bit
    RAISES(X86_GP, 0, SOFT(0x40));
    cpu->tr.attr = attr;
    OK(SOFT(0x40));
    assert_int_equal(cpu->seg[X86_CS].sel, 0x1234);
    assert_int_equal(cpu->rip, 0x5678);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_redirection_bitmap),
        TEST(test_real_limit),
        TEST(test_long_gates),
        TEST(test_protected_gates),
        TEST(test_pushed_rf),
        TEST(test_events),
        TEST(test_returns),
        TEST(test_far_targets),
        TEST(test_long_call_gate),
        TEST(test_virtual_flags),
        TEST(test_io_bitmap_end),
        TEST(test_task_cr3),
        TEST(test_task_privilege),
        TEST(test_task16_error),
        TEST(test_avx_v86),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
