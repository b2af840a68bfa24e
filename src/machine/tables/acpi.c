// SPDX-License-Identifier: Apache-2.0
// Section numbers are those of the ACPI specification 6.4.
#include "machine/tables/acpi.h"
#include "devices/chipset/acpi_pm.h"
#include "devices/chipset/pci.h"
#include "machine/tables/aml.h"
#include <stdio.h>
#include <string.h>

#define OEM_ID "CROFT "
#define OEM_TABLE_ID "CROFTPC "
#define CREATOR_ID "CRFT"
#define REVISION 1

#define HEADER_CHECKSUM 9

#define GAS_MEMORY 0
#define GAS_IO 1
#define GAS_BYTE 1
#define GAS_WORD 2
#define GAS_DWORD 3

#define FADT_LEGACY_DEVICES 0x0001
#define FADT_8042 0x0002
#define FADT_NO_VGA 0x0004
#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_SLEEP_BUTTON_NOT_FIXED (1u << 5)
#define FADT_RTC_WAKE_NOT_FIXED (1u << 6)
#define FADT_TIMER_32 (1u << 8)
#define FADT_RESET_REGISTER (1u << 10)

#define MADT_PCAT_COMPAT 1 // dual 8259s are present
#define MADT_LAPIC 0
#define MADT_IOAPIC 1
#define MADT_OVERRIDE 2
#define MADT_LAPIC_NMI 4
#define MADT_X2APIC 9
#define MADT_X2APIC_NMI 10
#define MADT_ENABLED 1
#define MADT_ACTIVE_HIGH_LEVEL 0x000D
#define LAPIC_ID_LIMIT 255 // ids from here on need x2APIC entries (5.2.12.12)

#define PCI_SLOTS 32
#define PCI_PINS 4

static size_t table_begin(struct bytes *out, const char *signature, uint8_t revision)
{
    size_t start = out->size;

    bytes_put(out, signature, 4);
    bytes_put32(out, 0); // length
    bytes_put8(out, revision);
    bytes_put8(out, 0); // checksum
    bytes_put(out, OEM_ID, 6);
    bytes_put(out, OEM_TABLE_ID, 8);
    bytes_put32(out, REVISION);
    bytes_put(out, CREATOR_ID, 4);
    bytes_put32(out, REVISION);
    return start;
}

static void table_end(struct bytes *out, size_t start)
{
    bytes_patch32(out, start + 4, (uint32_t)(out->size - start));
    if (!out->failed)
        out->data[start + HEADER_CHECKSUM] = bytes_checksum(out->data + start, out->size - start);
    bytes_align(out, 16);
}

static void put_gas(struct bytes *out, uint8_t space, uint8_t bits, uint8_t access,
                    uint64_t address)
{
    bytes_put8(out, space);
    bytes_put8(out, bits);
    bytes_put8(out, 0); // bit offset
    bytes_put8(out, access);
    bytes_put64(out, address);
}

// --- DSDT ----------------------------------------------------------------------------------------

static void dsdt_sleep_state(struct bytes *aml, const char *name, unsigned type)
{
    aml_name(aml, name);
    size_t package = aml_package(aml, 4);
    aml_integer(aml, type); // for PM1a_CNT
    aml_integer(aml, type); // for PM1b_CNT, which there is none of
    aml_integer(aml, 0);
    aml_integer(aml, 0);
    aml_end(aml, package);
}

// A device with a plug-and-play id and fixed ports and interrupt; length 0 and irq 16 mean none.
static void dsdt_isa_device(struct bytes *aml, const char *name, const char *id, int uid,
                            uint16_t port, uint8_t length, uint16_t port2, uint8_t length2,
                            unsigned irq)
{
    size_t device = aml_device(aml, name);

    aml_name(aml, "_HID");
    aml_eisa_id(aml, id);
    if (uid >= 0) {
        aml_name(aml, "_UID");
        aml_integer(aml, (unsigned)uid);
    }
    aml_name(aml, "_CRS");
    size_t resources = aml_resources(aml);
    if (length)
        aml_io(aml, port, length);
    if (length2)
        aml_io(aml, port2, length2);
    if (irq < 16)
        aml_irq(aml, irq);
    aml_end_resources(aml, resources);
    aml_end(aml, device);
}

