// SPDX-License-Identifier: Apache-2.0
#include "devices/chipset/pci.h"
#include <string.h>

#define ADDRESS_ENABLE 0x80000000u
#define ADDRESS_STORED 0x80FFFFFCu
#define ADDRESS_BUS(a) ((a) >> 16 & 0xFF)
#define ADDRESS_DEVFN(a) ((a) >> 8 & 0xFF)

#define COMMAND_WRITABLE 0x0547 // I/O, memory, master, parity, SERR, INTx off
#define STATUS_INTERRUPT 0x08
#define STATUS_CAPABILITIES 0x10
#define STATUS_CLEARABLE 0xF9 // in its high byte: the error bits

#define BAR_IO 0x01
#define BAR_64 0x04
#define BAR_PREFETCH 0x08
#define HEADER_MULTIFUNCTION 0x80
#define CACHE_LINE_SIZE 0x0C
#define LATENCY 0x0D

#define IO_SPACE_END 0x10000

static uint32_t all_ones(unsigned size)
{
    return size >= 4 ? UINT32_MAX : (1u << (8 * size)) - 1;
}

static uint32_t get_bytes(const uint8_t *p, unsigned size)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)p[i] << (8 * i);
    return value;
}

static void put_bytes(uint8_t *p, unsigned size, uint32_t value)
{
    for (unsigned i = 0; i < size; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

static unsigned command(const struct pci_device *device)
{
    return get_bytes(&device->config[PCI_COMMAND], 2);
}

// --- Base addresses -------------------------------------------------------------------------------

// Where the guest wants the BAR; false when it is not decoded or the address cannot be.
static bool bar_wanted(const struct pci_device *device, unsigned index, uint64_t *base)
{
    const struct pci_bar *bar = &device->bars[index];
    uint64_t value = get_bytes(&device->config[PCI_BAR0 + 4 * index], 4);
    uint64_t limit = UINT32_MAX;

    switch (bar->config.kind) {
    case PCI_BAR_IO:
        if (!(command(device) & PCI_COMMAND_IO))
            return false;
        limit = IO_SPACE_END - 1;
        break;
    case PCI_BAR_MEM64:
        value |= (uint64_t)get_bytes(&device->config[PCI_BAR0 + 4 * (index + 1)], 4) << 32;
        limit = UINT64_MAX;
        // fall through
    case PCI_BAR_MEM32:
        if (!(command(device) & PCI_COMMAND_MEMORY))
            return false;
        break;
    default:
        return false;
    }
    *base = value & ~(bar->config.size - 1);
    // Zero means "not assigned yet"; the top of the space is what sizing leaves there.
    return *base != 0 && *base < limit && limit - *base > bar->config.size - 1;
}

static void bar_unmap(struct pci_device *device, struct pci_bar *bar)
{
    if (!bar->mapped)
        return;
    if (bar->config.kind == PCI_BAR_IO)
        memory_remove_pio(device->bus->config.memory, bar->base, bar->config.opaque);
    else
        memory_remove_mmio(device->bus->config.memory, bar->base, bar->config.opaque);
    bar->mapped = false;
}

static void bar_map(struct pci_device *device, struct pci_bar *bar, uint64_t base)
{
    struct io_region region = {.name = bar->config.name,
                               .base = base,
                               .size = bar->config.size,
                               .ops = bar->config.ops,
                               .opaque = bar->config.opaque};
    struct memory *memory = device->bus->config.memory;

    bar->mapped = (bar->config.kind == PCI_BAR_IO ? memory_add_pio(memory, &region, NULL)
                                                  : memory_add_mmio(memory, &region, NULL)) == 0;
    bar->base = base;
}

// Brings the address space in line with all BARs: first everything goes that must, then comes what can.
static void update_mappings(struct pci_bus *bus)
{
    uint64_t base;

    if (!bus->config.memory)
        return;
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < PCI_FUNCTIONS; i++) {
            struct pci_device *device = bus->devices[i];
            for (unsigned b = 0; device && b < PCI_BARS; b++) {
                struct pci_bar *bar = &device->bars[b];
                bool wanted = bar_wanted(device, b, &base);
                if (pass == 0 && bar->mapped && (!wanted || base != bar->base))
                    bar_unmap(device, bar);
                else if (pass == 1 && wanted && !bar->mapped)
                    bar_map(device, bar, base);
            }
        }
    }
}

// --- Interrupts -----------------------------------------------------------------------------------

