// SPDX-License-Identifier: Apache-2.0
// The 8254: see pit.h. Modes (datasheet, "Mode Definitions"): 0 interrupt on terminal count, 1
// one-shot started by the gate, 2 rate generator, 3 square wave, 4 strobe started by software, 5 by
// the gate.
#include "devices/chipset/pit.h"

#include "devices/chipset/timescale.h"
#include <stdlib.h>

#define READ_BACK_NO_COUNT 0x20
#define READ_BACK_NO_STATUS 0x10
#define STATUS_OUT 0x80
#define STATUS_NULL 0x40

#define PORT61_GATE 0x01
#define PORT61_WRITABLE 0x0f
#define PORT61_REFRESH 0x10
#define PORT61_OUT2 0x20
#define REFRESH_TICKS 18 // channel 1's customary count: a DRAM refresh every 15 us

static uint64_t tick_now(struct pit *pit)
{
    return scale_down(clock_now(pit->timer.queue->clock), PIT_HZ, NS_PER_SECOND);
}

// The first nanosecond of a tick.
static uint64_t tick_ns(uint64_t tick)
{
    return scale_up(tick, NS_PER_SECOND, PIT_HZ);
}

static bool mode_periodic(const struct pit_channel *ch)
{
    return ch->mode == 2 || ch->mode == 3;
}

// Whether tick a comes before tick b. `start` may lie before power-on (a half period is reckoned back to
// where its period would have begun), so ticks are compared by their distance.
static bool tick_before(uint64_t a, uint64_t b)
{
    return (int64_t)(a - b) < 0;
}

// Ticks counted so far; 0 until the count is loaded.
static uint64_t channel_elapsed(const struct pit_channel *ch, uint64_t now)
{
    if (ch->stopped)
        return ch->frozen;
    return tick_before(ch->start, now) ? now - ch->start : 0;
}

// Length of the high half of a square wave.
static uint64_t square_high(uint64_t count)
{
    return (count + 1) / 2;
}

// Puts a new count of a periodic mode into effect once the old period (mode 3: half period) is
// over.
static void channel_settle(struct pit_channel *ch, uint64_t now)
{
    bool low_half;

    if (!ch->has_next || !ch->counting || !mode_periodic(ch) || ch->stopped || now < ch->swap)
        return;
    // Which half ended at `swap`? When it was the high one, the new count serves the low one first.
    low_half = ch->mode == 3 && (ch->swap - ch->start) % ch->count != 0;
    ch->count = ch->next;
    ch->has_next = false;
    ch->start = ch->swap - (low_half ? square_high(ch->count) : 0);
}

// Level of OUT.
static bool channel_out(const struct pit_channel *ch, uint64_t now)
{
    uint64_t elapsed = channel_elapsed(ch, now);

    if (!ch->counting)
        return ch->mode != 0;
    switch (ch->mode) {
    case 0:
        return elapsed >= ch->count;
    case 1:
        return tick_before(now, ch->start) || elapsed >= ch->count;
    case 2:
        return ch->stopped || elapsed % ch->count != ch->count - 1 || ch->count == 1;
    case 3:
        return ch->stopped || elapsed % ch->count < square_high(ch->count);
    default:
        return elapsed != ch->count;
    }
}

static uint16_t to_bcd(uint32_t value)
{
    return value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 | value / 1000 % 10 << 12;
}

static uint32_t from_bcd(uint32_t value)
{
    return (value & 15) + (value >> 4 & 15) * 10 + (value >> 8 & 15) * 100 +
           (value >> 12 & 15) * 1000;
}

// What the counting element reads as.
static uint16_t channel_count(const struct pit_channel *ch, uint64_t now)
{
    uint32_t modulus = ch->bcd ? 10000 : 65536;
    uint64_t elapsed = channel_elapsed(ch, now);
    uint64_t count = ch->count;
    uint64_t value;

    if (ch->mode == 3) {
        // Counts by two, twice per period; an odd count loses its lowest bit at each reload.
        uint64_t phase = elapsed % count;
        uint64_t high = square_high(count);

        value = (count & ~UINT64_C(1)) - 2 * (phase < high ? phase : phase - high);
    } else if (ch->mode == 2) {
        value = count - elapsed % count;
    } else {
        value = count + modulus - elapsed % modulus;
    }
    value %= modulus;
    return ch->bcd ? to_bcd(value) : value;
}

