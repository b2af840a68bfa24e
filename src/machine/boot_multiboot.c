// SPDX-License-Identifier: Apache-2.0
// Multiboot Specification 0.6.96: a header in the first 8192 bytes of an ELF file or of a file that
// says itself where it goes, entered in 32-bit protected mode without paging, EAX = 2BADB002h,
// EBX = information.
//
// In memory: information, memory map and module list at LAYOUT_BOOT_PARAMS, the strings at
// LAYOUT_BOOT_CMDLINE; behind the kernel, from a page boundary, the ELF section headers with the
// sections that are not part of the image, then the modules, a page boundary each.
#include "base/log.h"
#include "machine/boot_elf.h"
#include "machine/layout.h"
#include <elf.h>
#include <string.h>

#define SEARCH 8192 // the header ends within these bytes
#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u

// Flags of the header: bits 0 to 15 must be understood, the others may be ignored.
#define WANT_PAGE_ALIGN 0x1u // modules on page boundaries: they always are
#define WANT_MEMORY 0x2u     // memory fields: always there
#define WANT_VIDEO 0x4u
#define HAS_ADDRESSES 0x10000u
#define KNOWN_REQUIREMENTS (WANT_PAGE_ALIGN | WANT_MEMORY | WANT_VIDEO)

struct header {
    uint32_t magic, flags, checksum;
    // With HAS_ADDRESSES:
    uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};
#define HEADER_MIN 12

#define INFO_MEMORY 0x1u
#define INFO_CMDLINE 0x4u
#define INFO_MODULES 0x8u
#define INFO_ELF 0x20u
#define INFO_MEMORY_MAP 0x40u
#define INFO_LOADER_NAME 0x200u

struct info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
    uint32_t elf_num, elf_size, elf_addr, elf_shndx;
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, loader_name;
    uint32_t apm_table, vbe[4];
};
struct map_entry {
    uint32_t size; // of the rest
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));
struct module {
    uint32_t start, end, string, reserved;
};
// Laid out one behind the other at LAYOUT_BOOT_PARAMS.
struct info_page {
    struct info info;
    struct map_entry map[BOOT_E820_MAX];
    struct module modules[MACHINE_MODULES_MAX + 1];
    char loader_name[32];
};
_Static_assert(offsetof(struct info, mmap_length) == 44 && offsetof(struct info, loader_name) == 64,
               "offsets of the specification's section 3.3");
_Static_assert(sizeof(struct map_entry) == 24 && sizeof(struct module) == 16, "3.3");
_Static_assert(LAYOUT_BOOT_PARAMS + sizeof(struct info_page) <= LAYOUT_BOOT_TABLES - 0x800,
               "room for the stack below LAYOUT_BOOT_STACK");

#define PAGE_FIELD(field) ((uint32_t)(LAYOUT_BOOT_PARAMS + offsetof(struct info_page, field)))

// What a load needs from one step to the next.
struct load {
    struct memory *memory;
    const struct boot_config *config;
    struct info_page page;
    uint64_t next;    // free memory behind the kernel
    uint64_t strings; // bytes used of the area for strings
};

// The header's offset in the file, or false. `header` is zero behind what the file holds.
static bool find_header(const struct boot_file *file, struct header *header, uint64_t *offset)
{
    uint64_t end = file->size < SEARCH ? file->size : SEARCH;

    for (uint64_t at = 0; at + HEADER_MIN <= end; at += 4) {
        uint64_t rest = end - at;
        *header = (struct header){0};
        memcpy(header, file->data + at, rest < sizeof(*header) ? rest : sizeof(*header));
        if (header->magic == HEADER_MAGIC &&
            header->magic + header->flags + header->checksum == 0) {
            *offset = at;
            return true;
        }
    }
    return false;
}

bool boot_multiboot_is(const struct boot_file *file)
{
    struct header header;
    uint64_t offset;
    return find_header(file, &header, &offset);
}

// --- the image -------------------------------------------------------------------------------------------

// The file says itself what goes where (flag 16): one piece from load_addr to load_end_addr, zeroes up
// to bss_end_addr; header_addr tells where in it the header is.
static int load_by_addresses(struct load *load, const struct boot_file *file,
                             const struct header *header, uint64_t offset, uint64_t *entry,
                             struct error *err)
{
    const char *wrong = NULL;
    uint64_t before = (uint64_t)header->header_addr - header->load_addr; // bytes before the header
    uint64_t size = file->size - offset + before;                        // to the end of the file

