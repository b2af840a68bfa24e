// SPDX-License-Identifier: Apache-2.0
// One instruction on the host's processor with a chosen register state: the reference that the vector
// tests compare with. Not thread-safe.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct native_fsave { // FNSAVE in 64-bit mode
    uint32_t fcw, fsw, ftw, fip, fcs_fop, fdp, fds;
    uint8_t st[8][10];
} __attribute__((packed));

struct native_state {
    uint64_t gpr[16]; // RSP is not loaded
    uint64_t rflags;
    uint32_t mxcsr, pad;
    uint8_t vec[16][32];
    struct native_fsave x87;
};

void native_init(void);
// Executes the bytes (1..15) with *state loaded, and stores the state back. Returns 0, or the signal
// that the instruction raised (SIGFPE, SIGILL, SIGSEGV); the state is then the one it left.
int native_run(struct native_state *state, const uint8_t *code, unsigned len);
