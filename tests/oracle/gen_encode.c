// SPDX-License-Identifier: Apache-2.0
// Prefixes, opcode maps and immediates.
#include "gen.h"
#include <string.h>

void choose_prefixes(struct gen *g)
{
    const struct x86_form *f = g->form;
    bool vex = f->attr & X86_INSN_VEX;
    g->seg = -1;
    if (chance(g, 12))
        g->seg = chance(g, 50) ? X86_FS : X86_GS;
    else if (chance(g, 4))
        g->seg = (int)below(g, 4);
    if (!g->code64)
        g->seg = chance(g, g->ldt ? 20 : 10) ? (int)below(g, g->ldt ? 6 : 4) : -1;
    g->padding = chance(g, 3)   ? 1 + (unsigned)below(g, 2)
                 : chance(g, 2) ? (unsigned)below(g, 16)
                                : 0;
    if (g->code64 && seg_base(g, g->seg) >= ORACLE_WINDOW_BASE)
        g->adsize67 = false; // 32 bits of offset would not lead back to the window
    g->w = f->w >= 0 ? f->w : chance(g, 35);
    if (!g->code64 && !vex)
        g->w = false;
    g->rex_r = (unsigned)below(g, 2);
    g->rex_x = (unsigned)below(g, 2);
    g->rex_b = (unsigned)below(g, 2);
    if (f->rex_b == 0)
        g->rex_b = 0;
    if (!g->code64 || chance(g, 25))
        g->rex_r = g->rex_x = g->rex_b = 0;
    g->vex_l = f->l >= 0 ? (unsigned)f->l : (unsigned)below(g, 2);
    if (vex) {
        if (chance(g, 1))
            g->opsize66 = true; // #UD
        if (chance(g, 1))
            g->lock = true;
        if (chance(g, 1))
            g->rep = chance(g, 50) ? 0xf2 : 0xf3;
        return;
    }
    switch (f->prefix) {
    case 0x66:
        g->opsize66 = true;
        if (chance(g, 2))
            g->rep = chance(g, 50) ? 0xf2 : 0xf3;
        break;
    case 0xf2:
    case 0xf3:
        g->rep = f->prefix;
        g->opsize66 = chance(g, 8);
        break;
    case 1:
        g->opsize66 = chance(g, 2);
        if (chance(g, 2))
            g->rep = chance(g, 50) ? 0xf2 : 0xf3;
        break;
    default:
        g->opsize66 =
            chance(g, f->opsize_rule == X86_OPSIZE_V || f->opsize_rule == X86_OPSIZE_Z ? 25 : 6);
        if (f->prefix == 0 && chance(g, f->attr & X86_INSN_REP    ? 60
                                        : f->attr & X86_INSN_REPZ ? 70
                                                                  : 4))
            g->rep = chance(g, f->attr & X86_INSN_REP ? 15 : 50) ? 0xf2 : 0xf3;
        break;
    }
    if (starts(g, "loop"))
        g->rep = 0; // AMD's let it override the condition
    g->lock = chance(g, f->attr & X86_INSN_LOCKABLE ? 20 : 2);
    if (is(g, "verw"))
        g->lock = false; // Zen 4 executes it, microcode being microcode
}

