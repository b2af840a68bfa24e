// SPDX-License-Identifier: Apache-2.0
// Floating-point and vector state as a whole: FNINIT, FXSAVE, FXRSTOR, the XSAVE family (SDM vol.
// 1, chapter 13), and the checks that instructions using that state start with.
//
//   0    FCW FSW FTW(abridged) FOP FIP FDP      component 0 (x87)
//   24   MXCSR, MXCSR_MASK                      component 1, or 2
//   32   ST0..ST7, 16 bytes each                component 0
//   160  XMM0..XMM15 (0..7 outside 64-bit mode) component 1 (SSE)
//   512  XSTATE_BV, XCOMP_BV, reserved          the header of the XSAVE family
//   576  upper halves of YMM0..YMM15            component 2 (AVX), the same place in both layouts
//
// Rules to keep:
//  - x86_fpu_sync() before cpu->x87 or cpu->mxcsr is touched (fpu.h).
//  - An image is read whole and checked before any register changes; every byte that will be
//    written is checked before the first is.
#include "x86/cpuid.h"
#include "x86/descriptor.h"
#include "x86/fpu.h"
#include "x86/mem.h"
#include "x86/paging.h"
#include "x86/system.h"

#include <string.h>

#define LEGACY_SIZE 512
#define HEADER_SIZE 64
#define YMM_OFFSET (LEGACY_SIZE + HEADER_SIZE)
#define AREA_SIZE (YMM_OFFSET + 256)
#define MXCSR_OFFSET 24
#define ST_OFFSET 32
#define XMM_OFFSET 160
#define XSTATE_BV (LEGACY_SIZE + 0)
#define XCOMP_BV (LEGACY_SIZE + 8)

#define COMP_X87 1u
#define COMP_SSE 2u
#define COMP_AVX 4u
#define COMPACTED (UINT64_C(1) << 63)

#define MXCSR_INIT 0x1f80u
#define MXCSR_MASK 0xffffu
#define FCW_INIT 0x37f
#define FSW_ES 0x80
#define FSW_BUSY 0x8000

// --- checks --------------------------------------------------------------------------------------

// An unmasked x87 exception is pending: #MF, or the PC's way (SDM vol. 1, 8.7.2 and 8.7.3). FERR# tells
// the board's interrupt controller; the processor waits before the instruction for the interrupt, unless
// IGNNE# lets it go on with the error pending.
static void report_pending(struct x86_cpu *cpu)
{
    if (!(cpu->x87.fsw & FSW_ES))
        return;
    if (cpu->cr0 & X86_CR0_NE)
        x86_raise(cpu, X86_MF);
    const struct x86_platform *platform = cpu->platform;
    if (platform->ferr == NULL || platform->ignne == NULL)
        return;
    if (!cpu->ferr) {
        cpu->ferr = true;
        platform->ferr(platform->opaque, true);
    }
    if (!platform->ignne(platform->opaque))
        x86_freeze(cpu);
}

// `wait`: the instruction reports pending exceptions first.
void x86_check_x87(struct x86_cpu *cpu, bool wait)
{
    if (cpu->cr0 & (X86_CR0_EM | X86_CR0_TS))
        x86_raise(cpu, X86_NM);
    if (wait)
        report_pending(cpu);
}

void x86_check_fwait(struct x86_cpu *cpu)
{
    if ((cpu->cr0 & (X86_CR0_MP | X86_CR0_TS)) == (X86_CR0_MP | X86_CR0_TS))
        x86_raise(cpu, X86_NM);
    report_pending(cpu);
}

void x86_check_mmx(struct x86_cpu *cpu)
{
    if (cpu->cr0 & X86_CR0_EM)
        x86_raise(cpu, X86_UD);
    if (cpu->cr0 & X86_CR0_TS)
        x86_raise(cpu, X86_NM);
    report_pending(cpu);
}

