// SPDX-License-Identifier: Apache-2.0
// Where Croft and Zydis 4.0 differ, and why that is meant. Anything else is a failure of the test.
#include "compare.h"
#include <string.h>

static bool ours_is(const struct sample *s, const char *mnemonic)
{
    return s->result == X86_DECODE_OK && strcmp(x86_insn_form(&s->insn)->mnemonic, mnemonic) == 0;
}

static bool both_valid(const struct sample *s)
{
    return s->result == X86_DECODE_OK && s->theirs_ok && s->insn.len == s->theirs.length;
}

static bool hint_nop(const struct sample *s)
{
    return both_valid(s) && ours_is(s, "nop") && s->insn.map == X86_MAP_0F &&
           s->theirs.mnemonic == ZYDIS_MNEMONIC_NOP;
}

static bool selector_operand(const struct sample *s)
{
    return both_valid(s) && (ours_is(s, "lar") || ours_is(s, "lsl")) && !s->insn.has_mem &&
           strncmp(s->why, "operand 1", 9) == 0;
}

static bool undefined_operands(const struct sample *s)
{
    return both_valid(s) && (ours_is(s, "ud0") || ours_is(s, "ud1"));
}

static bool cache_line(const struct sample *s)
{
    return both_valid(s) &&
           (ours_is(s, "clflush") || ours_is(s, "clflushopt") || ours_is(s, "clwb")) &&
           strncmp(s->why, "memory size", 11) == 0;
}

static bool shadow_stack(const struct sample *s)
{
    return both_valid(s) && ours_is(s, "nop") &&
           (s->theirs.meta.isa_set == ZYDIS_ISA_SET_CET ||
            s->theirs.mnemonic == ZYDIS_MNEMONIC_RDSSPD ||
            s->theirs.mnemonic == ZYDIS_MNEMONIC_RDSSPQ);
}

static bool lock_mov_cr0(const struct sample *s)
{
    return s->amd && s->result == X86_DECODE_OK && (s->insn.prefixes & X86_PREFIX_LOCK) &&
           s->insn.map == X86_MAP_0F && (s->insn.opcode & 0xfd) == 0x20 && s->insn.reg == 8;
}

// With 67, Zydis 4.0 takes SIB.base = 5 with REX.B and mod 0 for R13D; there is no base, whatever
// REX.B.
static bool sib_no_base(const struct sample *s)
{
    return both_valid(s) && s->code == X86_CODE64 && s->insn.adsize == 4 && s->insn.has_mem &&
           s->insn.base == X86_REG_NONE && s->theirs.raw.modrm.mod == 0 &&
           s->theirs.raw.modrm.rm == 4 && s->theirs.raw.sib.base == 5 &&
           strncmp(s->why, "base", 4) == 0;
}

static bool amd_far_pointer(const struct sample *s)
{
    return both_valid(s) && s->amd && s->insn.vex_w &&
           (x86_insn_form(&s->insn)->attr & X86_INSN_AMD_W0);
}

static bool amd_near_branch(const struct sample *s)
{
    return both_valid(s) && s->amd && s->code == X86_CODE64 && s->insn.opsize == 2 &&
           (ours_is(s, "call") || ours_is(s, "jmp")) && s->insn.opcode == 0xff;
}

static bool pause_rex(const struct sample *s)
{
    return both_valid(s) && ours_is(s, "xchg") && s->theirs.mnemonic == ZYDIS_MNEMONIC_PAUSE;
}

static bool movsxd16(const struct sample *s)
{
    return both_valid(s) && ours_is(s, "movsxd") && s->insn.opsize == 2 && !s->insn.has_mem;
}

static bool notrack(const struct sample *s)
{
    return both_valid(s) && (ours_is(s, "call") || ours_is(s, "jmp")) && s->insn.has_mem &&
           s->insn.seg == X86_DS && strncmp(s->why, "segment", 7) == 0;
}

