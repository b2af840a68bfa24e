// SPDX-License-Identifier: Apache-2.0
// Judges a case: what the host's processor made of it against what Croft made of it. What the
// architecture leaves undefined is masked, and the masked differences are counted apart: flags by
// the table's column, values by the rules below.
#include "case.h"
#include "x86/decode.h"
#include "x86/insn.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// The row that the bytes really are, or NULL.
static const struct x86_form *case_form(const struct oracle_case *c, struct x86_insn *insn)
{
    if (x86_decode(insn, c->bytes, c->size, c->code_size, NULL) != X86_DECODE_OK)
        return NULL;
    return &x86_forms[insn->form];
}

struct judge {
    const struct oracle_case *c;
    bool report, differs, undefined_differs;
};

static void differ(struct judge *j, const char *what, uint64_t before, uint64_t native,
                   uint64_t croft)
{
    j->differs = true;
    if (j->report)
        printf("    %-8s was %016" PRIx64 "  host %016" PRIx64 "  croft %016" PRIx64 "\n", what,
               before, native, croft);
}

static void same(struct judge *j, const char *what, uint64_t before, uint64_t native,
                 uint64_t croft)
{
    if (native != croft)
        differ(j, what, before, native, croft);
}

static void print_bytes(const uint8_t *bytes, unsigned size)
{
    for (unsigned i = size; i > 0; i--)
        printf("%02x%s", bytes[i - 1], (i - 1) % 8 == 0 && i > 1 ? "_" : "");
}

static void same_bytes(struct judge *j, const char *what, const uint8_t *before,
                       const uint8_t *native, const uint8_t *croft, unsigned size)
{
    if (!memcmp(native, croft, size))
        return;
    j->differs = true;
    if (!j->report)
        return;
    printf("    %-8s was   ", what);
    print_bytes(before, size);
    printf("\n             host  ");
    print_bytes(native, size);
    printf("\n             croft ");
    print_bytes(croft, size);
    printf("\n");
}

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

// Values that the manuals leave undefined and that a host may fill differently.
struct loose {
    uint32_t flags; // RFLAGS bits not compared
    bool value;     // the result is undefined: registers and memory are not compared
    bool partial;   // POPA: what was popped before a fault may be there already
    bool lock;      // a LOCK prefix
    bool base;      // an FS or GS prefix
    bool masked;    // masked moves and gathers
    bool
        structure; // operands of several parts: which page faults first is the processor\'s business
    bool env; // FSTENV, FNSAVE, FXSAVE: pointers and opcode in memory are the vendor's business
};

static struct loose what_is_loose(const struct oracle_case *c)
{
    struct loose loose = {0};
    struct x86_insn insn;
    const struct x86_form *form = case_form(c, &insn);
    for (unsigned i = 0; i < 15; i++) {
        loose.lock |= c->bytes[i] == 0xf0;
        loose.base |= c->bytes[i] == 0x64 || c->bytes[i] == 0x65;
    }
    if (!form)
        return loose;
    loose.flags = form->flags_undefined;
    // Shifts by more than one leave OF undefined, by more than the width CF too (SDM: SHL, SHLD,
    // RCL).
    const char *m = form->mnemonic;
    bool shift = !strcmp(m, "shl") || !strcmp(m, "shr") || !strcmp(m, "sar") ||
                 !strcmp(m, "shld") || !strcmp(m, "shrd") || !strcmp(m, "sal");
    bool rotate = !strcmp(m, "rol") || !strcmp(m, "ror") || !strcmp(m, "rcl") || !strcmp(m, "rcr");
    if (shift || rotate) {
        const struct x86_operand_desc *last = &form->operand[form->operand_count - 1];
        unsigned bits = insn.opsize * 8u;
        unsigned count = last->kind == X86_OPND_ONE         ? 1
                         : last->kind == X86_OPND_FIXED_GPR ? (unsigned)c->in.gpr[X86_RCX]
                                                            : (unsigned)insn.imm;
        count &= insn.opsize == 8 ? 63 : 31;
        if (count == 0)
            loose.flags = 0;
        if (count > 1)
            loose.flags |= X86_FLAG_OF;
        if (shift && count >= bits)
            loose.flags |= X86_FLAG_CF;
        if (!strncmp(m, "shld", 4) || !strncmp(m, "shrd", 4))
            if (count > bits) { // SDM: destination and all flags
                loose.flags |= X86_FLAGS_ARITH;
                loose.value = true;
            }
    }
    static const char *const structures[] = {
        "fnsave", "frstor", "fnstenv", "fldenv",   "fxsave", "fxrstor", "retf", "iret",  "call",
        "fld",    "xsave",  "xsavec",  "xsaveopt", "xrstor", "fstp",    "fbld", "fbstp", "movs",
        "cmps",   "callf",  "jmpf",    "enter",    "lss",    "lfs",     "lgs"};
    for (unsigned i = 0; i < ARRAY_SIZE(structures); i++)
        loose.structure |= !strcmp(m, structures[i]);
    loose.partial = !strcmp(m, "popa");
    loose.masked = strstr(m, "maskmov") || strstr(m, "gather");
    loose.env = strstr(m, "stenv") || strstr(m, "nsave") || strstr(m, "xsave");
    return loose;
}

