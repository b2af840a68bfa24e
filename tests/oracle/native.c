// SPDX-License-Identifier: Apache-2.0
// Runs cases on the host's own processor.
//
// A forked child works through a batch in one signal handler: every case ends in an exception (its
// own, or the #GP of the HLT behind it), the handler files the state it finds in the signal frame,
// writes the next case's state into the same frame and returns, and rt_sigreturn loads all of it at
// once: general registers, RFLAGS, CS:RIP, SS:RSP and the XSAVE image. One signal per case.
//
// Rules to keep:
//  - The handler starts with the flags, FS base and segment registers of the case. AC would make
//    its own unaligned accesses fault, FS carries the C library's thread data: native_entry puts
//    both right before C code that could notice runs.
//  - A child that dies or hangs loses one case; the parent files it as ORACLE_DIED and forks again.
#include "case.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define BATCH 512
#define ALT_STACK_SIZE (64 * 1024)
#define DR6_BS 0x4000

// The XSAVE image in a signal frame (SDM vol. 1, 13.4).
#define XSAVE_BV 512
#define XSAVE_YMM_HIGH 576

// Flags that a frame may set (the kernel takes these and no others from it).
#define FLAGS_LOADED (X86_FLAGS_ARITH | X86_FLAG_DF | X86_FLAG_AC | X86_FLAG_TF | X86_FLAG_RF)

static uint8_t *code_alias, *window_alias; // writable views
static uint8_t *alt_stack;

// Shared with the child.
static struct batch {
    _Atomic unsigned next; // case that is running, or about to
    unsigned count;
    struct oracle_case cases[BATCH];
    struct oracle_result results[BATCH];
} * batch;

static bool started;
static uint64_t host_fs;
static uint64_t case_fs, case_gs; // found at entry
static uint16_t case_seg[4];      // DS ES FS GS

static void load_fpu(uint8_t *image, const struct oracle_fpu *fpu)
{
    memcpy(image, &fpu->fcw, 2);
    memcpy(image + 2, &fpu->fsw, 2);
    image[4] = fpu->ftw;
    image[5] = 0;
    memcpy(image + 6, &fpu->fop, 2);
    memcpy(image + 8, &fpu->fip, 8);
    memcpy(image + 16, &fpu->fdp, 8);
    memcpy(image + 24, &fpu->mxcsr, 4);
    memcpy(image + 32, fpu->st, sizeof(fpu->st));
    for (unsigned i = 0; i < 16; i++) {
        memcpy(image + 160 + 16 * i, fpu->ymm[i], 16);
        memcpy(image + XSAVE_YMM_HIGH + 16 * i, fpu->ymm[i] + 16, 16);
    }
    uint64_t bv = fpu->in_use;
    memcpy(image + XSAVE_BV, &bv, 8);
}

static void save_fpu(struct oracle_fpu *fpu, const uint8_t *image)
{
    uint64_t bv;
    memcpy(&bv, image + XSAVE_BV, 8);
    memset(fpu, 0, sizeof(*fpu));
    fpu->in_use = (uint8_t)(bv & 7);
    memcpy(&fpu->mxcsr, image + 24, 4);
    fpu->fcw = 0x37f;
    if (!(bv & 1))
        goto vectors;
    memcpy(&fpu->fcw, image, 2);
    memcpy(&fpu->fsw, image + 2, 2);
    fpu->ftw = image[4];
    memcpy(&fpu->fop, image + 6, 2);
    memcpy(&fpu->fip, image + 8, 8);
    memcpy(&fpu->fdp, image + 16, 8);
    for (unsigned i = 0; i < 8; i++)
        memcpy(fpu->st[i], image + 32 + 16 * i, 10);
vectors:
    for (unsigned i = 0; i < 16; i++) {
        if (bv & 2)
            memcpy(fpu->ymm[i], image + 160 + 16 * i, 16);
        if (bv & 4)
            memcpy(fpu->ymm[i] + 16, image + XSAVE_YMM_HIGH + 16 * i, 16);
    }
}

// Order of the general registers in a frame.
static const uint8_t greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                    REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                    REG_R12, REG_R13, REG_R14, REG_R15};

// Hosts with MISALIGNSSE have a bit in MXCSR that Croft does not offer: MXCSR_MASK of an image shows it.
static void hide_misaligned_mask(uint64_t image, uint8_t memory[ORACLE_MEMORY_SIZE])
{
    static const uint8_t host[4] = {0xff, 0xff, 0x02, 0x00};
    int at = image ? oracle_memory_offset(image + 28) : -1;
    if (at >= 0 && !memcmp(memory + at, host, sizeof(host)))
        memory[at + 2] = 0;
}

