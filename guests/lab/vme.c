// SPDX-License-Identifier: Apache-2.0
// The virtual-8086 mode extensions and the protected-mode virtual interrupts (SDM vol. 3, 20.3 with table 20-2,
// and 20.4): every instruction that IOPL governs, in every state of CR4.VME, IOPL, VIF, VIP and, for INT n, the
// redirection bitmap, against a model of the manual's tables.
//
// Rules to keep: the vector table at linear address 0 is the boot loader's outside of try_redirection().
#include "mode16.h"

#define CR4_VME 1u
#define CR4_PVI 2u
#define LOW_MAY (0x8d5u | FLAG_DF | FLAG_NT) // what POPF and IRET change in every case; and TF

static void cr4_set(u32 bits)
{
    lab_set_cr4((lab_cr4() & ~3ul) | bits);
}

// --- the model ------------------------------------------------------------------------------------------

enum what {
    DO_CLI,
    DO_STI,
    DO_PUSHF,
    DO_PUSHFD,
    DO_POPF,
    DO_POPFD,
    DO_IRET,
    DO_IRETD,
    DO_COUNT
};
static const struct {
    const char *name, *bytes;
    u8 size;
} what_names[DO_COUNT] = {
    {"cli", "\xfa", 1},  {"sti", "\xfb", 1},       {"pushf", "\x9c", 1}, {"pushfd", "\x66\x9c", 2},
    {"popf", "\x9d", 1}, {"popfd", "\x66\x9d", 2}, {"iret", "\xcf", 1},  {"iretd", "\x66\xcf", 2}};

struct outcome {
    bool fault; // #GP(0), nothing changed
    u32 flags;  // after
    u32 pushed; // PUSHF and INT n
};

static struct outcome model(enum what what, bool vme, u32 flags, u32 image)
{
    struct outcome o = {.flags = flags};
    bool iopl3 = (flags & FLAG_IOPL) == FLAG_IOPL;
    bool wide = what == DO_PUSHFD || what == DO_POPFD || what == DO_IRETD;

    if (!iopl3 && (!vme || wide)) {
        o.fault = true;
        return o;
    }
    u32 bit = iopl3 ? FLAG_IF : FLAG_VIF; // which flag the 8086 program's IF is
    switch (what) {
    case DO_CLI:
        o.flags &= ~bit;
        break;
    case DO_STI:
        if (!iopl3 && flags & FLAG_VIP)
            o.fault = true;
        o.flags |= bit;
        break;
    case DO_PUSHF:
        o.pushed = flags & 0xffff;
        if (!iopl3)
            o.pushed = (o.pushed & ~FLAG_IF) | FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
        break;
    case DO_PUSHFD:
        o.pushed = flags & 0xfcffff;
        break;
    default: // POPF, IRET
        if (!iopl3 && (image & FLAG_TF || (image & FLAG_IF && flags & FLAG_VIP)))
            o.fault = true;
        u32 may = LOW_MAY | (wide ? FLAG_AC | FLAG_ID : 0);
        o.flags = (flags & ~(may | bit)) | (image & may) | (image & FLAG_IF ? bit : 0);
    }
    if (o.fault)
        o.flags = flags;
    return o;
}

// --- CLI STI PUSHF POPF IRET --------------------------------------------------------------------------------

