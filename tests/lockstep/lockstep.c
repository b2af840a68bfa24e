// SPDX-License-Identifier: Apache-2.0
// Two engines run the same guest in lockstep: deterministic machines, alike but for the engine, run in turn for
// stretches of pseudo-random length; after each the processors are compared, often the chips too, at intervals
// and at the end all of RAM.
//
// When they differ, the runs are repeated from the start, with the same stretches (what a translator does depends
// on them), first comparing everything until the stretch is known, then cutting that stretch shorter until the
// instruction is known. Exit status: 0 equal, 1 different, 2 the arguments or the host.
#include "faulty.h"
#include "pair.h"
#include "trace.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char help[] =
    "usage: lockstep --kernel FILE [OPTION...]\n"
    "  --engine-a NAME, --engine-b NAME  interp (default), another engine, or faulty\n"
    "  --initrd FILE --append TEXT --memory MIB --cpu MODEL   as croft run\n"
    "  --instructions N     how many; 0 (default): until the guest ends\n"
    "  --stretch N          longest stretch (default 5000); most are much shorter\n"
    "  --fixed              all stretches are of that length\n"
    "  --split              the second machine runs each of them in pieces\n"
    "  --flush              its engine forgets translations and code after each\n"
    "  --seed N             of the lengths, and of the guest's random numbers\n"
    "  --memory-interval N  instructions between comparisons of all RAM (default 20000000)\n"
    "  --mask-flags HEX     RFLAGS bits not to compare\n"
    "  --skip FIELD         a field not to compare, as a report names it\n"
    "  --fault KIND@N       the faulty engine's: see faulty.h\n"
    "  --console FILE       the first machine's serial output\n"
    "  --must-power-off     anything but a power-off by the guest is a failure\n";

struct plan {
    uint64_t instructions, stretch, seed, memory_interval;
    bool fixed, must_power_off;
};
static struct plan plan = {.stretch = 5000, .memory_interval = 20000000};
static struct pair_options options;

// --- runs that can be repeated ------------------------------------------------------------------------------------

struct run {
    struct pair pair;
    uint64_t random;
    uint64_t index; // stretches so far
    uint64_t done;  // instructions so far
    bool ended;
};

