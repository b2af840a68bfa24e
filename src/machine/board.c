// SPDX-License-Identifier: Apache-2.0
// The board: which chips there are, at which addresses, wired how. One function per kind of wiring, and
// board_create() in the order of the address map.
#include "base/log.h"
#include "machine/internal.h"
#include "machine/tables/acpi.h"
#include "machine/tables/smbios.h"
#include <stdlib.h>
#include <string.h>

#define BOARD_PM_BASE 0x600
#define BOARD_SCI_IRQ 9
#define BOARD_PCI_GSI 16 // I/O APIC pins of the four PCI interrupt links
#define BOARD_COM1 0x3f8
#define BOARD_COM1_IRQ 4
#define BOARD_IOAPIC_ID 0

// The same links in 8259 mode.
static const uint8_t pci_link_irq[PCI_LINKS] = {10, 10, 11, 11};

// --- interrupts ------------------------------------------------------------------------------------------

// An ISA interrupt request goes to both controllers; the timer's IRQ 0 is the I/O APIC's pin 2.
static void isa_irq(void *opaque, int irq, bool level)
{
    struct board *board = &((struct machine *)opaque)->board;
    if (irq < PIC_INPUTS)
        pic_input(board->pic, irq, level);
    ioapic_input(board->ioapic, irq == 0 ? 2 : irq, level);
}

static struct irq_line isa_line(struct machine *machine, int irq)
{
    return (struct irq_line){.set = isa_irq, .opaque = machine, .number = irq};
}

// While the HPET replaces them, the PIT and the RTC drive nothing (HPET specification 2.3.5).
static void legacy_timer_irq(void *opaque, int irq, bool level)
{
    if (!((struct machine *)opaque)->board.hpet_legacy)
        isa_irq(opaque, irq, level);
}
static void hpet_legacy_changed(void *opaque, bool on)
{
    struct machine *machine = opaque;
    isa_irq(machine, 0, false);
    isa_irq(machine, 8, false);
    machine->board.hpet_legacy = on;
}

static void lapic_interrupt(void *opaque, unsigned cpu)
{
    vcpu_signal(&((struct machine *)opaque)->vcpus[cpu], X86_EVENT_INTR);
}
static void lapic_nmi(void *opaque, unsigned cpu)
{
    vcpu_signal(&((struct machine *)opaque)->vcpus[cpu], X86_EVENT_NMI);
}
static void lapic_init(void *opaque, unsigned cpu)
{
    vcpu_signal(&((struct machine *)opaque)->vcpus[cpu], X86_EVENT_INIT);
}
static void lapic_sipi(void *opaque, unsigned cpu, uint8_t vector)
{
    struct vcpu *vcpu = &((struct machine *)opaque)->vcpus[cpu];
    vcpu->cpu->sipi_vector = vector;
    vcpu_signal(vcpu, X86_EVENT_SIPI);
}
static int lapic_extint_ack(void *opaque)
{
    return pic_ack(((struct machine *)opaque)->board.pic);
}
static void lapic_eoi(void *opaque, uint8_t vector)
{
    ioapic_eoi(((struct machine *)opaque)->board.ioapic, vector);
}
static void lapic_is_accepting(void *opaque)
{
    struct machine *machine = opaque;
    if (machine->board.ioapic) // made after the local APICs
        ioapic_retry(machine->board.ioapic);
}
static uint64_t lapic_tsc(void *opaque, unsigned cpu)
{
    return x86_rdtsc(((struct machine *)opaque)->vcpus[cpu].cpu);
}
static int lapic_current_cpu(void *opaque)
{
    return vcpu_current();
}
static int lapic_map(void *opaque, const struct io_region *region)
{
    return memory_add_mmio(((struct machine *)opaque)->memory, region, NULL);
}
static void lapic_unmap(void *opaque, const struct io_region *region)
{
    memory_remove_mmio(((struct machine *)opaque)->memory, region->base, region->opaque);
}
static bool lapic_pv_eoi_offer(void *opaque, unsigned cpu)
{
    return pv_eoi_offer(&((struct machine *)opaque)->vcpus[cpu].pv);
}
static bool lapic_pv_eoi_claim(void *opaque, unsigned cpu)
{
    return pv_eoi_claim(&((struct machine *)opaque)->vcpus[cpu].pv);
}

