// SPDX-License-Identifier: Apache-2.0
// Runs cases in an engine of Croft's: a processor in long mode at CPL 3 with the linear layout of a
// Linux process as far as a case can see it (code page, window, selectors), through real page
// tables.
//
// An exception is observed as a kernel would: every IDT gate leads to a HLT of its own, the stack
// of the TSS holds the frame, CR2 the address. So a case also checks delivery.
//
// Two ways to run a case: the interpreter executes one of a single instruction step by step and is stopped
// behind it. Everything else runs on as the host does, to the exception of the HLT behind the case.
#include "../engine_under_test.h"
#include "../quiet_platform.h"
#include "base/error.h"
#include "case.h"
#include "memory/memory.h"
#include "x86/cpuid.h"
#include "x86/flags.h"
#include "x86/fpu.h"
#include "x86/mem.h"
#include "x86/system.h"
#include <inttypes.h>

// Physical memory.
#define PML4 0x1000
#define PDPT_LOW 0x2000
#define PD_LOW 0x3000
#define PT_CODE 0x4000
#define PT_WINDOW 0x5000
#define PDPT_HIGH 0x6000
#define PD_HIGH 0x7000
#define PT_HIGH 0x8000
#define KERNEL 0x10000 // five pages: IDT, GDT and TSS, handlers, stack, LDT
#define CODE 0x20000
#define MEMORY 0x21000 // RW0, RW1, RO
#define RAM_SIZE 0x30000

#define STEPS_MAX 20000
#define BUDGET \
    1000000      // instructions of a case; a repeated string instruction may count once per round
#define ROUNDS 4 // of an engine that translates

// Linear addresses of the kernel's pages.
#define KERNEL_LINEAR UINT64_C(0xffffffff80000000)
#define IDT_LINEAR KERNEL_LINEAR
#define GDT_LINEAR (KERNEL_LINEAR + 0x1000)
#define TSS_LINEAR (KERNEL_LINEAR + 0x1800)
#define HANDLERS (KERNEL_LINEAR + 0x2000)
#define STACK_TOP (KERNEL_LINEAR + 0x4000)
#define LDT_LINEAR STACK_TOP
#define TSS_LIMIT 0x67 // no I/O bitmap

#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_A 0x20u
#define PTE_D 0x40u
#define PTE_NX (UINT64_C(1) << 63)

static unsigned complained; // an engine that stopped says why, once
static struct memory *memory;
static struct x86_platform platform;
static struct x86_cpu *cpu;
static const struct engine_ops *ops;
static unsigned rounds;
static bool steps_through; // cases of one instruction
static struct engine *engine;
static struct engine_vcpu *vcpu;
static struct x86_cpu_model model;
static uint8_t content[ORACLE_MEMORY_SIZE];

// --- the little system around a case -------------------------------------------------------------

static void put64(gpa_t gpa, uint64_t value)
{
    memory_write(memory, gpa, &value, 8);
}

static void build_tables(void)
{
    const uint64_t table = PTE_P | PTE_W | PTE_U | PTE_A,
                   data = PTE_P | PTE_U | PTE_A | PTE_D | PTE_NX;
    put64(PML4, PDPT_LOW | table);
    put64(PML4 + 511 * 8, PDPT_HIGH | table);
    put64(PDPT_LOW, PD_LOW | table);
    put64(PD_LOW + (ORACLE_CODE_BASE >> 21) * 8, PT_CODE | table);
    put64(PD_LOW + (ORACLE_WINDOW_BASE >> 21) * 8, PT_WINDOW | table);
    put64(PT_CODE, CODE | PTE_P | PTE_U | PTE_A);
    put64(PT_WINDOW + 0 * 8, MEMORY | PTE_W | data);
    put64(PT_WINDOW + 1 * 8, (MEMORY + PAGE_SIZE) | PTE_W | data);
    put64(PT_WINDOW + 3 * 8, (MEMORY + 1 * PAGE_SIZE) | PTE_W | data);
    put64(PT_WINDOW + 4 * 8, (MEMORY + 2 * PAGE_SIZE) | data);
    put64(PDPT_HIGH + 510 * 8, PD_HIGH | table);
    put64(PD_HIGH, PT_HIGH | table);
    for (unsigned i = 0; i < 5; i++)
        put64(PT_HIGH + i * 8, (KERNEL + i * PAGE_SIZE) | PTE_P | PTE_W | PTE_A | PTE_D);
}

