// SPDX-License-Identifier: Apache-2.0
// The address space is three sorted lists: RAM and ROM blocks, MMIO regions, PIO regions. RAM lookups
// take no lock: blocks are only added while the board is built, before a vCPU runs. Device regions come
// and go (PCI BARs) under the board lock, which dispatch holds.
#include "memory/memory.h"
#include "base/log.h"
#include <errno.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_BLOCKS 32

struct ram_block {
    const char *name;
    gpa_t gpa;
    uint64_t size;
    uint8_t *host;
    _Atomic uint8_t *flags; // one byte per page
    bool rom;
};

struct io_space {
    struct io_region *regions; // sorted by base
    size_t count;
    struct io_region *last; // the region found last: guests poll
};

struct memory {
    struct ram_block blocks[MAX_BLOCKS]; // sorted by gpa
    size_t block_count;
    struct io_space mmio, pio;
    pthread_mutex_t lock;
    struct memory_listener *listeners;
    _Atomic uint64_t a20_mask;
    bool membarrier; // the private expedited kind is registered
};

struct memory *memory_create(struct error *err)
{
    struct memory *memory = calloc(1, sizeof(*memory));
    if (!memory) {
        error_set(err, ERROR_HOST, "out of memory for the address space");
        return NULL;
    }
    pthread_mutex_init(&memory->lock, NULL);
    memory->a20_mask = ~UINT64_C(0);
    memory->membarrier =
        syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
    return memory;
}

