// SPDX-License-Identifier: Apache-2.0
// The local APIC's heart: requests, priorities, acknowledge, EOI, pins, errors, modes. See lapic.h.
#include "devices/chipset/lapic_private.h"
#include "devices/chipset/timescale.h"
#include <string.h>

bool lapic_enabled(const struct lapic *lapic)
{
    return lapic->base & APIC_BASE_EN;
}

bool lapic_x2apic(const struct lapic *lapic)
{
    return lapic->base & APIC_BASE_EXTD;
}

uint32_t lapic_logical_id(const struct lapic *lapic)
{
    if (lapic_x2apic(lapic))
        return (lapic->id >> 4) << 16 | 1u << (lapic->id & 15);
    return lapic->ldr;
}

uint32_t lapic_ppr(const struct lapic *lapic)
{
    int isr = vector_highest(lapic->isr);
    uint32_t service = isr < 0 ? 0 : isr & 0xf0;

    return (lapic->tpr & 0xf0) >= service ? lapic->tpr : service;
}

uint32_t lapic_apr(const struct lapic *lapic)
{
    int isr = vector_highest(lapic->isr), irr = vector_highest(lapic->irr);
    uint32_t service = isr < 0 ? 0 : isr & 0xf0, request = irr < 0 ? 0 : irr & 0xf0;

    if ((lapic->tpr & 0xf0) >= request && (lapic->tpr & 0xf0) > service)
        return lapic->tpr;
    return service > request ? service : request;
}

static bool extint_ready(const struct lapic *lapic)
{
    uint32_t lvt = lapic->lvt[LAPIC_LVT_LINT0];

    // Disabled, the pins of the bootstrap processor are its INTR and NMI.
    if (!lapic_enabled(lapic))
        return lapic->lint[0] && lapic->base & APIC_BASE_BSP;
    return lapic->extint ||
           (lapic->lint[0] && !(lvt & LVT_MASKED) && LVT_DELIVERY(lvt) == LAPIC_EXTINT);
}

// The request to be delivered next, or -1.
static int deliverable(const struct lapic *lapic)
{
    int vector;

    if (!lapic_enabled(lapic))
        return -1;
    vector = vector_highest(lapic->irr);
    return vector >= 0 && (uint32_t)(vector & 0xf0) > (lapic_ppr(lapic) & 0xf0) ? vector : -1;
}

// While an offer stands, the guest may end the interrupt in service without a word: what waits behind
// it has to make the processor ask, which settles the offer.
static bool deliverable_after_offer(const struct lapic *lapic)
{
    uint32_t rest[8], floor = lapic->tpr & 0xf0;
    int isr = vector_highest(lapic->isr), irr = vector_highest(lapic->irr);

    if (!lapic->pv_eoi_offered || !lapic_enabled(lapic) || isr < 0 || irr < 0)
        return false;
    memcpy(rest, lapic->isr, sizeof(rest));
    vector_clear(rest, isr);
    isr = vector_highest(rest);
    if (isr >= 0 && (uint32_t)(isr & 0xf0) > floor)
        floor = isr & 0xf0;
    return (uint32_t)(irr & 0xf0) > floor;
}

bool lapic_has_interrupt(const struct lapic *lapic)
{
    return extint_ready(lapic) || deliverable(lapic) >= 0 || deliverable_after_offer(lapic);
}

void lapic_update(struct lapic *lapic)
{
    bool ready = lapic_has_interrupt(lapic);

    atomic_store_explicit(&lapic->ready, ready, memory_order_release);
    if (ready)
        lapic->bus->ops.interrupt(lapic->bus->opaque, lapic->cpu);
}

int lapic_ack(struct lapic *lapic)
{
    const struct lapic_ops *ops = &lapic->bus->ops;
    int vector;

    lapic_pv_eoi_sync(lapic);
    if (extint_ready(lapic) && ops->extint_ack) {
        lapic->extint = false;
        vector = ops->extint_ack(lapic->bus->opaque);
        lapic_update(lapic);
        return vector;
    }
    vector = deliverable(lapic);
    if (vector >= 0) {
        vector_clear(lapic->irr, vector);
        vector_set(lapic->isr, vector);
        // The guest may skip an EOI that has no further consequence.
        if (ops->pv_eoi_offer && ops->pv_eoi_claim && !vector_test(lapic->tmr, vector) &&
            vector_highest(lapic->irr) < 0)
            lapic->pv_eoi_offered = ops->pv_eoi_offer(lapic->bus->opaque, lapic->cpu);
    }
    lapic_update(lapic);
    return vector;
}

