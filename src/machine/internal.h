// SPDX-License-Identifier: Apache-2.0
// What the machine's files share: the board's chips (board.c), the processors and their threads
// (vcpu.c), the life of the whole (machine.c).
//
// Locks: the board lock (memory_lock) guards the chips and `pv`; `lock` guards the fields under it and
// is never held while the board lock is taken. vCPU threads take the board lock only through memory.h
// and the platform callbacks, and to run the board's timers in counted.c.
#pragma once

#include "backend/console.h"
#include "base/clock.h"
#include "base/loop.h"
#include "devices/chipset/acpi_pm.h"
#include "devices/chipset/hpet.h"
#include "devices/chipset/i8042.h"
#include "devices/chipset/ioapic.h"
#include "devices/chipset/lapic.h"
#include "devices/chipset/misc_ports.h"
#include "devices/chipset/pci.h"
#include "devices/chipset/pic.h"
#include "devices/chipset/piix.h"
#include "devices/chipset/pit.h"
#include "devices/chipset/rtc.h"
#include "devices/chipset/uart16550.h"
#include "machine/boot.h"
#include "machine/layout.h"
#include "machine/machine.h"
#include "machine/pv.h"
#include "x86/cpuid.h"
#include "x86/system.h"
#include <pthread.h>

// The TSC and the local APIC's bus count nanoseconds: 1 GHz.
#define MACHINE_TSC_HZ UINT64_C(1000000000)

struct vcpu {
    struct machine *machine;
    unsigned index;
    struct x86_cpu *cpu;
    struct x86_platform platform;
    struct engine_vcpu *engine_vcpu;
    struct pv_vcpu pv;
    pthread_t thread;
    bool thread_started;
    pthread_mutex_t sleep_lock; // with `wake`: HLT
    pthread_cond_t wake;
    uint64_t halts;
    uint64_t random; // state of the deterministic generator
};

// The chips of the board. One of each, but for local APICs.
struct board {
    struct pic *pic;
    struct pit *pit;
    struct ioapic *ioapic;
    struct hpet *hpet;
    bool hpet_legacy; // it drives IRQ 0 and 8
    struct lapic_bus *lapic_bus;
    struct rtc rtc;
    struct acpi_pm acpi_pm;
    struct uart16550 uart;
    struct i8042 i8042;
    struct misc_ports ports;
    struct pci_bus pci;
    struct piix piix;
    char debug_line[256]; // what the guest wrote to port E9h, up to a newline
    unsigned debug_length;
};

struct machine {
    struct machine_config config;
    struct memory *memory;
    struct clock *clock; // the board's: one of the next two
    struct clock_real real;
    struct clock_counted counted;
    uint64_t counted_before;          // instructions retired before the last reset
    _Atomic uint64_t counted_retired; // the count as threads other than the vCPU's see it
    _Atomic uint64_t counted_until;   // time at which the engine stops by itself
    struct timer_queue timers;        // the board's, on `clock`
    struct timer_queue host_timers;   // on `real`
    struct loop *loop;
    struct console *console;
    struct board board;
    struct pv pv;
    struct x86_cpu_model model;
    const struct engine_ops *engine_ops;
    struct engine *engine;
    struct vcpu vcpus[MACHINE_CPUS_MAX];
    unsigned cpu_count; // created
    gpa_t rsdp;
    int signal_fd;
    struct timer timeout;
    int end_signal;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum machine_end end; // under lock
    bool pause;           // under lock: vCPUs are to park
    unsigned parked;      // under lock
    bool reset_pending;   // under lock
    const char *error;    // under lock: MACHINE_ERROR's cause
};

// board.c
int board_create(struct machine *machine, struct error *err);
void board_destroy(struct machine *machine);
void board_reset(struct machine *machine);  // board lock held
void board_tables(struct machine *machine); // ACPI and SMBIOS into memory

// machine.c
void machine_reset_board(struct machine *machine); // all vCPUs stand, board lock not held

// counted.c: deterministic runs
void counted_init(struct machine *machine);
void counted_watch(struct machine *machine);       // the board's timers are ready
void counted_rebase(struct machine *machine);      // before cpu->icount goes back to 0
uint64_t counted_retired(struct machine *machine); // instructions since power-on
uint64_t counted_random(struct vcpu *vcpu);
// As engine_ops.run: runs `count` instructions (0: no limit), fires the board's timers at their instruction
// and leaps over idle time. VM_EXIT_HALT: asleep and no timer is armed.
void counted_run(struct vcpu *vcpu, uint64_t count, struct vm_exit *exit);

// vcpu.c
int vcpu_create(struct machine *machine, unsigned index, struct error *err);
void vcpu_destroy(struct vcpu *vcpu);
int vcpu_start(struct vcpu *vcpu, struct error *err); // starts the thread
void vcpu_signal(struct vcpu *vcpu, uint32_t events); // any thread: engine events and wake-up
void vcpu_kick(struct vcpu *vcpu);                    // out of run() or sleep
uint32_t
vcpu_wakes(const struct vcpu *vcpu); // the X86_EVENT_ bits that end its sleep in its present state
int vcpu_current(void);              // index of the processor this thread runs, -1 on other threads
