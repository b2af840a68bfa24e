// SPDX-License-Identifier: Apache-2.0
// Random segment loads, far transfers, returns, gates and task switches in 32-bit protected mode and V86
// mode, from rings 0 and 3, over random descriptor tables and TSSs. Every exception, and INT 40h where a
// transfer may land, is a task gate to a trusted task, so that whatever state a test ends in is caught; one
// line tells it. The lines are the same on every correct processor (tests/x86/transfers_test.py).
#include "transfers.h"

// For GRUB, and so for other machines: multiboot.
__asm__(".section .note.pvh\n.align 4\n.long 0x1badb002, 0, -0x1badb002\n.text\n");

struct tss {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, gpr[8], seg[6], ldt;
    u16 trap, iomap;
    u8 bitmap[32];
};
enum {
    CODE0 = 0x08,
    DATA0 = 0x10,
    CODE3 = 0x1b,
    DATA3 = 0x23,
    SEL_HOME = 0x28,
    SEL_TEST = 0x30
};
enum {
    HANDLERS = 33,
    RANDOM_FIRST = 48,
    RANDOM = 32,
    ENTRIES = RANDOM_FIRST + RANDOM
};
#define HOME AT(struct tss, 0x23000)
#define TEST AT(struct tss, 0x23100)
#define TASK(i) AT(struct tss, 0x23200 + (i)*0x100) // four to be switched to
#define HANDLER(i) AT(struct tss, 0x24000 + (i)*0x100)
#define HANDLER_STACK 0x27ff0

volatile u32 caught_vector, caught_esp, saved_esp;
extern char stubs[];
void go(void);
__asm__(".text\n.align 16\nstubs:\n"
        ".set v, 0\n.rept 33\n.align 16\nmovl $v, caught_vector\njmp caught\n.set v, v + 1\n.endr\n"
        "caught: movl %esp, caught_esp\nmovl saved_esp, %esp\npushl $2\npopfl\npopal\nret\n"
        ".globl go\ngo: pushal\nmovl %esp, saved_esp\nljmp $0x30, $0\n");

static u32 random_sel(void)
{
    static const u8 good[] = {0x08, 0x10, 0x1b, 0x23, 0x18, 0x20, 0, 3, 0x0b, 0x13};
    if (one_in(4))
        return good[rnd() % sizeof(good)];
    if (one_in(10))
        return 4 | (rnd() & 0x3b);
    if (one_in(40))
        return 0x800 + (rnd() & 0xff);
    u32 rpl = one_in(2) ? 0 : rnd() & 3;
    return (RANDOM_FIRST + rnd() % RANDOM) * 8 + rpl;
}
static u32 random_offset(void)
{
    return one_in(20) ? 0xfff0 : one_in(40) ? 0x18000 : 0x8000;
}

static u64 random_desc(void)
{
    static const u32 limits[] = {0xffff, 0xffff, 0x8fff, 0x80ff, 0x6dff, 0x8000};
    static const u32 tss_limits[] = {0x67, 0x67, 0x87, 0x66, 0x2b, 0x2a};
    u32 dpl = (one_in(3) ? rnd() & 3 : one_in(2) ? 3 : 0) << 5, p = one_in(12) ? 0 : 0x80;
    u32 kind = rnd() % 20;
    if (kind < 12) {
        u32 type = rnd() & 15, full = !one_in(4), limit = full ? 0xfffff : limits[rnd() % 6];
        if ((type & 12) == 4) { // expand-down
            limit = one_in(2) ? 0xfff : 0x6fff;
            full = 0;
        }
        return desc(0, limit, 0x10 | type | dpl | p, (full ? 8 : 0) | (one_in(3) ? 0 : 4));
    }
    if (kind < 15) {
        u32 sel = random_sel(), off = random_offset(), type = one_in(3) ? 4 : 12;
        return gate(sel, off, type | dpl | p, rnd() & 3);
    }
    if (kind < 16)
        return gate((RANDOM_FIRST + rnd() % RANDOM) * 8, 0, 5 | dpl | p, 0);
    if (kind < 18) {
        u32 base = (u32)TASK(rnd() & 3);
        if (one_in(6))
            return desc(base, 0x2b, 1 | dpl | p, 0);
        u32 limit = tss_limits[rnd() % 6];
        return desc(base, limit, (one_in(4) ? 11 : 9) | dpl | p, 0);
    }
    if (kind < 19)
        return desc((u32)LDT, 63, 2 | dpl | p, 0);
    u32 type = rnd() & 15, sel = random_sel(), off = random_offset();
    if ((type & 5) == 1) // not a TSS at a random place
        type = 0;
    return gate(sel, off, type | dpl | p, 0);
}

