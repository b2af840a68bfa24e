// SPDX-License-Identifier: Apache-2.0
// The architectural state of one x86 processor, in the form every engine shares. What a software engine
// keeps beside it (TLB, decoded code) hangs off it by pointer.
//
// Rules to keep:
//  - The six arithmetic flags live in `cc` (flags.h), never in `rflags`; x86_get_rflags() joins them.
//  - Whatever changes CR0, CR4, EFER, CS, SS, CPL, RFLAGS.AC/VM calls x86_mode_changed().
//  - An exception leaves by x86_raise() (longjmp to cpu->unwind), before any architectural change.
#pragma once

#include "base/types.h"
#include "x86/frame.h"
#include "x86/platform.h"
#include <setjmp.h>
#include <stdatomic.h>

enum x86_gpr {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI,
    X86_R8,
    X86_R9,
    X86_R10,
    X86_R11,
    X86_R12,
    X86_R13,
    X86_R14,
    X86_R15,
};

enum x86_segreg {
    X86_ES,
    X86_CS,
    X86_SS,
    X86_DS,
    X86_FS,
    X86_GS,
    X86_SEG_COUNT
};

// RFLAGS (SDM vol. 1, 3.4.3)
#define X86_FLAG_CF (1u << 0)
#define X86_FLAG_R1 (1u << 1) // always 1
#define X86_FLAG_PF (1u << 2)
#define X86_FLAG_AF (1u << 4)
#define X86_FLAG_ZF (1u << 6)
#define X86_FLAG_SF (1u << 7)
#define X86_FLAG_TF (1u << 8)
#define X86_FLAG_IF (1u << 9)
#define X86_FLAG_DF (1u << 10)
#define X86_FLAG_OF (1u << 11)
#define X86_FLAG_IOPL (3u << 12)
#define X86_FLAG_IOPL_SHIFT 12
#define X86_FLAG_NT (1u << 14)
#define X86_FLAG_RF (1u << 16)
#define X86_FLAG_VM (1u << 17)
#define X86_FLAG_AC (1u << 18)
#define X86_FLAG_VIF (1u << 19)
#define X86_FLAG_VIP (1u << 20)
#define X86_FLAG_ID (1u << 21)
#define X86_FLAGS_ARITH \
    (X86_FLAG_CF | X86_FLAG_PF | X86_FLAG_AF | X86_FLAG_ZF | X86_FLAG_SF | X86_FLAG_OF)

// CR0, CR4, EFER (SDM vol. 3, 2.5; vol. 4 for EFER)
#define X86_CR0_PE (1u << 0)
#define X86_CR0_MP (1u << 1)
#define X86_CR0_EM (1u << 2)
#define X86_CR0_TS (1u << 3)
#define X86_CR0_ET (1u << 4)
#define X86_CR0_NE (1u << 5)
#define X86_CR0_WP (1u << 16)
#define X86_CR0_AM (1u << 18)
#define X86_CR0_NW (1u << 29)
#define X86_CR0_CD (1u << 30)
#define X86_CR0_PG (1u << 31)
#define X86_CR4_VME (1u << 0)
#define X86_CR4_PVI (1u << 1)
#define X86_CR4_TSD (1u << 2)
#define X86_CR4_DE (1u << 3)
#define X86_CR4_PSE (1u << 4)
#define X86_CR4_PAE (1u << 5)
#define X86_CR4_MCE (1u << 6)
#define X86_CR4_PGE (1u << 7)
#define X86_CR4_PCE (1u << 8)
#define X86_CR4_OSFXSR (1u << 9)
#define X86_CR4_OSXMMEXCPT (1u << 10)
#define X86_CR4_UMIP (1u << 11)
#define X86_CR4_LA57 (1u << 12)
#define X86_CR4_VMXE (1u << 13)
#define X86_CR4_FSGSBASE (1u << 16)
#define X86_CR4_PCIDE (1u << 17)
#define X86_CR4_OSXSAVE (1u << 18)
#define X86_CR4_SMEP (1u << 20)
#define X86_CR4_SMAP (1u << 21)
#define X86_EFER_SCE (1u << 0)
#define X86_EFER_LME (1u << 8)
#define X86_EFER_LMA (1u << 10)
#define X86_EFER_NXE (1u << 11)
#define X86_EFER_FFXSR (1u << 14)

