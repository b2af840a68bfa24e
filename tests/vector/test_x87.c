// SPDX-License-Identifier: Apache-2.0
// Random x87 and MMX sequences on Croft, state resident in the host's unit between instructions, and on the
// host with the state saved after each: everything that FNSAVE stores, memory, flags and exceptions must
// agree. Then the image formats of FNSTENV and FLDENV, and the pointers.

#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct bench *b;
static uint8_t before_area[AREA_SIZE];

static unsigned pick(unsigned n)
{
    return (unsigned)(bench_random(b) >> 33) % n;
}

struct step {
    uint8_t bytes[8];
    unsigned len;
    bool env;     // FNSTENV, FNSAVE: the host's image holds its own addresses
    unsigned off; // of the memory operand
    bool wide;
    bool patch; // a control word to be stored at the operand first
    uint16_t patch_value;
    int want;
    uint16_t fcw, fsw, ftw; // on the host, before
};
#define STEPS_MAX 12

static void random_value(uint8_t *st)
{
    static const uint16_t exponents[] = {0,      0x3fff, 0x7fff, 0xffff, 0xbfff, 1,
                                         0x7ffe, 0x3ffe, 0x4000, 0x401e, 0x403e, 0xc03e};
    uint64_t significand = bench_random(b);
    uint16_t exponent = (uint16_t)bench_random(b);
    if (pick(3))
        exponent = exponents[pick(12)];
    if (pick(3))
        significand |= UINT64_C(1) << 63;
    if (pick(4) == 0)
        significand = UINT64_C(1) << 63;
    if (pick(8) == 0)
        significand = pick(2) ? UINT64_C(3) << 62 : 0;
    memcpy(st, &significand, 8);
    memcpy(st + 8, &exponent, 2);
}

static void random_state(void)
{
    struct native_state *n = &b->native;
    for (unsigned i = 0; i < 16; i++) {
        bench_fill(b, n->vec[i], 32);
        bench_fill(b, &n->gpr[i], 8);
    }
    bench_fill(b, b->native_area, AREA_SIZE);
    for (unsigned i = 0; i < 100; i++)
        random_value(b->native_area + pick(AREA_SIZE - 16));
    n->mxcsr = 0x1f80;
    n->rflags = 0x202 | (bench_random(b) & X86_FLAGS_ARITH);
    n->x87 = (struct native_fsave){.fcw = 0x340 | pick(4) << 10 | pick(4) << 8};
    n->x87.fcw |= pick(3) ? 0x3f : pick(64);
    n->x87.fsw = (unsigned)bench_random(b) & 0x7f7f;
    if (pick(2))
        n->x87.fsw &= ~0x3fu;
    n->x87.ftw = pick(3) ? (uint16_t)(bench_random(b) & bench_random(b)) : 0xffff;
    for (unsigned i = 0; i < 8; i++)
        random_value(n->x87.st[i]);
    native_run(n, (const uint8_t[]){0x90}, 1); // ES and tags as the host makes them
    n->gpr[X86_RBX] = (uintptr_t)b->native_area;
    n->gpr[X86_RDI] = (uintptr_t)b->native_area + 64;
}

static void random_step(struct step *s)
{
    *s = (struct step){0};
    s->off = pick(4) ? 16 * pick(400) : pick(6000);
    unsigned kind = pick(20);
    if (kind == 0) { // MMX in between
        static const uint8_t ops[] = {0xfc, 0xd4, 0xef, 0x6f, 0x77};
        uint8_t op = ops[pick(5)];
        memcpy(s->bytes, (uint8_t[]){0x0f, op, (uint8_t)(0xc0 | pick(64))}, 3);
        s->len = op == 0x77 ? 2 : 3;
        return;
    }
    if (kind == 1) {
        s->bytes[0] = 0x9b;
        s->len = 1;
        return;
    }
    unsigned o = 0;
    if (kind == 2)
        s->bytes[o++] = 0x66;
    s->wide = kind != 2;
    uint8_t op = (uint8_t)(0xd8 + pick(8));
    s->bytes[o++] = op;
    if (pick(2)) {
        uint8_t modrm = (uint8_t)(0xc0 + pick(64));
        if (kind == 3)
            op = s->bytes[o - 1] = 0xdb, modrm = 0xe2; // FNCLEX
        if (kind == 4)
            op = s->bytes[o - 1] = 0xdf, modrm = 0xe0; // FNSTSW AX
        s->bytes[o++] = modrm;
    } else {
        unsigned reg = pick(8);
        if (kind == 5)
            s->bytes[o - 1] = op = 0xd9, reg = 5; // FLDCW
        s->env = (op == 0xd9 || op == 0xdd) && reg == 6;
        s->bytes[o++] = (uint8_t)(0x83 | reg << 3);
        uint32_t disp = s->off;
        memcpy(s->bytes + o, &disp, 4);
        o += 4;
        if (op == 0xd9 && reg == 5 && pick(3)) { // a control word that masks
            s->patch = true;
            s->patch_value = (uint16_t)(0x37f | pick(4) << 10);
        }
    }
    s->len = o;
}

