// SPDX-License-Identifier: Apache-2.0
// The life of a machine: built from a configuration, run on the calling thread as the I/O thread, reset,
// ended.
#include "backend/terminal.h"
#include "base/log.h"
#include "machine/internal.h"
#include "x86/system.h"
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

// --- requests from any thread ----------------------------------------------------------------------------

static void kick_all(struct machine *machine)
{
    for (unsigned i = 0; i < machine->cpu_count; i++)
        vcpu_kick(&machine->vcpus[i]);
}

void machine_request_end(struct machine *machine, enum machine_end end)
{
    pthread_mutex_lock(&machine->lock);
    if (machine->end == MACHINE_RUNNING)
        machine->end = end;
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->lock);
    kick_all(machine);
    loop_stop(machine->loop);
}

int machine_end_signal(const struct machine *machine)
{
    return machine->end_signal;
}

static void machine_reset_now(void *opaque);

void machine_request_reset(struct machine *machine)
{
    if (machine->config.no_reboot) {
        machine_request_end(machine, MACHINE_RESET);
        return;
    }
    pthread_mutex_lock(&machine->lock);
    bool first = !machine->reset_pending;
    machine->reset_pending = true;
    machine->pause = !machine->config.deterministic;
    pthread_mutex_unlock(&machine->lock);
    kick_all(machine);
    if (first && !machine->config.deterministic &&
        loop_call(machine->loop, machine_reset_now, machine) < 0)
        machine_request_end(machine, MACHINE_ERROR);
}

// --- power-up and reset ----------------------------------------------------------------------------------

// Loads what boots and puts every processor into its first state. No vCPU runs.
static int machine_power_up(struct machine *machine, struct error *err)
{
    struct boot_config boot = {.protocol = machine->config.boot,
                               .kernel = machine->config.kernel,
                               .initrd = machine->config.initrd,
                               .modules = machine->config.modules,
                               .module_count = machine->config.module_count,
                               .cmdline = machine->config.append ? machine->config.append : "",
                               .memory_size = machine->config.memory,
                               .rsdp = machine->rsdp,
                               .long_mode = machine->model.feature[X86_FEATURE_lm]};
    struct boot_entry entry;

    board_tables(machine);
    if (boot_load(machine->memory, &boot, &entry, err))
        return -1;
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        struct vcpu *vcpu = &machine->vcpus[i];
        if (machine->config.deterministic)
            counted_rebase(machine);
        x86_reset(vcpu->cpu, false);
        boot_memory_types(vcpu->cpu);
        pv_vcpu_reset(&vcpu->pv);
        if (i == 0)
            boot_entry_apply(&entry, vcpu->cpu);
        else
            vcpu->cpu->activity = X86_WAIT_SIPI;
        machine->engine_ops->set_state(vcpu->engine_vcpu);
    }
    return 0;
}

void machine_reset_board(struct machine *machine)
{
    struct error err = {0};

    log_info("the guest reset the machine");
    memory_lock(machine->memory);
    board_reset(machine);
    memory_unlock(machine->memory);
    if (machine_power_up(machine, &err)) {
        log_error("reset: %s", err.message);
        machine_request_end(machine, MACHINE_ERROR);
    }
    pthread_mutex_lock(&machine->lock);
    machine->reset_pending = machine->pause = false;
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->lock);
}

// On the I/O thread, board lock held: stops the vCPUs, resets everything, goes on.
static void machine_reset_now(void *opaque)
{
    struct machine *machine = opaque;

    // A vCPU on its way to its parking place may need the board lock.
    memory_unlock(machine->memory);
    pthread_mutex_lock(&machine->lock);
    while (machine->parked < machine->cpu_count && machine->end == MACHINE_RUNNING)
        pthread_cond_wait(&machine->changed, &machine->lock);
    bool go_on = machine->end == MACHINE_RUNNING;
    pthread_mutex_unlock(&machine->lock);
    if (go_on)
        machine_reset_board(machine);
    memory_lock(machine->memory);
}

// --- the console's keys ------------------------------------------------------------------------------------

static size_t console_input(void *opaque, const uint8_t *data, size_t length)
{
    struct machine *machine = opaque;
    return uart16550_receive(&machine->board.uart, data, length);
}

static void console_command(void *opaque, char key)
{
    static const char help[] = "\r\n  Ctrl-a h  this list\r\n"
                               "  Ctrl-a x  quit: the VM ends at once\r\n"
                               "  Ctrl-a b  send a break to the guest\r\n"
                               "  Ctrl-a a  send Ctrl-a to the guest\r\n";
    struct machine *machine = opaque;

    if (key == 'x' || key == 'X')
        machine_request_end(machine, MACHINE_QUIT);
    else if (key == 'b')
        uart16550_receive_break(&machine->board.uart);
    else if (key == 'h' || key == '?')
        console_write(machine->console, (const uint8_t *)help, sizeof(help) - 1);
}

