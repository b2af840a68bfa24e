// SPDX-License-Identifier: Apache-2.0
// SYSENTER, SYSEXIT, SYSCALL, SYSRET: selectors, flags, stacks, and who may (SDM vol. 2, their pages; APM vol. 3 for
// SYSCALL outside of 64-bit mode, and for SYSENTER in long mode, which AMD's processors do not have). Selectors are
// made of MSRs; no descriptor is read, so that they need not exist.
#include "gates.h"

#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_FMASK 0xc0000084
#define FLAGS_PLAIN (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_DF | FLAG_OF)
#define FLAGS_ALL (FLAGS_PLAIN | FLAG_IF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID)

// The 32-bit flavour's handler looks for the base of ring 0's stack in the GDT.
#define FAST_NONE (IS_LONG ? 0u : 0xfe00u)

SNIPPET(fast_sysenter, "sysenter");
SNIPPET(fast_sysexit, ".byte 0x0f, 0x35"); // no REX.W
SNIPPET(fast_syscall, "syscall");
SNIPPET(fast_sysret, ".byte 0x0f, 0x07");
SNIPPET(fast_land, "");
#if IS_LONG
SNIPPET(fast_sysexitq, "sysexitq");
SNIPPET(fast_sysretq, "sysretq");
#endif

static bool told(bool ok, u32 got, u32 want, const char *what, u32 cpl, u32 selector)
{
    if (ok || got == OUTCOME_SKIPPED)
        return lab_check(true, " ");
    lab_check(false, "%s, cpl %u, selector %x: outcome %x, want %x", what, cpl, selector, got,
              want);
    lab_print_trap(ring_trap);
    lab_print("\n");
    return false;
}

static void run(const void *snippet, u32 cpl, u32 flags)
{
    ring_prepare(cpl, snippet);
    ring_state.flags = flags | 2;
}

static void sysenter(void)
{
    static const u16 selectors[] = {8, 0x0b, 0x50, 0x7ff8, 0xfffc, 0, 3};
    bool absent = IS_LONG && lab_is_amd();
    const ulong stack = (ulong)ring_stack[0] + RING_STACK / 2;

    for (u32 n = 0; n < sizeof(selectors) / 2; n++)
        for (u32 cpl = 0; cpl < 4; cpl++)
            for (u32 f = 0; f < 2; f++) {
                u32 cs = selectors[n] & ~3u, flags = f ? FLAGS_ALL : 0;
                if ((selectors[n] & FAST_NONE))
                    continue;
                lab_wrmsr(MSR_SYSENTER_CS, selectors[n]);
                lab_wrmsr(MSR_SYSENTER_EIP, (ulong)fast_land);
                lab_wrmsr(MSR_SYSENTER_ESP, stack);
                run(fast_sysenter, cpl, flags);
                u32 got = ring_run();
                u32 want = absent ? FAULT(VEC_UD, 0) : cs ? 0 : FAULT(VEC_GP, 0);
                const struct lab_trap *t = ring_trap;
                bool ok = got == want;
                if (ok && !want)
                    ok = t->ip == (ulong)fast_land && t->cs == cs && t->ss == ((cs + 8) & 0xffff) &&
                         t->sp == stack && (t->flags & FLAGS_ALL) == (flags & ~FLAG_IF);
                told(ok, got, want, "sysenter", cpl, selectors[n]);
            }
}

static void sysexit_one(bool wide, u32 selector, u32 cpl)
{
#if IS_LONG
    const void *snippet = wide ? fast_sysexitq : fast_sysexit;
#else
    const void *snippet = fast_sysexit;
#endif
    bool absent = IS_LONG && lab_is_amd();
    u32 cs = selector & ~3u, flags = FLAGS_ALL & ~FLAG_IOPL;

    lab_wrmsr(MSR_SYSENTER_CS, selector);
    run(snippet, cpl, flags);
    ring_state.gpr[1] = (ulong)ring_stack[3] + RING_STACK / 2;
    ring_state.gpr[2] = (ulong)fast_land;
    u32 got = ring_run();
    u32 want = cpl ? FAULT(VEC_GP, 0) : absent ? FAULT(VEC_UD, 0) : cs ? 0 : FAULT(VEC_GP, 0);
    const struct lab_trap *t = ring_trap;
    bool ok = got == want;
    u32 code = wide ? 32 : 16;
    if (ok && !want)
        ok = t->ip == (ulong)fast_land && t->cs == ((cs + code) & 0xffff) + 3 &&
             t->ss == ((cs + code + 8) & 0xffff) + 3 && t->sp == ring_state.gpr[1] &&
             (t->flags & FLAGS_ALL) == flags;
    told(ok, got, want, wide ? "sysexitq" : "sysexit", cpl, selector);
}

static void sysexit(void)
{
    static const u16 selectors[] = {8, 0x0b, 0x50, 0x7ff8, 0, 3};
    for (u32 n = 0; n < sizeof(selectors) / 2; n++)
        for (u32 cpl = 0; cpl < 4; cpl++)
            for (u32 wide = 0; wide <= IS_LONG; wide++)
                sysexit_one(wide, selectors[n], cpl);
}

static void star(u32 call, u32 ret)
{
    lab_wrmsr(MSR_STAR, (u64)ret << 48 | (u64)call << 32 | (u32)(ulong)fast_land);
#if IS_LONG
    lab_wrmsr(MSR_LSTAR, (ulong)fast_land);
    lab_wrmsr(MSR_CSTAR, (ulong)fast_land);
#endif
}

