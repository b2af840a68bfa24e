// SPDX-License-Identifier: Apache-2.0
// The instruction stands in a page of its own, with a jump back behind it. Registers are loaded and stored through
// native_in and native_out, RIP-relative; RSP stays, so the instruction must not name it.
#include "native.h"
#include <asm/prctl.h>
#include <assert.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FLAGS 0x8d5ull

struct native_state native_in __attribute__((used, visibility("hidden")));
struct native_state native_out __attribute__((used, visibility("hidden")));
void *native_code __attribute__((used, visibility("hidden")));
void native_enter(void) __attribute__((visibility("hidden")));
extern const uint8_t native_back[] __attribute__((visibility("hidden")));

static_assert(offsetof(struct native_state, flags) == 128, "used below");
static_assert(offsetof(struct native_state, mm) == 136, "used below");
static_assert(offsetof(struct native_state, ymm) == 200, "used below");

__asm__(".text\n"
        ".macro each_register op\n"
        "\\op 0, rax\n \\op 8, rcx\n \\op 16, rdx\n \\op 24, rbx\n \\op 40, rbp\n"
        "\\op 48, rsi\n \\op 56, rdi\n \\op 64, r8\n \\op 72, r9\n \\op 80, r10\n"
        "\\op 88, r11\n \\op 96, r12\n \\op 104, r13\n \\op 112, r14\n \\op 120, r15\n"
        ".endm\n"
        ".macro load_register at, name\n mov native_in+\\at(%rip), %\\name\n .endm\n"
        ".macro store_register at, name\n mov %\\name, native_out+\\at(%rip)\n .endm\n"
        ".hidden native_enter, native_back\n"
        "native_enter:\n"
        "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n sub $8, %rsp\n"
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
        "vmovdqu native_in+200+32*\\n(%rip), %ymm\\n\n"
        ".endr\n"
        ".irp n, 0,1,2,3,4,5,6,7\n"
        "movq native_in+136+8*\\n(%rip), %mm\\n\n"
        ".endr\n"
        "push native_in+128(%rip)\n popfq\n"
        "each_register load_register\n"
        "jmp *native_code(%rip)\n"
        "native_back:\n"
        "each_register store_register\n"
        "pushfq\n pop native_out+128(%rip)\n cld\n"
        ".irp n, 0,1,2,3,4,5,6,7\n"
        "movq %mm\\n, native_out+136+8*\\n(%rip)\n"
        ".endr\n"
        "emms\n"
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
        "vmovdqu %ymm\\n, native_out+200+32*\\n(%rip)\n"
        ".endr\n"
        "vzeroupper\n"
        "add $8, %rsp\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
        "ret\n");

static sigjmp_buf escape;

static void on_signal(int number)
{
    siglongjmp(escape, number);
}

void native_init(uint64_t gs_base)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    static uint8_t stack[65536];
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};

    sigaltstack(&alternative, NULL);
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &action, NULL);
    native_code =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (native_code == MAP_FAILED || syscall(SYS_arch_prctl, ARCH_SET_GS, gs_base) != 0)
        abort();
}

int native_run(struct native_state *state, const uint8_t *code, unsigned len)
{
    uint8_t jump[14] = {0xff, 0x25};
    const uint8_t *back = native_back;

    memcpy(jump + 6, &back, sizeof(back));
    memcpy(native_code, code, len);
    memcpy((uint8_t *)native_code + len, jump, sizeof(jump));
    native_in = *state;
    native_in.flags = (state->flags & FLAGS) | 0x202;
    int number = sigsetjmp(escape, 1);
    if (number != 0) {
        __asm__ volatile("emms\n cld\n vzeroupper");
        return number;
    }
    native_enter();
    native_out.gpr[4] = state->gpr[4];
    native_out.flags &= FLAGS;
    *state = native_out;
    return 0;
}
