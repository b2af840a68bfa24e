// SPDX-License-Identifier: Apache-2.0
// The 8259A pair against its datasheet.
#include "device_test.h"
#include "devices/chipset/pic.h"

struct fixture {
    struct pic *pic;
    struct io_region regions[PIC_REGIONS];
    struct probe out;
};

static void out(struct fixture *f, uint16_t port, uint8_t value)
{
    for (unsigned i = 0; i < PIC_REGIONS; i++)
        if (port >= f->regions[i].base && port < f->regions[i].base + f->regions[i].size)
            region_write(&f->regions[i], port, value, 1);
}

static uint8_t in(struct fixture *f, uint16_t port)
{
    for (unsigned i = 0; i < PIC_REGIONS; i++)
        if (port >= f->regions[i].base && port < f->regions[i].base + f->regions[i].size)
            return region_read(&f->regions[i], port, 1);
    return 0xff;
}

static void program(struct fixture *f, uint8_t icw4)
{
    out(f, 0x20, 0x11);
    out(f, 0x21, 0x30);
    out(f, 0x21, 0x04);
    out(f, 0x21, icw4);
    out(f, 0xa0, 0x11);
    out(f, 0xa1, 0x38);
    out(f, 0xa1, 0x02);
    out(f, 0xa1, icw4);
}

static void pulse(struct fixture *f, int irq)
{
    pic_input(f->pic, irq, false);
    pic_input(f->pic, irq, true);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->pic = pic_create(&(struct pic_config){.output = probe_line(&f->out)}, NULL);
    pic_regions(f->pic, f->regions);
    program(f, 0x01);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pic_destroy(f->pic);
    free(f);
    return 0;
}

static void test_priority(void **state)
{
    struct fixture *f = *state;

    assert_false(f->out.level);
    pulse(f, 5);
    pulse(f, 3);
    assert_true(f->out.level);
    assert_int_equal(in(f, 0x20), 0x28);
    assert_int_equal(pic_ack(f->pic), 0x33);
    out(f, 0x20, 0x0b);
    assert_int_equal(in(f, 0x20), 0x08);
    assert_false(f->out.level); // 5 waits behind 3
    pulse(f, 0);
    assert_true(f->out.level); // 0 nests
    assert_int_equal(pic_ack(f->pic), 0x30);
    assert_int_equal(in(f, 0x20), 0x09);
    out(f, 0x20, 0x20);
    assert_int_equal(in(f, 0x20), 0x08);
    out(f, 0x20, 0x20);
    assert_true(f->out.level);
    assert_int_equal(pic_ack(f->pic), 0x35);
    out(f, 0x20, 0x65); // specific EOI
    assert_int_equal(in(f, 0x20), 0);
    // The line is still high, but an edge is served once.
    assert_false(f->out.level);
}

static void test_mask_and_registers(void **state)
{
    struct fixture *f = *state;

    out(f, 0x21, 0xa5);
    assert_int_equal(in(f, 0x21), 0xa5);
    pulse(f, 0);
    assert_false(f->out.level);
    assert_int_equal(in(f, 0x20), 0x01);
    out(f, 0x21, 0);
    assert_true(f->out.level);
    out(f, 0x20, 0x11); // ICW1 clears mask and edges
    assert_int_equal(in(f, 0x21), 0);
    assert_int_equal(in(f, 0x20), 0);
    assert_false(f->out.level);
}

static void test_spurious(void **state)
{
    struct fixture *f = *state;

    pulse(f, 4);
    pic_input(f->pic, 4, false);
    assert_false(f->out.level);
    assert_int_equal(pic_ack(f->pic), 0x37);
    out(f, 0x20, 0x0b);
    assert_int_equal(in(f, 0x20), 0); // no service bit
}

static void test_cascade(void **state)
{
    struct fixture *f = *state;

    pulse(f, 12);
    pulse(f, 8);
    assert_int_equal(pic_ack(f->pic), 0x38);
    out(f, 0x20, 0x0b);
    out(f, 0xa0, 0x0b);
    assert_int_equal(in(f, 0x20), 0x04);
    assert_int_equal(in(f, 0xa0), 0x01);
    assert_false(f->out.level);
    out(f, 0xa0, 0x20);
    assert_false(f->out.level); // master still serves input 2
    out(f, 0x20, 0x20);
    assert_true(f->out.level);
    assert_int_equal(pic_ack(f->pic), 0x3c);
    // A more urgent slave input needs special fully nested mode.
    pulse(f, 9);
    assert_false(f->out.level);
    program(f, 0x11);
    pulse(f, 12);
    assert_int_equal(pic_ack(f->pic), 0x3c);
    pulse(f, 9);
    assert_true(f->out.level);
    assert_int_equal(pic_ack(f->pic), 0x39);
}

