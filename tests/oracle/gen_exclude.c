// SPDX-License-Identifier: Apache-2.0
// What the generator leaves out, each with its reason.
#include "gen.h"
#include "x86/decode.h"
#include <string.h>

// Instructions whose result is the host's own business, each with the reason.
static const struct {
    const char *mnemonic, *why;
} excluded[] = {
    {"cpuid", "names the host"},
    {"rdtsc", "time"},
    {"rdtscp", "time"},
    {"rdpmc", "host counters"},
    {"rdrand", "random"},
    {"rdseed", "random"},
    {"rdpid", "names the host's processor"},
    {"syscall", "enters the host's kernel"},
    {"sysenter", "enters the host's kernel"},
    {"vmcall", "reaches the host's hypervisor"},
    {"vmmcall", "reaches the host's hypervisor"},
    {"monitor", "offered by few hypervisors"},
    {"mwait", "offered by few hypervisors"},
    {"sgdt", "host tables; the kernel emulates it under UMIP"},
    {"sidt", "host tables; the kernel emulates it under UMIP"},
    {"sldt", "the kernel emulates it under UMIP"},
    {"str", "the kernel emulates it under UMIP"},
    {"smsw", "the kernel emulates it under UMIP"},
    {"int1", "hypervisors that watch #DB report it with the wrong address"},
};

const char *oracle_excluded(const struct x86_form *form)
{
    for (unsigned i = 0; i < ARRAY_SIZE(excluded); i++)
        if (!strcmp(excluded[i].mnemonic, form->mnemonic))
            return excluded[i].why;
    return NULL;
}

bool form_takes_part(const struct x86_form *form, enum x86_code_size code_size)
{
    if (oracle_excluded(form))
        return false;
    // In 64-bit mode these are the EVEX and VEX prefixes.
    return !(code_size == X86_CODE64 && (form->attr & X86_INSN_NO64) && form->map == X86_MAP_1 &&
             (form->opcode == 0x62 || form->opcode == 0xc4 || form->opcode == 0xc5));
}

// Whether the bytes are what must not run, for instance an excluded instruction by way of a prefix.
bool case_is_acceptable(const struct oracle_case *c)
{
    struct x86_insn insn;
    enum x86_decode_result r = x86_decode(&insn, c->bytes, c->size, c->code_size, NULL);
    if (r == X86_DECODE_OK)
        return !oracle_excluded(&x86_forms[insn.form]);
    if (r != X86_DECODE_UD)
        return true;
    // #UD to Croft, not to every host: instructions that the table lacks on purpose.
    unsigned i = 0;
    bool rep = false, opsize = false;
    for (; i < c->size; i++) {
        uint8_t b = c->bytes[i];
        rep |= b == 0xf2 || b == 0xf3;
        opsize |= b == 0x66;
        if (b != 0x66 && b != 0x67 && b != 0xf0 && b != 0xf2 && b != 0xf3 && b != 0x26 &&
            b != 0x2e && b != 0x36 && b != 0x3e && b != 0x64 && b != 0x65 &&
            !(c->code_size == X86_CODE64 && (b & 0xf0) == 0x40))
            break;
    }
    if (i + 2 >= c->size || c->bytes[i] != 0x0f)
        return true;
    switch (c->bytes[i + 1]) {
    case 0x01: // SVM and others
    case 0x78: // SSE4a
    case 0x79:
        return false;
    case 0x2b: // MOVNTSS, MOVNTSD (SSE4a)
    case 0xc7:
    case 0xae:
    case 0x1e:
        return !rep && !opsize;
    default:
        return true;
    }
}
