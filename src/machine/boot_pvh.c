// SPDX-License-Identifier: Apache-2.0
// PVH direct boot (Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h): an ELF file with a
// PHYS32_ENTRY note, entered in 32-bit protected mode without paging, EBX = start info.
#include "machine/boot_elf.h"
#include "machine/layout.h"
#include <elf.h>
#include <string.h>

#define NOTE_PHYS32_ENTRY 18
#define START_INFO_MAGIC 0x336ec578u

struct start_info { // hvm_start_info, version 1
    uint32_t magic, version, flags, module_count;
    uint64_t modules, cmdline, rsdp, memmap;
    uint32_t memmap_entries, reserved;
};
struct start_module {
    uint64_t base, size, cmdline, reserved;
};
struct start_memmap {
    uint64_t base, size;
    uint32_t type, reserved;
};
// Laid out one behind the other at LAYOUT_BOOT_PARAMS.
struct start_page {
    struct start_info info;
    struct start_module module;
    struct start_memmap memmap[BOOT_E820_MAX];
};

// The address in the PHYS32_ENTRY note of a PT_NOTE segment, or false.
static bool note_entry(const struct boot_file *file, const struct boot_elf_segment *note,
                       uint64_t *entry)
{
    uint64_t at = 0, align = note->align == 8 ? 8 : 4;

    if (!boot_file_range(file, note->offset, note->filesz))
        return false;
    const uint8_t *notes = file->data + note->offset;
    while (note->filesz - at >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr nh; // the same layout in both classes
        memcpy(&nh, notes + at, sizeof(nh));
        uint64_t name = at + sizeof(nh);
        uint64_t desc = (name + nh.n_namesz + align - 1) / align * align;
        uint64_t next = (desc + nh.n_descsz + align - 1) / align * align;
        if (desc > note->filesz || nh.n_descsz > note->filesz - desc)
            return false;
        if (nh.n_type == NOTE_PHYS32_ENTRY && nh.n_namesz == 4 &&
            memcmp(notes + name, "Xen", 4) == 0 && (nh.n_descsz == 4 || nh.n_descsz == 8)) {
            *entry = 0;
            memcpy(entry, notes + desc, nh.n_descsz);
            return true;
        }
        if (next >= note->filesz)
            return false;
        at = next;
    }
    return false;
}

static bool find_entry(const struct boot_elf *elf, uint64_t *entry)
{
    for (unsigned i = 0; i < elf->segments; i++) {
        struct boot_elf_segment segment = boot_elf_segment_get(elf, i);
        if (segment.type == PT_NOTE && note_entry(elf->file, &segment, entry))
            return true;
    }
    return false;
}

int boot_pvh_load(struct memory *memory, const struct boot_config *config,
                  const struct boot_file *file, struct boot_entry *entry, struct error *err)
{
    struct boot_elf elf;
    uint64_t start, kernel_end;

    if (boot_elf_open(&elf, file, err))
        return -1;
    if (!find_entry(&elf, &start))
        return error_set(
            err, ERROR_INPUT,
            "kernel '%s' is an ELF file without a PVH entry (Xen note PHYS32_ENTRY)%s; "
            "use a bzImage, or a vmlinux built with CONFIG_PVH",
            file->path, config->protocol == BOOT_PVH ? "" : " and without a Multiboot header");
    if (start >= LAYOUT_PCI32)
        return error_set(err, ERROR_INPUT, "kernel '%s': PVH entry %#llx lies above memory",
                         file->path, (unsigned long long)start);

    if (boot_elf_load(memory, config, &elf, &kernel_end, err))
        return -1;

    gpa_t initrd;
    uint64_t initrd_size;
    struct boot_e820 map[BOOT_E820_MAX];
    if (boot_load_cmdline(memory, config, LAYOUT_BOOT_CMDLINE_MAX - 1, err) ||
        boot_load_initrd(memory, config, kernel_end, LAYOUT_PCI32, &initrd, &initrd_size, err))
        return -1;
    struct start_page page = {
        .info = {.magic = START_INFO_MAGIC,
                 .version = 1,
                 .module_count = initrd_size ? 1 : 0,
                 .modules = LAYOUT_BOOT_PARAMS + offsetof(struct start_page, module),
                 .cmdline = LAYOUT_BOOT_CMDLINE,
                 .rsdp = config->rsdp,
                 .memmap = LAYOUT_BOOT_PARAMS + offsetof(struct start_page, memmap),
                 .memmap_entries = boot_e820_map(config->memory_size, map)},
        .module = {.base = initrd, .size = initrd_size}};
    for (unsigned i = 0; i < page.info.memmap_entries; i++)
        page.memmap[i] = (struct start_memmap){map[i].base, map[i].size, map[i].type, 0};
    memory_write(memory, LAYOUT_BOOT_PARAMS, &page, sizeof(page));

    *entry = (struct boot_entry){.mode = BOOT_ENTRY_PM32, .rip = start, .rbx = LAYOUT_BOOT_PARAMS};
    return 0;
}
