// SPDX-License-Identifier: Apache-2.0
// Judges a case: what the host's processor made of it against what Croft made of it. What the
// architecture leaves undefined (undefined.c) is masked, and the masked differences are counted apart.
#include "case.h"
#include "undefined.h"
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

// --- what is masked ------------------------------------------------------------------------------

static struct {
    uint64_t cases, differ;
} counts[UNDEFINED_ROWS_MAX];
static uint64_t too_long_differ;

struct mask {
    uint32_t flags; // RFLAGS bits not compared
    bool value;     // nor the result: registers and memory
    bool row[UNDEFINED_ROWS_MAX];
};

static struct mask find_mask(const struct oracle_case *c, const struct oracle_result *n)
{
    struct mask mask = {0};
    struct x86_insn insn;
    const struct x86_form *form = case_form(c, &insn);
    if (!form || n->vector != ORACLE_DONE)
        return mask;
    for (unsigned i = 0; i < undefined_row_count; i++) {
        const struct undefined_row *row = &undefined_rows[i];
        if (!undefined_row_names(row, form->mnemonic) ||
            !undefined_row_holds(row, c, &insn, n->out.rflags))
            continue;
        mask.row[i] = true;
        mask.flags |= row->flags;
        mask.value |= row->value;
    }
    return mask;
}

bool oracle_undefined(const struct oracle_case *c, const struct oracle_result *native,
                      uint32_t *flags)
{
    struct mask mask = find_mask(c, native);
    *flags = mask.flags;
    return mask.value;
}

// A sequence: gen_sequence.c and sequence.c see to it that nothing undefined is read.
static struct mask sequence_mask(const struct oracle_case *c, const struct oracle_result *n)
{
    if (c->looped) { // wherever it ended
        uint32_t flags = c->undefined;
        for (unsigned i = 0; i < c->parts; i++)
            flags |= c->part[i].undefined;
        return (struct mask){.flags = flags};
    }
    bool done = n->vector == ORACLE_DONE;
    unsigned completed = c->parts + done;
    return (struct mask){.flags = completed == 0   ? 0
                                  : completed == 1 ? c->undefined
                                                   : c->part[completed - 2].undefined};
}

// Counts the rows that hold, and those in whose flags or value the two sides differ.
static void count_mask(struct judge *j, const struct mask *mask, uint32_t flags, bool value)
{
    for (unsigned i = 0; i < undefined_row_count; i++) {
        if (!mask->row[i])
            continue;
        counts[i].cases++;
        if ((undefined_rows[i].flags & flags) || (undefined_rows[i].value && value)) {
            counts[i].differ++;
            j->undefined_differs = true;
        }
    }
}

void oracle_print_masked(void)
{
    for (unsigned i = 0; i < undefined_row_count; i++) {
        if (!counts[i].cases)
            continue;
        printf("masked: ");
        undefined_row_print(stdout, &undefined_rows[i]);
        printf(": %" PRIu64 " of %" PRIu64 " cases differ (%s)\n", counts[i].differ,
               counts[i].cases, undefined_rows[i].reference);
    }
    if (too_long_differ)
        printf("masked: more than 15 bytes and invalid: #GP or #UD: %" PRIu64 " cases differ\n",
               too_long_differ);
}

void oracle_write_masked(FILE *file)
{
    const char *comma = "";
    for (unsigned i = 0; i < undefined_row_count; i++) {
        fprintf(file, "%s\n  {\"what\": \"", comma);
        undefined_row_print(file, &undefined_rows[i]);
        fprintf(file, "\", \"cases\": %" PRIu64 ", \"differ\": %" PRIu64 ", \"reference\": \"%s\"}",
                counts[i].cases, counts[i].differ, undefined_rows[i].reference);
        comma = ",";
    }
    fprintf(file,
            ",\n  {\"what\": \"more than 15 bytes and invalid: #GP or #UD\", \"differ\": %" PRIu64
            ", \"reference\": \"SDM vol. 3, 6.15, interrupts 6 and 13: no order among them\"}",
            too_long_differ);
}

