// SPDX-License-Identifier: Apache-2.0
// The I/O APIC: see ioapic.h.
#include "devices/chipset/ioapic.h"

#include <stdlib.h>

#define VERSION 0x20u

// Memory-mapped registers.
#define IOREGSEL 0x00
#define IOWIN 0x10
#define IOEOI 0x40

// Registers behind IOREGSEL/IOWIN.
#define REG_ID 0x00
#define REG_VERSION 0x01
#define REG_ARBITRATION 0x02
#define REG_REDIRECTION 0x10

// Redirection entry.
#define ENTRY_VECTOR(e) ((uint8_t)((e)&0xff))
#define ENTRY_DELIVERY(e) ((uint8_t)((e) >> 8 & 7))
#define ENTRY_LOGICAL (UINT64_C(1) << 11)
#define ENTRY_PENDING (UINT64_C(1) << 12) // delivery status; computed
#define ENTRY_REMOTE_IRR (UINT64_C(1) << 14)
#define ENTRY_LEVEL (UINT64_C(1) << 15)
#define ENTRY_MASKED (UINT64_C(1) << 16)
// Destination (8 bits) and everything that is neither reserved nor read-only (bits 12 and 14).
#define ENTRY_WRITABLE UINT64_C(0xff0000000001afff)

// Sends the message of a pin. Returns how many LAPICs accepted it.
static unsigned pin_send(struct ioapic *ioapic, unsigned pin)
{
    uint64_t entry = ioapic->redirection[pin];
    uint8_t delivery = ENTRY_DELIVERY(entry);
    struct lapic_message message = {
        .dest = entry >> 56,
        .vector = ENTRY_VECTOR(entry),
        .delivery = delivery,
        .logical = entry & ENTRY_LOGICAL,
        .level = entry & ENTRY_LEVEL && (delivery == LAPIC_FIXED || delivery == LAPIC_LOWEST),
    };

    // A start-up IPI is not for an I/O APIC to send.
    if (delivery == LAPIC_SIPI)
        return 0;
    return lapic_bus_deliver(ioapic->bus, &message);
}

// A level-triggered pin: one message, then none until its EOI.
static void pin_service_level(struct ioapic *ioapic, unsigned pin)
{
    uint64_t *entry = &ioapic->redirection[pin];

    if (!(ioapic->lines >> pin & 1) || !(*entry & ENTRY_LEVEL) ||
        *entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR))
        return;
    if (ENTRY_DELIVERY(*entry) == LAPIC_FIXED || ENTRY_DELIVERY(*entry) == LAPIC_LOWEST) {
        // Set before sending, so that nothing which happens meanwhile sends a second time. A
        // message that nobody took is tried again at the pin's next event, and when a local APIC may
        // take it (ioapic_retry): remote IRR is set "when local APIC(s) accept the level interrupt"
        // (82093AA, 3.2.4), and until then the delivery status says "send pending".
        *entry |= ENTRY_REMOTE_IRR;
        if (!pin_send(ioapic, pin))
            *entry &= ~ENTRY_REMOTE_IRR;
    }
}

void ioapic_input(struct ioapic *ioapic, int pin, bool level)
{
    uint32_t bit;
    uint64_t entry;
    bool rise;

    if (pin < 0 || pin >= IOAPIC_PINS)
        return;
    bit = 1u << pin;
    rise = level && !(ioapic->lines & bit);
    ioapic->lines = level ? ioapic->lines | bit : ioapic->lines & ~bit;
    entry = ioapic->redirection[pin];
    // Modes other than fixed and lowest priority are edges whatever the trigger bit says.
    if (entry & ENTRY_LEVEL && ENTRY_DELIVERY(entry) <= LAPIC_LOWEST)
        pin_service_level(ioapic, pin);
    else if (rise && !(entry & ENTRY_MASKED))
        pin_send(ioapic, pin);
}

static void line_set(void *opaque, int number, bool level)
{
    ioapic_input(opaque, number, level);
}

struct irq_line ioapic_line(struct ioapic *ioapic, int pin)
{
    return (struct irq_line){.set = line_set, .opaque = ioapic, .number = pin};
}

void ioapic_eoi(struct ioapic *ioapic, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *entry = &ioapic->redirection[pin];

        if (ENTRY_VECTOR(*entry) != vector || !(*entry & ENTRY_REMOTE_IRR))
            continue;
        *entry &= ~ENTRY_REMOTE_IRR;
        pin_service_level(ioapic, pin);
    }
}

void ioapic_retry(struct ioapic *ioapic)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        pin_service_level(ioapic, pin);
}

// A level's message that no local APIC has taken.
static bool send_pending(const struct ioapic *ioapic, unsigned pin)
{
    uint64_t entry = ioapic->redirection[pin];

    return ioapic->lines >> pin & 1 && entry & ENTRY_LEVEL &&
           !(entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR)) && ENTRY_DELIVERY(entry) <= LAPIC_LOWEST;
}

