// SPDX-License-Identifier: Apache-2.0
// What the files of the SMP guest share: processors that wait for functions to run, and their local APICs.
// The boot processor keeps the laboratory's tables and handlers; the others have an IDT of their own that counts
// interrupts (smp_start.S) and never use lab_try() or lab_check().
#pragma once

#include "lab.h"

#define CPUS_MAX 4
#define TRAMPOLINE 0x8000u // SIPI vector 8

#define APIC_ID 0x20u
#define APIC_EOI 0xb0u
#define APIC_LDR 0xd0u
#define APIC_DFR 0xe0u
#define APIC_SVR 0xf0u
#define APIC_ESR 0x280u
#define APIC_ICR 0x300u
#define APIC_ICR_HIGH 0x310u

#define ICR_FIXED 0x0000u
#define ICR_LOWEST 0x0100u
#define ICR_NMI 0x0400u
#define ICR_INIT 0x0500u
#define ICR_STARTUP 0x0600u
#define ICR_LOGICAL 0x0800u
#define ICR_PENDING 0x1000u
#define ICR_ASSERT 0x4000u
#define ICR_LEVEL 0x8000u
#define ICR_SELF 0x40000u
#define ICR_ALL 0x80000u
#define ICR_OTHERS 0xc0000u

static inline u32 apic_read(u32 reg)
{
    return *(volatile u32 *)(0xfee00000u + reg);
}
static inline void apic_write(u32 reg, u32 v)
{
    *(volatile u32 *)(0xfee00000u + reg) = v;
}

struct cpu {
    void (*volatile function)(u32 index);
    volatile u32 started, finished; // functions begun by the boot processor, ended by this one
    volatile u32 alive;             // times it came out of the trampoline
    volatile u32 counts[256];       // interrupts
    volatile u8 order[64];          // their vectors
    volatile u32 orders;
    volatile u32 apic_id;
} __attribute__((aligned(256)));
extern struct cpu cpus[CPUS_MAX];
extern u32 cpu_count; // that run
// What a started processor does at INT3: `ip` is the saved one's place, ip[-3] AX's.
extern void (*volatile cpu_breakpoint)(ulong *ip);

u32 cpu_index(void);
void cpu_start(u32 index, void (*function)(u32 index)); // without waiting
bool cpu_wait(u32 index);                               // until it has ended; false: too long
bool cpus_run(void (*function)(u32 index));             // on all, the boot processor too; waits
bool wait_for(volatile u32 *what, u32 least);
void pause_a_while(void);
// A barrier of all processors inside of cpus_run().
void barrier(void);
void ipi(u32 destination, u32 command);
// INIT, and SIPI twice; true when the processor came to the end of the trampoline.
bool cpu_restart(u32 index);
void cpus_find(void);
// This processor's two-level paging with large pages, from the page directory `root`; NULL: off.
void cpu_paging(const u32 *root);

// In the order that smp_start.S stores them; of the last processor that came through the trampoline.
struct start_state {
    u32 eax, ebx, ecx, edx, esi, edi, ebp, esp, eflags;
    u32 cs, ds, es, fs, gs, ss;
    u32 cr0, cr2, cr3, cr4, dr0, dr1, dr2, dr3, dr6, dr7;
    u16 gdt_limit;
    u32 gdt_base;
    u16 idt_limit;
    u32 idt_base;
    u16 fcw;
    u32 marker;
} __attribute__((packed));
#define START_STATE ((volatile struct start_state *)(TRAMPOLINE + 0x800))

void smp_start(void);  // smp_begin.c
void smp_ipis(void);   // smp_ipis.c
void smp_memory(void); // smp_memory.c
void smp_litmus(void); // smp_memory.c
void smp_code(void);   // smp_tables.c
void smp_tables(void); // smp_tables.c
void smp_pveoi(void);  // smp_pveoi.c
