// SPDX-License-Identifier: Apache-2.0
// Four local APICs on a bus, against SDM vol. 3's APIC chapter.
#include "device_test.h"
#include "devices/chipset/lapic.h"

#define CPUS 4
#define TSC_HZ UINT64_C(2500000000)

struct fixture {
    struct clock_counted clock;
    struct timer_queue queue;
    struct lapic_bus *bus;
    struct lapic *cpu[CPUS];
    struct io_region region;
    int current;
    unsigned interrupts[CPUS], nmis[CPUS], smis[CPUS], inits[CPUS], sipis[CPUS];
    uint8_t sipi_vector[CPUS];
    int extint_vector;
    unsigned eois, maps, unmaps;
    int last_eoi;
    struct io_region mapped;
    bool pv_enabled, pv_flag;
    unsigned claims;
};

static void on_interrupt(void *opaque, unsigned cpu)
{
    ((struct fixture *)opaque)->interrupts[cpu]++;
}

static void on_nmi(void *opaque, unsigned cpu)
{
    ((struct fixture *)opaque)->nmis[cpu]++;
}

static void on_smi(void *opaque, unsigned cpu)
{
    ((struct fixture *)opaque)->smis[cpu]++;
}

static void on_init(void *opaque, unsigned cpu)
{
    ((struct fixture *)opaque)->inits[cpu]++;
}

static void on_sipi(void *opaque, unsigned cpu, uint8_t vector)
{
    struct fixture *f = opaque;

    f->sipis[cpu]++;
    f->sipi_vector[cpu] = vector;
}

static int on_extint(void *opaque)
{
    struct fixture *f = opaque;

    lapic_bus_lint(f->bus, 0, false);
    return f->extint_vector;
}

static void on_eoi(void *opaque, uint8_t vector)
{
    struct fixture *f = opaque;

    f->eois++;
    f->last_eoi = vector;
}

static uint64_t on_tsc(void *opaque, unsigned cpu)
{
    struct fixture *f = opaque;

    return (unsigned __int128)clock_now(&f->clock.clock) * TSC_HZ / 1000000000;
}

static int on_current(void *opaque)
{
    return ((struct fixture *)opaque)->current;
}

static int on_map(void *opaque, const struct io_region *region)
{
    struct fixture *f = opaque;

    f->maps++;
    f->mapped = *region;
    return 0;
}

static void on_unmap(void *opaque, const struct io_region *region)
{
    struct fixture *f = opaque;

    assert_int_equal(region->base, f->mapped.base);
    f->unmaps++;
}

static bool on_offer(void *opaque, unsigned cpu)
{
    struct fixture *f = opaque;

    if (f->pv_enabled)
        f->pv_flag = true;
    return f->pv_enabled;
}

static bool on_claim(void *opaque, unsigned cpu)
{
    struct fixture *f = opaque;
    bool skipped = !f->pv_flag;

    f->claims++;
    f->pv_flag = false;
    return skipped;
}

static uint32_t rd(struct fixture *f, int cpu, unsigned offset)
{
    f->current = cpu;
    return region_read(&f->region, LAPIC_DEFAULT_BASE + offset, 4);
}

static void wr(struct fixture *f, int cpu, unsigned offset, uint32_t value)
{
    f->current = cpu;
    region_write(&f->region, LAPIC_DEFAULT_BASE + offset, value, 4);
}

static void ipi(struct fixture *f, int cpu, uint32_t dest, uint32_t low)
{
    wr(f, cpu, 0x310, dest << 24);
    wr(f, cpu, 0x300, low);
}

static void eoi(struct fixture *f, int cpu)
{
    wr(f, cpu, 0xb0, 0);
}

