// SPDX-License-Identifier: Apache-2.0
// One translation, private to the translator's files: analyze.c fills `op`, group.c `group`, the emitters write code.
//
//   analyze.c   decodes, classifies, finds the accesses
//   group.c     which of them share a check
//   access.c    memory operands: checks, page slots
//   segment.c   ... through segments that are not flat, or by 16-bit addresses
//   compute.c   instructions that stay in the block
//   flow.c      branches, exits, entries
//   translate.c puts a block together
#pragma once

#include "engine/bt/bt.h"
#include "x86/decode.h"
#include "x86/mem.h"

// How an instruction is translated.
enum bt_kind {
    KIND_NATIVE, // as one host instruction, by encode.h
    KIND_NOP,
    KIND_LEA,
    KIND_PUSH, // register or immediate
    KIND_PUSH_MEM,
    KIND_POP,
    KIND_LEAVE,
    KIND_MUL,
    KIND_CBW,
    KIND_CWD,
    KIND_CARRY,     // CLC STC CMC
    KIND_DF,        // CLD STD
    KIND_VECTOR,    // vector and x87 instructions, as KIND_NATIVE
    KIND_SEG_STORE, // MOV from a segment register
    KIND_SEG_LOAD,  // MOV to one in real mode
    KIND_SEG_POP,
    KIND_EXEC,     // by the interpreter, in the block
    KIND_EXEC_SEG, // the same, loads a segment register: the block may have to be left
    KIND_SYSTEM,   // the same, may change anything
    KIND_CLI,
    KIND_STI, // an instruction follows that does not branch
    KIND_PUSHF,
    KIND_POPF,
    KIND_SWAPGS,
    // These end a block, but for a conditional jump that is not taken.
    KIND_JCC, // LOOP and JCXZ, too
    KIND_JMP,
    KIND_CALL,
    KIND_RET,
    KIND_JMP_IND,
    KIND_CALL_IND,
    KIND_BRANCH, // another near branch, by the interpreter
    KIND_STEP,   // everything else: leaves the block
};

enum bt_access_class {
    ACCESS_SUM,     // base + (index << scale) + disp, shares checks
    ACCESS_CONST,   // a constant address, shares checks
    ACCESS_GENERAL, // anything else
    ACCESS_SEG,     // outside 64-bit code, not flat or with a 16-bit address: segment.c
};

// What stands in for the base register of an ACCESS_SUM, beside the guest's 16.
enum {
    BASE_NONE = 16,
    BASE_FS, // the segment's base
    BASE_GS,
    BASE_COUNT
};

struct bt_access {
    uint8_t class;
    uint8_t base, index, scale; // ACCESS_SUM, ACCESS_SEG: guest registers or BASE_
    uint8_t size, seg;
    uint8_t adsize; // ACCESS_SEG
    bool write;
    uint8_t group;
    int64_t disp; // ACCESS_SUM, ACCESS_SEG: displacement; ACCESS_CONST: linear address
    int64_t rel;  // ... the same, from the registers' values where they got their version
};

struct bt_op {
    struct x86_insn x;
    uint16_t off;
    uint8_t kind;
    uint8_t access_count;
    bool flags_full; // writes all six flags, reads none
    bool flags_some; // reads flags, or writes some
    uint8_t align;   // VECTOR: of its memory operand, or 0
    bool x87;        // VECTOR: sets FIP and FOP
    bool x87_data;   // ... and FDP, which nothing sets again before it may be seen
    struct bt_access access[2];
    uint64_t target; // JCC, JMP, CALL
};

// Accesses that one check covers.
struct bt_group {
    uint8_t class, base, index, scale;
    uint8_t base_version, index_version;
    uint8_t adsize, seg, seg_version; // ACCESS_SEG
    bool write;                       // at least one of them writes
    uint8_t first, last;              // instructions
    int64_t low, high;                // rel (ACCESS_SUM) or linear addresses: [low, high)
    bool scattered;                   // its check asks the TLB; `slot` is a loose one
    uint16_t slot;
    uint8_t aligned; // known to be, to so many bytes, at `aligned_at` (rel)
    int64_t aligned_at;
};
#define BT_GROUPS_MAX (2 * BT_BLOCK_MAX)
#define BT_GROUP_SPAN 512

