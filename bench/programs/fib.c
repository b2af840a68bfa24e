// SPDX-License-Identifier: Apache-2.0
// Fibonacci numbers the recursive way: calls, returns and the stack.
#include "bench.h"

__attribute__((noinline)) static uint64_t fib(unsigned n)
{
    __asm__ volatile(""); // keeps the calls from being unrolled into one another
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t unit(void)
{
    return fib(32);
}

const struct program program_fib = {.name = "fib", .unit = unit};