static struct lapic_bus *make_bus(struct fixture *f)
{
    return lapic_bus_create(&(struct lapic_bus_config){.cpu_count = CPUS,
                                                       .timers = &f->queue,
                                                       .tsc_hz = TSC_HZ,
                                                       .opaque = f,
                                                       .ops = {.interrupt = on_interrupt,
                                                               .nmi = on_nmi,
                                                               .smi = on_smi,
                                                               .init = on_init,
                                                               .sipi = on_sipi,
                                                               .extint_ack = on_extint,
                                                               .eoi = on_eoi,
                                                               .tsc = on_tsc,
                                                               .current_cpu = on_current,
                                                               .map = on_map,
                                                               .unmap = on_unmap,
                                                               .pv_eoi_offer = on_offer,
                                                               .pv_eoi_claim = on_claim}},
                            NULL);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    clock_counted_init(&f->clock, 0);
    timer_queue_init(&f->queue, &f->clock.clock);
    clock_counted_advance(&f->clock, 12345);
    f->bus = make_bus(f);
    lapic_bus_region(f->bus, &f->region);
    for (int i = 0; i < CPUS; i++) {
        f->cpu[i] = lapic_bus_get(f->bus, i);
        wr(f, i, 0xf0, 0x1ff);
        wr(f, i, 0xd0, 0x01000000u << i);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    lapic_bus_destroy(f->bus);
    timer_queue_destroy(&f->queue);
    free(f);
    return 0;
}

static void test_reset_values(void **state)
{
    struct fixture *f = *state;

    lapic_bus_reset(f->bus);
    for (int i = 0; i < CPUS; i++) {
        uint64_t base;

        assert_true(lapic_msr_read(f->cpu[i], 0x1b, &base));
        assert_int_equal(base, 0xfee00800 | (i == 0 ? 0x100 : 0));
        assert_int_equal(rd(f, i, 0x20), (uint32_t)i << 24);
        assert_int_equal(rd(f, i, 0x30), 0x01060014);
        assert_int_equal(rd(f, i, 0xe0), 0xffffffff);
        assert_int_equal(rd(f, i, 0xf0), 0xff);
        assert_int_equal(rd(f, i, 0x320), 0x10000);
        assert_int_equal(rd(f, i, 0x2f0), 0x10000);
        // Disabled by software: entries cannot be unmasked.
        wr(f, i, 0x320, 0x30);
        assert_int_equal(rd(f, i, 0x320), 0x10030);
    }
    f->current = -1;
    assert_int_equal(region_read(&f->region, LAPIC_DEFAULT_BASE + 0x30, 4) & 0xffffffff,
                     0xffffffff);
}

static void test_priorities(void **state)
{
    struct fixture *f = *state;
    struct lapic *lapic = f->cpu[1];

    assert_false(lapic_may_interrupt(lapic));
    ipi(f, 0, 1, 0x4000 | 0x51);
    ipi(f, 0, 1, 0x4000 | 0x83);
    assert_true(lapic_may_interrupt(lapic));
    assert_true(f->interrupts[1] > 0);
    assert_int_equal(rd(f, 1, 0x200 + 0x20), 1u << (0x51 - 0x40));
    assert_int_equal(lapic_ack(lapic), 0x83);
    assert_int_equal(rd(f, 1, 0xa0), 0x80);
    assert_false(lapic_has_interrupt(lapic));
    assert_int_equal(lapic_ack(lapic), -1);
    ipi(f, 0, 1, 0x4000 | 0x8f); // the same class does not nest
    assert_false(lapic_has_interrupt(lapic));
    ipi(f, 0, 1, 0x4000 | 0x90);
    assert_int_equal(lapic_ack(lapic), 0x90);
    eoi(f, 1);
    assert_int_equal(lapic_ack(lapic), -1);
    eoi(f, 1);
    assert_int_equal(lapic_ack(lapic), 0x8f);
    eoi(f, 1);
    lapic_set_cr8(lapic, 5); // holds back class 5
    assert_int_equal(rd(f, 1, 0x80), 0x50);
    assert_false(lapic_may_interrupt(lapic));
    assert_int_equal(lapic_ack(lapic), -1);
    wr(f, 1, 0x80, 0x4f);
    assert_int_equal(lapic_get_cr8(lapic), 4);
    assert_int_equal(rd(f, 1, 0xa0), 0x4f);
    assert_int_equal(lapic_ack(lapic), 0x51);
    eoi(f, 1);
    eoi(f, 1); // nothing in service: harmless
    assert_int_equal(f->eois, 0);
    assert_int_equal(rd(f, 1, 0xb0), 0);
}

static void test_destinations(void **state)
{
    struct fixture *f = *state;

    // Logical, flat.
    ipi(f, 0, 0x0a, 0x800 | 0x40);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x40);
    assert_int_equal(lapic_ack(f->cpu[2]), -1);
    assert_int_equal(lapic_ack(f->cpu[3]), 0x40);
    eoi(f, 1);
    eoi(f, 3);
    // Physical broadcast.
    ipi(f, 2, 0xff, 0x41);
    for (int i = 0; i < CPUS; i++) {
        assert_int_equal(lapic_ack(f->cpu[i]), 0x41);
        eoi(f, i);
    }
    // Shorthands.
    ipi(f, 2, 0, 0x40000 | 0x42);
    assert_int_equal(lapic_ack(f->cpu[2]), 0x42);
    eoi(f, 2);
    ipi(f, 2, 0, 0xc0000 | 0x43);
    for (int i = 0; i < CPUS; i++) {
        assert_int_equal(lapic_ack(f->cpu[i]), i == 2 ? -1 : 0x43);
        eoi(f, i);
    }
    ipi(f, 2, 0, 0x80000 | 0x44);
    for (int i = 0; i < CPUS; i++) {
        assert_int_equal(lapic_ack(f->cpu[i]), 0x44);
        eoi(f, i);
    }
    // Cluster model: two clusters of two.
    for (int i = 0; i < CPUS; i++) {
        wr(f, i, 0xe0, 0x0fffffff);
        wr(f, i, 0xd0, (uint32_t)((i / 2) << 4 | 1 << (i % 2)) << 24);
    }
    ipi(f, 0, 0x13, 0x800 | 0x45);
    for (int i = 0; i < CPUS; i++) {
        assert_int_equal(lapic_ack(f->cpu[i]), i >= 2 ? 0x45 : -1);
        eoi(f, i);
    }
    ipi(f, 0, 0xf1, 0x800 | 0x46); // every cluster
    for (int i = 0; i < CPUS; i++)
        assert_int_equal(lapic_ack(f->cpu[i]), i % 2 ? -1 : 0x46);
}

