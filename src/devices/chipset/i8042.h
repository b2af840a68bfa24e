// SPDX-License-Identifier: Apache-2.0
// The keyboard controller of a PC (Intel 8042 with the PS/2 firmware: IBM PS/2 Hardware Interface
// Technical Reference, keyboard and auxiliary device controller) with a keyboard and a mouse
// plugged in.
//
// Bytes travel at once: as soon as the guest has read the output buffer, the next byte is in it,
// with a new edge on IRQ1 or IRQ12.
//
// Rules to keep: every call with the board lock held; the A20 gate has one truth, which the board
// keeps: the controller asks for its state and tells of changes.
#pragma once

#include "base/state.h"
#include "devices/chipset/ps2.h"
#include "devices/irq.h"
#include "memory/memory.h"

struct i8042_config {
    struct irq_line irq_keyboard, irq_mouse; // IRQ1, IRQ12
    void (*set_a20)(void *opaque, bool enabled);
    bool (*a20)(void *opaque);
    void (*reset)(void *opaque);              // the processor's reset line was pulsed
    void (*leds)(void *opaque, uint8_t leds); // as in struct ps2_keyboard; may be NULL
    void *opaque;
};

struct i8042 {
    uint8_t ram[32]; // the first is the command byte
    uint8_t status;  // without OBF, AUX and SYS, which are derived
    uint8_t command; // awaits a data byte, or 0
    uint8_t full;    // the output buffer holds `output`
    uint8_t output;
    uint8_t output_aux; // it came from the mouse
    uint8_t reply_full; // the controller's own answer waits for the output buffer
    uint8_t reply, reply_aux;
    uint8_t release; // translation: the release prefix was seen
    uint8_t output_port;
    struct ps2_keyboard keyboard;
    struct ps2_mouse mouse;
    struct i8042_config config;
};

extern const struct state_desc i8042_state;

void i8042_init(struct i8042 *kbc, const struct i8042_config *config);
// As firmware leaves it after its self-test: keyboard interrupt and translation on, mouse port off.
void i8042_reset(struct i8042 *kbc);
// Port 60h (`data`) and port 64h (`command`).
void i8042_regions(struct i8042 *kbc, struct io_region *data, struct io_region *command);

// Input from the person; arguments as for ps2_keyboard_key() and ps2_mouse_move().
bool i8042_key(struct i8042 *kbc, uint16_t key, bool down);
void i8042_mouse_move(struct i8042 *kbc, int dx, int dy, int dz, uint8_t buttons);
