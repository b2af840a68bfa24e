// SPDX-License-Identifier: Apache-2.0
// Which of two events on one instruction comes (SDM vol. 3, table 6-2, "Priority Among Concurrent Events"; APM vol. 2,
// table 8-9). SI leads to page A, DI and BX to page B, the stack where asked to page C; none of them is there.
#include "probe.h"

#define PAGE_A 0xa000u
#define PAGE_B 0xb000u
#define PAGE_C 0xc000u
#define CR0_EM 4u
#define CR0_TS 8u

enum {
    STACK = 1, // SP in page C
    EM = 2,
    TS = 4,
    PENDING = 8, // an x87 exception
    AC = 0x10,   // alignment checks, and DI odd
    ZERO = 0x20, // DX:AX too large for any divisor that is not there
    NULL_DS = 0x40,
    ODD = 0x80, // DI odd
};
enum {
    A16 = 1,
    A32 = 2,
    A64 = 4,
    LEGACY = 3,
    ALL = 7,
    W = 2, // page fault of a write
    U = 4  // added for ring 3
};

static const struct pair {
    const char *name;
    u8 code[8], length, modes, rings, setup;
    u8 vector, error;
    u16 page; // for #PF
} pairs[] = {
    // #UD before anything of the operand.
    {"LOCK MOV, page", {0xf0, 0x8b, 0x07}, 3, ALL, 3, 0, VEC_UD, 0, 0},
    {"reserved group entry, page", {0x0f, 0xc7, 0x07}, 3, ALL, 3, 0, VEC_UD, 0, 0},
    {"SSE with EM, page", {0x0f, 0x28, 0x07}, 3, ALL, 3, EM, VEC_UD, 0, 0},
    {"SSE with EM and TS, page", {0x0f, 0x28, 0x07}, 3, ALL, 3, EM | TS, VEC_UD, 0, 0},
    {"MMX with EM and TS, page", {0x0f, 0x6f, 0x07}, 3, ALL, 3, EM | TS, VEC_UD, 0, 0},
    {"MOV to CS, page", {0x8e, 0x0f}, 2, ALL, 3, 0, VEC_UD, 0, 0},
    {"LOCK HLT in ring 3", {0xf0, 0xf4}, 2, ALL, 2, 0, VEC_UD, 0, 0},
    {"LOCK x87, TS", {0xf0, 0xd9, 0x07}, 3, ALL, 3, TS, VEC_UD, 0, 0},
    // #NM before operand and #MF.
    {"x87 with TS, page", {0xd9, 0x07}, 2, ALL, 3, TS, VEC_NM, 0, 0},
    {"x87 with EM, page", {0xd9, 0x07}, 2, ALL, 3, EM, VEC_NM, 0, 0},
    {"SSE with TS, page", {0x0f, 0x28, 0x07}, 3, ALL, 3, TS, VEC_NM, 0, 0},
    {"SSE with TS, not aligned", {0x0f, 0x28, 0x07}, 3, ALL, 3, TS | ODD, VEC_NM, 0, 0},
    {"MMX with TS, #MF pending", {0x0f, 0x6f, 0x07}, 3, ALL, 3, TS | PENDING, VEC_NM, 0, 0},
    {"WAIT with TS, #MF pending", {0x9b}, 1, ALL, 3, TS | PENDING, VEC_NM, 0, 0},
    // #MF of before, then the operand.
    {"x87 load, #MF pending, page", {0xd9, 0x07}, 2, ALL, 3, PENDING, VEC_MF, 0, 0},
    {"x87 store, #MF pending, page", {0xd9, 0x1f}, 2, ALL, 3, PENDING, VEC_MF, 0, 0},
    {"MMX load, #MF pending, page", {0x0f, 0x6f, 0x07}, 3, ALL, 3, PENDING, VEC_MF, 0, 0},
    {"FNSTCW, #MF pending, page", {0xd9, 0x3f}, 2, ALL, 3, PENDING, VEC_PF, W, PAGE_B},
    {"MOV, #MF pending, page", {0x8b, 0x07}, 2, ALL, 3, PENDING, VEC_PF, 0, PAGE_B},
    // Privilege before the operand.
    {"LGDT, page", {0x0f, 0x01, 0x17}, 3, ALL, 2, 0, VEC_GP, 0, 0},
    {"LIDT, page", {0x0f, 0x01, 0x1f}, 3, ALL, 2, 0, VEC_GP, 0, 0},
    {"LMSW, page", {0x0f, 0x01, 0x37}, 3, ALL, 2, 0, VEC_GP, 0, 0},
    {"LLDT, page", {0x0f, 0x00, 0x17}, 3, ALL, 2, 0, VEC_GP, 0, 0},
    {"LTR, page", {0x0f, 0x00, 0x1f}, 3, ALL, 2, 0, VEC_GP, 0, 0},
    {"LGDT, page", {0x0f, 0x01, 0x17}, 3, ALL, 1, 0, VEC_PF, 0, PAGE_B},
    {"LTR, page", {0x0f, 0x00, 0x1f}, 3, ALL, 1, 0, VEC_PF, 0, PAGE_B},
    {"INS, page", {0x6c}, 1, ALL, 2, 0, VEC_GP, 0, 0},
    {"OUTS, page", {0x6e}, 1, ALL, 2, 0, VEC_GP, 0, 0},
    // Segment before page before alignment; MOVAPS's own alignment is a #GP before the page.
    {"DS null, page", {0x8b, 0x07}, 2, LEGACY, 3, NULL_DS, VEC_GP, 0, 0},
    {"DS null, odd with AC", {0x8b, 0x07}, 2, LEGACY, 2, NULL_DS | AC, VEC_GP, 0, 0},
    {"MOVAPS not aligned, page", {0x0f, 0x28, 0x07}, 3, ALL, 3, ODD, VEC_GP, 0, 0},
    // The operand before what is computed from it.
    {"DIV of a page", {0xf7, 0x37}, 2, ALL, 3, ZERO, VEC_PF, 0, PAGE_B},
    {"BOUND in a page", {0x62, 0x07}, 2, LEGACY, 3, 0, VEC_PF, 0, PAGE_B},
    {"MOV ES of a page", {0x8e, 0x07}, 2, ALL, 3, 0, VEC_PF, 0, PAGE_B},
    {"LES in a page", {0xc4, 0x07}, 2, LEGACY, 3, 0, VEC_PF, 0, PAGE_B},
    // Of two operands in memory: what is read before what is written.
    {"MOVS", {0xa4}, 1, ALL, 3, 0, VEC_PF, 0, PAGE_A},
    {"REP MOVS", {0xf3, 0xa4}, 2, ALL, 3, 0, VEC_PF, 0, PAGE_A},
    {"PUSH m", {0xff, 0x37}, 2, ALL, 3, STACK, VEC_PF, 0, PAGE_B},
    {"CALL m", {0xff, 0x17}, 2, ALL, 3, STACK, VEC_PF, 0, PAGE_B},
    {"CALL far m", {0xff, 0x1f}, 2, ALL, 3, STACK, VEC_PF, 0, PAGE_B},
    {"POP m", {0x8f, 0x07}, 2, ALL, 2, STACK, VEC_PF, 0, PAGE_C},
    {"PUSH", {0x50}, 1, ALL, 2, STACK, VEC_PF, W, PAGE_C},
    {"POP", {0x58}, 1, ALL, 2, STACK, VEC_PF, 0, PAGE_C},
    {"PUSHA", {0x60}, 1, LEGACY, 2, STACK, VEC_PF, W, PAGE_C},
    {"POPA", {0x61}, 1, LEGACY, 2, STACK, VEC_PF, 0, PAGE_C},
    {"RET", {0xc3}, 1, ALL, 2, STACK, VEC_PF, 0, PAGE_C},
    {"RETF", {0xcb}, 1, ALL, 2, STACK, VEC_PF, 0, PAGE_C},
    {"IRET", {0xcf}, 1, ALL, 2, STACK, VEC_PF, 0, PAGE_C},
    {"ENTER", {0xc8, 4, 0, 0}, 4, ALL, 2, STACK, VEC_PF, W, PAGE_C},
    {"ENTER nested", {0xc8, 4, 0, 2}, 4, ALL, 2, STACK, VEC_PF, W, PAGE_C},
    {"PUSHF", {0x9c}, 1, ALL, 2, STACK, VEC_PF, W, PAGE_C},
    // A write that reads first is a write to the page tables' eyes.
    {"XCHG", {0x86, 0x07}, 2, ALL, 3, 0, VEC_PF, W, PAGE_B},
    {"ADD to memory", {0x00, 0x07}, 2, ALL, 3, 0, VEC_PF, W, PAGE_B},
    {"CMP with memory", {0x38, 0x07}, 2, ALL, 3, 0, VEC_PF, 0, PAGE_B},
    {"CMPXCHG", {0x0f, 0xb0, 0x07}, 3, ALL, 3, 0, VEC_PF, W, PAGE_B},
    {"CMPXCHG8B", {0x0f, 0xc7, 0x0f}, 3, ALL, 3, 0, VEC_PF, W, PAGE_B},
    {"SETcc", {0x0f, 0x92, 0x07}, 3, ALL, 3, 0, VEC_PF, W, PAGE_B},
};

