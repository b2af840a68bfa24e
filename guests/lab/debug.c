// SPDX-License-Identifier: Apache-2.0
// Debug facilities and interrupt shadows: single steps, breakpoints of code, data and ports, DR6, DR7, MOV SS, STI, NMI
// (SDM vol. 3, 6.8, 17.2, 17.3; APM vol. 2, 13.1).
#include "debug.h"

struct debug_event debug_events[DEBUG_EVENTS];
unsigned debug_count;
bool debug_set_rf;

static bool note_event(struct lab_trap *t)
{
    if (debug_count < DEBUG_EVENTS)
        debug_events[debug_count] =
            (struct debug_event){t->ip, t->flags, t->dr6, t->gpr[1], t->cs & 3};
    debug_count++;
    lab_set_dr6(0);
    if (debug_set_rf)
        lab_set_flags(t, t->flags | FLAG_RF);
    return debug_count < 100;
}

const struct lab_trap *debug_run(const struct lab_state *s, ulong dr7)
{
    debug_count = 0;
    lab_set_dr6(0);
    lab_handler[VEC_DB] = note_event;
    lab_set_dr7(dr7);
    const struct lab_trap *t = lab_enter(s); // (probe_run() would read what is watched)
    lab_set_dr7(0x400);
    lab_handler[VEC_DB] = NULL;
    return t;
}

int main(void)
{
    if (!probe_possible(PROBE_32, 0)) {
        lab_section("nothing");
        lab_check(true, "left out: this monitor computes ring 0 by itself");
        return 0;
    }
    debug_steps();
    debug_code();
    debug_data();
    debug_registers();
    debug_shadows();
    return 0;
}