static void file_result(const struct oracle_case *c, struct oracle_result *r, const ucontext_t *uc,
                        const siginfo_t *info)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    struct oracle_state *out = &r->out;
    for (unsigned i = 0; i < 16; i++)
        out->gpr[i] = (uint64_t)g[greg_of[i]];
    out->rip = (uint64_t)g[REG_RIP];
    out->rflags = (uint64_t)g[REG_EFL];
    out->cs = (uint16_t)g[REG_CSGSFS];
    out->ss = (uint16_t)((uint64_t)g[REG_CSGSFS] >> 48);
    out->ds = case_seg[0];
    out->es = case_seg[1];
    out->fs = case_seg[2];
    out->gs = case_seg[3];
    out->fs_base = case_fs;
    out->gs_base = case_gs;
    save_fpu(&out->fpu, (const uint8_t *)uc->uc_mcontext.fpregs);
    r->vector = (int)g[REG_TRAPNO];
    r->error = (uint32_t)g[REG_ERR];
    r->cr2 = r->vector == X86_PF ? (uint64_t)g[REG_CR2] : 0;
    // What the next instruction met is not this case's: it completed.
    if (!oracle_is_within(c, out->cs, out->rip) &&
        (r->vector == X86_GP || (r->vector == X86_PF && (r->error & 0x10)))) {
        r->vector = ORACLE_DONE;
        r->error = 0;
        r->cr2 = 0;
    }
    r->dr6 = r->vector == X86_DB && info->si_code == TRAP_TRACE ? DR6_BS : 0;
    oracle_state_cut(c, out);
    memcpy(r->memory, window_alias, ORACLE_MEMORY_SIZE);
    if (r->vector == ORACLE_DONE || r->vector == X86_DB)
        hide_misaligned_mask(c->image, r->memory);
}

static void load_case(const struct oracle_case *c, ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    oracle_memory(c, window_alias);
    oracle_put_code(c, code_alias, false);
    for (unsigned i = 0; i < 16; i++)
        g[greg_of[i]] = (greg_t)c->in.gpr[i];
    g[REG_RIP] = (greg_t)c->in.rip;
    g[REG_EFL] = (greg_t)(0x202 | (c->in.rflags & FLAGS_LOADED));
    uint64_t cs = c->in.cs, ss = c->in.ss;
    g[REG_CSGSFS] = (greg_t)(cs | ss << 48);
    load_fpu((uint8_t *)uc->uc_mcontext.fpregs, &c->in.fpu);
    case_fs = c->in.fs_base;
    case_gs = c->in.gs_base;
}

void native_signal(int number, siginfo_t *info, void *context);
void native_entry(int number, siginfo_t *info, void *context);

__attribute__((no_stack_protector)) void native_signal(int number, siginfo_t *info, void *context)
{
    // Segment registers first: the C library's FS base must be back before any call.
    __asm__ volatile("mov %%ds, %0" : "=r"(case_seg[0]));
    __asm__ volatile("mov %%es, %0" : "=r"(case_seg[1]));
    __asm__ volatile("mov %%fs, %0" : "=r"(case_seg[2]));
    __asm__ volatile("mov %%gs, %0" : "=r"(case_seg[3]));
    __asm__ volatile("rdfsbase %0" : "=r"(case_fs));
    __asm__ volatile("rdgsbase %0" : "=r"(case_gs));
    if (case_seg[0] | case_seg[1] | case_seg[2] | case_seg[3]) {
        uint16_t null = 0;
        __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs" ::"r"(null));
    }
    if (!started)
        host_fs = case_fs;
    __asm__ volatile("wrfsbase %0" ::"r"(host_fs));

    ucontext_t *uc = context;
    struct batch *b = batch;
    unsigned i = b->next;
    if (started) {
        oracle_put_code(&b->cases[i], code_alias, true);
        file_result(&b->cases[i], &b->results[i], uc, info);
        b->next = ++i;
    }
    started = true;
    if (i >= b->count)
        _exit(0);
    const struct oracle_case *c = &b->cases[i];
    load_case(c, uc);
    __asm__ volatile("mov %0, %%ds; mov %1, %%es; mov %2, %%fs; mov %3, %%gs\n"
                     "wrfsbase %4\n"
                     "wrgsbase %5" ::"r"(c->in.ds),
                     "r"(c->in.es), "r"(c->in.fs), "r"(c->in.gs), "r"(case_fs), "r"(case_gs));
}

