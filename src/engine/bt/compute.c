// SPDX-License-Identifier: Apache-2.0
// Instructions that stay in the block: emitted as one host instruction with the registers' homes put in, or as
// a few. A guest register that lives in memory goes through a scratch register.
#include "engine/bt/translate.h"
#include "x86/system.h"

// How the registers of one instruction are placed.
struct placement {
    struct bt_operands o;
    struct {
        uint8_t guest, scratch;
        bool load, store;
    } move[3]; // between memory and scratch registers
    unsigned moves;
    bool uses_ax; // RAX is used, for AH or as a scratch register
    bool ah, ah_written;
    bool accumulator; // CMPXCHG, MUL: the guest's RAX goes through RAX
    bool ok;
};

static uint8_t place(struct placement *p, unsigned guest, unsigned size, unsigned rw, bool s2_free,
                     bool s1_free)
{
    bool stored = rw & X86_RW_WRITE;
    uint8_t scratch;
    if (guest == X86_REG8_HIGH) { // AH: the guest's RAX has no high byte that can be named
        p->ah = p->uses_ax = true;
        p->ah_written |= stored;
        return X86_REG8_HIGH;
    }
    if (guest > X86_REG8_HIGH || bt_home[guest] != BT_REG_NONE)
        return guest > X86_REG8_HIGH ? (uint8_t)guest : bt_home[guest];
    for (unsigned i = 0; i < p->moves; i++) {
        if (p->move[i].guest == guest) {
            p->move[i].store |= stored;
            p->move[i].load |= (rw & X86_RW_READ) || size < 4;
            return p->move[i].scratch;
        }
    }
    bool taken[16] = {false};
    for (unsigned i = 0; i < p->moves; i++)
        taken[p->move[i].scratch] = true;
    if (s2_free && !taken[BT_S2])
        scratch = BT_S2;
    else if (s1_free && !taken[BT_S1])
        scratch = BT_S1;
    else if (!p->ah && !p->accumulator && !taken[BT_A])
        scratch = BT_A;
    else {
        p->ok = false;
        return BT_A;
    }
    p->uses_ax |= scratch == BT_A;
    p->move[p->moves].guest = (uint8_t)guest;
    p->move[p->moves].scratch = scratch;
    p->move[p->moves].load = (rw & X86_RW_READ) || size < 4;
    p->move[p->moves].store = stored;
    p->moves++;
    return scratch;
}

