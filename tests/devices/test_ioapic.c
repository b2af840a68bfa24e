// SPDX-License-Identifier: Apache-2.0
// The I/O APIC with two local APICs behind it.
#include "device_test.h"
#include "devices/chipset/ioapic.h"

struct fixture {
    struct clock_counted clock;
    struct timer_queue queue;
    struct lapic_bus *bus;
    struct lapic *cpu[2];
    struct ioapic *ioapic;
    struct io_region region;
    unsigned nmis, extints;
};

static void ignore(void *opaque, unsigned cpu)
{
}

static void on_nmi(void *opaque, unsigned cpu)
{
    ((struct fixture *)opaque)->nmis++;
}

static void on_sipi(void *opaque, unsigned cpu, uint8_t vector)
{
    fail_msg("an I/O APIC sent a SIPI");
}

static int on_extint(void *opaque)
{
    ((struct fixture *)opaque)->extints++;
    return 0x20;
}

static void on_eoi(void *opaque, uint8_t vector)
{
    ioapic_eoi(((struct fixture *)opaque)->ioapic, vector);
}

static void on_accepting(void *opaque)
{
    struct fixture *f = opaque;

    if (f->ioapic)
        ioapic_retry(f->ioapic);
}

static uint32_t rd(struct fixture *f, uint8_t reg)
{
    region_write(&f->region, IOAPIC_DEFAULT_BASE, reg, 4);
    return region_read(&f->region, IOAPIC_DEFAULT_BASE + 0x10, 4);
}

static void wr(struct fixture *f, uint8_t reg, uint32_t value)
{
    region_write(&f->region, IOAPIC_DEFAULT_BASE, reg, 4);
    region_write(&f->region, IOAPIC_DEFAULT_BASE + 0x10, value, 4);
}

static void route(struct fixture *f, unsigned pin, uint8_t dest, uint32_t low)
{
    wr(f, 0x11 + 2 * pin, (uint32_t)dest << 24);
    wr(f, 0x10 + 2 * pin, low);
}

static void eoi(struct lapic *lapic)
{
    lapic_mmio_write(lapic, 0x0b, 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    clock_counted_init(&f->clock, 0);
    timer_queue_init(&f->queue, &f->clock.clock);
    f->bus = lapic_bus_create(&(struct lapic_bus_config){.cpu_count = 2,
                                                         .timers = &f->queue,
                                                         .opaque = f,
                                                         .ops = {.interrupt = ignore,
                                                                 .nmi = on_nmi,
                                                                 .init = ignore,
                                                                 .sipi = on_sipi,
                                                                 .extint_ack = on_extint,
                                                                 .accepting = on_accepting,
                                                                 .eoi = on_eoi}},
                              NULL);
    f->ioapic = ioapic_create(&(struct ioapic_config){.bus = f->bus, .id = 2}, NULL);
    ioapic_region(f->ioapic, &f->region);
    for (int i = 0; i < 2; i++) {
        f->cpu[i] = lapic_bus_get(f->bus, i);
        lapic_mmio_write(f->cpu[i], 0x0f, 0x1ff);
        lapic_mmio_write(f->cpu[i], 0x0d, 0x01000000u << i);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    ioapic_destroy(f->ioapic);
    lapic_bus_destroy(f->bus);
    timer_queue_destroy(&f->queue);
    free(f);
    return 0;
}

static void test_registers(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(rd(f, 0), 2u << 24);
    assert_int_equal(rd(f, 1), 0x00170020);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        assert_int_equal(rd(f, 0x10 + 2 * pin), 0x10000);
        assert_int_equal(rd(f, 0x11 + 2 * pin), 0);
    }
    wr(f, 0, 0xffffffff);
    assert_int_equal(rd(f, 0), 0x0f000000);
    wr(f, 0x12, 0xffffffff);
    assert_int_equal(rd(f, 0x12), 0x1afff); // reserved and read-only bits stay clear
    wr(f, 0x13, 0xffffffff);
    assert_int_equal(rd(f, 0x13), 0xff000000);
    wr(f, 0x40, 0xffffffff); // past the last pin
    assert_int_equal(rd(f, 0x40), 0);
    assert_int_equal(rd(f, 0xff), 0);
    assert_int_equal(region_read(&f->region, IOAPIC_DEFAULT_BASE, 1), 0xff);
}

static void test_edge(void **state)
{
    struct fixture *f = *state;

    ioapic_input(f->ioapic, 4, true); // masked: lost
    route(f, 4, 1, 0x34);
    assert_int_equal(lapic_ack(f->cpu[1]), -1);
    ioapic_input(f->ioapic, 4, false);
    ioapic_input(f->ioapic, 4, true);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x34);
    ioapic_input(f->ioapic, 4, true); // no new edge
    eoi(f->cpu[1]);
    assert_int_equal(lapic_ack(f->cpu[1]), -1);
    assert_int_equal(rd(f, 0x18), 0x34); // no remote IRR
}

