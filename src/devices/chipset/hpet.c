// SPDX-License-Identifier: Apache-2.0
// The high precision event timer: see hpet.h.
#include "devices/chipset/hpet.h"

#include "devices/chipset/timescale.h"
#include <stdlib.h>

// Registers.
#define REG_CAPABILITIES 0x000
#define REG_CONFIG 0x010
#define REG_STATUS 0x020
#define REG_COUNTER 0x0f0
#define REG_COMPARATORS 0x100 // 20h bytes each: configuration, comparator, FSB route

#define VENDOR UINT64_C(0x8086)
#define REVISION 1
#define CAP_COUNTER_64 (1u << 13)
#define CAP_LEGACY (1u << 15)

#define CONFIG_ENABLE 1u
#define CONFIG_LEGACY 2u

#define TN_LEVEL (1u << 1)
#define TN_INTERRUPT (1u << 2)
#define TN_PERIODIC (1u << 3)
#define TN_PERIODIC_CAP (1u << 4)
#define TN_SIZE_CAP (1u << 5)
#define TN_VAL_SET (1u << 6)
#define TN_32BIT (1u << 8)
#define TN_ROUTE(config) ((config) >> 9 & 31)
#define TN_ROUTE_MASK (31u << 9)
#define TN_WRITABLE (TN_LEVEL | TN_INTERRUPT | TN_PERIODIC | TN_VAL_SET | TN_32BIT | TN_ROUTE_MASK)

#define NO_MATCH UINT64_MAX
#define LEGACY_LINE 32

static uint64_t now_ns(const struct hpet *hpet)
{
    return clock_now(hpet->comparators[0].timer.queue->clock);
}

static bool running(const struct hpet *hpet)
{
    return hpet->config & CONFIG_ENABLE;
}

static uint64_t counter_at(const struct hpet *hpet, uint64_t ns)
{
    if (!running(hpet))
        return hpet->counter;
    return hpet->counter + (ns - hpet->started) / HPET_TICK_NS;
}

// When the running counter reaches a value that lies ahead.
static uint64_t counter_ns(const struct hpet *hpet, uint64_t value)
{
    uint64_t ticks = value - hpet->counter;

    if (ticks > (TIMER_NEVER - hpet->started) / HPET_TICK_NS - 1)
        return TIMER_NEVER;
    return hpet->started + ticks * HPET_TICK_NS;
}

static unsigned comparator_index(const struct hpet_comparator *c)
{
    return c - c->hpet->comparators;
}

static bool is_32bit(const struct hpet_comparator *c)
{
    return c->config & TN_32BIT;
}

static uint8_t comparator_line(const struct hpet_comparator *c)
{
    unsigned index = comparator_index(c);

    if (index < 2 && c->hpet->config & CONFIG_LEGACY)
        return LEGACY_LINE + index;
    return TN_ROUTE(c->config);
}

static void drive(struct hpet_comparator *c, bool level)
{
    struct hpet *hpet = c->hpet;

    if (c->driven >= LEGACY_LINE) {
        irq_set(&hpet->legacy[c->driven & 1], level);
    } else {
        struct irq_line line = hpet->route;

        line.number = c->driven;
        irq_set(&line, level);
    }
    c->asserted = level;
}

// Makes the line agree with a level-triggered comparator's status; releases a line that it has
// left.
static void comparator_update_line(struct hpet_comparator *c)
{
    uint8_t line = comparator_line(c);
    bool level = c->config & TN_LEVEL && c->config & TN_INTERRUPT &&
                 c->hpet->status >> comparator_index(c) & 1;

    if (c->asserted && (!level || c->driven != line)) {
        // An edge is held on a legacy line while the comparator goes on using it as such.
        if (c->driven == line && line >= LEGACY_LINE && !(c->config & TN_LEVEL) &&
            c->config & TN_INTERRUPT)
            return;
        drive(c, false);
    }
    c->driven = line;
    if (level && !c->asserted && (line >= LEGACY_LINE || c->hpet->routes >> line & 1))
        drive(c, true);
}

static void comparator_matched(struct hpet_comparator *c)
{
    uint8_t line = comparator_line(c);

    if (c->config & TN_LEVEL) {
        c->hpet->status |= UINT64_C(1) << comparator_index(c);
        comparator_update_line(c);
    } else if (c->config & TN_INTERRUPT) {
        comparator_update_line(c);
        if (line < LEGACY_LINE && !(c->hpet->routes >> line & 1))
            return;
        drive(c, false);
        drive(c, true);
        if (line < LEGACY_LINE)
            drive(c, false);
    }
}

