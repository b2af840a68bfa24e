// SPDX-License-Identifier: Apache-2.0
// Where operands, branches and stacks go: the window and its edges, segments and their limits.
#include "gen.h"

// --- selectors -----------------------------------------------------------------------------------

uint64_t pick_selector(struct gen *g)
{
    static const uint16_t known[] = {0,    3,    0x2b, 0x2b, 0x2b, 0x33, 0x23, 0x28,
                                     0x30, 0x10, 0x13, 0x18, 0x08, 0x40, 0x63};
    unsigned roll = (unsigned)below(g, 100);
    if (g->ldt && roll < 50) // now and then one behind the last
        return below(g, oracle_ldt_entries() + 1) << 3 | 4 | (roll < 42 ? 3 : below(g, 4));
    if (roll < 85)
        return known[below(g, ARRAY_SIZE(known))];
    uint16_t sel = (uint16_t)rng_next(&g->rng);
    return (sel >> 3) == 15 ? 4 : sel; // index 15 tells the processor's number
}

uint16_t pick_code_selector(struct gen *g)
{
    if (g->code64)
        return ORACLE_CS64;
    if (g->code_size == X86_CODE16)
        return (uint16_t)(below(g, 6) << 3 | 7);
    if (!g->ldt || chance(g, 55))
        return ORACLE_CS32;
    return (uint16_t)((6 + below(g, 4)) << 3 | 7);
}

// --- branches ------------------------------------------------------------------------------------

static uint64_t any_code(struct gen *g, uint16_t cs)
{
    unsigned start = g->c->code_offset;
    bool long_mode = cs == ORACLE_CS64;
    struct x86_seg seg = oracle_segment(cs);
    uint64_t base = long_mode ? 0 : seg.base, mask = long_mode ? ~UINT64_C(0) : 0xffffffff;
    if (chance(g, 88)) {
        for (;;) {
            unsigned off = (unsigned)below(g, PAGE_SIZE);
            if (off + 1 < start || off > start + 32)
                return (ORACLE_CODE_BASE + off - base) & mask;
        }
    }
    switch (below(g, long_mode ? 5 : 4)) {
    case 0:
        return (ORACLE_CODE_BASE + PAGE_SIZE + below(g, PAGE_SIZE) - base) & mask; // unmapped
    case 1:
        return (ORACLE_WINDOW_BASE + below(g, PAGE_SIZE) - base) & mask; // no code
    case 2:
        if (long_mode)
            return UINT64_C(0x8000000000000000) | rng_next(&g->rng) >> 2; // non-canonical
        return (seg.limit + 1 + below(g, 16)) & mask;                     // behind the segment
    case 3:
        return long_mode ? UINT64_C(0x0000800000000000) : below(g, 0x10000) | 0xffff0000;
    default:
        return UINT64_C(0xffff800000000000); // canonical again, and the kernel's
    }
}

// HLTs of the code page away from the instruction (also when cut to 16 bits), or a place that faults.
uint64_t pick_code(struct gen *g, uint16_t cs)
{
    uint64_t base = cs == ORACLE_CS64 ? 0 : oracle_segment(cs).base;
    for (;;) {
        uint64_t offset = any_code(g, cs);
        uint64_t start = ORACLE_CODE_BASE + g->c->code_offset - 2;
        uint32_t in_page = (uint32_t)(base + offset - ORACLE_CODE_BASE);
        if (g->behind && in_page < PAGE_SIZE && !place_is_free(g->behind, in_page, 1))
            continue;
        if ((uint32_t)(base + (offset & 0xffff) - start) >= 36)
            return offset;
    }
}

// --- data ----------------------------------------------------------------------------------------

uint64_t pick_data(struct gen *g, unsigned size)
{
    const uint64_t base = ORACLE_WINDOW_BASE;
    unsigned align = size ? size : 1;
    while (align & (align - 1))
        align &= align - 1;
    if (size > 256)
        align = size == 512 ? 16 : 64; // FXSAVE, XSAVE
    uint64_t cross = size > 1 ? 1 + below(g, size - 1) : 0;
    unsigned roll = (unsigned)below(g, 100);
    if (roll < 58)
        return (base + 0x200 + below(g, 0x1a00)) & ~(uint64_t)(align - 1);
    if (roll < 78)
        return base + 0x200 + below(g, 0x1a00);
    if (roll < 83) // across two mapped pages
        return base + PAGE_SIZE - cross;
    if (roll < 87) // into the hole
        return base + 2 * PAGE_SIZE - cross;
    if (roll < 89)
        return base + 2 * PAGE_SIZE + below(g, PAGE_SIZE - 64);
    if (roll < 90) // out of the hole
        return base + 3 * PAGE_SIZE - cross;
    if (roll < 92)
        return ORACLE_RO_BASE + (below(g, PAGE_SIZE - 64) & ~(uint64_t)(align - 1));
    if (roll < 94) // into what is read-only, and out of it
        return ORACLE_RO_BASE + (roll < 93 ? 0 : PAGE_SIZE) - cross;
    if (roll < 95)
        return base - cross;
    if (!g->code64)
        return roll < 97 ? 0xfffff000 + below(g, 0x1000) : below(g, 0x1000);
    if (roll < 97)
        return UINT64_C(0x0001000000000000) << below(g, 14) | below(g, 0x1000); // non-canonical
    if (roll < 98)
        return UINT64_C(0x0000800000000000) - cross; // last bytes below the canonical hole
    if (roll < 99)
        return UINT64_C(0xffff800000000000) - cross;     // first above it
    return chance(g, 50) ? below(g, 0x1000) : 0 - cross; // null page, top of the space
}