void emit_prefixes(struct gen *g)
{
    const struct x86_form *f = g->form;
    static const uint8_t seg_prefix[6] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    uint8_t list[5];
    unsigned count = 0;
    if (g->seg >= 0)
        list[count++] = seg_prefix[g->seg];
    if (g->opsize66)
        list[count++] = 0x66;
    if (g->adsize67)
        list[count++] = 0x67;
    if (g->lock)
        list[count++] = 0xf0;
    if (g->rep)
        list[count++] = g->rep;
    // Superfluous ones: the same again, or a segment before the one that counts.
    if (count == 0 && g->padding) {
        g->seg = X86_DS;
        list[count++] = seg_prefix[X86_DS];
    }
    for (unsigned i = 0; i < g->padding; i++)
        emit(g, g->seg >= 0 && chance(g, 50) ? seg_prefix[below(g, 6)] : list[below(g, count)], 1);
    bool misplaced = g->code64 && count && !(f->attr & X86_INSN_VEX) && chance(g, 3);
    for (unsigned i = count; i > 1; i--) {
        unsigned j = (unsigned)below(g, i);
        uint8_t t = list[i - 1];
        list[i - 1] = list[j];
        list[j] = t;
    }
    for (unsigned i = 0; i < count; i++) {
        if (misplaced && i == count - 1) // a REX that does not count
            emit(g, 0x40 | below(g, 16), 1);
        emit(g, list[i], 1);
    }
    if (g->code64 && (f->attr & X86_INSN_VEX) && chance(g, 1))
        emit(g, 0x40 | below(g, 16), 1); // #UD
    if (f->attr & X86_INSN_VEX) {
        unsigned pp = f->prefix == 0x66 ? 1 : f->prefix == 0xf3 ? 2 : f->prefix == 0xf2 ? 3 : 0;
        if (has_kind(g, X86_OPND_VEC_VVVV) || has_kind(g, X86_OPND_VVVV_GPR))
            g->vvvv = (unsigned)below(g, g->code64 ? 16 : 8);
        else if (chance(g, 2))
            g->vvvv = (unsigned)below(g, g->code64 ? 16 : 8); // #UD unless 0
        unsigned r = !g->rex_r, x = !g->rex_x, b = !g->rex_b;
        if (f->map == X86_MAP_0F && x && b && (f->w < 0 || f->w == 0) && chance(g, 60)) {
            g->w = false;
            emit(g, 0xc5, 1);
            emit(g, r << 7 | (~g->vvvv & 15) << 3 | g->vex_l << 2 | pp, 1);
        } else {
            emit(g, 0xc4, 1);
            emit(g, r << 7 | x << 6 | b << 5 | f->map, 1);
            emit(g, (unsigned)g->w << 7 | (~g->vvvv & 15) << 3 | g->vex_l << 2 | pp, 1);
        }
    } else {
        if (g->code64 && (g->w || g->rex_r || g->rex_x || g->rex_b || chance(g, 10)))
            emit(g, 0x40u | (unsigned)g->w << 3 | g->rex_r << 2 | g->rex_x << 1 | g->rex_b, 1);
        if (f->map != X86_MAP_1)
            emit(g, 0x0f, 1);
        if (f->map == X86_MAP_0F38)
            emit(g, 0x38, 1);
        if (f->map == X86_MAP_0F3A)
            emit(g, 0x3a, 1);
    }
}

static void emit_relative(struct gen *g, unsigned size)
{
    uint16_t cs = g->c->in.cs;
    uint64_t next = g->c->in.rip + g->n + size;
    if (size == 1) {
        int64_t d = chance(g, 50) ? 20 + (int64_t)below(g, 108) : -128 + (int64_t)below(g, 96);
        emit(g, (uint64_t)d, 1);
    } else if (!g->code64) {
        emit(g, pick_code(g, cs) - next, size);
    } else if (g->opsize66) {
        // Two bytes or four, the vendors differ; HLTs where four are two too many.
        emit(g, 0xf4f40000 | (uint16_t)(40 + below(g, 500)), 4);
    } else {
        uint64_t d = pick_code(g, cs) - next;
        if ((uint64_t)(int64_t)(int32_t)d != d)
            d = 0x7fffff00;
        emit(g, d, size);
    }
}

void emit_immediate(struct gen *g)
{
    unsigned size = imm_size(g);
    const struct x86_form *f = g->form;
    if (has_kind(g, X86_OPND_REL)) {
        emit_relative(g, size);
        return;
    }
    if (has_kind(g, X86_OPND_MOFFS)) {
        int seg = g->seg < 0 && !g->code64 ? X86_DS : g->seg;
        uint64_t mask = size == 2 ? 0xffff : ~UINT64_C(0);
        emit(g, aim_offset(g, seg, g->target, memory_size(g), mask), size);
        return;
    }
    if (f->imm == 'p') {
        uint16_t sel = pick_far(g);
        emit(g, pick_code(g, sel), size - 2);
        emit(g, sel, 2);
        return;
    }
    uint64_t value = value_int(&g->rng);
    if (is(g, "int"))
        value = (uint8_t)value == 0x80 ? 0x81 : value;
    if (is(g, "enter"))
        value = chance(g, 80) ? below(g, 0x300) : value;
    if ((is(g, "ret") || is(g, "retf")) && chance(g, 70))
        value = below(g, 0x200);
    emit(g, value, size);
    if (f->imm2)
        emit(g, is(g, "enter") && chance(g, 85) ? below(g, 8) : value_int(&g->rng), f->imm2);
}
