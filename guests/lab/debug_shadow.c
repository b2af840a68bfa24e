// SPDX-License-Identifier: Apache-2.0
// The debug registers themselves (SDM vol. 3, 17.2), MOV SS (6.8.3) and STI (6.8.1), NMI (6.7).
#include "debug.h"

static bool gd_handler(struct lab_trap *t)
{
    debug_events[0] = (struct debug_event){t->ip, t->flags, t->dr6, lab_dr7(), t->cs & 3};
    debug_count++;
    return debug_count < 3;
}

void debug_registers(void)
{
    struct lab_state s;
    lab_section("DR6, DR7, GD, DE");
    ulong cr4 = lab_cr4();
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned n = 0; n < 8; n++)
            for (unsigned write = 0; write < 2; write++)
                for (unsigned de = 0; de < 2; de++) {
                    const u8 code[] = {0x0f, (u8)(0x21 | write << 1), (u8)(0xc0 | n << 3)};
                    bool absent = (n == 4 || n == 5) && de;
                    for (unsigned gd = 0; gd < (absent ? 1u : 2u);
                         gd++) { // with GD the lab's own MOV DR would fault
                        probe_begin(&s, (enum probe_mode)mode, 0);
                        s.gpr[0] = n == 5 || n == 7 ? 0x400 : 0;
                        probe_code(code, 3);
                        lab_set_cr4(de ? cr4 | 8 : cr4 & ~8ul);
                        lab_set_dr6(0);
                        debug_count = 0;
                        lab_handler[VEC_DB] = gd_handler;
                        lab_set_dr7(gd ? 0x2400 : 0x400);
                        const struct lab_trap *t = probe_run(&s);
                        lab_handler[VEC_DB] = NULL;
                        // (Without the handler DR7.GD would stand.)
                        if (gd && !absent &&
                            lab_check(debug_count == 1, "GD, DR%u: %u times", n, debug_count)) {
                            lab_equal("GD: ip", debug_events[0].ip, PROBE_CODE);
                            lab_equal("GD: dr6", debug_events[0].dr6, DR6_FIXED | DR6_BD);
                            lab_equal("GD: dr7 in the handler", debug_events[0].cx, 0x400);
                            // A fault, and not that of an instruction breakpoint (17.3.1.1).
                            lab_equal("GD: flags", debug_events[0].flags, s.flags | FLAG_RF);
                        }
                        lab_check(t && t->vector == VEC_UD &&
                                      t->ip == PROBE_CODE + (absent ? 0u : 3u),
                                  "%s DR%u write %u DE %u GD %u: vector %u at +%lx",
                                  probe_mode_name((enum probe_mode)mode), n, write, de, gd,
                                  t ? t->vector : 999, t ? t->ip - PROBE_CODE : 0);
                        lab_set_dr7(0x400);
                        lab_set_cr4(cr4);
                    }
                }
    // Reserved bits.
    lab_set_dr6(0);
    lab_equal("DR6 of 0", lab_dr6(), DR6_FIXED);
    lab_set_dr6(0xffffffff);
    lab_equal("DR6 of ones", lab_dr6() | 0x10000, 0xffffefff);
    lab_set_dr6(0);
    lab_set_dr7(0);
    lab_equal("DR7 of 0", lab_dr7(), 0x400);
    lab_set_dr7(0xd300);
    lab_equal("DR7's bits 12, 14, 15", lab_dr7() & 0xd400, 0x400);
    lab_set_dr7(0x400);
}

// --- MOV SS ------------------------------------------------------------------------------------------------------

static ulong int_entry;
static bool int_handler(struct lab_trap *t)
{
    int_entry = t->ip;
    return true;
}

// A data breakpoint on MOV SS's operand waits for the instruction behind it; when that is INT n, the #DB comes before the
// handler's first instruction.
static void mov_ss(unsigned mode, unsigned ring)
{
    static const struct {
        const char *name;
        u8 code[6], length, handler, after;
    } tries[] = {
        {"mov ss, [di]; nop", {0x8e, 0x17, 0x90, 0x90}, 4, 0, 3},
        {"mov ss, [di]; int 80h", {0x8e, 0x17, 0xcd, 0x80, 0x90}, 5, VEC_LAB, 0},
        {"mov ss, [di]; int3", {0x8e, 0x17, 0xcc, 0x90}, 4, VEC_BP, 0},
        {"mov ss, [di]; mov ds", {0x8e, 0x17, 0x8e, 0xda, 0x90}, 5, 0, 4},
    };
    struct lab_state s;
    for (unsigned i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        probe_begin(&s, (enum probe_mode)mode, ring);
        *(volatile u16 *)(ulong)PROBE_DATA = (u16)s.ss;
        s.gpr[2] = s.ds;
        probe_code(tries[i].code, tries[i].length);
        lab_set_dr0(PROBE_DATA);
        lab_handler[VEC_LAB] = lab_handler[VEC_BP] = int_handler;
        const struct lab_trap *t = debug_run(&s, 0x402 | 3ul << 16 | 1ul << 18);
        lab_handler[VEC_LAB] = lab_handler[VEC_BP] = NULL;
        lab_check(t && t->vector == VEC_UD, "%s: ended by %u", tries[i].name, t ? t->vector : 999);
        ulong want = tries[i].handler ? (ulong)lab_stubs + tries[i].handler * 16u
                                      : PROBE_CODE + tries[i].after;
        if (lab_check(debug_count == 1, "%s ring %u: %u times", tries[i].name, ring, debug_count))
            lab_check(debug_events[0].ip == want && debug_events[0].dr6 == (DR6_FIXED | 1) &&
                          debug_events[0].ring == (tries[i].handler ? 0 : ring),
                      "%s ring %u: ip %lx, want %lx, dr6 %lx", tries[i].name, ring,
                      debug_events[0].ip, want, debug_events[0].dr6);
    }
}

