// SPDX-License-Identifier: Apache-2.0
// Task switches, and the saved state of a processor.
#include "system_fixture.h"

#include "base/state.h"

static void put_task32(struct fix *f, uint32_t eip, uint32_t flags, uint16_t cs, uint16_t ss,
                       uint16_t data)
{
    put(f, TSS2 + 0x1c, 0x5000, 4);
    put(f, TSS2 + 0x20, eip, 4);
    put(f, TSS2 + 0x24, flags, 4);
    for (unsigned i = 0; i < 8; i++)
        put(f, TSS2 + 0x28 + i * 4, i == X86_RSP ? STACK3 : 0x1000 + i, 4);
    const uint16_t seg[6] = {data, cs, ss, data, data, data};
    for (unsigned i = 0; i < 6; i++)
        put(f, TSS2 + 0x48 + i * 4, seg[i], 4);
    put(f, TSS2 + 0x60, 0, 4);
    put(f, TSS2 + 0x64, 0, 4);
}

static void test_task_call_iret(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    put_task32(f, 0x123456, 2, SEL_CODE3 | 3, SEL_DATA3 | 3, SEL_DATA3 | 3);
    cpu->gpr[X86_RBX] = 0xbbbbbbbb;
    x86_set_rflags(cpu, 0x203);
    cpu->dr7 = 0x5ff;
    cpu->rip = CODE + 7;
    assert_int_equal(FAULT(f, x86_far_call(cpu, SEL_TASKGATE, 0, 4)), -1);
    assert_int_equal(cpu->tr.sel, SEL_TSS2);
    assert_int_equal(cpu->rip, 0x123456);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->gpr[X86_RSP], STACK3);
    assert_int_equal(cpu->gpr[X86_RDI], 0x1007);
    assert_int_equal(x86_get_rflags(cpu), 2 | X86_FLAG_NT);
    assert_true(cpu->cr0 & X86_CR0_TS);
    assert_int_equal(cpu->dr7, 0x4aa);
    assert_int_equal(cpu->seg[X86_GS].sel, SEL_DATA3 | 3);
    assert_int_equal(get(f, TSS2, 2), SEL_TSS);           // link
    assert_int_equal(get(f, GDT + SEL_TSS + 5, 1), 0x8b); // both busy
    assert_int_equal(get(f, GDT + SEL_TSS2 + 5, 1), 0x8b);
    assert_int_equal(get(f, TSS + 0x20, 4), CODE + 7);
    assert_int_equal(get(f, TSS + 0x24, 4), 0x203);
    assert_int_equal(get(f, TSS + 0x28 + 12, 4), 0xbbbbbbbb);
    assert_int_equal(get(f, TSS + 0x4c, 2), SEL_CODE0);
    // IRET returns to the caller; NT is cleared in what is saved
    cpu->rip = 0x123458;
    assert_int_equal(FAULT(f, x86_iret(cpu, 4)), -1);
    assert_int_equal(cpu->tr.sel, SEL_TSS);
    assert_int_equal(cpu->rip, CODE + 7);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->gpr[X86_RBX], 0xbbbbbbbb);
    assert_int_equal(x86_get_rflags(cpu), 0x203);
    assert_int_equal(get(f, GDT + SEL_TSS2 + 5, 1), 0x89);
    assert_int_equal(get(f, TSS2 + 0x20, 4), 0x123458);
    assert_int_equal(get(f, TSS2 + 0x24, 4), 2);
    // JMP frees the old task
    assert_int_equal(FAULT(f, x86_far_jmp(cpu, SEL_TSS2, 0, 4)), -1);
    assert_int_equal(get(f, GDT + SEL_TSS + 5, 1), 0x89);
    assert_int_equal(get(f, GDT + SEL_TSS2 + 5, 1), 0x8b);
    assert_false(cpu->rflags & X86_FLAG_NT);
}

