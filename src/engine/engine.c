// SPDX-License-Identifier: Apache-2.0
// Which engines there are, and how one is chosen by name.
#include "engine/engine.h"
#include <string.h>

const struct engine_ops *const engines[] = {&engine_interp, &engine_bt, NULL};

const struct engine_ops *engine_find(const char *name, struct error *err)
{
    char why[160], known[160] = "auto";
    bool is_auto = strcmp(name, "auto") == 0;
    for (const struct engine_ops *const *e = engines; *e; e++) {
        if (!is_auto && strcmp(name, (*e)->name) != 0) {
            strncat(known, ", ", sizeof(known) - strlen(known) - 1);
            strncat(known, (*e)->name, sizeof(known) - strlen(known) - 1);
            continue;
        }
        if ((*e)->usable(why, sizeof(why)))
            return *e;
        if (!is_auto) {
            error_set(err, ERROR_HOST, "engine %s cannot be used here: %s", name, why);
            return NULL;
        }
    }
    error_set(err, ERROR_USAGE, "no engine is called \"%s\"; known: %s", name, known);
    return NULL;
}
