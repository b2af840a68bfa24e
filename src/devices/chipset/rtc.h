// SPDX-License-Identifier: Apache-2.0
// The real-time clock and CMOS memory of a PC: a Motorola MC146818 with 128 bytes behind ports
// 70h/71h (MC146818A data sheet; Intel 82371AB PIIX4 data sheet section 9 for the PC's use of it).
//
// Wall time is the VM clock's epoch plus its time plus an offset that the guest sets by writing the
// time registers. Nothing ticks while nobody looks: flags that time has raised are worked out when
// register C is read, and a timer is armed only for interrupts that are enabled.
//
// Rules to keep: every call with the board lock held; the time registers live in `cmos` only while
// they are frozen (register B SET, or the divider not running); otherwise they are derived from
// time.
#pragma once

#include "base/state.h"
#include "base/timer.h"
#include "devices/irq.h"
#include "memory/memory.h"

#define RTC_CMOS_SIZE 128

struct rtc_config {
    struct timer_queue *timers;
    struct irq_line irq; // IRQ8; active while register C shows IRQF
    // Bit 7 of port 70h changed: true masks NMI. May be NULL.
    void (*nmi_mask)(void *opaque, bool masked);
    void *opaque;
};

// A moment in the RTC's own time.
struct rtc_time {
    int64_t sec; // since 1970-01-01 00:00:00 in the calendar the guest keeps
    int64_t ns;  // 0 to 999999999
};

struct rtc {
    uint8_t cmos[RTC_CMOS_SIZE];
    uint8_t index;           // port 70h, bits 6:0
    uint8_t nmi_masked;      // port 70h, bit 7
    uint8_t dow_offset;      // the guest's day of the week minus the calendar's, modulo 7
    struct rtc_time offset;  // RTC time minus the VM's wall time
    struct rtc_time stopped; // RTC time while the divider is not running
    struct rtc_time checked; // flags in register C are right up to here
    struct timer timer;
    struct rtc_config config;
};

extern const struct state_desc rtc_state;

void rtc_init(struct rtc *rtc, const struct rtc_config *config);
void rtc_fini(struct rtc *rtc);
// RESET#: interrupt enables and flags are cleared; time, alarm and CMOS memory stay.
void rtc_reset(struct rtc *rtc);
// The two ports at 70h.
void rtc_region(struct rtc *rtc, struct io_region *region);

// CMOS bytes 0Eh to 7Fh (except 32h, the century) for the board; others are ignored or read as 0.
void rtc_set_cmos(struct rtc *rtc, uint8_t index, uint8_t value);
uint8_t rtc_cmos(const struct rtc *rtc, uint8_t index);
// Memory sizes where firmware looks for them: base memory (640 KiB), RAM below and above 4 GiB, in
// bytes. Also brings the checksum at 2Eh up to date.
void rtc_set_memory_size(struct rtc *rtc, uint64_t below_4g, uint64_t above_4g);
// Sum of bytes 10h to 2Dh into 2Eh and 2Fh.
void rtc_update_checksum(struct rtc *rtc);
bool rtc_nmi_masked(const struct rtc *rtc);