static ulong cr0_start;

static void one_pair(const struct pair *p, unsigned mode, unsigned ring)
{
    struct lab_state s;
    probe_begin(&s, (enum probe_mode)mode, ring);
    s.gpr[6] = PAGE_A + 0x10;
    s.gpr[3] = s.gpr[7] = PAGE_B + 0x10 + (p->setup & (AC | ODD) ? 1 : 0);
    s.gpr[1] = 2;
    if (p->setup & STACK)
        s.sp = PAGE_C + 0x80;
    if (p->setup & NULL_DS)
        s.ds = 0;
    if (p->setup & AC)
        s.flags |= FLAG_AC;
    if (p->setup & ZERO)
        s.gpr[2] = ~(ulong)0;
    probe_code(p->code, p->length);
    lab_set_cr0((cr0_start & ~0xcul) | 0x22);
    u16 cw = 0x037b;
    if (p->setup & PENDING)
        __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(cw));
    else
        __asm__ volatile("fninit");
    lab_set_cr0((cr0_start & ~0xcul) | 0x22 | (p->setup & EM ? CR0_EM : 0) |
                (p->setup & TS ? CR0_TS : 0) | (p->setup & AC ? 0x40000 : 0));
    const struct lab_trap *t = lab_enter(&s);
    lab_set_cr0(cr0_start & ~0xcul);
    __asm__ volatile("fnclex");
    lab_set_cr0(cr0_start);
    u32 error = p->error | (p->vector == VEC_PF && ring ? U : 0);
    const char *in = probe_mode_name((enum probe_mode)mode);
    if (!lab_check(t && t->vector == p->vector && t->error == error && t->ip == s.ip,
                   "%s ring %u: %s: want %u error %x, got %u error %x at +%lx cr2 %lx", in, ring,
                   p->name, p->vector, error, t ? t->vector : 999, t ? t->error : 0,
                   t ? t->ip - s.ip : 0, t ? t->cr2 : 0))
        return;
    if (p->vector == VEC_PF)
        lab_check((t->cr2 & ~0xffful) == p->page, "%s ring %u: %s: cr2 %lx, want page %x", in, ring,
                  p->name, t->cr2, p->page);
    bool same = t->flags == (s.flags | FLAG_RF) && (t->sp & 0xffff) == s.sp;
    for (unsigned i = 0; i < LAB_GPRS; i++)
        same = same && (i == 4 || t->gpr[i] == s.gpr[i]);
    lab_check(same, "%s ring %u: %s: registers and flags stay", in, ring, p->name);
}

