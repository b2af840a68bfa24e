// SPDX-License-Identifier: Apache-2.0
// From a decoded instruction to the function that executes it: a threaded handler specialised by size and
// operand kind for the common forms, the plain function behind its wrapper for all others.
#include "engine/interp/exec.h"
#include "engine/interp/hot.h"

// How the operands of a form map to a family of handlers.
enum class {
    CLASS_NONE, // plain
    CLASS_ALU_E_G,
    CLASS_ALU_G_E,
    CLASS_ALU_E_I,
    CLASS_ALU_A_I,
    CLASS_TEST_E_G,
    CLASS_TEST_E_I,
    CLASS_TEST_A_I,
    CLASS_MOV_E_G,
    CLASS_MOV_G_E,
    CLASS_MOV_E_I,
    CLASS_MOV_Z_I,
    CLASS_MOV_A_O,
    CLASS_MOV_O_A,
    CLASS_INCDEC_Z,
    CLASS_INCDEC,
    CLASS_NOTNEG,
    CLASS_SHIFT_I,
    CLASS_SHIFT_1,
    CLASS_SHIFT_CL,
    CLASS_ROTATE_I,
    CLASS_ROTATE_1,
    CLASS_ROTATE_CL,
    CLASS_IMUL,
    CLASS_IMUL_I,
    CLASS_MOVZX_B,
    CLASS_MOVZX_W,
    CLASS_MOVSX_B,
    CLASS_MOVSX_W,
    CLASS_MOVSXD,
    CLASS_LEA,
    CLASS_CMOV,
    CLASS_SET,
    CLASS_JCC,
    CLASS_JMP,
    CLASS_CALL,
    CLASS_JMP_E,
    CLASS_CALL_E,
    CLASS_RET,
    CLASS_PUSH_Z,
    CLASS_POP_Z,
    CLASS_PUSH_I,
    CLASS_PUSH_E,
    CLASS_LEAVE,
    CLASS_BT_G,
    CLASS_BT_I,
    CLASS_XCHG,
    CLASS_XCHG_A,
    CLASS_BSWAP,
    CLASS_CBW,
    CLASS_CWD,
    CLASS_SMALL,
};

struct family {
    uint8_t class;
    uint8_t op;
};

