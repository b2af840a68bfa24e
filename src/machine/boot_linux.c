// SPDX-License-Identifier: Apache-2.0
// The Linux/x86 boot protocol (Documentation/arch/x86/boot.rst of the kernel): a bzImage of protocol
// 2.06 or later, entered in 64-bit mode when the kernel offers it, else in 32-bit protected mode.
#include "machine/boot.h"
#include "machine/layout.h"
#include <string.h>

// Offsets in the file's setup header and, the same, in the zero page.
#define HDR_SETUP_SECTS 0x1f1
#define HDR_SYSSIZE 0x1f4
#define HDR_BOOT_FLAG 0x1fe
#define HDR_JUMP 0x200
#define HDR_MAGIC 0x202
#define HDR_VERSION 0x206
#define HDR_TYPE_OF_LOADER 0x210
#define HDR_LOADFLAGS 0x211
#define HDR_RAMDISK_IMAGE 0x218
#define HDR_RAMDISK_SIZE 0x21c
#define HDR_HEAP_END_PTR 0x224
#define HDR_CMD_LINE_PTR 0x228
#define HDR_INITRD_ADDR_MAX 0x22c
#define HDR_KERNEL_ALIGNMENT 0x230
#define HDR_RELOCATABLE 0x234
#define HDR_XLOADFLAGS 0x236
#define HDR_CMDLINE_SIZE 0x238
#define HDR_PREF_ADDRESS 0x258
#define HDR_INIT_SIZE 0x260
// Zero page only.
#define ZP_ACPI_RSDP 0x070
#define ZP_E820_ENTRIES 0x1e8
#define ZP_HEADER 0x1f1
#define ZP_E820_TABLE 0x2d0

#define LOADED_HIGH 0x01
#define CAN_USE_HEAP 0x80
#define XLF_KERNEL_64 0x01
#define HEADER_MIN 0x264
#define INIT_SIZE_MAX GIB(2)

static uint64_t field(const struct boot_file *file, unsigned offset, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, file->data + offset, size);
    return value;
}

static void zp_put(uint8_t *zero_page, unsigned offset, uint64_t value, unsigned size)
{
    memcpy(zero_page + offset, &value, size);
}

static void zp_put_e820(uint8_t *zero_page, uint64_t memory_size)
{
    struct boot_e820 map[BOOT_E820_MAX];
    unsigned n = boot_e820_map(memory_size, map);

    for (unsigned i = 0; i < n; i++) {
        zp_put(zero_page, ZP_E820_TABLE + i * 20, map[i].base, 8);
        zp_put(zero_page, ZP_E820_TABLE + i * 20 + 8, map[i].size, 8);
        zp_put(zero_page, ZP_E820_TABLE + i * 20 + 16, map[i].type, 4);
    }
    zp_put(zero_page, ZP_E820_ENTRIES, n, 1);
}

bool boot_linux_is(const struct boot_file *file)
{
    return file->size >= HEADER_MIN && field(file, HDR_BOOT_FLAG, 2) == 0xaa55 &&
           field(file, HDR_MAGIC, 4) == 0x53726448;
}