static void dsdt_isa_devices(struct bytes *aml, const struct acpi_config *config)
{
    static const struct {
        char name[5];
        uint16_t port;
        uint8_t irq;
    } com[4] = {{"COM1", 0x3F8, 4}, {"COM2", 0x2F8, 3}, {"COM3", 0x3E8, 4}, {"COM4", 0x2E8, 3}};

    dsdt_isa_device(aml, "RTC", "PNP0B00", -1, 0x70, 2, 0, 0, 8);
    if (config->i8042) {
        dsdt_isa_device(aml, "KBD", "PNP0303", -1, 0x60, 1, 0x64, 1, 1);
        dsdt_isa_device(aml, "MOU", "PNP0F13", -1, 0, 0, 0, 0, 12);
    }
    for (int i = 0; i < 4; i++)
        if (config->serial_ports & 1 << i)
            dsdt_isa_device(aml, com[i].name, "PNP0501", i + 1, com[i].port, 8, 0, 0, com[i].irq);
}

static void dsdt_routing_table(struct bytes *aml, const char *name, const uint8_t lines[4])
{
    aml_name(aml, name);
    size_t table = aml_package(aml, PCI_SLOTS * PCI_PINS);
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        for (unsigned pin = 0; pin < PCI_PINS; pin++) {
            size_t entry = aml_package(aml, 4);
            aml_integer(aml, slot << 16 | 0xFFFF); // any function
            aml_integer(aml, pin);
            aml_integer(aml, 0); // no link device: the next is a global interrupt number
            aml_integer(aml, lines[pci_link(PCI_DEVFN(slot, 0), (uint8_t)(pin + 1))]);
            aml_end(aml, entry);
        }
    }
    aml_end(aml, table);
}

static void dsdt_host_bridge(struct bytes *aml, const struct acpi_config *config)
{
    size_t bridge = aml_device(aml, "PCI0");

    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0A03");
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    aml_name(aml, "_CRS");
    size_t resources = aml_resources(aml);
    aml_word_bus(aml, 0, 0xFF);
    aml_io(aml, 0xCF8, 8);
    aml_word_io_window(aml, 0, 0x0CF7);
    aml_word_io_window(aml, 0x0D00, 0xFFFF);
    if (config->vga)
        aml_dword_memory_window(aml, 0xA0000, 0xBFFFF);
    if (config->pci32_last > config->pci32_base)
        aml_dword_memory_window(aml, config->pci32_base, config->pci32_last);
    if (config->pci64_last > config->pci64_base)
        aml_qword_memory_window(aml, config->pci64_base, config->pci64_last);
    aml_end_resources(aml, resources);

    // Routing depends on the interrupt mode that the guest named through \_PIC (6.2.13, 5.8.1).
    bool pic = config->pci_irq[0] && config->pci_irq[1] && config->pci_irq[2] && config->pci_irq[3];
    dsdt_routing_table(aml, "PRTA", config->pci_gsi);
    if (pic)
        dsdt_routing_table(aml, "PRTP", config->pci_irq);
    size_t method = aml_method(aml, "_PRT", 0);
    if (pic) {
        size_t apic_mode = aml_if(aml);
        aml_path(aml, "PICM");
        aml_return(aml);
        aml_path(aml, "PRTA");
        aml_end(aml, apic_mode);
        aml_return(aml);
        aml_path(aml, "PRTP");
    } else {
        aml_return(aml);
        aml_path(aml, "PRTA");
    }
    aml_end(aml, method);

    size_t isa = aml_device(aml, "ISA");
    aml_name(aml, "_ADR");
    aml_integer(aml, 0x00010000); // 00:01.0
    dsdt_isa_devices(aml, config);
    aml_end(aml, isa);
    aml_end(aml, bridge);
}

