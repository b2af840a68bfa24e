// SPDX-License-Identifier: Apache-2.0
// PCI: one bus with configuration mechanism 1 (ports CF8h to CFFh), and what every function on it shares:
// configuration space, base address registers, INTx (PCI Local Bus Specification 3.0, chapters 3 and 6).
//
// A device embeds struct pci_device: pci_device_init(), pci_device_set_bar() for each BAR, then
// pci_bus_add(). BARs appear in the address space while the command register enables decoding and the
// guest's address is usable; a BAR that collides with something waits until the other goes away.
//
// Rules to keep: every call with the board lock held; a device changes its own configuration bytes only
// through the functions here or in a config_written callback; INTx goes to one of four links as ACPI's
// pci_link() says.
#pragma once

#include "base/error.h"
#include "base/state.h"
#include "devices/irq.h"
#include "memory/memory.h"

#define PCI_BARS 6
#define PCI_LINKS 4
#define PCI_FUNCTIONS 256 // 32 slots of 8
#define PCI_CONFIG_SIZE 256
#define PCI_DEVFN(slot, function) ((uint8_t)((slot) << 3 | (function)))

#define PCI_VENDOR_ID 0x00
#define PCI_DEVICE_ID 0x02
#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_REVISION 0x08
#define PCI_HEADER_TYPE 0x0E
#define PCI_BAR0 0x10
#define PCI_SUBSYSTEM_VENDOR_ID 0x2C
#define PCI_SUBSYSTEM_ID 0x2E
#define PCI_CAPABILITIES 0x34
#define PCI_INTERRUPT_LINE 0x3C
#define PCI_INTERRUPT_PIN 0x3D
#define PCI_DEVICE_AREA 0x40 // the first byte after the header

#define PCI_COMMAND_IO 0x0001
#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_MASTER 0x0004
#define PCI_COMMAND_INTX_OFF 0x0400

struct pci_device;
struct pci_bus;

enum pci_bar_kind {
    PCI_BAR_NONE,
    PCI_BAR_IO,
    PCI_BAR_MEM32,
    PCI_BAR_MEM64
};

struct pci_bar_config {
    const char *name;
    enum pci_bar_kind kind; // MEM64 takes the next BAR, too
    bool prefetchable;
    uint64_t size; // a power of two, at least 4 (I/O: at most 256) or 16
    const struct io_ops *ops;
    void *opaque;
};

struct pci_bar {
    struct pci_bar_config config;
    bool mapped;
    uint64_t base; // where it is mapped
};

struct pci_device_config {
    const char *name;
    uint16_t vendor_id, device_id;
    uint16_t subsystem_vendor_id, subsystem_id;
    uint32_t class_code; // 24 bits: class, subclass, interface
    uint8_t revision;
    uint8_t interrupt_pin; // 1 to 4: INTA# to INTD#; 0: none
    // The guest wrote these bytes of configuration space (already stored as far as they are writable).
    void (*config_written)(struct pci_device *device, unsigned offset, unsigned size);
    // The bus was reset; configuration space is at its reset values already.
    void (*reset)(struct pci_device *device);
    void *opaque;
};

struct pci_device {
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t intx; // what the device asks for, before the command register's mask
    uint8_t devfn;
    uint8_t next_capability; // free configuration space
    uint8_t writable[PCI_CONFIG_SIZE];
    uint8_t clearable[PCI_CONFIG_SIZE]; // written as 1 to clear
    uint8_t initial[PCI_CONFIG_SIZE];   // values after reset
    struct pci_bar bars[PCI_BARS];
    struct pci_bus *bus;
    struct pci_device_config info;
};

struct pci_bus_config {
    struct memory *memory;            // where BARs are mapped
    struct irq_line links[PCI_LINKS]; // to the I/O APIC
    // Byte accesses to CF9h; may be NULL.
    uint8_t (*reset_control_read)(void *opaque);
    void (*reset_control_write)(void *opaque, uint8_t value);
    void *reset_control;
};

struct pci_bus {
    uint32_t address;    // port CF8h
    uint8_t link_levels; // bit per link
    // Whoever also wants the links (the ISA bridge's interrupt router).
    void (*links_changed)(void *opaque, uint8_t levels);
    void *links_opaque;
    struct pci_device *devices[PCI_FUNCTIONS];
    struct pci_bus_config config;
};

extern const struct state_desc pci_bus_state, pci_device_state;

void pci_bus_init(struct pci_bus *bus, const struct pci_bus_config *config);
void pci_bus_reset(struct pci_bus *bus); // resets every device on it
void pci_bus_region(struct pci_bus *bus, struct io_region *region);
// Plugs an initialised device in. -1 with err set when the place is taken.
int pci_bus_add(struct pci_bus *bus, struct pci_device *device, uint8_t devfn, struct error *err);
void pci_bus_remove(struct pci_bus *bus, struct pci_device *device);

void pci_device_init(struct pci_device *device, const struct pci_device_config *config);
// -1 with err set when the size or the index cannot be.
int pci_device_set_bar(struct pci_device *device, unsigned index,
                       const struct pci_bar_config *config, struct error *err);
// Room for a capability of `size` bytes including its two header bytes, linked into the list; returns its
// offset, or 0 when configuration space is full. The content is the caller's to set.
uint8_t pci_device_add_capability(struct pci_device *device, uint8_t id, uint8_t size);
// Sets a field's value after reset and which of its bits the guest may write. size 1, 2 or 4.
void pci_device_set_config(struct pci_device *device, uint8_t offset, unsigned size, uint32_t value,
                           uint32_t writable);
uint32_t pci_device_get_config(const struct pci_device *device, uint8_t offset, unsigned size);
void pci_device_set_intx(struct pci_device *device, bool level);
bool pci_device_is_master(const struct pci_device *device); // may it read and write RAM?

// Configuration access by register (0 to FFh), as the ports do it; size 1, 2 or 4, not across a dword.
uint32_t pci_config_read(struct pci_bus *bus, uint8_t devfn, uint8_t reg, unsigned size);
void pci_config_write(struct pci_bus *bus, uint8_t devfn, uint8_t reg, uint32_t value,
                      unsigned size);
// The link (0 to 3) that pin 1 to 4 of a slot is wired to, as on PIIX boards. ACPI's _PRT says the same.
static inline unsigned pci_link(uint8_t devfn, uint8_t pin)
{
    return ((devfn >> 3) + (pin - 1u) + 3) & 3;
}
