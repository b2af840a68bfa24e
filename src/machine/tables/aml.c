// SPDX-License-Identifier: Apache-2.0
#include "machine/tables/aml.h"
#include <string.h>

#define OP_NAME 0x08
#define OP_BYTE 0x0A
#define OP_WORD 0x0B
#define OP_DWORD 0x0C
#define OP_STRING 0x0D
#define OP_QWORD 0x0E
#define OP_SCOPE 0x10
#define OP_BUFFER 0x11
#define OP_PACKAGE 0x12
#define OP_METHOD 0x14
#define OP_DUAL_NAME 0x2E
#define OP_MULTI_NAME 0x2F
#define OP_EXTENDED 0x5B
#define OP_DEVICE 0x82 // after OP_EXTENDED
#define OP_ARG0 0x68
#define OP_STORE 0x70
#define OP_IF 0xA0
#define OP_RETURN 0xA4

#define TAG_IRQ 0x22
#define TAG_IO 0x47
#define TAG_END 0x79
#define TAG_MEMORY32_FIXED 0x86
#define TAG_DWORD_SPACE 0x87
#define TAG_WORD_SPACE 0x88
#define TAG_QWORD_SPACE 0x8A

#define SPACE_MEMORY 0
#define SPACE_IO 1
#define SPACE_BUS 2
#define SPACE_FIXED 0x0C // _MIF and _MAF: both ends are fixed; positive decode, producer
#define MEMORY_WRITABLE 0x01
#define IO_ENTIRE_RANGE 0x03

// A length counts its own bytes: 1 byte up to 63, else 2 to 4 bytes of 4 + 8n bits (20.2.4). It is
// put in front of the term's content once that is complete.
void aml_end(struct bytes *aml, size_t start)
{
    size_t content = aml->size - start;
    unsigned extra = content + 1 < 1 << 6    ? 0
                     : content + 2 < 1 << 12 ? 1
                     : content + 3 < 1 << 20 ? 2
                                             : 3;
    size_t length = content + 1 + extra;

    bytes_insert(aml, start, 1 + extra);
    if (extra == 0) {
        bytes_patch8(aml, start, (uint8_t)length);
        return;
    }
    bytes_patch8(aml, start, (uint8_t)(extra << 6 | (length & 15)));
    for (unsigned i = 0; i < extra; i++)
        bytes_patch8(aml, start + 1 + i, (uint8_t)(length >> (4 + 8 * i)));
}

void aml_path(struct bytes *aml, const char *path)
{
    unsigned segments = 0;

    while (*path == '\\' || *path == '^')
        bytes_put8(aml, (uint8_t)*path++);
    for (const char *p = path; *p; p++)
        segments += *p == '.';
    segments += *path != 0;
    if (segments == 0) {
        bytes_put8(aml, 0);
        return;
    }
    if (segments == 2)
        bytes_put8(aml, OP_DUAL_NAME);
    if (segments > 2) {
        bytes_put8(aml, OP_MULTI_NAME);
        bytes_put8(aml, (uint8_t)segments);
    }
    while (segments--) {
        char segment[4] = {'_', '_', '_', '_'};
        for (unsigned i = 0; *path && *path != '.'; i++, path++)
            if (i < 4)
                segment[i] = *path;
        if (*path == '.')
            path++;
        bytes_put(aml, segment, 4);
    }
}

static size_t begin(struct bytes *aml, uint8_t op)
{
    bytes_put8(aml, op);
    return aml->size;
}

size_t aml_scope(struct bytes *aml, const char *path)
{
    size_t start = begin(aml, OP_SCOPE);
    aml_path(aml, path);
    return start;
}

size_t aml_device(struct bytes *aml, const char *path)
{
    bytes_put8(aml, OP_EXTENDED);
    size_t start = begin(aml, OP_DEVICE);
    aml_path(aml, path);
    return start;
}

size_t aml_method(struct bytes *aml, const char *path, unsigned args)
{
    size_t start = begin(aml, OP_METHOD);
    aml_path(aml, path);
    bytes_put8(aml, args & 7);
    return start;
}

size_t aml_package(struct bytes *aml, uint8_t count)
{
    size_t start = begin(aml, OP_PACKAGE);
    bytes_put8(aml, count);
    return start;
}

size_t aml_if(struct bytes *aml)
{
    return begin(aml, OP_IF);
}

size_t aml_resources(struct bytes *aml)
{
    return begin(aml, OP_BUFFER);
}

void aml_end_resources(struct bytes *aml, size_t start)
{
    bytes_put8(aml, TAG_END);
    bytes_put8(aml, 0); // no checksum
    size_t size = aml->size - start;
    // The buffer's size as a word constant, in front of the bytes.
    bytes_insert(aml, start, 3);
    bytes_patch8(aml, start, OP_WORD);
    bytes_patch16(aml, start + 1, (uint16_t)size);
    aml_end(aml, start);
}

