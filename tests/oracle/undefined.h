// SPDX-License-Identifier: Apache-2.0
// What the architecture leaves undefined, as one table: which instruction, under which condition, which
// flags or results, and where the manual says so. The column `u=` of src/x86/instructions.def is the
// union of an instruction's rows (undefined_test.c holds the two together).
#pragma once

#include "case.h"
#include "x86/insn.h"
#include <stdio.h>

enum undefined_when {
    UNDEFINED_ALWAYS,
    // Shifts and rotates, by the count as the processor masks it (5 bits, 6 for 64-bit operands).
    UNDEFINED_COUNT_NOT_0,
    UNDEFINED_COUNT_OVER_1,
    UNDEFINED_COUNT_FROM_WIDTH, // count >= width
    UNDEFINED_COUNT_OVER_WIDTH, // count > width
    UNDEFINED_SOURCE_0,         // bit scans: ZF = 1 afterwards
    UNDEFINED_SIZE_16,          // 16-bit operands
};

struct undefined_row {
    const char *mnemonics; // separated by blanks
    enum undefined_when when;
    uint32_t flags;        // RFLAGS bits
    bool value;            // the destination too
    const char *reference; // SDM vol. 2, entry and part of it; APM vol. 3 where it says more
};

#define UNDEFINED_ROWS_MAX 64
extern const struct undefined_row undefined_rows[];
extern const unsigned undefined_row_count;

// Whether the row names this instruction.
bool undefined_row_names(const struct undefined_row *row, const char *mnemonic);
// Whether the row's condition holds for an instruction that completed with these flags on the host.
bool undefined_row_holds(const struct undefined_row *row, const struct oracle_case *c,
                         const struct x86_insn *insn, uint64_t rflags_after);
// What the row says in a few characters: "shl/shr count>1: OF".
void undefined_row_print(FILE *file, const struct undefined_row *row);
