// SPDX-License-Identifier: Apache-2.0
// Instructions as text for people: traces, the monitor, test reports. Zydis writes it; no meaning
// is ever taken from there.
#include "x86/decode.h"
#include <Zydis/Zydis.h>
#include <stdio.h>

size_t x86_disassemble(char *out, size_t out_size, const uint8_t *bytes, size_t avail,
                       enum x86_code_size code_size, uint64_t rip)
{
    static const ZydisMachineMode modes[] = {
        [X86_CODE16] = ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
        [X86_CODE32] = ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
        [X86_CODE64] = ZYDIS_MACHINE_MODE_LONG_64,
    };
    static const ZydisStackWidth widths[] = {
        [X86_CODE16] = ZYDIS_STACK_WIDTH_16,
        [X86_CODE32] = ZYDIS_STACK_WIDTH_32,
        [X86_CODE64] = ZYDIS_STACK_WIDTH_64,
    };
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    int length;

    if (out_size == 0)
        return 0;
    out[0] = '\0';
    if (ZYAN_SUCCESS(ZydisDecoderInit(&decoder, modes[code_size], widths[code_size])) &&
        ZYAN_SUCCESS(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL)) &&
        ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, avail, &insn, operands)) &&
        ZYAN_SUCCESS(ZydisFormatterFormatInstruction(
            &formatter, &insn, operands, insn.operand_count_visible, out, out_size, rip, NULL)))
        length = (int)__builtin_strlen(out);
    else
        length = snprintf(out, out_size, "(bad)");
    return length < 0 ? 0 : (size_t)length < out_size ? (size_t)length : out_size - 1;
}
