// SPDX-License-Identifier: Apache-2.0
// Breakpoints of data and ports (SDM vol. 3, 17.2.4, 17.2.5, 17.3.1.2): traps, by overlap of the access and the watched
// bytes, whose address is aligned to their length.
#include "debug.h"

#define RW_WRITE 1u
#define RW_IO 2u
#define RW_ACCESS 3u

static ulong dr7_for(unsigned n, unsigned rw, unsigned len)
{
    static const u8 bits[9] = {0, 0, 1, 0, 3, 0, 0, 0, 2};
    return 0x400ul | 2ul << (n * 2) | (ulong)(rw | bits[len] << 2) << (16 + n * 4);
}

static void access(unsigned mode, unsigned ring, unsigned n, unsigned rw, unsigned len, unsigned at,
                   unsigned size, unsigned off, bool write)
{
    struct lab_state s;
    u8 code[4];
    unsigned k = 0;
    bool small = mode == PROBE_16;
    if ((size == 2 && !small) || (size == 4 && small))
        code[k++] = 0x66;
    if (size == 8)
        code[k++] = 0x48;
    code[k++] = (u8)((write ? 0x88 : 0x8a) | (size > 1));
    code[k++] = 0x07;
    probe_begin(&s, (enum probe_mode)mode, ring);
    s.gpr[3] = s.gpr[7] = PROBE_DATA + 0x10 + off;
    probe_code(code, k);
    ulong watched = PROBE_DATA + 0x18 + at;
    if (n == 0)
        lab_set_dr0(watched);
    else
        lab_set_dr3(watched);
    debug_run(&s, dr7_for(n, rw, len));
    ulong from = watched & ~(ulong)(len - 1), a = PROBE_DATA + 0x10 + off;
    bool want = a < from + len && from < a + size && (write || rw == RW_ACCESS);
    if (!lab_check(debug_count == want,
                   "%s ring %u: len %u rw %u at %lx, %s of %u at %lx: %u times, want %u",
                   probe_mode_name((enum probe_mode)mode), ring, len, rw, watched,
                   write ? "write" : "read", size, a, debug_count, want) ||
        !want)
        return;
    lab_check(debug_events[0].ip == PROBE_CODE + k &&
                  debug_events[0].dr6 == (DR6_FIXED | 1u << n) &&
                  debug_events[0].flags == s.flags && debug_events[0].ring == ring,
              "data: ip %lx dr6 %lx flags %lx", debug_events[0].ip, debug_events[0].dr6,
              debug_events[0].flags);
}

