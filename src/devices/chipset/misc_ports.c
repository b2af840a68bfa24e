// SPDX-License-Identifier: Apache-2.0
#include "devices/chipset/misc_ports.h"
#include <string.h>

#define CONTROL_A_RESET 0x01
#define CONTROL_A_A20 0x02
#define CONTROL_A_STORED 0xC8 // disk lights and the password lock, stored without effect

#define RESET_SYSTEM 0x02 // hard instead of soft
#define RESET_CPU 0x04    // 0 to 1 starts the reset
#define RESET_FULL 0x08   // power cycle
#define RESET_STORED (RESET_SYSTEM | RESET_CPU | RESET_FULL)

static void request_reset(struct misc_ports *ports, bool hard)
{
    if (ports->config.reset)
        ports->config.reset(ports->config.opaque, hard);
}

static uint64_t post_read(void *opaque, uint64_t offset, unsigned size)
{
    struct misc_ports *ports = opaque;

    return ports->pages[offset % MISC_POST_SIZE];
}

static void post_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct misc_ports *ports = opaque;

    ports->pages[offset % MISC_POST_SIZE] = (uint8_t)value;
    if (offset == 0 && ports->config.post)
        ports->config.post(ports->config.opaque, (uint8_t)value);
}

static uint64_t control_a_read(void *opaque, uint64_t offset, unsigned size)
{
    struct misc_ports *ports = opaque;
    bool a20 = !ports->config.a20 || ports->config.a20(ports->config.opaque);

    return ports->control_a | (a20 ? CONTROL_A_A20 : 0);
}

static void control_a_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct misc_ports *ports = opaque;
    bool rises = (value & ~(uint64_t)ports->control_a) & CONTROL_A_RESET;

    ports->control_a = value & (CONTROL_A_STORED | CONTROL_A_RESET);
    if (ports->config.set_a20)
        ports->config.set_a20(ports->config.opaque, value & CONTROL_A_A20);
    if (rises)
        request_reset(ports, false);
}

static uint64_t debug_read(void *opaque, uint64_t offset, unsigned size)
{
    struct misc_ports *ports = opaque;

    return ports->config.debug ? MISC_DEBUG_PORT : 0xFF; // how programs detect the console
}

static void debug_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct misc_ports *ports = opaque;

    if (ports->config.debug)
        ports->config.debug(ports->config.opaque, (uint8_t)value);
}

uint8_t reset_control_read(void *opaque)
{
    return ((struct misc_ports *)opaque)->reset_control;
}

void reset_control_write(void *opaque, uint8_t value)
{
    struct misc_ports *ports = opaque;
    bool rises = value & ~ports->reset_control & RESET_CPU;

    ports->reset_control = value & RESET_STORED;
    if (rises)
        request_reset(ports, value & (RESET_SYSTEM | RESET_FULL));
}

static uint64_t reset_read(void *opaque, uint64_t offset, unsigned size)
{
    return reset_control_read(opaque);
}

static void reset_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    reset_control_write(opaque, (uint8_t)value);
}

static void x87_request(struct misc_ports *ports, bool requested)
{
    ports->x87_requested = requested;
    irq_set(&ports->config.irq13, requested);
}

void misc_ports_ferr(struct misc_ports *ports, bool level)
{
    bool rises = level && !ports->ferr;

    ports->ferr = level;
    if (rises)
        x87_request(ports, true);
    if (!level)
        ports->ignne = false;
}

static uint64_t x87_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0xFF; // write-only
}

static void x87_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct misc_ports *ports = opaque;

    x87_request(ports, false);
    if (!ports->ferr || ports->ignne)
        return;
    ports->ignne = true;
    if (ports->config.ignne)
        ports->config.ignne(ports->config.opaque);
}

static const struct io_ops post_ops = {
    .read = post_read, .write = post_write, .min_size = 1, .max_size = 1};
static const struct io_ops control_a_ops = {
    .read = control_a_read, .write = control_a_write, .min_size = 1, .max_size = 1};
static const struct io_ops debug_ops = {
    .read = debug_read, .write = debug_write, .min_size = 1, .max_size = 1};
static const struct io_ops x87_ops = {
    .read = x87_read, .write = x87_write, .min_size = 1, .max_size = 1};
static const struct io_ops reset_ops = {
    .read = reset_read, .write = reset_write, .min_size = 1, .max_size = 1};

static struct io_region region_of(struct misc_ports *ports, const char *name, uint64_t base,
                                  uint64_t size, const struct io_ops *ops)
{
    return (struct io_region){
        .name = name, .base = base, .size = size, .ops = ops, .opaque = ports};
}

void misc_ports_post_region(struct misc_ports *ports, struct io_region *region)
{
    *region = region_of(ports, "post", MISC_POST_PORT, MISC_POST_SIZE, &post_ops);
}

void misc_ports_control_a_region(struct misc_ports *ports, struct io_region *region)
{
    *region = region_of(ports, "control-a", MISC_CONTROL_A_PORT, 1, &control_a_ops);
}

void misc_ports_debug_region(struct misc_ports *ports, struct io_region *region)
{
    *region = region_of(ports, "debug-console", MISC_DEBUG_PORT, 1, &debug_ops);
}

void misc_ports_x87_region(struct misc_ports *ports, struct io_region *region)
{
    *region = region_of(ports, "x87-error", MISC_X87_PORT, 1, &x87_ops);
}

void misc_ports_reset_region(struct misc_ports *ports, struct io_region *region)
{
    *region = region_of(ports, "reset-control", MISC_RESET_PORT, 1, &reset_ops);
}

void misc_ports_init(struct misc_ports *ports, const struct misc_ports_config *config)
{
    *ports = (struct misc_ports){.config = *config};
}

void misc_ports_reset(struct misc_ports *ports)
{
    memset(ports->pages, 0, sizeof(ports->pages));
    ports->control_a = 0;
    ports->reset_control = 0;
    misc_ports_ferr(ports, false);
    x87_request(ports, false);
}

static int misc_post_load(void *object, struct error *err)
{
    struct misc_ports *ports = object;

    if ((ports->control_a & ~(CONTROL_A_STORED | CONTROL_A_RESET)) ||
        (ports->reset_control & ~RESET_STORED))
        return error_set(err, ERROR_INPUT, "misc_ports: a register has reserved bits set");
    if (ports->ignne && !ports->ferr)
        return error_set(err, ERROR_INPUT, "misc_ports: IGNNE# without FERR#");
    return 0;
}

static const struct state_field misc_fields[] = {
    STATE_ARRAY(struct misc_ports, pages, uint8_t), STATE_FIELD(struct misc_ports, control_a),
    STATE_FIELD(struct misc_ports, reset_control),  STATE_FIELD(struct misc_ports, ferr),
    STATE_FIELD(struct misc_ports, x87_requested),  STATE_FIELD(struct misc_ports, ignne),
    STATE_TRANSIENT(struct misc_ports, config),     STATE_END};

const struct state_desc misc_ports_state = {.name = "misc_ports",
                                            .version = 1,
                                            .size = sizeof(struct misc_ports),
                                            .fields = misc_fields,
                                            .post_load = misc_post_load};