    if (offset + sizeof(*header) > file->size)
        wrong = "the header's address fields lie outside the file";
    else if (header->load_addr > header->header_addr)
        wrong = "load_addr lies above header_addr";
    else if (before > offset)
        wrong = "load_addr lies before the file's first byte";
    else if (header->load_end_addr && header->load_end_addr < header->load_addr)
        wrong = "load_end_addr lies below load_addr";
    else if (header->load_end_addr && header->load_end_addr - header->load_addr > size)
        wrong = "load_end_addr lies behind the file's last byte";
    else if (header->load_end_addr)
        size = header->load_end_addr - header->load_addr;
    if (!wrong && header->bss_end_addr && header->bss_end_addr < header->load_addr + size)
        wrong = "bss_end_addr lies below the end of the data";
    uint64_t whole = header->bss_end_addr ? header->bss_end_addr - header->load_addr : size;
    if (!wrong &&
        (header->entry_addr < header->load_addr || header->entry_addr - header->load_addr >= whole))
        wrong = "entry_addr lies outside the image";
    if (wrong)
        return error_set(err, ERROR_INPUT,
                         "kernel '%s': Multiboot header at %#llx: %s; the file is damaged or was "
                         "linked for another layout",
                         file->path, (unsigned long long)offset, wrong);
    if (boot_load_image(load->memory, load->config, header->load_addr, file->data + offset - before,
                        size, whole, "image", 0, err))
        return -1;
    *entry = header->entry_addr;
    load->next = header->load_addr + whole;
    return 0;
}

// e_entry is a linear address: the physical one is as far into its segment.
static uint64_t entry_of(const struct boot_elf *elf)
{
    for (unsigned i = 0; i < elf->segments; i++) {
        struct boot_elf_segment segment = boot_elf_segment_get(elf, i);
        if (segment.type == PT_LOAD && elf->entry >= segment.vaddr &&
            elf->entry - segment.vaddr < segment.memsz)
            return elf->entry - segment.vaddr + segment.paddr;
    }
    return elf->entry;
}

// Memory for `size` bytes behind what is there already, or false.
static bool reserve(struct load *load, uint64_t size, uint64_t align, gpa_t *gpa)
{
    uint64_t top = layout_ram_below_4g(load->config->memory_size);
    uint64_t at = (load->next + align - 1) / align * align;

    if (at < load->next || at > top || size > top - at)
        return false;
    *gpa = at;
    load->next = at + size;
    return true;
}

// Section headers, for kernels that look at their own symbols. A section without an address gets one.
static int load_sections(struct load *load, const struct boot_elf *elf, struct error *err)
{
    const struct boot_file *file = elf->file;
    uint64_t bytes = (uint64_t)elf->sections * elf->section_size;
    gpa_t table, at;

    if (!elf->sections)
        return 0;
    if (elf->section_size < (elf->wide ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr)) ||
        !boot_file_range(file, elf->sections_at, bytes))
        return error_set(err, ERROR_INPUT,
                         "kernel '%s' is truncated: its %u section headers lie outside the file; "
                         "`strip` removes them",
                         file->path, elf->sections);
    if (!reserve(load, bytes, PAGE_SIZE, &table))
        goto no_room;
    memory_write(load->memory, table, file->data + elf->sections_at, bytes);
    for (unsigned i = 0; i < elf->sections; i++) {
        Elf64_Shdr sh;
        uint64_t offset = (uint64_t)i * elf->section_size;
        if (elf->wide) {
            memcpy(&sh, file->data + elf->sections_at + offset, sizeof(sh));
        } else {
            Elf32_Shdr narrow;
            memcpy(&narrow, file->data + elf->sections_at + offset, sizeof(narrow));
            sh = (Elf64_Shdr){.sh_type = narrow.sh_type,
                              .sh_addr = narrow.sh_addr,
                              .sh_offset = narrow.sh_offset,
                              .sh_size = narrow.sh_size,
                              .sh_addralign = narrow.sh_addralign};
        }
        if (sh.sh_addr || !sh.sh_size || sh.sh_type == SHT_NOBITS || sh.sh_type == SHT_NULL)
            continue;
        if (!boot_file_range(file, sh.sh_offset, sh.sh_size))
            return error_set(err, ERROR_INPUT,
                             "kernel '%s' is truncated: section %u lies outside the file; `strip` "
                             "removes what is not loaded",
                             file->path, i);
        uint64_t align = sh.sh_addralign && sh.sh_addralign <= MIB(2) ? sh.sh_addralign : 16;
        if (!reserve(load, sh.sh_size, align, &at))
            goto no_room;
        memory_write(load->memory, at, file->data + sh.sh_offset, sh.sh_size);
        memory_write(
            load->memory,
            table + offset +
                (elf->wide ? offsetof(Elf64_Shdr, sh_addr) : offsetof(Elf32_Shdr, sh_addr)),
            &at, elf->wide ? 8 : 4);
    }
    load->page.info.flags |= INFO_ELF;
    load->page.info.elf_num = elf->sections;
    load->page.info.elf_size = elf->section_size;
    load->page.info.elf_addr = (uint32_t)table;
    load->page.info.elf_shndx = elf->strings;
    return 0;
