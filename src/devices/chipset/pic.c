// SPDX-License-Identifier: Apache-2.0
// The 8259A pair: see pic.h.
#include "devices/chipset/pic.h"

#include <stdlib.h>

#define ICW1_IC4 0x01
#define ICW1_SNGL 0x02
#define ICW1_INIT 0x10
#define ICW4_AEOI 0x02
#define ICW4_SFNM 0x10
#define OCW2_ROTATE 0x80
#define OCW2_SPECIFIC 0x40
#define OCW2_EOI 0x20
#define OCW3_SELECT 0x08
#define OCW3_ESMM 0x40
#define OCW3_SMM 0x20
#define OCW3_POLL 0x04
#define OCW3_RR 0x02
#define OCW3_RIS 0x01

#define CASCADE 2
#define SPURIOUS 7
// Inputs that a PC wires for edges only: timer, keyboard, cascade; RTC, floating point.
static const uint8_t elcr_writable[2] = {0xf8, 0xde};

static uint8_t chip_irr(const struct pic_chip *chip)
{
    return (chip->lines & chip->elcr) | (chip->edges & ~chip->elcr);
}

// How many steps below the top priority the most urgent of `set` is; 8 when the set is empty.
static unsigned chip_rank(const struct pic_chip *chip, uint8_t set)
{
    unsigned top = (chip->lowest + 1) & 7;
    unsigned rotated = ((unsigned)set << 8 | set) >> top & 0xff;

    return rotated ? (unsigned)__builtin_ctz(rotated) : 8;
}

// The input to be served next, or -1.
static int chip_request(const struct pic_chip *chip, bool master)
{
    uint8_t isr = chip->isr;
    unsigned rank;

    if (chip->init)
        return -1;
    // Special mask mode: a masked level in service holds back nothing. Special fully nested mode:
    // the slave may interrupt its own service.
    if (chip->special_mask)
        isr &= ~chip->imr;
    if (master && chip->nested)
        isr &= ~(1u << CASCADE);
    rank = chip_rank(chip, chip_irr(chip) & ~chip->imr);
    if (rank >= chip_rank(chip, isr))
        return -1;
    return (rank + chip->lowest + 1) & 7;
}

static void chip_set_line(struct pic_chip *chip, unsigned input, bool level)
{
    uint8_t bit = 1u << input;

    if (level) {
        if (!(chip->lines & bit))
            chip->edges |= bit;
        chip->lines |= bit;
    } else {
        chip->lines &= ~bit;
        chip->edges &= ~bit;
    }
}

static void pic_drive(struct pic *pic, bool level)
{
    if (level == pic->output)
        return;
    pic->output = level;
    irq_set(&pic->out, level);
}

// Propagates requests: slave to master, master to the output.
static void pic_update(struct pic *pic)
{
    struct pic_chip *master = &pic->chip[0];
    bool slave = chip_request(&pic->chip[1], false) >= 0;

    // The cascade follows the slave's INT; its edge latch is renewed so that an acknowledge that
    // leaves the slave requesting is not lost.
    chip_set_line(master, CASCADE, slave);
    if (slave)
        master->edges |= 1u << CASCADE;
    pic_drive(pic, chip_request(master, true) >= 0);
}

// Acknowledge inside one chip: moves a request into service. Returns the input; 7 without service
// bit when there is no request.
static unsigned chip_ack(struct pic_chip *chip, bool master)
{
    int input = chip_request(chip, master);

    if (input < 0)
        return SPURIOUS;
    chip->edges &= ~(1u << input);
    if (!chip->auto_eoi)
        chip->isr |= 1u << input;
    else if (chip->rotate_aeoi)
        chip->lowest = input;
    return input;
}

int pic_ack(struct pic *pic)
{
    struct pic_chip *chip = &pic->chip[0];
    unsigned input = chip_ack(chip, true);

    // A single master has a device, not a slave, on input 2: on a PC nothing is there.
    if (input == CASCADE && !chip->single) {
        chip = &pic->chip[1];
        input = chip_ack(chip, false);
    }
    pic_drive(pic, false);
    pic_update(pic);
    return chip->base + input;
}

