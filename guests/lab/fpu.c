// SPDX-License-Identifier: Apache-2.0
// What of the x87 and SSE units only the bare machine shows: the four layouts of FSTENV and FSAVE (SDM vol. 1
// figures 8-9 to 8-12), how an unmasked exception is reported (#MF with CR0.NE, through IRQ 13 without: SDM vol. 1
// 8.7 and fpu_irq.c; #XM or #UD after CR4.OSXMMEXCPT: vol. 3A 6.15), and which instructions report it.
//
// Rule to keep: pointers are judged while an unmasked exception is pending. Only then do all processors
// define them.
#include "rings.h"

#include "fpu.h"

// --- layouts in protected mode ----------------------------------------------------------------------------
static u8 image[128] __attribute__((aligned(16)));
static const u32 zero_divisor;
static u16 control = ZE_UNMASKED;

#define PEND "fninit\nfldcw (%ebx)\nfld1\n1: fdivs (%ecx)\n"
SNIPPET(fnstenv32, PEND "fnstenv (%edx)");
SNIPPET(fnstenv16, PEND ".byte 0x66\nfnstenv (%edx)");
SNIPPET(fnsave32, PEND "fnsave (%edx)");
SNIPPET(fnsave16, PEND ".byte 0x66\nfnsave (%edx)");
// Each after an exception that is pending: what waits reports it, at its own address.
SNIPPET(report_fwait, PEND "fwait");
SNIPPET(report_fld, PEND "fldz");
SNIPPET(report_fstenv, PEND "fstenv (%edx)"); // an FWAIT before FNSTENV
SNIPPET(report_emms, PEND "emms");
SNIPPET(no_report, PEND "fnstsw %ax\nfnstcw (%edx)\nfnop_free: .byte 0xdb, 0xe0, 0xdb, 0xe1, 0xdb, "
                        "0xe4\nfnclex\nfwait");
SNIPPET(no_report_fninit, PEND "fninit\nfwait");

static u32 image32(u32 at)
{
    return (u32)(image[at] | image[at + 1] << 8 | image[at + 2] << 16) | (u32)image[at + 3] << 24;
}

static u32 pend(unsigned cpl, const char *snippet)
{
    for (u32 i = 0; i < sizeof(image); i++)
        image[i] = 0xa5;
    ring_prepare(cpl, snippet);
    ring_state.gpr[1] = (ulong)&zero_divisor;
    ring_state.gpr[2] = (ulong)image;
    ring_state.gpr[3] = (ulong)&control;
    u32 r = ring_run();
    return r;
}

static bool ran(const char *what, u32 r)
{
    lab_check(r == 0 || r == OUTCOME_SKIPPED, "%s: outcome %x", what, r);
    return r == 0;
}

static void layout_protected(unsigned cpl)
{
    // Processors that deprecate FCS and FDS store 0 (CPUID 7 EBX[13]); AMD's do store 0 as well when they
    // run 64-bit system software, which this is not.
    bool none = lab_has(7, 0, 1, 13);
    u32 fcs = none ? 0 : ring_code[cpl], fds = none ? 0 : ring_data[cpl];
    u32 ip = (u32)(ulong)fnstenv32 + 2 + (IS_LONG ? 3 : 2) + 2;

    if (ran("fnstenv", pend(cpl, fnstenv32))) {
        lab_equal("fcw", image32(0) & 0xffff, ZE_UNMASKED);
        lab_equal("fsw", image32(4) & 0xffff, FSW_PENDING);
        lab_equal("ftw", image32(8) & 0xffff, 0x3fff);
        lab_equal("ip", image32(12), ip);
        lab_equal("opcode", image32(16) >> 16, 0x031);
        if (!IS_LONG) {
            lab_equal("cs", image32(16) & 0xffff, fcs);
            lab_equal("ds", image32(24) & 0xffff, fds);
        }
        lab_equal("dp", image32(20), (u32)(ulong)&zero_divisor);
        lab_equal("28 bytes", image32(28), 0xa5a5a5a5);
        u16 fcw = 0;
        __asm__ volatile("fnstcw %0; fnclex" : "+m"(fcw));
        lab_equal("fnstenv masks all", fcw & 0x3f, 0x3f);
    }
    ip = (u32)(ulong)fnstenv16 + 2 + (IS_LONG ? 3 : 2) + 2;
    if (ran("fnstenv, 16 bits", pend(cpl, fnstenv16))) {
        lab_equal("fcw", image32(0) & 0xffff, ZE_UNMASKED);
        lab_equal("fsw", image32(2) & 0xffff, FSW_PENDING);
        lab_equal("ftw", image32(4) & 0xffff, 0x3fff);
        lab_equal("ip", image32(6) & 0xffff, ip & 0xffff);
        lab_equal("dp", image32(10) & 0xffff, (u32)(ulong)&zero_divisor & 0xffff);
        if (!IS_LONG) {
            lab_equal("cs", image32(8) & 0xffff, fcs);
            lab_equal("ds", image32(12) & 0xffff, fds);
        }
        lab_equal("14 bytes", image32(14), 0xa5a5a5a5);
    }
    if (ran("fnsave", pend(cpl, fnsave32))) {
        lab_equal("fsave: fsw", image32(4) & 0xffff, FSW_PENDING);
        lab_equal("fsave: st0", image32(32), 0x80000000);
        lab_equal("fsave: st0", image32(36) & 0xffff, 0x3fff);
        lab_equal("108 bytes", image32(108), 0xa5a5a5a5);
    }
    if (ran("fnsave, 16 bits", pend(cpl, fnsave16))) {
        lab_equal("fsave: st0", image32(18), 0x80000000);
        lab_equal("94 bytes", image32(94), 0xa5a5a5a5);
    }
    __asm__ volatile("fninit");
}