static void test_lowest_priority(void **state)
{
    struct fixture *f = *state;
    unsigned taken = 0;

    for (int i = 0; i < CPUS; i++)
        wr(f, i, 0x80, i == 2 ? 0x10 : 0x30);
    ipi(f, 0, 0x0f, 0x900 | 0x50);
    assert_int_equal(lapic_ack(f->cpu[2]), 0x50);
    eoi(f, 2);
    // Among equals the vector chooses; each message has one taker.
    for (int i = 0; i < CPUS; i++)
        wr(f, i, 0x80, 0);
    for (unsigned vector = 0x60; vector < 0x64; vector++) {
        ipi(f, 0, 0x0f, 0x900 | vector);
        for (int i = 0; i < CPUS; i++) {
            if (lapic_ack(f->cpu[i]) == (int)vector) {
                taken |= 1u << i;
                eoi(f, i);
            }
        }
    }
    assert_int_equal(taken, 0xf);
    // A processor that already has the vector is the focus (unless SVR bit 9 forbids).
    wr(f, 3, 0xf0, 0x1ff);
    ipi(f, 0, 3, 0x70);
    ipi(f, 0, 0x0f, 0x900 | 0x70);
    assert_false(lapic_has_interrupt(f->cpu[0]));
    assert_true(lapic_has_interrupt(f->cpu[3]));
}

static void test_init_sipi_nmi_smi(void **state)
{
    struct fixture *f = *state;

    wr(f, 1, 0x320, 0x20030);
    wr(f, 1, 0x380, 100000);
    ipi(f, 0, 1, 0xc500); // INIT, level, assert
    ipi(f, 0, 1, 0x8500); // de-assert
    assert_int_equal(f->inits[1], 1);
    assert_int_equal(rd(f, 1, 0xf0), 0xff);
    assert_int_equal(rd(f, 1, 0x320), 0x10000);
    assert_int_equal(rd(f, 1, 0x20), 1u << 24);
    ipi(f, 0, 1, 0x4600 | 0x9a);
    assert_int_equal(f->sipis[1], 1);
    assert_int_equal(f->sipi_vector[1], 0x9a);
    ipi(f, 0, 0, 0xc4500); // all but self
    assert_int_equal(f->inits[0], 0);
    assert_int_equal(f->inits[1], 2);
    assert_int_equal(f->inits[3], 1);
    ipi(f, 0, 3, 0x4400);
    assert_int_equal(f->nmis[3], 1);
    ipi(f, 0, 3, 0x4200);
    assert_int_equal(f->smis[3], 1);
    ipi(f, 0, 3, 0x4300); // reserved
}

static void test_errors(void **state)
{
    struct fixture *f = *state;

    wr(f, 0, 0x370, 0xe0);
    ipi(f, 0, 1, 0x4000 | 0x05); // illegal vector
    assert_int_equal(lapic_ack(f->cpu[0]), 0xe0);
    eoi(f, 0);
    assert_int_equal(rd(f, 0, 0x280), 0);
    wr(f, 0, 0x280, 0);
    assert_int_equal(rd(f, 0, 0x280), 0x20);
    wr(f, 0, 0x280, 0);
    assert_int_equal(rd(f, 0, 0x280), 0);
    rd(f, 0, 0x40); // no such register
    assert_int_equal(lapic_ack(f->cpu[0]), 0xe0);
    wr(f, 0, 0x280, 0);
    assert_int_equal(rd(f, 0, 0x280), 0x80);
    // An illegal vector in the error entry itself.
    wr(f, 0, 0x370, 0x03);
    rd(f, 0, 0x40);
    wr(f, 0, 0x280, 0);
    assert_int_equal(rd(f, 0, 0x280), 0xc0);
    // A message with an illegal vector.
    lapic_bus_msi(f->bus, 0xfee01000, 0x08);
    wr(f, 1, 0x280, 0);
    assert_int_equal(rd(f, 1, 0x280), 0x40);
}

static void test_timer_one_shot(void **state)
{
    struct fixture *f = *state;

    wr(f, 0, 0x3e0, 0x3); // divide by 16
    wr(f, 0, 0x320, 0x35);
    wr(f, 0, 0x380, 1000);
    assert_int_equal(rd(f, 0, 0x390), 1000);
    advance(&f->clock, &f->queue, 8000);
    assert_int_equal(rd(f, 0, 0x390), 500);
    advance(&f->clock, &f->queue, 7999);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    advance(&f->clock, &f->queue, 1);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x35);
    assert_int_equal(rd(f, 0, 0x390), 0);
    eoi(f, 0);
    advance(&f->clock, &f->queue, 100000);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    // Masked: counts, does not interrupt, not even when unmasked afterwards.
    wr(f, 0, 0x320, 0x10035);
    wr(f, 0, 0x380, 1000);
    advance(&f->clock, &f->queue, 20000);
    wr(f, 0, 0x320, 0x35);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    // Zero stops.
    wr(f, 0, 0x380, 1000);
    wr(f, 0, 0x380, 0);
    advance(&f->clock, &f->queue, 20000);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    // Every divider.
    static const struct {
        uint8_t code, shift;
    } dividers[] = {{0, 1}, {1, 2}, {2, 3}, {3, 4}, {8, 5}, {9, 6}, {10, 7}, {11, 0}};
    for (unsigned i = 0; i < ARRAY_SIZE(dividers); i++) {
        wr(f, 0, 0x3e0, dividers[i].code);
        wr(f, 0, 0x380, 100000);
        advance(&f->clock, &f->queue, 1000u << dividers[i].shift);
        assert_int_equal(rd(f, 0, 0x390), 99000);
    }
    // Changing the divider keeps the count.
    wr(f, 0, 0x3e0, 11);
    assert_int_equal(rd(f, 0, 0x390), 99000);
    wr(f, 0, 0x3e0, 0);
    advance(&f->clock, &f->queue, 2000);
    assert_int_equal(rd(f, 0, 0x390), 98000);
}

