// SPDX-License-Identifier: Apache-2.0
// The decoder's index into the instruction table, generated with it: for each encoding (0 legacy, 1
// VEX), opcode map and opcode, the forms that may match, in the order to try them.
#pragma once

#include "x86/cpuid.h"
#include "x86/insn.h"

struct x86_decode_list {
    uint16_t start; // into x86_decode_forms
    uint8_t count;  // 0: no such opcode
    uint8_t modrm;  // a ModRM byte follows the opcode
};

extern const uint16_t x86_decode_forms[];
extern const struct x86_decode_list x86_decode_lists[2][X86_MAP_COUNT][256];
