// SPDX-License-Identifier: Apache-2.0
// Instructions whose 16-bit forms differ from what the rest of the world uses, in real and in V86 mode: loops and
// strings by address size, XLAT, ENTER and LEAVE, PUSHA and POPA at the ends of the stack (SDM vol. 2).
#include "mode16.h"

// --- LOOP, JCXZ: the address size chooses CX or ECX ------------------------------------------------------

static void try_loops(void)
{
    static const u32 counts[] = {0,       1,          2,          0xffff,     0x10000,
                                 0x10001, 0xffff0000, 0xffff0001, 0x80000000, 0xffffffff};
    lab_section("loops");
    for (u32 op = 0; op < 4; op++) // LOOPNE LOOPE LOOP JCXZ
        for (u32 wide = 0; wide < 2; wide++)
            for (u32 c = 0; c < sizeof(counts) / 4; c++)
                for (u32 zf = 0; zf < 2; zf++) {
                    u8 code[5] = {0x67, (u8)(0xe0 + op), 0x10};
                    u32 mask = wide ? 0xffffffff : 0xffff, count = counts[c], want = count;
                    struct m16 m, there;
                    if (op < 3)
                        want = (count & ~mask) | ((count - 1) & mask);
                    bool taken = op == 3 ? (count & mask) == 0 : (want & mask) != 0;
                    if (op < 2 && zf != op)
                        taken = false;
                    m16_init(&m);
                    m.gpr[CX] = count;
                    m.flags |= zf ? FLAG_ZF : 0;
                    m16_code(&m, code + !wide, 2 + wide);
                    there = m;
                    there.ip += 2 + wide + (taken ? 0x10 : 0);
                    m16_code(&there, "", 0);
                    const struct m16_end *e = m16_run(&m);
                    m16_tag[0] = op << 4 | wide;
                    m16_tag[1] = count;
                    m16_tag[2] = zf;
                    if (m16_expect_ran("loop", &there, e, 0) && !e->skipped)
                        lab_check(e->at.gpr[CX] == want, "loop (%x %x %x): ecx %x, want %x",
                                  m16_tag[0], count, zf, e->at.gpr[CX], want);
                }
}

// --- strings -------------------------------------------------------------------------------------------------

enum {
    MOVS = 0xa4,
    CMPS = 0xa6,
    STOS = 0xaa,
    LODS = 0xac,
    SCAS = 0xae
};

