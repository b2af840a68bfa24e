// SPDX-License-Identifier: Apache-2.0
// Contexts, and how translated code goes on behind an instruction that may have changed anything: a system
// instruction, a far branch, a return from an interrupt. Nothing of their meaning is here: the interpreter executes
// them. What it would look at before the next instruction (interp_attend) is asked in quiet(); only where there is
// nothing to do is the next block entered straight away.
#include "x86/system.h"
#include "engine/bt/bt.h"
#include "x86/mem.h"
#include <string.h>

// --- contexts -------------------------------------------------------------------------------------------------

void bt_context_now(const struct bt_vcpu *v, struct bt_context *key)
{
    const struct x86_cpu *cpu = v->cpu;
    const struct x86_seg *cs = &cpu->seg[X86_CS];
    uint32_t set = (uint32_t)((cpu->tlb->cur - cpu->tlb->set[0]) / X86_TLB_ENTRIES);
    key->bits = (uint32_t)cpu->code_size |
                (uint32_t)__builtin_ctz(cpu->stack_size) << BT_CTX_STACK_SHIFT |
                set << BT_CTX_SET_SHIFT | (x86_prot_mode(cpu) ? BT_CTX_PROT : 0) |
                (cpu->cpl == 0 ? BT_CTX_CPL0 : 0) |
                (cpu->soft.limit != UINT64_MAX || cpu->platform->counted ? BT_CTX_COUNTED : 0);
    if (!(cpu->cr0 & (X86_CR0_EM | X86_CR0_TS))) {
        key->bits |= bt_fp_context(cpu);
        if (cpu->cr4 & X86_CR4_OSFXSR)
            key->bits |= BT_CTX_SSE;
        if ((cpu->cr4 & X86_CR4_OSXSAVE) && (cpu->xcr0 & 6) == 6 && x86_prot_mode(cpu))
            key->bits |= BT_CTX_AVX;
    }
    key->segs = cpu->code_size == X86_CODE64 ? 0 : bt_segments_now(cpu);
    key->cs_base = cs->eff_base;
    key->cs_limit = cs->unchecked & X86_ACCESS_EXEC ? UINT64_MAX : cs->limit;
}

// The number of a context; 0 when there are too many. With the lock.
static uint32_t context_number(struct bt *bt, const struct bt_context *key)
{
    for (uint32_t i = 1; i < bt->context_count; i++)
        if (bt_context_equal(&bt->contexts[i], key))
            return i;
    if (bt->context_count == BT_CONTEXTS_MAX)
        return 0;
    bt->contexts[bt->context_count] = *key;
    return bt->context_count++;
}

// May blocks run in it at all?
static bool usable(const struct bt_context *key)
{
    return (key->bits & BT_CTX_SET) >> BT_CTX_SET_SHIFT != X86_TLB_ALIGN;
}

static struct bt_recent *recent(struct bt_vcpu *v, const struct bt_context *key)
{
    uint64_t h = (key->bits ^ (uint64_t)key->segs << 32) * UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ key->cs_base ^ key->cs_limit << 40) * UINT64_C(0x9e3779b97f4a7c15);
    return &v->recent[(h >> 48) % ARRAY_SIZE(v->recent)];
}

// The cache was flushed: all numbers mean something else now.
static void generation_begin(struct bt_vcpu *v)
{
    struct x86_code_frame *frame = &v->cpu->frame;
    v->generation = atomic_load(&v->bt->generation);
    v->context = v->context_single = v->link_site = 0;
    memset(v->recent, 0, sizeof(v->recent));
    memset(frame->mapped, 0, sizeof(frame->mapped));
    memset(frame->target_context, 0, sizeof(frame->target_context));
}

// Without the lock, for a helper must not wait for it. False: the loop has to look further.
static bool context_switch(struct bt_vcpu *v, const struct bt_context *key)
{
    const struct bt_recent *r = recent(v, key);
    if (!r->context || !bt_context_equal(&r->key, key))
        return false;
    v->key = *key;
    v->context = r->context;
    v->context_single = r->single;
    return true;
}

