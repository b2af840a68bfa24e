// SPDX-License-Identifier: Apache-2.0
// What hardly any guest does, each by the call that does it: page tables in ROM, an entry that changes while its
// walk runs, a deadline behind a moved TSC, events that nothing comes of, a processor without a board.
#include "cpu_fixture.h"
#include "x86/decode.h"
#include "x86/descriptor.h"

static uint64_t board_msr;
static bool board_write(void *opaque, uint32_t msr, uint64_t value)
{
    board_msr = value;
    return true;
}

static void test_caches(void **state)
{
    static const struct {
        uint32_t cpus, ids;
    } sizes[] = {{0, 0}, {1, 0}, {2, 1}, {3, 3}, {8, 7}, {64, 63}, {255, 63}};
    uint32_t out[4];
    assert_int_equal(x86_cpu_model_parse(&fx.model, "max,vendor=intel", NULL), 0);
    x86_cpuid(CPU, 2, 0, out);
    assert_int_equal(out[0], 0xff01); // one query; see leaf 4
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        // kibibytes and levels of L1 data, L1 code, L2, L3
        static const uint32_t kib[] = {32, 32, 512, 16384}, level[] = {1, 1, 2, 3},
                              type[] = {1, 2, 3, 3};
        fx.platform.cpu_count = sizes[i].cpus;
        for (uint32_t k = 0; k < 4; k++) {
            x86_cpuid(CPU, 4, k, out);
            assert_int_equal(out[0] & 31, type[k]);
            assert_int_equal(out[0] >> 5 & 7, level[k]);
            assert_int_equal(out[0] >> 14 & 0xfff, k == 3 ? sizes[i].ids : 0);
            assert_int_equal(out[0] >> 26, sizes[i].ids);
            uint32_t ways = (out[1] >> 22) + 1, line = (out[1] & 0xfff) + 1, sets = out[2] + 1;
            assert_int_equal(ways * line * sets, kib[k] << 10);
        }
        x86_cpuid(CPU, 4, 4, out);
        assert_int_equal(out[0], 0);
    }
    for (uint32_t leaf = 3; leaf <= 5; leaf += 2) { // serial number, MONITOR: nothing
        x86_cpuid(CPU, leaf, 0, out);
        assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
    }
    assert_int_equal(x86_cpu_model_parse(&fx.model, "max,vendor=amd", NULL), 0);
    for (uint32_t leaf = 2; leaf <= 4; leaf += 2) {
        x86_cpuid(CPU, leaf, 0, out);
        assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
    }
}

