// SPDX-License-Identifier: Apache-2.0
// Re-encoding of a guest instruction onto host registers (encode.h); SDM vol. 2, chapter 2.
//
// Three steps: rewrite() picks the opcode (mostly the form's own), place() puts every operand where the
// encoding wants it, emit() writes the bytes.

#include "engine/bt/encode.h"

// A host instruction in parts.
struct parts {
    uint8_t map, opcode;
    uint8_t prefix; // mandatory: 66, F2, F3 or 0
    bool vex, vex_l, w, opsize16, lock;
    bool modrm;    // has a ModRM byte
    bool opreg;    // the register `rm` is in the opcode
    bool no_rex;   // AH, CH, DH or BH is there
    bool need_rex; // SPL, BPL, SIL or DIL is there
    bool vsib;     // the index of mem is a vector register
    uint8_t reg, rm, vvvv;
    const struct bt_mem *mem;
    uint8_t imm_size;
    uint64_t imm;
};

// Which field of the encoding an accumulator or opcode register went to.
enum rewritten {
    AS_IT_IS,
    ACC_TO_RM,  // accumulator or opcode register -> ModRM.rm, the form had none
    ACC_TO_REG, // accumulator -> ModRM.reg, moffs -> ModRM.rm
    XCHG_TO_RM, // opcode register -> ModRM.rm, accumulator -> ModRM.reg
};

static bool is_byte(const struct x86_operand_desc *d)
{
    return d->size == 1;
}

// Forms that are never emitted, whatever their operands.
static bool is_left_out(const struct x86_form *form)
{
    const uint32_t fp = X86_INSN_X87 | X86_INSN_MMX | X86_INSN_SSE | X86_INSN_VEX;
    if (form->privilege != X86_PRIV_NONE || form->treatment == X86_TREAT_CONTROL ||
        form->imm2 != 0 || (form->attr & (X86_INSN_STACK | X86_INSN_BRANCH | X86_INSN_SENSITIVE)))
        return true;
    if (form->treatment == X86_TREAT_HELPER) {
        // The vector and x87 ones can go, but not FLDENV and the like (their layout depends on the guest's
        // mode) and not MASKMOV (its address is in RDI).
        const struct x86_operand_desc *d = &form->operand[0];
        bool image = form->operand_count == 1 && d->kind == X86_OPND_RM_MEM && d->size == 0;
        return !(form->attr & fp) || image || (form->gpr_read & 1 << X86_RDI);
    }
    switch (form->mnemonic_id) {
    case X86_MN_CBW: // of the accumulator, which need not be the host's
    case X86_MN_CWD:
    case X86_MN_LAHF:
    case X86_MN_SAHF:
    case X86_MN_CLD: // the host's DF is always 0
    case X86_MN_STD:
        return true;
    default:
        return false;
    }
}

// Replaces encodings that 64-bit mode does not have or that name the accumulator.
static enum rewritten rewrite(struct parts *p, const struct x86_form *form)
{
    p->map = form->map;
    p->opcode = form->opcode;
    p->modrm = form->modrm != 0;
    p->reg = form->modrm_reg >= 0 ? (uint8_t)form->modrm_reg : 0;
    p->rm = form->modrm_rm >= 0 ? (uint8_t)form->modrm_rm : 0;
    if (form->map != X86_MAP_1)
        return AS_IT_IS;
    uint8_t op = form->opcode;
    if (op < 0x40 && (op & 6) == 4) { // ALU AL,Ib and rAX,Iz
        p->opcode = 0x80 | (op & 1);
        p->reg = op >> 3;
    } else if (op == 0xa8 || op == 0xa9) { // TEST AL,Ib and rAX,Iz
        p->opcode = 0xf6 | (op & 1);
        p->reg = 0;
    } else if (op == 0x40 || op == 0x48) { // INC and DEC Zv
        p->opcode = 0xff;
        p->reg = op == 0x48;
    } else if (op >= 0xa0 && op <= 0xa3) { // MOV moffs: 8A 8B 88 89
        p->opcode = 0x88 | ((op ^ 2) & 3);
        p->modrm = true;
        return ACC_TO_REG;
    } else if (op == 0x90 && form->opcode_mask == 0xf8) {
        p->opcode = 0x87;
        p->modrm = true;
        return XCHG_TO_RM;
    } else {
        if (op == 0x82)
            p->opcode = 0x80;
        else if ((op == 0xf6 || op == 0xf7) && p->reg == 1)
            p->reg = 0; // TEST's second encoding
        else if (form->mnemonic_id == X86_MN_SHL)
            p->reg = 4; // SHL's second encoding
        return AS_IT_IS;
    }
    p->modrm = true;
    return ACC_TO_RM;
}

// A general register's number in the encoding.
static bool place_gpr(struct parts *p, uint8_t *field, uint8_t reg, bool byte)
{
    if (byte && reg >= X86_REG8_HIGH && reg < X86_REG8_HIGH + 4) {
        p->no_rex = true;
        reg = (uint8_t)(reg - X86_REG8_HIGH + 4);
    } else if (byte && reg >= 4 && reg < 8) {
        p->need_rex = true;
    }
    *field = reg;
    return reg < 16;
}

