// SPDX-License-Identifier: Apache-2.0
// What operands ask of pages: which instructions write, operands across two pages, accesses that the processor
// makes by itself (GDT, IDT, I/O bitmap), pages seen through two addresses. SDM vol. 3A, 4.6, 4.7.
#include "paging.h"

#ifdef __x86_64__
#define SI "%rsi"
#define DI "%rdi"
#define WORD "q"
#else
#define SI "%esi"
#define DI "%edi"
#define WORD "l"
#endif
#define CODE(name, text)                                          \
    extern char name[];                                           \
    __asm__(".pushsection .text\n" #name ": " text "\nud2\nud2\n" \
            ".popsection\n")

CODE(m_mov_from, "mov (" SI "), %eax");
CODE(m_cmp, "cmp %eax, (" SI ")");
CODE(m_test, "test %eax, (" SI ")");
CODE(m_bt, "btl $0, (" SI ")");
CODE(m_push, "push" WORD " (" SI ")");
CODE(m_cmov, "xor %ecx, %ecx; .byte 0x0f, 0x45, 0x06"); // CMOVNE EAX, [SI], not taken
CODE(m_mov_to, "mov %eax, (" SI ")");
CODE(m_add, "add %eax, (" SI ")");
CODE(m_add0, "addl $0, (" SI ")");
CODE(m_and, "andl $-1, (" SI ")");
CODE(m_not, "notl (" SI ")");
CODE(m_inc, "incl (" SI ")");
CODE(m_xchg, "xchg %eax, (" SI ")");
CODE(m_xadd, "lock xaddl %eax, (" SI ")");
CODE(m_cmpxchg, "cmpxchgl %edx, (" SI ")");
CODE(m_lock_cmpxchg, "lock cmpxchgl %edx, (" SI ")");
CODE(m_cmpxchg8b, "lock cmpxchg8b (" SI ")");
CODE(m_bts, "lock btsl $0, (" SI ")");
CODE(m_btr, "btrl $31, (" SI ")");
CODE(m_sete, "sete (" SI ")");
CODE(m_shl, "shll $1, (" SI ")");
CODE(m_pop, "push" WORD " $0; pop" WORD " (" SI ")");
CODE(m_sgdt, "sgdt (" SI ")");
CODE(m_stos, "mov " SI ", " DI "; stosl");
CODE(m_rep_none, "mov " SI ", " DI "; xor %ecx, %ecx; rep stosl");
CODE(m_load_es, "mov %ax, %es");
CODE(m_int, "int $0xf1");
CODE(m_in, "inb $0, %al");

struct instruction {
    const char *name, *code;
    u8 kind; // 0: no access, 1: reads, 2: writes
    u8 size;
};
static const struct instruction instructions[] = {{"MOV from", m_mov_from, 1, 4},
                                                  {"CMP", m_cmp, 1, 4},
                                                  {"TEST", m_test, 1, 4},
                                                  {"BT", m_bt, 1, 4},
                                                  {"CMOV not taken", m_cmov, 1, 4},
                                                  {"PUSH", m_push, 1, sizeof(ulong)},
                                                  {"MOV to", m_mov_to, 2, 4},
                                                  {"ADD", m_add, 2, 4},
                                                  {"ADD 0", m_add0, 2, 4},
                                                  {"AND -1", m_and, 2, 4},
                                                  {"NOT", m_not, 2, 4},
                                                  {"INC", m_inc, 2, 4},
                                                  {"XCHG", m_xchg, 2, 4},
                                                  {"LOCK XADD", m_xadd, 2, 4},
                                                  {"CMPXCHG that fails", m_cmpxchg, 2, 4},
                                                  {"LOCK CMPXCHG that fails", m_lock_cmpxchg, 2, 4},
                                                  {"LOCK CMPXCHG8B that fails", m_cmpxchg8b, 2, 8},
                                                  {"LOCK BTS", m_bts, 2, 4},
                                                  {"BTR", m_btr, 2, 4},
                                                  {"SETE", m_sete, 2, 1},
                                                  {"SHL", m_shl, 2, 4},
                                                  {"POP", m_pop, 2, sizeof(ulong)},
                                                  {"SGDT", m_sgdt, 2, 2 + sizeof(ulong)},
                                                  {"STOS", m_stos, 2, 4},
                                                  {"REP STOS of nothing", m_rep_none, 0, 4}};
