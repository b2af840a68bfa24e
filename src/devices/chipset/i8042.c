// SPDX-License-Identifier: Apache-2.0
#include "devices/chipset/i8042.h"
#include <string.h>

#define STATUS_OBF 0x01
#define STATUS_SYS 0x04
#define STATUS_COMMAND 0x08 // the last write went to port 64h
#define STATUS_UNLOCKED 0x10
#define STATUS_AUX 0x20
#define STATUS_STORED (STATUS_COMMAND | STATUS_UNLOCKED)

#define MODE_KEYBOARD_INT 0x01
#define MODE_AUX_INT 0x02
#define MODE_SYS 0x04
#define MODE_KEYBOARD_OFF 0x10
#define MODE_AUX_OFF 0x20
#define MODE_TRANSLATE 0x40
#define MODE_AFTER_POST (MODE_KEYBOARD_INT | MODE_SYS | MODE_AUX_OFF | MODE_TRANSLATE)

#define OUTPUT_NO_RESET 0x01
#define OUTPUT_A20 0x02
#define OUTPUT_IRQ1 0x10
#define OUTPUT_IRQ12 0x20
#define OUTPUT_IDLE 0xCC // clock and data lines of both ports
#define INPUT_PORT 0xB0  // keyboard not locked, no manufacturing jumper

#define RELEASE_PREFIX 0xF0

enum {
    COMMAND_READ_RAM = 0x20,  // to 3Fh
    COMMAND_WRITE_RAM = 0x60, // to 7Fh
    COMMAND_PASSWORD_TEST = 0xA4,
    COMMAND_AUX_OFF = 0xA7,
    COMMAND_AUX_ON = 0xA8,
    COMMAND_AUX_TEST = 0xA9,
    COMMAND_SELF_TEST = 0xAA,
    COMMAND_KEYBOARD_TEST = 0xAB,
    COMMAND_KEYBOARD_OFF = 0xAD,
    COMMAND_KEYBOARD_ON = 0xAE,
    COMMAND_READ_INPUT_PORT = 0xC0,
    COMMAND_READ_OUTPUT_PORT = 0xD0,
    COMMAND_WRITE_OUTPUT_PORT = 0xD1,
    COMMAND_WRITE_KEYBOARD_OUTPUT = 0xD2,
    COMMAND_WRITE_AUX_OUTPUT = 0xD3,
    COMMAND_WRITE_AUX = 0xD4,
    COMMAND_A20_OFF = 0xDD,
    COMMAND_A20_ON = 0xDF,
    COMMAND_TEST_INPUTS = 0xE0,
    COMMAND_PULSE = 0xF0, // to FFh: output port bits 0 to 3 whose command bit is 0
};

static uint8_t mode(const struct i8042 *kbc)
{
    return kbc->ram[0];
}

static void update_irq(struct i8042 *kbc)
{
    irq_set(&kbc->config.irq_keyboard,
            kbc->full && !kbc->output_aux && (mode(kbc) & MODE_KEYBOARD_INT));
    irq_set(&kbc->config.irq_mouse, kbc->full && kbc->output_aux && (mode(kbc) & MODE_AUX_INT));
}

static void put_output(struct i8042 *kbc, uint8_t byte, bool aux)
{
    kbc->output = byte;
    kbc->output_aux = aux;
    kbc->full = 1;
}

// The next byte from the keyboard, translated when asked for; the release prefix becomes bit 7.
static bool keyboard_byte(struct i8042 *kbc, uint8_t *byte)
{
    while (ps2_keyboard_read(&kbc->keyboard, byte)) {
        if (!(mode(kbc) & MODE_TRANSLATE))
            return true;
        if (*byte == RELEASE_PREFIX) {
            kbc->release = 0x80;
            continue;
        }
        *byte = ps2_translate(*byte) | kbc->release;
        kbc->release = 0;
        return true;
    }
    return false;
}

// Fills the output buffer if it is free: own answers first, then the keyboard, then the mouse.
static void feed(struct i8042 *kbc)
{
    uint8_t byte;

    if (!kbc->full) {
        if (kbc->reply_full) {
            kbc->reply_full = 0;
            put_output(kbc, kbc->reply, kbc->reply_aux);
        } else if (!(mode(kbc) & MODE_KEYBOARD_OFF) && keyboard_byte(kbc, &byte)) {
            put_output(kbc, byte, false);
        } else if (!(mode(kbc) & MODE_AUX_OFF) && ps2_mouse_read(&kbc->mouse, &byte)) {
            put_output(kbc, byte, true);
        }
    }
    update_irq(kbc);
}

