// SPDX-License-Identifier: Apache-2.0
// Virtual-8086 mode (SDM vol. 3, chapter 20.2 and 20.3.1, without VME): what IOPL governs, what is refused, the
// way in and out.
#include "v86.h"

// --- which instructions IOPL governs -------------------------------------------------------------

enum rule {
    RUNS,
    IOPL_RUNS,     // IOPL 3: runs; else #GP(0)
    IOPL_VECTOR,   // IOPL 3: ends with `vector`; else #GP(0)
    ALWAYS_VECTOR, // ends with `vector` behind the instruction, whatever IOPL is
    REFUSED,       // #GP(0)
    INVALID,       // #UD
};

struct instruction {
    const char *name, *bytes;
    u8 size;
    enum rule rule;
    u8 vector;
};
#define ROW(name, bytes, ...)                       \
    {                                               \
        name, bytes, sizeof(bytes) - 1, __VA_ARGS__ \
    }

// AX = 0x2222 and so on: see m16_init(). The stack holds an IRET frame to CS:0108 (16 bits) where IRET is
// tried.
static const struct instruction instructions[] = {
    // SDM vol. 3, 20.2.7: sensitive to IOPL
    ROW("cli", "\xfa", IOPL_RUNS, 0),
    ROW("sti", "\xfb", IOPL_RUNS, 0),
    ROW("pushf", "\x9c", IOPL_RUNS, 0),
    ROW("pushfd", "\x66\x9c", IOPL_RUNS, 0),
    ROW("popf", "\x9d", IOPL_RUNS, 0),
    ROW("popfd", "\x66\x9d", IOPL_RUNS, 0),
    ROW("int 80h", "\xcd\x80", IOPL_VECTOR, VEC_LAB),
    ROW("int 3 (CD)", "\xcd\x03", IOPL_VECTOR, VEC_BP),
    ROW("int 4 (CD)", "\xcd\x04", IOPL_VECTOR, VEC_OF),
    ROW("66 int 80h", "\x66\xcd\x80", IOPL_VECTOR, VEC_LAB),
    // not sensitive
    ROW("int3", "\xcc", ALWAYS_VECTOR, VEC_BP),
    ROW("icebp", "\xf1", ALWAYS_VECTOR, VEC_DB),
    ROW("into, OF clear", "\xce", RUNS, 0),
    // privileged
    ROW("hlt", "\xf4", REFUSED, 0),
    ROW("lgdt", "\x0f\x01\x16\x00\x10", REFUSED, 0),
    ROW("lidt", "\x0f\x01\x1e\x00\x10", REFUSED, 0),
    ROW("lmsw ax", "\x0f\x01\xf0", REFUSED, 0),
    ROW("lmsw mem", "\x0f\x01\x36\x00\x10", REFUSED, 0),
    ROW("clts", "\x0f\x06", REFUSED, 0),
    ROW("invd", "\x0f\x08", REFUSED, 0),
    ROW("wbinvd", "\x0f\x09", REFUSED, 0),
    ROW("invlpg", "\x0f\x01\x3e\x00\x10", REFUSED, 0),
    ROW("mov eax, cr0", "\x0f\x20\xc0", REFUSED, 0),
    ROW("mov cr0, eax", "\x0f\x22\xc0", REFUSED, 0),
    ROW("mov eax, cr2", "\x0f\x20\xd0", REFUSED, 0),
    ROW("mov cr2, eax", "\x0f\x22\xd0", REFUSED, 0),
    ROW("mov eax, cr3", "\x0f\x20\xd8", REFUSED, 0),
    ROW("mov cr3, eax", "\x0f\x22\xd8", REFUSED, 0),
    ROW("mov eax, dr0", "\x0f\x21\xc0", REFUSED, 0),
    ROW("mov dr0, eax", "\x0f\x23\xc0", REFUSED, 0),
    ROW("mov eax, dr6", "\x0f\x21\xf0", REFUSED, 0),
    ROW("mov dr7, eax", "\x0f\x23\xf8", REFUSED, 0),
    // not in V86 mode
    ROW("arpl ax, cx", "\x63\xc1", INVALID, 0),
    ROW("arpl mem", "\x63\x0e\x00\x10", INVALID, 0),
    ROW("lar", "\x0f\x02\xc1", INVALID, 0),
    ROW("lar mem", "\x0f\x02\x06\x00\x10", INVALID, 0),
    ROW("lsl", "\x0f\x03\xc1", INVALID, 0),
    ROW("sldt", "\x0f\x00\xc0", INVALID, 0),
    ROW("sldt mem", "\x0f\x00\x06\x00\x10", INVALID, 0),
    ROW("str", "\x0f\x00\xc8", INVALID, 0),
    ROW("str mem", "\x0f\x00\x0e\x00\x10", INVALID, 0),
    ROW("lldt", "\x0f\x00\xd0", INVALID, 0),
    ROW("ltr", "\x0f\x00\xd8", INVALID, 0),
    ROW("ltr mem", "\x0f\x00\x1e\x00\x10", INVALID, 0),
    ROW("verr", "\x0f\x00\xe0", INVALID, 0),
    ROW("verw", "\x0f\x00\xe8", INVALID, 0),
    ROW("0f 00 /6", "\x0f\x00\xf0", INVALID, 0),
    ROW("0f 00 /7", "\x0f\x00\xf8", INVALID, 0),
    // invalid everywhere
    ROW("mov cs, ax", "\x8e\xc8", INVALID, 0),
    ROW("mov seg 6, ax", "\x8e\xf0", INVALID, 0),
    ROW("mov seg 7, ax", "\x8e\xf8", INVALID, 0),
    ROW("mov ax, seg 6", "\x8c\xf0", INVALID, 0),
    ROW("lock nop", "\xf0\x90", INVALID, 0),
    ROW("lds reg", "\xc5\xc0", INVALID, 0),
    ROW("les reg", "\xc4\xc0", INVALID, 0),
    ROW("bound reg", "\x62\xc0", INVALID, 0),
    ROW("lea reg", "\x8d\xc0", INVALID, 0),
    ROW("ff /7", "\xff\xf8", INVALID, 0),
    ROW("callf reg", "\xff\xd8", INVALID, 0),
    ROW("jmpf reg", "\xff\xe8", INVALID, 0),
    ROW("lgdt reg", "\x0f\x01\xd7", INVALID, 0),
    ROW("lidt reg", "\x0f\x01\xdf", INVALID, 0),
    ROW("mov cr1, eax", "\x0f\x22\xc8", INVALID, 0),
    ROW("mov eax, cr5", "\x0f\x20\xe8", INVALID, 0),
    ROW("mov eax, cr7", "\x0f\x20\xf8", INVALID, 0),
    // allowed
    ROW("nop", "\x90", RUNS, 0),
    ROW("sgdt", "\x0f\x01\x06\x00\x10", RUNS, 0),
    ROW("sidt", "\x0f\x01\x0e\x00\x10", RUNS, 0),
    ROW("smsw ax", "\x0f\x01\xe0", RUNS, 0),
    ROW("smsw mem", "\x0f\x01\x26\x00\x10", RUNS, 0),
    ROW("lahf", "\x9f", RUNS, 0),
    ROW("sahf", "\x9e", RUNS, 0),
    ROW("cld", "\xfc", RUNS, 0),
    ROW("mov ds, ax", "\x8e\xd8", RUNS, 0),
    ROW("push ds, pop es", "\x1e\x07", RUNS, 0),
    ROW("66 push fs, pop gs", "\x66\x0f\xa0\x66\x0f\xa9", RUNS, 0),
    ROW("enter", "\xc8\x10\x00\x00", RUNS, 0),
    ROW("cpuid", "\x0f\xa2", RUNS, 0),
};

