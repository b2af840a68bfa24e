// SPDX-License-Identifier: Apache-2.0
#include "devices/chipset/ps2.h"
#include <string.h>

#define REPLY_ACK 0xFA
#define REPLY_RESEND 0xFE
#define REPLY_ECHO 0xEE
#define REPLY_TEST_PASSED 0xAA

#define KEY_RELEASE 0xF0 // prefix in set 2
#define KEY_EXTENDED 0xE0
#define KEY_PAUSE 0xE11D

// The controller's table from set 2 to set 1 for codes below 80h; 83h and 84h are apart.
static const uint8_t set2_to_set1[128] = {
    0xFF, 0x43, 0x41, 0x3F, 0x3D, 0x3B, 0x3C, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3E, 0x0F, 0x29, 0x59,
    0x65, 0x38, 0x2A, 0x70, 0x1D, 0x10, 0x02, 0x5A, 0x66, 0x71, 0x2C, 0x1F, 0x1E, 0x11, 0x03, 0x5B,
    0x67, 0x2E, 0x2D, 0x20, 0x12, 0x05, 0x04, 0x5C, 0x68, 0x39, 0x2F, 0x21, 0x14, 0x13, 0x06, 0x5D,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5E, 0x6A, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5F,
    0x6B, 0x33, 0x25, 0x17, 0x18, 0x0B, 0x0A, 0x60, 0x6C, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0C, 0x61,
    0x6D, 0x73, 0x28, 0x74, 0x1A, 0x0D, 0x62, 0x6E, 0x3A, 0x36, 0x1C, 0x1B, 0x75, 0x2B, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7A, 0x0E, 0x7B, 0x7C, 0x4F, 0x7D, 0x4B, 0x47, 0x7E, 0x7F, 0x6F,
    0x52, 0x53, 0x50, 0x4C, 0x4D, 0x48, 0x01, 0x45, 0x57, 0x4E, 0x51, 0x4A, 0x37, 0x49, 0x46, 0x54,
};

uint8_t ps2_translate(uint8_t code)
{
    if (code < 0x80)
        return set2_to_set1[code];
    return code == 0x83 ? 0x41 : code == 0x84 ? 0x54 : code;
}

static uint8_t set1_to_set2(uint8_t code)
{
    if (code == 0x41)
        return 0x83; // F7
    if (code == 0x54)
        return 0x84; // Alt with Print Screen
    for (unsigned i = 1; i < ARRAY_SIZE(set2_to_set1); i++)
        if (set2_to_set1[i] == code)
            return (uint8_t)i;
    return 0;
}

// --- Queues --------------------------------------------------------------------------------------

static unsigned fifo_room(const struct ps2_fifo *fifo)
{
    return PS2_FIFO_SIZE - fifo->count;
}

static void fifo_put(struct ps2_fifo *fifo, uint8_t byte)
{
    if (fifo_room(fifo))
        fifo->data[(fifo->head + fifo->count++) % PS2_FIFO_SIZE] = byte;
}

static bool fifo_get(struct ps2_fifo *fifo, uint8_t *byte)
{
    if (!fifo->count)
        return false;
    *byte = fifo->data[fifo->head];
    fifo->head = (fifo->head + 1) % PS2_FIFO_SIZE;
    fifo->count--;
    return true;
}

static void fifo_clear(struct ps2_fifo *fifo)
{
    fifo->head = fifo->count = 0;
}

static bool fifo_valid(const struct ps2_fifo *fifo)
{
    return fifo->head < PS2_FIFO_SIZE && fifo->count <= PS2_FIFO_SIZE;
}

// --- Keyboard ------------------------------------------------------------------------------------

