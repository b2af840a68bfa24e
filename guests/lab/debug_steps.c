// SPDX-License-Identifier: Apache-2.0
// Single-stepping (SDM vol. 3, 17.3.1.4) and instruction breakpoints (17.3.1.1).
#include "debug.h"

static bool go_on(struct lab_trap *t)
{
    (void)t;
    return true;
}

#define A 7
#define L 3
// The offsets after which a step is reported; 0 ends the list (a step of the REP itself is 40h).
static const struct {
    const char *name;
    u8 code[12], length, modes, rings;
    u8 steps[8];
    bool without_tf;
} walks[] = {
    {"nop nop nop", {0x90, 0x90, 0x90}, 3, A, 3, {1, 2, 3}, false},
    {"jmp", {0xeb, 0x01, 0x90, 0x90}, 4, A, 3, {3, 4}, false},
    {"jc taken", {0x72, 0x01, 0x90, 0x90}, 4, A, 3, {3, 4}, false},
    {"jnc not taken", {0x73, 0x01, 0x90, 0x90}, 4, A, 3, {2, 3, 4}, false},
    {"loop", {0xe2, 0x01, 0x90, 0x90}, 4, A, 3, {3, 4}, false},
    {"jcxz", {0xe3, 0x01, 0x90, 0x90}, 4, A, 3, {2, 3, 4}, false},
    {"call 16", {0xe8, 0x01, 0x00, 0x90, 0x90}, 5, 1, 3, {4, 5}, false},
    {"call 32", {0xe8, 0x01, 0x00, 0x00, 0x00, 0x90, 0x90}, 7, 6, 3, {6, 7}, false},
    {"push pop", {0x50, 0x58}, 2, A, 3, {1, 2}, false},
    {"cpuid", {0x0f, 0xa2, 0x90}, 3, A, 3, {2, 3}, false},
    {"rep stosb", {0xf3, 0xaa, 0x90}, 3, A, 3, {0x40, 0x40, 2, 3}, false},
    {"rep movsb", {0xf3, 0xa4, 0x90}, 3, A, 3, {0x40, 0x40, 2, 3}, false},
    {"rep lodsb", {0xf3, 0xac, 0x90}, 3, A, 3, {0x40, 0x40, 2, 3}, false},
    {"repe scasb", {0xf2, 0xae, 0x90}, 3, A, 3, {0x40, 0x40, 2, 3}, false},
    {"mov ss", {0x8e, 0xd3, 0x90, 0x90}, 4, A, 3, {3, 4}, false},
    {"mov ds", {0x8e, 0xdb, 0x90, 0x90}, 4, A, 3, {2, 3, 4}, false},
    {"pop ss", {0x16, 0x17, 0x90, 0x90}, 4, L, 3, {1, 3, 4}, false},
    {"lss", {0x0f, 0xb2, 0x27, 0x90, 0x90}, 5, L, 3, {3, 4, 5}, false},
    {"int 80h", {0xcd, 0x80, 0x90, 0x90}, 4, A, 3, {3, 4}, false},
    {"int3", {0xcc, 0x90, 0x90}, 3, A, 3, {2, 3}, false},
    {"sti", {0xfb, 0x90, 0xfa, 0x90}, 4, A, 1, {1, 2, 3, 4}, false},
    {"cli", {0xfa, 0x90}, 2, A, 1, {1, 2}, false},
    {"popf that sets TF 16", {0x68, 0x02, 0x01, 0x9d, 0x90, 0x90}, 6, 1, 3, {5, 6}, true},
    {"popf that sets TF", {0x68, 0x02, 0x01, 0x00, 0x00, 0x9d, 0x90, 0x90}, 8, 6, 3, {7, 8}, true},
    {"popf that clears TF 16", {0x68, 0x02, 0x00, 0x9d, 0x90, 0x90}, 6, 1, 3, {3, 4}, false},
    {"popf that clears TF",
     {0x68, 0x02, 0x00, 0x00, 0x00, 0x9d, 0x90, 0x90},
     8,
     6,
     3,
     {5, 6},
     false},
    {"int1 in steps", {0xf1, 0x90, 0x90}, 3, A, 3, {0x81, 2, 3}, false},
    {"wait of nothing, fault", {0x90, 0x0f, 0x0b}, 3, A, 3, {1}, false},
};

