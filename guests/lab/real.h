// SPDX-License-Identifier: Apache-2.0
// The parts of the real-mode guest.
#pragma once

#include "mode16_real.h"

void real_bcd_cases(void);
void real_a20_cases(void);
