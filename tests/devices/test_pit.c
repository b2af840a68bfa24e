// SPDX-License-Identifier: Apache-2.0
// The 8254 against its datasheet, one oscillator tick at a time.
#include "device_test.h"
#include "devices/chipset/pit.h"

struct fixture {
    struct clock_counted clock;
    struct timer_queue queue;
    struct pit *pit;
    struct io_region regions[PIT_REGIONS];
    struct probe irq;
    uint64_t tick;
};

static void out(struct fixture *f, uint16_t port, uint8_t value)
{
    region_write(&f->regions[port == 0x61], port, value, 1);
}

static uint8_t in(struct fixture *f, uint16_t port)
{
    return region_read(&f->regions[port == 0x61], port, 1);
}

static unsigned in16(struct fixture *f, uint16_t port)
{
    unsigned low = in(f, port);

    return low | in(f, port) << 8;
}

// Moves to the start of the n-th tick from here.
static void ticks(struct fixture *f, uint64_t n)
{
    uint64_t now = clock_now(&f->clock.clock);
    uint64_t ns;

    f->tick += n;
    ns = (uint64_t)(((unsigned __int128)f->tick * 1000000000 + PIT_HZ - 1) / PIT_HZ);
    advance(&f->clock, &f->queue, ns - now);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    clock_counted_init(&f->clock, 0);
    timer_queue_init(&f->queue, &f->clock.clock);
    f->pit =
        pit_create(&(struct pit_config){.timers = &f->queue, .irq = probe_line(&f->irq)}, NULL);
    pit_regions(f->pit, f->regions);
    ticks(f, 1000);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pit_destroy(f->pit);
    timer_queue_destroy(&f->queue);
    free(f);
    return 0;
}

static void test_mode0(void **state)
{
    struct fixture *f = *state;

    out(f, 0x43, 0x30);
    assert_false(f->irq.level);
    out(f, 0x40, 100);
    out(f, 0x40, 0);
    ticks(f, 100);
    assert_false(f->irq.level); // N + 1 ticks
    assert_int_equal(in16(f, 0x40), 1);
    ticks(f, 1);
    assert_true(f->irq.level);
    ticks(f, 1);
    assert_int_equal(in16(f, 0x40), 0xffff); // goes on counting
    // The first byte of a new count stops it.
    out(f, 0x40, 50);
    assert_false(pit_output(f->pit, 0));
    ticks(f, 1000);
    assert_false(f->irq.level);
    out(f, 0x40, 0);
    ticks(f, 51);
    assert_true(f->irq.level);
    assert_int_equal(f->irq.rises, 2);
}

static void test_mode1_one_shot(void **state)
{
    struct fixture *f = *state;

    out(f, 0x43, 0x92); // channel 2, low byte, mode 1
    out(f, 0x42, 10);
    ticks(f, 100);
    assert_true(pit_output(f->pit, 2));
    out(f, 0x61, 1);
    ticks(f, 1);
    for (int i = 0; i < 10; i++) {
        assert_false(in(f, 0x61) & 0x20);
        ticks(f, 1);
    }
    assert_true(in(f, 0x61) & 0x20);
    // Retrigger in the middle: the pulse becomes longer.
    out(f, 0x61, 0);
    out(f, 0x61, 1);
    ticks(f, 6);
    out(f, 0x61, 0);
    out(f, 0x61, 1);
    ticks(f, 6);
    assert_false(pit_output(f->pit, 2));
    ticks(f, 5);
    assert_true(pit_output(f->pit, 2));
}

static void test_mode2_rate(void **state)
{
    struct fixture *f = *state;

    out(f, 0x43, 0x34);
    out(f, 0x40, 0xa9);
    out(f, 0x40, 0x04); // 1193
    f->irq.rises = 0;
    ticks(f, 1); // loaded
    ticks(f, 1192);
    assert_false(pit_output(f->pit, 0));
    assert_int_equal(in16(f, 0x40), 1);
    assert_int_equal(f->irq.rises, 0);
    ticks(f, 1);
    assert_true(pit_output(f->pit, 0));
    assert_int_equal(f->irq.rises, 1);
    assert_int_equal(in16(f, 0x40), 1193);
    ticks(f, 1193 * 1000);
    assert_int_equal(f->irq.rises, 1001);
    // A new count waits for the end of the period.
    ticks(f, 100);
    out(f, 0x40, 200);
    out(f, 0x40, 0);
    assert_int_equal(in16(f, 0x40), 1093);
    ticks(f, 1093);
    assert_int_equal(f->irq.rises, 1002);
    assert_int_equal(in16(f, 0x40), 200);
    ticks(f, 200);
    assert_int_equal(f->irq.rises, 1003);
}

