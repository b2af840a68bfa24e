// SPDX-License-Identifier: Apache-2.0
// The I/O permission bit map (SDM vol. 1, 19.5.2): who needs it, which bits count, and where it ends. The
// processor reads the two bytes that hold the port's bit and the next; both have to be within a 32-bit TSS. Ports
// 500h to 5FFh and 100h to 1FFh are nobody's here (reading them does no harm).
#include "tasks.h"

SNIPPET(io_in8, "inb %dx, %al");
SNIPPET(io_in16, "inw %dx, %ax");
SNIPPET(io_in32, "inl %dx, %eax");
SNIPPET(io_ins8, "insb");
SNIPPET(io_ins16, "insw");
SNIPPET(io_ins32, "insl");
SNIPPET(io_outs8, "outsb");
SNIPPET(io_outs16, "outsw");
SNIPPET(io_outs32, "outsl");
static const struct {
    const char *snippet, *name;
    u32 size;
} accesses[] = {{io_in8, "in8", 1},     {io_in16, "in16", 2},     {io_in32, "in32", 4},
                {io_ins8, "ins8", 1},   {io_ins16, "ins16", 2},   {io_ins32, "ins32", 4},
                {io_outs8, "outs8", 1}, {io_outs16, "outs16", 2}, {io_outs32, "outs32", 4}};
#define ACCESSES (sizeof(accesses) / sizeof(accesses[0]))

static struct {
    struct lab_tss tss;
    u8 more[0x2100];
} big __attribute__((aligned(4096)));
static u8 *const bytes = (u8 *)&big;
static u8 cell[8];

static void load_tss(u32 kind, u32 limit)
{
    *lab_gdt_entry(SEL_A) = lab_descriptor((u32)(ulong)&big, limit, 0x80 | kind, 0);
    __asm__ volatile("ltr %w0" : : "r"(SEL_A));
}

static u32 io_run(u32 n, u32 cpl, u32 iopl, u32 port)
{
    ring_prepare(cpl, accesses[n].snippet);
    ring_state.gpr[2] = port;
    ring_state.gpr[6] = ring_state.gpr[7] = (ulong)cell;
    ring_state.flags |= iopl << 12;
    return ring_run();
}

static bool io_model(u32 size, u32 cpl, u32 iopl, u32 port, u32 base, u32 limit, bool wide)
{
    u32 bits = 0;

    if (cpl <= iopl)
        return true;
    if (!wide || limit < 0x67 || base + port / 8 + 1 > limit)
        return false;
    bits = (u32)bytes[base + port / 8] | (u32)bytes[base + port / 8 + 1] << 8;
    return !(bits >> (port & 7) & ((1u << size) - 1));
}

static void io_cell(u32 n, u32 cpl, u32 iopl, u32 port, u32 base, u32 limit, bool wide)
{
    u32 want =
        io_model(accesses[n].size, cpl, iopl, port, base, limit, wide) ? 0 : FAULT(VEC_GP, 0);
    u32 got = io_run(n, cpl, iopl, port);
    bool ok = got == want || got == OUTCOME_SKIPPED;
    if (!table_cell(ok))
        lab_check(ok, "%s port %x: cpl %u iopl %u map at %x limit %x %s: outcome %x, want %x",
                  accesses[n].name, port, cpl, iopl, base, limit, wide ? "32-bit" : "16-bit", got,
                  want);
}

// Stacks of ring 0, and a map that allows everything.
static void tss_fresh(u32 base)
{
    for (u32 i = 0; i < sizeof(big); i++)
        bytes[i] = 0;
    big.tss.ss0 = SEL_DATA0;
    big.tss.esp0 = A_STACK0;
    big.tss.iomap = (u16)base;
}

static void levels(void)
{
    for (u32 n = 0; n < ACCESSES; n++)
        for (u32 rings = 0; rings < 16; rings++)
            for (u32 allowed = 0; allowed < 2; allowed++) {
                tss_fresh(0x80);
                bytes[0x80 + 0x580 / 8] = allowed ? 0 : 0xff;
                load_tss(9, 0x2000);
                io_cell(n, rings & 3, rings >> 2, 0x580, 0x80, 0x2000, true);
            }
}

// One bit refuses, or all but the ones needed.
static void bits(void)
{
    const u32 base = 0x70;
    for (u32 n = 0; n < ACCESSES; n++)
        for (u32 port = 0x5a0; port < 0x5a8; port++)
            for (u32 bit = 0x598; bit < 0x5b8; bit++) {
                tss_fresh(base);
                bytes[base + bit / 8] = (u8)(1 << (bit & 7));
                load_tss(9, 0x2000);
                io_cell(n, 3, 0, port, base, 0x2000, true);
                if (bit >= port && bit < port + accesses[n].size)
                    continue;
                for (u32 i = base; i < base + 0x2000; i++)
                    bytes[i] = 0xff;
                for (u32 open = port; open < port + accesses[n].size; open++)
                    bytes[base + open / 8] &= (u8) ~(1 << (open & 7));
                io_cell(n, 3, 0, port, base, 0x2000, true);
                bytes[base + bit / 8] &= (u8) ~(1 << (bit & 7));
                io_cell(n, 3, 0, port, base, 0x2000, true);
                bit += 6;
            }
}

