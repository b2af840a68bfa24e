// SPDX-License-Identifier: Apache-2.0
// What a switch that succeeds does: registers of both tasks, busy bits, link, NT, TS, T, LDTR, CR3, nesting,
// error codes, V86 targets (SDM vol. 3, 8.3 to 8.6).
#include "tasks.h"

#define FLAGS_TOLD \
    (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_DF | FLAG_OF | FLAG_IOPL | FLAG_NT)

static void registers_saved(const char *what, enum via via)
{
    u32 ip = A_CODE + (via_faults(via)  ? 0
                       : via == BY_IRET ? 1
                                        : 2),
        mask = task_a.wide ? 0xffffffff : 0xffff;
    u32 flags = (u32)ring_state.flags & ~(via == BY_IRET ? FLAG_NT : 0);

    lab_check(TSS_GET(&task_a, ip) == ip, "%s: saved ip %x, want %x", what, TSS_GET(&task_a, ip),
              ip);
    lab_check((TSS_GET(&task_a, flags) & ~FLAG_RF) == flags, "%s: saved flags %x, want %x", what,
              TSS_GET(&task_a, flags), flags);
    if (task_a.wide)
        lab_check(!(task_a.tss->wide.eflags & FLAG_RF) != via_faults(via), "%s: saved RF: flags %x",
                  what, task_a.tss->wide.eflags);
    for (u32 i = 0; i < 8; i++) {
        u32 got = task_a.wide ? task_a.tss->wide.gpr[i] : task_a.tss->narrow.gpr[i];
        u32 want = (u32)(i == 4 ? ring_state.sp : ring_state.gpr[i]) & mask;
        lab_check(got == want, "%s: saved register %u: %x, want %x", what, i, got, want);
    }
    lab_check((TSS_GET(&task_a, cs) & 0xffff) == ring_state.cs, "%s: saved cs", what);
    lab_check((TSS_GET(&task_a, ss) & 0xffff) == ring_state.ss, "%s: saved ss", what);
    lab_check((TSS_GET(&task_a, ds) & 0xffff) == ring_state.ds, "%s: saved ds", what);
    lab_check((TSS_GET(&task_a, es) & 0xffff) == ring_state.es, "%s: saved es", what);
    if (task_a.wide) {
        lab_check((task_a.tss->wide.fs & 0xffff) == ring_state.fs, "%s: saved fs", what);
        lab_check((task_a.tss->wide.gs & 0xffff) == ring_state.gs, "%s: saved gs", what);
    }
}

// What a switch never writes in the outgoing TSS: all but IP to GS.
static void rest_kept(const char *what, const union tss *before)
{
    const u8 *was = (const u8 *)before, *is = (const u8 *)task_a.tss;
    u32 from = task_a.wide ? 0x20 : 0x0e, to = task_a.wide ? 0x60 : 0x2a;
    for (u32 i = 0; i < sizeof(union tss); i++)
        if ((i < from || i >= to) && was[i] != is[i]) {
            lab_check(false, "%s: the outgoing TSS's byte %x is written", what, i);
            return;
        }
    lab_check(true, " ");
}

// The incoming TSS: only the link may change, and only when nesting.
static void incoming_kept(const char *what, enum via via, const union tss *before)
{
    const u8 *was = (const u8 *)before, *is = (const u8 *)task_b.tss;
    for (u32 i = via_nests(via) ? 2 : 0; i < sizeof(union tss); i++)
        if (was[i] != is[i]) {
            lab_check(false, "%s: the incoming TSS's byte %x is written", what, i);
            return;
        }
    lab_check(true, " ");
}

static void registers_loaded(const char *what, enum via via, u32 flags)
{
    const struct lab_trap *t = ring_trap;
    // A 16-bit TSS leaves the upper halves undefined.
    u32 mask = task_b.wide ? 0xffffffff : 0xffff;
    u32 sp = B_STACK - (via == BY_FAULT ? task_b.wide ? 4 : 2 : 0);

    lab_check(t->ip == B_CODE, "%s: ip %lx", what, t->ip);
    flags |= via_nests(via) ? FLAG_NT : 0;
    lab_check((t->flags & FLAGS_TOLD) == (flags & FLAGS_TOLD), "%s: flags %lx, want %x", what,
              t->flags, flags);
    for (u32 i = 0; i < 8; i++) {
        u32 want = task_b.wide ? task_b.tss->wide.gpr[i] : task_b.tss->narrow.gpr[i];
        if (i == 4)
            lab_check(((u32)t->sp & 0xffff) == sp, "%s: sp %lx, want %x", what, t->sp, sp);
        else
            lab_check(((u32)t->gpr[i] & mask) == want, "%s: register %u: %lx, want %x", what, i,
                      t->gpr[i], want);
    }
    lab_check(t->cs == (TSS_GET(&task_b, cs) & 0xffff), "%s: cs %lx", what, t->cs);
    lab_check(t->ss == (TSS_GET(&task_b, ss) & 0xffff), "%s: ss %lx", what, t->ss);
    lab_check(t->ds == (TSS_GET(&task_b, ds) & 0xffff), "%s: ds %lx", what, t->ds);
    lab_check(t->es == (TSS_GET(&task_b, es) & 0xffff), "%s: es %lx", what, t->es);
    u32 fs = task_b.wide ? task_b.tss->wide.fs & 0xffff : 0,
        gs = task_b.wide ? task_b.tss->wide.gs & 0xffff : 0;
    lab_check(t->fs == fs, "%s: fs %lx, want %x", what, t->fs, fs);
    lab_check(t->gs == gs, "%s: gs %lx, want %x", what, t->gs, gs);
    if (via == BY_FAULT) {
        u32 error = *(const u32 *)(ulong)(t->sp & 0xffff);
        lab_check((error & 0xffff) == 0x1ec && (!task_b.wide || error == 0x1ec),
                  "%s: error code %x", what, error);
    }
}

