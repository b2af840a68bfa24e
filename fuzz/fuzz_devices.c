// SPDX-License-Identifier: Apache-2.0
// The rest of the chipset behind the real dispatcher: RTC, ACPI registers, keyboard controller, UART,
// small ports, PCI with a card whose BARs move. Random accesses of every size, passing time, input from
// outside, resets, and damaged saved state. Found besides what the sanitizers see: a timer that keeps
// the host busy.
//
// Input: records of 8 bytes: operation, detail, 16-bit place, 32-bit value.
#include "devices/chipset/acpi_pm.h"
#include "devices/chipset/i8042.h"
#include "devices/chipset/misc_ports.h"
#include "devices/chipset/piix.h"
#include "devices/chipset/rtc.h"
#include "devices/chipset/uart16550.h"
#include <stdlib.h>
#include <string.h>

#define MAX_RECORDS 2000
#define MAX_TIMER_EVENTS 100000 // per second of VM time; the fastest is the RTC with 8192
#define BUSY_LIMIT_NS 1000000000u

struct board {
    struct clock_counted clock;
    struct timer_queue queue;
    struct memory *memory;
    struct rtc rtc;
    struct acpi_pm pm;
    struct i8042 kbc;
    struct uart16550 uart;
    struct misc_ports ports;
    struct pci_bus bus;
    struct piix piix;
    struct pci_device card;
    uint32_t card_register;
    uint64_t levels;
    bool a20;
    unsigned effects;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_line(void *opaque, int number, bool level)
{
    struct board *b = opaque;

    if (number < 0 || number > 19)
        abort();
    b->levels = (b->levels & ~(UINT64_C(1) << number)) | (uint64_t)level << number;
}

static struct irq_line line(struct board *b, int number)
{
    return (struct irq_line){.set = on_line, .opaque = b, .number = number};
}

static void on_effect(void *opaque)
{
    ((struct board *)opaque)->effects++;
}

static void on_bool(void *opaque, bool value)
{
    ((struct board *)opaque)->effects += value;
}

static void on_byte(void *opaque, uint8_t value)
{
    ((struct board *)opaque)->effects += value;
}

static void on_set_a20(void *opaque, bool enabled)
{
    ((struct board *)opaque)->a20 = enabled;
}

static bool on_a20(void *opaque)
{
    return ((struct board *)opaque)->a20;
}

static void on_transmit(void *opaque, const uint8_t *data, size_t length)
{
    if (length == 0)
        abort();
    ((struct board *)opaque)->effects += data[0];
}

static void on_room(void *opaque)
{
    static const uint8_t more[4] = {1, 2, 3, 4};

    uart16550_receive(&((struct board *)opaque)->uart, more, sizeof(more));
}

static uint64_t card_read(void *opaque, uint64_t offset, unsigned size)
{
    return ((struct board *)opaque)->card_register;
}

static void card_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct board *b = opaque;

    b->card_register = (uint32_t)value;
    pci_device_set_intx(&b->card, value & 1);
}

static const struct io_ops card_ops = {.read = card_read, .write = card_write, .max_size = 4};

static void add_pio(struct board *b, const struct io_region *region)
{
    if (memory_add_pio(b->memory, region, NULL))
        abort();
}

static void board_init_pci(struct board *b)
{
    struct pci_bus_config bus = {.memory = b->memory,
                                 .reset_control_read = reset_control_read,
                                 .reset_control_write = reset_control_write,
                                 .reset_control = &b->ports};
    struct piix_config piix = {.link_irq = {10, 10, 11, 11}, .memory = b->memory, .opaque = b};
    struct pci_bar_config bars[3] = {
        {.name = "io", .kind = PCI_BAR_IO, .size = 32, .ops = &card_ops, .opaque = b},
        {.name = "mem", .kind = PCI_BAR_MEM32, .size = 4096, .ops = &card_ops, .opaque = b},
        {.name = "mem64", .kind = PCI_BAR_MEM64, .size = 16384, .ops = &card_ops, .opaque = b},
    };
    struct io_region region;

    for (int i = 0; i < PCI_LINKS; i++)
        bus.links[i] = line(b, 16 + i);
    for (int i = 0; i < PIIX_ISA_IRQS; i++)
        piix.isa[i] = line(b, i);
    acpi_pm_region(&b->pm, 0x600, &piix.pm);
    pci_bus_init(&b->bus, &bus);
    pci_device_init(
        &b->card,
        &(struct pci_device_config){
            .name = "card", .vendor_id = 0x1234, .device_id = 1, .interrupt_pin = 2, .opaque = b});
    for (unsigned i = 0; i < 3; i++)
        if (pci_device_set_bar(&b->card, 2 * i, &bars[i], NULL))
            abort();
    pci_device_add_capability(&b->card, 9, 20);
    if (piix_init(&b->piix, &b->bus, &piix, NULL) ||
        pci_bus_add(&b->bus, &b->card, PCI_DEVFN(2, 0), NULL))
        abort();
    pci_bus_region(&b->bus, &region);
    add_pio(b, &region);
}

