// SPDX-License-Identifier: Apache-2.0
// The PC's small ports: 80h to 8Fh (power-on codes and the DMA page registers, plain storage), 92h (A20
// and fast reset: PS/2 system control port A), CF9h (reset control: Intel 82371AB data sheet, section
// 4.5), E9h (Bochs' debug console) and F0h, the x87 error logic of the PC/AT (82371AB, COPROCESSOR ERROR
// register; SDM vol. 1, appendix D: figure D-1): FERR# going active requests IRQ 13, a write to F0h takes
// the request back and, while FERR# is active, asserts IGNNE#, which FERR# going inactive ends.
//
// Rules to keep: every call with the board lock held. CF9h lies inside the PCI configuration ports, so a
// board with PCI registers that bus instead, which passes byte accesses on to reset_control_*().
#pragma once

#include "base/state.h"
#include "devices/irq.h"
#include "memory/memory.h"

#define MISC_POST_PORT 0x80
#define MISC_POST_SIZE 16
#define MISC_CONTROL_A_PORT 0x92
#define MISC_RESET_PORT 0xCF9
#define MISC_RESET_VALUE 0x06 // full reset, as the FADT names it
#define MISC_DEBUG_PORT 0xE9
#define MISC_X87_PORT 0xF0

struct misc_ports_config {
    void (*set_a20)(void *opaque, bool enabled);
    bool (*a20)(void *opaque);
    // `hard`: the whole machine; else only the processors (INIT), as port 92h does.
    void (*reset)(void *opaque, bool hard);
    void (*post)(void *opaque, uint8_t code);       // a write to port 80h; may be NULL
    void (*debug)(void *opaque, uint8_t character); // may be NULL: then E9h reads FFh
    struct irq_line irq13;
    void (*ignne)(void *opaque); // IGNNE# was asserted; may be NULL
    void *opaque;
};

struct misc_ports {
    uint8_t pages[MISC_POST_SIZE];
    uint8_t control_a;
    uint8_t reset_control;
    bool ferr;          // the processor's output
    bool x87_requested; // the latch behind IRQ 13
    bool ignne;         // the processor's input
    struct misc_ports_config config;
};

extern const struct state_desc misc_ports_state;

void misc_ports_init(struct misc_ports *ports, const struct misc_ports_config *config);
void misc_ports_reset(struct misc_ports *ports);
void misc_ports_ferr(struct misc_ports *ports, bool level);

void misc_ports_post_region(struct misc_ports *ports, struct io_region *region);
void misc_ports_control_a_region(struct misc_ports *ports, struct io_region *region);
void misc_ports_debug_region(struct misc_ports *ports, struct io_region *region);
void misc_ports_x87_region(struct misc_ports *ports, struct io_region *region);
void misc_ports_reset_region(struct misc_ports *ports, struct io_region *region); // CF9h alone

// Port CF9h, for the PCI bus.
uint8_t reset_control_read(void *misc_ports);
void reset_control_write(void *misc_ports, uint8_t value);
