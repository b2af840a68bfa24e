// SPDX-License-Identifier: Apache-2.0
// ACPI fixed hardware in the register layout of the PIIX4's power management function (ACPI
// specification 6.4, section 4.8; Intel 82371AB data sheet, section 7.2), and the SMI command port
// that switches ACPI mode on and off as firmware in system management mode would.
//
// There is no SMM: while SCI_EN is clear, events only set status bits.
//
// Rules to keep: every call with the board lock held; SCI is level-triggered; the PM timer is
// worked out from the VM clock, and the device's timer runs only while its overflow interrupt is
// wanted.
#pragma once

#include "base/state.h"
#include "base/timer.h"
#include "devices/irq.h"
#include "memory/memory.h"

// Offsets in the block at the base that the board chooses.
#define ACPI_PM1_EVT 0x00 // status, then enable: 16 bits each
#define ACPI_PM1_CNT 0x04
#define ACPI_PM_TMR 0x08
#define ACPI_GPE0 0x0C // status, then enable: 16 bits each
#define ACPI_PM_SIZE 0x40

#define ACPI_SMI_PORT 0xB2   // and its data port B3h
#define ACPI_SMI_ENABLE 0xF1 // values for it
#define ACPI_SMI_DISABLE 0xF0

// SLP_TYP values, as \_Sx packages name them.
#define ACPI_SLEEP_S3 1
#define ACPI_SLEEP_S5 0

#define ACPI_PM_HZ 3579545

struct acpi_pm_config {
    struct timer_queue *timers;
    struct irq_line sci;
    bool timer_32; // the PM timer has 32 bits, else 24
    void (*power_off)(void *opaque);
    // Sleep state S3 was asked for; NULL when it is not offered (the request is ignored then).
    void (*sleep)(void *opaque);
    void *opaque;
};

struct acpi_pm {
    uint16_t pm1_status, pm1_enable, pm1_control;
    uint16_t gpe_status, gpe_enable;
    uint8_t smi_command, smi_data;
    uint64_t checked; // PM timer ticks up to which TMR_STS is right
    struct timer timer;
    struct acpi_pm_config config;
};

extern const struct state_desc acpi_pm_state;

void acpi_pm_init(struct acpi_pm *pm, const struct acpi_pm_config *config);
void acpi_pm_fini(struct acpi_pm *pm);
void acpi_pm_reset(struct acpi_pm *pm);
// The register block at `base`, and the SMI command and data ports.
void acpi_pm_region(struct acpi_pm *pm, uint64_t base, struct io_region *region);
void acpi_pm_smi_region(struct acpi_pm *pm, struct io_region *region);

// The person presses the power button: an SCI asks the guest to shut down.
void acpi_pm_power_button(struct acpi_pm *pm);
// A general-purpose event, bit 0 to 15.
void acpi_pm_gpe(struct acpi_pm *pm, unsigned bit);
// The machine wakes from S3.
void acpi_pm_wake(struct acpi_pm *pm);
