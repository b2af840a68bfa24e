// SPDX-License-Identifier: Apache-2.0
// The same code under changing circumstances: the same bytes in 16-, 32- and 64-bit, real and V86 mode and at CPL 0 and 3;
// code and data segments whose base, limit and rights change under it; FS and GS bases; CR0.TS, EM, AM, WP, CR4.OSFXSR,
// SMAP, SMEP and AC flipped between two runs. A translator must not run what it made for the other circumstances.
#include "stress.h"
#ifndef __x86_64__
#include "mode16_real.h"
#endif

// Below 64 KiB, for 16-bit segments; probe_begin() fills PROBE_DATA and the stack before it.
#define CODE 0xe000u
#define DATA_A 0xa000u // BX
#define DATA_B 0xb000u // DI
#define STACK 0xd800u
#define SEL_CHANGING (SEL_FREE + 0x20)
#define SEL_MANY (SEL_FREE + 0x40) // 16 of them

enum mode {
    MODE_16,
    MODE_32,
    MODE_64,
    MODE_V86,
    MODE_REAL
};
static const char *const mode_names[] = {"16-bit", "32-bit", "64-bit", "V86", "real"};

static void tell_end(const struct lab_trap *t)
{
    lab_print(": ");
    lab_print_trap(t);
    lab_print("\n");
}

// --- the same bytes -------------------------------------------------------------------------------------------

struct same {
    u64 ax, cx, r8;
    u8 a[256], b[256];
};

static u64 put16(u64 old, u32 v)
{
    return (old & ~0xffffull) | (v & 0xffff);
}

// One element of a few bytes, which all modes leave in step, and what it does in this one.
static void element(struct same *m, enum mode mode, u32 kind, u32 v, bool write)
{
    u8 lo = (u8)v, hi = (u8)(v >> 8), at = (u8)(v >> 16 & 0x7c);
    bool narrow = mode != MODE_32 && mode != MODE_64;
    u32 imm = 0x90900000u | (v & 0xffff);
    u8 *data = narrow ? m->a : m->b;
    u32 word = data[at] | data[at + 1] << 8 | data[at + 2] << 16 | (u32)data[at + 3] << 24;

    switch (kind) {
    case 0: // MOV AX, imm
        if (write)
            put_bytes((const u8[]){0xb8, lo, hi, 0x90, 0x90}, 5);
        m->ax = narrow ? put16(m->ax, v) : imm;
        break;
    case 1: // ADD CX, imm
        if (write)
            put_bytes((const u8[]){0x81, 0xc1, lo, hi, 0x90, 0x90}, 6);
        m->cx = narrow ? put16(m->cx, (u32)m->cx + v) : (u32)(m->cx + imm);
        break;
    case 2: // with 66h
        if (write)
            put_bytes((const u8[]){0x66, 0xb8, lo, hi, 0x90, 0x90}, 6);
        m->ax = narrow ? imm : put16(m->ax, v);
        break;
    case 3:
        if (write)
            put_bytes((const u8[]){0x66, 0x05, lo, hi, 0x90, 0x90}, 6);
        m->ax = narrow ? (u32)(m->ax + imm) : put16(m->ax, (u32)m->ax + v);
        break;
    case 4: // DEC AX; INC CX, or REX.W INC RCX
        if (write)
            put_bytes((const u8[]){0x48, 0xff, 0xc1}, 3);
        if (mode == MODE_64) {
            m->cx++;
        } else {
            m->ax = narrow ? put16(m->ax, (u32)m->ax - 1) : (u32)m->ax - 1;
            m->cx = narrow ? put16(m->cx, (u32)m->cx + 1) : (u32)m->cx + 1;
        }
        break;
    case 5: // DEC CX; ADD AX, 5, or ADD R8, 5
        if (write)
            put_bytes((const u8[]){0x49, 0x83, 0xc0, 5}, 4);
        if (mode == MODE_64) {
            m->r8 += 5;
        } else {
            m->cx = narrow ? put16(m->cx, (u32)m->cx - 1) : (u32)m->cx - 1;
            m->ax = narrow ? put16(m->ax, (u32)m->ax + 5) : (u32)m->ax + 5;
        }
        break;
    case 6: // MOV AX, [BX + at] or [DI + at]
        if (write)
            put_bytes((const u8[]){0x8b, 0x47, at}, 3);
        m->ax = narrow ? put16(m->ax, word) : word;
        break;
    case 7: // MOV [BX + at], CX
        if (write)
            put_bytes((const u8[]){0x89, 0x4f, at}, 3);
        for (u32 i = 0; i < (narrow ? 2 : 4); i++)
            data[at + i] = (u8)(m->cx >> i * 8);
        break;
    default: // PUSH AX; POP CX
        if (write)
            put_bytes((const u8[]){0x50, 0x59}, 2);
        m->cx = narrow ? put16(m->cx, (u32)m->ax) : mode == MODE_64 ? m->ax : (u32)m->ax;
    }
}

