// SPDX-License-Identifier: Apache-2.0
// Runs a fidelity guest (guests/lab) on the host's KVM: the smallest board that does, with the kernel's own
// interrupt controllers and timer. A second opinion on what the guest checks.
//
// usage: kvm-run GUEST.elf [CPUS [COMMAND LINE]]
//
// Exit status: 0, the guest powered off; 77, the host has no KVM; 1, anything else.
//
// A KVM that cannot emulate an instruction stops. Inside of a trial that costs the one trial: the board puts the
// processor back to where the trial began, at the guest's lab_gap(), and tells the gap on standard error. For that
// the guest writes the number of each trial to port E9h. A shutdown or a trial without an end is a gap too.
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MEMORY_SIZE (64u << 20)
#define INFO 0x9000u // Multiboot information, below what guests use
#define COMMAND_LINE 0x9100u
#define CPUS_MAX 16
#define GAPS_MAX 1000000
#define TRIAL_SECONDS 3

static uint8_t *memory;
static int vm;
static uint32_t entry, gap_address, saved_sp_address, section_address;
static size_t gaps;
static _Atomic(unsigned) trial;
static atomic_bool off;

struct cpu {
    int fd, index;
    pthread_t thread;
    struct kvm_run *run;
    struct kvm_sregs at_trial; // as the trial began
    uint32_t trial;            // its number, from port E9h
    atomic_bool kicked;
};
static struct cpu cpus[CPUS_MAX];
static int cpu_count = 1;

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "kvm-run: %s: %s\n", what, strerror(errno));
    exit(1);
}

static _Noreturn void skip(const char *what)
{
    printf("skipped: %s: %s\n", what, strerror(errno));
    exit(77);
}

// --- the guest's file -----------------------------------------------------------------------------------

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        die(path);
    uint8_t *data = malloc(MEMORY_SIZE);
    if (!data)
        die("memory");
    *size = fread(data, 1, MEMORY_SIZE, f);
    fclose(f);
    return data;
}

static void load(const char *path)
{
    size_t size;
    uint8_t *file = read_file(path, &size);
    const Elf32_Ehdr *eh = (const Elf32_Ehdr *)file;

    errno = ENOEXEC;
    if (size < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG) ||
        eh->e_ident[EI_CLASS] != ELFCLASS32)
        die(path);
    for (unsigned i = 0; i < eh->e_phnum; i++) {
        const Elf32_Phdr *ph = (const Elf32_Phdr *)(file + eh->e_phoff) + i;
        if (ph->p_type != PT_LOAD)
            continue;
        if ((uint64_t)ph->p_paddr + ph->p_memsz > MEMORY_SIZE ||
            (uint64_t)ph->p_offset + ph->p_filesz > size)
            die(path);
        memcpy(memory + ph->p_paddr, file + ph->p_offset, ph->p_filesz);
    }
    entry = eh->e_entry;
    for (unsigned i = 0; i < eh->e_shnum; i++) {
        const Elf32_Shdr *sh = (const Elf32_Shdr *)(file + eh->e_shoff) + i;
        if (sh->sh_type != SHT_SYMTAB)
            continue;
        const Elf32_Shdr *strings = (const Elf32_Shdr *)(file + eh->e_shoff) + sh->sh_link;
        const Elf32_Sym *symbols = (const Elf32_Sym *)(file + sh->sh_offset);
        for (unsigned s = 0; s < sh->sh_size / sizeof(*symbols); s++) {
            const char *name = (const char *)file + strings->sh_offset + symbols[s].st_name;
            if (!strcmp(name, "lab_gap"))
                gap_address = symbols[s].st_value;
            if (!strcmp(name, "lab_saved_sp"))
                saved_sp_address = symbols[s].st_value;
            if (!strcmp(name, "lab_section_name"))
                section_address = symbols[s].st_value;
        }
    }
    if (!gap_address || !saved_sp_address || !section_address)
        die("the guest has no symbols lab_gap, lab_saved_sp, lab_section_name");
    free(file);
}

static void info(const char *command)
{
    uint32_t words[] = {1 | 4, 640, MEMORY_SIZE / 1024 - 1024, 0, COMMAND_LINE};

    memcpy(memory + INFO, words, sizeof(words));
    snprintf((char *)memory + COMMAND_LINE, 256, "%s", command);
}

