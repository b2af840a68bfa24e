// SPDX-License-Identifier: Apache-2.0
// MMX, SSE and AVX instructions: chooses the function for a decoded one, and executes those that
// need nothing but the host's instruction on the guest's registers (x86/hostexec.h).
//
// Rule to keep: insn->aux is the stub number for the functions of this file; the others ignore it.

#include "engine/interp/exec_vector.h"
#include "x86/flags.h"

#include <string.h>

void vector_mmx_done(struct x86_cpu *cpu, int written)
{
    struct x86_x87 *x = &cpu->x87;
    if ((x->fsw & 0x3800) != 0 || (x->ftw & (x->ftw >> 1) & 0x5555) != 0) {
        unsigned tags = 0;
        for (unsigned i = 0; i < 8; i++)
            tags |= x86_x87_tag(x->reg[i]) << (2 * i);
        x->ftw = (uint16_t)tags;
        x->fsw &= (uint16_t)~0x3800;
    }
    if (written >= 0) {
        x->reg[written][8] = x->reg[written][9] = 0xff;
        x->ftw = (uint16_t)((x->ftw & ~(3 << (2 * written))) | (2 << (2 * written)));
    }
}

// MXCSR in the host's register when that is safe, else around each instruction.
ALWAYS_INLINE hostexec_fn *fp_code(struct x86_cpu *cpu, const struct hostexec_stub *stub)
{
    if (likely(cpu->fpu_resident & X86_FPU_MXCSR) || x86_fpu_load_mxcsr(cpu))
        return stub->plain;
    return stub->exact;
}

static inline const struct hostexec_stub *stub_of(const struct x86_insn *insn)
{
    return &hostexec_stubs[insn->aux];
}

// --- any shape -----------------------------------------------------------------------------------

static void check_all(struct x86_cpu *cpu, unsigned checks)
{
    if (checks & HOSTEXEC_CHECK_SSE)
        vector_check_sse(cpu);
    if (checks & HOSTEXEC_CHECK_AVX)
        vector_check_avx(cpu);
    if (checks & HOSTEXEC_CHECK_MMX)
        vector_check_mmx(cpu);
}

static void exec_generic(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    const struct hostexec_stub *stub = stub_of(insn);
    union x86_vec bounce;
    struct vector_store store = {0};
    uint8_t *p[X86_HOST_OPERANDS];

    check_all(cpu, stub->checks);
    if (stub->mmx)
        x86_fpu_sync(cpu);
    for (unsigned k = 0; k < X86_HOST_OPERANDS; k++) {
        const struct hostexec_operand *o = &stub->operand[k];
        unsigned n = ((const uint8_t *)insn)[o->field] & o->mask;
        p[k] = (uint8_t *)cpu + o->base + (n << o->shift);
    }
    if (stub->mem >= 0) {
        if (stub->mem_write)
            p[stub->mem] = vector_store_begin(cpu, insn, interp_ea(cpu, insn), stub->mem_size,
                                              stub->mem_align, bounce.u8, &store);
        else
            p[stub->mem] = vector_read(cpu, insn, stub->mem_size, stub->mem_align, bounce.u8);
    }
    hostexec_fn *code = stub->exact != NULL ? fp_code(cpu, stub) : stub->plain;
    uint64_t r = code(p[0], p[1], p[2], p[3], &cpu->mxcsr, cpu->gpr);
    if (unlikely(r >> 62)) {
        if (stub->mmx) {
            __asm__ volatile("emms");
            vector_mmx_done(cpu, -1); // the transition happens all the same
        }
        vector_check_trap(cpu, r);
    }
    if (stub->mem_write)
        vector_store_end(cpu, insn, stub->mem_size, &store);
    if (stub->flags)
        x86_cc_put(cpu, (uint32_t)((r >> 8 & 0xd5) | (r & 1) << 11));
    if (stub->mmx) {
        int written = -1;
        if (stub->mmx_written != 0)
            written = ((const uint8_t *)insn)[stub->operand[stub->mmx_written - 1].field] & 7;
        vector_mmx_done(cpu, written);
    }
}

// --- the common shapes ---------------------------------------------------------------------------