static void syscall(void)
{
    static const u16 selectors[] = {8, 0x0b, 0x50, 0x1234, 0xfff8, 0};

    for (u32 n = 0; n < sizeof(selectors) / 2; n++)
        for (u32 cpl = 0; cpl < 4; cpl++)
            for (u32 compat = 0; compat <= IS_LONG; compat++)
                for (u32 f = 0; f < 32; f++) {
                    u32 cs = selectors[n] & ~3u, flags = f & 1 ? FLAGS_ALL : FLAG_CF | FLAG_IF;
                    u32 mask = f < 2 ? 0 : f < 4 ? 0xffffffff & ~FLAG_TF : 1u << f;
                    if (mask == FLAG_TF || (f >= 22 && n) || (selectors[n] & FAST_NONE))
                        continue;
                    star(selectors[n], 0);
                    if (IS_LONG)
                        lab_wrmsr(MSR_FMASK, mask);
                    run(fast_syscall, cpl, flags);
                    if (compat)
                        ring_state.cs = ring_code32[cpl];
                    u32 got = ring_run();
                    bool there = (IS_LONG && !compat) || lab_is_amd();
                    u32 want = there ? 0 : FAULT(VEC_UD, 0),
                        now = flags & ~(IS_LONG ? mask : FLAG_IF);
                    const struct lab_trap *t = ring_trap;
                    bool ok = got == want;
                    if (ok && !want) {
                        ok = t->ip == (ulong)fast_land && t->cs == cs &&
                             t->ss == ((cs + 8) & 0xffff) && t->sp == ring_state.sp &&
                             t->gpr[1] == ring_state.ip + 2 && (t->flags & FLAGS_ALL) == now;
#if IS_LONG
                        ok = ok && (t->gpr[11] & ~(ulong)FLAG_RF) == ring_state.flags;
#endif
                    }
                    told(ok, got, want, compat ? "syscall in compatibility mode" : "syscall", cpl,
                         selectors[n]);
                }
    u64 efer = lab_rdmsr(MSR_EFER);
    lab_wrmsr(MSR_EFER, efer & ~1ull);
    for (u32 cpl = 0; cpl < 4; cpl++) {
        run(fast_syscall, cpl, 0);
        u32 got = ring_run();
        told(got == FAULT(VEC_UD, 0), got, FAULT(VEC_UD, 0), "syscall without SCE", cpl, 0);
        run(fast_sysret, cpl, 0);
        got = ring_run();
        told(got == FAULT(VEC_UD, 0), got, FAULT(VEC_UD, 0), "sysret without SCE", cpl, 0);
    }
    lab_wrmsr(MSR_EFER, efer);
}

static void sysret(void)
{
    static const u16 selectors[] = {0x18, 0x1b, 0x8, 0x1234, 0x7ff8};

    for (u32 n = 0; n < sizeof(selectors) / 2; n++)
        for (u32 cpl = 0; cpl < 4; cpl++)
            for (u32 wide = 0; wide <= IS_LONG; wide++)
                for (u32 f = 0; f < 2; f++) {
                    u32 flags = f ? FLAGS_ALL : FLAG_CF, base = selectors[n] | 3;
                    star(0, selectors[n]);
#if IS_LONG
                    run(wide ? fast_sysretq : fast_sysret, cpl, 0);
                    ring_state.gpr[11] = flags;
#else
                    run(fast_sysret, cpl, flags);
#endif
                    ring_state.gpr[1] = (ulong)fast_land;
                    u32 got = ring_run();
                    bool there = IS_LONG || lab_is_amd();
                    u32 want = !there ? FAULT(VEC_UD, 0) : cpl ? FAULT(VEC_GP, 0) : 0;
                    const struct lab_trap *t = ring_trap;
                    bool ok = got == want;
                    if (!IS_LONG)
                        flags |= FLAG_IF;
                    if (ok && !want)
                        ok = t->ip == (ulong)fast_land &&
                             t->cs == (base & ~3u) + (wide ? 16 : 0) + 3 &&
                             t->ss == (base & ~3u) + 8 + 3 && t->sp == ring_state.sp &&
                             (t->flags & FLAGS_ALL) == flags;
                    told(ok, got, want, wide ? "sysretq" : "sysret", cpl, selectors[n]);
                }
#if IS_LONG
    // Where a return address is not canonical: still in ring 0 on Intel's, at the target in ring 3 on AMD's.
    star(0, 0x18);
    run(fast_sysretq, 0, 0);
    ring_state.gpr[1] = 0x0000800000000000;
    ring_state.gpr[11] = 2;
    u32 got = ring_run();
    lab_check(
        got == OUTCOME_SKIPPED ||
            (got == FAULT(VEC_GP, 0) &&
             (lab_is_amd() ? ring_trap->cs == 0x2b && ring_trap->ip == 0x0000800000000000
                           : ring_trap->cs == SEL_CODE0 && ring_trap->ip == (ulong)fast_sysretq)),
        "sysretq to a non-canonical address: outcome %x at %lx:%lx", got, ring_trap->cs,
        ring_trap->ip);
#endif
}

void gates_fast(void)
{
    if (lab_has(1, 0, 3, 11)) {
        u64 cs = lab_rdmsr(MSR_SYSENTER_CS);
        lab_section("sysenter");
        sysenter();
        lab_section("sysexit");
        sysexit();
        lab_wrmsr(MSR_SYSENTER_CS, cs);
    }
    if (!lab_has(0x80000001, 0, 3, 11) && !IS_LONG)
        return;
    u64 efer = lab_rdmsr(MSR_EFER);
    lab_wrmsr(MSR_EFER, efer | 1);
    lab_section("syscall");
    syscall();
    lab_section("sysret");
    sysret();
    if (IS_LONG)
        lab_wrmsr(MSR_FMASK, 0);
    lab_wrmsr(MSR_EFER, efer);
}
