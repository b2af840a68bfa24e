// SPDX-License-Identifier: Apache-2.0
// bt_encode() against the decoder: encodings of every form in every mode, on random host registers and
// memory. What comes out must decode in 64-bit mode to the same instruction with those operands; where
// nothing comes out, there must be a reason: operands that do not go together, or a form in left_out below.
//
//     test-bt-encode [samples per form] [seed]
#include "engine/bt/encode.h"
#include "generate.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PER_FORM 600
#define SHOWN_PER_FORM 2

// COPY and MEM forms that are never encoded; every mnemonic here must have none that is.
static const struct {
    const char *mnemonics; // space-separated
    const char *reason;
} left_out[] = {
    {"push pop leave",
     "the host's stack pointer is the guest's, its stack is not the host's memory"},
    {"cbw cwd lahf sahf", "work on AX or RAX, which need not be in the host's RAX"},
    {"cld std", "the guest's DF is not in the host's EFLAGS"},
};

// HELPER forms that can be encoded nevertheless: on vectors and x87, without layouts or registers of their own.
static const char can_too[] =
    "fwait fninit emms ldmxcsr stmxcsr vldmxcsr vstmxcsr vpgatherdd vpgatherdq "
    "vpgatherqd vpgatherqq vgatherdps vgatherdpd vgatherqps vgatherqpd";

static unsigned failures, forms_encoded;
static unsigned shown[X86_FORM_COUNT];
static unsigned encoded[X86_FORM_COUNT], refused[X86_FORM_COUNT], sampled[X86_FORM_COUNT];

struct trial {
    struct sample s;
    struct x86_insn x, y; // the guest's instruction, the host's
    struct bt_operands o;
    struct bt_mem mem;
    uint8_t out[BT_ENCODE_MAX];
    unsigned len;
};

static void fail(const struct trial *t, const char *why)
{
    failures++;
    if (shown[t->x.form]++ >= SHOWN_PER_FORM)
        return;
    printf("%s: %s: code %d ", x86_insn_form(&t->x)->name, why, t->s.code);
    for (unsigned i = 0; i < t->x.len; i++)
        printf("%02x", t->s.bytes[i]);
    printf(" -> ");
    for (unsigned i = 0; i < t->len; i++)
        printf("%02x", t->out[i]);
    printf(" reg %u rm %u vvvv %u is4 %u", t->o.reg, t->o.rm, t->o.vvvv, t->o.is4);
    if (t->o.mem != NULL)
        printf(" mem %s%u+%u<<%u%+d", t->mem.gs ? "gs:" : "", t->mem.base, t->mem.index,
               t->mem.scale, t->mem.disp);
    printf("\n");
}

static bool is_listed(const char *list, const char *mnemonic)
{
    for (const char *p = list; *p != '\0';) {
        size_t n = strcspn(p, " ");
        if (n == strlen(mnemonic) && strncmp(p, mnemonic, n) == 0)
            return true;
        p += n + (p[n] == ' ');
    }
    return false;
}

static const char *left_out_reason(const struct x86_form *form)
{
    for (unsigned i = 0; i < ARRAY_SIZE(left_out); i++)
        if (is_listed(left_out[i].mnemonics, form->mnemonic))
            return left_out[i].reason;
    return NULL;
}

// --- random operands

static bool is_gpr(unsigned kind)
{
    return kind == X86_OPND_RM || kind == X86_OPND_RM_REG || kind == X86_OPND_REG ||
           kind == X86_OPND_OPREG || kind == X86_OPND_VVVV_GPR || kind == X86_OPND_FIXED_GPR;
}

static bool is_mmx(unsigned kind)
{
    return kind == X86_OPND_MMX_REG || kind == X86_OPND_MMX_RM || kind == X86_OPND_MMX_RM_REG;
}

static bool has_kind(const struct x86_form *form, unsigned kind)
{
    for (unsigned i = 0; i < form->operand_count; i++)
        if (form->operand[i].kind == kind)
            return true;
    return false;
}

static uint8_t random_register(const struct x86_operand_desc *d, uint64_t *rng)
{
    if (is_gpr(d->kind) && d->size == 1)
        return random_next(rng) % 20;
    return random_next(rng) & (is_mmx(d->kind) ? 7 : 15);
}

// Whether the operand is encoded in bt_operands' rm rather than reg.
static bool takes_rm(unsigned kind)
{
    return kind == X86_OPND_RM || kind == X86_OPND_RM_REG || kind == X86_OPND_VEC_RM ||
           kind == X86_OPND_VEC_RM_REG || kind == X86_OPND_MMX_RM || kind == X86_OPND_MMX_RM_REG;
}