// Ends with #UD at `end`? And the registers.
static bool run_in(enum mode mode, bool user, struct same *got, u32 *end, bool *skipped)
{
    *skipped = false;
#ifndef __x86_64__
    if (mode == MODE_V86 || mode == MODE_REAL) {
        struct m16 m;
        m16_mode = mode == MODE_REAL ? M16_REAL : M16_V86;
        m16_init(&m);
        m.ip = CODE;
        m.cs = m.ds = m.es = m.ss = 0;
        m.gpr[AX] = (u32)got->ax;
        m.gpr[CX] = (u32)got->cx;
        m.gpr[BX] = DATA_A;
        m.gpr[DI] = DATA_B;
        m.gpr[SP] = STACK;
        const struct m16_end *e = m16_run(&m);
        got->ax = e->at.gpr[AX];
        got->cx = e->at.gpr[CX];
        *end = e->at.ip;
        *skipped = e->skipped;
        return e->vector == VEC_UD;
    }
#endif
    struct lab_state s;
    probe_begin(&s,
                mode == MODE_16   ? PROBE_16
                : mode == MODE_32 ? PROBE_32
                                  : PROBE_64,
                user ? 3 : 0);
    s.ip = CODE;
    s.sp = STACK;
    s.gpr[0] = (ulong)got->ax;
    s.gpr[1] = (ulong)got->cx;
    s.gpr[3] = DATA_A;
    s.gpr[7] = DATA_B;
#ifdef __x86_64__
    s.gpr[8] = got->r8;
#endif
    const struct lab_trap *t = lab_enter(&s);
    if (!t)
        return false;
    got->ax = t->gpr[0];
    got->cx = t->gpr[1];
#ifdef __x86_64__
    got->r8 = t->gpr[8];
#endif
    *end = (u32)t->ip;
    *skipped = t->vector == 0xffff;
    return t->vector == VEC_UD;
}

static void same_bytes(void)
{
    u32 kinds[12], values[12], count = 0, length = 0;
    for (u32 i = 0; i < stress_cases(9000); i++) {
        struct same want, got;
        if (i % 12 == 0) { // other code at the same place
            count = 3 + stress_below(10);
            stress_at = (u8 *)(ulong)CODE;
            for (u32 k = 0; k < count; k++) {
                kinds[k] = stress_below(9);
                values[k] = stress_random();
                element(&want, MODE_32, kinds[k], values[k], true);
            }
            length = (u32)((ulong)stress_at - CODE);
            put8(0x0f);
            put8(0x0b);
        }
#ifdef __x86_64__
        enum mode mode = (enum mode)stress_below(3);
#else
        static const u8 modes[] = {MODE_16,  MODE_32,  MODE_16,  MODE_32,
                                   MODE_V86, MODE_V86, MODE_REAL};
        enum mode mode = (enum mode)modes[stress_below(7)];
#endif
        bool user = stress_chance(50), skipped;
        for (u32 k = 0; k < 256; k++) {
            want.a[k] = ((u8 *)(ulong)DATA_A)[k] = (u8)(k * 3 + i);
            want.b[k] = ((u8 *)(ulong)DATA_B)[k] = (u8)(k * 5 + i);
        }
        want.ax = (u32)stress_word();
        want.cx = (u32)stress_word();
        want.r8 = (u32)stress_word();
        got = want;
        for (u32 k = 0; k < count; k++)
            element(&want, mode, kinds[k], values[k], false);
        u32 end = 0;
        bool ok = run_in(mode, user, &got, &end, &skipped);
        ok = ok && end == CODE + length && got.ax == want.ax && got.cx == want.cx;
        if (PROBE_LONG)
            ok = ok && got.r8 == want.r8;
        for (u32 k = 0; k < 256 && ok; k++)
            ok = ((u8 *)(ulong)DATA_A)[k] == want.a[k] && ((u8 *)(ulong)DATA_B)[k] == want.b[k];
        if (!ok && !skipped && stress_tell())
            lab_print("note: %s, ring %u, run %u: at %x of %x: ax %llx, want %llx; cx %llx, want "
                      "%llx; r8 %llx, want %llx\n",
                      mode_names[mode], user ? 3u : 0u, i, end - CODE, length, got.ax, want.ax,
                      got.cx, want.cx, got.r8, want.r8);
        stress_check(ok || skipped);
    }
}

