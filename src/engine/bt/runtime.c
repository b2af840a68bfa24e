// SPDX-License-Identifier: Apache-2.0
// What translated code calls, through the stubs: slow accesses, instructions for the interpreter, links.
//
// On entry all registers are in cpu->gpr and the flags in frame.flags; rip, insn_rip and icount are brought
// up to the site's instruction before anything may raise. A fault leaves by longjmp to the run loop, as
// everywhere; translated code has changed nothing of the instruction then.
#include "engine/bt/bt.h"
#include "x86/flags.h"
#include "x86/fpu.h"
#include "x86/mem.h"
#include "x86/system.h"

void bt_flags_in(struct x86_cpu *cpu)
{
    uint32_t ax = cpu->frame.flags;
    x86_cc_put(cpu, (ax >> 8 & 0xd5) | (ax & 1) << 11);
}

void bt_flags_out(struct x86_cpu *cpu)
{
    uint32_t f = x86_cc_get(cpu);
    cpu->frame.flags = (uint16_t)((f & 0xd5) << 8 | 0x200 | (f >> 11 & 1));
}

static struct bt_site *site_of(struct x86_cpu *cpu)
{
    return &bt_of(cpu)->bt->sites[cpu->frame.site];
}

uint32_t bt_fp_context(const struct x86_cpu *cpu)
{
    uint32_t bits = 0;
    if (cpu->cr0 & (X86_CR0_EM | X86_CR0_TS))
        return 0;
    // These parts of FCW and FSW are current wherever the registers are (x86/fpu.h), and so are the control
    // bits of MXCSR.
    if ((cpu->x87.fcw & 0x3f) == 0x3f && !(cpu->x87.fsw & 0x80))
        bits |= BT_CTX_X87;
    if ((cpu->mxcsr & 0x7f80) == 0x1f80)
        bits |= BT_CTX_MXCSR;
    return bits;
}

void bt_need(struct x86_cpu *cpu, const struct bt_block *block)
{
    cpu->frame.want_vec = block->need & BT_NEED_VEC;
    if ((block->need & BT_NEED_X87) && !(cpu->fpu_resident & X86_FPU_X87))
        x86_fpu_load_x87(cpu);
}

// The pointers of the last x87 instruction. Blocks note where they were left, those with x87 instructions
// only; within such a block the site itself knows.
static void x87_pointers(struct x86_cpu *cpu, const struct bt_site *site)
{
    struct x86_code_frame *frame = &cpu->frame;
    if (likely(!site->x87)) {
        if (likely(!frame->x87_site) && likely(!frame->x87_seg))
            return;
        site = frame->x87_site ? &bt_of(cpu)->bt->sites[frame->x87_site] : NULL;
    }
    frame->x87_site = 0;
    if (site) {
        cpu->x87.fip = site->block->rip + site->x87_rip;
        cpu->x87.fop = site->x87_fop;
        cpu->x87.fcs = cpu->seg[X86_CS].sel;
    }
    if (frame->x87_seg) {
        cpu->x87.fds = cpu->seg[frame->x87_seg - 1].sel;
        frame->x87_seg = 0;
    }
}

// The state is exact, and the guest stands at rip.
static void stand_at(struct x86_cpu *cpu, const struct bt_site *site, uint64_t rip)
{
    bt_flags_in(cpu);
    x87_pointers(cpu, site);
    cpu->rip = cpu->insn_rip = rip;
    cpu->soft.insn = NULL;
    cpu->soft.attention = 0;
}

struct bt_site *bt_arrive(struct x86_cpu *cpu)
{
    struct bt_site *site = site_of(cpu);
    stand_at(cpu, site, site->block->rip + site->rip);
    if (bt_of(cpu)->key.bits & BT_CTX_COUNTED)
        cpu->icount -= site->block->count - site->done;
    return site;
}

static uint64_t code_at(const struct bt *bt, uint32_t offset)
{
    return (uintptr_t)bt->rx + offset;
}

// May a helper go back into translated code?
static bool may_return(struct x86_cpu *cpu)
{
    return !(cpu->soft.attention | atomic_load_explicit(&cpu->frame.poll, memory_order_relaxed)) &&
           atomic_load_explicit(&cpu->frame.in_code, memory_order_relaxed) &&
           !x86_events_ready(cpu);
}

