// SPDX-License-Identifier: Apache-2.0
// What the files of the APIC guest share. Interrupts are only open inside of let_in(); each one is recorded and,
// unless `apic_keep` says otherwise, ended by EOI.
#pragma once

#include "lab.h"

enum {
    APIC_ID = 0x20,
    APIC_VERSION = 0x30,
    APIC_TPR = 0x80,
    APIC_PPR = 0xa0,
    APIC_EOI = 0xb0,
    APIC_LDR = 0xd0,
    APIC_DFR = 0xe0,
    APIC_SVR = 0xf0,
    APIC_ISR = 0x100,
    APIC_TMR = 0x180,
    APIC_IRR = 0x200,
    APIC_ESR = 0x280,
    APIC_ICR = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_THERMAL = 0x330,
    APIC_LVT_PERF = 0x340,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360,
    APIC_LVT_ERROR = 0x370,
    APIC_INITIAL = 0x380,
    APIC_CURRENT = 0x390,
    APIC_DIVIDE = 0x3e0
};
#define LVT_MASKED (1u << 16)
#define LVT_PERIODIC (1u << 17)
#define LVT_DEADLINE (2u << 17)
#define ICR_SELF (1u << 18)
#define MSR_APIC_BASE 0x1bu
#define MSR_DEADLINE 0x6e0u

static inline u32 apic_read(u32 reg)
{
    return *(volatile u32 *)(ulong)(0xfee00000u + reg);
}
static inline void apic_write(u32 reg, u32 v)
{
    *(volatile u32 *)(ulong)(0xfee00000u + reg) = v;
}
static inline bool apic_bit(u32 set, u32 vector)
{
    return apic_read(set + (vector >> 5) * 16) >> (vector & 31) & 1;
}

// Interrupts taken since apic_forget(), in order.
extern volatile u8 taken[64];
extern volatile u32 takens;
extern void (*volatile apic_inside)(u32 vector); // called in the handler, before EOI
extern bool apic_keep;                           // no EOI
void apic_forget(void);
void apic_self(u32 vector);
void let_in(void);            // a moment with interrupts open
bool let_in_until(u32 count); // until so many came; false: they do not
void pass_time(u32 microseconds_or_so);
bool apic_took(const char *what, u32 count, u8 vector); // exactly these, of one vector
void apic_plain(void); // enabled, nothing masked by priority, everything in the LVT masked

void apic_registers(void); // apic_local.c
void apic_priority(void);  // apic_local.c
void apic_errors(void);    // apic_local.c
void apic_timer(void);     // apic_timer.c
void apic_deadline(void);  // apic_timer.c
void apic_pic(void);       // apic_lines.c
void apic_io(void);        // apic_lines.c
void apic_modes(void);     // apic_modes.c
