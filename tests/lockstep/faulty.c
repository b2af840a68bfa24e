// SPDX-License-Identifier: Apache-2.0
// One machine at a time has this engine: its processor and memory are remembered when they are made.
#include "faulty.h"
#include "x86/flags.h"
#include <stdlib.h>
#include <string.h>

enum kind {
    FAULT_REGISTER,
    FAULT_FLAGS,
    FAULT_VECTOR,
    FAULT_X87,
    FAULT_SEGMENT,
    FAULT_COUNT,
    FAULT_MEMORY,
    FAULT_DEVICE,
    FAULT_HIDDEN,
    FAULT_KINDS
};
static const char *const names[FAULT_KINDS] = {"register", "flags",  "vector", "x87",   "segment",
                                               "count",    "memory", "device", "hidden"};
static enum kind kind;
static uint64_t at;
static struct memory *memory_of;
static struct x86_cpu *cpu_of;
static struct engine_ops ops;

static struct engine *faulty_create(struct memory *memory, const struct engine_options *options,
                                    struct error *err)
{
    memory_of = memory;
    return engine_interp.create(memory, options, err);
}

static struct engine_vcpu *faulty_vcpu_create(struct engine *engine, struct x86_cpu *cpu,
                                              struct error *err)
{
    cpu_of = cpu;
    return engine_interp.vcpu_create(engine, cpu, err);
}

static void spoil(void)
{
    struct x86_cpu *cpu = cpu_of;
    uint8_t byte = 0;
    const gpa_t unused = memory_ram_size(memory_of) / 2 + 0x123; // seldom a page that is read soon

    switch (kind) {
    case FAULT_FLAGS:
        x86_cc_put(cpu, x86_get_rflags(cpu) ^ X86_FLAG_PF);
        break;
    case FAULT_VECTOR:
        cpu->vec[11].u8[30] ^= 4;
        break;
    case FAULT_X87:
        cpu->x87.fop ^= 1;
        break;
    case FAULT_SEGMENT:
        cpu->ldtr.limit ^= 0x10;
        break;
    case FAULT_COUNT:
        cpu->icount++;
        break;
    case FAULT_MEMORY:
        memory_read(memory_of, unused, &byte, 1);
        byte ^= 0x40;
        memory_write(memory_of, unused, &byte, 1);
        break;
    case FAULT_DEVICE:
        memory_pio_write(memory_of, 0xcf8, 0x80000100, 4);
        break;
    default:
        cpu->gpr[X86_RSP] ^= UINT64_C(1) << 20;
        break;
    }
}

static void faulty_run(struct engine_vcpu *vcpu, uint64_t max, struct vm_exit *exit)
{
    const uint64_t start = engine_interp.retired(vcpu);

    if (start < at && (max == 0 || at <= start + max) &&
        (kind != FAULT_HIDDEN || at - start >= 2)) {
        engine_interp.run(vcpu, at - start, exit);
        if (exit->reason != VM_EXIT_BUDGET)
            return;
        spoil();
        if (max == 0 || at < start + max)
            engine_interp.run(vcpu, max == 0 ? 0 : start + max - at, exit);
        return;
    }
    engine_interp.run(vcpu, max, exit);
}

bool faulty_parse(const char *text)
{
    const char *sign = strchr(text, '@');
    for (unsigned i = 0; sign && i < FAULT_KINDS; i++) {
        if (strlen(names[i]) == (size_t)(sign - text) &&
            strncmp(names[i], text, strlen(names[i])) == 0) {
            kind = (enum kind)i;
            at = strtoull(sign + 1, NULL, 0);
            return at != 0;
        }
    }
    return false;
}

const struct engine_ops *faulty_engine(void)
{
    ops = engine_interp;
    ops.name = "faulty";
    ops.summary = "the interpreter with a fault";
    ops.create = faulty_create;
    ops.vcpu_create = faulty_vcpu_create;
    ops.run = faulty_run;
    return &ops;
}