int boot_linux_load(struct memory *memory, const struct boot_config *config,
                    const struct boot_file *file, struct boot_entry *entry, struct error *err)
{
    uint8_t zero_page[PAGE_SIZE] = {0};

    if (!boot_linux_is(file))
        return error_set(err, ERROR_INPUT,
                         "kernel '%s' is neither a Linux bzImage nor an ELF file nor has it a "
                         "Multiboot header; --kernel wants a file such as /boot/vmlinuz-*",
                         file->path);
    unsigned version = (unsigned)field(file, HDR_VERSION, 2);
    if (version < 0x206 || !(field(file, HDR_LOADFLAGS, 1) & LOADED_HIGH))
        return error_set(err, ERROR_INPUT,
                         "kernel '%s': boot protocol %u.%02u is too old; 2.06 (Linux 2.6.22) with "
                         "LOADED_HIGH is the oldest that boots",
                         file->path, version >> 8, version & 0xff);

    uint64_t setup_sects = field(file, HDR_SETUP_SECTS, 1);
    uint64_t setup_size = ((setup_sects ? setup_sects : 4) + 1) * 512;
    if (setup_size >= file->size)
        return error_set(err, ERROR_INPUT,
                         "kernel '%s' is truncated: setup_sects says %llu bytes of setup code, the "
                         "file has %llu",
                         file->path, (unsigned long long)setup_size,
                         (unsigned long long)file->size);
    uint64_t image_size = field(file, HDR_SYSSIZE, 4) * 16;
    if (image_size > file->size - setup_size + 15)
        return error_set(err, ERROR_INPUT,
                         "kernel '%s' is truncated: syssize says %llu bytes after the setup code, "
                         "the file has %llu",
                         file->path, (unsigned long long)image_size,
                         (unsigned long long)(file->size - setup_size));
    image_size = file->size - setup_size;

    // Where to: the preferred address when it fits, else 1 MiB (a relocatable kernel moves itself).
    bool relocatable = field(file, HDR_RELOCATABLE, 1);
    uint64_t load = LAYOUT_HIGH_RAM, init_size = image_size;
    if (version >= 0x20a) {
        uint64_t preferred = field(file, HDR_PREF_ADDRESS, 8);
        init_size = field(file, HDR_INIT_SIZE, 4);
        if (init_size < image_size)
            init_size = image_size;
        uint64_t align = field(file, HDR_KERNEL_ALIGNMENT, 4);
        if (preferred >= LAYOUT_HIGH_RAM && preferred < LAYOUT_PCI32 &&
            preferred + init_size <= config->memory_size)
            load = preferred;
        else if (relocatable && align > load && align < LAYOUT_PCI32)
            load = align;
    }
    uint64_t top = layout_ram_below_4g(config->memory_size);
    if (init_size > INIT_SIZE_MAX || load + init_size > top)
        return error_set(
            err, ERROR_INPUT,
            "kernel '%s' needs %llu MiB of memory to start, the VM has %llu MiB; use a "
            "larger --memory",
            file->path, (unsigned long long)((load + init_size) >> 20) + 1,
            (unsigned long long)(config->memory_size >> 20));

    uint64_t cmdline_max = field(file, HDR_CMDLINE_SIZE, 4);
    if (boot_load_cmdline(memory, config, cmdline_max ? cmdline_max : 255, err))
        return -1;
    gpa_t initrd;
    uint64_t initrd_size;
    if (boot_load_initrd(memory, config, load + init_size, field(file, HDR_INITRD_ADDR_MAX, 4) + 1,
                         &initrd, &initrd_size, err))
        return -1;
    if (!memory_write(memory, load, file->data + setup_size, image_size))
        return error_set(err, ERROR_INPUT, "kernel '%s' does not fit into memory", file->path);

    // The zero page: the file's setup header (its length stands in the jump at 0x200), then ours.
    uint64_t header_end = HDR_JUMP + 2 + field(file, HDR_JUMP + 1, 1);
    if (header_end > file->size || header_end > ZP_E820_TABLE)
        header_end = HEADER_MIN;
    memcpy(zero_page + ZP_HEADER, file->data + ZP_HEADER, header_end - ZP_HEADER);
    zp_put(zero_page, HDR_TYPE_OF_LOADER, 0xff, 1); // no assigned loader id
    zp_put(zero_page, HDR_LOADFLAGS, field(file, HDR_LOADFLAGS, 1) | CAN_USE_HEAP, 1);
    zp_put(zero_page, HDR_HEAP_END_PTR, 0xfe00, 2);
    zp_put(zero_page, HDR_CMD_LINE_PTR, LAYOUT_BOOT_CMDLINE, 4);
    zp_put(zero_page, HDR_RAMDISK_IMAGE, initrd, 4);
    zp_put(zero_page, HDR_RAMDISK_SIZE, initrd_size, 4);
    zp_put(zero_page, ZP_ACPI_RSDP, config->rsdp, 8);
    zp_put_e820(zero_page, config->memory_size);
    memory_write(memory, LAYOUT_BOOT_PARAMS, zero_page, sizeof(zero_page));

    bool enter64 =
        config->long_mode && version >= 0x20c && (field(file, HDR_XLOADFLAGS, 2) & XLF_KERNEL_64);
    *entry = (struct boot_entry){.mode = enter64 ? BOOT_ENTRY_LONG64 : BOOT_ENTRY_PM32,
                                 .rip = enter64 ? load + 0x200 : load,
                                 .rsi = LAYOUT_BOOT_PARAMS};
    return 0;
}