uint64_t bt_resume(struct x86_cpu *cpu, const struct bt_site *site)
{
    const struct bt_block *block;
    if (!may_return(cpu)) // first: else the site may be another one by now
        return 0;
    block = site->block;
    if (cpu->rip != block->rip + site->next || site->resume == BT_NO_RESUME ||
        unlikely(bt_fp_context(cpu) != (bt_of(cpu)->key.bits & BT_CTX_FP)) ||
        atomic_load_explicit(&block->dead, memory_order_relaxed))
        return 0;
    if (bt_of(cpu)->key.bits & BT_CTX_COUNTED) {
        uint32_t rest = block->count - (site->done + site->count);
        if (cpu->soft.limit - cpu->icount < rest)
            return 0;
        cpu->icount += rest;
    }
    bt_flags_out(cpu);
    bt_need(cpu, block);
    return code_at(bt_of(cpu)->bt, site->resume);
}

uint64_t bt_on_exec(struct x86_cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    struct bt_site *site = bt_arrive(cpu);
    v->stats.execs++;
    interp_execute(v->it, site->insn);
    return bt_resume(cpu, site);
}

// The instruction loads a segment register. The block goes on if that is of the same kind as before.
uint64_t bt_on_seg(struct x86_cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    struct bt_site *site = bt_arrive(cpu);
    struct bt_context now;
    v->stats.execs++;
    cpu->rip = (site->block->rip + site->next) & cpu->lin_mask;
    site->insn->detail->exec(cpu, &site->insn->detail->x);
    cpu->icount++;
    bt_context_now(v, &now);
    return bt_context_equal(&now, &v->key) ? bt_resume(cpu, site) : 0;
}

// Its decoded code may be older than the block: another vCPU's store is still in the queue.
static void advance(struct bt_vcpu *v, unsigned count)
{
    if (unlikely(atomic_load_explicit(&v->cpu->events, memory_order_relaxed) & X86_EVENT_CODE))
        interp_queue_run(v->it);
    interp_advance(v->it, count);
}

// Lets the interpreter do what the group of the site covers. The site may be gone behind each instruction.
static uint64_t slow_access(struct x86_cpu *cpu, const struct bt_site *site)
{
    struct bt_vcpu *v = bt_of(cpu);
    const uint64_t end = cpu->icount + site->count, rip = cpu->rip;
    const uint64_t size = (uint64_t)(site->next - site->rip);
    v->stats.execs++;
    if (site->shadowed) { // an interrupt may be due right behind it
        advance(v, 1);
        return site->count == 1 ? bt_resume(cpu, site) : 0;
    }
    do
        advance(v, (unsigned)(end - cpu->icount));
    while (cpu->icount < end && !cpu->soft.attention && cpu->rip - rip < size);
    return bt_resume(cpu, site);
}

#define BT_LOOKS 16

// The site's slot has been refilled many times. Does it go far each time? Then the site is to ask the TLB
// instead: its block is translated anew. True: the block is gone.
static bool site_look(struct x86_cpu *cpu, struct bt_site *site, gva_t lin)
{
    struct bt *bt = bt_of(cpu)->bt;
    const struct x86_page_slot *slot = (void *)((uint8_t *)&cpu->frame + site->slot);
    const uint64_t before = atomic_load_explicit(&slot->page, memory_order_relaxed);
    const uint64_t apart = (lin & PAGE_MASK) - before + PAGE_SIZE;
    site->patience = 0; // every refill of this look comes here
    if (before & PAGE_OFFSET_MASK)
        return false; // empty after a flush: tells nothing
    site->far += apart > 2 * PAGE_SIZE;
    if (++site->looks < BT_LOOKS)
        return false;
    const bool scattered = site->far > BT_LOOKS * 3 / 4;
    site->patience = 16 * BT_PATIENCE;
    site->looks = site->far = 0;
    if (!scattered)
        return false;
    const unsigned h = bt_scatter_hash(site->block->rip + site->rip);
    atomic_fetch_or(&bt->scattered[h / 64], UINT64_C(1) << h % 64);
    atomic_store(&bt->any_scattered, true);
    bt_of(cpu)->stats.scattered++;
    atomic_store(&cpu->frame.in_code, 0); // the lock is taken
    bt_kill(bt, site->block->gpa, site->block->bytes);
    return true;
}

