// SPDX-License-Identifier: Apache-2.0
// More code than a small translation cache holds: thousands of functions, each with its own arithmetic and branches,
// that call one another, are called again after long whiles, and are now and then replaced. Every result is known.
#include "stress.h"

#define FUNCTIONS 12000u
#define SLOT 320u
#define AREA 0x1000000ul // 16 MiB and up: FUNCTIONS * SLOT bytes

// f(x) = a chain of operations on EAX, perhaps a loop, perhaps a call of an earlier function.
struct function {
    u32 seed;
    u16 generation;
};
static struct function functions[FUNCTIONS];

static ulong address(u32 index)
{
    return AREA + (ulong)index * SLOT;
}

static void seed_of(u32 index)
{
    stress_seed(functions[index].seed);
}

enum step {
    STEP_ADD,
    STEP_XOR,
    STEP_ROL,
    STEP_NEG,
    STEP_BRANCH, // TEST AL, imm; JZ over an ADD
    STEP_LOOP,   // a few turns of ADD
    STEP_CALL,   // an earlier function
    STEP_KINDS
};

// Both walk the same random numbers: one writes code, the other computes.
static void function_write(u32 index)
{
    stress_at = (u8 *)address(index);
    seed_of(index);
    u32 steps = 4 + stress_below(14);
    while (steps--) {
        u32 k = stress_below(STEP_KINDS), v = stress_random(),
            callee = stress_below(index ? index : 1);
        switch (k) {
        case STEP_ADD:
            put8(0x05);
            put32(v);
            break;
        case STEP_XOR:
            put8(0x35);
            put32(v);
            break;
        case STEP_ROL:
            put_bytes((const u8[]){0xc1, 0xc0, (u8)(v & 31)}, 3);
            break;
        case STEP_NEG:
            put_bytes((const u8[]){0xf7, 0xd8}, 2);
            break;
        case STEP_BRANCH:
            put_bytes((const u8[]){0xa8, (u8)v, 0x74, 5, 0x05}, 5);
            put32(v);
            break;
        case STEP_LOOP: // ECX
            put8(0xb9);
            put32(1 + (v & 7));
            put8(0x05);
            put32(v);
            put_bytes((const u8[]){0x83, 0xe9, 1, 0x75, (u8)-10}, 5);
            break;
        default: // (only from every eighth, so that chains stay short)
            if (index & 7)
                break;
            put8(0xe8);
            put32((u32)(address(callee | 1) - (ulong)stress_at - 4));
        }
    }
    put8(0xc3);
}

static u32 function_compute(u32 index, u32 x)
{
    seed_of(index);
    u32 steps = 4 + stress_below(14);
    while (steps--) {
        u32 k = stress_below(STEP_KINDS), v = stress_random(),
            callee = stress_below(index ? index : 1);
        switch (k) {
        case STEP_ADD:
            x += v;
            break;
        case STEP_XOR:
            x ^= v;
            break;
        case STEP_ROL:
            x = v & 31 ? x << (v & 31) | x >> (32 - (v & 31)) : x;
            break;
        case STEP_NEG:
            x = -x;
            break;
        case STEP_BRANCH:
            if (x & v & 0xff)
                x += v;
            break;
        case STEP_LOOP:
            x += v * (1 + (v & 7));
            break;
        default:
            if (index & 7)
                break;
            u32 kept = stress_keep();
            x = function_compute(callee | 1, x);
            stress_resume(kept);
        }
    }
    return x;
}

static u32 function_call(u32 index, u32 x)
{
    ulong a = x, f = address(index);
    __asm__ volatile("call *%1" : "+a"(a) : "d"(f) : "ecx", "memory", "cc");
    return (u32)a;
}

static bool function_right(u32 index)
{
    u32 kept = stress_keep(), x = stress_random();
    u32 want = function_compute(index, x), got = function_call(index, x);
    stress_resume(kept);
    stress_random();
    if (got != want && stress_tell())
        lab_print("note: function %u, generation %u, of %x: %x, want %x\n", index,
                  functions[index].generation, x, got, want);
    return got == want;
}

static void function_new(u32 index)
{
    functions[index].seed = index * 31337u + functions[index].generation * 77777u + 5;
    functions[index].generation++;
    u32 kept = stress_keep();
    function_write(index);
    stress_resume(kept);
}

int main(void)
{
    stress_begin();
    u32 count = lab_memory_kib() >= 40 * 1024 ? FUNCTIONS : FUNCTIONS / 4;
    for (u32 i = 0; i < count; i++)
        function_new(i);
    lab_section("all in order, twice");
    for (u32 round = 0; round < 2; round++)
        for (u32 i = 0; i < count; i++)
            stress_check(function_right(i));
    lab_section("new ones between old ones");
    for (u32 i = 0; i < stress_cases(40000); i++) {
        u32 old = stress_below(64), any = stress_below(count); // some stay in use all the time
        if (stress_chance(20))
            function_new(stress_below(count) | 1);
        stress_check(function_right(old));
        stress_check(function_right(any));
    }
    lab_section("one behind the other");
    for (u32 i = 0; i < stress_cases(20000); i++)
        stress_check(function_right((i * 7) % count));
    return 0;
}
