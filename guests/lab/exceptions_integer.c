// SPDX-License-Identifier: Apache-2.0
// Exceptions whose cause is in the instruction itself, its registers, or the mode and ring it runs in: #DE, #DB of
// INT1, #BP, #OF, #BR, #UD and the #GP of privilege (SDM vol. 3, 6.15; the instructions' pages of vol. 2).
#include "exceptions.h"

enum {
    M16 = 1 << PROBE_16,
    M32 = 1 << PROBE_32,
    M64 = 1 << PROBE_64,
    LEGACY = M16 | M32, // 16- and 32-bit code, compatibility mode included
    ALL = LEGACY | M64,
    R0 = 1,
    R3 = 2,
    BOTH = 3,
    REGS_ZERO = 1, // CX = 0, AX and DX as ever
    REGS_MIN,      // DX:AX = the least number for any size, CX = -1
    REGS_MIN8,     // AX = 8000h, CX = -1
    REGS_SMALL,    // AX = 5, CX = 1, DX = 100h: the quotient is too large but for CX = 8 bits
    REGS_OF,       // OF set
    REGS_BOUND,    // AX = 7FFFh in every size, above what is in memory
};

struct cause {
    const char *name;
    u8 code[16];
    u8 length, modes, rings, regs;
    u16 want;
    u16 error;
};
#define B(...) {__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__})