static void try_one(enum what what, bool vme, u32 flags, u32 image)
{
    struct outcome o = model(what, vme, flags, image);
    const char *name = what_names[what].name;
    u32 size = what_names[what].size;
    struct m16 m, there;

    m16_init(&m);
    m.flags = flags | FLAG_VM | 2;
    there = m;
    there.cs = M16_CS + 0x80;
    there.ip = 0x345;
    u32 slot = size == 2 ? 4 : 2, pop = 0;
    m16_put32(m.ss, 0x7ffc, 0xdeadbeef);
    if (what == DO_POPF || what == DO_POPFD) {
        m16_put32(m.ss, 0x8000, image);
        pop = slot;
    } else if (what == DO_IRET || what == DO_IRETD) {
        m16_put32(m.ss, 0x8000, slot == 2 ? (u32)there.cs << 16 | there.ip : there.ip);
        m16_put32(m.ss, 0x8000 + slot * 2, image);
        if (slot == 4)
            m16_put32(m.ss, 0x8004, there.cs);
        pop = slot * 3;
        m16_code(&there, "", 0);
    }
    m16_tag[0] = vme;
    m16_tag[1] = flags;
    m16_tag[2] = image;
    const struct m16_end *e = m16_do(&m, what_names[what].bytes, size);
    bool ok;
    if (o.fault)
        ok = m16_expect(name, &m, e, VEC_GP, 0);
    else if (what == DO_IRET || what == DO_IRETD)
        ok = m16_expect_ran(name, &there, e, 0);
    else
        ok = m16_expect_ran(name, &m, e, size);
    if (!ok || e->skipped)
        return;
    u32 want = o.flags | FLAG_VM | 2;
    lab_check((e->at.flags & ~FLAG_RF) == want, "%s (%x %x %x): flags %x, want %x", name, vme,
              flags, image, e->at.flags & ~FLAG_RF, want);
    u32 sp = 0x8000;
    if (!o.fault && (what == DO_PUSHF || what == DO_PUSHFD))
        sp -= slot;
    else if (!o.fault)
        sp += pop;
    lab_check(e->at.gpr[SP] == sp, "%s (%x %x %x): sp %x, want %x", name, vme, flags, image,
              e->at.gpr[SP], sp);
    if (sp < 0x8000) {
        u32 got = slot == 2 ? m16_get16(m.ss, sp) : m16_get32(m.ss, sp);
        lab_check(got == (o.pushed | 2), "%s (%x %x %x): pushed %x, want %x", name, vme, flags,
                  image, got, o.pushed | 2);
    }
}

static void try_flags(void)
{
    static const u32 images[] = {0,
                                 FLAG_IF,
                                 FLAG_TF,
                                 FLAG_TF | FLAG_IF,
                                 FLAG_NT,
                                 FLAG_IOPL,
                                 FLAG_IOPL | FLAG_IF,
                                 0x8d5,
                                 0x7ed5,
                                 0xfed7,
                                 FLAG_VIF,
                                 FLAG_VIP,
                                 FLAG_VIF | FLAG_VIP | FLAG_IF};
    for (u32 vme = 0; vme < 2; vme++) {
        lab_section(vme ? "flags with vme" : "flags without vme");
        for (u32 state = 0; state < 32; state++) {
            u32 flags = (state & 3) << 12 | (state & 4 ? FLAG_IF : 0) | (state & 8 ? FLAG_VIF : 0) |
                        (state & 16 ? FLAG_VIP : 0);
            // VIF and VIP together are #GP before any instruction: below.
            if (vme && (state & 24) == 24)
                continue;
            for (u32 rest = 0; rest < 2; rest++)
                for (u32 what = 0; what < DO_COUNT; what++)
                    for (u32 i = 0; i < sizeof(images) / 4; i++) {
                        // (A TF that is taken over would single-step into the lab's #DB.)
                        u32 f = flags | (rest ? 0x8d5 | FLAG_NT | FLAG_DF : 0);
                        if (what < DO_POPF && i)
                            continue;
                        if (images[i] & FLAG_TF && (flags & FLAG_IOPL) == FLAG_IOPL)
                            continue;
                        cr4_set(vme ? CR4_VME : 0);
                        try_one(what, vme, f, images[i]);
                        cr4_set(0);
                    }
        }
    }
}

static struct lab_tss task __attribute__((aligned(256)));

static void switch_to(void *argument)
{
    (void)argument;
    __asm__ volatile("ljmp %0, $0" : : "i"(SEL_FREE) : "memory");
}

