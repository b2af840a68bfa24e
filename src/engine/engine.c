// SPDX-License-Identifier: Apache-2.0
// Which engines there are, and how one is chosen by name.
#include "engine/engine.h"
#include <string.h>

const struct engine_ops *const engines[] = {&engine_bt, &engine_interp, NULL};

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

int engine_options_check(const struct engine_ops *ops, const struct engine_options *o,
                         struct error *err)
{
    const char *flag = o->bt_cache    ? "--bt-cache"
                       : o->bt_verify ? "--bt-verify"
                       : o->bt_dump   ? "--bt-dump"
                                      : NULL;
    if (o->bt_dump_high && !o->bt_dump)
        return error_set(err, ERROR_USAGE,
                         "--bt-dump-rip chooses what --bt-dump writes: give both");
    if (flag && ops != &engine_bt)
        return error_set(err, ERROR_USAGE,
                         "%s is an option of the bt engine, and this run has the %s engine; use "
                         "--engine bt",
                         flag, ops->name);
    if (o->bt_cache && (o->bt_cache < ENGINE_BT_CACHE_MIN || o->bt_cache > ENGINE_BT_CACHE_MAX ||
                        o->bt_cache & PAGE_OFFSET_MASK))
        return error_set(err, ERROR_USAGE, "--bt-cache: from 4M to 1G, in whole pages of 4K");
    return 0;
}
