// SPDX-License-Identifier: Apache-2.0
// Control and debug registers, XCR0 and model-specific registers: what is refused, and what follows.
#include "cpu_fixture.h"

#define ROOT 0x1000

#define CR0_BASE (X86_CR0_PE | X86_CR0_ET | X86_CR0_NE)

static void test_cr0(void **state)
{
    set_mode(FLAT32);
    ASSERT_GP(x86_write_cr(CPU, 0, X86_CR0_PG));
    ASSERT_GP(x86_write_cr(CPU, 0, CR0_BASE | X86_CR0_NW));
    ASSERT_GP(x86_write_cr(CPU, 0, CR0_BASE | UINT64_C(1) << 32));
    ASSERT_OK(x86_write_cr(CPU, 0, CR0_BASE | X86_CR0_CD | X86_CR0_NW));
    // Bits without a meaning are ignored, ET is always set.
    ASSERT_OK(x86_write_cr(CPU, 0, (CR0_BASE & ~X86_CR0_ET) | 0x1000ffc0));
    assert_int_equal(x86_read_cr(CPU, 0), CR0_BASE);
    x86_lmsw(CPU, 0xfffe); // sets MP, EM, TS; cannot clear PE
    assert_int_equal(x86_read_cr(CPU, 0), CR0_BASE | 14);
    x86_clts(CPU);
    assert_int_equal(x86_read_cr(CPU, 0), CR0_BASE | 6);
    ASSERT_OK(x86_write_cr(CPU, 0, X86_CR0_ET));
    assert_true(x86_real_mode(CPU));
    assert_int_equal(FAULT(x86_write_cr(CPU, 1, 0)), X86_UD);
    assert_int_equal(FAULT((void)x86_read_cr(CPU, 5)), X86_UD);
}

static void test_long_mode(void **state)
{
    set_mode(FLAT32);
    fx.cpu.cr4 = 0;
    ASSERT_OK(x86_wrmsr(CPU, 0xc0000080, X86_EFER_LME));
    ASSERT_GP(x86_write_cr(CPU, 0, CR0_BASE | X86_CR0_PG)); // no PAE
    ASSERT_OK(x86_write_cr(CPU, 4, X86_CR4_PAE));
    fx.cpu.seg[X86_CS].attr |= X86_ATTR_L;
    ASSERT_GP(x86_write_cr(CPU, 0, CR0_BASE | X86_CR0_PG));
    fx.cpu.seg[X86_CS].attr &= ~(uint32_t)X86_ATTR_L;
    fx.cpu.tr.attr = 0x83;
    ASSERT_GP(x86_write_cr(CPU, 0, CR0_BASE | X86_CR0_PG));
    fx.cpu.tr.attr = 0x8b;
    ASSERT_OK(x86_write_cr(CPU, 0, CR0_BASE | X86_CR0_PG));
    assert_true(fx.cpu.long_mode);
    assert_int_equal(x86_rdmsr(CPU, 0xc0000080), X86_EFER_LME | X86_EFER_LMA);
    ASSERT_GP(x86_wrmsr(CPU, 0xc0000080, 0));
    ASSERT_GP(x86_write_cr(CPU, 4, 0));
    ASSERT_OK(x86_wrmsr(CPU, 0xc0000080, X86_EFER_LME | X86_EFER_NXE)); // LMA is not written
    assert_true(fx.cpu.efer & X86_EFER_LMA);
    ASSERT_GP(x86_wrmsr(CPU, 0xc0000080, X86_EFER_LME | 1u << 12)); // SVME
    // CR3
    ASSERT_GP(x86_write_cr(CPU, 3, UINT64_C(1) << 40));
    ASSERT_GP(x86_write_cr(CPU, 3, UINT64_C(1) << 63 | ROOT));
    // PCID
    ASSERT_OK(x86_write_cr(CPU, 3, ROOT | 1));
    ASSERT_GP(x86_write_cr(CPU, 4, X86_CR4_PAE | X86_CR4_PCIDE));
    ASSERT_OK(x86_write_cr(CPU, 3, ROOT));
    ASSERT_OK(x86_write_cr(CPU, 4, X86_CR4_PAE | X86_CR4_PCIDE));
    ASSERT_OK(x86_write_cr(CPU, 3, UINT64_C(1) << 63 | ROOT | 5));
    assert_int_equal(x86_read_cr(CPU, 3), ROOT | 5);
    ASSERT_GP(x86_write_cr(CPU, 0, CR0_BASE)); // PG with PCIDE
    ASSERT_OK(x86_write_cr(CPU, 4, X86_CR4_PAE));
    fx.cpu.seg[X86_CS].attr = 0xa09b;
    x86_mode_changed(CPU);
    ASSERT_GP(x86_write_cr(CPU, 0, CR0_BASE)); // from 64-bit code
    fx.cpu.seg[X86_CS].attr = 0xc09b;
    x86_mode_changed(CPU);
    ASSERT_OK(x86_write_cr(CPU, 0, CR0_BASE));
    assert_int_equal(x86_rdmsr(CPU, 0xc0000080), X86_EFER_LME | X86_EFER_NXE);
}

