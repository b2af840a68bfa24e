// SPDX-License-Identifier: Apache-2.0
// Guest memory as instructions see it: segment check, paging through the software TLB, RAM or
// device. A fault leaves by x86_raise() before anything was changed.
//
//   seg:off  --x86_lin-->  linear  --TLB, walk-->  physical  --memory.h-->  RAM or device
//
// All accessors take a segment register number and an offset already truncated to the address size.
// Accesses may be unaligned and may cross a page: both pages are checked before a byte moves.
#pragma once

#include "x86/state.h"

// One TLB entry. A tag holds the linear page address when that kind of access may use the entry
// without further checks, else x86_tlb_invalid() of the entry. RAM only: device pages are
// never entered, ROM pages and pages with an armed data breakpoint lack the tags that would skip
// their checks.
struct x86_tlb_entry {
    uint64_t tag_read, tag_write, tag_exec;
    uintptr_t addend;       // host address = linear address + addend
    _Atomic uint8_t *flags; // the page's PAGE_FLAG_ byte, checked after each store
    gpa_t gpa;              // guest-physical address of the page
    uint64_t page;  // linear page address, whatever the tags say; x86_tlb_invalid() when empty
    uint64_t shift; // log2 of the size of the mapping it is a part of (12, 21, 22, 30)
};

#define X86_TLB_BITS 10
#define X86_TLB_ENTRIES (1u << X86_TLB_BITS)
// A page that other entries are asked for: neither is it any page that this one is asked for, nor does an address
// that this one is asked for lie within 4 KiB behind it (translated code compares distances).
ALWAYS_INLINE gva_t x86_tlb_invalid(unsigned entry)
{
    return (gva_t)(entry ^ X86_TLB_ENTRIES / 2) << PAGE_SHIFT;
}

// One set of entries for each kind of accessor, so that a privilege change needs no flush. The last
// one is never filled: it is current while alignment is checked, and sends every access to the slow
// path.
enum x86_tlb_set {
    X86_TLB_SUPERVISOR,      // CPL 0..2, may touch user pages
    X86_TLB_SUPERVISOR_SMAP, // CPL 0..2, may not (CR4.SMAP and not RFLAGS.AC)
    X86_TLB_USER,            // CPL 3
    X86_TLB_ALIGN,           // CPL 3 with alignment checks; translates as X86_TLB_USER
    X86_TLB_SETS
};

// Bitmaps over the entries of a set, so that a flush costs what was filled, not what could be.
#define X86_TLB_WORDS (X86_TLB_ENTRIES / 64)
struct x86_tlb_map {
    uint64_t local[X86_TLB_WORDS];  // in use, not global
    uint64_t global[X86_TLB_WORDS]; // in use, global
    uint64_t large[X86_TLB_WORDS];  // in use, part of a mapping larger than 4 KiB
};

// A page table that a walk found, with the rights of the levels above: the processor's paging-structure
// cache (SDM vol. 3, 4.10.3). Valid while `generation` is the TLB's.
struct x86_tlb_table {
    uint64_t region; // linear address >> 21
    uint64_t generation;
    uint8_t *host;
    _Atomic uint8_t *flags;
    gpa_t gpa;
    bool user, writable, nx;
};
#define X86_TLB_TABLES 64

struct x86_tlb {
    struct x86_tlb_entry *cur; // the set for the current CPL and AC: x86_tlb_select()
    uint64_t generation;       // of table[]: every flush starts a new one
    struct x86_tlb_table table[X86_TLB_TABLES];
    struct x86_tlb_map map[X86_TLB_ALIGN];
    uint64_t hits_slow, misses, walks, flushes; // counters for --stats
    struct x86_tlb_entry set[X86_TLB_SETS][X86_TLB_ENTRIES] __attribute__((aligned(64)));
};

int x86_tlb_create(struct x86_cpu *cpu); // allocates cpu->tlb; -1 when memory is exhausted
void x86_tlb_destroy(struct x86_cpu *cpu);
void x86_tlb_flush_all(struct x86_cpu *cpu);             // everything, global pages too
void x86_tlb_flush_nonglobal(struct x86_cpu *cpu);       // MOV CR3 (may flush more)
void x86_tlb_flush_page(struct x86_cpu *cpu, gva_t lin); // INVLPG
// Makes the set for the current CPL, CR0.AM, CR4.SMAP and RFLAGS.AC current; x86_mode_changed()
// calls it. Does nothing when there is no TLB.
void x86_tlb_select(struct x86_cpu *cpu);

ALWAYS_INLINE struct x86_tlb_entry *x86_tlb_entry(struct x86_cpu *cpu, gva_t lin)
{
    return &cpu->tlb->cur[(lin >> PAGE_SHIFT) & (X86_TLB_ENTRIES - 1)];
}

// Segment limit and type check for [off, off+size), slow path: raises #GP(0)/#SS(0), or returns.
void x86_seg_check(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned size, unsigned access);

