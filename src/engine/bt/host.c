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

// Tries what the engine needs: LAHF in 64-bit mode (SDM vol. 2, CPUID 80000001h ECX[0]), and memory that is
// written at one address and executed at another, which a security policy may refuse.
const char *bt_host_refuses(void)
{
    static const uint8_t code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3}; // mov eax, 42; ret
    const size_t size = 4096;
    const char *reason = NULL;
    uint32_t a = 0x80000001, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (!(c & 1))
        return "the processor has no LAHF in 64-bit mode";
    int fd = memfd_create("croft-probe", MFD_CLOEXEC);
    if (fd < 0)
        return "memfd_create is refused: no memory for code";
    void *rw = MAP_FAILED, *rx = MAP_FAILED;
    if (ftruncate(fd, (off_t)size) == 0) {
        rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    if (rw == MAP_FAILED || rx == MAP_FAILED) {
        reason = "the host refuses executable memory (a security policy, or memory is exhausted)";
    } else {
        __builtin_memcpy(rw, code, sizeof(code));
        if (((int (*)(void))(uintptr_t)rx)() != 42)
            reason = "code that was written does not execute as written";
    }
    if (rw != MAP_FAILED)
        munmap(rw, size);
    if (rx != MAP_FAILED)
        munmap(rx, size);
    close(fd);
    return reason;
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
