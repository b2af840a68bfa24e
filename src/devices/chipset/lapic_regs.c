// SPDX-License-Identifier: Apache-2.0
// The local APIC's registers: the same file behind memory (xAPIC) and behind MSRs (x2APIC), with
// the differences that SDM vol. 3, "x2APIC Register Address Space" and "Reserved Bit Checking"
// name.
#include "devices/chipset/lapic_private.h"
#include "devices/chipset/timescale.h"

// Register numbers: xAPIC offset / 16, x2APIC MSR - 800h.
enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_LVT_CMCI = 0x2f,
    REG_ICR_LOW = 0x30,
    REG_ICR_HIGH = 0x31,
    REG_LVT_TIMER = 0x32,
    REG_LVT_ERROR = 0x37,
    REG_INITIAL_COUNT = 0x38,
    REG_CURRENT_COUNT = 0x39,
    REG_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f,
};

// Integrated APIC, seven LVT entries, EOI broadcast can be suppressed.
#define VERSION (0x14u | (LAPIC_LVT_COUNT - 1) << 16 | 1u << 24)

#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC 0x800u

#define ICR_WRITABLE 0x000ccfffu
#define ICR_X2APIC_RESERVED 0xfff32000u
#define LVT_STATUS (1u << 12)

const uint32_t lapic_lvt_writable[LAPIC_LVT_COUNT] = {
    [LAPIC_LVT_TIMER] = 0x000700ff, [LAPIC_LVT_THERMAL] = 0x000107ff,
    [LAPIC_LVT_PERF] = 0x000107ff,  [LAPIC_LVT_LINT0] = 0x0001a7ff,
    [LAPIC_LVT_LINT1] = 0x0001a7ff, [LAPIC_LVT_ERROR] = 0x000100ff,
    [LAPIC_LVT_CMCI] = 0x000107ff,
};

// The LVT entry of a register, or -1.
static int lvt_index(unsigned reg)
{
    if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR)
        return reg - REG_LVT_TIMER;
    return reg == REG_LVT_CMCI ? LAPIC_LVT_CMCI : -1;
}

// What both interfaces share. False: there is no such readable register.
static bool reg_read(struct lapic *lapic, unsigned reg, uint32_t *value)
{
    int lvt = lvt_index(reg);

    lapic_timer_settle(lapic);
    if (lvt >= 0) {
        *value = lapic->lvt[lvt];
        return true;
    }
    if (reg >= REG_ISR && reg < REG_ESR) {
        lapic_pv_eoi_sync(lapic);
        *value = reg < REG_TMR   ? lapic->isr[reg - REG_ISR]
                 : reg < REG_IRR ? lapic->tmr[reg - REG_TMR]
                                 : lapic->irr[reg - REG_IRR];
        return true;
    }
    switch (reg) {
    case REG_VERSION:
        *value = VERSION;
        return true;
    case REG_TPR:
        *value = lapic->tpr;
        return true;
    case REG_PPR:
        lapic_pv_eoi_sync(lapic);
        *value = lapic_ppr(lapic);
        return true;
    case REG_LDR:
        *value = lapic_logical_id(lapic);
        return true;
    case REG_SVR:
        *value = lapic->svr;
        return true;
    case REG_ESR:
        *value = lapic->esr;
        return true;
    case REG_ICR_LOW:
        *value = lapic->icr_low;
        return true;
    case REG_INITIAL_COUNT:
        *value = lapic->initial_count;
        return true;
    case REG_CURRENT_COUNT:
        *value = lapic_timer_count(lapic);
        return true;
    case REG_DIVIDE:
        *value = lapic->divide;
        return true;
    default:
        return false;
    }
}

static void write_lvt(struct lapic *lapic, int index, uint32_t value)
{
    value &= lapic_lvt_writable[index];
    // While the APIC is disabled by software, the entries stay masked.
    if (!(lapic->svr & SVR_ENABLED))
        value |= LVT_MASKED;
    if (index == LAPIC_LVT_TIMER) {
        lapic_timer_write_lvt(lapic, value);
        return;
    }
    lapic->lvt[index] = value | (lapic->lvt[index] & LVT_REMOTE_IRR);
    if (index == LAPIC_LVT_LINT0 || index == LAPIC_LVT_LINT1)
        lapic_lint_changed(lapic, index - LAPIC_LVT_LINT0);
}

