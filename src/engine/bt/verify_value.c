// SPDX-License-Identifier: Apache-2.0
// What the checker knows of registers: sums of symbols, and how two ways to a place meet.
#include "engine/bt/verify.h"
#include <string.h>

struct vvalue vconst(int64_t value)
{
    return (struct vvalue){.tag = V_SUM, .add = value};
}

struct vvalue vsymbol(uint32_t symbol)
{
    return (struct vvalue){.tag = V_SUM, .terms = 1, .term = {{symbol, 1}}};
}

struct vvalue vfresh(struct verifier *v)
{
    return vsymbol(VSYM_FRESH + v->fresh++);
}

bool vconstant(const struct vvalue *a)
{
    return a->tag == V_SUM && a->terms == 0;
}

static bool same_terms(const struct vvalue *a, const struct vvalue *b)
{
    if (a->tag != V_SUM || b->tag != V_SUM || a->terms != b->terms)
        return false;
    for (unsigned i = 0; i < a->terms; i++)
        if (a->term[i].symbol != b->term[i].symbol || a->term[i].factor != b->term[i].factor)
            return false;
    return true;
}

bool vsame(const struct vvalue *a, const struct vvalue *b)
{
    if (a->tag != V_SUM || b->tag != V_SUM)
        return a->tag == b->tag;
    return same_terms(a, b) && a->add == b->add && a->max == b->max && a->scaled == b->scaled &&
           a->entries == b->entries && a->high == b->high;
}

// Adds a term, in the order of symbols. False: too many.
static bool term_add(struct vvalue *a, uint32_t symbol, int64_t factor)
{
    unsigned i = 0;
    while (i < a->terms && a->term[i].symbol < symbol)
        i++;
    if (i < a->terms && a->term[i].symbol == symbol) {
        a->term[i].factor += factor;
        if (a->term[i].factor == 0) {
            a->terms--;
            memmove(&a->term[i], &a->term[i + 1], (a->terms - i) * sizeof(a->term[0]));
        }
        return true;
    }
    if (a->terms == VTERMS)
        return false;
    memmove(&a->term[i + 1], &a->term[i], (a->terms - i) * sizeof(a->term[0]));
    a->term[i] = (struct vterm){symbol, factor};
    a->terms++;
    return true;
}

struct vvalue vsum(struct verifier *v, const struct vvalue *a, const struct vvalue *b,
                   int64_t factor, int64_t add)
{
    struct vvalue sum = *a;
    if (a->tag != V_SUM || (b && b->tag != V_SUM))
        return vfresh(v);
    sum.max = 0;
    sum.entries = sum.high = false;
    sum.scaled = false;
    sum.add += add;
    if (b) {
        sum.add += b->add * factor;
        for (unsigned i = 0; i < b->terms; i++)
            if (!term_add(&sum, b->term[i].symbol, b->term[i].factor * factor))
                return vfresh(v);
    }
    return sum;
}

static bool is_alone(const struct vvalue *a)
{
    return a->tag == V_SUM && a->terms == 1 && a->add == 0 && a->term[0].factor == 1;
}

uint32_t vis_low16(const struct vvalue *a)
{
    return is_alone(a) && a->term[0].symbol - VSYM_LOW16 < VLOWS_MAX ? a->term[0].symbol : 0;
}

struct vvalue vhalf(struct verifier *v, const struct vvalue *low16)
{
    const struct vvalue whole = vfresh(v), low = vlow16(v, low16);
    if (v->halves < VHALVES_MAX) {
        v->half[v->halves].symbol = whole.term[0].symbol;
        v->half[v->halves++].low16 = low;
    }
    return whole;
}

static const struct vvalue *half_of(const struct verifier *v, uint32_t symbol)
{
    for (unsigned i = 0; i < v->halves; i++)
        if (v->half[i].symbol == symbol)
            return &v->half[i].low16;
    return NULL;
}

// What is under a symbol, as far as the low 16 or 32 bits go; NULL when it is what it is.
static const struct vvalue *under(const struct verifier *v, uint32_t symbol, bool to16)
{
    if (symbol - VSYM_LOW < VLOWS_MAX)
        return &v->low[0][symbol - VSYM_LOW];
    if (to16 && symbol - VSYM_LOW16 < VLOWS_MAX)
        return &v->low[1][symbol - VSYM_LOW16];
    return to16 ? half_of(v, symbol) : NULL;
}