void x86_check_sse(struct x86_cpu *cpu)
{
    if ((cpu->cr0 & X86_CR0_EM) || !(cpu->cr4 & X86_CR4_OSFXSR))
        x86_raise(cpu, X86_UD);
    if (cpu->cr0 & X86_CR0_TS)
        x86_raise(cpu, X86_NM);
}

void x86_check_avx(struct x86_cpu *cpu)
{
    if (!x86_prot_mode(cpu) || !(cpu->cr4 & X86_CR4_OSXSAVE) || (cpu->xcr0 & 6) != 6)
        x86_raise(cpu, X86_UD);
    if (cpu->cr0 & X86_CR0_TS)
        x86_raise(cpu, X86_NM);
}

static void check_fx(struct x86_cpu *cpu)
{
    if (cpu->cr0 & X86_CR0_EM)
        x86_raise(cpu, X86_UD);
    if (cpu->cr0 & X86_CR0_TS)
        x86_raise(cpu, X86_NM);
}

static void check_xsave(struct x86_cpu *cpu)
{
    if (!(cpu->cr4 & X86_CR4_OSXSAVE))
        x86_raise(cpu, X86_UD);
    if (cpu->cr0 & X86_CR0_TS)
        x86_raise(cpu, X86_NM);
}

static void check_aligned(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned align)
{
    gva_t lin = (cpu->seg[seg].eff_base + off) & cpu->lin_mask;
    if (lin & (align - 1))
        x86_raise_error(cpu, X86_GP, 0);
}

// FXSAVE and FXRSTOR look at the first byte's segment limit and canonical form before the alignment. On AMD's
// processors it is the limit alone, of four bytes; the type comes later. #AC or #GP where alignment is checked: the
// manuals leave it open; AMD's processors raise #AC for what is not even aligned to 4 bytes.
static void check_fx_aligned(struct x86_cpu *cpu, unsigned seg, uint64_t off)
{
    const struct x86_seg *s = &cpu->seg[seg];
    gva_t lin;
    if (x86_is_amd(cpu) && cpu->code_size != X86_CODE64 && !(s->attr & X86_ATTR_UNUSABLE)) {
        if (!x86_seg_within(s, (uint32_t)off, 4))
            x86_raise_error(cpu, seg == X86_SS ? X86_SS_FAULT : X86_GP, 0);
        lin = (s->eff_base + off) & cpu->lin_mask;
    } else {
        lin = x86_lin(cpu, seg, off, 1, X86_ACCESS_READ);
    }
    if (cpu->code_size == X86_CODE64 && !x86_canonical(lin))
        x86_raise_error(cpu, seg == X86_SS ? X86_SS_FAULT : X86_GP, 0);
    if ((lin & 3) && x86_tlb_align_checked(cpu))
        x86_raise_error(cpu, X86_AC, 0);
    if (lin & 15)
        x86_raise_error(cpu, X86_GP, 0);
}

static void require(struct x86_cpu *cpu, bool condition)
{
    if (!condition)
        x86_raise_error(cpu, X86_GP, 0);
}

// --- state and image -----------------------------------------------------------------------------

static void x87_init(struct x86_cpu *cpu, bool registers)
{
    struct x86_x87 *x = &cpu->x87;
    if (registers)
        memset(x->reg, 0, sizeof(x->reg));
    x->fcw = FCW_INIT;
    x->fsw = 0;
    x->ftw = 0xffff;
    x->fop = 0;
    x->fip = x->fdp = 0;
    x->fcs = x->fds = 0;
}

void x86_fninit(struct x86_cpu *cpu)
{
    x86_fpu_sync(cpu);
    x87_init(cpu, false);
    x86_ferr_update(cpu);
}

static unsigned vec_count(const struct x86_cpu *cpu)
{
    return cpu->code_size == X86_CODE64 ? 16 : 8;
}

