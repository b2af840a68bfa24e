// SPDX-License-Identifier: Apache-2.0
// See rig.h.
#include "rig.h"
#include "../engine_under_test.h"
#include "../quiet_platform.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int intr_ack(void *opaque)
{
    struct rig *rig = opaque;
    int vector = rig->pending_vector;
    rig->pending_vector = -1;
    return vector;
}
static uint64_t tsc(void *opaque)
{
    return ++((struct rig *)opaque)->tsc;
}
static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    return ++((struct rig *)opaque)->port_reads;
}
static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct rig *rig = opaque;
    rig->port_writes++;
    rig->port_value = value;
}
static const struct io_ops port_ops = {.read = port_read, .write = port_write};

static void die(const char *what)
{
    fprintf(stderr, "rig: %s\n", what);
    exit(1);
}

void rig_write(struct rig *rig, gpa_t gpa, const void *data, uint64_t size)
{
    if (!memory_write(rig->memory, gpa, data, size))
        die("write outside RAM");
}
uint64_t rig_read64(struct rig *rig, gpa_t gpa)
{
    uint64_t value;
    if (!memory_read(rig->memory, gpa, &value, 8))
        die("read outside RAM");
    return value;
}
void rig_write64(struct rig *rig, gpa_t gpa, uint64_t value)
{
    rig_write(rig, gpa, &value, 8);
}

static void set_seg(struct x86_cpu *cpu, unsigned seg, uint16_t sel, uint32_t attr)
{
    cpu->seg[seg] = (struct x86_seg){.sel = sel, .attr = attr, .limit = 0xffffffff};
}

static void flat_segments(struct rig *rig, bool long_mode)
{
    struct x86_cpu *cpu = rig->cpu;
    uint64_t code = long_mode ? UINT64_C(0x00af9b000000ffff) : UINT64_C(0x00cf9b000000ffff);
    rig_write64(rig, RIG_GDT, 0);
    rig_write64(rig, RIG_GDT + 8, code);
    rig_write64(rig, RIG_GDT + 16, UINT64_C(0x00cf93000000ffff));
    cpu->gdtr = (struct x86_table){.base = RIG_GDT, .limit = 23};
    set_seg(cpu, X86_CS, 8, long_mode ? 0xa09b : 0xc09b);
    for (unsigned seg = 0; seg < X86_SEG_COUNT; seg++)
        if (seg != X86_CS)
            set_seg(cpu, seg, 16, 0xc093);
}

static void long_mode(struct rig *rig)
{
    struct x86_cpu *cpu = rig->cpu;
    rig_write64(rig, RIG_PML4, (RIG_PML4 + 0x1000) | 7);
    rig_write64(rig, RIG_PML4 + 0x1000, (RIG_PML4 + 0x2000) | 7);
    rig_write64(rig, RIG_PML4 + 0x2000, RIG_PT | 7);
    for (uint64_t i = 1; i < 8; i++)
        rig_write64(rig, RIG_PML4 + 0x2000 + i * 8, i << 21 | 0x87);
    for (uint64_t i = 0; i < 512; i++)
        rig_write64(rig, RIG_PT + i * 8, i << 12 | 7);
    cpu->cr3 = RIG_PML4;
    cpu->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR;
    cpu->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE | X86_EFER_NXE;
    cpu->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_ET | X86_CR0_NE;
    cpu->idtr = (struct x86_table){.base = RIG_IDT, .limit = 0xfff};
}

struct rig *rig_create(enum rig_mode mode)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    struct error err = {0};
    struct io_region port = {
        .name = "port", .base = 0x80, .size = 1, .ops = &port_ops, .opaque = rig};
    rig->memory = memory_create(&err);
    if (!rig->memory || memory_add_ram(rig->memory, "ram", 0, RIG_RAM, &err) != 0 ||
        memory_add_pio(rig->memory, &port, &err) != 0 ||
        x86_cpu_model_parse(&rig->model, "max", &err) != 0)
        die(err.message);
    rig->pending_vector = -1;
    rig->platform = quiet_platform();
    rig->platform.opaque = rig;
    rig->platform.memory = rig->memory;
    rig->platform.intr_ack = intr_ack;
    rig->platform.tsc = tsc;
    rig->cpu = aligned_alloc(64, (sizeof(struct x86_cpu) + 63) & ~(size_t)63);
    memset(rig->cpu, 0, sizeof(struct x86_cpu));
    rig->cpu->platform = &rig->platform;
    rig->cpu->model = &rig->model;
    x86_reset(rig->cpu, false);
    if (mode == RIG_REAL) {
        rig->cpu->seg[X86_CS].base = 0;
        rig->cpu->seg[X86_CS].sel = 0;
    } else {
        flat_segments(rig, mode == RIG_LONG);
        rig->cpu->cr0 |= X86_CR0_PE;
        if (mode == RIG_LONG)
            long_mode(rig);
    }
    rig->cpu->gpr[X86_RSP] = RIG_STACK;
    rig->engine = engine_create_for_test(engine_under_test(), rig->memory, &err);
    rig->vcpu = rig->engine ? engine_under_test()->vcpu_create(rig->engine, rig->cpu, &err) : NULL;
    if (!rig->vcpu)
        die(err.message);
    for (unsigned seg = 0; seg < X86_SEG_COUNT; seg++)
        x86_seg_changed(rig->cpu, seg);
    engine_under_test()->set_state(rig->vcpu);
    return rig;
}

void rig_destroy(struct rig *rig)
{
    engine_under_test()->vcpu_destroy(rig->vcpu);
    engine_under_test()->destroy(rig->engine);
    memory_destroy(rig->memory);
    free(rig->cpu);
    free(rig);
}

void rig_load(struct rig *rig, const char *name)
{
    static char image[0x4000];
    char path[512];
    size_t size;
    FILE *f;
    snprintf(path, sizeof(path), "%s/%s", PROGRAM_DIR, name);
    f = fopen(path, "rb");
    if (!f)
        die(path);
    size = fread(image, 1, sizeof(image), f);
    fclose(f);
    rig_write(rig, RIG_IMAGE, image, size);
}

uint64_t rig_entry(struct rig *rig, unsigned n)
{
    return (uint32_t)rig_read64(rig, RIG_IMAGE + 4 * n);
}

void rig_start(struct rig *rig, unsigned n)
{
    rig->cpu->rip = rig_entry(rig, n);
    rig->cpu->activity = X86_ACTIVE;
}

enum vm_exit_reason rig_run(struct rig *rig, uint64_t max)
{
    struct vm_exit exit;
    engine_under_test()->run(rig->vcpu, max, &exit);
    return exit.reason;
}

void rig_gate(struct rig *rig, unsigned vector, uint64_t offset)
{
    rig_write64(rig, RIG_IDT + vector * 16,
                (offset & 0xffff) | 8 << 16 | UINT64_C(0x8e) << 40 | (offset >> 16 & 0xffff) << 48);
    rig_write64(rig, RIG_IDT + vector * 16 + 8, offset >> 32);
}

uint64_t rig_counter(struct rig *rig, const char *name)
{
    struct engine_counter counters[ENGINE_COUNTERS_MAX];
    unsigned n = engine_under_test()->counters(rig->vcpu, counters, ENGINE_COUNTERS_MAX);
    for (unsigned i = 0; i < n; i++)
        if (strcmp(counters[i].name, name) == 0)
            return counters[i].value;
    die(name);
    return 0;
}
