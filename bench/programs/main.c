// SPDX-License-Identifier: Apache-2.0
// `bench NAME [SCALE]` prints `begin NAME`, then `NAME SECONDS SCALE VALUE`. `bench` lists the names. As
// process 1 of a guest it runs the programs of `bench=NAME:SCALE,...` on the kernel's command line, then
// powers off. The caller may time the lines instead of trusting this machine's clock.
#include "bench.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static const struct program *const programs[] = {
    &program_sort,    &program_sieve,     &program_crc,     &program_fib,         &program_chase,
    &program_icall,   &program_nbody,     &program_matmul,  &program_matmul_avx2, &program_x87,
    &program_memcpy,  &program_getppid,   &program_pgfault, &program_fork,        &program_pipe,
    &program_threads, &program_processes,
};
#define COUNT (sizeof(programs) / sizeof(programs[0]))

void *bench_alloc(size_t size)
{
    void *p = malloc(size);
    if (!p) {
        fprintf(stderr, "bench: no memory\n");
        exit(1);
    }
    return p;
}

static void say(const char *line)
{
    size_t size = strlen(line);
    while (size) {
        ssize_t n = write(1, line, size);
        if (n <= 0)
            return;
        line += n;
        size -= (size_t)n;
    }
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int run(const char *name, unsigned long scale)
{
    char line[128];
    for (size_t i = 0; i < COUNT; i++) {
        const struct program *p = programs[i];
        if (strcmp(p->name, name) != 0)
            continue;
        if (p->usable && !p->usable()) {
            snprintf(line, sizeof(line), "skip %s\n", name);
            say(line);
            return 0;
        }
        if (p->prepare)
            p->prepare();
        snprintf(line, sizeof(line), "begin %s\n", name);
        say(line);
        uint64_t value = 0;
        double start = seconds();
        for (unsigned long n = 0; n < scale; n++)
            value = value * 31 + p->unit();
        double end = seconds();
        snprintf(line, sizeof(line), "%s %.6f %lu %016llx\n", name, end - start, scale,
                 (unsigned long long)value);
        say(line);
        return 0;
    }
    fprintf(stderr, "bench: no program is named %s\n", name);
    return 2;
}

static void run_list(char *list)
{
    char *save = NULL;
    for (char *item = strtok_r(list, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        char *colon = strchr(item, ':');
        unsigned long scale = colon ? strtoul(colon + 1, NULL, 10) : 1;
        if (colon)
            *colon = 0;
        pid_t pid = fork();
        if (pid == 0)
            _exit(run(item, scale));
        int status = 0;
        if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0) {
            char line[96];
            snprintf(line, sizeof(line), "failed %s status %d\n", item, status);
            say(line);
        }
    }
}

static void first_process(void)
{
    static char line[4096];
    mkdir("/proc", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    int fd = open("/proc/cmdline", O_RDONLY);
    ssize_t n = fd >= 0 ? read(fd, line, sizeof(line) - 1) : 0;
    line[n > 0 ? n : 0] = 0;
    char *list = strstr(line, "bench=");
    say("=== bench\n");
    if (list) {
        list += 6;
        list[strcspn(list, " \n")] = 0;
        run_list(list);
    }
    say("=== end\n");
    tcdrain(1); // the console empties
    reboot(RB_POWER_OFF);
}

int main(int argc, char **argv)
{
    if (getpid() == 1)
        first_process();
    if (argc < 2) {
        for (size_t i = 0; i < COUNT; i++)
            puts(programs[i]->name);
        return 0;
    }
    return run(argv[1], argc > 2 ? strtoul(argv[2], NULL, 10) : 1);
}
