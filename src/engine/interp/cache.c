// SPDX-License-Identifier: Apache-2.0
// The cache of decoded blocks of one vCPU, and how stores to code reach it (block.h tells the idea).
//
// Why no block can be stale: a page is marked (memory_code_mark) before its bytes are read; from then on
// every store to it calls interp_code_written(), which looks at the page's granules. Publishing a block's
// granules and then reading its bytes once more closes the gap between the two: either the writer sees the
// granule, or we see the store.
#include "engine/interp/block.h"
#include "x86/decode.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct interp_block interp_no_block = {.gpa = INTERP_NO_PAGE, .link_gpa = INTERP_NO_PAGE};

// --- shared: which pages hold code ------------------------------------------------------------------------

static struct interp_code_page *code_page(struct engine *engine, gpa_t gpa, bool create)
{
    uint64_t gfn = gpa >> PAGE_SHIFT;
    uint64_t i0 = gfn >> (INTERP_CODE_L1_BITS + INTERP_CODE_L2_BITS);
    uint64_t i1 = gfn >> INTERP_CODE_L2_BITS & ((1u << INTERP_CODE_L1_BITS) - 1);
    uint64_t i2 = gfn & ((1u << INTERP_CODE_L2_BITS) - 1);
    struct interp_code_node *node;
    struct interp_code_leaf *leaf;
    if (i0 >> INTERP_CODE_L0_BITS)
        return NULL;
    node = atomic_load(&engine->code[i0]);
    if (!node) {
        if (!create || !(node = calloc(1, sizeof(*node))))
            return NULL;
        atomic_store(&engine->code[i0], node);
    }
    leaf = atomic_load(&node->leaf[i1]);
    if (!leaf) {
        if (!create || !(leaf = calloc(1, sizeof(*leaf))))
            return NULL;
        atomic_store(&node->leaf[i1], leaf);
    }
    return &leaf->page[i2];
}

uint64_t interp_granules(gpa_t gpa, uint64_t size)
{
    unsigned first = (gpa & PAGE_OFFSET_MASK) >> 6;
    uint64_t end = (gpa & PAGE_OFFSET_MASK) + size - 1;
    unsigned last = end > PAGE_OFFSET_MASK ? 63 : (unsigned)(end >> 6);
    return (~UINT64_C(0) << first) & (~UINT64_C(0) >> (63 - last));
}

void interp_code_written(void *opaque, void *writer, gpa_t gpa, uint64_t size)
{
    struct engine *engine = opaque;
    struct interp_code_page *shared = code_page(engine, gpa, false);
    uint64_t hit;
    if (!shared)
        return;
    hit = interp_granules(gpa, size);
    for (struct interp *it = engine->vcpus; it && (atomic_load(&shared->granules) & hit);
         it = it->next) {
        if (it == writer)
            interp_invalidate(it, gpa, size);
        else
            interp_queue_push(it, gpa, size);
    }
    if (engine->code_written && (atomic_load(&shared->translated) & hit))
        engine->code_written(engine->code_opaque, writer, gpa, size);
}

bool interp_code_hold(struct engine *engine, gpa_t gpa)
{
    struct interp_code_page *shared;
    pthread_mutex_lock(&engine->lock);
    shared = code_page(engine, gpa, true);
    if (shared) {
        shared->holders++;
        memory_code_mark(engine->memory, gpa & PAGE_MASK);
    }
    pthread_mutex_unlock(&engine->lock);
    if (shared && engine->code_marked)
        engine->code_marked(engine->code_opaque, gpa & PAGE_MASK);
    return shared != NULL;
}

void interp_code_cover(struct engine *engine, gpa_t gpa, uint64_t granules)
{
    struct interp_code_page *shared = code_page(engine, gpa, false);
    if (shared)
        atomic_fetch_or(&shared->translated, granules);
}

void interp_code_cover_only(struct engine *engine, gpa_t gpa, uint64_t granules)
{
    struct interp_code_page *shared = code_page(engine, gpa, false);
    if (shared)
        atomic_store(&shared->translated, granules);
}

