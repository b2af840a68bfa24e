// SPDX-License-Identifier: Apache-2.0
// Threaded handlers for the vector instructions that floating-point loops consist of. Each is the usual
// case of a function of exec_vector.c or exec_vector_move.c; whatever is unusual (a check that fails,
// MXCSR not in the host's register, a TLB miss, a misaligned operand) it leaves to that function.
//
// Stub handlers keep in struct interp_insn, which they share with memory_kind():
//   imm         byte offset of the stub in hostexec_stubs
//   reg, rm     byte offset of operand 0 in struct x86_cpu, low and high byte
//   disp        registers only: byte offsets of operands 1 (low half) and 2 (high half)
//   seg         memory only: number of the vector register that is operand 1 of three, else NO_VVVV
// Move and logic handlers: reg, rm, seg hold the numbers of ModRM.reg, ModRM.rm and VEX.vvvv.

#include "engine/interp/exec_vector.h"
#include "engine/interp/hot.h"

typedef uint64_t v2 __attribute__((vector_size(16), aligned(1)));
typedef uint64_t v2a __attribute__((vector_size(16)));

ALWAYS_INLINE bool ready(const struct x86_cpu *cpu, bool vex, bool fp)
{
    bool ok = vex ? (cpu->cr0 & (X86_CR0_TS | X86_CR0_PE)) == X86_CR0_PE &&
                        (cpu->cr4 & X86_CR4_OSXSAVE) && (cpu->xcr0 & 6) == 6 && !x86_v86_mode(cpu)
                  : !(cpu->cr0 & (X86_CR0_EM | X86_CR0_TS)) && (cpu->cr4 & X86_CR4_OSFXSR);
    return ok && (!fp || (cpu->fpu_resident & X86_FPU_MXCSR));
}
#define NO_VVVV 0xff
#define UNUSUAL return interp_plain(cpu, insn)

// --- stubs -------------------------------------------------------------------------------------------

ALWAYS_INLINE const struct hostexec_stub *stub_of(const struct interp_insn *insn)
{
    return (const void *)((const uint8_t *)hostexec_stubs + (uint32_t)insn->imm);
}
ALWAYS_INLINE void *operand0(struct x86_cpu *cpu, const struct interp_insn *insn)
{
    return (uint8_t *)cpu + (insn->reg | insn->rm << 8);
}
ALWAYS_INLINE void put_flags(struct x86_cpu *cpu, uint64_t r)
{
    x86_cc_put(cpu, (uint32_t)((r >> 8 & 0xd5) | (r & 1) << 11));
}

