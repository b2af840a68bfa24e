// SPDX-License-Identifier: Apache-2.0
// Single rules of decoding that a comparison with Zydis cannot hold: length limit, missing bytes,
// features that are off, vendors. The AMD rows were measured on a Zen 4 processor.
#include "x86/cpuid.h"
#include "x86/decode.h"
#include <stdio.h>
#include <string.h>

struct rule {
    const char *what;
    enum x86_code_size code;
    const char *hex;
    const char *off;  // features that are off, separated by spaces
    char vendor;      // 'i' or 'a'
    const char *want; // name of the form, or "#UD", "more", "too long"
    unsigned len;     // 0: not compared
    unsigned opsize;  // 0: not compared
};

static const struct rule rules[] = {
    {"nothing", X86_CODE64, "", "", 'i', "more", 0, 0},
    {"prefixes only", X86_CODE64, "66666666", "", 'i', "more", 4, 0},
    {"14 prefixes and an opcode", X86_CODE64, "666666666666666666666666666690", "", 'i', "nop", 15,
     0},
    {"15 prefixes", X86_CODE64, "66666666666666666666666666666690", "", 'i', "too long", 15, 0},
    {"immediate beyond byte 15", X86_CODE32, "2e2e2e2e2e2e2e2e2e2e2e0500000000", "", 'i',
     "too long", 0, 0},
    {"missing immediate", X86_CODE32, "050000", "", 'i', "more", 0, 0},
    {"missing displacement", X86_CODE64, "8b0500", "", 'i', "more", 0, 0},
    {"#UD needs no further bytes", X86_CODE64, "0f0a", "", 'i', "#UD", 2, 0},
    {"REX before a legacy prefix is ignored", X86_CODE64, "486689c0", "", 'i', "mov_Ev_Gv", 4, 2},
    {"the last REX counts", X86_CODE64, "404889c0", "", 'i', "mov_Ev_Gv", 4, 8},
    {"REX bits of an earlier one do not", X86_CODE64, "484089c0", "", 'i', "mov_Ev_Gv", 4, 4},
    {"REX.W beats 66", X86_CODE64, "664889c0", "", 'i', "mov_Ev_Gv", 4, 8},
    {"REX is INC outside 64-bit mode", X86_CODE32, "48", "", 'i', "dec_Zv", 1, 4},
    {"LOCK with a register", X86_CODE64, "f001c0", "", 'i', "#UD", 0, 0},
    {"LOCK with memory", X86_CODE64, "f00100", "", 'i', "add_Ev_Gv", 3, 4},
    {"LOCK CMP", X86_CODE64, "f03900", "", 'i', "#UD", 0, 0},
    {"LOCK with a memory source", X86_CODE64, "f00300", "", 'i', "#UD", 0, 0},
    {"VEX after REX", X86_CODE64, "40c5f877", "", 'i', "#UD", 0, 0},
    {"VEX after 66", X86_CODE64, "66c5f877", "", 'i', "#UD", 0, 0},
    {"VEX after LOCK", X86_CODE64, "f0c5f877", "", 'i', "#UD", 0, 0},
    {"VEX after 67 and a segment", X86_CODE64, "6765c5f81000", "", 'i', "vmovups_Vps_Wps", 6, 0},
    {"LES outside 64-bit mode", X86_CODE32, "c400", "", 'i', "les_Gv_Mp", 2, 4},
    {"BOUND outside 64-bit mode", X86_CODE16, "6200", "", 'i', "bound_Gv_Ma", 2, 2},
    {"EVEX", X86_CODE64, "62f17c4810c0", "", 'i', "#UD", 0, 0},
    {"XOP", X86_CODE64, "8fe97880c0", "", 'i', "#UD", 0, 0},
    {"F2 wins over 66", X86_CODE64, "66f20f58c0", "", 'i', "addsd_Vsd_Wsd", 5, 0},
    {"the last of F2 and F3 wins", X86_CODE64, "f2f30f58c0", "", 'i', "addss_Vss_Wss", 5, 0},
    {"F2 after F3", X86_CODE64, "f3f20f58c0", "", 'i', "addsd_Vsd_Wsd", 5, 0},
    {"F3 MOVAPS", X86_CODE64, "f30f28c0", "", 'i', "#UD", 0, 0},
    {"66 F2 CRC32", X86_CODE64, "66f20f38f1c0", "", 'i', "crc32_Gy_Ev", 6, 2},
    {"TZCNT", X86_CODE64, "f30fbcc0", "", 'i', "tzcnt_Gv_Ev", 4, 4},
    {"TZCNT without BMI1 is BSF", X86_CODE64, "f30fbcc0", "bmi1", 'i', "bsf_Gv_Ev", 4, 4},
    {"LZCNT without ABM is BSR", X86_CODE64, "f30fbdc0", "abm", 'i', "bsr_Gv_Ev", 4, 4},
    {"POPCNT off", X86_CODE64, "f30fb8c0", "popcnt", 'i', "#UD", 0, 0},
    {"POPCNT without F3", X86_CODE64, "0fb8c0", "", 'i', "#UD", 0, 0},
    {"AVX2 off, 256 bits", X86_CODE64, "c5fdfec0", "avx2", 'i', "#UD", 0, 0},
    {"AVX2 off, 128 bits", X86_CODE64, "c5f9fec0", "avx2", 'i', "vpaddd_Vx_Hx_Wx", 4, 0},
    {"VAESENC without AVX", X86_CODE64, "c4e279dcc0", "avx", 'i', "#UD", 0, 0},
    {"LAHF off in 64-bit mode", X86_CODE64, "9f", "lahf_lm", 'i', "#UD", 0, 0},
    {"LAHF off elsewhere", X86_CODE32, "9f", "lahf_lm", 'i', "lahf", 1, 0},
    {"hint NOPs never need a feature", X86_CODE64, "f30f1efa", "sse sse2", 'i', "endbr64", 4, 0},
    {"Intel: 66 JMP is 32-bit", X86_CODE64, "66e900000000", "", 'i', "jmp_Jz", 6, 8},
    {"AMD: 66 JMP is 16-bit", X86_CODE64, "66e90000", "", 'a', "jmp_Jz", 4, 2},
    {"AMD: 66 RET", X86_CODE64, "66c3", "", 'a', "ret", 2, 2},
    {"AMD: 66 CALL register", X86_CODE64, "66ffd0", "", 'a', "call_Ev", 3, 2},
    {"AMD: 66 and REX.W", X86_CODE64, "6648ffd0", "", 'a', "call_Ev", 4, 8},
    {"Intel: LGS with REX.W", X86_CODE64, "480fb501", "", 'i', "lgs_Gv_Mp", 4, 8},
    {"AMD: LGS with REX.W", X86_CODE64, "480fb501", "", 'a', "lgs_Gv_Mp", 4, 8},
    {"AMD: far JMP with REX.W", X86_CODE64, "48ff2f", "", 'a', "jmpf_Mp", 3, 8},
    {"AMD: PREFETCH register", X86_CODE64, "0f0dc0", "", 'a', "#UD", 0, 0},
    {"AMD: LOCK MOV CR0 is CR8", X86_CODE32, "f00f20c0", "", 'a', "mov_Ry_Cy", 4, 4},
    {"AMD: LOCK MOV CR0 without it", X86_CODE32, "f00f20c0", "cr8_legacy", 'a', "#UD", 0, 0},
    {"Intel: LOCK MOV CR0", X86_CODE32, "f00f20c0", "", 'i', "#UD", 0, 0},
    {"MOV CR1", X86_CODE64, "0f20c8", "", 'i', "#UD", 0, 0},
    {"MOV DR ignores mod", X86_CODE64, "0f2100", "", 'i', "mov_Ry_Dy", 3, 8},
    {"VEXTRACTI128 with W1", X86_CODE64, "c4e3fd39c001", "", 'i', "#UD", 0, 0},
    {"MOV CR ignores mod", X86_CODE64, "0f2000", "", 'i', "mov_Ry_Cy", 3, 8},
    {"MOV CS", X86_CODE64, "8ec8", "", 'i', "#UD", 0, 0},
    {"MOV from the seventh segment register", X86_CODE64, "8cf0", "", 'i', "#UD", 0, 0},
    {"vvvv in use nowhere must be 1111", X86_CODE64, "c5e810c0", "", 'i', "#UD", 0, 0},
    {"also its fourth bit outside 64-bit mode", X86_CODE32, "c4e33bf0c301", "", 'i', "#UD", 0, 0},
    {"which otherwise is ignored", X86_CODE32, "c4e228f2c3", "", 'i', "andn_Gy_By_Ey", 5, 4},
    {"gather with equal registers", X86_CODE64, "c4e271900409", "", 'i', "#UD", 0, 0},
    {"gather", X86_CODE64, "c4e269900408", "", 'i', "vpgatherdd_Vx_Kd_Hx", 6, 0},
    {"gather without SIB", X86_CODE64, "c4e2699000", "", 'i', "#UD", 0, 0},
    {"gather with 16-bit addresses", X86_CODE16, "c4e269900408", "", 'i', "#UD", 0, 0},
};

