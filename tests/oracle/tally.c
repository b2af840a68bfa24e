// SPDX-License-Identifier: Apache-2.0
#include "tally.h"
#include "x86/decode.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const vector_names[32] = {
    [0] = "#DE",  [1] = "#DB",  [3] = "#BP",  [4] = "#OF",  [5] = "#BR",
    [6] = "#UD",  [11] = "#NP", [12] = "#SS", [13] = "#GP", [14] = "#PF",
    [16] = "#MF", [17] = "#AC", [19] = "#XM",
};

void tally_native(struct tally *t, const struct oracle_case *c, const struct oracle_result *native)
{
    struct x86_insn insn;
    t->cases++;
    if (native->vector == ORACLE_DIED) {
        t->died++;
        return;
    }
    bool done = native->vector == ORACLE_DONE || native->vector == X86_DB;
    t->completed += done;
    if (native->vector >= 0 && native->vector < 32)
        t->faults[native->vector]++;
    t->loops += c->looped;
    for (unsigned i = 0; i < c->parts; i++) { // all but the last completed
        const struct oracle_part *p = &c->part[i];
        bool last = i + 1u == c->parts;
        if (p->form == ORACLE_SETUP)
            continue;
        t->instructions++;
        if (x86_decode(&insn, p->bytes, p->size, c->code_size, NULL) == X86_DECODE_OK) {
            t->ran[insn.form]++;
            t->completed_of[insn.form] += done || !last;
        }
    }
    t->instructions++;
    if (x86_decode(&insn, c->bytes, c->size, c->code_size, NULL) != X86_DECODE_OK) {
        t->undefined_opcode++;
        return;
    }
    t->ran[insn.form]++;
    t->completed_of[insn.form] += done || c->parts;
}

// Why a row did not complete once, or NULL where that needs an explanation.
static const char *why_never(const struct x86_form *form, enum x86_code_size code_size)
{
    const char *excluded = oracle_excluded(form);
    if (excluded)
        return excluded;
    if ((form->attr & (code_size == X86_CODE64 ? X86_INSN_NO64 : X86_INSN_ONLY64)) ||
        (code_size != X86_CODE64 && form->w == 1 && !(form->attr & X86_INSN_VEX)) ||
        (code_size != X86_CODE64 && form->w == 1 && form->w_is_size))
        return "not in this mode";
    static const char *const cpl0[] = {"clac", "stac", "sysret", "sysexit"};
    for (unsigned i = 0; i < ARRAY_SIZE(cpl0); i++)
        if (!strcmp(form->mnemonic, cpl0[i]))
            return "needs CPL 0";
    if (form->privilege == X86_PRIV_CPL0)
        return "needs CPL 0";
    if (!strcmp(form->mnemonic, "rsm"))
        return "needs system management mode";
    if (!strcmp(form->mnemonic, "int") || !strcmp(form->mnemonic, "int3"))
        return "always an exception";
    if (form->privilege == X86_PRIV_IOPL)
        return "needs IOPL 3";
    if (!strncmp(form->mnemonic, "ud", 2))
        return "always #UD";
    if (form->attr & X86_INSN_INTEL)
        return "not on AMD's processors";
    return NULL;
}

static bool is_asked_for(const struct oracle_options *options, const struct x86_form *form)
{
    if (!form->name)
        return false;
    if (!options->form)
        return true;
    return options->exact ? !strcmp(form->name, options->form)
                          : !strncmp(form->name, options->form, strlen(options->form));
}

// The row that completed least often among those that did.
static unsigned least_completed(const struct tally *t)
{
    unsigned least = 0;
    for (unsigned i = 0; i < X86_FORM_COUNT; i++)
        if (t->completed_of[i] &&
            (!t->completed_of[least] || t->completed_of[i] < t->completed_of[least]))
            least = i;
    return least;
}

static unsigned forms_completed(const struct tally *t)
{
    unsigned count = 0;
    for (unsigned i = 0; i < X86_FORM_COUNT; i++)
        count += t->completed_of[i] != 0;
    return count;
}

static void print_in_full(const struct tally *t, const struct oracle_options *options)
{
    for (unsigned i = 0; i < X86_FORM_COUNT; i++)
        if (t->failed_of[i])
            printf("differs: %8u  %s\n", t->failed_of[i], x86_forms[i].name);
    oracle_print_masked();
    for (unsigned v = 0; v < 32; v++)
        if (t->faults[v])
            printf("fault: %-4s %" PRIu64 "\n", vector_names[v] ? vector_names[v] : "?",
                   t->faults[v]);
    for (unsigned i = 0; i < X86_FORM_COUNT; i++) {
        if (!is_asked_for(options, &x86_forms[i]) || t->completed_of[i])
            continue;
        const char *why = why_never(&x86_forms[i], options->code_size);
        printf("never completed: %s (%u ran): %s\n", x86_forms[i].name, t->ran[i],
               why ? why : "by chance");
    }
}