static void dsdt_hpet(struct bytes *aml, const struct acpi_config *config)
{
    size_t device = aml_device(aml, "HPET");

    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0103");
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    aml_name(aml, "_CRS");
    size_t resources = aml_resources(aml);
    aml_memory32_fixed(aml, (uint32_t)config->hpet_base, 0x400);
    aml_end_resources(aml, resources);
    aml_end(aml, device);
}

static void dsdt_processors(struct bytes *aml, const struct acpi_config *config)
{
    for (unsigned i = 0; i < config->cpu_count; i++) {
        char name[5];
        snprintf(name, sizeof(name), "C%03X", i & 0xFFF);
        size_t device = aml_device(aml, name);
        aml_name(aml, "_HID");
        aml_string(aml, "ACPI0007");
        aml_name(aml, "_UID");
        aml_integer(aml, i);
        aml_end(aml, device);
    }
}

static void put_dsdt(struct bytes *out, const struct acpi_config *config)
{
    size_t start = table_begin(out, "DSDT", 2);

    if (config->pci) {
        aml_name(out, "PICM"); // 0: 8259, 1: APIC
        aml_integer(out, 0);
        size_t method = aml_method(out, "\\_PIC", 1);
        aml_store_arg0(out, "PICM");
        aml_end(out, method);
    }
    if (config->s3)
        dsdt_sleep_state(out, "\\_S3", ACPI_SLEEP_S3);
    dsdt_sleep_state(out, "\\_S5", ACPI_SLEEP_S5);
    size_t scope = aml_scope(out, "\\_SB");
    if (config->pci)
        dsdt_host_bridge(out, config);
    else
        dsdt_isa_devices(out, config);
    if (config->hpet_base)
        dsdt_hpet(out, config);
    dsdt_processors(out, config);
    aml_end(out, scope);
    table_end(out, start);
}

// --- Other tables --------------------------------------------------------------------------------

static void put_facs(struct bytes *out)
{
    bytes_align(out, 64);
    size_t start = out->size;
    bytes_put(out, "FACS", 4);
    bytes_put32(out, 64);
    bytes_zeros(out, 24); // signature, waking vectors, lock, flags
    bytes_put8(out, 2);   // version
    bytes_zeros(out, 64 - (out->size - start));
}

