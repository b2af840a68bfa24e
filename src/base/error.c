// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"
#include <stdarg.h>
#include <stdio.h>

int error_set(struct error *err, enum error_kind kind, const char *fmt, ...)
{
    if (err && err->kind == ERROR_NONE) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(err->message, sizeof(err->message), fmt, args);
        va_end(args);
        err->kind = kind;
    }
    return -1;
}
