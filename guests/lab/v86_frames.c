// SPDX-License-Identifier: Apache-2.0
// Out of V86 mode to ring 0 and back: gates, the frame of nine words, IRET, task switches, SYSENTER (SDM vol. 3, 20.2
// and 20.3; vol. 2, INT n and IRET).
//
// Rules to keep: what a gate of 16 bits reaches lies below 64 KiB: at LOW_HANDLER there is UD2, which in ring 0 ends
// the run with the state that the gate left.
#include "v86.h"

#define LOW_HANDLER 0x7000

// --- frames and flags ----------------------------------------------------------------------------------

static u32 can_change(void) // AC and ID, where the processor has them
{
    ulong old = lab_flags(), can;
    __asm__ volatile("push %1; popf; pushf; pop %0; push %2; popf"
                     : "=&r"(can)
                     : "r"(old | FLAG_AC | FLAG_ID), "r"(old)
                     : "memory");
    return (u32)can & (FLAG_AC | FLAG_ID);
}

static void try_frames(void)
{
    static const struct {
        const char *name, *bytes;
        u8 size, vector, at;
        bool error;
    } events[] = {{"int 80h", "\xcd\x80", 2, VEC_LAB, 2, false},
                  {"ud2", "\x0f\x0b", 2, VEC_UD, 0, false},
                  {"hlt", "\xf4", 1, VEC_GP, 0, true},
                  {"int3", "\xcc", 1, VEC_BP, 1, false},
                  {"div", "\x31\xd2\xf7\xf2", 4, VEC_DE, 2, false},
                  {"ss", "\x36\xa1\xff\xff", 4, VEC_SS, 0, true}};
    u32 can = can_change();

    lab_section("frame");
    for (u32 i = 0; i < sizeof(events) / sizeof(events[0]); i++)
        for (u32 k = 0; k < 64; k++) {
            u32 flags = FLAG_VM | 2 | FLAG_IOPL | (k & 1 ? 0x8d5 & ~FLAG_OF : 0) |
                        (k & 2 ? FLAG_NT : 0) | (k & 4 ? FLAG_VIF : 0) | (k & 8 ? can : 0) |
                        (k & 16 ? FLAG_IF : 0) | (k & 32 ? FLAG_VIP : 0);
            struct m16 m;
            m16_init(&m);
            m.flags = flags;
            m.gpr[SP] = 0xdead8000; // pushed in full
            const struct m16_end *e = m16_do(&m, events[i].bytes, events[i].size);
            m16_tag[0] = k;
            if (!m16_expect(events[i].name, &m, e, events[i].vector, events[i].at) || e->skipped)
                continue;
            u32 status = events[i].vector == VEC_DE ? 0x8d5 : 0; // XOR changed them
            bool fault = events[i].vector != VEC_LAB && events[i].vector != VEC_BP;
            u32 want = flags | (fault ? FLAG_RF : 0);
            lab_check((e->at.flags | status) == (want | status), "%s: flags %x, want %x",
                      events[i].name, e->at.flags, want);
            lab_check(e->at.gpr[SP] == 0xdead8000 && e->at.ss == m.ss && e->at.ds == m.ds &&
                          e->at.es == m.es && e->at.fs == m.fs && e->at.gs == m.gs,
                      "%s: registers in the frame", events[i].name);
            // Nine words below ESP0, and the handler's data segments are null.
            lab_equal(events[i].name, m16_trap->frame + 4, lab_tss.esp0 - 36);
            const u32 *saved = (const u32 *)(m16_trap->frame - 13 * 4);
            lab_check(!(saved[0] & 0xffff) && !(saved[1] & 0xffff) && !(saved[2] & 0xffff) &&
                          !(saved[3] & 0xffff),
                      "%s: data segments in the handler %x %x %x %x", events[i].name, saved[0],
                      saved[1], saved[2], saved[3]);
        }
    // EFLAGS in the handler: VM, RF, NT and TF are 0; IF for an interrupt gate.
    lab_section("handler's flags");
    for (u32 trap = 0; trap < 2; trap++)
        for (u32 k = 0; k < 32; k++) {
            u32 flags = FLAG_VM | 2 | FLAG_IOPL | (k & 1 ? 0x8d5 : 0) | (k & 2 ? FLAG_NT : 0) |
                        (k & 4 ? FLAG_IF : 0) | (k & 8 ? can : 0) | (k & 16 ? FLAG_VIF : 0);
            struct m16 m;
            m16_init(&m);
            m.flags = flags;
            m16_put16(0, LOW_HANDLER, 0x0b0f);
            lab_gate_set(&lab_idt[0x81], LOW_HANDLER, SEL_CODE0, trap ? 0xef : 0xee, 0);
            const struct m16_end *e = M16_DO(&m, "\xcd\x81");
            lab_gate_default(0x81);
            m16_tag[0] = k;
            m16_tag[1] = trap;
            if (e->skipped)
                continue;
            u32 want = flags & ~(FLAG_VM | FLAG_NT | (trap ? 0 : FLAG_IF));
            lab_check(e->vector == VEC_UD && e->at.cs == SEL_CODE0 && e->at.ip == LOW_HANDLER &&
                          (e->at.flags & ~FLAG_RF) == want,
                      "flags %x trap %u: vector %u at %x:%x flags %x, want %x", flags, trap,
                      e->vector, e->at.cs, e->at.ip, e->at.flags & ~FLAG_RF, want);
        }
}