// Vectors
enum x86_vector {
    X86_DE = 0,
    X86_DB = 1,
    X86_NMI = 2,
    X86_BP = 3,
    X86_OF = 4,
    X86_BR = 5,
    X86_UD = 6,
    X86_NM = 7,
    X86_DF = 8,
    X86_TS = 10,
    X86_NP = 11,
    X86_SS_FAULT = 12,
    X86_GP = 13,
    X86_PF = 14,
    X86_MF = 16,
    X86_AC = 17,
    X86_MC = 18,
    X86_XM = 19,
};

// A segment register with its hidden part. `attr` is the descriptor's access byte and flags in the
// layout of VMX access rights (SDM vol. 3, 25.4.1): type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14,
// G 15; bit 16: unusable (null). `limit` is in bytes, granularity applied.
#define X86_ATTR_TYPE 0x000f
#define X86_ATTR_S 0x0010
#define X86_ATTR_DPL 0x0060
#define X86_ATTR_DPL_SHIFT 5
#define X86_ATTR_P 0x0080
#define X86_ATTR_AVL 0x1000
#define X86_ATTR_L 0x2000
#define X86_ATTR_DB 0x4000
#define X86_ATTR_G 0x8000
#define X86_ATTR_UNUSABLE 0x10000

#define X86_ACCESS_READ 1
#define X86_ACCESS_WRITE 2
#define X86_ACCESS_EXEC 4
struct x86_seg {
    uint16_t sel;
    uint32_t attr;
    uint32_t limit;
    uint64_t base;
    // Derived by x86_seg_changed(): X86_ACCESS_ bits for which any offset passes without a check (in
    // long mode, or 4 GiB flat with the right type), and the base to add (0 for ES..DS in long mode).
    uint32_t unchecked;
    uint64_t eff_base;
};
struct x86_table {
    uint64_t base;
    uint16_t limit;
};

// One vector register, wide enough for AVX-512 state to come.
union x86_vec {
    uint8_t u8[32];
    uint16_t u16[16];
    uint32_t u32[8];
    uint64_t u64[4];
    float f32[8];
    double f64[4];
} __attribute__((aligned(32)));

// x87 state in physical register order (not rotated by TOP). MMX registers alias the significands.
struct x86_x87 {
    uint8_t reg[8][16];     // bytes 0..9: 80-bit value; 10..15 zero
    uint16_t fcw, fsw, ftw; // ftw: full 2-bit tags as FSTENV stores them
    uint16_t fop;           // 11 bits
    uint64_t fip, fdp;
    uint16_t fcs, fds;
};

enum x86_code_size {
    X86_CODE16,
    X86_CODE32,
    X86_CODE64
};

// Events another thread posts to a vCPU (cpu->events).
#define X86_EVENT_INTR (1u << 0) // the APIC has something to deliver
#define X86_EVENT_NMI (1u << 1)
#define X86_EVENT_SMI (1u << 2)
#define X86_EVENT_INIT (1u << 3)
#define X86_EVENT_SIPI (1u << 4)  // vector in cpu->sipi_vector
#define X86_EVENT_EXIT (1u << 5)  // leave run() with EXIT_KICK
#define X86_EVENT_FLUSH (1u << 6) // flush the TLB and every decoded block
#define X86_EVENT_CODE (1u << 7)  // the engine's queue of invalidated code ranges is not empty
#define X86_EVENT_TRAP (1u << 8) // own thread: single-step or breakpoint trap pending (dr6_pending)

// Why the vCPU is not executing.
enum x86_activity {
    X86_ACTIVE,
    X86_HALTED,
    X86_FROZEN, // before an x87 instruction that reports an error by FERR#: rip is its address
    X86_WAIT_SIPI,
    X86_SHUTDOWN
};

// Interrupt shadow after STI and MOV SS/POP SS (SDM vol. 3, 6.8.3); lasts for one instruction.
#define X86_SHADOW_STI 1
#define X86_SHADOW_MOVSS 2

#define X86_DELIVERING_BENIGN 0x100

struct x86_tlb;       // x86/mem.h
struct x86_cpu_model; // x86/cpuid.h
struct interp;        // the interpreter's own state for this vCPU

