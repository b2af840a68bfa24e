// SPDX-License-Identifier: Apache-2.0
// Code that changes itself. SDM vol. 3A, 8.1.3 and 11.6: on one processor a store to code is seen by the instruction
// after it. Functions return the immediate of a MOV that they, or something they call, have just patched: by every
// kind of store, before and behind the store, at page ends, through another linear address.
#include "stress.h"

#define BUFFER 0x2c0000ul // what is stored comes from here
#define ALIAS_PAGE 64u    // the linear pages from here on show the physical pages from 0 on again

enum kind {
    BY_MOV,
    BY_RMW, // XOR, ADD
    BY_XCHG,
    BY_CMPXCHG,
    BY_XADD,
    BY_MOVS,
    BY_STOS,
    BY_PUSH,
    BY_SSE,
    BY_X87,
    BY_INT,
    KINDS
};
static const char *const names[] = {"MOV",       "XOR",      "XCHG",       "LOCK CMPXCHG",
                                    "LOCK XADD", "REP MOVS", "REP STOS",   "PUSH",
                                    "SSE",       "x87",      "INT handler"};

static ulong handler_to;
static u32 handler_size;

static void copy(ulong to, ulong from, u32 count)
{
    for (u32 i = 0; i < count; i++)
        ((volatile u8 *)to)[i] = ((volatile u8 *)from)[i];
}

static bool patch_handler(struct lab_trap *t)
{
    (void)t;
    copy(handler_to, BUFFER, handler_size);
    return true;
}

static void opcode(u32 size, u32 byte_opcode, u32 modrm)
{
    if (size == 2)
        put8(0x66);
    if (size == 8)
        put8(0x48);
    put8(byte_opcode | (size > 1));
    put8(modrm);
}

// LOCK 0F opcode.
static void locked(u32 size, u32 byte_opcode, u32 modrm)
{
    if (size == 2)
        put8(0x66);
    put8(0xf0);
    if (size == 8)
        put8(0x48);
    put8(0x0f);
    put8(byte_opcode | (size > 1));
    put8(modrm);
}

// A word of BUFFER in AX; where it goes is in DI. Stores it.
static void put_store(enum kind kind, ulong to, u32 size)
{
    if (kind == BY_MOVS) {
        bool words = !(size & 3) && stress_chance(50);
        put_move(7, to);
        put_move(6, BUFFER);
        put_move(1, words ? size / 4 : size);
        put8(0xf3);
        put8(words ? 0xa5 : 0xa4);
        return;
    }
    if (kind == BY_INT) {
        put8(0xcd);
        put8(VEC_LAB);
        return;
    }
    put_move(6, BUFFER);
    put_move(7, to);
    switch (kind) {
    case BY_SSE: // 4: MOVD, 8: MOVQ, 16: MOVUPS
        put_bytes((const u8[]){0x0f, 0x10, 0x06}, 3);
        if (size == 16)
            put_bytes((const u8[]){0x0f, 0x11, 0x07}, 3);
        else if (size == 8)
            put_bytes((const u8[]){0x66, 0x0f, 0xd6, 0x07}, 4);
        else
            put_bytes((const u8[]){0x66, 0x0f, 0x7e, 0x07}, 4);
        return;
    case BY_X87:
        put_bytes((const u8[]){0xdf, 0x2e, 0xdf, 0x3f}, 4); // FILD and FISTP of 64 bits
        return;
    case BY_PUSH: // SP is the address for a moment
        put_bytes((const u8[]){0x48, 0x89, 0xe3}, 3);
        put_bytes((const u8[]){0x48, 0x8d, 0x67, (u8)sizeof(ulong)}, 4);
        put_bytes((const u8[]){0xff, 0x36, 0x48, 0x89, 0xdc}, 5);
        if (!PROBE_LONG) { // without REX
            u8 *at = stress_at - 12;
            stress_at = at;
            put_bytes((const u8[]){0x89, 0xe3, 0x8d, 0x67, 4, 0xff, 0x36, 0x89, 0xdc}, 9);
        }
        return;
    case BY_STOS:
        put8(0x8a);
        put8(0x06);
        put_move(1, size);
        put8(0xf3);
        put8(0xaa);
        return;
    default:
        break;
    }
    opcode(size, 0x8a, 0x06); // MOV AX, [SI]
    switch (kind) {
    case BY_RMW: // XOR with the difference
        opcode(size, 0x32, 0x07);
        opcode(size, 0x30, 0x07);
        break;
    case BY_XCHG:
        opcode(size, 0x86, 0x07);
        break;
    case BY_XADD:
        opcode(size, 0x2a, 0x07);
        locked(size, 0xc0, 0x07);
        break;
    case BY_CMPXCHG:
        opcode(size, 0x88, 0xc2); // DX
        opcode(size, 0x8a, 0x07);
        locked(size, 0xb0, 0x17);
        break;
    default:
        opcode(size, 0x88, 0x07);
    }
}

