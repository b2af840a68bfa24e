// SPDX-License-Identifier: Apache-2.0
// The binary translator, private header. Guest code becomes host code of the same instruction set.
//
// Registers while translated code runs:
//     GS base  struct x86_cpu, with its frame (x86/frame.h)
//     rax      scratch A: the saved flags (as LAHF and SETO AL leave them), or free
//     r11, r9  scratch S1, S2
//     r10      guest RAX
//     others   the guest's register of the same name; RSP too, so nothing here uses the host's stack
//     gs:      guest R9, R10, R11, in cpu->gpr
//     RFLAGS   guest's arithmetic flags where the translator's state says so; DF is clear
// A vCPU of this engine holds a whole interpreter for the same processor. It executes everything unusual:
// single steps, code with alignment checks, operands across a page's end, device memory.
//
// Rules to keep:
//  - At every place that may leave translated code the flags are exact: in RFLAGS or in AX.
//  - Nothing is changed before the last access of an instruction that may fault has been checked.
//  - Code memory is mapped twice, writable and executable, never both. A block in use is patched only in
//    the displacement of a jump, or at its head, which is a 5-byte NOP for this.
//  - Blocks, sites and identities live until the cache is flushed, and that waits until no vCPU is in
//    translated code (frame.in_code); so they may be read without a lock while one's own in_code is 1. A
//    helper that finds it 0 must not look at them any more.
//  - Locks, in this order: lock, mark_lock (either is held while waiting for vCPUs to leave translated code,
//    so taken with one's own in_code = 0 only), page_lock (a leaf, taken anywhere; storing to code needs it,
//    which devices do under the board's lock).
#pragma once

#include "engine/bt/asm.h"
#include "engine/engine.h"
#include "engine/interp/block.h"
#include "x86/state.h"
#include <pthread.h>
#include <stdio.h>

#define BT_A HOST_RAX
#define BT_S1 HOST_R11
#define BT_S2 HOST_R9
#define BT_GUEST_RAX HOST_R10

// Where translated code finds things, from the GS base.
#define FRAME(field) (offsetof(struct x86_cpu, frame) + offsetof(struct x86_code_frame, field))
#define GPR(n) (offsetof(struct x86_cpu, gpr) + 8 * (size_t)(n))

// The host register of a guest register, or BT_REG_NONE when it is in memory (stubs.c).
extern const uint8_t bt_home[16];

#define BT_BLOCK_MAX 64 // instructions
#define BT_CACHE_DEFAULT (UINT64_C(32) << 20)

// What a block was translated for; together with gpa and rip its identity.
struct bt_context {
    uint32_t bits; // BT_CTX_
    uint32_t segs; // BT_SEG_ of each segment register, 5 bits each; 0 in 64-bit code
    uint64_t cs_base;
    uint64_t cs_limit; // UINT64_MAX when it does not matter
};
#define BT_CTX_CODE 0x3  // enum x86_code_size
#define BT_CTX_STACK 0xc // log2 of cpu->stack_size
#define BT_CTX_STACK_SHIFT 2
#define BT_CTX_SET 0x30 // enum x86_tlb_set
#define BT_CTX_SET_SHIFT 4
#define BT_CTX_COUNTED 0x80 // icount is exact, a budget may be set
#define BT_CTX_SINGLE 0x100 // every access is checked by itself
#define BT_CTX_SSE 0x200    // SSE, AVX, x87 instructions may run without a check
#define BT_CTX_AVX 0x400
#define BT_CTX_X87 0x800    // ... and every x87 exception is masked, none pending
#define BT_CTX_PROT 0x1000  // protected mode, not V86
#define BT_CTX_MXCSR 0x2000 // MXCSR may stay in the host's while C code runs: x86_fpu_load_mxcsr()
#define BT_CTX_FP (BT_CTX_X87 | BT_CTX_MXCSR) // what instructions within a block may change
#define BT_CTX_CPL0 0x4000
#define BT_CONTEXTS_MAX 8192 // real mode: two for each base of CS; a flush when they are used up
// What is known of a segment when a block is made; its base and limit are read from memory. Without READ and
// WRITE (null, expand-down) its accesses are the interpreter's.
#define BT_SEG_READ 1
#define BT_SEG_WRITE 2
#define BT_SEG_MAX 4   // limit 4 GiB
#define BT_SEG_64K 8   // limit 64 KiB at least
#define BT_SEG_ZERO 16 // base 0, limit 4 GiB
#define BT_SEG_BITS 5