static void test_mode3_square(void **state)
{
    struct fixture *f = *state;

    for (unsigned count = 100; count <= 101; count++) {
        unsigned high = 0;

        out(f, 0x43, 0x36);
        out(f, 0x40, count);
        out(f, 0x40, 0);
        ticks(f, 1);
        for (unsigned i = 0; i < count; i++, ticks(f, 1)) {
            unsigned value = in16(f, 0x40);

            assert_int_equal(value & 1, 0);
            assert_true(value <= count);
            high += pit_output(f->pit, 0);
            assert_int_equal(pit_output(f->pit, 0), i < (count + 1) / 2);
        }
        assert_int_equal(high, (count + 1) / 2);
    }
    // New count at the end of the half period.
    out(f, 0x43, 0x36);
    out(f, 0x40, 200);
    out(f, 0x40, 0);
    ticks(f, 1 + 30);
    f->irq.rises = 0;
    out(f, 0x40, 40);
    out(f, 0x40, 0);
    ticks(f, 69);
    assert_true(pit_output(f->pit, 0));
    ticks(f, 1);
    assert_false(pit_output(f->pit, 0));
    ticks(f, 19);
    assert_int_equal(f->irq.rises, 0);
    ticks(f, 1);
    assert_int_equal(f->irq.rises, 1);
    assert_true(pit_output(f->pit, 0));
    ticks(f, 40);
    assert_int_equal(f->irq.rises, 2);
}

// Soon after power-on, a long count takes over in the middle of a short period: its period would have
// begun before tick 0.
static void test_mode3_before_power_on(void **state)
{
    struct fixture *f = *state;

    out(f, 0x43, 0x36);
    out(f, 0x40, 200);
    out(f, 0x40, 0);
    ticks(f, 1 + 30);
    out(f, 0x40, 0);
    out(f, 0x40, 0xf0);
    ticks(f, 70);
    f->irq.rises = 0;
    assert_false(pit_output(f->pit, 0));
    ticks(f, 0x7800 - 1);
    assert_false(pit_output(f->pit, 0));
    assert_int_equal(f->irq.rises, 0);
    ticks(f, 1);
    assert_int_equal(f->irq.rises, 1);
    ticks(f, 0xf000 * 10);
    assert_int_equal(f->irq.rises, 11);
}

static void test_mode4_strobe(void **state)
{
    struct fixture *f = *state;

    out(f, 0x43, 0x38);
    out(f, 0x40, 20);
    out(f, 0x40, 0);
    f->irq.rises = 0;
    ticks(f, 20);
    assert_true(pit_output(f->pit, 0));
    ticks(f, 1);
    assert_false(pit_output(f->pit, 0));
    ticks(f, 1);
    assert_true(pit_output(f->pit, 0));
    assert_int_equal(f->irq.rises, 1);
    ticks(f, 70000);
    assert_int_equal(f->irq.rises, 1);
}

static uint64_t restless_step;
static uint64_t restless_now(struct clock *clock)
{
    return ((struct clock_counted *)clock)->ns += restless_step;
}

// The count ends at any moment within the write that starts it, or long before its end: one edge.
static void test_ends_within_a_write(void **state)
{
    struct fixture *f = *state;
    uint64_t (*plain_now)(struct clock *) = f->clock.clock.now_ns;

    for (unsigned mode = 0; mode <= 4; mode += 4) {
        for (restless_step = 10; restless_step < 20000; restless_step += 130) {
            out(f, 0x43, 0x10 | mode << 1); // low byte only
            advance(&f->clock, &f->queue, 100000);
            f->irq.rises = 0;
            f->clock.clock.now_ns = restless_now;
            out(f, 0x40, 3);
            f->clock.clock.now_ns = plain_now;
            advance(&f->clock, &f->queue, 100000);
            assert_int_equal(f->irq.rises, 1);
        }
    }
}

static void test_mode5_and_gate(void **state)
{
    struct fixture *f = *state;

    out(f, 0x43, 0x9a); // channel 2, mode 5
    out(f, 0x42, 5);
    ticks(f, 100);
    assert_true(pit_output(f->pit, 2));
    out(f, 0x61, 1);
    ticks(f, 6);
    assert_false(pit_output(f->pit, 2));
    ticks(f, 1);
    assert_true(pit_output(f->pit, 2));

    // Mode 0 with the gate low stands still.
    out(f, 0x61, 1);
    out(f, 0x43, 0xb0);
    out(f, 0x42, 100);
    out(f, 0x42, 0);
    ticks(f, 31);
    out(f, 0x61, 0);
    assert_int_equal(in16(f, 0x42), 70);
    ticks(f, 500);
    assert_int_equal(in16(f, 0x42), 70);
    out(f, 0x61, 1);
    ticks(f, 1 + 69);
    assert_false(in(f, 0x61) & 0x20);
    ticks(f, 1);
    assert_true(in(f, 0x61) & 0x20);

    // Mode 3 with the gate low is high, and starts afresh.
    out(f, 0x43, 0xb6);
    out(f, 0x42, 100);
    out(f, 0x42, 0);
    ticks(f, 80);
    assert_false(pit_output(f->pit, 2));
    out(f, 0x61, 0);
    assert_true(pit_output(f->pit, 2));
    out(f, 0x61, 1);
    ticks(f, 1);
    assert_int_equal(in16(f, 0x42), 100);
}

