// SPDX-License-Identifier: Apache-2.0
// The oracle laboratory's command: makes cases, runs them on the host and in Croft, and tells what
// differs. Exit status 0 when nothing does.
#include "case.h"
#include "tally.h"
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHUNK 512

static struct {
    uint64_t cases, single;
    bool has_single, stops, verbose, native_only, summary, progress;
    unsigned max_shown, shown;
    const char *json, *engine;
    unsigned rounds;
} args = {.cases = 40000, .max_shown = 20, .engine = "interp"};

static const char usage[] =
    "usage: oracle [--mode 64|32|16] [--seed S] [--cases N | --case K] [--form P | --exact NAME]\n"
    "              [--engine NAME] [--rounds N] [--sequence N] [--show N] [--summary] [--json "
    "FILE]\n"
    "              [--strict] [--native] [-v]\n"
    "  --engine E   the engine of Croft's to judge (interp)\n"
    "  --rounds N   each case N times in a row; by default once in the interpreter, four times in\n"
    "               an engine that translates\n"
    "  --sequence N sequences of at most N instructions (2 to 12), judged as a whole\n"
    "  --seed S     a number, or `date`: new ground every day\n"
    "  --case K     this case only, with its starting state\n"
    "  --form P     forms whose name starts with P; --exact: the one of this name\n"
    "  --loops      sequences run over and over, up to 61 times\n"
    "  --stops      stop each sequence behind every instruction too\n"
    "  --show N     tell at most N differences in full (20)\n"
    "  --summary    differences by form, faults by vector, and forms that never completed\n"
    "  --json FILE  the same as JSON; - is the standard output\n"
    "  --strict     what the architecture leaves undefined counts as a difference too\n"
    "  --native     the host's side only (no judgement): a check of the harness, and its speed\n";

// Runs a case in the engine, all rounds of it; stops at the first that is not as on the host.
static enum oracle_verdict run_croft(const struct oracle_case *c,
                                     const struct oracle_result *native,
                                     struct oracle_result *croft, unsigned *round)
{
    enum oracle_verdict worst = ORACLE_EQUAL;
    for (*round = 0; *round < oracle_croft_rounds(); ++*round) {
        oracle_croft_run(c, *round, croft);
        enum oracle_verdict v = oracle_compare(c, native, croft, false);
        if (v == ORACLE_DIFFERS)
            return v;
        if (v > worst)
            worst = v;
    }
    return worst;
}

// The shortest beginning of a sequence that differs.
static void shorten(struct oracle_case *c, struct oracle_result *native,
                    struct oracle_result *croft, unsigned *round)
{
    static struct oracle_result host, engine;
    for (unsigned n = 1; n <= c->parts; n++) {
        struct oracle_case cut = oracle_sequence_cut(c, n);
        unsigned r;
        oracle_native_run(&cut, &host, 1);
        if (host.vector != ORACLE_DIED && run_croft(&cut, &host, &engine, &r) == ORACLE_DIFFERS) {
            *c = cut;
            *native = host;
            *croft = engine;
            *round = r;
            return;
        }
    }
}

static void judge(struct oracle_case *c, struct oracle_result *native, struct tally *t)
{
    static struct oracle_result croft;
    unsigned round;
    tally_native(t, c, native);
    if (native->vector == ORACLE_DIED) {
        t->failed++;
        printf("the host's runner died (status %#x) on ", native->error);
        oracle_print_case(c);
        oracle_print_state(&c->in);
        return;
    }
    if (args.verbose || args.has_single) {
        oracle_print_case(c);
        printf("    host: vector %d error %x cr2 %" PRIx64 "\n", native->vector, native->error,
               native->cr2);
    }
    if (args.has_single) {
        printf("  before\n");
        oracle_print_state(&c->in);
        oracle_print_stack(c);
        printf("  after, on the host\n");
        oracle_print_state(&native->out);
    }
    if (args.native_only) {
        t->passed++;
        return;
    }
    switch (run_croft(c, native, &croft, &round)) {
    case ORACLE_UNDEFINED_DIFFERS:
        t->undefined++;
        t->passed++;
        return;
    case ORACLE_EQUAL:
        t->passed++;
        return;
    case ORACLE_DIFFERS:
        break;
    }
    t->failed++;
    t->failed_of[c->form]++;
    if (args.shown < args.max_shown) {
        args.shown++;
        if (c->sequence)
            shorten(c, native, &croft, &round);
        oracle_print_case(c);
        if (oracle_croft_rounds() > 1)
            printf("    in round %u of %u\n", round + 1, oracle_croft_rounds());
        oracle_compare(c, native, &croft, true);
    }
}

