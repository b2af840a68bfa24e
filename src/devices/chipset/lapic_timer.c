// SPDX-License-Identifier: Apache-2.0
// The local APIC's timer: one-shot, periodic and TSC-deadline (SDM vol. 3, "APIC Timer").
//
// Rule to keep: a write looks at the clock once. What was due by then has fired (settle_at), and what
// comes is reckoned from the same moment (rearm_at): an expiry between two looks would be lost.
#include "devices/chipset/lapic_private.h"
#include "devices/chipset/timescale.h"

// While the deadline is far away, its conversion is repeated this often (a TSC may be rewritten).
#define DEADLINE_HORIZON_NS (UINT64_C(3600) * NS_PER_SECOND)

static uint64_t now_ns(const struct lapic *lapic)
{
    return clock_now(lapic->bus->timers->clock);
}

static unsigned divide_shift(const struct lapic *lapic)
{
    unsigned code = (lapic->divide & 3) | (lapic->divide >> 1 & 4);

    return (code + 1) & 7;
}

static uint64_t period_ns(const struct lapic *lapic)
{
    return (uint64_t)lapic->initial_count << divide_shift(lapic);
}

static uint64_t tsc_now(const struct lapic *lapic)
{
    return lapic->bus->ops.tsc ? lapic->bus->ops.tsc(lapic->bus->opaque, lapic->cpu) : 0;
}

static uint32_t count_at(const struct lapic *lapic, uint64_t now)
{
    uint32_t mode = LVT_TIMER_MODE(lapic->lvt[LAPIC_LVT_TIMER]);
    uint64_t elapsed = (now - lapic->timer_start) >> divide_shift(lapic);

    if (!lapic->initial_count || mode > TIMER_PERIODIC)
        return 0;
    if (mode == TIMER_PERIODIC)
        return lapic->initial_count - elapsed % lapic->initial_count;
    return elapsed < lapic->initial_count ? lapic->initial_count - elapsed : 0;
}

uint32_t lapic_timer_count(const struct lapic *lapic)
{
    return count_at(lapic, now_ns(lapic));
}

// When the timer expires next, or TIMER_NEVER. A masked timer runs without a host timer.
static uint64_t next_expiry(const struct lapic *lapic, uint64_t now)
{
    uint32_t lvt = lapic->lvt[LAPIC_LVT_TIMER];
    uint64_t period = period_ns(lapic);
    uint64_t after = now;

    if (lvt & LVT_MASKED)
        return TIMER_NEVER;
    switch (LVT_TIMER_MODE(lvt)) {
    case TIMER_ONE_SHOT:
        return period && now - lapic->timer_start < period ? lapic->timer_start + period
                                                           : TIMER_NEVER;
    case TIMER_PERIODIC:
        if (!period)
            return TIMER_NEVER;
        if (period < TIMER_MIN_PERIOD_NS)
            after += TIMER_MIN_PERIOD_NS;
        return after + period - (after - lapic->timer_start) % period;
    case TIMER_TSC_DEADLINE: {
        uint64_t tsc, delta;

        if (!lapic->tsc_deadline || !lapic->bus->tsc_hz)
            return TIMER_NEVER;
        tsc = tsc_now(lapic);
        if (tsc >= lapic->tsc_deadline)
            return now;
        delta = scale_up(lapic->tsc_deadline - tsc, NS_PER_SECOND, lapic->bus->tsc_hz);
        return now + (delta < DEADLINE_HORIZON_NS ? delta : DEADLINE_HORIZON_NS);
    }
    default:
        return TIMER_NEVER;
    }
}

static void rearm_at(struct lapic *lapic, uint64_t now)
{
    lapic->deadline = next_expiry(lapic, now);
    timer_arm_or_cancel(&lapic->timer, lapic->deadline);
}

void lapic_timer_rearm(struct lapic *lapic)
{
    rearm_at(lapic, now_ns(lapic));
}

