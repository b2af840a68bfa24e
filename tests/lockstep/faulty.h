// SPDX-License-Identifier: Apache-2.0
// The interpreter with one seeded fault: proves that the comparison notices and finds the place.
#pragma once

#include "engine/engine.h"

// "KIND@N": the instruction number N, counted from 1, leaves something wrong behind. KIND: register, flags,
// vector, x87, segment, count, memory, device; "hidden" is a register that only goes wrong when more than one
// instruction runs at once. False: no such kind.
bool faulty_parse(const char *text);
const struct engine_ops *faulty_engine(void);
