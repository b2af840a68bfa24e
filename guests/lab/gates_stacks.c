// SPDX-License-Identifier: Apache-2.0
// The stack of an inner ring: SDM vol. 2, CALL and INT n (the new SS); vol. 3, 5.8.5, 6.12.1, 6.14.2. Always from
// an outer ring to ring 1 or 2, so that the fault finds ring 0's stack in order.
#include "gates.h"

#if !IS_LONG
static struct {
    u16 link, sp0, ss0, sp1, ss1, sp2, ss2, rest[15];
} tss16;

static void tss_select(bool wide, u32 limit)
{
    u32 base = wide ? (u32)(ulong)&lab_tss : (u32)(ulong)&tss16;
    *lab_gdt_entry(SEL_TSS16) = lab_descriptor(base, limit, wide ? 0x89 : 0x81, 0);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS16));
}

static void tss_restore(void)
{
    *lab_gdt_entry(SEL_TSS) &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
    lab_tss.ss1 = ring_data[1];
    lab_tss.ss2 = ring_data[2];
    lab_tss.esp1 = (ulong)ring_stack[1] + RING_STACK / 2;
    lab_tss.esp2 = (ulong)ring_stack[2] + RING_STACK / 2;
}

static void stack_set(u32 level, u32 ss, u32 sp)
{
    if (level == 1) {
        lab_tss.ss1 = ss;
        lab_tss.esp1 = sp;
        tss16.ss1 = (u16)ss;
        tss16.sp1 = (u16)sp;
    } else {
        lab_tss.ss2 = ss;
        lab_tss.esp2 = sp;
        tss16.ss2 = (u16)ss;
        tss16.sp2 = (u16)sp;
    }
    tss16.ss0 = SEL_DATA16;
    tss16.sp0 = LOW_STACK + 0x1000;
}

// A gate of the right kind from an outer ring to `level`.
static void stack_prepare(enum entry entry, u32 cpl, u32 level, u32 kind, u32 parameters)
{
    gate_make(entry, entry == BY_CALL ? kind & 8 ? 12 : 4 : kind, 3, true, SEL_CS,
              entry == BY_CALL ? parameters : 0);
    *lab_gdt_entry(SEL_CS) = kind_descriptor(0, 0xfffff, 0x1b, level, true, 0xc);
    gate_prepare(entry, cpl, 0);
}

static u32 fault_of(enum entry entry, u32 vector, u32 error)
{
    return entry == BY_GP ? FAULT(VEC_DF, 0) : FAULT(vector, error | entry_ext(entry));
}

// What `ss` in the TSS leads to; 0: it is good.
static u32 stack_model(enum entry entry, u32 level, u32 ss, bool inside, u32 kind, u32 dpl,
                       bool present)
{
    u32 error = ss & 0xfffc;
    if (error == 0 || (ss & 3) != level || !inside || !kind_is_writable(kind) || dpl != level)
        return fault_of(entry, VEC_TS, error);
    return present ? 0 : fault_of(entry, VEC_SS, error);
}

static void stack_run(enum entry entry, u32 cpl, u32 level, u32 ss, u32 want, const char *what)
{
    u64 before = *lab_gdt_entry(SEL_SS);
    u32 got = ring_run();
    gates_restore();
    bool ok = got == want && *lab_gdt_entry(SEL_SS) ==
                                 (want || (ss & ~3u) != SEL_SS ? before : before | 1ull << 40);
    if (ok)
        ok = got ? ring_trap->ip == ring_state.ip && ring_trap->sp == ring_state.sp &&
                       ring_trap->cs == ring_state.cs
                 : ring_trap->ip == LAND && ring_trap->ss == ss;
    if (table_cell(ok))
        return;
    lab_check(false, "%s by %s, %u to %u: ss %x, descriptor %016llx: outcome %x, want %x", what,
              entry_names[entry], cpl, level, ss, before, got, want);
    lab_print_trap(ring_trap);
    lab_print("\n");
}

