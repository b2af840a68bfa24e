// SPDX-License-Identifier: Apache-2.0
// A processor on the board: its thread, its sleep in HLT, and what it asks of the board.
#include "base/log.h"
#include "machine/internal.h"
#include "x86/system.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

// --- what the processor asks (x86/platform.h) ----------------------------------------------------------

static struct lapic *vcpu_lapic(struct vcpu *vcpu)
{
    return lapic_bus_get(vcpu->machine->board.lapic_bus, vcpu->index);
}

static int platform_intr_ack(void *opaque)
{
    struct vcpu *vcpu = opaque;
    memory_lock(vcpu->machine->memory);
    int vector = lapic_ack(vcpu_lapic(vcpu));
    memory_unlock(vcpu->machine->memory);
    return vector;
}

static uint64_t platform_tsc(void *opaque)
{
    struct vcpu *vcpu = opaque;
    return clock_now(vcpu->machine->clock);
}

static uint64_t platform_random(void *opaque)
{
    return counted_random(opaque);
}

static void platform_tsc_changed(void *opaque)
{
    struct vcpu *vcpu = opaque;
    memory_lock(vcpu->machine->memory);
    lapic_tsc_changed(vcpu_lapic(vcpu));
    memory_unlock(vcpu->machine->memory);
}

static uint8_t platform_get_cr8(void *opaque)
{
    struct vcpu *vcpu = opaque;
    memory_lock(vcpu->machine->memory);
    uint8_t cr8 = lapic_get_cr8(vcpu_lapic(vcpu));
    memory_unlock(vcpu->machine->memory);
    return cr8;
}

static void platform_set_cr8(void *opaque, uint8_t cr8)
{
    struct vcpu *vcpu = opaque;
    memory_lock(vcpu->machine->memory);
    lapic_set_cr8(vcpu_lapic(vcpu), cr8);
    memory_unlock(vcpu->machine->memory);
}

static bool platform_msr_read(void *opaque, uint32_t msr, uint64_t *value)
{
    struct vcpu *vcpu = opaque;
    memory_lock(vcpu->machine->memory);
    bool ok = (vcpu->machine->model.paravirt && pv_msr_read(&vcpu->pv, msr, value)) ||
              lapic_msr_read(vcpu_lapic(vcpu), msr, value);
    memory_unlock(vcpu->machine->memory);
    return ok;
}

static bool platform_msr_write(void *opaque, uint32_t msr, uint64_t value)
{
    struct vcpu *vcpu = opaque;
    memory_lock(vcpu->machine->memory);
    if (msr == PV_MSR_EOI) // an EOI the guest gave through the old flag word still counts
        lapic_pv_eoi_sync(vcpu_lapic(vcpu));
    bool ok = (vcpu->machine->model.paravirt && pv_msr_write(&vcpu->pv, msr, value)) ||
              lapic_msr_write(vcpu_lapic(vcpu), msr, value);
    memory_unlock(vcpu->machine->memory);
    return ok;
}

// No hypercall has an effect here: those that KVM's guests use are only made when CPUID offers them.
static uint64_t platform_hypercall(void *opaque, uint64_t nr, const uint64_t args[4])
{
    return PV_HYPERCALL_ENOSYS;
}

static void platform_ferr(void *opaque, bool level)
{
    struct vcpu *vcpu = opaque;
    if (vcpu->index != 0) // boards connect the boot processor's pins only
        return;
    memory_lock(vcpu->machine->memory);
    misc_ports_ferr(&vcpu->machine->board.ports, level);
    memory_unlock(vcpu->machine->memory);
}

static bool platform_ignne(void *opaque)
{
    struct vcpu *vcpu = opaque;
    if (vcpu->index != 0)
        return false;
    memory_lock(vcpu->machine->memory);
    bool ignne = vcpu->machine->board.ports.ignne;
    memory_unlock(vcpu->machine->memory);
    return ignne;
}

static bool platform_apic_enabled(void *opaque)
{
    struct vcpu *vcpu = opaque;
    return lapic_enabled(vcpu_lapic(vcpu));
}