// --- far jumps in a loop ---------------------------------------------------------------------------------------

// 32-bit and 16-bit code by turns (and 64-bit code), each calling the same few bytes.
static void far_loop(bool user, u32 turns)
{
    u16 code16 = user ? SEL_CODE16_3 : SEL_CODE16, code32 = user ? SEL_CODE32_3 : SEL_CODE32;
    u32 shared = CODE + 0x100, in16 = CODE + 0x40, in64 = CODE + 0x80;
    stress_at = (u8 *)(ulong)shared;
    // 16: ADD EAX, 90900001h; 32, 64: ADD AX, 1. Then 16, 32: DEC DX, INC DX; 64: INC RDX.
    put_bytes((const u8[]){0x66, 0x05, 1, 0, 0x90, 0x90, 0x4a, 0xff, 0xc2, 0xc3}, 10);
    // (4Ah 52h: REX.WX in 64-bit code: INC RDX; else DEC EDX; INC EDX.)
    stress_at = (u8 *)(ulong)CODE;
    put8(0xe8); // CALL shared
    put32(shared - (u32)(ulong)stress_at - 4);
    put8(0xea); // JMP FAR to 16-bit code
    put32(in16);
    put8(code16);
    put8(0);
    stress_at = (u8 *)(ulong)in16;
    put8(0xe8);
    u32 rel = shared - (u32)(ulong)stress_at - 2;
    put8(rel);
    put8(rel >> 8);
    put8(0x66); // LOOP by ECX: DEC ECX, JZ out, JMP FAR back
    put8(0x49);
    put_bytes((const u8[]){0x74, 5, 0xea, 0, 0, 0, 0}, 7);
    u32 back = PROBE_LONG ? in64 : CODE;
    stress_at[-4] = (u8)back;
    stress_at[-3] = (u8)(back >> 8);
    stress_at[-2] = PROBE_LONG ? (user ? SEL_CODE3 : SEL_CODE0) : (u8)code32;
    put_bytes((const u8[]){0x0f, 0x0b}, 2);
    u32 end = (u32)(ulong)stress_at - 2;
    stress_at = (u8 *)(ulong)in64;
    put8(0xe8);
    put32(shared - (u32)(ulong)stress_at - 4);
    put_bytes((const u8[]){0xff, 0x2b}, 2); // JMP FAR [RBX] to 32-bit code
    *(u32 *)(ulong)DATA_A = CODE;
    *(u16 *)(ulong)(DATA_A + 4) = code32;

    struct lab_state s;
    probe_begin(&s, PROBE_32, user ? 3 : 0);
    s.ip = CODE;
    s.sp = STACK;
    s.gpr[0] = 0;
    s.gpr[1] = turns;
    s.gpr[2] = 0;
    s.gpr[3] = DATA_A;
    u32 ax = 0, dx = 0;
    for (u32 i = 0; i < turns; i++) {
        if (PROBE_LONG && i) {
            ax = (ax & 0xffff0000) | ((ax + 1) & 0xffff);
            dx++;
        }
        ax = (ax & 0xffff0000) | ((ax + 1) & 0xffff);
        ax += 0x90900001;
    }
    const struct lab_trap *t = lab_enter(&s);
    bool ok = t && t->vector == VEC_UD && t->ip == end && t->cs == code16 && (u32)t->gpr[0] == ax &&
              (u32)t->gpr[2] == dx;
    if (!ok && stress_tell()) {
        lab_print("note: ring %u, %u turns: ax %lx, want %x, dx %lx, want %x", user ? 3u : 0u,
                  turns, t ? t->gpr[0] : 0, ax, t ? t->gpr[2] : 0, dx);
        tell_end(t);
    }
    stress_check(ok);
}

