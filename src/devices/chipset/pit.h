// SPDX-License-Identifier: Apache-2.0
// The Intel 8254 interval timer at ports 40h-43h and system control port B (61h), through which a
// PC gates its third channel and listens to its output. Source: Intel 8254 datasheet (231164), ICH
// datasheet for port 61h.
//
// Rules to keep:
//  - Nothing ticks: a channel keeps the clock tick at which its count was loaded, and every output
//    and count is computed from the time that passed. Channel 0 alone arms a host timer, for its
//    next rising edge.
//  - A tick is 1/1193182 s of the VM's clock, counted from power-on, so phases are exact for ever.
//  - The interrupt line is held from a rising edge until just before the next one: an
//    edge-triggered 8259 forgets a request that is withdrawn.
#pragma once

#include "base/state.h"
#include "base/timer.h"
#include "devices/irq.h"
#include "memory/memory.h"

#define PIT_HZ UINT64_C(1193182)
#define PIT_CHANNELS 3
#define PIT_REGIONS 2

struct pit_channel {
    uint64_t start;  // tick at which the counting element was loaded
    uint64_t swap;   // tick at which `next` replaces `count` (modes 2 and 3)
    uint64_t frozen; // ticks counted when the gate (or a half-written count) stopped it
    uint32_t count;  // initial count in effect, 1 to 65536 (10000 in BCD)
    uint32_t next;   // initial count written and not yet in effect
    uint8_t mode;    // 0 to 5
    uint8_t access;  // 1 low byte, 2 high byte, 3 low then high
    bool bcd;
    bool gate;
    bool counting;   // a count was loaded since the mode was set
    bool stopped;    // time does not pass for the count: `frozen` holds
    bool has_next;   // `next` is valid
    bool write_high; // the next byte written is the high one
    bool read_high;  // the next byte read is the high one
    uint8_t low;     // low byte written
    uint8_t latched; // bytes of `latch` still to be read (bit 0 low, bit 1 high)
    bool has_status; // `status` is to be read first
    uint8_t status;
    uint16_t latch;
};

struct pit {
    struct pit_channel ch[PIT_CHANNELS];
    uint64_t deadline; // of channel 0's next rising edge, in nanoseconds; TIMER_NEVER: none
    uint8_t port61;    // bits 0-3 as written
    struct timer timer;
    struct irq_line irq;
};

struct pit_config {
    struct timer_queue *timers;
    struct irq_line irq; // channel 0: IRQ 0
};

struct pit *pit_create(const struct pit_config *config, struct error *err);
void pit_destroy(struct pit *pit);
void pit_reset(struct pit *pit);

// The port regions to register: 40h-43h and 61h.
void pit_regions(struct pit *pit, struct io_region regions[PIT_REGIONS]);

// Level of a channel's OUT now, and whether the speaker would sound it (port 61h bit 1).
bool pit_output(struct pit *pit, unsigned channel);
static inline bool pit_speaker_enabled(const struct pit *pit)
{
    return pit->port61 & 2;
}

extern const struct state_desc pit_state;
