// SPDX-License-Identifier: Apache-2.0
// What CS may be loaded with by far JMP, far CALL, far RET and IRET: SDM vol. 2, their pages; vol. 3, 5.8.
// System descriptors come with contents that stop the transfer at the next check: gates name a null selector, TSSs
// are too small.
#include "segments.h"

#ifdef __x86_64__
#define POINTER "(%rbx)"
SNIPPET(far_retq, "lretq");
SNIPPET(far_iretq, "iretq");
#else
#define POINTER "(%ebx)"
#define far_retq NULL
#define far_iretq NULL
#endif
SNIPPET(far_jmp, "ljmp *" POINTER);
SNIPPET(far_call, "lcall *" POINTER);
SNIPPET(far_ret, "lretl");
SNIPPET(far_ret_n, "lretl $24");
SNIPPET(far_iret, "iretl");
SNIPPET(far_land, "");

enum {
    JMP,
    CALL,
    RET,
    RET_N,
    IRET,
    RETQ,
    IRETQ,
    HOWS
};
static const char *const names[HOWS] = {"jmp", "call", "ret", "ret n", "iret", "retq", "iretq"};
static const char *const snippets[HOWS] = {far_jmp,  far_call, far_ret,  far_ret_n,
                                           far_iret, far_retq, far_iretq};

static struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) pointer;

static bool too_long(u32 flags)
{
    return IS_LONG && (flags & 6) == 6; // L and D
}

static u32 transfer_model(u32 cpl, u32 selector, u32 kind, u32 dpl, bool present, u32 flags)
{
    u32 rpl = selector & 3, gp = FAULT_SEL(VEC_GP, selector);
    u32 np = FAULT_SEL(VEC_NP, selector);

    if ((selector & ~3u) == 0)
        return FAULT(VEC_GP, 0);
    if (kind_is_code(kind)) {
        if (kind_is_conforming(kind) ? dpl > cpl : rpl > cpl || dpl != cpl)
            return gp;
        return too_long(flags) ? gp : present ? 0 : np;
    }
    bool gate = kind == 12 || (!IS_LONG && (kind == 4 || kind == 5));
    bool tss = !IS_LONG && (kind == 1 || kind == 9);
    if ((!gate && !tss) || dpl < cpl || dpl < rpl)
        return gp;
    if (!present)
        return np;
    return tss ? FAULT_SEL(VEC_TS, selector) : FAULT(VEC_GP, 0);
}

static u32 return_model(u32 cpl, u32 selector, u32 kind, u32 dpl, bool present, u32 flags)
{
    u32 rpl = selector & 3;

    if ((selector & ~3u) == 0)
        return FAULT(VEC_GP, 0);
    if (!kind_is_code(kind) || rpl < cpl || (kind_is_conforming(kind) ? dpl > rpl : dpl != rpl) ||
        too_long(flags))
        return FAULT_SEL(VEC_GP, selector);
    return present ? 0 : FAULT_SEL(VEC_NP, selector);
}

// Slots of the frame that a return pops: IP, CS (flags), then SP and SS.
static void return_frame(u32 how, u32 selector)
{
    u32 slot = how >= RETQ ? 8 : 4, rpl = selector & 3, n = 0;
    u8 *at = (u8 *)ring_state.sp;
    u64 values[10] = {(ulong)far_land, selector | 0xabcd0000u};

    n = 2;
    if (how == IRET || how == IRETQ)
        values[n++] = 2;
    if (how == RET_N)
        n += 6;
    values[n++] = (ulong)ring_stack[rpl] + RING_STACK - 128;
    values[n++] = ring_data[rpl];
    for (u32 i = 0; i < n; i++)
        if (slot == 8)
            ((u64 *)at)[i] = values[i];
        else
            ((u32 *)at)[i] = (u32)values[i];
}

