// SPDX-License-Identifier: Apache-2.0
// Shared by the files of the local APIC: lapic.c (requests, priorities, EOI, pins), lapic_timer.c,
// lapic_regs.c (registers as memory and MSRs), lapic_bus.c (messages). See lapic.h.
#pragma once

#include "devices/chipset/lapic.h"

#define APIC_BASE_BSP (UINT64_C(1) << 8)
#define APIC_BASE_EXTD (UINT64_C(1) << 10)
#define APIC_BASE_EN (UINT64_C(1) << 11)
#define APIC_BASE_ADDRESS UINT64_C(0x000ffffffffff000)

#define LVT_VECTOR 0xffu
#define LVT_DELIVERY(lvt) ((lvt) >> 8 & 7)
#define LVT_REMOTE_IRR (1u << 14)
#define LVT_LEVEL (1u << 15)
#define LVT_MASKED (1u << 16)
#define LVT_TIMER_MODE(lvt) ((lvt) >> 17 & 3)
#define TIMER_ONE_SHOT 0
#define TIMER_PERIODIC 1
#define TIMER_TSC_DEADLINE 2

#define SVR_ENABLED (1u << 8)
#define SVR_NO_FOCUS (1u << 9)
#define SVR_NO_EOI_BROADCAST (1u << 12)
#define SVR_WRITABLE 0x13ffu

#define ESR_SEND_ILLEGAL 0x20u
#define ESR_RECEIVE_ILLEGAL 0x40u
#define ESR_ILLEGAL_REGISTER 0x80u

struct lapic_bus {
    struct lapic *lapics;
    unsigned count;
    struct lapic_ops ops;
    void *opaque;
    struct timer_queue *timers;
    uint64_t tsc_hz;
    struct lapic_window window; // FEE00000h
};

static inline bool vector_test(const uint32_t set[8], uint8_t vector)
{
    return set[vector >> 5] >> (vector & 31) & 1;
}

static inline void vector_set(uint32_t set[8], uint8_t vector)
{
    set[vector >> 5] |= 1u << (vector & 31);
}

static inline void vector_clear(uint32_t set[8], uint8_t vector)
{
    set[vector >> 5] &= ~(1u << (vector & 31));
}

// Highest vector in the set, or -1.
static inline int vector_highest(const uint32_t set[8])
{
    for (int i = 7; i >= 0; i--)
        if (set[i])
            return i * 32 + 31 - __builtin_clz(set[i]);
    return -1;
}

static inline bool lapic_software_enabled(const struct lapic *lapic)
{
    return lapic_enabled(lapic) && lapic->svr & SVR_ENABLED;
}

// After a change of who accepts which messages; last, when all state is consistent.
static inline void lapic_accepting(struct lapic *lapic)
{
    if (lapic->bus->ops.accepting)
        lapic->bus->ops.accepting(lapic->bus->opaque);
}

static inline void lapic_smi(struct lapic *lapic)
{
    if (lapic->bus->ops.smi)
        lapic->bus->ops.smi(lapic->bus->opaque, lapic->cpu);
}

// lapic.c
uint32_t lapic_ppr(const struct lapic *lapic);
uint32_t lapic_apr(const struct lapic *lapic);
uint32_t lapic_logical_id(const struct lapic *lapic); // as LDR reads in the current mode
bool lapic_accept(struct lapic *lapic, uint8_t vector, bool level); // fixed; false: refused
void lapic_error(struct lapic *lapic, uint32_t esr_bit);
void lapic_eoi(struct lapic *lapic);
void lapic_update(struct lapic *lapic); // after any change: is there something for the processor?
void lapic_lint_changed(struct lapic *lapic, unsigned pin); // after a write to its LVT entry
void lapic_reset_registers(struct lapic *lapic);            // what INIT resets
void lapic_window_update(struct lapic *lapic);              // after a change of `base`
bool lapic_set_base(struct lapic *lapic, uint64_t value);

// lapic_timer.c
void lapic_timer_fire(void *opaque);
void lapic_timer_settle(struct lapic *lapic); // runs a callback that is late
void lapic_timer_rearm(struct lapic *lapic);
uint32_t lapic_timer_count(const struct lapic *lapic);
void lapic_timer_write_lvt(struct lapic *lapic, uint32_t value);
void lapic_timer_write_count(struct lapic *lapic, uint32_t value);
void lapic_timer_write_divide(struct lapic *lapic, uint32_t value);
void lapic_timer_write_deadline(struct lapic *lapic, uint64_t value);
uint64_t lapic_timer_read_deadline(const struct lapic *lapic);

// lapic_bus.c
void lapic_send(struct lapic *lapic, uint32_t icr_low, uint32_t dest, bool wide);

// lapic_regs.c
extern const struct io_ops lapic_window_ops;
extern const uint32_t lapic_lvt_writable[LAPIC_LVT_COUNT];
