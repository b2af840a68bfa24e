// SPDX-License-Identifier: Apache-2.0
// The decoder. Everything about single instructions comes from the generated table; what is written
// here is what they have in common: prefixes, escape bytes, ModRM and SIB, displacements,
// immediates, and the rules that make an encoding #UD (SDM vol. 2, chapter 2; APM vol. 3, chapter
// 1).
//
// Order of events: prefixes, opcode, ModRM (if the opcode has one), choice of the form, its #UD
// rules, then SIB, displacement and immediate. An encoding that a rule forbids is still fetched whole before
// it is #UD, since a fault of the fetch comes first (SDM vol. 3, table 6-2); an opcode that does not exist is
// #UD at once.
#include "x86/decode.h"
#include "x86/decode_table.h"
#include <string.h>

#define MAX_LENGTH 15

#define REX_W 8
#define REX_R 4
#define REX_X 2
#define REX_B 1

struct decoder {
    struct x86_insn *insn;
    const uint8_t *bytes;
    size_t avail;
    enum x86_decode_result stop; // why fetch failed
    enum x86_code_size code;
    const struct x86_cpu_model *model;
    bool amd;
    uint8_t pos;
    uint8_t rep;      // 0xf2 or 0xf3: the last one seen, or VEX.pp
    uint8_t opsize66; // a 66 prefix, or VEX.pp
    uint8_t rex;      // REX_ bits; from VEX too
    uint8_t seg;      // override or X86_REG_NONE
    bool lock;
    bool vex;
    bool bad; // #UD once the length is known
};

static bool fetch(struct decoder *d, unsigned size, uint64_t *value)
{
    if (d->pos + size > MAX_LENGTH && d->avail >= MAX_LENGTH) {
        d->stop = X86_DECODE_TOO_LONG;
        return false;
    }
    if (d->pos + size > d->avail) {
        // Fifteen bytes that are all there decide it, fewer only if the last of them is missing
        // too.
        d->stop = X86_DECODE_MORE;
        return false;
    }
    uint64_t v = 0;
    memcpy(&v, d->bytes + d->pos, size);
    d->pos += size;
    *value = v;
    return true;
}

static bool fetch_byte(struct decoder *d, uint8_t *byte)
{
    uint64_t v;
    if (!fetch(d, 1, &v))
        return false;
    *byte = (uint8_t)v;
    return true;
}

static bool fetch_signed(struct decoder *d, unsigned size, int64_t *value)
{
    uint64_t v;
    if (!fetch(d, size, &v))
        return false;
    *value = (int64_t)(v << (64 - 8 * size)) >> (64 - 8 * size);
    return true;
}

static bool undefined(struct decoder *d)
{
    d->stop = X86_DECODE_UD;
    return false;
}

// Legacy prefixes and REX; leaves the first byte that is neither in *opcode. A REX that is not
// immediately before the opcode is ignored (SDM vol. 2, 2.2.1).
static bool read_prefixes(struct decoder *d, uint8_t *opcode)
{
    struct x86_insn *insn = d->insn;
    bool code64 = d->code == X86_CODE64;
    int rex = -1;
    for (;;) {
        uint8_t b;
        if (!fetch_byte(d, &b))
            return false;
        if (code64 && (b & 0xf0) == 0x40) {
            rex = b & 15;
            continue;
        }
        switch (b) {
        case 0x66:
            d->opsize66 = 1;
            insn->prefixes |= X86_PREFIX_OPSIZE;
            break;
        case 0x67:
            insn->prefixes |= X86_PREFIX_ADSIZE;
            break;
        case 0xf0:
            d->lock = true;
            insn->prefixes |= X86_PREFIX_LOCK;
            break;
        case 0xf2:
        case 0xf3:
            d->rep = b;
            break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
            if (!code64)
                d->seg = (b >> 3) & 3;
            break;
        case 0x64:
        case 0x65:
            d->seg = b == 0x64 ? X86_FS : X86_GS;
            break;
        default:
            if (rex >= 0) {
                d->rex = (uint8_t)rex;
                insn->prefixes |= X86_PREFIX_REX;
            }
            *opcode = b;
            return true;
        }
        rex = -1;
    }
}

