// SPDX-License-Identifier: Apache-2.0
// Moves x87 state and MXCSR between struct x86_cpu and the host's registers (fpu.h has the rules).
//
// Only one cpu can be resident on a thread. The thread remembers which, and puts that one's state
// back before it loads another's, so that two vCPUs run by one thread cannot mix.

#include "x86/fpu.h"

#include <string.h>

#define HOST_MXCSR 0x1f80u // all masked, round to nearest: what the C ABI promises to host code

static _Thread_local struct x86_cpu *resident_cpu;

// What FNSAVE writes in 64-bit mode: SDM vol. 1, figure 8-9, then ST0..ST7.
struct fsave_image {
    uint32_t fcw, fsw, ftw, fip, fcs_fop, fdp, fds;
    uint8_t st[8][10];
};
_Static_assert(sizeof(struct fsave_image) == 108, "FNSAVE image");

static void claim_thread(struct x86_cpu *cpu)
{
    if (resident_cpu != cpu) {
        if (resident_cpu != NULL)
            x86_fpu_sync(resident_cpu);
        resident_cpu = cpu;
    }
}

void x86_fpu_load_x87(struct x86_cpu *cpu)
{
    struct x86_x87 *x = &cpu->x87;
    unsigned top = (x->fsw >> 11) & 7;

    cpu->fpu_ignored = x->fsw & ~x->fcw & 0x3f;
    if (unlikely(cpu->fpu_ignored))
        x->fsw &= (uint16_t) ~(0x8080 | cpu->fpu_ignored);
    struct fsave_image image = {.fcw = 0xffff0000 | x->fcw,
                                .fsw = 0xffff0000 | x->fsw,
                                .ftw = 0xffff0000 | x->ftw,
                                .fds = 0xffff0000};

    claim_thread(cpu);
    for (unsigned i = 0; i < 8; i++)
        memcpy(image.st[i], x->reg[(top + i) & 7], 10);
    __asm__ volatile("frstor %0" : : "m"(image));
    cpu->fpu_resident |= X86_FPU_X87;
}

static void save_x87(struct x86_cpu *cpu)
{
    struct x86_x87 *x = &cpu->x87;
    struct fsave_image image;

    // Leaves the host's unit as after FNINIT, which is what host code expects.
    __asm__ volatile("fnsave %0" : "=m"(image) : : "memory");
    x->fcw = (uint16_t)image.fcw;
    x->fsw = (uint16_t)image.fsw;
    x->ftw = (uint16_t)image.ftw;
    unsigned top = (x->fsw >> 11) & 7;
    for (unsigned i = 0; i < 8; i++)
        memcpy(x->reg[(top + i) & 7], image.st[i], 10);
}

bool x86_fpu_load_mxcsr(struct x86_cpu *cpu)
{
    uint32_t mxcsr = cpu->mxcsr;
    if ((mxcsr & 0x7f80) != 0x1f80) // masks and rounding control; FTZ and DAZ do no harm
        return false;
    claim_thread(cpu);
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    cpu->fpu_resident |= X86_FPU_MXCSR;
    return true;
}

void x86_fpu_sync_slow(struct x86_cpu *cpu)
{
    if (cpu->fpu_resident & X86_FPU_X87)
        save_x87(cpu);
    if (cpu->fpu_resident & X86_FPU_MXCSR) {
        uint32_t host = HOST_MXCSR;
        __asm__ volatile("stmxcsr %0" : "=m"(cpu->mxcsr));
        __asm__ volatile("ldmxcsr %0" : : "m"(host));
    }
    cpu->fpu_resident = 0;
    if (resident_cpu == cpu)
        resident_cpu = NULL;
}

unsigned x86_x87_tag(const uint8_t value[10])
{
    uint64_t significand;
    uint16_t exponent;
    memcpy(&significand, value, 8);
    memcpy(&exponent, value + 8, 2);
    exponent &= 0x7fff;
    if (exponent == 0)
        return significand == 0 ? 1 : 2;
    if (exponent == 0x7fff || !(significand >> 63))
        return 2;
    return 0;
}
