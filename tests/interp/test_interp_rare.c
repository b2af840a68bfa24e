// SPDX-License-Identifier: Apache-2.0
// Instructions that guests use seldom, or with operands where nobody puts them: compare-and-exchange on memory
// that is none, images that wrap at 64 KiB, string I/O of nothing, hypercalls, RDPID, RDPMC.
#include "../engine_under_test.h"
#include "rig.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CODE 0x5000
#define HANDLER(v) (0x7000u + (v)*16)
#define VOID UINT64_C(0x100000) // linear; mapped to an address without memory

static void place(struct rig *rig, uint64_t at, const uint8_t *bytes, size_t size)
{
    static const uint8_t hlt = 0xf4;
    rig_write(rig, at, bytes, size);
    rig_write(rig, at + size, &hlt, 1);
}
#define RUN(rig, ...) \
    run(rig, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
static enum vm_exit_reason run(struct rig *rig, const uint8_t *bytes, size_t size)
{
    place(rig, CODE, bytes, size);
    rig->cpu->rip = CODE;
    rig->cpu->activity = X86_ACTIVE;
    return rig_run(rig, 10000);
}
static struct rig *create(enum rig_mode mode)
{
    struct rig *rig = rig_create(mode);
    for (unsigned v = 0; v < 0x20; v++) {
        place(rig, HANDLER(v), NULL, 0);
        if (mode == RIG_LONG)
            rig_gate(rig, v, HANDLER(v));
        else
            rig_write(rig, v * 4, &(uint32_t){HANDLER(v)}, 4);
    }
    if (mode == RIG_LONG)
        rig_write64(rig, RIG_PT + (VOID >> 12) * 8, UINT64_C(0x20000000) | 7);
    return rig;
}
static unsigned vector_taken(const struct rig *rig)
{
    return (unsigned)(rig->cpu->rip - 1 - HANDLER(0)) / 16;
}
static bool zf(struct rig *rig)
{
    return x86_get_rflags(rig->cpu) & X86_FLAG_ZF;
}

static void test_cmpxchg8b(void **state)
{
    struct rig *rig = create(RIG_LONG);
    struct x86_cpu *cpu = rig->cpu;
    cpu->gpr[X86_RDI] = 0x8ffc; // across two pages
    rig_write64(rig, 0x8ffc, UINT64_C(0x1122334455667788));
    cpu->gpr[X86_RBX] = 1;
    cpu->gpr[X86_RCX] = 2;
    assert_int_equal(RUN(rig, 0xf0, 0x0f, 0xc7, 0x0f), VM_EXIT_HALT);
    assert_false(zf(rig));
    assert_int_equal(cpu->gpr[X86_RAX], 0x55667788);
    assert_int_equal(cpu->gpr[X86_RDX], 0x11223344);
    assert_int_equal(rig_read64(rig, 0x8ffc), UINT64_C(0x1122334455667788));
    assert_int_equal(RUN(rig, 0xf0, 0x0f, 0xc7, 0x0f), VM_EXIT_HALT);
    assert_true(zf(rig));
    assert_int_equal(rig_read64(rig, 0x8ffc), UINT64_C(0x200000001));
    // where there is no memory: all ones, and stores go nowhere
    cpu->gpr[X86_RDI] = VOID;
    assert_int_equal(RUN(rig, 0x0f, 0xc7, 0x0f), VM_EXIT_HALT);
    assert_false(zf(rig));
    assert_int_equal(cpu->gpr[X86_RAX], 0xffffffff);
    assert_int_equal(cpu->gpr[X86_RDX], 0xffffffff);
    assert_int_equal(RUN(rig, 0x0f, 0xc7, 0x0f), VM_EXIT_HALT);
    assert_true(zf(rig));
    rig_destroy(rig);
}

static void test_cmpxchg16b(void **state)
{
    struct rig *rig = create(RIG_LONG);
    struct x86_cpu *cpu = rig->cpu;
    cpu->gpr[X86_RDI] = VOID;
    assert_int_equal(RUN(rig, 0xf0, 0x48, 0x0f, 0xc7, 0x0f), VM_EXIT_HALT);
    assert_false(zf(rig));
    assert_int_equal(cpu->gpr[X86_RAX], UINT64_MAX);
    assert_int_equal(cpu->gpr[X86_RDX], UINT64_MAX);
    assert_int_equal(RUN(rig, 0xf0, 0x48, 0x0f, 0xc7, 0x0f), VM_EXIT_HALT);
    assert_true(zf(rig));
    rig_destroy(rig);
}

// The environment at FFF8h and FXSAVE's image at FF00h: the rest is at offset 0.
static void test_images(void **state)
{
    for (unsigned wide = 0; wide < 2; wide++) {
        struct rig *rig = create(RIG_REAL);
        struct x86_cpu *cpu = rig->cpu;
        uint8_t prefix = wide ? 0x66 : 0x3e;
        cpu->gpr[X86_RBX] = 0xfff8;
        cpu->x87.fcw = 0x27f;
        assert_int_equal(RUN(rig, prefix, 0xd9, 0x37), VM_EXIT_HALT); // fnstenv [bx]
        assert_int_equal(rig_read64(rig, 0xfff8) & 0xffff, 0x27f);
        // the tag word, as reset leaves it
        assert_int_equal((wide ? rig_read64(rig, 0) : rig_read64(rig, 0xfffc)) & 0xffff, 0x5555);
        rig_write(rig, 0xfff8, &(uint16_t){0x37f}, 2);
        assert_int_equal(RUN(rig, prefix, 0xd9, 0x27), VM_EXIT_HALT); // fldenv [bx]
        assert_int_equal(cpu->x87.fcw, 0x37f);
        rig_destroy(rig);
    }
    struct rig *rig = create(RIG_REAL);
    struct x86_cpu *cpu = rig->cpu;
    cpu->cr4 |= X86_CR4_OSFXSR;
    cpu->gpr[X86_RBX] = 0xff00;
    for (unsigned i = 0; i < 8; i++)
        cpu->vec[i].u64[0] = cpu->vec[i].u64[1] = UINT64_C(0x0101010101010101) * (i + 1);
    assert_int_equal(RUN(rig, 0x0f, 0xae, 0x07), VM_EXIT_HALT); // fxsave [bx]
    assert_int_equal(rig_read64(rig, 0xffa0), UINT64_C(0x0101010101010101));
    assert_int_equal(rig_read64(rig, 0x0000), UINT64_C(0x0707070707070707)); // XMM6, at 256
    assert_int_equal(rig_read64(rig, 0x0010), UINT64_C(0x0808080808080808));
    rig_write64(rig, 0x0000, 42);
    assert_int_equal(RUN(rig, 0x0f, 0xae, 0x0f), VM_EXIT_HALT); // fxrstor [bx]
    assert_int_equal(cpu->vec[6].u64[0], 42);
    assert_int_equal(cpu->vec[5].u64[0], UINT64_C(0x0606060606060606));
    rig_destroy(rig);
}

static void test_string_io(void **state)
{
    struct rig *rig = create(RIG_LONG);
    struct x86_cpu *cpu = rig->cpu;
    cpu->gpr[X86_RDX] = 0x80;
    cpu->gpr[X86_RSI] = cpu->gpr[X86_RDI] = 0x8000;
    cpu->gpr[X86_RCX] = 0;
    assert_int_equal(RUN(rig, 0xf3, 0x6c, 0xf3, 0x6e), VM_EXIT_HALT); // rep insb; rep outsb
    assert_int_equal(rig->port_reads + rig->port_writes, 0);
    assert_int_equal(cpu->gpr[X86_RDI], 0x8000);
    assert_int_equal(RUN(rig, 0x48, 0x6f), VM_EXIT_HALT); // rex.w outsd: four bytes
    assert_int_equal(cpu->gpr[X86_RSI], 0x8004);
    assert_int_equal(RUN(rig, 0x48, 0x6d), VM_EXIT_HALT);
    assert_int_equal(cpu->gpr[X86_RDI], 0x8004);
    rig_destroy(rig);
}

static uint64_t seen[5];
static uint64_t hypercall(void *opaque, uint64_t nr, const uint64_t args[4])
{
    seen[0] = nr;
    memcpy(seen + 1, args, 4 * sizeof(args[0]));
    return UINT64_C(0xfedcba9876543210);
}

static void test_hypercalls(void **state)
{
    const uint64_t high = UINT64_C(0xaaaaaaaa00000000);
    for (unsigned mode = RIG_REAL; mode <= RIG_LONG; mode++) {
        struct rig *rig = create(mode);
        struct x86_cpu *cpu = rig->cpu;
        const uint64_t up = mode == RIG_LONG ? high : 0;
        rig->platform.hypercall = hypercall;
        cpu->gpr[X86_RAX] = up | 11;
        cpu->gpr[X86_RBX] = up | 1;
        cpu->gpr[X86_RCX] = up | 2;
        cpu->gpr[X86_RDX] = up | 3;
        cpu->gpr[X86_RSI] = up | 4;
        // vmcall, and vmmcall with what it gave
        assert_int_equal(RUN(rig, 0x0f, 0x01, 0xc1), VM_EXIT_HALT);
        for (unsigned i = 1; i < 5; i++)
            assert_int_equal(seen[i], up | i);
        assert_int_equal(seen[0], up | 11);
        uint64_t result = mode == RIG_LONG ? UINT64_C(0xfedcba9876543210) : 0x76543210;
        assert_int_equal(cpu->gpr[X86_RAX], result);
        assert_int_equal(RUN(rig, 0x0f, 0x01, 0xd9), VM_EXIT_HALT);
        assert_int_equal(seen[0], result);
        rig_destroy(rig);
    }
    struct rig *rig = create(RIG_LONG);
    rig->platform.hypercall = NULL;
    assert_int_equal(RUN(rig, 0x0f, 0x01, 0xc1), VM_EXIT_HALT);
    assert_int_equal(vector_taken(rig), X86_UD);
    rig_destroy(rig);
}

static void test_counters(void **state)
{
    struct rig *rig = create(RIG_LONG);
    struct x86_cpu *cpu = rig->cpu;
    rig->model.feature[X86_FEATURE_rdpid] = true;
    cpu->tsc_aux = UINT64_C(0x1234567890);
    cpu->gpr[X86_RBX] = UINT64_MAX;
    assert_int_equal(RUN(rig, 0xf3, 0x0f, 0xc7, 0xfb), VM_EXIT_HALT); // rdpid rbx
    assert_int_equal(cpu->gpr[X86_RBX], 0x34567890);
    cpu->gpr[X86_RAX] = cpu->gpr[X86_RDX] = UINT64_MAX;
    cpu->gpr[X86_RCX] = 3;
    assert_int_equal(RUN(rig, 0x0f, 0x33), VM_EXIT_HALT); // rdpmc
    assert_int_equal(cpu->gpr[X86_RAX], 0);
    assert_int_equal(cpu->gpr[X86_RDX], 0);
    cpu->gpr[X86_RCX] = 4;
    assert_int_equal(RUN(rig, 0x0f, 0x33), VM_EXIT_HALT);
    assert_int_equal(vector_taken(rig), X86_GP);
    rig_destroy(rig);
}

// MOV CS and MOV from segment registers 6 and 7.
static void test_segment_numbers(void **state)
{
    static const uint8_t codes[][2] = {
        {0x8e, 0xc8}, {0x8e, 0xf0}, {0x8e, 0xf8}, {0x8c, 0xf0}, {0x8c, 0xf8}};
    for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
        struct rig *rig = create(RIG_LONG);
        assert_int_equal(run(rig, codes[i], 2), VM_EXIT_HALT);
        assert_int_equal(vector_taken(rig), X86_UD);
        rig_destroy(rig);
    }
}