static bool place_numbered(uint8_t *field, uint8_t reg, uint8_t count)
{
    *field = reg;
    return reg < count;
}

// AL, rAX, AX, CL.
static bool place_fixed(struct parts *p, const struct x86_operand_desc *d, enum rewritten how,
                        const struct bt_operands *o)
{
    if (d->fixed == X86_RCX) // the count of a shift
        return true;
    if (d->fixed != X86_RAX)
        return false;
    switch (how) {
    case ACC_TO_RM:
        return place_gpr(p, &p->rm, o->reg, is_byte(d));
    case ACC_TO_REG:
        return place_gpr(p, &p->reg, o->reg, is_byte(d));
    case XCHG_TO_RM:
        return place_gpr(p, &p->reg, o->rm, false);
    case AS_IT_IS: // FNSTSW AX
        return o->reg == X86_RAX;
    }
    return false;
}

static bool place(struct parts *p, const struct x86_insn *x, const struct x86_operand_desc *d,
                  enum rewritten how, const struct bt_operands *o)
{
    bool mem = o->mem != NULL;
    switch ((enum x86_operand_kind)d->kind) {
    case X86_OPND_RM:
        p->mem = o->mem;
        return mem || place_gpr(p, &p->rm, o->rm, is_byte(d));
    case X86_OPND_RM_REG:
        return !mem && place_gpr(p, &p->rm, o->rm, is_byte(d));
    case X86_OPND_VSIB:
        p->vsib = true;
        p->mem = o->mem;
        return mem;
    case X86_OPND_RM_MEM:
    case X86_OPND_MOFFS:
        p->mem = o->mem;
        return mem;
    case X86_OPND_REG:
        return place_gpr(p, &p->reg, o->reg, is_byte(d));
    case X86_OPND_OPREG:
        p->opreg = how == AS_IT_IS;
        return place_gpr(p, &p->rm, o->reg, is_byte(d));
    case X86_OPND_FIXED_GPR:
        return place_fixed(p, d, how, o);
    case X86_OPND_VVVV_GPR:
    case X86_OPND_VEC_VVVV:
        return place_numbered(&p->vvvv, o->vvvv, 16);
    case X86_OPND_VEC_REG:
        return place_numbered(&p->reg, o->reg, 16);
    case X86_OPND_VEC_RM:
        p->mem = o->mem;
        return mem || place_numbered(&p->rm, o->rm, 16);
    case X86_OPND_VEC_RM_REG:
        return !mem && place_numbered(&p->rm, o->rm, 16);
    case X86_OPND_MMX_REG:
        return place_numbered(&p->reg, o->reg, 8);
    case X86_OPND_MMX_RM:
        p->mem = o->mem;
        return mem || place_numbered(&p->rm, o->rm, 8);
    case X86_OPND_MMX_RM_REG:
        return !mem && place_numbered(&p->rm, o->rm, 8);
    case X86_OPND_STI:
        return place_numbered(&p->rm, x->rm, 8);
    case X86_OPND_VEC_IS4:
        p->imm = (uint64_t)o->is4 << 4;
        return o->is4 < 16;
    case X86_OPND_IMM:
    case X86_OPND_ONE:
    case X86_OPND_ST0:
    case X86_OPND_XMM0:
        return true;
    default:
        return false;
    }
}

// Whether an operand follows the operand size, so that 66 and REX.W mean something.
static bool follows_opsize(const struct x86_form *form)
{
    for (unsigned i = 0; i < form->operand_count; i++)
        if (form->operand[i].vary == 'v' || form->operand[i].vary == 'y')
            return true;
    return false;
}

static bool choose_w(const struct x86_insn *x, const struct x86_form *form)
{
    if (form->w >= 0)
        return form->w;
    // PCMPESTRI and PCMPESTRM: the width of RAX and RDX.
    bool lengths = (form->attr & (X86_INSN_SSE | X86_INSN_VEX)) && (form->gpr_read & 1 << X86_RAX);
    return x->opsize == 8 && (lengths || follows_opsize(form));
}

static uint8_t imm_size(const struct x86_insn *x, uint8_t imm)
{
    if (imm == 'z')
        return x->opsize == 2 ? 2 : 4;
    return imm == 'v' ? x->opsize : imm == 'o' ? 0 : imm;
}

