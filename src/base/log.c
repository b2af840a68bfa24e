// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Atomic int log_threshold = LOG_WARN;

void log_set_level(enum log_level level)
{
    log_threshold = level;
}

void log_message(enum log_level level, const char *fmt, ...)
{
    static const char *const prefix[] = {"error", "warning", "info", "debug"};
    char line[1024];
    va_list args;

    if ((int)level > log_threshold)
        return;
    // The terminal may be raw: a carriage return keeps the line at the left edge. One write, so that
    // messages of several threads do not mix.
    int n = snprintf(line, sizeof(line), "croft: %s: ", prefix[level]);
    va_start(args, fmt);
    n += vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, args);
    va_end(args);
    if (n > (int)sizeof(line) - 3)
        n = (int)sizeof(line) - 3;
    strcpy(line + n, isatty(STDERR_FILENO) ? "\r\n" : "\n");
    // Nobody may be reading, and the caller may hold a lock that ending the run takes: what a guest can
    // cause at will is dropped then, the rest waits for a moment.
    struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&ready, 1, level > LOG_WARN ? 0 : 200) != 1)
        return;
    ssize_t ignored = write(STDERR_FILENO, line, strlen(line));
    (void)ignored;
}
