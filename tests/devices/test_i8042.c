// SPDX-License-Identifier: Apache-2.0
// Keyboard controller: probing as an operating system does it, keyboard and mouse commands,
// translation, interrupts, A20 and reset, saved state.
#include "device_bench.h"
#include "devices/chipset/i8042.h"

#define IRQ_KEYBOARD 1
#define IRQ_MOUSE 12

struct fixture {
    struct bench bench;
    struct i8042 kbc;
    struct io_region data, command;
    bool a20;
    unsigned resets;
    uint8_t leds;
};

static void on_set_a20(void *opaque, bool enabled)
{
    ((struct fixture *)opaque)->a20 = enabled;
}

static bool on_a20(void *opaque)
{
    return ((struct fixture *)opaque)->a20;
}

static void on_reset(void *opaque)
{
    ((struct fixture *)opaque)->resets++;
}

static void on_leds(void *opaque, uint8_t leds)
{
    ((struct fixture *)opaque)->leds = leds;
}

static void kbc_make(struct fixture *f, struct i8042 *kbc)
{
    i8042_init(kbc, &(struct i8042_config){.irq_keyboard = bench_line(&f->bench, IRQ_KEYBOARD),
                                           .irq_mouse = bench_line(&f->bench, IRQ_MOUSE),
                                           .set_a20 = on_set_a20,
                                           .a20 = on_a20,
                                           .reset = on_reset,
                                           .leds = on_leds,
                                           .opaque = f});
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    bench_init(&f->bench);
    f->a20 = true;
    kbc_make(f, &f->kbc);
    i8042_regions(&f->kbc, &f->data, &f->command);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    bench_fini(&f->bench);
    free(f);
    return 0;
}

#define STATUS() ((unsigned)bench_read(&f->command, 0, 1))
#define COMMAND(v) bench_write(&f->command, 0, v, 1)
#define DATA(v) bench_write(&f->data, 0, v, 1)

static unsigned next(struct fixture *f)
{
    assert_int_equal(STATUS() & 1, 1);
    return (unsigned)bench_read(&f->data, 0, 1);
}

static void expect(struct fixture *f, const uint8_t *bytes, unsigned count, bool aux)
{
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(STATUS() & 0x21, aux ? 0x21 : 0x01);
        assert_int_equal(bench_read(&f->data, 0, 1), bytes[i]);
    }
    assert_int_equal(STATUS() & 1, 0);
}

#define EXPECT(...)                             \
    do {                                        \
        const uint8_t want_[] = {__VA_ARGS__};  \
        expect(f, want_, sizeof(want_), false); \
    } while (0)
#define EXPECT_AUX(...)                        \
    do {                                       \
        const uint8_t want_[] = {__VA_ARGS__}; \
        expect(f, want_, sizeof(want_), true); \
    } while (0)
#define MOUSE(v)       \
    do {               \
        COMMAND(0xD4); \
        DATA(v);       \
    } while (0)

static void set_mode(struct fixture *f, uint8_t mode)
{
    COMMAND(0x60);
    DATA(mode);
}

static void controller_probe(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(STATUS(), 0x14);
    COMMAND(0xAA);
    assert_int_equal(STATUS() & 0x08, 0x08);
    EXPECT(0x55);
    COMMAND(0x20);
    EXPECT(0x65);
    set_mode(f, 0x74);
    COMMAND(0x20);
    EXPECT(0x74);
    COMMAND(0x3F);
    EXPECT(0x00);
    COMMAND(0x7F);
    DATA(0x5A);
    COMMAND(0x3F);
    EXPECT(0x5A);
    COMMAND(0xAB);
    EXPECT(0);
    COMMAND(0xA9);
    EXPECT(0);
    COMMAND(0xA4);
    EXPECT(0xF1);
    COMMAND(0xA8);
    COMMAND(0x20);
    assert_int_equal(next(f) & 0x20, 0);
    COMMAND(0xA7);
    COMMAND(0x20);
    assert_int_equal(next(f) & 0x20, 0x20);
    COMMAND(0xAE);
    COMMAND(0x20);
    assert_int_equal(next(f) & 0x10, 0);
    // The mouse port's loop: no multiplexer answers.
    COMMAND(0xD3);
    DATA(0x5A);
    EXPECT_AUX(0x5A);
    COMMAND(0xD3);
    DATA(0xA4);
    EXPECT_AUX(0xA4);
    COMMAND(0xD2);
    DATA(0x1C);
    EXPECT(0x1C);
}

