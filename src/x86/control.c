// SPDX-License-Identifier: Apache-2.0
// Control and debug registers: MOV CR, MOV DR, LMSW, CLTS, INVLPG, INVPCID, XSETBV, XGETBV, with
// the checks and side effects of SDM vol. 3, 2.5 and 4, and vol. 2 for each instruction.
//
// Rules to keep:
//  - All checks come first; registers, then the TLB, then x86_mode_changed().
//  - The TLB does not know PCIDs: changing the PCID flushes what is not global.
#include "x86/cpuid.h"
#include "x86/paging.h"
#include "x86/system.h"

#define CR0_WRITABLE                                                                            \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | \
     X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
#define CR3_NO_FLUSH (UINT64_C(1) << 63)
#define CR3_PCID 0xfff

#define DR6_FIXED 0xffff0ff0u
#define DR6_WRITABLE 0xe00fu
#define DR6_BD (1u << 13)
#define DR7_FIXED 0x400u
#define DR7_WRITABLE 0xffff23ffu
#define DR7_GD (1u << 13)

static _Noreturn void refuse(struct x86_cpu *cpu)
{
    x86_raise_error(cpu, X86_GP, 0);
}

static void require(struct x86_cpu *cpu, bool condition)
{
    if (!condition)
        refuse(cpu);
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & X86_CR0_PG) && (cr4 & X86_CR4_PAE) && !(efer & X86_EFER_LME);
}

static void set_pdptes(struct x86_cpu *cpu, const uint64_t pdpte[4])
{
    for (unsigned i = 0; i < 4; i++)
        cpu->pdpte[i] = pdpte[i];
}

// --- CR0 -----------------------------------------------------------------------------------------

// What switching paging on or off does to EFER; raises where the switch is not allowed.
static uint64_t efer_for_paging(struct x86_cpu *cpu, uint64_t cr0)
{
    bool before = cpu->cr0 & X86_CR0_PG, after = cr0 & X86_CR0_PG;
    uint64_t efer = cpu->efer;
    if (!before && after && (efer & X86_EFER_LME)) {
        unsigned tss = cpu->tr.attr & X86_ATTR_TYPE;
        require(cpu, cpu->cr4 & X86_CR4_PAE);
        require(cpu, !(cpu->seg[X86_CS].attr & X86_ATTR_L));
        // A 16-bit TSS cannot be used in long mode.
        require(cpu, (cpu->tr.attr & X86_ATTR_UNUSABLE) || (tss != 1 && tss != 3));
        efer |= X86_EFER_LMA;
    }
    if (before && !after) {
        require(cpu, cpu->code_size != X86_CODE64);
        require(cpu, !(cpu->cr4 & X86_CR4_PCIDE));
        efer &= ~(uint64_t)X86_EFER_LMA;
    }
    return efer;
}

static void write_cr0(struct x86_cpu *cpu, uint64_t value)
{
    uint64_t pdpte[4];
    require(cpu, value >> 32 == 0);
    uint64_t cr0 = (value & CR0_WRITABLE) | X86_CR0_ET;
    uint64_t changed = cr0 ^ cpu->cr0;
    require(cpu, !(cr0 & X86_CR0_PG) || (cr0 & X86_CR0_PE));
    require(cpu, !(cr0 & X86_CR0_NW) || (cr0 & X86_CR0_CD));
    uint64_t efer = efer_for_paging(cpu, cr0);
    bool load =
        pae_paging(cr0, cpu->cr4, efer) && (changed & (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW));
    if (load) {
        require(cpu, x86_pdpte_load(cpu, cpu->cr3, pdpte));
        set_pdptes(cpu, pdpte);
    }
    cpu->cr0 = cr0;
    cpu->efer = efer;
    if (changed & (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP))
        x86_tlb_flush_all(cpu);
    if (changed & (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP | X86_CR0_AM))
        x86_mode_changed(cpu);
}

// --- CR3 -----------------------------------------------------------------------------------------

static uint64_t beyond_phys(const struct x86_cpu *cpu)
{
    unsigned bits = cpu->model ? cpu->model->phys_bits : 52;
    return ~((UINT64_C(1) << bits) - 1);
}

