// SPDX-License-Identifier: Apache-2.0
// Two exceptions in a row: which become one double fault (SDM vol. 3, table 6-5). The first one's gate is broken so
// that its delivery meets the second; "triple" on the command line breaks #DF's too.
#include "deliver.h"
#include "exceptions.h"

enum first {
    FIRST_INT,   // INT n, benign
    FIRST_UD,    // benign
    FIRST_BP,    // INT3, benign, software
    FIRST_ICEBP, // INT1: benign, but EXT = 1
    FIRST_AC,    // benign, with an error code
    FIRST_NM,    // benign
    FIRST_MF,    // benign
    FIRST_DE,    // contributory
    FIRST_TS_NP, // contributory: #NP of a load
    FIRST_SS,    // contributory: #SS of a load
    FIRST_GP,    // contributory
    FIRST_PF,    // page fault
    FIRSTS
};
static const struct {
    const char *name;
    u8 code[3], length, vector, class; // 0 benign, 1 contributory, 2 page fault
    u8 ext;
} firsts[FIRSTS] = {
    [FIRST_INT] = {"int 90h", {0xcd, 0x90}, 2, 0x90, 0, 0},
    [FIRST_UD] = {"#UD", {0x0f, 0x0b}, 2, VEC_UD, 0, 1},
    [FIRST_BP] = {"int3", {0xcc}, 1, VEC_BP, 0, 0},
    [FIRST_ICEBP] = {"int1", {0xf1}, 1, VEC_DB, 0, 1},
    [FIRST_AC] = {"#AC", {0x8b, 0x07}, 2, VEC_AC, 0, 1},
    [FIRST_NM] = {"#NM", {0xd9, 0xd0}, 2, VEC_NM, 0, 1},
    [FIRST_MF] = {"#MF", {0x9b}, 1, VEC_MF, 0, 1},
    [FIRST_DE] = {"#DE", {0xf6, 0xf1}, 2, VEC_DE, 1, 1},
    [FIRST_TS_NP] = {"#NP", {0x8e, 0xc0}, 2, VEC_NP, 1, 1},
    [FIRST_SS] = {"#SS", {0x8e, 0xd0}, 2, VEC_SS, 1, 1},
    [FIRST_GP] = {"#GP", {0x8e, 0xc0}, 2, VEC_GP, 1, 1},
    [FIRST_PF] = {"#PF", {0x8b, 0x07}, 2, VEC_PF, 2, 1},
};
// The second: by the first's gate.
enum second {
    SECOND_NP,      // gate not present
    SECOND_NP_CODE, // code segment not present
    SECOND_GP,      // no gate
    SECOND_GP_CODE, // code segment is data
    SECOND_PF,      // the gate's page
    SECONDS
};

#define SEL_ABSENT 0x90u

