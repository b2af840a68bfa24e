// SPDX-License-Identifier: Apache-2.0
// Local APICs, one per processor, and the bus on which they and the I/O APICs exchange messages:
// xAPIC registers behind memory at FEE00000h, x2APIC registers as MSRs 800h-8FFh, IA32_APIC_BASE
// and IA32_TSC_DEADLINE. Source: Intel SDM vol. 3, chapter "Advanced Programmable Interrupt
// Controller (APIC)".
//
// Rules to keep:
//  - Every call comes with the board lock held; only lapic_may_interrupt() may be called without
//    it.
//  - A LAPIC never looks into its processor: what reaches it (interrupt, NMI, INIT...) is told
//    through struct lapic_ops, and the processor then asks with lapic_ack().
//  - The bus clock of the timer is 1 GHz: one count (before the divider) is one nanosecond of the
//    VM's clock. Nothing ticks; counts are computed, and only an unmasked timer arms a host timer.
//  - A paravirtual EOI that was offered is settled (lapic_pv_eoi_sync) by its own processor's thread
//    only. Messages and timers come from other threads: they set a request and make the processor ask.
//  - "accept" may call back into the board and from there into another LAPIC, never into an I/O
//    APIC's pin; an EOI may re-enter accept. All functions are written so that state is consistent
//    before they call out.
#pragma once

#include "base/state.h"
#include "base/timer.h"
#include "devices/irq.h"
#include "memory/memory.h"
#include <stdatomic.h>

#define LAPIC_DEFAULT_BASE UINT64_C(0xfee00000)
#define LAPIC_WINDOW_SIZE 0x1000
#define LAPIC_BUS_HZ UINT64_C(1000000000)
#define LAPIC_MAX_CPUS 4096

// Entries of the local vector table, in register order from 320h; CMCI (2F0h) last.
enum lapic_lvt {
    LAPIC_LVT_TIMER,
    LAPIC_LVT_THERMAL,
    LAPIC_LVT_PERF,
    LAPIC_LVT_LINT0,
    LAPIC_LVT_LINT1,
    LAPIC_LVT_ERROR,
    LAPIC_LVT_CMCI,
    LAPIC_LVT_COUNT
};

// Delivery modes, as encoded in the ICR, LVT, redirection table and MSI data.
enum lapic_delivery {
    LAPIC_FIXED = 0,
    LAPIC_LOWEST = 1,
    LAPIC_SMI = 2,
    LAPIC_NMI = 4,
    LAPIC_INIT = 5,
    LAPIC_SIPI = 6,
    LAPIC_EXTINT = 7,
};

// What a message on the bus says.
struct lapic_message {
    uint32_t dest; // 8 bits, or 32 when `wide`
    uint8_t vector;
    uint8_t delivery; // enum lapic_delivery
    bool logical;     // destination mode
    bool wide;        // dest is a 32-bit x2APIC destination: broadcast is ffffffffh, else ffh
    bool level;       // level-triggered: EOI is broadcast to the I/O APICs
};

// What the LAPICs ask of the board. `cpu` is the index of the processor, 0 to cpu_count - 1. All
// but interrupt, nmi, smi, init and sipi may be NULL.
struct lapic_ops {
    // lapic_ack() is to be called, and may return something. Called again while it is so; level-like.
    void (*interrupt)(void *opaque, unsigned cpu);
    void (*nmi)(void *opaque, unsigned cpu);
    void (*smi)(void *opaque, unsigned cpu); // NULL: no system management mode, SMIs are lost
    // The LAPIC has already been reset as INIT does.
    void (*init)(void *opaque, unsigned cpu);
    void (*sipi)(void *opaque, unsigned cpu, uint8_t vector);
    // INTA to the 8259 pair: returns a vector.
    int (*extint_ack)(void *opaque);
    // EOI broadcast of a level-triggered interrupt: to ioapic_eoi().
    void (*eoi)(void *opaque, uint8_t vector);
    // A LAPIC was enabled or is known by another name: to ioapic_retry(). What nobody took may be meant
    // for it now.
    void (*accepting)(void *opaque);
    // The processor's time-stamp counter as its guest reads it. NULL: no TSC-deadline mode.
    uint64_t (*tsc)(void *opaque, unsigned cpu);
    // Which processor the memory access now being dispatched comes from; -1 when none (a device).
    int (*current_cpu)(void *opaque);
    // A guest moved the registers of a LAPIC away from FEE00000h: register/unregister that region.
    // map returns 0 or -1 (the place is taken; the registers are then unreachable).
    int (*map)(void *opaque, const struct io_region *region);
    void (*unmap)(void *opaque, const struct io_region *region);
    // Paravirtual EOI (KVM_FEATURE_PV_EOI). offer: set the flag in the guest's memory that lets it
    // skip the EOI of the interrupt being delivered; false when the guest did not enable it. claim:
    // take the flag back; true when the guest had already cleared it, which is its EOI.
    // Both only while that processor stands between two instructions: the guest tests and clears the
    // flag with one instruction without LOCK (MSR_KVM_EOI_EN), and a flag taken back in the midst of it
    // would be an EOI that the guest believes given and the LAPIC not.
    bool (*pv_eoi_offer)(void *opaque, unsigned cpu);
    bool (*pv_eoi_claim)(void *opaque, unsigned cpu);
};

struct lapic_bus;

// A place in memory where registers of LAPICs are mapped; which one answers depends on the
// processor.
struct lapic_window {
    struct lapic_bus *bus;
    gpa_t base;
    bool mapped;
};

