// SPDX-License-Identifier: Apache-2.0
#include "pair.h"
#include "../engine_under_test.h"
#include "faulty.h"
#include <string.h>

static const char *const end_names[] = {"running",      "power-off", "reset",
                                        "triple fault", "time-out",  "user quit",
                                        "signal",       "error",     "idle for good"};

bool pair_create(struct pair *pair, const struct pair_options *options, struct error *err)
{
    memset(pair, 0, sizeof(*pair));
    pair->options = options;
    for (unsigned i = 0; i < 2; i++) {
        struct machine_config config = options->config;
        config.deterministic = config.stepped = config.no_reboot = true;
        config.cpus = 1;
        config.engine = options->engine[i];
        config.serial = i == 0 && options->console ? options->console : "none";
        if (strcmp(config.engine, "bt") == 0)
            config.engine_options = engine_options_for_test(&engine_bt);
        if (strcmp(config.engine, "faulty") == 0)
            config.engine_ops = faulty_engine();
        pair->machine[i] = machine_create(&config, err);
        if (!pair->machine[i]) {
            pair_destroy(pair);
            return false;
        }
    }
    return true;
}

void pair_destroy(struct pair *pair)
{
    for (unsigned i = 0; i < 2; i++) {
        machine_destroy(pair->machine[i]);
        pair->machine[i] = NULL;
    }
}

// Half, then half of the rest, and so on, a little off each time.
static enum machine_end step_in_pieces(struct pair *pair, struct machine *machine, uint64_t left)
{
    enum machine_end end = MACHINE_RUNNING;
    while (left > 0 && end == MACHINE_RUNNING) {
        pair->pieces = pair->pieces * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint64_t piece = left / 2 + (pair->pieces >> 61);
        piece = piece == 0 || piece > left ? left : piece;
        end = machine_step(machine, piece);
        left -= piece;
    }
    return end;
}

bool pair_step(struct pair *pair, uint64_t instructions)
{
    for (unsigned i = 0; i < 2; i++) {
        struct machine *machine = pair->machine[i];
        pair->end[i] = i == 1 && pair->options->split ? step_in_pieces(pair, machine, instructions)
                                                      : machine_step(machine, instructions);
        machine->engine_ops->get_state(machine->vcpus[0].engine_vcpu);
        if (i == 1 && pair->options->flush)
            machine->engine_ops->set_state(machine->vcpus[0].engine_vcpu);
    }
    return pair->end[0] == MACHINE_RUNNING && pair->end[1] == MACHINE_RUNNING;
}

static void compare_cpu(struct pair *pair, struct report *report)
{
    struct machine *a = pair->machine[0], *b = pair->machine[1];

    if (pair->end[0] != pair->end[1])
        report_add(report, "  end: %s, %s\n", end_names[pair->end[0]], end_names[pair->end[1]]);
    compare_number("instructions", counted_retired(a), counted_retired(b), report);
    compare_number("clock", clock_now(a->clock), clock_now(b->clock), report);
    compare_processors(a->vcpus[0].cpu, b->vcpus[0].cpu, pair->options->mask_flags,
                       pair->options->skip, report);
}

struct chip {
    const struct state_desc *desc;
    void *object[2];
};

static void compare_chips(struct pair *pair, struct report *report)
{
    struct board *a = &pair->machine[0]->board, *b = &pair->machine[1]->board;
    const struct chip chips[] = {
        {&lapic_state, {lapic_bus_get(a->lapic_bus, 0), lapic_bus_get(b->lapic_bus, 0)}},
        {&pic_state, {a->pic, b->pic}},
        {&ioapic_state, {a->ioapic, b->ioapic}},
        {&pit_state, {a->pit, b->pit}},
        {&hpet_state, {a->hpet, b->hpet}},
        {&rtc_state, {&a->rtc, &b->rtc}},
        {&acpi_pm_state, {&a->acpi_pm, &b->acpi_pm}},
        {&uart16550_state, {&a->uart, &b->uart}},
        {&i8042_state, {&a->i8042, &b->i8042}},
        {&misc_ports_state, {&a->ports, &b->ports}},
        {&pci_bus_state, {&a->pci, &b->pci}},
        {&pci_device_state, {&a->piix.host, &b->piix.host}},
        {&pci_device_state, {&a->piix.isa, &b->piix.isa}},
        {&pci_device_state, {&a->piix.pm, &b->piix.pm}},
    };
    const struct pv_vcpu *pv_a = &pair->machine[0]->vcpus[0].pv,
                         *pv_b = &pair->machine[1]->vcpus[0].pv;

    for (unsigned i = 0; i < ARRAY_SIZE(chips); i++) {
        const struct chip *chip = &chips[i];
        for (unsigned k = 0; k < 2 && chip->desc->pre_save; k++)
            chip->desc->pre_save(chip->object[k]);
        compare_objects(chip->desc, chip->object[0], chip->object[1], pair->options->skip, report);
    }
    compare_number("pv.system_time", pv_a->system_time, pv_b->system_time, report);
    compare_number("pv.eoi", pv_a->eoi, pv_b->eoi, report);
    compare_number("pv.wall_clock", pair->machine[0]->pv.wall_clock,
                   pair->machine[1]->pv.wall_clock, report);
    compare_number("a20", memory_a20(pair->machine[0]->memory),
                   memory_a20(pair->machine[1]->memory), report);
}

// A page that no one wrote is still zero in both.
static void compare_page(struct pair *pair, gpa_t gpa, struct report *report)
{
    struct memory_page a, b;
    bool there_a = memory_page(pair->machine[0]->memory, gpa, &a);
    bool there_b = memory_page(pair->machine[1]->memory, gpa, &b);

    if (there_a != there_b)
        report_add(report, "  page %llx: %s, %s\n", (unsigned long long)gpa,
                   there_a ? "memory" : "none", there_b ? "memory" : "none");
    if (!there_a || !there_b || !((*a.flags | *b.flags) & PAGE_FLAG_DIRTY) ||
        memcmp(a.host, b.host, PAGE_SIZE) == 0)
        return;
    for (unsigned i = 0; i < PAGE_SIZE; i += 8) {
        uint64_t va, vb;
        memcpy(&va, a.host + i, 8);
        memcpy(&vb, b.host + i, 8);
        if (va != vb)
            report_add(report, "  memory[%llx]: %016llx %016llx\n", (unsigned long long)(gpa + i),
                       (unsigned long long)va, (unsigned long long)vb);
    }
}

static void compare_memory(struct pair *pair, struct report *report)
{
    const uint64_t size = pair->options->config.memory, below = layout_ram_below_4g(size);

    // Off, the A20 gate would show some pages twice and others not at all.
    if (!memory_a20(pair->machine[0]->memory) || !memory_a20(pair->machine[1]->memory))
        return;
    for (gpa_t gpa = 0; gpa < below; gpa += PAGE_SIZE)
        compare_page(pair, gpa, report);
    for (gpa_t gpa = LAYOUT_4G; gpa < LAYOUT_4G + (size - below); gpa += PAGE_SIZE)
        compare_page(pair, gpa, report);
}

bool pair_compare(struct pair *pair, enum depth depth, struct report *report)
{
    static struct report unread;
    struct report *r = report ? report : &unread;

    r->count = 0;
    r->length = 0;
    r->text[0] = 0;
    compare_cpu(pair, r);
    if (depth >= DEPTH_DEVICES)
        compare_chips(pair, r);
    if (depth >= DEPTH_MEMORY)
        compare_memory(pair, r);
    return r->count == 0;
}
