// SPDX-License-Identifier: Apache-2.0
// What must be forgotten when: INVLPG, MOV CR3, CR4.PGE, INVPCID, PCIDs, page faults (SDM vol. 3A, 4.10).
// What may be remembered until then may also be forgotten, so only the other half is judged.
#include "paging.h"

#define OTHER 0x21e9000ull // another page, told apart by its byte
#define OTHER_BYTE 0x77

static void point(u64 page, u64 flags)
{
    paging_entry_set(paging_levels() - 1, (page & ~0xfffull) | flags);
}

static struct tried read_at(ulong lin, u8 cpl)
{
    return paging_run(code_read, cpl, false, lin, 0, 0, 0);
}

static struct tried write_at(ulong lin, u8 cpl, u8 value)
{
    return paging_run(code_write, cpl, false, lin, 0, value, 0);
}

static void sees(const char *what, ulong lin, u8 value)
{
    for (u8 cpl = 0; cpl <= 3; cpl += 3) {
        struct tried t = read_at(lin, cpl);
        lab_check(t.skipped || (t.vector == VEC_UD && (t.ax & 0xff) == value),
                  "%s: cpl %u: vector %u error %x value %lx, want %x", what, cpl, t.vector, t.error,
                  t.ax & 0xff, value);
    }
}

enum flush {
    BY_INVLPG,
    BY_CR3,
    BY_PGE,
    BY_CR0,
    BY_INVPCID
};

#ifdef __x86_64__
static void invpcid(u64 type, u64 pcid, u64 address)
{
    volatile u64 descriptor[2] = {pcid, address};
    __asm__ volatile(".byte 0x66, 0x0f, 0x38, 0x82, 0x01" // INVPCID RAX, [RCX]
                     :
                     : "a"(type), "c"(descriptor)
                     : "memory");
}
#endif

static void flush(enum flush how)
{
    switch (how) {
    case BY_INVLPG:
        lab_invlpg(paging_lin & ~0xffful); // any byte of the page
        break;
    case BY_CR3:
        lab_set_cr3(lab_cr3());
        break;
    case BY_PGE:
        lab_set_cr4(lab_cr4() ^ CR4_PGE);
        lab_set_cr4(lab_cr4() ^ CR4_PGE);
        break;
    case BY_CR0:
#ifndef __x86_64__
        lab_set_cr0(lab_cr0() & ~(ulong)CR0_PG);
        lab_set_cr0(lab_cr0() | CR0_PG);
#endif
        break;
    case BY_INVPCID:
#ifdef __x86_64__
        invpcid(2, 0, 0);
#endif
        break;
    }
}

// A page moves; after the flush the new place is seen. Global pages too, but for MOV CR3.
static void moved(void)
{
    static const char *const names[] = {"INVLPG", "MOV CR3", "CR4.PGE", "CR0.PG", "INVPCID"};
    for (unsigned how = BY_INVLPG; how <= BY_INVPCID; how++)
        for (unsigned global = 0; global < 2; global++) {
            if ((global || how == BY_PGE) && !cpu.pge)
                continue;
            if (how == BY_INVPCID && !(cpu.invpcid && paging_shape == SHAPE_64))
                continue;
            if (how == BY_CR0 && paging_shape == SHAPE_64)
                continue;
            u64 flags = PTE_RIGHTS | (global ? PTE_G : 0);
            if (cpu.pge)
                lab_set_cr4(lab_cr4() | CR4_PGE);
            paging_map(PTE_RIGHTS);
            point(PAGING_TARGET, flags);
            flush(BY_INVLPG);
            sees(names[how], paging_lin, PAGING_BYTE);
            point(OTHER, flags);
            if (global && how == BY_CR3) {
                flush(how); // either is right
                struct tried t = read_at(paging_lin, 0);
                u8 v = (u8)t.ax;
                lab_check(t.skipped || v == PAGING_BYTE || v == OTHER_BYTE,
                          "global after MOV CR3: %x", v);
                continue;
            }
            flush(how);
            sees(names[how], paging_lin, OTHER_BYTE);
            point(0, 0);
            flush(how);
            struct tried t = read_at(paging_lin, 3);
            lab_check(t.skipped || (t.vector == VEC_PF && t.error == ERROR_U),
                      "%s: not present: vector %u", names[how], t.vector);
            lab_set_cr4(lab_cr4() & ~(ulong)CR4_PGE);
        }
}

// G without CR4.PGE is a bit like any other.
static void global_without_pge(void)
{
    lab_set_cr4(lab_cr4() & ~(ulong)CR4_PGE);
    paging_map(PTE_RIGHTS);
    point(PAGING_TARGET, PTE_RIGHTS | PTE_G);
    lab_set_cr3(lab_cr3());
    sees("G without PGE", paging_lin, PAGING_BYTE);
    point(OTHER, PTE_RIGHTS | PTE_G);
    lab_set_cr3(lab_cr3());
    sees("G without PGE after MOV CR3", paging_lin, OTHER_BYTE);
}

