// SPDX-License-Identifier: Apache-2.0
// `croft run`: options to a machine configuration, the machine's end to an exit status.
#include "base/log.h"
#include "cli/cli.h"
#include "machine/layout.h"
#include "machine/machine.h"
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

const char cli_run_help[] =
    "usage: croft run --kernel FILE [OPTION...]\n\n"
    "Boots a guest and stays with it until it ends. In a terminal, Ctrl-a x quits and\n"
    "Ctrl-a h lists the other keys.\n\n"
    "what to boot:\n"
    "  --kernel FILE       Linux bzImage, Multiboot kernel, or ELF with a PVH entry\n"
    "  --boot PROTOCOL     auto (default), linux, multiboot, pvh\n"
    "  --initrd FILE       initial RAM disk; the first module of a Multiboot kernel\n"
    "  --module 'FILE TEXT'  one more module of a Multiboot kernel; TEXT may be left out\n"
    "  --append TEXT       kernel command line\n"
    "the machine:\n"
    "  --memory SIZE       RAM: 512M (default), 4G, ...\n"
    "  --cpus N            virtual processors, 1 (default) to 64\n"
    "  --cpu MODEL         max (default), x86-64-v1, -v2, -v3, pentium, 486; then ,-FEATURE or\n"
    "                      ,+FEATURE, as in max,-avx2; also vendor=intel|amd and pv=on|off\n"
    "  --engine NAME       auto (default) or a name from `croft engines`\n"
    "  --bt-cache SIZE     the translator's code cache: 32M (default), from 4M to 1G\n"
    "  --bt-verify         check every translated block; the run ends where one breaks a rule\n"
    "  --bt-dump[=FILE]    write guest and host code side by side, to stderr or FILE\n"
    "  --bt-dump-rip LOW[-HIGH]  only of blocks that begin at these guest addresses\n"
    "  --serial WHERE      first serial port: stdio (default), file=PATH, socket=PATH, none\n"
    "  --name NAME         the VM's name in messages\n"
    "the run:\n"
    "  --deterministic[=SEED]  time counts instructions: the same run every time; one processor\n"
    "  --timeout SECONDS   end the run after this much time\n"
    "  --no-reboot         a reset or triple fault of the guest ends the run\n"
    "  --stats[=json]      print counters to stderr at the end\n"
    "  --verbose           say more; twice: debug messages\n\n"
    "exit status:\n"
    "  0  the guest powered off              4  --timeout passed\n"
    "  1  the host or the engine failed      5  the guest reset (with --no-reboot)\n"
    "  2  an option cannot be used           6  triple fault (with --no-reboot)\n"
    "  3  a file cannot be used              7  the user left with Ctrl-a x\n"
    "  128+N  ended by signal N\n";

enum {
    OPT_KERNEL = 256,
    OPT_BOOT,
    OPT_MODULE,
    OPT_INITRD,
    OPT_APPEND,
    OPT_MEMORY,
    OPT_CPUS,
    OPT_CPU,
    OPT_ENGINE,
    OPT_BT_CACHE,
    OPT_BT_VERIFY,
    OPT_BT_DUMP,
    OPT_BT_DUMP_RIP,
    OPT_SERIAL,
    OPT_NAME,
    OPT_TIMEOUT,
    OPT_DETERMINISTIC,
    OPT_NO_REBOOT,
    OPT_STATS,
    OPT_VERBOSE
};

static const struct option options[] = {
    {"kernel", required_argument, NULL, OPT_KERNEL},
    {"boot", required_argument, NULL, OPT_BOOT},
    {"module", required_argument, NULL, OPT_MODULE},
    {"initrd", required_argument, NULL, OPT_INITRD},
    {"append", required_argument, NULL, OPT_APPEND},
    {"memory", required_argument, NULL, OPT_MEMORY},
    {"cpus", required_argument, NULL, OPT_CPUS},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"engine", required_argument, NULL, OPT_ENGINE},
    {"bt-cache", required_argument, NULL, OPT_BT_CACHE},
    {"bt-verify", no_argument, NULL, OPT_BT_VERIFY},
    {"bt-dump", optional_argument, NULL, OPT_BT_DUMP},
    {"bt-dump-rip", required_argument, NULL, OPT_BT_DUMP_RIP},
    {"serial", required_argument, NULL, OPT_SERIAL},
    {"name", required_argument, NULL, OPT_NAME},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"deterministic", optional_argument, NULL, OPT_DETERMINISTIC},
    {"no-reboot", no_argument, NULL, OPT_NO_REBOOT},
    {"stats", optional_argument, NULL, OPT_STATS},
    {"verbose", no_argument, NULL, OPT_VERBOSE},
    {0}};