static void compare_fpu(struct judge *j, const struct oracle_fpu *was, const struct oracle_fpu *n,
                        const struct oracle_fpu *o)
{
    char name[8];
    same(j, "fcw", was->fcw, n->fcw, o->fcw);
    same(j, "fsw", was->fsw, n->fsw, o->fsw);
    same(j, "ftw", was->ftw, n->ftw, o->ftw);
    same(j, "mxcsr", was->mxcsr, n->mxcsr, o->mxcsr);
    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "st%u", i);
        same_bytes(j, name, was->st[i], n->st[i], o->st[i], 10);
    }
    for (unsigned i = 0; i < 16; i++) {
        snprintf(name, sizeof(name), "ymm%u", i);
        same_bytes(j, name, was->ymm[i], n->ymm[i], o->ymm[i], 32);
    }
}

static void compare_memory(struct judge *j, const struct oracle_result *n,
                           const struct oracle_result *o, const struct loose *loose)
{
    static uint8_t before[ORACLE_MEMORY_SIZE];
    if (!memcmp(n->memory, o->memory, ORACLE_MEMORY_SIZE))
        return;
    if (loose->env || loose->value) {
        j->undefined_differs = true;
        return;
    }
    j->differs = true;
    if (!j->report)
        return;
    oracle_memory(j->c, before);
    unsigned shown = 0;
    for (unsigned i = 0; i < ORACLE_MEMORY_SIZE && shown < 6; i += 16)
        if (memcmp(n->memory + i, o->memory + i, 16)) {
            uint64_t linear = ORACLE_WINDOW_BASE + i + (i >= 2 * PAGE_SIZE ? PAGE_SIZE : 0);
            char name[24];
            snprintf(name, sizeof(name), "%08" PRIx64, linear);
            same_bytes(j, name, before + i, n->memory + i, o->memory + i, 16);
            shown++;
        }
}

static uint16_t null_is_zero(uint16_t sel)
{
    return sel <= 3 ? 0 : sel;
}

static bool is_memory_fault(int vector)
{
    return vector == X86_SS_FAULT || vector == X86_GP || vector == X86_PF || vector == X86_AC;
}