enum bt_site_kind {
    BT_SITE_ACCESS, // a memory access that its slot does not cover
    BT_SITE_EXEC,   // an instruction for the interpreter, in the block
    BT_SITE_SEG,    // the same, one that loads a segment register
    BT_SITE_EXIT,   // a direct branch
    BT_SITE_BRANCH, // an indirect branch that was not in the table
    BT_SITE_STEP,   // an instruction for the interpreter that ends the block
    BT_SITE_SYSTEM, // a system instruction, in the block
    BT_SITE_POLL,   // leave
    BT_SITE_FP,     // registers that the block needs are not in the host's
    BT_SITE_ENTRY,  // an entry whose mapping is not known to hold, or of a dead block
};

struct bt_block;

#define BT_PATIENCE 256 // refills of a slot before its places are looked at

#define BT_NO_RESUME UINT32_MAX // a branch that ends the block: nothing stands behind it

// A place in translated code that may call out.
struct bt_site {
    struct bt_block *block;
    union {
        uint64_t target;          // EXIT: guest rip
        struct interp_insn *insn; // EXEC, BRANCH, STEP, SYSTEM: the instruction and a sentinel
    };
    uint32_t cold;     // EXIT: code offset where the jump goes that is linked to no block
    uint32_t incoming; // EXIT: next site linked to the same block, + 1
    _Atomic bool linked;
    uint32_t retry; // ACCESS, FP: code offset of the check
    uint32_t
        resume; // code offset behind the instruction (ACCESS: the group); EXIT: of the displacement
    uint16_t rip, next; // instruction, and where `resume` goes on: offsets from the block's rip
    uint16_t slot;      // byte offset in struct x86_code_frame of the slot
    uint16_t span;      // ACCESS: bytes that the check covers
    int16_t head;       // ACCESS: of the instruction's own access, from the first byte covered
    uint8_t size;       // ... its size
    uint8_t access, seg;
    uint8_t align; // ACCESS: #GP unless the linear address has none of these bits
    bool x87;      // the block's last x87 instruction before the site: offset of its rip, FOP
    uint16_t x87_rip, x87_fop;
    uint8_t done;  // instructions of the block retired before this one
    uint8_t count; // instructions until `resume`
    uint8_t kind;
    bool flags_e;       // EXIT: the flags are in RFLAGS at the jump
    bool cross;         // EXIT: to another page
    bool shadowed;      // ACCESS: behind STI, no interrupt may come before the instruction
    bool stores;        // ACCESS: the slot is one for writing
    bool scattered;     // ACCESS: asks the TLB each time
    uint8_t looks, far; // of bt_on_miss() at the pages it goes to
    int32_t patience;   // refills until the next look
    bool early;         // ACCESS: reads, but the slot is one for writing because a write follows
};

// What of the host's registers has to hold the guest's while a block runs.
#define BT_NEED_VEC 1 // vector registers and, where that may be, MXCSR
#define BT_NEED_X87 2 // x87 unit (x86/fpu.h)

