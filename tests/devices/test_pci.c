// SPDX-License-Identifier: Apache-2.0
// PCI: configuration mechanism 1, BAR sizing and mapping, interrupt links and their ISA routes, the
// chipset's own functions, saved state.
#include "device_bench.h"
#include "devices/chipset/acpi_pm.h"
#include "devices/chipset/misc_ports.h"
#include "devices/chipset/pci.h"
#include "devices/chipset/piix.h"

#define GSI_LINE 16 // recorder lines 16 to 19 are the links, 0 to 15 the ISA interrupts

struct fixture {
    struct bench bench;
    struct memory *memory;
    struct pci_bus bus;
    struct piix piix;
    struct acpi_pm pm;
    struct misc_ports ports;
    struct pci_device card;
    struct io_region io;
    unsigned resets, card_writes, card_resets;
    uint32_t reg;
};

static uint64_t card_read(void *opaque, uint64_t offset, unsigned size)
{
    return ((struct fixture *)opaque)->reg + offset;
}

static void card_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    ((struct fixture *)opaque)->reg = (uint32_t)value;
}

static const struct io_ops card_ops = {
    .read = card_read, .write = card_write, .min_size = 1, .max_size = 4};

static void card_config_written(struct pci_device *device, unsigned offset, unsigned size)
{
    ((struct fixture *)device->info.opaque)->card_writes++;
}

static void card_reset(struct pci_device *device)
{
    ((struct fixture *)device->info.opaque)->card_resets++;
}

static void on_reset(void *opaque, bool hard)
{
    ((struct fixture *)opaque)->resets++;
}