// The truncation's symbol, with what it truncates known in the table; truncations of truncations are one.
static struct vvalue truncated(struct verifier *v, const struct vvalue *a, bool to16)
{
    struct vvalue all = *a;
    bool more = true;
    if (a->tag != V_SUM)
        return vfresh(v);
    if ((a->high && !to16) || (a->max && (!to16 || a->max <= 0xffff)))
        return *a;
    // Of at most 16 bits already.
    if (!to16 && vis_low16(a))
        return *a;
    for (unsigned round = 0; more && round < 16; round++) {
        more = false;
        for (unsigned i = 0; i < all.terms && all.tag == V_SUM && !more; i++) {
            const struct vterm t = all.term[i];
            const struct vvalue *of = under(v, t.symbol, to16);
            const struct vvalue gone = vsymbol(t.symbol);
            if (!of)
                continue;
            all = vsum(v, &all, &gone, -t.factor, 0);
            all = vsum(v, &all, of, t.factor, 0);
            more = true;
        }
    }
    all.max = 0;
    all.scaled = all.entries = all.high = false;
    all.add = to16 ? (int64_t)(uint16_t)all.add : (int64_t)(uint32_t)all.add;
    if (vconstant(&all))
        return all;
    for (unsigned i = 0; i < v->lows[to16]; i++)
        if (vsame(&v->low[to16][i], &all))
            return vsymbol((to16 ? VSYM_LOW16 : VSYM_LOW) + i);
    if (v->lows[to16] == VLOWS_MAX)
        return vfresh(v);
    v->low[to16][v->lows[to16]] = all;
    return vsymbol((to16 ? VSYM_LOW16 : VSYM_LOW) + v->lows[to16]++);
}

struct vvalue vlow(struct verifier *v, const struct vvalue *a)
{
    return truncated(v, a, false);
}

struct vvalue vlow16(struct verifier *v, const struct vvalue *a)
{
    return truncated(v, a, true);
}

// The same sums, but for one 16-bit offset each, of which it is known how far they are apart?
static bool distance16(const struct verifier *v, const struct vfact *fact, const struct vvalue *a,
                       const struct vvalue *b, int64_t *distance)
{
    struct vvalue rest_a = *a, rest_b = *b;
    uint32_t sa = 0, sb = 0;
    for (unsigned i = 0; i < a->terms; i++)
        if (a->term[i].symbol - VSYM_LOW16 < VLOWS_MAX && a->term[i].factor == 1)
            sa = a->term[i].symbol;
    for (unsigned i = 0; i < b->terms; i++)
        if (b->term[i].symbol - VSYM_LOW16 < VLOWS_MAX && b->term[i].factor == 1)
            sb = b->term[i].symbol;
    if (!sa || !sb || sa != fact->wrap_symbol)
        return false;
    const struct vvalue *of_a = &v->low[1][sa - VSYM_LOW16], *of_b = &v->low[1][sb - VSYM_LOW16];
    term_add(&rest_a, sa, -1);
    term_add(&rest_b, sb, -1);
    if (!same_terms(&rest_a, &rest_b) || !same_terms(of_a, of_b))
        return false;
    const uint16_t off = (uint16_t)(of_b->add - of_a->add);
    if (off >= fact->wrap)
        return false;
    *distance = off + (int64_t)((uint64_t)b->add - (uint64_t)a->add);
    return true;
}

bool vdistance(const struct verifier *v, const struct vfact *fact, const struct vvalue *b,
               int64_t *distance)
{
    const struct vvalue *a = &fact->address;
    if (a->tag != V_SUM || b->tag != V_SUM)
        return false;
    if (same_terms(a, b)) {
        *distance = (int64_t)((uint64_t)b->add - (uint64_t)a->add);
        return true;
    }
    if (distance16(v, fact, a, b, distance))
        return true;
    // Two truncated addresses of one page: it ends below 4 GiB or there, so nothing wraps within it. A sum that
    // is added behind the truncation is not truncated.
    if (a->terms != 1 || b->terms != 1 || a->term[0].factor != 1 || b->term[0].factor != 1 ||
        a->term[0].symbol - VSYM_LOW >= VLOWS_MAX || b->term[0].symbol - VSYM_LOW >= VLOWS_MAX)
        return false;
    const struct vvalue *of_a = &v->low[0][a->term[0].symbol - VSYM_LOW];
    const struct vvalue *of_b = &v->low[0][b->term[0].symbol - VSYM_LOW];
    const int64_t behind = (int64_t)((uint64_t)b->add - (uint64_t)a->add);
    if (same_terms(of_a, of_b)) {
        *distance = (int32_t)((uint32_t)of_b->add - (uint32_t)of_a->add) + behind;
        return a->add == 0;
    }
    if (a->add == 0 && distance16(v, fact, of_a, of_b, distance)) {
        *distance = (int32_t)*distance + behind;
        return true;
    }
    return false;
}

static void join_value(struct verifier *v, struct vvalue *a, const struct vvalue *b)
{
    if (!vsame(a, b))
        *a = vfresh(v);
}

void vjoin(struct verifier *v, struct vstate *a, const struct vstate *b)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < 16; i++)
        join_value(v, &a->reg[i], &b->reg[i]);
    for (unsigned i = 0; i < VCELLS; i++)
        join_value(v, &a->cell[i], &b->cell[i]);
    if (a->flags != b->flags || a->flags_fact != b->flags_fact)
        a->flags = VF_LOST;
    if (a->found != b->found || a->target_reg != b->target_reg)
        a->found = a->found_pending = 0;
    if (a->wrap_symbol != b->wrap_symbol || a->wrap != b->wrap)
        a->wrap_symbol = 0;
    if (a->site != b->site)
        a->site = 0;
    if (a->insn != b->insn)
        a->insn = -1;
    for (unsigned i = 0; i < a->known_count; i++)
        for (unsigned k = 0; k < b->known_count; k++)
            if (a->known[i] == b->known[k]) {
                a->known[kept++] = a->known[i];
                break;
            }
    a->known_count = (uint16_t)kept;
}
