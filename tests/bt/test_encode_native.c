// SPDX-License-Identifier: Apache-2.0
// bt_encode() against the host's processor: a 64-bit guest instruction on its own registers and what it becomes on
// other ones must do the same. General, vector and MMX registers are permuted at random; implicit registers keep
// their places, and so does RSP, which no case names.
//
//     test-bt-encode-native [samples per form] [seed]
#include "engine/bt/encode.h"
#include "generate.h"
#include "native.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PER_FORM 400
#define SHOWN 40

struct trial {
    struct sample s;
    struct x86_insn x;
    const struct x86_form *form;
    uint8_t gpr[16], vec[16], mmx[8]; // the host's number of each of the guest's
    struct bt_mem mem;
    struct bt_operands o;
    uint8_t out[BT_ENCODE_MAX];
    unsigned len;
};

static uint8_t memory[NATIVE_MEMORY] __attribute__((aligned(64)));
static unsigned failures, ran, faulted, impossible, forms_run;

static uint64_t gs_base(void) // within reach of a displacement
{
    return (uint64_t)(uintptr_t)memory + 0x123450;
}

static void fail(const struct trial *t, const char *why, unsigned which)
{
    if (failures++ >= SHOWN)
        return;
    printf("%s: %s %u: ", t->form->name, why, which);
    for (unsigned i = 0; i < t->x.len; i++)
        printf("%02x", t->s.bytes[i]);
    printf(" -> ");
    for (unsigned i = 0; i < t->len; i++)
        printf("%02x", t->out[i]);
    printf("\n");
}

// --- which cases

static bool has_kind(const struct x86_form *form, unsigned kind)
{
    for (unsigned i = 0; i < form->operand_count; i++)
        if (form->operand[i].kind == kind)
            return true;
    return false;
}

static bool is_wanted(const struct x86_form *form)
{
    return (form->treatment == X86_TREAT_COPY || form->treatment == X86_TREAT_MEM) &&
           !(form->attr & (X86_INSN_X87 | X86_INSN_STACK | X86_INSN_INTEL | X86_INSN_NO64));
}

// Whether the case can run: memory at a place of our choice, RSP not named.
static bool can_run(const struct trial *t)
{
    const struct x86_insn *x = &t->x;
    for (unsigned i = 0; i < t->form->operand_count; i++) {
        unsigned kind = t->form->operand[i].kind;
        struct x86_operand op = x86_operand_get(x, i);
        bool gpr = kind == X86_OPND_RM || kind == X86_OPND_RM_REG || kind == X86_OPND_REG ||
                   kind == X86_OPND_OPREG || kind == X86_OPND_VVVV_GPR;
        if (gpr && !op.is_mem && op.reg == X86_RSP)
            return false;
    }
    if (!x->has_mem)
        return true;
    if (x->adsize != 8 || x->seg == X86_FS || x->seg == X86_GS)
        return false;
    if (has_kind(t->form, X86_OPND_MOFFS))
        return true;
    // BT's bit offset goes anywhere.
    bool bit = t->form->mnemonic_id == X86_MN_BT || t->form->mnemonic_id == X86_MN_BTS ||
               t->form->mnemonic_id == X86_MN_BTR || t->form->mnemonic_id == X86_MN_BTC;
    return x->base < 16 && x->base != X86_RSP && x->index != x->base && !(bit && t->form->imm == 0);
}

// --- the host's side of it

// A random order of 0..count-1; those in `fixed` keep their places.
static void permute(uint8_t *map, unsigned count, uint32_t fixed, uint64_t *rng)
{
    for (unsigned i = 0; i < count; i++)
        map[i] = (uint8_t)i;
    for (unsigned i = count - 1; i > 0; i--) {
        unsigned k = random_next(rng) % (i + 1);
        if ((fixed >> i & 1) || (fixed >> k & 1))
            continue;
        uint8_t old = map[i];
        map[i] = map[k];
        map[k] = old;
    }
}

