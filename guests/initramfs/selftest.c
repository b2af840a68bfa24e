// SPDX-License-Identifier: Apache-2.0
// Runs inside a Linux guest: what a shell script cannot check. One line per test, "ok NAME" or
// "FAILED NAME", and a non-zero exit status when one failed.
#define _GNU_SOURCE
#include <immintrin.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failures;

static void report(const char *name, int ok)
{
    printf("%s %s\n", ok ? "ok" : "FAILED", name);
    fflush(stdout);
    failures += !ok;
}

static double series(int terms) // pi by Leibniz, no library call
{
    double sum = 0;
    for (int i = 0; i < terms; i++)
        sum += (i % 2 ? -4.0 : 4.0) / (2 * i + 1);
    return sum;
}

static long double harmonic(int terms)
{
    volatile long double sum = 0;
    for (int i = 1; i <= terms; i++)
        sum += 1.0L / i;
    return sum;
}

__attribute__((target("avx2"))) static int avx2_sum(void)
{
    uint32_t data[64], out[8];
    for (uint32_t i = 0; i < 64; i++)
        data[i] = i * i;
    __m256i sum = _mm256_setzero_si256();
    for (int i = 0; i < 64; i += 8)
        sum = _mm256_add_epi32(sum, _mm256_loadu_si256((const __m256i *)(data + i)));
    _mm256_storeu_si256((__m256i *)out, sum);
    uint32_t total = 0;
    for (int i = 0; i < 8; i++)
        total += out[i];
    return total == 85344;
}

static volatile sig_atomic_t alarms, traps;
static sigjmp_buf back;

static void on_alarm(int number)
{
    alarms++;
}
static void on_trap(int number)
{
    traps++;
    siglongjmp(back, number);
}

static int fault_arrives(int number, void (*cause)(void))
{
    signal(number, on_trap);
    if (sigsetjmp(back, 1) == 0) {
        cause();
        return 0;
    }
    signal(number, SIG_DFL);
    return 1;
}
static void null_store(void)
{
    volatile uintptr_t nowhere = 8;
    *(volatile int *)nowhere = 1;
}
static void divide(void)
{
    volatile int zero = 0, x = 1;
    x /= zero;
}
static void undefined(void)
{
    __asm__ volatile("ud2");
}
static void breakpoint(void)
{
    __asm__ volatile("int3");
}

static int timer_ticks(void)
{
    struct itimerval every = {{0, 10000}, {0, 10000}};
    struct timespec start, now;
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &every, NULL);
    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while (alarms < 5 && now.tv_sec - start.tv_sec < 20);
    memset(&every, 0, sizeof(every));
    setitimer(ITIMER_REAL, &every, NULL);
    return alarms >= 5;
}

static int registers_survive_switches(void)
{
    // Two processes with different vector and x87 contents, switched by a pipe.
    int ab[2], ba[2], ok = 1;
    if (pipe(ab) || pipe(ba))
        return 0;
    pid_t child = fork();
    double mine = child ? 1.25 : 2.5;
    long double x87 = child ? 3.75L : 7.5L;
    volatile double v = mine;
    volatile long double l = x87;
    for (int i = 0; i < 50; i++) {
        char byte = 0;
        double a = v * 2;
        long double b = l * 2;
        if (write(child ? ab[1] : ba[1], &byte, 1) != 1 ||
            read(child ? ba[0] : ab[0], &byte, 1) != 1)
            ok = 0;
        ok &= a == mine * 2 && b == x87 * 2;
    }
    if (!child)
        _exit(!ok);
    int status = 1;
    waitpid(child, &status, 0);
    return ok && status == 0;
}

static long shared;
static void *adder(void *opaque)
{
    for (int i = 0; i < 20000; i++)
        __atomic_fetch_add(&shared, 1, __ATOMIC_SEQ_CST);
    return NULL;
}
static int threads_add_up(void)
{
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        if (pthread_create(&thread[i], NULL, adder, NULL))
            return 0;
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    return shared == 80000;
}

static int code_can_be_written(void)
{
    uint8_t *code =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        return 0;
    for (uint32_t i = 0; i < 1000; i++) { // mov eax, i; ret, rewritten each time
        code[0] = 0xb8;
        memcpy(code + 1, &i, 4);
        code[5] = 0xc3;
        if (((uint32_t(*)(void))(uintptr_t)code)() != i)
            return 0;
    }
    munmap(code, 4096);
    return 1;
}

static int copy_on_write(void)
{
    size_t size = 4 << 20;
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return 0;
    memset(p, 0x5a, size);
    pid_t child = fork();
    if (!child) {
        for (size_t i = 0; i < size; i += 4096)
            p[i] = 1;
        _exit(0);
    }
    waitpid(child, NULL, 0);
    for (size_t i = 0; i < size; i += 4096)
        if (p[i] != 0x5a)
            return 0;
    munmap(p, size);
    return 1;
}

int main(void)
{
    report("floating point", fabs(series(100000) - 3.1415826535897198) < 1e-12);
    report("x87", fabsl(harmonic(1000) - 7.485470860550344912656518L) < 1e-17L);
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        report("avx2", avx2_sum());
    else
        puts("not offered: avx2");
    report("page fault signal", fault_arrives(SIGSEGV, null_store));
    report("divide error signal", fault_arrives(SIGFPE, divide));
    report("undefined instruction signal", fault_arrives(SIGILL, undefined));
    report("breakpoint signal", fault_arrives(SIGTRAP, breakpoint));
    report("timers", timer_ticks());
    report("registers survive context switches", registers_survive_switches());
    report("threads", threads_add_up());
    report("self-modifying code", code_can_be_written());
    report("copy on write", copy_on_write());
    return failures != 0;
}