// A whole number in [min, max]; anything else is an error that says the range.
static int parse_number(const char *text, const char *flag, uint64_t min, uint64_t max,
                        uint64_t *value, struct error *err)
{
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || *value < min || *value > max)
        return error_set(err, ERROR_USAGE, "%s '%s': a whole number from %llu to %llu is needed",
                         flag, text, (unsigned long long)min, (unsigned long long)max);
    return 0;
}

// "512M", "2G", "65536K"; a bare number means MiB, as other VMMs read it. In whole pages.
static int parse_size(const char *text, const char *flag, uint64_t min, uint64_t max,
                      const char *range, uint64_t *bytes, struct error *err)
{
    char *end;
    unsigned shift = 20;
    errno = 0;
    uint64_t n = strtoull(text, &end, 10);
    bool bad = errno || end == text || *text == '-';

    if (*end == 'K' || *end == 'k')
        shift = 10, end++;
    else if (*end == 'M' || *end == 'm')
        shift = 20, end++;
    else if (*end == 'G' || *end == 'g')
        shift = 30, end++;
    else if (*end == 'T' || *end == 't')
        shift = 40, end++;
    if (bad || *end || n > UINT64_MAX >> shift)
        return error_set(err, ERROR_USAGE, "%s '%s': use a size such as 512M or 4G", flag, text);
    *bytes = n << shift;
    if (*bytes < min || *bytes > max || *bytes & PAGE_OFFSET_MASK)
        return error_set(err, ERROR_USAGE, "%s '%s': %s, in whole pages of 4K", flag, text, range);
    return 0;
}

// "0x1000" or "0x1000-0x1fff".
static int parse_range(const char *text, const char *flag, uint64_t *low, uint64_t *high,
                       struct error *err)
{
    char *end;
    errno = 0;
    *low = *high = strtoull(text, &end, 16);
    bool bad = end == text || *text == '-';
    if (!bad && *end == '-') {
        text = end + 1;
        *high = strtoull(text, &end, 16);
        bad = end == text || *text == '-';
    }
    if (bad || errno || *end || *high < *low || *high == 0)
        return error_set(err, ERROR_USAGE, "%s: use hexadecimal addresses, LOW or LOW-HIGH", flag);
    return 0;
}

static int parse_boot(const char *text, enum boot_protocol *boot, struct error *err)
{
    static const struct {
        const char *name;
        enum boot_protocol boot;
    } known[] = {{"auto", BOOT_AUTO},
                 {"linux", BOOT_LINUX},
                 {"multiboot", BOOT_MULTIBOOT},
                 {"pvh", BOOT_PVH}};

    for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
        if (strcmp(text, known[i].name) == 0) {
            *boot = known[i].boot;
            return 0;
        }
    return error_set(err, ERROR_USAGE, "--boot '%s': use auto, linux, multiboot or pvh", text);
}

struct run_options {
    struct machine_config machine;
    bool stats, stats_json;
};

