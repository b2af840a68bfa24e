// SPDX-License-Identifier: Apache-2.0
#include "backend/terminal.h"
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static struct termios terminal_saved, terminal_raw_mode;
static volatile sig_atomic_t terminal_is_raw;

void terminal_restore(void)
{
    if (terminal_is_raw) {
        terminal_is_raw = 0;
        tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_saved); // async-signal-safe by POSIX
    }
}

static void terminal_fatal(int signal_number)
{
    terminal_restore();
    raise(signal_number); // the handler was one-shot: this time the default action
}

bool terminal_raw(void)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGABRT, SIGFPE, SIGTRAP, SIGSYS};

    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &terminal_saved) < 0)
        return false;
    terminal_raw_mode = terminal_saved;
    cfmakeraw(&terminal_raw_mode);
    terminal_is_raw = 1;
    atexit(terminal_restore);
    for (size_t i = 0; i < ARRAY_SIZE(fatal); i++) {
        struct sigaction action = {.sa_handler = terminal_fatal, .sa_flags = SA_RESETHAND | SA_NODEFER};
        struct sigaction old;
        // A handler that is there already (an engine's, a sanitizer's) keeps its job.
        if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            sigaction(fatal[i], &action, NULL);
    }
    tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_raw_mode);
    return true;
}

void terminal_resume(void)
{
    if (terminal_is_raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_raw_mode);
}
