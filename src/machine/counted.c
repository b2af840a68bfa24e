// SPDX-License-Identifier: Apache-2.0
// Deterministic runs: the board's clock counts instructions of the one processor, a nanosecond each, plus the
// idle time that HLT leaps over. No thread and no host's clock has a say: the processor's thread runs up to
// the next timer's deadline exactly, fires it itself, and goes on.
//
// Rules to keep:
//  - Everything the guest can notice happens between two instructions whose place follows from the guest alone.
//    A timer that an instruction arms for sooner than the present stretch ends kicks the engine, which then
//    stops right behind that instruction (x86_platform.counted).
//  - counted_until changes with the board lock held, so that a timer armed on another thread (input) is seen.
#include "machine/internal.h"

// The wall clock at power-on: 2026-01-01 00:00:00 UTC, whenever the run is made.
#define COUNTED_EPOCH_NS (UINT64_C(1767225600) * 1000000000)
// Timers that a halted processor may fire without waking up (`cli; hlt`) before it sleeps for good.
#define COUNTED_LEAPS_MAX 100000

uint64_t counted_retired(struct machine *machine)
{
    struct vcpu *vcpu = &machine->vcpus[0];
    if (!vcpu->engine_vcpu)
        return 0;
    return machine->counted_before + machine->engine_ops->retired(vcpu->engine_vcpu);
}

static uint64_t counted_count(void *opaque)
{
    struct machine *machine = opaque;
    return vcpu_current() == 0 ? counted_retired(machine) : machine->counted_retired;
}

static void counted_rearmed(void *opaque, uint64_t deadline_ns)
{
    struct machine *machine = opaque;
    if (deadline_ns >= machine->counted_until)
        return;
    if (vcpu_current() == 0)
        machine->engine_ops->kick(machine->vcpus[0].engine_vcpu);
    else
        vcpu_kick(&machine->vcpus[0]);
}

void counted_init(struct machine *machine)
{
    clock_counted_init(&machine->counted, COUNTED_EPOCH_NS);
    machine->counted.count = counted_count;
    machine->counted.opaque = machine;
    machine->clock = &machine->counted.clock;
}

void counted_watch(struct machine *machine)
{
    machine->timers.rearmed = counted_rearmed;
    machine->timers.rearmed_opaque = machine;
}

void counted_rebase(struct machine *machine)
{
    machine->counted_before = counted_retired(machine);
    machine->vcpus[0].cpu->icount = 0;
}

// splitmix64
uint64_t counted_random(struct vcpu *vcpu)
{
    uint64_t z = vcpu->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

// Fires what is due; returns how many instructions may run before the next deadline, at least 1.
static uint64_t fire_timers(struct machine *machine)
{
    memory_lock(machine->memory);
    machine->counted_until = 0;
    uint64_t next = timer_queue_run(&machine->timers);
    uint64_t now = clock_now(machine->clock);
    uint64_t room = next <= now ? 1 : next - now;
    machine->counted_until = next == TIMER_NEVER ? TIMER_NEVER : now + room;
    memory_unlock(machine->memory);
    return room;
}

// Leaps to the deadlines of timers until one wakes the halted processor. False when none is left.
static bool leap(struct vcpu *vcpu)
{
    struct machine *machine = vcpu->machine;
    const uint32_t wakes = vcpu_wakes(vcpu);

    vcpu->halts++;
    for (unsigned i = 0; i < COUNTED_LEAPS_MAX; i++) {
        memory_lock(machine->memory);
        machine->counted_until = TIMER_NEVER;
        uint64_t next = timer_queue_run(&machine->timers), now = clock_now(machine->clock);
        bool awake = atomic_load(&vcpu->cpu->events) & wakes;
        if (!awake && next != TIMER_NEVER && next > now)
            clock_counted_advance(&machine->counted, next - now);
        memory_unlock(machine->memory);
        if (awake)
            return true;
        if (next == TIMER_NEVER)
            break;
    }
    return false;
}

void counted_run(struct vcpu *vcpu, uint64_t count, struct vm_exit *exit)
{
    struct machine *machine = vcpu->machine;
    const uint64_t until = count ? counted_retired(machine) + count : UINT64_MAX;

    do {
        uint64_t room = fire_timers(machine), left = until - counted_retired(machine);
        machine->engine_ops->run(vcpu->engine_vcpu, room < left ? room : left, exit);
        machine->counted_retired = counted_retired(machine);
    } while ((exit->reason == VM_EXIT_BUDGET && counted_retired(machine) < until) ||
             (exit->reason == VM_EXIT_HALT && leap(vcpu)));
}