struct lapic {
    uint64_t base; // IA32_APIC_BASE
    uint32_t xid;  // xAPIC ID, 8 bits
    uint32_t tpr, ldr, dfr, svr;
    uint32_t esr;         // as read
    uint32_t esr_pending; // collected since the last write to ESR
    uint32_t icr_low, icr_high;
    uint32_t isr[8], tmr[8], irr[8];
    uint32_t lvt[LAPIC_LVT_COUNT];
    uint32_t initial_count, divide;
    uint64_t timer_start;  // when the count held initial_count, nanoseconds
    uint64_t tsc_deadline; // 0: not armed
    uint64_t deadline;     // of the host timer, TIMER_NEVER: none
    bool lint[2];          // levels of the pins
    bool extint;           // an ExtINT message waits for its INTA
    bool pv_eoi_offered;

    // Wiring.
    _Atomic bool ready; // lapic_has_interrupt()
    uint32_t id;        // initial APIC ID, also the x2APIC ID
    unsigned cpu;
    struct lapic_bus *bus;
    struct lapic_window window; // when not at FEE00000h
    struct timer timer;
};

struct lapic_bus_config {
    unsigned cpu_count;       // 1 to LAPIC_MAX_CPUS; processor 0 is the bootstrap processor
    const uint32_t *apic_ids; // of each processor; NULL: its index
    struct timer_queue *timers;
    uint64_t tsc_hz;
    struct lapic_ops ops;
    void *opaque;
};

struct lapic_bus *lapic_bus_create(const struct lapic_bus_config *config, struct error *err);
void lapic_bus_destroy(struct lapic_bus *bus);
void lapic_bus_reset(struct lapic_bus *bus); // power-on reset of every LAPIC
struct lapic *lapic_bus_get(struct lapic_bus *bus, unsigned cpu);
unsigned lapic_bus_count(const struct lapic_bus *bus);
// The region at FEE00000h to register.
void lapic_bus_region(struct lapic_bus *bus, struct io_region *region);

// Delivers to every LAPIC that the destination names (one of them for LAPIC_LOWEST). Returns how
// many accepted it.
unsigned lapic_bus_deliver(struct lapic_bus *bus, const struct lapic_message *message);
// A message-signalled interrupt: address FEExxxxxh and data (SDM vol. 3, "Message Signalled
// Interrupts"; destination bits 14:8 in address bits 11:5 as KVM_FEATURE_MSI_EXT_DEST_ID has it).
// Returns how many LAPICs accepted it.
unsigned lapic_bus_msi(struct lapic_bus *bus, uint64_t address, uint32_t data);
// Drives pin LINT0 or LINT1 of every LAPIC, as a PC wires the 8259's INT (0) and NMI (1).
void lapic_bus_lint(struct lapic_bus *bus, unsigned pin, bool level);
// LINT0 of all LAPICs as a line, for the 8259's output.
struct irq_line lapic_bus_lint0_line(struct lapic_bus *bus);

// --- what the board calls for a processor --------------------------------------------------------

// Takes the next interrupt: from the 8259 pair when LINT0 (ExtINT) asks, else the highest request
// above the processor priority, which moves into service. Returns its vector, or -1 (it went away, or
// waits for an EOI after all). On the processor's own thread, between two instructions.
int lapic_ack(struct lapic *lapic);
// Something that lapic_ack() would return, or would if an offered paravirtual EOI was taken.
bool lapic_has_interrupt(const struct lapic *lapic);
// Without the board lock: false means that nothing was deliverable a moment ago.
static inline bool lapic_may_interrupt(const struct lapic *lapic)
{
    return atomic_load_explicit(&lapic->ready, memory_order_acquire);
}

// CR8 is bits 7:4 of the task priority.
uint8_t lapic_get_cr8(const struct lapic *lapic);
void lapic_set_cr8(struct lapic *lapic, uint8_t cr8);

// IA32_APIC_BASE (1Bh), IA32_TSC_DEADLINE (6E0h), x2APIC (800h-8FFh). False: #GP(0).
bool lapic_msr_read(struct lapic *lapic, uint32_t msr, uint64_t *value);
bool lapic_msr_write(struct lapic *lapic, uint32_t msr, uint64_t value);

// The processor's clock changed its relation to the TSC (IA32_TSC or TSC_ADJUST was written):
// deadlines are computed anew.
void lapic_tsc_changed(struct lapic *lapic);

bool lapic_enabled(const struct lapic *lapic); // IA32_APIC_BASE[11]
bool lapic_x2apic(const struct lapic *lapic);

// Register access by register number (offset / 16), as the xAPIC window does it. 32 bits.
uint32_t lapic_mmio_read(struct lapic *lapic, unsigned reg);
void lapic_mmio_write(struct lapic *lapic, unsigned reg, uint32_t value);

// Pin LINT0 or LINT1 of one LAPIC.
void lapic_set_lint(struct lapic *lapic, unsigned pin, bool level);
// An event of the processor itself: thermal, performance counter overflow, corrected machine check.
void lapic_raise_lvt(struct lapic *lapic, enum lapic_lvt entry);
// What firmware leaves behind for an operating system (MultiProcessor Specification 1.4, virtual
// wire mode): enabled, LINT0 is ExtINT, LINT1 is NMI. For loaders that start a kernel without
// firmware.
void lapic_virtual_wire(struct lapic *lapic);
// Collects an EOI that the guest gave through the paravirtual flag, or takes the offer back. On the
// processor's own thread, between two instructions or in one that has nothing to do with the flag.
// Called by what its processor asks of the LAPIC; the board calls it before it turns the flag off.
void lapic_pv_eoi_sync(struct lapic *lapic);

extern const struct state_desc lapic_state;
