// SPDX-License-Identifier: Apache-2.0
// The checker of translated code, private header of verify.c (control flow), verify_insn.c (instructions) and
// verify_value.c (what registers hold).
//
// It knows nothing of how code is emitted. It decodes the host's bytes again and goes through a block once, in
// address order, with what is known of the registers at each place; a block only jumps forward, but for the
// places where helpers come back. To teach it something new: a field that code may write goes to `writable`, an
// instruction to allowed(), both in verify_insn.c; a stub to bt_stubs below and to site_rules in verify.c.
#pragma once

#include "engine/bt/translate.h"

// A sum of symbols, modulo 2^64. Symbol: what a register or a field held at some place.
#define VTERMS 8
struct vterm {
    uint32_t symbol;
    int64_t factor;
};
enum vtag {
    V_SUM,
    V_FLAGS, // RAX: the guest's flags, as saved
    V_AH,    // RAX: LAHF is done, SETO AL is not
    V_LAST,  // RAX: ADD AL,7Fh is done, SAHF is not
    V_CODE,  // an entry's address from the table of targets
};
struct vvalue {
    uint8_t tag, terms;
    bool entries; // a multiple of 64 up to the last entry of a TLB
    bool high;    // bits 7:0 are clear
    bool scaled;  // `max` was shifted by 4
    uint32_t max; // V_SUM: not above it; 0: unknown
    struct vterm term[VTERMS];
    int64_t add;
};
// Symbols of their own: what is in the page and addend fields of a slot; truncations to 32 bits.
#define VSYM_PAGE 0x10000u
#define VSYM_ADDEND 0x20000u
#define VSYM_LOW 0x30000u
#define VSYM_LOW16 0x31000u // truncations to 16 bits
#define VSYM_LIMIT 0x32000u // limits of segments
// The n-th entry of the TLB that is looked at, and what it holds.
#define VSYM_ENTRY 0x34000u
#define VENTRIES_MAX 0x400u
enum ventry {
    VENTRY_POINTER,
    VENTRY_TAG_READ,
    VENTRY_TAG_WRITE,
    VENTRY_FLAGS,
    VENTRY_ADDEND,
    VENTRY_PARTS = 8
};
#define VHALVES_MAX 512u
#define VSYM_FRESH 0x40000u
#define VLOWS_MAX 0x1000u

enum vflags {
    VF_LOST,
    VF_GUEST,   // exactly the guest's
    VF_HALF,    // ADD AL,7Fh is done, SAHF is not
    VF_SLOT,    // address - page compared with a constant: `fact` holds if it was not above
    VF_PAGE,    // page compared with a constant: `fact` holds if equal
    VF_PLAIN,   // the flags of the page of a TLB entry compared with PAGE_FLAGS_PLAIN
    VF_TARGET,  // S compared with an entry of the target table
    VF_WRAP,    // a 16-bit offset compared with the end of its segment
    VF_COMPARE, // something else that may be asked
};

// page(slot) <= address and address + size <= page(slot) + 4096.
struct vfact {
    struct vvalue address;
    uint32_t slot; // byte offset in the frame, or VSYM_ENTRY + number of a TLB entry
    bool write;    // covers stores
    int32_t size;
    uint32_t wrap_symbol; // its 16-bit offset, which
    int32_t wrap;         // so many bytes may follow without wrapping
    uint32_t at;          // code offset
};
#define VFACTS_MAX 512  // in a block
#define VKNOWN_MAX 160  // at a place
#define VEDGES_MAX 1024 // forward jumps
#define VCELLS 10       // gpr[9..11], bases of the segments, scratch[1]
#define VCELL_SCRATCH 9

