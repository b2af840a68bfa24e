// SPDX-License-Identifier: Apache-2.0
// Private to the generator's files (gen*.c): what is being made, and what each file offers the rest.
//
// Rules to keep:
//  - A case depends on (seed, number, mode), on whether there is an LDT, and on the table only.
//  - The generator encodes by itself from the table's encoding columns and knows where it aimed a
//    memory operand; it does not ask the decoder, which is under test. (The decoder is asked one
//    thing: whether stray prefixes made an excluded instruction of it.)
//  - An operand aims into the window, at an unmapped or non-canonical address, never at what the
//    test program itself has mapped: address_is_safe().
#pragma once

#include "case.h"
#include "values.h"
#include "x86/insn.h"

#define REG_NONE 16

struct gen {
    struct rng rng;
    const struct x86_form *form;
    struct oracle_case *c;
    enum x86_code_size code_size;
    bool code64, ldt;
    uint8_t bytes[32];
    unsigned n;
    // What was chosen.
    bool opsize66, adsize67, w, lock;
    uint8_t rep;      // 0, 0xf2, 0xf3
    int seg;          // overriding segment or -1
    unsigned padding; // superfluous prefixes: how many
    unsigned rex_r, rex_x, rex_b, vex_l, vvvv;
    unsigned modrm_mod, modrm_reg, modrm_rm;
    bool has_mem, edge; // edge: aim at the end of the segment
    uint64_t target;    // linear address of the memory operand
    uint32_t locked;    // registers whose value is settled
    const struct oracle_case
        *behind; // the sequence that is continued: branches do not lead back into it
    uint8_t memory[ORACLE_MEMORY_SIZE];
};

// --- small helpers (gen.c) -----------------------------------------------------------------------
static inline uint64_t below(struct gen *g, uint64_t n)
{
    return rng_below(&g->rng, n);
}
static inline bool chance(struct gen *g, unsigned percent)
{
    return rng_chance(&g->rng, percent);
}
bool is(const struct gen *g, const char *mnemonic);
bool starts(const struct gen *g, const char *prefix);
bool has_kind(const struct gen *g, unsigned kind); // an operand of this enum x86_operand_kind
bool is_string(const struct gen *g);
unsigned operand_size(const struct gen *g);
unsigned address_size(const struct gen *g);
unsigned memory_size(const struct gen *g); // bytes that the memory operand takes: a guess
unsigned imm_size(const struct gen *g);
void emit(struct gen *g, uint64_t value, unsigned size);
// Puts bytes at a linear address of the window, as far as it is mapped.
void patch(struct gen *g, uint64_t linear, const void *data, unsigned size);
// A little-endian value of the window's content at a linear address; 0 where it is not mapped.
uint64_t peek(struct gen *g, uint64_t linear);
void set_reg(struct gen *g, unsigned reg, uint64_t value);

// Instruction and operands for g->form at the state in g->c->in: the bytes, and what of registers and
// memory they need.
void make_instruction(struct gen *g);
// The form of a row's number among those that take part in this mode.
uint16_t eligible_form(uint64_t i);
void start_gen(struct gen *g, struct oracle_case *c,
               uint16_t form); // under the options, without seed

// Whether no byte of the sequence lies there (gen_sequence.c).
bool place_is_free(const struct oracle_case *c, unsigned offset, unsigned room);

// --- what takes part (gen_exclude.c) -------------------------------------------------------------
bool form_takes_part(const struct x86_form *form, enum x86_code_size code_size);
// Whether the bytes are fit to run: they may be an excluded instruction by way of a prefix.
bool case_is_acceptable(const struct oracle_case *c);

// --- starting state (gen_state.c) ----------------------------------------------------------------
enum filling pick_filling(struct gen *g);
void make_state(struct gen *g);
void make_fpu(struct gen *g);
void clear_unused(struct gen *g); // after everything that changes the vector registers

// --- addresses (gen_address.c) -------------------------------------------------------------------
uint64_t pick_selector(struct gen *g);
uint16_t pick_code_selector(struct gen *g); // of a segment in which a case may lie
// Where a branch may go, as offset in the code segment of this selector.
uint64_t pick_code(struct gen *g, uint16_t cs);
uint64_t pick_data(struct gen *g, unsigned size); // linear address for an operand
bool address_is_safe(uint64_t linear);
uint64_t seg_base(const struct gen *g, int seg); // of the current segment register; -1: 0
// The offset at the current address size that leads to `linear`, or near it, or to an edge of the
// segment, within `mask`.
uint64_t aim_offset(struct gen *g, int seg, uint64_t linear, unsigned size, uint64_t mask);
// Aims [reg] so at the current address size. `seg` is the segment that will count.
void aim_reg(struct gen *g, unsigned reg, int seg, uint64_t linear, unsigned size);
void aim_stack(struct gen *g, unsigned reg, uint64_t linear); // RSP or RBP, at the stack's size
uint64_t stack_linear(const struct gen *g);                   // of the stack pointer

// --- encoding (gen_encode.c, gen_memory.c) -------------------------------------------------------
void choose_prefixes(struct gen *g);
void emit_prefixes(struct gen *g);
void emit_immediate(struct gen *g);
// Chooses ModRM, SIB and displacement for a memory operand at g->target and settles the registers.
void emit_memory(struct gen *g);

// --- what particular instructions need (gen_prepare.c) -------------------------------------------
void prepare_registers(struct gen *g); // before the operands are encoded
uint16_t pick_far(struct gen *g);
void prepare_operand(struct gen *g); // after: values in memory or the register of ModRM.rm
