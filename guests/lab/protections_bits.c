// SPDX-License-Identifier: Apache-2.0
// CR0, CR3, CR4, CR8, EFER, XCR0, DR6 and DR7: each bit changed alone. Accepted, ignored or #GP(0), and what
// is read back. SDM vol. 3A, 2.5, 2.2.1 (EFER), 2.6 (XCR0), 17.2 (debug registers).
#include "protections.h"

// --- reading and writing by trial ----------------------------------------------------------------------

enum which {
    WRITE_CR0,
    WRITE_CR3,
    WRITE_CR4,
    WRITE_CR8,
    WRITE_DR6,
    WRITE_DR7,
    WRITE_EFER,
    WRITE_XCR0
};
static enum which which;
static volatile u64 value, read_back; // volatile: a trap may come between any two steps
static u32 xcr_index;

static void xsetbv(u32 index, u64 v)
{
    __asm__ volatile(".byte 0x0f, 0x01, 0xd1" : : "c"(index), "a"((u32)v), "d"((u32)(v >> 32)));
}

static u64 xgetbv(u32 index)
{
    u32 low, high;
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(index));
    return (u64)high << 32 | low;
}

static u64 reg_read(void)
{
    switch (which) {
    case WRITE_CR0:
        return lab_cr0();
    case WRITE_CR3:
        return lab_cr3();
    case WRITE_CR4:
        return lab_cr4();
    case WRITE_DR6:
        return lab_dr6();
    case WRITE_DR7:
        return lab_dr7();
    case WRITE_EFER:
        return lab_rdmsr(MSR_EFER);
    case WRITE_XCR0:
        return xgetbv(0);
#ifdef __x86_64__
    case WRITE_CR8: {
        ulong v;
        __asm__ volatile("mov %%cr8, %0" : "=r"(v));
        return v;
    }
#endif
    default:
        return 0;
    }
}

static void reg_write(u64 v)
{
    switch (which) {
    case WRITE_CR0:
        lab_set_cr0((ulong)v);
        break;
    case WRITE_CR3:
        lab_set_cr3((ulong)v);
        break;
    case WRITE_CR4:
        lab_set_cr4((ulong)v);
        break;
    case WRITE_DR6:
        lab_set_dr6((ulong)v);
        break;
    case WRITE_DR7:
        lab_set_dr7((ulong)v);
        break;
    case WRITE_EFER:
        lab_wrmsr(MSR_EFER, v);
        break;
    case WRITE_XCR0:
        xsetbv(xcr_index, v);
        break;
#ifdef __x86_64__
    case WRITE_CR8:
        __asm__ volatile("mov %0, %%cr8" : : "r"((ulong)v));
        break;
#endif
    default:
        break;
    }
}

// Writes, reads what came of it, puts the old value back.
static void attempt(void *argument)
{
    u64 old = reg_read();
    (void)argument;
    read_back = old;
    reg_write(value);
    read_back = reg_read();
    reg_write(old);
}

static void read_only(void *argument)
{
    (void)argument;
    read_back = reg_read();
}

enum outcome {
    REFUSED,
    TAKEN,
    IGNORED
};

// `old` is what the register holds.
static void expect_write(const char *what, u32 bit, u64 v, enum outcome outcome, u64 old)
{
    value = v;
    const struct lab_trap *t = lab_try(attempt, 0);
    bool refused = t && t->vector == VEC_GP && t->error == 0;
    u64 want = outcome == TAKEN ? v : old;
    bool ok = outcome == REFUSED ? refused && read_back == old : !t && read_back == want;
    lab_check(ok, "%s bit %u: %llx: %s %u, then %llx, want %s %llx", what, bit, v,
              t ? "vector" : "no trap", t ? t->vector : 0, read_back,
              outcome == REFUSED ? "#GP," : "no trap,", want);
}

// --- CR0 -------------------------------------------------------------------------------------------------

