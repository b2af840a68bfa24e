// SPDX-License-Identifier: Apache-2.0
// The interpreter at its edges, on a few bytes of code each: shadows, exact addresses of faults, string
// instructions that are stopped, stores to code that lies across a border, privilege within a ring. What
// seeded faults showed to be untested elsewhere (docs/seeded-faults.md).
#include "../engine_under_test.h"
#include "rig.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CODE 0x5000
#define HANDLER(v) (0x7000u + (v)*16) // a HLT for each vector
#define NOWHERE UINT64_C(0xe00000)    // linear, not mapped: the last 2 MiB

// Puts code at CODE, a HLT behind it, and rip there.
#define RUN(rig, ...) \
    run_at(rig, CODE, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
static void place(struct rig *rig, uint64_t at, const uint8_t *bytes, size_t size)
{
    static const uint8_t hlt = 0xf4;
    rig_write(rig, at, bytes, size);
    rig_write(rig, at + size, &hlt, 1);
}
static enum vm_exit_reason run_at(struct rig *rig, uint64_t at, const uint8_t *bytes, size_t size)
{
    place(rig, at, bytes, size);
    rig->cpu->rip = at;
    rig->cpu->activity = X86_ACTIVE;
    return rig_run(rig, 10000);
}

// Handlers that halt: the vector taken is told by rip.
static struct rig *rig_with_handlers(enum rig_mode mode)
{
    struct rig *rig = rig_create(mode);
    for (unsigned v = 0; v < 0x48; v++) {
        place(rig, HANDLER(v), NULL, 0);
        if (mode == RIG_LONG)
            rig_gate(rig, v, HANDLER(v));
        else
            rig_write(rig, v * 4, &(uint32_t){HANDLER(v)}, 4);
    }
    if (mode == RIG_LONG)
        rig_write64(rig, RIG_PML4 + 0x2000 + 7 * 8, 0);
    return rig;
}
static unsigned vector_taken(const struct rig *rig)
{
    return (unsigned)(rig->cpu->rip - 1 - HANDLER(0)) / 16;
}

// What a 64-bit handler found on its stack, slot 0 on top.
static uint64_t frame(struct rig *rig, unsigned slot)
{
    return rig_read64(rig, rig->cpu->gpr[X86_RSP] + slot * 8);
}

// --- shadows and traps ---------------------------------------------------------------------------

static void test_stack_shadow(void **state)
{
    static const uint8_t loads[][4] = {
        {0x8e, 0xd0, 0x90, 0x90}, // mov ss, ax; nop; nop
        {0x17, 0x90, 0x90, 0x90}, // pop ss; nop...
    };
    for (unsigned i = 0; i < 2; i++) {
        struct rig *rig = rig_with_handlers(RIG_REAL);
        unsigned length = i == 0 ? 2 : 1;
        rig->cpu->rflags |= X86_FLAG_TF;
        assert_int_equal(run_at(rig, CODE, loads[i], 4), VM_EXIT_HALT);
        assert_int_equal(vector_taken(rig), X86_DB);
        // behind the instruction that follows
        uint16_t ip = (uint16_t)rig_read64(rig, rig->cpu->gpr[X86_RSP] & 0xffff);
        assert_int_equal(ip, CODE + length + 1);
        rig_destroy(rig);
        // an interrupt waits too
        rig = rig_with_handlers(RIG_REAL);
        rig->cpu->rflags &= ~(uint64_t)X86_FLAG_IF;
        uint8_t code[] = {0xfb, 0x90, 0x90, 0x90, 0x90}; // sti; the load; nop
        memcpy(code + 1, loads[i], 4);
        rig->pending_vector = 0x40;
        engine_under_test()->signal(rig->vcpu, X86_EVENT_INTR);
        assert_int_equal(run_at(rig, CODE, code, sizeof(code)), VM_EXIT_HALT);
        assert_int_equal(vector_taken(rig), 0x40);
        ip = (uint16_t)rig_read64(rig, rig->cpu->gpr[X86_RSP] & 0xffff);
        assert_int_equal(ip, CODE + 1 + length + 1);
        rig_destroy(rig);
    }
}

// The shadow lasts for one instruction: an interrupt wakes a processor that halted later.
static void test_shadow_ends(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_REAL);
    rig->cpu->rflags |= X86_FLAG_IF;
    assert_int_equal(RUN(rig, 0x8e, 0xd0, 0x90), VM_EXIT_HALT); // mov ss, ax; nop; hlt
    assert_int_equal(rig->cpu->shadow, 0);
    rig->pending_vector = 0x40;
    engine_under_test()->signal(rig->vcpu, X86_EVENT_INTR);
    assert_int_equal(rig_run(rig, 100), VM_EXIT_HALT);
    assert_int_equal(vector_taken(rig), 0x40);
    rig_destroy(rig);
}

