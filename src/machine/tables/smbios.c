// SPDX-License-Identifier: Apache-2.0
// Section numbers are those of DSP0134 2.8.
#include "machine/tables/smbios.h"
#include "machine/tables/bytes.h"
#include <string.h>

#define ENTRY_SIZE 31 // padded to 32
#define ENTRY_INTERMEDIATE 16
#define MAKER "Croft"
#define UNKNOWN 2 // in most enumerations
#define NO_ERROR_INFO 0xFFFE
#define HANDLE_CHASSIS 0x0300
#define HANDLE_PROCESSOR 0x0400
#define HANDLE_ARRAY 0x1000
#define HANDLE_DEVICE 0x1100
#define HANDLE_MAPPED 0x1300

// A structure is a fixed part and, behind it, the strings that it refers to by number, ended by an empty
// one (6.1.3).
struct writer {
    struct bytes out;
    size_t start;   // of the open structure
    size_t largest; // structure so far, with its strings
    unsigned structures;
    const char *strings[8];
    unsigned string_count;
};

static void begin(struct writer *w, uint8_t type, uint16_t handle)
{
    w->start = w->out.size;
    w->string_count = 0;
    bytes_put8(&w->out, type);
    bytes_put8(&w->out, 0); // length
    bytes_put16(&w->out, handle);
}

// The number of this string in the open structure; empty strings are number 0, "none".
static void put_string(struct writer *w, const char *text)
{
    if (!text || !*text || w->string_count >= ARRAY_SIZE(w->strings)) {
        bytes_put8(&w->out, 0);
        return;
    }
    w->strings[w->string_count++] = text;
    bytes_put8(&w->out, (uint8_t)w->string_count);
}

static void end(struct writer *w)
{
    bytes_patch8(&w->out, w->start + 1, (uint8_t)(w->out.size - w->start));
    for (unsigned i = 0; i < w->string_count; i++)
        bytes_put(&w->out, w->strings[i], strlen(w->strings[i]) + 1);
    bytes_zeros(&w->out, w->string_count ? 1 : 2);
    w->structures++;
    if (w->out.size - w->start > w->largest)
        w->largest = w->out.size - w->start;
}

static void put_firmware(struct writer *w, const struct smbios_config *config)
{
    begin(w, 0, 0x0000);
    put_string(w, MAKER);
    put_string(w, config->version);
    bytes_put16(&w->out, 0xF000); // segment of the entry point's area
    put_string(w, "01/01/2026");
    bytes_put8(&w->out, 0);           // 64 KiB of ROM
    bytes_put64(&w->out, 1 << 3);     // characteristics: not supported to tell
    bytes_put8(&w->out, 0x01);        // extensions: ACPI
    bytes_put8(&w->out, 0x10);        // a virtual machine
    bytes_put32(&w->out, 0xFFFFFFFF); // releases of firmware and controller: none
    end(w);
}

static void put_system(struct writer *w, const struct smbios_config *config)
{
    const uint8_t *u = config->uuid;
    // The first three fields of the UUID are little-endian here (7.2.1).
    const uint8_t uuid[16] = {u[3], u[2], u[1],  u[0],  u[5],  u[4],  u[7],  u[6],
                              u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]};

    begin(w, 1, 0x0100);
    put_string(w, MAKER);
    put_string(w, config->product);
    put_string(w, config->version);
    put_string(w, NULL); // serial number
    bytes_put(&w->out, uuid, sizeof(uuid));
    bytes_put8(&w->out, 6); // woken by the power switch
    put_string(w, NULL);    // SKU
    put_string(w, "Virtual Machine");
    end(w);
}

