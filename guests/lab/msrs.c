// SPDX-License-Identifier: Apache-2.0
// Model-specific registers: which exist, what each bit of them accepts, what is read back; #GP(0) for the rest and
// for ring 3. SDM vol. 4; vol. 3A, 11.11 (MTRRs), 11.12 (PAT), 15.3 (machine check), 17.17 (TSC); APM vol. 2,
// appendix A.
#include "lab.h"

#ifdef __x86_64__
#define LONG_MODE true
#else
#define LONG_MODE false
#endif

static volatile u32 number;
static volatile u64 value, read_back;
static u64 width_mask; // bits that a physical address may not have
static bool amd;

static void read_it(void *argument)
{
    (void)argument;
    read_back = lab_rdmsr(number);
}

// Writes, reads, puts the old value back.
static void write_it(void *argument)
{
    u64 old = lab_rdmsr(number);
    (void)argument;
    read_back = old;
    lab_wrmsr(number, value);
    read_back = lab_rdmsr(number);
    lab_wrmsr(number, old);
}

static const struct lab_trap *try_read(u32 msr)
{
    number = msr;
    read_back = 0;
    return lab_try(read_it, 0);
}

static bool skipped(const struct lab_trap *t)
{
    return t && t->vector == 0xffff;
}

static bool gp(const struct lab_trap *t)
{
    return t && t->vector == VEC_GP && t->error == 0;
}

static bool gp_or_skipped(const struct lab_trap *t)
{
    return skipped(t) || gp(t);
}

static void refused(u32 msr, u64 v)
{
    number = msr;
    value = v;
    const struct lab_trap *t = lab_try(write_it, 0);
    lab_check(skipped(t) || gp(t), "MSR %x: %llx: %s, want #GP", msr, v,
              t ? "another trap" : "taken");
}

static void taken_as(u32 msr, u64 v, u64 want)
{
    number = msr;
    value = v;
    const struct lab_trap *t = lab_try(write_it, 0);
    if (skipped(t))
        return;
    lab_check(!t && read_back == want, "MSR %x: %llx: %s %u, reads %llx, want %llx", msr, v,
              t ? "vector" : "no trap", t ? t->vector : 0, read_back, want);
}

static void taken(u32 msr, u64 v)
{
    taken_as(msr, v, v);
}

// --- MTRRs and PAT -------------------------------------------------------------------------------------------

static bool mtrr_type(u32 type)
{
    return type == 0 || type == 1 || type == 4 || type == 5 || type == 6;
}

// Each is a register of its own.
static void mtrrs_apart(void)
{
    u32 numbers[11 + 32], count = 0;
    u64 old[11 + 32], cap = lab_rdmsr(0xfe);
    static const u8 types[] = {0, 1, 4, 5, 6};
    if (cap >> 8 & 1)
        for (u32 i = 0; i < 11; i++)
            numbers[count++] = i == 0 ? 0x250 : i < 3 ? 0x257 + i : 0x265 + i;
    for (u32 i = 0; i < (cap & 0xff) * 2 && i < 32; i++)
        numbers[count++] = 0x200 + i;
    for (u32 i = 0; i < count; i++)
        old[i] = lab_rdmsr(numbers[i]);
    for (u32 pass = 0; pass < 2; pass++)
        for (u32 i = 0; i < count; i++) {
            u64 v = (u64)i << 12; // (disabled: V is clear)
            if (numbers[i] >= 0x250)
                v = (u64)types[i % 5] << 32 | types[i / 5] | 0x0606000000060600;
            if (pass == 0)
                lab_wrmsr(numbers[i], v);
            else
                lab_check(lab_rdmsr(numbers[i]) == v, "MSR %x holds %llx, want %llx", numbers[i],
                          lab_rdmsr(numbers[i]), v);
        }
    for (u32 i = 0; i < count; i++)
        lab_wrmsr(numbers[i], old[i]);
}

