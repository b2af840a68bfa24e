// SPDX-License-Identifier: Apache-2.0
// Direct boot of a kernel, without firmware: Linux bzImage (32- and 64-bit entry), Multiboot and PVH
// ELF. The loader checks the file as hostile input, copies it into guest RAM and says how the boot
// processor starts.
#pragma once

#include "base/error.h"
#include "machine/machine.h"
#include "memory/memory.h"
#include "x86/state.h"

struct boot_config {
    enum boot_protocol protocol;
    const char *kernel;         // path
    const char *initrd;         // path or NULL
    const char *const *modules; // "PATH" or "PATH TEXT" each
    unsigned module_count;
    const char *cmdline;  // never NULL
    uint64_t memory_size; // bytes of RAM as configured
    bool long_mode;       // the processor has it
    gpa_t rsdp;           // where the ACPI root pointer lies, 0 for none
};

enum boot_entry_mode {
    BOOT_ENTRY_PM32,
    BOOT_ENTRY_LONG64
};

struct boot_entry {
    enum boot_entry_mode mode;
    uint64_t rip;
    uint64_t rax, rbx, rsi; // boot protocol's argument registers
};

// Loads kernel, initrd, command line and parameters. 0, or -1 with err naming the file and the field.
int boot_load(struct memory *memory, const struct boot_config *config, struct boot_entry *entry,
              struct error *err);
// Puts a reset processor into the entry state (GDT, page tables, flat segments).
void boot_entry_apply(const struct boot_entry *entry, struct x86_cpu *cpu);

// MTRRs as firmware sets them, on every processor (Linux leaves PAT off without).
void boot_memory_types(struct x86_cpu *cpu);

// --- shared by the loaders (boot.c) -------------------------------------------------------------------
struct boot_file {
    const char *path;
    uint8_t *data;
    uint64_t size;
};
int boot_file_read(struct boot_file *file, const char *path, const char *what, struct error *err);
void boot_file_free(struct boot_file *file);

#define BOOT_E820_RAM 1
#define BOOT_E820_RESERVED 2
struct boot_e820 {
    uint64_t base, size;
    uint32_t type;
};
#define BOOT_E820_MAX 8
unsigned boot_e820_map(uint64_t memory_size, struct boot_e820 map[BOOT_E820_MAX]);
// Copies the initrd to the top of RAM at or below `limit` (exclusive), above `kernel_end`.
int boot_load_initrd(struct memory *memory, const struct boot_config *config, uint64_t kernel_end,
                     uint64_t limit, gpa_t *gpa, uint64_t *size, struct error *err);
// Copies `size` bytes of the kernel to `gpa` and clears the rest up to `memory_size`. The kernel's part
// `what` number `i` must lie in RAM, clear of what the loaders put below 1 MiB.
int boot_load_image(struct memory *memory, const struct boot_config *config, gpa_t gpa,
                    const uint8_t *data, uint64_t size, uint64_t memory_size, const char *what,
                    unsigned i, struct error *err);
int boot_load_cmdline(struct memory *memory, const struct boot_config *config, uint64_t max,
                      struct error *err);

bool boot_linux_is(const struct boot_file *file); // it has a bzImage's magic numbers
int boot_linux_load(struct memory *memory, const struct boot_config *config,
                    const struct boot_file *file, struct boot_entry *entry, struct error *err);
int boot_pvh_load(struct memory *memory, const struct boot_config *config,
                  const struct boot_file *file, struct boot_entry *entry, struct error *err);
// The file has a Multiboot header in its first 8192 bytes.
bool boot_multiboot_is(const struct boot_file *file);
int boot_multiboot_load(struct memory *memory, const struct boot_config *config,
                        const struct boot_file *file, struct boot_entry *entry, struct error *err);
