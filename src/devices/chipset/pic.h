// SPDX-License-Identifier: Apache-2.0
// The pair of Intel 8259A interrupt controllers of a PC: master at ports 20h-21h, slave at A0h-A1h
// behind the master's input 2, and the edge/level control registers (ELCR) at 4D0h-4D1h. Source:
// Intel 8259A datasheet (231468), PIIX/ICH datasheets for the ELCR.
//
// Rules to keep:
//  - Inputs carry "asserted", not a voltage. An edge-triggered request that is withdrawn before it
//    is acknowledged is gone (the datasheet's reason for spurious interrupts), so a device must
//    hold its line until the guest has served it.
//  - The output drops for an instant at every acknowledge, so that whoever is edge-sensitive behind
//    it (an I/O APIC pin in ExtINT mode) sees the next request.
//  - All calls come with the board lock held.
#pragma once

#include "base/state.h"
#include "devices/irq.h"
#include "memory/memory.h"

#define PIC_INPUTS 16
#define PIC_REGIONS 3

struct pic_chip {
    uint8_t lines;    // input levels
    uint8_t edges;    // edge-triggered requests that are latched
    uint8_t isr, imr; // in service, masked
    uint8_t elcr;     // 1: input is level-triggered
    uint8_t base;     // ICW2: vector of input 0
    uint8_t icw3;
    uint8_t lowest;   // input of lowest priority (7 after ICW1)
    uint8_t init;     // next initialisation word expected: 0 (none), 2, 3, 4
    bool single;      // ICW1.SNGL
    bool want_icw4;   // ICW1.IC4
    bool auto_eoi;    // ICW4.AEOI
    bool nested;      // ICW4.SFNM
    bool rotate_aeoi; // rotate in automatic EOI mode
    bool special_mask;
    bool read_isr; // OCW3.RIS
    bool poll;     // the next read is a poll
};

struct pic {
    struct pic_chip chip[2]; // master, slave
    bool output;
    struct irq_line out;
};

struct pic_config {
    struct irq_line output; // INT of the master: LINT0 of the local APICs, or the CPU's INTR
};

struct pic *pic_create(const struct pic_config *config, struct error *err);
void pic_destroy(struct pic *pic);
void pic_reset(struct pic *pic); // power-on; input levels stay, the board's devices drive them

// Input 0-15 (IRQ number; 2 is the cascade and is ignored).
void pic_input(struct pic *pic, int irq, bool level);
struct irq_line pic_line(struct pic *pic, int irq);

// Interrupt acknowledge (both INTA cycles): returns the vector. With no request (it was withdrawn)
// this is the spurious vector of input 7.
int pic_ack(struct pic *pic);
// Whether INT is asserted.
static inline bool pic_pending(const struct pic *pic)
{
    return pic->output;
}

// The port regions to register.
void pic_regions(struct pic *pic, struct io_region regions[PIC_REGIONS]);

extern const struct state_desc pic_state;
