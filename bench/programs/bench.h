// SPDX-License-Identifier: Apache-2.0
// A benchmark: a fixed piece of work (one unit, 5 to 40 ms on a current desktop processor), run as many
// times as a scale says, so that a slow machine can do less of the same. Everything is in one static
// binary without dependencies: `bench NAME SCALE` runs one, and as a guest's first process it runs what
// the kernel's command line asks for.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct program {
    const char *name;
    int (*usable)(void);    // NULL: always
    void (*prepare)(void);  // not timed; may be NULL
    uint64_t (*unit)(void); // one unit of work; its value keeps the work from being optimised away
};

extern const struct program program_sort, program_sieve, program_crc, program_fib, program_chase,
    program_icall, program_nbody, program_matmul, program_matmul_avx2, program_x87, program_memcpy,
    program_getppid, program_pgfault, program_fork, program_pipe, program_threads,
    program_processes;

static inline uint64_t bench_random(uint64_t *state) // xorshift64
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

void *bench_alloc(size_t size); // or exits
