// SPDX-License-Identifier: Apache-2.0
// Memory operands: ModRM, SIB and displacement, 16-, 32- and 64-bit, and the registers they name.
#include "gen.h"
#include "x86/system.h"
#include <string.h>

// Gather: elements of the index register that keep near the base.
static void make_vsib(struct gen *g, unsigned vector, unsigned scale)
{
    bool dwords = strstr(g->form->mnemonic, "gatherd") != NULL;
    uint8_t *p = g->c->in.fpu.ymm[vector];
    for (unsigned i = 0; i < 32; i += dwords ? 4 : 8) {
        int64_t value = (int64_t)(below(g, 0x400) >> scale);
        if (chance(g, 25))
            value = -value;
        if (chance(g, 2))
            value = (int64_t)(rng_next(&g->rng) & 0x7ffffff);
        memcpy(p + i, &value, dwords ? 4 : 8);
    }
}

// The segment that counts for an address of this base register.
static int effective_segment(const struct gen *g, unsigned base)
{
    if (g->seg >= 0 || g->code64)
        return g->seg;
    return base == X86_RSP || base == X86_RBP ? X86_SS : X86_DS;
}

// 16-bit addresses (SDM vol. 2, table 2-1).
static void emit_memory16(struct gen *g)
{
    static const uint8_t bases[8] = {X86_RBX,  X86_RBX,  X86_RBP, X86_RBP,
                                     REG_NONE, REG_NONE, X86_RBP, X86_RBX};
    static const uint8_t indices[8] = {X86_RSI, X86_RDI, X86_RSI,  X86_RDI,
                                       X86_RSI, X86_RDI, REG_NONE, REG_NONE};
    struct oracle_state *in = &g->c->in;
    unsigned mod = (unsigned)below(g, 3), rm = (unsigned)below(g, 8);
    unsigned base = bases[rm], index = indices[rm];
    if (mod == 0 && rm == 6)
        base = REG_NONE;
    unsigned disp_size = mod == 1 ? 1 : mod == 2 || (mod == 0 && rm == 6) ? 2 : 0;
    int segment = effective_segment(g, base);
    uint64_t goal = aim_offset(g, segment, g->target, memory_size(g), 0xffff);
    uint64_t disp = disp_size == 1   ? (uint64_t)(int64_t)(int8_t)rng_next(&g->rng)
                    : disp_size == 2 ? value_int(&g->rng)
                                     : 0;
    uint64_t sum = disp;
    if (index != REG_NONE && (g->locked >> index & 1))
        sum += in->gpr[index];
    if (base != REG_NONE && (g->locked >> base & 1))
        sum += in->gpr[base];
    bool base_free = base != REG_NONE && !(g->locked >> base & 1);
    bool index_free = index != REG_NONE && !(g->locked >> index & 1);
    if (base_free && index_free) {
        set_reg(g, index, chance(g, 50) ? below(g, 64) : rng_next(&g->rng));
        sum += in->gpr[index];
    }
    if (base_free || index_free) {
        uint64_t rubbish = chance(g, 50) ? rng_next(&g->rng) << 16 : 0;
        set_reg(g, base_free ? base : index, ((goal - sum) & 0xffff) | rubbish);
    } else if (disp_size == 2) {
        disp += goal - sum;
    } else {
        goal = sum;
    }
    g->target = (uint32_t)(seg_base(g, segment) + (goal & 0xffff));
    emit(g, mod << 6 | g->modrm_reg << 3 | rm, 1);
    emit(g, disp, disp_size);
}

