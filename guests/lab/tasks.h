// SPDX-License-Identifier: Apache-2.0
// What the parts of the guest "tasks" share: an outgoing task A and an incoming task B, each with a 16-bit or a
// 32-bit TSS, and every way from one to the other. Code and stacks lie below 64 KiB, within reach of a 16-bit
// TSS.
#pragma once

#include "rings.h"

enum via {
    BY_JMP,
    BY_CALL,
    BY_JMP_GATE,
    BY_CALL_GATE,
    BY_INT,
    BY_FAULT,
    BY_BOUND,
    BY_IRET,
    VIAS
};
extern const char *const via_names[VIAS];
// #GP with its error code, #BR without.
#define via_faults(v) ((v) == BY_FAULT || (v) == BY_BOUND)
#define via_nests(v) ((v) == BY_CALL || (v) == BY_CALL_GATE || (v) == BY_INT || via_faults(v))
#define via_gate(v) ((v) >= BY_JMP_GATE && (v) <= BY_BOUND)

enum {
    SEL_A = SEL_TEST,
    SEL_B = SEL_TEST + 8,
    SEL_GATE = SEL_TEST + 0x10,
    SEL_B_LDT = SEL_TEST + 0x18,
    SEL_X = SEL_TEST + 0x20, // a test's own, and up
    VEC_TASK = 0x90,         // of the task gate for INT n
    A_CODE = 0x2000,
    B_CODE = 0x3000,
    POINTER = 0x4000, // of the far JMP or CALL
    A_STACK = 0x5000,
    B_STACK = 0x6000,
    A_STACK0 = 0x7000,
    B_STACK0 = 0x8000,
};

struct tss16 {
    u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, gpr[8], es, cs, ss, ds, ldt;
} __attribute__((packed));
union tss {
    struct lab_tss wide; // 32-bit
    struct tss16 narrow;
};
struct task {
    union tss *tss;
    bool wide;
    u16 selector;
};
extern union tss tss_a, tss_b;
extern struct task task_a, task_b;

#define TSS_GET(task, field) \
    ((task)->wide ? (u32)(task)->tss->wide.W_##field : (u32)(task)->tss->narrow.N_##field)
#define TSS_SET(task, field, value)                       \
    do {                                                  \
        if ((task)->wide)                                 \
            (task)->tss->wide.W_##field = (value);        \
        else                                              \
            (task)->tss->narrow.N_##field = (u16)(value); \
    } while (0)
#define W_ip eip
#define N_ip ip
#define W_flags eflags
#define N_flags flags
#define W_link link
#define N_link link
#define W_ldt ldt
#define N_ldt ldt
#define W_cs cs
#define N_cs cs
#define W_ss ss
#define N_ss ss
#define W_ds ds
#define N_ds ds
#define W_es es
#define N_es es

// Fresh TSSs and descriptors for a switch of this kind: A runs in ring `cpl_a`, B will in `cpl_b`. ring_state is
// what task_run() starts.
void task_prepare(enum via via, bool wide_a, bool wide_b, u32 cpl_a, u32 cpl_b);
u32 task_run(void);
void task_restore(void); // TR, LDTR and TS as the lab wants them; part of task_run()
extern u16 task_tr, task_ldtr;
extern bool task_ts;
bool task_busy(u32 selector);
u32 task_vector(enum via via);
u8 *task_code(u32 at, const void *code, u32 size);

void tasks_switch(void);
void tasks_check(void);
void tasks_io(void);