static const struct lapic_ops lapic_ops = {.interrupt = lapic_interrupt,
                                           .nmi = lapic_nmi,
                                           .init = lapic_init,
                                           .sipi = lapic_sipi,
                                           .extint_ack = lapic_extint_ack,
                                           .eoi = lapic_eoi,
                                           .accepting = lapic_is_accepting,
                                           .tsc = lapic_tsc,
                                           .current_cpu = lapic_current_cpu,
                                           .map = lapic_map,
                                           .unmap = lapic_unmap,
                                           .pv_eoi_offer = lapic_pv_eoi_offer,
                                           .pv_eoi_claim = lapic_pv_eoi_claim};

// --- what chips do to the board ------------------------------------------------------------------------------

static void power_off(void *opaque)
{
    machine_request_end(opaque, MACHINE_POWER_OFF);
}

static void guest_reset(void *opaque)
{
    machine_request_reset(opaque);
}
static void set_a20(void *opaque, bool enabled)
{
    memory_set_a20(((struct machine *)opaque)->memory, enabled);
}
static bool get_a20(void *opaque)
{
    return memory_a20(((struct machine *)opaque)->memory);
}

// Without firmware behind the reset vector an INIT of the processors alone leads nowhere: both kinds of
// reset start the machine over.
static void port_reset(void *opaque, bool hard)
{
    machine_request_reset(opaque);
}
// The boot processor may wait for it before an x87 instruction.
static void ignne_asserted(void *opaque)
{
    vcpu_kick(&((struct machine *)opaque)->vcpus[0]);
}
// The debug console: whole lines to the log, for people who write kernels (croft run --verbose).
static void debug_character(void *opaque, uint8_t character)
{
    struct board *board = &((struct machine *)opaque)->board;
    bool newline = character == '\n';
    // The log is the user's terminal, not the guest's: no control sequences.
    if (!newline)
        board->debug_line[board->debug_length++] =
            character >= ' ' && character < 0x7f ? (char)character : '.';
    if (newline || board->debug_length == sizeof(board->debug_line) - 1) {
        board->debug_line[board->debug_length] = 0;
        log_info("port E9h: %s", board->debug_line);
        board->debug_length = 0;
    }
}

static void uart_transmit(void *opaque, const uint8_t *data, size_t length)
{
    struct machine *machine = opaque;
    if (machine->console)
        console_write(machine->console, data, length);
}
static void uart_room(void *opaque)
{
    struct machine *machine = opaque;
    if (machine->console)
        console_room(machine->console);
}

// --- wiring ----------------------------------------------------------------------------------------------------

static int add_regions(struct machine *machine, const struct io_region *region, unsigned count,
                       bool mmio, struct error *err)
{
    for (unsigned i = 0; i < count; i++)
        if (mmio ? memory_add_mmio(machine->memory, &region[i], err)
                 : memory_add_pio(machine->memory, &region[i], err))
            return -1;
    return 0;
}

static int create_interrupt_controllers(struct machine *machine, struct error *err)
{
    struct board *board = &machine->board;
    struct io_region region[PIC_REGIONS];

    board->lapic_bus =
        lapic_bus_create(&(struct lapic_bus_config){.cpu_count = machine->config.cpus,
                                                    .timers = &machine->timers,
                                                    .tsc_hz = MACHINE_TSC_HZ,
                                                    .ops = lapic_ops,
                                                    .opaque = machine},
                         err);
    if (!board->lapic_bus)
        return -1;
    // A processor without local APIC: it stays as the wire from the 8259 pair, out of the guest's sight.
    bool apic = machine->model.feature[X86_FEATURE_apic];
    lapic_bus_region(board->lapic_bus, region);
    if (apic && add_regions(machine, region, 1, true, err))
        return -1;

    board->pic =
        pic_create(&(struct pic_config){.output = lapic_bus_lint0_line(board->lapic_bus)}, err);
    if (!board->pic)
        return -1;
    pic_regions(board->pic, region);
    if (add_regions(machine, region, PIC_REGIONS, false, err))
        return -1;

    board->ioapic =
        ioapic_create(&(struct ioapic_config){.bus = board->lapic_bus, .id = BOARD_IOAPIC_ID}, err);
    if (!board->ioapic)
        return -1;
    ioapic_region(board->ioapic, region);
    return apic ? add_regions(machine, region, 1, true, err) : 0;
}