void memory_destroy(struct memory *memory)
{
    if (!memory)
        return;
    for (size_t i = 0; i < memory->block_count; i++) {
        munmap(memory->blocks[i].host, memory->blocks[i].size);
        free((void *)memory->blocks[i].flags);
    }
    free(memory->mmio.regions);
    free(memory->pio.regions);
    pthread_mutex_destroy(&memory->lock);
    free(memory);
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

static void notify_changed(struct memory *memory, gpa_t gpa, uint64_t size)
{
    for (struct memory_listener *l = memory->listeners; l; l = l->next)
        if (l->changed)
            l->changed(l->opaque, gpa, size);
}

// --- RAM and ROM -------------------------------------------------------------------------------------

static struct ram_block *add_block(struct memory *memory, const char *name, gpa_t gpa,
                                   uint64_t size, bool rom, struct error *err)
{
    size_t at = 0;

    if ((gpa | size) & PAGE_OFFSET_MASK || size == 0 || gpa + size < gpa) {
        error_set(err, ERROR_USAGE, "memory '%s': base and size must be whole pages", name);
        return NULL;
    }
    if (memory->block_count == MAX_BLOCKS) {
        error_set(err, ERROR_USAGE, "memory '%s': too many memory blocks (%d)", name, MAX_BLOCKS);
        return NULL;
    }
    for (size_t i = 0; i < memory->block_count; i++) {
        struct ram_block *b = &memory->blocks[i];
        if (overlap(gpa, size, b->gpa, b->size)) {
            error_set(err, ERROR_USAGE, "memory '%s' overlaps '%s'", name, b->name);
            return NULL;
        }
        if (b->gpa < gpa)
            at = i + 1;
    }
    uint8_t *host = mmap(NULL, size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (host == MAP_FAILED) {
        error_set(err, ERROR_HOST,
                  "cannot map %llu MiB of guest memory: %s; use a smaller --memory",
                  (unsigned long long)(size >> 20), strerror(errno));
        return NULL;
    }
    madvise(host, size, MADV_HUGEPAGE); // fewer host TLB misses; a hint only
    uint8_t *flags = calloc(size >> PAGE_SHIFT, 1);
    if (!flags) {
        munmap(host, size);
        error_set(err, ERROR_HOST, "out of memory for the page flags of '%s'", name);
        return NULL;
    }
    if (rom)
        memset(flags, PAGE_FLAG_ROM, size >> PAGE_SHIFT);
    memmove(&memory->blocks[at + 1], &memory->blocks[at],
            (memory->block_count - at) * sizeof(memory->blocks[0]));
    memory->blocks[at] = (struct ram_block){.name = name,
                                            .gpa = gpa,
                                            .size = size,
                                            .host = host,
                                            .flags = (_Atomic uint8_t *)flags,
                                            .rom = rom};
    memory->block_count++;
    return &memory->blocks[at];
}

int memory_add_ram(struct memory *memory, const char *name, gpa_t gpa, uint64_t size,
                   struct error *err)
{
    return add_block(memory, name, gpa, size, false, err) ? 0 : -1;
}

int memory_add_rom(struct memory *memory, const char *name, gpa_t gpa, const void *data,
                   uint64_t size, struct error *err)
{
    uint64_t whole = (size + PAGE_OFFSET_MASK) & PAGE_MASK;
    struct ram_block *block = add_block(memory, name, gpa, whole, true, err);
    if (!block)
        return -1;
    memcpy(block->host, data, size);
    return 0;
}

uint64_t memory_ram_size(const struct memory *memory)
{
    uint64_t size = 0;
    for (size_t i = 0; i < memory->block_count; i++)
        if (!memory->blocks[i].rom)
            size += memory->blocks[i].size;
    return size;
}

gpa_t memory_mask(const struct memory *memory, gpa_t gpa)
{
    return gpa & atomic_load_explicit(&memory->a20_mask, memory_order_relaxed);
}

bool memory_a20(const struct memory *memory)
{
    return atomic_load_explicit(&memory->a20_mask, memory_order_relaxed) == ~UINT64_C(0);
}

void memory_set_a20(struct memory *memory, bool enabled)
{
    if (memory_a20(memory) == enabled)
        return;
    memory->a20_mask = enabled ? ~UINT64_C(0) : ~(UINT64_C(1) << 20);
    notify_changed(memory, 0, UINT64_MAX);
}

static struct ram_block *find_block(struct memory *memory, gpa_t gpa)
{
    // A handful of blocks: a scan is as quick as a search.
    for (size_t i = 0; i < memory->block_count; i++) {
        struct ram_block *b = &memory->blocks[i];
        if (gpa - b->gpa < b->size)
            return b;
    }
    return NULL;
}

bool memory_page(struct memory *memory, gpa_t gpa, struct memory_page *page)
{
    gpa = memory_mask(memory, gpa);
    struct ram_block *block = find_block(memory, gpa);
    if (!block)
        return false;
    uint64_t index = (gpa - block->gpa) >> PAGE_SHIFT;
    page->host = block->host + (index << PAGE_SHIFT);
    page->flags = &block->flags[index];
    return true;
}

// Whether [gpa, gpa+size) lies in RAM or ROM blocks, possibly several.
static bool range_is_memory(struct memory *memory, gpa_t gpa, uint64_t size)
{
    if (gpa + size < gpa)
        return false;
    while (size > 0) {
        struct ram_block *block = find_block(memory, gpa);
        if (!block)
            return false;
        uint64_t part = block->gpa + block->size - gpa;
        if (part >= size)
            return true;
        gpa += part;
        size -= part;
    }
    return true;
}

bool memory_read(struct memory *memory, gpa_t gpa, void *data, uint64_t size)
{
    if (!range_is_memory(memory, gpa, size))
        return false;
    for (uint8_t *out = data; size > 0;) {
        struct ram_block *block = find_block(memory, gpa);
        uint64_t offset = gpa - block->gpa, part = block->size - offset;
        if (part > size)
            part = size;
        memcpy(out, block->host + offset, part);
        out += part;
        gpa += part;
        size -= part;
    }
    return true;
}

bool memory_write(struct memory *memory, gpa_t gpa, const void *data, uint64_t size)
{
    if (!range_is_memory(memory, gpa, size))
        return false;
    for (const uint8_t *in = data; size > 0;) {
        struct ram_block *block = find_block(memory, gpa);
        uint64_t offset = gpa - block->gpa, part = PAGE_SIZE - (gpa & PAGE_OFFSET_MASK);
        if (part > size)
            part = size;
        if (!block->rom) {
            _Atomic uint8_t *flags = &block->flags[offset >> PAGE_SHIFT];
            memcpy(block->host + offset, in, part);
            atomic_signal_fence(memory_order_seq_cst); // the flag is read after the store
            if (*flags != PAGE_FLAGS_PLAIN)
                memory_page_stored(memory, NULL, gpa, part, flags);
        }
        in += part;
        gpa += part;
        size -= part;
    }
    return true;
}

// --- dirty pages and code ----------------------------------------------------------------------------

void memory_page_stored(struct memory *memory, void *writer, gpa_t gpa, uint64_t size,
                        _Atomic uint8_t *flags)
{
    uint8_t old = atomic_fetch_or(flags, PAGE_FLAG_DIRTY);
    if (!(old & PAGE_FLAG_CODE))
        return;
    gpa = memory_mask(memory, gpa);
    for (struct memory_listener *l = memory->listeners; l; l = l->next)
        if (l->code_written)
            l->code_written(l->opaque, writer, gpa, size);
}

void memory_code_mark(struct memory *memory, gpa_t gpa)
{
    struct memory_page page;
    if (!memory_page(memory, gpa, &page) || (*page.flags & PAGE_FLAG_CODE))
        return;
    atomic_fetch_or(page.flags, PAGE_FLAG_CODE);
    // Threads that stored to the page just before must be seen by us, and threads that store from now
    // on must see the flag. Without membarrier(2) a full fence here is all there is; the host would
    // have to be older than Linux 4.14.
    if (memory->membarrier)
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
    atomic_thread_fence(memory_order_seq_cst);
}

void memory_code_unmark(struct memory *memory, gpa_t gpa)
{
    struct memory_page page;
    if (memory_page(memory, gpa, &page))
        atomic_fetch_and(page.flags, (uint8_t)~PAGE_FLAG_CODE);
}

// --- device registers ----------------------------------------------------------------------------------

void memory_lock(struct memory *memory)
{
    pthread_mutex_lock(&memory->lock);
}

void memory_unlock(struct memory *memory)
{
    pthread_mutex_unlock(&memory->lock);
}

void memory_add_listener(struct memory *memory, struct memory_listener *listener)
{
    listener->next = memory->listeners;
    memory->listeners = listener;
}

void memory_remove_listener(struct memory *memory, struct memory_listener *listener)
{
    struct memory_listener **link = &memory->listeners;
    while (*link && *link != listener)
        link = &(*link)->next;
    if (*link)
        *link = listener->next;
}

static int io_add(struct io_space *space, const struct io_region *region, uint64_t limit,
                  struct error *err)
{
    size_t at = 0;

    if (region->size == 0 || region->base + region->size - 1 < region->base ||
        region->base + region->size - 1 > limit)
        return error_set(err, ERROR_USAGE, "device range '%s' is empty or leaves the address space",
                         region->name);
    for (size_t i = 0; i < space->count; i++) {
        struct io_region *r = &space->regions[i];
        if (overlap(region->base, region->size, r->base, r->size))
            return error_set(err, ERROR_USAGE, "device range '%s' overlaps '%s'", region->name,
                             r->name);
        if (r->base < region->base)
            at = i + 1;
    }
    struct io_region *grown = realloc(space->regions, (space->count + 1) * sizeof(*grown));
    if (!grown)
        return error_set(err, ERROR_HOST, "out of memory for the device range '%s'", region->name);
    space->regions = grown;
    space->last = NULL;
    memmove(&grown[at + 1], &grown[at], (space->count - at) * sizeof(*grown));
    grown[at] = *region;
    space->count++;
    return 0;
}

static bool io_remove(struct io_space *space, uint64_t base, void *opaque)
{
    for (size_t i = 0; i < space->count; i++) {
        if (space->regions[i].base == base && space->regions[i].opaque == opaque) {
            memmove(&space->regions[i], &space->regions[i + 1],
                    (space->count - i - 1) * sizeof(space->regions[0]));
            space->count--;
            space->last = NULL;
            return true;
        }
    }
    return false;
}

int memory_add_mmio(struct memory *memory, const struct io_region *region, struct error *err)
{
    for (size_t i = 0; i < memory->block_count; i++) {
        struct ram_block *b = &memory->blocks[i];
        if (overlap(region->base, region->size, b->gpa, b->size))
            return error_set(err, ERROR_USAGE, "device range '%s' overlaps memory '%s'",
                             region->name, b->name);
    }
    return io_add(&memory->mmio, region, UINT64_MAX, err);
}

int memory_add_pio(struct memory *memory, const struct io_region *region, struct error *err)
{
    return io_add(&memory->pio, region, 0xffff, err);
}

void memory_remove_mmio(struct memory *memory, gpa_t base, void *opaque)
{
    io_remove(&memory->mmio, base, opaque);
}

void memory_remove_pio(struct memory *memory, uint64_t base, void *opaque)
{
    io_remove(&memory->pio, base, opaque);
}

static struct io_region *io_find(struct io_space *space, uint64_t address)
{
    if (space->last && address - space->last->base < space->last->size)
        return space->last;
    size_t low = 0, high = space->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        struct io_region *r = &space->regions[middle];
        if (address < r->base)
            high = middle;
        else if (address - r->base >= r->size)
            low = middle + 1;
        else
            return space->last = r;
    }
    return NULL;
}

static uint64_t ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (size * 8)) - 1;
}

