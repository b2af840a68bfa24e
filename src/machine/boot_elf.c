// SPDX-License-Identifier: Apache-2.0
#include "machine/boot_elf.h"
#include "machine/layout.h"
#include <elf.h>
#include <string.h>

#define SEGMENTS_MAX 64 // kernels have a handful; more would only keep the loader busy

bool boot_elf_is(const struct boot_file *file)
{
    return file->size >= SELFMAG && memcmp(file->data, ELFMAG, SELFMAG) == 0;
}

static void header_get(struct boot_elf *elf, uint16_t *machine)
{
    const uint8_t *data = elf->file->data;

    if (elf->wide) {
        Elf64_Ehdr eh;
        memcpy(&eh, data, sizeof(eh));
        *machine = eh.e_machine;
        elf->entry = eh.e_entry;
        elf->segments_at = eh.e_phoff, elf->segments = eh.e_phnum;
        elf->segment_size = eh.e_phentsize;
        elf->sections_at = eh.e_shoff, elf->sections = eh.e_shnum;
        elf->section_size = eh.e_shentsize, elf->strings = eh.e_shstrndx;
    } else {
        Elf32_Ehdr eh;
        memcpy(&eh, data, sizeof(eh));
        *machine = eh.e_machine;
        elf->entry = eh.e_entry;
        elf->segments_at = eh.e_phoff, elf->segments = eh.e_phnum;
        elf->segment_size = eh.e_phentsize;
        elf->sections_at = eh.e_shoff, elf->sections = eh.e_shnum;
        elf->section_size = eh.e_shentsize, elf->strings = eh.e_shstrndx;
    }
}

int boot_elf_open(struct boot_elf *elf, const struct boot_file *file, struct error *err)
{
    unsigned class = boot_elf_is(file) && file->size > EI_DATA ? file->data[EI_CLASS] : 0;
    bool wide = class == ELFCLASS64;
    uint16_t machine;

    *elf = (struct boot_elf){.file = file, .wide = wide};
    if ((class != ELFCLASS32 && !wide) || file->data[EI_DATA] != ELFDATA2LSB ||
        file->size < (wide ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr)))
        return error_set(err, ERROR_INPUT, "kernel '%s' is a damaged or big-endian ELF file",
                         file->path);
    header_get(elf, &machine);
    if (machine != EM_386 && machine != EM_X86_64)
        return error_set(err, ERROR_INPUT,
                         "kernel '%s' is an ELF file for another processor (e_machine %u); one for "
                         "i386 or x86-64 is needed",
                         file->path, machine);
    if (elf->segments > SEGMENTS_MAX)
        return error_set(err, ERROR_INPUT, "kernel '%s' has %u program headers; %d are accepted",
                         file->path, elf->segments, SEGMENTS_MAX);
    if (elf->segments &&
        (elf->segment_size < (wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) ||
         !boot_file_range(file, elf->segments_at, (uint64_t)elf->segments * elf->segment_size)))
        return error_set(err, ERROR_INPUT,
                         "kernel '%s' is truncated: its %u program headers lie outside the file",
                         file->path, elf->segments);
    return 0;
}

struct boot_elf_segment boot_elf_segment_get(const struct boot_elf *elf, unsigned i)
{
    const uint8_t *at = elf->file->data + elf->segments_at + (uint64_t)i * elf->segment_size;

    if (elf->wide) {
        Elf64_Phdr ph;
        memcpy(&ph, at, sizeof(ph));
        return (struct boot_elf_segment){ph.p_type,   ph.p_offset, ph.p_vaddr, ph.p_paddr,
                                         ph.p_filesz, ph.p_memsz,  ph.p_align};
    }
    Elf32_Phdr ph;
    memcpy(&ph, at, sizeof(ph));
    return (struct boot_elf_segment){ph.p_type,   ph.p_offset, ph.p_vaddr, ph.p_paddr,
                                     ph.p_filesz, ph.p_memsz,  ph.p_align};
}

int boot_elf_load(struct memory *memory, const struct boot_config *config,
                  const struct boot_elf *elf, uint64_t *end, struct error *err)
{
    const struct boot_file *file = elf->file;

    *end = 0;
    for (unsigned i = 0; i < elf->segments; i++) {
        struct boot_elf_segment segment = boot_elf_segment_get(elf, i);
        if (segment.type != PT_LOAD || segment.memsz == 0)
            continue;
        if (segment.filesz > segment.memsz ||
            !boot_file_range(file, segment.offset, segment.filesz))
            return error_set(err, ERROR_INPUT,
                             "kernel '%s' is truncated: segment %u lies outside the file",
                             file->path, i);
        if (boot_load_image(memory, config, segment.paddr, file->data + segment.offset,
                            segment.filesz, segment.memsz, "segment", i, err))
            return -1;
        if (segment.paddr + segment.memsz > *end)
            *end = segment.paddr + segment.memsz;
    }
    if (*end == 0)
        return error_set(err, ERROR_INPUT,
                         "kernel '%s' has no segment to load (PT_LOAD); link it as an executable",
                         file->path);
    return 0;
}
