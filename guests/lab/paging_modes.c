// SPDX-License-Identifier: Apache-2.0
// Switching paging: what is refused on the way into long mode (SDM vol. 3A, 4.1.2, 9.8.5), and the four PDPTEs of
// PAE paging, which are registers loaded with CR3 (4.4.1). 32-bit flavour.
#include "paging.h"

#ifndef __x86_64__
static u64 pdptes[4] __attribute__((aligned(32)));
static u64 directories[4][512] __attribute__((aligned(4096)));
static u64 long_root[512] __attribute__((aligned(4096)));
static u64 long_pdpt[512] __attribute__((aligned(4096)));
static volatile u32 seen_cr0;
static volatile u64 seen_efer;

static void write_cr0(void *value)
{
    lab_set_cr0((ulong)value);
}
static void write_cr3(void *value)
{
    lab_set_cr3((ulong)value);
}
static void write_cr4(void *value)
{
    lab_set_cr4((ulong)value);
}

// --- PAE ---------------------------------------------------------------------------------------------------

static void pae_plain(void)
{
    for (u32 i = 0; i < 4; i++) {
        pdptes[i] = (u32)directories[i] | PTE_P;
        for (u32 k = 0; k < 512; k++)
            directories[i][k] = ((u64)(i & 1) << 30 | k << 21) | PTE_PS | PTE_P | PTE_W;
    }
    // GiB 1 and 3 show the beginning of memory again; 2 is like 0.
    for (u32 k = 0; k < 512; k++)
        directories[1][k] = directories[2][k] = directories[3][k] = directories[0][k];
}

static bool gp(const struct lab_trap *t)
{
    return t && ((t->vector == VEC_GP && t->error == 0) || t->vector == 0xffff);
}

// Each bit of each PDPTE: at MOV CR3, at MOV CR0 that switches paging on, at MOV CR4 that changes PGE.
static void pdpte_bits(void)
{
    ulong cr0 = lab_cr0(), cr4 = lab_cr4() | CR4_PAE;
    lab_set_cr4(cr4);
    for (u32 i = 0; i < 4; i++)
        for (u32 bit = 0; bit < 64; bit++) {
            bool reserved = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= cpu.width;
            if (!reserved && bit >= 12)
                continue; // another table
            pae_plain();
            lab_set_cr3((ulong)pdptes);
            lab_expect_none("PAE on", lab_try(write_cr0, (void *)(cr0 | CR0_PG)));
            pdptes[i] ^= 1ull << bit;
            if (i == 0 && bit == 0)
                pdptes[0] |= PTE_P; // the guest lives there
            const struct lab_trap *t = lab_try(write_cr3, (void *)(ulong)pdptes);
            lab_check(reserved ? gp(t) : !t, "PDPTE %u bit %u: MOV CR3: vector %u", i, bit,
                      t ? t->vector : 255);
            if (cpu.pge) {
                t = lab_try(write_cr4, (void *)(cr4 ^ CR4_PGE));
                lab_check(reserved ? gp(t) : !t, "PDPTE %u bit %u: MOV CR4: vector %u", i, bit,
                          t ? t->vector : 255);
                lab_check(lab_cr4() == (reserved ? cr4 : cr4 ^ CR4_PGE), "PDPTE %u bit %u: CR4 %lx",
                          i, bit, lab_cr4());
            }
            // Without P the other bits are free.
            if (i && reserved) {
                pdptes[i] &= ~(u64)PTE_P;
                lab_expect_none("PDPTE not present", lab_try(write_cr3, (void *)(ulong)pdptes));
                pdptes[i] |= PTE_P;
            }
            lab_set_cr0(cr0);
            lab_set_cr4(cr4);
            lab_set_cr3((ulong)pdptes);
            t = lab_try(write_cr0, (void *)(cr0 | CR0_PG));
            lab_check(reserved ? gp(t) : !t, "PDPTE %u bit %u: MOV CR0: vector %u", i, bit,
                      t ? t->vector : 255);
            lab_check(lab_cr0() == (reserved ? cr0 : cr0 | CR0_PG), "PDPTE %u bit %u: CR0 %lx", i,
                      bit, lab_cr0());
            lab_set_cr0(cr0);
        }
}

static void read_far(void *address)
{
    seen_cr0 = *(volatile u32 *)address;
}

// A PDPTE in memory means nothing until CR3 is loaded again.
static void pdpte_kept(void)
{
    ulong cr0 = lab_cr0();
    pae_plain();
    lab_set_cr4(lab_cr4() | CR4_PAE);
    lab_set_cr3((ulong)pdptes);
    lab_set_cr0(cr0 | CR0_PG);
    for (u32 i = 1; i < 4; i++) {
        ulong address = (ulong)i << 30 | 0x100000;
        lab_expect_none("PDPTE", lab_try(read_far, (void *)address));
        pdptes[i] = 0;
        lab_invlpg(address);
        lab_expect_none("PDPTE kept", lab_try(read_far, (void *)address));
        pdptes[i] = 0x1e6 | PTE_P;
        lab_invlpg(address);
        lab_expect_none("PDPTE kept, reserved bits in memory", lab_try(read_far, (void *)address));
        pdptes[i] = 0;
        lab_set_cr3((ulong)pdptes);
        const struct lab_trap *t = lab_try(read_far, (void *)address);
        if (lab_expect_error("PDPTE gone", t, VEC_PF, 0))
            lab_equal("PDPTE gone", t->cr2, address);
        // Present again: not before the next load.
        pdptes[i] = (u32)directories[i] | PTE_P;
        lab_invlpg(address);
        lab_expect("PDPTE present in memory", lab_try(read_far, (void *)address), VEC_PF);
        lab_set_cr3((ulong)pdptes);
        lab_expect_none("PDPTE present", lab_try(read_far, (void *)address));
    }
    // CR3 bits 11:5 choose the four; bits 4:3 and 2:0 do not.
    lab_expect_none("CR3 bits 4:3", lab_try(write_cr3, (void *)((ulong)pdptes | 0x18)));
    lab_expect_none("PDPTE", lab_try(read_far, (void *)0x40100000));
    lab_set_cr0(cr0);
    lab_set_cr4(lab_cr4() & ~(ulong)CR4_PAE);
}

