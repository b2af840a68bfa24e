// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"
#include <time.h>

static uint64_t host_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t clock_real_now(struct clock *base)
{
    struct clock_real *clock = (struct clock_real *)base;
    if (!clock->running)
        return clock->stopped_at;
    return host_ns(CLOCK_MONOTONIC) + (uint64_t)clock->offset_ns;
}

void clock_real_init(struct clock_real *clock)
{
    clock->clock.now_ns = clock_real_now;
    clock->clock.epoch_ns = host_ns(CLOCK_REALTIME);
    clock->offset_ns = -(int64_t)host_ns(CLOCK_MONOTONIC);
    clock->stopped_at = 0;
    clock->running = true;
}

void clock_real_stop(struct clock_real *clock)
{
    if (clock->running) {
        clock->stopped_at = clock_real_now(&clock->clock);
        clock->running = false;
    }
}

void clock_real_start(struct clock_real *clock)
{
    if (!clock->running) {
        clock->offset_ns = (int64_t)(clock->stopped_at - host_ns(CLOCK_MONOTONIC));
        clock->running = true;
    }
}

static uint64_t clock_counted_now(struct clock *base)
{
    struct clock_counted *clock = (struct clock_counted *)base;
    return clock->ns + (clock->count ? clock->count(clock->opaque) : 0);
}

void clock_counted_init(struct clock_counted *clock, uint64_t epoch_ns)
{
    clock->clock.now_ns = clock_counted_now;
    clock->clock.epoch_ns = epoch_ns;
    clock->ns = 0;
    clock->count = NULL;
    clock->opaque = NULL;
}

void clock_counted_advance(struct clock_counted *clock, uint64_t ns)
{
    clock->ns += ns;
}