ALWAYS_INLINE gva_t x86_lin(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned size,
                            unsigned access)
{
    struct x86_seg *s = &cpu->seg[seg];
    // In 64-bit mode FS and GS with a base come here too, for the canonical form of the offset alone.
    if (unlikely((s->unchecked & access) != access) &&
        !(cpu->code_size == X86_CODE64 && (uint64_t)((int64_t)(off << 16) >> 16) == off &&
          (uint64_t)((int64_t)((off + size - 1) << 16) >> 16) == off + size - 1))
        x86_seg_check(cpu, seg, off, size, access);
    return (s->eff_base + off) & cpu->lin_mask;
}

// Slow paths: page crossing, TLB miss, device memory, alignment checks (AC). `seg` decides between
// #GP and #SS for non-canonical addresses.
uint64_t x86_read_slow(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned size);
void x86_write_slow(struct x86_cpu *cpu, unsigned seg, gva_t lin, uint64_t value, unsigned size);

// True when a host access of `size` bytes at lin hits `tag` and stays in the page. Alignment
// checking (CR0.AM, AC, CPL 3) is done by giving such code a TLB set that never holds entries.
ALWAYS_INLINE bool x86_tlb_hit(uint64_t tag, gva_t lin, unsigned size)
{
    return likely(((lin + size - 1) & PAGE_MASK) == tag);
}

// After a store through a TLB entry: dirty tracking and self-modifying code.
ALWAYS_INLINE void x86_stored(struct x86_cpu *cpu, struct x86_tlb_entry *e, gva_t lin,
                              unsigned size)
{
    __asm__ volatile("" ::: "memory"); // the flag is read after the store (memory_code_mark)
    if (unlikely(atomic_load_explicit(e->flags, memory_order_relaxed) != PAGE_FLAGS_PLAIN))
        memory_page_stored(cpu->platform->memory, cpu->engine_vcpu,
                           e->gpa | (lin & PAGE_OFFSET_MASK), size, e->flags);
}

#define X86_DEFINE_ACCESS(bits)                                                                  \
    ALWAYS_INLINE uint##bits##_t x86_read##bits(struct x86_cpu *cpu, unsigned seg, uint64_t off) \
    {                                                                                            \
        gva_t lin = x86_lin(cpu, seg, off, bits / 8, X86_ACCESS_READ);                           \
        struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);                                       \
        if (x86_tlb_hit(e->tag_read, lin, bits / 8)) {                                           \
            uint##bits##_t v;                                                                    \
            __builtin_memcpy(&v, (void *)(lin + e->addend), bits / 8);                           \
            return v;                                                                            \
        }                                                                                        \
        return (uint##bits##_t)x86_read_slow(cpu, seg, lin, bits / 8);                           \
    }                                                                                            \
    ALWAYS_INLINE void x86_write##bits(struct x86_cpu *cpu, unsigned seg, uint64_t off,          \
                                       uint##bits##_t v)                                         \
    {                                                                                            \
        gva_t lin = x86_lin(cpu, seg, off, bits / 8, X86_ACCESS_WRITE);                          \
        struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);                                       \
        if (x86_tlb_hit(e->tag_write, lin, bits / 8)) {                                          \
            __builtin_memcpy((void *)(lin + e->addend), &v, bits / 8);                           \
            x86_stored(cpu, e, lin, bits / 8);                                                   \
            return;                                                                              \
        }                                                                                        \
        x86_write_slow(cpu, seg, lin, v, bits / 8);                                              \
    }

X86_DEFINE_ACCESS(8)
X86_DEFINE_ACCESS(16)
X86_DEFINE_ACCESS(32)
X86_DEFINE_ACCESS(64)

// Read-modify-write of 1, 2, 4, 8 or 16 bytes: checked for writing first, so that a read-only page
// faults as a write. Usage:
//     struct x86_rmw m;
//     x86_rmw_begin(cpu, &m, seg, off, size);   may raise
//     if (m.host) { plain or atomic access to m.host } else { x86_rmw_load / x86_rmw_store }
//     x86_rmw_end(cpu, &m);                      after the store
// host is NULL for device memory and for operands that cross into a page that is not adjacent in
// host memory; load/store then do it byte-wise (LOCK is not atomic there against other vCPUs,
// except that two such accesses exclude each other: see CAVEATS). Nothing between begin and end may
// raise or touch other guest memory, and every begin that returned needs its end, stored or not.
struct x86_rmw {
    uint8_t *host;
    gva_t lin;
    unsigned size, seg;
    struct x86_tlb_entry *entry;
    uint64_t private_[6];
};
void x86_rmw_begin_slow(struct x86_cpu *cpu, struct x86_rmw *m, unsigned seg, gva_t lin,
                        unsigned size);
