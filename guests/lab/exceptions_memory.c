// SPDX-License-Identifier: Apache-2.0
// Exceptions of memory operands: #AC by size (SDM vol. 3, 6.15, table 6-7), #GP and #SS of addresses that are not
// canonical, #PF in the middle of an operand; nothing may have been written.
#include "exceptions.h"

#define CR0_AM 0x40000ul

// `align` 0: by operand size (2 or 4); the prefix 66 turns it round.
static const struct {
    const char *name;
    u8 code[5], length, align, modes, loose;
} aligned[] = {
    {"mov al, [di]", {0x8a, 0x07}, 2, 1, 7, 1},
    {"mov ax, [di]", {0x8b, 0x07}, 2, 0, 7, 1},
    {"66 mov ax, [di]", {0x66, 0x8b, 0x07}, 3, 66, 7, 1},
    {"mov rax, [rdi]", {0x48, 0x8b, 0x07}, 3, 8, 4, 1},
    {"mov [di], ax", {0x89, 0x07}, 2, 0, 7, 1},
    {"mov [rdi], rax", {0x48, 0x89, 0x07}, 3, 8, 4, 1},
    {"mov [di], ds", {0x8c, 0x1f}, 2, 2, 7, 1},
    {"add [di], ax", {0x01, 0x07}, 2, 0, 7, 1},
    {"xchg [di], ax", {0x87, 0x07}, 2, 0, 7, 1},
    {"lock xadd [di], ax", {0xf0, 0x0f, 0xc1, 0x07}, 4, 0, 7, 1},
    {"cmpxchg8b [di]", {0x0f, 0xc7, 0x0f}, 3, 8, 7, 1},
    {"bt [di], imm", {0x0f, 0xba, 0x27, 0x01}, 4, 0, 7, 1},
    {"scasw", {0xaf}, 1, 0, 7, 1},
    {"stosb", {0xaa}, 1, 1, 7, 1},
    {"stosw", {0xab}, 1, 0, 7, 1},
    {"stosq", {0x48, 0xab}, 2, 8, 4, 1},
    {"fld m32", {0xd9, 0x07}, 2, 4, 7, 1},
    {"fld m64", {0xdd, 0x07}, 2, 8, 7, 1},
    {"fld m80", {0xdb, 0x2f}, 2, 8, 7, 1},
    {"fild m16", {0xdf, 0x07}, 2, 2, 7, 1},
    {"fnstcw", {0xd9, 0x3f}, 2, 2, 7, 1},
    {"fst m32", {0xd9, 0x17}, 2, 4, 7, 1},
    {"fstp m80", {0xdb, 0x3f}, 2, 8, 7, 1},
    {"movq mm0, [di]", {0x0f, 0x6f, 0x07}, 3, 8, 7, 1},
    {"movss xmm0, [di]", {0xf3, 0x0f, 0x10, 0x07}, 4, 4, 7, 1},
    {"movsd xmm0, [di]", {0xf2, 0x0f, 0x10, 0x07}, 4, 8, 7, 1},
};