static void parse_hex(const char *hex, uint8_t *bytes, size_t *count)
{
    *count = strlen(hex) / 2;
    for (size_t i = 0; i < *count; i++) {
        unsigned byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        bytes[i] = (uint8_t)byte;
    }
}

static void turn_off(struct x86_cpu_model *model, const char *names)
{
    static const char *const feature_names[] = {"",
#define X(name, leaf, sub, reg, bit, level) #name,
                                                X86_FEATURE_LIST(X)
#undef X
    };
    char list[64];
    snprintf(list, sizeof(list), "%s", names);
    for (char *save, *name = strtok_r(list, " ", &save); name != NULL;
         name = strtok_r(NULL, " ", &save))
        for (unsigned i = 1; i < X86_FEATURE_COUNT; i++)
            if (strcmp(name, feature_names[i]) == 0)
                model->feature[i] = false;
}

static bool check(const struct rule *rule)
{
    struct x86_cpu_model model = {.vendor =
                                      rule->vendor == 'a' ? X86_VENDOR_AMD : X86_VENDOR_INTEL};
    struct x86_insn insn;
    uint8_t bytes[32];
    size_t count;

    memset(model.feature, true, sizeof(model.feature));
    turn_off(&model, rule->off);
    parse_hex(rule->hex, bytes, &count);
    enum x86_decode_result result = x86_decode(&insn, bytes, count, rule->code, &model);
    const char *got = result == X86_DECODE_OK     ? x86_insn_form(&insn)->name
                      : result == X86_DECODE_UD   ? "#UD"
                      : result == X86_DECODE_MORE ? "more"
                                                  : "too long";
    if (strcmp(got, rule->want) == 0 && (rule->len == 0 || rule->len == insn.len) &&
        (rule->opsize == 0 || rule->opsize == insn.opsize))
        return true;
    printf("%s: %s: %s, %u bytes, operand size %u; expected %s, %u, %u\n", rule->what, rule->hex,
           got, insn.len, insn.opsize, rule->want, rule->len, rule->opsize);
    return false;
}

int main(void)
{
    unsigned failed = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(rules); i++)
        failed += !check(&rules[i]);
    printf("%zu rules, %u failed\n", ARRAY_SIZE(rules), failed);
    return failed != 0;
}
