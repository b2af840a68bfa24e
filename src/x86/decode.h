// SPDX-License-Identifier: Apache-2.0
// Bytes to instructions. Total: every byte string in every mode decodes, is #UD, or needs more bytes.
#pragma once

#include "x86/insn.h"

enum x86_decode_result {
    X86_DECODE_OK,
    X86_DECODE_UD,       // #UD; insn->len holds the bytes looked at
    X86_DECODE_MORE,     // `avail` bytes do not suffice (fewer than 15)
    X86_DECODE_TOO_LONG, // more than 15 bytes: #GP(0)
};

struct x86_cpu_model;

// Decodes one instruction. `bytes` holds `avail` (0..15 or more) bytes; `code_size` is the code
// segment's size. `model` decides which features exist (NULL: all). Vendor differences come from it.
enum x86_decode_result x86_decode(struct x86_insn *insn, const uint8_t *bytes, size_t avail,
                                  enum x86_code_size code_size, const struct x86_cpu_model *model);

// Operand `i` of an instruction with sizes and registers resolved; for tests, dumps and tools.
struct x86_operand {
    enum x86_operand_kind kind;
    uint8_t size; // bytes
    uint8_t reg; // register number where it is one; 0..15 (vector too), byte registers as in insn.h
    bool is_mem;
    uint64_t imm;
};
struct x86_operand x86_operand_get(const struct x86_insn *insn, unsigned i);

// AT&T-free, Intel-syntax text for people, by Zydis. Returns the length written.
size_t x86_disassemble(char *out, size_t out_size, const uint8_t *bytes, size_t avail,
                       enum x86_code_size code_size, uint64_t rip);