static bool not_offered(const struct sample *s)
{
    static const ZydisISASet sets[] = {
        ZYDIS_ISA_SET_AMD3DNOW,     ZYDIS_ISA_SET_AMD_INVLPGB, ZYDIS_ISA_SET_AMX_BF16,
        ZYDIS_ISA_SET_AMX_INT8,     ZYDIS_ISA_SET_AMX_TILE,    ZYDIS_ISA_SET_AVX512BW_KOP,
        ZYDIS_ISA_SET_AVX512DQ_KOP, ZYDIS_ISA_SET_AVX512F_KOP, ZYDIS_ISA_SET_AVX_GFNI,
        ZYDIS_ISA_SET_AVX_VNNI,     ZYDIS_ISA_SET_CET,         ZYDIS_ISA_SET_CLZERO,
        ZYDIS_ISA_SET_ENQCMD,       ZYDIS_ISA_SET_FMA4,        ZYDIS_ISA_SET_GFNI,
        ZYDIS_ISA_SET_HRESET,       ZYDIS_ISA_SET_KEYLOCKER,   ZYDIS_ISA_SET_KEYLOCKER_WIDE,
        ZYDIS_ISA_SET_KNCE,         ZYDIS_ISA_SET_KNCJKBR,     ZYDIS_ISA_SET_KNCSTREAM,
        ZYDIS_ISA_SET_KNCV,         ZYDIS_ISA_SET_KNC_MISC,    ZYDIS_ISA_SET_KNC_PF_HINT,
        ZYDIS_ISA_SET_LWP,          ZYDIS_ISA_SET_MCOMMIT,     ZYDIS_ISA_SET_MONITORX,
        ZYDIS_ISA_SET_MOVDIR,       ZYDIS_ISA_SET_MPX,         ZYDIS_ISA_SET_PADLOCK_ACE,
        ZYDIS_ISA_SET_PADLOCK_PHE,  ZYDIS_ISA_SET_PADLOCK_PMM, ZYDIS_ISA_SET_PADLOCK_RNG,
        ZYDIS_ISA_SET_PCONFIG,      ZYDIS_ISA_SET_PKU,         ZYDIS_ISA_SET_PT,
        ZYDIS_ISA_SET_RDPRU,        ZYDIS_ISA_SET_RTM,         ZYDIS_ISA_SET_SERIALIZE,
        ZYDIS_ISA_SET_SGX,          ZYDIS_ISA_SET_SGX_ENCLV,   ZYDIS_ISA_SET_SMX,
        ZYDIS_ISA_SET_SNP,          ZYDIS_ISA_SET_SSE4A,       ZYDIS_ISA_SET_SVM,
        ZYDIS_ISA_SET_TBM,          ZYDIS_ISA_SET_TDX,         ZYDIS_ISA_SET_TSX_LDTRK,
        ZYDIS_ISA_SET_UINTR,        ZYDIS_ISA_SET_VAES,        ZYDIS_ISA_SET_VMFUNC,
        ZYDIS_ISA_SET_VPCLMULQDQ,   ZYDIS_ISA_SET_VTX,         ZYDIS_ISA_SET_WAITPKG,
        ZYDIS_ISA_SET_XOP,
    };
    if (s->result == X86_DECODE_OK || !s->theirs_ok)
        return false;
    if (s->theirs.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
        s->theirs.encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX ||
        s->theirs.encoding == ZYDIS_INSTRUCTION_ENCODING_XOP ||
        s->theirs.encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW)
        return true;
    for (unsigned i = 0; i < ARRAY_SIZE(sets); i++)
        if (s->theirs.meta.isa_set == sets[i])
            return true;
    return false;
}

static bool amd_prefetch_register(const struct sample *s)
{
    return s->amd && s->result == X86_DECODE_UD && s->insn.map == X86_MAP_0F &&
           s->insn.opcode == 0x0d && s->insn.modrm >= 0xc0 &&
           s->theirs.mnemonic == ZYDIS_MNEMONIC_NOP;
}

static bool amd_ud(const struct sample *s)
{
    return s->amd && s->result == X86_DECODE_UD &&
           (s->theirs.mnemonic == ZYDIS_MNEMONIC_UD0 || s->theirs.mnemonic == ZYDIS_MNEMONIC_UD1);
}

static bool amd_vex_w(const struct sample *s)
{
    return s->amd && s->result == X86_DECODE_UD && s->code != X86_CODE64 && s->theirs_ok &&
           s->theirs.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && s->theirs.raw.vex.W;
}

struct known_difference known_differences[] = {
    {"UD0 and UD1 have no ModRM byte on AMD (hardware)", amd_ud, 0},
    {"VEX.W as an operand size is #UD on AMD outside 64-bit mode (hardware)", amd_vex_w, 0},
    {"0F 0D with a register is #UD on AMD (hardware), a NOP on Intel", amd_prefetch_register, 0},
    {"instruction sets that Croft does not offer are #UD", not_offered, 0},
    {"MOVSXD with 66: 16 bits of the register count, whatever it is called", movsxd16, 0},
    {"JMP and CALL with 3E: a segment override (Zydis: NOTRACK of CET)", notrack, 0},
    {"SIB without base, 67 and REX.B: Zydis names R13D (hardware: no base)", sib_no_base, 0},
    {"far pointers in memory: AMD ignores REX.W (as hardware does)", amd_far_pointer, 0},
    {"near branches through a register or memory: AMD heeds 66 (as hardware does)", amd_near_branch,
     0},
    {"F3 90 with REX.B is XCHG (as AMD hardware does)", pause_rex, 0},
    {"RDSSP is a hint NOP on a processor without CET", shadow_stack, 0},
    {"LOCK MOV CR0 is MOV CR8 on AMD", lock_mov_cr0, 0},
    {"hint NOPs: the manual gives them one operand, Zydis also ModRM.reg", hint_nop, 0},
    {"LAR, LSL: a register source is read as 16 bits, Zydis names the wide register",
     selector_operand, 0},
    {"UD0, UD1: operands mean nothing", undefined_operands, 0},
    {"CLFLUSH and the like: m8 in the manual, the whole line in Zydis", cache_line, 0},
};
const unsigned known_difference_count = ARRAY_SIZE(known_differences);

int sample_known_difference(const struct sample *s)
{
    for (unsigned i = 0; i < known_difference_count; i++)
        if (known_differences[i].applies && known_differences[i].applies(s))
            return (int)i;
    return -1;
}
