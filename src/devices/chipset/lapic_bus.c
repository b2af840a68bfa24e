// SPDX-License-Identifier: Apache-2.0
// The bus between local APICs and I/O APICs: who is meant by a destination, who gets a message,
// IPIs and MSIs (SDM vol. 3, "Issuing Interprocessor Interrupts", "Determining IPI Destination").
#include "devices/chipset/lapic_private.h"
#include <stdlib.h>

#define ICR_DELIVERY(icr) ((icr) >> 8 & 7)
#define ICR_LOGICAL (1u << 11)
#define ICR_ASSERT (1u << 14)
#define ICR_LEVEL (1u << 15)
#define ICR_SHORTHAND(icr) ((icr) >> 18 & 3)

static bool is_broadcast(const struct lapic_message *message)
{
    return message->dest == (message->wide ? 0xffffffff : 0xff);
}

static bool matches_logical(const struct lapic *lapic, uint32_t dest)
{
    uint32_t id = lapic_logical_id(lapic);

    if (lapic_x2apic(lapic))
        return dest >> 16 == id >> 16 && dest & id & 0xffff;
    id >>= 24;
    if (dest > 0xff)
        return false;
    if (lapic->dfr >> 28 == 0) // cluster model; cluster 15 is everybody
        return (dest >> 4 == id >> 4 || dest >> 4 == 15) && dest & id & 15;
    return dest & id;
}

static bool matches(const struct lapic *lapic, const struct lapic_message *message)
{
    if (!lapic_enabled(lapic))
        return false;
    if (is_broadcast(message))
        return true;
    if (message->logical)
        return matches_logical(lapic, message->dest);
    return message->dest == (lapic_x2apic(lapic) ? lapic->id : lapic->xid);
}

// Hands a message to one LAPIC that it is meant for. Returns whether it was accepted.
static bool deliver_to(struct lapic *lapic, const struct lapic_message *message)
{
    const struct lapic_ops *ops = &lapic->bus->ops;
    void *opaque = lapic->bus->opaque;

    switch (message->delivery) {
    case LAPIC_FIXED:
    case LAPIC_LOWEST:
        return lapic_accept(lapic, message->vector, message->level);
    case LAPIC_SMI:
        lapic_smi(lapic);
        return true;
    case LAPIC_NMI:
        ops->nmi(opaque, lapic->cpu);
        return true;
    case LAPIC_INIT:
        lapic_reset_registers(lapic);
        ops->init(opaque, lapic->cpu);
        return true;
    case LAPIC_SIPI:
        ops->sipi(opaque, lapic->cpu, message->vector);
        return true;
    case LAPIC_EXTINT:
        lapic->extint = true;
        lapic_update(lapic);
        return true;
    default:
        return false;
    }
}

// Lowest-priority arbitration: the focus processor, else the lowest arbitration priority; the
// vector chooses among equals, so that different interrupts spread and each keeps its processor.
static struct lapic *arbitrate(struct lapic_bus *bus, const struct lapic_message *message)
{
    struct lapic *best = NULL;
    uint32_t lowest = UINT32_MAX;
    unsigned equals = 0, chosen;

    for (unsigned i = 0; i < bus->count; i++) {
        struct lapic *lapic = &bus->lapics[i];
        uint32_t priority;

        if (!lapic_software_enabled(lapic) || !matches(lapic, message))
            continue;
        if (!(lapic->svr & SVR_NO_FOCUS) &&
            (vector_test(lapic->irr, message->vector) || vector_test(lapic->isr, message->vector)))
            return lapic;
        priority = lapic_apr(lapic) >> 4;
        if (priority < lowest) {
            lowest = priority;
            equals = 0;
        }
        equals += priority == lowest;
    }
    if (!equals)
        return NULL;
    chosen = message->vector % equals;
    for (unsigned i = 0; i < bus->count && !best; i++) {
        struct lapic *lapic = &bus->lapics[i];

        if (lapic_software_enabled(lapic) && matches(lapic, message) &&
            lapic_apr(lapic) >> 4 == lowest && chosen-- == 0)
            best = lapic;
    }
    return best;
}

unsigned lapic_bus_deliver(struct lapic_bus *bus, const struct lapic_message *message)
{
    unsigned accepted = 0;

    if (message->delivery == LAPIC_LOWEST) {
        struct lapic *lapic = arbitrate(bus, message);

        return lapic && deliver_to(lapic, message);
    }
    for (unsigned i = 0; i < bus->count; i++)
        if (matches(&bus->lapics[i], message))
            accepted += deliver_to(&bus->lapics[i], message);
    return accepted;
}

unsigned lapic_bus_msi(struct lapic_bus *bus, uint64_t address, uint32_t data)
{
    struct lapic_message message = {
        .dest = (address >> 12 & 0xff) | (address >> 5 & 0x7f) << 8,
        .vector = data & 0xff,
        .delivery = data >> 8 & 7,
        .logical = address & 4,
        .level = data >> 15 & 1,
    };

    if ((address & ~UINT64_C(0xfffff)) != LAPIC_DEFAULT_BASE)
        return 0;
    return lapic_bus_deliver(bus, &message);
}

