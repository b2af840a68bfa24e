// SPDX-License-Identifier: Apache-2.0
// The state a case starts from: general registers, flags, segments, x87 and vector registers.
#include "gen.h"
#include <string.h>

enum filling pick_filling(struct gen *g)
{
    const struct x86_form *f = g->form;
    if (f->attr & X86_INSN_X87) {
        static const uint8_t kinds[] = {FILL_F32, FILL_F64, FILL_F80,
                                        FILL_INT, FILL_BCD, FILL_RANDOM};
        unsigned size = 0;
        for (unsigned i = 0; i < f->operand_count; i++)
            if (f->operand[i].kind == X86_OPND_RM_MEM || f->operand[i].kind == X86_OPND_RM)
                size = f->operand[i].size;
        if (chance(g, 60)) {
            if (size == 4)
                return chance(g, 60) ? FILL_F32 : FILL_INT8;
            if (size == 8)
                return chance(g, 60) ? FILL_F64 : FILL_INT;
            if (size == 10)
                return strstr(f->mnemonic, "fb") ? FILL_BCD : FILL_F80;
        }
        return kinds[below(g, ARRAY_SIZE(kinds))];
    }
    if (f->attr & X86_INSN_FPEXC) {
        if (strstr(f->mnemonic, "cvtph") && chance(g, 80))
            return FILL_F16;
        size_t n = strlen(f->mnemonic);
        if (chance(g, 85))
            return f->mnemonic[n - 1] == 'd' && !strstr(f->mnemonic, "cvtps") &&
                           !strstr(f->mnemonic, "cvtss")
                       ? FILL_F64
                       : FILL_F32;
        return chance(g, 50) ? FILL_F64 : FILL_F32;
    }
    static const uint8_t plain[] = {FILL_RANDOM, FILL_INT,  FILL_INT8,
                                    FILL_INT,    FILL_INT8, FILL_F32};
    return plain[below(g, ARRAY_SIZE(plain))];
}

// Some components start in their initial configuration, as the XSAVE family notices.
void clear_unused(struct gen *g)
{
    struct oracle_fpu *f = &g->c->in.fpu;
    f->in_use = 7;
    if (!chance(g, starts(g, "xsave") || starts(g, "xgetbv") ? 40 : 2))
        return;
    f->in_use = (uint8_t)below(g, 8);
    if (!(f->in_use & 1)) {
        f->fcw = 0x37f;
        f->fsw = f->fop = 0;
        f->ftw = 0;
        f->fip = f->fdp = 0;
        memset(f->st, 0, sizeof(f->st));
    }
    if (!(f->in_use & 2))
        f->mxcsr = 0x1f80;
    for (unsigned i = 0; i < 16; i++) {
        if (!(f->in_use & 2))
            memset(f->ymm[i], 0, 16);
        if (!(f->in_use & 4))
            memset(f->ymm[i] + 16, 0, 16);
    }
}