static void update_links(struct pci_bus *bus)
{
    uint8_t levels = 0;

    for (unsigned i = 0; i < PCI_FUNCTIONS; i++) {
        struct pci_device *device = bus->devices[i];
        if (device && device->intx && device->info.interrupt_pin &&
            !(command(device) & PCI_COMMAND_INTX_OFF))
            levels |= (uint8_t)(1u << pci_link(device->devfn, device->info.interrupt_pin));
    }
    bus->link_levels = levels;
    for (unsigned link = 0; link < PCI_LINKS; link++)
        irq_set(&bus->config.links[link], levels >> link & 1);
    if (bus->links_changed)
        bus->links_changed(bus->links_opaque, levels);
}

void pci_device_set_intx(struct pci_device *device, bool level)
{
    if (device->intx == level)
        return;
    device->intx = level;
    if (level)
        device->config[PCI_STATUS] |= STATUS_INTERRUPT;
    else
        device->config[PCI_STATUS] &= ~STATUS_INTERRUPT;
    if (device->bus)
        update_links(device->bus);
}

bool pci_device_is_master(const struct pci_device *device)
{
    return command(device) & PCI_COMMAND_MASTER;
}

// --- Configuration space --------------------------------------------------------------------------

uint32_t pci_config_read(struct pci_bus *bus, uint8_t devfn, uint8_t reg, unsigned size)
{
    const struct pci_device *device = bus->devices[devfn];

    if (!device || reg + size > PCI_CONFIG_SIZE)
        return all_ones(size);
    return get_bytes(&device->config[reg], size);
}

static bool touches(unsigned offset, unsigned size, unsigned field, unsigned field_size)
{
    return offset < field + field_size && field < offset + size;
}

void pci_config_write(struct pci_bus *bus, uint8_t devfn, uint8_t reg, uint32_t value,
                      unsigned size)
{
    struct pci_device *device = bus->devices[devfn];

    if (!device || reg + size > PCI_CONFIG_SIZE)
        return;
    for (unsigned i = 0; i < size; i++) {
        unsigned at = reg + i;
        uint8_t byte = (uint8_t)(value >> (8 * i)), mask = device->writable[at];
        uint8_t kept = device->config[at] & ~mask & ~(byte & device->clearable[at]);
        device->config[at] = kept | (byte & mask);
    }
    if (touches(reg, size, PCI_COMMAND, 2) || touches(reg, size, PCI_BAR0, 4 * PCI_BARS))
        update_mappings(bus);
    if (touches(reg, size, PCI_COMMAND, 2))
        update_links(bus);
    if (device->info.config_written)
        device->info.config_written(device, reg, size);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = opaque;

    if (offset == 0 && size == 4)
        return bus->address;
    if (offset == 1 && size == 1 && bus->config.reset_control_read)
        return bus->config.reset_control_read(bus->config.reset_control);
    if (offset < 4 || !(bus->address & ADDRESS_ENABLE) || ADDRESS_BUS(bus->address) != 0)
        return all_ones(size);
    return pci_config_read(bus, ADDRESS_DEVFN(bus->address),
                           (uint8_t)((bus->address & 0xFC) + (offset & 3)), size);
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_bus *bus = opaque;

    if (offset == 0 && size == 4)
        bus->address = (uint32_t)value & ADDRESS_STORED;
    else if (offset == 1 && size == 1 && bus->config.reset_control_write)
        bus->config.reset_control_write(bus->config.reset_control, (uint8_t)value);
    else if (offset >= 4 && (bus->address & ADDRESS_ENABLE) && ADDRESS_BUS(bus->address) == 0)
        pci_config_write(bus, ADDRESS_DEVFN(bus->address),
                         (uint8_t)((bus->address & 0xFC) + (offset & 3)), (uint32_t)value, size);
}

static const struct io_ops port_ops = {
    .read = port_read, .write = port_write, .min_size = 1, .max_size = 4};

void pci_bus_region(struct pci_bus *bus, struct io_region *region)
{
    *region = (struct io_region){
        .name = "pci-config", .base = 0xCF8, .size = 8, .ops = &port_ops, .opaque = bus};
}

// --- Building -------------------------------------------------------------------------------------

void pci_bus_init(struct pci_bus *bus, const struct pci_bus_config *config)
{
    *bus = (struct pci_bus){.config = *config};
}