static void build_descriptors(void)
{
    for (unsigned i = 0; i < 16; i++)
        put64(KERNEL + 0x1000 + i * 8, oracle_descriptor((uint16_t)(i << 3)));
    for (unsigned i = 0; i < oracle_ldt_entries(); i++)
        put64(KERNEL + 0x4000 + i * 8, oracle_descriptor((uint16_t)(i << 3 | 7)));
    uint64_t low = TSS_LIMIT | (TSS_LINEAR & 0xffffff) << 16 | UINT64_C(0x8b) << 40 |
                   (TSS_LINEAR >> 24 & 0xff) << 56;
    put64(KERNEL + 0x1000 + 8 * 8, low);
    put64(KERNEL + 0x1000 + 9 * 8, TSS_LINEAR >> 32);
    put64(KERNEL + 0x1800 + 4, STACK_TOP);                 // RSP0
    put64(KERNEL + 0x1800 + 0x60, UINT64_C(0x8000) << 48); // the I/O bitmap begins behind the limit
    for (unsigned v = 0; v < 256; v++) {
        uint64_t handler = HANDLERS + 16 * v;
        unsigned dpl = v == X86_BP || v == X86_OF ? 3 : 0;
        put64(KERNEL + 16 * v, (handler & 0xffff) | UINT64_C(0x10) << 16 |
                                   (uint64_t)(0x8e | dpl << 5) << 40 |
                                   (handler >> 16 & 0xffff) << 48);
        put64(KERNEL + 16 * v + 8, handler >> 32);
    }
    static uint8_t halts[PAGE_SIZE];
    memset(halts, ORACLE_FILLER, sizeof(halts));
    memory_write(memory, KERNEL + 0x2000, halts, sizeof(halts));
    memory_write(memory, CODE, halts, sizeof(halts));
}

int oracle_croft_init(bool ldt, const char *name, unsigned wanted_rounds)
{
    struct error err = {0};
    ops = engine_find(name, &err);
    if (!ops) {
        fprintf(stderr, "oracle: %s\n", err.message);
        return -1;
    }
    steps_through = !strcmp(ops->name, "interp");
    rounds = wanted_rounds ? wanted_rounds : steps_through ? 1 : ROUNDS;
    memory = memory_create(&err);
    cpu = aligned_alloc(64, (sizeof(*cpu) + 63) & ~(size_t)63);
    if (!memory || !cpu || memory_add_ram(memory, "ram", 0, RAM_SIZE, &err) != 0 ||
        x86_cpu_model_parse(&model, "max", &err) != 0) {
        fprintf(stderr, "oracle: %s\n", err.message);
        return -1;
    }
    memset(cpu, 0, sizeof(*cpu));
    platform = quiet_platform();
    platform.memory = memory;
    cpu->platform = &platform;
    cpu->model = &model;
    x86_reset(cpu, false);
    engine = engine_create_for_test(ops, memory, &err);
    vcpu = engine ? ops->vcpu_create(engine, cpu, &err) : NULL;
    if (!vcpu) {
        fprintf(stderr, "oracle: %s\n", err.message);
        return -1;
    }
    build_tables();
    build_descriptors();
    cpu->cr0 =
        X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_PG;
    cpu->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_FSGSBASE |
               X86_CR4_OSXSAVE | X86_CR4_UMIP | X86_CR4_DE | X86_CR4_PGE;
    cpu->cr3 = PML4;
    cpu->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    cpu->xcr0 = 7;
    cpu->gdtr = (struct x86_table){.base = GDT_LINEAR, .limit = 0x7f};
    cpu->idtr = (struct x86_table){.base = IDT_LINEAR, .limit = 0xfff};
    cpu->tr = (struct x86_seg){.sel = 0x40, .attr = 0x8b, .limit = TSS_LIMIT, .base = TSS_LINEAR};
    cpu->ldtr = (struct x86_seg){.attr = X86_ATTR_UNUSABLE};
    if (ldt)
        cpu->ldtr = (struct x86_seg){
            .sel = 0x50, .attr = 0x82, .limit = oracle_ldt_entries() * 8 - 1, .base = LDT_LINEAR};
    ops->set_state(vcpu);
    return 0;
}

// --- state in and out ----------------------------------------------------------------------------

