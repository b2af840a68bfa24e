// SPDX-License-Identifier: Apache-2.0
// CRC-32 by table over eight megabytes: a dependent chain of load, shift and exclusive or.
#include "bench.h"

#define SIZE (8u << 20)
static uint32_t table[256];
static uint8_t *data;

static void prepare(void)
{
    uint64_t seed = 1234567;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        table[i] = c;
    }
    data = bench_alloc(SIZE);
    for (size_t i = 0; i < SIZE; i += 8) {
        uint64_t r = bench_random(&seed);
        __builtin_memcpy(data + i, &r, 8);
    }
}

static uint64_t unit(void)
{
    uint32_t c = ~0u;
    for (size_t i = 0; i < SIZE; i++)
        c = table[(c ^ data[i]) & 0xff] ^ (c >> 8);
    return ~c;
}

const struct program program_crc = {.name = "crc", .prepare = prepare, .unit = unit};
