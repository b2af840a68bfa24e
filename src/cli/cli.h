// SPDX-License-Identifier: Apache-2.0
// The command line: one function per verb, one table of them, one table of exit statuses.
#pragma once

#include "base/error.h"

// Exit statuses (docs/cli.md). 128+N: ended by signal N.
enum cli_status {
    CLI_OK = 0,           // the guest powered off; the verb succeeded
    CLI_FAILED = 1,       // the host refused something, or the engine failed
    CLI_USAGE = 2,        // bad usage
    CLI_INPUT = 3,        // a file cannot be used
    CLI_TIMEOUT = 4,      // --timeout passed
    CLI_RESET = 5,        // the guest reset, with --no-reboot
    CLI_TRIPLE_FAULT = 6, // the guest triple-faulted, with --no-reboot
    CLI_QUIT = 7,         // the user left with Ctrl-a x
};

struct cli_verb {
    const char *name;
    const char *summary;
    const char *help; // what `croft help VERB` prints
    int (*run)(int argc, char **argv);
};
extern const struct cli_verb cli_verbs[]; // ends with a NULL name

int cli_report(const struct error *err); // prints the error, returns the status of its kind
int cli_run(int argc, char **argv);
int cli_engines(int argc, char **argv);
extern const char cli_run_help[], cli_engines_help[];
