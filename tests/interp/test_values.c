// SPDX-License-Identifier: Apache-2.0
// Single instructions at the operands that decide: equal to a bound, a count equal to the size, the carry out
// of all ones. Random cases seldom meet them; the expectations are the manual's (SDM vol. 2).
#include "rig.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CODE 0x5000
#define HANDLER 0x7000

struct value {
    const char *what;
    uint8_t size;
    uint8_t code[8];
    uint64_t rax, rbx, rcx; // before; RDX is 0
    uint32_t flags;         // before
    uint64_t result;        // RAX behind it
    uint32_t mask, want;    // flags behind it
};
#define CF X86_FLAG_CF
#define OF X86_FLAG_OF
#define ZF X86_FLAG_ZF
#define SF X86_FLAG_SF
#define ALL UINT64_MAX
#define MSB (UINT64_C(1) << 63)

static const struct value values[] = {
    {"shld eax, ebx, 1",
     4,
     {0x0f, 0xa4, 0xd8, 1},
     0x80000000,
     0,
     0,
     0,
     0,
     CF | OF | ZF,
     CF | OF | ZF},
    {"shld eax, ebx, 1",
     4,
     {0x0f, 0xa4, 0xd8, 1},
     0x40000000,
     MSB >> 32,
     0,
     CF,
     0x80000001,
     CF | OF | SF,
     OF | SF},
    {"shld eax, ebx, 31", 4, {0x0f, 0xa4, 0xd8, 31}, 2, 0, 0, 0, 0, CF, CF},
    {"shld eax, ebx, 31", 4, {0x0f, 0xa4, 0xd8, 31}, 1, 0, 0, CF, 0x80000000, CF, 0},
    {"shld rax, rbx, 63", 5, {0x48, 0x0f, 0xa4, 0xd8, 63}, 2, 0, 0, 0, 0, CF, CF},
    {"shld ax, bx, 4", 5, {0x66, 0x0f, 0xa4, 0xd8, 4}, 0x1000, 0xa000, 0, 0, 0xa, CF, CF},
    {"shld eax, ebx, 0",
     4,
     {0x0f, 0xa4, 0xd8, 0},
     1,
     1,
     0,
     CF | OF | ZF,
     1,
     CF | OF | ZF,
     CF | OF | ZF},
    {"shrd eax, ebx, 1",
     4,
     {0x0f, 0xac, 0xd8, 1},
     1,
     1,
     0,
     0,
     0x80000000,
     CF | OF | SF,
     CF | OF | SF},
    {"shrd eax, ebx, 31", 4, {0x0f, 0xac, 0xd8, 31}, 0x40000000, 0, 0, 0, 0, CF, CF},
    {"shrd rax, rbx, 63", 5, {0x48, 0x0f, 0xac, 0xd8, 63}, MSB >> 1, 0, 0, 0, 0, CF, CF},
    {"bt rax, 40",
     5,
     {0x48, 0x0f, 0xba, 0xe0, 40},
     UINT64_C(1) << 40,
     0,
     0,
     0,
     UINT64_C(1) << 40,
     CF,
     CF},
    {"bt rax, 40", 5, {0x48, 0x0f, 0xba, 0xe0, 40}, 1u << 8, 0, 0, CF, 1u << 8, CF, 0},
    {"bt rax, rcx",
     4,
     {0x48, 0x0f, 0xa3, 0xc8},
     UINT64_C(1) << 40,
     0,
     104,
     0,
     UINT64_C(1) << 40,
     CF,
     CF},
    {"bzhi eax, ebx, ecx",
     5,
     {0xc4, 0xe2, 0x70, 0xf5, 0xc3},
     0,
     0xffffffff,
     31,
     CF,
     0x7fffffff,
     CF | SF,
     0},
    {"bzhi eax, ebx, ecx",
     5,
     {0xc4, 0xe2, 0x70, 0xf5, 0xc3},
     0,
     0xffffffff,
     32,
     0,
     0xffffffff,
     CF | SF,
     CF | SF},
    {"bzhi rax, rbx, rcx", 5, {0xc4, 0xe2, 0xf0, 0xf5, 0xc3}, 0, ALL, 63, CF, ALL >> 1, CF, 0},
    {"bzhi rax, rbx, rcx", 5, {0xc4, 0xe2, 0xf0, 0xf5, 0xc3}, 0, ALL, 64, 0, ALL, CF, CF},
    {"bextr eax, ebx, ecx", 5, {0xc4, 0xe2, 0x70, 0xf7, 0xc3}, 0, ALL, 0x820, 0, 0, ZF | CF, ZF},
    {"adcx rax, rbx", 6, {0x66, 0x48, 0x0f, 0x38, 0xf6, 0xc3}, 5, ALL, 0, CF, 5, CF, CF},
    {"adcx rax, rbx", 6, {0x66, 0x48, 0x0f, 0x38, 0xf6, 0xc3}, 0, ALL, 0, 0, ALL, CF, 0},
    {"adox rax, rbx", 6, {0xf3, 0x48, 0x0f, 0x38, 0xf6, 0xc3}, 5, ALL, 0, OF, 5, OF | CF, OF},
    {"ror eax, 1", 2, {0xd1, 0xc8}, 3, 0, 0, 0, 0x80000001, CF | OF, CF | OF},
    {"ror eax, 1", 2, {0xd1, 0xc8}, 0x80000001, 0, 0, 0, 0xc0000000, CF | OF, CF},
    {"xadd eax, eax", 3, {0x0f, 0xc1, 0xc0}, 3, 0, 0, 0, 6, CF | ZF, 0},
    {"cmpxchg ebx, ecx", 3, {0x0f, 0xb1, 0xcb}, 1, ALL, 2, ZF, 0xffffffff, ZF, 0},
    {"lzcnt eax, ebx", 4, {0xf3, 0x0f, 0xbd, 0xc3}, 0, 0, 0, 0, 32, CF | ZF, CF},
    {"lzcnt eax, ebx", 4, {0xf3, 0x0f, 0xbd, 0xc3}, 0, 0x80000000, 0, CF, 0, CF | ZF, ZF},
};

