// SPDX-License-Identifier: Apache-2.0
// One decoded instruction, and the table row ("form") it came from. The rows are written down once, in
// instructions.def; scripts/gen_instructions.py turns them into the tables declared here, from which
// the decoder, the interpreter's dispatch, the translator and the test generator all work.
//
// A form is one row of the manual's opcode summary: `add_Ev_Gv`, `movzx_Gv_Eb`, `vpaddd_Vx_Hx_Wx`. Its
// name is the mnemonic and the operands in the notation of SDM vol. 2, appendix A, joined by '_':
//   E/M/R  ModRM.rm: register or memory / memory only / register only      G  ModRM.reg
//   I imm  J rel  O moffs  A far pointer  X DS:rSI  Y ES:rDI  S segment  C control  D debug
//   Z register in the opcode's low 3 bits
//   V/W/U/H/L  vector: ModRM.reg / rm (either) / rm (register only) / VEX.vvvv / imm8[7:4]
//   P/Q/N  MMX: ModRM.reg / rm (either) / rm (register only);   B  VEX.vvvv as a GPR
//   b 1  w 2  d 4  q 8  dq 16  qq 32  x 16 or 32 by VEX.L  v 2/4/8  y 4/8  z 2/4 (8 -> 4)  p far pointer
//   ss sd ps pd scalar/packed floats;  bs: imm8 sign-extended to the operand size
//   t 10  s pseudo-descriptor (6 or 10)  a BOUND's pair  h half of x  e a quarter of x (f: an eighth)
//   K a gather's memory operand (VSIB);  M alone: memory whose size the instruction itself decides
//   fixed registers: AL CL DX rAX eAX AX, ES..GS, ST0, STi, 1
// Where two opcodes give the same name, later ones get a suffix (_alt, _d64, ...).
#pragma once

#include "base/types.h"
#include "x86/state.h"

#include "x86/gen/forms.h" // enum x86_form_id (X86_FORM_add_Eb_Gb...), enum x86_mnemonic (X86_MN_ADD...)

#define X86_PREFIX_LOCK 0x01
#define X86_PREFIX_REP 0x02   // F3, when it has a meaning as REP/XRELEASE (not as mandatory prefix)
#define X86_PREFIX_REPNE 0x04 // F2, likewise
#define X86_PREFIX_OPSIZE 0x08 // a 66 prefix was there
#define X86_PREFIX_ADSIZE 0x10
#define X86_PREFIX_SEG 0x20 // an explicit segment override was there
#define X86_PREFIX_REX 0x40 // any REX prefix was there
#define X86_PREFIX_VEX 0x80

#define X86_REG_NONE 0xff
#define X86_REG_RIP 0x10
// Byte registers: 0..15 low bytes, 16..19 AH CH DH BH. x86_insn holds them resolved this way in the
// fields reg and rm when the operand is a byte register.
#define X86_REG8_HIGH 16

struct x86_insn {
    uint16_t form;    // enum x86_form_id
    uint8_t len;      // bytes, 1..15
    uint8_t opsize;   // effective operand size in bytes: 2, 4, 8 (byte forms: 1); forms that have
                      // only `y` operands: 4 or 8, only `z` operands: 2 or 4
    uint8_t adsize;   // effective address size in bytes: 2, 4, 8
    uint8_t prefixes; // X86_PREFIX_
    uint8_t vex_l;    // 0: 128, 1: 256
    uint8_t vex_w;    // REX.W or VEX.W
    uint8_t reg;      // ModRM.reg with REX.R, or the register in the opcode (Z) with REX.B
    uint8_t rm;       // ModRM.rm with REX.B when it names a register
    uint8_t vvvv;     // VEX.vvvv
    uint8_t is4;      // imm8[7:4]
    // Memory operand; meaningful when has_mem.
    uint8_t has_mem;
    uint8_t seg;    // effective segment register, default rule and override applied
    uint8_t base;   // GPR number, X86_REG_RIP or X86_REG_NONE
    uint8_t index;  // GPR number or X86_REG_NONE
    uint8_t scale;  // shift: 0..3
    uint8_t modrm;  // raw byte
    uint8_t opcode; // last opcode byte
    uint8_t map;    // enum x86_map
    int64_t disp;   // displacement, sign-extended; moffs
    uint64_t imm; // immediate: Ib, Iw zero-extended, Ibs, Iz sign-extended to 64 bits, Iv as it is;
                  // relative branch: sign-extended offset; far pointer: offset
    uint32_t imm2; // far pointer: selector; ENTER: nesting level
    uint32_t aux;  // for whoever executes it: interp_select_vector keeps a stub number here
};

