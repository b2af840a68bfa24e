// SPDX-License-Identifier: Apache-2.0
// The comparison with Zydis, field by field. Known differences are in known.c.
#include "compare.h"
#include <stdio.h>
#include <string.h>

static const ZydisMachineMode machine_modes[] = {
    [X86_CODE16] = ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
    [X86_CODE32] = ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
    [X86_CODE64] = ZYDIS_MACHINE_MODE_LONG_64,
};
static const ZydisStackWidth stack_widths[] = {
    [X86_CODE16] = ZYDIS_STACK_WIDTH_16,
    [X86_CODE32] = ZYDIS_STACK_WIDTH_32,
    [X86_CODE64] = ZYDIS_STACK_WIDTH_64,
};

static struct x86_cpu_model amd_model;

static const ZydisDecoder *decoder_for(enum x86_code_size code, bool amd)
{
    static ZydisDecoder decoders[3][2];
    static bool ready;
    if (!ready) {
        for (unsigned c = 0; c < 3; c++) {
            for (unsigned a = 0; a < 2; a++) {
                ZydisDecoderInit(&decoders[c][a], machine_modes[c], stack_widths[c]);
                ZydisDecoderEnableMode(&decoders[c][a], ZYDIS_DECODER_MODE_AMD_BRANCHES, a == 1);
                ZydisDecoderEnableMode(&decoders[c][a], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
                ZydisDecoderEnableMode(&decoders[c][a], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
            }
        }
        amd_model.vendor = X86_VENDOR_AMD;
        memset(amd_model.feature, true, sizeof(amd_model.feature));
        ready = true;
    }
    return &decoders[code][amd];
}

void sample_decode(struct sample *s)
{
    const ZydisDecoder *decoder = decoder_for(s->code, s->amd);
    s->result =
        x86_decode(&s->insn, s->bytes, sizeof(s->bytes), s->code, s->amd ? &amd_model : NULL);
    s->status = ZydisDecoderDecodeFull(decoder, s->bytes, sizeof(s->bytes), &s->theirs, s->ops);
    s->theirs_ok = ZYAN_SUCCESS(s->status);
    s->why[0] = '\0';
}

// Mnemonics that Zydis splits by operand or address size, or spells in its own way.
static const char *const aliases[][5] = {
    {"cbw", "cwde", "cdqe"},
    {"cwd", "cdq", "cqo"},
    {"movs", "movsb", "movsw", "movsd", "movsq"},
    {"cmps", "cmpsb", "cmpsw", "cmpsd", "cmpsq"},
    {"stos", "stosb", "stosw", "stosd", "stosq"},
    {"lods", "lodsb", "lodsw", "lodsd", "lodsq"},
    {"scas", "scasb", "scasw", "scasd", "scasq"},
    {"ins", "insb", "insw", "insd"},
    {"outs", "outsb", "outsw", "outsd"},
    {"pusha", "pushad"},
    {"popa", "popad"},
    {"pushf", "pushfd", "pushfq"},
    {"popf", "popfd", "popfq"},
    {"iret", "iretd", "iretq"},
    {"jcxz", "jecxz", "jrcxz"},
    {"callf", "call"},
    {"jmpf", "jmp"},
    {"retf", "ret"},
    {"xlatb", "xlat"},
    {"fxsave", "fxsave64"},
    {"fxrstor", "fxrstor64"},
    {"xsave", "xsave64"},
    {"xrstor", "xrstor64"},
    {"xsaveopt", "xsaveopt64"},
    {"xsavec", "xsavec64"},
    {"xsaves", "xsaves64"},
    {"xrstors", "xrstors64"},
    {"prefetch", "prefetchwt1"}, // 0F 0D /2 of Xeon Phi; a plain hint here
};

static bool same_mnemonic(const char *ours, const char *theirs)
{
    if (strcmp(ours, theirs) == 0)
        return true;
    for (unsigned i = 0; i < ARRAY_SIZE(aliases); i++) {
        if (strcmp(aliases[i][0], ours) != 0)
            continue;
        for (unsigned k = 1; k < ARRAY_SIZE(aliases[i]) && aliases[i][k] != NULL; k++)
            if (strcmp(aliases[i][k], theirs) == 0)
                return true;
    }
    return false;
}

static ZydisRegister gpr(unsigned reg, unsigned size)
{
    static const ZydisRegister high[4] = {ZYDIS_REGISTER_AH, ZYDIS_REGISTER_CH, ZYDIS_REGISTER_DH,
                                          ZYDIS_REGISTER_BH};
    if (size == 1)
        return reg >= X86_REG8_HIGH ? high[reg & 3]
               : reg < 4            ? ZYDIS_REGISTER_AL + reg
                                    : ZYDIS_REGISTER_SPL + reg - 4;
    return ZydisRegisterEncode(size == 2   ? ZYDIS_REGCLASS_GPR16
                               : size == 4 ? ZYDIS_REGCLASS_GPR32
                                           : ZYDIS_REGCLASS_GPR64,
                               (ZyanU8)reg);
}

static ZydisRegister vector(unsigned reg, unsigned size)
{
    return (size == 32 ? ZYDIS_REGISTER_YMM0 : ZYDIS_REGISTER_XMM0) + reg;
}

static bool differs(struct sample *s, const char *what, uint64_t ours, uint64_t theirs)
{
    snprintf(s->why, sizeof(s->why), "%s: ours %#llx, theirs %#llx", what, (unsigned long long)ours,
             (unsigned long long)theirs);
    return false;
}

static bool same_memory(struct sample *s, const struct x86_operand *op,
                        const ZydisDecodedOperand *z)
{
    const struct x86_insn *insn = &s->insn;
    unsigned base = insn->base, seg = insn->seg;
    ZydisRegister index = ZYDIS_REGISTER_NONE;
    unsigned scale = 0;
    int64_t disp = insn->disp;

    if (op->kind == X86_OPND_STR_SRC || op->kind == X86_OPND_STR_DST) {
        base = op->kind == X86_OPND_STR_SRC ? X86_RSI : X86_RDI;
        seg = op->kind == X86_OPND_STR_SRC ? seg : X86_ES;
    } else if (insn->index != X86_REG_NONE) {
        scale = 1u << insn->scale;
        if (op->kind == X86_OPND_VSIB)
            index = ZydisRegisterGetClass(z->mem.index) == ZYDIS_REGCLASS_YMM
                        ? ZYDIS_REGISTER_YMM0 + insn->index
                        : ZYDIS_REGISTER_XMM0 + insn->index;
        else
            index = gpr(insn->index, insn->adsize);
    }
    ZydisRegister zbase = base == X86_REG_NONE ? ZYDIS_REGISTER_NONE
                          : base == X86_REG_RIP
                              ? (insn->adsize == 8 ? ZYDIS_REGISTER_RIP : ZYDIS_REGISTER_EIP)
                              : gpr(base, insn->adsize);
    if (zbase != z->mem.base)
        return differs(s, "base", zbase, z->mem.base);
    if (index != z->mem.index)
        return differs(s, "index", index, z->mem.index);
    if (scale != z->mem.scale)
        return differs(s, "scale", scale, z->mem.scale);
    // LEA uses no segment: Zydis drops the override, Croft gives what a load would use.
    if (z->mem.type != ZYDIS_MEMOP_TYPE_AGEN && ZYDIS_REGISTER_ES + seg != (unsigned)z->mem.segment)
        return differs(s, "segment", ZYDIS_REGISTER_ES + seg, z->mem.segment);
    int64_t zdisp = z->mem.disp.has_displacement ? z->mem.disp.value : 0;
    uint64_t mask = insn->adsize == 8 ? ~0ull : (1ull << (8 * insn->adsize)) - 1;
    if ((disp & mask) != (zdisp & mask))
        return differs(s, "disp", disp, zdisp);
    if (op->size != 0 && z->mem.type == ZYDIS_MEMOP_TYPE_MEM && op->kind != X86_OPND_VSIB &&
        op->size != z->size / 8)
        return differs(s, "memory size", op->size, z->size / 8);
    return true;
}

static bool same_operand(struct sample *s, unsigned i, const ZydisDecodedOperand *z)
{
    const struct x86_insn *insn = &s->insn;
    struct x86_operand op = x86_operand_get(insn, i);
    ZydisRegister reg = ZYDIS_REGISTER_NONE;
    char what[32];

    snprintf(what, sizeof(what), "operand %u", i);
    if (op.is_mem)
        return z->type == ZYDIS_OPERAND_TYPE_MEMORY ? same_memory(s, &op, z)
                                                    : differs(s, what, op.kind, z->type);
    switch (op.kind) {
    case X86_OPND_RM:
    case X86_OPND_RM_REG:
    case X86_OPND_REG:
    case X86_OPND_OPREG:
    case X86_OPND_VVVV_GPR:
    case X86_OPND_FIXED_GPR:
        reg = gpr(op.reg, op.size);
        break;
    case X86_OPND_SREG:
    case X86_OPND_FIXED_SREG:
        reg = ZYDIS_REGISTER_ES + op.reg;
        break;
    case X86_OPND_CREG:
        reg = ZYDIS_REGISTER_CR0 + op.reg;
        break;
    case X86_OPND_DREG:
        reg = ZYDIS_REGISTER_DR0 + op.reg;
        break;
    case X86_OPND_VEC_REG:
    case X86_OPND_VEC_RM:
    case X86_OPND_VEC_RM_REG:
    case X86_OPND_VEC_VVVV:
    case X86_OPND_VEC_IS4:
        reg = vector(op.reg, op.size);
        break;
    case X86_OPND_XMM0:
        reg = ZYDIS_REGISTER_XMM0;
        break;
    case X86_OPND_MMX_REG:
    case X86_OPND_MMX_RM:
    case X86_OPND_MMX_RM_REG:
        reg = ZYDIS_REGISTER_MM0 + op.reg;
        break;
    case X86_OPND_ST0:
        reg = ZYDIS_REGISTER_ST0;
        break;
    case X86_OPND_STI:
        reg = ZYDIS_REGISTER_ST0 + op.reg;
        break;
    case X86_OPND_IMM:
    case X86_OPND_ONE: {
        if (z->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
            return differs(s, what, op.kind, z->type);
        uint64_t mask = z->size >= 64 ? ~0ull : (1ull << z->size) - 1;
        return ((op.imm ^ z->imm.value.u) & mask) == 0 ? true
                                                       : differs(s, what, op.imm, z->imm.value.u);
    }
    case X86_OPND_REL:
        if (z->type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !z->imm.is_relative)
            return differs(s, what, op.kind, z->type);
        return op.imm == z->imm.value.u ? true : differs(s, what, op.imm, z->imm.value.u);
    case X86_OPND_FAR:
        if (z->type != ZYDIS_OPERAND_TYPE_POINTER)
            return differs(s, what, op.kind, z->type);
        if (insn->imm2 != z->ptr.segment)
            return differs(s, what, insn->imm2, z->ptr.segment);
        return op.imm == z->ptr.offset ? true : differs(s, what, op.imm, z->ptr.offset);
    default:
        return differs(s, "operand kind", op.kind, 0);
    }
    if (z->type != ZYDIS_OPERAND_TYPE_REGISTER || z->reg.value != reg) {
        snprintf(s->why, sizeof(s->why), "operand %u: ours %s, theirs %s", i,
                 ZydisRegisterGetString(reg),
                 z->type == ZYDIS_OPERAND_TYPE_REGISTER ? ZydisRegisterGetString(z->reg.value)
                                                        : "no register");
        return false;
    }
    return true;
}

bool sample_agrees(struct sample *s)
{
    bool ours_ok = s->result == X86_DECODE_OK;
    if (!ours_ok || !s->theirs_ok) {
        if (ours_ok == s->theirs_ok)
            return true;
        snprintf(s->why, sizeof(s->why), "ours: %s, theirs: %s (%#x)",
                 ours_ok                            ? x86_insn_form(&s->insn)->name
                 : s->result == X86_DECODE_TOO_LONG ? "too long"
                 : s->result == X86_DECODE_MORE     ? "more"
                                                    : "#UD",
                 s->theirs_ok ? ZydisMnemonicGetString(s->theirs.mnemonic) : "invalid",
                 (unsigned)s->status);
        return false;
    }
    const struct x86_form *form = x86_insn_form(&s->insn);
    const char *mnemonic = ZydisMnemonicGetString(s->theirs.mnemonic);
    if (!same_mnemonic(form->mnemonic, mnemonic)) {
        snprintf(s->why, sizeof(s->why), "mnemonic: ours %s, theirs %s", form->mnemonic, mnemonic);
        return false;
    }
    if (s->insn.len != s->theirs.length)
        return differs(s, "length", s->insn.len, s->theirs.length);
    if (s->insn.adsize * 8 != s->theirs.address_width)
        return differs(s, "address size", s->insn.adsize * 8, s->theirs.address_width);
    const ZydisDecodedOperand *visible[ZYDIS_MAX_OPERAND_COUNT];
    unsigned count = 0;
    for (unsigned i = 0; i < s->theirs.operand_count; i++)
        if (s->ops[i].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            visible[count++] = &s->ops[i];
    // String instructions: Zydis hides the operands; they are compared all the same.
    if (count == 0 && form->operand_count != 0 && (form->attr & (X86_INSN_REP | X86_INSN_REPZ)))
        for (unsigned i = 0; i < form->operand_count; i++)
            visible[count++] = &s->ops[i];
    // Zydis hides ST0 where the manual's short form does not name it, and an implied XMM0.
    unsigned ours[ARRAY_SIZE(form->operand)], our_count = 0;
    bool hide = count < form->operand_count;
    for (unsigned i = 0; i < form->operand_count; i++)
        if (!hide ||
            (form->operand[i].kind != X86_OPND_ST0 && form->operand[i].kind != X86_OPND_XMM0))
            ours[our_count++] = i;
    if (count != our_count)
        return differs(s, "operand count", our_count, count);
    for (unsigned i = 0; i < count; i++)
        if (!same_operand(s, ours[i], visible[i]))
            return false;
    return true;
}