#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static void map_two(u64 first, u64 second)
{
    unsigned last = paging_levels() - 1;
    paging_map(PTE_RIGHTS);
    paging_entry_set(last, paging_entry_make(last, false, first));
    paging_second_set((PAGING_TARGET & ~0xfffull) + 0x1000 + second);
    lab_invlpg(paging_lin);
    lab_invlpg(paging_second);
}

static bool expect_fault(const char *name, const struct tried *t, u32 error, ulong cr2)
{
    return lab_check(t->skipped || (t->vector == VEC_PF && t->error == error && t->cr2 == cr2),
                     "%s: vector %u error %x cr2 %lx ip %lx, want #PF %x at %lx", name, t->vector,
                     t->error, t->cr2, t->ip, error, cr2);
}

static bool expect_end(const char *name, const struct tried *t)
{
    return lab_check(t->skipped || t->vector == VEC_UD,
                     "%s: vector %u error %x cr2 %lx ip %lx, want none", name, t->vector, t->error,
                     t->cr2, t->ip);
}

// Each instruction on pages it may only read, and its dirty bit where it may write.
static void rights_of_instructions(void)
{
    static const u64 pages[] = {0, PTE_P, PTE_P | PTE_W, PTE_P | PTE_U, PTE_RIGHTS};
    unsigned last = paging_levels() - 1;
    volatile u32 *target = (volatile u32 *)PAGING_TARGET;
    for (unsigned i = 0; i < COUNT(instructions); i++)
        for (unsigned cpl = 0; cpl <= 3; cpl += 3)
            for (unsigned page = 0; page < COUNT(pages); page++) {
                const struct instruction *in = &instructions[i];
                u64 p = pages[page];
                map_two(p, PTE_RIGHTS);
                target[0] = target[1] = 0x11111111;
                struct tried t = paging_run(in->code, (u8)cpl, false, paging_lin, 0, 0, 0);
                u32 error =
                    (in->kind == 2 ? ERROR_W : 0) | (cpl ? ERROR_U : 0) | (p & PTE_P ? ERROR_P : 0);
                bool fault = in->kind && (!(p & PTE_P) || (cpl && !(p & PTE_U)) ||
                                          (in->kind == 2 && !(p & PTE_W)));
                if (fault) {
                    expect_fault(in->name, &t, error, paging_lin);
                    lab_check(!(paging_entry(last) & PTE_D), "%s: dirty after a fault", in->name);
                } else if (expect_end(in->name, &t) && !t.skipped) {
                    u32 want = in->kind == 2 ? PTE_A | PTE_D : in->kind ? PTE_A : 0;
                    lab_equal(in->name, paging_entry(last) & (PTE_A | PTE_D), want);
                }
            }
    *(volatile u16 *)PAGING_TARGET = PAGING_BYTE | 0x0b00;
}

