// SPDX-License-Identifier: Apache-2.0
// Shared by the tests of chipset devices: access to a device's regions as the bus would make it, a
// recording interrupt line, and the state round trip that every device must pass.
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/state.h"
#include "base/timer.h"
#include "devices/irq.h"
#include "memory/memory.h"
#include <stdlib.h>
#include <string.h>

static inline uint64_t region_read(const struct io_region *region, uint64_t address, unsigned size)
{
    return region->ops->read(region->opaque, address - region->base, size);
}

static inline void region_write(const struct io_region *region, uint64_t address, uint64_t value,
                                unsigned size)
{
    region->ops->write(region->opaque, address - region->base, value, size);
}

// An interrupt line that remembers.
struct probe {
    bool level;
    unsigned rises;
    int last; // number of the line
};

static inline void probe_set(void *opaque, int number, bool level)
{
    struct probe *probe = opaque;

    if (level && !probe->level)
        probe->rises++;
    probe->level = level;
    probe->last = number;
}

static inline struct irq_line probe_line(struct probe *probe)
{
    return (struct irq_line){.set = probe_set, .opaque = probe};
}

// Lets time pass, running every timer at its own deadline.
static inline void advance(struct clock_counted *clock, struct timer_queue *queue, uint64_t ns)
{
    uint64_t end = clock_now(&clock->clock) + ns;
    uint64_t next;

    while ((next = timer_queue_run(queue)) <= end) {
        uint64_t now = clock_now(&clock->clock);

        if (next > now)
            clock_counted_advance(clock, next - now);
    }
    clock_counted_advance(clock, end - clock_now(&clock->clock));
    timer_queue_run(queue);
}

// The description covers the struct, and what is saved from one object loads into another that then
// saves the same bytes. Truncated input is refused.
static inline void check_state(const struct state_desc *desc, void *from, void *to)
{
    struct state_buffer first = {0}, second = {0};
    struct error err = {0};
    char why[256] = "";
    size_t offset = 0;

    if (!state_desc_check(desc, why, sizeof(why)))
        fail_msg("%s", why);
    assert_int_equal(state_save(&first, desc, from), 0);
    if (state_load(&first, &offset, desc, to, &err) < 0)
        fail_msg("%s", err.message);
    assert_int_equal(offset, first.size);
    assert_int_equal(state_save(&second, desc, to), 0);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    first.size--;
    offset = 0;
    assert_int_equal(state_load(&first, &offset, desc, to, NULL), -1);
    state_buffer_free(&first);
    state_buffer_free(&second);
}