static void board_init(struct board *b)
{
    struct io_region region[2];

    memset(b, 0, sizeof(*b));
    clock_counted_init(&b->clock, 1700000000000000000u);
    timer_queue_init(&b->queue, &b->clock.clock);
    b->memory = memory_create(NULL);
    if (!b->memory || memory_add_ram(b->memory, "ram", 0, 0x10000, NULL))
        abort();
    rtc_init(&b->rtc,
             &(struct rtc_config){
                 .timers = &b->queue, .irq = line(b, 8), .nmi_mask = on_bool, .opaque = b});
    acpi_pm_init(&b->pm, &(struct acpi_pm_config){.timers = &b->queue,
                                                  .sci = line(b, 9),
                                                  .power_off = on_effect,
                                                  .sleep = on_effect,
                                                  .opaque = b});
    i8042_init(&b->kbc, &(struct i8042_config){.irq_keyboard = line(b, 1),
                                               .irq_mouse = line(b, 12),
                                               .set_a20 = on_set_a20,
                                               .a20 = on_a20,
                                               .reset = on_effect,
                                               .leds = on_byte,
                                               .opaque = b});
    uart16550_init(&b->uart, &(struct uart16550_config){.timers = &b->queue,
                                                        .irq = line(b, 4),
                                                        .transmit = on_transmit,
                                                        .room = on_room,
                                                        .opaque = b});
    misc_ports_init(&b->ports, &(struct misc_ports_config){.set_a20 = on_set_a20,
                                                           .a20 = on_a20,
                                                           .reset = on_bool,
                                                           .post = on_byte,
                                                           .debug = on_byte,
                                                           .opaque = b});
    rtc_region(&b->rtc, region);
    add_pio(b, region);
    acpi_pm_smi_region(&b->pm, region);
    add_pio(b, region);
    i8042_regions(&b->kbc, &region[0], &region[1]);
    add_pio(b, &region[0]);
    add_pio(b, &region[1]);
    uart16550_region(&b->uart, 0x3F8, "com1", region);
    add_pio(b, region);
    misc_ports_post_region(&b->ports, region);
    add_pio(b, region);
    misc_ports_control_a_region(&b->ports, region);
    add_pio(b, region);
    misc_ports_debug_region(&b->ports, region);
    add_pio(b, region);
    board_init_pci(b);
}

static void board_fini(struct board *b)
{
    uart16550_fini(&b->uart);
    acpi_pm_fini(&b->pm);
    rtc_fini(&b->rtc);
    memory_destroy(b->memory);
    timer_queue_destroy(&b->queue);
}

static void pass_time(struct board *b, uint64_t ns)
{
    uint64_t end = b->clock.ns + ns;
    unsigned events = 0;

    for (;;) {
        uint64_t next = timer_queue_next(&b->queue);
        if (next > end)
            break;
        if (next > b->clock.ns)
            clock_counted_advance(&b->clock, next - b->clock.ns);
        timer_queue_run(&b->queue);
        if (++events > MAX_TIMER_EVENTS && ns <= BUSY_LIMIT_NS)
            abort();
        if (events > MAX_TIMER_EVENTS)
            break;
    }
    if (end > b->clock.ns)
        clock_counted_advance(&b->clock, end - b->clock.ns);
}

// Mostly ports that somebody answers; sometimes anything.
static uint16_t choose_port(uint16_t place)
{
    static const uint16_t ports[] = {0x60,  0x64,  0x70,  0x71,  0x70,  0x71,  0x80,  0x92,
                                     0xB2,  0xB3,  0xE9,  0x3F8, 0x3F9, 0x3FA, 0x3FB, 0x3FC,
                                     0x3FD, 0x3FE, 0x3FF, 0x600, 0x602, 0x604, 0x608, 0x60C,
                                     0x60E, 0xCF8, 0xCF8, 0xCF9, 0xCFC, 0xCFC, 0xCFD, 0xCFE};
    unsigned choice = place >> 8;

    if (choice < 0xF0)
        return ports[choice % ARRAY_SIZE(ports)];
    return choice < 0xF8 ? (uint16_t)(ports[choice % ARRAY_SIZE(ports)] + (place & 7)) : place;
}

