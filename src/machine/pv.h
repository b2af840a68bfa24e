// SPDX-License-Identifier: Apache-2.0
// Paravirtual services in KVM's terms (Linux Documentation/virt/kvm/x86/{cpuid,msr}.rst): a clock page
// per vCPU, the wall clock, and end-of-interrupt without an exit.
#pragma once

#include "base/clock.h"
#include "x86/state.h"

#define PV_MSR_WALL_CLOCK_OLD 0x11u
#define PV_MSR_SYSTEM_TIME_OLD 0x12u
#define PV_MSR_WALL_CLOCK 0x4b564d00u
#define PV_MSR_SYSTEM_TIME 0x4b564d01u
#define PV_MSR_EOI 0x4b564d04u

// Per VM.
struct pv {
    struct memory *memory;
    struct clock *clock;
    uint64_t wall_clock; // last value of the MSR
};
// Per vCPU.
struct pv_vcpu {
    struct pv *pv;
    struct x86_cpu *cpu;
    uint64_t system_time; // MSR values
    uint64_t eoi;
};

void pv_init(struct pv *pv, struct memory *memory, struct clock *clock);
void pv_vcpu_init(struct pv_vcpu *vcpu, struct pv *pv, struct x86_cpu *cpu);
void pv_vcpu_reset(struct pv_vcpu *vcpu);
// False: not a paravirtual MSR, or #GP.
bool pv_msr_read(struct pv_vcpu *vcpu, uint32_t msr, uint64_t *value);
bool pv_msr_write(struct pv_vcpu *vcpu, uint32_t msr, uint64_t value);

// End of interrupt without an exit. Offer: sets the guest's flag word, which lets it skip the EOI of the
// interrupt that is being delivered; false when the guest did not enable it.
bool pv_eoi_offer(struct pv_vcpu *vcpu);
// Takes the flag back; true when the guest had cleared it already, which is its EOI. Both on the vCPU's own
// thread, between two instructions: the guest's test-and-clear has no LOCK, and an engine may do it in parts.
bool pv_eoi_claim(struct pv_vcpu *vcpu);

#define PV_HYPERCALL_ENOSYS UINT64_C(0xfffffffffffffc18) // -KVM_ENOSYS (1000)
