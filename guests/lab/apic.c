// SPDX-License-Identifier: Apache-2.0
// One processor's local APIC, the I/O APIC and the pair of 8259s, as far as an operating system can see them:
// registers, priorities, errors, the timer by order and counts (never by absolute time), lines, x2APIC. SDM vol. 3A,
// chapter 10; 82093AA datasheet; 8259A datasheet.
#include "apic.h"

volatile u8 taken[64];
volatile u32 takens;
void (*volatile apic_inside)(u32 vector);
bool apic_keep;

static bool interrupted(struct lab_trap *trap)
{
    taken[takens++ % sizeof(taken)] = (u8)trap->vector;
    if (apic_inside)
        apic_inside(trap->vector);
    if (!apic_keep && trap->vector >= 0x40)
        apic_write(APIC_EOI, 0);
    return true;
}

void apic_forget(void)
{
    takens = 0;
    apic_inside = NULL;
    apic_keep = false;
}

void apic_self(u32 vector)
{
    apic_write(APIC_ICR, ICR_SELF | vector);
}

void let_in(void)
{
    __asm__ volatile("sti; nop; nop; nop; cli" : : : "memory");
}

bool let_in_until(u32 count)
{
    for (u32 i = 0; i < 100000000 && takens < count; i++)
        __asm__ volatile("sti; pause; cli" : : : "memory");
    return takens >= count;
}

void pass_time(u32 n)
{
    for (u32 i = 0; i < n; i++)
        (void)in8(0x80); // about a microsecond each on a real bus
}

bool apic_took(const char *what, u32 count, u8 vector)
{
    bool ok = takens == count;
    for (u32 i = 0; i < count && ok; i++)
        ok = taken[i] == vector;
    return lab_check(ok, "%s: %u interrupts, first %x, want %u of %x", what, takens,
                     takens ? taken[0] : 0, count, vector);
}

void apic_plain(void)
{
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_TPR, 0);
    for (u32 reg = APIC_LVT_TIMER; reg <= APIC_LVT_ERROR; reg += 16)
        apic_write(reg, LVT_MASKED);
    apic_write(APIC_INITIAL, 0);
    apic_write(APIC_ESR, 0);
    apic_write(APIC_ESR, 0);
    apic_forget();
}

int main(void)
{
    static const struct {
        const char *name;
        void (*group)(void);
    } groups[] = {{"registers", apic_registers},   {"priorities", apic_priority},
                  {"errors", apic_errors},         {"timer", apic_timer},
                  {"TSC deadline", apic_deadline}, {"8259", apic_pic},
                  {"I/O APIC", apic_io},           {"modes", apic_modes}};
    for (u32 v = 0x20; v < 0x100; v++)
        lab_handler[v] = interrupted;
    lab_handler[VEC_NMI] = interrupted;
    out8(0x21, 0xff); // the 8259s: silent
    out8(0xa1, 0xff);
    for (u32 i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        lab_section(groups[i].name);
        apic_plain();
        groups[i].group();
    }
    return 0;
}
