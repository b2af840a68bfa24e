// SPDX-License-Identifier: Apache-2.0
// The guest's own tables, and how one access is tried and judged.
//
// The supervisor lives in an identity map without U; ring 3 runs the same code through a second map of the
// same memory, so that SMEP and SMAP do not concern the guest itself. The address under test has tables of its
// own, one for each level.
#include "paging.h"

#ifdef __x86_64__
#define ALIAS 0x40000000000ul // PML4 slot 8
#define SI "rsi"
#define AX "rax"
#else
#define ALIAS 0x80000000ul
#define SI "esi"
#define AX "eax"
#define KERNEL_TABLES 9 // 4 MiB each: all up to the target
#endif

struct paging_cpu cpu;
bool paging_brief;
enum shape paging_shape = SHAPE_64;
ulong paging_lin, paging_second;
bool paging_upper;

__asm__(".pushsection .text\n"
        ".globl code_read, code_write, code_fetch, code_end\n"
        "code_read: movb (%" SI "), %al\n ud2\n"
        "code_write: movb %al, (%" SI ")\n ud2\n"
        "code_fetch: jmp *%" SI "\n"
        "code_end:\n"
        ".popsection\n");

static u8 tables[LEVELS_MAX][4096] __attribute__((aligned(4096)));
#ifndef __x86_64__
static u32 root32[1024] __attribute__((aligned(4096)));
static u32 kernel32[KERNEL_TABLES][1024] __attribute__((aligned(4096)));
static u64 root_pae[4] __attribute__((aligned(32)));
static u64 kernel_pae[2][512] __attribute__((aligned(4096))); // for the supervisor, for ring 3
#endif

static unsigned indices[LEVELS_MAX];
static ulong controls0, controls4;
static u64 controls_efer;

unsigned paging_levels(void)
{
    return paging_shape == SHAPE_64 ? 4 : 2;
}

unsigned paging_size_shift(unsigned level)
{
    static const u8 shift[3][LEVELS_MAX] = {{22, 12}, {21, 12}, {39, 30, 21, 12}};
    return shift[paging_shape][level];
}

static void *table(unsigned level)
{
    if (level > 0)
        return tables[level];
#ifdef __x86_64__
    return lab_pml4;
#else
    return paging_shape == SHAPE_32 ? (void *)root32 : (void *)tables[0];
#endif
}

static u64 get(const void *at)
{
    return paging_shape == SHAPE_32 ? *(const volatile u32 *)at : *(const volatile u64 *)at;
}

static void put(void *at, u64 value)
{
    if (paging_shape == SHAPE_32)
        *(volatile u32 *)at = (u32)value;
    else
        *(volatile u64 *)at = value;
}

void *paging_entry_at(unsigned level)
{
    return (u8 *)table(level) + indices[level] * (paging_shape == SHAPE_32 ? 4 : 8);
}

u64 paging_entry(unsigned level)
{
    return get(paging_entry_at(level));
}

void paging_entry_set(unsigned level, u64 value)
{
    put(paging_entry_at(level), value);
}

static void *second_at(void)
{
    return (u8 *)paging_entry_at(paging_levels() - 1) + (paging_shape == SHAPE_32 ? 4 : 8);
}

u64 paging_second_entry(void)
{
    return get(second_at());
}

void paging_second_set(u64 value)
{
    put(second_at(), value);
}

bool paging_large_possible(unsigned level)
{
    unsigned shift = paging_size_shift(level);
    return shift == 21 || (shift == 22 && cpu.pse) || (shift == 30 && cpu.gigabyte);
}

u64 paging_entry_make(unsigned level, bool large, u64 flags)
{
    unsigned shift = paging_size_shift(level);
    if (large)
        flags |= PTE_PS;
    if (large || shift == 12)
        return (PAGING_TARGET & ~((1ull << shift) - 1)) | flags;
    return (ulong)tables[level + 1] | flags;
}

void paging_map(u64 flags)
{
    for (unsigned i = 0; i < paging_levels(); i++)
        paging_entry_set(i, paging_entry_make(i, false, flags));
}

