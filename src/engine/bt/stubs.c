// SPDX-License-Identifier: Apache-2.0
// The pieces of host code between C and translated code: entering, and calling a helper.
//
// A helper is reached by a jump with frame.site set and the flags in AX. It returns where to go on, with all
// registers loaded anew and the flags both in AX and in RFLAGS; or 0: then bt_run() returns.
#include "engine/bt/bt.h"
#include "x86/cpuid.h"
#include "x86/fpu.h"
#include "x86/hostexec.h"

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

// Opcode 6F (load) or 7F (store) of VMOVDQU, 10 or 11 of MOVUPS, for all vector registers.
static void vectors(struct asm_buf *b, bool store)
{
    const bool avx = hostexec_has(X86_FEATURE_avx);
    for (unsigned n = 0; n < 16; n++) {
        asm8(b, 0x65); // gs
        if (avx) {
            asm8(b, 0xc5);
            asm8(b, n < 8 ? 0xfe : 0x7e);
            asm8(b, store ? 0x7f : 0x6f);
        } else {
            if (n >= 8)
                asm8(b, 0x44);
            asm8(b, 0x0f);
            asm8(b, store ? 0x11 : 0x10);
        }
        asm8(b, (uint8_t)((n & 7) << 3 | 4)); // [disp32]
        asm8(b, 0x25);
        asm32(b, (uint32_t)(offsetof(struct x86_cpu, vec) + n * sizeof(union x86_vec)));
    }
    if (store && avx) { // VZEROUPPER: C code uses the lower halves alone
        asm8(b, 0xc5);
        asm8(b, 0xf8);
        asm8(b, 0x77);
    }
}

// C code destroys the vector registers. MXCSR may stay as the guest has it.
static void vectors_save(struct asm_buf *b)
{
    uint8_t *over;
    asm_alu_mem_imm(b, false, 7, mem_gs(FRAME(no_vec)), 0, false);
    over = asm_jcc(b, CC_NE);
    vectors(b, true);
    asm_store_imm(b, false, mem_gs(FRAME(no_vec)), 1);
    asm_fix(over, b->p);
}

static void vectors_load(struct asm_buf *b)
{
    const struct bt_mem mxcsr = mem_gs(offsetof(struct x86_cpu, mxcsr));
    const struct bt_mem resident = mem_gs(offsetof(struct x86_cpu, fpu_resident));
    uint8_t *over, *has, *unsafe;
    asm_alu_mem_imm(b, false, 7, mem_gs(FRAME(want_vec)), 0, false);
    over = asm_jcc(b, CC_E);
    vectors(b, false);
    asm_store_imm(b, false, mem_gs(FRAME(no_vec)), 0);
    asm_mem(b, false, 0xf6, 0, resident); // test byte
    asm8(b, X86_FPU_MXCSR);
    has = asm_jcc(b, CC_NE);
    asm_load32(b, HOST_RAX, mxcsr);
    asm_alu_imm(b, false, 4, HOST_RAX, 0x7f80);
    asm_alu_imm(b, false, 7, HOST_RAX, 0x1f80);
    unsafe = asm_jcc(b, CC_NE);
    asm_mem(b, false, 0x0fae, 2, mxcsr);  // ldmxcsr
    asm_mem(b, false, 0x80, 1, resident); // or byte
    asm8(b, X86_FPU_MXCSR);
    asm_fix(unsafe, b->p);
    asm_fix(has, b->p);
    asm_fix(over, b->p);
}

static void load_and_go(struct asm_buf *b) // to S1
{
    vectors_load(b);
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
    vectors_save(b);
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
    bt->stub_fp = helper(bt, &b, bt_on_fp);
    bt->used = bt->stubs_end = (offset(bt, &b) + 63) & ~63u;
}