static void *object_of(struct board *b, unsigned which, const struct state_desc **desc)
{
    switch (which % 10) {
    case 0:
        *desc = &rtc_state;
        return &b->rtc;
    case 1:
        *desc = &acpi_pm_state;
        return &b->pm;
    case 2:
        *desc = &i8042_state;
        return &b->kbc;
    case 3:
        *desc = &uart16550_state;
        return &b->uart;
    case 4:
        *desc = &misc_ports_state;
        return &b->ports;
    case 5:
        *desc = &pci_bus_state;
        return &b->bus;
    case 6:
        *desc = &pci_device_state;
        return &b->piix.host;
    case 7:
        *desc = &pci_device_state;
        return &b->piix.isa;
    case 8:
        *desc = &pci_device_state;
        return &b->piix.pm;
    default:
        *desc = &pci_device_state;
        return &b->card;
    }
}

// Saves a device, damages a byte and loads it. A load that is refused would end a restore: the device is
// put back to what it was.
static void damage_state(struct board *b, uint8_t detail, uint16_t place, uint32_t value)
{
    const struct state_desc *desc;
    void *object = object_of(b, detail, &desc);
    struct state_buffer good = {0}, bad = {0};
    struct error err = {0};
    size_t offset = 0;

    if (state_save(&good, desc, object) || state_save(&bad, desc, object))
        abort();
    for (unsigned i = 0; i < 4; i++)
        bad.data[(place + i * 7) % bad.size] ^= (uint8_t)(value >> (8 * i));
    if (state_load(&bad, &offset, desc, object, &err)) {
        offset = 0;
        if (state_load(&good, &offset, desc, object, &err))
            abort();
    }
    state_buffer_free(&good);
    state_buffer_free(&bad);
}

static void reset_all(struct board *b)
{
    rtc_reset(&b->rtc);
    acpi_pm_reset(&b->pm);
    i8042_reset(&b->kbc);
    uart16550_reset(&b->uart);
    misc_ports_reset(&b->ports);
    pci_bus_reset(&b->bus);
}

static void outside_event(struct board *b, uint8_t detail, uint16_t place, uint32_t value)
{
    uint8_t bytes[16];

    switch (detail & 7) {
    case 0:
        memset(bytes, (int)value, sizeof(bytes));
        uart16550_receive(&b->uart, bytes, place % (sizeof(bytes) + 1));
        break;
    case 1:
        uart16550_receive_break(&b->uart);
        break;
    case 2:
        uart16550_set_modem(&b->uart, (uint8_t)value);
        break;
    case 3:
        i8042_key(&b->kbc, place, value & 1);
        break;
    case 4:
        i8042_mouse_move(&b->kbc, (int)value, (int)(value << 7), (int8_t)place, detail >> 4);
        break;
    case 5:
        acpi_pm_power_button(&b->pm);
        break;
    case 6:
        acpi_pm_gpe(&b->pm, place);
        break;
    default:
        pci_device_set_intx(&b->card, value & 1);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct board b;

    board_init(&b);
    for (unsigned n = 0; n < MAX_RECORDS && size >= 8; n++, data += 8, size -= 8) {
        uint8_t detail = data[1];
        uint16_t place;
        uint32_t value;
        unsigned width = 1u << (detail & 3);

        memcpy(&place, data + 2, 2);
        memcpy(&value, data + 4, 4);
        switch (data[0] & 15) {
        case 0:
        case 1:
        case 2:
            memory_pio_read(b.memory, choose_port(place), width > 4 ? 4 : width);
            break;
        case 8:
            memory_mmio_read(b.memory, value, width);
            break;
        case 9:
            memory_mmio_write(b.memory, value, value, width);
            break;
        case 10: // a configuration register of a device that exists
            memory_pio_write(b.memory, 0xCF8, 0x80000000u | (place & 0x1BFC), 4);
            memory_pio_write(b.memory, 0xCFC, value, 4);
            break;
        case 11:
            pass_time(&b, (uint64_t)value % 20000000);
            break;
        case 12:
            if (detail == 0)
                pass_time(&b, (uint64_t)value * 1000000); // up to 50 days
            else
                pass_time(&b, value % BUSY_LIMIT_NS);
            break;
        case 13:
            outside_event(&b, detail, place, value);
            break;
        case 14:
            damage_state(&b, detail, place, value);
            break;
        case 15:
            if (detail < 16)
                reset_all(&b);
            break;
        default:
            memory_pio_write(b.memory, choose_port(place), value, width > 4 ? 4 : width);
            break;
        }
    }
    board_fini(&b);
    return 0;
}
