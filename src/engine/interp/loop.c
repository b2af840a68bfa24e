// SPDX-License-Identifier: Apache-2.0
// The interpreter as an engine: its life, its loop, and what happens between blocks.
//
// The loop's order at a boundary is the one system.h gives. Everything unusual (events, interrupt shadow,
// single-stepping, breakpoints, RF, a stop after an exact number of instructions) goes through interp_attend(),
// which costs nothing while cpu->events and soft.attention are 0.
#include "engine/interp/block.h"
#include "x86/flags.h"
#include "x86/fpu.h"
#include "x86/hostexec.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The vCPU that runs on this thread: a change of the memory map that it causes itself must end its block.
static _Thread_local struct interp *interp_current;

void interp_current_set(struct interp *it)
{
    interp_current = it;
}

const struct interp_insn *interp_stop(struct x86_cpu *cpu, const struct interp_insn *insn)
{
    cpu->rip = (cpu->soft.rip + insn->off) & cpu->lin_mask;
    return insn;
}

// --- plain functions ------------------------------------------------------------------------------------------

ALWAYS_INLINE void settle(struct x86_cpu *cpu, const struct interp_insn *insn)
{
    cpu->icount += (uint64_t)(insn - (const struct interp_insn *)cpu->soft.first);
    cpu->soft.first = insn;
    cpu->soft.insn = NULL;
    cpu->insn_rip = (cpu->soft.rip + insn->off) & cpu->lin_mask;
    cpu->rip = (cpu->soft.rip + insn[1].off) & cpu->lin_mask;
}

// What the form's row says about modes and privilege.
static void check_form(struct x86_cpu *cpu, const struct x86_insn *x)
{
    const struct x86_form *form = x86_insn_form(x);
    if ((form->attr & X86_INSN_PROT) && !x86_prot_mode(cpu))
        x86_raise(cpu, X86_UD);
    if (form->privilege == X86_PRIV_CPL0 && cpu->cpl != 0)
        x86_raise_error(cpu, X86_GP, 0);
}

static const struct interp_insn *plain(struct x86_cpu *cpu, const struct interp_insn *insn)
{
    settle(cpu, insn);
    insn->detail->exec(cpu, &insn->detail->x);
    return insn[1].fn(cpu, insn + 1);
}
static const struct interp_insn *plain_checked(struct x86_cpu *cpu, const struct interp_insn *insn)
{
    settle(cpu, insn);
    check_form(cpu, &insn->detail->x);
    insn->detail->exec(cpu, &insn->detail->x);
    return insn[1].fn(cpu, insn + 1);
}
// The last instruction of a block: it may have changed anything.
static const struct interp_insn *plain_end(struct x86_cpu *cpu, const struct interp_insn *insn)
{
    settle(cpu, insn);
    cpu->soft.attention = 1;
    insn->detail->exec(cpu, &insn->detail->x);
    return insn + 1;
}
static const struct interp_insn *plain_end_checked(struct x86_cpu *cpu,
                                                   const struct interp_insn *insn)
{
    settle(cpu, insn);
    cpu->soft.attention = 1;
    check_form(cpu, &insn->detail->x);
    insn->detail->exec(cpu, &insn->detail->x);
    return insn + 1;
}
// The last one of a block, a near branch.
static const struct interp_insn *plain_branch(struct x86_cpu *cpu, const struct interp_insn *insn)
{
    settle(cpu, insn);
    insn->detail->exec(cpu, &insn->detail->x);
    return interp_go_on(cpu, insn + 1);
}
// A string instruction: when it stopped between two iterations, rip is its own address again.
static const struct interp_insn *plain_rep(struct x86_cpu *cpu, const struct interp_insn *insn)
{
    settle(cpu, insn);
    insn->detail->exec(cpu, &insn->detail->x);
    if (unlikely(cpu->rip == cpu->insn_rip)) {
        cpu->soft.attention = 1;
        return insn;
    }
    return insn[1].fn(cpu, insn + 1);
}
interp_fn *const interp_plain = plain, *const interp_plain_checked = plain_checked,
                 *const interp_plain_end = plain_end, *const interp_plain_branch = plain_branch,
                 *const interp_plain_rep = plain_rep,
                 *const interp_plain_end_checked = plain_end_checked;