// A window of `size` bytes that overlaps the four of the immediate: its offset from them.
static int window(enum kind kind, u32 *size)
{
    static const u8 sizes[] = {1, 2, 4, sizeof(ulong)};
    *size = kind == BY_SSE                      ? 4u << stress_below(3)
            : kind == BY_X87                    ? 8
            : kind == BY_PUSH                   ? (u32)sizeof(ulong)
            : kind == BY_MOVS || kind == BY_INT ? 1 + stress_below(24)
            : kind == BY_STOS                   ? 1 + stress_below(4)
                                                : sizes[stress_below(4)];
    if (kind == BY_STOS)
        return (int)stress_below(5 - *size);
    return (int)stress_below(*size + 3) - (int)*size + 1;
}

static bool one_function(enum kind kind, bool backward, bool alias)
{
    u32 size;
    int offset = window(kind, &size);
    u32 page = 1 + stress_below(8);
    // Somewhere in the page, often so that code lies across its end.
    ulong at =
        stress_linear(page) + (stress_chance(50) ? 4096 - stress_below(90) : stress_below(4000));
    ulong away = alias ? (ALIAS_PAGE * 4096ul) : 0;
    ulong start = at, immediate = 0;
    for (u32 pass = 0; pass < 2;
         pass++) { // (of the same length) the second knows where the immediate lies
        ulong to = immediate + (ulong)(long)offset + away;
        stress_at = (u8 *)start;
        put_bytes((const u8[]){0xdb, 0xe3}, 2);
        put_move(1, 2);
        u8 *loop = 0;
        if (backward) {
            put_bytes((const u8[]){0x51, 0x51}, 2); // two PUSH CX
            loop = stress_at;
            put8(0xb8);
            immediate = (ulong)stress_at;
            put32(0x12345678);
            put8(0x50); // the value; AX is needed
            put_store(kind, to, size);
            put8(0x58);
            put8(0x59);
            put_bytes((const u8[]){0x83, 0xe9, 1, 0x51}, 4); // SUB CX, 1; PUSH CX
            put_bytes((const u8[]){0x0f, 0x85}, 2);
            put32((u32)((ulong)loop - (ulong)stress_at - 4));
            put_bytes((const u8[]){0x59, 0x59, 0xc3}, 3);
        } else {
            put_store(kind, to, size);
            put_nops(at & 1 ? 0 : at & 30);
            put8(0xb8);
            immediate = (ulong)stress_at;
            put32(0x12345678);
            put8(0xc3);
        }
        handler_to = immediate + (ulong)(long)offset + away;
        handler_size = size;
    }
    for (u32 generation = 0; generation < 10; generation++) {
        u8 want[4];
        ulong to = immediate + (ulong)(long)offset;
        copy(BUFFER, to, size < 16 ? 16 : size);
        u8 fill = (u8)stress_random();
        for (u32 i = 0; i < 4; i++) {
            int in = (int)i - offset;
            want[i] = ((volatile u8 *)immediate)[i];
            if (in >= 0 && in < (int)size)
                ((u8 *)BUFFER)[in] = want[i] = kind == BY_STOS ? fill : (u8)stress_random();
        }
        if (kind == BY_STOS)
            *(u8 *)BUFFER = fill;
        u32 expected = want[0] | want[1] << 8 | want[2] << 16 | (u32)want[3] << 24;
        // In the old code first by the one, then by the other address.
        ulong call = start + (alias && generation & 1 ? away : 0);
        u32 got = stress_call(call);
        if (got != expected) {
            if (stress_tell())
                lab_print("note: %s, size %u at %lx%d of the immediate at %lx, %s, alias %u, "
                          "generation %u: %x, want %x\n",
                          names[kind], size, start, offset, immediate,
                          backward ? "in a loop" : "ahead", alias, generation, got, expected);
            return false;
        }
    }
    return true;
}