enum {
    KEYBOARD_LEDS = 0xED,
    KEYBOARD_ECHO = 0xEE,
    KEYBOARD_SCAN_SET = 0xF0,
    KEYBOARD_IDENTIFY = 0xF2,
    KEYBOARD_TYPEMATIC = 0xF3,
    KEYBOARD_ENABLE = 0xF4,
    KEYBOARD_DISABLE = 0xF5,
    KEYBOARD_DEFAULTS = 0xF6,
    KEYBOARD_ALL_FIRST = 0xF7, // to FAh: key types of set 3, accepted without effect
    KEYBOARD_ALL_LAST = 0xFA,
    KEYBOARD_RESEND = 0xFE,
    KEYBOARD_RESET = 0xFF,
};

static void keyboard_defaults(struct ps2_keyboard *keyboard)
{
    keyboard->scan_set = 2;
    keyboard->typematic = 0x2B; // 10.9 per second after 500 ms
    fifo_clear(&keyboard->events);
}

void ps2_keyboard_reset(struct ps2_keyboard *keyboard)
{
    memset(keyboard, 0, sizeof(*keyboard));
    keyboard_defaults(keyboard);
    keyboard->scanning = 1;
}

static void keyboard_data(struct ps2_keyboard *keyboard, uint8_t byte)
{
    uint8_t command = keyboard->command;

    keyboard->command = 0;
    switch (command) {
    case KEYBOARD_LEDS:
        keyboard->leds = byte & 7;
        break;
    case KEYBOARD_TYPEMATIC:
        keyboard->typematic = byte & 0x7F;
        break;
    case KEYBOARD_SCAN_SET:
        if (byte > 2) { // set 3 is not offered
            fifo_put(&keyboard->replies, REPLY_RESEND);
            return;
        }
        if (byte == 0) {
            fifo_put(&keyboard->replies, REPLY_ACK);
            fifo_put(&keyboard->replies, keyboard->scan_set);
            return;
        }
        keyboard->scan_set = byte;
        fifo_clear(&keyboard->events);
        break;
    }
    fifo_put(&keyboard->replies, REPLY_ACK);
}

void ps2_keyboard_write(struct ps2_keyboard *keyboard, uint8_t byte)
{
    if (keyboard->command && byte < 0x80) {
        keyboard_data(keyboard, byte);
        return;
    }
    keyboard->command = 0; // a new command instead of the data byte
    if (byte != KEYBOARD_RESEND)
        fifo_clear(&keyboard->replies);
    switch (byte) {
    case KEYBOARD_LEDS:
    case KEYBOARD_SCAN_SET:
    case KEYBOARD_TYPEMATIC:
        keyboard->command = byte;
        fifo_put(&keyboard->replies, REPLY_ACK);
        break;
    case KEYBOARD_ECHO:
        fifo_put(&keyboard->replies, REPLY_ECHO);
        break;
    case KEYBOARD_IDENTIFY: // "MF2 keyboard"
        fifo_put(&keyboard->replies, REPLY_ACK);
        fifo_put(&keyboard->replies, 0xAB);
        fifo_put(&keyboard->replies, 0x83);
        break;
    case KEYBOARD_ENABLE:
        keyboard->scanning = 1;
        fifo_clear(&keyboard->events);
        fifo_put(&keyboard->replies, REPLY_ACK);
        break;
    case KEYBOARD_DISABLE:
        keyboard_defaults(keyboard);
        keyboard->scanning = 0;
        fifo_put(&keyboard->replies, REPLY_ACK);
        break;
    case KEYBOARD_DEFAULTS:
        keyboard_defaults(keyboard);
        fifo_put(&keyboard->replies, REPLY_ACK);
        break;
    case KEYBOARD_RESEND:
        fifo_put(&keyboard->replies, keyboard->last);
        break;
    case KEYBOARD_RESET:
        ps2_keyboard_reset(keyboard);
        fifo_put(&keyboard->replies, REPLY_ACK);
        fifo_put(&keyboard->replies, REPLY_TEST_PASSED);
        break;
    default:
        fifo_put(&keyboard->replies, byte >= KEYBOARD_ALL_FIRST && byte <= KEYBOARD_ALL_LAST
                                         ? REPLY_ACK
                                         : REPLY_RESEND);
        break;
    }
}

