// SPDX-License-Identifier: Apache-2.0
// What the guest says: a line for each section, one for each failure, and the verdict.
#include "private.h"

const char *lab_section_name = "start";
bool lab_skipping;
static u32 checks, failed, skipped, section_checks, section_failed;

static void put(char c)
{
    for (int i = 0; i < 100000 && !(in8(0x3fd) & 0x20); i++)
        ;
    out8(0x3f8, (u8)c);
}

static void put_text(const char *text)
{
    while (*text) {
        if (*text == '\n')
            put('\r');
        put(*text++);
    }
}

// (No 64-bit division: the 32-bit flavour has no library for it.)
static void put_number(u64 v, u32 base, u32 width, bool minus)
{
    char digits[24];
    int n = sizeof(digits);

    digits[--n] = 0;
    do {
        if (base == 16) {
            digits[--n] = "0123456789abcdef"[v & 15];
            v >>= 4;
        } else {
            digits[--n] = (char)('0' + (u32)v % 10);
            v = (u32)v / 10;
        }
    } while (v || (int)sizeof(digits) - 1 - n < (int)width);
    if (minus)
        digits[--n] = '-';
    put_text(digits + n);
}

static void print(const char *format, va_list args)
{
    for (; *format; format++) {
        u32 width = 0, longs = 0;
        if (*format != '%') {
            if (*format == '\n')
                put('\r');
            put(*format);
            continue;
        }
        format++;
        while (*format >= '0' && *format <= '9')
            width = width * 10 + (u32)(*format++ - '0');
        if (width > 16)
            width = 16;
        while (*format == 'l')
            longs++, format++;
        u64 v = 0;
        if (*format == 's') {
            put_text(va_arg(args, const char *));
            continue;
        }
        if (*format == '%') {
            put('%');
            continue;
        }
        if (longs == 2)
            v = va_arg(args, u64);
        else if (longs == 1)
            v = va_arg(args, ulong);
        else
            v = va_arg(args, u32);
        if (*format == 'c')
            put((char)v);
        else if (*format == 'd' && (int32_t)v < 0)
            put_number((u32)-v, 10, width, true);
        else
            put_number(v, *format == 'x' ? 16 : 10, width, false);
    }
}

void lab_print(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print(format, args);
    va_end(args);
}

void lab_note(const char *format, ...)
{
    va_list args;
    put_text("note: ");
    va_start(args, format);
    print(format, args);
    va_end(args);
    put_text("\n");
}

static void section_close(void)
{
    if (section_checks)
        lab_print("%s %s (%u checks)\n", section_failed ? "BAD" : "ok ", lab_section_name,
                  section_checks);
    section_checks = section_failed = 0;
}

void lab_section(const char *name)
{
    section_close();
    lab_section_name = name;
    lab_skipping = false;
}

void lab_direct(void)
{
    lab_skipping = false;
}

static bool count(bool ok)
{
    if (lab_skipping) {
        skipped++;
        return true;
    }
    checks++;
    section_checks++;
    if (!ok) {
        failed++;
        section_failed++;
        lab_print("FAILED %s: ", lab_section_name);
    }
    return ok;
}

bool lab_check(bool ok, const char *what, ...)
{
    ok = count(ok);
    if (!ok) {
        va_list args;
        va_start(args, what);
        print(what, args);
        va_end(args);
        put_text("\n");
    }
    return ok;
}

bool lab_equal(const char *what, u64 got, u64 want)
{
    bool ok = count(got == want);
    if (!ok)
        lab_print("%s: got %llx, want %llx\n", what, got, want);
    return ok;
}

void lab_print_trap(const struct lab_trap *t)
{
    if (!t)
        lab_print("none");
    else
        lab_print("vector %u error %x at %lx:%lx flags %lx sp %lx:%lx cr2 %lx dr6 %lx", t->vector,
                  t->error, t->cs, t->ip, t->flags, t->ss, t->sp, t->cr2, t->dr6);
}

static bool expected(bool ok, const char *what, const struct lab_trap *t, u32 vector, u32 error)
{
    ok = count(ok);
    if (!ok) {
        lab_print("%s: got ", what);
        lab_print_trap(t);
        if (vector == 256)
            lab_print(", want none\n");
        else
            lab_print(", want vector %u error %x\n", vector, error);
    }
    return ok;
}

bool lab_expect_none(const char *what, const struct lab_trap *t)
{
    return expected(!t, what, t, 256, 0);
}

bool lab_expect(const char *what, const struct lab_trap *t, u32 vector)
{
    return expected(t && t->vector == vector, what, t, vector, 0);
}

bool lab_expect_error(const char *what, const struct lab_trap *t, u32 vector, u32 error)
{
    return expected(t && t->vector == vector && t->error == error, what, t, vector, error);
}

_Noreturn void lab_finish(void)
{
    section_close();
    if (skipped)
        lab_note("%u checks skipped", skipped);
    lab_print("verdict: %u checks, %u failed\n", checks, failed);
    // ACPI S5 through PM1a_CNT, where the PIIX4 of PCs of this kind has it.
    for (;;) {
        out16(0x604, 0x2000);
        __asm__ volatile("cli; hlt");
    }
}