static void test_level(void **state)
{
    struct fixture *f = *state;

    out(f, 0x4d0, 0xff);
    out(f, 0x4d1, 0xff);
    assert_int_equal(in(f, 0x4d0), 0xf8);
    assert_int_equal(in(f, 0x4d1), 0xde);
    pic_input(f->pic, 11, true);
    assert_int_equal(pic_ack(f->pic), 0x3b);
    out(f, 0xa0, 0x20);
    out(f, 0x20, 0x20);
    assert_true(f->out.level); // still asserted
    assert_int_equal(pic_ack(f->pic), 0x3b);
    pic_input(f->pic, 11, false);
    out(f, 0xa0, 0x20);
    out(f, 0x20, 0x20);
    assert_false(f->out.level);
}

static void test_auto_eoi_and_rotation(void **state)
{
    struct fixture *f = *state;

    program(f, 0x03);
    out(f, 0x20, 0x80); // rotate in AEOI mode
    pulse(f, 1);
    assert_int_equal(pic_ack(f->pic), 0x31);
    out(f, 0x20, 0x0b);
    assert_int_equal(in(f, 0x20), 0);
    pulse(f, 0);
    pulse(f, 3);
    assert_int_equal(pic_ack(f->pic), 0x33); // 1 is lowest now, then 0
    assert_int_equal(pic_ack(f->pic), 0x30);

    program(f, 0x01);
    out(f, 0x20, 0xc4); // set priority: 4 lowest, 5 highest
    pulse(f, 4);
    pulse(f, 6);
    assert_int_equal(pic_ack(f->pic), 0x36);
    out(f, 0x20, 0xa0); // rotate on non-specific EOI: 6 lowest
    pulse(f, 7);
    assert_int_equal(pic_ack(f->pic), 0x37);
    out(f, 0x20, 0xe7); // rotate on specific EOI
    assert_int_equal(pic_ack(f->pic), 0x34);
}

static void test_special_mask(void **state)
{
    struct fixture *f = *state;

    pulse(f, 1);
    assert_int_equal(pic_ack(f->pic), 0x31);
    pulse(f, 6);
    assert_false(f->out.level);
    out(f, 0x20, 0x68); // special mask mode
    out(f, 0x21, 0x02);
    assert_true(f->out.level);
    assert_int_equal(pic_ack(f->pic), 0x36);
    out(f, 0x20, 0x20); // leaves the masked level in service
    out(f, 0x20, 0x0b);
    assert_int_equal(in(f, 0x20), 0x02);
    out(f, 0x20, 0x48); // back to normal
    pulse(f, 6);
    assert_false(f->out.level);
}

static void test_poll(void **state)
{
    struct fixture *f = *state;

    out(f, 0x20, 0x0c);
    assert_int_equal(in(f, 0x20) & 0x80, 0);
    pulse(f, 5);
    out(f, 0x20, 0x0c);
    assert_int_equal(in(f, 0x20), 0x85);
    out(f, 0x20, 0x0b);
    assert_int_equal(in(f, 0x20), 0x20);
    assert_false(f->out.level);
}

static void test_output_drops_at_ack(void **state)
{
    struct fixture *f = *state;

    program(f, 0x03);
    pulse(f, 3);
    pulse(f, 4);
    assert_int_equal(f->out.rises, 1);
    pic_ack(f->pic);
    assert_true(f->out.level);
    assert_int_equal(f->out.rises, 2);
}

static void test_state(void **state)
{
    struct fixture *f = *state;
    struct probe other = {0};
    struct pic *copy = pic_create(&(struct pic_config){.output = probe_line(&other)}, NULL);

    out(f, 0x4d0, 0x20);
    pulse(f, 3);
    pic_ack(f->pic);
    pulse(f, 0);
    out(f, 0xa0, 0x11);
    check_state(&pic_state, f->pic, copy);
    assert_int_equal(pic_ack(copy), 0x30);

    f->pic->chip[0].lowest = 9;
    struct state_buffer buffer = {0};
    size_t offset = 0;
    assert_int_equal(state_save(&buffer, &pic_state, f->pic), 0);
    assert_int_equal(state_load(&buffer, &offset, &pic_state, copy, NULL), -1);
    state_buffer_free(&buffer);
    pic_destroy(copy);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_priority),
        T(test_mask_and_registers),
        T(test_spurious),
        T(test_cascade),
        T(test_level),
        T(test_auto_eoi_and_rotation),
        T(test_special_mask),
        T(test_poll),
        T(test_output_drops_at_ack),
        T(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