// --- exact ends of a chain -----------------------------------------------------------------------------------------

// Ends the running chain behind the instruction that executes, which the handler next in line notices: its
// function is another one until attend() puts it back.
static void break_behind(struct interp *it)
{
    struct x86_cpu *cpu = it->cpu;
    const struct interp_insn *insn = cpu->soft.insn ? cpu->soft.insn : cpu->soft.first;
    cpu->soft.attention = 1;
    if (!cpu->soft.block || it->broken)
        return; // between blocks
    it->broken = (struct interp_insn *)insn + 1;
    it->broken_fn = it->broken->fn;
    it->broken->fn = interp_stop;
}

static void break_undo(struct interp *it)
{
    if (it->broken)
        it->broken->fn = it->broken_fn;
    it->broken = NULL;
}

static uint64_t engine_retired(const struct engine_vcpu *vcpu)
{
    const struct x86_cpu *cpu = ((const struct interp *)vcpu)->cpu;
    const struct interp_insn *insn = cpu->soft.insn;
    return cpu->icount +
           (insn ? (uint64_t)(insn - (const struct interp_insn *)cpu->soft.first) : 0);
}

// --- the loop ----------------------------------------------------------------------------------------------------

// A fault left a chain of handlers: bring rip and icount up to it.
void interp_unwound(struct interp *it)
{
    struct x86_cpu *cpu = it->cpu;
    const struct interp_insn *insn = cpu->soft.insn;
    if (insn) {
        cpu->icount += (uint64_t)(insn - (const struct interp_insn *)cpu->soft.first);
        cpu->insn_rip = (cpu->soft.rip + insn->off) & cpu->lin_mask;
        cpu->rip = (cpu->soft.rip + insn[1].off) & cpu->lin_mask;
        cpu->soft.insn = NULL;
    }
    cpu->soft.block = NULL;
    cpu->soft.link = NULL;
    cpu->soft.attention = 1;
}

// Runs from `insn` on through at most 1 + fuel blocks.
static void run_chain(struct interp *it, const struct interp_insn *insn, uint32_t fuel)
{
    struct x86_cpu *cpu = it->cpu;
    const struct interp_insn *end;
    cpu->soft.link = NULL;
    cpu->soft.fuel = fuel;
    cpu->soft.rip = cpu->rip;
    cpu->soft.first = insn;
    end = insn->fn(cpu, insn);
    cpu->icount += (uint64_t)(end - (const struct interp_insn *)cpu->soft.first);
}

// Executes at most `count` instructions of the block at rip, count < INTERP_BLOCK_MAX.
static void run_part(struct interp *it, struct interp_block *block, unsigned count)
{
    struct x86_cpu *cpu = it->cpu;
    unsigned n = block->count < count ? block->count : count;
    memcpy(it->part, block->insn, n * sizeof(it->part[0]));
    it->part[n] = (struct interp_insn){
        .fn = interp_stop, .link = {&interp_no_block, &interp_no_block}, .off = block->insn[n].off};
    cpu->soft.block = block;
    run_chain(it, it->part, 0);
    cpu->soft.link = NULL; // it leads into the copy
}

void interp_execute(struct interp *it, const struct interp_insn *insn)
{
    it->cpu->soft.block = NULL;
    run_chain(it, insn, 0);
    it->cpu->soft.link = NULL;
}

