// SPDX-License-Identifier: Apache-2.0
// Says what it was given and does what the command line asks: how a guest can end.
#include "guest.h"

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

int main(const struct start_info *info)
{
    const char *command = (const char *)(uintptr_t)info->cmdline;
    print("hello from PVH, command line \"");
    print(command);
    print("\"\n");
    if (info->magic != 0x336ec578)
        print("FAILED: no start info\n");
    if (info->module_count == 1) {
        const uint64_t *module = (const uint64_t *)(uintptr_t)info->modules;
        print("module of ");
        print_number((uint32_t)module[1]);
        print(" bytes: ");
        const char *text = (const char *)(uintptr_t)module[0];
        for (uint32_t i = 0; i < module[1] && i < 64; i++) {
            char one[2] = {text[i], 0};
            print(one);
        }
    }
    if (same(command, "triple")) {
        struct {
            uint16_t limit;
            uint32_t base;
        } __attribute__((packed)) none = {0, 0};
        __asm__ volatile("lidt %0; int3" : : "m"(none));
    } else if (same(command, "nowhere")) {
        ((void (*)(void))(uintptr_t)0xd0000000)();
    } else if (same(command, "reset-cf9")) {
        out8(0xcf9, 0x06);
    } else if (same(command, "reset-8042")) {
        out8(0x64, 0xfe);
    } else if (same(command, "reset-port92")) {
        out8(0x92, 0x01);
    } else if (same(command, "halt")) {
        for (;;)
            __asm__ volatile("cli; hlt");
    } else if (same(command, "spin")) {
        for (;;)
            __asm__ volatile("");
    } else if (same(command, "flood")) {
        for (;;)
            print("................................................................\n");
    } else {
        return 0;
    }
    for (volatile uint32_t i = 0; i < 100000000; i++)
        ;
    print("FAILED: still here\n");
    return 0;
}
