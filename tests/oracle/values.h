// SPDX-License-Identifier: Apache-2.0
// Random numbers and the values that find bugs: edges of integers and of floating-point formats.
#pragma once

#include "base/types.h"

// Seeded, the same on every host (splitmix64).
struct rng {
    uint64_t state;
};
uint64_t rng_next(struct rng *rng);
uint64_t rng_below(struct rng *rng, uint64_t n); // 0..n-1
bool rng_chance(struct rng *rng, unsigned percent);

uint64_t value_int(struct rng *rng);
uint16_t value_f16(struct rng *rng);
uint32_t value_f32(struct rng *rng);
uint64_t value_f64(struct rng *rng);
void value_f80(struct rng *rng, uint8_t out[10]);

enum filling {
    FILL_RANDOM,
    FILL_INT,  // edge integers of 8 bytes
    FILL_INT8, // edge integers of 1, 2 and 4 bytes
    FILL_F16,
    FILL_F32,
    FILL_F64,
    FILL_F80, // one every 16 bytes
    FILL_BCD, // packed decimal, one every 16 bytes
    FILL_COUNT
};
void value_fill(struct rng *rng, enum filling filling, void *data, unsigned size); // multiple of 16
