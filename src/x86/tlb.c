// SPDX-License-Identifier: Apache-2.0
// The software TLB: which linear pages instructions may touch in host memory without asking again.
//
// Rules to keep:
//  - An entry is direct-mapped by linear page number, so a tag can only ever match in its own slot.
//  - Every filled entry has a bit in its set's bitmaps (local or global, and large), and only
//    those: a flush visits set bits and nothing else, so its cost is that of the fills since the
//    last one.
//  - Entries of pages larger than 4 KiB are entered piece by piece and remember the size: INVLPG of
//    any address of the large page drops all its pieces.
//  - Whatever changes what an entry was derived from flushes: CR0.PG/WP, CR4, EFER.NXE, CR3, A20,
//    DR7 with the breakpoint addresses, and the address space (X86_EVENT_FLUSH).
#include "memory/memory.h"
#include "x86/paging.h"
#include "x86/system.h"

#include <stdlib.h>
#include <string.h>

static void entry_clear(struct x86_tlb *tlb, struct x86_tlb_entry *e)
{
    unsigned slot = (unsigned)(e - tlb->set[0]) % X86_TLB_ENTRIES;
    e->tag_read = e->tag_write = e->tag_exec = e->page = x86_tlb_invalid(slot);
}

int x86_tlb_create(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = aligned_alloc(64, sizeof(*tlb));
    if (!tlb)
        return -1;
    memset(tlb, 0, sizeof(*tlb));
    for (unsigned set = 0; set < X86_TLB_SETS; set++)
        for (unsigned i = 0; i < X86_TLB_ENTRIES; i++)
            entry_clear(tlb, &tlb->set[set][i]);
    tlb->generation = 1; // table[] holds 0
    cpu->tlb = tlb;
    tlb->cur = tlb->set[X86_TLB_SUPERVISOR];
    x86_tlb_select(cpu);
    return 0;
}

void x86_tlb_destroy(struct x86_cpu *cpu)
{
    free(cpu->tlb);
    cpu->tlb = NULL;
}

void x86_tlb_select(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;
    if (!tlb)
        return;
    bool ac = cpu->rflags & X86_FLAG_AC;
    enum x86_tlb_set set;
    if (cpu->cpl == 3)
        set = ac && (cpu->cr0 & X86_CR0_AM) ? X86_TLB_ALIGN : X86_TLB_USER;
    else
        set = !ac && (cpu->cr4 & X86_CR4_SMAP) ? X86_TLB_SUPERVISOR_SMAP : X86_TLB_SUPERVISOR;
    tlb->cur = tlb->set[set];
}

static void flush_words(struct x86_tlb *tlb, unsigned set, uint64_t *words, uint64_t *large)
{
    for (unsigned w = 0; w < X86_TLB_WORDS; w++) {
        uint64_t bits = words[w];
        if (bits == 0)
            continue;
        words[w] = 0;
        large[w] &= ~bits;
        for (; bits; bits &= bits - 1)
            entry_clear(tlb, &tlb->set[set][w * 64 + (unsigned)__builtin_ctzll(bits)]);
    }
}

void x86_tlb_flush_nonglobal(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;
    if (!tlb)
        return;
    tlb->flushes++;
    tlb->generation++;
    if (cpu->frame.cpu)
        x86_code_frame_flush(&cpu->frame);
    for (unsigned set = 0; set < X86_TLB_ALIGN; set++)
        flush_words(tlb, set, tlb->map[set].local, tlb->map[set].large);
}

void x86_tlb_flush_all(struct x86_cpu *cpu)
{
    struct x86_tlb *tlb = cpu->tlb;
    if (!tlb)
        return;
    x86_tlb_flush_nonglobal(cpu);
    for (unsigned set = 0; set < X86_TLB_ALIGN; set++)
        flush_words(tlb, set, tlb->map[set].global, tlb->map[set].large);
}

static void entry_drop(struct x86_tlb *tlb, unsigned set, unsigned i)
{
    struct x86_tlb_map *map = &tlb->map[set];
    uint64_t keep = ~(UINT64_C(1) << (i % 64));
    map->local[i / 64] &= keep;
    map->global[i / 64] &= keep;
    map->large[i / 64] &= keep;
    entry_clear(tlb, &tlb->set[set][i]);
}

