// SPDX-License-Identifier: Apache-2.0
// Real mode (SDM vol. 3, 20.1; APM vol. 2, 1.3 and 14): the vector table, faults without error codes, what is
// privileged elsewhere and free here, and what a processor keeps of protected mode.
#include "real.h"

extern char m16_toggle[], m16_toggle_end[], m16_bigcode[];

// --- vectors ------------------------------------------------------------------------------------------

// `at`: saved IP behind the start of the bytes.
static const struct {
    const char *name, *bytes;
    u8 size, vector, at;
} rows[] = {
#define ROW(name, bytes, vector, at)               \
    {                                              \
        name, bytes, sizeof(bytes) - 1, vector, at \
    }
    ROW("div by 0", "\x31\xd2\xf7\xf2", VEC_DE, 2),
    ROW("div overflow", "\xb2\x01\xf6\xf2", VEC_DE, 2), // AX 2222h / 1
    ROW("idiv overflow", "\xb8\x00\x80\x99\xb9\xff\xff\xf7\xf9", VEC_DE, 7),
    ROW("aam 0", "\xd4\x00", VEC_DE, 0),
    ROW("icebp", "\xf1", VEC_DB, 1),
    ROW("int3", "\xcc", VEC_BP, 1),
    ROW("cd 03", "\xcd\x03", VEC_BP, 2),
    ROW("into", "\xb0\x80\x04\x80\xce", VEC_OF, 5), // OF by 80h + 80h
    ROW("into not taken", "\x30\xc0\xce", VEC_UD, 3),
    ROW("bound below", "\xc7\x06\x00\x10\x00\x70\xc7\x06\x02\x10\x00\x71\x62\x06\x00\x10", VEC_BR,
        12),
    ROW("bound within", "\xc7\x06\x00\x10\x00\x20\xc7\x06\x02\x10\x00\x71\x62\x06\x00\x10", VEC_UD,
        16),
    ROW("bound signed", "\xc7\x06\x00\x10\x00\x80\xc7\x06\x02\x10\xff\xff\x62\x06\x00\x10", VEC_BR,
        12),
    ROW("ud2 66", "\x66\x0f\x0b", VEC_UD, 0),
    ROW("ud1", "\x0f\xb9\xc0", VEC_UD, 0),
    ROW("lock nop", "\xf0\x90", VEC_UD, 0),
    ROW("mov cs, ax", "\x8e\xc8", VEC_UD, 0),
    ROW("lea reg", "\x8d\xc0", VEC_UD, 0),
    // protected mode's own
    ROW("arpl", "\x63\xc1", VEC_UD, 0),
    ROW("lar", "\x0f\x02\xc1", VEC_UD, 0),
    ROW("lsl", "\x0f\x03\xc1", VEC_UD, 0),
    ROW("sldt", "\x0f\x00\xc0", VEC_UD, 0),
    ROW("str mem", "\x0f\x00\x0e\x00\x10", VEC_UD, 0),
    ROW("lldt", "\x0f\x00\xd0", VEC_UD, 0),
    ROW("ltr", "\x0f\x00\xd8", VEC_UD, 0),
    ROW("verr", "\x0f\x00\xe0", VEC_UD, 0),
    ROW("verw", "\x0f\x00\xe8", VEC_UD, 0),
    ROW("mov cr1, eax", "\x0f\x22\xc8", VEC_UD, 0),
    ROW("mov eax, cr5", "\x0f\x20\xe8", VEC_UD, 0),
    // reserved bits of control registers: #GP (vector 13) without an error code
    ROW("cr0 pg without pe", "\x0f\x20\xc0\x66\x0d\x00\x00\x00\x80\x0f\x22\xc0", VEC_GP, 9),
    ROW("cr0 nw without cd",
        "\x0f\x20\xc0\x66\x0d\x00\x00\x00\x20\x66\x25\xff\xff\xff\xbf\x0f\x22\xc0", VEC_GP, 15),
    ROW("wrmsr unknown", "\x66\xb9\x00\x00\x00\x50\x0f\x30", VEC_GP, 6),
    ROW("rdmsr unknown", "\x66\xb9\x00\x00\x00\x50\x0f\x32", VEC_GP, 6),
    ROW("15 bytes", "\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x90", VEC_UD, 15),
    ROW("16 bytes", "\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x3e\x90", VEC_GP, 0),
    // free in real mode
    ROW("cli sti cli", "\xfa\xfb\xfa", VEC_UD, 3),
    ROW("clts", "\x0f\x06", VEC_UD, 2),
    ROW("mov eax, cr0 and back", "\x0f\x20\xc0\x0f\x22\xc0", VEC_UD, 6),
    ROW("mov eax, cr3 and back", "\x0f\x20\xd8\x0f\x22\xd8", VEC_UD, 6),
    ROW("sgdt lgdt", "\x66\x0f\x01\x06\x00\x10\x66\x0f\x01\x16\x00\x10", VEC_UD, 12),
    ROW("smsw ax", "\x0f\x01\xe0", VEC_UD, 3),
    ROW("invlpg", "\x0f\x01\x3e\x00\x10", VEC_UD, 5),
    ROW("wbinvd", "\x0f\x09", VEC_UD, 2),
    ROW("in out", "\xe4\x61\xe6\x61", VEC_UD, 4),
    ROW("mov dr7", "\x0f\x21\xf8\x0f\x23\xf8", VEC_UD, 6),
    ROW("rdtsc", "\x0f\x31", VEC_UD, 2),
    ROW("cpuid", "\x66\x31\xc0\x0f\xa2", VEC_UD, 5),
};

