// SPDX-License-Identifier: Apache-2.0
// What particular instructions need so that they do more than fault: stack frames, string pointers,
// selectors, masks, divisors.
#include "gen.h"
#include <string.h>

// State components that a host may enable and Croft does not have (SDM vol. 1, 13.1).
#define UNSHARED_COMPONENTS 0xfffffff8u

// The segment of an address without base register.
static int data_segment(const struct gen *g)
{
    return g->seg < 0 && !g->code64 ? X86_DS : g->seg;
}

static int string_segment(const struct gen *g)
{
    return g->code64 ? -1 : X86_ES;
}

static void prepare_strings(struct gen *g)
{
    unsigned size = memory_size(g);
    int source_seg = data_segment(g), target_seg = string_segment(g);
    if (has_kind(g, X86_OPND_STR_SRC))
        aim_reg(g, X86_RSI, source_seg, pick_data(g, size), size);
    if (has_kind(g, X86_OPND_STR_DST))
        aim_reg(g, X86_RDI, target_seg, pick_data(g, size), size);
    if (has_kind(g, X86_OPND_STR_SRC) && has_kind(g, X86_OPND_STR_DST) && chance(g, 25)) {
        // Overlapping, near each other.
        uint64_t source = ORACLE_WINDOW_BASE + 0x800 + below(g, 0x800);
        aim_reg(g, X86_RSI, source_seg, source, size);
        aim_reg(g, X86_RDI, target_seg, source + below(g, 41) - 20, size);
    }
    if (g->rep) {
        unsigned adsize = address_size(g);
        uint64_t count = chance(g, 3) ? below(g, 5000) : below(g, 41);
        if (adsize < 8 && chance(g, 50))
            count |= rng_next(&g->rng) << (adsize * 8);
        set_reg(g, X86_RCX, count);
    }
}

static void prepare_far_return(struct gen *g)
{
    unsigned size = operand_size(g);
    uint64_t frame[5] = {0}, sp = stack_linear(g);
    uint8_t bytes[40];
    uint16_t cs = chance(g, 45) ? g->c->in.cs : (uint16_t)pick_selector(g);
    frame[0] = pick_code(g, cs);
    frame[1] = cs;
    if (size > 2 && chance(g, 25)) // above the selector: ignored
        frame[1] |= rng_next(&g->rng) << 16;
    if (is(g, "iret")) {
        frame[2] = rng_next(&g->rng) & 0x254fff;
        frame[3] = pick_data(g, 8);
        frame[4] = chance(g, 70) ? ORACLE_DATA : pick_selector(g);
    }
    for (unsigned i = 0; i < 5; i++)
        memcpy(bytes + i * size, &frame[i], size);
    if (chance(g, 95))
        patch(g, sp, bytes, 5 * size);
}

static void prepare_stack(struct gen *g)
{
    uint64_t value;
    if (chance(g, 25) || g->edge || is(g, "ret") || is(g, "retf") || is(g, "iret") || is(g, "popf"))
        aim_stack(g, X86_RSP, pick_data(g, 8));
    else
        g->locked |= 1u << X86_RSP;
    if (is(g, "leave") || is(g, "enter")) {
        aim_stack(g, X86_RBP, pick_data(g, 8));
        return;
    }
    if (is(g, "ret")) {
        value = pick_code(g, g->c->in.cs);
        if (chance(g, 95))
            patch(g, stack_linear(g), &value, 8);
    } else if (is(g, "retf") || is(g, "iret")) {
        prepare_far_return(g);
    } else if (is(g, "popf")) {
        value = rng_next(&g->rng) & (chance(g, 50) ? 0xffffffff : 0x254dd5);
        patch(g, stack_linear(g), &value, 8);
    } else if (is(g, "pop") && has_kind(g, X86_OPND_FIXED_SREG)) {
        value = pick_selector(g);
        patch(g, stack_linear(g), &value, 8);
    }
}