static int create_timers(struct machine *machine, struct error *err)
{
    struct board *board = &machine->board;
    struct io_region region[PIT_REGIONS];

    board->pit = pit_create(
        &(struct pit_config){.timers = &machine->timers,
                             .irq = {.set = legacy_timer_irq, .opaque = machine, .number = 0}},
        err);
    if (!board->pit)
        return -1;
    pit_regions(board->pit, region);
    if (add_regions(machine, region, PIT_REGIONS, false, err))
        return -1;

    board->hpet =
        hpet_create(&(struct hpet_config){.timers = &machine->timers,
                                          .route = {.set = isa_irq, .opaque = machine},
                                          .legacy = {isa_line(machine, 0), isa_line(machine, 8)},
                                          .legacy_changed = hpet_legacy_changed,
                                          .opaque = machine},
                    err);
    if (!board->hpet)
        return -1;
    hpet_region(board->hpet, region);
    if (add_regions(machine, region, 1, true, err))
        return -1;

    rtc_init(&board->rtc, &(struct rtc_config){
                              .timers = &machine->timers,
                              .irq = {.set = legacy_timer_irq, .opaque = machine, .number = 8}});
    rtc_region(&board->rtc, region);
    return add_regions(machine, region, 1, false, err);
}

static int create_power_management(struct machine *machine, struct error *err)
{
    struct board *board = &machine->board;
    struct io_region region;

    acpi_pm_init(&board->acpi_pm, &(struct acpi_pm_config){.timers = &machine->timers,
                                                           .sci = isa_line(machine, BOARD_SCI_IRQ),
                                                           .timer_32 = true,
                                                           .power_off = power_off,
                                                           .opaque = machine});
    acpi_pm_smi_region(&board->acpi_pm, &region);
    return add_regions(machine, &region, 1, false, err);
}

// The host bridge, the ISA bridge and the power-management function, which places the ACPI registers.
static int create_pci(struct machine *machine, struct error *err)
{
    struct board *board = &machine->board;
    struct pci_bus_config bus = {.memory = machine->memory,
                                 .reset_control_read = reset_control_read,
                                 .reset_control_write = reset_control_write,
                                 .reset_control = &board->ports};
    struct piix_config piix = {.memory = machine->memory};
    struct io_region region;

    for (int i = 0; i < PCI_LINKS; i++) {
        bus.links[i] = ioapic_line(board->ioapic, BOARD_PCI_GSI + i);
        piix.link_irq[i] = pci_link_irq[i];
    }
    pci_bus_init(&board->pci, &bus);
    pci_bus_region(&board->pci, &region);
    for (int i = 0; i < PIIX_ISA_IRQS; i++)
        piix.isa[i] = isa_line(machine, i);
    acpi_pm_region(&board->acpi_pm, BOARD_PM_BASE, &piix.pm);
    return add_regions(machine, &region, 1, false, err) ||
                   piix_init(&board->piix, &board->pci, &piix, err)
               ? -1
               : 0;
}

static int create_serial(struct machine *machine, struct error *err)
{
    struct io_region region;

    uart16550_init(&machine->board.uart,
                   &(struct uart16550_config){.timers = &machine->timers,
                                              .irq = isa_line(machine, BOARD_COM1_IRQ),
                                              .transmit = uart_transmit,
                                              .room = uart_room,
                                              .opaque = machine});
    uart16550_region(&machine->board.uart, BOARD_COM1, "serial 1", &region);
    return add_regions(machine, &region, 1, false, err);
}