struct x86_cpu {
    // --- what translated and interpreted code touches all the time ---
    uint64_t gpr[16];
    uint64_t rip; // of the next instruction while one executes; see `insn_rip`
    // Lazy arithmetic flags: see flags.h.
    uint64_t cc_res, cc_aux;
    uint64_t rflags;   // everything but the arithmetic flags
    uint64_t insn_rip; // address of the instruction that is executing: where a fault returns to
    struct x86_tlb *tlb;
    uint64_t lin_mask; // ~0 in 64-bit mode, else 0xffffffff
    struct x86_seg seg[X86_SEG_COUNT];
    uint8_t cpl;
    uint8_t code_size;  // enum x86_code_size
    uint8_t stack_size; // 2, 4 or 8: operand of implicit stack references
    bool long_mode;     // EFER.LMA
    uint8_t shadow;     // X86_SHADOW_ bits
    bool stepping;    // RFLAGS.TF was set when this instruction started: see x86_single_step_done()
    uint8_t activity; // enum x86_activity
    _Atomic uint32_t events;
    uint64_t icount; // instructions retired
    // Where a software engine is inside a block of decoded code; not saved. While such a block runs,
    // rip, insn_rip and icount may lag: the engine brings them up to date before it calls anything that
    // looks at them (engine/interp/interp.h).
    struct {
        const void *insn;   // instruction whose fault needs insn_rip computed, or NULL
        const void *first;  // first instruction that icount does not yet hold
        uint64_t rip;       // of the block
        uint64_t zero;      // always 0: the "no register" of address computation
        uint32_t attention; // set when the next block boundary must look at everything
        uint32_t fuel;      // blocks that may still follow each other without a look at everything
        uint64_t limit;     // icount at which to stop
        void *block;        // that runs
        void **link;        // where the block found next is to be remembered, or NULL
    } soft;

    // --- vector and floating point ---
    union x86_vec vec[16];
    uint32_t mxcsr;
    struct x86_x87 x87;
    uint64_t xcr0, xss;

    // --- system ---
    uint64_t cr0, cr2, cr3, cr4;
    uint64_t dr[4], dr6, dr7;
    uint64_t dr6_pending; // bits to be merged into DR6 when the pending #DB trap is delivered
    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable;
    _Atomic uint64_t tsc_offset; // the APIC timer's thread reads it
    uint64_t tsc_adjust, spec_ctrl, debugctl;
    uint64_t mtrr_def, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
    uint64_t mcg_status, mcg_ctl, mc_bank[32][4];
    uint64_t pdpte[4]; // loaded with CR3 in PAE paging
    struct x86_seg ldtr, tr;
    struct x86_table gdtr, idtr;
    bool ferr; // FERR# is asserted (CR0.NE = 0): a pending x87 error met a waiting instruction
    bool nmi_blocked;
    bool nmi_pending;
    _Atomic uint8_t sipi_vector; // written by the sender's thread

    // --- delivery of events in progress (exception.c) ---
    struct {
        uint8_t vector;
        bool has_error;
        uint32_t error;
        uint64_t cr2; // for #PF
    } fault;          // set by x86_raise
    // What is being delivered: the vector of a hardware exception, X86_DELIVERING_BENIGN for anything else
    // (interrupts, INT n), -1 when nothing. A fault then may become #DF.
    int16_t delivering;
    uint8_t nested;       // faults so far during this delivery
    uint16_t fpu_ignored; // x87 exceptions that IGNNE# lets an instruction pass: x86_fpu_load_x87()
    uint64_t dr6_before;  // dr6_pending when this instruction began: what a fault leaves of it

    // --- wiring (not saved) ---
    jmp_buf unwind; // where x86_raise() goes; set by the engine's run loop
    const struct x86_platform *platform;
    const struct x86_cpu_model *model;
    struct interp *interp;
    void *engine_vcpu;    // identity of this vCPU for memory_page_stored()
    uint8_t fpu_resident; // X86_FPU_ bits: what lives in the host's registers (fpu.h)
    struct x86_code_frame frame; // of a translating engine; its `cpu` is NULL where there is none
};

extern const struct state_desc x86_cpu_state; // state.c
