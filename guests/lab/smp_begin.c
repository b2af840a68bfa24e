// SPDX-License-Identifier: Apache-2.0
// INIT and SIPI: the state a processor starts in (SDM vol. 3A, table 9-1; 8.4), and what INIT leaves alone.
#include "smp.h"

// caches_off: CD and NW, which INIT leaves as they were.
static void state_check(const char *what, u32 index, u32 fcw, u32 caches_off)
{
    volatile struct start_state *s = START_STATE;
    static const struct {
        const char *name;
        u16 offset;
        u32 value;
    } fixed[] = {
        {"EAX", offsetof(struct start_state, eax), 0},
        {"EBX", offsetof(struct start_state, ebx), 0},
        {"ECX", offsetof(struct start_state, ecx), 0},
        {"ESI", offsetof(struct start_state, esi), 0},
        {"EDI", offsetof(struct start_state, edi), 0},
        {"EBP", offsetof(struct start_state, ebp), 0},
        {"ESP", offsetof(struct start_state, esp), 0},
        {"CR2", offsetof(struct start_state, cr2), 0},
        {"CR3", offsetof(struct start_state, cr3), 0},
        {"CR4", offsetof(struct start_state, cr4), 0},
        {"DR0", offsetof(struct start_state, dr0), 0},
        {"DR1", offsetof(struct start_state, dr1), 0},
        {"DR2", offsetof(struct start_state, dr2), 0},
        {"DR3", offsetof(struct start_state, dr3), 0},
        {"DR6", offsetof(struct start_state, dr6), 0xffff0ff0},
        {"DR7", offsetof(struct start_state, dr7), 0x400},
        {"GDTR base", offsetof(struct start_state, gdt_base), 0},
        {"IDTR base", offsetof(struct start_state, idt_base), 0},
    };
    for (u32 i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++) {
        u32 got = *(volatile u32 *)((u32)s + fixed[i].offset);
        lab_check(got == fixed[i].value, "%s, processor %u: %s is %x, want %x", what, index,
                  fixed[i].name, got, fixed[i].value);
    }
    u32 signature = lab_cpuid(1, 0).a;
    lab_check((s->edx & 0xf00) == (signature & 0xf00), "%s, processor %u: EDX is %x", what, index,
              s->edx);
    lab_equal("EFLAGS after INIT", s->eflags & ~0x46u,
              2u & ~0x46u); // (the stub's own arithmetic: none)
    lab_equal("CS after SIPI", s->cs & 0xffff, TRAMPOLINE >> 4);
    lab_check(!((s->ds | s->es | s->fs | s->gs | s->ss) & 0xffff), "%s: segments %x %x %x %x %x",
              what, s->ds & 0xffff, s->es & 0xffff, s->fs & 0xffff, s->gs & 0xffff, s->ss & 0xffff);
    lab_equal("CR0 after INIT", s->cr0, 0x10 | caches_off);
    lab_equal("GDTR limit", s->gdt_limit, 0xffff);
    lab_equal("IDTR limit", s->idt_limit, 0xffff);
    lab_equal("x87 control word", s->fcw, fcw);
}

static volatile u64 seen[4];

static void make_dirty(u32 index)
{
    u16 fcw = 0x27f;
    (void)index;
    lab_set_cr2(0x12345678);
    lab_set_cr3(0x5000);
    lab_set_cr4(0x10);
    lab_set_dr0(0x1111);
    lab_set_dr1(0x2222);
    lab_set_dr2(0x3333);
    lab_set_dr3(0x4444);
    lab_set_dr6(0);
    lab_set_dr7(0x700);
    __asm__ volatile("fninit; fldcw %0" : : "m"(fcw));
    lab_wrmsr(0x174, 0x1234);
    lab_wrmsr(0x277, 0x0007040600070405);
    if (lab_has(0x80000001, 0, 3, 29))
        lab_wrmsr(0xc0000080, 0x100);
    apic_write(0x80, 0x20); // TPR
    apic_write(APIC_LDR, 0x8000000);
    __asm__ volatile("std; sti");
}

static void look(u32 index)
{
    (void)index;
    seen[0] = lab_rdmsr(0x174);
    seen[1] = lab_rdmsr(0x277);
    seen[2] = lab_has(0x80000001, 0, 3, 29) ? lab_rdmsr(0xc0000080) : 0;
    seen[3] = (u64)apic_read(0x80) << 32 | apic_read(APIC_LDR);
    lab_wrmsr(0x174, 0);
    lab_wrmsr(0x277, 0x0007040600070406);
}

static void halts(u32 index)
{
    (void)index;
    cpus[index].finished++;
    for (;;)
        __asm__ volatile("cli; hlt");
}
static void spins(u32 index)
{
    cpus[index].finished++;
    for (;;)
        __asm__ volatile("cli; pause");
}

void smp_start(void)
{
    u32 found = 1;
    for (u32 i = 1; i < CPUS_MAX; i++) {
        if (!cpu_restart(i))
            break;
        found++;
        lab_equal("APIC ID", cpus[i].apic_id, i);
        state_check("first start", i, START_STATE->fcw,
                    START_STATE->cr0 & 0x60000000); // what firmware left in the x87 unit
    }
    cpu_count = found;
    lab_note("%u processors", found);
    lab_check(found > 1, "a second processor starts");
    if (found == 1)
        return;
    lab_check(lab_rdmsr(0x1b) & 0x100, "the boot processor says so in IA32_APIC_BASE");
    // INIT of one that runs, halts, and spins; and what INIT leaves alone.
    for (u32 i = 1; i < cpu_count; i++) {
        cpu_start(i, make_dirty);
        lab_check(cpu_wait(i), "processor %u writes its registers", i);
        if (!lab_check(cpu_restart(i), "INIT of processor %u", i))
            continue;
        state_check("after INIT", i, 0x27f, 0);
        cpu_start(i, look);
        if (!lab_check(cpu_wait(i), "processor %u after INIT", i))
            continue;
        lab_equal("SYSENTER_CS after INIT", seen[0], 0x1234);
        lab_equal("PAT after INIT", seen[1], 0x0007040600070405);
        lab_equal("EFER after INIT", seen[2], 0);
        lab_equal("TPR and LDR after INIT", seen[3], 0);
        cpu_start(i, halts);
        cpu_wait(i);
        lab_check(cpu_restart(i), "INIT of processor %u, halted", i);
        cpu_start(i, spins);
        cpu_wait(i);
        lab_check(cpu_restart(i), "INIT of processor %u, interrupts off", i);
        // SIPI alone does nothing to a processor that runs.
        u32 alive = cpus[i].alive;
        ipi(i, ICR_STARTUP | TRAMPOLINE >> 12);
        pause_a_while();
        lab_equal("SIPI without INIT", cpus[i].alive, alive);
    }
}
