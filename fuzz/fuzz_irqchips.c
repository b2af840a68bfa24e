// SPDX-License-Identifier: Apache-2.0
// Interrupt controllers and timers, wired as on a board, under random register accesses, pin
// changes, acknowledges, passing time and damaged saved state. Found besides what the sanitizers
// see: a timer that keeps the host busy, and an acknowledge that contradicts lapic_may_interrupt().
//
// Input: records of 12 bytes: operation, size/number, 16-bit offset, 64-bit value.
#include "base/state.h"
#include "devices/chipset/hpet.h"
#include "devices/chipset/ioapic.h"
#include "devices/chipset/lapic.h"
#include "devices/chipset/pic.h"
#include "devices/chipset/pit.h"
#include <stdlib.h>
#include <string.h>

#define CPUS 3
#define REGIONS (PIC_REGIONS + PIT_REGIONS + 3)
#define MAX_RECORDS 2000

struct board {
    struct clock_counted clock;
    struct timer_queue queue;
    struct lapic_bus *lapics;
    struct ioapic *ioapic;
    struct pic *pic;
    struct pit *pit;
    struct hpet *hpet;
    struct io_region regions[REGIONS];
    struct io_region moved; // a relocated LAPIC window
    int current;
    uint64_t flag; // paravirtual EOI
};

static void on_event(void *opaque, unsigned cpu)
{
    if (cpu >= CPUS)
        abort();
}

static void on_sipi(void *opaque, unsigned cpu, uint8_t vector)
{
    on_event(opaque, cpu);
}

static int on_extint(void *opaque)
{
    return pic_ack(((struct board *)opaque)->pic);
}

static void on_eoi(void *opaque, uint8_t vector)
{
    ioapic_eoi(((struct board *)opaque)->ioapic, vector);
}

static uint64_t on_tsc(void *opaque, unsigned cpu)
{
    return clock_now(&((struct board *)opaque)->clock.clock) * 3;
}

static int on_current(void *opaque)
{
    return ((struct board *)opaque)->current;
}

static int on_map(void *opaque, const struct io_region *region)
{
    struct board *b = opaque;

    if (b->moved.ops)
        return -1;
    b->moved = *region;
    return 0;
}

static void on_unmap(void *opaque, const struct io_region *region)
{
    struct board *b = opaque;

    if (!b->moved.ops || b->moved.base != region->base)
        abort();
    b->moved.ops = NULL;
}

static bool on_offer(void *opaque, unsigned cpu)
{
    struct board *b = opaque;

    b->flag |= 1u << cpu;
    return true;
}

static bool on_claim(void *opaque, unsigned cpu)
{
    struct board *b = opaque;
    bool skipped = !(b->flag >> cpu & 1);

    b->flag &= ~(UINT64_C(1) << cpu);
    return skipped;
}

static void pic_output(void *opaque, int number, bool level)
{
    struct board *b = opaque;

    lapic_bus_lint(b->lapics, 0, level);
    ioapic_input(b->ioapic, 0, level);
}

static void isa_irq(void *opaque, int number, bool level)
{
    struct board *b = opaque;

    pic_input(b->pic, number, level);
    ioapic_input(b->ioapic, number == 0 ? 2 : number, level);
}

static void gsi(void *opaque, int number, bool level)
{
    struct board *b = opaque;

    if (number < 0 || number > 31)
        abort();
    ioapic_input(b->ioapic, number, level);
}

static void board_init(struct board *b)
{
    memset(b, 0, sizeof(*b));
    clock_counted_init(&b->clock, 0);
    timer_queue_init(&b->queue, &b->clock.clock);
    b->lapics = lapic_bus_create(&(struct lapic_bus_config){.cpu_count = CPUS,
                                                            .timers = &b->queue,
                                                            .tsc_hz = 3000000000,
                                                            .opaque = b,
                                                            .ops = {.interrupt = on_event,
                                                                    .nmi = on_event,
                                                                    .smi = on_event,
                                                                    .init = on_event,
                                                                    .sipi = on_sipi,
                                                                    .extint_ack = on_extint,
                                                                    .eoi = on_eoi,
                                                                    .tsc = on_tsc,
                                                                    .current_cpu = on_current,
                                                                    .map = on_map,
                                                                    .unmap = on_unmap,
                                                                    .pv_eoi_offer = on_offer,
                                                                    .pv_eoi_claim = on_claim}},
                                 NULL);
    b->ioapic = ioapic_create(&(struct ioapic_config){.bus = b->lapics}, NULL);
    b->pic = pic_create(&(struct pic_config){.output = {.set = pic_output, .opaque = b}}, NULL);
    b->pit = pit_create(&(struct pit_config){.timers = &b->queue,
                                             .irq = {.set = isa_irq, .opaque = b, .number = 0}},
                        NULL);
    b->hpet =
        hpet_create(&(struct hpet_config){.timers = &b->queue,
                                          .route = {.set = gsi, .opaque = b},
                                          .legacy = {{.set = isa_irq, .opaque = b, .number = 0},
                                                     {.set = isa_irq, .opaque = b, .number = 8}}},
                    NULL);
    pic_regions(b->pic, b->regions);
    pit_regions(b->pit, b->regions + PIC_REGIONS);
    lapic_bus_region(b->lapics, &b->regions[REGIONS - 3]);
    ioapic_region(b->ioapic, &b->regions[REGIONS - 2]);
    hpet_region(b->hpet, &b->regions[REGIONS - 1]);
}