static bool takes_reg(const struct x86_operand_desc *d)
{
    return d->kind == X86_OPND_REG || d->kind == X86_OPND_OPREG || d->kind == X86_OPND_VEC_REG ||
           d->kind == X86_OPND_MMX_REG || (d->kind == X86_OPND_FIXED_GPR && d->fixed == X86_RAX);
}

static bool allows_mem(const struct x86_form *form, bool *needs)
{
    *needs = has_kind(form, X86_OPND_RM_MEM) || has_kind(form, X86_OPND_MOFFS) ||
             has_kind(form, X86_OPND_VSIB);
    return *needs || has_kind(form, X86_OPND_RM) || has_kind(form, X86_OPND_VEC_RM) ||
           has_kind(form, X86_OPND_MMX_RM);
}

static int32_t random_disp(uint64_t *rng)
{
    static const int32_t edges[] = {0, 1, -1, 127, 128, -128, -129, INT32_MAX, INT32_MIN};
    uint64_t r = random_next(rng);
    return r & 1   ? edges[(r >> 1) % ARRAY_SIZE(edges)]
           : r & 2 ? (int8_t)(r >> 8)
                   : (int32_t)(r >> 8);
}

static void random_operands(struct trial *t, uint64_t *rng)
{
    const struct x86_form *form = x86_insn_form(&t->x);
    uint64_t r = random_next(rng);
    bool needs;

    t->o = (struct bt_operands){.is4 = (uint8_t)(r & 15), .reg = 0xff, .rm = 0xff, .vvvv = 0xff};
    for (unsigned i = 0; i < form->operand_count; i++) {
        const struct x86_operand_desc *d = &form->operand[i];
        uint8_t reg = random_register(d, rng);
        if (takes_rm(d->kind))
            t->o.rm = reg;
        else if (d->kind == X86_OPND_VVVV_GPR || d->kind == X86_OPND_VEC_VVVV)
            t->o.vvvv = reg;
        else if (d->kind == X86_OPND_FIXED_GPR && has_kind(form, X86_OPND_OPREG))
            t->o.rm = reg; // XCHG
        else if (takes_reg(d))
            t->o.reg = reg;
    }
    t->mem = (struct bt_mem){.base = (r >> 8) & 7 ? (r >> 12) & 15 : BT_REG_NONE,
                             .index = (r >> 16) & 1 ? (r >> 20) & 15 : BT_REG_NONE,
                             .scale = (r >> 24) & 3,
                             .gs = (r >> 26) & 1,
                             .disp = random_disp(rng)};
    if (has_kind(form, X86_OPND_VSIB)) {
        t->mem.index = (r >> 20) & 15;
        while (t->o.vvvv == t->mem.index || t->o.vvvv == t->o.reg || t->o.reg == t->mem.index) {
            t->o.reg = random_next(rng) & 15;
            t->o.vvvv = random_next(rng) & 15;
        }
    } else if (t->mem.index == 4) {
        t->mem.index = 12;
    }
    if (t->mem.index == BT_REG_NONE)
        t->mem.scale = 0;
    // Mostly what the guest has, sometimes the other.
    bool mem = t->x.has_mem != ((r >> 28) % 8 == 0);
    if (!allows_mem(form, &needs))
        mem = (r >> 32) % 32 == 0;
    else if (needs)
        mem = (r >> 32) % 32 != 0;
    t->o.mem = mem ? &t->mem : NULL;
}

// --- what must come out

// Whether these operands go together.
static bool possible(const struct trial *t)
{
    const struct x86_form *form = x86_insn_form(&t->x);
    bool needs, allows = allows_mem(form, &needs), mem = t->o.mem != NULL;
    bool high = false, rex = false;

    if (form->mnemonic_id == X86_MN_NOP || strncmp(form->mnemonic, "endbr", 5) == 0)
        return true;
    if (mem ? !allows : needs || (t->x.prefixes & X86_PREFIX_LOCK))
        return false;
    if (form->mnemonic_id == X86_MN_FNSTSW && !needs)
        return t->o.reg == X86_RAX;
    for (unsigned i = 0; i < form->operand_count; i++) {
        const struct x86_operand_desc *d = &form->operand[i];
        if (is_gpr(d->kind) && !(d->kind == X86_OPND_FIXED_GPR && d->fixed != X86_RAX) &&
            !(mem && takes_rm(d->kind))) {
            uint8_t reg = takes_rm(d->kind)              ? t->o.rm
                          : d->kind == X86_OPND_VVVV_GPR ? t->o.vvvv
                                                         : t->o.reg;
            high |= reg >= 16;
            rex |= reg >= 8 && reg < 16;
            rex |= d->size == 1 && reg >= 4 && reg < 8;
        }
        rex |= t->x.opsize == 8 && (d->vary == 'v' || d->vary == 'y');
    }
    if (mem)
        rex |= (t->mem.base >= 8 && t->mem.base != BT_REG_NONE) ||
               (t->mem.index >= 8 && t->mem.index != BT_REG_NONE);
    return !(high && rex);
}

