// SPDX-License-Identifier: Apache-2.0
// Two equal pieces of work at once, as threads of a process and as two processes. On two processors they
// should take half as long as on one; they share nothing but, as threads, their page tables.
#include "bench.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS 2
#define STEPS 4000000
#define BYTES (64u << 10)

struct worker {
    pthread_t thread;
    uint64_t seed;
    uint64_t sum;
};

static void *work(void *data)
{
    struct worker *w = data;
    uint64_t state = w->seed, sum = 0;
    uint8_t *bytes = bench_alloc(BYTES);
    for (uint32_t i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)i;
    for (int i = 0; i < STEPS; i++) {
        uint8_t *p = &bytes[bench_random(&state) % BYTES];
        *p = (uint8_t)(*p * 5 + 1);
        sum += *p;
    }
    free(bytes);
    w->sum = sum;
    return NULL;
}

static uint64_t unit_threads(void)
{
    struct worker workers[WORKERS] = {{.seed = 17}, {.seed = 4711}};
    for (int i = 0; i < WORKERS; i++)
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            exit(1);
    uint64_t sum = 0;
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(workers[i].thread, NULL);
        sum += workers[i].sum;
    }
    return sum;
}

static uint64_t unit_processes(void)
{
    struct worker workers[WORKERS] = {{.seed = 17}, {.seed = 4711}};
    uint64_t low = 0; // what an exit status has room for
    for (int i = 0; i < WORKERS; i++) {
        pid_t pid = fork();
        if (pid < 0)
            exit(1);
        if (pid == 0) {
            work(&workers[i]);
            _exit((int)(workers[i].sum & 0x7f));
        }
    }
    for (int i = 0; i < WORKERS; i++) {
        int status;
        if (wait(&status) < 0 || !WIFEXITED(status))
            exit(1);
        low += (uint64_t)WEXITSTATUS(status);
    }
    return low;
}

const struct program program_threads = {.name = "threads", .unit = unit_threads};
const struct program program_processes = {.name = "processes", .unit = unit_processes};