void prepare_registers(struct gen *g)
{
    struct oracle_state *in = &g->c->in;
    unsigned reg = g->modrm_reg | g->rex_r << 3;
    if (is_string(g))
        prepare_strings(g);
    if (g->form->attr & X86_INSN_STACK)
        prepare_stack(g);
    if (starts(g, "maskmov"))
        aim_reg(g, X86_RDI, data_segment(g), pick_data(g, is(g, "maskmovq") ? 8 : 16), 16);
    if (starts(g, "vmaskmovdqu"))
        aim_reg(g, X86_RDI, data_segment(g), pick_data(g, 16), 16);
    if (is(g, "xlatb")) {
        aim_reg(g, X86_RBX, data_segment(g), pick_data(g, 1), 1);
        in->gpr[X86_RBX] -= (uint8_t)in->gpr[X86_RAX];
    }
    if (is(g, "xgetbv"))
        // 0 tells XCR0, which on the host has more bits than Croft's.
        set_reg(g, X86_RCX, chance(g, 70) ? 1 : 2 + below(g, 0xfffffffe));
    if (starts(g, "xsave") || starts(g, "xrstor")) {
        set_reg(g, X86_RAX, rng_next(&g->rng) & ~(uint64_t)UNSHARED_COMPONENTS);
        set_reg(g, X86_RDX, value_int(&g->rng));
    }
    if (starts(g, "loop") || starts(g, "jcxz") || starts(g, "jecxz") || starts(g, "jrcxz"))
        in->gpr[X86_RCX] = chance(g, 70) ? below(g, 3) : in->gpr[X86_RCX];
    if ((is(g, "bt") || is(g, "bts") || is(g, "btr") || is(g, "btc")) &&
        has_kind(g, X86_OPND_REG) && g->has_mem)
        set_reg(g, reg, (below(g, 0x10000) - 0x8000) & (chance(g, 50) ? ~UINT64_C(0) : 0xffff));
    if (has_kind(g, X86_OPND_FIXED_GPR) && chance(g, 50) && !(g->locked >> X86_RCX & 1))
        in->gpr[X86_RCX] = (in->gpr[X86_RCX] & ~UINT64_C(0xff)) | below(g, 72);
    if ((is(g, "div") || is(g, "idiv")) && chance(g, 75)) {
        unsigned bits = g->form->operand[0].size == 1 ? 8 : operand_size(g) * 8;
        int64_t low = (int64_t)(in->gpr[X86_RAX] << (64 - bits)) >> 63;
        if (bits == 8)
            in->gpr[X86_RAX] = (in->gpr[X86_RAX] & ~UINT64_C(0xff00)) |
                               (is(g, "div") ? below(g, 16) << 8 : (uint64_t)(low & 0xff00));
        else
            in->gpr[X86_RDX] = is(g, "div") ? below(g, 16) : (uint64_t)low;
    }
    if (has_kind(g, X86_OPND_VSIB)) // masks: whole elements set or clear, mostly
        for (unsigned i = 0; i < 16; i++)
            for (unsigned e = 0; e < 4; e++) {
                uint64_t mask = chance(g, 60)   ? ~UINT64_C(0)
                                : chance(g, 60) ? 0
                                                : rng_next(&g->rng);
                memcpy(in->fpu.ymm[i] + 8 * e, &mask, 8);
            }
}

// The selector of a far CALL or JMP.
uint16_t pick_far(struct gen *g)
{
    uint16_t sel = chance(g, 45) ? g->c->in.cs : (uint16_t)pick_selector(g);
    // To 64-bit code AMD's processors push with 64 bits of RSP: its upper part is the kernel's while the
    // stack is a 16-bit one, and from the bottom of a stack the push goes to an address of the kernel's,
    // where Linux tries again for ever.
    if (!g->code64 && (sel | 3) == ORACLE_CS64 &&
        (!(oracle_segment(g->c->in.ss).attr & X86_ATTR_DB) || g->c->in.gpr[X86_RSP] < 0x100))
        sel = g->c->in.cs;
    return sel;
}