// Whether the form has no encoding of its own in 64-bit mode, on any registers, or more than one.
static bool is_rewritten(const struct x86_form *form)
{
    return (form->attr & X86_INSN_NO64) || has_kind(form, X86_OPND_MOFFS) ||
           has_kind(form, X86_OPND_FIXED_GPR) || strstr(form->name, "_alt") != NULL;
}

static bool same_memory(const struct trial *t)
{
    const struct bt_mem *m = &t->mem;
    return t->y.has_mem && t->y.base == m->base && t->y.index == m->index &&
           t->y.scale == m->scale && t->y.disp == m->disp && (t->y.seg == X86_GS) == m->gs &&
           t->y.adsize == 8;
}

static uint8_t expected_register(const struct trial *t, const struct x86_operand_desc *d)
{
    const struct x86_form *form = x86_insn_form(&t->x);
    if (takes_rm(d->kind))
        return t->o.rm;
    switch (d->kind) {
    case X86_OPND_VVVV_GPR:
    case X86_OPND_VEC_VVVV:
        return t->o.vvvv;
    case X86_OPND_VEC_IS4:
        return t->o.is4;
    case X86_OPND_STI:
        return t->x.rm;
    case X86_OPND_ST0:
    case X86_OPND_XMM0:
        return 0;
    case X86_OPND_FIXED_GPR:
        return d->fixed != X86_RAX ? d->fixed : has_kind(form, X86_OPND_OPREG) ? t->o.rm : t->o.reg;
    default:
        return t->o.reg;
    }
}

static const char *operand_differs(const struct trial *t, unsigned i)
{
    const struct x86_operand_desc *dx = &x86_insn_form(&t->x)->operand[i];
    const struct x86_operand_desc *dy = &x86_insn_form(&t->y)->operand[i];
    struct x86_operand x = x86_operand_get(&t->x, i), y = x86_operand_get(&t->y, i);

    if (x.size != y.size)
        return "operand size";
    if (dx->rw != dy->rw)
        return "read or written";
    if (x.kind == X86_OPND_IMM || x.kind == X86_OPND_ONE)
        return x.imm == y.imm && x.kind == y.kind ? NULL : "immediate";
    if (is_gpr(x.kind) != is_gpr(y.kind) && x.kind != X86_OPND_MOFFS)
        return "kind of operand";
    if (!is_gpr(x.kind) && x.kind != y.kind && x.kind != X86_OPND_MOFFS)
        return "kind of operand";
    bool mem = t->o.mem != NULL && (takes_rm(x.kind) || x.is_mem);
    if (mem != y.is_mem)
        return "memory or register";
    if (mem)
        return same_memory(t) ? NULL : "memory operand";
    return expected_register(t, dx) == y.reg ? NULL : "register";
}

static const char *differs(const struct trial *t)
{
    const struct x86_form *fx = x86_insn_form(&t->x), *fy = x86_insn_form(&t->y);
    if (fx->mnemonic_id == X86_MN_NOP || strncmp(fx->mnemonic, "endbr", 5) == 0)
        return t->len == 1 && t->out[0] == 0x90 ? NULL : "not 90";
    if (t->y.len != t->len)
        return "length";
    if (fx->mnemonic_id != fy->mnemonic_id || fx->operand_count != fy->operand_count)
        return "another instruction";
    if (fx != fy && !is_rewritten(fx))
        return "another form";
    if (t->y.base == X86_REG_RIP)
        return "RIP-relative";
    if ((t->x.prefixes ^ t->y.prefixes) & (X86_PREFIX_LOCK | X86_PREFIX_VEX))
        return "LOCK or VEX";
    if ((t->y.prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE | X86_PREFIX_ADSIZE)))
        return "a prefix too many";
    if (fx->l < 0 && t->x.vex_l != t->y.vex_l)
        return "VEX.L";
    if ((fx->attr & X86_INSN_X87) && (t->y.prefixes & (X86_PREFIX_OPSIZE | X86_PREFIX_REX)) &&
        t->o.mem == NULL)
        return "x87 with prefixes";
    // PCMPESTRx: RAX and RDX as a whole.
    if ((fx->attr & (X86_INSN_SSE | X86_INSN_VEX)) && (fx->gpr_read & 1 << X86_RAX) &&
        (t->x.opsize == 8) != (t->y.opsize == 8))
        return "width of the implicit registers";
    for (unsigned i = 0; i < fx->operand_count; i++) {
        const char *why = operand_differs(t, i);
        if (why != NULL)
            return why;
    }
    return NULL;
}