static void test_timer_periodic(void **state)
{
    struct fixture *f = *state;
    unsigned fired = 0;

    wr(f, 0, 0x3e0, 0xb);
    wr(f, 0, 0x320, 0x20040);
    wr(f, 0, 0x380, 1000000);
    for (int i = 0; i < 100; i++) {
        advance(&f->clock, &f->queue, 500000);
        if (lapic_ack(f->cpu[0]) == 0x40) {
            fired++;
            eoi(f, 0);
        }
    }
    assert_int_equal(fired, 50);
    // A period of one nanosecond costs the host no more than 100000 wake-ups a second.
    wr(f, 0, 0x380, 1);
    f->interrupts[0] = 0;
    advance(&f->clock, &f->queue, 1000000);
    assert_true(f->interrupts[0] >= 50 && f->interrupts[0] <= 102);
}

static void test_timer_tsc_deadline(void **state)
{
    struct fixture *f = *state;
    uint64_t value, deadline;

    // Not in this mode: ignored.
    assert_true(lapic_msr_write(f->cpu[0], 0x6e0, on_tsc(f, 0) + 1000000));
    assert_true(lapic_msr_read(f->cpu[0], 0x6e0, &value));
    assert_int_equal(value, 0);
    wr(f, 0, 0x320, 0x40041);
    deadline = on_tsc(f, 0) + 2500001;
    assert_true(lapic_msr_write(f->cpu[0], 0x6e0, deadline));
    assert_true(lapic_msr_read(f->cpu[0], 0x6e0, &value));
    assert_int_equal(value, deadline);
    assert_int_equal(rd(f, 0, 0x390), 0);
    advance(&f->clock, &f->queue, 1000000);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    advance(&f->clock, &f->queue, 1);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x41);
    assert_true(lapic_msr_read(f->cpu[0], 0x6e0, &value));
    assert_int_equal(value, 0);
    eoi(f, 0);
    // In the past: at once. Zero disarms. Very far: does not overflow.
    assert_true(lapic_msr_write(f->cpu[0], 0x6e0, 1));
    assert_int_equal(lapic_ack(f->cpu[0]), 0x41);
    eoi(f, 0);
    assert_true(lapic_msr_write(f->cpu[0], 0x6e0, on_tsc(f, 0) + 1000));
    assert_true(lapic_msr_write(f->cpu[0], 0x6e0, 0));
    advance(&f->clock, &f->queue, 100000);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    assert_true(lapic_msr_write(f->cpu[0], 0x6e0, UINT64_MAX));
    advance(&f->clock, &f->queue, UINT64_C(10000000000000));
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    // Leaving the mode disarms.
    wr(f, 0, 0x320, 0x41);
    wr(f, 0, 0x320, 0x40041);
    assert_true(lapic_msr_read(f->cpu[0], 0x6e0, &value));
    assert_int_equal(value, 0);
}

// A clock that moves at every look.
static uint64_t restless_now(struct clock *clock)
{
    return ++((struct clock_counted *)clock)->ns;
}

// The timer expires at every moment within a write to a register that concerns it: it interrupts
// exactly once.
static void test_timer_expires_within_a_write(void **state)
{
    struct fixture *f = *state;
    uint64_t (*plain_now)(struct clock *) = f->clock.clock.now_ns;
    unsigned lvt[] = {0x42, 0x40042}; // one shot, deadline

    wr(f, 0, 0x3e0, 0xb);
    for (unsigned mode = 0; mode < 2; mode++) {
        for (unsigned what = 0; what < 4; what++) {
            for (unsigned delay = 1; delay < 60; delay++) {
                wr(f, 0, 0x320, lvt[mode]);
                if (mode == 0)
                    wr(f, 0, 0x380, delay);
                else
                    assert_true(lapic_msr_write(f->cpu[0], 0x6e0, on_tsc(f, 0) + delay * 5 / 2));
                f->clock.clock.now_ns = restless_now;
                if (what == 0)
                    wr(f, 0, 0x320, lvt[mode]);
                else if (what == 1)
                    wr(f, 0, 0x3e0, delay & 1 ? 0x3 : 0xb);
                else if (what == 2)
                    wr(f, 0, 0xf0, 0x1ff);
                else
                    lapic_tsc_changed(f->cpu[0]);
                f->clock.clock.now_ns = plain_now;
                advance(&f->clock, &f->queue, 100000);
                assert_int_equal(lapic_ack(f->cpu[0]), 0x42);
                eoi(f, 0);
                assert_int_equal(lapic_ack(f->cpu[0]), -1);
            }
        }
    }
}