// --- sleeping and waking ---------------------------------------------------------------------------------

void vcpu_signal(struct vcpu *vcpu, uint32_t events)
{
    vcpu->machine->engine_ops->signal(vcpu->engine_vcpu, events);
    pthread_mutex_lock(&vcpu->sleep_lock);
    pthread_cond_signal(&vcpu->wake);
    pthread_mutex_unlock(&vcpu->sleep_lock);
}

void vcpu_kick(struct vcpu *vcpu)
{
    vcpu->machine->engine_ops->kick(vcpu->engine_vcpu);
    pthread_mutex_lock(&vcpu->sleep_lock);
    pthread_cond_signal(&vcpu->wake);
    pthread_mutex_unlock(&vcpu->sleep_lock);
}

// An interrupt while IF is clear stays pending and does not wake it, as on a real processor.
uint32_t vcpu_wakes(const struct vcpu *vcpu)
{
    const struct x86_cpu *cpu = vcpu->cpu;
    uint32_t wakes = ~0u;

    if (!(cpu->rflags & X86_FLAG_IF) || cpu->activity == X86_WAIT_SIPI)
        wakes &= ~(uint32_t)X86_EVENT_INTR;
    if (cpu->nmi_blocked || cpu->activity == X86_WAIT_SIPI)
        wakes &= ~(uint32_t)X86_EVENT_NMI;
    return wakes;
}

static void vcpu_sleep(struct vcpu *vcpu)
{
    struct x86_cpu *cpu = vcpu->cpu;
    uint32_t wakes = vcpu_wakes(vcpu);

    vcpu->halts++;
    pthread_mutex_lock(&vcpu->sleep_lock);
    while (!(atomic_load(&cpu->events) & wakes))
        pthread_cond_wait(&vcpu->wake, &vcpu->sleep_lock);
    pthread_mutex_unlock(&vcpu->sleep_lock);
}

// --- the thread ------------------------------------------------------------------------------------------

// Parks while the machine wants it; false when the run is over. In a deterministic run this thread itself
// resets the machine.
static bool vcpu_checkpoint(struct vcpu *vcpu)
{
    struct machine *machine = vcpu->machine;
    pthread_mutex_lock(&machine->lock);
    bool reset =
        machine->config.deterministic && machine->reset_pending && machine->end == MACHINE_RUNNING;
    pthread_mutex_unlock(&machine->lock);
    if (reset)
        machine_reset_board(machine);
    pthread_mutex_lock(&machine->lock);
    while (machine->pause && machine->end == MACHINE_RUNNING) {
        machine->parked++;
        pthread_cond_broadcast(&machine->changed);
        pthread_cond_wait(&machine->changed, &machine->lock);
        machine->parked--;
    }
    bool go_on = machine->end == MACHINE_RUNNING;
    pthread_mutex_unlock(&machine->lock);
    return go_on;
}

// The processor whose thread this is: accesses to "the" local APIC go to its own.
static _Thread_local int current_cpu = -1;

int vcpu_current(void)
{
    return current_cpu;
}

// Acts on what ended a run; true when the processor is to sleep.
static bool vcpu_exited(struct vcpu *vcpu, const struct vm_exit *exit)
{
    struct machine *machine = vcpu->machine;

    switch (exit->reason) {
    case VM_EXIT_HALT:
        return true;
    case VM_EXIT_SHUTDOWN:
        // The chipset answers a shutdown cycle with a reset.
        if (machine->config.no_reboot)
            machine_request_end(machine, MACHINE_TRIPLE_FAULT);
        else
            machine_request_reset(machine);
        return true;
    case VM_EXIT_ERROR:
        pthread_mutex_lock(&machine->lock);
        machine->error = exit->message;
        pthread_mutex_unlock(&machine->lock);
        machine_request_end(machine, MACHINE_ERROR);
        return false;
    default:
        return false;
    }
}