void lapic_send(struct lapic *lapic, uint32_t icr_low, uint32_t dest, bool wide)
{
    struct lapic_bus *bus = lapic->bus;
    struct lapic_message message = {
        .dest = dest,
        .vector = icr_low & 0xff,
        .delivery = ICR_DELIVERY(icr_low),
        .logical = icr_low & ICR_LOGICAL,
        .wide = wide,
    };
    bool vectored = message.delivery == LAPIC_FIXED || message.delivery == LAPIC_LOWEST;

    if (vectored && message.vector < 16) {
        lapic_error(lapic, ESR_SEND_ILLEGAL);
        return;
    }
    // INIT level de-assert only synchronised the arbitration of the discrete APIC. IPIs are always
    // edge-triggered otherwise.
    if (message.delivery == LAPIC_INIT && icr_low & ICR_LEVEL && !(icr_low & ICR_ASSERT))
        return;
    switch (ICR_SHORTHAND(icr_low)) {
    case 0:
        lapic_bus_deliver(bus, &message);
        break;
    case 1:
        if (lapic_enabled(lapic))
            deliver_to(lapic, &message);
        break;
    default:
        for (unsigned i = 0; i < bus->count; i++)
            if (lapic_enabled(&bus->lapics[i]) &&
                (ICR_SHORTHAND(icr_low) == 2 || &bus->lapics[i] != lapic))
                deliver_to(&bus->lapics[i], &message);
        break;
    }
}

void lapic_bus_lint(struct lapic_bus *bus, unsigned pin, bool level)
{
    for (unsigned i = 0; i < bus->count; i++)
        lapic_set_lint(&bus->lapics[i], pin, level);
}

static void lint0_set(void *opaque, int number, bool level)
{
    lapic_bus_lint(opaque, 0, level);
}

struct irq_line lapic_bus_lint0_line(struct lapic_bus *bus)
{
    return (struct irq_line){.set = lint0_set, .opaque = bus};
}

struct lapic *lapic_bus_get(struct lapic_bus *bus, unsigned cpu)
{
    return cpu < bus->count ? &bus->lapics[cpu] : NULL;
}

unsigned lapic_bus_count(const struct lapic_bus *bus)
{
    return bus->count;
}

void lapic_bus_region(struct lapic_bus *bus, struct io_region *region)
{
    *region = (struct io_region){"lapic", LAPIC_DEFAULT_BASE, LAPIC_WINDOW_SIZE, &lapic_window_ops,
                                 &bus->window};
}

void lapic_bus_reset(struct lapic_bus *bus)
{
    for (unsigned i = 0; i < bus->count; i++) {
        struct lapic *lapic = &bus->lapics[i];

        lapic->base = LAPIC_DEFAULT_BASE | APIC_BASE_EN | (i == 0 ? APIC_BASE_BSP : 0);
        lapic->xid = lapic->id & 0xff;
        lapic_window_update(lapic);
        lapic_reset_registers(lapic);
    }
}

struct lapic_bus *lapic_bus_create(const struct lapic_bus_config *config, struct error *err)
{
    struct lapic_bus *bus;

    if (config->cpu_count < 1 || config->cpu_count > LAPIC_MAX_CPUS) {
        error_set(err, ERROR_USAGE, "%u processors: between 1 and %d are possible",
                  config->cpu_count, LAPIC_MAX_CPUS);
        return NULL;
    }
    bus = calloc(1, sizeof(*bus));
    if (bus)
        bus->lapics = calloc(config->cpu_count, sizeof(*bus->lapics));
    if (!bus || !bus->lapics) {
        free(bus);
        error_set(err, ERROR_HOST, "out of memory for the local APICs");
        return NULL;
    }
    bus->count = config->cpu_count;
    bus->ops = config->ops;
    bus->opaque = config->opaque;
    bus->timers = config->timers;
    bus->tsc_hz = config->tsc_hz;
    bus->window = (struct lapic_window){.bus = bus, .base = LAPIC_DEFAULT_BASE, .mapped = true};
    for (unsigned i = 0; i < bus->count; i++) {
        struct lapic *lapic = &bus->lapics[i];

        lapic->bus = bus;
        lapic->cpu = i;
        lapic->id = config->apic_ids ? config->apic_ids[i] : i;
        lapic->window.bus = bus;
        timer_init(&lapic->timer, bus->timers, lapic_timer_fire, lapic);
    }
    lapic_bus_reset(bus);
    return bus;
}

void lapic_bus_destroy(struct lapic_bus *bus)
{
    if (!bus)
        return;
    for (unsigned i = 0; i < bus->count; i++)
        timer_fini(&bus->lapics[i].timer);
    free(bus->lapics);
    free(bus);
}