static void test_late_timer_is_not_lost(void **state)
{
    struct fixture *f = *state;

    wr(f, 0, 0x3e0, 0xb);
    wr(f, 0, 0x320, 0x40);
    wr(f, 0, 0x380, 1000);
    clock_counted_advance(&f->clock, 2000);
    wr(f, 0, 0x380, 1000); // before the callback ran
    assert_int_equal(lapic_ack(f->cpu[0]), 0x40);
}

static void test_x2apic(void **state)
{
    struct fixture *f = *state;
    uint64_t value, base = LAPIC_DEFAULT_BASE | 0x800;

    assert_false(lapic_msr_read(f->cpu[1], 0x802, &value));
    assert_false(lapic_msr_write(f->cpu[1], 0x1b, LAPIC_DEFAULT_BASE | 0x400)); // invalid mode
    assert_false(lapic_msr_write(f->cpu[1], 0x1b, base | 1));                   // reserved
    for (int i = 0; i < CPUS; i++)
        assert_true(lapic_msr_write(f->cpu[i], 0x1b, base | 0x400));
    assert_true(lapic_x2apic(f->cpu[1]));
    assert_int_equal(rd(f, 1, 0x30), 0xffffffff); // memory is silent
    assert_true(lapic_msr_read(f->cpu[3], 0x802, &value));
    assert_int_equal(value, 3);
    assert_true(lapic_msr_read(f->cpu[3], 0x80d, &value));
    assert_int_equal(value, 8);
    // Reserved bits and registers.
    assert_false(lapic_msr_write(f->cpu[1], 0x802, 0));
    assert_false(lapic_msr_write(f->cpu[1], 0x80b, 1));
    assert_false(lapic_msr_write(f->cpu[1], 0x808, 0x100));
    assert_false(lapic_msr_write(f->cpu[1], 0x80f, 0x800));
    assert_false(lapic_msr_write(f->cpu[1], 0x828, 1));
    assert_false(lapic_msr_write(f->cpu[1], 0x830, 1u << 16));
    assert_false(lapic_msr_write(f->cpu[1], 0x832, 1u << 20));
    assert_false(lapic_msr_write(f->cpu[1], 0x838, UINT64_C(1) << 32));
    assert_false(lapic_msr_write(f->cpu[1], 0x83f, 0x100));
    assert_false(lapic_msr_write(f->cpu[1], 0x80d, 0));
    assert_false(lapic_msr_write(f->cpu[1], 0x80e, 0));
    assert_false(lapic_msr_read(f->cpu[1], 0x80b, &value));
    assert_false(lapic_msr_read(f->cpu[1], 0x80e, &value));
    assert_false(lapic_msr_read(f->cpu[1], 0x831, &value));
    assert_false(lapic_msr_read(f->cpu[1], 0x8ff, &value));
    // Self IPI, physical, logical and broadcast ICR.
    assert_true(lapic_msr_write(f->cpu[1], 0x83f, 0x55));
    assert_int_equal(lapic_ack(f->cpu[1]), 0x55);
    assert_true(lapic_msr_write(f->cpu[1], 0x80b, 0));
    assert_true(lapic_msr_write(f->cpu[0], 0x830, UINT64_C(2) << 32 | 0x56));
    assert_int_equal(lapic_ack(f->cpu[2]), 0x56);
    assert_true(lapic_msr_read(f->cpu[0], 0x830, &value));
    assert_int_equal(value, UINT64_C(2) << 32 | 0x56);
    assert_true(lapic_msr_write(f->cpu[0], 0x830, UINT64_C(0x0000000a) << 32 | 0x857));
    assert_int_equal(lapic_ack(f->cpu[1]), 0x57);
    assert_int_equal(lapic_ack(f->cpu[3]), 0x57);
    assert_true(lapic_msr_write(f->cpu[0], 0x830, UINT64_C(0xff) << 32 | 0x67));
    assert_false(lapic_has_interrupt(f->cpu[3])); // ffh is an ordinary id here
    assert_true(lapic_msr_write(f->cpu[0], 0x830, UINT64_C(0xffffffff) << 32 | 0x68));
    assert_true(lapic_has_interrupt(f->cpu[3]));
    // 8-bit messages reach x2APIC targets.
    assert_int_equal(lapic_bus_msi(f->bus, 0xfee02000, 0x79), 1);
    assert_int_equal(lapic_bus_msi(f->bus, 0xfeeff000, 0x7a), CPUS);
    assert_int_equal(lapic_bus_msi(f->bus, 0xfed00000, 0x7a), 0);
    // An INIT keeps the mode; the only way out leads to disabled, and then to xAPIC.
    assert_true(lapic_msr_write(f->cpu[0], 0x830, UINT64_C(1) << 32 | 0x4500));
    assert_true(lapic_x2apic(f->cpu[1]));
    assert_false(lapic_msr_write(f->cpu[1], 0x1b, base));
    assert_true(lapic_msr_write(f->cpu[1], 0x1b, LAPIC_DEFAULT_BASE));
    assert_false(lapic_enabled(f->cpu[1]));
    assert_false(lapic_msr_write(f->cpu[1], 0x1b, base | 0x400));
    assert_true(lapic_msr_write(f->cpu[1], 0x1b, base));
    assert_int_equal(rd(f, 1, 0x20), 1u << 24);
    assert_int_equal(rd(f, 1, 0xf0), 0xff);
}