static bool landed(u32 how, u32 cpl, u32 selector, bool compat)
{
    const struct lab_trap *t = ring_trap;
    u32 rpl = selector & 3, new_cpl = how <= CALL ? cpl : rpl;
    ulong sp = ring_state.sp;
    u32 slot = how >= RETQ ? 8 : 4;
    bool iret = how == IRET || how == IRETQ;

    if (how == CALL) {
        const u32 *pushed = (const u32 *)(sp - 8);
        if (pushed[0] != ring_state.ip + 2 || (pushed[1] & 0xffff) != ring_state.cs)
            return false;
        sp -= 8;
    } else if (how > CALL) {
        if (new_cpl != cpl || (IS_LONG && iret && !compat)) {
            sp = (ulong)ring_stack[rpl] + RING_STACK - 128 + (how == RET_N ? 24 : 0);
            if (t->ss != ring_data[rpl])
                return false;
        } else {
            sp += slot * (iret ? 3 : 2) + (how == RET_N ? 24 : 0);
        }
    }
    return t->ip == (ulong)far_land && t->cs == ((selector & ~3u) | new_cpl) && t->sp == sp;
}

static void far_cell(u32 how, u32 cpl, u32 selector, u32 kind, u32 dpl, bool present, u32 flags,
                     bool compat)
{
    u64 *entry = lab_gdt_entry(SEL_TEST);
    bool segment = kind_is_segment(kind), tss = !segment && (kind & 5) == 1;
    u64 before = segment ? kind_descriptor(0, 0xfffff, kind, dpl, present, flags)
                 : tss   ? kind_descriptor((u32)(ulong)&lab_tss, 0x10, kind, dpl, present, 0)
                         : (u64)(kind | dpl << 5 | (present ? 0x80 : 0)) << 40;

    entry[0] = before;
    entry[1] = 0;
    ring_prepare(cpl, snippets[how]);
    if (compat)
        ring_state.cs = ring_code32[cpl];
    ring_state.gpr[3] = (ulong)&pointer;
    pointer.offset = (u32)(ulong)far_land;
    pointer.selector = (u16)selector;
    if (how > CALL)
        return_frame(how, selector);
    u32 got = ring_run();
    u32 want = how <= CALL ? transfer_model(cpl, selector, kind, dpl, present, flags)
                           : return_model(cpl, selector, kind, dpl, present, flags);
    u64 after = want ? before : before | 1ull << 40;
    bool ok = got == want && *entry == after;
    if (ok)
        ok = got == 0 ? landed(how, cpl, selector, compat)
                      : ring_trap->ip == ring_state.ip && ring_trap->sp == ring_state.sp &&
                            ring_trap->cs == ring_state.cs;
    if (!table_cell(ok)) {
        lab_check(ok,
                  "%s: type %02x dpl %u p %u flags %x, cpl %u selector %x%s: outcome %x, want %x; "
                  "access byte %02x, "
                  "want %02x",
                  names[how], kind, dpl, present, flags, cpl, selector,
                  compat ? " compatibility" : "", got, want, descriptor_access(*entry),
                  descriptor_access(after));
        lab_print_trap(ring_trap);
        lab_print("\n");
    }
}

static void far_table(u32 how, bool compat)
{
    static const u32 shapes[] = {0xc, 0xa, 0xe};

    table_begin();
    for (u32 kind = 0; kind < 32; kind++)
        for (u32 levels = 0; levels < 128; levels++)
            for (u32 shape = 0; shape < (IS_LONG && kind_is_code(kind) ? 3 : 1); shape++)
                if (ring_wanted())
                    far_cell(how, levels & 3, SEL_TEST | (levels >> 2 & 3), kind, levels >> 4 & 3,
                             levels >> 6, shapes[shape], compat);
    for (u32 levels = 0; levels < 16; levels++)
        far_cell(how, levels & 3, levels >> 2, 0, 0, true, 0, compat); // null
    table_end(names[how]);
}

void segments_far(void)
{
    for (u32 how = 0; how < HOWS; how++)
        if (snippets[how]) {
            lab_section(names[how]);
            far_table(how, false);
        }
#if IS_LONG
    for (u32 how = 0; how <= IRET; how++) {
        lab_section(names[how]);
        far_table(how, true);
    }
#endif
}
