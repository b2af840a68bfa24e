// SPDX-License-Identifier: Apache-2.0
// From linear to physical: the page walk, and what the TLB and the slow memory paths share. Private
// to x86/; instruction code uses mem.h.
//
// Rules to keep:
//  - Every table entry read and every final address passes physical() in paging.c: the A20 gate
//    today, a second translation stage for guests that are hypervisors later.
//  - A walk changes nothing (accessed, dirty) unless the access is permitted; then it sets the bits
//    by compare-and-swap, since other processors and the guest's own stores race with it.
#pragma once

#include "x86/mem.h"

// A completed walk.
struct x86_walk {
    gpa_t gpa;     // of the byte asked for, after the A20 gate
    uint8_t shift; // log2 of the mapping's size
    bool user;     // U/S of all levels
    bool writable; // R/W of all levels
    bool nx;       // XD of any level
    bool dirty;    // the leaf's D bit is set now
    bool global;   // the leaf's G bit, when CR4.PGE
};

// Translates `lin` (canonical, or below 4 GiB outside long mode) for an access of kind X86_ACCESS_
// by `set`. Returns true with *walk, or false with the #PF error code. Sets accessed and dirty
// bits.
bool x86_page_walk(struct x86_cpu *cpu, gva_t lin, enum x86_tlb_set set, unsigned access,
                   struct x86_walk *walk, uint32_t *error);
// What `set` may do with a page (X86_ACCESS_ bits); the walk's verdict and the TLB's tags.
unsigned x86_page_rights(const struct x86_cpu *cpu, enum x86_tlb_set set,
                         const struct x86_walk *walk);

// PAE paging: reads the four PDPTEs that `cr3` points to. False when one has reserved bits set
// (#GP(0) for MOV CR); `out` is then undefined.
bool x86_pdpte_load(struct x86_cpu *cpu, uint64_t cr3, uint64_t out[4]);

// Where one byte of guest memory is.
struct x86_span {
    uint8_t *host;               // RAM or ROM: host address of the byte; NULL: device or nothing
    _Atomic uint8_t *flags;      // with host
    struct x86_tlb_entry *entry; // with host: its TLB entry
    gpa_t gpa;                   // of the byte
    bool rom;                    // stores go nowhere
};
// Through the TLB or a walk. Raises #PF, or #GP(0)/#SS(0) when lin is not canonical.
void x86_translate(struct x86_cpu *cpu, unsigned seg, gva_t lin, enum x86_tlb_set set,
                   unsigned access, struct x86_span *span);

// The set that fills and translations of the current accessor use (never X86_TLB_ALIGN).
ALWAYS_INLINE enum x86_tlb_set x86_tlb_current(const struct x86_cpu *cpu)
{
    unsigned set = (unsigned)(cpu->tlb->cur - cpu->tlb->set[0]) >> X86_TLB_BITS;
    return set == X86_TLB_ALIGN ? X86_TLB_USER : (enum x86_tlb_set)set;
}
ALWAYS_INLINE bool x86_tlb_align_checked(const struct x86_cpu *cpu)
{
    return cpu->tlb->cur == cpu->tlb->set[X86_TLB_ALIGN];
}
// The set of accesses the processor makes on its own (descriptor tables, TSS).
ALWAYS_INLINE enum x86_tlb_set x86_tlb_implicit(const struct x86_cpu *cpu)
{
    return (cpu->cr4 & X86_CR4_SMAP) ? X86_TLB_SUPERVISOR_SMAP : X86_TLB_SUPERVISOR;
}
