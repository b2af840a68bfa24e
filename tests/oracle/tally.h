// SPDX-License-Identifier: Apache-2.0
// What a run of the laboratory did: outcomes, faults by vector, and how often each row of the table
// ran and completed. Printed for people and written as JSON for docs/fidelity.md.
#pragma once

#include "case.h"

struct tally {
    uint64_t cases, passed, failed, undefined, died, completed;
    uint64_t instructions;     // of sequences: the first and those behind it
    uint64_t loops;            // sequences that lead back
    uint64_t stops;            // runs of a sequence that were stopped within it
    uint64_t faults[32];       // by vector, on the host
    uint64_t undefined_opcode; // cases whose bytes are no instruction
    uint32_t ran[X86_FORM_COUNT], completed_of[X86_FORM_COUNT]; // by the row that the bytes are
    uint32_t failed_of[X86_FORM_COUNT];                         // by the row they were made from
};

// Files what the host made of a case.
void tally_native(struct tally *t, const struct oracle_case *c, const struct oracle_result *native);
// `options`: what was asked for; `seconds`: how long it took.
void tally_print(const struct tally *t, const struct oracle_options *options, bool in_full,
                 double seconds);
int tally_write_json(const struct tally *t, const struct oracle_options *options, double seconds,
                     const char *path); // "-": stdout; -1 with a message on stderr