static void mtrrs(void)
{
    if (!lab_has(1, 0, 3, 12))
        return;
    mtrrs_apart();
    u64 cap = lab_rdmsr(0xfe);
    u32 variable = cap & 0xff;
    u64 sample = LONG_MODE ? 0x80000000 : 0xc0000000;
    number = 0xfe;
    value = cap;
    const struct lab_trap *t = lab_try(write_it, 0);
    lab_check(gp(t) || skipped(t), "MTRRCAP is read-only");
    // Default type: E, FE, type.
    for (u32 bit = 0; bit < 64; bit++) {
        u64 v = 1ull << bit;
        if (bit < 8 ? mtrr_type((u32)v) : bit == 11 || (bit == 10 && (cap >> 8 & 1)))
            taken(0x2ff, v);
        else
            refused(0x2ff, v);
    }
    for (u32 type = 0; type < 16; type++)
        if (mtrr_type(type))
            taken(0x2ff, 0xc00 | type);
        else
            refused(0x2ff, 0xc00 | type);
    for (u32 i = 0; i < variable; i++) {
        u32 base = 0x200 + i * 2, mask = base + 1;
        for (u32 bit = 0; bit < 64; bit++) {
            u64 v = 1ull << bit;
            bool address = bit >= 12 && !(v & width_mask);
            if (address || (bit < 8 && mtrr_type((u32)v)))
                taken(base, v);
            else
                refused(base, v);
            if (address || bit == 11)
                taken(mask, v);
            else
                refused(mask, v);
        }
        taken(base, sample | 6);
        taken(mask, (~0ull << 28 & ~width_mask) | 0x800);
    }
    // No more than MTRRCAP says.
    if (variable < 16) {
        lab_check(gp_or_skipped(try_read(0x200 + variable * 2)), "MTRR %u does not exist: base",
                  variable);
        lab_check(gp_or_skipped(try_read(0x201 + variable * 2)), "MTRR %u does not exist: mask",
                  variable);
    }
    if (!(cap >> 8 & 1))
        return;
    static const u16 fixed[] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                0x26b, 0x26c, 0x26d, 0x26e, 0x26f};
    for (u32 i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
        for (u32 byte = 0; byte < 8; byte++)
            for (u32 type = 0; type < 256; type = type < 9 ? type + 1 : type * 2) {
                u64 v = 0x0606060606060606 & ~(0xffull << byte * 8);
                v |= (u64)type << byte * 8;
                // (AMD: bits 4 and 3 of a type are RdMem and WrMem, reserved unless SYSCFG allows.)
                if (mtrr_type(type))
                    taken(fixed[i], v);
                else if (!amd || (type & 0xe7) == type)
                    refused(fixed[i], v);
            }
}

static void pat(void)
{
    if (!lab_has(1, 0, 3, 16))
        return;
    lab_equal("PAT", lab_rdmsr(0x277), 0x0007040600070406);
    for (u32 byte = 0; byte < 8; byte++)
        for (u32 type = 0; type < 256; type++) {
            u64 v = (0x0007040600070406 & ~(0xffull << byte * 8)) | (u64)type << byte * 8;
            if (type > 16 && (type & (type - 1)))
                continue;
            if (mtrr_type(type) || type == 7)
                taken(0x277, v);
            else
                refused(0x277, v);
        }
}

// --- machine check -------------------------------------------------------------------------------------------

static void machine_check(void)
{
    if (!lab_has(1, 0, 3, 14))
        return;
    u64 cap = lab_rdmsr(0x179);
    u32 banks = cap & 0xff;
    number = 0x179;
    value = cap;
    const struct lab_trap *t = lab_try(write_it, 0);
    lab_check(gp(t) || skipped(t) || (amd && !t), "MCG_CAP is read-only");
    taken(0x17a, 0);
    lab_note("%u banks", banks);
    for (u32 i = 0; i < banks && i < 32; i++) {
        u32 base = 0x400 + i * 4;
        if (!lab_expect_none("MCi_CTL", try_read(base)))
            break;
        taken(base, ~0ull);
        taken(base, 0);
        taken(base + 1, 0);
        refused(base + 1, 1);
        refused(base + 1, ~0ull);
        refused(base + 1, 1ull << 63);
    }
    if (cap >> 8 & 1) {
        taken(0x17b, ~0ull);
        taken(0x17b, 0);
    } else {
        lab_check(gp_or_skipped(try_read(0x17b)), "no MCG_CTL");
    }
    if (banks && banks < 28) {
        lab_check(gp_or_skipped(try_read(0x400 + banks * 4)), "bank %u does not exist", banks);
        lab_check(gp_or_skipped(try_read(0x401 + banks * 4)), "bank %u does not exist", banks);
    }
}

// --- system calls and bases -------------------------------------------------------------------------------------

static const u64 addresses[] = {0,
                                1,
                                0x12345678,
                                0xffffffff,
                                0x7fffffffffff,
                                0x800000000000,
                                0xffff7fffffffffff,
                                0xffff800000000000,
                                0xffffffffffffffff,
                                0x8000000000000000,
                                0x0001000000000000};