void pic_input(struct pic *pic, int irq, bool level)
{
    if (irq < 0 || irq >= PIC_INPUTS || irq == CASCADE)
        return;
    chip_set_line(&pic->chip[irq >> 3], irq & 7, level);
    pic_update(pic);
}

static void line_set(void *opaque, int number, bool level)
{
    pic_input(opaque, number, level);
}

struct irq_line pic_line(struct pic *pic, int irq)
{
    return (struct irq_line){.set = line_set, .opaque = pic, .number = irq};
}

static void chip_icw1(struct pic_chip *chip, uint8_t value)
{
    // Datasheet, "Initialization Command Words": edge sense circuit, masks, priorities, special
    // mask mode and read selection are reset; without IC4 the ICW4 functions too. LTIM is ignored
    // where an ELCR exists.
    chip->edges = 0;
    chip->isr = 0;
    chip->imr = 0;
    chip->lowest = 7;
    chip->special_mask = false;
    chip->read_isr = false;
    chip->poll = false;
    chip->rotate_aeoi = false;
    chip->auto_eoi = false;
    chip->nested = false;
    chip->single = value & ICW1_SNGL;
    chip->want_icw4 = value & ICW1_IC4;
    chip->init = 2;
}

static void chip_ocw2(struct pic_chip *chip, uint8_t value)
{
    unsigned input = value & 7;
    unsigned rank;

    switch (value & (OCW2_ROTATE | OCW2_SPECIFIC | OCW2_EOI)) {
    case OCW2_EOI:
    case OCW2_ROTATE | OCW2_EOI:
        // The most urgent level in service; in special mask mode a masked one is left alone.
        rank = chip_rank(chip, chip->special_mask ? chip->isr & ~chip->imr : chip->isr);
        if (rank < 8) {
            input = (rank + chip->lowest + 1) & 7;
            chip->isr &= ~(1u << input);
            if (value & OCW2_ROTATE)
                chip->lowest = input;
        }
        break;
    case OCW2_SPECIFIC | OCW2_EOI:
        chip->isr &= ~(1u << input);
        break;
    case OCW2_ROTATE | OCW2_SPECIFIC | OCW2_EOI:
        chip->isr &= ~(1u << input);
        chip->lowest = input;
        break;
    case OCW2_ROTATE | OCW2_SPECIFIC:
        chip->lowest = input;
        break;
    case OCW2_ROTATE:
        chip->rotate_aeoi = true;
        break;
    case 0:
        chip->rotate_aeoi = false;
        break;
    default: // SL alone: no operation
        break;
    }
}

static void chip_ocw3(struct pic_chip *chip, uint8_t value)
{
    if (value & OCW3_ESMM)
        chip->special_mask = value & OCW3_SMM;
    if (value & OCW3_POLL)
        chip->poll = true;
    if (value & OCW3_RR)
        chip->read_isr = value & OCW3_RIS;
}

static void chip_write_data(struct pic_chip *chip, uint8_t value)
{
    switch (chip->init) {
    case 2:
        chip->base = value & 0xf8;
        chip->init = !chip->single ? 3 : chip->want_icw4 ? 4 : 0;
        break;
    case 3:
        chip->icw3 = value;
        chip->init = chip->want_icw4 ? 4 : 0;
        break;
    case 4:
        chip->auto_eoi = value & ICW4_AEOI;
        chip->nested = value & ICW4_SFNM;
        chip->init = 0;
        break;
    default:
        chip->imr = value;
        break;
    }
}

static void pic_write(struct pic *pic, unsigned index, uint64_t offset, uint8_t value)
{
    struct pic_chip *chip = &pic->chip[index];

    if (offset & 1)
        chip_write_data(chip, value);
    else if (value & ICW1_INIT)
        chip_icw1(chip, value);
    else if (value & OCW3_SELECT)
        chip_ocw3(chip, value);
    else
        chip_ocw2(chip, value);
    pic_update(pic);
}

static uint64_t pic_read(struct pic *pic, unsigned index, uint64_t offset)
{
    struct pic_chip *chip = &pic->chip[index];

    if (chip->poll) {
        bool request = chip_request(chip, index == 0) >= 0;
        unsigned input = chip_ack(chip, index == 0);

        chip->poll = false;
        pic_update(pic);
        return request ? 0x80 | input : input;
    }
    if (offset & 1)
        return chip->imr;
    return chip->read_isr ? chip->isr : chip_irr(chip);
}

