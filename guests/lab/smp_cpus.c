// SPDX-License-Identifier: Apache-2.0
// The processors of the SMP guests: how they are started, run functions and count their interrupts. See smp.h.
#include "smp.h"

struct cpu cpus[CPUS_MAX];
u32 cpu_count = 1;
static struct lab_gate cpu_idt[256] __attribute__((aligned(16)));
static volatile u32 barrier_arrived, barrier_round;
extern char cpu_stubs[], trampoline[], trampoline_end[];
void cpu_main(void);
void cpu_interrupt(u32 vector, ulong *ip);
void (*volatile cpu_breakpoint)(ulong *ip);

u32 cpu_index(void)
{
    return apic_read(APIC_ID) >> 24 & (CPUS_MAX - 1);
}

void pause_a_while(void)
{
    for (u32 i = 0; i < 20000; i++)
        __asm__ volatile("pause");
}

bool wait_for(volatile u32 *what, u32 least)
{
    for (u32 i = 0; i < 400000000; i++) {
        if (*what >= least)
            return true;
        __asm__ volatile("pause");
    }
    return false;
}

void ipi(u32 destination, u32 command)
{
    apic_write(APIC_ICR_HIGH, destination << 24);
    apic_write(APIC_ICR, command);
    while (apic_read(APIC_ICR) & ICR_PENDING)
        __asm__ volatile("pause");
}

// --- a started processor --------------------------------------------------------------------------------

void cpu_interrupt(u32 vector, ulong *ip)
{
    struct cpu *c = &cpus[cpu_index()];
    if (vector == VEC_BP && cpu_breakpoint) {
        cpu_breakpoint(ip);
        return;
    }
    c->order[c->orders++ % sizeof(c->order)] = (u8)vector;
    c->counts[vector]++;
    if (vector >= 32)
        apic_write(APIC_EOI, 0);
    else if (vector != VEC_NMI)
        for (;;) // an exception: stays here; whoever waits for this processor finds out
            __asm__ volatile("cli; hlt");
}

void cpu_main(void)
{
    struct {
        u16 limit;
        ulong base;
    } __attribute__((packed)) idtr = {sizeof(cpu_idt) - 1, (ulong)cpu_idt};
    u32 index = cpu_index();
    struct cpu *c = &cpus[index];
    __asm__ volatile("lidt %0" : : "m"(idtr));
    apic_write(APIC_SVR, 0x1ff);
    c->apic_id = apic_read(APIC_ID) >> 24;
    c->finished = c->started;
    c->alive++;
    for (;;) {
        if (c->started != c->finished) {
            c->function(index);
            c->finished++;
        }
        __asm__ volatile("pause");
    }
}

// --- the boot processor's side ---------------------------------------------------------------------------

void cpu_start(u32 index, void (*function)(u32 index))
{
    cpus[index].function = function;
    __asm__ volatile("" : : : "memory");
    cpus[index].started++;
}

bool cpu_wait(u32 index)
{
    return wait_for(&cpus[index].finished, cpus[index].started);
}

bool cpus_run(void (*function)(u32 index))
{
    bool ok = true;
    for (u32 i = 1; i < cpu_count; i++)
        cpu_start(i, function);
    function(0);
    for (u32 i = 1; i < cpu_count; i++)
        ok = ok && cpu_wait(i);
    return ok;
}

void barrier(void)
{
    u32 round = barrier_round, arrived = 1;
    __asm__ volatile("lock xaddl %0, %1" : "+r"(arrived), "+m"(barrier_arrived) : : "memory");
    if (arrived + 1 == cpu_count) {
        barrier_arrived = 0;
        __asm__ volatile("" : : : "memory");
        barrier_round = round + 1;
    } else {
        while (barrier_round == round)
            __asm__ volatile("pause");
    }
}

bool cpu_restart(u32 index)
{
    u32 alive = cpus[index].alive;
    START_STATE->marker = 0x12345678;
    ipi(index, ICR_INIT | ICR_ASSERT | ICR_LEVEL);
    ipi(index, ICR_INIT | ICR_LEVEL); // de-assert: nothing
    pause_a_while();
    ipi(index, ICR_STARTUP | TRAMPOLINE >> 12);
    for (u32 i = 0; i < 1000 && cpus[index].alive == alive; i++)
        pause_a_while();
    if (cpus[index].alive == alive)
        return false;
    ipi(index, ICR_STARTUP | TRAMPOLINE >> 12); // it runs already: ignored
    pause_a_while();
    return cpus[index].alive == alive + 1;
}

void cpus_find(void)
{
    for (u32 i = 0; i < 256; i++)
        lab_gate_set(&cpu_idt[i], (ulong)cpu_stubs + i * 16, SEL_CODE0, 0x8e, 0);
    for (const char *from = trampoline; from < trampoline_end; from++)
        *(volatile char *)(TRAMPOLINE + (u32)(from - trampoline)) = *from;
    apic_write(APIC_SVR, 0x1ff);
}

void cpu_paging(const u32 *root)
{
    if (root) {
        lab_set_cr4(lab_cr4() | 0x10);
        lab_set_cr3((ulong)root);
        lab_set_cr0(lab_cr0() | 0x80000000);
    } else {
        lab_set_cr0(lab_cr0() & ~0x80000000ul);
    }
}
