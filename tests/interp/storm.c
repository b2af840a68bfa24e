// SPDX-License-Identifier: Apache-2.0
// Storms: processors in random states execute random instructions over random descriptor tables, page
// tables and devices, several at once on the same memory. Nothing is compared; whatever a hostile guest
// can do must leave this program alive, with guard pages around guest memory and, in a sanitized build,
// without a complaint. Found besides: a run that does not come back.
//
// usage: storm [first seed [seeds [processors]]]; one seed alone repeats exactly with one processor.
#include "../engine_under_test.h"
#include "base/state.h"
#include "memory/memory.h"
#include "x86/cpuid.h"
#include "x86/system.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CPUS_MAX 4
#define PAGES 64  // of RAM from 0
#define TABLES 16 // the first of them hold page-table entries, then a page of descriptors
#define ROM_AT UINT64_C(0x40000)
#define IO_AT UINT64_C(0x50000)
#define HIGH_AT UINT64_C(0x100000000)
#define RUNS 6
#define KICK_US 20000 // a string instruction over gigabytes of nothing goes on until somebody asks
#define STUCK_KICKS 3000 // without a new seed

struct storm {
    struct memory *memory;
    struct engine *engine;
    struct engine_vcpu *vcpu;
    struct x86_cpu *cpu;
    struct x86_cpu_model *model;
    struct x86_platform platform;
    uint64_t random, tsc, first, count;
    _Atomic uint64_t seed;
    atomic_bool done;
};

// Guest memory with a page on either side that nobody may touch (the linker puts this for mmap).
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    uint8_t *p;
    if (fd >= 0 || at)
        return __real_mmap(at, size, protection, flags, fd, offset);
    p = __real_mmap(NULL, size + 2 * PAGE_SIZE, PROT_NONE, flags, -1, 0);
    if (p == MAP_FAILED || mprotect(p + PAGE_SIZE, size, protection))
        return MAP_FAILED;
    return p + PAGE_SIZE;
}

static uint64_t next(struct storm *s)
{
    uint64_t z = (s->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}
static uint64_t below(struct storm *s, uint64_t n)
{
    return next(s) % n;
}
static bool chance(struct storm *s, unsigned percent)
{
    return below(s, 100) < percent;
}

// --- the board ------------------------------------------------------------------------------------------------

static int intr_ack(void *opaque)
{
    struct storm *s = opaque;
    return chance(s, 50) ? (int)below(s, 256) : -1;
}
static uint64_t tsc(void *opaque)
{
    return ++((struct storm *)opaque)->tsc;
}
static uint8_t get_cr8(void *opaque)
{
    return (uint8_t)below(opaque, 16);
}
static void set_cr8(void *opaque, uint8_t cr8)
{
}
static bool msr_read(void *opaque, uint32_t msr, uint64_t *value)
{
    *value = next(opaque);
    return chance(opaque, 50);
}
static bool msr_write(void *opaque, uint32_t msr, uint64_t value)
{
    return chance(opaque, 50);
}
static uint64_t hypercall(void *opaque, uint64_t nr, const uint64_t args[4])
{
    return next(opaque);
}
static void ferr(void *opaque, bool level)
{
}
static bool apic_enabled(void *opaque)
{
    return true;
}
static uint64_t device_read(void *opaque, uint64_t offset, unsigned size)
{
    return offset * UINT64_C(0x9e3779b97f4a7c15);
}
static void device_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    if ((value & 0xf3) == 2)
        memory_set_a20(opaque, value & 4);
}
static const struct io_ops device_ops = {.read = device_read, .write = device_write};

// --- what the guest finds -------------------------------------------------------------------------------------

static uint64_t address(struct storm *s)
{
    static const uint64_t edge[] = {PAGES * PAGE_SIZE,
                                    ROM_AT,
                                    ROM_AT + 2 * PAGE_SIZE,
                                    IO_AT,
                                    IO_AT + PAGE_SIZE,
                                    HIGH_AT,
                                    HIGH_AT + 2 * PAGE_SIZE,
                                    UINT64_C(1) << 32,
                                    UINT64_C(1) << 47,
                                    UINT64_C(0xffff800000000000),
                                    0,
                                    0x10000,
                                    0x100000};
    switch (below(s, 8)) {
    case 0:
        return next(s) >> below(s, 64);
    case 1:
        return edge[below(s, ARRAY_SIZE(edge))] - below(s, 70);
    case 2:
        return 0 - below(s, 1000);
    case 3:
        return below(s, PAGES) * PAGE_SIZE - below(s, 70);
    default:
        return below(s, PAGES * PAGE_SIZE) & (chance(s, 50) ? ~UINT64_C(63) : ~UINT64_C(0));
    }
}