// --- signals and the time-out --------------------------------------------------------------------------------

static void on_timeout(void *opaque)
{
    machine_request_end(opaque, MACHINE_TIMEOUT);
}

static void on_signal(void *opaque, int fd, uint32_t events)
{
    struct machine *machine = opaque;
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) != sizeof(info))
        return;
    if (info.ssi_signo == SIGCONT) { // the shell had the terminal meanwhile
        terminal_resume();
        return;
    }
    machine->end_signal = (int)info.ssi_signo;
    machine_request_end(machine, MACHINE_SIGNAL);
}

static int watch_signals(struct machine *machine, struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCONT);
    // Blocked before any thread starts, so that all of them are blocked there too.
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    machine->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (machine->signal_fd < 0)
        return error_set(err, ERROR_HOST, "signalfd: %s", strerror(errno));
    return loop_watch_fd(machine->loop, machine->signal_fd, EPOLLIN, on_signal, machine, err) ? 0
                                                                                              : -1;
}

// --- build and destroy -----------------------------------------------------------------------------------------

static void board_lock(void *opaque)
{
    memory_lock(opaque);
}
static void board_unlock(void *opaque)
{
    memory_unlock(opaque);
}

static int add_memory(struct machine *machine, struct error *err)
{
    uint64_t size = machine->config.memory;
    uint64_t below = layout_ram_below_4g(size);

    if (memory_add_ram(machine->memory, "low", 0, LAYOUT_LOW_END, err) ||
        memory_add_ram(machine->memory, "bios area", LAYOUT_BIOS_AREA,
                       LAYOUT_HIGH_RAM - LAYOUT_BIOS_AREA, err) ||
        memory_add_ram(machine->memory, "main", LAYOUT_HIGH_RAM, below - LAYOUT_HIGH_RAM, err))
        return -1;
    if (size > below && memory_add_ram(machine->memory, "above 4G", LAYOUT_4G, size - below, err))
        return -1;
    return 0;
}

// What the I/O thread runs: in a deterministic run the vCPU's thread runs the board's timers itself.
static struct timer_queue *machine_loop_timers(struct machine *machine)
{
    return machine->config.deterministic ? &machine->host_timers : &machine->timers;
}

static int machine_build(struct machine *machine, struct error *err)
{
    const struct machine_config *config = &machine->config;

    machine->engine_ops =
        config->engine_ops ? config->engine_ops : engine_find(config->engine, err);
    if (!machine->engine_ops || x86_cpu_model_parse(&machine->model, config->cpu, err))
        return -1;
    if (engine_options_check(machine->engine_ops, &config->engine_options, err))
        return -1;
    if (config->cpus > 1 && !machine->model.feature[X86_FEATURE_apic])
        return error_set(err, ERROR_USAGE,
                         "--cpus %u: the processor model '%s' has no local APIC, and several "
                         "processors need one; use --cpus 1 or another --cpu",
                         config->cpus, machine->model.name);
    if (config->cpus > 1 && config->deterministic)
        return error_set(err, ERROR_USAGE,
                         "--cpus %u: a deterministic run has one processor; leave out --cpus or "
                         "--deterministic",
                         config->cpus);
    if (config->deterministic && !machine->engine_ops->retired)
        return error_set(err, ERROR_USAGE, "--deterministic: the %s engine cannot count",
                         machine->engine_ops->name);
    machine->memory = memory_create(err);
    if (!machine->memory || add_memory(machine, err))
        return -1;
    clock_real_init(&machine->real);
    clock_real_stop(&machine->real); // until the first instruction
    machine->clock = &machine->real.clock;
    if (config->deterministic)
        counted_init(machine);
    timer_queue_init(&machine->timers, machine->clock);
    timer_queue_init(&machine->host_timers, &machine->real.clock);
    machine->loop =
        loop_create(machine_loop_timers(machine), board_lock, board_unlock, machine->memory, err);
    if (!machine->loop)
        return -1;
    if (config->deterministic)
        counted_watch(machine);
    pv_init(&machine->pv, machine->memory, machine->clock);
    machine->engine =
        machine->engine_ops->create(machine->memory, &config->engine_options, err);
    if (!machine->engine || board_create(machine, err))
        return -1;
    for (unsigned i = 0; i < config->cpus; i++) {
        if (vcpu_create(machine, i, err))
            return -1;
        machine->cpu_count++;
    }
    board_reset(machine);
    if (machine_power_up(machine, err) || (!config->stepped && watch_signals(machine, err)))
        return -1;
    // Last: from here on the terminal is raw.
    machine->console = console_open(config->serial, machine->loop, err);
    if (!machine->console)
        return -1;
    console_attach(machine->console, &(struct console_client){.input = console_input,
                                                              .command = console_command,
                                                              .opaque = machine});
    return 0;
}

