// SPDX-License-Identifier: Apache-2.0
// The HPET against IA-PC HPET specification 1.0a.
#include "device_test.h"
#include "devices/chipset/hpet.h"

struct fixture {
    struct clock_counted clock;
    struct timer_queue queue;
    struct hpet *hpet;
    struct io_region region;
    struct probe route, legacy[2];
    bool legacy_on;
};

static void on_legacy(void *opaque, bool on)
{
    ((struct fixture *)opaque)->legacy_on = on;
}

static uint64_t rd(struct fixture *f, unsigned offset, unsigned size)
{
    uint64_t value = region_read(&f->region, HPET_DEFAULT_BASE + offset, size);

    return size == 4 ? (uint32_t)value : value;
}

static void wr(struct fixture *f, unsigned offset, uint64_t value, unsigned size)
{
    region_write(&f->region, HPET_DEFAULT_BASE + offset, value, size);
}

static struct hpet *make(struct fixture *f)
{
    return hpet_create(
        &(struct hpet_config){.timers = &f->queue,
                              .route = probe_line(&f->route),
                              .legacy = {probe_line(&f->legacy[0]), probe_line(&f->legacy[1])},
                              .legacy_changed = on_legacy,
                              .opaque = f},
        NULL);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    clock_counted_init(&f->clock, 0);
    timer_queue_init(&f->queue, &f->clock.clock);
    clock_counted_advance(&f->clock, 777);
    f->hpet = make(f);
    hpet_region(f->hpet, &f->region);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    hpet_destroy(f->hpet);
    timer_queue_destroy(&f->queue);
    free(f);
    return 0;
}

static void test_registers_and_counter(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(rd(f, 0, 8), UINT64_C(10000000) << 32 | 0x8086a201);
    assert_int_equal(rd(f, 4, 4), 10000000);
    assert_int_equal(rd(f, 0x100, 8) >> 32, 0x00f00000);
    assert_int_equal(rd(f, 0xf0, 8), 0);
    advance(&f->clock, &f->queue, 1000);
    assert_int_equal(rd(f, 0xf0, 8), 0); // halted
    wr(f, 0xf0, 0xfffffff0, 8);
    wr(f, 0x10, 1, 4);
    advance(&f->clock, &f->queue, 1000);
    assert_int_equal(rd(f, 0xf0, 8), 0x100000054);
    assert_int_equal(rd(f, 0xf0, 4), 0x54);
    assert_int_equal(rd(f, 0xf4, 4), 1);
    wr(f, 0xf0, 0, 8); // not while running
    assert_int_equal(rd(f, 0xf0, 8), 0x100000054);
    wr(f, 0x10, 0, 8);
    advance(&f->clock, &f->queue, 1000);
    assert_int_equal(rd(f, 0xf0, 8), 0x100000054);
    wr(f, 0xf4, 7, 4);
    assert_int_equal(rd(f, 0xf0, 8), 0x700000054);
    // Routes that are not wired do not stick; others do.
    wr(f, 0x120, 5 << 9, 8);
    assert_int_equal(rd(f, 0x120, 4) >> 9 & 31, 20);
    wr(f, 0x120, 22 << 9, 8);
    assert_int_equal(rd(f, 0x120, 4) >> 9 & 31, 22);
    // Rubbish.
    wr(f, 0x11, 0xff, 1);
    wr(f, 0x12, 0xffff, 2);
    wr(f, 0x3f8, UINT64_MAX, 8);
    wr(f, 0x160, UINT64_MAX, 8); // fourth comparator: not there
    assert_int_equal(rd(f, 0x160, 8), 0);
    assert_int_equal(rd(f, 0x10, 8), 0);
    assert_int_equal(rd(f, 0x110, 8), 0);
}

static uint64_t restless_now(struct clock *clock)
{
    return ++((struct clock_counted *)clock)->ns;
}