void lapic_timer_fire(void *opaque)
{
    struct lapic *lapic = opaque;
    uint32_t lvt = lapic->lvt[LAPIC_LVT_TIMER];

    lapic->deadline = TIMER_NEVER;
    switch (LVT_TIMER_MODE(lvt)) {
    case TIMER_PERIODIC:
        lapic_timer_rearm(lapic);
        break;
    case TIMER_TSC_DEADLINE:
        if (tsc_now(lapic) < lapic->tsc_deadline) {
            // Converted too early (rounding, or the horizon): wait for the rest.
            uint64_t soonest = now_ns(lapic) + 100;

            lapic->deadline = next_expiry(lapic, now_ns(lapic));
            if (lapic->deadline < soonest)
                lapic->deadline = soonest;
            timer_arm_or_cancel(&lapic->timer, lapic->deadline);
            return;
        }
        lapic->tsc_deadline = 0;
        timer_cancel(&lapic->timer);
        break;
    default:
        timer_cancel(&lapic->timer);
        break;
    }
    if (!(lvt & LVT_MASKED))
        lapic_accept(lapic, lvt & LVT_VECTOR, false);
}

static void settle_at(struct lapic *lapic, uint64_t now)
{
    if (lapic->deadline != TIMER_NEVER && lapic->deadline <= now)
        lapic_timer_fire(lapic);
}

void lapic_timer_settle(struct lapic *lapic)
{
    settle_at(lapic, now_ns(lapic));
}

void lapic_timer_write_lvt(struct lapic *lapic, uint32_t value)
{
    uint32_t old = LVT_TIMER_MODE(lapic->lvt[LAPIC_LVT_TIMER]);
    bool masked = lapic->lvt[LAPIC_LVT_TIMER] & LVT_MASKED;
    uint64_t now = now_ns(lapic);

    settle_at(lapic, now);
    // A deadline that passed while the timer was masked is over. One that passes just now is not: it
    // fires after this write.
    if (masked && lapic->tsc_deadline && lapic_timer_read_deadline(lapic) == 0)
        lapic->tsc_deadline = 0;
    // "Transitioning between TSC-deadline mode and other timer modes also disarms the timer."
    if ((old == TIMER_TSC_DEADLINE) != (LVT_TIMER_MODE(value) == TIMER_TSC_DEADLINE)) {
        lapic->tsc_deadline = 0;
        lapic->initial_count = 0;
    }
    lapic->lvt[LAPIC_LVT_TIMER] = value;
    rearm_at(lapic, now);
}

void lapic_timer_write_count(struct lapic *lapic, uint32_t value)
{
    if (LVT_TIMER_MODE(lapic->lvt[LAPIC_LVT_TIMER]) == TIMER_TSC_DEADLINE)
        return;
    lapic->timer_start = now_ns(lapic);
    settle_at(lapic, lapic->timer_start);
    lapic->initial_count = value;
    rearm_at(lapic, lapic->timer_start); // a count shorter than this code takes still expires
}

void lapic_timer_write_divide(struct lapic *lapic, uint32_t value)
{
    uint64_t now = now_ns(lapic);
    uint32_t count;

    settle_at(lapic, now);
    // The count goes on from where it is, at the new rate.
    count = count_at(lapic, now);
    lapic->divide = value;
    lapic->timer_start = now - ((uint64_t)(lapic->initial_count - count) << divide_shift(lapic));
    rearm_at(lapic, now);
}

void lapic_timer_write_deadline(struct lapic *lapic, uint64_t value)
{
    if (LVT_TIMER_MODE(lapic->lvt[LAPIC_LVT_TIMER]) != TIMER_TSC_DEADLINE)
        return;
    lapic->tsc_deadline = value;
    lapic_timer_rearm(lapic);
    lapic_timer_settle(lapic); // already past
}

uint64_t lapic_timer_read_deadline(const struct lapic *lapic)
{
    if (!lapic->tsc_deadline || tsc_now(lapic) >= lapic->tsc_deadline)
        return 0;
    return lapic->tsc_deadline;
}

void lapic_tsc_changed(struct lapic *lapic)
{
    if (LVT_TIMER_MODE(lapic->lvt[LAPIC_LVT_TIMER]) != TIMER_TSC_DEADLINE)
        return;
    lapic_timer_rearm(lapic);
    lapic_timer_settle(lapic);
}
