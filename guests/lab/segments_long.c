// SPDX-License-Identifier: Apache-2.0
// Segments in 64-bit mode: which bases, limits and rights count, the bases of FS and GS from descriptors, MSRs and
// instructions, SWAPGS, addresses that are not canonical (SDM vol. 3, 3.4.4 and 5.3.1; APM vol. 2, 4.8.2).
#include "segments.h"

#if IS_LONG
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define CR4_FSGSBASE 0x10000ul

static u64 cells[64];
static const u64 bad_addresses[] = {0x0000800000000000, 0xffff7fffffffffff, 0x8000000000000000,
                                    0x7fff000000000000};
#define BAD (sizeof(bad_addresses) / sizeof(bad_addresses[0]))

SNIPPET(long_ds, "mov %ax, (%rbx)\n mov (%rbx), %ecx");
SNIPPET(long_es, "mov %ax, %es:(%rbx)\n mov %es:(%rbx), %ecx");
SNIPPET(long_ss, "mov %ax, %ss:(%rbx)\n mov %ss:(%rbx), %ecx");
SNIPPET(long_cs, "mov %ax, %cs:(%rbx)\n mov %cs:(%rbx), %ecx");
SNIPPET(long_fs, "mov %ax, %fs:(%rbx)\n mov %fs:(%rbx), %ecx");
SNIPPET(long_gs, "mov %ax, %gs:(%rbx)\n mov %gs:(%rbx), %ecx");
static const char *const touches[] = {long_es, long_cs, long_ss, long_ds, long_fs, long_gs};
static const char *const touch_names[] = {"es", "cs", "ss", "ds", "fs", "gs"};
enum {
    ES,
    CS,
    SS,
    DS,
    FS,
    GS
};

// Whatever is loaded, all memory is open; only FS and GS have a base.
static void attributes(void)
{
    static const u32 limits[] = {0, 1, 0xfffff};
    for (u32 reg = ES; reg <= GS; reg++)
        for (u32 kind = 0x10; kind < 0x20; kind++)
            for (u32 n = 0; n < 6; n++) {
                if (reg == CS   ? !kind_is_code(kind)
                    : reg == SS ? !kind_is_writable(kind)
                                : !kind_is_readable(kind))
                    continue;
                u32 selector = SEL_TEST | 3, base = 0x1230;
                *lab_gdt_entry(SEL_TEST) = kind_descriptor(base, limits[n % 3], kind, 3, true,
                                                           reg == CS ? 0xa
                                                           : n >= 3  ? 0xc
                                                                     : 0);
                ring_prepare(3, touches[reg]);
                if (reg == ES)
                    ring_state.es = selector;
                else if (reg == CS)
                    ring_state.cs = selector;
                else if (reg == SS)
                    ring_state.ss = selector;
                else if (reg == DS)
                    ring_state.ds = selector;
                else if (reg == FS)
                    ring_state.fs = selector;
                else
                    ring_state.gs = selector;
                cells[0] = 0x11112222;
                ring_state.gpr[0] = 0x5678;
                ring_state.gpr[3] = (ulong)cells - (reg >= FS ? base : 0);
                u32 got = ring_run();
                lab_check(
                    got == OUTCOME_SKIPPED || (got == 0 && (u32)ring_trap->gpr[1] == 0x11115678 &&
                                               cells[0] == 0x11115678),
                    "%s: type %x limit %x: outcome %x", touch_names[reg], kind, limits[n % 3], got);
            }
    for (u32 reg = ES; reg <= GS; reg++) // null
        for (u32 null = 0; null < 4; null++) {
            ring_prepare(3, touches[reg]);
            if (reg == CS || reg == SS)
                continue;
            ring_state.es = ring_state.ds = ring_state.fs = ring_state.gs = null;
            ring_state.gpr[3] = (ulong)cells;
            u32 got = ring_run();
            lab_check(got == 0 || got == OUTCOME_SKIPPED, "null %s: outcome %x", touch_names[reg],
                      got);
        }
}

