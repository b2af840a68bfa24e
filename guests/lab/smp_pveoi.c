// SPDX-License-Identifier: Apache-2.0
// KVM's paravirtual end of interrupt (Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_EOI_EN), while the other
// processors send interrupts: "guest must both read the least significant bit in the memory area and clear it using
// a single CPU instruction", which needs no LOCK, since the monitor changes the bit "only while in the current VCPU
// context". A monitor that takes the bit back while that instruction runs loses the EOI, and with it every interrupt
// of that priority and below.
#include "smp.h"

#define MSR_KVM_EOI 0x4b564d04u
#define LEAF_KVM 0x40000000u
#define FEATURE_PV_EOI 6
#define VECTOR_OWN 0x41
#define VECTOR_OTHERS 0x91
#define APIC_ISR 0x100u
#define ROUNDS 40000

// The handler of both vectors: as short as can be, so that its BTR is met often.
extern char pveoi_handler[];
volatile u32 pveoi_flag __attribute__((aligned(4)));
volatile u32 pveoi_skipped, pveoi_written;
__asm__(".pushsection .text\n"
        "pveoi_handler:\n"
        "    btrl $0, pveoi_flag\n"
        "    jc 1f\n"
        "    incl pveoi_written\n"
        "    movl $0, 0xfee000b0\n"
        "    iretl\n"
        "1:  incl pveoi_skipped\n"
        "    iretl\n"
        ".popsection\n");
static volatile bool over;

static void send(u32 index)
{
    (void)index;
    while (!over)
        ipi(cpus[0].apic_id, VECTOR_OTHERS);
}

static bool offered(void)
{
    struct lab_cpuid id = lab_cpuid(LEAF_KVM, 0);
    return id.b == 0x4b4d564b && id.c == 0x564b4d56 && id.d == 0x4d && // "KVMKVMKVM"
           id.a >= LEAF_KVM + 1 && lab_cpuid(LEAF_KVM + 1, 0).a >> FEATURE_PV_EOI & 1;
}

void smp_pveoi(void)
{
    u32 round = 0, stuck = 0;
    if (!offered())
        return;
    cpus[0].apic_id = apic_read(APIC_ID) >> 24;
    lab_gate_set(&lab_idt[VECTOR_OWN], (ulong)pveoi_handler, SEL_CODE0, 0x8e, 0);
    lab_gate_set(&lab_idt[VECTOR_OTHERS], (ulong)pveoi_handler, SEL_CODE0, 0x8e, 0);
    lab_wrmsr(MSR_KVM_EOI, (ulong)&pveoi_flag | 1);
    for (u32 i = 1; i < cpu_count; i++)
        cpu_start(i, send);
    while (round++ < ROUNDS && !stuck) {
        apic_write(APIC_ICR, ICR_SELF | VECTOR_OWN);
        __asm__ volatile("sti; nop; nop; cli" : : : "memory");
        // No handler runs: nothing is in service.
        stuck = apic_read(APIC_ISR + (VECTOR_OWN >> 5) * 16) |
                apic_read(APIC_ISR + (VECTOR_OTHERS >> 5) * 16);
    }
    over = true;
    for (u32 i = 1; i < cpu_count; i++)
        lab_check(cpu_wait(i), "processor %u came back", i);
    lab_check(!stuck, "an EOI was lost in round %u: in service %x (%u skipped, %u written)", round,
              stuck, pveoi_skipped, pveoi_written);
    while (apic_read(APIC_ISR + (VECTOR_OWN >> 5) * 16) |
           apic_read(APIC_ISR + (VECTOR_OTHERS >> 5) * 16))
        apic_write(APIC_EOI, 0);
    __asm__ volatile("sti; nop; nop; cli" : : : "memory"); // the last ones
    lab_check(pveoi_skipped > 0, "some EOIs were skipped: %u, %u written", pveoi_skipped,
              pveoi_written);
    lab_wrmsr(MSR_KVM_EOI, 0);
    lab_gate_default(VECTOR_OWN);
    lab_gate_default(VECTOR_OTHERS);
}
