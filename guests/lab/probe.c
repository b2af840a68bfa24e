// SPDX-License-Identifier: Apache-2.0
// See probe.h.
#include "probe.h"

static unsigned code_length;
static const char *mode_name = "?";
static unsigned ring;
static u8 data_before[256];
bool probe_loose_registers;

#define STACK_ABOVE 64 // bytes above the stack pointer that must not change

const char *probe_mode_name(enum probe_mode mode)
{
    static const char *const legacy[] = {"16-bit", "32-bit"};
    static const char *const longs[] = {"compat-16", "compat-32", "64-bit"};
    return PROBE_LONG ? longs[mode] : legacy[mode];
}

bool probe_possible(enum probe_mode mode, unsigned cpl)
{
    static int gaps = -1;
    if (gaps < 0)
        gaps = lab_asked("sysexit");
    return !gaps || (mode == PROBE_64 && cpl == 3);
}

void probe_begin(struct lab_state *s, enum probe_mode mode, unsigned cpl)
{
    static const u16 code[2][3] = {{SEL_CODE16, SEL_CODE32, SEL_CODE0},
                                   {SEL_CODE16_3, SEL_CODE32_3, SEL_CODE3}};
    bool wide = mode != PROBE_16;
    // IRET to a 16-bit stack leaves the upper half of ESP, and from ring 0 of compatibility mode all of RSP counts.
    u16 data = cpl ? wide ? SEL_DATA3 : SEL_DATA16_3 : wide ? SEL_DATA0 : SEL_DATA16;

    *s = (struct lab_state){.ip = PROBE_CODE,
                            .cs = code[cpl != 0][mode],
                            .flags = PROBE_FLAGS,
                            .sp = PROBE_STACK - STACK_ABOVE,
                            .ss = data,
                            .ds = data,
                            .es = data,
                            .fs = data,
                            .gs = data};
    if (PROBE_LONG && !cpl)
        s->ss = SEL_DATA0;
    mode_name = probe_mode_name(mode);
    ring = cpl;
    for (unsigned i = 0; i < LAB_GPRS; i++)
        s->gpr[i] = (ulong)0xc0de0000 + i * 0x101;
    s->gpr[3] = s->gpr[7] = PROBE_DATA;
    s->gpr[6] = PROBE_DATA + 0x80;
    s->gpr[5] = PROBE_STACK - STACK_ABOVE;
    for (unsigned i = 0; i < sizeof(data_before); i++)
        ((volatile u8 *)(ulong)PROBE_DATA)[i] = (u8)(i * 7 + 3);
    for (unsigned i = 0; i < STACK_ABOVE; i++)
        ((volatile u8 *)(ulong)PROBE_STACK - STACK_ABOVE)[i] = (u8)(i * 5 + 1);
}

void probe_code(const void *bytes, unsigned count)
{
    volatile u8 *at = (volatile u8 *)(ulong)PROBE_CODE;
    for (unsigned i = 0; i < count; i++)
        at[i] = ((const u8 *)bytes)[i];
    at[count] = 0x0f;
    at[count + 1] = 0x0b;
    code_length = count;
}

unsigned probe_length(void)
{
    return code_length;
}

const struct lab_trap *probe_run(const struct lab_state *s)
{
    for (unsigned i = 0; i < sizeof(data_before); i++)
        data_before[i] = ((volatile u8 *)(ulong)PROBE_DATA)[i];
    return lab_enter(s);
}

static bool say(bool ok, const char *what, const char *field, u64 got, u64 want)
{
    return lab_check(ok, "%s %s ring %u: %s: got %llx, want %llx", mode_name, what, ring, field,
                     got, want);
}