static int parse_options(int argc, char **argv, struct run_options *run, struct error *err)
{
    struct machine_config *m = &run->machine;
    uint64_t n;
    int c, verbose = 0;

    opterr = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        const char *value = optarg ? optarg : "";
        switch (c) {
        case OPT_KERNEL:
            m->kernel = value;
            break;
        case OPT_INITRD:
            m->initrd = value;
            break;
        case OPT_BOOT:
            if (parse_boot(value, &m->boot, err))
                return -1;
            break;
        case OPT_MODULE:
            if (m->module_count == MACHINE_MODULES_MAX)
                return error_set(err, ERROR_USAGE, "--module: at most %d modules",
                                 MACHINE_MODULES_MAX);
            m->modules[m->module_count++] = value;
            break;
        case OPT_APPEND:
            m->append = value;
            break;
        case OPT_MEMORY:
            if (parse_size(value, "--memory", MACHINE_MEMORY_MIN, MACHINE_MEMORY_MAX,
                           "from 2M to 1024G", &m->memory, err))
                return -1;
            break;
        case OPT_CPUS:
            if (parse_number(value, "--cpus", 1, MACHINE_CPUS_MAX, &n, err))
                return -1;
            m->cpus = (unsigned)n;
            break;
        case OPT_CPU:
            m->cpu = value;
            break;
        case OPT_ENGINE:
            m->engine = value;
            break;
        case OPT_BT_CACHE:
            if (parse_size(value, "--bt-cache", ENGINE_BT_CACHE_MIN, ENGINE_BT_CACHE_MAX,
                           "from 4M to 1G", &m->engine_options.bt_cache, err))
                return -1;
            break;
        case OPT_BT_VERIFY:
            m->engine_options.bt_verify = true;
            break;
        case OPT_BT_DUMP:
            m->engine_options.bt_dump = optarg ? value : "-";
            break;
        case OPT_BT_DUMP_RIP:
            if (parse_range(value, "--bt-dump-rip", &m->engine_options.bt_dump_low,
                            &m->engine_options.bt_dump_high, err))
                return -1;
            break;
        case OPT_SERIAL:
            m->serial = value;
            break;
        case OPT_NAME:
            m->name = value;
            break;
        case OPT_TIMEOUT:
            if (parse_number(value, "--timeout", 1, 1000000000, &n, err))
                return -1;
            m->timeout = (unsigned)n;
            break;
        case OPT_DETERMINISTIC:
            if (optarg && parse_number(value, "--deterministic", 0, UINT64_MAX, &m->seed, err))
                return -1;
            m->deterministic = true;
            break;
        case OPT_NO_REBOOT:
            m->no_reboot = true;
            break;
        case OPT_STATS:
            if (optarg && strcmp(value, "json") != 0)
                return error_set(err, ERROR_USAGE,
                                 "--stats='%s' is unknown; use --stats or --stats=json", value);
            run->stats = true;
            run->stats_json = optarg != NULL;
            break;
        case OPT_VERBOSE:
            log_set_level(++verbose > 1 ? LOG_DEBUG : LOG_INFO);
            break;
        case ':':
            return error_set(err, ERROR_USAGE, "%s needs a value; see croft help run",
                             argv[optind - 1]);
        default:
            return error_set(err, ERROR_USAGE, "unknown option '%s'; see croft help run",
                             argv[optind - 1]);
        }
    }
    if (optind < argc)
        return error_set(err, ERROR_USAGE, "unexpected argument '%s'; see croft help run",
                         argv[optind]);
    if (!m->kernel)
        return error_set(err, ERROR_USAGE,
                         "--kernel FILE is needed: a Linux bzImage, a Multiboot kernel or an ELF "
                         "file with a PVH "
                         "entry");
    return 0;
}

static int end_status(struct machine *machine, enum machine_end end, const struct error *err)
{
    switch (end) {
    case MACHINE_POWER_OFF:
        return CLI_OK;
    case MACHINE_RESET:
        log_info("the guest reset the machine");
        return CLI_RESET;
    case MACHINE_TRIPLE_FAULT:
        log_error("the guest triple-faulted");
        return CLI_TRIPLE_FAULT;
    case MACHINE_TIMEOUT:
        log_error("the run did not end within --timeout");
        return CLI_TIMEOUT;
    case MACHINE_QUIT:
        return CLI_QUIT;
    case MACHINE_SIGNAL:
        return 128 + machine_end_signal(machine);
    default:
        return cli_report(err);
    }
}

int cli_run(int argc, char **argv)
{
    struct run_options run = {.machine = {.name = "croft",
                                          .engine = "auto",
                                          .cpu = "max",
                                          .memory = MIB(512),
                                          .cpus = 1,
                                          .append = "",
                                          .serial = "stdio"}};
    struct error err = {0};

    if (parse_options(argc, argv, &run, &err))
        return cli_report(&err);
    struct machine *machine = machine_create(&run.machine, &err);
    if (!machine)
        return cli_report(&err);
    enum machine_end end = machine_run(machine, &err);
    if (run.stats)
        machine_print_stats(machine, stderr, run.stats_json);
    int status = end_status(machine, end, &err);
    machine_destroy(machine);
    return status;
}