void make_fpu(struct gen *g)
{
    struct oracle_fpu *f = &g->c->in.fpu;
    struct rng *rng = &g->rng;
    f->fcw = 0x37f;
    if (chance(g, 40))
        f->fcw = (uint16_t)(0x7f | (rng_next(rng) & 0xf00));
    if (chance(g, 10))
        f->fcw &= (uint16_t) ~(rng_next(rng) & 0x3f);
    f->fsw = (uint16_t)(rng_next(rng) & 0x7800);
    if (chance(g, 50))
        f->fsw |= (uint16_t)(rng_next(rng) & 0x4700);
    if (chance(g, 20)) {
        uint16_t pending = (uint16_t)(rng_next(rng) & 0x7f);
        if (chance(g, 75))
            pending &= f->fcw | 0x40; // masked ones only: nothing to report
        f->fsw |= pending;
    }
    if (f->fsw & ~f->fcw & 0x3f)
        f->fsw |= 0x8080; // ES and B
    unsigned top = (f->fsw >> 11) & 7;
    switch (below(g, 4)) {
    case 0:
        f->ftw = (uint8_t)rng_next(rng);
        break;
    case 1:
        f->ftw = (uint8_t)(1u << top | 1u << ((top + 1) & 7) | 1u << ((top + 2) & 7));
        break;
    case 2:
        f->ftw = (uint8_t) ~(1u << ((top + 7) & 7)); // room for one push
        break;
    default:
        f->ftw = 0xff;
        break;
    }
    if (chance(g, 2))
        f->ftw = 0;
    f->fop = (uint16_t)(rng_next(rng) & 0x7ff);
    f->fip = rng_next(rng) >> 20;
    f->fdp = rng_next(rng) >> 20;
    memset(f->st, 0, sizeof(f->st));
    for (unsigned i = 0; i < 8; i++) {
        value_f80(rng, f->st[i]);
        if (chance(g, 10))
            f->st[i][8] = f->st[i][9] = 0xff; // as MMX leaves them
    }
    f->mxcsr = 0x1f80;
    if (chance(g, 50))
        f->mxcsr |= (uint32_t)(rng_next(rng) & 0xe07f);
    if (chance(g, 10))
        f->mxcsr &= ~(uint32_t)(rng_next(rng) & 0x1f80);
    for (unsigned i = 0; i < 16; i++) {
        enum filling kind = chance(g, 85) ? g->c->filling : below(g, FILL_COUNT);
        value_fill(rng, kind, f->ymm[i], 32);
        if (chance(g, 4))
            memset(f->ymm[i], (int)(0 - below(g, 2)), 32);
        if (i && chance(g, 5))
            memcpy(f->ymm[i], f->ymm[i - 1], 32);
    }
}

// --- segments ------------------------------------------------------------------------------------

// Entries of the LDT (segments.c): data from 14, of which those before STRICT.. can be written.
static uint16_t ldt_selector(unsigned entry)
{
    return (uint16_t)(entry << 3 | 7);
}

// A selector that the kernel can load: data, or code that can be read.
static uint16_t pick_data_segment(struct gen *g, unsigned flat, unsigned null)
{
    unsigned roll = (unsigned)below(g, 100);
    if (!g->ldt || roll < flat)
        return ORACLE_DATA;
    if (roll < flat + null)
        return 0;
    if (chance(g, 35))
        return ldt_selector(14 + (unsigned)below(g, 2)); // the window, 64 KiB or all
    for (;;) {
        uint16_t sel = ldt_selector((unsigned)below(g, oracle_ldt_entries()));
        struct x86_seg seg = oracle_segment(sel);
        bool unreadable = (seg.attr & (X86_ATTR_TYPE & 0xa)) == 8;
        if ((seg.attr & X86_ATTR_P) && !unreadable)
            return sel;
    }
}

static uint16_t pick_stack_segment(struct gen *g, unsigned flat)
{
    if (!g->ldt || chance(g, flat))
        return ORACLE_DATA;
    if (chance(g, 60))
        return ldt_selector(14 + (unsigned)below(g, 2));
    for (;;) {
        uint16_t sel = ldt_selector((unsigned)below(g, oracle_ldt_entries()));
        struct x86_seg seg = oracle_segment(sel);
        if ((seg.attr & X86_ATTR_P) && (seg.attr & 0xa) == 2)
            return sel;
    }
}