// The widest access at `address` that one region serves: at most `size`, at most the region's
// maximum, not beyond its end. Unclaimed bytes go one by one.
static unsigned io_part(const struct io_region *r, uint64_t address, unsigned size)
{
    unsigned max, part = size;
    if (!r)
        return 1;
    max = r->ops->max_size ? r->ops->max_size : 8;
    while (part > max || part > r->base + r->size - address || (part & (part - 1)))
        part--;
    return part;
}

static uint64_t io_read(struct io_space *space, uint64_t address, unsigned size)
{
    uint64_t value = 0;
    for (unsigned done = 0, part; done < size; done += part) {
        struct io_region *r = io_find(space, address + done);
        part = io_part(r, address + done, size - done);
        uint64_t v = ones(part);
        if (r && r->ops->read && part >= r->ops->min_size)
            v = r->ops->read(r->opaque, address + done - r->base, part) & ones(part);
        value |= v << (done * 8);
    }
    return value;
}

static void io_write(struct io_space *space, uint64_t address, uint64_t value, unsigned size)
{
    for (unsigned done = 0, part; done < size; done += part) {
        struct io_region *r = io_find(space, address + done);
        part = io_part(r, address + done, size - done);
        if (r && r->ops->write && part >= r->ops->min_size)
            r->ops->write(r->opaque, address + done - r->base, (value >> (done * 8)) & ones(part),
                          part);
    }
}

uint64_t memory_mmio_read(struct memory *memory, gpa_t gpa, unsigned size)
{
    memory_lock(memory);
    uint64_t value = io_read(&memory->mmio, memory_mask(memory, gpa), size);
    memory_unlock(memory);
    return value;
}

void memory_mmio_write(struct memory *memory, gpa_t gpa, uint64_t value, unsigned size)
{
    memory_lock(memory);
    io_write(&memory->mmio, memory_mask(memory, gpa), value, size);
    memory_unlock(memory);
}

uint64_t memory_pio_read(struct memory *memory, uint16_t port, unsigned size)
{
    memory_lock(memory);
    uint64_t value = io_read(&memory->pio, port, size);
    memory_unlock(memory);
    return value;
}

void memory_pio_write(struct memory *memory, uint16_t port, uint64_t value, unsigned size)
{
    memory_lock(memory);
    io_write(&memory->pio, port, value, size);
    memory_unlock(memory);
}