static void answer(struct i8042 *kbc, uint8_t byte, bool aux)
{
    kbc->reply = byte;
    kbc->reply_aux = aux;
    kbc->reply_full = 1;
}

static void set_a20(struct i8042 *kbc, bool enabled)
{
    if (kbc->config.set_a20)
        kbc->config.set_a20(kbc->config.opaque, enabled);
}

static void pull_reset(struct i8042 *kbc)
{
    if (kbc->config.reset)
        kbc->config.reset(kbc->config.opaque);
}

static uint8_t read_output_port(struct i8042 *kbc)
{
    uint8_t value = (kbc->output_port & OUTPUT_IDLE) | OUTPUT_NO_RESET;

    if (!kbc->config.a20 || kbc->config.a20(kbc->config.opaque))
        value |= OUTPUT_A20;
    if (kbc->full)
        value |= kbc->output_aux ? OUTPUT_IRQ12 : OUTPUT_IRQ1;
    return value;
}

static void write_command(struct i8042 *kbc, uint8_t command)
{
    kbc->status |= STATUS_COMMAND;
    kbc->command = 0;
    if (command >= COMMAND_PULSE) {
        if (!(command & OUTPUT_NO_RESET))
            pull_reset(kbc);
        return;
    }
    if ((command & 0xE0) == COMMAND_READ_RAM) {
        answer(kbc, kbc->ram[command & 0x1F], false);
        feed(kbc);
        return;
    }
    if ((command & 0xE0) == COMMAND_WRITE_RAM) {
        kbc->command = command;
        return;
    }
    switch (command) {
    case COMMAND_PASSWORD_TEST:
        answer(kbc, 0xF1, false); // none is set
        break;
    case COMMAND_AUX_OFF:
        kbc->ram[0] |= MODE_AUX_OFF;
        break;
    case COMMAND_AUX_ON:
        kbc->ram[0] &= ~MODE_AUX_OFF;
        break;
    case COMMAND_SELF_TEST:
        kbc->ram[0] |= MODE_SYS;
        answer(kbc, 0x55, false);
        break;
    case COMMAND_AUX_TEST:
    case COMMAND_KEYBOARD_TEST:
    case COMMAND_TEST_INPUTS:
        answer(kbc, 0, false);
        break;
    case COMMAND_KEYBOARD_OFF:
        kbc->ram[0] |= MODE_KEYBOARD_OFF;
        break;
    case COMMAND_KEYBOARD_ON:
        kbc->ram[0] &= ~MODE_KEYBOARD_OFF;
        break;
    case COMMAND_READ_INPUT_PORT:
        answer(kbc, INPUT_PORT, false);
        break;
    case COMMAND_READ_OUTPUT_PORT:
        answer(kbc, read_output_port(kbc), false);
        break;
    case COMMAND_WRITE_OUTPUT_PORT:
    case COMMAND_WRITE_KEYBOARD_OUTPUT:
    case COMMAND_WRITE_AUX_OUTPUT:
    case COMMAND_WRITE_AUX:
        kbc->command = command;
        break;
    case COMMAND_A20_OFF:
    case COMMAND_A20_ON:
        set_a20(kbc, command == COMMAND_A20_ON);
        break;
    default:
        break;
    }
    feed(kbc);
}

static void write_data(struct i8042 *kbc, uint8_t byte)
{
    uint8_t command = kbc->command;

    kbc->status &= ~STATUS_COMMAND;
    kbc->command = 0;
    if ((command & 0xE0) == COMMAND_WRITE_RAM) {
        kbc->ram[command & 0x1F] = byte;
        feed(kbc);
        return;
    }
    switch (command) {
    case COMMAND_WRITE_OUTPUT_PORT:
        kbc->output_port = byte;
        set_a20(kbc, byte & OUTPUT_A20);
        if (!(byte & OUTPUT_NO_RESET))
            pull_reset(kbc);
        return;
    case COMMAND_WRITE_KEYBOARD_OUTPUT:
        answer(kbc, byte, false);
        break;
    case COMMAND_WRITE_AUX_OUTPUT:
        answer(kbc, byte, true);
        break;
    case COMMAND_WRITE_AUX:
        kbc->ram[0] &= ~MODE_AUX_OFF; // sending to a port opens it
        ps2_mouse_write(&kbc->mouse, byte);
        break;
    default: {
        uint8_t leds = kbc->keyboard.leds;
        kbc->ram[0] &= ~MODE_KEYBOARD_OFF;
        ps2_keyboard_write(&kbc->keyboard, byte);
        if (kbc->keyboard.leds != leds && kbc->config.leds)
            kbc->config.leds(kbc->config.opaque, kbc->keyboard.leds);
        break;
    }
    }
    feed(kbc);
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *kbc = opaque;
    uint8_t byte = kbc->output; // an empty buffer gives its last content

    kbc->full = 0;
    update_irq(kbc);
    feed(kbc);
    return byte;
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    write_data(opaque, (uint8_t)value);
}

