// SPDX-License-Identifier: Apache-2.0
// The interpreter's core on small programs: modes, self-modifying code, page borders, precise faults,
// single steps, exact budgets, interrupt shadow. What single instructions compute is the oracle's affair.
#include "../engine_under_test.h"
#include "engine/interp/block.h"
#include "rig.h"
#include "x86/decode.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    SUM,
    SMC_NEXT,
    SMC_LOOP,
    STRINGS,
    CALLS
};
enum {
    STEPPED,
    AFTER_STI,
    REP_COPY,
    DIVIDE,
    LOCK_OPS,
    SPIN,
    CODE_FAR,
    FAULT_PAGE,
    IO_LOOP,
    BREAKPOINTS,
    DB_HANDLER,
    PF_HANDLER,
    DE_HANDLER,
    IRQ_HANDLER
};
static const char *const images[] = {"any16.bin", "any32.bin", "any64.bin"};

static struct rig *long_rig(void)
{
    struct rig *rig = rig_create(RIG_LONG);
    rig_load(rig, "long.bin");
    rig_gate(rig, X86_DB, rig_entry(rig, DB_HANDLER));
    rig_gate(rig, X86_PF, rig_entry(rig, PF_HANDLER));
    rig_gate(rig, X86_DE, rig_entry(rig, DE_HANDLER));
    rig_gate(rig, 0x40, rig_entry(rig, IRQ_HANDLER));
    return rig;
}

// An engine keeps icount exact where there is a budget.
#define COUNTED 1000000000

static void run_anymode(enum rig_mode mode, unsigned entry, uint64_t budget, struct x86_cpu *out)
{
    struct rig *rig = rig_create(mode);
    rig_load(rig, images[mode]);
    rig_start(rig, entry);
    assert_int_equal(rig_run(rig, budget), VM_EXIT_HALT);
    *out = *rig->cpu;
    rig_destroy(rig);
}

static void test_modes(void **state)
{
    for (unsigned i = 0; i < 2 * (RIG_LONG + 1); i++) {
        enum rig_mode mode = i / 2;
        uint64_t budget = i % 2 ? COUNTED : 0;
        struct x86_cpu cpu;
        run_anymode(mode, SUM, budget, &cpu);
        assert_int_equal(cpu.gpr[X86_RAX], 333833500);
        assert_int_equal(cpu.gpr[X86_RCX], 0);
        if (budget)
            assert_int_equal(cpu.icount, 2 + 5 * 1000 + 1);
        run_anymode(mode, STRINGS, budget, &cpu);
        assert_int_equal((uint32_t)cpu.gpr[X86_RAX], 0x5a5a5a5a);
        assert_int_equal((uint16_t)cpu.gpr[X86_RCX], 99);
        run_anymode(mode, CALLS, budget, &cpu);
        assert_int_equal(cpu.gpr[X86_RAX], 610);
        assert_int_equal(cpu.gpr[X86_RSP], RIG_STACK);
    }
}

static void test_self_modifying(void **state)
{
    for (enum rig_mode mode = RIG_REAL; mode <= RIG_LONG; mode++) {
        struct x86_cpu cpu;
        run_anymode(mode, SMC_NEXT, 0, &cpu);
        assert_int_equal((uint8_t)cpu.gpr[X86_RAX], 0x42);
        run_anymode(mode, SMC_LOOP, 0, &cpu);
        assert_int_equal(cpu.gpr[X86_RBX], 5050);
    }
}

// Any split of a run into budgets gives the same end.
static void test_budget(void **state)
{
    static const unsigned entries[] = {SUM, SMC_LOOP, STRINGS, CALLS};
    for (unsigned e = 0; e < ARRAY_SIZE(entries); e++) {
        struct x86_cpu whole;
        run_anymode(RIG_LONG, entries[e], COUNTED, &whole);
        for (unsigned budget = 1; budget < 60; budget += 7) {
            struct rig *rig = rig_create(RIG_LONG);
            uint64_t done = 0;
            enum vm_exit_reason reason;
            rig_load(rig, "any64.bin");
            rig_start(rig, entries[e]);
            while ((reason = rig_run(rig, budget)) == VM_EXIT_BUDGET) {
                done += budget;
                assert_int_equal(rig->cpu->icount, done);
            }
            assert_int_equal(reason, VM_EXIT_HALT);
            assert_int_equal(rig->cpu->icount, whole.icount);
            assert_memory_equal(rig->cpu->gpr, whole.gpr, sizeof(whole.gpr));
            assert_int_equal(rig->cpu->rip, whole.rip);
            assert_int_equal(x86_get_rflags(rig->cpu), x86_get_rflags(&whole));
            rig_destroy(rig);
        }
    }
}