static void try_instructions(void)
{
    lab_section("instructions by IOPL");
    for (u32 iopl = 0; iopl < 4; iopl++) {
        m16_iopl = iopl;
        for (u32 i = 0; i < sizeof(instructions) / sizeof(instructions[0]); i++) {
            const struct instruction *in = &instructions[i];
            struct m16 m;
            u32 vector = VEC_UD, ip = in->size;
            m16_init(&m);
            m16_put32(m.ss, 0x8000, 0x0002);
            m16_put32(m.ss, 0x8004, 0);
            switch (in->rule) {
            case RUNS:
                break;
            case IOPL_RUNS:
            case IOPL_VECTOR:
                if (iopl < 3)
                    vector = VEC_GP, ip = 0;
                else if (in->rule == IOPL_VECTOR)
                    vector = in->vector;
                break;
            case ALWAYS_VECTOR:
                vector = in->vector;
                break;
            case REFUSED:
                vector = VEC_GP, ip = 0;
                break;
            case INVALID:
                ip = 0;
                break;
            }
            m16_tag[0] = iopl;
            const struct m16_end *e = m16_do(&m, in->bytes, in->size);
            // EFLAGS in the frame: VM and IOPL as they were; RF of a fault only (INT n, INT3 and ICEBP are traps).
            if (m16_expect(in->name, &m, e, vector, ip) && !e->skipped) {
                u32 keep = FLAG_VM | FLAG_IOPL | FLAG_RF;
                u32 want =
                    FLAG_VM | iopl << 12 | (vector == VEC_UD || vector == VEC_GP ? FLAG_RF : 0);
                lab_check((e->at.flags & keep) == want, "%s: iopl %u: flags %x", in->name, iopl,
                          e->at.flags);
            }
        }
    }
    m16_iopl = 3;
}