void paging_controls(const struct paging *p)
{
    ulong cr0 = (controls0 & ~(ulong)CR0_WP) | (p->wp ? CR0_WP : 0);
    ulong cr4 = (controls4 & ~(ulong)(CR4_SMEP | CR4_SMAP | CR4_PSE)) | (p->smep ? CR4_SMEP : 0) |
                (p->smap ? CR4_SMAP : 0) | (p->pse ? CR4_PSE : 0);
    u64 efer = (controls_efer & ~(u64)EFER_NXE) | (p->nxe ? EFER_NXE : 0);

    if (lab_cr0() != cr0)
        lab_set_cr0(cr0);
    if (lab_cr4() != cr4)
        lab_set_cr4(cr4);
    if (cpu.nx && lab_rdmsr(MSR_EFER) != efer)
        lab_wrmsr(MSR_EFER, efer);
}

void paging_controls_default(void)
{
    struct paging p = {.wp = true, .pse = paging_shape == SHAPE_32 && cpu.pse};
    paging_controls(&p);
}

ulong paging_user_alias(const void *p)
{
    return (ulong)p + ALIAS;
}

// Index of each level from the top; the last is the page's in PAGING_TARGET's large page.
static ulong lin_make(void)
{
    ulong lin = PAGING_TARGET & 0xfff;
    for (unsigned i = 0; i < paging_levels(); i++) {
        unsigned shift = paging_size_shift(i);
        lin |= (ulong)indices[i] << shift;
    }
#ifdef __x86_64__
    lin = (ulong)((long)(lin << 16) >> 16); // canonical
#endif
    return lin;
}

void paging_on(enum shape shape)
{
    paging_shape = shape;
    for (unsigned i = 0; i < sizeof(tables); i++)
        ((u8 *)tables)[i] = 0;
    unsigned last = paging_levels() - 1;
    indices[last] = PAGING_TARGET >> 12 & (shape == SHAPE_32 ? 0x3ff : 0x1ff);
#ifdef __x86_64__
    if (indices[0])
        lab_pml4[indices[0]] = 0;
    indices[0] = paging_upper ? 0x1aa : 0x0aa;
    indices[1] = 0x155;
    indices[2] = PAGING_TARGET >> 21; // a 1-GiB page starts at 0
    lab_pml4[0] = (ulong)lab_pdpt | PTE_P | PTE_W;
    lab_pml4[ALIAS >> 39 & 0x1ff] = (ulong)lab_pdpt | PTE_RIGHTS;
    lab_set_cr3((ulong)lab_pml4);
#else
    if (shape == SHAPE_32) {
        indices[0] = 0x155;
        for (unsigned i = 0; i < KERNEL_TABLES; i++) {
            for (unsigned k = 0; k < 1024; k++)
                kernel32[i][k] = (i << 22 | k << 12) | PTE_RIGHTS;
            root32[i] = (u32)kernel32[i] | PTE_P | PTE_W;
            root32[(ALIAS >> 22) + i] = (u32)kernel32[i] | PTE_RIGHTS;
        }
        lab_set_cr3((ulong)root32);
    } else {
        indices[0] = PAGING_TARGET >> 21;
        for (unsigned i = 0; i < KERNEL_TABLES * 2; i++) {
            kernel_pae[0][i] = i << 21 | PTE_PS | PTE_P | PTE_W;
            kernel_pae[1][i] = i << 21 | PTE_PS | PTE_RIGHTS;
        }
        root_pae[0] = (u32)kernel_pae[0] | PTE_P;
        root_pae[1] = (u32)tables[0] | PTE_P;
        root_pae[2] = (u32)kernel_pae[1] | PTE_P;
        lab_set_cr3((ulong)root_pae);
        lab_set_cr4(lab_cr4() | CR4_PAE);
    }
    lab_set_cr0(lab_cr0() | CR0_PG | CR0_WP);
#endif
    controls0 = lab_cr0();
    controls4 = lab_cr4();
    controls_efer = cpu.nx ? lab_rdmsr(MSR_EFER) : 0;
    paging_lin = lin_make() + (shape == SHAPE_PAE ? 0x40000000 : 0);
    paging_second = (paging_lin & ~0xffful) + 0x1000;
    *(volatile u16 *)PAGING_TARGET = PAGING_BYTE | 0x0b00;
}

