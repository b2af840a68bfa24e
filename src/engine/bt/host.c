// SPDX-License-Identifier: Apache-2.0
// What a host thread needs to run translated code: the GS base, and a stack for signals, because RSP is the
// guest's there.
//
// A signal that is handled on this thread must be handled on the alternate stack: whoever installs a handler
// sets SA_ONSTACK, and a thread that runs a vCPU blocks all signals but those of its own instructions
// (machine/vcpu.c). The kernel takes an RSP that points into the alternate stack for a handler that runs there
// already; the guest chooses RSP, so the stack is registered with SS_AUTODISARM, which ends that guess.
#include "engine/bt/bt.h"
#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE (1 << 1)
#endif
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif
#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

// --- the GS base -------------------------------------------------------------------------------------------------

static bool fsgsbase;

static uint64_t gs_get(void)
{
    uint64_t base = 0;
    if (fsgsbase)
        __asm__ volatile("rdgsbase %0" : "=r"(base));
    else
        syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
    return base;
}

static void gs_set(uint64_t base)
{
    if (fsgsbase)
        __asm__ volatile("wrgsbase %0" : : "r"(base));
    else
        syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

uint64_t bt_host_enter(struct x86_cpu *cpu)
{
    uint64_t before = gs_get();
    gs_set((uintptr_t)cpu);
    return before;
}

void bt_host_leave(uint64_t before)
{
    gs_set(before);
}

// --- the stack for signals ----------------------------------------------------------------------------------------

static pthread_key_t stack_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool key_made;
static size_t stack_size; // with a page below that is not mapped
static _Thread_local bool stack_ready;

static void stack_free(void *stack)
{
    stack_t none = {.ss_flags = SS_DISABLE};
    sigaltstack(&none, NULL);
    munmap(stack, stack_size);
}

static void init(void)
{
    // Hosts without the instructions are rare; the variable makes any host one of them, for tests.
    fsgsbase = (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) && !getenv("CROFT_NO_FSGSBASE");
    stack_size = (getauxval(AT_MINSIGSTKSZ) + KIB(64) + 2 * PAGE_SIZE) & PAGE_MASK;
    key_made = pthread_key_create(&stack_key, stack_free) == 0;
}

// Registers a stack, the one that is there if there is one.
bool bt_host_prepare(void)
{
    stack_t stack;
    void *mine = NULL;
    if (stack_ready)
        return true;
    pthread_once(&once, init);
    if (!key_made || sigaltstack(NULL, &stack) < 0)
        return false;
    if (stack.ss_flags & SS_DISABLE) {
        mine = mmap(NULL, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mine == MAP_FAILED)
            return false;
        mprotect(mine, PAGE_SIZE, PROT_NONE);
        stack = (stack_t){.ss_sp = (uint8_t *)mine + PAGE_SIZE, .ss_size = stack_size - PAGE_SIZE};
    }
    stack.ss_flags = (int)SS_AUTODISARM;
    if (sigaltstack(&stack, NULL) < 0) { // a kernel before 4.7
        stack.ss_flags = 0;
        if (sigaltstack(&stack, NULL) < 0) {
            if (mine)
                munmap(mine, stack_size);
            return false;
        }
    }
    if (mine && pthread_setspecific(stack_key, mine) != 0) {
        stack_free(mine);
        return false;
    }
    stack_ready = true;
    return true;
}