// The tick of the first rising edge of OUT after `now`, or TIMER_NEVER.
static uint64_t channel_next_rise(const struct pit_channel *ch, uint64_t now)
{
    uint64_t start = ch->start;
    uint64_t count = ch->count;
    uint64_t rise;

    if (!ch->counting || ch->stopped)
        return TIMER_NEVER;
    switch (ch->mode) {
    case 0:
    case 1:
        rise = start + count;
        return tick_before(now, rise) ? rise : TIMER_NEVER;
    case 2:
    case 3:
        if (ch->has_next) {
            // A new count is waiting: the edge at which it takes over, or, if that one falls, the
            // end of the low half that it then times.
            bool high_ends = ch->mode == 3 && (ch->swap - start) % count != 0;

            return ch->swap + (high_ends ? ch->next / 2 : 0);
        }
        return tick_before(now, start) ? start + count
                                       : start + ((now - start) / count + 1) * count;
    default:
        rise = start + count + 1;
        return tick_before(now, rise) ? rise : TIMER_NEVER;
    }
}

// Arms the host timer for channel 0's first rising edge after `now`: the moment that everything else
// was reckoned from. An edge between two looks at the clock would be lost.
static void pit_rearm(struct pit *pit, uint64_t now)
{
    struct pit_channel *ch = &pit->ch[0];
    uint64_t now_ns = clock_now(pit->timer.queue->clock);
    uint64_t rise = channel_next_rise(ch, now);

    // Too fast for the host: interrupt on every nth edge only.
    if (mode_periodic(ch) && rise != TIMER_NEVER && !ch->has_next &&
        tick_ns(ch->count) < TIMER_MIN_PERIOD_NS)
        rise =
            channel_next_rise(ch, scale_down(now_ns + TIMER_MIN_PERIOD_NS, PIT_HZ, NS_PER_SECOND));
    pit->deadline = rise == TIMER_NEVER ? TIMER_NEVER : tick_ns(rise);
    timer_arm_or_cancel(&pit->timer, pit->deadline);
}

static void pit_rise(void *opaque)
{
    struct pit *pit = opaque;
    uint64_t now = tick_now(pit);

    channel_settle(&pit->ch[0], now);
    irq_set(&pit->irq, false);
    irq_set(&pit->irq, true);
    pit_rearm(pit, now);
}

// Brings everything up to now before a register is looked at: an edge whose callback is late
// happens first.
static uint64_t pit_settle(struct pit *pit)
{
    uint64_t now_ns = clock_now(pit->timer.queue->clock);
    uint64_t now = scale_down(now_ns, PIT_HZ, NS_PER_SECOND);

    if (pit->deadline <= now_ns)
        pit_rise(pit);
    for (unsigned i = 0; i < PIT_CHANNELS; i++)
        channel_settle(&pit->ch[i], now);
    return now;
}

// Channel 0 was programmed: its line follows OUT at once.
static void pit_programmed(struct pit *pit, unsigned channel, uint64_t now)
{
    if (channel != 0)
        return;
    irq_set(&pit->irq, channel_out(&pit->ch[0], now));
    pit_rearm(pit, now);
}

// Loads the counting element at the next tick.
static void channel_load(struct pit_channel *ch, uint32_t count, uint64_t now)
{
    ch->count = count;
    ch->has_next = false;
    ch->counting = true;
    ch->start = now + 1;
    ch->frozen = 0;
    ch->stopped = !ch->gate && ch->mode != 1 && ch->mode != 5;
}

static void channel_write_count(struct pit_channel *ch, uint16_t raw, uint64_t now)
{
    uint32_t count = ch->bcd ? from_bcd(raw) : raw;

    if (!count)
        count = ch->bcd ? 10000 : 65536;
    ch->next = count;
    ch->has_next = true;
    if (ch->mode == 0 || ch->mode == 4 || (mode_periodic(ch) && (!ch->counting || ch->stopped))) {
        channel_load(ch, count, now);
    } else if (mode_periodic(ch)) {
        uint64_t elapsed = channel_elapsed(ch, now);
        uint64_t phase = elapsed % ch->count;
        uint64_t high = square_high(ch->count);

        // Before the first load, the new count replaces the old one at that load.
        if (tick_before(now, ch->start))
            ch->swap = ch->start;
        else
            ch->swap = now - phase + (ch->mode == 3 && phase < high ? high : ch->count);
    }
    // Modes 1 and 5 wait for the gate.
}

static void channel_write(struct pit_channel *ch, uint8_t value, uint64_t now)
{
    switch (ch->access) {
    case 1:
        channel_write_count(ch, value, now);
        break;
    case 2:
        channel_write_count(ch, value << 8, now);
        break;
    default:
        if (!ch->write_high) {
            ch->low = value;
            ch->write_high = true;
            // Mode 0: the first byte stops the count and OUT is low until the second.
            if (ch->mode == 0) {
                ch->counting = false;
                ch->frozen = 0;
            }
        } else {
            ch->write_high = false;
            channel_write_count(ch, value << 8 | ch->low, now);
        }
        break;
    }
}

