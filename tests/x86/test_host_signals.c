// SPDX-License-Identifier: Apache-2.0
// Handlers for SIGILL and SIGFPE that were there before host code was set up keep theirs: what happens outside
// of that code is passed on. A process of its own, for the handlers are installed once.
#include "x86/hostexec.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static volatile sig_atomic_t plain_calls;

static void plain(int sig)
{
    plain_calls += sig == SIGILL;
}

static void test_pass_on(void **state)
{
    struct sigaction now;
    signal(SIGILL, plain);
    signal(SIGFPE, SIG_IGN);
    assert_int_equal(hostexec_init(NULL), 0);
    raise(SIGILL);
    raise(SIGILL);
    assert_int_equal(plain_calls, 2);
    // Ignored or not handled: the default action is restored, so that a fault ends the process.
    raise(SIGFPE);
    assert_int_equal(sigaction(SIGFPE, NULL, &now), 0);
    assert_true(now.sa_handler == SIG_DFL);
}

// No code exists for what is no x87 instruction.
static void test_undefined_x87(void **state)
{
    assert_int_equal(hostexec_x87_find(0x90, 0xc0), 0);
    assert_int_equal(hostexec_x87_find(0xd9, 0xd1), 0);
    assert_int_equal(hostexec_x87_find(0xd9, 0xe2), 0);
    assert_int_not_equal(hostexec_x87_find(0xd9, 0xe8), 0); // FLD1
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pass_on),
                                       cmocka_unit_test(test_undefined_x87)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
