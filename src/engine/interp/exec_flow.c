// SPDX-License-Identifier: Apache-2.0
// Plain functions: the stack, near branches in any mode, far transfers, segment loads.
#include "engine/interp/exec.h"
#include "x86/cpuid.h"

// --- push and pop -------------------------------------------------------------------------------------------

EXEC(push_reg)
{
    exec_push(cpu, x->opsize, interp_get(cpu, x->reg, x->opsize));
}
EXEC(push_imm)
{
    exec_push(cpu, x->opsize, x->imm);
}
EXEC(push_rm)
{
    exec_push(cpu, x->opsize, interp_get_rm(cpu, x, x->opsize));
}
static void push_seg(struct x86_cpu *cpu, const struct x86_insn *x, unsigned seg)
{
    exec_push(cpu, x->opsize, cpu->seg[seg].sel);
}
static uint64_t pop_peek(struct x86_cpu *cpu, unsigned size)
{
    return interp_read(cpu, X86_SS, exec_sp(cpu), size);
}
EXEC(pop_reg)
{
    uint64_t value = pop_peek(cpu, x->opsize);
    exec_set_sp(cpu, exec_sp(cpu) + x->opsize);
    interp_put(cpu, x->reg, x->opsize, value);
}
// An address that uses rSP sees it already incremented.
EXEC(pop_rm)
{
    uint64_t value = pop_peek(cpu, x->opsize), old = cpu->gpr[X86_RSP], ea;
    if (!x->has_mem) {
        exec_set_sp(cpu, exec_sp(cpu) + x->opsize);
        interp_put(cpu, x->rm, x->opsize, value);
        return;
    }
    exec_set_sp(cpu, exec_sp(cpu) + x->opsize);
    ea = interp_ea(cpu, x);
    cpu->gpr[X86_RSP] = old;
    interp_write(cpu, x->seg, ea, x->opsize, value);
    exec_set_sp(cpu, exec_sp(cpu) + x->opsize);
}
// Loading SS may change the stack's size: the new rSP is computed before.
static void pop_seg(struct x86_cpu *cpu, const struct x86_insn *x, unsigned seg)
{
    uint16_t sel = (uint16_t)interp_read(cpu, X86_SS, exec_sp(cpu), x->opsize);
    unsigned stack_size = cpu->stack_size;
    uint64_t sp = exec_sp(cpu) + x->opsize;
    x86_load_seg(cpu, seg, sel);
    interp_put(cpu, X86_RSP, stack_size, sp);
    if (seg == X86_SS)
        cpu->shadow |= X86_SHADOW_MOVSS;
}
#define SEGS(S)                    \
    EXEC(push_##S)                 \
    {                              \
        push_seg(cpu, x, X86_##S); \
    }                              \
    EXEC(pop_##S)                  \
    {                              \
        pop_seg(cpu, x, X86_##S);  \
    }
SEGS(ES)
SEGS(SS)
SEGS(DS)
SEGS(FS)
SEGS(GS)
EXEC(push_CS)
{
    push_seg(cpu, x, X86_CS);
}
EXEC(pusha)
{
    uint64_t sp = exec_sp(cpu), mask = exec_mask(cpu->stack_size);
    unsigned size = x->opsize;
    // Outside of protected mode Intel's processors refuse these values ahead of the stack's limit (SDM PUSHA).
    if (unlikely(!x86_prot_mode(cpu) && (sp & mask) >= 7 && (sp & mask) <= 15 && (sp & 1) &&
                 !(cpu->model && cpu->model->vendor == X86_VENDOR_AMD)))
        x86_raise_error(cpu, X86_GP, 0);
    for (unsigned i = 0; i < 8; i++)
        interp_write(cpu, X86_SS, (sp - (i + 1) * size) & mask, size, interp_get(cpu, i, size));
    exec_set_sp(cpu, sp - 8 * size);
}
EXEC(popa)
{
    uint64_t sp = exec_sp(cpu), mask = exec_mask(cpu->stack_size);
    unsigned size = x->opsize;
    // What was popped before a fault stays, as on AMD's processors: rSP does not, so that all can be done
    // again.
    for (unsigned i = 0; i < 8; i++) {
        uint64_t value = interp_read(cpu, X86_SS, (sp + i * size) & mask, size);
        if (7 - i != X86_RSP)
            interp_put(cpu, 7 - i, size, value);
    }
    exec_set_sp(cpu, sp + 8 * size);
}
EXEC(pushf)
{
    exec_push(cpu, x->opsize, x86_pushf_value(cpu, x->opsize));
}
EXEC(popf)
{
    uint64_t value = pop_peek(cpu, x->opsize);
    x86_popf(cpu, value, x->opsize);
    exec_set_sp(cpu, exec_sp(cpu) + x->opsize);
}
EXEC(enter)
{
    unsigned size = x->opsize, level = x->imm2 & 31;
    uint64_t mask = exec_mask(cpu->stack_size);
    uint64_t sp = (exec_sp(cpu) - size) & mask, bp = cpu->gpr[X86_RBP] & mask;
    // rBP gets all of rSP, also where the stack uses SP only.
    uint64_t frame = (cpu->gpr[X86_RSP] & ~mask) | sp;
    interp_write(cpu, X86_SS, sp, size, interp_get(cpu, X86_RBP, size));
    for (unsigned i = 1; i < level; i++) {
        uint64_t value;
        bp = (bp - size) & mask;
        value = interp_read(cpu, X86_SS, bp, size);
        sp = (sp - size) & mask;
        interp_write(cpu, X86_SS, sp, size, value);
    }
    if (level > 0) {
        sp = (sp - size) & mask;
        interp_write(cpu, X86_SS, sp, size, frame);
    }
    sp = (sp - (uint16_t)x->imm) & mask;
    x86_write_check(cpu, X86_SS, sp,
                    size); // SDM vol. 2, ENTER: as if the final rSP were written to
    interp_put(cpu, X86_RBP, size, frame);
    exec_set_sp(cpu, sp);
}
EXEC(leave)
{
    uint64_t sp = cpu->gpr[X86_RBP] & exec_mask(cpu->stack_size);
    uint64_t value = interp_read(cpu, X86_SS, sp, x->opsize);
    exec_set_sp(cpu, sp + x->opsize);
    interp_put(cpu, X86_RBP, x->opsize, value);
}

// --- near branches -------------------------------------------------------------------------------------------

// The stack is looked at before the target is, but written last.
static void call_near(struct x86_cpu *cpu, uint64_t target, unsigned size)
{
    uint64_t back = cpu->rip;
    x86_write_check(cpu, X86_SS, (cpu->gpr[X86_RSP] - size) & exec_mask(cpu->stack_size), size);
    x86_branch(cpu, target, size);
    exec_push(cpu, size, back);
}
EXEC(call_rel)
{
    call_near(cpu, cpu->rip + x->imm, x->opsize);
}
EXEC(call_rm)
{
    call_near(cpu, interp_get_rm(cpu, x, x->opsize), x->opsize);
}
EXEC(jmp_rm)
{
    x86_branch(cpu, interp_get_rm(cpu, x, x->opsize), x->opsize);
}
EXEC(ret)
{
    uint64_t target = pop_peek(cpu, x->opsize);
    x86_branch(cpu, target, x->opsize);
    exec_set_sp(cpu, exec_sp(cpu) + x->opsize);
}
EXEC(ret_imm)
{
    uint64_t target = pop_peek(cpu, x->opsize);
    x86_branch(cpu, target, x->opsize);
    exec_set_sp(cpu, exec_sp(cpu) + x->opsize + (uint16_t)x->imm);
}
// LOOP, LOOPE, LOOPNE: the counter is rCX by address size.
static void loop_if(struct x86_cpu *cpu, const struct x86_insn *x, bool also)
{
    uint64_t count = (interp_get(cpu, X86_RCX, x->adsize) - 1) & exec_mask(x->adsize);
    if (count != 0 && also)
        x86_branch(cpu, cpu->rip + x->imm, x->opsize);
    interp_put(cpu, X86_RCX, x->adsize, count);
}
EXEC(loop)
{
    loop_if(cpu, x, true);
}
EXEC(loope)
{
    loop_if(cpu, x, x86_zf(cpu));
}
EXEC(loopne)
{
    loop_if(cpu, x, !x86_zf(cpu));
}
EXEC(jcxz)
{
    if (interp_get(cpu, X86_RCX, x->adsize) == 0)
        x86_branch(cpu, cpu->rip + x->imm, x->opsize);
}

// --- far transfers, interrupts --------------------------------------------------------------------------------

static uint16_t read_far(struct x86_cpu *cpu, const struct x86_insn *x, uint64_t *off)
{
    uint64_t ea = interp_ea(cpu, x);
    // REX.W makes no m16:64 of it on AMD processors, though pushes and the register are 64 bits wide.
    bool amd = cpu->model && cpu->model->vendor == X86_VENDOR_AMD;
    unsigned size = x->opsize == 8 && amd ? 4 : x->opsize;
    *off = interp_read(cpu, x->seg, ea, size);
    return x86_read16(cpu, x->seg, (ea + size) & exec_mask(x->adsize));
}
EXEC(callf_imm)
{
    x86_far_call(cpu, (uint16_t)x->imm2, x->imm, x->opsize);
}
EXEC(jmpf_imm)
{
    x86_far_jmp(cpu, (uint16_t)x->imm2, x->imm, x->opsize);
}
EXEC(callf_mem)
{
    uint64_t off;
    uint16_t sel = read_far(cpu, x, &off);
    x86_far_call(cpu, sel, off, x->opsize);
}
EXEC(jmpf_mem)
{
    uint64_t off;
    uint16_t sel = read_far(cpu, x, &off);
    x86_far_jmp(cpu, sel, off, x->opsize);
}
EXEC(retf)
{
    x86_far_ret(cpu, x->opsize, 0);
}
EXEC(retf_imm)
{
    x86_far_ret(cpu, x->opsize, (uint16_t)x->imm);
}
EXEC(int3)
{
    x86_int(cpu, X86_BP, X86_DELIVER_SOFT_EXC);
}
EXEC(int_imm)
{
    x86_int(cpu, (uint8_t)x->imm, X86_DELIVER_SOFT_INT);
}
EXEC(into)
{
    if (x86_of(cpu))
        x86_int(cpu, X86_OF, X86_DELIVER_SOFT_EXC);
}
EXEC(int1)
{
    x86_int(cpu, X86_DB, X86_DELIVER_ICEBP);
}
EXEC(iret)
{
    x86_iret(cpu, x->opsize);
}
EXEC(syscall_)
{
    x86_syscall(cpu);
}
EXEC(sysret)
{
    x86_sysret(cpu, x->opsize);
}
EXEC(sysenter)
{
    x86_sysenter(cpu);
}
EXEC(sysexit)
{
    x86_sysexit(cpu, x->opsize);
}

// --- segment registers -----------------------------------------------------------------------------------------

EXEC(mov_to_seg)
{
    unsigned seg = x->modrm >> 3 & 7;
    uint16_t sel;
    if (seg >= X86_SEG_COUNT || seg == X86_CS)
        x86_raise(cpu, X86_UD);
    sel = (uint16_t)interp_get_rm(cpu, x, 2);
    x86_load_seg(cpu, seg, sel);
    if (seg == X86_SS)
        cpu->shadow |= X86_SHADOW_MOVSS;
}
EXEC(mov_from_seg)
{
    unsigned seg = x->modrm >> 3 & 7;
    if (seg >= X86_SEG_COUNT)
        x86_raise(cpu, X86_UD);
    if (x->has_mem)
        x86_write16(cpu, x->seg, interp_ea(cpu, x), cpu->seg[seg].sel);
    else
        interp_put(cpu, x->rm, x->opsize, cpu->seg[seg].sel);
}
static void load_far(struct x86_cpu *cpu, const struct x86_insn *x, unsigned seg)
{
    uint64_t off;
    uint16_t sel = read_far(cpu, x, &off);
    x86_load_seg(cpu, seg, sel);
    interp_put(cpu, x->reg, x->opsize, off);
}
EXEC(les)
{
    load_far(cpu, x, X86_ES);
}
EXEC(lds)
{
    load_far(cpu, x, X86_DS);
}
EXEC(lss)
{
    load_far(cpu, x, X86_SS);
}
EXEC(lfs)
{
    load_far(cpu, x, X86_FS);
}
EXEC(lgs)
{
    load_far(cpu, x, X86_GS);
}

const struct exec_entry exec_flow_entries[] = {
    EXEC_ENTRY(push_Zv, push_reg),
    EXEC_ENTRY(push_Iz, push_imm),
    EXEC_ENTRY(push_Ibs, push_imm),
    EXEC_ENTRY(push_Ev, push_rm),
    EXEC_ENTRY(pop_Zv, pop_reg),
    EXEC_ENTRY(pop_Ev, pop_rm),
    EXEC_ENTRY(push_ES, push_ES),
    EXEC_ENTRY(push_CS, push_CS),
    EXEC_ENTRY(push_SS, push_SS),
    EXEC_ENTRY(push_DS, push_DS),
    EXEC_ENTRY(push_FS, push_FS),
    EXEC_ENTRY(push_GS, push_GS),
    EXEC_ENTRY(pop_ES, pop_ES),
    EXEC_ENTRY(pop_SS, pop_SS),
    EXEC_ENTRY(pop_DS, pop_DS),
    EXEC_ENTRY(pop_FS, pop_FS),
    EXEC_ENTRY(pop_GS, pop_GS),
    EXEC_ENTRY(pusha, pusha),
    EXEC_ENTRY(popa, popa),
    EXEC_ENTRY(pushf, pushf),
    EXEC_ENTRY(popf, popf),
    EXEC_ENTRY(enter_Iw_Ib, enter),
    EXEC_ENTRY(leave, leave),
    EXEC_ENTRY(call_Jz, call_rel),
    EXEC_ENTRY(call_Ev, call_rm),
    EXEC_ENTRY(jmp_Ev, jmp_rm),
    EXEC_ENTRY(ret, ret),
    EXEC_ENTRY(ret_Iw, ret_imm),
    EXEC_ENTRY(loop_Jb, loop),
    EXEC_ENTRY(loope_Jb, loope),
    EXEC_ENTRY(loopne_Jb, loopne),
    EXEC_ENTRY(jcxz_Jb, jcxz),
    EXEC_ENTRY(callf_Ap, callf_imm),
    EXEC_ENTRY(jmpf_Ap, jmpf_imm),
    EXEC_ENTRY(callf_Mp, callf_mem),
    EXEC_ENTRY(jmpf_Mp, jmpf_mem),
    EXEC_ENTRY(retf, retf),
    EXEC_ENTRY(retf_Iw, retf_imm),
    EXEC_ENTRY(int3, int3),
    EXEC_ENTRY(int_Ib, int_imm),
    EXEC_ENTRY(into, into),
    EXEC_ENTRY(int1, int1),
    EXEC_ENTRY(iret, iret),
    EXEC_ENTRY(syscall, syscall_),
    EXEC_ENTRY(sysret, sysret),
    EXEC_ENTRY(sysenter, sysenter),
    EXEC_ENTRY(sysexit, sysexit),
    EXEC_ENTRY(mov_Sw_Ew, mov_to_seg),
    EXEC_ENTRY(mov_Rv_Sw, mov_from_seg),
    EXEC_ENTRY(mov_Mw_Sw, mov_from_seg),
    EXEC_ENTRY(les_Gv_Mp, les),
    EXEC_ENTRY(lds_Gv_Mp, lds),
    EXEC_ENTRY(lss_Gv_Mp, lss),
    EXEC_ENTRY(lfs_Gv_Mp, lfs),
    EXEC_ENTRY(lgs_Gv_Mp, lgs),
    {0, NULL},
};