struct bt_block {
    struct bt_block *hash_next; // under the lock; readers follow it with acquire order
    struct bt_block *page_next;
    struct bt_block *cross_next; // of the blocks whose only instruction ends in the same page
    uint64_t rip;
    gpa_t gpa;
    gpa_t gpa2; // of the page where its only instruction ends, or BT_NO_PAGE
    uint32_t context;
    uint32_t identity;  // of its code page: frame.mapped
    uint32_t identity2; // of the page at gpa2
    uint16_t bytes, count;
    uint8_t need;     // BT_NEED_
    uint32_t head;    // code offset of the 5-byte NOP
    uint32_t entry_a; // enters with the flags in AX
    uint32_t entry_e; // enters with the flags in RFLAGS
    uint32_t checked; // with the flags in AX; checks the mapping first
    uint32_t gone;    // where the head jumps when the block is dead
    uint32_t end;     // of its code
    _Atomic bool dead;
    _Atomic uint32_t incoming; // sites whose jumps lead here, + 1
    struct bt_layout *layout;  // with --bt-verify or --bt-dump, else NULL
};

// Which part of a block's code is for which instruction.
struct bt_layout {
    uint32_t start, cold; // code offsets: of all of it, of the cold code
    uint32_t site_first, site_end;
    uint8_t code;        // enum x86_code_size
    uint32_t boundary[]; // code offset of each instruction, and one more
};

#define BT_NO_PAGE UINT64_MAX

struct bt_page { // a guest-physical page that blocks were made from
    struct bt_page *next;
    uint64_t gfn;
    struct bt_block *blocks;
    struct bt_block *crossing; // begin in another page; dead ones may stay
    unsigned busy;             // blocks of it that are being made
};

#define BT_SCATTER_BITS (1u << 20)
#define BT_HASH_BITS 16
#define BT_PAGE_BITS 12
#define BT_IDENTITY_BITS 12

struct bt_identity {
    struct bt_identity *next;
    uint64_t page; // linear
    uint64_t gfn;
    uint32_t context;
    uint32_t id;
};

struct bt_stats {
    uint64_t entries, translated, insns, host_bytes, guest_bytes, execs, steps, systems, misses,
        fills, crossings, exits, links, branches, loads, polls, entry_checks, kills, scattered;
};

struct bt {
    struct engine *engine;     // the interpreter's part
    pthread_mutex_t lock;      // translation and flushing
    pthread_mutex_t mark_lock; // bt_code_marked()
    pthread_mutex_t page_lock; // hash, pages, which blocks are alive
    struct memory *memory;
    struct memory_listener listener;
    struct bt_vcpu *vcpus;

    // Code: [0, size) at rw and at rx.
    int fd;
    uint8_t *rw, *rx;
    uint64_t size, used, stubs_end;
    uint32_t stub_enter, stub_miss, stub_slow, stub_scattered, stub_exec, stub_seg, stub_exit,
        stub_branch, stub_step, stub_system, stub_poll, stub_entry, stub_fp;

    // Metadata, emptied with the code.
    uint8_t *arena;
    size_t arena_used, arena_size;
    struct bt_site *sites;
    uint32_t site_count, sites_max;
    struct bt_block *_Atomic hash[1u << BT_HASH_BITS];
    struct bt_page *pages[1u << BT_PAGE_BITS];
    struct bt_identity *identities[1u << BT_IDENTITY_BITS];
    uint32_t identity_count;
    // Places whose accesses scatter over many pages, by a hash of rip: they are translated so that they ask
    // the TLB instead of a page slot.
    _Atomic uint64_t scattered[BT_SCATTER_BITS / 64];
    _Atomic bool any_scattered;
    uint16_t next_loose;
    uint16_t next_slot[X86_FRAME_SETS][X86_FRAME_KINDS];

    struct bt_context contexts[BT_CONTEXTS_MAX];
    uint32_t context_count;

    _Atomic uint32_t stop; // somebody waits until no vCPU is in translated code
    _Atomic bool flush_wanted;
    _Atomic uint64_t generation; // of the cache: flushes
    uint64_t killed;

    bool verify;
    struct verifier *verifier;
    FILE *dump;
    uint64_t dump_low, dump_high;
    _Atomic bool broken; // `broken_why` says which rule; the engine stops
    char broken_why[320];
};

