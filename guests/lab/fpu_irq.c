// SPDX-License-Identifier: Apache-2.0
// x87 errors with CR0.NE = 0 (SDM vol. 1, 8.7.2, 8.7.3 and appendix D; the PC/AT's IRQ 13): the next waiting
// instruction asserts FERR#, and the processor waits before it for the interrupt. A write to port F0h takes the
// request back and asserts IGNNE#, with which waiting instructions go on, until the error is cleared.
#include "lab.h"

#include "fpu.h"

enum clear {
    CLEAR_FNCLEX,
    CLEAR_FNINIT,
    CLEAR_FNSAVE,
    CLEAR_FNSTENV, // it masks all
    CLEAR_FLDCW,   // waits: only IGNNE# lets it
    CLEAR_FLDENV,  // so does it
    CLEAR_NOTHING,
    CLEARS
};
static const char *const clear_names[] = {"fnclex", "fninit", "fnsave", "fnstenv",
                                          "fldcw",  "fldenv", "nothing"};
static volatile u32 interrupts, clear;
static volatile ulong told_ip;
static u16 unmasked = ZE_UNMASKED, masked = 0x37f;
static float one = 1, nothing, result;
static u8 image[108], empty[28];

static void clear_error(u32 how)
{
    if (how == CLEAR_FNCLEX)
        __asm__ volatile("fnclex");
    else if (how == CLEAR_FNINIT)
        __asm__ volatile("fninit");
    else if (how == CLEAR_FNSAVE)
        __asm__ volatile("fnsave %0" : "=m"(image));
    else if (how == CLEAR_FNSTENV)
        __asm__ volatile("fnstenv %0" : "=m"(image));
    else if (how == CLEAR_FLDCW)
        __asm__ volatile("fldcw %0" : : "m"(masked));
    else if (how == CLEAR_FLDENV)
        __asm__ volatile("fldenv %0" : : "m"(empty));
}

static bool irq13(struct lab_trap *t)
{
    interrupts++;
    told_ip = t->ip;
    out8(0xf0, 0);
    clear_error(clear);
    out8(0xa0, 0x20);
    out8(0x20, 0x20);
    return true;
}

static void pics(u8 master, u8 slave)
{
    out8(0x20, 0x11);
    out8(0xa0, 0x11);
    out8(0x21, 0x20);
    out8(0xa1, 0x28);
    out8(0x21, 4);
    out8(0xa1, 2);
    out8(0x21, 1);
    out8(0xa1, 1);
    out8(0x21, master);
    out8(0xa1, slave);
}

static u16 status(void)
{
    u16 fsw = 0xffff;
    __asm__ volatile("fnstsw %0" : "+m"(fsw));
    return fsw;
}

static void error_pends(u16 *control)
{
    __asm__ volatile("fninit\nfldcw %0\nflds %1\nfdivs %2"
                     :
                     : "m"(*control), "m"(one), "m"(nothing));
}

// Each with interrupts open for a while; the address of the waiting instruction comes back.
#ifdef __x86_64__
#define AT "lea 1f(%%rip), %0\n"
#else
#define AT "mov $1f, %0\n"
#endif
#define WAIT(name, before, instruction)                                   \
    static ulong name(void)                                               \
    {                                                                     \
        ulong at;                                                         \
        __asm__ volatile(AT "sti\n" before "1: " instruction "\nnop\ncli" \
                         : "=&r"(at), "+m"(result)                        \
                         :                                                \
                         : "memory");                                     \
        return at;                                                        \
    }
WAIT(wait_fwait, "nop\n", "fwait")
WAIT(wait_shadow, "", "fwait") // in the shadow of STI
WAIT(wait_fldz, "nop\n", "fldz")
WAIT(wait_fnop, "nop\n", "fnop")
WAIT(wait_fsts, "nop\n", "fsts %1")
WAIT(wait_emms, "nop\n", "emms")
static const struct {
    const char *name;
    ulong (*run)(void);
} waiting[] = {{"fwait", wait_fwait}, {"fwait after sti", wait_shadow},
               {"fldz", wait_fldz},   {"fnop", wait_fnop},
               {"fsts", wait_fsts},   {"emms", wait_emms}};

// The handler clears: the waiting instruction finds no error any more.
static void handler_clears(void)
{
    for (u32 i = 0; i < sizeof(waiting) / sizeof(waiting[0]); i++) {
        if (waiting[i].run == wait_emms && !lab_has(1, 0, 3, 23))
            continue;
        for (clear = 0; clear < CLEAR_NOTHING; clear++) {
            u32 before = interrupts;
            error_pends(&unmasked);
            lab_check(status() & 0x80, "%s: the error pends", waiting[i].name);
            lab_equal("no interrupt yet", interrupts, before);
            ulong at = waiting[i].run();
            lab_check(interrupts == before + 1, "%s, %s: %u interrupts", waiting[i].name,
                      clear_names[clear], interrupts - before);
            lab_check(told_ip == at, "%s, %s: at %lx, want %lx", waiting[i].name,
                      clear_names[clear], told_ip, at);
            lab_check(!(status() & 0x80), "%s, %s: cleared", waiting[i].name, clear_names[clear]);
        }
    }
}