bool lapic_accept(struct lapic *lapic, uint8_t vector, bool level)
{
    if (!lapic_software_enabled(lapic))
        return false;
    if (vector < 16) {
        lapic_error(lapic, ESR_RECEIVE_ILLEGAL);
        return false;
    }
    vector_set(lapic->irr, vector);
    if (level)
        vector_set(lapic->tmr, vector);
    else
        vector_clear(lapic->tmr, vector);
    lapic_update(lapic);
    return true;
}

void lapic_error(struct lapic *lapic, uint32_t esr_bit)
{
    uint32_t lvt = lapic->lvt[LAPIC_LVT_ERROR];

    // Only the first occurrence interrupts, which also ends the recursion that an illegal vector in
    // the error entry itself would start.
    if (lapic->esr_pending & esr_bit)
        return;
    lapic->esr_pending |= esr_bit;
    if (!(lvt & LVT_MASKED))
        lapic_accept(lapic, lvt & LVT_VECTOR, false);
}

// A level-triggered fixed interrupt on a LINT pin: one per EOI.
static void lint_request(struct lapic *lapic, unsigned pin)
{
    uint32_t *lvt = &lapic->lvt[LAPIC_LVT_LINT0 + pin];

    if (pin == 0 && lapic->lint[0] && *lvt & LVT_LEVEL && !(*lvt & (LVT_MASKED | LVT_REMOTE_IRR)) &&
        LVT_DELIVERY(*lvt) == LAPIC_FIXED && lapic_accept(lapic, *lvt & LVT_VECTOR, true))
        *lvt |= LVT_REMOTE_IRR;
}

void lapic_eoi(struct lapic *lapic)
{
    const struct lapic_ops *ops = &lapic->bus->ops;
    uint32_t *lint0 = &lapic->lvt[LAPIC_LVT_LINT0];
    int vector;

    lapic_pv_eoi_sync(lapic);
    vector = vector_highest(lapic->isr);
    if (vector < 0)
        return;
    vector_clear(lapic->isr, vector);
    if (vector_test(lapic->tmr, vector)) {
        if (*lint0 & LVT_REMOTE_IRR && (*lint0 & LVT_VECTOR) == (uint32_t)vector) {
            *lint0 &= ~LVT_REMOTE_IRR;
            lint_request(lapic, 0);
        }
        if (!(lapic->svr & SVR_NO_EOI_BROADCAST) && ops->eoi)
            ops->eoi(lapic->bus->opaque, vector);
    }
    lapic_update(lapic);
}

void lapic_pv_eoi_sync(struct lapic *lapic)
{
    int vector;

    if (!lapic->pv_eoi_offered)
        return;
    lapic->pv_eoi_offered = false;
    if (!lapic->bus->ops.pv_eoi_claim ||
        !lapic->bus->ops.pv_eoi_claim(lapic->bus->opaque, lapic->cpu))
        return;
    // Offered for edge-triggered interrupts only: nothing to broadcast.
    vector = vector_highest(lapic->isr);
    if (vector >= 0)
        vector_clear(lapic->isr, vector);
}

// Delivers what an LVT entry or pin asks for, edge-triggered.
static void local_deliver(struct lapic *lapic, uint32_t lvt)
{
    const struct lapic_ops *ops = &lapic->bus->ops;
    void *opaque = lapic->bus->opaque;

    switch (LVT_DELIVERY(lvt)) {
    case LAPIC_FIXED:
        lapic_accept(lapic, lvt & LVT_VECTOR, false);
        break;
    case LAPIC_SMI:
        lapic_smi(lapic);
        break;
    case LAPIC_NMI:
        ops->nmi(opaque, lapic->cpu);
        break;
    case LAPIC_INIT:
        lapic_reset_registers(lapic);
        ops->init(opaque, lapic->cpu);
        break;
    default:
        break;
    }
}

void lapic_raise_lvt(struct lapic *lapic, enum lapic_lvt entry)
{
    uint32_t lvt;

    if (entry != LAPIC_LVT_THERMAL && entry != LAPIC_LVT_PERF && entry != LAPIC_LVT_CMCI)
        return;
    lvt = lapic->lvt[entry];
    if (!lapic_enabled(lapic) || lvt & LVT_MASKED)
        return;
    // SDM vol. 3, "Local Vector Table": the performance counters' entry masks itself.
    if (entry == LAPIC_LVT_PERF)
        lapic->lvt[entry] |= LVT_MASKED;
    local_deliver(lapic, lvt);
}

