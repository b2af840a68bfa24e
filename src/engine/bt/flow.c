// SPDX-License-Identifier: Apache-2.0
// How control leaves a block, or a place in it: direct exits (patched to their target when it is known), the
// table of indirect targets, calls of the interpreter, and the cold code of all of them.
#include "engine/bt/translate.h"
#include "x86/system.h"

struct bt_site *tr_site(struct bt_tr *t, enum bt_site_kind kind, uint32_t *number)
{
    struct bt_site *site;
    if (t->bt->site_count == t->bt->sites_max) {
        t->failed = true;
        t->bt->site_count--; // written, never used
    }
    *number = t->bt->site_count++;
    site = &t->bt->sites[*number];
    *site = (struct bt_site){.block = t->block,
                             .kind = (uint8_t)kind,
                             .rip = t->op[t->now].off,
                             .next = t->now + 1 < t->count ? t->op[t->now + 1].off : t->bytes,
                             .shadowed = t->now > 0 && t->op[t->now - 1].kind == KIND_STI,
                             .done = (uint8_t)t->now,
                             .count = 1};
    if (t->x87_last) {
        const struct bt_op *op = &t->op[t->x87_last - 1];
        site->x87 = true;
        site->x87_rip = op->off;
        site->x87_fop = (uint16_t)((op->x.opcode & 7) << 8 | op->x.modrm);
    }
    return site;
}

struct bt_cold *tr_cold(struct bt_tr *t, uint32_t site, uint32_t stub, uint8_t *from)
{
    struct bt_cold *cold;
    if (t->colds == BT_COLD_MAX) {
        t->failed = true;
        t->colds--;
    }
    cold = &t->cold[t->colds++];
    *cold = (struct bt_cold){.from = {from}, .site = site, .stub = stub, .flags_e = !t->a};
    return cold;
}

// The displacement that ends `before` bytes from here has to lie in one cache line: it is patched while other
// threads may execute it.
static void patch_align(struct bt_tr *t, unsigned before)
{
    uintptr_t field = (uintptr_t)t->b.p + before;
    if ((field & 63) > 60)
        asm_nop(&t->b, (unsigned)(64 - (field & 63)));
}

static void uncount(struct bt_tr *t, int32_t by)
{
    const struct bt_mem icount = mem_gs(offsetof(struct x86_cpu, icount));
    asm_load(&t->b, BT_S1, icount);
    asm_lea(&t->b, true, BT_S1, mem_at(BT_S1, -(int64_t)by));
    asm_store(&t->b, icount, BT_S1);
}

static bool crosses(const struct bt_tr *t, uint64_t target)
{
    return (((t->key->cs_base + target) ^ t->lin) & PAGE_MASK) != 0;
}

static int32_t not_retired(const struct bt_tr *t)
{
    return t->counted ? (int32_t)(t->count - (t->now + 1)) : 0;
}

void tr_exit(struct bt_tr *t, uint64_t target)
{
    const bool cross = crosses(t, target);
    uint32_t number;
    struct bt_site *site = tr_site(t, BT_SITE_EXIT, &number);
    struct bt_cold *cold;
    uint8_t *field;
    if (cross)
        tr_flags_saved(t);
    tr_x87_leave(t, number);
    patch_align(t, 1);
    field = asm_jmp(&t->b);
    cold = tr_cold(t, number, t->bt->stub_exit, field);
    site->target = target;
    site->cross = cross;
    site->flags_e = cold->flags_e;
    site->resume = tr_offset(t, field);
}

// LOOP, LOOPE, LOOPNE, JCXZ: counts, and jumps where the jump is taken. The flags stay in AX. *over: a short jump
// behind it all.
static uint8_t *loop_jump(struct bt_tr *t, const struct bt_op *op, uint8_t **over)
{
    const unsigned mn = x86_insn_form(&op->x)->mnemonic_id, size = op->x.adsize;
    tr_flags_clobber(t);
    if (mn != X86_MN_JCXZ)
        tr_mem(t, size, 0x8d, HOST_RCX, mem_at(HOST_RCX, -1)); // lea
    if (mn == X86_MN_LOOPE || mn == X86_MN_LOOPNE) {
        asm8(&t->b, 0xf6); // test ah, ZF
        asm8(&t->b, 0xc4);
        asm8(&t->b, X86_FLAG_ZF);
        asm8(&t->b, mn == X86_MN_LOOPE ? 0x74 : 0x75);
        *over = t->b.p;
        asm8(&t->b, 0);
    }
    if (size == 2)
        asm8(&t->b, 0x66);
    asm_reg(&t->b, size == 8, 0x85, HOST_RCX, HOST_RCX); // test
    patch_align(t, 2);
    return asm_jcc(&t->b, mn == X86_MN_JCXZ ? CC_E : CC_NE);
}

