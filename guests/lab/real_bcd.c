// SPDX-License-Identifier: Apache-2.0
// The decimal instructions over all inputs against the manual's pseudocode (SDM vol. 2, AAA to DAS), and SALC. They
// do the same in every mode but 64-bit; here they run in flat protected mode.
#include "real.h"

#define BCD(name, bytes)                                           \
    static u32 run_##name(u32 ax, u32 flags, u32 *after)           \
    {                                                              \
        ulong f = flags;                                           \
        __asm__ volatile("push %1; popf; " bytes "; pushf; pop %1" \
                         : "+a"(ax), "+r"(f)                       \
                         :                                         \
                         : "memory", "cc");                        \
        *after = (u32)f;                                           \
        return ax;                                                 \
    }
BCD(daa, ".byte 0x27")
BCD(das, ".byte 0x2f")
BCD(aaa, ".byte 0x37")
BCD(aas, ".byte 0x3f")
BCD(salc, ".byte 0xd6")

static u32 result_flags(u32 al)
{
    u32 p = al ^ al >> 4;
    p ^= p >> 2;
    p ^= p >> 1;
    return (al & 0x80 ? FLAG_SF : 0) | (al ? 0 : FLAG_ZF) | (p & 1 ? 0 : FLAG_PF);
}

// AX and the defined flags after; `defined` says which those are.
static u32 model(u32 op, u32 ax, u32 flags, u32 *after, u32 *defined)
{
    u32 al = ax & 0xff, old = al;
    bool cf = flags & FLAG_CF, low = (al & 15) > 9 || flags & FLAG_AF, carry = false;

    *defined = FLAG_CF | FLAG_AF;
    if (op < 2) { // DAA, DAS
        *defined |= FLAG_SF | FLAG_ZF | FLAG_PF;
        if (low) {
            al = op ? al - 6 : al + 6;
            carry = cf || al > 0xff;
        }
        if (old > 0x99 || cf) {
            al = op ? al - 0x60 : al + 0x60;
            carry = true;
        } else if (!op) {
            carry = false;
        }
        al &= 0xff;
        *after = result_flags(al) | (low ? FLAG_AF : 0) | (carry ? FLAG_CF : 0);
        return (ax & ~0xffu) | al;
    }
    if (low) // AAA, AAS: AH takes part in AAA's addition of 106h (80286 and later)
        ax = (ax & ~0xffffu) | ((op == 2 ? ax + 0x106 : ax - 0x106) & 0xffff);
    *after = low ? FLAG_CF | FLAG_AF : 0;
    return ax & ~0xf0u;
}

static void try_adjust(void)
{
    static u32 (*const run[4])(u32, u32, u32 *) = {run_daa, run_das, run_aaa, run_aas};
    static const char *const names[] = {"daa", "das", "aaa", "aas"};

    for (u32 op = 0; op < 4; op++) {
        u32 wrong = 0, first = 0, shown = 0;
        for (u32 in = 0; in < 4 << (op < 2 ? 8 : 16); in++) {
            u32 flags = 2 | (in & 1 ? FLAG_CF : 0) | (in & 2 ? FLAG_AF : 0), defined, want_flags,
                got_flags;
            u32 ax = 0x5a5a0000 | (in >> 2), want = model(op, ax, flags, &want_flags, &defined);
            u32 got = run[op](ax, flags, &got_flags);
            if (got != want || (got_flags ^ want_flags) & defined) {
                if (!wrong++)
                    first = in, shown = got << 16 | (got_flags & 0xffff);
            }
        }
        lab_check(!wrong, "%s: %u wrong, the first with ax %x cf %u af %u: ax and flags %08x",
                  names[op], wrong, first >> 2, first & 1, first >> 1 & 1, shown);
    }
}

// AAM and AAD with every immediate, as a function of three bytes: opcode, immediate, RET. In low
// memory, where a process that runs these cases may execute what it writes.
static void try_multiply(void)
{
    u8 *code = m16_at(M16_DS, 0);
    u32 wrong_aam = 0, wrong_aad = 0, first_aam = 0, first_aad = 0;

    for (u32 base = 0; base < 256; base++)
        for (u32 op = 0; op < 2; op++) {
            if (op == 0 && base == 0)
                continue; // #DE: real.c
            code[0] = op ? 0xd5 : 0xd4;
            code[1] = (u8)base;
            code[2] = 0xc3;
            for (u32 n = 0; n < 256; n++) {
                u32 high = op ? n * 37 + base : 0x77, ax = 0x12340000 | (high & 0xff) << 8 | n,
                    got = ax;
                ulong f = 0xad7;
                __asm__ volatile("push %1; popf; call *%2; pushf; pop %1"
                                 : "+a"(got), "+&r"(f)
                                 : "r"(code)
                                 : "memory", "cc");
                u32 al = op ? (n + (high & 0xff) * base) & 0xff : n % base;
                u32 want = 0x12340000 | (op ? 0 : n / base << 8) | al;
                if (got != want || (f & (FLAG_SF | FLAG_ZF | FLAG_PF)) != result_flags(al)) {
                    if (op && !wrong_aad++)
                        first_aad = ax;
                    if (!op && !wrong_aam++)
                        first_aam = base << 8 | n;
                }
            }
        }
    lab_check(!wrong_aam, "aam: %u wrong, the first with base and al %x", wrong_aam, first_aam);
    lab_check(!wrong_aad, "aad: %u wrong, the first with ax %x", wrong_aad, first_aad);
}

void real_bcd_cases(void)
{
    lab_section("decimal");
    lab_direct();
    try_adjust();
    try_multiply();
    // SALC (D6h, in APM vol. 3's opcode map): AL is FFh or 0 by CF; no flag changes.
    for (u32 cf = 0; cf < 2; cf++) {
        u32 after, flags = 0x8d6 | cf;
        lab_equal("salc", run_salc(0x12345678, flags, &after), 0x12345600 | (cf ? 0xff : 0));
        lab_equal("salc flags", after & 0x8d7, flags & 0x8d7);
    }
}
