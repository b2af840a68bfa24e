// SPDX-License-Identifier: Apache-2.0
// The matrices: rights of every level against every kind of access (SDM vol. 3A, 4.6), reserved bits one by
// one (4.3 to 4.5), accessed and dirty bits (4.8).
#include "paging.h"

#define FAILURES_MAX 12 // in one matrix

// A sample of one in `n` in brief runs, always the same.
static bool left_out(u32 n)
{
    static u32 random = 12345;
    random = random * 1664525 + 1013904223;
    return paging_brief && (random >> 16) % n != 0;
}

// The entries of level 0 to `leaf`, plain; the leaf is large where it is not the last level.
static void map_to(unsigned leaf, u64 flags)
{
    for (unsigned i = 0; i <= leaf; i++)
        paging_entry_set(i, paging_entry_make(i, i == leaf && leaf + 1 < paging_levels(), flags));
    for (unsigned i = leaf + 1; i < paging_levels(); i++)
        paging_entry_set(i, 0);
}

// Takes W, U away and gives NX at one level each; `levels` means at none.
static unsigned rights_cases(struct paging *p, unsigned leaf, unsigned *failures)
{
    unsigned levels = leaf + 1, cases = 0;
    unsigned nx_last = paging_shape != SHAPE_32 && p->nxe ? levels : 0;
    for (unsigned read_only = 0; read_only <= levels; read_only++)
        for (unsigned super = 0; super <= levels; super++)
            for (unsigned nx = 0; nx <= nx_last; nx++) {
                for (unsigned access = ACCESS_READ; access <= ACCESS_FETCH; access++) {
                    if (left_out(40))
                        continue;
                    map_to(leaf, PTE_RIGHTS);
                    if (read_only < levels)
                        paging_entry_set(read_only, paging_entry(read_only) & ~(u64)PTE_W);
                    if (super < levels)
                        paging_entry_set(super, paging_entry(super) & ~(u64)PTE_U);
                    if (nx < nx_last)
                        paging_entry_set(nx, paging_entry(nx) | PTE_NX);
                    p->access = access;
                    cases++;
                    if (!paging_case(p, "rights") && ++*failures >= FAILURES_MAX)
                        return cases;
                }
            }
    return cases;
}

static void rights_of_leaf(unsigned leaf)
{
    unsigned failures = 0;
    bool pse_needed = paging_shape == SHAPE_32 && leaf == 0;
    for (unsigned controls = 0; controls < 64 && failures < FAILURES_MAX; controls++) {
        struct paging p = {.shape = paging_shape,
                           .wp = controls & 1,
                           .smep = controls & 2,
                           .smap = controls & 4,
                           .nxe = controls & 8,
                           .pse = pse_needed || (controls & 8 && cpu.pse),
                           .cpl = controls & 16 ? 3 : 0,
                           .ac = controls & 32};
        if ((p.smep && !cpu.smep) || (p.smap && !cpu.smap) || (p.nxe && !cpu.nx))
            continue;
        if (p.ac && !p.smap)
            continue; // AC means nothing then
        rights_cases(&p, leaf, &failures);
    }
}

void paging_rights(void)
{
    for (unsigned leaf = 0; leaf < paging_levels(); leaf++)
        if (leaf + 1 == paging_levels() || paging_large_possible(leaf))
            rights_of_leaf(leaf);
    paging_controls_default();
}

// --- reserved bits -----------------------------------------------------------------------------------

// Bits whose change makes another walk, not an invalid entry: the address of a table or of the page.
static bool moves(const struct paging *p, unsigned level, u64 entry, unsigned bit)
{
    if (bit < 12 || walk_reserved(p, level, entry) >> bit & 1)
        return false;
    if (p->shape == SHAPE_32)
        return !(bit == 12 && p->pse && (entry & PTE_PS) && level == 0); // bit 12: PAT
    if (bit == 12 && (entry & PTE_PS) && level + 1 < paging_levels())
        return false;
    return bit < cpu.width;
}