static void step(unsigned i, unsigned mode, unsigned ring)
{
    struct lab_state s;
    probe_begin(&s, (enum probe_mode)mode, ring);
    s.gpr[1] = (s.gpr[1] & ~(ulong)0xffffffff) | 3;
    if (mode == PROBE_64)
        s.gpr[1] = 3;
    if (walks[i].code[0] == 0x8e)
        s.gpr[3] = (s.gpr[3] & ~(ulong)0xffff) | s.ss;
    if (walks[i].code[1] == 0xb2) { // the far pointer
        volatile u16 *p = (volatile u16 *)(ulong)PROBE_DATA;
        p[0] = (u16)s.sp;
        p[1] = mode == PROBE_16 ? (u16)s.ss : 0;
        p[2] = (u16)s.ss;
    }
    if (!walks[i].without_tf)
        s.flags |= FLAG_TF;
    probe_code(walks[i].code, walks[i].length);
    lab_handler[VEC_LAB] = lab_handler[VEC_BP] = go_on;
    const struct lab_trap *t = debug_run(&s, 0x400);
    lab_handler[VEC_LAB] = lab_handler[VEC_BP] = NULL;
    const char *name = walks[i].name, *in = probe_mode_name((enum probe_mode)mode);
    lab_check(t && t->vector == VEC_UD, "%s %s ring %u: ended by vector %u", in, name, ring,
              t ? t->vector : 999);
    unsigned want = 0;
    while (want < 8 && walks[i].steps[want])
        want++;
    if (!lab_check(debug_count == want, "%s %s ring %u: %u steps, want %u; first at +%lx", in, name,
                   ring, debug_count, want, debug_events[0].ip - PROBE_CODE))
        return;
    for (unsigned n = 0; n < want; n++) {
        const struct debug_event *e = &debug_events[n];
        u8 at = walks[i].steps[n];
        bool again = at == 0x40, icebp = at & 0x80; // INT1's own #DB: no BS
        lab_check(e->ip == PROBE_CODE + (again ? 0u : at & 0x3fu),
                  "%s %s ring %u: step %u at +%lx, want +%x", in, name, ring, n, e->ip - PROBE_CODE,
                  again ? 0 : at & 0x3f);
        lab_check(e->dr6 == (DR6_FIXED | (icebp ? 0 : DR6_BS)), "%s %s ring %u: step %u: dr6 %lx",
                  in, name, ring, n, e->dr6);
        // RF = 1 after any iteration but the last.
        lab_check(!(e->flags & FLAG_RF) == !again, "%s %s ring %u: step %u: flags %lx", in, name,
                  ring, n, e->flags);
    }
}

// DEBUGCTL.BTF: the first step is the first branch taken; its #DB clears BTF, and each instruction is a step again
// (17.4.3).
static void branch_steps(unsigned mode, unsigned ring)
{
    static const struct {
        const char *name;
        u8 code[8], length, steps[4];
    } tries[] = {
        {"jmp", {0x90, 0x90, 0xeb, 0x01, 0x90, 0x90, 0x90}, 7, {5, 6, 7}},
        {"jc", {0x90, 0x73, 0x00, 0x72, 0x01, 0x90, 0x90}, 7, {6, 7}},
        {"none", {0x90, 0x73, 0x01, 0x90, 0x50, 0x58}, 6, {0}},
        {"rep", {0xf3, 0xaa, 0xeb, 0x01, 0x90, 0x90}, 6, {5, 6}},
        {"loop", {0x90, 0xe2, 0xfd, 0x90}, 4, {0x40, 1, 0x40, 1}},
    };
    struct lab_state s;
    for (unsigned i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        probe_begin(&s, (enum probe_mode)mode, ring);
        s.gpr[1] = i == 4 ? 2 : 3;
        s.flags |= FLAG_TF;
        probe_code(tries[i].code, tries[i].length);
        lab_wrmsr(0x1d9, 2);
        debug_run(&s, 0x400);
        lab_check(i == 2 || lab_rdmsr(0x1d9) == 0, "BTF after a #DB: %llx", lab_rdmsr(0x1d9));
        lab_wrmsr(0x1d9, 0);
        unsigned want = 0;
        while (want < 4 && tries[i].steps[want])
            want++;
        if (i == 4)
            want = 4; // back to the NOP; NOP; LOOP that falls through; NOP
        if (!lab_check(debug_count == want, "%s ring %u: BTF, %s: %u steps, first +%lx",
                       probe_mode_name((enum probe_mode)mode), ring, tries[i].name, debug_count,
                       debug_events[0].ip - PROBE_CODE))
            continue;
        for (unsigned n = 0; n < want && i != 4; n++)
            lab_equal("BTF: step", debug_events[n].ip, PROBE_CODE + tries[i].steps[n]);
        if (want)
            lab_equal("BTF: dr6", debug_events[0].dr6, DR6_FIXED | DR6_BS);
    }
}

void debug_steps(void)
{
    if ((lab_cpuid(1, 0).a >> 8 & 15) >= 6) {
        lab_section("branch steps");
        for (unsigned mode = 0; mode < PROBE_MODES; mode++)
            for (unsigned ring = 0; ring < 4; ring += 3)
                branch_steps(mode, ring);
    }
    lab_section("single steps");
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned ring = 0; ring < 4; ring += 3)
            for (unsigned i = 0; i < sizeof(walks) / sizeof(walks[0]); i++)
                if ((walks[i].modes >> mode & 1) && (walks[i].rings & (ring ? 2 : 1)))
                    step(i, mode, ring);
}

// --- instruction breakpoints -----------------------------------------------------------------------------------

