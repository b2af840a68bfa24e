// SPDX-License-Identifier: Apache-2.0
// FXSAVE and the XSAVE family: round trips in both layouts, against the host's own instructions, the
// initial-state optimisation, header checks, and the order of faults.
#include "cpu_fixture.h"

#define AREA 0x10000
#define ALL UINT64_C(7)

static uint32_t seed;

static uint8_t next(void)
{
    seed = seed * 1664525 + 1013904223;
    return (uint8_t)(seed >> 24);
}

static void random_state(void)
{
    struct x86_cpu *cpu = CPU;
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 32; j++)
            cpu->vec[i].u8[j] = next();
    for (unsigned i = 0; i < 8; i++) {
        memset(cpu->x87.reg[i], 0, 16);
        for (unsigned j = 0; j < 10; j++)
            cpu->x87.reg[i][j] = next();
        cpu->x87.reg[i][7] |= 0x80; // a normal number
        cpu->x87.reg[i][9] = 0x40;
    }
    cpu->x87.fcw = 0x37f;
    cpu->x87.fsw = (uint16_t)((next() & 7) << 11 | 0x4100);
    cpu->x87.ftw = 0xc03f & (uint16_t)~0x003f; // register 7 empty, the rest valid
    cpu->x87.fop = 0x123;
    cpu->x87.fip = UINT64_C(0x0000123456789abc);
    cpu->x87.fdp = UINT64_C(0x0000000011223344);
    cpu->x87.fcs = cpu->x87.fds = 0;
    cpu->mxcsr = 0x1fa0;
}

static void setup(enum mode mode)
{
    seed = 1;
    set_mode(mode);
    if (mode == LONG64) { // 64-bit code on flat memory
        fx.cpu.cr0 &= ~(uint64_t)X86_CR0_PG;
        x86_tlb_flush_all(CPU);
    }
    fx.model.feature[X86_FEATURE_avx] = true;
    fx.model.vendor = X86_VENDOR_INTEL; // stores the x87 unit's pointers whatever is pending
    ASSERT_OK(x86_write_cr(CPU, 4, fx.cpu.cr4 | X86_CR4_OSXSAVE));
    ASSERT_OK(x86_xsetbv(CPU, 0, ALL));
    random_state();
}

struct snapshot {
    union x86_vec vec[16];
    struct x86_x87 x87;
    uint32_t mxcsr;
};

static struct snapshot take(void)
{
    struct snapshot s;
    memset(&s, 0, sizeof(s));
    memcpy(s.vec, fx.cpu.vec, sizeof(s.vec));
    s.x87 = fx.cpu.x87;
    s.mxcsr = fx.cpu.mxcsr;
    return s;
}

static void assert_same(const struct snapshot *a, const struct snapshot *b)
{
    assert_memory_equal(a->vec, b->vec, sizeof(a->vec));
    assert_memory_equal(a->x87.reg, b->x87.reg, sizeof(a->x87.reg));
    assert_int_equal(a->x87.fcw, b->x87.fcw);
    assert_int_equal(a->x87.fsw, b->x87.fsw);
    assert_int_equal(a->x87.ftw, b->x87.ftw);
    assert_int_equal(a->x87.fop, b->x87.fop);
    assert_int_equal(a->x87.fip, b->x87.fip);
    assert_int_equal(a->x87.fdp, b->x87.fdp);
    assert_int_equal(a->mxcsr, b->mxcsr);
}

static void scramble(void)
{
    for (unsigned i = 0; i < 16; i++)
        memset(&fx.cpu.vec[i], 0x11, 32);
    memset(&fx.cpu.x87, 0, sizeof(fx.cpu.x87));
    fx.cpu.mxcsr = 0x1f80;
}

