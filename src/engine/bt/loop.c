// SPDX-License-Identifier: Apache-2.0
// The binary translator as an engine: its life, and the loop that finds, makes and enters blocks.
#include "engine/bt/bt.h"
#include "x86/flags.h"
#include "x86/fpu.h"
#include "x86/mem.h"
#include "x86/system.h"
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

// --- the loop ---------------------------------------------------------------------------------------------------

// From here on nothing that this vCPU finds in the cache goes away, until in_code is 0 again. False: a flush
// came in between, the context must be looked up anew.
static bool code_hold(struct bt_vcpu *v)
{
    struct x86_code_frame *frame = &v->cpu->frame;
    for (;;) {
        atomic_store(&frame->in_code, 1);
        if (!atomic_load(&v->bt->stop))
            break;
        atomic_store(&frame->in_code, 0);
        while (atomic_load(&v->bt->stop))
            sched_yield();
    }
    if (v->generation == atomic_load(&v->bt->generation))
        return true;
    atomic_store(&frame->in_code, 0);
    return false;
}

enum found {
    FOUND,      // and held
    FOUND_NONE, // the interpreter's
    FOUND_AGAIN // look again
};

// The block at rip, made if need be. May raise what fetching raises.
static enum found block_get(struct bt_vcpu *v, uint32_t context, struct bt_block **out)
{
    struct bt *bt = v->bt;
    struct x86_cpu *cpu = v->cpu;
    struct bt_block *block;
    struct x86_code_page page, next = {0};
    gva_t lin, next_lin;
    bool full = false, more = false, held = false;
    if (!code_hold(v))
        return FOUND_AGAIN;
    *out = bt_block_here(v, context);
    if (*out)
        return FOUND;
    atomic_store(&cpu->frame.in_code, 0);
    lin = (cpu->seg[X86_CS].eff_base + cpu->rip) & cpu->lin_mask;
    cpu->insn_rip = cpu->rip;
    cpu->soft.insn = NULL;
    if (cpu->rip > v->key.cs_limit)
        return FOUND_NONE;
again:
    page = x86_fetch_page(cpu, lin);
    if (!page.host)
        return FOUND_NONE;
    if (more) { // the instruction crosses into the next page
        next_lin = bt_next_page(cpu, lin);
        if (next_lin == 0 || (cpu->code_size == X86_CODE64 && !x86_canonical(next_lin)))
            return FOUND_NONE;
        next = x86_fetch_page(cpu, next_lin);
        if (!next.host || x86_tlb_entry(cpu, next_lin)->tag_exec != next_lin)
            return FOUND_NONE;
        more = false;
    }
    pthread_mutex_lock(&bt->lock);
    if (v->generation != atomic_load(&bt->generation)) {
        pthread_mutex_unlock(&bt->lock);
        return FOUND_AGAIN;
    }
    block = bt_find(v, page.gpa | (lin & PAGE_OFFSET_MASK), cpu->rip, context);
    if (!block)
        block = bt_translate(v, context, &page, &next, &full, &more);
    if (full)
        bt_cache_flush(bt);
    else if (block)
        held = code_hold(v); // nobody flushes while the lock is held
    pthread_mutex_unlock(&bt->lock);
    if (more && !next.host)
        goto again;
    *out = block;
    return held ? FOUND : full ? FOUND_AGAIN : FOUND_NONE;
}

static void enter(struct bt_vcpu *v, struct bt_block *block)
{
    struct bt *bt = v->bt;
    struct x86_cpu *cpu = v->cpu;
    struct x86_code_frame *frame = &cpu->frame;
    bt_targets_use(v);
    bt_entry_allow(cpu, block);
    bt_flags_out(cpu);
    v->stats.entries++;
    bt_need(cpu, block);
    ((void (*)(uint64_t))(uintptr_t)(bt->rx + bt->stub_enter))((uintptr_t)bt->rx + block->entry_a);
    atomic_store(&frame->in_code, 0);
}

