// SPDX-License-Identifier: Apache-2.0
// Threaded handlers for x87 instructions without flags, in the usual case: the state is resident, every
// exception is masked, a memory operand is in the TLB. All else is left to exec_x87.c.
//
//   imm       index of the code in hostexec_x87_code, and the operand's size in the high half
//   reg, rm   FOP, low and high byte

#include "engine/interp/exec_vector.h"
#include "engine/interp/hot.h"

#define UNUSUAL return interp_plain(cpu, insn)

ALWAYS_INLINE bool ready(const struct x86_cpu *cpu)
{
    return (cpu->fpu_resident & X86_FPU_X87) && (cpu->x87.fcw & 0x3f) == 0x3f &&
           !(cpu->cr0 & (X86_CR0_EM | X86_CR0_TS));
}

ALWAYS_INLINE void execute(struct x86_cpu *cpu, const struct interp_insn *insn, void *mem)
{
    uint16_t n = (uint16_t)insn->imm;
    atomic_load_explicit(&hostexec_x87_code[n], memory_order_relaxed)(mem, 0);
    cpu->x87.fop = (uint16_t)(insn->reg | insn->rm << 8);
    cpu->x87.fip = (cpu->soft.rip + insn->off) & cpu->lin_mask;
    cpu->x87.fcs = cpu->seg[X86_CS].sel;
}

HANDLER(registers)
{
    if (unlikely(!ready(cpu)))
        UNUSUAL;
    execute(cpu, insn, NULL);
    NEXT;
}

#define MEMORY(K)                                                                              \
    HANDLER(load_##K)                                                                          \
    {                                                                                          \
        uint64_t ea = hot_ea(cpu, insn, K);                                                    \
        struct x86_tlb_entry *e = x86_tlb_entry(cpu, ea);                                      \
        if (unlikely(!ready(cpu) || !x86_tlb_hit(e->tag_read, ea, (unsigned)insn->imm >> 16))) \
            UNUSUAL;                                                                           \
        execute(cpu, insn, (void *)(ea + e->addend));                                          \
        cpu->x87.fdp = ea;                                                                     \
        cpu->x87.fds = cpu->seg[insn->seg].sel;                                                \
        NEXT;                                                                                  \
    }                                                                                          \
    HANDLER(store_##K)                                                                         \
    {                                                                                          \
        unsigned size = (unsigned)insn->imm >> 16;                                             \
        uint64_t ea = hot_ea(cpu, insn, K);                                                    \
        struct x86_tlb_entry *e = x86_tlb_entry(cpu, ea);                                      \
        if (unlikely(!ready(cpu) || !x86_tlb_hit(e->tag_write, ea, size)))                     \
            UNUSUAL;                                                                           \
        cpu->soft.insn = insn;                                                                 \
        execute(cpu, insn, (void *)(ea + e->addend));                                          \
        cpu->x87.fdp = ea;                                                                     \
        cpu->x87.fds = cpu->seg[insn->seg].sel;                                                \
        x86_stored(cpu, e, ea, size);                                                          \
        NEXT;                                                                                  \
    }
MEMORY(KIND_FLAT)
MEMORY(KIND_FLATX)

interp_fn *hot_select_x87(struct interp_insn *insn, const struct interp_detail *detail,
                          enum hot_kind kind)
{
    static interp_fn *const table[2][2] = {{load_KIND_FLAT, load_KIND_FLATX},
                                           {store_KIND_FLAT, store_KIND_FLATX}};
    const struct x86_insn *x = &detail->x;
    const struct x86_form *form = x86_insn_form(x);
    uint32_t size = x->has_mem ? form->operand[0].size : 0;

    if (!(form->attr & X86_INSN_X87) || x->aux == 0 || form->flags_read || form->flags_written ||
        kind == KIND_SEG)
        return NULL;
    insn->imm = (int32_t)(x->aux | size << 16);
    insn->reg = x->modrm;
    insn->rm = x->opcode & 7;
    if (kind == KIND_REG)
        return registers;
    return table[(form->operand[0].rw & X86_RW_WRITE) != 0][kind - KIND_FLAT];
}