// It does not: IGNNE# lets instructions go on, each with its own result, and the error stays.
static void handler_ignores(void)
{
    clear = CLEAR_NOTHING;
    for (u32 i = 0; i < 2; i++) {
        u32 before = interrupts;
        error_pends(&unmasked);
        u16 fsw = status();
        lab_equal("pending", fsw, FSW_PENDING);
        wait_fldz();
        lab_equal("one interrupt", interrupts, before + 1);
        lab_equal("pushed, and pending", status(), FSW_PENDING - 0x800);
        result = 5;
        wait_fsts();
        lab_check(*(u32 *)&result == 0, "stored: %x", *(u32 *)&result);
        __asm__ volatile("fld1\nfistps %0" : "=m"(image));
        lab_equal("stored as integer", image[0] | image[1] << 8, 1);
        wait_fwait();
        // An error of its own keeps the result from memory; both pend.
        __asm__ volatile("fldz\nfdivs %1\nfstps %0" : "+m"(result) : "m"(nothing));
        lab_equal("still one interrupt", interrupts, before + 1);
        lab_equal("another masked error", status() & 0xff, 0x85); // ZE and IE
        clear_error(CLEAR_FNCLEX);
        lab_equal("cleared", status() & 0xff, 0);
        __asm__ volatile("fwait");
    }
    // FNCLEX ended IGNNE#, too: the next error is told again.
    clear = CLEAR_FNCLEX;
    u32 before = interrupts;
    error_pends(&unmasked);
    ulong at = wait_fwait();
    lab_equal("told again", interrupts, before + 1);
    lab_equal("at", told_ip, at);
}

// With IF clear only an NMI gets through; here the request itself is one (LINT0 programmed so).
#define LINT0 (*(volatile u32 *)0xfee00350)
static u32 nmis;
static bool nmi(struct lab_trap *t)
{
    nmis++;
    told_ip = t->ip;
    if (clear == CLEAR_NOTHING) { // opens the interrupted program to the interrupt
        LINT0 = 0x700;
        lab_set_flags(t, t->flags | FLAG_IF);
    } else {
        out8(0xf0, 0);
        clear_error(clear);
    }
    return true;
}

static void interrupts_off(void)
{
    u32 lint0 = LINT0, before = interrupts;
    ulong at;

    lab_handler[VEC_NMI] = nmi;
    LINT0 = 0x400;
    clear = CLEAR_FNCLEX;
    error_pends(&unmasked);
    __asm__ volatile(AT "1: fwait" : "=r"(at) : : "memory");
    lab_equal("one NMI", nmis, 1);
    lab_equal("at", told_ip, at);
    lab_equal("no interrupt", interrupts, before);

    clear = CLEAR_NOTHING;
    error_pends(&unmasked);
    __asm__ volatile(AT "1: fwait\ncli" : "=r"(at) : : "memory");
    lab_equal("one more NMI", nmis, 2);
    lab_equal("the interrupt that waited", interrupts, before + 1);
    lab_equal("at", told_ip, at);
    clear_error(CLEAR_FNCLEX);
    lab_handler[VEC_NMI] = NULL;
    LINT0 = lint0;
}

void fpu_irq13(void)
{
    ulong cr0 = lab_cr0();

    lab_section("IRQ 13");
    if (lab_asked("trials")) // the small board has no such line
        return;
    __asm__ volatile("fninit\nfnstenv %0\nfninit" : "=m"(empty));
    pics(0xfb, 0xdf); // cascade and IRQ 13
    lab_handler[0x2d] = irq13;
    lab_set_cr0(cr0 & ~0x20ul);
    handler_clears();
    handler_ignores();
    if (lab_has(1, 0, 3, 9))
        interrupts_off();
    // A masked error makes none, and with NE it is #MF (report_mf) and no interrupt.
    u32 before = interrupts;
    error_pends(&masked);
    wait_fwait();
    lab_equal("masked", interrupts, before);
    lab_set_cr0(cr0 | 0x20);
    error_pends(&unmasked);
    __asm__ volatile("sti\nnop\nnop\nnop\ncli");
    lab_equal("no interrupt with NE", interrupts, before);
    __asm__ volatile("fninit");
    lab_handler[0x2d] = NULL;
    lab_set_cr0(cr0);
    pics(0xff, 0xff);
}