static void test_task_gate_interrupt(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    put_task32(f, 0x123456, 2, SEL_CODE0, SEL_DATA0, SEL_DATA0);
    put(f, TSS2 + 0x64, 1, 2); // T bit
    put_gate(f, IDT + 13 * 8, SEL_TSS2, 0, 0x85, 0, false);
    cpu->insn_rip = CODE + 1;
    cpu->rip = CODE + 9;
    x86_set_rflags(cpu, 0x202);
    assert_int_equal(FAULT(f, x86_raise_error(cpu, X86_GP, 0x1230)), X86_GP);
    assert_int_equal(FAULT(f, x86_fault_pending(cpu)), -1);
    assert_int_equal(cpu->rip, 0x123456);
    assert_int_equal(cpu->gpr[X86_RSP], STACK3 - 4);
    assert_int_equal(get(f, STACK3 - 4, 4), 0x1230);
    assert_int_equal(get(f, TSS + 0x20, 4), CODE + 1);
    assert_int_equal(get(f, TSS + 0x24, 4), 0x202 | X86_FLAG_RF);
    assert_int_equal(cpu->dr6_pending, 0x8000);
    assert_true(cpu->events & X86_EVENT_TRAP);
    assert_int_equal(cpu->delivering, -1);
}

static void test_task_errors(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    put_task32(f, 0x123456, 2, SEL_CODE0, SEL_DATA0, SEL_DATA0);
    put_desc(f, GDT + SEL_TSS2, TSS2, 0x66, 0x89, 0);
    assert_int_equal(FAULT(f, x86_far_jmp(cpu, SEL_TSS2, 0, 4)), X86_TS);
    assert_int_equal(FAULT_ERROR(f), SEL_TSS2);
    put_desc(f, GDT + SEL_TSS2, TSS2, 0x67, 0x09, 0);
    assert_int_equal(FAULT(f, x86_far_jmp(cpu, SEL_TSS2, 0, 4)), X86_NP);
    put_desc(f, GDT + SEL_TSS2, TSS2, 0x67, 0x8b, 0);
    assert_int_equal(FAULT(f, x86_far_jmp(cpu, SEL_TSS2, 0, 4)), X86_GP);
    assert_int_equal(cpu->tr.sel, SEL_TSS);
    put_desc(f, GDT + SEL_TSS2, TSS2, 0x67, 0x89, 0);
    // IRET to a task that is not busy
    put(f, TSS, SEL_TSS2, 2);
    cpu->rflags |= X86_FLAG_NT;
    assert_int_equal(FAULT(f, x86_iret(cpu, 4)), X86_TS);
    assert_int_equal(FAULT_ERROR(f), SEL_TSS2);
    // a bad stack segment is found in the new task
    put_task32(f, 0x123456, 2, SEL_CODE0, SEL_DATA3 | 3, SEL_DATA0);
    assert_int_equal(FAULT(f, x86_far_jmp(cpu, SEL_TSS2, 0, 4)), X86_TS);
    assert_int_equal(FAULT_ERROR(f), SEL_DATA3);
    assert_int_equal(cpu->tr.sel, SEL_TSS2);
    assert_int_equal(cpu->insn_rip, 0x123456);
}

static void test_task16(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    put(f, TSS2 + 0x0e, 0x1234, 2);
    put(f, TSS2 + 0x10, 2, 2);
    for (unsigned i = 0; i < 8; i++)
        put(f, TSS2 + 0x12 + i * 2, 0x100 + i, 2);
    put(f, TSS2 + 0x22, SEL_DATA0, 2);
    put(f, TSS2 + 0x24, SEL_CODE16, 2);
    put(f, TSS2 + 0x26, SEL_DATA16, 2);
    put(f, TSS2 + 0x28, SEL_DATA0, 2);
    put(f, TSS2 + 0x2a, SEL_LDT, 2);
    assert_int_equal(FAULT(f, x86_far_call(cpu, SEL_TSS16, 0, 4)), -1);
    assert_int_equal(cpu->rip, 0x1234);
    assert_int_equal(cpu->gpr[X86_RDI], 0x107);
    assert_int_equal(cpu->code_size, X86_CODE16);
    assert_int_equal(cpu->ldtr.base, LDT);
    assert_true(cpu->seg[X86_FS].attr & X86_ATTR_UNUSABLE);
    // and back into the 32-bit one
    assert_int_equal(FAULT(f, x86_iret(cpu, 2)), -1);
    assert_int_equal(cpu->tr.sel, SEL_TSS);
    assert_int_equal(cpu->code_size, X86_CODE32);
}

