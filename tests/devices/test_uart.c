// SPDX-License-Identifier: Apache-2.0
// The 16550A: detection as drivers do it, FIFO, interrupts, loopback, flow to the host, saved
// state.
#include "device_bench.h"
#include "devices/chipset/uart16550.h"

#define IRQ 4

struct fixture {
    struct bench bench;
    struct uart16550 uart;
    struct io_region io;
    uint8_t sent[256];
    size_t sent_length;
    unsigned room_calls;
};

static void on_transmit(void *opaque, const uint8_t *data, size_t length)
{
    struct fixture *f = opaque;

    for (size_t i = 0; i < length; i++)
        f->sent[f->sent_length++ % sizeof(f->sent)] = data[i];
}

static void on_room(void *opaque)
{
    ((struct fixture *)opaque)->room_calls++;
}

static void uart_make(struct fixture *f, struct uart16550 *uart)
{
    uart16550_init(uart, &(struct uart16550_config){.timers = &f->bench.timers,
                                                    .irq = bench_line(&f->bench, IRQ),
                                                    .transmit = on_transmit,
                                                    .room = on_room,
                                                    .opaque = f});
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    bench_init(&f->bench);
    uart_make(f, &f->uart);
    uart16550_region(&f->uart, 0x3F8, "com1", &f->io);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    uart16550_fini(&f->uart);
    bench_fini(&f->bench);
    free(f);
    return 0;
}

#define IN(reg) bench_read(&f->io, reg, 1)
#define OUT(reg, v) bench_write(&f->io, reg, v, 1)

static void detects_as_16550a(void **state)
{
    struct fixture *f = *state;

    OUT(7, 0x5A);
    assert_int_equal(IN(7), 0x5A);
    OUT(1, 0xFF);
    assert_int_equal(IN(1), 0x0F);
    OUT(1, 0);
    assert_int_equal(IN(1), 0);
    // Loopback: MCR = LOOP | OUT2 | RTS must show DCD and CTS.
    OUT(4, 0x1A);
    assert_int_equal(IN(6) & 0xF0, 0x90);
    OUT(4, 0xFF);
    assert_int_equal(IN(4), 0x1F);
    OUT(4, 0);
    assert_int_equal(IN(2) & 0xC0, 0);
    OUT(2, 0x21);
    assert_int_equal(IN(2) & 0xE0, 0xC0); // no 64-byte FIFO
    OUT(3, 0x83);
    OUT(0, 12);
    OUT(1, 1);
    assert_int_equal(IN(0), 12);
    assert_int_equal(IN(1), 1);
    OUT(3, 0x03);
    assert_int_equal(IN(1), 0);
    assert_int_equal(IN(5), 0x60);
    // Wide accesses arrive as bytes.
    assert_int_equal(bench_read(&f->io, 4, 4) >> 24, 0x5A);
}

static void transmits_with_interrupts(void **state)
{
    struct fixture *f = *state;

    OUT(3, 0x03);
    OUT(1, 0x02);
    assert_int_equal(f->bench.rises[IRQ], 0); // OUT2 is off
    OUT(4, 0x08);
    assert_true(f->bench.level[IRQ]);
    assert_int_equal(IN(2), 0x02);
    assert_false(f->bench.level[IRQ]);
    assert_int_equal(IN(2), 0x01);
    OUT(1, 0);
    OUT(1, 0x02); // enabling again raises it again
    assert_int_equal(IN(2), 0x02);
    OUT(0, 'h');
    assert_true(f->bench.level[IRQ]);
    unsigned rises = f->bench.rises[IRQ];
    OUT(0, 'i'); // an edge for each byte
    assert_int_equal(f->bench.rises[IRQ], rises + 1);
    assert_int_equal(f->sent_length, 2);
    assert_memory_equal(f->sent, "hi", 2);
    OUT(3, 0x02); // seven-bit words
    OUT(0, 0xFF);
    assert_int_equal(f->sent[2], 0x7F);
}