// Works out the next match after `now` (a counter value) from the comparator register. A one-shot
// comparator that has just been passed waits for the counter to come around, as in hardware: guests
// check for it. A periodic one goes on with its next period: real hardware is never so late between
// a guest's two writes that a guest had reason to check.
static void comparator_find_match(struct hpet_comparator *c, uint64_t now)
{
    uint64_t match = c->value;

    if (is_32bit(c)) {
        match = now + (uint32_t)((uint32_t)c->value - (uint32_t)now);
        if (c->config & TN_PERIODIC && match - now >= UINT64_C(1) << 31)
            match -= UINT64_C(1) << 32;
        else if (match == now)
            match += UINT64_C(1) << 32;
    }
    if (c->config & TN_PERIODIC && c->period && (int64_t)(match - now) <= 0)
        match += ((now - match) / c->period + 1) * c->period;
    c->match = match > now ? match : NO_MATCH;
}

// Arms the host timer for the next match if somebody is interested.
static void comparator_rearm(struct hpet_comparator *c)
{
    struct hpet *hpet = c->hpet;

    c->deadline = TIMER_NEVER;
    if (running(hpet) && c->match != NO_MATCH && c->config & TN_INTERRUPT) {
        uint64_t soonest = now_ns(hpet) + TIMER_MIN_PERIOD_NS;

        c->deadline = counter_ns(hpet, c->match);
        if (c->config & TN_PERIODIC && c->period < TIMER_MIN_PERIOD_NS / HPET_TICK_NS &&
            c->deadline < soonest)
            c->deadline = soonest;
    }
    timer_arm_or_cancel(&c->timer, c->deadline);
}

// Processes every match up to `ns` (as one, when several were missed).
static void comparator_settle(struct hpet_comparator *c, uint64_t ns)
{
    uint64_t now = counter_at(c->hpet, ns);

    if (!running(c->hpet) || c->match > now)
        return;
    // A comparator whose period is too short for the host interrupts when its host timer says so.
    if (c->deadline != TIMER_NEVER && c->deadline > ns)
        return;
    if (c->config & TN_PERIODIC && c->period) {
        uint64_t periods = (now - c->match) / c->period + 1;

        c->match += periods * c->period;
        c->value = is_32bit(c) ? (uint32_t)c->match : c->match;
        if (c->match <= now) // wrapped: never again in this universe
            c->match = NO_MATCH;
    } else {
        comparator_find_match(c, now);
    }
    comparator_rearm(c);
    comparator_matched(c);
}

static void comparator_expired(void *opaque)
{
    struct hpet_comparator *c = opaque;

    c->deadline = TIMER_NEVER;
    comparator_settle(c, now_ns(c->hpet));
    // Nothing was due: the deadline was a relic (a snapshot from a clock that ran ahead).
    if (!timer_armed(&c->timer))
        comparator_rearm(c);
}

// An access looks at the clock once: here. What it does is reckoned from the moment that this returns;
// a match between two looks would be lost.
static uint64_t hpet_settle(struct hpet *hpet)
{
    uint64_t ns = now_ns(hpet);

    for (unsigned i = 0; i < hpet->count; i++)
        comparator_settle(&hpet->comparators[i], ns);
    return ns;
}

static void comparator_reprogrammed(struct hpet_comparator *c, uint64_t ns)
{
    comparator_find_match(c, counter_at(c->hpet, ns));
    comparator_rearm(c);
    comparator_update_line(c);
}

static void write_config(struct hpet *hpet, uint64_t value, uint64_t ns)
{
    uint64_t old = hpet->config;

    value &= CONFIG_ENABLE | CONFIG_LEGACY;
    if (value & ~old & CONFIG_ENABLE) {
        hpet->started = ns;
    } else if (old & ~value & CONFIG_ENABLE) {
        hpet->counter = counter_at(hpet, ns);
    }
    hpet->config = value;
    if ((value ^ old) & CONFIG_LEGACY) {
        // Release the lines before their other owners get them back, and take them after.
        bool on = value & CONFIG_LEGACY;

        if (on && hpet->legacy_changed)
            hpet->legacy_changed(hpet->opaque, true);
        for (unsigned i = 0; i < 2; i++)
            comparator_update_line(&hpet->comparators[i]);
        if (!on && hpet->legacy_changed)
            hpet->legacy_changed(hpet->opaque, false);
    }
    for (unsigned i = 0; i < hpet->count; i++)
        comparator_reprogrammed(&hpet->comparators[i], ns);
}

static void comparator_write_config(struct hpet_comparator *c, uint64_t value, uint64_t ns)
{
    uint64_t old = c->config;

    // A route that is not wired does not stick.
    if (!(c->hpet->routes >> TN_ROUTE(value) & 1))
        value = (value & ~(uint64_t)TN_ROUTE_MASK) | (old & TN_ROUTE_MASK);
    c->config = value & TN_WRITABLE;
    c->set_high = false;
    if (is_32bit(c)) {
        c->value = (uint32_t)c->value;
        c->period = (uint32_t)c->period;
    }
    if (!(c->config & TN_LEVEL))
        c->hpet->status &= ~(UINT64_C(1) << comparator_index(c));
    comparator_reprogrammed(c, ns);
}

