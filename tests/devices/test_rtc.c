// SPDX-License-Identifier: Apache-2.0
// The MC146818: time and calendar in every encoding, UIP and UF timing, alarm, periodic interrupt,
// setting the time as guests do, CMOS bytes, saved state.
#include "device_bench.h"
#include "devices/chipset/rtc.h"

#define IRQ 8
#define SEC 1000000000u

struct fixture {
    struct bench bench;
    struct rtc rtc;
    struct io_region io;
    int nmi_mask;
};

static void on_nmi_mask(void *opaque, bool masked)
{
    ((struct fixture *)opaque)->nmi_mask = masked;
}

static void rtc_make(struct fixture *f, struct rtc *rtc)
{
    rtc_init(rtc, &(struct rtc_config){.timers = &f->bench.timers,
                                       .irq = bench_line(&f->bench, IRQ),
                                       .nmi_mask = on_nmi_mask,
                                       .opaque = f});
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    bench_init(&f->bench);
    rtc_make(f, &f->rtc);
    rtc_region(&f->rtc, &f->io);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    rtc_fini(&f->rtc);
    bench_fini(&f->bench);
    free(f);
    return 0;
}

static unsigned get(struct fixture *f, uint8_t index)
{
    bench_write(&f->io, 0, index, 1);
    return (unsigned)bench_read(&f->io, 1, 1);
}

static void put(struct fixture *f, uint8_t index, uint8_t value)
{
    bench_write(&f->io, 0, index, 1);
    bench_write(&f->io, 1, value, 1);
}

static void check_time(struct fixture *f, unsigned century, unsigned year, unsigned month,
                       unsigned day, unsigned hour, unsigned minute, unsigned second, unsigned dow)
{
    assert_int_equal(get(f, 0x32), century);
    assert_int_equal(get(f, 9), year);
    assert_int_equal(get(f, 8), month);
    assert_int_equal(get(f, 7), day);
    assert_int_equal(get(f, 4), hour);
    assert_int_equal(get(f, 2), minute);
    assert_int_equal(get(f, 0), second);
    assert_int_equal(get(f, 6), dow);
}

static void shows_wall_time(void **state)
{
    struct fixture *f = *state;

    // 2023-11-14 22:13:20, a Tuesday.
    check_time(f, 0x20, 0x23, 0x11, 0x14, 0x22, 0x13, 0x20, 3);
    put(f, 0x0B, 0x06);
    check_time(f, 20, 23, 11, 14, 22, 13, 20, 3);
    put(f, 0x0B, 0x00);
    check_time(f, 0x20, 0x23, 0x11, 0x14, 0x90, 0x13, 0x20, 3); // 10 PM
    put(f, 0x0B, 0x04);
    bench_advance(&f->bench, 2 * 3600ull * SEC);  // past midnight
    check_time(f, 20, 23, 11, 15, 12, 13, 20, 4); // 12 AM
    assert_int_equal(get(f, 0x0D), 0x80);
    assert_int_equal(bench_read(&f->io, 0, 1), 0xFF);
}

