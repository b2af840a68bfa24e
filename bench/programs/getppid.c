// SPDX-License-Identifier: Apache-2.0
// A hundred thousand calls of the least system call: into the kernel and out.
#include "bench.h"
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t unit(void)
{
    for (int i = 0; i < 100000; i++)
        syscall(SYS_getppid);
    return 0;
}

const struct program program_getppid = {.name = "getppid", .unit = unit};
