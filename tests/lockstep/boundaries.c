// SPDX-License-Identifier: Apache-2.0
// An interrupt at every instruction boundary of a program, and at every access of its repeated string
// instructions to a device: the state at the handler's entry and at the end of the round must be equal on both
// engines, and the end equal to that of a round without interrupt.
//
//   boundaries PROGRAM ENGINE-A ENGINE-B [--fault KIND@N] [--every N]
//
// PROGRAM is boundaries.asm, which says what lies where.
#include "../engine_under_test.h"
#include "../quiet_platform.h"
#include "compare.h"
#include "engine/engine.h"
#include "faulty.h"
#include "x86/cpuid.h"
#include "x86/decode.h"
#include "x86/flags.h"
#include "x86/system.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RAM (UINT64_C(8) << 20)
#define GDT 0x500
#define IDT 0xa000
#define TABLES 0x10000 // PML4, PDPT, PD, then one page table for the first 2 MiB
#define CODE 0x100000
#define WORK 0x200000
#define WORK_SIZE 0x4000
#define PRISTINE 0x210000
#define STACK_LOW 0x27f000
#define STACK 0x280000
#define ENTRY 0x290000
#define END 0x2a0000
#define SAVE_SIZE 0x500
#define COUNT (ENTRY + 168) // interrupts the handler took
#define MMIO 0x400000
#define VECTOR 0x40
#define SOFT_VECTOR 0x42

struct side {
    const struct engine_ops *ops;
    struct memory *memory;
    struct engine *engine;
    struct engine_vcpu *vcpu;
    struct x86_cpu *cpu;
    struct x86_platform platform;
    bool pending;                 // an interrupt waits for its acknowledge
    uint64_t accesses, signal_at; // of devices, in this round
};

static struct x86_cpu_model model;
static struct side sides[2];
static uint64_t start, body, body_end;                  // addresses
static uint64_t init_length, body_length, round_length; // instructions
static uint64_t handler_length, accesses;
static uint8_t work_after[WORK_SIZE], end_after[SAVE_SIZE]; // of a round without interrupt

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "boundaries: %s\n", what);
    exit(2);
}

// --- the board ------------------------------------------------------------------------------------------------------

static int intr_ack(void *opaque)
{
    struct side *side = opaque;
    int vector = side->pending ? VECTOR : -1;
    side->pending = false;
    return vector;
}

static void interrupt(struct side *side)
{
    side->pending = true;
    side->ops->signal(side->vcpu, X86_EVENT_INTR);
}

static void accessed(struct side *side)
{
    if (++side->accesses == side->signal_at)
        interrupt(side);
}
static uint64_t device_read(void *opaque, uint64_t offset, unsigned size)
{
    accessed(opaque);
    return (offset + 1) * UINT64_C(0x9d3b5c71e6a8f247);
}
static void device_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    accessed(opaque);
}
static const struct io_ops device_ops = {.read = device_read, .write = device_write};

// --- building -------------------------------------------------------------------------------------------------------

static void put(struct side *side, gpa_t at, const void *data, uint64_t size)
{
    if (!memory_write(side->memory, at, data, size))
        die("no RAM there");
}
static void put64(struct side *side, gpa_t at, uint64_t value)
{
    put(side, at, &value, 8);
}
static uint64_t get64(struct side *side, gpa_t at)
{
    uint64_t value;
    if (!memory_read(side->memory, at, &value, 8))
        die("no RAM there");
    return value;
}

static void gate(struct side *side, unsigned vector, uint64_t offset)
{
    put64(side, IDT + vector * 16,
          (offset & 0xffff) | 8 << 16 | UINT64_C(0x8e) << 40 | (offset >> 16 & 0xffff) << 48);
    put64(side, IDT + vector * 16 + 8, offset >> 32);
}

