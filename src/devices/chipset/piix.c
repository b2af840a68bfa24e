// SPDX-License-Identifier: Apache-2.0
#include "devices/chipset/piix.h"

#define INTEL 0x8086
#define PIRQRC 0x60
#define PIRQRC_DISABLED 0x80
#define PMBA 0x40
#define PMBA_MASK 0xFFC0
#define PMREGMISC 0x80
#define PMREGMISC_ENABLE 0x01
#define VALID_IRQS 0xDEF8 // not 0, 1, 2, 8 and 13

// --- ISA bridge -----------------------------------------------------------------------------------

// An ISA interrupt is high while any link routed to it is. Interrupts that no link was ever routed to
// are never touched: they belong to ISA devices.
static void route_links(void *opaque, uint8_t levels)
{
    struct piix *piix = opaque;
    uint16_t high = 0;

    for (unsigned link = 0; link < PCI_LINKS; link++) {
        uint8_t route = piix->isa.config[PIRQRC + link];
        if (!(route & PIRQRC_DISABLED) && (VALID_IRQS >> (route & 15) & 1) && (levels >> link & 1))
            high |= (uint16_t)(1u << (route & 15));
    }
    uint16_t changed = high ^ piix->isa_levels;
    piix->isa_levels = high;
    for (unsigned irq = 0; irq < PIIX_ISA_IRQS; irq++)
        if (changed >> irq & 1)
            irq_set(&piix->config.isa[irq], high >> irq & 1);
}

static void isa_written(struct pci_device *device, unsigned offset, unsigned size)
{
    struct piix *piix = device->info.opaque;

    if (offset < PIRQRC + PCI_LINKS && offset + size > PIRQRC)
        route_links(piix, device->bus->link_levels);
}

static void isa_reset(struct pci_device *device)
{
    isa_written(device, PIRQRC, PCI_LINKS);
}

// --- Power management -----------------------------------------------------------------------------

static void pm_place(struct piix *piix)
{
    struct io_region region = piix->config.pm;
    uint64_t base = pci_device_get_config(&piix->pm, PMBA, 2) & PMBA_MASK;
    bool wanted = base != 0 && (piix->pm.config[PMREGMISC] & PMREGMISC_ENABLE);

    if (!piix->config.memory || !region.ops)
        return;
    if (piix->pm_mapped && (!wanted || base != piix->pm_base)) {
        memory_remove_pio(piix->config.memory, piix->pm_base, region.opaque);
        piix->pm_mapped = false;
    }
    if (wanted && !piix->pm_mapped) {
        region.base = piix->pm_base = base;
        piix->pm_mapped = memory_add_pio(piix->config.memory, &region, NULL) == 0;
    }
}

static void pm_written(struct pci_device *device, unsigned offset, unsigned size)
{
    if (offset <= PMREGMISC && offset + size > PMBA)
        pm_place(device->info.opaque);
}

static void pm_reset(struct pci_device *device)
{
    pm_place(device->info.opaque);
}

// --- Host bridge ----------------------------------------------------------------------------------

static void host_written(struct pci_device *device, unsigned offset, unsigned size)
{
    struct piix *piix = device->info.opaque;

    if (offset <= PIIX_SMRAM && offset + size > PIIX_PAM && piix->config.shadow_changed)
        piix->config.shadow_changed(piix->config.opaque, &device->config[PIIX_PAM],
                                    device->config[PIIX_SMRAM]);
}

static void host_reset(struct pci_device *device)
{
    host_written(device, PIIX_PAM, 1);
}

int piix_init(struct piix *piix, struct pci_bus *bus, const struct piix_config *config,
              struct error *err)
{
    *piix = (struct piix){.config = *config};
    pci_device_init(&piix->host, &(struct pci_device_config){.name = "host-bridge",
                                                             .vendor_id = INTEL,
                                                             .device_id = 0x1237,
                                                             .class_code = 0x060000,
                                                             .revision = 2,
                                                             .config_written = host_written,
                                                             .reset = host_reset,
                                                             .opaque = piix});
    pci_device_set_config(&piix->host, PIIX_PAM, 1, 0x30, 0x30); // F0000h: RAM, read and write
    for (unsigned i = 1; i < 7; i++)
        pci_device_set_config(&piix->host, (uint8_t)(PIIX_PAM + i), 1, 0x33, 0x33);
    pci_device_set_config(&piix->host, PIIX_SMRAM, 1, 0x02, 0x78);

    pci_device_init(&piix->isa, &(struct pci_device_config){.name = "isa-bridge",
                                                            .vendor_id = INTEL,
                                                            .device_id = 0x7110,
                                                            .class_code = 0x060100,
                                                            .revision = 2,
                                                            .config_written = isa_written,
                                                            .reset = isa_reset,
                                                            .opaque = piix});
    for (unsigned link = 0; link < PCI_LINKS; link++)
        pci_device_set_config(
            &piix->isa, (uint8_t)(PIRQRC + link), 1,
            config->link_irq[link] ? config->link_irq[link] & 15 : PIRQRC_DISABLED, 0x8F);

    pci_device_init(&piix->pm, &(struct pci_device_config){.name = "power-management",
                                                           .vendor_id = INTEL,
                                                           .device_id = 0x7113,
                                                           .class_code = 0x068000,
                                                           .revision = 3,
                                                           .config_written = pm_written,
                                                           .reset = pm_reset,
                                                           .opaque = piix});
    pci_device_set_config(&piix->pm, PMBA, 4, (config->pm.base & PMBA_MASK) | 1, PMBA_MASK);
    pci_device_set_config(&piix->pm, PMREGMISC, 1, config->pm.base ? PMREGMISC_ENABLE : 0,
                          PMREGMISC_ENABLE);

    bus->links_changed = route_links;
    bus->links_opaque = piix;
    if (pci_bus_add(bus, &piix->host, PCI_DEVFN(0, 0), err) ||
        pci_bus_add(bus, &piix->isa, PCI_DEVFN(1, 0), err) ||
        pci_bus_add(bus, &piix->pm, PCI_DEVFN(1, 3), err))
        return -1;
    pm_place(piix);
    return 0;
}
