// SPDX-License-Identifier: Apache-2.0
// Keeps a device busy for ever: "port" a serial port that nobody may be reading, "strings" the same by
// REP OUTSB, "debug" lines of the debug console, "memory" the HPET, "split" locked changes of a device
// register. It ends only from outside.
#include "guest.h"

static uint8_t zeroes[4096];

int main(const struct start_info *info)
{
    const char *command = (const char *)(uintptr_t)info->cmdline;
    volatile uint32_t *hpet = (volatile uint32_t *)0xfed00000;

    __asm__ volatile("cli");
    for (;;) {
        switch (command[0]) {
        case 'p':
            out8(0x3f8, 'x');
            break;
        case 's': {
            const uint8_t *from = zeroes;
            uint32_t count = sizeof(zeroes);
            __asm__ volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(0x3f8) : "memory");
            break;
        }
        case 'd':
            out8(0xe9, 'x');
            out8(0xe9, '\n');
            break;
        case 'm':
            (void)hpet[0xf0 / 4];
            break;
        default:
            __asm__ volatile("lock addl $1, %0" : "+m"(hpet[0x400 / 4]));
        }
    }
}
