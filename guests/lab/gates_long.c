// SPDX-License-Identifier: Apache-2.0
// What 64-bit mode adds to gates: the interrupt stack table and the stack's alignment, 16-byte call gates, system
// descriptors with a high base (SDM vol. 3, 5.8.3.1, 6.14, 8.2.3; vol. 2, LLDT and LTR).
#include "gates.h"

#if IS_LONG
static void long_target(u32 level)
{
    *lab_gdt_entry(SEL_CS) = kind_descriptor(0, 0xfffff, 0x1b, level, true, 0xa);
}

static void tss_limit(u32 limit)
{
    *lab_gdt_entry(SEL_TSS) = lab_descriptor((u32)(ulong)&lab_tss, limit, 0x89, 0);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

// A stack of the table is taken whatever the rings; SS becomes null only when the ring changes.
static void stack_table(void)
{
    for (u32 ist = 0; ist < 8; ist++)
        for (u32 cpl = 0; cpl < 4; cpl++)
            for (u32 level = 0; level <= cpl; level++)
                for (u32 low = 0; low < 16; low += 5) {
                    ulong top = (ulong)ring_stack[3] + 0x800 + low;
                    gate_make(BY_INT, 14, 3, true, SEL_CS, ist);
                    long_target(level);
                    if (ist)
                        lab_tss.ist[ist - 1] = top;
                    gate_prepare(BY_INT, cpl, 0);
                    ring_state.sp -= low;
                    ulong from = ist ? top : level < cpl ? lab_tss.rsp[level] : ring_state.sp;
                    ulong sp = (from & ~15ul) - 40;
                    u32 got = ring_run();
                    const ulong *frame = (const ulong *)sp;
                    u16 ss = level < cpl ? (u16)level : ring_data[cpl];
                    lab_check(got == OUTCOME_SKIPPED ||
                                  (got == 0 && ring_trap->sp == sp && ring_trap->ss == ss &&
                                   frame[3] == ring_state.sp && frame[4] == ring_state.ss &&
                                   frame[1] == ring_state.cs),
                              "ist %u, %u to %u: outcome %x, stack %lx:%lx, want %x:%lx", ist, cpl,
                              level, got, ring_trap->ss, ring_trap->sp, ss, sp);
                }
    for (u32 ist = 1; ist < 8; ist++) {
        u32 last = 0x24 + ist * 8 - 1, levels = 2;
        for (u32 limit = last - 8; limit < last + 3; limit++)
            for (u32 level = 0; level < levels; level++) {
                lab_tss.ist[ist - 1] = (ulong)ring_stack[3] + 0x800;
                gate_make(BY_INT, 14, 3, true, SEL_CS, ist);
                long_target(level);
                tss_limit(limit);
                gate_prepare(BY_INT, 3, 0);
                u32 got = ring_run(), want = limit >= last ? 0 : FAULT(VEC_TS, SEL_TSS);
                lab_check(got == want || got == OUTCOME_SKIPPED,
                          "ist %u, TSS limit %x: outcome %x, want %x", ist, limit, got, want);
            }
        tss_limit(sizeof(lab_tss) - 1);
        lab_tss.ist[ist - 1] = 0x0000900000000000;
        gate_make(BY_INT, 14, 3, true, SEL_CS, ist);
        for (u32 cpl = 0; cpl < 4; cpl++) {
            long_target(0);
            gate_prepare(BY_INT, cpl, 0);
            u32 got = ring_run();
            lab_check(got == OUTCOME_SKIPPED || got == FAULT(VEC_SS, 0),
                      "ist %u not canonical: outcome %x", ist, got);
        }
        lab_tss.ist[ist - 1] = 0;
    }
    gates_restore();
}

// The upper half of a call gate: its type has to be 0; all 16 bytes are within the table.
static void long_call_gates(void)
{
    for (enum entry entry = BY_JMP; entry <= BY_CALL; entry++)
        for (u32 cpl = 0; cpl < 4; cpl++) {
            long_target(cpl);
            for (u32 bit = 0; bit < 32; bit++) {
                gate_make(entry, 12, 3, true, SEL_CS, 0);
                lab_gdt_entry(SEL_GATE)[1] = 1ull << (32 + bit);
                gate_prepare(entry, cpl, 0);
                u32 got = ring_run(), want = bit >= 8 && bit < 13 ? FAULT(VEC_GP, SEL_GATE) : 0;
                lab_check(got == want || got == OUTCOME_SKIPPED,
                          "%s: bit %u of a gate's last word: outcome %x, want %x",
                          entry_names[entry], bit, got, want);
            }
            for (u32 bit = 15; bit < 32; bit++) { // of the offset's upper half
                gate_make(entry, 12, 3, true, SEL_CS, 0);
                lab_gdt_entry(SEL_GATE)[1] = 1ull << bit;
                gate_prepare(entry, cpl, 0);
                u32 got = ring_run(), want = FAULT(VEC_GP, 0);
                lab_check((got == want && ring_trap->ip == ring_state.ip) || got == OUTCOME_SKIPPED,
                          "%s: offset with bit %u: outcome %x, want %x", entry_names[entry],
                          bit + 32, got, want);
            }
            struct {
                u16 limit;
                ulong base;
            } __attribute__((packed)) gdtr = {0x1ff, (ulong)lab_gdt};
            u64 *last = lab_gdt_entry(SEL_LAST); // a gate whose second half lies beyond
            gate_make(entry, 12, 3, true, SEL_CS, 0);
            *last = *lab_gdt_entry(SEL_GATE);
            for (u32 half = 0; half < 2; half++) {
                gate_prepare(entry, cpl, 0);
                ((u16 *)ring_state.gpr[3])[2] = (u16)(half ? SEL_LAST : SEL_GATE);
                __asm__ volatile("lgdt %0" : : "m"(gdtr));
                u32 got = ring_run(), want = half ? FAULT(VEC_GP, SEL_LAST) : 0;
                lab_check(got == want || got == OUTCOME_SKIPPED,
                          "%s: half a gate %u: outcome %x, want %x", entry_names[entry], half, got,
                          want);
            }
            *last = 0;
        }
}

SNIPPET(long_lldt, "lldt %ax");
SNIPPET(long_ltr, "ltr %ax");
SNIPPET(long_load_es, "mov %ax, %es\n mov %es, %ecx\n mov %dx, %es");

// An LDT and a TSS above 4 GiB: the same memory, mapped again 512 GiB up.
static void high_bases(void)
{
    const u64 up = 1ull << 39;
    u64 *entry = lab_gdt_entry(SEL_TEST + 0x40);

    lab_pml4[1] = lab_pml4[0];
    lab_ldt[3] = lab_descriptor(0, 0xfffff, 0xf3, 0xc);
    for (u32 high = 0; high < 2; high++) {
        u64 base = (ulong)lab_ldt + (high ? up : 0);
        entry[0] = lab_descriptor((u32)base, 0x1f, 0x82, 0);
        entry[1] = base >> 32;
        __asm__ volatile("lldt %w0" : : "r"(SEL_TEST + 0x40));
        ring_prepare(3, long_load_es);
        ring_state.gpr[0] = 0x1f;
        ring_state.gpr[2] = SEL_DATA3;
        u32 got = ring_run();
        __asm__ volatile("lldt %w0" : : "r"(SEL_LDT));
        lab_check(got == OUTCOME_SKIPPED || (got == 0 && (u32)ring_trap->gpr[1] == 0x1f),
                  "ldt, high %u: outcome %x", high, got);
        base = (ulong)&lab_tss + (high ? up : 0);
        entry[0] = lab_descriptor((u32)base, sizeof(lab_tss) - 1, 0x89, 0);
        entry[1] = base >> 32;
        __asm__ volatile("ltr %w0" : : "r"(SEL_TEST + 0x40));
        gate_make(BY_INT, 14, 3, true, SEL_CS, 0);
        long_target(1);
        gate_prepare(BY_INT, 3, 0);
        got = ring_run();
        tss_limit(sizeof(lab_tss) - 1);
        lab_check(got == OUTCOME_SKIPPED ||
                      (got == 0 && ring_trap->sp == (lab_tss.rsp[1] & ~15ul) - 40),
                  "tss, high %u: outcome %x", high, got);
    }
    // A base that is no address.
    static const char *const names[2] = {"ldt", "tss"};
    for (u32 n = 0; n < 2; n++)
        for (u32 bit = 8; bit < 13; bit++) {
            entry[0] = lab_descriptor((u32)(ulong)&lab_tss, 0xff, n ? 0x89 : 0x82, 0);
            entry[1] = 1ull << (32 + bit);
            ring_prepare(0, n ? long_ltr : long_lldt);
            ring_state.gpr[0] = SEL_TEST + 0x40;
            u32 got = ring_run(), want = FAULT(VEC_GP, SEL_TEST + 0x40);
            __asm__ volatile("lldt %w0" : : "r"(SEL_LDT));
            if (!got)
                tss_limit(sizeof(lab_tss) - 1);
            lab_check(got == want || got == OUTCOME_SKIPPED,
                      "%s: bit %u of the last word: outcome %x, want %x", names[n], bit, got, want);
        }
    lab_pml4[1] = 0;
    lab_set_cr3(lab_cr3());
    gates_restore();
}

void gates_long(void)
{
    lab_section("interrupt stack table");
    stack_table();
    lab_section("16-byte call gates");
    long_call_gates();
    lab_section("high bases");
    high_bases();
}
#else
void gates_long(void)
{
}
#endif
