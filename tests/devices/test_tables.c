// SPDX-License-Identifier: Apache-2.0
// Firmware tables: structure and checksums, and a second opinion: iasl must disassemble the ACPI
// tables and compile the result again without an error or a warning, dmidecode must read the SMBIOS
// tables.
#include "device_bench.h"
#include "devices/chipset/acpi_pm.h"
#include "machine/tables/acpi.h"
#include "machine/tables/smbios.h"
#include <unistd.h>

#define BASE 0xE0040

static struct acpi_config pc_config(const uint32_t *ids, unsigned count)
{
    return (struct acpi_config){
        .apic_ids = ids,
        .cpu_count = count,
        .apic = true,
        .lapic_base = 0xFEE00000,
        .ioapic_base = 0xFEC00000,
        .ioapic_id = 0,
        .sci_irq = 9,
        .pm_base = 0x600,
        .pm_timer_32 = false,
        .smi_port = ACPI_SMI_PORT,
        .acpi_enable = ACPI_SMI_ENABLE,
        .acpi_disable = ACPI_SMI_DISABLE,
        .reset_port = 0xCF9,
        .reset_value = 6,
        .hpet_base = 0xFED00000,
        .hpet_id = 0x8086A201,
        .pci = true,
        .pci_gsi = {16, 17, 18, 19},
        .pci_irq = {10, 10, 11, 11},
        .pci32_base = 0xC0000000,
        .pci32_last = 0xFEBFFFFF,
        .pci64_base = 0x8000000000,
        .pci64_last = 0xBFFFFFFFFF,
        .serial_ports = 1,
        .i8042 = true,
    };
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static uint8_t sum(const uint8_t *p, size_t size)
{
    uint8_t s = 0;
    while (size--)
        s += *p++;
    return s;
}

static const uint8_t *table_at(const struct acpi_blob *blob, uint64_t gpa, const char *signature)
{
    assert_true(gpa >= BASE && gpa + 36 <= BASE + blob->size);
    const uint8_t *table = blob->data + (gpa - BASE);
    uint32_t length = get32(table + 4);
    assert_true(gpa + length <= BASE + blob->size);
    if (signature)
        assert_memory_equal(table, signature, 4);
    if (memcmp(table, "FACS", 4) != 0)
        assert_int_equal(sum(table, length), 0);
    return table;
}

static void run(const char *command)
{
    int status = system(command);
    if (status != 0)
        fail_msg("status %d of: %s", status, command);
}

// Disassembles each table, compiles the source and wants "0 Errors" and "0 Warnings". A FADT with
// unused blocks is legal; only the definition block is compiled with warnings as failures.
static void iasl_agrees(const struct acpi_blob *blob)
{
    char dir[] = "/tmp/croft-tables-XXXXXX", path[128], command[512];

    assert_non_null(mkdtemp(dir));
    const uint8_t *xsdt = table_at(blob, get64(blob->rsdp + 24), "XSDT");
    unsigned count = (get32(xsdt + 4) - 36) / 8;
    for (unsigned i = 0; i <= count; i++) {
        const uint8_t *fadt = table_at(blob, get64(xsdt + 36), "FACP");
        const uint8_t *table = i < count ? table_at(blob, get64(xsdt + 36 + 8 * i), NULL)
                                         : table_at(blob, get64(fadt + 140), "DSDT");
        char name[5] = "";
        memcpy(name, table, 4);
        snprintf(path, sizeof(path), "%s/%s.aml", dir, name);
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(table, get32(table + 4), 1, file), 1);
        fclose(file);
        snprintf(command, sizeof(command),
                 "cd %s && timeout 20 iasl -d %s.aml > %s.log 2>&1 && test -s %s.dsl", dir, name,
                 name, name);
        run(command);
        snprintf(command, sizeof(command),
                 "cd %s && ! grep -i -e 'checksum should be' -e terminates -e invalid -e unknown "
                 "%s.dsl %s.log && "
                 "timeout 20 iasl -p again_%s %s.dsl > %s.log2 2>&1 && "
                 "grep -q '0 Errors, 0 Warnings' %s.log2 || { cat %s.log2; false; }",
                 dir, name, name, name, name, name, name, name);
        run(command);
        // The compiler's own output is the same, byte for byte, except the fields that name the
        // compiler (and for the definition block its different but equal choices of encoding).
    }
    if (getenv("CROFT_KEEP_TABLES"))
        print_message("tables kept in %s\n", dir);
    else {
        snprintf(command, sizeof(command), "rm -rf %s", dir);
        run(command);
    }
}

