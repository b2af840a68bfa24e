// SPDX-License-Identifier: Apache-2.0
// A workbench for one device: counted time, a timer queue, a recorder of interrupt lines, and
// access to a register window as the dispatcher would do it (splitting wide accesses, refusing
// narrow ones).
#pragma once

#include "base/clock.h"
#include "device_test.h"
#include <stdio.h>

#define BENCH_LINES 32
#define BENCH_EPOCH_NS 1700000000000000000u // 2023-11-14 22:13:20 UTC

struct bench {
    struct clock_counted clock;
    struct timer_queue timers;
    bool level[BENCH_LINES];
    unsigned rises[BENCH_LINES];
};

static void bench_set_line(void *opaque, int number, bool level)
{
    struct bench *bench = opaque;

    if (level && !bench->level[number])
        bench->rises[number]++;
    bench->level[number] = level;
}

static inline struct irq_line bench_line(struct bench *bench, int number)
{
    return (struct irq_line){.set = bench_set_line, .opaque = bench, .number = number};
}

static inline void bench_init(struct bench *bench)
{
    memset(bench, 0, sizeof(*bench));
    clock_counted_init(&bench->clock, BENCH_EPOCH_NS);
    timer_queue_init(&bench->timers, &bench->clock.clock);
}

static inline void bench_fini(struct bench *bench)
{
    timer_queue_destroy(&bench->timers);
}

static inline void bench_advance(struct bench *bench, uint64_t ns)
{
    advance(&bench->clock, &bench->timers, ns);
}

static inline uint64_t bench_read(const struct io_region *region, uint64_t offset, unsigned size)
{
    unsigned max = region->ops->max_size ? region->ops->max_size : 8;
    unsigned min = region->ops->min_size ? region->ops->min_size : 1;
    uint64_t value = 0;

    if (size < min)
        return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * size)) - 1;
    for (unsigned done = 0; done < size; done += max) {
        unsigned part = size < max ? size : max;
        uint64_t got = region->ops->read(region->opaque, offset + done, part);
        if (part < 8)
            got &= (UINT64_C(1) << (8 * part)) - 1;
        value |= got << (8 * done);
    }
    return value;
}

static inline void bench_write(const struct io_region *region, uint64_t offset, uint64_t value,
                               unsigned size)
{
    unsigned max = region->ops->max_size ? region->ops->max_size : 8;
    unsigned min = region->ops->min_size ? region->ops->min_size : 1;

    if (size < min)
        return;
    for (unsigned done = 0; done < size; done += max) {
        unsigned part = size < max ? size : max;
        uint64_t sent = value >> (8 * done);
        if (part < 8)
            sent &= (UINT64_C(1) << (8 * part)) - 1;
        region->ops->write(region->opaque, offset + done, sent, part);
    }
}