// --- processors ---------------------------------------------------------------------------------------------

static void cpu_create(int kvm, struct cpu *cpu, struct kvm_cpuid2 *cpuid)
{
    cpu->fd = ioctl(vm, KVM_CREATE_VCPU, cpu->index);
    if (cpu->fd < 0)
        die("KVM_CREATE_VCPU");
    cpu->run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
                    MAP_SHARED, cpu->fd, 0);
    if (cpu->run == MAP_FAILED)
        die("mmap");
    for (unsigned i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == 1)
            cpuid->entries[i].ebx = (cpuid->entries[i].ebx & 0xffffff) | (uint32_t)cpu->index << 24;
        if (cpuid->entries[i].function == 0xb)
            cpuid->entries[i].edx = (uint32_t)cpu->index;
    }
    if (ioctl(cpu->fd, KVM_SET_CPUID2, cpuid))
        die("KVM_SET_CPUID2");
    if (cpu->index)
        return; // it waits for its SIPI
    struct kvm_sregs s;
    if (ioctl(cpu->fd, KVM_GET_SREGS, &s))
        die("KVM_GET_SREGS");
    struct kvm_segment flat = {
        .limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    s.ds = s.es = s.fs = s.gs = s.ss = flat;
    flat.type = 11;
    flat.selector = 8;
    s.cs = flat;
    s.cr0 = (s.cr0 | 1) & ~0x60000000ull; // caches on, as firmware leaves them
    struct kvm_regs r = {.rip = entry, .rflags = 2, .rax = 0x2badb002, .rbx = INFO};
    if (ioctl(cpu->fd, KVM_SET_SREGS, &s) || ioctl(cpu->fd, KVM_SET_REGS, &r))
        die("KVM_SET_SREGS");
}

// The trial is lost: on with lab_gap() in the state that the trial began in. False: there is no trial.
static bool gap(struct cpu *cpu, const char *why)
{
    struct kvm_regs r;
    struct kvm_vcpu_events events;
    struct kvm_mp_state running = {KVM_MP_STATE_RUNNABLE};
    uint32_t sp, name;

    memcpy(&sp, memory + saved_sp_address, 4);
    memcpy(&name, memory + section_address, 4);
    ioctl(cpu->fd, KVM_GET_REGS, &r);
    fprintf(stderr, "gap: trial %u, %.60s: %s at %llx\n", cpu->trial,
            name < MEMORY_SIZE - 64 ? (char *)memory + name : "", why, (unsigned long long)r.rip);
    if (!sp || gaps++ > GAPS_MAX || cpu->index)
        return false;
    ioctl(cpu->fd, KVM_GET_VCPU_EVENTS, &events);
    events.exception.injected = events.exception.pending = 0;
    events.interrupt.injected = 0;
    events.interrupt.shadow = 0;
    events.nmi.injected = events.nmi.masked = 0;
    events.triple_fault.pending = 0;
    r = (struct kvm_regs){.rip = gap_address, .rflags = 2};
    // Segments before the flags would be refused in V86 mode.
    return !ioctl(cpu->fd, KVM_SET_REGS, &r) && !ioctl(cpu->fd, KVM_SET_SREGS, &cpu->at_trial) &&
           !ioctl(cpu->fd, KVM_SET_VCPU_EVENTS, &events) &&
           !ioctl(cpu->fd, KVM_SET_MP_STATE, &running);
}

static void port_out(struct cpu *cpu, uint16_t port, unsigned size, const uint8_t *data)
{
    if (port == 0x3f8 && size == 1)
        putchar(*data);
    if (port == 0x604 && size == 2 && data[1] == 0x20) {
        off = true;
        for (int i = 0; i < cpu_count; i++)
            pthread_kill(cpus[i].thread, SIGUSR1);
    }
    if (port != 0xe9 || size != 4)
        return;
    memcpy(&cpu->trial, data, 4);
    trial++;
    ioctl(cpu->fd, KVM_GET_SREGS, &cpu->at_trial);
}

static void port_io(struct cpu *cpu)
{
    struct kvm_run *run = cpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    for (unsigned i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            port_out(cpu, run->io.port, run->io.size, data);
            continue;
        }
        memset(data, 0xff, run->io.size);
        if (run->io.port == 0x3fd)
            *data = 0x60; // the transmitter is empty
        if (run->io.port == 0x92)
            *data = 0x02; // A20 is on
    }
}