static void board_fini(struct board *b)
{
    hpet_destroy(b->hpet);
    pit_destroy(b->pit);
    pic_destroy(b->pic);
    ioapic_destroy(b->ioapic);
    lapic_bus_destroy(b->lapics);
    timer_queue_destroy(&b->queue);
}

// As the dispatcher: splits what is wider than the device takes.
static void access_region(struct board *b, const struct io_region *region, uint64_t offset,
                          uint64_t value, unsigned size, bool write)
{
    unsigned max = region->ops->max_size ? region->ops->max_size : 8;

    offset %= region->size;
    if (offset + size > region->size)
        size = 1;
    for (unsigned done = 0; done < size; done += max) {
        unsigned part = size - done < max ? size - done : max;
        uint64_t piece = part == 8 ? value : value >> done * 8 & ((UINT64_C(1) << part * 8) - 1);

        if (write)
            region->ops->write(region->opaque, offset + done, piece, part);
        else
            region->ops->read(region->opaque, offset + done, part);
    }
}

static void pass_time(struct board *b, uint64_t ns)
{
    uint64_t end = clock_now(&b->clock.clock) + ns;
    uint64_t next;
    unsigned rounds = 0;

    while ((next = timer_queue_run(&b->queue)) <= end) {
        uint64_t now = clock_now(&b->clock.clock);

        if (next > now)
            clock_counted_advance(&b->clock, next - now);
        // At most one wake-up per timer and minimum period, and a few for what was due already.
        if (++rounds > 100 + ns / 10000 * (CPUS + 1 + HPET_TIMERS_MAX) * 2)
            abort();
    }
    if (end > clock_now(&b->clock.clock))
        clock_counted_advance(&b->clock, end - clock_now(&b->clock.clock));
}

// Saves a device, damages one byte, and loads it: either it is refused (and the device is reset, as
// a machine that fails to load is never run), or it must go on safely.
static void damage(struct board *b, unsigned which, uint64_t where, uint8_t byte)
{
    static const struct state_desc *const descs[] = {&pic_state, &pit_state, &ioapic_state,
                                                     &hpet_state, &lapic_state};
    void *const objects[] = {b->pic, b->pit, b->ioapic, b->hpet,
                             lapic_bus_get(b->lapics, where % CPUS)};
    struct state_buffer buffer = {0};
    size_t offset = 0;

    which %= ARRAY_SIZE(descs);
    if (state_save(&buffer, descs[which], objects[which]) == 0) {
        buffer.data[where % buffer.size] ^= byte;
        if (state_load(&buffer, &offset, descs[which], objects[which], NULL) < 0) {
            pic_reset(b->pic);
            pit_reset(b->pit);
            ioapic_reset(b->ioapic);
            hpet_reset(b->hpet);
            lapic_bus_reset(b->lapics);
        }
    }
    state_buffer_free(&buffer);
}

static void check_ack(struct board *b, unsigned cpu)
{
    struct lapic *lapic = lapic_bus_get(b->lapics, cpu);
    bool promised;
    int vector;

    // The guest's own EOI may be what makes something deliverable.
    lapic_pv_eoi_sync(lapic);
    promised = lapic_has_interrupt(lapic);
    vector = lapic_ack(lapic);
    if ((vector >= 0) != promised || vector > 255)
        abort();
    if (lapic_has_interrupt(lapic) != lapic_may_interrupt(lapic))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct board b;

    board_init(&b);
    for (unsigned n = 0; n < MAX_RECORDS && size >= 12; n++, data += 12, size -= 12) {
        unsigned operation = data[0] & 15, number = data[1];
        struct lapic *lapic = lapic_bus_get(b.lapics, number % CPUS);
        uint16_t offset;
        uint64_t value;

        memcpy(&offset, data + 2, 2);
        memcpy(&value, data + 4, 8);
        b.current = data[0] >> 4 & 3;
        switch (operation) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4:
        case 5: {
            const struct io_region *region = &b.regions[number >> 3 & 7];

            if (b.moved.ops && number >> 6 == 3)
                region = &b.moved;
            access_region(&b, region, offset, value, 1u << (number & 3), !(number & 4));
            break;
        }
        case 6: // the LAPIC and I/O APIC windows are sparse: aim
            access_region(&b, &b.regions[REGIONS - 3], offset & 0x3f0, value, 4, true);
            break;
        case 7:
            ioapic_input(b.ioapic, number, value & 1);
            break;
        case 8:
            pic_input(b.pic, number & 31, value & 1);
            break;
        case 9:
            lapic_bus_msi(b.lapics, LAPIC_DEFAULT_BASE | (value & 0xfffff), value >> 32);
            break;
        case 10:
            pass_time(&b, value & 0xfffff);
            break;
        case 11: // the host was asleep
            if (clock_now(&b.clock.clock) < UINT64_C(1) << 60)
                clock_counted_advance(&b.clock, value & ((UINT64_C(1) << 45) - 1));
            timer_queue_run(&b.queue);
            break;
        case 12:
            lapic_msr_write(lapic,
                            offset & 0x8000   ? 0x1b
                            : offset & 0x4000 ? 0x6e0
                                              : 0x800 + (offset & 0xff),
                            value);
            break;
        case 13: {
            uint64_t result;

            lapic_msr_read(lapic, 0x800 + (offset & 0xff), &result);
            lapic_set_cr8(lapic, value);
            b.flag &= value;
            break;
        }
        case 14:
            damage(&b, number, value >> 8, value & 0xff);
            break;
        default:
            check_ack(&b, number % CPUS);
            break;
        }
    }
    board_fini(&b);
    return 0;
}
