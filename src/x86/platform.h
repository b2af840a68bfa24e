// SPDX-License-Identifier: Apache-2.0
// What the processor asks of the board it sits on. The machine fills this in once per vCPU; tests fill
// it in with stubs. Every call comes from the vCPU's own thread, without the board lock.
#pragma once

#include "base/types.h"
#include "memory/memory.h"

struct x86_cpu;

struct x86_platform {
    void *opaque;
    struct memory *memory;

    // Interrupt acknowledge: takes the highest-priority deliverable interrupt of the local APIC (or the
    // 8259 pair through it) and returns its vector, or -1 when there is none (it went away).
    int (*intr_ack)(void *opaque);
    // Time-stamp counter, before TSC_ADJUST/offset, and its frequency in Hz.
    uint64_t (*tsc)(void *opaque);
    uint64_t tsc_hz;
    // The guest moves its TSC: called before and after cpu->tsc_offset changes, so that what is due
    // happens, and deadlines on it are worked out anew. May be NULL.
    void (*tsc_changed)(void *opaque);
    // Task priority (CR8 = TPR[7:4]).
    uint8_t (*get_cr8)(void *opaque);
    void (*set_cr8)(void *opaque, uint8_t cr8);
    // MSRs that belong to the board: APIC base, x2APIC 800h-8FFh, TSC deadline, paravirtual clock and
    // EOI. Return false to raise #GP(0).
    bool (*msr_read)(void *opaque, uint32_t msr, uint64_t *value);
    bool (*msr_write)(void *opaque, uint32_t msr, uint64_t value);
    // VMCALL/VMMCALL: number in RAX, arguments RBX RCX RDX RSI; returns the value for RAX.
    uint64_t (*hypercall)(void *opaque, uint64_t nr, const uint64_t args[4]);
    // x87 errors reported the PC's way (CR0.NE = 0): the FERR# output changed, and whether the IGNNE#
    // input is asserted. Both NULL: no such pins, errors are ignored then.
    void (*ferr)(void *opaque, bool level);
    bool (*ignne)(void *opaque);
    // APIC id and topology for CPUID.
    uint32_t apic_id;
    uint32_t cpu_count;
    // The board derives time from the instructions retired (deterministic runs). An engine then keeps two
    // promises: engine_ops.retired() is exact whenever the guest can ask the board anything, and what a
    // device or a local APIC posts during an instruction of this very processor takes effect right behind
    // that instruction, so that every engine is interrupted at the same places.
    bool counted;
    // Random numbers for RDRAND and RDSEED. NULL: the host's.
    uint64_t (*random)(void *opaque);
    // True when the APIC is globally enabled (CPUID.1:EDX.APIC follows IA32_APIC_BASE[11]).
    bool (*apic_enabled)(void *opaque);
};
