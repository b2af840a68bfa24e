// SPDX-License-Identifier: Apache-2.0
// Loads of SS, DS, ES, FS, GS, LDTR and TR: SDM vol. 2, MOV, POP, LDS/LES/LFS/LGS/LSS, LLDT, LTR; vol. 3, 5.6
// and 5.7.
#include "segments.h"

enum {
    ES,
    CS,
    SS,
    DS,
    FS,
    GS,
    SEGS
};
static const char *const names[SEGS] = {"es", "cs", "ss", "ds", "fs", "gs"};

// AX: the selector; DX: one to go back to (the handler's stack must not be the test's).
#ifdef __x86_64__
#define RBX_TEXT "%rbx"
#else
#define RBX_TEXT "%ebx"
#endif
#define LOAD_ANY(r)                                                                \
    SNIPPET(load_mov_##r, "mov %ax, %" #r "\n mov %" #r ", %ecx\n mov %dx, %" #r); \
    SNIPPET(load_mem_##r, "mov (" RBX_TEXT "), %" #r "\n mov %" #r ", %ecx\n mov %dx, %" #r)
#define LOAD_FAR(r) \
    SNIPPET(load_far_##r, "l" #r " 4(" RBX_TEXT "), %edi\n mov %" #r ", %ecx\n mov %dx, %" #r)
#define LOAD_POP(r) SNIPPET(load_pop_##r, "pop %" #r "\n mov %" #r ", %ecx\n mov %dx, %" #r)
LOAD_ANY(es);
LOAD_ANY(ss);
LOAD_ANY(ds);
LOAD_ANY(fs);
LOAD_ANY(gs);
LOAD_FAR(ss);
LOAD_FAR(fs);
LOAD_FAR(gs);
LOAD_POP(fs);
LOAD_POP(gs);
#if !IS_LONG
LOAD_FAR(es);
LOAD_FAR(ds);
LOAD_POP(es);
LOAD_POP(ss);
LOAD_POP(ds);
#else
#define load_far_es NULL
#define load_far_ds NULL
#define load_pop_es NULL
#define load_pop_ss NULL
#define load_pop_ds NULL
#endif
enum {
    BY_MOV,
    BY_MEMORY,
    BY_FAR,
    BY_POP,
    WAYS
};
static const char *const way_names[WAYS] = {"mov", "mov from memory", "far pointer", "pop"};
#define ROW(r)                                                 \
    {                                                          \
        load_mov_##r, load_mem_##r, load_far_##r, load_pop_##r \
    }
static const char *const snippets[SEGS][WAYS] = {
    [ES] = ROW(es), [SS] = ROW(ss), [DS] = ROW(ds), [FS] = ROW(fs), [GS] = ROW(gs)};

static struct {
    u32 selector;
    u32 offset;
    u16 far_selector;
} __attribute__((packed)) memory;

// The manual's rules for a selector that is within its table (or null).
static u32 load_model(u32 reg, u32 cpl, u32 selector, u32 kind, u32 dpl, bool present,
                      bool long_code)
{
    u32 rpl = selector & 3;

    if ((selector & ~3u) == 0) {
        if (reg == SS && !(long_code && cpl < 3 && rpl == cpl))
            return FAULT(VEC_GP, 0);
        return 0;
    }
    if (reg == SS) {
        if (rpl != cpl || !kind_is_writable(kind) || dpl != cpl)
            return FAULT_SEL(VEC_GP, selector);
        return present ? 0 : FAULT_SEL(VEC_SS, selector);
    }
    if (!kind_is_readable(kind))
        return FAULT_SEL(VEC_GP, selector);
    if (!kind_is_conforming(kind) && (rpl > dpl || cpl > dpl))
        return FAULT_SEL(VEC_GP, selector);
    return present ? 0 : FAULT_SEL(VEC_NP, selector);
}

static u32 register_of(const struct lab_trap *t, u32 reg)
{
    return (u32)(reg == ES   ? t->es
                 : reg == SS ? t->ss
                 : reg == DS ? t->ds
                 : reg == FS ? t->fs
                             : t->gs);
}

static u32 load_run(u32 reg, u32 way, u32 cpl, u32 selector, bool compat)
{
    ring_prepare(cpl, snippets[reg][way]);
    if (compat)
        ring_state.cs = ring_code32[cpl];
    ring_state.gpr[0] = selector;
    ring_state.gpr[1] = 0xaaaaaaaa;
    ring_state.gpr[2] = ring_data[cpl];
    ring_state.gpr[3] = (ulong)&memory;
    ring_state.gpr[7] = 0x77777777;
    memory.selector = 0x55550000 | selector;
    memory.offset = 0x12345678;
    memory.far_selector = (u16)selector;
    *(ulong *)ring_state.sp = selector | 0x55550000;
    return ring_run();
}

// After load_run(): does all else fit the outcome?
static bool load_fits(u32 reg, u32 way, u32 cpl, u32 selector, u32 outcome)
{
    const struct lab_trap *t = ring_trap;

    if (outcome == 0)
        return (u32)t->gpr[1] == selector &&
               t->sp == ring_state.sp + (way == BY_POP ? sizeof(ulong) : 0) &&
               (u32)t->gpr[7] == (way == BY_FAR ? 0x12345678 : 0x77777777);
    return t->ip == ring_state.ip && t->sp == ring_state.sp &&
           register_of(t, reg) == ring_data[cpl] && t->gpr[7] == 0x77777777 &&
           (t->flags | FLAG_RF) == (2 | FLAG_RF); // (not all monitors set RF)
}

static void load_cell(u32 reg, u32 way, u32 cpl, u32 rpl, u32 kind, u32 dpl, bool present,
                      bool compat)
{
    u32 selector = SEL_TEST | rpl;
    u64 before = kind_descriptor(0, 0xfffff, kind, dpl, present, 0xc),
        *entry = lab_gdt_entry(SEL_TEST);

    *entry = before;
    u32 got = load_run(reg, way, cpl, selector, compat);
    u32 want = load_model(reg, cpl, selector, kind, dpl, present, IS_LONG && !compat);
    u64 after = want ? before : before | 1ull << 40; // accessed
    bool ok = got == want && *entry == after && load_fits(reg, way, cpl, selector, got);
    if (!table_cell(ok))
        lab_check(ok,
                  "%s %s: type %02x dpl %u p %u, cpl %u rpl %u%s: outcome %x, want %x; access byte "
                  "%02x, want %02x",
                  way_names[way], names[reg], kind, dpl, present, cpl, rpl,
                  compat ? " compatibility" : "", got, want, descriptor_access(*entry),
                  descriptor_access(after));
}

static void load_table(u32 way, bool compat)
{
    table_begin();
    for (u32 reg = 0; reg < SEGS; reg++)
        for (u32 kind = 0; kind < 32 && snippets[reg][way]; kind++)
            for (u32 levels = 0; levels < 128; levels++)
                if (ring_wanted())
                    load_cell(reg, way, levels & 3, levels >> 2 & 3, kind, levels >> 4 & 3,
                              levels >> 6, compat);
    table_end(way_names[way]);
}

static void null_table(bool compat)
{
    table_begin();
    for (u32 reg = 0; reg < SEGS; reg++)
        for (u32 way = 0; way < WAYS; way++)
            for (u32 levels = 0; levels < 16 && snippets[reg][way]; levels++) {
                u32 cpl = levels & 3, selector = levels >> 2;
                u32 got = load_run(reg, way, cpl, selector, compat);
                u32 want = load_model(reg, cpl, selector, 0, 0, false, IS_LONG && !compat);
                bool ok = got == want && load_fits(reg, way, cpl, selector, got);
                if (!table_cell(ok))
                    lab_check(ok, "%s %s: null %u, cpl %u: outcome %x, want %x", way_names[way],
                              names[reg], selector, cpl, got, want);
            }
    table_end("null");
}

// --- where the table ends ------------------------------------------------------------------------

static void gdt_limit(u32 limit)
{
    struct {
        u16 limit;
        ulong base;
    } __attribute__((packed)) gdtr = {(u16)limit, (ulong)lab_gdt};
    __asm__ volatile("lgdt %0" : : "m"(gdtr));
}

static void lldt(u32 selector)
{
    __asm__ volatile("lldt %w0" : : "r"(selector));
}

static void ldt_set(u32 limit)
{
    *lab_gdt_entry(SEL_LDT) = lab_descriptor((u32)(ulong)lab_ldt, limit, 0x82, 0);
    lldt(SEL_LDT);
}

static void boundary_cell(const char *what, u32 reg, u32 cpl, u32 selector, bool inside)
{
    u32 want = inside ? 0 : FAULT_SEL(VEC_GP, selector);
    u32 got = load_run(reg, BY_MOV, cpl, selector, false);
    bool ok = got == want && load_fits(reg, BY_MOV, cpl, selector, got);
    if (!table_cell(ok))
        lab_check(ok, "%s %s: selector %x cpl %u: outcome %x, want %x", what, names[reg], selector,
                  cpl, got, want);
}

static void boundaries(void)
{
    u64 flat = lab_descriptor(0, 0xfffff, 0xf3, 0xc);

    table_begin();
    for (u32 reg = 0; reg < SEGS; reg++) {
        if (reg == CS)
            continue;
        for (u32 cpl = 0; cpl < 4; cpl++) {
            u64 mine = lab_descriptor(0, 0xfffff, 0x93 | cpl << 5, 0xc);
            *lab_gdt_entry(SEL_LAST) = mine;
            for (u32 limit = 0x1f7; limit <= 0x1ff; limit++) {
                gdt_limit(limit);
                boundary_cell("gdt limit", reg, cpl, SEL_LAST | cpl, limit == 0x1ff);
            }
            gdt_limit(0x1ff);
            boundary_cell("beyond the gdt", reg, cpl, 0x200 | cpl, false);
            boundary_cell("beyond the gdt", reg, cpl, 0xfff8 | cpl, false);
            lab_ldt[0] = mine; // selector 4 is no null selector
            lab_ldt[5] = mine;
            for (u32 limit = 0x26; limit <= 0x30; limit++) {
                ldt_set(limit);
                boundary_cell("ldt limit", reg, cpl, 0x2c | cpl, limit >= 0x2f);
            }
            boundary_cell("first of the ldt", reg, cpl, 4 | cpl, true);
            ldt_set(6);
            boundary_cell("short ldt", reg, cpl, 4 | cpl, false);
            ldt_set(0);
            boundary_cell("short ldt", reg, cpl, 4 | cpl, false);
            for (u32 null = 0; null < 4; null++) {
                lldt(null);
                boundary_cell("no ldt", reg, cpl, 4 | cpl, false);
                boundary_cell("no ldt", reg, cpl, 0x2c | cpl, false);
            }
            ldt_set(sizeof(lab_ldt) - 1);
        }
    }
    (void)flat;
    table_end("boundaries");
    *lab_gdt_entry(SEL_LAST) = 0;
}

// --- LDTR and TR ---------------------------------------------------------------------------------

SNIPPET(do_lldt, "lldt %ax\n sldt %ecx");
SNIPPET(do_ltr, "ltr %ax\n str %ecx");

static u32 system_model(bool ltr, u32 cpl, u32 selector, u32 kind, bool present)
{
    if (cpl)
        return FAULT(VEC_GP, 0);
    if ((selector & ~3u) == 0)
        return ltr ? FAULT(VEC_GP, 0) : 0;
    if (selector & 4)
        return FAULT_SEL(VEC_GP, selector);
    if (ltr ? kind != 9 && (IS_LONG || kind != 1) : kind != 2)
        return FAULT_SEL(VEC_GP, selector);
    return present ? 0 : FAULT_SEL(VEC_NP, selector);
}

static void system_restore(void)
{
    lldt(SEL_LDT);
    *lab_gdt_entry(SEL_TSS) &= ~(2ull << 40); // busy
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

static void system_cell(bool ltr, u32 cpl, u32 selector, u32 kind, u32 dpl, bool present)
{
    u64 before = kind_descriptor((u32)(ulong)&lab_tss, 0xff, kind, dpl, present, 0);
    u64 *entry = lab_gdt_entry(SEL_TEST);
    *entry = before;
    entry[1] = 0;
    lab_ldt[SEL_TEST / 8 % 32] = before;
    ring_prepare(cpl, ltr ? do_ltr : do_lldt);
    ring_state.gpr[0] = selector;
    u32 got = ring_run();
    u32 want = system_model(ltr, cpl, selector, kind, present);
    u64 after = before | (!want && ltr ? 2ull << 40 : 0);
    bool ok = got == want && *entry == after && (got || (u32)ring_trap->gpr[1] == selector);
    if (!got)
        system_restore();
    if (!table_cell(ok))
        lab_check(ok,
                  "%s: type %02x dpl %u p %u, cpl %u selector %x: outcome %x, want %x; access byte "
                  "%02x, want %02x",
                  ltr ? "ltr" : "lldt", kind, dpl, present, cpl, selector, got, want,
                  descriptor_access(*entry), descriptor_access(after));
}

static void system_table(bool ltr)
{
    table_begin();
    for (u32 kind = 0; kind < 32; kind++)
        for (u32 levels = 0; levels < 128; levels++)
            if (ring_wanted())
                system_cell(ltr, levels & 3, SEL_TEST | (levels >> 2 & 3), kind, levels >> 4 & 3,
                            levels >> 6);
    for (u32 kind = 0; kind < 32; kind++) {
        system_cell(ltr, 0, 4, kind, 0, true); // in the LDT
        system_cell(ltr, 0, 0x2c, kind, 0, true);
    }
    for (u32 levels = 0; levels < 16; levels++)
        system_cell(ltr, levels & 3, levels >> 2, 2, 0, true); // null
    table_end(ltr ? "ltr" : "lldt");
    // The whole descriptor has to be within the GDT: 16 bytes in long mode.
    u32 size = IS_LONG ? 16 : 8;
    for (u32 limit = SEL_TEST; limit < SEL_TEST + 20; limit++) {
        lab_gdt[SEL_TEST / 8] = lab_descriptor((u32)(ulong)&lab_tss, 0xff, ltr ? 0x89 : 0x82, 0);
        lab_gdt[SEL_TEST / 8 + 1] = 0;
        gdt_limit(limit);
        ring_prepare(0, ltr ? do_ltr : do_lldt);
        ring_state.gpr[0] = SEL_TEST;
        u32 got = ring_run(), want = limit >= SEL_TEST + size - 1 ? 0 : FAULT(VEC_GP, SEL_TEST);
        gdt_limit(0x1ff);
        if (!got)
            system_restore();
        lab_check(got == want, "%s: gdt limit %x: outcome %x, want %x", ltr ? "ltr" : "lldt", limit,
                  got, want);
    }
}

void segments_load(void)
{
    for (u32 way = 0; way < WAYS; way++) {
        lab_section(way_names[way]);
        load_table(way, false);
        if (IS_LONG && way != BY_POP)
            load_table(way, true);
    }
    lab_section("null selectors");
    null_table(false);
    lab_section("table boundaries");
    boundaries();
    lab_section("lldt");
    system_table(false);
    lab_section("ltr");
    system_table(true);
}
