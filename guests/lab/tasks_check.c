// SPDX-License-Identifier: Apache-2.0
// The checks of a task switch (SDM vol. 3, table 8-1): which exception, with which error code, in the context of
// which task. Up to the TSS's limit they are the outgoing task's; from the LDT on the incoming one's.
#include "segments.h"
#include "tasks.h"

static bool tss_same(const union tss *a, const union tss *b)
{
    for (u32 i = 0; i < sizeof(*a); i++)
        if (((const u8 *)a)[i] != ((const u8 *)b)[i])
            return false;
    return true;
}

static void told(bool ok, u32 got, u32 want, const char *what, u32 via, u64 descriptor,
                 u32 selector)
{
    if (table_cell(ok))
        return;
    lab_check(ok, "%s by %s: descriptor %016llx, selector %x: outcome %x, want %x", what,
              via_names[via], descriptor, selector, got, want);
    lab_print_trap(ring_trap);
    lab_print("\n");
}

// A fault before the switch has changed anything.
static void expect_before(const char *what, enum via via, u64 descriptor, u32 selector, u32 want)
{
    union tss a = tss_a, b = tss_b;
    u64 entry_b = *lab_gdt_entry(SEL_B);
    u32 got = task_run();
    if (got == OUTCOME_SKIPPED)
        return;
    bool ok = got == want && ring_trap->ip == A_CODE && task_tr == SEL_A && task_busy(SEL_A) &&
              !task_ts && *lab_gdt_entry(SEL_B) == entry_b && tss_same(&a, &tss_a) &&
              tss_same(&b, &tss_b) && ring_trap->sp == ring_state.sp;
    told(ok, got, want, what, via, descriptor, selector);
}

// --- before: the gate and the TSS's descriptor ---------------------------------------------------------

static u32 ext_of(enum via via)
{
    return via == BY_BOUND;
}

// What is found wrong with B's descriptor by a switch through `selector`; 0: nothing.
static u32 tss_model(enum via via, u32 selector, u32 kind, bool present, u32 limit)
{
    u32 ext = ext_of(via), bad = via == BY_IRET ? VEC_TS : VEC_GP;

    if (kind != (via == BY_IRET ? 3u : 1u) && kind != (via == BY_IRET ? 11u : 9u))
        return FAULT_SEL(bad, selector) | ext;
    if (!present)
        return FAULT_SEL(VEC_NP, selector) | ext;
    if (limit < (kind & 8 ? 0x67u : 0x2bu))
        return FAULT_SEL(VEC_TS, selector) | ext;
    return 0;
}

static void tss_descriptors(enum via via)
{
    static const u32 limits[] = {0, 0x2a, 0x2b, 0x66, 0x67};

    for (u32 kind = 0; kind < 32; kind++)
        for (u32 n = 0; n < 10; n++)
            for (u32 cpl = 0; cpl < 4; cpl++) {
                u32 limit = limits[n % 5], want = tss_model(via, SEL_B, kind, n >= 5, limit);
                if (!want)
                    continue;
                task_prepare(via, true, kind & 8, cpl, 0);
                // (Call gates are another matter.)
                if (kind == 4 || kind == 12)
                    if (via <= BY_CALL)
                        continue;
                if (kind == 5 && via <= BY_CALL)
                    continue;
                if (kind >= KIND_CODE && via <= BY_CALL)
                    continue;
                u64 d = kind_descriptor((u32)(ulong)&tss_b, limit, kind, 3, n >= 5, 0);
                *lab_gdt_entry(SEL_B) = d;
                expect_before("TSS descriptor", via, d, SEL_B, want);
            }
}

