// SPDX-License-Identifier: Apache-2.0
// Vector memory accesses that touch only some elements: gathers, VMASKMOV, VPMASKMOV, MASKMOVDQU,
// MASKMOVQ. An element whose mask bit is clear is never accessed, so it cannot fault.

#include "engine/interp/exec_vector.h"
#include "x86/paging.h"

#include <string.h>

// Each element's address wraps at the address size.
static uint64_t truncated(const struct x86_insn *insn, uint64_t off)
{
    return insn->adsize == 4 ? (uint32_t)off : insn->adsize == 2 ? (uint16_t)off : off;
}

// Limits and canonical form hold for the whole element, however it is accessed.
static void element_check(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
                          unsigned size, unsigned access)
{
    x86_end_check(cpu, insn->seg, x86_lin(cpu, insn->seg, off, size, access), size);
}

// Processors do not check these accesses for alignment (CR0.AM); an element is then moved by bytes, which
// are always aligned.
static uint64_t read_element(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
                             unsigned size)
{
    uint64_t v = 0;
    off = truncated(insn, off);
    if (unlikely(x86_tlb_align_checked(cpu))) {
        element_check(cpu, insn, off, size, X86_ACCESS_READ);
        for (unsigned i = 0; i < size; i++)
            v |= (uint64_t)x86_read8(cpu, insn->seg, off + i) << (8 * i);
        return v;
    }
    return size == 8 ? x86_read64(cpu, insn->seg, off) : x86_read32(cpu, insn->seg, off);
}

static void check_range(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
                        unsigned size)
{
    unsigned step = x86_tlb_align_checked(cpu) ? 1 : size;
    off = truncated(insn, off);
    element_check(cpu, insn, off, size, X86_ACCESS_WRITE);
    for (unsigned i = 0; i < size; i += step)
        x86_write_check(cpu, insn->seg, off + i, step);
}

static void write_element(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t off,
                          const uint8_t *data, unsigned size)
{
    unsigned step = x86_tlb_align_checked(cpu) ? 1 : size;
    off = truncated(insn, off);
    for (unsigned i = 0; i < size; i += step)
        x86_write_block(cpu, insn->seg, off + i, data + i, step);
}

// --- gathers -------------------------------------------------------------------------------------
// Opcodes 90..93: bit 1 is floating point (same meaning), bit 0 a 64-bit index, W a 64-bit element.
// Each element that was read is in the destination with its mask cleared before the next one may
// fault, so the instruction can be restarted (SDM vol. 2, VGATHER).
static void exec_gather(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_avx(cpu);
    union x86_vec *dst = &cpu->vec[insn->reg & 15], *mask = &cpu->vec[insn->vvvv & 15];
    const union x86_vec *index = &cpu->vec[insn->index & 15];
    bool index64 = insn->opcode & 1;
    unsigned size = x86_insn_form(insn)->w == 1 ? 8 : 4;
    unsigned bytes = insn->vex_l ? 32 : 16;
    unsigned count = bytes / (index64 || size == 8 ? 8 : 4);
    uint64_t start = (uint64_t)insn->disp;

    if (insn->base == X86_REG_RIP)
        start += cpu->rip;
    else if (insn->base != X86_REG_NONE)
        start += cpu->gpr[insn->base & 15];
    for (unsigned i = 0; i < count; i++) {
        uint64_t x = index64 ? index->u64[i] : (uint64_t)(int64_t)(int32_t)index->u32[i];
        uint8_t *m = &mask->u8[i * size];
        if (m[size - 1] & 0x80) {
            uint64_t v = read_element(cpu, insn, start + (x << insn->scale), size);
            memcpy(&dst->u8[i * size], &v, size);
        }
        memset(m, 0, size);
    }
    unsigned used = count * size; // less than a register with 64-bit indices of 32-bit elements
    memset(&dst->u8[used], 0, 32 - used);
    memset(mask, 0, 32);
}

// --- masked loads and stores ---------------------------------------------------------------------

