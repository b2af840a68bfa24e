// SPDX-License-Identifier: Apache-2.0
// Random segment loads, far transfers, returns, gates and system calls in long mode, from 64-bit and
// compatibility code in rings 0 and 3, over random descriptor tables. Exceptions, and INT 40h where a
// transfer may land, go to a trusted stack by IST; one line tells each outcome. The lines are the same on
// every correct processor of one vendor (tests/x86/transfers_test.py).
#include "transfers.h"

enum {
    RANDOM_FIRST = 16,
    RANDOM = 48,
    ENTRIES = RANDOM_FIRST + RANDOM
};
enum {
    CODE0 = 0x08,
    DATA0 = 0x10,
    CODE32_3 = 0x1b,
    DATA3 = 0x23,
    CODE3 = 0x2b,
    CODE32_0 = 0x30
};
enum {
    SEL_TSS = 0x40,
    SEL_LDT = 0x50
};
#define TSS 0x23000
#define TRUSTED_STACK 0x25000

// What a caught exception left on the trusted stack.
struct caught {
    u64 r11, rbx, rdx, rcx, rax, vector, error, rip, cs, rflags, rsp, ss;
};
extern struct caught *caught;
extern u64 start_frame[5], start_regs[5];
extern u16 start_data;
extern char stubs[];
void go(void);

static u16 random_sel(void)
{
    static const u8 good[] = {0x08, 0x10, 0x1b, 0x23, 0x2b, 0x20, 0, 3, 0x30, 0x28, 0x38, 1};
    if (one_in(3))
        return good[rnd() % sizeof(good)];
    if (one_in(10))
        return 4 | (rnd() & 0x3b);
    if (one_in(40))
        return (u16)(0x800 + (rnd() & 0xff));
    u32 rpl = one_in(2) ? 0 : rnd() & 3;
    return (u16)((RANDOM_FIRST + rnd() % RANDOM) * 8 + rpl);
}
static u64 random_offset(void)
{
    static const u64 odd[] = {0x0000800000000000, 0xfffff00000000000, 0xffff7fffffffffff};
    if (one_in(12))
        return odd[rnd() % 3];
    return one_in(20) ? 0xfff0 : one_in(40) ? 0x18000 : 0x8000;
}
static u64 random_stack(void)
{
    static const u64 odd[] = {0x0000800000001008, 0xf000000000000000, 0x0000900000000000};
    if (one_in(16))
        return odd[rnd() % 3];
    return 0x6800 + (one_in(2) ? 0 : rnd() & 15);
}

// One descriptor, or with `upper` possibly a 16-byte one.
static void random_desc(u64 *d, u64 *upper)
{
    static const u32 limits[] = {0xffff, 0xffff, 0x8fff, 0x80ff, 0x6dff, 0x8000};
    u32 dpl = (one_in(3) ? rnd() & 3 : one_in(2) ? 3 : 0) << 5, p = one_in(12) ? 0 : 0x80;
    u32 kind = rnd() % 20;
    u64 odd = one_in(12) ? (u64)rnd() << 40 | 0xff000000 : 0;
    if (kind < 12 || !upper) {
        u32 type = rnd() & 15, full = !one_in(4), limit = full ? 0xfffff : limits[rnd() % 6];
        u32 size = one_in(3) ? 0 : 4;
        if (type & 8)
            size = one_in(2) ? 2 : one_in(8) ? 6 : one_in(2) ? 0 : 4;
        if ((type & 12) == 4) { // expand-down
            limit = one_in(2) ? 0xfff : 0x6fff;
            full = 0;
        }
        *d = desc(0, limit, 0x10 | type | dpl | p, (full ? 8 : 0) | size);
    } else if (kind < 16) {
        u64 off = random_offset();
        u32 sel = random_sel(), type = one_in(10) ? rnd() & 15 : 12;
        *d = gate(sel, (u32)off, type | dpl | p, rnd() & 3);
        *upper = odd | off >> 32;
    } else if (kind < 18) {
        u32 type = one_in(4) ? rnd() & 15 : 9;
        *d = desc(TSS, 0xff, type | dpl | p, 0);
        *upper = one_in(8) ? odd : 0;
    } else {
        u32 type = one_in(8) ? rnd() & 15 : 2;
        *d = desc((u32)(u64)LDT, 63, type | dpl | p, 0);
        *upper = one_in(8) ? odd : 0;
    }
}