// Operands that end in the next page.
static void two_pages(void)
{
    static const u64 pages[] = {0, PTE_P, PTE_P | PTE_U, PTE_RIGHTS};
    volatile u8 *end = (volatile u8 *)((PAGING_TARGET & ~0xffful) + 0x1000);
    for (unsigned i = 0; i < COUNT(instructions); i++) {
        const struct instruction *in = &instructions[i];
        if (in->size < 2 || !in->kind)
            continue;
        for (unsigned cpl = 0; cpl <= 3; cpl += 3)
            for (unsigned before = 1; before < in->size; before++)
                for (unsigned pair = 0; pair < 16; pair++) {
                    u64 p[2] = {pages[pair & 3], pages[pair >> 2]};
                    ulong at = paging_second - before;
                    u32 access = (in->kind == 2 ? ERROR_W : 0) | (cpl ? ERROR_U : 0);
                    int bad = -1;
                    if (paging_brief && (i + before + pair) % 16)
                        continue;
                    for (int k = 1; k >= 0; k--)
                        if (!(p[k] & PTE_P) || (cpl && !(p[k] & PTE_U)) ||
                            (in->kind == 2 && !(p[k] & PTE_W)))
                            bad = k;
                    map_two(p[0], p[1]);
                    for (int k = -8; k < 10; k++)
                        end[k] = 0x33;
                    struct tried t = paging_run(in->code, (u8)cpl, false, at, 0, 0, 0);
                    if (bad < 0) {
                        expect_end(in->name, &t);
                        continue;
                    }
                    expect_fault(in->name, &t, access | (p[bad] & PTE_P ? ERROR_P : 0),
                                 bad ? paging_second : at);
                    bool same = true;
                    for (int k = -8; k < 10; k++)
                        same = same && end[k] == 0x33;
                    lab_check(same, "%s: cpl %u: something was written", in->name, cpl);
                }
    }
}

// An instruction that begins in one page and ends in the next.
static void fetch_two_pages(void)
{
    static const u8 code[] = {0xb8, 0x78, 0x56, 0x34, 0x12, 0x0f, 0x0b}; // MOV EAX, 12345678h; UD2
    volatile u8 *end = (volatile u8 *)((PAGING_TARGET & ~0xffful) + 0x1000);
    for (unsigned before = 1; before < 5; before++)
        for (unsigned present = 0; present < 2; present++)
            for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
                ulong at = paging_second - before;
                map_two(PTE_RIGHTS, present ? PTE_RIGHTS : 0);
                for (unsigned i = 0; i < sizeof(code); i++)
                    end[(int)i - (int)before] = code[i];
                struct tried t = paging_run(code_fetch, (u8)cpl, false, at, 0, 0, 0);
                if (t.skipped)
                    continue;
                if (!present) {
                    expect_fault("fetch", &t, cpl ? ERROR_U : 0, paging_second);
                    lab_equal("fetch: IP", t.ip, at);
                } else if (expect_end("fetch", &t)) {
                    lab_equal("fetch: value", t.ax, 0x12345678);
                }
            }
}

void paging_operands(void)
{
    paging_controls_default();
    rights_of_instructions();
    two_pages();
    fetch_two_pages();
}

// --- the processor's own accesses ------------------------------------------------------------------------

struct pointer {
    u16 limit;
    ulong base;
} __attribute__((packed));

static const struct {
    const char *name;
    u64 page;
    bool wp, smap;
    int error; // of a descriptor whose accessed bit is clear (reads and writes); -1: none
    int error_read;
} implicit_cases[] = {
    {"not present", 0, true, false, 0, 0},
    {"supervisor", PTE_P | PTE_W, true, false, -1, -1},
    {"supervisor read-only", PTE_P, true, false, ERROR_P | ERROR_W, -1},
    {"supervisor read-only without WP", PTE_P, false, false, -1, -1},
    {"user", PTE_RIGHTS, true, false, -1, -1},
    {"user read-only", PTE_P | PTE_U, true, false, ERROR_P | ERROR_W, -1},
    {"supervisor SMAP", PTE_P | PTE_W, true, true, -1, -1},
    {"user SMAP", PTE_RIGHTS, true, true, ERROR_P, ERROR_P},
};

static void implicit_controls(unsigned i)
{
    struct paging p = {.wp = implicit_cases[i].wp, .smap = implicit_cases[i].smap, .pse = cpu.pse};
    paging_controls(&p);
}

