// SPDX-License-Identifier: Apache-2.0
// What the processor does beyond computing: exceptions and interrupts, segments, far transfers, control
// registers, MSRs, CPUID, tasks, debug registers. One meaning, called by every engine.
//
// Conventions: functions that execute an instruction or deliver an event may raise (longjmp to
// cpu->unwind through x86_raise); they change nothing before the last check that can fail, or put it
// back. cpu->rip already points behind the instruction when an instruction's function is called,
// cpu->insn_rip at it.
#pragma once

#include "x86/state.h"

// --- exceptions (exception.c) ------------------------------------------------------------------
_Noreturn void x86_raise(struct x86_cpu *cpu, enum x86_vector vector); // without error code
_Noreturn void x86_raise_error(struct x86_cpu *cpu, enum x86_vector vector, uint32_t error);
_Noreturn void x86_raise_pf(struct x86_cpu *cpu, gva_t lin, uint32_t error);

enum x86_deliver_kind {
    X86_DELIVER_EXTERNAL, // external interrupt
    X86_DELIVER_NMI,
    X86_DELIVER_FAULT,    // hardware exception, return address = insn_rip
    X86_DELIVER_TRAP,     // hardware exception, return address = rip (#DB trap)
    X86_DELIVER_SOFT_INT, // INT n: gate DPL checked, VME redirection in V86 mode
    X86_DELIVER_SOFT_EXC, // INT3, INTO: gate DPL checked
    X86_DELIVER_ICEBP,    // INT1: #DB, gate DPL not checked
};
// Delivers through the IVT or IDT in the current mode, with stack switch and error code. May raise
// (a fault while delivering): the run loop then calls x86_fault_pending() as for any fault.
void x86_deliver(struct x86_cpu *cpu, enum x86_deliver_kind kind, uint8_t vector, bool has_error,
                 uint32_t error);
// After setjmp(cpu->unwind) returned non-zero: combines cpu->fault with cpu->delivering (benign,
// contributory, page fault: SDM vol. 3 table 6-5), sets CR2, RF, RIP = insn_rip, and delivers. May raise
// again (loop). Returns false on a triple fault: activity is X86_SHUTDOWN then.
bool x86_fault_pending(struct x86_cpu *cpu);
// At an instruction boundary with cpu->events != 0: delivers the event of the highest priority that may
// be delivered now (trap, NMI, external interrupt; INIT and SIPI change the state). Returns true when
// something was delivered or the state changed (ask again then). May raise. Clears HLT when it delivers.
// X86_EVENT_EXIT, FLUSH and CODE are the engine's: it handles and clears them itself.
bool x86_events_deliver(struct x86_cpu *cpu);

// The run loop around one instruction, in this order:
//     if (events)           x86_events_deliver()      sees the shadow that the last instruction left
//     shadow = 0                                      (it lasts for the one instruction that follows)
//     if (RFLAGS.TF)        stepping = true
//     dr6_before = dr6_pending
//     if (breakpoints)      x86_debug_check_exec()    then RFLAGS.RF = 0, whatever it was
//     insn_rip = rip; rip += len; execute
//     if (stepping)         x86_single_step_done()
// Instructions that set shadow, or change RF or TF, do so for the next round. Delivering an event drops
// `stepping` (INT n pends no single-step trap), SYSCALL sets it again from the masked RFLAGS. A string
// instruction that stops between iterations to take an interrupt sets RF first (SDM vol. 3, 17.3.1.1).
//
// Sets DR6.BS and X86_EVENT_TRAP unless MOV SS shadows them.
void x86_single_step_done(struct x86_cpu *cpu);

// True when x86_events_deliver() may find something to do; false for an interrupt that IF or the shadow
// holds back and for the engine's own bits. For loops that want to stay in their fast path.
static inline bool x86_events_ready(const struct x86_cpu *cpu)
{
    uint32_t events = cpu->events;
    if (!(cpu->rflags & X86_FLAG_IF) || cpu->shadow)
        events &= ~X86_EVENT_INTR;
    return (events & (X86_EVENT_INTR | X86_EVENT_NMI | X86_EVENT_SMI | X86_EVENT_INIT |
                      X86_EVENT_SIPI | X86_EVENT_TRAP)) != 0;
}

