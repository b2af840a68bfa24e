// SPDX-License-Identifier: Apache-2.0
// A series in long double: the x87 unit.
#include "bench.h"

static uint64_t unit(void)
{
    volatile long double seed = 1.0L;
    long double sum = 0.0L, sign = seed, x = seed * 0.5L;
    for (int i = 0; i < 1000000; i++) {
        sum += sign * x / (2 * i + 1);
        x = x * 0.999L + 0.001L;
        sign = -sign;
    }
    return (uint64_t)(int64_t)(sum * 1e15L);
}

const struct program program_x87 = {.name = "x87", .unit = unit};
