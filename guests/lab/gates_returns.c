// SPDX-License-Identifier: Apache-2.0
// The way back out: far RET and IRET to the same ring and to outer ones. The stack segment they pop, the data
// segments they take away, ends of stacks and of code, and the flags that IRET may change. SDM vol. 2, RET and
// IRET; vol. 3, 5.8.6. (Which CS they accept is a table of "segments".)
#include "gates.h"

enum how {
    RET32,
    RET32_N,
    RET16,
    RET16_N,
    IRET32,
    IRET16,
    RET64,
    IRET64,
    HOWS
};
static const char *const names[HOWS] = {"retl",  "retl n", "retw", "retw n",
                                        "iretl", "iretw",  "retq", "iretq"};
SNIPPET(return_retl, "lretl");
SNIPPET(return_retl_n, "lretl $12");
SNIPPET(return_retw, "lretw");
SNIPPET(return_retw_n, "lretw $12");
SNIPPET(return_iretl, "iretl");
SNIPPET(return_iretw, "iretw");
#if IS_LONG
SNIPPET(return_retq, "lretq");
SNIPPET(return_iretq, "iretq");
#else
#define return_retq NULL
#define return_iretq NULL
#endif
static const char *const snippets[HOWS] = {return_retl,  return_retl_n, return_retw, return_retw_n,
                                           return_iretl, return_iretw,  return_retq, return_iretq};
#define how_is_iret(h) ((h) == IRET32 || (h) == IRET16 || (h) == IRET64)
#define how_bytes(h) ((h) == RET32_N || (h) == RET16_N ? 12u : 0u)

static u32 how_slot(enum how how)
{
    return how >= RET64 ? 8 : how == RET16 || how == RET16_N || how == IRET16 ? 2 : 4;
}

static u64 frame_ip = LAND;

// The frame at ring_state.sp; returns its size. `flags` counts for IRET.
static u32 frame_make(enum how how, u32 cs, u32 flags, u32 sp, u32 ss)
{
    u64 values[5] = {frame_ip, cs}, more[2] = {sp, ss};
    u32 slot = how_slot(how), n = 2, at = 0;
    u8 *stack = (u8 *)ring_state.sp;

    if (how_is_iret(how))
        values[n++] = flags;
    for (u32 i = 0; i < n + 2; i++) {
        u64 v = i < n ? values[i] : more[i - n];
        if (i == n)
            at += how_bytes(how);
        for (u32 b = 0; b < slot; b++)
            stack[at++] = (u8)(v >> b * 8);
    }
    return at;
}

static void return_prepare(enum how how, u32 cpl)
{
    ring_prepare(cpl, snippets[how]);
}

static u64 code_descriptor(u32 dpl, u32 limit)
{
    return kind_descriptor(0, limit, 0x1b, dpl, true, IS_LONG ? 0xa : limit == 0xfffff ? 0xc : 4);
}

// --- the stack segment ---------------------------------------------------------------------------------

static u32 stack_model(u32 new_cpl, u32 ss, bool inside, u32 kind, u32 dpl, bool present)
{
    if ((ss & ~3u) == 0)
        return IS_LONG && new_cpl < 3 && (ss & 3) == new_cpl ? 0 : FAULT(VEC_GP, 0);
    if (!inside || (ss & 3) != new_cpl || !kind_is_writable(kind) || dpl != new_cpl)
        return FAULT_SEL(VEC_GP, ss);
    return present ? 0 : FAULT_SEL(VEC_SS, ss);
}

static void stack_cell(enum how how, u32 cpl, u32 new_cpl, u32 ss, bool inside, u32 kind, u32 dpl,
                       bool present)
{
    return_prepare(how, cpl);
    *lab_gdt_entry(SEL_CS) = code_descriptor(new_cpl, 0xfffff);
    u64 before = *lab_gdt_entry(SEL_SS);
    u32 bytes = how == RET32_N || how == RET16_N ? 12 : 0;
    frame_make(how, SEL_CS | new_cpl, 2, LOW_STACK, ss);
    u32 got = ring_run(), want = stack_model(new_cpl, ss, inside, kind, dpl, present);
    u64 after = want || (ss & ~3u) != SEL_SS ? before : before | 1ull << 40;
    bool ok = got == want && *lab_gdt_entry(SEL_SS) == after;
    if (ok)
        ok = got ? ring_trap->ip == ring_state.ip && ring_trap->sp == ring_state.sp &&
                       ring_trap->ss == ring_state.ss
                 : ring_trap->ip == LAND && ring_trap->cs == (SEL_CS | new_cpl) &&
                       ring_trap->ss == ss && ring_trap->sp == LOW_STACK + bytes;
    if (table_cell(ok))
        return;
    lab_check(false, "%s %u to %u: ss %x, descriptor %016llx: outcome %x, want %x", names[how], cpl,
              new_cpl, ss, before, got, want);
    lab_print_trap(ring_trap);
    lab_print("\n");
}