static void build_tables(void)
{
    GDT[1] = desc(0, 0xfffff, 0x9b, 0xa);
    GDT[2] = GDT[7] = desc(0, 0xfffff, 0x93, 0xc);
    GDT[3] = desc(0, 0xfffff, 0xfb, 0xc);
    GDT[4] = desc(0, 0xfffff, 0xf3, 0xc);
    GDT[5] = desc(0, 0xfffff, 0xfb, 0xa);
    GDT[6] = desc(0, 0xfffff, 0x9b, 0xc);
    GDT[8] = desc(TSS, 0xff, 0x89, 0);
    GDT[10] = desc((u32)(u64)LDT, 63, 0x82, 0);
    GDT[9] = GDT[11] = 0;
    for (u32 i = RANDOM_FIRST; i < ENTRIES; i += 2) {
        GDT[i] = GDT[i + 1] = 0;
        random_desc(&GDT[i], &GDT[i + 1]);
        if (GDT[i] >> 44 & 1) // a segment: the other half is free
            random_desc(&GDT[i + 1], 0);
    }
    for (int i = 0; i < 8; i++)
        random_desc(&LDT[i], 0);
    for (u32 i = 0; i < 0x70; i++) {
        u64 off = random_offset();
        u32 ist = one_in(4) ? 2 + (rnd() & 1) : 0, sel = one_in(2) ? random_sel() : CODE0;
        u32 type = one_in(10) ? rnd() & 15 : 14 | (rnd() & 1);
        u32 dpl = one_in(3) ? 0 : 0x60, p = one_in(10) ? 0 : 0x80, access = type | dpl | p;
        if (i < 32 || i == 0x40) {
            off = (u64)stubs + (i == 0x40 ? 32 : i) * 16;
            ist = 1;
            sel = CODE0;
            access = i == 0x40 || i == 3 ? 0xee : 0x8e;
        }
        IDT[i * 2] = gate(sel, (u32)off, access, ist);
        IDT[i * 2 + 1] = off >> 32;
    }
    fill(TSS, 0x100, 0);
    for (u32 i = 0; i < 3; i++)
        emit(AT(u8, TSS + 4 + i * 8), random_stack(), 8); // RSP0..2
    emit(AT(u8, TSS + 0x24), TRUSTED_STACK, 8);
    emit(AT(u8, TSS + 0x2c), random_stack(), 8); // IST2, IST3
    emit(AT(u8, TSS + 0x34), random_stack(), 8);
    emit(AT(u8, TSS + 102), one_in(3) ? 104 : one_in(2) ? 0x88 : 0xffff, 2);
    for (u32 i = 104; i < 200; i++)
        *AT(u8, TSS + i) = one_in(2) ? 0 : (u8)rnd();
}

struct choice {
    u32 op, size, compat, cpl;
    u16 sel;
};

static void put_slot(const struct choice *ch, u32 i, u64 v)
{
    emit(AT(u8, 0x6f00 + i * ch->size), v, ch->size);
}

