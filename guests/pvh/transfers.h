// SPDX-License-Identifier: Apache-2.0
// What the two guests of random transfers share: descriptors, random choices, one line per outcome.
#pragma once

#include "guest.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

// Fixed addresses, so that what the guests print does not depend on the compiler.
#define AT(type, address) ((type *)(uintptr_t)(address))
#define GDT AT(u64, 0x20000)
#define IDT AT(u64, 0x21000)
#define LDT AT(u64, 0x22000)

static u32 seed;

static u32 rnd(void)
{
    next_random(&seed);
    return (seed * 2654435761u) >> 8;
}
static int one_in(u32 n)
{
    return rnd() % n == 0;
}
static void hex(u64 v, int digits)
{
    char text[18];
    text[digits] = ' ';
    text[digits + 1] = 0;
    for (int i = digits; i-- > 0; v >>= 4)
        text[i] = "0123456789abcdef"[v & 15];
    print(text);
}
static u64 desc(u32 base, u32 limit, u32 access, u32 flags)
{
    u32 lo = (limit & 0xffff) | base << 16;
    u32 hi =
        (base >> 16 & 0xff) | access << 8 | (limit & 0xf0000) | flags << 20 | (base & 0xff000000);
    return lo | (u64)hi << 32;
}
static u64 gate(u32 sel, u32 off, u32 access, u32 low)
{
    u32 lo = (off & 0xffff) | sel << 16;
    return lo | (u64)((off & 0xffff0000) | access << 8 | low) << 32;
}
// Random choices stand in statements of their own: the order within an expression is the compiler's.
static u32 random_flags(void)
{
    u32 f = 2 | (rnd() & 0xcd5);
    f |= one_in(3) ? 0x3000 : rnd() & 0x3000;
    if (one_in(9))
        f |= 0x100; // TF
    if (one_in(9))
        f |= 0x4000; // NT
    if (one_in(8))
        f |= 0x40000; // AC
    return f;
}
static u32 hash(const void *data, u32 size)
{
    const u8 *b = data;
    u32 v = 0;
    while (size--)
        v = (v ^ *b++) * 16777619u;
    return v;
}
// Stores the low `size` bytes of v and returns what follows.
static u8 *emit(u8 *at, u64 v, u32 size)
{
    for (; size--; v >>= 8)
        *at++ = (u8)v;
    return at;
}
static void fill(u32 at, u32 size, u32 step)
{
    for (u32 i = 0; i < size; i++)
        AT(u8, at)[i] = (u8)(i * step);
}
// INT 40h wherever a transfer may land.
static void pave(u32 at, u32 size)
{
    for (u32 i = 0; i < size; i += 2)
        *AT(u16, at + i) = 0x40cd;
}
static void start_test(u32 n)
{
    seed = n * 747796405u + 2891336453u;
    for (int i = 0; i < 4; i++)
        rnd();
}
// Command line: number of the first test, then how many; 1 and 3000 when there is none.
static void numbers(const struct start_info *info, u32 *first, u32 *count)
{
    *first = *count = 0;
    if (info != 0 && info->magic == 0x336ec578 && info->cmdline != 0) {
        const char *text = AT(const char, info->cmdline);
        *first = parse_number(text);
        while (*text && *text != ' ')
            text++;
        while (*text == ' ')
            text++;
        *count = parse_number(text);
    }
    if (*count == 0) {
        *first = 1;
        *count = 3000;
    }
}
static void prepare(void)
{
    out8(0x3fb, 3); // 8 bits, for a board that did not say so
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
}