// What accesses by other ways: the step behind which the trap comes.
static void other_accesses(unsigned mode, unsigned ring)
{
    static const struct {
        const char *name;
        u8 code[8], length, modes, write, after;
    } ways[] = {
        {"push [di]", {0xff, 0x37, 0x90}, 3, 7, 0, 2},
        {"pop [di]", {0x50, 0x8f, 0x07, 0x90}, 4, 7, 1, 3},
        {"add [di], al", {0x00, 0x07, 0x90}, 3, 7, 1, 2},
        {"cmp [di], al", {0x38, 0x07, 0x90}, 3, 7, 0, 2},
        {"xchg [di], al", {0x86, 0x07, 0x90}, 3, 7, 1, 2},
        {"stosb", {0xaa, 0x90}, 2, 7, 1, 1},
        {"scasb", {0xae, 0x90}, 2, 7, 0, 1},
        {"inc [di]", {0xfe, 0x07, 0x90}, 3, 7, 1, 2},
        {"fld [di]", {0xd9, 0x07, 0x90}, 3, 7, 0, 2},
        {"fnstcw [di]", {0xd9, 0x3f, 0x90}, 3, 7, 1, 2},
        {"movups load", {0x0f, 0x10, 0x07, 0x90}, 4, 7, 0, 3},
        {"movups store", {0x0f, 0x11, 0x07, 0x90}, 4, 7, 1, 3},
        {"cmpxchg8b", {0x0f, 0xc7, 0x0f, 0x90}, 4, 7, 1, 3},
        {"prefetch", {0x0f, 0x18, 0x0f, 0x90}, 4, 7, 2, 0},
        {"lea", {0x8d, 0x07, 0x90}, 3, 7, 2, 0},
    };
    struct lab_state s;
    ulong cr4 = lab_cr4(), cr0 = lab_cr0();
    lab_set_cr4(cr4 | 0x600);
    lab_set_cr0(cr0 & ~0xcul);
    for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
        for (unsigned rw = 1; rw < 4; rw += 2) {
            probe_begin(&s, (enum probe_mode)mode, ring);
            probe_code(ways[i].code, ways[i].length);
            __asm__ volatile("fninit");
            lab_set_dr2(PROBE_DATA);
            debug_run(&s, dr7_for(2, rw, 1));
            bool want = ways[i].write == 1 || (ways[i].write == 0 && rw == 3);
            if (lab_check(debug_count == want, "%s ring %u %s rw %u: %u times",
                          probe_mode_name((enum probe_mode)mode), ring, ways[i].name, rw,
                          debug_count) &&
                want)
                lab_check(debug_events[0].ip == PROBE_CODE + ways[i].after, "%s: after +%lx",
                          ways[i].name, debug_events[0].ip - PROBE_CODE);
        }
    // In the midst of REP MOVSB: after the iteration, RF = 1; CX tells which.
    static const u8 rep[] = {0xf3, 0xa4, 0x90};
    for (unsigned k = 0; k < 4; k++) {
        probe_begin(&s, (enum probe_mode)mode, ring);
        s.gpr[1] = 4;
        probe_code(rep, 3);
        lab_set_dr2(PROBE_DATA + k);
        debug_run(&s, dr7_for(2, RW_WRITE, 1));
        if (lab_check(debug_count == 1, "REP MOVSB byte %u: %u times", k, debug_count)) {
            bool last = k == 3;
            lab_check(debug_events[0].cx == 3 - k &&
                          debug_events[0].ip == PROBE_CODE + (last ? 2 : 0) &&
                          !(debug_events[0].flags & FLAG_RF) == last,
                      "REP MOVSB byte %u: cx %lx ip +%lx flags %lx", k, debug_events[0].cx,
                      debug_events[0].ip - PROBE_CODE, debug_events[0].flags);
        }
    }
    // A fault after the access: nothing was completed, so no trap in the handler or behind it (17.3.1.2: it is
    // reported after the instruction).
    static const u8 div[] = {0xf6, 0x37, 0x90}, ldmxcsr[] = {0x0f, 0xae, 0x17, 0x90};
    for (unsigned k = 0; k < 2; k++) {
        if (k && !lab_has(1, 0, 3, 25))
            continue;
        probe_begin(&s, (enum probe_mode)mode, ring);
        s.gpr[0] = 1;
        if (k)
            probe_code(ldmxcsr, 4);
        else
            probe_code(div, 3);
        for (unsigned n = 0; n < 4; n++)
            ((volatile u8 *)PROBE_DATA)[n] = k ? 0xff : 0;
        lab_set_dr2(PROBE_DATA);
        const struct lab_trap *t = debug_run(&s, dr7_for(2, RW_ACCESS, 1));
        lab_check(t && t->vector == (k ? VEC_GP : VEC_DE) && debug_count == 0,
                  "%s ring %u %s that faults: vector %u, %u times",
                  probe_mode_name((enum probe_mode)mode), ring, k ? "ldmxcsr" : "div",
                  t ? t->vector : 999, debug_count);
        static const u8 nop[] = {0x90};
        probe_begin(&s, (enum probe_mode)mode, ring);
        probe_code(nop, 1);
        debug_run(&s, dr7_for(2, RW_ACCESS, 1));
        lab_check(debug_count == 0, "nor later: %u times", debug_count);
    }
    // With a step: one #DB for both.
    static const u8 store[] = {0x88, 0x07};
    probe_begin(&s, (enum probe_mode)mode, ring);
    s.flags |= FLAG_TF;
    probe_code(store, 2);
    lab_set_dr2(PROBE_DATA);
    debug_run(&s, dr7_for(2, RW_WRITE, 1));
    if (lab_check(debug_count == 1, "step and data: %u", debug_count))
        lab_equal("step and data", debug_events[0].dr6, DR6_FIXED | DR6_BS | 4);
    lab_set_cr4(cr4);
    lab_set_cr0(cr0);
}

static void ports(unsigned mode)
{
    struct lab_state s;
    ulong cr4 = lab_cr4();
    static const u8 code[2][2] = {{0xee, 0x90}, {0xef, 0x90}}; // out dx, al; out dx, eax
    for (unsigned de = 0; de < 2; de++)
        for (unsigned len = 1; len < 5; len *= 2)
            for (unsigned wide = 0; wide < 2; wide++)
                for (unsigned off = 0; off < 10; off++) {
                    unsigned size = !wide ? 1 : mode == PROBE_16 ? 2 : 4;
                    probe_begin(&s, (enum probe_mode)mode, 0);
                    s.gpr[2] = 0x2e0 + off;
                    probe_code(code[wide], 2);
                    lab_set_cr4(de ? cr4 | 8 : cr4 & ~8ul);
                    lab_set_dr1(0x2e4);
                    debug_run(&s, dr7_for(1, RW_IO, len));
                    lab_set_cr4(cr4);
                    if (!de)
                        continue; // undefined; it may not hang
                    bool want = 0x2e0 + off < 0x2e4 + len && 0x2e4 < 0x2e0 + off + size;
                    if (lab_check(debug_count == want, "port len %u, out of %u at +%u: %u", len,
                                  size, off, debug_count) &&
                        want)
                        lab_check(debug_events[0].ip == PROBE_CODE + 1 &&
                                      debug_events[0].dr6 == (DR6_FIXED | 2),
                                  "port: ip %lx dr6 %lx", debug_events[0].ip, debug_events[0].dr6);
                }
}

void debug_data(void)
{
    lab_section("data breakpoints");
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned len = 1; len <= (PROBE_LONG ? 8 : 4); len *= 2)
            for (unsigned rw = 1; rw < 4; rw += 2)
                for (unsigned at = 0; at < 4; at += at ? 2 : 1)
                    for (unsigned size = 1; size <= (mode == PROBE_64 ? 8 : 4); size *= 2)
                        for (unsigned off = 0; off < 20; off++)
                            for (unsigned write = 0; write < 2; write++)
                                access(mode, (off ^ at) & 1 ? 3 : 0, off & 2 ? 3 : 0, rw, len, at,
                                       size, off, write);
    lab_section("other accesses");
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned ring = 0; ring < 4; ring += 3)
            other_accesses(mode, ring);
    lab_section("ports");
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        ports(mode);
}
