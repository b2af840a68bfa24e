// SPDX-License-Identifier: Apache-2.0
// The parts of the guest "gates", and the gates and targets that they make their tables of.
#pragma once

#include "rings.h"
#include "segments.h"

enum {
    SEL_GATE = SEL_TEST,         // two entries
    SEL_CS = SEL_TEST + 0x10,    // the gate's target
    SEL_SS = SEL_TEST + 0x18,    // an inner or outer stack
    SEL_TSS16 = SEL_TEST + 0x20, // 32-bit flavour: a 16-bit TSS
    VEC_GATE = 0x91,             // for INT n
    LAND = 0x3000,               // UD2, within reach of a 16-bit gate
    LOW_STACK = 0x6000,
};

// Ways in through a gate.
enum entry {
    BY_JMP,
    BY_CALL,
    BY_INT,
    BY_BOUND,
    BY_GP,
    ENTRIES
};
extern const char *const entry_names[ENTRIES];
#define entry_vector(e) ((e) == BY_INT ? VEC_GATE : (e) == BY_BOUND ? VEC_BR : VEC_GP)
#define entry_ext(e) ((e) == BY_BOUND || (e) == BY_GP)

// A call gate at SEL_GATE, or an IDT gate, to LAND in SEL_CS.
void gate_make(enum entry entry, u32 kind, u32 dpl, bool present, u32 target, u32 parameters);
void gate_prepare(enum entry entry, u32 cpl, u32 rpl); // ring_state
void gates_setup(void);
void gates_restore(void);
extern u32 land_offset;

void gates_calls(void);
void gates_interrupts(void);
void gates_stacks(void);
void gates_returns(void);
void gates_fast(void);
void gates_long(void);