// Legacy SSE: xmm, xmm/m. `fp`: MXCSR matters.
ALWAYS_INLINE void sse2op(struct x86_cpu *cpu, const struct x86_insn *insn, bool mem, bool fp)
{
    const struct hostexec_stub *stub = stub_of(insn);
    union x86_vec bounce;
    void *src = &cpu->vec[insn->rm & 15];

    vector_check_sse(cpu);
    if (mem)
        src = vector_read(cpu, insn, stub->mem_size, stub->mem_align, bounce.u8);
    hostexec_fn *code = fp ? fp_code(cpu, stub) : stub->plain;
    uint64_t r = code(&cpu->vec[insn->reg & 15], src, NULL, NULL, &cpu->mxcsr, NULL);
    vector_check_trap(cpu, r);
}
// AVX: xmm/ymm, xmm/ymm, xmm/ymm/m.
ALWAYS_INLINE void avx3op(struct x86_cpu *cpu, const struct x86_insn *insn, bool mem, bool fp)
{
    const struct hostexec_stub *stub = stub_of(insn);
    union x86_vec bounce;
    void *src = &cpu->vec[insn->rm & 15];

    vector_check_avx(cpu);
    if (mem)
        src = vector_read(cpu, insn, stub->mem_size, 1, bounce.u8);
    hostexec_fn *code = fp ? fp_code(cpu, stub) : stub->plain;
    uint64_t r =
        code(&cpu->vec[insn->reg & 15], &cpu->vec[insn->vvvv & 15], src, NULL, &cpu->mxcsr, NULL);
    vector_check_trap(cpu, r);
}
#define SHAPE(name, fn, mem, fp)                                       \
    static void name(struct x86_cpu *cpu, const struct x86_insn *insn) \
    {                                                                  \
        fn(cpu, insn, mem, fp);                                        \
    }
SHAPE(exec_sse_rr, sse2op, false, false)
SHAPE(exec_sse_rm, sse2op, true, false)
SHAPE(exec_sse_rr_fp, sse2op, false, true)
SHAPE(exec_sse_rm_fp, sse2op, true, true)
SHAPE(exec_avx_rrr, avx3op, false, false)
SHAPE(exec_avx_rrm, avx3op, true, false)
SHAPE(exec_avx_rrr_fp, avx3op, false, true)
SHAPE(exec_avx_rrm_fp, avx3op, true, true)

static bool has_shape(const struct hostexec_stub *stub, const uint8_t *fields, unsigned count)
{
    if (stub->operand_count != count || stub->flags || stub->mmx || stub->mem_write)
        return false;
    for (unsigned k = 0; k < count; k++) {
        const struct hostexec_operand *o = &stub->operand[k];
        if (k == (unsigned)stub->mem ? k != count - 1
                                     : o->field != fields[k] || o->mask != 15 ||
                                           o->base != offsetof(struct x86_cpu, vec))
            return false;
    }
    return true;
}

static interp_exec_fn *select_stub(const struct x86_insn *insn)
{
    static const uint8_t two[] = {offsetof(struct x86_insn, reg), offsetof(struct x86_insn, rm)};
    static const uint8_t three[] = {offsetof(struct x86_insn, reg), offsetof(struct x86_insn, vvvv),
                                    offsetof(struct x86_insn, rm)};
    const struct hostexec_stub *stub = stub_of(insn);
    bool mem = stub->mem >= 0, fp = stub->exact != NULL;
    if (x86_insn_form(insn)->gpr_read | x86_insn_form(insn)->gpr_write)
        return exec_generic;
    if (stub->checks == HOSTEXEC_CHECK_SSE && has_shape(stub, two, 2))
        return mem ? (fp ? exec_sse_rm_fp : exec_sse_rm) : (fp ? exec_sse_rr_fp : exec_sse_rr);
    if (stub->checks == HOSTEXEC_CHECK_AVX && has_shape(stub, three, 3))
        return mem ? (fp ? exec_avx_rrm_fp : exec_avx_rrm) : (fp ? exec_avx_rrr_fp : exec_avx_rrr);
    return exec_generic;
}

// --- instructions without operands ---------------------------------------------------------------

static void exec_emms(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_mmx(cpu);
    x86_fpu_sync(cpu);
    cpu->x87.fsw &= (uint16_t)~0x3800;
    cpu->x87.ftw = 0xffff;
}

static void exec_vzeroupper(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_avx(cpu);
    unsigned count = cpu->code_size == X86_CODE64 ? 16 : 8;
    for (unsigned i = 0; i < count; i++)
        cpu->vec[i].u64[2] = cpu->vec[i].u64[3] = 0;
}

static void exec_vzeroall(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_avx(cpu);
    unsigned count = cpu->code_size == X86_CODE64 ? 16 : 8;
    memset(cpu->vec, 0, count * sizeof(cpu->vec[0]));
}

interp_exec_fn *interp_select_vector(struct x86_insn *insn)
{
    const struct x86_form *form = x86_insn_form(insn);
    interp_exec_fn *fn;

    if (form->attr & X86_INSN_X87)
        return x87_select(insn);
    if (!(form->attr & (X86_INSN_MMX | X86_INSN_SSE | X86_INSN_VEX)))
        return NULL;
    if (strcmp(form->mnemonic, "emms") == 0)
        return exec_emms;
    if (strcmp(form->mnemonic, "vzeroupper") == 0)
        return exec_vzeroupper;
    if (strcmp(form->mnemonic, "vzeroall") == 0)
        return exec_vzeroall;
    if ((fn = vector_select_mask(insn)) != NULL || (fn = vector_select_move(insn)) != NULL)
        return fn;
    insn->aux = hostexec_stub_find(insn);
    return insn->aux != 0 ? select_stub(insn) : NULL;
}
