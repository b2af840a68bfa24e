// SPDX-License-Identifier: Apache-2.0
// Vector and x87 instructions: which of them run as they are, on the host's own registers; the check that
// those hold the guest's; alignment; and what the guest can see of the last x87 instruction.
//
// Rules to keep:
//  - Conditions under which such an instruction raises #UD, #NM, #MF or #XM are in the block's context
//    (BT_CTX_); where it may raise one, the interpreter executes it.
//  - Vector registers and MXCSR: a helper's stub saves them before C code runs. The x87 unit stays loaded:
//    x86/fpu.h has its rules.
#include "engine/bt/translate.h"
#include "x86/cpuid.h"
#include "x86/fpu.h"
#include "x86/hostexec.h"

// x87 control instructions: they leave FIP, FOP and FDP alone.
enum control {
    CONTROL_NOT,
    CONTROL_NATIVE,
    CONTROL_HELPER, // what the interpreter has to know of
};
static enum control control_of(const struct x86_form *form)
{
    switch (form->mnemonic_id) {
    case X86_MN_FLDCW: // tr_fldcw()
    case X86_MN_FNCLEX:
    case X86_MN_FNSTCW:
    case X86_MN_FNSTSW:
        return CONTROL_NATIVE;
    case X86_MN_FNINIT:
    case X86_MN_FENI8087_NOP:
    case X86_MN_FDISI8087_NOP:
    case X86_MN_FSETPM287_NOP:
    case X86_MN_FLDENV:
    case X86_MN_FNSTENV:
    case X86_MN_FRSTOR:
    case X86_MN_FNSAVE:
        return CONTROL_HELPER;
    default:
        return CONTROL_NOT;
    }
}

static unsigned needs_of(const struct x86_form *form)
{
    unsigned need = form->attr & (X86_INSN_X87 | X86_INSN_MMX) ? BT_NEED_X87 : 0;
    for (unsigned i = 0; i < form->operand_count; i++) {
        switch ((enum x86_operand_kind)form->operand[i].kind) {
        case X86_OPND_VEC_REG:
        case X86_OPND_VEC_RM:
        case X86_OPND_VEC_RM_REG:
        case X86_OPND_VEC_VVVV:
        case X86_OPND_VEC_IS4:
        case X86_OPND_XMM0:
            need |= BT_NEED_VEC;
            break;
        case X86_OPND_MMX_REG:
        case X86_OPND_MMX_RM:
        case X86_OPND_MMX_RM_REG:
            need |= BT_NEED_X87;
            break;
        default:
            break;
        }
    }
    return need;
}

static bool helper_only(const struct bt_tr *t, const struct x86_form *form)
{
    switch (form->mnemonic_id) {
    case X86_MN_EMMS:
        return false;
    case X86_MN_VZEROUPPER: // of eight registers outside 64-bit mode
    case X86_MN_VZEROALL:
        return !tr_64(t);
    case X86_MN_VMASKMOVPS: // an element that is masked off is not accessed
    case X86_MN_VMASKMOVPD:
    case X86_MN_VPMASKMOVD:
    case X86_MN_VPMASKMOVQ:
        return true;
    default:
        return form->treatment == X86_TREAT_HELPER || form->privilege != X86_PRIV_NONE ||
               control_of(form) == CONTROL_HELPER;
    }
}

static bool host_has(const struct x86_insn *x, const struct x86_form *form)
{
    return (form->feature == X86_FEATURE_NONE || hostexec_has(form->feature)) &&
           (!(form->attr & X86_INSN_AVX_TOO) || hostexec_has(X86_FEATURE_avx)) &&
           (!(form->attr & X86_INSN_AVX2_L) || !x->vex_l || hostexec_has(X86_FEATURE_avx2));
}