// PAE and PSE may be changed while paging is on: identical maps before and after.
static void shape_while_on(void)
{
    static u32 root[1024] __attribute__((aligned(4096)));
    ulong cr0 = lab_cr0();
    pae_plain();
    for (u32 i = 0; i < 1024; i++)
        root[i] = i << 22 | PTE_PS | PTE_P | PTE_W;
    // The first 32 bytes would be PDPTEs, too: with PAE on they are refused.
    lab_set_cr4(lab_cr4() | CR4_PSE);
    lab_set_cr3((ulong)root);
    lab_set_cr0(cr0 | CR0_PG);
    const struct lab_trap *t = lab_try(write_cr4, (void *)(lab_cr4() | CR4_PAE));
    lab_check(gp(t), "CR4.PAE with reserved bits where the PDPTEs would be: vector %u",
              t ? t->vector : 255);
    lab_check(!(lab_cr4() & CR4_PAE), "CR4.PAE");
    lab_set_cr0(cr0);
    lab_set_cr4(lab_cr4() & ~(ulong)(CR4_PSE | CR4_PAE));
}

// --- long mode ---------------------------------------------------------------------------------------------

static void reload_cs(u32 selector)
{
    __asm__ volatile("push %0; push $1f; lret; 1:" : : "r"(selector) : "memory");
}

static void enable_with_l(void *value)
{
    *lab_gdt_entry(SEL_FREE) =
        lab_descriptor(0, 0xfffff, 0x9b, 0xe); // G, D and L: as 32-bit code here
    reload_cs(SEL_FREE);
    lab_set_cr0((ulong)value);
    reload_cs(SEL_CODE0);
}

// On and off again without an interrupt or an exception in between.
static void through_long_mode(void *value)
{
    ulong cr0 = lab_cr0();
    lab_set_cr0((ulong)value);
    seen_efer = lab_rdmsr(MSR_EFER);
    seen_cr0 = lab_cr0();
    lab_set_cr0(cr0);
}

static void ltr(void *selector)
{
    __asm__ volatile("ltr %w0" : : "r"((u32)(ulong)selector));
}

static void task_register(u32 type)
{
    *lab_gdt_entry(SEL_TSS) = lab_descriptor((u32)&lab_tss, sizeof(lab_tss) - 1, 0x80 | type, 0);
    lab_expect_none("LTR", lab_try(ltr, (void *)SEL_TSS));
}

static void long_mode(void)
{
    ulong cr0 = lab_cr0(), cr4 = lab_cr4(), on = cr0 | CR0_PG;
    pae_plain();
    long_root[0] = (u32)long_pdpt | PTE_P | PTE_W;
    for (u32 i = 0; i < 4; i++)
        long_pdpt[i] = (u32)directories[i] | PTE_P | PTE_W;
    u64 efer = lab_rdmsr(MSR_EFER);
    lab_wrmsr(MSR_EFER, efer | EFER_LME);
    lab_equal("LME before paging", lab_rdmsr(MSR_EFER), efer | EFER_LME);
    lab_set_cr3((ulong)long_root);
    lab_set_cr4(cr4 & ~(ulong)CR4_PAE);
    lab_expect_error("PG with LME without PAE", lab_try(write_cr0, (void *)on), VEC_GP, 0);
    lab_equal("CR0 after that", lab_cr0(), cr0);
    lab_equal("EFER after that", lab_rdmsr(MSR_EFER), efer | EFER_LME);
    lab_set_cr4(cr4 | CR4_PAE);
    lab_expect_error("PG with LME from a code segment with L", lab_try(enable_with_l, (void *)on),
                     VEC_GP, 0);
    lab_equal("CR0 after that", lab_cr0(), cr0);
    task_register(1);
    lab_expect_error("PG with LME and a 16-bit TSS", lab_try(write_cr0, (void *)on), VEC_GP, 0);
    lab_equal("CR0 after that", lab_cr0(), cr0);
    task_register(9);
    lab_expect_none("long mode and back", lab_try(through_long_mode, (void *)on));
    lab_equal("CR0.PG", seen_cr0, on);
    lab_equal("LMA", seen_efer, efer | EFER_LME | EFER_LMA);
    lab_equal("no LMA after", lab_rdmsr(MSR_EFER), efer | EFER_LME);
    lab_wrmsr(MSR_EFER, efer);
    lab_set_cr4(cr4);
}

void paging_switches(void)
{
    if (cpu.pae) {
        lab_section("PDPTEs");
        pdpte_bits();
        pdpte_kept();
        if (cpu.pse)
            shape_while_on();
    }
    if (lab_has(0x80000001, 0, 3, 29)) {
        lab_section("into long mode");
        long_mode();
    }
}
#else
void paging_switches(void)
{
}
#endif
