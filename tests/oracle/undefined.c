// SPDX-License-Identifier: Apache-2.0
#include "undefined.h"
#include <string.h>

#define C X86_FLAG_CF
#define P X86_FLAG_PF
#define A X86_FLAG_AF
#define Z X86_FLAG_ZF
#define S X86_FLAG_SF
#define O X86_FLAG_OF

// References: SDM vol. 2 (entry, "Flags Affected" where not said otherwise) and APM vol. 3 (entry, table
// "rFLAGS Affected"), which agree wherever only one is named.
const struct undefined_row undefined_rows[] = {
    {"and or xor test", UNDEFINED_ALWAYS, A, false, "SDM AND, OR, XOR, TEST"},
    {"aaa aas", UNDEFINED_ALWAYS, O | S | Z | P, false, "SDM AAA, AAS"},
    {"aad aam", UNDEFINED_ALWAYS, O | A | C, false, "SDM AAD, AAM"},
    {"daa das", UNDEFINED_ALWAYS, O, false, "SDM DAA, DAS"},
    {"mul imul", UNDEFINED_ALWAYS, S | Z | A | P, false, "SDM MUL, IMUL"},
    {"div idiv", UNDEFINED_ALWAYS, O | S | Z | A | P | C, false, "SDM DIV, IDIV"},
    {"bt bts btr btc", UNDEFINED_ALWAYS, O | S | A | P, false, "SDM BT, BTS, BTR, BTC"},
    {"bsf bsr", UNDEFINED_ALWAYS, O | S | A | P | C, false, "SDM BSF, BSR"},
    {"bsf bsr", UNDEFINED_SOURCE_0, 0, true,
     "SDM BSF, BSR, Operation; APM: the destination is unchanged"},
    {"tzcnt lzcnt", UNDEFINED_ALWAYS, O | S | A | P, false, "SDM TZCNT, LZCNT"},
    {"andn", UNDEFINED_ALWAYS, A | P, false, "SDM ANDN"},
    {"bextr", UNDEFINED_ALWAYS, S | A | P, false, "SDM BEXTR"},
    {"blsi blsmsk blsr", UNDEFINED_ALWAYS, A | P, false, "SDM BLSI, BLSMSK, BLSR"},
    {"bzhi", UNDEFINED_ALWAYS, A | P, false, "SDM BZHI"},
    {"bswap", UNDEFINED_SIZE_16, 0, true, "SDM BSWAP, Description"},
    {"shl shr sar", UNDEFINED_COUNT_NOT_0, A, false, "SDM SAL/SAR/SHL/SHR"},
    {"shl shr sar", UNDEFINED_COUNT_OVER_1, O, false, "SDM SAL/SAR/SHL/SHR"},
    {"shl shr", UNDEFINED_COUNT_FROM_WIDTH, C, false, "SDM SAL/SAR/SHL/SHR"},
    {"rol ror rcl rcr", UNDEFINED_COUNT_OVER_1, O, false, "SDM RCL/RCR/ROL/ROR"},
    {"shld shrd", UNDEFINED_COUNT_NOT_0, A, false, "SDM SHLD, SHRD"},
    {"shld shrd", UNDEFINED_COUNT_OVER_1, O, false, "SDM SHLD, SHRD"},
    {"shld shrd", UNDEFINED_COUNT_OVER_WIDTH, O | S | Z | A | P | C, true,
     "SDM SHLD, SHRD, Description and Flags Affected"},
};
const unsigned undefined_row_count = ARRAY_SIZE(undefined_rows);

bool undefined_row_names(const struct undefined_row *row, const char *mnemonic)
{
    size_t size = strlen(mnemonic);
    for (const char *at = row->mnemonics; (at = strstr(at, mnemonic)); at++)
        if ((at == row->mnemonics || at[-1] == ' ') && (at[size] == ' ' || at[size] == 0))
            return true;
    return false;
}

// The count of a shift or rotate as the processor uses it.
static unsigned shift_count(const struct oracle_case *c, const struct x86_insn *insn)
{
    const struct x86_form *form = &x86_forms[insn->form];
    const struct x86_operand_desc *last = &form->operand[form->operand_count - 1];
    unsigned count = last->kind == X86_OPND_ONE         ? 1
                     : last->kind == X86_OPND_FIXED_GPR ? (unsigned)c->in.gpr[X86_RCX]
                                                        : (unsigned)insn->imm;
    return count & (insn->opsize == 8 ? 63 : 31);
}

bool undefined_row_holds(const struct undefined_row *row, const struct oracle_case *c,
                         const struct x86_insn *insn, uint64_t rflags_after)
{
    unsigned width = insn->opsize * 8u;
    switch (row->when) {
    case UNDEFINED_COUNT_NOT_0:
        return shift_count(c, insn) != 0;
    case UNDEFINED_COUNT_OVER_1:
        return shift_count(c, insn) > 1;
    case UNDEFINED_COUNT_FROM_WIDTH:
        return shift_count(c, insn) >= width;
    case UNDEFINED_COUNT_OVER_WIDTH:
        return shift_count(c, insn) > width;
    case UNDEFINED_SOURCE_0:
        return (rflags_after & X86_FLAG_ZF) != 0;
    case UNDEFINED_SIZE_16:
        return insn->opsize == 2;
    default:
        return true;
    }
}

void undefined_row_print(FILE *file, const struct undefined_row *row)
{
    static const char *const when[] = {
        [UNDEFINED_ALWAYS] = "",
        [UNDEFINED_COUNT_NOT_0] = ", count > 0",
        [UNDEFINED_COUNT_OVER_1] = ", count > 1",
        [UNDEFINED_COUNT_FROM_WIDTH] = ", count >= width",
        [UNDEFINED_COUNT_OVER_WIDTH] = ", count > width",
        [UNDEFINED_SOURCE_0] = ", source 0",
        [UNDEFINED_SIZE_16] = ", 16-bit",
    };
    static const struct {
        uint32_t flag;
        const char *name;
    } flags[] = {{O, "OF"}, {S, "SF"}, {Z, "ZF"}, {A, "AF"}, {P, "PF"}, {C, "CF"}};
    fprintf(file, "%s%s:", row->mnemonics, when[row->when]);
    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++)
        if (row->flags & flags[i].flag)
            fprintf(file, " %s", flags[i].name);
    if (row->value)
        fprintf(file, " destination");
}