// RF spares one instruction: a breakpoint on it does not fire, one on the next does.
static void test_resume_flag(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    rig->cpu->dr[0] = CODE;
    rig->cpu->dr[1] = CODE + 1;
    rig->cpu->dr7 = 0x405;
    rig->cpu->rflags |= X86_FLAG_RF;
    assert_int_equal(RUN(rig, 0x90, 0x90, 0x90), VM_EXIT_HALT);
    assert_int_equal(vector_taken(rig), X86_DB);
    assert_int_equal(frame(rig, 0), CODE + 1);
    assert_int_equal(rig->cpu->dr6 & 15, 2);
    rig_destroy(rig);
    // without breakpoints it is gone behind the instruction as well
    rig = rig_with_handlers(RIG_LONG);
    rig->cpu->rflags |= X86_FLAG_RF;
    assert_int_equal(RUN(rig, 0x90, 0xcc), VM_EXIT_HALT); // nop; int3
    assert_int_equal(vector_taken(rig), X86_BP);
    assert_int_equal(frame(rig, 2) & X86_FLAG_RF, 0);
    rig_destroy(rig);
}

// Breakpoints are linear addresses.
static void test_breakpoint_base(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_REAL);
    rig->cpu->seg[X86_CS].sel = 0x100;
    rig->cpu->seg[X86_CS].base = 0x1000;
    x86_seg_changed(rig->cpu, X86_CS);
    place(rig, CODE, (const uint8_t[]){0x90, 0x90, 0x90}, 3);
    rig->cpu->rip = CODE - 0x1000;
    rig->cpu->dr[0] = CODE + 1;
    rig->cpu->dr[1] = CODE + 2 - 0x1000; // the offset: not meant
    rig->cpu->dr7 = 0x405;
    assert_int_equal(rig_run(rig, 100), VM_EXIT_HALT);
    assert_int_equal(vector_taken(rig), X86_DB);
    assert_int_equal(rig->cpu->dr6 & 15, 1);
    rig_destroy(rig);
}

// The limit of CS counts for every byte of an instruction.
static void test_code_limit(void **state)
{
    for (unsigned cut = 0; cut < 6; cut++) {
        struct rig *rig = rig_with_handlers(RIG_REAL);
        rig_write(rig, X86_GP * 4, &(uint32_t){0x4000}, 4); // below the limit
        place(rig, 0x4000, NULL, 0);
        // two nops, mov eax, imm32, hlt: nine bytes
        rig->cpu->seg[X86_CS].limit = CODE + 8 - cut;
        x86_seg_changed(rig->cpu, X86_CS);
        assert_int_equal(RUN(rig, 0x90, 0x90, 0x66, 0xb8, 1, 0, 0, 0), VM_EXIT_HALT);
        assert_int_equal(rig->cpu->rip, cut == 0 ? CODE + 9 : 0x4001);
        assert_int_equal(rig->cpu->gpr[X86_RAX], cut < 2);
        rig_destroy(rig);
    }
}

// --- exact faults ----------------------------------------------------------------------------------

// A fault on the stack that its own delivery cannot survive leaves rip at the instruction.
static void test_push_fault(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    rig->cpu->gpr[X86_RSP] = NOWHERE + 0x100;
    assert_int_equal(RUN(rig, 0x90, 0x48, 0x89, 0xd8, 0x90, 0x50),
                     VM_EXIT_SHUTDOWN); // ...; push rax
    assert_int_equal(rig->cpu->rip, CODE + 5);
    rig_destroy(rig);
}

static void test_call_noncanonical(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    rig_write64(rig, RIG_STACK - 8, 0x1111);
    rig->cpu->gpr[X86_RAX] = UINT64_C(1) << 47;
    assert_int_equal(RUN(rig, 0x90, 0xff, 0xd0), VM_EXIT_HALT); // nop; call rax
    assert_int_equal(vector_taken(rig), X86_GP);
    assert_int_equal(frame(rig, 1), CODE + 1);
    assert_int_equal(frame(rig, 4), RIG_STACK);
    rig_destroy(rig);
}