static void placement_make(struct placement *p, const struct bt_op *op, const struct bt_mem *mem)
{
    const struct x86_insn *x = &op->x;
    const struct x86_form *form = x86_insn_form(x);
    // A memory operand has S1 at least; S2 where its address is a sum of two scratch registers.
    const bool s1 = mem == NULL, s2 = !mem || (mem->base != BT_S2 && mem->index != BT_S2);
    *p = (struct placement){.ok = true, .o.mem = mem};
    p->accumulator = op->kind == KIND_MUL || form->mnemonic_id == X86_MN_CMPXCHG ||
                     (op->kind == KIND_VECTOR && (form->gpr_read & 1u << X86_RAX));
    p->uses_ax = p->accumulator;
    for (unsigned i = 0; i < form->operand_count; i++) {
        const struct x86_operand_desc *d = &form->operand[i];
        struct x86_operand o = x86_operand_get(x, i);
        unsigned rw = d->rw;
        if (o.is_mem)
            continue;
        // A conditional move of 32 bits writes its destination in any case, BSF only sometimes.
        if (form->flags_read || form->mnemonic_id == X86_MN_BSF || form->mnemonic_id == X86_MN_BSR)
            rw |= rw & X86_RW_WRITE ? X86_RW_READ : 0;
        switch (o.kind) {
        case X86_OPND_REG:
        case X86_OPND_OPREG:
            p->o.reg = place(p, x->reg, o.size, rw, s2, s1);
            break;
        case X86_OPND_RM:
        case X86_OPND_RM_REG:
            p->o.rm = place(p, x->rm, o.size, rw, s2, s1);
            break;
        case X86_OPND_VVVV_GPR:
            p->o.vvvv = place(p, x->vvvv, o.size, rw, s2, s1);
            break;
        case X86_OPND_VEC_REG:
        case X86_OPND_MMX_REG:
            p->o.reg = x->reg & (o.kind == X86_OPND_MMX_REG ? 7 : 15);
            break;
        case X86_OPND_VEC_RM:
        case X86_OPND_VEC_RM_REG:
            p->o.rm = x->rm;
            break;
        case X86_OPND_MMX_RM:
        case X86_OPND_MMX_RM_REG:
            p->o.rm = x->rm & 7;
            break;
        case X86_OPND_VEC_VVVV:
            p->o.vvvv = x->vvvv;
            break;
        case X86_OPND_VEC_IS4:
            p->o.is4 = x->is4;
            break;
        case X86_OPND_FIXED_GPR:
            if (op->kind == KIND_VECTOR) { // FNSTSW AX
                p->accumulator = p->uses_ax = true;
                p->o.reg = HOST_RAX;
                break;
            }
            if (d->fixed == X86_RCX) // CL of the shifts
                break;
            if (d->fixed != X86_RAX)
                p->ok = false;
            else if (form->mnemonic_id == X86_MN_XCHG)
                p->o.rm = place(p, X86_RAX, o.size, rw, s2, s1);
            else
                p->o.reg = place(p, X86_RAX, o.size, rw, s2, s1);
            break;
        case X86_OPND_IMM:
        case X86_OPND_ONE:
        case X86_OPND_MOFFS:
        case X86_OPND_ST0:
        case X86_OPND_STI:
        case X86_OPND_XMM0:
            break;
        default:
            p->ok = false;
        }
    }
    if (p->ah && p->accumulator)
        p->ok = false;
    if (p->accumulator && !mem && x->rm == X86_RAX)
        p->o.rm = HOST_RAX; // the same register twice
}

bool tr_encodable(const struct bt_tr *t, const struct bt_op *op)
{
    // Any memory operand has the same shape for the encoder: registers that want REX.
    const struct bt_mem sum = mem_sum(HOST_R8, BT_S1, 0, 8);
    const struct bt_mem both = mem_sum(BT_S1, BT_S2, 0, 0);
    struct placement p;
    uint8_t bytes[BT_ENCODE_MAX];
    if (!op->x.has_mem) {
        placement_make(&p, op, NULL);
        return p.ok && bt_encode(bytes, &op->x, &p.o) != 0;
    }
    placement_make(&p, op, &sum);
    if (!p.ok || bt_encode(bytes, &op->x, &p.o) == 0)
        return false;
    placement_make(&p, op, &both);
    return p.ok && bt_encode(bytes, &op->x, &p.o) != 0;
}

static void native(struct bt_tr *t, const struct bt_op *op)
{
    struct bt_mem mem;
    struct placement p;
    if (op->access_count)
        mem = tr_access(t, &op->access[0]);
    if (op->align)
        tr_align(t, op, &mem);
    placement_make(&p, op, op->access_count ? &mem : NULL);
    if (op->flags_some)
        tr_flags_loaded(t);
    if (p.uses_ax && !op->flags_full)
        tr_ax_free(t);
    for (unsigned i = 0; i < p.moves; i++)
        if (p.move[i].load)
            asm_load(&t->b, p.move[i].scratch, mem_gs(GPR(p.move[i].guest)));
    if (p.ah || p.accumulator)
        asm_mov(&t->b, HOST_RAX, BT_GUEST_RAX);
    t->b.p += bt_encode(t->b.p, &op->x, &p.o);
    if (p.ah_written || p.accumulator)
        asm_mov(&t->b, BT_GUEST_RAX, HOST_RAX);
    for (unsigned i = 0; i < p.moves; i++)
        if (p.move[i].store)
            asm_store(&t->b, mem_gs(GPR(p.move[i].guest)), p.move[i].scratch);
    if (op->flags_full || op->flags_some)
        tr_flags_written(t);
    else if (p.uses_ax)
        t->a = false;
    if (op->x87)
        tr_x87_done(t, op);
}

