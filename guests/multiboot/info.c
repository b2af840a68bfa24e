// SPDX-License-Identifier: Apache-2.0
// Prints what a Multiboot loader handed over, a line per field; checks the state it was started in. With
// "reset" in its command line it resets the machine once and prints again.
#include "../pvh/guest.h"

struct state {
    uint32_t eax, ebx, eflags, cr0, limit[3]; // of CS, DS, SS
};
struct info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
    uint32_t elf_num, elf_size, elf_addr, elf_shndx;
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, loader_name;
};
struct module {
    uint32_t start, end, string, reserved;
};
struct map_entry {
    uint32_t size;
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));
struct section { // Elf32_Shdr
    uint32_t name, type, flags, addr, offset, size, link, info, align, entsize;
};

// RAM keeps it through a reset.
static volatile uint32_t *const boots = (volatile uint32_t *)0x80000;
static uint32_t bss_word;

static void print_hex(uint64_t n)
{
    char digits[17];
    int i = 16;
    digits[i] = 0;
    do
        digits[--i] = "0123456789abcdef"[n & 15];
    while ((n >>= 4));
    print(digits + i);
}
static void field(const char *name, uint32_t n)
{
    print(name);
    print(" ");
    print_hex(n);
    print("\n");
}
static void text(const char *name, uint32_t address)
{
    print(name);
    print(" \"");
    print((const char *)(uintptr_t)address);
    print("\"\n");
}
static void check(const char *name, int ok)
{
    print(ok ? "ok " : "FAILED ");
    print(name);
    print("\n");
}
static int has_word(const char *in, const char *word)
{
    for (; *in; in++) {
        int i = 0;
        while (word[i] && in[i] == word[i])
            i++;
        if (!word[i])
            return 1;
    }
    return 0;
}

static void modules(const struct info *info)
{
    const struct module *m = (const struct module *)(uintptr_t)info->mods_addr;

    for (uint32_t i = 0; i < info->mods_count; i++) {
        const uint8_t *data = (const uint8_t *)(uintptr_t)m[i].start;
        uint32_t sum = 0;
        for (uint32_t k = 0; k < m[i].end - m[i].start; k++)
            sum = sum * 31 + data[k];
        print("module ");
        print_number(i);
        print(" bytes ");
        print_number(m[i].end - m[i].start);
        print(" sum ");
        print_hex(sum);
        text("", m[i].string);
        check("module on a page boundary", (m[i].start & 0xfff) == 0);
    }
}

// The symbol table holds this function's name, and its section was loaded for us.
static void sections(const struct info *info)
{
    const struct section *s = (const struct section *)(uintptr_t)info->elf_addr;
    const char *names = (const char *)(uintptr_t)s[info->elf_shndx].addr;
    int found = 0;

    for (uint32_t i = 0; i < info->elf_num; i++) {
        print("section ");
        print(names + s[i].name);
        print("\n");
        const char *strings = (const char *)(uintptr_t)s[i].addr;
        if (s[i].type == 3)
            for (uint32_t k = 0; k < s[i].size; k++)
                found |= has_word(strings + k, "sections");
    }
    check("symbols", found);
}

int main(const struct start_info *start)
{
    const struct state *state = (const struct state *)start;
    const struct info *info = (const struct info *)(uintptr_t)state->ebx;

    *boots = *boots >> 8 == 0xb007 ? *boots + 1 : 0xb00701;
    print("boot ");
    print_number(*boots & 0xff);
    print("\n");
    check("magic number", state->eax == 0x2badb002);
    check("protected mode without paging", (state->cr0 & 0x80000001) == 1);
    check("interrupts off", (state->eflags & 0x20200) == 0);
    check("flat segments", state->limit[0] == 0xffffffff && state->limit[1] == 0xffffffff &&
                               state->limit[2] == 0xffffffff);
    check("zeroes in bss", bss_word == 0);
    bss_word = 1;
    volatile uint32_t *low = (volatile uint32_t *)0x90000, *high = (volatile uint32_t *)0x190000;
    *low = 1;
    *high = 2;
    check("address line 20", *low == 1);
    field("flags", info->flags);
    field("mem_lower", info->mem_lower);
    field("mem_upper", info->mem_upper);
    if (info->flags & 4)
        text("cmdline", info->cmdline);
    if (info->flags & 8)
        modules(info);
    if (info->flags & 0x20)
        sections(info);
    for (uint32_t at = 0; info->flags & 0x40 && at < info->mmap_length;) {
        const struct map_entry *e = (const struct map_entry *)(uintptr_t)(info->mmap_addr + at);
        print("map ");
        print_hex(e->base);
        print(" ");
        print_hex(e->length);
        field("", e->type);
        at += e->size + 4;
    }
    if (info->flags & 0x200)
        text("loader", info->loader_name);
    if (has_word((const char *)(uintptr_t)info->cmdline, "reset") && (*boots & 0xff) == 1)
        out8(0xcf9, 6);
    *boots = 0;
    return 0;
}
