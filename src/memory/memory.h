// SPDX-License-Identifier: Apache-2.0
// The guest-physical address space: RAM, ROM, and the registers of devices behind memory (MMIO) and
// ports (PIO). Engines and devices meet here and nowhere else.
//
// Rules to keep:
//  - RAM may be private-mapped from a file or shared with siblings: nothing assumes it is anonymous.
//  - Overlapping ranges are refused; unclaimed reads give all-ones, unclaimed writes go nowhere.
//  - The board lock guards every device. MMIO/PIO dispatch takes it; RAM accesses never do.
//  - Writes to RAM go through a post-store check of the page's flags (below), so that dirty tracking
//    and self-modifying code cost one load and one predicted branch.
#pragma once

#include "base/error.h"
#include "base/types.h"
#include <pthread.h>
#include <stdatomic.h>

// A device's registers. `offset` is relative to the region. size is 1, 2, 4 or 8 (PIO: 1, 2, 4).
// Accesses wider than max_size are split by the dispatcher into consecutive narrower ones (little
// endian), narrower than min_size are refused (reads all-ones, writes dropped). Zero means 1 and 8.
struct io_ops {
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
    void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size);
    uint8_t min_size, max_size;
};

struct io_region {
    const char *name;
    uint64_t base, size;
    const struct io_ops *ops;
    void *opaque;
};

// One byte of flags per RAM page.
#define PAGE_FLAG_DIRTY 0x01 // written since the dirty log was last read
#define PAGE_FLAG_CODE 0x02  // some engine holds decoded or translated code from it
#define PAGE_FLAG_ROM 0x04   // guest writes go nowhere
// After a store: if (*flags != PAGE_FLAGS_PLAIN) memory_page_stored(...).
#define PAGE_FLAGS_PLAIN PAGE_FLAG_DIRTY

// Whoever caches something derived from the address space.
struct memory_listener {
    // Host pages behind [gpa, gpa+size) appeared, vanished or changed (also: A20, PAM). Called with all
    // vCPUs able to run: the listener must arrange its own flush (engines: post a TLB flush event).
    void (*changed)(void *opaque, gpa_t gpa, uint64_t size);
    // Bytes of a page with PAGE_FLAG_CODE were written, by a vCPU or by a device. Called on the writing
    // thread, after the store; `writer` is the engine vCPU that stored, or NULL.
    void (*code_written)(void *opaque, void *writer, gpa_t gpa, uint64_t size);
    void *opaque;
    struct memory_listener *next;
};

struct memory_page {
    uint8_t *host;          // host address of the page's first byte
    _Atomic uint8_t *flags; // its PAGE_FLAG_ byte
};

struct memory;

struct memory *memory_create(struct error *err);
void memory_destroy(struct memory *memory);

// Backs [gpa, gpa+size) with zeroed anonymous RAM (page-aligned). Returns 0 or -1 with err set.
int memory_add_ram(struct memory *memory, const char *name, gpa_t gpa, uint64_t size,
                   struct error *err);
// Read-only memory with this content, padded with zeroes to whole pages.
int memory_add_rom(struct memory *memory, const char *name, gpa_t gpa, const void *data,
                   uint64_t size, struct error *err);
int memory_add_mmio(struct memory *memory, const struct io_region *region, struct error *err);
int memory_add_pio(struct memory *memory, const struct io_region *region, struct error *err);
// Removes the region that was added with this base and opaque (PCI BARs move). Board lock held.
void memory_remove_mmio(struct memory *memory, gpa_t base, void *opaque);
void memory_remove_pio(struct memory *memory, uint64_t base, void *opaque);
void memory_add_listener(struct memory *memory, struct memory_listener *listener);
void memory_remove_listener(struct memory *memory, struct memory_listener *listener);

void memory_lock(struct memory *memory); // the board lock; not recursive
void memory_unlock(struct memory *memory);

uint64_t memory_ram_size(const struct memory *memory);

// The RAM or ROM page at gpa, or false (MMIO or nothing). Never takes a lock: safe from vCPU threads.
// Applies the A20 mask first.
bool memory_page(struct memory *memory, gpa_t gpa, struct memory_page *page);
// The A20 gate: off means that address bit 20 is forced to 0. Notifies listeners on change.
void memory_set_a20(struct memory *memory, bool enabled);
bool memory_a20(const struct memory *memory);
gpa_t memory_mask(const struct memory *memory, gpa_t gpa); // gpa with the A20 mask applied

// Device registers; takes the board lock. `size` 1, 2, 4, 8; gpa need not be aligned.
uint64_t memory_mmio_read(struct memory *memory, gpa_t gpa, unsigned size);
void memory_mmio_write(struct memory *memory, gpa_t gpa, uint64_t value, unsigned size);
uint64_t memory_pio_read(struct memory *memory, uint16_t port, unsigned size);
void memory_pio_write(struct memory *memory, uint16_t port, uint64_t value, unsigned size);

// Copies between the host and guest RAM/ROM (never device registers). False when any byte of the range
// is not RAM (nothing is copied then) or the range wraps. Used by devices' DMA and by loaders.
// memory_write honours dirty and code tracking; writes to ROM are dropped.
bool memory_read(struct memory *memory, gpa_t gpa, void *data, uint64_t size);
bool memory_write(struct memory *memory, gpa_t gpa, const void *data, uint64_t size);

// To be called after a store to RAM whose page flags were not PAGE_FLAGS_PLAIN: sets DIRTY, tells the
// listeners about code. `writer` as in code_written.
void memory_page_stored(struct memory *memory, void *writer, gpa_t gpa, uint64_t size,
                        _Atomic uint8_t *flags);

// Declares that code from this page is about to be read into a cache. On return, every store to the page
// by any thread is either visible to the caller or will reach code_written: the flag is set, then
// membarrier(2) makes each running thread's earlier stores visible (a storing thread checks the flag
// after its store). Cheap when the flag is already set.
void memory_code_mark(struct memory *memory, gpa_t gpa);
// No cache holds code of this page any more (caller guarantees it for all vCPUs).
void memory_code_unmark(struct memory *memory, gpa_t gpa);