static void canonical_only(u32 msr)
{
    for (u32 i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
        u64 a = addresses[i];
        if ((u64)((long long)(a << 16) >> 16) == a)
            taken(msr, a);
        else
            refused(msr, a);
    }
}

static void calls(void)
{
    if (lab_has(1, 0, 3, 11)) {
        taken(0x174, 0);
        taken(0x174, 0xfff8);
        taken(0x174, 0xffff);
        if (lab_has(0x80000001, 0, 3, 29) && !amd) {
            canonical_only(0x175);
            canonical_only(0x176);
        } else {
            // AMD: 32 bits are there, what becomes of the upper half differs between processors.
            taken(0x175, 0x12345678);
            taken(0x176, 0xffffffff);
        }
    }
    if (!lab_has(0x80000001, 0, 3, 29))
        return;
    taken(0xc0000081, 0);
    taken(0xc0000081, 0x0123456789abcdef);
    canonical_only(0xc0000082);
    canonical_only(0xc0000083);
    taken(0xc0000084, 0);
    taken(0xc0000084, 0xffffffff);
    // FS and GS: the bases of the segments in use; the guest itself needs neither.
    canonical_only(0xc0000100);
    canonical_only(0xc0000101);
    canonical_only(0xc0000102);
}

// --- time ------------------------------------------------------------------------------------------------------

static u64 tsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static u32 rdtscp_aux(void)
{
    u32 low, high, aux;
    __asm__ volatile(".byte 0x0f, 0x01, 0xf9" : "=a"(low), "=d"(high), "=c"(aux));
    return aux;
}

static void counters(void)
{
    bool adjust = lab_has(7, 0, 1, 1);
    u64 before = tsc(), between = lab_rdmsr(0x10), after = tsc();
    lab_check(before <= between && between <= after, "the counter as an MSR: %llx %llx %llx",
              before, between, after);
    u64 adjust0 = 0;
    if (adjust) {
        adjust0 = lab_rdmsr(0x3b);
        u64 a = tsc();
        lab_wrmsr(0x3b, adjust0 + (1ull << 40));
        u64 b = tsc();
        lab_check(b - a >= 1ull << 40 && b - a < (1ull << 40) + (1ull << 38),
                  "TSC_ADJUST moves the counter: %llx", b - a);
        lab_equal("TSC_ADJUST", lab_rdmsr(0x3b), adjust0 + (1ull << 40));
        lab_wrmsr(0x3b, adjust0);
        lab_check(tsc() - a < 1ull << 38, "TSC_ADJUST moves the counter back");
    } else {
        lab_check(gp_or_skipped(try_read(0x3b)), "no TSC_ADJUST");
    }
    u64 a = tsc();
    lab_wrmsr(0x10, a + (1ull << 41));
    u64 b = tsc();
    lab_check(b - a >= 1ull << 41 && b - a < (1ull << 41) + (1ull << 38),
              "a write moves the counter: %llx", b - a);
    if (adjust) {
        u64 moved = lab_rdmsr(0x3b) - adjust0;
        lab_check(moved <= 1ull << 41 && moved > (1ull << 41) - (1ull << 38),
                  "TSC_ADJUST follows: %llx", moved);
        lab_wrmsr(0x3b, adjust0);
        lab_check(tsc() - a < 1ull << 39, "and takes it back");
    } else {
        lab_wrmsr(0x10, tsc() - (1ull << 41));
    }
    bool rdtscp = lab_has(0x80000001, 0, 3, 27), rdpid = lab_has(7, 0, 2, 22);
    if (!rdtscp && !rdpid) {
        lab_check(gp_or_skipped(try_read(0xc0000103)), "no TSC_AUX");
        return;
    }
    taken(0xc0000103, 0);
    taken(0xc0000103, 0xffffffff);
    if (!amd)
        refused(0xc0000103, 1ull << 32);
    else
        taken_as(0xc0000103, 0xffffffff00000007, 7);
    if (rdtscp) {
        u64 old = lab_rdmsr(0xc0000103);
        lab_wrmsr(0xc0000103, 0xabcd1234);
        lab_equal("RDTSCP", rdtscp_aux(), 0xabcd1234);
        lab_wrmsr(0xc0000103, old);
    }
}

// --- others ------------------------------------------------------------------------------------------------------

static void misc_enable(void)
{
    if (amd) {
        lab_check(gp_or_skipped(try_read(0x1a0)), "no MISC_ENABLE");
        return;
    }
    u64 v = lab_rdmsr(0x1a0);
    taken(0x1a0, v);
    taken(0x1a0, v ^ 1); // fast strings
    lab_check((v >> 11 & 3) == 3, "no BTS and no PEBS: %llx", v);
}

