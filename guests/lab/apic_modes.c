// SPDX-License-Identifier: Apache-2.0
// xAPIC, x2APIC and disabled: which changes are refused, what they reset, and every x2APIC register by its MSR
// (SDM vol. 3A, 10.4.3, 10.12).
#include "apic.h"

#define EN 0x800u
#define EXTD 0x400u

static volatile u64 value, got;
static volatile u32 number;

static void write_msr(void *argument)
{
    (void)argument;
    lab_wrmsr(number, value);
}
static void read_msr(void *argument)
{
    (void)argument;
    got = lab_rdmsr(number);
}

static const struct lab_trap *msr_write(u32 msr, u64 v)
{
    number = msr;
    value = v;
    return lab_try(write_msr, 0);
}
static const struct lab_trap *msr_read(u32 msr)
{
    number = msr;
    return lab_try(read_msr, 0);
}

static void refused(const char *what, u32 msr, u64 v)
{
    const struct lab_trap *t = msr_write(msr, v);
    lab_check(t && ((t->vector == VEC_GP && t->error == 0) || t->vector == 0xffff),
              "%s: MSR %x: %llx taken", what, msr, v);
}

static void accepted(const char *what, u32 msr, u64 v)
{
    const struct lab_trap *t = msr_write(msr, v);
    lab_check(!t || t->vector == 0xffff, "%s: MSR %x: %llx refused", what, msr, v);
}

// Exists to be read, and to be written with zero. SDM table 10-6.
static void x2_register(u32 reg, bool *readable, bool *writable)
{
    u32 lvts = (u32)lab_rdmsr(0x803) >> 16 & 0xff; // the highest
    *readable = *writable = false;
    if (reg == 0x02 || reg == 0x03 || reg == 0x0a || reg == 0x0d || (reg >= 0x10 && reg <= 0x27) ||
        reg == 0x39)
        *readable = true;
    else if (reg == 0x0b || reg == 0x3f)
        *writable = true;
    else if (reg == 0x08 || reg == 0x0f || reg == 0x28 || reg == 0x30 || reg == 0x32 ||
             reg == 0x38 || reg == 0x3e || (reg >= 0x35 && reg <= 0x37) ||
             (reg == 0x34 && lvts >= 4) || (reg == 0x33 && lvts >= 5) || (reg == 0x2f && lvts >= 6))
        *readable = *writable = true;
}

static u64 reserved_of(u32 reg)
{
    switch (reg) {
    case 0x08:
    case 0x3f:
        return ~0xffull;
    case 0x0b:
    case 0x28:
        return ~0ull;
    case 0x38:
        return ~0xffffffffull;
    case 0x3e:
        return ~0xbull;
    case 0x32:
        return ~0x710ffull;
    case 0x35:
    case 0x36:
        return ~0x1f7ffull;
    case 0x37:
        return ~0x110ffull;
    default:
        return 0;
    }
}

static void x2_registers(void)
{
    for (u32 reg = 0; reg < 0x100; reg++) {
        bool readable, writable;
        x2_register(reg, &readable, &writable);
        const struct lab_trap *t = msr_read(0x800 + reg);
        bool skipped = t && t->vector == 0xffff;
        lab_check(skipped || (readable ? !t : t && t->vector == VEC_GP), "x2APIC register %x: %s",
                  reg, readable ? "does not read" : "reads");
        if (reg == 0x30 || reg == 0x3f || reg == 0x0f)
            continue; // would send, or disable
        if (writable)
            accepted("x2APIC register", 0x800 + reg,
                     reg == 0x2f || (reg >= 0x32 && reg <= 0x37) ? LVT_MASKED : 0);
        else
            refused("x2APIC register", 0x800 + reg, 0);
        u64 reserved = reserved_of(reg);
        for (u32 bit = 0; bit < 64 && writable; bit++)
            if (reserved >> bit & 1)
                refused("x2APIC reserved bit", 0x800 + reg,
                        1ull << bit | (reg >= 0x32 && reg <= 0x37 ? LVT_MASKED : 0));
    }
}