static void selectors(enum entry entry, bool wide)
{
    static const u8 kinds[] = {6, 7, 14, 15};

    table_begin();
    for (u32 kind = 0; kind < 32; kind++)
        for (u32 n = 0; n < 128; n++)
            for (u32 cpl = 2; cpl < 4; cpl++)
                for (u32 level = 1; level < cpl; level++) {
                    if (!ring_wanted())
                        continue;
                    u32 dpl = n & 3, rpl = n >> 2 & 3, present = n >> 4 & 1, ss = SEL_SS | rpl;
                    bool down = kind >= 0x14 && kind < KIND_CODE;
                    *lab_gdt_entry(SEL_SS) =
                        kind_descriptor(0, down ? 0 : 0xfffff, kind, dpl, present, down ? 4 : 0xc);
                    stack_set(level, ss, LOW_STACK);
                    tss_select(wide, wide ? 0x67 : 0x2b);
                    stack_prepare(entry, cpl, level, kinds[(n + kind) & 3], n & 31);
                    stack_run(entry, cpl, level, ss,
                              stack_model(entry, level, ss, true, kind, dpl, present),
                              "stack selector");
                }
    static const u16 others[] = {0, 1,     2,     3,      4,      5,     6,
                                 7, 0x201, 0x202, 0xfff9, 0xfffa, 0x105, 0x106};
    for (u32 n = 0; n < sizeof(others) / 2 * 2; n++) {
        u32 ss = others[n / 2], level = 1 + (n & 1);
        lab_ldt[0] = lab_descriptor(0, 0xfffff, 0x93 | level << 5, 0xc);
        *lab_gdt_entry(SEL_SS) = 0;
        stack_set(level, ss, LOW_STACK);
        tss_select(wide, wide ? 0x67 : 0x2b);
        stack_prepare(entry, 3, level, 14, 0);
        stack_run(entry, 3, level, ss,
                  stack_model(entry, level, ss, (ss & ~3u) == 4, 0x13, level, true),
                  "stack selector");
    }
    // The entry in the TSS has to be within its limit: #TS of the TSS's selector.
    for (u32 level = 1; level < 3; level++) {
        u32 ss = ring_data[level], last = wide ? 4 + level * 8 + 5 : 2 + level * 4 + 3;
        for (u32 limit = last - 6; limit < last + 3; limit++) {
            if (limit < (wide ? 9u : 5u)) // (ring 0's has to be there)
                continue;
            stack_set(level, ss, LOW_STACK);
            tss_select(wide, limit);
            stack_prepare(entry, 3, level, 14, 0);
            // (An ESP within, and an SS beyond the limit, is no difference.)
            stack_run(entry, 3, level, ss, limit < last ? fault_of(entry, VEC_TS, SEL_TSS16) : 0,
                      "TSS limit");
        }
    }
    table_end("inner stacks");
    tss_restore();
}

// Room on the new stack: #SS of its selector. `bytes` is what gets pushed.
static void room(enum entry entry)
{
    static const u8 kinds[] = {6, 7, 14, 15};

    table_begin();
    for (u32 cpl = 2; cpl < 4; cpl++)
        for (u32 level = 1; level < cpl; level++)
            for (u32 k = 0; k < 4; k++)
                for (u32 parameters = 0; parameters < (entry == BY_CALL ? 32 : 1); parameters++)
                    for (u32 shape = 0; shape < 4; shape++) { // expand up or down, 16 or 32 bits
                        u32 slot = kinds[k] & 8 ? 4 : 2, down = shape & 1, big = shape >> 1;
                        u32 bytes = slot * (entry == BY_CALL ? 4 + parameters
                                            : entry == BY_GP ? 6
                                                             : 5);
                        const u32 base = LOW_STACK - 0x1000, low = 0x400;
                        for (u32 sp = low + bytes - 2; sp <= low + bytes + 2; sp++) {
                            // Expand-up segments: the other end, just above `low`.
                            u32 ss = SEL_SS | level, want = 0, at = down ? sp : sp - bytes + 0x10;
                            if (!ring_wanted())
                                continue;
                            // up: limit so that the top slot ends at it; down: limit below the lowest byte
                            u32 limit = low - 1 + (down ? 0 : 0x10);
                            *lab_gdt_entry(SEL_SS) = kind_descriptor(
                                base, limit, down ? 0x17 : 0x13, level, true, big ? 4 : 0);
                            // Expand-up: offsets at - bytes (may wrap below 0) to at - 1.
                            if (down ? at - bytes <= limit : at - 1 > limit)
                                want = fault_of(entry, VEC_SS, SEL_SS);
                            if (!down && at < bytes)
                                want = fault_of(entry, VEC_SS, SEL_SS);
                            stack_set(level, ss, at);
                            tss_select(true, 0x67);
                            stack_prepare(entry, cpl, level, kinds[k], parameters);
                            stack_run(entry, cpl, level, ss, want, "stack room");
                        }
                    }
    table_end("room");
    tss_restore();
}