// --- gates -----------------------------------------------------------------------------------------------

// What delivers: `soft` checks the gate's DPL and has no EXT (INT n, INT3, INTO); a contributory exception that
// meets another is #DF.
static const struct event {
    const char *name, *bytes;
    u8 size, vector, at; // saved IP, when it is delivered
    bool soft, contributory;
} events[] = {
    {"int 81h", "\xcd\x81", 2, 0x81, 2, true, false},
    {"int3", "\xcc", 1, VEC_BP, 1, true, false},
    {"into", "\xce", 1, VEC_OF, 1, true, false},
    {"icebp", "\xf1", 1, VEC_DB, 1, false, false},
    {"bound", "\x62\x06\x00\x10", 4, VEC_BR, 0, false, false},
    {"div", "\xf6\xf1", 2, VEC_DE, 0, false, true},
};

// Targets: SEL_FREE + 8i
static const struct target {
    const char *name;
    u32 access;
} targets[] = {
    {"code dpl 0", 0x9b},
    {"code dpl 1", 0xbb},
    {"code dpl 2", 0xdb},
    {"code dpl 3", 0xfb},
    {"conforming dpl 0", 0x9f},
    {"conforming dpl 1", 0xbf},
    {"conforming dpl 3", 0xff},
    {"absent dpl 0", 0x1b},
    {"absent dpl 3", 0x7b},
    {"absent conforming", 0x1f},
    {"data", 0x93},
    {"tss", 0x89},
    {"execute only", 0x99},
};

static u32 gate_rule(const struct event *ev, u32 type, u32 dpl, bool present, u32 sel, u32 access,
                     u32 *error)
{
    u32 ext = !ev->soft, vector;
    if ((type & 7) != 6 && (type & 7) != 7)
        vector = VEC_GP, *error = ev->vector * 8u + 2 + ext;
    else if (ev->soft && dpl < 3)
        vector = VEC_GP, *error = ev->vector * 8u + 2;
    else if (!present)
        vector = VEC_NP, *error = ev->vector * 8u + 2 + ext;
    else if ((sel & 0xfffc) == 0)
        vector = VEC_GP, *error = ext;
    else if ((access & 0x18) != 0x18)
        vector = VEC_GP, *error = (sel & 0xfffc) + ext;
    else if (!(access & 0x80))
        vector = VEC_NP, *error = (sel & 0xfffc) + ext;
    else if (access & 4 || access & 0x60)
        vector = VEC_GP, *error = (sel & 0xfffc) + ext;
    else
        return 0;
    if (ev->contributory)
        vector = VEC_DF, *error = 0;
    return vector;
}