no_room:
    return error_set(err, ERROR_INPUT,
                     "kernel '%s': its section headers and symbols do not fit behind it into %llu "
                     "MiB of memory; use a larger --memory, or `strip` the file",
                     file->path, (unsigned long long)(load->config->memory_size >> 20));
}

static int load_elf(struct load *load, const struct boot_file *file, uint64_t *entry,
                    struct error *err)
{
    struct boot_elf elf;

    if (boot_elf_open(&elf, file, err) ||
        boot_elf_load(load->memory, load->config, &elf, &load->next, err))
        return -1;
    if (load->next < LAYOUT_HIGH_RAM)
        load->next = LAYOUT_HIGH_RAM;
    *entry = entry_of(&elf);
    if (*entry >= layout_ram_below_4g(load->config->memory_size))
        return error_set(err, ERROR_INPUT,
                         "kernel '%s': entry %#llx lies above memory; use a "
                         "larger --memory or another link address",
                         file->path, (unsigned long long)*entry);
    return load_sections(load, &elf, err);
}

// --- strings and modules -------------------------------------------------------------------------------

// "NAME TEXT": by custom the first word is the image's name, and what reads the string skips it.
static int put_string(struct load *load, const char *path, size_t path_length, const char *text,
                      const char *flag, uint32_t *gpa, struct error *err)
{
    size_t name = path_length;
    while (name > 0 && path[name - 1] != '/')
        name--;
    const char *base = path + name;
    size_t base_length = path_length - name, length = strlen(text);

    if (length + base_length + 2 > LAYOUT_BOOT_CMDLINE_MAX - load->strings)
        return error_set(err, ERROR_USAGE,
                         "%s: the kernel's and the modules' command lines have more than %llu "
                         "characters together; shorten them",
                         flag, (unsigned long long)LAYOUT_BOOT_CMDLINE_MAX);
    gpa_t at = LAYOUT_BOOT_CMDLINE + load->strings;
    *gpa = (uint32_t)at;
    for (size_t i = 0; i < base_length; i++) {
        char c = base[i] == ' ' || base[i] == '\t' ? '_' : base[i];
        memory_write(load->memory, at++, &c, 1);
    }
    if (length)
        memory_write(load->memory, at++, " ", 1);
    memory_write(load->memory, at, text, length + 1);
    load->strings = at + length + 1 - LAYOUT_BOOT_CMDLINE;
    return 0;
}

// `spec` is "PATH" or "PATH TEXT".
static int load_module(struct load *load, const char *spec, bool with_text, const char *flag,
                       struct error *err)
{
    size_t path_length = with_text ? strcspn(spec, " \t") : strlen(spec);
    const char *text = spec + path_length + strspn(spec + path_length, " \t");
    struct module *module = &load->page.modules[load->page.info.mods_count];
    char path[4096];
    struct boot_file file;
    gpa_t gpa;

    if (path_length == 0 || path_length >= sizeof(path))
        return error_set(err, ERROR_USAGE, "%s '%.64s': 'FILE' or 'FILE TEXT' is needed", flag,
                         spec);
    memcpy(path, spec, path_length);
    path[path_length] = 0;
    if (put_string(load, path, path_length, text, flag, &module->string, err) ||
        boot_file_read(&file, path, "module", err))
        return -1;
    bool fits = reserve(load, file.size, PAGE_SIZE, &gpa) &&
                memory_write(load->memory, gpa, file.data, file.size);
    uint64_t size = file.size;
    boot_file_free(&file);
    if (!fits)
        return error_set(err, ERROR_INPUT,
                         "module '%s' (%llu MiB) does not fit behind the kernel into %llu MiB of "
                         "memory; use a larger --memory",
                         path, (unsigned long long)(size >> 20),
                         (unsigned long long)(load->config->memory_size >> 20));
    module->start = (uint32_t)gpa;
    module->end = (uint32_t)(gpa + size);
    load->page.info.mods_count++;
    return 0;
}