// Writes the instruction under test at 8100h.
static void build_code(struct choice *ch)
{
    static const u8 mov_seg[] = {0xc1, 0xd1, 0xd9, 0xe1, 0xe9};
    u8 *c = AT(u8, 0x8100);
    u32 size = ch->size;
    if (ch->op >= 2 && ch->op <= 10) {
        if (size == 2)
            *c++ = 0x66;
        if (size == 8)
            *c++ = 0x48;
    }
    switch (ch->op) {
    case 0:
    case 1: // MOV seg, ECX
        *c++ = 0x8e;
        *c++ = mov_seg[rnd() % 5];
        break;
    case 2:
    case 3:
    case 4: { // far JMP, CALL [6F20h]
        u32 jump = one_in(2);
        emit(emit(AT(u8, 0x6f20), random_offset(), size), ch->sel, 2);
        *c++ = 0xff;
        *c++ = (u8)(ch->compat ? 0x1d : 0x1c) | (jump ? 0x30 : 0);
        if (!ch->compat)
            *c++ = 0x25;
        c = emit(c, 0x6f20, 4);
        break;
    }
    case 5:
    case 6: { // far RET
        u32 pop = one_in(2) ? 16 : 0;
        put_slot(ch, 0, random_offset());
        put_slot(ch, 1, one_in(3) ? random_sel() : ch->compat ? CODE32_3 : CODE3);
        put_slot(ch, 2 + pop / size, size == 8 ? random_stack() : 0x6e80);
        put_slot(ch, 3 + pop / size, one_in(3) ? random_sel() : DATA3);
        *c++ = pop ? 0xca : 0xcb;
        if (pop)
            c = emit(c, pop, 2);
        break;
    }
    case 7:
    case 8:
    case 9:
    case 10: { // IRET
        u32 flags = random_flags();
        flags |= one_in(4) ? 0x10000 : 0;
        flags |= one_in(6) ? 0x3a0000 : 0;
        put_slot(ch, 0, random_offset());
        put_slot(ch, 1,
                 one_in(3)   ? random_sel()
                 : one_in(3) ? CODE0
                 : one_in(2) ? CODE32_3
                             : CODE3);
        put_slot(ch, 2, flags);
        put_slot(ch, 3, size == 8 ? random_stack() : 0x6e80);
        put_slot(ch, 4, one_in(3) ? random_sel() : one_in(3) ? DATA0 : DATA3);
        *c++ = 0xcf;
        break;
    }
    case 11:
    case 12: // INT n
        *c++ = 0xcd;
        *c++ = (u8)(0x50 + (rnd() & 15));
        break;
    case 13: // LAR, LSL EAX, ECX
        c = emit(c, one_in(2) ? 0xc1020f : 0xc1030f, 3);
        break;
    case 14: // VERR, VERW
        c = emit(c, one_in(2) ? 0xe1000f : 0xe9000f, 3);
        break;
    case 15: // LLDT, LTR
        c = emit(c, one_in(2) ? 0xd1000f : 0xd9000f, 3);
        break;
    case 16: { // POPF
        u32 flags = random_flags();
        put_slot(ch, 0, flags | (one_in(3) ? rnd() & 0x3d0000 : 0));
        if (size == 2)
            *c++ = 0x66;
        *c++ = 0x9d;
        break;
    }
    case 17: // SYSCALL
        c = emit(c, 0x050f, 2);
        break;
    case 18:
    case 19: // SYSRET
        if (size == 8)
            *c++ = 0x48;
        c = emit(c, 0x070f, 2);
        start_regs[1] = random_offset();
        ch->cpl = one_in(6) ? 3 : 0;
        break;
    case 20: // SYSENTER
        c = emit(c, 0x340f, 2);
        break;
    case 21: // SYSEXIT
        if (size == 8)
            *c++ = 0x48;
        c = emit(c, 0x350f, 2);
        start_regs[1] = random_stack();
        start_regs[2] = random_offset();
        ch->cpl = one_in(6) ? 3 : 0;
        break;
    case 22: // SWAPGS
        c = emit(c, 0xf8010f, 3);
        break;
    default: // OUT 80h
        c = emit(c, 0x80e6, 2);
        break;
    }
}

static void wrmsr(u32 msr, u64 v)
{
    __asm__ volatile("wrmsr" ::"c"(msr), "a"((u32)v), "d"((u32)(v >> 32)));
}
static u64 rdmsr(u32 msr)
{
    u32 lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return lo | (u64)hi << 32;
}