static void x87_to_image(const struct x86_cpu *cpu, uint8_t *image, bool rexw)
{
    const struct x86_x87 *x = &cpu->x87;
    unsigned top = (x->fsw >> 11) & 7;
    uint16_t fop = x->fop & 0x7ff;
    uint8_t tags = 0;
    for (unsigned i = 0; i < 8; i++)
        if (((x->ftw >> (i * 2)) & 3) != 3)
            tags |= (uint8_t)(1u << i);
    memset(image, 0, MXCSR_OFFSET);
    memcpy(image, &x->fcw, 2);
    memcpy(image + 2, &x->fsw, 2);
    image[4] = tags;
    if (x86_is_amd(cpu) && !(x->fsw & FSW_ES)) {
        // AMD's store zeros in place of opcode and pointers unless an exception is pending (APM vol. 2,
        // 11.5.3; CPUID Fn8000_0008_EBX[RstrFpErrPtrs]). What they load is always what the image holds.
    } else if (rexw) {
        memcpy(image + 6, &fop, 2);
        memcpy(image + 8, &x->fip, 8);
        memcpy(image + 16, &x->fdp, 8);
    } else {
        memcpy(image + 6, &fop, 2);
        memcpy(image + 8, &x->fip, 4);
        memcpy(image + 12, &x->fcs, 2);
        memcpy(image + 16, &x->fdp, 4);
        memcpy(image + 20, &x->fds, 2);
    }
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + ST_OFFSET + i * 16, x->reg[(top + i) & 7], 16);
}

static void x87_from_image(struct x86_cpu *cpu, const uint8_t *image, bool rexw)
{
    struct x86_x87 *x = &cpu->x87;
    memcpy(&x->fcw, image, 2);
    memcpy(&x->fsw, image + 2, 2);
    memcpy(&x->fop, image + 6, 2);
    x->fcw = (x->fcw & 0x1f3f) | 0x40;
    x->fop &= 0x7ff;
    x->fsw &= (uint16_t) ~(FSW_ES | FSW_BUSY);
    if (x->fsw & ~x->fcw & 0x3f)
        x->fsw |= FSW_ES | FSW_BUSY;
    x->fip = x->fdp = 0;
    x->fcs = x->fds = 0;
    if (rexw) {
        memcpy(&x->fip, image + 8, 8);
        memcpy(&x->fdp, image + 16, 8);
        if (x86_is_amd(cpu)) { // they hold 57 bits
            x->fip = (uint64_t)((int64_t)(x->fip << 7) >> 7);
            x->fdp = (uint64_t)((int64_t)(x->fdp << 7) >> 7);
        }
    } else {
        memcpy(&x->fip, image + 8, 4);
        memcpy(&x->fcs, image + 12, 2);
        memcpy(&x->fdp, image + 16, 4);
        memcpy(&x->fds, image + 20, 2);
    }
    unsigned top = (x->fsw >> 11) & 7;
    for (unsigned i = 0; i < 8; i++) {
        uint8_t *reg = x->reg[(top + i) & 7];
        memcpy(reg, image + ST_OFFSET + i * 16, 10);
        memset(reg + 10, 0, 6);
    }
    x->ftw = 0;
    for (unsigned i = 0; i < 8; i++) {
        unsigned tag = (image[4] >> i) & 1 ? x86_x87_tag(x->reg[i]) : 3;
        x->ftw |= (uint16_t)(tag << (i * 2));
    }
}

static void mxcsr_to_image(const struct x86_cpu *cpu, uint8_t *image)
{
    const uint32_t mask = MXCSR_MASK;
    memcpy(image + MXCSR_OFFSET, &cpu->mxcsr, 4);
    memcpy(image + MXCSR_OFFSET + 4, &mask, 4);
}

static uint32_t mxcsr_of_image(struct x86_cpu *cpu, const uint8_t *image)
{
    uint32_t mxcsr;
    memcpy(&mxcsr, image + MXCSR_OFFSET, 4);
    require(cpu, !(mxcsr & ~MXCSR_MASK));
    return mxcsr;
}