// A V86 task with these flags, one NOP.
static const struct lab_trap *task_run(struct m16 *m)
{
    M16_CODE(m, "\x90");
    task = (struct lab_tss){.esp0 = lab_tss.esp0,
                            .ss0 = SEL_DATA0,
                            .cr3 = (u32)lab_cr3(),
                            .eip = m->ip,
                            .eflags = m->flags,
                            .es = m->es,
                            .cs = m->cs,
                            .ss = m->ss,
                            .ds = m->ds,
                            .fs = m->fs,
                            .gs = m->gs,
                            .iomap = 0xffff};
    task.gpr[SP] = m->gpr[SP];
    *lab_gdt_entry(SEL_FREE) = lab_descriptor((u32)(ulong)&task, 0x67, 0x89, 0);
    const struct lab_trap *t = lab_try(switch_to, 0);
    *lab_gdt_entry(SEL_TSS) &= ~((u64)2 << 40);
    __asm__ volatile("ltr %w0; clts" : : "r"(SEL_TSS) : "memory");
    *lab_gdt_entry(SEL_FREE) = 0;
    return t;
}

// A pending virtual interrupt that is enabled: #GP(0) before the next instruction (20.3.2), after IRET and
// after a task switch; without VME nothing.
static void try_pending(void)
{
    lab_section("vif and vip");
    for (u32 vme = 0; vme < 2; vme++)
        for (u32 iopl = 0; iopl < 3; iopl++) {
            struct m16 m;
            m16_init(&m);
            m.flags = FLAG_VM | 2 | iopl << 12 | FLAG_VIF | FLAG_VIP;
            cr4_set(vme ? CR4_VME : CR4_PVI);
            m16_tag[0] = vme;
            m16_tag[1] = iopl;
            const struct m16_end *e = M16_DO(&m, "\x90");
            cr4_set(0);
            m16_expect("entered", &m, e, vme ? VEC_GP : VEC_UD, vme ? 0 : 1);
            if (!e->skipped)
                lab_equal("flags", e->at.flags & ~FLAG_RF, m.flags);
            cr4_set(vme ? CR4_VME : CR4_PVI);
            const struct lab_trap *t = task_run(&m);
            cr4_set(0);
            if (t && t->vector < 256)
                lab_check(t->vector == (vme ? VEC_GP : VEC_UD) && t->error == 0 && t->cs == m.cs &&
                              t->ip == m.ip + !vme,
                          "task switch, vme %u iopl %u: vector %u error %x at %lx:%lx", vme, iopl,
                          t->vector, t->error, t->cs, t->ip);
        }
}

// --- INT n ---------------------------------------------------------------------------------------------------

#define IVT_CS 0x1800 // vector n of the 8086 program is IVT_CS:4n, UD2

static void bitmap_set(u8 all, u32 vector, bool one)
{
    for (u32 i = 0; i < 32; i++)
        lab_tss.bitmap[i] = all;
    lab_tss.bitmap[vector / 8] =
        (u8)((lab_tss.bitmap[vector / 8] & ~(1 << vector % 8)) | one << vector % 8);
}

