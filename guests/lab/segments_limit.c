// SPDX-License-Identifier: Apache-2.0
// What a loaded segment allows: limits of each granularity and direction for each size of access, rights, null
// segments, stacks and their wrap, the end of code (SDM vol. 3, 5.3 to 5.5; vol. 1, 6.2). All in 32-bit code, which
// the 64-bit flavour runs in compatibility mode. Offsets that wrap at 4 GiB inside of a segment that goes that far are
// left out: there the manual allows both (vol. 3, 5.3).
#include "segments.h"

#if IS_LONG
#define SNIPPET32(name, text) SNIPPET(name, ".code32\n" text "\n ud2\n .code64")
#else
#define SNIPPET32(name, text) SNIPPET(name, text)
#endif

enum {
    AREA = 0x02000000,
    SEL_DATA = SEL_TEST,
    SEL_STACK = SEL_TEST + 8,
    SEL_CODE = SEL_TEST + 0x10
};
enum {
    R = 1,
    W = 2,
    RW = 3
};

// The same access through GS and through SS.
#define ACCESS(name, before, after)                   \
    SNIPPET32(gs_##name, before " %gs:(%ebx)" after); \
    SNIPPET32(ss_##name, before " %ss:(%ebx)" after)
ACCESS(read1, "mov", ", %al");
ACCESS(read2, "mov", ", %ax");
ACCESS(read4, "mov", ", %eax");
ACCESS(write1, "mov %al,", "");
ACCESS(write2, "mov %ax,", "");
ACCESS(write4, "mov %eax,", "");
ACCESS(update1, "add %al,", "");
ACCESS(update2, "xchg %ax,", "");
ACCESS(update4, "add %eax,", "");
ACCESS(compare4, "cmp", ", %eax");
ACCESS(far6, "lfs", ", %esi");
ACCESS(update8, "cmpxchg8b", "");
ACCESS(float8, "fldl", "");
ACCESS(float10, "fldt", "");
ACCESS(store10, "fninit; fldz; fstpt", "");
ACCESS(environment, "fnstenv", "");
ACCESS(vector16, "movups", ", %xmm0");
ACCESS(vector_store16, "movups %xmm0,", "");
ACCESS(table6, "sgdtl", "");
#define ROW(name, size, kind)                   \
    {                                           \
        gs_##name, ss_##name, #name, size, kind \
    }
static const struct {
    const char *gs, *ss, *name;
    u32 size, kind;
} accesses[] = {
    ROW(read1, 1, R),     ROW(read2, 2, R),    ROW(read4, 4, R),          ROW(write1, 1, W),
    ROW(write2, 2, W),    ROW(write4, 4, W),   ROW(update1, 1, RW),       ROW(update2, 2, RW),
    ROW(update4, 4, RW),  ROW(compare4, 4, R), ROW(far6, 6, R),           ROW(update8, 8, RW),
    ROW(float8, 8, R),    ROW(float10, 10, R), ROW(store10, 10, W),       ROW(environment, 28, W),
    ROW(vector16, 16, R), ROW(table6, 6, W),   ROW(vector_store16, 16, W)};
#define ACCESSES (sizeof(accesses) / sizeof(accesses[0]))

static bool sse, cx8;

struct shape {
    u32 kind, limit, flags; // flags: G 8, D/B 4
};
static u32 shape_limit(const struct shape *s)
{
    return s->flags & 8 ? s->limit << 12 | 0xfff : s->limit;
}
static bool shape_down(const struct shape *s)
{
    return kind_is_data(s->kind) && (s->kind & 4);
}
static bool shape_within(const struct shape *s, u32 offset, u32 size)
{
    u64 last = (u64)offset + size - 1;
    if (shape_down(s))
        return offset > shape_limit(s) && last <= (s->flags & 4 ? 0xffffffff : 0xffff);
    return last <= shape_limit(s);
}
// May it be this or that?
static bool shape_wraps(const struct shape *s, u32 offset, u32 size)
{
    bool all =
        shape_down(s) ? (s->flags & 4) && offset > shape_limit(s) : shape_limit(s) == 0xffffffff;
    return all && offset + size - 1 < offset;
}

static void limit_cell(u32 n, const struct shape *s, u32 offset, bool stack)
{
    u32 size = accesses[n].size, reference = shape_limit(s), base = AREA - (reference & ~0xfu),
        at = base + offset;
    bool allowed =
        (!(accesses[n].kind & W) || kind_is_writable(s->kind)) && shape_within(s, offset, size);

    if ((size == 16 && !sse) || (accesses[n].gs == gs_update8 && !cx8))
        return;
    if (shape_wraps(s, offset, size) || (allowed && (at < 0x800000 || at > 0x3000000)) ||
        !ring_wanted())
        return;
    *lab_gdt_entry(stack ? SEL_STACK : SEL_DATA) =
        kind_descriptor(base, s->limit, s->kind, 3, true, s->flags);
    ring_prepare(3, stack ? accesses[n].ss : accesses[n].gs);
    ring_state.cs = ring_code32[3];
    ring_state.gpr[3] = offset;
    ring_state.gpr[0] = 0x11223344;
    if (stack)
        ring_state.ss = SEL_STACK | 3;
    else
        ring_state.gs = SEL_DATA | 3;
    if (allowed)
        for (u32 i = 0; i < 28; i++)
            ((u8 *)(ulong)at)[i] = 0;
    u32 value = 0x40302010 + offset;
    if (allowed && (accesses[n].kind & R) && size == 4 && accesses[n].kind == R)
        *(u32 *)(ulong)at = value;
    u32 got = ring_run(), want = allowed ? 0 : stack ? FAULT(VEC_SS, 0) : FAULT(VEC_GP, 0);
    // FNINIT and FLDZ come before the store.
    bool x87 = accesses[n].size == 10 && accesses[n].kind == W;
    bool ok = got == want && (!got || x87 || ring_trap->ip == ring_state.ip);
    if (ok && allowed && n == 2)
        ok = (u32)ring_trap->gpr[0] == value;
    if (ok && allowed && n == 5)
        ok = *(u32 *)(ulong)at == 0x11223344;
    if (!table_cell(ok)) {
        lab_check(false, "%s by %s: type %x limit %x flags %x, offset %x: outcome %x, want %x",
                  accesses[n].name, stack ? "ss" : "gs", s->kind, s->limit, s->flags, offset, got,
                  want);
    }
}

static void limit_table(bool stack)
{
    static const struct {
        u32 limit, flags;
    } limits[] = {{0, 0},      {1, 0},      {2, 0},       {0xe, 0},     {0xfff, 0},   {0x1234, 0},
                  {0xfffe, 0}, {0xffff, 0}, {0xfffff, 0}, {0, 8},       {1, 8},       {0xf, 8},
                  {0x10, 8},   {0x7ff, 8},  {0x7ffff, 8}, {0x80000, 8}, {0xffffe, 8}, {0xfffff, 8}};

    table_begin();
    for (u32 kind = 0x10; kind < 0x20; kind++) {
        if (stack ? !kind_is_writable(kind) : !kind_is_readable(kind))
            continue;
        for (u32 l = 0; l < sizeof(limits) / sizeof(limits[0]); l++)
            for (u32 big = 0; big < 8; big += 4)
                for (u32 n = 0; n < ACCESSES; n++) {
                    struct shape s = {kind, limits[l].limit, limits[l].flags | big};
                    u32 limit = shape_limit(&s), size = accesses[n].size;
                    u32 offsets[] = {limit - size,
                                     limit - size + 1,
                                     limit - size + 2,
                                     limit - 1,
                                     limit,
                                     limit + 1,
                                     limit + 2,
                                     0,
                                     1,
                                     0x10000 - size,
                                     0x10001 - size,
                                     0xffff,
                                     0x10000,
                                     0u - size,
                                     1u - size,
                                     0xffffffff};
                    // (Odd kinds are the same with the accessed bit.)
                    for (u32 i = 0; i < sizeof(offsets) / 4; i++)
                        if ((kind & 1) == (i & 1))
                            limit_cell(n, &s, offsets[i], stack);
                }
    }
    table_end(stack ? "limits of ss" : "limits of gs");
}

// --- null segments, execute-only code, hidden parts ----------------------------------------------------

SNIPPET32(null_ds, "mov (%ebx), %eax");
SNIPPET32(null_es, "mov %al, %es:(%ebx)");
SNIPPET32(null_fs, "mov %fs:(%ebx), %al");
SNIPPET32(null_gs, "incl %gs:(%ebx)");
SNIPPET32(null_string, "stosb");
SNIPPET32(code_read, "mov %cs:(%ebx), %al");
SNIPPET32(code_write, "mov %al, %cs:(%ebx)");

static void rights(void)
{
    static const char *const snippets[] = {null_ds, null_es, null_fs, null_gs, null_string};
    for (u32 n = 0; n < 5; n++)
        for (u32 null = 0; null < 4; null++)
            for (u32 cpl = 0; cpl < 4; cpl++) {
                ring_prepare(cpl, snippets[n]);
                ring_state.cs = ring_code32[cpl];
                if (n == 0)
                    ring_state.ds = null;
                if (n == 1 || n == 4)
                    ring_state.es = null;
                if (n == 2)
                    ring_state.fs = null;
                if (n == 3)
                    ring_state.gs = null;
                ring_state.gpr[3] = ring_state.gpr[7] = AREA;
                u32 got = ring_run();
                lab_check(got == OUTCOME_SKIPPED ||
                              (got == FAULT(VEC_GP, 0) && ring_trap->ip == ring_state.ip),
                          "null segment %u by %u, cpl %u: outcome %x", null, n, cpl, got);
            }
    for (u32 kind = KIND_CODE; kind < 0x20; kind++)
        for (u32 write = 0; write < 2; write++)
            for (u32 cpl = 1; cpl < 4; cpl++) {
                *lab_gdt_entry(SEL_CODE) = kind_descriptor(0, 0xfffff, kind, cpl, true, 0xc);
                ring_prepare(cpl, write ? code_write : code_read);
                ring_state.cs = SEL_CODE | cpl;
                ring_state.gpr[3] = AREA;
                u32 got = ring_run(),
                    want = !write && kind_is_readable(kind) ? 0 : FAULT(VEC_GP, 0);
                lab_check(got == want || got == OUTCOME_SKIPPED,
                          "%s of code type %x, cpl %u: outcome %x, want %x",
                          write ? "write" : "read", kind, cpl, got, want);
            }
    // The hidden part is what was loaded, whatever becomes of the table.
    static const u64 changed[] = {0, 0x00cf73000000ffff, 0x00cff1000000ffff, 0x0000f30000000000,
                                  0x00cf93000000ffff};
    for (u32 n = 0; n < sizeof(changed) / sizeof(changed[0]); n++) {
        *(u32 *)(ulong)AREA = 0xaabbccdd;
        u64 *entry = lab_gdt_entry(SEL_DATA);
        *entry = lab_descriptor(AREA - 0x100, 0x103, 0xf3, 4);
        u32 value, flat = SEL_DATA3;
        __asm__ volatile("mov %0, %%gs" : : "r"(SEL_DATA | 3) : "memory");
        *entry = changed[n];
        __asm__ volatile("movl %%gs:0x100, %0\n mov %1, %%gs"
                         : "=&r"(value)
                         : "r"(flat)
                         : "memory");
        if (IS_LONG) // (the limit does not count there, the base of GS does)
            lab_check(value == 0xaabbccdd, "hidden base: %x", value);
        else
            lab_check(value == 0xaabbccdd, "hidden part %u: %x", n, value);
    }
}

// --- stacks --------------------------------------------------------------------------------------------

SNIPPET32(stack_push, "push %eax");
SNIPPET32(stack_pushw, "push %ax");
SNIPPET32(stack_push8, "push $5");
SNIPPET32(stack_pushf, "pushf");
SNIPPET32(stack_pusha, "pusha");
SNIPPET32(stack_pushaw, "pushaw");
SNIPPET32(stack_push_ds, "push %ds");
SNIPPET32(stack_push_memory, "pushl (%ebx)");
SNIPPET32(stack_call, "call 1f\n 1:");
SNIPPET32(stack_enter, "enter $0, $0");
SNIPPET32(stack_pop, "pop %eax");
SNIPPET32(stack_popw, "pop %ax");
SNIPPET32(stack_pop_memory, "popl (%ebx)");
SNIPPET32(stack_popf, "popf");
SNIPPET32(stack_popa, "popa");
SNIPPET32(stack_popaw, "popaw");
SNIPPET32(stack_leave, "leave");
static const struct {
    const char *snippet, *name;
    u32 slot;
    int slots; // pushed, or popped if negative
} stack_ops[] = {{stack_push, "push", 4, 1},
                 {stack_pushw, "pushw", 2, 1},
                 {stack_push8, "push imm8", 4, 1},
                 {stack_pushf, "pushf", 4, 1},
                 {stack_pusha, "pusha", 4, 8},
                 {stack_pushaw, "pushaw", 2, 8},
                 {stack_push_ds, "push ds", 4, 1},
                 {stack_push_memory, "push memory", 4, 1},
                 {stack_call, "call", 4, 1},
                 {stack_enter, "enter", 4, 1},
                 {stack_pop, "pop", 4, -1},
                 {stack_popw, "popw", 2, -1},
                 {stack_pop_memory, "pop memory", 4, -1},
                 {stack_popf, "popf", 4, -1},
                 {stack_popa, "popa", 4, -8},
                 {stack_popaw, "popaw", 2, -8},
                 {stack_leave, "leave", 4, -1}};

static void stack_cell(u32 n, const struct shape *s, u32 sp)
{
    u32 slot = stack_ops[n].slot, mask = s->flags & 4 ? 0xffffffff : 0xffff, base = AREA;
    u32 count = (u32)(stack_ops[n].slots < 0 ? -stack_ops[n].slots : stack_ops[n].slots), want = 0;
    bool pop = stack_ops[n].slots < 0, leave = stack_ops[n].snippet == stack_leave;
    static u32 cell;

    for (u32 i = 0; i < count; i++) {
        u32 at = (pop ? sp + i * slot : sp - (i + 1) * slot) & mask;
        // POPA passes over the stack pointer's slot; whether that is read is nobody's promise.
        if (pop && count == 8 && i == 3 && !shape_within(s, at, slot))
            return;
        if (shape_wraps(s, at, slot) || (shape_within(s, at, slot) && (at > 0x100000)))
            return;
        if (!shape_within(s, at, slot))
            want = FAULT(VEC_SS, 0);
    }
    *lab_gdt_entry(SEL_STACK) = kind_descriptor(base, s->limit, s->kind, 3, true, s->flags);
    ring_prepare(3, stack_ops[n].snippet);
    ring_state.cs = ring_code32[3];
    ring_state.ss = SEL_STACK | 3;
    ring_state.sp = leave ? 0x1238 : sp; // (of a 16-bit stack's ESP, IRET takes SP)
    ring_state.gpr[5] = leave ? (0x98760000 & ~mask) | (sp & mask) : 0x55555555;
    ring_state.gpr[3] = (ulong)&cell;
    ring_state.gpr[0] = 0x12345678;
    for (u32 i = 0; i < count && !want; i++) // flags for POPF, too
        for (u32 b = 0; b < slot; b++)
            ((u8 *)AREA)[((pop ? sp + i * slot : sp - (i + 1) * slot) & mask) + b] = b ? 0 : 2;
    u32 got = ring_run();
    u32 moved = (pop ? sp + count * slot : sp - count * slot) & mask;
    u32 before = (u32)ring_state.sp, after = want ? before : (before & ~mask) | moved;
    bool ok = got == want && (((u32)ring_trap->sp ^ after) & mask) == 0 &&
              (!got || ring_trap->ip == ring_state.ip);
    if (!table_cell(ok)) {
        lab_check(
            false, "%s: type %x limit %x flags %x, sp %x: outcome %x, want %x; sp %lx, want %x",
            stack_ops[n].name, s->kind, s->limit, s->flags, sp, got, want, ring_trap->sp, after);
    }
}

static void stack_table(void)
{
    static const struct shape shapes[] = {
        {0x13, 0xffff, 0},  {0x13, 0xffff, 4},  {0x13, 0xfffe, 0},  {0x13, 0xfff, 0},
        {0x13, 0xfff, 4},   {0x13, 0xfffff, 4}, {0x13, 0xfffff, 0}, {0x13, 0xfffff, 12},
        {0x13, 0xfffff, 8}, {0x17, 0xfff, 0},   {0x17, 0xfff, 4},   {0x17, 0xffff, 4},
        {0x17, 0, 0},       {0x17, 0, 4},       {0x17, 1, 12},      {0x17, 0xfffe, 0}};

    table_begin();
    for (u32 n = 0; n < sizeof(stack_ops) / sizeof(stack_ops[0]); n++)
        for (u32 i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
            u32 limit = shape_limit(&shapes[i]);
            for (u32 near = 0; near < 3; near++)
                for (u32 delta = 0; delta < 72; delta++) {
                    u32 sp = (near == 0 ? 0 : near == 1 ? limit : 0x10000) + delta - 36;
                    if (ring_wanted())
                        stack_cell(n, &shapes[i], sp);
                }
        }
    table_end("stacks");
}

// --- the end of code -----------------------------------------------------------------------------------

static void code_put(u32 at, const u8 *bytes, u32 n)
{
    for (u32 i = 0; i < n; i++)
        ((u8 *)AREA)[at + i] = bytes[i];
}

static u32 code_run(u32 limit, u32 flags, u32 ip)
{
    *lab_gdt_entry(SEL_CODE) = lab_descriptor(AREA, limit, 0xfb, flags);
    ring_prepare(3, (const void *)(ulong)ip);
    ring_state.cs = SEL_CODE | 3;
    return ring_run();
}

static void code_ends(void)
{
    static const struct {
        const char *name;
        u8 bytes[8];
        u32 length;
    } fetched[] = {{"nop", {0x90}, 1},
                   {"mov r,r", {0x89, 0xc8}, 2},
                   {"mov imm", {0xb8, 1, 2, 3, 4}, 5},
                   {"prefixes", {0x66, 0x66, 0x66, 0x66, 0x90}, 5},
                   {"lea", {0x8d, 0x84, 0x88, 1, 2, 3, 4}, 7}};
    static const struct {
        const char *name;
        u8 bytes[8];
        u32 length,
            displacement; // bytes of the displacement, at the end; 0: to EAX, or from the stack
    } jumps[] = {{"jmp short", {0xeb}, 2, 1},      {"jmp near", {0xe9}, 5, 4},
                 {"jz short", {0x74}, 2, 1},       {"jz near", {0x0f, 0x84}, 6, 4},
                 {"call", {0xe8}, 5, 4},           {"loop", {0xe2}, 2, 1},
                 {"jecxz", {0xe3}, 2, 1},          {"jmp eax", {0xff, 0xe0}, 2, 0},
                 {"call eax", {0xff, 0xd0}, 2, 0}, {"ret", {0xc3}, 1, 0},
                 {"ret n", {0xc2, 8, 0}, 3, 0},    {"jmp near 16", {0x66, 0xe9}, 4, 2},
                 {"call 16", {0x66, 0xe8}, 4, 2}};
    const u32 limit = 0x1fff;

    for (u32 n = 0; n < sizeof(fetched) / sizeof(fetched[0]); n++)
        for (u32 missing = 0; missing < fetched[n].length; missing++) {
            u32 at = limit + 1 + missing - fetched[n].length;
            code_put(at, fetched[n].bytes, 8);
            u32 got = code_run(limit, 4, at);
            lab_check(got == OUTCOME_SKIPPED ||
                          (got == FAULT(VEC_GP, 0) && ring_trap->ip == (missing ? at : limit + 1)),
                      "%s %u bytes beyond: outcome %x at %lx", fetched[n].name, missing, got,
                      ring_trap->ip);
        }
    for (u32 n = 0; n < sizeof(jumps) / sizeof(jumps[0]); n++)
        for (u32 over = 0; over < 3; over++) {
            u32 at = limit - 0x40, target = limit - 1 + over; // UD2's two bytes, or less
            u8 bytes[8];
            for (u32 i = 0; i < 8; i++)
                bytes[i] = jumps[n].bytes[i];
            u32 distance = target - (at + jumps[n].length);
            for (u32 i = 0; i < jumps[n].displacement; i++)
                bytes[jumps[n].length - jumps[n].displacement + i] = (u8)(distance >> i * 8);
            code_put(at, bytes, jumps[n].length);
            code_put(limit - 1, (const u8 *)"\x0f\x0b\x0f\x0b", 4);
            *lab_gdt_entry(SEL_CODE) = lab_descriptor(AREA, limit, 0xfb, 4);
            ring_prepare(3, (const void *)(ulong)at);
            ring_state.cs = SEL_CODE | 3;
            ring_state.gpr[0] = target;
            ring_state.gpr[1] = jumps[n].bytes[0] == 0xe2 ? 2 : 0;
            ring_state.flags |= FLAG_ZF;
            *(u32 *)ring_state.sp = target;
            u32 got = ring_run(), want = over == 0 ? 0 : FAULT(VEC_GP, 0);
            ulong ip = over < 2 ? target : at; // beyond: it is the jump that faults
            bool ok = got == want && ring_trap->ip == ip;
            if (over == 2)
                ok = ok && ring_trap->sp == ring_state.sp && ring_trap->gpr[1] == ring_state.gpr[1];
            lab_check(ok || got == OUTCOME_SKIPPED, "%s to limit %u: outcome %x at %lx",
                      jumps[n].name, over, got, ring_trap->ip);
        }
}

void segments_limit(void)
{
    sse = lab_has(1, 0, 3, 25);
    cx8 = lab_has(1, 0, 3, 8);
    if (sse)
        lab_set_cr4(lab_cr4() | 0x200); // OSFXSR
    __asm__ volatile("fninit");
    lab_section("limits");
    limit_table(false);
    lab_section("limits of the stack");
    limit_table(true);
    lab_section("rights");
    rights();
    lab_section("stacks");
    stack_table();
    lab_section("end of code");
    code_ends();
}
