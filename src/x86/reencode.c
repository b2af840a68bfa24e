// SPDX-License-Identifier: Apache-2.0
// Re-encoding of vector instructions onto fixed registers (reencode.h); SDM vol. 2, chapter 2.

#include "x86/reencode.h"
#include "x86/decode.h"

#include <string.h>

unsigned x86_host_pointer(unsigned k)
{
    static const uint8_t reg[X86_HOST_OPERANDS] = {7, 6, 2, 1};
    return reg[k];
}

// Where a register operand is encoded.
enum slot {
    SLOT_NONE,
    SLOT_REG,
    SLOT_RM,
    SLOT_VVVV,
    SLOT_IS4
};

struct encoding {
    uint8_t reg, rm, vvvv, is4; // host register numbers
    bool mem, has_is4;
};

static bool classify(const struct x86_insn *insn, const struct x86_operand_desc *d,
                     struct x86_host_operand *op, enum slot *slot)
{
    bool mem = insn->has_mem;
    op->rw = d->rw;
    op->mask = 15;
    op->kind = X86_HOST_VEC;
    op->field = offsetof(struct x86_insn, rm);
    *slot = SLOT_RM;
    switch ((enum x86_operand_kind)d->kind) {
    case X86_OPND_VEC_REG:
        op->field = offsetof(struct x86_insn, reg);
        *slot = SLOT_REG;
        return true;
    case X86_OPND_VEC_VVVV:
        op->field = offsetof(struct x86_insn, vvvv);
        *slot = SLOT_VVVV;
        return true;
    case X86_OPND_VEC_IS4:
        op->field = offsetof(struct x86_insn, is4);
        *slot = SLOT_IS4;
        return true;
    case X86_OPND_XMM0:
        op->mask = 0;
        *slot = SLOT_NONE;
        return true;
    case X86_OPND_VEC_RM:
        if (mem)
            op->kind = X86_HOST_MEM;
        return true;
    case X86_OPND_VEC_RM_REG:
        return !mem;
    case X86_OPND_MMX_REG:
        op->kind = X86_HOST_MMX;
        op->field = offsetof(struct x86_insn, reg);
        op->mask = 7;
        *slot = SLOT_REG;
        return true;
    case X86_OPND_MMX_RM:
        op->kind = mem ? X86_HOST_MEM : X86_HOST_MMX;
        op->mask = 7;
        return true;
    case X86_OPND_MMX_RM_REG:
        op->kind = X86_HOST_MMX;
        op->mask = 7;
        return !mem;
    case X86_OPND_RM:
        op->kind = mem ? X86_HOST_MEM : X86_HOST_GPR;
        return true;
    case X86_OPND_RM_MEM:
        op->kind = X86_HOST_MEM;
        return mem;
    case X86_OPND_RM_REG:
        op->kind = X86_HOST_GPR;
        return !mem;
    case X86_OPND_REG:
        op->kind = X86_HOST_GPR;
        op->field = offsetof(struct x86_insn, reg);
        *slot = SLOT_REG;
        return true;
    default:
        return false;
    }
}

// Forms without any vector operand (BMI) are not ours.
static bool is_vector(unsigned kind)
{
    return (kind >= X86_OPND_VEC_REG && kind <= X86_OPND_VEC_IS4) || kind == X86_OPND_MMX_REG ||
           kind == X86_OPND_MMX_RM || kind == X86_OPND_MMX_RM_REG;
}

static bool choose_w(const struct x86_insn *insn, const struct x86_form *form)
{
    if (form->w >= 0)
        return form->w;
    for (unsigned i = 0; i < form->operand_count; i++) {
        if (form->operand[i].vary == 'y')
            return insn->opsize == 8;
    }
    // PCMPESTRI and PCMPESTRM: the width of RAX and RDX.
    return form->gpr_read != 0 && insn->vex_w && insn->opsize == 8;
}

static void encode(struct x86_host_insn *out, const struct x86_insn *insn,
                   const struct x86_form *form, const struct encoding *e)
{
    uint8_t *p = out->bytes;
    if (out->vex) {
        uint8_t pp = form->prefix == 0x66   ? 1
                     : form->prefix == 0xf3 ? 2
                     : form->prefix == 0xf2 ? 3
                                            : 0;
        *p++ = 0xc4;
        *p++ = 0xe0 | form->map; // R, X, B inverted: registers below 8 only
        *p++ = (uint8_t)(out->w << 7 | (~e->vvvv & 15) << 3 | out->vex_l << 2 | pp);
    } else {
        if (form->prefix == 0x66 || form->prefix == 0xf2 || form->prefix == 0xf3)
            *p++ = form->prefix;
        if (out->w)
            *p++ = 0x48;
        *p++ = 0x0f;
        if (form->map == X86_MAP_0F38)
            *p++ = 0x38;
        else if (form->map == X86_MAP_0F3A)
            *p++ = 0x3a;
    }
    *p++ = form->opcode;
    if (form->modrm != 0)
        *p++ = (uint8_t)((e->mem ? 0 : 0xc0) | e->reg << 3 | e->rm);
    if (e->has_is4)
        *p++ = (uint8_t)(e->is4 << 4);
    else if (form->imm != 0)
        *p++ = (uint8_t)insn->imm;
    out->len = (uint8_t)(p - out->bytes);
}

bool x86_reencode(struct x86_host_insn *out, const struct x86_insn *insn)
{
    const struct x86_form *form = x86_insn_form(insn);
    struct encoding e = {0};
    bool vector = false;

    *out = (struct x86_host_insn){.mem = -1};
    if (!(form->attr & (X86_INSN_MMX | X86_INSN_SSE | X86_INSN_VEX)) || form->map == X86_MAP_1 ||
        form->imm > 1 || form->imm2 != 0)
        return false;
    out->vex = (form->attr & X86_INSN_VEX) != 0;
    out->vex_l = out->vex && (form->l >= 0 ? form->l : insn->vex_l);
    out->w = choose_w(insn, form);
    if (form->modrm_reg >= 0)
        e.reg = (uint8_t)form->modrm_reg;
    if (form->modrm_rm >= 0)
        e.rm = (uint8_t)form->modrm_rm;
    for (unsigned i = 0; i < form->operand_count; i++) {
        const struct x86_operand_desc *d = &form->operand[i];
        unsigned k = out->operand_count;
        struct x86_host_operand *op = &out->operand[k];
        enum slot slot;

        if (d->kind == X86_OPND_IMM)
            continue;
        if (k == X86_HOST_OPERANDS || !classify(insn, d, op, &slot))
            return false;
        vector |= is_vector(d->kind);
        op->reg = (op->kind == X86_HOST_GPR || op->mask == 0) ? 0 : (uint8_t)(k + 1);
        if (op->kind == X86_HOST_MEM) {
            out->mem = (int8_t)k;
            op->size = x86_operand_get(insn, i).size;
            e.mem = true;
            e.rm = (uint8_t)x86_host_pointer(k);
        } else if (slot == SLOT_REG) {
            e.reg = op->reg;
        } else if (slot == SLOT_RM) {
            e.rm = op->reg;
        } else if (slot == SLOT_VVVV) {
            e.vvvv = op->reg;
        } else if (slot == SLOT_IS4) {
            e.is4 = op->reg;
            e.has_is4 = true;
        }
        out->operand_count++;
    }
    encode(out, insn, form, &e);
    return vector;
}
