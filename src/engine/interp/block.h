// SPDX-License-Identifier: Apache-2.0
// Decoded code: the compact instruction, the block, the cache of blocks of one vCPU, and what the vCPUs of
// an engine share. Used by loop.c, cache.c, select.c and the threaded handlers.
//
// A block is straight-line code inside one page, found by guest-physical address and mode. Only a block
// of a single instruction may lie across a page border; it is checked against both pages.
//
// Stopping a running block: whoever invalidates it overwrites the `fn` of all its instructions with
// interp_stop. The next instruction's function is always loaded from memory, so the chain ends exactly
// behind the instruction that is executing, and no handler has to ask.
//
// Invalidation: a store to a page with PAGE_FLAG_CODE reaches engine_code_written(). The storing vCPU drops
// its own overlapping blocks at once; other vCPUs get the range queued with X86_EVENT_CODE.
#pragma once

#include "base/types.h"
#include "engine/engine.h"
#include "engine/interp/interp.h"
#include <pthread.h>

struct interp_insn;
// Executes this and the following instructions; returns the one behind the last that retired.
typedef const struct interp_insn *interp_fn(struct x86_cpu *cpu, const struct interp_insn *insn);

// What threaded handlers need seldom and plain ones always.
struct interp_detail {
    struct x86_insn x;
    interp_exec_fn *exec;
    int64_t disp;     // displacement; RIP-relative: from the block's start
    uint64_t ea_mask; // truncates to the address size
    int64_t target;   // relative branch: from the block's start
};

// Registers are byte offsets into struct x86_cpu (which begins with gpr[]); base and index are 8-byte
// slots of it, so that "no register" and RIP are slots like any other.
struct interp_insn {
    interp_fn *fn;
    union {
        struct {
            const struct interp_detail *detail;
            int32_t disp;
            int32_t imm; // relative branch: target as an offset from the block's start
        };
        // In the sentinel behind a block's last instruction: where it went last time, [0] when it
        // branched, [1] when it did not. Never NULL; checked before use.
        struct interp_block *link[2];
    };
    uint8_t base, index, scale, seg;
    uint8_t reg, rm;
    uint16_t off; // from the block's start; the next insn's is where this one ends
};
_Static_assert(sizeof(struct interp_insn) == 32, "an array of them is walked all the time");
_Static_assert(offsetof(struct x86_cpu, gpr) == 0, "registers are addressed from the start");
_Static_assert(offsetof(struct x86_cpu, soft.zero) / 8 < 256, "slots are bytes");

#define INTERP_SLOT_ZERO (offsetof(struct x86_cpu, soft.zero) / 8)
#define INTERP_SLOT_RIP (offsetof(struct x86_cpu, soft.rip) / 8)

#define INTERP_BLOCK_MAX 32 // instructions
#define INTERP_NO_PAGE UINT64_MAX
#define INTERP_FUEL \
    64 // blocks in a chain, so that builds without tail calls do not run out of stack

struct interp_block {
    uint64_t key;    // interp_key(); 0 when dead
    gpa_t link_gpa;  // gpa, or INTERP_NO_PAGE when no other block may go straight to it
    gpa_t gpa, gpa2; // of the first byte; of the second page, or INTERP_NO_PAGE
    uint16_t bytes;
    uint16_t count;                    // instructions, without the sentinel that follows them
    struct interp_block *next, *next2; // in the lists of its first and second page
    struct interp_insn insn[];
};

// A page that this vCPU has blocks of.
struct interp_page {
    uint64_t gfn;
    struct interp_block *blocks;
    struct interp_page *next; // in the hash chain
};

// A page that any vCPU has blocks of: shared, read without a lock.
struct interp_code_page {
    _Atomic uint64_t granules;   // bit n: some block covers bytes of [64n, 64n+64)
    _Atomic uint64_t translated; // the same for a translator's blocks
    uint32_t holders;            // vCPUs and the translator; under the engine's lock
};

#define INTERP_TABLE_BITS 16
#define INTERP_TABLE_SIZE (1u << INTERP_TABLE_BITS)
#define INTERP_PAGE_BUCKETS 4096u
#define INTERP_INSNS_MAX (384u << 10)
#define INTERP_QUEUE_MAX 64

struct interp_entry {
    uint64_t key;
    struct interp_block *block;
};

struct interp_range {
    gpa_t gpa;
    uint64_t size;
};

struct interp_stats {
    uint64_t chains, blocks_decoded, insns_decoded, lookup_misses, cache_flushes;
    uint64_t invalidations, blocks_killed, exceptions, interrupts, halts, steps;
};

struct interp {
    struct x86_cpu *cpu;
    struct engine *engine;
    uint32_t mode; // part of the key
    bool owns_tlb;
    bool cs_limited; // CS has a limit that code may run into
    struct interp_stats stats;

    struct interp_entry *table; // INTERP_TABLE_SIZE
    struct interp_page **pages; // INTERP_PAGE_BUCKETS
    // Arenas, emptied all at once when full. A block lives in `bytes`, its details in `details`.
    uint8_t *arena;
    size_t arena_used, arena_size;
    struct interp_detail *details;
    size_t details_used, details_max;

    // A copy of a part of a block, which runs when the whole must not.
    struct interp_insn part[INTERP_BLOCK_MAX + 1];

    pthread_mutex_t queue_lock;
    struct interp_range queue[INTERP_QUEUE_MAX];
    unsigned queued;
    bool queue_overflow;
    struct interp *next; // of the engine

    // Where the running chain ends early (break_behind()): the instruction and its function.
    struct interp_insn *broken;
    interp_fn *broken_fn;