static uint64_t table_entry(struct storm *s)
{
    uint64_t flags = chance(s, 80) ? 7 : below(s, 0x1000),
             at = below(s, chance(s, 60) ? TABLES : PAGES);
    if (chance(s, 3))
        at = address(s) >> 12;
    if (chance(s, 10))
        flags |= 0x80; // a large page, or PAT
    if (chance(s, 2))
        flags |= UINT64_C(1) << 63;
    return (at << 12 | flags) & ~(chance(s, 90) ? UINT64_C(0x7ff0ff0000000000) : 0);
}

static uint64_t descriptor(struct storm *s)
{
    uint64_t d = chance(s, 50) ? UINT64_C(0x00cf90000000ffff) : next(s);
    if (chance(s, 70))
        d |= UINT64_C(1) << 47;
    if (chance(s, 30))
        d = (d & ~(UINT64_C(3) << 53)) | UINT64_C(1) << 53; // long code
    d &= ~(UINT64_C(0x1f) << 40);
    d |= below(s, 32) << 40;
    if (chance(s, 60)) // gates lead to a selector and an offset inside RAM
        d = (d & UINT64_C(0x0000ff0000000000)) | below(s, 16) << 19 | (address(s) & 0xffff);
    return d;
}

// One instruction, or what looks like one; at most 15 bytes.
static unsigned instruction(struct storm *s, uint8_t *out)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x26,
                                       0x2e, 0x36, 0x3e, 0x64, 0x65};
    static const uint8_t system[] = {0x00, 0x01, 0x20, 0x21, 0x22, 0x23, 0x30, 0x32,
                                     0x05, 0x07, 0x34, 0x35, 0xae, 0xc7, 0xb0, 0xb1,
                                     0xc0, 0xc1, 0xa4, 0xac, 0xa3, 0xbb};
    unsigned n = 0;
    while (n < 4 && chance(s, 20))
        out[n++] = prefixes[below(s, sizeof(prefixes))];
    switch (below(s, 12)) {
    case 0:
        out[n++] = 0xc5;
        out[n++] = (uint8_t)next(s);
        out[n++] = (uint8_t)next(s);
        break;
    case 1:
        out[n++] = 0xc4;
        out[n++] = (uint8_t)(0xe0 | (1 + below(s, 3)));
        out[n++] = (uint8_t)(next(s) | (chance(s, 50) ? 0x78 : 0));
        out[n++] = (uint8_t)next(s);
        break;
    case 2:
        out[n++] = (uint8_t)(0xd8 + below(s, 8));
        break;
    case 3:
        out[n++] = 0x0f;
        out[n++] = chance(s, 50) ? 0x38 : 0x3a;
        out[n++] = (uint8_t)next(s);
        break;
    case 4:
        out[n++] = 0x0f;
        out[n++] = system[below(s, sizeof(system))];
        break;
    case 5:
        out[n++] = (uint8_t)(0xa4 + below(s, 12)); // strings
        return n;
    default:
        if (chance(s, 40))
            out[n++] = (uint8_t)(0x40 + below(s, 16));
        if (chance(s, 40))
            out[n++] = 0x0f;
        out[n++] = (uint8_t)next(s);
    }
    out[n++] =
        (uint8_t)(chance(s, 50) ? below(s, 64) : next(s)); // ModRM: memory without displacement
    for (unsigned rest = (unsigned)below(s, 5); rest && n < 15; rest--)
        out[n++] = (uint8_t)(chance(s, 50) ? below(s, 4) : next(s));
    return n;
}