static void try_vectors(void)
{
    struct m16 m;
    const struct m16_end *e;

    lab_section("faults");
    for (u32 i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *bytes = rows[i].bytes;
        u32 size = rows[i].size;
        if ((bytes[size - 2] == 0x0f && bytes[size - 1] == 0x31 && !lab_has(1, 0, 3, 4)) ||
            (rows[i].vector == VEC_GP && bytes[0] == 0x66 && !lab_has(1, 0, 3, 5)))
            continue; // no RDTSC; no MSRs
        m16_init(&m);
        m16_expect(rows[i].name, &m, m16_do(&m, bytes, size), rows[i].vector, rows[i].at);
    }
    // INT n: 16 bits of FLAGS are pushed as they are; IF, TF and AC are cleared, the others stay (SDM INT n,
    // REAL-ADDRESS-MODE).
    lab_section("int n");
    for (u32 i = 0; i < 256; i++)
        for (u32 k = 0; k < 4; k++) {
            u8 code[3] = {0x66, 0xcd, (u8)i}; // an operand size changes nothing
            u32 skip = k & 1;
            m16_init(&m);
            m.flags = 2 | (k & 2 ? 0x7ed5 | FLAG_ID | FLAG_AC : 0); // all but TF
            m.flags &= 0xffff | (lab_flags() & 0);
            m16_tag[0] = i;
            m16_tag[1] = k;
            e = m16_do(&m, code + 1 - skip, 2 + skip);
            if (!m16_expect("int n", &m, e, i, 2 + skip) || e->skipped)
                continue;
            lab_check(e->at.flags == (m.flags & 0xffff), "int %u: flags pushed %x, want %x", i,
                      e->at.flags, m.flags & 0xffff);
            u32 want = m.flags & ~(FLAG_IF | FLAG_TF);
            lab_check(e->handler_flags == want, "int %u: flags in the handler %x, want %x", i,
                      e->handler_flags, want);
            lab_equal("sp", e->at.gpr[SP], 0x8000);
        }
    // The table is where IDTR says, anywhere in memory.
    lab_section("idtr");
    static u32 table[256];
    for (u32 i = 0; i < 256; i++)
        table[i] = M16_STUBS + 16 * (255 - i);
    for (u32 i = 0; i < 256; i += 51) {
        u8 code[2] = {0xcd, (u8)i};
        m16_idt_base = (u32)(ulong)table;
        m16_init(&m);
        m16_tag[0] = i;
        m16_expect("table above 1 MiB", &m, m16_do(&m, code, 2), 255 - i, 2);
    }
    // Its limit: a vector of which not all four bytes are within is #GP; when that has no place either, #DF.
    m16_idt_base = M16_IVT;
    for (u32 limit = 8 * 4 + 3; limit < 0x100; limit++)
        for (u32 i = 0; i < 70; i++) {
            u8 code[2] = {0xcd, (u8)i};
            u32 vector = i, ip = 2;
            if (i * 4 + 3 > limit) {
                vector = 13 * 4 + 3 > limit ? VEC_DF : VEC_GP;
                ip = 0;
            } else if (i & 7) {
                continue; // within: some are enough
            }
            m16_idt_limit = limit;
            m16_init(&m);
            m16_tag[0] = limit;
            m16_tag[1] = i;
            m16_expect("limit", &m, m16_do(&m, code, 2), vector, ip);
        }
    // A fault that is not there: #UD without an entry cannot be, 8 comes after 6; #SS (12) behind the limit.
    m16_idt_limit = 12 * 4 + 2;
    m16_init(&m);
    m16_expect("ss beyond", &m, M16_DO(&m, "\x36\xa1\xff\xff"), VEC_DF, 0);
    m16_idt_limit = 0x3ff;
}