// --- code segments ----------------------------------------------------------------------------------------------

static void code_segments(void)
{
    static const u8 ask[] = {0xe8, 0, 0, 0, 0, 0x58, 0x90, 0x90, 0x90, 0x0f, 0x0b}; // CALL, POP EAX
    stress_at = (u8 *)STRESS_CODE;
    put_bytes(ask, sizeof(ask));
    for (u32 i = 0; i < stress_cases(4000); i++) {
        bool user = stress_chance(50);
        u32 base = stress_below(16) * 0x1000 + stress_below(4), limit = 0xfffff, flags = 0xc;
        u32 ip = (u32)STRESS_CODE - base;
        u32 last = sizeof(ask); // bytes inside of the limit
        if (stress_chance(30)) {
            last = stress_below(sizeof(ask));
            limit = ip + last - 1;
            flags = 4;
            if (limit > 0xfffff)
                continue;
        }
        *lab_gdt_entry(SEL_CHANGING) = lab_descriptor(base, limit, user ? 0xfb : 0x9b, flags);
        struct lab_state s;
        probe_begin(&s, PROBE_32, user ? 3 : 0);
        s.cs = SEL_CHANGING | (user ? 3 : 0);
        s.ip = ip;
        s.sp = STACK;
        if (!last) { // IRET itself refuses that
            continue;
        }
        // Instructions: 0, 5, 6, 7, 8, 9 (2 bytes).
        static const u8 starts[] = {0, 5, 6, 7, 8, 9, 11};
        u32 stop = 9, vector = VEC_UD;
        for (u32 k = 0; k < 6; k++)
            if (starts[k + 1] > last && vector == VEC_UD) {
                stop = starts[k];
                vector = VEC_GP;
            }
        const struct lab_trap *t = lab_enter(&s);
        bool ok = t && t->vector == vector && t->error == 0 && t->ip == ip + stop &&
                  (stop < 6 || (u32)t->gpr[0] == ip + 5);
        if (!ok && stress_tell()) {
            lab_print("note: CS base %x, limit %x, ring %u: want vector %u at %x", base, limit,
                      user ? 3u : 0u, vector, ip + stop);
            tell_end(t);
        }
        stress_check(ok);
    }
}

// --- data segments ----------------------------------------------------------------------------------------------

