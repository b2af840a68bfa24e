// SPDX-License-Identifier: Apache-2.0
#include "generate.h"
#include <string.h>

uint64_t random_next(uint64_t *state) // splitmix64
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static const uint8_t segment_prefixes[6] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};

static bool one_in(uint64_t *rng, unsigned n)
{
    return random_next(rng) % n == 0;
}

struct writer {
    uint8_t *bytes;
    unsigned len;
};

static void put(struct writer *w, uint8_t byte)
{
    if (w->len < SAMPLE_BYTES)
        w->bytes[w->len++] = byte;
}

static void fill(struct writer *w, uint64_t *rng)
{
    // Small values now and then, so that displacements and immediates meet their edges.
    while (w->len < SAMPLE_BYTES) {
        uint64_t r = random_next(rng);
        put(w, (r >> 8) % 4 == 0 ? (uint8_t)(r & 1 ? 0xff : 0) : (uint8_t)r);
    }
}

static uint8_t random_modrm(const struct x86_form *form, uint64_t *rng)
{
    uint8_t modrm = (uint8_t)random_next(rng);
    if (form->modrm == 3)
        modrm |= 0xc0;
    else if (form->modrm == 2 && modrm >= 0xc0)
        modrm &= 0x3f;
    if (form->modrm_reg >= 0)
        modrm = (uint8_t)((modrm & 0xc7) | (form->modrm_reg << 3));
    if (form->modrm_rm >= 0)
        modrm = (uint8_t)((modrm & 0xf8) | form->modrm_rm);
    // Gathers and every second memory operand take a SIB byte.
    if (modrm < 0xc0 && form->modrm_rm < 0 && one_in(rng, 3))
        modrm = (modrm & 0xf8) | 4;
    return modrm;
}

static void put_vex(struct writer *w, const struct x86_form *form, uint64_t *rng, bool code64)
{
    uint64_t r = random_next(rng);
    bool uses_vvvv = false;
    for (unsigned i = 0; i < form->operand_count; i++)
        uses_vvvv |= form->operand[i].kind == X86_OPND_VVVV_GPR ||
                     form->operand[i].kind == X86_OPND_VEC_VVVV;
    unsigned wbit = form->w >= 0 ? (unsigned)form->w : r & 1;
    unsigned l = form->l >= 0 ? (unsigned)form->l : (r >> 1) & 1;
    unsigned pp = form->prefix == 0x66   ? 1
                  : form->prefix == 0xf3 ? 2
                  : form->prefix == 0xf2 ? 3
                                         : 0;
    unsigned vvvv = uses_vvvv ? (r >> 2) & 15 : one_in(rng, 16) ? (r >> 2) & 15 : 15;
    unsigned rxb = code64 ? (r >> 6) & 7 : 6 | ((r >> 6) & 1);
    if (form->map == X86_MAP_0F && wbit == 0 && (rxb & 3) == 3 && (r & 0x1000)) {
        put(w, 0xc5);
        put(w, (uint8_t)((rxb & 4) << 5 | (vvvv | (code64 ? 0 : 8)) << 3 | l << 2 | pp));
        return;
    }
    put(w, 0xc4);
    put(w, (uint8_t)(rxb << 5 | form->map));
    put(w, (uint8_t)(wbit << 7 | vvvv << 3 | l << 2 | pp));
}

static void put_legacy(struct writer *w, const struct x86_form *form, uint64_t *rng, bool code64)
{
    if (one_in(rng, 8) && form->prefix != 1)
        put(w, 0x66);
    if (one_in(rng, 8) && form->prefix == 0)
        put(w, one_in(rng, 2) ? 0xf2 : 0xf3);
    if (one_in(rng, 12) || ((form->attr & X86_INSN_LOCKABLE) && one_in(rng, 4)))
        put(w, 0xf0);
    if (form->prefix >= 0x66)
        put(w, form->prefix);
    if (code64 && (form->w == 1 || one_in(rng, 2))) {
        unsigned rex = random_next(rng) & 15;
        if (form->w >= 0)
            rex = (rex & 7) | (unsigned)form->w << 3;
        if (form->rex_b == 0 && !one_in(rng, 4))
            rex &= 14;
        put(w, (uint8_t)(0x40 | rex));
        if (one_in(rng, 32)) // a REX before another prefix is ignored
            put(w, segment_prefixes[random_next(rng) % 6]);
    }
    if (form->map != X86_MAP_1)
        put(w, 0x0f);
    if (form->map == X86_MAP_0F38 || form->map == X86_MAP_0F3A)
        put(w, form->map == X86_MAP_0F38 ? 0x38 : 0x3a);
}

void generate_form(struct sample *s, const struct x86_form *form, uint64_t *rng)
{
    struct writer w = {.bytes = s->bytes};
    bool code64 = s->code == X86_CODE64;
    if (one_in(rng, 6))
        put(&w, segment_prefixes[random_next(rng) % 6]);
    if (one_in(rng, 8))
        put(&w, 0x67);
    if (form->attr & X86_INSN_VEX)
        put_vex(&w, form, rng, code64);
    else
        put_legacy(&w, form, rng, code64);
    put(&w, (uint8_t)(form->opcode | (random_next(rng) & (uint8_t)~form->opcode_mask)));
    if (form->modrm != 0)
        put(&w, random_modrm(form, rng));
    fill(&w, rng);
}

void generate_random(struct sample *s, uint64_t *rng)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x2e,
                                       0x36, 0x3e, 0x64, 0x65, 0x66, 0xf2, 0xf3};
    struct writer w = {.bytes = s->bytes};
    while (one_in(rng, 3))
        put(&w, prefixes[random_next(rng) % sizeof(prefixes)]);
    if (s->code == X86_CODE64 && one_in(rng, 3))
        put(&w, (uint8_t)(0x40 | (random_next(rng) & 15)));
    switch (random_next(rng) % 8) {
    case 0:
    case 1:
        put(&w, 0x0f);
        break;
    case 2:
        put(&w, 0x0f);
        put(&w, 0x38);
        break;
    case 3:
        put(&w, 0x0f);
        put(&w, 0x3a);
        break;
    case 4:
        put(&w, 0xc5);
        put(&w, (uint8_t)(random_next(rng) | (s->code == X86_CODE64 ? 0 : 0xc0)));
        break;
    case 5:
        put(&w, 0xc4);
        put(&w, (uint8_t)((random_next(rng) & 0xe0) | (s->code == X86_CODE64 ? 0 : 0xc0) |
                          (random_next(rng) % 4)));
        break;
    default:
        break;
    }
    fill(&w, rng);
}