static void switch_one(enum via via, bool wide_a, bool wide_b, u32 cpl_a, u32 cpl_b, u32 flags)
{
    char what[24];
    u32 n = 0;
    for (const char *c = via_names[via]; *c; c++)
        what[n++] = *c;
    what[n++] = ' ';
    what[n++] = wide_a ? '3' : '2';
    what[n++] = (char)('0' + cpl_a);
    what[n++] = '>';
    what[n++] = wide_b ? '3' : '2';
    what[n++] = (char)('0' + cpl_b);
    what[n] = 0;

    task_prepare(via, wide_a, wide_b, cpl_a, cpl_b);
    TSS_SET(&task_b, flags, flags | 2);
    TSS_SET(&task_b, ldt, SEL_B_LDT);
    *lab_gdt_entry(SEL_B_LDT) = lab_descriptor((u32)(ulong)lab_ldt, 7, 0x82, 0);
    union tss a = tss_a, b = tss_b;
    u32 got = task_run();
    if (got == OUTCOME_SKIPPED)
        return;
    if (!lab_check(got == FAULT(VEC_UD, 0) && ring_trap->ip == B_CODE, "%s: outcome %x", what,
                   got)) {
        lab_print_trap(ring_trap);
        lab_print("\n");
        return;
    }
    registers_saved(what, via);
    rest_kept(what, &a);
    incoming_kept(what, via, &b);
    registers_loaded(what, via, flags);
    lab_check(task_busy(SEL_B), "%s: the new task is not busy", what);
    lab_check(task_busy(SEL_A) == via_nests(via), "%s: the old task's busy bit", what);
    if (via_nests(via))
        lab_check((TSS_GET(&task_b, link) & 0xffff) == SEL_A, "%s: link %x", what,
                  TSS_GET(&task_b, link));
    lab_check(task_tr == SEL_B, "%s: tr %x", what, task_tr);
    lab_check(task_ldtr == SEL_B_LDT, "%s: ldtr %x", what, task_ldtr);
    lab_check(task_ts, "%s: CR0.TS", what);
}

static void switches(void)
{
    // (TF would trap; IF finds no interrupt. NT comes and goes by itself.)
    static const u32 flags[] = {0, FLAG_CF | FLAG_AF | FLAG_SF | FLAG_DF,
                                FLAG_PF | FLAG_ZF | FLAG_OF | FLAG_IOPL, FLAG_NT};
    for (u32 via = 0; via < VIAS; via++)
        for (u32 n = 0; n < 64; n++)
            for (u32 f = 0; f < 4; f++)
                if (ring_wanted())
                    switch_one(via, n & 1, n & 2, n >> 2 & 3, n >> 4, flags[f]);
}

// --- nesting -------------------------------------------------------------------------------------

// A calls B twice; B goes on where its IRET ended.
static void nesting(bool wide_a, bool wide_b)
{
    static const u8 a[] = {0xff, 0x1b, 0xff, 0x1b, 0x0f, 0x0b};       // lcall; lcall; ud2
    static const u8 b[] = {0x40, 0xcf, 0x40, 0x40, 0xcf, 0x0f, 0x0b}; // inc; iret; inc; inc; iret

    task_prepare(BY_CALL, wide_a, wide_b, 0, 0);
    task_code(A_CODE, a, sizeof(a));
    task_code(B_CODE, b, sizeof(b));
    if (!wide_a)
        ring_state.ss = SEL_DATA16;
    u32 eax = wide_b ? tss_b.wide.gpr[0] : tss_b.narrow.gpr[0];
    u32 got = task_run();
    lab_check(got == FAULT(VEC_UD, 0) && ring_trap->ip == A_CODE + 4,
              "nesting %u>%u: outcome %x at %lx", wide_a, wide_b, got, ring_trap->ip);
    u32 after = wide_b ? tss_b.wide.gpr[0] : tss_b.narrow.gpr[0];
    lab_check((u16)(after - eax) == 3, "nesting %u>%u: b ran %x times", wide_a, wide_b,
              after - eax);
    lab_check((u16)ring_trap->gpr[5] == (u16)ring_state.gpr[5] && (u16)ring_trap->sp == A_STACK,
              "nesting %u>%u: a's registers", wide_a, wide_b);
    lab_check(task_tr == SEL_A && task_busy(SEL_A) && !task_busy(SEL_B),
              "nesting %u>%u: tr %x busy", wide_a, wide_b, task_tr);
    lab_check(!(TSS_GET(&task_b, flags) & FLAG_NT), "nesting %u>%u: NT stays in b: %x", wide_a,
              wide_b, TSS_GET(&task_b, flags));
    lab_check(!(ring_trap->flags & FLAG_NT), "nesting %u>%u: NT in a", wide_a, wide_b);
}