static void write_svr(struct lapic *lapic, uint32_t value)
{
    lapic->svr = value & SVR_WRITABLE;
    if (!(value & SVR_ENABLED)) {
        for (unsigned i = 0; i < LAPIC_LVT_COUNT; i++)
            lapic->lvt[i] |= LVT_MASKED;
        lapic_timer_rearm(lapic);
    }
    lapic_update(lapic);
    lapic_accepting(lapic);
}

// What both interfaces share. False: there is no such writable register.
static bool reg_write(struct lapic *lapic, unsigned reg, uint32_t value)
{
    int lvt = lvt_index(reg);

    lapic_timer_settle(lapic);
    if (lvt >= 0) {
        write_lvt(lapic, lvt, value);
        return true;
    }
    switch (reg) {
    case REG_TPR:
        lapic->tpr = value & 0xff;
        lapic_update(lapic);
        return true;
    case REG_EOI:
        lapic_eoi(lapic);
        return true;
    case REG_SVR:
        write_svr(lapic, value);
        return true;
    case REG_ESR:
        // A write latches what was collected, whatever its value.
        lapic->esr = lapic->esr_pending;
        lapic->esr_pending = 0;
        return true;
    case REG_INITIAL_COUNT:
        lapic_timer_write_count(lapic, value);
        return true;
    case REG_DIVIDE:
        lapic_timer_write_divide(lapic, value & 0xb);
        return true;
    default:
        return false;
    }
}

uint32_t lapic_mmio_read(struct lapic *lapic, unsigned reg)
{
    uint32_t value = 0;

    switch (reg) {
    case REG_ID:
        return lapic->xid << 24;
    case REG_APR:
        lapic_pv_eoi_sync(lapic);
        return lapic_apr(lapic);
    case REG_DFR:
        return lapic->dfr;
    case REG_ICR_HIGH:
        return lapic->icr_high;
    case REG_EOI: // write-only
    case REG_RRD: // remote read is a thing of the discrete APIC
        return 0;
    default:
        if (!reg_read(lapic, reg, &value))
            lapic_error(lapic, ESR_ILLEGAL_REGISTER);
        return value;
    }
}

void lapic_mmio_write(struct lapic *lapic, unsigned reg, uint32_t value)
{
    switch (reg) {
    case REG_ID:
        lapic->xid = value >> 24;
        lapic_accepting(lapic);
        break;
    case REG_LDR:
        lapic->ldr = value & 0xff000000;
        lapic_accepting(lapic);
        break;
    case REG_DFR:
        lapic->dfr = value | 0x0fffffff;
        lapic_accepting(lapic);
        break;
    case REG_ICR_HIGH:
        lapic->icr_high = value & 0xff000000;
        break;
    case REG_ICR_LOW:
        lapic->icr_low = value & ICR_WRITABLE;
        lapic_send(lapic, lapic->icr_low, lapic->icr_high >> 24, false);
        break;
    case REG_VERSION: // read-only registers ignore writes
    case REG_APR:
    case REG_PPR:
    case REG_RRD:
    case REG_CURRENT_COUNT:
        break;
    default:
        if (!reg_write(lapic, reg, value) && !(reg >= REG_ISR && reg < REG_ESR))
            lapic_error(lapic, ESR_ILLEGAL_REGISTER);
        break;
    }
}

static bool x2apic_read(struct lapic *lapic, unsigned reg, uint64_t *value)
{
    uint32_t low = 0;

    *value = 0;
    switch (reg) {
    case REG_ID:
        *value = lapic->id;
        return true;
    case REG_ICR_LOW:
        *value = (uint64_t)lapic->icr_high << 32 | lapic->icr_low;
        return true;
    default:
        if (!reg_read(lapic, reg, &low))
            return false;
        *value = low;
        return true;
    }
}