static uint8_t *put_memory(uint8_t *out, const struct parts *p)
{
    const struct bt_mem *m = p->mem;
    bool index = m->index != BT_REG_NONE;
    uint8_t reg = (uint8_t)((p->reg & 7) << 3);
    uint8_t sib = (uint8_t)(index ? m->scale << 6 | (m->index & 7) << 3 : 4 << 3);
    unsigned disp_size = 4;

    if (m->base == BT_REG_NONE) {
        *out++ = reg | 4;
        *out++ = sib | 5;
    } else {
        uint8_t base = m->base & 7, mod = 0x80;
        if (m->disp == 0 && base != 5)
            mod = 0, disp_size = 0;
        else if (m->disp == (int8_t)m->disp)
            mod = 0x40, disp_size = 1;
        if (index || base == 4) {
            *out++ = mod | reg | 4;
            *out++ = sib | base;
        } else {
            *out++ = mod | reg | base;
        }
    }
    for (unsigned i = 0; i < disp_size; i++)
        *out++ = (uint8_t)((uint32_t)m->disp >> 8 * i);
    return out;
}

static bool memory_ok(const struct parts *p)
{
    const struct bt_mem *m = p->mem;
    bool index = m->index != BT_REG_NONE;
    if ((m->base > 15 && m->base != BT_REG_NONE) || m->scale > 3)
        return false;
    if (p->vsib)
        return m->index < 16;
    return !index || (m->index < 16 && m->index != X86_RSP);
}

static uint8_t *put_vex(uint8_t *out, const struct parts *p, uint8_t rex)
{
    uint8_t pp = p->prefix == 0x66 ? 1 : p->prefix == 0xf3 ? 2 : p->prefix == 0xf2 ? 3 : 0;
    uint8_t low = (uint8_t)((~p->vvvv & 15) << 3 | p->vex_l << 2 | pp);
    if (p->map == X86_MAP_0F && !(rex & 11)) {
        *out++ = 0xc5;
        *out++ = (uint8_t)((rex & 4 ? 0 : 0x80) | low);
        return out;
    }
    *out++ = 0xc4;
    *out++ = (uint8_t)((~rex & 7) << 5 | p->map);
    *out++ = (uint8_t)(p->w << 7 | low);
    return out;
}

static uint8_t *put_legacy(uint8_t *out, const struct parts *p, uint8_t rex)
{
    if (p->opsize16)
        *out++ = 0x66;
    if (p->prefix != 0)
        *out++ = p->prefix;
    if (rex != 0 || p->need_rex)
        *out++ = 0x40 | rex;
    if (p->map != X86_MAP_1)
        *out++ = 0x0f;
    if (p->map == X86_MAP_0F38)
        *out++ = 0x38;
    else if (p->map == X86_MAP_0F3A)
        *out++ = 0x3a;
    return out;
}

static unsigned emit(uint8_t *out, const struct parts *p)
{
    uint8_t *start = out;
    uint8_t x = 0, b = p->rm >> 3;

    if (p->mem != NULL) {
        if (!memory_ok(p))
            return 0;
        x = p->mem->index != BT_REG_NONE ? p->mem->index >> 3 : 0;
        b = p->mem->base != BT_REG_NONE ? p->mem->base >> 3 : 0;
    }
    uint8_t rex = (uint8_t)(p->w << 3 | (p->reg >> 3) << 2 | x << 1 | b);
    if (p->no_rex && (rex != 0 || p->need_rex))
        return 0;
    if (p->lock)
        *out++ = 0xf0;
    if (p->mem != NULL && p->mem->gs)
        *out++ = 0x65;
    out = p->vex ? put_vex(out, p, rex) : put_legacy(out, p, rex);
    *out++ = (uint8_t)(p->opcode | (p->opreg ? p->rm & 7 : 0));
    if (p->mem != NULL)
        out = put_memory(out, p);
    else if (p->modrm)
        *out++ = (uint8_t)(0xc0 | (p->reg & 7) << 3 | (p->rm & 7));
    for (unsigned i = 0; i < p->imm_size; i++)
        *out++ = (uint8_t)(p->imm >> 8 * i);
    return (unsigned)(out - start);
}

unsigned bt_encode(uint8_t out[BT_ENCODE_MAX], const struct x86_insn *x,
                   const struct bt_operands *o)
{
    const struct x86_form *form = x86_insn_form(x);
    if (is_left_out(form))
        return 0;
    if (form->mnemonic_id == X86_MN_NOP || form->mnemonic_id == X86_MN_ENDBR64 ||
        form->mnemonic_id == X86_MN_ENDBR32) {
        out[0] = 0x90;
        return 1;
    }
    struct parts p = {
        .prefix = form->prefix >= 0x66 ? form->prefix : 0,
        .vex = (form->attr & X86_INSN_VEX) != 0,
        .w = choose_w(x, form),
        .opsize16 = x->opsize == 2 && follows_opsize(form),
        .lock = (x->prefixes & X86_PREFIX_LOCK) != 0,
        .imm_size = imm_size(x, form->imm),
        .imm = x->imm,
    };
    p.vex_l = p.vex && (form->l >= 0 ? form->l : x->vex_l);
    enum rewritten how = rewrite(&p, form);
    for (unsigned i = 0; i < form->operand_count; i++)
        if (!place(&p, x, &form->operand[i], how, o))
            return 0;
    // Memory that no operand took; LOCK without memory.
    if (p.mem != o->mem || (p.lock && p.mem == NULL))
        return 0;
    return emit(out, &p);
}