static bool slot_fill(struct x86_cpu *cpu, const struct bt_site *site, gva_t lin)
{
    struct x86_page_slot *slot = (void *)((uint8_t *)&cpu->frame + site->slot);
    struct x86_tlb_entry *entry;
    gva_t page = lin & PAGE_MASK;
    const unsigned access = site->early ? X86_ACCESS_READ | X86_ACCESS_WRITE : site->access;
    uint8_t flags, *host = x86_host_ptr(cpu, site->seg, lin, access, &entry);
    if (!host)
        return false;
    if (access & X86_ACCESS_WRITE) {
        flags = atomic_load(entry->flags);
        if (!(flags & PAGE_FLAG_DIRTY))
            flags = atomic_fetch_or(entry->flags, PAGE_FLAG_DIRTY) | PAGE_FLAG_DIRTY;
        if (flags != PAGE_FLAGS_PLAIN)
            return false;
    }
    if (site->scattered)
        return true; // the TLB has it now, with the right that was asked
    x86_code_frame_list(&cpu->frame, slot);
    atomic_store_explicit(&slot->page, x86_code_frame_emptied(&cpu->frame), memory_order_relaxed);
    atomic_store_explicit(&slot->addend, (uintptr_t)host - lin, memory_order_relaxed);
    atomic_store(&slot->page, page);
    // Whoever marks the page as code meanwhile sees the slot, or we see the mark (bt_code_marked).
    if ((access & X86_ACCESS_WRITE) && atomic_load(entry->flags) != PAGE_FLAGS_PLAIN) {
        atomic_store(&slot->page, x86_code_frame_emptied(&cpu->frame));
        return false;
    }
    return true;
}

struct bt_block *bt_block_here(struct bt_vcpu *v, uint32_t context)
{
    struct x86_cpu *cpu = v->cpu;
    gva_t lin = (cpu->seg[X86_CS].eff_base + cpu->rip) & cpu->lin_mask;
    struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);
    if (e->tag_exec != (lin & PAGE_MASK))
        return NULL;
    return bt_find(v, e->gpa | (lin & PAGE_OFFSET_MASK), cpu->rip, context);
}

void bt_entry_allow(struct x86_cpu *cpu, const struct bt_block *block)
{
    gva_t lin = cpu->seg[X86_CS].eff_base + block->rip;
    cpu->frame.mapped[bt_mapped_index(lin >> PAGE_SHIFT, block->context)] = block->identity;
    if (block->gpa2 != BT_NO_PAGE)
        cpu->frame.mapped[bt_mapped_index((lin >> PAGE_SHIFT) + 1, block->context)] =
            block->identity2;
}

uint64_t bt_enter_block(struct bt_vcpu *v, struct bt_block *block)
{
    if (!may_return(v->cpu))
        return 0;
    bt_entry_allow(v->cpu, block);
    bt_need(v->cpu, block);
    bt_flags_out(v->cpu);
    return code_at(v->bt, block->entry_a);
}

// The group's range cannot be checked as one: goes on in a block that checks each access by itself.
static uint64_t go_single(struct bt_vcpu *v)
{
    struct bt_block *block = bt_block_here(v, v->context_single);
    v->stats.crossings++;
    if (block)
        return bt_enter_block(v, block);
    v->single = true;
    return 0;
}

// Perhaps beyond the segment's limit.
uint64_t bt_on_slow(struct x86_cpu *cpu)
{
    struct bt_site *site = bt_arrive(cpu);
    return site->span != site->size && !site->shadowed ? go_single(bt_of(cpu))
                                                       : slow_access(cpu, site);
}

