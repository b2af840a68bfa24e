// SPDX-License-Identifier: Apache-2.0
// Deadlines on the VM's clock. A device arms a timer; whoever owns the queue (the I/O thread, or a test)
// runs what is due. Arm and cancel may be called from any thread; callbacks run under the queue owner's
// `run` call, with the queue unlocked, so they may arm and cancel freely.
//
// Rule: devices arm, cancel and receive callbacks with the board lock held (memory_lock), so a callback
// never races with a register access. The I/O thread takes the board lock around timer_queue_run().
#pragma once

#include "base/clock.h"
#include "base/types.h"
#include <pthread.h>

struct timer;
typedef void (*timer_fn)(void *opaque);

#define TIMER_NEVER UINT64_MAX

struct timer_queue {
    struct clock *clock;
    pthread_mutex_t lock;
    struct timer **heap; // binary min-heap by deadline
    size_t count, capacity;
    // Called (any thread, queue locked) when the earliest deadline moved forward: wake the owner.
    void (*rearmed)(void *opaque, uint64_t deadline_ns);
    void *rearmed_opaque;
};

struct timer {
    struct timer_queue *queue;
    timer_fn fn;
    void *opaque;
    uint64_t deadline_ns; // TIMER_NEVER when not armed
    size_t heap_index;
};

void timer_queue_init(struct timer_queue *queue, struct clock *clock);
void timer_queue_destroy(struct timer_queue *queue);
// Runs every timer whose deadline is <= now; returns the next deadline or TIMER_NEVER.
uint64_t timer_queue_run(struct timer_queue *queue);
uint64_t timer_queue_next(struct timer_queue *queue);

// Registers the timer with the queue (reserving its heap slot, so that timer_arm cannot fail).
void timer_init(struct timer *timer, struct timer_queue *queue, timer_fn fn, void *opaque);
void timer_fini(struct timer *timer);
// Absolute deadline in nanoseconds of the queue's clock; arming an armed timer moves it.
void timer_arm(struct timer *timer, uint64_t deadline_ns);
void timer_cancel(struct timer *timer);
static inline bool timer_armed(const struct timer *timer)
{
    return timer->deadline_ns != TIMER_NEVER;
}