enum x86_map {
    X86_MAP_1,
    X86_MAP_0F,
    X86_MAP_0F38,
    X86_MAP_0F3A,
    X86_MAP_COUNT
};

// Operand descriptions (static, per form).
enum x86_operand_kind {
    X86_OPND_NONE,
    X86_OPND_RM,       // E: GPR or memory
    X86_OPND_RM_MEM,   // M
    X86_OPND_RM_REG,   // R
    X86_OPND_REG,      // G
    X86_OPND_OPREG,    // Z
    X86_OPND_VVVV_GPR, // B
    X86_OPND_IMM,
    X86_OPND_REL,
    X86_OPND_MOFFS,
    X86_OPND_FAR,
    X86_OPND_STR_SRC,
    X86_OPND_STR_DST,
    X86_OPND_SREG,
    X86_OPND_CREG,
    X86_OPND_DREG,
    X86_OPND_FIXED_GPR,
    X86_OPND_FIXED_SREG,
    X86_OPND_ONE,
    X86_OPND_VEC_REG,
    X86_OPND_VEC_RM,
    X86_OPND_VEC_RM_REG,
    X86_OPND_VEC_VVVV,
    X86_OPND_VEC_IS4,
    X86_OPND_MMX_REG,
    X86_OPND_MMX_RM,
    X86_OPND_MMX_RM_REG,
    X86_OPND_ST0,
    X86_OPND_STI,
    X86_OPND_XMM0, // implicit XMM0 of the SSE4.1 blends
    X86_OPND_VSIB, // gather: memory with vector index
};
#define X86_RW_READ 1
#define X86_RW_WRITE 2

struct x86_operand_desc {
    uint8_t kind;  // enum x86_operand_kind
    uint8_t size;  // bytes when fixed; else 0 and the size follows `vary`
    uint8_t vary;  // 0, or 'v' 'y' 'z' 'x' 'h' 'e' 'f' 'p' 's' 'a' as in the notation above
    uint8_t rw;    // X86_RW_
    uint8_t fixed; // register number of FIXED_*
};

// What an instruction is, for checks and for the translator.
enum x86_privilege {
    X86_PRIV_NONE,
    X86_PRIV_CPL0,  // #GP unless CPL 0
    X86_PRIV_IOPL,  // CLI, STI, and IN/OUT with the TSS bitmap
    X86_PRIV_OTHER, // conditional (RDTSC with TSD, RDPMC, UMIP...)
};
// How a translator handles it.
enum x86_treatment {
    X86_TREAT_COPY,    // emit as it is, registers only
    X86_TREAT_MEM,     // emit with the memory operand rewritten
    X86_TREAT_CONTROL, // control flow
    X86_TREAT_HELPER,  // call the shared meaning
};

