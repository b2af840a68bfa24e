// SPDX-License-Identifier: Apache-2.0
#include "bench.h"
#include "../engine_under_test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bench *bench_create(void)
{
    struct bench *b = aligned_alloc(4096, (sizeof(*b) + 4095) & ~(size_t)4095);
    struct memory_page page;
    struct error err = {0};
    if (b == NULL)
        abort();
    memset(b, 0, sizeof(*b));
    b->seed = 88172645463325252;
    b->memory = memory_create(&err);
    if (b->memory == NULL || memory_add_ram(b->memory, "ram", 0, MIB(1), &err) < 0)
        abort();
    b->platform.memory = b->memory;
    b->cpu.platform = &b->platform;
    memset(b->model.feature, 1, sizeof(b->model.feature));
    b->cpu.model = &b->model;
    if (x86_tlb_create(&b->cpu) < 0)
        abort();
    // 64-bit code without paging does not exist, but it is all that these functions need.
    b->cpu.cr0 = X86_CR0_PE | X86_CR0_NE | X86_CR0_MP | X86_CR0_ET;
    b->cpu.cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_PAE;
    b->cpu.xcr0 = 7;
    b->cpu.code_size = X86_CODE64;
    b->cpu.long_mode = true;
    b->cpu.efer = X86_EFER_LME | X86_EFER_LMA;
    b->cpu.lin_mask = ~UINT64_C(0);
    b->cpu.delivering = -1;
    for (unsigned i = 0; i < X86_SEG_COUNT; i++) {
        b->cpu.seg[i] = (struct x86_seg){
            .attr = i == X86_CS ? 0xa09b : 0xc093, .limit = 0xffffffff, .unchecked = 7};
    }
    b->cpu.seg[X86_CS].sel = 0x33;
    b->cpu.seg[X86_DS].sel = b->cpu.seg[X86_SS].sel = 0x2b;
    x86_tlb_select(&b->cpu);
    if (!memory_page(b->memory, AREA, &page))
        abort();
    b->area = page.host;
    native_init();
    if (hostexec_init(&err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    return b;
}

uint64_t bench_random(struct bench *b)
{
    b->seed ^= b->seed << 13;
    b->seed ^= b->seed >> 7;
    b->seed ^= b->seed << 17;
    return b->seed * UINT64_C(0x2545f4914f6cdd1d);
}

void bench_fill(struct bench *b, void *data, unsigned size)
{
    static const uint64_t doubles[] = {0,
                                       UINT64_C(1) << 63,
                                       0x3ff0000000000000,
                                       0xbff8000000000000,
                                       0x7ff0000000000000,
                                       0xfff0000000000000,
                                       0x7ff8000000000000,
                                       0x7ff0000000000001,
                                       1,
                                       0x000fffffffffffff,
                                       0x7fefffffffffffff,
                                       0x0010000000000000,
                                       0x4059000000000000,
                                       0x41dfffffffc00000};
    static const uint32_t floats[] = {0,          0x80000000, 0x3f800000, 0xbfc00000, 0x7f800000,
                                      0xff800000, 0x7fc00000, 0x7f800001, 1,          0x007fffff,
                                      0x7f7fffff, 0x00800000, 0x42c80000, 0x4effffff};
    uint8_t *p = data;
    unsigned kind = bench_random(b) % 4;
    for (unsigned i = 0; i + 8 <= size; i += 8) {
        uint64_t r = bench_random(b), v = r;
        if (kind == 1 || (kind == 3 && (r >> 60) < 8)) {
            v = doubles[r % ARRAY_SIZE(doubles)];
        } else if (kind == 2) {
            v = floats[r % ARRAY_SIZE(floats)] | (uint64_t)floats[(r >> 20) % ARRAY_SIZE(floats)]
                                                     << 32;
        } else if (kind == 3 && (r >> 60) < 12) {
            double d = (double)(int64_t)(r >> 40) / 16;
            memcpy(&v, &d, 8);
        }
        memcpy(p + i, &v, 8);
    }
}

void bench_equalize(struct bench *b)
{
    struct x86_cpu *cpu = &b->cpu;
    struct native_state *n = &b->native;
    x86_fpu_sync(cpu);
    memcpy(cpu->gpr, n->gpr, sizeof(cpu->gpr));
    cpu->gpr[X86_RBX] = n->gpr[X86_RBX] - (uintptr_t)b->native_area + AREA;
    memcpy(cpu->vec, n->vec, sizeof(cpu->vec));
    cpu->mxcsr = n->mxcsr;
    x86_cc_put(cpu, (uint32_t)n->rflags);
    cpu->x87.fcw = (uint16_t)n->x87.fcw;
    cpu->x87.fsw = (uint16_t)n->x87.fsw;
    cpu->x87.ftw = (uint16_t)n->x87.ftw;
    cpu->x87.fop = (n->x87.fcs_fop >> 16) & 0x7ff;
    unsigned top = (cpu->x87.fsw >> 11) & 7;
    for (unsigned i = 0; i < 8; i++)
        memcpy(cpu->x87.reg[(top + i) & 7], n->x87.st[i], 10);
    memcpy(b->area, b->native_area, AREA_SIZE);
}

int bench_exec(struct bench *b, const uint8_t *code, unsigned len, bool keep_resident)
{
    struct x86_cpu *cpu = &b->cpu;
    struct x86_insn insn;
    volatile int vector = -1;
    if (x86_decode(&insn, code, len, X86_CODE64, &b->model) != X86_DECODE_OK || insn.len != len)
        return X86_UD;
    interp_exec_fn *fn = interp_select_vector(&insn);
    if (fn == NULL)
        return -2;
    cpu->insn_rip = 0x1000;
    cpu->rip = 0x1000 + len;
    if (setjmp(cpu->unwind) == 0)
        fn(cpu, &insn);
    else
        vector = cpu->fault.vector;
    if (!keep_resident)
        x86_fpu_sync(cpu);
    return vector;
}

bool bench_engine(struct bench *b, const uint8_t *code, unsigned len, unsigned count)
{
    struct vm_exit exit;
    struct error err = {0};
    if (b->engine == NULL) {
        b->engine = engine_create_for_test(engine_under_test(), b->memory, &err);
        b->vcpu = engine_under_test()->vcpu_create(b->engine, &b->cpu, &err);
    }
    b->cpu.rip = 0x2000;
    b->cpu.rflags = X86_FLAG_R1;
    memory_write(b->memory, 0x2000, code, len);
    memory_write(b->memory, 0x2000 + len, "\xf4", 1);
    engine_under_test()->set_state(b->vcpu);
    engine_under_test()->run(b->vcpu, count, &exit);
    return exit.reason == VM_EXIT_BUDGET && b->cpu.rip == 0x2000 + len;
}

int bench_native(struct bench *b, const uint8_t *code, unsigned len)
{
    switch (native_run(&b->native, code, len)) {
    case 0:
        return -1;
    case SIGFPE:
        return code[0] >= 0xd8 && code[0] <= 0xdf ? X86_MF : code[0] == 0x9b ? X86_MF : X86_XM;
    case SIGILL:
        return X86_UD;
    default:
        return X86_GP;
    }
}

const char *bench_compare(struct bench *b, bool x87)
{
    static char text[200];
    struct x86_cpu *cpu = &b->cpu;
    struct native_state *n = &b->native;
    x86_fpu_sync(cpu);
    for (unsigned i = 0; i < 16; i++) {
        if (i != X86_RBX && i != X86_RSP && i != X86_RDI && cpu->gpr[i] != n->gpr[i]) {
            sprintf(text, "gpr %u: %016lx, host %016lx", i, cpu->gpr[i], n->gpr[i]);
            return text;
        }
        if (memcmp(&cpu->vec[i], n->vec[i], 32) != 0) {
            uint64_t h[4];
            memcpy(h, n->vec[i], 32);
            sprintf(text,
                    "vec %u: %016lx %016lx %016lx %016lx\n    host: %016lx %016lx %016lx %016lx", i,
                    cpu->vec[i].u64[3], cpu->vec[i].u64[2], cpu->vec[i].u64[1], cpu->vec[i].u64[0],
                    h[3], h[2], h[1], h[0]);
            return text;
        }
    }
    if (cpu->mxcsr != n->mxcsr) {
        sprintf(text, "mxcsr %x, host %x", cpu->mxcsr, n->mxcsr);
        return text;
    }
    if (x86_cc_get(cpu) != (n->rflags & X86_FLAGS_ARITH)) {
        sprintf(text, "flags %x, host %x", x86_cc_get(cpu), (unsigned)n->rflags & X86_FLAGS_ARITH);
        return text;
    }
    if (memcmp(b->area, b->native_area, AREA_SIZE) != 0) {
        unsigned i = 0;
        while (b->area[i] == b->native_area[i])
            i++;
        sprintf(text, "memory at %x: %02x, host %02x", i, b->area[i], b->native_area[i]);
        return text;
    }
    if (!x87)
        return NULL;
    if (cpu->x87.fcw != (uint16_t)n->x87.fcw || cpu->x87.fsw != (uint16_t)n->x87.fsw ||
        cpu->x87.ftw != (uint16_t)n->x87.ftw) {
        sprintf(text, "fcw %04x fsw %04x ftw %04x, host %04x %04x %04x", cpu->x87.fcw, cpu->x87.fsw,
                cpu->x87.ftw, n->x87.fcw & 0xffff, n->x87.fsw & 0xffff, n->x87.ftw & 0xffff);
        return text;
    }
    // AMD processors save FOP in a context switch only while an exception is pending: a host that was
    // interrupted between the instruction and FNSTENV reads 0.
    uint16_t host_fop = (n->x87.fcs_fop >> 16) & 0x7ff;
    if (cpu->x87.fop != host_fop && host_fop != 0) {
        sprintf(text, "fop %03x, host %03x", cpu->x87.fop, host_fop);
        return text;
    }
    unsigned top = (cpu->x87.fsw >> 11) & 7;
    for (unsigned i = 0; i < 8; i++) {
        if (memcmp(cpu->x87.reg[(top + i) & 7], n->x87.st[i], 10) != 0) {
            sprintf(text, "st%u differs", i);
            return text;
        }
    }
    return NULL;
}
