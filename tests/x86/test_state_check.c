// SPDX-License-Identifier: Apache-2.0
// A loaded processor state is hostile input: each rule that it can break is broken once, alone, and the load
// is refused with the rule's message.
#include "base/state.h"
#include "system_fixture.h"

static struct state_buffer buffer;
static struct x86_cpu copy;

static int save_and_load(struct x86_cpu *cpu, struct error *err)
{
    size_t offset = 0;
    *err = (struct error){0};
    buffer.size = 0;
    assert_int_equal(state_save(&buffer, &x86_cpu_state, cpu), 0);
    return state_load(&buffer, &offset, &x86_cpu_state, &copy, err);
}

#define REFUSED(text, change)                            \
    do {                                                 \
        struct x86_cpu saved_ = *cpu;                    \
        struct error err_;                               \
        assert_int_equal(save_and_load(cpu, &err_), 0);  \
        change;                                          \
        assert_int_equal(save_and_load(cpu, &err_), -1); \
        assert_int_equal(err_.kind, ERROR_INPUT);        \
        if (strstr(err_.message, text) == NULL)          \
            fail_msg("%s: \"%s\"", text, err_.message);  \
        *cpu = saved_;                                   \
    } while (0)

static void test_control(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_long(f);
    for (unsigned bit = 6; bit < 64; bit++)
        if (bit != 16 && bit != 18 && bit < 29)
            REFUSED("cr0 has reserved bits", cpu->cr0 |= UINT64_C(1) << bit);
    REFUSED("cr0 has reserved bits", cpu->cr0 |= UINT64_C(1) << 63);
    REFUSED("cr0 has paging without protection", cpu->cr0 &= ~UINT64_C(1));
    REFUSED("cr0 has NW without CD", cpu->cr0 = (cpu->cr0 | X86_CR0_NW) & ~(uint64_t)X86_CR0_CD);
    REFUSED("cr4 has bits", cpu->cr4 |= X86_CR4_LA57);
    REFUSED("cr4 has bits", cpu->cr4 |= X86_CR4_VMXE);
    REFUSED("cr4 has bits", cpu->cr4 |= UINT64_C(1) << 40);
    REFUSED("efer has bits", cpu->efer |= 2);
    REFUSED("efer has bits", cpu->efer |= UINT64_C(1) << 12); // SVME
    REFUSED("efer.LMA does not follow", cpu->efer &= ~(uint64_t)X86_EFER_LMA);
    REFUSED("long mode without cr4.PAE", cpu->cr4 &= ~(uint64_t)X86_CR4_PAE);
    REFUSED("cr3 has reserved bits", cpu->cr3 |= UINT64_C(1) << 52);
    REFUSED("xcr0", cpu->xcr0 = 0);
    REFUSED("xcr0", cpu->xcr0 = 5);
    REFUSED("xcr0", cpu->xcr0 = 9);
    REFUSED("xss", cpu->xss = 1);
    REFUSED("mxcsr", cpu->mxcsr |= 0x10000);
    REFUSED("dr6 or dr7", cpu->dr6 |= UINT64_C(1) << 32);
    REFUSED("dr6 or dr7", cpu->dr7 |= UINT64_C(1) << 32);
    REFUSED("dr6_pending", cpu->dr6_pending = 0x10);
}

static void test_mode(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    REFUSED("cpl does not fit", cpu->cpl = 3); // real mode
    REFUSED("rflags.VM outside", cpu->rflags |= X86_FLAG_VM);
    fix_protected(f);
    REFUSED("cr4.PCIDE outside", cpu->cr4 |= X86_CR4_PCIDE);
    REFUSED("rflags has reserved bits", cpu->rflags |= 8);
    REFUSED("rflags has reserved bits", cpu->rflags |= X86_FLAG_ZF); // kept elsewhere
    REFUSED("rflags has reserved bits", cpu->rflags |= UINT64_C(1) << 32);
    REFUSED("cpl does not fit", cpu->rflags |= X86_FLAG_VM);
    REFUSED("cpl does not fit", cpu->cpl = 4);
    REFUSED("shadow has unknown bits", cpu->shadow = 4);
    REFUSED("activity is unknown", cpu->activity = X86_SHUTDOWN + 1);
    REFUSED("rip exceeds 32 bits", cpu->rip |= UINT64_C(1) << 32);
    fix_long(f);
    REFUSED("cs has both L and D", cpu->seg[X86_CS].attr |= X86_ATTR_DB);
    REFUSED("rflags.VM outside", cpu->rflags |= X86_FLAG_VM);
    struct error err;
    cpu->rip = UINT64_C(1) << 47; // as SYSRET leaves it on AMD
    assert_int_equal(save_and_load(cpu, &err), 0);
}

static void test_segments(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    fix_protected(f);
    REFUSED("cs is null", cpu->seg[X86_CS].attr = X86_ATTR_UNUSABLE);
    for (unsigned i = 0; i < X86_SEG_COUNT; i++) {
        REFUSED("reserved rights", cpu->seg[i].attr |= 0x100);
        REFUSED("wrong kind", cpu->seg[i].attr &= ~(uint32_t)X86_ATTR_S);
        REFUSED("base is out of range", cpu->seg[i].base = UINT64_C(1) << 47);
    }
    REFUSED("reserved rights", cpu->ldtr.attr |= 0x20000);
    REFUSED("wrong kind", cpu->ldtr.attr = 0x92);
    REFUSED("base is out of range", cpu->ldtr.base = UINT64_C(1) << 47);
    REFUSED("wrong kind", cpu->tr.attr |= X86_ATTR_S);
    REFUSED("base is out of range", cpu->tr.base = UINT64_C(1) << 47);
    for (unsigned type = 0; type < 16; type++)
        if (type != 3 && type != 11)
            REFUSED("tr is not a busy TSS", cpu->tr.attr = 0x80 | type);
    REFUSED("tr is not a busy TSS", cpu->tr.attr |= X86_ATTR_UNUSABLE);
    const uint64_t bad = UINT64_C(1) << 47;
    REFUSED("not canonical", cpu->gdtr.base = bad);
    REFUSED("not canonical", cpu->idtr.base = bad);
    REFUSED("not canonical", cpu->kernel_gs_base = bad);
    REFUSED("not canonical", cpu->lstar = bad);
    REFUSED("not canonical", cpu->cstar = bad);
    REFUSED("not canonical", cpu->sysenter_esp = bad);
    REFUSED("not canonical", cpu->sysenter_eip = bad);
    fix_long(f);
    REFUSED("tr is not a busy TSS", cpu->tr.attr = 0x83); // 16-bit, in long mode
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fix_setup, fix_teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_control), TEST(test_mode), TEST(test_segments)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    state_buffer_free(&buffer);
    return failed;
}
