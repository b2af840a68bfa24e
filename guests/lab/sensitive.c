// SPDX-License-Identifier: Apache-2.0
// The instructions that are sensitive and yet may run in ring 3 (SGDT SIDT SLDT SMSW STR, PUSHF POPF, LAR LSL
// VERR VERW, POP and PUSH and MOV of segment registers, far CALL JMP RET, INT, and with them IRET, SYSENTER,
// SYSEXIT): in every ring of every mode the guest sees its own ring, flags and tables, and not those of a monitor
// that squeezed it into another ring. (The list: Robin and Irvine, "Analysis of the Intel Pentium's ability to
// support a secure virtual machine monitor", 2000.) This file: protected mode with 32- and 16-bit code, long
// mode with 64- and 32-bit code; sensitive16.c: real and virtual-8086 mode.
//
// Rule to keep: a snippet finds its buffer at EBX, its argument in ECX, and comes to its end with UD2; what it
// read is in EAX or in the buffer.
#include "sensitive.h"
#include "rings.h"

// One meaning, assembled for each width of code. In 16-bit code the operands stay 32 bits wide by prefixes.
#ifdef __x86_64__
#define SNIPPETS(name, text64, text32)                            \
    __asm__(".text\n" #name "_0:\n" text64 "\nud2\n"              \
            ".code32\n" #name "_1:\n" text32 "\nud2\n.code64\n"); \
    extern const char name##_0[], name##_1[];                     \
    static const char *const name[] = {name##_0, name##_1}
static const char *const width_name[] = {"64-bit code", "compatibility mode"};
#else
#define SNIPPETS(name, text64, text32)                            \
    __asm__(".text\n" #name "_0:\n" text32 "\nud2\n"              \
            ".code16\n" #name "_1:\n" text32 "\nud2\n.code32\n"); \
    extern const char name##_0[], name##_1[];                     \
    static const char *const name[] = {name##_0, name##_1}
static const char *const width_name[] = {"32-bit code", "16-bit code"};
#endif
#define BOTH(name, text) SNIPPETS(name, text, text)

BOTH(sgdt, "sgdt (%ebx)");
BOTH(sidt, "sidt (%ebx)");
BOTH(sldt_register, "sldt %eax");
BOTH(sldt_memory, "sldt (%ebx)");
BOTH(str_register, "str %eax");
BOTH(str_memory, "str (%ebx)");
BOTH(smsw_register, "smsw %eax");
BOTH(smsw_memory, "smsw (%ebx)");
SNIPPETS(pushf_pop, "pushfq\npopq %rax", "pushfl\npopl %eax");
SNIPPETS(popf_pushf, "pushq %rcx\npopfq\npushfq\npopq %rax",
         "pushl %ecx\npopfl\npushfl\npopl %eax");
BOTH(lar, "lar %ecx, %eax");
BOTH(lsl, "lsl %ecx, %eax");
BOTH(verr, "verr %cx\nsetz %al");
BOTH(verw, "verw %cx\nsetz %al");
BOTH(mov_from_cs, "mov %cs, %eax");
BOTH(mov_from_ss, "mov %ss, %eax");
SNIPPETS(mov_to_es, "mov %ecx, %es\nmov %es, %eax", "movl %ecx, %es\nmovl %es, %eax");
BOTH(mov_to_ss, "mov %ecx, %ss\nmov %ss, %eax");
#ifdef __x86_64__
SNIPPETS(push_pop_fs, "push %fs\npop %rax", "pushl %fs\npopl %eax");
SNIPPETS(pop_fs, "push %rcx\npop %fs\nmov %fs, %eax", "pushl %ecx\npopl %fs\nmovl %fs, %eax");
#else
SNIPPETS(push_pop_fs, "", "pushl %fs\npopl %eax");
SNIPPETS(pop_fs, "", "pushl %ecx\npopl %fs\nmovl %fs, %eax");
SNIPPETS(push_cs, "", "pushl %cs\npopl %eax");
#endif
// The far address is in the buffer. What a far CALL pushed tells the caller's ring.
BOTH(call_far, "lcalll *(%ebx)");
BOTH(jmp_far, "ljmpl *(%ebx)");
BOTH(landing, "mov %cs, %eax\nmov (%esp), %edx\nmov 4(%esp), %ecx");
SNIPPETS(ret_far, "push %rcx\npush %rdx\nlretq", "pushl %ecx\npushl %edx\nlretl");
SNIPPETS(iret_same,
         "mov %rsp, %rsi\nmov %ss, %edi\npush %rdi\npush %rsi\npush %rcx\nmov %cs, %edi\n"
         "push %rdi\npush %rdx\niretq",
         "pushl %ecx\npushl %cs\npushl %edx\niretl");
SNIPPETS(after_iret, "pushfq\npopq %rax", "pushfl\npopl %eax");
BOTH(int_open, "int $0x80");
BOTH(int_closed, "int $0x90");
BOTH(sysenter, "sysenter");
BOTH(sysexit, ".byte 0x0f, 0x35");
BOTH(entered, "nop");

#define WIDTHS 2
static u8 buffer[64] __attribute__((aligned(16)));
static unsigned cpl, width;
static const char *where;

static u32 far_base; // of the code segment: IP = linear address - far_base

static u16 code_selector(unsigned ring)
{
    if (width == 0)
        return ring_code[ring];
    return IS_LONG ? ring_code32[ring] : (u16)(SEL_TEST + ring * 8 + ring);
}

// Starts a snippet with ECX = argument; the outcome.
static u32 run(const char *const snippet[], u32 argument, u32 edx, u32 flags)
{
    ring_prepare(cpl, snippet[width]);
    ring_state.cs = code_selector(cpl);
    ring_state.ip = (ulong)snippet[width] - far_base;
    ring_state.flags = 2 | flags;
    ring_state.gpr[1] = argument;
    ring_state.gpr[2] = edx;
    ring_state.gpr[3] = (u32)(ulong)buffer;
    return ring_run();
}

static u64 memory(unsigned at, unsigned bytes)
{
    u64 v = 0;
    for (unsigned i = bytes; i-- > 0;)
        v = v << 8 | buffer[at + i];
    return v;
}

static void fill(void)
{
    for (unsigned i = 0; i < sizeof(buffer); i++)
        buffer[i] = 0xa5;
}

static void outcome(const char *what, u32 got, u32 want)
{
    lab_check(got == want || got == OUTCOME_SKIPPED, "%s, %s, ring %u: outcome %x, want %x at %lx",
              what, where, cpl, got, want, ring_trap ? ring_trap->ip : 0);
}

static void value(const char *what, u64 got, u64 want)
{
    if (ring_trap && ring_trap->vector > 255)
        return;
    lab_check(got == want, "%s, %s, ring %u: %llx, want %llx", what, where, cpl, got, want);
}

static u64 eax(void)
{
    return ring_trap ? ring_trap->gpr[0] : 0;
}

// --- tables and state words (SDM vol. 2: SGDT, SIDT, SLDT, STR, SMSW) ----------------------------------
static void stores(bool umip)
{
    struct {
        u16 limit;
        ulong base;
    } __attribute__((packed)) gdtr, idtr;
    // Under UMIP they are ring 0's; otherwise every ring sees the tables that this guest loaded.
    u32 want = umip && cpl ? FAULT(VEC_GP, 0) : 0;
    unsigned base = IS_LONG && width == 0 ? 8 : 4;

    __asm__ volatile("sgdt %0; sidt %1" : "=m"(gdtr), "=m"(idtr));
    fill();
    outcome("sgdt", run(sgdt, 0, 0, 0), want);
    if (!want) {
        value("sgdt limit", memory(0, 2), sizeof(lab_gdt) - 1);
        value("sgdt base", memory(2, base), (ulong)lab_gdt);
        value("behind sgdt", memory(2 + base, 1), 0xa5);
    } else {
        value("refused sgdt", memory(0, 8), 0xa5a5a5a5a5a5a5a5);
    }
    lab_check(gdtr.limit == sizeof(lab_gdt) - 1, "own table");
    fill();
    outcome("sidt", run(sidt, 0, 0, 0), want);
    if (!want) {
        value("sidt limit", memory(0, 2), sizeof(lab_idt) - 1);
        value("sidt base", memory(2, base), (ulong)lab_idt);
    }
    static const struct {
        const char *name, *const *reg, *const *memory;
    } words[] = {{"sldt", sldt_register, sldt_memory},
                 {"str", str_register, str_memory},
                 {"smsw", smsw_register, smsw_memory}};
    const u32 wants[] = {SEL_LDT, SEL_TSS, (u32)lab_cr0()};
    for (unsigned i = 0; i < 3; i++) {
        outcome(words[i].name, run(words[i].reg, 0, 0, 0), want);
        if (!want)
            value(words[i].name, eax() & 0xffffffff, wants[i]);
        fill();
        outcome(words[i].name, run(words[i].memory, 0, 0, 0), want);
        if (!want) {
            value(words[i].name, memory(0, 2), wants[i] & 0xffff);
            value("16 bits are stored", memory(2, 2), 0xa5a5);
        }
    }
}

// --- flags (SDM vol. 2: PUSHF, POPF, IRET) ------------------------------------------------------------
#define ARITHMETIC (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

// What a POPF of `v` makes of the flags `f`: IF only with CPL <= IOPL, IOPL only in ring 0, and VM, VIF, VIP,
// RF not at all.
static u32 after_popf(u32 f, u32 v)
{
    u32 may = ARITHMETIC | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID;
    if (cpl == 0)
        may |= FLAG_IOPL;
    if (cpl <= (f >> 12 & 3))
        may |= FLAG_IF;
    return (f & ~may) | (v & may) | 2;
}

static void flags(void)
{
    static const u32 patterns[] = {0,
                                   FLAG_IF,
                                   FLAG_IOPL,
                                   FLAG_IF | FLAG_IOPL,
                                   ARITHMETIC | FLAG_DF,
                                   FLAG_AC | FLAG_ID,
                                   0x1000,
                                   0x2000 | FLAG_IF,
                                   FLAG_NT,
                                   FLAG_VIF | FLAG_VIP,
                                   FLAG_VIF | FLAG_IF};

    for (u32 iopl = 0; iopl < 4; iopl++) {
        for (u32 on = 0; on < 2; on++) {
            u32 start = iopl << 12 | (on ? FLAG_IF | FLAG_ZF | FLAG_CF : FLAG_SF | FLAG_PF);
            outcome("pushf", run(pushf_pop, 0, 0, start), 0);
            value("pushf", eax(), start | 2);
            for (u32 i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
                u32 v = patterns[i];
                outcome("popf", run(popf_pushf, v, 0, start), 0);
                value("popf", eax(), after_popf(start | 2, v));
                if (v & FLAG_NT)
                    continue;
                // IRET to the same ring obeys the same rules; RF it can set, but PUSHF shows none, and VIF, VIP
                // it takes in ring 0 only.
                u32 want = after_popf(start | 2, v);
                if (cpl == 0)
                    want |= v & (FLAG_VIF | FLAG_VIP);
                u32 ip = (u32)((ulong)after_iret[width] - far_base);
                outcome("iret", run(iret_same, v | 2, ip, start), 0);
                value("iret", eax(), want);
            }
        }
    }
}

// --- segments (SDM vol. 2: LAR, LSL, VERR, VERW, MOV, POP, PUSH) ---------------------------------------
static void segments(void)
{
    for (unsigned ring = 0; ring < 4; ring++) {
        const u16 selectors[] = {ring_code[ring], ring_data[ring]};
        for (unsigned i = 0; i < 2; i++) {
            u32 selector = selectors[i] & 0xfffcu;
            u64 d = *lab_gdt_entry(selector);
            bool sees = ring >= cpl;
            u32 rights = (u32)(d >> 32) & 0xf0ff00;
            outcome("lar", run(lar, selector, 0, 0), 0);
            value("lar ZF", ring_trap->flags & FLAG_ZF, sees ? FLAG_ZF : 0);
            if (sees) // (bits 19:16 are undefined on some processors)
                value("lar", eax() & 0xf0ff00, rights);
            outcome("lsl", run(lsl, selector, 0, 0), 0);
            value("lsl ZF", ring_trap->flags & FLAG_ZF, sees ? FLAG_ZF : 0);
            if (sees)
                value("lsl", eax() & 0xffffffff, 0xffffffff);
            outcome("verr", run(verr, selector, 0, 0), 0);
            value("verr", eax() & 1, sees);
            outcome("verw", run(verw, selector, 0, 0), 0);
            value("verw", eax() & 1, sees && i == 1);
            u32 want = sees ? 0 : FAULT_SEL(VEC_GP, selector);
            outcome("mov es", run(mov_to_es, selector, 0, 0), want);
            if (!want)
                value("mov es", eax(), selector);
            outcome("pop fs", run(pop_fs, selector | 3, 0, 0),
                    ring == 3 ? 0 : FAULT_SEL(VEC_GP, selector));
            if (i == 1) {
                want = ring == cpl ? 0 : FAULT_SEL(VEC_GP, selector);
                outcome("mov ss", run(mov_to_ss, selector | cpl, 0, 0), want);
            }
        }
    }
    outcome("mov from cs", run(mov_from_cs, 0, 0, 0), 0);
    value("cs tells the ring", eax(), code_selector(cpl));
    outcome("mov from ss", run(mov_from_ss, 0, 0, 0), 0);
    value("ss tells the ring", eax(), ring_data[cpl]);
    outcome("push fs", run(push_pop_fs, 0, 0, 0), 0);
    value("push fs", eax() & 0xffff, ring_data[cpl]);
#ifndef __x86_64__
    outcome("push cs", run(push_cs, 0, 0, 0), 0);
    value("pushed cs tells the ring", eax() & 0xffff, code_selector(cpl));
#endif
}

// --- far transfers (SDM vol. 2: CALL, JMP, RET, INT) -----------------------------------------------------
static void far_pointer(u32 offset, u32 selector)
{
    fill();
    for (unsigned i = 0; i < 4; i++)
        buffer[i] = (u8)(offset >> 8 * i);
    buffer[4] = (u8)selector;
    buffer[5] = (u8)(selector >> 8);
}

static void transfers(void)
{
    u32 ip = (u32)((ulong)landing[width] - far_base);

    for (unsigned ring = 0; ring < 4; ring++) {
        u32 to = code_selector(ring), refused = FAULT_SEL(VEC_GP, to);
        far_pointer(ip, to);
        outcome("jmp", run(jmp_far, 0, 0, 0), ring == cpl ? 0 : refused);
        if (ring == cpl)
            value("jmp: cs tells the ring", eax(), to);
        far_pointer(ip, to & 0xfffc); // the RPL becomes the CPL
        outcome("jmp, RPL 0", run(jmp_far, 0, 0, 0), ring == cpl ? 0 : refused);
        if (ring == cpl)
            value("jmp: RPL becomes CPL", eax(), to);
        outcome("call", run(call_far, 0, 0, 0), ring == cpl ? 0 : refused);
        if (ring == cpl) {
            value("call: RPL becomes CPL", eax(), to);
            value("call: pushed cs tells the ring", ring_trap->gpr[1] & 0xffff, to);
        }
        if (ring < cpl)
            outcome("ret to an inner ring", run(ret_far, to, ip, 0), refused);
        if (ring == cpl) {
            outcome("ret", run(ret_far, to, ip, 0), 0);
            value("ret: cs tells the ring", eax(), to);
        }
    }
    // Gates: 80h is everybody's, 90h ring 0's. The pushed CS tells the ring that the guest believes in.
    outcome("int", run(int_open, 0, 0, FLAG_ZF), FAULT(VEC_LAB, 0));
    value("int: cs", ring_trap->cs, code_selector(cpl));
    value("int: flags", ring_trap->flags, FLAG_ZF | 2);
    outcome("int, ring 0's", run(int_closed, 0, 0, 0),
            cpl ? FAULT(VEC_GP, 0x90 * 8 + 2) : FAULT(0x90, 0));
}

// --- SYSENTER, SYSEXIT (SDM vol. 2; APM vol. 3: invalid in long mode) ------------------------------------
static void fast_calls(void)
{
    if (!lab_has(1, 0, 3, 11))
        return;
    bool invalid = IS_LONG && lab_is_amd();
    lab_wrmsr(0x174, SEL_CODE0);
    lab_wrmsr(0x175, (ulong)ring_stack[0] + RING_STACK - 512);
    lab_wrmsr(0x176, (ulong)entered[0]);
    outcome("sysenter", run(sysenter, 0, 0, FLAG_CF), invalid ? FAULT(VEC_UD, 0) : 0);
    if (!invalid) {
        value("sysenter: cs", ring_trap->cs, SEL_CODE0);
        value("sysenter: sp", ring_trap->sp, (ulong)ring_stack[0] + RING_STACK - 512);
        value("sysenter: flags", ring_trap->flags & ~FLAG_RF, FLAG_CF | 2);
    }
    // (In outer rings real AMD processors raise #GP even in long mode.)
    u32 want = cpl ? FAULT(VEC_GP, 0) : FAULT(VEC_UD, 0);
    if (!cpl && !invalid) {
        // Without REX.W: to 32-bit code of ring 3, at CS + 16 and SS + 24.
        lab_wrmsr(0x174, IS_LONG ? SEL_CODE32_3 - 3 - 16 : SEL_CODE0);
        outcome("sysexit",
                run(sysexit, (u32)(ulong)ring_stack[3] + 512, (u32)(ulong)entered[IS_LONG], 0), 0);
        value("sysexit: ring 3", ring_trap->cs, IS_LONG ? SEL_CODE32_3 : SEL_CODE3);
    } else {
        outcome("sysexit", run(sysexit, 0, 0, 0), want);
    }
    lab_wrmsr(0x174, 0); // a null selector refuses both
    outcome("sysenter without selector", run(sysenter, 0, 0, 0),
            invalid ? FAULT(VEC_UD, 0) : FAULT(VEC_GP, 0));
    outcome("sysexit without selector", run(sysexit, 0, 0, 0),
            invalid && !cpl ? FAULT(VEC_UD, 0) : FAULT(VEC_GP, 0));
}

int main(void)
{
    static char names[WIDTHS * 4][40];

    out8(0x21, 0xff); // the tries run with interrupts on
    out8(0xa1, 0xff);
    rings_setup();
    for (width = 0; width < WIDTHS; width++) {
        where = width_name[width];
        // 16-bit code: the same flat data, and a code segment that begins at this guest's text.
        far_base = !IS_LONG && width ? 0x100000 : 0;
        for (cpl = 0; cpl < 4; cpl++) {
            if (!IS_LONG)
                *lab_gdt_entry(SEL_TEST + cpl * 8) =
                    lab_descriptor(far_base, 0xffff, 0x9b | cpl << 5, 0);
        }
        for (cpl = 0; cpl < 4; cpl++) {
            char *name = names[width * 4 + cpl];
            unsigned n = 0;
            for (const char *c = where; *c; c++)
                name[n++] = *c;
            for (const char *c = ", ring "; *c; c++)
                name[n++] = *c;
            name[n] = (char)('0' + cpl);
            lab_section(name);
            stores(false);
            if (lab_has(7, 0, 2, 2)) {
                ulong cr4 = lab_cr4();
                lab_set_cr4(cr4 | 1 << 11);
                stores(true);
                lab_set_cr4(cr4);
            }
            flags();
            segments();
            transfers();
            fast_calls();
        }
    }
#ifndef __x86_64__
    sensitive_16bit();
#endif
    return 0;
}
