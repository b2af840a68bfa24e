// SPDX-License-Identifier: Apache-2.0
// Code that one processor changes while others run it (SDM vol. 3A, 8.1.3). With the handshake and a serialising
// instruction the new code must run, every time; without one an aligned store's old or new value must be seen, never a
// mixture, and in the end the new one; and the way in which Linux patches running code, by INT3.
#include "smp.h"

#define VECTOR_SYNC 0x47
#define WINDOW 0x40000000u // linear: a page of code that moves

static u8 code[8192] __attribute__((aligned(4096)));
static volatile u32 generation, turns[CPUS_MAX], value[CPUS_MAX], odd[CPUS_MAX], stop;
static volatile u32 done[CPUS_MAX];
static u8 *volatile function; // that the others call

static u32 random_state = 12345;
static u32 random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static u32 call(const u8 *at)
{
    return ((u32(*)(void))(ulong)at)();
}

static void put32(u8 *at, u32 v)
{
    for (u32 i = 0; i < 4; i++)
        ((volatile u8 *)at)[i] = (u8)(v >> i * 8);
}

// Some arithmetic that ends in `v`, of random length.
static void body_write(u8 *at, u32 v)
{
    u32 n = random() & 3;
    *at++ = 0xb8;
    u32 start = v;
    for (u32 i = 0; i < n; i++)
        start -= 0x01010101;
    put32(at, start);
    at += 4;
    while (n--) {
        *at++ = 0x05;
        put32(at, 0x01010101);
        at += 4;
    }
    *(volatile u8 *)at = 0xc3;
}

static void wait_others(volatile u32 *what, u32 least, const char *name)
{
    for (u32 i = 1; i < cpu_count; i++)
        lab_check(wait_for(&what[i], least), "%s: processor %u", name, i);
}

static void others_start(void (*f)(u32))
{
    stop = 0;
    for (u32 i = 0; i < CPUS_MAX; i++)
        turns[i] = done[i] = odd[i] = 0;
    for (u32 i = 1; i < cpu_count; i++)
        cpu_start(i, f);
}

static void others_end(void)
{
    stop = 1;
    for (u32 i = 1; i < cpu_count; i++)
        lab_check(cpu_wait(i), "processor %u ends", i);
}

// --- the handshake -------------------------------------------------------------------------------------------

static void serialise(u32 how)
{
    switch (how % 4) {
    case 0:
        lab_cpuid(0, 0);
        break;
    case 1:
        lab_set_cr0(lab_cr0());
        break;
    case 2: // IRET
        __asm__ volatile("pushfl; pushl %%cs; pushl $1f; iretl; 1:" : : : "memory", "cc");
        break;
    default:
        lab_set_cr3(lab_cr3());
    }
}

static void follow(u32 index)
{
    u32 known = 0;
    while (!stop) {
        u32 now = generation;
        if (now == known) {
            __asm__ volatile("pause");
            continue;
        }
        serialise(now);
        for (u32 i = 0; i < 1 + (now & 7) * 4; i++) // until it is hot
            value[index] = call(function);
        known = done[index] = now;
    }
}

static void handshake(void)
{
    generation = 0;
    function = code;
    others_start(follow);
    for (u32 n = 1; n <= 1500; n++) {
        u32 v = random() | 1;
        u8 *at = n & 1 ? code + (random() & 63) : code + 4096 - (random() & 15);
        if (n % 3 && n > 1)
            at = function; // the same place
        body_write(at, v);
        function = at;
        __asm__ volatile("" : : : "memory");
        generation = n;
        for (u32 i = 1; i < cpu_count; i++) {
            bool came = wait_for(&done[i], n);
            if (!lab_check(came && value[i] == v, "generation %u: processor %u: %x, want %x", n, i,
                           value[i], v) &&
                !came)
                n = 100000;
        }
        if (n & 1)
            lab_check(call(at) == v, "generation %u: here", n);
    }
    others_end();
}

// --- without it ---------------------------------------------------------------------------------------------