// Whether a sequence reads the byte that stops it.
static bool reads_stop(const struct oracle_case *c, unsigned n, const struct oracle_result *native)
{
    static struct oracle_result other;
    struct oracle_case cut = oracle_sequence_cut(c, n), stop = oracle_sequence_stop(c, n, true);
    oracle_native_run(&stop, &other, 1);
    return oracle_compare(&cut, native, &other, false) == ORACLE_DIFFERS;
}

// Stops a sequence behind each of its instructions and holds its state against the host's, which stopped at
// an instruction that it may not execute. False where one differs.
static bool judge_stops(const struct oracle_case *c, struct oracle_result *native, unsigned count)
{
    static struct oracle_result croft;
    oracle_croft_run(c, 0, &croft); // the code
    for (unsigned n = 1; n <= count; n++) {
        const struct oracle_result *host = &native[n - 1];
        struct oracle_case cut = oracle_sequence_cut(c, n);
        if (host->vector != ORACLE_DONE || host->out.rip != c->part[n - 1].rip)
            return true; // it does not come by there, or died
        oracle_croft_run_some(c, n, &croft);
        if (oracle_compare(&cut, host, &croft, false) != ORACLE_DIFFERS || reads_stop(c, n, host))
            continue;
        if (args.shown < args.max_shown) {
            args.shown++;
            oracle_print_case(c);
            printf("    stopped after %u\n", n);
            oracle_compare(&cut, host, &croft, true);
        }
        return false;
    }
    return true;
}

static void run_stops(const struct oracle_case *cases, unsigned count, struct tally *t)
{
    static struct oracle_case stops[CHUNK];
    static struct oracle_result native[CHUNK];
    for (unsigned i = 0; i < count;) {
        unsigned first = i, n = 0, at[CHUNK + 1];
        for (; i < count && n + ORACLE_PARTS_MAX <= CHUNK; i++) {
            at[i - first] = n;
            for (unsigned k = 1; k <= oracle_sequence_stops(&cases[i]); k++)
                stops[n++] = oracle_sequence_stop(&cases[i], k, false);
        }
        at[i - first] = n;
        oracle_native_run(stops, native, n);
        for (unsigned k = 0; k < i - first; k++) {
            unsigned number = at[k + 1] - at[k];
            t->stops += number;
            if (!judge_stops(&cases[first + k], native + at[k], number)) {
                t->failed++;
                t->failed_of[cases[first + k].form]++;
            }
        }
    }
}

static volatile sig_atomic_t stopped;

// Ctrl-C and the end of a time limit: what was done is told.
static void stop(int number)
{
    stopped = 1;
}

static void run(struct tally *t, bool sequences)
{
    static struct oracle_case cases[CHUNK];
    static struct oracle_result native[CHUNK];
    uint64_t total = args.has_single ? 1 : args.cases;
    for (uint64_t done = 0; done < total && !stopped;) {
        unsigned count = total - done < CHUNK ? (unsigned)(total - done) : CHUNK;
        for (unsigned i = 0; i < count; i++)
            oracle_gen(&cases[i], args.has_single ? args.single : oracle_gen_number(done + i));
        if (sequences)
            oracle_sequences_grow(cases, native, count);
        else
            oracle_native_run(cases, native, count);
        for (unsigned i = 0; i < count; i++)
            judge(&cases[i], &native[i], t);
        if (sequences && args.stops && !args.native_only)
            run_stops(cases, count, t);
        done += count;
        if (args.progress && done % (64 * CHUNK) == 0)
            fprintf(stderr, "\r%" PRIu64 " of %" PRIu64 " cases, %" PRIu64 " differ ", done, total,
                    t->failed);
    }
    if (args.progress)
        fprintf(stderr, "\r%60s\r", "");
}

