// SPDX-License-Identifier: Apache-2.0
// ELF files as kernels: the one place that reads headers, segments and sections, whatever the class.
// PVH and Multiboot stand on it. Every number of the file is checked here, before it is used.
#pragma once

#include "machine/boot.h"

struct boot_elf {
    const struct boot_file *file;
    bool wide; // ELF64
    uint64_t entry;
    uint64_t segments_at, sections_at; // file offsets of the tables
    unsigned segments, segment_size;   // how many entries and the bytes of one
    unsigned sections, section_size;
    unsigned strings; // the section with the sections' names
};

// One program header.
struct boot_elf_segment {
    uint32_t type;
    uint64_t offset, vaddr, paddr, filesz, memsz, align;
};

static inline bool boot_file_range(const struct boot_file *file, uint64_t offset, uint64_t size)
{
    return offset <= file->size && size <= file->size - offset;
}

bool boot_elf_is(const struct boot_file *file); // it begins as an ELF file does

// Reads the header. The tables lie inside the file afterwards, and the segments are few.
int boot_elf_open(struct boot_elf *elf, const struct boot_file *file, struct error *err);
// Segment number i, below elf->segments. The segment itself may lie anywhere.
struct boot_elf_segment boot_elf_segment_get(const struct boot_elf *elf, unsigned i);
// Copies every PT_LOAD segment to its physical address; *end is the first byte behind the highest.
int boot_elf_load(struct memory *memory, const struct boot_config *config,
                  const struct boot_elf *elf, uint64_t *end, struct error *err);
