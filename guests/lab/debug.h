// SPDX-License-Identifier: Apache-2.0
// The groups of the guest `debug`, and the list of #DBs that a run gathered.
#pragma once

#include "probe.h"

#define DEBUG_EVENTS 16
#define DR6_BD 0x2000u
#define DR6_BS 0x4000u
#define DR6_FIXED 0xffff0ff0u

struct debug_event {
    ulong ip, flags, dr6, cx;
    unsigned ring;
};
extern struct debug_event debug_events[DEBUG_EVENTS];
extern unsigned debug_count;
extern bool debug_set_rf; // the handler returns with RF = 1
// Runs the state with DR7; every #DB is noted, DR6 cleared, and the run goes on.
const struct lab_trap *debug_run(const struct lab_state *s, ulong dr7);

void debug_steps(void);
void debug_code(void);
void debug_data(void);
void debug_registers(void);
void debug_shadows(void);