static void fill_pristine(struct side *side)
{
    uint64_t z = 1;
    uint8_t image[512] = {0};
    for (gpa_t at = PRISTINE; at < PRISTINE + WORK_SIZE; at += 8) {
        z = z * UINT64_C(6364136223846793005) + 1442695040888963407;
        put64(side, at, z ^ z >> 29);
        // A float or two that is no NaN, so that arithmetic has something to do.
        if ((z >> 60) == 0)
            put64(side, at, UINT64_C(0x400921fb54442d18) + (z >> 40));
    }
    image[0] = 0x7f; // FCW 037FH, MXCSR 1F80H
    image[1] = 0x03;
    image[24] = 0x80;
    image[25] = 0x1f;
    for (unsigned i = 160; i < 416; i++)
        image[i] = (uint8_t)(i * 37);
    put(side, PRISTINE + WORK_SIZE, image, sizeof(image));
}

static void long_mode(struct side *side)
{
    struct x86_cpu *cpu = side->cpu;
    put64(side, TABLES, (TABLES + 0x1000) | 7);
    put64(side, TABLES + 0x1000, (TABLES + 0x2000) | 7);
    put64(side, TABLES + 0x2000, (TABLES + 0x3000) | 7);
    for (uint64_t i = 1; i < 4; i++)
        put64(side, TABLES + 0x2000 + i * 8, i << 21 | 0x87);
    for (uint64_t i = 0; i < 512; i++)
        put64(side, TABLES + 0x3000 + i * 8, i << 12 | 7);
    put64(side, GDT, 0);
    put64(side, GDT + 8, UINT64_C(0x00af9b000000ffff));
    put64(side, GDT + 16, UINT64_C(0x00cf93000000ffff));
    cpu->gdtr = (struct x86_table){.base = GDT, .limit = 23};
    cpu->idtr = (struct x86_table){.base = IDT, .limit = 0xfff};
    for (unsigned seg = 0; seg < X86_SEG_COUNT; seg++)
        cpu->seg[seg] = (struct x86_seg){.sel = seg == X86_CS ? 8 : 16,
                                         .attr = seg == X86_CS ? 0xa09b : 0xc093,
                                         .limit = 0xffffffff};
    cpu->cr3 = TABLES;
    cpu->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    if (model.feature[X86_FEATURE_avx]) {
        cpu->cr4 |= X86_CR4_OSXSAVE;
        cpu->xcr0 = 7;
    }
    cpu->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE | X86_EFER_NXE;
    cpu->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_ET | X86_CR0_NE;
}

static void side_create(struct side *side, const char *engine, const void *program, size_t size)
{
    struct error err = {0};
    struct io_region port = {
        .name = "port", .base = 0x80, .size = 4, .ops = &device_ops, .opaque = side};
    struct io_region mmio = {
        .name = "mmio", .base = MMIO, .size = PAGE_SIZE, .ops = &device_ops, .opaque = side};

    side->ops = strcmp(engine, "faulty") == 0 ? faulty_engine() : engine_find(engine, &err);
    side->memory = side->ops ? memory_create(&err) : NULL;
    if (!side->memory || memory_add_ram(side->memory, "low", 0, MMIO, &err) ||
        memory_add_ram(side->memory, "high", MMIO + PAGE_SIZE, RAM - MMIO - PAGE_SIZE, &err) ||
        memory_add_pio(side->memory, &port, &err) || memory_add_mmio(side->memory, &mmio, &err))
        die(err.message);
    side->platform = quiet_platform();
    side->platform.opaque = side;
    side->platform.memory = side->memory;
    side->platform.intr_ack = intr_ack;
    side->platform.counted = true;
    side->cpu = aligned_alloc(64, (sizeof(struct x86_cpu) + 63) & ~(size_t)63);
    memset(side->cpu, 0, sizeof(struct x86_cpu));
    side->cpu->platform = &side->platform;
    side->cpu->model = &model;
    x86_reset(side->cpu, false);
    put(side, CODE, program, size);
    fill_pristine(side);
    long_mode(side);
    gate(side, VECTOR, get64(side, CODE + 24));
    gate(side, SOFT_VECTOR, get64(side, CODE + 32));
    side->cpu->rip = get64(side, CODE);
    side->engine = engine_create_for_test(side->ops, side->memory, &err);
    side->vcpu = side->engine ? side->ops->vcpu_create(side->engine, side->cpu, &err) : NULL;
    if (!side->vcpu)
        die(err.message);
    for (unsigned seg = 0; seg < X86_SEG_COUNT; seg++)
        x86_seg_changed(side->cpu, seg);
    side->ops->set_state(side->vcpu);
}

