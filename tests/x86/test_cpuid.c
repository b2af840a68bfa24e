// SPDX-License-Identifier: Apache-2.0
// Processor models and what CPUID says of them: parsing, dependencies, and agreement between leaves and
// with what the processor really does.
#include "cpu_fixture.h"

enum {
    EAX,
    EBX,
    ECX,
    EDX
};

static uint32_t out[4];

static void cpuid(uint32_t leaf, uint32_t subleaf)
{
    x86_cpuid(CPU, leaf, subleaf, out);
}

static bool parse(const char *text)
{
    struct error err = {0};
    bool ok = x86_cpu_model_parse(&fx.model, text, &err) == 0;
    if (!ok) {
        assert_int_equal(err.kind, ERROR_USAGE);
        assert_non_null(strstr(err.message, "--cpu"));
    }
    return ok;
}

static bool has(enum x86_feature feature)
{
    return fx.model.feature[feature];
}

static void test_parse(void **state)
{
    assert_true(parse(NULL));
    assert_string_equal(fx.model.name, "max");
    assert_true(has(X86_FEATURE_lm) && has(X86_FEATURE_smap) && fx.model.paravirt);
    assert_true(parse("x86-64-v1,vendor=intel"));
    assert_true(has(X86_FEATURE_sse2) && has(X86_FEATURE_syscall));
    assert_false(has(X86_FEATURE_sse3) || has(X86_FEATURE_cx16) || has(X86_FEATURE_xsave));
    assert_int_equal(fx.model.vendor, X86_VENDOR_INTEL);
    assert_true(parse("max,pv=off,-hypervisor,vendor=amd"));
    assert_false(fx.model.paravirt || has(X86_FEATURE_hypervisor));
    assert_int_equal(fx.model.vendor, X86_VENDOR_AMD);
    assert_true(parse("x86-64-v1,+sse4.1"));
    assert_true(has(X86_FEATURE_sse41) && has(X86_FEATURE_ssse3) && has(X86_FEATURE_sse3));
    assert_false(has(X86_FEATURE_sse42));
    assert_true(parse("max,-xsave"));
    assert_false(has(X86_FEATURE_avx) || has(X86_FEATURE_avx2) || has(X86_FEATURE_fma) ||
                 has(X86_FEATURE_f16c) || has(X86_FEATURE_xsaves) || has(X86_FEATURE_osxsave));
    assert_true(parse("max,+invtsc"));
    assert_true(has(X86_FEATURE_invtsc));
    assert_true(parse("max,-lm"));
    assert_false(has(X86_FEATURE_syscall) || has(X86_FEATURE_pcid));
    assert_true(parse("max,-TSC-deadline,-lzcnt"));
    assert_false(has(X86_FEATURE_tsc_deadline) || has(X86_FEATURE_abm));

    assert_false(parse("pentium4"));
    assert_false(parse("max,+nonsense"));
    assert_false(parse("max,avx"));
    assert_false(parse("max,vendor=via"));
    assert_false(parse("max,+monitor"));
    assert_false(parse("max,vendor=intel,+mmxext"));
    struct error err = {0};
    assert_int_equal(x86_cpu_model_parse(&fx.model, "x86-64-v4", &err), -1);
    assert_non_null(strstr(err.message, "AVX-512"));
}

// Whatever is switched off, what remains has all it needs.
static void test_dependencies(void **state)
{
    for (unsigned i = 1; i < X86_FEATURE_COUNT; i++) {
        char text[64];
        snprintf(text, sizeof(text), "max,-%s", x86_feature_name(i));
        assert_true(parse(text));
        assert_false(fx.model.feature[i]);
        assert_true(!has(X86_FEATURE_avx2) || has(X86_FEATURE_avx));
        assert_true(!has(X86_FEATURE_avx) || (has(X86_FEATURE_xsave) && has(X86_FEATURE_sse42)));
        assert_true(!has(X86_FEATURE_sse42) || has(X86_FEATURE_sse41));
        assert_true(!has(X86_FEATURE_sse2) || (has(X86_FEATURE_sse) && has(X86_FEATURE_fxsr)));
        assert_int_equal(has(X86_FEATURE_xsave), has(X86_FEATURE_osxsave));
        assert_true(!has(X86_FEATURE_x2apic) || has(X86_FEATURE_apic));
    }
    assert_null(x86_feature_name(X86_FEATURE_NONE));
    assert_null(x86_feature_name(X86_FEATURE_COUNT));
}

