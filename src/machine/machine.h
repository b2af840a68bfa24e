// SPDX-License-Identifier: Apache-2.0
// A whole PC: memory, chips, processors, clock and I/O thread, from a configuration to its end.
#pragma once

#include "base/error.h"
#include "engine/engine.h"
#include <stdio.h>

// How the kernel is started. AUTO: a Linux bzImage by its own protocol, else Multiboot when the file
// has the header, else PVH.
enum boot_protocol {
    BOOT_AUTO,
    BOOT_LINUX,
    BOOT_MULTIBOOT,
    BOOT_PVH
};
#define MACHINE_MODULES_MAX 64

struct machine_config {
    const char *name;   // shown in messages
    const char *engine; // "auto" or an engine's name
    struct engine_options engine_options;
    const char *cpu;    // model string, see x86_cpu_model_parse()
    uint64_t memory;    // bytes of RAM
    unsigned cpus;      // 1..MACHINE_CPUS_MAX
    const char *kernel; // required
    enum boot_protocol boot;
    const char *initrd;                       // or NULL
    const char *modules[MACHINE_MODULES_MAX]; // Multiboot modules: "PATH" or "PATH TEXT"
    unsigned module_count;
    const char *append; // or NULL
    const char *serial; // see console_open()
    bool no_reboot;     // a reset ends the run
    unsigned timeout;   // seconds of host time, 0: none
    // Time is counted instructions: the same run every time, as long as no input comes (counted.c). One
    // processor only.
    bool deterministic;
    uint64_t seed; // of RDRAND and RDSEED then
    // Tests: driven by machine_step() on the caller's thread; signals stay the caller's. `ops` instead of
    // an engine's name, or NULL.
    bool stepped;
    const struct engine_ops *engine_ops;
};

// Why a run ended.
enum machine_end {
    MACHINE_RUNNING,
    MACHINE_POWER_OFF,    // the guest powered off
    MACHINE_RESET,        // the guest reset the machine, with no_reboot
    MACHINE_TRIPLE_FAULT, // with no_reboot
    MACHINE_TIMEOUT,
    MACHINE_QUIT,   // the user asked (Ctrl-a x)
    MACHINE_SIGNAL, // SIGTERM, SIGINT or SIGHUP
    MACHINE_ERROR,  // the engine or the host failed
    MACHINE_IDLE,   // machine_step() only: halted, and nothing will ever wake it
};

struct machine;

struct machine *machine_create(const struct machine_config *config, struct error *err);
void machine_destroy(struct machine *machine);
// Runs on the calling thread (which becomes the I/O thread) until the end; err only for MACHINE_ERROR.
enum machine_end machine_run(struct machine *machine, struct error *err);
// Runs exactly this many instructions on the calling thread, fewer when the machine ends before. For
// machines created with `deterministic` and `stepped`. MACHINE_RUNNING: not at its end yet.
enum machine_end machine_step(struct machine *machine, uint64_t instructions);
int machine_end_signal(const struct machine *machine); // the signal of MACHINE_SIGNAL

// Requests, from any thread. The first end wins.
void machine_request_end(struct machine *machine, enum machine_end end);
void machine_request_reset(struct machine *machine);

// Counters of all engines and vCPUs, after the run: a table for people or one JSON object.
void machine_print_stats(struct machine *machine, FILE *out, bool json);
