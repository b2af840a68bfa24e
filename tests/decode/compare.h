// SPDX-License-Identifier: Apache-2.0
// One byte string, decoded by Croft and by Zydis: do they say the same?
#pragma once

#include "x86/cpuid.h"
#include "x86/decode.h"
#include <Zydis/Zydis.h>

#define SAMPLE_BYTES 15

struct sample {
    uint8_t bytes[SAMPLE_BYTES];
    enum x86_code_size code;
    bool amd; // decode as an AMD processor
    // Croft
    enum x86_decode_result result;
    struct x86_insn insn;
    // Zydis
    bool theirs_ok;
    ZyanStatus status;
    ZydisDecodedInstruction theirs;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    char why[160]; // what differs
};

void sample_decode(struct sample *s);
// True when both agree; else `why` says what differs.
bool sample_agrees(struct sample *s);
// A difference that is known and meant: its index in known_differences, or -1.
struct known_difference {
    const char *reason;
    bool (*applies)(const struct sample *s);
    uint64_t count;
};
extern struct known_difference known_differences[];
extern const unsigned known_difference_count;
int sample_known_difference(const struct sample *s);