// The rights of the upper levels hold for every page below, also when the walk of a neighbour is remembered.
static void neighbours(void)
{
    unsigned last = paging_levels() - 1;
    ulong second = paging_lin + 0x1000;
    struct paging p = {.wp = true, .nxe = cpu.nx && paging_shape != SHAPE_32, .pse = cpu.pse};
    paging_controls(&p);
    for (unsigned level = 0; level < last; level++)
        for (unsigned right = 0; right < 3; right++) {
            static const char *const names[] = {"U", "W", "NX"};
            const char *const code[] = {code_read, code_write, code_fetch};
            static const u32 errors[] = {ERROR_P | ERROR_U, ERROR_P | ERROR_U | ERROR_W,
                                         ERROR_P | ERROR_U | ERROR_I};
            if (right == 2 && !p.nxe)
                continue;
            paging_map(PTE_RIGHTS);
            paging_second_set((PAGING_TARGET & ~0xfffull) + 0x1000 + PTE_RIGHTS);
            paging_entry_set(level, paging_entry(level) ^ (right == 0   ? PTE_U
                                                           : right == 1 ? PTE_W
                                                                        : PTE_NX));
            lab_invlpg(paging_lin);
            lab_invlpg(second);
            (void)read_at(paging_lin, 0);
            struct tried t = paging_run(code[right], 3, false, second, 0, 0, 0);
            lab_check(t.skipped ||
                          (t.vector == VEC_PF && t.error == errors[right] && t.cr2 == second),
                      "%s of level %u for a neighbour: vector %u error %x", names[right], level,
                      t.vector, t.error);
        }
    paging_controls_default();
}

// Nothing is remembered of an entry that was not present or invalid, and a fault forgets the page.
static void without_flush(void)
{
    unsigned last = paging_levels() - 1;
    for (unsigned level = 0; level <= last; level++) {
        paging_map(PTE_RIGHTS);
        u64 good = paging_entry(level);
        paging_entry_set(level, 0);
        lab_invlpg(paging_lin);
        struct tried t = read_at(paging_lin, 3);
        lab_check(t.skipped || t.vector == VEC_PF, "not present: vector %u", t.vector);
        paging_entry_set(level, good);
        sees("present without a flush", paging_lin, PAGING_BYTE);
        // Rights that were missing: the fault invalidated what was cached (4.10.4.1).
        paging_entry_set(level, good & ~(u64)PTE_W);
        lab_invlpg(paging_lin);
        sees("read-only", paging_lin, PAGING_BYTE);
        t = write_at(paging_lin, 3, PAGING_BYTE);
        lab_check(t.skipped || (t.vector == VEC_PF && t.error == (ERROR_P | ERROR_W | ERROR_U)),
                  "read-only: vector %u error %x", t.vector, t.error);
        paging_entry_set(level, good);
        t = write_at(paging_lin, 3, PAGING_BYTE);
        lab_check(t.skipped || t.vector == VEC_UD,
                  "writable without a flush: vector %u error %x level %u", t.vector, t.error,
                  level);
        paging_entry_set(level, good & ~(u64)PTE_U);
        lab_invlpg(paging_lin);
        struct tried super = read_at(paging_lin, 0);
        (void)super;
        t = read_at(paging_lin, 3);
        lab_check(t.skipped || (t.vector == VEC_PF && t.error == (ERROR_P | ERROR_U)),
                  "supervisor: vector %u error %x", t.vector, t.error);
        paging_entry_set(level, good);
        sees("user without a flush", paging_lin, PAGING_BYTE);
    }
}

// Control bits count at once, whatever is cached.
static void bits_at_once(void)
{
    unsigned last = paging_levels() - 1;
    struct paging p = {.pse = cpu.pse};
    for (unsigned level = 0; level <= last; level++) {
        paging_map(PTE_RIGHTS);
        paging_entry_set(level, paging_entry(level) & ~(u64)PTE_W);
        lab_invlpg(paging_lin);
        for (unsigned round = 0; round < 4; round++) {
            p.wp = round & 1;
            paging_controls(&p);
            struct tried t = write_at(paging_lin, 0, PAGING_BYTE);
            lab_check(t.skipped || t.vector == (p.wp ? VEC_PF : VEC_UD), "WP %u: vector %u", p.wp,
                      t.vector);
        }
    }
    p.wp = true;
    paging_map(PTE_RIGHTS);
    lab_invlpg(paging_lin);
    for (unsigned round = 0; cpu.smap && round < 4; round++) {
        p.smap = round & 1;
        paging_controls(&p);
        struct tried t = read_at(paging_lin, 0);
        lab_check(t.skipped || t.vector == (p.smap ? VEC_PF : VEC_UD), "SMAP %u: vector %u", p.smap,
                  t.vector);
        t = paging_run(code_read, 0, true, paging_lin, 0, 0, 0);
        lab_check(t.skipped || t.vector == VEC_UD, "SMAP %u with AC: vector %u", p.smap, t.vector);
    }
    p.smap = false;
    for (unsigned round = 0; cpu.smep && round < 4; round++) {
        p.smep = round & 1;
        paging_controls(&p);
        struct tried t = paging_run(code_fetch, 0, false, paging_lin, 0, 0, 0);
        lab_check(t.skipped || t.vector == (p.smep ? VEC_PF : VEC_UD), "SMEP %u: vector %u", p.smep,
                  t.vector);
    }
    p.smep = false;
    paging_controls_default();
}