static void alignment(unsigned mode)
{
    struct lab_state s;
    ulong cr0 = lab_cr0(), cr4 = lab_cr4();
    lab_set_cr4(cr4 | 0x600);
    for (unsigned i = 0; i < sizeof(aligned) / sizeof(aligned[0]); i++) {
        if (!(aligned[i].modes >> mode & 1))
            continue;
        unsigned align = aligned[i].align;
        if (align == 0)
            align = mode == PROBE_16 ? 2 : 4;
        else if (align == 66)
            align = mode == PROBE_16 ? 4 : 2;
        for (unsigned how = 0; how < 4; how++) { // 0: armed; then ring 0, without AC, without AM
            for (unsigned off = 0; off < 9; off++) {
                if (how && off != 1)
                    continue;
                probe_begin(&s, (enum probe_mode)mode, how == 1 ? 0 : 3);
                // BX for 16-bit code, DI for the rest and for strings
                s.gpr[7] = PROBE_DATA + off;
                s.gpr[3] = PROBE_DATA + off;
                if (how != 2)
                    s.flags |= FLAG_AC;
                probe_code(aligned[i].code, aligned[i].length);
                __asm__ volatile("fninit");
                lab_set_cr0((cr0 & ~(CR0_AM | 0xc)) | (how == 3 ? 0 : CR0_AM));
                bool ac = how == 0 && off % align != 0;
                probe_loose_registers = !ac;
                probe_expect(aligned[i].name, &s, probe_run(&s), ac ? VEC_AC : PROBE_END, 0);
                probe_loose_registers = false;
                lab_set_cr0(cr0);
            }
        }
    }
    // The stack: PUSH and POP of a word or more.
    for (unsigned off = 0; off < 9; off++) {
        static const u8 code[2] = {0x50, 0x58};
        for (unsigned i = 0; i < 2; i++) {
            unsigned align = mode == PROBE_16 ? 2 : mode == PROBE_32 ? 4 : 8;
            probe_begin(&s, (enum probe_mode)mode, 3);
            s.sp += off;
            s.flags |= FLAG_AC;
            probe_code(code + i, 1);
            lab_set_cr0(cr0 | CR0_AM);
            probe_loose_registers = true;
            probe_expect(i ? "pop" : "push", &s, probe_run(&s), off % align ? VEC_AC : PROBE_END,
                         0);
            probe_loose_registers = false;
            lab_set_cr0(cr0);
        }
    }
    lab_set_cr4(cr4);
}

#ifdef __x86_64__
// #SS where the operand goes by SS (base RBP, RSP, or the stack), else #GP; overrides but FS and GS say nothing in 64-bit
// mode.
static void canonical(void)
{
    static const struct {
        const char *name;
        u8 code[6], length, vector;
    } tries[] = {
        {"mov eax, [rdi]", {0x8b, 0x07}, 2, VEC_GP},
        {"mov [rdi], eax", {0x89, 0x07}, 2, VEC_GP},
        {"add [rdi], eax", {0x01, 0x07}, 2, VEC_GP},
        {"mov eax, [rbp]", {0x8b, 0x45, 0x00}, 3, VEC_SS},
        {"mov [rbp], eax", {0x89, 0x45, 0x00}, 3, VEC_SS},
        {"mov eax, [rsp]", {0x8b, 0x04, 0x24}, 3, VEC_SS},
        {"fs mov eax, [rbp]", {0x64, 0x8b, 0x45, 0x00}, 4, VEC_GP},
        {"gs mov eax, [rsp]", {0x65, 0x8b, 0x04, 0x24}, 4, VEC_GP},
        {"ss mov eax, [rdi]", {0x36, 0x8b, 0x07}, 3, VEC_GP},
        {"push", {0x50}, 1, VEC_SS},
        {"pop", {0x58}, 1, VEC_SS},
        {"push [rdi]", {0xff, 0x37}, 2, VEC_GP},
        {"call", {0xe8, 0, 0, 0, 0}, 5, VEC_SS},
        {"ret", {0xc3}, 1, VEC_SS},
        {"leave", {0xc9}, 1, VEC_SS},
        {"pushf", {0x9c}, 1, VEC_SS},
        {"iretq", {0x48, 0xcf}, 2, VEC_SS},
        {"retf", {0xcb}, 1, VEC_SS},
        {"stosb", {0xaa}, 1, VEC_GP},
        {"movsb", {0xa4}, 1, VEC_GP},
        {"lodsb", {0xac}, 1, VEC_GP},
        {"movups", {0x0f, 0x10, 0x07}, 3, VEC_GP},
        {"fld", {0xd9, 0x07}, 2, VEC_GP},
        {"xlat", {0xd7}, 1, VEC_GP},
        {"jmp rdi", {0xff, 0xe7}, 2, VEC_GP},
        {"jmp [rdi]", {0xff, 0x27}, 2, VEC_GP},
    };
    static const u64 addresses[] = {0x800000000010, 0xffff7fffffffffff, 0x123456789abcdef0};
    struct lab_state s;
    ulong cr4 = lab_cr4();
    lab_set_cr4(cr4 | 0x600);
    for (unsigned i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        for (unsigned a = 0; a < 3; a++) {
            // AMD's processors begin with a slot above, where addresses are canonical again.
            bool above = tries[i].code[tries[i].length - 1] == 0xcf || tries[i].code[0] == 0xcb;
            if (above && a == 1 && lab_is_amd())
                continue;
            probe_begin(&s, PROBE_64, 3);
            s.gpr[7] = s.gpr[6] = s.gpr[3] = s.gpr[5] = s.sp = addresses[a];
            probe_code(tries[i].code, tries[i].length);
            const struct lab_trap *t = probe_run(&s);
            if (lab_check(t && t->vector == tries[i].vector && t->error == 0 && t->ip == PROBE_CODE,
                          "%s at %llx: want %u, got %u error %x +%lx", tries[i].name, addresses[a],
                          tries[i].vector, t ? t->vector : 999, t ? t->error : 0,
                          t ? t->ip - PROBE_CODE : 0))
                lab_check(t->sp == s.sp && t->gpr[7] == s.gpr[7] && t->flags == (s.flags | FLAG_RF),
                          "%s: registers and flags stay: %lx", tries[i].name, t->flags);
        }
    }
    lab_set_cr4(cr4);
}
#endif