static void test_relocation(void **state)
{
    struct fixture *f = *state;
    const uint64_t there = 0xfed80000;

    assert_true(lapic_msr_write(f->cpu[1], 0x1b, there | 0x800));
    assert_int_equal(f->maps, 1);
    assert_int_equal(f->mapped.base, there);
    assert_int_equal(rd(f, 1, 0x20), 0xffffffff);
    f->current = 1;
    assert_int_equal(region_read(&f->mapped, there + 0x20, 4), 1u << 24);
    f->current = 0;
    assert_int_equal(region_read(&f->mapped, there + 0x20, 4) & 0xffffffff, 0xffffffff);
    assert_int_equal(rd(f, 0, 0x20), 0);
    assert_true(lapic_msr_write(f->cpu[1], 0x1b, LAPIC_DEFAULT_BASE | 0x800));
    assert_int_equal(f->unmaps, 1);
    assert_int_equal(rd(f, 1, 0x20), 1u << 24);
}

static void test_lint_and_extint(void **state)
{
    struct fixture *f = *state;

    f->extint_vector = 0x30;
    lapic_bus_lint(f->bus, 0, true);
    assert_false(lapic_has_interrupt(f->cpu[0])); // masked
    wr(f, 0, 0x350, 0x10700);
    assert_false(lapic_has_interrupt(f->cpu[0])); // masked as ExtINT
    wr(f, 0, 0x350, 0x700);
    assert_true(lapic_may_interrupt(f->cpu[0]));
    assert_false(lapic_may_interrupt(f->cpu[1]));
    lapic_set_cr8(f->cpu[0], 15); // does not hold back ExtINT
    assert_int_equal(lapic_ack(f->cpu[0]), 0x30);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    lapic_set_cr8(f->cpu[0], 0);
    wr(f, 0, 0x360, 0x400);
    wr(f, 2, 0x360, 0x400);
    lapic_bus_lint(f->bus, 1, true);
    lapic_bus_lint(f->bus, 1, true);
    assert_int_equal(f->nmis[0], 1);
    assert_int_equal(f->nmis[1], 0);
    assert_int_equal(f->nmis[2], 1);
    lapic_bus_lint(f->bus, 1, false);
    // Fixed, level-triggered: one until EOI, again while the pin is high.
    wr(f, 0, 0x350, 0x8060);
    lapic_bus_lint(f->bus, 0, true);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x60);
    assert_int_equal(rd(f, 0, 0x350) & 0x4000, 0x4000);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    eoi(f, 0);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x60);
    lapic_bus_lint(f->bus, 0, false);
    eoi(f, 0);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    // Fixed, edge.
    wr(f, 0, 0x350, 0x61);
    lapic_bus_lint(f->bus, 0, true);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x61);
    eoi(f, 0);
    assert_int_equal(lapic_ack(f->cpu[0]), -1);
    // Globally disabled: the pins are INTR and NMI of the bootstrap processor.
    lapic_bus_lint(f->bus, 0, false);
    assert_true(lapic_msr_write(f->cpu[0], 0x1b, LAPIC_DEFAULT_BASE));
    assert_true(lapic_msr_write(f->cpu[1], 0x1b, LAPIC_DEFAULT_BASE));
    lapic_bus_lint(f->bus, 0, true);
    lapic_bus_lint(f->bus, 1, true);
    assert_int_equal(f->nmis[0], 2);
    assert_int_equal(f->nmis[1], 0);
    assert_int_equal(lapic_ack(f->cpu[1]), -1);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x30);
    // An ExtINT message.
    f->extint_vector = 0x31;
    lapic_bus_deliver(f->bus, &(struct lapic_message){.dest = 3, .delivery = LAPIC_EXTINT});
    assert_int_equal(lapic_ack(f->cpu[3]), 0x31);
    assert_int_equal(lapic_ack(f->cpu[3]), -1);
    // What firmware leaves behind.
    lapic_virtual_wire(f->cpu[2]);
    lapic_bus_lint(f->bus, 0, true);
    assert_int_equal(lapic_ack(f->cpu[2]), 0x31);
}

static void test_software_disable(void **state)
{
    struct fixture *f = *state;

    ipi(f, 0, 1, 0x4000 | 0x50);
    wr(f, 1, 0x370, 0xe0);
    wr(f, 1, 0xf0, 0xff);
    assert_int_equal(rd(f, 1, 0x370), 0x100e0);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x50); // what was pending stays
    ipi(f, 0, 1, 0x4000 | 0x60);
    assert_int_equal(lapic_ack(f->cpu[1]), -1);
    ipi(f, 0, 1, 0x4400);
    assert_int_equal(f->nmis[1], 1);
    wr(f, 1, 0xf0, 0x1ff);
    assert_int_equal(rd(f, 1, 0x370), 0x100e0);
}