static bool read_memory(struct decoder *d, bool vsib);

// C4 or C5 as a VEX prefix (outside 64-bit mode only when the next byte looks like ModRM.mod = 3).
static bool read_vex(struct decoder *d, uint8_t escape, uint8_t *opcode)
{
    static const uint8_t pp_rep[4] = {0, 0, 0xf3, 0xf2};
    struct x86_insn *insn = d->insn;
    bool code64 = d->code == X86_CODE64;
    uint8_t b1, b2;

    if (!fetch_byte(d, &b1))
        return false;
    if (insn->prefixes & X86_PREFIX_REX) {
        // AMD's processors take that for LES or LDS, and fetch its operand before they refuse it.
        insn->modrm = b1;
        insn->adsize = 8;
        return (!d->amd || b1 >= 0xc0 || read_memory(d, false)) && undefined(d);
    }
    d->bad = d->lock || d->rep || d->opsize66;
    d->lock = false;
    if (escape == 0xc5) {
        b2 = b1 & 0x7f;
        d->rex = b1 & 0x80 ? 0 : REX_R;
        insn->map = X86_MAP_0F;
    } else {
        if (!fetch_byte(d, &b2))
            return false;
        d->rex = (uint8_t)(((b1 & 0x80) ? 0 : REX_R) | ((b1 & 0x40) ? 0 : REX_X) |
                           ((b1 & 0x20) ? 0 : REX_B) | ((b2 & 0x80) ? REX_W : 0));
        if ((b1 & 0x1f) < 1 || (b1 & 0x1f) > 3)
            return undefined(d);
        insn->map = b1 & 3;
    }
    insn->vvvv = (~b2 >> 3) & 15;
    insn->vex_l = (b2 >> 2) & 1;
    insn->vex_w = (d->rex & REX_W) != 0;
    if (!code64)
        d->rex = 0;
    d->rep = pp_rep[b2 & 3];
    d->opsize66 = (b2 & 3) == 1;
    d->vex = true;
    insn->prefixes |= X86_PREFIX_VEX;
    return fetch_byte(d, opcode);
}

static bool read_opcode(struct decoder *d)
{
    struct x86_insn *insn = d->insn;
    uint8_t b;
    if (!read_prefixes(d, &b))
        return false;
    insn->vex_w = (d->rex & REX_W) != 0;
    if (b == 0xc4 || b == 0xc5 || b == 0x62) {
        bool prefix = d->code == X86_CODE64;
        if (!prefix) {
            uint8_t next;
            if (!fetch_byte(d, &next))
                return false;
            d->pos--;
            prefix = next >= 0xc0;
        }
        if (prefix && b == 0x62) // EVEX: no instruction of it is offered
            return undefined(d);
        if (prefix)
            return read_vex(d, b, &insn->opcode);
    }
    if (b == 0x0f) {
        if (!fetch_byte(d, &b))
            return false;
        insn->map = X86_MAP_0F;
        if (b == 0x38 || b == 0x3a) {
            insn->map = b == 0x38 ? X86_MAP_0F38 : X86_MAP_0F3A;
            if (!fetch_byte(d, &b))
                return false;
        }
    }
    insn->opcode = b;
    return true;
}

static bool prefix_matches(const struct decoder *d, uint8_t want)
{
    switch (want) {
    case 0:
        return true;
    case 1:
        return d->rep == 0 && !d->opsize66;
    case 2:
        return d->rep == 0;
    case 0x66:
        return d->rep == 0 && d->opsize66;
    default:
        return d->rep == want;
    }
}

