// SPDX-License-Identifier: Apache-2.0
// Makes cases: walks the forms of the instruction table and, for each, chooses prefixes, operands
// and a starting state from a seeded generator. The pieces are in gen_*.c, their rules in gen.h.
#include "gen.h"
#include <stddef.h>
#include <string.h>

static uint16_t eligible[X86_FORM_COUNT];
static unsigned eligible_count;
static uint16_t asked[X86_FORM_COUNT]; // positions in `eligible`
static unsigned asked_count;
static struct oracle_options options;
static uint8_t fillings[FILL_COUNT][ORACLE_MEMORY_SIZE];

// --- which forms, which numbers ------------------------------------------------------------------

static bool form_is_asked_for(const struct x86_form *form)
{
    if (!options.form)
        return true;
    return options.exact ? !strcmp(form->name, options.form)
                         : !strncmp(form->name, options.form, strlen(options.form));
}

unsigned oracle_gen_init(const struct oracle_options *o)
{
    options = *o;
    eligible_count = 0;
    for (unsigned i = 0; i < X86_FORM_COUNT; i++)
        if (x86_forms[i].name && form_takes_part(&x86_forms[i], options.code_size))
            eligible[eligible_count++] = (uint16_t)i;
    asked_count = 0;
    for (unsigned i = 0; i < eligible_count; i++)
        if (form_is_asked_for(&x86_forms[eligible[i]]))
            asked[asked_count++] = (uint16_t)i;
    struct rng rng = {.state = 0x0c0ffee};
    for (unsigned i = 0; i < FILL_COUNT; i++)
        value_fill(&rng, i, fillings[i], ORACLE_MEMORY_SIZE);
    return asked_count;
}

uint64_t oracle_gen_number(uint64_t i)
{
    return i / asked_count * eligible_count + asked[i % asked_count];
}

void oracle_memory(const struct oracle_case *c, uint8_t memory[ORACLE_MEMORY_SIZE])
{
    memcpy(memory, fillings[c->filling], ORACLE_MEMORY_SIZE);
    for (unsigned i = 0; i < c->patches; i++)
        memcpy(memory + c->patch[i].offset, c->patch[i].data, c->patch[i].size);
}

// --- small helpers -------------------------------------------------------------------------------

bool is(const struct gen *g, const char *mnemonic)
{
    return !strcmp(g->form->mnemonic, mnemonic);
}

bool starts(const struct gen *g, const char *prefix)
{
    return !strncmp(g->form->mnemonic, prefix, strlen(prefix));
}

bool has_kind(const struct gen *g, unsigned kind)
{
    for (unsigned i = 0; i < g->form->operand_count; i++)
        if (g->form->operand[i].kind == kind)
            return true;
    return false;
}

bool is_string(const struct gen *g)
{
    return has_kind(g, X86_OPND_STR_SRC) || has_kind(g, X86_OPND_STR_DST);
}

unsigned operand_size(const struct gen *g)
{
    const struct x86_form *f = g->form;
    if (!g->code64)
        return g->opsize66 == (g->code_size == X86_CODE16) ? 4 : 2;
    if (g->w || (f->attr & X86_INSN_F64))
        return 8;
    if (g->opsize66)
        return 2;
    return f->attr & X86_INSN_D64 ? 8 : 4;
}

unsigned address_size(const struct gen *g)
{
    if (g->code64)
        return g->adsize67 ? 4 : 8;
    return g->adsize67 == (g->code_size == X86_CODE16) ? 4 : 2;
}

