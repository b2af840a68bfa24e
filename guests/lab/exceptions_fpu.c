// SPDX-License-Identifier: Apache-2.0
// #NM, #UD, #MF and #XM of x87, MMX, SSE and AVX instructions under every setting of CR0.EM, MP, TS, NE and
// CR4.OSFXSR, OSXMMEXCPT, OSXSAVE (SDM vol. 3, 2.5, 13.1 and tables 2-2, 9-3; vol. 2, 2.4).
#include "exceptions.h"

#define CR0_MP 2u
#define CR0_EM 4u
#define CR0_TS 8u
#define CR0_NE 0x20u
#define CR4_OSFXSR 0x200u
#define CR4_OSXMMEXCPT 0x400u
#define CR4_OSXSAVE 0x40000u

enum class {
    X87,     // EM or TS: #NM
    WAIT,    // MP and TS: #NM
    MMX,     // EM: #UD, TS: #NM
    SSE,     // EM or no OSFXSR: #UD, TS: #NM
    AVX,     // no OSXSAVE or XCR0: #UD, TS: #NM
    XSAVE,   // no OSXSAVE: #UD, TS: #NM
    FXSR,    // TS: #NM; what EM does depends on the edition of the manual
    NEITHER, // none of them counts
};

static const struct {
    const char *name;
    enum class class;
    u8 code[8], length;
} tries[] = {
    {"fld st0", X87, {0xd9, 0xc0}, 2},
    {"fnop", X87, {0xd9, 0xd0}, 2},
    {"fninit", X87, {0xdb, 0xe3}, 2},
    {"fnclex", X87, {0xdb, 0xe2}, 2},
    {"fnstsw [di]", X87, {0xdd, 0x3f}, 2},
    {"fnstcw [di]", X87, {0xd9, 0x3f}, 2},
    {"wait", WAIT, {0x9b}, 1},
    {"pxor mm0, mm0", MMX, {0x0f, 0xef, 0xc0}, 3},
    {"movd mm0, eax", MMX, {0x0f, 0x6e, 0xc0}, 3},
    {"emms", MMX, {0x0f, 0x77}, 2},
    {"xorps", SSE, {0x0f, 0x57, 0xc0}, 3},
    {"pxor xmm", SSE, {0x66, 0x0f, 0xef, 0xc0}, 4},
    {"movaps load", SSE, {0x0f, 0x28, 0x07}, 3},
    {"addsd", SSE, {0xf2, 0x0f, 0x58, 0xc0}, 4},
    {"stmxcsr", SSE, {0x0f, 0xae, 0x1f}, 3},
    {"vxorps", AVX, {0xc5, 0xf8, 0x57, 0xc0}, 4},
    {"vzeroupper", AVX, {0xc5, 0xf8, 0x77}, 3},
    {"vmovaps ymm", AVX, {0xc5, 0xfc, 0x28, 0xc0}, 4},
    {"fxsave [di]", FXSR, {0x0f, 0xae, 0x07}, 3},
    {"xsave [di]", XSAVE, {0x0f, 0xae, 0x27}, 3},
    {"prefetcht0", NEITHER, {0x0f, 0x18, 0x0f}, 3},
    {"sfence", NEITHER, {0x0f, 0xae, 0xf8}, 3},
    {"lfence", NEITHER, {0x0f, 0xae, 0xe8}, 3},
    {"movnti", NEITHER, {0x0f, 0xc3, 0x07}, 3},
    {"pause", NEITHER, {0xf3, 0x90}, 2},
};

static unsigned expected(enum class class, ulong cr0, ulong cr4, bool xcr0)
{
    bool em = cr0 & CR0_EM, mp = cr0 & CR0_MP, ts = cr0 & CR0_TS;
    switch (class) {
    case X87:
    case FXSR:
        return em || ts ? VEC_NM : PROBE_END;
    case WAIT:
        return mp && ts ? VEC_NM : PROBE_END;
    case MMX:
        return em ? VEC_UD : ts ? VEC_NM : PROBE_END;
    case SSE:
        return em || !(cr4 & CR4_OSFXSR) ? VEC_UD : ts ? VEC_NM : PROBE_END;
    case AVX:
        return !(cr4 & CR4_OSXSAVE) || !xcr0 ? VEC_UD : ts ? VEC_NM : PROBE_END;
    case XSAVE:
        return !(cr4 & CR4_OSXSAVE) ? VEC_UD : ts ? VEC_NM : PROBE_END;
    default:
        return PROBE_END;
    }
}

static void xsetbv(u32 value)
{
    __asm__ volatile(".byte 0x0f, 0x01, 0xd1" : : "c"(0), "a"(value), "d"(0));
}