static void side_destroy(struct side *side)
{
    side->ops->vcpu_destroy(side->vcpu);
    side->ops->destroy(side->engine);
    memory_destroy(side->memory);
    free(side->cpu);
}

// --- running and comparing ------------------------------------------------------------------------------------------

static bool run(struct side *side, uint64_t instructions)
{
    struct vm_exit exit = {.reason = VM_EXIT_BUDGET};
    if (instructions)
        side->ops->run(side->vcpu, instructions, &exit);
    side->ops->get_state(side->vcpu);
    return exit.reason == VM_EXIT_BUDGET;
}

static void compare_range(const char *name, gpa_t at, const void *a, const void *b, uint64_t size,
                          struct report *report)
{
    const uint8_t *pa = a, *pb = b;
    for (uint64_t i = 0; i < size; i++)
        if (pa[i] != pb[i])
            report_add(report, "  %s[%llx]: %02x %02x\n", name, (unsigned long long)(at + i), pa[i],
                       pb[i]);
}

static void compare_memory(const char *name, gpa_t at, uint64_t size, struct report *report)
{
    static uint8_t a[WORK_SIZE], b[WORK_SIZE];
    if (!memory_read(sides[0].memory, at, a, size) || !memory_read(sides[1].memory, at, b, size))
        die("no RAM there");
    if (memcmp(a, b, size) != 0)
        compare_range(name, at, a, b, size, report);
}

static void compare_quiet(const char *name, struct side *side, gpa_t at, const uint8_t *quiet,
                          uint64_t size, struct report *report)
{
    static uint8_t now[WORK_SIZE];
    if (!memory_read(side->memory, at, now, size))
        die("no RAM there");
    if (memcmp(now, quiet, size) != 0)
        compare_range(name, at, quiet, now, size, report);
}

static _Noreturn void failed(const char *what, uint64_t number, const struct report *report)
{
    uint8_t bytes[15] = {0};
    char text[128];
    uint64_t rip = get64(&sides[0], ENTRY + 128);
    memory_read(sides[0].memory, rip, bytes, sizeof(bytes));
    x86_disassemble(text, sizeof(text), bytes, sizeof(bytes), X86_CODE64, rip);
    printf("FAILED: interrupt at %s %llu (the last handler entry before %llx: %s):\n%s", what,
           (unsigned long long)number, (unsigned long long)rip, text, report->text);
    exit(1); // the sides have parted
}

// The end of a round, on both sides.
static void compare_end(const char *what, uint64_t number, bool stopped, uint64_t interrupts)
{
    static struct report report;
    report.count = 0;
    report.length = 0;
    report.text[0] = 0;
    if (!stopped)
        report_add(&report, "  an engine did not stop where it should\n");
    compare_processors(sides[0].cpu, sides[1].cpu, 0, NULL, &report);
    compare_number("start", start, sides[0].cpu->rip, &report);
    compare_number("retired", sides[0].cpu->icount, sides[1].cpu->icount, &report);
    compare_memory("work", WORK, WORK_SIZE, &report);
    compare_memory("stack", STACK_LOW, STACK - STACK_LOW, &report);
    compare_memory("entry", ENTRY, SAVE_SIZE, &report);
    compare_memory("end", END, SAVE_SIZE, &report);
    for (unsigned i = 0; i < 2; i++) {
        compare_quiet("work against quiet round", &sides[i], WORK, work_after, WORK_SIZE, &report);
        compare_quiet("end against quiet round", &sides[i], END, end_after, SAVE_SIZE, &report);
        compare_number("interrupts", interrupts, get64(&sides[i], COUNT), &report);
    }
    if (report.count)
        failed(what, number, &report);
}

