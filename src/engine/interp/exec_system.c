// SPDX-License-Identifier: Apache-2.0
// Plain functions: ports, flags with privilege, descriptor tables, control registers, MSRs, CPUID, time,
// randomness, caches, state saving. Their meaning is in x86/ (system.h); here are operands and privilege.
// CPL 0 where the table says so, and #UD outside protected mode, are checked by the wrapper.
#include "engine/interp/block.h"
#include "engine/interp/exec.h"
#include "x86/fpu.h"
#include <sched.h>
#include <sys/random.h>

// --- ports ---------------------------------------------------------------------------------------------------

static void in(struct x86_cpu *cpu, const struct x86_insn *x, uint16_t port)
{
    unsigned size = x->opsize > 4 ? 4 : x->opsize;
    x86_check_io(cpu, port, size);
    x86_fpu_sync(cpu);
    interp_put(cpu, X86_RAX, size, memory_pio_read(cpu->platform->memory, port, size));
    if (unlikely(x86_debug_armed(cpu)))
        x86_debug_check_io(cpu, port, size);
}
static void out(struct x86_cpu *cpu, const struct x86_insn *x, uint16_t port)
{
    unsigned size = x->opsize > 4 ? 4 : x->opsize;
    x86_check_io(cpu, port, size);
    x86_fpu_sync(cpu);
    memory_pio_write(cpu->platform->memory, port, interp_get(cpu, X86_RAX, size), size);
    if (unlikely(x86_debug_armed(cpu)))
        x86_debug_check_io(cpu, port, size);
}
EXEC(in_imm)
{
    in(cpu, x, (uint8_t)x->imm);
}
EXEC(in_dx)
{
    in(cpu, x, (uint16_t)cpu->gpr[X86_RDX]);
}
EXEC(out_imm)
{
    out(cpu, x, (uint8_t)x->imm);
}
EXEC(out_dx)
{
    out(cpu, x, (uint16_t)cpu->gpr[X86_RDX]);
}

// --- flags, halting -------------------------------------------------------------------------------------------

EXEC(cli)
{
    x86_cli(cpu);
}
EXEC(sti)
{
    x86_sti(cpu);
}
// SDM vol. 2, CLAC: #UD, not #GP, outside CPL 0.
EXEC(clac)
{
    if (cpu->cpl != 0)
        x86_raise(cpu, X86_UD);
    cpu->rflags &= ~(uint64_t)X86_FLAG_AC;
    x86_mode_changed(cpu);
}
EXEC(stac)
{
    if (cpu->cpl != 0)
        x86_raise(cpu, X86_UD);
    cpu->rflags |= X86_FLAG_AC;
    x86_mode_changed(cpu);
}
EXEC(hlt)
{
    cpu->activity = X86_HALTED;
}
EXEC(nothing)
{
}
// A spinning processor lets others of the VM run when the host has fewer than they are.
EXEC(pause_)
{
    struct interp *it = cpu->interp;
    if (++it->pauses % 1024 == 0 && cpu->platform->cpu_count > 1)
        sched_yield();
}
EXEC(undefined)
{
    x86_raise(cpu, X86_UD);
}

// --- descriptor tables --------------------------------------------------------------------------------------------