static int create_i8042(struct machine *machine, struct error *err)
{
    struct io_region region[2];

    i8042_init(&machine->board.i8042, &(struct i8042_config){.irq_keyboard = isa_line(machine, 1),
                                                             .irq_mouse = isa_line(machine, 12),
                                                             .set_a20 = set_a20,
                                                             .a20 = get_a20,
                                                             .reset = guest_reset,
                                                             .opaque = machine});
    i8042_regions(&machine->board.i8042, &region[0], &region[1]);
    return add_regions(machine, region, 2, false, err);
}

static int create_ports(struct machine *machine, struct error *err)
{
    struct misc_ports *ports = &machine->board.ports;
    struct io_region region[4];

    misc_ports_init(ports, &(struct misc_ports_config){.set_a20 = set_a20,
                                                       .a20 = get_a20,
                                                       .reset = port_reset,
                                                       .debug = debug_character,
                                                       .irq13 = isa_line(machine, 13),
                                                       .ignne = ignne_asserted,
                                                       .opaque = machine});
    misc_ports_post_region(ports, &region[0]);
    misc_ports_control_a_region(ports, &region[1]);
    misc_ports_debug_region(ports, &region[2]);
    misc_ports_x87_region(ports, &region[3]);
    return add_regions(machine, region, ARRAY_SIZE(region), false, err);
}

int board_create(struct machine *machine, struct error *err)
{
    return create_interrupt_controllers(machine, err) || create_timers(machine, err) ||
                   create_power_management(machine, err) || create_serial(machine, err) ||
                   create_i8042(machine, err) || create_ports(machine, err) ||
                   create_pci(machine, err)
               ? -1
               : 0;
}

void board_destroy(struct machine *machine)
{
    struct board *board = &machine->board;

    if (board->uart.config.timers)
        uart16550_fini(&board->uart);
    if (board->acpi_pm.config.timers)
        acpi_pm_fini(&board->acpi_pm);
    if (board->rtc.config.timers)
        rtc_fini(&board->rtc);
    hpet_destroy(board->hpet);
    pit_destroy(board->pit);
    ioapic_destroy(board->ioapic);
    pic_destroy(board->pic);
    lapic_bus_destroy(board->lapic_bus);
}

void board_reset(struct machine *machine)
{
    struct board *board = &machine->board;
    uint64_t size = machine->config.memory;
    uint64_t below = layout_ram_below_4g(size);

    lapic_bus_reset(board->lapic_bus);
    // As firmware leaves it: the 8259 pair reaches the boot processor, for kernels that want no APIC.
    lapic_virtual_wire(lapic_bus_get(board->lapic_bus, 0));
    pic_reset(board->pic);
    ioapic_reset(board->ioapic);
    pit_reset(board->pit);
    hpet_reset(board->hpet);
    rtc_reset(&board->rtc);
    rtc_set_memory_size(&board->rtc, below, size - below);
    acpi_pm_reset(&board->acpi_pm);
    uart16550_reset(&board->uart);
    board->uart.lcr = 0x03; // 8 data bits, as firmware leaves it: small kernels print without ado
    i8042_reset(&board->i8042);
    misc_ports_reset(&board->ports);
    pci_bus_reset(&board->pci);
    memory_set_a20(machine->memory, true); // as the firmware we stand in for leaves it
}

// --- firmware tables -------------------------------------------------------------------------------------------------

static void smbios_tables(struct machine *machine)
{
    uint64_t size = machine->config.memory;
    uint64_t below = layout_ram_below_4g(size);
    struct x86_cpu *cpu = machine->vcpus[0].cpu;
    struct smbios_blob blob;
    struct error err = {0};
    uint32_t leaf0[4], leaf1[4];
    char vendor[13] = {0};

    x86_cpuid(cpu, 0, 0, leaf0);
    x86_cpuid(cpu, 1, 0, leaf1);
    memcpy(vendor, &leaf0[1], 4); // EBX EDX ECX
    memcpy(vendor + 4, &leaf0[3], 4);
    memcpy(vendor + 8, &leaf0[2], 4);
    struct smbios_config config = {.version = CROFT_VERSION,
                                   .product = "Croft PC",
                                   .cpu_count = machine->config.cpus,
                                   .cpu_signature = leaf1[0],
                                   .cpu_features = leaf1[3],
                                   .cpu_vendor = vendor,
                                   .cpu_brand = machine->model.brand,
                                   .memory_below_4g = below,
                                   .memory_above_4g = size - below};
    if (smbios_build(&config, LAYOUT_SMBIOS, &blob, &err)) {
        log_error("SMBIOS tables: %s", err.message);
        return;
    }
    if (blob.size <= LAYOUT_HIGH_RAM - LAYOUT_SMBIOS)
        memory_write(machine->memory, LAYOUT_SMBIOS, blob.data, blob.size);
    smbios_blob_free(&blob);
}