static void test_fxsave(void **state)
{
    setup(LONG64);
    struct snapshot before = take(), after;
    for (unsigned i = 0; i < 512; i += 8)
        put(AREA + i, UINT64_C(0x5555555555555555), 8);
    ASSERT_OK(x86_fxsave(CPU, X86_DS, AREA, UINT64_MAX, true));
    assert_int_equal(get(AREA, 2), 0x37f);
    assert_int_equal(get(AREA + 4, 1), 0x7f);
    assert_int_equal(get(AREA + 8, 8), before.x87.fip);
    assert_int_equal(get(AREA + 28, 4), 0xffff);
    assert_int_equal(get(AREA + 416, 1), 0x55);
    unsigned top = (before.x87.fsw >> 11) & 7;
    assert_int_equal(get(AREA + 32, 1), before.x87.reg[top][0]);
    // The upper halves are not FXRSTOR's.
    ASSERT_OK(x86_fxrstor(CPU, X86_DS, AREA, UINT64_MAX, true));
    after = take();
    assert_same(&before, &after);
    scramble();
    ASSERT_OK(x86_fxrstor(CPU, X86_DS, AREA, UINT64_MAX, true));
    assert_memory_equal(fx.cpu.vec[3].u8, before.vec[3].u8, 16);
    assert_int_equal(fx.cpu.vec[3].u8[16], 0x11);
    assert_int_equal(fx.cpu.x87.ftw, before.x87.ftw);

    // 32-bit code: eight registers, 32-bit pointers.
    setup(FLAT32);
    before = take();
    for (unsigned i = 0; i < 512; i += 8)
        put(AREA + i, UINT64_C(0x5555555555555555), 8);
    ASSERT_OK(x86_fxsave(CPU, X86_DS, AREA, UINT64_MAX, false));
    assert_int_equal(get(AREA + 287, 1), before.vec[7].u8[15]);
    assert_int_equal(get(AREA + 288, 1), 0x55);
    assert_int_equal(get(AREA + 8, 4), (uint32_t)before.x87.fip);
    scramble();
    ASSERT_OK(x86_fxrstor(CPU, X86_DS, AREA, UINT64_MAX, false));
    assert_memory_equal(fx.cpu.vec[7].u8, before.vec[7].u8, 16);
    assert_int_equal(fx.cpu.vec[8].u8[0], 0x11);

    put(AREA + 24, 0x10000, 4);
    ASSERT_GP(x86_fxrstor(CPU, X86_DS, AREA, UINT64_MAX, false));
    ASSERT_GP(x86_fxsave(CPU, X86_DS, AREA + 8, UINT64_MAX, false));
    fx.cpu.cr0 |= X86_CR0_TS;
    assert_int_equal(FAULT(x86_fxsave(CPU, X86_DS, AREA + 8, UINT64_MAX, false)), X86_NM);
    fx.cpu.cr0 |= X86_CR0_EM;
    assert_int_equal(FAULT(x86_fxsave(CPU, X86_DS, AREA + 8, UINT64_MAX, false)), X86_UD);
}

// AMD's store opcode and pointers while an exception is pending, else zeros; they load them always.
static void test_pointers_amd(void **state)
{
    for (unsigned pending = 0; pending < 2; pending++) {
        setup(LONG64);
        fx.model.vendor = X86_VENDOR_AMD;
        fx.cpu.x87.fcw = 0x37e;
        fx.cpu.x87.fsw = pending ? 0x8081 : 0;
        fx.cpu.x87.fop = 0x123;
        fx.cpu.x87.fip = UINT64_C(0x123456789abc);
        fx.cpu.x87.fdp = UINT64_C(0x456789abcdef);
        for (unsigned i = 0; i < 32; i += 8)
            put(AREA + i, UINT64_C(0x5555555555555555), 8);
        ASSERT_OK(x86_fxsave(CPU, X86_DS, AREA, UINT64_MAX, true));
        assert_int_equal(get(AREA + 6, 2), pending ? 0x123 : 0);
        assert_int_equal(get(AREA + 8, 8), pending ? UINT64_C(0x123456789abc) : 0);
        assert_int_equal(get(AREA + 16, 8), pending ? UINT64_C(0x456789abcdef) : 0);
        put(AREA + 6, 0x321, 2);
        put(AREA + 8, 0x777, 8);
        ASSERT_OK(x86_fxrstor(CPU, X86_DS, AREA, UINT64_MAX, true));
        assert_int_equal(fx.cpu.x87.fop, 0x321);
        assert_int_equal(fx.cpu.x87.fip, 0x777);
    }
}

// A pending exception is recomputed from status and control words.
static void test_fxrstor_summary(void **state)
{
    setup(LONG64);
    ASSERT_OK(x86_fxsave(CPU, X86_DS, AREA, UINT64_MAX, true));
    put(AREA, 0x37e, 2); // invalid operation unmasked
    put(AREA + 2, 1, 2);
    ASSERT_OK(x86_fxrstor(CPU, X86_DS, AREA, UINT64_MAX, true));
    assert_int_equal(fx.cpu.x87.fsw, 0x8081);
    put(AREA, 0x37f, 2);
    put(AREA + 2, 0x8081, 2);
    ASSERT_OK(x86_fxrstor(CPU, X86_DS, AREA, UINT64_MAX, true));
    assert_int_equal(fx.cpu.x87.fsw, 1);
}

