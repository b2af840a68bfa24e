// SPDX-License-Identifier: Apache-2.0
// The sensitive instructions in virtual-8086 mode, at each IOPL, and in real mode: see sensitive.c. In V86 mode
// the guest believes to be on an 8086; whether it may touch the interrupt flag is IOPL's business (SDM vol. 3A
// 20.2.7), and what only protected mode knows raises #UD.
#include "mode16.h"
#include "mode16_real.h"
#include "sensitive.h"

#define BUFFER 0x200 // in DS
#define TARGET 0x700 // in CS: where far transfers go

static struct m16 m;
static const struct m16_end *end;
static bool faults; // V86 with IOPL < 3

static void start(void)
{
    m16_init(&m);
    for (u32 i = 0; i < 16; i++)
        *m16_at(M16_DS, BUFFER + i) = 0xa5;
}

// Runs `bytes` from the registers in `m`; they come to their end, or the first instruction raises `vector`.
static bool runs(const char *what, const char *bytes, u32 size, u32 vector)
{
    end = m16_do(&m, bytes, size);
    if (vector)
        m16_expect(what, &m, end, vector, 0);
    else
        m16_expect_ran(what, &m, end, size);
    return !vector && !end->skipped && end->vector == VEC_UD;
}
#define RUNS(what, text, vector) runs(what, text, sizeof(text) - 1, vector)

static void stores(bool umip)
{
    u32 vector = umip && m16_mode == M16_V86 ? VEC_GP : 0;
    u32 idt_limit = m16_mode == M16_V86 ? sizeof(lab_idt) - 1 : m16_idt_limit;
    u32 idt_base = m16_mode == M16_V86 ? (u32)(ulong)lab_idt : m16_idt_base;

    start();
    if (RUNS("sgdt", "\x66\x0f\x01\x06\x00\x02", vector)) {
        lab_equal("sgdt limit", m16_get16(M16_DS, BUFFER), sizeof(lab_gdt) - 1);
        lab_equal("sgdt base", m16_get32(M16_DS, BUFFER + 2), (u32)(ulong)lab_gdt);
    }
    start();
    if (RUNS("sgdt, 16 bits", "\x0f\x01\x06\x00\x02", vector)) {
        lab_equal("sgdt limit", m16_get16(M16_DS, BUFFER), sizeof(lab_gdt) - 1);
        lab_equal("sgdt base", m16_get32(M16_DS, BUFFER + 2) & 0xffffff, (u32)(ulong)lab_gdt);
    }
    start();
    if (RUNS("sidt", "\x66\x0f\x01\x0e\x00\x02", vector)) {
        lab_equal("sidt limit", m16_get16(M16_DS, BUFFER), idt_limit);
        lab_equal("sidt base", m16_get32(M16_DS, BUFFER + 2), idt_base);
    }
    start();
    u32 cr0 = (u32)lab_cr0() & (m16_mode == M16_V86 ? ~0u : ~1u);
    if (RUNS("smsw", "\x0f\x01\xe0", vector)) // the upper half of EAX stays
        lab_equal("smsw", end->at.gpr[AX], (m.gpr[AX] & 0xffff0000) | (cr0 & 0xffff));
    if (RUNS("smsw, 32 bits", "\x66\x0f\x01\xe0", vector))
        lab_equal("smsw, 32 bits", end->at.gpr[AX] & 0xffff, cr0 & 0xffff);
    start();
    if (RUNS("smsw m16", "\x0f\x01\x26\x00\x02", vector)) {
        lab_equal("smsw m16", m16_get16(M16_DS, BUFFER), cr0 & 0xffff);
        lab_equal("smsw m16 stores 16 bits", m16_get16(M16_DS, BUFFER + 2), 0xa5a5);
    }
}

static void protected_only(void)
{
    start();
    m.gpr[CX] = SEL_DATA0;
    RUNS("sldt", "\x0f\x00\xc0", VEC_UD);
    RUNS("sldt m16", "\x0f\x00\x06\x00\x02", VEC_UD);
    RUNS("str", "\x0f\x00\xc8", VEC_UD);
    RUNS("str m16", "\x0f\x00\x0e\x00\x02", VEC_UD);
    RUNS("lar", "\x0f\x02\xc1", VEC_UD);
    RUNS("lsl", "\x0f\x03\xc1", VEC_UD);
    RUNS("verr", "\x0f\x00\xe1", VEC_UD);
    RUNS("verw", "\x0f\x00\xe9", VEC_UD);
    lab_equal("nothing was stored", m16_get16(M16_DS, BUFFER), 0xa5a5);
}

#define ARITHMETIC (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

static void flags(void)
{
    static const u32 patterns[] = {0,         FLAG_IF,         ARITHMETIC, FLAG_DF | FLAG_IF,
                                   FLAG_IOPL, 0x1000 | FLAG_NT};
    u32 vector = faults ? VEC_GP : 0;

    for (u32 on = 0; on < 2; on++) {
        u32 own = on ? FLAG_IF | FLAG_CF : FLAG_ZF;
        u32 iopl = m16_mode == M16_V86 ? m16_iopl << 12 : 0;
        start();
        m.flags |= own;
        if (RUNS("pushf", "\x9c\x58", vector))
            lab_equal("pushf", end->at.gpr[AX] & 0xffff, own | iopl | 2);
        if (RUNS("pushfd", "\x66\x9c\x66\x58", vector)) // VM and RF are not seen
            lab_equal("pushfd", end->at.gpr[AX], own | iopl | 2);
        for (u32 i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
            // IOPL is real mode's to change, not V86 mode's.
            u32 fixed = m16_mode == M16_V86 ? FLAG_IOPL : 0;
            u32 want = (patterns[i] & ~fixed) | (iopl & fixed) | 2;
            start();
            m.flags |= own;
            m.gpr[CX] = patterns[i];
            // POPF stands at the second byte, so that a fault is seen with the stack as it was before.
            end = M16_DO(&m, "\x51\x9d\x9c\x58");
            if (faults)
                m16_expect("popf", &m, end, VEC_GP, 1);
            else if (m16_expect_ran("popf", &m, end, 4) && !end->skipped)
                lab_equal("popf", end->at.gpr[AX] & 0xffff, want);
            // IRET to the PUSHF behind it, by a frame: FLAGS, CS, IP.
            m.gpr[DX] = m.ip + 4;
            end = M16_DO(&m, "\x51\x0e\x52\xcf\x9c\x58");
            if (faults)
                m16_expect("iret", &m, end, VEC_GP, 3);
            else if (m16_expect_ran("iret", &m, end, 6) && !end->skipped)
                lab_equal("iret", end->at.gpr[AX] & 0xffff, want);
        }
    }
}

