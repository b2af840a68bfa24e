// SPDX-License-Identifier: Apache-2.0
// Code and page tables that one processor changes while others use them: cross-modifying code with an interrupt as
// the serializing step (SDM vol. 3A, 8.1.3), TLB shootdown (4.10.5), accessed and dirty bits set by walks while
// others change the same entries with locked instructions (8.1.2.1: these updates are locked).
#include "smp.h"

#define WINDOW 0x40000000u // linear; its page is the test's
#define SOFTWARE_BIT 9

static u8 code[64] __attribute__((aligned(64)));
static volatile u32 value[CPUS_MAX], turns[CPUS_MAX], stop;

static void call_code(u32 index)
{
    __asm__ volatile("sti");
    while (!stop) {
        value[index] = ((u32(*)(void))code)();
        turns[index]++;
    }
    __asm__ volatile("cli");
}

void smp_code(void)
{
    code[0] = 0xb8; // MOV EAX, imm32; RET
    code[5] = 0xc3;
    stop = 0;
    for (u32 i = 1; i < cpu_count; i++)
        cpu_start(i, call_code);
    for (u32 round = 1; round <= 20; round++) {
        u32 before[CPUS_MAX];
        for (u32 i = 1; i < cpu_count; i++)
            before[i] = cpus[i].counts[0x45];
        code[1] = (u8)round; // one byte: nobody sees half of it
        ipi(0, ICR_OTHERS | 0x45);
        for (u32 i = 1; i < cpu_count; i++) {
            bool came = wait_for(&cpus[i].counts[0x45], before[i] + 1);
            u32 turn = turns[i];
            came = came && wait_for(&turns[i], turn + 2);
            if (!lab_check(came && value[i] == round, "processor %u runs %u, want %u", i, value[i],
                           round))
                round = 1000;
        }
    }
    stop = 1;
    for (u32 i = 1; i < cpu_count; i++)
        lab_check(cpu_wait(i), "processor %u ends", i);
}

// --- tables ------------------------------------------------------------------------------------------------

static u32 root[1024] __attribute__((aligned(4096)));
static u32 table[1024] __attribute__((aligned(4096)));
static u32 page[2][1024] __attribute__((aligned(4096)));
static volatile u32 lost[CPUS_MAX], unset[CPUS_MAX];

static void watch(u32 index)
{
    u32 known = cpus[index].counts[0x46];
    cpu_paging(root);
    __asm__ volatile("sti");
    while (!stop) {
        u32 now = cpus[index].counts[0x46];
        if (now != known) { // the shootdown: forget, then answer
            lab_invlpg(WINDOW);
            known = now;
            lost[index] = now;
        }
        value[index] = *(volatile u32 *)WINDOW;
        turns[index]++;
    }
    __asm__ volatile("cli");
    cpu_paging(NULL);
}

static void shootdown(void)
{
    stop = 0;
    table[0] = (u32)page[0] | 7;
    page[0][0] = 100;
    page[1][0] = 101;
    for (u32 i = 1; i < cpu_count; i++) {
        lost[i] = cpus[i].counts[0x46];
        cpu_start(i, watch);
    }
    for (u32 i = 1; i < cpu_count; i++) {
        u32 turn = turns[i];
        wait_for(&turns[i], turn + 1);
    }
    for (u32 round = 1; round <= 20; round++) {
        u32 before[CPUS_MAX];
        for (u32 i = 1; i < cpu_count; i++)
            before[i] = cpus[i].counts[0x46];
        table[0] = (u32)page[round & 1] | 7;
        ipi(0, ICR_OTHERS | 0x46);
        for (u32 i = 1; i < cpu_count; i++) {
            bool came = wait_for(&lost[i], before[i] + 1);
            u32 turn = turns[i];
            came = came && wait_for(&turns[i], turn + 2);
            if (!lab_check(came && value[i] == 100 + (round & 1),
                           "shootdown: processor %u reads %u", i, value[i]))
                round = 1000;
        }
    }
    stop = 1;
    for (u32 i = 1; i < cpu_count; i++)
        lab_check(cpu_wait(i), "processor %u ends", i);
}

// Everybody walks; everybody also owns a bit of the entries that are walked.
static void walk_and_change(u32 index)
{
    u32 bit = SOFTWARE_BIT + index % 3;
    bool owner = index < 3;
    volatile u32 *entries[2] = {&table[0], &root[WINDOW >> 22]};
    cpu_paging(root);
    barrier();
    for (u32 i = 0; i < 1000; i++) {
        volatile u32 *entry = entries[i & 1];
        u8 before;
        lab_invlpg(WINDOW);
        if (i & 2)
            *(volatile u32 *)(WINDOW + 4 * index) = i;
        else
            (void)*(volatile u32 *)WINDOW;
        if (owner) {
            __asm__ volatile("lock btsl %2, %0; setc %1"
                             : "+m"(*entry), "=q"(before)
                             : "r"(bit)
                             : "memory");
            lost[index] += before;
            lab_invlpg(WINDOW);
            (void)*(volatile u32 *)WINDOW;
            __asm__ volatile("lock btrl %2, %0; setc %1"
                             : "+m"(*entry), "=q"(before)
                             : "r"(bit)
                             : "memory");
            lost[index] += !before;
        } else { // the fourth clears what the walks set
            __asm__ volatile("lock andl $~0x60, %0" : "+m"(*entry) : : "memory");
        }
    }
    barrier();
    cpu_paging(NULL);
}

// Nobody clears: after its own access a processor must find the bits set.
static void walk_and_look(u32 index)
{
    cpu_paging(root);
    for (u32 i = 0; i < 60; i++) {
        barrier();
        if (index == 0)
            table[0] = (u32)page[0] | 7;
        barrier();
        lab_invlpg(WINDOW);
        if (index & 1)
            *(volatile u32 *)(WINDOW + 4 * index) = i;
        else
            (void)*(volatile u32 *)WINDOW;
        u32 want = index & 1 ? 0x60 : 0x20;
        unset[index] += (table[0] & want) != want;
    }
    barrier();
    cpu_paging(NULL);
}

void smp_tables(void)
{
    for (u32 i = 0; i < 1024; i++)
        root[i] = i << 22 | 0x83; // 4-MiB pages, identity
    root[0xfee00000 >> 22] |= 0x18;
    root[WINDOW >> 22] = (u32)table | 7;
    shootdown();
    table[0] = (u32)page[0] | 7;
    for (u32 i = 0; i < cpu_count; i++)
        lost[i] = unset[i] = 0;
    lab_check(cpus_run(walk_and_change), "accessed and dirty: all come to the end");
    for (u32 i = 0; i < cpu_count; i++)
        lab_check(lost[i] == 0, "accessed and dirty: processor %u's bit was lost %u times", i,
                  lost[i]);
    lab_equal("accessed and dirty: the entry's other bits", table[0] & ~0x60u, (u32)page[0] | 7);
    lab_check(cpus_run(walk_and_look), "accessed and dirty: all come to the end");
    for (u32 i = 0; i < cpu_count; i++)
        lab_check(unset[i] == 0, "accessed and dirty: processor %u missed a bit %u times", i,
                  unset[i]);
}
