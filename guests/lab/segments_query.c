// SPDX-License-Identifier: Apache-2.0
// LAR, LSL, VERR, VERW, ARPL: SDM vol. 2, their pages (LAR: table 3-53, LSL: table 3-56).
#include "segments.h"

SNIPPET(do_lar, "lar %eax, %ecx");
SNIPPET(do_lar16, "lar %ax, %cx");
SNIPPET(do_lsl, "lsl %eax, %ecx");
SNIPPET(do_lsl16, "lsl %ax, %cx");
SNIPPET(do_verr, "verr %ax");
SNIPPET(do_verw, "verw %ax");
#if !IS_LONG
SNIPPET(do_arpl, "arpl %cx, %ax");
SNIPPET(do_arpl_memory, "arpl %cx, (%ebx)");
#endif
enum {
    LAR,
    LAR16,
    LSL,
    LSL16,
    VERR,
    VERW,
    QUERIES
};
static const char *const names[QUERIES] = {"lar", "lar16", "lsl", "lsl16", "verr", "verw"};
static const char *const snippets[QUERIES] = {do_lar, do_lar16, do_lsl, do_lsl16, do_verr, do_verw};

#define FLAGS_ARITH (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

// May it be looked at? (The descriptor is within its table.)
static bool query_model(u32 query, u32 cpl, u32 rpl, u32 kind, u32 dpl)
{
    static const u16 lar_types = IS_LONG ? 0x1a04 : 0x1a3e, lsl_types = IS_LONG ? 0x0a04 : 0x0a0e;

    if (!kind_is_segment(kind)) {
        u32 types = query <= LAR16 ? lar_types : query <= LSL16 ? lsl_types : 0;
        if (!(types >> kind & 1))
            return false;
    }
    if (query == VERW && !kind_is_writable(kind))
        return false;
    if (query == VERR && !kind_is_readable(kind))
        return false;
    return kind_is_conforming(kind) || (cpl <= dpl && rpl <= dpl);
}

// Bits 19:16 of LAR's value are undefined.
#define LAR_DEFINED 0xfff0ffffu

static u32 query_value(u32 query, u64 descriptor, u32 old)
{
    u32 high = (u32)(descriptor >> 32);
    u32 limit = (u32)(descriptor & 0xffff) | (high & 0xf0000);
    if (high & 1u << 23)
        limit = limit << 12 | 0xfff;
    switch (query) {
    case LAR:
        return high & 0x00f0ff00;
    case LAR16:
        return (old & 0xffff0000) | (high & 0xff00);
    case LSL:
        return limit;
    case LSL16:
        return (old & 0xffff0000) | (limit & 0xffff);
    default:
        return old;
    }
}

static void query_one(u32 query, u32 cpl, u32 selector, u64 descriptor, bool want, u32 flags)
{
    const u32 old = 0xaaaaaaaa;

    ring_prepare(cpl, snippets[query]);
    ring_state.gpr[0] = 0xdead0000 | selector;
    ring_state.gpr[1] = old;
    ring_state.flags = flags | 2;
    u32 got = ring_run();
    u32 value = want ? query_value(query, descriptor, old) : old;
    u32 mask = query == LAR && want ? LAR_DEFINED : 0xffffffff;
    u32 flags_want = (flags & ~FLAG_ZF) | (want ? FLAG_ZF : 0);
    bool ok = got == 0 && ((u32)ring_trap->gpr[1] & mask) == (value & mask) &&
              (ring_trap->flags & FLAGS_ARITH) == flags_want;
    if (!table_cell(ok))
        lab_check(ok,
                  "%s: descriptor %016llx, cpl %u selector %x: outcome %x, value %x flags %lx, "
                  "want %x %x",
                  names[query], descriptor, cpl, selector, got, (u32)ring_trap->gpr[1],
                  ring_trap->flags & FLAGS_ARITH, value, flags_want);
}