static void segments(void)
{
    start();
    if (RUNS("mov from cs", "\x8c\xc8", 0))
        lab_equal("cs", end->at.gpr[AX] & 0xffff, M16_CS);
    if (RUNS("push cs", "\x0e\x58", 0))
        lab_equal("cs", end->at.gpr[AX] & 0xffff, M16_CS);
    m.gpr[CX] = 0x1237;
    if (RUNS("mov es", "\x8e\xc1\x8c\xc0", 0)) {
        lab_equal("es", end->at.gpr[AX] & 0xffff, 0x1237);
        lab_equal("es", end->at.es, 0x1237);
    }
    if (RUNS("pop fs", "\x51\x0f\xa1\x0f\xa0\x58", 0))
        lab_equal("fs", end->at.gpr[AX] & 0xffff, 0x1237);
}

static void land(const char *what)
{
    lab_check(end->skipped ||
                  (end->vector == VEC_UD && end->at.cs == M16_CS + 1 && end->at.ip == TARGET - 16),
              "%s: vector %u at %x:%x", what, end->vector, end->at.cs, end->at.ip);
}

static void transfers(void)
{
    // The same byte by another segment: a real transfer, seen in CS.
    static const char jmp[] = "\xea\xf0\x06\x01\x10", call[] = "\x9a\xf0\x06\x01\x10";

    start();
    *m16_at(M16_CS, TARGET) = 0x0f;
    *m16_at(M16_CS, TARGET + 1) = 0x0b;
    end = M16_DO(&m, jmp);
    land("jmp");
    end = M16_DO(&m, call);
    land("call");
    if (!end->skipped) {
        lab_equal("call: sp", end->at.gpr[SP], m.gpr[SP] - 4);
        lab_equal("call: pushed ip", m16_get16(M16_SS, m.gpr[SP] - 4), m.ip + 5);
        lab_equal("call: pushed cs", m16_get16(M16_SS, m.gpr[SP] - 2), M16_CS);
    }
    m.gpr[CX] = M16_CS + 1;
    m.gpr[DX] = TARGET - 16;
    end = M16_DO(&m, "\x51\x52\xcb");
    land("retf");
    m.flags |= FLAG_CF | FLAG_IF;
    end = M16_DO(&m, "\xcd\x80");
    if (faults) {
        m16_expect("int", &m, end, VEC_GP, 0);
    } else if (m16_expect("int", &m, end, VEC_LAB, 2) && !end->skipped) {
        lab_equal("int: flags", end->at.flags & 0xffff, m.flags & 0xffff);
        lab_equal("int: cs", end->at.cs, M16_CS);
    }
}

static void entered(void)
{
    __asm__ volatile("ud2");
}

static void fast_calls(void)
{
    if (!lab_has(1, 0, 3, 11))
        return;
    lab_wrmsr(0x174, SEL_CODE0);
    lab_wrmsr(0x175, (ulong)lab_tss.esp0 - 512);
    lab_wrmsr(0x176, (ulong)entered);
    start();
    RUNS("sysexit", "\x0f\x35", VEC_GP);
    if (m16_mode == M16_REAL) {
        RUNS("sysenter", "\x0f\x34", VEC_GP);
    } else {
        end = M16_DO(&m, "\x0f\x34");
        lab_check(end->skipped || (end->vector == VEC_UD && end->at.cs == SEL_CODE0),
                  "sysenter: vector %u at %x:%x", end->vector, end->at.cs, end->at.ip);
        lab_check(end->skipped || !(end->at.flags & FLAG_VM), "sysenter leaves V86 mode");
    }
    lab_wrmsr(0x174, 0);
    RUNS("sysenter without selector", "\x0f\x34", VEC_GP);
}

static void all(const char *name)
{
    lab_section(name);
    faults = m16_mode == M16_V86 && m16_iopl < 3;
    stores(false);
    if (lab_has(7, 0, 2, 2)) {
        ulong cr4 = lab_cr4();
        lab_set_cr4(cr4 | 1 << 11);
        stores(true);
        lab_set_cr4(cr4);
    }
    protected_only();
    flags();
    segments();
    transfers();
    fast_calls();
}

void sensitive_16bit(void)
{
    static const char *const names[] = {"V86 mode, IOPL 0", "V86 mode, IOPL 1", "V86 mode, IOPL 2",
                                        "V86 mode, IOPL 3"};

    m16_mode = M16_V86;
    for (m16_iopl = 0; m16_iopl < 4; m16_iopl++)
        all(names[m16_iopl]);
    m16_iopl = 3;
    m16_mode = M16_REAL;
    m16_real_prepare();
    all("real mode");
    m16_mode = M16_V86;
}
