// SPDX-License-Identifier: Apache-2.0
// The code cache and what is known about it: blocks by identity and by page, invalidation, eviction.
//
// Why no stale code runs: a page is marked as code (which takes it out of every write slot) before its bytes
// are read, and from then on every store to it goes through bt_code_written(). Killing a block turns its head
// into a jump out; who is inside it goes on to its end, as a processor may that has fetched ahead, and the
// storing vCPU itself leaves its block behind the store (runtime.c).
#include "base/log.h"
#include "engine/bt/bt.h"
#include "x86/mem.h"
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *reserve(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

bool bt_cache_create(struct bt *bt, uint64_t size, struct error *err)
{
    bt->size = size;
    bt->fd = memfd_create("croft-code", MFD_CLOEXEC);
    if (bt->fd < 0 || ftruncate(bt->fd, (off_t)size) < 0)
        goto fail;
    bt->rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, bt->fd, 0);
    bt->rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, bt->fd, 0);
    bt->arena_size = size;
    bt->arena = reserve(bt->arena_size);
    bt->sites_max = (uint32_t)(size / 32);
    bt->sites = reserve(bt->sites_max * sizeof(*bt->sites));
    if (bt->rw == MAP_FAILED || bt->rx == MAP_FAILED || !bt->arena || !bt->sites)
        goto fail;
    bt->context_count = 1; // 0: none
    bt_stubs_emit(bt);
    return true;
fail:
    error_set(err, ERROR_HOST, "cannot map %llu bytes of code memory: %s", (unsigned long long)size,
              strerror(errno));
    return false;
}

static void pages_free(struct bt *bt)
{
    for (unsigned i = 0; i < ARRAY_SIZE(bt->pages); i++) {
        struct bt_page *page = bt->pages[i], *next;
        for (; page; page = next) {
            next = page->next;
            interp_code_release(bt->engine, page->gfn << PAGE_SHIFT);
            free(page);
        }
        bt->pages[i] = NULL;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(bt->identities); i++) {
        struct bt_identity *id = bt->identities[i], *next;
        for (; id; id = next) {
            next = id->next;
            free(id);
        }
        bt->identities[i] = NULL;
    }
}

void bt_cache_destroy(struct bt *bt)
{
    pages_free(bt);
    if (bt->rw && bt->rw != MAP_FAILED)
        munmap(bt->rw, bt->size);
    if (bt->rx && bt->rx != MAP_FAILED)
        munmap(bt->rx, bt->size);
    if (bt->arena)
        munmap(bt->arena, bt->arena_size);
    if (bt->sites)
        munmap(bt->sites, bt->sites_max * sizeof(*bt->sites));
    if (bt->fd > 0)
        close(bt->fd);
}

void *bt_alloc(struct bt *bt, size_t size)
{
    size = (size + 15) & ~(size_t)15;
    if (bt->arena_used + size > bt->arena_size)
        return NULL;
    void *p = bt->arena + bt->arena_used;
    bt->arena_used += size;
    return p;
}

// --- all vCPUs out of translated code -----------------------------------------------------------------------

static _Thread_local struct bt_vcpu *bt_current;

void bt_current_set(struct bt_vcpu *v)
{
    bt_current = v;
}

void bt_stop_others(struct bt *bt)
{
    // Two that stop each other at once must both count as stopped. A helper does not return into code then.
    if (bt_current && bt_current->bt == bt)
        atomic_store(&bt_current->cpu->frame.in_code, 0);
    atomic_fetch_add(&bt->stop, 1);
    for (struct bt_vcpu *v = bt->vcpus; v; v = v->next) {
        atomic_store(&v->cpu->frame.poll, 1);
        while (atomic_load(&v->cpu->frame.in_code))
            sched_yield();
    }
}

void bt_release_others(struct bt *bt)
{
    atomic_fetch_sub(&bt->stop, 1);
}

void bt_cache_flush(struct bt *bt)
{
    bt_stop_others(bt);
    atomic_store(&bt->flush_wanted, false);
    for (unsigned i = 0; i < ARRAY_SIZE(bt->hash); i++)
        atomic_store_explicit(&bt->hash[i], NULL, memory_order_relaxed);
    pages_free(bt);
    bt->arena_used = 0;
    bt->site_count = 0;
    bt->identity_count = 0;
    bt->context_count = 1;
    bt->used = bt->stubs_end;
    bt->flushes++;
    for (struct bt_vcpu *v = bt->vcpus; v; v = v->next) {
        struct x86_code_frame *frame = &v->cpu->frame;
        memset(frame->mapped, 0, sizeof(frame->mapped));
        for (unsigned set = 0; set < X86_FRAME_SETS; set++)
            frame->target_context[set] = 0;
        v->context = 0;
        memset(v->recent, 0, sizeof(v->recent));
        v->link_site = 0;
    }
    bt_release_others(bt);
}