static void test_level(void **state)
{
    struct fixture *f = *state;

    ioapic_input(f->ioapic, 11, true);
    route(f, 11, 0, 0xa03b); // level, active low
    assert_int_equal(rd(f, 0x10 + 22), 0xe03b);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x3b);
    ioapic_input(f->ioapic, 11, false);
    ioapic_input(f->ioapic, 11, true);
    assert_int_equal(lapic_ack(f->cpu[0]), -1); // one per EOI
    eoi(f->cpu[0]);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x3b);
    ioapic_input(f->ioapic, 11, false);
    eoi(f->cpu[0]);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    assert_int_equal(rd(f, 0x10 + 22), 0xa03b);

    // Masked while in service: quiet until it is unmasked.
    ioapic_input(f->ioapic, 11, true);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x3b);
    wr(f, 0x10 + 22, 0x1a03b);
    assert_int_equal(rd(f, 0x10 + 22), 0x1e03b);
    eoi(f->cpu[0]);
    assert_int_equal(rd(f, 0x10 + 22), 0x1a03b);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    wr(f, 0x10 + 22, 0xa03b);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x3b);
}

// A level that no local APIC takes is pending (delivery status) until one does: a change of who is
// who is enough. An edge is not kept.
static void test_refused_level(void **state)
{
    struct fixture *f = *state;
    static const struct {
        unsigned reg;
        uint32_t before, after, dest, mode;
    } ways[] = {
        {0x0f, 0xff, 0x1ff, 1, 0xa03b},               // software enable
        {0x02, 5u << 24, 7u << 24, 7, 0xa03b},        // ID
        {0x0d, 2u << 24, 0x40u << 24, 0x40, 0xa83b},  // LDR
        {0x0e, 0x0fffffff, 0xffffffff, 0x08, 0xa83b}, // DFR: cluster, flat
        {0x0f, 0xff, 0x1ff, 1, 0xa13b},               // lowest priority
    };

    for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
        lapic_mmio_write(f->cpu[1], 0x02, 1u << 24);
        lapic_mmio_write(f->cpu[1], 0x0e, 0xffffffff);
        lapic_mmio_write(f->cpu[1], 0x0d, i == 3 ? 0x48u << 24 : 2u << 24);
        lapic_mmio_write(f->cpu[1], ways[i].reg, ways[i].before);
        ioapic_input(f->ioapic, 11, true);
        ioapic_input(f->ioapic, 4, false);
        route(f, 4, ways[i].dest, (ways[i].mode & 0xfff) + 1);
        ioapic_input(f->ioapic, 4, true);
        route(f, 11, ways[i].dest, ways[i].mode);
        assert_int_equal(rd(f, 0x10 + 22), ways[i].mode | 0x1000);
        assert_int_equal(lapic_ack(f->cpu[1]), -1);
        lapic_mmio_write(f->cpu[1], ways[i].reg, ways[i].after);
        assert_int_equal(rd(f, 0x10 + 22), ways[i].mode | 0x4000);
        assert_int_equal(lapic_ack(f->cpu[1]), 0x3b);
        assert_int_equal(lapic_ack(f->cpu[1]), -1);
        ioapic_input(f->ioapic, 11, false);
        eoi(f->cpu[1]);
        assert_int_equal(rd(f, 0x10 + 22), ways[i].mode);
        assert_int_equal(lapic_ack(f->cpu[1]), -1);
        route(f, 11, 0, 0x10000);
    }
    // The APIC as a whole switched off and on.
    assert_true(lapic_msr_write(f->cpu[1], 0x1b, 0xfee00000));
    ioapic_input(f->ioapic, 11, true);
    route(f, 11, 1, 0xa03b);
    assert_true(lapic_msr_write(f->cpu[1], 0x1b, 0xfee00800));
    assert_int_equal(lapic_ack(f->cpu[1]), -1); // software-disabled after reset
    lapic_mmio_write(f->cpu[1], 0x02, 1u << 24);
    lapic_mmio_write(f->cpu[1], 0x0f, 0x1ff);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x3b);
    // Gone before anybody took it: nothing comes.
    eoi(f->cpu[1]);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x3b);
    lapic_mmio_write(f->cpu[1], 0x0f, 0xff);
    ioapic_input(f->ioapic, 11, false);
    eoi(f->cpu[1]);
    lapic_mmio_write(f->cpu[1], 0x0f, 0x1ff);
    assert_int_equal(lapic_ack(f->cpu[1]), -1);
}