static const struct cause causes[] = {
    // #DE: division by zero, quotient too large; a fault.
    {"div cl by 0", B(0xf6, 0xf1), ALL, BOTH, REGS_ZERO, VEC_DE, 0},
    {"div cx by 0", B(0xf7, 0xf1), ALL, BOTH, REGS_ZERO, VEC_DE, 0},
    {"66 div cx by 0", B(0x66, 0xf7, 0xf1), ALL, BOTH, REGS_ZERO, VEC_DE, 0},
    {"div rcx by 0", B(0x48, 0xf7, 0xf1), M64, BOTH, REGS_ZERO, VEC_DE, 0},
    {"idiv cl by 0", B(0xf6, 0xf9), ALL, BOTH, REGS_ZERO, VEC_DE, 0},
    {"idiv cx by 0", B(0xf7, 0xf9), ALL, BOTH, REGS_ZERO, VEC_DE, 0},
    {"idiv rcx by 0", B(0x48, 0xf7, 0xf9), M64, BOTH, REGS_ZERO, VEC_DE, 0},
    {"idiv least by -1", B(0xf7, 0xf9), ALL, BOTH, REGS_MIN, VEC_DE, 0},
    {"66 idiv least by -1", B(0x66, 0xf7, 0xf9), ALL, BOTH, REGS_MIN, VEC_DE, 0},
    {"rex.w idiv least by -1", B(0x48, 0xf7, 0xf9), M64, BOTH, REGS_MIN, VEC_DE, 0},
    {"idiv cl 8000h by -1", B(0xf6, 0xf9), ALL, BOTH, REGS_MIN8, VEC_DE, 0},
    {"div quotient", B(0xf7, 0xf1), ALL, BOTH, REGS_SMALL, VEC_DE, 0},
    {"66 div quotient", B(0x66, 0xf7, 0xf1), ALL, BOTH, REGS_SMALL, VEC_DE, 0},
    {"rex.w div quotient", B(0x48, 0xf7, 0xf1), M64, BOTH, REGS_SMALL, VEC_DE, 0},
    {"idiv quotient", B(0xf7, 0xf9), ALL, BOTH, REGS_SMALL, VEC_DE, 0},
    {"aam 0", B(0xd4, 0x00), LEGACY, BOTH, 0, VEC_DE, 0},
    // Software interrupts are traps; INT n needs the gate's DPL, INT1 does not.
    {"int1", B(0xf1), ALL, BOTH, 0, VEC_DB | PROBE_TRAP, 0},
    {"int3", B(0xcc), ALL, BOTH, 0, VEC_BP | PROBE_TRAP, 0},
    {"int 3", B(0xcd, 0x03), ALL, BOTH, 0, VEC_BP | PROBE_TRAP, 0},
    {"int 4", B(0xcd, 0x04), ALL, BOTH, 0, VEC_OF | PROBE_TRAP, 0},
    {"int 80h", B(0xcd, 0x80), ALL, BOTH, 0, VEC_LAB | PROBE_TRAP, 0},
    {"int 81h of ring 3", B(0xcd, 0x81), ALL, R3, 0, VEC_GP, 0x81 * 8 + 2},
    {"int 1 of ring 3", B(0xcd, 0x01), ALL, R3, 0, VEC_GP, 1 * 8 + 2},
    {"int 14 of ring 3", B(0xcd, 0x0e), ALL, R3, 0, VEC_GP, 14 * 8 + 2},
    {"int 0ffh", B(0xcd, 0xff), ALL, R0, 0, 0xff | PROBE_TRAP, 0},
    {"int 1", B(0xcd, 0x01), ALL, R0, 0, VEC_DB | PROBE_TRAP, 0},
    {"into", B(0xce), LEGACY, BOTH, REGS_OF, VEC_OF | PROBE_TRAP, 0},
    {"into without OF", B(0xce), LEGACY, BOTH, 0, PROBE_END, 0},
    // #BR: memory at the data is 03 0A 11 18 1F 26 2D 34: bounds 0A03h..1811h, 18110A03h..342D261Fh.
    {"bound", B(0x62, 0x07), LEGACY, BOTH, REGS_BOUND, VEC_BR, 0},
    {"66 bound", B(0x66, 0x62, 0x07), LEGACY, BOTH, REGS_BOUND, VEC_BR, 0},
    // #UD by design, and reserved opcodes.
    {"ud2", B(0x0f, 0x0b), ALL, BOTH, 0, VEC_UD, 0},
    {"ud1", B(0x0f, 0xb9, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"ud0", B(0x0f, 0xff, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 04", B(0x0f, 0x04), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 0a", B(0x0f, 0x0a), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 0c", B(0x0f, 0x0c), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 24", B(0x0f, 0x24, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 25", B(0x0f, 0x25, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 26", B(0x0f, 0x26, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 27", B(0x0f, 0x27, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 36", B(0x0f, 0x36), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 39", B(0x0f, 0x39), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 3b", B(0x0f, 0x3b), ALL, BOTH, 0, VEC_UD, 0},
    {"0f a6", B(0x0f, 0xa6, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"0f a7", B(0x0f, 0xa7, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"0f b8", B(0x0f, 0xb8, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"0f ba /0", B(0x0f, 0xba, 0xc0, 0x01), ALL, BOTH, 0, VEC_UD, 0},
    {"0f ba /3", B(0x0f, 0xba, 0xd8, 0x01), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 00 /6", B(0x0f, 0x00, 0xf0), ALL, BOTH, 0, VEC_UD, 0},
    {"0f 00 /7", B(0x0f, 0x00, 0xf8), ALL, BOTH, 0, VEC_UD, 0},
    {"0f c7 /0", B(0x0f, 0xc7, 0x07), ALL, BOTH, 0, VEC_UD, 0},
    {"0f c7 /2 reg", B(0x0f, 0xc7, 0xd0), ALL, BOTH, 0, VEC_UD, 0},
    {"cmpxchg8b reg", B(0x0f, 0xc7, 0xc8), ALL, BOTH, 0, VEC_UD, 0},
    {"fe /2", B(0xfe, 0xd0), ALL, BOTH, 0, VEC_UD, 0},
    {"fe /7", B(0xfe, 0xff), ALL, BOTH, 0, VEC_UD, 0},
    {"ff /7", B(0xff, 0xf8), ALL, BOTH, 0, VEC_UD, 0},
    {"ff /3 reg", B(0xff, 0xd8), ALL, BOTH, 0, VEC_UD, 0},
    {"ff /5 reg", B(0xff, 0xe8), ALL, BOTH, 0, VEC_UD, 0},
    {"c6 /1", B(0xc6, 0xc8, 0x00), ALL, BOTH, 0, VEC_UD, 0},
    {"c7 /1", B(0xc7, 0xc8, 0, 0, 0, 0), ALL, BOTH, 0, VEC_UD, 0},
    {"8f /1", B(0x8f, 0x0f), ALL, BOTH, 0, VEC_UD, 0},
    {"lea reg", B(0x8d, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"les reg", B(0xc4, 0xc0, 0, 0, 0, 0), LEGACY, BOTH, 0, VEC_UD, 0},
    {"lss reg", B(0x0f, 0xb2, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"lfs reg", B(0x0f, 0xb4, 0xc0), ALL, BOTH, 0, VEC_UD, 0},
    {"mov cs, ax", B(0x8e, 0xc8), ALL, BOTH, 0, VEC_UD, 0},
    {"mov cs, [di]", B(0x8e, 0x0f), ALL, BOTH, 0, VEC_UD, 0},
    {"mov seg6, ax", B(0x8e, 0xf0), ALL, BOTH, 0, VEC_UD, 0},
    {"mov seg7, ax", B(0x8e, 0xf8), ALL, BOTH, 0, VEC_UD, 0},
    {"mov ax, seg6", B(0x8c, 0xf0), ALL, BOTH, 0, VEC_UD, 0},
    {"mov ax, seg7", B(0x8c, 0xf8), ALL, BOTH, 0, VEC_UD, 0},
    {"rsm", B(0x0f, 0xaa), ALL, BOTH, 0, VEC_UD, 0},
    {"sgdt reg", B(0x0f, 0x01, 0xc0 | 0x05), ALL, BOTH, 0, VEC_UD, 0},
    // Gone in 64-bit mode.
    {"push es", B(0x06), M64, BOTH, 0, VEC_UD, 0},
    {"pop es", B(0x07), M64, BOTH, 0, VEC_UD, 0},
    {"push cs", B(0x0e), M64, BOTH, 0, VEC_UD, 0},
    {"push ss", B(0x16), M64, BOTH, 0, VEC_UD, 0},
    {"pop ss", B(0x17), M64, BOTH, 0, VEC_UD, 0},
    {"push ds", B(0x1e), M64, BOTH, 0, VEC_UD, 0},
    {"pop ds", B(0x1f), M64, BOTH, 0, VEC_UD, 0},
    {"daa", B(0x27), M64, BOTH, 0, VEC_UD, 0},
    {"das", B(0x2f), M64, BOTH, 0, VEC_UD, 0},
    {"aaa", B(0x37), M64, BOTH, 0, VEC_UD, 0},
    {"aas", B(0x3f), M64, BOTH, 0, VEC_UD, 0},
    {"pusha", B(0x60), M64, BOTH, 0, VEC_UD, 0},
    {"popa", B(0x61), M64, BOTH, 0, VEC_UD, 0},
    {"82 /0", B(0x82, 0xc0, 0), M64, BOTH, 0, VEC_UD, 0},
    {"callf imm", B(0x9a, 0, 0, 0, 0, 0, 0), M64, BOTH, 0, VEC_UD, 0},
    {"into", B(0xce), M64, BOTH, REGS_OF, VEC_UD, 0},
    {"aam 0", B(0xd4, 0x00), M64, BOTH, 0, VEC_UD, 0},
    {"aad", B(0xd5, 0x0a), M64, BOTH, 0, VEC_UD, 0},
    {"salc", B(0xd6), M64, BOTH, 0, VEC_UD, 0},
    {"jmpf imm", B(0xea, 0, 0, 0, 0, 0, 0), M64, BOTH, 0, VEC_UD, 0},
    // Only there in 64-bit mode.
    {"swapgs", B(0x0f, 0x01, 0xf8), LEGACY, BOTH, 0, VEC_UD, 0},
    {"rdfsbase", B(0xf3, 0x0f, 0xae, 0xc0), LEGACY, BOTH, 0, VEC_UD, 0},
    // Registers that do not exist.
    {"mov eax, cr1", B(0x0f, 0x20, 0xc8), ALL, R0, 0, VEC_UD, 0},
    {"mov eax, cr5", B(0x0f, 0x20, 0xe8), ALL, R0, 0, VEC_UD, 0},
    {"mov cr6, eax", B(0x0f, 0x22, 0xf0), ALL, R0, 0, VEC_UD, 0},
    {"mov cr7, eax", B(0x0f, 0x22, 0xf8), ALL, R0, 0, VEC_UD, 0},
    {"mov rax, cr9", B(0x44, 0x0f, 0x20, 0xc8), M64, R0, 0, VEC_UD, 0},
    {"mov rax, cr15", B(0x44, 0x0f, 0x20, 0xf8), M64, R0, 0, VEC_UD, 0},
    {"mov rax, dr8", B(0x44, 0x0f, 0x21, 0xc0), M64, R0, 0, VEC_UD, 0},
    // Privilege: #GP(0).
    {"hlt", B(0xf4), ALL, R3, 0, VEC_GP, 0},
    {"cli", B(0xfa), ALL, R3, 0, VEC_GP, 0},
    {"sti", B(0xfb), ALL, R3, 0, VEC_GP, 0},
    {"in al, 80h", B(0xe4, 0x80), ALL, R3, 0, VEC_GP, 0},
    {"out 80h, al", B(0xe6, 0x80), ALL, R3, 0, VEC_GP, 0},
    {"in eax, dx", B(0xed), ALL, R3, 0, VEC_GP, 0},
    {"insb", B(0x6c), ALL, R3, 0, VEC_GP, 0},
    {"outsb", B(0x6e), ALL, R3, 0, VEC_GP, 0},
    {"clts", B(0x0f, 0x06), ALL, R3, 0, VEC_GP, 0},
    {"invd", B(0x0f, 0x08), ALL, R3, 0, VEC_GP, 0},
    {"wbinvd", B(0x0f, 0x09), ALL, R3, 0, VEC_GP, 0},
    {"rdmsr", B(0x0f, 0x32), ALL, R3, 0, VEC_GP, 0},
    {"wrmsr", B(0x0f, 0x30), ALL, R3, 0, VEC_GP, 0},
    {"lgdt", B(0x0f, 0x01, 0x17), ALL, R3, 0, VEC_GP, 0},
    {"lidt", B(0x0f, 0x01, 0x1f), ALL, R3, 0, VEC_GP, 0},
    {"lmsw ax", B(0x0f, 0x01, 0xf0), ALL, R3, 0, VEC_GP, 0},
    {"lldt ax", B(0x0f, 0x00, 0xd0), ALL, R3, 0, VEC_GP, 0},
    {"ltr ax", B(0x0f, 0x00, 0xd8), ALL, R3, 0, VEC_GP, 0},
    {"invlpg", B(0x0f, 0x01, 0x3f), ALL, R3, 0, VEC_GP, 0},
    {"mov eax, cr0", B(0x0f, 0x20, 0xc0), ALL, R3, 0, VEC_GP, 0},
    {"mov cr3, eax", B(0x0f, 0x22, 0xd8), ALL, R3, 0, VEC_GP, 0},
    {"mov eax, dr0", B(0x0f, 0x21, 0xc0), ALL, R3, 0, VEC_GP, 0},
    {"mov dr7, eax", B(0x0f, 0x23, 0xf8), ALL, R3, 0, VEC_GP, 0},
    {"swapgs", B(0x0f, 0x01, 0xf8), M64, R3, 0, VEC_GP, 0},
    {"clac", B(0x0f, 0x01, 0xca), ALL, R3, 0, VEC_UD, 0},
    {"sysenter without CS", B(0x0f, 0x34), LEGACY, BOTH, 0, VEC_GP, 0},
    // Selectors in the error code: index and TI, never the RPL.
    {"mov es, beyond the GDT", B(0x8e, 0xc0), ALL, BOTH, 0, VEC_GP, 0xfff8},
    {"mov ss, beyond the GDT", B(0x8e, 0xd0), ALL, BOTH, 0, VEC_GP, 0xfff8},
};

static void regs_set(struct lab_state *s, unsigned regs)
{
    ulong least = (ulong)1 << (sizeof(ulong) * 8 - 1) | 0x80000000u;
    s->gpr[0] = (s->gpr[0] & ~(ulong)0xffff) | 0xfff8;
    switch (regs) {
    case REGS_ZERO:
        s->gpr[1] = 0;
        break;
    case REGS_MIN:
        s->gpr[0] = least & ~(PROBE_LONG ? (ulong)0x80000000u : 0);
        s->gpr[1] = s->gpr[2] = ~(ulong)0;
        break;
    case REGS_MIN8:
        s->gpr[0] = 0x8000;
        s->gpr[1] = ~(ulong)0;
        break;
    case REGS_SMALL:
        s->gpr[0] = 5;
        s->gpr[1] = 1;
        s->gpr[2] = 0x100;
        break;
    case REGS_OF:
        s->flags |= FLAG_OF;
        break;
    case REGS_BOUND:
        s->gpr[0] = 0x7fff7fff;
        break;
    }
}

// LOCK needs a destination in memory and one of the instructions of its list (SDM vol. 2, LOCK).
static void lock_prefix(struct lab_state *s, unsigned mode, unsigned ring)
{
    static const struct {
        const char *name;
        u8 code[4], length, ok;
    } tries[] = {
        {"lock nop", B(0x90), 0},
        {"lock add reg", B(0x01, 0xc0), 0},
        {"lock add reg, mem", B(0x03, 0x07), 0},
        {"lock mov mem", B(0x89, 0x07), 0},
        {"lock mov reg, mem", B(0x8b, 0x07), 0},
        {"lock cmp mem", B(0x39, 0x07), 0},
        {"lock cmp mem, imm", B(0x80, 0x3f, 0x01), 0},
        {"lock test mem", B(0x85, 0x07), 0},
        {"lock push", B(0x50), 0},
        {"lock shl mem", B(0xd1, 0x27), 0},
        {"lock mul mem", B(0xf6, 0x27), 0},
        {"lock bt mem", B(0x0f, 0xba, 0x27, 0x01), 0},
        {"lock movsb", B(0xa4), 0},
        {"lock ret", B(0xc3), 0},
        {"lock cpuid", B(0x0f, 0xa2), 0},
        {"lock hlt", B(0xf4), 0},
        {"lock ud2", B(0x0f, 0x0b), 0},
        {"lock fnop", B(0xd9, 0xd0), 0},
        {"lock xchg reg", B(0x87, 0xc8), 0},
        {"lock cmpxchg8b reg", B(0x0f, 0xc7, 0xc8), 0},
        {"lock inc reg", B(0xfe, 0xc0), 0},
        {"lock imul", B(0x0f, 0xaf, 0x07), 0},
        {"lock add", B(0x00, 0x07), 1},
        {"lock or", B(0x08, 0x07), 1},
        {"lock adc", B(0x10, 0x07), 1},
        {"lock sbb", B(0x18, 0x07), 1},
        {"lock and", B(0x20, 0x07), 1},
        {"lock sub", B(0x28, 0x07), 1},
        {"lock xor", B(0x30, 0x07), 1},
        {"lock add imm", B(0x80, 0x07, 0x01), 1},
        {"lock inc", B(0xfe, 0x07), 1},
        {"lock dec", B(0xfe, 0x0f), 1},
        {"lock not", B(0xf6, 0x17), 1},
        {"lock neg", B(0xf6, 0x1f), 1},
        {"lock bts", B(0x0f, 0xba, 0x2f, 0x01), 1},
        {"lock btr", B(0x0f, 0xba, 0x37, 0x01), 1},
        {"lock btc", B(0x0f, 0xba, 0x3f, 0x01), 1},
        {"lock xchg", B(0x86, 0x07), 1},
        {"lock xadd", B(0x0f, 0xc0, 0x07), 1},
        {"lock cmpxchg", B(0x0f, 0xb0, 0x07), 1},
        {"lock cmpxchg8b", B(0x0f, 0xc7, 0x0f), 1},
    };
    for (unsigned i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        u8 code[5] = {0xf0, tries[i].code[0], tries[i].code[1], tries[i].code[2], tries[i].code[3]};
        probe_begin(s, (enum probe_mode)mode, ring);
        probe_code(code, tries[i].length + 1u);
        probe_loose_registers = tries[i].ok;
        probe_expect(tries[i].name, s, probe_run(s), tries[i].ok ? PROBE_END : VEC_UD, 0);
        probe_loose_registers = false;
    }
}

void exceptions_integer(void)
{
    struct lab_state s;
    static const char *const section[] = {"causes, 16-bit", "causes, 32-bit", "causes, 64-bit"};
    for (unsigned mode = 0; mode < PROBE_MODES; mode++) {
        lab_section(section[mode]);
        for (unsigned i = 0; i < sizeof(causes) / sizeof(causes[0]); i++) {
            const struct cause *c = &causes[i];
            for (unsigned ring = 0; ring < 4; ring += 3) {
                if (!probe_possible((enum probe_mode)mode, ring) || !(c->modes >> mode & 1) ||
                    !(c->rings & (ring ? R3 : R0)))
                    continue;
                unsigned want = c->want;
                // SYSENTER in long mode is Intel's; AMD says #UD (APM vol. 3).
                if (c->code[0] == 0x0f && c->code[1] == 0x34 && PROBE_LONG && lab_is_amd())
                    want = VEC_UD;
                probe_begin(&s, (enum probe_mode)mode, ring);
                regs_set(&s, c->regs);
                probe_code(c->code, c->length);
                probe_expect(c->name, &s, probe_run(&s), want, c->error);
            }
        }
    }
    static const char *const locks[] = {"LOCK, 16-bit", "LOCK, 32-bit", "LOCK, 64-bit"};
    for (unsigned mode = 0; mode < PROBE_MODES; mode++) {
        lab_section(locks[mode]);
        for (unsigned ring = 0; ring < 4; ring += 3)
            if (probe_possible((enum probe_mode)mode, ring))
                lock_prefix(&s, mode, ring);
    }
}
