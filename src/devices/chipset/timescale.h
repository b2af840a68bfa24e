// SPDX-License-Identifier: Apache-2.0
// Exact conversion between nanoseconds and ticks of a device's own oscillator, and the shortest
// period for which a device asks the host to wake up.
#pragma once

#include "base/timer.h"
#include "base/types.h"

#define NS_PER_SECOND UINT64_C(1000000000)

// A periodic timer that a guest programs to be faster than this still counts at its true rate, but
// calls back (and interrupts) only this often, in step with its true phase.
#define TIMER_MIN_PERIOD_NS UINT64_C(10000)

// value * mul / div, rounded down; the intermediate product does not overflow. div > 0. Saturates.
static inline uint64_t scale_down(uint64_t value, uint64_t mul, uint64_t div)
{
    unsigned __int128 result = (unsigned __int128)value * mul / div;
    return result > UINT64_MAX ? UINT64_MAX : (uint64_t)result;
}

// The same, rounded up.
static inline uint64_t scale_up(uint64_t value, uint64_t mul, uint64_t div)
{
    unsigned __int128 result = ((unsigned __int128)value * mul + div - 1) / div;
    return result > UINT64_MAX ? UINT64_MAX : (uint64_t)result;
}

// Arms for deadline_ns, or cancels for TIMER_NEVER.
static inline void timer_arm_or_cancel(struct timer *timer, uint64_t deadline_ns)
{
    if (deadline_ns == TIMER_NEVER)
        timer_cancel(timer);
    else
        timer_arm(timer, deadline_ns);
}