// Every value has four equal bytes: a mixture shows.
static void watch(u32 index)
{
    while (!stop) {
        u32 v = call(function);
        if (v != (v & 0xff) * 0x01010101u)
            odd[index] = v;
        value[index] = v;
        turns[index]++;
    }
}

static void store(u32 how, u8 *at, u32 v)
{
    u32 all = (v & 0xff) * 0x01010101;
    if (how == 0) { // four aligned bytes
        *(volatile u32 *)at = all;
    } else if (how == 1) {
        __asm__ volatile("lock xchgl %0, %1" : "+r"(all), "+m"(*(u32 *)at));
    } else { // eight aligned bytes, the whole instruction: 90 90 B8 imm32 C3
        u32 low = (u32)(0x00b89090u | (all & 0xff) << 24), high = (all >> 8) | 0xc3000000;
        u32 a = *(volatile u32 *)at, d = *(volatile u32 *)(at + 4);
        __asm__ volatile("1: lock cmpxchg8b (%2); jne 1b"
                         : "+a"(a), "+d"(d)
                         : "D"(at), "b"(low), "c"(high)
                         : "memory", "cc");
    }
}

static void atomic(u32 how, const char *name)
{
    u8 *start = code + 1024,
       *at = how == 2 ? start : start + 4; // 8: the instruction, 4: the immediate
    for (u32 i = 0; i < 16; i++)
        start[i] = 0x90;
    start[how == 2 ? 2 : 3] = 0xb8;
    start[how == 2 ? 7 : 8] = 0xc3;
    store(how, at, 1);
    function = start;
    lab_section(name);
    others_start(watch);
    wait_others(turns, 1, "begins");
    for (u32 n = 2; n < 250; n++) {
        u32 before[CPUS_MAX];
        for (u32 i = 1; i < cpu_count; i++)
            before[i] = turns[i];
        store(how, at, n);
        if (n % 4)
            continue;
        // In the end each sees it.
        for (u32 i = 1; i < cpu_count; i++) {
            u32 want = (n & 0xff) * 0x01010101;
            bool seen = false;
            for (u32 k = 0; k < 100 && !seen; k++) {
                wait_for(&turns[i], before[i] + 2 + k);
                seen = value[i] == want;
            }
            lab_check(seen, "processor %u still runs %x, want %x", i, value[i], want);
        }
    }
    others_end();
    for (u32 i = 1; i < cpu_count; i++)
        lab_check(!odd[i], "processor %u saw %x", i, odd[i]);
}

// --- INT3 ---------------------------------------------------------------------------------------------------

static volatile u32 breakpoints;
static u8 *volatile poked;

static void breakpoint(ulong *ip)
{
    if ((u8 *)ip[0] != poked + 1)
        odd[1] = ip[0];
    ip[-3] = 0x77777777; // for MOV EAX
    ip[0] += 4;
    breakpoints++;
}

static void watch_open(u32 index)
{
    __asm__ volatile("sti");
    watch(index);
    __asm__ volatile("cli");
}

static void synchronise(void) // the others' IRET serialises
{
    u32 before[CPUS_MAX];
    for (u32 i = 1; i < cpu_count; i++)
        before[i] = cpus[i].counts[VECTOR_SYNC];
    ipi(0, ICR_OTHERS | VECTOR_SYNC);
    for (u32 i = 1; i < cpu_count; i++)
        lab_check(wait_for(&cpus[i].counts[VECTOR_SYNC], before[i] + 1), "processor %u answers", i);
}

