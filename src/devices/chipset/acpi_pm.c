// SPDX-License-Identifier: Apache-2.0
#include "devices/chipset/acpi_pm.h"

#define STS_TIMER 0x0001
#define STS_BUS_MASTER 0x0010
#define STS_GLOBAL 0x0020
#define STS_POWER_BUTTON 0x0100
#define STS_SLEEP_BUTTON 0x0200
#define STS_RTC 0x0400
#define STS_WAKE 0x8000
#define STS_ALL                                                                                \
    (STS_TIMER | STS_BUS_MASTER | STS_GLOBAL | STS_POWER_BUTTON | STS_SLEEP_BUTTON | STS_RTC | \
     STS_WAKE)
#define EN_ALL (STS_TIMER | STS_GLOBAL | STS_POWER_BUTTON | STS_SLEEP_BUTTON | STS_RTC)

#define CNT_SCI_EN 0x0001
#define CNT_SLP_TYP_SHIFT 10
#define CNT_SLP_EN 0x2000
#define CNT_STORED 0x1C03 // SLP_TYP, BM_RLD, SCI_EN; SLP_EN and GBL_RLS are write-only

#define NS_PER_SEC 1000000000u

static uint64_t timer_ticks(const struct acpi_pm *pm)
{
    uint64_t now = clock_now(pm->config.timers->clock);

    return (uint64_t)((unsigned __int128)now * ACPI_PM_HZ / NS_PER_SEC);
}

// TMR_STS is set whenever the counter's top bit changes (4.8.3.1).
static unsigned overflow_shift(const struct acpi_pm *pm)
{
    return pm->config.timer_32 ? 31 : 23;
}

static void catch_up(struct acpi_pm *pm)
{
    uint64_t now = timer_ticks(pm);

    if (now >> overflow_shift(pm) != pm->checked >> overflow_shift(pm))
        pm->pm1_status |= STS_TIMER;
    pm->checked = now;
}

static void update(struct acpi_pm *pm)
{
    bool event = (pm->pm1_status & pm->pm1_enable) || (pm->gpe_status & pm->gpe_enable);

    irq_set(&pm->config.sci, event && (pm->pm1_control & CNT_SCI_EN));
    if (!(pm->pm1_enable & STS_TIMER) || (pm->pm1_status & STS_TIMER)) {
        timer_cancel(&pm->timer);
        return;
    }
    // The first overflow that catch_up() has not seen; it may just have passed.
    uint64_t next = ((pm->checked >> overflow_shift(pm)) + 1) << overflow_shift(pm);
    timer_arm(&pm->timer,
              (uint64_t)(((unsigned __int128)next * NS_PER_SEC + ACPI_PM_HZ - 1) / ACPI_PM_HZ));
}

static void timer_fired(void *opaque)
{
    catch_up(opaque);
    update(opaque);
}

static void write_control(struct acpi_pm *pm, uint16_t value)
{
    pm->pm1_control = value & CNT_STORED;
    update(pm);
    if (!(value & CNT_SLP_EN))
        return;
    switch (value >> CNT_SLP_TYP_SHIFT & 7) {
    case ACPI_SLEEP_S5:
        if (pm->config.power_off)
            pm->config.power_off(pm->config.opaque);
        break;
    case ACPI_SLEEP_S3:
        if (pm->config.sleep)
            pm->config.sleep(pm->config.opaque);
        break;
    default:
        break;
    }
}

// The block as an array of bytes would be wrong for write-one-to-clear and side effects, so narrow
// accesses are made of 16-bit registers: the other byte of a write is what changes nothing.
static uint16_t read_word(struct acpi_pm *pm, uint64_t reg)
{
    switch (reg) {
    case ACPI_PM1_EVT:
        catch_up(pm);
        return pm->pm1_status;
    case ACPI_PM1_EVT + 2:
        return pm->pm1_enable;
    case ACPI_PM1_CNT:
        return pm->pm1_control;
    case ACPI_GPE0:
        return pm->gpe_status;
    case ACPI_GPE0 + 2:
        return pm->gpe_enable;
    default:
        return 0;
    }
}

static void write_word(struct acpi_pm *pm, uint64_t reg, uint16_t value)
{
    switch (reg) {
    case ACPI_PM1_EVT:
        catch_up(pm);
        pm->pm1_status &= ~value;
        break;
    case ACPI_PM1_EVT + 2:
        catch_up(pm);
        pm->pm1_enable = value & EN_ALL;
        break;
    case ACPI_PM1_CNT:
        write_control(pm, value);
        return;
    case ACPI_GPE0:
        pm->gpe_status &= ~value;
        break;
    case ACPI_GPE0 + 2:
        pm->gpe_enable = value;
        break;
    default:
        return;
    }
    update(pm);
}

static bool is_status(uint64_t reg)
{
    return reg == ACPI_PM1_EVT || reg == ACPI_GPE0;
}