static void ends(void)
{
    static const u16 ports[] = {0x100, 0x107, 0x1ff, 0x580, 0x585, 0x587, 0x5ff};
    static const u16 bases[] = {0x68, 0x69, 0x80, 0x123, 0x1000};

    for (u32 n = 0; n < ACCESSES; n++)
        for (u32 p = 0; p < sizeof(ports) / 2; p++)
            for (u32 b = 0; b < sizeof(bases) / 2; b++) {
                u32 base = bases[b], port = ports[p];
                tss_fresh(base);
                for (u32 limit = base + port / 8 - 2; limit < base + port / 8 + 4; limit++) {
                    load_tss(9, limit);
                    io_cell(n, 3, 0, port, base, limit, true);
                    io_cell(n, 3, 3, port, base, limit, true);
                }
            }
    // The last ports: the map's last byte, and the one after it.
    for (u32 n = 0; n < ACCESSES; n++)
        for (u32 limit = 0x2066; limit < 0x206b; limit++) {
            if (accesses[n].size > 1)
                continue;
            tss_fresh(0x68);
            load_tss(9, limit);
            io_cell(n, 3, 0, 0xffff, 0x68, limit, true);
        }
    // A map that begins beyond the limit, or nowhere near.
    static const u16 far[] = {0x67, 0x100, 0x1ff, 0x200, 0xdfff, 0xfff0, 0xffff};
    for (u32 n = 0; n < ACCESSES; n++)
        for (u32 i = 0; i < sizeof(far) / 2; i++) {
            tss_fresh(far[i]);
            load_tss(9, 0x1ff);
            if (far[i] > 0x100)
                io_cell(n, 3, 0, 0x100, far[i], 0x1ff, true);
        }
    // A map over the registers' part of the TSS: zeros there allow.
    for (u32 n = 0; n < ACCESSES; n++) {
        tss_fresh(0x28);
        load_tss(9, 0x200);
        io_cell(n, 3, 0, 0x108, 0x28, 0x200, true);
    }
}

// A 16-bit TSS has no map, whatever its limit.
static void narrow(void)
{
    for (u32 n = 0; n < ACCESSES; n++)
        for (u32 rings = 0; rings < 16; rings++) {
            tss_fresh(0x80);
            *(u16 *)(bytes + 2) = A_STACK0;
            *(u16 *)(bytes + 4) = SEL_DATA16;
            load_tss(1, 0x2000);
            io_cell(n, rings & 3, rings >> 2, 0x580, 0x80, 0x2000, false);
        }
}

// In V86 mode the map decides whatever IOPL is.
static void v86(void)
{
    static const u8 code[3][4] = {{0xec, 0x0f, 0x0b}, {0xed, 0x0f, 0x0b}, {0x66, 0xed, 0x0f, 0x0b}};

    for (u32 n = 0; n < 3; n++)
        for (u32 iopl = 0; iopl < 4; iopl++)
            for (u32 bit = 0x57f; bit < 0x586; bit++) {
                tss_fresh(0x80);
                bytes[0x80 + bit / 8] = (u8)(1 << (bit & 7));
                load_tss(9, 0x2000);
                task_code(A_CODE, code[n], 4);
                ring_state = (struct lab_state){.ip = 0,
                                                .cs = A_CODE >> 4,
                                                .flags = 2 | FLAG_VM | iopl << 12,
                                                .sp = 0x100,
                                                .ss = A_STACK >> 4};
                ring_state.gpr[2] = 0x580;
                u32 got = ring_run();
                u32 want = bit >= 0x580 && bit < 0x580 + accesses[n].size ? FAULT(VEC_GP, 0) : 0;
                lab_check(got == want || got == OUTCOME_SKIPPED,
                          "v86 %s iopl %u bit %x: outcome %x, want %x", accesses[n].name, iopl, bit,
                          got, want);
            }
}

static void part(const char *name, void (*function)(void))
{
    lab_section(name);
    table_begin();
    function();
    table_end(name);
    task_restore();
}

void tasks_io(void)
{
    part("I/O map: rings", levels);
    part("I/O map: bits", bits);
    part("I/O map: ends", ends);
    part("I/O map: 16-bit TSS", narrow);
    part("I/O map: V86", v86);
}
