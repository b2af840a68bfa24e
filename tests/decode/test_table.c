// SPDX-License-Identifier: Apache-2.0
// The table's static columns (flags, reads and writes, LOCK, REP, privilege, alignment,
// floating-point exceptions) against what Zydis knows about the same instruction. Where the two
// differ on purpose, the difference is listed here with its reason.
#include "generate.h"
#include <stdio.h>
#include <string.h>

#define TRIES 400

// What Zydis says about the samples of one form, joined.
struct facts {
    uint32_t read, written, undefined, set, cleared;
    unsigned rw[5];
    unsigned samples, mem_samples;
    bool lock, rep, repz, privileged, branch;
    ZydisExceptionClass exceptions;
};

struct exception {
    const char *column;
    const char *mnemonics; // space-separated; a trailing * matches any rest
    const char *reason;
};
static const struct exception exceptions[] = {
    {"flags", "rol ror rcl rcr shl shr sar shld shrd",
     "Zydis has OF undefined always; a count of 0 leaves the flags, so they are read too"},
    {"flags", "sbb", "Zydis calls AF undefined; SDM: set according to the result"},
    {"flags", "bextr blsi vtestps vtestpd vptest", "SDM's own text: which flags are cleared"},
    {"flags", "cmps scas", "with REP and a count of 0 all flags stay: they are read"},
    {"flags", "in out ins outs cli sti popf pushf",
     "reading IOPL, VM and VIF is part of the privilege check"},
    {"flags", "int int1 int3 into iret callf jmpf syscall sysret sysenter rsm vmcall clac stac",
     "flags through descriptors, MSRs and state images"},
    {"rw",
     "movss movsd movhlps movlps movlpd movlhps movhps movhpd sqrtss sqrtsd rsqrtss rcpss "
     "cvtss2sd cvtsd2ss roundss roundsd cvtpi2ps",
     "the rest of the destination stays: it is read"},
    {"rw", "cmov* bsf bsr lar", "the destination may stay: it is read"},
    {"rw", "nop", "RDSSP in Zydis"},
    {"rep", "movs stos lods ins outs", "REPNE means REP for them"},
    {"lock", "mov", "LOCK MOV CR0"},
    {"privileged", "lgdt rsm clac stac",
     "Zydis forgets LGDT; RSM outside SMM and CLAC, STAC outside CPL 0 are #UD"},
    {"privileged", "xsetbv", "without CR4.OSXSAVE it is #UD, in every ring"},
    {"privileged", "sysret sysexit", "other conditions are #UD first, by vendor (x86/syscall.c)"},
    {"branch", "int int1 int3 into iret syscall sysret sysenter sysexit rsm",
     "Zydis counts only CALL, JMP, RET and Jcc as branches"},
    {"align", "sha1nexte sha1msg? sha256msg? sha256rnds2 sha1rnds4",
     "AMD processors do not check them (measured), Intel ones do"},
    {"align", "movups movupd movdqu lddqu pcmp?str*",
     "Zydis's class 4 has exceptions to alignment"},
    {"align", "cmpxchg16b cvtpd2pi cvttpd2pi psll? psrl? psra?",
     "Zydis has no or a wrong exception class for them"},
    {"fpexc", "cvtpi2ps cvtps2pi cvttps2pi cvtpd2pi cvttpd2pi", "Zydis has no exception class"},
};

static unsigned failures;

static bool pattern_matches(const char *pattern, size_t length, const char *text)
{
    for (size_t i = 0; i < length; i++) {
        if (pattern[i] == '*')
            return true;
        if (text[i] == '\0' || (pattern[i] != '?' && pattern[i] != text[i]))
            return false;
    }
    return text[length] == '\0';
}

static bool excepted(const char *column, const char *mnemonic)
{
    for (unsigned i = 0; i < ARRAY_SIZE(exceptions); i++) {
        if (strcmp(exceptions[i].column, column) != 0)
            continue;
        for (const char *p = exceptions[i].mnemonics; *p != '\0';) {
            size_t length = strcspn(p, " ");
            if (pattern_matches(p, length, mnemonic))
                return true;
            p += length + (p[length] == ' ');
        }
    }
    return false;
}

static void expect(const struct x86_form *form, const char *column, const char *what, uint32_t ours,
                   uint32_t theirs)
{
    if (ours == theirs || excepted(column, form->mnemonic))
        return;
    printf("%s: %s: ours %#x, theirs %#x\n", form->name, what, ours, theirs);
    failures++;
}