// --- modes (mode.c) -------------------------------------------------------------------------------
void x86_reset(struct x86_cpu *cpu, bool init); // power-up (false) or INIT (true) state, SDM 9.1.1
void x86_mode_changed(struct x86_cpu *cpu);     // recomputes everything derived; cheap
void x86_seg_changed(struct x86_cpu *cpu, unsigned seg); // recomputes seg[].unchecked, eff_base
static inline bool x86_real_mode(const struct x86_cpu *cpu)
{
    return !(cpu->cr0 & X86_CR0_PE);
}
static inline bool x86_v86_mode(const struct x86_cpu *cpu)
{
    return (cpu->rflags & X86_FLAG_VM) != 0;
}
static inline bool x86_prot_mode(const struct x86_cpu *cpu) // protected, not V86
{
    return (cpu->cr0 & X86_CR0_PE) && !x86_v86_mode(cpu);
}
static inline bool x86_canonical(uint64_t addr)
{
    return (uint64_t)((int64_t)(addr << 16) >> 16) == addr;
}

// --- segments and far transfers (segment.c, transfer.c, task.c) ---------------------------------------
void x86_load_seg(struct x86_cpu *cpu, unsigned seg, uint16_t sel);  // MOV/POP Sreg, LDS...; not CS
void x86_load_real(struct x86_cpu *cpu, unsigned seg, uint16_t sel); // real/V86 semantics
void x86_lldt(struct x86_cpu *cpu, uint16_t sel);
void x86_ltr(struct x86_cpu *cpu, uint16_t sel);
// LAR, LSL, VERR, VERW: return ZF; *value for LAR/LSL.
bool x86_lar(struct x86_cpu *cpu, uint16_t sel, uint32_t *value);
bool x86_lsl(struct x86_cpu *cpu, uint16_t sel, uint32_t *value);
bool x86_verify(struct x86_cpu *cpu, uint16_t sel, bool write);
// `opsize` 2, 4, 8: of the instruction; decides stack slots and truncation of the target.
void x86_far_jmp(struct x86_cpu *cpu, uint16_t sel, uint64_t off, unsigned opsize);
void x86_far_call(struct x86_cpu *cpu, uint16_t sel, uint64_t off, unsigned opsize);
void x86_far_ret(struct x86_cpu *cpu, unsigned opsize, uint16_t pop_bytes);
void x86_iret(struct x86_cpu *cpu, unsigned opsize);
void x86_int(struct x86_cpu *cpu, uint8_t vector, enum x86_deliver_kind kind); // INT n/3/O/1
void x86_syscall(struct x86_cpu *cpu);
void x86_sysret(struct x86_cpu *cpu, unsigned opsize);
void x86_sysenter(struct x86_cpu *cpu);
void x86_sysexit(struct x86_cpu *cpu, unsigned opsize);
void x86_swapgs(struct x86_cpu *cpu);
enum x86_task_reason {
    X86_TASK_JMP,
    X86_TASK_CALL,
    X86_TASK_IRET,
    X86_TASK_GATE
};
// `ext`: 1 when an event external to the program asked for it (bit 0 of error codes), else 0.
void x86_task_switch(struct x86_cpu *cpu, uint16_t tss_sel, enum x86_task_reason reason,
                     uint32_t ext, bool has_error, uint32_t error);
// PUSHF value, POPF/CLI/STI with their IOPL, VME and PVI rules; opsize 2, 4, 8.
uint64_t x86_pushf_value(struct x86_cpu *cpu, unsigned opsize); // may raise #GP (V86)
void x86_popf(struct x86_cpu *cpu, uint64_t value, unsigned opsize);
void x86_cli(struct x86_cpu *cpu);
void x86_sti(struct x86_cpu *cpu); // sets the shadow
// #GP(0) unless the I/O permission rules let this CPL access [port, port+size).
void x86_check_io(struct x86_cpu *cpu, uint16_t port, unsigned size);
// Near branches: checks the target against CS limit / canonical form and sets rip. opsize truncates.
void x86_branch(struct x86_cpu *cpu, uint64_t target, unsigned opsize);

// --- control and debug registers (control.c) --------------------------------------------------------
uint64_t x86_read_cr(struct x86_cpu *cpu, unsigned n); // 0 2 3 4 8, else #UD; CPL checked by caller
// All #GP rules, flushes, mode switch.
void x86_write_cr(struct x86_cpu *cpu, unsigned n, uint64_t value);
void x86_lmsw(struct x86_cpu *cpu, uint16_t value);
void x86_clts(struct x86_cpu *cpu);
uint64_t x86_read_dr(struct x86_cpu *cpu, unsigned n);
void x86_write_dr(struct x86_cpu *cpu, unsigned n, uint64_t value);
void x86_invlpg(struct x86_cpu *cpu, unsigned seg, uint64_t off);
void x86_invpcid(struct x86_cpu *cpu, uint64_t type, unsigned seg, uint64_t off);
void x86_xsetbv(struct x86_cpu *cpu, uint32_t index, uint64_t value);
uint64_t x86_xgetbv(struct x86_cpu *cpu, uint32_t index);

