// SPDX-License-Identifier: Apache-2.0
// The 16-bit cases of the real-mode and V86 guests (guests/lab/mode16_*.c, real_bcd.c) on the host's own processor: a 32-bit
// process with 16-bit segments in its LDT at the guests' linear addresses. It proves the cases themselves.
//
// Rules to keep:
//  - What 16-bit protected mode does differently does not count: expected() lists it, each with its reason.
//  - A state is started and ends by a signal; the handler runs on a stack of its own.
#include "real.h"

#include <asm/ldt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <unistd.h>

enum {
    SKIP = 77
};

static const char *section = "";
static u32 checks, failed, differing;

void lab_section(const char *name)
{
    section = name;
}

// What is protected mode's in a failed check.
static bool expected(const char *text)
{
    static const char *const names[] = {
        // selectors in memory are no descriptors
        "les (",
        "lds (",
        "lfs (",
        "lgs (",
        "mov ds, m16 (",
        "66 retf (",
        "66 jmpf (",
        "66 callf (",
        // POP ES takes a zero
        "pop es",
    };
    for (u32 i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strstr(text, names[i]))
            return true;
    // A code segment cannot be written: tag 2 is CS in the limit cases.
    return !strcmp(section, "limit 64 KiB") && strstr(text, " (2 ");
}

static bool verdict(bool ok, const char *text)
{
    checks++;
    if (ok)
        return true;
    if (expected(text)) {
        differing++;
    } else {
        failed++;
        printf("FAILED %s: %s\n", section, text);
    }
    return false;
}

bool lab_check(bool ok, const char *what, ...)
{
    char text[400];
    va_list args;

    va_start(args, what);
    vsnprintf(text, sizeof(text), what, args);
    va_end(args);
    return verdict(ok, text);
}

bool lab_equal(const char *what, u64 got, u64 want)
{
    char text[200];
    snprintf(text, sizeof(text), "%s: got %llx, want %llx", what, got, want);
    return verdict(got == want, text);
}

void lab_direct(void)
{
}

const struct lab_trap *lab_enter(const struct lab_state *state)
{
    (void)state;
    return NULL;
}

bool lab_is_amd(void)
{
    u32 b = lab_cpuid(0, 0).b;
    return b == 0x68747541 || b == 0x6f677948;
}

// --- running -------------------------------------------------------------------------------------------------

static const u16 segments[6] = {M16_CS, M16_SS, M16_DS, M16_ES, M16_FS, M16_GS};
static const struct m16 *start;
static struct m16_end end;
static ucontext_t home;
static volatile sig_atomic_t running;

static u16 to_selector(u16 segment)
{
    for (u32 i = 0; i < 6; i++)
        if (segments[i] == segment)
            return (u16)((i + 1) << 3 | 7);
    return 0;
}
static u16 to_segment(u32 selector)
{
    u32 i = (selector & 0xffff) >> 3;
    return (selector & 4) && i >= 1 && i <= 6 ? segments[i - 1] : (u16)selector;
}

static const int order[8] = {REG_EAX, REG_ECX, REG_EDX, REG_EBX,
                             REG_ESP, REG_EBP, REG_ESI, REG_EDI};

static void on_signal(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;

    (void)info;
    if (number == SIGUSR1) {
        memcpy(home.uc_mcontext.gregs, g, sizeof(home.uc_mcontext.gregs));
        for (u32 i = 0; i < 8; i++)
            g[order[i]] = (greg_t)start->gpr[i];
        g[REG_UESP] = (greg_t)start->gpr[SP];
        g[REG_EIP] = (greg_t)start->ip;
        g[REG_EFL] = (greg_t)(start->flags & 0x8d5) | (greg_t)(start->flags & FLAG_DF) | 0x202;
        g[REG_CS] = to_selector(start->cs);
        g[REG_SS] = to_selector(start->ss);
        g[REG_DS] = to_selector(start->ds);
        g[REG_ES] = to_selector(start->es);
        g[REG_FS] = to_selector(start->fs);
        g[REG_GS] = to_selector(start->gs);
        running = 1;
        return;
    }
    if (!running)
        _exit(3);
    running = 0;
    end.vector = (u32)g[REG_TRAPNO];
    end.error = (u32)g[REG_ERR];
    for (u32 i = 0; i < 8; i++)
        end.at.gpr[i] = (u32)g[order[i]];
    end.at.gpr[SP] = (u32)g[REG_UESP];
    end.at.ip = (u32)g[REG_EIP];
    end.at.flags = (u32)g[REG_EFL];
    end.at.cs = to_segment((u32)g[REG_CS]);
    end.at.ss = to_segment((u32)g[REG_SS]);
    end.at.ds = to_segment((u32)g[REG_DS]);
    end.at.es = to_segment((u32)g[REG_ES]);
    end.at.fs = to_segment((u32)g[REG_FS]);
    end.at.gs = to_segment((u32)g[REG_GS]);
    memcpy(g, home.uc_mcontext.gregs, sizeof(home.uc_mcontext.gregs));
}

static void native_run(const struct m16 *m, struct m16_end *e)
{
    start = m;
    memset(&end, 0, sizeof(end));
    // (Not raise(): the C library's TLS register changes under it.)
    __asm__ volatile("int $0x80" : : "a"(SYS_kill), "b"(getpid()), "c"(SIGUSR1) : "memory", "cc");
    *e = end;
}

int main(void)
{
    static u8 stack[65536];
    static const int signals[] = {SIGUSR1, SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE};
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};

    if (mmap((void *)0x10000, 0x70000, PROT_READ | PROT_WRITE | PROT_EXEC,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != (void *)0x10000) {
        puts("skipped: no memory at 10000h");
        return SKIP;
    }
    for (u32 i = 0; i < 6; i++) {
        struct user_desc d = {.entry_number = i + 1,
                              .base_addr = segments[i] * 16u,
                              .limit = 0xffff,
                              .contents =
                                  i == 0 ? MODIFY_LDT_CONTENTS_CODE : MODIFY_LDT_CONTENTS_DATA,
                              .useable = 1};
        if (syscall(SYS_modify_ldt, 1, &d, sizeof(d)) != 0) {
            puts("skipped: no 16-bit segments");
            return SKIP;
        }
    }
    sigaltstack(&alternate, NULL);
    sigfillset(&action.sa_mask);
    for (u32 i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &action, NULL);
    m16_mode = M16_PROTECTED;
    m16_real_run = native_run;
    m16_limit_cases();
    m16_op_cases();
    real_bcd_cases();
    printf("native: %u checks, %u failed, %u differ as protected mode does\n", checks, failed,
           differing);
    return failed != 0;
}