void pci_bus_reset(struct pci_bus *bus)
{
    bus->address = 0;
    for (unsigned i = 0; i < PCI_FUNCTIONS; i++) {
        struct pci_device *device = bus->devices[i];
        if (device) {
            memcpy(device->config, device->initial, PCI_CONFIG_SIZE);
            device->intx = 0;
        }
    }
    update_mappings(bus);
    update_links(bus);
    for (unsigned i = 0; i < PCI_FUNCTIONS; i++) {
        struct pci_device *device = bus->devices[i];
        if (device && device->info.reset)
            device->info.reset(device);
    }
}

static void mark_multifunction(struct pci_bus *bus, unsigned slot)
{
    struct pci_device *first = bus->devices[slot << 3];
    bool more = false;

    if (!first)
        return;
    for (unsigned function = 1; function < 8; function++)
        more = more || bus->devices[slot << 3 | function];
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *header = &(i ? first->initial : first->config)[PCI_HEADER_TYPE];
        *header = (uint8_t)((*header & ~HEADER_MULTIFUNCTION) | (more ? HEADER_MULTIFUNCTION : 0));
    }
}

int pci_bus_add(struct pci_bus *bus, struct pci_device *device, uint8_t devfn, struct error *err)
{
    if (bus->devices[devfn])
        return error_set(err, ERROR_USAGE, "PCI device '%s': 00:%02x.%x is taken by '%s'",
                         device->info.name, devfn >> 3, devfn & 7, bus->devices[devfn]->info.name);
    bus->devices[devfn] = device;
    device->bus = bus;
    device->devfn = devfn;
    mark_multifunction(bus, devfn >> 3);
    update_mappings(bus);
    update_links(bus);
    return 0;
}

void pci_bus_remove(struct pci_bus *bus, struct pci_device *device)
{
    if (device->bus != bus)
        return;
    for (unsigned b = 0; b < PCI_BARS; b++)
        bar_unmap(device, &device->bars[b]);
    bus->devices[device->devfn] = NULL;
    device->bus = NULL;
    mark_multifunction(bus, device->devfn >> 3);
    update_mappings(bus);
    update_links(bus);
}

void pci_device_set_config(struct pci_device *device, uint8_t offset, unsigned size, uint32_t value,
                           uint32_t writable)
{
    if (offset + size > PCI_CONFIG_SIZE)
        return;
    put_bytes(&device->config[offset], size, value);
    put_bytes(&device->initial[offset], size, value);
    put_bytes(&device->writable[offset], size, writable);
}

uint32_t pci_device_get_config(const struct pci_device *device, uint8_t offset, unsigned size)
{
    return offset + size > PCI_CONFIG_SIZE ? 0 : get_bytes(&device->config[offset], size);
}

void pci_device_init(struct pci_device *device, const struct pci_device_config *config)
{
    *device = (struct pci_device){.info = *config, .next_capability = PCI_DEVICE_AREA};
    pci_device_set_config(device, PCI_VENDOR_ID, 2, config->vendor_id, 0);
    pci_device_set_config(device, PCI_DEVICE_ID, 2, config->device_id, 0);
    pci_device_set_config(device, PCI_COMMAND, 2, 0, COMMAND_WRITABLE);
    pci_device_set_config(device, PCI_REVISION, 4, config->class_code << 8 | config->revision, 0);
    pci_device_set_config(device, CACHE_LINE_SIZE, 1, 0, 0xFF);
    pci_device_set_config(device, LATENCY, 1, 0, 0xFF);
    pci_device_set_config(device, PCI_SUBSYSTEM_VENDOR_ID, 2, config->subsystem_vendor_id, 0);
    pci_device_set_config(device, PCI_SUBSYSTEM_ID, 2, config->subsystem_id, 0);
    pci_device_set_config(device, PCI_INTERRUPT_LINE, 1, 0, 0xFF);
    pci_device_set_config(device, PCI_INTERRUPT_PIN, 1, config->interrupt_pin, 0);
    device->clearable[PCI_STATUS + 1] = STATUS_CLEARABLE;
}