static uint64_t master_read(void *opaque, uint64_t offset, unsigned size)
{
    return pic_read(opaque, 0, offset);
}

static void master_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    pic_write(opaque, 0, offset, value);
}

static uint64_t slave_read(void *opaque, uint64_t offset, unsigned size)
{
    return pic_read(opaque, 1, offset);
}

static void slave_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    pic_write(opaque, 1, offset, value);
}

static uint64_t elcr_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pic *pic = opaque;

    return pic->chip[offset & 1].elcr;
}

static void elcr_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pic *pic = opaque;

    pic->chip[offset & 1].elcr = value & elcr_writable[offset & 1];
    pic_update(pic);
}

static const struct io_ops master_ops = {.read = master_read, .write = master_write, .max_size = 1};
static const struct io_ops slave_ops = {.read = slave_read, .write = slave_write, .max_size = 1};
static const struct io_ops elcr_ops = {.read = elcr_read, .write = elcr_write, .max_size = 1};

void pic_regions(struct pic *pic, struct io_region regions[PIC_REGIONS])
{
    regions[0] = (struct io_region){"pic-master", 0x20, 2, &master_ops, pic};
    regions[1] = (struct io_region){"pic-slave", 0xa0, 2, &slave_ops, pic};
    regions[2] = (struct io_region){"pic-elcr", 0x4d0, 2, &elcr_ops, pic};
}

void pic_reset(struct pic *pic)
{
    for (unsigned i = 0; i < 2; i++) {
        uint8_t lines = pic->chip[i].lines;

        // Before ICW1 a chip is undefined; here it is silent: everything masked.
        pic->chip[i] = (struct pic_chip){.lines = lines, .imr = 0xff, .lowest = 7};
    }
    pic_update(pic);
}

struct pic *pic_create(const struct pic_config *config, struct error *err)
{
    struct pic *pic = calloc(1, sizeof(*pic));

    if (!pic) {
        error_set(err, ERROR_HOST, "out of memory for the interrupt controller");
        return NULL;
    }
    pic->out = config->output;
    pic_reset(pic);
    return pic;
}

void pic_destroy(struct pic *pic)
{
    free(pic);
}

static int pic_post_load(void *object, struct error *err)
{
    struct pic *pic = object;

    for (unsigned i = 0; i < 2; i++) {
        struct pic_chip *chip = &pic->chip[i];

        if (chip->lowest > 7 || chip->init == 1 || chip->init > 4 || chip->base & 7 ||
            chip->elcr & ~elcr_writable[i] || chip->edges & ~chip->lines)
            return error_set(err, ERROR_INPUT, "pic: chip %u has an impossible state", i);
    }
    return 0;
}

static const struct state_field chip_fields[] = {
    STATE_FIELD(struct pic_chip, lines),        STATE_FIELD(struct pic_chip, edges),
    STATE_FIELD(struct pic_chip, isr),          STATE_FIELD(struct pic_chip, imr),
    STATE_FIELD(struct pic_chip, elcr),         STATE_FIELD(struct pic_chip, base),
    STATE_FIELD(struct pic_chip, icw3),         STATE_FIELD(struct pic_chip, lowest),
    STATE_FIELD(struct pic_chip, init),         STATE_FIELD(struct pic_chip, single),
    STATE_FIELD(struct pic_chip, want_icw4),    STATE_FIELD(struct pic_chip, auto_eoi),
    STATE_FIELD(struct pic_chip, nested),       STATE_FIELD(struct pic_chip, rotate_aeoi),
    STATE_FIELD(struct pic_chip, special_mask), STATE_FIELD(struct pic_chip, read_isr),
    STATE_FIELD(struct pic_chip, poll),         STATE_END,
};

static const struct state_field pic_fields[] = {
    STATE_STRUCT(struct pic, chip, struct pic_chip, chip_fields),
    STATE_FIELD(struct pic, output),
    STATE_TRANSIENT(struct pic, out),
    STATE_END,
};

const struct state_desc pic_state = {
    .name = "pic",
    .version = 1,
    .size = sizeof(struct pic),
    .fields = pic_fields,
    .post_load = pic_post_load,
};