void paging_off(void)
{
#ifndef __x86_64__
    paging_controls_default();
    lab_set_cr0(lab_cr0() & ~(ulong)CR0_PG);
    lab_set_cr4(lab_cr4() & ~(ulong)(CR4_PAE | CR4_PSE | CR4_PGE));
#endif
}

struct tried paging_run(const void *code, u8 cpl, bool ac, ulong si, ulong di, ulong ax, ulong dx)
{
    static u8 stack[256] __attribute__((aligned(16)));
    struct lab_state s = {.ip = (ulong)code,
                          .cs = SEL_CODE0,
                          .flags = 2 | (ac ? FLAG_AC : 0),
                          .sp = (ulong)stack + sizeof(stack),
                          .ss = SEL_DATA0,
                          .ds = SEL_DATA0,
                          .es = SEL_DATA0};
    struct tried r = {0};

    if (cpl == 3) {
        s.ip = paging_user_alias(code);
        s.sp = paging_user_alias(stack + sizeof(stack));
        s.cs = SEL_CODE3;
        s.ss = s.ds = s.es = SEL_DATA3;
    }
    s.gpr[0] = ax;
    s.gpr[2] = dx;
    s.gpr[6] = si;
    s.gpr[7] = di;
    const struct lab_trap *t = lab_enter(&s);
    r.skipped = t && t->vector == 0xffff;
    if (t) {
        r.vector = t->vector;
        r.error = t->error;
        r.ip = t->ip;
        r.cr2 = t->cr2;
        r.ax = t->gpr[0];
    }
    return r;
}

static bool judge(const struct paging *p, const struct walk *walk, const struct tried *t, ulong ip)
{
    if (walk->fault)
        return t->vector == VEC_PF && t->error == walk->error && t->cr2 == paging_lin &&
               t->ip == (p->access == ACCESS_FETCH ? paging_lin : ip);
    if (t->vector != VEC_UD)
        return false;
    if (p->access == ACCESS_FETCH)
        return t->ip == paging_lin;
    return t->ip == ip + 2 && (p->access == ACCESS_WRITE || (t->ax & 0xff) == PAGING_BYTE);
}

bool paging_case(const struct paging *p, const char *what)
{
    static char *const code[] = {code_read, code_write, code_fetch};
    static const char *const names[] = {"read", "write", "fetch"};
    u64 before[LEVELS_MAX] = {0};
    volatile u8 *target = (volatile u8 *)PAGING_TARGET;
    struct walk walk;

    for (unsigned i = 0; i < paging_levels(); i++)
        before[i] = paging_entry(i);
    walk_model(p, before, &walk);
    paging_controls(p);
    lab_invlpg(paging_lin);
    char *start = code[p->access];
    struct tried t = paging_run(start, p->cpl, p->ac, paging_lin, 0, 0xf4, 0);
    bool ok = judge(p, &walk, &t, p->cpl == 3 ? paging_user_alias(start) : (ulong)start);
    bool written = p->access == ACCESS_WRITE && !walk.fault;
    ok = ok && *target == (written ? 0xf4 : PAGING_BYTE);
    *target = PAGING_BYTE;
    // 4.8: what an access that faults leaves in the accessed bits is the processor's business.
    u64 loose = walk.fault ? PTE_A : 0;
    unsigned level = 0;
    for (unsigned i = 0; i < paging_levels(); i++)
        if ((paging_entry(i) ^ walk.after[i]) & ~loose) {
            ok = false;
            level = i + 1;
        }
    if (t.skipped)
        return lab_check(true, "%s", what);
    return lab_check(
        ok,
        "%s: %s cpl %u wp %u smep %u smap %u ac %u nxe %u, entries %llx %llx %llx %llx: "
        "vector %u error %x cr2 %lx ip %lx ax %lx, want %s %x, entry %u after: %llx",
        what, names[p->access], p->cpl, p->wp, p->smep, p->smap, p->ac, p->nxe, before[0],
        before[1], before[2], before[3], t.vector, t.error, t.cr2, t.ip, t.ax,
        walk.fault ? "#PF" : "access", walk.error, level, level ? paging_entry(level - 1) : 0);
}
