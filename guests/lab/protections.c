// SPDX-License-Identifier: Apache-2.0
// Who may do what: every bit of the control registers tried alone, and every instruction that a ring or one of
// these bits refuses. SDM vol. 3A, 2.5, 2.8 and 5.9; vol. 2 for each instruction.
#include "protections.h"

bool protections_expect(const char *what, const struct lab_trap *t, u32 vector)
{
    if (vector == NONE)
        return lab_expect_none(what, t);
    return lab_expect_error(what, t, vector, 0);
}

int main(void)
{
    protections_registers();
    protections_gates();
    return 0;
}