static void test_pop_rsp(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    assert_int_equal(RUN(rig, 0x68, 0, 0x80, 0, 0, 0x5c), VM_EXIT_HALT); // push 8000h; pop rsp
    assert_int_equal(rig->cpu->gpr[X86_RSP], 0x8000);
    rig_destroy(rig);
}

// JCXZ and LOOP count by the size of addresses, not of operands.
static void test_counter_size(void **state)
{
    static const struct {
        enum rig_mode mode;
        uint8_t prefix, opcode;
        uint64_t rcx, left;
        bool taken;
    } list[] = {
        {RIG_LONG, 0x67, 0xe3, UINT64_C(0x100000000), UINT64_C(0x100000000), true},
        {RIG_LONG, 0x3e, 0xe3, UINT64_C(0x100000000), UINT64_C(0x100000000), false},
        {RIG_LONG, 0x67, 0xe2, UINT64_C(0x100000001), 0, false},
        {RIG_REAL, 0x67, 0xe3, 0x10000, 0x10000, false},
        {RIG_REAL, 0x3e, 0xe3, 0x10000, 0x10000, true},
        {RIG_REAL, 0x67, 0xe2, 0x10001, 0x10000, true},
        {RIG_REAL, 0x3e, 0xe2, 0x10001, 0x10000, false},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
        struct rig *rig = rig_with_handlers(list[i].mode);
        rig->cpu->gpr[X86_RCX] = list[i].rcx;
        // over mov al, 1
        assert_int_equal(RUN(rig, list[i].prefix, list[i].opcode, 2, 0xb0, 1), VM_EXIT_HALT);
        assert_int_equal(rig->cpu->gpr[X86_RAX], !list[i].taken);
        assert_int_equal(rig->cpu->gpr[X86_RCX], list[i].left);
        rig_destroy(rig);
    }
}

static void test_enter_level(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    assert_int_equal(RUN(rig, 0xc8, 0, 0, 0x41), VM_EXIT_HALT); // enter 0, 65: level 1
    assert_int_equal(rig->cpu->gpr[X86_RSP], RIG_STACK - 16);
    assert_int_equal(rig->cpu->gpr[X86_RBP], RIG_STACK - 8);
    rig_destroy(rig);
}

// A gather that faults has loaded the elements before and cleared their masks (SDM vol. 2, VPGATHERDD); a
// masked store that faults has stored nothing.
static void test_vector_faults(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    if (rig->model.feature[X86_FEATURE_avx2]) {
        struct x86_cpu *cpu = rig->cpu;
        cpu->cr4 |= X86_CR4_OSXSAVE;
        cpu->xcr0 = 7;
        for (unsigned i = 0; i < 4; i++) {
            cpu->vec[1].u32[i] = 0x11111111;
            cpu->vec[3].u32[i] = 0x80000000;
            cpu->vec[2].u32[i] = i == 2 ? NOWHERE - 0x8000 : 4 * i;
        }
        cpu->gpr[X86_RAX] = 0x8000;
        rig_write64(rig, 0x8000, UINT64_C(0x3333333322222222));
        // vpgatherdd xmm1, [rax + xmm2], xmm3
        assert_int_equal(RUN(rig, 0xc4, 0xe2, 0x61, 0x90, 0x0c, 0x10), VM_EXIT_HALT);
        assert_int_equal(vector_taken(rig), X86_PF);
        assert_int_equal(cpu->vec[1].u64[0], UINT64_C(0x3333333322222222));
        assert_int_equal(cpu->vec[1].u64[1], UINT64_C(0x1111111111111111));
        assert_int_equal(cpu->vec[3].u64[0], 0);
        assert_int_equal(cpu->vec[3].u64[1], UINT64_C(0x8000000080000000));
        // vpmaskmovd [rax], xmm3, xmm1: its upper half lies nowhere
        cpu->gpr[X86_RAX] = NOWHERE - 8;
        cpu->vec[3].u64[0] = cpu->vec[3].u64[1];
        rig_write64(rig, NOWHERE - 8, 5);
        assert_int_equal(RUN(rig, 0xc4, 0xe2, 0x61, 0x8e, 0x08), VM_EXIT_HALT);
        assert_int_equal(vector_taken(rig), X86_PF);
        assert_int_equal(rig_read64(rig, NOWHERE - 8), 5);
    }
    rig_destroy(rig);
}

// --- string instructions ---------------------------------------------------------------------------

static void interrupting_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct rig *rig = opaque;
    if (++rig->port_writes == 3) {
        rig->pending_vector = 0x40;
        engine_under_test()->signal(rig->vcpu, X86_EVENT_INTR);
    }
}
static uint64_t no_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0;
}

