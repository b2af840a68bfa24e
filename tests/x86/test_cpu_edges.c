// SPDX-License-Identifier: Apache-2.0
// Translations, breakpoints and CPUID at their edges: what must not survive in the TLB, which bits an error
// code has. What seeded faults showed to be untested elsewhere (docs/seeded-faults.md).
#include "cpu_fixture.h"

#define ROOT 0x1000
#define LIN 0x10000
#define PAGE_A 0x20000
#define PAGE_B 0x21000
#define NX (UINT64_C(1) << 63)

// One page at LIN in long mode.
static void map(uint64_t bits, uint64_t page)
{
    put(ROOT, 0x2007, 8);
    put(0x2000, 0x3007, 8);
    put(0x3000, 0x4007, 8);
    put(0x4000 + (LIN >> 12) * 8, page | bits, 8);
}

static void setup_long(uint64_t bits)
{
    map(bits, PAGE_A);
    fx.cpu.cr3 = ROOT;
    set_mode(LONG64);
}

static void fetch(void)
{
    (void)x86_fetch_page(CPU, LIN);
}

// CR0.WP decides anew for a page that was written before it changed.
static void test_write_protect(void **state)
{
    setup_long(1 | 0x60);
    fx.cpu.cr0 &= ~(uint64_t)X86_CR0_WP;
    ASSERT_OK(x86_write8(CPU, X86_DS, LIN, 1));
    ASSERT_OK(x86_write_cr(CPU, 0, fx.cpu.cr0 | X86_CR0_WP));
    assert_int_equal(FAULT(x86_write8(CPU, X86_DS, LIN, 1)), X86_PF);
    assert_int_equal(fx.cpu.fault.error, 3);
    ASSERT_OK(x86_write_cr(CPU, 0, fx.cpu.cr0 & ~(uint64_t)X86_CR0_WP));
    ASSERT_OK(x86_write8(CPU, X86_DS, LIN, 1));
}

// So does EFER.NXE for a page whose NX bit was reserved, or that was executed.
static void test_no_execute(void **state)
{
    setup_long(7 | NX);
    ASSERT_OK(x86_wrmsr(CPU, 0xc0000080, X86_EFER_LME | X86_EFER_NXE));
    ASSERT_OK((void)x86_read8(CPU, X86_DS, LIN));
    assert_int_equal(FAULT(fetch()), X86_PF);
    assert_int_equal(fx.cpu.fault.error, 0x11);
    ASSERT_OK(x86_wrmsr(CPU, 0xc0000080, X86_EFER_LME));
    assert_int_equal(FAULT((void)x86_read8(CPU, X86_DS, LIN)), X86_PF);
    assert_int_equal(fx.cpu.fault.error, 9);
}

// Without CR4.PGE a page with G goes with the others.
static void test_global(void **state)
{
    put(PAGE_A, 0xa, 1);
    put(PAGE_B, 0xb, 1);
    for (unsigned pge = 0; pge < 2; pge++) {
        setup_long(7 | 0x100);
        ASSERT_OK(x86_write_cr(CPU, 4, fx.cpu.cr4 | (pge ? X86_CR4_PGE : 0)));
        assert_int_equal(x86_read8(CPU, X86_DS, LIN), 0xa);
        map(7 | 0x100, PAGE_B);
        ASSERT_OK(x86_write_cr(CPU, 3, ROOT));
        assert_int_equal(x86_read8(CPU, X86_DS, LIN), pge ? 0xa : 0xb);
        if (pge) {
            ASSERT_OK(x86_write_cr(CPU, 4, fx.cpu.cr4 & ~(uint64_t)X86_CR4_PGE));
            assert_int_equal(x86_read8(CPU, X86_DS, LIN), 0xb);
        }
    }
}

// The U bit of error codes is the processor's level, alignment checks or not.
static void test_user_error(void **state)
{
    setup_long(3);
    fx.cpu.cr0 |= X86_CR0_AM;
    for (unsigned ac = 0; ac < 2; ac++) {
        fx.cpu.rflags = X86_FLAG_R1 | (ac ? X86_FLAG_AC : 0);
        set_cpl(3);
        assert_int_equal(FAULT((void)x86_read8(CPU, X86_DS, LIN)), X86_PF);
        assert_int_equal(fx.cpu.fault.error, 5);
        struct x86_rmw m; // a read that will write: W
        assert_int_equal(FAULT(x86_rmw_begin(CPU, &m, X86_DS, LIN, 4)), X86_PF);
        assert_int_equal(fx.cpu.fault.error, 7);
        set_cpl(0);
    }
}

// CLTS clears TS and nothing else.
static void test_clts(void **state)
{
    set_mode(FLAT32);
    ASSERT_OK(x86_write_cr(CPU, 0, fx.cpu.cr0 | X86_CR0_TS | X86_CR0_EM | X86_CR0_MP));
    uint64_t before = fx.cpu.cr0;
    x86_clts(CPU);
    assert_int_equal(fx.cpu.cr0, before & ~(uint64_t)X86_CR0_TS);
}

// Read-modify-write hits breakpoints on reads and writes, and each once.
static void test_rmw_breakpoint(void **state)
{
    struct x86_rmw m;
    setup_long(7);
    for (unsigned type = 1; type <= 3; type += 2) {
        ASSERT_OK(x86_write_dr(CPU, 0, LIN + 8));
        ASSERT_OK(x86_write_dr(CPU, 7, 1 | type << 16 | 3u << 18));
        fx.cpu.dr6_pending = 0;
        ASSERT_OK(x86_rmw_begin(CPU, &m, X86_DS, LIN + 10, 1));
        x86_rmw_end(CPU, &m);
        assert_int_equal(fx.cpu.dr6_pending, 1);
        fx.cpu.dr6_pending = 0;
        ASSERT_OK(x86_rmw_begin(CPU, &m, X86_DS, LIN + 12, 4));
        x86_rmw_end(CPU, &m);
        assert_int_equal(fx.cpu.dr6_pending, 0);
    }
}

static bool apic_is_on;
static bool apic_enabled(void *opaque)
{
    return apic_is_on;
}

// CPUID.01H:EDX.APIC is the enable bit of the APIC's base.
static void test_cpuid_apic(void **state)
{
    uint32_t out[4];
    fx.platform.apic_enabled = apic_enabled;
    for (unsigned on = 0; on < 2; on++) {
        apic_is_on = on;
        x86_cpuid(CPU, 1, 0, out);
        assert_int_equal(out[3] >> 9 & 1, on);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_write_protect), TEST(test_no_execute), TEST(test_global),
        TEST(test_user_error),    TEST(test_clts),       TEST(test_rmw_breakpoint),
        TEST(test_cpuid_apic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
