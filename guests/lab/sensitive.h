// SPDX-License-Identifier: Apache-2.0
#pragma once

void sensitive_16bit(void); // real mode and V86 mode
