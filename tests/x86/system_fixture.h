// SPDX-License-Identifier: Apache-2.0
// One processor with 4 MiB of RAM, descriptor tables and page tables, for tests of the system
// floor. FAULT(f, call) runs a call and tells which exception it raised (-1: none).
#pragma once

#include "memory/memory.h"
#include "x86/cpuid.h"
#include "x86/flags.h"
#include "x86/mem.h"
#include "x86/system.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
// cmocka wants these first
#include <cmocka.h>

#define GDT 0x1000
#define IDT 0x2000
#define TSS 0x3000
#define TSS2 0x3800
#define LDT 0x4000
#define PML4 0x10000
#define PDPT 0x11000
#define PD 0x12000
#define PT 0x13000 // 4 KiB pages for the first 2 MiB in long mode
#define STACK0 0x20000
#define STACK3 0x30000
#define CODE 0x40000
#define RAM_SIZE MIB(4)

enum {
    SEL_CODE0 = 0x08,
    SEL_DATA0 = 0x10,
    SEL_CODE3 = 0x18,
    SEL_DATA3 = 0x20, // SYSRET order: data, then 64-bit code
    SEL_CODE64_3 = 0x28,
    SEL_CODE64_0 = 0x30,
    SEL_DATA0_L = 0x38, // behind it, for SYSCALL
    SEL_TSS = 0x40,     // 16 bytes
    SEL_LDT = 0x50,     // 16 bytes
    SEL_CODE16 = 0x60,
    SEL_DATA16 = 0x68,
    SEL_CONF0 = 0x70, // conforming
    SEL_ABSENT = 0x78,
    SEL_GATE = 0x80, // 16 bytes
    SEL_TSS2 = 0x90,
    SEL_TASKGATE = 0x98,
    SEL_ROCODE = 0xa0, // execute-only code
    SEL_RODATA = 0xa8,
    SEL_DOWN = 0xb0, // expand-down
    SEL_TSS16 = 0xb8,
};
#define GDT_LIMIT 0xff

struct fix {
    struct x86_cpu cpu;
    struct x86_platform platform;
    struct x86_cpu_model model;
    struct memory *memory;
    int interrupt; // what the next acknowledge gives
    bool bsp;
};

#define FAULT(f, call) (setjmp((f)->cpu.unwind) == 0 ? ((call), -1) : (int)(f)->cpu.fault.vector)
#define FAULT_ERROR(f) ((f)->cpu.fault.error)

static inline void put(struct fix *f, uint64_t gpa, uint64_t value, unsigned size)
{
    assert_true(memory_write(f->memory, gpa, &value, size));
}
static inline uint64_t get(struct fix *f, uint64_t gpa, unsigned size)
{
    uint64_t value = 0;
    assert_true(memory_read(f->memory, gpa, &value, size));
    return value;
}

// access: type and S, DPL, P; flags: G D L AVL as the descriptor's high nibble.
static inline void put_desc(struct fix *f, uint64_t at, uint32_t base, uint32_t limit,
                            uint32_t access, uint32_t flags)
{
    uint64_t lo = (limit & 0xffff) | (base & 0xffff) << 16;
    uint64_t hi =
        (base >> 16 & 0xff) | access << 8 | (limit & 0xf0000) | flags << 20 | (base & 0xff000000);
    put(f, at, lo | hi << 32, 8);
}
static inline void put_gate(struct fix *f, uint64_t at, uint16_t sel, uint64_t off, uint32_t access,
                            uint32_t low5, bool wide)
{
    put(f, at, (off & 0xffff) | (uint32_t)sel << 16, 4);
    put(f, at + 4, (off & 0xffff0000) | access << 8 | low5, 4);
    if (wide)
        put(f, at + 8, off >> 32, 8);
}

static int fix_ack(void *opaque)
{
    struct fix *f = opaque;
    int vector = f->interrupt;
    f->interrupt = -1;
    return vector;
}
static bool fix_msr_read(void *opaque, uint32_t msr, uint64_t *value)
{
    struct fix *f = opaque;
    *value = 0xfee00800 | (f->bsp ? 0x100 : 0);
    return msr == 0x1b;
}

static inline int fix_setup(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));
    struct error err = {0};
    f->memory = memory_create(&err);
    assert_non_null(f->memory);
    assert_int_equal(memory_add_ram(f->memory, "ram", 0, RAM_SIZE, &err), 0);
    f->platform = (struct x86_platform){
        .opaque = f, .memory = f->memory, .intr_ack = fix_ack, .msr_read = fix_msr_read};
    f->model = (struct x86_cpu_model){.vendor = X86_VENDOR_INTEL,
                                      .family = 6,
                                      .model = 0x55,
                                      .stepping = 4,
                                      .phys_bits = 40,
                                      .lin_bits = 48};
    for (unsigned i = 0; i < X86_FEATURE_COUNT; i++)
        f->model.feature[i] = true;
    f->interrupt = -1;
    f->bsp = true;
    f->cpu.platform = &f->platform;
    f->cpu.model = &f->model;
    assert_int_equal(x86_tlb_create(&f->cpu), 0);
    x86_reset(&f->cpu, false);
    *state = f;
    return 0;
}
static inline int fix_teardown(void **state)
{
    struct fix *f = *state;
    x86_tlb_destroy(&f->cpu);
    memory_destroy(f->memory);
    free(f);
    return 0;
}

