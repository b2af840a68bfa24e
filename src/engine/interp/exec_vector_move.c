// SPDX-License-Identifier: Apache-2.0
// Vector moves and logic that C does exactly and faster than a stub would: whole registers,
// scalars, MOVD and MOVQ, AND/ANDN/OR/XOR. A register is read and written as a whole where
// possible, so that the host forwards the store to the next instruction's load.

#include "engine/interp/exec_vector.h"

#include <string.h>

typedef uint64_t v2 __attribute__((vector_size(16), aligned(1)));
typedef uint64_t v2a __attribute__((vector_size(16)));

ALWAYS_INLINE v2a load16(const void *p)
{
    return *(const v2 *)p;
}
ALWAYS_INLINE void store16(void *p, v2a v)
{
    *(v2 *)p = v;
}
ALWAYS_INLINE union x86_vec *reg_of(struct x86_cpu *cpu, uint8_t n)
{
    return &cpu->vec[n & 15];
}
ALWAYS_INLINE void check(struct x86_cpu *cpu, bool vex)
{
    if (vex)
        vector_check_avx(cpu);
    else
        vector_check_sse(cpu);
}
// A 16-byte result: VEX clears what is above, legacy keeps it.
ALWAYS_INLINE void put16(union x86_vec *d, v2a v, bool vex)
{
    store16(d, v);
    if (vex)
        store16(&d->u64[2], (v2a){0, 0});
}

// --- whole registers -----------------------------------------------------------------------------

ALWAYS_INLINE void full_load(struct x86_cpu *cpu, const struct x86_insn *insn, bool vex,
                             unsigned size, unsigned align)
{
    union x86_vec bounce, *d = reg_of(cpu, insn->reg);
    check(cpu, vex);
    const uint8_t *p = vector_read(cpu, insn, size, align, bounce.u8);
    v2a low = load16(p);
    if (size == 32) {
        v2a high = load16(p + 16);
        store16(d, low);
        store16(&d->u64[2], high);
    } else {
        put16(d, low, vex);
    }
}
ALWAYS_INLINE void full_store(struct x86_cpu *cpu, const struct x86_insn *insn, bool vex,
                              unsigned size, unsigned align)
{
    union x86_vec bounce, *s = reg_of(cpu, insn->reg);
    struct vector_store store;
    check(cpu, vex);
    uint8_t *p =
        vector_store_begin(cpu, insn, interp_ea(cpu, insn), size, align, bounce.u8, &store);
    store16(p, load16(s));
    if (size == 32)
        store16(p + 16, load16(&s->u64[2]));
    vector_store_end(cpu, insn, size, &store);
}
ALWAYS_INLINE void full_copy(struct x86_cpu *cpu, uint8_t to, uint8_t from, bool vex, unsigned size)
{
    union x86_vec *d = reg_of(cpu, to), *s = reg_of(cpu, from);
    check(cpu, vex);
    v2a low = load16(s);
    if (size == 32) {
        v2a high = load16(&s->u64[2]);
        store16(d, low);
        store16(&d->u64[2], high);
    } else {
        put16(d, low, vex);
    }
}

#define DEFINE(name, call)                                             \
    static void name(struct x86_cpu *cpu, const struct x86_insn *insn) \
    {                                                                  \
        call;                                                          \
    }
DEFINE(load_sse, full_load(cpu, insn, false, 16, 1))
DEFINE(load_sse_a, full_load(cpu, insn, false, 16, 16))
DEFINE(load_avx, full_load(cpu, insn, true, 16, 1))
DEFINE(load_avx_a, full_load(cpu, insn, true, 16, 16))
DEFINE(load_ymm, full_load(cpu, insn, true, 32, 1))
DEFINE(load_ymm_a, full_load(cpu, insn, true, 32, 32))
DEFINE(store_sse, full_store(cpu, insn, false, 16, 1))
DEFINE(store_sse_a, full_store(cpu, insn, false, 16, 16))
DEFINE(store_avx, full_store(cpu, insn, true, 16, 1))
DEFINE(store_avx_a, full_store(cpu, insn, true, 16, 16))
DEFINE(store_ymm, full_store(cpu, insn, true, 32, 1))
DEFINE(store_ymm_a, full_store(cpu, insn, true, 32, 32))
DEFINE(copy_sse, full_copy(cpu, insn->reg, insn->rm, false, 16))
DEFINE(copy_avx, full_copy(cpu, insn->reg, insn->rm, true, 16))
DEFINE(copy_ymm, full_copy(cpu, insn->reg, insn->rm, true, 32))
DEFINE(copy_sse_back, full_copy(cpu, insn->rm, insn->reg, false, 16))
DEFINE(copy_avx_back, full_copy(cpu, insn->rm, insn->reg, true, 16))
DEFINE(copy_ymm_back, full_copy(cpu, insn->rm, insn->reg, true, 32))