static void fill_page(struct storm *s, uint64_t page)
{
    union {
        uint64_t u64[512];
        uint8_t u8[PAGE_SIZE];
    } p;
    if (page < TABLES) {
        for (unsigned i = 0; i < 512; i++)
            p.u64[i] = table_entry(s);
    } else if (page == TABLES) {
        for (unsigned i = 0; i < 512; i++)
            p.u64[i] = descriptor(s);
    } else {
        uint8_t insn[24];
        for (unsigned at = 0; at < PAGE_SIZE;) {
            unsigned n = instruction(s, insn);
            for (unsigned i = 0; i < n && at < PAGE_SIZE; i++)
                p.u8[at++] = insn[i];
        }
    }
    memory_write(s->memory, page * PAGE_SIZE, p.u8, PAGE_SIZE);
}

// --- the processor --------------------------------------------------------------------------------------------

static uint64_t pick_bits(struct storm *s, uint64_t of, unsigned percent)
{
    uint64_t bits = 0;
    for (unsigned i = 0; i < 64; i++)
        if ((of >> i & 1) && chance(s, percent))
            bits |= UINT64_C(1) << i;
    return bits;
}

static void random_segment(struct storm *s, struct x86_seg *seg, uint32_t type, unsigned dpl,
                           bool code64)
{
    bool flat = chance(s, 70);
    *seg = (struct x86_seg){.sel = (uint16_t)(below(s, 64) << 2 | dpl),
                            .attr = type | X86_ATTR_P | dpl << X86_ATTR_DPL_SHIFT,
                            .limit = flat ? 0xffffffff : (uint32_t)(next(s) >> (32 + below(s, 20))),
                            .base = flat ? 0 : address(s) & 0xffffffff};
    if (chance(s, 60))
        seg->attr |= code64 ? X86_ATTR_L : X86_ATTR_DB;
}

static void random_state(struct storm *s)
{
    struct x86_cpu *c = s->cpu;
    bool prot = chance(s, 85), paging = prot && chance(s, 75), lng = paging && chance(s, 60);
    bool v86 = prot && !lng && chance(s, 10);
    unsigned cpl = v86 ? 3 : prot && chance(s, 40) ? (unsigned)below(s, 4) : 0;

    x86_reset(c, false);
    for (unsigned i = 0; i < 16; i++)
        c->gpr[i] = address(s);
    for (unsigned i = 0; i < sizeof(c->vec) / 8; i++)
        ((uint64_t *)c->vec)[i] = chance(s, 60) ? address(s) : next(s);
    for (unsigned i = 0; i < 8; i++)
        for (unsigned k = 0; k < 10; k++)
            c->x87.reg[i][k] = (uint8_t)next(s);
    c->x87.fcw = (uint16_t)(next(s) & 0x1f7f);
    c->x87.fsw = (uint16_t)next(s);
    c->x87.ftw = (uint16_t)next(s);
    c->mxcsr = chance(s, 50) ? 0x1f80 : (uint32_t)next(s) & 0xffff;
    c->xcr0 = chance(s, 80) ? 7 : 1;
    c->cr0 = X86_CR0_ET | (prot ? X86_CR0_PE : 0) | (paging ? X86_CR0_PG : 0) |
             pick_bits(s, X86_CR0_WP | X86_CR0_AM | X86_CR0_NE | X86_CR0_MP, 50) |
             pick_bits(s, X86_CR0_EM | X86_CR0_TS, 5);
    c->cr2 = next(s);
    c->cr3 = below(s, TABLES) << 12;
    c->cr4 =
        pick_bits(s,
                  0x7707ff & ~(uint64_t)(X86_CR4_PCIDE | X86_CR4_SMAP | X86_CR4_SMEP | X86_CR4_PAE),
                  50) |
        pick_bits(s, X86_CR4_SMAP | X86_CR4_SMEP, 15) | (lng || chance(s, 30) ? X86_CR4_PAE : 0) |
        pick_bits(s, X86_CR4_OSFXSR | X86_CR4_OSXSAVE, 80);
    c->cr4 &= ~(uint64_t)(X86_CR4_LA57 | X86_CR4_VMXE);
    c->efer = pick_bits(s, X86_EFER_SCE | X86_EFER_NXE | X86_EFER_FFXSR, 60) |
              (lng ? X86_EFER_LME | X86_EFER_LMA : 0);
    for (unsigned i = 0; i < 4; i++) {
        c->pdpte[i] = (below(s, TABLES) << 12) | 1;
        c->dr[i] = address(s);
    }
    c->dr7 = chance(s, 15) ? next(s) & 0xffff27ff : 0x400;
    c->rflags =
        X86_FLAG_R1 | pick_bits(s, X86_FLAG_DF | X86_FLAG_IF | X86_FLAG_NT | X86_FLAG_IOPL, 40) |
        pick_bits(s, X86_FLAG_TF | X86_FLAG_AC | X86_FLAG_VIF | X86_FLAG_VIP | X86_FLAG_RF, 5) |
        (v86 ? X86_FLAG_VM : 0);
    c->cpl = (uint8_t)cpl;
    for (unsigned i = 0; i < X86_SEG_COUNT; i++) {
        if (v86)
            c->seg[i] = (struct x86_seg){.sel = (uint16_t)next(s), .attr = 0xf3, .limit = 0xffff};
        else
            random_segment(s, &c->seg[i], i == X86_CS ? 0x1b : 0x13 | (uint32_t)pick_bits(s, 4, 5),
                           cpl, lng && i == X86_CS);
        if (v86)
            c->seg[i].base = c->seg[i].sel * 16u;
    }
    random_segment(s, &c->ldtr, 2, 0, false);
    random_segment(s, &c->tr, lng || chance(s, 70) ? 11 : 3, 0, false);
    c->ldtr.base = c->gdtr.base = c->idtr.base = TABLES * PAGE_SIZE;
    if (chance(s, 20))
        c->gdtr.base = address(s) & 0x7fffffff;
    if (chance(s, 20))
        c->idtr.base = address(s) & 0x7fffffff;
    c->gdtr.limit = c->idtr.limit = 0xfff;
    c->tr.base = address(s) & 0x7fffffff;
    c->lstar = c->cstar = below(s, PAGES * PAGE_SIZE);
    c->star = next(s);
    c->sysenter_cs = below(s, 100);
    c->sysenter_eip = c->sysenter_esp = below(s, PAGES * PAGE_SIZE);
    c->kernel_gs_base = below(s, PAGES * PAGE_SIZE);
    c->rip = (TABLES + 1) * PAGE_SIZE + below(s, (PAGES - TABLES - 1) * PAGE_SIZE);
    if (chance(s, 10))
        c->rip = address(s) & 0xffffffff;
    if (v86 || !prot)
        c->rip &= 0xffff;
    c->activity = X86_ACTIVE;
}