// MOV EAX, [EBX]; MOV [EBX + 8], EAX; PUSH / POP by SS, in 32-bit code: one pair of instructions for all descriptors.
static void data_segments(void)
{
    ulong load = STRESS_CODE + 64, store = STRESS_CODE + 80;
    stress_at = (u8 *)load;
    put_bytes((const u8[]){0x8b, 0x03, 0x0f, 0x0b}, 4);
    stress_at = (u8 *)store;
    put_bytes((const u8[]){0x89, 0x03, 0x0f, 0x0b}, 4);
    for (u32 i = 0; i < stress_cases(8000); i++) {
        bool user = stress_chance(50), writes = stress_chance(50), down = stress_chance(25);
        bool readonly = stress_chance(25), null = stress_chance(5);
        u32 base = 0x20000 + stress_below(64) * 4, limit = stress_below(300),
            offset = stress_below(310);
        *lab_gdt_entry(SEL_CHANGING) = lab_descriptor(
            base, limit, (user ? 0xf1 : 0x91) | (readonly ? 0 : 2) | (down ? 4 : 0), 4);
        *(u32 *)(ulong)(base + offset) = i * 0x10001;
        struct lab_state s;
        probe_begin(&s, PROBE_32, user ? 3 : 0);
        s.ip = writes ? store : load;
        s.sp = STACK;
        s.ds = null ? 0 : SEL_CHANGING | (user ? 3 : 0);
        s.gpr[0] = 0x5a5a5a5a;
        s.gpr[3] = offset;
        bool fits = down ? offset > limit : offset + 3 <= limit;
        bool bad = null || !fits || (writes && readonly);
        const struct lab_trap *t = lab_enter(&s);
        u32 want = writes ? 0x5a5a5a5a : i * 0x10001;
        bool ok = t && t->vector == (bad ? (u32)VEC_GP : (u32)VEC_UD) && t->error == 0 &&
                  t->ip == s.ip + (bad ? 0 : 2);
        if (ok && !bad)
            ok = writes ? *(u32 *)(ulong)(base + offset) == want : (u32)t->gpr[0] == want;
        if (ok && bad && writes)
            ok = *(u32 *)(ulong)(base + offset) == i * 0x10001;
        if (!ok && stress_tell()) {
            lab_print("note: %s, ring %u, base %x limit %x offset %x %s%s%s",
                      writes ? "store" : "load", user ? 3u : 0u, base, limit, offset,
                      down ? "expand-down " : "", readonly ? "read-only " : "", null ? "null" : "");
            tell_end(t);
        }
        stress_check(ok);
    }
    // A loop that loads one of sixteen segments each turn: each has another base.
    ulong loop = STRESS_CODE + 96;
    stress_at = (u8 *)loop;
    put_bytes((const u8[]){0x2e, 0x8e, 0x1f, 0x03, 0x33, 0x2e, 0x8e, 0x67,    0x02, 0x64,
                           0x33, 0x33, // MOV DS, CS:[EDI]
                           0x83, 0xc7, 2,    0x83, 0xe9, 1,    0x75, (u8)-20, 0x0f, 0x0b},
              22); // ADD ESI, [EBX]; MOV FS, CS:[EDI + 2]; XOR ESI, FS:[EBX]
    for (u32 i = 0; i < stress_cases(60); i++) {
        bool user = i & 1;
        u16 *selectors = (u16 *)(ulong)DATA_A;
        u32 sum = 0, turns = 400;
        for (u32 k = 0; k < 16; k++) {
            *lab_gdt_entry(SEL_MANY + k * 8) =
                lab_descriptor(0x20000 + k * 64, 0xff, user ? 0xf3 : 0x93, 4);
            *(u32 *)(ulong)(0x20000 + k * 64 + 4) = stress_random();
        }
        for (u32 k = 0; k <= turns; k++)
            selectors[k] = (u16)((SEL_MANY + stress_below(16) * 8) | (user ? 3 : 0));
        for (u32 k = 0; k < turns; k++) {
            sum += *(u32 *)(ulong)(0x20000 + ((selectors[k] - SEL_MANY) >> 3) * 64 + 4);
            sum ^= *(u32 *)(ulong)(0x20000 + ((selectors[k + 1] - SEL_MANY) >> 3) * 64 + 4);
        }
        struct lab_state s;
        probe_begin(&s, PROBE_32, user ? 3 : 0);
        s.ip = loop;
        s.sp = STACK;
        s.gpr[1] = turns;
        s.gpr[3] = 4;
        s.gpr[6] = 0;
        s.gpr[7] = DATA_A;
        const struct lab_trap *t = lab_enter(&s);
        bool ok = t && t->vector == VEC_UD && t->ip == loop + 20 && (u32)t->gpr[6] == sum;
        if (!ok && stress_tell()) {
            lab_print("note: segments in a loop, ring %u: %lx, want %x", user ? 3u : 0u,
                      t ? t->gpr[6] : 0, sum);
            tell_end(t);
        }
        stress_check(ok);
    }
}