// Table 20-2's six methods.
static void try_int(u32 vector, bool vme, u32 flags, bool bit, const char *name, u16 sp)
{
    bool iopl3 = (flags & FLAG_IOPL) == FLAG_IOPL;
    u8 code[2] = {0xcd, (u8)vector};
    struct m16 m;

    m16_init(&m);
    m.flags = flags | FLAG_VM | 2;
    m.gpr[SP] = sp;
    bool gate = iopl3 && (!vme || bit), own = vme && !bit;
    if (gate) // a handler that expects no error code, open to ring 3
        lab_gate_set(&lab_idt[vector], (ulong)lab_stubs + VEC_LAB * 16, SEL_CODE0, 0xee, 0);
    cr4_set(vme ? CR4_VME : 0);
    m16_tag[0] = vector;
    m16_tag[1] = vme << 4 | bit;
    m16_tag[2] = flags;
    const struct m16_end *e = m16_do(&m, code, 2);
    cr4_set(0);
    lab_gate_default(vector);
    if (gate) {
        m16_expect(name, &m, e, VEC_LAB, 2);
    } else if (!own) {
        m16_expect(name, &m, e, VEC_GP, 0);
    } else {
        struct m16 there = m;
        there.cs = IVT_CS;
        there.ip = vector * 4;
        if (!m16_expect_ran(name, &there, e, 0) || e->skipped)
            return;
        u32 pushed = flags & 0xffff, after = m.flags & ~(FLAG_TF | (iopl3 ? FLAG_IF : FLAG_VIF));
        if (!iopl3)
            pushed = (pushed & ~FLAG_IF) | FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
        lab_check((e->at.flags & ~FLAG_RF) == after, "%s (%x %x %x): flags %x, want %x", name,
                  vector, m16_tag[1], flags, e->at.flags & ~FLAG_RF, after);
        u32 at = (sp - 6) & 0xffff;
        lab_check(e->at.gpr[SP] == at && m16_get16(m.ss, at) == m.ip + 2 &&
                      m16_get16(m.ss, (at + 2) & 0xffff) == m.cs &&
                      m16_get16(m.ss, (at + 4) & 0xffff) == (pushed | 2),
                  "%s (%x %x %x): frame at %x: %x %x %x, want flags %x", name, vector, m16_tag[1],
                  flags, e->at.gpr[SP], m16_get16(m.ss, at), m16_get16(m.ss, (at + 2) & 0xffff),
                  m16_get16(m.ss, (at + 4) & 0xffff), pushed | 2);
    }
}

