// SPDX-License-Identifier: Apache-2.0
// Maps 16 MiB, touches every page, unmaps: page faults and page tables.
#include "bench.h"
#include <stdlib.h>
#include <sys/mman.h>

#define SIZE (16u << 20)

static uint64_t unit(void)
{
    uint8_t *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        exit(1);
    madvise(p, SIZE, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < SIZE; i += 4096)
        p[i] = 1;
    munmap(p, SIZE);
    return 0;
}

const struct program program_pgfault = {.name = "pgfault", .unit = unit};