static void try_gate(const struct event *ev, u32 type, u32 dpl, bool present, u32 sel, u32 access)
{
    u32 error = 0, vector = gate_rule(ev, type, dpl, present, sel, access, &error);
    struct m16 m;

    m16_init(&m);
    m.flags |= FLAG_OF;
    m.gpr[AX] = 0x7fff; // outside of the bounds; too large for CL
    m.gpr[CX] = 1;
    m16_put32(m.ds, 0x1000, 0);
    m16_put16(0, LOW_HANDLER, 0x0b0f);
    lab_gate_set(&lab_idt[ev->vector], LOW_HANDLER, (u16)sel, (u8)(present << 7 | dpl << 5 | type),
                 0);
    const struct m16_end *e = m16_do(&m, ev->bytes, ev->size);
    lab_gate_default(ev->vector);
    if (e->skipped)
        return;
    if (vector) {
        lab_check(e->vector == vector && e->error == error && e->at.cs == m.cs &&
                      e->at.ip == m.ip && e->at.flags & FLAG_VM,
                  "%s type %x dpl %u p %u selector %x (%x): vector %u error %x at %x:%x, want "
                  "vector %u error %x",
                  ev->name, type, dpl, present, sel, access, e->vector, e->error, e->at.cs,
                  e->at.ip, vector, error);
        return;
    }
    u32 frame = type & 8 ? 36 : 18, at = lab_tss.esp0 - frame, eip, cs, flags, esp;
    lab_check(e->vector == VEC_UD && e->at.cs == (sel & 0xfffc) && e->at.ip == LOW_HANDLER &&
                  e->at.gpr[SP] == at,
              "%s type %x dpl %u selector %x: vector %u error %x at %x:%x sp %x, want sp %x",
              ev->name, type, dpl, sel, e->vector, e->error, e->at.cs, e->at.ip, e->at.gpr[SP], at);
    if (e->vector != VEC_UD)
        return;
    // The frame of a 16-bit gate has nine words of 16 bits: VM is lost.
    u32 slot = frame / 9, seg[5];
    const u8 *f = (const u8 *)(ulong)at;
    u32 words[9];
    for (u32 i = 0; i < 9; i++) {
        words[i] = *(const u16 *)(f + i * slot);
        if (slot == 4 && (i == 0 || i == 2 || i == 3))
            words[i] = *(const u32 *)(f + i * slot);
    }
    eip = words[0], cs = words[1], flags = words[2] & ~FLAG_RF, esp = words[3];
    for (u32 i = 0; i < 5; i++)
        seg[i] = words[4 + i];
    lab_check(eip == m.ip + ev->at && cs == m.cs && esp == m.gpr[SP] && seg[0] == m.ss &&
                  seg[1] == m.es && seg[2] == m.ds && seg[3] == m.fs && seg[4] == m.gs &&
                  flags == (slot == 4 ? m.flags : m.flags & 0xffff),
              "%s type %x: frame %x:%x flags %x sp %x:%x es %x ds %x fs %x gs %x", ev->name, type,
              cs, eip, flags, seg[0], esp, seg[1], seg[2], seg[3], seg[4]);
}

static void try_gates(void)
{
    lab_section("gates");
    for (u32 i = 0; i < sizeof(targets) / sizeof(targets[0]); i++)
        *lab_gdt_entry(SEL_FREE + i * 8) = targets[i].access == 0x89
                                               ? lab_descriptor(0, 0x67, 0x89, 0)
                                               : lab_descriptor(0, 0xfffff, targets[i].access, 12);
    for (u32 v = 0; v < sizeof(events) / sizeof(events[0]); v++)
        for (u32 type = 0; type < 16; type++)
            for (u32 dpl = 0; dpl < 4; dpl++)
                for (u32 present = 0; present < 2; present++) {
                    if (type == 5)
                        continue; // task gates: below
                    bool gate = (type & 6) == 6;
                    for (u32 i = 0; i < (gate ? sizeof(targets) / sizeof(targets[0]) : 1); i++)
                        for (u32 rpl = 0; rpl < 4; rpl += 3)
                            try_gate(&events[v], type, dpl, present, SEL_FREE + i * 8 + rpl,
                                     targets[i].access);
                    if (gate)
                        try_gate(&events[v], type, dpl, present, dpl & 1 ? 3 : 0, 0);
                }
    for (u32 i = 0; i < sizeof(targets) / sizeof(targets[0]); i++)
        *lab_gdt_entry(SEL_FREE + i * 8) = 0;
}

// --- IRET ----------------------------------------------------------------------------------------------------