static void test_round_trips(void **state)
{
    static const enum x86_xsave_kind kinds[] = {X86_XSAVE, X86_XSAVEOPT, X86_XSAVEC, X86_XSAVES};
    for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
        for (uint64_t mask = 0; mask <= ALL; mask++) {
            setup(LONG64);
            struct snapshot before = take();
            for (unsigned i = 0; i < 1024; i += 8)
                put(AREA + i, 0, 8);
            ASSERT_OK(x86_xsave(CPU, kinds[k], mask, X86_DS, AREA, true));
            bool compact = kinds[k] >= X86_XSAVEC;
            assert_int_equal(get(AREA + 512, 8), mask);
            assert_int_equal(get(AREA + 520, 8), compact ? UINT64_C(1) << 63 | mask : 0);
            scramble();
            struct snapshot scrambled = take();
            ASSERT_OK(x86_xrstor(CPU, kinds[k] == X86_XSAVES, mask, X86_DS, AREA, true));
            struct snapshot want = scrambled, after = take();
            if (mask & 1)
                want.x87 = before.x87;
            for (unsigned i = 0; i < 16; i++) {
                if (mask & 2)
                    memcpy(want.vec[i].u8, before.vec[i].u8, 16);
                if (mask & 4)
                    memcpy(want.vec[i].u8 + 16, before.vec[i].u8 + 16, 16);
            }
            if (mask & (compact ? 2 : 6))
                want.mxcsr = before.mxcsr;
            assert_same(&want, &after);
        }
    }
}

// Components in their initial state: XSTATE_BV says so, XSAVEOPT and XSAVEC do not write them, XRSTOR
// brings them back.
static void test_initial(void **state)
{
    setup(LONG64);
    x86_fninit(CPU);
    memset(fx.cpu.x87.reg, 0, sizeof(fx.cpu.x87.reg));
    memset(fx.cpu.vec, 0, sizeof(fx.cpu.vec));
    fx.cpu.mxcsr = 0x1f80;
    assert_int_equal(x86_xinuse(CPU), 0);
    assert_int_equal(x86_xgetbv(CPU, 1), 0);
    for (unsigned i = 0; i < 1024; i += 8)
        put(AREA + i, UINT64_C(0x5555555555555555), 8);
    ASSERT_OK(x86_xsave(CPU, X86_XSAVEC, ALL, X86_DS, AREA, true));
    assert_int_equal(get(AREA + 512, 8), 0);
    assert_int_equal(get(AREA, 2), 0x5555);
    assert_int_equal(get(AREA + 24, 4), 0x55555555);
    assert_int_equal(get(AREA + 160, 1), 0x55);
    // MXCSR away from its initial value counts as SSE in use, here only.
    fx.cpu.mxcsr = 0x1fa0;
    assert_int_equal(x86_xinuse(CPU), 0);
    ASSERT_OK(x86_xsave(CPU, X86_XSAVEC, ALL, X86_DS, AREA, true));
    assert_int_equal(get(AREA + 512, 8), 2);
    assert_int_equal(get(AREA + 24, 4), 0x1fa0);
    // XSAVE keeps the bits of components that it was not asked for.
    put(AREA + 512, 4, 8);
    ASSERT_OK(x86_xsave(CPU, X86_XSAVE, 3, X86_DS, AREA, true));
    assert_int_equal(get(AREA + 512, 8), 4);
    assert_int_equal(get(AREA, 2), 0x37f); // XSAVE writes regardless
    // Restoring nothing initialises.
    random_state();
    for (unsigned i = 0; i < 64; i += 8)
        put(AREA + 512 + i, 0, 8);
    put(AREA + 24, 0x1f80, 4);
    ASSERT_OK(x86_xrstor(CPU, false, ALL, X86_DS, AREA, true));
    assert_int_equal(x86_xinuse(CPU), 0);
    assert_int_equal(fx.cpu.mxcsr, 0x1f80);
}