static void conditional(struct bt_tr *t, const struct bt_op *op)
{
    const bool cross = crosses(t, op->target);
    uint32_t number;
    struct bt_site *site = tr_site(t, BT_SITE_EXIT, &number);
    struct bt_cold *cold;
    uint8_t *field, *over = NULL;
    const bool loop = op->x.map == X86_MAP_1 && op->x.opcode >= 0xe0;
    if (!loop)
        tr_flags_loaded(t);
    tr_x87_leave(t, number);
    if (loop) {
        field = loop_jump(t, op, &over);
    } else {
        patch_align(t, 2);
        field = asm_jcc(&t->b, op->x.opcode & 15);
    }
    cold = tr_cold(t, number, t->bt->stub_exit, field);
    if (over)
        *over = (uint8_t)(t->b.p - (over + 1));
    cold->uncount = not_retired(t);
    cold->trampoline = cross || cold->uncount;
    site->target = op->target;
    site->cross = cross;
    site->flags_e = cold->flags_e && !cold->trampoline;
    site->resume = tr_offset(t, field); // of a trampoline: put right when it is emitted
}

struct interp_insn *tr_interp_insn(struct bt_tr *t, const struct bt_op *op)
{
    struct interp_insn *insn = bt_alloc(t->bt, 2 * sizeof(*insn));
    struct interp_detail *detail = bt_alloc(t->bt, sizeof(*detail));
    if (!insn || !detail) {
        t->failed = true;
        return NULL;
    }
    *detail = (struct interp_detail){.x = op->x};
    insn[0] = (struct interp_insn){.detail = detail};
    interp_select(&insn[0], detail, t->code, op->x.len);
    insn[1] = (struct interp_insn){
        .fn = interp_fall, .link = {&interp_no_block, &interp_no_block}, .off = op->x.len};
    return insn;
}

static void call_stub(struct bt_tr *t, uint32_t site, uint32_t stub)
{
    asm_store_imm(&t->b, false, mem_gs(FRAME(site)), (int32_t)site);
    asm_fix(asm_jmp(&t->b), t->bt->rw + stub);
}

void tr_exec(struct bt_tr *t, const struct bt_op *op, enum bt_site_kind kind)
{
    uint32_t number;
    struct bt_site *site = tr_site(t, kind, &number);
    site->insn = tr_interp_insn(t, op);
    tr_flags_saved(t);
    call_stub(t, number,
              kind == BT_SITE_EXEC     ? t->bt->stub_exec
              : kind == BT_SITE_SEG    ? t->bt->stub_seg
              : kind == BT_SITE_BRANCH ? t->bt->stub_branch
              : kind == BT_SITE_SYSTEM ? t->bt->stub_system
                                       : t->bt->stub_step);
    site->resume = tr_offset(t, t->b.p);
    t->e = t->a = true;
    t->x87_last = 0; // told
}

// Looks S1 up in the table of indirect targets; S2 = 16 * index. Where it is not found the interpreter
// executes the whole branch, so nothing may have been changed yet.
static void target_find(struct bt_tr *t, const struct bt_op *op)
{
    const unsigned set = (t->key->bits & BT_CTX_SET) >> BT_CTX_SET_SHIFT;
    const size_t table = FRAME(target) + set * sizeof(((struct x86_code_frame *)0)->target[0]);
    uint32_t number;
    struct bt_site *site;
    tr_flags_clobber(t);
    asm_mov32(&t->b, BT_S2, BT_S1);
    asm_alu_imm(&t->b, false, 4, BT_S2, X86_FRAME_TARGETS - 1);
    asm_shift(&t->b, false, 4, BT_S2, 4);
    asm_mem(&t->b, true, 0x3b, BT_S1,
            mem_gs_at(BT_S2, table + offsetof(struct x86_branch_target, rip)));
    site = tr_site(t, BT_SITE_BRANCH, &number);
    site->insn = tr_interp_insn(t, op);
    tr_cold(t, number, t->bt->stub_branch, asm_jcc(&t->b, CC_NE));
    tr_x87_leave(t, number);
}

static size_t target_code(const struct bt_tr *t)
{
    const unsigned set = (t->key->bits & BT_CTX_SET) >> BT_CTX_SET_SHIFT;
    return FRAME(target) + set * sizeof(((struct x86_code_frame *)0)->target[0]) +
           offsetof(struct x86_branch_target, code);
}

// S1 = the target that the first access leads to.
static void target_read(struct bt_tr *t, const struct bt_op *op)
{
    struct bt_mem m = tr_access(t, &op->access[0]);
    if (op->x.opsize == 2)
        asm_mem(&t->b, false, 0x0fb7, BT_S1, m); // movzx
    else
        asm_mem(&t->b, op->x.opsize == 8, 0x8b, BT_S1, m);
}