bool ps2_keyboard_read(struct ps2_keyboard *keyboard, uint8_t *byte)
{
    // While it awaits a data byte, a keyboard sends no keys.
    if (!fifo_get(&keyboard->replies, byte) &&
        (keyboard->command || !fifo_get(&keyboard->events, byte)))
        return false;
    keyboard->last = *byte;
    return true;
}

bool ps2_keyboard_key(struct ps2_keyboard *keyboard, uint16_t key, bool down)
{
    static const uint8_t pause[3][8] = {
        [1] = {0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5},
        [2] = {0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77},
    };
    struct ps2_fifo *out = &keyboard->events;
    uint8_t code = key & 0x7F;

    if (!keyboard->scanning || fifo_room(out) < sizeof(pause[0]))
        return false;
    if (key == KEY_PAUSE) {
        // It sends its release with the press.
        for (unsigned i = 0; down && i < (keyboard->scan_set == 1 ? 6 : 8); i++)
            fifo_put(out, pause[keyboard->scan_set][i]);
        return true;
    }
    if (keyboard->scan_set != 1)
        code = set1_to_set2(code);
    if (code == 0)
        return false;
    if (key >> 8 == KEY_EXTENDED)
        fifo_put(out, KEY_EXTENDED);
    if (keyboard->scan_set == 1) {
        fifo_put(out, code | (down ? 0 : 0x80));
        return true;
    }
    if (!down)
        fifo_put(out, KEY_RELEASE);
    fifo_put(out, code);
    return true;
}

bool ps2_keyboard_valid(const struct ps2_keyboard *keyboard)
{
    return fifo_valid(&keyboard->replies) && fifo_valid(&keyboard->events) &&
           (keyboard->scan_set == 1 || keyboard->scan_set == 2);
}

// --- Mouse ---------------------------------------------------------------------------------------

enum {
    MOUSE_SCALING_1 = 0xE6,
    MOUSE_SCALING_2 = 0xE7,
    MOUSE_RESOLUTION = 0xE8,
    MOUSE_STATUS = 0xE9,
    MOUSE_STREAM = 0xEA,
    MOUSE_READ_DATA = 0xEB,
    MOUSE_WRAP_OFF = 0xEC,
    MOUSE_WRAP_ON = 0xEE,
    MOUSE_REMOTE = 0xF0,
    MOUSE_IDENTIFY = 0xF2,
    MOUSE_RATE = 0xF3,
    MOUSE_ENABLE = 0xF4,
    MOUSE_DISABLE = 0xF5,
    MOUSE_DEFAULTS = 0xF6,
    MOUSE_RESEND = 0xFE,
    MOUSE_RESET = 0xFF,
};

#define MOUSE_WHEEL_ID 3
#define MOVEMENT_LIMIT 32767

static void mouse_defaults(struct ps2_mouse *mouse)
{
    mouse->reporting = mouse->remote = mouse->scaling = 0;
    mouse->resolution = 2;
    mouse->rate = 100;
    mouse->dx = mouse->dy = mouse->dz = 0;
    fifo_clear(&mouse->events);
}

void ps2_mouse_reset(struct ps2_mouse *mouse)
{
    memset(mouse, 0, sizeof(*mouse));
    mouse_defaults(mouse);
}

static int32_t clamp(int64_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : (int32_t)value;
}

// One movement packet; takes what it reports from the accumulators.
static void mouse_packet(struct ps2_mouse *mouse, struct ps2_fifo *out)
{
    int32_t dx = clamp(mouse->dx, -256, 255), dy = clamp(mouse->dy, -256, 255);

    if (fifo_room(out) < 4)
        return;
    mouse->dx -= dx;
    mouse->dy -= dy;
    mouse->sent_buttons = mouse->buttons;
    fifo_put(out, (uint8_t)(0x08 | mouse->buttons | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)));
    fifo_put(out, (uint8_t)dx);
    fifo_put(out, (uint8_t)dy);
    if (mouse->id == MOUSE_WHEEL_ID) {
        int32_t dz = clamp(mouse->dz, -8, 7);
        mouse->dz -= dz;
        fifo_put(out, (uint8_t)dz);
    } else {
        mouse->dz = 0;
    }
}