static void put_chassis(struct writer *w, const struct smbios_config *config)
{
    begin(w, 3, HANDLE_CHASSIS);
    put_string(w, MAKER);
    bytes_put8(&w->out, 1); // type: other
    put_string(w, config->version);
    put_string(w, NULL);    // serial number
    put_string(w, NULL);    // asset tag
    bytes_put8(&w->out, 3); // states: safe
    bytes_put8(&w->out, 3);
    bytes_put8(&w->out, 3);
    bytes_put8(&w->out, UNKNOWN); // security
    bytes_put32(&w->out, 0);      // OEM-defined
    bytes_put8(&w->out, 0);       // height
    bytes_put8(&w->out, 0);       // power cords
    bytes_put8(&w->out, 0);       // contained elements
    bytes_put8(&w->out, 0);
    put_string(w, NULL); // SKU
    end(w);
}

static void put_processor(struct writer *w, const struct smbios_config *config)
{
    uint8_t cores = config->cpu_count > 255 ? 255 : (uint8_t)config->cpu_count;

    begin(w, 4, HANDLE_PROCESSOR);
    put_string(w, "CPU 0");
    bytes_put8(&w->out, 3); // central processor
    bytes_put8(&w->out, 1); // family: other
    put_string(w, config->cpu_vendor);
    bytes_put32(&w->out, config->cpu_signature);
    bytes_put32(&w->out, config->cpu_features);
    put_string(w, config->cpu_brand);
    bytes_put8(&w->out, 0);  // voltage
    bytes_put16(&w->out, 0); // external clock: unknown
    bytes_put16(&w->out, 0); // highest and current speed: unknown
    bytes_put16(&w->out, 0);
    bytes_put8(&w->out, 0x41);    // populated, enabled
    bytes_put8(&w->out, 1);       // socket: other
    bytes_put16(&w->out, 0xFFFF); // caches: none described
    bytes_put16(&w->out, 0xFFFF);
    bytes_put16(&w->out, 0xFFFF);
    put_string(w, NULL); // serial number
    put_string(w, NULL); // asset tag
    put_string(w, NULL); // part number
    bytes_put8(&w->out, cores);
    bytes_put8(&w->out, cores);   // enabled
    bytes_put8(&w->out, cores);   // threads
    bytes_put16(&w->out, 0x0004); // 64-bit capable
    bytes_put16(&w->out, 0x0001); // family, second field: other
    end(w);
}

static void put_memory_array(struct writer *w, uint64_t total)
{
    uint64_t kib = total >> 10;
    bool large = kib >= UINT64_C(0x80000000);

    begin(w, 16, HANDLE_ARRAY);
    bytes_put8(&w->out, 1); // location: other
    bytes_put8(&w->out, 3); // use: system memory
    bytes_put8(&w->out, 3); // no error correction
    bytes_put32(&w->out, large ? 0x80000000u : (uint32_t)kib);
    bytes_put16(&w->out, NO_ERROR_INFO);
    bytes_put16(&w->out, 1); // devices
    bytes_put64(&w->out, large ? total : 0);
    end(w);
}

static void put_memory_device(struct writer *w, uint64_t total)
{
    uint64_t mib = total >> 20;
    bool large = mib >= 0x7FFF;

    begin(w, 17, HANDLE_DEVICE);
    bytes_put16(&w->out, HANDLE_ARRAY);
    bytes_put16(&w->out, NO_ERROR_INFO);
    bytes_put16(&w->out, 64); // widths
    bytes_put16(&w->out, 64);
    bytes_put16(&w->out, large ? 0x7FFF : (uint16_t)mib);
    bytes_put8(&w->out, 9); // DIMM
    bytes_put8(&w->out, 0); // not in a set
    put_string(w, "DIMM 0");
    put_string(w, NULL);          // bank
    bytes_put8(&w->out, 7);       // type: RAM
    bytes_put16(&w->out, 1 << 1); // detail: other
    bytes_put16(&w->out, 0);      // speed: unknown
    put_string(w, MAKER);
    put_string(w, NULL); // serial number
    put_string(w, NULL); // asset tag
    put_string(w, NULL); // part number
    bytes_put8(&w->out, 0);
    bytes_put32(&w->out, large ? (uint32_t)mib & 0x7FFFFFFF : 0);
    bytes_put16(&w->out, 0); // configured speed and voltages: unknown
    bytes_put16(&w->out, 0);
    bytes_put16(&w->out, 0);
    bytes_put16(&w->out, 0);
    end(w);
}