// The host's image of FNSTENV has the host's pointers.
static void forget_pointers(const struct step *s, uint8_t *area)
{
    unsigned from = s->wide ? 12 : 6, to = s->wide ? 28 : 14;
    if (s->env && s->want < 0)
        memset(area + s->off + from, 0, to - from);
}

static void print_sequence(const struct step *steps, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct x86_insn insn;
        const struct step *s = &steps[i];
        x86_decode(&insn, s->bytes, s->len, X86_CODE64, &b->model);
        printf("    fcw %04x fsw %04x ftw %04x  %s:", s->fcw, s->fsw, s->ftw,
               x86_forms[insn.form].name);
        for (unsigned k = 0; k < s->len; k++)
            printf(" %02x", s->bytes[k]);
        printf(" -> %d\n", s->want);
    }
}

// The same once more in the interpreter, whose threaded handlers take the usual cases.
static const char *run_in_engine(const struct step *steps, unsigned count,
                                 const struct native_state *before)
{
    static uint8_t after_area[AREA_SIZE];
    struct native_state after = b->native;
    uint8_t code[STEPS_MAX * 8];
    unsigned len = 0;

    memcpy(after_area, b->native_area, AREA_SIZE);
    memcpy(b->native_area, before_area, AREA_SIZE);
    b->native = *before;
    bench_equalize(b);
    b->cpu.gpr[X86_RDI] = AREA + 64;
    b->native = after;
    memcpy(b->native_area, after_area, AREA_SIZE);
    for (unsigned i = 0; i < count; i++) {
        memcpy(code + len, steps[i].bytes, steps[i].len);
        len += steps[i].len;
    }
    if (!bench_engine(b, code, len, count))
        return "did not run";
    const char *why = bench_compare(b, true);
    if (why != NULL)
        printf("in the interpreter:\n");
    return why;
}

// The host first, all of it: its runs use the x87 unit that Croft's state would live in.
static bool run_sequence(unsigned count)
{
    struct step steps[STEPS_MAX];
    struct x86_insn insn;
    bool plain = true; // nothing raised, no memory changed behind the sequence's back

    random_state();
    bench_equalize(b);
    b->cpu.gpr[X86_RDI] = AREA + 64;
    struct native_state before = b->native;
    memcpy(before_area, b->native_area, AREA_SIZE);
    for (unsigned i = 0; i < count; i++) {
        struct step *s = &steps[i];
        do
            random_step(s);
        while (x86_decode(&insn, s->bytes, s->len, X86_CODE64, &b->model) != X86_DECODE_OK);
        if (s->patch)
            memcpy(b->native_area + s->off, &s->patch_value, 2);
        s->fcw = (uint16_t)b->native.x87.fcw;
        s->fsw = (uint16_t)b->native.x87.fsw;
        s->ftw = (uint16_t)b->native.x87.ftw;
        s->want = bench_native(b, s->bytes, s->len);
        if (s->want == X86_XM)
            s->want = X86_MF;
        forget_pointers(s, b->native_area);
        plain &= s->want < 0 && !s->patch && !s->env;
    }
    for (unsigned i = 0; i < count; i++) {
        struct step *s = &steps[i];
        if (s->patch)
            memcpy(b->area + s->off, &s->patch_value, 2);
        int got = bench_exec(b, s->bytes, s->len, true);
        forget_pointers(s, b->area);
        if (got != s->want) {
            print_sequence(steps, i + 1);
            printf("exception %d\n", got);
            x86_fpu_sync(&b->cpu);
            return false;
        }
    }
    const char *why = bench_compare(b, true);
    if (why == NULL && plain)
        why = run_in_engine(steps, count, &before);
    if (why != NULL) {
        print_sequence(steps, count);
        printf("%s\n", why);
    }
    return why == NULL;
}