static uint32_t reg_read(const struct ioapic *ioapic, uint8_t reg)
{
    unsigned pin = (reg - REG_REDIRECTION) / 2u;
    uint64_t entry;

    switch (reg) {
    case REG_ID:
    case REG_ARBITRATION:
        return (uint32_t)ioapic->id << 24;
    case REG_VERSION:
        return VERSION | (IOAPIC_PINS - 1) << 16;
    default:
        if (reg < REG_REDIRECTION || pin >= IOAPIC_PINS)
            return 0;
        entry = ioapic->redirection[pin] | (send_pending(ioapic, pin) ? ENTRY_PENDING : 0);
        return entry >> (reg & 1 ? 32 : 0);
    }
}

static void entry_write(struct ioapic *ioapic, unsigned pin, bool high, uint32_t value)
{
    uint64_t *entry = &ioapic->redirection[pin];
    uint64_t merged =
        high ? (*entry & 0xffffffff) | (uint64_t)value << 32 : (*entry & ~0xffffffffull) | value;

    *entry = (merged & ENTRY_WRITABLE) | (*entry & ENTRY_REMOTE_IRR);
    // Changing a pin to edge-triggered clears its remote IRR: the known way to force an EOI on an
    // I/O APIC that has no EOI register.
    if (!(*entry & ENTRY_LEVEL))
        *entry &= ~ENTRY_REMOTE_IRR;
    pin_service_level(ioapic, pin);
}

static void reg_write(struct ioapic *ioapic, uint8_t reg, uint32_t value)
{
    unsigned pin = (reg - REG_REDIRECTION) / 2u;

    if (reg == REG_ID)
        ioapic->id = value >> 24 & 15;
    else if (reg >= REG_REDIRECTION && pin < IOAPIC_PINS)
        entry_write(ioapic, pin, reg & 1, value);
}

// The registers are 32 bits wide; a narrower read gives its part, a narrower write counts as the
// whole register (only the low byte of IOREGSEL and of the EOI register matters).
static uint64_t ioapic_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ioapic *ioapic = opaque;
    uint32_t value = 0;

    if ((offset & ~UINT64_C(3)) == IOREGSEL)
        value = ioapic->select;
    else if ((offset & ~UINT64_C(3)) == IOWIN)
        value = reg_read(ioapic, ioapic->select);
    return value >> (offset & 3) * 8;
}

static void ioapic_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct ioapic *ioapic = opaque;

    switch (offset) {
    case IOREGSEL:
        ioapic->select = value;
        break;
    case IOWIN:
        if (size == 4)
            reg_write(ioapic, ioapic->select, value);
        break;
    case IOEOI:
        ioapic_eoi(ioapic, value);
        break;
    default:
        break;
    }
}

static const struct io_ops ioapic_ops = {.read = ioapic_read, .write = ioapic_write, .max_size = 4};

void ioapic_region(struct ioapic *ioapic, struct io_region *region)
{
    *region =
        (struct io_region){"ioapic", IOAPIC_DEFAULT_BASE, IOAPIC_WINDOW_SIZE, &ioapic_ops, ioapic};
}

void ioapic_reset(struct ioapic *ioapic)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        ioapic->redirection[pin] = ENTRY_MASKED;
    ioapic->select = 0;
}

struct ioapic *ioapic_create(const struct ioapic_config *config, struct error *err)
{
    struct ioapic *ioapic = calloc(1, sizeof(*ioapic));

    if (!ioapic) {
        error_set(err, ERROR_HOST, "out of memory for the I/O APIC");
        return NULL;
    }
    ioapic->bus = config->bus;
    ioapic->id = config->id & 15;
    ioapic_reset(ioapic);
    return ioapic;
}

void ioapic_destroy(struct ioapic *ioapic)
{
    free(ioapic);
}

static int ioapic_post_load(void *object, struct error *err)
{
    struct ioapic *ioapic = object;

    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        if (ioapic->redirection[pin] & ~(ENTRY_WRITABLE | ENTRY_REMOTE_IRR))
            return error_set(err, ERROR_INPUT, "ioapic: pin %u has reserved bits set", pin);
    ioapic->lines &= (1u << IOAPIC_PINS) - 1;
    ioapic->id &= 15;
    return 0;
}

static const struct state_field ioapic_fields[] = {
    STATE_ARRAY(struct ioapic, redirection, uint64_t),
    STATE_FIELD(struct ioapic, lines),
    STATE_FIELD(struct ioapic, select),
    STATE_FIELD(struct ioapic, id),
    STATE_TRANSIENT(struct ioapic, bus),
    STATE_END,
};

const struct state_desc ioapic_state = {
    .name = "ioapic",
    .version = 1,
    .size = sizeof(struct ioapic),
    .fields = ioapic_fields,
    .post_load = ioapic_post_load,
};
