// SPDX-License-Identifier: Apache-2.0
// Holds the table of undefined results (undefined.c) against the instruction table's column `u=`: for each
// form, the flags of the rows that can hold for it are the flags that the column names.
#include "undefined.h"
#include <inttypes.h>
#include <stdio.h>

// Whether some operands make the row's condition true: a shift by the constant 1 never counts further.
static bool can_hold(const struct undefined_row *row, const struct x86_form *form)
{
    bool by_one = false;
    for (unsigned i = 0; i < form->operand_count; i++)
        by_one |= form->operand[i].kind == X86_OPND_ONE;
    return !by_one || row->when <= UNDEFINED_COUNT_NOT_0;
}

int main(void)
{
    unsigned failures = 0, masked = 0;
    bool used[UNDEFINED_ROWS_MAX] = {false};
    for (unsigned i = 0; i < X86_FORM_COUNT; i++) {
        const struct x86_form *form = &x86_forms[i];
        uint32_t flags = 0;
        if (!form->name)
            continue;
        for (unsigned k = 0; k < undefined_row_count; k++) {
            if (!undefined_row_names(&undefined_rows[k], form->mnemonic))
                continue;
            used[k] = true;
            if (can_hold(&undefined_rows[k], form))
                flags |= undefined_rows[k].flags;
        }
        masked += flags != 0;
        if (flags != form->flags_undefined) {
            printf("%s: undefined.c says %#" PRIx32 ", instructions.def %#" PRIx32 "\n", form->name,
                   flags, form->flags_undefined);
            failures++;
        }
    }
    for (unsigned k = 0; k < undefined_row_count; k++)
        if (!used[k] || !undefined_rows[k].reference) {
            printf("row %u (%s) names no instruction or no manual\n", k,
                   undefined_rows[k].mnemonics);
            failures++;
        }
    printf("%u forms leave flags undefined, %u differences\n", masked, failures);
    return failures != 0;
}
