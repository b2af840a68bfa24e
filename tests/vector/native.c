// SPDX-License-Identifier: Apache-2.0
#include "native.h"

#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

void native_enter(struct native_state *state, void *code);

_Static_assert(offsetof(struct native_state, rflags) == 128, "assembly");
_Static_assert(offsetof(struct native_state, mxcsr) == 136, "assembly");
_Static_assert(offsetof(struct native_state, vec) == 144, "assembly");
_Static_assert(offsetof(struct native_state, x87) == 656, "assembly");

__asm__(".pushsection .bss\n"
        "native_saved_state: .quad 0\n"
        "native_saved_code: .quad 0\n"
        ".popsection\n"
        ".pushsection .rodata\n"
        "native_mxcsr: .long 0x1f80\n"
        ".popsection\n"
        ".text\n"
        ".globl native_enter\n"
        "native_enter:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rdi, native_saved_state(%rip)\n"
        "mov %rsi, native_saved_code(%rip)\n"
        ".set n, 0\n"
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
        "vmovdqu (144 + 32 * \\n)(%rdi), %ymm\\n\n"
        ".endr\n"
        "ldmxcsr 136(%rdi)\n"
        "frstor 656(%rdi)\n"
        "pushq 128(%rdi)\n"
        "mov 0(%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx\n"
        "mov 40(%rdi), %rbp; mov 48(%rdi), %rsi\n"
        "mov 64(%rdi), %r8; mov 72(%rdi), %r9; mov 80(%rdi), %r10; mov 88(%rdi), %r11\n"
        "mov 96(%rdi), %r12; mov 104(%rdi), %r13; mov 112(%rdi), %r14; mov 120(%rdi), %r15\n"
        "mov 56(%rdi), %rdi\n"
        "popfq\n"
        "call *native_saved_code(%rip)\n"
        "push %rdi\n"
        "mov native_saved_state(%rip), %rdi\n"
        "mov %rax, 0(%rdi); mov %rcx, 8(%rdi); mov %rdx, 16(%rdi); mov %rbx, 24(%rdi)\n"
        "mov %rbp, 40(%rdi); mov %rsi, 48(%rdi)\n"
        "mov %r8, 64(%rdi); mov %r9, 72(%rdi); mov %r10, 80(%rdi); mov %r11, 88(%rdi)\n"
        "mov %r12, 96(%rdi); mov %r13, 104(%rdi); mov %r14, 112(%rdi); mov %r15, 120(%rdi)\n"
        "pop 56(%rdi)\n"
        "pushfq\n"
        "pop 128(%rdi)\n"
        "cld\n"
        "stmxcsr 136(%rdi)\n"
        "ldmxcsr native_mxcsr(%rip)\n"
        "fnsave 656(%rdi)\n"
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
        "vmovdqu %ymm\\n, (144 + 32 * \\n)(%rdi)\n"
        ".endr\n"
        "vzeroupper\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "ret\n");

static uint8_t *page;
static unsigned code_len;
static volatile int raised;
static struct sigaction old[3];
static const int signals[3] = {SIGFPE, SIGILL, SIGSEGV};

static void on_signal(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    uintptr_t rip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    if (rip == (uintptr_t)page) {
        raised = sig;
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(rip + code_len);
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        if (signals[i] == sig && (old[i].sa_flags & SA_SIGINFO)) {
            old[i].sa_sigaction(sig, info, context);
            return;
        }
    }
    signal(sig, SIG_DFL);
}

void native_init(void)
{
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        abort();
    for (unsigned i = 0; i < 3; i++)
        sigaction(signals[i], &sa, &old[i]);
}

int native_run(struct native_state *state, const uint8_t *code, unsigned len)
{
    memcpy(page, code, len);
    page[len] = 0xc3;
    code_len = len;
    raised = 0;
    native_enter(state, page);
    return raised;
}
