// SPDX-License-Identifier: Apache-2.0
// Interrupt and trap gates: SDM vol. 2, INT n; vol. 3, 6.12, and 6.14 for 64-bit mode. INT n; #BR, an exception
// without error code (32-bit flavour); #GP, one with it.
#include "gates.h"

#define FLAGS_IN (FLAG_CF | FLAG_SF | FLAG_DF | FLAG_IF | FLAG_NT)

struct gate_case {
    enum entry entry;
    u32 kind, dpl, present, cpl;
    u32 code, code_dpl, code_present, flags;
};

// A fault while a #GP is delivered makes a double fault.
static u32 nested(enum entry entry, u32 vector, u32 error)
{
    return entry == BY_GP ? FAULT(VEC_DF, 0) : FAULT(vector, error | entry_ext(entry));
}

static bool gate_kind_ok(u32 kind)
{
    return kind == 14 || kind == 15 || (!IS_LONG && (kind == 6 || kind == 7));
}

static u32 interrupt_model(const struct gate_case *c)
{
    u32 idt = entry_vector(c->entry) * 8 + 2;

    if (!gate_kind_ok(c->kind) || (c->entry == BY_INT && c->dpl < c->cpl))
        return nested(c->entry, VEC_GP, idt);
    if (!c->present)
        return nested(c->entry, VEC_NP, idt);
    if (!kind_is_code(c->code) || c->code_dpl > c->cpl || (IS_LONG && (c->flags & 6) != 2))
        return nested(c->entry, VEC_GP, SEL_CS);
    return c->code_present ? 0 : nested(c->entry, VEC_NP, SEL_CS);
}

static u64 slot_at(ulong at, u32 slot, u32 n)
{
    return slot == 8   ? ((const u64 *)at)[n]
           : slot == 4 ? ((const u32 *)at)[n]
                       : ((const u16 *)at)[n];
}

static bool interrupt_landed(const struct gate_case *c)
{
    const struct lab_trap *t = ring_trap;
    bool inner = !kind_is_conforming(c->code) && c->code_dpl < c->cpl, error = c->entry == BY_GP;
    u32 level = inner ? c->code_dpl : c->cpl, slot = IS_LONG ? 8 : c->kind & 8 ? 4 : 2;
    u64 mask = slot == 2 ? 0xffff : ~0ull;
    ulong sp = ring_state.sp;
#if IS_LONG
    ulong stacks[3] = {lab_tss.rsp[0], lab_tss.rsp[1], lab_tss.rsp[2]};
    u16 ss = inner ? (u16)level : ring_data[c->cpl];
    bool full = true;
#else
    ulong stacks[3] = {lab_tss.esp0, lab_tss.esp1, lab_tss.esp2};
    u16 ss = inner ? ring_data[level] : ring_data[c->cpl];
    bool full = inner;
#endif
    if (inner)
        sp = stacks[level];
    if (IS_LONG)
        sp &= ~15ul;
    sp -= slot * ((full ? 5 : 3) + error);
    u32 flags = FLAGS_IN & ~(FLAG_NT | (c->kind & 1 ? 0 : FLAG_IF));
    if (t->ip != LAND || t->cs != ((SEL_CS & ~3u) | level) || t->sp != sp || t->ss != ss ||
        (t->flags & FLAGS_IN) != flags)
        return false;
    if (error) {
        if (slot_at(sp, slot, 0) != 0x1ec)
            return false;
        sp += slot;
    }
    return slot_at(sp, slot, 0) == ((ring_state.ip + (c->entry == BY_INT ? 2 : 0)) & mask) &&
           (u16)slot_at(sp, slot, 1) == ring_state.cs &&
           ((slot_at(sp, slot, 2) ^ ring_state.flags) & mask & ~(u64)FLAG_RF) == 0 &&
           (!full || (slot_at(sp, slot, 3) == (ring_state.sp & mask) &&
                      (u16)slot_at(sp, slot, 4) == ring_state.ss));
}

static void interrupt_cell(const struct gate_case *c)
{
    u64 code = kind_descriptor(0, 0xfffff, c->code, c->code_dpl, c->code_present, c->flags);

    gate_make(c->entry, c->kind, c->dpl, c->present, SEL_CS | (c->dpl ^ 3), 0);
    *lab_gdt_entry(SEL_CS) = code;
    gate_prepare(c->entry, c->cpl, 0);
    ring_state.flags |= FLAGS_IN;
    u32 want = interrupt_model(c);
    // (A #GP that comes of the gate for #GP would go through it for ever.)
    u32 got = ring_run();
    gates_restore();
    u64 after = want ? code : code | 1ull << 40;
    bool ok = got == want && *lab_gdt_entry(SEL_CS) == after &&
              (got ? ring_trap->ip == ring_state.ip && ring_trap->sp == ring_state.sp
                   : interrupt_landed(c));
    if (!table_cell(ok)) {
        lab_check(ok,
                  "%s cpl %u: gate type %02x dpl %u p %u, code %02x dpl %u p %u flags %x: outcome "
                  "%x, want %x",
                  entry_names[c->entry], c->cpl, c->kind, c->dpl, c->present, c->code, c->code_dpl,
                  c->code_present, c->flags, got, want);
        lab_print_trap(ring_trap);
        lab_print("\n");
    }
}

