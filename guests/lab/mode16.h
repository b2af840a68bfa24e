// SPDX-License-Identifier: Apache-2.0
// 16-bit code below 1 MiB, in V86 mode or in real mode: the same cases are tried in both, and the report of how
// a run ended has one form.
//
// Rules to keep:
//  - Each segment register starts with its own 64 KiB (M16_CS ...), so that a wrong segment or a missing wrap shows.
//  - What follows the tried instruction is UD2: a run always ends with a vector.
//  - The vector table of real mode is not at 0 (the boot loader's data may be there) but at M16_IVT.
#pragma once

#include "lab.h"

enum {
    M16_IVT = 0x1000,        // real mode's vector table
    M16_TRAMPOLINE = 0x2000, // mode16_real.S; 4 KiB
    M16_STUBS = 0x4000,      // 256 of 16 bytes
    M16_CS = 0x1000,
    M16_SS = 0x2000,
    M16_DS = 0x3000,
    M16_ES = 0x4000,
    M16_FS = 0x5000,
    M16_GS = 0x6000,
};

enum {
    AX,
    CX,
    DX,
    BX,
    SP,
    BP,
    SI,
    DI
};

struct m16 {
    u32 gpr[8];
    u32 ip, flags;
    u16 cs, ss, ds, es, fs, gs;
};

// How it ended. `at` is the interrupted code's state: IP, CS and FLAGS as the processor pushed them, SP as it was
// before the push.
struct m16_end {
    u32 vector, error; // error code: 0 in real mode
    bool skipped;
    struct m16 at;
    u32 handler_flags; // EFLAGS in the handler (real mode)
};

enum m16_mode {
    M16_V86,
    M16_REAL,
    M16_PROTECTED // 16-bit segments at ring 3: tests/lab/native16.c
};
extern enum m16_mode m16_mode;
extern u32 m16_iopl;   // of V86 code that m16_init() prepares
extern u32 m16_tag[3]; // which of the generated cases; told with a failure

static inline u8 *m16_at(u16 segment, u32 offset)
{
    return (u8 *)(ulong)((u32)segment * 16 + offset);
}
static inline void m16_put16(u16 segment, u32 offset, u32 v)
{
    *(volatile u16 *)m16_at(segment, offset) = (u16)v;
}
static inline void m16_put32(u16 segment, u32 offset, u32 v)
{
    *(volatile u32 *)m16_at(segment, offset) = v;
}
static inline u32 m16_get16(u16 segment, u32 offset)
{
    return *(volatile u16 *)m16_at(segment, offset);
}
static inline u32 m16_get32(u16 segment, u32 offset)
{
    return *(volatile u32 *)m16_at(segment, offset);
}

void m16_init(struct m16 *m); // registers of distinct values, SP 8000h, IP 100h, flags 2
// Bytes at CS:IP, then UD2 (as far as the segment goes).
void m16_code(const struct m16 *m, const void *bytes, u32 size);
#define M16_CODE(m, string) m16_code(m, string, sizeof(string) - 1)
const struct m16_end *m16_run(const struct m16 *m);
extern const struct lab_trap
    *m16_trap; // V86 mode: what the lab says of the last run; NULL: skipped
// The usual run: `bytes` from a fresh state as changed by the caller.
const struct m16_end *m16_do(const struct m16 *m, const void *bytes, u32 size);
#define M16_DO(m, string) m16_do(m, string, sizeof(string) - 1)

// It ended with `vector` at offset `ip` behind the start (error code 0 where there is one).
bool m16_expect(const char *what, const struct m16 *m, const struct m16_end *e, u32 vector, u32 ip);
// It ran through: UD2 at `length`.
bool m16_expect_ran(const char *what, const struct m16 *m, const struct m16_end *e, u32 length);

// Real mode only.
extern u32 m16_idt_base, m16_idt_limit; // of the next run
void m16_real_prepare(void);            // trampoline, stubs and vector table into low memory
extern void (*m16_real_run)(const struct m16 *m, struct m16_end *e); // and of M16_PROTECTED

void m16_limit_cases(void); // mode16_*.c: what holds in both modes
void m16_op_cases(void);