static uint64_t next_random(struct run *run)
{
    uint64_t z = run->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

// Every magnitude is as frequent as any other, up to plan.stretch.
static uint64_t next_length(struct run *run)
{
    uint64_t length = plan.stretch, bits = 1;
    if (!plan.fixed) {
        while (UINT64_C(1) << bits < plan.stretch)
            bits++;
        // One after the other: a seed means the same stretches in every build.
        const uint64_t draw = next_random(run);
        const uint64_t magnitude = 1 + next_random(run) % bits;
        length = 1 + draw % (UINT64_C(1) << magnitude);
        length = length < plan.stretch ? length : plan.stretch;
    }
    if (plan.instructions && length > plan.instructions - run->done)
        length = plan.instructions - run->done;
    return length;
}

static void run_begin(struct run *run)
{
    struct error err = {0};
    memset(run, 0, sizeof(*run));
    run->random = plan.seed;
    if (!pair_create(&run->pair, &options, &err)) {
        fprintf(stderr, "lockstep: %s\n", err.message);
        exit(2);
    }
}

static void run_end(struct run *run)
{
    pair_destroy(&run->pair);
}

static void run_stretch(struct run *run)
{
    uint64_t length = next_length(run);
    run->ended = !pair_step(&run->pair, length);
    run->done += length;
    run->index++;
    if (plan.instructions && run->done >= plan.instructions)
        run->ended = true;
}

static void run_to(struct run *run, uint64_t index)
{
    run_begin(run);
    while (run->index < index)
        run_stretch(run);
}

// --- where they part ----------------------------------------------------------------------------------------------

static _Noreturn void not_repeatable(void)
{
    printf(
        "a repeated run did not differ where the first one did: something is not deterministic\n");
    exit(1);
}

// Everything was equal after stretch `good`, something differs after `bad`: the last stretch before which all is
// equal.
static uint64_t narrow_stretches(uint64_t good, uint64_t bad)
{
    struct run run;
    while (bad - good > 1) {
        const uint64_t step = (bad - good + 31) / 32, end = bad;
        fprintf(stderr, "lockstep: between stretches %llu and %llu\n", (unsigned long long)good,
                (unsigned long long)bad);
        run_to(&run, good);
        for (;;) {
            uint64_t target = run.index + step < end ? run.index + step : end;
            while (run.index < target)
                run_stretch(&run);
            if (!pair_compare(&run.pair, DEPTH_MEMORY, NULL)) {
                bad = run.index;
                break;
            }
            if (target == end)
                not_repeatable();
            good = run.index;
        }
        run_end(&run);
    }
    return good;
}

// How many instructions of stretch `index` it takes for a difference.
static uint64_t narrow_instructions(uint64_t index, uint64_t length)
{
    uint64_t good = 0, bad = length;
    struct run run;
    while (bad - good > 1) {
        const uint64_t middle = good + (bad - good) / 2;
        run_to(&run, index);
        pair_step(&run.pair, middle);
        if (pair_compare(&run.pair, DEPTH_MEMORY, NULL))
            good = middle;
        else
            bad = middle;
        run_end(&run);
    }
    return bad;
}

static void explain(uint64_t index, uint64_t length)
{
    static struct report report;
    static struct trace trace;
    struct run run;

    run_to(&run, index);
    const uint64_t start = run.done;
    // The first machine goes step by step and tells the way; the second as it did.
    struct machine *a = run.pair.machine[0];
    for (uint64_t i = 0; i < length; i++) {
        trace_note(&trace, a);
        run.pair.end[0] = machine_step(a, 1);
    }
    run.pair.end[1] = machine_step(run.pair.machine[1], length);
    printf("%s and %s differ after %llu instructions, the last %llu of them in one stretch\n",
           options.engine[0], options.engine[1], (unsigned long long)(start + length),
           (unsigned long long)length);
    printf("the last instructions of %s:\n", options.engine[0]);
    trace_print(&trace, stdout);
    if (pair_compare(&run.pair, DEPTH_MEMORY, &report))
        printf("stepped one by one, %s does as %s: it differs by stretches\n", options.engine[0],
               options.engine[1]);
    printf("fields that differ (%s, %s):\n%s", options.engine[0], options.engine[1], report.text);
    run_end(&run);
}

static int differ(const struct run *found, uint64_t good)
{
    static struct report first;
    struct run run = *found;
    uint64_t bad = run.index;

    pair_compare(&run.pair, DEPTH_MEMORY, &first);
    printf("difference seen after %llu instructions (stretch %llu, seed %llu):\n%s",
           (unsigned long long)run.done, (unsigned long long)bad, (unsigned long long)plan.seed,
           first.text);
    fflush(stdout);
    run_end(&run);
    good = narrow_stretches(good, bad);
    run_to(&run, good);
    uint64_t length = next_length(&run);
    run_end(&run);
    explain(good, narrow_instructions(good, length));
    return 1;
}

// --- the whole run -------------------------------------------------------------------------------------------------

static int lockstep(void)
{
    struct timespec from, to;
    uint64_t good = 0, memory_at = 0, compared = 0;
    struct run run;

    clock_gettime(CLOCK_MONOTONIC, &from);
    run_begin(&run);
    while (!run.ended) {
        enum depth depth;
        run_stretch(&run);
        depth = run.ended || run.done - memory_at >= plan.memory_interval ? DEPTH_MEMORY
                : run.index % 16 == 0                                     ? DEPTH_DEVICES
                                                                          : DEPTH_CPU;
        if (!pair_compare(&run.pair, depth, NULL))
            return differ(&run, good);
        if (depth == DEPTH_MEMORY) {
            good = run.index;
            memory_at = run.done;
            compared++;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    uint64_t retired = counted_retired(run.pair.machine[0]);
    const char *how = run.pair.end[0] == MACHINE_POWER_OFF ? "the guest powered off"
                      : run.pair.end[0] == MACHINE_RUNNING ? "the guest still runs"
                                                           : "the guest ended";
    bool ok = run.pair.end[0] != MACHINE_ERROR &&
              (!plan.must_power_off || run.pair.end[0] == MACHINE_POWER_OFF);
    printf("%s and %s: %llu instructions in %llu stretches, equal after each; RAM compared %llu "
           "times; "
           "%s; %.1f s\n",
           options.engine[0], options.engine[1], (unsigned long long)retired,
           (unsigned long long)run.index, (unsigned long long)compared, how,
           (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9);
    run_end(&run);
    return ok ? 0 : 1;
}

// --- options -------------------------------------------------------------------------------------------------------

static _Noreturn void usage(void)
{
    fputs(help, stderr);
    exit(2);
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t n = strtoull(text, &end, 0);
    if (end == text || *end)
        usage();
    return n;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {{"engine-a", 1, NULL, 'a'},
                                          {"engine-b", 1, NULL, 'b'},
                                          {"kernel", 1, NULL, 'k'},
                                          {"initrd", 1, NULL, 'i'},
                                          {"append", 1, NULL, 'p'},
                                          {"memory", 1, NULL, 'm'},
                                          {"cpu", 1, NULL, 'c'},
                                          {"instructions", 1, NULL, 'n'},
                                          {"stretch", 1, NULL, 's'},
                                          {"fixed", 0, NULL, 'f'},
                                          {"split", 0, NULL, 'l'},
                                          {"flush", 0, NULL, 'h'},
                                          {"seed", 1, NULL, 'r'},
                                          {"memory-interval", 1, NULL, 'v'},
                                          {"mask-flags", 1, NULL, 'x'},
                                          {"skip", 1, NULL, 'y'},
                                          {"fault", 1, NULL, 'w'},
                                          {"console", 1, NULL, 'o'},
                                          {"must-power-off", 0, NULL, 'q'},
                                          {0}};
    static const char *skip[32];
    static char console[4096];
    unsigned skips = 0;
    int c;

    options = (struct pair_options){
        .config = {.name = "lockstep", .cpu = "max", .memory = MIB(256), .append = ""},
        .engine = {"interp", "interp"},
        .skip = skip};
    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (c) {
        case 'a':
            options.engine[0] = optarg;
            break;
        case 'b':
            options.engine[1] = optarg;
            break;
        case 'k':
            options.config.kernel = optarg;
            break;
        case 'i':
            options.config.initrd = optarg;
            break;
        case 'p':
            options.config.append = optarg;
            break;
        case 'm':
            options.config.memory = MIB(number(optarg));
            break;
        case 'c':
            options.config.cpu = optarg;
            break;
        case 'n':
            plan.instructions = number(optarg);
            break;
        case 's':
            plan.stretch = number(optarg);
            break;
        case 'f':
            plan.fixed = true;
            break;
        case 'l':
            options.split = true;
            break;
        case 'h':
            options.flush = true;
            break;
        case 'r':
            options.config.seed = plan.seed = number(optarg);
            break;
        case 'v':
            plan.memory_interval = number(optarg);
            break;
        case 'x':
            options.mask_flags = strtoull(optarg, NULL, 16);
            break;
        case 'y':
            if (skips < ARRAY_SIZE(skip) - 1)
                skip[skips++] = optarg;
            break;
        case 'w':
            if (!faulty_parse(optarg))
                usage();
            break;
        case 'o':
            snprintf(console, sizeof(console), "file=%s", optarg);
            options.console = console;
            break;
        case 'q':
            plan.must_power_off = true;
            break;
        default:
            usage();
        }
    }
    if (!options.config.kernel || optind != argc || plan.stretch == 0)
        usage();
    return lockstep();
}