void apic_modes(void)
{
    u64 base = lab_rdmsr(MSR_APIC_BASE), plain = base & ~(u64)(EN | EXTD);
    bool x2 = lab_has(1, 0, 2, 21);
    refused("EXTD without EN", MSR_APIC_BASE, plain | EXTD);
    lab_equal("unchanged", lab_rdmsr(MSR_APIC_BASE), base);
    if (!x2) {
        refused("x2APIC without the feature", MSR_APIC_BASE, base | EXTD);
        return;
    }
    apic_write(APIC_TPR, 0x30);
    apic_write(APIC_LVT_ERROR, 0x75);
    accepted("x2APIC", MSR_APIC_BASE, base | EXTD);
    lab_equal("x2APIC", lab_rdmsr(MSR_APIC_BASE), base | EXTD);
    u32 id = (u32)lab_rdmsr(0x802);
    lab_equal("ID", id, lab_has(11, 0, 1, 0) ? lab_cpuid(11, 0).d : id);
    lab_equal("LDR", lab_rdmsr(0x80d), (u64)(id >> 4) << 16 | 1u << (id & 15));
    lab_equal("TPR is kept", lab_rdmsr(0x808), 0x30);
    lab_equal("LVT is kept", lab_rdmsr(0x837), 0x75);
    lab_wrmsr(0x808, 0);
    lab_wrmsr(0x837, LVT_MASKED);
    refused("back to xAPIC", MSR_APIC_BASE, base);
    refused("EXTD alone", MSR_APIC_BASE, plain | EXTD);
    x2_registers();
    // Self IPIs, by both registers; no delivery status to wait for. (EOI by hand: the handler's goes to memory.)
    apic_forget();
    apic_keep = true;
    accepted("SELF IPI", 0x83f, 0x59);
    lab_check(lab_rdmsr(0x820 + (0x59 >> 5)) >> (0x59 & 31) & 1, "SELF IPI: request");
    let_in_until(1);
    lab_wrmsr(0x80b, 0);
    accepted("ICR", 0x830, (u64)id << 32 | 0x59);
    let_in_until(2);
    lab_wrmsr(0x80b, 0);
    accepted("ICR, logical", 0x830, lab_rdmsr(0x80d) << 32 | 0x859);
    let_in_until(3);
    lab_wrmsr(0x80b, 0);
    apic_took("x2APIC IPIs", 3, 0x59);
    accepted("ICR, somebody else's ID", 0x830, 0x7700000059);
    let_in();
    apic_took("x2APIC IPI to nobody", 3, 0x59);
    lab_equal("ICR reads back", lab_rdmsr(0x830), 0x7700000059);
    lab_wrmsr(0x828, 0);
    accepted("SELF IPI of an illegal vector", 0x83f, 5);
    lab_wrmsr(0x828, 0);
    lab_check(lab_rdmsr(0x828) & 0x20, "ESR");
    // Off and on again: registers as after reset.
    accepted("disabled", MSR_APIC_BASE, plain);
    lab_check(!lab_has(1, 0, 3, 9), "CPUID says no APIC while it is disabled");
    refused("disabled to x2APIC", MSR_APIC_BASE, base | EXTD);
    accepted("disabled to xAPIC", MSR_APIC_BASE, base);
    lab_check(lab_has(1, 0, 3, 9), "CPUID says APIC again");
    lab_equal("SVR after reset", apic_read(APIC_SVR), 0xff);
    lab_equal("LVT after reset", apic_read(APIC_LVT_LINT0), LVT_MASKED);
    lab_equal("DFR after reset", apic_read(APIC_DFR), 0xffffffff);
    lab_equal("TPR after reset", apic_read(APIC_TPR), 0);
    apic_plain();
    apic_self(0x66);
    let_in_until(1);
    apic_took("xAPIC works again", 1, 0x66);
}