// A round without interrupt: side 0 instruction by instruction, which measures it; side 1 at once.
static void quiet_round(void)
{
    struct side *a = &sides[0];
    bool stopped = true;

    for (init_length = 0; a->cpu->rip != body && stopped; init_length++)
        stopped = run(a, 1);
    for (body_length = 0; a->cpu->rip != body_end && stopped && body_length < 1000000;
         body_length++)
        stopped = run(a, 1);
    for (round_length = init_length + body_length; a->cpu->rip != start && stopped; round_length++)
        stopped = run(a, 1);
    if (!stopped) {
        fprintf(stderr, "boundaries: at %llx:\n", (unsigned long long)a->cpu->insn_rip);
        die("the program does not run through");
    }
    accesses = a->accesses;
    memory_read(a->memory, WORK, work_after, WORK_SIZE);
    memory_read(a->memory, END, end_after, SAVE_SIZE);
    stopped = run(&sides[1], round_length);
    compare_end("no instruction of round", 0, stopped, 0);
    // And how long the handler is.
    run(a, init_length);
    interrupt(a);
    for (handler_length = init_length; a->cpu->rip != start && stopped; handler_length++)
        stopped = run(a, 1);
    handler_length -= round_length;
    run(&sides[1], init_length);
    interrupt(&sides[1]);
    stopped = run(&sides[1], round_length - init_length + handler_length);
    compare_end("the first instruction", 0, stopped, 1);
}

// An interrupt is signalled after `k` instructions of the body.
static void round_at(uint64_t k, uint64_t interrupts)
{
    static struct report report;
    bool stopped = true;

    report.count = 0;
    report.length = 0;
    for (unsigned i = 0; i < 2; i++) {
        stopped &= run(&sides[i], init_length);
        stopped &= run(&sides[i], k);
        interrupt(&sides[i]);
        stopped &= run(&sides[i], 1);
    }
    compare_processors(sides[0].cpu, sides[1].cpu, 0, NULL, &report);
    if (report.count)
        failed("instruction", k, &report);
    for (unsigned i = 0; i < 2; i++)
        stopped &= run(&sides[i], round_length + handler_length - init_length - k - 1);
    compare_end("instruction", k, stopped, interrupts);
}

// An interrupt is signalled by the device at access `n`.
static void round_access(uint64_t n, uint64_t interrupts)
{
    bool stopped = true;
    for (unsigned i = 0; i < 2; i++) {
        sides[i].accesses = 0;
        sides[i].signal_at = n;
        stopped &= run(&sides[i], round_length + handler_length);
        sides[i].signal_at = 0;
    }
    compare_end("device access", n, stopped, interrupts);
}

int main(int argc, char **argv)
{
    static uint8_t program[1 << 20];
    struct error err = {0};
    uint64_t every = 1, rounds = 1;
    FILE *f = argc >= 4 ? fopen(argv[1], "rb") : NULL;
    size_t size = f ? fread(program, 1, sizeof(program), f) : 0;

    for (int i = 4; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--fault") == 0 && !faulty_parse(argv[i + 1]))
            die("no such fault");
        if (strcmp(argv[i], "--every") == 0)
            every = strtoull(argv[i + 1], NULL, 0);
    }
    if (size == 0 || every == 0)
        die("usage: boundaries PROGRAM ENGINE-A ENGINE-B [--fault KIND@N] [--every N]");
    fclose(f);
    if (x86_cpu_model_parse(&model, "max", &err))
        die(err.message);
    for (unsigned i = 0; i < 2; i++)
        side_create(&sides[i], argv[2 + i], program, size);
    start = get64(&sides[0], CODE);
    body = get64(&sides[0], CODE + 8);
    body_end = get64(&sides[0], CODE + 16);
    quiet_round();
    for (uint64_t k = 0; k < body_length; k += every)
        round_at(k, ++rounds);
    for (uint64_t n = 1; n <= accesses; n += every)
        round_access(n, ++rounds);
    printf(
        "%s and %s: interrupted behind each of %llu instructions and at each of %llu accesses to a "
        "device: equal\n",
        argv[2], argv[3], (unsigned long long)body_length, (unsigned long long)accesses);
    for (unsigned i = 0; i < 2; i++)
        side_destroy(&sides[i]);
    return 0;
}
