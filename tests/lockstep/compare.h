// SPDX-License-Identifier: Apache-2.0
// Comparing two objects by their description (base/state.h): what a snapshot would hold must be equal, and
// nothing else.
#pragma once

#include "base/state.h"
#include "x86/state.h"

// Differences as text for people. `count` goes on when `text` is full.
struct report {
    unsigned count;
    size_t length;
    char text[16384];
};
__attribute__((format(printf, 2, 3))) void report_add(struct report *report, const char *format,
                                                      ...);

// Adds one line for each field that differs; names begin with the description's. `skip`: fields not to be
// compared ("pit.count"), NULL-terminated, or NULL. Returns true when all are equal. Without a report it
// returns at the first difference.
bool compare_objects(const struct state_desc *desc, const void *a, const void *b,
                     const char *const *skip, struct report *report);
void compare_number(const char *name, uint64_t a, uint64_t b, struct report *report);
// The architectural state of two processors that stand between two instructions, but for the RFLAGS bits in
// `mask_flags` and the fields in `skip` (or NULL).
void compare_processors(const struct x86_cpu *a, const struct x86_cpu *b, uint64_t mask_flags,
                        const char *const *skip, struct report *report);