// More code than the cache of decoded blocks holds: it is emptied and goes on.
static void test_cache_full(void **state)
{
    const uint64_t at = MIB(2), size = MIB(1);
    struct rig *rig = create(RIG_LONG);
    uint8_t *code = malloc(size);
    for (uint64_t i = 0; i < size; i += 2)
        memcpy(code + i, (const uint8_t[]){0xff, 0xc0}, 2); // inc eax
    place(rig, at, code, size);
    free(code);
    for (unsigned round = 1; round <= 2; round++) {
        rig->cpu->rip = at;
        rig->cpu->activity = X86_ACTIVE;
        assert_int_equal(rig_run(rig, 10 * size), VM_EXIT_HALT); // with a budget icount is exact
        assert_int_equal(rig->cpu->gpr[X86_RAX], round * size / 2);
        assert_int_equal(rig->cpu->icount, round * (size / 2 + 1));
    }
    rig_destroy(rig);
}

static void test_engines(void **state)
{
    struct error err = {0};
    assert_ptr_equal(engine_find("interp", &err), engine_for_test("interp"));
    assert_non_null(engine_find("auto", &err));
    assert_null(engine_find("nonsense", &err));
    assert_int_equal(err.kind, ERROR_USAGE);
    assert_non_null(strstr(err.message, "interp"));
    engine_under_test()->vcpu_destroy(NULL);
    engine_under_test()->destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cmpxchg8b),       cmocka_unit_test(test_cmpxchg16b),
        cmocka_unit_test(test_images),          cmocka_unit_test(test_string_io),
        cmocka_unit_test(test_hypercalls),      cmocka_unit_test(test_counters),
        cmocka_unit_test(test_segment_numbers), cmocka_unit_test(test_engines),
        cmocka_unit_test(test_cache_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
