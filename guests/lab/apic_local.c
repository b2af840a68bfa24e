// SPDX-License-Identifier: Apache-2.0
// The local APIC's registers, priorities and errors (SDM vol. 3A, 10.4 to 10.8).
#include "apic.h"

static void keeps(const char *what, u32 reg, u32 v, u32 want)
{
    u32 old = apic_read(reg);
    apic_write(reg, v);
    u32 got = apic_read(reg);
    apic_write(reg, old);
    lab_check(got == want, "%s: %x reads %x, want %x", what, v, got, want);
}

void apic_registers(void)
{
    u32 version = apic_read(APIC_VERSION);
    lab_check((version & 0xf0) == 0x10 && (version >> 16 & 0xff) >= 3, "version: %x", version);
    lab_check((lab_rdmsr(MSR_APIC_BASE) & 0xd00) == 0x900, "IA32_APIC_BASE");
    lab_equal("ID", apic_read(APIC_ID) >> 24, lab_cpuid(1, 0).b >> 24);
    for (u32 v = 0; v < 256; v++)
        keeps("TPR", APIC_TPR, v, v);
    keeps("LDR", APIC_LDR, 0x5affffff, 0x5a000000);
    keeps("DFR", APIC_DFR, 0, 0x0fffffff);
    keeps("DFR", APIC_DFR, 0xf0000000, 0xffffffff);
    keeps("ICR high", APIC_ICR_HIGH, 0x03000000, 0x03000000);
    static const struct {
        const char *name;
        u32 reg, writable;
    } lvt[] = {{"LVT timer", APIC_LVT_TIMER, 0x300ff},
               {"LVT LINT0", APIC_LVT_LINT0, 0x1a7ff},
               {"LVT LINT1", APIC_LVT_LINT1, 0x1a7ff},
               {"LVT error", APIC_LVT_ERROR, 0x100ff}};
    for (u32 i = 0; i < sizeof(lvt) / sizeof(lvt[0]); i++)
        for (u32 bit = 0; bit < 32; bit++) {
            u32 v = 1u << bit | LVT_MASKED | 0x20;
            if (bit == 14 || bit == 12 || (bit == 18 && i == 0) || (bit >= 8 && bit <= 10))
                continue; // read-only; TSC deadline
            keeps(lvt[i].name, lvt[i].reg, v, v & lvt[i].writable);
        }
    // Disabled by software: the masks are set and stay.
    apic_write(APIC_LVT_ERROR, 0x50);
    apic_write(APIC_SVR, 0xff);
    lab_equal("disabled: mask", apic_read(APIC_LVT_ERROR), LVT_MASKED | 0x50);
    apic_write(APIC_LVT_ERROR, 0x51);
    lab_equal("disabled: mask stays", apic_read(APIC_LVT_ERROR), LVT_MASKED | 0x51);
    apic_self(0x60); // not accepted
    apic_write(APIC_SVR, 0x1ff);
    lab_equal("enabled: mask stays", apic_read(APIC_LVT_ERROR), LVT_MASKED | 0x51);
    lab_check(!apic_bit(APIC_IRR, 0x60), "a fixed interrupt while disabled is lost");
    // Requests are read-only.
    for (u32 reg = APIC_ISR; reg < APIC_ESR; reg += 16) {
        u32 old = apic_read(reg);
        apic_write(reg, ~old);
        lab_check(apic_read(reg) == old, "register %x is read-only", reg);
    }
    apic_write(APIC_ESR, 0);
    apic_write(APIC_ESR, 0);
}

// --- priorities --------------------------------------------------------------------------------------------

static u32 highest(u32 set)
{
    for (int v = 255; v >= 0; v--)
        if (apic_bit(set, (u32)v))
            return (u32)v;
    return 0;
}

static u32 ppr_model(u32 tpr, u32 in_service)
{
    return (tpr >> 4) >= (in_service >> 4) ? tpr : in_service & 0xf0;
}

static void look_inside(u32 vector)
{
    lab_check(apic_bit(APIC_ISR, vector), "vector %x is in service", vector);
    lab_check(!apic_bit(APIC_IRR, vector), "vector %x is no request any more", vector);
    lab_check(!apic_bit(APIC_TMR, vector), "vector %x is edge-triggered", vector);
    lab_check(highest(APIC_ISR) == vector, "vector %x is the highest in service", vector);
    for (u32 tpr = 0; tpr < 256; tpr += 7) {
        apic_write(APIC_TPR, tpr);
        u32 ppr = apic_read(APIC_PPR);
        lab_check(ppr == ppr_model(tpr, vector), "PPR with TPR %x in service %x: %x", tpr, vector,
                  ppr);
    }
    apic_write(APIC_TPR, 0);
}

static void again_inside(u32 vector)
{
    if (takens == 1)
        apic_self(vector);
}

// Lower, equal and higher requests while 0x65 is in service and interrupts are open. Its gate has a handler of its
// own: those of the laboratory cannot be interrupted.
extern char nested_stub[];
void nested(void);
#ifdef __x86_64__
__asm__(".pushsection .text\n"
        "nested_stub: push %rax; push %rcx; push %rdx; push %rsi; push %rdi\n"
        "push %r8; push %r9; push %r10; push %r11\n"
        "cld; call nested\n"
        "pop %r11; pop %r10; pop %r9; pop %r8\n"
        "pop %rdi; pop %rsi; pop %rdx; pop %rcx; pop %rax\n"
        "iretq\n"
        ".popsection\n");
#else
__asm__(".pushsection .text\n"
        "nested_stub: pushal; cld; call nested; popal; iretl\n"
        ".popsection\n");
#endif