static void lea(struct bt_tr *t, const struct bt_op *op)
{
    const struct x86_insn *x = &op->x;
    unsigned reg = bt_home[x->reg];
    tr_address(t, x);
    if (reg == BT_REG_NONE) {
        if (x->opsize == 4)
            asm_mov32(&t->b, BT_S1, BT_S1);
        asm_store(&t->b, mem_gs(GPR(x->reg)), BT_S1);
    } else if (x->opsize == 2) {
        asm8(&t->b, 0x66);
        asm_mov32(&t->b, reg, BT_S1);
    } else if (x->opsize == 4) {
        asm_mov32(&t->b, reg, BT_S1);
    } else {
        asm_mov(&t->b, reg, BT_S1);
    }
}

static void lea_direct(struct bt_tr *t, const struct bt_op *op)
{
    const struct x86_insn *x = &op->x;
    const unsigned base = x->base < 16 ? bt_home[x->base] : BT_REG_NONE;
    const unsigned index = x->index < 16 ? bt_home[x->index] : BT_REG_NONE;
    const bool homes = bt_home[x->reg] != BT_REG_NONE && x->base < 16 && base != BT_REG_NONE &&
                       (x->index == X86_REG_NONE || index != BT_REG_NONE);
    if (!homes || x->opsize == 2 || x->adsize == 2 || (x->adsize == 4 && x->opsize == 8))
        lea(t, op);
    else
        asm_lea(&t->b, x->opsize == 8, bt_home[x->reg], mem_sum(base, index, x->scale, x->disp));
}

// A register that may be in memory, in a register: its home or `scratch`.
static unsigned fetch(struct bt_tr *t, unsigned guest, unsigned scratch)
{
    if (bt_home[guest] != BT_REG_NONE)
        return bt_home[guest];
    asm_load(&t->b, scratch, mem_gs(GPR(guest)));
    return scratch;
}

void tr_mem(struct bt_tr *t, unsigned size, unsigned op, unsigned reg, struct bt_mem m)
{
    if (size == 2)
        asm8(&t->b, 0x66);
    asm_mem(&t->b, size == 8, op, reg, m);
}

// rSP, as wide as the stack is, moves.
void tr_sp_move(struct bt_tr *t, int64_t by)
{
    tr_mem(t, tr_stack(t), 0x8d, HOST_RSP, mem_at(HOST_RSP, by)); // lea
}

static void push(struct bt_tr *t, const struct bt_op *op)
{
    const struct x86_insn *x = &op->x;
    const struct x86_operand_desc *d = &x86_insn_form(x)->operand[0];
    struct bt_mem m = tr_access(t, &op->access[0]);
    if (d->kind == X86_OPND_IMM) {
        tr_mem(t, x->opsize, 0xc7, 0, m);
        if (x->opsize == 2) {
            asm8(&t->b, (uint8_t)x->imm);
            asm8(&t->b, (uint8_t)(x->imm >> 8));
        } else {
            asm32(&t->b, (uint32_t)x->imm);
        }
    } else if (d->kind == X86_OPND_FIXED_SREG) {
        t->s1_slot = SLOT_NONE;
        asm_lea(&t->b, true, BT_S1, m);
        asm_mem(&t->b, false, 0x0fb7, BT_S2, mem_gs(SEG(d->fixed, sel)));
        tr_mem(t, x->opsize, 0x89, BT_S2, mem_at(BT_S1, 0));
    } else {
        tr_mem(t, x->opsize, 0x89, fetch(t, d->kind == X86_OPND_RM ? x->rm : x->reg, BT_S2), m);
    }
    t->rsp_lag -= x->opsize;
}