static void test_header(void **state)
{
    setup(LONG64);
    for (unsigned i = 0; i < 1024; i += 8)
        put(AREA + i, 0, 8);
    put(AREA + 24, 0x1f80, 4);
    ASSERT_OK(x86_xrstor(CPU, false, ALL, X86_DS, AREA, true));
    put(AREA + 512, 8, 8); // a component that XCR0 lacks
    ASSERT_GP(x86_xrstor(CPU, false, ALL, X86_DS, AREA, true));
    put(AREA + 512, 0, 8);
    put(AREA + 520, 1, 8);
    ASSERT_GP(x86_xrstor(CPU, false, ALL, X86_DS, AREA, true));
    put(AREA + 520, 0, 8);
    put(AREA + 528, 1, 8);
    ASSERT_GP(x86_xrstor(CPU, false, ALL, X86_DS, AREA, true));
    put(AREA + 528, 0, 8);
    put(AREA + 536, 1, 8); // not looked at in the standard form
    ASSERT_OK(x86_xrstor(CPU, false, ALL, X86_DS, AREA, true));
    put(AREA + 520, UINT64_C(1) << 63 | 7, 8);
    ASSERT_GP(x86_xrstor(CPU, false, ALL, X86_DS, AREA, true));
    put(AREA + 536, 0, 8);
    ASSERT_OK(x86_xrstor(CPU, false, ALL, X86_DS, AREA, true));
    put(AREA + 520, UINT64_C(1) << 63 | 3, 8);
    put(AREA + 512, 4, 8);
    ASSERT_GP(x86_xrstor(CPU, false, ALL, X86_DS, AREA, true));
    // XRSTORS takes the compacted form only, and CPL 0.
    put(AREA + 512, 0, 8);
    ASSERT_OK(x86_xrstor(CPU, true, ALL, X86_DS, AREA, true));
    put(AREA + 520, 0, 8);
    ASSERT_GP(x86_xrstor(CPU, true, ALL, X86_DS, AREA, true));
    // MXCSR in the standard form is loaded even with XSTATE_BV clear.
    put(AREA + 24, 0x10000, 4);
    ASSERT_OK(x86_xrstor(CPU, false, 1, X86_DS, AREA, true));
    ASSERT_GP(x86_xrstor(CPU, false, 4, X86_DS, AREA, true));
    ASSERT_GP(x86_xsave(CPU, X86_XSAVE, ALL, X86_DS, AREA + 16, true));
    set_cpl(3);
    ASSERT_GP(x86_xsave(CPU, X86_XSAVES, ALL, X86_DS, AREA, true));
    fx.cpu.cr0 |= X86_CR0_TS;
    assert_int_equal(FAULT(x86_xsave(CPU, X86_XSAVE, ALL, X86_DS, AREA + 16, true)), X86_NM);
    fx.cpu.cr4 &= ~(uint64_t)X86_CR4_OSXSAVE;
    assert_int_equal(FAULT(x86_xsave(CPU, X86_XSAVE, ALL, X86_DS, AREA, true)), X86_UD);
}

#if defined(__x86_64__)
static bool host_has_xsave(void)
{
    uint32_t a, b, c, d, low = 0, high;
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(1), "c"(0));
    if ((c >> 27) & 1)
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 7) == 7;
}

// What the host restores from our image and saves again is our image: in both directions, byte for
// byte where the layout is architectural.
static void test_against_host(void **state)
{
    static uint8_t keep[4096] __attribute__((aligned(64)));
    static uint8_t ours[832] __attribute__((aligned(64)));
    static uint8_t theirs[832] __attribute__((aligned(64)));
    if (!host_has_xsave())
        skip();
    for (unsigned mask = 1; mask <= 7; mask++) {
        setup(LONG64);
        for (unsigned i = 0; i < 832; i += 8)
            put(AREA + i, 0, 8);
        ASSERT_OK(x86_xsave(CPU, X86_XSAVE, mask, X86_DS, AREA, true));
        assert_true(memory_read(fx.memory, AREA, ours, sizeof(ours)));
        memset(theirs, 0, sizeof(theirs));
        __asm__ volatile("xsave64 (%[keep])\n\t"
                         "xrstor64 (%[ours])\n\t"
                         "xsave64 (%[theirs])\n\t"
                         "xrstor64 (%[keep])"
                         :
                         : [keep] "r"(keep), [ours] "r"(ours), [theirs] "r"(theirs), "a"(mask),
                           "d"(0)
                         : "memory");
        if (mask & 1) // processors differ in whether they keep pointers without a pending exception
            memcpy(theirs + 6, ours + 6, 18);
        if (!(mask & 6))
            memset(theirs + 24, 0, 8);
        memcpy(theirs + 28, ours + 28, 4); // MXCSR_MASK is the model's
        assert_memory_equal(ours, theirs, sizeof(ours));
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_fxsave),
        TEST(test_pointers_amd),
        TEST(test_fxrstor_summary),
        TEST(test_round_trips),
        TEST(test_initial),
        TEST(test_header),
#if defined(__x86_64__)
        TEST(test_against_host),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