// --- reports --------------------------------------------------------------------------------------------------
static void report_mf(unsigned cpl)
{
    static const struct {
        const char *name, *snippet;
    } waiting[] = {{"fwait", report_fwait},
                   {"fldz", report_fld},
                   {"fstenv", report_fstenv},
                   {"emms", report_emms}};
    u32 length = 2 + (IS_LONG ? 3 : 2) + 2 + (IS_LONG ? 3 : 2);

    for (u32 i = 0; i < sizeof(waiting) / sizeof(waiting[0]); i++) {
        if (i == 3 && !lab_has(1, 0, 3, 23))
            continue;
        u32 r = pend(cpl, waiting[i].snippet);
        lab_check(r == FAULT(VEC_MF, 0) || r == OUTCOME_SKIPPED, "%s: outcome %x", waiting[i].name,
                  r);
        if (r == FAULT(VEC_MF, 0))
            lab_equal("the waiting instruction is told", ring_trap->ip,
                      (ulong)waiting[i].snippet + length);
        __asm__ volatile("fninit");
    }
    ran("instructions that do not wait", pend(cpl, no_report));
    ran("fninit", pend(cpl, no_report_fninit));
    __asm__ volatile("fninit");
}

SNIPPET(simd, "ldmxcsr (%ebx)\nmovss (%ecx), %xmm0\ndivss (%edx), %xmm0");
static void report_xm(unsigned cpl)
{
    static u32 mxcsr = 0x1f80 & ~0x200; // zero divide not masked
    static float one = 1, nothing;
    ulong cr4 = lab_cr4();

    if (!lab_has(1, 0, 3, 25))
        return;
    for (u32 i = 0; i < 2; i++) {
        lab_set_cr4((cr4 & ~0x400ul) | 0x200 | (i ? 0x400 : 0));
        ring_prepare(cpl, simd);
        ring_state.gpr[3] = (ulong)&mxcsr;
        ring_state.gpr[1] = (ulong)&one;
        ring_state.gpr[2] = (ulong)&nothing;
        u32 r = ring_run(), want = FAULT(i ? VEC_XM : VEC_UD, 0);
        // (#UD at UD2 behind would look alike: the address tells.)
        bool at = ring_trap && ring_trap->ip == (ulong)simd + (IS_LONG ? 4 + 5 : 3 + 4);
        if (!i && r == 0 && at)
            r = want;
        lab_check((r == want && at) || r == OUTCOME_SKIPPED, "OSXMMEXCPT = %u: outcome %x at %lx",
                  i, r, ring_trap ? ring_trap->ip : 0);
        if (r == want) {
            u32 now = 0;
            __asm__ volatile("stmxcsr %0" : "+m"(now));
            lab_equal("the flag is set", now, mxcsr | 4);
        }
    }
    lab_set_cr4(cr4);
}

int main(void)
{
    static const char *const rings[] = {"protected, ring 0", "protected, ring 3"};

    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    rings_setup();
    lab_set_cr0((lab_cr0() & ~0xcul) | 0x22); // no EM, TS; MP, NE
    for (u32 i = 0; i < 2; i++) {
        lab_section(rings[i]);
        layout_protected(3 * i);
        report_mf(3 * i);
        report_xm(3 * i);
    }
    fpu_irq13();
#ifndef __x86_64__
    fpu_real_layouts();
#endif
    return 0;
}