static void bt_loop(struct bt_vcpu *v, struct vm_exit *exit)
{
    struct x86_cpu *cpu = v->cpu;
    struct bt *bt = v->bt;
    for (;;) {
        struct bt_block *block;
        uint64_t left;
        if (unlikely(atomic_load_explicit(&cpu->frame.poll, memory_order_relaxed)))
            atomic_exchange(&cpu->frame.poll, 0); // before the events are looked at
        if (unlikely(atomic_load_explicit(&bt->broken, memory_order_acquire))) {
            exit->reason = VM_EXIT_ERROR;
            exit->message = bt->broken_why;
            return;
        }
        if (unlikely(atomic_load(&bt->flush_wanted))) {
            pthread_mutex_lock(&bt->lock);
            if (atomic_load(&bt->flush_wanted))
                bt_cache_flush(bt);
            pthread_mutex_unlock(&bt->lock);
        }
        if (unlikely(atomic_load_explicit(&cpu->events, memory_order_relaxed) |
                     cpu->soft.attention) &&
            !interp_attend(v->it, exit))
            return;
        bt_context_update(v);
        left = cpu->soft.limit - cpu->icount;
        if (unlikely(left == 0)) {
            cpu->soft.attention = 1;
            continue;
        }
        uint32_t site = v->link_site;
        enum found found = FOUND_NONE;
        if (likely(v->context))
            found = block_get(v, v->single ? v->context_single : v->context, &block);
        if (found == FOUND_AGAIN)
            continue;
        v->link_site = 0;
        v->single = false;
        if (found == FOUND_NONE || left < block->count) {
            atomic_store(&cpu->frame.in_code, 0);
            interp_advance(v->it, left < INTERP_BLOCK_MAX ? (unsigned)left : INTERP_BLOCK_MAX);
            continue;
        }
        // An event may have led elsewhere meanwhile.
        if (site && block->context == v->link_context && block->rip == bt->sites[site - 1].target) {
            v->stats.links++;
            bt_link(bt, site - 1, block);
        }
        enter(v, block);
    }
}

static void engine_run(struct engine_vcpu *vcpu, uint64_t max_instructions, struct vm_exit *exit)
{
    struct interp *it = (struct interp *)vcpu;
    struct bt_vcpu *v = it->translator;
    struct x86_cpu *cpu = v->cpu;
    uint64_t gs;
    exit->message = NULL;
    if (!bt_host_prepare()) {
        exit->reason = VM_EXIT_ERROR;
        exit->message = "no stack for signals on this thread";
        return;
    }
    gs = bt_host_enter(cpu);
    bt_current_set(v);
    interp_current_set(it);
    cpu->soft.limit = max_instructions ? cpu->icount + max_instructions : UINT64_MAX;
    cpu->soft.attention = 1;
    if (cpu->activity == X86_FROZEN) // what it waits for may have happened: tries again
        cpu->activity = X86_ACTIVE;
    if (_setjmp(cpu->unwind) != 0) {
        atomic_store(&cpu->frame.in_code, 0);
        interp_unwound(it);
        v->link_site = 0;
        v->single = false;
        it->stats.exceptions++;
        if (!x86_fault_pending(cpu))
            cpu->activity = X86_SHUTDOWN;
    }
    bt_loop(v, exit);
    x86_fpu_sync(cpu);
    bt_current_set(NULL);
    interp_current_set(NULL);
    bt_host_leave(gs);
}

// --- the engine -----------------------------------------------------------------------------------------------------

static void memory_changed(void *opaque, gpa_t gpa, uint64_t size)
{
    struct bt *bt = opaque;
    atomic_store(&bt->flush_wanted, true);
    for (struct bt_vcpu *v = bt->vcpus; v; v = v->next)
        atomic_store(&v->cpu->frame.poll, 1);
}

static bool engine_usable(char *why, size_t why_size)
{
    const char *reason = bt_host_refuses();
    if (reason)
        snprintf(why, why_size, "%s", reason);
    else
        snprintf(why, why_size,
                 "usable: this host runs code that a program makes, no virtualization needed");
    return reason == NULL;
}

static struct engine *engine_create(struct memory *memory, const struct engine_options *options,
                                    struct error *err)
{
    struct engine *engine = engine_interp.create(memory, options, err);
    struct bt *bt;
    if (!engine)
        return NULL;
    bt = calloc(1, sizeof(*bt));
    if (!bt) {
        error_set(err, ERROR_HOST, "out of memory for the translator");
        engine_interp.destroy(engine);
        return NULL;
    }
    bt->engine = engine;
    bt->memory = memory;
    pthread_mutex_init(&bt->lock, NULL);
    pthread_mutex_init(&bt->mark_lock, NULL);
    pthread_mutex_init(&bt->page_lock, NULL);
    bt->verify = options && options->bt_verify;
    if ((bt->verify && !(bt->verifier = bt_verifier_create(bt, err))) ||
        !bt_cache_create(bt, options && options->bt_cache ? options->bt_cache : BT_CACHE_DEFAULT,
                         err) ||
        !bt_dump_open(bt, options, err)) {
        bt_cache_destroy(bt);
        bt_verifier_destroy(bt->verifier);
        free(bt);
        engine_interp.destroy(engine);
        return NULL;
    }
    engine->code_written = bt_code_written;
    engine->code_marked = bt_code_marked;
    engine->code_opaque = bt;
    bt->listener.changed = memory_changed;
    bt->listener.opaque = bt;
    memory_add_listener(memory, &bt->listener);
    return engine;
}

