// SPDX-License-Identifier: Apache-2.0
// A platform on which nothing happens: no interrupt, time zero, no MSR of the board. Tests replace the
// members that they are about.
#pragma once

#include "x86/platform.h"

static inline int quiet_intr_ack(void *opaque)
{
    return -1;
}
static inline uint64_t quiet_tsc(void *opaque)
{
    return 0;
}
static inline uint8_t quiet_get_cr8(void *opaque)
{
    return 0;
}
static inline void quiet_set_cr8(void *opaque, uint8_t cr8)
{
}
static inline bool quiet_msr_read(void *opaque, uint32_t msr, uint64_t *value)
{
    return false;
}
static inline bool quiet_msr_write(void *opaque, uint32_t msr, uint64_t value)
{
    return false;
}
static inline uint64_t quiet_hypercall(void *opaque, uint64_t nr, const uint64_t args[4])
{
    return 0;
}
static inline void quiet_ferr(void *opaque, bool level)
{
}
static inline bool quiet_apic_enabled(void *opaque)
{
    return true;
}

// One processor whose time-stamp counter is said to run at 1 GHz.
static inline struct x86_platform quiet_platform(void)
{
    return (struct x86_platform){.intr_ack = quiet_intr_ack,
                                 .tsc = quiet_tsc,
                                 .tsc_hz = 1000000000,
                                 .get_cr8 = quiet_get_cr8,
                                 .set_cr8 = quiet_set_cr8,
                                 .msr_read = quiet_msr_read,
                                 .msr_write = quiet_msr_write,
                                 .hypercall = quiet_hypercall,
                                 .ferr = quiet_ferr,
                                 .cpu_count = 1,
                                 .apic_enabled = quiet_apic_enabled};
}