// Leaves only the signals of the thread's own instructions: what others send is for threads whose stack
// pointer is the host's.
static void block_signals(void)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t set;
    sigfillset(&set);
    for (size_t i = 0; i < ARRAY_SIZE(own); i++)
        sigdelset(&set, own[i]);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void *vcpu_thread(void *opaque)
{
    struct vcpu *vcpu = opaque;
    struct machine *machine = vcpu->machine;
    struct vm_exit exit;

    block_signals();
    current_cpu = (int)vcpu->index;
    while (vcpu_checkpoint(vcpu)) {
        if (machine->config.deterministic)
            counted_run(vcpu, 0, &exit);
        else
            machine->engine_ops->run(vcpu->engine_vcpu, 0, &exit);
        if (vcpu_exited(vcpu, &exit))
            vcpu_sleep(vcpu);
    }
    return NULL;
}

enum machine_end machine_step(struct machine *machine, uint64_t instructions)
{
    struct vcpu *vcpu = &machine->vcpus[0];
    const uint64_t until = counted_retired(machine) + instructions;
    const int before = current_cpu;
    struct vm_exit exit = {.reason = VM_EXIT_KICK};
    bool asleep = false;

    current_cpu = 0;
    while (vcpu_checkpoint(vcpu) && !asleep && counted_retired(machine) < until) {
        counted_run(vcpu, until - counted_retired(machine), &exit);
        asleep = vcpu_exited(vcpu, &exit) && exit.reason == VM_EXIT_HALT;
    }
    current_cpu = before;
    return machine->end == MACHINE_RUNNING && asleep ? MACHINE_IDLE : machine->end;
}

int vcpu_start(struct vcpu *vcpu, struct error *err)
{
    int result = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
    if (result)
        return error_set(err, ERROR_HOST, "cannot start the thread of processor %u: %s",
                         vcpu->index, strerror(result));
    vcpu->thread_started = true;
    return 0;
}

int vcpu_create(struct machine *machine, unsigned index, struct error *err)
{
    struct vcpu *vcpu = &machine->vcpus[index];

    vcpu->machine = machine;
    vcpu->index = index;
    pthread_mutex_init(&vcpu->sleep_lock, NULL);
    pthread_cond_init(&vcpu->wake, NULL);
    vcpu->platform = (struct x86_platform){.opaque = vcpu,
                                           .memory = machine->memory,
                                           .intr_ack = platform_intr_ack,
                                           .tsc = platform_tsc,
                                           .tsc_hz = MACHINE_TSC_HZ,
                                           .tsc_changed = platform_tsc_changed,
                                           .get_cr8 = platform_get_cr8,
                                           .set_cr8 = platform_set_cr8,
                                           .msr_read = platform_msr_read,
                                           .msr_write = platform_msr_write,
                                           .hypercall = platform_hypercall,
                                           .ferr = platform_ferr,
                                           .ignne = platform_ignne,
                                           .apic_id = index,
                                           .cpu_count = machine->config.cpus,
                                           .counted = machine->config.deterministic,
                                           .apic_enabled = platform_apic_enabled};
    if (machine->config.deterministic)
        vcpu->platform.random = platform_random;
    vcpu->random = machine->config.seed + index;
    vcpu->cpu = aligned_alloc(64, (sizeof(*vcpu->cpu) + 63) / 64 * 64);
    if (!vcpu->cpu)
        return error_set(err, ERROR_HOST, "out of memory for processor %u", index);
    memset(vcpu->cpu, 0, sizeof(*vcpu->cpu));
    vcpu->cpu->platform = &vcpu->platform;
    vcpu->cpu->model = &machine->model;
    pv_vcpu_init(&vcpu->pv, &machine->pv, vcpu->cpu);
    vcpu->engine_vcpu = machine->engine_ops->vcpu_create(machine->engine, vcpu->cpu, err);
    return vcpu->engine_vcpu ? 0 : -1;
}

void vcpu_destroy(struct vcpu *vcpu)
{
    if (vcpu->engine_vcpu)
        vcpu->machine->engine_ops->vcpu_destroy(vcpu->engine_vcpu);
    free(vcpu->cpu);
    pthread_cond_destroy(&vcpu->wake);
    pthread_mutex_destroy(&vcpu->sleep_lock);
}