static void receives_with_trigger_and_timeout(void **state)
{
    struct fixture *f = *state;

    OUT(3, 0x03);
    OUT(4, 0x08);
    OUT(2, 0x81); // trigger at 8
    OUT(1, 0x01);
    assert_int_equal(uart16550_receive(&f->uart, (const uint8_t *)"abc", 3), 3);
    assert_false(f->bench.level[IRQ]);
    assert_int_equal(IN(5) & 1, 1);
    // Four characters of ten bits at 115200 baud: 347.2 us.
    bench_advance(&f->bench, 347000);
    assert_false(f->bench.level[IRQ]);
    bench_advance(&f->bench, 1000);
    assert_true(f->bench.level[IRQ]);
    assert_int_equal(IN(2), 0xCC);
    assert_int_equal(IN(0), 'a');
    assert_false(f->bench.level[IRQ]);
    assert_int_equal(IN(0), 'b');
    assert_int_equal(IN(0), 'c');
    assert_int_equal(IN(5) & 1, 0);
    bench_advance(&f->bench, 10000000);
    assert_false(f->bench.level[IRQ]);

    assert_int_equal(uart16550_receive(&f->uart, (const uint8_t *)"0123456789abcdefXYZ", 19), 16);
    assert_true(f->bench.level[IRQ]);
    assert_int_equal(IN(2), 0xC4);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(f->room_calls, i >= 8);
        assert_int_equal(IN(0), "0123456789abcdef"[i]);
    }
    assert_int_equal(f->room_calls, 1);
    assert_int_equal(IN(2), 0xC1);
}

static void overruns_and_breaks(void **state)
{
    struct fixture *f = *state;

    OUT(3, 0x03);
    OUT(1, 0x04);
    OUT(4, 0x10); // loopback
    OUT(0, 'a');
    OUT(0, 'b');
    assert_int_equal(IN(2), 0x06);
    assert_int_equal(IN(5), 0x63);
    assert_int_equal(IN(5), 0x61);
    assert_int_equal(IN(0), 'b'); // without FIFO the newer byte wins
    assert_int_equal(uart16550_receive(&f->uart, (const uint8_t *)"x", 1), 0);
    OUT(2, 0x01);
    for (unsigned i = 0; i < 17; i++)
        OUT(0, 'A' + i);
    assert_int_equal(IN(5) & 0x02, 0x02);
    assert_int_equal(IN(0), 'A');
    OUT(2, 0x03);
    assert_int_equal(IN(5), 0x60);
    assert_int_equal(f->room_calls, 0);
    OUT(4, 0x08);
    assert_int_equal(f->room_calls, 1);
    uart16550_receive(&f->uart, (const uint8_t *)"q", 1);
    uart16550_receive_break(&f->uart);
    assert_int_equal(IN(5), 0xE1); // an error further back in the FIFO
    assert_int_equal(IN(0), 'q');
    assert_int_equal(IN(2), 0xC6);
    assert_int_equal(IN(5), 0xF9);
    assert_int_equal(IN(5), 0x61);
    assert_int_equal(f->sent_length, 0);
}

static void modem_status(void **state)
{
    struct fixture *f = *state;

    OUT(4, 0x08);
    IN(6);
    OUT(1, 0x08);
    assert_false(f->bench.level[IRQ]);
    uart16550_set_modem(&f->uart, 0x30); // the carrier drops
    assert_true(f->bench.level[IRQ]);
    assert_int_equal(IN(2), 0x00);
    assert_int_equal(IN(6), 0x38);
    assert_false(f->bench.level[IRQ]);
    uart16550_set_modem(&f->uart, 0x70);
    assert_int_equal(IN(6), 0x70); // a rising RI is no event
    uart16550_set_modem(&f->uart, 0x30);
    assert_int_equal(IN(6), 0x34);
}

static void state_round_trip(void **state)
{
    struct fixture *f = *state;
    struct uart16550 other;

    uart_make(f, &other);
    OUT(4, 0x08);
    OUT(2, 0xC1);
    OUT(1, 0x01);
    uart16550_receive(&f->uart, (const uint8_t *)"key", 3);
    f->uart.starved = 1;
    check_state(&uart16550_state, &f->uart, &other);
    timer_cancel(&f->uart.timer);
    bench_advance(&f->bench, 1000000);
    assert_true(f->bench.level[IRQ]); // the loaded one's timeout
    assert_int_equal(other.timeout, 1);

    struct state_buffer saved = {0};
    struct error err = {0};
    size_t offset = 0;
    other.rx_head = 200;
    assert_int_equal(state_save(&saved, &uart16550_state, &other), 0);
    other.rx_head = 0;
    assert_int_equal(state_load(&saved, &offset, &uart16550_state, &other, &err), -1);
    state_buffer_free(&saved);
    uart16550_fini(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(detects_as_16550a, setup, teardown),
        cmocka_unit_test_setup_teardown(transmits_with_interrupts, setup, teardown),
        cmocka_unit_test_setup_teardown(receives_with_trigger_and_timeout, setup, teardown),
        cmocka_unit_test_setup_teardown(overruns_and_breaks, setup, teardown),
        cmocka_unit_test_setup_teardown(modem_status, setup, teardown),
        cmocka_unit_test_setup_teardown(state_round_trip, setup, teardown),
    };
    return cmocka_run_group_tests_name("uart16550", tests, NULL, NULL);
}
