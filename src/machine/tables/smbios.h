// SPDX-License-Identifier: Apache-2.0
// SMBIOS tables: who made the machine, its processors and memory (DMTF DSP0134, System Management BIOS
// Reference Specification 2.8).
//
// Built once from the configuration. The board puts the blob at the address it named, which must lie on
// a 16-byte boundary in F0000h to FFFFFh: it begins with the entry point that software looks for there.
#pragma once

#include "base/error.h"
#include "base/types.h"

struct smbios_config {
    const char *version;      // of Croft, shown as the firmware's version
    const char *product;      // the machine's name
    uint8_t uuid[16];         // in RFC 4122 byte order; all zero: not set
    unsigned cpu_count;       // processors in the one socket
    uint32_t cpu_signature;   // CPUID leaf 1 EAX
    uint32_t cpu_features;    // and EDX
    const char *cpu_vendor;   // CPUID's vendor string
    const char *cpu_brand;    // CPUID's brand string
    uint64_t memory_below_4g; // bytes of RAM from address 0
    uint64_t memory_above_4g; // bytes of RAM from 4 GiB
};

struct smbios_blob {
    uint8_t *data; // entry point, then the structures
    size_t size;
};

// 0, or -1 with err set.
int smbios_build(const struct smbios_config *config, gpa_t base, struct smbios_blob *out,
                 struct error *err);
void smbios_blob_free(struct smbios_blob *blob);