void lapic_set_lint(struct lapic *lapic, unsigned pin, bool level)
{
    uint32_t lvt;
    bool rise;

    if (pin > 1)
        return;
    rise = level && !lapic->lint[pin];
    lapic->lint[pin] = level;
    lvt = lapic->lvt[LAPIC_LVT_LINT0 + pin];
    if (!lapic_enabled(lapic)) {
        if (pin == 1 && rise && lapic->base & APIC_BASE_BSP)
            lapic->bus->ops.nmi(lapic->bus->opaque, lapic->cpu);
    } else if (pin == 0 && lvt & LVT_LEVEL && LVT_DELIVERY(lvt) == LAPIC_FIXED) {
        lint_request(lapic, 0);
    } else if (rise && !(lvt & LVT_MASKED)) {
        local_deliver(lapic, lvt);
    }
    if (pin == 0)
        lapic_update(lapic);
}

void lapic_lint_changed(struct lapic *lapic, unsigned pin)
{
    if (!(lapic->lvt[LAPIC_LVT_LINT0 + pin] & LVT_LEVEL))
        lapic->lvt[LAPIC_LVT_LINT0 + pin] &= ~LVT_REMOTE_IRR;
    lint_request(lapic, pin);
    lapic_update(lapic);
}

uint8_t lapic_get_cr8(const struct lapic *lapic)
{
    return lapic->tpr >> 4;
}

void lapic_set_cr8(struct lapic *lapic, uint8_t cr8)
{
    lapic->tpr = (cr8 & 15u) << 4;
    lapic_update(lapic);
}

void lapic_reset_registers(struct lapic *lapic)
{
    // SDM vol. 3, "Local APIC State After Power-Up or Reset" and "... After It Receives an
    // INIT-Reset": all but the APIC ID, IA32_APIC_BASE and what the pins are driven to.
    // An INIT may come from another processor, but there is no EOI left to lose.
    if (lapic->pv_eoi_offered && lapic->bus->ops.pv_eoi_claim)
        lapic->bus->ops.pv_eoi_claim(lapic->bus->opaque, lapic->cpu);
    lapic->pv_eoi_offered = false;
    lapic->tpr = 0;
    lapic->ldr = 0;
    lapic->dfr = 0xffffffff;
    lapic->svr = 0xff;
    lapic->esr = lapic->esr_pending = 0;
    lapic->icr_low = lapic->icr_high = 0;
    for (unsigned i = 0; i < 8; i++)
        lapic->isr[i] = lapic->tmr[i] = lapic->irr[i] = 0;
    for (unsigned i = 0; i < LAPIC_LVT_COUNT; i++)
        lapic->lvt[i] = LVT_MASKED;
    lapic->initial_count = lapic->divide = 0;
    lapic->timer_start = 0;
    lapic->tsc_deadline = 0;
    lapic->extint = false;
    lapic->deadline = TIMER_NEVER;
    timer_cancel(&lapic->timer);
    lapic_update(lapic);
}

void lapic_virtual_wire(struct lapic *lapic)
{
    lapic->svr = SVR_ENABLED | 0xff;
    lapic->lvt[LAPIC_LVT_LINT0] = LAPIC_EXTINT << 8;
    lapic->lvt[LAPIC_LVT_LINT1] = LAPIC_NMI << 8;
    lapic_update(lapic);
    lapic_accepting(lapic);
}

static bool wants_window(const struct lapic *lapic)
{
    return lapic_enabled(lapic) && !lapic_x2apic(lapic) &&
           (lapic->base & APIC_BASE_ADDRESS) != LAPIC_DEFAULT_BASE;
}

static struct io_region window_region(struct lapic_window *window)
{
    return (struct io_region){"lapic", window->base, LAPIC_WINDOW_SIZE, &lapic_window_ops, window};
}

static void window_try_map(struct lapic *lapic)
{
    const struct lapic_ops *ops = &lapic->bus->ops;
    struct io_region region;

    if (!wants_window(lapic) || lapic->window.mapped || !ops->map || !ops->unmap)
        return;
    lapic->window.base = lapic->base & APIC_BASE_ADDRESS;
    region = window_region(&lapic->window);
    lapic->window.mapped = ops->map(lapic->bus->opaque, &region) == 0;
}