static void matrix(unsigned mode)
{
    bool xsave = lab_has(1, 0, 2, 26), avx = lab_has(1, 0, 2, 28);
    ulong cr0 = lab_cr0(), cr4 = lab_cr4();
    struct lab_state s;
    for (unsigned i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        if ((tries[i].class == AVX && !avx) || (tries[i].class == XSAVE && !xsave))
            continue;
        for (unsigned bits = 0; bits < 8; bits++) {
            for (unsigned more = 0; more < 6;
                 more++) { // OSFXSR; no OSXSAVE, XCR0 without, with AVX
                ulong c0 = (cr0 & ~(ulong)(CR0_MP | CR0_EM | CR0_TS)) | bits << 1 | CR0_NE;
                ulong c4 = (cr4 & ~(ulong)(CR4_OSFXSR | CR4_OSXSAVE)) |
                           (more & 1 ? CR4_OSFXSR : 0) | (more > 1 ? CR4_OSXSAVE : 0);
                bool x0 = more > 3;
                unsigned ring = (bits ^ more) & 1 ? 3 : 0;
                if ((more > 1 && !xsave) || (x0 && !avx))
                    continue;
                if ((tries[i].class < AVX && more > 1) || (tries[i].class == FXSR && c0 & CR0_EM))
                    continue;
                probe_begin(&s, (enum probe_mode)mode, ring);
                s.gpr[0] = s.gpr[2] = 0; // XSAVE of nothing
                probe_code(tries[i].code, tries[i].length);
                __asm__ volatile("fninit");
                lab_set_cr4(c4);
                if (more > 1)
                    xsetbv(x0 ? 7 : 1);
                lab_set_cr0(c0);
                probe_loose_registers = true;
                unsigned want = expected(tries[i].class, c0, c4, x0);
                bool ok = probe_expect(tries[i].name, &s, probe_run(&s), want, 0);
                lab_set_cr0(cr0);
                if (!ok)
                    lab_print("  cr0 %lx cr4 %lx xcr0 %u\n", c0, c4, x0);
                if (more > 1)
                    xsetbv(1);
                lab_set_cr4(cr4);
            }
        }
    }
    probe_loose_registers = false;
}

// #MF: an unmasked exception that is pending shows at the next waiting x87 or MMX instruction, WAIT included, not at the
// FN ones (SDM vol. 1, 8.6). The pending one is the division 1/0.
static void pending_mf(unsigned mode)
{
    static const struct {
        const char *name;
        u8 code[4], length, mf;
    } after[] = {
        {"wait", {0x9b}, 1, 1},
        {"fld1", {0xd9, 0xe8}, 2, 1},
        {"fld [di]", {0xd9, 0x07}, 2, 1},
        {"fstp [di]", {0xd9, 0x1f}, 2, 1},
        {"fldcw", {0xd9, 0x6f, 0x10}, 3, 1},
        {"frstor", {0xdd, 0x27}, 2, 1},
        {"emms", {0x0f, 0x77}, 2, 1},
        {"pxor mm0", {0x0f, 0xef, 0xc0}, 3, 1},
        {"fnstsw ax", {0xdf, 0xe0}, 2, 0},
        {"fnstsw [di]", {0xdd, 0x3f}, 2, 0},
        {"fnstcw", {0xd9, 0x3f}, 2, 0},
        {"fnclex", {0xdb, 0xe2}, 2, 0},
        {"fninit", {0xdb, 0xe3}, 2, 0},
        {"fnstenv", {0xd9, 0x37}, 2, 0},
        {"fnsave", {0xdd, 0x37}, 2, 0},
        {"nop", {0x90}, 1, 0},
        {"mov", {0x8b, 0x07}, 2, 0},
        {"xorps", {0x0f, 0x57, 0xc0}, 3, 0},
        {"fxsave", {0x0f, 0xae, 0x07}, 3, 0},
    };
    struct lab_state s;
    ulong cr0 = lab_cr0(), cr4 = lab_cr4();
    lab_set_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    for (unsigned i = 0; i < sizeof(after) / sizeof(after[0]); i++) {
        for (unsigned ring = 0; ring < 4; ring += 3) {
            u16 cw = 0x037b; // ZM open
            probe_begin(&s, (enum probe_mode)mode, ring);
            probe_code(after[i].code, after[i].length);
            lab_set_cr0((cr0 & ~(ulong)(CR0_EM | CR0_TS)) | CR0_NE | CR0_MP);
            __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(cw));
            probe_loose_registers = !after[i].mf;
            probe_expect(after[i].name, &s, probe_run(&s), after[i].mf ? VEC_MF : PROBE_END, 0);
            probe_loose_registers = false;
            __asm__ volatile("fnclex; fninit");
            lab_set_cr0(cr0);
        }
    }
    lab_set_cr4(cr4);
}