static unsigned reserved_of(const struct paging *p, unsigned leaf, unsigned level, u32 flags)
{
    unsigned failures = 0, width = paging_shape == SHAPE_32 ? 32 : 64;
    for (unsigned bit = 0; bit < width && failures < FAILURES_MAX; bit++) {
        map_to(leaf, PTE_RIGHTS);
        u64 entry = paging_entry(level) ^ 1ull << bit;
        // With PS the walk would go on in, or end at, what is not there.
        if (bit == 7 && level + 1 < paging_levels() && paging_shape != SHAPE_64)
            continue;
        if (moves(p, level, entry, bit) || (bit != 8 && left_out(flags ? 8 : 4)))
            continue;
        if (bit == 7 && level < leaf && paging_large_possible(level))
            continue;
        if (bit == 7 && level == leaf && leaf + 1 < paging_levels())
            continue;
        paging_entry_set(level, (entry & ~(u64)flags));
        failures += !paging_case(p, flags ? "bit of an entry not present" : "single bit");
    }
    return failures;
}

// The first entry that ends the walk is the one reported: not present and reserved at two levels.
static void reserved_pairs(struct paging *p, unsigned leaf)
{
    u64 bad = PTE_NX;
    if (paging_shape == SHAPE_32)
        return;
    p->nxe = false;
    for (unsigned absent = 0; absent <= leaf; absent++)
        for (unsigned level = 0; level <= leaf; level++) {
            if (level == absent)
                continue;
            map_to(leaf, PTE_RIGHTS);
            paging_entry_set(level, paging_entry(level) | bad);
            paging_entry_set(absent, paging_entry(absent) & ~(u64)PTE_P);
            paging_case(p, "reserved and not present");
            // Not present comes before what the levels above refuse.
            map_to(leaf, PTE_RIGHTS);
            if (level < absent) {
                paging_entry_set(level, paging_entry(level) & ~(u64)(PTE_U | PTE_W));
                paging_entry_set(absent, paging_entry(absent) & ~(u64)PTE_P);
                paging_case(p, "refused and not present");
            }
        }
}

void paging_reserved(void)
{
    for (unsigned leaf = 0; leaf < paging_levels(); leaf++) {
        if (leaf + 1 < paging_levels() && !paging_large_possible(leaf))
            continue;
        for (unsigned access = ACCESS_READ; access <= ACCESS_FETCH; access++)
            for (unsigned controls = 0; controls < 8; controls++) {
                struct paging p = {.shape = paging_shape,
                                   .access = access,
                                   .wp = true,
                                   .cpl = controls & 1 ? 3 : 0,
                                   .nxe = controls & 2 && cpu.nx,
                                   .pse = cpu.pse && (controls & 4 || leaf == 0)};
                if ((controls & 2 && !cpu.nx) || (controls & 4 && paging_shape != SHAPE_32))
                    continue;
                for (unsigned level = 0; level <= leaf; level++) {
                    reserved_of(&p, leaf, level, 0);
                    if (access == ACCESS_READ)
                        reserved_of(&p, leaf, level, PTE_P);
                }
                reserved_pairs(&p, leaf);
            }
    }
    paging_controls_default();
}

// --- accessed and dirty --------------------------------------------------------------------------------

// Every combination of bits that are set before.
void paging_dirty(void)
{
    for (unsigned leaf = 0; leaf < paging_levels(); leaf++) {
        if (leaf + 1 < paging_levels() && !paging_large_possible(leaf))
            continue;
        for (unsigned before = 0; before < 4u << leaf; before++)
            for (unsigned access = ACCESS_READ; access <= ACCESS_FETCH; access++)
                for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
                    struct paging p = {.shape = paging_shape,
                                       .access = access,
                                       .wp = true,
                                       .cpl = (u8)cpl,
                                       .pse = cpu.pse};
                    if (left_out(4))
                        continue;
                    map_to(leaf, PTE_RIGHTS);
                    for (unsigned i = 0; i <= leaf; i++)
                        paging_entry_set(i, paging_entry(i) | (before >> i & 1 ? PTE_A : 0));
                    paging_entry_set(leaf, paging_entry(leaf) | (before >> leaf & 2 ? PTE_D : 0));
                    paging_case(&p, "accessed and dirty");
                }
    }
    paging_controls_default();
}
