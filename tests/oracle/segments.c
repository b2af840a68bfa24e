// SPDX-License-Identifier: Apache-2.0
// The descriptors that both sides of the laboratory have: the GDT of a Linux process, and an LDT of
// segments that make limits and types matter. The native side installs the LDT with modify_ldt(2)
// and checks what the kernel made of it; Croft's side puts the same eight bytes into its memory.
//
// Rule to keep: the kernel accepts present segments of DPL 3 only, sets the accessed bit, and no
// conforming code that is present.
#include "case.h"
#include <asm/ldt.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WINDOW ((uint32_t)ORACLE_WINDOW_BASE)
#define CODE ((uint32_t)ORACLE_CODE_BASE)

enum contents {
    DATA,
    DATA_DOWN, // expand-down
    CODE_SEG,
    CODE_CONFORMING
};

static const struct {
    uint32_t base, limit;
    uint8_t contents;
    bool strict; // data that cannot be written, code that cannot be read
    bool big, pages, absent;
} ldt[] = {
    // Code. The first six are 16-bit segments in which a case may lie, the next four 32-bit ones.
    {CODE, 0xffff, CODE_SEG},
    {CODE - 0xf000, 0xffff, CODE_SEG}, // the page ends where IP does
    {CODE, 0xbff, CODE_SEG},
    {CODE - 0xf000, 0x1ffff, CODE_SEG}, // limit beyond what IP reaches
    {CODE, 0xffff, CODE_SEG, .strict = true},
    {CODE - 0x8000, 8, CODE_SEG, .pages = true},
    {CODE, 0xfffff, CODE_SEG, .big = true, .pages = true},
    {CODE, 0xdff, CODE_SEG, .big = true},
    {CODE, 0xfff, CODE_SEG, .strict = true, .big = true},
    {CODE + 0x40000000, 0xfffff, CODE_SEG, .big = true, .pages = true}, // EIP wraps to the page
    {CODE, 0xffff, CODE_SEG, .absent = true},
    {CODE, 0xfffff, CODE_CONFORMING, .big = true, .pages = true, .absent = true},
    // Code as data.
    {WINDOW, 0x2fff, CODE_SEG},
    {WINDOW, 0xffff, CODE_SEG, .strict = true, .big = true},
    // Data; those that can be written are stacks too.
    {WINDOW, 0xffff, DATA},
    {WINDOW, 0xfffff, DATA, .big = true, .pages = true},
    {WINDOW, 0x17ff, DATA, .big = true},
    {WINDOW - 0xf000, 0xffff, DATA},
    {WINDOW - 0xe000, 0x1ffff, DATA}, // limit beyond 64 KiB
    {WINDOW - 0xe000, 0x1ffff, DATA, .big = true},
    {WINDOW, 0x7ff, DATA_DOWN},
    {WINDOW - 0x1000, 0x15ff, DATA_DOWN, .big = true},
    {WINDOW + 0x2000, 0xefff, DATA_DOWN, .pages = false}, // 0xf000 to 0xffff: behind the window
    {WINDOW - 0xf000, 0xf3ff, DATA_DOWN},                 // 0xf400 to 0xffff: the first page
    {WINDOW, 0xffff, DATA, .strict = true},
    {WINDOW, 0x3ff, DATA_DOWN, .strict = true, .big = true},
    {WINDOW, 0, DATA, .pages = true},                                 // one page
    {WINDOW + 0x80000000, 0xfffff, DATA, .big = true, .pages = true}, // addresses wrap at 4 GiB
    {0, 0xfffff, DATA, .big = true, .pages = true},
    {WINDOW + 0x801, 0, DATA},  // one byte
    {WINDOW + 1, 0xffff, DATA}, // no offset is aligned as it looks
    {WINDOW, 0xffff, DATA, .absent = true},
};

unsigned oracle_ldt_entries(void)
{
    return ARRAY_SIZE(ldt);
}

// As Linux has them, so that LAR, LSL, VERR and segment loads may be compared.
static const uint64_t gdt[7] = {
    [1] = UINT64_C(0x00cf9b000000ffff), // kernel, 32-bit code
    [2] = UINT64_C(0x00af9b000000ffff), // kernel, 64-bit code
    [3] = UINT64_C(0x00cf93000000ffff), // kernel, data
    [4] = UINT64_C(0x00cffb000000ffff), // user, 32-bit code
    [5] = UINT64_C(0x00cff3000000ffff), // user, data
    [6] = UINT64_C(0x00affb000000ffff), // user, 64-bit code
};

uint64_t oracle_descriptor(uint16_t sel)
{
    unsigned i = sel >> 3;
    if (!(sel & 4))
        return i < ARRAY_SIZE(gdt) ? gdt[i] : 0;
    if (i >= ARRAY_SIZE(ldt))
        return 0;
    unsigned type = 0x10u | (unsigned)ldt[i].contents << 2 | (ldt[i].strict ? 0 : 2) | 1;
    uint64_t d = ldt[i].limit & 0xffff;
    d |= (uint64_t)(ldt[i].base & 0xffffff) << 16;
    d |= (uint64_t)(type | 0x60 | (ldt[i].absent ? 0 : 0x80)) << 40;
    d |= (uint64_t)(ldt[i].limit >> 16) << 48;
    d |= (uint64_t)ldt[i].big << 54 | (uint64_t)ldt[i].pages << 55;
    return d | (uint64_t)(ldt[i].base >> 24) << 56;
}

struct x86_seg oracle_segment(uint16_t sel)
{
    struct x86_seg seg = {.sel = sel, .attr = X86_ATTR_UNUSABLE};
    uint64_t d = (sel & ~3u) ? oracle_descriptor(sel) : 0;
    if (!d)
        return seg;
    seg.attr = (uint32_t)(d >> 40) & 0xf0ff;
    seg.limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
    if (seg.attr & X86_ATTR_G)
        seg.limit = seg.limit << 12 | 0xfff;
    seg.base = (d >> 16 & 0xffffff) | (d >> 56 << 24);
    return seg;
}

int oracle_ldt_install(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(ldt); i++) {
        struct user_desc entry = {
            .entry_number = i,
            .base_addr = ldt[i].base,
            .limit = ldt[i].limit,
            .seg_32bit = ldt[i].big,
            .contents = ldt[i].contents,
            .read_exec_only = ldt[i].strict,
            .limit_in_pages = ldt[i].pages,
            .seg_not_present = ldt[i].absent,
        };
        if (syscall(SYS_modify_ldt, 0x11, &entry, sizeof(entry)) != 0)
            return -1;
    }
    uint64_t back[ARRAY_SIZE(ldt)];
    if (syscall(SYS_modify_ldt, 0, back, sizeof(back)) != (long)sizeof(back))
        return -1;
    for (unsigned i = 0; i < ARRAY_SIZE(ldt); i++)
        if (back[i] != oracle_descriptor((uint16_t)(i << 3 | 7))) {
            fprintf(stderr, "oracle: the kernel's LDT entry %u is %016llx\n", i,
                    (unsigned long long)back[i]);
            return -1;
        }
    return 0;
}