void lapic_window_update(struct lapic *lapic)
{
    struct lapic_bus *bus = lapic->bus;

    if (lapic->window.mapped &&
        (!wants_window(lapic) || lapic->window.base != (lapic->base & APIC_BASE_ADDRESS))) {
        struct io_region region = window_region(&lapic->window);

        bus->ops.unmap(bus->opaque, &region);
        lapic->window.mapped = false;
        // Another LAPIC at the same place was served by this window.
        for (unsigned i = 0; i < bus->count; i++)
            if (&bus->lapics[i] != lapic &&
                (bus->lapics[i].base & APIC_BASE_ADDRESS) == region.base)
                window_try_map(&bus->lapics[i]);
    }
    window_try_map(lapic);
}

bool lapic_set_base(struct lapic *lapic, uint64_t value)
{
    const uint64_t mode_bits = APIC_BASE_EN | APIC_BASE_EXTD;
    uint64_t old = lapic->base & mode_bits, mode = value & mode_bits;

    // SDM vol. 3, "x2APIC State Transitions": EXTD without EN is invalid; disabled leads to xAPIC
    // only; x2APIC leads to disabled only.
    if (value & ~(APIC_BASE_ADDRESS | mode_bits | APIC_BASE_BSP) || mode == APIC_BASE_EXTD ||
        (old == 0 && mode == mode_bits) || (old == mode_bits && mode == APIC_BASE_EN))
        return false;
    // Which processor booted is a fact; the bit keeps it.
    lapic->base = (value & ~APIC_BASE_BSP) | (lapic->base & APIC_BASE_BSP);
    if (mode != old) {
        if (mode == 0) {
            lapic_reset_registers(lapic);
        } else if (mode == mode_bits) {
            lapic->icr_high = 0;
        }
    }
    lapic_window_update(lapic);
    lapic_update(lapic);
    lapic_accepting(lapic);
    return true;
}

static int lapic_post_load(void *object, struct error *err)
{
    struct lapic *lapic = object;
    const uint64_t mode_bits = APIC_BASE_EN | APIC_BASE_EXTD;

    if (lapic->base & ~(APIC_BASE_ADDRESS | mode_bits | APIC_BASE_BSP) ||
        (lapic->base & mode_bits) == APIC_BASE_EXTD || lapic->xid > 0xff || lapic->tpr > 0xff ||
        lapic->svr & ~SVR_WRITABLE || lapic->divide & ~0xbu)
        return error_set(err, ERROR_INPUT, "lapic: processor %u has an impossible state",
                         lapic->cpu);
    for (unsigned i = 0; i < LAPIC_LVT_COUNT; i++)
        lapic->lvt[i] &= lapic_lvt_writable[i] | LVT_REMOTE_IRR;
    lapic->isr[0] &= ~0xffffu;
    lapic->irr[0] &= ~0xffffu;
    lapic_window_update(lapic);
    timer_arm_or_cancel(&lapic->timer, lapic->deadline);
    atomic_store(&lapic->ready, lapic_has_interrupt(lapic));
    return 0;
}

static const struct state_field lapic_fields[] = {
    STATE_FIELD(struct lapic, base),
    STATE_FIELD(struct lapic, xid),
    STATE_FIELD(struct lapic, tpr),
    STATE_FIELD(struct lapic, ldr),
    STATE_FIELD(struct lapic, dfr),
    STATE_FIELD(struct lapic, svr),
    STATE_FIELD(struct lapic, esr),
    STATE_FIELD(struct lapic, esr_pending),
    STATE_FIELD(struct lapic, icr_low),
    STATE_FIELD(struct lapic, icr_high),
    STATE_ARRAY(struct lapic, isr, uint32_t),
    STATE_ARRAY(struct lapic, tmr, uint32_t),
    STATE_ARRAY(struct lapic, irr, uint32_t),
    STATE_ARRAY(struct lapic, lvt, uint32_t),
    STATE_FIELD(struct lapic, initial_count),
    STATE_FIELD(struct lapic, divide),
    STATE_FIELD(struct lapic, timer_start),
    STATE_FIELD(struct lapic, tsc_deadline),
    STATE_FIELD(struct lapic, deadline),
    STATE_ARRAY(struct lapic, lint, bool),
    STATE_FIELD(struct lapic, extint),
    STATE_FIELD(struct lapic, pv_eoi_offered),
    STATE_TRANSIENT(struct lapic, ready),
    STATE_TRANSIENT(struct lapic, id),
    STATE_TRANSIENT(struct lapic, cpu),
    STATE_TRANSIENT(struct lapic, bus),
    STATE_TRANSIENT(struct lapic, window),
    STATE_TRANSIENT(struct lapic, timer),
    STATE_END,
};

const struct state_desc lapic_state = {
    .name = "lapic",
    .version = 1,
    .size = sizeof(struct lapic),
    .fields = lapic_fields,
    .post_load = lapic_post_load,
};
