// SPDX-License-Identifier: Apache-2.0
// Errors that a person reads: one line that names the file or field and the remedy.
#pragma once

#include "base/types.h"

// What kind of thing went wrong; the CLI maps it to an exit status (docs/cli.md).
enum error_kind {
    ERROR_NONE = 0,
    ERROR_USAGE, // a flag or its value cannot be used
    ERROR_INPUT, // a file or its content cannot be used
    ERROR_HOST,  // the host refused something (memory, permission, system call)
};

struct error {
    enum error_kind kind;
    char message[512];
};

// Writes the first error only: the cause is worth more than its consequences. `err` may be NULL.
// Returns -1, so that a function can end with `return error_set(...)`.
int error_set(struct error *err, enum error_kind kind, const char *fmt, ...) PRINTF_FORMAT(3, 4);