SNIPPET(long_push, "push %rax");
SNIPPET(long_pop, "pop %rax");
SNIPPET(long_call, "call 1f\n 1:");
SNIPPET(long_ret, "ret");
SNIPPET(long_enter, "enter $0, $0");
SNIPPET(long_leave, "leave");
SNIPPET(long_rbp, "mov (%rbp), %al");
SNIPPET(long_rsp, "mov (%rsp), %al");
SNIPPET(long_rbp_ds, "mov %ds:(%rbp), %al");
SNIPPET(long_rbx_ss, "mov %ss:(%rbx), %al");
SNIPPET(long_lods, "lodsb");
SNIPPET(long_jmp, "jmp *%rbx");
SNIPPET(long_call_rbx, "call *%rbx");
// Through the stack: #SS(0); any other way: #GP(0).
static void canonical(void)
{
    static const struct {
        const char *snippet, *name;
        u32 want;
    } rows[] = {
        {long_push, "push", FAULT(VEC_SS, 0)},        {long_pop, "pop", FAULT(VEC_SS, 0)},
        {long_call, "call", FAULT(VEC_SS, 0)},        {long_ret, "ret", FAULT(VEC_SS, 0)},
        {long_enter, "enter", FAULT(VEC_SS, 0)},      {long_leave, "leave", FAULT(VEC_SS, 0)},
        {long_rbp, "(rbp)", FAULT(VEC_SS, 0)},        {long_rsp, "(rsp)", FAULT(VEC_SS, 0)},
        {long_rbp_ds, "ds:(rbp)", FAULT(VEC_SS, 0)}, // the prefix is ignored (also measured: Zen 4)
        {long_rbx_ss, "ss:(rbx)", FAULT(VEC_GP, 0)}, // this, too
        {long_lods, "lods", FAULT(VEC_GP, 0)},        {long_ds, "(rbx)", FAULT(VEC_GP, 0)},
        {long_fs, "fs:(rbx)", FAULT(VEC_GP, 0)},      {long_jmp, "jmp rbx", FAULT(VEC_GP, 0)},
        {long_call_rbx, "call rbx", FAULT(VEC_GP, 0)}};
    for (u32 n = 0; n < sizeof(rows) / sizeof(rows[0]); n++)
        for (u32 i = 0; i < BAD; i++) {
            bool pushes = n == 0 || n == 2 || n == 4;
            ring_prepare(3, rows[n].snippet);
            ulong address = bad_addresses[i] + (pushes ? 64 : 0);
            ring_state.gpr[3] = ring_state.gpr[5] = ring_state.gpr[6] = address;
            if (n < 8 && n != 5 && n != 6)
                ring_state.sp = address;
            if (pushes && i == 1)
                continue; // (wraps into what is canonical)
            u32 got = ring_run();
            bool ok = got == rows[n].want || got == OUTCOME_SKIPPED;
            lab_check(ok && (got == OUTCOME_SKIPPED || ring_trap->ip == ring_state.ip),
                      "%s at %llx: outcome %x at %lx, want %x", rows[n].name, bad_addresses[i], got,
                      ring_trap->ip, rows[n].want);
        }
}

static void wrmsr(void *argument)
{
    const u64 *p = argument;
    lab_wrmsr((u32)p[0], p[1]);
}

SNIPPET(long_swapgs, "swapgs");
SNIPPET(long_rdfs, "rdfsbase %rax");
SNIPPET(long_rdfsl, "rdfsbase %eax");
SNIPPET(long_rdgs, "rdgsbase %rax");
SNIPPET(long_wrfs, "wrfsbase %rax");
SNIPPET(long_wrfsl, "wrfsbase %eax");
SNIPPET(long_wrgs, "wrgsbase %rax");