static void a20_and_reset(void **state)
{
    struct fixture *f = *state;

    COMMAND(0xD1);
    DATA(0xDD);
    assert_false(f->a20);
    COMMAND(0xD0);
    assert_int_equal(next(f) & 0x03, 0x01);
    COMMAND(0xDF);
    assert_true(f->a20);
    COMMAND(0xDD);
    assert_false(f->a20);
    f->a20 = true; // through port 92h
    COMMAND(0xD0);
    assert_int_equal(next(f) & 0x03, 0x03);
    assert_int_equal(f->resets, 0);
    COMMAND(0xFF);
    assert_int_equal(f->resets, 0);
    COMMAND(0xFE);
    assert_int_equal(f->resets, 1);
    COMMAND(0xD1);
    DATA(0xDE);
    assert_int_equal(f->resets, 2);
}

static void keyboard_commands(void **state)
{
    struct fixture *f = *state;

    set_mode(f, 0x25); // no translation
    DATA(0xFF);
    assert_int_equal(f->bench.rises[IRQ_KEYBOARD], 1);
    EXPECT(0xFA, 0xAA);
    assert_int_equal(f->bench.rises[IRQ_KEYBOARD], 2);
    DATA(0xF2);
    EXPECT(0xFA, 0xAB, 0x83);
    DATA(0xED);
    EXPECT(0xFA);
    DATA(0x07);
    EXPECT(0xFA);
    assert_int_equal(f->leds, 7);
    DATA(0xEE);
    EXPECT(0xEE);
    DATA(0xFE);
    EXPECT(0xEE);
    DATA(0xF0);
    EXPECT(0xFA);
    DATA(0x00);
    EXPECT(0xFA, 0x02);
    DATA(0xF3);
    EXPECT(0xFA);
    DATA(0x20);
    EXPECT(0xFA);
    DATA(0xF3);
    EXPECT(0xFA);
    DATA(0xF5); // another command instead of the data
    EXPECT(0xFA);
    assert_false(i8042_key(&f->kbc, 0x1E, true));
    DATA(0xF4);
    EXPECT(0xFA);
    DATA(0x77);
    EXPECT(0xFE);
    set_mode(f, 0x65);
    DATA(0xF2);
    EXPECT(0xFA, 0xAB, 0x41);
}

static void keys(void **state)
{
    struct fixture *f = *state;

    i8042_key(&f->kbc, 0x1E, true);
    i8042_key(&f->kbc, 0x1E, false);
    i8042_key(&f->kbc, 0xE048, true);
    i8042_key(&f->kbc, 0xE048, false);
    assert_true(f->bench.level[IRQ_KEYBOARD]);
    EXPECT(0x1E, 0x9E, 0xE0, 0x48, 0xE0, 0xC8);
    assert_false(f->bench.level[IRQ_KEYBOARD]);
    assert_int_equal(f->bench.rises[IRQ_KEYBOARD], 6);
    i8042_key(&f->kbc, 0xE11D, true);
    EXPECT(0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5);
    // Every key of a 102-key keyboard survives both ways through the tables.
    for (uint8_t key = 1; key <= 0x58; key++) {
        if (key == 0x55)
            key = 0x56;
        assert_true(i8042_key(&f->kbc, key, true));
        EXPECT(key);
        assert_true(i8042_key(&f->kbc, key, false));
        EXPECT(key | 0x80);
    }
    COMMAND(0xAD); // the port is closed: bytes wait
    i8042_key(&f->kbc, 0x10, true);
    assert_int_equal(STATUS() & 1, 0);
    COMMAND(0xAE);
    EXPECT(0x10);
    set_mode(f, 0x25);
    i8042_key(&f->kbc, 0x41, true);
    i8042_key(&f->kbc, 0x1E, false);
    EXPECT(0x83, 0xF0, 0x1C);
    DATA(0xF0);
    EXPECT(0xFA);
    DATA(0x01);
    EXPECT(0xFA);
    i8042_key(&f->kbc, 0xE05B, false);
    EXPECT(0xE0, 0xDB);
    unsigned taken = 0;
    while (taken < 1000 && i8042_key(&f->kbc, 0x1E, true))
        taken++;
    assert_true(taken > 16 && taken < 100);
}

