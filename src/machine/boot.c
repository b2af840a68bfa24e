// SPDX-License-Identifier: Apache-2.0
#include "machine/boot_elf.h"
#include "machine/layout.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// A kernel or initrd larger than this cannot be placed below 4 GiB anyway.
#define FILE_MAX_SIZE GIB(3)

int boot_file_read(struct boot_file *file, const char *path, const char *what, struct error *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    *file = (struct boot_file){.path = path};
    if (fd < 0)
        return error_set(err, ERROR_INPUT, "%s '%s': %s; check the path", what, path,
                         strerror(errno));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return error_set(err, ERROR_INPUT, "%s '%s' is not a regular file", what, path);
    }
    if (st.st_size == 0 || (uint64_t)st.st_size > FILE_MAX_SIZE) {
        close(fd);
        return error_set(err, ERROR_INPUT, "%s '%s' is %s", what, path,
                         st.st_size == 0 ? "empty" : "too large (more than 3 GiB)");
    }
    file->size = (uint64_t)st.st_size;
    file->data = malloc(file->size);
    if (!file->data) {
        close(fd);
        return error_set(err, ERROR_HOST, "out of memory for %s '%s'", what, path);
    }
    for (uint64_t done = 0; done < file->size;) {
        ssize_t n = read(fd, file->data + done, file->size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            error_set(err, ERROR_INPUT, "%s '%s': %s", what, path,
                      n < 0 ? strerror(errno) : "the file became shorter while it was read");
            close(fd);
            boot_file_free(file);
            return -1;
        }
        done += (uint64_t)n;
    }
    close(fd);
    return 0;
}

void boot_file_free(struct boot_file *file)
{
    free(file->data);
    file->data = NULL;
}

unsigned boot_e820_map(uint64_t memory_size, struct boot_e820 map[BOOT_E820_MAX])
{
    unsigned n = 0;
    uint64_t below = layout_ram_below_4g(memory_size);

    map[n++] = (struct boot_e820){0, LAYOUT_EBDA, BOOT_E820_RAM};
    map[n++] = (struct boot_e820){LAYOUT_EBDA, LAYOUT_LOW_END - LAYOUT_EBDA, BOOT_E820_RESERVED};
    map[n++] =
        (struct boot_e820){LAYOUT_TABLES, LAYOUT_HIGH_RAM - LAYOUT_TABLES, BOOT_E820_RESERVED};
    map[n++] = (struct boot_e820){LAYOUT_HIGH_RAM, below - LAYOUT_HIGH_RAM, BOOT_E820_RAM};
    if (memory_size > below)
        map[n++] = (struct boot_e820){LAYOUT_4G, memory_size - below, BOOT_E820_RAM};
    return n;
}

int boot_load_initrd(struct memory *memory, const struct boot_config *config, uint64_t kernel_end,
                     uint64_t limit, gpa_t *gpa, uint64_t *size, struct error *err)
{
    struct boot_file file;
    uint64_t top = layout_ram_below_4g(config->memory_size);

    *gpa = *size = 0;
    if (!config->initrd)
        return 0;
    if (boot_file_read(&file, config->initrd, "initrd", err))
        return -1;
    if (top > limit)
        top = limit;
    uint64_t whole = (file.size + PAGE_OFFSET_MASK) & PAGE_MASK;
    if (top < whole || ((top - whole) & PAGE_MASK) < kernel_end) {
        error_set(err, ERROR_INPUT,
                  "initrd '%s' (%llu MiB) does not fit beside the kernel into %llu MiB of memory; "
                  "use a larger --memory",
                  config->initrd, (unsigned long long)(file.size >> 20),
                  (unsigned long long)(config->memory_size >> 20));
        boot_file_free(&file);
        return -1;
    }
    *gpa = (top - whole) & PAGE_MASK;
    *size = file.size;
    bool ok = memory_write(memory, *gpa, file.data, file.size);
    boot_file_free(&file);
    return ok ? 0 : error_set(err, ERROR_INPUT, "initrd '%s' does not fit", config->initrd);
}

