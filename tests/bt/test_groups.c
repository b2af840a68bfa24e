// SPDX-License-Identifier: Apache-2.0
// Accesses that share a check, at every place around the end of a page, in pages that lie apart in memory: a block
// that runs as a whole must leave what its instructions leave one by one, which the interpreter executes.
#include "../engine_under_test.h"
#include "../interp/rig.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define CODE_AT 0x3000
#define PAGES_AT UINT64_C(0x100000)       // linear
#define HIGH UINT64_C(0xffff800000000000) // the same again from here
#define OTHER (PAGES_AT + 0x2400)
#define OUTSIDE (PAGES_AT + 0x3000) // no memory is there
static const uint64_t frames[] = {0x500000, 0x300000, 0x700000, 0xf0000000};
#define BACKED 3

struct program {
    const char *name;
    const uint8_t *code, *end;
    unsigned count;
    uint64_t base; // added to RSI, RBP and RAX
    bool stack;    // RSP as RSI
    bool outside;  // RDI leads to no memory
};
#define PROGRAM(id, text)                  \
    extern const uint8_t id[], id##_end[]; \
    __asm__(".pushsection .rodata\n" #id ": " text "\n jmp .\n" #id "_end:\n.popsection\n")
#define P(id, n, ...)                                                           \
    {                                                                           \
        .name = #id, .code = id, .end = id##_end, .count = (n) + 1, __VA_ARGS__ \
    }

PROGRAM(other_base, "mov (%rsi), %rax; mov %rdi, %rsi; mov (%rsi), %rdx");
PROGRAM(other_index, "mov (%rsi, %rbx), %rax; mov $0x1008, %ebx; mov (%rsi, %rbx), %rdx");
PROGRAM(pushes,
        "push %rax; push %rcx; push %rdx; push %rbx; push %rsi; pop %rbx; pop %r9; pop %r12");
PROGRAM(pop_base, "push %rdi; mov (%rsi), %rax; pop %rsi; mov (%rsi), %rdx; mov 8(%rsi), %rcx");
PROGRAM(add_half, "mov (%rsi), %rax; add $8, %esi; mov (%rsi), %rdx");
PROGRAM(string, "mov (%rsi), %rdx; lodsq; mov (%rsi), %rcx; lodsb; mov 1(%rsi), %rbx");
PROGRAM(implicit, "mov (%rax), %rbx; cmpxchg %rcx, %rdi; mov (%rax), %rdx");
PROGRAM(constants, "mov 0x100ff4, %rax; mov 0x100ffd, %rcx; mov 0x101000, %edx; mov %ecx, "
                   "0x100ffe; mov 0x100ff8, %rbx");
PROGRAM(range, "mov (%rsi), %rax; mov 8(%rsi), %rdx; mov %ax, 3(%rsi); mov -5(%rsi), %cl");
PROGRAM(leave_base, "mov %rdi, (%rbp); leave; mov (%rbp), %rdx; mov 8(%rbp), %rcx");
PROGRAM(bases, "mov %gs:8, %rax; mov %fs:8, %rcx; swapgs; mov %gs:8, %rdx; mov %gs:16, %rbx");
PROGRAM(lone, "mov (%esi), %rax; mov %edx, 16(%esi); mov %fs:(%rbx), %rcx");
PROGRAM(stack, "push %rax; push %rcx; mov 9(%rsp), %rdx; lea 4(%rsp), %rbx; mov (%rsi), %r9; push "
               "%rdx; pop %rcx; pop %r8");
PROGRAM(sums,
        "mov (%rsi, %rbx), %rax; add $8, %rsi; mov (%rsi, %rbx), %rdx; mov %rdx, 9(%rsi, %rbx); "
        "add $-3, %rbx; mov 5(%rsi, %rbx), %rcx");
PROGRAM(
    taken_over,
    "mov (%rdi), %rax; mov (%rsi), %rcx; push %rcx; mov 8(%rdi), %rdx; pop %r8; mov %rcx, 8(%rsi); "
    "add $1, %rbx; adc $5, %r9; mov 4(%rsi), %r10");
PROGRAM(taken_over_sums,
        "mov (%rsi, %rbx), %rax; mov (%rdi), %rcx; mov 8(%rsi, %rbx), %rdx; mov 8(%rdi), %r8; "
        "mov 5(%rsi, %rbx), %r9; inc %r10");

// So many blocks that they share slots, which hold the page that the last access begins in.
PROGRAM(shared_slots, "\n.rept 700\n mov 0x100800, %rbx; jmp 1f; 1:\n.endr\n mov 0x100ffd, %rcx");

static const struct program programs[] = {P(shared_slots, 1401),
                                          P(other_base, 3),
                                          P(other_index, 3),
                                          P(pushes, 8, .stack = true),
                                          P(pop_base, 5),
                                          P(add_half, 3, .base = HIGH),
                                          P(string, 5),
                                          P(implicit, 3),
                                          P(constants, 5),
                                          P(range, 4),
                                          P(leave_base, 4),
                                          P(bases, 5),
                                          P(lone, 3),
                                          P(stack, 8),
                                          P(stack, 8, .stack = true),
                                          P(sums, 6),
                                          P(taken_over, 9, .outside = true),
                                          P(taken_over_sums, 6, .outside = true)};

static struct rig *rig_for(const struct program *p)
{
    struct rig *rig = rig_create(RIG_LONG);
    for (unsigned i = 0; i < ARRAY_SIZE(frames); i++)
        rig_write64(rig, RIG_PT + 8 * (PAGES_AT / PAGE_SIZE + i), frames[i] | 3);
    rig_write64(rig, RIG_PML4 + 8 * 256, rig_read64(rig, RIG_PML4));
    rig_write(rig, CODE_AT, p->code, (uint64_t)(p->end - p->code));
    return rig;
}

static void prepare(struct rig *rig, const struct program *p, unsigned at)
{
    struct x86_cpu *cpu = rig->cpu;
    for (unsigned i = 0; i < BACKED; i++)
        for (unsigned k = 0; k < PAGE_SIZE; k += 8)
            rig_write64(rig, frames[i] + k, (frames[i] + k + 1) * UINT64_C(0x9e3779b97f4a7c15));
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i] = UINT64_C(0x123456789abcdef) * (i + 3);
    cpu->gpr[X86_RSI] = cpu->gpr[X86_RBP] = cpu->gpr[X86_RAX] = p->base + PAGES_AT + at;
    cpu->gpr[X86_RDI] = p->outside ? OUTSIDE : OTHER;
    cpu->gpr[X86_RBX] = 0;
    cpu->gpr[X86_RSP] = p->stack ? PAGES_AT + at : RIG_STACK;
    cpu->seg[X86_FS].base = cpu->seg[X86_FS].eff_base = PAGES_AT + at;
    cpu->seg[X86_GS].base = cpu->seg[X86_GS].eff_base = OTHER;
    cpu->kernel_gs_base = PAGES_AT + at;
    cpu->rip = CODE_AT;
    x86_cc_put(cpu, 0);
}