#define F(form, class, op) [X86_FORM_##form] = {class, op}
#define ALU_FORMS(n, OP)                                                   \
    F(n##_Eb_Gb, CLASS_ALU_E_G, OP), F(n##_Ev_Gv, CLASS_ALU_E_G, OP),      \
        F(n##_Gb_Eb, CLASS_ALU_G_E, OP), F(n##_Gv_Ev, CLASS_ALU_G_E, OP),  \
        F(n##_AL_Ib, CLASS_ALU_A_I, OP), F(n##_rAX_Iz, CLASS_ALU_A_I, OP), \
        F(n##_Eb_Ib, CLASS_ALU_E_I, OP), F(n##_Ev_Iz, CLASS_ALU_E_I, OP),  \
        F(n##_Eb_Ib_alt, CLASS_ALU_E_I, OP), F(n##_Ev_Ibs, CLASS_ALU_E_I, OP)
#define SHIFT_FORMS(n, OP, tail)                                                    \
    F(n##_Eb_Ib##tail, CLASS_SHIFT_I, OP), F(n##_Ev_Ib##tail, CLASS_SHIFT_I, OP),   \
        F(n##_Eb_1##tail, CLASS_SHIFT_1, OP), F(n##_Ev_1##tail, CLASS_SHIFT_1, OP), \
        F(n##_Eb_CL##tail, CLASS_SHIFT_CL, OP), F(n##_Ev_CL##tail, CLASS_SHIFT_CL, OP)
#define CC_FORMS(n, cc)                                                \
    F(cmov##n##_Gv_Ev, CLASS_CMOV, cc), F(set##n##_Eb, CLASS_SET, cc), \
        F(j##n##_Jb, CLASS_JCC, cc), F(j##n##_Jz, CLASS_JCC, cc)

static const struct family families[X86_FORM_COUNT] = {
    ALU_FORMS(add, ALU_ADD),
    ALU_FORMS(or, ALU_OR),
    ALU_FORMS(adc, ALU_ADC),
    ALU_FORMS(sbb, ALU_SBB),
    ALU_FORMS(and, ALU_AND),
    ALU_FORMS(sub, ALU_SUB),
    ALU_FORMS(xor, ALU_XOR),
    ALU_FORMS(cmp, ALU_CMP),
    F(test_Eb_Gb, CLASS_TEST_E_G, 0),
    F(test_Ev_Gv, CLASS_TEST_E_G, 0),
    F(test_Eb_Ib, CLASS_TEST_E_I, 0),
    F(test_Ev_Iz, CLASS_TEST_E_I, 0),
    F(test_Eb_Ib_alt, CLASS_TEST_E_I, 0),
    F(test_Ev_Iz_alt, CLASS_TEST_E_I, 0),
    F(test_AL_Ib, CLASS_TEST_A_I, 0),
    F(test_rAX_Iz, CLASS_TEST_A_I, 0),
    F(mov_Eb_Gb, CLASS_MOV_E_G, 0),
    F(mov_Ev_Gv, CLASS_MOV_E_G, 0),
    F(mov_Gb_Eb, CLASS_MOV_G_E, 0),
    F(mov_Gv_Ev, CLASS_MOV_G_E, 0),
    F(mov_Eb_Ib, CLASS_MOV_E_I, 0),
    F(mov_Ev_Iz, CLASS_MOV_E_I, 0),
    F(mov_Zb_Ib, CLASS_MOV_Z_I, 0),
    F(mov_Zv_Iv, CLASS_MOV_Z_I, 0),
    F(mov_AL_Ob, CLASS_MOV_A_O, 0),
    F(mov_rAX_Ov, CLASS_MOV_A_O, 0),
    F(mov_Ob_AL, CLASS_MOV_O_A, 0),
    F(mov_Ov_rAX, CLASS_MOV_O_A, 0),
    F(inc_Zv, CLASS_INCDEC_Z, 0),
    F(dec_Zv, CLASS_INCDEC_Z, 1),
    F(inc_Eb, CLASS_INCDEC, 0),
    F(inc_Ev, CLASS_INCDEC, 0),
    F(dec_Eb, CLASS_INCDEC, 1),
    F(dec_Ev, CLASS_INCDEC, 1),
    F(not_Eb, CLASS_NOTNEG, 0),
    F(not_Ev, CLASS_NOTNEG, 0),
    F(neg_Eb, CLASS_NOTNEG, 1),
    F(neg_Ev, CLASS_NOTNEG, 1),
    SHIFT_FORMS(shl, SHIFT_SHL, ),
    SHIFT_FORMS(shl, SHIFT_SHL, _alt),
    SHIFT_FORMS(shr, SHIFT_SHR, ),
    SHIFT_FORMS(sar, SHIFT_SAR, ),
    F(rol_Ev_Ib, CLASS_ROTATE_I, 0),
    F(rol_Ev_1, CLASS_ROTATE_1, 0),
    F(rol_Ev_CL, CLASS_ROTATE_CL, 0),
    F(ror_Ev_Ib, CLASS_ROTATE_I, 1),
    F(ror_Ev_1, CLASS_ROTATE_1, 1),
    F(ror_Ev_CL, CLASS_ROTATE_CL, 1),
    F(imul_Gv_Ev, CLASS_IMUL, 0),
    F(imul_Gv_Ev_Iz, CLASS_IMUL_I, 0),
    F(imul_Gv_Ev_Ibs, CLASS_IMUL_I, 0),
    F(movzx_Gv_Eb, CLASS_MOVZX_B, 0),
    F(movzx_Gv_Ew, CLASS_MOVZX_W, 0),
    F(movsx_Gv_Eb, CLASS_MOVSX_B, 0),
    F(movsx_Gv_Ew, CLASS_MOVSX_W, 0),
    F(movsxd_Gv_Ed, CLASS_MOVSXD, 0),
    F(lea_Gv_M, CLASS_LEA, 0),
    CC_FORMS(o, 0),
    CC_FORMS(no, 1),
    CC_FORMS(b, 2),
    CC_FORMS(nb, 3),
    CC_FORMS(z, 4),
    CC_FORMS(nz, 5),
    CC_FORMS(be, 6),
    CC_FORMS(nbe, 7),
    CC_FORMS(s, 8),
    CC_FORMS(ns, 9),
    CC_FORMS(p, 10),
    CC_FORMS(np, 11),
    CC_FORMS(l, 12),
    CC_FORMS(nl, 13),
    CC_FORMS(le, 14),
    CC_FORMS(nle, 15),
    F(jmp_Jb, CLASS_JMP, 0),
    F(jmp_Jz, CLASS_JMP, 0),
    F(call_Jz, CLASS_CALL, 0),
    F(jmp_Ev, CLASS_JMP_E, 0),
    F(call_Ev, CLASS_CALL_E, 0),
    F(ret, CLASS_RET, 0),
    F(push_Zv, CLASS_PUSH_Z, 0),
    F(pop_Zv, CLASS_POP_Z, 0),
    F(push_Iz, CLASS_PUSH_I, 0),
    F(push_Ibs, CLASS_PUSH_I, 0),
    F(push_Ev, CLASS_PUSH_E, 0),
    F(leave, CLASS_LEAVE, 0),
    F(bt_Ev_Gv, CLASS_BT_G, 0),
    F(bt_Ev_Ib, CLASS_BT_I, 0),
    F(xchg_Ev_Gv, CLASS_XCHG, 0),
    F(xchg_Zv_rAX, CLASS_XCHG_A, 0),
    F(bswap_Zv, CLASS_BSWAP, 0),
    F(cbw, CLASS_CBW, 0),
    F(cwd, CLASS_CWD, 0),
    F(nop, CLASS_SMALL, HOT_NOP),
    F(nop_Ev, CLASS_SMALL, HOT_NOP),
    F(nop_Ev_0D, CLASS_SMALL, HOT_NOP),
    F(nop_Ev_18, CLASS_SMALL, HOT_NOP),
    F(nop_Ev_19, CLASS_SMALL, HOT_NOP),
    F(nop_Ev_1A, CLASS_SMALL, HOT_NOP),
    F(nop_Ev_1B, CLASS_SMALL, HOT_NOP),
    F(nop_Ev_1C, CLASS_SMALL, HOT_NOP),
    F(nop_Ev_1D, CLASS_SMALL, HOT_NOP),
    F(nop_Ev_1E, CLASS_SMALL, HOT_NOP),
    F(endbr64, CLASS_SMALL, HOT_NOP),
    F(endbr32, CLASS_SMALL, HOT_NOP),
    F(prefetch_Mb_amd, CLASS_SMALL, HOT_NOP),
    F(prefetchw_Mb, CLASS_SMALL, HOT_NOP),
    F(prefetch_Mb_r2, CLASS_SMALL, HOT_NOP),
    F(prefetch_Mb_r3, CLASS_SMALL, HOT_NOP),
    F(prefetch_Mb_r4, CLASS_SMALL, HOT_NOP),
    F(prefetch_Mb_r5, CLASS_SMALL, HOT_NOP),
    F(prefetch_Mb_r6, CLASS_SMALL, HOT_NOP),
    F(prefetch_Mb_r7, CLASS_SMALL, HOT_NOP),
    F(prefetchnta_Mb, CLASS_SMALL, HOT_NOP),
    F(prefetcht0_Mb, CLASS_SMALL, HOT_NOP),
    F(prefetcht1_Mb, CLASS_SMALL, HOT_NOP),
    F(prefetcht2_Mb, CLASS_SMALL, HOT_NOP),
    F(clc, CLASS_SMALL, HOT_CLC),
    F(stc, CLASS_SMALL, HOT_STC),
    F(cmc, CLASS_SMALL, HOT_CMC),
    F(cld, CLASS_SMALL, HOT_CLD),
    F(std, CLASS_SMALL, HOT_STD),
};

// --- plain functions by form --------------------------------------------------------------------------------

static interp_exec_fn *exec_by_form[X86_FORM_COUNT];

__attribute__((constructor)) static void fill_exec_by_form(void)
{
    static const struct exec_entry *const lists[] = {exec_alu_entries, exec_bits_entries,
                                                     exec_flow_entries, exec_string_entries,
                                                     exec_system_entries};
    for (unsigned i = 0; i < ARRAY_SIZE(lists); i++)
        for (const struct exec_entry *e = lists[i]; e->fn; e++)
            exec_by_form[e->form] = e->fn;
}

static void no_function(struct x86_cpu *cpu, const struct x86_insn *x)
{
    x86_raise(cpu, X86_UD);
}

static interp_fn *select_plain(struct interp_detail *detail)
{
    struct x86_insn *x = &detail->x;
    const struct x86_form *form = x86_insn_form(x);
    bool checked = form->privilege == X86_PRIV_CPL0 || (form->attr & X86_INSN_PROT);
    if (!detail->exec)
        detail->exec = exec_by_form[x->form];
    if (!detail->exec)
        detail->exec = interp_select_vector(x);
    if (!detail->exec)
        detail->exec = no_function;
    if (form->attr & (X86_INSN_REP | X86_INSN_REPZ))
        return interp_plain_rep;
    // A near branch changes nothing that blocks depend on.
    if ((form->attr & X86_INSN_BRANCH) && form->treatment == X86_TREAT_CONTROL && !checked)
        return interp_plain_branch;
    if (interp_ends_block(x))
        return checked ? interp_plain_end_checked : interp_plain_end;
    return checked ? interp_plain_checked : interp_plain;
}

bool interp_form_implemented(const struct x86_insn *x)
{
    struct interp_detail detail = {.x = *x};
    if (families[x->form].class != CLASS_NONE)
        return true;
    select_plain(&detail);
    return detail.exec != no_function;
}

bool interp_ends_block(const struct x86_insn *x)
{
    return (x86_insn_form(x)->attr & (X86_INSN_END_BLOCK | X86_INSN_BRANCH)) != 0;
}

// --- threaded handlers ---------------------------------------------------------------------------------------

static uint8_t reg_offset(unsigned reg)
{
    return (uint8_t)(reg * 8);
}
static uint8_t reg8_offset(unsigned reg)
{
    return reg < X86_REG8_HIGH ? (uint8_t)(reg * 8) : (uint8_t)((reg & 3) * 8 + 1);
}

static bool fits32(int64_t v)
{
    return v == (int32_t)v;
}

// Fills the compact memory operand and says of which kind it is.
static enum hot_kind memory_kind(struct interp_insn *insn, struct interp_detail *detail,
                                 enum x86_code_size code, unsigned next_off)
{
    const struct x86_insn *x = &detail->x;
    bool flat = code == X86_CODE64 && x->adsize == 8;
    if (!x->has_mem)
        return KIND_REG;
    detail->disp = x->disp + (x->base == X86_REG_RIP ? (int64_t)next_off : 0);
    detail->ea_mask = x->adsize == 8   ? ~UINT64_C(0)
                      : x->adsize == 4 ? UINT64_C(0xffffffff)
                                       : UINT64_C(0xffff);
    insn->disp = (int32_t)detail->disp;
    insn->seg = x->seg;
    insn->base = x->base == X86_REG_NONE  ? INTERP_SLOT_ZERO
                 : x->base == X86_REG_RIP ? INTERP_SLOT_RIP
                                          : x->base;
    insn->index = x->index == X86_REG_NONE ? INTERP_SLOT_ZERO : x->index;
    insn->scale = x->scale;
    if (!flat || !fits32(detail->disp) || x->seg == X86_FS || x->seg == X86_GS)
        return KIND_SEG;
    return x->index == X86_REG_NONE ? KIND_FLAT : KIND_FLATX;
}

static interp_fn *select_hot(struct interp_insn *insn, struct interp_detail *detail,
                             enum x86_code_size code, unsigned next_off)
{
    const struct x86_insn *x = &detail->x;
    struct family family = families[x->form];
    unsigned op = family.op;
    unsigned size = x->opsize == 1 ? 0 : x->opsize == 2 ? 1 : x->opsize == 4 ? 2 : 3;
    bool code64 = code == X86_CODE64;
    enum hot_kind kind;
    unsigned mem; // to be added to SHAPE_RM, SHAPE_MR, SHAPE_MI

    if (family.class == CLASS_NONE || (x->prefixes & X86_PREFIX_LOCK))
        return NULL;
    kind = memory_kind(insn, detail, code, next_off);
    mem = (unsigned)kind - KIND_FLAT;
    insn->imm = (int32_t)x->imm;
    insn->reg = size == 0 ? reg8_offset(x->reg) : reg_offset(x->reg);
    insn->rm = size == 0 ? reg8_offset(x->rm) : reg_offset(x->rm);
    switch ((enum class)family.class) {
    case CLASS_ALU_E_G:
        return hot_alu_table[op][size][kind == KIND_REG ? SHAPE_RR : SHAPE_MR + mem];
    case CLASS_ALU_G_E:
        if (kind == KIND_REG) {
            uint8_t reg = insn->reg;
            insn->reg = insn->rm;
            insn->rm = reg;
            return hot_alu_table[op][size][SHAPE_RR];
        }
        return hot_alu_table[op][size][SHAPE_RM + mem];
    case CLASS_ALU_E_I:
        return hot_alu_table[op][size][kind == KIND_REG ? SHAPE_RI : SHAPE_MI + mem];
    case CLASS_ALU_A_I:
        insn->rm = 0;
        return hot_alu_table[op][size][SHAPE_RI];
    case CLASS_TEST_E_G:
        return hot_test_table[size][kind == KIND_REG ? SHAPE_RR : SHAPE_MR + mem];
    case CLASS_TEST_E_I:
        return hot_test_table[size][kind == KIND_REG ? SHAPE_RI : SHAPE_MI + mem];
    case CLASS_TEST_A_I:
        insn->rm = 0;
        return hot_test_table[size][SHAPE_RI];
    case CLASS_MOV_E_G:
        return hot_mov_table[size][kind == KIND_REG ? SHAPE_RR : SHAPE_MR + mem];
    case CLASS_MOV_G_E:
        if (kind == KIND_REG) {
            uint8_t reg = insn->reg;
            insn->reg = insn->rm;
            insn->rm = reg;
            return hot_mov_table[size][SHAPE_RR];
        }
        return hot_mov_table[size][SHAPE_RM + mem];
    case CLASS_MOV_E_I:
        return hot_mov_table[size][kind == KIND_REG ? SHAPE_RI : SHAPE_MI + mem];
    case CLASS_MOV_Z_I:
        insn->rm = insn->reg;
        return size == 3 && !fits32((int64_t)x->imm) ? hot_mov_imm64
                                                     : hot_mov_table[size][SHAPE_RI];
    case CLASS_MOV_A_O:
        insn->reg = 0;
        return hot_mov_table[size][SHAPE_RM + mem];
    case CLASS_MOV_O_A:
        insn->reg = 0;
        return hot_mov_table[size][SHAPE_MR + mem];
    case CLASS_INCDEC_Z:
        insn->rm = insn->reg;
        return hot_incdec_table[op][size][KIND_REG];
    case CLASS_INCDEC:
        return hot_incdec_table[op][size][kind];
    case CLASS_NOTNEG:
        return hot_notneg_table[op][size][kind];
    case CLASS_SHIFT_1:
        insn->imm = 1;
        return hot_shift_table[op][0][size][kind];
    case CLASS_SHIFT_I:
        return hot_shift_table[op][0][size][kind];
    case CLASS_SHIFT_CL:
        return hot_shift_table[op][1][size][kind];
    case CLASS_ROTATE_1:
        insn->imm = 1;
        return size < 2 || kind != KIND_REG ? NULL : hot_rotate_table[op][0][size - 2];
    case CLASS_ROTATE_I:
        return size < 2 || kind != KIND_REG ? NULL : hot_rotate_table[op][0][size - 2];
    case CLASS_ROTATE_CL:
        return size < 2 || kind != KIND_REG ? NULL : hot_rotate_table[op][1][size - 2];
    case CLASS_IMUL:
        return hot_imul_table[0][size - 1][kind];
    case CLASS_IMUL_I:
        return hot_imul_table[1][size - 1][kind];
    case CLASS_MOVZX_B:
        insn->rm = reg8_offset(x->rm);
        return hot_extend_table[0][size - 1][0][kind];
    case CLASS_MOVZX_W:
        return hot_extend_table[0][size - 1][1][kind];
    case CLASS_MOVSX_B:
        insn->rm = reg8_offset(x->rm);
        return hot_extend_table[1][size - 1][0][kind];
    case CLASS_MOVSX_W:
        return hot_extend_table[1][size - 1][1][kind];
    case CLASS_MOVSXD:
        return hot_movsxd_table[size - 1][kind];
    case CLASS_LEA:
        // The segment does not matter.
        if (kind == KIND_SEG && code64 && x->adsize == 8 && fits32(detail->disp))
            kind = x->index == X86_REG_NONE ? KIND_FLAT : KIND_FLATX;
        return hot_lea_table[size - 1][kind - KIND_FLAT];
    case CLASS_CMOV:
        return hot_cmov_table[op][size - 1][kind];
    case CLASS_SET:
        return hot_set_table[op][kind];
    case CLASS_JCC:
    case CLASS_JMP:
    case CLASS_CALL: {
        bool hot;
        detail->target = (int64_t)x->imm + (int64_t)next_off;
        insn->imm = (int32_t)detail->target;
        hot = code64 && x->opsize == 8 && fits32(detail->target);
        if (family.class == CLASS_JCC)
            return hot_jcc_table[op][hot];
        if (family.class == CLASS_JMP)
            return hot_branch_table[hot ? HOT_JMP_REL64 : HOT_JMP_REL];
        return hot ? hot_branch_table[HOT_CALL_REL64] : NULL;
    }
    case CLASS_JMP_E:
        return code64 && size == 3 ? hot_jmp_ind64[kind] : NULL;
    case CLASS_CALL_E:
        return code64 && size == 3 ? hot_call_ind64[kind] : NULL;
    case CLASS_RET:
        return code64 && size == 3 ? hot_branch_table[HOT_RET64] : NULL;
    case CLASS_PUSH_Z:
        insn->rm = insn->reg;
        return code64 && size == 3 ? hot_small_table[HOT_PUSH64] : NULL;
    case CLASS_POP_Z:
        insn->rm = insn->reg;
        return code64 && size == 3 ? hot_small_table[HOT_POP64] : NULL;
    case CLASS_PUSH_I:
        return code64 && size == 3 ? hot_small_table[HOT_PUSH_IMM64] : NULL;
    case CLASS_PUSH_E:
        return code64 && size == 3 ? hot_push_mem64[kind] : NULL;
    case CLASS_LEAVE:
        return code64 && size == 3 ? hot_small_table[HOT_LEAVE64] : NULL;
    case CLASS_BT_G:
        return kind == KIND_REG && size >= 2 ? hot_bt_table[0][size - 2] : NULL;
    case CLASS_BT_I:
        return kind == KIND_REG && size >= 2 ? hot_bt_table[1][size - 2] : NULL;
    case CLASS_XCHG:
    case CLASS_XCHG_A:
        if (family.class == CLASS_XCHG_A)
            insn->rm = 0;
        if (kind != KIND_REG || size < 2)
            return NULL;
        return hot_small_table[size == 2 ? HOT_XCHG32 : HOT_XCHG64];
    case CLASS_BSWAP:
        insn->rm = insn->reg;
        return size < 2 ? NULL : hot_small_table[size == 2 ? HOT_BSWAP32 : HOT_BSWAP64];
    case CLASS_CBW:
        return hot_small_table[HOT_CBW + size - 1];
    case CLASS_CWD:
        return hot_small_table[HOT_CWD + size - 1];
    case CLASS_SMALL:
        return hot_small_table[op];
    case CLASS_NONE:
        break;
    }
    return NULL;
}

void interp_select(struct interp_insn *insn, struct interp_detail *detail, enum x86_code_size code,
                   unsigned next_off)
{
    insn->fn = detail->exec ? NULL : select_hot(insn, detail, code, next_off);
    if (insn->fn)
        return;
    insn->fn = select_plain(detail);
    if (insn->fn == interp_plain) {
        enum hot_kind kind = memory_kind(insn, detail, code, next_off);
        interp_fn *fn = hot_select_vector(insn, detail, kind);
        if (!fn)
            fn = hot_select_x87(insn, detail, kind);
        if (fn)
            insn->fn = fn;
    }
}