// The counter reaches the comparator at every moment within a write that leaves both alone.
static void test_matches_within_a_write(void **state)
{
    struct fixture *f = *state;
    uint64_t (*plain_now)(struct clock *) = f->clock.clock.now_ns;

    wr(f, 0x140, 0x4 | 21 << 9, 8);
    wr(f, 0x10, 1, 8);
    for (unsigned what = 0; what < 3; what++) {
        for (unsigned delay = 1; delay < 60; delay++) {
            uint64_t ahead = (uint64_t)rd(f, 0xf0, 8) + 2;

            wr(f, 0x148, ahead, 8);
            f->route.rises = 0;
            advance(&f->clock, &f->queue, 21 - delay % 20);
            f->clock.clock.now_ns = restless_now;
            if (what == 0)
                wr(f, 0x140, 0x4 | 21 << 9, 8);
            else if (what == 1)
                wr(f, 0x10, 1, 8);
            else
                rd(f, 0xf0, 8);
            f->clock.clock.now_ns = plain_now;
            advance(&f->clock, &f->queue, 1000);
            assert_int_equal(f->route.rises, 1);
        }
    }
}

static void test_one_shot_edge(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x140, 0x4 | 21 << 9, 8);
    wr(f, 0x148, 1000, 8);
    wr(f, 0x10, 1, 8);
    advance(&f->clock, &f->queue, 9999);
    assert_int_equal(f->route.rises, 0);
    advance(&f->clock, &f->queue, 1);
    assert_int_equal(f->route.rises, 1);
    assert_int_equal(f->route.last, 21);
    assert_false(f->route.level); // a pulse
    assert_int_equal(rd(f, 0x20, 8), 0);
    advance(&f->clock, &f->queue, 1000000);
    assert_int_equal(f->route.rises, 1);
    // A value in the past waits for the counter to come around.
    wr(f, 0x148, 500, 8);
    advance(&f->clock, &f->queue, 1000000);
    assert_int_equal(f->route.rises, 1);
    // A 32-bit comparator fires each time around.
    wr(f, 0x140, 0x104 | 21 << 9, 8);
    wr(f, 0x148, 500, 4);
    advance(&f->clock, &f->queue, UINT64_C(43) * 1000000000);
    assert_int_equal(f->route.rises, 2);
    advance(&f->clock, &f->queue, UINT64_C(43) * 1000000000);
    assert_int_equal(f->route.rises, 3);
}

static void test_level(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x120, 0x6 | 20 << 9, 8);
    wr(f, 0x128, 1000, 8);
    wr(f, 0x10, 1, 8);
    advance(&f->clock, &f->queue, 10000);
    assert_true(f->route.level);
    assert_int_equal(f->route.last, 20);
    assert_int_equal(rd(f, 0x20, 8), 2);
    wr(f, 0x20, 1, 8); // another one's bit
    assert_true(f->route.level);
    // Rerouted while asserted: the line moves.
    wr(f, 0x120, 0x6 | 23 << 9, 8);
    assert_true(f->route.level);
    assert_int_equal(f->route.last, 23);
    wr(f, 0x20, 2, 4);
    assert_false(f->route.level);
    assert_int_equal(rd(f, 0x20, 8), 0);
    // Interrupt disabled: the status bit still tells.
    wr(f, 0x120, 0x2 | 23 << 9, 8);
    wr(f, 0x128, 2000, 8);
    advance(&f->clock, &f->queue, 20000);
    assert_int_equal(rd(f, 0x20, 8), 2);
    assert_false(f->route.level);
    wr(f, 0x120, 0x6 | 23 << 9, 8);
    assert_true(f->route.level);
}