static int load_modules(struct load *load, struct error *err)
{
    const struct boot_config *config = load->config;

    if (config->initrd && load_module(load, config->initrd, false, "--initrd", err))
        return -1;
    for (unsigned i = 0; i < config->module_count && i < MACHINE_MODULES_MAX; i++)
        if (load_module(load, config->modules[i], true, "--module", err))
            return -1;
    load->page.info.flags |= INFO_MODULES;
    load->page.info.mods_addr = PAGE_FIELD(modules);
    return 0;
}

// --- the information ---------------------------------------------------------------------------------------

static void put_memory(struct load *load)
{
    struct info *info = &load->page.info;
    struct boot_e820 map[BOOT_E820_MAX];
    unsigned n = boot_e820_map(load->config->memory_size, map);
    uint64_t below = layout_ram_below_4g(load->config->memory_size);

    for (unsigned i = 0; i < n; i++)
        load->page.map[i] = (struct map_entry){.size = sizeof(struct map_entry) - 4,
                                               .base = map[i].base,
                                               .length = map[i].size,
                                               .type = map[i].type};
    info->flags |= INFO_MEMORY | INFO_MEMORY_MAP;
    info->mem_lower = LAYOUT_EBDA >> 10;
    info->mem_upper = (uint32_t)((below - LAYOUT_HIGH_RAM) >> 10);
    info->mmap_addr = PAGE_FIELD(map);
    info->mmap_length = n * (uint32_t)sizeof(struct map_entry);
}

int boot_multiboot_load(struct memory *memory, const struct boot_config *config,
                        const struct boot_file *file, struct boot_entry *entry, struct error *err)
{
    struct load load = {.memory = memory, .config = config};
    struct header header;
    uint64_t offset, start = 0;

    if (!find_header(file, &header, &offset))
        return error_set(err, ERROR_INPUT,
                         "kernel '%s' has no Multiboot header (1BADB002h with a matching checksum) "
                         "in its first 8192 bytes; use --boot auto",
                         file->path);
    uint32_t unknown = header.flags & 0xffff & ~KNOWN_REQUIREMENTS;
    if (unknown)
        return error_set(err, ERROR_INPUT,
                         "kernel '%s': Multiboot header at %#llx: flags %#x demand what version "
                         "0.6.96 does not define (bits %#x); it may be a later version's",
                         file->path, (unsigned long long)offset, header.flags, unknown);
    if (header.flags & WANT_VIDEO)
        log_info("the kernel asks for a video mode; there is no display, so it gets none");
    if (!(header.flags & HAS_ADDRESSES) && !boot_elf_is(file))
        return error_set(
            err, ERROR_INPUT,
            "kernel '%s': Multiboot header at %#llx: the file is no ELF file, and flag "
            "16 with the addresses is not set",
            file->path, (unsigned long long)offset);
    if (header.flags & HAS_ADDRESSES ? load_by_addresses(&load, file, &header, offset, &start, err)
                                     : load_elf(&load, file, &start, err))
        return -1;
    if (load.next < LAYOUT_HIGH_RAM)
        load.next = LAYOUT_HIGH_RAM;
    put_memory(&load);
    if (put_string(&load, file->path, strlen(file->path), config->cmdline, "--append",
                   &load.page.info.cmdline, err) ||
        load_modules(&load, err))
        return -1;
    load.page.info.flags |= INFO_CMDLINE | INFO_LOADER_NAME;
    load.page.info.loader_name = PAGE_FIELD(loader_name);
    memcpy(load.page.loader_name, "Croft", sizeof("Croft"));
    memory_write(memory, LAYOUT_BOOT_PARAMS, &load.page, sizeof(load.page));
    *entry = (struct boot_entry){
        .mode = BOOT_ENTRY_PM32, .rip = start, .rax = LOADER_MAGIC, .rbx = LAYOUT_BOOT_PARAMS};
    return 0;
}
