// SPDX-License-Identifier: Apache-2.0
// Nanoseconds per instruction of short floating-point loops in the interpreter. Not a test.

#include "../engine_under_test.h"
#include "bench.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static const struct {
    const char *name;
    uint8_t code[80];
    unsigned len;
    unsigned mxcsr;
} loops[] = {
#define LOOP(name, mxcsr, ...)                                       \
    {                                                                \
        name, {__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}), mxcsr \
    }
    LOOP("nop x4", 0x1f80, 0x90, 0x90, 0x90, 0x90),
    LOOP("addsd xmm,xmm x4 (independent)", 0x1f80, 0xf2, 0x0f, 0x58, 0xc1, 0xf2, 0x0f, 0x58, 0xd1,
         0xf2, 0x0f, 0x58, 0xd9, 0xf2, 0x0f, 0x58, 0xe1),
    LOOP("addsd xmm0,xmm1 x4 (chain)", 0x1f80, 0xf2, 0x0f, 0x58, 0xc1, 0xf2, 0x0f, 0x58, 0xc1, 0xf2,
         0x0f, 0x58, 0xc1, 0xf2, 0x0f, 0x58, 0xc1),
    LOOP("addsd, rounding up (MXCSR around each) x4", 0x5f80, 0xf2, 0x0f, 0x58, 0xc1, 0xf2, 0x0f,
         0x58, 0xd1, 0xf2, 0x0f, 0x58, 0xd9, 0xf2, 0x0f, 0x58, 0xe1),
    LOOP("movsd load, mulsd mem, subsd, movsd store", 0x1f80, 0xf2, 0x0f, 0x10, 0x03, 0xf2, 0x0f,
         0x59, 0x43, 0x08, 0xf2, 0x0f, 0x5c, 0xc2, 0xf2, 0x0f, 0x11, 0x43, 0x10),
    LOOP("movapd rr, movups load, xorps, movups store", 0x1f80, 0x66, 0x0f, 0x28, 0xc8, 0x0f, 0x10,
         0x03, 0x0f, 0x57, 0xc1, 0x0f, 0x11, 0x43, 0x10),
    LOOP("vaddpd ymm, vmulpd ymm,mem, vpaddd xmm, vxorps", 0x1f80, 0xc5, 0xf5, 0x58, 0xc2, 0xc5,
         0xf5, 0x59, 0x03, 0xc5, 0xf1, 0xfe, 0xc2, 0xc5, 0xf0, 0x57, 0xc2),
    LOOP("cvtsi2sd, cvttsd2si, ucomisd, pshufd", 0x1f80, 0xf2, 0x48, 0x0f, 0x2a, 0xc0, 0xf2, 0x48,
         0x0f, 0x2c, 0xc8, 0x66, 0x0f, 0x2e, 0xc1, 0x66, 0x0f, 0x70, 0xd1, 0x1b),
    LOOP("fld m64, fmul m64, fsub st0, fstp m64", 0x1f80, 0xdd, 0x03, 0xdc, 0x4b, 0x08, 0xd8, 0xe0,
         0xdd, 0x5b, 0x10),
    LOOP("movq mm, paddb mm, pxor mm, movq m", 0x1f80, 0x0f, 0x6f, 0x03, 0x0f, 0xfc, 0xc1, 0x0f,
         0xef, 0xc2, 0x0f, 0x7f, 0x43, 0x10),
};

int main(void)
{
    struct bench *b = bench_create();
    struct x86_cpu *cpu = &b->cpu;
    struct error err = {0};
    double nop = 0;
    b->cpu.rflags = 2;
    struct engine *engine = engine_create_for_test(engine_under_test(), b->memory, &err);
    struct engine_vcpu *vcpu = engine_under_test()->vcpu_create(engine, cpu, &err);
    for (unsigned i = 0; i < sizeof(loops) / sizeof(loops[0]); i++) {
        uint8_t code[256];
        unsigned n = 0, copies = 0;
        while (n + loops[i].len < 100) { // several copies, then jmp back
            memcpy(code + n, loops[i].code, loops[i].len);
            n += loops[i].len;
            copies++;
            if (copies == 6)
                break;
        }
        code[n] = 0xeb;
        code[n + 1] = (uint8_t)(-(int)(n + 2));
        memory_write(b->memory, 0x2000 + 0x1000 * i, code, n + 2);
        cpu->rip = 0x2000 + 0x1000 * i;
        cpu->gpr[X86_RBX] = AREA;
        memset(cpu->vec, 0, sizeof(cpu->vec));
        for (unsigned k = 0; k < 16; k++)
            cpu->vec[k].f64[0] = 1.0 + k;
        cpu->mxcsr = loops[i].mxcsr;
        cpu->x87.fcw = 0x37f, cpu->x87.fsw = 0, cpu->x87.ftw = 0xffff;
        engine_under_test()->set_state(vcpu);
        struct vm_exit exit;
        engine_under_test()->run(vcpu, 1000000, &exit);
        double t = now();
        engine_under_test()->run(vcpu, 10000000, &exit);
        t = (now() - t) / 1e7;
        if (i == 0)
            nop = t;
        printf("%-50s %6.2f ns per instruction (%s)\n", loops[i].name, t,
               exit.reason == VM_EXIT_BUDGET ? "ok" : "stopped");
    }
    (void)nop;
    return 0;
}
