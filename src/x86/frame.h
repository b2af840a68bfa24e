// SPDX-License-Identifier: Apache-2.0
// What translated code reaches from its base register beside the registers themselves: a part of struct
// x86_cpu, because both must be at fixed places from one address (engine/bt/bt.h tells the design).
//
// Page slots: the first level of the TLB. A slot belongs to places in translated code, not to an address;
// it holds the page such a place touched last. Valid means: a load (store) to that page by the current
// privilege set may go straight to page + addend, nothing else to be asked. Slots for stores are only filled
// for pages whose flags are PAGE_FLAGS_PLAIN.
//
// Rules to keep:
//  - Every TLB flush, whatever its extent, clears all slots and all of `mapped`.
//  - A slot that is filled stands in `filled`, once: a flush visits those and no others.
//  - A check takes what lies near an empty slot's `page` for a hit. That value is not canonical, so no right
//    access gets there; and a random number, so that no wrong one finds it.
#pragma once

#include "base/types.h"
#include <stdatomic.h>
#include <string.h>

struct x86_page_slot {
    _Atomic uint64_t
        page; // linear, or frame.no_page. Another thread may empty it: X86_FRAME_EMPTIED.
    _Atomic uint64_t addend; // host address = linear address + addend
};
#define X86_FRAME_NO_PAGE UINT64_C(0x8000000000000fff) // no_page without its random bits
#define X86_FRAME_RANDOM UINT64_C(0x3ffffffffffff000)  // where those are
#define X86_FRAME_UNLISTED 2 // of `page`: the slot is not in `filled`; clear in all pages

#define X86_FRAME_SETS 3    // supervisor, supervisor under SMAP, user: as enum x86_tlb_set
#define X86_FRAME_SLOTS 512 // of a kind in a set
enum x86_frame_kind {
    X86_FRAME_READ,
    X86_FRAME_WRITE,
    X86_FRAME_KINDS
};

#define X86_FRAME_MAPPED 512
#define X86_FRAME_TARGETS 2048 // entries of a table of indirect branch targets

struct x86_branch_target {
    uint64_t rip;
    uint64_t code; // host address; of the entry that checks the mapping
};

struct x86_code_frame {
    struct x86_page_slot slot[X86_FRAME_SETS][X86_FRAME_KINDS][X86_FRAME_SLOTS];
    // Addends of accesses that find their page in the TLB each time (engine/bt/access.c); `page` is not used.
    struct x86_page_slot loose[X86_FRAME_SLOTS];
    // Identities of code pages (linear page, physical page, mode) whose mapping is known to hold, by a hash
    // of the linear page number; 0: none.
    uint32_t mapped[X86_FRAME_MAPPED];
    struct x86_branch_target target[X86_FRAME_SETS][X86_FRAME_TARGETS];
    uint32_t target_context[X86_FRAME_SETS];                             // whose targets these are
    uint16_t filled[X86_FRAME_SETS * X86_FRAME_KINDS * X86_FRAME_SLOTS]; // byte offsets of slots

    struct x86_cpu *cpu; // that this is a part of
    uint64_t host_sp;    // where the C code stands that called translated code
    uint64_t scratch[6];
    uint64_t no_page;      // of an empty slot
    uint64_t refills;      // counter: slots filled without a call
    uint32_t filled_count; // of `filled`
    uint32_t site;         // in translated code that called out
    uint32_t x87_site;     // a site behind the last x87 instruction of a block that was left, or 0
    uint8_t x87_seg;       // segment of the last x87 memory operand + 1; 0: cpu->x87.fds holds it
    uint32_t no_vec;       // 0: the vector registers are in the host's, cpu->vec is stale
    uint32_t want_vec;     // they have to be when translated code goes on
    uint16_t flags;        // as LAHF and SETO AL leave them in AX
    _Atomic uint32_t poll; // not 0: translated code is to be left at the next poll
    _Atomic uint32_t in_code; // translated code, or a helper that will return to it, runs
};

// Makes all slots empty, whatever they were. `random`: any bits.
static inline void x86_code_frame_init(struct x86_code_frame *frame, uint64_t random)
{
    frame->no_page = X86_FRAME_NO_PAGE | (random & X86_FRAME_RANDOM);
    frame->filled_count = 0;
    for (unsigned set = 0; set < X86_FRAME_SETS; set++)
        for (unsigned kind = 0; kind < X86_FRAME_KINDS; kind++)
            for (unsigned i = 0; i < X86_FRAME_SLOTS; i++)
                atomic_store_explicit(&frame->slot[set][kind][i].page, frame->no_page,
                                      memory_order_relaxed);
    memset(frame->mapped, 0, sizeof(frame->mapped));
}

// An empty slot that is in `filled`.
static inline uint64_t x86_code_frame_emptied(const struct x86_code_frame *frame)
{
    return frame->no_page & ~(uint64_t)X86_FRAME_UNLISTED;
}

// To be called before a slot is filled.
static inline void x86_code_frame_list(struct x86_code_frame *frame, struct x86_page_slot *slot)
{
    if (atomic_load_explicit(&slot->page, memory_order_relaxed) & X86_FRAME_UNLISTED)
        frame->filled[frame->filled_count++] = (uint16_t)((uint8_t *)slot - (uint8_t *)frame);
}

static inline void x86_code_frame_flush(struct x86_code_frame *frame)
{
    for (uint32_t i = 0; i < frame->filled_count; i++) {
        struct x86_page_slot *slot = (void *)((uint8_t *)frame + frame->filled[i]);
        atomic_store_explicit(&slot->page, frame->no_page, memory_order_relaxed);
    }
    frame->filled_count = 0;
    memset(frame->mapped, 0, sizeof(frame->mapped));
}