// --- FLAGS ----------------------------------------------------------------------------------------------

static void try_flags(void)
{
    struct m16 m, there;
    const struct m16_end *e;
    ulong old = lab_flags(), can;

    lab_section("flags");
    __asm__ volatile("push %1; popf; pushf; pop %0; push %2; popf"
                     : "=&r"(can)
                     : "r"(old | FLAG_AC | FLAG_ID), "r"(old)
                     : "memory");
    can &= FLAG_AC | FLAG_ID;
    for (u32 bit = 0; bit < 34; bit++)
        for (u32 wide = 0; wide < 2; wide++)
            for (u32 start = 0; start < 2; start++) {
                u32 image = bit < 32 ? 1u << bit : bit == 32 ? 0 : ~0u;
                u32 before = 2 | (start ? 0x7cd5 : 0);
                u32 may = 0x7cd5 | FLAG_IF | (wide ? (u32)can : 0);
                image &= ~FLAG_TF;
                u32 want = (before & ~may) | (image & may);
                m16_tag[0] = image;
                m16_tag[1] = wide;
                // POPF, then PUSHFD shows all.
                m16_init(&m);
                m.flags = before;
                m16_put32(m.ss, 0x8000, image);
                e = wide ? M16_DO(&m, "\x66\x9d\x66\x9c\x66\x58\xfa")
                         : M16_DO(&m, "\x9d\x66\x9c\x66\x58\xfa");
                if (m16_expect_ran("popf", &m, e, 6 + wide) && !e->skipped) {
                    lab_check(e->at.gpr[AX] == want, "popf %x wide %u: %x, want %x", image, wide,
                              e->at.gpr[AX], want);
                    lab_equal("sp", e->at.gpr[SP], 0x8002 + 2 * wide);
                }
                // IRET (SDM: IRETD takes 257FD5h of the image).
                m16_init(&m);
                m.flags = before;
                there = m;
                there.cs = M16_CS + 0x80;
                there.ip = 0x345;
                M16_CODE(&there, "\x66\x9c\x66\x58\xfa");
                if (wide) {
                    m16_put32(m.ss, 0x8000, there.ip);
                    m16_put32(m.ss, 0x8004, 0xabcd0000 | there.cs);
                    m16_put32(m.ss, 0x8008, image);
                } else {
                    m16_put16(m.ss, 0x8000, there.ip);
                    m16_put16(m.ss, 0x8002, there.cs);
                    m16_put16(m.ss, 0x8004, image);
                }
                e = wide ? M16_DO(&m, "\x66\xcf") : M16_DO(&m, "\xcf");
                if (m16_expect_ran("iret", &there, e, 5) && !e->skipped) {
                    lab_check(e->at.gpr[AX] == want, "iret %x wide %u: %x, want %x", image, wide,
                              e->at.gpr[AX], want);
                    lab_equal("sp", e->at.gpr[SP], 0x8006 + 6 * wide);
                }
            }
    m16_init(&m);
    m16_put32(m.ss, 0x8000, 0x10000);
    m16_put32(m.ss, 0x8004, m.cs);
    m16_put32(m.ss, 0x8008, 2);
    m16_expect("iretd beyond the limit", &m, M16_DO(&m, "\x66\xcf"), VEC_GP, 0);
    // A single step: #DB behind the instruction after POPF; TF off in the handler.
    m16_init(&m);
    m16_put16(m.ss, 0x8000, FLAG_TF | 2);
    e = M16_DO(&m, "\x9d\x40\x40");
    m16_expect("single step", &m, e, VEC_DB, 2);
    if (!e->skipped)
        lab_equal("tf", e->handler_flags & FLAG_TF, 0);
    // IRET with TF: #DB behind the first instruction there; INT n with TF set clears it before the step.
    m16_init(&m);
    m16_put16(m.ss, 0x8000, 0x200);
    m16_put16(m.ss, 0x8002, m.cs);
    m16_put16(m.ss, 0x8004, FLAG_TF | 2);
    there = m;
    there.ip = 0x200;
    M16_CODE(&there, "\x40\x40");
    m16_expect("iret single step", &there, M16_DO(&m, "\xcf"), VEC_DB, 1);
    lab_set_dr6(0xffff0ff0);
}