static void engine_destroy(struct engine *engine)
{
    if (!engine)
        return;
    struct bt *bt = engine->code_opaque;
    memory_remove_listener(bt->memory, &bt->listener);
    bt_cache_destroy(bt);
    bt_dump_close(bt);
    bt_verifier_destroy(bt->verifier);
    pthread_mutex_destroy(&bt->lock);
    pthread_mutex_destroy(&bt->mark_lock);
    pthread_mutex_destroy(&bt->page_lock);
    engine_interp.destroy(engine);
    free(bt);
}

static void engine_vcpu_destroy(struct engine_vcpu *vcpu)
{
    struct interp *it = (struct interp *)vcpu;
    if (!it)
        return;
    struct bt_vcpu *v = it->translator;
    for (struct bt_vcpu **link = &v->bt->vcpus; *link; link = &(*link)->next) {
        if (*link == v) {
            *link = v->next;
            break;
        }
    }
    v->cpu->frame.cpu = NULL;
    free(v);
    engine_interp.vcpu_destroy(vcpu);
}

static struct engine_vcpu *engine_vcpu_create(struct engine *engine, struct x86_cpu *cpu,
                                              struct error *err)
{
    struct engine_vcpu *vcpu = engine_interp.vcpu_create(engine, cpu, err);
    struct bt *bt = engine->code_opaque;
    struct bt_vcpu *v;
    uint64_t random = 0;
    if (!vcpu)
        return NULL;
    v = calloc(1, sizeof(*v));
    if (!v) {
        engine_interp.vcpu_destroy(vcpu);
        error_set(err, ERROR_HOST, "out of memory for a virtual processor");
        return NULL;
    }
    v->it = (struct interp *)vcpu;
    v->cpu = cpu;
    v->bt = bt;
    v->it->translator = v;
    memset(&cpu->frame, 0, sizeof(cpu->frame));
    cpu->frame.cpu = cpu;
    cpu->frame.no_vec = 1;
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != (ssize_t)sizeof(random))
        random = (uintptr_t)v; // where the host put it
    x86_code_frame_init(&cpu->frame, random);
    v->next = bt->vcpus;
    bt->vcpus = v;
    return vcpu;
}

static void engine_signal(struct engine_vcpu *vcpu, uint32_t events)
{
    engine_interp.signal(vcpu, events);
    atomic_store(&((struct interp *)vcpu)->cpu->frame.poll, 1);
}

static uint64_t engine_retired(const struct engine_vcpu *vcpu)
{
    return engine_interp.retired(vcpu); // helpers keep icount exact: arrive() in runtime.c
}

static void engine_kick(struct engine_vcpu *vcpu)
{
    engine_signal(vcpu, X86_EVENT_EXIT);
}

static void engine_get_state(struct engine_vcpu *vcpu)
{
    // All of it is in struct x86_cpu while run() does not execute.
}

static void engine_set_state(struct engine_vcpu *vcpu)
{
    struct interp *it = (struct interp *)vcpu;
    struct bt_vcpu *v = it->translator;
    engine_interp.set_state(vcpu);
    v->context = 0;
    atomic_store(&v->bt->flush_wanted, true);
}

static unsigned engine_counters(struct engine_vcpu *vcpu, struct engine_counter *out, unsigned max)
{
    const struct bt_vcpu *v = ((struct interp *)vcpu)->translator;
    const struct bt_stats *s = &v->stats;
    const struct engine_counter all[] = {
        {"blocks_translated", s->translated},
        {"instructions_translated", s->insns},
        {"guest_bytes_translated", s->guest_bytes},
        {"host_bytes_emitted", s->host_bytes},
        {"code_entries", s->entries},
        {"helper_instructions", s->execs},
        {"interpreter_steps", s->steps},
        {"system_instructions", s->systems},
        {"page_slot_misses", s->misses},
        {"page_slot_fills", s->fills},
        {"page_slot_refills", v->cpu->frame.refills},
        {"page_crossings", s->crossings},
        {"scattered_places", s->scattered},
        {"direct_exits", s->exits},
        {"links", s->links},
        {"indirect_misses", s->branches},
        {"vector_loads", s->loads},
        {"entry_checks", s->entry_checks},
        {"polls_taken", s->polls},
        {"code_stores", s->kills},
        {"translations_killed", v->bt->killed},
        {"code_cache_bytes", v->bt->used},
        {"code_cache_flushes", v->bt->generation},
    };
    unsigned n = max < ARRAY_SIZE(all) ? max : ARRAY_SIZE(all);
    memcpy(out, all, n * sizeof(out[0]));
    return n + engine_interp.counters(vcpu, out + n, max - n);
}

const struct engine_ops engine_bt = {
    .name = "bt",
    .summary = "the binary translator: near-native speed without hardware virtualization",
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