struct machine *machine_create(const struct machine_config *config, struct error *err)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    if (!machine) {
        error_set(err, ERROR_HOST, "out of memory for the machine");
        return NULL;
    }
    machine->config = *config;
    machine->signal_fd = -1;
    pthread_mutex_init(&machine->lock, NULL);
    pthread_cond_init(&machine->changed, NULL);
    if (machine_build(machine, err)) {
        machine_destroy(machine);
        return NULL;
    }
    return machine;
}

void machine_destroy(struct machine *machine)
{
    if (!machine)
        return;
    console_close(machine->console);
    for (unsigned i = 0; i < MACHINE_CPUS_MAX; i++)
        if (machine->vcpus[i].machine)
            vcpu_destroy(&machine->vcpus[i]);
    board_destroy(machine);
    if (machine->engine)
        machine->engine_ops->destroy(machine->engine);
    if (machine->timeout.queue)
        timer_fini(&machine->timeout);
    if (machine->loop) {
        loop_destroy(machine->loop);
        timer_queue_destroy(&machine->timers);
        timer_queue_destroy(&machine->host_timers);
    }
    if (machine->signal_fd >= 0)
        close(machine->signal_fd);
    memory_destroy(machine->memory);
    pthread_cond_destroy(&machine->changed);
    pthread_mutex_destroy(&machine->lock);
    free(machine);
}

enum machine_end machine_run(struct machine *machine, struct error *err)
{
    clock_real_start(&machine->real);
    if (machine->config.timeout) {
        timer_init(&machine->timeout, machine_loop_timers(machine), on_timeout, machine);
        timer_arm(&machine->timeout, clock_now(&machine->real.clock) +
                                         (uint64_t)machine->config.timeout * 1000000000u);
    }
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        if (vcpu_start(&machine->vcpus[i], err)) {
            machine_request_end(machine, MACHINE_ERROR);
            break;
        }
    }
    if (loop_run(machine->loop) < 0)
        machine_request_end(machine, MACHINE_ERROR);
    for (unsigned i = 0; i < machine->cpu_count; i++)
        if (machine->vcpus[i].thread_started)
            pthread_join(machine->vcpus[i].thread, NULL);
    console_close(machine->console); // the terminal is the user's again
    machine->console = NULL;
    if (machine->end == MACHINE_ERROR)
        error_set(err, ERROR_HOST, "the %s engine stopped: %s", machine->engine_ops->name,
                  machine->error ? machine->error : "the host refused a system call");
    return machine->end;
}

// --- counters ----------------------------------------------------------------------------------------------------

static unsigned vcpu_counters(struct vcpu *vcpu, struct engine_counter counter[ENGINE_COUNTERS_MAX])
{
    unsigned n =
        vcpu->machine->engine_ops->counters(vcpu->engine_vcpu, counter, ENGINE_COUNTERS_MAX - 1);
    counter[n++] = (struct engine_counter){"sleeps", vcpu->halts};
    return n;
}

void machine_print_stats(struct machine *machine, FILE *out, bool json)
{
    struct engine_counter counter[MACHINE_CPUS_MAX][ENGINE_COUNTERS_MAX];
    unsigned n = 0;

    for (unsigned i = 0; i < machine->cpu_count; i++)
        n = vcpu_counters(&machine->vcpus[i], counter[i]);
    if (json) {
        json_t *cpus = json_array();
        for (unsigned i = 0; i < machine->cpu_count; i++) {
            json_t *one = json_object();
            for (unsigned k = 0; k < n; k++)
                json_object_set_new(one, counter[i][k].name,
                                    json_integer((json_int_t)counter[i][k].value));
            json_array_append_new(cpus, one);
        }
        json_t *root = json_pack("{s:s, s:s, s:s, s:I, s:o}", "name", machine->config.name,
                                 "engine", machine->engine_ops->name, "cpu", machine->model.name,
                                 "clock_ns", (json_int_t)clock_now(machine->clock), "vcpus", cpus);
        json_dumpf(root, out, JSON_INDENT(2));
        fputc('\n', out);
        json_decref(root);
        return;
    }
    fprintf(out, "%-24s", "counter");
    for (unsigned i = 0; i < machine->cpu_count; i++)
        fprintf(out, " %15s%u", "cpu", i);
    fputc('\n', out);
    for (unsigned k = 0; k < n; k++) {
        fprintf(out, "%-24s", counter[0][k].name);
        for (unsigned i = 0; i < machine->cpu_count; i++)
            fprintf(out, " %16llu", (unsigned long long)counter[i][k].value);
        fputc('\n', out);
    }
}