static void test_state(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    char why[200] = "";
    if (!state_desc_check(&x86_cpu_state, why, sizeof(why)))
        fail_msg("%s", why);
    fix_long(f);
    cpu->gpr[X86_R9] = 0x123456789abcdef0;
    cpu->vec[3].u64[2] = 77;
    cpu->mc_bank[5][2] = 42;
    x86_set_rflags(cpu, 0x246);
    atomic_store(&cpu->events, X86_EVENT_NMI | X86_EVENT_EXIT);
    struct state_buffer buffer = {0};
    assert_int_equal(state_save(&buffer, &x86_cpu_state, cpu), 0);

    struct x86_cpu *copy = calloc(1, sizeof(*copy));
    struct error err = {0};
    size_t offset = 0;
    copy->platform = cpu->platform;
    assert_int_equal(state_load(&buffer, &offset, &x86_cpu_state, copy, &err), 0);
    assert_int_equal(copy->gpr[X86_R9], cpu->gpr[X86_R9]);
    assert_int_equal(copy->vec[3].u64[2], 77);
    assert_int_equal(copy->mc_bank[5][2], 42);
    assert_int_equal(x86_get_rflags(copy), 0x246);
    assert_int_equal(copy->code_size, X86_CODE64);
    assert_int_equal(copy->lin_mask, ~0ull);
    assert_true(copy->long_mode);
    assert_int_equal(copy->events, X86_EVENT_NMI | X86_EVENT_FLUSH);
    assert_int_equal(copy->delivering, -1);
    assert_memory_equal(copy->seg, cpu->seg, sizeof(cpu->seg));

#define REFUSED(change)                                                                 \
    do {                                                                                \
        struct x86_cpu saved_ = *cpu;                                                   \
        change;                                                                         \
        buffer.size = 0;                                                                \
        assert_int_equal(state_save(&buffer, &x86_cpu_state, cpu), 0);                  \
        *cpu = saved_;                                                                  \
        offset = 0;                                                                     \
        err = (struct error){0};                                                        \
        assert_int_equal(state_load(&buffer, &offset, &x86_cpu_state, copy, &err), -1); \
        assert_true(err.message[0] != 0);                                               \
    } while (0)
    REFUSED(cpu->cr0 &= ~1ull);
    REFUSED(cpu->cr4 = 0);
    REFUSED(cpu->cr4 |= X86_CR4_VMXE);
    REFUSED(cpu->efer &= ~(uint64_t)X86_EFER_LMA);
    REFUSED(cpu->cpl = 4);
    REFUSED(cpu->activity = 9);
    REFUSED(cpu->rflags |= X86_FLAG_VM);
    REFUSED(cpu->seg[X86_GS].base = 0x8000000000000000);
    REFUSED(cpu->seg[X86_CS].attr |= X86_ATTR_DB);
    REFUSED(cpu->tr.attr = X86_ATTR_UNUSABLE);
    REFUSED(cpu->xcr0 = 5);
    REFUSED(cpu->mxcsr = 0x10000);
    REFUSED(cpu->lstar = 0x800000000000);
    state_buffer_free(&buffer);
    free(copy);
}

static void test_state_modes(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    struct state_buffer buffer = {0};
    struct error err = {0};
    size_t offset = 0;
    struct x86_cpu *copy = calloc(1, sizeof(*copy));
    // straight after reset
    assert_int_equal(state_save(&buffer, &x86_cpu_state, cpu), 0);
    assert_int_equal(state_load(&buffer, &offset, &x86_cpu_state, copy, &err), 0);
    fix_protected(f);
    buffer.size = offset = 0;
    assert_int_equal(state_save(&buffer, &x86_cpu_state, cpu), 0);
    assert_int_equal(state_load(&buffer, &offset, &x86_cpu_state, copy, &err), 0);
    assert_int_equal(copy->code_size, X86_CODE32);
    state_buffer_free(&buffer);
    free(copy);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fix_setup, fix_teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_task_call_iret), TEST(test_task_gate_interrupt),
        TEST(test_task_errors),    TEST(test_task16),
        TEST(test_state),          TEST(test_state_modes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