// #XM: an unmasked SIMD exception with CR4.OSXMMEXCPT, without it #UD (SDM vol. 1, 11.5.2).
static void simd_exception(unsigned mode)
{
    static const struct {
        const char *name;
        u8 code[5], length;
        u32 mxcsr, want_xm;
    } after[] = {
        {"divps 0/0", {0x0f, 0x5e, 0xc0}, 3, 0x1f00, 1},       // IM open
        {"divsd 0/0", {0xf2, 0x0f, 0x5e, 0xc0}, 4, 0x1f00, 1}, // IM open
        {"sqrtss 0", {0xf3, 0x0f, 0x51, 0xc0}, 4, 0x1f00, 0},  // nothing to report
        {"divss 0/0 masked", {0xf3, 0x0f, 0x5e, 0xc0}, 4, 0x1f80, 0},
        {"cvtps2dq of 0", {0x66, 0x0f, 0x5b, 0xc0}, 4, 0, 0},
    };
    struct lab_state s;
    ulong cr0 = lab_cr0(), cr4 = lab_cr4();
    for (unsigned i = 0; i < sizeof(after) / sizeof(after[0]); i++) {
        for (unsigned pass = 0; pass < 4; pass++) {
            bool enabled = pass & 1;
            u32 normal = 0x1f80;
            probe_begin(&s, (enum probe_mode)mode, pass & 2 ? 3 : 0);
            probe_code(after[i].code, after[i].length);
            lab_set_cr0(cr0 & ~(ulong)(CR0_EM | CR0_TS));
            lab_set_cr4((cr4 & ~(ulong)CR4_OSXMMEXCPT) | CR4_OSFXSR |
                        (enabled ? CR4_OSXMMEXCPT : 0));
            __asm__ volatile("ldmxcsr %0; .byte 0x0f, 0x57, 0xc0" : : "m"(after[i].mxcsr)); // xorps
            probe_expect(after[i].name, &s, probe_run(&s),
                         !after[i].want_xm ? PROBE_END
                         : enabled         ? VEC_XM
                                           : VEC_UD,
                         0);
            u32 got;
            __asm__ volatile("stmxcsr %0; ldmxcsr %1" : "=m"(got) : "m"(normal));
            if (after[i].want_xm)
                lab_equal("MXCSR tells the cause", got, after[i].mxcsr | 1);
            lab_set_cr0(cr0);
            lab_set_cr4(cr4);
        }
    }
}

// A VEX prefix does not go with 66, F2, F3, LOCK or REX; reserved maps and vvvv (SDM vol. 2, 2.3).
static void vex_form(unsigned mode)
{
    static const struct {
        const char *name;
        u8 code[8], length, modes, ok;
    } forms[] = {
        {"vxorps", {0xc5, 0xf8, 0x57, 0xc0}, 4, 7, 1},
        {"66 vex", {0x66, 0xc5, 0xf8, 0x57, 0xc0}, 5, 7, 0},
        {"f2 vex", {0xf2, 0xc5, 0xf8, 0x57, 0xc0}, 5, 7, 0},
        {"f3 vex", {0xf3, 0xc5, 0xf8, 0x57, 0xc0}, 5, 7, 0},
        {"lock vex", {0xf0, 0xc5, 0xf8, 0x57, 0xc0}, 5, 7, 0},
        {"rex vex", {0x40, 0xc5, 0xf8, 0x57, 0xc0}, 5, 4, 0},
        {"map 0", {0xc4, 0xe0, 0x78, 0x57, 0xc0}, 5, 7, 0},
        {"map 31", {0xc4, 0xff, 0x78, 0x57, 0xc0}, 5, 7, 0},
        {"vmovaps with vvvv", {0xc5, 0xf0, 0x28, 0xc0}, 4, 7, 0},
        {"vaddps with 3-byte vex", {0xc4, 0xe1, 0x78, 0x58, 0xc0}, 5, 7, 1},
        {"segment and vex", {0x3e, 0xc5, 0xf8, 0x57, 0xc0}, 5, 7, 1},
    };
    struct lab_state s;
    ulong cr4 = lab_cr4();
    if (!lab_has(1, 0, 2, 28))
        return;
    lab_set_cr4(cr4 | CR4_OSFXSR | CR4_OSXSAVE);
    xsetbv(7);
    for (unsigned i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (!(forms[i].modes >> mode & 1))
            continue;
        for (unsigned ring = 0; ring < 4; ring += 3) {
            probe_begin(&s, (enum probe_mode)mode, ring);
            probe_code(forms[i].code, forms[i].length);
            probe_expect(forms[i].name, &s, probe_run(&s), forms[i].ok ? PROBE_END : VEC_UD, 0);
        }
    }
    xsetbv(1);
    lab_set_cr4(cr4);
}

void exceptions_fpu(void)
{
    for (unsigned mode = 0; mode < PROBE_MODES; mode++) {
        lab_section("EM, MP, TS, OSFXSR, OSXSAVE");
        matrix(mode);
        lab_section("#MF");
        pending_mf(mode);
        lab_section("#XM");
        simd_exception(mode);
        lab_section("VEX");
        vex_form(mode);
    }
}
