// SPDX-License-Identifier: Apache-2.0
// The pieces of host code between C and translated code: entering, and calling a helper.
//
// A helper is reached by a jump with frame.site set and the flags in AX. It returns where to go on, with all
// registers loaded anew and the flags both in AX and in RFLAGS; or 0: then bt_run() returns.
#include "engine/bt/bt.h"
#include "memory/memory.h"
#include "x86/cpuid.h"
#include "x86/fpu.h"
#include "x86/hostexec.h"
#include "x86/mem.h"

const uint8_t bt_home[16] = {
    BT_GUEST_RAX, HOST_RCX,    HOST_RDX,    HOST_RBX,    HOST_RSP, HOST_RBP, HOST_RSI, HOST_RDI,
    HOST_R8,      BT_REG_NONE, BT_REG_NONE, BT_REG_NONE, HOST_R12, HOST_R13, HOST_R14, HOST_R15,
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
    for (unsigned i = 0; i < ARRAY_SIZE(bt_home); i++)
        if (bt_home[i] != BT_REG_NONE)
            asm_load(b, bt_home[i], mem_gs(GPR(i)));
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
    for (unsigned i = 0; i < ARRAY_SIZE(bt_home); i++)
        if (bt_home[i] != BT_REG_NONE)
            asm_store(b, mem_gs(GPR(i)), bt_home[i]);
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

#define SLOT(field) (offsetof(struct x86_cpu, frame) + offsetof(struct x86_page_slot, field))

static void and_imm(struct asm_buf *b, bool w, unsigned reg, int32_t imm)
{
    asm_alu_imm(b, w, 4, reg, imm);
}

// Behind a check that failed, with S1 the linear address of the first byte it covers: fills the slot from the TLB
// if that permits the whole range, and goes back to the check. All else is bt_on_miss()'s, whose code follows.
static void refill(struct bt *bt, struct asm_buf *b)
{
    const unsigned site = HOST_RCX, page = HOST_RDX, flags = HOST_R8, entry = BT_S2, slot = BT_S1;
    static const uint8_t spilled[] = {HOST_RCX, HOST_RDX, HOST_R8};
    uint8_t *slow[6], *store, *listed[2], *done, *fill, *fence;
    asm_store(b, mem_gs(FRAME(scratch[0])), BT_S1);
    for (unsigned i = 0; i < ARRAY_SIZE(spilled); i++)
        asm_store(b, mem_gs(FRAME(scratch[2]) + 8 * i), spilled[i]);
    asm_load32(b, site, mem_gs(FRAME(site)));
    asm_reg(b, true, 0x69, site, site); // imul
    asm32(b, sizeof(struct bt_site));
    asm_mov_imm(b, BT_S2, (uintptr_t)bt->sites);
    asm_reg(b, true, 0x01, BT_S2, site);                                          // add
    asm_mem(b, false, 0x81, 5, mem_at(site, offsetof(struct bt_site, patience))); // sub
    asm32(b, 1);
    slow[5] = asm_jcc(b, CC_S);
    // Within one page?
    asm_mov32(b, page, BT_S1);
    and_imm(b, false, page, PAGE_SIZE - 1);
    asm_mem(b, false, 0x0fb7, BT_S2, mem_at(site, offsetof(struct bt_site, span)));
    asm_reg(b, false, 0x01, BT_S2, page);
    asm_alu_imm(b, false, 7, page, PAGE_SIZE);
    slow[0] = asm_jcc(b, CC_A);
    asm_mov(b, entry, BT_S1);
    asm_shift(b, true, 5, entry, PAGE_SHIFT - 6);
    and_imm(b, false, entry, (X86_TLB_ENTRIES - 1) << 6);
    asm_load(b, page, mem_gs(offsetof(struct x86_cpu, tlb)));
    asm_mem(b, true, 0x03, entry, mem_at(page, offsetof(struct x86_tlb, cur)));
    asm_mov(b, page, BT_S1);
    and_imm(b, true, page, (int32_t)PAGE_MASK);
    asm_mem(b, false, 0x0fb7, slot, mem_at(site, offsetof(struct bt_site, slot)));
    asm_mem(b, false, 0x80, 7, mem_at(site, offsetof(struct bt_site, stores))); // cmp
    asm8(b, 0);
    store = asm_jcc(b, CC_NE);
    asm_mem(b, true, 0x3b, page, mem_at(entry, offsetof(struct x86_tlb_entry, tag_read)));
    slow[1] = asm_jcc(b, CC_NE);
    fill = b->p;
    asm_mem(b, false, 0xf6, 0, mem_gs_at(slot, SLOT(page)));
    asm8(b, X86_FRAME_UNLISTED);
    listed[0] = asm_jcc(b, CC_E);
    asm_store(b, mem_gs(FRAME(scratch[5])), flags);
    asm_load32(b, flags, mem_gs(FRAME(filled_count)));
    asm_store16(b, (struct bt_mem){BT_REG_NONE, HOST_R8, 1, true, (int32_t)FRAME(filled)}, slot);
    asm_alu_mem_imm(b, false, 0, mem_gs(FRAME(filled_count)), 1, false);
    asm_load(b, flags, mem_gs(FRAME(scratch[5])));
    asm_fix(listed[0], b->p);
    asm_load(b, entry, mem_at(entry, offsetof(struct x86_tlb_entry, addend)));
    asm_store(b, mem_gs_at(slot, SLOT(addend)), entry);
    asm_mem(b, false, 0x80, 7, mem_at(site, offsetof(struct bt_site, stores)));
    asm8(b, 0);
    fence = asm_jcc(b, CC_NE);
    asm_store(b, mem_gs_at(slot, SLOT(page)), page);
    done = asm_jmp(b);
    asm_fix(fence, b->p);
    asm_mem(b, true, 0x87, page, mem_gs_at(slot, SLOT(page))); // xchg, a barrier
    // Whoever marks the page as code meanwhile sees the slot, or we see the mark (bt_code_marked).
    asm_mem(b, false, 0x80, 7, mem_at(flags, 0)); // cmp
    asm8(b, PAGE_FLAGS_PLAIN);
    listed[1] = asm_jcc(b, CC_E);
    asm_load(b, entry, mem_gs(FRAME(no_page)));
    and_imm(b, true, entry, ~X86_FRAME_UNLISTED);
    asm_store(b, mem_gs_at(slot, SLOT(page)), entry);
    slow[2] = asm_jmp(b);

    asm_fix(store, b->p);
    asm_mem(b, true, 0x3b, page, mem_at(entry, offsetof(struct x86_tlb_entry, tag_write)));
    slow[3] = asm_jcc(b, CC_NE);
    asm_load(b, flags, mem_at(entry, offsetof(struct x86_tlb_entry, flags)));
    asm_mem(b, false, 0x80, 7, mem_at(flags, 0));
    asm8(b, PAGE_FLAGS_PLAIN);
    asm_fix(asm_jcc(b, CC_E), fill);
    slow[4] = asm_jmp(b);

    asm_fix(done, b->p);
    asm_fix(listed[1], b->p);
    asm_alu_mem_imm(b, true, 0, mem_gs(FRAME(refills)), 1, false);
    asm_load32(b, BT_S1, mem_at(site, offsetof(struct bt_site, retry)));
    asm_mov_imm(b, BT_S2, (uintptr_t)bt->rx);
    asm_reg(b, true, 0x01, BT_S2, BT_S1);
    for (unsigned i = 0; i < ARRAY_SIZE(spilled); i++)
        asm_load(b, spilled[i], mem_gs(FRAME(scratch[2]) + 8 * i));
    asm_reg(b, false, 0xff, 4, BT_S1); // jmp

    for (unsigned i = 0; i < ARRAY_SIZE(slow); i++)
        asm_fix(slow[i], b->p);
    for (unsigned i = 0; i < ARRAY_SIZE(spilled); i++)
        asm_load(b, spilled[i], mem_gs(FRAME(scratch[2]) + 8 * i));
    asm_load(b, BT_S1, mem_gs(FRAME(scratch[0])));
}

// At an entry whose identity is not in frame.mapped: enters it there if the TLB says that it holds. All else is
// bt_on_entry()'s, whose code follows.
static void recheck(struct bt *bt, struct asm_buf *b)
{
    const unsigned block = HOST_RCX, page = HOST_RDX, entry = BT_S2;
    uint8_t *slow[4];
    asm_store(b, mem_gs(FRAME(scratch[2])), HOST_RCX);
    asm_store(b, mem_gs(FRAME(scratch[3])), HOST_RDX);
    asm_load32(b, block, mem_gs(FRAME(site)));
    asm_reg(b, true, 0x69, block, block); // imul
    asm32(b, sizeof(struct bt_site));
    asm_mov_imm(b, BT_S2, (uintptr_t)bt->sites);
    asm_load(b, block, mem_sum(BT_S2, block, 0, offsetof(struct bt_site, block)));
    asm_mem(b, false, 0x80, 7, mem_at(block, offsetof(struct bt_block, dead))); // cmp
    asm8(b, 0);
    slow[0] = asm_jcc(b, CC_NE);
    _Static_assert(BT_NO_PAGE == UINT64_MAX, "compared with -1");
    asm_alu_mem_imm(b, true, 7, mem_at(block, offsetof(struct bt_block, gpa2)), -1, false);
    slow[1] = asm_jcc(b, CC_NE);
    asm_load(b, page, mem_at(block, offsetof(struct bt_block, rip)));
    asm_mem(b, true, 0x03, page, mem_gs(offsetof(struct x86_cpu, seg[X86_CS].eff_base)));
    asm_mem(b, true, 0x23, page, mem_gs(offsetof(struct x86_cpu, lin_mask))); // and
    asm_mov(b, entry, page);
    asm_shift(b, true, 5, entry, PAGE_SHIFT - 6);
    and_imm(b, false, entry, (X86_TLB_ENTRIES - 1) << 6);
    asm_load(b, BT_S1, mem_gs(offsetof(struct x86_cpu, tlb)));
    asm_mem(b, true, 0x03, entry, mem_at(BT_S1, offsetof(struct x86_tlb, cur)));
    and_imm(b, true, page, (int32_t)PAGE_MASK);
    asm_mem(b, true, 0x3b, page, mem_at(entry, offsetof(struct x86_tlb_entry, tag_exec)));
    slow[2] = asm_jcc(b, CC_NE);
    asm_load(b, BT_S1, mem_at(block, offsetof(struct bt_block, gpa)));
    and_imm(b, true, BT_S1, (int32_t)PAGE_MASK);
    asm_mem(b, true, 0x3b, BT_S1, mem_at(entry, offsetof(struct x86_tlb_entry, gpa)));
    slow[3] = asm_jcc(b, CC_NE);
    asm_shift(b, true, 5, page, PAGE_SHIFT); // bt_mapped_index()
    asm_mem(b, false, 0x69, BT_S1, mem_at(block, offsetof(struct bt_block, context)));
    asm32(b, BT_MAPPED_MIX);
    asm_reg(b, false, 0x31, BT_S1, page); // xor
    and_imm(b, false, page, X86_FRAME_MAPPED - 1);
    asm_load32(b, BT_S1, mem_at(block, offsetof(struct bt_block, identity)));
    asm_store32(b, (struct bt_mem){BT_REG_NONE, HOST_RDX, 2, true, (int32_t)FRAME(mapped)}, BT_S1);
    asm_load32(b, BT_S1, mem_at(block, offsetof(struct bt_block, entry_a)));
    asm_mov_imm(b, BT_S2, (uintptr_t)bt->rx);
    asm_reg(b, true, 0x01, BT_S2, BT_S1);
    asm_load(b, HOST_RCX, mem_gs(FRAME(scratch[2])));
    asm_load(b, HOST_RDX, mem_gs(FRAME(scratch[3])));
    asm_reg(b, false, 0xff, 4, BT_S1); // jmp
    for (unsigned i = 0; i < ARRAY_SIZE(slow); i++)
        asm_fix(slow[i], b->p);
    asm_load(b, HOST_RCX, mem_gs(FRAME(scratch[2])));
    asm_load(b, HOST_RDX, mem_gs(FRAME(scratch[3])));
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
    bt->stub_miss = offset(bt, &b);
    refill(bt, &b);
    helper(bt, &b, bt_on_miss);
    bt->stub_slow = helper(bt, &b, bt_on_slow);
    bt->stub_scattered = helper(bt, &b, bt_on_miss);
    bt->stub_exec = helper(bt, &b, bt_on_exec);
    bt->stub_seg = helper(bt, &b, bt_on_seg);
    bt->stub_exit = helper(bt, &b, bt_on_exit);
    bt->stub_branch = helper(bt, &b, bt_on_branch);
    bt->stub_step = helper(bt, &b, bt_on_step);
    bt->stub_system = helper(bt, &b, bt_on_system);
    bt->stub_poll = helper(bt, &b, bt_on_poll);
    bt->stub_entry = offset(bt, &b);
    recheck(bt, &b);
    helper(bt, &b, bt_on_entry);
    bt->stub_fp = helper(bt, &b, bt_on_fp);
    bt->used = bt->stubs_end = (offset(bt, &b) + 63) & ~63u;
}
