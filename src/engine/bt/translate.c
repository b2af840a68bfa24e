// SPDX-License-Identifier: Apache-2.0
// Puts a block together: entries, body, cold code; and keeps track of where the guest's flags are.
//
//     checked:   cmp [mapped], identity; jne cold      flags in AX
//     entry_a:   (restores RFLAGS when the body wants them there)
//     entry_e:   (saves them to AX when the body wants them there)
//     head:      5-byte NOP, which becomes a jump out when the block is dead
//                body
//                cold code
#include "engine/bt/translate.h"
#include "x86/mem.h"
#include <string.h>

#define ROOM (BT_BLOCK_MAX * 512u)

void tr_flags_saved(struct bt_tr *t)
{
    if (t->a)
        return;
    asm_flags_save(&t->b);
    t->a = true;
}

void tr_flags_clobber(struct bt_tr *t)
{
    tr_flags_saved(t);
    t->e = false;
}

void tr_flags_loaded(struct bt_tr *t)
{
    if (t->e)
        return;
    asm_flags_load(&t->b);
    t->e = true;
    t->a = false;
}

void tr_ax_free(struct bt_tr *t)
{
    tr_flags_loaded(t);
    t->a = false;
}

// Does the body want the flags in AX when it begins? Where neither is certain, RFLAGS it is.
static bool wants_saved(const struct bt_tr *t)
{
    if (t->poll || t->counted || t->need)
        return true;
    for (unsigned i = 0; i < t->count; i++) {
        const struct bt_op *op = &t->op[i];
        for (unsigned k = 0; k < op->access_count; k++)
            if (op->access[k].class == ACCESS_GENERAL || t->group[op->access[k].group].first == i)
                return true;
        if (op->flags_full || op->flags_some || op->kind == KIND_CARRY || op->kind == KIND_JCC)
            return false;
        if ((op->kind >= KIND_EXEC && op->kind < KIND_JCC) || op->kind >= KIND_RET ||
            op->kind == KIND_DF)
            return true;
    }
    return false;
}

static void entries(struct bt_tr *t)
{
    struct asm_buf *b = &t->b;
    struct bt_block *block = t->block;
    const size_t mapped = FRAME(mapped) + 4 * bt_mapped_index(t->lin >> PAGE_SHIFT, t->context);
    const bool saved = wants_saved(t);
    uint32_t number;
    uint8_t *over = NULL;
    tr_site(t, BT_SITE_ENTRY, &number);
    asm_nop(b, (unsigned)(-(uintptr_t)b->p & 15));
    block->checked = tr_offset(t, b->p);
    t->a = true;
    asm_alu_mem_imm(b, false, 7, mem_gs(mapped), (int32_t)block->identity, true);
    tr_cold(t, number, t->bt->stub_entry, asm_jcc(b, CC_NE));
    if (saved) {
        asm8(b, 0xeb);
        over = b->p;
        asm8(b, 0);
        block->entry_e = tr_offset(t, b->p);
        asm_flags_save(b);
    } else {
        block->entry_a = tr_offset(t, b->p);
        asm_flags_load(b);
    }
    if (((uintptr_t)b->p & 7) > 3)
        asm_nop(b, (unsigned)(8 - ((uintptr_t)b->p & 7)));
    block->head = tr_offset(t, b->p);
    if (saved) {
        *over = (uint8_t)(b->p - (over + 1));
        block->entry_a = block->head;
    } else {
        block->entry_e = block->head;
    }
    asm_nop(b, 5);
    t->a = saved;
    t->e = !saved;
    // Where the head jumps when the block is dead.
    tr_cold(t, number, t->bt->stub_entry, NULL);
}

static void poll(struct bt_tr *t)
{
    uint32_t number;
    if (t->counted) {
        const struct bt_mem icount = mem_gs(offsetof(struct x86_cpu, icount));
        asm_load(&t->b, BT_S1, icount);
        asm_lea(&t->b, true, BT_S1, mem_at(BT_S1, t->count));
        asm_store(&t->b, icount, BT_S1);
        tr_flags_clobber(t);
        asm_mem(&t->b, true, 0x3b, BT_S1, mem_gs(offsetof(struct x86_cpu, soft.limit)));
        tr_site(t, BT_SITE_POLL, &number);
        tr_cold(t, number, t->bt->stub_poll, asm_jcc(&t->b, CC_A));
    }
    if (t->poll) {
        tr_flags_clobber(t);
        asm_alu_mem_imm(&t->b, false, 7, mem_gs(FRAME(poll)), 0, false);
        tr_site(t, BT_SITE_POLL, &number);
        tr_cold(t, number, t->bt->stub_poll, asm_jcc(&t->b, CC_NE));
    }
}