static void compare(struct rig *whole, struct rig *steps, const struct program *p, unsigned at)
{
    for (unsigned i = 0; i < 16; i++)
        if (whole->cpu->gpr[i] != steps->cpu->gpr[i])
            fail_msg("%s at %x: register %u is %llx, not %llx", p->name, at, i,
                     (unsigned long long)whole->cpu->gpr[i],
                     (unsigned long long)steps->cpu->gpr[i]);
    if (whole->cpu->rip != steps->cpu->rip || x86_cc_get(whole->cpu) != x86_cc_get(steps->cpu))
        fail_msg("%s at %x: rip or flags", p->name, at);
    for (unsigned i = 0; i < BACKED; i++)
        for (unsigned k = 0; k < PAGE_SIZE; k += 8)
            if (rig_read64(whole, frames[i] + k) != rig_read64(steps, frames[i] + k))
                fail_msg("%s at %x: memory at %x", p->name, at, (unsigned)frames[i] + k);
}

static void test_programs(void **state)
{
    for (unsigned n = 0; n < ARRAY_SIZE(programs); n++) {
        const struct program *p = &programs[n];
        struct rig *whole = rig_for(p), *steps = rig_for(p);
        // In the middle first and in between: the slots hold the first page.
        for (unsigned i = 0; i < (p->count > 1000 ? 4 : 2 * 96); i++) {
            const unsigned at = i % 2 ? 0xfd0 + i / 2 : 0x800;
            prepare(whole, p, at);
            prepare(steps, p, at);
            assert_int_equal(rig_run(whole, p->count), VM_EXIT_BUDGET);
            for (unsigned k = 0; k < p->count; k++)
                assert_int_equal(rig_run(steps, 1), VM_EXIT_BUDGET);
            assert_int_equal(steps->cpu->rip, CODE_AT + (uint64_t)(p->end - p->code) - 2);
            compare(whole, steps, p, at);
        }
        assert_true(engine_is_interp() || rig_counter(whole, "code_entries") > 10);
        rig_destroy(whole);
        rig_destroy(steps);
    }
}

