// SPDX-License-Identifier: Apache-2.0
// Translated code runs with the guest's stack pointer: signals that meet it are handled on the alternate stack
// whatever RSP is, even when RSP points into that stack; and the GS base is the thread's own again afterwards.
#include "../engine_under_test.h"
#include "../interp/rig.h"
#include <asm/prctl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define SIGNALS 2000

static _Atomic unsigned handled, on_stack;
static _Atomic uintptr_t stack_low, stack_high;

static void handler(int number)
{
    char here;
    uintptr_t at = (uintptr_t)&here;
    handled++;
    if (at >= stack_low && at < stack_high)
        on_stack++;
}

static uint64_t gs_base(void)
{
    uint64_t base = 0;
    syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
    return base;
}

struct runner {
    struct rig *rig;
    _Atomic bool ready, begin, stop;
    uint64_t rsp_in_stack; // offset into the alternate stack, or 0
    uint64_t gs_before, gs_after;
    unsigned reason;
};

// inc rax; lea rbx, [rbx + rax]; jmp
static const uint8_t loop[] = {0x48, 0xff, 0xc0, 0x48, 0x8d, 0x1c, 0x03, 0xeb, 0xf7};

static void *run(void *opaque)
{
    struct runner *r = opaque;
    stack_t stack;
    r->gs_before = gs_base();
    engine_under_test()->kick(r->rig->vcpu); // prepares the thread
    rig_run(r->rig, 0);
    sigaltstack(NULL, &stack);
    stack_low = (uintptr_t)stack.ss_sp;
    stack_high = stack_low + stack.ss_size;
    if (r->rsp_in_stack)
        r->rig->cpu->gpr[X86_RSP] = stack_low + r->rsp_in_stack;
    r->ready = true;
    while (!r->begin)
        usleep(100);
    r->reason = rig_run(r->rig, 0);
    r->gs_after = gs_base();
    return NULL;
}

static void storm(uint64_t rsp, uint64_t rsp_in_stack)
{
    struct runner r = {.rig = rig_create(RIG_LONG), .rsp_in_stack = rsp_in_stack};
    pthread_t thread;
    rig_write(r.rig, 0x3000, loop, sizeof(loop));
    r.rig->cpu->rip = 0x3000;
    r.rig->cpu->gpr[X86_RSP] = rsp;
    r.rig->cpu->gpr[X86_RAX] = r.rig->cpu->gpr[X86_RBX] = 0;
    handled = on_stack = 0;
    assert_int_equal(pthread_create(&thread, NULL, run, &r), 0);
    while (!r.ready)
        usleep(100);
    rsp = r.rig->cpu->gpr[X86_RSP];
    r.begin = true;
    for (unsigned i = 0; i < SIGNALS; i++) {
        pthread_kill(thread, SIGUSR1);
        usleep(20);
    }
    engine_under_test()->kick(r.rig->vcpu);
    pthread_join(thread, NULL);
    assert_int_equal(r.reason, VM_EXIT_KICK);
    assert_true(handled > 0);
    assert_int_equal(handled, on_stack);
    assert_int_equal(r.rig->cpu->gpr[X86_RSP], rsp);
    uint64_t n = r.rig->cpu->gpr[X86_RAX], done = r.rig->cpu->rip > 0x3003 ? n : n - 1;
    if (r.rig->cpu->rip == 0x3000)
        done = n;
    assert_true(n > 1000);
    assert_int_equal(r.rig->cpu->gpr[X86_RBX], done * (done + 1) / 2);
    assert_int_equal(r.gs_before, r.gs_after);
    rig_destroy(r.rig);
}

static void test_signals(void **state)
{
    storm(0, 0);
    storm(RIG_STACK, 0);
    storm(UINT64_C(0x7fffffffffff), 0);
    storm(UINT64_MAX, 0);
}

// A kernel that took such an RSP for a handler that runs already would put its frame there.
static void test_signals_inside(void **state)
{
    storm(0, 64);
    storm(0, 4096);
    storm(0, 16384);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_signals_inside),
    };
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