// --- CR0 ----------------------------------------------------------------------------------------------------

static void try_cr0(void)
{
    struct m16 m;
    const struct m16_end *e;

    lab_section("cr0");
    m16_init(&m);
    u8 code[128];
    u32 size = (u32)(m16_toggle_end - m16_toggle);
    for (u32 i = 0; i < size; i++)
        code[i] = (u8)m16_toggle[i];
    e = m16_do(&m, code, size);
    if (m16_expect("pe on and off", &m, e, VEC_UD, size - 2) && !e->skipped) {
        lab_equal("steps", e->at.gpr[CX] & 0xffff, 0x103);
        lab_equal("cs", e->at.gpr[BX] & 0xffff, m.cs);
        lab_equal("lmsw sets pe", e->at.gpr[SI] & 1, 1);
        lab_equal("lmsw keeps pe", e->at.gpr[DI] & 1, 1);
    }
    // LMSW: PE (set only), MP, EM, TS; nothing else. SMSW to a 16-bit register leaves the upper half.
    for (u32 bits = 0; bits < 16; bits += 2) {
        u8 lmsw[] = {0xb8, (u8)(0xf0 | bits),
                     0xff, 0x0f,
                     0x01, 0xf0,
                     0x0f, 0x01,
                     0xe1, 0x0f,
                     0x20, 0xc2,
                     0x66, 0x0f,
                     0x01, 0xe6}; // mov ax, ...; lmsw ax; smsw cx; mov edx, cr0; smsw esi
        m16_init(&m);
        e = m16_do(&m, lmsw, sizeof(lmsw));
        m16_tag[0] = bits;
        if (!m16_expect_ran("lmsw", &m, e, sizeof(lmsw)) || e->skipped)
            continue;
        u32 cr0 = (u32)lab_cr0();
        u32 want = (cr0 & ~0xfu) | bits;
        lab_check(e->at.gpr[DX] == want, "lmsw %x: cr0 %x, want %x", bits, e->at.gpr[DX], want);
        lab_equal("smsw cx", e->at.gpr[CX], (m.gpr[CX] & 0xffff0000) | (want & 0xffff));
        lab_equal("smsw esi", e->at.gpr[SI], want);
    }
    // #NM: EM, TS, and WAIT with MP and TS (SDM vol. 2, WAIT; vol. 3, table 9-3).
    // (FNINIT masks all: with NE clear, an error that pends would freeze the processor until IRQ 13.)
    __asm__ volatile("fninit");
    for (u32 bits = 0; bits < 16; bits += 2)
        for (u32 op = 0; op < 2; op++) {
            bool mp = bits & 2, em = bits & 4, ts = bits & 8;
            u8 fpu[] = {0xb8, (u8)bits, 0x00, 0x0f, 0x01, 0xf0, op ? 0x9b : 0xd9, op ? 0x90 : 0xee};
            bool nm = op ? mp && ts : em || ts;
            m16_init(&m);
            m16_tag[0] = bits;
            m16_tag[1] = op;
            e = m16_do(&m, fpu, sizeof(fpu));
            m16_expect(op ? "wait" : "fldz", &m, e, nm ? VEC_NM : VEC_UD, nm ? 6 : 8);
        }
    // #MF: NE set, an unmasked division by zero: fninit; fldcw; fld1; fldz; fdivp; fwait.
    m16_init(&m);
    m16_put16(m.ds, 0x1000, 0x37b);
    ulong cr0 = lab_cr0();
    lab_set_cr0((cr0 | 0x20) & ~0xeul);
    e = M16_DO(&m, "\xdb\xe3\xd9\x2e\x00\x10\xd9\xe8\xd9\xee\xde\xf9\x9b");
    m16_expect("fwait", &m, e, VEC_MF, 12);
    __asm__ volatile("fninit");
    lab_set_cr0(cr0);
}

