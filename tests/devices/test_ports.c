// SPDX-License-Identifier: Apache-2.0
// The small ports: storage at 80h, A20 and reset at 92h and CF9h, the debug console, saved state.
#include "device_bench.h"
#include "devices/chipset/misc_ports.h"

struct fixture {
    struct misc_ports ports;
    struct io_region post, control_a, debug, reset, x87;
    bool a20;
    unsigned soft, hard, ignne;
    bool irq13;
    uint8_t last_post;
    char text[16];
    size_t text_length;
};

static void on_set_a20(void *opaque, bool enabled)
{
    ((struct fixture *)opaque)->a20 = enabled;
}

static bool on_a20(void *opaque)
{
    return ((struct fixture *)opaque)->a20;
}

static void on_reset(void *opaque, bool hard)
{
    struct fixture *f = opaque;

    if (hard)
        f->hard++;
    else
        f->soft++;
}

static void on_post(void *opaque, uint8_t code)
{
    ((struct fixture *)opaque)->last_post = code;
}

static void on_debug(void *opaque, uint8_t character)
{
    struct fixture *f = opaque;

    f->text[f->text_length++ % sizeof(f->text)] = (char)character;
}

static void on_irq13(void *opaque, int number, bool level)
{
    assert_int_equal(number, 13);
    ((struct fixture *)opaque)->irq13 = level;
}

static void on_ignne(void *opaque)
{
    ((struct fixture *)opaque)->ignne++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    misc_ports_init(&f->ports, &(struct misc_ports_config){.set_a20 = on_set_a20,
                                                           .a20 = on_a20,
                                                           .reset = on_reset,
                                                           .post = on_post,
                                                           .debug = on_debug,
                                                           .irq13 = {on_irq13, f, 13},
                                                           .ignne = on_ignne,
                                                           .opaque = f});
    misc_ports_post_region(&f->ports, &f->post);
    misc_ports_control_a_region(&f->ports, &f->control_a);
    misc_ports_debug_region(&f->ports, &f->debug);
    misc_ports_reset_region(&f->ports, &f->reset);
    misc_ports_x87_region(&f->ports, &f->x87);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static void ports_do_what_a_pc_does(void **state)
{
    struct fixture *f = *state;

    bench_write(&f->post, 0, 0xAB, 1);
    assert_int_equal(f->last_post, 0xAB);
    bench_write(&f->post, 4, 0x11223344, 4);
    assert_int_equal(bench_read(&f->post, 4, 4), 0x11223344);
    assert_int_equal(f->last_post, 0xAB);

    bench_write(&f->debug, 0, 'h', 1);
    bench_write(&f->debug, 0, 'i', 1);
    assert_string_equal(f->text, "hi");
    assert_int_equal(bench_read(&f->debug, 0, 1), 0xE9);
    f->ports.config.debug = NULL;
    assert_int_equal(bench_read(&f->debug, 0, 1), 0xFF);
    bench_write(&f->debug, 0, 'x', 1);

    assert_int_equal(bench_read(&f->control_a, 0, 1), 0);
    bench_write(&f->control_a, 0, 2, 1);
    assert_true(f->a20);
    assert_int_equal(bench_read(&f->control_a, 0, 1), 2);
    f->a20 = false; // through the keyboard controller
    assert_int_equal(bench_read(&f->control_a, 0, 1), 0);
    bench_write(&f->control_a, 0, 3, 1);
    assert_int_equal(f->soft, 1);
    bench_write(&f->control_a, 0, 3, 1);
    assert_int_equal(f->soft, 1);

    bench_write(&f->reset, 0, 2, 1);
    assert_int_equal(f->hard, 0);
    bench_write(&f->reset, 0, 6, 1);
    assert_int_equal(f->hard, 1);
    bench_write(&f->reset, 0, 6, 1);
    assert_int_equal(f->hard, 1);
    bench_write(&f->reset, 0, 0, 1);
    bench_write(&f->reset, 0, 4, 1);
    assert_int_equal(f->soft, 2);
    assert_int_equal(bench_read(&f->reset, 0, 1), 4);
    misc_ports_reset(&f->ports);
    assert_int_equal(bench_read(&f->reset, 0, 1), 0);
}

// SDM vol. 1, figure D-1.
static void x87_errors_are_told_and_taken_back(void **state)
{
    struct fixture *f = *state;

    bench_write(&f->x87, 0, 0, 1); // no error: no IGNNE# either
    assert_false(f->ports.ignne || f->irq13);
    assert_int_equal(bench_read(&f->x87, 0, 1), 0xFF);
    for (unsigned i = 1; i <= 2; i++) {
        misc_ports_ferr(&f->ports, true);
        assert_true(f->irq13);
        assert_false(f->ports.ignne);
        bench_write(&f->x87, 0, i * 0x55, 1);
        assert_false(f->irq13);
        assert_true(f->ports.ignne);
        assert_int_equal(f->ignne, i);
        bench_write(&f->x87, 0, 0, 1);
        assert_int_equal(f->ignne, i);
        misc_ports_ferr(&f->ports, true); // still
        assert_false(f->irq13);
        misc_ports_ferr(&f->ports, false);
        assert_false(f->ports.ignne || f->irq13);
    }
    // The request is a latch: clearing the error in the processor leaves it.
    misc_ports_ferr(&f->ports, true);
    misc_ports_ferr(&f->ports, false);
    assert_true(f->irq13);
    bench_write(&f->x87, 0, 0, 1);
    assert_false(f->irq13 || f->ports.ignne);
    misc_ports_ferr(&f->ports, true);
    bench_write(&f->x87, 0, 0, 1);
    misc_ports_ferr(&f->ports, false);
    misc_ports_ferr(&f->ports, true);
    misc_ports_reset(&f->ports);
    assert_false(f->irq13 || f->ports.ignne || f->ports.ferr);
}

static void state_round_trip(void **state)
{
    struct fixture *f = *state;
    struct misc_ports other;

    misc_ports_init(&other, &f->ports.config);
    bench_write(&f->post, 7, 0x77, 1);
    bench_write(&f->reset, 0, 2, 1);
    check_state(&misc_ports_state, &f->ports, &other);
    assert_int_equal(other.pages[7], 0x77);
    misc_ports_ferr(&f->ports, true);
    bench_write(&f->x87, 0, 0, 1);
    check_state(&misc_ports_state, &f->ports, &other);
    assert_true(other.ignne && other.ferr);
    struct state_buffer saved = {0};
    struct error err = {0};
    size_t offset = 0;
    other.reset_control = 0xFF;
    assert_int_equal(state_save(&saved, &misc_ports_state, &other), 0);
    assert_int_equal(state_load(&saved, &offset, &misc_ports_state, &f->ports, &err), -1);
    state_buffer_free(&saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ports_do_what_a_pc_does, setup, teardown),
        cmocka_unit_test_setup_teardown(x87_errors_are_told_and_taken_back, setup, teardown),
        cmocka_unit_test_setup_teardown(state_round_trip, setup, teardown),
    };
    return cmocka_run_group_tests_name("misc_ports", tests, NULL, NULL);
}
