// SPDX-License-Identifier: Apache-2.0
#include "compare.h"
#include "x86/flags.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void report_add(struct report *report, const char *format, ...)
{
    size_t room = sizeof(report->text) - report->length;
    va_list args;
    report->count++;
    va_start(args, format);
    int n = vsnprintf(report->text + report->length, room, format, args);
    va_end(args);
    if (n > 0)
        report->length += (size_t)n < room ? (size_t)n : room - 1;
}

static uint64_t scalar(const uint8_t *at, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, at, size < sizeof(value) ? size : sizeof(value));
    return value;
}

static bool skipped(const char *name, const char *const *skip)
{
    for (; skip && *skip; skip++)
        if (strcmp(*skip, name) == 0)
            return true;
    return false;
}

static void add_elements(const struct state_field *field, const char *name, const uint8_t *a,
                         const uint8_t *b, struct report *report)
{
    const unsigned count = field->size / field->elem;
    const int digits = (int)(field->elem < 8 ? field->elem * 2 : 16);
    for (unsigned i = 0; i < count; i++, a += field->elem, b += field->elem) {
        char index[16] = "";
        if (memcmp(a, b, field->elem) == 0)
            continue;
        if (count > 1)
            snprintf(index, sizeof(index), "[%u]", i);
        report_add(report, "  %s%s: %0*llx %0*llx\n", name, index, digits,
                   (unsigned long long)scalar(a, field->elem), digits,
                   (unsigned long long)scalar(b, field->elem));
    }
}

static bool compare_fields(const struct state_field *field, const char *prefix, const uint8_t *a,
                           const uint8_t *b, const char *const *skip, struct report *report)
{
    bool equal = true;
    for (; field->kind != STATE_KIND_END; field++) {
        const uint8_t *fa = a + field->offset, *fb = b + field->offset;
        char name[160];
        // Most are equal: no name is made for them.
        if (field->kind == STATE_KIND_TRANSIENT || memcmp(fa, fb, field->size) == 0)
            continue;
        snprintf(name, sizeof(name), "%s.%s", prefix, field->name);
        if (skipped(name, skip))
            continue;
        if (field->kind == STATE_KIND_STRUCT) {
            for (unsigned i = 0; i < field->size / field->elem; i++) {
                char element[200];
                snprintf(element, sizeof(element), field->size > field->elem ? "%s[%u]" : "%s",
                         name, i);
                if (!compare_fields(field->sub, element, fa + i * field->elem, fb + i * field->elem,
                                    skip, report))
                    equal = false;
                if (!equal && !report)
                    return false;
            }
            continue;
        }
        equal = false;
        if (!report)
            return false;
        add_elements(field, name, fa, fb, report);
    }
    return equal;
}

bool compare_objects(const struct state_desc *desc, const void *a, const void *b,
                     const char *const *skip, struct report *report)
{
    return compare_fields(desc->fields, desc->name, a, b, skip, report);
}

void compare_number(const char *name, uint64_t a, uint64_t b, struct report *report)
{
    if (a != b)
        report_add(report, "  %s: %llx %llx\n", name, (unsigned long long)a, (unsigned long long)b);
}

// How the interpreter keeps flags (RFLAGS is compared as a whole), and what is no state between two
// instructions.
static const char *const cpu_skip[] = {"cpu.cc_res", "cpu.cc_aux",   "cpu.rflags",
                                       "cpu.events", "cpu.insn_rip", NULL};
// Posted by the board, not by an engine to itself.
#define BOARD_EVENTS                                                                    \
    (X86_EVENT_INTR | X86_EVENT_NMI | X86_EVENT_SMI | X86_EVENT_INIT | X86_EVENT_SIPI | \
     X86_EVENT_TRAP)

void compare_processors(const struct x86_cpu *a, const struct x86_cpu *b, uint64_t mask_flags,
                        const char *const *skip, struct report *report)
{
    const char *all[64];
    unsigned n = 0;

    for (const char *const *s = cpu_skip; *s; s++)
        all[n++] = *s;
    for (const char *const *s = skip; s && *s && n < ARRAY_SIZE(all) - 1; s++)
        all[n++] = *s;
    all[n] = NULL;
    compare_number("cpu.rflags", x86_get_rflags(a) & ~mask_flags, x86_get_rflags(b) & ~mask_flags,
                   report);
    compare_number("cpu.events", atomic_load(&a->events) & BOARD_EVENTS,
                   atomic_load(&b->events) & BOARD_EVENTS, report);
    compare_objects(&x86_cpu_state, a, b, all, report);
}
