// SPDX-License-Identifier: Apache-2.0
// Several processors: start, interrupts between them, atomic operations, memory ordering, code and page tables
// that one changes under another. SDM vol. 3A, chapters 8, 9 and 10. Wants four processors; with fewer it tries
// what it can.
#include "smp.h"

int main(void)
{
    static const struct {
        const char *name;
        void (*group)(void);
    } groups[] = {
        {"start", smp_start},          {"IPIs", smp_ipis}, {"atomic operations", smp_memory},
        {"memory order", smp_litmus},  {"code", smp_code}, {"page tables", smp_tables},
        {"paravirtual EOI", smp_pveoi}};
    cpus_find();
    for (u32 i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        lab_section(groups[i].name);
        if (i == 0 || cpu_count > 1)
            groups[i].group();
    }
    return 0;
}
