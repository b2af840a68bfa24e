// SPDX-License-Identifier: Apache-2.0
// What the fidelity guests share. Each is a program for the bare machine, in C and assembly, that tries the
// processor and judges by the manuals what it sees; it knows nothing of the monitor under it. Two
// flavours of the same interface: 32-bit (flat protected mode, no paging) and 64-bit (long mode, identity
// map of 4 GiB open to ring 3). main() runs in ring 0 with interrupts off.
//
// How a test is written:
//     lab_section("limits");
//     const struct lab_trap *t = lab_try(load_beyond_the_limit, 0);
//     lab_expect_error("one byte beyond", t, VEC_GP, 0);
// lab_try() and lab_user() run a C function in ring 0 and ring 3; lab_enter() starts any state at all (CS, SS,
// flags, V86 ...). Whatever exception or interrupt comes ends the run and is told. A handler in
// lab_handler[] may take a vector for itself and go on. Only failures are printed, and a line for each
// section; the last line is the verdict.
//
// Rules to keep:
//  - No call of lab_try(), lab_user() or lab_enter() from a lab_handler.
//  - What a test changes (CR0, CR4, IDT entries, TSS, MSRs) it puts back.
//  - Memory below 1 MiB from 0x1000 to 0x7ffff is the test's to use; nothing else lies there but what the boot
//    loader left.
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64; // the same in both flavours, for printf
typedef unsigned long ulong;    // the flavour's word

#ifdef __x86_64__
#define LAB_GPRS 16
#else
#define LAB_GPRS 8
#endif

enum {
    VEC_DE,
    VEC_DB,
    VEC_NMI,
    VEC_BP,
    VEC_OF,
    VEC_BR,
    VEC_UD,
    VEC_NM,
    VEC_DF,
    VEC_TS = 10,
    VEC_NP,
    VEC_SS,
    VEC_GP,
    VEC_PF,
    VEC_MF = 16,
    VEC_AC,
    VEC_MC,
    VEC_XM,
    VEC_LAB = 0x80 // free for tests: gate of DPL 3
};

// Selectors of the table that the guest starts with. Entries from SEL_FREE to SEL_LAST are a test's own.
enum {
    SEL_CODE0 = 0x08, // the flavour's
    SEL_DATA0 = 0x10,
    SEL_CODE3 = 0x1b, // the flavour's
    SEL_DATA3 = 0x23,
    SEL_TSS = 0x28,    // and 0x30
    SEL_CODE16 = 0x38, // ring 0, base 0, limit FFFFh
    SEL_DATA16 = 0x40, // ring 0, base 0, limit FFFFh, 16-bit stack
    SEL_CODE16_3 = 0x4b,
    SEL_CODE32 = 0x50, // ring 0, flat 32-bit code in both flavours
    SEL_CODE32_3 = 0x5b,
    SEL_DATA16_3 = 0x63,
    SEL_LDT = 0x68, // and 0x70: lab_ldt, empty
    SEL_FREE = 0x80,
    SEL_LAST = 0x1f8
};

#define FLAG_CF 0x1u
#define FLAG_PF 0x4u
#define FLAG_AF 0x10u
#define FLAG_ZF 0x40u
#define FLAG_SF 0x80u
#define FLAG_TF 0x100u
#define FLAG_IF 0x200u
#define FLAG_DF 0x400u
#define FLAG_OF 0x800u
#define FLAG_IOPL 0x3000u
#define FLAG_NT 0x4000u
#define FLAG_RF 0x10000u
#define FLAG_VM 0x20000u
#define FLAG_AC 0x40000u
#define FLAG_VIF 0x80000u
#define FLAG_VIP 0x100000u
#define FLAG_ID 0x200000u

// A state to start. Order of `gpr`: AX CX DX BX SP BP SI DI R8...; gpr[4] is not used, `sp` is.
struct lab_state {
    ulong gpr[LAB_GPRS];
    ulong ip, cs, flags, sp, ss;
    ulong ds, es, fs, gs;
};

// What ended a run. sp and ss are those of the interrupted code; in the 32-bit flavour, where an exception in
// ring 0 saves neither, they are taken from the handler's stack.
struct lab_trap {
    u32 vector, error; // error code, 0 where there is none
    ulong gpr[LAB_GPRS];
    ulong ip, cs, flags, sp, ss;
    ulong ds, es, fs, gs;
    ulong cr2, dr6;
    ulong frame; // address of the frame that the processor pushed: error code, IP, CS, FLAGS ...
};

// Runs a function, or starts a state; NULL: the function returned. The answer lasts until the next run.
const struct lab_trap *lab_try(void (*function)(void *), void *argument);  // ring 0
const struct lab_trap *lab_user(void (*function)(void *), void *argument); // ring 3, IOPL 0
const struct lab_trap *lab_user_iopl3(void (*function)(void *), void *argument);
const struct lab_trap *lab_enter(const struct lab_state *state);
// The state that lab_user() starts, to be changed and given to lab_enter().
void lab_user_state(struct lab_state *state, void (*function)(void *), void *argument);

// True: handled, go on with what was interrupted (registers in `trap` are for reading; lab_set_ip()
// changes where).
extern bool (*lab_handler[256])(struct lab_trap *trap);
void lab_set_ip(struct lab_trap *trap, ulong ip);
void lab_set_flags(struct lab_trap *trap, ulong flags);