static void put_fadt(struct bytes *out, const struct acpi_config *config, uint32_t facs,
                     uint32_t dsdt)
{
    uint16_t pm = config->pm_base;
    uint16_t boot_flags =
        FADT_LEGACY_DEVICES | (config->i8042 ? FADT_8042 : 0) | (config->vga ? 0 : FADT_NO_VGA);
    uint32_t flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLEEP_BUTTON_NOT_FIXED |
                     FADT_RTC_WAKE_NOT_FIXED | (config->pm_timer_32 ? FADT_TIMER_32 : 0) |
                     (config->reset_port ? FADT_RESET_REGISTER : 0);
    size_t start = table_begin(out, "FACP", 6);

    bytes_put32(out, facs);
    bytes_put32(out, dsdt);
    bytes_put8(out, 0);
    bytes_put8(out, 1); // preferred profile: desktop
    bytes_put16(out, config->sci_irq);
    bytes_put32(out, config->smi_port);
    bytes_put8(out, config->acpi_enable);
    bytes_put8(out, config->acpi_disable);
    bytes_put8(out, 0); // S4BIOS_REQ
    bytes_put8(out, 0); // PSTATE_CNT
    bytes_put32(out, pm + ACPI_PM1_EVT);
    bytes_put32(out, 0); // PM1b
    bytes_put32(out, pm + ACPI_PM1_CNT);
    bytes_put32(out, 0);
    bytes_put32(out, 0); // PM2
    bytes_put32(out, pm + ACPI_PM_TMR);
    bytes_put32(out, pm + ACPI_GPE0);
    bytes_put32(out, 0); // GPE1
    bytes_put8(out, 4);  // lengths: PM1 event, PM1 control, PM2, timer, GPE0, GPE1, GPE1's base
    bytes_put8(out, 2);
    bytes_put8(out, 0);
    bytes_put8(out, 4);
    bytes_put8(out, 4);
    bytes_put8(out, 0);
    bytes_put8(out, 0);
    bytes_put8(out, 0);       // CST_CNT
    bytes_put16(out, 0x0FFF); // C2 latency: above 100 us means there is no C2
    bytes_put16(out, 0x0FFF); // C3 likewise, above 1000 us
    bytes_zeros(out, 2 + 2);  // cache flush size and stride: WBINVD serves
    bytes_zeros(out, 2);      // duty cycle
    bytes_zeros(out, 2);      // no day and month alarm in the RTC
    bytes_put8(out, 0x32);    // its century register
    bytes_put16(out, boot_flags);
    bytes_put8(out, 0);
    bytes_put32(out, flags);
    put_gas(out, GAS_IO, config->reset_port ? 8 : 0, GAS_BYTE, config->reset_port);
    bytes_put8(out, config->reset_value);
    bytes_put16(out, 0); // ARM boot flags
    bytes_put8(out, 0);  // minor revision
    bytes_put64(out, 0); // X_FIRMWARE_CTRL: FACS is given above
    bytes_put64(out, dsdt);
    put_gas(out, GAS_IO, 32, GAS_WORD, pm + ACPI_PM1_EVT);
    put_gas(out, 0, 0, 0, 0);
    put_gas(out, GAS_IO, 16, GAS_WORD, pm + ACPI_PM1_CNT);
    put_gas(out, 0, 0, 0, 0);
    put_gas(out, 0, 0, 0, 0);
    put_gas(out, GAS_IO, 32, GAS_DWORD, pm + ACPI_PM_TMR);
    put_gas(out, GAS_IO, 32, GAS_BYTE, pm + ACPI_GPE0);
    put_gas(out, 0, 0, 0, 0);
    put_gas(out, 0, 0, 0, 0); // sleep control and status: only for reduced hardware
    put_gas(out, 0, 0, 0, 0);
    bytes_zeros(out, 8); // hypervisor's identity: none
    table_end(out, start);
}

static void madt_override(struct bytes *out, uint8_t source, uint32_t gsi, uint16_t flags)
{
    bytes_put8(out, MADT_OVERRIDE);
    bytes_put8(out, 10);
    bytes_put8(out, 0); // ISA bus
    bytes_put8(out, source);
    bytes_put32(out, gsi);
    bytes_put16(out, flags);
}

static void put_madt(struct bytes *out, const struct acpi_config *config)
{
    bool x2apic = false;
    size_t start = table_begin(out, "APIC", 4);

    bytes_put32(out, config->lapic_base);
    bytes_put32(out, MADT_PCAT_COMPAT);
    for (unsigned i = 0; i < config->cpu_count; i++) {
        uint32_t id = config->apic_ids[i];
        if (id < LAPIC_ID_LIMIT && i < LAPIC_ID_LIMIT) {
            bytes_put8(out, MADT_LAPIC);
            bytes_put8(out, 8);
            bytes_put8(out, (uint8_t)i);
            bytes_put8(out, (uint8_t)id);
            bytes_put32(out, MADT_ENABLED);
        } else {
            x2apic = true;
            bytes_put8(out, MADT_X2APIC);
            bytes_put8(out, 16);
            bytes_put16(out, 0);
            bytes_put32(out, id);
            bytes_put32(out, MADT_ENABLED);
            bytes_put32(out, i);
        }
    }
    bytes_put8(out, MADT_IOAPIC);
    bytes_put8(out, 12);
    bytes_put8(out, config->ioapic_id);
    bytes_put8(out, 0);
    bytes_put32(out, config->ioapic_base);
    bytes_put32(out, 0); // its first global interrupt
    madt_override(out, 0, 2, 0);
    madt_override(out, config->sci_irq, config->sci_irq, MADT_ACTIVE_HIGH_LEVEL);
    bytes_put8(out, MADT_LAPIC_NMI);
    bytes_put8(out, 6);
    bytes_put8(out, 0xFF); // all processors
    bytes_put16(out, 0);
    bytes_put8(out, 1); // LINT1
    if (x2apic) {
        bytes_put8(out, MADT_X2APIC_NMI);
        bytes_put8(out, 12);
        bytes_put16(out, 0);
        bytes_put32(out, 0xFFFFFFFF);
        bytes_put8(out, 1);
        bytes_zeros(out, 3);
    }
    table_end(out, start);
}