    uint64_t random_pool[32]; // RDRAND
    unsigned random_left;
    uint32_t pauses;  // PAUSE instructions
    void *translator; // the translating vCPU that this one is a part of, or NULL
};
_Static_assert(INTERP_TABLE_BITS <= 20, "the hash mixes this far");

#define INTERP_CODE_L0_BITS 14
#define INTERP_CODE_L1_BITS 11
#define INTERP_CODE_L2_BITS 11

struct interp_code_leaf {
    struct interp_code_page page[1u << INTERP_CODE_L2_BITS];
};
struct interp_code_node {
    struct interp_code_leaf *_Atomic leaf[1u << INTERP_CODE_L1_BITS];
};

struct engine {
    struct memory *memory;
    struct memory_listener listener;
    pthread_mutex_t lock;
    struct interp *vcpus;
    // A translator beside the interpreters: hears of stores to code as they do.
    void (*code_written)(void *opaque, void *writer, gpa_t gpa, uint64_t size);
    // ... and of a page that was marked, before its bytes are read.
    void (*code_marked)(void *opaque, gpa_t gpa);
    void *code_opaque;
    // By guest frame number, 36 bits; pages beyond are never cached.
    struct interp_code_node *_Atomic code[1u << INTERP_CODE_L0_BITS];
};

ALWAYS_INLINE uint64_t interp_key(gpa_t gpa, uint32_t mode)
{
    return gpa << 8 | mode;
}
ALWAYS_INLINE uint32_t interp_hash(gpa_t gpa)
{
    return (uint32_t)(gpa ^ gpa >> INTERP_TABLE_BITS) & (INTERP_TABLE_SIZE - 1);
}

// cache.c
extern struct interp_block interp_no_block; // what a link holds that was never set
bool interp_cache_create(struct interp *it);
void interp_cache_destroy(struct interp *it);
void interp_cache_flush(struct interp *it); // at a block boundary only
// The block at cpu->rip in the current mode, decoded if need be. May raise what fetching raises, #UD and
// #GP excluded: those are blocks of their own.
struct interp_block *interp_block_get(struct interp *it);
void interp_invalidate(struct interp *it, gpa_t gpa, uint64_t size);
// Ends the running block behind the current instruction.
void interp_stop_running(struct interp *it);
void interp_queue_push(struct interp *it, gpa_t gpa, uint64_t size);
void interp_queue_run(struct interp *it);
void interp_code_written(void *opaque, void *writer, gpa_t gpa, uint64_t size);

// The block at cpu->rip if it is at hand, else NULL.
ALWAYS_INLINE struct interp_block *interp_block_find(struct interp *it)
{
    struct x86_cpu *cpu = it->cpu;
    gva_t lin = (cpu->seg[X86_CS].eff_base + cpu->rip) & cpu->lin_mask;
    struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);
    if (likely(e->tag_exec == (lin & PAGE_MASK))) {
        gpa_t gpa = e->gpa | (lin & PAGE_OFFSET_MASK);
        struct interp_entry *entry = &it->table[interp_hash(gpa)];
        if (likely(entry->key == interp_key(gpa, it->mode)))
            return entry->block;
    }
    return NULL;
}

// For a translator: marks the page as code, and says which of its bytes were translated; gives it up.
bool interp_code_hold(struct engine *engine, gpa_t gpa);
uint64_t interp_granules(gpa_t gpa,
                         uint64_t size); // that [gpa, gpa+size) touches, cut at the page's end
void interp_code_cover(struct engine *engine, gpa_t gpa, uint64_t granules);
void interp_code_cover_only(struct engine *engine, gpa_t gpa, uint64_t granules); // no others
void interp_code_release(struct engine *engine, gpa_t gpa);

// loop.c
// The vCPU that runs on this thread, or NULL: what is posted to it from inside an instruction acts behind it.
void interp_current_set(struct interp *it);
void interp_mode_update(struct interp *it);
// What a boundary needs when anything but running on is due. Returns false to leave run().
bool interp_attend(struct interp *it, struct vm_exit *exit);
// Executes one block, or `count` instructions of it when that is less. May raise.
void interp_advance(struct interp *it, unsigned count);
// Executes the one instruction at cpu->rip, decoded in insn[0]; insn[1] is its sentinel. May raise.
void interp_execute(struct interp *it, const struct interp_insn *insn);
// A fault left a chain of handlers: brings rip and icount up to it.
void interp_unwound(struct interp *it);

// select.c: fills fn, detail->exec (unless it is set) and the compact operands of one decoded instruction,
// whose x, off and detail are set; `next_off` is where it ends.
void interp_select(struct interp_insn *insn, struct interp_detail *detail, enum x86_code_size code,
                   unsigned next_off);
bool interp_ends_block(const struct x86_insn *x);
// False when no function executes it: a hole, which a test looks for.
bool interp_form_implemented(const struct x86_insn *x);

// hot_branch.c: the sentinel of a block that ends without a branch; and going on at cpu->rip behind the
// branch `end[-1]`, which retired.
const struct interp_insn *interp_go_on(struct x86_cpu *cpu, const struct interp_insn *end);
const struct interp_insn *interp_fall(struct x86_cpu *cpu, const struct interp_insn *insn);

// loop.c
const struct interp_insn *interp_stop(struct x86_cpu *cpu, const struct interp_insn *insn);
// Wrappers of plain functions: `checked` ones look at the form's mode and privilege, `end` ones end the
// block, `rep` is for string instructions.
// `branch` ones end the block too, but change nothing except general registers and rip.
extern interp_fn *const interp_plain,
    *const interp_plain_branch, *const interp_plain_checked, *const interp_plain_end,
                                                                 *const interp_plain_end_checked,
                                                                     *const interp_plain_rep;
