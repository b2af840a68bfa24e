// SPDX-License-Identifier: Apache-2.0
// PVH direct boot (Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h): an ELF file with a
// PHYS32_ENTRY note, entered in 32-bit protected mode without paging, EBX = start info.
#include "machine/boot.h"
#include "machine/layout.h"
#include <elf.h>
#include <string.h>

#define NOTE_PHYS32_ENTRY 18
#define SEGMENTS_MAX 64 // kernels have a handful; more would only keep the loader busy
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

// One program header, whatever the ELF class.
struct segment {
    uint32_t type;
    uint64_t offset, paddr, filesz, memsz, align;
};

static bool range_ok(const struct boot_file *file, uint64_t offset, uint64_t size)
{
    return offset <= file->size && size <= file->size - offset;
}

static bool segment_get(const struct boot_file *file, unsigned i, struct segment *out)
{
    if (file->data[EI_CLASS] == ELFCLASS64) {
        Elf64_Ehdr eh;
        Elf64_Phdr ph;
        memcpy(&eh, file->data, sizeof(eh));
        uint64_t at = eh.e_phoff + (uint64_t)i * eh.e_phentsize;
        if (eh.e_phentsize < sizeof(ph) || eh.e_phoff > file->size ||
            !range_ok(file, at, sizeof(ph)))
            return false;
        memcpy(&ph, file->data + at, sizeof(ph));
        *out = (struct segment){ph.p_type,   ph.p_offset, ph.p_paddr,
                                ph.p_filesz, ph.p_memsz,  ph.p_align};
    } else {
        Elf32_Ehdr eh;
        Elf32_Phdr ph;
        memcpy(&eh, file->data, sizeof(eh));
        uint64_t at = eh.e_phoff + (uint64_t)i * eh.e_phentsize;
        if (eh.e_phentsize < sizeof(ph) || !range_ok(file, at, sizeof(ph)))
            return false;
        memcpy(&ph, file->data + at, sizeof(ph));
        *out = (struct segment){ph.p_type,   ph.p_offset, ph.p_paddr,
                                ph.p_filesz, ph.p_memsz,  ph.p_align};
    }
    return true;
}

// The address in the PHYS32_ENTRY note of a PT_NOTE segment, or false.
static bool find_entry(const struct boot_file *file, const struct segment *note, uint64_t *entry)
{
    uint64_t at = 0, align = note->align == 8 ? 8 : 4;

    if (!range_ok(file, note->offset, note->filesz))
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

int boot_pvh_load(struct memory *memory, const struct boot_config *config,
                  const struct boot_file *file, struct boot_entry *entry, struct error *err)
{
    struct segment segment;
    uint64_t start = 0, kernel_end = 0;
    unsigned count, class = file->size > EI_CLASS ? file->data[EI_CLASS] : 0;
    bool found = false;

    if (file->size < sizeof(Elf64_Ehdr) || (class != ELFCLASS32 && class != ELFCLASS64) ||
        file->data[EI_DATA] != ELFDATA2LSB)
        return error_set(err, ERROR_INPUT, "kernel '%s' is a damaged or big-endian ELF file",
                         file->path);
    if (class == ELFCLASS64) {
        Elf64_Ehdr eh;
        memcpy(&eh, file->data, sizeof(eh));
        count = eh.e_phnum;
    } else {
        Elf32_Ehdr eh;
        memcpy(&eh, file->data, sizeof(eh));
        count = eh.e_phnum;
    }
    if (count > SEGMENTS_MAX)
        return error_set(err, ERROR_INPUT, "kernel '%s' has %u program headers; %d are accepted",
                         file->path, count, SEGMENTS_MAX);
    for (unsigned i = 0; i < count; i++) {
        if (!segment_get(file, i, &segment))
            return error_set(err, ERROR_INPUT,
                             "kernel '%s' is truncated: program header %u lies outside the file",
                             file->path, i);
        if (segment.type == PT_NOTE && !found)
            found = find_entry(file, &segment, &start);
        if (segment.type != PT_LOAD || segment.memsz == 0)
            continue;
        if (segment.filesz > segment.memsz || !range_ok(file, segment.offset, segment.filesz))
            return error_set(err, ERROR_INPUT,
                             "kernel '%s' is truncated: segment %u lies outside the file",
                             file->path, i);
        uint64_t top = layout_ram_below_4g(config->memory_size);
        if (segment.paddr < LAYOUT_HIGH_RAM || segment.paddr > top ||
            segment.memsz > top - segment.paddr)
            return error_set(err, ERROR_INPUT,
                             "kernel '%s': segment %u wants %llu KiB at %#llx, outside the VM's "
                             "memory from 1 MiB to %llu MiB; use a larger --memory",
                             file->path, i, (unsigned long long)(segment.memsz >> 10),
                             (unsigned long long)segment.paddr, (unsigned long long)(top >> 20));
        // RAM is zero where nothing was written: the rest of memsz (bss) needs no store on a fresh
        // board, and after a reset the kernel may not rely on more than the file says.
        memory_write(memory, segment.paddr, file->data + segment.offset, segment.filesz);
        static const uint8_t zeroes[PAGE_SIZE];
        for (uint64_t at = segment.filesz; at < segment.memsz; at += sizeof(zeroes)) {
            uint64_t part = segment.memsz - at;
            memory_write(memory, segment.paddr + at, zeroes,
                         part < sizeof(zeroes) ? part : sizeof(zeroes));
        }
        if (segment.paddr + segment.memsz > kernel_end)
            kernel_end = segment.paddr + segment.memsz;
    }
    if (!found)
        return error_set(err, ERROR_INPUT,
                         "kernel '%s' is an ELF file without a PVH entry (Xen note PHYS32_ENTRY); "
                         "use a bzImage, or a vmlinux built with CONFIG_PVH",
                         file->path);
    if (start >= LAYOUT_PCI32)
        return error_set(err, ERROR_INPUT, "kernel '%s': PVH entry %#llx lies above memory",
                         file->path, (unsigned long long)start);

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