// An interrupt comes between two elements, and pushes RF.
static void test_string_interrupted(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    static const struct io_ops ops = {.read = no_read, .write = interrupting_write};
    struct io_region port = {.name = "bell", .base = 0x90, .size = 1, .ops = &ops, .opaque = rig};
    struct error err = {0};
    assert_int_equal(memory_add_pio(rig->memory, &port, &err), 0);
    rig->cpu->rflags |= X86_FLAG_IF;
    rig->cpu->gpr[X86_RCX] = 10;
    rig->cpu->gpr[X86_RDX] = 0x90;
    rig->cpu->gpr[X86_RSI] = 0x8000;
    assert_int_equal(RUN(rig, 0x90, 0xf3, 0x6e), VM_EXIT_HALT); // nop; rep outsb
    assert_int_equal(vector_taken(rig), 0x40);
    assert_int_equal(rig->cpu->gpr[X86_RCX], 7);
    assert_int_equal(rig->cpu->gpr[X86_RSI], 0x8003);
    assert_int_equal(frame(rig, 0), CODE + 1);
    assert_int_equal(frame(rig, 2) & X86_FLAG_RF, X86_FLAG_RF);
    rig_destroy(rig);
}

// INS asks for its destination before it asks the port.
static void test_ins_fault(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    rig->cpu->gpr[X86_RDX] = 0x80;
    rig->cpu->gpr[X86_RDI] = NOWHERE;
    assert_int_equal(RUN(rig, 0x6c), VM_EXIT_HALT);
    assert_int_equal(vector_taken(rig), X86_PF);
    assert_int_equal(rig->port_reads, 0);
    rig_destroy(rig);
}

// Addresses wrap at their size in the middle of a run, and of a page: 32-bit ones behind a base of FS that
// makes the first sixteen bytes lie at 8000h and the next ones 4 GiB below.
static void test_string_wrap(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    struct x86_cpu *cpu = rig->cpu;
    rig->model.vendor =
        X86_VENDOR_INTEL; // AMD's offsets are checked one by one where there is a base
    cpu->seg[X86_FS].base = UINT64_C(0x8010) - (UINT64_C(1) << 32);
    x86_seg_changed(cpu, X86_FS);
    cpu->gpr[X86_RSI] = 0xfffffff0;
    cpu->gpr[X86_RDI] = 0x6000;
    cpu->gpr[X86_RCX] = 0x20;
    for (unsigned at = 0; at < 0x20; at += 8)
        rig_write64(rig, 0x8000 + at, UINT64_C(0x5a5a5a5a5a5a5a5a));
    assert_int_equal(RUN(rig, 0x64, 0x67, 0xf3, 0xa4), VM_EXIT_HALT); // rep movs [edi], fs:[esi]
    assert_int_equal(vector_taken(rig), X86_PF);
    assert_int_equal(cpu->cr2, UINT64_C(0xffffffff00008010));
    assert_int_equal(cpu->gpr[X86_RCX], 0x10);
    assert_int_equal(cpu->gpr[X86_RSI], 0);
    assert_int_equal(cpu->gpr[X86_RDI], 0x6010);
    assert_int_equal(rig_read64(rig, 0x6008), UINT64_C(0x5a5a5a5a5a5a5a5a));
    assert_int_equal(rig_read64(rig, 0x6010), 0);
    rig_destroy(rig);
}

// --- stores to code --------------------------------------------------------------------------------