static void push_mem(struct bt_tr *t, const struct bt_op *op)
{
    const unsigned size = op->x.opsize;
    // The value waits in memory: a check needs both scratch registers.
    tr_mem(t, size, 0x8b, BT_S1, tr_access(t, &op->access[0]));
    t->s1_slot = SLOT_NONE;
    asm_store(&t->b, mem_gs(FRAME(scratch[1])), BT_S1);
    struct bt_mem m = tr_access(t, &op->access[1]);
    if (size == 8) {
        asm_load(&t->b, BT_S2, mem_gs(FRAME(scratch[1])));
        asm_store(&t->b, m, BT_S2);
    } else { // the address may be S1 + S2
        asm_lea(&t->b, true, BT_S1, m);
        asm_load32(&t->b, BT_S2, mem_gs(FRAME(scratch[1])));
        tr_mem(t, size, 0x89, BT_S2, mem_at(BT_S1, 0));
    }
    tr_sp_move(t, -(int64_t)size);
}

static void pop(struct bt_tr *t, const struct bt_op *op)
{
    const unsigned size = op->x.opsize;
    const unsigned home = bt_home[op->x.reg];
    struct bt_mem m = tr_access(t, &op->access[0]);
    tr_mem(t, size, 0x8b, home == BT_REG_NONE ? BT_S2 : home, m);
    if (op->x.reg == X86_RSP)
        return;
    if (home == BT_REG_NONE)
        asm_store(&t->b, mem_gs(GPR(op->x.reg)), BT_S2);
    t->rsp_lag += (int32_t)size;
}

static void pop_segment(struct bt_tr *t, const struct bt_op *op)
{
    asm_mem(&t->b, false, 0x0fb7, BT_S2, tr_access(t, &op->access[0]));
    tr_segment_set(t, x86_insn_form(&op->x)->operand[0].fixed);
    tr_sp_move(t, op->x.opsize);
}

static void leave(struct bt_tr *t, const struct bt_op *op)
{
    const unsigned size = op->x.opsize;
    tr_mem(t, size, 0x8b, BT_S1, tr_access(t, &op->access[0]));
    tr_mem(t, tr_stack(t), 0x8d, HOST_RSP, mem_at(HOST_RBP, size)); // lea
    if (size == 2)
        asm8(&t->b, 0x66);
    asm_reg(&t->b, size == 8, 0x89, BT_S1, HOST_RBP);
}

static void extend_rax(struct bt_tr *t, unsigned size)
{
    if (size == 2)
        asm8(&t->b, 0x66);
    if (size == 2) // movsx r10w, r10b
        asm_reg(&t->b, false, 0x0fbe, BT_GUEST_RAX, BT_GUEST_RAX);
    else if (size == 4) // movsx r10d, r10w
        asm_reg(&t->b, false, 0x0fbf, BT_GUEST_RAX, BT_GUEST_RAX);
    else // movsxd r10, r10d
        asm_reg(&t->b, true, 0x63, BT_GUEST_RAX, BT_GUEST_RAX);
}

static void sign_rdx(struct bt_tr *t, unsigned size)
{
    tr_ax_free(t);
    asm_mov(&t->b, HOST_RAX, BT_GUEST_RAX);
    if (size == 2)
        asm8(&t->b, 0x66);
    else if (size == 8)
        asm8(&t->b, 0x48);
    asm8(&t->b, 0x99);
}

static void direction(struct bt_tr *t, bool set)
{
    struct bt_mem rflags = mem_gs(offsetof(struct x86_cpu, rflags));
    tr_flags_clobber(t);
    asm_alu_mem_imm(&t->b, false, set ? 1 : 4, rflags, (int32_t)(set ? X86_FLAG_DF : ~X86_FLAG_DF),
                    false);
}

void tr_rsp_settle(struct bt_tr *t)
{
    if (t->rsp_lag)
        tr_sp_move(t, t->rsp_lag);
    t->rsp_lag = 0;
}