// A segment load at both rings, AC clear and set; the descriptor is the first of the second page.
static void descriptor_table(unsigned i, bool accessed)
{
    struct pointer old, new = {0xffff, paging_lin & ~0xffful};
    volatile u64 *page = (volatile u64 *)(PAGING_TARGET & ~0xffful);
    for (unsigned k = 0; k < 64; k++)
        page[k] = lab_gdt[k];
    for (unsigned run = 0; run < 4; run++) {
        u8 cpl = run & 1 ? 3 : 0;
        bool ac = run & 2;
        page[512] = lab_descriptor(0, 0xfffff, accessed ? 0xf3 : 0xf2, 0xc);
        map_two(PTE_P | PTE_W, implicit_cases[i].page);
        implicit_controls(i);
        __asm__ volatile("sgdt %0" : "=m"(old));
        __asm__ volatile("lgdt %0" : : "m"(new));
        struct tried t = paging_run(m_load_es, cpl, ac, 0, 0, 0x1003, 0);
        __asm__ volatile("lgdt %0" : : "m"(old));
        paging_controls_default();
        int error = accessed ? implicit_cases[i].error_read : implicit_cases[i].error;
        if (t.skipped)
            continue;
        if (error >= 0) {
            // Which of the descriptor's bytes a store of its accessed bit touches is open.
            if (error & ERROR_W && t.cr2 - paging_second < 8)
                t.cr2 = paging_second;
            expect_fault(implicit_cases[i].name, &t, (u32)error, paging_second);
            lab_check((page[512] >> 40 & 1) == accessed, "descriptor's accessed bit after a fault");
        } else if (expect_end(implicit_cases[i].name, &t)) {
            lab_check(page[512] >> 40 & 1, "descriptor's accessed bit");
            bool dirty = paging_second_entry() & PTE_D;
            lab_check(dirty == !accessed, "descriptor: dirty %u", dirty);
        }
    }
}

// INT n whose gate is in the second page.
static void interrupt_table(unsigned i)
{
    struct pointer old, new = {sizeof(lab_idt) - 1, paging_second - 0xf1 * sizeof(struct lab_gate)};
    u8 *at = (u8 *)(PAGING_TARGET & ~0xffful) + 0x1000 - 0xf1 * sizeof(struct lab_gate);
    const u8 *from = (const u8 *)lab_idt;
    struct lab_gate *gate = (struct lab_gate *)((PAGING_TARGET & ~0xffful) + 0x1000);
    for (unsigned k = 0; k < sizeof(lab_idt); k++)
        at[k] = from[k];
    lab_gate_set(gate, (ulong)lab_stubs + 0xf1 * 16, SEL_CODE0, 0xee, 0);
    for (unsigned run = 0; run < 4; run++) {
        u8 cpl = run & 1 ? 3 : 0;
        map_two(PTE_P | PTE_W, implicit_cases[i].page);
        implicit_controls(i);
        __asm__ volatile("sidt %0" : "=m"(old));
        __asm__ volatile("lidt %0" : : "m"(new));
        struct tried t = paging_run(m_int, cpl, run & 2, 0, 0, 0, 0);
        __asm__ volatile("lidt %0" : : "m"(old));
        paging_controls_default();
        if (t.skipped)
            continue;
        if (implicit_cases[i].error_read >= 0)
            expect_fault(implicit_cases[i].name, &t, (u32)implicit_cases[i].error_read,
                         paging_second);
        else
            lab_check(t.vector == 0xf1, "%s: INT: vector %u error %x cr2 %lx",
                      implicit_cases[i].name, t.vector, t.error, t.cr2);
    }
}