ALWAYS_INLINE void x86_rmw_begin(struct x86_cpu *cpu, struct x86_rmw *m, unsigned seg, uint64_t off,
                                 unsigned size)
{
    gva_t lin = x86_lin(cpu, seg, off, size, X86_ACCESS_READ | X86_ACCESS_WRITE);
    struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);
    m->lin = lin;
    m->size = size;
    m->seg = seg;
    if (x86_tlb_hit(e->tag_write, lin, size)) {
        m->host = (uint8_t *)(lin + e->addend);
        m->entry = e;
        return;
    }
    x86_rmw_begin_slow(cpu, m, seg, lin, size);
}
uint64_t x86_rmw_load(struct x86_cpu *cpu, struct x86_rmw *m);              // size <= 8, host NULL
void x86_rmw_store(struct x86_cpu *cpu, struct x86_rmw *m, uint64_t value); // size <= 8, host NULL
void x86_rmw_end_slow(struct x86_cpu *cpu, struct x86_rmw *m);
ALWAYS_INLINE void x86_rmw_end(struct x86_cpu *cpu, struct x86_rmw *m)
{
    if (likely(m->entry != NULL))
        x86_stored(cpu, m->entry, m->lin, m->size);
    else
        x86_rmw_end_slow(cpu, m);
}

// A 16-byte operand without a host address: the half at `part` (0 or 8) of it.
uint64_t x86_rmw_load_part(struct x86_cpu *cpu, struct x86_rmw *m, unsigned part);
void x86_rmw_store_part(struct x86_cpu *cpu, struct x86_rmw *m, unsigned part, uint64_t value);

// Blocks of any size up to 4096 bytes (vectors, FXSAVE, stack frames). x86_write_check makes sure
// that the whole range can be written, so that a multi-part store is all or nothing.
void x86_read_block_slow(struct x86_cpu *cpu, unsigned seg, gva_t lin, void *data, unsigned size);
void x86_write_block_slow(struct x86_cpu *cpu, unsigned seg, gva_t lin, const void *data,
                          unsigned size);
void x86_write_check_slow(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned size);
// Raises #GP or #SS unless the operand ends within 4 GiB of a flat segment and is canonical as a whole: for those
// that access it in pieces.
void x86_end_check(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned size);

ALWAYS_INLINE void x86_read_block(struct x86_cpu *cpu, unsigned seg, uint64_t off, void *data,
                                  unsigned size)
{
    gva_t lin = x86_lin(cpu, seg, off, size, X86_ACCESS_READ);
    struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);
    if (x86_tlb_hit(e->tag_read, lin, size))
        __builtin_memcpy(data, (void *)(lin + e->addend), size);
    else
        x86_read_block_slow(cpu, seg, lin, data, size);
}
ALWAYS_INLINE void x86_write_block(struct x86_cpu *cpu, unsigned seg, uint64_t off,
                                   const void *data, unsigned size)
{
    gva_t lin = x86_lin(cpu, seg, off, size, X86_ACCESS_WRITE);
    struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);
    if (x86_tlb_hit(e->tag_write, lin, size)) {
        __builtin_memcpy((void *)(lin + e->addend), data, size);
        x86_stored(cpu, e, lin, size);
    } else {
        x86_write_block_slow(cpu, seg, lin, data, size);
    }
}
ALWAYS_INLINE void x86_write_check(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned size)
{
    gva_t lin = x86_lin(cpu, seg, off, size, X86_ACCESS_WRITE);
    if (!x86_tlb_hit(x86_tlb_entry(cpu, lin)->tag_write, lin, size))
        x86_write_check_slow(cpu, seg, lin, size);
}

// The host bytes behind [lin, end of page) if that page is RAM and the current set permits the
// access (and no alignment check or data breakpoint is due there); else NULL. For string
// instructions on whole pages. May raise what the access would raise. *entry (may be NULL) is what
// x86_stored wants after a write; the next translation may recycle the entry, so ask for the page
// to be written last.
uint8_t *x86_host_ptr(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned access,
                      struct x86_tlb_entry **entry);

// Supervisor accesses that the processor itself makes at any CPL (descriptor tables, TSS, IDT):
// linear address, no segment, CPL 0 rights, SMAP applies as for implicit accesses.
uint64_t x86_sys_read(struct x86_cpu *cpu, gva_t lin, unsigned size);
void x86_sys_write(struct x86_cpu *cpu, gva_t lin, uint64_t value, unsigned size);
// Makes sure that x86_sys_write to [lin, lin+size) will not fault (size up to 4096).
void x86_sys_write_check(struct x86_cpu *cpu, gva_t lin, unsigned size);

// Code: the physical page and host bytes behind linear address `lin` for execution at the current
// CPL. Raises #PF with the I bit as due. host NULL: not RAM (device memory or nothing there).
struct x86_code_page {
    gpa_t gpa;     // of the page
    uint8_t *host; // of the page's first byte
};
struct x86_code_page x86_fetch_page(struct x86_cpu *cpu, gva_t lin);

// Page walk without side effects for debuggers and monitors: false when not mapped.
bool x86_translate_debug(struct x86_cpu *cpu, gva_t lin, gpa_t *gpa);
