// SPDX-License-Identifier: Apache-2.0
// Random descriptor tables, gates, stacks and TSSs under random transfers. Whatever the guest does:
//  - an operation that raises has changed no register (task switches past their commit excepted);
//  - derived state equals what x86_mode_changed() computes from scratch;
//  - faults end in delivery or shutdown within a few steps.
// Seeded, so that a failure can be repeated: test_system_fuzz [seed [rounds]].
#include "system_fixture.h"

#include <stdio.h>

static uint64_t rng_state;

static uint64_t rnd(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state * UINT64_C(0x2545f4914f6cdd1d);
}
static bool one_in(unsigned n)
{
    return rnd() >> 33 % 64 != 0 && (rnd() >> 20) % n == 0;
}

// A selector that is often good.
static uint16_t random_sel(void)
{
    uint64_t r = rnd() >> 13;
    if (one_in(12))
        return (uint16_t)r;
    if (one_in(8)) // tasks
        return one_in(2) ? SEL_TASKGATE | 3 : SEL_TSS2;
    return (uint16_t)((r % 0x20) * 8 + (r >> 8) % 4 + (one_in(8) ? 4 : 0));
}

static uint64_t random_address(bool lng)
{
    static const uint64_t odd[] = {0,
                                   1,
                                   0xffff,
                                   0x10000,
                                   0xfffffffe,
                                   0x7ffffffffff8,
                                   0x800000000000,
                                   0xffff800000000000,
                                   0x900000000000,
                                   ~0ull};
    uint64_t r = rnd() >> 11;
    uint64_t a = one_in(10) ? odd[r % ARRAY_SIZE(odd)] : 0x20000 + r % 0x40000;
    return lng ? a : (uint32_t)a;
}

static void corrupt(struct fix *f, bool lng)
{
    unsigned n = rnd() >> 40 & 7;
    for (unsigned i = 0; i < n; i++) {
        uint64_t r = rnd();
        switch (r >> 60) {
        case 0:
        case 1:
        case 2:
        case 3: // a byte of a descriptor's rights
            put(f, GDT + (r >> 8 & 0xf8) + 5, r >> 20, 1);
            break;
        case 4: // gate in the GDT
            put_gate(f, GDT + (r >> 8 & 0xf8), random_sel(), random_address(lng),
                     (uint32_t)(r >> 24 & 0xff), r >> 32 & 31, lng && (r >> 8 & 0xf8) < 0xf8);
            break;
        case 5:
        case 6:
        case 7: // IDT
            put_gate(f, IDT + (r >> 8 & 0x1f) * (lng ? 16 : 8), random_sel(), random_address(lng),
                     one_in(3) ? (uint32_t)(r >> 24 & 0xff) : (uint32_t)(0x84 | (r >> 24 & 0x6b)),
                     r >> 32 & 7, lng);
            break;
        case 8:
        case 9: // TSS
            put(f, TSS + (r >> 8 & 0x7c), random_address(lng), 4);
            break;
        case 10:
            put(f, TSS + (r >> 8 & 0x7c), random_sel(), 2);
            break;
        case 11:
            put(f, TSS2 + (r >> 8 & 0x7c), one_in(2) ? random_sel() : random_address(false), 4);
            break;
        case 12: // granularity, L, D
            put(f, GDT + (r >> 8 & 0xf8) + 6, r >> 20, 1);
            break;
        case 13: // LDT
            put(f, LDT + (r >> 8 & 0xf8), rnd(), 8);
            break;
        default:
            f->cpu.tr.limit = r >> 8 & 1 ? 0x7ff : r >> 12 & 0x7f;
            break;
        }
    }
}

// Values that a return might pop.
static void random_stack(struct fix *f, unsigned slot)
{
    struct x86_cpu *cpu = &f->cpu;
    uint64_t sp = 0x20000 + (rnd() >> 20) % 0x40000;
    bool lng = slot == 8;
    cpu->gpr[X86_RSP] = one_in(20) ? random_address(lng) : sp;
    const uint64_t v[9] = {random_address(lng), random_sel(), one_in(2) ? rnd() & 0x3f7fd7 : 0x202,
                           random_address(lng), random_sel(), random_sel(),
                           random_sel(),        random_sel(), random_sel()};
    for (unsigned i = 0; i < 9; i++)
        put(f, sp + i * slot, v[i], slot);
}