static void test_single_step(void **state)
{
    struct rig *rig = long_rig();
    rig_start(rig, STEPPED);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    // nop, 2 mov, 2 lea, 3 rep movsb, pushf, and, popf
    assert_int_equal(rig->cpu->gpr[X86_R15], 11);
    assert_int_equal(rig->cpu->gpr[X86_R14], rig->cpu->rip - 2);
    assert_int_equal(rig->cpu->dr6 & 0x4000, 0x4000);
    rig_destroy(rig);
}

static void test_sti_shadow(void **state)
{
    struct rig *rig = long_rig();
    rig_start(rig, AFTER_STI);
    rig->pending_vector = 0x40;
    engine_under_test()->signal(rig->vcpu, X86_EVENT_INTR);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_R15], 1);
    // cli 1, mov 5, sti 1, mov 5: behind the second mov
    assert_int_equal(rig->cpu->gpr[X86_R14], rig_entry(rig, AFTER_STI) + 12);
    rig_destroy(rig);
}

static void test_rep_fault(void **state)
{
    struct rig *rig = long_rig();
    uint64_t entry = RIG_PT + 0x61 * 8;
    uint8_t data[0x1800];
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7);
    rig_write(rig, 0x50010, data, sizeof(data));
    rig_write64(rig, entry, 0x61000); // not present
    rig->cpu->gpr[X86_RSI] = 0x50010;
    rig->cpu->gpr[X86_RDI] = 0x60ff0;
    rig->cpu->gpr[X86_RCX] = sizeof(data);
    rig->cpu->gpr[X86_R11] = entry;
    rig_start(rig, REP_COPY);
    assert_int_equal(rig_run(rig, 2), VM_EXIT_BUDGET); // xor, then the handler's first
    assert_int_equal(rig->cpu->gpr[X86_R15], 1);
    assert_int_equal(rig->cpu->cr2, 0x61000);
    assert_int_equal(rig->cpu->gpr[X86_RCX], sizeof(data) - 0x10);
    assert_int_equal(rig->cpu->gpr[X86_RDI], 0x61000);
    assert_int_equal(rig->cpu->gpr[X86_RSI], 0x50020);
    assert_int_equal(rig_read64(rig, rig->cpu->gpr[X86_RSP] + 8), rig_entry(rig, REP_COPY) + 3);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_R15], 1);
    assert_int_equal(rig->cpu->gpr[X86_R13], 2); // a write to a page that is not there
    for (unsigned i = 0; i + 8 <= sizeof(data); i += 8) {
        uint64_t expected;
        memcpy(&expected, data + i, 8);
        assert_int_equal(rig_read64(rig, 0x60ff0 + i), expected);
    }
    rig_destroy(rig);
}

static void test_faults(void **state)
{
    struct rig *rig = long_rig();
    rig_start(rig, DIVIDE);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_R15], 1);
    assert_int_equal(rig->cpu->gpr[X86_RAX], 5);
    rig->cpu->gpr[X86_R8] = UINT64_C(0x40000000);
    rig->cpu->gpr[X86_R11] = 0;
    rig_start(rig, FAULT_PAGE);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_R15], 1);
    assert_int_equal(rig->cpu->gpr[X86_R10], 0x40000000);
    assert_int_equal(rig->cpu->gpr[X86_RAX], 0x1234);
    rig_destroy(rig);
}

static void test_lock(void **state)
{
    struct rig *rig = long_rig();
    rig_start(rig, LOCK_OPS);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_R8] & 0xff, 1);
    assert_int_equal(rig->cpu->gpr[X86_RAX], 7);
    assert_int_equal(rig->cpu->gpr[X86_RDX], 9);
    rig_destroy(rig);
}

static void test_ports(void **state)
{
    struct rig *rig = long_rig();
    rig_start(rig, IO_LOOP);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_RBX], 55);
    assert_int_equal(rig->port_writes, 10);
    assert_int_equal(rig->port_value, 10);
    rig_destroy(rig);
}

static void *kicker(void *opaque)
{
    struct rig *rig = opaque;
    usleep(20000);
    engine_under_test()->kick(rig->vcpu);
    return NULL;
}
static void test_kick(void **state)
{
    struct rig *rig = long_rig();
    pthread_t thread;
    rig_start(rig, SPIN);
    engine_under_test()->kick(rig->vcpu); // stays pending until run()
    assert_int_equal(rig_run(rig, 0), VM_EXIT_KICK);
    assert_int_equal(rig->cpu->icount, 0);
    assert_int_equal(pthread_create(&thread, NULL, kicker, rig), 0);
    assert_int_equal(rig_run(rig, UINT64_C(1) << 60), VM_EXIT_KICK);
    pthread_join(thread, NULL);
    assert_true(rig->cpu->icount > 1000);
    rig_destroy(rig);
}