static void stacks(enum how how)
{
    static const u16 others[] = {0, 1, 2, 3, 4, 5, 6, 7, 0x200, 0x201, 0x202, 0x203, 0xfffb};

    table_begin();
    for (u32 cpl = 0; cpl < 3; cpl++)
        for (u32 new_cpl = cpl + 1; new_cpl < 4; new_cpl++) {
            for (u32 kind = 0; kind < 32; kind++)
                for (u32 n = 0; n < 32; n++) {
                    u32 dpl = n & 3, rpl = n >> 2 & 3, present = n >> 4;
                    if (!ring_wanted())
                        continue;
                    *lab_gdt_entry(SEL_SS) = kind_descriptor(0, 0xfffff, kind, dpl, present, 0xc);
                    stack_cell(how, cpl, new_cpl, SEL_SS | rpl, true, kind, dpl, present);
                }
            lab_ldt[0] = lab_descriptor(0, 0xfffff, 0x93 | new_cpl << 5, 0xc);
            for (u32 n = 0; n < sizeof(others) / 2; n++)
                stack_cell(how, cpl, new_cpl, others[n], (others[n] & ~3u) == 4, 0x13, new_cpl,
                           true);
        }
    table_end(names[how]);
}

// --- data segments -------------------------------------------------------------------------------------

// A segment that the outer ring may not use becomes null; conforming code stays.
static void data_segments(enum how how)
{
    table_begin();
    for (u32 kind = 0x10; kind < 0x20; kind++)
        for (u32 n = 0; n < 64; n++) {
            u32 dpl = n & 3, cpl = n >> 2 & 3, new_cpl = n >> 4, selector = SEL_SS + 8;
            if (new_cpl < cpl || !kind_is_readable(kind) || (new_cpl == cpl && cpl > 0) ||
                !ring_wanted())
                continue;
            *lab_gdt_entry(SEL_CS) = code_descriptor(new_cpl, 0xfffff);
            *lab_gdt_entry(selector) = kind_descriptor(0x1000, 0xfffff, kind, dpl, true, 0xc);
            return_prepare(how, cpl);
            ring_state.ds = ring_state.es = ring_state.fs = ring_state.gs = selector;
            frame_make(how, SEL_CS | new_cpl, 2, LOW_STACK, ring_data[new_cpl]);
            u32 got = ring_run();
            bool gone = new_cpl > cpl && !kind_is_conforming(kind) && dpl < new_cpl;
            ulong want = gone ? 0 : selector;
            const struct lab_trap *t = ring_trap;
            if (!table_cell(got == 0 && t->ds == want && t->es == want && t->fs == want &&
                            t->gs == want)) {
                lab_check(false,
                          "%s %u to %u: type %02x dpl %u: outcome %x, ds %lx es %lx fs %lx gs %lx, "
                          "want %lx",
                          names[how], cpl, new_cpl, kind, dpl, got, t->ds, t->es, t->fs, t->gs,
                          want);
            }
        }
    table_end("data segments");
}

// --- ends ----------------------------------------------------------------------------------------------

// The frame has to lie within the stack's limit: #SS(0). Legacy only, 64-bit stacks have none.
static void stack_ends(enum how how)
{
    const u32 base = LOW_STACK - 0x1000;

    table_begin();
    for (u32 cpl = 1; cpl < 4; cpl++)
        for (u32 new_cpl = cpl; new_cpl < 4; new_cpl++)
            for (u32 big = 0; big < 2; big++)
                for (u32 missing = 0; missing < 3; missing++) {
                    return_prepare(how, cpl);
                    *lab_gdt_entry(SEL_CS) = code_descriptor(new_cpl, 0xfffff);
                    ring_state.sp = base + 0x800;
                    frame_make(how, SEL_CS | new_cpl, 2, LOW_STACK, ring_data[new_cpl]);
                    u32 slot = how_slot(how), slots = how_is_iret(how) ? 3 : 2;
                    u32 bytes = slots * slot + (new_cpl > cpl ? how_bytes(how) + 2 * slot : 0);
                    // SS is read as a word by some processors: the last slot's upper half does not tell.
                    if (new_cpl > cpl && slot == 4 && missing == 1)
                        continue;
                    u32 limit = 0x800 + bytes - 1 - (missing == 2 ? slot : missing);
                    *lab_gdt_entry(SEL_SS) =
                        kind_descriptor(base, limit, 0x13, cpl, true, big ? 4 : 0);
                    ring_state.ss = SEL_SS | cpl;
                    ring_state.sp = 0x800;
                    u32 got = ring_run(), want = missing ? FAULT(VEC_SS, 0) : 0;
                    bool ok = got == want && (!got || ring_trap->ip == ring_state.ip);
                    if (!table_cell(ok))
                        lab_check(false, "%s %u to %u: stack's limit %x: outcome %x, want %x",
                                  names[how], cpl, new_cpl, limit, got, want);
                }
    table_end("ends of stacks");
}

