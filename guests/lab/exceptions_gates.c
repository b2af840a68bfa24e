// SPDX-License-Identifier: Apache-2.0
// Delivery: what each kind of gate does to the flags (SDM vol. 3, 6.12.1), the IST and the alignment of the stack,
// and the faults of delivery with their error codes (vol. 2, INT n; vol. 3, 6.13: EXT, IDT, TI).
#include "deliver.h"
#include "exceptions.h"

#define VEC_TRY 0x90u // software interrupt whose gate is broken

// --- flags -------------------------------------------------------------------------------------------------

ulong gates_flags, gates_next;
extern char gates_entry[];
// Notes the flags and goes on to the lab's stub.
#ifdef __x86_64__
__asm__(".text\ngates_entry: pushfq; popq gates_flags; jmp *gates_next\n");
#else
__asm__(".text\ngates_entry: pushfl; popl %ss:gates_flags; jmp *%cs:gates_next\n");
#endif

static void flags_by_gate(void)
{
    static const u32 sets[] = {
        0,       FLAG_TF,
        FLAG_NT, FLAG_IF,
        FLAG_AC, FLAG_DF,
        FLAG_ID, FLAG_IF | FLAG_NT | FLAG_AC | FLAG_TF | FLAG_DF | FLAG_OF | FLAG_IOPL};
    struct lab_state s;
    const u32 vector = VEC_TRY;
    for (unsigned mode = 0; mode < PROBE_MODES; mode++) {
        for (unsigned access = 0xee; access < 0xf0; access++) {
            for (unsigned i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
                for (unsigned ring = 0; ring < 4; ring += 3) {
                    const u8 code[2] = {0xcd, (u8)vector};
                    // In ring 0 on a 16-bit stack the entry's own accesses do not reach.
                    if (ring == 0 && mode == PROBE_16 && !PROBE_LONG)
                        continue;
                    lab_gate_set(&lab_idt[vector], (ulong)gates_entry, SEL_CODE0, (u8)access, 0);
                    gates_next = (ulong)lab_stubs + vector * 16;
                    probe_begin(&s, (enum probe_mode)mode, ring);
                    s.flags |= sets[i];
                    probe_code(code, 2);
                    // IRET that sets TF traps after the next instruction, which INT n is: no trap.
                    if (!probe_expect("int n", &s, probe_run(&s), vector | PROBE_TRAP, 0))
                        continue;
                    ulong want = s.flags & ~(ulong)(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM);
                    if (!(access & 1))
                        want &= ~(ulong)FLAG_IF;
                    lab_check(gates_flags == want,
                              "%s gate %x flags %lx ring %u: in the handler %lx, want %lx",
                              probe_mode_name((enum probe_mode)mode), access, s.flags, ring,
                              gates_flags, want);
                }
            }
        }
    }
    lab_gate_default(vector);
}

#ifdef __x86_64__
static u8 ist_stack[256] __attribute__((aligned(64)));
// Any IST, in both rings, and any alignment of the old or the new RSP.
static void ist(void)
{
    struct lab_state s;
    static const u8 code[] = {0x0f, 0x0b};
    for (unsigned n = 0; n < 8; n++) {
        for (unsigned off = 0; off < 17; off++) {
            for (unsigned ring = 0; ring < 4; ring += 3) {
                u64 top = (u64)(ist_stack + 240) - off, old = lab_tss.rsp[0];
                lab_gate_set(&lab_idt[VEC_UD], (ulong)lab_stubs + VEC_UD * 16, SEL_CODE0, 0x8e,
                             (u8)n);
                if (n)
                    lab_tss.ist[n - 1] = top;
                else
                    lab_tss.rsp[0] -= off;
                u64 rsp0 = lab_tss.rsp[0];
                probe_begin(&s, PROBE_64, ring);
                if (!n)
                    s.sp -= off;
                probe_code(code, 2);
                probe_loose_registers = true;
                const struct lab_trap *t = probe_run(&s);
                lab_tss.rsp[0] = old;
                lab_gate_default(VEC_UD);
                if (!probe_expect("ud2 by IST", &s, t, VEC_UD, 0))
                    continue;
                u64 base = n ? top : ring ? rsp0 : s.sp;
                lab_equal("frame", t->frame, (base & ~(u64)15) - 48);
                lab_equal("sp", t->sp, s.sp);
            }
        }
    }
    probe_loose_registers = false;
    for (unsigned i = 0; i < 7; i++)
        lab_tss.ist[i] = 0;
}
#endif