static void try_redirection(void)
{
    static u32 loader[256];
    volatile u32 *ivt;
    __asm__("" : "=r"(ivt) : "0"(0)); // (the compiler takes address 0 for a mistake)
    struct m16 m;

    lab_section("int n");
    for (u32 i = 0; i < 256; i++) {
        loader[i] = ivt[i];
        ivt[i] = IVT_CS << 16 | i * 4;
        m16_put16(IVT_CS, i * 4, 0x0b0f);
    }
    // Each vector, its bit alone set and alone clear.
    for (u32 vector = 0; vector < 256; vector++)
        for (u32 bit = 0; bit < 2; bit++)
            for (u32 state = 0; state < 4; state++) {
                bitmap_set(bit ? 0 : 0xff, vector, bit);
                u32 flags =
                    (state & 1 ? FLAG_IOPL : (vector % 3) << 12) | (state & 2 ? FLAG_VIF : 0);
                try_int(vector, true, flags, bit, "each vector", 0x8000);
            }
    lab_section("int n by flags");
    for (u32 state = 0; state < 256; state++)
        for (u32 vme = 0; vme < 2; vme++) {
            u32 flags = (state & 3) << 12 | (state & 4 ? FLAG_IF : 0) | (state & 8 ? FLAG_VIF : 0) |
                        (state & 16 ? FLAG_VIP : 0) | (state & 32 ? 0x8d5 | FLAG_DF : 0) |
                        (state & 64 ? FLAG_NT : 0);
            bool bit = state & 128;
            if (vme && (state & 24) == 24)
                continue;
            bitmap_set(bit ? 0 : 0xff, 0x35, bit);
            try_int(0x35, vme, flags, bit, "by flags", 0x8000);
        }
    lab_section("int n at the edges");
    // SP wraps; a word at FFFFh is #SS(0).
    bitmap_set(0, 0, 0);
    for (u32 sp = 0; sp < 8; sp += 2)
        try_int(0x40, true, FLAG_VIF, false, "sp", (u16)sp);
    cr4_set(CR4_VME);
    for (u32 sp = 1; sp < 6; sp += 2) {
        m16_init(&m);
        m.flags = FLAG_VM | 2 | FLAG_VIF;
        m.gpr[SP] = sp;
        m16_tag[0] = sp;
        const struct m16_end *e = M16_DO(&m, "\xcd\x40");
        m16_expect("odd sp", &m, e, VEC_SS, 0);
        if (!e->skipped)
            lab_check(e->at.flags & FLAG_VIF && e->at.gpr[SP] == sp, "odd sp %u: changed something",
                      sp);
    }
    // INT3, INTO and exceptions do not go through the bitmap.
    m16_init(&m);
    m.flags = FLAG_VM | 2;
    m16_expect("int3", &m, M16_DO(&m, "\xcc"), VEC_BP, 1);
    m.flags |= FLAG_OF;
    m16_expect("into", &m, M16_DO(&m, "\xce"), VEC_OF, 1);
    m16_expect("icebp", &m, M16_DO(&m, "\xf1"), VEC_DB, 1);
    m16_expect("div", &m, M16_DO(&m, "\x31\xd2\xf7\xf2"), VEC_DE, 2);
    cr4_set(0);
    // The bitmap lies below the I/O map's base, wherever that is: its bytes must be within the TSS.
    u16 iomap = lab_tss.iomap;
    u8 *tss = (u8 *)&lab_tss;
    u32 limit = (u32)*lab_gdt_entry(SEL_TSS) & 0xffff;
    for (u32 vector = 0; vector < 256; vector += 37) {
        for (int over = -2; over < 3; over++) {
            // The vector's byte is the last of the TSS, or that many behind it.
            u32 last = limit + (u32)over;
            lab_tss.iomap = (u16)(last + 32 - vector / 8);
            cr4_set(CR4_VME);
            u8 old = over > 0 ? 0 : tss[last];
            if (over <= 0)
                tss[last] = 0;
            m16_init(&m);
            m.flags = FLAG_VM | 2;
            u8 code[2] = {0xcd, (u8)vector};
            m16_tag[0] = vector;
            m16_tag[1] = (u32)over;
            const struct m16_end *e = m16_do(&m, code, 2);
            cr4_set(0);
            if (over <= 0)
                tss[last] = old;
            lab_tss.iomap = iomap;
            struct m16 there = m;
            there.cs = IVT_CS;
            there.ip = vector * 4;
            if (over > 0)
                m16_expect("bitmap beyond the tss", &m, e, VEC_GP, 0);
            else
                m16_expect("bitmap at the end of the tss", &there, e, VEC_UD, 0);
        }
    }
    for (u32 i = 0; i < 32; i++)
        lab_tss.bitmap[i] = 0xff;
    for (u32 i = 0; i < 256; i++)
        ivt[i] = loader[i];
}

// --- PVI -----------------------------------------------------------------------------------------------------

static u8 code_page[64] __attribute__((aligned(64)));

// Bytes at ring `cpl`, with #UD behind.
static const struct lab_trap *protected_run(u32 cpl, u32 flags, const char *bytes, u32 size,
                                            u32 image)
{
    static u32 stack[64];
    struct lab_state s;

    for (u32 i = 0; i < size; i++)
        code_page[i] = (u8)bytes[i];
    code_page[size] = 0x0f;
    code_page[size + 1] = 0x0b;
    stack[32] = image;
    lab_user_state(&s, (void (*)(void *))(ulong)code_page, 0);
    s.flags = flags | 2;
    s.sp = (ulong)&stack[32];
    s.cs = cpl == 3 ? SEL_CODE3 : cpl == 0 ? SEL_CODE0 : SEL_FREE + 16 * cpl + cpl;
    s.ss = cpl == 3 ? SEL_DATA3 : cpl == 0 ? SEL_DATA0 : s.cs + 8;
    return lab_enter(&s);
}

