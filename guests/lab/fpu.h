// SPDX-License-Identifier: Apache-2.0
#pragma once

#define ZE_UNMASKED 0x37b  // FCW: only "zero divide" is not masked
#define FSW_PENDING 0xb884 // B, TOP = 7, ES, ZE: one number on the stack, divided by 0

void fpu_irq13(void);
void fpu_real_layouts(void); // 32-bit flavour: in V86 and real mode