static void check_umip(struct x86_cpu *cpu)
{
    if ((cpu->cr4 & X86_CR4_UMIP) && cpu->cpl > 0)
        x86_raise_error(cpu, X86_GP, 0);
}
static void store_table(struct x86_cpu *cpu, const struct x86_insn *x,
                        const struct x86_table *table)
{
    uint64_t ea = interp_ea(cpu, x), mask = exec_mask(x->adsize);
    unsigned size = exec_is64(cpu) ? 8 : 4;
    check_umip(cpu);
    // All or nothing, and a fault is that of the lowest byte.
    x86_write_check(cpu, x->seg, ea, 2);
    x86_write_check(cpu, x->seg, (ea + 2) & mask, size);
    x86_write16(cpu, x->seg, ea, table->limit);
    interp_write(cpu, x->seg, (ea + 2) & mask, size, table->base);
}
static void load_table(struct x86_cpu *cpu, const struct x86_insn *x, struct x86_table *table)
{
    uint64_t ea = interp_ea(cpu, x), mask = exec_mask(x->adsize);
    bool is64 = exec_is64(cpu);
    uint16_t limit = x86_read16(cpu, x->seg, ea);
    uint64_t base = interp_read(cpu, x->seg, (ea + 2) & mask, is64 ? 8 : 4);
    if (is64 && !x86_canonical(base))
        x86_raise_error(cpu, X86_GP, 0);
    if (!is64 && x->opsize == 2)
        base &= 0xffffff;
    table->limit = limit;
    table->base = base;
}
EXEC(sgdt)
{
    store_table(cpu, x, &cpu->gdtr);
}
EXEC(sidt)
{
    store_table(cpu, x, &cpu->idtr);
}
EXEC(lgdt)
{
    load_table(cpu, x, &cpu->gdtr);
}
EXEC(lidt)
{
    load_table(cpu, x, &cpu->idtr);
}
// Stores a selector or the machine status word: 16 bits in memory, the operand size in a register.
static void store_word(struct x86_cpu *cpu, const struct x86_insn *x, uint64_t value)
{
    check_umip(cpu);
    if (x->has_mem)
        x86_write16(cpu, x->seg, interp_ea(cpu, x), (uint16_t)value);
    else
        interp_put(cpu, x->rm, x->opsize, value);
}
EXEC(sldt)
{
    store_word(cpu, x, cpu->ldtr.sel);
}
EXEC(str)
{
    store_word(cpu, x, cpu->tr.sel);
}
EXEC(smsw)
{
    store_word(cpu, x, cpu->cr0);
}
EXEC(lmsw)
{
    x86_lmsw(cpu, (uint16_t)interp_get_rm(cpu, x, 2));
}
EXEC(lldt)
{
    x86_lldt(cpu, (uint16_t)interp_get_rm(cpu, x, 2));
}
EXEC(ltr)
{
    x86_ltr(cpu, (uint16_t)interp_get_rm(cpu, x, 2));
}
EXEC(lar)
{
    uint32_t value = 0;
    bool ok = x86_lar(cpu, (uint16_t)interp_get_rm(cpu, x, 2), &value);
    if (ok)
        interp_put(cpu, x->reg, x->opsize, value);
    exec_put_zf(cpu, ok);
}
EXEC(lsl)
{
    uint32_t value = 0;
    bool ok = x86_lsl(cpu, (uint16_t)interp_get_rm(cpu, x, 2), &value);
    if (ok)
        interp_put(cpu, x->reg, x->opsize, value);
    exec_put_zf(cpu, ok);
}
EXEC(verr)
{
    exec_put_zf(cpu, x86_verify(cpu, (uint16_t)interp_get_rm(cpu, x, 2), false));
}
EXEC(verw)
{
    exec_put_zf(cpu, x86_verify(cpu, (uint16_t)interp_get_rm(cpu, x, 2), true));
}

// --- control registers, translation --------------------------------------------------------------------------------

EXEC(mov_from_cr)
{
    interp_put(cpu, x->rm, exec_is64(cpu) ? 8 : 4, x86_read_cr(cpu, x->reg));
}
EXEC(mov_to_cr)
{
    x86_write_cr(cpu, x->reg, interp_get(cpu, x->rm, exec_is64(cpu) ? 8 : 4));
}
EXEC(mov_from_dr)
{
    interp_put(cpu, x->rm, exec_is64(cpu) ? 8 : 4, x86_read_dr(cpu, x->reg));
}
EXEC(mov_to_dr)
{
    x86_write_dr(cpu, x->reg, interp_get(cpu, x->rm, exec_is64(cpu) ? 8 : 4));
}
EXEC(clts)
{
    x86_clts(cpu);
}
EXEC(invlpg)
{
    x86_invlpg(cpu, x->seg, interp_ea(cpu, x));
}
EXEC(invpcid)
{
    x86_invpcid(cpu, interp_get(cpu, x->reg, exec_is64(cpu) ? 8 : 4), x->seg, interp_ea(cpu, x));
}
EXEC(swapgs)
{
    x86_swapgs(cpu);
}
EXEC(xgetbv)
{
    uint64_t value = x86_xgetbv(cpu, (uint32_t)cpu->gpr[X86_RCX]);
    cpu->gpr[X86_RAX] = (uint32_t)value;
    cpu->gpr[X86_RDX] = value >> 32;
}
static uint64_t edx_eax(const struct x86_cpu *cpu)
{
    return cpu->gpr[X86_RDX] << 32 | (uint32_t)cpu->gpr[X86_RAX];
}
EXEC(xsetbv)
{
    x86_xsetbv(cpu, (uint32_t)cpu->gpr[X86_RCX], edx_eax(cpu));
}
// FS and GS bases: 64-bit mode with CR4.FSGSBASE only.
static struct x86_seg *fsgs(struct x86_cpu *cpu, unsigned seg)
{
    if (!(cpu->cr4 & X86_CR4_FSGSBASE))
        x86_raise(cpu, X86_UD);
    return &cpu->seg[seg];
}
static void write_base(struct x86_cpu *cpu, const struct x86_insn *x, unsigned seg)
{
    struct x86_seg *s = fsgs(cpu, seg);
    uint64_t base = interp_get(cpu, x->rm, x->opsize == 8 ? 8 : 4);
    if (!x86_canonical(base))
        x86_raise_error(cpu, X86_GP, 0);
    s->base = base;
    x86_seg_changed(cpu, seg);
}
EXEC(rdfsbase)
{
    interp_put(cpu, x->rm, x->opsize == 8 ? 8 : 4, fsgs(cpu, X86_FS)->base);
}
EXEC(rdgsbase)
{
    interp_put(cpu, x->rm, x->opsize == 8 ? 8 : 4, fsgs(cpu, X86_GS)->base);
}
EXEC(wrfsbase)
{
    write_base(cpu, x, X86_FS);
}
EXEC(wrgsbase)
{
    write_base(cpu, x, X86_GS);
}

