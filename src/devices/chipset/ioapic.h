// SPDX-License-Identifier: Apache-2.0
// The I/O APIC at FEC00000h: 24 pins, version 20h (with an EOI register).
// Source: Intel 82093AA datasheet (290566); ICH datasheets for version 20h and the EOI register.
//
// Rules to keep:
//  - Pins carry "asserted", not a voltage: the polarity bit is kept for the guest to read back, and
//    means nothing else.
//  - A masked edge is lost (82093AA, "Interrupt Mask"); a masked level is seen when it is unmasked.
//  - All calls come with the board lock held. ioapic_eoi() is what lapic_ops.eoi should call.
#pragma once

#include "base/state.h"
#include "devices/chipset/lapic.h"
#include "devices/irq.h"
#include "memory/memory.h"

#define IOAPIC_DEFAULT_BASE UINT64_C(0xfec00000)
#define IOAPIC_WINDOW_SIZE 0x1000
#define IOAPIC_PINS 24

struct ioapic {
    uint64_t redirection[IOAPIC_PINS];
    uint32_t lines; // levels of the pins
    uint8_t select;
    uint8_t id;
    struct lapic_bus *bus;
};

struct ioapic_config {
    struct lapic_bus *bus;
    uint8_t id; // as in the firmware's tables, 0-15
};

struct ioapic *ioapic_create(const struct ioapic_config *config, struct error *err);
void ioapic_destroy(struct ioapic *ioapic);
void ioapic_reset(struct ioapic *ioapic); // levels of the pins stay

void ioapic_input(struct ioapic *ioapic, int pin, bool level);
struct irq_line ioapic_line(struct ioapic *ioapic, int pin);
// EOI of a level-triggered vector, from a LAPIC's broadcast or the EOI register.
void ioapic_eoi(struct ioapic *ioapic, uint8_t vector);
// A local APIC may accept now what it refused before: what lapic_ops.accepting should call.
void ioapic_retry(struct ioapic *ioapic);

// The memory region to register.
void ioapic_region(struct ioapic *ioapic, struct io_region *region);

extern const struct state_desc ioapic_state;