static void operate(struct fix *f, unsigned op, bool lng)
{
    struct x86_cpu *cpu = &f->cpu;
    uint64_t r = rnd();
    unsigned opsize = r & 1 ? 4 : lng && (r & 2) ? 8 : 2;
    static const uint8_t segs[] = {X86_ES, X86_SS, X86_DS, X86_FS, X86_GS};
    uint32_t value;
    switch (op) {
    case 0:
        x86_load_seg(cpu, segs[(r >> 8) % 5], random_sel());
        break;
    case 1:
        x86_far_jmp(cpu, random_sel(), random_address(lng), opsize);
        break;
    case 2:
        x86_far_call(cpu, random_sel(), random_address(lng), opsize);
        break;
    case 3:
        x86_far_ret(cpu, opsize, r >> 8 & 1 ? r >> 16 & 0x1f : 0);
        break;
    case 4:
    case 5:
        x86_iret(cpu, opsize);
        break;
    case 6:
        x86_int(cpu, r >> 8 & 0x1f, X86_DELIVER_SOFT_INT);
        break;
    case 7:
        x86_deliver(cpu, r >> 9 & 1 ? X86_DELIVER_EXTERNAL : X86_DELIVER_NMI, r >> 10 & 0x1f, false,
                    0);
        break;
    case 8:
        x86_raise_error(cpu, X86_GP, 0x1234);
    case 9:
        x86_raise_pf(cpu, r, 2);
    case 10:
        x86_syscall(cpu);
        break;
    case 11:
        x86_sysret(cpu, r & 4 ? 8 : 4);
        break;
    case 12:
        x86_sysenter(cpu);
        break;
    case 13:
        x86_sysexit(cpu, lng && (r & 4) ? 8 : 4);
        break;
    case 14:
        x86_popf(cpu, rnd(), opsize);
        break;
    case 15:
        x86_lar(cpu, random_sel(), &value);
        x86_lsl(cpu, random_sel(), &value);
        x86_verify(cpu, random_sel(), r & 8);
        break;
    case 16:
        x86_lldt(cpu, random_sel());
        break;
    case 17:
        x86_check_io(cpu, (uint16_t)(r >> 16), 1u << (r >> 9 & 1));
        break;
    case 18:
        x86_branch(cpu, random_address(lng), opsize);
        break;
    default:
        if (r & 0x100)
            x86_sti(cpu);
        else
            x86_cli(cpu);
        break;
    }
}

static void check_derived(struct fix *f)
{
    struct x86_cpu *cpu = &f->cpu;
    static struct x86_cpu was;
    was = *cpu;
    struct x86_tlb_entry *cur = cpu->tlb->cur;
    x86_mode_changed(cpu);
    assert_int_equal(was.code_size, cpu->code_size);
    assert_int_equal(was.stack_size, cpu->stack_size);
    assert_int_equal(was.lin_mask, cpu->lin_mask);
    assert_int_equal(was.cpl, cpu->cpl);
    assert_memory_equal(was.seg, cpu->seg, sizeof(was.seg));
    assert_ptr_equal(cur, cpu->tlb->cur);
    assert_int_equal(cpu->rflags & X86_FLAGS_ARITH, 0);
    assert_true(cpu->cpl <= 3);
    if (cpu->long_mode)
        assert_false(cpu->rflags & X86_FLAG_VM);
    if (cpu->code_size != X86_CODE64)
        assert_int_equal(cpu->rip >> 32, 0);
}