// Code off the straight path, emitted behind the block.
struct bt_cold {
    uint8_t *from[2]; // displacements to be fixed to here
    uint32_t site;
    uint32_t stub;
    bool flags_e; // the flags are still in RFLAGS: save them first
    uint8_t s1;   // what S1 has to become
    uint16_t slot;
    uint64_t value;
    const struct bt_access *access;
    int32_t uncount; // instructions to be taken off icount
    bool trampoline; // EXIT: the patched jump is the cold code's own
};
enum {
    S1_KEEP,
    S1_ADD_PAGE, // S1 += slot's page
    S1_CONST,
    S1_SUM, // S1 = the first address that the check of `access` covers
};
#define BT_COLD_MAX 400
#define SLOT_NONE UINT16_MAX

struct bt_tr {
    struct bt_vcpu *v;
    struct bt *bt;
    uint32_t context;
    const struct bt_context *key;
    enum x86_code_size code;
    bool counted, single;
    bool crossing; // one instruction, that ends in the next page

    uint64_t rip;
    gva_t lin;
    struct bt_block *block;
    struct bt_op op[BT_BLOCK_MAX];
    unsigned count; // of op
    uint16_t bytes;
    struct bt_group group[BT_GROUPS_MAX];
    unsigned groups;
    bool stack_slot[X86_FRAME_KINDS]; // taken by a group of this block
    bool poll;                        // the block has a backward or indirect branch
    uint8_t need;                     // BT_NEED_
    uint8_t x87_last; // op + 1 of the last x87 instruction emitted that set FIP, or 0
    bool x87_stored;  // frame.x87_site tells of it

    struct asm_buf b;
    bool e, a; // where the flags are: RFLAGS, AX
    // What need not be done again, or not yet, while no site lies between:
    uint16_t s1_slot; // S1 holds this slot's addend, or SLOT_NONE
    bool
        s1_based; // ... and the group's base, as it was where its displacement lagged by s1_bias, and s1_disp
    int64_t s1_bias, s1_disp;
    int32_t rsp_lag; // the guest's RSP is the host's and this much
    bool reached[BT_BLOCK_MAX +
                 1]; // a site goes on at this boundary: nothing of the above holds there
    unsigned now;    // instruction that is being emitted
    uint8_t *boundary[BT_BLOCK_MAX + 1]; // code of each instruction
    struct bt_cold cold[BT_COLD_MAX];
    unsigned colds;
    uint32_t site_first;
    bool failed; // out of sites, cold code or memory
};

#define SEG(n, field) \
    (offsetof(struct x86_cpu, seg) + (n) * sizeof(struct x86_seg) + offsetof(struct x86_seg, field))
#define SLOT_PAGE(slot) \
    (offsetof(struct x86_cpu, frame) + (slot) + offsetof(struct x86_page_slot, page))
#define SLOT_ADDEND(slot) \
    (offsetof(struct x86_cpu, frame) + (slot) + offsetof(struct x86_page_slot, addend))

ALWAYS_INLINE uint32_t tr_offset(const struct bt_tr *t, const uint8_t *p)
{
    return (uint32_t)(p - t->bt->rw);
}
ALWAYS_INLINE bool tr_fits32(int64_t v)
{
    return v == (int32_t)v;
}
ALWAYS_INLINE bool tr_64(const struct bt_tr *t)
{
    return t->code == X86_CODE64;
}

// BT_SEG_ of a segment register.
ALWAYS_INLINE unsigned tr_segment(const struct bt_tr *t, unsigned seg)
{
    return t->key->segs >> seg * BT_SEG_BITS & ((1u << BT_SEG_BITS) - 1);
}
// Bytes of rSP that the stack uses.
ALWAYS_INLINE unsigned tr_stack(const struct bt_tr *t)
{
    return 1u << ((t->key->bits & BT_CTX_STACK) >> BT_CTX_STACK_SHIFT);
}
ALWAYS_INLINE bool tr_v86(const struct bt_tr *t)
{
    return !(t->key->bits & BT_CTX_PROT) && (t->key->bits & BT_CTX_SET) == X86_TLB_USER
                                                                               << BT_CTX_SET_SHIFT;
}