// Null, local, beyond the table.
static void tss_selectors(enum via via)
{
    static const u16 selectors[] = {0, 1, 3, 4, 7, 0x2c, 0x10c, 0x200, 0xfffc, 0xfff8};

    for (u32 n = 0; n < sizeof(selectors) / 2; n++) {
        u32 selector = selectors[n], bad = via == BY_IRET ? VEC_TS : VEC_GP;
        task_prepare(via, true, true, 0, 0);
        lab_ldt[0] = lab_ldt[5] = *lab_gdt_entry(SEL_B);
        if (via >= BY_INT && via <= BY_BOUND)
            lab_idt[task_vector(via)].selector = (u16)selector;
        else if (via == BY_IRET)
            tss_a.wide.link = selector;
        else
            *lab_gdt_entry(SEL_GATE) = (u64)selector << 16 | 0xe5ull << 40;
        expect_before("TSS selector", via, 0, selector, FAULT_SEL(bad, selector) | ext_of(via));
    }
}

// DPL, RPL and P of the gate, or of the TSS that is named directly. (That of a TSS behind a gate does not count.)
static void gate_levels(enum via via)
{
    for (u32 n = 0; n < 128; n++) {
        u32 cpl = n & 3, rpl = n >> 2 & 3, dpl = n >> 4 & 3, present = n >> 6;
        u32 want = 0, selector = (via_gate(via) ? SEL_GATE : SEL_B) | rpl;
        task_prepare(via, true, true, cpl, 0);
        u32 access = 5 | dpl << 5 | present << 7;
        if (via == BY_INT || via == BY_BOUND) {
            u32 idt = task_vector(via) * 8 + 2 + ext_of(via);
            if (rpl)
                continue;
            lab_idt[task_vector(via)].info = (u16)(access << 8);
            lab_idt[task_vector(via)].selector = SEL_B | 3;
            *lab_gdt_entry(SEL_B) &= ~(0x60ull << 40);
            want = via == BY_INT && dpl < cpl ? FAULT(VEC_GP, idt)
                   : !present                 ? FAULT(VEC_NP, idt)
                                              : 0;
        } else {
            if (via_gate(via)) {
                *lab_gdt_entry(SEL_GATE) = (u64)(SEL_B | 3) << 16 | (u64)access << 40;
                *lab_gdt_entry(SEL_B) &= ~(0x60ull << 40);
            } else {
                *lab_gdt_entry(SEL_B) =
                    lab_descriptor((u32)(ulong)&tss_b, 0x67, 9 | dpl << 5 | present << 7, 0);
            }
            u8 bytes[8] = {0, 0, 0, 0, (u8)selector, (u8)(selector >> 8)};
            task_code(POINTER, bytes, 8);
            want = dpl < cpl || dpl < rpl ? FAULT_SEL(VEC_GP, selector)
                   : !present             ? FAULT_SEL(VEC_NP, selector)
                                          : 0;
        }
        if (want) {
            expect_before("levels", via, access, selector, want);
        } else {
            u32 got = task_run();
            if (got != OUTCOME_SKIPPED)
                told(got == FAULT(VEC_UD, 0) && ring_trap->ip == B_CODE, got, 0, "levels", via,
                     access, selector);
        }
    }
}

// --- after: the new task's LDT and segments ------------------------------------------------------------

enum {
    LDT,
    CS,
    SS,
    DS,
    ES,
    FS,
    GS,
    FIELDS
};
static const char *const field_names[FIELDS] = {"ldt", "cs", "ss", "ds", "es", "fs", "gs"};

static void field_set(u32 field, u32 selector)
{
    switch (field) {
    case LDT:
        TSS_SET(&task_b, ldt, selector);
        break;
    case CS:
        TSS_SET(&task_b, cs, selector);
        break;
    case SS:
        TSS_SET(&task_b, ss, selector);
        break;
    case DS:
        TSS_SET(&task_b, ds, selector);
        break;
    case ES:
        TSS_SET(&task_b, es, selector);
        break;
    case FS:
        tss_b.wide.fs = selector;
        break;
    default:
        tss_b.wide.gs = selector;
    }
}