static void calendar_is_right(void **state)
{
    struct fixture *f = *state;
    // Set, let a second pass, see.
    static const struct {
        uint8_t set[7], want[7]; // century, year, month, day, hour, minute, second
    } cases[] = {
        {{20, 24, 2, 28, 23, 59, 59}, {20, 24, 2, 29, 0, 0, 0}},
        {{19, 0, 2, 28, 23, 59, 59}, {19, 0, 3, 1, 0, 0, 0}},
        {{20, 0, 2, 28, 23, 59, 59}, {20, 0, 2, 29, 0, 0, 0}},
        {{19, 99, 12, 31, 23, 59, 59}, {20, 0, 1, 1, 0, 0, 0}},
        {{99, 99, 12, 31, 23, 59, 59}, {0, 0, 1, 1, 0, 0, 0}},
        {{16, 1, 1, 1, 0, 0, 0}, {16, 1, 1, 1, 0, 0, 1}},
        {{20, 38, 1, 19, 3, 14, 7}, {20, 38, 1, 19, 3, 14, 8}},
    };
    static const uint8_t regs[7] = {0x32, 9, 8, 7, 4, 2, 0};

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        put(f, 0x0B, 0x86);
        for (unsigned r = 0; r < 7; r++)
            put(f, regs[r], cases[i].set[r]);
        put(f, 6, 1);
        put(f, 0x0B, 0x06);
        bench_advance(&f->bench, SEC);
        for (unsigned r = 0; r < 7; r++)
            assert_int_equal(get(f, regs[r]), cases[i].want[r]);
    }
    // The day of the week is the guest's: set right once, it stays right.
    put(f, 0x0B, 0x86);
    for (unsigned r = 0; r < 7; r++)
        put(f, regs[r], cases[6].set[r]);
    put(f, 6, 3);
    put(f, 0x0B, 0x06);
    bench_advance(&f->bench, 86400ull * SEC);
    assert_int_equal(get(f, 6), 4);
}

static void update_timing(void **state)
{
    struct fixture *f = *state;

    get(f, 0x0C);
    bench_advance(&f->bench, SEC - 2228001);
    assert_int_equal(get(f, 0x0A), 0x26);
    bench_advance(&f->bench, 1);
    assert_int_equal(get(f, 0x0A), 0xA6);
    assert_int_equal(get(f, 0x0C), 0x40); // PF at 1024 Hz, no UF yet
    bench_advance(&f->bench, 2227999);
    assert_int_equal(get(f, 0), 0x20);
    assert_int_equal(get(f, 0x0A), 0xA6);
    bench_advance(&f->bench, 1);
    assert_int_equal(get(f, 0x0A), 0x26);
    assert_int_equal(get(f, 0), 0x21);
    assert_int_equal(get(f, 0x0C) & 0x10, 0x10);
    assert_int_equal(get(f, 0x0C), 0);
    // SET stops the updates and clears UIE.
    put(f, 0x0B, 0x92);
    assert_int_equal(get(f, 0x0B), 0x82);
    bench_advance(&f->bench, 5ull * SEC);
    assert_int_equal(get(f, 0), 0x21);
    assert_int_equal(get(f, 0x0C) & 0x30, 0);
    put(f, 0x0B, 0x02);
    assert_int_equal(get(f, 0), 0x21);
    bench_advance(&f->bench, SEC);
    assert_int_equal(get(f, 0), 0x22);
}

static void divider_reset_gives_half_a_second(void **state)
{
    struct fixture *f = *state;

    // The order of Linux' mc146818_set_time.
    bench_advance(&f->bench, 123456789);
    put(f, 0x0B, 0x82);
    put(f, 0x0A, 0x76);
    put(f, 0, 0x30);
    put(f, 2, 0x59);
    put(f, 0x0B, 0x02);
    put(f, 0x0A, 0x26);
    assert_int_equal(get(f, 0), 0x30);
    assert_int_equal(get(f, 2), 0x59);
    bench_advance(&f->bench, SEC / 2 - 1);
    assert_int_equal(get(f, 0), 0x30);
    bench_advance(&f->bench, 1);
    assert_int_equal(get(f, 0), 0x31);
    put(f, 0x0A, 0x66); // stopped without SET: frozen, too
    bench_advance(&f->bench, 100ull * SEC);
    assert_int_equal(get(f, 0), 0x31);
    put(f, 0x0A, 0x26);
    bench_advance(&f->bench, SEC / 2);
    assert_int_equal(get(f, 0), 0x32);
}

