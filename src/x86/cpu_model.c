// SPDX-License-Identifier: Apache-2.0
// From a --cpu text to a processor model: base, switches, dependencies, and what the host can
// execute.
//
// Rules to keep:
//  - A model never offers an instruction that the host would have to execute and cannot.
//  - Features are closed under `needs`: adding one adds what it needs, removing one removes what
//    needs it.
#include "x86/cpuid.h"

#include <stdio.h>
#include <string.h>

#define LEVEL_MAX 9
#define LEVEL_REQUEST 10

struct feature_info {
    const char *name;
    uint32_t leaf;
    uint8_t subleaf, reg, bit, level;
};

static const struct feature_info features[X86_FEATURE_COUNT] = {
#define X(name_, leaf_, sub_, reg_, bit_, level_) \
    [X86_FEATURE_##name_] = {#name_, leaf_, sub_, reg_, bit_, level_},
    X86_FEATURE_LIST(X)
#undef X
};

const char *x86_feature_name(unsigned feature)
{
    return feature < X86_FEATURE_COUNT ? features[feature].name : NULL;
}

#define F(name) X86_FEATURE_##name

// Whose instructions the host executes on the guest's behalf.
static const uint16_t host_executes[] = {
    F(sse3), F(pclmulqdq), F(ssse3), F(fma),  F(sse41), F(sse42),
    F(aes),  F(avx),       F(f16c),  F(avx2), F(sha),
};

static const struct {
    uint16_t feature, needs;
} needs[] = {
    {F(sse), F(fxsr)},
    {F(sse2), F(sse)},
    {F(sse3), F(sse2)},
    {F(ssse3), F(sse3)},
    {F(sse41), F(ssse3)},
    {F(sse42), F(sse41)},
    {F(aes), F(sse2)},
    {F(pclmulqdq), F(sse2)},
    {F(sha), F(ssse3)},
    {F(xsave), F(fxsr)},
    {F(osxsave), F(xsave)},
    {F(xsave), F(osxsave)},
    {F(avx), F(xsave)},
    {F(avx), F(sse42)},
    {F(avx2), F(avx)},
    {F(fma), F(avx)},
    {F(f16c), F(avx)},
    {F(xsaveopt), F(xsave)},
    {F(xsavec), F(xsave)},
    {F(xgetbv1), F(xsave)},
    {F(xsaves), F(xsavec)},
    {F(lm), F(pae)},
    {F(lm), F(msr)},
    {F(nx), F(pae)},
    {F(pdpe1gb), F(lm)},
    {F(syscall), F(lm)},
    {F(fsgsbase), F(lm)},
    {F(pcid), F(lm)},
    {F(pse36), F(pse)},
    {F(x2apic), F(apic)},
    {F(x2apic), F(msr)},
    {F(rdtscp), F(tsc)},
    {F(tsc_adjust), F(tsc)},
    {F(invtsc), F(tsc)},
    {F(mca), F(mce)},
    {F(fsrm), F(erms)},
    {F(mmxext), F(sse)},
    {F(bhi_ctrl), F(spec_ctrl)},
    {F(mmxext), F(mmx)},
    {F(tsc_deadline), F(apic)},
    {F(tsc_deadline), F(tsc)},
    {F(arat), F(apic)},
    {F(clflushopt), F(clflush)},
};

static bool vendor_lacks(enum x86_vendor vendor, unsigned feature)
{
    if (vendor == X86_VENDOR_INTEL)
        return feature == F(mmxext) || feature == F(cr8_legacy);
    return feature == F(bhi_ctrl);
}

// (<cpuid.h> would be this folder's.) False when the host does not have the leaf.
static bool host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                     : "a"(leaf & 0x80000000), "c"(0));
    if (r[0] < leaf)
        return false;
    __asm__ volatile("cpuid"
                     : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                     : "a"(leaf), "c"(subleaf));
    return true;
}

static bool host_bit(unsigned feature)
{
    const struct feature_info *f = &features[feature];
    uint32_t r[4];
    return f->leaf != X86_NO_LEAF && host_cpuid(f->leaf, f->subleaf, r) &&
           ((r[f->reg] >> f->bit) & 1);
}

// The host's operating system switches YMM state.
static bool host_has_ymm(void)
{
    uint32_t low, high;
    if (!host_bit(X86_FEATURE_osxsave))
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 6) == 6;
}

static bool host_can(unsigned feature)
{
    bool ymm = feature == F(avx) || feature == F(avx2) || feature == F(fma) || feature == F(f16c);
    for (unsigned i = 0; i < ARRAY_SIZE(host_executes); i++)
        if (host_executes[i] == feature)
            return host_bit(feature) && (!ymm || host_has_ymm());
    return true;
}

// Models from before the P6, with what they have. Of later features they can be given those that leaf 1
// tells in EDX: they have no further leaves, and no hypervisor ran on them.
struct old_model {
    const char *name;
    uint8_t family, model, stepping;
    uint16_t features[12];
};
static const struct old_model old_models[] = {
    {"486", 4, 8, 0, {F(fpu), F(vme), F(pse)}}, // an enhanced DX4
    {"pentium",                                 // a P54C, free of the first ones' errata in FDIV
     5,
     2,
     12,
     {F(fpu), F(vme), F(de), F(pse), F(tsc), F(msr), F(mce), F(cx8), F(apic)}},
};

