// SPDX-License-Identifier: Apache-2.0
// Address line 20 (SDM vol. 3, 9.9.3 and 20.1.1): closed, addresses above 1 MiB wrap to 0; open, FFFF:0010 and up is
// the high memory area. Closed by port 92h and by the keyboard controller's output port; also without real mode.
//
// Rules to keep: with A20 closed the guest's own code at 1 MiB is not there: only low memory runs.
#include "real.h"

extern char m16_a20_pm[], m16_a20_fast[], m16_a20_fast_end[], m16_a20_keyboard[],
    m16_a20_keyboard_end[];

#define LOW_WORD 0x1f00 // and 1 MiB above it, the guest itself
#define LOW_CODE 0x1e00

static void try_one(const char *name, const char *from, const char *to, bool reads_back)
{
    static const u8 callee[] = {0xbf, 0x77, 0x77, 0xcb}; // mov $7777h, %di; lret
    struct m16 m;
    u8 code[256];
    u32 size = (u32)(to - from), high = m16_get16(0, LOW_WORD + 0x100000);

    for (u32 i = 0; i < size && i < sizeof(code); i++)
        code[i] = (u8)from[i];
    for (u32 i = 0; i < sizeof(callee); i++)
        *m16_at(0, LOW_CODE + i) = callee[i];
    m16_put16(0, LOW_WORD, 0x4321 ^ high);
    m16_init(&m);
    m.ds = 0xffff;
    m.es = 0;
    m16_code(&m, code, size);
    const struct m16_end *e = m16_run(&m);
    if (!lab_check(e->skipped || (e->vector == VEC_UD && e->at.cs == m.cs),
                   "%s: vector %u at %x:%x", name, e->vector, e->at.cs, e->at.ip) ||
        e->skipped)
        return;
    lab_equal("closed: read", e->at.gpr[CX] & 0xffff, 0x4321 ^ high);
    lab_equal("closed: write", e->at.gpr[DX] & 0xffff, 0xbeef);
    lab_equal("closed: code", e->at.gpr[DI] & 0xffff, 0x7777);
    lab_equal("open: high memory", e->at.gpr[BP] & 0xffff, high);
    lab_equal("low memory", m16_get16(0, LOW_WORD), 0xbeef);
    lab_equal("high memory", m16_get16(0, LOW_WORD + 0x100000), high);
    if (reads_back)
        lab_equal("port 92h", e->at.gpr[BX] & 0x0202, 0x0200);
}

void real_a20_cases(void)
{
    lab_section("a20");
    for (u32 i = 0; i < 3; i++) { // again: what is cached must go
        try_one("port 92h", m16_a20_fast, m16_a20_fast_end, true);
        try_one("keyboard controller", m16_a20_keyboard, m16_a20_keyboard_end, false);
    }
    volatile struct m16_area *a = M16_AREA;
    u32 high = m16_get32(0, LOW_WORD + 0x100000);
    m16_put32(0, LOW_WORD, ~high);
    m16_call_low(m16_low(m16_a20_pm));
    lab_direct();
    lab_equal("protected mode, closed: read", a->out_gpr[CX], ~high);
    lab_equal("protected mode, closed: write", m16_get32(0, LOW_WORD), 0x600d600d);
    lab_equal("protected mode, open", a->out_gpr[DX], high);
}
