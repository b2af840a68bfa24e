// SPDX-License-Identifier: Apache-2.0
#include "cli/cli.h"
#include <stdio.h>
#include <string.h>

static int cli_version(int argc, char **argv);
static int cli_help(int argc, char **argv);

const struct cli_verb cli_verbs[] = {
    {"run", "boot a guest and stay with it until it ends", cli_run_help, cli_run},
    {"engines", "list the CPU engines and whether this host can use them", cli_engines_help,
     cli_engines},
    {"version", "print the version", "usage: croft version\n\nPrints Croft's version and exits.\n",
     cli_version},
    {"help", "explain a verb", "usage: croft help [VERB]\n\nExplains a verb, or lists them all.\n",
     cli_help},
    {0}};

static const struct cli_verb *find_verb(const char *name)
{
    for (const struct cli_verb *verb = cli_verbs; verb->name; verb++)
        if (strcmp(verb->name, name) == 0)
            return verb;
    return NULL;
}

static void print_overview(FILE *out)
{
    fprintf(out, "usage: croft VERB [OPTION...]\n\n"
                 "Croft runs unmodified x86 operating systems as ordinary processes.\n\nverbs:\n");
    for (const struct cli_verb *verb = cli_verbs; verb->name; verb++)
        fprintf(out, "  %-9s %s\n", verb->name, verb->summary);
    fprintf(out, "\nexample:\n"
                 "  croft run --kernel vmlinuz --initrd initrd.img --append console=ttyS0\n\n"
                 "`croft help VERB` or `croft VERB --help` explains one.\n");
}

static int cli_version(int argc, char **argv)
{
    printf("croft " CROFT_VERSION "\n");
    return CLI_OK;
}

static int cli_help(int argc, char **argv)
{
    if (argc < 2) {
        print_overview(stdout);
        return CLI_OK;
    }
    const struct cli_verb *verb = find_verb(argv[1]);
    if (!verb) {
        fprintf(stderr, "croft: no verb '%s'; `croft help` lists them\n", argv[1]);
        return CLI_USAGE;
    }
    fputs(verb->help, stdout);
    return CLI_OK;
}

int cli_report(const struct error *err)
{
    static const int status[] = {[ERROR_NONE] = CLI_FAILED,
                                 [ERROR_USAGE] = CLI_USAGE,
                                 [ERROR_INPUT] = CLI_INPUT,
                                 [ERROR_HOST] = CLI_FAILED};
    fprintf(stderr, "croft: %s\n", err->kind ? err->message : "failed for an unknown reason");
    return status[err->kind];
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_overview(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return cli_help(1, argv);
    if (strcmp(argv[1], "--version") == 0)
        return cli_version(1, argv);
    const struct cli_verb *verb = find_verb(argv[1]);
    if (!verb) {
        fprintf(stderr, "croft: no verb '%s'; `croft help` lists them\n", argv[1]);
        return CLI_USAGE;
    }
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(verb->help, stdout);
            return CLI_OK;
        }
    }
    return verb->run(argc - 1, argv + 1);
}