#define STUB_HANDLERS(vex, fp, flags)                                                         \
    HANDLER(stub_##vex##fp##flags##_KIND_REG)                                                 \
    {                                                                                         \
        uint32_t more = (uint32_t)insn->disp;                                                 \
        if (unlikely(!ready(cpu, vex, fp)))                                                   \
            UNUSUAL;                                                                          \
        uint64_t r =                                                                          \
            stub_of(insn)->plain(operand0(cpu, insn), (uint8_t *)cpu + (uint16_t)more,        \
                                 (uint8_t *)cpu + (more >> 16), NULL, &cpu->mxcsr, cpu->gpr); \
        if (flags)                                                                            \
            put_flags(cpu, r);                                                                \
        NEXT;                                                                                 \
    }                                                                                         \
    STUB_MEM(vex, fp, flags, KIND_FLAT)                                                       \
    STUB_MEM(vex, fp, flags, KIND_FLATX)
#define STUB_MEM(vex, fp, flags, K)                                                               \
    HANDLER(stub_##vex##fp##flags##_##K)                                                          \
    {                                                                                             \
        const struct hostexec_stub *stub = stub_of(insn);                                         \
        gva_t lin = hot_ea(cpu, insn, K);                                                         \
        struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);                                        \
        if (unlikely(!ready(cpu, vex, fp) || (lin & (stub->mem_align - 1u)) ||                    \
                     !x86_tlb_hit(e->tag_read, lin, stub->mem_size)))                             \
            UNUSUAL;                                                                              \
        void *p = (void *)(lin + e->addend);                                                      \
        uint64_t r = stub->plain(operand0(cpu, insn),                                             \
                                 vex && insn->seg != NO_VVVV ? &cpu->vec[insn->seg] : p, p, NULL, \
                                 &cpu->mxcsr, cpu->gpr);                                          \
        if (flags)                                                                                \
            put_flags(cpu, r);                                                                    \
        NEXT;                                                                                     \
    }
STUB_HANDLERS(0, 0, 0)
STUB_HANDLERS(0, 1, 0)
STUB_HANDLERS(0, 0, 1)
STUB_HANDLERS(0, 1, 1)
STUB_HANDLERS(1, 0, 0)
STUB_HANDLERS(1, 1, 0)
STUB_HANDLERS(1, 0, 1)
STUB_HANDLERS(1, 1, 1)

static uint32_t offset_of(const struct x86_insn *x, const struct hostexec_operand *o)
{
    return o->base + ((uint32_t)(((const uint8_t *)x)[o->field] & o->mask) << o->shift);
}

static interp_fn *select_stub(struct interp_insn *insn, const struct x86_insn *x,
                              enum hot_kind kind)
{
#define KINDS(vex, fp, flags)                                                \
    {                                                                        \
        stub_##vex##fp##flags##_KIND_REG, stub_##vex##fp##flags##_KIND_FLAT, \
            stub_##vex##fp##flags##_KIND_FLATX                               \
    }
    static interp_fn *const table[2][2][2][3] = {
        {{KINDS(0, 0, 0), KINDS(0, 0, 1)}, {KINDS(0, 1, 0), KINDS(0, 1, 1)}},
        {{KINDS(1, 0, 0), KINDS(1, 0, 1)}, {KINDS(1, 1, 0), KINDS(1, 1, 1)}}};
#undef KINDS
    const struct hostexec_stub *stub = &hostexec_stubs[x->aux];
    const struct x86_form *form = x86_insn_form(x);
    bool vex = stub->checks == HOSTEXEC_CHECK_AVX;
    int last = stub->operand_count - 1;

    if ((!vex && stub->checks != HOSTEXEC_CHECK_SSE) || stub->mmx || kind == KIND_SEG ||
        form->gpr_read || form->gpr_write || last < 1 || last > 2)
        return NULL;
    if (kind == KIND_REG) {
        insn->disp = (int32_t)(offset_of(x, &stub->operand[1]) |
                               (last == 2 ? offset_of(x, &stub->operand[2]) : 0) << 16);
    } else {
        // Operand 1 of two is the memory; of three, VEX.vvvv before it.
        if (stub->mem != last || stub->mem_write || (last == 2 && !vex) ||
            (last == 2 && stub->operand[1].field != offsetof(struct x86_insn, vvvv)))
            return NULL;
        insn->seg = last == 2 ? x->vvvv & 15 : NO_VVVV;
    }
    uint32_t first = offset_of(x, &stub->operand[0]);
    insn->reg = (uint8_t)first;
    insn->rm = (uint8_t)(first >> 8);
    insn->imm = (int32_t)(x->aux * sizeof(*stub));
    return table[vex][stub->exact != NULL][stub->flags][kind];
}

// --- moves and logic ---------------------------------------------------------------------------------

ALWAYS_INLINE v2a get16(const void *p)
{
    return *(const v2 *)p;
}
ALWAYS_INLINE void put16(void *p, v2a v)
{
    *(v2 *)p = v;
}
ALWAYS_INLINE void put_vec(union x86_vec *d, v2a v, bool vex)
{
    put16(d, v);
    if (vex)
        put16(&d->u64[2], (v2a){0, 0});
}

// Loads of a scalar (the rest becomes 0), of 16 or of 32 bytes.
ALWAYS_INLINE void load_vec(union x86_vec *d, const uint8_t *p, bool vex, unsigned size)
{
    v2a low = {0, 0};
    if (size < 16) {
        low[0] = hot_host_load(size * 8, p);
        put_vec(d, low, vex);
    } else if (size == 16) {
        put_vec(d, get16(p), vex);
    } else {
        v2a high = get16(p + 16);
        put16(d, get16(p));
        put16(&d->u64[2], high);
    }
}
ALWAYS_INLINE void store_vec(uint8_t *p, const union x86_vec *s, unsigned size)
{
    if (size < 16) {
        hot_host_store(size * 8, p, s->u64[0]);
    } else {
        put16(p, get16(s));
        if (size == 32)
            put16(p + 16, get16(&s->u64[2]));
    }
}

#define MOVE_MEM(name, vex, size, align, K)                                      \
    HANDLER(load_##name##_##K)                                                   \
    {                                                                            \
        gva_t lin = hot_ea(cpu, insn, K);                                        \
        struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);                       \
        if (unlikely(!ready(cpu, vex, false) || (lin & ((align)-1)) ||           \
                     !x86_tlb_hit(e->tag_read, lin, size)))                      \
            UNUSUAL;                                                             \
        load_vec(&cpu->vec[insn->reg], (uint8_t *)(lin + e->addend), vex, size); \
        NEXT;                                                                    \
    }                                                                            \
    HANDLER(store_##name##_##K)                                                  \
    {                                                                            \
        gva_t lin = hot_ea(cpu, insn, K);                                        \
        struct x86_tlb_entry *e = x86_tlb_entry(cpu, lin);                       \
        if (unlikely(!ready(cpu, vex, false) || (lin & ((align)-1)) ||           \
                     !x86_tlb_hit(e->tag_write, lin, size)))                     \
            UNUSUAL;                                                             \
        cpu->soft.insn = insn;                                                   \
        store_vec((uint8_t *)(lin + e->addend), &cpu->vec[insn->reg], size);     \
        x86_stored(cpu, e, lin, size);                                           \
        NEXT;                                                                    \
    }
#define MOVES(name, vex, size, align)           \
    MOVE_MEM(name, vex, size, align, KIND_FLAT) \
    MOVE_MEM(name, vex, size, align, KIND_FLATX)
MOVES(sse4, 0, 4, 1)
MOVES(sse8, 0, 8, 1)
MOVES(sse16, 0, 16, 1)
MOVES(sse16a, 0, 16, 16)
MOVES(avx4, 1, 4, 1)
MOVES(avx8, 1, 8, 1)
MOVES(avx16, 1, 16, 1)
MOVES(avx16a, 1, 16, 16)
MOVES(ymm32, 1, 32, 1)
MOVES(ymm32a, 1, 32, 32)

#define REGISTERS(name, vex, ymm)                                                    \
    HANDLER(copy_##name)                                                             \
    {                                                                                \
        if (unlikely(!ready(cpu, vex, false)))                                       \
            UNUSUAL;                                                                 \
        load_vec(&cpu->vec[insn->reg], cpu->vec[insn->rm].u8, vex, (ymm) ? 32 : 16); \
        NEXT;                                                                        \
    }                                                                                \
    HANDLER(xor_##name)                                                              \
    {                                                                                \
        if (unlikely(!ready(cpu, vex, false)))                                       \
            UNUSUAL;                                                                 \
        const union x86_vec *a = &cpu->vec[insn->seg], *c = &cpu->vec[insn->rm];     \
        v2a low = get16(a) ^ get16(c), high = get16(&a->u64[2]) ^ get16(&c->u64[2]); \
        put_vec(&cpu->vec[insn->reg], low, vex);                                     \
        if (ymm)                                                                     \
            put16(&cpu->vec[insn->reg].u64[2], high);                                \
        NEXT;                                                                        \
    }
REGISTERS(sse, 0, 0)
REGISTERS(avx, 1, 0)
REGISTERS(ymm, 1, 1)

#define GENERAL(name, vex, bits)                                                          \
    HANDLER(from_gpr##bits##_##name)                                                      \
    {                                                                                     \
        if (unlikely(!ready(cpu, vex, false)))                                            \
            UNUSUAL;                                                                      \
        put_vec(&cpu->vec[insn->reg], (v2a){(uint##bits##_t)cpu->gpr[insn->rm], 0}, vex); \
        NEXT;                                                                             \
    }                                                                                     \
    HANDLER(to_gpr##bits##_##name)                                                        \
    {                                                                                     \
        if (unlikely(!ready(cpu, vex, false)))                                            \
            UNUSUAL;                                                                      \
        cpu->gpr[insn->rm] = (uint##bits##_t)cpu->vec[insn->reg].u64[0];                  \
        NEXT;                                                                             \
    }
GENERAL(sse, 0, 32)
GENERAL(sse, 0, 64)
GENERAL(avx, 1, 32)
GENERAL(avx, 1, 64)

static interp_fn *select_move(struct interp_insn *insn, const struct x86_insn *x,
                              interp_exec_fn *exec, enum hot_kind kind)
{
#define PAIR(name)                          \
    {                                       \
        name##_KIND_FLAT, name##_KIND_FLATX \
    }
    static interp_fn *const memory[VECTOR_MOVES][2] = {
        [VECTOR_LOAD4_SSE] = PAIR(load_sse4),   [VECTOR_LOAD8_SSE] = PAIR(load_sse8),
        [VECTOR_LOAD_SSE] = PAIR(load_sse16),   [VECTOR_LOAD_A_SSE] = PAIR(load_sse16a),
        [VECTOR_STORE4_SSE] = PAIR(store_sse4), [VECTOR_STORE8_SSE] = PAIR(store_sse8),
        [VECTOR_STORE_SSE] = PAIR(store_sse16), [VECTOR_STORE_A_SSE] = PAIR(store_sse16a),
        [VECTOR_LOAD4_AVX] = PAIR(load_avx4),   [VECTOR_LOAD8_AVX] = PAIR(load_avx8),
        [VECTOR_LOAD_AVX] = PAIR(load_avx16),   [VECTOR_LOAD_A_AVX] = PAIR(load_avx16a),
        [VECTOR_STORE4_AVX] = PAIR(store_avx4), [VECTOR_STORE8_AVX] = PAIR(store_avx8),
        [VECTOR_STORE_AVX] = PAIR(store_avx16), [VECTOR_STORE_A_AVX] = PAIR(store_avx16a),
        [VECTOR_LOAD_YMM] = PAIR(load_ymm32),   [VECTOR_LOAD_A_YMM] = PAIR(load_ymm32a),
        [VECTOR_STORE_YMM] = PAIR(store_ymm32), [VECTOR_STORE_A_YMM] = PAIR(store_ymm32a),
    };
#undef PAIR
    static interp_fn *const registers[VECTOR_MOVES] = {
        [VECTOR_COPY_SSE] = copy_sse,
        [VECTOR_XOR_SSE] = xor_sse,
        [VECTOR_COPY_AVX] = copy_avx,
        [VECTOR_XOR_AVX] = xor_avx,
        [VECTOR_COPY_YMM] = copy_ymm,
        [VECTOR_XOR_YMM] = xor_ymm,
        [VECTOR_FROM_GPR4_SSE] = from_gpr32_sse,
        [VECTOR_FROM_GPR8_SSE] = from_gpr64_sse,
        [VECTOR_TO_GPR4_SSE] = to_gpr32_sse,
        [VECTOR_TO_GPR8_SSE] = to_gpr64_sse,
        [VECTOR_FROM_GPR4_AVX] = from_gpr32_avx,
        [VECTOR_FROM_GPR8_AVX] = from_gpr64_avx,
        [VECTOR_TO_GPR4_AVX] = to_gpr32_avx,
        [VECTOR_TO_GPR8_AVX] = to_gpr64_avx,
    };
    enum vector_move move = vector_move_of(exec);
    bool vex = (x86_insn_form(x)->attr & X86_INSN_VEX) != 0;

    insn->reg = x->reg & 15;
    insn->rm = x->rm & 15;
    if (kind == KIND_REG)
        insn->seg = vex ? x->vvvv & 15 : insn->reg;
    return kind == KIND_SEG   ? NULL
           : kind == KIND_REG ? registers[move]
                              : memory[move][kind - KIND_FLAT];
}

interp_fn *hot_select_vector(struct interp_insn *insn, const struct interp_detail *detail,
                             enum hot_kind kind)
{
    const struct x86_insn *x = &detail->x;
    uint32_t attr = x86_insn_form(x)->attr;
    if (!(attr & (X86_INSN_SSE | X86_INSN_VEX)) || (attr & X86_INSN_X87))
        return NULL;
    return x->aux != 0 ? select_stub(insn, x, kind) : select_move(insn, x, detail->exec, kind);
}