// Whoever enters from the same page has not checked the next one.
static void second_page(struct bt_tr *t)
{
    const uint64_t page = (t->lin >> PAGE_SHIFT) + 1;
    uint32_t number;
    if (!t->crossing)
        return;
    tr_flags_clobber(t);
    asm_alu_mem_imm(&t->b, false, 7, mem_gs(FRAME(mapped) + 4 * bt_mapped_index(page, t->context)),
                    (int32_t)t->block->identity2, true);
    tr_site(t, BT_SITE_ENTRY, &number);
    tr_cold(t, number, t->bt->stub_entry, asm_jcc(&t->b, CC_NE));
}

static void body(struct bt_tr *t)
{
    second_page(t);
    poll(t);
    tr_need(t);
    for (t->now = 0; t->now < t->count && !t->failed; t->now++) {
        const struct bt_op *op = &t->op[t->now];
        if (t->reached[t->now] || op->kind >= KIND_JCC) {
            tr_rsp_settle(t);
            t->s1_slot = SLOT_NONE;
        }
        t->boundary[t->now] = t->b.p;
        if (op->kind < KIND_JCC)
            tr_compute(t, op);
        else
            tr_flow(t, op);
        if (t->now > 0 && op[-1].kind == KIND_STI && op->kind != KIND_STEP)
            tr_sti_over(t);
    }
    tr_rsp_settle(t);
    t->boundary[t->count] = t->b.p;
    t->now = t->count - 1;
    if (t->op[t->now].kind <= KIND_JCC)
        tr_exit(t, (t->rip + t->bytes) & t->v->cpu->lin_mask);
}

// Sites of accesses go on at boundaries that were not known when they were made; behind a branch that ends the
// block stands nothing (a CALL of the next instruction gets there, too).
static void sites_finish(struct bt_tr *t)
{
    const bool open = t->op[t->count - 1].kind <= KIND_JCC;
    for (uint32_t i = t->site_first; i < t->bt->site_count; i++) {
        struct bt_site *site = &t->bt->sites[i];
        if (site->kind == BT_SITE_ACCESS || (site->kind == BT_SITE_EXEC && !site->resume))
            site->resume = open || site->done + site->count < (int)t->count
                               ? tr_offset(t, t->boundary[site->done + site->count])
                               : BT_NO_RESUME;
    }
}

// For people and for the checker: which code is for which instruction. False: no room.
static bool layout_make(struct bt_tr *t)
{
    const size_t size = (t->count + 1) * sizeof(t->block->layout->boundary[0]);
    struct bt_layout *l = bt_alloc(t->bt, sizeof(*l) + size);
    if (!l)
        return false;
    *l = (struct bt_layout){.start = (uint32_t)t->bt->used,
                            .cold = tr_offset(t, t->b.p),
                            .site_first = t->site_first,
                            .site_end = t->bt->site_count,
                            .code = t->code};
    for (unsigned i = 0; i <= t->count; i++)
        l->boundary[i] = tr_offset(t, t->boundary[i]);
    t->block->layout = l;
    return true;
}