static bool form_matches(const struct decoder *d, const struct x86_form *form)
{
    const struct x86_insn *insn = d->insn;
    bool code64 = d->code == X86_CODE64;
    uint8_t modrm = insn->modrm;
    if (!prefix_matches(d, form->prefix))
        return false;
    if (form->modrm_reg >= 0 && ((modrm >> 3) & 7) != form->modrm_reg)
        return false;
    if (form->modrm == 2 && modrm >= 0xc0)
        return false;
    if (form->modrm == 3 && modrm < 0xc0)
        return false;
    if (form->modrm_rm >= 0 && (modrm & 7) != form->modrm_rm)
        return false;
    if (form->w >= 0 && form->w != (insn->vex_w && (code64 || !form->w_is_size)))
        return false;
    if (form->l >= 0 && (uint8_t)form->l != insn->vex_l)
        return false;
    if (form->rex_b >= 0 && (d->rex & REX_B) != form->rex_b)
        return false;
    if (form->attr & (code64 ? X86_INSN_NO64 : X86_INSN_ONLY64))
        return false;
    // VEX.W as an operand size outside 64-bit mode: ignored by Intel's, #UD on AMD's, VMOVD and VMOVQ apart.
    if (d->amd && !code64 && d->vex && insn->vex_w && form->w_is_size &&
        !(form->map == X86_MAP_0F && (form->opcode & 0xef) == 0x6e))
        return false;
    if (d->amd && (form->attr & X86_INSN_INTEL))
        return false;
    if (!x86_has(d->model, form->feature) && (code64 || !(form->attr & X86_INSN_FEAT64)))
        return false;
    if ((form->attr & X86_INSN_AVX2_L) && insn->vex_l && !x86_has(d->model, X86_FEATURE_avx2))
        return false;
    if ((form->attr & X86_INSN_AVX_TOO) && !x86_has(d->model, X86_FEATURE_avx))
        return false;
    return true;
}

static const struct x86_form *find_form(struct decoder *d)
{
    struct x86_insn *insn = d->insn;
    const struct x86_decode_list *list = &x86_decode_lists[d->vex][insn->map][insn->opcode];
    if (list->count == 0) {
        d->stop = X86_DECODE_UD;
        return NULL;
    }
    if (list->modrm && !fetch_byte(d, &insn->modrm))
        return NULL;
    for (unsigned i = 0; i < list->count; i++) {
        unsigned id = x86_decode_forms[list->start + i];
        if (form_matches(d, &x86_forms[id])) {
            insn->form = (uint16_t)id;
            return &x86_forms[id];
        }
    }
    // None: as long as the first of them.
    d->bad = true;
    return &x86_forms[x86_decode_forms[list->start]];
}

static void set_sizes(struct decoder *d, const struct x86_form *form)
{
    struct x86_insn *insn = d->insn;
    bool toggle = d->opsize66 && form->prefix != 0x66 && !d->vex;
    bool wide = d->rex & REX_W;
    unsigned size;

    if (d->code == X86_CODE64) {
        // AMD lets 66 truncate near branches to 16 bits, Intel ignores it there.
        bool branch16 = d->amd && (form->attr & X86_INSN_BRANCH) && toggle && !wide;
        if (wide || ((form->attr & X86_INSN_F64) && !branch16))
            size = 8;
        else if (toggle)
            size = 2;
        else
            size = form->attr & X86_INSN_D64 ? 8 : 4;
        insn->adsize = insn->prefixes & X86_PREFIX_ADSIZE ? 4 : 8;
    } else {
        bool code16 = d->code == X86_CODE16;
        size = code16 != toggle ? 2 : 4;
        insn->adsize = code16 != !!(insn->prefixes & X86_PREFIX_ADSIZE) ? 2 : 4;
        if (d->vex)
            size = 4;
    }
    switch ((enum x86_opsize_rule)form->opsize_rule) {
    case X86_OPSIZE_V:
        break;
    case X86_OPSIZE_Y:
        size = size == 8 ? 8 : 4;
        break;
    case X86_OPSIZE_Z:
        size = size == 2 ? 2 : 4;
        break;
    case X86_OPSIZE_BYTE:
        size = 1;
        break;
    }
    insn->opsize = (uint8_t)size;
}

// AH, CH, DH, BH when there is no REX prefix.
static uint8_t byte_register(const struct decoder *d, uint8_t reg)
{
    bool high = reg >= 4 && reg < 8 && !(d->insn->prefixes & X86_PREFIX_REX);
    return high ? (uint8_t)(reg - 4 + X86_REG8_HIGH) : reg;
}

