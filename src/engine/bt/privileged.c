// SPDX-License-Identifier: Apache-2.0
// System instructions that stay in the block. The frequent ones of a kernel are emitted here for the case in which
// nothing but their plain effect can follow; their full meaning is in x86/ (flags_sys.c, syscall.c), and every other
// case is the interpreter's. The rest call it at once.
//
// Rule to keep: an interrupt that becomes deliverable is taken at the same boundary as in the interpreter.
#include "engine/bt/translate.h"
#include "x86/descriptor.h"

// Fall through, and seldom change what was translated for.
static bool stays(unsigned mn)
{
    switch (mn) {
    case X86_MN_CLI:
    case X86_MN_POPF:
    case X86_MN_SWAPGS:
    case X86_MN_PAUSE:
    case X86_MN_RDTSC:
    case X86_MN_RDTSCP:
    case X86_MN_RDMSR:
    case X86_MN_WRMSR:
    case X86_MN_CPUID:
    case X86_MN_CLTS:
        return true;
    default:
        return false;
    }
}

void tr_classify_privileged(const struct bt_tr *t, struct bt_op *op)
{
    const unsigned mn = x86_insn_form(&op->x)->mnemonic_id;
    const bool cpl0 = t->key->bits & BT_CTX_CPL0, wide = tr_64(t);
    if (op->kind != KIND_STEP && op->kind != KIND_EXEC)
        return;
    if (stays(mn))
        op->kind = KIND_SYSTEM;
    if (mn == X86_MN_CLI && cpl0)
        op->kind = KIND_CLI;
    else if (mn == X86_MN_STI && cpl0)
        op->kind = KIND_STI;
    else if (mn == X86_MN_SWAPGS && cpl0 && wide)
        op->kind = KIND_SWAPGS;
    else if (mn == X86_MN_PUSHF && wide && op->x.opsize == 8)
        op->kind = KIND_PUSHF;
    else if (mn == X86_MN_POPF && wide && cpl0 && op->x.opsize == 8)
        op->kind = KIND_POPF;
}

// STI's shadow has to end in the block, before a branch.
void tr_privileged_end(struct bt_tr *t)
{
    for (unsigned i = 0; i < t->count; i++) {
        struct bt_op *op = &t->op[i];
        if (op->kind == KIND_STI &&
            (i + 1 == t->count || (op[1].kind >= KIND_JCC && op[1].kind != KIND_STEP))) {
            op->kind = KIND_STEP;
            t->count = i + 1;
            t->bytes = (uint16_t)(op->off + op->x.len);
        }
    }
}

static const struct bt_mem rflags = {BT_REG_NONE, BT_REG_NONE, 0, true,
                                     offsetof(struct x86_cpu, rflags)};

static void rsp_add(struct bt_tr *t, int by)
{
    asm_lea(&t->b, true, HOST_RSP, mem_at(HOST_RSP, by));
}

// An instruction boundary at which an interrupt may have become deliverable.
void tr_sti_over(struct bt_tr *t)
{
    uint32_t number;
    struct bt_site *site;
    tr_rsp_settle(t);
    t->s1_slot = SLOT_NONE;
    tr_flags_clobber(t);
    asm_alu_mem_imm(&t->b, false, 7, mem_gs(offsetof(struct x86_cpu, events)), 0, false);
    site = tr_site(t, BT_SITE_POLL, &number);
    site->rip = site->next;
    site->done++;
    tr_cold(t, number, t->bt->stub_poll, asm_jcc(&t->b, CC_NE));
}

static void pushf(struct bt_tr *t, const struct bt_op *op)
{
    const struct bt_mem m = tr_access(t, &op->access[0]);
    struct asm_buf *b = &t->b;
    tr_flags_clobber(t);
    // S1 is a part of the address, and its value is needed again.
    asm_store(b, mem_gs(FRAME(scratch[1])), BT_S1);
    asm_mov32(b, BT_S2, BT_A); // AH: SF ZF AF PF CF; AL: OF
    asm_mov32(b, BT_S1, BT_A);
    asm_shift(b, false, 5, BT_S2, 8);
    asm_alu_imm(b, false, 4, BT_S2, 0xd5);
    asm_alu_imm(b, false, 4, BT_S1, 1);
    asm_shift(b, false, 4, BT_S1, 11);
    asm_reg(b, false, 0x09, BT_S1, BT_S2); // or
    asm_mem(b, true, 0x0b, BT_S2, rflags);
    asm_alu_imm(b, false, 1, BT_S2, X86_FLAG_R1);
    asm_load(b, BT_S1, mem_gs(FRAME(scratch[1])));
    asm_store(b, m, BT_S2);
    rsp_add(t, -8);
}

