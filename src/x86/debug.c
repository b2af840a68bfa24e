// SPDX-License-Identifier: Apache-2.0
// Breakpoints in the debug registers (SDM vol. 3, 18.2; APM vol. 2, 13.1). Single-stepping and the
// delivery of #DB are in exception.c; the registers themselves are read and written in control.c.
//
// Rules to keep:
//  - An execution breakpoint is a fault: DR6 is set at once, nothing was executed. Data and I/O
//    breakpoints are traps: they collect in dr6_pending until the instruction is complete. When it
//    faults instead, its matches are dropped (iterations of REP that are complete were reported).
//  - The TLB holds no read or write tags for a watched page, so only the slow paths look here.
#include "x86/state.h"
#include "x86/system.h"

enum {
    BREAK_EXEC = 0,
    BREAK_WRITE = 1,
    BREAK_IO = 2,
    BREAK_ACCESS = 3
};

static bool enabled(const struct x86_cpu *cpu, unsigned n)
{
    return (cpu->dr7 >> (n * 2)) & 3;
}

static unsigned kind(const struct x86_cpu *cpu, unsigned n)
{
    return (cpu->dr7 >> (16 + n * 4)) & 3;
}

static unsigned length(const struct x86_cpu *cpu, unsigned n)
{
    static const uint8_t lengths[4] = {1, 2, 8, 4};
    return lengths[(cpu->dr7 >> (18 + n * 4)) & 3];
}

// Whether [at, at+size) touches what breakpoint n watches. Its address is aligned to its length.
static bool touches(const struct x86_cpu *cpu, unsigned n, uint64_t at, uint64_t size)
{
    uint64_t len = length(cpu, n), start = cpu->dr[n] & ~(len - 1);
    return at - start < len || start - at < size;
}

bool x86_debug_page_armed(const struct x86_cpu *cpu, gva_t page)
{
    for (unsigned n = 0; n < 4; n++)
        if (enabled(cpu, n) && (kind(cpu, n) & 1) && touches(cpu, n, page, PAGE_SIZE))
            return true;
    return false;
}

// B0..B3 also report breakpoints that match but are not enabled, as long as one that is enabled
// does.
static void pend(struct x86_cpu *cpu, unsigned matched)
{
    unsigned hit = 0;
    for (unsigned n = 0; n < 4; n++)
        if ((matched & (1u << n)) && enabled(cpu, n))
            hit = 1;
    if (!hit)
        return;
    cpu->dr6_pending |= matched;
    atomic_fetch_or(&cpu->events, X86_EVENT_TRAP);
}

void x86_debug_check_exec(struct x86_cpu *cpu, gva_t lin)
{
    unsigned matched = 0;
    if (cpu->rflags & X86_FLAG_RF)
        return;
    for (unsigned n = 0; n < 4; n++)
        if (enabled(cpu, n) && kind(cpu, n) == BREAK_EXEC && cpu->dr[n] == lin)
            matched |= 1u << n;
    if (!matched)
        return;
    cpu->dr6 = (cpu->dr6 & ~UINT64_C(15)) | matched;
    x86_raise(cpu, X86_DB);
}

void x86_debug_check_data(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access)
{
    unsigned matched = 0;
    for (unsigned n = 0; n < 4; n++) {
        unsigned k = kind(cpu, n);
        if (k == BREAK_ACCESS || (k == BREAK_WRITE && (access & X86_ACCESS_WRITE)))
            if (touches(cpu, n, lin, size))
                matched |= 1u << n;
    }
    pend(cpu, matched);
}

void x86_debug_check_io(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
    unsigned matched = 0;
    if (!(cpu->cr4 & X86_CR4_DE)) // else type 2 is undefined
        return;
    for (unsigned n = 0; n < 4; n++)
        if (kind(cpu, n) == BREAK_IO && touches(cpu, n, port, size))
            matched |= 1u << n;
    pend(cpu, matched);
}