// --- broken gates ----------------------------------------------------------------------------------------------

#define SEL_BROKEN 0x90u // entry of a test's own in the GDT

// What is wrong with the gate of the first event, and what comes of it for an event with EXT = `ext`.
struct broken {
    const char *name;
    u8 access;
    u16 selector;
    u64 descriptor; // at SEL_BROKEN
    u8 vector;      // of the fault
    u8 about;       // error code: 0 the gate, 1 the selector, 2 nothing
};
#define CODE_BITS (PROBE_LONG ? 0x00af9a000000ffffull : 0x00cf9a000000ffffull)
#define D(access) ((CODE_BITS & ~0xff0000000000ull) | (u64)(access) << 40)

static void broken_gate(const struct broken *b, unsigned mode, unsigned ring, bool hardware)
{
    struct lab_state s;
    u8 code[2] = {0xcd, VEC_TRY};
    u32 vector = VEC_TRY, ext = hardware;
    if (hardware) { // #UD, benign
        code[0] = 0x0f;
        code[1] = 0x0b;
        vector = VEC_UD;
    }
    u64 old = *lab_gdt_entry(SEL_BROKEN);
    *lab_gdt_entry(SEL_BROKEN) = b->descriptor;
    lab_gate_set(&lab_idt[vector], (ulong)lab_stubs + vector * 16, b->selector, b->access, 0);
    probe_begin(&s, (enum probe_mode)mode, ring);
    probe_code(code, 2);
    u32 error = b->about == 0   ? vector * 8 + 2 + ext
                : b->about == 1 ? (b->selector & ~3u) + ext
                                : ext;
    const struct lab_trap *t = probe_run(&s);
    lab_gate_default(vector);
    *lab_gdt_entry(SEL_BROKEN) = old;
    probe_expect(b->name, &s, t, b->vector, error);
}