static void popf(struct bt_tr *t, const struct bt_op *op)
{
    const uint32_t rare =
        X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_IOPL | X86_FLAG_NT | X86_FLAG_AC | X86_FLAG_ID;
    struct asm_buf *b = &t->b;
    struct bt_site *site;
    struct bt_cold *cold;
    uint8_t *same, *off;
    uint32_t number;
    asm_mem(b, true, 0x8b, BT_S2, tr_access(t, &op->access[0]));
    tr_flags_clobber(t);
    asm_mov(b, BT_S1, BT_S2);
    asm_mem(b, true, 0x33, BT_S1, rflags); // xor
    asm_reg(b, false, 0xf7, 0, BT_S1);     // test
    asm32(b, rare);
    site = tr_site(t, BT_SITE_SYSTEM, &number);
    site->insn = tr_interp_insn(t, op);
    cold = tr_cold(t, number, t->bt->stub_system, asm_jcc(b, CC_NE));
    asm_alu_imm(b, false, 4, BT_S1, X86_FLAG_IF);
    same = asm_jcc(b, CC_E);
    asm_reg(b, false, 0xf7, 0, BT_S2);
    asm32(b, X86_FLAG_IF);
    off = asm_jcc(b, CC_E);
    asm_alu_mem_imm(b, false, 7, mem_gs(offsetof(struct x86_cpu, events)), 0, false);
    cold->from[1] = asm_jcc(b, CC_NE);
    asm_fix(off, b->p);
    asm_mem(b, false, 0x31, BT_S1, rflags); // xor: IF changes
    asm_fix(same, b->p);
    asm_mov32(b, BT_A, BT_S2);
    asm_shift(b, false, 4, BT_A, 8);
    asm_shift(b, false, 5, BT_S2, 11);
    asm_alu_imm(b, false, 4, BT_S2, 1);
    asm_reg(b, false, 0x09, BT_S2, BT_A); // or
    rsp_add(t, 8);
    site->resume = tr_offset(t, b->p);
    t->a = true;
    t->e = false;
}

static void swapgs(struct bt_tr *t)
{
    const size_t gs = offsetof(struct x86_cpu, seg[X86_GS]);
    const struct bt_mem base = mem_gs(gs + offsetof(struct x86_seg, base)),
                        unchecked = mem_gs(gs + offsetof(struct x86_seg, unchecked)),
                        other = mem_gs(offsetof(struct x86_cpu, kernel_gs_base));
    struct asm_buf *b = &t->b;
    asm_load(b, BT_S1, base);
    asm_load(b, BT_S2, other);
    asm_store(b, base, BT_S2);
    asm_store(b, other, BT_S1);
    asm_store(b, mem_gs(gs + offsetof(struct x86_seg, eff_base)), BT_S2);
    if (!x86_is_amd(t->v->cpu)) // what follows: seg_derive() in x86/mode.c
        return;
    tr_flags_clobber(t);
    asm_alu_imm(b, true, 7, BT_S2, 1);
    asm_reg(b, false, 0x1b, BT_S1, BT_S1); // sbb: -1 where the base is 0
    asm_alu_imm(b, false, 4, BT_S1, X86_ACCESS_READ | X86_ACCESS_WRITE | X86_ACCESS_EXEC);
    asm_store32(b, unchecked, BT_S1);
}

void tr_privileged(struct bt_tr *t, const struct bt_op *op)
{
    switch ((enum bt_kind)op->kind) {
    case KIND_CLI:
        tr_flags_clobber(t);
        asm_alu_mem_imm(&t->b, false, 4, rflags, ~(int32_t)X86_FLAG_IF, false);
        break;
    case KIND_STI:
        tr_flags_clobber(t);
        asm_alu_mem_imm(&t->b, false, 1, rflags, X86_FLAG_IF, false);
        break;
    case KIND_PUSHF:
        pushf(t, op);
        break;
    case KIND_POPF:
        popf(t, op);
        break;
    case KIND_SWAPGS:
        swapgs(t);
        break;
    default:
        tr_exec(t, op, BT_SITE_SYSTEM);
        break;
    }
}