// An operand that goes on into a page that is not there: CR2 is the second page's first byte, nothing is written.
static void split(unsigned mode)
{
    static const struct {
        const char *name;
        u8 code[5], length, size, write;
    } tries[] = {
        {"mov [di], ax", {0x89, 0x07}, 2, 0, 2},
        {"mov ax, [di]", {0x8b, 0x07}, 2, 0, 0},
        {"add [di], ax", {0x01, 0x07}, 2, 0, 2},
        {"xchg [di], ax", {0x87, 0x07}, 2, 0, 2},
        {"lock add [di], ax", {0xf0, 0x01, 0x07}, 3, 0, 2},
        {"cmpxchg8b", {0x0f, 0xc7, 0x0f}, 3, 8, 2},
        {"stosw", {0xab}, 1, 0, 2},
        {"fnstcw", {0xd9, 0x3f}, 2, 2, 2},
        {"fst m64", {0xdd, 0x17}, 2, 8, 2},
        {"fstp m80", {0xdb, 0x3f}, 2, 10, 2},
        {"movups [di], xmm0", {0x0f, 0x11, 0x07}, 3, 16, 2},
        {"movq [di], mm0", {0x0f, 0x7f, 0x07}, 3, 8, 2},
        {"fxsave", {0x0f, 0xae, 0x07}, 3, 32, 2},
    };
    struct lab_state s;
    ulong cr4 = lab_cr4();
    probe_paging_on();
    lab_set_cr4(lab_cr4() | 0x600);
    probe_page(0xa000, 0);
    for (unsigned i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        unsigned size = tries[i].size ? tries[i].size : mode == PROBE_16 ? 2 : 4;
        unsigned step = size == 32 ? 16 : 1;
        for (unsigned in = step; in < size; in += step) {
            for (unsigned ring = 0; ring < 4; ring += 3) {
                probe_begin(&s, (enum probe_mode)mode, ring);
                s.gpr[3] = s.gpr[7] = 0xa000 - in;
                volatile u8 *end = (volatile u8 *)0xa000;
                for (unsigned k = 1; k <= 32; k++)
                    end[-(int)k] = (u8)(k * 3);
                probe_code(tries[i].code, tries[i].length);
                __asm__ volatile("fninit; fldz");
                const struct lab_trap *t = probe_run(&s);
                if (probe_expect(tries[i].name, &s, t, VEC_PF, tries[i].write | (ring ? 4 : 0)))
                    // AMD's processors look at the last byte of FXSAVE's image first.
                    lab_check(t->cr2 == 0xa000 ||
                                  (lab_is_amd() && size == 32 && t->cr2 == 0xa000 - in + 511),
                              "CR2: got %lx, want a000", t->cr2);
                bool same = true;
                for (unsigned k = 1; k <= 32; k++)
                    same = same && end[-(int)k] == (u8)(k * 3);
                lab_check(same, "%s: nothing written", tries[i].name);
            }
        }
    }
    lab_set_cr4(cr4);
    probe_paging_off();
}

void exceptions_memory(void)
{
    for (unsigned mode = 0; mode < PROBE_MODES; mode++) {
        lab_section("#AC");
        alignment(mode);
        lab_section("#PF in the middle");
        split(mode);
    }
#ifdef __x86_64__
    lab_section("not canonical");
    canonical();
#endif
}