static void broken_gates(void)
{
    const struct broken broken[] = {
        {"gate not present", 0x6e, SEL_CODE0, 0, VEC_NP, 0},
        {"trap gate not present", 0x6f, SEL_CODE0, 0, VEC_NP, 0},
        {"code selector null", 0xee, 0, 0, VEC_GP, 2},
        {"code selector null with RPL", 0xee, 3, 0, VEC_GP, 2},
        {"code selector beyond the GDT", 0xee, 0x1000, 0, VEC_GP, 1},
        {"code selector beyond, RPL 3", 0xee, 0x1003, 0, VEC_GP, 1},
        {"code selector in the LDT, empty", 0xee, 0x14, 0, VEC_GP, 1},
        {"code selector beyond the LDT", 0xee, 0xff4, 0, VEC_GP, 1},
        {"data segment", 0xee, SEL_DATA0, 0, VEC_GP, 1},
        {"system segment", 0xee, SEL_BROKEN, D(0x89), VEC_GP, 1},
        {"code not present", 0xee, SEL_BROKEN, D(0x1a), VEC_NP, 1},
        {"data segment not present", 0xee, SEL_BROKEN, D(0x12), VEC_GP, 1},
        {"empty descriptor", 0xee, SEL_BROKEN, 0, VEC_GP, 1},
#ifdef __x86_64__
        {"code of compatibility mode", 0xee, SEL_BROKEN, 0x00cf9a000000ffff, VEC_GP, 1},
        {"code with L and D", 0xee, SEL_BROKEN, 0x00ef9a000000ffff, VEC_GP, 1},
#endif
    };
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned ring = 0; ring < 4; ring += 3)
            for (unsigned hardware = 0; hardware < 2; hardware++) {
                for (unsigned i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
                    broken_gate(&broken[i], mode, ring, hardware);
                // Code of a lower privilege than the interrupted: DPL > CPL.
                for (unsigned dpl = 1; dpl < 4; dpl++) {
                    struct broken b = {"DPL above CPL",    0xee,   SEL_BROKEN,
                                       D(0x9a | dpl << 5), VEC_GP, 1};
                    if (ring == 0)
                        broken_gate(&b, mode, ring, hardware);
                }
                // Types that are no gates here (SDM vol. 3, table 3-2): 64-bit: all but Eh and Fh.
                for (unsigned type = 0; type < 32; type++) {
                    struct broken b = {"gate type", (u8)(0xe0 | type), SEL_CODE0, 0, VEC_GP, 0};
                    bool good =
                        type == 0xe || type == 0xf || (!PROBE_LONG && (type >= 5 && type < 8));
                    if (!good)
                        broken_gate(&b, mode, ring, hardware);
                }
                // The gate's DPL, for software alone; it comes before the P bit.
                for (unsigned dpl = 0; dpl < 4; dpl++) {
                    struct broken b = {"gate DPL, not present",
                                       (u8)(0x0e | dpl << 5),
                                       SEL_CODE0,
                                       0,
                                       !hardware && dpl < ring ? VEC_GP : VEC_NP,
                                       0};
                    broken_gate(&b, mode, ring, hardware);
                }
            }
}

// The IDT's limit: a gate of which one byte is beyond is none.
static void idt_limit(void)
{
    struct lab_state s;
    static const u8 soft[2] = {0xcd, VEC_TRY};
    unsigned size = PROBE_LONG ? 16 : 8;
    lab_gate_set(&lab_idt[VEC_TRY], (ulong)lab_stubs + VEC_TRY * 16, SEL_CODE0, 0xee, 0);
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned ring = 0; ring < 4; ring += 3)
            for (unsigned less = 0; less < size + 2; less++) {
                probe_begin(&s, (enum probe_mode)mode, ring);
                probe_code(soft, 2);
                deliver_idt_limit((u16)(VEC_TRY * size + size - 1 - less));
                const struct lab_trap *t = probe_run(&s);
                deliver_idt_limit(0xfff);
                if (less)
                    probe_expect("beyond the IDT", &s, t, VEC_GP, VEC_TRY * 8 + 2);
                else
                    probe_expect("last of the IDT", &s, t, VEC_TRY | PROBE_TRAP, 0);
            }
    lab_gate_default(VEC_TRY);
}

// --- page faults on the tables ---------------------------------------------------------------------------------

static void expect_pf(const char *what, const struct lab_state *s, const struct lab_trap *t,
                      u32 error, ulong from, unsigned size)
{
    if (probe_expect(what, s, t, VEC_PF, error))
        lab_check(t->cr2 >= from && t->cr2 < from + size, "%s: cr2 %lx, want %lx..%lx", what,
                  t->cr2, from, from + size - 1);
}

