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

static void page_free(struct bt *bt, struct bt_page *page)
{
    gpa_t gpa = page->gfn << PAGE_SHIFT;
    interp_code_cover_only(bt->engine, gpa, 0);
    interp_code_release(bt->engine, gpa);
    free(page);
}

static void pages_free(struct bt *bt)
{
    pthread_mutex_lock(&bt->page_lock);
    for (unsigned i = 0; i < ARRAY_SIZE(bt->hash); i++)
        atomic_store_explicit(&bt->hash[i], NULL, memory_order_relaxed);
    for (unsigned i = 0; i < ARRAY_SIZE(bt->pages); i++) {
        struct bt_page *page = bt->pages[i], *next;
        for (; page; page = next) {
            next = page->next;
            page_free(bt, page);
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
    pthread_mutex_unlock(&bt->page_lock);
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
    if (bt->verify) {
        bt_verify_cache(bt->verifier);
        bt_verify_flushed(bt->verifier);
    }
    pages_free(bt);
    bt->arena_used = 0;
    bt->site_count = 0;
    bt->identity_count = 0;
    bt->context_count = 1;
    bt->used = bt->stubs_end;
    // Each vCPU puts its own state right when it sees this.
    atomic_fetch_add(&bt->generation, 1);
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

// Empties the write slots of one vCPU that lead to the page. True: there may have been one.
static bool slots_empty(struct x86_code_frame *frame, const uint8_t *host)
{
    bool had = false;
    for (unsigned set = 0; set < X86_FRAME_SETS; set++)
        for (unsigned i = 0; i < X86_FRAME_SLOTS; i++)
            had |= slot_empty(frame, &frame->slot[set][X86_FRAME_WRITE][i], host);
    return had;
}

// No vCPU stores to the page unseen from here on. One that had a write slot for it may be just before its store:
// waits until it has left its block. Who marks the same page at the same time must not go on before that, so
// the lock is held while waiting.
void bt_code_marked(void *opaque, gpa_t gpa)
{
    struct bt *bt = opaque;
    struct bt_vcpu *self = bt_current && bt_current->bt == bt ? bt_current : NULL;
    struct memory_page page;
    const bool scattered = atomic_load(&bt->any_scattered);
    bool waits = false;
    if (!memory_page(bt->memory, gpa, &page))
        return;
    if (pthread_mutex_trylock(&bt->mark_lock) != 0) {
        if (self) // who holds it may be waiting for us
            atomic_store(&self->cpu->frame.in_code, 0);
        pthread_mutex_lock(&bt->mark_lock);
    }
    for (struct bt_vcpu *v = bt->vcpus; v; v = v->next) {
        // What went through the TLB is not seen in the slots.
        if (!slots_empty(&v->cpu->frame, page.host) && !scattered)
            continue;
        // One's own helper may be in a block whose check is done: such a block is left.
        if (v == self)
            atomic_store(&v->cpu->frame.in_code, 0);
        else
            waits |= atomic_load(&v->cpu->frame.in_code);
    }
    if (waits) {
        bt_stop_others(bt);
        bt_release_others(bt);
    }
    pthread_mutex_unlock(&bt->mark_lock);
}

struct bt_page *bt_page_hold(struct bt *bt, gpa_t gpa)
{
    struct bt_page *page;
    pthread_mutex_lock(&bt->page_lock);
    page = *page_place(bt, gpa >> PAGE_SHIFT);
    if (page)
        page->busy++;
    pthread_mutex_unlock(&bt->page_lock);
    if (page)
        return page;
    page = calloc(1, sizeof(*page));
    if (!page || !interp_code_hold(bt->engine, gpa)) {
        free(page);
        return NULL;
    }
    page->gfn = gpa >> PAGE_SHIFT;
    page->busy = 1;
    pthread_mutex_lock(&bt->page_lock);
    *page_place(bt, page->gfn) = page;
    pthread_mutex_unlock(&bt->page_lock);
    return page;
}

// With page_lock. A page without blocks is one like any other again: stores to it need not be watched.
static void page_release_if_empty(struct bt *bt, struct bt_page *page)
{
    if (page->busy || page->blocks || page->crossing)
        return;
    *page_place(bt, page->gfn) = page->next;
    page_free(bt, page);
}

void bt_page_settle(struct bt *bt, struct bt_page *page)
{
    pthread_mutex_lock(&bt->page_lock);
    page->busy--;
    page_release_if_empty(bt, page);
    pthread_mutex_unlock(&bt->page_lock);
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

// Bytes of the block in its first page; the others are in the second.
static unsigned bytes_here(const struct bt_block *block)
{
    unsigned room = (unsigned)(PAGE_SIZE - (block->gpa & PAGE_OFFSET_MASK));
    return block->bytes < room ? block->bytes : room;
}

// Either a writer sees the granules and finds the block, or its store is seen here.
bool bt_block_publish(struct bt *bt, struct bt_block *block, struct bt_page *page,
                      struct bt_page *next, const uint8_t *bytes, const uint8_t *host,
                      const uint8_t *host2)
{
    struct bt_block *_Atomic *head = &bt->hash[block_hash(block->gpa, block->rip, block->context)];
    const unsigned here = bytes_here(block), rest = block->bytes - here;
    bool same;
    pthread_mutex_lock(&bt->page_lock);
    interp_code_cover(bt->engine, block->gpa, interp_granules(block->gpa, here));
    if (next)
        interp_code_cover(bt->engine, block->gpa2, interp_granules(block->gpa2, rest));
    same = memcmp(bytes, host, here) == 0 && (!next || memcmp(bytes + here, host2, rest) == 0);
    if (same) {
        block->page_next = page->blocks;
        page->blocks = block;
        if (next) {
            block->cross_next = next->crossing;
            next->crossing = block;
        }
        block->hash_next = atomic_load_explicit(head, memory_order_relaxed);
        atomic_store_explicit(head, block, memory_order_release);
    }
    pthread_mutex_unlock(&bt->page_lock);
    return same;
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

// The NOP lies within 8 aligned bytes: one exchange turns it into a jump. A jump's displacement may lie in the
// same bytes and be patched at the same time.
static void block_kill(struct bt *bt, struct bt_block *block)
{
    uint8_t *head = bt->rw + block->head;
    uint8_t *aligned = (uint8_t *)((uintptr_t)head & ~(uintptr_t)7);
    int32_t rel = (int32_t)(block->gone - (block->head + 5));
    uint8_t jump[5] = {0xe9};
    uint64_t old, word;
    memcpy(jump + 1, &rel, 4);
    old = __atomic_load_n((uint64_t *)(void *)aligned, __ATOMIC_RELAXED);
    do {
        word = old;
        memcpy((uint8_t *)&word + (head - aligned), jump, 5);
    } while (!__atomic_compare_exchange_n((uint64_t *)(void *)aligned, &old, word, false,
                                          __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    atomic_store(&block->dead, true);
    block_unlink(bt, block);
    hash_remove(bt, block);
    bt->killed++;
}

// Kills the block if [gpa, gpa+size) touches its part [from, from+bytes), which else is added to *granules.
// True: it is dead, now or before.
static bool kill_touched(struct bt *bt, struct bt_block *block, gpa_t from, unsigned bytes,
                         gpa_t gpa, uint64_t size, uint64_t *granules)
{
    if (atomic_load_explicit(&block->dead, memory_order_relaxed))
        return true;
    if (gpa < from + bytes && from < gpa + size) {
        block_kill(bt, block);
        return true;
    }
    *granules |= interp_granules(from, bytes);
    return false;
}

// With page_lock: the blocks of one page that [gpa, gpa+size) touches.
static void page_kill(struct bt *bt, struct bt_page *page, gpa_t gpa, uint64_t size)
{
    uint64_t granules = 0;
    for (struct bt_block **link = &page->blocks; *link;) {
        struct bt_block *block = *link;
        if (kill_touched(bt, block, block->gpa, bytes_here(block), gpa, size, &granules))
            *link = block->page_next;
        else
            link = &block->page_next;
    }
    for (struct bt_block **link = &page->crossing; *link;) {
        struct bt_block *block = *link;
        if (kill_touched(bt, block, block->gpa2, block->bytes - bytes_here(block), gpa, size,
                         &granules))
            *link = block->cross_next;
        else
            link = &block->cross_next;
    }
    // Also where nothing was hit: what was covered for a block that was not kept goes, too.
    interp_code_cover_only(bt->engine, page->gfn << PAGE_SHIFT, granules);
    page_release_if_empty(bt, page);
}

void bt_kill(struct bt *bt, gpa_t gpa, uint64_t size)
{
    pthread_mutex_lock(&bt->page_lock);
    for (gpa_t at = gpa & PAGE_MASK; at < gpa + size; at += PAGE_SIZE) {
        struct bt_page *page = *page_place(bt, at >> PAGE_SHIFT);
        if (page)
            page_kill(bt, page, gpa, size);
    }
    pthread_mutex_unlock(&bt->page_lock);
}

// A helper of the writer leaves its block when that is dead now (runtime.c).
void bt_code_written(void *opaque, void *writer, gpa_t gpa, uint64_t size)
{
    struct bt *bt = opaque;
    if (bt_current && bt_current->bt == bt)
        bt_current->stats.kills++;
    bt_kill(bt, gpa, size);
}