static const struct old_model *old_model_find(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(old_models); i++)
        if (strcmp(old_models[i].name, name) == 0)
            return &old_models[i];
    return NULL;
}

static bool age_lacks(const struct x86_cpu_model *model, unsigned feature)
{
    const struct feature_info *f = &features[feature];
    return old_model_find(model->name) && f->leaf != X86_NO_LEAF && (f->leaf != 1 || f->reg != 3);
}

static bool offerable(const struct x86_cpu_model *model, unsigned feature)
{
    return features[feature].level <= LEVEL_REQUEST && !vendor_lacks(model->vendor, feature) &&
           !age_lacks(model, feature) && host_can(feature);
}

static void feature_add(struct x86_cpu_model *model, unsigned feature)
{
    if (model->feature[feature])
        return;
    model->feature[feature] = true;
    for (unsigned i = 0; i < ARRAY_SIZE(needs); i++)
        if (needs[i].feature == feature)
            feature_add(model, needs[i].needs);
}

static void feature_remove(struct x86_cpu_model *model, unsigned feature)
{
    if (!model->feature[feature])
        return;
    model->feature[feature] = false;
    for (unsigned i = 0; i < ARRAY_SIZE(needs); i++)
        if (needs[i].needs == feature)
            feature_remove(model, needs[i].feature);
}

static enum x86_vendor host_vendor(void)
{
    uint32_t r[4];
    bool amd = host_cpuid(0, 0, r) && (r[1] == 0x68747541 || r[1] == 0x6f677948); // Auth, Hygo
    return amd ? X86_VENDOR_AMD : X86_VENDOR_INTEL;
}

// "sse4.1", "SSE4_1", "tsc-deadline", "lzcnt", "arch-capabilities" mean what people expect.
static unsigned feature_find(const char *name, size_t length)
{
    static const struct {
        const char *alias;
        uint16_t feature;
    } aliases[] = {
        {"sse4_1", F(sse41)},
        {"sse4_2", F(sse42)},
        {"lzcnt", F(abm)},
        {"pni", F(sse3)},
        {"cx16", F(cx16)},
        {"cmpxchg16b", F(cx16)},
        {"sha_ni", F(sha)},
        {"arch_capabilities", F(arch_caps)},
        {"tsc_deadline_timer", F(tsc_deadline)},
    };
    char text[32];
    if (length == 0 || length >= sizeof(text))
        return X86_FEATURE_NONE;
    for (size_t i = 0; i < length; i++) {
        char c = name[i];
        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        text[i] = c == '-' || c == '.' ? '_' : c;
    }
    text[length] = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(aliases); i++)
        if (strcmp(text, aliases[i].alias) == 0)
            return aliases[i].feature;
    for (unsigned i = 1; i < X86_FEATURE_COUNT; i++)
        if (strcmp(text, features[i].name) == 0)
            return i;
    return X86_FEATURE_NONE;
}

static int unknown_feature(const char *name, size_t length, struct error *err)
{
    char known[480];
    size_t at = 0;
    known[0] = 0;
    for (unsigned i = 1; i < X86_FEATURE_COUNT && at < sizeof(known); i++)
        if (features[i].level <= LEVEL_REQUEST)
            at += (size_t)snprintf(known + at, sizeof(known) - at, " %s", features[i].name);
    return error_set(err, ERROR_USAGE, "--cpu: unknown feature '%.*s'; known:%s",
                     (int)(length > 24 ? 24 : length), name, known);
}

static void set_identity(struct x86_cpu_model *model)
{
    const struct old_model *old = old_model_find(model->name);
    if (old) {
        bool wide = model->feature[F(pae)] || model->feature[F(pse36)];
        model->family = old->family;
        model->model = old->model;
        model->stepping = old->stepping;
        model->phys_bits = wide ? 36 : 32;
        model->lin_bits = 32;
        model->max_basic = 1;
        snprintf(model->brand, sizeof(model->brand), "Croft %s processor", old->name);
        return;
    }
    // AMD: a family that needs no errata work-around and no side-channel mitigation.
    bool amd = model->vendor == X86_VENDOR_AMD;
    model->family = amd ? 15 : 6;
    model->model = amd ? 107 : 60;
    model->stepping = amd ? 1 : 3;
    model->phys_bits = 40;
    model->lin_bits = 48;
    model->max_basic = 0xd;
    model->max_extended = 0x80000008;
    snprintf(model->brand, sizeof(model->brand), "Croft x86-64 processor");
}