static void write_cr3(struct x86_cpu *cpu, uint64_t value)
{
    uint64_t pdpte[4];
    bool no_flush = false;
    if ((cpu->cr4 & X86_CR4_PCIDE) && (value & CR3_NO_FLUSH)) {
        no_flush = value == (cpu->cr3 | CR3_NO_FLUSH);
        value &= ~CR3_NO_FLUSH;
    }
    if (cpu->long_mode)
        require(cpu, !(value & beyond_phys(cpu)));
    if (pae_paging(cpu->cr0, cpu->cr4, cpu->efer)) {
        require(cpu, x86_pdpte_load(cpu, value, pdpte));
        set_pdptes(cpu, pdpte);
    }
    cpu->cr3 = value;
    if (!no_flush)
        x86_tlb_flush_nonglobal(cpu);
}

// --- CR4 -----------------------------------------------------------------------------------------

static uint64_t cr4_valid(const struct x86_cpu *cpu)
{
    static const struct {
        uint32_t bits;
        uint16_t feature;
    } list[] = {
        {X86_CR4_VME | X86_CR4_PVI, X86_FEATURE_vme},
        {X86_CR4_TSD, X86_FEATURE_tsc},
        {X86_CR4_DE, X86_FEATURE_de},
        {X86_CR4_PSE, X86_FEATURE_pse},
        {X86_CR4_PAE, X86_FEATURE_pae},
        {X86_CR4_MCE, X86_FEATURE_mce},
        {X86_CR4_PGE, X86_FEATURE_pge},
        {X86_CR4_PCE, X86_FEATURE_rdpmc},
        {X86_CR4_OSFXSR, X86_FEATURE_fxsr},
        {X86_CR4_OSXMMEXCPT, X86_FEATURE_sse},
        {X86_CR4_UMIP, X86_FEATURE_umip},
        {X86_CR4_FSGSBASE, X86_FEATURE_fsgsbase},
        {X86_CR4_PCIDE, X86_FEATURE_pcid},
        {X86_CR4_OSXSAVE, X86_FEATURE_xsave},
        {X86_CR4_SMEP, X86_FEATURE_smep},
        {X86_CR4_SMAP, X86_FEATURE_smap},
    };
    uint64_t valid = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
        if (x86_has(cpu->model, list[i].feature))
            valid |= list[i].bits;
    return valid;
}

static void write_cr4(struct x86_cpu *cpu, uint64_t value)
{
    uint64_t pdpte[4];
    uint64_t changed = value ^ cpu->cr4;
    const uint64_t paging = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP;
    require(cpu, !(value & ~cr4_valid(cpu)));
    if (cpu->long_mode)
        require(cpu, value & X86_CR4_PAE);
    if (changed & value & X86_CR4_PCIDE)
        require(cpu, cpu->long_mode && (cpu->cr3 & CR3_PCID) == 0);
    if (pae_paging(cpu->cr0, value, cpu->efer) && (changed & paging)) {
        require(cpu, x86_pdpte_load(cpu, cpu->cr3, pdpte));
        set_pdptes(cpu, pdpte);
    }
    cpu->cr4 = value;
    if (changed & (paging | X86_CR4_SMAP | X86_CR4_PCIDE))
        x86_tlb_flush_all(cpu);
    if (changed)
        x86_mode_changed(cpu);
}

// --- MOV CR and its relatives --------------------------------------------------------------------

uint64_t x86_read_cr(struct x86_cpu *cpu, unsigned n)
{
    const struct x86_platform *p = cpu->platform;
    switch (n) {
    case 0:
        return cpu->cr0;
    case 2:
        return cpu->cr2;
    case 3:
        return cpu->cr3;
    case 4:
        return cpu->cr4;
    case 8:
        return p->get_cr8 ? p->get_cr8(p->opaque) & 15 : 0;
    default:
        x86_raise(cpu, X86_UD);
    }
}

void x86_write_cr(struct x86_cpu *cpu, unsigned n, uint64_t value)
{
    const struct x86_platform *p = cpu->platform;
    switch (n) {
    case 0:
        write_cr0(cpu, value);
        break;
    case 2:
        cpu->cr2 = value;
        break;
    case 3:
        write_cr3(cpu, value);
        break;
    case 4:
        write_cr4(cpu, value);
        break;
    case 8:
        require(cpu, value <= 15);
        if (p->set_cr8)
            p->set_cr8(p->opaque, (uint8_t)value);
        break;
    default:
        x86_raise(cpu, X86_UD);
    }
}

