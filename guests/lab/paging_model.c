// SPDX-License-Identifier: Apache-2.0
// The page walk as SDM vol. 3A, 4.3 to 4.8 describes it (and APM vol. 2, 5.3 to 5.6, where that differs).
#include "paging.h"

static unsigned entries(enum shape shape)
{
    return shape == SHAPE_64 ? 4 : 2;
}

// log2 of what an entry of this level covers.
static unsigned covers(enum shape shape, unsigned level)
{
    if (shape == SHAPE_32)
        return level == 0 ? 22 : 12;
    return 12 + 9 * (entries(shape) - 1 - level);
}

static u64 bits(unsigned high, unsigned low)
{
    return high < low ? 0 : (~0ull >> (63 - high)) & ~0ull << low;
}

// Whether the entry of this level maps a page.
static bool is_leaf(const struct paging *p, unsigned level, u64 entry)
{
    unsigned shift = covers(p->shape, level);
    if (shift == 12)
        return true;
    if (p->shape == SHAPE_32)
        return p->pse && (entry & PTE_PS);
    return (entry & PTE_PS) && (shift == 21 || (shift == 30 && cpu.gigabyte));
}

u64 walk_reserved(const struct paging *p, unsigned level, u64 entry)
{
    unsigned shift = covers(p->shape, level);
    bool leaf = is_leaf(p, level, entry);
    if (p->shape == SHAPE_32) {
        if (!leaf || shift == 12)
            return 0;
        // 4.3: bits 20:13 are address bits 39:32, as far as there are any; the rest of 21:13 is reserved.
        unsigned width = !cpu.pse36 ? 32 : cpu.width < 40 ? cpu.width : 40;
        return bits(21, width - 19);
    }
    u64 reserved = bits(51, cpu.width);
    if (!p->nxe)
        reserved |= PTE_NX;
    if (p->shape == SHAPE_PAE)
        reserved |= bits(62, 52);
    if (leaf && shift > 12)
        return reserved | bits(shift - 1, 13);
    if (shift >= 30)
        reserved |= PTE_PS; // of a PML4E, and of a PDPTE without 1-GiB pages
    if (shift == 39 && cpu.amd)
        reserved |= PTE_G; // APM vol. 2, figure 5-18
    return reserved;
}

static bool permitted(const struct paging *p, bool user_page, bool writable, bool nx)
{
    if (p->access == ACCESS_FETCH && nx)
        return false;
    if (p->cpl == 3 && !p->implicit) {
        if (!user_page)
            return false;
        return p->access != ACCESS_WRITE || writable;
    }
    if (p->access == ACCESS_FETCH)
        return !(user_page && p->smep);
    if (user_page && p->smap && (p->implicit || !p->ac))
        return false;
    return p->access != ACCESS_WRITE || writable || !p->wp;
}

void walk_model(const struct paging *p, const u64 entry[LEVELS_MAX], struct walk *walk)
{
    bool user = true, writable = true, nx = false, leaf = false;

    *walk = (struct walk){0};
    for (unsigned i = 0; i < entries(p->shape); i++)
        walk->after[i] = entry[i];
    if (p->access == ACCESS_WRITE)
        walk->error |= ERROR_W;
    if (p->cpl == 3 && !p->implicit)
        walk->error |= ERROR_U;
    if (p->access == ACCESS_FETCH && (p->smep || (p->nxe && p->shape != SHAPE_32)))
        walk->error |= ERROR_I;
    for (unsigned i = 0; !leaf; i++) {
        walk->levels = i + 1;
        if (!(entry[i] & PTE_P)) {
            walk->fault = true;
            return;
        }
        if (entry[i] & walk_reserved(p, i, entry[i])) {
            walk->fault = true;
            walk->error |= ERROR_P | ERROR_RSVD;
            return;
        }
        user = user && (entry[i] & PTE_U);
        writable = writable && (entry[i] & PTE_W);
        nx = nx || (p->shape != SHAPE_32 && (entry[i] & PTE_NX));
        leaf = is_leaf(p, i, entry[i]);
    }
    if (!permitted(p, user, writable, nx)) {
        walk->fault = true;
        walk->error |= ERROR_P;
        return;
    }
    for (unsigned i = 0; i < walk->levels; i++)
        walk->after[i] |= PTE_A;
    if (p->access == ACCESS_WRITE)
        walk->after[walk->levels - 1] |= PTE_D;
}
