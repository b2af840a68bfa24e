// SPDX-License-Identifier: Apache-2.0
// What the stress guests share. They try what a binary translator finds hard: code that changes, pages that move
// under it, faults in the middle, modes that flip. Every case is made by a random generator with a fixed seed, so
// that a run is the same each time, and judged by a small model of what must happen.
//
// Memory: the linear region of STRESS_PAGES pages at STRESS_LINEAR has any physical pages behind it
// (stress_page()); the physical pages from STRESS_PHYSICAL on are seen one to one, too. Code is made at STRESS_CODE.
// "stress=N" multiplies the number of cases.
#pragma once

#include "probe.h"

#define STRESS_LINEAR 0x300000ul
#define STRESS_PAGES 128u
#define STRESS_PHYSICAL 0x800000ul
#define STRESS_CODE 0x200000ul // 512 KiB, one to one

u32 stress_random(void);
u32 stress_below(u32 n); // 0 to n - 1
static inline bool stress_chance(u32 percent)
{
    return stress_below(100) < percent;
}
ulong stress_word(void); // small numbers, single bits and patterns more often than others
void stress_seed(u32 seed);
u32 stress_keep(void); // the generator's state, to go on from there later
void stress_resume(u32 kept);

// Paging of 4 KiB pages below 4 MiB, open to ring 3, the region on physical pages 0 and on; SSE and NX switched on
// where the processor has them.
void stress_begin(void);
void stress_page(u32 page, u32 physical, u64 flags); // flags 0: not present; with INVLPG
void stress_page_quietly(u32 page, u32 physical, u64 flags);
static inline ulong stress_linear(u32 page)
{
    return STRESS_LINEAR + page * 4096ul;
}
static inline u8 *stress_physical(u32 physical)
{
    return (u8 *)(STRESS_PHYSICAL + physical * 4096ul);
}
#define STRESS_RW (PAGE_P | PAGE_W | PAGE_U)
#define STRESS_NX (1ull << 63)
extern bool stress_nx, stress_sse, stress_avx;

u32 stress_cases(u32 cases); // how many to try of something that is usually tried so often
// At most a few failures of one section are told one by one; the others count.
bool stress_check(bool ok);
bool stress_tell(void); // whether there is room for another line

// --- code that is made ---------------------------------------------------------------------------------
extern u8 *stress_at; // where the next byte goes
static inline void put8(u32 v)
{
    *stress_at++ = (u8)v;
}
static inline void put32(u32 v)
{
    put8(v);
    put8(v >> 8);
    put8(v >> 16);
    put8(v >> 24);
}
static inline void put_word(ulong v)
{
    put32((u32)v);
#ifdef __x86_64__
    put32((u32)(v >> 32));
#endif
}
static inline void put_bytes(const void *bytes, u32 count)
{
    for (u32 i = 0; i < count; i++)
        put8(((const u8 *)bytes)[i]);
}
static inline void put_nops(u32 count)
{
    while (count--)
        put8(0x90);
}
static inline void put_move(u32 reg, ulong value) // registers 0 to 7
{
    if (PROBE_LONG)
        put8(0x48);
    put8(0xb8 | reg);
    put_word(value);
}
// Calls code that may use all registers but the stack pointer and BP.
static inline u32 stress_call(ulong address)
{
    __asm__ volatile("call *%0"
                     : "+a"(address)
                     :
                     : "ecx", "edx", "ebx", "esi", "edi", "memory", "cc");
    return (u32)address;
}