// A function at `at` gives 1; `patch` changes that to 2. Called before and after.
static void patched(const char *what, uint64_t at, const uint8_t *patch, size_t size, uint64_t rdi,
                    uint64_t rcx)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    uint8_t code[64] = {0xff, 0xd3}; // call rbx
    place(rig, at, (const uint8_t[]){0xb8, 1, 0, 0, 0, 0xc3}, 6);
    memcpy(code + 2, patch, size);
    memcpy(code + 2 + size, (const uint8_t[]){0xff, 0xd3}, 2);
    // what REP MOVS copies: the new function behind sixteen bytes of nothing
    place(rig, 0x8000,
          (const uint8_t[]){0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb8, 2, 0, 0, 0, 0xc3},
          22);
    rig->cpu->gpr[X86_RBX] = at;
    rig->cpu->gpr[X86_RDI] = rdi;
    rig->cpu->gpr[X86_RCX] = rcx;
    rig->cpu->gpr[X86_RSI] = 0x8000;
    rig->cpu->gpr[X86_RDX] =
        UINT64_C(0x000002b800000000); // its last four bytes are those of the new function
    assert_int_equal(run_at(rig, CODE, code, size + 4), VM_EXIT_HALT);
    if (rig->cpu->gpr[X86_RAX] != 2)
        fail_msg("%s: the old code ran", what);
    rig_destroy(rig);
}
static void test_code_stores(void **state)
{
    // mov [rdi], rdx across the page's border
    patched("store across a page", 0x6000, (const uint8_t[]){0x48, 0x89, 0x17}, 3, 0x5ffc, 0);
    // mov byte [rdi], 2: not the first byte of the block
    patched("store into a block", 0x6000, (const uint8_t[]){0xc6, 0x07, 0x02}, 3, 0x6001, 0);
    // rep movsb that begins before the code
    patched("REP MOVS", 0x6010, (const uint8_t[]){0xf3, 0xa4}, 2, 0x6000, 22);
}

// REP STOS that begins 200 bytes below the code and ends in it.
static void test_code_stos(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    // mov eax, 1; ret at 6100h, in a page that is written from 6000h on; all bytes become C3h (RET)
    place(rig, 0x6100, (const uint8_t[]){0xb8, 1, 0, 0, 0, 0xc3}, 6);
    struct x86_cpu *cpu = rig->cpu;
    cpu->gpr[X86_RBX] = 0x6100;
    cpu->gpr[X86_RDI] = 0x6000;
    cpu->gpr[X86_RCX] = 0x108;
    // call rbx; mov eax, 0C3h; rep stosb; xor eax, eax; call rbx
    assert_int_equal(RUN(rig, 0xff, 0xd3, 0xb8, 0xc3, 0, 0, 0, 0xf3, 0xaa, 0x31, 0xc0, 0xff, 0xd3),
                     VM_EXIT_HALT);
    assert_int_equal(cpu->gpr[X86_RAX], 0);
    rig_destroy(rig);
}

// --- rings 1 and 2, registers of tables --------------------------------------------------------------

// At `cpl` with a flat 64-bit code segment, as a saved state would have it.
static struct rig *rig_at_level(unsigned cpl, uint64_t cr4)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    struct x86_cpu *cpu = rig->cpu;
    cpu->cr4 |= cr4;
    cpu->cpl = (uint8_t)cpl;
    cpu->seg[X86_CS].sel = (uint16_t)(8 | cpl);
    cpu->seg[X86_CS].attr = 0xa09b | cpl << 5;
    cpu->seg[X86_SS].attr = 0xc093 | cpl << 5;
    cpu->tr = (struct x86_seg){.sel = 0x28, .attr = 0x8b, .limit = 0x67, .base = 0x4000};
    rig_write64(rig, 0x4004, RIG_STACK); // RSP0
    engine_under_test()->set_state(rig->vcpu);
    return rig;
}

static void expect_vector(unsigned cpl, uint64_t cr4, const uint8_t *code, size_t size, int vector)
{
    struct rig *rig = rig_at_level(cpl, cr4);
    uint8_t bytes[16];
    memcpy(bytes, code, size);
    bytes[size] = 0xcc;                         // int3 tells that it was executed
    rig->cpu->gpr[X86_RAX] = UINT64_C(1) << 47; // not canonical
    rig->cpu->gpr[X86_RSI] = 0x8000;
    rig_write64(rig, 0x8002, UINT64_C(1) << 47);
    assert_int_equal(run_at(rig, CODE, bytes, size + 1), VM_EXIT_HALT);
    assert_int_equal(vector_taken(rig), vector);
    rig_destroy(rig);
}
#define EXPECT(cpl, cr4, vector, ...)                       \
    expect_vector(cpl, cr4, (const uint8_t[]){__VA_ARGS__}, \
                  sizeof((const uint8_t[]){__VA_ARGS__}), vector)

static void test_privilege(void **state)
{
    EXPECT(0, X86_CR4_UMIP, X86_BP, 0x0f, 0x01, 0xe0);
    EXPECT(0, X86_CR4_TSD, X86_BP, 0x0f, 0x31);
    EXPECT(0, 0, X86_GP, 0x0f, 0x01, 0x16);                            // lgdt [rsi]: not canonical
    EXPECT(0, X86_CR4_FSGSBASE, X86_GP, 0xf3, 0x48, 0x0f, 0xae, 0xd0); // wrfsbase rax
    EXPECT(0, X86_CR4_FSGSBASE, X86_BP, 0xf3, 0x0f, 0xae, 0xc0);       // rdfsbase eax
    EXPECT(0, 0, X86_UD, 0xf3, 0x0f, 0xae, 0xc0);
    EXPECT(0, 0, X86_UD, 0xf3, 0x48, 0x0f, 0xae, 0xd0);
}