static void interrupt_table(enum entry entry)
{
    table_begin();
    // Every type of gate to a good target. (Task gates have a guest of their own.)
    for (u32 kind = 0; kind < 32; kind++)
        for (u32 n = 0; n < 32 && (kind != 5 || IS_LONG); n++)
            if (ring_wanted()) {
                struct gate_case c = {
                    entry, kind, n & 3, n >> 4, n >> 2 & 3, 0x1a, 0, true, IS_LONG ? 0xa : 0xc};
                interrupt_cell(&c);
            }
    // Every target of a good gate.
    for (u32 kind = IS_LONG ? 14 : 6; kind < 16; kind++)
        for (u32 code = 0; gate_kind_ok(kind) && code < 32; code++)
            for (u32 n = 0; n < 32; n++)
                for (u32 shape = 0; shape < (IS_LONG ? 3 : 1); shape++) {
                    static const u32 shapes[2][3] = {{0xc}, {0xa, 0xc, 0xe}};
                    struct gate_case c = {entry,      kind,   3,
                                          true,       n & 3,  code,
                                          n >> 2 & 3, n >> 4, shapes[IS_LONG][shape]};
                    if (ring_wanted())
                        interrupt_cell(&c);
                }
    static const u16 targets[] = {0, 1, 2, 3, 4, 0x104, 0x200, 0xfff8, 0xffff};
    lab_ldt[0] = 0;
    for (u32 n = 0; n < sizeof(targets) / 2 * 4; n++) {
        u32 target = targets[n / 4], cpl = n & 3;
        gate_make(entry, 14, 3, true, target, 0);
        gate_prepare(entry, cpl, 0);
        u32 got = ring_run(), want = nested(entry, VEC_GP, target & 0xfffc);
        gates_restore();
        if (!table_cell(got == want))
            lab_check(false, "%s cpl %u: target %x: outcome %x, want %x", entry_names[entry], cpl,
                      target, got, want);
    }
    for (u32 n = 0; n < 8 && !IS_LONG; n++) {
        u32 cpl = n & 3, level = n >> 2 ? cpl : 0;
        gate_make(entry, 14, 3, true, SEL_CS, 0);
        *lab_gdt_entry(SEL_CS) = kind_descriptor(0, LAND - 1, 0x1b, level, true, 4);
        gate_prepare(entry, cpl, 0);
        u32 got = ring_run(), want = nested(entry, VEC_GP, 0);
        gates_restore();
        if (!table_cell(got == want && ring_trap->ip == ring_state.ip))
            lab_check(false, "%s cpl %u: offset beyond the limit: outcome %x, want %x",
                      entry_names[entry], cpl, got, want);
    }
    table_end(entry_names[entry]);
}

static void idt_limit(void)
{
    struct {
        u16 limit;
        ulong base;
    } __attribute__((packed)) idtr = {sizeof(lab_idt) - 1, (ulong)lab_idt};
    const u32 size = sizeof(struct lab_gate);

    for (u32 limit = VEC_GATE * size - 2; limit < VEC_GATE * size + size + 2; limit++)
        for (u32 cpl = 0; cpl < 4; cpl++) {
            gate_make(BY_INT, 14, 3, true, SEL_CODE0, 0);
            gate_prepare(BY_INT, cpl, 0);
            idtr.limit = (u16)limit;
            __asm__ volatile("lidt %0" : : "m"(idtr));
            u32 got = ring_run();
            idtr.limit = sizeof(lab_idt) - 1;
            __asm__ volatile("lidt %0" : : "m"(idtr));
            u32 want = limit >= VEC_GATE * size + size - 1 ? 0 : FAULT(VEC_GP, VEC_GATE * 8 + 2);
            lab_check(got == want || got == OUTCOME_SKIPPED,
                      "idt limit %x cpl %u: outcome %x, want %x", limit, cpl, got, want);
        }
    gates_restore();
}

void gates_interrupts(void)
{
    static const char *const names[ENTRIES] = {
        [BY_INT] = "int n", [BY_BOUND] = "exception", [BY_GP] = "exception with error code"};
    for (enum entry entry = BY_INT; entry <= BY_GP; entry++)
        if (entry != BY_BOUND || !IS_LONG) {
            lab_section(names[entry]);
            interrupt_table(entry);
        }
    lab_section("IDT limit");
    idt_limit();
}