// Executes one instruction with every check there is.
static void step(struct interp *it)
{
    struct x86_cpu *cpu = it->cpu;
    struct interp_block *block;
    cpu->shadow = 0;
    cpu->stepping = (cpu->rflags & X86_FLAG_TF) != 0;
    cpu->soft.insn = NULL;
    cpu->insn_rip = cpu->rip;
    cpu->dr6_before = cpu->dr6_pending;
    if (x86_debug_armed(cpu))
        x86_debug_check_exec(cpu, (cpu->seg[X86_CS].eff_base + cpu->rip) & cpu->lin_mask);
    cpu->rflags &= ~(uint64_t)X86_FLAG_RF;
    block = interp_block_get(it);
    if (it->cs_limited) {
        cpu->insn_rip = cpu->rip;
        if (cpu->rip + block->insn[1].off - 1 > cpu->seg[X86_CS].limit)
            x86_raise_error(cpu, X86_GP, 0);
    }
    // With DEBUGCTL.BTF only a branch that is taken is a step (SDM vol. 3, 17.4.3).
    const uint64_t next = (cpu->rip + block->insn[1].off) & cpu->lin_mask;
    const bool branch = (x86_insn_form(&block->insn[0].detail->x)->attr & X86_INSN_BRANCH) != 0;
    it->stats.steps++;
    run_part(it, block, 1);
    cpu->soft.insn = NULL;
    if (cpu->stepping && (cpu->debugctl & 2) && !(branch && cpu->rip != next))
        cpu->stepping = false;
    if (cpu->stepping)
        x86_single_step_done(cpu);
    cpu->soft.attention = 1;
}

void interp_mode_update(struct interp *it)
{
    struct x86_cpu *cpu = it->cpu;
    it->mode = (uint32_t)cpu->code_size | (uint32_t)cpu->stack_size << 2;
    it->cs_limited = !(cpu->seg[X86_CS].unchecked & X86_ACCESS_EXEC);
}

void interp_advance(struct interp *it, unsigned count)
{
    struct x86_cpu *cpu = it->cpu;
    struct interp_block *block;
    interp_mode_update(it);
    block = interp_block_get(it);
    if (unlikely(it->cs_limited) && cpu->rip + block->bytes - 1 > cpu->seg[X86_CS].limit) {
        step(it);
    } else if (count < block->count) {
        run_part(it, block, count);
    } else {
        cpu->soft.block = block;
        run_chain(it, block->insn, 0);
        cpu->soft.link = NULL;
    }
    cpu->soft.block = NULL;
}

static void clear_event(struct x86_cpu *cpu, uint32_t event)
{
    atomic_fetch_and(&cpu->events, ~event);
}

static bool leave(struct vm_exit *exit, enum vm_exit_reason reason)
{
    exit->reason = reason;
    return false;
}

// What a boundary needs when anything but running on is due. Returns false to leave run().
bool interp_attend(struct interp *it, struct vm_exit *exit)
{
    struct x86_cpu *cpu = it->cpu;
    for (;;) {
        uint32_t events = atomic_load_explicit(&cpu->events, memory_order_relaxed);
        break_undo(it);
        cpu->soft.insn = NULL;
        cpu->insn_rip = cpu->rip;
        cpu->soft.block = NULL;
        cpu->soft.link = NULL;
        if (events & X86_EVENT_FLUSH) {
            clear_event(cpu, X86_EVENT_FLUSH);
            x86_tlb_flush_all(cpu);
            interp_cache_flush(it);
        }
        if (events & X86_EVENT_CODE)
            interp_queue_run(it);
        if (events & X86_EVENT_EXIT) {
            clear_event(cpu, X86_EVENT_EXIT);
            return leave(exit, VM_EXIT_KICK);
        }
        if (cpu->activity == X86_SHUTDOWN)
            return leave(exit, VM_EXIT_SHUTDOWN);
        if (x86_events_ready(cpu) && x86_events_deliver(cpu)) {
            it->stats.interrupts++;
            continue;
        }
        if (cpu->activity != X86_ACTIVE) {
            it->stats.halts++;
            return leave(exit, VM_EXIT_HALT);
        }
        if (cpu->icount >= cpu->soft.limit)
            return leave(exit, VM_EXIT_BUDGET);
        interp_mode_update(it);
        if (!cpu->shadow && !(cpu->rflags & (X86_FLAG_TF | X86_FLAG_RF)) && !x86_debug_armed(cpu)) {
            cpu->soft.attention = 0;
            return true;
        }
        step(it);
    }
}