// Turns the raw register fields into what the operands mean and applies the #UD rules of registers.
static bool resolve_registers(struct decoder *d, const struct x86_form *form)
{
    struct x86_insn *insn = d->insn;
    bool mem = insn->modrm < 0xc0 && form->modrm != 4;
    bool uses_vvvv = false;
    uint8_t reg = (insn->modrm >> 3) & 7, rm = insn->modrm & 7;
    uint8_t reg_ext = reg | (d->rex & REX_R ? 8 : 0), rm_ext = rm | (d->rex & REX_B ? 8 : 0);

    if (form->modrm != 0) {
        insn->reg = reg_ext;
        insn->rm = rm_ext;
    }
    for (unsigned i = 0; i < form->operand_count; i++) {
        const struct x86_operand_desc *op = &form->operand[i];
        bool byte = op->size == 1;
        switch ((enum x86_operand_kind)op->kind) {
        case X86_OPND_RM:
        case X86_OPND_RM_REG:
            insn->rm = byte && !mem ? byte_register(d, rm_ext) : rm_ext;
            break;
        case X86_OPND_REG:
            insn->reg = byte ? byte_register(d, reg_ext) : reg_ext;
            break;
        case X86_OPND_OPREG:
            insn->reg = (insn->opcode & 7) | (d->rex & REX_B ? 8 : 0);
            if (byte)
                insn->reg = byte_register(d, insn->reg);
            break;
        case X86_OPND_VVVV_GPR:
        case X86_OPND_VEC_VVVV:
            uses_vvvv = true;
            break;
        case X86_OPND_SREG: // REX.R is ignored; there is no seventh, and CS cannot be written
            insn->reg = reg;
            if (reg >= X86_SEG_COUNT || (reg == X86_CS && (op->rw & X86_RW_WRITE)))
                return undefined(d);
            break;
        case X86_OPND_CREG:
            if (d->lock && reg_ext == 0)
                insn->reg = reg_ext = 8;
            if (reg_ext != 0 && reg_ext != 2 && reg_ext != 3 && reg_ext != 4 && reg_ext != 8)
                return undefined(d);
            break;
        case X86_OPND_DREG:
            if (reg_ext >= 8)
                return undefined(d);
            break;
        case X86_OPND_MMX_REG: // there are eight; REX is ignored
            insn->reg = reg;
            break;
        case X86_OPND_MMX_RM:
        case X86_OPND_MMX_RM_REG:
        case X86_OPND_STI:
            insn->rm = rm;
            break;
        default:
            break;
        }
    }
    if (d->vex && !uses_vvvv && insn->vvvv != 0)
        return undefined(d);
    if (d->code != X86_CODE64)
        insn->vvvv &= 7;
    return true;
}

// LOCK needs a memory destination. AMD (CPUID.80000001h:ECX.AltMovCr8) reads LOCK MOV CR0 as MOV
// CR8.
static bool lock_allowed(const struct decoder *d, const struct x86_form *form)
{
    if ((form->attr & X86_INSN_LOCKABLE) && d->insn->modrm < 0xc0)
        return true;
    return form->map == X86_MAP_0F && (form->opcode == 0x20 || form->opcode == 0x22) &&
           ((d->insn->modrm >> 3) & 7) == 0 && !(d->rex & REX_R) && d->amd &&
           x86_has(d->model, X86_FEATURE_cr8_legacy);
}

static bool read_memory16(struct decoder *d)
{
    static const uint8_t base[8] = {X86_RBX, X86_RBX, X86_RBP, X86_RBP,
                                    X86_RSI, X86_RDI, X86_RBP, X86_RBX};
    static const uint8_t index[8] = {X86_RSI,      X86_RDI,      X86_RSI,      X86_RDI,
                                     X86_REG_NONE, X86_REG_NONE, X86_REG_NONE, X86_REG_NONE};
    struct x86_insn *insn = d->insn;
    unsigned mod = insn->modrm >> 6, rm = insn->modrm & 7;
    if (mod == 0 && rm == 6)
        return fetch_signed(d, 2, &insn->disp);
    insn->base = base[rm];
    insn->index = index[rm];
    if (insn->base == X86_RBP && d->seg == X86_REG_NONE)
        insn->seg = X86_SS;
    return mod == 0 || fetch_signed(d, mod, &insn->disp);
}

