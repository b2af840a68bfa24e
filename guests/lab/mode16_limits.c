// SPDX-License-Identifier: Apache-2.0
// The 64 KiB limit of every segment, in real and in V86 mode (SDM vol. 3, 20.1.1 and 20.1.4): an access that reaches
// beyond FFFFh is #GP, through SS #SS (error code 0 in V86 mode, none in real mode); 16-bit addresses and SP wrap.
#include "mode16.h"

// An access with a direct address behind optional prefixes: opcode bytes, size of the memory operand.
struct access {
    const char *name, *opcode;
    u8 length, size; // of the opcode with ModRM; of the operand
    u8 second;       // of its second part, if that has an address of its own
};
#define A(name, opcode, size)                     \
    {                                             \
        name, opcode, sizeof(opcode) - 1, size, 0 \
    }
// The selector's address wraps where addresses have 16 bits (seen on a real processor).
#define FAR_POINTER(name, opcode, size)           \
    {                                             \
        name, opcode, sizeof(opcode) - 1, size, 2 \
    }
// ModRM with mod 0, r/m 6 (16-bit addresses) or 5 (32-bit): the last byte is given for 16 bits.
static const struct access accesses[] = {
    A("mov al, m8", "\x8a\x06", 1),
    A("mov ax, m16", "\x8b\x06", 2),
    A("mov eax, m32", "\x66\x8b\x06", 4),
    A("mov m8, al", "\x88\x06", 1),
    A("mov m16, ax", "\x89\x06", 2),
    A("mov m32, eax", "\x66\x89\x06", 4),
    A("inc m8", "\xfe\x06", 1),
    A("inc m16", "\xff\x06", 2),
    A("inc m32", "\x66\xff\x06", 4),
    A("not m16", "\xf7\x16", 2),
    A("test m8, cl", "\x84\x0e", 1),
    A("cmp m16, cx", "\x39\x0e", 2),
    A("xchg m16, cx", "\x87\x0e", 2),
    A("shl m16, cl", "\xd3\x26", 2),
    A("mov ds, m16", "\x8e\x1e", 2),
    A("mov m16, ds", "\x8c\x1e", 2),
    A("66 mov m16, ds", "\x66\x8c\x1e", 2),
    FAR_POINTER("les", "\xc4\x06", 2),
    FAR_POINTER("66 les", "\x66\xc4\x06", 4),
    FAR_POINTER("lds", "\xc5\x06", 2),
    FAR_POINTER("lfs", "\x0f\xb4\x06", 2),
    FAR_POINTER("66 lgs", "\x66\x0f\xb5\x06", 4),
    A("movzx", "\x0f\xb7\x06", 2),
    A("movsx", "\x0f\xbe\x06", 1),
    A("setz", "\x0f\x94\x06", 1),
    A("push m16", "\xff\x36", 2),
    A("push m32", "\x66\xff\x36", 4),
    A("pop m16", "\x8f\x06", 2),
    A("pop m32", "\x66\x8f\x06", 4),
    A("xadd m16, cx", "\x0f\xc1\x0e", 2),
    A("cmpxchg m32, ecx", "\x66\x0f\xb1\x0e", 4),
};

// Offsets at the edge, and for 32-bit addresses beyond it.
static const u32 edges[] = {0,       0x1000,     0xfff9,     0xfffa,    0xfffb,  0xfffc,
                            0xfffd,  0xfffe,     0xffff,     0x10000,   0x10001, 0x1fffe,
                            0x20000, 0x7fffffff, 0xfffffffe, 0xffffffff};
static const struct {
    const char *name;
    u8 prefix;
    bool stack;
} segments[] = {{"ds", 0, false},    {"es", 0x26, false}, {"cs", 0x2e, false}, {"ss", 0x36, true},
                {"ds", 0x3e, false}, {"fs", 0x64, false}, {"gs", 0x65, false}};

static bool near_code(u32 segment, u32 offset) // the write would hit the tried code
{
    return segment == 2 && offset < 0x200;
}

