// SPDX-License-Identifier: Apache-2.0
// See rings.h.
#include "rings.h"

const u16 ring_code[4] = {SEL_CODE0, SEL_RING1_CODE, SEL_RING2_CODE, SEL_CODE3};
const u16 ring_data[4] = {SEL_DATA0, SEL_RING1_DATA, SEL_RING2_DATA, SEL_DATA3};
const u16 ring_code32[4] = {SEL_CODE32, SEL_RING_CODE32_1, SEL_RING_CODE32_2, SEL_CODE32_3};
u8 ring_stack[4][RING_STACK] __attribute__((aligned(16)));
struct lab_state ring_state;
const struct lab_trap *ring_trap;
static u32 table_failures, cells;
static int sparse = -1;

void rings_setup(void)
{
    for (u32 ring = 1; ring < 3; ring++) {
        *lab_gdt_entry(ring_code[ring]) =
            lab_descriptor(0, 0xfffff, 0x9b | ring << 5, IS_LONG ? 0xa : 0xc);
        *lab_gdt_entry(ring_data[ring]) = lab_descriptor(0, 0xfffff, 0x93 | ring << 5, 0xc);
        *lab_gdt_entry(ring_code32[ring]) = lab_descriptor(0, 0xfffff, 0x9b | ring << 5, 0xc);
    }
}

void ring_prepare(unsigned cpl, const void *snippet)
{
    u16 data = ring_data[cpl];

    ring_state = (struct lab_state){.ip = (ulong)snippet,
                                    .cs = ring_code[cpl],
                                    .flags = 2,
                                    .sp = (ulong)ring_stack[cpl] + RING_STACK - 256,
                                    .ss = data,
                                    .ds = data,
                                    .es = data,
                                    .fs = data,
                                    .gs = data};
}

u32 ring_run(void)
{
    const struct lab_trap *t = ring_trap = lab_enter(&ring_state);

    if (!t)
        return OUTCOME_SKIPPED - 1;
    if (t->vector > 255)
        return OUTCOME_SKIPPED;
    if (t->vector == VEC_UD && t->ip != ring_state.ip)
        return 0;
    return FAULT(t->vector, t->error);
}

bool ring_wanted(void)
{
    if (sparse < 0)
        sparse = lab_asked("trials");
    return !sparse || cells++ % 61 == 0;
}

void table_begin(void)
{
    table_failures = 0;
}

bool table_cell(bool ok)
{
    if (ok || (ring_trap && ring_trap->vector > 255)) { // or left out
        lab_check(true, " ");
        return true;
    }
    return ++table_failures > 8;
}

void table_end(const char *what)
{
    if (table_failures > 8)
        lab_check(false, "%s: %u failures in all", what, table_failures);
}