static inline void fix_tables(struct fix *f, bool lng)
{
    put_desc(f, GDT + SEL_CODE0, 0, 0xfffff, 0x9a, 0xc);
    put_desc(f, GDT + SEL_DATA0, 0, 0xfffff, 0x92, 0xc);
    put_desc(f, GDT + SEL_CODE3, 0, 0xfffff, 0xfa, 0xc);
    put_desc(f, GDT + SEL_DATA3, 0, 0xfffff, 0xf2, 0xc);
    put_desc(f, GDT + SEL_CODE64_0, 0, 0xfffff, 0x9a, 0xa);
    put_desc(f, GDT + SEL_DATA0_L, 0, 0xfffff, 0x92, 0xc);
    put_desc(f, GDT + SEL_CODE64_3, 0, 0xfffff, 0xfa, 0xa);
    put_desc(f, GDT + SEL_TSS, TSS, 0x7ff, 0x89, 0);
    put_desc(f, GDT + SEL_LDT, LDT, 0xff, 0x82, 0);
    put_desc(f, GDT + SEL_CODE16, 0, 0xffff, 0x9a, 0);
    put_desc(f, GDT + SEL_DATA16, 0, 0xffff, 0x92, 0);
    put_desc(f, GDT + SEL_CONF0, 0, 0xfffff, 0x9e, 0xc);
    put_desc(f, GDT + SEL_ABSENT, 0, 0xfffff, 0x12, 0xc);
    if (!lng) {
        put_desc(f, GDT + SEL_TSS2, TSS2, 0x67, 0x89, 0);
        put_gate(f, GDT + SEL_TASKGATE, SEL_TSS2, 0, 0xe5, 0, false);
        put_desc(f, GDT + SEL_TSS16, TSS2, 0x2b, 0x81, 0);
    }
    put_desc(f, GDT + SEL_ROCODE, 0, 0xfffff, 0x98, 0xc);
    put_desc(f, GDT + SEL_RODATA, 0, 0xfffff, 0xf0, 0xc);
    put_desc(f, GDT + SEL_DOWN, 0, 0xfff, 0x96, 0x4);
    f->cpu.gdtr = (struct x86_table){.base = GDT, .limit = GDT_LIMIT};
    f->cpu.idtr = (struct x86_table){.base = IDT, .limit = 0xfff};
}

// Loads CS and SS for `cpl` without transfers, as a saved state would.
static inline void fix_level(struct fix *f, unsigned cpl, uint16_t cs, uint16_t ss)
{
    struct x86_cpu *cpu = &f->cpu;
    uint64_t d[2];
    uint16_t sel[2] = {cs, ss};
    static const uint8_t reg[2] = {X86_CS, X86_SS};
    for (int i = 0; i < 2; i++) {
        d[i] = get(f, GDT + (sel[i] & ~7u), 8);
        uint32_t hi = (uint32_t)(d[i] >> 32), limit = (d[i] & 0xffff) | (hi & 0xf0000);
        cpu->seg[reg[i]] = (struct x86_seg){.sel = sel[i] | cpl,
                                            .attr = ((hi >> 8) & 0xf0ff) | 1,
                                            .limit = hi & 0x800000 ? limit << 12 | 0xfff : limit};
    }
    cpu->cpl = cpl;
    x86_mode_changed(cpu);
}

static inline void fix_protected(struct fix *f)
{
    struct x86_cpu *cpu = &f->cpu;
    fix_tables(f, false);
    cpu->cr0 |= X86_CR0_PE;
    fix_level(f, 0, SEL_CODE0, SEL_DATA0);
    assert_int_equal(FAULT(f, x86_ltr(cpu, SEL_TSS)), -1);
    put(f, TSS + 4, STACK0, 4);
    put(f, TSS + 8, SEL_DATA0, 4);
    static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(FAULT(f, x86_load_seg(cpu, data[i], SEL_DATA3 | 3)), -1);
    cpu->gpr[X86_RSP] = STACK0 - 0x100;
    cpu->rip = cpu->insn_rip = CODE;
}

static inline void fix_long(struct fix *f)
{
    struct x86_cpu *cpu = &f->cpu;
    fix_tables(f, true);
    put(f, PML4, PDPT | 7, 8);
    put(f, PDPT, PD | 7, 8);
    put(f, PD, PT | 7, 8);
    put(f, PD + 8, 0x200000 | 0x87, 8);
    for (unsigned i = 0; i < 512; i++)
        put(f, PT + i * 8, i << 12 | 7, 8);
    cpu->cr3 = PML4;
    cpu->cr4 = X86_CR4_PAE;
    cpu->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE;
    cpu->cr0 |= X86_CR0_PE | X86_CR0_PG | X86_CR0_WP;
    fix_level(f, 0, SEL_CODE64_0, SEL_DATA0);
    assert_int_equal(FAULT(f, x86_ltr(cpu, SEL_TSS)), -1);
    put(f, TSS + 4, STACK0, 8);
    static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(FAULT(f, x86_load_seg(cpu, data[i], SEL_DATA3 | 3)), -1);
    cpu->gpr[X86_RSP] = STACK0 - 0x100;
    cpu->rip = cpu->insn_rip = CODE;
}
#define LONG_GATE(f, v, sel, access, ist) \
    put_gate(f, IDT + (v)*16, sel, 0x50000 + (v), access, ist, true)
#define PROT_GATE(f, v, sel, access) put_gate(f, IDT + (v)*8, sel, 0x50000 + (v), access, 0, false)