// A large page goes as a whole, by any of its addresses.
static void large_pages(void)
{
    for (unsigned level = 0; level + 1 < paging_levels(); level++) {
        if (!paging_large_possible(level))
            continue;
        ulong far = paging_lin ^ 0x100000; // in the same large page
        u64 place = paging_entry_make(level, true, PTE_RIGHTS);
        paging_map(PTE_RIGHTS);
        paging_entry_set(level, place);
        lab_invlpg(paging_lin);
        *(volatile u8 *)(ulong)(PAGING_TARGET ^ 0x100000) = 0x55;
        sees("large page", paging_lin, PAGING_BYTE);
        sees("large page, elsewhere", far, 0x55);
        paging_entry_set(level, 0);
        lab_invlpg(far & ~0xffful);
        struct tried t = read_at(paging_lin, 3);
        lab_check(t.skipped || t.vector == VEC_PF, "large page after INVLPG elsewhere: vector %u",
                  t.vector);
        t = read_at(far, 3);
        lab_check(t.skipped || t.vector == VEC_PF, "large page after INVLPG: vector %u", t.vector);
    }
}

#ifdef __x86_64__
// --- PCIDs and INVPCID -------------------------------------------------------------------------------------

static volatile u64 cr3_value;

static void write_cr3(void *argument)
{
    (void)argument;
    lab_set_cr3(cr3_value);
}

static const struct lab_trap *try_cr3(u64 value)
{
    cr3_value = value;
    return lab_try(write_cr3, 0);
}

static void write_cr4(void *value)
{
    lab_set_cr4((ulong)value);
}

static u64 invpcid_arguments[3];

static void invpcid_by_arguments(void *argument)
{
    (void)argument;
    invpcid(invpcid_arguments[0], invpcid_arguments[1], invpcid_arguments[2]);
}

static void invpcid_refusals(bool pcide)
{
    static const u64 addresses[] = {0, 0x7fffffffffff, 0x800000000000, 0xffff7fffffffffff,
                                    0xffff800000000000};
    for (u64 type = 0; type < 8; type++)
        for (unsigned bit = 0; bit <= 64; bit++)
            for (unsigned i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
                u64 pcid = bit == 64 ? 0 : 1ull << bit, a = addresses[i];
                if ((i && bit < 64 && bit % 16) || (paging_brief && (bit + i) % 8))
                    continue;
                bool canonical = (u64)((long long)(a << 16) >> 16) == a;
                bool refused = type > 3 || pcid > 0xfff || (type < 2 && !pcide && pcid) ||
                               (type == 0 && !canonical);
                invpcid_arguments[0] = type;
                invpcid_arguments[1] = pcid;
                invpcid_arguments[2] = a;
                const struct lab_trap *t = lab_try(invpcid_by_arguments, 0);
                bool skipped = t && t->vector == 0xffff;
                lab_check(skipped || (refused ? t && t->vector == VEC_GP && t->error == 0 : !t),
                          "INVPCID %llx, %llx, %llx: vector %u", type, pcid, a,
                          t ? t->vector : 255);
            }
}

// The second set of tables differs in the address under test only.
static u64 second_root[512] __attribute__((aligned(4096)));
static u64 second_tables[3][512] __attribute__((aligned(4096)));

static void second_space(void)
{
    for (unsigned i = 0; i < 512; i++)
        second_root[i] = lab_pml4[i];
    u64 next = (ulong)second_tables[0];
    second_root[paging_lin >> 39 & 0x1ff] = next | PTE_RIGHTS;
    second_tables[0][paging_lin >> 30 & 0x1ff] = (ulong)second_tables[1] | PTE_RIGHTS;
    second_tables[1][paging_lin >> 21 & 0x1ff] = (ulong)second_tables[2] | PTE_RIGHTS;
    second_tables[2][paging_lin >> 12 & 0x1ff] = OTHER | PTE_RIGHTS;
}

