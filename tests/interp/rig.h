// SPDX-License-Identifier: Apache-2.0
// A processor with 16 MiB of RAM and nothing else, for tests of the interpreter.
#pragma once

#include "engine/engine.h"
#include "memory/memory.h"
#include "x86/cpuid.h"
#include "x86/flags.h"
#include "x86/mem.h"
#include "x86/system.h"

#define RIG_IMAGE 0x1000 // where programs lie; their entry table comes first
#define RIG_STACK 0x9000 // grows down
#define RIG_GDT 0x500
#define RIG_IDT 0xa000   // 64-bit
#define RIG_PML4 0x10000 // then PDPT, PD; the first 2 MiB through a page table of 4 KiB pages
#define RIG_PT 0x13000
#define RIG_RAM (16 << 20)

enum rig_mode {
    RIG_REAL,
    RIG_PROT,
    RIG_LONG
};

struct rig {
    struct memory *memory;
    struct engine *engine;
    struct engine_vcpu *vcpu;
    struct x86_cpu *cpu;
    struct x86_cpu_model model;
    struct x86_platform platform;
    int pending_vector; // what intr_ack gives once, -1: nothing
    uint64_t tsc;
    uint64_t port_reads, port_writes, port_value;
};

struct rig *rig_create(enum rig_mode mode);
void rig_destroy(struct rig *rig);
// Loads the image at RIG_IMAGE and sets rip to the entry `n` of its table.
void rig_load(struct rig *rig, const char *name);
uint64_t rig_entry(struct rig *rig, unsigned n);
void rig_start(struct rig *rig, unsigned n);
enum vm_exit_reason rig_run(struct rig *rig, uint64_t max);
void rig_write(struct rig *rig, gpa_t gpa, const void *data, uint64_t size);
uint64_t rig_read64(struct rig *rig, gpa_t gpa);
void rig_write64(struct rig *rig, gpa_t gpa, uint64_t value);
// 64-bit interrupt gate to `offset`.
void rig_gate(struct rig *rig, unsigned vector, uint64_t offset);
uint64_t rig_counter(struct rig *rig, const char *name);
