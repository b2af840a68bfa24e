// SPDX-License-Identifier: Apache-2.0
// One processor with flat memory, and the comparison of its state with the host's after the same
// instruction.
#pragma once

#include "engine/engine.h"
#include "engine/interp/exec_vector.h"
#include "memory/memory.h"
#include "native.h"
#include "x86/cpuid.h"
#include "x86/decode.h"
#include "x86/flags.h"

#define AREA 0x10000 // guest address of the memory operands
#define AREA_SIZE 8192

struct bench {
    struct x86_cpu cpu;
    struct x86_platform platform;
    struct x86_cpu_model model;
    struct memory *memory;
    uint8_t *area; // host bytes behind AREA
    struct native_state native;
    uint8_t native_area[AREA_SIZE + 64] __attribute__((aligned(4096)));
    uint64_t seed;
    struct engine *engine;
    struct engine_vcpu *vcpu;
};

struct bench *bench_create(void);
uint64_t bench_random(struct bench *b);
// Fills a buffer with a mix of random bits, floating-point corner cases and small numbers.
void bench_fill(struct bench *b, void *data, unsigned size);
// The same state on both sides: registers from the native state, memory from native_area. RBX points at
// the operand area.
void bench_equalize(struct bench *b);
// Executes on Croft. Returns -1, or the vector that was raised.
int bench_exec(struct bench *b, const uint8_t *code, unsigned len, bool keep_resident);
// Executes code of `count` instructions in the interpreter. False when it did not run to the end.
bool bench_engine(struct bench *b, const uint8_t *code, unsigned len, unsigned count);
// Executes on the host. Returns -1, or the vector.
int bench_native(struct bench *b, const uint8_t *code, unsigned len);
// NULL when both sides agree, else what differs.
const char *bench_compare(struct bench *b, bool x87);