static void combine(unsigned mode, unsigned ring, unsigned f, unsigned second)
{
    struct lab_state s;
    u32 vector = firsts[f].vector;
    ulong cr0 = lab_cr0(), gate = 0;
    u64 code_absent = (*lab_gdt_entry(SEL_CODE0) & ~(1ull << 47));
    if ((f == FIRST_AC && ring == 0))
        return;
    probe_begin(&s, (enum probe_mode)mode, ring);
    probe_code(firsts[f].code, firsts[f].length);
    s.gpr[0] = 0xfff8;
    s.gpr[1] = 0;
    // Segments that are not present, for #NP and #SS.
    lab_gdt[0x98 / 8] = lab_descriptor(0, 0xfffff, 0x12 | ring << 5, 0xc);
    if (f == FIRST_TS_NP || f == FIRST_SS)
        s.gpr[0] = 0x98 | ring;
    if (f == FIRST_AC) {
        s.flags |= FLAG_AC;
        s.gpr[3] = s.gpr[7] = PROBE_DATA + 1;
    }
    if (f == FIRST_PF) {
        s.gpr[3] = s.gpr[7] = 0xa123;
        probe_page(0xa000, 0);
    }
    lab_gdt[SEL_ABSENT / 8] = code_absent;
    static const struct {
        u8 access;
        u16 selector;
        u8 vector, about; // 0: the gate, 1: the selector
    } how[SECONDS] = {
        {0x6e, SEL_CODE0, VEC_NP, 0}, {0xee, SEL_ABSENT, VEC_NP, 1}, {0xe3, SEL_CODE0, VEC_GP, 0},
        {0xee, SEL_DATA0, VEC_GP, 1}, {0xee, SEL_CODE0, VEC_PF, 0},
    };
    // The second is of the same vector as the first: its gate is the broken one too.
    if (how[second].vector == vector && second != SECOND_PF)
        return;
    lab_gate_set(&lab_idt[vector], (ulong)lab_stubs + vector * 16, how[second].selector,
                 how[second].access, 0);
    if (second == SECOND_PF) {
        if (vector >= 8 && vector < 14) // in #DF's page at the least
            goto out;
        if (vector >= 14 && vector < 0x80)
            goto out;
        gate = deliver_alias_idt(vector);
        probe_page(gate, 0);
    }
    if (f == FIRST_MF) {
        u16 cw = 0x037b;
        lab_set_cr0((cr0 & ~0xcul) | 0x20);
        __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(cw));
    }
    lab_set_cr0((cr0 & ~0xcul) | (f == FIRST_NM ? 8 : 0x20) | (f == FIRST_AC ? 0x40000 : 0));
    const struct lab_trap *t = probe_run(&s);
    lab_set_cr0(cr0 & ~0xcul);
    __asm__ volatile("fninit");
    lab_set_cr0(cr0);
    if (gate) {
        probe_page(gate, PAGE_P | PAGE_W | PAGE_U);
        deliver_alias_end();
    }
    {
        unsigned class2 = second == SECOND_PF ? 2 : 1;
        bool df = (firsts[f].class == 1 && class2 == 1) || firsts[f].class == 2;
        u32 error = how[second].vector == VEC_PF ? 0
                    : how[second].about          ? how[second].selector + firsts[f].ext
                                                 : vector * 8 + 2 + firsts[f].ext;
        u32 want = df ? VEC_DF : how[second].vector;
        lab_check(t && t->vector == want && t->error == (df ? 0 : error) && t->ip == PROBE_CODE &&
                      t->cs == s.cs,
                  "%s ring %u: %s, then %u: want %u error %x, got %u error %x at +%lx",
                  probe_mode_name((enum probe_mode)mode), ring, firsts[f].name, how[second].vector,
                  want, df ? 0 : error, t ? t->vector : 999, t ? t->error : 0,
                  t ? t->ip - PROBE_CODE : 0);
        if (t && second == SECOND_PF)
            lab_check(t->cr2 >= gate && t->cr2 < gate + 16, "%s: CR2 %lx is the second's",
                      firsts[f].name, t->cr2);
        else if (t && f == FIRST_PF)
            lab_check(t->cr2 == 0xa123, "%s: CR2 %lx is the first's", firsts[f].name, t->cr2);
        if (t)
            lab_check(t->gpr[0] == s.gpr[0] && t->gpr[1] == s.gpr[1] && t->gpr[7] == s.gpr[7],
                      "%s: registers stay", firsts[f].name);
    }
out:
    lab_gate_default(vector);
    probe_page(0xa000, PAGE_P | PAGE_W | PAGE_U);
    lab_gdt[0x98 / 8] = lab_gdt[SEL_ABSENT / 8] = 0;
}

void exceptions_double(void)
{
    probe_paging_on();
    lab_section("two in a row");
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned ring = 0; ring < 4; ring += 3)
            for (unsigned f = 0; f < FIRSTS; f++)
                for (unsigned second = 0; second < SECONDS; second++)
                    combine(mode, ring, f, second);
    // Page fault, then page fault: #PF's gate in the page that is not there, #DF's in the other.
    lab_section("page fault twice");
    for (unsigned mode = 0; mode < PROBE_MODES; mode++) {
        struct lab_state s;
        static const u8 code[] = {0x8b, 0x07};
        probe_begin(&s, (enum probe_mode)mode, 3);
        probe_code(code, 2);
        s.gpr[3] = s.gpr[7] = 0xa123;
        probe_page(0xa000, 0);
        ulong gate = deliver_alias_idt(0); // split at #PF: it begins the second page
        gate += VEC_PF * (PROBE_LONG ? 16 : 8);
        probe_page(gate, 0);
        const struct lab_trap *t = probe_run(&s);
        probe_page(gate, PAGE_P | PAGE_W | PAGE_U);
        probe_page(0xa000, PAGE_P | PAGE_W | PAGE_U);
        deliver_alias_end();
        if (lab_expect_error("#PF, #PF", t, VEC_DF, 0))
            lab_check(t->cr2 >= gate && t->cr2 < gate + 16 && t->ip == PROBE_CODE,
                      "CR2 %lx, ip %lx", t->cr2, t->ip);
    }
    probe_paging_off();
}

_Noreturn void exceptions_triple(void)
{
    static const u8 vectors[] = {VEC_UD, VEC_GP, VEC_DF};
    for (unsigned i = 0; i < sizeof(vectors); i++)
        lab_gate_set(&lab_idt[vectors[i]], 0, SEL_CODE0, 0, 0);
    __asm__ volatile("ud2");
    lab_finish();
}