static bool run_seed(struct storm *s, uint64_t seed, uint64_t pages)
{
    struct error err = {0};
    struct vm_exit exit = {.reason = VM_EXIT_BUDGET};

    s->random = seed * 0x10001 + s->platform.apic_id;
    s->seed = seed;
    for (uint64_t i = 0; i < pages; i++)
        fill_page(s, pages == PAGES ? i : below(s, PAGES));
    random_state(s);
    if (x86_cpu_state.post_load(s->cpu, &err))
        return false;
    engine_under_test()->set_state(s->vcpu);
    for (unsigned i = 0; i < RUNS && exit.reason != VM_EXIT_SHUTDOWN; i++) {
        static const uint32_t events[] = {X86_EVENT_INTR, X86_EVENT_NMI, X86_EVENT_EXIT,
                                          X86_EVENT_INTR, X86_EVENT_FLUSH};
        if (i)
            engine_under_test()->signal(s->vcpu, chance(s, 2)
                                                     ? X86_EVENT_INIT | X86_EVENT_SIPI
                                                     : events[below(s, ARRAY_SIZE(events))]);
        engine_under_test()->run(s->vcpu, 1 + below(s, 300), &exit);
        if (exit.reason == VM_EXIT_ERROR) {
            fprintf(stderr, "storm: seed %llu: %s\n", (unsigned long long)seed, exit.message);
            abort();
        }
    }
    return true;
}

static void *run_all(void *opaque)
{
    struct storm *s = opaque;
    uint64_t ran = 0;
    for (uint64_t i = 0; i < s->count; i++)
        ran += run_seed(s, s->first + i, s->platform.cpu_count == 1 ? PAGES : 4);
    if (s->count > 100 && ran < s->count / 4) {
        fprintf(stderr, "storm: too few of the states are possible (%llu)\n",
                (unsigned long long)ran);
        exit(1);
    }
    s->done = true;
    return NULL;
}