static void test_identity(void **state)
{
    assert_true(parse("max,vendor=amd"));
    cpuid(0, 0);
    assert_memory_equal(&out[EBX], "Auth", 4);
    assert_memory_equal(&out[EDX], "enti", 4);
    assert_memory_equal(&out[ECX], "cAMD", 4);
    cpuid(1, 0);
    assert_int_equal(out[EAX], 0x00060fb1); // family 15, model 107, stepping 1
    uint32_t edx = out[EDX];
    cpuid(0x80000001, 0);
    assert_int_equal(out[EAX], 0x00060fb1);
    assert_int_equal(out[EDX] & 0x0183f3ff, edx & 0x0183f3ff);
    assert_true(out[ECX] & 2);
    cpuid(0x80000008, 0);
    assert_int_equal(out[EAX], 48 << 8 | 40);
    assert_int_equal(out[ECX], 1 << 12 | 1);

    assert_true(parse("max,vendor=intel"));
    cpuid(0, 0);
    assert_memory_equal(&out[EBX], "Genu", 4);
    cpuid(1, 0);
    assert_int_equal(out[EAX], 0x000306c3); // family 6, model 60, stepping 3
    // Beyond the highest leaf: Intel repeats it, AMD has zeroes.
    cpuid(0xd, 0);
    uint32_t last[4];
    memcpy(last, out, sizeof(last));
    assert_true(last[EAX] & 1);
    cpuid(0x99, 0);
    assert_memory_equal(out, last, sizeof(last));
    cpuid(0x80000099, 0);
    assert_memory_equal(out, last, sizeof(last));
    assert_true(parse("max,vendor=amd"));
    cpuid(0x99, 0);
    assert_int_equal(out[EAX] | out[EBX] | out[ECX] | out[EDX], 0);

    char brand[49] = {0};
    for (uint32_t i = 0; i < 3; i++) {
        cpuid(0x80000002 + i, 0);
        memcpy(brand + i * 16, out, 16);
    }
    assert_string_equal(brand, "Croft x86-64 processor");
}

static void test_dynamic(void **state)
{
    cpuid(1, 0);
    assert_false(out[ECX] & (1u << 27));
    assert_true(out[EDX] & (1u << 9));
    assert_true(out[EDX] & (1u << 28));
    assert_int_equal((out[EBX] >> 16) & 0xff, 2);
    fx.cpu.cr4 |= X86_CR4_OSXSAVE;
    cpuid(1, 0);
    assert_true(out[ECX] & (1u << 27));
    fx.platform.apic_id = 1;
    cpuid(1, 0);
    assert_int_equal(out[EBX] >> 24, 1);
    cpuid(0xb, 0);
    assert_int_equal(out[EDX], 1);
    assert_int_equal(out[EAX], 0);
    cpuid(0xb, 1);
    assert_int_equal(out[EAX], 1);
    assert_int_equal(out[EBX], 2);
    assert_int_equal(out[ECX], 0x201);
    cpuid(0xb, 2);
    assert_int_equal(out[ECX], 2);
    fx.platform.cpu_count = 1;
    cpuid(1, 0);
    assert_false(out[EDX] & (1u << 28));
}

static void test_hypervisor(void **state)
{
    cpuid(0x40000000, 0);
    assert_int_equal(out[EAX], 0x40000001);
    assert_memory_equal(&out[EBX], "KVMKVMKVM\0\0\0", 12);
    cpuid(0x40000001, 0);
    assert_int_equal(out[EAX], 1u | 2 | 8 | 64 | 1u << 24);
    assert_true(parse("max,pv=off"));
    cpuid(0x40000000, 0);
    assert_int_equal(out[EAX] | out[EBX], 0);
}

static int read_fault(uint32_t msr)
{
    return FAULT(x86_rdmsr(CPU, msr));
}
static int write_fault(uint32_t msr)
{
    return FAULT(x86_wrmsr(CPU, msr, 0));
}
static int cr4_fault(uint64_t value)
{
    return FAULT(x86_write_cr(CPU, 4, value));
}

