// SPDX-License-Identifier: Apache-2.0
// Writes rubbish to every register of every chip, in every size, and reads them all. Command line: seed,
// then "all" to include the ports that reset or power off (the guest may end then, as a PC would).
#include "guest.h"

static int ends_the_machine(uint16_t port)
{
    return port == 0x64 || port == 0x60 || port == 0x92 || (port >= 0xcf8 && port <= 0xcff) ||
           (port >= 0x600 && port < 0x640) || (port >= 0x3f8 && port <= 0x3ff);
}

static void poke(volatile uint8_t *at, uint32_t value, uint32_t kind)
{
    switch (kind % 6) {
    case 0:
        *at = (uint8_t)value;
        break;
    case 1:
        *(volatile uint16_t *)at = (uint16_t)value;
        break;
    case 2:
    case 3:
        *(volatile uint32_t *)at = value;
        break;
    case 4:
        (void)*(volatile uint32_t *)at;
        break;
    default:
        (void)*at;
    }
}

int main(const struct start_info *info)
{
    static const uint32_t windows[] = {0xfec00000, 0xfed00000, 0xfee00000};
    const char *command = (const char *)(uintptr_t)info->cmdline;
    uint32_t seed = parse_number(command) * 2654435761u + 1, all = 0;
    while (*command)
        all |= *command++ == 'a';

    __asm__ volatile("cli");
    for (uint32_t round = 0; round < 20; round++) {
        for (uint32_t port = 0; port < 0x1000; port++) {
            uint32_t value = next_random(&seed);
            if (!all &&
                (ends_the_machine((uint16_t)port) || ends_the_machine((uint16_t)(port + 1)) ||
                 ends_the_machine((uint16_t)(port + 2)) || ends_the_machine((uint16_t)(port + 3))))
                continue;
            switch (next_random(&seed) % 4) {
            case 0:
                out8((uint16_t)port, (uint8_t)value);
                break;
            case 1:
                out16((uint16_t)port, (uint16_t)value);
                break;
            case 2:
                out32((uint16_t)port, value);
                break;
            default:
                in8((uint16_t)port);
            }
        }
        for (uint32_t i = 0; i < 3; i++)
            for (uint32_t n = 0; n < 2000; n++) {
                uint32_t value = next_random(&seed), offset = next_random(&seed) % 0x410;
                // An NMI or INIT sent to this processor would end this guest: keep the delivery mode (bits
                // 10:8 of the ICR, the LVTs and the redirection table) at "fixed".
                if (!all)
                    value &= ~0x700u;
                poke((volatile uint8_t *)(uintptr_t)(windows[i] + (offset & ~3u)), value,
                     next_random(&seed));
            }
    }
    print("survived\n");
    return 0;
}
