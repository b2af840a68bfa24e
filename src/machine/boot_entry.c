// SPDX-License-Identifier: Apache-2.0
// The processor's state when a directly booted kernel starts: what firmware would have prepared.
#include "machine/boot.h"
#include "machine/layout.h"
#include "x86/cpuid.h"
#include "x86/system.h"
#include <string.h>

#define SEL_CS 0x10 // __BOOT_CS
#define SEL_DS 0x18 // __BOOT_DS
#define SEL_TR 0x20

static uint64_t descriptor(uint32_t limit_pages, uint16_t access)
{
    return (uint64_t)(limit_pages & 0xffff) | (uint64_t)(access & 0xff) << 40 |
           (uint64_t)(limit_pages >> 16 & 0xf) << 48 | (uint64_t)(access >> 12 & 0xf) << 52;
}

static void set_segment(struct x86_cpu *cpu, struct x86_seg *seg, uint16_t sel, uint16_t access)
{
    *seg = (struct x86_seg){.sel = sel, .attr = access, .limit = 0xffffffff};
}

void boot_entry_apply(const struct boot_entry *entry, struct x86_cpu *cpu)
{
    struct memory *memory = cpu->platform->memory;
    bool long64 = entry->mode == BOOT_ENTRY_LONG64;
    uint16_t cs_access = long64 ? 0xa09b : 0xc09b, ds_access = 0xc093;
    uint64_t gdt[5] = {0, 0, descriptor(0xfffff, cs_access), descriptor(0xfffff, ds_access),
                       descriptor(0, 0x008b)};

    memory_write(memory, LAYOUT_BOOT_GDT, gdt, sizeof(gdt));
    cpu->gdtr = (struct x86_table){.base = LAYOUT_BOOT_GDT, .limit = sizeof(gdt) - 1};
    cpu->idtr = (struct x86_table){0};
    set_segment(cpu, &cpu->seg[X86_CS], SEL_CS, cs_access);
    for (unsigned seg = X86_ES; seg < X86_SEG_COUNT; seg++)
        if (seg != X86_CS)
            set_segment(cpu, &cpu->seg[seg], SEL_DS, ds_access);
    cpu->tr = (struct x86_seg){.sel = SEL_TR, .attr = 0x008b, .limit = 0x67};
    cpu->cr0 = X86_CR0_PE | X86_CR0_ET;
    if (long64) {
        // Identity map of the first 4 GiB with 2 MiB pages.
        uint64_t table[512] = {0};
        table[0] = (LAYOUT_BOOT_TABLES + 0x1000) | 3;
        memory_write(memory, LAYOUT_BOOT_TABLES, table, sizeof(table));
        for (unsigned i = 0; i < 4; i++)
            table[i] = (LAYOUT_BOOT_TABLES + 0x2000 + i * 0x1000) | 3;
        memory_write(memory, LAYOUT_BOOT_TABLES + 0x1000, table, sizeof(table));
        for (uint64_t i = 0; i < 4; i++) {
            for (uint64_t j = 0; j < 512; j++)
                table[j] = i << 30 | j << 21 | 0x83;
            memory_write(memory, LAYOUT_BOOT_TABLES + 0x2000 + i * 0x1000, table, sizeof(table));
        }
        cpu->cr3 = LAYOUT_BOOT_TABLES;
        cpu->cr4 = X86_CR4_PAE;
        cpu->efer = X86_EFER_LME | X86_EFER_LMA;
        cpu->cr0 |= X86_CR0_PG;
    }
    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->gpr[X86_RSP] = LAYOUT_BOOT_STACK;
    cpu->gpr[X86_RAX] = entry->rax;
    cpu->gpr[X86_RBX] = entry->rbx;
    cpu->gpr[X86_RSI] = entry->rsi;
    cpu->rip = entry->rip;
    cpu->activity = X86_ACTIVE;
    x86_mode_changed(cpu);
}

void boot_memory_types(struct x86_cpu *cpu)
{
    if (!x86_has(cpu->model, X86_FEATURE_mtrr))
        return;
    const uint64_t write_back = UINT64_C(0x0606060606060606);

    for (unsigned i = 0; i < ARRAY_SIZE(cpu->mtrr_fixed); i++)
        cpu->mtrr_fixed[i] = write_back;
    cpu->mtrr_fixed[2] = 0; // a0000-bffff, the VGA window: uncached
    cpu->mtrr_def = 0xc06;  // enabled, fixed ranges too; write-back elsewhere
    // The hole below 4 GiB, where devices are: c0000000-ffffffff uncached.
    cpu->mtrr_base[0] = LAYOUT_PCI32;
    cpu->mtrr_mask[0] =
        ((UINT64_C(1) << cpu->model->phys_bits) - 1 - (LAYOUT_4G - LAYOUT_PCI32 - 1)) | 0x800;
}