static void try_entry(void)
{
    struct m16 m;
    const struct m16_end *e;
    u32 can = can_change();

    lab_section("iret to v86");
    // Every flag of the image counts (CPL 0); selectors are taken as they are.
    for (u32 bit = 0; bit < 22; bit++) {
        m16_init(&m);
        m.flags = (FLAG_VM | 2 | 1u << bit) & ~FLAG_TF;
        u32 want = m.flags & (0x7fd7 | FLAG_VM | FLAG_VIF | FLAG_VIP | can) & ~0x28u;
        m.ds = (u16)(3 * bit), m.es = 0xffff, m.fs = 3, m.gs = 0x8001;
        e = M16_DO(&m, "\x90");
        m16_tag[0] = bit;
        if (m16_expect_ran("flags", &m, e, 1) && !e->skipped) {
            lab_check((e->at.flags & ~FLAG_RF) == want, "image %x: %x, want %x", m.flags,
                      e->at.flags & ~FLAG_RF, want);
            lab_check(e->at.ds == m.ds && e->at.es == 0xffff && e->at.fs == 3 && e->at.gs == 0x8001,
                      "selectors %x %x %x %x", e->at.ds, e->at.es, e->at.fs, e->at.gs);
        }
    }
    // EIP beyond FFFFh: #GP(0) of the IRET in ring 0.
    static const u32 ips[] = {0x10000, 0x10001, 0x80000000, 0xffffffff};
    for (u32 i = 0; i < 4; i++) {
        m16_init(&m);
        m.ip = ips[i];
        e = m16_run(&m);
        if (!e->skipped)
            lab_check(e->vector == VEC_GP && e->error == 0 && e->at.cs == SEL_CODE0 &&
                          !(e->at.flags & FLAG_VM),
                      "eip %x: vector %u error %x at %x:%x", ips[i], e->vector, e->error, e->at.cs,
                      e->at.ip);
    }
    // VM in the image of an IRET at CPL 1 to 3 is ignored, and so it is in POPFD's at every CPL.
    static u8 code[] = {0x9d, 0xcf, 0x0f, 0x0b}; // popfd; iretd; ud2
    static u32 stack[64];
    for (u32 cpl = 1; cpl < 4; cpl++) {
        *lab_gdt_entry(SEL_FREE + 16 * cpl) = lab_descriptor(0, 0xfffff, 0x9b | cpl << 5, 12);
        *lab_gdt_entry(SEL_FREE + 16 * cpl + 8) = lab_descriptor(0, 0xfffff, 0x93 | cpl << 5, 12);
        struct lab_state s;
        lab_user_state(&s, (void (*)(void *))(ulong)code, 0);
        s.cs = SEL_FREE + 16 * cpl + cpl;
        s.ss = s.cs + 8;
        s.ip = (ulong)code;
        s.sp = (ulong)&stack[32];
        stack[32] = FLAG_VM | FLAG_VIF | FLAG_VIP | 2;
        stack[33] = (u32)(ulong)code + 2;
        stack[34] = s.cs;
        stack[35] = FLAG_VM | FLAG_VIF | FLAG_VIP | 2 | FLAG_CF;
        const struct lab_trap *t = lab_enter(&s);
        if (t && t->vector < 256)
            lab_check(t->vector == VEC_UD && t->ip == (ulong)code + 2 &&
                          (t->flags & (FLAG_VM | FLAG_VIF | FLAG_VIP | FLAG_CF)) == FLAG_CF,
                      "cpl %u: vector %u at %lx:%lx flags %lx", cpl, t->vector, t->cs, t->ip,
                      t->flags);
    }
    for (u32 i = 0; i < 8; i++)
        *lab_gdt_entry(SEL_FREE + 8 * i) = 0;
}

// --- debugging ------------------------------------------------------------------------------------------------

