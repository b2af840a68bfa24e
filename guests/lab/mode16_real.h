// SPDX-License-Identifier: Apache-2.0
// Real mode beyond what mode16.h says: the area that C and the trampoline share (offsets as in mode16_real.S).
#pragma once

#include "mode16.h"

#define M16_AREA_AT 0x2c00
#define M16_AREA ((volatile struct m16_area *)(ulong)M16_AREA_AT)

struct m16_area {
    u32 gpr[8];
    u32 stack_esp;
    u16 stack_ss, pad0;
    u16 ip, cs; // 28h
    u32 flags;
    u16 ds, es, fs, gs;
    u16 idt_limit, idt_base_low, idt_base_high, pad1; // 38h
    u16 pm[5], pad2[3];                               // 40h
    u32 pad3[4];
    u32 out_gpr[8]; // 60h
    u32 out_vector; // 80h; the stubs write the lower half
    u32 out_flags;
    u16 out_ds, out_es, out_fs, out_gs, out_ss, pad4;
    u32 out_cr0;
};
_Static_assert(offsetof(struct m16_area, idt_limit) == 0x38, "mode16_real.S");
_Static_assert(offsetof(struct m16_area, out_gpr) == 0x60, "mode16_real.S");
_Static_assert(offsetof(struct m16_area, out_cr0) == 0x94, "mode16_real.S");

// DS ES FS GS SS as they are loaded before protected mode is left: their limits and sizes stay.
extern u16 m16_pm_selectors[5];
extern bool m16_wide_stack; // SS has B set: ESP counts
void m16_segments_default(void);

u32 m16_low(const char *label); // where a label of the blob is
void m16_call_low(u32 address);
