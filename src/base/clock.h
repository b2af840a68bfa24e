// SPDX-License-Identifier: Apache-2.0
// The VM's clock: the only source of time a device or the processor may read. It can be stopped (pause,
// snapshot), and it can count instructions instead of nanoseconds of the host (deterministic runs).
#pragma once

#include "base/types.h"

struct clock {
    // Nanoseconds since the VM was powered on, monotonic, thread-safe.
    uint64_t (*now_ns)(struct clock *clock);
    // Wall-clock time as nanoseconds since 1970 UTC that corresponds to now_ns() == 0.
    uint64_t epoch_ns;
};

static inline uint64_t clock_now(struct clock *clock)
{
    return clock->now_ns(clock);
}

// Real time: follows the host's CLOCK_MONOTONIC while running, stands still while stopped.
struct clock_real {
    struct clock clock;
    _Atomic int64_t offset_ns; // now = host monotonic + offset while running
    _Atomic uint64_t stopped_at;
    _Atomic bool running;
};
void clock_real_init(struct clock_real *clock); // starts running at 0, epoch from the host's clock
void clock_real_stop(struct clock_real *clock);
void clock_real_start(struct clock_real *clock);

// Counted time: advances only when told to (an idle processor's leap, a test), and by one nanosecond for
// each unit of `count`, when that is set: instructions, in deterministic runs.
struct clock_counted {
    struct clock clock;
    _Atomic uint64_t ns;
    uint64_t (*count)(void *opaque); // never goes back but together with an advance; may be NULL
    void *opaque;
};
void clock_counted_init(struct clock_counted *clock, uint64_t epoch_ns);
void clock_counted_advance(struct clock_counted *clock, uint64_t ns);