static void *cpu_main(void *argument)
{
    struct cpu *cpu = argument;
    char why[96];

    while (!off) {
        if (ioctl(cpu->fd, KVM_RUN, 0)) {
            if (errno == EAGAIN) // it became runnable by its SIPI
                continue;
            if (errno == EINTR) {
                if (atomic_exchange(&cpu->kicked, false) && !gap(cpu, "no end"))
                    return (void *)1;
                continue;
            }
            snprintf(why, sizeof(why), "KVM_RUN: %s", strerror(errno));
            if (!gap(cpu, why))
                break;
            continue;
        }
        switch (cpu->run->exit_reason) {
        case KVM_EXIT_IO:
            port_io(cpu);
            break;
        case KVM_EXIT_MMIO:
            if (!cpu->run->mmio.is_write)
                memset(cpu->run->mmio.data, 0xff, sizeof(cpu->run->mmio.data));
            break;
        case KVM_EXIT_INTERNAL_ERROR: {
            size_t n = (size_t)snprintf(why, sizeof(why), "not emulated:");
            const uint8_t *bytes = cpu->run->emulation_failure.insn_bytes;
            if (cpu->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
                cpu->run->internal.ndata >= 3)
                for (unsigned i = 0; i < 6; i++)
                    n += (size_t)snprintf(why + n, sizeof(why) - n, " %02x", bytes[i]);
            if (!gap(cpu, why))
                return (void *)1;
            break;
        }
        case KVM_EXIT_SHUTDOWN:
            if (!gap(cpu, "shutdown"))
                return (void *)1;
            break;
        case KVM_EXIT_SYSTEM_EVENT:
        case KVM_EXIT_HLT:
            break;
        default:
            snprintf(why, sizeof(why), "exit %u", cpu->run->exit_reason);
            if (!gap(cpu, why))
                return (void *)1;
        }
    }
    return NULL;
}

// A trial that does not end is kicked.
static void *watch(void *argument)
{
    (void)argument;
    for (unsigned last = 0, quiet = 0; !off; last = trial) {
        nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
        quiet = trial == last ? quiet + 1 : 0;
        if (trial && quiet >= TRIAL_SECONDS * 2) {
            uint32_t sp;
            memcpy(&sp, memory + saved_sp_address, 4);
            quiet = 0;
            if (sp) {
                cpus[0].kicked = true;
                pthread_kill(cpus[0].thread, SIGUSR1);
            }
        }
    }
    return NULL;
}

static void nothing(int signal)
{
    (void)signal;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: kvm-run GUEST.elf [CPUS [COMMAND LINE]]\n");
        return 2;
    }
    cpu_count = argc > 2 ? atoi(argv[2]) : 1;
    if (cpu_count < 1 || cpu_count > CPUS_MAX)
        cpu_count = 1;
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        skip("/dev/kvm");
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm < 0)
        skip("KVM_CREATE_VM");
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    uint64_t identity = 0xfffbc000;
    ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul);
    if (ioctl(vm, KVM_CREATE_IRQCHIP, 0) || ioctl(vm, KVM_CREATE_PIT2, &pit))
        skip("interrupt controllers");
    memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY_SIZE,
                                                 .userspace_addr = (uintptr_t)memory};
    if (memory == MAP_FAILED || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
        die("memory");
    load(argv[1]);
    info(argc > 3 ? argv[3] : "");

    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));
    if (!cpuid)
        die("memory");
    cpuid->nent = 256;
    if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid))
        skip("KVM_GET_SUPPORTED_CPUID");
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 0; i < cpu_count; i++) {
        cpus[i].index = i;
        cpu_create(kvm, &cpus[i], cpuid);
    }
    pthread_t watcher;
    for (int i = 0; i < cpu_count; i++)
        if (pthread_create(&cpus[i].thread, NULL, cpu_main, &cpus[i]))
            die("pthread_create");
    pthread_create(&watcher, NULL, watch, NULL);
    void *result = NULL;
    pthread_join(cpus[0].thread, &result);
    fflush(stdout);
    _exit(result || !off); // the other processors may still be in the guest
}