void tr_classify_vector(struct bt_tr *t, struct bt_op *op)
{
    const struct x86_insn *x = &op->x;
    const struct x86_form *form = x86_insn_form(x);
    const uint32_t has = t->key->bits;
    uint32_t wants = 0;
    unsigned need;
    if (!(form->attr & (X86_INSN_X87 | X86_INSN_MMX | X86_INSN_SSE | X86_INSN_VEX)))
        return;
    if (form->mnemonic_id == X86_MN_FWAIT) {
        if (has & BT_CTX_X87)
            op->kind = KIND_NOP;
        return;
    }
    need = needs_of(form);
    if (form->mnemonic_id == X86_MN_VZEROUPPER || form->mnemonic_id == X86_MN_VZEROALL)
        need = BT_NEED_VEC;
    if (helper_only(t, form) || !host_has(x, form) || !need)
        return;
    if (need & BT_NEED_X87)
        wants |= BT_CTX_X87;
    if (need & BT_NEED_VEC)
        wants |= form->attr & X86_INSN_VEX ? BT_CTX_AVX : BT_CTX_SSE;
    if (form->attr & X86_INSN_FPEXC)
        wants |= BT_CTX_MXCSR;
    if ((form->attr & X86_INSN_PROT))
        wants |= BT_CTX_PROT;
    if ((has & wants) != wants)
        return;
    op->flags_full = (form->flags_written & ~form->flags_read & X86_FLAGS_ARITH) == X86_FLAGS_ARITH;
    op->flags_some =
        ((form->flags_read | form->flags_written | form->flags_undefined) & X86_FLAGS_ARITH) != 0 &&
        !op->flags_full;
    op->kind = KIND_VECTOR;
    if (x->has_mem && (form->attr & X86_INSN_ALIGN))
        for (unsigned i = 0; i < form->operand_count; i++)
            if (x86_operand_get(x, i).is_mem)
                op->align = (uint8_t)x86_operand_get(x, i).size;
    op->x87 = (form->attr & X86_INSN_X87) && control_of(form) == CONTROL_NOT;
    if (!tr_encodable(t, op)) {
        op->kind = KIND_EXEC;
        op->flags_full = op->flags_some = op->x87 = false;
        op->align = 0;
        return;
    }
    t->need |= (uint8_t)need;
}

// May translated code be left at this instruction, before it has done anything?
static bool may_leave(const struct bt_tr *t, const struct bt_op *op)
{
    return op->access_count != 0 || op->kind >= KIND_EXEC;
}

void tr_x87_pointers(struct bt_tr *t)
{
    bool seen = true; // what FDP is now
    for (unsigned i = t->count; i-- > 0;) {
        struct bt_op *op = &t->op[i];
        if (op->x87 && op->x.has_mem) {
            op->x87_data = seen;
            seen = false;
        }
        if (may_leave(t, op)) // its own pointers are set behind
            seen = true;
    }
}

void tr_need(struct bt_tr *t)
{
    const struct bt_mem resident = mem_gs(offsetof(struct x86_cpu, fpu_resident));
    uint8_t *retry;
    uint32_t number;
    if (!t->need)
        return;
    tr_flags_clobber(t);
    retry = t->b.p;
    if (t->need & BT_NEED_VEC) {
        asm_alu_mem_imm(&t->b, false, 7, mem_gs(FRAME(no_vec)), 0, false);
        tr_site(t, BT_SITE_FP, &number)->retry = tr_offset(t, retry);
        tr_cold(t, number, t->bt->stub_fp, asm_jcc(&t->b, CC_NE));
    }
    if (t->need & BT_NEED_X87) {
        asm_mem(&t->b, false, 0xf6, 0, resident); // test byte
        asm8(&t->b, X86_FPU_X87);
        tr_site(t, BT_SITE_FP, &number)->retry = tr_offset(t, retry);
        tr_cold(t, number, t->bt->stub_fp, asm_jcc(&t->b, CC_E));
    }
}