void x86_tlb_flush_page(struct x86_cpu *cpu, gva_t lin)
{
    struct x86_tlb *tlb = cpu->tlb;
    if (!tlb)
        return;
    unsigned slot = (lin >> PAGE_SHIFT) & (X86_TLB_ENTRIES - 1);
    if (cpu->frame.cpu)
        x86_code_frame_flush(&cpu->frame);
    tlb->generation++; // INVLPG drops every paging-structure cache entry of the address space
    for (unsigned set = 0; set < X86_TLB_ALIGN; set++) {
        if (tlb->set[set][slot].page == (lin & PAGE_MASK))
            entry_drop(tlb, set, slot);
        for (unsigned w = 0; w < X86_TLB_WORDS; w++) {
            for (uint64_t bits = tlb->map[set].large[w]; bits; bits &= bits - 1) {
                unsigned i = w * 64 + (unsigned)__builtin_ctzll(bits);
                struct x86_tlb_entry *e = &tlb->set[set][i];
                if ((e->page ^ lin) >> e->shift == 0)
                    entry_drop(tlb, set, i);
            }
        }
    }
}

// Enters a completed walk and returns the entry.
static struct x86_tlb_entry *tlb_fill(struct x86_cpu *cpu, gva_t lin, enum x86_tlb_set set,
                                      const struct x86_walk *walk, const struct memory_page *page)
{
    struct x86_tlb *tlb = cpu->tlb;
    unsigned slot = (lin >> PAGE_SHIFT) & (X86_TLB_ENTRIES - 1);
    struct x86_tlb_entry *e = &tlb->set[set][slot];
    struct x86_tlb_map *map = &tlb->map[set];
    uint64_t bit = UINT64_C(1) << (slot % 64);
    gva_t tag = lin & PAGE_MASK;
    unsigned rights = x86_page_rights(cpu, set, walk);

    if (!walk->dirty || (atomic_load_explicit(page->flags, memory_order_relaxed) & PAGE_FLAG_ROM))
        rights &= ~(unsigned)X86_ACCESS_WRITE;
    if (unlikely(x86_debug_watches_page(cpu, tag)))
        rights &= ~(unsigned)(X86_ACCESS_READ | X86_ACCESS_WRITE);
    e->tag_read = (rights & X86_ACCESS_READ) ? tag : x86_tlb_invalid(slot);
    e->tag_write = (rights & X86_ACCESS_WRITE) ? tag : x86_tlb_invalid(slot);
    e->tag_exec = (rights & X86_ACCESS_EXEC) ? tag : x86_tlb_invalid(slot);
    e->addend = (uintptr_t)page->host - tag;
    e->flags = page->flags;
    e->gpa = walk->gpa & PAGE_MASK;
    e->page = tag;
    e->shift = walk->shift;

    uint64_t local = walk->global ? 0 : bit, global = walk->global ? bit : 0;
    uint64_t large = walk->shift > PAGE_SHIFT ? bit : 0;
    map->local[slot / 64] = (map->local[slot / 64] & ~bit) | local;
    map->global[slot / 64] = (map->global[slot / 64] & ~bit) | global;
    map->large[slot / 64] = (map->large[slot / 64] & ~bit) | large;
    return e;
}

static bool entry_permits(const struct x86_tlb_entry *e, gva_t tag, unsigned access)
{
    return (!(access & X86_ACCESS_READ) || e->tag_read == tag) &&
           (!(access & X86_ACCESS_WRITE) || e->tag_write == tag) &&
           (!(access & X86_ACCESS_EXEC) || e->tag_exec == tag);
}

void x86_translate(struct x86_cpu *cpu, unsigned seg, gva_t lin, enum x86_tlb_set set,
                   unsigned access, struct x86_span *span)
{
    struct x86_tlb *tlb = cpu->tlb;
    struct x86_tlb_entry *e = &tlb->set[set][(lin >> PAGE_SHIFT) & (X86_TLB_ENTRIES - 1)];
    span->rom = false;
    if (entry_permits(e, lin & PAGE_MASK, access)) {
        tlb->hits_slow++;
        span->host = (uint8_t *)(lin + e->addend);
        span->flags = e->flags;
        span->entry = e;
        span->gpa = e->gpa | (lin & PAGE_OFFSET_MASK);
        return;
    }
    tlb->misses++;
    if (unlikely(!x86_canonical(lin)))
        x86_raise_error(cpu, seg == X86_SS ? X86_SS_FAULT : X86_GP, 0);
    struct x86_walk walk;
    uint32_t error;
    if (!x86_page_walk(cpu, lin, set, access, &walk, &error))
        x86_raise_pf(cpu, lin, error);
    span->gpa = walk.gpa;
    struct memory_page page;
    if (!memory_page(cpu->platform->memory, walk.gpa, &page)) {
        span->host = NULL;
        span->entry = NULL;
        return;
    }
    span->entry = tlb_fill(cpu, lin, set, &walk, &page);
    span->host = page.host + (walk.gpa & PAGE_OFFSET_MASK);
    span->flags = page.flags;
    span->rom = atomic_load_explicit(page.flags, memory_order_relaxed) & PAGE_FLAG_ROM;
}