// Moves PE, MP, EM, TS; cannot clear PE.
void x86_lmsw(struct x86_cpu *cpu, uint16_t value)
{
    write_cr0(cpu, (cpu->cr0 & ~UINT64_C(14)) | (value & 15));
}

void x86_clts(struct x86_cpu *cpu)
{
    cpu->cr0 &= ~(uint64_t)X86_CR0_TS;
}

void x86_invlpg(struct x86_cpu *cpu, unsigned seg, uint64_t off)
{
    // No segment check and no fault: an address that cannot be mapped is simply not there.
    x86_tlb_flush_page(cpu, (cpu->seg[seg].eff_base + off) & cpu->lin_mask);
}

void x86_invpcid(struct x86_cpu *cpu, uint64_t type, unsigned seg, uint64_t off)
{
    enum {
        ADDRESS,
        CONTEXT,
        ALL_GLOBAL,
        ALL
    };
    uint64_t desc[2];
    x86_read_block(cpu, seg, off, desc, sizeof(desc));
    require(cpu, type <= ALL && desc[0] <= CR3_PCID);
    if (type == ADDRESS || type == CONTEXT)
        require(cpu, (cpu->cr4 & X86_CR4_PCIDE) || desc[0] == 0);
    if (type == ADDRESS) {
        require(cpu, x86_canonical(desc[1]));
        x86_tlb_flush_page(cpu, desc[1]);
    } else if (type == ALL_GLOBAL) {
        x86_tlb_flush_all(cpu);
    } else {
        x86_tlb_flush_nonglobal(cpu);
    }
}

// --- XCR0 ----------------------------------------------------------------------------------------

void x86_xsetbv(struct x86_cpu *cpu, uint32_t index, uint64_t value)
{
    if (!(cpu->cr4 & X86_CR4_OSXSAVE))
        x86_raise(cpu, X86_UD);
    require(cpu, cpu->cpl == 0 && index == 0);
    require(cpu, (value & 1) && !(value & ~x86_xcr0_supported(cpu->model)));
    require(cpu, !(value & 4) || (value & 2));
    cpu->xcr0 = value;
}

uint64_t x86_xgetbv(struct x86_cpu *cpu, uint32_t index)
{
    if (!(cpu->cr4 & X86_CR4_OSXSAVE))
        x86_raise(cpu, X86_UD);
    if (index == 1 && x86_has(cpu->model, X86_FEATURE_xgetbv1))
        return x86_xinuse_mxcsr(cpu) & cpu->xcr0;
    require(cpu, index == 0);
    return cpu->xcr0;
}

// --- debug registers -----------------------------------------------------------------------------

// DR4 and DR5 are DR6 and DR7 unless CR4.DE; DR7.GD makes any access a fault.
static unsigned debug_register(struct x86_cpu *cpu, unsigned n)
{
    if (n > 7 || ((n == 4 || n == 5) && (cpu->cr4 & X86_CR4_DE)))
        x86_raise(cpu, X86_UD);
    if (cpu->dr7 & DR7_GD) {
        cpu->dr6 |= DR6_BD;
        cpu->dr7 &= ~(uint64_t)DR7_GD;
        cpu->rflags |= X86_FLAG_RF; // in the saved image, as with all faults but breakpoints
        x86_raise(cpu, X86_DB);
    }
    return n == 4 || n == 5 ? n + 2 : n;
}

uint64_t x86_read_dr(struct x86_cpu *cpu, unsigned n)
{
    n = debug_register(cpu, n);
    return n == 7 ? cpu->dr7 : n == 6 ? cpu->dr6 : cpu->dr[n];
}

void x86_write_dr(struct x86_cpu *cpu, unsigned n, uint64_t value)
{
    n = debug_register(cpu, n);
    if (n >= 6)
        require(cpu, value >> 32 == 0);
    bool armed = x86_debug_armed(cpu);
    if (n == 6)
        cpu->dr6 = (value & DR6_WRITABLE) | DR6_FIXED;
    else if (n == 7)
        cpu->dr7 = (value & DR7_WRITABLE) | DR7_FIXED;
    else
        cpu->dr[n] = value;
    // Watched pages have no fast tags (mem.h).
    if (n != 6 && (armed || x86_debug_armed(cpu)))
        x86_tlb_flush_all(cpu);
}
