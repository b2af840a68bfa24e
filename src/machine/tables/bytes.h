// SPDX-License-Identifier: Apache-2.0
// A growing buffer of little-endian values, for firmware tables. Running out of memory is
// remembered in `failed` and checked once at the end; after it, appends do nothing.
#pragma once

#include "base/types.h"

struct bytes {
    uint8_t *data;
    size_t size, capacity;
    bool failed;
};

void bytes_free(struct bytes *bytes);
void bytes_put(struct bytes *bytes, const void *data, size_t size);
void bytes_put8(struct bytes *bytes, uint8_t value);
void bytes_put16(struct bytes *bytes, uint16_t value);
void bytes_put32(struct bytes *bytes, uint32_t value);
void bytes_put64(struct bytes *bytes, uint64_t value);
void bytes_zeros(struct bytes *bytes, size_t count);
// Zeros up to the next multiple of `align` (a power of two).
void bytes_align(struct bytes *bytes, size_t align);
// Makes room for `count` bytes at `at` (at most the size) and leaves them zero.
void bytes_insert(struct bytes *bytes, size_t at, size_t count);
// Overwrites earlier bytes; out of range does nothing.
void bytes_patch8(struct bytes *bytes, size_t at, uint8_t value);
void bytes_patch16(struct bytes *bytes, size_t at, uint16_t value);
void bytes_patch32(struct bytes *bytes, size_t at, uint32_t value);
void bytes_patch64(struct bytes *bytes, size_t at, uint64_t value);
// The byte that makes data[from, from+size) sum to zero, given that it is zero now.
uint8_t bytes_checksum(const uint8_t *data, size_t size);
