// SPDX-License-Identifier: Apache-2.0
// See stress.h.
#include "stress.h"
#include "private.h"

bool stress_nx, stress_sse, stress_avx;
u8 *stress_at;
static u32 state = 0x2545f491;

void stress_seed(u32 seed)
{
    state = seed * 0x9e3779b9u + 0x2545f491u;
    if (!state)
        state = 1;
}

u32 stress_keep(void)
{
    return state;
}

void stress_resume(u32 kept)
{
    state = kept;
}

u32 stress_random(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state * 0x9e3779b1u;
}

u32 stress_below(u32 n)
{
    return (u32)((u64)stress_random() * n >> 32);
}

ulong stress_word(void)
{
    ulong v = stress_random();
    if (sizeof(v) == 8)
        v |= (ulong)stress_random() << (sizeof(v) == 8 ? 32 : 0);
    switch (stress_below(6)) {
    case 0:
        return v & 0xff;
    case 1:
        return (ulong)1 << stress_below(sizeof(v) * 8);
    case 2:
        return ~(ulong)0 << stress_below(sizeof(v) * 8);
    case 3:
        return (ulong)(long)(int8_t)v;
    default:
        return v;
    }
}

void stress_begin(void)
{
    stress_nx = PROBE_LONG && lab_has(0x80000001, 0, 3, 20); // (32-bit: paging without PAE)
    stress_sse = lab_has(1, 0, 3, 25);
    probe_paging_on();
    if (stress_nx)
        lab_wrmsr(0xc0000080, lab_rdmsr(0xc0000080) | 1u << 11);
    if (stress_sse)
        lab_set_cr4(lab_cr4() | 0x600);
    lab_set_cr0((lab_cr0() & ~0xeul) | 0x22); // MP, NE
    if (lab_has(1, 0, 2, 26) && lab_has(1, 0, 2, 28)) {
        lab_set_cr4(lab_cr4() | 1u << 18);
        __asm__ volatile(".byte 0x0f, 0x01, 0xd1" : : "c"(0), "a"(7), "d"(0));
        stress_avx = true;
    }
    for (u32 i = 0; i < STRESS_PAGES; i++)
        stress_page(i, i, STRESS_RW);
}

void stress_page_quietly(u32 page, u32 physical, u64 flags)
{
    probe_entry(stress_linear(page), flags ? (STRESS_PHYSICAL + physical * 4096ul) | flags : 0);
}

void stress_page(u32 page, u32 physical, u64 flags)
{
    stress_page_quietly(page, physical, flags);
    lab_invlpg(stress_linear(page));
}

u32 stress_cases(u32 cases)
{
    static u32 times;
    if (!times) {
        times = 1;
        for (const char *at = lab_command(); *at; at++)
            if (at[0] == 's' && at[1] == 't' && at[2] == 'r' && at[3] == 'e' && at[4] == 's' &&
                at[5] == 's' && at[6] == '=')
                for (times = 0, at += 7; *at >= '0' && *at <= '9'; at++)
                    times = times * 10 + (u32)(*at - '0');
    }
    return cases * (times ? times : 1);
}

static u32 told; // in this section

bool stress_tell(void)
{
    static const char *section;
    if (section != lab_section_name)
        told = 0;
    section = lab_section_name;
    return told++ < 12;
}

bool stress_check(bool ok)
{
    if (ok || stress_tell())
        return lab_check(ok, "see above");
    return ok;
}