// --- flags (translate.c)
void tr_flags_saved(struct bt_tr *t);   // makes AX hold them
void tr_flags_clobber(struct bt_tr *t); // RFLAGS may be destroyed now
void tr_flags_loaded(struct bt_tr *t);  // makes RFLAGS hold them
void tr_ax_free(struct bt_tr *t);       // RAX may be destroyed now
// The flags are new, in RFLAGS.
ALWAYS_INLINE void tr_flags_written(struct bt_tr *t)
{
    t->e = true;
    t->a = false;
}

// A site for the current instruction; never NULL, but see t->failed.
struct bt_site *tr_site(struct bt_tr *t, enum bt_site_kind kind, uint32_t *number);
struct bt_cold *tr_cold(struct bt_tr *t, uint32_t site, uint32_t stub, uint8_t *from);

// The guest's RSP is in RSP again.
void tr_rsp_settle(struct bt_tr *t);
// The access's check was made by an earlier instruction.
bool tr_access_covered(const struct bt_tr *t, const struct bt_access *a);

// --- analyze.c
bool tr_analyze(struct bt_tr *t, const uint8_t *bytes, unsigned avail);
// Operand description of kind `kind`, or NULL.
ALWAYS_INLINE const struct x86_operand_desc *tr_operand(const struct x86_form *form, unsigned kind)
{
    for (unsigned i = 0; i < form->operand_count; i++)
        if (form->operand[i].kind == kind)
            return &form->operand[i];
    return NULL;
}
// --- group.c: fills `group`, and each access's place in it
void tr_group(struct bt_tr *t);
// --- access.c: emits the check if it is due; S1, and S2 outside 64-bit code, are used up.
struct bt_mem tr_access(struct bt_tr *t, const struct bt_access *a);
// A check's site and cold code, `from` the jump to it.
struct bt_cold *tr_check_fails(struct bt_tr *t, const struct bt_access *a, uint8_t *retry,
                               uint8_t *from);
// S1 = the first linear address of the access's group.
void tr_low_address(struct bt_tr *t, const struct bt_access *a);
// S1 = effective address of x (no segment).
void tr_address(struct bt_tr *t, const struct x86_insn *x);
// --- segment.c: S1 and S2 are used up
struct bt_mem tr_segment_access(struct bt_tr *t, const struct bt_access *a, bool check);
bool tr_segment_real(const struct bt_tr *t, unsigned seg);
void tr_segment_set(struct bt_tr *t, unsigned seg);
void tr_segment_store(struct bt_tr *t, const struct bt_op *op);
void tr_segment_load(struct bt_tr *t, const struct bt_op *op);
// --- privileged.c
void tr_classify_privileged(const struct bt_tr *t, struct bt_op *op);
void tr_privileged_end(struct bt_tr *t); // the block's last instruction is known
void tr_privileged(struct bt_tr *t, const struct bt_op *op);
void tr_sti_over(struct bt_tr *t); // behind the instruction that follows STI
// --- compute.c
void tr_compute(struct bt_tr *t, const struct bt_op *op);
void tr_sp_move(struct bt_tr *t, int64_t by);
// An instruction of 2, 4 or 8 bytes with a memory operand.
void tr_mem(struct bt_tr *t, unsigned size, unsigned op, unsigned reg, struct bt_mem m);
bool tr_encodable(const struct bt_tr *t, const struct bt_op *op);
// --- vector.c
void tr_classify_vector(struct bt_tr *t, struct bt_op *op);
void tr_x87_pointers(struct bt_tr *t); // which x87 instructions have to set FDP
void tr_need(struct bt_tr *t);         // emits the check that the host's registers are the guest's
// Emits the check of the alignment; the operand may have moved to S1 alone.
void tr_align(struct bt_tr *t, const struct bt_op *op, struct bt_mem *mem);
void tr_fldcw(struct bt_tr *t, const struct bt_op *op);
void tr_x87_done(struct bt_tr *t, const struct bt_op *op);
void tr_x87_leave(struct bt_tr *t, uint32_t site); // before a jump out of the block
// --- flow.c
void tr_exit(struct bt_tr *t, uint64_t target);
void tr_flow(struct bt_tr *t, const struct bt_op *op);
void tr_exec(struct bt_tr *t, const struct bt_op *op, enum bt_site_kind kind);
void tr_cold_emit(struct bt_tr *t);
struct interp_insn *tr_interp_insn(struct bt_tr *t, const struct bt_op *op);