bool address_is_safe(uint64_t linear)
{
    return !(linear >= 0x7fff0000 && linear < UINT64_C(0x7fffffffe000)) &&
           !(linear >= UINT64_C(0xffffffffff600000) && linear < UINT64_C(0xffffffffff601000));
}

// --- segments ------------------------------------------------------------------------------------

static uint16_t selector_of(const struct gen *g, unsigned seg)
{
    const struct oracle_state *in = &g->c->in;
    const uint16_t sel[X86_SEG_COUNT] = {in->es, in->cs, in->ss, in->ds, in->fs, in->gs};
    return sel[seg];
}

uint64_t seg_base(const struct gen *g, int seg)
{
    if (seg < 0)
        return 0;
    if (g->code64)
        return seg == X86_FS ? g->c->in.fs_base : seg == X86_GS ? g->c->in.gs_base : 0;
    return oracle_segment(selector_of(g, (unsigned)seg)).base;
}

static bool is_expand_down(const struct x86_seg *seg)
{
    return (seg->attr & 0xc) == 4;
}

static bool within_limit(const struct x86_seg *seg, uint64_t offset, unsigned size)
{
    uint64_t last = offset + (size ? size : 1) - 1;
    if (seg->attr & X86_ATTR_UNUSABLE)
        return false;
    if (is_expand_down(seg))
        return offset > seg->limit && last <= (seg->attr & X86_ATTR_DB ? 0xffffffff : 0xffff);
    return last <= seg->limit;
}

// An offset where something ends: the segment, 64 KiB, 4 GiB.
static uint64_t edge_offset(struct gen *g, const struct x86_seg *seg, unsigned size)
{
    uint64_t around = below(g, 2 * size + 3) - size - 1;
    switch (below(g, 5)) {
    case 0:
        return 0x10000 - below(g, size + 1);
    case 1:
        return 0 - below(g, size + 1);
    case 2:
        return is_expand_down(seg) && !(seg->attr & X86_ATTR_DB) ? 0xffff - size + around : around;
    default:
        return (uint64_t)seg->limit + 1 - (is_expand_down(seg) ? 0 : size) + around;
    }
}

uint64_t aim_offset(struct gen *g, int seg, uint64_t linear, unsigned size, uint64_t mask)
{
    if (g->code64)
        return linear - seg_base(g, seg);
    struct x86_seg s = oracle_segment(selector_of(g, (unsigned)seg));
    // (Images that run past 64 KiB: AMD's processors let the address of their last byte wrap.)
    if (g->edge && !(size > 16 && mask == 0xffff))
        return edge_offset(g, &s, size) & mask & 0xffffffff;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t offset = (uint32_t)(linear - s.base);
        if (offset + (size > 16 ? size : 1) - 1 <= mask &&
            (within_limit(&s, offset, size) || chance(g, 15)))
            return offset;
        linear = pick_data(g, size);
    }
    return below(g, 0x4000);
}

void aim_reg(struct gen *g, unsigned reg, int seg, uint64_t linear, unsigned size)
{
    unsigned adsize = address_size(g);
    uint64_t mask = adsize == 2 ? 0xffff : adsize == 4 ? 0xffffffff : ~UINT64_C(0);
    // In 64-bit mode 32 bits may lead elsewhere below 4 GiB, which is unmapped or the window.
    uint64_t offset = aim_offset(g, seg, linear, size, mask) & mask;
    if (chance(g, 50))
        offset |= rng_next(&g->rng) & ~mask;
    set_reg(g, reg, offset);
}

void aim_stack(struct gen *g, unsigned reg, uint64_t linear)
{
    uint64_t mask = ~UINT64_C(0);
    if (!g->code64)
        mask = oracle_segment(g->c->in.ss).attr & X86_ATTR_DB ? 0xffffffff : 0xffff;
    uint64_t offset = aim_offset(g, X86_SS, linear, operand_size(g), mask) & mask;
    if (!g->code64 && chance(g, 50))
        offset |= rng_next(&g->rng) & ~mask;
    set_reg(g, reg, offset);
}

uint64_t stack_linear(const struct gen *g)
{
    uint64_t sp = g->c->in.gpr[X86_RSP];
    if (g->code64)
        return sp;
    struct x86_seg ss = oracle_segment(g->c->in.ss);
    return (uint32_t)(ss.base + (ss.attr & X86_ATTR_DB ? sp : sp & 0xffff));
}