static void test_level_eoi(void **state)
{
    struct fixture *f = *state;

    lapic_bus_msi(f->bus, 0xfee01000, 0xc000 | 0x71);
    assert_int_equal(rd(f, 1, 0x180 + 0x30), 1u << 17);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x71);
    eoi(f, 1);
    assert_int_equal(f->eois, 1);
    assert_int_equal(f->last_eoi, 0x71);
    wr(f, 1, 0xf0, 0x11ff); // EOI broadcast suppressed
    lapic_bus_msi(f->bus, 0xfee01000, 0xc000 | 0x71);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x71);
    eoi(f, 1);
    assert_int_equal(f->eois, 1);
    // The same vector as an edge clears TMR.
    wr(f, 1, 0xf0, 0x1ff);
    lapic_bus_msi(f->bus, 0xfee01000, 0x71);
    assert_int_equal(rd(f, 1, 0x180 + 0x30), 0);
}

static void test_pv_eoi(void **state)
{
    struct fixture *f = *state;

    unsigned interrupts, claims;

    f->pv_enabled = true;
    ipi(f, 0, 1, 0x4000 | 0x50);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x50);
    assert_true(f->pv_flag);
    f->pv_flag = false; // the guest's EOI
    ipi(f, 0, 1, 0x4000 | 0x51);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x51);
    // Not yet done when the next one arrives, on another thread: the guest may be in the midst of
    // testing and clearing, so the flag is left alone, and the processor is made to ask.
    assert_true(f->pv_flag);
    interrupts = f->interrupts[1];
    claims = f->claims;
    ipi(f, 0, 1, 0x4000 | 0x52);
    assert_int_equal(f->claims, claims);
    assert_true(f->pv_flag);
    assert_true(f->interrupts[1] > interrupts);
    assert_true(lapic_may_interrupt(f->cpu[1]));
    // It asks, not yet done: the offer is withdrawn, the guest must write EOI.
    assert_int_equal(lapic_ack(f->cpu[1]), -1);
    assert_false(f->pv_flag);
    assert_false(lapic_may_interrupt(f->cpu[1]));
    interrupts = f->interrupts[1];
    eoi(f, 1);
    assert_true(f->interrupts[1] > interrupts);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x52);
    f->pv_flag = false;
    assert_int_equal(rd(f, 1, 0x100 + 0x20), 0); // ISR reads as after the EOI
    // Not offered for level-triggered interrupts.
    lapic_bus_msi(f->bus, 0xfee01000, 0xc000 | 0x71);
    assert_int_equal(lapic_ack(f->cpu[1]), 0x71);
    assert_false(f->pv_flag);
}

// All orders of the guest's three steps (test and clear, its look at the result, IRET) and a message,
// for messages below, in and above the class of the interrupt in service: each is delivered, exactly
// when the priorities say so, and no EOI is lost or given twice.
static void test_pv_eoi_orders(void **state)
{
    struct fixture *f = *state;
    struct lapic *lapic = f->cpu[1];
    static const uint8_t vectors[] = {0x41, 0x58, 0x50, 0x61};

    f->pv_enabled = true;
    for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++) {
        for (unsigned when = 0; when < 3; when++) {
            for (unsigned asks = 0; asks < 2; asks++) { // does the processor ask in the handler?
                uint8_t vector = vectors[i];
                bool skip;

                ipi(f, 0, 1, 0x4000 | 0x50);
                assert_int_equal(lapic_ack(lapic), 0x50);
                assert_true(f->pv_flag);
                if (when == 0) {
                    f->interrupts[1] = 0;
                    ipi(f, 0, 1, 0x4000 | vector);
                    // Whatever is not masked by what stays after an EOI makes it ask.
                    assert_true(f->interrupts[1] > 0);
                    if (asks && vector > 0x5f) { // it nests
                        assert_int_equal(lapic_ack(lapic), vector);
                        assert_true(f->pv_flag); // of the new one
                        eoi(f, 1);
                        assert_false(f->pv_flag); // 50h has to be ended by a write
                        vector = 0;
                    } else if (asks) {
                        assert_int_equal(lapic_ack(lapic), -1);
                        assert_false(f->pv_flag);
                    }
                }
                skip = f->pv_flag;
                f->pv_flag = false;
                if (when == 1)
                    ipi(f, 0, 1, 0x4000 | vector);
                if (!skip)
                    eoi(f, 1);
                if (when == 2)
                    ipi(f, 0, 1, 0x4000 | vector);
                if (vector) {
                    assert_true(lapic_may_interrupt(lapic));
                    assert_int_equal(lapic_ack(lapic), vector);
                    f->pv_flag = false;
                    eoi(f, 1); // skipped, and one write too many: nothing is left in service
                }
                assert_int_equal(lapic_ack(lapic), -1);
                for (unsigned reg = 0; reg < 8; reg++) {
                    assert_int_equal(rd(f, 1, 0x100 + reg * 16), 0);
                    assert_int_equal(rd(f, 1, 0x200 + reg * 16), 0);
                }
            }
        }
    }
    // What the interrupt in service would mask even after its EOI does not disturb.
    wr(f, 1, 0x80, 0x40);
    ipi(f, 0, 1, 0x4000 | 0x50);
    assert_int_equal(lapic_ack(lapic), 0x50);
    f->interrupts[1] = 0;
    ipi(f, 0, 1, 0x4000 | 0x48);
    assert_int_equal(f->interrupts[1], 0);
    f->pv_flag = false;
    wr(f, 1, 0x80, 0);
    assert_true(f->interrupts[1] > 0);
    assert_int_equal(lapic_ack(lapic), 0x48);
    // An INIT ends the offer too: no flag is left that would skip a later EOI.
    assert_true(f->pv_flag);
    ipi(f, 0, 1, 0x4500);
    assert_false(f->pv_flag);
}