enum oracle_verdict oracle_compare(const struct oracle_case *c, const struct oracle_result *n,
                                   const struct oracle_result *o, bool report)
{
    struct judge j = {.c = c, .report = report};
    struct loose loose = what_is_loose(c);
    const struct oracle_state *was = &c->in;
    // Croft stops looking at what no further byte can make valid, processors fetch on; LOCK where it is
    // not allowed may be noticed after the operand was touched: both are right.
    bool late_ud = o->vector == X86_UD && ((n->vector == X86_PF && (n->error & 0x10)) ||
                                           (loose.lock && is_memory_fault(n->vector)));
    late_ud |= loose.lock && n->vector == X86_UD && o->vector == X86_GP;
    // The same of the bytes behind CS's limit and behind the fifteenth.
    late_ud |= ((o->vector == X86_UD && n->vector == X86_GP && n->error == 0) ||
                (n->vector == X86_UD && o->vector == X86_GP && o->error == 0)) &&
               (c->size > 14 || c->in.rip + c->size - 1 > oracle_segment(c->in.cs).limit);
    // Nor is it agreed whether UD1 has a ModRM byte to be fetched.
    late_ud |= n->vector == X86_UD && o->vector == X86_PF && (o->error & 0x10);
    // AMD's refuse a non-canonical offset even where the base of FS or GS makes the address canonical.
    bool offset_form = loose.base && n->vector == X86_GP && o->vector == X86_PF;
    // Croft checks masked moves and gathers for alignment, which processors do not (SDM: no #AC). AMD's
    // MASKMOVDQU touches the whole operand and has made the MMX state current when it faults.
    bool masked = loose.masked && (o->vector == X86_AC || is_memory_fault(n->vector));
    bool order = loose.structure && is_memory_fault(n->vector) && is_memory_fault(o->vector);
    loose.value |= loose.partial && n->vector != ORACLE_DONE;
    if (masked)
        return ORACLE_UNDEFINED_DIFFERS;
    if (late_ud || offset_form || order) {
        j.undefined_differs |= n->vector != o->vector || n->error != o->error || n->cr2 != o->cr2;
    } else if (n->vector != o->vector) {
        differ(&j, "vector", (uint64_t)ORACLE_DONE, (uint64_t)(int64_t)n->vector,
               (uint64_t)(int64_t)o->vector);
    } else {
        uint32_t error_mask = UINT32_MAX;
        // Linux does not tell a process whether a kernel address is mapped: it sets P.
        if (n->vector == X86_PF && n->cr2 >= UINT64_C(0x00007ffffffff000))
            error_mask &= ~1u;
        same(&j, "error", 0, n->error & error_mask, o->error & error_mask);
        same(&j, "cr2", 0, n->cr2, o->cr2);
        same(&j, "dr6", 0, n->dr6, o->dr6);
    }
    for (unsigned i = 0; i < 16; i++)
        if (loose.value)
            j.undefined_differs |= n->out.gpr[i] != o->out.gpr[i];
        else
            same(&j, gpr_names[i], was->gpr[i], n->out.gpr[i], o->out.gpr[i]);
    same(&j, "rip", was->rip, n->out.rip, o->out.rip);
    uint64_t ignored = X86_FLAG_RF; // the HLT that ends a case sets it in the frame
    uint64_t flags_differ = (n->out.rflags ^ o->out.rflags) & ~ignored;
    if (flags_differ & ~(uint64_t)loose.flags)
        differ(&j, "rflags", was->rflags, n->out.rflags & ~ignored, o->out.rflags & ~ignored);
    else if (flags_differ)
        j.undefined_differs = true;
    same(&j, "cs", was->cs, n->out.cs, o->out.cs);
    same(&j, "ss", was->ss, n->out.ss, o->out.ss);
    // The kernel's IRET makes 0 of any null selector.
    same(&j, "ds", was->ds, null_is_zero(n->out.ds), null_is_zero(o->out.ds));
    same(&j, "es", was->es, null_is_zero(n->out.es), null_is_zero(o->out.es));
    same(&j, "fs", was->fs, null_is_zero(n->out.fs), null_is_zero(o->out.fs));
    same(&j, "gs", was->gs, null_is_zero(n->out.gs), null_is_zero(o->out.gs));
    same(&j, "fs_base", was->fs_base, n->out.fs_base, o->out.fs_base);
    same(&j, "gs_base", was->gs_base, n->out.gs_base, o->out.gs_base);
    compare_fpu(&j, &was->fpu, &n->out.fpu, &o->out.fpu);
    compare_memory(&j, n, o, &loose);
    return j.differs             ? ORACLE_DIFFERS
           : j.undefined_differs ? ORACLE_UNDEFINED_DIFFERS
                                 : ORACLE_EQUAL;
}

void oracle_print_case(const struct oracle_case *c)
{
    char text[128] = "?";
    struct x86_insn insn;
    const struct x86_form *form = case_form(c, &insn);
    x86_disassemble(text, sizeof(text), c->bytes, c->size, c->code_size, c->in.rip);
    printf("case %" PRIu64 " (seed %" PRIu64 ", %d-bit) %s%s%s: ", c->number, c->seed,
           16 << c->code_size, x86_forms[c->form].name, form ? " as " : " as #UD",
           form ? form->name : "");
    for (unsigned i = 0; i < c->size; i++)
        printf("%02x ", c->bytes[i]);
    printf(" %s  at %" PRIx64 "\n", text, c->in.rip);
}

void oracle_print_state(const struct oracle_state *s)
{
    for (unsigned i = 0; i < 16; i++)
        printf("    %-3s %016" PRIx64 "%s", gpr_names[i], s->gpr[i], i % 4 == 3 ? "\n" : "");
    printf("    rip %016" PRIx64 "    rflags %08" PRIx64 "    fs %" PRIx64 "    gs %" PRIx64 "\n",
           s->rip, s->rflags, s->fs_base, s->gs_base);
    printf("    cs %04x ss %04x ds %04x es %04x fs %04x gs %04x\n", s->cs, s->ss, s->ds, s->es,
           s->fs, s->gs);
    printf("    fcw %04x fsw %04x ftw %02x mxcsr %08x\n", s->fpu.fcw, s->fpu.fsw, s->fpu.ftw,
           s->fpu.mxcsr);
}