// --- fetches -------------------------------------------------------------------------------------------------

static ulong breaks;
static ulong break_ip[4];
static bool note_break(struct lab_trap *t)
{
    if (breaks < 4)
        break_ip[breaks] = t->ip;
    breaks++;
    lab_set_dr6(0);
    lab_set_flags(t, (t->flags | FLAG_RF) & ~(ulong)FLAG_TF);
    return breaks < 10;
}

// The instruction ends `in` bytes before the page that is not there.
static const struct lab_trap *at_page_end(struct lab_state *s, const u8 *code, unsigned in)
{
    volatile u8 *to = (volatile u8 *)(ulong)(PAGE_B - in);
    for (unsigned i = 0; i < in; i++)
        to[i] = code[i];
    s->ip = PAGE_B - in;
    return lab_enter(s);
}

static void fetches(unsigned mode, unsigned ring)
{
    struct lab_state s;
    const char *in = probe_mode_name((enum probe_mode)mode);
    u8 prefixes[20];
    for (unsigned i = 0; i < sizeof(prefixes); i++)
        prefixes[i] = 0x3e;
    probe_page(PAGE_A, PAGE_P | PAGE_W | PAGE_U);
    // Too long is seen when fifteen bytes are there; fewer, and the page comes first.
    for (unsigned n = 1; n < 18; n++) {
        probe_begin(&s, (enum probe_mode)mode, ring);
        const struct lab_trap *t = at_page_end(&s, prefixes, n);
        u32 want = n >= 15 ? VEC_GP : VEC_PF;
        u32 error = want == VEC_PF && ring ? U : 0;
        if (lab_check(t && t->vector == want && t->error == error && t->ip == s.ip,
                      "%s ring %u: %u prefixes before the page: got %u error %x", in, ring, n,
                      t ? t->vector : 999, t ? t->error : 0) &&
            want == VEC_PF)
            lab_equal("CR2 of the fetch", t->cr2, PAGE_B);
    }
    // A fetch is not tried before its instruction is complete without it.
    static const u8 ud[] = {0x0f, 0x0b};
    probe_begin(&s, (enum probe_mode)mode, ring);
    lab_expect_error("UD2 at the end of the page", at_page_end(&s, ud, 2), VEC_UD, 0);
    static const u8 lock_mov[] = {0xf0, 0x8b, 0x07};
    probe_begin(&s, (enum probe_mode)mode, ring);
    lab_expect_error("LOCK MOV at the end of the page", at_page_end(&s, lock_mov, 3), VEC_UD, 0);
    static const u8 half[] = {0xb8, 0x00}; // MOV AX, imm
    probe_begin(&s, (enum probe_mode)mode, ring);
    lab_expect("immediate in the next page", at_page_end(&s, half, 2), VEC_PF);
    // Breakpoint, then the page.
    probe_begin(&s, (enum probe_mode)mode, ring);
    s.ip = PAGE_B + 4;
    breaks = 0;
    lab_handler[VEC_DB] = note_break;
    lab_set_dr0(PAGE_B + 4);
    lab_set_dr7(0x402);
    const struct lab_trap *t = lab_enter(&s);
    lab_set_dr7(0x400);
    lab_check(t && t->vector == VEC_PF && breaks == 1 && t->cr2 == PAGE_B + 4,
              "%s ring %u: breakpoint, page: %lu, %u", in, ring, breaks, t ? t->vector : 999);
    // A step, then the page of the next instruction.
    probe_begin(&s, (enum probe_mode)mode, ring);
    static const u8 jump[] = {0xff, 0xe7}; // JMP DI
    probe_code(jump, 2);
    s.gpr[7] = PAGE_B + 8;
    s.flags |= FLAG_TF;
    breaks = 0;
    t = lab_enter(&s);
    lab_check(t && t->vector == VEC_PF && breaks == 1 && break_ip[0] == PAGE_B + 8 &&
                  t->ip == PAGE_B + 8,
              "%s ring %u: step, page: %lu, %u", in, ring, breaks, t ? t->vector : 999);
    // A step that is no step: the instruction faults.
    probe_begin(&s, (enum probe_mode)mode, ring);
    probe_code(ud, 2);
    s.flags |= FLAG_TF;
    breaks = 0;
    t = lab_enter(&s);
    lab_check(t && t->vector == VEC_UD && breaks == 0 && (t->flags & FLAG_TF),
              "%s ring %u: step, #UD: %lu", in, ring, breaks);
    // Breakpoint, then a pending #MF.
    static const u8 wait[] = {0x9b};
    u16 cw = 0x037b;
    probe_begin(&s, (enum probe_mode)mode, ring);
    probe_code(wait, 1);
    lab_set_cr0((cr0_start & ~0xcul) | 0x20);
    __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(cw));
    breaks = 0;
    lab_set_dr0(PROBE_CODE);
    lab_set_dr7(0x402);
    t = lab_enter(&s);
    lab_set_dr7(0x400);
    __asm__ volatile("fnclex");
    lab_set_cr0(cr0_start);
    lab_check(t && t->vector == VEC_MF && breaks == 1, "%s ring %u: breakpoint, #MF: %lu", in, ring,
              breaks);
    lab_handler[VEC_DB] = NULL;
    probe_page(PAGE_A, 0);
}