static bool read_memory(struct decoder *d, bool vsib)
{
    struct x86_insn *insn = d->insn;
    unsigned mod = insn->modrm >> 6, rm = insn->modrm & 7;
    uint8_t base_ext = d->rex & REX_B ? 8 : 0;

    insn->has_mem = 1;
    d->bad |= vsib && (insn->adsize == 2 || rm != 4); // needs a SIB byte
    if (insn->adsize == 2)
        return read_memory16(d);
    if (rm != 4) {
        if (mod == 0 && rm == 5) {
            if (d->code == X86_CODE64)
                insn->base = X86_REG_RIP;
            return fetch_signed(d, 4, &insn->disp);
        }
        insn->base = rm | base_ext;
    } else {
        uint8_t sib;
        if (!fetch_byte(d, &sib))
            return false;
        insn->scale = sib >> 6;
        insn->index = ((sib >> 3) & 7) | (d->rex & REX_X ? 8 : 0);
        if (insn->index == X86_RSP && !vsib)
            insn->index = X86_REG_NONE;
        if (mod == 0 && (sib & 7) == 5)
            return fetch_signed(d, 4, &insn->disp);
        insn->base = (sib & 7) | base_ext;
    }
    if ((insn->base == X86_RSP || insn->base == X86_RBP) && d->seg == X86_REG_NONE)
        insn->seg = X86_SS;
    return mod == 0 || fetch_signed(d, mod == 1 ? 1 : 4, &insn->disp);
}

static unsigned imm_size(const struct x86_insn *insn, uint8_t imm)
{
    switch (imm) {
    case 'z':
    case 'p':
        return insn->opsize == 2 ? 2 : 4;
    case 'v':
        return insn->opsize;
    default:
        return imm;
    }
}

static bool read_immediates(struct decoder *d, const struct x86_form *form)
{
    struct x86_insn *insn = d->insn;
    uint64_t v;
    if (form->imm == 0)
        return true;
    if (form->imm == 'o') {
        insn->has_mem = 1;
        if (!fetch(d, insn->adsize, &v))
            return false;
        insn->disp = (int64_t)v;
        return true;
    }
    unsigned size = imm_size(insn, form->imm);
    if (form->imm_signed) {
        int64_t s;
        if (!fetch_signed(d, size, &s))
            return false;
        insn->imm = (uint64_t)s;
    } else if (!fetch(d, size, &insn->imm)) {
        return false;
    }
    unsigned size2 = form->imm == 'p' ? 2 : form->imm2;
    if (size2 != 0) {
        if (!fetch(d, size2, &v))
            return false;
        insn->imm2 = (uint32_t)v;
    }
    insn->is4 = (insn->imm >> 4) & (d->code == X86_CODE64 ? 15 : 7);
    return true;
}

// A gather's destination, index and mask must be three different registers (SDM vol. 2,
// VPGATHERDD).
static bool gather_registers_differ(const struct x86_insn *insn)
{
    return insn->reg != insn->index && insn->reg != insn->vvvv && insn->index != insn->vvvv;
}

static bool has_vsib(const struct x86_form *form)
{
    for (unsigned i = 0; i < form->operand_count; i++)
        if (form->operand[i].kind == X86_OPND_VSIB)
            return true;
    return false;
}

static bool decode(struct decoder *d)
{
    struct x86_insn *insn = d->insn;
    if (!read_opcode(d))
        return false;
    if (d->amd && !d->vex && insn->map == X86_MAP_0F &&
        (insn->opcode == 0xb9 || insn->opcode == 0xff))
        return undefined(d); // UD1 and UD0 have no ModRM byte there
    const struct x86_form *form = find_form(d);
    if (form == NULL)
        return false;
    if (d->lock && !lock_allowed(d, form))
        d->bad = true;
    set_sizes(d, form);
    insn->seg = d->seg != X86_REG_NONE ? d->seg : X86_DS;
    if (d->seg != X86_REG_NONE)
        insn->prefixes |= X86_PREFIX_SEG;
    if (d->rep != 0 && !d->vex && form->prefix != d->rep)
        insn->prefixes |= d->rep == 0xf3 ? X86_PREFIX_REP : X86_PREFIX_REPNE;
    if (!resolve_registers(d, form))
        d->bad = true;
    if (form->modrm != 0 && form->modrm != 4 && insn->modrm < 0xc0) {
        bool vsib = d->vex && has_vsib(form);
        if (!read_memory(d, vsib))
            return false;
        if (vsib && !gather_registers_differ(insn))
            d->bad = true;
    }
    return read_immediates(d, form) && (!d->bad || undefined(d));
}