// `mask` tells which bits of the register the access covers: a 32-bit half or all of it.
static void comparator_write_value(struct hpet_comparator *c, uint64_t value, uint64_t mask,
                                   uint64_t ns)
{
    bool low = mask & 1;
    bool set = low ? c->config & TN_VAL_SET : c->set_high || c->config & TN_VAL_SET;

    if (is_32bit(c)) {
        if (!low)
            return;
        value = (uint32_t)value;
        mask = UINT64_MAX;
    }
    // HPET 1.0a, 2.3.9.2.2: in periodic mode a write sets the period, and with Tn_VAL_SET_CNF the
    // accumulator too. The bit clears itself; a second 32-bit write to the high half still counts.
    if (c->config & TN_PERIODIC)
        c->period = (c->period & ~mask) | (value & mask);
    if (!(c->config & TN_PERIODIC) || set)
        c->value = (c->value & ~mask) | (value & mask);
    c->set_high = set && low && mask != UINT64_MAX;
    c->config &= ~(uint64_t)TN_VAL_SET;
    comparator_reprogrammed(c, ns);
}

static uint64_t register_read(struct hpet *hpet, uint64_t reg, uint64_t ns)
{
    const struct hpet_comparator *c;
    unsigned index;

    switch (reg) {
    case REG_CAPABILITIES:
        return HPET_PERIOD_FS << 32 | VENDOR << 16 | CAP_LEGACY | CAP_COUNTER_64 |
               (hpet->count - 1) << 8 | REVISION;
    case REG_CONFIG:
        return hpet->config;
    case REG_STATUS:
        return hpet->status;
    case REG_COUNTER:
        return counter_at(hpet, ns);
    default:
        index = (reg - REG_COMPARATORS) / 0x20;
        if (reg < REG_COMPARATORS || index >= hpet->count)
            return 0;
        c = &hpet->comparators[index];
        if ((reg & 0x1f) == 0)
            return (uint64_t)hpet->routes << 32 | c->config | TN_PERIODIC_CAP | TN_SIZE_CAP;
        return (reg & 0x1f) == 8 ? c->value : 0;
    }
}

static uint64_t hpet_read(void *opaque, uint64_t offset, unsigned size)
{
    struct hpet *hpet = opaque;

    uint64_t ns = hpet_settle(hpet);

    return register_read(hpet, offset & ~UINT64_C(7), ns) >> (offset & 7) * 8;
}

static void hpet_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct hpet *hpet = opaque;
    uint64_t reg = offset & ~UINT64_C(7);
    uint64_t mask = size == 8 ? UINT64_MAX : UINT64_C(0xffffffff) << (offset & 4) * 8;
    uint64_t ns;
    unsigned index;

    // Whole aligned halves only (HPET 1.0a, 2.3.1).
    if ((size != 4 && size != 8) || offset & (size - 1))
        return;
    ns = hpet_settle(hpet);
    if (size == 4)
        value = (value & 0xffffffff) << (offset & 4) * 8;
    switch (reg) {
    case REG_CONFIG:
        if (mask & 1)
            write_config(hpet, value, ns);
        break;
    case REG_STATUS:
        hpet->status &= ~value;
        for (unsigned i = 0; i < hpet->count; i++)
            comparator_update_line(&hpet->comparators[i]);
        break;
    case REG_COUNTER:
        if (running(hpet)) // to be written while halted only
            break;
        hpet->counter = (hpet->counter & ~mask) | (value & mask);
        for (unsigned i = 0; i < hpet->count; i++)
            comparator_reprogrammed(&hpet->comparators[i], ns);
        break;
    default:
        index = (reg - REG_COMPARATORS) / 0x20;
        if (reg < REG_COMPARATORS || index >= hpet->count)
            break;
        if ((reg & 0x1f) == 0 && mask & 1)
            comparator_write_config(&hpet->comparators[index], value, ns);
        else if ((reg & 0x1f) == 8)
            comparator_write_value(&hpet->comparators[index], value, mask, ns);
        break;
    }
}

static const struct io_ops hpet_ops = {.read = hpet_read, .write = hpet_write};

void hpet_region(struct hpet *hpet, struct io_region *region)
{
    *region = (struct io_region){"hpet", HPET_DEFAULT_BASE, HPET_WINDOW_SIZE, &hpet_ops, hpet};
}

bool hpet_legacy(const struct hpet *hpet)
{
    return hpet->config & CONFIG_LEGACY;
}