struct bt_recent { // a context that was in use
    struct bt_context key;
    uint32_t context, single; // 0: none
};

struct bt_vcpu {
    struct interp *it;
    struct x86_cpu *cpu;
    struct bt *bt;
    struct bt_vcpu *next;
    uint64_t generation; // of all that follows
    // Current; the same with BT_CTX_SINGLE; 0: no blocks run here.
    uint32_t context, context_single;
    struct bt_context key;       // of `context`
    struct bt_recent recent[64]; // written with the lock, read in code
    uint32_t link_site;          // + 1: an exit that waits for its target, or 0
    uint32_t link_context;       // where it was
    bool single;                 // the next block is to check every access by itself
    struct bt_stats stats;
};

// Where frame.mapped tells of a linear page number in a context.
#define BT_MAPPED_MIX 61
ALWAYS_INLINE unsigned bt_mapped_index(uint64_t page, uint32_t context)
{
    return (unsigned)(page ^ context * BT_MAPPED_MIX) & (X86_FRAME_MAPPED - 1);
}

ALWAYS_INLINE struct bt_vcpu *bt_of(struct x86_cpu *cpu)
{
    return cpu->interp->translator;
}

// --- cache.c
bool bt_cache_create(struct bt *bt, uint64_t size, struct error *err);
void bt_cache_destroy(struct bt *bt);
void *bt_alloc(struct bt *bt, size_t size); // from the arena; NULL: flush and begin again
uint32_t bt_identity_get(struct bt *bt, uint64_t page, uint64_t gfn, uint32_t context);
// Without the lock: the block, or NULL. A second page has to be where the TLB of this vCPU says.
struct bt_block *bt_find(struct bt_vcpu *v, gpa_t gpa, uint64_t rip, uint32_t context);
// The page, marked as code, until bt_page_settle(). With the lock.
struct bt_page *bt_page_hold(struct bt *bt, gpa_t gpa);
void bt_page_settle(struct bt *bt, struct bt_page *page);
// Makes the block known. `next` and `host2`, where its last page begins, are NULL but for one with two pages.
// False: its bytes are not what it was made from any more.
bool bt_block_publish(struct bt *bt, struct bt_block *block, struct bt_page *page,
                      struct bt_page *next, const uint8_t *bytes, const uint8_t *host,
                      const uint8_t *host2);
void bt_kill(struct bt *bt, gpa_t gpa, uint64_t size); // all blocks that overlap
// Waits until no vCPU is in translated code, this thread's own included; lets them go on.
void bt_stop_others(struct bt *bt);
void bt_release_others(struct bt *bt);
void bt_current_set(struct bt_vcpu *v); // the vCPU that runs on this thread, or NULL
void bt_cache_flush(struct bt *bt);     // with the lock
void bt_code_marked(void *opaque, gpa_t gpa);
void bt_code_written(void *opaque, void *writer, gpa_t gpa, uint64_t size);

// --- host.c
bool bt_host_prepare(void); // this thread, for translated code
// Why translated code cannot run on this host, in one line; NULL: it can.
const char *bt_host_refuses(void);
uint64_t bt_host_enter(struct x86_cpu *cpu); // sets the GS base; what it was is for bt_host_leave()
void bt_host_leave(uint64_t before);

// --- system.c: the context of the processor's state
void bt_context_now(const struct bt_vcpu *v, struct bt_context *key);
ALWAYS_INLINE bool bt_context_equal(const struct bt_context *a, const struct bt_context *b)
{
    return a->bits == b->bits && a->segs == b->segs && a->cs_base == b->cs_base &&
           a->cs_limit == b->cs_limit;
}

// --- segment.c: BT_SEG_ of all segment registers
uint32_t bt_segments_now(const struct x86_cpu *cpu);

ALWAYS_INLINE unsigned bt_scatter_hash(uint64_t rip)
{
    return (unsigned)((rip * UINT64_C(0x9e3779b97f4a7c15)) >> 44);
}

// --- stubs.c
void bt_stubs_emit(struct bt *bt);