static void test_feature_names(void **state)
{
    struct error err = {0};
    assert_int_equal(x86_cpu_model_parse(&fx.model, "max,+", &err), -1);
    assert_int_equal(
        x86_cpu_model_parse(&fx.model, "max,-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &err), -1);
    assert_int_equal(err.kind, ERROR_USAGE);
    assert_int_equal(x86_cpu_model_parse(&fx.model, "max", &err), 0);
}

static void test_msrs(void **state)
{
    assert_int_equal(x86_cpu_model_parse(&fx.model, "max,vendor=intel,+TSC-deadline", NULL), 0);
    uint64_t value = 0;
    ASSERT_OK(value = x86_rdmsr(CPU, 0x3a));
    assert_int_equal(value, 1);
    fx.platform.tsc_hz = UINT64_C(2900000000);
    ASSERT_OK(value = x86_rdmsr(CPU, 0xce));
    assert_int_equal(value, 29 << 8);
    ASSERT_OK(x86_wrmsr(CPU, 0x79, 0x1000));
    ASSERT_OK(x86_wrmsr(CPU, 0x8b, 0));
    // A deadline is kept in the board's time; 0, which disarms, stays 0 and nothing else becomes it.
    fx.platform.msr_write = board_write;
    static const uint64_t cases[][3] = {
        {0, 5000, 5000}, {0, 0, 0}, {1000, 5000, 4000}, {1000, 0, 0}, {1000, 1000, 1}};
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        fx.cpu.tsc_offset = cases[i][0];
        ASSERT_OK(x86_wrmsr(CPU, 0x6e0, cases[i][1]));
        assert_int_equal(board_msr, cases[i][2]);
    }
    assert_int_equal(x86_cpu_model_parse(&fx.model, "max,vendor=amd", NULL), 0);
    ASSERT_OK(x86_wrmsr(CPU, 0xc0010020, 0x1000));
    ASSERT_GP((void)x86_rdmsr(CPU, 0x3a));
    ASSERT_GP((void)x86_rdmsr(CPU, 0xce));
}

#define ROM_TABLES MIB(17)
#define ROOT 0x10000
static void test_walks(void **state)
{
    // Tables in ROM translate; nobody can set their A and D bits.
    static uint8_t rom[PAGE_SIZE];
    rom[0] = 0x87; // 4 MiB at 0
    assert_int_equal(memory_add_rom(fx.memory, "tables", ROM_TABLES, rom, sizeof(rom), NULL), 0);
    set_mode(PAGED32);
    fx.cpu.cr3 = ROM_TABLES;
    ASSERT_OK(x86_write32(CPU, X86_DS, 0x5000, 0x1234));
    assert_int_equal(get(0x5000, 4), 0x1234);
    assert_int_equal(get(ROM_TABLES, 4), 0x87);
    // A directory that is its own table: setting A in the directory's entry changes the table's, which is the
    // same, behind the walk's back; the walk begins anew.
    const uint32_t lin = 3 << 22 | 3 << 12;
    fx.cpu.cr3 = ROOT;
    put(ROOT + 12, ROOT | 7, 4);
    x86_tlb_flush_all(CPU);
    ASSERT_OK(x86_write32(CPU, X86_DS, lin + 64, 0x5678));
    assert_int_equal(get(ROOT + 64, 4), 0x5678);
    assert_int_equal(get(ROOT + 12, 4), ROOT | 7 | 0x60);
    // PSE-36 has eight more address bits, however many the processor has.
    gpa_t gpa = 0;
    fx.model.phys_bits = 46;
    put(ROOT + 8, 0x87 | 0xff << 13, 4);
    assert_true(x86_translate_debug(CPU, MIB(8) + 5, &gpa));
    assert_int_equal(gpa, UINT64_C(0xff00000005));
    assert_false(x86_translate_debug(CPU, MIB(16), &gpa));
    set_mode(LONG64);
    assert_false(x86_translate_debug(CPU, UINT64_C(1) << 47, &gpa));
    assert_false(x86_translate_debug(CPU, UINT64_C(1) << 46, &gpa));
}

static void test_segments(void **state)
{
    // a register that protected mode left null is usable in real mode
    fx.cpu.seg[X86_DS] = (struct x86_seg){.attr = X86_ATTR_UNUSABLE};
    ASSERT_OK(x86_load_real(CPU, X86_DS, 0x123));
    assert_int_equal(fx.cpu.seg[X86_DS].base, 0x1230);
    assert_int_equal(fx.cpu.seg[X86_DS].limit, 0xffff);
    assert_int_equal(fx.cpu.seg[X86_DS].attr, 0x93);
    // protected mode with real mode's CS, as before the first far jump
    set_mode(FLAT32);
    fx.cpu.seg[X86_CS].attr = 0xc093;
    x86_seg_changed(CPU, X86_CS);
    assert_int_equal(fx.cpu.seg[X86_CS].unchecked,
                     X86_ACCESS_READ | X86_ACCESS_WRITE | X86_ACCESS_EXEC);
    // a descriptor on a device
    fx.device.writes = 0;
    ASSERT_OK(x86_sys_andnot8(CPU, MMIO_BASE, 1));
    assert_int_equal(fx.device.writes, 1);
    assert_int_equal(fx.device.value, 0x10);
    set_mode(COMPAT32);
    assert_int_equal(FAULT(x86_swapgs(CPU)), X86_UD);
    set_mode(LONG64);
    for (unsigned amd = 0; amd < 2; amd++) {
        fx.model.vendor = amd ? X86_VENDOR_AMD : X86_VENDOR_INTEL;
        ASSERT_OK(x86_seg_check(CPU, X86_FS, 0x1000, 4, X86_ACCESS_READ));
        int want = amd ? X86_GP : -1;
        assert_int_equal(FAULT(x86_seg_check(CPU, X86_FS, UINT64_C(1) << 63, 4, X86_ACCESS_READ)),
                         want);
    }
}

static void test_events(void **state)
{
    set_mode(FLAT32);
    atomic_store(&fx.cpu.events, X86_EVENT_SMI);
    assert_false(x86_events_deliver(CPU));
    assert_int_equal(fx.cpu.events & X86_EVENT_SMI, 0);
    atomic_store(&fx.cpu.events, X86_EVENT_TRAP); // a saved state may say so
    fx.cpu.dr6_pending = 0;
    assert_false(x86_events_deliver(CPU));
    assert_int_equal(fx.cpu.events & X86_EVENT_TRAP, 0);
    atomic_store(&fx.cpu.events, X86_EVENT_NMI);
    fx.cpu.activity = X86_SHUTDOWN;
    assert_false(x86_events_deliver(CPU));
    assert_int_equal(fx.cpu.events, X86_EVENT_NMI);
}

static void test_alone(void **state)
{
    static struct x86_cpu cpu;
    uint32_t out[4] = {1, 1, 1, 1};
    x86_tlb_flush_nonglobal(&cpu);
    x86_tlb_flush_all(&cpu);
    x86_tlb_flush_page(&cpu, 0x1000);
    x86_cpuid(&cpu, 0, 0, out);
    assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
    x86_reset(&cpu, false);
    assert_int_equal(cpu.gpr[X86_RDX], 0x600);
    // INIT finds a bootstrap processor
    atomic_store(&cpu.events, X86_EVENT_INIT);
    assert_true(x86_events_deliver(&cpu));
    assert_int_equal(cpu.activity, X86_ACTIVE);
}

static void test_text(void **state)
{
    char out[40] = "x";
    static const uint8_t nop[] = {0x90}, bad[] = {0x0f, 0xff}, cut[] = {0xe9, 1};
    assert_int_equal(x86_disassemble(out, 0, nop, 1, X86_CODE64, 0), 0);
    assert_string_equal(out, "x");
    assert_int_equal(x86_disassemble(out, sizeof(out), nop, 1, X86_CODE64, 0), 3);
    assert_string_equal(out, "nop");
    assert_int_equal(x86_disassemble(out, sizeof(out), cut, 2, X86_CODE32, 0), 5);
    assert_string_equal(out, "(bad)");
    assert_int_equal(x86_disassemble(out, 3, cut, 2, X86_CODE16, 0), 2);
    assert_string_equal(out, "(b");
    (void)x86_disassemble(out, sizeof(out), bad, 2, X86_CODE64, 0);
    // operands beyond the last are none
    struct x86_insn insn;
    assert_int_equal(x86_decode(&insn, nop, 1, X86_CODE64, &fx.model), X86_DECODE_OK);
    assert_int_equal(x86_operand_get(&insn, 0).kind, X86_OPND_NONE);
    assert_int_equal(x86_operand_get(&insn, 7).kind, X86_OPND_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_caches),   TEST(test_feature_names), TEST(test_msrs),  TEST(test_walks),
        TEST(test_segments), TEST(test_events),        TEST(test_alone), TEST(test_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
