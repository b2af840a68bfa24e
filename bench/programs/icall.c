// SPDX-License-Identifier: Apache-2.0
// Three million calls through a table of functions: indirect branches that cannot be foreseen.
#include "bench.h"

#define F(n, expression)                                       \
    __attribute__((noinline)) static uint64_t f##n(uint64_t x) \
    {                                                          \
        return expression;                                     \
    }
F(0, x + 1)
F(1, x ^ (x >> 3))
F(2, x * 3)
F(3, x - 7)
F(4, (x << 1) | (x >> 63))
F(5, ~x)
F(6, x + (x >> 5))
F(7, x ^ 0x5555)

static uint64_t (*const volatile table[8])(uint64_t) = {f0, f1, f2, f3, f4, f5, f6, f7};

static uint64_t unit(void)
{
    uint64_t x = 1, seed = 99;
    for (int i = 0; i < 3000000; i++)
        x = table[bench_random(&seed) & 7](x);
    return x;
}

const struct program program_icall = {.name = "icall", .unit = unit};