// --- far transfers -------------------------------------------------------------------------------------------

static void try_far(void)
{
    struct m16 m, there;
    const struct m16_end *e;

    lab_section("far transfers");
    m16_init(&m);
    there = m;
    there.cs = 0x1234;
    there.ip = 0x56;
    m16_code(&there, "", 0);
    static const struct {
        const char *name, *bytes;
        u8 size, push, pop; // bytes pushed; popped
    } far[] = {
        {"jmpf", "\xea\x56\x00\x34\x12", 5, 0, 0},
        {"66 jmpf", "\x66\xea\x56\x00\x00\x00\x34\x12", 8, 0, 0},
        {"callf", "\x9a\x56\x00\x34\x12", 5, 4, 0},
        {"66 callf", "\x66\x9a\x56\x00\x00\x00\x34\x12", 8, 8, 0},
        {"jmpf m", "\xff\x2e\x00\x10", 4, 0, 0},
        {"66 jmpf m", "\x66\xff\x2e\x10\x10", 5, 0, 0},
        {"callf m", "\xff\x1e\x00\x10", 4, 4, 0},
        {"66 callf m", "\x66\xff\x1e\x10\x10", 5, 8, 0},
        {"retf", "\xcb", 1, 0, 4},
        {"66 retf", "\x66\xcb", 2, 0, 8},
        {"retf 8", "\xca\x08\x00", 3, 0, 12},
        {"66 retf 6", "\x66\xca\x06\x00", 4, 0, 14},
    };
    for (u32 i = 0; i < sizeof(far) / sizeof(far[0]); i++) {
        bool wide = far[i].bytes[0] == 0x66;
        m16_init(&m);
        m16_put32(m.ds, 0x1000, 0x12340056);
        m16_put32(m.ds, 0x1010, 0x56);
        m16_put16(m.ds, 0x1014, 0x1234);
        if (wide) {
            m16_put32(m.ss, 0x8000, 0x56);
            m16_put32(m.ss, 0x8004, 0x98761234);
        } else {
            m16_put32(m.ss, 0x8000, 0x12340056);
        }
        e = m16_do(&m, far[i].bytes, far[i].size);
        if (!m16_expect_ran(far[i].name, &there, e, 0) || e->skipped)
            continue;
        lab_check(e->at.gpr[SP] == 0x8000u - far[i].push + far[i].pop, "%s: sp %x", far[i].name,
                  e->at.gpr[SP]);
        if (far[i].push == 4)
            lab_equal(far[i].name, m16_get32(m.ss, 0x7ffc), (u32)m.cs << 16 | (m.ip + far[i].size));
        if (far[i].push == 8) {
            lab_equal(far[i].name, m16_get32(m.ss, 0x7ff8), m.ip + far[i].size);
            lab_equal(far[i].name, m16_get16(m.ss, 0x7ffc), m.cs);
        }
    }
    // Segment registers take any value; base = selector x 16.
    for (u32 sel = 1; sel < 0x8000; sel += 0x333) {
        m16_init(&m);
        m.gpr[AX] = sel;
        e = M16_DO(&m, "\x8e\xd8\x8c\xd9\x8e\xc0\x8e\xe0\x8e\xe8");
        m16_tag[0] = sel;
        if (m16_expect_ran("mov sreg", &m, e, 10) && !e->skipped)
            lab_check(e->at.ds == sel && e->at.es == sel && e->at.fs == sel && e->at.gs == sel &&
                          (e->at.gpr[CX] & 0xffff) == sel,
                      "mov sreg %x", sel);
    }
}

