// SPDX-License-Identifier: Apache-2.0
// Private to the files that implement segmentation, exceptions, transfers and tasks: descriptors,
// the processor's own accesses to its tables, and stack frames that are built before anything
// changes.
//
// Rules to keep:
//  - Tables are read by linear address with supervisor rights (sys_*), stacks of the current
//    privilege level with the current one's rights, stacks of an inner level with supervisor
//    rights.
//  - Nothing architectural changes between the first check and x86_frame_reserve(); after that only
//    commits that cannot fail.
#pragma once

#include "x86/cpuid.h"
#include "x86/flags.h"
#include "x86/mem.h"
#include "x86/system.h"

// Without a model (tests): Intel.
static inline bool x86_is_amd(const struct x86_cpu *cpu)
{
    return cpu->model != NULL && cpu->model->vendor == X86_VENDOR_AMD;
}

// --- descriptors (SDM vol. 3, 3.4.5 and 6.11) ----------------------------------------------------
#define X86_TYPE_ACCESSED 1
#define X86_TYPE_WRITABLE 2 // data
#define X86_TYPE_READABLE 2 // code
#define X86_TYPE_EXPAND_DOWN 4
#define X86_TYPE_CONFORMING 4
#define X86_TYPE_CODE 8
enum x86_system_type {
    X86_SYS_TSS16 = 1,
    X86_SYS_LDT = 2,
    X86_SYS_TSS16_BUSY = 3,
    X86_SYS_CALL16 = 4,
    X86_SYS_TASK_GATE = 5,
    X86_SYS_INT16 = 6,
    X86_SYS_TRAP16 = 7,
    X86_SYS_TSS32 = 9,
    X86_SYS_TSS32_BUSY = 11,
    X86_SYS_CALL32 = 12,
    X86_SYS_INT32 = 14,
    X86_SYS_TRAP32 = 15,
};
#define X86_TSS_BUSY 2 // the bit in the type

#define X86_SEL_RPL 3
#define X86_SEL_TI 4
#define X86_ATTR_FLAT_CODE64 0xa09b // G, L, present, DPL 0, execute/read, accessed
#define X86_ATTR_FLAT_CODE32 0xc09b
#define X86_ATTR_FLAT_DATA 0xc093

struct x86_desc {
    gva_t lin; // where it lies
    uint32_t lo, hi;
};

static inline bool x86_sel_null(uint16_t sel)
{
    return (sel & ~X86_SEL_RPL) == 0;
}
static inline uint32_t x86_sel_error(uint16_t sel, uint32_t ext)
{
    return (sel & 0xfffcu) | ext;
}
static inline uint32_t x86_desc_attr(const struct x86_desc *d)
{
    return (d->hi >> 8) & 0xf0ff;
}
static inline unsigned x86_desc_type(const struct x86_desc *d)
{
    return (d->hi >> 8) & 0xf;
}
static inline unsigned x86_desc_dpl(const struct x86_desc *d)
{
    return (d->hi >> 13) & 3;
}
static inline bool x86_desc_present(const struct x86_desc *d)
{
    return (d->hi >> 15) & 1;
}
static inline bool x86_desc_is_segment(const struct x86_desc *d) // code or data, not system
{
    return (d->hi >> 12) & 1;
}
static inline bool x86_desc_is_code(const struct x86_desc *d)
{
    return (d->hi & 0x1800) == 0x1800;
}
static inline bool x86_desc_conforming(const struct x86_desc *d) // of code
{
    return (d->hi >> 10) & 1;
}
static inline bool x86_desc_long(const struct x86_desc *d) // L
{
    return (d->hi >> 21) & 1;
}
static inline bool x86_desc_db(const struct x86_desc *d)
{
    return (d->hi >> 22) & 1;
}
static inline bool x86_desc_writable_data(const struct x86_desc *d)
{
    return (d->hi & 0x1a00) == 0x1200;
}
static inline bool x86_desc_readable(const struct x86_desc *d) // data or readable code
{
    return (d->hi & 0x1000) && (d->hi & 0x0a00) != 0x0800;
}
static inline uint32_t x86_desc_base(const struct x86_desc *d)
{
    return (d->lo >> 16) | ((d->hi & 0xff) << 16) | (d->hi & 0xff000000);
}
static inline uint32_t x86_desc_limit(const struct x86_desc *d)
{
    uint32_t limit = (d->lo & 0xffff) | (d->hi & 0xf0000);
    return (d->hi >> 23) & 1 ? (limit << 12) | 0xfff : limit;
}
static inline uint32_t x86_gate_offset(const struct x86_desc *d) // bits 31:0
{
    return (d->lo & 0xffff) | (d->hi & 0xffff0000);
}
static inline uint16_t x86_gate_selector(const struct x86_desc *d)
{
    return d->lo >> 16;
}
static inline void x86_seg_from_desc(struct x86_seg *seg, uint16_t sel, const struct x86_desc *d)
{
    seg->sel = sel;
    seg->attr = x86_desc_attr(d);
    seg->limit = x86_desc_limit(d);
    seg->base = x86_desc_base(d);
}

