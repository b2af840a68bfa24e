// SPDX-License-Identifier: Apache-2.0
// What a block consists of: its instructions, how each is translated, and its memory accesses.
#include "engine/bt/translate.h"
#include "x86/system.h"
#include <string.h>

// --- kinds ----------------------------------------------------------------------------------------------------

enum {
    FULL = 1, // writes all six flags and reads none
};
struct rule {
    uint8_t kind; // + 1
    uint8_t flags;
};
#define N(mn) [X86_MN_##mn] = {KIND_NATIVE + 1, 0}
#define F(mn) [X86_MN_##mn] = {KIND_NATIVE + 1, FULL}
#define K(mn, kind) [X86_MN_##mn] = {kind + 1, 0}
#define CC(m, kind)                                                                              \
    K(m##O, kind), K(m##NO, kind), K(m##B, kind), K(m##NB, kind), K(m##Z, kind), K(m##NZ, kind), \
        K(m##BE, kind), K(m##NBE, kind), K(m##S, kind), K(m##NS, kind), K(m##P, kind),           \
        K(m##NP, kind), K(m##L, kind), K(m##NL, kind), K(m##LE, kind), K(m##NLE, kind)
static const struct rule rules[] = {
    F(ADD),
    F(SUB),
    F(CMP),
    F(NEG),
    F(AND),
    F(OR),
    F(XOR),
    F(TEST),
    F(XADD),
    F(CMPXCHG),
    F(POPCNT),
    N(ADC),
    N(SBB),
    N(INC),
    N(DEC),
    N(NOT),
    N(SHL),
    N(SHR),
    N(SAR),
    N(ROL),
    N(ROR),
    N(RCL),
    N(RCR),
    N(SHLD),
    N(SHRD),
    N(IMUL),
    N(BT),
    N(BTS),
    N(BTR),
    N(BTC),
    N(BSF),
    N(BSR),
    N(LZCNT),
    N(TZCNT),
    N(BSWAP),
    N(XCHG),
    N(MOV),
    N(MOVZX),
    N(MOVSX),
    N(MOVSXD),
    N(MOVBE),
    N(CRC32),
    N(ADCX),
    N(ADOX),
    N(ANDN),
    N(BEXTR),
    N(BLSI),
    N(BLSMSK),
    N(BLSR),
    N(BZHI),
    N(MULX),
    N(PDEP),
    N(PEXT),
    N(RORX),
    N(SARX),
    N(SHLX),
    N(SHRX),
    N(MOVNTI),
    CC(CMOV, KIND_NATIVE),
    CC(SET, KIND_NATIVE),
    CC(J, KIND_JCC),
    K(LEA, KIND_LEA),
    K(NOP, KIND_NOP),
    K(ENDBR32, KIND_NOP),
    K(ENDBR64, KIND_NOP),
    K(PREFETCH, KIND_NOP),
    K(PREFETCHNTA, KIND_NOP),
    K(PREFETCHT0, KIND_NOP),
    K(PREFETCHT1, KIND_NOP),
    K(PREFETCHT2, KIND_NOP),
    K(PREFETCHW, KIND_NOP),
    K(PUSH, KIND_PUSH),
    K(POP, KIND_POP),
    K(LEAVE, KIND_LEAVE),
    K(MUL, KIND_MUL),
    K(CBW, KIND_CBW),
    K(CWD, KIND_CWD),
    K(CLC, KIND_CARRY),
    K(STC, KIND_CARRY),
    K(CMC, KIND_CARRY),
    K(CLD, KIND_DF),
    K(STD, KIND_DF),
    K(JMP, KIND_JMP),
    K(CALL, KIND_CALL),
    K(RET, KIND_RET),
    K(LOOP, KIND_JCC),
    K(LOOPE, KIND_JCC),
    K(LOOPNE, KIND_JCC),
    K(JCXZ, KIND_JCC),
};

static const struct x86_operand_desc *memory_operand(const struct x86_insn *x, unsigned *size)
{
    const struct x86_form *form = x86_insn_form(x);
    for (unsigned i = 0; i < form->operand_count; i++) {
        struct x86_operand op = x86_operand_get(x, i);
        if (op.is_mem && op.kind != X86_OPND_STR_SRC && op.kind != X86_OPND_STR_DST) {
            *size = op.size;
            return &form->operand[i];
        }
    }
    return NULL;
}

// The segment register that an instruction loads, or X86_SEG_COUNT.
static unsigned loaded_segment(const struct x86_insn *x)
{
    const struct x86_form *form = x86_insn_form(x);
    switch (form->mnemonic_id) {
    case X86_MN_LDS:
        return X86_DS;
    case X86_MN_LES:
        return X86_ES;
    case X86_MN_LFS:
        return X86_FS;
    case X86_MN_LGS:
        return X86_GS;
    case X86_MN_LSS:
        return X86_SS;
    case X86_MN_MOV:
        if (form->operand[0].kind == X86_OPND_SREG)
            return x->modrm >> 3 & 7;
        break;
    case X86_MN_POP:
        if (form->operand[0].kind == X86_OPND_FIXED_SREG)
            return form->operand[0].fixed;
        break;
    default:
        break;
    }
    return X86_SEG_COUNT;
}

// Outside 64-bit mode: what reads or loads a segment register. SS is the interpreter's, for the shadow behind it.
static bool classify_segment(const struct bt_tr *t, struct bt_op *op)
{
    const struct x86_insn *x = &op->x;
    const struct x86_form *form = x86_insn_form(x);
    const unsigned seg = loaded_segment(x);
    if (tr_64(t))
        return false;
    if (form->mnemonic_id == X86_MN_MOV && form->operand[1].kind == X86_OPND_SREG) {
        op->kind = (x->modrm >> 3 & 7) < X86_SEG_COUNT ? KIND_SEG_STORE : KIND_EXEC;
        return true;
    }
    if (form->mnemonic_id == X86_MN_PUSH && form->operand[0].kind == X86_OPND_FIXED_SREG) {
        op->kind = KIND_PUSH;
        return true;
    }
    if (seg == X86_SEG_COUNT)
        return false;
    if (seg > X86_SEG_COUNT || seg == X86_CS || seg == X86_SS)
        op->kind = KIND_STEP;
    else if (!tr_segment_real(t, seg) || (form->attr & X86_INSN_PROT) ||
             (form->mnemonic_id != X86_MN_MOV && form->mnemonic_id != X86_MN_POP))
        op->kind = KIND_EXEC_SEG;
    else
        op->kind = form->mnemonic_id == X86_MN_MOV ? KIND_SEG_LOAD : KIND_SEG_POP;
    return true;
}

static bool is_shift(unsigned mn)
{
    return mn == X86_MN_SHL || mn == X86_MN_SHR || mn == X86_MN_SAR;
}

static void classify(struct bt_tr *t, struct bt_op *op)
{
    const struct x86_insn *x = &op->x;
    const struct x86_form *form = x86_insn_form(x);
    const bool ends = interp_ends_block(x);
    const bool wide = !tr_64(t) || x->opsize == 8; // the operand size is one for the stack
    struct rule rule = {0, 0};
    uint32_t touched =
        (form->flags_read | form->flags_written | form->flags_undefined) & X86_FLAGS_ARITH;
    if (form->mnemonic_id < ARRAY_SIZE(rules))
        rule = rules[form->mnemonic_id];
    if (classify_segment(t, op))
        return;
    op->kind = rule.kind ? (uint8_t)(rule.kind - 1) : ends ? KIND_STEP : KIND_EXEC;
    if (!rule.kind) {
        if (!ends)
            tr_classify_vector(t, op);
        return;
    }
    // What the rules' mnemonics have beyond the usual.
    if (form->treatment == X86_TREAT_HELPER || form->privilege != X86_PRIV_NONE ||
        ((form->attr & X86_INSN_PROT) && !(t->key->bits & BT_CTX_PROT))) {
        op->kind = ends ? KIND_STEP : KIND_EXEC;
        return;
    }
    op->flags_full = (rule.flags & FULL) != 0;
    if (is_shift(form->mnemonic_id) && !(form->gpr_read & (1u << X86_RCX))) {
        unsigned n = tr_operand(form, X86_OPND_IMM) ? (unsigned)x->imm : 1;
        bool cl = false;
        for (unsigned i = 0; i < form->operand_count; i++)
            cl |= form->operand[i].kind == X86_OPND_FIXED_GPR;
        op->flags_full = !cl && (n & (x->opsize == 8 ? 63 : 31)) != 0;
    }
    op->flags_some = touched != 0 && !op->flags_full;
    switch ((enum bt_kind)op->kind) {
    case KIND_NATIVE:
        if ((form->mnemonic_id == X86_MN_BT || form->mnemonic_id == X86_MN_BTS ||
             form->mnemonic_id == X86_MN_BTR || form->mnemonic_id == X86_MN_BTC) &&
            x->has_mem && tr_operand(form, X86_OPND_REG))
            op->kind = KIND_EXEC; // the bit offset reaches beyond the operand
        else if (form->mnemonic_id == X86_MN_IMUL && form->operand_count == 1)
            op->kind = KIND_MUL;
        if (!tr_encodable(t, op))
            op->kind = KIND_EXEC;
        break;
    case KIND_MUL:
        if (!tr_encodable(t, op))
            op->kind = KIND_EXEC;
        break;
    case KIND_LEA:
        if ((tr_64(t) && (x->opsize < 4 || x->adsize < 4)) ||
            (x->adsize == 4 && x->base == X86_REG_RIP))
            op->kind = KIND_EXEC;
        break;
    case KIND_PUSH:
    case KIND_POP:
    case KIND_LEAVE:
        if (!wide || form->operand_count > 1 || tr_operand(form, X86_OPND_SREG) ||
            (tr_64(t) && tr_operand(form, X86_OPND_FIXED_SREG)))
            op->kind = KIND_EXEC;
        else if (op->kind == KIND_POP &&
                 (!tr_operand(form, X86_OPND_OPREG) || (x->reg == X86_RSP && !tr_64(t))))
            op->kind = KIND_EXEC;
        else if (op->kind == KIND_PUSH && tr_operand(form, X86_OPND_RM) && x->has_mem)
            op->kind = KIND_PUSH_MEM;
        break;
    case KIND_JCC:
    case KIND_JMP:
    case KIND_CALL:
    case KIND_RET:
        if (!wide || (x->has_mem && tr_64(t) && x->seg >= X86_FS)) {
            op->kind = KIND_BRANCH;
        } else if (op->kind != KIND_RET && tr_operand(form, X86_OPND_RM)) {
            op->kind = op->kind == KIND_JMP ? KIND_JMP_IND : KIND_CALL_IND;
        } else if (op->kind != KIND_RET) {
            op->target = t->rip + op->off + x->len + x->imm;
            if (!tr_64(t))
                op->target &= x->opsize == 2 ? 0xffff : 0xffffffff;
            if (tr_64(t) ? !x86_canonical(op->target) : op->target > t->key->cs_limit)
                op->kind = KIND_BRANCH;
        }
        break;
    default:
        break;
    }
    if (ends && op->kind == KIND_EXEC)
        op->kind = KIND_STEP;
}

// --- accesses ---------------------------------------------------------------------------------------------------

static struct bt_access *access_add(struct bt_op *op, enum bt_access_class class, int64_t disp,
                                    unsigned seg, unsigned size, bool write)
{
    struct bt_access *a = &op->access[op->access_count++];
    *a = (struct bt_access){.class = (uint8_t) class,
                            .base = BASE_NONE,
                            .index = BASE_NONE,
                            .size = (uint8_t)size,
                            .seg = (uint8_t)seg,
                            .write = write,
                            .disp = disp,
                            .rel = disp};
    return a;
}

static void access_operand(const struct bt_tr *t, struct bt_op *op, unsigned size, bool write)
{
    const struct x86_insn *x = &op->x;
    const unsigned word = tr_64(t) ? 8 : 4;
    const bool alone = x->base == X86_REG_NONE && x->index == X86_REG_NONE;
    const bool based = x->seg >= X86_FS && tr_64(t);
    // With a base in FS or GS, what the operand adds to it when that is a constant.
    const int64_t offset =
        x->base == X86_REG_RIP ? (int64_t)(t->rip + op->off + x->len + (uint64_t)x->disp) : x->disp;
    const bool fixed = alone || (x->base == X86_REG_RIP && x->index == X86_REG_NONE);
    const int64_t added = based ? offset : x->disp;
    const bool near = added > -0x70000000 && added < 0x70000000;
    if (!tr_64(t) && (x->adsize == 2 || !(tr_segment(t, x->seg) & BT_SEG_ZERO))) {
        struct bt_access *a = access_add(op, ACCESS_SEG, x->disp, x->seg, size, write);
        a->base = x->base < 16 ? x->base : BASE_NONE;
        a->index = x->index < 16 ? x->index : BASE_NONE;
        a->scale = x->index < 16 ? x->scale : 0;
        a->adsize = x->adsize;
    } else if (t->single || x->adsize != word || (based && !(fixed && near))) {
        access_add(op, ACCESS_GENERAL, 0, x->seg, size, write);
    } else if (based) {
        access_add(op, ACCESS_SUM, added, x->seg, size, write)->base =
            x->seg == X86_FS ? BASE_FS : BASE_GS;
    } else if (x->base == X86_REG_RIP || alone) {
        int64_t at = x->disp;
        if (!alone)
            at = (int64_t)(t->rip + op->off + x->len + (uint64_t)at);
        else if (!tr_64(t))
            at = (int64_t)(uint32_t)at;
        // Its check does not see an access that crosses a page's end.
        if (((uint64_t)at & PAGE_OFFSET_MASK) + size > PAGE_SIZE)
            access_add(op, ACCESS_GENERAL, 0, x->seg, size, write);
        else
            access_add(op, ACCESS_CONST, at, x->seg, size, write);
    } else if (near) {
        struct bt_access *a = access_add(op, ACCESS_SUM, x->disp, x->seg, size, write);
        a->base = x->base < 16 ? x->base : BASE_NONE;
        a->index = x->index < 16 ? x->index : BASE_NONE;
        a->scale = x->index < 16 ? x->scale : 0;
    } else {
        access_add(op, ACCESS_GENERAL, 0, x->seg, size, write);
    }
}

static void access_stack(const struct bt_tr *t, struct bt_op *op, unsigned base, int64_t disp,
                         bool write)
{
    const bool flat = tr_64(t) || (tr_stack(t) == 4 && (tr_segment(t, X86_SS) & BT_SEG_ZERO));
    struct bt_access *a =
        access_add(op, flat ? ACCESS_SUM : ACCESS_SEG, disp, X86_SS, op->x.opsize, write);
    a->base = (uint8_t)base;
    a->adsize = (uint8_t)tr_stack(t);
}

static void accesses(const struct bt_tr *t, struct bt_op *op)
{
    const int64_t word = op->x.opsize;
    unsigned size = op->x.opsize;
    switch ((enum bt_kind)op->kind) {
    case KIND_NATIVE:
    case KIND_VECTOR:
    case KIND_MUL:
        if (op->x.has_mem) {
            const struct x86_operand_desc *d = memory_operand(&op->x, &size);
            access_operand(t, op, size, d && (d->rw & X86_RW_WRITE));
        }
        break;
    case KIND_SEG_STORE:
        if (op->x.has_mem)
            access_operand(t, op, 2, true);
        break;
    case KIND_SEG_LOAD:
        if (op->x.has_mem)
            access_operand(t, op, 2, false);
        break;
    case KIND_PUSH_MEM:
        access_operand(t, op, size, false);
        access_stack(t, op, X86_RSP, -word, true);
        break;
    case KIND_PUSH:
    case KIND_PUSHF:
    case KIND_CALL:
        access_stack(t, op, X86_RSP, -word, true);
        break;
    case KIND_POP:
    case KIND_SEG_POP:
    case KIND_POPF:
    case KIND_RET:
        access_stack(t, op, X86_RSP, 0, false);
        break;
    case KIND_LEAVE:
        access_stack(t, op, X86_RBP, 0, false);
        break;
    case KIND_JMP_IND:
        if (op->x.has_mem)
            access_operand(t, op, size, false);
        break;
    case KIND_CALL_IND:
        if (op->x.has_mem)
            access_operand(t, op, size, false);
        access_stack(t, op, X86_RSP, -word, true);
        break;
    default:
        break;
    }
}

// Do the segments' rights allow the accesses? Where they do not, the interpreter raises what is due.
static bool accesses_allowed(const struct bt_tr *t, const struct bt_op *op)
{
    for (unsigned i = 0; i < op->access_count && !tr_64(t); i++)
        if (!(tr_segment(t, op->access[i].seg) &
              (op->access[i].write ? BT_SEG_WRITE : BT_SEG_READ)))
            return false;
    return true;
}

bool tr_analyze(struct bt_tr *t, const uint8_t *bytes, unsigned avail)
{
    while (t->count < BT_BLOCK_MAX) {
        struct bt_op *op = &t->op[t->count];
        memset(op, 0, sizeof(*op));
        op->off = t->bytes;
        if (x86_decode(&op->x, bytes + t->bytes, avail - t->bytes, t->code, t->v->cpu->model) !=
            X86_DECODE_OK)
            break;
        classify(t, op);
        tr_classify_privileged(t, op);
        accesses(t, op);
        if (!accesses_allowed(t, op)) {
            op->kind = op->kind >= KIND_CALL                                   ? KIND_BRANCH
                       : op->kind == KIND_SEG_LOAD || op->kind == KIND_SEG_POP ? KIND_EXEC_SEG
                                                                               : KIND_EXEC;
            op->access_count = op->align = 0;
            op->flags_full = op->flags_some = op->x87 = false;
        }
        t->bytes += op->x.len;
        t->count++;
        if ((op->kind == KIND_JCC || op->kind == KIND_JMP) && op->target <= t->rip + op->off)
            t->poll = true;
        if (op->kind >= KIND_RET && op->kind <= KIND_BRANCH)
            t->poll = true;
        if (op->kind == KIND_CALL && op->target <= t->rip + op->off)
            t->poll = true;
        if (op->kind > KIND_JCC || t->crossing)
            break;
    }
    tr_privileged_end(t);
    tr_group(t);
    tr_x87_pointers(t);
    return t->count != 0;
}