static void test_cr4(void **state)
{
    set_mode(FLAT32);
    ASSERT_GP(x86_write_cr(CPU, 4, X86_CR4_VMXE));
    ASSERT_GP(x86_write_cr(CPU, 4, X86_CR4_LA57));
    ASSERT_GP(x86_write_cr(CPU, 4, UINT64_C(1) << 32));
    ASSERT_GP(x86_write_cr(CPU, 4, X86_CR4_PCIDE)); // not in long mode
    ASSERT_OK(x86_write_cr(CPU, 4, X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_UMIP | X86_CR4_PGE));
    fx.model.feature[X86_FEATURE_smap] = false;
    ASSERT_GP(x86_write_cr(CPU, 4, X86_CR4_SMAP));
    // PAE paging: PDPTEs are loaded and checked.
    put(ROOT, 1 | 1 << 1, 8);
    fx.cpu.cr3 = ROOT;
    ASSERT_OK(x86_write_cr(CPU, 4, X86_CR4_PAE));
    ASSERT_GP(x86_write_cr(CPU, 0, CR0_BASE | X86_CR0_PG));
    put(ROOT, 0x2001, 8);
    ASSERT_OK(x86_write_cr(CPU, 0, CR0_BASE | X86_CR0_PG));
    assert_int_equal(fx.cpu.pdpte[0], 0x2001);
}

static void test_cr8(void **state)
{
    ASSERT_OK(x86_write_cr(CPU, 8, 9));
    assert_int_equal(fx.cr8, 9);
    assert_int_equal(x86_read_cr(CPU, 8), 9);
    ASSERT_GP(x86_write_cr(CPU, 8, 16));
}

static void test_debug_registers(void **state)
{
    set_mode(FLAT32);
    ASSERT_OK(x86_write_dr(CPU, 7, 0xffffffff & ~(1u << 13)));
    assert_int_equal(x86_read_dr(CPU, 7), 0xffff07ff);
    ASSERT_OK(x86_write_dr(CPU, 7, 0));
    assert_int_equal(x86_read_dr(CPU, 7), 0x400);
    ASSERT_OK(x86_write_dr(CPU, 6, 0));
    assert_int_equal(x86_read_dr(CPU, 6), 0xffff0ff0);
    assert_int_equal(x86_read_dr(CPU, 4), 0xffff0ff0);
    ASSERT_GP(x86_write_dr(CPU, 7, UINT64_C(1) << 32));
    fx.cpu.cr4 |= X86_CR4_DE;
    assert_int_equal(FAULT((void)x86_read_dr(CPU, 5)), X86_UD);
    ASSERT_OK(x86_write_dr(CPU, 7, 1u << 13));
    assert_int_equal(FAULT(x86_write_dr(CPU, 0, 1)), X86_DB);
    assert_true(fx.cpu.dr6 & (1u << 13));
    assert_int_equal(fx.cpu.dr[0], 0);
    ASSERT_OK(x86_write_dr(CPU, 0, 1)); // GD is clear for the handler
}

static void test_xcr0(void **state)
{
    set_mode(FLAT32);
    assert_int_equal(FAULT(x86_xsetbv(CPU, 0, 1)), X86_UD);
    assert_int_equal(FAULT((void)x86_xgetbv(CPU, 0)), X86_UD);
    ASSERT_OK(x86_write_cr(CPU, 4, X86_CR4_OSXSAVE));
    ASSERT_GP(x86_xsetbv(CPU, 1, 1));
    ASSERT_GP(x86_xsetbv(CPU, 0, 2));
    ASSERT_GP(x86_xsetbv(CPU, 0, 5));
    ASSERT_GP(x86_xsetbv(CPU, 0, 0xf));
    ASSERT_OK(x86_xsetbv(CPU, 0, 3));
    assert_int_equal(x86_xgetbv(CPU, 0), 3);
    ASSERT_GP((void)x86_xgetbv(CPU, 2));
    set_cpl(3);
    ASSERT_GP(x86_xsetbv(CPU, 0, 1));
}

static void test_invpcid(void **state)
{
    set_mode(FLAT32);
    put(0x5000, 0, 8);
    put(0x5008, 0x1000, 8);
    for (uint64_t type = 0; type < 4; type++)
        ASSERT_OK(x86_invpcid(CPU, type, X86_DS, 0x5000));
    ASSERT_GP(x86_invpcid(CPU, 4, X86_DS, 0x5000));
    put(0x5000, 1, 8);
    ASSERT_GP(x86_invpcid(CPU, 0, X86_DS, 0x5000)); // PCIDE is off
    put(0x5000, 0x1000, 8);
    ASSERT_GP(x86_invpcid(CPU, 2, X86_DS, 0x5000));
    put(0x5000, 0, 8);
    put(0x5008, UINT64_C(1) << 47, 8);
    ASSERT_GP(x86_invpcid(CPU, 0, X86_DS, 0x5000));
}

