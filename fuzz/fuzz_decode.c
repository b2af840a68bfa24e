// SPDX-License-Identifier: Apache-2.0
// Fuzzes the decoder: first byte chooses mode and vendor, the rest is the instruction stream.
// Whatever comes in, the result keeps what executors rely on: lengths, register numbers, sizes in
// range.
#include "x86/cpuid.h"
#include "x86/decode.h"
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool size_valid(unsigned size)
{
    return size == 2 || size == 4 || size == 8;
}

static void check_registers(const struct x86_insn *insn)
{
    CHECK(insn->reg < 20 && insn->rm < 20 && insn->vvvv < 16 && insn->is4 < 16);
    CHECK(insn->seg < X86_SEG_COUNT);
    CHECK(insn->base <= X86_REG_RIP || insn->base == X86_REG_NONE);
    CHECK(insn->index < 16 || insn->index == X86_REG_NONE);
    CHECK(insn->scale <= 3 && insn->vex_l <= 1 && insn->vex_w <= 1);
    CHECK(size_valid(insn->adsize) && (insn->opsize == 1 || size_valid(insn->opsize)));
    for (unsigned i = 0; i < x86_insn_form(insn)->operand_count; i++) {
        struct x86_operand op = x86_operand_get(insn, i);
        CHECK(op.kind != X86_OPND_NONE);
        CHECK(op.size <= 32);
        switch (op.kind) {
        case X86_OPND_SREG:
        case X86_OPND_FIXED_SREG:
            CHECK(op.reg < X86_SEG_COUNT);
            break;
        case X86_OPND_MMX_REG:
        case X86_OPND_MMX_RM_REG:
        case X86_OPND_STI:
        case X86_OPND_DREG:
            CHECK(op.reg < 8);
            break;
        case X86_OPND_VEC_REG:
        case X86_OPND_VEC_RM_REG:
        case X86_OPND_VEC_VVVV:
        case X86_OPND_VEC_IS4:
            CHECK(op.reg < 16);
            break;
        default:
            break;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct x86_cpu_model models[2] = {{.vendor = X86_VENDOR_INTEL},
                                             {.vendor = X86_VENDOR_AMD}};
    if (size < 1)
        return 0;
    enum x86_code_size code = data[0] % 3;
    struct x86_cpu_model *model = &models[(data[0] >> 2) & 1];
    memset(model->feature, data[0] & 8 ? true : false, sizeof(model->feature));

    struct x86_insn insn, again;
    size_t avail = size - 1;
    uint8_t *bytes = malloc(avail); // exact size, so that a read beyond it is seen
    CHECK(bytes != NULL || avail == 0);
    if (avail != 0)
        memcpy(bytes, data + 1, avail);
    enum x86_decode_result result =
        x86_decode(&insn, bytes, avail, code, data[0] & 16 ? NULL : model);
    CHECK(insn.len <= 15);
    CHECK(insn.len <= avail);
    if (result == X86_DECODE_MORE)
        CHECK(avail < 15);
    if (result == X86_DECODE_OK) {
        CHECK(insn.len >= 1 && insn.form < X86_FORM_COUNT);
        check_registers(&insn);
        // Exactly its bytes decode to the same, one fewer needs more.
        CHECK(x86_decode(&again, bytes, insn.len, code, data[0] & 16 ? NULL : model) ==
              X86_DECODE_OK);
        CHECK(memcmp(&insn, &again, sizeof(insn)) == 0);
        CHECK(x86_decode(&again, bytes, insn.len - 1u, code, data[0] & 16 ? NULL : model) ==
              X86_DECODE_MORE);
    }
    free(bytes);
    return 0;
}