// Many refills by pages far apart: the places of such a program ask the TLB from then on.
static void scatter(struct rig *rig, const struct program *p)
{
    for (unsigned i = 0; i < 1000; i++) {
        prepare(rig, p, 0x800);
        rig->cpu->gpr[X86_RSI] += i % 2 ? 0x40000 : 0;
        assert_int_equal(rig_run(rig, p->count), VM_EXIT_BUDGET);
    }
    assert_true(engine_is_interp() || rig_counter(rig, "scattered_places") > 0);
}

PROGRAM(store_seen, "mov (%rdi), %rax; mov %rdx, (%rsi)");

static void test_scattered(void **state)
{
    static const struct program all[] = {P(range, 4), P(store_seen, 2)};
    for (unsigned n = 0; n < ARRAY_SIZE(all); n++) {
        const struct program *p = &all[n];
        struct rig *whole = rig_for(p), *steps = rig_for(p);
        scatter(whole, p);
        for (unsigned at = 0xfd0; at < 0x1010; at++) {
            prepare(whole, p, at);
            prepare(steps, p, at);
            assert_int_equal(rig_run(whole, p->count), VM_EXIT_BUDGET);
            for (unsigned k = 0; k < p->count; k++)
                assert_int_equal(rig_run(steps, 1), VM_EXIT_BUDGET);
            compare(whole, steps, p, at);
        }
        rig_destroy(whole);
        rig_destroy(steps);
    }
    // A page that may be read and was.
    struct rig *rig = rig_for(&all[1]);
    rig->cpu->cr0 |= X86_CR0_WP;
    engine_under_test()->set_state(rig->vcpu);
    rig_write64(rig, RIG_PT + 8 * (OTHER / PAGE_SIZE), frames[2] | 1);
    scatter(rig, &all[1]);
    prepare(rig, &all[1], 0);
    rig->cpu->gpr[X86_RSI] = OTHER;
    assert_int_equal(rig_run(rig, all[1].count), VM_EXIT_SHUTDOWN);
    rig_destroy(rig);
}

#define ACROSS(id, jump)                                                              \
    PROGRAM(id, "add %rax, %rcx; " jump " 1f; xor $1, %r9; jmp 1f; .skip 4096; "      \
                "1: adc $7, %rdx; seto %bl; setc %bh; call 2f; 2: pushfq; pop %r12; " \
                "pop %r13; hlt")
ACROSS(across_o, "jo");
ACROSS(across_c, "jc");
ACROSS(across_z, "jz");
ACROSS(across_s, "js");
ACROSS(across_p, "jp");

// Without a budget: flags that live across jumps to another page, and return addresses above 2 GiB.
static void test_across(void **state)
{
    static const struct program all[] = {P(across_o, 0), P(across_c, 0), P(across_z, 0),
                                         P(across_s, 0), P(across_p, 0)};
    static const uint64_t values[] = {
        0, 1, 0x7f, UINT64_MAX, INT64_MAX, UINT64_C(1) << 63, 0x1234567812345678};
    for (unsigned n = 0; n < ARRAY_SIZE(all); n++) {
        const struct program *p = &all[n];
        struct rig *whole = rig_for(p), *steps = rig_for(p);
        rig_write64(whole, RIG_PML4 + 0x1010, rig_read64(whole, RIG_PML4 + 0x1000));
        rig_write64(steps, RIG_PML4 + 0x1010, rig_read64(steps, RIG_PML4 + 0x1000));
        for (unsigned i = 0; i < 3 * ARRAY_SIZE(values) * ARRAY_SIZE(values); i++) {
            struct rig *both[] = {whole, steps};
            for (unsigned k = 0; k < 2; k++) {
                struct x86_cpu *cpu = both[k]->cpu;
                prepare(both[k], p, 0);
                cpu->activity = X86_ACTIVE;
                cpu->gpr[X86_RAX] = values[i % ARRAY_SIZE(values)];
                cpu->gpr[X86_RCX] = values[i / ARRAY_SIZE(values) % ARRAY_SIZE(values)];
                cpu->rip = UINT64_C(0x80000000) + CODE_AT;
            }
            assert_int_equal(rig_run(whole, 0), VM_EXIT_HALT);
            while (rig_run(steps, 1) == VM_EXIT_BUDGET && steps->cpu->activity == X86_ACTIVE)
                ;
            compare(whole, steps, p, i);
            // A lone branch is a block, too, so the steps do not tell.
            assert_int_equal(whole->cpu->gpr[X86_R13] >> 31, 1); // the return address
        }
        rig_destroy(whole);
        rig_destroy(steps);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_programs),
                                       cmocka_unit_test(test_scattered),
                                       cmocka_unit_test(test_across)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
