// SPDX-License-Identifier: Apache-2.0
// Sieve of Eratosthenes to four million: byte stores with strides.
#include "bench.h"
#include <string.h>

#define LIMIT 4000000
static uint8_t *composite;

static void prepare(void)
{
    composite = bench_alloc(LIMIT + 1);
}

static uint64_t unit(void)
{
    uint64_t primes = 0;
    memset(composite, 0, LIMIT + 1);
    for (size_t i = 2; i <= LIMIT; i++) {
        if (composite[i])
            continue;
        primes++;
        for (size_t j = i * i; j <= LIMIT; j += i)
            composite[j] = 1;
    }
    return primes;
}

const struct program program_sieve = {.name = "sieve", .prepare = prepare, .unit = unit};