// --- runtime.c: called from translated code; return the host address to go on at, or 0 to leave
uint64_t bt_on_miss(struct x86_cpu *cpu);
uint64_t bt_on_slow(struct x86_cpu *cpu);
uint64_t bt_on_exec(struct x86_cpu *cpu);
uint64_t bt_on_seg(struct x86_cpu *cpu);
uint64_t bt_on_exit(struct x86_cpu *cpu);
uint64_t bt_on_branch(struct x86_cpu *cpu);
uint64_t bt_on_poll(struct x86_cpu *cpu);
uint64_t bt_on_entry(struct x86_cpu *cpu);
uint64_t bt_on_fp(struct x86_cpu *cpu);
// Makes the state exact for the instruction of the site that called.
struct bt_site *bt_arrive(struct x86_cpu *cpu);
// Goes on behind the instruction (or the group) of the site if the guest stands there, else 0.
uint64_t bt_resume(struct x86_cpu *cpu, const struct bt_site *site);
uint64_t bt_enter_block(struct bt_vcpu *v, struct bt_block *block); // 0: not now
uint32_t bt_fp_context(const struct x86_cpu *cpu);                  // the BT_CTX_FP bits
// Makes the host's registers hold what the block needs; vector registers follow in the stub.
void bt_need(struct x86_cpu *cpu, const struct bt_block *block);
// The block at cpu->rip when that is known without a walk, else NULL.
struct bt_block *bt_block_here(struct bt_vcpu *v, uint32_t context);
// The mappings of the block's pages hold: its entries may be used until the next flush.
void bt_entry_allow(struct x86_cpu *cpu, const struct bt_block *block);
// Where the page of linear addresses behind that of `lin` begins.
ALWAYS_INLINE gva_t bt_next_page(const struct x86_cpu *cpu, gva_t lin)
{
    return ((lin | PAGE_OFFSET_MASK) + 1) & cpu->lin_mask;
}
void bt_link(struct bt *bt, uint32_t site, struct bt_block *target);
void bt_flags_in(struct x86_cpu *cpu);  // frame.flags -> cc
void bt_flags_out(struct x86_cpu *cpu); // cc -> frame.flags

// --- system.c
void bt_context_update(
    struct bt_vcpu *v); // for the state and the cache as they are; may take the lock
void bt_targets_use(struct bt_vcpu *v); // the table of indirect targets becomes that of the context
uint64_t bt_on_step(struct x86_cpu *cpu);
uint64_t bt_on_system(struct x86_cpu *cpu);

// --- translate.c: with the lock. NULL: leave this instruction to the interpreter. *full: no room. *more: the
// instruction ends in the next page, which is wanted, too (its host is NULL where it is not known).
struct bt_block *bt_translate(struct bt_vcpu *v, uint32_t context, const struct x86_code_page *page,
                              const struct x86_code_page *next, bool *full, bool *more);

// --- dump.c
bool bt_dump_open(struct bt *bt, const struct engine_options *options, struct error *err);
void bt_dump_close(struct bt *bt);
void bt_dump_block(struct bt *bt, const struct bt_block *block, const uint8_t *guest);
// What stands at cpu + offset, for people: "slot[1][0][5].page". Returns `out`.
const char *bt_field_name(char *out, size_t size, int64_t offset);
const char *bt_stub_name(const struct bt *bt, uint32_t offset); // or NULL

// --- verify*.c
#define BT_VERIFY_BYTES (BT_BLOCK_MAX * 512u)
struct verifier *bt_verifier_create(struct bt *bt, struct error *err);
void bt_verifier_destroy(struct verifier *v);
// A new block, before it is used. False: bt->broken_why says what is wrong with it.
bool bt_verify_block(struct verifier *v, const struct bt_block *block);
// All blocks again, with their links, while nobody runs or patches them; with the lock.
bool bt_verify_cache(struct verifier *v);
void bt_verify_flushed(struct verifier *v);