static void tss_load(u64 base, u32 limit)
{
    u64 *entry = lab_gdt_entry(SEL_TSS);
    entry[0] = lab_descriptor((u32)base, limit, 0x89, 0);
#ifdef __x86_64__
    entry[1] = base >> 32;
#endif
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

// IN at ring 3 whose bit of the I/O bitmap is in the second page.
static void io_bitmap(unsigned i)
{
    u8 *at = (u8 *)(PAGING_TARGET & ~0xffful) + 0x1000 - 0x68;
    const u8 *from = (const u8 *)&lab_tss;
    for (unsigned k = 0; k < 0x68; k++)
        at[k] = from[k];
    ((struct lab_tss *)at)->iomap = 0x68;
    at[0x68] = at[0x69] = 0;
    for (unsigned run = 0; run < 2; run++) {
        map_two(PTE_P | PTE_W, implicit_cases[i].page);
        tss_load(paging_second - 0x68, 0x200);
        implicit_controls(i);
        struct tried t = paging_run(m_in, 3, run, 0, 0, 0, 0);
        paging_controls_default();
        tss_load((ulong)&lab_tss, sizeof(lab_tss) - 1);
        if (t.skipped)
            continue;
        if (implicit_cases[i].error_read >= 0)
            expect_fault(implicit_cases[i].name, &t, (u32)implicit_cases[i].error_read,
                         paging_second);
        else
            expect_end(implicit_cases[i].name, &t);
    }
}

void paging_implicit(void)
{
    for (unsigned i = 0; i < COUNT(implicit_cases); i++) {
        if (implicit_cases[i].smap && !cpu.smap)
            continue;
        descriptor_table(i, false);
        descriptor_table(i, true);
        if (!paging_brief) // (such monitors lack INT n)
            interrupt_table(i);
        io_bitmap(i);
    }
    *(volatile u16 *)PAGING_TARGET = PAGING_BYTE | 0x0b00;
}

// --- one page at two addresses ---------------------------------------------------------------------------

// Code changed through another mapping is what the next fetch sees (after a serializing instruction, which
// the way into paging_run() has: IRET).
static void code_through_alias(void)
{
    volatile u8 *code = (volatile u8 *)PAGING_TARGET;
    map_two(PTE_RIGHTS, PTE_RIGHTS);
    for (unsigned round = 0; round < 20; round++) {
        code[0] = 0xb8; // MOV EAX, imm32; UD2
        code[1] = (u8)(round * 7);
        code[2] = code[3] = code[4] = 0;
        code[5] = 0x0f;
        code[6] = 0x0b;
        struct tried t = paging_run(code_fetch, round & 1 ? 3 : 0, false, paging_lin, 0, 0, 0);
        if (!t.skipped)
            lab_check(t.vector == VEC_UD && t.ax == round * 7,
                      "code through another mapping: %lx, want %x", t.ax, round * 7);
    }
    *(volatile u16 *)PAGING_TARGET = PAGING_BYTE | 0x0b00;
}

// The page is its own page table: a walk that sets accessed and dirty in it, and a store that changes the
// very entry which translates it.
static void table_of_itself(void)
{
    unsigned last = paging_levels() - 1;
    ulong entry = (ulong)paging_entry_at(last);
    u64 page = entry & ~0xffful;
    ulong at = (paging_lin & ~0xffful) + (entry & 0xfff);
    map_two(PTE_RIGHTS, PTE_RIGHTS);
    paging_entry_set(last, page | PTE_RIGHTS);
    lab_invlpg(paging_lin);
    struct tried t = paging_run(m_mov_from, 0, false, at, 0, 0, 0);
    if (!t.skipped)
        lab_equal("own table: read sees the accessed bit", t.ax, (u32)page | PTE_RIGHTS | PTE_A);
    t = paging_run(m_mov_to, 0, false, at, 0, (ulong)(page | PTE_RIGHTS | PTE_A), 0);
    if (!t.skipped) {
        // The walk's D is under the store's value, which lacks it.
        lab_equal("own table: the store comes after the walk", paging_entry(last),
                  page | PTE_RIGHTS | PTE_A);
    }
    t = paging_run(m_mov_to, 0, false, at, 0, 0, 0);
    lab_invlpg(paging_lin);
    t = paging_run(m_mov_from, 0, false, at, 0, 0, 0);
    expect_fault("own table: gone", &t, 0, at);
}

void paging_aliases(void)
{
    paging_controls_default();
    code_through_alias();
    table_of_itself();
}