static void test_eoi_register_and_edge_trick(void **state)
{
    struct fixture *f = *state;

    lapic_mmio_write(f->cpu[0], 0x0f, 0x11ff); // no broadcast
    route(f, 16, 0, 0x8050);
    ioapic_input(f->ioapic, 16, true);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x50);
    eoi(f->cpu[0]);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    region_write(&f->region, IOAPIC_DEFAULT_BASE + 0x40, 0x50, 4);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x50);
    eoi(f->cpu[0]);
    // The way of version 11h: to edge and back, masked.
    wr(f, 0x10 + 32, 0x10050);
    assert_int_equal(rd(f, 0x10 + 32), 0x10050);
    wr(f, 0x10 + 32, 0x8050);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x50);
}

static void test_modes(void **state)
{
    struct fixture *f = *state;

    route(f, 1, 0x03, 0x0841); // logical, both
    ioapic_input(f->ioapic, 1, true);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x41);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x41);
    route(f, 2, 0x03, 0x0952); // lowest priority
    lapic_set_cr8(f->cpu[0], 8);
    ioapic_input(f->ioapic, 2, true);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x52);
    route(f, 3, 0, 0x8400); // NMI, "level" means nothing
    ioapic_input(f->ioapic, 3, true);
    ioapic_input(f->ioapic, 3, true);
    assert_int_equal(f->nmis, 1);
    assert_int_equal(rd(f, 0x16), 0x8400);
    route(f, 8, 0, 0x0200); // SMI: this board has none
    ioapic_input(f->ioapic, 8, true);
    route(f, 0, 0, 0x0700); // ExtINT
    ioapic_input(f->ioapic, 0, true);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x20);
    assert_int_equal(f->extints, 1);
    route(f, 5, 0, 0x0655); // SIPI, reserved modes
    ioapic_input(f->ioapic, 5, true);
    route(f, 6, 0, 0x8355);
    ioapic_input(f->ioapic, 6, true);
    // Nobody takes it: no remote IRR, "send pending" (82093AA, 3.2.4, DELIVS), tried again.
    route(f, 7, 9, 0x8060);
    ioapic_input(f->ioapic, 7, true);
    assert_int_equal(rd(f, 0x1e), 0x9060);
    wr(f, 0x1f, 1u << 24);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x60);
}

static void test_state(void **state)
{
    struct fixture *f = *state;
    struct ioapic *copy = ioapic_create(&(struct ioapic_config){.bus = f->bus}, NULL);

    route(f, 11, 0, 0xa03b);
    ioapic_input(f->ioapic, 11, true);
    check_state(&ioapic_state, f->ioapic, copy);
    lapic_ack(f->cpu[0]);
    eoi(f->cpu[0]);
    lapic_ack(f->cpu[0]);
    ioapic_eoi(copy, 0x3b);
    eoi(f->cpu[0]);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x3b);
    f->ioapic->redirection[3] = UINT64_C(1) << 40;
    struct state_buffer buffer = {0};
    size_t offset = 0;
    assert_int_equal(state_save(&buffer, &ioapic_state, f->ioapic), 0);
    assert_int_equal(state_load(&buffer, &offset, &ioapic_state, copy, NULL), -1);
    state_buffer_free(&buffer);
    ioapic_destroy(copy);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_registers),
        T(test_edge),
        T(test_level),
        T(test_refused_level),
        T(test_eoi_register_and_edge_trick),
        T(test_modes),
        T(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
