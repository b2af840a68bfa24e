// SPDX-License-Identifier: Apache-2.0
// What the guests of segmentation, gates and tasks share: flat code, data and a stack for each of the four
// rings, the start of a snippet in one of them, and outcomes as numbers that a model can predict.
//
// A snippet is a few instructions of assembly that end in UD2: the trap that tells that all went well. Every
// other trap is the outcome under test.
//
// Rule to keep: a table of cases asks ring_wanted() for each, so that "trials" on the command line (a monitor that
// takes long for each) makes do with a sample.
#pragma once

#include "lab.h"

enum {
    SEL_RING1_CODE = 0x81,
    SEL_RING1_DATA = 0x89,
    SEL_RING2_CODE = 0x92,
    SEL_RING2_DATA = 0x9a,
    SEL_RING_CODE32_1 = 0xa1, // 64-bit flavour: 32-bit code of rings 1 and 2
    SEL_RING_CODE32_2 = 0xaa,
    SEL_TEST = 0x100 // and up: a test's own
};

extern const u16 ring_code[4], ring_data[4], ring_code32[4];
#define RING_STACK 4096
extern u8 ring_stack[4][RING_STACK];

// The outcome of a trial: 0, the snippet came to its end; else vector and error code.
#define FAULT(vector, error) (0x80000000u | (u32)(vector) << 16 | (u32)(error))
#define FAULT_SEL(vector, selector) FAULT(vector, (selector)&0xfffc)
#define OUTCOME_SKIPPED 0xffffffffu

extern struct lab_state ring_state; // what ring_prepare() made, to be changed before ring_run()
extern const struct lab_trap *ring_trap; // how the last ring_run() ended

void rings_setup(void);
void ring_prepare(unsigned cpl, const void *snippet);
u32 ring_run(void); // the outcome of ring_state; a fault's IP is within ring_trap
bool ring_wanted(void);

// At most this many failures of one table are told one by one; false: the cell is to be reported.
void table_begin(void);
bool table_cell(bool ok);
void table_end(const char *what);

#define SNIPPET(name, text)                                          \
    __asm__(".text\n.globl " #name "\n" #name ":\n" text "\nud2\n"); \
    extern const char name[]

#ifdef __x86_64__
#define IS_LONG 1
#define RAX "%rax"
#else
#define IS_LONG 0
#define RAX "%eax"
#endif