// --- verdicts ---------------------------------------------------------------------------------
// A monitor that has gaps may give a trial up (tests/lab/kvm_run.c): the answer has vector FFFFh then, and the
// checks up to the next trial, or to lab_direct(), do not count and are true.
void lab_section(const char *name);
void lab_direct(void); // what is checked from here on comes from no trial
bool lab_check(bool ok, const char *what, ...) __attribute__((format(printf, 2, 3)));
bool lab_equal(const char *what, u64 got, u64 want);
bool lab_expect_none(const char *what, const struct lab_trap *trap);
bool lab_expect(const char *what, const struct lab_trap *trap, u32 vector);
bool lab_expect_error(const char *what, const struct lab_trap *trap, u32 vector, u32 error);
// %s %c %u %d %x %08x %llx and %lx; nothing else.
void lab_print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void lab_note(const char *format, ...) __attribute__((format(printf, 1, 2))); // "note: ..." line
void lab_print_trap(const struct lab_trap *trap);
const char *lab_command(void);    // the boot command line
bool lab_asked(const char *word); // the command line has it
u32 lab_memory_kib(void);         // above 1 MiB, 0 if unknown
_Noreturn void lab_finish(void);  // verdict and power-off; main()'s return does it too
int main(void);

// --- descriptors -------------------------------------------------------------------------------
extern u64 lab_gdt[64];
extern u64 lab_ldt[32];
#ifdef __x86_64__
struct lab_gate {
    u16 offset_low, selector, info, offset_middle;
    u32 offset_high, reserved;
};
struct lab_tss {
    u32 reserved0;
    u64 rsp[3], reserved1, ist[7], reserved2;
    u16 reserved3, iomap;
    u8 bitmap[64 + 1];
} __attribute__((packed));
extern u64 lab_pml4[512], lab_pdpt[512], lab_pd[2048];
#else
struct lab_gate {
    u16 offset_low, selector, info, offset_high;
};
struct lab_tss {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, gpr[8];
    u32 es, cs, ss, ds, fs, gs, ldt;
    u16 trap, iomap;
    u8 bitmap[32 + 64 + 1]; // interrupt redirection (VME) first, then ports 0 to 1FFh
} __attribute__((packed));
#endif
extern struct lab_gate lab_idt[256];
extern struct lab_tss lab_tss; // I/O map: ports 0 to 1FFh, all refused

// Type and DPL bytes as in the descriptor: access = P, DPL, S, type; flags = G, D/B, L, AVL (4 bits).
static inline u64 lab_descriptor(u32 base, u32 limit, u32 access, u32 flags)
{
    return (u64)(limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(access & 0xff) << 40 |
           (u64)(limit >> 16 & 0xf) << 48 | (u64)(flags & 0xf) << 52 | (u64)(base >> 24) << 56;
}
static inline u64 *lab_gdt_entry(u32 selector)
{
    return &lab_gdt[selector >> 3];
}
// access: P, DPL, 0, type (0x8e: interrupt gate of ring 0, 0xef: trap gate of ring 3); ist only in 64-bit.
void lab_gate_set(struct lab_gate *gate, ulong offset, u16 selector, u8 access, u8 ist);
void lab_gate_default(u32 vector); // the lab's stub again
extern char lab_stubs[];           // 16 bytes apart

// --- the processor -------------------------------------------------------------------------------
static inline void out8(u16 port, u8 v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline void out16(u16 port, u16 v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}
static inline void out32(u16 port, u32 v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}
static inline u8 in8(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u16 in16(u16 port)
{
    u16 v;
    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline u32 in32(u16 port)
{
    u32 v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
struct lab_cpuid {
    u32 a, b, c, d;
};
static inline struct lab_cpuid lab_cpuid(u32 leaf, u32 subleaf)
{
    struct lab_cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
                     : "a"(leaf), "c"(subleaf));
    return r;
}
// Register 0 to 3: EAX to EDX. False where the leaf is absent.
bool lab_has(u32 leaf, u32 subleaf, u32 reg, u32 bit);
bool lab_is_amd(void);
static inline u64 lab_rdmsr(u32 msr)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (u64)high << 32 | low;
}
static inline void lab_wrmsr(u32 msr, u64 v)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
#define LAB_REGISTER(name)                                              \
    static inline ulong lab_##name(void)                                \
    {                                                                   \
        ulong v;                                                        \
        __asm__ volatile("mov %%" #name ", %0" : "=r"(v) : : "memory"); \
        return v;                                                       \
    }                                                                   \
    static inline void lab_set_##name(ulong v)                          \
    {                                                                   \
        __asm__ volatile("mov %0, %%" #name : : "r"(v) : "memory");     \
    }
LAB_REGISTER(cr0)
LAB_REGISTER(cr2)
LAB_REGISTER(cr3)
LAB_REGISTER(cr4)
LAB_REGISTER(dr0)
LAB_REGISTER(dr1)
LAB_REGISTER(dr2)
LAB_REGISTER(dr3)
LAB_REGISTER(dr6)
LAB_REGISTER(dr7)
static inline ulong lab_flags(void)
{
    ulong v;
    __asm__ volatile("pushf; pop %0" : "=r"(v) : : "memory");
    return v;
}
static inline void lab_invlpg(ulong address)
{
    __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}