// --- what protected mode leaves behind -----------------------------------------------------------------------

static void try_unreal(void)
{
    struct m16 m;
    const struct m16_end *e;

    lab_section("kept of protected mode");
    // Which segment has 4 GiB; the others stay at 64 KiB. A load in real mode changes the base alone.
    static const char *const reads[4] = {
        "\x67\x66\xa1\x34\x12\x03\x00", "\x26\x67\x66\xa1\x34\x12\x03\x00",
        "\x64\x67\x66\xa1\x34\x12\x03\x00", "\x65\x67\x66\xa1\x34\x12\x03\x00"}; // eax = [31234h]
    for (u32 big = 0; big < 4; big++)
        for (u32 use = 0; use < 4; use++) {
            u32 size = use ? 8 : 7;
            m16_segments_default();
            m16_pm_selectors[big] = SEL_DATA0;
            m16_init(&m);
            u16 segment = use == 0 ? m.ds : use == 1 ? m.es : use == 2 ? m.fs : m.gs;
            // (From GS it is in the video memory's range: another address would do, but a base of 1000h is easier.)
            m.gs = segment == m.gs ? 0x2100 : m.gs;
            segment = use == 3 ? m.gs : segment;
            m16_put32(segment, 0x31234, 0xfeed0000 | use);
            m16_tag[0] = big;
            m16_tag[1] = use;
            e = m16_do(&m, reads[use], size);
            if (big != use)
                m16_expect("64 KiB", &m, e, VEC_GP, 0);
            else if (m16_expect_ran("4 GiB", &m, e, size) && !e->skipped)
                lab_equal("word", e->at.gpr[AX], 0xfeed0000 | use);
        }
    // Small limits stay as well: FFFFh is not real mode's but the reset's (SDM vol. 3, 9.9.2).
    m16_segments_default();
    *lab_gdt_entry(SEL_FREE) = lab_descriptor(0, 0x7ff, 0x93, 0);
    m16_pm_selectors[0] = SEL_FREE;
    m16_init(&m);
    m16_expect("limit 7ffh: within", &m, M16_DO(&m, "\xa0\xff\x07"), VEC_UD, 3);
    m16_expect("limit 7ffh: beyond", &m, M16_DO(&m, "\xa1\xff\x07"), VEC_GP, 0);
    m16_expect("limit 7ffh: after a load", &m, M16_DO(&m, "\x8c\xd8\x40\x8e\xd8\xa1\xff\x07"),
               VEC_GP, 5);
    // Expand-down: offsets above the limit.
    *lab_gdt_entry(SEL_FREE) = lab_descriptor(0, 0x7ff, 0x97, 0);
    m16_expect("expand-down: below", &m, M16_DO(&m, "\xa0\xff\x07"), VEC_GP, 0);
    m16_expect("expand-down: above", &m, M16_DO(&m, "\xa0\x00\x08"), VEC_UD, 3);
    *lab_gdt_entry(SEL_FREE) = 0;
    // A 32-bit stack: ESP counts, for pushes and for frames of interrupts.
    m16_segments_default();
    m16_pm_selectors[4] = SEL_DATA0;
    m16_wide_stack = true;
    m16_init(&m);
    m.gpr[SP] = 0x18000;
    m16_put32(m.ss, 0x17ffc, 0);
    e = M16_DO(&m, "\x50\x66\x51");
    if (m16_expect_ran("32-bit stack", &m, e, 3) && !e->skipped) {
        lab_equal("esp", e->at.gpr[SP], 0x17ffa);
        lab_equal("ax", m16_get16(m.ss, 0x17ffe), m.gpr[AX] & 0xffff);
        lab_equal("ecx", m16_get32(m.ss, 0x17ffa), m.gpr[CX]);
    }
    m16_segments_default();
    // 32-bit code: D of CS stays when PE goes, and over a far jump.
    lab_section("32-bit code");
    volatile struct m16_area *a = M16_AREA;
    a->out_gpr[CX] = a->out_gpr[DX] = a->out_gpr[BX] = 0;
    *lab_gdt_entry(SEL_FREE) = lab_descriptor(0x10000, 0xfffff, 0x9b, 12);
    m16_call_low(m16_low(m16_bigcode));
    lab_direct();
    lab_equal("d kept", a->out_gpr[CX], 0x12345678);
    lab_equal("d kept over a far jump", a->out_gpr[DX], 0x9abcdef0);
    lab_equal("cs", a->out_gpr[BX] & 0xffff, 0x200);
    *lab_gdt_entry(SEL_FREE) = 0;
}

