// SPDX-License-Identifier: Apache-2.0
// A PS/2 keyboard and a PS/2 wheel mouse, as seen from the controller at the other end of the
// cable: bytes go to the device with *_write() and come back with *_read() (IBM Personal System/2
// Hardware Interface Technical Reference, keyboard and auxiliary device sections; the wheel
// protocol is Microsoft's IntelliMouse).
//
// Rules to keep: replies to commands go before events; a full event queue drops whole keys or
// merges mouse movement, never half a sequence.
#pragma once

#include "base/state.h"
#include "base/types.h"

#define PS2_FIFO_SIZE 64

struct ps2_fifo {
    uint8_t head, count;
    uint8_t data[PS2_FIFO_SIZE];
};

struct ps2_keyboard {
    struct ps2_fifo replies, events;
    uint8_t command;   // awaits a data byte, or 0
    uint8_t last;      // what "resend" repeats
    uint8_t scan_set;  // 1 or 2
    uint8_t scanning;  // enabled
    uint8_t leds;      // bit 0 scroll lock, 1 num lock, 2 caps lock
    uint8_t typematic; // as the host set it; repeat is up to whoever presses the keys
};

struct ps2_mouse {
    struct ps2_fifo replies, events;
    uint8_t command;
    uint8_t last;
    uint8_t id; // 0, or 3 when the wheel was unlocked
    uint8_t reporting, remote, wrap, scaling;
    uint8_t resolution, rate;
    uint8_t knock[3]; // the last sample rates: 200, 100, 80 unlock the wheel
    uint8_t buttons;  // bit 0 left, 1 right, 2 middle
    uint8_t sent_buttons;
    int32_t dx, dy, dz; // movement not reported yet; y grows upwards
};

extern const struct state_field ps2_keyboard_fields[], ps2_mouse_fields[];

void ps2_keyboard_reset(struct ps2_keyboard *keyboard);
void ps2_keyboard_write(struct ps2_keyboard *keyboard, uint8_t byte);
bool ps2_keyboard_read(struct ps2_keyboard *keyboard, uint8_t *byte); // false: nothing to send
// A key goes down or up. `key` is its scan code of set 1 without the release bit, E0xx for extended
// keys, E11D for Pause. False when it was dropped (scanning disabled, queue full, no such key).
bool ps2_keyboard_key(struct ps2_keyboard *keyboard, uint16_t key, bool down);
bool ps2_keyboard_valid(const struct ps2_keyboard *keyboard);

void ps2_mouse_reset(struct ps2_mouse *mouse);
void ps2_mouse_write(struct ps2_mouse *mouse, uint8_t byte);
bool ps2_mouse_read(struct ps2_mouse *mouse, uint8_t *byte);
// Relative movement, y growing upwards, dz growing towards the person; buttons as in `buttons`.
void ps2_mouse_move(struct ps2_mouse *mouse, int dx, int dy, int dz, uint8_t buttons);
bool ps2_mouse_valid(const struct ps2_mouse *mouse);

// What a translating controller makes of a byte of scan code set 2 (other than the release prefix
// F0).
uint8_t ps2_translate(uint8_t code);