static void try_debug(void)
{
    struct m16 m;
    const struct m16_end *e;

    lab_section("debugging");
    // TF: a step after one instruction; MOV SS defers it by one.
    m16_init(&m);
    m.flags |= FLAG_TF;
    m16_expect("step", &m, M16_DO(&m, "\x90\x90\x90"), VEC_DB, 1);
    lab_check(m16_trap && m16_trap->dr6 & 0x4000, "bs");
    m16_init(&m);
    m.flags |= FLAG_TF;
    m.gpr[AX] = m.ss;
    m16_expect("step over mov ss", &m, M16_DO(&m, "\x8e\xd0\x90\x90"), VEC_DB, 3);
    m16_init(&m);
    m16_put16(m.ss, 0x8000, FLAG_TF | 2);
    m16_expect("step after popf", &m, M16_DO(&m, "\x9d\x90\x90"), VEC_DB, 2);
    // INT n at IOPL 3 clears TF before a step could come; the image has it.
    m16_init(&m);
    m.flags |= FLAG_TF;
    e = M16_DO(&m, "\xcd\x80");
    m16_expect("int with tf", &m, e, VEC_LAB, 2);
    if (!e->skipped)
        lab_equal("image", e->at.flags & FLAG_TF, FLAG_TF);
    // Breakpoints are linear addresses. An instruction breakpoint is a fault, and RF holds it back.
    lab_set_dr6(0xffff0ff0);
    m16_init(&m);
    lab_set_dr0((u32)m.cs * 16 + m.ip + 1);
    lab_set_dr7(0x402);
    e = M16_DO(&m, "\x90\x40\x40");
    m16_expect("breakpoint", &m, e, VEC_DB, 1);
    lab_check(e->skipped || (m16_trap->dr6 & 0x400f) == 1, "dr6");
    m16_init(&m);
    lab_set_dr0((u32)m.cs * 16 + m.ip);
    e = M16_DO(&m, "\x40\x90");
    m16_expect("breakpoint on entry", &m, e, VEC_DB, 0);
    m.flags |= FLAG_RF;
    e = M16_DO(&m, "\x40\x90");
    m16_expect("rf", &m, e, VEC_UD, 2);
    // A data breakpoint is a trap: two bytes written at DS:1000h.
    m16_init(&m);
    lab_set_dr0((u32)m.ds * 16 + 0x1000);
    lab_set_dr7(0x00050402);
    e = M16_DO(&m, "\xa3\x00\x10\x90");
    m16_expect("data breakpoint", &m, e, VEC_DB, 3);
    e = M16_DO(&m, "\xa1\x00\x10\x90");
    m16_expect("data breakpoint, read", &m, e, VEC_UD, 4);
    lab_set_dr7(0x400);
    lab_set_dr0(0);
    lab_set_dr6(0xffff0ff0);
}

// --- ports ------------------------------------------------------------------------------------------------------

// Only the I/O map counts, whatever IOPL is (20.2.8.1). Port A0h and up are not touched: the lab's map refuses all
// but what is opened here, and ports 80h to 8Fh are the DMA pages'.
static void try_ports(void)
{
    lab_section("ports");
    for (u32 iopl = 0; iopl < 4; iopl += 3)
        for (u32 open = 0; open < 64; open++)
            for (u32 size = 0; size < 3; size++)
                for (u32 op = 0; op < 4; op++) {
                    // Ports 84h to 89h: six bits of the map, over the border of two bytes.
                    u32 bytes = 1u << size, n = 0;
                    u8 code[4];
                    struct m16 m;
                    if (op > 1 && open & 0x24)
                        continue;
                    u8 *map = lab_tss.bitmap + 32 + 0x80 / 8;
                    u16 bits = (u16)(0xffff & ~(open << 4));
                    map[0] = (u8)bits;
                    map[1] = (u8)(bits >> 8);
                    m16_iopl = iopl;
                    m16_init(&m);
                    m.gpr[DX] = 0x86;
                    m.gpr[SI] = m.gpr[DI] = 0x1000;
                    if (size == 2)
                        code[n++] = 0x66;
                    if (op < 2) {
                        code[n++] = (u8)(0xec | op << 1 | (size > 0)); // in, out
                    } else {
                        code[n++] = (u8)(0x6c | (op - 2) << 1 | (size > 0)); // ins, outs
                    }
                    bool ok = true;
                    for (u32 b = 0; b < bytes; b++)
                        if (2 + b >= 6 || !(open >> (2 + b) & 1))
                            ok = false;
                    m16_tag[0] = iopl;
                    m16_tag[1] = open;
                    m16_tag[2] = size << 4 | op;
                    const struct m16_end *e = m16_do(&m, code, n);
                    m16_expect("port", &m, e, ok ? VEC_UD : VEC_GP, ok ? n : 0);
                }
    m16_iopl = 3;
    lab_tss.bitmap[32 + 16] = lab_tss.bitmap[32 + 17] = 0xff;
}