// Code across a page border: the second half remapped, rewritten, taken away.
static void test_page_border(void **state)
{
    struct rig *rig = long_rig();
    static const uint8_t code[] = {0xb8, 0x11, 0x22, 0x33, 0x44, 0xc3}; // mov eax, 44332211h; ret
    rig_write(rig, 0x20ffd, code, sizeof(code));
    rig_write(rig, 0x31000, "\x77\x88\xc3", 3); // another second half
    rig->cpu->gpr[X86_R8] = 0x20ffd;
    rig->cpu->gpr[X86_R9] = 100;
    rig_start(rig, CODE_FAR);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_RAX], 0x44332211);
    if (engine_is_interp())
        assert_true(rig_counter(rig, "blocks_decoded") < 20);

    rig_write(rig, 0x21000, "\x55", 1); // a device writes to the second half
    rig_start(rig, CODE_FAR);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_RAX], 0x44552211);

    rig_write64(rig, RIG_PT + 0x21 * 8, 0x31007); // mapped elsewhere
    x86_tlb_flush_page(rig->cpu, 0x21000);
    rig_start(rig, CODE_FAR);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_RAX], 0x88772211);

    rig_write64(rig, RIG_PT + 0x21 * 8, 0); // and gone: a fetch fault at its first byte
    x86_tlb_flush_page(rig->cpu, 0x21000);
    rig->cpu->gpr[X86_R15] = 0;
    rig->cpu->gpr[X86_R11] = 0;
    rig_start(rig, CODE_FAR);
    assert_int_equal(rig_run(rig, 3), VM_EXIT_BUDGET); // xor, call, the handler's first
    assert_int_equal(rig->cpu->gpr[X86_R15], 1);
    assert_int_equal(rig->cpu->cr2, 0x21000);
    rig_destroy(rig);
}

// One page of code mapped at two addresses: RIP-relative operands follow the address.
static void test_aliases(void **state)
{
    struct rig *rig = long_rig();
    static const uint8_t code[] = {0x48, 0x8d, 0x05, 0x00,
                                   0x00, 0x00, 0x00, 0xc3}; // lea rax, [rip]; ret
    rig_write(rig, 0x22000, code, sizeof(code));
    rig_write64(rig, RIG_PT + 0x23 * 8, 0x22007);
    rig->cpu->gpr[X86_R9] = 2;
    rig->cpu->gpr[X86_R8] = 0x22000;
    rig_start(rig, CODE_FAR);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_RAX], 0x22007);
    rig->cpu->gpr[X86_R8] = 0x23000;
    rig_start(rig, CODE_FAR);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_RAX], 0x23007);
    // A write through one address reaches the other.
    rig_write(rig, 0x22000, "\xb8\x05\x00\x00\x00\xc3", 6);
    rig_start(rig, CODE_FAR);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_RAX], 5);
    rig_destroy(rig);
}

static void test_shutdown(void **state)
{
    struct rig *rig = long_rig();
    rig->cpu->idtr.limit = 0;
    rig_start(rig, DIVIDE);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_SHUTDOWN);
    assert_int_equal(rig->cpu->activity, X86_SHUTDOWN);
    rig_destroy(rig);
}

static void test_breakpoints(void **state)
{
    struct rig *rig = long_rig();
    rig_start(rig, BREAKPOINTS);
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gpr[X86_R15], 6); // three of each
    rig_destroy(rig);
}

// Another thread rewrites an instruction that the processor executes all the time.
static void *runner(void *opaque)
{
    rig_run(opaque, 0);
    return NULL;
}
static void test_remote_code(void **state)
{
    struct rig *rig = long_rig();
    // mov eax, imm32; mov [0x50000], eax; ret
    static const uint8_t code[] = {0xb8, 0,    0,    0,    0,    0x89, 0x04,
                                   0x25, 0x00, 0x00, 0x05, 0x00, 0xc3};
    pthread_t thread;
    rig_write(rig, 0x24000, code, sizeof(code));
    rig->cpu->gpr[X86_R8] = 0x24000;
    rig->cpu->gpr[X86_R9] = UINT32_MAX;
    rig_start(rig, CODE_FAR);
    assert_int_equal(pthread_create(&thread, NULL, runner, rig), 0);
    for (uint32_t i = 1; i <= 200; i++) {
        unsigned waited = 0;
        rig_write(rig, 0x24001, &i, 4);
        while ((uint32_t)rig_read64(rig, 0x50000) != i && waited++ < 50000)
            usleep(100);
        assert_int_equal((uint32_t)rig_read64(rig, 0x50000), i);
    }
    engine_under_test()->kick(rig->vcpu);
    pthread_join(thread, NULL);
    rig_destroy(rig);
}