static void acpi_tables(struct machine *machine)
{
    uint32_t apic_ids[MACHINE_CPUS_MAX];
    struct acpi_blob blob;
    struct error err = {0};

    for (unsigned i = 0; i < machine->config.cpus; i++)
        apic_ids[i] = i;
    struct acpi_config acpi = {.apic_ids = apic_ids,
                               .cpu_count = machine->config.cpus,
                               .apic = machine->model.feature[X86_FEATURE_apic],
                               .lapic_base = LAYOUT_LAPIC,
                               .ioapic_base = LAYOUT_IOAPIC,
                               .ioapic_id = BOARD_IOAPIC_ID,
                               .sci_irq = BOARD_SCI_IRQ,
                               .pm_base = BOARD_PM_BASE,
                               .pm_timer_32 = true,
                               .smi_port = ACPI_SMI_PORT,
                               .acpi_enable = ACPI_SMI_ENABLE,
                               .acpi_disable = ACPI_SMI_DISABLE,
                               .reset_port = MISC_RESET_PORT,
                               .reset_value = MISC_RESET_VALUE,
                               .hpet_base = LAYOUT_HPET,
                               .hpet_id =
                                   (uint32_t)memory_mmio_read(machine->memory, LAYOUT_HPET, 4),
                               .serial_ports = 1,
                               .i8042 = true,
                               .pci = true,
                               .pci32_base = LAYOUT_PCI32,
                               .pci32_last = LAYOUT_PCI32_END - 1};
    for (int i = 0; i < PCI_LINKS; i++) {
        acpi.pci_gsi[i] = (uint8_t)(BOARD_PCI_GSI + i);
        acpi.pci_irq[i] = pci_link_irq[i];
    }
    machine->rsdp = 0;
    if (acpi_tables_build(&acpi, LAYOUT_TABLES + ACPI_TABLES_ALIGN, &blob, &err)) {
        log_error("ACPI tables: %s", err.message);
        return;
    }
    if (LAYOUT_TABLES + ACPI_TABLES_ALIGN + blob.size <= LAYOUT_SMBIOS) {
        memory_write(machine->memory, LAYOUT_TABLES, blob.rsdp, sizeof(blob.rsdp));
        memory_write(machine->memory, LAYOUT_TABLES + ACPI_TABLES_ALIGN, blob.data, blob.size);
        machine->rsdp = LAYOUT_TABLES;
    }
    acpi_blob_free(&blob);
}

// The few fields of the BIOS data area (40:0) by which systems find out about conventional memory.
static void bios_data_area(struct machine *machine)
{
    static const struct {
        uint16_t offset, value;
    } fields[] = {
        {0x00, BOARD_COM1},        // the first serial port
        {0x0e, LAYOUT_EBDA >> 4},  // segment of the extended BIOS data area
        {0x13, LAYOUT_EBDA >> 10}, // KiB of conventional memory below it
    };
    static const uint8_t ebda_kib = (LAYOUT_LOW_END - LAYOUT_EBDA) >> 10;

    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++)
        memory_write(machine->memory, LAYOUT_BDA + fields[i].offset, &fields[i].value, 2);
    memory_write(machine->memory, LAYOUT_EBDA, &ebda_kib, 1);
}

void board_tables(struct machine *machine)
{
    bios_data_area(machine);
    acpi_tables(machine);
    smbios_tables(machine);
}