// The handler proper: plain flags, then on.
__asm__(".text\n"
        ".globl native_entry\n"
        ".type native_entry, @function\n"
        "native_entry:\n"
        "    pushq $0x202\n"
        "    popfq\n"
        "    jmp native_signal\n"
        ".size native_entry, . - native_entry\n");

static void *map_at(uint64_t address, size_t size, int protection, int fd, off_t offset)
{
    void *p = mmap((void *)(uintptr_t)address, size, protection,
                   MAP_SHARED | (address ? MAP_FIXED_NOREPLACE : 0), fd, offset);
    if (p == MAP_FAILED || (address && (uintptr_t)p != address)) {
        fprintf(stderr, "oracle: cannot map %#llx\n", (unsigned long long)address);
        return NULL;
    }
    return p;
}

int oracle_native_init(bool *ldt)
{
    if (!(getauxval(AT_HWCAP2) & 2)) {
        fprintf(stderr, "oracle: this host's kernel does not permit RDFSBASE\n");
        return -1;
    }
    int fd = memfd_create("oracle", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)(PAGE_SIZE + ORACLE_MEMORY_SIZE)) != 0) {
        fprintf(stderr, "oracle: no memory file\n");
        return -1;
    }
    code_alias = map_at(0, PAGE_SIZE + ORACLE_MEMORY_SIZE, PROT_READ | PROT_WRITE, fd, 0);
    if (!code_alias || !map_at(ORACLE_CODE_BASE, PAGE_SIZE, PROT_READ | PROT_EXEC, fd, 0) ||
        !map_at(ORACLE_WINDOW_BASE, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, fd, PAGE_SIZE) ||
        !map_at(ORACLE_ALIAS_BASE, PAGE_SIZE, PROT_READ | PROT_WRITE, fd, 2 * PAGE_SIZE) ||
        !map_at(ORACLE_RO_BASE, PAGE_SIZE, PROT_READ, fd, 3 * PAGE_SIZE))
        return -1;
    window_alias = code_alias + PAGE_SIZE;
    memset(code_alias, ORACLE_FILLER, PAGE_SIZE);
    close(fd);
    batch = mmap(NULL, sizeof(*batch), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    alt_stack =
        mmap(NULL, ALT_STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (batch == MAP_FAILED || (void *)alt_stack == MAP_FAILED) {
        fprintf(stderr, "oracle: no memory\n");
        return -1;
    }
    *ldt = oracle_ldt_install() == 0;
    return 0;
}

static _Noreturn void child_run(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    stack_t stack = {.ss_sp = alt_stack, .ss_size = ALT_STACK_SIZE};
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
                               .sa_sigaction = native_entry};
    sigemptyset(&action.sa_mask);
    sigaltstack(&stack, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
        sigaction(signals[i], &action, NULL);
    // A page that was never touched would fault as not present where Croft's page tables have it.
    for (uint64_t page = ORACLE_WINDOW_BASE; page < ORACLE_WINDOW_END; page += PAGE_SIZE)
        if (oracle_memory_offset(page) >= 0)
            (void)*(volatile uint8_t *)(uintptr_t)page;
    (void)*(volatile uint8_t *)(uintptr_t)ORACLE_CODE_BASE;
    struct itimerval limit = {.it_value.tv_sec = 5};
    setitimer(ITIMER_REAL, &limit, NULL); // SIGALRM ends a child that hangs
    signal(SIGINT, SIG_IGN);              // the parent's business
    signal(SIGTERM, SIG_IGN);
    started = false;
    __asm__ volatile("ud2" ::: "memory");
    _exit(1);
}

static void run_batch(void)
{
    while (batch->next < batch->count) {
        pid_t pid = fork();
        if (pid < 0) {
            perror("oracle: fork");
            exit(2);
        }
        if (pid == 0)
            child_run();
        int status;
        waitpid(pid, &status, 0);
        unsigned i = batch->next;
        if (i < batch->count) {
            oracle_put_code(&batch->cases[i], code_alias, true);
            batch->results[i].vector = ORACLE_DIED;
            batch->results[i].error = (uint32_t)status;
            batch->next = i + 1;
        }
    }
}

void oracle_native_run(const struct oracle_case *cases, struct oracle_result *results,
                       unsigned count)
{
    while (count) {
        unsigned n = count < BATCH ? count : BATCH;
        memcpy(batch->cases, cases, n * sizeof(*cases));
        batch->count = n;
        batch->next = 0;
        run_batch();
        memcpy(results, batch->results, n * sizeof(*results));
        cases += n;
        results += n;
        count -= n;
    }
}
