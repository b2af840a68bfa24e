// SPDX-License-Identifier: Apache-2.0
// Millions of guest instructions per second for a few loops: a tool for tuning, not a test.
// usage: interp-speed [loop...]
#include "rig.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const loops[] = {"alu",   "load",     "store",    "sieve", "branchy",
                                    "calls", "indirect", "chase",    "push",  "cmps",
                                    "crc",   "lockinc",  "straddle", "sse"};

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    uint64_t rounds = getenv("ROUNDS") ? strtoull(getenv("ROUNDS"), NULL, 0) : 5000000;
    for (unsigned i = 0; i < ARRAY_SIZE(loops); i++) {
        struct rig *rig;
        double start;
        bool wanted = argc < 2;
        for (int a = 1; a < argc; a++)
            wanted |= strcmp(argv[a], loops[i]) == 0;
        if (!wanted)
            continue;
        rig = rig_create(RIG_LONG);
        rig_load(rig, "speed.bin");
        rig->cpu->gpr[X86_R9] = rounds;
        rig_start(rig, i);
        start = now();
        if (rig_run(rig, 0) != VM_EXIT_HALT)
            printf("%s did not halt\n", loops[i]);
        start = now() - start;
        printf("%-9s %8.1f Minsn/s  (%llu instructions, %.2f per chain)\n", loops[i],
               (double)rig->cpu->icount / start / 1e6, (unsigned long long)rig->cpu->icount,
               (double)rig->cpu->icount / (double)rig_counter(rig, "block_chains"));
        rig_destroy(rig);
    }
    return 0;
}
