// SPDX-License-Identifier: Apache-2.0
// Where the guest's x87/MMX registers and MXCSR are.
//
// While a software engine runs, the x87 state may live in the host's own x87 unit and MXCSR in the
// host's MXCSR, so that a guest instruction costs one host instruction. cpu->fpu_resident says
// which.
//
// Rule to keep: whoever reads or writes cpu->x87 or cpu->mxcsr calls x86_fpu_sync() first. It makes
// the fields current and gives the host's copy up, so they may then be read and changed freely; the
// next instruction that needs it loads it again. Engines call it before run() returns and before
// they call out to devices (host code may use floating point there). Exception: the ES bit of
// cpu->x87.fsw and the mask bits of cpu->x87.fcw are always current, so the #MF check needs no
// sync.
#pragma once

#include "x86/state.h"

#define X86_FPU_X87 1   // registers, FCW, FSW, FTW are in the host's x87 unit
#define X86_FPU_MXCSR 2 // MXCSR is in the host's MXCSR

void x86_fpu_sync_slow(struct x86_cpu *cpu);

ALWAYS_INLINE void x86_fpu_sync(struct x86_cpu *cpu)
{
    if (unlikely(cpu->fpu_resident))
        x86_fpu_sync_slow(cpu);
}

// Loads the state into the host's unit. x87: a pending exception would trap in the host, so unmasked
// ones (IGNNE# lets instructions pass them) stay behind in cpu->fpu_ignored, which the caller merges
// into FSW again after its one instruction; MXCSR: returns false, and loads nothing, unless every exception is masked and
// rounding is to nearest (host code may meet the value in between).
void x86_fpu_load_x87(struct x86_cpu *cpu);
bool x86_fpu_load_mxcsr(struct x86_cpu *cpu);

// The tag (0 valid, 1 zero, 2 special) of an 80-bit value that is not empty; SDM vol. 1, 8.1.7.
unsigned x86_x87_tag(const uint8_t value[10]);