// --- MSRs, CPUID, time, randomness -------------------------------------------------------------------------------

EXEC(rdmsr)
{
    uint64_t value = x86_rdmsr(cpu, (uint32_t)cpu->gpr[X86_RCX]);
    cpu->gpr[X86_RAX] = (uint32_t)value;
    cpu->gpr[X86_RDX] = value >> 32;
}
EXEC(wrmsr)
{
    x86_wrmsr(cpu, (uint32_t)cpu->gpr[X86_RCX], edx_eax(cpu));
}
EXEC(cpuid)
{
    uint32_t out[4];
    x86_cpuid(cpu, (uint32_t)cpu->gpr[X86_RAX], (uint32_t)cpu->gpr[X86_RCX], out);
    cpu->gpr[X86_RAX] = out[0];
    cpu->gpr[X86_RBX] = out[1];
    cpu->gpr[X86_RCX] = out[2];
    cpu->gpr[X86_RDX] = out[3];
}
static void check_tsd(struct x86_cpu *cpu)
{
    if ((cpu->cr4 & X86_CR4_TSD) && cpu->cpl > 0)
        x86_raise_error(cpu, X86_GP, 0);
}
EXEC(rdtsc)
{
    uint64_t value;
    check_tsd(cpu);
    value = x86_rdtsc(cpu);
    cpu->gpr[X86_RAX] = (uint32_t)value;
    cpu->gpr[X86_RDX] = value >> 32;
}
EXEC(rdtscp)
{
    rdtsc(cpu, x);
    cpu->gpr[X86_RCX] = (uint32_t)cpu->tsc_aux;
}
EXEC(rdpid)
{
    interp_put(cpu, x->rm, exec_is64(cpu) ? 8 : 4, (uint32_t)cpu->tsc_aux);
}
// The four legacy counters exist and never count.
EXEC(rdpmc)
{
    if ((!(cpu->cr4 & X86_CR4_PCE) && cpu->cpl > 0) || (uint32_t)cpu->gpr[X86_RCX] > 3)
        x86_raise_error(cpu, X86_GP, 0);
    cpu->gpr[X86_RAX] = 0;
    cpu->gpr[X86_RDX] = 0;
}
// A number from the board's source or the host's; false when there is none now.
static bool random_number(struct x86_cpu *cpu, uint64_t *value)
{
    struct interp *it = cpu->interp;
    if (cpu->platform->random) {
        *value = cpu->platform->random(cpu->platform->opaque);
        return true;
    }
    if (it->random_left == 0) {
        if (getrandom(it->random_pool, sizeof(it->random_pool), GRND_NONBLOCK) !=
            (ssize_t)sizeof(it->random_pool))
            return false;
        it->random_left = ARRAY_SIZE(it->random_pool);
    }
    *value = it->random_pool[--it->random_left];
    it->random_pool[it->random_left] = 0;
    return true;
}
EXEC(rdrand)
{
    uint64_t value = 0;
    if (!random_number(cpu, &value)) {
        // The kernel never blocks nor fails here after boot; CF = 0 tells the guest to try again.
        interp_put(cpu, x->rm, x->opsize, 0);
        x86_cc_put(cpu, 0);
        return;
    }
    interp_put(cpu, x->rm, x->opsize, value);
    x86_cc_put(cpu, X86_FLAG_CF);
}

