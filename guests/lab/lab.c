// SPDX-License-Identifier: Apache-2.0
// Start, descriptor tables, and the way in and out of a tried state. See lab.h.
#include "lab.h"
#include "private.h"

extern u32 lab_boot_magic, lab_boot_info;
extern ulong lab_frame_sp, lab_frame_ss;
void lab_enter_raw(const struct lab_state *state);
void lab_sysexit_raw(ulong ip, ulong sp, ulong flags);
void lab_call_raw(void (*function)(void *), void *argument);
extern char lab_user_return[];

// (Constants: boot.S loads the table before any C has run.)
#ifdef __x86_64__
#define CODE0_BITS 0x00af9b000000ffff
#define CODE3_BITS 0x00affb000000ffff
#else
#define CODE0_BITS 0x00cf9b000000ffff
#define CODE3_BITS 0x00cffb000000ffff
#endif
u64 lab_gdt[64] __attribute__((aligned(16))) = {
    [SEL_CODE0 / 8] = CODE0_BITS,
    [SEL_DATA0 / 8] = 0x00cf93000000ffff,
    [SEL_CODE3 / 8] = CODE3_BITS,
    [SEL_DATA3 / 8] = 0x00cff3000000ffff,
    [SEL_CODE16 / 8] = 0x00009b000000ffff,
    [SEL_DATA16 / 8] = 0x000093000000ffff,
    [SEL_CODE16_3 / 8] = 0x0000fb000000ffff,
    [SEL_CODE32 / 8] = 0x00cf9b000000ffff,
    [SEL_CODE32_3 / 8] = 0x00cffb000000ffff,
    [SEL_DATA16_3 / 8] = 0x0000f3000000ffff,
};
u64 lab_ldt[32] __attribute__((aligned(16)));
struct lab_gate lab_idt[256] __attribute__((aligned(16)));
struct lab_tss lab_tss __attribute__((aligned(256)));
bool (*lab_handler[256])(struct lab_trap *trap);

static u32 trials;
static int tell_trials = -1;
u32 lab_ended;      // 1: by a trap, not by the function's return; 2: the monitor gave it up
static u32 running; // runs that have begun and not ended
static struct lab_trap trap;
static u8 ring0_stack[16384] __attribute__((aligned(16)));
static u8 user_stack[16384] __attribute__((aligned(16)));

void lab_gate_set(struct lab_gate *gate, ulong offset, u16 selector, u8 access, u8 ist)
{
    gate->offset_low = (u16)offset;
    gate->selector = selector;
    gate->info = (u16)(access << 8 | ist);
#ifdef __x86_64__
    gate->offset_middle = (u16)(offset >> 16);
    gate->offset_high = (u32)(offset >> 32);
    gate->reserved = 0;
#else
    gate->offset_high = (u16)(offset >> 16);
#endif
}

void lab_gate_default(u32 vector)
{
    bool open = vector == VEC_BP || vector == VEC_OF || vector == VEC_LAB;
    lab_gate_set(&lab_idt[vector], (ulong)lab_stubs + vector * 16, SEL_CODE0, open ? 0xee : 0x8e,
                 0);
}

static void tables_load(void)
{
    struct {
        u16 limit;
        ulong base;
    } __attribute__((packed)) idtr = {sizeof(lab_idt) - 1, (ulong)lab_idt};

    for (u32 i = 0; i < 256; i++)
        lab_gate_default(i);
    for (u32 i = 0; i < sizeof(lab_tss.bitmap); i++)
        lab_tss.bitmap[i] = 0xff;
#ifdef __x86_64__
    lab_tss.rsp[0] = (ulong)(ring0_stack + sizeof(ring0_stack));
    lab_tss.iomap = offsetof(struct lab_tss, bitmap);
#else
    lab_tss.esp0 = (ulong)(ring0_stack + sizeof(ring0_stack));
    lab_tss.ss0 = SEL_DATA0;
    lab_tss.iomap = offsetof(struct lab_tss, bitmap) + 32;
#endif
    *lab_gdt_entry(SEL_TSS) = lab_descriptor((u32)(ulong)&lab_tss, sizeof(lab_tss) - 1, 0x89, 0);
    *lab_gdt_entry(SEL_LDT) = lab_descriptor((u32)(ulong)lab_ldt, sizeof(lab_ldt) - 1, 0x82, 0);
    __asm__ volatile("lidt %0; lldt %w1; ltr %w2"
                     :
                     : "m"(idtr), "r"(SEL_LDT), "r"(SEL_TSS)
                     : "memory");
}

