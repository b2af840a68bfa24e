// SPDX-License-Identifier: Apache-2.0
// Vector registers, MXCSR and the x87 unit are the program's own, whatever happens between two instructions
// that use them: exceptions, interrupts, port and device access, page crossings, task switches with FXSAVE or
// with CR0.TS, another program's registers (SDM vol. 1, 10.5 and 13; vol. 3A, 2.5 and 13).
//
// A round loads random contents, executes instructions that change nothing, lets something happen, executes more
// of them and compares what is stored then. FIP, FOP and FDP are not compared: vendors differ in when they are kept.
#include "lab.h"

#define AREA 1024 // FXSAVE or XSAVE area, with a guard behind
static u8 before[AREA] __attribute__((aligned(64))), after[AREA] __attribute__((aligned(64)));
static u8 other[AREA] __attribute__((aligned(64))), kept[AREA] __attribute__((aligned(64)));
static u8 data[3 * 4096] __attribute__((aligned(4096)));
static bool avx;

static u32 random_state = 1;
static u32 random32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static void put(u8 *area, u32 at, u32 size, u64 v)
{
    for (u32 i = 0; i < size; i++)
        area[at + i] = (u8)(v >> 8 * i);
}

// A state with every exception masked and none pending.
static void fill(u8 *area)
{
    static const u32 rounding[] = {0, 0, 0, 0x2000, 0x4000, 0x6000};
    for (u32 i = 0; i < AREA; i++)
        area[i] = i >= 32 && i < 416 ? (u8)random32() : 0;
    put(area, 0, 2, 0x37f | (random32() & 0xc00));
    put(area, 2, 2, random32() & 0x7f3f & ~0x80u);
    put(area, 4, 1, random32());
    put(area, 24, 4, 0x1f80u | (random32() & 0x803f) | rounding[random32() % 6]);
    for (u32 i = 0; i < 8; i++) // the reserved part of an x87 register
        put(area, 32 + 16 * i + 10, 6, 0);
    if (avx) {
        put(area, 512, 8, 7);
        for (u32 i = 576; i < 832; i++)
            area[i] = (u8)random32();
    }
}

static void load(u8 *area)
{
    if (avx)
        __asm__ volatile("xrstor (%0)" : : "r"(area), "a"(7), "d"(0) : "memory");
    else
        __asm__ volatile("fxrstor (%0)" : : "r"(area) : "memory");
}
static void store(u8 *area)
{
    for (u32 i = 0; i < AREA; i++)
        area[i] = 0;
    if (avx)
        __asm__ volatile("xsave (%0)" : : "r"(area), "a"(7), "d"(0) : "memory");
    else
        __asm__ volatile("fxsave (%0)" : : "r"(area) : "memory");
}

// Changes nothing, but for what the processor has in use.
static void use(u32 what)
{
    if (what & 1)
        __asm__ volatile("paddd %%xmm1, %%xmm0; psubd %%xmm1, %%xmm0; pxor %%xmm7, %%xmm3; pxor "
                         "%%xmm7, %%xmm3" ::
                             : "memory");
    if (what & 2)
        __asm__ volatile("fnop; fwait" ::: "memory");
    if (what & 4) // a store and a load of its own
        __asm__ volatile("movups %%xmm5, (%0); movups (%0), %%xmm5" : : "r"(data + 64) : "memory");
    if (what & 8) // across a page's end
        __asm__ volatile("movups %%xmm6, (%0); movups (%0), %%xmm6"
                         :
                         : "r"(data + 4090)
                         : "memory");
    if ((what & 16) && avx)
        __asm__ volatile("vmovups %%ymm2, (%0); vmovups (%0), %%ymm2; vmovaps %%ymm4, %%ymm4"
                         :
                         : "r"(data + 4080)
                         : "memory");
    if (what & 32) // MXCSR through memory
        __asm__ volatile("stmxcsr (%0); ldmxcsr (%0)" : : "r"(data) : "memory");
    if (what & 64) // and the control word
        __asm__ volatile("fnstcw (%0); fldcw (%0)" : : "r"(data) : "memory");
}

// --- what happens in between ------------------------------------------------------------------------------------