static void poke(void)
{
    static const u32 places[] = {2048, 2048 + 61, 4096 - 2, 4096 - 1, 2048 + 14};
    lab_section("INT3");
    cpu_breakpoint = breakpoint;
    for (u32 p = 0; p < sizeof(places) / sizeof(places[0]); p++) {
        u8 *at = code + places[p];
        at[0] = 0xb8;
        put32(at + 1, 0);
        at[5] = 0xc3;
        function = poked = at;
        others_start(watch_open);
        wait_others(turns, 1, "begins");
        for (u32 n = 1; n < 60; n++) {
            *(volatile u8 *)at = 0xcc;
            synchronise();
            u32 turn = turns[1];
            wait_for(&turns[1], turn + 2);
            lab_check(value[1] == 0x77777777, "INT3 is met: %x", value[1]);
            put32(at + 1, n * 0x01010101);
            synchronise();
            *(volatile u8 *)at = 0xb8;
            synchronise();
            for (u32 i = 1; i < cpu_count; i++) {
                turn = turns[i];
                wait_for(&turns[i], turn + 2);
                lab_check(value[i] == n * 0x01010101, "processor %u runs %x, want %x", i, value[i],
                          n * 0x01010101);
            }
        }
        others_end();
        for (u32 i = 1; i < cpu_count; i++)
            lab_check(!odd[i], "processor %u saw %x", i, odd[i]);
    }
    lab_note("%u breakpoints", breakpoints);
}

// --- each its own code in one page ----------------------------------------------------------------------------

static volatile u32 wrong[CPUS_MAX];

static void own(u32 index)
{
    u8 *at = code + 5000 + index * 24; // side by side
    u32 v = index * 77777 + 1;
    for (u32 n = 0; n < 8000; n++) {
        v = v * 1664525 + 1013904223;
        *(volatile u8 *)at = 0xb8;
        put32(at + 1, v);
        *(volatile u8 *)(at + 5) = 0xc3;
        if (call(at) != v)
            wrong[index]++;
    }
}

static void side_by_side(void)
{
    lab_section("side by side");
    for (u32 i = 0; i < CPUS_MAX; i++)
        wrong[i] = 0;
    lab_check(cpus_run(own), "all end");
    for (u32 i = 0; i < cpu_count; i++)
        lab_equal("results that are not the last generation's", wrong[i], 0);
}

// --- a page that moves ----------------------------------------------------------------------------------------

static u32 root[1024] __attribute__((aligned(4096)));
static u32 table[1024] __attribute__((aligned(4096)));
static u8 bodies[4][4096] __attribute__((aligned(4096)));

static void watch_window(u32 index)
{
    u32 known = cpus[index].counts[VECTOR_SYNC];
    cpu_paging(root);
    __asm__ volatile("sti");
    while (!stop) {
        u32 now = cpus[index].counts[VECTOR_SYNC];
        if (now != known) {
            if (now & 1)
                lab_invlpg(WINDOW);
            else
                lab_set_cr3(lab_cr3());
            known = now;
        }
        value[index] = call((u8 *)WINDOW);
        done[index] = known;
        turns[index]++;
    }
    __asm__ volatile("cli");
    cpu_paging(NULL);
}

static void moving(void)
{
    lab_section("a page that moves");
    for (u32 i = 0; i < 1024; i++)
        root[i] = i << 22 | 0x83;
    root[WINDOW >> 22] = (u32)table | 3;
    for (u32 i = 0; i < 4; i++)
        body_write(bodies[i], 1000 + i);
    table[0] = (u32)bodies[0] | 3;
    others_start(watch_window);
    wait_others(turns, 1, "begins");
    for (u32 n = 1; n < 300; n++) {
        u32 before[CPUS_MAX], b = random() & 3;
        for (u32 i = 1; i < cpu_count; i++)
            before[i] = cpus[i].counts[VECTOR_SYNC];
        *(volatile u32 *)table = (u32)bodies[b] | 3;
        ipi(0, ICR_OTHERS | VECTOR_SYNC);
        for (u32 i = 1; i < cpu_count; i++) {
            bool came = wait_for(&done[i], before[i] + 1);
            lab_check(came && value[i] == 1000 + b, "processor %u runs %u, want %u", i, value[i],
                      1000 + b);
        }
    }
    others_end();
}

int main(void)
{
    cpus_find();
    for (u32 i = 1; i < CPUS_MAX && cpu_restart(i); i++)
        cpu_count = i + 1;
    lab_section("handshake");
    lab_check(cpu_count > 1, "a second processor");
    if (cpu_count == 1)
        return 0;
    handshake();
    atomic(0, "aligned MOV");
    atomic(1, "LOCK XCHG");
    atomic(2, "LOCK CMPXCHG8B");
    poke();
    side_by_side();
    moving();
    return 0;
}