static void random_task(struct tss *t, int trusted)
{
    fill((u32)t, sizeof(*t), 0);
    t->link = random_sel();
    t->esp0 = 0x6800;
    t->esp1 = 0x6700;
    t->esp2 = 0x6600;
    t->ss0 = one_in(6) ? random_sel() : DATA0;
    t->ss1 = random_sel();
    t->ss2 = random_sel();
    t->eip = 0x8000;
    t->eflags = random_flags();
    if (!trusted && one_in(8))
        t->eflags |= 0x20000; // VM
    for (int i = 0; i < 8; i++)
        t->gpr[i] = rnd();
    t->gpr[4] = 0x6e00;
    u32 user = one_in(2);
    for (int i = 0; i < 6; i++)
        t->seg[i] = one_in(3) ? random_sel() : user ? DATA3 : DATA0;
    t->seg[1] = one_in(8) ? random_sel() : user ? CODE3 : CODE0;
    if (!one_in(8))
        t->seg[2] = user ? DATA3 : DATA0;
    if (t->eflags & 0x20000) {
        for (int i = 0; i < 6; i++)
            t->seg[i] = i == 1 ? 0x800 : 0;
        t->eip = 0;
    }
    t->ldt = one_in(8) ? random_sel() : one_in(2) ? 0x38 : 0;
    t->trap = one_in(10);
    t->iomap = one_in(3) ? 104 : one_in(2) ? 0x88 : 0xffff;
    for (int i = 0; i < 32; i++)
        t->bitmap[i] = one_in(2) ? 0 : (u8)rnd();
}

static void build_tables(void)
{
    GDT[1] = desc(0, 0xfffff, 0x9b, 0xc);
    GDT[2] = desc(0, 0xfffff, 0x93, 0xc);
    GDT[3] = desc(0, 0xfffff, 0xfb, 0xc);
    GDT[4] = desc(0, 0xfffff, 0xf3, 0xc);
    GDT[5] = desc((u32)HOME, 0x67, 0x89, 0);
    GDT[6] = desc((u32)TEST, 0x87, 0x89, 0);
    GDT[7] = desc((u32)LDT, 63, 0x82, 0);
    for (int i = 0; i < HANDLERS; i++) {
        struct tss *t = HANDLER(i);
        fill((u32)t, sizeof(*t), 0);
        GDT[8 + i] = desc((u32)t, 0x67, 0x89, 0);
        t->eip = (u32)stubs + (u32)i * 16;
        t->eflags = 2;
        t->gpr[4] = t->esp0 = HANDLER_STACK;
        for (int k = 0; k < 6; k++)
            t->seg[k] = k == 1 ? CODE0 : DATA0;
        t->ss0 = DATA0;
        t->iomap = 104;
    }
    for (int i = 0; i < RANDOM; i++)
        GDT[RANDOM_FIRST + i] = random_desc();
    for (int i = 0; i < 8; i++)
        LDT[i] = random_desc();
    for (u32 i = 0; i < 0x70; i++) {
        if (i < 32 || i == 0x40) {
            u32 dpl = i == 0x40 || i == 3 || i == 4 ? 0x60 : 0;
            IDT[i] = gate((8 + (i == 0x40 ? 32 : i)) * 8, 0, 0x85 | dpl, 0);
        } else if (one_in(8)) {
            IDT[i] = random_desc();
        } else {
            u32 sel = one_in(3) ? random_sel() : CODE0, off = random_offset();
            u32 trap = rnd() & 1, type = one_in(3) ? 6 : 14;
            u32 dpl = one_in(3) ? 0 : 0x60, p = one_in(10) ? 0 : 0x80;
            IDT[i] = gate(sel, off, type | trap | dpl | p, 0);
        }
    }
}