static enum outcome cr0_model(u64 old, u64 v)
{
    u64 defined = 0xe005003f;
    if (v >> 32)
        return REFUSED;
    v = (v & defined) | CR0_ET;
    if ((v & CR0_PG) && !(v & CR0_PE))
        return REFUSED;
    if ((v & CR0_NW) && !(v & CR0_CD))
        return REFUSED;
    if (LONG_MODE && !(v & CR0_PG))
        return REFUSED;
    return v == old ? IGNORED : TAKEN;
}

// CLTS and LMSW change a few bits, and LMSW never clears PE.
static void cr0_parts(void)
{
    ulong old = lab_cr0() & ~14ul;
    for (ulong low = 0; low < 16; low++)
        for (ulong from = 0; from < 16; from += 2) {
            lab_set_cr0(old | from);
            __asm__ volatile("lmsw %w0" : : "r"(0xfff0 | low));
            ulong got = lab_cr0();
            lab_set_cr0(old);
            lab_check(got == (old | low), "LMSW %lx from %lx: CR0 %lx", low, from, got);
            lab_set_cr0(old | from);
            __asm__ volatile("clts");
            got = lab_cr0();
            lab_set_cr0(old);
            lab_check(got == (old | (from & ~8ul)), "CLTS from %lx: CR0 %lx", from, got);
        }
}

static void cr0_bits(void)
{
    which = WRITE_CR0;
    u64 old = lab_cr0();
    cr0_parts();
    for (u32 bit = 0; bit < sizeof(ulong) * 8; bit++) {
        u64 v = old ^ 1ull << bit;
        if (!LONG_MODE && (bit == 0 || bit == 31))
            continue; // real mode and paging are others' business
        expect_write("CR0", bit, v, cr0_model(old, v), old);
    }
    u64 v = old | CR0_CD | CR0_NW;
    expect_write("CR0 CD NW", 29, v, TAKEN, old);
    if (LONG_MODE)
        expect_write("CR0 PE PG", 0, old & ~(u64)(CR0_PE | CR0_PG), REFUSED, old);
}

// --- CR4 -------------------------------------------------------------------------------------------------

