// SPDX-License-Identifier: Apache-2.0
// qsort of 400000 ints: calls through a pointer, unpredictable branches.
#include "bench.h"
#include <stdlib.h>

#define COUNT 400000
static int *values;

static void prepare(void)
{
    values = bench_alloc(COUNT * sizeof(*values));
}

static int order(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static uint64_t unit(void)
{
    uint64_t seed = 88172645463325252u;
    for (size_t i = 0; i < COUNT; i++)
        values[i] = (int)bench_random(&seed);
    qsort(values, COUNT, sizeof(*values), order);
    return (uint64_t)values[COUNT / 2];
}

const struct program program_sort = {.name = "sort", .prepare = prepare, .unit = unit};