static void mouse_stream(struct ps2_mouse *mouse)
{
    if (mouse->reporting && !mouse->remote && !mouse->wrap &&
        (mouse->dx || mouse->dy || mouse->dz || mouse->buttons != mouse->sent_buttons))
        mouse_packet(mouse, &mouse->events);
}

static void mouse_rate(struct ps2_mouse *mouse, uint8_t rate)
{
    mouse->rate = rate;
    mouse->knock[0] = mouse->knock[1];
    mouse->knock[1] = mouse->knock[2];
    mouse->knock[2] = rate;
    if (mouse->knock[0] == 200 && mouse->knock[1] == 100 && mouse->knock[2] == 80)
        mouse->id = MOUSE_WHEEL_ID;
}

static void mouse_status(const struct ps2_mouse *mouse, struct ps2_fifo *out)
{
    uint8_t left = mouse->buttons & 1, right = mouse->buttons >> 1 & 1;
    uint8_t middle = mouse->buttons >> 2 & 1;

    fifo_put(out, (uint8_t)(right | middle << 1 | left << 2 | mouse->scaling << 4 |
                            mouse->reporting << 5 | mouse->remote << 6));
    fifo_put(out, mouse->resolution);
    fifo_put(out, mouse->rate);
}

static void mouse_command(struct ps2_mouse *mouse, uint8_t byte)
{
    struct ps2_fifo *out = &mouse->replies;

    fifo_clear(out);
    fifo_put(out, REPLY_ACK);
    switch (byte) {
    case MOUSE_SCALING_1:
    case MOUSE_SCALING_2:
        mouse->scaling = byte == MOUSE_SCALING_2;
        break;
    case MOUSE_RESOLUTION:
    case MOUSE_RATE:
        mouse->command = byte;
        break;
    case MOUSE_STATUS:
        mouse_status(mouse, out);
        break;
    case MOUSE_STREAM:
    case MOUSE_REMOTE:
        mouse->remote = byte == MOUSE_REMOTE;
        fifo_clear(&mouse->events);
        break;
    case MOUSE_READ_DATA:
        mouse_packet(mouse, out);
        break;
    case MOUSE_WRAP_ON:
    case MOUSE_WRAP_OFF:
        mouse->wrap = byte == MOUSE_WRAP_ON;
        fifo_clear(&mouse->events);
        break;
    case MOUSE_IDENTIFY:
        fifo_put(out, mouse->id);
        break;
    case MOUSE_ENABLE:
    case MOUSE_DISABLE:
        mouse->reporting = byte == MOUSE_ENABLE;
        mouse->dx = mouse->dy = mouse->dz = 0;
        fifo_clear(&mouse->events);
        break;
    case MOUSE_DEFAULTS:
        mouse_defaults(mouse);
        break;
    case MOUSE_RESET:
        ps2_mouse_reset(mouse);
        fifo_put(out, REPLY_ACK);
        fifo_put(out, REPLY_TEST_PASSED);
        fifo_put(out, mouse->id);
        break;
    default:
        fifo_clear(out);
        fifo_put(out, REPLY_RESEND);
        break;
    }
}

void ps2_mouse_write(struct ps2_mouse *mouse, uint8_t byte)
{
    if (mouse->command) {
        if (mouse->command == MOUSE_RATE)
            mouse_rate(mouse, byte);
        else
            mouse->resolution = byte & 3;
        mouse->command = 0;
        fifo_put(&mouse->replies, REPLY_ACK);
    } else if (mouse->wrap && byte != MOUSE_WRAP_OFF && byte != MOUSE_RESET) {
        fifo_put(&mouse->replies, byte); // echoes everything
    } else if (byte == MOUSE_RESEND) {
        fifo_put(&mouse->replies, mouse->last);
    } else {
        mouse_command(mouse, byte);
    }
}