// --- T, breakpoints, V86, CR3 --------------------------------------------------------------------

static void debug(void)
{
    for (u32 via = 0; via < VIAS; via++) {
        task_prepare(via, true, true, 0, 0);
        tss_b.wide.trap = 1;
        lab_set_dr6(0xffff0ff0);
        lab_set_dr7(0x400 | 0x100); // LE goes, as do L0 to L3
        u32 got = task_run();
        lab_check(got == FAULT(VEC_DB, 0) && ring_trap->ip == B_CODE &&
                      (ring_trap->dr6 & 0xe00f) == 0x8000,
                  "T, %s: outcome %x at %lx dr6 %lx", via_names[via], got, ring_trap->ip,
                  ring_trap->dr6);
        lab_set_dr6(0xffff0ff0);
        // A local breakpoint on the new task's first byte is off after the switch, a global one is not.
        for (u32 global = 0; global < 2; global++) {
            task_prepare(via, true, true, 0, 0);
            lab_set_dr0(B_CODE);
            lab_set_dr7(0x400 | (global ? 2 : 1));
            got = task_run();
            u32 dr7 = (u32)lab_dr7();
            lab_set_dr7(0x400);
            lab_check(got == FAULT(global ? VEC_DB : VEC_UD, 0), "%s breakpoint, %s: outcome %x",
                      global ? "global" : "local", via_names[via], got);
            lab_check((dr7 & 3) == (global ? 2 : 0), "%s breakpoint, %s: dr7 %x",
                      global ? "global" : "local", via_names[via], dr7);
            lab_set_dr6(0xffff0ff0);
        }
    }
    lab_set_dr0(0);
}

static void v86(void)
{
    for (u32 via = 0; via < VIAS; via++)
        for (u32 iopl = 0; iopl < 4; iopl++) {
            task_prepare(via, true, true, 0, 0);
            struct lab_tss *t = &tss_b.wide;
            t->eflags = 2 | FLAG_VM | iopl << 12;
            t->cs = B_CODE >> 4;
            t->eip = 0;
            t->ss = 0x123;
            t->ds = 0x1111;
            t->es = 0x2222;
            t->fs = 0x3333;
            t->gs = 0xffff;
            t->ldt = 0;
            u32 got = task_run();
            lab_check(got == FAULT(VEC_UD, 0) && (ring_trap->flags & FLAG_VM) &&
                          ring_trap->ip == 0 && ring_trap->cs == B_CODE >> 4 &&
                          ring_trap->ss == 0x123 && ring_trap->ds == 0x1111 &&
                          ring_trap->es == 0x2222 && ring_trap->fs == 0x3333 &&
                          ring_trap->gs == 0xffff && (ring_trap->flags & FLAG_IOPL) == iopl << 12,
                      "v86 by %s: outcome %x at %lx:%lx flags %lx", via_names[via], got,
                      ring_trap->cs, ring_trap->ip, ring_trap->flags);
        }
}

static u32 directories[2][1024] __attribute__((aligned(4096)));

static void cr3(void)
{
    for (u32 i = 0; i < 1024; i++)
        directories[0][i] = directories[1][i] = i << 22 | 0x87;
    for (u32 wide = 0; wide < 2; wide++)
        for (u32 via = 0; via < VIAS; via++) {
            ulong old = lab_cr3();
            task_prepare(via, true, wide, 0, 0);
            if (wide)
                tss_b.wide.cr3 = (u32)(ulong)directories[1];
            lab_set_cr4(lab_cr4() | 0x10); // PSE
            lab_set_cr3((ulong)directories[0]);
            lab_set_cr0(lab_cr0() | 0x80000000);
            u32 got = task_run();
            ulong now = lab_cr3();
            lab_set_cr0(lab_cr0() & 0x7fffffff);
            lab_set_cr3(old);
            lab_set_cr4(lab_cr4() & ~0x10ul);
            lab_check(got == FAULT(VEC_UD, 0) && now == (ulong)directories[wide],
                      "cr3 by %s: outcome %x, cr3 %lx", via_names[via], got, now);
        }
}

void tasks_switch(void)
{
    lab_section("switches");
    switches();
    lab_section("nesting");
    for (u32 n = 0; n < 4; n++)
        nesting(n & 1, n & 2);
    lab_section("debugging");
    debug();
    lab_section("to V86");
    v86();
    if (lab_has(1, 0, 3, 3)) { // PSE
        lab_section("CR3");
        cr3();
    }
}