// --- interrupts ----------------------------------------------------------------------------------------------------

#define APIC 0xfee00000ul
#define VEC_IRQ 0x93u
static volatile u32 *apic(unsigned reg)
{
    return (volatile u32 *)(APIC + reg);
}

static unsigned nmis, nmi_depth, nmi_deepest, nmi_more;
static bool nmi_handler(struct lab_trap *t)
{
    (void)t;
    nmis++;
    if (++nmi_depth > nmi_deepest)
        nmi_deepest = nmi_depth;
    if (nmi_more) {
        nmi_more--;
        *apic(0x300) = 0x4400; // another one, to oneself: it has to wait for IRET
        for (volatile int i = 0; i < 100; i++)
            ;
    }
    nmi_depth--;
    return true;
}

// IRET unblocks NMIs even when it faults (SDM vol. 3A, 6.7.1): the second NMI, sent while the first was handled, comes
// before the handler of the fault has done anything.
static ulong nmi_cs;
static char nmi_order[4];
static unsigned nmi_orders;
static void nmi_note(char what)
{
    if (nmi_orders < sizeof(nmi_order))
        nmi_order[nmi_orders] = what;
    nmi_orders++;
}
static bool nmi_returns_badly(struct lab_trap *t)
{
    nmi_note('N');
    if (nmi_orders > 1)
        return true;
    nmi_cs = t->cs;
    ((ulong *)t->frame)[2] = 0xfff8; // beyond the GDT
    *apic(0x300) = 0x4400;
    for (volatile int i = 0; i < 100; i++)
        ;
    return true;
}
static bool nmi_repair(struct lab_trap *t)
{
    nmi_note('G');
    ((ulong *)t->sp)[1] = nmi_cs; // the frame of the IRET that faulted
    return t->error == 0xfff8;
}