static void add_sample(struct facts *facts, const struct sample *s)
{
    const ZydisAccessedFlags *flags = s->theirs.cpu_flags;
    unsigned visible = 0;

    facts->samples++;
    facts->mem_samples += s->insn.has_mem;
    if (flags != NULL) {
        facts->read |= flags->tested;
        facts->written |= flags->modified | flags->set_0 | flags->set_1;
        facts->undefined |= flags->undefined;
        facts->set |= flags->set_1;
        facts->cleared |= flags->set_0;
    }
    for (unsigned i = 0; i < s->theirs.operand_count && visible < ARRAY_SIZE(facts->rw); i++) {
        ZydisOperandActions actions = s->ops[i].actions;
        if (s->ops[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            continue;
        if (actions & ZYDIS_OPERAND_ACTION_MASK_READ)
            facts->rw[visible] |= X86_RW_READ;
        if (actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            facts->rw[visible] |= X86_RW_WRITE;
        visible++;
    }
    ZydisInstructionAttributes attributes = s->theirs.attributes;
    facts->lock |= (attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK) != 0;
    facts->rep |= (attributes & ZYDIS_ATTRIB_ACCEPTS_REP) != 0;
    facts->repz |= (attributes & (ZYDIS_ATTRIB_ACCEPTS_REPE | ZYDIS_ATTRIB_ACCEPTS_REPNE)) != 0;
    facts->privileged |= (attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) != 0;
    facts->branch |= s->theirs.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
    facts->exceptions = s->theirs.meta.exception_class;
}

static void check_form(const struct x86_form *form, uint64_t *rng)
{
    struct facts facts = {0};
    struct sample s;
    for (unsigned i = 0; i < TRIES; i++) {
        s.code = i % 3;
        s.amd = false;
        generate_form(&s, form, rng);
        sample_decode(&s);
        if (s.result == X86_DECODE_OK && s.theirs_ok && x86_insn_form(&s.insn) == form &&
            s.insn.len == s.theirs.length)
            add_sample(&facts, &s);
    }
    if (facts.samples == 0) {
        printf("%s: no sample\n", form->name);
        failures++;
        return;
    }
    expect(form, "flags", "flags read", form->flags_read, facts.read);
    expect(form, "flags", "flags written", form->flags_written, facts.written);
    expect(form, "flags", "flags undefined", form->flags_undefined, facts.undefined);
    expect(form, "flags", "flags set", form->flags_set, facts.set);
    expect(form, "flags", "flags cleared", form->flags_cleared, facts.cleared);
    // x87 operands are partly hidden in Zydis.
    for (unsigned i = 0; i < form->operand_count && !(form->attr & X86_INSN_X87); i++)
        if (facts.rw[i] != 0)
            expect(form, "rw", "operand reads (1) and writes (2)", form->operand[i].rw,
                   facts.rw[i]);
    expect(form, "lock", "LOCK", (form->attr & X86_INSN_LOCKABLE) != 0, facts.lock);
    expect(form, "rep", "REP", (form->attr & X86_INSN_REP) != 0, facts.rep);
    expect(form, "rep", "REPE", (form->attr & X86_INSN_REPZ) != 0, facts.repz);
    expect(form, "privileged", "privileged", form->privilege == X86_PRIV_CPL0, facts.privileged);
    expect(form, "branch", "branch", (form->attr & X86_INSN_BRANCH) != 0, facts.branch);
    bool align = facts.mem_samples != 0 && (facts.exceptions == ZYDIS_EXCEPTION_CLASS_SSE1 ||
                                            facts.exceptions == ZYDIS_EXCEPTION_CLASS_SSE2 ||
                                            facts.exceptions == ZYDIS_EXCEPTION_CLASS_SSE4 ||
                                            facts.exceptions == ZYDIS_EXCEPTION_CLASS_AVX1);
    expect(form, "align", "alignment", (form->attr & X86_INSN_ALIGN) != 0, align);
    bool fpexc = facts.exceptions == ZYDIS_EXCEPTION_CLASS_SSE2 ||
                 facts.exceptions == ZYDIS_EXCEPTION_CLASS_SSE3 ||
                 facts.exceptions == ZYDIS_EXCEPTION_CLASS_AVX2 ||
                 facts.exceptions == ZYDIS_EXCEPTION_CLASS_AVX3 ||
                 facts.exceptions == ZYDIS_EXCEPTION_CLASS_AVX11;
    expect(form, "fpexc", "SIMD exceptions", (form->attr & X86_INSN_FPEXC) != 0, fpexc);
}

int main(void)
{
    uint64_t rng = 1;
    for (unsigned i = 0; i < X86_FORM_COUNT; i++)
        check_form(&x86_forms[i], &rng);
    printf("%u forms, %u differences\n", X86_FORM_COUNT, failures);
    return failures != 0;
}
