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

static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGABRT, SIGFPE, SIGTRAP, SIGSYS};
static struct sigaction previous[ARRAY_SIZE(fatal_signals)];

// Restores the terminal, then lets whoever handled the signal before have it: a fault happens again when
// this returns, a signal that was sent is sent again.
static void terminal_fatal(int number, siginfo_t *info, void *context)
{
    terminal_restore();
    for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
        if (fatal_signals[i] == number)
            sigaction(number, &previous[i], NULL);
    if (info->si_code <= 0)
        raise(number);
}

bool terminal_raw(void)
{
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &terminal_saved) < 0)
        return false;
    terminal_raw_mode = terminal_saved;
    cfmakeraw(&terminal_raw_mode);
    terminal_is_raw = 1;
    atexit(terminal_restore);
    for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
        struct sigaction action = {.sa_sigaction = terminal_fatal,
                                   // the thread's own may be the guest's
                                   .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
        sigaction(fatal_signals[i], NULL, &previous[i]);
        // SIGFPE is an event of guest arithmetic when an engine handles it.
        if (fatal_signals[i] != SIGFPE || previous[i].sa_handler == SIG_DFL)
            sigaction(fatal_signals[i], &action, NULL);
    }
    tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_raw_mode);
    return true;
}

void terminal_resume(void)
{
    if (terminal_is_raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_raw_mode);
}
