// SPDX-License-Identifier: Apache-2.0
// The engine that a test is about: the environment variable CROFT_ENGINE names it, the reference interpreter
// without. `test_engines` in meson.build is the list of those that every such test runs with.
#pragma once

#include "engine/engine.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// By name; ends the test where this host cannot use it.
static inline const struct engine_ops *engine_for_test(const char *name)
{
    struct error err = {0};
    const struct engine_ops *ops = engine_find(name, &err);
    if (!ops) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return ops;
}

static inline const struct engine_ops *engine_under_test(void)
{
    static const struct engine_ops *ops;
    if (!ops) {
        const char *name = getenv("CROFT_ENGINE");
        ops = engine_for_test(name && *name ? name : "interp");
    }
    return ops;
}

// Whether it is the reference interpreter, for what a test asks of that one alone.
static inline bool engine_is_interp(void)
{
    return strcmp(engine_under_test()->name, "interp") == 0;
}