// Breakpoints (debug.c). True when DR7 enables any: engines then take their slow path.
static inline bool x86_debug_armed(const struct x86_cpu *cpu)
{
    return (cpu->dr7 & 0xff) != 0;
}
// True when an armed data breakpoint lies in the page at linear address `page`: its accesses must take
// the slow path.
bool x86_debug_page_armed(const struct x86_cpu *cpu, gva_t page);
static inline bool x86_debug_watches_page(const struct x86_cpu *cpu, gva_t page)
{
    return x86_debug_armed(cpu) && x86_debug_page_armed(cpu, page);
}
void x86_debug_check_exec(struct x86_cpu *cpu, gva_t lin); // raises #DB fault (unless RF)
// Pends a trap.
void x86_debug_check_data(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access);
void x86_debug_check_io(struct x86_cpu *cpu, uint16_t port, unsigned size);

// --- MSRs, CPUID, TSC (msr.c, cpuid.c) ---------------------------------------------------------------
uint64_t x86_rdmsr(struct x86_cpu *cpu, uint32_t msr); // raises #GP(0); CPL checked by caller
void x86_wrmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t value);
uint64_t x86_rdtsc(struct x86_cpu *cpu); // value as the guest sees it, no privilege check
void x86_cpuid(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

// --- FPU state and XSAVE family (xsave.c) ---------------------------------------------------------------
// Whoever touches cpu->x87 or cpu->mxcsr calls x86_fpu_sync(cpu) (x86/fpu.h) first.
void x86_fninit(struct x86_cpu *cpu);
// `wrap`: the mask of the address size, at which an image wraps.
void x86_fxsave(struct x86_cpu *cpu, unsigned seg, uint64_t off, uint64_t wrap, bool rexw);
void x86_fxrstor(struct x86_cpu *cpu, unsigned seg, uint64_t off, uint64_t wrap, bool rexw);
enum x86_xsave_kind {
    X86_XSAVE,
    X86_XSAVEOPT,
    X86_XSAVEC,
    X86_XSAVES
};
void x86_xsave(struct x86_cpu *cpu, enum x86_xsave_kind kind, uint64_t mask, unsigned seg,
               uint64_t off, bool rexw);
void x86_xrstor(struct x86_cpu *cpu, bool supervisor, uint64_t mask, unsigned seg, uint64_t off,
                bool rexw);
// Which state components are not in their initial configuration (XINUSE; SDM vol. 1, 13.6).
uint64_t x86_xinuse(struct x86_cpu *cpu);
// The same as XSAVEC, XSAVES and XGETBV see it: MXCSR other than 1F80H is SSE state in use.
uint64_t x86_xinuse_mxcsr(struct x86_cpu *cpu);
// Size of the XSAVE area for CPUID.0Dh.
uint32_t x86_xsave_size(uint64_t xcr0, bool compacted);
// #NM/#UD/#MF checks that x87, MMX, SSE and AVX instructions start with.
void x86_check_x87(struct x86_cpu *cpu, bool wait); // wait: reports pending exceptions (not FN...)
void x86_check_fwait(struct x86_cpu *cpu);          // FWAIT itself: TS counts with MP only
void x86_check_mmx(struct x86_cpu *cpu);
// After anything but an arithmetic instruction changed FSW or FCW: no error pends, no FERR#.
static inline void x86_ferr_update(struct x86_cpu *cpu)
{
    if (unlikely(cpu->ferr) && !(cpu->x87.fsw & 0x80)) { // ES
        cpu->ferr = false;
        if (cpu->platform->ferr != NULL)
            cpu->platform->ferr(cpu->platform->opaque, false);
    }
}
// Leaves the instruction that executes before it did anything: the processor waits at its address for an
// interrupt (or another reason to run again), and then executes it anew.
_Noreturn void x86_freeze(struct x86_cpu *cpu);
void x86_check_sse(struct x86_cpu *cpu);
void x86_check_avx(struct x86_cpu *cpu);