// --- pages ---------------------------------------------------------------------------------------------------

static struct bt_page **page_place(struct bt *bt, uint64_t gfn)
{
    struct bt_page **place = &bt->pages[gfn & (ARRAY_SIZE(bt->pages) - 1)];
    while (*place && (*place)->gfn != gfn)
        place = &(*place)->next;
    return place;
}

// Empties the slot if it leads to the page at `host`, or may: its owner may be filling it.
static bool slot_empty(struct x86_code_frame *frame, struct x86_page_slot *slot,
                       const uint8_t *host)
{
    bool may = false;
    for (;;) {
        uint64_t tag = atomic_load(&slot->page), addend = atomic_load(&slot->addend);
        if ((tag & 1) || (!may && tag + addend != (uintptr_t)host)) {
            if (atomic_load(&slot->page) == tag)
                return may;
        } else if (atomic_compare_exchange_strong(&slot->page, &tag,
                                                  x86_code_frame_emptied(frame))) {
            return true;
        }
        may = true; // it changed meanwhile
    }
}

// Empties the write slots that lead to the page. Another vCPU that had one may be just before its store: waits
// until it has left its block.
void bt_code_marked(void *opaque, gpa_t gpa)
{
    struct bt *bt = opaque;
    struct memory_page page;
    bool waits = false;
    if (!memory_page(bt->memory, gpa, &page))
        return;
    for (struct bt_vcpu *v = bt->vcpus; v; v = v->next) {
        // What went through the TLB is not seen here.
        bool had = atomic_load(&bt->any_scattered);
        for (unsigned set = 0; set < X86_FRAME_SETS; set++) {
            for (unsigned i = 0; i < X86_FRAME_SLOTS; i++)
                had |= slot_empty(&v->cpu->frame, &v->cpu->frame.slot[set][X86_FRAME_WRITE][i],
                                  page.host);
        }
        // One's own helper may be in a block whose check is done: such a block is left.
        if (had && v == bt_current)
            atomic_store(&v->cpu->frame.in_code, 0);
        waits |= had && v != bt_current && atomic_load(&v->cpu->frame.in_code);
    }
    if (waits) {
        bt_stop_others(bt);
        bt_release_others(bt);
    }
}

struct bt_page *bt_page_hold(struct bt *bt, gpa_t gpa)
{
    struct bt_page **place = page_place(bt, gpa >> PAGE_SHIFT), *page = *place;
    if (page)
        return page;
    page = calloc(1, sizeof(*page));
    if (!page || !interp_code_hold(bt->engine, gpa)) {
        free(page);
        return NULL;
    }
    page->gfn = gpa >> PAGE_SHIFT;
    *place = page;
    return page;
}

// --- blocks --------------------------------------------------------------------------------------------------

static unsigned block_hash(gpa_t gpa, uint64_t rip, uint32_t context)
{
    uint64_t h = (gpa ^ rip >> 12 ^ (uint64_t)context << 20) * UINT64_C(0x9e3779b97f4a7c15);
    return (unsigned)(h >> (64 - BT_HASH_BITS));
}

static bool second_page_here(struct x86_cpu *cpu, const struct bt_block *block)
{
    gva_t lin = bt_next_page(cpu, cpu->seg[X86_CS].eff_base + block->rip);
    const struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);
    return e->tag_exec == lin && e->gpa == block->gpa2;
}

struct bt_block *bt_find(struct bt_vcpu *v, gpa_t gpa, uint64_t rip, uint32_t context)
{
    struct bt_block *block =
        atomic_load_explicit(&v->bt->hash[block_hash(gpa, rip, context)], memory_order_acquire);
    while (block && !(block->rip == rip && block->gpa == gpa && block->context == context &&
                      !atomic_load_explicit(&block->dead, memory_order_relaxed) &&
                      (block->gpa2 == BT_NO_PAGE || second_page_here(v->cpu, block))))
        block = __atomic_load_n(&block->hash_next, __ATOMIC_ACQUIRE);
    return block;
}

void bt_block_publish(struct bt *bt, struct bt_block *block, struct bt_page *page,
                      struct bt_page *next)
{
    struct bt_block *_Atomic *head = &bt->hash[block_hash(block->gpa, block->rip, block->context)];
    block->page_next = page->blocks;
    page->blocks = block;
    if (next) {
        block->cross_next = next->crossing;
        next->crossing = block;
    }
    block->hash_next = atomic_load_explicit(head, memory_order_relaxed);
    atomic_store_explicit(head, block, memory_order_release);
}

