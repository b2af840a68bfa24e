// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"
#include "engine/engine.h"
#include <jansson.h>
#include <stdio.h>
#include <string.h>

const char cli_engines_help[] =
    "usage: croft engines [--json]\n\n"
    "Lists the CPU engines in the order `--engine auto` prefers them, whether this host\n"
    "can use each, and why.\n";

int cli_engines(int argc, char **argv)
{
    bool json = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") != 0) {
            fprintf(stderr, "croft engines: unknown option '%s'; see croft help engines\n",
                    argv[i]);
            return CLI_USAGE;
        }
        json = true;
    }
    json_t *list = json_array();
    bool chosen = false;
    for (size_t i = 0; engines[i]; i++) {
        char why[200] = "";
        bool usable = engines[i]->usable(why, sizeof(why));
        bool automatic = usable && !chosen;
        chosen |= usable;
        if (json)
            json_array_append_new(list,
                                  json_pack("{s:s, s:b, s:b, s:s, s:s}", "name", engines[i]->name,
                                            "usable", usable, "auto", automatic, "why", why,
                                            "summary", engines[i]->summary));
        else
            printf("%-8s %-4s %s%s\n         %s\n", engines[i]->name, usable ? "yes" : "no",
                   engines[i]->summary, automatic ? " (auto)" : "", why);
    }
    if (json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(list);
    return CLI_OK;
}
