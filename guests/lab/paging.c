// SPDX-License-Identifier: Apache-2.0
// Paging in every mode: which access faults, with which error code, and what it leaves in the entries; what
// must be forgotten when; the rules of the registers that switch it. SDM vol. 3A, chapter 4.
#include "paging.h"

static void switch_on(void *shape)
{
    paging_on((enum shape)(ulong)shape);
}

static bool shapes_work = true; // else there is no point in asking how to change between them

static void shape_all(enum shape shape, const char *const names[])
{
    // (A trial: there are monitors without the old shapes.)
    if (!lab_expect_none("paging on", lab_try(switch_on, (void *)shape))) {
        shapes_work = false;
        return;
    }
    static void (*const groups[])(void) = {paging_rights,   paging_reserved, paging_dirty,
                                           paging_operands, paging_implicit, paging_flushes,
                                           paging_aliases};
    for (unsigned i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        if (shape == SHAPE_64 && i == 3) { // the rest in the upper half
            paging_upper = true;
            paging_on(shape);
        }
        lab_section(names[i]);
        groups[i]();
    }
    paging_off();
}

int main(void)
{
    cpu = (struct paging_cpu){.pse = lab_has(1, 0, 3, 3),
                              .pae = lab_has(1, 0, 3, 6),
                              .pge = lab_has(1, 0, 3, 13),
                              .pse36 = lab_has(1, 0, 3, 17),
                              .pcid = lab_has(1, 0, 2, 17),
                              .smep = lab_has(7, 0, 1, 7),
                              .smap = lab_has(7, 0, 1, 20),
                              .invpcid = lab_has(7, 0, 1, 10),
                              .nx = lab_has(0x80000001, 0, 3, 20),
                              .gigabyte = lab_has(0x80000001, 0, 3, 26),
                              .amd = lab_is_amd(),
                              .width = 36};
    if (lab_cpuid(0x80000000, 0).a >= 0x80000008)
        cpu.width = lab_cpuid(0x80000008, 0).a & 0xff;
    paging_brief = lab_asked("trials");
#ifdef __x86_64__
    static const char *const names64[] = {"4-level: rights",
                                          "4-level: reserved bits",
                                          "4-level: accessed and dirty",
                                          "4-level: operands",
                                          "4-level: the processor's own accesses",
                                          "4-level: flushes",
                                          "4-level: aliases"};
    shape_all(SHAPE_64, names64);
#else
    static const char *const names32[] = {"32-bit: rights",
                                          "32-bit: reserved bits",
                                          "32-bit: accessed and dirty",
                                          "32-bit: operands",
                                          "32-bit: the processor's own accesses",
                                          "32-bit: flushes",
                                          "32-bit: aliases"};
    shape_all(SHAPE_32, names32);
    if (cpu.pae) {
        static const char *const names_pae[] = {"PAE: rights",
                                                "PAE: reserved bits",
                                                "PAE: accessed and dirty",
                                                "PAE: operands",
                                                "PAE: the processor's own accesses",
                                                "PAE: flushes",
                                                "PAE: aliases"};
        shape_all(SHAPE_PAE, names_pae);
    }
    if (shapes_work)
        paging_switches();
#endif
    return 0;
}
