// SPDX-License-Identifier: Apache-2.0
// The contract of an engine: what runs a guest's processors. The machine knows nothing else of it.
//
// Life: create() -> one vcpu_create() per processor -> run() on that vCPU's own thread, again and again
// -> vcpu_destroy() -> destroy(). The architectural state lives in struct x86_cpu, which the machine
// owns; an engine that keeps a copy elsewhere (KVM) syncs it in get_state/set_state. While run() is not
// executing, the machine may read the state after get_state() and change it before set_state().
//
// Threads: kick() and signal() may be called from any thread; everything else from the vCPU's thread,
// or from the machine while no vCPU runs.
#pragma once

#include "base/error.h"
#include "memory/memory.h"
#include "x86/state.h"

enum vm_exit_reason {
    VM_EXIT_KICK,     // somebody called kick()
    VM_EXIT_HALT,     // HLT or wait-for-SIPI with nothing to deliver: sleep until signal()
    VM_EXIT_SHUTDOWN, // triple fault
    VM_EXIT_BUDGET,   // max_instructions were retired
    VM_EXIT_DEBUG,    // a debugger's breakpoint or step
    VM_EXIT_ERROR,    // the engine cannot go on; `message` says why
    VM_EXIT_REASONS
};

struct vm_exit {
    enum vm_exit_reason reason;
    const char *message; // VM_EXIT_ERROR: static string
};

struct engine;      // one per VM
struct engine_vcpu; // one per processor

struct engine_counter {
    const char *name; // "instructions", "tlb_misses"; snake case, the same in --stats=json and docs
    uint64_t value;
};
#define ENGINE_COUNTERS_MAX 64

// Of one VM, beside what every engine needs. All zero: the defaults.
struct engine_options {
    uint64_t bt_cache;   // bytes of the translator's code cache; 0: BT_CACHE_DEFAULT
    bool bt_verify;      // every translated block is checked before it runs
    const char *bt_dump; // file for guest and host code side by side; "-": stderr; NULL: none
    uint64_t bt_dump_low,
        bt_dump_high; // guest addresses of the blocks to be dumped: [low, high]; 0, 0: all
};
#define ENGINE_BT_CACHE_MIN (UINT64_C(4) << 20)
#define ENGINE_BT_CACHE_MAX (UINT64_C(1) << 30)

struct engine_ops {
    const char *name;    // "interp"
    const char *summary; // one line for `croft engines`
    // Is it usable on this host? Fills `why` with one line either way.
    bool (*usable)(char *why, size_t why_size);
    // `options`: NULL for the defaults; its strings must live until destroy().
    struct engine *(*create)(struct memory *memory, const struct engine_options *options,
                             struct error *err);
    void (*destroy)(struct engine *engine);
    // `cpu` is owned by the caller, reset or loaded, with platform and model set.
    struct engine_vcpu *(*vcpu_create)(struct engine *engine, struct x86_cpu *cpu,
                                       struct error *err);
    void (*vcpu_destroy)(struct engine_vcpu *vcpu);
    // Executes until there is a reason to stop. max_instructions 0: no limit; else stops precisely after
    // that many instructions. cpu->icount is exact then, and when the platform says `counted`; an engine
    // that translates counts no instructions otherwise.
    void (*run)(struct engine_vcpu *vcpu, uint64_t max_instructions, struct vm_exit *exit);
    // Instructions retired so far, exactly, for the clock of deterministic runs (x86_platform.counted). Called
    // on the vCPU's thread, also from what the board does during an instruction, which does not count yet.
    uint64_t (*retired)(const struct engine_vcpu *vcpu);
    // Makes run() return VM_EXIT_KICK soon (within a block of code); stays pending until it did.
    void (*kick)(struct engine_vcpu *vcpu);
    // Posts X86_EVENT_ bits: an interrupt is deliverable, NMI, INIT, SIPI. Level-like: the engine asks
    // the platform for the vector when it delivers.
    void (*signal)(struct engine_vcpu *vcpu, uint32_t events);
    void (*get_state)(struct engine_vcpu *vcpu); // engine's copy -> struct x86_cpu
    void (*set_state)(struct engine_vcpu *vcpu); // struct x86_cpu -> engine's copy; flushes
    // Adds this vCPU's counters; returns how many were written.
    unsigned (*counters)(struct engine_vcpu *vcpu, struct engine_counter *out, unsigned max);
};

extern const struct engine_ops engine_interp, engine_bt;

// All engines in the order `auto` prefers them, NULL-terminated.
extern const struct engine_ops *const engines[];
const struct engine_ops *engine_find(const char *name, struct error *err); // "auto" or a name
// Are these options that the engine has, with values that it takes? Else -1 with an ERROR_USAGE that names the
// command line's option.
int engine_options_check(const struct engine_ops *ops, const struct engine_options *options,
                         struct error *err);