static void try_accesses(void)
{
    lab_section("limit 64 KiB");
    for (u32 a = 0; a < sizeof(accesses) / sizeof(accesses[0]); a++)
        for (u32 s = 0; s < sizeof(segments) / sizeof(segments[0]); s++)
            for (u32 o = 0; o < sizeof(edges) / sizeof(edges[0]); o++)
                for (u32 wide = 0; wide < 2; wide++) {
                    const struct access *in = &accesses[a];
                    u32 offset = edges[o], n = 0;
                    u8 code[16];
                    struct m16 m;
                    if ((!wide && offset > 0xffff) || near_code(s, offset))
                        continue;
                    if (segments[s].prefix)
                        code[n++] = segments[s].prefix;
                    if (wide)
                        code[n++] = 0x67;
                    for (u32 i = 0; i < in->length; i++)
                        code[n++] = (u8)in->opcode[i];
                    if (wide)
                        code[n - 1]--; // r/m 5
                    for (u32 i = 0; i < (wide ? 4 : 2); i++)
                        code[n++] = (u8)(offset >> i * 8);
                    m16_init(&m);
                    bool beyond = (u64)offset + in->size - 1 > 0xffff;
                    u64 second = (u64)offset + in->size;
                    if (in->second && (wide ? second : second & 0xffff) + in->second - 1 > 0xffff)
                        beyond = true;
                    u32 vector = !beyond ? VEC_UD : segments[s].stack ? VEC_SS : VEC_GP;
                    m16_tag[0] = s;
                    m16_tag[1] = offset;
                    m16_tag[2] = wide;
                    u32 before[2] = {m16_get32(M16_DS, 0xfffc), m16_get32(M16_SS, 0xfffc)};
                    const struct m16_end *e = m16_do(&m, code, n);
                    m16_expect(in->name, &m, e, vector, beyond ? 0 : n);
                    if (beyond && !e->skipped) {
                        lab_check(e->at.gpr[AX] == m.gpr[AX] && e->at.gpr[SP] == m.gpr[SP] &&
                                      e->at.ds == m.ds && e->at.es == m.es && e->at.fs == m.fs &&
                                      e->at.gs == m.gs && before[0] == m16_get32(M16_DS, 0xfffc) &&
                                      before[1] == m16_get32(M16_SS, 0xfffc),
                                  "%s (%x %x %x): changed something before its fault", in->name,
                                  m16_tag[0], m16_tag[1], m16_tag[2]);
                    }
                }
}

// Every 16-bit addressing form: the sum of base, index and displacement is taken modulo 64 KiB; BP makes it SS.
static void try_addressing(void)
{
    static const struct {
        int8_t base, index;
    } forms[8] = {{BX, SI}, {BX, DI}, {BP, SI}, {BP, DI}, {SI, -1}, {DI, -1}, {BP, -1}, {BX, -1}};
    static const u16 values[] = {0, 1, 0x1000, 0x7fff, 0x8000, 0xfffe, 0xffff};
    static const u16 displacements[] = {0, 1, 2, 0x7f, 0x80, 0xff80, 0xffff, 0x8000, 0x1234};

    lab_section("16-bit addresses");
    for (u32 mod = 0; mod < 3; mod++)
        for (u32 rm = 0; rm < 8; rm++)
            for (u32 b = 0; b < sizeof(values) / 2; b++)
                for (u32 x = 0; x < sizeof(values) / 2; x++)
                    for (u32 d = 0; d < sizeof(displacements) / 2; d++) {
                        u16 disp = displacements[d];
                        u8 code[6] = {0x8b, (u8)(mod << 6 | rm)};
                        u32 n = 2, offset = 0;
                        bool stack = false;
                        struct m16 m;
                        if ((mod == 0 && rm != 6 && d) || (mod == 1 && (u16)(int8_t)disp != disp) ||
                            (forms[rm].index < 0 && x))
                            continue;
                        m16_init(&m);
                        // (The upper halves of the registers hold what must not count.)
                        if (mod == 0 && rm == 6) {
                            if (b)
                                continue;
                        } else {
                            m.gpr[forms[rm].base] = 0x7ead0000 | values[b];
                            offset += values[b];
                            if (forms[rm].index >= 0) {
                                m.gpr[forms[rm].index] = 0xbeef0000 | values[x];
                                offset += values[x];
                            }
                            stack = forms[rm].base == BP;
                        }
                        if (mod == 1)
                            code[n++] = (u8)disp;
                        if (mod == 2 || (mod == 0 && rm == 6)) {
                            code[n++] = (u8)disp;
                            code[n++] = (u8)(disp >> 8);
                        }
                        offset = (offset + disp) & 0xffff;
                        m16_tag[0] = code[1];
                        m16_tag[1] = values[b] << 16 | values[x];
                        m16_tag[2] = disp;
                        if (offset != 0xffff)
                            m16_put16(stack ? m.ss : m.ds, offset, 0x4321);
                        const struct m16_end *e = m16_do(&m, code, n);
                        if (offset == 0xffff) {
                            m16_expect("word at ffffh", &m, e, stack ? VEC_SS : VEC_GP, 0);
                            continue;
                        }
                        if (m16_expect_ran("address", &m, e, n) && !e->skipped)
                            lab_check(e->at.gpr[AX] == 0x11114321,
                                      "address (%x %x %x): wrong word %x", m16_tag[0], m16_tag[1],
                                      m16_tag[2], e->at.gpr[AX]);
                        if (offset != 0xffff)
                            m16_put16(stack ? m.ss : m.ds, offset, 0);
                    }
}