void bt_context_update(struct bt_vcpu *v)
{
    struct bt *bt = v->bt;
    struct bt_context key, single;
    if (unlikely(v->generation != atomic_load_explicit(&bt->generation, memory_order_relaxed)))
        generation_begin(v);
    bt_context_now(v, &key);
    if ((v->context && bt_context_equal(&key, &v->key)) || context_switch(v, &key))
        return;
    v->key = key;
    v->context = v->context_single = 0;
    if (!usable(&key))
        return;
    single = key;
    single.bits |= BT_CTX_SINGLE;
    pthread_mutex_lock(&bt->lock);
    if (bt->context_count + 2 > BT_CONTEXTS_MAX)
        bt_cache_flush(bt);
    if (v->generation != atomic_load(&bt->generation))
        generation_begin(v);
    v->context = context_number(bt, &key);
    v->context_single = context_number(bt, &single);
    *recent(v, &key) = (struct bt_recent){key, v->context, v->context_single};
    pthread_mutex_unlock(&bt->lock);
}

void bt_targets_use(struct bt_vcpu *v)
{
    struct x86_code_frame *frame = &v->cpu->frame;
    unsigned set = (v->key.bits & BT_CTX_SET) >> BT_CTX_SET_SHIFT;
    if (likely(frame->target_context[set] == v->context))
        return;
    for (unsigned i = 0; i < X86_FRAME_TARGETS; i++)
        frame->target[set][i].rip = ~(uint64_t)i; // whose place is another one
    frame->target_context[set] = v->context;
}

// --- going on ---------------------------------------------------------------------------------------------------

// May the next instruction run without a look at everything? One under an interrupt shadow is executed here.
static bool quiet(struct bt_vcpu *v)
{
    struct x86_cpu *cpu = v->cpu;
    for (;;) {
        uint32_t events = atomic_load_explicit(&cpu->events, memory_order_relaxed);
        if ((events & ~X86_EVENT_INTR) || x86_events_ready(cpu) || cpu->activity != X86_ACTIVE ||
            (cpu->rflags & X86_FLAG_TF) || x86_debug_armed(cpu) || v->it->broken ||
            cpu->icount >= cpu->soft.limit ||
            atomic_load_explicit(&cpu->frame.poll, memory_order_relaxed) ||
            !atomic_load_explicit(&cpu->frame.in_code, memory_order_relaxed))
            return false;
        cpu->soft.attention = 0;
        cpu->soft.insn = NULL;
        cpu->rflags &= ~(uint64_t)X86_FLAG_RF; // the next instruction has no breakpoint to pass
        if (likely(!cpu->shadow))
            return true;
        cpu->shadow = 0;
        cpu->insn_rip = cpu->rip;
        interp_advance(v->it, 1);
    }
}

// Enters the block at rip, in whatever context that is; 0: the loop has to.
static uint64_t go_on(struct bt_vcpu *v)
{
    struct bt_context key;
    struct bt_block *block;
    bt_context_now(v, &key);
    if (!bt_context_equal(&key, &v->key) && !context_switch(v, &key))
        return 0;
    if (!v->context)
        return 0;
    block = bt_block_here(v, v->context);
    if (!block)
        return 0;
    bt_targets_use(v);
    return bt_enter_block(v, block);
}

// The last instruction of a block.
uint64_t bt_on_step(struct x86_cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    struct bt_site *site = bt_arrive(cpu);
    v->stats.steps++;
    interp_execute(v->it, site->insn);
    return quiet(v) ? go_on(v) : 0;
}

// One within a block.
uint64_t bt_on_system(struct x86_cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    struct bt_site *site = bt_arrive(cpu);
    const uint64_t generation = cpu->tlb->generation, next = site->block->rip + site->next;
    struct bt_context key;
    v->stats.systems++;
    interp_execute(v->it, site->insn);
    if (!quiet(v))
        return 0;
    bt_context_now(v, &key);
    // What the block has checked before holds as long as nothing was flushed.
    if (cpu->rip == next && generation == cpu->tlb->generation && bt_context_equal(&key, &v->key))
        return bt_resume(cpu, site);
    return go_on(v);
}