// Until the storm is over; false when it does not end.
static bool watch(struct storm *s)
{
    uint64_t seed = 0;
    for (unsigned kicks = 0; !s->done; kicks++) {
        usleep(KICK_US);
        engine_under_test()->kick(s->vcpu);
        if (s->seed != seed) {
            seed = s->seed;
            kicks = 0;
        } else if (kicks > STUCK_KICKS) {
            fprintf(stderr, "storm: seed %llu does not end\n", (unsigned long long)seed);
            return false;
        }
    }
    return true;
}

static struct x86_cpu_model model;

static void create(struct storm *s, struct memory *memory, struct engine *engine, unsigned id,
                   unsigned cpus)
{
    struct error err = {0};
    s->memory = memory;
    s->engine = engine;
    s->platform = (struct x86_platform){.opaque = s,
                                        .memory = memory,
                                        .intr_ack = intr_ack,
                                        .tsc = tsc,
                                        .tsc_hz = 1000000000,
                                        .get_cr8 = get_cr8,
                                        .set_cr8 = set_cr8,
                                        .msr_read = msr_read,
                                        .msr_write = msr_write,
                                        .hypercall = hypercall,
                                        .ferr = ferr,
                                        .apic_id = id,
                                        .cpu_count = cpus,
                                        .apic_enabled = apic_enabled};
    s->cpu = aligned_alloc(64, (sizeof(*s->cpu) + 63) / 64 * 64);
    memset(s->cpu, 0, sizeof(*s->cpu));
    s->cpu->platform = &s->platform;
    s->cpu->model = &model;
    x86_reset(s->cpu, false);
    s->vcpu = engine_under_test()->vcpu_create(engine, s->cpu, &err);
    if (!s->vcpu) {
        fprintf(stderr, "storm: %s\n", err.message);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static struct storm storm[CPUS_MAX];
    pthread_t thread[CPUS_MAX];
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1,
             count = argc > 2 ? strtoull(argv[2], NULL, 0) : 300;
    unsigned cpus = argc > 3 ? (unsigned)atoi(argv[3]) : 1;
    struct error err = {0};
    struct memory *memory = memory_create(&err);
    static const uint8_t rom[2 * PAGE_SIZE] = {0x90, 0x90, 0xf4};
    struct io_region
        io = {.name = "io", .base = IO_AT, .size = PAGE_SIZE, .ops = &device_ops, .opaque = memory},
        port = {.name = "port", .base = 0, .size = 0x10000, .ops = &device_ops, .opaque = memory};

    if (cpus < 1 || cpus > CPUS_MAX || !memory ||
        memory_add_ram(memory, "low", 0, PAGES * PAGE_SIZE, &err) ||
        memory_add_rom(memory, "rom", ROM_AT, rom, sizeof(rom), &err) ||
        memory_add_ram(memory, "high", HIGH_AT, 2 * PAGE_SIZE, &err) ||
        memory_add_mmio(memory, &io, &err) || memory_add_pio(memory, &port, &err) ||
        x86_cpu_model_parse(&model, "max", &err)) {
        fprintf(stderr, "storm: %s\n", err.message);
        return 1;
    }
    struct engine *engine = engine_create_for_test(engine_under_test(), memory, &err);
    if (!engine) {
        fprintf(stderr, "storm: %s\n", err.message);
        return 1;
    }
    for (unsigned i = 0; i < cpus; i++) {
        storm[i].first = first;
        storm[i].count = count;
        create(&storm[i], memory, engine, i, cpus);
    }
    for (uint64_t page = 0; page < PAGES; page++)
        fill_page(&storm[0], page);
    for (unsigned i = 0; i < cpus; i++)
        pthread_create(&thread[i], NULL, run_all, &storm[i]);
    for (unsigned i = 0; i < cpus; i++) {
        if (!watch(&storm[i]))
            abort();
        pthread_join(thread[i], NULL);
    }
    for (unsigned i = 0; i < cpus; i++) {
        engine_under_test()->vcpu_destroy(storm[i].vcpu);
        free(storm[i].cpu);
    }
    engine_under_test()->destroy(engine);
    memory_destroy(memory);
    return 0;
}