static interp_exec_fn *select_full(const struct x86_insn *insn, const struct x86_form *form)
{
    static interp_exec_fn *const load[3][2] = {
        {load_sse, load_sse_a}, {load_avx, load_avx_a}, {load_ymm, load_ymm_a}};
    static interp_exec_fn *const store[3][2] = {
        {store_sse, store_sse_a}, {store_avx, store_avx_a}, {store_ymm, store_ymm_a}};
    static interp_exec_fn *const copy[3][2] = {
        {copy_sse, copy_sse_back}, {copy_avx, copy_avx_back}, {copy_ymm, copy_ymm_back}};
    unsigned width = !(form->attr & X86_INSN_VEX) ? 0 : insn->vex_l ? 2 : 1;
    bool back = form->operand[0].kind != X86_OPND_VEC_REG;
    bool align = (form->attr & X86_INSN_ALIGN) != 0;
    if (!insn->has_mem)
        return copy[width][back];
    return back ? store[width][align] : load[width][align];
}

// --- scalars -------------------------------------------------------------------------------------

// MOVSS, MOVSD, MOVQ, MOVD from memory: the rest of the register becomes 0.
ALWAYS_INLINE void scalar_load(struct x86_cpu *cpu, const struct x86_insn *insn, bool vex,
                               unsigned size)
{
    uint64_t bounce = 0, v = 0;
    check(cpu, vex);
    memcpy(&v, vector_read(cpu, insn, size, 1, &bounce), size);
    put16(reg_of(cpu, insn->reg), (v2a){v, 0}, vex);
}
ALWAYS_INLINE void scalar_store(struct x86_cpu *cpu, const struct x86_insn *insn, bool vex,
                                unsigned size)
{
    uint64_t bounce;
    struct vector_store store;
    check(cpu, vex);
    void *p = vector_store_begin(cpu, insn, interp_ea(cpu, insn), size, 1, &bounce, &store);
    memcpy(p, reg_of(cpu, insn->reg), size);
    vector_store_end(cpu, insn, size, &store);
}
// MOVSS, MOVSD between registers: `from` gives the low element, `base` the rest.
ALWAYS_INLINE void scalar_merge(struct x86_cpu *cpu, uint8_t to, uint8_t base, uint8_t from,
                                bool vex, unsigned size)
{
    check(cpu, vex);
    v2a v = load16(reg_of(cpu, base)), s = load16(reg_of(cpu, from));
    v[0] = size == 8 ? s[0] : (v[0] & ~UINT64_C(0xffffffff)) | (uint32_t)s[0];
    put16(reg_of(cpu, to), v, vex);
}
// MOVQ xmm, xmm: clears the upper half.
ALWAYS_INLINE void scalar_copy(struct x86_cpu *cpu, uint8_t to, uint8_t from, bool vex)
{
    check(cpu, vex);
    put16(reg_of(cpu, to), (v2a){reg_of(cpu, from)->u64[0], 0}, vex);
}
ALWAYS_INLINE void from_gpr(struct x86_cpu *cpu, const struct x86_insn *insn, bool vex,
                            unsigned size)
{
    check(cpu, vex);
    uint64_t v = cpu->gpr[insn->rm & 15];
    put16(reg_of(cpu, insn->reg), (v2a){size == 8 ? v : (uint32_t)v, 0}, vex);
}
ALWAYS_INLINE void to_gpr(struct x86_cpu *cpu, const struct x86_insn *insn, bool vex, unsigned size)
{
    check(cpu, vex);
    const union x86_vec *s = reg_of(cpu, insn->reg);
    cpu->gpr[insn->rm & 15] = size == 8 ? s->u64[0] : s->u32[0];
}
#define SCALARS(v, vex)                                                \
    DEFINE(load4_##v, scalar_load(cpu, insn, vex, 4))                  \
    DEFINE(load8_##v, scalar_load(cpu, insn, vex, 8))                  \
    DEFINE(store4_##v, scalar_store(cpu, insn, vex, 4))                \
    DEFINE(store8_##v, scalar_store(cpu, insn, vex, 8))                \
    DEFINE(copyq_##v, scalar_copy(cpu, insn->reg, insn->rm, vex))      \
    DEFINE(copyq_back_##v, scalar_copy(cpu, insn->rm, insn->reg, vex)) \
    DEFINE(from_gpr4_##v, from_gpr(cpu, insn, vex, 4))                 \
    DEFINE(from_gpr8_##v, from_gpr(cpu, insn, vex, 8))                 \
    DEFINE(to_gpr4_##v, to_gpr(cpu, insn, vex, 4))                     \
    DEFINE(to_gpr8_##v, to_gpr(cpu, insn, vex, 8))
SCALARS(sse, false)
SCALARS(avx, true)
DEFINE(merge4_sse, scalar_merge(cpu, insn->reg, insn->reg, insn->rm, false, 4))
DEFINE(merge8_sse, scalar_merge(cpu, insn->reg, insn->reg, insn->rm, false, 8))
DEFINE(merge4_back_sse, scalar_merge(cpu, insn->rm, insn->rm, insn->reg, false, 4))
DEFINE(merge8_back_sse, scalar_merge(cpu, insn->rm, insn->rm, insn->reg, false, 8))
DEFINE(merge4_avx, scalar_merge(cpu, insn->reg, insn->vvvv, insn->rm, true, 4))
DEFINE(merge8_avx, scalar_merge(cpu, insn->reg, insn->vvvv, insn->rm, true, 8))
DEFINE(merge4_back_avx, scalar_merge(cpu, insn->rm, insn->vvvv, insn->reg, true, 4))
DEFINE(merge8_back_avx, scalar_merge(cpu, insn->rm, insn->vvvv, insn->reg, true, 8))

static interp_exec_fn *select_merge(const struct x86_insn *insn, const struct x86_form *form,
                                    bool wide)
{
    static interp_exec_fn *const merge[2][2][2] = {
        {{merge4_sse, merge8_sse}, {merge4_back_sse, merge8_back_sse}},
        {{merge4_avx, merge8_avx}, {merge4_back_avx, merge8_back_avx}}};
    static interp_exec_fn *const mem[2][2][2] = {
        {{load4_sse, load8_sse}, {store4_sse, store8_sse}},
        {{load4_avx, load8_avx}, {store4_avx, store8_avx}}};
    bool vex = (form->attr & X86_INSN_VEX) != 0;
    bool back = form->operand[0].kind != X86_OPND_VEC_REG;
    return insn->has_mem ? mem[vex][back][wide] : merge[vex][back][wide];
}

// MOVD and MOVQ between a vector register and a vector register, a general register or memory.
static interp_exec_fn *select_movd(const struct x86_insn *insn, const struct x86_form *form)
{
    static interp_exec_fn *const mem[2][2][2] = {
        {{load4_sse, load8_sse}, {store4_sse, store8_sse}},
        {{load4_avx, load8_avx}, {store4_avx, store8_avx}}};
    static interp_exec_fn *const gpr[2][2][2] = {
        {{from_gpr4_sse, from_gpr8_sse}, {to_gpr4_sse, to_gpr8_sse}},
        {{from_gpr4_avx, from_gpr8_avx}, {to_gpr4_avx, to_gpr8_avx}}};
    static interp_exec_fn *const vec[2][2] = {{copyq_sse, copyq_back_sse},
                                              {copyq_avx, copyq_back_avx}};
    bool vex = (form->attr & X86_INSN_VEX) != 0;
    bool back = form->operand[0].kind != X86_OPND_VEC_REG;
    const struct x86_operand_desc *rm = &form->operand[!back];
    bool wide = rm->vary == 'y' ? insn->opsize == 8 : rm->size == 8;

    if (form->operand_count != 2 || form->operand[back].kind != X86_OPND_VEC_REG ||
        (rm->size != 4 && rm->size != 8 && rm->vary != 'y'))
        return NULL;
    if (insn->has_mem)
        return mem[vex][back][wide];
    if (rm->kind == X86_OPND_VEC_RM)
        return vec[vex][back];
    return rm->kind == X86_OPND_RM || rm->kind == X86_OPND_RM_REG ? gpr[vex][back][wide] : NULL;
}

// --- logic ---------------------------------------------------------------------------------------

enum logic {
    LOGIC_AND,
    LOGIC_ANDN,
    LOGIC_OR,
    LOGIC_XOR
};

ALWAYS_INLINE v2a logic_op(enum logic op, v2a a, v2a b)
{
    switch (op) {
    case LOGIC_AND:
        return a & b;
    case LOGIC_ANDN:
        return ~a & b;
    case LOGIC_OR:
        return a | b;
    default:
        return a ^ b;
    }
}
ALWAYS_INLINE void logic(struct x86_cpu *cpu, const struct x86_insn *insn, enum logic op, bool mem,
                         bool vex, unsigned size)
{
    union x86_vec bounce, *d = reg_of(cpu, insn->reg);
    const uint8_t *a = vex ? reg_of(cpu, insn->vvvv)->u8 : d->u8;
    const uint8_t *b = reg_of(cpu, insn->rm)->u8;
    check(cpu, vex);
    if (mem)
        b = vector_read(cpu, insn, size, vex ? 1 : 16, bounce.u8);
    v2a low = logic_op(op, load16(a), load16(b));
    if (size == 32) {
        v2a high = logic_op(op, load16(a + 16), load16(b + 16));
        store16(d, low);
        store16(&d->u64[2], high);
    } else {
        put16(d, low, vex);
    }
}
#define LOGIC(name, op)                                         \
    DEFINE(name##_sse, logic(cpu, insn, op, false, false, 16))  \
    DEFINE(name##_sse_m, logic(cpu, insn, op, true, false, 16)) \
    DEFINE(name##_avx, logic(cpu, insn, op, false, true, 16))   \
    DEFINE(name##_avx_m, logic(cpu, insn, op, true, true, 16))  \
    DEFINE(name##_ymm, logic(cpu, insn, op, false, true, 32))   \
    DEFINE(name##_ymm_m, logic(cpu, insn, op, true, true, 32))
LOGIC(and, LOGIC_AND)
LOGIC(andn, LOGIC_ANDN)
LOGIC(or, LOGIC_OR)
LOGIC(xor, LOGIC_XOR)

static interp_exec_fn *select_logic(const struct x86_insn *insn, const struct x86_form *form,
                                    enum logic op)
{
#define ROW(name)                                               \
    {                                                           \
        {name##_sse, name##_sse_m}, {name##_avx, name##_avx_m}, \
        {                                                       \
            name##_ymm, name##_ymm_m                            \
        }                                                       \
    }
    static interp_exec_fn *const table[4][3][2] = {ROW(and), ROW(andn), ROW(or), ROW(xor)};
#undef ROW
    unsigned width = !(form->attr & X86_INSN_VEX) ? 0 : insn->vex_l ? 2 : 1;
    return table[op][width][insn->has_mem != 0];
}

// --- selection -----------------------------------------------------------------------------------

static bool named(const char *mnemonic, const char *const *names)
{
    for (; *names != NULL; names++) {
        if (strcmp(mnemonic, *names) == 0)
            return true;
    }
    return false;
}

interp_exec_fn *vector_select_move(const struct x86_insn *insn)
{
    static const char *const full[] = {"movaps",  "movups",  "movapd",   "movupd",
                                       "movdqa",  "movdqu",  "lddqu",    "movntps",
                                       "movntpd", "movntdq", "movntdqa", NULL};
    static const char *const logics[4][5] = {{"pand", "andps", "andpd", NULL},
                                             {"pandn", "andnps", "andnpd", NULL},
                                             {"por", "orps", "orpd", NULL},
                                             {"pxor", "xorps", "xorpd", NULL}};
    const struct x86_form *form = x86_insn_form(insn);
    const char *m = form->mnemonic;

    if (form->operand_count < 2 || (form->attr & X86_INSN_MMX) ||
        !hostexec_has(form->feature)) // a model may not offer what the host lacks
        return NULL;
    if ((form->attr & X86_INSN_VEX) && m[0] == 'v')
        m++;
    for (unsigned i = 0; i < form->operand_count; i++) {
        if (form->operand[i].kind == X86_OPND_MMX_REG || form->operand[i].kind == X86_OPND_MMX_RM ||
            form->operand[i].kind == X86_OPND_MMX_RM_REG)
            return NULL;
    }
    if (named(m, full))
        return select_full(insn, form);
    if (strcmp(m, "movss") == 0)
        return select_merge(insn, form, false);
    if (strcmp(m, "movsd") == 0)
        return select_merge(insn, form, true);
    if (strcmp(m, "movd") == 0 || strcmp(m, "movq") == 0)
        return select_movd(insn, form);
    for (unsigned op = 0; op < 4; op++) {
        if (named(m, logics[op]))
            return select_logic(insn, form, op);
    }
    return NULL;
}

enum vector_move vector_move_of(interp_exec_fn *fn)
{
    static interp_exec_fn *const table[] = {
        [VECTOR_LOAD4_SSE] = load4_sse,         [VECTOR_LOAD8_SSE] = load8_sse,
        [VECTOR_LOAD_SSE] = load_sse,           [VECTOR_LOAD_A_SSE] = load_sse_a,
        [VECTOR_STORE4_SSE] = store4_sse,       [VECTOR_STORE8_SSE] = store8_sse,
        [VECTOR_STORE_SSE] = store_sse,         [VECTOR_STORE_A_SSE] = store_sse_a,
        [VECTOR_COPY_SSE] = copy_sse,           [VECTOR_XOR_SSE] = xor_sse,
        [VECTOR_FROM_GPR4_SSE] = from_gpr4_sse, [VECTOR_FROM_GPR8_SSE] = from_gpr8_sse,
        [VECTOR_TO_GPR4_SSE] = to_gpr4_sse,     [VECTOR_TO_GPR8_SSE] = to_gpr8_sse,
        [VECTOR_LOAD4_AVX] = load4_avx,         [VECTOR_LOAD8_AVX] = load8_avx,
        [VECTOR_LOAD_AVX] = load_avx,           [VECTOR_LOAD_A_AVX] = load_avx_a,
        [VECTOR_STORE4_AVX] = store4_avx,       [VECTOR_STORE8_AVX] = store8_avx,
        [VECTOR_STORE_AVX] = store_avx,         [VECTOR_STORE_A_AVX] = store_avx_a,
        [VECTOR_COPY_AVX] = copy_avx,           [VECTOR_XOR_AVX] = xor_avx,
        [VECTOR_FROM_GPR4_AVX] = from_gpr4_avx, [VECTOR_FROM_GPR8_AVX] = from_gpr8_avx,
        [VECTOR_TO_GPR4_AVX] = to_gpr4_avx,     [VECTOR_TO_GPR8_AVX] = to_gpr8_avx,
        [VECTOR_LOAD_YMM] = load_ymm,           [VECTOR_LOAD_A_YMM] = load_ymm_a,
        [VECTOR_STORE_YMM] = store_ymm,         [VECTOR_STORE_A_YMM] = store_ymm_a,
        [VECTOR_COPY_YMM] = copy_ymm,           [VECTOR_XOR_YMM] = xor_ymm,
    };
    for (unsigned i = 1; i < ARRAY_SIZE(table); i++) {
        if (table[i] == fn)
            return i;
    }
    return VECTOR_MOVE_NONE;
}