static void interp_loop(struct interp *it, struct vm_exit *exit)
{
    struct x86_cpu *cpu = it->cpu;
    for (;;) {
        struct interp_block *block;
        uint64_t left;
        if (unlikely(atomic_load_explicit(&cpu->events, memory_order_relaxed) |
                     cpu->soft.attention) &&
            !interp_attend(it, exit))
            return;
        left = cpu->soft.limit - cpu->icount;
        if (unlikely(left == 0)) { // before the fetch, which may fault
            cpu->soft.attention = 1;
            continue;
        }
        block = interp_block_get(it);
        if (unlikely(it->cs_limited) && cpu->rip + block->bytes - 1 > cpu->seg[X86_CS].limit) {
            step(it);
            continue;
        }
        if (unlikely(left < block->count)) {
            run_part(it, block, (unsigned)left);
            continue;
        }
        if (cpu->soft.link) {
            if (block->link_gpa != INTERP_NO_PAGE)
                *cpu->soft.link = block;
            cpu->soft.link = NULL;
        }
        cpu->soft.block = block;
        left = (left - block->count) / INTERP_BLOCK_MAX; // blocks that cannot go beyond the limit
        run_chain(it, block->insn,
                  it->cs_limited       ? 0
                  : left > INTERP_FUEL ? INTERP_FUEL
                                       : (uint32_t)left);
        it->stats.chains++;
    }
}

static void engine_run(struct engine_vcpu *vcpu, uint64_t max_instructions, struct vm_exit *exit)
{
    struct interp *it = (struct interp *)vcpu;
    struct x86_cpu *cpu = it->cpu;
    exit->message = NULL;
    interp_current = it;
    cpu->soft.limit = max_instructions ? cpu->icount + max_instructions : UINT64_MAX;
    cpu->soft.attention = 1;
    if (cpu->activity == X86_FROZEN) // what it waits for may have happened: tries again
        cpu->activity = X86_ACTIVE;
    if (_setjmp(cpu->unwind) != 0) {
        interp_unwound(it);
        it->stats.exceptions++;
        if (!x86_fault_pending(cpu))
            cpu->activity = X86_SHUTDOWN;
    }
    interp_loop(it, exit);
    x86_fpu_sync(cpu);
    interp_current = NULL;
}

// --- the engine -----------------------------------------------------------------------------------------------------

static void memory_changed(void *opaque, gpa_t gpa, uint64_t size)
{
    struct engine *engine = opaque;
    for (struct interp *it = engine->vcpus; it; it = it->next)
        atomic_fetch_or(&it->cpu->events, X86_EVENT_FLUSH);
    if (interp_current && interp_current->engine == engine)
        interp_stop_running(interp_current);
}

static bool engine_usable(char *why, size_t why_size)
{
    snprintf(why, why_size, "always usable: the reference, in portable C");
    return true;
}

static struct engine *engine_create(struct memory *memory, const struct engine_options *options,
                                    struct error *err)
{
    struct engine *engine;
    if (hostexec_init(err) < 0)
        return NULL;
    engine = calloc(1, sizeof(*engine));
    if (!engine) {
        error_set(err, ERROR_HOST, "out of memory for the interpreter");
        return NULL;
    }
    engine->memory = memory;
    pthread_mutex_init(&engine->lock, NULL);
    engine->listener.changed = memory_changed;
    engine->listener.code_written = interp_code_written;
    engine->listener.opaque = engine;
    memory_add_listener(memory, &engine->listener);
    return engine;
}

