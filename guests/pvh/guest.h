// SPDX-License-Identifier: Apache-2.0
// What the small PVH guests share: ports, memory-mapped registers, the serial port, power-off.
#pragma once

#include <stdint.h>

struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, cmdline, rsdp, memmap;
};

static inline void out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline void out16(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}
static inline void out32(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}
static inline uint8_t in8(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline void print(const char *text)
{
    while (*text) {
        for (int i = 0; i < 100000 && !(in8(0x3fd) & 0x20); i++)
            ;
        out8(0x3f8, (uint8_t)*text++);
    }
}

static inline void print_number(uint32_t n)
{
    char digits[12];
    int i = 11;
    digits[i] = 0;
    do
        digits[--i] = (char)('0' + n % 10);
    while ((n /= 10));
    print(digits + i);
}

// ACPI S5 through PM1a_CNT, as the DSDT's \_S5 says.
void power_off(void);

static inline uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

static inline uint32_t parse_number(const char *text)
{
    uint32_t n = 0;
    while (*text >= '0' && *text <= '9')
        n = n * 10 + (uint32_t)(*text++ - '0');
    return n;
}

int main(const struct start_info *info);