// Values for the operand in memory or in the register that ModRM.rm names, once that is known.
void prepare_operand(struct gen *g)
{
    struct oracle_state *in = &g->c->in;
    unsigned rm = g->modrm_rm | g->rex_b << 3;
    uint64_t value = 0;
    unsigned size = 0;
    if (starts(g, "jmp") || starts(g, "call")) {
        struct {
            uint64_t offset;
            uint16_t sel;
        } __attribute__((packed)) far_ptr;
        bool is_far = g->has_mem && g->form->operand[0].vary == 'p';
        if (has_kind(g, X86_OPND_RM) && !is_far) {
            value = pick_code(g, in->cs);
            size = 8;
        } else if (is_far) {
            unsigned off_size = operand_size(g);
            far_ptr.sel = pick_far(g);
            far_ptr.offset = pick_code(g, far_ptr.sel);
            uint8_t bytes[10];
            memcpy(bytes, &far_ptr.offset, 8);
            if (off_size == 8 && g->form->attr & X86_INSN_AMD_W0)
                off_size = chance(g, 80) ? 4 : 8;
            memcpy(bytes + off_size, &far_ptr.sel, 2);
            patch(g, g->target, bytes, off_size + 2);
            return;
        }
    } else if (is(g, "mov") && has_kind(g, X86_OPND_SREG)) {
        value = pick_selector(g);
        size = 2;
    } else if (is(g, "lar") || is(g, "lsl") || is(g, "verr") || is(g, "verw") || is(g, "arpl")) {
        value = pick_selector(g);
        size = 2;
    } else if (is(g, "bound") && g->has_mem && chance(g, 60)) {
        uint64_t bounds = operand_size(g) == 2 ? 0x7fff8000 : UINT64_C(0x7fffffff80000000);
        patch(g, g->target, &bounds, operand_size(g) * 2);
        return;
    } else if (g->has_mem &&
               (is(g, "lss") || is(g, "lfs") || is(g, "lgs") || is(g, "lds") || is(g, "les"))) {
        uint16_t sel = (uint16_t)pick_selector(g);
        unsigned off_size = operand_size(g) == 2 ? 2 : 4;
        patch(g, g->target + off_size, &sel, 2);
        return;
    } else if (is(g, "ldmxcsr") || is(g, "vldmxcsr")) {
        value = rng_next(&g->rng) & (chance(g, 70) ? 0xffff : 0xffffffff);
        size = 4;
    } else if (starts(g, "fxrstor") && g->has_mem) {
        uint32_t mxcsr = (uint32_t)rng_next(&g->rng) & (chance(g, 70) ? 0xffff : 0xffffffff);
        uint64_t control = in->fpu.fcw | (uint64_t)in->fpu.fsw << 16 | (uint64_t)0xff << 32;
        patch(g, g->target, &control, 8);
        patch(g, g->target + 24, &mxcsr, 4);
        return;
    } else if (starts(g, "xrstor") && g->has_mem) {
        // XSTATE_BV, XCOMP_BV and zeros; sometimes not what XRSTOR accepts.
        uint64_t header[8] = {rng_next(&g->rng) & 7};
        uint32_t mxcsr = (uint32_t)rng_next(&g->rng) & (chance(g, 85) ? 0xffff : 0xffffffff);
        if (chance(g, 40))
            header[1] = UINT64_C(1) << 63 | header[0] | (rng_next(&g->rng) & 7);
        if (chance(g, 8))
            header[below(g, 2)] ^= UINT64_C(1) << (chance(g, 50) ? below(g, 3) : 10 + below(g, 54));
        if (chance(g, 4))
            header[2 + below(g, 6)] = value_int(&g->rng);
        patch(g, g->target + 512, header, sizeof(header));
        patch(g, g->target + 24, &mxcsr, 4);
        return;
    } else if (is(g, "fldcw")) {
        value = chance(g, 80) ? 0x37f | (rng_next(&g->rng) & 0xf00) : rng_next(&g->rng);
        size = 2;
    } else if (is(g, "cmpxchg") && g->has_mem) {
        if (chance(g, 50))
            in->gpr[X86_RAX] = g->locked & 1 ? in->gpr[X86_RAX] : peek(g, g->target);
        return;
    } else if (starts(g, "cmpxchg") && g->has_mem && chance(g, 60)) {
        bool wide = g->w;
        if (!(g->locked >> X86_RAX & 1))
            in->gpr[X86_RAX] = peek(g, g->target);
        if (!(g->locked >> X86_RDX & 1))
            in->gpr[X86_RDX] = peek(g, g->target + (wide ? 8 : 4));
        return;
    }
    if (!size)
        return;
    if (g->has_mem)
        patch(g, g->target, &value, size);
    else if (!(g->locked >> rm & 1))
        in->gpr[rm] = size == 2 ? (in->gpr[rm] & ~UINT64_C(0xffff)) | value : value;
}
