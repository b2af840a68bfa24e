// SPDX-License-Identifier: Apache-2.0
// What CPUID answers (SDM vol. 2, CPUID; APM vol. 3, appendix E), from the model, the board's
// topology and the few bits that follow the processor's state: OSXSAVE, APIC, and the XSAVE sizes.
//
// One socket with cpu_count cores of one thread each; APIC ids are the cores' numbers.
#include "x86/cpuid.h"
#include "x86/system.h"

#include <string.h>

#define MAX_HYPERVISOR 0x40000001u

enum {
    EAX,
    EBX,
    ECX,
    EDX
};

// KVM's paravirtual features (documented with the Linux kernel:
// Documentation/virt/kvm/x86/cpuid.rst); the board implements what they announce.
#define PV_CLOCKSOURCE (1u << 0)
#define PV_NOP_IO_DELAY (1u << 1)
#define PV_CLOCKSOURCE2 (1u << 3)
#define PV_EOI (1u << 6)
#define PV_CLOCKSOURCE_STABLE (1u << 24)

static void put_features(const struct x86_cpu_model *model, uint32_t leaf, uint32_t subleaf,
                         uint32_t out[4])
{
#define X(name, leaf_, sub_, reg_, bit_, level_)                                    \
    if (leaf == (leaf_) && subleaf == (sub_) && model->feature[X86_FEATURE_##name]) \
        out[reg_] |= 1u << (bit_);
    X86_FEATURE_LIST(X)
#undef X
}

static void put_text(uint32_t *out, const char *text, size_t size)
{
    memcpy(out, text, size);
}

static uint32_t signature(const struct x86_cpu_model *model)
{
    uint32_t family = model->family < 15 ? model->family : 15;
    uint32_t extended = model->family - family;
    return (model->stepping & 15u) | (model->model & 15u) << 4 | family << 8 |
           (uint32_t)(model->model >> 4) << 16 | extended << 20;
}

static uint32_t core_count(const struct x86_cpu *cpu)
{
    uint32_t count = cpu->platform->cpu_count;
    return count ? count : 1;
}

// Bits of an APIC id that number the cores of the socket.
static uint32_t core_bits(const struct x86_cpu *cpu)
{
    uint32_t bits = 0;
    while (bits < 31 && (1u << bits) < core_count(cpu))
        bits++;
    return bits;
}

static bool apic_enabled(const struct x86_cpu *cpu)
{
    const struct x86_platform *p = cpu->platform;
    return p->apic_enabled == NULL || p->apic_enabled(p->opaque);
}

static void leaf_1(const struct x86_cpu *cpu, uint32_t out[4])
{
    const struct x86_cpu_model *model = cpu->model;
    uint32_t count = core_count(cpu) > 255 ? 255 : core_count(cpu);
    out[EAX] = signature(model);
    if (model->feature[X86_FEATURE_clflush]) // EBX came with it
        out[EBX] = 64 / 8 << 8 | (count > 1 ? count : 0) << 16 | cpu->platform->apic_id << 24;
    put_features(model, 1, 0, out);
    if (!(cpu->cr4 & X86_CR4_OSXSAVE))
        out[ECX] &= ~(1u << 27);
    if (!apic_enabled(cpu))
        out[EDX] &= ~(1u << 9);
    if (count == 1)
        out[EDX] &= ~(1u << 28); // HTT
}

// Deterministic cache parameters. Sizes only inform the guest's tuning.
static void leaf_4(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    static const struct {
        uint32_t type, level, ways, sets;
    } caches[] = {{1, 1, 8, 64}, {2, 1, 8, 64}, {3, 2, 8, 1024}, {3, 3, 16, 16384}};
    if (cpu->model->vendor != X86_VENDOR_INTEL || subleaf >= ARRAY_SIZE(caches))
        return;
    uint32_t ids = (1u << core_bits(cpu)) - 1;
    if (ids > 63)
        ids = 63;
    uint32_t sharing = caches[subleaf].level == 3 ? ids : 0;
    out[EAX] =
        caches[subleaf].type | caches[subleaf].level << 5 | 1u << 8 | sharing << 14 | ids << 26;
    out[EBX] = 63 | (caches[subleaf].ways - 1) << 22;
    out[ECX] = caches[subleaf].sets - 1;
}

static void leaf_b(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    out[ECX] = subleaf & 0xff;
    out[EDX] = cpu->platform->apic_id;
    if (subleaf == 0) {
        out[EBX] = 1;
        out[ECX] |= 1 << 8; // threads
    } else if (subleaf == 1) {
        out[EAX] = core_bits(cpu);
        out[EBX] = core_count(cpu) & 0xffff;
        out[ECX] |= 2 << 8; // cores
    }
}

static void leaf_d(const struct x86_cpu *cpu, uint32_t subleaf, uint32_t out[4])
{
    const struct x86_cpu_model *model = cpu->model;
    if (!model->feature[X86_FEATURE_xsave])
        return;
    uint64_t all = x86_xcr0_supported(model);
    if (subleaf == 0) {
        out[EAX] = (uint32_t)all;
        out[EBX] = x86_xsave_size(cpu->xcr0, false);
        out[ECX] = x86_xsave_size(all, false);
        out[EDX] = (uint32_t)(all >> 32);
    } else if (subleaf == 1) {
        put_features(model, 0xd, 1, out);
        if (model->feature[X86_FEATURE_xsavec])
            out[EBX] = x86_xsave_size(cpu->xcr0 | cpu->xss, true);
    } else if (subleaf == 2 && (all & 4)) {
        out[EAX] = 256; // size of the upper halves, and where they are
        out[EBX] = 576;
    }
}

static void leaf_extended_1(const struct x86_cpu *cpu, uint32_t out[4])
{
    const struct x86_cpu_model *model = cpu->model;
    put_features(model, 0x80000001, 0, out);
    if (model->vendor != X86_VENDOR_AMD)
        return;
    // AMD repeats leaf 1 here, save what came after it: SEP, PSN, CLFLUSH, SSE and later.
    uint32_t basic[4] = {0};
    leaf_1(cpu, basic);
    out[EAX] = basic[EAX];
    out[EDX] |= basic[EDX] & 0x0183f3ff;
    if (core_count(cpu) > 1)
        out[ECX] |= 1u << 1; // CmpLegacy: leaf 1 counts cores, not threads
}

static void leaf_basic(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct x86_cpu_model *model = cpu->model;
    bool amd = model->vendor == X86_VENDOR_AMD;
    switch (leaf) {
    case 0:
        out[EAX] = model->max_basic;
        put_text(&out[EBX], amd ? "Auth" : "Genu", 4);
        put_text(&out[EDX], amd ? "enti" : "ineI", 4);
        put_text(&out[ECX], amd ? "cAMD" : "ntel", 4);
        break;
    case 1:
        leaf_1(cpu, out);
        break;
    case 2:
        if (!amd)
            out[EAX] = 0x0000ff01; // "see leaf 4"
        break;
    case 4:
        leaf_4(cpu, subleaf, out);
        break;
    case 6:
        put_features(model, 6, 0, out);
        break;
    case 7:
        put_features(model, 7, subleaf, out);
        if (subleaf == 0 && model->feature[X86_FEATURE_bhi_ctrl])
            out[EAX] = 2; // highest subleaf
        break;
    case 0xb:
        leaf_b(cpu, subleaf, out);
        break;
    case 0xd:
        leaf_d(cpu, subleaf, out);
        break;
    default:
        break;
    }
}

static void leaf_hypervisor(const struct x86_cpu *cpu, uint32_t leaf, uint32_t out[4])
{
    if (leaf == 0x40000000) {
        out[EAX] = MAX_HYPERVISOR;
        put_text(&out[EBX], "KVMK", 4);
        put_text(&out[ECX], "VMKV", 4);
        put_text(&out[EDX], "M\0\0\0", 4);
    } else if (leaf == 0x40000001) {
        out[EAX] =
            PV_CLOCKSOURCE | PV_NOP_IO_DELAY | PV_CLOCKSOURCE2 | PV_EOI | PV_CLOCKSOURCE_STABLE;
    }
}

static void leaf_extended(struct x86_cpu *cpu, uint32_t leaf, uint32_t out[4])
{
    const struct x86_cpu_model *model = cpu->model;
    bool amd = model->vendor == X86_VENDOR_AMD;
    switch (leaf) {
    case 0x80000000:
        out[EAX] = model->max_extended;
        if (amd) {
            put_text(&out[EBX], "Auth", 4);
            put_text(&out[EDX], "enti", 4);
            put_text(&out[ECX], "cAMD", 4);
        }
        break;
    case 0x80000001:
        leaf_extended_1(cpu, out);
        break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        put_text(out, model->brand + (leaf - 0x80000002) * 16, 16);
        break;
    case 0x80000005: // L1: 32 KiB, 8 ways, 64 bytes a line; TLBs of 64 entries
        if (amd) {
            out[EAX] = out[EBX] = 0xff40ff40;
            out[ECX] = out[EDX] = 32u << 24 | 8 << 16 | 1 << 8 | 64;
        }
        break;
    case 0x80000006: // L2: 512 KiB, 8 ways
        out[ECX] = 512u << 16 | 6 << 12 | 1 << 8 | 64;
        if (amd) {
            out[EAX] = 0x42004200; // 512 entries, 4 ways
            out[EBX] = 0x42004200;
            out[EDX] = 32u << 18 | 8 << 12 | 1 << 8 | 64; // L3: 16 MiB, 16 ways
        }
        break;
    case 0x80000007:
        put_features(model, 0x80000007, 0, out);
        break;
    case 0x80000008:
        out[EAX] = model->phys_bits | (uint32_t)model->lin_bits << 8;
        if (amd) {
            out[EBX] = 1u << 2; // FXSAVE and XSAVE always store the error pointers
            out[ECX] = ((core_count(cpu) - 1) & 0xff) | core_bits(cpu) << 12;
        }
        break;
    default:
        break;
    }
}

void x86_cpuid(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct x86_cpu_model *model = cpu->model;
    memset(out, 0, 4 * sizeof(out[0]));
    if (model == NULL)
        return;
    bool hypervisor = model->feature[X86_FEATURE_hypervisor];
    if (leaf <= model->max_basic)
        leaf_basic(cpu, leaf, subleaf, out);
    else if (leaf >= 0x80000000 && leaf <= model->max_extended)
        leaf_extended(cpu, leaf, out);
    else if (leaf >= 0x40000000 && leaf <= 0x4fffffff && hypervisor)
        leaf_hypervisor(cpu, model->paravirt ? leaf : 0, out);
    else if (model->vendor == X86_VENDOR_INTEL && model->max_extended)
        leaf_basic(cpu, model->max_basic, subleaf, out); // as Intel's do beyond their highest leaf
}