static void make_card(struct fixture *f, struct pci_device *card)
{
    struct error err = {0};

    pci_device_init(card, &(struct pci_device_config){.name = "card",
                                                      .vendor_id = 0x1234,
                                                      .device_id = 0x5678,
                                                      .subsystem_vendor_id = 0x1AF4,
                                                      .subsystem_id = 2,
                                                      .class_code = 0x020000,
                                                      .revision = 9,
                                                      .interrupt_pin = 1,
                                                      .config_written = card_config_written,
                                                      .reset = card_reset,
                                                      .opaque = f});
    assert_int_equal(
        pci_device_set_bar(
            card, 0,
            &(struct pci_bar_config){
                .name = "card-io", .kind = PCI_BAR_IO, .size = 32, .ops = &card_ops, .opaque = f},
            &err),
        0);
    assert_int_equal(pci_device_set_bar(card, 1,
                                        &(struct pci_bar_config){.name = "card-mem",
                                                                 .kind = PCI_BAR_MEM32,
                                                                 .size = 0x1000,
                                                                 .ops = &card_ops,
                                                                 .opaque = f},
                                        &err),
                     0);
    assert_int_equal(pci_device_set_bar(card, 4,
                                        &(struct pci_bar_config){.name = "card-mem64",
                                                                 .kind = PCI_BAR_MEM64,
                                                                 .prefetchable = true,
                                                                 .size = 0x4000,
                                                                 .ops = &card_ops,
                                                                 .opaque = f},
                                        &err),
                     0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err = {0};
    struct pci_bus_config bus_config = {.reset_control_read = reset_control_read,
                                        .reset_control_write = reset_control_write,
                                        .reset_control = &f->ports};
    struct piix_config piix_config = {.link_irq = {10, 10, 11, 11}};

    bench_init(&f->bench);
    f->memory = bus_config.memory = piix_config.memory = memory_create(&err);
    assert_non_null(f->memory);
    assert_int_equal(memory_add_ram(f->memory, "ram", 0, 0x100000, &err), 0);
    misc_ports_init(&f->ports, &(struct misc_ports_config){.reset = on_reset, .opaque = f});
    acpi_pm_init(&f->pm, &(struct acpi_pm_config){.timers = &f->bench.timers});
    acpi_pm_region(&f->pm, 0x600, &piix_config.pm);
    for (int i = 0; i < PCI_LINKS; i++)
        bus_config.links[i] = bench_line(&f->bench, GSI_LINE + i);
    for (int i = 0; i < PIIX_ISA_IRQS; i++)
        piix_config.isa[i] = bench_line(&f->bench, i);
    pci_bus_init(&f->bus, &bus_config);
    assert_int_equal(piix_init(&f->piix, &f->bus, &piix_config, &err), 0);
    make_card(f, &f->card);
    assert_int_equal(pci_bus_add(&f->bus, &f->card, PCI_DEVFN(3, 0), &err), 0);
    pci_bus_region(&f->bus, &f->io);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    acpi_pm_fini(&f->pm);
    memory_destroy(f->memory);
    bench_fini(&f->bench);
    free(f);
    return 0;
}

static uint32_t config_read(struct fixture *f, unsigned slot, unsigned function, unsigned reg,
                            unsigned size)
{
    bench_write(&f->io, 0, 0x80000000u | slot << 11 | function << 8 | (reg & 0xFC), 4);
    return (uint32_t)bench_read(&f->io, 4 + (reg & 3), size);
}

static void config_write(struct fixture *f, unsigned slot, unsigned function, unsigned reg,
                         uint32_t value, unsigned size)
{
    bench_write(&f->io, 0, 0x80000000u | slot << 11 | function << 8 | (reg & 0xFC), 4);
    bench_write(&f->io, 4 + (reg & 3), value, size);
}

static void mechanism_one(void **state)
{
    struct fixture *f = *state;

    bench_write(&f->io, 3, 0x01, 1);
    bench_write(&f->io, 0, 0x80000000, 4);
    assert_int_equal(bench_read(&f->io, 0, 4), 0x80000000);
    assert_int_equal(bench_read(&f->io, 4, 4), 0x12378086);
    bench_write(&f->io, 0, 0xFFFFFFFF, 4);
    assert_int_equal(bench_read(&f->io, 0, 4), 0x80FFFFFC);
    assert_int_equal(bench_read(&f->io, 4, 4), 0xFFFFFFFF); // bus 255
    bench_write(&f->io, 0, 0x00000000, 4);
    assert_int_equal(bench_read(&f->io, 4, 4), 0xFFFFFFFF); // not enabled
    assert_int_equal(bench_read(&f->io, 0, 1), 0xFF);
    assert_int_equal(bench_read(&f->io, 0, 2), 0xFFFF);

    assert_int_equal(config_read(f, 3, 0, 0, 4), 0x56781234);
    assert_int_equal(config_read(f, 3, 0, 2, 2), 0x5678);
    assert_int_equal(config_read(f, 3, 0, 3, 1), 0x56);
    assert_int_equal(config_read(f, 3, 0, 8, 4), 0x02000009);
    assert_int_equal(config_read(f, 3, 0, 0x2C, 4), 0x00021AF4);
    assert_int_equal(config_read(f, 3, 0, 0x3C, 4), 0x00000100);
    assert_int_equal(config_read(f, 3, 1, 0, 4), 0xFFFFFFFF);
    assert_int_equal(config_read(f, 4, 0, 0, 2), 0xFFFF);
    config_write(f, 4, 0, 0, 0, 4);
    assert_int_equal(config_read(f, 1, 0, 0, 4), 0x71108086);
    assert_int_equal(config_read(f, 1, 0, 0x0E, 1), 0x80);
    assert_int_equal(config_read(f, 1, 3, 0, 4), 0x71138086);
    assert_int_equal(config_read(f, 3, 0, 0x0E, 1), 0);
    config_write(f, 3, 0, 0, 0xFFFFFFFF, 4); // read-only
    assert_int_equal(config_read(f, 3, 0, 0, 4), 0x56781234);
    config_write(f, 3, 0, 0x3C, 0x0B, 1);
    assert_int_equal(config_read(f, 3, 0, 0x3C, 4), 0x0000010B);
    config_write(f, 3, 0, 4, 0xFFFF, 2);
    assert_int_equal(config_read(f, 3, 0, 4, 2), 0x0547);
    assert_true(pci_device_is_master(&f->card));

    bench_write(&f->io, 1, 0x02, 1);
    bench_write(&f->io, 1, 0x06, 1);
    assert_int_equal(f->resets, 1);
    assert_int_equal(bench_read(&f->io, 1, 1), 0x06);
}

static void bars_move(void **state)
{
    struct fixture *f = *state;
    struct memory *m = f->memory;

    f->reg = 0x100;
    config_write(f, 3, 0, 0x10, 0xFFFFFFFF, 4);
    assert_int_equal(config_read(f, 3, 0, 0x10, 4), 0xFFFFFFE1);
    config_write(f, 3, 0, 0x14, 0xFFFFFFFF, 4);
    assert_int_equal(config_read(f, 3, 0, 0x14, 4), 0xFFFFF000);
    config_write(f, 3, 0, 0x18, 0xFFFFFFFF, 4);
    assert_int_equal(config_read(f, 3, 0, 0x18, 4), 0);
    config_write(f, 3, 0, 0x20, 0xFFFFFFFF, 4);
    assert_int_equal(config_read(f, 3, 0, 0x20, 4), 0xFFFFC00C);
    config_write(f, 3, 0, 0x24, 0xFFFFFFFF, 4);
    assert_int_equal(config_read(f, 3, 0, 0x24, 4), 0xFFFFFFFF);
    config_write(f, 3, 0, 4, 3, 2); // all at the top: nothing is mapped
    config_write(f, 3, 0, 0x10, 0xC000, 4);
    config_write(f, 3, 0, 0x14, 0xE0000000, 4);
    config_write(f, 3, 0, 0x20, 0x00004000, 4);
    config_write(f, 3, 0, 0x24, 0x00000080, 4);
    assert_int_equal(memory_pio_read(m, 0xC004, 4), 0x104);
    assert_int_equal(memory_mmio_read(m, 0xE0000008, 4), 0x108);
    assert_int_equal(memory_mmio_read(m, 0x8000004010, 4), 0x110);
    memory_mmio_write(m, 0xE0000000, 0x200, 4);
    assert_int_equal(memory_pio_read(m, 0xC004, 4), 0x204);
    config_write(f, 3, 0, 0x14, 0xE1000000, 4);
    assert_int_equal(memory_mmio_read(m, 0xE0000008, 4), 0xFFFFFFFF);
    assert_int_equal(memory_mmio_read(m, 0xE1000008, 4), 0x208);
    config_write(f, 3, 0, 4, 2, 2);
    assert_int_equal(memory_pio_read(m, 0xC004, 4), 0xFFFFFFFF);
    config_write(f, 3, 0, 4, 0, 2);
    assert_int_equal(memory_mmio_read(m, 0xE1000008, 4), 0xFFFFFFFF);
    // On top of RAM, or of another BAR: waits for its chance.
    config_write(f, 3, 0, 4, 2, 2);
    config_write(f, 3, 0, 0x14, 0x00001000, 4);
    assert_false(f->card.bars[1].mapped);
    config_write(f, 3, 0, 0x20, 0xE0000000, 4);
    config_write(f, 3, 0, 0x24, 0, 4);
    config_write(f, 3, 0, 0x14, 0xE0001000, 4);
    assert_true(f->card.bars[4].mapped);
    assert_false(f->card.bars[1].mapped);
    config_write(f, 3, 0, 0x20, 0xE1000000, 4);
    assert_true(f->card.bars[1].mapped);
    pci_bus_reset(&f->bus);
    assert_false(f->card.bars[1].mapped);
    assert_int_equal(config_read(f, 3, 0, 0x14, 4), 0);
    assert_int_equal(f->card_resets, 1);
    assert_true(f->card_writes > 10);

    struct error err = {0};
    struct pci_device other;
    pci_device_init(&other, &(struct pci_device_config){.name = "other"});
    assert_int_equal(pci_bus_add(&f->bus, &other, PCI_DEVFN(3, 0), &err), -1);
    assert_int_equal(pci_device_set_bar(&other, 5,
                                        &(struct pci_bar_config){.kind = PCI_BAR_MEM64, .size = 64},
                                        &err),
                     -1);
    assert_int_equal(pci_device_set_bar(
                         &other, 0, &(struct pci_bar_config){.kind = PCI_BAR_IO, .size = 48}, &err),
                     -1);
    pci_bus_remove(&f->bus, &f->card);
    assert_int_equal(config_read(f, 3, 0, 0, 4), 0xFFFFFFFF);
}

static void capabilities(void **state)
{
    struct fixture *f = *state;

    uint8_t first = pci_device_add_capability(&f->card, 0x11, 12);
    uint8_t second = pci_device_add_capability(&f->card, 0x09, 17);
    assert_int_equal(first, 0x40);
    assert_int_equal(second, 0x4C);
    assert_int_equal(config_read(f, 3, 0, 6, 2) & 0x10, 0x10);
    assert_int_equal(config_read(f, 3, 0, 0x34, 1), second);
    assert_int_equal(config_read(f, 3, 0, second, 2), 0x4009);
    assert_int_equal(config_read(f, 3, 0, first, 2), 0x0011);
    unsigned more = 0;
    while (pci_device_add_capability(&f->card, 0x09, 16))
        more++;
    assert_int_equal(more, 10);
    pci_bus_reset(&f->bus);
    assert_int_equal(config_read(f, 3, 0, 6, 2) & 0x10, 0x10);
}

static void interrupts(void **state)
{
    struct fixture *f = *state;
    unsigned link = pci_link(PCI_DEVFN(3, 0), 1);

    assert_int_equal(link, 2); // (3 + 0 + 3) & 3
    pci_device_set_intx(&f->card, true);
    assert_true(f->bench.level[GSI_LINE + link]);
    assert_true(f->bench.level[11]);
    assert_false(f->bench.level[10]);
    assert_int_equal(config_read(f, 3, 0, 6, 2) & 8, 8);
    config_write(f, 3, 0, 4, 0x400, 2);
    assert_false(f->bench.level[GSI_LINE + link]);
    assert_false(f->bench.level[11]);
    config_write(f, 3, 0, 4, 0, 2);
    assert_true(f->bench.level[11]);
    config_write(f, 1, 0, 0x60 + link, 5, 1);
    assert_false(f->bench.level[11]);
    assert_true(f->bench.level[5]);
    config_write(f, 1, 0, 0x60 + link, 0x85, 1);
    assert_false(f->bench.level[5]);
    config_write(f, 1, 0, 0x60 + link, 0x02, 1); // an interrupt that cannot be
    assert_false(f->bench.level[2]);
    assert_true(f->bench.level[GSI_LINE + link]);
    pci_bus_reset(&f->bus);
    assert_false(f->bench.level[GSI_LINE + link]);
    assert_int_equal(config_read(f, 1, 0, 0x60, 4), 0x0B0B0A0A);
}

static void acpi_registers_move(void **state)
{
    struct fixture *f = *state;

    bench_advance(&f->bench, 1000000000);
    assert_int_equal(config_read(f, 1, 3, 0x40, 4), 0x601);
    assert_int_equal(memory_pio_read(f->memory, 0x608, 4), 3579545);
    config_write(f, 1, 3, 0x40, 0xB000, 4);
    assert_int_equal(memory_pio_read(f->memory, 0x608, 4), 0xFFFFFFFF);
    assert_int_equal(memory_pio_read(f->memory, 0xB008, 4), 3579545);
    config_write(f, 1, 3, 0x80, 0, 1);
    assert_int_equal(memory_pio_read(f->memory, 0xB008, 4), 0xFFFFFFFF);
    pci_bus_reset(&f->bus);
    assert_int_equal(memory_pio_read(f->memory, 0x608, 4), 3579545);
}

static void state_round_trip(void **state)
{
    struct fixture *f = *state;
    struct fixture *g;

    setup((void **)&g);
    config_write(f, 3, 0, 0x14, 0xE0000000, 4);
    config_write(f, 3, 0, 4, 2, 2);
    pci_device_set_intx(&f->card, true);
    config_write(f, 1, 3, 0x40, 0x1000, 4);
    check_state(&pci_bus_state, &f->bus, &g->bus);
    check_state(&pci_device_state, &f->card, &g->card);
    check_state(&pci_device_state, &f->piix.host, &g->piix.host);
    check_state(&pci_device_state, &f->piix.isa, &g->piix.isa);
    check_state(&pci_device_state, &f->piix.pm, &g->piix.pm);
    assert_true(g->bench.level[11]);
    assert_int_equal(memory_mmio_read(g->memory, 0xE0000008, 4), 8);
    assert_int_not_equal(memory_pio_read(g->memory, 0x1008, 4), 0xFFFFFFFF);
    assert_int_equal(bench_read(&g->io, 0, 4), 0x80000B40);

    struct state_buffer saved = {0};
    struct error err = {0};
    size_t offset = 0;
    assert_int_equal(state_save(&saved, &pci_device_state, &f->piix.isa), 0);
    assert_int_equal(state_load(&saved, &offset, &pci_device_state, &g->card, &err), -1);
    state_buffer_free(&saved);
    teardown((void **)&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(mechanism_one, setup, teardown),
        cmocka_unit_test_setup_teardown(bars_move, setup, teardown),
        cmocka_unit_test_setup_teardown(capabilities, setup, teardown),
        cmocka_unit_test_setup_teardown(interrupts, setup, teardown),
        cmocka_unit_test_setup_teardown(acpi_registers_move, setup, teardown),
        cmocka_unit_test_setup_teardown(state_round_trip, setup, teardown),
    };
    return cmocka_run_group_tests_name("pci", tests, NULL, NULL);
}