static bool test_sequences(void)
{
    unsigned loops = getenv("VECTOR_LOOPS") ? (unsigned)atoi(getenv("VECTOR_LOOPS")) : 20000;
    unsigned bad = 0;
    for (unsigned i = 0; i < loops && bad < 12; i++)
        bad += !run_sequence(1 + pick(STEPS_MAX));
    printf("%u x87 sequences differ\n", bad);
    return bad == 0;
}

#define EXPECT(c)                                          \
    do {                                                   \
        if (!(c)) {                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #c); \
            return false;                                  \
        }                                                  \
    } while (0)

static bool run(const uint8_t *code, unsigned len)
{
    return bench_exec(b, code, len, true) == -1;
}

// FIP, FDP, FOP after a load; the four layouts.
static bool test_pointers(void)
{
    struct x86_x87 *x = &b->cpu.x87;
    uint32_t wide[7];
    uint16_t narrow[7];
    random_state();
    bench_equalize(b);
    EXPECT(run((const uint8_t[]){0xdb, 0xe3}, 2));             // fninit
    EXPECT(run((const uint8_t[]){0xdd, 0x43, 0x40}, 3));       // fld qword [rbx + 64]
    EXPECT(run((const uint8_t[]){0xd9, 0xb3, 0, 1, 0, 0}, 6)); // fnstenv [rbx + 256]
    memcpy(wide, b->area + 256, 28);
    EXPECT(wide[0] == 0xffff037f && wide[3] == 0x1000 && wide[4] == (0x543u << 16 | 0x33) &&
           wide[5] == AREA + 64 && wide[6] == 0xffff002b);
    EXPECT(x->fop == 0x543);
    EXPECT(run((const uint8_t[]){0x66, 0xd9, 0xb3, 0, 1, 0, 0}, 7));
    memcpy(narrow, b->area + 256, 14);
    EXPECT(narrow[0] == 0x37f && narrow[3] == 0x1000 && narrow[4] == 0x33 &&
           narrow[5] == (uint16_t)(AREA + 64) && narrow[6] == 0x2b);
    // Real mode: linear addresses and the opcode.
    b->cpu.cr0 &= ~X86_CR0_PE;
    x->fcs = 0x1234, x->fip = 0x5678, x->fds = 0xfff0, x->fdp = 0x9abc;
    EXPECT(run((const uint8_t[]){0xd9, 0xb3, 0, 1, 0, 0}, 6));
    memcpy(wide, b->area + 256, 28);
    EXPECT(wide[3] == 0xffff79b8 && wide[4] == (0x1000u | 0x543) && wide[5] == 0xffff99bc &&
           wide[6] == 0x10000);
    EXPECT(run((const uint8_t[]){0xd9, 0xa3, 0, 1, 0, 0}, 6)); // fldenv
    EXPECT(x->fip == 0x179b8 && x->fdp == 0x1099bc && x->fop == 0x543);
    EXPECT(run((const uint8_t[]){0x66, 0xd9, 0xb3, 0, 1, 0, 0}, 7));
    memcpy(narrow, b->area + 256, 14);
    EXPECT(narrow[3] == 0x79b8 && narrow[4] == (0x1000 | 0x543) && narrow[5] == 0x99bc &&
           narrow[6] == 0);
    EXPECT(run((const uint8_t[]){0x66, 0xd9, 0xa3, 0, 1, 0, 0}, 7));
    EXPECT(x->fip == 0x179b8 && x->fdp == 0x99bc);
    b->cpu.cr0 |= X86_CR0_PE;
    return true;
}

