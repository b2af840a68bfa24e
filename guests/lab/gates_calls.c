// SPDX-License-Identifier: Apache-2.0
// Call gates: SDM vol. 2, JMP and CALL; vol. 3, 5.8.3 to 5.8.5.
#include "gates.h"

static bool long_ok(u32 flags) // of a code segment behind a gate, in long mode: L without D
{
    return !IS_LONG || (flags & 6) == 2;
}

struct call {
    enum entry entry;
    u32 kind, dpl, rpl, cpl, present; // of the gate
    u32 code, code_dpl, code_present, flags, parameters;
};

static u32 call_model(const struct call *c)
{
    u32 gate = SEL_GATE | c->rpl;

    if (c->dpl < c->cpl || c->dpl < c->rpl || (IS_LONG && c->kind == 4))
        return FAULT_SEL(VEC_GP, gate);
    if (!c->present)
        return FAULT_SEL(VEC_NP, gate);
    if (!kind_is_code(c->code) || c->code_dpl > c->cpl || !long_ok(c->flags))
        return FAULT_SEL(VEC_GP, SEL_CS);
    if (c->entry == BY_JMP && !kind_is_conforming(c->code) && c->code_dpl != c->cpl)
        return FAULT_SEL(VEC_GP, SEL_CS);
    return c->code_present ? 0 : FAULT_SEL(VEC_NP, SEL_CS);
}

static u64 slot_at(ulong at, u32 slot, u32 n)
{
    return slot == 8   ? ((const u64 *)at)[n]
           : slot == 4 ? ((const u32 *)at)[n]
                       : ((const u16 *)at)[n];
}

static bool call_landed(const struct call *c)
{
    const struct lab_trap *t = ring_trap;
    bool inner = c->entry == BY_CALL && !kind_is_conforming(c->code) && c->code_dpl < c->cpl;
    u32 level = inner ? c->code_dpl : c->cpl, slot = IS_LONG ? 8 : c->kind == 12 ? 4 : 2;
    u32 parameters = inner && !IS_LONG ? c->parameters : 0;
    u64 mask = slot == 2 ? 0xffff : ~0ull;
    ulong sp = ring_state.sp;

    if (t->ip != LAND || t->cs != ((SEL_CS & ~3u) | level))
        return false;
    if (c->entry == BY_JMP)
        return t->sp == sp && t->ss == ring_data[c->cpl];
#if IS_LONG
    ulong stacks[3] = {lab_tss.rsp[0], lab_tss.rsp[1], lab_tss.rsp[2]};
    u16 ss = inner ? (u16)level : ring_data[c->cpl];
#else
    ulong stacks[3] = {lab_tss.esp0, lab_tss.esp1, lab_tss.esp2};
    u16 ss = inner ? ring_data[level] : ring_data[c->cpl];
#endif
    if (inner)
        sp = stacks[level];
    sp -= slot * ((inner ? 4 : 2) + parameters);
    if (t->sp != sp || t->ss != ss || slot_at(sp, slot, 0) != ((ring_state.ip + 2) & mask) ||
        (u16)slot_at(sp, slot, 1) != ring_state.cs)
        return false;
    for (u32 i = 0; i < parameters; i++)
        if (slot_at(sp, slot, 2 + i) != slot_at(ring_state.sp, slot, i))
            return false;
    return !inner || (slot_at(sp, slot, 2 + parameters) == (ring_state.sp & mask) &&
                      (u16)slot_at(sp, slot, 3 + parameters) == ring_state.ss);
}