// --- shutdown -------------------------------------------------------------------------------------------------

// "shutdown1" to "shutdown5" on the command line: a fault that has no way to its handler, so #DF, which has none
// either (SDM vol. 3, 6.15, #DF). The monitor tells.
static void shut_down(char which)
{
    struct m16 m;

    m16_init(&m);
    switch (which) {
    case '1': // the table ends before #DF
        m16_idt_limit = 8 * 4 + 2;
        M16_DO(&m, "\xcd\x20");
        break;
    case '2': // the stack has no room for any frame: SDM PUSH, INT n, PUSHA
        m.gpr[SP] = 1;
        M16_DO(&m, "\x50");
        break;
    case '3':
        m.gpr[SP] = 3;
        M16_DO(&m, "\xcd\x20");
        break;
    case '4':
        m.gpr[SP] = 5;
        M16_DO(&m, "\x60");
        break;
    default: // no table at all
        m16_idt_limit = 0;
        M16_DO(&m, "\x0f\x0b");
    }
    lab_check(false, "no shutdown");
}

int main(void)
{
    out8(0x21, 0xff); // some trials turn interrupts on
    out8(0xa1, 0xff);
    m16_real_prepare();
    static char word[] = "shutdown0";
    for (word[8] = '1'; word[8] <= '5'; word[8]++)
        if (lab_asked(word)) {
            shut_down(word[8]);
            return 0;
        }
    try_vectors();
    try_flags();
    try_cr0();
    try_far();
    try_unreal();
    real_a20_cases();
    real_bcd_cases();
    m16_limit_cases();
    m16_op_cases();
    return 0;
}