static void test_latch_and_read_back(void **state)
{
    struct fixture *f = *state;

    out(f, 0x43, 0x34);
    out(f, 0x40, 0xe8);
    out(f, 0x43, 0xe2); // status of channel 0: the count is half-written
    assert_int_equal(in(f, 0x40), 0x80 | 0x40 | 0x34);
    out(f, 0x40, 0x03); // 1000
    ticks(f, 1);
    ticks(f, 100);
    out(f, 0x43, 0x00); // latch
    ticks(f, 50);
    out(f, 0x43, 0x00); // a second latch changes nothing
    assert_int_equal(in16(f, 0x40), 900);
    assert_int_equal(in16(f, 0x40), 850);
    out(f, 0x43, 0xc2); // both
    ticks(f, 10);
    assert_int_equal(in(f, 0x40), 0x80 | 0x34);
    assert_int_equal(in16(f, 0x40), 850);
    assert_int_equal(in(f, 0x43), 0xff);
    // Channel 2, high byte only.
    out(f, 0x61, 1);
    out(f, 0x43, 0xa4);
    out(f, 0x42, 0x80);
    ticks(f, 2);
    assert_int_equal(in(f, 0x42), 0x7f);
    assert_int_equal(in(f, 0x42), 0x7f);
}

static void test_bcd(void **state)
{
    struct fixture *f = *state;

    out(f, 0x61, 1);
    out(f, 0x43, 0xb5); // mode 2, BCD
    out(f, 0x42, 0x00);
    out(f, 0x42, 0x00); // 10000
    ticks(f, 1);
    assert_int_equal(in16(f, 0x42), 0);
    ticks(f, 1);
    assert_int_equal(in16(f, 0x42), 0x9999);
    ticks(f, 765);
    assert_int_equal(in16(f, 0x42), 0x9234);
    out(f, 0x43, 0xb1); // mode 0
    out(f, 0x42, 0x10);
    out(f, 0x42, 0x00);
    ticks(f, 1 + 10);
    assert_true(pit_output(f->pit, 2));
    ticks(f, 1);
    assert_int_equal(in16(f, 0x42), 0x9999);
}

static void test_refresh_toggles(void **state)
{
    struct fixture *f = *state;
    unsigned changes = 0;
    uint8_t last = in(f, 0x61) & 0x10;

    for (int i = 0; i < 1800; i++) {
        ticks(f, 1);
        changes += (in(f, 0x61) & 0x10) != last;
        last = in(f, 0x61) & 0x10;
    }
    assert_int_equal(changes, 100);
    out(f, 0x61, 0xff);
    assert_int_equal(in(f, 0x61) & 0xcf, 0x0f);
}

static void test_fast_periods_are_bounded(void **state)
{
    struct fixture *f = *state;

    for (unsigned count = 1; count <= 12; count++) {
        for (unsigned mode = 2; mode <= 3; mode++) {
            out(f, 0x43, 0x10 | mode << 1);
            out(f, 0x40, count);
            f->irq.rises = 0;
            advance(&f->clock, &f->queue, 1000000);
            assert_true(f->irq.rises <= 101);
            assert_true(f->irq.rises >= 40);
        }
    }
    f->tick = clock_now(&f->clock.clock) * PIT_HZ / 1000000000 + 1;
}

static void test_late_callbacks(void **state)
{
    struct fixture *f = *state;

    out(f, 0x43, 0x34);
    out(f, 0x40, 0);
    out(f, 0x40, 0x10);
    f->irq.rises = 0;
    // Nobody runs the queue, but a register access notices the edge that has passed.
    clock_counted_advance(&f->clock, 100000000);
    in(f, 0x40);
    assert_int_equal(f->irq.rises, 1);
    timer_queue_run(&f->queue);
    assert_int_equal(f->irq.rises, 1);
}

static void test_state(void **state)
{
    struct fixture *f = *state;
    struct probe other = {0};
    struct pit *copy =
        pit_create(&(struct pit_config){.timers = &f->queue, .irq = probe_line(&other)}, NULL);

    out(f, 0x43, 0x34);
    out(f, 0x40, 0);
    out(f, 0x40, 0x10);
    out(f, 0x61, 1);
    out(f, 0x43, 0xb6);
    out(f, 0x42, 77);
    ticks(f, 500);
    check_state(&pit_state, f->pit, copy);
    f->irq.rises = 0;
    ticks(f, 40960);
    assert_int_equal(f->irq.rises, 10);
    assert_int_equal(other.rises, 10);

    f->pit->ch[1].count = 0;
    struct state_buffer buffer = {0};
    size_t offset = 0;
    assert_int_equal(state_save(&buffer, &pit_state, f->pit), 0);
    assert_int_equal(state_load(&buffer, &offset, &pit_state, copy, NULL), -1);
    state_buffer_free(&buffer);
    pit_destroy(copy);
    pit_reset(f->pit);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_mode0),
        T(test_mode1_one_shot),
        T(test_mode2_rate),
        T(test_mode3_square),
        T(test_mode3_before_power_on),
        T(test_mode4_strobe),
        T(test_ends_within_a_write),
        T(test_mode5_and_gate),
        T(test_latch_and_read_back),
        T(test_bcd),
        T(test_refresh_toggles),
        T(test_fast_periods_are_bounded),
        T(test_late_callbacks),
        T(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