static void call_cell(const struct call *c)
{
    u64 code = kind_descriptor(0, 0xfffff, c->code, c->code_dpl, c->code_present, c->flags);

    gate_make(c->entry, c->kind, c->dpl, c->present, SEL_CS | (c->dpl ^ 3), c->parameters);
    *lab_gdt_entry(SEL_CS) = code;
    gate_prepare(c->entry, c->cpl, c->rpl);
    u32 *stack = (u32 *)ring_state.sp;
    for (u32 i = 0; i < 40; i++)
        stack[i] = 0x5a125a01 * (i + 1);
    u32 got = ring_run(), want = call_model(c);
    u64 after = want ? code : code | 1ull << 40;
    bool ok =
        got == want && *lab_gdt_entry(SEL_CS) == after &&
        (got ? ring_trap->ip == ring_state.ip && ring_trap->sp == ring_state.sp : call_landed(c));
    if (!table_cell(ok)) {
        lab_check(ok,
                  "%s cpl %u: gate type %x dpl %u rpl %u p %u parameters %u, code %02x dpl %u p %u "
                  "flags %x: outcome "
                  "%x, want %x",
                  entry_names[c->entry], c->cpl, c->kind, c->dpl, c->rpl, c->present, c->parameters,
                  c->code, c->code_dpl, c->code_present, c->flags, got, want);
        lab_print_trap(ring_trap);
        lab_print("\n");
    }
}

static void call_table(enum entry entry, u32 kind)
{
    static const u32 shapes[] = {0xc, 0xa, 0xe};
    u32 parameters = 0;

    table_begin();
    for (u32 code = 0x10; code < 0x20; code++)
        for (u32 gate = 0; gate < 128; gate++)
            for (u32 n = 0; n < 8; n++)
                for (u32 shape = 0; shape < (IS_LONG ? 3 : 1); shape++) {
                    // Each gate with a few targets that are no code: they are all alike.
                    if ((code < KIND_CODE && n != (gate & 7)) || !ring_wanted())
                        continue;
                    struct call c = {.entry = entry,
                                     .kind = kind,
                                     .dpl = gate & 3,
                                     .rpl = gate >> 2 & 3,
                                     .cpl = gate >> 4 & 3,
                                     .present = gate >> 6,
                                     .code = code,
                                     .code_dpl = n & 3,
                                     .code_present = n >> 2,
                                     .flags = shapes[shape],
                                     .parameters = IS_LONG ? 0 : parameters++ & 31};
                    call_cell(&c);
                }
    // A target that is null, beyond the table, in an absent LDT; an offset beyond its limit.
    static const u16 targets[] = {0, 1, 2, 3, 4, 0x104, 0x200, 0xfff8, 0xffff};
    for (u32 n = 0; n < sizeof(targets) / 2 * 4; n++) {
        u32 target = targets[n / 4], cpl = n & 3;
        lab_ldt[0] = 0;
        gate_make(entry, 12, 3, true, target, 0);
        gate_prepare(entry, cpl, 0);
        u32 got = ring_run(), want = FAULT_SEL(VEC_GP, target);
        if (!table_cell(got == want))
            lab_check(false, "%s cpl %u: target %x: outcome %x", entry_names[entry], cpl, target,
                      got);
        if (IS_LONG)
            continue;
        for (u32 limit = LAND - 1; limit <= LAND; limit++) {
            for (u32 level = 0; level <= cpl; level++) {
                if (entry == BY_JMP && level != cpl)
                    continue;
                gate_make(entry, kind, 3, true, SEL_CS, 0);
                *lab_gdt_entry(SEL_CS) = kind_descriptor(0, limit, 0x1a, level, true, 4);
                gate_prepare(entry, cpl, 0);
                got = ring_run();
                want = FAULT(VEC_GP, 0); // at the gate, or for the second byte of UD2
                ulong ip = limit == LAND ? LAND : ring_state.ip;
                if (!table_cell(got == want && ring_trap->ip == ip))
                    lab_check(false, "%s cpl %u to %u: target's limit %x: outcome %x",
                              entry_names[entry], cpl, level, limit, got);
            }
        }
    }
    table_end(entry_names[entry]);
}

void gates_calls(void)
{
    static const char *const names[2][2] = {{"jmp to a 16-bit call gate", "jmp to a call gate"},
                                            {"call of a 16-bit call gate", "call of a call gate"}};
    for (enum entry entry = BY_JMP; entry <= BY_CALL; entry++)
        for (u32 wide = 0; wide < 2; wide++) {
            lab_section(names[entry][wide]);
            call_table(entry, wide ? 12 : 4);
        }
}
