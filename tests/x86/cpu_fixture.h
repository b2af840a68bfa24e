// SPDX-License-Identifier: Apache-2.0
// One processor with flat segments, 8 MiB of RAM, a page of ROM and a device that remembers its last
// access, for tests of memory access, paging, CPUID, control registers and XSAVE.
// FAULT(call) runs a call and gives the vector it raised, or -1.
#pragma once

#include "memory/memory.h"
#include "x86/cpuid.h"
#include "x86/flags.h"
#include "x86/mem.h"
#include "x86/system.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
// cmocka wants these first
#include <cmocka.h>

#define RAM_SIZE MIB(8)
#define ROM_BASE MIB(16)
#define MMIO_BASE MIB(32)

enum mode {
    FLAT32,  // protected, no paging
    PAGED32, // 32-bit paging
    PAGED_PAE,
    LONG64,
    COMPAT32, // long mode, 32-bit code
};

static struct {
    struct x86_cpu cpu;
    struct x86_platform platform;
    struct x86_cpu_model model;
    struct memory *memory;
    uint64_t tsc;
    struct {
        uint64_t offset, value;
        unsigned size, reads, writes;
    } device;
    uint8_t cr8;
} fx;

#define CPU (&fx.cpu)
#define FAULT(call) (setjmp(fx.cpu.unwind) == 0 ? ((call), -1) : (int)fx.cpu.fault.vector)
#define ASSERT_OK(call) assert_int_equal(FAULT(call), -1)
#define ASSERT_GP(call)                          \
    do {                                         \
        assert_int_equal(FAULT(call), X86_GP);   \
        assert_int_equal(fx.cpu.fault.error, 0); \
    } while (0)

static inline void put(uint64_t gpa, uint64_t value, unsigned size)
{
    assert_true(memory_write(fx.memory, gpa, &value, size));
}
static inline uint64_t get(uint64_t gpa, unsigned size)
{
    uint64_t value = 0;
    assert_true(memory_read(fx.memory, gpa, &value, size));
    return value;
}

static uint64_t device_read(void *opaque, uint64_t offset, unsigned size)
{
    fx.device.offset = offset;
    fx.device.size = size;
    fx.device.reads++;
    return UINT64_C(0x8877665544332211) + offset;
}
static void device_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    fx.device.offset = offset;
    fx.device.size = size;
    fx.device.value = value;
    fx.device.writes++;
}
static const struct io_ops device_ops = {.read = device_read, .write = device_write};

static uint64_t fixture_tsc(void *opaque)
{
    return fx.tsc;
}
static uint8_t fixture_get_cr8(void *opaque)
{
    return fx.cr8;
}
static void fixture_set_cr8(void *opaque, uint8_t cr8)
{
    fx.cr8 = cr8;
}

static inline void set_cpl(unsigned cpl)
{
    fx.cpu.cpl = (uint8_t)cpl;
    x86_tlb_select(CPU);
}

// Puts the processor into a mode at CPL 0; cr3 as it is. Features stay off (WP, NXE, SMEP...).
static inline void set_mode(enum mode mode)
{
    struct x86_cpu *cpu = CPU;
    bool lng = mode == LONG64 || mode == COMPAT32;
    cpu->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | (mode != FLAT32 ? X86_CR0_PG : 0);
    cpu->cr4 =
        X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | (mode >= PAGED_PAE ? X86_CR4_PAE : X86_CR4_PSE);
    cpu->efer = lng ? X86_EFER_LME | X86_EFER_LMA : 0;
    for (unsigned i = 0; i < X86_SEG_COUNT; i++)
        cpu->seg[i] = (struct x86_seg){.sel = 0x10, .attr = 0xc093, .limit = 0xffffffff};
    cpu->seg[X86_CS].attr = mode == LONG64 ? 0xa09b : 0xc09b;
    cpu->tr = (struct x86_seg){.attr = 0x8b, .limit = 0x67};
    cpu->cpl = 0;
    cpu->rflags = X86_FLAG_R1;
    x86_tlb_flush_all(cpu);
    x86_mode_changed(cpu);
}

static inline int fixture_setup(void **state)
{
    static uint8_t rom[PAGE_SIZE];
    struct io_region region = {
        .name = "device", .base = MMIO_BASE, .size = PAGE_SIZE, .ops = &device_ops};
    memset(&fx, 0, sizeof(fx));
    memset(rom, 0x5a, sizeof(rom));
    fx.memory = memory_create(NULL);
    assert_non_null(fx.memory);
    assert_int_equal(memory_add_ram(fx.memory, "ram", 0, RAM_SIZE, NULL), 0);
    assert_int_equal(memory_add_rom(fx.memory, "rom", ROM_BASE, rom, sizeof(rom), NULL), 0);
    assert_int_equal(memory_add_mmio(fx.memory, &region, NULL), 0);
    fx.platform = (struct x86_platform){.memory = fx.memory,
                                        .cpu_count = 2,
                                        .tsc = fixture_tsc,
                                        .tsc_hz = 1000000000,
                                        .get_cr8 = fixture_get_cr8,
                                        .set_cr8 = fixture_set_cr8};
    assert_int_equal(x86_cpu_model_parse(&fx.model, "max", NULL), 0);
    fx.cpu.platform = &fx.platform;
    fx.cpu.model = &fx.model;
    assert_int_equal(x86_tlb_create(CPU), 0);
    x86_reset(CPU, false);
    return 0;
}
static inline int fixture_teardown(void **state)
{
    x86_tlb_destroy(CPU);
    memory_destroy(fx.memory);
    return 0;
}
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