static bool names_rsp(const struct x86_insn *x)
{
    const struct x86_form *form = x86_insn_form(x);
    if (x->has_mem && (x->base == X86_RSP || x->index == X86_RSP))
        return true;
    for (unsigned i = 0; i < form->operand_count; i++) {
        struct x86_operand o = x86_operand_get(x, i);
        if (!o.is_mem && o.reg == X86_RSP)
            return true;
    }
    return false;
}

// May RSP lag behind while this is emitted? Only where nothing can leave the block.
static bool lag_allowed(const struct bt_tr *t, const struct bt_op *op)
{
    for (unsigned i = 0; i < op->access_count; i++)
        if (!tr_access_covered(t, &op->access[i]))
            return false;
    switch ((enum bt_kind)op->kind) {
    case KIND_PUSH:
    case KIND_POP:
    case KIND_NATIVE:
    case KIND_LEA:
        return !names_rsp(&op->x);
    case KIND_NOP:
    case KIND_CBW:
    case KIND_CWD:
    case KIND_CARRY:
        return true;
    default:
        return false;
    }
}

// Does S1 survive? Where it was used for an address it is the addend that tr_access() noted.
static bool s1_kept(const struct bt_tr *t, const struct bt_op *op)
{
    switch ((enum bt_kind)op->kind) {
    case KIND_PUSH:
    case KIND_POP:
    case KIND_NOP:
    case KIND_CBW:
    case KIND_CWD:
    case KIND_CARRY:
        return true;
    case KIND_NATIVE:
    case KIND_VECTOR:
        return op->access_count == 1 && op->access[0].class == ACCESS_SUM && !op->align &&
               !op->x87 && x86_insn_form(&op->x)->mnemonic_id != X86_MN_FLDCW;
    default:
        return false;
    }
}

void tr_compute(struct bt_tr *t, const struct bt_op *op)
{
    if (!lag_allowed(t, op))
        tr_rsp_settle(t);
    switch ((enum bt_kind)op->kind) {
    case KIND_NATIVE:
    case KIND_MUL:
        native(t, op);
        break;
    case KIND_VECTOR:
        if (x86_insn_form(&op->x)->mnemonic_id == X86_MN_FLDCW)
            tr_fldcw(t, op);
        else
            native(t, op);
        break;
    case KIND_LEA:
        lea_direct(t, op);
        break;
    case KIND_PUSH:
        push(t, op);
        break;
    case KIND_PUSH_MEM:
        push_mem(t, op);
        break;
    case KIND_POP:
        pop(t, op);
        break;
    case KIND_LEAVE:
        leave(t, op);
        break;
    case KIND_CBW:
        extend_rax(t, op->x.opsize);
        break;
    case KIND_CWD:
        sign_rdx(t, op->x.opsize);
        break;
    case KIND_CARRY:
        tr_flags_loaded(t);
        asm8(&t->b, op->x.opcode); // F8 CLC, F9 STC, F5 CMC
        tr_flags_written(t);
        break;
    case KIND_DF:
        direction(t, op->x.opcode == 0xfd);
        break;
    case KIND_SEG_STORE:
        tr_segment_store(t, op);
        break;
    case KIND_SEG_LOAD:
        tr_segment_load(t, op);
        break;
    case KIND_SEG_POP:
        pop_segment(t, op);
        break;
    case KIND_EXEC:
        tr_exec(t, op, BT_SITE_EXEC);
        break;
    case KIND_EXEC_SEG:
        tr_exec(t, op, BT_SITE_SEG);
        break;
    case KIND_SYSTEM:
    case KIND_CLI:
    case KIND_STI:
    case KIND_PUSHF:
    case KIND_POPF:
    case KIND_SWAPGS:
        tr_privileged(t, op);
        break;
    default: // KIND_NOP
        break;
    }
    if (!s1_kept(t, op))
        t->s1_slot = SLOT_NONE;
}