// attributes of a form
#define X86_INSN_LOCKABLE 0x0001  // LOCK allowed with a memory destination
#define X86_INSN_REP 0x0002       // string instruction: REP
#define X86_INSN_REPZ 0x0004      // string instruction: REPE/REPNE
#define X86_INSN_ONLY64 0x0008    // #UD outside 64-bit mode
#define X86_INSN_NO64 0x0010      // #UD in 64-bit mode
#define X86_INSN_D64 0x0020       // operand size defaults to 64 in 64-bit mode
#define X86_INSN_F64 0x0040       // operand size forced to 64 in 64-bit mode
#define X86_INSN_SENSITIVE 0x0080 // reads or changes privileged state without trapping
#define X86_INSN_BRANCH 0x0100    // may change RIP other than to the next instruction
#define X86_INSN_END_BLOCK 0x0200 // a block of decoded code ends after it (branch, mode change...)
#define X86_INSN_VEX 0x0400       // VEX-encoded
#define X86_INSN_PROT 0x0800      // #UD in real and V86 mode
#define X86_INSN_X87 0x1000
#define X86_INSN_MMX 0x2000
#define X86_INSN_SSE 0x4000     // legacy SSE encoding (XMM)
#define X86_INSN_ALIGN 0x8000   // memory operand must be aligned to its size (#GP)
#define X86_INSN_FPEXC 0x10000  // can raise SIMD floating-point exceptions (reads/writes MXCSR)
#define X86_INSN_STACK 0x20000  // implicit stack access
#define X86_INSN_XACQ 0x40000   // F2/F3 hints are ignored with it
#define X86_INSN_NOWAIT 0x80000 // x87: does not check for pending exceptions
// AMD: a far pointer in memory has 4 bytes of offset at most, whatever REX.W
#define X86_INSN_AMD_W0 0x100000
#define X86_INSN_FEAT64 0x200000  // `feature` is needed in 64-bit mode only
#define X86_INSN_AVX2_L 0x400000  // the 256-bit form needs AVX2
#define X86_INSN_AVX_TOO 0x800000 // needs AVX besides `feature`
#define X86_INSN_INTEL 0x1000000  // #UD on AMD

enum x86_opsize_rule {
    X86_OPSIZE_V,    // 2, 4 or 8 as the prefixes say
    X86_OPSIZE_Y,    // 4 or 8: 66 does not matter
    X86_OPSIZE_Z,    // 2 or 4: 8 is cut to 4
    X86_OPSIZE_BYTE, // 1
};

struct x86_form {
    const char *name;     // "add_Ev_Gv"
    const char *mnemonic; // "add"
    uint16_t mnemonic_id; // enum x86_mnemonic
    uint8_t operand_count;
    struct x86_operand_desc operand[5];
    uint32_t attr;     // X86_INSN_
    uint16_t feature;  // enum x86_feature (cpuid.h) that CPUID must offer, or 0
    uint8_t privilege; // enum x86_privilege
    uint8_t treatment; // enum x86_treatment
    // X86_FLAG_ bits. flags_written has those that get a defined value, flags_set and flags_cleared
    // among them; a flag that is only sometimes written is in flags_read too, one that only some
    // operands leave undefined is in flags_written and flags_undefined.
    uint32_t flags_read, flags_written, flags_undefined, flags_set, flags_cleared;
    // General registers, a bit per number, beyond the operands. Not listed: the stack pointer of
    // X86_INSN_STACK forms.
    uint16_t gpr_read, gpr_write;
    // Encoding, for the decoder, the re-encoder and the generator of test cases:
    uint8_t map; // enum x86_map
    uint8_t opcode;
    uint8_t opcode_mask; // 0xff, or 0xf8 where the low 3 bits name a register
    uint8_t prefix;   // mandatory: 0 none required (any), 0x66, 0xf3, 0xf2, 1 = must have none of
                      // them, 2 = neither f2 nor f3 (66 is the operand size)
    int8_t modrm_reg; // required ModRM.reg, or -1
    int8_t modrm_rm;  // required ModRM.rm (with mod 3), or -1
    uint8_t modrm;    // 0 none; 1 any; 2 memory only; 3 register only; 4 register, mod ignored
    int8_t w;         // required REX.W/VEX.W: 0, 1, or -1 any
    int8_t l;         // required VEX.L: 0, 1, or -1 any
    int8_t rex_b;     // required REX.B: 0, or -1 any
    uint8_t imm;      // bytes of immediate when fixed, or 'v' 'z' 'p' 'o'(moffs) by size; 0 none
    uint8_t imm2;     // bytes of a second immediate
    bool imm_signed;  // imm is sign-extended to 64 bits
    bool w_is_size;   // W is an operand size: outside 64-bit mode it counts as 0
    uint8_t opsize_rule; // enum x86_opsize_rule
};
extern const struct x86_form x86_forms[X86_FORM_COUNT];

static inline const struct x86_form *x86_insn_form(const struct x86_insn *insn)
{
    return &x86_forms[insn->form];
}