static void xmm_to_image(const struct x86_cpu *cpu, uint8_t *image)
{
    for (unsigned i = 0; i < vec_count(cpu); i++)
        memcpy(image + XMM_OFFSET + i * 16, cpu->vec[i].u8, 16);
}

// `image` NULL: the initial configuration.
static void xmm_from_image(struct x86_cpu *cpu, const uint8_t *image)
{
    for (unsigned i = 0; i < vec_count(cpu); i++) {
        if (image)
            memcpy(cpu->vec[i].u8, image + XMM_OFFSET + i * 16, 16);
        else
            memset(cpu->vec[i].u8, 0, 16);
    }
}

static void ymm_to_image(const struct x86_cpu *cpu, uint8_t *image)
{
    for (unsigned i = 0; i < vec_count(cpu); i++)
        memcpy(image + YMM_OFFSET + i * 16, cpu->vec[i].u8 + 16, 16);
}

static void ymm_from_image(struct x86_cpu *cpu, const uint8_t *image)
{
    for (unsigned i = 0; i < vec_count(cpu); i++) {
        if (image)
            memcpy(cpu->vec[i].u8 + 16, image + YMM_OFFSET + i * 16, 16);
        else
            memset(cpu->vec[i].u8 + 16, 0, 16);
    }
}