void emit_memory(struct gen *g)
{
    if (address_size(g) == 2) {
        emit_memory16(g);
        return;
    }
    struct oracle_state *in = &g->c->in;
    bool vsib = has_kind(g, X86_OPND_VSIB);
    unsigned modrm_at = g->n;
    struct rng saved = g->rng;
    uint32_t locked = g->locked;
    uint64_t gprs[16];
    memcpy(gprs, in->gpr, sizeof(gprs));
    for (unsigned attempt = 0; attempt < 12; attempt++) {
        g->rng = saved;
        for (unsigned i = 0; i <= attempt; i++)
            rng_next(&g->rng);
        g->n = modrm_at;
        g->locked = locked;
        memcpy(in->gpr, gprs, sizeof(gprs));

        unsigned mod = (unsigned)below(g, 3), rm = vsib ? 4 : (unsigned)below(g, 8);
        unsigned base = rm | g->rex_b << 3, index = REG_NONE, scale = 0, sib = 0;
        bool rip_relative = false;
        if (rm == 4) {
            sib = (unsigned)rng_next(&g->rng) & 0xff;
            base = (sib & 7) | g->rex_b << 3;
            index = ((sib >> 3) & 7) | g->rex_x << 3;
            scale = sib >> 6;
            if (vsib && attempt < 8 &&
                ((index & 7) == g->modrm_reg || (index & 7) == (g->vvvv & 7)) && chance(g, 95))
                continue;
            if (vsib)
                make_vsib(g, index, scale);
            if (vsib || index == X86_RSP)
                index = REG_NONE;
            if ((sib & 7) == 5 && mod == 0)
                base = REG_NONE;
        } else if (rm == 5 && mod == 0) {
            base = REG_NONE;
            rip_relative = g->code64;
        }
        unsigned disp_size = mod == 1 ? 1 : mod == 2 || base == REG_NONE ? 4 : 0;
        int segment = effective_segment(g, base);
        uint64_t goal = aim_offset(g, segment, g->target, memory_size(g), ~UINT64_C(0));
        uint64_t want = g->target;
        if (!g->code64)
            want = (uint32_t)(goal + seg_base(g, segment));
        uint64_t disp = disp_size == 1   ? (uint64_t)(int64_t)(int8_t)rng_next(&g->rng)
                        : disp_size == 4 ? (uint64_t)(int64_t)(int32_t)value_int(&g->rng)
                                         : 0;
        bool base_free = base != REG_NONE && !(g->locked >> base & 1);
        bool index_free = index != REG_NONE && !(g->locked >> index & 1);
        uint64_t base_value = base != REG_NONE ? in->gpr[base] : 0;
        uint64_t index_value = index != REG_NONE ? in->gpr[index] : 0;
        unsigned after = (rm == 4 ? 2 : 1) + disp_size + imm_size(g) + g->form->imm2;
        if (base_free && base != index) {
            if (index_free && chance(g, 50))
                index_value = below(g, 0x10000);
            base_value = goal - disp - (index_value << scale);
        } else if (index_free && base == index) {
            index_value = base_value = below(g, 0x8000000) >> scale;
            if (disp_size == 4)
                disp = goal - base_value - (index_value << scale);
            else
                index_value = base_value = (goal - disp) / (1 + (UINT64_C(1) << scale));
        } else if (index_free) {
            index_value = (goal - disp - base_value) >> scale;
            if (disp_size == 4)
                disp = goal - base_value - (index_value << scale);
        } else if (disp_size == 4) {
            disp = goal - base_value - (index_value << scale) -
                   (rip_relative ? in->rip + g->n + after : 0);
        }
        if (disp_size == 4)
            disp = (uint64_t)(int64_t)(int32_t)disp;
        // Where that leads.
        uint64_t offset = (base != REG_NONE ? base_value : 0) +
                          (index != REG_NONE ? index_value << scale : 0) + disp +
                          (rip_relative ? in->rip + g->n + after : 0);
        if (g->adsize67 || !g->code64)
            offset = (uint32_t)offset;
        uint64_t linear = offset + seg_base(g, segment);
        if (!g->code64)
            linear = (uint32_t)linear;
        bool safe = g->code64 ? address_is_safe(linear) && address_is_safe(linear + 64) : true;
        if (attempt < 11 && (!safe || (linear != want && attempt < 6 && want < ORACLE_WINDOW_END)))
            continue;
        g->target = linear;
        uint64_t rubbish = g->adsize67 && g->code64 && chance(g, 50) ? rng_next(&g->rng) << 32 : 0;
        if (base != REG_NONE && base_free)
            set_reg(g, base, base_value + (base != index ? rubbish : 0));
        if (index != REG_NONE && index_free)
            set_reg(g, index, index_value);
        emit(g, mod << 6 | g->modrm_reg << 3 | rm, 1);
        if (rm == 4)
            emit(g, sib, 1);
        emit(g, disp, disp_size);
        return;
    }
}