static void check(struct trial *t, uint64_t *rng)
{
    const struct x86_form *form = x86_insn_form(&t->x);
    random_operands(t, rng);
    memset(t->out, 0xcc, sizeof(t->out));
    memset(&t->y, 0, sizeof(t->y));
    t->len = bt_encode(t->out, &t->x, &t->o);
    sampled[t->x.form]++;
    if (!possible(t)) {
        if (t->len != 0)
            fail(t, "encoded with impossible operands");
        return;
    }
    if (t->len == 0) {
        refused[t->x.form]++;
        return;
    }
    encoded[t->x.form]++;
    if (form->privilege != X86_PRIV_NONE || (form->attr & (X86_INSN_BRANCH | X86_INSN_STACK)))
        fail(t, "encoded a form that must not run as it is");
    // The shortest displacement is the decoder's business; no more than the architecture's fifteen bytes.
    if (t->len > 15 || x86_decode(&t->y, t->out, t->len, X86_CODE64, NULL) != X86_DECODE_OK) {
        fail(t, "does not decode");
        return;
    }
    const char *why = differs(t);
    if (why != NULL)
        fail(t, why);
}

// Operands out of their ranges: nothing, or one whole instruction.
static void check_garbage(struct trial *t, uint64_t *rng)
{
    uint64_t r = random_next(rng), q = random_next(rng);
    memset(t->out, 0xcc, sizeof(t->out));
    t->mem = (struct bt_mem){.base = (uint8_t)r,
                             .index = (uint8_t)(r >> 8),
                             .scale = (r >> 16) & 7,
                             .gs = (r >> 19) & 1,
                             .disp = random_disp(rng)};
    t->o = (struct bt_operands){.reg = (uint8_t)q & 0x1f,
                                .rm = (uint8_t)(q >> 8) & 0x1f,
                                .vvvv = (uint8_t)(q >> 16) & 0x1f,
                                .is4 = (uint8_t)(q >> 24) & 0x1f,
                                .mem = r >> 20 & 1 ? &t->mem : NULL};
    t->len = bt_encode(t->out, &t->x, &t->o);
    if (t->len == 0)
        return;
    bool gather = has_kind(x86_insn_form(&t->x), X86_OPND_VSIB); // its registers must differ
    if (t->len > 15 || t->out[15] != 0xcc ||
        (x86_decode(&t->y, t->out, t->len, X86_CODE64, NULL) != X86_DECODE_OK && !gather) ||
        t->y.len != t->len)
        fail(t, "garbage makes garbage");
}

// A form is encoded whenever its operands go together, or never.
static void report(unsigned id)
{
    const struct x86_form *form = &x86_forms[id];
    const char *reason = left_out_reason(form);
    bool wanted = form->treatment == X86_TREAT_COPY || form->treatment == X86_TREAT_MEM;

    if (sampled[id] == 0) {
        printf("%s: no sample\n", form->name);
        failures++;
    }
    if (encoded[id] != 0 && refused[id] != 0) {
        printf("%s: encoded %u times, refused %u times\n", form->name, encoded[id], refused[id]);
        failures++;
    }
    forms_encoded += encoded[id] != 0;
    if (!wanted) {
        if ((encoded[id] != 0) != is_listed(can_too, form->mnemonic)) {
            printf("%s: a helper's form is %sencoded\n", form->name, encoded[id] ? "" : "not ");
            failures++;
        }
        return;
    }
    if (encoded[id] == 0 && reason != NULL) {
        printf("not encoded: %s: %s\n", form->name, reason);
        return;
    }
    if (encoded[id] != 0 && reason == NULL)
        return;
    printf("%s: %s\n", form->name,
           reason == NULL ? "not encoded, no reason given" : "encoded, but listed");
    failures++;
}

int main(int argc, char **argv)
{
    unsigned per_form = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : PER_FORM;
    uint64_t rng = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    unsigned checked = 0;

    for (unsigned id = 0; id < X86_FORM_COUNT; id++) {
        for (unsigned i = 0; i < per_form; i++) {
            struct trial t = {.s.code = i % 3};
            generate_form(&t.s, &x86_forms[id], &rng);
            if (x86_decode(&t.x, t.s.bytes, SAMPLE_BYTES, t.s.code, NULL) == X86_DECODE_OK) {
                check(&t, &rng);
                check_garbage(&t, &rng);
                checked++;
            }
        }
    }
    for (unsigned id = 0; id < X86_FORM_COUNT; id++)
        report(id);
    printf("%u samples, %u of %u forms encoded, %u failures\n", checked, forms_encoded,
           X86_FORM_COUNT, failures);
    return failures != 0;
}