// --- the processor's own accesses ----------------------------------------------------------------
ALWAYS_INLINE struct x86_tlb_entry *x86_sys_entry(struct x86_cpu *cpu, gva_t lin)
{
    unsigned set = cpu->cr4 & X86_CR4_SMAP ? X86_TLB_SUPERVISOR_SMAP : X86_TLB_SUPERVISOR;
    return &cpu->tlb->set[set][(lin >> PAGE_SHIFT) & (X86_TLB_ENTRIES - 1)];
}
// Linear addresses of table entries wrap at 4 GiB outside long mode.
ALWAYS_INLINE gva_t x86_sys_lin(const struct x86_cpu *cpu, gva_t lin)
{
    return cpu->long_mode ? lin : (uint32_t)lin;
}
#define X86_DEFINE_SYS(bits)                                                                 \
    ALWAYS_INLINE uint##bits##_t x86_sys_read##bits(struct x86_cpu *cpu, gva_t lin)          \
    {                                                                                        \
        lin = x86_sys_lin(cpu, lin);                                                         \
        struct x86_tlb_entry *e = x86_sys_entry(cpu, lin);                                   \
        if (x86_tlb_hit(e->tag_read, lin, bits / 8)) {                                       \
            uint##bits##_t v;                                                                \
            __builtin_memcpy(&v, (void *)(lin + e->addend), bits / 8);                       \
            return v;                                                                        \
        }                                                                                    \
        return (uint##bits##_t)x86_sys_read(cpu, lin, bits / 8);                             \
    }                                                                                        \
    ALWAYS_INLINE void x86_sys_write##bits(struct x86_cpu *cpu, gva_t lin, uint##bits##_t v) \
    {                                                                                        \
        lin = x86_sys_lin(cpu, lin);                                                         \
        struct x86_tlb_entry *e = x86_sys_entry(cpu, lin);                                   \
        if (x86_tlb_hit(e->tag_write, lin, bits / 8)) {                                      \
            __builtin_memcpy((void *)(lin + e->addend), &v, bits / 8);                       \
            x86_stored(cpu, e, lin, bits / 8);                                               \
            return;                                                                          \
        }                                                                                    \
        x86_sys_write(cpu, lin, v, bits / 8);                                                \
    }
X86_DEFINE_SYS(8)
X86_DEFINE_SYS(16)
X86_DEFINE_SYS(32)
X86_DEFINE_SYS(64)

// Reads the 8 bytes of sel's descriptor; false when sel is outside its table (or there is no LDT).
// The caller has ruled out null selectors where they are not allowed.
static inline bool x86_desc_read(struct x86_cpu *cpu, uint16_t sel, struct x86_desc *d)
{
    uint64_t base = cpu->gdtr.base;
    uint32_t limit = cpu->gdtr.limit;
    if (sel & X86_SEL_TI) {
        if (cpu->ldtr.attr & X86_ATTR_UNUSABLE)
            return false;
        base = cpu->ldtr.base;
        limit = cpu->ldtr.limit;
    }
    if ((sel | 7u) > limit)
        return false;
    d->lin = base + (sel & ~7u);
    uint64_t raw = x86_sys_read64(cpu, d->lin);
    d->lo = (uint32_t)raw;
    d->hi = (uint32_t)(raw >> 32);
    return true;
}
// Sets the accessed bit in memory (a locked read-modify-write) and in *d.
void x86_desc_touch_slow(struct x86_cpu *cpu, struct x86_desc *d);
static inline void x86_desc_touch(struct x86_cpu *cpu, struct x86_desc *d)
{
    if (unlikely(!(d->hi & (X86_TYPE_ACCESSED << 8))))
        x86_desc_touch_slow(cpu, d);
}
// Atomically ors/clears bits of the byte at lin (type byte of a descriptor), supervisor rights.
void x86_sys_or8(struct x86_cpu *cpu, gva_t lin, uint8_t bits);
void x86_sys_andnot8(struct x86_cpu *cpu, gva_t lin, uint8_t bits);

// --- segments ------------------------------------------------------------------------------------
// Is [off, off+size) within the segment? Only the limit; not for 64-bit mode.
static inline bool x86_seg_within(const struct x86_seg *seg, uint32_t off, unsigned size)
{
    uint64_t last = (uint64_t)off + size - 1;
    if ((seg->attr & (X86_ATTR_S | X86_TYPE_CODE | X86_TYPE_EXPAND_DOWN)) ==
        (X86_ATTR_S | X86_TYPE_EXPAND_DOWN))
        return off > seg->limit && last <= (seg->attr & X86_ATTR_DB ? 0xffffffffu : 0xffffu);
    return last <= seg->limit;
}
// Makes seg the null selector's hidden part, as MOV of a null selector does (vendors differ).
void x86_seg_null(struct x86_cpu *cpu, unsigned seg, uint16_t sel);
// ES, CS... of V86 mode.
void x86_seg_v86(struct x86_cpu *cpu, unsigned seg, uint16_t sel);
// DS, ES, FS, GS that the new, outer CPL may not use become null (RET, IRET).
void x86_segs_outer(struct x86_cpu *cpu, unsigned new_cpl);
// A new inner-level stack segment from the TSS: checks with #TS, not present #SS. Fills *seg and
// *d.
void x86_inner_ss(struct x86_cpu *cpu, uint16_t sel, unsigned new_cpl, uint32_t ext,
                  struct x86_seg *seg, struct x86_desc *d);
// Where the TSS keeps SS:ESP of an inner level (legacy mode), RSP or an IST entry (long mode).
void x86_tss_stack(struct x86_cpu *cpu, unsigned level, uint32_t ext, uint16_t *ss, uint32_t *esp);
uint64_t x86_tss_rsp(struct x86_cpu *cpu, unsigned byte_offset, uint32_t ext);
// Is the target offset valid in the (not yet loaded) code segment? Raises #GP(ext).
static inline void x86_check_target(struct x86_cpu *cpu, const struct x86_desc *cs, uint64_t off,
                                    uint32_t ext)
{
    if (cpu->long_mode && x86_desc_long(cs)) {
        if (!x86_canonical(off))
            x86_raise_error(cpu, X86_GP, ext);
    } else if (off > x86_desc_limit(cs)) {
        x86_raise_error(cpu, X86_GP, ext);
    }
}

// --- returns (iret.c) ----------------------------------------------------------------------------
// With VME or PVI, a virtual interrupt that is pending and enabled is #GP(0) before the next
// instruction (SDM vol. 3, 20.3.2): after IRET and task switches.
void x86_check_virtual_interrupt(struct x86_cpu *cpu);
// The code segment RET or IRET goes to: checks, no change.
void x86_return_cs(struct x86_cpu *cpu, uint16_t sel, struct x86_desc *cs);
// The stack segment popped by a return to new_cpl and code segment cs; sets the accessed bit.
void x86_return_ss(struct x86_cpu *cpu, uint16_t sel, unsigned new_cpl, const struct x86_desc *cs,
                   struct x86_seg *ss);
// Loads CS, SS and the stack pointer, and drops data segments the new level may not use.
void x86_return_commit(struct x86_cpu *cpu, uint16_t cs_sel, const struct x86_desc *cs,
                       const struct x86_seg *ss, uint64_t sp);

// --- derived state -------------------------------------------------------------------------------
// Parts of x86_mode_changed(). cs_loaded: CS and perhaps cpl changed; ss_loaded: SS changed;
// cpl_changed: only cpl (or AC).
void x86_cs_loaded(struct x86_cpu *cpu);
void x86_ss_loaded(struct x86_cpu *cpu);
static inline void x86_cpl_changed(struct x86_cpu *cpu)
{
    x86_tlb_select(cpu);
}

// --- stack frames --------------------------------------------------------------------------------
struct x86_frame {
    const struct x86_seg *ss; // NULL: 64-bit stack
    uint64_t base, lin_mask;
    uint64_t sp, mask; // the bits of the stack pointer that move
    bool system;       // of an inner level: supervisor rights
};

// Pushes through SS, as code outside 64-bit mode does.
static inline void x86_frame_segment(struct x86_cpu *cpu, struct x86_frame *f)
{
    f->sp = cpu->gpr[X86_RSP];
    f->system = false;
    f->ss = &cpu->seg[X86_SS];
    f->base = f->ss->base;
    f->lin_mask = 0xffffffff;
    f->mask = f->ss->attr & X86_ATTR_DB ? 0xffffffff : 0xffff;
}
// Pushes onto the current stack.
static inline void x86_frame_current(struct x86_cpu *cpu, struct x86_frame *f)
{
    if (cpu->stack_size != 8) {
        x86_frame_segment(cpu, f);
        return;
    }
    f->sp = cpu->gpr[X86_RSP];
    f->system = false;
    f->ss = NULL;
    f->base = 0;
    f->mask = f->lin_mask = ~UINT64_C(0);
}
// Pushes onto a stack that is not loaded yet.
static inline void x86_frame_inner(struct x86_frame *f, const struct x86_seg *ss, uint32_t esp)
{
    f->ss = ss;
    f->base = ss->base;
    f->lin_mask = 0xffffffff;
    f->sp = esp;
    f->mask = ss->attr & X86_ATTR_DB ? 0xffffffff : 0xffff;
    f->system = true;
}
static inline void x86_frame_long(struct x86_frame *f, uint64_t rsp, bool system)
{
    *f = (struct x86_frame){
        .lin_mask = ~UINT64_C(0), .sp = rsp, .mask = ~UINT64_C(0), .system = system};
}
// Makes sure that `slots` pushes of `slot` bytes will succeed; else #SS(error) or #PF.
void x86_frame_reserve(struct x86_cpu *cpu, const struct x86_frame *f, unsigned slots,
                       unsigned slot, uint32_t error);
void x86_frame_write_slow(struct x86_cpu *cpu, const struct x86_frame *f, gva_t lin, uint64_t value,
                          unsigned slot);
ALWAYS_INLINE void x86_frame_push(struct x86_cpu *cpu, struct x86_frame *f, uint64_t value,
                                  unsigned slot)
{
    f->sp = (f->sp & ~f->mask) | ((f->sp - slot) & f->mask);
    gva_t lin = (f->base + (f->sp & f->mask)) & f->lin_mask;
    struct x86_tlb_entry *e = f->system ? x86_sys_entry(cpu, lin) : x86_tlb_entry(cpu, lin);
    if (x86_tlb_hit(e->tag_write, lin, slot)) {
        void *host = (void *)(lin + e->addend);
        if (slot == 8)
            __builtin_memcpy(host, &value, 8);
        else if (slot == 4)
            __builtin_memcpy(host, &value, 4);
        else
            __builtin_memcpy(host, &value, 2);
        x86_stored(cpu, e, lin, slot);
        return;
    }
    x86_frame_write_slow(cpu, f, lin, value, slot);
}
// Reads slot number n (0: top of stack) of the current stack without moving the stack pointer.
ALWAYS_INLINE uint64_t x86_stack_peek(struct x86_cpu *cpu, unsigned n, unsigned slot)
{
    uint64_t off = cpu->gpr[X86_RSP] + (uint64_t)n * slot;
    if (cpu->stack_size != 8)
        off &= cpu->stack_size == 4 ? 0xffffffff : 0xffff;
    if (slot == 8)
        return x86_read64(cpu, X86_SS, off);
    return slot == 4 ? x86_read32(cpu, X86_SS, off) : x86_read16(cpu, X86_SS, off);
}
// The stack pointer moved up or down by `bytes` within its size.
static inline uint64_t x86_sp_add(uint64_t sp, uint64_t bytes, unsigned stack_size)
{
    if (stack_size == 8)
        return sp + bytes;
    if (stack_size == 4)
        return (uint32_t)(sp + bytes);
    return (sp & ~UINT64_C(0xffff)) | ((sp + bytes) & 0xffff);
}
