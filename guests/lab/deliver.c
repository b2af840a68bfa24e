// SPDX-License-Identifier: Apache-2.0
// See deliver.h.
#include "deliver.h"

#define IDT_PAGE 0x50000u
#define GDT_PAGE 0x52000u
#define GATE (PROBE_LONG ? 16u : 8u)

struct table {
    u16 limit;
    ulong base;
} __attribute__((packed));

static void idt_load(ulong base, u16 limit)
{
    struct table t = {limit, base};
    __asm__ volatile("lidt %0" : : "m"(t) : "memory");
}

static void gdt_load(ulong base, u16 limit)
{
    struct table t = {limit, base};
    __asm__ volatile("lgdt %0" : : "m"(t) : "memory");
}

void deliver_idt_limit(u16 limit)
{
    idt_load((ulong)lab_idt, limit);
}

// #PF's gate must not be in the same page: the boundary lies between #UD (6) and #PF for low vectors, at 80h for the
// others.
ulong deliver_alias_idt(u32 vector)
{
    u32 split = vector < 14 ? 14 : 0x80;
    ulong base = IDT_PAGE + 0x1000 - split * GATE;
    volatile u8 *to = (volatile u8 *)base;
    for (unsigned i = 0; i < 256 * GATE; i++)
        to[i] = ((u8 *)lab_idt)[i];
    idt_load(base, (u16)(256 * GATE - 1));
    return base + vector * GATE;
}

ulong deliver_alias_gdt(u32 selector, u64 descriptor)
{
    ulong base = GDT_PAGE + 0x1000 - 0x100;
    volatile u64 *to = (volatile u64 *)base;
    for (unsigned i = 0; i < 64; i++)
        to[i] = lab_gdt[i];
    to[selector >> 3] = descriptor;
    gdt_load(base, 0x1ff);
    return base + selector;
}

void deliver_alias_end(void)
{
    gdt_load((ulong)lab_gdt, 0x1ff);
    idt_load((ulong)lab_idt, (u16)(256 * GATE - 1));
}

static const u8 second[] = {VEC_DF, VEC_TS, VEC_NP, VEC_SS, VEC_GP, VEC_PF};

#ifdef __x86_64__
static u8 safe_stack[4096] __attribute__((aligned(16)));

void deliver_safe_stacks(bool on)
{
    lab_tss.ist[6] = on ? (u64)(safe_stack + sizeof(safe_stack)) : 0;
    for (unsigned i = 0; i < sizeof(second); i++)
        lab_gate_set(&lab_idt[second[i]], (ulong)lab_stubs + second[i] * 16u, SEL_CODE0, 0x8e,
                     on ? 7 : 0);
}
#else
void deliver_safe_stacks(bool on)
{
    (void)on;
    for (unsigned i = 0; i < sizeof(second); i++)
        lab_gate_default(second[i]);
}
#endif