int boot_load_cmdline(struct memory *memory, const struct boot_config *config, uint64_t max,
                      struct error *err)
{
    uint64_t length = strlen(config->cmdline);
    if (length > max || length >= LAYOUT_BOOT_CMDLINE_MAX)
        return error_set(err, ERROR_USAGE,
                         "--append: the command line has %llu characters, this kernel takes %llu",
                         (unsigned long long)length, (unsigned long long)max);
    memory_write(memory, LAYOUT_BOOT_CMDLINE, config->cmdline, length + 1);
    return 0;
}

int boot_load_image(struct memory *memory, const struct boot_config *config, gpa_t gpa,
                    const uint8_t *data, uint64_t size, uint64_t memory_size, const char *what,
                    unsigned i, struct error *err)
{
    static const uint8_t zeroes[PAGE_SIZE];
    uint64_t top = layout_ram_below_4g(config->memory_size);
    bool low = gpa >= LAYOUT_BOOT_FREE && gpa < LAYOUT_EBDA;
    uint64_t limit = low ? LAYOUT_EBDA : top;

    if ((!low && gpa < LAYOUT_HIGH_RAM) || gpa > limit || memory_size > limit - gpa)
        return error_set(err, ERROR_INPUT,
                         "kernel '%s': %s %u wants %llu KiB at %#llx, outside the memory that "
                         "kernels may use (192 to 639 KiB and 1 MiB to %llu MiB); use a larger "
                         "--memory or another link address",
                         config->kernel, what, i, (unsigned long long)(memory_size >> 10),
                         (unsigned long long)gpa, (unsigned long long)(top >> 20));
    memory_write(memory, gpa, data, size);
    // RAM keeps what it held through a reset: a kernel may rely on what its file says, zeroes too.
    for (uint64_t at = size; at < memory_size; at += sizeof(zeroes)) {
        uint64_t part = memory_size - at;
        memory_write(memory, gpa + at, zeroes, part < sizeof(zeroes) ? part : sizeof(zeroes));
    }
    return 0;
}

static enum boot_protocol protocol_of(const struct boot_file *file)
{
    if (boot_linux_is(file))
        return BOOT_LINUX;
    if (boot_multiboot_is(file))
        return BOOT_MULTIBOOT;
    return boot_elf_is(file) ? BOOT_PVH : BOOT_LINUX; // the loaders say what they miss
}

static int load_as(enum boot_protocol protocol, struct memory *memory,
                   const struct boot_config *config, const struct boot_file *file,
                   struct boot_entry *entry, struct error *err)
{
    if (file->size >= 2 && file->data[0] == 0x1f && file->data[1] == 0x8b)
        return error_set(
            err, ERROR_INPUT,
            "kernel '%s' is compressed with gzip; unpack it first: gunzip -c FILE >NEW",
            file->path);
    if (protocol != BOOT_MULTIBOOT && config->module_count)
        return error_set(err, ERROR_USAGE,
                         "--module is for Multiboot kernels, and '%s' is booted by another "
                         "protocol; use --initrd",
                         file->path);
    if (protocol == BOOT_MULTIBOOT)
        return boot_multiboot_load(memory, config, file, entry, err);
    if (protocol == BOOT_PVH)
        return boot_pvh_load(memory, config, file, entry, err);
    return boot_linux_load(memory, config, file, entry, err);
}

int boot_load(struct memory *memory, const struct boot_config *config, struct boot_entry *entry,
              struct error *err)
{
    struct boot_file file;

    if (boot_file_read(&file, config->kernel, "kernel", err))
        return -1;
    enum boot_protocol protocol = config->protocol ? config->protocol : protocol_of(&file);
    int result = load_as(protocol, memory, config, &file, entry, err);
    boot_file_free(&file);
    return result;
}
