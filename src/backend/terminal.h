// SPDX-License-Identifier: Apache-2.0
// The user's terminal in raw mode, restored on every way out: return, exit(), fatal signals, stop.
#pragma once

#include "base/types.h"

// Puts stdin's terminal into raw mode. False when stdin is no terminal (nothing changes then).
bool terminal_raw(void);
void terminal_restore(void); // async-signal-safe; harmless when nothing was changed
void terminal_resume(void);  // raw again after SIGCONT