// From the stubs, on a stack of its own. 0: go on with what was interrupted.
u32 lab_trapped(void);
u32 lab_trapped(void)
{
#ifdef __x86_64__
    ulong *saved = (ulong *)lab_frame_sp; // GS FS ES DS, registers from AX up, vector, error, frame
    ulong *frame = saved + 4 + 16;
    for (u32 i = 0; i < 16; i++)
        trap.gpr[i] = saved[4 + i];
    trap.sp = frame[5];
    trap.ss = frame[6];
#else
    // The stack may be a small one, or 16 bits wide.
    const u64 *table = lab_frame_ss & 4 ? lab_ldt : lab_gdt;
    u64 d = table[(lab_frame_ss & 0xffff) >> 3];
    u32 base = (u32)(d >> 16 & 0xffffff) | (u32)(d >> 56) << 24;
    u32 sp = d >> 54 & 1 ? lab_frame_sp : lab_frame_sp & 0xffff;
    ulong *saved = (ulong *)(base + sp); // GS FS ES DS, registers from DI up to AX, vector, error
    ulong *frame = saved + 4 + 8;
    for (u32 i = 0; i < 8; i++)
        trap.gpr[i] = saved[4 + 7 - i];
    if (frame[4] & FLAG_VM || frame[3] & 3) {
        trap.sp = frame[5];
        trap.ss = frame[6];
    } else {
        trap.sp = lab_frame_sp + 17 * 4;
        trap.ss = lab_frame_ss & 0xffff;
    }
#endif
    trap.gs = saved[0] & 0xffff;
    trap.fs = saved[1] & 0xffff;
    trap.es = saved[2] & 0xffff;
    trap.ds = saved[3] & 0xffff;
    trap.vector = (u32)frame[0];
    trap.error = (u32)frame[1];
    trap.ip = frame[2];
    trap.cs = frame[3];
    trap.flags = frame[4];
#ifndef __x86_64__
    trap.cs &= 0xffff;
    trap.ss &= 0xffff;
    if (trap.flags & FLAG_VM) {
        trap.es = frame[7] & 0xffff;
        trap.ds = frame[8] & 0xffff;
        trap.fs = frame[9] & 0xffff;
        trap.gs = frame[10] & 0xffff;
    }
#endif
    trap.gpr[4] = trap.sp;
    trap.cr2 = lab_cr2();
    trap.dr6 = lab_dr6();
    trap.frame = (ulong)(frame + 1);
    if (lab_handler[trap.vector] && lab_handler[trap.vector](&trap))
        return 0;
    if (!running) { // there is nothing to go back to
        lab_direct();
        lab_check(false, "outside of a trial: vector %u error %x at %lx:%lx cr2 %lx", trap.vector,
                  trap.error, trap.cs, trap.ip, trap.cr2);
        lab_finish();
    }
    lab_ended = 1;
    return 1;
}

void lab_set_ip(struct lab_trap *t, ulong ip)
{
    ((ulong *)t->frame)[1] = t->ip = ip;
}

void lab_set_flags(struct lab_trap *t, ulong flags)
{
    ((ulong *)t->frame)[3] = t->flags = flags;
}

static const struct lab_trap skipped = {.vector = 0xffff};

static const struct lab_trap *ended(void)
{
    if (lab_ended == 2) {
        lab_skipping = true;
        return &skipped;
    }
    if (!lab_ended || (trap.vector == VEC_UD && trap.ip == (ulong)lab_user_return))
        return NULL;
    return &trap;
}