#ifndef __x86_64__
// The limit of CS, byte by byte against the page: whichever byte comes first decides.
static void code_limit(void)
{
    static const u8 code[] = {0xb8, 1, 2, 3, 4}; // MOV EAX, imm32
    struct lab_state s;
    probe_page(PAGE_A, PAGE_P | PAGE_W | PAGE_U);
    for (unsigned ring = 0; ring < 4; ring += 3)
        for (unsigned in = 1; in < 5; in++)
            for (unsigned over = 0; over < 4; over++) { // bytes of the next page within the limit
                probe_begin(&s, PROBE_32, ring);
                *lab_gdt_entry(0xa0) = lab_descriptor(0, PAGE_B - 1 + over, 0x9a | ring << 5, 4);
                s.cs = 0xa0 | ring;
                const struct lab_trap *t = at_page_end(&s, code, in);
                u32 want = over ? VEC_PF : VEC_GP;
                lab_check(t && t->vector == want && t->ip == s.ip,
                          "limit %u beyond, %u in the page: %u", over, in, t ? t->vector : 999);
            }
    *lab_gdt_entry(0xa0) = 0;
    probe_page(PAGE_A, 0);
}
#endif

// --- interrupts against traps and faults -------------------------------------------------------------------------

#define APIC 0xfee00000ul
#define VEC_IRQ 0x93u
static volatile u32 *apic(unsigned reg)
{
    return (volatile u32 *)(APIC + reg);
}