// --- tasks ------------------------------------------------------------------------------------------------------

static struct lab_tss task __attribute__((aligned(256)));

static void switch_to(void *argument)
{
    (void)argument;
    __asm__ volatile("ljmp %0, $0" : : "i"(SEL_FREE) : "memory");
}

static void try_tasks(void)
{
    struct m16 m;

    lab_section("task with vm");
    for (u32 bit = 0; bit < 22; bit++) {
        // VM in the EFLAGS image: the selectors are V86 mode's (SDM vol. 3, 20.2.5).
        if (bit == 8 || bit == 3 || bit == 5 || bit == 15 || bit == 14)
            continue;
        m16_init(&m);
        m.flags = (FLAG_VM | 2 | FLAG_IOPL) ^ (bit == 17 ? 0 : 1u << bit);
        M16_CODE(&m, "\x8c\xd8\x90");
        task = (struct lab_tss){.esp0 = lab_tss.esp0,
                                .ss0 = SEL_DATA0,
                                .cr3 = (u32)lab_cr3(),
                                .eip = m.ip,
                                .eflags = m.flags,
                                .es = m.es,
                                .cs = m.cs,
                                .ss = m.ss,
                                .ds = m.ds,
                                .fs = m.fs,
                                .gs = m.gs,
                                .iomap = 0xffff};
        for (u32 i = 0; i < 8; i++)
            task.gpr[i] = m.gpr[i];
        *lab_gdt_entry(SEL_FREE) = lab_descriptor((u32)(ulong)&task, 0x67, 0x89, 0);
        const struct lab_trap *t = lab_try(switch_to, 0);
        if (t && t->vector < 256) {
            u32 can = can_change();
            u32 want = 2 | (m.flags & (0x7fd5 | FLAG_VM | FLAG_VIF | FLAG_VIP | can));
            lab_check(t->vector == VEC_UD && t->cs == m.cs && t->ip == m.ip + 3 && t->ss == m.ss &&
                          t->sp == m.gpr[SP] && t->ds == m.ds && t->es == m.es && t->fs == m.fs &&
                          t->gs == m.gs && (t->gpr[AX] & 0xffff) == m.ds &&
                          (t->flags & ~FLAG_RF) == want,
                      "task: vector %u error %x at %lx:%lx flags %lx (want %x) sp %lx:%lx",
                      t->vector, t->error, t->cs, t->ip, t->flags, want, t->ss, t->sp);
            lab_equal("frame", t->frame + 4, task.esp0 - 36);
        } else if (!t) {
            lab_check(false, "the task switch returned");
        }
        *lab_gdt_entry(SEL_TSS) &= ~((u64)2 << 40);
        __asm__ volatile("ltr %w0; clts" : : "r"(SEL_TSS) : "memory");
    }
    // A task gate out of V86 mode, and the nested task's IRET back into it.
    static u32 stack[64];
    static const u8 back[] = {0xcf, 0x0f, 0x0b}; // iretd
    for (u32 iopl = 0; iopl < 4; iopl += 3) {
        m16_iopl = iopl;
        m16_init(&m);
        for (u32 i = 0; i < sizeof(back); i++)
            *m16_at(0, LOW_HANDLER + i) = back[i];
        task = (struct lab_tss){.esp0 = lab_tss.esp0,
                                .ss0 = SEL_DATA0,
                                .cr3 = (u32)lab_cr3(),
                                .eip = LOW_HANDLER,
                                .eflags = 2,
                                .es = SEL_DATA0,
                                .cs = SEL_CODE0,
                                .ss = SEL_DATA0,
                                .ds = SEL_DATA0,
                                .iomap = 0xffff};
        task.gpr[SP] = (u32)(ulong)&stack[60];
        *lab_gdt_entry(SEL_FREE) = lab_descriptor((u32)(ulong)&task, 0x67, 0x89, 0);
        lab_gate_set(&lab_idt[VEC_BP], 0, SEL_FREE, 0xe5, 0);
        const struct m16_end *e = M16_DO(&m, "\xcc\x40");
        lab_gate_default(VEC_BP);
        m16_tag[0] = iopl;
        if (m16_expect("task gate and back", &m, e, VEC_UD, 2) && !e->skipped) {
            lab_check(e->at.ds == m.ds && e->at.es == m.es && e->at.gs == m.gs &&
                          e->at.gpr[SP] == m.gpr[SP] && e->at.gpr[AX] == m.gpr[AX] + 1 &&
                          (e->at.flags & FLAG_IOPL) == iopl << 12 && !(e->at.flags & FLAG_NT),
                      "task gate: state: flags %x ax %x", e->at.flags, e->at.gpr[AX]);
            // The outgoing V86 task was saved with VM; the gate's task had NT, which its IRET cleared.
            lab_equal("saved vm", lab_tss.eflags & FLAG_VM, FLAG_VM);
            lab_equal("nt", task.eflags & FLAG_NT, 0);
            lab_equal("link", task.link & 0xffff, SEL_TSS);
        }
        __asm__ volatile("clts");
    }
    m16_iopl = 3;
    *lab_gdt_entry(SEL_FREE) = 0;
}