static void load_fpu(const struct oracle_fpu *fpu)
{
    struct x86_x87 *x87 = &cpu->x87;
    x86_fpu_sync(cpu);
    unsigned top = (fpu->fsw >> 11) & 7;
    x87->fcw = fpu->fcw;
    x87->fsw = fpu->fsw;
    x87->fop = fpu->fop;
    x87->fip = fpu->fip;
    x87->fdp = fpu->fdp;
    x87->fcs = x87->fds = 0;
    x87->ftw = 0;
    for (unsigned i = 0; i < 8; i++) {
        unsigned r = (top + i) & 7;
        memcpy(x87->reg[r], fpu->st[i], 16);
        memset(x87->reg[r] + 10, 0, 6);
        unsigned tag = fpu->ftw >> r & 1 ? x86_x87_tag(x87->reg[r]) : 3;
        x87->ftw |= (uint16_t)(tag << (2 * r));
    }
    cpu->mxcsr = fpu->mxcsr;
    memcpy(cpu->vec, fpu->ymm, sizeof(fpu->ymm));
}

static void save_fpu(struct oracle_fpu *fpu)
{
    const struct x86_x87 *x87 = &cpu->x87;
    x86_fpu_sync(cpu);
    memset(fpu, 0, sizeof(*fpu));
    unsigned top = (x87->fsw >> 11) & 7;
    fpu->fcw = x87->fcw;
    fpu->fsw = x87->fsw;
    fpu->fop = x87->fop;
    fpu->fip = x87->fip;
    fpu->fdp = x87->fdp;
    for (unsigned i = 0; i < 8; i++) {
        unsigned r = (top + i) & 7;
        memcpy(fpu->st[i], x87->reg[r], 10);
        if ((x87->ftw >> (2 * r) & 3) != 3)
            fpu->ftw |= (uint8_t)(1u << r);
    }
    fpu->mxcsr = cpu->mxcsr;
    memcpy(fpu->ymm, cpu->vec, sizeof(fpu->ymm));
}

static void load_state(const struct oracle_case *c)
{
    const struct oracle_state *in = &c->in;
    memcpy(cpu->gpr, in->gpr, sizeof(in->gpr));
    cpu->rip = in->rip;
    cpu->seg[X86_CS] = oracle_segment(in->cs);
    cpu->seg[X86_SS] = oracle_segment(in->ss);
    cpu->seg[X86_DS] = oracle_segment(in->ds);
    cpu->seg[X86_ES] = oracle_segment(in->es);
    cpu->seg[X86_FS] = oracle_segment(in->fs);
    cpu->seg[X86_GS] = oracle_segment(in->gs);
    cpu->seg[X86_FS].base = in->fs_base;
    cpu->seg[X86_GS].base = in->gs_base;
    cpu->cpl = 3;
    cpu->cr2 = 0;
    cpu->dr6 = 0xffff0ff0;
    cpu->dr6_pending = 0;
    cpu->shadow = 0;
    cpu->stepping = false;
    atomic_fetch_and(&cpu->events, ~(uint32_t)X86_EVENT_TRAP);
    cpu->activity = X86_ACTIVE;
    x86_set_rflags(cpu, in->rflags);
    load_fpu(&in->fpu);
    x86_mode_changed(cpu);
}

static uint64_t frame_word(uint64_t linear)
{
    uint64_t value = 0;
    memory_read(memory, KERNEL + (linear - KERNEL_LINEAR), &value, 8);
    return value;
}

static void save_state(struct oracle_result *r)
{
    struct oracle_state *out = &r->out;
    memcpy(out->gpr, cpu->gpr, sizeof(out->gpr));
    out->ds = cpu->seg[X86_DS].sel;
    out->es = cpu->seg[X86_ES].sel;
    out->fs = cpu->seg[X86_FS].sel;
    out->gs = cpu->seg[X86_GS].sel;
    out->fs_base = cpu->seg[X86_FS].base;
    out->gs_base = cpu->seg[X86_GS].base;
    save_fpu(&out->fpu);
    r->vector = ORACLE_DONE;
    r->error = 0;
    r->cr2 = 0;
    r->dr6 = 0;
    if (cpu->cpl == 3) {
        out->rip = cpu->rip;
        out->rflags = x86_get_rflags(cpu);
        out->cs = cpu->seg[X86_CS].sel;
        out->ss = cpu->seg[X86_SS].sel;
        return;
    }
    uint64_t sp = cpu->gpr[X86_RSP];
    r->vector = (int)((cpu->rip - HANDLERS) / 16);
    if (cpu->rip < HANDLERS || r->vector > 255 || sp < STACK_TOP - 48 || sp > STACK_TOP - 40) {
        r->vector = 0x1000 + cpu->activity; // no delivery that makes sense
        return;
    }
    if (sp == STACK_TOP - 48) {
        r->error = (uint32_t)frame_word(sp);
        sp += 8;
    }
    out->rip = frame_word(sp);
    out->cs = (uint16_t)frame_word(sp + 8);
    out->rflags = frame_word(sp + 16);
    out->gpr[X86_RSP] = frame_word(sp + 24);
    out->ss = (uint16_t)frame_word(sp + 32);
    if (r->vector == X86_PF)
        r->cr2 = cpu->cr2;
    if (r->vector == X86_DB)
        r->dr6 = cpu->dr6 & 0xe00f;
}