// --- hypercalls -----------------------------------------------------------------------------------------------------

// KVM's calling convention; refused with -EPERM outside ring 0.
EXEC(hypercall)
{
    const struct x86_platform *platform = cpu->platform;
    uint64_t args[4] = {cpu->gpr[X86_RBX], cpu->gpr[X86_RCX], cpu->gpr[X86_RDX], cpu->gpr[X86_RSI]};
    uint64_t nr = cpu->gpr[X86_RAX], result = (uint64_t)-1;
    if (!platform->hypercall)
        x86_raise(cpu, X86_UD);
    if (!exec_is64(cpu)) {
        nr = (uint32_t)nr;
        for (unsigned i = 0; i < 4; i++)
            args[i] = (uint32_t)args[i];
    }
    if (cpu->cpl == 0)
        result = platform->hypercall(platform->opaque, nr, args);
    interp_put(cpu, X86_RAX, exec_is64(cpu) ? 8 : 4, result);
}

// --- caches and order -----------------------------------------------------------------------------------------------

EXEC(flush_line)
{
    // Faults as a read would, but code that cannot be read may be flushed (SDM vol. 2, CLFLUSH).
    bool code = cpu->seg[x->seg].attr & 8; // of its type
    gva_t lin =
        x86_lin(cpu, x->seg, interp_ea(cpu, x), 1, code ? X86_ACCESS_EXEC : X86_ACCESS_READ);
    x86_read_slow(cpu, x->seg, lin, 1);
}
EXEC(fence)
{
    atomic_thread_fence(memory_order_seq_cst);
}

// --- processor state -------------------------------------------------------------------------------------------------

EXEC(fxsave)
{
    x86_fxsave(cpu, x->seg, interp_ea(cpu, x), exec_mask(x->adsize), x->vex_w);
}
EXEC(fxrstor)
{
    x86_fxrstor(cpu, x->seg, interp_ea(cpu, x), exec_mask(x->adsize), x->vex_w);
}
#define XSAVE(name, kind)                                                        \
    EXEC(name)                                                                   \
    {                                                                            \
        x86_xsave(cpu, kind, edx_eax(cpu), x->seg, interp_ea(cpu, x), x->vex_w); \
    }
XSAVE(xsave, X86_XSAVE)
XSAVE(xsaveopt, X86_XSAVEOPT)
XSAVE(xsavec, X86_XSAVEC)
XSAVE(xsaves, X86_XSAVES)
EXEC(xrstor)
{
    x86_xrstor(cpu, false, edx_eax(cpu), x->seg, interp_ea(cpu, x), x->vex_w);
}
EXEC(xrstors)
{
    x86_xrstor(cpu, true, edx_eax(cpu), x->seg, interp_ea(cpu, x), x->vex_w);
}

EXEC(ldmxcsr)
{
    uint32_t value;
    x86_check_sse(cpu);
    value = x86_read32(cpu, x->seg, interp_ea(cpu, x));
    if (value & ~0xffffu)
        x86_raise_error(cpu, X86_GP, 0);
    x86_fpu_sync(cpu);
    cpu->mxcsr = value;
}
EXEC(stmxcsr)
{
    x86_check_sse(cpu);
    x86_fpu_sync(cpu);
    x86_write32(cpu, x->seg, interp_ea(cpu, x), cpu->mxcsr);
}
EXEC(vldmxcsr)
{
    x86_check_avx(cpu);
    ldmxcsr(cpu, x);
}
EXEC(vstmxcsr)
{
    x86_check_avx(cpu);
    stmxcsr(cpu, x);
}