static void compare_fpu(struct judge *j, const struct oracle_fpu *was, const struct oracle_fpu *n,
                        const struct oracle_fpu *o)
{
    char name[8];
    same(j, "fcw", was->fcw, n->fcw, o->fcw);
    same(j, "fsw", was->fsw, n->fsw, o->fsw);
    same(j, "ftw", was->ftw, n->ftw, o->ftw);
    // AMD's processors show the pointers in the signal frame while an exception is pending only.
    if (n->fsw & 0x80) {
        same(j, "fop", was->fop, n->fop, o->fop);
        same(j, "fip", was->fip, n->fip, o->fip);
        same(j, "fdp", was->fdp, n->fdp, o->fdp);
    }
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

// MXCSR_MASK in an image of FXSAVE or XSAVE names the processor: AMD's have misaligned SSE (MXCSR.MM), which
// Croft does not offer. Everything else of the images is compared.
static bool only_mxcsr_mask_differs(const struct oracle_case *c, const struct oracle_result *n,
                                    const struct oracle_result *o)
{
    static uint8_t image[512] __attribute__((aligned(16)));
    struct x86_insn insn;
    const struct x86_form *form = case_form(c, &insn);
    if (!form || (strncmp(form->mnemonic, "fxsave", 6) && strncmp(form->mnemonic, "xsave", 5)))
        return false;
    __asm__ volatile("fxsave %0" : "=m"(image));
    for (unsigned i = 0; i < ORACLE_MEMORY_SIZE; i += 4) {
        uint32_t croft_mask = 0xffff;
        if (memcmp(n->memory + i, o->memory + i, 4) &&
            (memcmp(n->memory + i, image + 28, 4) || memcmp(o->memory + i, &croft_mask, 4)))
            return false;
    }
    return true;
}

static void compare_memory(struct judge *j, const struct oracle_result *n,
                           const struct oracle_result *o)
{
    static uint8_t before[ORACLE_MEMORY_SIZE];
    if (!memcmp(n->memory, o->memory, ORACLE_MEMORY_SIZE) || only_mxcsr_mask_differs(j->c, n, o))
        return;
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

// What is longer than fifteen bytes and invalid too: which of #GP and #UD comes is nowhere laid down.
static bool too_long_and_invalid(const struct oracle_case *c, int a, int b)
{
    return c->size > 15 && ((a == X86_GP && b == X86_UD) || (a == X86_UD && b == X86_GP));
}

static void compare_exception(struct judge *j, const struct oracle_result *n,
                              const struct oracle_result *o)
{
    if (too_long_and_invalid(j->c, n->vector, o->vector)) {
        j->undefined_differs = true;
        too_long_differ += !j->report;
        return;
    }
    if (n->vector != o->vector) {
        differ(j, "vector", (uint64_t)ORACLE_DONE, (uint64_t)(int64_t)n->vector,
               (uint64_t)(int64_t)o->vector);
        same(j, "error", 0, n->error, o->error);
        same(j, "cr2", 0, n->cr2, o->cr2);
        return;
    }
    uint32_t error_mask = UINT32_MAX;
    // Linux does not tell a process whether a kernel address is mapped: it sets P.
    if (n->vector == X86_PF && n->cr2 >= UINT64_C(0x00007ffffffff000))
        error_mask &= ~1u;
    same(j, "error", 0, n->error & error_mask, o->error & error_mask);
    same(j, "cr2", 0, n->cr2, o->cr2);
    same(j, "dr6", 0, n->dr6, o->dr6);
}

static bool strict;

void oracle_compare_strictly(void)
{
    strict = true;
}

// A context switch on the host between loading a case's state and running it loses opcode and pointers of the
// x87 unit on AMD's processors, which store them only while an exception is pending.
static bool may_have_lost_pointers(const struct oracle_case *c)
{
    struct x86_insn insn;
    if (c->parts)
        return true;
    const struct x86_form *form = case_form(c, &insn);
    return form && ((form->attr & X86_INSN_X87) || !strncmp(form->mnemonic, "fx", 2) ||
                    !strncmp(form->mnemonic, "x", 1));
}

static enum oracle_verdict compare(const struct oracle_case *c, const struct oracle_result *n,
                                   const struct oracle_result *o, bool report)
{
    struct judge j = {.c = c, .report = report};
    struct mask mask = c->sequence ? sequence_mask(c, n) : find_mask(c, n);
    const struct oracle_state *was = &c->in;
    bool value_differs = memcmp(n->out.gpr, o->out.gpr, sizeof(n->out.gpr)) != 0 ||
                         memcmp(n->memory, o->memory, sizeof(n->memory)) != 0;
    uint64_t ignored = X86_FLAG_RF; // the HLT that ends a case sets it in the frame
    uint64_t flags_differ = (n->out.rflags ^ o->out.rflags) & ~ignored;
    if (!report)
        count_mask(&j, &mask, (uint32_t)flags_differ, value_differs);
    if (strict)
        mask = (struct mask){0};
    compare_exception(&j, n, o);
    for (unsigned i = 0; i < 16 && !mask.value; i++)
        same(&j, gpr_names[i], was->gpr[i], n->out.gpr[i], o->out.gpr[i]);
    same(&j, "rip", was->rip, n->out.rip, o->out.rip);
    if (flags_differ & ~(uint64_t)mask.flags)
        differ(&j, "rflags", was->rflags, n->out.rflags & ~ignored, o->out.rflags & ~ignored);
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
    if (!mask.value)
        compare_memory(&j, n, o);
    return j.differs             ? ORACLE_DIFFERS
           : j.undefined_differs ? ORACLE_UNDEFINED_DIFFERS
                                 : ORACLE_EQUAL;
}

enum oracle_verdict oracle_compare(const struct oracle_case *c, const struct oracle_result *n,
                                   const struct oracle_result *o, bool report)
{
    static struct oracle_result again;
    enum oracle_verdict verdict = compare(c, n, o, report);
    if (verdict != ORACLE_DIFFERS || report || !may_have_lost_pointers(c))
        return verdict;
    oracle_native_run(c, &again, 1);
    return compare(c, &again, o, false);
}

static void print_code(const struct oracle_case *c, const uint8_t *bytes, unsigned size,
                       uint64_t rip)
{
    char text[128] = "?";
    x86_disassemble(text, sizeof(text), bytes, size, c->code_size, rip);
    for (unsigned i = 0; i < size; i++)
        printf("%02x ", bytes[i]);
    printf(" %s  at %" PRIx64 "\n", text, rip);
}

void oracle_print_case(const struct oracle_case *c)
{
    struct x86_insn insn;
    const struct x86_form *form = case_form(c, &insn);
    printf("case %" PRIu64 " (seed %" PRIu64 ", %d-bit", c->number, c->seed, 16 << c->code_size);
    if (c->sequence)
        printf(", sequence %u%s)\n    %s: ", c->sequence, c->looped ? ", in a loop" : "",
               x86_forms[c->form].name);
    else
        printf(") %s%s%s: ", x86_forms[c->form].name, form ? " as " : " as #UD",
               form ? form->name : "");
    print_code(c, c->bytes, c->size, c->in.rip);
    for (unsigned i = 0; i < c->parts; i++) {
        const struct oracle_part *p = &c->part[i];
        printf("    %s: ", p->form == ORACLE_SETUP ? "(setup)" : x86_forms[p->form].name);
        print_code(c, p->bytes, p->size, p->rip);
    }
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

void oracle_print_stack(const struct oracle_case *c)
{
    static uint8_t memory[ORACLE_MEMORY_SIZE];
    oracle_memory(c, memory);
    printf("    stack");
    for (unsigned i = 0; i < 5; i++) {
        uint64_t value;
        int offset = oracle_memory_offset(c->in.gpr[X86_RSP] + 8 * i);
        if (offset < 0 || offset > (int)ORACLE_MEMORY_SIZE - 8)
            break;
        memcpy(&value, memory + offset, 8);
        printf(" %016" PRIx64, value);
    }
    printf("\n");
}