static void make_segments(struct gen *g)
{
    struct oracle_state *in = &g->c->in;
    in->cs = pick_code_selector(g);
    in->ss = ORACLE_DATA;
    if (g->code64) {
        // They count for nothing but what they hold, and FS and GS for their bases.
        uint16_t *const sel[4] = {&in->ds, &in->es, &in->fs, &in->gs};
        for (unsigned i = 0; i < 4; i++)
            if (chance(g, 8))
                *sel[i] = pick_data_segment(g, 30, 0);
        uint64_t *const bases[2] = {&in->fs_base, &in->gs_base};
        for (unsigned i = 0; i < 2; i++) {
            if (chance(g, 70))
                *bases[i] =
                    below(g, 0x10000000) & (chance(g, 50) ? ~UINT64_C(0xfff) : ~UINT64_C(0));
            else if (chance(g, 30))
                *bases[i] = (uint64_t)((int64_t)rng_next(&g->rng) >> 17);
        }
        return;
    }
    // Flat segments reach nothing with 16 bits of address.
    unsigned flat = address_size(g) == 2 ? 5 : g->code_size == X86_CODE16 ? 30 : 60;
    in->ds = pick_data_segment(g, flat, 3);
    in->es = pick_data_segment(g, flat, 3);
    in->fs = pick_data_segment(g, 15, 40);
    in->gs = pick_data_segment(g, 15, 40);
    in->ss = pick_stack_segment(g, flat);
    in->fs_base = oracle_segment(in->fs).base;
    in->gs_base = oracle_segment(in->gs).base;
}

// Where in the code page the instruction lies; in small segments near the limit now and then.
static void place(struct gen *g)
{
    struct oracle_case *c = g->c;
    struct x86_seg cs = oracle_segment(c->in.cs);
    uint64_t base = g->code64 ? 0 : cs.base;
    c->code_offset =
        (uint16_t)(chance(g, 1) ? PAGE_SIZE - 1 - below(g, 12) : 0x80 + below(g, 0xe80));
    if (!g->code64) {
        uint64_t end = base + cs.limit + 1 - ORACLE_CODE_BASE; // of the segment, in the page
        if (end < PAGE_SIZE && (chance(g, 12) || c->code_offset >= end))
            c->code_offset = (uint16_t)(end - 1 - below(g, chance(g, 50) ? 12 : 0x800));
        else if (end == PAGE_SIZE && chance(g, 5))
            c->code_offset = (uint16_t)(PAGE_SIZE - 1 - below(g, 12));
    }
    c->in.rip = ORACLE_CODE_BASE + c->code_offset - base;
    if (!g->code64)
        c->in.rip = (uint32_t)c->in.rip;
}

void make_state(struct gen *g)
{
    struct oracle_case *c = g->c;
    struct oracle_state *in = &c->in;
    for (unsigned i = 0; i < 16; i++) {
        in->gpr[i] = value_int(&g->rng);
        if (i && chance(g, 6))
            in->gpr[i] = in->gpr[i - 1];
        if (!g->code64)
            in->gpr[i] = i < 8 ? (uint32_t)in->gpr[i] : 0;
    }
    in->rflags = (rng_next(&g->rng) & X86_FLAGS_ARITH) | X86_FLAG_R1 | X86_FLAG_IF;
    if (chance(g, 30))
        in->rflags |= X86_FLAG_DF;
    if (chance(g, 4))
        in->rflags |= X86_FLAG_AC;
    // A gather that traps half-way is the processor's business (SDM vol. 2, VGATHER: TF and faults).
    if (chance(g, 4) && !has_kind(g, X86_OPND_VSIB))
        in->rflags |= X86_FLAG_TF;
    g->adsize67 = chance(g, g->code64 ? 12 : 15);
    if (has_kind(g, X86_OPND_VSIB) && !g->code64) // #UD with 16-bit addresses
        g->adsize67 = (g->code_size == X86_CODE16) != chance(g, 8);
    make_segments(g);
    place(g);
    // A stack that works unless somebody aims it elsewhere.
    bool edge = g->edge;
    g->edge = false;
    if (g->code64)
        in->gpr[X86_RSP] = ORACLE_WINDOW_BASE + 0x400 + 8 * below(g, 0x180);
    else
        aim_stack(g, X86_RSP, ORACLE_WINDOW_BASE + 0x400 + 4 * below(g, 0x300));
    g->locked &= ~(1u << X86_RSP);
    g->edge = edge;
}