// The model walks as the manual says, one element after the other; the first that is not wholly within its
// segment faults with the registers of the elements before it.
static void try_string(u32 op, u32 size, bool wide, bool down, bool rep, u32 si, u32 di, u32 count)
{
    u32 mask = wide ? 0xffffffff : 0xffff, n = 0, step = down ? -size : size, done = 0;
    bool reads = op == MOVS || op == CMPS || op == LODS, dest = op != LODS, fault = false;
    u8 code[8];
    struct m16 m;

    m16_init(&m);
    // Equal contents for CMPS and SCAS: all of it zero but what MOVS is to move.
    for (u32 i = 0; i < 192; i++) {
        u32 at = i < 64 ? (0xffe0 + i) & 0xffff : i < 128 ? 0x7fe0 + i - 64 : 0xffc0 + i - 128;
        *m16_at(m.ds, at & 0xffff) = op == MOVS ? (u8)(0x80 + i) : 0;
        *m16_at(m.es, at & 0xffff) = 0;
    }
    m.gpr[AX] = op == STOS ? 0x5a5b5c5d : 0;
    m.gpr[SI] = wide ? si : 0xabcd0000 | si;
    m.gpr[DI] = wide ? di : 0xdcba0000 | di;
    m.gpr[CX] = wide ? count : 0x12340000 | count;
    m.flags |= down ? FLAG_DF : 0;
    if (rep)
        code[n++] = 0xf3;
    if (wide)
        code[n++] = 0x67;
    if (size == 4)
        code[n++] = 0x66;
    code[n++] = (u8)(op | (size > 1));
    u32 s = m.gpr[SI], d = m.gpr[DI], c = m.gpr[CX];
    for (u32 i = 0; rep ? (c & mask) != 0 : i < 1; i++) {
        if ((reads && (u64)(s & mask) + size - 1 > 0xffff) ||
            (dest && (u64)(d & mask) + size - 1 > 0xffff)) {
            fault = true;
            break;
        }
        if (reads)
            s = (s & ~mask) | ((s + step) & mask);
        if (dest)
            d = (d & ~mask) | ((d + step) & mask);
        if (rep)
            c = (c & ~mask) | ((c - 1) & mask);
        done++;
    }
    m16_tag[0] = op << 16 | size << 12 | wide << 8 | down << 4 | rep;
    m16_tag[1] = si;
    m16_tag[2] = di;
    const struct m16_end *e = m16_do(&m, code, n);
    if (!m16_expect("string", &m, e, fault ? VEC_GP : VEC_UD, fault ? 0 : n) || e->skipped)
        return;
    lab_check(e->at.gpr[SI] == s && e->at.gpr[DI] == d && e->at.gpr[CX] == c,
              "string (%x %x %x): esi %x edi %x ecx %x, want %x %x %x", m16_tag[0], si, di,
              e->at.gpr[SI], e->at.gpr[DI], e->at.gpr[CX], s, d, c);
    if (op != MOVS && op != STOS)
        return;
    bool same = true;
    for (u32 i = 0; i < done; i++)
        for (u32 b = 0; b < size; b++) {
            u32 from = (m.gpr[SI] & mask) + i * step + b, to = (m.gpr[DI] & mask) + i * step + b;
            u8 want = op == STOS ? (u8)(0x5a5b5c5d >> b * 8) : *m16_at(m.ds, from & 0xffff);
            same &= *m16_at(m.es, to & 0xffff) == want;
        }
    lab_check(same, "string (%x %x %x): memory", m16_tag[0], si, di);
}

static void try_strings(void)
{
    static const u8 ops[] = {MOVS, CMPS, STOS, LODS, SCAS};
    static const u32 edges[] = {0, 1, 2, 3, 0xfff9, 0xfffc, 0xfffd, 0xfffe, 0xffff, 0x8000};

    lab_section("strings");
    for (u32 o = 0; o < sizeof(ops); o++)
        for (u32 size = 1; size < 5; size *= 2)
            for (u32 k = 0; k < 8; k++)
                for (u32 i = 0; i < sizeof(edges) / 4; i++)
                    for (u32 j = 0; j < sizeof(edges) / 4; j++) {
                        // (STOS, LODS and SCAS have one index; the other is the same.)
                        if (ops[o] > CMPS && i != j)
                            continue;
                        try_string(ops[o], size, k & 1, k & 2, k & 4, edges[i], edges[j], 5);
                    }
    // A count of 0 touches nothing, not even what is beyond the limit.
    for (u32 o = 0; o < sizeof(ops); o++)
        try_string(ops[o], 2, false, false, true, 0xffff, 0xffff, 0);
    // The source takes an override, the destination is ES always.
    struct m16 m;
    m16_init(&m);
    m.gpr[SI] = 0x200;
    m.gpr[DI] = 0x300;
    *m16_at(m.fs, 0x200) = 0x77;
    *m16_at(m.es, 0x300) = 0;
    const struct m16_end *e = M16_DO(&m, "\x64\xa4");
    if (m16_expect_ran("fs movsb", &m, e, 2) && !e->skipped)
        lab_equal("fs movsb", *m16_at(m.es, 0x300), 0x77);
    m16_expect("es lodsw at ffffh", &m, (m.gpr[SI] = 0xffff, M16_DO(&m, "\x26\xad")), VEC_GP, 0);
    m16_expect("ss lodsw at ffffh", &m, M16_DO(&m, "\x36\xad"), VEC_SS, 0);
    // XLAT: BX + AL, modulo 64 KiB.
    for (u32 al = 0; al < 256; al += 51)
        for (u32 k = 0; k < 4; k++) {
            static const u16 bases[] = {0, 0xff80, 0xffff, 0x1000};
            u32 at = (bases[k] + al) & 0xffff;
            m16_init(&m);
            m.gpr[AX] = 0x11112200 | al;
            m.gpr[BX] = 0x7fff0000 | bases[k];
            *m16_at(m.ds, at) = (u8)(al ^ 0xa5);
            e = M16_DO(&m, "\xd7");
            m16_tag[0] = al;
            m16_tag[1] = bases[k];
            if (m16_expect_ran("xlat", &m, e, 1) && !e->skipped)
                lab_equal("xlat", e->at.gpr[AX], 0x11112200 | (al ^ 0xa5));
            m.gpr[BX] = 0xfff0;
            e = M16_DO(&m, "\x67\xd7");
            m16_expect("67 xlat", &m, e, 0xfff0 + al > 0xffff ? VEC_GP : VEC_UD,
                       0xfff0 + al > 0xffff ? 0 : 2);
        }
}