static void test_periodic_legacy(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x10, 3, 8); // enable, legacy replacement
    assert_true(f->legacy_on);
    // The order in which operating systems program it.
    wr(f, 0x100, 0x4 | 0x8 | 0x40 | 0x100, 4);
    wr(f, 0x108, rd(f, 0xf0, 4) + 100000, 4);
    wr(f, 0x108, 100000, 4);
    assert_int_equal(rd(f, 0x108, 8), 100000);
    advance(&f->clock, &f->queue, 999999);
    assert_int_equal(f->legacy[0].rises, 0);
    advance(&f->clock, &f->queue, 1);
    assert_int_equal(f->legacy[0].rises, 1);
    assert_true(f->legacy[0].level); // held for the 8259
    assert_int_equal(rd(f, 0x108, 8), 200000);
    advance(&f->clock, &f->queue, 1000000 * 99);
    assert_int_equal(f->legacy[0].rises, 100);
    assert_int_equal(f->route.rises, 0);
    // Nobody runs the queue for a while: missed periods become one interrupt, the phase stays.
    clock_counted_advance(&f->clock, 5500000);
    assert_int_equal(rd(f, 0x108, 8), 10600000);
    assert_int_equal(f->legacy[0].rises, 101);
    advance(&f->clock, &f->queue, 500000);
    assert_int_equal(f->legacy[0].rises, 102);
    wr(f, 0x10, 1, 8);
    assert_false(f->legacy_on);
    assert_false(f->legacy[0].level);
}

static void test_periodic_64bit(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x10, 1, 8);
    wr(f, 0x140, 0x4 | 0x8 | 0x40 | 20 << 9, 8);
    wr(f, 0x148, 5000, 8); // first match and period at once
    advance(&f->clock, &f->queue, 50000 * 3);
    assert_int_equal(f->route.rises, 3);
    // In halves, both under VAL_SET.
    wr(f, 0x10, 0, 8);
    wr(f, 0xf0, 0, 8);
    wr(f, 0x140, 0x4 | 0x8 | 0x40 | 20 << 9, 8);
    wr(f, 0x148, 1000, 4);
    wr(f, 0x14c, 1, 4);
    assert_int_equal(rd(f, 0x148, 8), 0x1000003e8);
    // A first match that has passed already goes on with the next period.
    wr(f, 0xf0, 100000, 8);
    wr(f, 0x140, 0x4 | 0x8 | 0x40 | 20 << 9, 8);
    wr(f, 0x148, 99999, 8);
    wr(f, 0x148, 1000, 8);
    wr(f, 0x10, 1, 8);
    f->route.rises = 0;
    advance(&f->clock, &f->queue, 9990);
    assert_int_equal(f->route.rises, 1);
}

static void test_fast_and_zero_periods(void **state)
{
    struct fixture *f = *state;

    wr(f, 0x10, 1, 8);
    for (uint64_t period = 0; period < 4; period++) {
        wr(f, 0x140, 0x4 | 0x8 | 0x40 | 20 << 9, 8);
        wr(f, 0x148, rd(f, 0xf0, 8) + 10, 8);
        wr(f, 0x148, period, 8);
        f->route.rises = 0;
        advance(&f->clock, &f->queue, 1000000);
        assert_true(f->route.rises <= 102);
        assert_true(f->route.rises >= (period ? 90 : 0));
    }
}

static void test_state(void **state)
{
    struct fixture *f = *state;
    struct hpet *copy = make(f);

    wr(f, 0x10, 1, 8);
    wr(f, 0x120, 0x6 | 20 << 9, 8);
    wr(f, 0x128, 1000, 8);
    wr(f, 0x140, 0x4 | 0x8 | 0x40 | 20 << 9, 8);
    wr(f, 0x148, 5000, 8);
    check_state(&hpet_state, f->hpet, copy);
    f->route.rises = 0;
    wr(f, 0x120, 20 << 9, 8);
    advance(&f->clock, &f->queue, 50000 * 3);
    // Both pulse thrice; the copy's level-triggered comparator asserts once.
    assert_int_equal(f->route.rises, 7);

    f->hpet->config = 0x10;
    struct state_buffer buffer = {0};
    size_t offset = 0;
    assert_int_equal(state_save(&buffer, &hpet_state, f->hpet), 0);
    assert_int_equal(state_load(&buffer, &offset, &hpet_state, copy, NULL), -1);
    state_buffer_free(&buffer);
    f->hpet->config = 0;
    hpet_reset(copy);
    hpet_destroy(copy);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_registers_and_counter),  T(test_one_shot_edge),
        T(test_matches_within_a_write), T(test_level),
        T(test_periodic_legacy),        T(test_periodic_64bit),
        T(test_fast_and_zero_periods),  T(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
