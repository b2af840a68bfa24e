// SPDX-License-Identifier: Apache-2.0
// The chipset as PCI functions (Intel 82441FX and 82371AB data sheets), as far as operating systems and
// firmware look for it:
//   00:00.0  8086:1237  host bridge; PAM and SMRAM registers are stored and told to the board
//   00:01.0  8086:7110  ISA bridge; routes the PCI links to ISA interrupts (PIRQRC, 60h to 63h)
//   00:01.3  8086:7113  power management; places the ACPI registers (PMBA, 40h)
//
// Rules to keep: every call with the board lock held; after reset the registers are as firmware would
// leave them (links routed, ACPI registers in place), because direct boots have no firmware.
#pragma once

#include "devices/chipset/pci.h"

#define PIIX_ISA_IRQS 16
#define PIIX_PAM 0x59 // to 5Fh
#define PIIX_SMRAM 0x72

struct piix_config {
    struct irq_line isa[PIIX_ISA_IRQS]; // 3 to 7, 9 to 12, 14 and 15 are used
    uint8_t link_irq[PCI_LINKS];        // routing after reset; 0: disabled
    struct memory *memory;              // where the ACPI registers appear
    struct io_region pm;                // of struct acpi_pm; its base is the one after reset
    // PAM or SMRAM changed; may be NULL.
    void (*shadow_changed)(void *opaque, const uint8_t pam[7], uint8_t smram);
    void *opaque;
};

struct piix {
    struct pci_device host, isa, pm;
    uint16_t isa_levels; // interrupts that the router drives high
    bool pm_mapped;
    uint64_t pm_base;
    struct piix_config config;
};

// The three functions save with pci_device_state. Adds them to the bus. 0, or -1 with err set.
int piix_init(struct piix *piix, struct pci_bus *bus, const struct piix_config *config,
              struct error *err);