static void alarms(void **state)
{
    struct fixture *f = *state;

    put(f, 1, 0x25);
    put(f, 3, 0x13);
    put(f, 5, 0x22);
    get(f, 0x0C);
    put(f, 0x0B, 0x22);
    bench_advance(&f->bench, 5ull * SEC - 1);
    assert_int_equal(f->bench.rises[IRQ], 0);
    bench_advance(&f->bench, 1);
    assert_int_equal(f->bench.rises[IRQ], 1);
    assert_int_equal(get(f, 0x0C) & 0xB0, 0xB0);
    assert_false(f->bench.level[IRQ]);
    bench_advance(&f->bench, 86400ull * SEC - 1);
    assert_int_equal(f->bench.rises[IRQ], 1);
    bench_advance(&f->bench, 1);
    assert_int_equal(f->bench.rises[IRQ], 2);
    get(f, 0x0C);
    put(f, 3, 0xFF);
    put(f, 5, 0xC0);
    for (unsigned i = 0; i < 10; i++) {
        bench_advance(&f->bench, 60ull * SEC);
        assert_int_equal(f->bench.rises[IRQ], 3 + i);
        get(f, 0x0C);
    }
    put(f, 1, 0xC7); // every second
    bench_advance(&f->bench, SEC);
    assert_int_equal(get(f, 0x0C) & 0x20, 0x20);
    put(f, 1, 0x77); // never
    bench_advance(&f->bench, 3 * 86400ull * SEC);
    assert_int_equal(get(f, 0x0C) & 0x20, 0);
    assert_int_equal(timer_queue_next(&f->bench.timers), TIMER_NEVER);
    // A flag raised while disabled interrupts at once when enabled.
    put(f, 0x0B, 0x02);
    put(f, 1, 0xFF);
    bench_advance(&f->bench, 2ull * SEC);
    unsigned rises = f->bench.rises[IRQ];
    put(f, 0x0B, 0x22);
    assert_int_equal(f->bench.rises[IRQ], rises + 1);
}

static void periodic_rates(void **state)
{
    struct fixture *f = *state;
    static const unsigned hz[16] = {0,   256, 128, 8192, 4096, 2048, 1024, 512,
                                    256, 128, 64,  32,   16,   8,    4,    2};

    for (unsigned rate = 0; rate < 16; rate++) {
        put(f, 0x0B, 0x02);
        put(f, 0x0A, 0x20 | rate);
        get(f, 0x0C);
        put(f, 0x0B, 0x42);
        unsigned count = 0;
        uint64_t end = f->bench.clock.ns + SEC;
        uint64_t next;
        while ((next = timer_queue_next(&f->bench.timers)) <= end) {
            bench_advance(&f->bench, next - f->bench.clock.ns);
            assert_true(f->bench.level[IRQ]);
            assert_int_equal(get(f, 0x0C) & 0xC0, 0xC0);
            assert_false(f->bench.level[IRQ]);
            count++;
        }
        bench_advance(&f->bench, end - f->bench.clock.ns);
        assert_int_equal(count, hz[rate]);
    }
}

static void update_interrupt(void **state)
{
    struct fixture *f = *state;

    get(f, 0x0C);
    put(f, 0x0B, 0x12);
    for (unsigned i = 1; i <= 5; i++) {
        bench_advance(&f->bench, SEC);
        assert_int_equal(f->bench.rises[IRQ], i);
        assert_int_equal(get(f, 0x0C) & 0x90, 0x90);
    }
    rtc_reset(&f->rtc);
    assert_int_equal(get(f, 0x0B), 0x02);
    bench_advance(&f->bench, SEC);
    assert_int_equal(f->bench.rises[IRQ], 5);
}

static uint64_t restless_now(struct clock *clock)
{
    return ++((struct clock_counted *)clock)->ns;
}

// The second ends at every moment within a read of register C: what that read does not show interrupts.
static void update_within_a_read(void **state)
{
    struct fixture *f = *state;
    struct clock *clock = &f->bench.clock.clock;
    uint64_t (*plain_now)(struct clock *) = clock->now_ns;

    put(f, 0x0B, 0x12);
    for (unsigned before = 1; before < 20; before++) {
        unsigned rises, shown;

        get(f, 0x0C);
        bench_advance(&f->bench, 2 * SEC - before - f->bench.clock.ns % SEC);
        get(f, 0x0C);
        rises = f->bench.rises[IRQ];
        clock->now_ns = restless_now;
        shown = get(f, 0x0C) & 0x10;
        clock->now_ns = plain_now;
        bench_advance(&f->bench, 1000);
        assert_true(shown || f->bench.rises[IRQ] == rises + 1);
    }
}

