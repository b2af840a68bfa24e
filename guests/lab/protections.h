// SPDX-License-Identifier: Apache-2.0
// What the files of the protections guest share.
#pragma once

#include "lab.h"

#define CR0_PE 1u
#define CR0_ET (1u << 4)
#define CR0_WP (1u << 16)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)
#define CR4_TSD (1u << 2)
#define CR4_DE (1u << 3)
#define CR4_PAE (1u << 5)
#define CR4_PCE (1u << 8)
#define CR4_UMIP (1u << 11)
#define CR4_FSGSBASE (1u << 16)
#define CR4_PCIDE (1u << 17)
#define CR4_OSXSAVE (1u << 18)
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)
#define MSR_EFER 0xc0000080u
#ifdef __x86_64__
#define LONG_MODE true
#else
#define LONG_MODE false
#endif

void protections_registers(void); // protections_bits.c: each bit of each control register
void protections_gates(void); // protections_gates.c: instructions that a bit or the ring refuses

// A trap, or none, is what is expected of this vector; 0xff: none.
bool protections_expect(const char *what, const struct lab_trap *t, u32 vector);
#define NONE 0xffu
