// SPDX-License-Identifier: Apache-2.0
// Old processor models: encodings of every form of the instruction table decode on a model exactly when
// the processor had the instruction. The lists are the manuals' (i486 Processor Programmer's Reference
// Manual, chapter 26; Pentium Processor Family Developer's Manual vol. 3, chapter 25), not the table's.
#include "generate.h"
#include "x86/cpuid.h"
#include <stdio.h>
#include <string.h>

#define TRIES 200

// What a 486 executes, undocumented aliases and the undefined ones (UD0 to UD2, RSM) included.
static const char i486[] =
    " aaa aad aam aas adc add and arpl bound bsf bsr bswap bt btc btr bts call callf cbw clc cld "
    "cli "
    "clts cmc cmp cmps cmpxchg cpuid cwd daa das dec div enter fwait hlt idiv imul in inc ins int "
    "int1 "
    "int3 into invd invlpg iret jb jbe jcxz jl jle jmp jmpf jnb jnbe jnl jnle jno jnp jns jnz jo "
    "jp js "
    "jz lahf lar lds lea leave les lfs lgdt lgs lidt lldt lmsw lods loop loope loopne lsl lss ltr "
    "mov "
    "movs movsx movzx mul neg nop not or out outs pause pop popa popf push pusha pushf rcl rcr ret "
    "retf "
    "rol ror rsm sahf salc sar sbb scas setb setbe setl setle setnb setnbe setnl setnle setno "
    "setnp "
    "setns setnz seto setp sets setz sgdt shl shld shr shrd sidt sldt smsw stc std sti stos str "
    "sub "
    "test ud0 ud1 ud2 verr verw wbinvd xadd xchg xlatb xor "
    "f2xm1 fabs fadd faddp fbld fbstp fchs fcom fcomp fcompp fcos fdecstp fdiv fdivp fdivr fdivrp "
    "fdisi8087_nop feni8087_nop ffree ffreep fiadd ficom ficomp fidiv fidivr fild fimul fincstp "
    "fist "
    "fistp fisub fisubr fld fld1 fldcw fldenv fldl2e fldl2t fldlg2 fldln2 fldpi fldz fmul fmulp "
    "fnclex "
    "fninit fnop fnsave fnstcw fnstenv fnstsw fpatan fprem fprem1 fptan frndint frstor fscale "
    "fsetpm287_nop fsin fsincos fsqrt fst fstp fstpnce fsub fsubp fsubr fsubrp ftst fucom fucomp "
    "fucompp fxam fxch fxtract fyl2x fyl2xp1 ";
static const char pentium[] = " cmpxchg8b rdmsr rdtsc wrmsr ";

static unsigned failures;

static bool listed(const char *list, const struct x86_form *form)
{
    char word[40];
    if (strcmp(form->mnemonic, "nop") == 0 && form->map != X86_MAP_1)
        return false; // 0F 0D, 0F 18 to 0F 1F came with the P6
    snprintf(word, sizeof(word), " %s ", form->mnemonic);
    return strstr(list, word) != NULL;
}

static bool had(const char *name, const struct x86_form *form)
{
    return listed(i486, form) || (strcmp(name, "pentium") == 0 && listed(pentium, form));
}

static void check_form(const char *name, const struct x86_cpu_model *model,
                       const struct x86_form *form, uint64_t *rng)
{
    unsigned samples = 0;

    for (unsigned i = 0; i < TRIES; i++) {
        struct sample s = {.code = i % 2 ? X86_CODE16 : X86_CODE32};
        struct x86_insn insn;
        generate_form(&s, form, rng);
        if (x86_decode(&insn, s.bytes, 15, s.code, NULL) != X86_DECODE_OK ||
            x86_insn_form(&insn) != form)
            continue;
        samples++;
        enum x86_decode_result result = x86_decode(&insn, s.bytes, 15, s.code, model);
        const struct x86_form *got = result == X86_DECODE_OK ? x86_insn_form(&insn) : NULL;
        // Without it the bytes may be another instruction: LZCNT is BSR with an ignored prefix.
        if (had(name, form) ? got == form : got == NULL || (got != form && had(name, got)))
            continue;
        printf("%s on %s: %s\n", form->name, name, got ? got->name : "#UD");
        failures++;
        return;
    }
    if (samples == 0 && !(form->attr & X86_INSN_ONLY64) && form->w != 1) {
        printf("%s: no encoding for 16- and 32-bit code was found\n", form->name);
        failures++;
    }
}

int main(void)
{
    static const char *const names[] = {"486", "pentium"};
    uint64_t rng = 1;

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        struct x86_cpu_model model;
        struct error err = {0};
        if (x86_cpu_model_parse(&model, names[i], &err) != 0) {
            printf("%s\n", err.message);
            return 1;
        }
        for (unsigned form = 0; form < X86_FORM_COUNT; form++)
            if (x86_forms[form].name)
                check_form(names[i], &model, &x86_forms[form], &rng);
    }
    printf("%u failures\n", failures);
    return failures != 0;
}