static void pcids(void)
{
    u64 first = (ulong)lab_pml4, second = (ulong)second_root;
    ulong cr4 = lab_cr4();
    if (!lab_expect_error("CR3 bit 63 without PCIDE", try_cr3(first | 1ull << 63), VEC_GP, 0))
        lab_set_cr3(first);
    lab_set_cr3(first | 8);
    lab_expect_error("PCIDE with a PCID", lab_try(write_cr4, (void *)(cr4 | CR4_PCIDE)), VEC_GP, 0);
    lab_set_cr3(first);
    if (!lab_expect_none("PCIDE", lab_try(write_cr4, (void *)(cr4 | CR4_PCIDE))) ||
        !(lab_cr4() & CR4_PCIDE))
        return;
    for (u64 pcid = 0; pcid < 0x1000; pcid = pcid * 2 + 1) {
        lab_expect_none("CR3 with a PCID", try_cr3(first | pcid));
        lab_equal("CR3 with a PCID", lab_cr3(), first | pcid);
        lab_expect_none("CR3 with a PCID, no flush", try_cr3(first | pcid | 1ull << 63));
        lab_equal("CR3 with a PCID, no flush", lab_cr3(), first | pcid);
    }
    lab_expect_error("CR3 bit 62", try_cr3(first | 1ull << 62), VEC_GP, 0);
    // Each space sees its own page, with and without the flush of the switch.
    second_space();
    paging_map(PTE_RIGHTS);
    lab_set_cr3(first | 1);
    sees("PCID 1", paging_lin, PAGING_BYTE);
    lab_set_cr3(second | 2);
    sees("PCID 2", paging_lin, OTHER_BYTE);
    for (unsigned round = 0; round < 3; round++) {
        lab_set_cr3(first | 1 | 1ull << 63);
        sees("PCID 1 without a flush", paging_lin, PAGING_BYTE);
        lab_set_cr3(second | 2 | 1ull << 63);
        sees("PCID 2 without a flush", paging_lin, OTHER_BYTE);
    }
    // The same PCID for other tables: the flush decides.
    lab_set_cr3(first | 2);
    sees("PCID 2 flushed", paging_lin, PAGING_BYTE);
    // What a PCID holds goes with INVPCID, also from another PCID.
    if (cpu.invpcid)
        for (unsigned type = 0; type < 4; type++) {
            point(PAGING_TARGET, PTE_RIGHTS);
            lab_set_cr3(first | 3);
            sees("PCID 3", paging_lin, PAGING_BYTE);
            lab_set_cr3(second | 4);
            point(OTHER, PTE_RIGHTS);
            invpcid(type, 3, paging_lin);
            lab_set_cr3(first | 3 | 1ull << 63);
            sees("PCID 3 after INVPCID", paging_lin, OTHER_BYTE);
        }
    point(PAGING_TARGET, PTE_RIGHTS);
    lab_set_cr3(first);
    if (cpu.invpcid)
        invpcid_refusals(true);
    // Paging cannot be left with PCIDE; only code outside of 64-bit mode comes so far as to be asked.
    static const u8 leave[] = {0x0f, 0x22, 0xc0, 0x0f, 0x0b}; // MOV CR0, EAX; UD2
    struct lab_state s = {
        .ip = (ulong)leave, .cs = SEL_CODE32, .flags = 2, .sp = 0x7f000, .ss = SEL_DATA0};
    s.ds = s.es = SEL_DATA0;
    s.gpr[0] = lab_cr0() & ~(ulong)CR0_PG;
    lab_expect_error("PG off with PCIDE", lab_enter(&s), VEC_GP, 0);
    // Clearing PCIDE is allowed with any PCID, and forgets everything.
    lab_set_cr3(first | 5);
    sees("PCID 5", paging_lin, PAGING_BYTE);
    point(OTHER, PTE_RIGHTS);
    lab_expect_none("PCIDE off", lab_try(write_cr4, (void *)cr4));
    sees("PCIDE off", paging_lin, OTHER_BYTE);
    lab_set_cr4(cr4);
    lab_set_cr3(first);
}
#endif

void paging_flushes(void)
{
    *(volatile u8 *)(ulong)(OTHER | (PAGING_TARGET & 0xfff)) = OTHER_BYTE;
    paging_controls_default();
    moved();
    without_flush();
    bits_at_once();
    large_pages();
    neighbours();
    if (cpu.pge)
        global_without_pge();
#ifdef __x86_64__
    paging_map(PTE_RIGHTS);
    if (cpu.invpcid)
        invpcid_refusals(false);
    if (cpu.pcid)
        pcids();
    // Addresses that nothing can be mapped at.
    lab_invlpg(0x800000000000);
    lab_invlpg(0xdead000000000000);
#endif
    paging_controls_default();
}