// Real mode: code that runs past the segment's limit is #GP, whose vector we point at HLT.
static void test_real_limit(void **state)
{
    struct rig *rig = rig_create(RIG_REAL);
    static const uint8_t nops[4] = {0x90, 0x90, 0x90, 0x90};
    uint32_t vector = 0x3000;
    rig_write(rig, 0xfffc, nops, 4);
    rig_write(rig, 0x3000, "\xf4", 1);
    rig_write(rig, X86_GP * 4, &vector, 4);
    rig->cpu->rip = 0xfffc;
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->rip, 0x3001);
    if (engine_is_interp())
        assert_int_equal(rig->cpu->icount, 5);
    rig_destroy(rig);
}

// --- every row of the table has a function -------------------------------------------------------------------

static unsigned encode_legacy(const struct x86_form *form, uint8_t modrm, uint8_t *out)
{
    unsigned n = 0;
    if (form->prefix == 0x66 || form->prefix == 0xf3 || form->prefix == 0xf2)
        out[n++] = form->prefix;
    if (form->w == 1)
        out[n++] = 0x48;
    if (form->map != X86_MAP_1)
        out[n++] = 0x0f;
    if (form->map == X86_MAP_0F38)
        out[n++] = 0x38;
    if (form->map == X86_MAP_0F3A)
        out[n++] = 0x3a;
    out[n++] = form->opcode;
    out[n++] = modrm;
    return n;
}
static unsigned encode_vex(const struct x86_form *form, uint8_t modrm, bool l, bool w, uint8_t vvvv,
                           uint8_t *out)
{
    unsigned pp = form->prefix == 0x66   ? 1
                  : form->prefix == 0xf3 ? 2
                  : form->prefix == 0xf2 ? 3
                                         : 0;
    out[0] = 0xc4;
    out[1] = (uint8_t)(0xe0 | form->map);
    out[2] = (uint8_t)(w << 7 | vvvv << 3 | l << 2 | pp);
    out[3] = form->opcode;
    out[4] = modrm;
    return 5;
}
static void test_every_form(void **state)
{
    static bool seen[X86_FORM_COUNT];
    unsigned missing = 0, unseen = 0;
    for (unsigned id = 0; id < X86_FORM_COUNT; id++) {
        const struct x86_form *form = &x86_forms[id];
        for (unsigned modrm = 0; modrm < 256; modrm++) {
            for (unsigned variant = 0; variant < 24; variant++) {
                uint8_t bytes[32] = {0};
                struct x86_insn insn;
                unsigned n = 0;
                if (form->attr & X86_INSN_VEX) {
                    encode_vex(form, (uint8_t)modrm, variant & 1, variant & 2,
                               variant & 4 ? 0xf : 0xd, bytes);
                } else {
                    if (variant & 1)
                        bytes[n++] = 0x66;
                    encode_legacy(form, (uint8_t)modrm, bytes + n);
                }
                // a SIB byte with three different registers, as gathers want
                bytes[(form->attr & X86_INSN_VEX ? 5 : n + 4)] |= 0x18;
                if (x86_decode(&insn, bytes, 20, variant & 8 ? X86_CODE32 : X86_CODE64, NULL) !=
                    X86_DECODE_OK)
                    continue;
                if (!seen[insn.form] && !interp_form_implemented(&insn)) {
                    print_message("no function: %s\n", x86_insn_form(&insn)->name);
                    missing++;
                }
                seen[insn.form] = true;
            }
        }
    }
    for (unsigned id = 0; id < X86_FORM_COUNT; id++) {
        if (!seen[id]) {
            print_message("not reached: %s\n", x86_forms[id].name);
            unseen++;
        }
    }
    assert_int_equal(missing, 0);
    assert_true(unseen < 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_modes),       cmocka_unit_test(test_self_modifying),
        cmocka_unit_test(test_budget),      cmocka_unit_test(test_single_step),
        cmocka_unit_test(test_sti_shadow),  cmocka_unit_test(test_rep_fault),
        cmocka_unit_test(test_faults),      cmocka_unit_test(test_lock),
        cmocka_unit_test(test_ports),       cmocka_unit_test(test_kick),
        cmocka_unit_test(test_page_border), cmocka_unit_test(test_aliases),
        cmocka_unit_test(test_shutdown),    cmocka_unit_test(test_real_limit),
        cmocka_unit_test(test_every_form),  cmocka_unit_test(test_breakpoints),
        cmocka_unit_test(test_remote_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
