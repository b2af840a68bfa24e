// SPDX-License-Identifier: Apache-2.0
// Real mode's runner: the low-memory trampoline (mode16_real.S), a stub for each vector, and how a run ended.
#include "mode16_real.h"

extern char m16_blob[], m16_blob_end[], m16_common[];
void m16_real_go(void);

u32 m16_idt_base = M16_IVT, m16_idt_limit = 0x3ff;
u16 m16_pm_selectors[5];
bool m16_wide_stack;

void m16_segments_default(void)
{
    for (u32 i = 0; i < 5; i++)
        m16_pm_selectors[i] = SEL_DATA16;
    m16_wide_stack = false;
}

static void go(void *argument)
{
    (void)argument;
    m16_real_go();
}

static void real_run(const struct m16 *m, struct m16_end *e)
{
    volatile struct m16_area *a = M16_AREA;

    for (u32 i = 0; i < 8; i++)
        a->gpr[i] = m->gpr[i];
    a->stack_esp = m->gpr[SP];
    a->stack_ss = m->ss;
    a->ip = (u16)m->ip;
    a->cs = m->cs;
    a->flags = m->flags;
    a->ds = m->ds;
    a->es = m->es;
    a->fs = m->fs;
    a->gs = m->gs;
    a->idt_limit = (u16)m16_idt_limit;
    a->idt_base_low = (u16)m16_idt_base;
    a->idt_base_high = (u16)(m16_idt_base >> 16);
    for (u32 i = 0; i < 5; i++)
        a->pm[i] = m16_pm_selectors[i];
    a->out_vector = 0xeeee;
    const struct lab_trap *t = lab_try(go, 0);
    if (t) {
        if (t->vector > 255) {
            e->skipped = true;
        } else {
            lab_print_trap(t);
            lab_check(false, "in the trampoline");
        }
        return;
    }
    e->vector = a->out_vector;
    for (u32 i = 0; i < 8; i++)
        e->at.gpr[i] = a->out_gpr[i];
    e->at.ss = a->out_ss;
    e->at.ds = a->out_ds;
    e->at.es = a->out_es;
    e->at.fs = a->out_fs;
    e->at.gs = a->out_gs;
    e->handler_flags = a->out_flags;
    // The frame of three words; SP before it.
    u32 mask = m16_wide_stack ? 0xffffffff : 0xffff, sp = a->out_gpr[SP];
    e->at.ip = m16_get16(e->at.ss, sp & mask);
    e->at.cs = (u16)m16_get16(e->at.ss, (sp + 2) & mask);
    e->at.flags = m16_get16(e->at.ss, (sp + 4) & mask);
    e->at.gpr[SP] = (sp & ~mask) | ((sp + 6) & mask);
}

void m16_real_prepare(void)
{
    u8 *low = m16_at(0, M16_TRAMPOLINE);
    u32 common = M16_TRAMPOLINE + (u32)(m16_common - m16_blob);

    for (u32 i = 0; m16_blob + i < m16_blob_end; i++)
        low[i] = (u8)m16_blob[i];
    for (u32 i = 0; i < 256; i++) {
        // movw $i, %cs:out_vector; jmp common
        u32 at = M16_STUBS + i * 16, vector = M16_AREA_AT + offsetof(struct m16_area, out_vector);
        u32 jump = common - (at + 10);
        const u8 stub[] = {0x2e,  0xc7, 0x06, (u8)vector, (u8)(vector >> 8),
                           (u8)i, 0,    0xe9, (u8)jump,   (u8)(jump >> 8)};
        for (u32 b = 0; b < sizeof(stub); b++)
            *m16_at(0, at + b) = stub[b];
        m16_put32(0, M16_IVT + i * 4, at);
    }
    m16_segments_default();
    m16_real_run = real_run;
    m16_mode = M16_REAL;
}

u32 m16_low(const char *label)
{
    return M16_TRAMPOLINE + (u32)(label - m16_blob);
}
