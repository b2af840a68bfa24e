// SPDX-License-Identifier: Apache-2.0
// The parts of the V86 guest.
#pragma once

#include "mode16.h"

void v86_frame_cases(void);
