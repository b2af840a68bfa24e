// SPDX-License-Identifier: Apache-2.0
// The decoder against Zydis: encodings of every form, then random byte strings, in every mode and
// for both vendors. Every difference must be one of known.c.
//
//     test-decode [random strings per mode] [seed]
#include "generate.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PER_FORM 100
#define SHOWN_PER_FORM 2
#define SHOWN 60

static uint64_t compared, valid, unexplained, covered;
static uint64_t form_seen[X86_FORM_COUNT];
static unsigned form_shown[X86_FORM_COUNT + 1];
static unsigned shown;

static void show(const struct sample *s)
{
    unsigned slot = s->result == X86_DECODE_OK ? s->insn.form : X86_FORM_COUNT;
    if (shown >= SHOWN || (slot < X86_FORM_COUNT && form_shown[slot] >= SHOWN_PER_FORM))
        return;
    form_shown[slot]++;
    shown++;
    char text[128];
    x86_disassemble(text, sizeof(text), s->bytes, sizeof(s->bytes), s->code, 0);
    printf("%s%s ",
           s->code == X86_CODE16   ? "16"
           : s->code == X86_CODE32 ? "32"
                                   : "64",
           s->amd ? " amd" : "");
    for (unsigned i = 0; i < sizeof(s->bytes); i++)
        printf("%02x", s->bytes[i]);
    printf("  [%s]  %s  (%s)\n", text, s->why,
           s->result == X86_DECODE_OK ? x86_insn_form(&s->insn)->name : "-");
}

static void check(struct sample *s)
{
    sample_decode(s);
    compared++;
    if (s->result == X86_DECODE_OK) {
        valid++;
        covered += form_seen[s->insn.form]++ == 0;
    }
    if (sample_agrees(s))
        return;
    int known = sample_known_difference(s);
    if (known >= 0) {
        known_differences[known].count++;
        return;
    }
    unexplained++;
    show(s);
}

int main(int argc, char **argv)
{
    uint64_t strings = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000;
    uint64_t rng = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    struct sample s;

    for (unsigned code = X86_CODE16; code <= X86_CODE64; code++) {
        for (unsigned form = 0; form < X86_FORM_COUNT; form++) {
            for (unsigned i = 0; i < PER_FORM; i++) {
                s.code = code;
                s.amd = i & 1;
                generate_form(&s, &x86_forms[form], &rng);
                check(&s);
            }
        }
    }
    printf("forms: %" PRIu64 " encodings, %" PRIu64 " valid, %" PRIu64 " of %u forms seen\n",
           compared, valid, covered, X86_FORM_COUNT);
    for (unsigned i = 0; i < X86_FORM_COUNT; i++) {
        if (form_seen[i] == 0) {
            printf("never decoded: %s\n", x86_forms[i].name);
            unexplained++;
        }
    }
    uint64_t before = compared, before_valid = valid;
    for (unsigned code = X86_CODE16; code <= X86_CODE64; code++) {
        for (uint64_t i = 0; i < strings; i++) {
            s.code = code;
            s.amd = i & 1;
            generate_random(&s, &rng);
            check(&s);
        }
    }
    printf("random: %" PRIu64 " strings, %" PRIu64 " valid\n", compared - before,
           valid - before_valid);
    for (unsigned i = 0; i < known_difference_count; i++)
        printf("%9" PRIu64 "  %s\n", known_differences[i].count, known_differences[i].reason);
    printf("%" PRIu64 " unexplained\n", unexplained);
    return unexplained != 0;
}