// What came before the P6: two leaves, few bits in CR4, the Pentium's few MSRs, no hypervisor.
static void test_old_models(void **state)
{
    static const struct {
        const char *name;
        uint32_t signature, edx, cr4;
    } models[] = {{"486", 0x480, 0x0b, 0x13}, {"pentium", 0x52c, 0x3bf, 0x5f}};

    for (unsigned i = 0; i < ARRAY_SIZE(models); i++) {
        assert_true(parse(models[i].name));
        cpuid(0, 0);
        assert_int_equal(out[EAX], 1);
        assert_memory_equal(&out[EBX], "Genu", 4);
        cpuid(1, 0);
        assert_int_equal(out[EAX], models[i].signature);
        assert_int_equal(out[EBX] | out[ECX], 0);
        assert_int_equal(out[EDX], models[i].edx);
        static const uint32_t none[] = {2, 4, 7, 0xd, 0x40000000, 0x80000000, 0x80000001};
        for (unsigned k = 0; k < ARRAY_SIZE(none); k++) {
            cpuid(none[k], 0);
            assert_int_equal(out[EAX] | out[EBX] | out[ECX] | out[EDX], 0);
        }
        x86_reset(CPU, false);
        assert_int_equal(fx.cpu.gpr[X86_RDX], models[i].signature);
        set_mode(FLAT32);
        fx.cpu.cr4 = 0;
        for (unsigned bit = 0; bit < 32; bit++) {
            int want = models[i].cr4 >> bit & 1 ? -1 : X86_GP;
            assert_int_equal(cr4_fault(UINT64_C(1) << bit), want);
        }
    }
    static const uint32_t there[] = {0x0, 0x1, 0x10, 0x11, 0x12, 0x13};
    for (unsigned i = 0; i < ARRAY_SIZE(there); i++) {
        assert_int_equal(read_fault(there[i]), -1);
        assert_int_equal(write_fault(there[i]), -1);
    }
    static const uint32_t absent[] = {
        0x17,  0x1b,       0x2a,       0x3a,       0x79,       0x8b,       0xce,      0xfe,  0x174,
        0x179, 0x1a0,      0x1d9,      0x200,      0x250,      0x277,      0x2ff,     0x400, 0x6e0,
        0x802, 0x4b564d00, 0xc0000080, 0xc0000081, 0xc0000100, 0xc0010015, 0xc0010020};
    for (unsigned i = 0; i < ARRAY_SIZE(absent); i++) {
        assert_int_equal(read_fault(absent[i]), X86_GP);
        assert_int_equal(write_fault(absent[i]), X86_GP);
    }
    assert_true(parse("pentium,+mmx,-apic"));
    cpuid(1, 0);
    assert_int_equal(out[EDX], 0x8001bf);
    assert_true(parse("pentium,+pae"));
    assert_int_equal(fx.model.phys_bits, 36);
    assert_false(parse("486,+avx"));
    assert_false(parse("pentium,pv=on"));
    assert_false(parse("486,+hypervisor"));
}

// Leaf 0Dh against what XSETBV accepts and what XSAVE writes.
static void test_xsave_leaf(void **state)
{
    set_mode(LONG64);
    fx.cpu.cr0 &= ~(uint64_t)X86_CR0_PG; // flat addresses
    x86_tlb_flush_all(CPU);
    assert_true(parse("max"));
    ASSERT_OK(x86_write_cr(CPU, 4, fx.cpu.cr4 | X86_CR4_OSXSAVE));
    cpuid(0xd, 0);
    uint32_t mask = out[EAX], max = out[ECX];
    assert_int_equal(out[EBX], 576);
    ASSERT_OK(x86_xsetbv(CPU, 0, mask));
    cpuid(0xd, 0);
    assert_int_equal(out[EBX], max);
    ASSERT_GP(x86_xsetbv(CPU, 0, (uint64_t)mask * 2 + 1));
    if (mask & 4) {
        cpuid(0xd, 2);
        assert_int_equal(out[EBX] + out[EAX], max);
        uint32_t ymm = out[EBX];
        // All components in use: the last byte that XSAVE writes is the area's last byte.
        for (unsigned i = 0; i < 16; i++)
            memset(fx.cpu.vec[i].u8, 0xa0 + (int)i, 32);
        for (unsigned i = 0; i < 4096; i += 8)
            put(0x5000 + i, UINT64_MAX, 8);
        ASSERT_OK(x86_xsave(CPU, X86_XSAVE, ~UINT64_C(0), X86_DS, 0x5000, true));
        assert_int_equal(get(0x5000 + ymm, 1), 0xa0);
        assert_int_equal(get(0x5000 + max - 1, 1), 0xaf);
        assert_int_equal(get(0x5000 + max, 1), 0xff);
        ASSERT_OK(x86_xsave(CPU, X86_XSAVEC, ~UINT64_C(0), X86_DS, 0x6000, true));
        cpuid(0xd, 1);
        assert_int_equal(get(0x6000 + out[EBX] - 1, 1), 0xaf);
        assert_int_equal(get(0x6000 + out[EBX], 1), 0);
    }
    assert_true(parse("max,-avx"));
    cpuid(0xd, 0);
    assert_int_equal(out[EAX], 3);
    assert_int_equal(out[ECX], 576);
    assert_true(parse("max,-xsave"));
    cpuid(0xd, 0);
    assert_int_equal(out[EAX] | out[ECX], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_parse),      TEST(test_dependencies), TEST(test_identity),   TEST(test_dynamic),
        TEST(test_hypervisor), TEST(test_xsave_leaf),   TEST(test_old_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