static void test_tsc(void **state)
{
    fx.tsc = 1000;
    assert_int_equal(x86_rdtsc(CPU), 1000);
    ASSERT_OK(x86_wrmsr(CPU, 0x10, 5000));
    assert_int_equal(x86_rdmsr(CPU, 0x10), 5000);
    assert_int_equal(x86_rdmsr(CPU, 0x3b), 4000);
    ASSERT_OK(x86_wrmsr(CPU, 0x3b, 0));
    assert_int_equal(x86_rdtsc(CPU), 1000);
    fx.tsc = 2000;
    ASSERT_OK(x86_wrmsr(CPU, 0x3b, 7));
    assert_int_equal(x86_rdtsc(CPU), 2007);
}

static void test_msr_rules(void **state)
{
    set_mode(LONG64);
    assert_int_equal(x86_cpu_model_parse(&fx.model, "max,vendor=intel", NULL), 0);
    const uint64_t bad = UINT64_C(1) << 47;
    static const uint32_t canonical[] = {0x175,      0x176,      0xc0000082, 0xc0000083,
                                         0xc0000100, 0xc0000101, 0xc0000102};
    for (unsigned i = 0; i < ARRAY_SIZE(canonical); i++) {
        ASSERT_GP(x86_wrmsr(CPU, canonical[i], bad));
        ASSERT_OK(x86_wrmsr(CPU, canonical[i], ~UINT64_C(0) << 47));
        assert_int_equal(x86_rdmsr(CPU, canonical[i]), ~UINT64_C(0) << 47);
    }
    assert_int_equal(fx.cpu.seg[X86_GS].eff_base, ~UINT64_C(0) << 47);
    // memory types
    ASSERT_GP(x86_wrmsr(CPU, 0x277, 2));
    ASSERT_OK(x86_wrmsr(CPU, 0x277, UINT64_C(0x0007050600070106)));
    ASSERT_GP(x86_wrmsr(CPU, 0x250, 7));
    ASSERT_GP(x86_wrmsr(CPU, 0x2ff, 1 << 8));
    ASSERT_GP(x86_wrmsr(CPU, 0x200, UINT64_C(1) << 40));
    ASSERT_GP(x86_wrmsr(CPU, 0x201, 1));
    ASSERT_OK(x86_wrmsr(CPU, 0x20f, 0x800));
    assert_int_equal(fx.cpu.mtrr_mask[7], 0x800);
    ASSERT_OK(x86_wrmsr(CPU, 0x259, 0x0606060606060606));
    assert_int_equal(fx.cpu.mtrr_fixed[2], 0x0606060606060606);
    ASSERT_OK(x86_wrmsr(CPU, 0x26f, 0x0606060606060606));
    assert_int_equal(fx.cpu.mtrr_fixed[10], 0x0606060606060606);
    // read-only and unknown
    ASSERT_GP(x86_wrmsr(CPU, 0xfe, 0));
    ASSERT_GP(x86_wrmsr(CPU, 0x179, 0));
    ASSERT_GP(x86_wrmsr(CPU, 0x10a, 0));
    ASSERT_GP(x86_wrmsr(CPU, 0x3a, 0));
    ASSERT_GP((void)x86_rdmsr(CPU, 0x12345678));
    ASSERT_GP((void)x86_rdmsr(CPU, 0x49));
    ASSERT_GP((void)x86_rdmsr(CPU, 0xc0010015)); // AMD's
    ASSERT_GP((void)x86_rdmsr(CPU, 0x1b));       // the board's, and there is none
    ASSERT_OK(x86_wrmsr(CPU, 0x49, 1));
    // machine check
    ASSERT_OK(x86_wrmsr(CPU, 0x400, UINT64_MAX));
    ASSERT_GP(x86_wrmsr(CPU, 0x401, 1));
    ASSERT_OK(x86_wrmsr(CPU, 0x401, 0));
    ASSERT_GP((void)x86_rdmsr(CPU, 0x420));
    assert_int_equal(x86_cpu_model_parse(&fx.model, "max,vendor=amd", NULL), 0);
    ASSERT_OK((void)x86_rdmsr(CPU, 0xc0010015));
    ASSERT_OK(x86_wrmsr(CPU, 0xc0010015, 0));
    ASSERT_GP((void)x86_rdmsr(CPU, 0x1a0));
    assert_int_equal(x86_cpu_model_parse(&fx.model, "max,-tsc_adjust,-nx", NULL), 0);
    ASSERT_GP((void)x86_rdmsr(CPU, 0x3b));
    ASSERT_GP(x86_wrmsr(CPU, 0xc0000080, fx.cpu.efer | X86_EFER_NXE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_cr0),     TEST(test_long_mode), TEST(test_cr4),
        TEST(test_cr8),     TEST(test_xcr0),      TEST(test_debug_registers),
        TEST(test_invpcid), TEST(test_tsc),       TEST(test_msr_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