// --- ENTER, LEAVE, PUSHA, POPA --------------------------------------------------------------------------------

// SDM ENTER: level modulo 32; the frame pointers of the levels above are copied from below BP.
static void try_enter(void)
{
    lab_section("enter and leave");
    for (u32 level = 0; level < 40; level++)
        for (u32 wide = 0; wide < 2; wide++)
            for (u32 alloc = 0; alloc < 0x180; alloc += 0x5d) {
                u8 code[5] = {0x66, 0xc8, (u8)alloc, (u8)(alloc >> 8), (u8)level};
                u32 slot = wide ? 4 : 2, bp = 0x9000, sp = 0x8000, n = level % 32;
                struct m16 m;
                m16_init(&m);
                m.gpr[BP] = 0x77770000 | bp;
                m.gpr[SP] = 0x66660000 | sp;
                for (u32 i = 1; i < 32; i++)
                    m16_put32(m.ss, bp - i * slot, 0x40004000 + i * 0x10001);
                for (u32 i = 0; i < 40; i++)
                    m16_put32(m.ss, sp - i * 4 - 4, 0);
                u32 want[34], count = 0;
                want[count++] = wide ? m.gpr[BP] : bp;
                u32 frame = wide ? 0x66660000 | (sp - slot) : sp - slot;
                for (u32 i = 1; i < n; i++)
                    want[count++] =
                        wide ? m16_get32(m.ss, bp - i * slot) : m16_get16(m.ss, bp - i * slot);
                if (n)
                    want[count++] = frame;
                m16_tag[0] = level;
                m16_tag[1] = wide;
                m16_tag[2] = alloc;
                const struct m16_end *e = m16_do(&m, code + !wide, 4 + wide);
                if (!m16_expect_ran("enter", &m, e, 4 + wide) || e->skipped)
                    continue;
                bool same = true;
                for (u32 i = 0; i < count; i++) {
                    u32 at = sp - (i + 1) * slot,
                        got = wide ? m16_get32(m.ss, at) : m16_get16(m.ss, at);
                    // (With a 16-bit stack and 32-bit operands the upper half of the frame's temporary is the
                    // processor's business.)
                    same &= wide && n && i == count - 1 ? (got & 0xffff) == (want[i] & 0xffff)
                                                        : got == want[i];
                }
                lab_check(same, "enter (%x %x %x): frame", level, wide, alloc);
                u32 end = 0x66660000 | (sp - count * slot - alloc);
                lab_check(e->at.gpr[SP] == end && (e->at.gpr[BP] & 0xffff) == sp - slot &&
                              (wide || e->at.gpr[BP] >> 16 == 0x7777),
                          "enter (%x %x %x): esp %x ebp %x, want %x", level, wide, alloc,
                          e->at.gpr[SP], e->at.gpr[BP], end);
            }
    // LEAVE: SP from BP, then BP is popped; SS limit; the upper halves.
    struct m16 m;
    const struct m16_end *e;
    for (u32 bp = 0xfff8; bp < 0x10004; bp++) {
        u32 at = bp & 0xffff;
        m16_init(&m);
        m.gpr[BP] = 0x12340000 | at;
        m.gpr[SP] = 0x56788000;
        for (u32 i = 0; i < 2; i++)
            *m16_at(m.ss, (at + i) & 0xffff) = (u8)(0xbe + i);
        if (m16_mode == M16_REAL && at != 0xffff && ((at + 2) & 0xffff) < 6 && at & 1)
            continue; // shutdown, as in try_stack()
        e = M16_DO(&m, "\xc9");
        m16_tag[0] = at;
        if (at == 0xffff) {
            m16_expect("leave at ffffh", &m, e, VEC_SS, 0);
        } else if (m16_expect_ran("leave", &m, e, 1) && !e->skipped) {
            lab_equal("leave: bp", e->at.gpr[BP], 0x1234bfbe);
            lab_equal("leave: sp", e->at.gpr[SP], 0x56780000 | ((at + 2) & 0xffff));
        }
    }
}