static void put_slot(u32 i, u32 v, u32 size)
{
    emit(AT(u8, 0x6f00 + i * size), v, size);
}

// Writes the instruction under test at 8100h; 0 when this one cannot be caught.
static int build_code(u32 op, u32 small, u32 sel)
{
    static const u8 mov_seg[] = {0xc0, 0xd0, 0xd8, 0xe0, 0xe8};
    u32 size = small ? 2 : 4;
    u8 *c = AT(u8, 0x8100);
    if (small && op >= 2 && op <= 13 && op != 9 && op != 10 && op != 11 && op != 12)
        *c++ = 0x66;
    switch (op) {
    case 0:
    case 1: // MOV AX, sel; MOV seg, AX
        c = emit(c, 0xb866, 2);
        c = emit(c, sel, 2);
        *c++ = 0x8e;
        *c++ = mov_seg[rnd() % 5];
        break;
    case 2:
    case 3: // far JMP, CALL
        *c++ = op == 2 ? 0xea : 0x9a;
        c = emit(c, random_offset(), size);
        c = emit(c, sel, 2);
        break;
    case 4:
    case 5: { // far RET
        u32 pop = one_in(2) ? 8 : 0, at = 2 + pop / size;
        put_slot(0, random_offset(), size);
        put_slot(1, one_in(3) ? random_sel() : CODE3, size);
        put_slot(at, 0x6e80, size);
        put_slot(at + 1, one_in(3) ? random_sel() : DATA3, size);
        *c++ = pop ? 0xca : 0xcb;
        if (pop)
            c = emit(c, pop, 2);
        break;
    }
    case 6:
    case 7:
    case 8: { // IRET
        u32 v86 = !small && one_in(4), flags = random_flags();
        if (one_in(4))
            flags |= 0x10000;
        put_slot(0, v86 ? 0 : random_offset(), size);
        put_slot(1, v86 ? 0x800 : one_in(3) ? random_sel() : one_in(2) ? CODE0 : CODE3, size);
        put_slot(2, flags | (v86 ? 0x20000 : 0), size);
        put_slot(3, 0x6e80, size);
        put_slot(4, v86 ? 0 : one_in(3) ? random_sel() : DATA3, size);
        for (u32 i = 5; i < 9; i++)
            put_slot(i, v86 ? rnd() & 0xff : random_sel(), size);
        *c++ = 0xcf;
        break;
    }
    case 9:
    case 10: // INT n
        *c++ = 0xcd;
        *c++ = (u8)(0x50 + (rnd() & 15));
        break;
    case 11: // MOV ECX, sel; LAR or LSL EAX, ECX
        *c++ = 0xb9;
        c = emit(c, sel, 4);
        c = emit(c, one_in(2) ? 0xc1020f : 0xc1030f, 3);
        break;
    case 12: // VERR, VERW
        *c++ = 0xb9;
        c = emit(c, sel, 4);
        c = emit(c, one_in(2) ? 0xe1000f : 0xe9000f, 3);
        break;
    case 13: { // POPF
        u32 flags = random_flags();
        put_slot(0, flags | (one_in(3) ? rnd() & 0x3d0000 : 0), size);
        *c++ = 0x9d;
        break;
    }
    case 14: // CLI, STI
        *c++ = one_in(2) ? 0xfa : 0xfb;
        break;
    case 15: { // LLDT, LTR
        u32 is_ltr = one_in(2), index = sel >> 3;
        *c++ = 0xb9;
        c = emit(c, sel, 4);
        c = emit(c, is_ltr ? 0xd9000f : 0xd1000f, 3);
        // A TSS too small to leave: no task gate could catch what follows.
        if (index >= RANDOM_FIRST && index < ENTRIES && (GDT[index] >> 40 & 0x15) == 1 &&
            (GDT[index] & 0xffff) < 0x67)
            return 0;
        break;
    }
    case 16: // OUT 80h
        c = emit(c, one_in(2) ? 0x80e6 : 0x80e7, 2);
        break;
    default: { // LES, LDS, LSS, LFS, LGS from [6F20h]
        static const u16 load[] = {0x05c4, 0x05c5, 0xb20f, 0xb40f, 0xb50f};
        u32 which = rnd() % 5;
        *AT(u32, 0x6f20) = 0x1234;
        *AT(u32, 0x6f24) = sel;
        c = emit(c, load[which], 2);
        if (which >= 2)
            *c++ = 0x05;
        c = emit(c, 0x6f20, 4);
        break;
    }
    }
    return 1;
}