ALWAYS_INLINE void masked_load(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
    vector_check_avx(cpu);
    const union x86_vec *mask = &cpu->vec[insn->vvvv & 15];
    union x86_vec result = {0};
    unsigned count = (insn->vex_l ? 32 : 16) / size;
    uint64_t ea = interp_ea(cpu, insn);
    for (unsigned i = 0; i < count; i++) {
        if (mask->u8[i * size + size - 1] & 0x80) {
            uint64_t v = read_element(cpu, insn, ea + i * size, size);
            memcpy(&result.u8[i * size], &v, size);
        }
    }
    cpu->vec[insn->reg & 15] = result;
}

// Stores the elements of `data` whose mask has its top bit set; all can be written, or none is.
ALWAYS_INLINE void store_elements(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t ea,
                                  const uint8_t *data, const uint8_t *mask, unsigned size,
                                  unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (mask[i * size + size - 1] & 0x80)
            check_range(cpu, insn, ea + i * size, size);
    }
    for (unsigned i = 0; i < count; i++) {
        if (mask[i * size + size - 1] & 0x80)
            write_element(cpu, insn, ea + i * size, &data[i * size], size);
    }
}

ALWAYS_INLINE void masked_store(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
    vector_check_avx(cpu);
    store_elements(cpu, insn, interp_ea(cpu, insn), cpu->vec[insn->reg & 15].u8,
                   cpu->vec[insn->vvvv & 15].u8, size, (insn->vex_l ? 32 : 16) / size);
}

static void exec_load4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    masked_load(cpu, insn, 4);
}
static void exec_load8(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    masked_load(cpu, insn, 8);
}
static void exec_store4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    masked_store(cpu, insn, 4);
}
static void exec_store8(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    masked_store(cpu, insn, 8);
}

static void exec_maskmovdqu(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    if (x86_insn_form(insn)->attr & X86_INSN_VEX)
        vector_check_avx(cpu);
    else
        vector_check_sse(cpu);
    // As AMD's processors have it: two halves, each at an address that wraps; masked bytes and the alignment
    // of each half (CR0.AM) count.
    const uint8_t *data = cpu->vec[insn->reg & 15].u8, *mask = cpu->vec[insn->rm & 15].u8;
    uint64_t half[2] = {truncated(insn, cpu->gpr[X86_RDI]), truncated(insn, cpu->gpr[X86_RDI] + 8)};
    x86_write_check(cpu, insn->seg, half[0], 8);
    x86_write_check(cpu, insn->seg, half[1], 8);
    store_elements(cpu, insn, half[0], data, mask, 1, 8);
    store_elements(cpu, insn, half[1], data + 8, mask + 8, 1, 8);
}

static void exec_maskmovq(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_mmx(cpu);
    x86_fpu_sync(cpu);
    vector_mmx_done(cpu, -1); // even when it faults
    uint64_t off = truncated(insn, cpu->gpr[X86_RDI]);
    x86_write_check(cpu, insn->seg, off, 8);
    store_elements(cpu, insn, off, cpu->x87.reg[insn->reg & 7], cpu->x87.reg[insn->rm & 7], 1, 8);
}

interp_exec_fn *vector_select_mask(const struct x86_insn *insn)
{
    const struct x86_form *form = x86_insn_form(insn);
    const char *m = form->mnemonic;
    bool store = form->operand_count != 0 && form->operand[0].kind != X86_OPND_VEC_REG;

    if (strcmp(m, "maskmovq") == 0)
        return exec_maskmovq;
    if (strcmp(m, "maskmovdqu") == 0 || strcmp(m, "vmaskmovdqu") == 0)
        return exec_maskmovdqu;
    if (!insn->has_mem || form->map != X86_MAP_0F38 || !(form->attr & X86_INSN_VEX))
        return NULL;
    if (strncmp(m, "vpgather", 8) == 0 || strncmp(m, "vgather", 7) == 0)
        return exec_gather;
    if (strcmp(m, "vmaskmovps") == 0 || strcmp(m, "vpmaskmovd") == 0)
        return store ? exec_store4 : exec_load4;
    if (strcmp(m, "vmaskmovpd") == 0 || strcmp(m, "vpmaskmovq") == 0)
        return store ? exec_store8 : exec_load8;
    return NULL;
}
