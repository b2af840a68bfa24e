// SPDX-License-Identifier: Apache-2.0
// Code that is rewritten all the time: by the guest itself, until the code cache has been filled several times over;
// and by a device that holds the board's lock, which the guest's port accesses want, too.
#include "../engine_under_test.h"
#include "../interp/rig.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define FUNCTION 0x5000
static const uint8_t function[] = {0xb0, 0, 0x48, 0x01, 0xc2, 0xc3}; // mov al, 0; add rdx, rax; ret

static struct rig *make(const uint8_t *code, size_t size)
{
    struct rig *rig = rig_create(RIG_LONG);
    rig_write(rig, 0x3000, code, size);
    rig_write(rig, FUNCTION, function, sizeof(function));
    rig->cpu->rip = 0x3000;
    rig->cpu->gpr[X86_RAX] = rig->cpu->gpr[X86_RDX] = 0;
    return rig;
}

static void test_rewritten(void **state)
{
    // l: mov [5001h], cl; mov ebx, 5000h; call rbx; dec ecx; jnz l; hlt
    static const uint8_t code[] = {0x88, 0x0c, 0x25, 0x01, 0x50, 0x00, 0x00, 0xbb, 0x00, 0x50,
                                   0x00, 0x00, 0xff, 0xd3, 0xff, 0xc9, 0x75, 0xee, 0xf4};
    const uint32_t turns = 200000;
    struct rig *rig = make(code, sizeof(code));
    uint64_t want = 0;
    rig->cpu->gpr[X86_RCX] = turns;
    assert_int_equal(rig_run(rig, 0), VM_EXIT_HALT);
    for (uint32_t i = 1; i <= turns; i++)
        want += i & 255;
    assert_int_equal(rig->cpu->gpr[X86_RDX], want);
    assert_true(rig_counter(rig, "translations_killed") > turns / 2);
    rig_destroy(rig);
}

static void *run(void *opaque)
{
    return (void *)(uintptr_t)rig_run(opaque, 0);
}

static void test_device_writes(void **state)
{
    // l: mov ebx, 5000h; call rbx; in al, 80h; jmp l
    static const uint8_t code[] = {0xbb, 0x00, 0x50, 0x00, 0x00, 0xff,
                                   0xd3, 0xe4, 0x80, 0xeb, 0xf5};
    struct rig *rig = make(code, sizeof(code));
    pthread_t thread;
    void *reason;
    assert_int_equal(pthread_create(&thread, NULL, run, rig), 0);
    for (unsigned i = 0; i < 20000; i++) {
        uint8_t byte = (uint8_t)i;
        memory_lock(rig->memory);
        rig_write(rig, FUNCTION + 1, &byte, 1);
        memory_unlock(rig->memory);
        if (i % 64 == 0)
            usleep(50);
    }
    engine_under_test()->kick(rig->vcpu);
    pthread_join(thread, &reason);
    assert_int_equal((uintptr_t)reason, VM_EXIT_KICK);
    assert_true(rig->port_reads > 0);
    rig_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rewritten),
        cmocka_unit_test(test_device_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