// --- the stack -------------------------------------------------------------------------------------------

// Pushes and pops at both ends of the stack. In real mode a run does not end at SP 1, 3 or 5: the frame of whatever
// ends it would not fit, and the processor shuts down.
static void try_stack(void)
{
    static const struct {
        const char *name, *bytes;
        u8 length, size;
        bool pop;
    } rows[] = {
        {"push ax", "\x50", 1, 2, false},
        {"push eax", "\x66\x50", 2, 4, false},
        {"push imm8", "\x6a\x80", 2, 2, false},
        {"66 push imm8", "\x66\x6a\x80", 3, 4, false},
        {"push imm16", "\x68\x34\x12", 3, 2, false},
        {"push ds", "\x1e", 1, 2, false},
        {"push gs", "\x0f\xa8", 2, 2, false},
        {"push m16", "\xff\x36\x00\x10", 4, 2, false},
        {"pushf", "\x9c", 1, 2, false},
        {"pushfd", "\x66\x9c", 2, 4, false},
        {"call near", "\xe8\x00\x00", 3, 2, false},
        {"66 call near", "\x66\xe8\x00\x00\x00\x00", 6, 4, false},
        {"pop cx", "\x59", 1, 2, true},
        {"pop ecx", "\x66\x59", 2, 4, true},
        {"pop es", "\x07", 1, 2, true},
        {"pop m16", "\x8f\x06\x00\x10", 4, 2, true},
        {"popf", "\x9d", 1, 2, true},
    };
    lab_section("stack wrap");
    for (u32 i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (u32 at = 0; at < 24; at++) {
            u32 sp = at < 12 ? at : 0xfff4 + at - 12;
            u32 access = rows[i].pop ? sp : (sp - rows[i].size) & 0xffff;
            bool beyond = access + rows[i].size - 1 > 0xffff;
            struct m16 m;
            m16_init(&m);
            u32 after = beyond ? sp : rows[i].pop ? (sp + rows[i].size) & 0xffff : access;
            if (m16_mode == M16_REAL && after < 6 && after & 1)
                continue;
            m.gpr[SP] = 0x5a5a0000 | sp; // the upper half does not count and stays
            if (rows[i].pop)
                for (u32 b = 0; b < 4; b++)
                    *m16_at(m.ss, (sp + b) & 0xffff) = 0;
            m16_tag[0] = sp;
            const struct m16_end *e = m16_do(&m, rows[i].bytes, rows[i].length);
            if (m16_expect(rows[i].name, &m, e, beyond ? VEC_SS : VEC_UD,
                           beyond ? 0 : rows[i].length) &&
                !e->skipped) {
                lab_check(e->at.gpr[SP] == (0x5a5a0000 | after), "%s at %x: esp %x, want %x",
                          rows[i].name, sp, e->at.gpr[SP], 0x5a5a0000 | after);
            }
        }
    // PUSH SP pushes the value before (SDM PUSH; the 8086 and 80186 pushed the one after).
    struct m16 m;
    m16_init(&m);
    const struct m16_end *e = M16_DO(&m, "\x54\x66\x54");
    if (m16_expect_ran("push sp", &m, e, 3) && !e->skipped) {
        lab_equal("push sp", m16_get16(m.ss, 0x7ffe), 0x8000);
        lab_equal("push esp", m16_get32(m.ss, 0x7ffa), 0x7ffe);
    }
    // POP SP; POP with SP as a base is not possible in 16 bits, with ESP it counts the new value.
    m16_init(&m);
    m16_put16(m.ss, 0x8000, 0x1234);
    e = M16_DO(&m, "\x5c");
    if (m16_expect_ran("pop sp", &m, e, 1) && !e->skipped)
        lab_equal("pop sp", e->at.gpr[SP], 0x1234);
    m16_init(&m);
    m16_put16(m.ss, 0x8000, 0xbeef);
    e = M16_DO(&m, "\x67\x8f\x04\x24");
    if (m16_expect_ran("pop [esp]", &m, e, 4) && !e->skipped)
        lab_equal("pop [esp]", m16_get16(m.ss, 0x8002), 0xbeef);
}

// --- IP ---------------------------------------------------------------------------------------------------

// EIP beyond FFFFh is #GP; a jump of 16 bits wraps.
static void try_ip(void)
{
    struct m16 m;
    const struct m16_end *e;

    lab_section("ip at the limit");
    // One byte at FFFFh runs; what is fetched behind it is beyond.
    m16_init(&m);
    m.ip = 0xffff;
    *m16_at(m.cs, 0xffff) = 0x90;
    m16_expect("nop at ffffh", &m, m16_run(&m), VEC_GP, 1);
    // An instruction that reaches over the end faults itself.
    static const struct {
        const char *name, *bytes;
        u8 length;
    } rows[] = {{"mov ax, imm16", "\xb8\x34\x12", 3},
                {"int 80h", "\xcd\x80", 2},
                {"66 nop", "\x66\x90", 2},
                {"mov ax, m16", "\xa1\x00\x10", 3},
                {"jmp short", "\xeb\x10", 2},
                {"add al, imm8", "\x04\x01", 2}};
    for (u32 i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (u32 over = 1; over < rows[i].length; over++) {
            m16_init(&m);
            m.ip = 0x10000 - over;
            m16_tag[0] = over;
            for (u32 b = 0; b < rows[i].length; b++)
                *m16_at(m.cs, (m.ip + b) & 0xffff) = (u8)rows[i].bytes[b];
            m16_expect(rows[i].name, &m, m16_run(&m), VEC_GP, 0);
        }
    // Branches: 16-bit targets wrap, 32-bit targets beyond the limit are #GP(0) of the branch.
    static const struct {
        const char *name, *bytes;
        u8 length;
        u16 ip, target; // target FFFFh: #GP
    } jumps[] = {{"jmp short over", "\xeb\x10", 2, 0xfff8, 0x000a},
                 {"jmp near over", "\xe9\x00\x02", 3, 0xfff8, 0x01fb},
                 {"jmp short back", "\xeb\xf0", 2, 0x0004, 0xfff6},
                 {"jz over", "\x74\x10", 2, 0xfff8, 0x000a},
                 {"jz near over", "\x0f\x84\x10\x00", 4, 0xfff8, 0x000c},
                 {"loop over", "\xe2\x10", 2, 0xfff8, 0x000a},
                 {"call over", "\xe8\x10\x00", 3, 0xfff8, 0x000b},
                 {"66 jmp short over", "\x66\xeb\x10", 3, 0xfff8, 0xffff},
                 {"66 jmp short back", "\x66\xeb\xf0", 3, 0x0004, 0xffff},
                 {"66 jmp near", "\x66\xe9\x00\x00\x01\x00", 6, 0x0100, 0xffff},
                 {"66 jmp near within", "\x66\xe9\x00\x01\x00\x00", 6, 0x0100, 0x0206},
                 {"66 call near", "\x66\xe8\x00\x00\x01\x00", 6, 0x0100, 0xffff},
                 {"66 jz", "\x66\x0f\x84\x00\x00\x01\x00", 7, 0x0100, 0xffff},
                 {"66 loop", "\x66\xe2\x10", 3, 0xfff8, 0xffff}};
    for (u32 i = 0; i < sizeof(jumps) / sizeof(jumps[0]); i++) {
        m16_init(&m);
        m.ip = jumps[i].ip;
        m.flags |= FLAG_ZF;
        m16_code(&m, jumps[i].bytes, jumps[i].length);
        struct m16 there = m;
        there.ip = jumps[i].target;
        if (there.ip != 0xffff) {
            m16_code(&there, "", 0);
            m16_expect(jumps[i].name, &there, m16_run(&m), VEC_UD, 0);
            continue;
        }
        e = m16_run(&m);
        m16_expect(jumps[i].name, &m, e, VEC_GP, 0);
        if (!e->skipped)
            lab_check(e->at.gpr[SP] == 0x8000 && e->at.gpr[CX] == m.gpr[CX],
                      "%s: changed registers before its fault", jumps[i].name);
    }
    // The same through memory and registers, near and far, and RET: a 32-bit offset beyond.
    m16_init(&m);
    m.gpr[AX] = 0x10000;
    m16_expect("66 jmp eax", &m, M16_DO(&m, "\x66\xff\xe0"), VEC_GP, 0);
    m16_expect("66 call eax", &m, M16_DO(&m, "\x66\xff\xd0"), VEC_GP, 0);
    m16_put32(m.ss, 0x8000, 0x10000);
    m16_put32(m.ss, 0x8004, m.cs);
    m16_expect("66 ret", &m, M16_DO(&m, "\x66\xc3"), VEC_GP, 0);
    m16_expect("66 retf", &m, M16_DO(&m, "\x66\xcb"), VEC_GP, 0);
    m16_expect("66 jmpf", &m, M16_DO(&m, "\x66\xea\x00\x00\x01\x00\x00\x10"), VEC_GP, 0);
    m16_expect("66 callf", &m, M16_DO(&m, "\x66\x9a\x00\x00\x01\x00\x00\x10"), VEC_GP, 0);
}

void m16_limit_cases(void)
{
    try_accesses();
    try_addressing();
    try_stack();
    try_ip();
}