static void run(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) gdtr = {ENTRIES * 8 - 1, (u64)GDT}, idtr = {0x70 * 16 - 1, (u64)IDT};
    __asm__ volatile("lgdt %0\n lidt %1\n mov %w2, %%ss\n mov %w2, %%ds\n mov %w2, %%es\n"
                     "mov %w3, %%gs\n ltr %w4" ::"m"(gdtr),
                     "m"(idtr), "r"(DATA0), "r"(0), "r"(SEL_TSS)
                     : "memory");
    __asm__ volatile("lldt %w0" ::"r"(one_in(2) ? SEL_LDT : 0) : "memory");
    wrmsr(0xc0000080, (rdmsr(0xc0000080) & ~UINT64_C(1)) | !one_in(8)); // EFER.SCE
    u64 sysret = one_in(2) ? 0x18 : random_sel(), syscall = one_in(2) ? CODE0 : random_sel();
    wrmsr(0xc0000081, sysret << 48 | syscall << 32 | 0x8000); // STAR
    wrmsr(0xc0000082, one_in(8) ? 0xffff800000000000 : 0x8000);
    wrmsr(0xc0000083, 0x8000);
    wrmsr(0xc0000084, rnd() & 0x47fd5);
    wrmsr(0x174, one_in(4) ? random_sel() : CODE0); // SYSENTER
    wrmsr(0x175, 0x6800);
    wrmsr(0x176, 0x8000);
    __asm__ volatile("mov %0, %%dr7\n mov %1, %%dr6" ::"r"(UINT64_C(0)), "r"(UINT64_C(0xffff0ff0)));
    go();
}

static void print_outcome(u32 n, const struct choice *ch)
{
    const struct caught *c = caught;
    u16 ds, es, fs, gs, tr, ldtr;
    u64 dr6;
    __asm__("mov %%ds, %0\n mov %%es, %1\n mov %%fs, %2\n mov %%gs, %3\n str %4\n sldt %5"
            : "=r"(ds), "=r"(es), "=r"(fs), "=r"(gs), "=r"(tr), "=r"(ldtr));
    __asm__("mov %%dr6, %0" : "=r"(dr6));
    print("#");
    print_number(n);
    print(" op");
    print_number(ch->op);
    print(" ");
    hex(ch->sel, 4);
    hex(ch->cpl, 1);
    hex(ch->size, 1);
    hex(ch->compat, 1);
    hex(c->vector == 32 ? 0x40 : c->vector, 2);
    hex(c->error, 4);
    hex(c->rip, 16);
    hex(c->cs, 4);
    hex(c->rflags, 6);
    hex(c->rsp, 16);
    hex(c->ss, 4);
    const u16 sels[] = {ds, es, fs, gs, tr, ldtr};
    for (u32 i = 0; i < 6; i++)
        hex(sels[i], 4);
    hex(c->rax, 8);
    hex(c->rcx, 16);
    hex(c->rdx, 8);
    hex(c->r11, 8);
    for (u32 i = 0; i < 3; i++)
        hex(rdmsr(0xc0000100 + i), 8);
    hex(dr6, 8);
    hex(hash(GDT, ENTRIES * 8), 8);
    hex(hash(AT(u8, 0x5000), 0x2000), 8);
    print("\n");
}

static void test(u32 n)
{
    start_test(n);
    build_tables();
    fill(0, 0x4000, 0);
    fill(0x5000, 0x2000, 7);
    pave(0x8000, 0x200);
    pave(0xff80, 0x100);
    pave(0x17f80, 0x100);
    struct choice ch;
    ch.op = rnd() % 24;
    ch.compat = one_in(4);
    ch.cpl = one_in(2) ? 3 : 0;
    ch.size = one_in(4) ? 2 : ch.compat || one_in(3) ? 4 : 8;
    ch.sel = random_sel();
    start_regs[0] = rnd();
    start_regs[1] = ch.sel;
    start_regs[2] = rnd();
    start_regs[3] = rnd();
    start_regs[4] = random_flags();
    start_regs[4] |= rnd() << 16 & 0x7d0000;
    build_code(&ch);
    u32 cpl = ch.cpl;
    start_frame[0] = 0x8100;
    start_frame[1] = ch.compat ? (cpl ? CODE32_3 : CODE32_0) : cpl ? CODE3 : CODE0;
    start_frame[2] = random_flags() & ~0x100u;
    start_frame[2] |= one_in(10) ? 0x100 : 0;
    start_frame[3] = 0x6f00;
    start_frame[4] = cpl ? DATA3 : DATA0;
    start_data = cpl ? DATA3 : one_in(2) || ch.compat ? DATA0 : 0;
    run();
    print_outcome(n, &ch);
}

int main(const struct start_info *info)
{
    u32 first, count;
    numbers(info, &first, &count);
    prepare();
    for (u32 i = 0; i < count; i++)
        test(first + i);
    print("END\n");
    return 0;
}