static bool cr4_exists(u32 bit)
{
    static const struct {
        u8 bit;
        u32 leaf;
        u8 reg, feature;
    } bits[] = {{0, 1, 3, 1},   {1, 1, 3, 1},   {2, 1, 3, 4},   {3, 1, 3, 2},  {4, 1, 3, 3},
                {5, 1, 3, 6},   {6, 1, 3, 7},   {7, 1, 3, 13},  {9, 1, 3, 24}, {10, 1, 3, 25},
                {11, 7, 2, 2},  {12, 7, 2, 16}, {13, 1, 2, 5},  {14, 1, 2, 6}, {16, 7, 1, 0},
                {17, 1, 2, 17}, {18, 1, 2, 26}, {19, 7, 2, 23}, {20, 7, 1, 7}, {21, 7, 1, 20},
                {22, 7, 2, 3},  {23, 7, 2, 7},  {24, 7, 2, 31}, {25, 7, 3, 5}};
    for (u32 i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
        if (bits[i].bit == bit)
            return lab_has(bits[i].leaf, 0, bits[i].reg, bits[i].feature);
    return bit == 8; // PCE: with the P6 and everything since
}

static enum outcome cr4_model(u64 old, u32 bit)
{
    u64 v = old ^ 1ull << bit;
    if (!cr4_exists(bit))
        return REFUSED;
    if (LONG_MODE && (bit == 5 || bit == 12))
        return REFUSED; // PAE stays, LA57 cannot change
    if (bit == 17 && !LONG_MODE)
        return REFUSED; // PCIDE only with EFER.LMA (and CR3[11:0] = 0, which it is)
    if (bit == 23 && (v >> 23 & 1) && !(lab_cr0() & CR0_WP))
        return REFUSED; // CET needs WP
    return TAKEN;
}

static void cr4_bits(void)
{
    which = WRITE_CR4;
    u64 old = lab_cr4();
    for (u32 bit = 0; bit < sizeof(ulong) * 8; bit++) {
        if (LONG_MODE && (bit == 20 || bit == 21) && cr4_exists(bit))
            continue; // SMEP, SMAP: the guest itself lives in pages of ring 3
        if ((bit == 13 || bit == 14) && cr4_exists(bit))
            continue; // VMXE and SMXE have further conditions
        expect_write("CR4", bit, old ^ 1ull << bit, cr4_model(old, bit), old);
    }
    if (cr4_exists(18)) {
        lab_set_cr4((ulong)old | CR4_OSXSAVE);
        lab_check(lab_has(1, 0, 2, 27), "CPUID.1:ECX.OSXSAVE with CR4.OSXSAVE");
        lab_set_cr4((ulong)old & ~(ulong)CR4_OSXSAVE);
        lab_check(!lab_has(1, 0, 2, 27), "CPUID.1:ECX.OSXSAVE without CR4.OSXSAVE");
        lab_set_cr4((ulong)old);
    }
}

// --- CR3, CR8 --------------------------------------------------------------------------------------------

static void cr3_bits(void)
{
    which = WRITE_CR3;
    u64 old = lab_cr3();
    if (LONG_MODE) {
        for (u32 bit = lab_cpuid(0x80000008, 0).a & 0xff; bit < 64; bit++)
            expect_write("CR3", bit, old ^ 1ull << bit, REFUSED, old);
        expect_write("CR3 PWT", 3, old ^ 8, TAKEN, old);
        expect_write("CR3 PCD", 4, old ^ 16, TAKEN, old);
    } else {
        for (u32 bit = 12; bit < 32; bit++) // paging is off
            expect_write("CR3", bit, old ^ 1ull << bit, TAKEN, old);
    }
}

static void cr8_bits(void)
{
    if (!LONG_MODE)
        return;
    which = WRITE_CR8;
    for (u32 v = 0; v < 16; v++)
        expect_write("CR8", v, v, v ? TAKEN : IGNORED, 0);
    for (u32 bit = 4; bit < 64; bit++)
        expect_write("CR8", bit, 1ull << bit, REFUSED, 0);
}

// --- EFER, XCR0 ------------------------------------------------------------------------------------------

static enum outcome efer_model(u32 bit)
{
    switch (bit) {
    case 0:
        return lab_has(0x80000001, 0, 3, 11) || lab_is_amd() ? TAKEN : REFUSED;
    case 8:
        return !lab_has(0x80000001, 0, 3, 29) || LONG_MODE ? REFUSED : TAKEN; // not under paging
    case 10:
        return IGNORED;
    case 11:
        return lab_has(0x80000001, 0, 3, 20) ? TAKEN : REFUSED;
    case 12:
        return lab_has(0x80000001, 0, 2, 2) ? TAKEN : REFUSED;
    case 14:
        return lab_is_amd() && lab_has(0x80000001, 0, 3, 25) ? TAKEN : REFUSED;
    case 15:
        return lab_is_amd() && lab_has(0x80000001, 0, 2, 17) ? TAKEN : REFUSED;
    case 17:
        return lab_is_amd() && lab_has(0x80000008, 0, 1, 8) ? TAKEN : REFUSED;
    case 18:
        return lab_is_amd() && lab_has(0x80000008, 0, 1, 13) ? TAKEN : REFUSED;
    case 20:
        return lab_is_amd() && lab_has(0x80000021, 0, 0, 7) ? TAKEN : REFUSED;
    case 21:
        return lab_is_amd() && lab_has(0x80000021, 0, 0, 8) ? TAKEN : REFUSED;
    default:
        return REFUSED;
    }
}

static void efer_bits(void)
{
    if (!lab_has(0x80000001, 0, 3, 29))
        return;
    which = WRITE_EFER;
    u64 old = lab_rdmsr(MSR_EFER);
    for (u32 bit = 0; bit < 64; bit++) {
        // AMD: bits 7:1 read as zero, LMA must be written as it reads: undefined otherwise. SVME may
        // be locked, LMSLE has no CPUID bit that says it exists.
        if (lab_is_amd() && ((bit >= 1 && bit <= 7) || bit == 10 || bit == 12 || bit == 13))
            continue;
        expect_write("EFER", bit, old ^ 1ull << bit, efer_model(bit), old);
    }
}

static enum outcome xcr0_model(u64 supported, u64 old, u64 v)
{
    if (!(v & 1) || (v & ~supported))
        return REFUSED;
    if ((v & 4) && !(v & 2))
        return REFUSED;
    if ((v >> 3 & 3) == 1 || (v >> 3 & 3) == 2)
        return REFUSED;
    if ((v >> 5 & 7) && ((v >> 5 & 7) != 7 || !(v & 4)))
        return REFUSED;
    if ((v >> 17 & 3) == 1 || (v >> 17 & 3) == 2)
        return REFUSED;
    return v == old ? IGNORED : TAKEN;
}

static void xcr0_bits(void)
{
    if (!lab_has(1, 0, 2, 26))
        return;
    struct lab_cpuid leaf = lab_cpuid(13, 0);
    u64 supported = (u64)leaf.d << 32 | leaf.a;
    ulong cr4 = lab_cr4();
    lab_set_cr4(cr4 & ~(ulong)CR4_OSXSAVE);
    which = WRITE_XCR0;
    value = 1;
    read_back = 0;
    lab_expect_error("XGETBV without OSXSAVE", lab_try(attempt, 0), VEC_UD, 0);
    lab_set_cr4(cr4 | CR4_OSXSAVE);
    if (!lab_expect_none("XGETBV", lab_try(read_only, 0)) || !read_back) {
        lab_set_cr4(cr4);
        return; // a monitor without it
    }
    u64 old = read_back;
    xcr_index = 0;
    for (u32 v = 0; v < 8; v++)
        expect_write("XCR0", v, v, xcr0_model(supported, old, v), old);
    for (u32 bit = 3; bit < 64; bit++) {
        u64 base = (supported & 7) | 1ull << bit;
        expect_write("XCR0", bit, base, xcr0_model(supported, old, base), old);
    }
    expect_write("XCR0 all", 0, supported, xcr0_model(supported, old, supported), old);
    for (xcr_index = 1; xcr_index; xcr_index <<= 1)
        expect_write("XCR of another index", xcr_index, 1, REFUSED, old);
    xcr_index = 0;
    lab_set_cr4(cr4);
}

// --- debug registers -------------------------------------------------------------------------------------

static void dr_bits(void)
{
    which = WRITE_DR6;
    u64 old = 0xffff0ff0;
    lab_set_dr6((ulong)old);
    for (u32 bit = 0; bit < sizeof(ulong) * 8; bit++) {
        bool writable = bit < 4 || (bit >= 13 && bit <= 15);
        if (bit == 11 || bit == 16)
            continue; // bus lock detection, RTM: where these exist
        expect_write("DR6", bit, old ^ 1ull << bit,
                     bit >= 32  ? REFUSED
                     : writable ? TAKEN
                                : IGNORED,
                     old);
    }
    which = WRITE_DR7;
    old = 0x400;
    lab_set_dr7((ulong)old);
    for (u32 bit = 0; bit < sizeof(ulong) * 8; bit++) {
        bool writable = bit <= 9 || bit >= 16;
        if (bit == 11 || bit == 13)
            continue; // RTM; GD would trap the reading
        expect_write("DR7", bit, old ^ 1ull << bit,
                     bit >= 32  ? REFUSED
                     : writable ? TAKEN
                                : IGNORED,
                     old);
    }
    lab_set_dr6(0xffff0ff0);
}

void protections_registers(void)
{
    static const struct {
        const char *name;
        void (*group)(void);
    } groups[] = {{"CR0", cr0_bits},   {"CR4", cr4_bits},   {"CR3", cr3_bits},    {"CR8", cr8_bits},
                  {"EFER", efer_bits}, {"XCR0", xcr0_bits}, {"DR6, DR7", dr_bits}};
    for (u32 i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        lab_section(groups[i].name);
        groups[i].group();
    }
}