static void mouse(void **state)
{
    struct fixture *f = *state;

    set_mode(f, 0x47);
    MOUSE(0xFF);
    EXPECT_AUX(0xFA, 0xAA, 0x00);
    MOUSE(0xF2);
    EXPECT_AUX(0xFA, 0x00);
    static const uint8_t knock[3] = {200, 100, 80};
    for (unsigned i = 0; i < 3; i++) {
        MOUSE(0xF3);
        EXPECT_AUX(0xFA);
        MOUSE(knock[i]);
        EXPECT_AUX(0xFA);
    }
    MOUSE(0xF2);
    EXPECT_AUX(0xFA, 0x03);
    MOUSE(0xE9);
    EXPECT_AUX(0xFA, 0x00, 0x02, 80);
    i8042_mouse_move(&f->kbc, 5, 5, 0, 0); // not reporting yet
    assert_int_equal(STATUS() & 1, 0);
    MOUSE(0xF4);
    EXPECT_AUX(0xFA);
    unsigned rises = f->bench.rises[IRQ_MOUSE];
    i8042_mouse_move(&f->kbc, 3, -2, 1, 1);
    EXPECT_AUX(0x29, 0x03, 0xFE, 0x01);
    assert_int_equal(f->bench.rises[IRQ_MOUSE], rises + 4);
    i8042_mouse_move(&f->kbc, 300, 0, 0, 0);
    EXPECT_AUX(0x08, 0xFF, 0x00, 0x00, 0x08, 45, 0x00, 0x00);
    for (unsigned i = 0; i < 10000; i++)
        i8042_mouse_move(&f->kbc, 1000000, -1000000, 7, i & 7);
    MOUSE(0xF5);
    while (STATUS() & 1)
        bench_read(&f->data, 0, 1);
    MOUSE(0xEE);
    EXPECT_AUX(0xFA);
    MOUSE(0x33);
    EXPECT_AUX(0x33);
    MOUSE(0xEC);
    EXPECT_AUX(0xFA);
    MOUSE(0x12);
    EXPECT_AUX(0xFE);
    MOUSE(0xF0);
    EXPECT_AUX(0xFA);
    MOUSE(0xEB);
    while (STATUS() & 1)
        bench_read(&f->data, 0, 1);
}

static void state_round_trip(void **state)
{
    struct fixture *f = *state;
    struct i8042 other;

    kbc_make(f, &other);
    set_mode(f, 0x47);
    MOUSE(0xF4);
    i8042_key(&f->kbc, 0x1E, true);
    i8042_mouse_move(&f->kbc, 100, 20, 0, 2);
    check_state(&i8042_state, &f->kbc, &other);
    f->data.opaque = f->command.opaque = &other;
    assert_int_equal(next(f), 0xFA); // the mouse's reply came first
    assert_int_equal(next(f), 0x1E);
    EXPECT_AUX(0x0A, 100, 20);

    struct state_buffer saved = {0};
    struct error err = {0};
    size_t offset = 0;
    other.mouse.events.head = 99;
    assert_int_equal(state_save(&saved, &i8042_state, &other), 0);
    assert_int_equal(state_load(&saved, &offset, &i8042_state, &f->kbc, &err), -1);
    state_buffer_free(&saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(controller_probe, setup, teardown),
        cmocka_unit_test_setup_teardown(a20_and_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(keyboard_commands, setup, teardown),
        cmocka_unit_test_setup_teardown(keys, setup, teardown),
        cmocka_unit_test_setup_teardown(mouse, setup, teardown),
        cmocka_unit_test_setup_teardown(state_round_trip, setup, teardown),
    };
    return cmocka_run_group_tests_name("i8042", tests, NULL, NULL);
}
