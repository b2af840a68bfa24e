// SPDX-License-Identifier: Apache-2.0
// The pieces of host code between C and translated code: entering, and calling a helper.
//
// A helper is reached by a jump with frame.site set and the flags in AX. It returns where to go on, with all
// registers loaded anew and the flags both in AX and in RFLAGS; or 0: then bt_run() returns.
#include "engine/bt/bt.h"
#include "x86/fpu.h"

#define FRAME(field) (offsetof(struct x86_cpu, frame) + offsetof(struct x86_code_frame, field))
#define GPR(n) (offsetof(struct x86_cpu, gpr) + 8 * (n))

// Guest registers that live in host registers.
static const struct {
    uint8_t guest, host;
} homes[] = {
    {X86_RAX, BT_GUEST_RAX}, {X86_RCX, HOST_RCX}, {X86_RDX, HOST_RDX}, {X86_RBX, HOST_RBX},
    {X86_RSP, HOST_RSP},     {X86_RBP, HOST_RBP}, {X86_RSI, HOST_RSI}, {X86_RDI, HOST_RDI},
    {X86_R8, HOST_R8},       {X86_R12, HOST_R12}, {X86_R13, HOST_R13}, {X86_R14, HOST_R14},
    {X86_R15, HOST_R15},
};
static const uint8_t saved[] = {HOST_RBX, HOST_RBP, HOST_R12, HOST_R13, HOST_R14, HOST_R15};

static void push(struct asm_buf *b, unsigned reg)
{
    if (reg >= 8)
        asm8(b, 0x41);
    asm8(b, (uint8_t)(0x50 | (reg & 7)));
}
static void pop(struct asm_buf *b, unsigned reg)
{
    if (reg >= 8)
        asm8(b, 0x41);
    asm8(b, (uint8_t)(0x58 | (reg & 7)));
}

static void load_and_go(struct asm_buf *b) // to S1
{
    asm_mem(b, false, 0x0fb7, BT_A, mem_gs(FRAME(flags))); // movzx eax, word
    asm_flags_load(b);
    asm_mem(b, false, 0x0fb7, BT_A, mem_gs(FRAME(flags)));
    for (unsigned i = 0; i < ARRAY_SIZE(homes); i++)
        asm_load(b, homes[i].host, mem_gs(GPR(homes[i].guest)));
    asm_reg(b, false, 0xff, 4, BT_S1); // jmp
}

static uint32_t offset(const struct bt *bt, const struct asm_buf *b)
{
    return (uint32_t)(b->p - bt->rw);
}

// Calls fn(cpu).
static uint32_t helper(struct bt *bt, struct asm_buf *b, uint64_t (*fn)(struct x86_cpu *))
{
    uint32_t start;
    uint8_t *leave;
    asm_nop(b, (unsigned)(-(uintptr_t)b->p & 15));
    start = offset(bt, b);
    for (unsigned i = 0; i < ARRAY_SIZE(homes); i++)
        asm_store(b, mem_gs(GPR(homes[i].guest)), homes[i].host);
    asm_store16(b, mem_gs(FRAME(flags)), BT_A);
    asm_store(b, mem_gs(FRAME(scratch)), BT_S1);
    asm_load(b, HOST_RSP, mem_gs(FRAME(host_sp)));
    asm_load(b, HOST_RDI, mem_gs(FRAME(cpu)));
    asm_mov_imm(b, HOST_RAX, (uintptr_t)fn);
    asm_reg(b, false, 0xff, 2, HOST_RAX); // call
    asm_reg(b, true, 0x85, HOST_RAX, HOST_RAX);
    leave = asm_jcc(b, CC_E);
    asm_mov(b, BT_S1, HOST_RAX);
    load_and_go(b);
    asm_fix(leave, b->p);
    asm_alu_imm(b, true, 0, HOST_RSP, 8);
    for (unsigned i = ARRAY_SIZE(saved); i-- > 0;)
        pop(b, saved[i]);
    asm8(b, 0xc3);
    return start;
}

void bt_stubs_emit(struct bt *bt)
{
    struct asm_buf b = {bt->rw};
    // void enter(code in RDI): GS is the cpu already.
    bt->stub_enter = offset(bt, &b);
    for (unsigned i = 0; i < ARRAY_SIZE(saved); i++)
        push(&b, saved[i]);
    asm_alu_imm(&b, true, 5, HOST_RSP, 8);
    asm_store(&b, mem_gs(FRAME(host_sp)), HOST_RSP);
    asm_mov(&b, BT_S1, HOST_RDI);
    load_and_go(&b);
    bt->stub_miss = helper(bt, &b, bt_on_miss);
    bt->stub_exec = helper(bt, &b, bt_on_exec);
    bt->stub_exit = helper(bt, &b, bt_on_exit);
    bt->stub_branch = helper(bt, &b, bt_on_branch);
    bt->stub_step = helper(bt, &b, bt_on_step);
    bt->stub_poll = helper(bt, &b, bt_on_poll);
    bt->stub_entry = helper(bt, &b, bt_on_entry);
    bt->used = bt->stubs_end = (offset(bt, &b) + 63) & ~63u;
}