// Everything of the base model that this host and vendor allow; v1..v3 insist on theirs.
static int set_base(struct x86_cpu_model *model, unsigned level, struct error *err)
{
    const struct old_model *old = old_model_find(model->name);
    if (old) {
        for (unsigned i = 0; i < ARRAY_SIZE(old->features); i++)
            model->feature[old->features[i]] = true;
        model->feature[X86_FEATURE_NONE] = false;
        return 0;
    }
    for (unsigned i = 1; i < X86_FEATURE_COUNT; i++) {
        unsigned need = features[i].level;
        if (need > LEVEL_MAX || (need > level && level != LEVEL_MAX))
            continue;
        if (offerable(model, i))
            model->feature[i] = true;
        else if (level != LEVEL_MAX && need > 0 && !host_can(i))
            return error_set(err, ERROR_USAGE,
                             "--cpu: this host lacks %s, which '%s' needs; use max or a lower "
                             "x86-64 level",
                             features[i].name, model->name);
    }
    // What a missing host feature takes along.
    for (unsigned i = 0; i < ARRAY_SIZE(needs); i++)
        if (!model->feature[needs[i].needs])
            feature_remove(model, needs[i].feature);
    return 0;
}

static bool token_is(const char *token, size_t length, const char *text)
{
    return strlen(text) == length && memcmp(token, text, length) == 0;
}

static int apply_switch(struct x86_cpu_model *model, const char *token, size_t length,
                        struct error *err)
{
    bool on = token[0] == '+', off = token[0] == '-';
    if (token_is(token, length, "pv=on") || token_is(token, length, "pv=off")) {
        model->paravirt = length == 5;
        if (model->paravirt && old_model_find(model->name))
            return error_set(err, ERROR_USAGE,
                             "--cpu: pv=on: '%s' has no CPUID leaves for it; leave it out",
                             model->name);
        return 0;
    }
    if (length > 7 && memcmp(token, "vendor=", 7) == 0)
        return 0; // seen already
    if (!on && !off)
        return error_set(err, ERROR_USAGE,
                         "--cpu: '%.*s' is no switch; use +feature, -feature, vendor=intel|amd or "
                         "pv=on|off",
                         (int)length, token);
    unsigned feature = feature_find(token + 1, length - 1);
    if (feature == X86_FEATURE_NONE)
        return unknown_feature(token + 1, length - 1, err);
    if (off) {
        feature_remove(model, feature);
        return 0;
    }
    struct x86_cpu_model with = *model;
    feature_add(&with, feature);
    for (unsigned i = 1; i < X86_FEATURE_COUNT; i++) {
        if (!with.feature[i] || model->feature[i] || offerable(model, i))
            continue;
        const char *why = age_lacks(model, i)                 ? "is too new for this model"
                          : features[i].level > LEVEL_REQUEST ? "is not implemented"
                          : vendor_lacks(model->vendor, i)
                              ? "does not exist on this vendor's processors"
                              : "needs a host processor that has it";
        return error_set(err, ERROR_USAGE, "--cpu: +%s: %s %s; leave it out",
                         features[feature].name, features[i].name, why);
    }
    *model = with;
    return 0;
}

static int find_vendor(struct x86_cpu_model *model, const char *text, struct error *err)
{
    for (const char *at = strstr(text, "vendor="); at; at = strstr(at + 1, "vendor=")) {
        size_t length = strcspn(at, ",");
        if (token_is(at, length, "vendor=intel"))
            model->vendor = X86_VENDOR_INTEL;
        else if (token_is(at, length, "vendor=amd"))
            model->vendor = X86_VENDOR_AMD;
        else
            return error_set(err, ERROR_USAGE, "--cpu: '%.*s': vendors are intel and amd",
                             (int)length, at);
    }
    return 0;
}

int x86_cpu_model_parse(struct x86_cpu_model *model, const char *text, struct error *err)
{
    static const struct {
        const char *name;
        unsigned level;
    } bases[] = {{"max", LEVEL_MAX}, {"x86-64-v1", 1}, {"x86-64-v2", 2},
                 {"x86-64-v3", 3},   {"pentium", 1},   {"486", 1}};
    unsigned level = 0;

    if (text == NULL || text[0] == 0)
        text = "max";
    *model = (struct x86_cpu_model){.vendor = host_vendor(), .paravirt = true};
    size_t length = strcspn(text, ",");
    for (unsigned i = 0; i < ARRAY_SIZE(bases); i++)
        if (token_is(text, length, bases[i].name))
            level = bases[i].level;
    if (token_is(text, length, "x86-64-v4"))
        return error_set(err, ERROR_USAGE,
                         "--cpu: 'x86-64-v4' needs AVX-512, which is not implemented; use max or "
                         "x86-64-v3");
    if (level == 0)
        return error_set(err, ERROR_USAGE,
                         "--cpu: unknown model '%.*s'; known: max x86-64-v1 x86-64-v2 x86-64-v3 "
                         "pentium 486",
                         (int)(length > 64 ? 64 : length), text);
    memcpy(model->name, text, length);
    if (old_model_find(model->name)) {
        model->vendor = X86_VENDOR_INTEL;
        model->paravirt = false;
    }
    if (find_vendor(model, text, err) != 0 || set_base(model, level, err) != 0)
        return -1;
    for (const char *at = text + length; *at == ',';) {
        const char *token = at + 1;
        length = strcspn(token, ",");
        if (length > 0 && apply_switch(model, token, length, err) != 0)
            return -1;
        at = token + length;
    }
    set_identity(model);
    return 0;
}