static struct bt_block *translate(struct bt_vcpu *v, uint32_t context,
                                  const struct x86_code_page *code,
                                  const struct x86_code_page *next, struct bt_page *page,
                                  struct bt_page *page2, bool *full, bool *more)
{
    static _Thread_local struct bt_tr tr;
    struct bt_tr *t = &tr;
    struct bt *bt = v->bt;
    struct x86_cpu *cpu = v->cpu;
    const struct bt_context *key = &bt->contexts[context];
    gva_t lin = (cpu->seg[X86_CS].eff_base + cpu->rip) & cpu->lin_mask;
    unsigned off = lin & PAGE_OFFSET_MASK, avail = (unsigned)PAGE_SIZE - off;
    const unsigned room = avail;
    uint8_t bytes[BT_BLOCK_MAX * 15];
    *full = bt->used + ROOM > bt->size || bt->site_count + BT_COLD_MAX * 2 > bt->sites_max;
    if (*full)
        return NULL;
    if (avail > sizeof(bytes))
        avail = sizeof(bytes);
    memcpy(bytes, code->host + off, avail);
    if (next->host) { // `avail` is less than the longest instruction
        memcpy(bytes + avail, next->host, 15);
        avail += 15;
    }
    if (avail - 1 > key->cs_limit - cpu->rip) // of code beyond the limit the interpreter makes #GP
        avail = (unsigned)(key->cs_limit - cpu->rip) + 1;
    memset(t, 0, offsetof(struct bt_tr, op));
    t->groups = t->colds = 0;
    t->poll = t->failed = t->x87_stored = false;
    t->need = t->x87_last = 0;
    t->s1_slot = SLOT_NONE;
    t->rsp_lag = 0;
    memset(t->reached, 0, sizeof(t->reached));
    t->v = v;
    t->bt = bt;
    t->context = context;
    t->key = key;
    t->code = key->bits & BT_CTX_CODE;
    t->counted = key->bits & BT_CTX_COUNTED;
    t->single = key->bits & BT_CTX_SINGLE;
    t->crossing = next->host != NULL;
    t->rip = cpu->rip;
    t->lin = lin;
    t->count = 0;
    t->bytes = 0;
    t->site_first = bt->site_count;
    if (!tr_analyze(t, bytes, avail)) {
        *more = !t->crossing && avail == room && key->cs_limit - cpu->rip >= room &&
                x86_decode(&t->op[0].x, bytes, avail, t->code, cpu->model) == X86_DECODE_MORE;
        return NULL;
    }
    if (t->crossing && t->bytes <= room)
        return NULL; // changed meanwhile

    t->block = bt_alloc(bt, sizeof(*t->block));
    t->b.p = bt->rw + bt->used;
    t->now = 0;
    if (!t->block)
        goto full;
    *t->block = (struct bt_block){.rip = t->rip,
                                  .gpa = code->gpa | off,
                                  .gpa2 = t->crossing ? next->gpa : BT_NO_PAGE,
                                  .context = context,
                                  .bytes = t->bytes,
                                  .count = (uint16_t)t->count};
    t->block->identity = bt_identity_get(bt, lin & PAGE_MASK, code->gpa >> PAGE_SHIFT, context);
    if (t->crossing)
        t->block->identity2 =
            bt_identity_get(bt, bt_next_page(cpu, lin), next->gpa >> PAGE_SHIFT, context);
    if (!t->block->identity || (t->crossing && !t->block->identity2))
        goto full;
    t->block->need = t->need;
    entries(t);
    body(t);
    if (t->failed)
        goto full;
    sites_finish(t);
    if ((bt->verify || bt->dump) && !layout_make(t))
        goto full;
    tr_cold_emit(t);
    t->block->end = tr_offset(t, t->b.p);
    if (!bt_block_publish(bt, t->block, page, page2, bytes, code->host + off, next->host))
        return NULL; // written meanwhile: again
    v->stats.translated++;
    v->stats.insns += t->count;
    v->stats.guest_bytes += t->bytes;
    v->stats.host_bytes += t->block->end - bt->used;
        if (bt->dump)
        bt_dump_block(bt, t->block, bytes);
    if (bt->verify && !bt_verify_block(bt->verifier, t->block))
        return NULL; // the loop stops the engine
    bt->used = (t->block->end + 15) & ~UINT64_C(15);
    return t->block;
full:
    *full = true;
    return NULL;
}

struct bt_block *bt_translate(struct bt_vcpu *v, uint32_t context, const struct x86_code_page *code,
                              const struct x86_code_page *next, bool *full, bool *more)
{
    struct bt *bt = v->bt;
    const uint32_t site_count = bt->site_count;
    const size_t arena_used = bt->arena_used;
    struct bt_page *page = bt_page_hold(bt, code->gpa), *page2 = NULL;
    struct bt_block *block = NULL;
    if (next->host && page)
        page2 = bt_page_hold(bt, next->gpa);
    if (page && (page2 || !next->host))
        block = translate(v, context, code, next, page, page2, full, more);
    if (!block) {
        bt->site_count = site_count;
        bt->arena_used = arena_used;
        // What an empty cache has no room for is the interpreter's: flushing would never help.
        *full &= bt->used != bt->stubs_end;
    }
    if (page2)
        bt_page_settle(bt, page2);
    if (page)
        bt_page_settle(bt, page);
    return block;
}
