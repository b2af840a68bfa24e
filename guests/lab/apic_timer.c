// SPDX-License-Identifier: Apache-2.0
// The local APIC's timer: one shot, periodic, TSC deadline (SDM vol. 3A, 10.5.4).
#include "apic.h"

#define VECTOR 0x61

static u64 tsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

void apic_timer(void)
{
    static const u8 divides[] = {0xb, 0, 1, 2, 3, 8, 9, 0xa}; // by 1, 2, 4 ... 128
    for (u32 i = 0; i < sizeof(divides); i++) {
        apic_write(APIC_DIVIDE, divides[i]);
        lab_equal("divide", apic_read(APIC_DIVIDE), divides[i]);
        // Masked: it counts down to 0 and stays there, and asks for nothing.
        apic_plain();
        apic_write(APIC_LVT_TIMER, LVT_MASKED | VECTOR);
        apic_write(APIC_INITIAL, 0xffffffff);
        u32 first = apic_read(APIC_CURRENT);
        pass_time(50);
        u32 second = apic_read(APIC_CURRENT);
        lab_check(second < first, "divide %u: counts down: %x %x", i, first, second);
        lab_equal("initial count", apic_read(APIC_INITIAL), 0xffffffff);
        apic_write(APIC_INITIAL, 100);
        for (u32 k = 0; k < 1000000 && apic_read(APIC_CURRENT); k++)
            ;
        lab_equal("masked: at the end", apic_read(APIC_CURRENT), 0);
        lab_check(!apic_bit(APIC_IRR, VECTOR), "masked: no request");
        // One shot: one interrupt, and it stays one.
        apic_forget();
        apic_write(APIC_LVT_TIMER, VECTOR);
        let_in();
        apic_took("unmasked after the end", 0, VECTOR);
        apic_write(APIC_INITIAL, 1000);
        let_in_until(1);
        pass_time(100);
        let_in();
        apic_took("one shot", 1, VECTOR);
        lab_equal("one shot: count", apic_read(APIC_CURRENT), 0);
        // Stopped before its time.
        apic_forget();
        apic_write(APIC_INITIAL, 0x40000000);
        apic_write(APIC_INITIAL, 0);
        pass_time(20);
        let_in();
        apic_took("stopped", 0, VECTOR);
        lab_equal("stopped: count", apic_read(APIC_CURRENT), 0);
        // Periodic: again and again, never above the initial count.
        apic_forget();
        apic_write(APIC_LVT_TIMER, LVT_PERIODIC | VECTOR);
        apic_write(APIC_INITIAL, 20000 >> (i < 7 ? i : 6));
        bool below = true;
        for (u32 k = 0; k < 10000000 && takens < 5; k++) {
            below = below && apic_read(APIC_CURRENT) <= (20000u >> (i < 7 ? i : 6));
            let_in();
        }
        lab_check(takens >= 5 && below, "periodic: %u interrupts", takens);
        apic_write(APIC_LVT_TIMER, LVT_MASKED | LVT_PERIODIC | VECTOR);
        let_in();
        u32 count = takens;
        pass_time(100);
        let_in();
        lab_equal("periodic, masked", takens, count);
        apic_write(APIC_INITIAL, 0);
    }
    apic_write(APIC_DIVIDE, 0xb);
}

static volatile u64 deadline;

static void write_deadline(void *argument)
{
    (void)argument;
    lab_wrmsr(MSR_DEADLINE, deadline);
}

void apic_deadline(void)
{
    if (!lab_has(1, 0, 2, 24))
        return;
    // In the other modes writes are ignored.
    apic_write(APIC_LVT_TIMER, VECTOR);
    deadline = tsc() + (1ull << 50);
    lab_expect_none("in one-shot mode", lab_try(write_deadline, 0));
    lab_equal("in one-shot mode", lab_rdmsr(MSR_DEADLINE), 0);
    apic_write(APIC_LVT_TIMER, LVT_DEADLINE | VECTOR);
    lab_equal("mode", apic_read(APIC_LVT_TIMER), LVT_DEADLINE | VECTOR);
    apic_write(APIC_INITIAL, 1000);
    lab_equal("the initial count is not used", apic_read(APIC_CURRENT), 0);
    pass_time(50);
    let_in();
    apic_took("no deadline", 0, VECTOR);
    for (u32 i = 0; i < 5; i++) {
        apic_forget();
        lab_wrmsr(MSR_DEADLINE, i ? tsc() + (1000u << i) : 1); // the past counts at once
        let_in_until(1);
        lab_equal("disarmed", lab_rdmsr(MSR_DEADLINE), 0);
        pass_time(50);
        let_in();
        apic_took("deadline", 1, VECTOR);
    }
    apic_forget();
    deadline = tsc() + (1ull << 50);
    lab_wrmsr(MSR_DEADLINE, deadline);
    lab_equal("armed", lab_rdmsr(MSR_DEADLINE), deadline);
    lab_wrmsr(MSR_DEADLINE, 0);
    lab_equal("disarmed by 0", lab_rdmsr(MSR_DEADLINE), 0);
    lab_wrmsr(MSR_DEADLINE, deadline);
    apic_write(APIC_LVT_TIMER, VECTOR);
    apic_write(APIC_LVT_TIMER, LVT_DEADLINE | VECTOR);
    lab_equal("disarmed by a change of mode", lab_rdmsr(MSR_DEADLINE), 0);
    // Not before its time.
    u64 due = tsc() + 3000000;
    lab_wrmsr(MSR_DEADLINE, due);
    let_in_until(1);
    lab_check(takens == 1 && tsc() >= due, "the interrupt comes after the deadline");
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
}