void gates_stacks(void)
{
    static const char *const names[ENTRIES][2] = {
        [BY_CALL] = {"call: stacks of a 16-bit TSS", "call: inner stacks"},
        [BY_INT] = {"int: stacks of a 16-bit TSS", "int: inner stacks"},
        [BY_BOUND] = {"exception: stacks of a 16-bit TSS", "exception: inner stacks"},
        [BY_GP] = {"error code: stacks of a 16-bit TSS", "error code: inner stacks"}};
    static const char *const room_names[ENTRIES] = {[BY_CALL] = "call: room",
                                                    [BY_INT] = "int: room",
                                                    [BY_BOUND] = "exception: room",
                                                    [BY_GP] = "error code: room"};
    for (enum entry entry = BY_CALL; entry < ENTRIES; entry++) {
        for (u32 wide = 0; wide < 2; wide++) {
            lab_section(names[entry][wide]);
            selectors(entry, wide);
        }
        lab_section(room_names[entry]);
        room(entry);
    }
}
#else
// 64-bit: SS becomes null with the new CPL as RPL; RSP has to be canonical, and its slot within the TSS.
void gates_stacks(void)
{
    static const u64 pointers[] = {0x0000800000001000, 0xffff7fffffffffff, 0x8000000000000000,
                                   0x1234567812345678};

    lab_section("inner stacks");
    for (enum entry entry = BY_CALL; entry < ENTRIES; entry++) {
        if (entry == BY_BOUND)
            continue;
        for (u32 level = 1; level < 3; level++)
            for (u32 n = 0; n < sizeof(pointers) / sizeof(pointers[0]); n++) {
                u64 old = lab_tss.rsp[level];
                gate_make(entry, entry == BY_CALL ? 12 : 14, 3, true, SEL_CS, 0);
                *lab_gdt_entry(SEL_CS) = kind_descriptor(0, 0xfffff, 0x1b, level, true, 0xa);
                lab_tss.rsp[level] = pointers[n];
                gate_prepare(entry, 3, 0);
                u32 got = ring_run(), vector = VEC_SS;
                lab_tss.rsp[level] = old;
                gates_restore();
                // (The error code is told apart: SDM has the new SS, which is null.)
                u32 want = entry == BY_GP ? FAULT(VEC_DF, 0) : FAULT(vector, 0);
                lab_check((got & ~3u) == want && ring_trap->ip == ring_state.ip &&
                              ring_trap->cs == SEL_CODE3,
                          "%s to %u: rsp %llx: outcome %x, want %x", entry_names[entry], level,
                          pointers[n], got, want);
            }
        for (u32 level = 1; level < 3; level++)
            for (u32 limit = 4 + level * 8; limit < 4 + level * 8 + 10; limit++) {
                *lab_gdt_entry(SEL_TSS) = lab_descriptor((u32)(ulong)&lab_tss, limit, 0x89, 0);
                __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
                gate_make(entry, entry == BY_CALL ? 12 : 14, 3, true, SEL_CS, 0);
                *lab_gdt_entry(SEL_CS) = kind_descriptor(0, 0xfffff, 0x1b, level, true, 0xa);
                gate_prepare(entry, 3, 0);
                u32 got = ring_run();
                gates_restore();
                *lab_gdt_entry(SEL_TSS) =
                    lab_descriptor((u32)(ulong)&lab_tss, sizeof(lab_tss) - 1, 0x89, 0);
                __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
                u32 want = limit >= 4 + level * 8 + 7 ? 0
                           : entry == BY_GP           ? FAULT(VEC_DF, 0)
                                                      : FAULT(VEC_TS, SEL_TSS);
                lab_check(got == want, "%s to %u: TSS limit %x: outcome %x, want %x",
                          entry_names[entry], level, limit, got, want);
            }
    }
}
#endif