static uint64_t seed_of_today(void)
{
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    return (uint64_t)((tm.tm_year + 1900) * 10000 + (tm.tm_mon + 1) * 100 + tm.tm_mday);
}

static bool mode_parse(const char *text, uint8_t *code_size)
{
    static const char *const names[] = {
        [X86_CODE16] = "16", [X86_CODE32] = "32", [X86_CODE64] = "64"};
    for (uint8_t i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(text, names[i])) {
            *code_size = i;
            return true;
        }
    return false;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"cases", required_argument, NULL, 'n'},    {"seed", required_argument, NULL, 's'},
        {"case", required_argument, NULL, 'k'},     {"form", required_argument, NULL, 'f'},
        {"exact", required_argument, NULL, 'x'},    {"mode", required_argument, NULL, 'm'},
        {"engine", required_argument, NULL, 'e'},   {"rounds", required_argument, NULL, 'r'},
        {"sequence", required_argument, NULL, 'q'}, {"stops", no_argument, NULL, 'p'},
        {"loops", no_argument, NULL, 'l'},          {"show", required_argument, NULL, 'w'},
        {"summary", no_argument, NULL, 'y'},        {"json", required_argument, NULL, 'j'},
        {"native", no_argument, NULL, 'o'},         {"strict", no_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0}};
    struct oracle_options gen = {.seed = 1, .code_size = X86_CODE64};
    static struct tally t;
    int opt;
    while ((opt = getopt_long(argc, argv, "v", options, NULL)) != -1) {
        switch (opt) {
        case 'n':
            args.cases = strtoull(optarg, NULL, 0);
            break;
        case 's':
            gen.seed = strcmp(optarg, "date") ? strtoull(optarg, NULL, 0) : seed_of_today();
            break;
        case 'k':
            args.single = strtoull(optarg, NULL, 0);
            args.has_single = true;
            break;
        case 'x':
            gen.exact = true;
            gen.form = optarg;
            break;
        case 'f':
            gen.form = optarg;
            break;
        case 'm':
            if (!mode_parse(optarg, &gen.code_size)) {
                fputs(usage, stderr);
                return 2;
            }
            break;
        case 'e':
            args.engine = optarg;
            break;
        case 'r':
            args.rounds = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'q':
            gen.sequence = (uint8_t)strtoul(optarg, NULL, 0);
            if (gen.sequence < 2 || gen.sequence > 12) {
                fputs(usage, stderr);
                return 2;
            }
            break;
        case 'l':
            gen.loops = true;
            break;
        case 'p':
            args.stops = true;
            break;
        case 'w':
            args.max_shown = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'y':
            args.summary = true;
            break;
        case 'j':
            args.json = optarg;
            break;
        case 'o':
            args.native_only = true;
            break;
        case 't':
            oracle_compare_strictly();
            break;
        case 'v':
            args.verbose = true;
            break;
        default:
            fputs(usage, stderr);
            return 2;
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (oracle_native_init(&gen.ldt) != 0)
        return 2;
    if (!gen.ldt && gen.code_size == X86_CODE16) {
        fprintf(stderr, "oracle: this kernel has no modify_ldt(2): no 16-bit code, skipped\n");
        return 77; // meson: skipped
    }
    if (!oracle_gen_init(&gen)) {
        fprintf(stderr, "oracle: no form is named %s\n", gen.form);
        return 2;
    }
    if (!args.native_only && oracle_croft_init(gen.ldt, args.engine, args.rounds) != 0)
        return 2;
    args.progress = isatty(2) && !args.has_single;
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    run(&t, gen.sequence != 0);
    clock_gettime(CLOCK_MONOTONIC, &b);
    double seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
    tally_print(&t, &gen, args.summary, seconds);
    if (args.summary && !args.native_only)
        oracle_croft_counters(stdout);
    if (args.json && tally_write_json(&t, &gen, seconds, args.json) != 0)
        return 2;
    return t.failed != 0;
}