// R8 to R15 are not the code's to see outside of 64-bit mode, but they last.
static void expect_unchanged(const char *what, const struct lab_state *s, const struct lab_trap *t)
{
    static const char *const names[] = {"ax", "cx", "dx",  "bx",  "sp",  "bp",  "si",  "di",
                                        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    for (unsigned i = 0; i < LAB_GPRS; i++)
        if (i != 4 && t->gpr[i] != s->gpr[i])
            say(false, what, names[i], t->gpr[i], s->gpr[i]);
    bool same = true;
    for (unsigned i = 0; i < sizeof(data_before); i++)
        same = same && data_before[i] == ((volatile u8 *)(ulong)PROBE_DATA)[i];
    for (unsigned i = 0; i < STACK_ABOVE; i++)
        same = same && ((volatile u8 *)(ulong)PROBE_STACK - STACK_ABOVE)[i] == (u8)(i * 5 + 1);
    say(same, what, "memory unchanged", same, 1);
    ulong sp_mask = s->ss == SEL_DATA16_3 || s->ss == SEL_DATA16 ? 0xffff : ~(ulong)0;
    if ((t->sp & sp_mask) != s->sp || t->ss != s->ss) {
        say((t->sp & sp_mask) == s->sp, what, "sp", t->sp, s->sp);
        say(t->ss == s->ss, what, "ss", t->ss, s->ss);
    }
    bool segments = t->ds == s->ds && t->es == s->es && t->fs == s->fs && t->gs == s->gs;
    say(segments, what, "segments unchanged", segments, 1);
}

bool probe_expect(const char *what, const struct lab_state *s, const struct lab_trap *t,
                  unsigned want, u32 error)
{
    bool trap = (want & (PROBE_TRAP | PROBE_END)) != 0;
    unsigned vector = want & PROBE_END ? VEC_UD : want & 0xff;
    if (!lab_check(t && t->vector == vector && t->error == error,
                   "%s %s ring %u: want vector %u error %x, got %u error %x at +%lx cr2 %lx",
                   mode_name, what, ring, vector, error, t ? t->vector : 999, t ? t->error : 0,
                   t ? t->ip - s->ip : 0, t ? t->cr2 : 0))
        return false;
    ulong ip = s->ip + (trap ? code_length : 0);
    bool ok =
        say(t->ip == ip, what, "ip", t->ip, ip) && say(t->cs == s->cs, what, "cs", t->cs, s->cs);
    // SDM vol. 3, 17.3.1.1: faults save RF = 1.
    ulong flags = s->flags | (trap && !(want & PROBE_END) ? 0 : FLAG_RF);
    if (!probe_loose_registers) {
        say(t->flags == flags, what, "flags", t->flags, flags);
        expect_unchanged(what, s, t);
    } else {
        say((t->flags & FLAG_RF) == (flags & FLAG_RF), what, "RF", t->flags, flags);
    }
    // A frame of 64-bit mode starts aligned to 16 bytes.
    if (PROBE_LONG) {
        ulong above = t->frame + 48; // behind the error code's place, five words
        say((above & 15) == 0, what, "frame alignment", above & 15, 0);
    }
    return ok;
}

// --- paging --------------------------------------------------------------------------------------------

#ifdef __x86_64__
static u64 tables[1024] __attribute__((aligned(4096)));
static u64 saved[2];
#else
static u32 directory[1024] __attribute__((aligned(4096)));
static u32 tables[1024] __attribute__((aligned(4096)));
#endif

void probe_entry(ulong address, u64 entry)
{
    ulong i = address >> 12;
    if (entry && entry >> 12 == 0)
        entry |= address & ~0xffful;
#ifdef __x86_64__
    tables[i] = entry;
#else
    tables[i] = (u32)entry;
#endif
}

void probe_page(ulong address, u64 entry)
{
    probe_entry(address, entry);
    lab_invlpg(address);
}

void probe_paging_on(void)
{
    for (ulong i = 0; i < 1024; i++)
        tables[i] = (i << 12) | PAGE_P | PAGE_W | PAGE_U;
#ifdef __x86_64__
    saved[0] = lab_pd[0];
    saved[1] = lab_pd[1];
    lab_pd[0] = (u64)tables | 7;
    lab_pd[1] = (u64)(tables + 512) | 7;
    lab_set_cr3(lab_cr3());
#else
    for (ulong i = 1; i < 1024; i++)
        directory[i] = (u32)(i << 22) | 0x87;
    directory[0] = (u32)tables | 7;
    lab_set_cr3((ulong)directory);
    lab_set_cr4(lab_cr4() | 0x10);
    lab_set_cr0(lab_cr0() | 0x80010000);
#endif
}

void probe_paging_off(void)
{
#ifdef __x86_64__
    lab_pd[0] = saved[0];
    lab_pd[1] = saved[1];
    lab_set_cr3(lab_cr3());
#else
    lab_set_cr0(lab_cr0() & ~0x80010000ul);
    lab_set_cr4(lab_cr4() & ~0x10ul);
#endif
}
