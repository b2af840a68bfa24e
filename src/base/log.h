// SPDX-License-Identifier: Apache-2.0
// Messages to the person who runs Croft, on stderr. Never called on a path that a guest can make hot
// without `log_limited`, which passes the first few messages of a call site and counts the rest.
#pragma once

#include "base/types.h"

enum log_level {
    LOG_ERROR,
    LOG_WARN,
    LOG_INFO,
    LOG_DEBUG
};

void log_set_level(enum log_level level);
void log_message(enum log_level level, const char *fmt, ...) PRINTF_FORMAT(2, 3);

#define log_error(...) log_message(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_message(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_message(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_message(LOG_DEBUG, __VA_ARGS__)

// For conditions that a guest can cause: at most 5 messages per call site.
#define log_limited(level, ...)              \
    do {                                     \
        static _Atomic unsigned log_count_;  \
        if (log_count_ < 5) {                \
            log_count_++;                    \
            log_message(level, __VA_ARGS__); \
        }                                    \
    } while (0)