// `inside`: within a global or a present local table. CPL of the new task is the RPL of its CS.
static u32 field_model(u32 field, u32 cpl, u32 selector, bool inside, u32 kind, u32 dpl,
                       bool present)
{
    u32 rpl = selector & 3, ts = FAULT_SEL(VEC_TS, selector);

    if ((selector & ~3u) == 0)
        return field == CS || field == SS ? ts : 0;
    if (!inside)
        return ts;
    switch (field) {
    case LDT:
        return kind != 2 || !present || (selector & 4) ? ts : 0;
    case CS:
        if (!kind_is_code(kind) || (kind_is_conforming(kind) ? dpl > rpl : dpl != rpl))
            return ts;
        return present ? 0 : FAULT_SEL(VEC_NP, selector);
    case SS:
        if (!kind_is_writable(kind) || dpl != cpl || rpl != cpl)
            return ts;
        return present ? 0 : FAULT_SEL(VEC_SS, selector);
    default:
        if (!kind_is_readable(kind) || (!kind_is_conforming(kind) && (dpl < cpl || dpl < rpl)))
            return ts;
        return present ? 0 : FAULT_SEL(VEC_NP, selector);
    }
}

static void expect_after(const char *what, enum via via, u64 descriptor, u32 selector, u32 want)
{
    u32 got = task_run();
    if (got == OUTCOME_SKIPPED)
        return;
    bool ok =
        got == (want ? want | ext_of(via) : FAULT(VEC_UD, 0)) &&
        ring_trap->ip == TSS_GET(&task_b, ip) && ring_trap->cs == (TSS_GET(&task_b, cs) & 0xffff) &&
        task_tr == SEL_B && task_busy(SEL_B) && task_ts && task_busy(SEL_A) == via_nests(via) &&
        (u16)ring_trap->gpr[7] == (task_b.wide ? (u16)tss_b.wide.gpr[7] : tss_b.narrow.gpr[7]);
    told(ok, got, want ? want | ext_of(via) : 0, what, via, descriptor, selector);
}

static void field_cell(u32 field, bool wide_b, u32 cpl, u32 kind, u32 dpl, u32 rpl, bool present)
{
    static const u8 vias[] = {BY_JMP, BY_CALL, BY_INT, BY_BOUND, BY_IRET};
    enum via via = vias[(kind + dpl + rpl * 2 + present) % 5];
    u32 selector = SEL_X | rpl;

    if (field == CS) // of a ring other than 0, so that the fault finds a stack of its own
        cpl = rpl;
    if (cpl == 0)
        return;
    task_prepare(via, kind & 1, wide_b, 0, cpl);
    u64 d =
        kind_descriptor(field == LDT ? (u32)(ulong)lab_ldt : 0, 0xfffff, kind, dpl, present, 0xc);
    *lab_gdt_entry(SEL_X) = d;
    field_set(field, selector);
    u32 want = field_model(field, cpl, selector, true, kind, dpl, present);
    expect_after(field_names[field], via, d, selector, want);
    u64 after = d | (want || field == LDT ? 0 : 1ull << 40);
    if (!table_cell(*lab_gdt_entry(SEL_X) == after))
        lab_check(false, "%s: descriptor %016llx becomes %016llx", field_names[field], d,
                  *lab_gdt_entry(SEL_X));
}

static void field_table(u32 field, bool wide_b)
{
    table_begin();
    for (u32 kind = 0; kind < 32; kind++)
        for (u32 levels = 0; levels < 128; levels++)
            if (ring_wanted())
                field_cell(field, wide_b, (levels % 3) + 1, kind, levels & 3, levels >> 2 & 3,
                           levels >> 4 & 1);
    // Null, beyond the table, in the new task's LDT, which is 8 bytes long, and without one.
    static const u16 selectors[] = {0, 1, 2, 3, 4, 5, 7, 0xc, 0xf, 0x203, 0xfffb, 0xffff};
    for (u32 n = 0; n < sizeof(selectors) / 2 * VIAS * 2; n++) {
        u32 selector = selectors[n / VIAS / 2], local = n / VIAS & 1;
        enum via via = n % VIAS;
        u32 kind = field == CS ? 0x1b : field == LDT ? 2 : 0x13;
        if (via == BY_FAULT || (field == CS && (selector & 3) == 0))
            continue;
        task_prepare(via, true, wide_b, 0, field == CS ? selector & 3 : 3);
        *lab_gdt_entry(SEL_B_LDT) = lab_descriptor((u32)(ulong)lab_ldt, 7, 0x82, 0);
        lab_ldt[0] = lab_ldt[1] =
            kind_descriptor(0, 0xfffff, kind, field == CS ? selector & 3 : 3, true, 0xc);
        TSS_SET(&task_b, ldt, local ? SEL_B_LDT : 0);
        field_set(field, selector);
        u32 want = field_model(field, 3, selector, local && (selector & ~3u) == 4, kind,
                               field == CS ? selector & 3 : 3, true);
        expect_after(field_names[field], via, 0, selector, want);
    }
    table_end(field_names[field]);
}