static void test_odd_accesses(void **state)
{
    struct fixture *f = *state;

    f->current = 0;
    assert_int_equal(region_read(&f->region, LAPIC_DEFAULT_BASE + 0x32, 2), 0x0106);
    assert_int_equal(region_read(&f->region, LAPIC_DEFAULT_BASE + 0x34, 4), 0);
    region_write(&f->region, LAPIC_DEFAULT_BASE + 0x81, 0xff, 1);
    region_write(&f->region, LAPIC_DEFAULT_BASE + 0x80, 0xff, 1);
    assert_int_equal(rd(f, 0, 0x80), 0);
}

static void test_state(void **state)
{
    struct fixture *f = *state;
    struct lapic_bus *other = make_bus(f);
    struct lapic *copy = lapic_bus_get(other, 1);

    ipi(f, 0, 1, 0x4000 | 0x50);
    lapic_ack(f->cpu[1]);
    ipi(f, 0, 1, 0x4000 | 0x91);
    wr(f, 1, 0x3e0, 0xb);
    wr(f, 1, 0x320, 0x200a0);
    wr(f, 1, 0x380, 1000000);
    wr(f, 1, 0x350, 0x8700);
    check_state(&lapic_state, f->cpu[1], copy);
    assert_true(lapic_may_interrupt(copy));
    assert_int_equal(lapic_ack(copy), 0x91);
    advance(&f->clock, &f->queue, 1000000);
    assert_int_equal(lapic_ack(copy), 0xa0);
    assert_int_equal(lapic_ack(f->cpu[1]), 0xa0);

    f->cpu[1]->base = 0x400;
    struct state_buffer buffer = {0};
    size_t offset = 0;
    assert_int_equal(state_save(&buffer, &lapic_state, f->cpu[1]), 0);
    assert_int_equal(state_load(&buffer, &offset, &lapic_state, copy, NULL), -1);
    state_buffer_free(&buffer);
    lapic_bus_destroy(other);
}

// SDM vol. 3, "Task and Processor Priorities": TPR gives the sub-class too when the classes are equal.
static void test_priority_tie(void **state)
{
    struct fixture *f = *state;

    ipi(f, 0, 0, 0x52);
    assert_int_equal(lapic_ack(f->cpu[0]), 0x52);
    assert_int_equal(rd(f, 0, 0xa0), 0x50);
    wr(f, 0, 0x80, 0x5a);
    assert_int_equal(rd(f, 0, 0xa0), 0x5a);
    wr(f, 0, 0x80, 0x4a);
    assert_int_equal(rd(f, 0, 0xa0), 0x50);
}

// Of the entries that are raised from within, only the performance counters' masks itself.
static void test_raised_entries(void **state)
{
    struct fixture *f = *state;

    wr(f, 0, 0x340, 0x45);
    wr(f, 0, 0x330, 0x46);
    for (unsigned i = 0; i < 2; i++) {
        lapic_raise_lvt(f->cpu[0], LAPIC_LVT_PERF);
        assert_int_equal(lapic_ack(f->cpu[0]), i == 0 ? 0x45 : -1);
        assert_int_equal(rd(f, 0, 0x340), 0x10045);
        eoi(f, 0);
        lapic_raise_lvt(f->cpu[0], LAPIC_LVT_THERMAL);
        assert_int_equal(lapic_ack(f->cpu[0]), 0x46);
        assert_int_equal(rd(f, 0, 0x330), 0x46);
        eoi(f, 0);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_reset_values),
        T(test_priorities),
        T(test_destinations),
        T(test_lowest_priority),
        T(test_init_sipi_nmi_smi),
        T(test_errors),
        T(test_timer_one_shot),
        T(test_timer_periodic),
        T(test_timer_tsc_deadline),
        T(test_timer_expires_within_a_write),
        T(test_late_timer_is_not_lost),
        T(test_x2apic),
        T(test_relocation),
        T(test_lint_and_extint),
        T(test_software_disable),
        T(test_level_eoi),
        T(test_pv_eoi),
        T(test_pv_eoi_orders),
        T(test_odd_accesses),
        T(test_priority_tie),
        T(test_raised_entries),
        T(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