static void choose_registers(struct trial *t, uint64_t *rng)
{
    uint32_t fixed = 1 << X86_RSP | t->form->gpr_read | t->form->gpr_write;
    bool high = t->x.reg >= X86_REG8_HIGH || t->x.rm >= X86_REG8_HIGH;
    for (unsigned i = 0; i < t->form->operand_count; i++) {
        const struct x86_operand_desc *d = &t->form->operand[i];
        if (d->kind == X86_OPND_FIXED_GPR && d->fixed == X86_RCX)
            fixed |= 1 << X86_RCX;
    }
    permute(t->gpr, 16, fixed, rng);
    if (high) { // AH and its like have no register beyond RBX to go to, and no REX
        uint8_t low[4];
        permute(t->gpr, 16, 0xffff, rng);
        permute(low, 4, fixed, rng);
        memcpy(t->gpr, low, sizeof(low));
    }
    // PCMPxSTRM write XMM0, which is no operand of theirs.
    bool xmm0 = has_kind(t->form, X86_OPND_XMM0) || strstr(t->form->mnemonic, "strm") != NULL;
    permute(t->vec, 16, xmm0, rng);
    permute(t->mmx, 8, 0, rng);
}

static uint8_t host_gpr(const struct trial *t, uint8_t reg)
{
    return reg >= X86_REG8_HIGH ? (uint8_t)(t->gpr[reg - X86_REG8_HIGH] + X86_REG8_HIGH)
                                : t->gpr[reg];
}

static void choose_operands(struct trial *t)
{
    const struct x86_insn *x = &t->x;
    t->o = (struct bt_operands){0};
    for (unsigned i = 0; i < t->form->operand_count; i++) {
        const struct x86_operand_desc *d = &t->form->operand[i];
        switch (d->kind) {
        case X86_OPND_RM:
        case X86_OPND_RM_REG:
            t->o.rm = x->has_mem ? 0 : host_gpr(t, x->rm);
            break;
        case X86_OPND_REG:
        case X86_OPND_OPREG:
            t->o.reg = host_gpr(t, x->reg);
            break;
        case X86_OPND_FIXED_GPR:
            if (has_kind(t->form, X86_OPND_OPREG))
                t->o.rm = t->gpr[X86_RAX];
            else if (d->fixed == X86_RAX)
                t->o.reg = t->gpr[X86_RAX];
            break;
        case X86_OPND_VVVV_GPR:
            t->o.vvvv = t->gpr[x->vvvv];
            break;
        case X86_OPND_VEC_REG:
            t->o.reg = t->vec[x->reg];
            break;
        case X86_OPND_VEC_RM:
        case X86_OPND_VEC_RM_REG:
            t->o.rm = t->vec[x->rm];
            break;
        case X86_OPND_VEC_VVVV:
            t->o.vvvv = t->vec[x->vvvv];
            break;
        case X86_OPND_VEC_IS4:
            t->o.is4 = t->vec[x->is4];
            break;
        case X86_OPND_MMX_REG:
            t->o.reg = t->mmx[x->reg];
            break;
        case X86_OPND_MMX_RM:
        case X86_OPND_MMX_RM_REG:
            t->o.rm = t->mmx[x->rm];
            break;
        default:
            break;
        }
    }
    if (!x->has_mem)
        return;
    t->o.mem = &t->mem;
    t->mem = (struct bt_mem){.base = t->gpr[x->base & 15],
                             .index = x->index != X86_REG_NONE ? t->gpr[x->index] : BT_REG_NONE,
                             .scale = x->scale,
                             .disp = (int32_t)x->disp};
}

// The same place by the GS base alone.
static void choose_gs(struct trial *t, uint64_t at)
{
    t->mem = (struct bt_mem){
        .base = BT_REG_NONE, .index = BT_REG_NONE, .gs = true, .disp = (int32_t)(at - gs_base())};
}

// --- the state before

static uint64_t random_value(uint64_t *rng)
{
    static const uint64_t edges[] = {0,          1,          0x7f,       0x80, 0x8000,
                                     0x7fffffff, 0x80000000, 1ull << 63, ~0ull};
    uint64_t r = random_next(rng);
    return r % 3 == 0   ? edges[(r >> 8) % ARRAY_SIZE(edges)]
           : r % 3 == 1 ? r >> 8 & 0xff
                        : random_next(rng);
}

static void random_state(struct native_state *s, uint64_t *rng)
{
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = random_value(rng);
    for (unsigned i = 0; i < 8; i++)
        s->mm[i] = random_value(rng);
    for (unsigned i = 0; i < sizeof(s->ymm) / 8; i++) {
        uint64_t v = random_value(rng);
        memcpy((uint8_t *)s->ymm + 8 * i, &v, 8);
    }
    s->flags = random_next(rng);
}