static uint64_t command_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *kbc = opaque;
    uint8_t status = kbc->status;

    if (kbc->full)
        status |= STATUS_OBF | (kbc->output_aux ? STATUS_AUX : 0);
    if (mode(kbc) & MODE_SYS)
        status |= STATUS_SYS;
    return status;
}

static void command_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    write_command(opaque, (uint8_t)value);
}

static const struct io_ops data_ops = {
    .read = data_read, .write = data_write, .min_size = 1, .max_size = 1};
static const struct io_ops command_ops = {
    .read = command_read, .write = command_write, .min_size = 1, .max_size = 1};

void i8042_regions(struct i8042 *kbc, struct io_region *data, struct io_region *command)
{
    *data = (struct io_region){
        .name = "i8042-data", .base = 0x60, .size = 1, .ops = &data_ops, .opaque = kbc};
    *command = (struct io_region){
        .name = "i8042-command", .base = 0x64, .size = 1, .ops = &command_ops, .opaque = kbc};
}

void i8042_init(struct i8042 *kbc, const struct i8042_config *config)
{
    *kbc = (struct i8042){.config = *config};
    i8042_reset(kbc);
}

void i8042_reset(struct i8042 *kbc)
{
    memset(kbc->ram, 0, sizeof(kbc->ram));
    kbc->ram[0] = MODE_AFTER_POST;
    kbc->status = STATUS_UNLOCKED;
    kbc->command = 0;
    kbc->full = kbc->output = kbc->output_aux = 0;
    kbc->reply_full = kbc->reply = kbc->reply_aux = 0;
    kbc->release = 0;
    kbc->output_port = OUTPUT_IDLE | OUTPUT_NO_RESET | OUTPUT_A20;
    ps2_keyboard_reset(&kbc->keyboard);
    ps2_mouse_reset(&kbc->mouse);
    update_irq(kbc);
}

bool i8042_key(struct i8042 *kbc, uint16_t key, bool down)
{
    bool taken = ps2_keyboard_key(&kbc->keyboard, key, down);

    feed(kbc);
    return taken;
}

void i8042_mouse_move(struct i8042 *kbc, int dx, int dy, int dz, uint8_t buttons)
{
    ps2_mouse_move(&kbc->mouse, dx, dy, dz, buttons);
    feed(kbc);
}

static int kbc_post_load(void *object, struct error *err)
{
    struct i8042 *kbc = object;

    if ((kbc->status & ~STATUS_STORED) || kbc->full > 1 || kbc->output_aux > 1 ||
        kbc->reply_full > 1 || kbc->reply_aux > 1 || (kbc->release & ~0x80))
        return error_set(err, ERROR_INPUT, "i8042: a register has reserved bits set");
    if (!ps2_keyboard_valid(&kbc->keyboard) || !ps2_mouse_valid(&kbc->mouse))
        return error_set(err, ERROR_INPUT, "i8042: keyboard or mouse state out of range");
    update_irq(kbc);
    return 0;
}

static const struct state_field kbc_fields[] = {
    STATE_ARRAY(struct i8042, ram, uint8_t),
    STATE_FIELD(struct i8042, status),
    STATE_FIELD(struct i8042, command),
    STATE_FIELD(struct i8042, full),
    STATE_FIELD(struct i8042, output),
    STATE_FIELD(struct i8042, output_aux),
    STATE_FIELD(struct i8042, reply_full),
    STATE_FIELD(struct i8042, reply),
    STATE_FIELD(struct i8042, reply_aux),
    STATE_FIELD(struct i8042, release),
    STATE_FIELD(struct i8042, output_port),
    STATE_STRUCT(struct i8042, keyboard, struct ps2_keyboard, ps2_keyboard_fields),
    STATE_STRUCT(struct i8042, mouse, struct ps2_mouse, ps2_mouse_fields),
    STATE_TRANSIENT(struct i8042, config),
    STATE_END};

const struct state_desc i8042_state = {.name = "i8042",
                                       .version = 1,
                                       .size = sizeof(struct i8042),
                                       .fields = kbc_fields,
                                       .post_load = kbc_post_load};
