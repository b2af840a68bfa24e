// SPDX-License-Identifier: Apache-2.0
// ACPI fixed hardware: enabling, power button, PM timer in both widths, sleep requests, odd access
// sizes, saved state.
#include "device_bench.h"
#include "devices/chipset/acpi_pm.h"

#define SCI 9

struct fixture {
    struct bench bench;
    struct acpi_pm pm;
    struct io_region io, smi;
    unsigned power_offs, sleeps;
};

static void on_power_off(void *opaque)
{
    ((struct fixture *)opaque)->power_offs++;
}

static void on_sleep(void *opaque)
{
    ((struct fixture *)opaque)->sleeps++;
}

static void pm_make(struct fixture *f, struct acpi_pm *pm, bool timer_32, bool s3)
{
    acpi_pm_init(pm, &(struct acpi_pm_config){.timers = &f->bench.timers,
                                              .sci = bench_line(&f->bench, SCI),
                                              .timer_32 = timer_32,
                                              .power_off = on_power_off,
                                              .sleep = s3 ? on_sleep : NULL,
                                              .opaque = f});
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    bench_init(&f->bench);
    pm_make(f, &f->pm, false, false);
    acpi_pm_region(&f->pm, 0x600, &f->io);
    acpi_pm_smi_region(&f->pm, &f->smi);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    acpi_pm_fini(&f->pm);
    bench_fini(&f->bench);
    free(f);
    return 0;
}

static void power_button_asks_by_sci(void **state)
{
    struct fixture *f = *state;

    bench_write(&f->io, 2, 0x100, 2);
    acpi_pm_power_button(&f->pm);
    assert_false(f->bench.level[SCI]); // not in ACPI mode
    assert_int_equal(bench_read(&f->io, 4, 2) & 1, 0);
    bench_write(&f->smi, 0, 0xF1, 1);
    assert_int_equal(bench_read(&f->io, 4, 2) & 1, 1);
    assert_true(f->bench.level[SCI]);
    assert_int_equal(bench_read(&f->io, 0, 4), 0x01000100);
    bench_write(&f->io, 0, 0x00, 1); // the other byte of the status stays
    assert_true(f->bench.level[SCI]);
    bench_write(&f->io, 1, 0x01, 1);
    assert_false(f->bench.level[SCI]);
    bench_write(&f->smi, 0, 0xF0, 1);
    assert_int_equal(bench_read(&f->io, 4, 2) & 1, 0);
    bench_write(&f->smi, 1, 0x42, 1);
    assert_int_equal(bench_read(&f->smi, 0, 2), 0x42F0);
}

static void sleep_requests(void **state)
{
    struct fixture *f = *state;
    struct acpi_pm other;
    struct io_region io;

    bench_write(&f->io, 4, 0x2401, 2); // S3: not offered
    bench_write(&f->io, 4, 0x3C01, 2); // nothing
    bench_write(&f->io, 4, 0x0001, 2);
    assert_int_equal(f->power_offs + f->sleeps, 0);
    bench_write(&f->io, 4, 0x2001, 2);
    assert_int_equal(f->power_offs, 1);
    bench_write(&f->io, 5, 0x20, 1); // as two bytes
    assert_int_equal(f->power_offs, 2);
    assert_int_equal(bench_read(&f->io, 4, 2), 1);
    pm_make(f, &other, true, true);
    acpi_pm_region(&other, 0x600, &io);
    bench_write(&io, 4, 0x2401, 2);
    assert_int_equal(f->sleeps, 1);
    acpi_pm_wake(&other);
    assert_int_equal(bench_read(&io, 0, 2), 0x8000);
    acpi_pm_fini(&other);
}

static void timer_counts(void **state)
{
    struct fixture *f = *state;
    struct acpi_pm wide;
    struct io_region io;

    pm_make(f, &wide, true, false);
    acpi_pm_region(&wide, 0x600, &io);
    bench_advance(&f->bench, 1000000000);
    assert_int_equal(bench_read(&f->io, 8, 4), 3579545);
    assert_int_equal(bench_read(&f->io, 9, 1), 3579545 >> 8 & 0xFF);
    assert_int_equal(bench_read(&f->io, 0, 2), 0);
    bench_advance(&f->bench, 9000000000);
    assert_int_equal(bench_read(&f->io, 8, 4), 35795450 & 0xFFFFFF);
    assert_int_equal(bench_read(&io, 8, 4), 35795450);
    assert_int_equal(bench_read(&f->io, 0, 2), 1);
    assert_int_equal(bench_read(&io, 0, 2), 0);
    // Overflow interrupt: every 2^23 ticks, 2.3435 s.
    bench_write(&f->smi, 0, 0xF1, 1);
    bench_write(&f->io, 0, 0xFFFF, 2);
    bench_write(&f->io, 2, 0x001, 2);
    unsigned rises = 0;
    for (unsigned i = 0; i < 10; i++) {
        uint64_t next = timer_queue_next(&f->bench.timers);
        assert_true(next != TIMER_NEVER);
        bench_advance(&f->bench, next - f->bench.clock.ns);
        assert_true(f->bench.level[SCI]);
        assert_int_equal(bench_read(&f->io, 8, 4) & 0x7FFFFF, 0);
        assert_int_equal(timer_queue_next(&f->bench.timers), TIMER_NEVER);
        bench_write(&f->io, 0, 1, 2);
        assert_false(f->bench.level[SCI]);
        rises++;
    }
    assert_int_equal(f->bench.rises[SCI], rises);
    bench_advance(&f->bench, 600000000000ull); // 32 bits: twice 2^31 in 20 minutes
    assert_int_equal(bench_read(&io, 0, 2), 1);
    acpi_pm_fini(&wide);
}

static void general_purpose_events(void **state)
{
    struct fixture *f = *state;

    bench_write(&f->smi, 0, 0xF1, 1);
    bench_write(&f->io, 0x0E, 0x0002, 2);
    acpi_pm_gpe(&f->pm, 3);
    assert_false(f->bench.level[SCI]);
    acpi_pm_gpe(&f->pm, 1);
    assert_true(f->bench.level[SCI]);
    assert_int_equal(bench_read(&f->io, 0x0C, 4), 0x0002000A);
    bench_write(&f->io, 0x0C, 0x02, 1);
    assert_false(f->bench.level[SCI]);
    bench_write(&f->io, 0x3C, 0xFFFFFFFF, 4);
    assert_int_equal(bench_read(&f->io, 0x3C, 4), 0);
}

static void state_round_trip(void **state)
{
    struct fixture *f = *state;
    struct acpi_pm other;

    pm_make(f, &other, false, false);
    bench_write(&f->smi, 0, 0xF1, 1);
    bench_write(&f->io, 2, 0x101, 2);
    bench_advance(&f->bench, 100);
    check_state(&acpi_pm_state, &f->pm, &other);
    assert_true(timer_armed(&other.timer));
    acpi_pm_reset(&f->pm);
    acpi_pm_power_button(&other);
    assert_true(f->bench.level[SCI]);
    acpi_pm_fini(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(power_button_asks_by_sci, setup, teardown),
        cmocka_unit_test_setup_teardown(sleep_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(timer_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(general_purpose_events, setup, teardown),
        cmocka_unit_test_setup_teardown(state_round_trip, setup, teardown),
    };
    return cmocka_run_group_tests_name("acpi_pm", tests, NULL, NULL);
}
