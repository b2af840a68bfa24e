// SPDX-License-Identifier: Apache-2.0
// Interrupts between processors: fixed, NMI, lowest priority; physical, logical and shorthand destinations; waking
// from HLT; order by priority (SDM vol. 3A, 10.6, 10.8).
#include "smp.h"

static volatile u32 own_count; // the boot processor's interrupts

static bool own(struct lab_trap *trap)
{
    own_count++;
    if (trap->vector >= 32)
        apic_write(APIC_EOI, 0);
    return true;
}

static void open_interrupts(u32 index)
{
    (void)index;
    __asm__ volatile("sti");
}
static void close_interrupts(u32 index)
{
    (void)index;
    __asm__ volatile("cli");
}
static void set_logical(u32 index)
{
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 1u << (24 + index));
}
static void set_cluster(u32 index)
{
    apic_write(APIC_DFR, 0x0fffffff);
    apic_write(APIC_LDR, (index >> 1) << 28 | 1u << (24 + (index & 1)));
}

// Sends, and compares who got how many with the mask of those meant (bit 0: the boot processor).
static void expect_at(const char *what, u32 destination, u32 command, u32 mask)
{
    u32 vector = (command & 0x700) == ICR_NMI ? VEC_NMI : command & 0xff, before[CPUS_MAX];
    for (u32 i = 0; i < cpu_count; i++)
        before[i] = i ? cpus[i].counts[vector] : own_count;
    ipi(destination, command);
    if (mask & 1) {
        __asm__ volatile("sti; nop; nop; cli");
    }
    for (u32 i = 1; i < cpu_count; i++)
        if (mask >> i & 1)
            wait_for(&cpus[i].counts[vector], before[i] + 1);
    pause_a_while();
    __asm__ volatile("sti; nop; nop; cli");
    for (u32 i = 0; i < cpu_count; i++) {
        u32 got = (i ? cpus[i].counts[vector] : own_count) - before[i];
        lab_check(got == (mask >> i & 1), "%s: destination %x command %x: processor %u got %u",
                  what, destination, command, i, got);
    }
}

static u32 one_of(u32 vector, u32 mask)
{
    u32 before = own_count, total = 0;
    for (u32 i = 1; i < cpu_count; i++)
        before += cpus[i].counts[vector];
    ipi(mask, ICR_LOWEST | ICR_LOGICAL | vector);
    for (u32 round = 0; round < 100 && total == 0; round++) {
        pause_a_while();
        __asm__ volatile("sti; nop; nop; cli");
        total = own_count - before;
        for (u32 i = 1; i < cpu_count; i++)
            total += cpus[i].counts[vector];
    }
    return total;
}

static void halted(u32 index)
{
    cpus[index].finished++; // it sleeps now, or is about to
    __asm__ volatile("sti; hlt; cli");
    cpus[index].finished--; // cpu_main() counts it once
    cpus[index].counts[0]++;
}

static void wakes(const char *what, u32 index, u32 command)
{
    u32 before = cpus[index].counts[0];
    cpu_start(index, halted);
    cpu_wait(index);
    pause_a_while();
    lab_equal("still asleep", cpus[index].counts[0], before);
    ipi(index, command);
    lab_check(wait_for(&cpus[index].counts[0], before + 1), "%s wakes processor %u from HLT", what,
              index);
    pause_a_while();
    cpu_wait(index);
}

static void priorities(u32 index)
{
    static const u8 vectors[] = {0x41, 0x81, 0x61, 0x62, 0x51, 0xf1, 0x42};
    static const u8 sorted[] = {0xf1, 0x81, 0x62, 0x61, 0x51, 0x42, 0x41};
    cpu_start(index, close_interrupts);
    cpu_wait(index);
    u32 first = cpus[index].orders;
    for (u32 i = 0; i < sizeof(vectors); i++)
        ipi(index, vectors[i]);
    ipi(index, vectors[0]); // a second request of a vector that waits is the same request
    pause_a_while();
    lab_equal("none while IF is clear", cpus[index].orders, first);
    cpu_start(index, open_interrupts);
    cpu_wait(index);
    wait_for(&cpus[index].orders, first + sizeof(sorted));
    pause_a_while();
    lab_equal("interrupts", cpus[index].orders - first, sizeof(sorted));
    for (u32 i = 0; i < sizeof(sorted); i++) {
        u8 got = cpus[index].order[(first + i) % sizeof(cpus[index].order)];
        lab_check(got == sorted[i], "interrupt %u is %x, want %x", i, got, sorted[i]);
    }
}

void smp_ipis(void)
{
    u32 all = (1u << cpu_count) - 1;
    for (u32 v = 0x40; v < 0x100; v++)
        lab_handler[v] = own;
    lab_handler[VEC_NMI] = own;
    for (u32 i = 1; i < cpu_count; i++) {
        cpu_start(i, open_interrupts);
        cpu_wait(i);
    }
    for (u32 i = 0; i < cpu_count; i++)
        for (u32 v = 0x40; v < 0x100; v += 0x2f)
            expect_at("physical", i, v, 1u << i);
    for (u32 i = 1; i < cpu_count; i++)
        expect_at("NMI", i, ICR_NMI, 1u << i);
    expect_at("nobody", 0x42, 0x77, 0);
    expect_at("everybody's address", 0xff, 0x50, all);
    expect_at("self", 0, ICR_SELF | 0x51, 1);
    expect_at("all", 0, ICR_ALL | 0x52, all);
    expect_at("all others", 0, ICR_OTHERS | 0x53, all & ~1u);
    expect_at("NMI to all others", 0, ICR_OTHERS | ICR_NMI, all & ~1u);
    cpus_run(set_logical);
    for (u32 mask = 1; mask <= all; mask++)
        expect_at("flat", mask, ICR_LOGICAL | 0x54, mask);
    expect_at("flat, nobody", 0x80, ICR_LOGICAL | 0x55, 0);
    for (u32 v = 0x60; v < 0x70; v++)
        lab_equal("lowest priority: how many got it", one_of(v, all), 1);
    cpus_run(set_cluster);
    for (u32 cluster = 0; cluster < 3; cluster++)
        for (u32 members = 0; members < 4; members++)
            expect_at("cluster", cluster << 4 | members, ICR_LOGICAL | 0x56,
                      (members << (cluster * 2)) & all);
    expect_at("all clusters", 0xf1, ICR_LOGICAL | 0x57, 5 & all);
    expect_at("all clusters", 0xf3, ICR_LOGICAL | 0x58, all);
    cpus_run(set_logical);
    for (u32 i = 1; i < cpu_count; i++) {
        wakes("an interrupt", i, 0x71);
        wakes("an NMI", i, ICR_NMI);
        cpu_start(i, open_interrupts);
        cpu_wait(i);
        priorities(i);
    }
    for (u32 i = 1; i < cpu_count; i++) {
        cpu_start(i, close_interrupts);
        cpu_wait(i);
    }
}