static void tables_not_present(void)
{
    struct lab_state s;
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned ring = 0; ring < 4; ring += 3)
            for (unsigned hardware = 0; hardware < 2; hardware++) {
                const u8 code[2] = {hardware ? 0x0f : 0xcd, hardware ? 0x0b : VEC_TRY};
                u32 vector = hardware ? VEC_UD : VEC_TRY;
                probe_begin(&s, (enum probe_mode)mode, ring);
                probe_code(code, 2);
                lab_gate_set(&lab_idt[VEC_TRY], (ulong)lab_stubs + VEC_TRY * 16, SEL_CODE0, 0xee,
                             0);
                // The page with the gate, but not the one with #PF's.
                ulong gate = deliver_alias_idt(vector);
                probe_page(gate, 0);
                const struct lab_trap *t = probe_run(&s);
                probe_page(gate, PAGE_P | PAGE_W | PAGE_U);
                deliver_alias_end();
                expect_pf("IDT page", &s, t, 0, gate, PROBE_LONG ? 16 : 8);
                // The code segment's descriptor.
                probe_begin(&s, (enum probe_mode)mode, ring);
                probe_code(code, 2);
                ulong descriptor = deliver_alias_gdt(0x140, *lab_gdt_entry(SEL_CODE0));
                lab_gate_set(&lab_idt[vector], (ulong)lab_stubs + vector * 16, 0x140, 0xee, 0);
                probe_page(descriptor, 0);
                t = probe_run(&s);
                probe_page(descriptor, PAGE_P | PAGE_W | PAGE_U);
                deliver_alias_end();
                lab_gate_default(vector);
                expect_pf("GDT page", &s, t, 0, descriptor, 8);
            }
}

#ifdef __x86_64__
// The stack that a handler wants: from the TSS, not canonical, not there, not writable; handlers of the second fault
// have an IST of their own.
static void stacks(void)
{
    struct lab_state s;
    for (unsigned mode = 0; mode < PROBE_MODES; mode++)
        for (unsigned hardware = 0; hardware < 2; hardware++)
            for (unsigned n = 0; n < 2; n++) { // RSP0, IST1
                const u8 code[2] = {hardware ? 0x0f : 0xcd, hardware ? 0x0b : VEC_TRY};
                u32 vector = hardware ? VEC_UD : VEC_TRY;
                static const u64 bad[] = {0x800000000100, 0x123456789abcdef0, 0xa000, 0xb010,
                                          0xa020};
                for (unsigned i = 0; i < 5; i++) {
                    u64 old = lab_tss.rsp[0];
                    probe_begin(&s, (enum probe_mode)mode, 3);
                    probe_code(code, 2);
                    lab_gate_set(&lab_idt[vector], (ulong)lab_stubs + vector * 16, SEL_CODE0, 0xee,
                                 (u8)n);
                    deliver_safe_stacks(true);
                    lab_tss.ist[0] = bad[i];
                    lab_tss.rsp[0] = n ? old : bad[i];
                    probe_page(0x9000,
                               PAGE_P | PAGE_U | (i == 4 ? PAGE_W : 0)); // 0xa000: frame in 0x9000
                    probe_page(0xa000, i == 3 || i == 4 ? 0 : PAGE_P | PAGE_W | PAGE_U);
                    probe_page(0xb000, PAGE_P | PAGE_W | PAGE_U);
                    const struct lab_trap *t = probe_run(&s);
                    lab_tss.rsp[0] = old;
                    probe_page(0x9000, PAGE_P | PAGE_W | PAGE_U);
                    probe_page(0xa000, PAGE_P | PAGE_W | PAGE_U);
                    deliver_safe_stacks(false);
                    lab_gate_default(vector);
                    if (i < 2)
                        probe_expect("stack not canonical", &s, t, VEC_SS, hardware);
                    else
                        expect_pf("stack page", &s, t, i == 2 ? 3 : 2, bad[i] - 48, 48);
                }
            }
    for (unsigned i = 0; i < 7; i++)
        lab_tss.ist[i] = 0;
}
#endif

void exceptions_gates(void)
{
    lab_section("flags in the handler");
    flags_by_gate();
#ifdef __x86_64__
    lab_section("IST");
    ist();
#endif
    lab_section("broken gates");
    broken_gates();
    lab_section("limit of the IDT");
    idt_limit();
    lab_section("pages of the tables");
    probe_paging_on();
    tables_not_present();
#ifdef __x86_64__
    lab_section("stacks");
    stacks();
#endif
    probe_paging_off();
}