static void engine_destroy(struct engine *engine)
{
    if (!engine)
        return;
    memory_remove_listener(engine->memory, &engine->listener);
    for (size_t i = 0; i < ARRAY_SIZE(engine->code); i++) {
        struct interp_code_node *node = engine->code[i];
        for (size_t j = 0; node && j < ARRAY_SIZE(node->leaf); j++)
            free(node->leaf[j]);
        free(node);
    }
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

static void engine_vcpu_destroy(struct engine_vcpu *vcpu)
{
    struct interp *it = (struct interp *)vcpu;
    struct interp **link;
    if (!it)
        return;
    for (link = &it->engine->vcpus; *link; link = &(*link)->next) {
        if (*link == it) {
            *link = it->next;
            break;
        }
    }
    interp_cache_destroy(it);
    if (it->owns_tlb)
        x86_tlb_destroy(it->cpu);
    it->cpu->interp = NULL;
    it->cpu->engine_vcpu = NULL;
    pthread_mutex_destroy(&it->queue_lock);
    free(it);
}

static struct engine_vcpu *engine_vcpu_create(struct engine *engine, struct x86_cpu *cpu,
                                              struct error *err)
{
    struct interp *it = calloc(1, sizeof(*it));
    if (!it)
        goto nomem;
    it->cpu = cpu;
    it->engine = engine;
    pthread_mutex_init(&it->queue_lock, NULL);
    for (unsigned i = 0; i <= INTERP_BLOCK_MAX; i++)
        it->part[i].fn = interp_stop;
    it->owns_tlb = cpu->tlb == NULL;
    cpu->soft.zero = 0;
    cpu->interp = it;
    cpu->engine_vcpu = it;
    it->next = engine->vcpus;
    engine->vcpus = it;
    if (!interp_cache_create(it) || (it->owns_tlb && x86_tlb_create(cpu) != 0)) {
        it->owns_tlb = false;
        engine_vcpu_destroy((struct engine_vcpu *)it);
        goto nomem;
    }
    x86_mode_changed(cpu);
    return (struct engine_vcpu *)it;
nomem:
    error_set(err, ERROR_HOST, "out of memory for a virtual processor");
    return NULL;
}

static void engine_signal(struct engine_vcpu *vcpu, uint32_t events)
{
    struct interp *it = (struct interp *)vcpu;
    atomic_fetch_or(&it->cpu->events, events);
    if (it == interp_current && it->cpu->platform->counted)
        break_behind(it);
}

static void engine_kick(struct engine_vcpu *vcpu)
{
    engine_signal(vcpu, X86_EVENT_EXIT);
}

static void engine_get_state(struct engine_vcpu *vcpu)
{
    // The interpreter works on struct x86_cpu itself.
}

static void engine_set_state(struct engine_vcpu *vcpu)
{
    struct interp *it = (struct interp *)vcpu;
    it->cpu->soft.zero = 0;
    x86_mode_changed(it->cpu);
    x86_tlb_flush_all(it->cpu);
    interp_cache_flush(it);
}

static unsigned engine_counters(struct engine_vcpu *vcpu, struct engine_counter *out, unsigned max)
{
    const struct interp *it = (const struct interp *)vcpu;
    const struct interp_stats *s = &it->stats;
    const struct x86_tlb *tlb = it->cpu->tlb;
    const struct engine_counter all[] = {
        {"instructions", it->cpu->icount},
        {"block_chains", s->chains},
        {"blocks_decoded", s->blocks_decoded},
        {"instructions_decoded", s->insns_decoded},
        {"block_lookup_misses", s->lookup_misses},
        {"block_cache_flushes", s->cache_flushes},
        {"code_invalidations", s->invalidations},
        {"blocks_invalidated", s->blocks_killed},
        {"single_steps", s->steps},
        {"exceptions", s->exceptions},
        {"events_delivered", s->interrupts},
        {"halts", s->halts},
        {"tlb_slow_hits", tlb->hits_slow},
        {"tlb_misses", tlb->misses},
        {"tlb_walks", tlb->walks},
        {"tlb_flushes", tlb->flushes},
    };
    unsigned n = max < ARRAY_SIZE(all) ? max : ARRAY_SIZE(all);
    memcpy(out, all, n * sizeof(out[0]));
    return n;
}

const struct engine_ops engine_interp = {
    .name = "interp",
    .summary = "the reference interpreter: portable, exact, observable",
    .usable = engine_usable,
    .create = engine_create,
    .destroy = engine_destroy,
    .vcpu_create = engine_vcpu_create,
    .vcpu_destroy = engine_vcpu_destroy,
    .run = engine_run,
    .retired = engine_retired,
    .kick = engine_kick,
    .signal = engine_signal,
    .get_state = engine_get_state,
    .set_state = engine_set_state,
    .counters = engine_counters,
};