const struct exec_entry exec_system_entries[] = {
    EXEC_ENTRY(ldmxcsr_Md, ldmxcsr),
    EXEC_ENTRY(stmxcsr_Md, stmxcsr),
    EXEC_ENTRY(vldmxcsr_Md, vldmxcsr),
    EXEC_ENTRY(vstmxcsr_Md, vstmxcsr),
    EXEC_ENTRY(in_AL_Ib, in_imm),
    EXEC_ENTRY(in_eAX_Ib, in_imm),
    EXEC_ENTRY(in_AL_DX, in_dx),
    EXEC_ENTRY(in_eAX_DX, in_dx),
    EXEC_ENTRY(out_Ib_AL, out_imm),
    EXEC_ENTRY(out_Ib_eAX, out_imm),
    EXEC_ENTRY(out_DX_AL, out_dx),
    EXEC_ENTRY(out_DX_eAX, out_dx),
    EXEC_ENTRY(cli, cli),
    EXEC_ENTRY(sti, sti),
    EXEC_ENTRY(clac, clac),
    EXEC_ENTRY(stac, stac),
    EXEC_ENTRY(hlt, hlt),
    EXEC_ENTRY(pause, pause_),
    EXEC_ENTRY(sgdt_Ms, sgdt),
    EXEC_ENTRY(sidt_Ms, sidt),
    EXEC_ENTRY(lgdt_Ms, lgdt),
    EXEC_ENTRY(lidt_Ms, lidt),
    EXEC_ENTRY(sldt_Rv, sldt),
    EXEC_ENTRY(sldt_Mw, sldt),
    EXEC_ENTRY(str_Rv, str),
    EXEC_ENTRY(str_Mw, str),
    EXEC_ENTRY(smsw_Rv, smsw),
    EXEC_ENTRY(smsw_Mw, smsw),
    EXEC_ENTRY(lmsw_Ew, lmsw),
    EXEC_ENTRY(lldt_Ew, lldt),
    EXEC_ENTRY(ltr_Ew, ltr),
    EXEC_ENTRY(lar_Gv_Ew, lar),
    EXEC_ENTRY(lsl_Gv_Ew, lsl),
    EXEC_ENTRY(verr_Ew, verr),
    EXEC_ENTRY(verw_Ew, verw),
    EXEC_ENTRY(mov_Ry_Cy, mov_from_cr),
    EXEC_ENTRY(mov_Cy_Ry, mov_to_cr),
    EXEC_ENTRY(mov_Ry_Dy, mov_from_dr),
    EXEC_ENTRY(mov_Dy_Ry, mov_to_dr),
    EXEC_ENTRY(clts, clts),
    EXEC_ENTRY(invlpg_M, invlpg),
    EXEC_ENTRY(invpcid_Gy_Mdq, invpcid),
    EXEC_ENTRY(swapgs, swapgs),
    EXEC_ENTRY(xgetbv, xgetbv),
    EXEC_ENTRY(xsetbv, xsetbv),
    EXEC_ENTRY(rdfsbase_Ry, rdfsbase),
    EXEC_ENTRY(rdgsbase_Ry, rdgsbase),
    EXEC_ENTRY(wrfsbase_Ry, wrfsbase),
    EXEC_ENTRY(wrgsbase_Ry, wrgsbase),
    EXEC_ENTRY(rdmsr, rdmsr),
    EXEC_ENTRY(wrmsr, wrmsr),
    EXEC_ENTRY(cpuid, cpuid),
    EXEC_ENTRY(rdtsc, rdtsc),
    EXEC_ENTRY(rdtscp, rdtscp),
    EXEC_ENTRY(rdpid_Ry, rdpid),
    EXEC_ENTRY(rdpmc, rdpmc),
    EXEC_ENTRY(rdrand_Rv, rdrand),
    EXEC_ENTRY(rdseed_Rv, rdrand),
    EXEC_ENTRY(vmcall, hypercall),
    EXEC_ENTRY(vmmcall, hypercall),
    EXEC_ENTRY(invd, nothing),
    EXEC_ENTRY(wbinvd, nothing),
    EXEC_ENTRY(clflush_Mb, flush_line),
    EXEC_ENTRY(clflushopt_Mb, flush_line),
    EXEC_ENTRY(clwb_Mb, flush_line),
    EXEC_ENTRY(lfence, nothing),
    EXEC_ENTRY(sfence, nothing),
    EXEC_ENTRY(mfence, fence),
    EXEC_ENTRY(ud0_Gv_Ev, undefined),
    EXEC_ENTRY(ud1_Gv_Ev, undefined),
    EXEC_ENTRY(ud2, undefined),
    EXEC_ENTRY(rsm, undefined),
    EXEC_ENTRY(monitor, undefined),
    EXEC_ENTRY(mwait, undefined),
    EXEC_ENTRY(fxsave_M, fxsave),
    EXEC_ENTRY(fxrstor_M, fxrstor),
    EXEC_ENTRY(xsave_M, xsave),
    EXEC_ENTRY(xsaveopt_M, xsaveopt),
    EXEC_ENTRY(xsavec_M, xsavec),
    EXEC_ENTRY(xsaves_M, xsaves),
    EXEC_ENTRY(xrstor_M, xrstor),
    EXEC_ENTRY(xrstors_M, xrstors),
    {0, NULL},
};