// As native.c judges it: what the next instruction met is not this case's.
static void finish_like_host(const struct oracle_case *c, struct oracle_result *r)
{
    if (!oracle_is_within(c, r->out.cs, r->out.rip) &&
        (r->vector == X86_GP || (r->vector == X86_PF && (r->error & 0x10)))) {
        r->vector = ORACLE_DONE;
        r->error = 0;
        r->cr2 = 0;
    }
}

static enum vm_exit_reason run_steps(const struct oracle_case *c)
{
    struct vm_exit exit = {0};
    // A repeated string instruction may count once per round, a pending trap takes a round too.
    unsigned steps = c->steps;
    for (unsigned i = 0; i < STEPS_MAX; i++) {
        ops->run(vcpu, 1, &exit);
        if (cpu->cpl != 3 || exit.reason == VM_EXIT_ERROR || exit.reason == VM_EXIT_SHUTDOWN)
            break;
        if (atomic_load(&cpu->events) & X86_EVENT_TRAP)
            continue;
        if ((cpu->rip != c->in.rip || cpu->seg[X86_CS].sel != c->in.cs) && --steps == 0)
            break;
    }
    return exit.reason;
}

unsigned oracle_croft_rounds(void)
{
    return rounds;
}

void oracle_croft_run(const struct oracle_case *c, unsigned round, struct oracle_result *result)
{
    static uint8_t code[PAGE_SIZE];
    enum vm_exit_reason reason;
    bool stepping = steps_through && !c->sequence;
    oracle_memory(c, content);
    memory_write(memory, MEMORY, content, sizeof(content));
    if (round == 0) {
        memset(code, ORACLE_FILLER, sizeof(code));
        oracle_put_code(c, code, false);
        memory_write(memory, CODE, code, sizeof(code));
    }
    load_state(c);
    if (stepping) {
        reason = run_steps(c);
    } else {
        struct vm_exit exit = {0};
        // Half of the cases begin with nothing cached, the others with what the cases before left.
        if (round == 0 && c->number * UINT64_C(0x9e3779b97f4a7c15) >> 63)
            ops->set_state(vcpu);
        ops->run(vcpu, c->looped ? 20 * BUDGET : BUDGET, &exit);
        reason = exit.reason;
        if (reason == VM_EXIT_ERROR && !complained++)
            fprintf(stderr, "oracle: the %s engine stopped: %s\n", ops->name, exit.message);
    }
    ops->get_state(vcpu);
    save_state(result);
    if (!stepping)
        finish_like_host(c, result);
    oracle_state_cut(c, &result->out);
    if (reason == VM_EXIT_ERROR || reason == VM_EXIT_SHUTDOWN ||
        (!stepping && reason != VM_EXIT_HALT))
        result->vector = 0x2000 + (int)reason;
    memory_read(memory, MEMORY, result->memory, sizeof(result->memory));
}

void oracle_croft_run_some(const struct oracle_case *c, unsigned instructions,
                           struct oracle_result *result)
{
    struct vm_exit exit = {0};
    oracle_memory(c, content);
    memory_write(memory, MEMORY, content, sizeof(content));
    load_state(c);
    ops->run(vcpu, instructions, &exit);
    ops->get_state(vcpu);
    save_state(result);
    oracle_state_cut(c, &result->out);
    if (exit.reason != VM_EXIT_BUDGET)
        result->vector = 0x2000 + (int)exit.reason;
    memory_read(memory, MEMORY, result->memory, sizeof(result->memory));
}

void oracle_croft_counters(FILE *file)
{
    struct engine_counter counters[ENGINE_COUNTERS_MAX];
    unsigned n = ops->counters(vcpu, counters, ENGINE_COUNTERS_MAX);
    for (unsigned i = 0; i < n; i++)
        fprintf(file, "%s: %s %" PRIu64 "\n", ops->name, counters[i].name, counters[i].value);
}
