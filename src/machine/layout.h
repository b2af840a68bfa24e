// SPDX-License-Identifier: Apache-2.0
// The PC's physical memory map as Croft lays it out. One place; every loader, table and chip uses it.
//
//   00000000-0009ffff  conventional memory (top KiB: EBDA)
//   000a0000-000bffff  VGA window (nothing there yet)
//   000c0000-000fffff  adapter ROM and BIOS area (RAM; ACPI and SMBIOS tables at e0000)
//   00100000-........  RAM, up to 3 GiB
//   c0000000-febfffff  32-bit PCI window
//   fec00000           I/O APIC      fed00000 HPET      fee00000 local APICs
//   1_00000000-......  the rest of RAM, then the 64-bit PCI window
#pragma once

#include "base/types.h"

#define LAYOUT_BDA UINT64_C(0x400) // the BIOS data area
#define LAYOUT_LOW_END UINT64_C(0xa0000)
#define LAYOUT_EBDA UINT64_C(0x9fc00)
#define LAYOUT_BIOS_AREA UINT64_C(0xc0000)
#define LAYOUT_TABLES UINT64_C(0xe0000) // RSDP first, then the ACPI tables
#define LAYOUT_SMBIOS UINT64_C(0xf0000)
#define LAYOUT_HIGH_RAM UINT64_C(0x100000)
#define LAYOUT_PCI32 UINT64_C(0xc0000000)
#define LAYOUT_PCI32_END UINT64_C(0xfec00000)
#define LAYOUT_IOAPIC UINT64_C(0xfec00000)
#define LAYOUT_HPET UINT64_C(0xfed00000)
#define LAYOUT_LAPIC UINT64_C(0xfee00000)
#define LAYOUT_4G (UINT64_C(1) << 32)

// Where direct boots put what a firmware would have prepared.
#define LAYOUT_BOOT_GDT UINT64_C(0x500)
#define LAYOUT_BOOT_PARAMS \
    UINT64_C(0x7000) // Linux zero page, PVH start info or Multiboot information
#define LAYOUT_BOOT_TABLES UINT64_C(0x9000) // page tables: PML4, PDPT, 4 page directories
#define LAYOUT_BOOT_STACK UINT64_C(0x8ff0)
#define LAYOUT_BOOT_CMDLINE UINT64_C(0x20000)
#define LAYOUT_BOOT_CMDLINE_MAX UINT64_C(0x10000)
#define LAYOUT_BOOT_FREE UINT64_C(0x30000) // from here to the EBDA kernels may load

#define MACHINE_MEMORY_MIN MIB(2)
#define MACHINE_MEMORY_MAX GIB(1024)
#define MACHINE_CPUS_MAX 64

// How much of `size` bytes of RAM lies below the PCI window; the rest is above 4 GiB.
static inline uint64_t layout_ram_below_4g(uint64_t size)
{
    return size < LAYOUT_PCI32 ? size : LAYOUT_PCI32;
}
