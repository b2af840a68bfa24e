// SPDX-License-Identifier: Apache-2.0
// Follows pointers through 16 MiB in random order: memory and TLB latency.
#include "bench.h"

#define COUNT (16u << 20 >> 6)
struct node {
    struct node *next;
    uint64_t value[7];
};
static struct node *nodes;

static void prepare(void)
{
    uint64_t seed = 424242;
    uint32_t *order = bench_alloc(COUNT * sizeof(*order));
    nodes = bench_alloc(COUNT * sizeof(*nodes));
    for (uint32_t i = 0; i < COUNT; i++)
        order[i] = i;
    for (uint32_t i = COUNT - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(bench_random(&seed) % (i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        nodes[order[i]].next = &nodes[order[(i + 1) % COUNT]];
        nodes[order[i]].value[0] = i;
    }
}

static uint64_t unit(void)
{
    const struct node *n = nodes;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        sum += n->value[0];
        n = n->next;
    }
    return sum;
}

const struct program program_chase = {.name = "chase", .prepare = prepare, .unit = unit};
