// SPDX-License-Identifier: Apache-2.0
// Copies eight megabytes ten times, by the C library's choice of instructions.
#include "bench.h"
#include <string.h>

#define SIZE (8u << 20)
static uint8_t *from, *to;

static void prepare(void)
{
    from = bench_alloc(SIZE);
    to = bench_alloc(SIZE);
    memset(from, 0x5a, SIZE);
    memset(to, 0, SIZE);
}

static uint64_t unit(void)
{
    for (int i = 0; i < 10; i++) {
        from[i] = (uint8_t)i;
        memcpy(to, from, SIZE);
        __asm__ volatile("" ::"r"(to) : "memory");
    }
    return to[9];
}

const struct program program_memcpy = {.name = "memcpy", .prepare = prepare, .unit = unit};