void aml_name(struct bytes *aml, const char *path)
{
    bytes_put8(aml, OP_NAME);
    aml_path(aml, path);
}

void aml_integer(struct bytes *aml, uint64_t value)
{
    if (value <= 1) {
        bytes_put8(aml, (uint8_t)value); // ZeroOp, OneOp
    } else if (value <= 0xFF) {
        bytes_put8(aml, OP_BYTE);
        bytes_put8(aml, (uint8_t)value);
    } else if (value <= 0xFFFF) {
        bytes_put8(aml, OP_WORD);
        bytes_put16(aml, (uint16_t)value);
    } else if (value <= 0xFFFFFFFF) {
        bytes_put8(aml, OP_DWORD);
        bytes_put32(aml, (uint32_t)value);
    } else {
        bytes_put8(aml, OP_QWORD);
        bytes_put64(aml, value);
    }
}

void aml_string(struct bytes *aml, const char *text)
{
    bytes_put8(aml, OP_STRING);
    bytes_put(aml, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
    return c >= 'A' ? (unsigned)(c - 'A') + 10 : (unsigned)(c - '0');
}

// Three letters of five bits each and four hexadecimal digits, big-endian (19.3.4).
void aml_eisa_id(struct bytes *aml, const char *id)
{
    uint32_t value = (uint32_t)(id[0] - '@') << 26 | (uint32_t)(id[1] - '@') << 21 |
                     (uint32_t)(id[2] - '@') << 16 | hex_digit(id[3]) << 12 |
                     hex_digit(id[4]) << 8 | hex_digit(id[5]) << 4 | hex_digit(id[6]);

    bytes_put8(aml, OP_DWORD);
    bytes_put32(aml, __builtin_bswap32(value));
}

void aml_return(struct bytes *aml)
{
    bytes_put8(aml, OP_RETURN);
}

void aml_store_arg0(struct bytes *aml, const char *path)
{
    bytes_put8(aml, OP_STORE);
    bytes_put8(aml, OP_ARG0);
    aml_path(aml, path);
}

void aml_io(struct bytes *aml, uint16_t base, uint8_t length)
{
    bytes_put8(aml, TAG_IO);
    bytes_put8(aml, 1); // decodes 16 address bits
    bytes_put16(aml, base);
    bytes_put16(aml, base);
    bytes_put8(aml, 1); // alignment
    bytes_put8(aml, length);
}

void aml_irq(struct bytes *aml, unsigned irq)
{
    bytes_put8(aml, TAG_IRQ);
    bytes_put16(aml, (uint16_t)(1u << (irq & 15)));
}

void aml_memory32_fixed(struct bytes *aml, uint32_t base, uint32_t length)
{
    bytes_put8(aml, TAG_MEMORY32_FIXED);
    bytes_put16(aml, 9);
    bytes_put8(aml, 0); // read-only, as chip registers are declared
    bytes_put32(aml, base);
    bytes_put32(aml, length);
}

static void space_header(struct bytes *aml, uint8_t tag, unsigned width, uint8_t type,
                         uint8_t flags)
{
    bytes_put8(aml, tag);
    bytes_put16(aml, (uint16_t)(3 + 5 * width));
    bytes_put8(aml, type);
    bytes_put8(aml, SPACE_FIXED);
    bytes_put8(aml, flags);
}

static void word_space(struct bytes *aml, uint8_t type, uint8_t flags, uint16_t first,
                       uint16_t last)
{
    space_header(aml, TAG_WORD_SPACE, 2, type, flags);
    bytes_put16(aml, 0); // granularity
    bytes_put16(aml, first);
    bytes_put16(aml, last);
    bytes_put16(aml, 0); // translation
    bytes_put16(aml, (uint16_t)(last - first + 1));
}

void aml_word_bus(struct bytes *aml, uint16_t first, uint16_t last)
{
    word_space(aml, SPACE_BUS, 0, first, last);
}

void aml_word_io_window(struct bytes *aml, uint16_t first, uint16_t last)
{
    word_space(aml, SPACE_IO, IO_ENTIRE_RANGE, first, last);
}

void aml_dword_memory_window(struct bytes *aml, uint32_t first, uint32_t last)
{
    space_header(aml, TAG_DWORD_SPACE, 4, SPACE_MEMORY, MEMORY_WRITABLE);
    bytes_put32(aml, 0);
    bytes_put32(aml, first);
    bytes_put32(aml, last);
    bytes_put32(aml, 0);
    bytes_put32(aml, last - first + 1);
}

void aml_qword_memory_window(struct bytes *aml, uint64_t first, uint64_t last)
{
    space_header(aml, TAG_QWORD_SPACE, 8, SPACE_MEMORY, MEMORY_WRITABLE);
    bytes_put64(aml, 0);
    bytes_put64(aml, first);
    bytes_put64(aml, last);
    bytes_put64(aml, 0);
    bytes_put64(aml, last - first + 1);
}