static uint8_t channel_read(struct pit_channel *ch, uint64_t now)
{
    uint16_t value;
    bool high;

    if (ch->has_status) {
        ch->has_status = false;
        return ch->status;
    }
    if (ch->latched) {
        high = !(ch->latched & 1);
        ch->latched &= high ? 0 : 2;
        value = ch->latch;
    } else {
        value = channel_count(ch, now);
        high = ch->access == 2 || (ch->access == 3 && ch->read_high);
    }
    if (ch->access == 3)
        ch->read_high = !high;
    return high ? value >> 8 : value;
}

static void channel_latch_count(struct pit_channel *ch, uint64_t now)
{
    if (ch->latched)
        return;
    ch->latch = channel_count(ch, now);
    ch->latched = ch->access;
    // A latch between the two reads of a live count goes on with the high byte.
    if (ch->access == 3 && ch->read_high)
        ch->latched = 2;
}

static void channel_latch_status(struct pit_channel *ch, uint64_t now)
{
    bool null;

    if (ch->has_status)
        return;
    null = ch->has_next || !ch->counting || (!ch->stopped && tick_before(now, ch->start));
    ch->status = (channel_out(ch, now) ? STATUS_OUT : 0) | (null ? STATUS_NULL : 0) |
                 ch->access << 4 | ch->mode << 1 | ch->bcd;
    ch->has_status = true;
}

static void channel_set_mode(struct pit_channel *ch, uint8_t value)
{
    uint8_t mode = value >> 1 & 7;

    ch->mode = mode > 5 ? mode - 4 : mode;
    ch->access = value >> 4 & 3;
    ch->bcd = value & 1;
    ch->counting = false;
    ch->stopped = false;
    ch->has_next = false;
    ch->write_high = false;
    ch->read_high = false;
    ch->latched = 0;
    ch->has_status = false;
}

static void channel_set_gate(struct pit_channel *ch, bool gate, uint64_t now)
{
    bool rise = gate && !ch->gate;

    if (gate == ch->gate)
        return;
    ch->gate = gate;
    switch (ch->mode) {
    case 0:
    case 4:
        if (!ch->counting)
            break;
        if (rise) {
            ch->start = now + 1 - ch->frozen;
            ch->stopped = false;
        } else {
            ch->frozen = channel_elapsed(ch, now);
            ch->stopped = true;
        }
        break;
    case 2:
    case 3:
        if (!ch->counting)
            break;
        if (rise) {
            channel_load(ch, ch->has_next ? ch->next : ch->count, now);
        } else {
            ch->frozen = channel_elapsed(ch, now);
            ch->stopped = true;
        }
        break;
    default:
        if (rise && (ch->counting || ch->has_next))
            channel_load(ch, ch->has_next ? ch->next : ch->count, now);
        break;
    }
}

static void pit_control(struct pit *pit, uint8_t value)
{
    uint64_t now = pit_settle(pit);
    unsigned select = value >> 6;

    if (select == 3) {
        for (unsigned i = 0; i < PIT_CHANNELS; i++) {
            if (!(value & 2u << i))
                continue;
            if (!(value & READ_BACK_NO_COUNT))
                channel_latch_count(&pit->ch[i], now);
            if (!(value & READ_BACK_NO_STATUS))
                channel_latch_status(&pit->ch[i], now);
        }
    } else if (!(value & 0x30)) {
        channel_latch_count(&pit->ch[select], now);
    } else {
        channel_set_mode(&pit->ch[select], value);
        pit_programmed(pit, select, now);
    }
}

static uint64_t pit_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pit *pit = opaque;

    if (offset >= PIT_CHANNELS)
        return 0xff; // the control word cannot be read
    return channel_read(&pit->ch[offset], pit_settle(pit));
}

static void pit_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pit *pit = opaque;

    if (offset >= PIT_CHANNELS) {
        pit_control(pit, value);
        return;
    }
    uint64_t now = pit_settle(pit);
    channel_write(&pit->ch[offset], value, now);
    pit_programmed(pit, offset, now);
}

static uint64_t port61_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pit *pit = opaque;
    uint64_t now = pit_settle(pit);

    return pit->port61 | (now / REFRESH_TICKS & 1 ? PORT61_REFRESH : 0) |
           (channel_out(&pit->ch[2], now) ? PORT61_OUT2 : 0);
}