static void code_ends(enum how how)
{
    for (u32 cpl = 0; cpl < 4; cpl++)
        for (u32 new_cpl = cpl; new_cpl < 4; new_cpl++)
            for (u32 n = 0; n < 2; n++) {
                u32 want = FAULT(VEC_GP, 0);
                return_prepare(how, cpl);
#if IS_LONG
                if (how_slot(how) < 8)
                    return;
                frame_ip = n ? 0xffff7fffffffffff : 0x0000800000000000;
                *lab_gdt_entry(SEL_CS) = code_descriptor(new_cpl, 0xfffff);
#else
                *lab_gdt_entry(SEL_CS) = code_descriptor(new_cpl, LAND - 1 + n);
#endif
                frame_make(how, SEL_CS | new_cpl, 2, LOW_STACK, ring_data[new_cpl]);
                frame_ip = LAND;
                u32 got = ring_run();
                // One byte of the target is within: the return ends, the fetch of its second byte faults.
                ulong ip = !IS_LONG && n ? LAND : ring_state.ip;
                lab_check(got == OUTCOME_SKIPPED || (got == want && ring_trap->ip == ip),
                          "%s %u to %u: end of code %u: outcome %x at %lx, want %x", names[how],
                          cpl, new_cpl, n, got, ring_trap->ip, want);
            }
}

// --- flags ---------------------------------------------------------------------------------------------

// What IRET takes from its frame: IOPL in ring 0 only, IF where CPL <= IOPL, VIF and VIP in ring 0, none of the upper
// half with 16 bits. TF would trap, RF does not show.
static void iret_flags(enum how how)
{
    const u32 plain = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_DF | FLAG_OF | FLAG_NT;
    const u32 upper = FLAG_AC | FLAG_ID, all = plain | upper | FLAG_IOPL | FLAG_IF;

    table_begin();
    for (u32 cpl = 0; cpl < 4; cpl++)
        for (u32 new_cpl = cpl; new_cpl < 4; new_cpl++)
            for (u32 iopl = 0; iopl < 4; iopl++)
                for (u32 n = 0; n < 16; n++) {
                    // (NT would ask for a task.)
                    u32 old = (n & 1 ? (plain & ~FLAG_NT) | upper : 0) | (n & 2 ? FLAG_IF : 0) |
                              iopl << 12 | 2;
                    u32 new = (n & 4 ? all & ~FLAG_IOPL : 0) | (n & 8 ? FLAG_IOPL : 0) | 2;
                    u32 may = plain | (how_slot(how) > 2 ? upper : 0) | (cpl == 0 ? FLAG_IOPL : 0) |
                              (cpl <= iopl ? FLAG_IF : 0);
                    return_prepare(how, cpl);
                    *lab_gdt_entry(SEL_CS) = code_descriptor(new_cpl, 0xfffff);
                    ring_state.flags = old;
                    frame_make(how, SEL_CS | new_cpl, new, LOW_STACK, ring_data[new_cpl]);
                    u32 got = ring_run(), want = (old & ~may) | (new &may);
                    u32 flags = (u32)ring_trap->flags & (all | 2);
                    if (!table_cell(got == 0 && flags == want))
                        lab_check(false,
                                  "%s %u to %u, iopl %u: flags %x, frame %x: outcome %x, flags %x, "
                                  "want %x",
                                  names[how], cpl, new_cpl, iopl, old, new, got, flags, want);
                }
    table_end("flags");
}

void gates_returns(void)
{
    for (enum how how = 0; how < HOWS; how++) {
        if (!snippets[how])
            continue;
        lab_section(names[how]);
        stacks(how);
        data_segments(how);
        code_ends(how);
        if (!IS_LONG)
            stack_ends(how);
        if (how_is_iret(how)) {
            lab_section("flags");
            iret_flags(how);
        }
    }
}