static void others(void)
{
    for (u32 via = 0; via < VIAS; via++)
        for (u32 wide = 0; wide < 2; wide++) {
            if (via == BY_FAULT)
                continue;
            // EIP beyond the new CS's limit.
            task_prepare(via, true, wide, 0, 3);
            *lab_gdt_entry(SEL_X) = lab_descriptor(0, B_CODE - 1, 0xfa, 4);
            TSS_SET(&task_b, cs, SEL_X | 3);
            expect_after("ip beyond the limit", via, 0, 0, FAULT(VEC_GP, 0));
            // The last byte within: the instruction is fetched, and crosses the limit.
            task_prepare(via, true, wide, 0, 3);
            *lab_gdt_entry(SEL_X) = lab_descriptor(0, B_CODE, 0xfa, 4);
            TSS_SET(&task_b, cs, SEL_X | 3);
            u32 got = task_run();
            lab_check(got == FAULT(VEC_GP, 0) && ring_trap->ip == B_CODE, "fetch by %s: outcome %x",
                      via_names[via], got);
        }
    // A fault in a switch that delivers a #GP makes a double fault, in the new task.
    task_prepare(BY_FAULT, true, true, 0, 3);
    TSS_SET(&task_b, ds, 0x203);
    u32 got = task_run();
    lab_check(got == FAULT(VEC_DF, 0) && task_tr == SEL_B, "#TS within #GP: outcome %x, tr %x", got,
              task_tr);
    task_prepare(BY_FAULT, true, true, 0, 0);
    *lab_gdt_entry(SEL_B) &= ~(0x80ull << 40);
    got = task_run();
    lab_check(got == FAULT(VEC_DF, 0) && task_tr == SEL_A && ring_trap->ip == A_CODE,
              "#NP within #GP: outcome %x, tr %x", got, task_tr);
    // No room for the error code on the new stack.
    for (u32 wide = 0; wide < 2; wide++) {
        task_prepare(BY_FAULT, true, wide, 0, 3);
        *lab_gdt_entry(SEL_X) = lab_descriptor(B_STACK, 0xff, 0xf2, 4);
        TSS_SET(&task_b, ss, SEL_X | 3);
        if (wide)
            tss_b.wide.gpr[4] = 0x110;
        else
            tss_b.narrow.gpr[4] = 0x110;
        got = task_run();
        lab_check(got == FAULT(VEC_DF, 0) && task_tr == SEL_B, "#SS for the error code: outcome %x",
                  got);
    }
}

void tasks_check(void)
{
    lab_section("TSS descriptors");
    table_begin();
    for (u32 via = 0; via < VIAS; via++)
        if (via != BY_FAULT)
            tss_descriptors(via);
    table_end("TSS descriptors");
    lab_section("TSS selectors");
    table_begin();
    for (u32 via = BY_JMP_GATE; via < VIAS; via++)
        if (via != BY_FAULT)
            tss_selectors(via);
    table_end("TSS selectors");
    lab_section("gate levels");
    table_begin();
    for (u32 via = 0; via < BY_IRET; via++)
        if (via != BY_FAULT)
            gate_levels(via);
    table_end("gate levels");
    for (u32 field = 0; field < FIELDS; field++) {
        lab_section(field_names[field]);
        field_table(field, true);
        if (field < FS)
            field_table(field, false);
    }
    lab_section("other faults of the new task");
    others();
}