static void port61_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pit *pit = opaque;
    uint64_t now = pit_settle(pit);

    pit->port61 = value & PORT61_WRITABLE;
    channel_set_gate(&pit->ch[2], value & PORT61_GATE, now);
}

bool pit_output(struct pit *pit, unsigned channel)
{
    uint64_t now = pit_settle(pit);

    return channel < PIT_CHANNELS && channel_out(&pit->ch[channel], now);
}

static const struct io_ops pit_ops = {.read = pit_read, .write = pit_write, .max_size = 1};
static const struct io_ops port61_ops = {.read = port61_read, .write = port61_write, .max_size = 1};

void pit_regions(struct pit *pit, struct io_region regions[PIT_REGIONS])
{
    regions[0] = (struct io_region){"pit", 0x40, 4, &pit_ops, pit};
    regions[1] = (struct io_region){"port61", 0x61, 1, &port61_ops, pit};
}

void pit_reset(struct pit *pit)
{
    for (unsigned i = 0; i < PIT_CHANNELS; i++)
        // The datasheet leaves the state undefined; this is a channel that waits for its first
        // count.
        pit->ch[i] = (struct pit_channel){.count = 65536, .access = 3, .mode = 3, .gate = i != 2};
    pit->port61 = 0;
    pit->deadline = TIMER_NEVER;
    timer_cancel(&pit->timer);
    irq_set(&pit->irq, false);
}

struct pit *pit_create(const struct pit_config *config, struct error *err)
{
    struct pit *pit = calloc(1, sizeof(*pit));

    if (!pit) {
        error_set(err, ERROR_HOST, "out of memory for the interval timer");
        return NULL;
    }
    pit->irq = config->irq;
    timer_init(&pit->timer, config->timers, pit_rise, pit);
    pit_reset(pit);
    return pit;
}

void pit_destroy(struct pit *pit)
{
    if (!pit)
        return;
    timer_fini(&pit->timer);
    free(pit);
}

// The VM's clock is restored before its devices.
static int pit_post_load(void *object, struct error *err)
{
    struct pit *pit = object;
    uint64_t now = tick_now(pit);

    for (unsigned i = 0; i < PIT_CHANNELS; i++) {
        const struct pit_channel *ch = &pit->ch[i];

        if (ch->mode > 5 || ch->access < 1 || ch->access > 3 || ch->latched > 3 || !ch->count ||
            ch->count > 65536 || (ch->has_next && (!ch->next || ch->next > 65536)))
            return error_set(err, ERROR_INPUT, "pit: channel %u has an impossible state", i);
        if (tick_before(now + 1, ch->start) || ch->frozen > now || ch->swap > now + 1 + 2 * 65536)
            return error_set(err, ERROR_INPUT, "pit: channel %u counts from the future", i);
    }
    pit->port61 &= PORT61_WRITABLE;
    timer_arm_or_cancel(&pit->timer, pit->deadline);
    return 0;
}

static const struct state_field channel_fields[] = {
    STATE_FIELD(struct pit_channel, start),      STATE_FIELD(struct pit_channel, swap),
    STATE_FIELD(struct pit_channel, frozen),     STATE_FIELD(struct pit_channel, count),
    STATE_FIELD(struct pit_channel, next),       STATE_FIELD(struct pit_channel, mode),
    STATE_FIELD(struct pit_channel, access),     STATE_FIELD(struct pit_channel, bcd),
    STATE_FIELD(struct pit_channel, gate),       STATE_FIELD(struct pit_channel, counting),
    STATE_FIELD(struct pit_channel, stopped),    STATE_FIELD(struct pit_channel, has_next),
    STATE_FIELD(struct pit_channel, write_high), STATE_FIELD(struct pit_channel, read_high),
    STATE_FIELD(struct pit_channel, low),        STATE_FIELD(struct pit_channel, latched),
    STATE_FIELD(struct pit_channel, has_status), STATE_FIELD(struct pit_channel, status),
    STATE_FIELD(struct pit_channel, latch),      STATE_END,
};

static const struct state_field pit_fields[] = {
    STATE_STRUCT(struct pit, ch, struct pit_channel, channel_fields),
    STATE_FIELD(struct pit, deadline),
    STATE_FIELD(struct pit, port61),
    STATE_TRANSIENT(struct pit, timer),
    STATE_TRANSIENT(struct pit, irq),
    STATE_END,
};

const struct state_desc pit_state = {
    .name = "pit",
    .version = 1,
    .size = sizeof(struct pit),
    .fields = pit_fields,
    .post_load = pit_post_load,
};