void interp_code_release(struct engine *engine, gpa_t gpa)
{
    struct interp_code_page *shared;
    pthread_mutex_lock(&engine->lock);
    shared = code_page(engine, gpa, false);
    if (shared && --shared->holders == 0) {
        atomic_store(&shared->granules, 0);
        atomic_store(&shared->translated, 0);
        memory_code_unmark(engine->memory, gpa);
    }
    pthread_mutex_unlock(&engine->lock);
}

void interp_queue_push(struct interp *it, gpa_t gpa, uint64_t size)
{
    pthread_mutex_lock(&it->queue_lock);
    if (it->queued < INTERP_QUEUE_MAX)
        it->queue[it->queued++] = (struct interp_range){gpa, size};
    else
        it->queue_overflow = true;
    pthread_mutex_unlock(&it->queue_lock);
    atomic_fetch_or(&it->cpu->events, X86_EVENT_CODE);
}

void interp_queue_run(struct interp *it)
{
    struct interp_range ranges[INTERP_QUEUE_MAX];
    unsigned count;
    bool overflow;
    atomic_fetch_and(&it->cpu->events, ~X86_EVENT_CODE);
    pthread_mutex_lock(&it->queue_lock);
    count = it->queued;
    overflow = it->queue_overflow;
    memcpy(ranges, it->queue, count * sizeof(ranges[0]));
    it->queued = 0;
    it->queue_overflow = false;
    pthread_mutex_unlock(&it->queue_lock);
    if (overflow) {
        interp_cache_flush(it);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        interp_invalidate(it, ranges[i].gpa, ranges[i].size);
}

// --- pages of this vCPU -------------------------------------------------------------------------------------

static struct interp_page **page_slot(struct interp *it, uint64_t gfn)
{
    struct interp_page **slot = &it->pages[gfn & (INTERP_PAGE_BUCKETS - 1)];
    while (*slot && (*slot)->gfn != gfn)
        slot = &(*slot)->next;
    return slot;
}

// The page, held: marked as code in memory. NULL when memory is exhausted or the address too high.
static struct interp_page *page_hold(struct interp *it, gpa_t gpa)
{
    struct interp_page **slot = page_slot(it, gpa >> PAGE_SHIFT), *page = *slot;
    if (page)
        return page;
    page = calloc(1, sizeof(*page));
    if (!page)
        return NULL;
    if (!interp_code_hold(it->engine, gpa)) {
        free(page);
        return NULL;
    }
    page->gfn = gpa >> PAGE_SHIFT;
    *slot = page;
    return page;
}

static void page_release(struct interp *it, struct interp_page **slot)
{
    struct interp_page *page = *slot;
    gpa_t gpa = page->gfn << PAGE_SHIFT;
    *slot = page->next;
    free(page);
    interp_code_release(it->engine, gpa);
}

static struct interp_block **block_next(struct interp_block *block, uint64_t gfn)
{
    return block->gpa >> PAGE_SHIFT == gfn ? &block->next : &block->next2;
}

static void page_unlink(struct interp *it, gpa_t gpa, struct interp_block *block)
{
    uint64_t gfn = gpa >> PAGE_SHIFT;
    struct interp_page *page = *page_slot(it, gfn);
    struct interp_block **link = page ? &page->blocks : NULL;
    while (link && *link) {
        if (*link == block) {
            *link = *block_next(block, gfn);
            return;
        }
        link = block_next(*link, gfn);
    }
}

static void page_release_if_empty(struct interp *it, gpa_t gpa)
{
    struct interp_page **slot = page_slot(it, gpa >> PAGE_SHIFT);
    if (*slot && !(*slot)->blocks)
        page_release(it, slot);
}

// --- blocks ---------------------------------------------------------------------------------------------------

void interp_stop_running(struct interp *it)
{
    struct interp_block *block = it->cpu->soft.block;
    for (unsigned i = 0; block && i < block->count; i++)
        block->insn[i].fn = interp_stop;
    it->cpu->soft.fuel = 0;
    for (unsigned i = 0; i < INTERP_BLOCK_MAX; i++)
        it->part[i].fn = interp_stop;
}

static void block_forget(struct interp *it, struct interp_block *block)
{
    struct interp_entry *entry = &it->table[interp_hash(block->gpa)];
    if (entry->block == block)
        *entry = (struct interp_entry){0};
    block->key = 0;
    block->link_gpa = INTERP_NO_PAGE;
    for (unsigned i = 0; i < block->count; i++)
        block->insn[i].fn = interp_stop;
    if (it->cpu->soft.block == block)
        interp_stop_running(it);
    it->stats.blocks_killed++;
}

static void block_kill(struct interp *it, struct interp_block *block)
{
    block_forget(it, block);
    page_unlink(it, block->gpa, block);
    if (block->gpa2 != INTERP_NO_PAGE)
        page_unlink(it, block->gpa2, block);
}

// Does the block cover a byte of [gpa, gpa+size) in the page of gpa?
static bool block_overlaps(const struct interp_block *block, gpa_t gpa, uint64_t size)
{
    uint64_t room = PAGE_SIZE - (block->gpa & PAGE_OFFSET_MASK);
    uint64_t first = block->bytes < room ? block->bytes : room;
    if (gpa < block->gpa + first && block->gpa < gpa + size)
        return true;
    return block->gpa2 != INTERP_NO_PAGE && gpa < block->gpa2 + (block->bytes - first) &&
           block->gpa2 < gpa + size;
}

void interp_invalidate(struct interp *it, gpa_t gpa, uint64_t size)
{
    uint64_t gfn = gpa >> PAGE_SHIFT;
    struct interp_page *page = *page_slot(it, gfn);
    struct interp_block *block, *next;
    if (!page)
        return;
    it->stats.invalidations++;
    for (block = page->blocks; block; block = next) {
        next = *block_next(block, gfn);
        if (!block_overlaps(block, gpa, size))
            continue;
        block_kill(it, block);
        if (block->gpa2 != INTERP_NO_PAGE)
            page_release_if_empty(it, gfn == block->gpa >> PAGE_SHIFT ? block->gpa2 : block->gpa);
    }
    page_release_if_empty(it, gpa);
}

void interp_cache_flush(struct interp *it)
{
    interp_stop_running(it);
    it->broken = NULL; // all blocks go
    it->cpu->soft.block = NULL;
    it->cpu->soft.link = NULL;
    for (unsigned i = 0; i < INTERP_PAGE_BUCKETS; i++)
        while (it->pages[i])
            page_release(it, &it->pages[i]);
    memset(it->table, 0, INTERP_TABLE_SIZE * sizeof(*it->table));
    it->arena_used = 0;
    it->details_used = 0;
    it->stats.cache_flushes++;
}

static void *reserve(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

#define BLOCK_SIZE_MAX \
    (sizeof(struct interp_block) + (INTERP_BLOCK_MAX + 1) * sizeof(struct interp_insn))

bool interp_cache_create(struct interp *it)
{
    it->arena_size = INTERP_INSNS_MAX * 2 * sizeof(struct interp_insn);
    it->details_max = INTERP_INSNS_MAX;
    it->table = reserve(INTERP_TABLE_SIZE * sizeof(*it->table));
    it->pages = calloc(INTERP_PAGE_BUCKETS, sizeof(struct interp_page *));
    it->arena = reserve(it->arena_size);
    it->details = reserve(it->details_max * sizeof(*it->details));
    return it->table && it->pages && it->arena && it->details;
}

void interp_cache_destroy(struct interp *it)
{
    if (it->pages && it->table)
        interp_cache_flush(it);
    if (it->table)
        munmap(it->table, INTERP_TABLE_SIZE * sizeof(*it->table));
    if (it->arena)
        munmap(it->arena, it->arena_size);
    if (it->details)
        munmap(it->details, it->details_max * sizeof(*it->details));
    free(it->pages);
}

// --- decoding -------------------------------------------------------------------------------------------------

static void exec_decode_ud(struct x86_cpu *cpu, const struct x86_insn *x)
{
    x86_raise(cpu, X86_UD);
}
static void exec_decode_gp(struct x86_cpu *cpu, const struct x86_insn *x)
{
    x86_raise_error(cpu, X86_GP, 0);
}

// Bytes of [gpa, gpa+size) inside one page, from RAM or, page by page, from a device.
static void fetch_bytes(struct interp *it, const struct x86_code_page *page, uint64_t off,
                        uint8_t *out, unsigned size)
{
    if (page->host) {
        memcpy(out, page->host + off, size);
        return;
    }
    for (unsigned i = 0; i < size; i++)
        out[i] = (uint8_t)memory_mmio_read(it->engine->memory, page->gpa + off + i, 1);
}

// Decodes the instruction at buf + off as the block's next. Returns false when the block must end before it.
static bool add_insn(struct interp *it, struct interp_block *block, const uint8_t *buf,
                     unsigned avail, enum x86_code_size code, bool *more)
{
    struct x86_cpu *cpu = it->cpu;
    unsigned off = block->bytes;
    struct interp_insn *insn = &block->insn[block->count];
    struct interp_detail *detail = &it->details[it->details_used];
    enum x86_decode_result result;
    memset(detail, 0, sizeof(*detail));
    result = x86_decode(&detail->x, buf + off, avail - off, code, cpu->model);
    *more = result == X86_DECODE_MORE;
    if (result != X86_DECODE_OK && (block->count || *more))
        return false;
    insn->detail = detail;
    insn->off = (uint16_t)off;
    if (result == X86_DECODE_OK) {
        interp_select(insn, detail, code, off + detail->x.len);
    } else {
        detail->x.len = detail->x.len ? detail->x.len : 1;
        // The decoder may have got as far as a form: its privilege and modes do not matter any more.
        detail->x.form = X86_FORM_ud2;
        detail->exec = result == X86_DECODE_UD ? exec_decode_ud : exec_decode_gp;
        interp_select(insn, detail, code, off + detail->x.len);
    }
    it->details_used++;
    block->count++;
    block->bytes = (uint16_t)(off + detail->x.len);
    return true;
}

static void block_finish(struct interp_block *block)
{
    struct interp_insn *sentinel = &block->insn[block->count];
    memset(sentinel, 0, sizeof(*sentinel));
    sentinel->fn = interp_fall;
    sentinel->link[0] = sentinel->link[1] = &interp_no_block;
    sentinel->off = block->bytes;
}

static void block_publish(struct interp *it, struct interp_block *block, struct interp_page *page,
                          struct interp_page *page2)
{
    unsigned room = (unsigned)(PAGE_SIZE - (block->gpa & PAGE_OFFSET_MASK));
    struct interp_code_page *shared = code_page(it->engine, block->gpa, false);
    if (shared)
        atomic_fetch_or(&shared->granules, interp_granules(block->gpa, block->bytes));
    block->next = page->blocks;
    page->blocks = block;
    if (page2) {
        shared = code_page(it->engine, block->gpa2, false);
        if (shared)
            atomic_fetch_or(&shared->granules, interp_granules(block->gpa2, block->bytes - room));
        block->next2 = page2->blocks;
        page2->blocks = block;
    }
}

// Bytes behind CS's limit are #GP before their page is looked at.
static void check_cs_limit(struct interp *it, uint64_t rip)
{
    if (unlikely(it->cs_limited) && rip > it->cpu->seg[X86_CS].limit)
        x86_raise_error(it->cpu, X86_GP, 0);
}

// Decodes the block at `lin`, whose first page is `first`. May raise when the first instruction lies across
// the page's end and the second page faults.
static struct interp_block *block_decode(struct interp *it, gva_t lin, struct x86_code_page first,
                                         uint64_t key)
{
    struct x86_cpu *cpu = it->cpu;
    enum x86_code_size code = cpu->code_size;
    unsigned off = lin & PAGE_OFFSET_MASK;
    uint8_t buf[INTERP_BLOCK_MAX * 15];
    unsigned avail = PAGE_SIZE - off < sizeof(buf) ? (unsigned)PAGE_SIZE - off : sizeof(buf);
    struct interp_page *page = NULL, *page2 = NULL;
    struct x86_code_page second = {0};
    struct interp_block *block;
    bool more, cached;

    if (it->arena_used + BLOCK_SIZE_MAX > it->arena_size ||
        it->details_used + INTERP_BLOCK_MAX > it->details_max)
        interp_cache_flush(it);
    block = (struct interp_block *)(it->arena + it->arena_used);
    if ((uint8_t *)cpu->soft.link >= (uint8_t *)block)
        cpu->soft.link = NULL; // of a block that was not kept, whose space is used again
    memset(block, 0, sizeof(*block));
    block->gpa = first.gpa | off;
    block->gpa2 = block->link_gpa = INTERP_NO_PAGE;
    if (first.host)
        page = page_hold(it, first.gpa);
    cached = page != NULL;
    fetch_bytes(it, &first, off, buf, avail);
    while (block->count < INTERP_BLOCK_MAX && add_insn(it, block, buf, avail, code, &more)) {
        const struct interp_detail *last = block->insn[block->count - 1].detail;
        if (last->exec == exec_decode_ud || last->exec == exec_decode_gp ||
            interp_ends_block(&last->x))
            break;
        if (!cached)
            break; // from a device: read again each time
    }
    if (block->count == 0) { // across the page's end
        gva_t lin2 = ((lin & PAGE_MASK) + PAGE_SIZE) & cpu->lin_mask;
        check_cs_limit(it, cpu->rip + avail);
        second = x86_fetch_page(cpu, lin2);
        if (second.host)
            page2 = page_hold(it, second.gpa);
        cached = page && page2 && first.gpa != second.gpa;
        block->gpa2 = second.gpa;
        fetch_bytes(it, &second, 0, buf + avail, 15);
        add_insn(it, block, buf, avail + 15, code, &more);
    }
    block_finish(block);
    if (!cached) {
        // Not found by anyone: the space is used again for the next block.
        block->gpa2 = INTERP_NO_PAGE;
        return block;
    }
    it->arena_used += sizeof(*block) + (block->count + 1) * sizeof(struct interp_insn);
    it->stats.blocks_decoded++;
    it->stats.insns_decoded += block->count;
    block->key = key;
    if (block->gpa2 == INTERP_NO_PAGE)
        block->link_gpa = block->gpa;
    block_publish(it, block, page, page2);
    if (memcmp(buf, first.host + off, block->bytes < avail ? block->bytes : avail) != 0 ||
        (second.host && block->bytes > avail &&
         memcmp(buf + avail, second.host, block->bytes - avail) != 0)) {
        block_kill(it, block); // written meanwhile: again
        return NULL;
    }
    return block;
}

// A block that was displaced from the table, or NULL.
static struct interp_block *block_search(struct interp *it, gpa_t gpa, uint64_t key)
{
    struct interp_page *page = *page_slot(it, gpa >> PAGE_SHIFT);
    struct interp_block *block = page ? page->blocks : NULL;
    while (block && !(block->key == key))
        block = *block_next(block, gpa >> PAGE_SHIFT);
    return block;
}

NOINLINE static struct interp_block *block_get_slow(struct interp *it, gva_t lin)
{
    struct x86_cpu *cpu = it->cpu;
    struct x86_code_page page;
    struct interp_block *block;
    struct interp_entry *entry;
    gpa_t gpa;
    uint64_t key;
    cpu->soft.insn = NULL;
    cpu->insn_rip = cpu->rip;
    check_cs_limit(it, cpu->rip);
    page = x86_fetch_page(cpu, lin);
    gpa = page.gpa | (lin & PAGE_OFFSET_MASK);
    key = interp_key(gpa, it->mode);
    entry = &it->table[interp_hash(gpa)];
    block = entry->block && entry->block->key == key ? entry->block : block_search(it, gpa, key);
    it->stats.lookup_misses++;
    if (block && block->gpa2 != INTERP_NO_PAGE) {
        gva_t lin2 = ((lin & PAGE_MASK) + PAGE_SIZE) & cpu->lin_mask;
        check_cs_limit(it, cpu->rip + (PAGE_SIZE - (lin & PAGE_OFFSET_MASK)));
        struct x86_code_page second = x86_fetch_page(cpu, lin2);
        if (second.gpa != block->gpa2) {
            gpa_t gpa2 = block->gpa2;
            block_kill(it, block);
            page_release_if_empty(it, gpa2);
            page_release_if_empty(it, gpa);
            block = NULL;
        }
    }
    while (!block)
        block = block_decode(it, lin, page, key);
    if (block->key) {
        entry->key = block->gpa2 == INTERP_NO_PAGE ? key : 0; // two pages: always checked here
        entry->block = block;
    }
    return block;
}

struct interp_block *interp_block_get(struct interp *it)
{
    struct x86_cpu *cpu = it->cpu;
    struct interp_block *block = interp_block_find(it);
    if (likely(block != NULL))
        return block;
    return block_get_slow(it, (cpu->seg[X86_CS].eff_base + cpu->rip) & cpu->lin_mask);
}