static void functions(void)
{
    for (u32 kind = 0; kind < KINDS; kind++) {
        if (kind == BY_SSE && !stress_sse)
            continue;
        lab_section(names[kind]);
        for (u32 i = 0; i < stress_cases(500); i++) {
            stress_seed(kind * 1000 + i);
            stress_check(one_function(kind, i & 1, i & 2));
        }
    }
}

// --- loops -------------------------------------------------------------------------------------------------

// AX += the immediate, which grows by one each turn; and an opcode that is INC DX and DEC DX by turns.
static void immediates(void)
{
    for (u32 i = 0; i < stress_cases(60); i++) {
        ulong start = stress_linear(2) + (i & 1 ? 4096 - 3 - i % 40 : i * 16);
        u32 turns = i ? 1 + stress_below(300) : 50000, first = stress_random(), want = 0;
        stress_at = (u8 *)start;
        put_bytes((const u8[]){0x31, 0xc0, 0x31, 0xd2}, 4);
        put8(0xb9);
        put32(turns);
        u8 *loop = stress_at;
        put8(0x05); // ADD EAX, immediate
        ulong immediate = (ulong)stress_at;
        put32(first);
        put_bytes((const u8[]){0xff, 0xc2}, 2); // INC EDX
        ulong toggled = (ulong)stress_at - 1;
        put_move(7, immediate + (i & 2 ? ALIAS_PAGE * 4096ul : 0));
        put_bytes((const u8[]){0xff, 0x07}, 2); // INC [DI]
        put_move(7, toggled);
        put_bytes((const u8[]){0x80, 0x37, 0x08}, 3); // XOR [DI], 8
        put_bytes((const u8[]){0x83, 0xe9, 0x01, 0x0f, 0x85}, 5);
        put32((u32)((ulong)loop - (ulong)stress_at - 4));
        put_bytes((const u8[]){0x8d, 0x04, 0x90, 0xc3}, 4); // LEA EAX, [AX + DX * 4]
        for (u32 t = 0; t < turns; t++)
            want += first + t;
        want += (turns & 1) * 4;
        u32 got = stress_call(start);
        if (got != want && stress_tell())
            lab_print("note: %u turns at %lx: %x, want %x\n", turns, start, got, want);
        stress_check(got == want);
    }
}

// A jump whose distance is patched right before it.
static void jumps(void)
{
    for (u32 i = 0; i < stress_cases(40); i++) {
        ulong start = stress_linear(3) + (i & 1 ? 4096 - i % 40 : i * 64);
        stress_at = (u8 *)start;
        put8(0xa2); // MOV [absolute], AL
        ulong hole = (ulong)stress_at;
        put_word(0);
        put8(0xeb);
        ulong distance = (ulong)stress_at;
        put8(0);
        for (u32 k = 0; k < 16; k++) {
            put8(0xb8);
            put32(1000 + k);
            put8(0xc3);
        }
        stress_at = (u8 *)hole;
        put_word(distance);
        bool ok = true;
        for (u32 n = 0; n < 100 && ok; n++) {
            u32 k = stress_below(16);
            ulong a = start, ax = k * 6;
            __asm__ volatile("call *%1"
                             : "+a"(ax), "+d"(a)
                             :
                             : "ecx", "ebx", "esi", "edi", "memory");
            ok = (u32)ax == 1000 + k;
            if (!ok && stress_tell())
                lab_print("note: jump %u at %lx: %x\n", k, start, (u32)ax);
        }
        stress_check(ok);
    }
}