// Bits that must be zero in a write, else #GP.
static uint64_t x2apic_reserved(unsigned reg)
{
    int lvt = lvt_index(reg);

    if (lvt >= 0) {
        // Read-only bits are not reserved; only the pins have a remote IRR.
        bool pin = lvt == LAPIC_LVT_LINT0 || lvt == LAPIC_LVT_LINT1;
        return ~(uint64_t)(lapic_lvt_writable[lvt] | LVT_STATUS | (pin ? LVT_REMOTE_IRR : 0));
    }
    switch (reg) {
    case REG_TPR:
    case REG_SELF_IPI:
        return ~UINT64_C(0xff);
    case REG_SVR:
        return ~(uint64_t)SVR_WRITABLE;
    case REG_INITIAL_COUNT:
        return ~UINT64_C(0xffffffff);
    case REG_DIVIDE:
        return ~UINT64_C(0xb);
    case REG_ICR_LOW:
        return ICR_X2APIC_RESERVED;
    default: // EOI and ESR take zero only
        return ~UINT64_C(0);
    }
}

static bool x2apic_write(struct lapic *lapic, unsigned reg, uint64_t value)
{
    if (value & x2apic_reserved(reg))
        return false;
    switch (reg) {
    case REG_ICR_LOW:
        lapic->icr_low = value & ICR_WRITABLE;
        lapic->icr_high = value >> 32;
        lapic_send(lapic, lapic->icr_low, lapic->icr_high, true);
        return true;
    case REG_SELF_IPI:
        lapic_send(lapic, 1u << 18 | (value & 0xff), 0, true);
        return true;
    default:
        return reg_write(lapic, reg, value);
    }
}

bool lapic_msr_read(struct lapic *lapic, uint32_t msr, uint64_t *value)
{
    if (msr == MSR_APIC_BASE) {
        *value = lapic->base;
        return true;
    }
    if (msr == MSR_TSC_DEADLINE && lapic->bus->ops.tsc) {
        lapic_timer_settle(lapic);
        *value = lapic_timer_read_deadline(lapic);
        return true;
    }
    if (msr - MSR_X2APIC < 0x100 && lapic_x2apic(lapic))
        return x2apic_read(lapic, msr - MSR_X2APIC, value);
    return false;
}

bool lapic_msr_write(struct lapic *lapic, uint32_t msr, uint64_t value)
{
    if (msr == MSR_APIC_BASE)
        return lapic_set_base(lapic, value);
    if (msr == MSR_TSC_DEADLINE && lapic->bus->ops.tsc) {
        lapic_timer_settle(lapic);
        lapic_timer_write_deadline(lapic, value);
        return true;
    }
    if (msr - MSR_X2APIC < 0x100 && lapic_x2apic(lapic))
        return x2apic_write(lapic, msr - MSR_X2APIC, value);
    return false;
}

// The LAPIC that answers in this window: that of the accessing processor, if it is mapped there.
static struct lapic *window_lapic(const struct lapic_window *window)
{
    struct lapic_bus *bus = window->bus;
    int cpu = bus->ops.current_cpu ? bus->ops.current_cpu(bus->opaque) : 0;
    struct lapic *lapic;

    if (cpu < 0 || (unsigned)cpu >= bus->count)
        return NULL;
    lapic = &bus->lapics[cpu];
    if (!lapic_enabled(lapic) || lapic_x2apic(lapic) ||
        (lapic->base & APIC_BASE_ADDRESS) != window->base)
        return NULL;
    return lapic;
}

static uint64_t window_read(void *opaque, uint64_t offset, unsigned size)
{
    struct lapic *lapic = window_lapic(opaque);

    if (!lapic)
        return UINT64_MAX;
    // Registers are 32 bits wide every 16 bytes; parts of them can be read, the rest is zero.
    if ((offset & 15) + size > 4)
        return 0;
    return lapic_mmio_read(lapic, offset >> 4) >> (offset & 3) * 8;
}

static void window_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct lapic *lapic = window_lapic(opaque);

    if (lapic && (offset & 15) == 0 && size == 4)
        lapic_mmio_write(lapic, offset >> 4, value);
}

const struct io_ops lapic_window_ops = {.read = window_read, .write = window_write, .max_size = 4};