static void apic_base(void)
{
    u64 old = lab_rdmsr(0x1b);
    lab_equal("APIC base", old & ~0x7ffull, 0xfee00800);
    lab_check(old & 0x100, "APIC base: the boot processor");
    for (u32 bit = 0; bit < 64; bit++) {
        bool address = bit >= 12 && !(1ull << bit & width_mask);
        if (bit == 8 || bit == 10 || bit == 11 || address)
            continue; // (10, 11: the APIC guest)
        refused(0x1b, old ^ 1ull << bit);
    }
}

static void absent(void)
{
    static const u32 numbers[] = {0x3,        0x5,        0x9,        0x21,       0x7f,
                                  0x300,      0x3ff,      0x6df,      0x6ef,      0x7ff,
                                  0x900,      0xfff,      0x2000,     0x7fffffff, 0x80000000,
                                  0xbfffffff, 0xc0000000, 0xc000007f, 0xc0000085, 0xc00000ff,
                                  0xc0000200, 0xc0012345, 0xdeadbeef, 0xffffffff};
    for (u32 i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        const struct lab_trap *t = try_read(numbers[i]);
        lab_check(gp(t) || skipped(t), "MSR %x: %llx", numbers[i], read_back);
        refused(numbers[i], 0);
    }
    // The other vendor's.
    const struct lab_trap *t = try_read(amd ? 0x3a : 0xc0010015);
    lab_check(gp(t) || skipped(t), "the other vendor's MSR: %llx", read_back);
    if (!lab_has(13, 1, 0, 3)) {
        t = try_read(0xda0);
        lab_check(gp(t) || skipped(t), "XSS without XSAVES");
    } else {
        taken(0xda0, 0);
        struct lab_cpuid leaf = lab_cpuid(13, 1);
        for (u32 bit = 0; bit < 64; bit++)
            if (!(((u64)leaf.d << 32 | leaf.c) >> bit & 1))
                refused(0xda0, 1ull << bit);
    }
    if (!lab_has(1, 0, 2, 24)) {
        t = try_read(0x6e0);
        lab_check(gp(t) || skipped(t), "TSC_DEADLINE without the feature");
    }
    if (!lab_has(7, 0, 3, 26) && !(amd && lab_has(0x80000008, 0, 1, 14))) {
        t = try_read(0x48);
        lab_check(gp(t) || skipped(t), "SPEC_CTRL without the feature");
    }
    if (!lab_has(7, 0, 3, 29)) {
        t = try_read(0x10a);
        lab_check(gp(t) || skipped(t), "ARCH_CAPABILITIES without the feature");
    }
    // x2APIC registers in xAPIC mode.
    for (u32 msr = 0x800; msr < 0x840; msr += 3) {
        t = try_read(msr);
        lab_check(gp(t) || skipped(t), "x2APIC MSR %x in xAPIC mode", msr);
    }
}

static void ring3(void)
{
    static const u32 numbers[] = {0x10, 0x1b, 0x174, 0x277, 0xc0000080, 0xc0000100, 0xdeadbeef};
    for (u32 i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct lab_state s;
        static const u8 rdmsr[] = {0x0f, 0x32, 0x0f, 0x0b}, wrmsr[] = {0x0f, 0x30, 0x0f, 0x0b};
        lab_user_state(&s, (void (*)(void *))(ulong)rdmsr, 0);
        s.gpr[1] = numbers[i];
        lab_expect_error("RDMSR ring 3", lab_enter(&s), VEC_GP, 0);
        lab_user_state(&s, (void (*)(void *))(ulong)wrmsr, 0);
        s.gpr[1] = numbers[i];
        lab_expect_error("WRMSR ring 3", lab_enter(&s), VEC_GP, 0);
    }
}

int main(void)
{
    u32 width = 36;
    if (lab_cpuid(0x80000000, 0).a >= 0x80000008)
        width = lab_cpuid(0x80000008, 0).a & 0xff;
    width_mask = ~0ull << width;
    amd = lab_is_amd();
    static const struct {
        const char *name;
        void (*group)(void);
    } groups[] = {{"MTRRs", mtrrs},
                  {"PAT", pat},
                  {"machine check", machine_check},
                  {"system calls and bases", calls},
                  {"TSC", counters},
                  {"MISC_ENABLE", misc_enable},
                  {"APIC base", apic_base},
                  {"registers that are not there", absent},
                  {"ring 3", ring3}};
    for (u32 i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        lab_section(groups[i].name);
        groups[i].group();
    }
    return 0;
}