static void ret(struct bt_tr *t, const struct bt_op *op)
{
    const int64_t extra = x86_insn_form(&op->x)->operand_count ? (int64_t)op->x.imm : 0;
    target_read(t, op);
    target_find(t, op);
    tr_sp_move(t, op->x.opsize + extra);
    asm_mem(&t->b, false, 0xff, 4, mem_gs_at(BT_S2, target_code(t))); // jmp
}

// S1 = the target of an indirect branch.
static void target_load(struct bt_tr *t, const struct bt_op *op)
{
    if (op->x.has_mem)
        target_read(t, op);
    else if (bt_home[op->x.rm] == BT_REG_NONE)
        asm_load(&t->b, BT_S1, mem_gs(GPR(op->x.rm)));
    else if (op->x.opsize == 2)
        asm_reg(&t->b, false, 0x0fb7, BT_S1, bt_home[op->x.rm]); // movzx
    else
        asm_reg(&t->b, op->x.opsize == 8, 0x89, bt_home[op->x.rm], BT_S1);
    t->s1_slot = SLOT_NONE;
}

static void jump_indirect(struct bt_tr *t, const struct bt_op *op)
{
    target_load(t, op);
    target_find(t, op);
    asm_mem(&t->b, false, 0xff, 4, mem_gs_at(BT_S2, target_code(t)));
}

// Stores the return address and moves RSP.
static void push_return(struct bt_tr *t, const struct bt_op *op, const struct bt_access *a)
{
    const unsigned size = op->x.opsize;
    const uint64_t back = t->rip + op->off + op->x.len;
    struct bt_mem m = tr_access(t, a);
    if (size == 2) {
        tr_mem(t, size, 0xc7, 0, m);
        asm8(&t->b, (uint8_t)back);
        asm8(&t->b, (uint8_t)(back >> 8));
    } else if (size == 4) {
        asm_store_imm(&t->b, false, m, (int32_t)back);
    } else if (tr_fits32((int64_t)back)) {
        asm_store_imm(&t->b, true, m, (int32_t)back);
    } else {
        asm_mov_imm(&t->b, BT_S2, back);
        asm_store(&t->b, m, BT_S2);
    }
    tr_sp_move(t, -(int64_t)size);
}

static void call_indirect(struct bt_tr *t, const struct bt_op *op)
{
    target_load(t, op);
    target_find(t, op);
    asm_load(&t->b, BT_S2, mem_gs_at(BT_S2, target_code(t)));
    asm_store(&t->b, mem_gs(FRAME(scratch[1])), BT_S2);
    push_return(t, op, &op->access[op->access_count - 1]);
    asm_mem(&t->b, false, 0xff, 4, mem_gs(FRAME(scratch[1])));
}

void tr_flow(struct bt_tr *t, const struct bt_op *op)
{
    switch ((enum bt_kind)op->kind) {
    case KIND_JCC:
        conditional(t, op);
        break;
    case KIND_JMP:
        tr_exit(t, op->target);
        break;
    case KIND_CALL:
        push_return(t, op, &op->access[0]);
        tr_exit(t, op->target);
        break;
    case KIND_RET:
        ret(t, op);
        break;
    case KIND_JMP_IND:
        jump_indirect(t, op);
        break;
    case KIND_CALL_IND:
        call_indirect(t, op);
        break;
    case KIND_BRANCH:
        tr_exec(t, op, BT_SITE_BRANCH);
        break;
    default:
        tr_exec(t, op, BT_SITE_STEP);
        break;
    }
}

void tr_cold_emit(struct bt_tr *t)
{
    for (unsigned i = 0; i < t->colds; i++) {
        const struct bt_cold *cold = &t->cold[i];
        struct bt_site *site = &t->bt->sites[cold->site];
        for (unsigned k = 0; k < ARRAY_SIZE(cold->from) && cold->from[k]; k++)
            asm_fix(cold->from[k], t->b.p);
        if (!cold->from[0]) // of the head
            t->block->gone = tr_offset(t, t->b.p);
        site->cold = tr_offset(t, t->b.p);
        if (cold->flags_e)
            asm_flags_save(&t->b);
        if (cold->trampoline) {
            uint8_t *field;
            if (cold->uncount)
                uncount(t, cold->uncount);
            patch_align(t, 1);
            field = asm_jmp(&t->b);
            asm_fix(field, t->b.p);
            site->resume = tr_offset(t, field);
            site->cold = tr_offset(t, t->b.p);
        }
        if (cold->s1 == S1_ADD_PAGE)
            asm_mem(&t->b, true, 0x03, BT_S1, mem_gs(SLOT_PAGE(cold->slot)));
        else if (cold->s1 == S1_CONST)
            asm_mov_imm(&t->b, BT_S1, cold->value);
        else if (cold->s1 == S1_SUM)
            tr_low_address(t, cold->access);
        call_stub(t, cold->site, cold->stub);
    }
}