static void try_pvi(void)
{
    static const u32 cr4s[] = {0, CR4_PVI, CR4_VME, CR4_VME | CR4_PVI};

    for (u32 cpl = 1; cpl < 3; cpl++) {
        *lab_gdt_entry(SEL_FREE + 16 * cpl) = lab_descriptor(0, 0xfffff, 0x9b | cpl << 5, 12);
        *lab_gdt_entry(SEL_FREE + 16 * cpl + 8) = lab_descriptor(0, 0xfffff, 0x93 | cpl << 5, 12);
    }
    lab_section("pvi");
    for (u32 c = 0; c < 4; c++)
        for (u32 cpl = 0; cpl < 4; cpl++)
            for (u32 state = 0; state < 32; state++)
                for (u32 op = 0; op < 4; op++) {
                    static const char *const names[] = {"cli", "sti", "popf", "popfd"};
                    static const char *const bytes[] = {"\xfa", "\xfb", "\x66\x9d", "\x9d"};
                    u32 size = op == 2 ? 2 : 1, iopl = state & 3;
                    u32 flags = iopl << 12 | (state & 4 ? FLAG_IF : 0) |
                                (state & 8 ? FLAG_VIF : 0) | (state & 16 ? FLAG_VIP : 0);
                    bool pvi = cr4s[c] & CR4_PVI && cpl == 3 && iopl < 3, real = cpl <= iopl;
                    bool pending = (state & 24) == 24;
                    // POPF: the image turns IF around.
                    u32 image = ~flags & FLAG_IF, vector = VEC_UD, ip = size, want = flags;
                    if (cr4s[c] & CR4_PVI && cpl == 3 && iopl == 3 && pending)
                        continue; // the manual leaves open whether IOPL counts
                    if (pvi && pending) {
                        vector = VEC_GP, ip = 0;
                    } else if (op < 2) {
                        if (real)
                            want = op ? flags | FLAG_IF : flags & ~FLAG_IF;
                        else if (!pvi || (op && state & 16))
                            vector = VEC_GP, ip = 0;
                        else
                            want = op ? flags | FLAG_VIF : flags & ~FLAG_VIF;
                    } else {
                        // POPF has no virtual interrupts in protected mode; at ring 0 IOPL comes from the image
                        // too, and the 32-bit form clears VIF and VIP there.
                        if (real)
                            want ^= FLAG_IF;
                        if (cpl == 0)
                            want &= ~FLAG_IOPL;
                    }
                    cr4_set(cr4s[c]);
                    const struct lab_trap *t = protected_run(cpl, flags, bytes[op], size, image);
                    cr4_set(0);
                    u32 mask = FLAG_IF | FLAG_IOPL | FLAG_VIP | FLAG_VIF;
                    if (!t || t->vector > 255)
                        continue;
                    if (op > 1 && cpl == 0)
                        mask &= ~(FLAG_VIP | FLAG_VIF);
                    lab_check(t->vector == vector && t->error == 0 &&
                                  t->ip == (ulong)code_page + ip &&
                                  (t->flags & mask) == (want & mask),
                              "%s cr4 %x cpl %u flags %x: vector %u error %x at +%x flags %lx, "
                              "want vector %u "
                              "at +%x flags %x",
                              names[op], cr4s[c], cpl, flags, t->vector, t->error,
                              (u32)t->ip - (u32)(ulong)code_page, t->flags & mask, vector, ip,
                              want & mask);
                }
    *lab_gdt_entry(SEL_FREE + 16) = *lab_gdt_entry(SEL_FREE + 24) = 0;
    *lab_gdt_entry(SEL_FREE + 32) = *lab_gdt_entry(SEL_FREE + 40) = 0;
}

int main(void)
{
    m16_mode = M16_V86;
    out8(0x21, 0xff); // some trials turn interrupts on
    out8(0xa1, 0xff);
    if (!lab_has(1, 0, 3, 1)) {
        lab_note("no VME");
        lab_check(true, "nothing to try");
        return 0;
    }
    try_flags();
    try_pending();
    try_redirection();
    try_pvi();
    return 0;
}