enum x86_decode_result x86_decode(struct x86_insn *insn, const uint8_t *bytes, size_t avail,
                                  enum x86_code_size code_size, const struct x86_cpu_model *model)
{
    struct decoder d = {
        .insn = insn,
        .bytes = bytes,
        .avail = avail,
        .stop = X86_DECODE_OK,
        .code = code_size,
        .model = model,
        .amd = model != NULL && model->vendor == X86_VENDOR_AMD,
        .seg = X86_REG_NONE,
    };
    memset(insn, 0, sizeof(*insn));
    insn->base = insn->index = X86_REG_NONE;
    bool ok = decode(&d);
    insn->len = d.pos;
    return ok ? X86_DECODE_OK : d.stop;
}

static uint8_t operand_size(const struct x86_insn *insn, const struct x86_operand_desc *op)
{
    uint8_t vector = insn->vex_l ? 32 : 16;
    switch (op->vary) {
    case 0:
        return op->size;
    case 'v':
        return insn->opsize;
    case 'y':
        return insn->opsize == 8 ? 8 : 4;
    case 'z':
        return insn->opsize == 2 ? 2 : 4;
    case 'p':
        return insn->opsize + 2;
    case 's':
        return insn->opsize == 8 ? 10 : 6;
    case 'a':
        return 2 * insn->opsize;
    case 'h':
        return vector / 2;
    case 'e':
        return vector / 4;
    case 'f':
        return vector / 8;
    default:
        return vector;
    }
}

struct x86_operand x86_operand_get(const struct x86_insn *insn, unsigned i)
{
    const struct x86_form *form = x86_insn_form(insn);
    struct x86_operand out = {.kind = X86_OPND_NONE};
    if (i >= form->operand_count)
        return out;
    const struct x86_operand_desc *op = &form->operand[i];
    out.kind = op->kind;
    out.size = operand_size(insn, op);
    switch (out.kind) {
    case X86_OPND_RM:
    case X86_OPND_VEC_RM:
    case X86_OPND_MMX_RM:
        out.is_mem = insn->has_mem;
        out.reg = insn->rm;
        break;
    case X86_OPND_RM_MEM:
    case X86_OPND_VSIB:
    case X86_OPND_MOFFS:
    case X86_OPND_STR_SRC:
    case X86_OPND_STR_DST:
        out.is_mem = true;
        break;
    case X86_OPND_RM_REG:
    case X86_OPND_VEC_RM_REG:
    case X86_OPND_MMX_RM_REG:
    case X86_OPND_STI:
        out.reg = insn->rm;
        break;
    case X86_OPND_REG:
    case X86_OPND_OPREG:
    case X86_OPND_SREG:
    case X86_OPND_CREG:
    case X86_OPND_DREG:
    case X86_OPND_VEC_REG:
    case X86_OPND_MMX_REG:
        out.reg = insn->reg;
        break;
    case X86_OPND_VVVV_GPR:
    case X86_OPND_VEC_VVVV:
        out.reg = insn->vvvv;
        break;
    case X86_OPND_VEC_IS4:
        out.reg = insn->is4;
        break;
    case X86_OPND_FIXED_GPR:
    case X86_OPND_FIXED_SREG:
        out.reg = op->fixed;
        break;
    case X86_OPND_IMM: // ENTER's second immediate is the only one of its kind
        out.imm = i > 0 && form->operand[i - 1].kind == X86_OPND_IMM ? insn->imm2 : insn->imm;
        break;
    case X86_OPND_REL:
    case X86_OPND_FAR:
        out.imm = insn->imm;
        break;
    case X86_OPND_ONE:
        out.imm = 1;
        break;
    default:
        break;
    }
    return out;
}
