// SPDX-License-Identifier: Apache-2.0
// One instruction on the host's processor, from a given state of registers, in 64-bit mode.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define NATIVE_MEMORY 512

struct native_state { // native.c depends on the order
    uint64_t gpr[16]; // RSP is the host's own
    uint64_t flags;   // arithmetic flags only
    uint64_t mm[8];
    uint8_t ymm[16][32];
};

// Runs the instruction of `len` bytes on *state and leaves in it what came of it. 0, or the signal it raised;
// *state is then as before.
int native_run(struct native_state *state, const uint8_t *code, unsigned len);
void native_init(uint64_t gs_base);