// A function that counts in data of its own page, and now and then is patched.
static void data_beside(void)
{
    for (u32 i = 0; i < stress_cases(20); i++) {
        ulong start = stress_linear(4) + i * 128, counter = stress_linear(4) + 0xf00 + i * 4;
        *(u32 *)counter = 0;
        stress_at = (u8 *)start;
        put_move(7, counter);
        put8(0xb9);
        put32(3000);
        u8 *loop = stress_at;
        put_bytes((const u8[]){0x83, 0x07}, 2); // ADD [DI], immediate
        u8 *step = stress_at;
        put8(1);
        put_bytes((const u8[]){0x83, 0xe9, 0x01, 0x75}, 4);
        put8((u32)(loop - stress_at - 1));
        put_bytes((const u8[]){0x8b, 0x07, 0xc3}, 3);
        u32 want = 0;
        bool ok = true;
        for (u32 n = 1; n < 6 && ok; n++) {
            *(volatile u8 *)step = (u8)n;
            want += 3000 * n;
            ok = stress_call(start) == want;
        }
        stress_check(ok);
    }
}

// --- generations ----------------------------------------------------------------------------------------------

// Random arithmetic on EAX of random length, written over what was there before.
static u32 generation_make(ulong at)
{
    u32 v = stress_random(), n = stress_below(5);
    stress_at = (u8 *)at;
    put8(0xb8);
    put32(v);
    while (n--) {
        u32 k = stress_random();
        switch (k & 3) {
        case 0:
            put8(0x05);
            put32(k);
            v += k;
            break;
        case 1:
            put8(0x35);
            put32(k);
            v ^= k;
            break;
        case 2:
            put_bytes((const u8[]){0xf7, 0xd8}, 2);
            v = -v;
            break;
        default:
            put_bytes((const u8[]){0x83, 0xe8, 7}, 3);
            v -= 7;
        }
    }
    put8(0xc3);
    return v;
}

static void generations(void)
{
    u32 want[16] = {0};
    bool ok = true;
    for (u32 i = 0; i < stress_cases(60000); i++) { // one place
        u32 v = generation_make(stress_linear(6) + 0x123);
        ok = stress_call(stress_linear(6) + 0x123) == v && ok;
    }
    lab_check(ok, "one address");
    ok = true;
    for (u32 i = 0; i < stress_cases(40000);
         i++) { // some places of a few pages; the older ones stay
        u32 k = stress_below(16), other = stress_below(16);
        ulong base = stress_linear(7) + 0x3c;
        want[k] = generation_make(base + k * 0x308);
        if (want[other])
            ok = stress_call(base + other * 0x308) == want[other] && ok;
        ok = stress_call(base + k * 0x308) == want[k] && ok;
        if (i % 64 == 0) // other pages behind the addresses
            stress_page(7 + (i >> 6) % 3, 7 + (i >> 6) % 3, STRESS_RW);
    }
    lab_check(ok, "sixteen addresses");
    ok = true;
    for (u32 i = 0; i < stress_cases(5000); i++) { // written through the alias, run here
        ulong at = stress_linear(12) + 4096 - stress_below(24);
        u32 v = generation_make(at + ALIAS_PAGE * 4096ul);
        ok = stress_call(at) == v && ok;
    }
    lab_check(ok, "through an alias");
    ok = true;
    for (u32 i = 0; i < stress_cases(3000); i++) { // made elsewhere, copied or mapped over
        u32 v = generation_make(stress_linear(14) + 64);
        u32 target = 16 + (i & 1);
        if (i & 2) {
            copy(stress_linear(target), stress_linear(14), 128);
            stress_page(20, target, STRESS_RW);
        } else {
            stress_page(20, 14, STRESS_RW);
        }
        if (i & 4)
            lab_set_cr3(lab_cr3());
        ok = stress_call(stress_linear(20) + 64) == v && ok;
    }
    lab_check(ok, "copied and remapped");
}

int main(void)
{
    stress_begin();
    for (u32 i = 0; i < ALIAS_PAGE; i++)
        stress_page(ALIAS_PAGE + i, i, STRESS_RW);
    lab_handler[VEC_LAB] = patch_handler;
    functions();
    lab_section("patched loops");
    immediates();
    lab_section("patched jumps");
    jumps();
    lab_section("data beside code");
    data_beside();
    lab_section("generations");
    generations();
    return 0;
}