void tally_print(const struct tally *t, const struct oracle_options *options, bool in_full,
                 double seconds)
{
    unsigned least = least_completed(t);
    if (in_full)
        print_in_full(t, options);
    printf("%d-bit, seed %" PRIu64 ": %" PRIu64 " cases, %" PRIu64 " completed, %" PRIu64
           " no instruction, %u forms completed",
           16 << options->code_size, options->seed, t->cases, t->completed, t->undefined_opcode,
           forms_completed(t));
    if (t->completed_of[least])
        printf(" (least: %s, %u times)", x86_forms[least].name, t->completed_of[least]);
    if (options->sequence)
        printf("\nsequences of %.1f instructions on average, beside what sets up their operands",
               (double)t->instructions / (double)(t->cases ? t->cases : 1));
    if (t->loops)
        printf("\n%" PRIu64 " of them in a loop", t->loops);
    if (t->stops)
        printf("\nstopped %" PRIu64 " times within them", t->stops);
    printf("\n%" PRIu64 " differ in what is undefined, %.1f s (%.0f cases/s)\n", t->undefined,
           seconds, (double)t->cases / seconds);
    printf("%" PRIu64 " passed, %" PRIu64 " failed\n", t->passed, t->failed);
}

int tally_write_json(const struct tally *t, const struct oracle_options *options, double seconds,
                     const char *path)
{
    FILE *f = strcmp(path, "-") ? fopen(path, "w") : stdout;
    unsigned least = least_completed(t);
    if (!f) {
        perror(path);
        return -1;
    }
    fprintf(f,
            "{\"mode\": %d, \"seed\": %" PRIu64 ", \"cases\": %" PRIu64 ", \"passed\": %" PRIu64
            ", \"failed\": %" PRIu64 ", \"died\": %" PRIu64 ", \"completed\": %" PRIu64
            ", \"no_instruction\": %" PRIu64 ", \"undefined_differ\": %" PRIu64
            ", \"seconds\": %.1f,\n",
            16 << options->code_size, options->seed, t->cases, t->passed, t->failed, t->died,
            t->completed, t->undefined_opcode, t->undefined, seconds);
    fprintf(f, " \"forms\": {\"completed\": %u, \"least\": \"%s\", \"least_times\": %u},\n",
            forms_completed(t), x86_forms[least].name, t->completed_of[least]);
    const char *comma = "";
    fprintf(f, " \"faults\": {");
    for (unsigned v = 0; v < 32; v++)
        if (t->faults[v]) {
            fprintf(f, "%s\"%s\": %" PRIu64, comma, vector_names[v] ? vector_names[v] : "?",
                    t->faults[v]);
            comma = ", ";
        }
    fprintf(f, "},\n \"masked\": [");
    oracle_write_masked(f);
    fprintf(f, "],\n \"completed_times\": {");
    comma = "";
    for (unsigned i = 0; i < X86_FORM_COUNT; i++)
        if (t->completed_of[i]) {
            fprintf(f, "%s\n  \"%s\": %u", comma, x86_forms[i].name, t->completed_of[i]);
            comma = ",";
        }
    fprintf(f, "},\n \"failed_times\": {");
    comma = "";
    for (unsigned i = 0; i < X86_FORM_COUNT; i++)
        if (t->failed_of[i]) {
            fprintf(f, "%s\n  \"%s\": %u", comma, x86_forms[i].name, t->failed_of[i]);
            comma = ",";
        }
    comma = "";
    fprintf(f, "},\n \"never_completed\": {");
    for (unsigned i = 0; i < X86_FORM_COUNT; i++) {
        if (!is_asked_for(options, &x86_forms[i]) || t->completed_of[i])
            continue;
        const char *why = why_never(&x86_forms[i], options->code_size);
        fprintf(f, "%s\n  \"%s\": \"%s\"", comma, x86_forms[i].name, why ? why : "by chance");
        comma = ",";
    }
    fprintf(f, "}}\n");
    if (f != stdout && fclose(f) != 0) {
        perror(path);
        return -1;
    }
    return 0;
}