static uint64_t pm_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;
    uint64_t value = 0;

    if (offset >= ACPI_PM_TMR && offset < ACPI_PM_TMR + 4) {
        uint32_t ticks = (uint32_t)timer_ticks(pm);
        if (!pm->config.timer_32)
            ticks &= 0xFFFFFF;
        return ticks >> (8 * (offset - ACPI_PM_TMR));
    }
    for (unsigned i = 0; i < size; i++) {
        uint64_t at = offset + i;
        uint16_t word = read_word(pm, at & ~UINT64_C(1));
        value |= (uint64_t)(at & 1 ? word >> 8 : word & 0xFF) << (8 * i);
    }
    return value;
}

static void pm_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *pm = opaque;

    for (unsigned i = 0; i < size;) {
        uint64_t at = offset + i, reg = at & ~UINT64_C(1);
        uint16_t word = (uint16_t)(value >> (8 * i));
        if (at == reg && size - i >= 2) {
            write_word(pm, reg, word);
            i += 2;
        } else {
            uint16_t keep = is_status(reg) ? 0 : read_word(pm, reg);
            word &= 0xFF;
            write_word(pm, reg, at & 1 ? (keep & 0x00FF) | word << 8 : (keep & 0xFF00) | word);
            i += 1;
        }
    }
}

static const struct io_ops pm_ops = {
    .read = pm_read, .write = pm_write, .min_size = 1, .max_size = 4};

static uint64_t smi_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;

    return offset == 0 ? pm->smi_command : pm->smi_data;
}

static void smi_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *pm = opaque;

    if (offset != 0) {
        pm->smi_data = (uint8_t)value;
        return;
    }
    pm->smi_command = (uint8_t)value;
    if (pm->smi_command == ACPI_SMI_ENABLE)
        pm->pm1_control |= CNT_SCI_EN;
    else if (pm->smi_command == ACPI_SMI_DISABLE)
        pm->pm1_control &= ~CNT_SCI_EN;
    update(pm);
}

static const struct io_ops smi_ops = {
    .read = smi_read, .write = smi_write, .min_size = 1, .max_size = 1};

void acpi_pm_region(struct acpi_pm *pm, uint64_t base, struct io_region *region)
{
    *region = (struct io_region){
        .name = "acpi-pm", .base = base, .size = ACPI_PM_SIZE, .ops = &pm_ops, .opaque = pm};
}

void acpi_pm_smi_region(struct acpi_pm *pm, struct io_region *region)
{
    *region = (struct io_region){
        .name = "acpi-smi", .base = ACPI_SMI_PORT, .size = 2, .ops = &smi_ops, .opaque = pm};
}

void acpi_pm_init(struct acpi_pm *pm, const struct acpi_pm_config *config)
{
    *pm = (struct acpi_pm){.config = *config};
    timer_init(&pm->timer, config->timers, timer_fired, pm);
    acpi_pm_reset(pm);
}

void acpi_pm_fini(struct acpi_pm *pm)
{
    timer_fini(&pm->timer);
}

void acpi_pm_reset(struct acpi_pm *pm)
{
    pm->pm1_status = pm->pm1_enable = pm->pm1_control = 0;
    pm->gpe_status = pm->gpe_enable = 0;
    pm->smi_command = pm->smi_data = 0;
    pm->checked = timer_ticks(pm);
    update(pm);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
    pm->pm1_status |= STS_POWER_BUTTON;
    update(pm);
}

void acpi_pm_gpe(struct acpi_pm *pm, unsigned bit)
{
    pm->gpe_status |= (uint16_t)(1u << (bit & 15));
    update(pm);
}

void acpi_pm_wake(struct acpi_pm *pm)
{
    pm->pm1_status |= STS_WAKE;
    update(pm);
}

static void pm_pre_save(void *object)
{
    catch_up(object);
}

static int pm_post_load(void *object, struct error *err)
{
    struct acpi_pm *pm = object;

    if ((pm->pm1_status & ~STS_ALL) || (pm->pm1_enable & ~EN_ALL) ||
        (pm->pm1_control & ~CNT_STORED))
        return error_set(err, ERROR_INPUT, "acpi_pm: a register has reserved bits set");
    catch_up(pm);
    update(pm);
    return 0;
}

static const struct state_field pm_fields[] = {STATE_FIELD(struct acpi_pm, pm1_status),
                                               STATE_FIELD(struct acpi_pm, pm1_enable),
                                               STATE_FIELD(struct acpi_pm, pm1_control),
                                               STATE_FIELD(struct acpi_pm, gpe_status),
                                               STATE_FIELD(struct acpi_pm, gpe_enable),
                                               STATE_FIELD(struct acpi_pm, smi_command),
                                               STATE_FIELD(struct acpi_pm, smi_data),
                                               STATE_FIELD(struct acpi_pm, checked),
                                               STATE_TRANSIENT(struct acpi_pm, timer),
                                               STATE_TRANSIENT(struct acpi_pm, config),
                                               STATE_END};

const struct state_desc acpi_pm_state = {.name = "acpi_pm",
                                         .version = 1,
                                         .size = sizeof(struct acpi_pm),
                                         .fields = pm_fields,
                                         .post_load = pm_post_load,
                                         .pre_save = pm_pre_save};
