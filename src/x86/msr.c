// SPDX-License-Identifier: Apache-2.0
// Model-specific registers (SDM vol. 4; APM vol. 2, appendix A) and the time-stamp counter.
//
// Three kinds: registers with state in struct x86_cpu and rules of their own (the switches below),
// registers of the board (platform->msr_read/msr_write), and registers that a guest of this vendor
// expects to find but that have nothing behind them (the tables). Any other raises #GP(0).
#include "x86/cpuid.h"
#include "x86/mem.h"
#include "x86/system.h"

enum {
    MSR_TSC = 0x10,
    MSR_PLATFORM_ID = 0x17,
    MSR_APIC_BASE = 0x1b,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_UCODE_WRITE = 0x79,
    MSR_UCODE_REV = 0x8b,
    MSR_PLATFORM_INFO = 0xce,
    MSR_MTRRCAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17a,
    MSR_MCG_CTL = 0x17b,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_MTRR_BASE0 = 0x200,
    MSR_MTRR_LAST = 0x20f,
    MSR_MTRR_FIX64K = 0x250,
    MSR_MTRR_FIX16K_0 = 0x258,
    MSR_MTRR_FIX16K_1 = 0x259,
    MSR_MTRR_FIX4K = 0x268,
    MSR_MTRR_FIX4K_LAST = 0x26f,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF = 0x2ff,
    MSR_MC0_CTL = 0x400,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_XSS = 0xda0,
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u
#define MSR_AMD_UCODE_WRITE 0xc0010020u

#define APIC_BASE_EXTD (1u << 10)

#define MC_BANKS 8
#define MC_LAST (MSR_MC0_CTL + MC_BANKS * 4 - 1)
#define MCG_CAP (MC_BANKS | 1 << 8) // MCG_CTL present
#define MTRR_VARIABLE 8
#define MTRR_CAP (MTRR_VARIABLE | 1 << 8 | 1 << 10) // fixed ranges, write-combining
#define MTRR_DEF_VALID 0xcff

// Not affected by: RDCL, L1TF (no flush), SSB, MDS, page-size machine check, TAA, SBDR, FBSDP,
// PSDP, BHI, PBRSB, GDS, RFDS, ITS; IBRS is always on in effect: instructions here do not
// speculate.
#define ARCH_CAPABILITIES                                                                        \
    (1u << 0 | 1u << 1 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 13 | 1u << 14 | \
     1u << 15 | 1u << 20 | 1u << 24 | 1u << 26 | 1u << 27 | UINT64_C(1) << 62)

// Bits of IA32_MISC_ENABLE: fast strings, thermal monitor, performance monitoring (none), BTS and
// PEBS unavailable (always read as set), SpeedStep, MONITOR, limit CPUID, xTPR, XD disable.
#define MISC_ENABLE_FIXED (1u << 11 | 1u << 12)
#define MISC_ENABLE_WRITABLE (1u << 0 | 1u << 3 | 1u << 16 | 1u << 22 | 1u << 23)

// Registers that only read as a value; writes go nowhere.
struct constant {
    uint32_t first, last;
    uint64_t value;
};
static const struct constant intel_constants[] = {
    {0x0, 0x1, 0},     // P5 machine check
    {0x17, 0x17, 0},   // PLATFORM_ID
    {0x2a, 0x2a, 0},   // EBL_CR_POWERON
    {0x34, 0x34, 0},   // SMI_COUNT
    {0xc1, 0xc2, 0},   // PERFCTR0, 1: never count
    {0x119, 0x119, 0}, // BBL_CR_CTL
    {0x11e, 0x11e, 0}, // BBL_CR_CTL3
    {0x186, 0x187, 0}, // PERFEVTSEL0, 1
    {0x198, 0x198, 0}, // PERF_STATUS
    {0x199, 0x199, 0}, // PERF_CTL
    {0x19a, 0x19c, 0}, // clock modulation, thermal interrupt and status
    {0x1a2, 0x1a2, 0}, // TEMPERATURE_TARGET
    {0x1a4, 0x1a4, 0}, // prefetchers
    {0x1c9, 0x1c9, 0}, // LASTBRANCH_TOS
    {0x1db, 0x1de, 0}, // last branch and interrupt, from and to
    {0x1fc, 0x1fc, 0}, // POWER_CTL
};
static const struct constant p5_constants[] = {
    {0x0, 0x1, 0},   // machine check address and type
    {0x11, 0x13, 0}, // CESR, CTR0, CTR1: never count
};
static const struct constant amd_constants[] = {
    {0x0, 0x1, 0},                                // P5 machine check
    {0x2a, 0x2a, 0},                              // EBL_CR_POWERON
    {0x1db, 0x1de, 0},                            // last branch and interrupt, from and to
    {0xc0010000, 0xc0010007, 0},                  // PerfEvtSel, PerfCtr: never count
    {0xc0010010, 0xc0010010, 0},                  // SYSCFG
    {0xc0010015, 0xc0010015, 1u << 24 | 1u << 6}, // HWCR: TSC counts at P0, flush filter disabled
    {0xc0010016, 0xc001001a, 0},                  // IORRs, TOP_MEM
    {0xc001001d, 0xc001001d, 0},                  // TOP_MEM2
    {0xc001001f, 0xc001001f, 0},                  // NB_CFG
    {0xc0010022, 0xc0010022, 0},                  // MC_EXCEPTION_REDIR
    {0xc0010044, 0xc0010049, 0},                  // MCi_CTL_MASK
    {0xc0010055, 0xc0010055, 0},                  // INT_PENDING: no C1E
    {0xc0010058, 0xc0010058, 0},                  // MMIO_CONF_BASE
    {0xc0010061, 0xc0010064, 0},                  // P-states
    {0xc0010111, 0xc0010113, 0},                  // SMM base, address, mask
    {0xc0010114, 0xc0010114, 0x18},               // VM_CR: SVM disabled and locked
    {0xc0010117, 0xc0010117, 0},                  // VM_HSAVE_PA
    {0xc0010140, 0xc0010141, 0},                  // OSVW: nothing to work around
    {0xc0011020, 0xc0011023, 0},                  // LS_CFG, IC_CFG, DC_CFG, BU_CFG
    {0xc0011029, 0xc0011029, 2},                  // DE_CFG: LFENCE serializes
    {0xc001102a, 0xc001102a, 0},                  // BU_CFG2
};

static bool is_amd(const struct x86_cpu *cpu)
{
    return cpu->model && cpu->model->vendor == X86_VENDOR_AMD;
}

static bool has(const struct x86_cpu *cpu, enum x86_feature feature)
{
    return x86_has(cpu->model, feature);
}

static _Noreturn void refuse(struct x86_cpu *cpu)
{
    x86_raise_error(cpu, X86_GP, 0);
}

static void require(struct x86_cpu *cpu, bool condition)
{
    if (!condition)
        refuse(cpu);
}

// Before the P6 there were few registers, and none that later systems look for.
static bool is_old(const struct x86_cpu *cpu)
{
    return cpu->model && cpu->model->family < 6;
}

static const struct constant *find_constant(const struct x86_cpu *cpu, uint32_t msr)
{
    const struct constant *list = is_amd(cpu) ? amd_constants : intel_constants;
    size_t count = is_amd(cpu) ? ARRAY_SIZE(amd_constants) : ARRAY_SIZE(intel_constants);
    if (is_old(cpu)) {
        list = p5_constants;
        count = ARRAY_SIZE(p5_constants);
    }
    for (size_t i = 0; i < count; i++)
        if (msr >= list[i].first && msr <= list[i].last)
            return &list[i];
    return NULL;
}

static bool belongs_to_board(const struct x86_cpu *cpu, uint32_t msr)
{
    if (is_old(cpu))
        return false;
    return msr == 0x1b || msr == 0x11 || msr == 0x12 || msr == MSR_TSC_DEADLINE ||
           (msr >= 0x800 && msr <= 0x8ff) || (msr >= 0x4b564d00 && msr <= 0x4b564dff);
}

// What the board has and this processor's CPUID does not offer.
static bool board_register_exists(const struct x86_cpu *cpu, uint32_t msr)
{
    if (msr == MSR_TSC_DEADLINE)
        return has(cpu, X86_FEATURE_tsc_deadline);
    return msr != MSR_APIC_BASE || has(cpu, X86_FEATURE_apic);
}

static uint64_t ucode_revision(const struct x86_cpu *cpu)
{
    return is_amd(cpu) ? 0x1000065 : UINT64_C(0x28) << 32; // one that Linux has no complaint about
}

// --- time ----------------------------------------------------------------------------------------

uint64_t x86_rdtsc(struct x86_cpu *cpu)
{
    return cpu->platform->tsc(cpu->platform->opaque) +
           atomic_load_explicit(&cpu->tsc_offset, memory_order_relaxed);
}

static void move_tsc(struct x86_cpu *cpu, uint64_t delta)
{
    // Before too: what is due by the counter as it was is not undone by the write.
    if (cpu->platform->tsc_changed)
        cpu->platform->tsc_changed(cpu->platform->opaque);
    cpu->tsc_offset += delta;
    if (cpu->platform->tsc_changed)
        cpu->platform->tsc_changed(cpu->platform->opaque);
}

// TSC_ADJUST moves with every write to the counter (SDM vol. 3, 18.17.3).
static void write_tsc(struct x86_cpu *cpu, uint64_t value)
{
    uint64_t delta = value - x86_rdtsc(cpu);
    cpu->tsc_adjust += delta;
    move_tsc(cpu, delta);
}

static void write_tsc_adjust(struct x86_cpu *cpu, uint64_t value)
{
    move_tsc(cpu, value - cpu->tsc_adjust);
    cpu->tsc_adjust = value;
}

// The board compares deadlines with its own counter, the guest sees counter + offset.
static uint64_t deadline_to_board(const struct x86_cpu *cpu, uint64_t value)
{
    if (value == 0 || cpu->tsc_offset == 0)
        return value;
    value -= cpu->tsc_offset;
    return value ? value : 1;
}

static uint64_t deadline_to_guest(const struct x86_cpu *cpu, uint64_t value)
{
    return value ? value + cpu->tsc_offset : 0;
}

// --- memory types --------------------------------------------------------------------------------

static bool mtrr_type_valid(uint64_t type)
{
    return type <= 6 && type != 2 && type != 3;
}

static bool types_valid(uint64_t value, bool pat)
{
    for (unsigned i = 0; i < 8; i++) {
        uint64_t type = (value >> (i * 8)) & 0xff;
        if (!mtrr_type_valid(type) && !(pat && type == 7))
            return false;
    }
    return true;
}

static uint64_t beyond_phys(const struct x86_cpu *cpu)
{
    unsigned bits = cpu->model ? cpu->model->phys_bits : 52;
    return ~((UINT64_C(1) << bits) - 1);
}

// One of 64 KiB ranges, two of 16 KiB, eight of 4 KiB.
static uint64_t *mtrr_fixed(struct x86_cpu *cpu, uint32_t msr)
{
    unsigned n = 3 + (msr - MSR_MTRR_FIX4K) % 8;
    if (msr == MSR_MTRR_FIX64K)
        n = 0;
    else if (msr <= MSR_MTRR_FIX16K_1)
        n = 1 + (msr - MSR_MTRR_FIX16K_0) % 2;
    return &cpu->mtrr_fixed[n];
}

static uint64_t *mtrr_variable(struct x86_cpu *cpu, uint32_t msr)
{
    unsigned n = (msr - MSR_MTRR_BASE0) / 2;
    return (msr & 1) ? &cpu->mtrr_mask[n] : &cpu->mtrr_base[n];
}

static void write_mtrr_variable(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    bool mask = msr & 1;
    require(cpu, !(value & beyond_phys(cpu)));
    if (mask)
        require(cpu, !(value & 0x7ff));
    else
        require(cpu, !(value & 0xf00) && mtrr_type_valid(value & 0xff));
    *mtrr_variable(cpu, msr) = value;
}

// --- EFER ----------------------------------------------------------------------------------------

static void write_efer(struct x86_cpu *cpu, uint64_t value)
{
    uint64_t valid = X86_EFER_LMA;
    if (has(cpu, X86_FEATURE_syscall))
        valid |= X86_EFER_SCE;
    if (has(cpu, X86_FEATURE_lm))
        valid |= X86_EFER_LME;
    if (has(cpu, X86_FEATURE_nx))
        valid |= X86_EFER_NXE;
    require(cpu, !(value & ~valid));
    uint64_t changed = value ^ cpu->efer;
    require(cpu, !((cpu->cr0 & X86_CR0_PG) && (changed & X86_EFER_LME)));
    // LMA follows LME and CR0.PG; a write does not move it.
    cpu->efer = (value & ~(uint64_t)X86_EFER_LMA) | (cpu->efer & X86_EFER_LMA);
    if (changed & X86_EFER_NXE)
        x86_tlb_flush_all(cpu);
    x86_mode_changed(cpu);
}

// The feature that a register came with; registers of a generation need `is_old` to be false.
static void require_present(struct x86_cpu *cpu, uint32_t msr)
{
    static const struct {
        uint32_t first, last;
        uint16_t feature;
    } list[] = {
        {MSR_TSC, MSR_TSC, X86_FEATURE_tsc},
        {0x1b, 0x1b, X86_FEATURE_apic},
        {MSR_MTRRCAP, MSR_MTRRCAP, X86_FEATURE_mtrr},
        {MSR_SYSENTER_CS, MSR_SYSENTER_EIP, X86_FEATURE_sep},
        {MSR_MCG_CAP, MSR_MCG_CTL, X86_FEATURE_mca},
        {MSR_MTRR_BASE0, MSR_MTRR_LAST, X86_FEATURE_mtrr},
        {MSR_MTRR_FIX64K, MSR_MTRR_FIX4K_LAST, X86_FEATURE_mtrr},
        {MSR_PAT, MSR_PAT, X86_FEATURE_pat},
        {MSR_MTRR_DEF, MSR_MTRR_DEF, X86_FEATURE_mtrr},
        {MSR_MC0_CTL, MC_LAST, X86_FEATURE_mca},
        {MSR_STAR, MSR_STAR, X86_FEATURE_syscall},
    };
    static const uint32_t generation[] = {MSR_FEATURE_CONTROL, MSR_UCODE_WRITE,    MSR_UCODE_REV,
                                          MSR_PLATFORM_INFO,   MSR_MISC_ENABLE,    MSR_DEBUGCTL,
                                          MSR_SPEC_CTRL,       MSR_AMD_UCODE_WRITE};

    if (msr > MC_LAST && msr < MSR_EFER)
        return; // the board's, often used
    for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
        if (msr >= list[i].first && msr <= list[i].last)
            require(cpu, has(cpu, list[i].feature));
    if (msr == MSR_EFER)
        require(cpu, has(cpu, X86_FEATURE_syscall) || has(cpu, X86_FEATURE_nx) ||
                         has(cpu, X86_FEATURE_lm));
    for (unsigned i = 0; i < ARRAY_SIZE(generation) && is_old(cpu); i++)
        require(cpu, msr != generation[i]);
}

// --- read ----------------------------------------------------------------------------------------

static uint64_t read_other(struct x86_cpu *cpu, uint32_t msr)
{
    uint64_t value = 0;
    if (belongs_to_board(cpu, msr)) {
        const struct x86_platform *p = cpu->platform;
        require(cpu, board_register_exists(cpu, msr));
        require(cpu, p->msr_read && p->msr_read(p->opaque, msr, &value));
        return msr == MSR_TSC_DEADLINE ? deadline_to_guest(cpu, value) : value;
    }
    if (msr >= MSR_MTRR_BASE0 && msr <= MSR_MTRR_LAST)
        return *mtrr_variable(cpu, msr);
    if (msr >= MSR_MTRR_FIX4K && msr <= MSR_MTRR_FIX4K_LAST)
        return *mtrr_fixed(cpu, msr);
    if (msr >= MSR_MC0_CTL && msr <= MC_LAST)
        return cpu->mc_bank[(msr - MSR_MC0_CTL) / 4][msr & 3];
    const struct constant *c = find_constant(cpu, msr);
    require(cpu, c != NULL);
    return c->value;
}

uint64_t x86_rdmsr(struct x86_cpu *cpu, uint32_t msr)
{
    require_present(cpu, msr);
    switch (msr) {
    case MSR_TSC:
        return x86_rdtsc(cpu);
    case MSR_TSC_ADJUST:
        require(cpu, has(cpu, X86_FEATURE_tsc_adjust));
        return cpu->tsc_adjust;
    case MSR_TSC_AUX:
        require(cpu, has(cpu, X86_FEATURE_rdtscp) || has(cpu, X86_FEATURE_rdpid));
        return cpu->tsc_aux;
    case MSR_EFER:
        return cpu->efer;
    case MSR_STAR:
        return cpu->star;
    case MSR_LSTAR:
        require(cpu, has(cpu, X86_FEATURE_lm));
        return cpu->lstar;
    case MSR_CSTAR:
        require(cpu, has(cpu, X86_FEATURE_lm));
        return cpu->cstar;
    case MSR_SFMASK:
        require(cpu, has(cpu, X86_FEATURE_lm));
        return cpu->sfmask;
    case MSR_FS_BASE:
        require(cpu, has(cpu, X86_FEATURE_lm));
        return cpu->seg[X86_FS].base;
    case MSR_GS_BASE:
        require(cpu, has(cpu, X86_FEATURE_lm));
        return cpu->seg[X86_GS].base;
    case MSR_KERNEL_GS_BASE:
        require(cpu, has(cpu, X86_FEATURE_lm));
        return cpu->kernel_gs_base;
    case MSR_SYSENTER_CS:
        return cpu->sysenter_cs;
    case MSR_SYSENTER_ESP:
        return cpu->sysenter_esp;
    case MSR_SYSENTER_EIP:
        return cpu->sysenter_eip;
    case MSR_PAT:
        return cpu->pat;
    case MSR_MTRRCAP:
        return MTRR_CAP;
    case MSR_MTRR_DEF:
        return cpu->mtrr_def;
    case MSR_MTRR_FIX64K:
    case MSR_MTRR_FIX16K_0:
    case MSR_MTRR_FIX16K_1:
        return *mtrr_fixed(cpu, msr);
    case MSR_MISC_ENABLE:
        require(cpu, !is_amd(cpu));
        return cpu->misc_enable | MISC_ENABLE_FIXED;
    case MSR_MCG_CAP:
        return MCG_CAP;
    case MSR_MCG_STATUS:
        return cpu->mcg_status;
    case MSR_MCG_CTL:
        return cpu->mcg_ctl;
    case MSR_SPEC_CTRL:
        require(cpu, has(cpu, X86_FEATURE_spec_ctrl));
        return cpu->spec_ctrl;
    case MSR_ARCH_CAPABILITIES:
        require(cpu, has(cpu, X86_FEATURE_arch_caps));
        return ARCH_CAPABILITIES;
    case MSR_FEATURE_CONTROL:
        require(cpu, !is_amd(cpu));
        return 1; // locked: nothing is enabled
    case MSR_DEBUGCTL:
        return cpu->debugctl;
    case MSR_UCODE_REV:
        return ucode_revision(cpu);
    case MSR_PLATFORM_INFO:
        require(cpu, !is_amd(cpu));
        return (cpu->platform->tsc_hz / 100000000 & 0xff) << 8; // non-turbo ratio
    case MSR_XSS:
        require(cpu, has(cpu, X86_FEATURE_xsaves));
        return cpu->xss;
    default:
        return read_other(cpu, msr);
    }
}

// --- write ---------------------------------------------------------------------------------------

static void write_base(struct x86_cpu *cpu, unsigned seg, uint64_t value)
{
    require(cpu, has(cpu, X86_FEATURE_lm) && x86_canonical(value));
    cpu->seg[seg].base = value;
    x86_seg_changed(cpu, seg);
}

static void write_canonical(struct x86_cpu *cpu, uint64_t *field, uint64_t value)
{
    require(cpu, has(cpu, X86_FEATURE_lm) && x86_canonical(value));
    *field = value;
}

static void write_other(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    if (belongs_to_board(cpu, msr)) {
        const struct x86_platform *p = cpu->platform;
        require(cpu, board_register_exists(cpu, msr));
        if (msr == MSR_APIC_BASE)
            require(cpu, !(value & beyond_phys(cpu)) &&
                             (has(cpu, X86_FEATURE_x2apic) || !(value & APIC_BASE_EXTD)));
        if (msr == MSR_TSC_DEADLINE)
            value = deadline_to_board(cpu, value);
        require(cpu, p->msr_write && p->msr_write(p->opaque, msr, value));
    } else if (msr >= MSR_MTRR_BASE0 && msr <= MSR_MTRR_LAST) {
        write_mtrr_variable(cpu, msr, value);
    } else if (msr >= MSR_MTRR_FIX4K && msr <= MSR_MTRR_FIX4K_LAST) {
        require(cpu, types_valid(value, false));
        *mtrr_fixed(cpu, msr) = value;
    } else if (msr >= MSR_MC0_CTL && msr <= MC_LAST) {
        unsigned reg = msr & 3;
        require(cpu, reg == 0 || value == 0); // STATUS, ADDR, MISC can only be cleared
        cpu->mc_bank[(msr - MSR_MC0_CTL) / 4][reg] = value;
    } else if (is_amd(cpu) && msr == MSR_AMD_UCODE_WRITE) {
        return; // an update changes nothing here
    } else {
        require(cpu, find_constant(cpu, msr) != NULL);
    }
}

void x86_wrmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
    require_present(cpu, msr);
    switch (msr) {
    case MSR_TSC:
        write_tsc(cpu, value);
        break;
    case MSR_TSC_ADJUST:
        require(cpu, has(cpu, X86_FEATURE_tsc_adjust));
        write_tsc_adjust(cpu, value);
        break;
    case MSR_TSC_AUX:
        require(cpu, has(cpu, X86_FEATURE_rdtscp) || has(cpu, X86_FEATURE_rdpid));
        require(cpu, is_amd(cpu) || value >> 32 == 0);
        cpu->tsc_aux = (uint32_t)value;
        break;
    case MSR_EFER:
        write_efer(cpu, value);
        break;
    case MSR_STAR:
        cpu->star = value;
        break;
    case MSR_LSTAR:
        write_canonical(cpu, &cpu->lstar, value);
        break;
    case MSR_CSTAR:
        write_canonical(cpu, &cpu->cstar, value);
        break;
    case MSR_SFMASK:
        require(cpu, has(cpu, X86_FEATURE_lm));
        cpu->sfmask = (uint32_t)value;
        break;
    case MSR_FS_BASE:
        write_base(cpu, X86_FS, value);
        break;
    case MSR_GS_BASE:
        write_base(cpu, X86_GS, value);
        break;
    case MSR_KERNEL_GS_BASE:
        write_canonical(cpu, &cpu->kernel_gs_base, value);
        break;
    case MSR_SYSENTER_CS:
        cpu->sysenter_cs = (uint32_t)value;
        break;
    case MSR_SYSENTER_ESP:
        require(cpu, x86_canonical(value));
        cpu->sysenter_esp = value;
        break;
    case MSR_SYSENTER_EIP:
        require(cpu, x86_canonical(value));
        cpu->sysenter_eip = value;
        break;
    case MSR_PAT:
        require(cpu, types_valid(value, true));
        cpu->pat = value;
        break;
    case MSR_MTRR_DEF:
        require(cpu, !(value & ~(uint64_t)MTRR_DEF_VALID) && mtrr_type_valid(value & 0xff));
        cpu->mtrr_def = value;
        break;
    case MSR_MTRR_FIX64K:
    case MSR_MTRR_FIX16K_0:
    case MSR_MTRR_FIX16K_1:
        require(cpu, types_valid(value, false));
        *mtrr_fixed(cpu, msr) = value;
        break;
    case MSR_MISC_ENABLE:
        require(cpu, !is_amd(cpu));
        cpu->misc_enable = value & MISC_ENABLE_WRITABLE;
        break;
    case MSR_MCG_STATUS:
        require(cpu, value == 0);
        cpu->mcg_status = 0;
        break;
    case MSR_MCG_CTL:
        cpu->mcg_ctl = value;
        break;
    case MSR_SPEC_CTRL:
        require(cpu, has(cpu, X86_FEATURE_spec_ctrl));
        require(cpu, !(value & ~(has(cpu, X86_FEATURE_bhi_ctrl) ? UINT64_C(0x407) : 7)));
        cpu->spec_ctrl = value;
        break;
    case MSR_PRED_CMD:
        require(cpu, has(cpu, X86_FEATURE_spec_ctrl) && !(value & ~UINT64_C(1)));
        break; // there is no predictor to flush
    case MSR_DEBUGCTL:
        // Branch steps (BTF) work with RFLAGS.TF; last-branch records are accepted and do nothing.
        require(cpu, !(value & ~(is_amd(cpu) ? UINT64_C(0x3f) : UINT64_C(0xdfc3))));
        cpu->debugctl = value;
        break;
    case MSR_UCODE_REV:
    case MSR_UCODE_WRITE:
        break;
    case MSR_XSS:
        require(cpu, has(cpu, X86_FEATURE_xsaves) && value == 0);
        cpu->xss = value;
        break;
    default: // also the read-only ones: MTRRCAP, MCG_CAP, ARCH_CAPABILITIES, FEATURE_CONTROL
        write_other(cpu, msr, value);
        break;
    }
}