static void interrupts(unsigned mode)
{
    static const u8 enable[] = {0xfb, 0x90, 0x90}, fault[] = {0xfb, 0x90, 0x0f, 0x0b},
                    wait[] = {0xfb, 0x90, 0x9b};
    struct lab_state s;
    const char *in = probe_mode_name((enum probe_mode)mode);
    for (unsigned i = 0; i < 4; i++) {
        probe_begin(&s, (enum probe_mode)mode, 0);
        if (i == 1)
            probe_code(fault, 4);
        else if (i == 2)
            probe_code(wait, 3);
        else
            probe_code(enable, 3);
        if (i == 3)
            s.flags |= FLAG_TF;
        u16 cw = 0x037b;
        lab_set_cr0((cr0_start & ~0xcul) | 0x20);
        if (i == 2)
            __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(cw));
        breaks = 0;
        lab_handler[VEC_DB] = note_break;
        lab_set_dr0(PROBE_CODE + 2);
        lab_set_dr7(i == 0 ? 0x402 : 0x400);
        *apic(0x300) = 0x44000 | VEC_IRQ;
        const struct lab_trap *t = lab_enter(&s);
        lab_set_dr7(0x400);
        lab_handler[VEC_DB] = NULL;
        *apic(0xb0) = 0;
        __asm__ volatile("fnclex");
        lab_set_cr0(cr0_start);
        static const char *const names[] = {"breakpoint of the next", "#UD of the next",
                                            "#MF of the next", "step"};
        // The step that ends STI comes within its shadow; its handler's IRET ends the shadow.
        ulong at = i == 3 ? 1 : 2;
        lab_check(t && t->vector == VEC_IRQ && t->ip == PROBE_CODE + at && breaks == (i == 3),
                  "%s: interrupt against %s: %u at +%lx, %lu #DB", in, names[i],
                  t ? t->vector : 999, t ? t->ip - PROBE_CODE : 0, breaks);
    }
}

int main(void)
{
    if (!probe_possible(PROBE_32, 0)) {
        lab_section("nothing");
        lab_check(true, "left out: this monitor computes ring 0 by itself");
        return 0;
    }
    ulong cr4 = lab_cr4();
    cr0_start = lab_cr0();
    probe_paging_on();
    cr0_start = lab_cr0();
    lab_set_cr4(lab_cr4() | 0x600);
    probe_page(PAGE_A, 0);
    probe_page(PAGE_B, 0);
    probe_page(PAGE_C, 0);
    lab_section("operands");
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned ring = 0; ring < 4; ring += 3)
            for (unsigned i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
                if ((pairs[i].modes >> mode & 1) && (pairs[i].rings & (ring ? 2 : 1)) &&
                    !(ring == 0 && pairs[i].setup & STACK))
                    one_pair(&pairs[i], mode, ring);
    lab_section("fetches");
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned ring = 0; ring < 4; ring += 3)
            fetches(mode, ring);
#ifndef __x86_64__
    lab_section("limit of the code");
    code_limit();
#endif
    lab_section("interrupts");
    if (lab_has(1, 0, 3, 9)) {
        *apic(0xf0) = 0x1ff;
        for (unsigned mode = 0; mode < PROBE_MODES; mode++)
            interrupts(mode);
        *apic(0xf0) = 0xff;
    }
    probe_paging_off();
    lab_set_cr4(cr4);
    return 0;
}
