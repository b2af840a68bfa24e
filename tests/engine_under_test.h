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

// CROFT_BT_VERIFY=1: the translator checks all code that it makes.
static inline struct engine_options engine_options_for_test(const struct engine_ops *ops)
{
    const char *verify = getenv("CROFT_BT_VERIFY");
    return (struct engine_options){.bt_verify =
                                       ops == &engine_bt && verify && !strcmp(verify, "1")};
}

static inline struct engine *engine_create_for_test(const struct engine_ops *ops,
                                                    struct memory *memory, struct error *err)
{
    const struct engine_options options = engine_options_for_test(ops);
    return ops->create(memory, &options, err);
}

// Whether it is the reference interpreter, for what a test asks of that one alone.
static inline bool engine_is_interp(void)
{
    return strcmp(engine_under_test()->name, "interp") == 0;
}
