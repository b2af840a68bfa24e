// SPDX-License-Identifier: Apache-2.0
// The groups of the guest `exceptions`.
#pragma once

#include "probe.h"

void exceptions_integer(void); // causes that need no more than registers
void exceptions_fpu(void); // #NM, #MF, #XM and what CR0, CR4 and XCR0 make of vector instructions
void exceptions_memory(void); // #GP, #SS, #AC, #PF by operands
void exceptions_gates(void);  // what delivery does to the flags; faults in delivery
void exceptions_double(void); // combinations of two
_Noreturn void exceptions_triple(void);