void hpet_reset(struct hpet *hpet)
{
    bool legacy = hpet->config & CONFIG_LEGACY;

    hpet->config = hpet->status = hpet->counter = hpet->started = 0;
    for (unsigned i = 0; i < HPET_TIMERS_MAX; i++) {
        struct hpet_comparator *c = &hpet->comparators[i];

        if (c->asserted)
            drive(c, false);
        c->config = 0;
        c->value = UINT64_MAX;
        c->period = 0;
        c->match = NO_MATCH;
        c->set_high = false;
        c->driven = 0;
        c->deadline = TIMER_NEVER;
        timer_cancel(&c->timer);
        // Starts on a route that exists.
        c->config = hpet->routes ? (unsigned)__builtin_ctz(hpet->routes) << 9 : 0;
        c->driven = TN_ROUTE(c->config);
    }
    if (legacy && hpet->legacy_changed)
        hpet->legacy_changed(hpet->opaque, false);
}

struct hpet *hpet_create(const struct hpet_config *config, struct error *err)
{
    struct hpet *hpet = calloc(1, sizeof(*hpet));

    if (!hpet) {
        error_set(err, ERROR_HOST, "out of memory for the event timer");
        return NULL;
    }
    hpet->count = config->count < 3                 ? 3
                  : config->count > HPET_TIMERS_MAX ? HPET_TIMERS_MAX
                                                    : config->count;
    hpet->routes = config->routes ? config->routes : 0x00f00000;
    hpet->route = config->route;
    hpet->legacy[0] = config->legacy[0];
    hpet->legacy[1] = config->legacy[1];
    hpet->legacy_changed = config->legacy_changed;
    hpet->opaque = config->opaque;
    for (unsigned i = 0; i < HPET_TIMERS_MAX; i++) {
        hpet->comparators[i].hpet = hpet;
        timer_init(&hpet->comparators[i].timer, config->timers, comparator_expired,
                   &hpet->comparators[i]);
    }
    hpet_reset(hpet);
    return hpet;
}

void hpet_destroy(struct hpet *hpet)
{
    if (!hpet)
        return;
    for (unsigned i = 0; i < HPET_TIMERS_MAX; i++)
        timer_fini(&hpet->comparators[i].timer);
    free(hpet);
}

// The VM's clock is restored before its devices.
static int hpet_post_load(void *object, struct error *err)
{
    struct hpet *hpet = object;

    if (hpet->config & ~(uint64_t)(CONFIG_ENABLE | CONFIG_LEGACY) || hpet->status >> hpet->count ||
        hpet->started > now_ns(hpet))
        return error_set(err, ERROR_INPUT, "hpet: impossible state");
    for (unsigned i = 0; i < HPET_TIMERS_MAX; i++) {
        struct hpet_comparator *c = &hpet->comparators[i];

        if (c->config & ~(uint64_t)TN_WRITABLE || c->driven > LEGACY_LINE + 1 ||
            !(hpet->routes >> TN_ROUTE(c->config) & 1) ||
            (i >= hpet->count && (c->config & TN_INTERRUPT || c->match != NO_MATCH)))
            return error_set(err, ERROR_INPUT, "hpet: comparator %u has an impossible state", i);
        timer_arm_or_cancel(&c->timer, c->deadline);
    }
    return 0;
}

static const struct state_field comparator_fields[] = {
    STATE_FIELD(struct hpet_comparator, config),
    STATE_FIELD(struct hpet_comparator, value),
    STATE_FIELD(struct hpet_comparator, period),
    STATE_FIELD(struct hpet_comparator, match),
    STATE_FIELD(struct hpet_comparator, deadline),
    STATE_FIELD(struct hpet_comparator, set_high),
    STATE_FIELD(struct hpet_comparator, asserted),
    STATE_FIELD(struct hpet_comparator, driven),
    STATE_TRANSIENT(struct hpet_comparator, hpet),
    STATE_TRANSIENT(struct hpet_comparator, timer),
    STATE_END,
};

static const struct state_field hpet_fields[] = {
    STATE_FIELD(struct hpet, config),
    STATE_FIELD(struct hpet, status),
    STATE_FIELD(struct hpet, counter),
    STATE_FIELD(struct hpet, started),
    STATE_STRUCT(struct hpet, comparators, struct hpet_comparator, comparator_fields),
    STATE_TRANSIENT(struct hpet, count),
    STATE_TRANSIENT(struct hpet, routes),
    STATE_TRANSIENT(struct hpet, route),
    STATE_TRANSIENT(struct hpet, legacy),
    STATE_TRANSIENT(struct hpet, legacy_changed),
    STATE_TRANSIENT(struct hpet, opaque),
    STATE_END,
};

const struct state_desc hpet_state = {
    .name = "hpet",
    .version = 1,
    .size = sizeof(struct hpet),
    .fields = hpet_fields,
    .post_load = hpet_post_load,
};