uint32_t bt_identity_get(struct bt *bt, uint64_t page, uint64_t gfn, uint32_t context)
{
    uint64_t h = (page ^ gfn ^ context) * UINT64_C(0x9e3779b97f4a7c15);
    struct bt_identity **place = &bt->identities[h >> (64 - BT_IDENTITY_BITS)], *id;
    for (id = *place; id; id = id->next)
        if (id->page == page && id->gfn == gfn && id->context == context)
            return id->id;
    id = calloc(1, sizeof(*id));
    if (!id)
        return 0;
    *id = (struct bt_identity){*place, page, gfn, context, ++bt->identity_count};
    *place = id;
    return id->id;
}

// Code that is rewritten all the time would leave a chain of dead blocks. A reader that stands on one goes on from
// it: what is unlinked stays as it is until the cache is flushed.
static void hash_remove(struct bt *bt, const struct bt_block *block)
{
    struct bt_block *_Atomic *head = &bt->hash[block_hash(block->gpa, block->rip, block->context)];
    struct bt_block *at = atomic_load_explicit(head, memory_order_relaxed);
    if (at == block) {
        atomic_store_explicit(head, block->hash_next, memory_order_release);
        return;
    }
    while (at && at->hash_next != block)
        at = at->hash_next;
    if (at)
        __atomic_store_n(&at->hash_next, block->hash_next, __ATOMIC_RELEASE);
}

// Jumps to the block go to their own cold code again, which finds what is there then.
static void block_unlink(struct bt *bt, struct bt_block *block)
{
    uint32_t number = atomic_exchange(&block->incoming, 0);
    while (number) {
        struct bt_site *site = &bt->sites[number - 1];
        number = site->incoming;
        __atomic_store_n((uint32_t *)(void *)(bt->rw + site->resume),
                         site->cold - (site->resume + 4), __ATOMIC_RELAXED);
        atomic_store(&site->linked, false);
    }
}

static void block_kill(struct bt *bt, struct bt_block *block)
{
    uint8_t *head = bt->rw + block->head;
    uint64_t word;
    int32_t rel = (int32_t)(block->gone - (block->head + 5));
    uint8_t jump[5] = {0xe9};
    // The NOP lies within 8 aligned bytes: one store turns it into a jump.
    memcpy(jump + 1, &rel, 4);
    uint8_t *aligned = (uint8_t *)((uintptr_t)head & ~(uintptr_t)7);
    memcpy(&word, aligned, 8);
    memcpy((uint8_t *)&word + (head - aligned), jump, 5);
    __atomic_store_n((uint64_t *)(void *)aligned, word, __ATOMIC_SEQ_CST);
    atomic_store(&block->dead, true);
    block_unlink(bt, block);
    hash_remove(bt, block);
}

void bt_kill(struct bt *bt, gpa_t gpa, uint64_t size)
{
    pthread_mutex_lock(&bt->lock);
    for (gpa_t at = gpa & PAGE_MASK; at < gpa + size; at += PAGE_SIZE) {
        struct bt_page **place = page_place(bt, at >> PAGE_SHIFT), *page = *place;
        struct bt_block **link = page ? &page->blocks : NULL;
        while (link && *link) {
            struct bt_block *block = *link;
            const bool dead = atomic_load_explicit(&block->dead, memory_order_relaxed);
            if (dead || (gpa < block->gpa + block->bytes && block->gpa < gpa + size)) {
                if (!dead)
                    block_kill(bt, block);
                *link = block->page_next;
            } else {
                link = &block->page_next;
            }
        }
        link = page ? &page->crossing : NULL;
        while (link && *link) {
            struct bt_block *block = *link;
            const bool dead = atomic_load_explicit(&block->dead, memory_order_relaxed);
            const gpa_t end = block->gpa2 + ((block->gpa + block->bytes) & PAGE_OFFSET_MASK);
            if (dead || (gpa < end && block->gpa2 < gpa + size)) {
                if (!dead)
                    block_kill(bt, block);
                *link = block->cross_next;
            } else {
                link = &block->cross_next;
            }
        }
        // A page without code may have slots for writing again: memory that held a program is data next.
        if (page && !page->blocks && !page->crossing) {
            *place = page->next;
            free(page);
            interp_code_release(bt->engine, at);
        }
    }
    pthread_mutex_unlock(&bt->lock);
}

void bt_code_written(void *opaque, void *writer, gpa_t gpa, uint64_t size)
{
    struct bt *bt = opaque;
    // The writer may be in a helper that translated code called: it must not wait for the lock there while
    // somebody waits for it to leave. Having left, it does not return into code.
    if (bt_current && bt_current->bt == bt) {
        bt_current->stats.kills++;
        atomic_store(&bt_current->cpu->frame.in_code, 0);
    }
    bt_kill(bt, gpa, size);
}