// "trials" on the command line: the trial's number goes to port E9h. A monitor that stops
// in the trial then goes on at lab_gap, in the state of this moment.
static void trial_begin(void)
{
    trials++;
    if (tell_trials < 0)
        tell_trials = lab_asked("trials");
    if (tell_trials)
        out32(0xe9, trials);
    lab_skipping = false;
}

const struct lab_trap *lab_try(void (*function)(void *), void *argument)
{
    trial_begin();
    running++;
    lab_call_raw(function, argument);
    running--;
    return ended();
}

void lab_user_state(struct lab_state *state, void (*function)(void *), void *argument)
{
    ulong *top = (ulong *)(user_stack + sizeof(user_stack) - 64);

    *state = (struct lab_state){.ip = (ulong)function,
                                .cs = SEL_CODE3,
                                .flags = 2,
                                .ss = SEL_DATA3,
                                .ds = SEL_DATA3,
                                .es = SEL_DATA3,
                                .fs = SEL_DATA3,
                                .gs = SEL_DATA3};
#ifdef __x86_64__
    state->gpr[7] = (ulong)argument;
#else
    top[1] = (ulong)argument;
#endif
    top[0] = (ulong)lab_user_return;
    state->sp = (ulong)top;
}

const struct lab_trap *lab_enter(const struct lab_state *state)
{
    trial_begin();
    running++;
    lab_enter_raw(state);
    running--;
    return ended();
}

static const struct lab_trap *user(void (*function)(void *), void *argument, ulong flags)
{
    struct lab_state state;

    lab_user_state(&state, function, argument);
    state.flags = flags;
#ifndef __x86_64__
    static int sysexit = -1; // "sysexit": for monitors that lack IRET to ring 3
    if (sysexit < 0) {
        sysexit = lab_asked("sysexit");
        if (sysexit)
            lab_wrmsr(0x174, SEL_CODE0);
    }
    if (sysexit) {
        trial_begin();
        running++;
        lab_sysexit_raw(state.ip, state.sp, state.flags);
        running--;
        return ended();
    }
#endif
    return lab_enter(&state);
}

const struct lab_trap *lab_user(void (*function)(void *), void *argument)
{
    return user(function, argument, 2);
}

const struct lab_trap *lab_user_iopl3(void (*function)(void *), void *argument)
{
    return user(function, argument, 2 | FLAG_IOPL);
}

bool lab_has(u32 leaf, u32 subleaf, u32 reg, u32 bit)
{
    if (lab_cpuid(leaf & 0x80000000, 0).a < leaf)
        return false;
    struct lab_cpuid r = lab_cpuid(leaf, subleaf);
    return (reg == 0 ? r.a : reg == 1 ? r.b : reg == 2 ? r.c : r.d) >> bit & 1;
}

bool lab_is_amd(void)
{
    u32 b = lab_cpuid(0, 0).b;
    return b == 0x68747541 || b == 0x6f677948; // Auth, Hygo
}

const char *lab_command(void)
{
    const u32 *info = (const u32 *)(ulong)lab_boot_info;

    if (lab_boot_magic == 0x2badb002)
        return info[0] & 4 ? (const char *)(ulong)info[4] : "";
    return info[6] ? (const char *)(ulong)info[6] : ""; // hvm_start_info.cmdline_paddr
}

bool lab_asked(const char *word)
{
    for (const char *at = lab_command(); *at; at++) {
        const char *a = at, *b = word;
        while (*b && *a == *b)
            a++, b++;
        if (!*b && (*a == 0 || *a == ' ') && (at == lab_command() || at[-1] == ' '))
            return true;
    }
    return false;
}

u32 lab_memory_kib(void)
{
    const u32 *info = (const u32 *)(ulong)lab_boot_info;

    if (lab_boot_magic == 0x2badb002)
        return info[0] & 1 ? info[2] : 0;
    const u64 *map = (const u64 *)(ulong)info[10]; // base, size, type
    for (u32 i = 0; i < info[12]; i++, map += 3)
        if (map[0] == 0x100000)
            return (u32)(map[1] >> 10);
    return 0;
}

void lab_main(void);
void lab_main(void)
{
    tables_load();
    main();
    lab_finish();
}
