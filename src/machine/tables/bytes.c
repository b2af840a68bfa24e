// SPDX-License-Identifier: Apache-2.0
#include "machine/tables/bytes.h"
#include <stdlib.h>
#include <string.h>

void bytes_free(struct bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct bytes){0};
}

static bool reserve(struct bytes *bytes, size_t count)
{
    if (bytes->failed)
        return false;
    if (bytes->capacity - bytes->size >= count)
        return true;
    size_t capacity = (bytes->capacity + count) * 2;
    uint8_t *grown = realloc(bytes->data, capacity);
    if (!grown) {
        bytes->failed = true;
        return false;
    }
    bytes->data = grown;
    bytes->capacity = capacity;
    return true;
}

void bytes_insert(struct bytes *bytes, size_t at, size_t count)
{
    if (count == 0 || at > bytes->size || !reserve(bytes, count))
        return;
    memmove(bytes->data + at + count, bytes->data + at, bytes->size - at);
    memset(bytes->data + at, 0, count);
    bytes->size += count;
}

void bytes_zeros(struct bytes *bytes, size_t count)
{
    bytes_insert(bytes, bytes->size, count);
}

void bytes_put(struct bytes *bytes, const void *data, size_t size)
{
    if (size == 0 || !reserve(bytes, size))
        return;
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

void bytes_put8(struct bytes *bytes, uint8_t value)
{
    bytes_put(bytes, &value, 1);
}

void bytes_put16(struct bytes *bytes, uint16_t value)
{
    bytes_put(bytes, &value, 2);
}

void bytes_put32(struct bytes *bytes, uint32_t value)
{
    bytes_put(bytes, &value, 4);
}

void bytes_put64(struct bytes *bytes, uint64_t value)
{
    bytes_put(bytes, &value, 8);
}

void bytes_align(struct bytes *bytes, size_t align)
{
    bytes_zeros(bytes, (align - (bytes->size & (align - 1))) & (align - 1));
}

static void patch(struct bytes *bytes, size_t at, const void *data, size_t size)
{
    if (at <= bytes->size && bytes->size - at >= size)
        memcpy(bytes->data + at, data, size);
}

void bytes_patch8(struct bytes *bytes, size_t at, uint8_t value)
{
    patch(bytes, at, &value, 1);
}

void bytes_patch16(struct bytes *bytes, size_t at, uint16_t value)
{
    patch(bytes, at, &value, 2);
}

void bytes_patch32(struct bytes *bytes, size_t at, uint32_t value)
{
    patch(bytes, at, &value, 4);
}

void bytes_patch64(struct bytes *bytes, size_t at, uint64_t value)
{
    patch(bytes, at, &value, 8);
}

uint8_t bytes_checksum(const uint8_t *data, size_t size)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum += data[i];
    return (uint8_t)-sum;
}