static void cmos_bytes(void **state)
{
    struct fixture *f = *state;

    rtc_set_memory_size(&f->rtc, MIB(2048), MIB(1024));
    assert_int_equal(get(f, 0x15) | get(f, 0x16) << 8, 640);
    assert_int_equal(get(f, 0x17) | get(f, 0x18) << 8, 0xFFFF);
    assert_int_equal(get(f, 0x34) | get(f, 0x35) << 8, (2048 - 16) * 16);
    assert_int_equal(get(f, 0x5B) | get(f, 0x5C) << 8 | get(f, 0x5D) << 16, 1024 * 16);
    unsigned sum = 0;
    for (uint8_t i = 0x10; i <= 0x2D; i++)
        sum += get(f, i);
    assert_int_equal(get(f, 0x2E) << 8 | get(f, 0x2F), sum & 0xFFFF);
    put(f, 0x0F, 0x0A);
    rtc_reset(&f->rtc);
    assert_int_equal(get(f, 0x0F), 0x0A);
    rtc_set_cmos(&f->rtc, 0x0B, 0xFF);
    rtc_set_cmos(&f->rtc, 0xFF, 0xFF);
    assert_int_equal(get(f, 0x0B), 0x02);
    bench_write(&f->io, 0, 0x8F, 1);
    assert_int_equal(f->nmi_mask, 1);
    assert_true(rtc_nmi_masked(&f->rtc));
    bench_write(&f->io, 0, 0x0F, 1);
    assert_int_equal(f->nmi_mask, 0);
}

static void state_round_trip(void **state)
{
    struct fixture *f = *state;
    struct rtc other;

    rtc_make(f, &other);
    put(f, 0x32, 0x19);
    put(f, 0x0A, 0x2F);
    put(f, 0x0B, 0x42);
    bench_advance(&f->bench, 333 * (uint64_t)SEC);
    check_state(&rtc_state, &f->rtc, &other);
    get(f, 0x0C);
    rtc_fini(&f->rtc);
    rtc_make(f, &f->rtc);
    f->bench.level[IRQ] = false;
    check_state(&rtc_state, &other, &f->rtc);
    assert_true(f->bench.level[IRQ]);
    assert_int_equal(get(f, 0x32), 0x19);
    // The host's clock was set forward between save and load: wall time follows it.
    unsigned hour = get(f, 4);
    f->bench.clock.clock.epoch_ns += 3600ull * SEC;
    assert_int_not_equal(get(f, 4), hour);
    struct state_buffer saved = {0};
    struct error err = {0};
    size_t offset = 0;
    other.offset.ns = -1;
    assert_int_equal(state_save(&saved, &rtc_state, &other), 0);
    assert_int_equal(state_load(&saved, &offset, &rtc_state, &f->rtc, &err), -1);
    state_buffer_free(&saved);
    f->rtc.offset.ns = 0;
    rtc_fini(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(shows_wall_time, setup, teardown),
        cmocka_unit_test_setup_teardown(calendar_is_right, setup, teardown),
        cmocka_unit_test_setup_teardown(update_timing, setup, teardown),
        cmocka_unit_test_setup_teardown(divider_reset_gives_half_a_second, setup, teardown),
        cmocka_unit_test_setup_teardown(alarms, setup, teardown),
        cmocka_unit_test_setup_teardown(periodic_rates, setup, teardown),
        cmocka_unit_test_setup_teardown(update_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(update_within_a_read, setup, teardown),
        cmocka_unit_test_setup_teardown(cmos_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(state_round_trip, setup, teardown),
    };
    return cmocka_run_group_tests_name("rtc", tests, NULL, NULL);
}