static void interrupts(unsigned mode)
{
    // An interrupt is pending; where is it taken? ffh: nowhere.
    static const struct {
        const char *name;
        u8 code[10], length, modes, at;
        bool enabled;
    } tries[] = {
        {"IF = 1 from IRET", {0x90, 0x90}, 2, 7, 0, true},
        {"sti nop nop", {0xfb, 0x90, 0x90}, 3, 7, 2, false},
        {"sti cli", {0xfb, 0xfa, 0x90}, 3, 7, 0xff, false},
        {"sti sti nop", {0xfb, 0xfb, 0x90}, 3, 7, 2, false},
        {"sti cli sti nop", {0xfb, 0xfa, 0xfb, 0x90, 0x90}, 5, 7, 4, false},
        {"sti hlt", {0xfb, 0xf4, 0x90}, 3, 7, 2, false},
        {"sti jmp", {0xfb, 0xeb, 0x01, 0x90, 0x90}, 5, 7, 4, false},
        {"sti popf of IF = 0", {0x68, 0x02, 0x00, 0xfb, 0x9d, 0x90}, 6, 1, 0xff, false},
        {"popf 16", {0x68, 0x02, 0x02, 0x9d, 0x90}, 5, 1, 4, false},
        {"popf", {0x68, 0x02, 0x02, 0x00, 0x00, 0x9d, 0x90}, 7, 6, 6, false},
        {"mov ss sti nop", {0x8e, 0xd3, 0xfb, 0x90, 0x90}, 5, 7, 4, false},
        {"nop", {0x90, 0x90}, 2, 7, 0xff, false},
    };
    struct lab_state s;
    for (unsigned i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        if (!(tries[i].modes >> mode & 1))
            continue;
        probe_begin(&s, (enum probe_mode)mode, 0);
        s.gpr[3] = (s.gpr[3] & ~(ulong)0xffff) | s.ss;
        if (tries[i].enabled)
            s.flags |= FLAG_IF;
        probe_code(tries[i].code, tries[i].length);
        *apic(0x300) = 0x44000 | VEC_IRQ; // to oneself
        const struct lab_trap *t = probe_run(&s);
        unsigned want = tries[i].at == 0xff ? VEC_UD : VEC_IRQ;
        unsigned at = tries[i].at == 0xff ? tries[i].length : tries[i].at;
        if (lab_check(t && t->vector == want && t->ip == PROBE_CODE + at,
                      "%s %s: vector %u at +%lx, want %u at +%x",
                      probe_mode_name((enum probe_mode)mode), tries[i].name, t ? t->vector : 999,
                      t ? t->ip - PROBE_CODE : 0, want, at) &&
            want == VEC_IRQ)
            lab_check(!(t->flags & FLAG_RF) && (t->flags & FLAG_IF), "%s: flags %lx", tries[i].name,
                      t->flags);
        if (t && t->vector == VEC_UD) { // take it now
            static const u8 take[] = {0xfb, 0x90, 0x90};
            probe_begin(&s, (enum probe_mode)mode, 0);
            probe_code(take, 3);
            lab_expect("the interrupt that waited", probe_run(&s), VEC_IRQ);
        }
        *apic(0xb0) = 0;
    }
    // REP with an interrupt that its own store asks for: RF = 1, the iteration done.
    static const u8 rep[] = {0xf3, 0xab, 0x90, 0x90};
    if (mode != PROBE_16) {
        probe_begin(&s, (enum probe_mode)mode, 0);
        s.gpr[7] = APIC + 0x300;
        s.gpr[0] = 0x44000 | VEC_IRQ;
        s.gpr[1] = 3;
        s.flags |= FLAG_IF;
        probe_code(rep, 4);
        const struct lab_trap *t = probe_run(&s);
        if (lab_expect("REP STOS to the APIC", t, VEC_IRQ) && t->ip == PROBE_CODE)
            lab_check((t->flags & FLAG_RF) && (u32)t->gpr[1] < 3 && (u32)t->gpr[1] > 0,
                      "REP: flags %lx cx %lx", t->flags, t->gpr[1]);
        *apic(0xb0) = 0;
        // NMIs: one while one is handled waits for its IRET; a third is lost.
        static const u8 send[] = {0x89, 0x07, 0x90, 0x90, 0x90, 0x90};
        for (unsigned more = 0; more < 3; more++)
            for (unsigned ring = 0; ring < 4; ring += 3) {
                probe_begin(&s, (enum probe_mode)mode, ring);
                s.gpr[7] = APIC + 0x300;
                s.gpr[0] = 0x4400;
                probe_code(send, 6);
                nmis = nmi_deepest = 0;
                nmi_more = more;
                lab_handler[VEC_NMI] = nmi_handler;
                probe_loose_registers = true;
                t = probe_run(&s);
                probe_loose_registers = false;
                lab_handler[VEC_NMI] = NULL;
                lab_check(t && t->vector == VEC_UD && nmis == more + 1 && nmi_deepest == 1,
                          "%s ring %u: NMI: %u of %u, depth %u, ended by %u",
                          probe_mode_name((enum probe_mode)mode), ring, nmis, more + 1, nmi_deepest,
                          t ? t->vector : 999);
            }
        for (unsigned ring = 0; ring < 4; ring += 3) {
            probe_begin(&s, (enum probe_mode)mode, ring);
            s.gpr[7] = APIC + 0x300;
            s.gpr[0] = 0x4400;
            probe_code(send, 6);
            nmi_orders = 0;
            lab_handler[VEC_NMI] = nmi_returns_badly;
            lab_handler[VEC_GP] = nmi_repair;
            t = probe_run(&s);
            lab_handler[VEC_NMI] = lab_handler[VEC_GP] = NULL;
            lab_check(t && t->vector == VEC_UD && nmi_orders == 3 && nmi_order[0] == 'N' &&
                          nmi_order[1] == 'N' && nmi_order[2] == 'G',
                      "%s ring %u: NMI and a bad IRET: %u events, %c%c%c, ended by %u",
                      probe_mode_name((enum probe_mode)mode), ring, nmi_orders, nmi_order[0],
                      nmi_order[1], nmi_order[2], t ? t->vector : 999);
        }
    }
}

void debug_shadows(void)
{
    lab_section("MOV SS and breakpoints");
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned ring = 0; ring < 4; ring += 3)
            mov_ss(mode, ring);
    lab_section("interrupts, STI, NMI");
    if (!lab_has(1, 0, 3, 9))
        return;
    *apic(0xf0) = 0x1ff;
    *apic(0x310) = *apic(0x20);
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        interrupts(mode);
    *apic(0xf0) = 0xff;
}
