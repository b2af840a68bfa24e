// SPDX-License-Identifier: Apache-2.0
// Two machines built alike but for the engine, run in turn by the same number of instructions, and compared.
#pragma once

#include "compare.h"
#include "machine/internal.h"

// How much is compared.
enum depth {
    DEPTH_CPU,     // the processor, the clock, how the run stands
    DEPTH_DEVICES, // and every chip
    DEPTH_MEMORY,  // and all of RAM
};

struct pair_options {
    struct machine_config config; // of both, without the engine
    const char *engine[2];        // names; "faulty" is the one of faulty.h
    const char *console;          // where the first machine's serial output goes
    bool split;                   // the second machine runs each stretch in pieces
    bool flush;                   // its engine forgets translations and code after each stretch
    uint64_t mask_flags;          // RFLAGS bits that are not compared
    const char *const *skip;      // fields that are not, NULL-terminated
};

struct pair {
    const struct pair_options *options;
    struct machine *machine[2];
    enum machine_end end[2];
    uint64_t pieces; // random state of `split`
};

bool pair_create(struct pair *pair, const struct pair_options *options, struct error *err);
void pair_destroy(struct pair *pair);
// True while both go on; false when one ended.
bool pair_step(struct pair *pair, uint64_t instructions);
// True when equal. With a report every difference is told, without it the first ends the search.
bool pair_compare(struct pair *pair, enum depth depth, struct report *report);
