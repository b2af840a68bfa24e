// SPDX-License-Identifier: Apache-2.0
// The last instructions of a processor, for people.
#pragma once

#include "machine/internal.h"
#include <stdio.h>

#define TRACE_LENGTH 20

struct trace {
    struct trace_entry {
        uint64_t number, rip, linear;
        uint8_t code_size, cpl, count;
        uint8_t bytes[15];
        bool pending; // an interrupt may be taken first
    } entry[TRACE_LENGTH];
    uint64_t noted;
};

// The instruction that is next. The machine stands.
void trace_note(struct trace *trace, struct machine *machine);
void trace_print(const struct trace *trace, FILE *out);