// #NM, #UD and #MF by CR0 and CR4.
static bool test_checks(void)
{
    static const uint8_t fld1[] = {0xd9, 0xe8}, paddb[] = {0x0f, 0xfc, 0xc1};
    static const uint8_t addps[] = {0x0f, 0x58, 0xc1}, vaddps[] = {0xc5, 0xf4, 0x58, 0xc2};
    static const uint8_t fnop[] = {0xd9, 0xd0}, fnstsw[] = {0xdf, 0xe0};
    random_state();
    b->native.x87.fcw = 0x37f, b->native.x87.fsw = 0;
    bench_equalize(b);
    b->cpu.cr0 |= X86_CR0_TS;
    EXPECT(bench_exec(b, fld1, 2, false) == X86_NM && bench_exec(b, paddb, 3, false) == X86_NM);
    EXPECT(bench_exec(b, addps, 3, false) == X86_NM && bench_exec(b, vaddps, 4, false) == X86_NM);
    b->cpu.cr0 = (b->cpu.cr0 & ~X86_CR0_TS) | X86_CR0_EM;
    EXPECT(bench_exec(b, fld1, 2, false) == X86_NM && bench_exec(b, paddb, 3, false) == X86_UD);
    EXPECT(bench_exec(b, addps, 3, false) == X86_UD && bench_exec(b, vaddps, 4, false) == -1);
    b->cpu.cr0 &= ~X86_CR0_EM;
    b->cpu.cr4 &= ~(X86_CR4_OSFXSR | X86_CR4_OSXSAVE);
    EXPECT(bench_exec(b, addps, 3, false) == X86_UD && bench_exec(b, vaddps, 4, false) == X86_UD);
    b->cpu.cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXSAVE;
    b->cpu.x87.fcw = 0x340, b->cpu.x87.fsw = 0x8081;
    EXPECT(bench_exec(b, fnop, 2, false) == X86_MF && bench_exec(b, fnstsw, 2, false) == -1);
    EXPECT(bench_exec(b, paddb, 3, false) == X86_MF && (uint16_t)b->cpu.gpr[0] == 0x8081);
    // SIMD exceptions: #UD when the guest has no handler for #XM.
    b->cpu.mxcsr = 0;
    memset(&b->cpu.vec[0], 0x7f, 16);
    b->cpu.vec[0].u32[0] = 0x7f800001; // signalling
    EXPECT(bench_exec(b, addps, 3, false) == X86_XM && (b->cpu.mxcsr & 1));
    EXPECT(b->cpu.vec[0].u32[0] == 0x7f800001);
    b->cpu.cr4 &= ~X86_CR4_OSXMMEXCPT;
    EXPECT(bench_exec(b, addps, 3, false) == X86_UD);
    b->cpu.cr4 |= X86_CR4_OSXMMEXCPT;
    return true;
}

// Two processors on one thread take turns.
static bool test_sharing(void)
{
    static const uint8_t fld1[] = {0xd9, 0xe8}, fldpi[] = {0xd9, 0xeb}, faddp[] = {0xde, 0xc1};
    struct x86_cpu *other = malloc(sizeof(*other));
    struct x86_insn insn;
    random_state();
    bench_equalize(b);
    EXPECT(run((const uint8_t[]){0xdb, 0xe3}, 2));
    *other = b->cpu;
    EXPECT(run(fld1, 2) && run(fldpi, 2));
    EXPECT(x86_decode(&insn, fldpi, 2, X86_CODE64, &b->model) == X86_DECODE_OK);
    interp_select_vector (&insn)(other, &insn);
    EXPECT(other->fpu_resident == X86_FPU_X87 && b->cpu.fpu_resident == 0);
    EXPECT(run(faddp, 2));
    x86_fpu_sync(other);
    x86_fpu_sync(&b->cpu);
    EXPECT(other->x87.fsw == 0x3800 && b->cpu.x87.fsw >> 11 == 7);
    EXPECT(other->x87.ftw == 0x3fff && b->cpu.x87.ftw == 0x3fff);
    free(other);
    return true;
}

int main(void)
{
    b = bench_create();
    bool ok = test_sequences();
    ok &= test_pointers();
    ok &= test_checks();
    ok &= test_sharing();
    return ok ? 0 : 1;
}