static void put_hpet(struct bytes *out, const struct acpi_config *config)
{
    size_t start = table_begin(out, "HPET", 1);

    bytes_put32(out, config->hpet_id);
    put_gas(out, GAS_MEMORY, 64, 0, config->hpet_base);
    bytes_put8(out, 0);    // sequence number
    bytes_put16(out, 128); // least ticks between periodic interrupts
    bytes_put8(out, 0);
    table_end(out, start);
}

// Tells Windows that one read of the PM timer is enough and that the RTC needs no extra
// acknowledgement.
static void put_waet(struct bytes *out)
{
    size_t start = table_begin(out, "WAET", 1);

    bytes_put32(out, 1 << 0 | 1 << 1);
    table_end(out, start);
}

static void put_rsdp(struct acpi_blob *blob, uint32_t rsdt, uint64_t xsdt)
{
    uint8_t *p = blob->rsdp;
    uint32_t length = ACPI_RSDP_SIZE;

    memset(p, 0, ACPI_RSDP_SIZE);
    memcpy(p, "RSD PTR ", 8);
    memcpy(p + 9, OEM_ID, 6);
    p[15] = 2; // revision
    memcpy(p + 16, &rsdt, 4);
    memcpy(p + 20, &length, 4);
    memcpy(p + 24, &xsdt, 8);
    p[8] = bytes_checksum(p, 20);
    p[32] = bytes_checksum(p, ACPI_RSDP_SIZE);
}

int acpi_tables_build(const struct acpi_config *config, gpa_t base, struct acpi_blob *out,
                      struct error *err)
{
    struct bytes bytes = {0};
    uint32_t tables[4];
    unsigned count = 0;

    *out = (struct acpi_blob){0};
    if (base % ACPI_TABLES_ALIGN || base > UINT32_MAX - MIB(1))
        return error_set(err, ERROR_USAGE, "ACPI tables cannot lie at 0x%llx",
                         (unsigned long long)base);
    uint32_t at = (uint32_t)base;
    uint32_t facs = at;
    put_facs(&bytes);
    uint32_t dsdt = at + (uint32_t)bytes.size;
    put_dsdt(&bytes, config);
    tables[count++] = at + (uint32_t)bytes.size;
    put_fadt(&bytes, config, facs, dsdt);
    if (config->apic) {
        tables[count++] = at + (uint32_t)bytes.size;
        put_madt(&bytes, config);
    }
    if (config->hpet_base) {
        tables[count++] = at + (uint32_t)bytes.size;
        put_hpet(&bytes, config);
    }
    tables[count++] = at + (uint32_t)bytes.size;
    put_waet(&bytes);

    uint32_t rsdt = at + (uint32_t)bytes.size;
    size_t start = table_begin(&bytes, "RSDT", 1);
    for (unsigned i = 0; i < count; i++)
        bytes_put32(&bytes, tables[i]);
    table_end(&bytes, start);
    uint32_t xsdt = at + (uint32_t)bytes.size;
    start = table_begin(&bytes, "XSDT", 1);
    for (unsigned i = 0; i < count; i++)
        bytes_put64(&bytes, tables[i]);
    table_end(&bytes, start);
    if (bytes.failed) {
        bytes_free(&bytes);
        return error_set(err, ERROR_HOST, "out of memory for the ACPI tables");
    }
    out->data = bytes.data;
    out->size = bytes.size;
    put_rsdp(out, rsdt, xsdt);
    return 0;
}

void acpi_blob_free(struct acpi_blob *blob)
{
    struct bytes bytes = {.data = blob->data};

    bytes_free(&bytes);
    *blob = (struct acpi_blob){0};
}