static void query_table(u32 query)
{
    static const struct {
        u32 limit, flags;
    } shapes[] = {{0xfffff, 0xc}, {0x12345, 0x5}, {0, 0x8}, {0x9abcd, 0}};
    u64 *entry = lab_gdt_entry(SEL_TEST);

    table_begin();
    entry[1] = 0;
    for (u32 kind = 0; kind < 32; kind++)
        for (u32 levels = 0; levels < 128; levels++) {
            if (!ring_wanted())
                continue;
            u32 cpl = levels & 3, rpl = levels >> 2 & 3, dpl = levels >> 4 & 3,
                n = (kind + levels) & 3;
            *entry = kind_descriptor(0xfedcba98, shapes[n].limit, kind, dpl, levels >> 6,
                                     shapes[n].flags);
            u64 before = *entry;
            query_one(query, cpl, SEL_TEST | rpl, *entry, query_model(query, cpl, rpl, kind, dpl),
                      levels & 32 ? FLAGS_ARITH : 0);
            if (!table_cell(*entry == before))
                lab_check(false, "%s: writes the descriptor", names[query]);
        }
    u64 readable = lab_descriptor(0, 0xfffff, 0xf2, 0xc);
    lab_ldt[0] = lab_ldt[4] = readable;
    *entry = readable;
    for (u32 levels = 0; levels < 16; levels++) {
        u32 cpl = levels & 3, rpl = levels >> 2, flags = levels & 2 ? FLAG_CF | FLAG_ZF : FLAG_SF;
        query_one(query, cpl, rpl, 0, false, flags);          // null
        query_one(query, cpl, 0x200 | rpl, 0, false, flags);  // beyond the GDT
        query_one(query, cpl, 0xfff8 | rpl, 0, false, flags); // far beyond
        query_one(query, cpl, 0x104 | rpl, 0, false, flags);  // beyond the LDT
        query_one(query, cpl, 4 | rpl, readable, true, flags);
        query_one(query, cpl, 0x24 | rpl, readable, true, flags);
        __asm__ volatile("lldt %w0" : : "r"(0));
        query_one(query, cpl, 4 | rpl, 0, false, flags); // no LDT
        __asm__ volatile("lldt %w0" : : "r"(SEL_LDT));
    }
    table_end(names[query]);
}

#if !IS_LONG
static void arpl_table(void)
{
    static u32 cell;

    table_begin();
    for (u32 levels = 0; levels < 128; levels++) {
        u32 to = levels & 3, from = levels >> 2 & 3, cpl = levels >> 4 & 3, memory = levels >> 6;
        ring_prepare(cpl, memory ? do_arpl_memory : do_arpl);
        ring_state.gpr[0] = cell = 0x5555fff0 | to;
        ring_state.gpr[1] = 0x9999ccc8 | from;
        ring_state.gpr[3] = (ulong)&cell;
        u32 flags = (levels ^ levels >> 4) & 1 ? FLAGS_ARITH : 0;
        ring_state.flags = flags | 2;
        u32 got = ring_run(), value = memory ? cell : (u32)ring_trap->gpr[0];
        u32 flags_want = (flags & ~FLAG_ZF) | (to < from ? FLAG_ZF : 0);
        bool ok = got == 0 && value == (0x5555fff0 | (to < from ? from : to)) &&
                  (ring_trap->flags & FLAGS_ARITH) == flags_want;
        if (!table_cell(ok))
            lab_check(ok, "arpl%s: rpl %u and %u, cpl %u: outcome %x, %x flags %lx",
                      memory ? " memory" : "", to, from, cpl, got, value, ring_trap->flags);
    }
    table_end("arpl");
}
#endif

void segments_query(void)
{
    for (u32 query = 0; query < QUERIES; query++) {
        lab_section(names[query]);
        query_table(query);
    }
#if !IS_LONG
    lab_section("arpl");
    arpl_table();
#endif
}
