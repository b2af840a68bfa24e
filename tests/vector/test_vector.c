// SPDX-License-Identifier: Apache-2.0
// Every MMX, SSE and AVX form of the table with random operands, on Croft and on the host: all
// registers, memory, flags, MXCSR and the exception must agree.

#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct encoded {
    uint8_t bytes[20];
    unsigned len;
    bool mem;
    unsigned mem_offset;
    unsigned reg[4]; // vector registers: reg, rm, vvvv, is4; index in rm for gathers
    bool gather;
};

static struct bench *b;

static uint8_t saved_area[AREA_SIZE + 64];

static unsigned pick(unsigned n)
{
    return (unsigned)(bench_random(b) >> 33) % n;
}

static unsigned pick_gpr(void)
{
    static const uint8_t usable[] = {0, 1, 2, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    return usable[pick(sizeof(usable))];
}

// Random bytes of the form. False when the form is not of the kind tested here.
static bool encode(const struct x86_form *f, struct encoded *e)
{
    bool vex = f->attr & X86_INSN_VEX, has_vec = false, maybe_mem = false, maybe_reg = true;
    unsigned reg = 0, rm = 0, vvvv = 0, is4 = 0, mem_size = 0;
    unsigned l = f->l >= 0 ? (unsigned)f->l : pick(2);
    unsigned w = f->w >= 0 ? (unsigned)f->w : pick(2);
    bool imm = f->imm == 1, has_is4 = false;

    memset(e, 0, sizeof(*e));
    if (!(f->attr & (X86_INSN_MMX | X86_INSN_SSE | X86_INSN_VEX)) || f->map == X86_MAP_1)
        return false;
    if (f->modrm_reg >= 0)
        reg = (unsigned)f->modrm_reg;
    for (unsigned i = 0; i < f->operand_count; i++) {
        const struct x86_operand_desc *d = &f->operand[i];
        switch (d->kind) {
        case X86_OPND_VEC_REG:
            reg = pick(16), has_vec = true;
            break;
        case X86_OPND_VEC_RM:
            rm = pick(16), has_vec = maybe_mem = true;
            break;
        case X86_OPND_VEC_RM_REG:
            rm = pick(16), has_vec = true;
            break;
        case X86_OPND_VEC_VVVV:
            vvvv = pick(16), has_vec = true;
            break;
        case X86_OPND_VEC_IS4:
            is4 = pick(16), has_is4 = true;
            break;
        case X86_OPND_MMX_REG:
            reg = pick(8), has_vec = true;
            break;
        case X86_OPND_MMX_RM:
            rm = pick(8), has_vec = maybe_mem = true;
            break;
        case X86_OPND_MMX_RM_REG:
            rm = pick(8), has_vec = true;
            break;
        case X86_OPND_RM:
            rm = pick_gpr(), maybe_mem = true;
            break;
        case X86_OPND_RM_REG:
            rm = pick_gpr();
            break;
        case X86_OPND_RM_MEM:
            maybe_mem = true, maybe_reg = false;
            break;
        case X86_OPND_REG:
            reg = pick_gpr();
            break;
        case X86_OPND_VSIB:
            maybe_mem = e->gather = true, maybe_reg = false;
            break;
        case X86_OPND_VVVV_GPR:
            return false;
        default:
            break;
        }
    }
    if (!has_vec && f->operand_count != 0)
        return false;
    if (f->modrm == 3 || f->modrm == 4)
        maybe_mem = false;
    e->mem = maybe_mem && (!maybe_reg || pick(2));
    (void)mem_size;
    if (e->gather) {
        rm = (reg + 1 + pick(7)) & 15;
        vvvv = (rm + 1 + pick(7)) & 15;
        if (vvvv == reg)
            vvvv = (vvvv + 8) & 15;
        if (vvvv == rm)
            return false;
    }
    e->mem_offset = (f->attr & X86_INSN_ALIGN) && pick(16) ? 32 * pick(250) : pick(8000);
    uint8_t *p = e->bytes;
    unsigned r = reg >> 3, x = 0, base_ext = e->mem ? 0 : rm >> 3;
    if (e->gather)
        x = rm >> 3;
    if (vex) {
        unsigned pp = f->prefix == 0x66 ? 1 : f->prefix == 0xf3 ? 2 : f->prefix == 0xf2 ? 3 : 0;
        *p++ = 0xc4;
        *p++ = (uint8_t)((!r) << 7 | (!x) << 6 | (!base_ext) << 5 | f->map);
        *p++ = (uint8_t)(w << 7 | (~vvvv & 15) << 3 | l << 2 | pp);
    } else {
        if (f->prefix == 0x66 || f->prefix == 0xf2 || f->prefix == 0xf3)
            *p++ = f->prefix;
        if (w || r || base_ext)
            *p++ = (uint8_t)(0x40 | w << 3 | r << 2 | base_ext);
        *p++ = 0x0f;
        if (f->map >= X86_MAP_0F38)
            *p++ = f->map == X86_MAP_0F38 ? 0x38 : 0x3a;
    }
    *p++ = f->opcode;
    if (f->modrm) {
        if (e->gather) {
            *p++ = (uint8_t)(0x84 | (reg & 7) << 3);
            *p++ = (uint8_t)(pick(4) << 6 | (rm & 7) << 3 | 3);
        } else if (e->mem) {
            *p++ = (uint8_t)(0x83 | (reg & 7) << 3);
        } else {
            *p++ = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
        }
        if (e->mem) {
            uint32_t disp = e->gather ? 0 : e->mem_offset;
            memcpy(p, &disp, 4);
            p += 4;
        }
    }
    if (has_is4)
        *p++ = (uint8_t)(is4 << 4);
    else if (imm)
        *p++ = (uint8_t)bench_random(b);
    e->len = (unsigned)(p - e->bytes);
    e->reg[0] = reg, e->reg[1] = rm, e->reg[2] = vvvv;
    return true;
}

static void randomize(const struct x86_form *f, const struct encoded *e)
{
    struct native_state *n = &b->native;
    static const uint32_t modes[] = {0x1f80, 0x1f80, 0x1f80, 0x1fa1, 0x9fc0, 0x3f80, 0x5f80,
                                     0x7f80, 0x0f80, 0x1e80, 0x1d80, 0x1b80, 0x1780, 0x0000};
    for (unsigned i = 0; i < 16; i++) {
        bench_fill(b, n->vec[i], 32);
        bench_fill(b, &n->gpr[i], 8);
    }
    bench_fill(b, b->native_area, AREA_SIZE);
    if (!(f->attr & X86_INSN_FPEXC) || pick(3) == 0) {
        for (unsigned i = 0; i < 16; i++)
            for (unsigned j = 0; j < 4; j++) {
                uint64_t v = bench_random(b);
                memcpy(&n->vec[i][8 * j], &v, 8);
            }
    }
    n->mxcsr = modes[pick(sizeof(modes) / sizeof(modes[0]))];
    n->rflags = 0x202 | (bench_random(b) & X86_FLAGS_ARITH);
    n->x87.fcw = 0x37f, n->x87.fsw = pick(8) << 11 | (pick(2) ? 0x4700 : 0);
    n->x87.ftw = pick(3) ? 0xffff : (uint16_t)bench_random(b);
    for (unsigned i = 0; i < 8; i++) {
        bench_fill(b, n->x87.st[i], 8);
        uint16_t exponent = pick(4) ? (uint16_t)bench_random(b) : 0xffff;
        memcpy(n->x87.st[i] + 8, &exponent, 2);
    }
    // Tags as the host computes them.
    native_run(n, (const uint8_t[]){0x90}, 1);
    n->gpr[X86_RBX] = (uintptr_t)b->native_area;
    n->gpr[X86_RDI] = (uintptr_t)b->native_area + 64;
    if (e->gather) {
        for (unsigned j = 0; j < 8; j++) {
            uint32_t v = pick(500);
            memcpy(&n->vec[e->reg[1]][4 * j], &v, 4);
        }
        if (e->bytes[3] & 1) { // 64-bit indices
            for (unsigned j = 0; j < 4; j++) {
                uint64_t v = pick(500);
                memcpy(&n->vec[e->reg[1]][8 * j], &v, 8);
            }
        }
    }
}

static bool run_once(const struct x86_form *f, const struct encoded *e)
{
    randomize(f, e);
    bench_equalize(b);
    b->cpu.gpr[X86_RDI] = AREA + 64;
    struct native_state before = b->native;
    memcpy(saved_area, b->native_area, sizeof(saved_area));
    int want = bench_native(b, e->bytes, e->len);
    int got = bench_exec(b, e->bytes, e->len, false);
    const char *why = bench_compare(b, true);
    static char text[64];
    if (got != want) {
        sprintf(text, "exception %d, host %d", got, want);
        why = text;
    }
    if (why == NULL &&
        want < 0) { // now twice in the interpreter: the second one has MXCSR resident
        uint8_t twice[40];
        memcpy(twice, e->bytes, e->len);
        memcpy(twice + e->len, e->bytes, e->len);
        b->native = before;
        memcpy(b->native_area, saved_area, sizeof(saved_area));
        bench_equalize(b);
        b->cpu.gpr[X86_RDI] = AREA + 64;
        want = bench_native(b, e->bytes, e->len);
        if (want < 0)
            want = bench_native(b, e->bytes, e->len);
        if (want < 0)
            why = bench_engine(b, twice, 2 * e->len, 2) ? bench_compare(b, true) : "did not run";
    }
    if (why == NULL)
        return true;
    printf("%s%s: ", f->name, e->mem ? " (memory)" : "");
    for (unsigned i = 0; i < e->len; i++)
        printf("%02x ", e->bytes[i]);
    printf("\n    mxcsr %x: %s\n", before.mxcsr, why);
    return false;
}

static bool test_forms(void)
{
    unsigned forms = 0, bad = 0, loops = 40;
    if (getenv("VECTOR_LOOPS"))
        loops = (unsigned)atoi(getenv("VECTOR_LOOPS"));
    for (unsigned id = 0; id < X86_FORM_COUNT; id++) {
        const struct x86_form *f = &x86_forms[id];
        struct encoded e;
        if (strcmp(f->mnemonic, "vzeroall") != 0 && strcmp(f->mnemonic, "vzeroupper") != 0 &&
            strcmp(f->mnemonic, "emms") != 0 && f->operand_count == 0)
            continue;
        if (!encode(f, &e) || !hostexec_has(f->feature))
            continue;
        forms++;
        for (unsigned i = 0; i < loops; i++) {
            if (encode(f, &e) && !run_once(f, &e)) {
                bad++;
                break;
            }
        }
    }
    printf("%u forms, %u differ\n", forms, bad);
    return forms > 600 && bad == 0;
}

// Without cmocka: it takes SIGFPE for itself.
int main(void)
{
    b = bench_create();
    return test_forms() ? 0 : 1;
}