// A slot's addend keeps the offset in the page: the host's address is as aligned as the guest's.
void tr_align(struct bt_tr *t, const struct bt_op *op, struct bt_mem *mem)
{
    const struct bt_access *a = &op->access[0];
    struct bt_group *g = &t->group[a->group];
    uint32_t number;
    struct bt_site *site;
    unsigned reg = BT_S1;
    if (a->class != ACCESS_GENERAL && g->aligned >= op->align &&
        !((a->rel - g->aligned_at) & (op->align - 1)))
        return;
    if (a->class == ACCESS_CONST && !(a->disp & (op->align - 1)))
        return;
    tr_flags_clobber(t);
    if (mem->base == BT_S1 && mem->index == BT_S2) {
        asm_lea(&t->b, true, BT_S1, *mem);
        *mem = mem_at(BT_S1, 0);
    } else if (a->class != ACCESS_GENERAL) {
        reg = BT_S2;
        asm_lea(&t->b, true, BT_S2, *mem);
    }
    asm8(&t->b, 0x41); // test r11b or r9b
    asm8(&t->b, 0xf6);
    asm8(&t->b, (uint8_t)(0xc0 | (reg & 7)));
    asm8(&t->b, op->align - 1);
    site = tr_site(t, BT_SITE_EXEC, &number);
    site->insn = tr_interp_insn(t, op);
    tr_cold(t, number, t->bt->stub_exec, asm_jcc(&t->b, CC_NE));
    g->aligned = op->align;
    g->aligned_at = a->rel;
}

// A control word that masks every exception is loaded here, and noted: cpu->x87.fcw is always current. Any other is
// the interpreter's.
void tr_fldcw(struct bt_tr *t, const struct bt_op *op)
{
    const struct bt_mem fcw = mem_gs(offsetof(struct x86_cpu, x87.fcw));
    uint32_t number;
    struct bt_site *site;
    asm_mem(&t->b, false, 0x0fb7, BT_S1, tr_access(t, &op->access[0])); // movzx
    tr_flags_clobber(t);
    asm_mov32(&t->b, BT_S2, BT_S1);
    asm_alu_imm(&t->b, false, 4, BT_S2, 0x3f);
    asm_alu_imm(&t->b, false, 7, BT_S2, 0x3f);
    site = tr_site(t, BT_SITE_EXEC, &number);
    site->insn = tr_interp_insn(t, op);
    tr_cold(t, number, t->bt->stub_exec, asm_jcc(&t->b, CC_NE));
    asm_alu_imm(&t->b, false, 4, BT_S1, 0x1f3f); // the bits that exist
    asm_alu_imm(&t->b, false, 1, BT_S1, 0x40);
    asm_store16(&t->b, fcw, BT_S1);
    asm_mem(&t->b, false, 0xd9, 5, fcw);
}

void tr_x87_done(struct bt_tr *t, const struct bt_op *op)
{
    if (op->x87_data) {
        tr_address(t, &op->x);
        asm_store(&t->b, mem_gs(offsetof(struct x86_cpu, x87.fdp)), BT_S1);
        if (tr_64(t)) {
            asm_mem(&t->b, false, 0xc6, 0, mem_gs(FRAME(x87_seg))); // mov byte
            asm8(&t->b, op->x.seg + 1);
        } else { // the segment register may be loaded before anybody asks
            asm_mem(&t->b, false, 0x0fb7, BT_S1, mem_gs(SEG(op->x.seg, sel)));
            asm_store16(&t->b, mem_gs(offsetof(struct x86_cpu, x87.fds)), BT_S1);
        }
    }
    t->x87_last = (uint8_t)(t->now + 1);
    t->x87_stored = false;
}

void tr_x87_leave(struct bt_tr *t, uint32_t site)
{
    if (!t->x87_last || t->x87_stored)
        return;
    asm_store_imm(&t->b, false, mem_gs(FRAME(x87_site)), (int32_t)site);
    t->x87_stored = true;
}