void nested(void)
{
    taken[takens++] = 0x65;
    apic_self(0x45);
    apic_self(0x6f);
    apic_self(0x75);
    let_in();
    lab_equal("nested: interrupts so far", takens, 2);
    lab_equal("nested: the higher one", taken[1], 0x75);
    lab_check(apic_bit(APIC_IRR, 0x45) && apic_bit(APIC_IRR, 0x6f), "nested: the others wait");
    apic_write(APIC_EOI, 0);
}

void apic_priority(void)
{
    static const u8 sent[] = {0x41, 0x81, 0x61, 0x62, 0x51, 0xf1, 0x42, 0x41};
    static const u8 sorted[] = {0xf1, 0x81, 0x62, 0x61, 0x51, 0x42, 0x41};
    for (u32 i = 0; i < sizeof(sent); i++)
        apic_self(sent[i]);
    for (u32 i = 0; i < sizeof(sent); i++)
        lab_check(apic_bit(APIC_IRR, sent[i]), "vector %x is a request", sent[i]);
    lab_equal("none yet", takens, 0);
    let_in_until(sizeof(sorted));
    lab_equal("interrupts", takens, sizeof(sorted));
    for (u32 i = 0; i < sizeof(sorted); i++)
        lab_check(taken[i] == sorted[i], "interrupt %u is %x, want %x", i, taken[i], sorted[i]);
    for (u32 vector = 0x40; vector < 0xff; vector += 0x1d) {
        apic_forget();
        apic_inside = look_inside;
        apic_self(vector);
        let_in_until(1);
        apic_took("self", 1, (u8)vector);
        lab_check(!apic_bit(APIC_ISR, vector), "EOI of %x", vector);
    }
    // TPR holds back its class and those below; what waits comes when it falls.
    for (u32 tpr = 0; tpr < 16; tpr++)
        for (u32 class = 4; class < 16; class ++) {
            apic_forget();
            apic_write(APIC_TPR, tpr << 4 | 5);
            apic_self(class << 4 | 3);
            let_in();
            lab_check(takens == (class > tpr), "TPR %x0: class %x: %u interrupts", tpr, class,
                      takens);
            apic_write(APIC_TPR, 0);
            let_in();
            lab_check(takens == 1, "TPR 0 after %x0: class %x: %u interrupts", tpr, class, takens);
        }
#ifdef __x86_64__
    for (ulong v = 0; v < 16; v++) {
        __asm__ volatile("mov %0, %%cr8" : : "r"(v));
        lab_equal("CR8 writes TPR", apic_read(APIC_TPR), v << 4);
        apic_write(APIC_TPR, (u32)(15 - v) << 4 | 9);
        ulong back;
        __asm__ volatile("mov %%cr8, %0" : "=r"(back));
        lab_equal("CR8 reads TPR", back, 15 - v);
    }
    apic_write(APIC_TPR, 0);
#endif
    apic_forget();
    apic_inside = again_inside;
    apic_self(0x55);
    let_in_until(2);
    apic_took("requested again while in service", 2, 0x55);
    apic_forget();
    lab_gate_set(&lab_idt[0x65], (ulong)nested_stub, SEL_CODE0, 0x8e, 0);
    apic_self(0x65);
    let_in_until(4);
    lab_gate_default(0x65);
    lab_check(takens == 4 && taken[2] == 0x6f && taken[3] == 0x45, "after nesting: %u, %x %x",
              takens, taken[2], taken[3]);
    // EOI ends the highest in service, which need not be the last begun; without any it does nothing.
    apic_write(APIC_EOI, 0);
    apic_forget();
    apic_keep = true;
    apic_self(0x45);
    let_in_until(1);
    apic_self(0x85);
    let_in_until(2);
    lab_check(apic_bit(APIC_ISR, 0x45) && apic_bit(APIC_ISR, 0x85), "two in service");
    apic_write(APIC_EOI, 0);
    lab_check(apic_bit(APIC_ISR, 0x45) && !apic_bit(APIC_ISR, 0x85), "EOI takes the higher one");
    apic_write(APIC_EOI, 0);
    lab_check(!apic_bit(APIC_ISR, 0x45), "EOI takes the lower one");
    // NMI to itself by its address.
    apic_forget();
    apic_write(APIC_ICR_HIGH, apic_read(APIC_ID));
    apic_write(APIC_ICR, 0x400);
    for (u32 i = 0; i < 100000 && !takens; i++)
        __asm__ volatile("pause");
    apic_took("NMI", 1, VEC_NMI);
}

// --- errors ------------------------------------------------------------------------------------------------

static u32 esr(void)
{
    apic_write(APIC_ESR, 0);
    return apic_read(APIC_ESR);
}

void apic_errors(void)
{
    for (u32 vector = 0; vector < 16; vector++) {
        apic_self(vector);
        u32 e = esr();
        lab_check((e & ~0x40u) == 0x20, "illegal vector %u: ESR %x", vector, e);
        lab_equal("ESR after another write", esr(), 0);
    }
    lab_equal("no request", apic_read(APIC_IRR) & 0xffff, 0);
    apic_write(APIC_LVT_ERROR, 0x77);
    apic_self(3);
    let_in_until(1);
    apic_took("error interrupt", 1, 0x77);
    lab_equal("ESR holds until a write", apic_read(APIC_ESR), 0);
    lab_check(esr() & 0x20, "ESR");
    // 40h: no register there.
    apic_forget();
    (void)apic_read(0x40);
    let_in();
    lab_check(esr() & 0x80 && takens == 1, "illegal register: %u interrupts", takens);
    // The timer's own illegal vector is one received.
    apic_write(APIC_LVT_ERROR, LVT_MASKED);
    apic_write(APIC_LVT_TIMER, 5);
    apic_write(APIC_INITIAL, 10);
    pass_time(200);
    lab_check(esr() & 0x40, "illegal vector received");
}