static struct rig *rig_for(enum rig_mode mode, const uint8_t *code, size_t size)
{
    static const uint8_t hlt[16] = {0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4};
    struct rig *rig = rig_create(mode);
    rig_write(rig, HANDLER, hlt, 1);
    for (unsigned v = 0; v < 32; v++) {
        if (mode == RIG_LONG)
            rig_gate(rig, v, HANDLER);
        else
            rig_write(rig, v * 4, &(uint32_t){HANDLER}, 4);
    }
    rig_write(rig, CODE, code, size);
    rig_write(rig, CODE + size, hlt, sizeof(hlt));
    rig->cpu->rip = CODE;
    return rig;
}

static void test_values(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        const struct value *v = &values[i];
        size_t size = v->size;
        struct rig *rig = rig_for(RIG_LONG, v->code, size);
        struct x86_cpu *cpu = rig->cpu;
        if ((v->code[0] == 0xc4 && !rig->model.feature[X86_FEATURE_bmi2]) ||
            (strncmp(v->what, "ad", 2) == 0 && !rig->model.feature[X86_FEATURE_adx])) {
            rig_destroy(rig);
            continue;
        }
        cpu->cr4 |= X86_CR4_OSXSAVE;
        cpu->xcr0 = 7;
        cpu->gpr[X86_RAX] = v->rax;
        cpu->gpr[X86_RBX] = v->rbx;
        cpu->gpr[X86_RCX] = v->rcx;
        x86_set_rflags(cpu, v->flags);
        assert_int_equal(rig_run(rig, 10), VM_EXIT_HALT);
        if (cpu->rip != CODE + size + 1 || cpu->gpr[X86_RAX] != v->result ||
            (x86_get_rflags(cpu) & v->mask) != v->want)
            fail_msg("%u, %s: rip %#llx, result %#llx, flags %#llx", i, v->what,
                     (unsigned long long)cpu->rip, (unsigned long long)cpu->gpr[X86_RAX],
                     (unsigned long long)(x86_get_rflags(cpu) & v->mask));
        // A destination that differs is left alone, its upper half too.
        if (strncmp(v->what, "cmpxchg", 7) == 0)
            assert_int_equal(cpu->gpr[X86_RBX], ALL);
        rig_destroy(rig);
    }
}

// Both bounds belong to the range.
static void test_bound(void **state)
{
    static const int16_t index[] = {-6, -5, 0, 7, 8};
    for (unsigned i = 0; i < ARRAY_SIZE(index); i++) {
        struct rig *rig = rig_for(RIG_REAL, (const uint8_t[]){0x62, 0x04}, 2); // bound ax, [si]
        rig_write(rig, 0x8000, (const int16_t[]){-5, 7}, 4);
        rig->cpu->gpr[X86_RSI] = 0x8000;
        rig->cpu->gpr[X86_RAX] = (uint16_t)index[i];
        assert_int_equal(rig_run(rig, 10), VM_EXIT_HALT);
        assert_int_equal(rig->cpu->rip, i == 0 || i == 4 ? HANDLER + 1 : CODE + 3);
        rig_destroy(rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_bound)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