static void start(struct fix *f, bool lng)
{
    struct x86_cpu *cpu = &f->cpu;
    static const uint8_t zero[LDT + 0x1000 - GDT];
    assert_true(memory_write(f->memory, GDT, zero, sizeof(zero)));
    x86_reset(cpu, false);
    if (lng) {
        fix_long(f);
    } else {
        fix_protected(f);
        // a task to switch to that mostly works
        put(f, TSS2 + 0x1c, 0, 4);
        put(f, TSS2 + 0x20, CODE, 4);
        put(f, TSS2 + 0x24, one_in(4) ? X86_FLAG_VM | 2 : 2, 4);
        put(f, TSS2 + 0x38, STACK3, 4);
        bool user = one_in(2);
        put(f, TSS2 + 0x4c, user ? SEL_CODE3 | 3 : SEL_CODE0, 4);
        put(f, TSS2 + 0x50, user ? SEL_DATA3 | 3 : SEL_DATA0, 4);
    }
    for (unsigned v = 0; v < 32; v++) {
        uint32_t access = one_in(3) ? 0xee : 0x8e;
        if (lng)
            LONG_GATE(f, v, SEL_CODE64_0, access, one_in(6) ? 1 : 0);
        else
            PROT_GATE(f, v, one_in(8) ? SEL_CONF0 : SEL_CODE0, access);
        if (!lng && one_in(8)) // task gate
            put_gate(f, IDT + v * 8, SEL_TSS2, 0, 0xe5, 0, false);
    }
    put(f, TSS + 0x24, STACK0, 8);
    put(f, TSS + 102, 0x88, 2);
    cpu->star = (uint64_t)SEL_CODE3 << 48 | (uint64_t)SEL_CODE64_0 << 32 | CODE;
    cpu->lstar = cpu->cstar = CODE;
    cpu->sysenter_cs = SEL_CODE0;
    cpu->efer |= one_in(4) ? 0 : X86_EFER_SCE;
    cpu->cr4 |= one_in(2) ? X86_CR4_VME | X86_CR4_PVI : 0;
    if (lng && one_in(2)) {
        cpu->cr4 |= X86_CR4_SMAP;
        cpu->rflags |= one_in(2) ? X86_FLAG_AC : 0;
    }
    cpu->cr0 |= one_in(4) ? X86_CR0_AM : 0;
    if (lng) // some pages supervisor, read-only or absent
        for (unsigned i = 0x20; i < 0x60; i++)
            put(f, PT + i * 8, (uint64_t)i << 12 | (one_in(6) ? rnd() >> 40 & 7 : 7), 8);
    x86_tlb_flush_all(cpu);
    if (one_in(2))
        fix_level(f, 3, lng && one_in(2) ? SEL_CODE64_3 : SEL_CODE3, SEL_DATA3);
    else
        x86_mode_changed(cpu);
    cpu->rflags |= one_in(3) ? X86_FLAG_IOPL : 0;
}

static unsigned long rounds = 60000;

static void test_fuzz(void **state)
{
    struct fix *f = *state;
    struct x86_cpu *cpu = &f->cpu;
    static struct x86_cpu before;
    // static: they change between setjmp and longjmp
    static unsigned tries, step;
    static bool lng;
    static unsigned long i;
    static unsigned long done, faults, deliveries, shutdowns, switches;
    for (i = 0; i < rounds; i++) {
        lng = one_in(2);
        f->model.vendor = one_in(2) ? X86_VENDOR_AMD : X86_VENDOR_INTEL;
        memset(cpu->gpr, 0, sizeof(cpu->gpr));
        start(f, lng);
        for (step = 0; step < 8 && cpu->activity == X86_ACTIVE; step++) {
            corrupt(f, lng);
            random_stack(f, lng ? 8 : 4);
            cpu->insn_rip = cpu->rip;
            cpu->cr0 &= ~(uint64_t)X86_CR0_TS; // a task switch sets it
            before = *cpu;
            if (setjmp(cpu->unwind) == 0) {
                operate(f, (rnd() >> 17) % 20, lng);
                done++;
                switches += (cpu->cr0 & X86_CR0_TS) != 0;
                check_derived(f);
                continue;
            }
            faults++;
            for (tries = 0;; tries++) {
                assert_true(tries < 12);
                check_derived(f);
                bool switched = cpu->cr0 & X86_CR0_TS;
                const uint64_t virtual_intr = X86_FLAG_VIF | X86_FLAG_VIP; // faults after IRET
                bool after = (cpu->rflags & virtual_intr) == virtual_intr;
                if (!switched && !after && before.insn_rip == cpu->insn_rip) {
                    assert_memory_equal(before.gpr, cpu->gpr, sizeof(before.gpr));
                    assert_memory_equal(before.seg, cpu->seg, sizeof(before.seg));
                    assert_int_equal(before.cc_res, cpu->cc_res);
                    assert_int_equal((before.rflags ^ cpu->rflags) & ~(uint64_t)X86_FLAG_RF, 0);
                    assert_int_equal(before.cpl, cpu->cpl);
                }
                if (setjmp(cpu->unwind) == 0) {
                    if (x86_fault_pending(cpu))
                        deliveries++;
                    else
                        shutdowns++;
                    check_derived(f);
                    break;
                }
            }
        }
    }
    print_message("%lu done, %lu raised, %lu delivered, %lu shut down, %lu task switches\n", done,
                  faults, deliveries, shutdowns, switches);
    assert_true(switches > 0 || rounds < 10000);
}

int main(int argc, char **argv)
{
    rng_state = argc > 1 ? strtoull(argv[1], NULL, 0) : 0x1234567;
    rng_state |= 1;
    if (argc > 2)
        rounds = strtoul(argv[2], NULL, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fuzz, fix_setup, fix_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