static void put_mapped_range(struct writer *w, unsigned index, uint64_t first, uint64_t size)
{
    uint64_t last = first + size - 1;
    bool large = last >> 10 >= UINT32_MAX;

    if (size == 0)
        return;
    begin(w, 19, (uint16_t)(HANDLE_MAPPED + index));
    bytes_put32(&w->out, large ? UINT32_MAX : (uint32_t)(first >> 10));
    bytes_put32(&w->out, large ? UINT32_MAX : (uint32_t)(last >> 10));
    bytes_put16(&w->out, HANDLE_ARRAY);
    bytes_put8(&w->out, 1); // partition width
    bytes_put64(&w->out, large ? first : 0);
    bytes_put64(&w->out, large ? last : 0);
    end(w);
}

static void put_boot_information(struct writer *w)
{
    begin(w, 32, 0x2000);
    bytes_zeros(&w->out, 6);
    bytes_put8(&w->out, 0); // no errors detected
    end(w);
}

static void fill_entry(struct writer *w, gpa_t base, size_t table)
{
    struct bytes *out = &w->out;

    if (out->failed)
        return;
    memcpy(out->data, "_SM_", 4);
    bytes_patch8(out, 5, ENTRY_SIZE);
    bytes_patch8(out, 6, 2); // version 2.8
    bytes_patch8(out, 7, 8);
    bytes_patch16(out, 8, (uint16_t)w->largest);
    memcpy(out->data + ENTRY_INTERMEDIATE, "_DMI_", 5);
    bytes_patch16(out, 0x16, (uint16_t)(out->size - table));
    bytes_patch32(out, 0x18, (uint32_t)(base + table));
    bytes_patch16(out, 0x1C, (uint16_t)w->structures);
    bytes_patch8(out, 0x1E, 0x28); // version in BCD
    uint8_t *p = out->data;
    p[0x15] = bytes_checksum(p + ENTRY_INTERMEDIATE, ENTRY_SIZE - ENTRY_INTERMEDIATE);
    p[4] = bytes_checksum(p, ENTRY_SIZE);
}

int smbios_build(const struct smbios_config *config, gpa_t base, struct smbios_blob *out,
                 struct error *err)
{
    struct writer w = {0};
    uint64_t total = config->memory_below_4g + config->memory_above_4g;

    *out = (struct smbios_blob){0};
    if (base % 16 || base < 0xF0000 || base > 0xFFFF0)
        return error_set(err, ERROR_USAGE, "SMBIOS tables cannot lie at 0x%llx",
                         (unsigned long long)base);
    bytes_zeros(&w.out, (ENTRY_SIZE + 15) & ~15u);
    size_t table = w.out.size;
    put_firmware(&w, config);
    put_system(&w, config);
    put_chassis(&w, config);
    put_processor(&w, config);
    put_memory_array(&w, total);
    put_memory_device(&w, total);
    put_mapped_range(&w, 0, 0, config->memory_below_4g);
    put_mapped_range(&w, 1, UINT64_C(1) << 32, config->memory_above_4g);
    put_boot_information(&w);
    begin(&w, 127, 0x7F00);
    end(&w);
    fill_entry(&w, base, table);
    if (w.out.failed || w.out.size > 0x100000 - base) {
        bool failed = w.out.failed;
        bytes_free(&w.out);
        return failed ? error_set(err, ERROR_HOST, "out of memory for the SMBIOS tables")
                      : error_set(err, ERROR_USAGE, "the SMBIOS tables are too long");
    }
    out->data = w.out.data;
    out->size = w.out.size;
    return 0;
}

void smbios_blob_free(struct smbios_blob *blob)
{
    struct bytes bytes = {.data = blob->data};

    bytes_free(&bytes);
    *blob = (struct smbios_blob){0};
}