// The instruction itself, not the gate of INT3, must have faulted.
static void test_privilege_address(void **state)
{
    static const uint8_t rdtsc[] = {0x0f, 0x31}, smsw[] = {0x0f, 0x01, 0xe0}, clts[] = {0x0f, 0x06},
                         lldt[] = {0x0f, 0x00, 0xd0};
    static const struct {
        const uint8_t *code;
        size_t size;
        uint64_t cr4;
    } list[] = {{rdtsc, 2, X86_CR4_TSD}, {smsw, 3, X86_CR4_UMIP}, {clts, 2, 0}, {lldt, 3, 0}};
    for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
        for (unsigned cpl = 1; cpl <= 3; cpl++) {
            struct rig *rig = rig_at_level(cpl, list[i].cr4);
            rig->cpu->gpr[X86_RAX] = 0;
            assert_int_equal(run_at(rig, CODE, list[i].code, list[i].size), VM_EXIT_HALT);
            assert_int_equal(vector_taken(rig), X86_GP);
            assert_int_equal(frame(rig, 0), 0);    // error code
            assert_int_equal(frame(rig, 1), CODE); // not the HLT behind it
            rig_destroy(rig);
        }
    }
}

// SLDT, STR and SMSW to a register write all of a 32-bit one; LGDT with 66 outside 64-bit mode takes 24 bits.
static void test_table_registers(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    rig->cpu->gpr[X86_RAX] = rig->cpu->gpr[X86_RCX] = UINT64_MAX;
    assert_int_equal(RUN(rig, 0x0f, 0x00, 0xc0, 0x66, 0x0f, 0x00, 0xc1),
                     VM_EXIT_HALT); // sldt eax; sldt cx
    assert_int_equal(rig->cpu->gpr[X86_RAX], 0);
    assert_int_equal(rig->cpu->gpr[X86_RCX], UINT64_C(0xffffffffffff0000));
    rig_destroy(rig);
    rig = rig_with_handlers(RIG_REAL);
    rig_write64(rig, 0x8000, UINT64_C(0x0000123456780fff));
    rig->cpu->gpr[X86_RSI] = 0x8000;
    assert_int_equal(RUN(rig, 0x0f, 0x01, 0x14), VM_EXIT_HALT); // lgdt [si]
    assert_int_equal(rig->cpu->gdtr.base, 0x345678);
    assert_int_equal(rig->cpu->gdtr.limit, 0xfff);
    assert_int_equal(RUN(rig, 0x66, 0x0f, 0x01, 0x14), VM_EXIT_HALT);
    assert_int_equal(rig->cpu->gdtr.base, 0x12345678);
    rig_destroy(rig);
}

// RDRAND sets CF and clears the other five.
static void test_rdrand_flags(void **state)
{
    struct rig *rig = rig_with_handlers(RIG_LONG);
    x86_set_rflags(rig->cpu, X86_FLAGS_ARITH);
    assert_int_equal(RUN(rig, 0x0f, 0xc7, 0xf0), VM_EXIT_HALT);
    assert_int_equal(x86_get_rflags(rig->cpu) & X86_FLAGS_ARITH, X86_FLAG_CF);
    rig_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shadow_ends),
        cmocka_unit_test(test_rdrand_flags),
        cmocka_unit_test(test_stack_shadow),
        cmocka_unit_test(test_resume_flag),
        cmocka_unit_test(test_breakpoint_base),
        cmocka_unit_test(test_code_limit),
        cmocka_unit_test(test_push_fault),
        cmocka_unit_test(test_call_noncanonical),
        cmocka_unit_test(test_pop_rsp),
        cmocka_unit_test(test_enter_level),
        cmocka_unit_test(test_counter_size),
        cmocka_unit_test(test_vector_faults),
        cmocka_unit_test(test_string_interrupted),
        cmocka_unit_test(test_ins_fault),
        cmocka_unit_test(test_string_wrap),
        cmocka_unit_test(test_code_stores),
        cmocka_unit_test(test_code_stos),
        cmocka_unit_test(test_privilege),
        cmocka_unit_test(test_privilege_address),
        cmocka_unit_test(test_table_registers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