#ifdef __x86_64__
// WRMSR and SWAPGS between accesses by FS and GS, in one loop.
static void bases(void)
{
    ulong start = STRESS_CODE + 160;
    stress_at = (u8 *)start;
    for (u32 i = 0; i < 2; i++) { // (here: loads of the selectors change the bases)
        put_bytes((const u8[]){0xb9, (u8)i, 1, 0, 0xc0, 0x31, 0xd2, 0xb8},
                  8); // MSR C0000100h, C0000101h
        put32(0x20000 + i * 0x100);
        put_bytes((const u8[]){0x0f, 0x30}, 2);
    }
    ulong loop = (ulong)stress_at;
    put_bytes((const u8[]){0x89, 0xe9,                               // MOV ECX, EBP: the register
                           0x8b, 0x07, 0x8b, 0x57, 4,    0x0f, 0x30, // EAX, EDX = [RDI]; WRMSR
                           0x64, 0x48, 0x03, 0x33,                   // ADD RSI, FS:[RBX]
                           0x65, 0x48, 0x33, 0x33,                   // XOR RSI, GS:[RBX]
                           0x0f, 0x01, 0xf8, 0x65, 0x48, 0x03, 0x33, // SWAPGS; ADD RSI, GS:[RBX]
                           0x48, 0x83, 0xc7, 8,    0x83, 0xf5, 1,    // RDI += 8; EBP ^= 1
                           0x41, 0xff, 0xc8, 0x75},
              35);
    put8((u32)(loop - (ulong)stress_at - 1));
    ulong end = (ulong)stress_at;
    put_bytes((const u8[]){0x0f, 0x0b}, 2);
    for (u32 i = 0; i < stress_cases(60); i++) {
        u64 *values = (u64 *)(ulong)DATA_A, base[3] = {0x20000, 0x20100, 0x20200}, sum = 0;
        u32 turns = 200;
        for (u32 k = 0; k < 0x1000; k += 8)
            *(u64 *)(ulong)(0x20000 + k) = stress_random() * 0x100000001ull;
        for (u32 k = 0; k < turns; k++) {
            values[k] = 0x20000 + stress_below(0xff0);
            base[k & 1] = values[k];
            sum += *(u64 *)base[0];
            sum ^= *(u64 *)base[1];
            u64 swap = base[1];
            base[1] = base[2];
            base[2] = swap;
            sum += *(u64 *)base[1];
        }
        lab_wrmsr(0xc0000102, 0x20200);
        struct lab_state s;
        probe_begin(&s, PROBE_64, 0);
        s.ip = start;
        s.sp = STACK;
        s.gpr[3] = 0;
        s.gpr[5] = 0xc0000100;
        s.gpr[6] = 0;
        s.gpr[7] = DATA_A;
        s.gpr[8] = turns;
        const struct lab_trap *t = lab_enter(&s);
        bool ok = t && t->vector == VEC_UD && t->ip == end && t->gpr[6] == sum;
        if (!ok && stress_tell()) {
            lab_print("note: bases in a loop: %lx, want %llx", t ? t->gpr[6] : 0, sum);
            tell_end(t);
        }
        stress_check(ok);
    }
}
#endif

// --- control registers -----------------------------------------------------------------------------------------

static u32 lazy;

static bool give_unit(struct lab_trap *t)
{
    (void)t;
    __asm__ volatile("clts");
    lazy++;
    return true;
}