int pci_device_set_bar(struct pci_device *device, unsigned index,
                       const struct pci_bar_config *config, struct error *err)
{
    bool io = config->kind == PCI_BAR_IO, wide = config->kind == PCI_BAR_MEM64;
    uint64_t mask = ~(config->size - 1);
    uint64_t limit = io ? 256 : wide ? UINT64_C(1) << 62 : UINT64_C(1) << 31;

    if (index >= PCI_BARS || (wide && index + 1 >= PCI_BARS) || config->kind == PCI_BAR_NONE ||
        (config->size & (config->size - 1)) || config->size < (io ? 4 : 16) || config->size > limit)
        return error_set(err, ERROR_USAGE, "PCI device '%s': BAR %u cannot have %llu bytes",
                         device->info.name, index, (unsigned long long)config->size);
    device->bars[index] = (struct pci_bar){.config = *config};
    pci_device_set_config(device, (uint8_t)(PCI_BAR0 + 4 * index), 4,
                          (io ? BAR_IO : 0) | (wide ? BAR_64 : 0) |
                              (config->prefetchable ? BAR_PREFETCH : 0),
                          (uint32_t)mask);
    if (wide)
        pci_device_set_config(device, (uint8_t)(PCI_BAR0 + 4 * (index + 1)), 4, 0,
                              (uint32_t)(mask >> 32));
    return 0;
}

uint8_t pci_device_add_capability(struct pci_device *device, uint8_t id, uint8_t size)
{
    unsigned at = device->next_capability;
    uint8_t link = device->config[PCI_CAPABILITIES];

    if (size < 2 || at == 0 || at + size > PCI_CONFIG_SIZE)
        return 0;
    pci_device_set_config(device, (uint8_t)at, 1, id, 0);
    pci_device_set_config(device, (uint8_t)(at + 1), 1, link, 0);
    pci_device_set_config(device, PCI_CAPABILITIES, 1, at, 0);
    device->config[PCI_STATUS] |= STATUS_CAPABILITIES;
    device->initial[PCI_STATUS] |= STATUS_CAPABILITIES;
    device->next_capability = (uint8_t)((at + size + 3) & ~3u); // 0 when full
    return (uint8_t)at;
}

// --- Saved state ----------------------------------------------------------------------------------

static int device_post_load(void *object, struct error *err)
{
    struct pci_device *device = object;

    if (device->intx > 1)
        return error_set(err, ERROR_INPUT, "pci device '%s': interrupt level out of range",
                         device->info.name);
    if (get_bytes(device->config, 4) != get_bytes(device->initial, 4))
        return error_set(err, ERROR_INPUT, "pci device '%s': the saved device is another one",
                         device->info.name);
    // Read-only bits are this device's own, whatever was saved.
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t mask = device->writable[i] | device->clearable[i];
        device->config[i] = (device->initial[i] & ~mask) | (device->config[i] & mask);
    }
    if (device->intx)
        device->config[PCI_STATUS] |= STATUS_INTERRUPT;
    if (device->bus) {
        update_mappings(device->bus);
        update_links(device->bus);
    }
    if (device->info.config_written)
        device->info.config_written(device, PCI_DEVICE_AREA, PCI_CONFIG_SIZE - PCI_DEVICE_AREA);
    return 0;
}

static const struct state_field device_fields[] = {
    STATE_ARRAY(struct pci_device, config, uint8_t),
    STATE_FIELD(struct pci_device, intx),
    STATE_TRANSIENT(struct pci_device, devfn),
    STATE_TRANSIENT(struct pci_device, next_capability),
    STATE_TRANSIENT(struct pci_device, writable),
    STATE_TRANSIENT(struct pci_device, clearable),
    STATE_TRANSIENT(struct pci_device, initial),
    STATE_TRANSIENT(struct pci_device, bars),
    STATE_TRANSIENT(struct pci_device, bus),
    STATE_TRANSIENT(struct pci_device, info),
    STATE_END};

const struct state_desc pci_device_state = {.name = "pci_device",
                                            .version = 1,
                                            .size = sizeof(struct pci_device),
                                            .fields = device_fields,
                                            .post_load = device_post_load};

static int bus_post_load(void *object, struct error *err)
{
    struct pci_bus *bus = object;

    if (bus->address & ~ADDRESS_STORED)
        return error_set(err, ERROR_INPUT, "pci_bus: the address register has reserved bits set");
    return 0;
}

static const struct state_field bus_fields[] = {
    STATE_FIELD(struct pci_bus, address),
    STATE_TRANSIENT(struct pci_bus, link_levels), // from the devices
    STATE_TRANSIENT(struct pci_bus, links_changed),
    STATE_TRANSIENT(struct pci_bus, links_opaque),
    STATE_TRANSIENT(struct pci_bus, devices),
    STATE_TRANSIENT(struct pci_bus, config),
    STATE_END};

const struct state_desc pci_bus_state = {.name = "pci_bus",
                                         .version = 1,
                                         .size = sizeof(struct pci_bus),
                                         .fields = bus_fields,
                                         .post_load = bus_post_load};
