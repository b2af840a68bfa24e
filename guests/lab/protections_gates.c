// SPDX-License-Identifier: Apache-2.0
// Instructions that the ring, IOPL or a bit of CR4 refuses. SDM vol. 3A, 5.9 (privileged instructions), 2.5
// (UMIP, TSD, PCE, FSGSBASE, SMAP); vol. 1, 19.5 (I/O).
#include "protections.h"

// One instruction each; memory operands are at `scratch`, which is in ESI or RSI (the function's argument).
static u8 scratch[64] __attribute__((aligned(16)));

#ifdef __x86_64__
#define SCRATCH "rdi"
#define ARGUMENT ""
#else
#define SCRATCH "edx"
#define ARGUMENT "mov 4(%esp), %edx\n"
#endif
#define CODE(name, text) \
    void name(void *);   \
    __asm__(".pushsection .text\n" #name ": " ARGUMENT text "\nret\n.popsection\n")

CODE(i_sgdt, "sgdt (%" SCRATCH ")");
CODE(i_sidt, "sidt (%" SCRATCH ")");
CODE(i_sldt, "sldt %ax");
CODE(i_sldt_memory, "sldt (%" SCRATCH ")");
CODE(i_str, "str %ax");
CODE(i_str_memory, "str (%" SCRATCH ")");
CODE(i_smsw, "smsw %ax");
CODE(i_smsw_memory, "smsw (%" SCRATCH ")");

CODE(i_hlt, "hlt");
CODE(i_clts, "clts");
CODE(i_lmsw, "mov $1, %ax; lmsw %ax");
CODE(i_lgdt, "lgdt (%" SCRATCH ")");
CODE(i_lidt, "lidt (%" SCRATCH ")");
CODE(i_lldt, "xor %eax, %eax; lldt %ax");
CODE(i_ltr, "mov $0x28, %ax; ltr %ax");
CODE(i_invlpg, "invlpg (%" SCRATCH ")");
CODE(i_invd, "invd");
CODE(i_wbinvd, "wbinvd");
CODE(i_rdmsr, "mov $0x10, %ecx; rdmsr");
CODE(i_wrmsr, "mov $0x174, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr");
#ifdef __x86_64__
CODE(i_read_cr0, "mov %cr0, %rax");
CODE(i_write_cr0, "mov %rax, %cr0");
CODE(i_read_cr2, "mov %cr2, %rax");
CODE(i_read_cr3, "mov %cr3, %rax");
CODE(i_read_cr4, "mov %cr4, %rax");
CODE(i_read_dr0, "mov %dr0, %rax");
CODE(i_write_dr7, "mov %rax, %dr7");
CODE(i_read_cr8, "mov %cr8, %rax");
CODE(i_swapgs, "swapgs");
CODE(i_sysret, "sysretq");
#else
CODE(i_read_cr0, "mov %cr0, %eax");
CODE(i_write_cr0, "mov %eax, %cr0");
CODE(i_read_cr2, "mov %cr2, %eax");
CODE(i_read_cr3, "mov %cr3, %eax");
CODE(i_read_cr4, "mov %cr4, %eax");
CODE(i_read_dr0, "mov %dr0, %eax");
CODE(i_write_dr7, "mov %eax, %dr7");
#endif
CODE(i_sysexit, ".byte 0x0f, 0x35");                   // (assemblers want a suffix in 64-bit code)
CODE(i_invpcid, ".byte 0x66, 0x0f, 0x38, 0x82, 0x06"); // the operand is not reached
CODE(i_xsetbv, "mov $1, %eax; xor %edx, %edx; xor %ecx, %ecx; .byte 0x0f, 0x01, 0xd1");
CODE(i_xgetbv, "xor %ecx, %ecx; .byte 0x0f, 0x01, 0xd0");
CODE(i_xgetbv1, "mov $1, %ecx; .byte 0x0f, 0x01, 0xd0");
CODE(i_xgetbv2, "mov $2, %ecx; .byte 0x0f, 0x01, 0xd0");
CODE(i_rdtsc, "rdtsc");
CODE(i_rdtscp, ".byte 0x0f, 0x01, 0xf9");
CODE(i_rdpmc, "xor %ecx, %ecx; rdpmc");
CODE(i_stac, ".byte 0x0f, 0x01, 0xcb");
CODE(i_clac, ".byte 0x0f, 0x01, 0xca");
CODE(i_cli, "cli");
CODE(i_sti, "sti; cli");
CODE(i_in8, "inb $0x80, %al");
CODE(i_in16, "inw $0x80, %ax");
CODE(i_in32, "inl $0x80, %eax");
CODE(i_out8, "outb %al, $0x80");
CODE(i_out32, "outl %eax, $0x80");
// Reserved registers.
CODE(i_cr1, ".byte 0x0f, 0x20, 0xc8");
CODE(i_cr5, ".byte 0x0f, 0x20, 0xe8");
CODE(i_cr6, ".byte 0x0f, 0x20, 0xf0");
CODE(i_cr7, ".byte 0x0f, 0x20, 0xf8");
CODE(i_to_cr1, ".byte 0x0f, 0x22, 0xc8");
CODE(i_to_cr5, ".byte 0x0f, 0x22, 0xe8");
CODE(i_lock_cr8, ".byte 0xf0, 0x0f, 0x20, 0xc0"); // AMD: CR8
CODE(i_dr4, ".byte 0x0f, 0x21, 0xe0");
CODE(i_dr5, ".byte 0x0f, 0x21, 0xe8");

struct instruction {
    const char *name;
    void (*code)(void *);
};

static const struct lab_trap *run(const struct instruction *i, u32 ring)
{
    return ring == 3 ? lab_user(i->code, scratch) : lab_try(i->code, scratch);
}

// --- UMIP ------------------------------------------------------------------------------------------------

static const struct instruction umip[] = {{"SGDT", i_sgdt},          {"SIDT", i_sidt},
                                          {"SLDT register", i_sldt}, {"SLDT", i_sldt_memory},
                                          {"STR register", i_str},   {"STR", i_str_memory},
                                          {"SMSW register", i_smsw}, {"SMSW", i_smsw_memory}};

static void umip_all(void)
{
    ulong cr4 = lab_cr4();
    bool has = lab_has(7, 0, 2, 2);
    for (u32 on = 0; on <= has; on++)
        for (u32 i = 0; i < sizeof(umip) / sizeof(umip[0]); i++) {
            lab_set_cr4(on ? cr4 | CR4_UMIP : cr4 & ~(ulong)CR4_UMIP);
            protections_expect(umip[i].name, run(&umip[i], 3), on ? VEC_GP : NONE);
            protections_expect(umip[i].name, run(&umip[i], 0), NONE);
        }
    lab_set_cr4(cr4);
}

// Virtual-8086 mode has no LDT and no task register; the other three are under UMIP.
static void umip_v86(void)
{
#ifndef __x86_64__
    static const struct {
        const char *name;
        u8 code[5];
        bool invalid;
    } codes[] = {{"SGDT", {0x0f, 0x01, 0x06, 0x00, 0x60}, false},
                 {"SIDT", {0x0f, 0x01, 0x0e, 0x00, 0x60}, false},
                 {"SMSW", {0x0f, 0x01, 0xe0, 0x90, 0x90}, false},
                 {"SLDT", {0x0f, 0x00, 0xc0, 0x90, 0x90}, true},
                 {"STR", {0x0f, 0x00, 0xc8, 0x90, 0x90}, true}};
    ulong cr4 = lab_cr4();
    for (u32 on = 0; on <= lab_has(7, 0, 2, 2); on++)
        for (u32 i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
            volatile u8 *at = (volatile u8 *)0x5000;
            for (u32 k = 0; k < 5; k++)
                at[k] = codes[i].code[k];
            at[5] = 0x0f; // UD2
            at[6] = 0x0b;
            struct lab_state s = {
                .ip = 0, .cs = 0x500, .flags = FLAG_VM | 2, .sp = 0x1000, .ss = 0x700};
            lab_set_cr4(on ? cr4 | CR4_UMIP : cr4 & ~(ulong)CR4_UMIP);
            const struct lab_trap *t = lab_enter(&s);
            bool refused = !codes[i].invalid && on;
            if (refused)
                lab_expect_error(codes[i].name, t, VEC_GP, 0);
            else if (lab_expect_error(codes[i].name, t, VEC_UD, 0))
                lab_equal(codes[i].name, t->ip, codes[i].invalid ? 0 : 5);
        }
    lab_set_cr4(cr4);
#endif
}

// --- the ring --------------------------------------------------------------------------------------------

static void privileged(void)
{
    static const struct instruction list[] = {
        {"HLT", i_hlt},           {"CLTS", i_clts},
        {"LMSW", i_lmsw},         {"LGDT", i_lgdt},
        {"LIDT", i_lidt},         {"LLDT", i_lldt},
        {"LTR", i_ltr},           {"INVLPG", i_invlpg},
        {"INVD", i_invd},         {"WBINVD", i_wbinvd},
        {"RDMSR", i_rdmsr},       {"WRMSR", i_wrmsr},
        {"from CR0", i_read_cr0}, {"to CR0", i_write_cr0},
        {"from CR2", i_read_cr2}, {"from CR3", i_read_cr3},
        {"from CR4", i_read_cr4}, {"from DR0", i_read_dr0},
        {"to DR7", i_write_dr7},  {"CLI", i_cli},
        {"STI", i_sti},           {"IN", i_in8},
        {"IN 16", i_in16},        {"IN 32", i_in32},
        {"OUT", i_out8},          {"OUT 32", i_out32},
#ifdef __x86_64__
        {"from CR8", i_read_cr8}, {"SWAPGS", i_swapgs},
        {"SYSRET", i_sysret},
#endif
    };
    for (u32 i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        protections_expect(list[i].name, run(&list[i], 3), VEC_GP);
    static const struct instruction sysexit = {"SYSEXIT", i_sysexit};
    protections_expect("SYSEXIT", run(&sysexit, 3),
                       VEC_GP); // also on AMD's processors in long mode
    static const struct instruction invpcid = {"INVPCID", i_invpcid};
    protections_expect("INVPCID", run(&invpcid, 3), lab_has(7, 0, 1, 10) ? VEC_GP : VEC_UD);
}

static void iopl(void)
{
    static const struct instruction list[] = {
        {"CLI", i_cli},    {"STI", i_sti},  {"IN", i_in8},      {"IN 16", i_in16},
        {"IN 32", i_in32}, {"OUT", i_out8}, {"OUT 32", i_out32}};
    for (u32 i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        protections_expect(list[i].name, lab_user_iopl3(list[i].code, scratch), NONE);
    // The bitmap: every byte of the access must be open.
    u8 *bitmap = (u8 *)&lab_tss + lab_tss.iomap;
    for (u32 open = 0; open < 16; open++)
        for (u32 i = 2; i < sizeof(list) / sizeof(list[0]); i++) {
            u32 bytes = i == 2 || i == 5 ? 1 : i == 3 ? 2 : 4, needed = (1u << bytes) - 1;
            bitmap[0x80 / 8] = (u8)~open;
            protections_expect(list[i].name, lab_user(list[i].code, scratch),
                               (open & needed) == needed ? NONE : VEC_GP);
        }
    bitmap[0x80 / 8] = 0xff;
    // IOPL 1 and 2 are not enough for ring 3.
    for (ulong level = 0; level < 4; level++)
        for (u32 i = 0; i < 2; i++) {
            struct lab_state s;
            lab_user_state(&s, list[i].code, scratch);
            s.flags = 2 | level << 12;
            const struct lab_trap *t = lab_enter(&s);
            protections_expect(list[i].name, t, level == 3 ? NONE : VEC_GP);
        }
}

// --- bits of CR4 -----------------------------------------------------------------------------------------

static void with_cr4(ulong cr4, const char *name, void (*code)(void *), u32 ring, u32 vector)
{
    struct instruction i = {name, code};
    ulong old = lab_cr4();
    lab_set_cr4(cr4);
    protections_expect(name, run(&i, ring), vector);
    lab_set_cr4(old);
}

static void time_and_counters(void)
{
    ulong cr4 = lab_cr4() & ~(ulong)(CR4_TSD | CR4_PCE);
    with_cr4(cr4, "RDTSC ring 3", i_rdtsc, 3, NONE);
    with_cr4(cr4 | CR4_TSD, "RDTSC ring 3 TSD", i_rdtsc, 3, VEC_GP);
    with_cr4(cr4 | CR4_TSD, "RDTSC ring 0 TSD", i_rdtsc, 0, NONE);
    if (lab_has(0x80000001, 0, 3, 27)) {
        with_cr4(cr4, "RDTSCP ring 3", i_rdtscp, 3, NONE);
        with_cr4(cr4 | CR4_TSD, "RDTSCP ring 3 TSD", i_rdtscp, 3, VEC_GP);
        with_cr4(cr4 | CR4_TSD, "RDTSCP ring 0 TSD", i_rdtscp, 0, NONE);
    }
    with_cr4(cr4, "RDPMC ring 3 without PCE", i_rdpmc, 3, VEC_GP);
}

static void extended_control(void)
{
    if (!lab_has(1, 0, 2, 26))
        return;
    ulong off = lab_cr4() & ~(ulong)CR4_OSXSAVE, on = off | CR4_OSXSAVE;
    bool one = lab_has(13, 1, 0, 2);
    for (u32 ring = 0; ring <= 3; ring += 3) {
        with_cr4(off, "XGETBV without OSXSAVE", i_xgetbv, ring, VEC_UD);
        with_cr4(on, "XGETBV", i_xgetbv, ring, NONE);
        with_cr4(on, "XGETBV 1", i_xgetbv1, ring, one ? NONE : VEC_GP);
        with_cr4(on, "XGETBV 2", i_xgetbv2, ring, VEC_GP);
        with_cr4(off, "XSETBV without OSXSAVE", i_xsetbv, ring, VEC_UD);
        with_cr4(on, "XSETBV", i_xsetbv, ring, ring ? VEC_GP : NONE);
    }
}

static volatile ulong flags_seen;

static void stac_clac(void *argument)
{
    if (argument)
        i_stac(0);
    else
        i_clac(0);
    flags_seen = lab_flags();
}

static void access_control(void)
{
    if (!lab_has(7, 0, 1, 20)) {
        with_cr4(lab_cr4(), "STAC without SMAP", i_stac, 0, VEC_UD);
        return;
    }
    with_cr4(lab_cr4(), "STAC ring 3", i_stac, 3, VEC_UD);
    with_cr4(lab_cr4(), "CLAC ring 3", i_clac, 3, VEC_UD);
    for (ulong set = 0; set < 2; set++)
        for (u32 smap = 0; smap <= !LONG_MODE; smap++) {
            ulong old = lab_cr4();
            lab_set_cr4(smap ? old | CR4_SMAP : old & ~(ulong)CR4_SMAP);
            lab_expect_none("STAC, CLAC", lab_try(stac_clac, (void *)set));
            lab_set_cr4(old);
            lab_equal("AC", (flags_seen & FLAG_AC) != 0, set);
        }
}

static void reserved_registers(void)
{
    static const struct instruction list[] = {{"from CR1", i_cr1},  {"from CR5", i_cr5},
                                              {"from CR6", i_cr6},  {"from CR7", i_cr7},
                                              {"to CR1", i_to_cr1}, {"to CR5", i_to_cr5}};
    for (u32 ring = 0; ring <= 3; ring += 3)
        for (u32 i = 0; i < sizeof(list) / sizeof(list[0]); i++)
            protections_expect(list[i].name, run(&list[i], ring), VEC_UD);
    bool cr8 = lab_is_amd() && lab_has(0x80000001, 0, 2, 4);
    with_cr4(lab_cr4(), "LOCK MOV CR0", i_lock_cr8, 0, cr8 ? NONE : VEC_UD);
    if (lab_has(1, 0, 3, 2)) {
        ulong de = lab_cr4() | CR4_DE;
        with_cr4(de, "DR4 with DE", i_dr4, 0, VEC_UD);
        with_cr4(de, "DR5 with DE", i_dr5, 0, VEC_UD);
        with_cr4(de & ~(ulong)CR4_DE, "DR4 without DE", i_dr4, 0, NONE);
        with_cr4(de & ~(ulong)CR4_DE, "DR5 without DE", i_dr5, 0, NONE);
    }
}

// --- FSGSBASE ----------------------------------------------------------------------------------------------

#ifdef __x86_64__
static u64 base_value, base_read;
static u32 base_form; // 0 to 3: RD/WR FS, GS of 64 bits

static void base_access(void *argument)
{
    u64 old = 0;
    (void)argument;
    switch (base_form) {
    case 0:
        __asm__ volatile("rdfsbase %0; wrfsbase %2; rdfsbase %1; wrfsbase %0"
                         : "=&r"(old), "=&r"(base_read)
                         : "r"(base_value));
        break;
    case 1:
        __asm__ volatile("rdgsbase %0; wrgsbase %2; rdgsbase %1; wrgsbase %0"
                         : "=&r"(old), "=&r"(base_read)
                         : "r"(base_value));
        break;
    default:
        __asm__ volatile("rdfsbase %0; wrfsbase %k2; rdfsbase %1; wrfsbase %0"
                         : "=&r"(old), "=&r"(base_read)
                         : "r"(base_value));
        break;
    }
}

static void segment_bases(void)
{
    static const u64 values[] = {0,
                                 1,
                                 0x7fffffffffff,
                                 0x800000000000,
                                 0xffff7fffffffffff,
                                 0xffff800000000000,
                                 ~0ull,
                                 0x8000000000000000,
                                 0x123456789abc};
    ulong off = lab_cr4() & ~(ulong)CR4_FSGSBASE, on = off | CR4_FSGSBASE;
    bool has = lab_has(7, 0, 1, 0);
    with_cr4(off, "without FSGSBASE", base_access, 0, VEC_UD);
    with_cr4(off, "without FSGSBASE, ring 3", base_access, 3, VEC_UD);
    for (u32 ring = 0; has && ring <= 3; ring += 3)
        for (base_form = 0; base_form < 3; base_form++)
            for (u32 i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
                base_value = values[i];
                bool canonical = (u64)((long long)(base_value << 16) >> 16) == base_value;
                bool ok = canonical || base_form == 2;
                with_cr4(on, "base", base_access, ring, ok ? NONE : VEC_GP);
                if (ok)
                    lab_equal("base", base_read, base_form == 2 ? (u32)base_value : base_value);
            }
}
#else
CODE(i_rdfsbase, ".byte 0xf3, 0x0f, 0xae, 0xc0");
CODE(i_wrgsbase, ".byte 0xf3, 0x0f, 0xae, 0xd8");

static void segment_bases(void)
{
    ulong on = lab_has(7, 0, 1, 0) ? lab_cr4() | CR4_FSGSBASE : lab_cr4();
    for (u32 ring = 0; ring <= 3; ring += 3) {
        with_cr4(on, "RDFSBASE outside of 64-bit mode", i_rdfsbase, ring, VEC_UD);
        with_cr4(on, "WRGSBASE outside of 64-bit mode", i_wrgsbase, ring, VEC_UD);
    }
}
#endif

void protections_gates(void)
{
    static const struct {
        const char *name;
        void (*group)(void);
    } groups[] = {{"UMIP", umip_all},
                  {"UMIP in virtual-8086 mode", umip_v86},
                  {"privileged instructions", privileged},
                  {"IOPL and the I/O bitmap", iopl},
                  {"TSD and PCE", time_and_counters},
                  {"XGETBV and XSETBV", extended_control},
                  {"STAC and CLAC", access_control},
                  {"reserved registers", reserved_registers},
                  {"FSGSBASE", segment_bases}};
    for (u32 i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        lab_section(groups[i].name);
        groups[i].group();
    }
}