static void run(void)
{
    struct {
        u16 limit;
        u32 base;
    } __attribute__((packed)) gdtr = {ENTRIES * 8 - 1, (u32)GDT}, idtr = {0x70 * 8 - 1, (u32)IDT};
    __asm__ volatile("lgdt %0\n lidt %1\n lldt %w2\n ltr %w3" ::"m"(gdtr), "m"(idtr), "r"(0),
                     "r"(SEL_HOME)
                     : "memory");
    __asm__ volatile("mov %0, %%dr7\n mov %1, %%dr6\n clts" ::"r"(0), "r"(0xffff0ff0) : "memory");
    go();
}

static void test(u32 n)
{
    start_test(n);
    build_tables();
    random_task(TEST, 1);
    for (int i = 0; i < 4; i++)
        random_task(TASK(i), 0);
    u32 cpl = one_in(2) ? 3 : 0, trap = one_in(10);
    TEST->eip = 0x8100;
    TEST->trap = 0;
    TEST->ldt = one_in(2) ? 0x38 : 0;
    TEST->eflags = (TEST->eflags & ~0x100u) | trap << 8;
    for (int i = 0; i < 6; i++)
        TEST->seg[i] = i == 1 ? (cpl ? CODE3 : CODE0) : cpl ? DATA3 : DATA0;
    TEST->gpr[4] = 0x6f00;
    fill(0, 0x4000, 0);
    fill(0x5000, 0x2000, 7);
    pave(0x8000, 0x200);
    pave(0xff80, 0x100);
    pave(0x17f80, 0x100);
    u32 op = rnd() % 18, small = one_in(4), sel = random_sel(), dr6;
    if (!build_code(op, small, sel))
        return;
    run();

    __asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
    u32 link = HANDLER(caught_vector)->link, index = (link >> 3) % ENTRIES;
    struct tss *from =
        AT(struct tss, (u32)(GDT[index] >> 16 & 0xffffff) | (u32)(GDT[index] >> 56 << 24));
    print("#");
    print_number(n);
    print(" op");
    print_number(op);
    print(" ");
    hex(sel, 4);
    hex(cpl, 1);
    hex(small, 1);
    hex(caught_vector == 32 ? 0x40 : caught_vector, 2);
    if (caught_esp != HANDLER_STACK)
        hex(*AT(u32, HANDLER_STACK - 4), 4);
    else
        print("---- ");
    hex(link, 4);
    if (GDT[index] >> 40 & 8) {
        hex(from->eip, 8);
        hex(from->eflags, 8);
        for (int i = 0; i < 6; i++)
            hex(from->seg[i] & 0xffff, 4);
        hex(from->gpr[4], 8);
        hex(from->gpr[0], 8);
        hex(from->gpr[1], 8);
    } else {
        for (int i = 7; i < 22; i++)
            hex(((u16 *)from)[i], 4);
    }
    hex(dr6, 8);
    hex(hash(GDT, ENTRIES * 8), 8);
    hex(hash(AT(u8, 0x5000), 0x2000), 8);
    hex(hash(TASK(0), 0x400), 8);
    print("\n");
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