static void acpi_structure(void **state)
{
    const uint32_t ids[2] = {0, 1};
    struct acpi_config config = pc_config(ids, 2);
    struct acpi_blob blob;
    struct error err = {0};

    assert_int_equal(acpi_tables_build(&config, BASE, &blob, &err), 0);
    assert_memory_equal(blob.rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(blob.rsdp, 20), 0);
    assert_int_equal(sum(blob.rsdp, 36), 0);
    const uint8_t *rsdt = table_at(&blob, get32(blob.rsdp + 16), "RSDT");
    const uint8_t *xsdt = table_at(&blob, get64(blob.rsdp + 24), "XSDT");
    unsigned count = (get32(rsdt + 4) - 36) / 4;
    assert_int_equal(count, 4);
    assert_int_equal((get32(xsdt + 4) - 36) / 8, count);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(get32(rsdt + 36 + 4 * i), get64(xsdt + 36 + 8 * i));
    const uint8_t *fadt = table_at(&blob, get64(xsdt + 36), "FACP");
    assert_int_equal(get32(fadt + 4), 276);
    uint32_t facs = get32(fadt + 36);
    assert_int_equal(facs % 64, 0);
    assert_memory_equal(blob.data + (facs - BASE), "FACS", 4);
    assert_int_equal(get32(fadt + 40), get64(fadt + 140));
    assert_int_equal(get32(fadt + 56), 0x600);
    assert_int_equal(get32(fadt + 76), 0x608);
    assert_int_equal(fadt[108], 0x32);
    assert_int_equal(fadt[128], 6); // reset value
    assert_int_equal(get64(fadt + 120), 0xCF9);
    assert_int_equal(get64(fadt + 152), 0x600);
    table_at(&blob, get64(xsdt + 44), "APIC");
    table_at(&blob, get64(xsdt + 52), "HPET");
    table_at(&blob, get64(xsdt + 60), "WAET");
    iasl_agrees(&blob);
    acpi_blob_free(&blob);
    assert_int_equal(acpi_tables_build(&config, 0xE0008, &blob, &err), -1);
}

static void acpi_variants(void **state)
{
    uint32_t ids[300];
    struct acpi_blob blob;
    struct error err = {0};

    for (unsigned i = 0; i < ARRAY_SIZE(ids); i++)
        ids[i] = i;
    struct acpi_config config = pc_config(ids, ARRAY_SIZE(ids));
    config.pci_irq[0] = 0;
    config.pci64_base = config.pci64_last = 0;
    config.hpet_base = 0;
    config.serial_ports = 15;
    config.s3 = true;
    config.pm_timer_32 = true;
    config.vga = true;
    assert_int_equal(acpi_tables_build(&config, BASE, &blob, &err), 0);
    assert_true(blob.size < 0x10000 - 0x40);
    iasl_agrees(&blob);
    acpi_blob_free(&blob);

    config.cpu_count = 1;
    config.pci = false;
    config.i8042 = false;
    config.serial_ports = 0;
    config.reset_port = 0;
    config.s3 = false;
    assert_int_equal(acpi_tables_build(&config, BASE, &blob, &err), 0);
    iasl_agrees(&blob);
    acpi_blob_free(&blob);
}

