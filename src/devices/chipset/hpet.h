// SPDX-License-Identifier: Apache-2.0
// The high precision event timer at FED00000h: a 64-bit counter at 100 MHz and comparators, each
// one-shot or periodic, level or edge, 64 or 32 bits wide. Source: IA-PC HPET specification 1.0a.
// The FSB (message) route is not offered.
//
// Rules to keep:
//  - Nothing ticks: the counter is computed from the VM's clock. Only a comparator whose interrupt
//    is enabled arms a host timer; for the others, passed matches are worked out when somebody
//    looks.
//  - An edge on a legacy-replacement line is held until just before the next (an 8259 forgets what
//    is withdrawn); on other lines, which devices may share, it is a pulse.
#pragma once

#include "base/state.h"
#include "base/timer.h"
#include "devices/irq.h"
#include "memory/memory.h"

#define HPET_DEFAULT_BASE UINT64_C(0xfed00000)
#define HPET_WINDOW_SIZE 0x400
#define HPET_PERIOD_FS UINT64_C(10000000) // 10 ns
#define HPET_TICK_NS 10
#define HPET_TIMERS_MAX 8

struct hpet_comparator {
    uint64_t config;
    uint64_t value;    // the comparator register (in periodic mode, the accumulator)
    uint64_t period;   // periodic mode
    uint64_t match;    // counter value of the next match, UINT64_MAX: none
    uint64_t deadline; // of the host timer, TIMER_NEVER: none
    bool set_high;     // the low half was written under Tn_VAL_SET_CNF, the high half follows
    bool asserted;     // the line `driven` is high
    uint8_t driven;    // line last driven: 0-31 a route, 32 + n legacy line n

    struct hpet *hpet;
    struct timer timer;
};

struct hpet {
    uint64_t config;
    uint64_t status;
    uint64_t counter; // while halted; else the value at `started`
    uint64_t started; // nanoseconds
    struct hpet_comparator comparators[HPET_TIMERS_MAX];

    unsigned count;
    uint32_t routes;
    struct irq_line route, legacy[2];
    void (*legacy_changed)(void *opaque, bool on);
    void *opaque;
};

struct hpet_config {
    struct timer_queue *timers;
    unsigned count;  // comparators, 3 to HPET_TIMERS_MAX; 0 means 3
    uint32_t routes; // I/O APIC pins that a comparator may use; 0 means 20-23
    // Called with number = the I/O APIC pin.
    struct irq_line route;
    // Legacy replacement: comparator 0 (IRQ 0; I/O APIC pin 2) and 1 (IRQ 8).
    struct irq_line legacy[2];
    // Legacy replacement was switched: while on, the PIT and the RTC must not drive IRQ 0 and 8.
    // May be NULL.
    void (*legacy_changed)(void *opaque, bool on);
    void *opaque;
};

struct hpet *hpet_create(const struct hpet_config *config, struct error *err);
void hpet_destroy(struct hpet *hpet);
void hpet_reset(struct hpet *hpet);
bool hpet_legacy(const struct hpet *hpet); // legacy replacement is on

// The memory region to register.
void hpet_region(struct hpet *hpet, struct io_region *region);

extern const struct state_desc hpet_state;
