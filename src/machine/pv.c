// SPDX-License-Identifier: Apache-2.0
#include "machine/pv.h"
#include "x86/system.h"

#define ENABLE 1u
#define CLOCK_ADDRESS ~UINT64_C(3)
#define EOI_ADDRESS ~UINT64_C(3)
#define EOI_FLAG UINT32_C(1)
#define CLOCK_TSC_STABLE 1u // flags: the clock is the same on every vCPU

struct clock_page { // pvclock_vcpu_time_info
    uint32_t version, pad0;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags, pad[2];
};
struct wall_clock_page { // pvclock_wall_clock
    uint32_t version, sec, nsec;
};

void pv_init(struct pv *pv, struct memory *memory, struct clock *clock)
{
    *pv = (struct pv){.memory = memory, .clock = clock};
}

void pv_vcpu_init(struct pv_vcpu *vcpu, struct pv *pv, struct x86_cpu *cpu)
{
    *vcpu = (struct pv_vcpu){.pv = pv, .cpu = cpu};
}

void pv_vcpu_reset(struct pv_vcpu *vcpu)
{
    vcpu->system_time = vcpu->eoi = 0;
}

// ns = ((ticks << shift) * mul) >> 32, with mul in [2^31, 2^32).
static void clock_scale(uint64_t tsc_hz, uint32_t *mul, int8_t *shift)
{
    uint64_t ticks = tsc_hz;
    int s = 0;
    while (ticks > 2000000000u) {
        ticks >>= 1;
        s--;
    }
    while (ticks <= 1000000000u) {
        ticks <<= 1;
        s++;
    }
    *mul = (uint32_t)(((UINT64_C(1000000000) << 32) / ticks));
    *shift = (int8_t)s;
}

static void clock_write(struct pv_vcpu *vcpu)
{
    gpa_t at = vcpu->system_time & CLOCK_ADDRESS;
    struct clock_page page = {.flags = CLOCK_TSC_STABLE};
    uint32_t version = 0;

    // The version is odd while the page changes. Only this vCPU's thread writes its page.
    memory_read(vcpu->pv->memory, at, &version, sizeof(version));
    version = (version | 1) + 1;
    page.version = version | 1;
    clock_scale(vcpu->cpu->platform->tsc_hz, &page.tsc_to_system_mul, &page.tsc_shift);
    page.tsc_timestamp = x86_rdtsc(vcpu->cpu);
    page.system_time = clock_now(vcpu->pv->clock);
    memory_write(vcpu->pv->memory, at, &page, sizeof(page));
    version = page.version + 1;
    memory_write(vcpu->pv->memory, at, &version, sizeof(version));
}

static void wall_clock_write(struct pv *pv)
{
    uint64_t epoch = pv->clock->epoch_ns;
    struct wall_clock_page page = {.version = 2,
                                   .sec = (uint32_t)(epoch / 1000000000u),
                                   .nsec = (uint32_t)(epoch % 1000000000u)};
    memory_write(pv->memory, pv->wall_clock & CLOCK_ADDRESS, &page, sizeof(page));
}

bool pv_msr_read(struct pv_vcpu *vcpu, uint32_t msr, uint64_t *value)
{
    switch (msr) {
    case PV_MSR_WALL_CLOCK_OLD:
    case PV_MSR_WALL_CLOCK:
        *value = vcpu->pv->wall_clock;
        return true;
    case PV_MSR_SYSTEM_TIME_OLD:
    case PV_MSR_SYSTEM_TIME:
        *value = vcpu->system_time;
        return true;
    case PV_MSR_EOI:
        *value = vcpu->eoi;
        return true;
    default:
        return false;
    }
}

bool pv_msr_write(struct pv_vcpu *vcpu, uint32_t msr, uint64_t value)
{
    switch (msr) {
    case PV_MSR_WALL_CLOCK_OLD:
    case PV_MSR_WALL_CLOCK:
        vcpu->pv->wall_clock = value;
        wall_clock_write(vcpu->pv);
        return true;
    case PV_MSR_SYSTEM_TIME_OLD:
    case PV_MSR_SYSTEM_TIME:
        vcpu->system_time = value;
        if (value & ENABLE)
            clock_write(vcpu);
        return true;
    case PV_MSR_EOI:
        if (value & 2) // reserved
            return false;
        vcpu->eoi = value;
        return true;
    default:
        return false;
    }
}

// The flag word in guest memory, which is aligned and so inside its page, or NULL when the guest named
// no RAM.
static uint32_t *eoi_word(struct pv_vcpu *vcpu, struct memory_page *page)
{
    gpa_t at = vcpu->eoi & EOI_ADDRESS;
    if (!(vcpu->eoi & ENABLE) || !memory_page(vcpu->pv->memory, at, page) ||
        (*page->flags & PAGE_FLAG_ROM))
        return NULL;
    return (uint32_t *)(page->host + (at & PAGE_OFFSET_MASK));
}

// A guest may put the word into a page of code.
static void eoi_stored(struct pv_vcpu *vcpu, const struct memory_page *page)
{
    if (*page->flags != PAGE_FLAGS_PLAIN)
        memory_page_stored(vcpu->pv->memory, NULL, vcpu->eoi & EOI_ADDRESS, sizeof(uint32_t),
                           page->flags);
}

bool pv_eoi_offer(struct pv_vcpu *vcpu)
{
    struct memory_page page;
    uint32_t *word = eoi_word(vcpu, &page);
    if (!word)
        return false;
    __atomic_fetch_or(word, EOI_FLAG, __ATOMIC_SEQ_CST);
    eoi_stored(vcpu, &page);
    return true;
}

bool pv_eoi_claim(struct pv_vcpu *vcpu)
{
    struct memory_page page;
    uint32_t *word = eoi_word(vcpu, &page);
    if (!word)
        return false;
    bool given = !(__atomic_fetch_and(word, ~EOI_FLAG, __ATOMIC_SEQ_CST) & EOI_FLAG);
    eoi_stored(vcpu, &page);
    return given;
}