static void nothing(void)
{
}
static void ports(void)
{
    out8(0x80, in8(0x61));
}
static void identify(void)
{
    lab_cpuid(0, 0);
}
static void device(void)
{
    (void)*(volatile u32 *)0xfee00030ul;
}
static void crossing(void)
{
    *(volatile u32 *)(data + 4094) = random32();
    (void)*(volatile u32 *)(data + 8190);
}
static void strings(void)
{
    u8 *to = data + 4000, *from = data + 8000;
    ulong n = 300;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    n = 7;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0) : "memory");
}
static void interrupt(void)
{
    __asm__ volatile("int $0x80" ::: "memory");
}
static bool invalid_due;
static void invalid(void)
{
    invalid_due = true;
    __asm__ volatile("ud2" ::: "memory");
}
static void message(void) // an interrupt of the local APIC
{
    *(volatile u32 *)0xfee000f0ul = 0x1ff;
    *(volatile u32 *)0xfee00300ul = 0x40081;
    __asm__ volatile("sti; nop; nop; cli" ::: "memory");
}
static void lazily(void)
{
    lab_set_cr0(lab_cr0() | 8);
}
static void task(void) // another program runs
{
    store(kept);
    load(other);
    use(random32());
    fill(other);
    load(kept);
}
static void pages(void)
{
    ulong sum = 0;
    for (u32 i = 0; i < 700; i++)
        sum += *(volatile u32 *)(0x100000ul + 4096 * i);
    *(volatile ulong *)data = sum;
}
static void flush(void)
{
    lab_set_cr3(lab_cr3());
}
static void modified(void)
{
    u8 *code = data + 8192 + 64 * (random32() % 32);
    code[0] = 0xb8; // mov eax, imm32; ret
    put(code, 1, 4, random32());
    code[5] = 0xc3;
    ((void (*)(void))(ulong)code)();
}
static void user_code(void *argument)
{
    (void)argument;
    __asm__ volatile("paddd %%xmm1, %%xmm0; psubd %%xmm1, %%xmm0" ::: "memory");
}
static void user(void)
{
    lab_user(user_code, NULL);
}

static const struct {
    const char *name;
    void (*function)(void);
} events[] = {
    {"nothing", nothing},   {"ports", ports},       {"cpuid", identify}, {"device", device},
    {"crossing", crossing}, {"strings", strings},   {"INT", interrupt},  {"#UD", invalid},
    {"interrupt", message}, {"CR0.TS", lazily},     {"task", task},      {"pages", pages},
    {"TLB flush", flush},   {"new code", modified}, {"ring 3", user},
};
#define EVENTS (sizeof(events) / sizeof(events[0]))

static bool on_interrupt(struct lab_trap *t)
{
    (void)t;
    return true;
}
static bool on_message(struct lab_trap *t)
{
    (void)t;
    *(volatile u32 *)0xfee000b0ul = 0;
    return true;
}
static bool on_invalid(struct lab_trap *t)
{
    if (!invalid_due)
        return false; // the end of lab_user()
    invalid_due = false;
    lab_set_ip(t, t->ip + 2);
    return true;
}
static bool on_absent(struct lab_trap *t)
{
    (void)t;
    __asm__ volatile("clts");
    return true;
}

static bool same(void)
{
    const u32 end = avx ? 832 : sizeof(ulong) == 8 ? 416 : 288;
    for (u32 i = 0; i < end; i++) {
        if ((i >= 5 && i < 24) || (i >= 28 && i < 32) || (i >= 416 && i < 576))
            continue;
        if (avx && sizeof(ulong) == 4 && ((i >= 288 && i < 416) || i >= 704))
            continue;
        if (before[i] != after[i])
            return lab_check(false, "byte %u is %x, was %x", i, after[i], before[i]);
    }
    return true;
}

static void rounds(u32 event, u32 count)
{
    u32 good = 0;
    lab_section(events[event].name);
    for (u32 n = 0; n < count; n++) {
        fill(before);
        const u32 first = random32(), second = random32();
        load(before);
        use(first);
        events[event].function();
        use(second);
        if (n & 1) { // and something else before they are looked at
            events[(event + n) % EVENTS].function();
            use(first >> 8);
        }
        store(after);
        if (!same())
            break;
        good++;
    }
    lab_equal("rounds", good, count);
}

int main(void)
{
    lab_handler[VEC_LAB] = on_interrupt;
    lab_handler[VEC_UD] = on_invalid;
    lab_handler[VEC_NM] = on_absent;
    lab_handler[0x81] = on_message;
    const ulong cr4 = lab_cr4(), cr0 = lab_cr0();
    lab_set_cr0((cr0 | 2) & ~(ulong)0xc); // MP, neither EM nor TS
    lab_set_cr4(cr4 | 0x600);
    fill(other);
    for (u32 event = 0; event < EVENTS; event++)
        rounds(event, 200);
    if (lab_has(1, 0, 2, 26) && lab_has(1, 0, 2, 28)) {
        lab_set_cr4(cr4 | 0x40600);
        __asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
        avx = true;
        fill(other);
        for (u32 event = 0; event < EVENTS; event++)
            rounds(event, 200);
    }
    lab_set_cr4(cr4);
    lab_set_cr0(cr0);
    return 0;
}