static void set_dr(unsigned n, ulong address)
{
    if (n == 0)
        lab_set_dr0(address);
    else if (n == 1)
        lab_set_dr1(address);
    else if (n == 2)
        lab_set_dr2(address);
    else
        lab_set_dr3(address);
}

static void one_breakpoint(unsigned mode, unsigned ring, unsigned n, unsigned enable)
{
    struct lab_state s;
    static const u8 code[] = {0x90, 0x90, 0x90};
    probe_begin(&s, (enum probe_mode)mode, ring);
    probe_code(code, 3);
    set_dr(n, PROBE_CODE + 1);
    debug_set_rf = true;
    const struct lab_trap *t = debug_run(&s, 0x400 | enable << (n * 2) | (enable & 1 ? 0x300 : 0));
    lab_check(t && t->vector == VEC_UD, "end");
    if (!lab_check(debug_count == (enable ? 1 : 0), "%s ring %u DR%u enable %u: %u times",
                   probe_mode_name((enum probe_mode)mode), ring, n, enable, debug_count))
        return;
    if (enable) {
        lab_equal("ip", debug_events[0].ip, PROBE_CODE + 1);
        lab_equal("flags", debug_events[0].flags, s.flags); // RF = 0 for this fault alone
        lab_equal("dr6", debug_events[0].dr6, DR6_FIXED | 1u << n);
    }
}

static void code_cases(unsigned mode, unsigned ring)
{
    struct lab_state s;
    const char *in = probe_mode_name((enum probe_mode)mode);
    // Two instructions in a row, each with its breakpoint: RF lasts for one.
    static const u8 nops[] = {0x90, 0x90, 0x90, 0x90};
    probe_begin(&s, (enum probe_mode)mode, ring);
    probe_code(nops, 4);
    lab_set_dr0(PROBE_CODE + 1);
    lab_set_dr1(PROBE_CODE + 2);
    debug_set_rf = true;
    debug_run(&s, 0x40a);
    if (lab_check(debug_count == 2, "%s ring %u: neighbours: %u", in, ring, debug_count)) {
        lab_equal("first", debug_events[0].ip, PROBE_CODE + 1);
        lab_equal("second", debug_events[1].ip, PROBE_CODE + 2);
    }
    // Two registers for one instruction.
    lab_set_dr1(PROBE_CODE + 1);
    debug_run(&s, 0x40a);
    if (lab_check(debug_count == 1, "%s ring %u: twins: %u", in, ring, debug_count))
        lab_equal("both", debug_events[0].dr6, DR6_FIXED | 3);
    // RF = 1 at the start: not the first instruction.
    lab_set_dr0(PROBE_CODE);
    s.flags |= FLAG_RF;
    debug_run(&s, 0x402);
    lab_check(debug_count == 0, "%s ring %u: RF from IRET: %u", in, ring, debug_count);
    // The second byte of an instruction is none; so is the one behind a jump.
    static const u8 jump[] = {0xeb, 0x01, 0x90, 0x90};
    probe_begin(&s, (enum probe_mode)mode, ring);
    probe_code(jump, 4);
    lab_set_dr0(PROBE_CODE + 1);
    lab_set_dr1(PROBE_CODE + 2);
    lab_set_dr2(PROBE_CODE + 3);
    debug_run(&s, 0x42a);
    if (lab_check(debug_count == 1, "%s ring %u: jump: %u", in, ring, debug_count))
        lab_equal("target", debug_events[0].ip, PROBE_CODE + 3);
    // A repeated string instruction breaks once: RF holds over all of its iterations.
    static const u8 rep[] = {0xf3, 0xaa, 0x90};
    probe_begin(&s, (enum probe_mode)mode, ring);
    s.gpr[1] = 5;
    probe_code(rep, 3);
    lab_set_dr0(PROBE_CODE);
    debug_run(&s, 0x402);
    lab_check(debug_count == 1, "%s ring %u: REP: %u", in, ring, debug_count);
    // ... with a step after each iteration too.
    probe_begin(&s, (enum probe_mode)mode, ring);
    s.gpr[1] = 3;
    s.flags |= FLAG_TF;
    probe_code(rep, 3);
    debug_run(&s, 0x402);
    lab_check(debug_count == 5, "%s ring %u: REP in steps: %u", in, ring, debug_count);
    // A fault on the instruction with a breakpoint: first the breakpoint.
    static const u8 ud[] = {0x0f, 0x0b};
    probe_begin(&s, (enum probe_mode)mode, ring);
    probe_code(ud, 2);
    const struct lab_trap *t = debug_run(&s, 0x402);
    lab_check(debug_count == 1 && t && t->vector == VEC_UD && (t->flags & FLAG_RF),
              "%s ring %u: #UD: %u", in, ring, debug_count);
}

void debug_code(void)
{
    lab_section("instruction breakpoints");
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned ring = 0; ring < 4; ring += 3) {
            for (unsigned n = 0; n < 4; n++)
                for (unsigned enable = 0; enable < 4; enable++)
                    one_breakpoint(mode, ring, n, enable);
            code_cases(mode, ring);
        }
    debug_set_rf = false;
}