// PUSHA where the frame does not fit: SDM says #GP in real and V86 mode for SP 7 to 15, odd; the APM #SS as for every
// stack. POPA's SP is skipped.
static void try_pusha(void)
{
    lab_section("pusha and popa");
    for (u32 sp = 0; sp < 40; sp++)
        for (u32 wide = 0; wide < 2; wide++) {
            u32 slot = wide ? 4 : 2, size = slot * 8, vector = VEC_UD;
            bool beyond = false;
            struct m16 m;
            for (u32 i = 1; i <= 8; i++)
                beyond |= ((sp - i * slot) & 0xffff) + slot - 1 > 0xffff;
            if (m16_mode == M16_REAL && sp < 6 && sp & 1)
                continue;
            m16_init(&m);
            m.gpr[SP] = 0x5a5a0000 | sp;
            if (beyond)
                vector = VEC_SS;
            if (beyond && m16_mode != M16_PROTECTED && !lab_is_amd() && sp >= 7 && sp <= 15 &&
                sp & 1)
                vector = VEC_GP;
            u32 end = beyond ? sp : (sp - size) & 0xffff;
            if (m16_mode == M16_REAL && end < 6 && end & 1)
                continue;
            m16_tag[0] = sp;
            m16_tag[1] = wide;
            const struct m16_end *e = wide ? M16_DO(&m, "\x66\x60") : M16_DO(&m, "\x60");
            if (m16_expect("pusha", &m, e, vector, beyond ? 0 : 1 + wide) && !e->skipped &&
                !beyond) {
                bool same = e->at.gpr[SP] == (0x5a5a0000 | end);
                for (u32 i = 0; i < 8; i++) {
                    u32 at = (sp - (i + 1) * slot) & 0xffff;
                    same &= wide ? m16_get32(m.ss, at) == m.gpr[i]
                                 : m16_get16(m.ss, at) == (m.gpr[i] & 0xffff);
                }
                lab_check(same, "pusha at %x wide %u: frame", sp, wide);
                // And back: other registers, the same stack.
                struct m16 back = m;
                for (u32 i = 0; i < 8; i++)
                    back.gpr[i] = 0x98765432;
                back.gpr[SP] = 0x5a5a0000 | end;
                if (m16_mode == M16_REAL && sp < 6 && sp & 1)
                    continue;
                e = wide ? M16_DO(&back, "\x66\x61") : M16_DO(&back, "\x61");
                if (!m16_expect_ran("popa", &back, e, 1 + wide) || e->skipped)
                    continue;
                same = true;
                for (u32 i = 0; i < 8; i++)
                    same &= e->at.gpr[i] ==
                            (wide || i == SP ? m.gpr[i] : 0x98760000 | (m.gpr[i] & 0xffff));
                lab_check(same, "popa at %x wide %u", sp, wide);
            }
        }
}

void m16_op_cases(void)
{
    try_loops();
    try_strings();
    try_enter();
    try_pusha();
}