bool ps2_mouse_read(struct ps2_mouse *mouse, uint8_t *byte)
{
    if (!mouse->events.count)
        mouse_stream(mouse); // what had no room before
    if (!fifo_get(&mouse->replies, byte) && (mouse->command || !fifo_get(&mouse->events, byte)))
        return false;
    mouse->last = *byte;
    return true;
}

void ps2_mouse_move(struct ps2_mouse *mouse, int dx, int dy, int dz, uint8_t buttons)
{
    mouse->dx = clamp((int64_t)mouse->dx + dx, -MOVEMENT_LIMIT, MOVEMENT_LIMIT);
    mouse->dy = clamp((int64_t)mouse->dy + dy, -MOVEMENT_LIMIT, MOVEMENT_LIMIT);
    mouse->dz = clamp((int64_t)mouse->dz + dz, -MOVEMENT_LIMIT, MOVEMENT_LIMIT);
    mouse->buttons = buttons & 7;
    mouse_stream(mouse);
}

bool ps2_mouse_valid(const struct ps2_mouse *mouse)
{
    return fifo_valid(&mouse->replies) && fifo_valid(&mouse->events) &&
           (mouse->id == 0 || mouse->id == MOUSE_WHEEL_ID) && mouse->reporting <= 1 &&
           mouse->remote <= 1 && mouse->wrap <= 1 && mouse->scaling <= 1 && mouse->buttons <= 7 &&
           mouse->dx >= -MOVEMENT_LIMIT && mouse->dx <= MOVEMENT_LIMIT &&
           mouse->dy >= -MOVEMENT_LIMIT && mouse->dy <= MOVEMENT_LIMIT &&
           mouse->dz >= -MOVEMENT_LIMIT && mouse->dz <= MOVEMENT_LIMIT;
}

// --- Saved state ---------------------------------------------------------------------------------

static const struct state_field fifo_fields[] = {
    STATE_FIELD(struct ps2_fifo, head), STATE_FIELD(struct ps2_fifo, count),
    STATE_ARRAY(struct ps2_fifo, data, uint8_t), STATE_END};

const struct state_field ps2_keyboard_fields[] = {
    STATE_STRUCT(struct ps2_keyboard, replies, struct ps2_fifo, fifo_fields),
    STATE_STRUCT(struct ps2_keyboard, events, struct ps2_fifo, fifo_fields),
    STATE_FIELD(struct ps2_keyboard, command),
    STATE_FIELD(struct ps2_keyboard, last),
    STATE_FIELD(struct ps2_keyboard, scan_set),
    STATE_FIELD(struct ps2_keyboard, scanning),
    STATE_FIELD(struct ps2_keyboard, leds),
    STATE_FIELD(struct ps2_keyboard, typematic),
    STATE_END};

const struct state_field ps2_mouse_fields[] = {
    STATE_STRUCT(struct ps2_mouse, replies, struct ps2_fifo, fifo_fields),
    STATE_STRUCT(struct ps2_mouse, events, struct ps2_fifo, fifo_fields),
    STATE_FIELD(struct ps2_mouse, command),
    STATE_FIELD(struct ps2_mouse, last),
    STATE_FIELD(struct ps2_mouse, id),
    STATE_FIELD(struct ps2_mouse, reporting),
    STATE_FIELD(struct ps2_mouse, remote),
    STATE_FIELD(struct ps2_mouse, wrap),
    STATE_FIELD(struct ps2_mouse, scaling),
    STATE_FIELD(struct ps2_mouse, resolution),
    STATE_FIELD(struct ps2_mouse, rate),
    STATE_ARRAY(struct ps2_mouse, knock, uint8_t),
    STATE_FIELD(struct ps2_mouse, buttons),
    STATE_FIELD(struct ps2_mouse, sent_buttons),
    STATE_FIELD(struct ps2_mouse, dx),
    STATE_FIELD(struct ps2_mouse, dy),
    STATE_FIELD(struct ps2_mouse, dz),
    STATE_END};