// Makes the memory operand lie in `memory`; where.
static uint64_t place_memory(struct trial *t, struct native_state *s, uint64_t *rng)
{
    const struct x86_insn *x = &t->x;
    const uint64_t offset = random_next(rng) & 63;
    const bool any = random_next(rng) & 1; // else one of two places
    uint64_t at = (uint64_t)(uintptr_t)memory + 64 + (offset & (any ? 63 : 32));
    if (has_kind(t->form, X86_OPND_MOFFS)) {
        memcpy(t->s.bytes + x->len - 8, &at, 8);
        return at;
    }
    uint64_t index = x->index != X86_REG_NONE ? s->gpr[x->index] << x->scale : 0;
    s->gpr[x->base] = at - index - (uint64_t)x->disp;
    return at;
}

// --- one case

static void compare(const struct trial *t, const struct native_state *guest,
                    const struct native_state *host)
{
    for (unsigned i = 0; i < 16; i++)
        if (i != X86_RSP && guest->gpr[i] != host->gpr[t->gpr[i]])
            return fail(t, "general register", i);
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(guest->ymm[i], host->ymm[t->vec[i]], 32) != 0)
            return fail(t, "vector register", i);
    for (unsigned i = 0; i < 8; i++)
        if (guest->mm[i] != host->mm[t->mmx[i]])
            return fail(t, "MMX register", i);
    if (guest->flags != host->flags)
        fail(t, "flags", (unsigned)(guest->flags ^ host->flags));
}

static bool check(struct trial *t, uint64_t *rng)
{
    struct native_state guest, host;
    uint8_t before[NATIVE_MEMORY], after[NATIVE_MEMORY];

    choose_registers(t, rng);
    random_state(&guest, rng);
    uint64_t at = t->x.has_mem ? place_memory(t, &guest, rng) : 0;
    choose_operands(t);
    if (has_kind(t->form, X86_OPND_MOFFS)) { // the host goes by a register
        t->mem = (struct bt_mem){.base = t->gpr[X86_RBX], .index = BT_REG_NONE};
        guest.gpr[X86_RBX] = at;
    }
    if (t->x.has_mem && t->form->mnemonic_id != X86_MN_LEA && random_next(rng) % 4 == 0)
        choose_gs(t, at);
    t->len = bt_encode(t->out, &t->x, &t->o);
    if (t->len == 0) {
        impossible++;
        return false;
    }
    host = guest;
    for (unsigned i = 0; i < 16; i++) {
        host.gpr[t->gpr[i]] = guest.gpr[i];
        memcpy(host.ymm[t->vec[i]], guest.ymm[i], 32);
        host.mm[t->mmx[i & 7]] = guest.mm[i & 7];
    }
    for (unsigned i = 0; i < sizeof(before); i += 8) {
        uint64_t v = random_value(rng);
        memcpy(before + i, &v, 8);
    }
    memcpy(memory, before, sizeof(memory));
    int guest_signal = native_run(&guest, t->s.bytes, t->x.len);
    memcpy(after, memory, sizeof(memory));
    memcpy(memory, before, sizeof(memory));
    int host_signal = native_run(&host, t->out, t->len);
    if (guest_signal != host_signal)
        fail(t, "signal", (unsigned)host_signal);
    else if (memcmp(after, memory, sizeof(memory)) != 0)
        fail(t, "memory", 0);
    else if (guest_signal == 0)
        compare(t, &guest, &host);
    ran++;
    faulted += guest_signal != 0;
    return guest_signal == 0;
}

int main(int argc, char **argv)
{
    unsigned per_form = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : PER_FORM;
    uint64_t rng = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;

    if (!__builtin_cpu_supports("avx2")) {
        printf("no AVX2 here\n");
        return 77;
    }
    native_init(gs_base());
    for (unsigned id = 0; id < X86_FORM_COUNT; id++) {
        unsigned completed = 0;
        if (!is_wanted(&x86_forms[id]))
            continue;
        for (unsigned i = 0; i < per_form; i++) {
            struct trial t = {.s.code = X86_CODE64, .form = &x86_forms[id]};
            generate_form(&t.s, t.form, &rng);
            if (x86_decode(&t.x, t.s.bytes, SAMPLE_BYTES, X86_CODE64, NULL) == X86_DECODE_OK &&
                t.x.form == id && can_run(&t))
                completed += check(&t, &rng);
        }
        forms_run += completed != 0;
        if (completed == 0)
            printf("no case completed: %s\n", x86_forms[id].name);
    }
    printf("%u cases of %u forms, %u faulted, %u could not be encoded, %u failures\n", ran,
           forms_run, faulted, impossible, failures);
    return failures != 0;
}