// SYSENTER is not refused in V86 mode: it leaves it (SDM SYSENTER: VM, IF and RF are cleared).
static void try_sysenter(void)
{
    struct m16 m;
    const struct m16_end *e;
    static u32 stack[64];

    if (!lab_has(1, 0, 3, 11))
        return;
    lab_section("sysenter");
    lab_wrmsr(0x174, 0);
    m16_init(&m);
    m16_expect("no selector", &m, M16_DO(&m, "\x0f\x34"), VEC_GP, 0);
    m16_expect("sysexit", &m, M16_DO(&m, "\x0f\x35"), VEC_GP, 0);
    lab_wrmsr(0x174, SEL_CODE0);
    lab_wrmsr(0x175, (u32)(ulong)&stack[60]);
    lab_wrmsr(0x176, LOW_HANDLER);
    m16_put16(0, LOW_HANDLER, 0x0b0f);
    m.flags |= FLAG_IF;
    e = M16_DO(&m, "\x0f\x34");
    if (!e->skipped)
        lab_check(e->vector == VEC_UD && e->at.cs == SEL_CODE0 && e->at.ip == LOW_HANDLER &&
                      e->at.gpr[SP] == (u32)(ulong)&stack[60] &&
                      !(e->at.flags & (FLAG_VM | FLAG_IF)),
                  "sysenter: vector %u at %x:%x sp %x flags %x", e->vector, e->at.cs, e->at.ip,
                  e->at.gpr[SP], e->at.flags);
    m16_expect("sysexit", &m, M16_DO(&m, "\x0f\x35"), VEC_GP, 0);
    lab_wrmsr(0x174, 0);
}

// An external interrupt: IF alone decides, not IOPL; a trap's image without RF. The timer of the PC, through the 8259.
static void try_interrupt(void)
{
    lab_section("external interrupt");
    for (u32 iopl = 0; iopl < 4; iopl++) {
        struct m16 m;
        // Interrupt controller: vectors 20h and up, IRQ 0 alone; timer channel 0: one shot of 1000 ticks.
        out8(0x20, 0x11), out8(0x21, 0x20), out8(0x21, 4), out8(0x21, 1), out8(0x21, 0xfe);
        out8(0x43, 0x30), out8(0x40, 0xe8), out8(0x40, 0x03);
        m16_iopl = iopl;
        m16_init(&m);
        m.flags |= FLAG_IF;
        m16_tag[0] = iopl;
        const struct m16_end *e = M16_DO(&m, "\xeb\xfe"); // jmp to itself
        if (m16_expect("timer", &m, e, 0x20, 0) && !e->skipped)
            lab_equal("flags", e->at.flags, m.flags);
        out8(0x20, 0x20);
        out8(0x21, 0xff);
    }
    m16_iopl = 3;
}

void v86_frame_cases(void)
{
    try_frames();
    try_gates();
    try_entry();
    try_debug();
    try_ports();
    try_tasks();
    try_sysenter();
    try_interrupt();
}
