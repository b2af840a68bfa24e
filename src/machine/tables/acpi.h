// SPDX-License-Identifier: Apache-2.0
// The board's ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, DSDT, MADT, HPET, WAET (ACPI
// specification 6.4, chapter 5; IA-PC HPET specification 1.0a; Windows ACPI Emulated Devices
// Table 1.0).
//
// Built once from the configuration before the guest runs. The board puts `data` at the
// guest-physical address it named and `rsdp` on a 16-byte boundary in E0000h to FFFFFh (or hands it
// to the loader).
#pragma once

#include "base/error.h"
#include "base/types.h"

#define ACPI_RSDP_SIZE 36
#define ACPI_TABLES_ALIGN 64 // of the base address: FACS wants it

struct acpi_config {
    const uint32_t *apic_ids; // of each processor, in order; the processor's UID is its index
    unsigned cpu_count;
    bool apic; // local and I/O APIC are there: a MADT says so
    uint32_t lapic_base, ioapic_base;
    uint8_t ioapic_id;
    uint8_t sci_irq; // 9

    uint16_t pm_base;                  // of struct acpi_pm
    bool pm_timer_32;                  // else 24 bits
    uint16_t smi_port;                 // B2h
    uint8_t acpi_enable, acpi_disable; // values for smi_port
    bool s3;                           // offers sleep state S3

    uint16_t reset_port; // CF9h, or 0 for none
    uint8_t reset_value;

    uint64_t hpet_base; // 0: no HPET
    uint32_t hpet_id;   // low half of its capabilities register

    bool pci;           // a host bridge with configuration mechanism 1
    uint8_t pci_gsi[4]; // I/O APIC inputs of the links that INTx of (slot, pin) goes to
    uint8_t pci_irq[4]; // the same in 8259 mode; 0: not connected
    uint32_t pci32_base, pci32_last;
    uint64_t pci64_base, pci64_last; // both 0: no window

    uint8_t serial_ports; // bits 0 to 3: COM1 to COM4
    bool i8042;           // keyboard and mouse controller
    bool vga;
};

struct acpi_blob {
    uint8_t *data; // all tables but the RSDP
    size_t size;
    uint8_t rsdp[ACPI_RSDP_SIZE];
};

// Lays out the tables for `base` (multiple of ACPI_TABLES_ALIGN, below 4 GiB). 0, or -1 with err
// set.
int acpi_tables_build(const struct acpi_config *config, gpa_t base, struct acpi_blob *out,
                      struct error *err);
void acpi_blob_free(struct acpi_blob *blob);