uint64_t bt_on_miss(struct x86_cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    struct bt *bt = v->bt;
    struct bt_site *site = bt_arrive(cpu);
    gva_t low = cpu->frame.scratch[0], lin = low + (uint64_t)site->head;
    bool crosses = (low & PAGE_OFFSET_MASK) + site->span > PAGE_SIZE;
    v->stats.misses++;
    if (unlikely(lin & site->align))
        return slow_access(cpu, site); // #GP, whatever the page
    if (site->early && x86_tlb_entry(cpu, lin)->tag_write != (lin & PAGE_MASK))
        return slow_access(cpu, site); // whether it may be written is not to be asked yet
    if ((lin & PAGE_OFFSET_MASK) + site->size <= PAGE_SIZE && !crosses) {
        if (unlikely(site->patience < 0) && site_look(cpu, site, lin))
            return 0;
        if (slot_fill(cpu, site, lin) && may_return(cpu)) {
            v->stats.fills++;
            if (v->key.bits & BT_CTX_COUNTED)
                cpu->icount += site->block->count - site->done;
            bt_need(cpu, site->block);
            return code_at(bt, site->retry);
        }
    } else if (crosses && site->span != site->size && !site->shadowed) {
        return go_single(v);
    }
    return slow_access(cpu, site);
}

void bt_link(struct bt *bt, uint32_t number, struct bt_block *target)
{
    struct bt_site *site = &bt->sites[number];
    uint32_t to = site->cross ? target->checked : site->flags_e ? target->entry_e : target->entry_a;
    // Aligned so that the field lies in one cache line: patch_align() in flow.c.
    __atomic_store_n((uint32_t *)(void *)(bt->rw + site->resume), to - (site->resume + 4),
                     __ATOMIC_RELAXED);
    // bt_kill() takes the link back. A block killed just now keeps it: its head leads on from there.
    if (!atomic_exchange(&site->linked, true)) {
        uint32_t first = atomic_load(&target->incoming);
        do
            site->incoming = first;
        while (!atomic_compare_exchange_weak(&target->incoming, &first, number + 1));
    }
}

// The table of indirect targets learns where the guest's rip is.
static void target_learn(struct bt_vcpu *v, const struct bt_block *block)
{
    const unsigned set = (v->key.bits & BT_CTX_SET) >> BT_CTX_SET_SHIFT;
    v->cpu->frame.target[set][block->rip & (X86_FRAME_TARGETS - 1)] =
        (struct x86_branch_target){block->rip, code_at(v->bt, block->checked)};
}

// Enters the block at rip, which the guest may reach by an indirect branch again.
static uint64_t go_here(struct bt_vcpu *v)
{
    struct bt_block *block = bt_block_here(v, v->context);
    if (!block)
        return 0;
    target_learn(v, block);
    return bt_enter_block(v, block);
}

uint64_t bt_on_exit(struct x86_cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    struct bt_site *site = site_of(cpu);
    struct bt_block *block;
    stand_at(cpu, site, site->target);
    v->stats.exits++;
    block = bt_block_here(v, v->context);
    if (!block) {
        v->link_site = cpu->frame.site + 1;
        v->link_context = v->context;
        return 0;
    }
    v->stats.links++;
    bt_link(v->bt, cpu->frame.site, block);
    return bt_enter_block(v, block);
}

// The interpreter executes the branch; the table learns where it went.
uint64_t bt_on_branch(struct x86_cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    struct bt_site *site = bt_arrive(cpu);
    v->stats.branches++;
    interp_execute(v->it, site->insn);
    return may_return(cpu) ? go_here(v) : 0;
}

uint64_t bt_on_poll(struct x86_cpu *cpu)
{
    bt_of(cpu)->stats.polls++;
    bt_arrive(cpu);
    return 0;
}

uint64_t bt_on_entry(struct x86_cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    const struct bt_site *site = site_of(cpu);
    stand_at(cpu, site, site->block->rip);
    v->stats.entry_checks++;
    // Another block may stand here now, or the page be mapped elsewhere.
    return go_here(v);
}

// The registers of the block that was entered are not all in the host's.
uint64_t bt_on_fp(struct x86_cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    struct bt_site *site = site_of(cpu);
    v->stats.loads++;
    x87_pointers(cpu, site);
    bt_need(cpu, site->block);
    return code_at(v->bt, site->retry);
}