// An x87, an SSE and an AVX instruction under TS, EM and OSFXSR; then the lazy switch of an operating system.
static void units(void)
{
    static const u8 codes[3][8] = {{0xd9, 0xd0, 0x0f, 0x0b},              // FNOP
                                   {0x0f, 0x28, 0xc1, 0x0f, 0x0b},        // MOVAPS
                                   {0xc5, 0xf8, 0x28, 0xc1, 0x0f, 0x0b}}; // VMOVAPS
    static const u8 lengths[3] = {2, 3, 4};
    ulong cr0 = lab_cr0(), cr4 = lab_cr4();
    for (u32 k = 0; k < 3; k++)
        for (u32 b = 0; b < 8; b++)
            ((u8 *)STRESS_CODE)[0x200 + k * 16 + b] = codes[k][b];
    for (u32 i = 0; i < stress_cases(6000); i++) {
        bool ts = stress_chance(40), em = stress_chance(20), fx = stress_chance(80),
             user = stress_chance(50);
        bool os_lazy = stress_chance(30);
        u32 kind = stress_below(stress_avx ? 3 : stress_sse ? 2 : 1);
        if (!stress_sse)
            fx = false;
        if (kind == 2)
            fx = true;
        u32 vector = VEC_UD, at = lengths[kind];
        if (kind == 0 ? em || ts : kind == 1 ? !em && fx && ts : ts)
            vector = VEC_NM;
        if (kind == 1 && (em || !fx))
            at = 0;
        if (vector == VEC_NM)
            at = 0;
        bool again = os_lazy && vector == VEC_NM && !em;
        lazy = 0;
        lab_handler[VEC_NM] = again ? give_unit : NULL;
        lab_set_cr4(fx ? cr4 | 0x200 : cr4 & ~0x200ul);
        lab_set_cr0((cr0 & ~0xcul) | (ts ? 8 : 0) | (em ? 4 : 0));
        struct lab_state s;
        probe_begin(&s, PROBE_LONG ? PROBE_64 : PROBE_32, user ? 3 : 0);
        s.ip = STRESS_CODE + 0x200 + kind * 16;
        s.sp = STACK;
        const struct lab_trap *t = lab_enter(&s);
        lab_set_cr0(cr0);
        lab_set_cr4(cr4);
        if (again)
            vector = VEC_UD, at = lengths[kind];
        bool ok = t && t->vector == vector && t->ip == s.ip + at && lazy == again;
        if (!ok && stress_tell()) {
            lab_print("note: unit %u, ts %u em %u osfxsr %u ring %u: want vector %u at +%x", kind,
                      ts, em, fx, user ? 3u : 0u, vector, at);
            tell_end(t);
        }
        stress_check(ok);
    }
    lab_handler[VEC_NM] = NULL;
}

// CR0.AM and EFLAGS.AC: at the start, and changed by the code itself.
static void alignment(void)
{
    ulong cr0 = lab_cr0(), code = STRESS_CODE + 0x300;
    // MOV EAX, [BX]; POPF; MOV [SI], EAX; UD2
    stress_at = (u8 *)code;
    put_bytes((const u8[]){0x8b, 0x03, 0x9d, 0x89, 0x06, 0x0f, 0x0b}, 7);
    for (u32 i = 0; i < stress_cases(6000); i++) {
        bool am = stress_chance(70), ac1 = stress_chance(50), ac2 = stress_chance(50),
             user = stress_chance(70);
        u32 load = DATA_A + stress_below(8), store = DATA_A + 64 + stress_below(8);
        lab_set_cr0(am ? cr0 | 0x40000 : cr0 & ~0x40000ul);
        struct lab_state s;
        probe_begin(&s, PROBE_LONG ? PROBE_64 : PROBE_32, user ? 3 : 0);
        s.ip = code;
        s.sp = STACK;
        s.flags = 2 | (ac1 ? FLAG_AC : 0);
        s.gpr[3] = load;
        s.gpr[6] = store;
        *(ulong *)(ulong)STACK = 2 | (ac2 ? FLAG_AC : 0);
        const struct lab_trap *t = lab_enter(&s);
        lab_set_cr0(cr0);
        u32 vector = VEC_UD, at = 5;
        if (am && user && ac1 && load & 3)
            vector = VEC_AC, at = 0;
        else if (am && user && ac2 && store & 3)
            vector = VEC_AC, at = 3;
        bool ok = t && t->vector == vector && t->error == 0 && t->ip == code + at;
        if (!ok && stress_tell()) {
            lab_print("note: am %u ac %u %u ring %u, %x and %x: want vector %u at +%x", am, ac1,
                      ac2, user ? 3u : 0u, load, store, vector, at);
            tell_end(t);
        }
        stress_check(ok);
    }
}

