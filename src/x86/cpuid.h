// SPDX-License-Identifier: Apache-2.0
// Processor models: which features a guest is offered, and every CPUID leaf that says so.
#pragma once

#include "base/error.h"
#include "x86/state.h"

enum x86_vendor {
    X86_VENDOR_INTEL,
    X86_VENDOR_AMD
};

// One line per feature: name on the command line, CPUID leaf, subleaf, register (0..3: EAX EBX ECX
// EDX), bit, psABI level (0: every x86-64 model, 1..4; 9: only `max`; 10: only when asked for by +NAME;
// 11: known, not implemented). cpuid.c and the decoder's table use the names. X86_NO_LEAF: what came
// with a generation of processors (the P6) and has no bit.
#define X86_NO_LEAF 0xffffffffu
// clang-format off
#define X86_FEATURE_LIST(X)                                                                        \
    X(fpu, 1, 0, 3, 0, 0) X(vme, 1, 0, 3, 1, 0) X(de, 1, 0, 3, 2, 0) X(pse, 1, 0, 3, 3, 0)         \
    X(tsc, 1, 0, 3, 4, 0) X(msr, 1, 0, 3, 5, 0) X(pae, 1, 0, 3, 6, 0) X(mce, 1, 0, 3, 7, 0)        \
    X(cx8, 1, 0, 3, 8, 0) X(apic, 1, 0, 3, 9, 0) X(sep, 1, 0, 3, 11, 0) X(mtrr, 1, 0, 3, 12, 0)    \
    X(pge, 1, 0, 3, 13, 0) X(mca, 1, 0, 3, 14, 0) X(cmov, 1, 0, 3, 15, 0) X(pat, 1, 0, 3, 16, 0)   \
    X(pse36, 1, 0, 3, 17, 0) X(clflush, 1, 0, 3, 19, 0) X(mmx, 1, 0, 3, 23, 0)                     \
    X(fxsr, 1, 0, 3, 24, 0) X(sse, 1, 0, 3, 25, 0) X(sse2, 1, 0, 3, 26, 0)                         \
    X(ss, 1, 0, 3, 27, 11) X(ht, 1, 0, 3, 28, 0) X(sse3, 1, 0, 2, 0, 2)                            \
    X(pclmulqdq, 1, 0, 2, 1, 9) X(monitor, 1, 0, 2, 3, 11) X(ssse3, 1, 0, 2, 9, 2)                 \
    X(fma, 1, 0, 2, 12, 3) X(cx16, 1, 0, 2, 13, 2) X(pcid, 1, 0, 2, 17, 9)                         \
    X(sse41, 1, 0, 2, 19, 2) X(sse42, 1, 0, 2, 20, 2) X(x2apic, 1, 0, 2, 21, 0)                    \
    X(movbe, 1, 0, 2, 22, 3) X(popcnt, 1, 0, 2, 23, 2) X(tsc_deadline, 1, 0, 2, 24, 0)             \
    X(aes, 1, 0, 2, 25, 9) X(xsave, 1, 0, 2, 26, 3) X(osxsave, 1, 0, 2, 27, 3)                     \
    X(avx, 1, 0, 2, 28, 3) X(f16c, 1, 0, 2, 29, 3) X(rdrand, 1, 0, 2, 30, 9)                       \
    X(hypervisor, 1, 0, 2, 31, 0) X(fsgsbase, 7, 0, 1, 0, 9) X(tsc_adjust, 7, 0, 1, 1, 9)          \
    X(bmi1, 7, 0, 1, 3, 3) X(avx2, 7, 0, 1, 5, 3) X(smep, 7, 0, 1, 7, 9) X(bmi2, 7, 0, 1, 8, 3)    \
    X(erms, 7, 0, 1, 9, 9) X(invpcid, 7, 0, 1, 10, 9) X(rdseed, 7, 0, 1, 18, 9)                    \
    X(adx, 7, 0, 1, 19, 9) X(smap, 7, 0, 1, 20, 9) X(clflushopt, 7, 0, 1, 23, 9)                   \
    X(clwb, 7, 0, 1, 24, 9) X(sha, 7, 0, 1, 29, 9) X(umip, 7, 0, 2, 2, 9)                          \
    X(rdpid, 7, 0, 2, 22, 9) X(fsrm, 7, 0, 3, 4, 9) X(arat, 6, 0, 0, 2, 0)                         \
    X(spec_ctrl, 7, 0, 3, 26, 0) X(arch_caps, 7, 0, 3, 29, 0) X(bhi_ctrl, 7, 2, 3, 4, 0)           \
    X(xsaveopt, 13, 1, 0, 0, 9)                                                                    \
    X(xsavec, 13, 1, 0, 1, 9) X(xgetbv1, 13, 1, 0, 2, 9) X(xsaves, 13, 1, 0, 3, 9)                 \
    X(lahf_lm, 0x80000001, 0, 2, 0, 2) X(cr8_legacy, 0x80000001, 0, 2, 4, 9)                       \
    X(abm, 0x80000001, 0, 2, 5, 3) X(prefetchw, 0x80000001, 0, 2, 8, 9)                            \
    X(syscall, 0x80000001, 0, 3, 11, 0) X(nx, 0x80000001, 0, 3, 20, 0)                             \
    X(mmxext, 0x80000001, 0, 3, 22, 0) X(pdpe1gb, 0x80000001, 0, 3, 26, 9)                         \
    X(rdtscp, 0x80000001, 0, 3, 27, 9) X(lm, 0x80000001, 0, 3, 29, 0)                              \
    X(invtsc, 0x80000007, 0, 3, 8, 10) X(nopl, X86_NO_LEAF, 0, 3, 0, 0)                            \
    X(rdpmc, X86_NO_LEAF, 0, 3, 1, 0)
// clang-format on

enum x86_feature {
    X86_FEATURE_NONE,
#define X(name, leaf, sub, reg, bit, level) X86_FEATURE_##name,
    X86_FEATURE_LIST(X)
#undef X
    X86_FEATURE_COUNT
};

struct x86_cpu_model {
    char name[32];
    enum x86_vendor vendor;
    uint8_t family, model, stepping;
    char brand[49];
    bool feature[X86_FEATURE_COUNT];
    bool paravirt; // KVM's CPUID leaves
    uint8_t phys_bits, lin_bits;
    uint32_t max_basic, max_extended; // highest CPUID leaves; max_extended 0: none
};

static inline bool x86_has(const struct x86_cpu_model *model, enum x86_feature feature)
{
    return feature == X86_FEATURE_NONE || model == NULL || model->feature[feature];
}

// The feature's name, as the command line has it; NULL for X86_FEATURE_NONE and beyond the last.
const char *x86_feature_name(unsigned feature);

// XCR0 bits that XSETBV accepts: x87, SSE and, with AVX, the upper halves.
static inline uint64_t x86_xcr0_supported(const struct x86_cpu_model *model)
{
    return x86_has(model, X86_FEATURE_avx) ? 7 : 3;
}

// "max", "x86-64-v1" ... "x86-64-v3", "pentium", "486", each with
// ",+feature,-feature,vendor=intel|amd,pv=off". `max`
// is every feature Croft implements whose instructions the host can execute. Dependencies are kept
// (-avx takes avx2, fma, f16c with it). Returns 0 or -1 with err naming the field and what is
// known. Without vendor=, the vendor is the host's, and Intel for the two old models, which have
// what their time had and nothing else. NULL and "" mean "max".
int x86_cpu_model_parse(struct x86_cpu_model *model, const char *text, struct error *err);
