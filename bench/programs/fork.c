// SPDX-License-Identifier: Apache-2.0
// A hundred processes that end at once: address spaces made and thrown away.
#include "bench.h"
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t unit(void)
{
    for (int i = 0; i < 100; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        if (pid < 0 || waitpid(pid, NULL, 0) != pid)
            exit(1);
    }
    return 0;
}

const struct program program_fork = {.name = "fork", .unit = unit};