static bool all_zero(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

uint64_t x86_xinuse(struct x86_cpu *cpu)
{
    const struct x86_x87 *x = &cpu->x87;
    uint64_t low = 0, high = 0, inuse = 0;
    x86_fpu_sync(cpu);
    for (unsigned i = 0; i < 16; i++) {
        low |= cpu->vec[i].u64[0] | cpu->vec[i].u64[1];
        high |= cpu->vec[i].u64[2] | cpu->vec[i].u64[3];
    }
    if (x->fcw != FCW_INIT || x->fsw || x->ftw != 0xffff || x->fop || x->fip || x->fdp || x->fcs ||
        x->fds || !all_zero(x->reg, sizeof(x->reg)))
        inuse |= COMP_X87;
    if (low)
        inuse |= COMP_SSE;
    if (high)
        inuse |= COMP_AVX;
    return inuse;
}

uint64_t x86_xinuse_mxcsr(struct x86_cpu *cpu)
{
    uint64_t inuse = x86_xinuse(cpu); // makes MXCSR current
    return cpu->mxcsr != MXCSR_INIT ? inuse | COMP_SSE : inuse;
}

uint32_t x86_xsave_size(uint64_t xcr0, bool compacted)
{
    (void)compacted; // AVX alone follows the header either way
    return xcr0 & COMP_AVX ? AREA_SIZE : YMM_OFFSET;
}

// --- FXSAVE, FXRSTOR -----------------------------------------------------------------------------

// The image of FXSAVE and FXRSTOR: its last byte is looked at first, as AMD's processors do. In 16-byte pieces
// where it wraps.
static void fx_read(struct x86_cpu *cpu, unsigned seg, uint64_t off, uint64_t wrap, uint8_t *image)
{
    uint64_t last = (off + LEGACY_SIZE - 1) & wrap;
    if (x86_is_amd(cpu))
        x86_read8(cpu, seg, last);
    if (last >= off) {
        x86_read_block(cpu, seg, off, image, LEGACY_SIZE);
        return;
    }
    for (unsigned i = 0; i < LEGACY_SIZE; i += 16)
        x86_read_block(cpu, seg, (off + i) & wrap, image + i, 16);
}

static void fx_write(struct x86_cpu *cpu, unsigned seg, uint64_t off, uint64_t wrap,
                     const uint8_t *image, unsigned size)
{
    uint64_t last = (off + LEGACY_SIZE - 1) & wrap;
    if (x86_is_amd(cpu))
        x86_write_check(cpu, seg, last, 1);
    if (last >= off) {
        x86_write_block(cpu, seg, off, image, size);
        return;
    }
    for (unsigned i = 0; i < size; i += 16)
        x86_write_check(cpu, seg, (off + i) & wrap, 16);
    for (unsigned i = 0; i < size; i += 16)
        x86_write_block(cpu, seg, (off + i) & wrap, image + i, 16);
}

void x86_fxsave(struct x86_cpu *cpu, unsigned seg, uint64_t off, uint64_t wrap, bool rexw)
{
    uint8_t image[LEGACY_SIZE];
    check_fx(cpu);
    check_fx_aligned(cpu, seg, off);
    x86_fpu_sync(cpu);
    x87_to_image(cpu, image, rexw);
    mxcsr_to_image(cpu, image);
    xmm_to_image(cpu, image);
    // Bytes behind the registers are left alone.
    bool sse = cpu->cr4 & X86_CR4_OSFXSR;
    fx_write(cpu, seg, off, wrap, image, XMM_OFFSET + (sse ? vec_count(cpu) * 16 : 0));
}

void x86_fxrstor(struct x86_cpu *cpu, unsigned seg, uint64_t off, uint64_t wrap, bool rexw)
{
    uint8_t image[LEGACY_SIZE];
    check_fx(cpu);
    check_fx_aligned(cpu, seg, off);
    fx_read(cpu, seg, off, wrap, image);
    uint32_t mxcsr = mxcsr_of_image(cpu, image);
    x86_fpu_sync(cpu);
    x87_from_image(cpu, image, rexw);
    x86_ferr_update(cpu);
    if (cpu->cr4 & X86_CR4_OSFXSR) {
        cpu->mxcsr = mxcsr;
        xmm_from_image(cpu, image);
    }
}

// --- XSAVE, XSAVEOPT, XSAVEC, XSAVES -------------------------------------------------------------

// Parts of the area that an instruction writes.
struct ranges {
    struct {
        uint16_t offset, size;
    } part[6];
    unsigned count;
};

static void add_range(struct ranges *r, unsigned offset, unsigned size)
{
    if (r->count && r->part[r->count - 1].offset + r->part[r->count - 1].size == (int)offset) {
        r->part[r->count - 1].size += (uint16_t)size;
        return;
    }
    r->part[r->count].offset = (uint16_t)offset;
    r->part[r->count].size = (uint16_t)size;
    r->count++;
}

void x86_xsave(struct x86_cpu *cpu, enum x86_xsave_kind kind, uint64_t mask, unsigned seg,
               uint64_t off, bool rexw)
{
    uint8_t image[AREA_SIZE];
    struct ranges ranges = {.count = 0};
    bool compact = kind == X86_XSAVEC || kind == X86_XSAVES;

    check_xsave(cpu);
    if (kind == X86_XSAVES)
        require(cpu, cpu->cpl == 0);
    check_aligned(cpu, seg, off, 64);
    uint64_t rfbm = mask & (kind == X86_XSAVES ? cpu->xcr0 | cpu->xss : cpu->xcr0);
    uint64_t inuse = compact ? x86_xinuse_mxcsr(cpu) : x86_xinuse(cpu);
    uint64_t store = kind == X86_XSAVE ? rfbm : rfbm & inuse;
    bool mxcsr = compact ? store & COMP_SSE : rfbm & (COMP_SSE | COMP_AVX);

    if (store & COMP_X87) {
        x87_to_image(cpu, image, rexw);
        add_range(&ranges, 0, MXCSR_OFFSET);
    }
    if (mxcsr) {
        mxcsr_to_image(cpu, image);
        add_range(&ranges, MXCSR_OFFSET, 8);
    }
    if (store & COMP_X87)
        add_range(&ranges, ST_OFFSET, 128);
    if (store & COMP_SSE) {
        xmm_to_image(cpu, image);
        add_range(&ranges, XMM_OFFSET, vec_count(cpu) * 16);
    }
    if (store & COMP_AVX) {
        ymm_to_image(cpu, image);
        add_range(&ranges, YMM_OFFSET, vec_count(cpu) * 16);
    }

    unsigned header = compact ? 16 : 8;
    // AMD's processors look at the first byte, then at the last that RFBM names, in use or not.
    x86_write_check(cpu, seg, off, 1);
    x86_write_check(cpu, seg, off + (rfbm & COMP_AVX ? AREA_SIZE : YMM_OFFSET) - 1, 1);
    for (unsigned i = 0; i < ranges.count; i++)
        x86_write_check(cpu, seg, off + ranges.part[i].offset, ranges.part[i].size);
    x86_write_check(cpu, seg, off + XSTATE_BV, header);
    uint64_t xstate_bv[2] = {inuse & rfbm, rfbm | COMPACTED};
    if (!compact)
        xstate_bv[0] |= x86_read64(cpu, seg, off + XSTATE_BV) & ~rfbm;
    for (unsigned i = 0; i < ranges.count; i++)
        x86_write_block(cpu, seg, off + ranges.part[i].offset, image + ranges.part[i].offset,
                        ranges.part[i].size);
    x86_write_block(cpu, seg, off + XSTATE_BV, xstate_bv, header);
}

// --- XRSTOR, XRSTORS -----------------------------------------------------------------------------

void x86_xrstor(struct x86_cpu *cpu, bool supervisor, uint64_t mask, unsigned seg, uint64_t off,
                bool rexw)
{
    uint8_t image[AREA_SIZE];
    uint64_t bv, comp;

    check_xsave(cpu);
    if (supervisor)
        require(cpu, cpu->cpl == 0);
    check_aligned(cpu, seg, off, 64);
    uint64_t enabled = supervisor ? cpu->xcr0 | cpu->xss : cpu->xcr0;
    uint64_t rfbm = mask & enabled;

    // In the order of AMD's processors: first byte, header, last byte, the rest.
    x86_read8(cpu, seg, off);
    x86_read_block(cpu, seg, off + LEGACY_SIZE, image + LEGACY_SIZE, HEADER_SIZE);
    memcpy(&bv, image + XSTATE_BV, 8);
    memcpy(&comp, image + XCOMP_BV, 8);
    bool compact = comp & COMPACTED;
    if (compact) {
        require(cpu, x86_has(cpu->model, X86_FEATURE_xsavec));
        comp &= ~COMPACTED;
        require(cpu, !(comp & ~enabled) && !(bv & ~comp));
        require(cpu, all_zero(image + XCOMP_BV + 8, HEADER_SIZE - 16));
    } else {
        require(cpu, !supervisor);
        require(cpu, comp == 0 && !(bv & ~enabled));
        require(cpu, all_zero(image + XCOMP_BV + 8, 8));
    }
    uint64_t load = rfbm & bv;
    if ((compact ? load : rfbm) & COMP_AVX)
        x86_read8(cpu, seg, off + AREA_SIZE - 1);
    x86_read_block(cpu, seg, off, image, LEGACY_SIZE);
    if (load & COMP_AVX)
        x86_read_block(cpu, seg, off + YMM_OFFSET, image + YMM_OFFSET, vec_count(cpu) * 16);
    // The compacted form treats MXCSR as part of SSE, the standard one as beside it.
    uint32_t mxcsr = MXCSR_INIT;
    if (compact ? load & COMP_SSE : rfbm & (COMP_SSE | COMP_AVX))
        mxcsr = mxcsr_of_image(cpu, image);

    x86_fpu_sync(cpu);
    if (load & COMP_X87)
        x87_from_image(cpu, image, rexw);
    else if (rfbm & COMP_X87)
        x87_init(cpu, true);
    x86_ferr_update(cpu);
    if (rfbm & (compact ? COMP_SSE : COMP_SSE | COMP_AVX))
        cpu->mxcsr = mxcsr;
    if (rfbm & COMP_SSE)
        xmm_from_image(cpu, load & COMP_SSE ? image : NULL);
    if (rfbm & COMP_AVX)
        ymm_from_image(cpu, load & COMP_AVX ? image : NULL);
}