// dmidecode reads a dump as it would read memory from F0000h: the entry point at 0, its table address an
// offset into the file.
static void dmidecode_agrees(struct smbios_blob *blob, const char *const *wanted)
{
    char path[] = "/tmp/croft-smbios-XXXXXX", command[512];
    int fd = mkstemp(path);
    uint8_t copy[4096];
    uint32_t table;

    assert_true(fd >= 0);
    assert_true(blob->size <= sizeof(copy));
    memcpy(copy, blob->data, blob->size);
    memcpy(&table, copy + 0x18, 4);
    table -= 0xF0000;
    memcpy(copy + 0x18, &table, 4);
    // Both checksums, with the address as an offset.
    copy[0x15] = copy[4] = 0;
    copy[0x15] = (uint8_t)-sum(copy + 16, 15);
    copy[4] = (uint8_t)-sum(copy, 31);
    assert_int_equal(write(fd, copy, blob->size), blob->size);
    close(fd);
    snprintf(command, sizeof(command), "timeout 20 dmidecode --from-dump %s > %s.txt 2>&1", path,
             path);
    run(command);
    snprintf(command, sizeof(command),
             "! grep -i -e wrong -e broken -e truncated -e invalid -e 'out of spec' %s.txt", path);
    run(command);
    for (; *wanted; wanted++) {
        snprintf(command, sizeof(command), "grep -q -e '%s' %s.txt || { cat %s.txt; false; }",
                 *wanted, path, path);
        run(command);
    }
    snprintf(command, sizeof(command), "rm -f %s %s.txt", path, path);
    run(command);
}

static void smbios_structure(void **state)
{
    struct smbios_config config = {
        .version = "0.1.0",
        .product = "Croft PC",
        .uuid = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD,
                 0xEE, 0xFF},
        .cpu_count = 2,
        .cpu_signature = 0x00A10F11,
        .cpu_features = 0x178BFBFF,
        .cpu_vendor = "AuthenticAMD",
        .cpu_brand = "Croft Virtual CPU",
        .memory_below_4g = MIB(512),
    };
    static const char *const small[] = {"SMBIOS 2.8 present.",
                                        "Vendor: Croft",
                                        "Version: 0.1.0",
                                        "UUID: 00112233-4455-6677-8899-aabbccddeeff",
                                        "System is a virtual machine",
                                        "Manufacturer: AuthenticAMD",
                                        "Core Count: 2",
                                        "Size: 512 MB",
                                        "Range Size: 512 MB",
                                        "Maximum Capacity: 512 MB",
                                        "End Of Table",
                                        "9 structures",
                                        NULL};
    static const char *const large[] = {"Size: 4 TB",       "Maximum Capacity: 4 TB",
                                        "Range Size: 3 GB", "Range Size: 4093 GB",
                                        "10 structures",    NULL};
    struct smbios_blob blob;
    struct error err = {0};

    assert_int_equal(smbios_build(&config, 0xF0000, &blob, &err), 0);
    assert_int_equal(sum(blob.data, 31), 0);
    assert_int_equal(sum(blob.data + 16, 15), 0);
    assert_int_equal(get32(blob.data + 0x18), 0xF0020);
    dmidecode_agrees(&blob, small);
    smbios_blob_free(&blob);
    config.memory_below_4g = GIB(3);
    config.memory_above_4g = GIB(4096) - GIB(3);
    config.cpu_count = 1000;
    assert_int_equal(smbios_build(&config, 0xF0000, &blob, &err), 0);
    dmidecode_agrees(&blob, large);
    smbios_blob_free(&blob);
    assert_int_equal(smbios_build(&config, 0xE0000, &blob, &err), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acpi_structure),
        cmocka_unit_test(acpi_variants),
        cmocka_unit_test(smbios_structure),
    };
    return cmocka_run_group_tests_name("tables", tests, NULL, NULL);
}