// --- UMIP (CR4 bit 11) ------------------------------------------------------------------------------

static void try_umip(void)
{
    static const struct {
        const char *name, *bytes;
        u32 size, vector;
    } rows[] = {
        {"umip sgdt", "\x0f\x01\x06\x00\x10", 5, VEC_GP},
        {"umip sidt", "\x0f\x01\x0e\x00\x10", 5, VEC_GP},
        {"umip smsw", "\x0f\x01\xe0", 3, VEC_GP},
        {"umip smsw mem", "\x0f\x01\x26\x00\x10", 5, VEC_GP},
        {"umip sldt", "\x0f\x00\xc0", 3, VEC_UD},
        {"umip str", "\x0f\x00\xc8", 3, VEC_UD},
    };
    struct m16 m;

    if (!lab_has(7, 0, 2, 2))
        return;
    lab_section("umip");
    lab_set_cr4(lab_cr4() | 1 << 11);
    for (u32 i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        m16_init(&m);
        m16_expect(rows[i].name, &m, m16_do(&m, rows[i].bytes, rows[i].size), rows[i].vector, 0);
    }
    lab_set_cr4(lab_cr4() & ~(1ul << 11));
}

// --- what the instructions that IOPL governs do at IOPL 3 ---------------------------------------------------

// PUSHF: SDM vol. 2: VM and RF are pushed as 0. POPF: IOPL, VM, VIF and VIP stay; RF becomes 0.
static void try_flags(void)
{
    static const u32 images[] = {
        0,          0xffffffff, FLAG_IF,         FLAG_NT,  FLAG_DF,  FLAG_AC,
        FLAG_ID,    FLAG_RF,    FLAG_VM,         FLAG_VIF, FLAG_VIP, 0x3000,
        0x1000,     0x8d5,      0x8d5 | FLAG_IF, 0xffff,   0x3f7fd7, 0x55555555 & ~0x100u,
        0xaaaaaaaa, 0x00240000, 0x7002};
    struct m16 m;
    const struct m16_end *e;
    u32 can = 0; // AC and ID exist

    lab_section("flags at iopl 3");
    lab_direct();
    ulong old = lab_flags();
    __asm__ volatile("push %1; popf; pushf; pop %0; push %2; popf"
                     : "=&r"(can)
                     : "r"(old | FLAG_AC | FLAG_ID), "r"(old)
                     : "memory");
    can &= FLAG_AC | FLAG_ID;
    for (u32 i = 0; i < sizeof(images) / sizeof(images[0]); i++)
        for (u32 wide = 0; wide < 2; wide++)
            for (u32 start = 0; start < 2; start++) {
                u32 image = images[i] & ~FLAG_TF;
                u32 before =
                    FLAG_VM | FLAG_IOPL | 2 | (start ? (0x8d5 | FLAG_NT | FLAG_DF | can) : 0);
                u32 may = 0x8d5 | FLAG_IF | FLAG_DF | FLAG_NT | (wide ? can : 0);
                u32 want = (before & ~may) | (image & may);
                // TF is left out: the lab's stub is ring 0's business, single steps have a section of their own.
                m16_tag[0] = image;
                m16_tag[1] = wide;
                m16_tag[2] = start;
                m16_init(&m);
                m.flags = before;
                m16_put32(m.ss, 0x8000, image);
                e = wide ? M16_DO(&m, "\x66\x9d") : M16_DO(&m, "\x9d");
                if (m16_expect_ran("popf", &m, e, 1 + wide) && !e->skipped) {
                    lab_check((e->at.flags & ~FLAG_RF) == want,
                              "popf %x wide %u from %x: flags %x, want %x", image, wide, before,
                              e->at.flags & ~FLAG_RF, want);
                    lab_equal("popf sp", e->at.gpr[SP], 0x8002 + 2 * wide);
                }
                m16_init(&m);
                m.flags = want;
                m16_put32(m.ss, 0x7ffc, 0xdeadbeef);
                e = wide ? M16_DO(&m, "\x66\x9c") : M16_DO(&m, "\x9c");
                if (m16_expect_ran("pushf", &m, e, 1 + wide) && !e->skipped) {
                    u32 got = wide ? m16_get32(m.ss, 0x7ffc) : m16_get16(m.ss, 0x7ffe);
                    u32 mask = wide ? 0x00fcffff : 0xffff;
                    lab_check(got == (want & mask), "pushf wide %u: %x, want %x", wide, got,
                              want & mask);
                    lab_equal("pushf sp", e->at.gpr[SP], 0x7ffe - 2 * wide);
                }
                // IRET to another segment, with the same rule for flags.
                m16_init(&m);
                m.flags = before;
                struct m16 there = m;
                there.cs = M16_CS + 0x80;
                there.ip = 0x345;
                m16_code(&there, "", 0);
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
                if (m16_expect_ran("iret", &there, e, 0) && !e->skipped) {
                    lab_check((e->at.flags & ~FLAG_RF) == want,
                              "iret %x wide %u from %x: flags %x, want %x", image, wide, before,
                              e->at.flags & ~FLAG_RF, want);
                    lab_equal("iret sp", e->at.gpr[SP], 0x8006 + 6 * wide);
                }
            }
    // CLI and STI change IF alone.
    for (u32 set = 0; set < 2; set++) {
        m16_init(&m);
        m.flags |= set ? 0 : FLAG_IF;
        e = set ? M16_DO(&m, "\xfb") : M16_DO(&m, "\xfa");
        if (m16_expect_ran("cli, sti", &m, e, 1) && !e->skipped)
            lab_equal("if", e->at.flags & ~FLAG_RF, (m.flags & ~FLAG_IF) | (set ? FLAG_IF : 0));
    }
    // IRETD to an EIP beyond the limit: #GP(0) of the IRET itself.
    m16_init(&m);
    m16_put32(m.ss, 0x8000, 0x10000);
    m16_put32(m.ss, 0x8004, m.cs);
    m16_put32(m.ss, 0x8008, 2);
    e = M16_DO(&m, "\x66\xcf");
    m16_expect("iretd beyond", &m, e, VEC_GP, 0);
    if (!e->skipped)
        lab_equal("iretd beyond: sp", e->at.gpr[SP], 0x8000);
}

int main(void)
{
    m16_mode = M16_V86;
    out8(0x21, 0xff); // some trials turn interrupts on
    out8(0xa1, 0xff);
    try_instructions();
    try_umip();
    try_flags();
    v86_frame_cases();
    m16_limit_cases();
    m16_op_cases();
    return 0;
}