unsigned memory_size(const struct gen *g)
{
    for (unsigned i = 0; i < g->form->operand_count; i++) {
        const struct x86_operand_desc *d = &g->form->operand[i];
        switch (d->kind) {
        case X86_OPND_RM:
        case X86_OPND_RM_MEM:
        case X86_OPND_VEC_RM:
        case X86_OPND_MMX_RM:
        case X86_OPND_MOFFS:
        case X86_OPND_VSIB:
        case X86_OPND_STR_SRC:
        case X86_OPND_STR_DST:
            if (d->size)
                return d->size;
            switch (d->vary) {
            case 'v':
                return operand_size(g);
            case 'z':
                return operand_size(g) == 2 ? 2 : 4;
            case 'y':
                return g->w ? 8 : 4;
            case 'x':
                return g->vex_l ? 32 : 16;
            case 'h':
                return g->vex_l ? 16 : 8;
            case 0:
                break;
            default:
                return 8;
            }
            break;
        default:
            break;
        }
    }
    // Memory whose size the instruction decides.
    if (starts(g, "xsave") || starts(g, "xrstor"))
        return 832;
    if (starts(g, "fx"))
        return 512;
    if (is(g, "fnsave") || is(g, "frstor"))
        return operand_size(g) == 2 ? 94 : 108;
    if (is(g, "fnstenv") || is(g, "fldenv"))
        return operand_size(g) == 2 ? 14 : 28;
    return 8;
}

unsigned imm_size(const struct gen *g)
{
    switch (g->form->imm) {
    case 'v':
        return operand_size(g);
    case 'z':
        return operand_size(g) == 2 ? 2 : 4;
    case 'p':
        return (operand_size(g) == 2 ? 2 : 4) + 2;
    case 'o':
        return address_size(g);
    default:
        return g->form->imm;
    }
}

void emit(struct gen *g, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size && g->n < sizeof(g->bytes); i++, value >>= 8)
        g->bytes[g->n++] = (uint8_t)value;
}

void patch(struct gen *g, uint64_t linear, const void *data, unsigned size)
{
    struct oracle_case *c = g->c;
    const uint8_t *from = data;
    while (size) {
        int offset = oracle_memory_offset(linear);
        unsigned room = (unsigned)(PAGE_SIZE - (linear & PAGE_OFFSET_MASK));
        unsigned part = size < room ? size : room;
        if (offset >= 0 && c->patches < ARRAY_SIZE(c->patch) && part <= sizeof(c->patch[0].data)) {
            struct oracle_patch *p = &c->patch[c->patches++];
            p->offset = (uint16_t)offset;
            p->size = (uint16_t)part;
            memcpy(p->data, from, part);
        }
        linear += part;
        from += part;
        size -= part;
    }
}

uint64_t peek(struct gen *g, uint64_t linear)
{
    uint64_t value = 0;
    oracle_memory(g->c, g->memory);
    for (unsigned i = 0; i < 8; i++) {
        int offset = oracle_memory_offset(linear + i);
        if (offset >= 0)
            value |= (uint64_t)g->memory[offset] << (8 * i);
    }
    return value;
}

void set_reg(struct gen *g, unsigned reg, uint64_t value)
{
    g->c->in.gpr[reg] = g->code64 ? value : (uint32_t)value;
    g->locked |= 1u << reg;
}

// --- a case --------------------------------------------------------------------------------------

// Registers that the later instructions of a sequence reach memory by.
static void make_pointers(struct gen *g)
{
    for (unsigned i = 0; i < (g->code64 ? 16 : 8); i++) {
        if (i == X86_RSP || !chance(g, 45))
            continue;
        uint64_t linear = ORACLE_WINDOW_BASE + 0x400 + below(g, 0x1800);
        uint64_t offset = g->code64 ? linear : aim_offset(g, X86_DS, linear, 4, 0xffffffff);
        g->c->in.gpr[i] = g->code64 ? offset : (uint32_t)offset;
    }
}

static void make_case(struct gen *g)
{
    struct oracle_case *c = g->c;
    c->filling = pick_filling(g);
    g->edge = !g->code64 && chance(g, 20);
    make_state(g);
    if (options.sequence) {
        c->in.rflags &= ~(uint64_t)X86_FLAG_TF;
        make_pointers(g);
    }
    make_fpu(g);
    make_instruction(g);
    if (options.loops && c->patches < ARRAY_SIZE(c->patch)) {
        uint32_t rounds = 2 + (uint32_t)below(g, 60);
        c->loop = (uint8_t)rounds;
        patch(g, ORACLE_LOOP_COUNTER, &rounds, 4);
    }
}