static void bases(void)
{
    static const u32 msrs[] = {MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE};
    u64 argument[2];

    for (u32 n = 0; n < 3; n++) {
        u64 old = lab_rdmsr(msrs[n]);
        for (u32 i = 0; i < BAD; i++) {
            argument[0] = msrs[n];
            argument[1] = bad_addresses[i];
            lab_expect_error("wrmsr of a base that is no address", lab_try(wrmsr, argument), VEC_GP,
                             0);
            lab_check(lab_rdmsr(msrs[n]) == old, "msr %x after the fault", msrs[n]);
        }
        static const u64 good[] = {0x00007fffffffffff, 0xffff800000000000, 0xffffffffffffffff,
                                   0x123456789, 0};
        for (u32 i = 0; i < 5; i++) {
            argument[0] = msrs[n];
            argument[1] = good[i];
            lab_expect_none("wrmsr of a base", lab_try(wrmsr, argument));
            lab_check(lab_rdmsr(msrs[n]) == good[i], "msr %x: %llx", msrs[n], lab_rdmsr(msrs[n]));
        }
        lab_wrmsr(msrs[n], old);
    }
    // A load takes the descriptor's 32 bits; a null one clears the base (older AMD processors keep it).
    *lab_gdt_entry(SEL_TEST) = lab_descriptor(0xfedcba98, 0, 0xf3, 0);
    lab_wrmsr(MSR_FS_BASE, 0x1234567890);
    lab_wrmsr(MSR_GS_BASE, 0x1234567890);
    __asm__ volatile("mov %0, %%fs\n mov %0, %%gs" : : "r"(SEL_TEST | 3));
    lab_equal("fs base of a descriptor", lab_rdmsr(MSR_FS_BASE), 0xfedcba98);
    lab_equal("gs base of a descriptor", lab_rdmsr(MSR_GS_BASE), 0xfedcba98);
    if (!lab_is_amd()) {
        lab_wrmsr(MSR_FS_BASE, 0x1234567890);
        __asm__ volatile("mov %0, %%fs" : : "r"(0));
        lab_equal("fs base of a null selector", lab_rdmsr(MSR_FS_BASE), 0);
    }
    // SWAPGS.
    lab_wrmsr(MSR_GS_BASE, 0x1111222233);
    lab_wrmsr(MSR_KERNEL_GS_BASE, 0xffffffff44445555);
    for (u32 cpl = 0; cpl < 4; cpl++) {
        ring_prepare(cpl, long_swapgs);
        // lab_enter() loads GS: the base is its descriptor's, which is 0.
        u32 got = ring_run();
        lab_check(got == (cpl ? FAULT(VEC_GP, 0) : 0) || got == OUTCOME_SKIPPED,
                  "swapgs cpl %u: outcome %x", cpl, got);
        if (cpl == 0 && got == 0) {
            lab_equal("gs base after swapgs", lab_rdmsr(MSR_GS_BASE), 0xffffffff44445555);
            lab_equal("kernel gs base after swapgs", lab_rdmsr(MSR_KERNEL_GS_BASE), 0);
        }
    }
    lab_wrmsr(MSR_KERNEL_GS_BASE, 0);
    lab_wrmsr(MSR_GS_BASE, 0);
    lab_wrmsr(MSR_FS_BASE, 0);
}

static void instructions(void)
{
    static const char *const all[] = {long_rdfs, long_rdfsl, long_rdgs,
                                      long_wrfs, long_wrfsl, long_wrgs};

    for (u32 on = 0; on < 2; on++) {
        lab_set_cr4((lab_cr4() & ~CR4_FSGSBASE) | (on ? CR4_FSGSBASE : 0));
        for (u32 cpl = 0; cpl < 4; cpl++)
            for (u32 n = 0; n < 6; n++) {
                ring_prepare(cpl, all[n]);
                ring_state.gpr[0] = 0x0000123456789abc;
                u32 got = ring_run(), want = on ? 0 : FAULT(VEC_UD, 0);
                lab_check(got == want || got == OUTCOME_SKIPPED,
                          "fsgsbase %u, cpl %u, on %u: outcome %x", n, cpl, on, got);
                if (got)
                    continue;
                u64 value = n == 4 ? 0x56789abc : 0x0000123456789abc;
                if (n >= 3)
                    lab_check(lab_rdmsr(n == 5 ? MSR_GS_BASE : MSR_FS_BASE) == value,
                              "fsgsbase %u: base %llx", n,
                              lab_rdmsr(n == 5 ? MSR_GS_BASE : MSR_FS_BASE));
                else
                    lab_check(ring_trap->gpr[0] == 0, "fsgsbase %u: read %lx", n,
                              ring_trap->gpr[0]);
                if (n < 3 || n == 4)
                    continue;
                for (u32 i = 0; i < BAD; i++) {
                    ring_prepare(cpl, all[n]);
                    ring_state.gpr[0] = bad_addresses[i];
                    got = ring_run();
                    lab_check(got == FAULT(VEC_GP, 0) || got == OUTCOME_SKIPPED,
                              "fsgsbase %u of %llx: outcome %x", n, bad_addresses[i], got);
                }
            }
    }
    lab_set_cr4(lab_cr4() & ~CR4_FSGSBASE);
}

void segments_long(void)
{
    lab_section("attributes in 64-bit mode");
    attributes();
    lab_section("canonical addresses");
    canonical();
    lab_section("bases of fs and gs");
    bases();
    if (lab_has(7, 0, 1, 0)) {
        lab_section("RDFSBASE and its like");
        instructions();
    }
}
#endif
