// SPDX-License-Identifier: Apache-2.0
// The kernel loaders (bzImage, Multiboot and PVH ELF) on damaged files. The first byte chooses the loader
// and which magic numbers are put right, so that the fuzzer gets past them; the last byte chooses the
// memory size.
#include "machine/boot.h"
#include "machine/layout.h"
#include <elf.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend_linux(uint8_t *file, size_t size)
{
    if (size > 0x264) {
        memcpy(file + 0x1fe, "\x55\xaa", 2);
        memcpy(file + 0x202, "HdrS", 4);
        if (file[0x207] < 2 || file[0x207] > 3)
            file[0x207] = 2;
        file[0x211] |= 1;
    }
}

static void mend_elf(uint8_t *file, size_t size, bool wide)
{
    if (size > sizeof(Elf64_Ehdr)) {
        memcpy(file, "\177ELF", 4);
        file[EI_CLASS] = wide ? ELFCLASS64 : ELFCLASS32;
        file[EI_DATA] = ELFDATA2LSB;
        // Program headers right behind the header, at most four.
        if (wide) {
            Elf64_Ehdr *eh = (Elf64_Ehdr *)file;
            eh->e_machine = EM_X86_64;
            eh->e_phoff = sizeof(*eh);
            eh->e_phentsize = sizeof(Elf64_Phdr);
            eh->e_phnum &= 3;
        } else {
            Elf32_Ehdr *eh = (Elf32_Ehdr *)file;
            eh->e_machine = EM_386;
            eh->e_phoff = sizeof(*eh);
            eh->e_phentsize = sizeof(Elf32_Phdr);
            eh->e_phnum &= 3;
        }
    }
}

// A header at offset 8, or behind the program headers of an ELF file, with a matching checksum.
static void mend_multiboot(uint8_t *file, size_t size, bool elf)
{
    const uint32_t magic = 0x1badb002;
    size_t at = elf ? sizeof(Elf64_Ehdr) + 4 * sizeof(Elf64_Phdr) : 8;
    uint32_t flags;

    if (size < at + 12)
        return;
    memcpy(&flags, file + at + 4, sizeof(flags));
    flags &= elf ? 7 : 0x10007;
    uint32_t checksum = -(magic + flags);
    memcpy(file + at, &magic, 4);
    memcpy(file + at + 4, &flags, 4);
    memcpy(file + at + 8, &checksum, 4);
}

static int load(uint8_t choice, struct memory *memory, const struct boot_config *config,
                const struct boot_file *file, struct boot_entry *entry, struct error *err)
{
    if (choice & 1)
        return boot_linux_load(memory, config, file, entry, err);
    if (choice & 8)
        return boot_multiboot_load(memory, config, file, entry, err);
    return boot_pvh_load(memory, config, file, entry, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4)
        return 0;
    uint8_t choice = data[0];
    uint64_t memory_size = MACHINE_MEMORY_MIN + ((uint64_t)(data[size - 1] & 0x3f) << 20);
    struct boot_file file = {.path = "fuzz", .size = size - 3};
    struct boot_entry entry;
    struct error err = {0};

    file.data = malloc(file.size); // exact, so that ASan sees a read past the end
    memcpy(file.data, data + 1, file.size);
    if (choice & 1)
        mend_linux(file.data, file.size);
    else if (choice & 2)
        mend_elf(file.data, file.size, choice & 4);
    if (!(choice & 1) && choice & 8 && choice & 16)
        mend_multiboot(file.data, file.size, choice & 2);
    struct memory *memory = memory_create(NULL);
    memory_add_ram(memory, "low", 0, LAYOUT_LOW_END, NULL);
    memory_add_ram(memory, "main", LAYOUT_HIGH_RAM, memory_size - LAYOUT_HIGH_RAM, NULL);
    struct boot_config config = {.kernel = "fuzz", .cmdline = "a=b", .memory_size = memory_size};
    int result = load(choice, memory, &config, &file, &entry, &err);
    if ((result < 0) != (err.kind != ERROR_NONE))
        abort(); // a failure without a word, or a word without a failure
    memory_destroy(memory);
    free(file.data);
    return 0;
}