void make_instruction(struct gen *g)
{
    const struct x86_form *f = g->form;
    struct oracle_case *c = g->c;
    c->steps = 1;
    choose_prefixes(g);
    emit_prefixes(g);
    g->modrm_reg = f->modrm_reg >= 0 ? (unsigned)f->modrm_reg : (unsigned)below(g, 8);
    // A gather's three registers must differ.
    while (has_kind(g, X86_OPND_VSIB) && g->modrm_reg == (g->vvvv & 7) && chance(g, 95))
        g->modrm_reg = (unsigned)below(g, 8);
    g->modrm_rm = f->modrm_rm >= 0 ? (unsigned)f->modrm_rm : (unsigned)below(g, 8);
    g->has_mem = f->modrm == 2 || (f->modrm == 1 && f->modrm_rm < 0 && chance(g, 55));
    unsigned opcode = f->opcode;
    if (f->opcode_mask != 0xff)
        opcode |= (unsigned)below(g, 256) & ~(unsigned)f->opcode_mask & 7;
    emit(g, opcode, 1);
    g->target = pick_data(g, memory_size(g));
    prepare_registers(g);
    if (f->modrm) {
        if (g->has_mem)
            emit_memory(g);
        else
            emit(g, (f->modrm == 4 ? below(g, 4) : 3) << 6 | g->modrm_reg << 3 | g->modrm_rm, 1);
    }
    if (has_kind(g, X86_OPND_MOFFS) && !address_is_safe(g->target))
        g->target = ORACLE_WINDOW_BASE + 8;
    if (g->has_mem && (starts(g, "fxsave") || starts(g, "xsave")))
        c->image = g->target;
    prepare_operand(g);
    emit_immediate(g);
    if ((c->in.rflags & X86_FLAG_TF) && (has_kind(g, X86_OPND_SREG) || is(g, "pop")) &&
        !(f->attr & X86_INSN_BRANCH) && g->n < 15) {
        emit(g, 0x90, 1); // a NOP in the shadow of MOV SS
        c->steps = 2;
    }
    clear_unused(g);
    if (g->n > sizeof(c->bytes))
        g->n = sizeof(c->bytes);
    memcpy(c->bytes, g->bytes, g->n);
    c->size = (uint8_t)g->n;
    if (!g->code64)
        for (unsigned i = 0; i < 16; i++)
            c->in.gpr[i] = i < 8 ? (uint32_t)c->in.gpr[i] : 0;
}

uint16_t eligible_form(uint64_t i)
{
    return eligible[i % eligible_count];
}

void start_gen(struct gen *g, struct oracle_case *c, uint16_t form)
{
    memset(g, 0, offsetof(struct gen, memory));
    g->c = c;
    g->form = &x86_forms[form];
    g->code_size = options.code_size;
    g->code64 = options.code_size == X86_CODE64;
    g->ldt = options.ldt;
}

void oracle_gen(struct oracle_case *c, uint64_t number)
{
    static struct gen g;
    struct rng seed = {.state = options.seed * UINT64_C(0x2545f4914f6cdd1d) + number};
    uint64_t start = rng_next(&seed);
    for (unsigned attempt = 0; attempt < 32; attempt++) {
        memset(c, 0, sizeof(*c));
        c->number = number;
        c->seed = options.seed;
        c->code_size = options.code_size;
        c->form = eligible_form(number);
        c->sequence = options.sequence;
        start_gen(&g, c, c->form);
        g.rng.state = start + attempt;
        make_case(&g);
        if (case_is_acceptable(c))
            return;
    }
    // Nothing acceptable: NOP.
    c->bytes[0] = 0x90;
    c->size = 1;
}
