// SPDX-License-Identifier: Apache-2.0
// Exceptions 0 to 19 by every way that leads to them: vector, error code, saved IP and flags, and that nothing
// else changed; faults while one is delivered; double faults.
// "triple" on the command line: ends by a triple fault.
#include "exceptions.h"

int main(void)
{
    if (lab_asked("triple"))
        exceptions_triple();
    exceptions_integer();
    if (!probe_possible(PROBE_32, 0)) {
        lab_check(true, "the rest is left out");
        return 0;
    }
    exceptions_fpu();
    exceptions_memory();
    exceptions_gates();
    exceptions_double();
    return 0;
}