struct vstate {
    struct vvalue reg[16], cell[VCELLS];
    uint8_t flags;
    uint16_t plain;        // VF_PLAIN: entry
    uint16_t flags_fact;   // VF_SLOT, VF_PAGE
    uint8_t target_reg;    // VF_TARGET, and found below
    uint8_t found;         // 1 + table whose entry at target_reg is the one wanted
    uint8_t found_pending; // VF_TARGET: the same
    uint32_t wrap_symbol, wrap_pending_symbol; // of vfact; VF_WRAP
    int32_t wrap, wrap_pending;
    uint32_t site;              // 1 + number in frame.site, or 0
    int16_t insn;               // guest instruction, -1 none yet
    uint16_t known[VKNOWN_MAX]; // facts
    uint16_t known_count;
};

struct vedge {
    uint32_t to;
    struct vstate state;
};

struct verifier {
    struct bt *bt;
    const struct bt_block *block;
    const struct bt_layout *layout;
    bool linked; // jumps to other blocks may be there
    struct vstate state;
    bool reachable;
    uint32_t at; // instruction that is looked at
    struct x86_insn x;
    struct vfact fact[VFACTS_MAX];
    unsigned facts;
    struct vvalue low[2][VLOWS_MAX]; // 32 bits, 16 bits
    unsigned lows[2];
    unsigned entries;
    // Registers whose low 16 bits were written: the symbol of the whole, what the low half is.
    struct {
        uint32_t symbol;
        struct vvalue low16;
    } half[VHALVES_MAX];
    unsigned halves;
    uint32_t fresh;
    struct vedge edge[VEDGES_MAX];
    unsigned edges;
    uint8_t boundary[BT_VERIFY_BYTES]; // 1: an instruction begins here
    // Every block since the last flush, in the order of their code.
    const struct bt_block **blocks;
    size_t block_count, blocks_max;
};

// Reports; returns false.
bool vfail(struct verifier *v, const char *rule, ...) __attribute__((format(printf, 2, 3)));

// --- verify_value.c
struct vvalue vconst(int64_t value);
struct vvalue vsymbol(uint32_t symbol);
struct vvalue vfresh(struct verifier *v);
struct vvalue vsum(struct verifier *v, const struct vvalue *a, const struct vvalue *b,
                   int64_t factor,
                   int64_t add); // a + factor * b + add; b may be NULL
struct vvalue vlow(struct verifier *v, const struct vvalue *a);   // its low 32 bits
struct vvalue vlow16(struct verifier *v, const struct vvalue *a); // its low 16 bits
bool vsame(const struct vvalue *a, const struct vvalue *b);
bool vconstant(const struct vvalue *a);
// Distance of b from the address of the fact, when that is certain.
bool vdistance(const struct verifier *v, const struct vfact *a, const struct vvalue *b,
               int64_t *distance);
struct vvalue vhalf(struct verifier *v,
                    const struct vvalue *low16); // a register of which 16 bits were written
// The symbol, when the value is that of a truncation to 16 bits; else 0.
uint32_t vis_low16(const struct vvalue *a);
void vjoin(struct verifier *v, struct vstate *a, const struct vstate *b);

// Symbols that no register of the guest holds.
static inline bool vsym_internal(uint32_t symbol)
{
    return symbol - VSYM_PAGE < VSYM_LOW - VSYM_PAGE ||
           symbol - VSYM_ENTRY < VENTRIES_MAX * VENTRY_PARTS;
}

// --- verify_insn.c: the effect of a host instruction that is no branch. False: reported.
bool vexecute(struct verifier *v);
// What is known of accesses by way of `from` holds for `to`, too, and for stores if `write`.
void vfacts_copy(struct verifier *v, uint32_t from, uint32_t to, bool write);
bool vaccess(struct verifier *v, unsigned size, bool write); // x's memory operand
#define VINDEX_MAX ((X86_FRAME_TARGETS - 1) * (uint32_t)sizeof(struct x86_branch_target))
// Is x's memory operand gs:[reg + field of the target table]? The table.
bool vtarget_operand(const struct verifier *v, size_t field, unsigned *set);