// Ring 0's accesses to pages of either kind under WP, SMAP and SMEP; STAC and CLAC between them. The guest itself moves
// to supervisor's pages for that.
static void protections(void)
{
    bool smap = lab_has(7, 0, 1, 20), smep = lab_has(7, 0, 1, 7);
    ulong cr0 = lab_cr0(), cr4 = lab_cr4(), code = STRESS_CODE + 0x400;
    for (ulong at = 0; at < 0x400000; at += 4096)
        if (at < STRESS_LINEAR || at >= STRESS_LINEAR + STRESS_PAGES * 4096)
            probe_page(at, at | PAGE_P | PAGE_W);
    u8 *target = stress_physical(3);
    target[0] = 0x0f; // to be run, too
    target[1] = 0x0b;
    for (u32 i = 0; i < stress_cases(5000); i++) {
        u64 flags = PAGE_P | (stress_chance(60) ? PAGE_W : 0) | (stress_chance(60) ? PAGE_U : 0);
        bool wp = stress_chance(60), use_smap = smap && stress_chance(70),
             use_smep = smep && stress_chance(50);
        bool ac = use_smap && stress_chance(50), started = ac, faults = false;
        u32 steps = 1 + stress_below(6), error = 0;
        ulong fault_ip = 0;
        stress_at = (u8 *)code;
        while (steps--) {
            u32 what = stress_below(use_smap ? 5 : 3);
            ulong here = (ulong)stress_at;
            bool bad = false;
            if (what == 0) { // MOV EAX, [BX]
                put_bytes((const u8[]){0x8b, 0x03}, 2);
                bad = use_smap && !ac && flags & PAGE_U;
                error = 1;
            } else if (what == 1) { // ADD [BX + 16], EAX
                put_bytes((const u8[]){0x01, 0x43, 0x10}, 3);
                bad = (use_smap && !ac && flags & PAGE_U) || (wp && !(flags & PAGE_W));
                error = 3;
            } else if (what == 2) { // CMP [BX + 32], AL
                put_bytes((const u8[]){0x38, 0x43, 0x20}, 3);
                bad = use_smap && !ac && flags & PAGE_U;
                error = 1;
            } else {
                put_bytes((const u8[]){0x0f, 0x01, what == 3 ? 0xcb : 0xca}, 3);
                ac = what == 3;
            }
            if (bad) {
                faults = true;
                fault_ip = here;
                break;
            }
        }
        bool jump = !faults && stress_chance(30);
        if (jump) {
            put_bytes((const u8[]){0xff, 0xe3}, 2); // JMP BX
            if (use_smep && flags & PAGE_U) {
                faults = true;
                fault_ip = stress_linear(5);
                error = 0x11;
            }
        }
        ulong end = jump ? stress_linear(5) : (ulong)stress_at;
        put_bytes((const u8[]){0x0f, 0x0b}, 2);
        stress_page(5, 3, flags);
        struct lab_state s;
        probe_begin(&s, PROBE_LONG ? PROBE_64 : PROBE_32, 0);
        s.ip = code;
        s.sp = STACK;
        s.flags = 2 | (started ? FLAG_AC : 0);
        s.gpr[3] = stress_linear(5);
        lab_set_cr0(wp ? cr0 | 0x10000 : cr0 & ~0x10000ul);
        lab_set_cr4(cr4 | (use_smap ? 1u << 21 : 0) | (use_smep ? 1u << 20 : 0));
        const struct lab_trap *t = lab_enter(&s);
        lab_set_cr4(cr4);
        lab_set_cr0(cr0);
        bool ok = t && t->vector == (faults ? (u32)VEC_PF : (u32)VEC_UD) &&
                  t->ip == (faults ? fault_ip : end) && (!faults || t->error == error) &&
                  !(t->flags & FLAG_AC) == !ac;
        if (!ok && stress_tell()) {
            lab_print("note: page %llx wp %u smap %u smep %u: want %s error %x at %lx", flags, wp,
                      use_smap, use_smep, faults ? "#PF" : "#UD", faults ? error : 0,
                      faults ? fault_ip : end);
            tell_end(t);
        }
        stress_check(ok);
    }
}

int main(void)
{
#ifndef __x86_64__
    m16_real_prepare();
#endif
    lab_section("the same bytes");
    same_bytes();
    lab_section("far jumps");
    for (u32 i = 0; i < stress_cases(40); i++)
        far_loop(i & 1, i ? 1 + stress_below(300) : 5000);
    stress_begin();
    lab_section("code segments");
    code_segments();
    lab_section("data segments");
    data_segments();
#ifdef __x86_64__
    lab_section("FS and GS bases");
    bases();
#endif
    lab_section("units");
    units();
    lab_section("alignment");
    alignment();
    lab_section("protections");
    protections();
    return 0;
}
