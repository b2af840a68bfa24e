// SPDX-License-Identifier: Apache-2.0
// The slow paths of guest memory: TLB misses, operands that cross a page, devices behind memory,
// ROM, alignment checks and data breakpoints. mem.h has the contract and the fast paths.
//
// Rules to keep:
//  - Every byte's translation comes before the first byte's access: a fault leaves no half store.
//  - An access inside one page of RAM is one host load or store of its size, so that naturally
//    aligned accesses stay atomic for other processors.
#include "x86/mem.h"

#include "memory/memory.h"
#include "x86/descriptor.h"
#include "x86/fpu.h"
#include "x86/paging.h"
#include "x86/system.h"

#include <pthread.h>
#include <string.h>

// --- segments ------------------------------------------------------------------------------------

void x86_seg_check(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned size, unsigned access)
{
    const struct x86_seg *s = &cpu->seg[seg];
    if (cpu->code_size == X86_CODE64) {
        // AMD's processors want the offsets canonical, too, of the first and the last byte; Intel's only what the
        // base makes of them.
        if (x86_is_amd(cpu) && (!x86_canonical(off) || !x86_canonical(off + size - 1)))
            x86_raise_error(cpu, seg == X86_SS ? X86_SS_FAULT : X86_GP, 0);
        return;
    }
    enum x86_vector vector = seg == X86_SS ? X86_SS_FAULT : X86_GP;
    bool code = s->attr & 8, conforming_or_down = s->attr & 4, rw = s->attr & 2;
    if (x86_prot_mode(cpu) && !(access & X86_ACCESS_EXEC)) {
        if ((s->attr & X86_ATTR_UNUSABLE) || !(s->attr & X86_ATTR_S))
            x86_raise_error(cpu, vector, 0);
        if ((access & X86_ACCESS_WRITE) && (code || !rw))
            x86_raise_error(cpu, vector, 0);
        if ((access & X86_ACCESS_READ) && code && !rw)
            x86_raise_error(cpu, vector, 0);
    }
    uint64_t last = off + size - 1;
    bool ok;
    if (!code && conforming_or_down)
        ok = off > s->limit && last <= ((s->attr & X86_ATTR_DB) ? 0xffffffff : 0xffff);
    else
        ok = last <= s->limit;
    if (!ok)
        x86_raise_error(cpu, vector, 0);
}

// --- pieces of an access -------------------------------------------------------------------------

// An operand: one span, or two when it crosses a page.
struct operand {
    struct x86_span span[2];
    unsigned first; // bytes in span[0]
    unsigned size;
};

// #GP or #SS for an operand that ends beyond 4 GiB of a flat segment, and so beyond its limit, or that is not
// canonical as a whole.
ALWAYS_INLINE void end_check(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned size)
{
    gva_t last = lin + size - 1;
    bool wraps = cpu->lin_mask == 0xffffffff && last > cpu->lin_mask && cpu->seg[seg].eff_base == 0;
    if (unlikely(wraps || ((cpu->efer & X86_EFER_LMA) && !x86_canonical(last & cpu->lin_mask))))
        x86_raise_error(cpu, seg == X86_SS ? X86_SS_FAULT : X86_GP, 0);
}

void x86_end_check(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned size)
{
    end_check(cpu, seg, lin, 1);
    end_check(cpu, seg, lin, size);
}

ALWAYS_INLINE void operand_translate(struct x86_cpu *cpu, struct operand *op, unsigned seg,
                                     gva_t lin, unsigned size, enum x86_tlb_set set,
                                     unsigned access)
{
    unsigned room = (unsigned)(PAGE_SIZE - (lin & PAGE_OFFSET_MASK));
    op->size = size;
    op->first = size <= room ? size : room;
    if (unlikely(size > room)) // before any page is looked at
        end_check(cpu, seg, lin, size);
    x86_translate(cpu, seg, lin, set, access, &op->span[0]);
    if (unlikely(size > room))
        x86_translate(cpu, seg, (lin + room) & cpu->lin_mask, set, access, &op->span[1]);
}

// A device may use floating point, which must not meet the guest's state in the host's registers.
static uint64_t device_read(struct x86_cpu *cpu, gpa_t gpa, unsigned size)
{
    x86_fpu_sync(cpu);
    return memory_mmio_read(cpu->platform->memory, gpa, size);
}

static void device_write(struct x86_cpu *cpu, gpa_t gpa, uint64_t value, unsigned size)
{
    x86_fpu_sync(cpu);
    memory_mmio_write(cpu->platform->memory, gpa, value, size);
}

static uint64_t host_load(const uint8_t *host, unsigned size)
{
    uint16_t v16;
    uint32_t v32;
    uint64_t v64 = 0;
    switch (size) {
    case 1:
        return *host;
    case 2:
        memcpy(&v16, host, 2);
        return v16;
    case 4:
        memcpy(&v32, host, 4);
        return v32;
    case 8:
        memcpy(&v64, host, 8);
        return v64;
    default:
        memcpy(&v64, host, size);
        return v64;
    }
}

static void host_store(uint8_t *host, uint64_t value, unsigned size)
{
    uint16_t v16 = (uint16_t)value;
    uint32_t v32 = (uint32_t)value;
    switch (size) {
    case 1:
        *host = (uint8_t)value;
        break;
    case 2:
        memcpy(host, &v16, 2);
        break;
    case 4:
        memcpy(host, &v32, 4);
        break;
    default:
        memcpy(host, &value, size);
        break;
    }
}

// The widest naturally aligned access at `gpa` that `size` bytes allow.
static unsigned piece(gpa_t gpa, unsigned size)
{
    unsigned n = 8;
    while (n > size || (gpa & (n - 1)))
        n >>= 1;
    return n;
}

static bool one_access(unsigned size)
{
    return size <= 8 && (size & (size - 1)) == 0;
}

static void span_read(struct x86_cpu *cpu, const struct x86_span *span, void *data, unsigned size)
{
    if (span->host) {
        memcpy(data, span->host, size);
        return;
    }
    uint8_t *out = data;
    for (unsigned done = 0; done < size;) {
        unsigned n = piece(span->gpa + done, size - done);
        uint64_t v = device_read(cpu, span->gpa + done, n);
        memcpy(out + done, &v, n);
        done += n;
    }
}

static void span_stored(struct x86_cpu *cpu, const struct x86_span *span, unsigned size)
{
    __asm__ volatile("" ::: "memory"); // the flag is read after the store, as in x86_stored
    if (atomic_load_explicit(span->flags, memory_order_relaxed) != PAGE_FLAGS_PLAIN)
        memory_page_stored(cpu->platform->memory, cpu->engine_vcpu, span->gpa, size, span->flags);
}

static void span_write(struct x86_cpu *cpu, const struct x86_span *span, const void *data,
                       unsigned size)
{
    if (span->rom)
        return;
    if (span->host) {
        memcpy(span->host, data, size);
        span_stored(cpu, span, size);
        return;
    }
    const uint8_t *in = data;
    for (unsigned done = 0; done < size;) {
        unsigned n = piece(span->gpa + done, size - done);
        uint64_t v = 0;
        memcpy(&v, in + done, n);
        device_write(cpu, span->gpa + done, v, n);
        done += n;
    }
}

// At most 8 bytes. Device accesses of a natural size inside a page stay one access even when they
// are not aligned.
static uint64_t operand_load(struct x86_cpu *cpu, const struct operand *op)
{
    const struct x86_span *s = &op->span[0];
    if (likely(op->first == op->size)) {
        if (likely(s->host != NULL))
            return host_load(s->host, op->size);
        if (one_access(op->size))
            return device_read(cpu, s->gpa, op->size);
    }
    uint64_t v = 0;
    span_read(cpu, s, &v, op->first);
    if (op->size > op->first)
        span_read(cpu, &op->span[1], (uint8_t *)&v + op->first, op->size - op->first);
    return v;
}

static void operand_store(struct x86_cpu *cpu, const struct operand *op, uint64_t value)
{
    const struct x86_span *s = &op->span[0];
    if (likely(op->first == op->size)) {
        if (s->rom)
            return;
        if (likely(s->host != NULL)) {
            host_store(s->host, value, op->size);
            span_stored(cpu, s, op->size);
            return;
        }
        if (one_access(op->size)) {
            device_write(cpu, s->gpa, value, op->size);
            return;
        }
    }
    span_write(cpu, s, &value, op->first);
    if (op->size > op->first)
        span_write(cpu, &op->span[1], (uint8_t *)&value + op->first, op->size - op->first);
}

// CR0.AM, RFLAGS.AC and CPL 3. Limit and canonical form are judged before alignment.
static void align_check(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned size, unsigned align)
{
    if (likely(!x86_tlb_align_checked(cpu)) || (lin & (align - 1)) == 0 || (align & (align - 1)))
        return;
    x86_end_check(cpu, seg, lin, size);
    x86_raise_error(cpu, X86_AC, 0);
}

// Blocks: vectors, and the x87 unit's 80-bit values and environments (whose parts are 4 or 2 bytes).
static void block_align_check(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned size)
{
    if (likely(!x86_tlb_align_checked(cpu)))
        return;
    unsigned part = size;
    switch (size) {
    case 10:
        part = 8;
        break;
    case 14:
    case 94:
        part = 2;
        break;
    case 28:
    case 108:
        part = 4;
        break;
    case 32: // YMM operands: AMD processors ask for no more than 16
        align_check(cpu, seg, lin, size, 16);
        return;
    default:
        if (size > 32)
            return;
    }
    align_check(cpu, seg, lin, part, part);
}

static void breakpoints(struct x86_cpu *cpu, gva_t lin, unsigned size, unsigned access)
{
    if (unlikely(x86_debug_armed(cpu)))
        x86_debug_check_data(cpu, lin, size, access);
}

// --- reads and writes ----------------------------------------------------------------------------

uint64_t x86_read_slow(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned size)
{
    struct operand op;
    align_check(cpu, seg, lin, size, size);
    operand_translate(cpu, &op, seg, lin, size, x86_tlb_current(cpu), X86_ACCESS_READ);
    uint64_t value = operand_load(cpu, &op);
    breakpoints(cpu, lin, size, X86_ACCESS_READ);
    return value;
}

void x86_write_slow(struct x86_cpu *cpu, unsigned seg, gva_t lin, uint64_t value, unsigned size)
{
    struct operand op;
    align_check(cpu, seg, lin, size, size);
    operand_translate(cpu, &op, seg, lin, size, x86_tlb_current(cpu), X86_ACCESS_WRITE);
    operand_store(cpu, &op, value);
    breakpoints(cpu, lin, size, X86_ACCESS_WRITE);
}

void x86_read_block_slow(struct x86_cpu *cpu, unsigned seg, gva_t lin, void *data, unsigned size)
{
    struct operand op;
    block_align_check(cpu, seg, lin, size);
    operand_translate(cpu, &op, seg, lin, size, x86_tlb_current(cpu), X86_ACCESS_READ);
    span_read(cpu, &op.span[0], data, op.first);
    if (size > op.first)
        span_read(cpu, &op.span[1], (uint8_t *)data + op.first, size - op.first);
    breakpoints(cpu, lin, size, X86_ACCESS_READ);
}

void x86_write_block_slow(struct x86_cpu *cpu, unsigned seg, gva_t lin, const void *data,
                          unsigned size)
{
    struct operand op;
    block_align_check(cpu, seg, lin, size);
    operand_translate(cpu, &op, seg, lin, size, x86_tlb_current(cpu), X86_ACCESS_WRITE);
    span_write(cpu, &op.span[0], data, op.first);
    if (size > op.first)
        span_write(cpu, &op.span[1], (const uint8_t *)data + op.first, size - op.first);
    breakpoints(cpu, lin, size, X86_ACCESS_WRITE);
}

void x86_write_check_slow(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned size)
{
    struct operand op;
    block_align_check(cpu, seg, lin, size);
    operand_translate(cpu, &op, seg, lin, size, x86_tlb_current(cpu), X86_ACCESS_WRITE);
}

uint8_t *x86_host_ptr(struct x86_cpu *cpu, unsigned seg, gva_t lin, unsigned access,
                      struct x86_tlb_entry **entry)
{
    struct x86_span span;
    if (x86_tlb_align_checked(cpu) || x86_debug_watches_page(cpu, lin & PAGE_MASK))
        return NULL;
    x86_translate(cpu, seg, lin, x86_tlb_current(cpu), access, &span);
    if (!span.host || (span.rom && (access & X86_ACCESS_WRITE)))
        return NULL;
    if (entry)
        *entry = span.entry;
    return span.host;
}

// --- read-modify-write ---------------------------------------------------------------------------

// Operands that have no single host address: the two parts.
struct rmw_split {
    uint8_t *host[2];
    gpa_t gpa[2];
    _Atomic uint8_t *flags[2]; // NULL: stores go nowhere (ROM), or a device when host is NULL too
};
_Static_assert(sizeof(struct rmw_split) <= sizeof(((struct x86_rmw *)0)->private_), "rmw_split");

// Keeps two such operations apart: real processors lock the bus. Recursive in effect, so that an
// instruction that lost its way between begin and end cannot lock itself out.
static pthread_mutex_t split_lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local bool split_owned;

void x86_rmw_begin_slow(struct x86_cpu *cpu, struct x86_rmw *m, unsigned seg, gva_t lin,
                        unsigned size)
{
    struct rmw_split split = {{NULL, NULL}, {0, 0}, {NULL, NULL}};
    struct operand op;
    const unsigned access = X86_ACCESS_READ | X86_ACCESS_WRITE;

    align_check(cpu, seg, lin, size, size);
    operand_translate(cpu, &op, seg, lin, size, x86_tlb_current(cpu), access);
    breakpoints(cpu, lin, size, access);
    m->entry = NULL;
    m->host = NULL;
    m->lin = lin;
    m->size = size;
    m->seg = seg;
    unsigned parts = size > op.first ? 2 : 1;
    for (unsigned i = 0; i < parts; i++) {
        split.host[i] = op.span[i].host;
        split.gpa[i] = op.span[i].gpa;
        if (op.span[i].host && !op.span[i].rom)
            split.flags[i] = op.span[i].flags;
    }
    memcpy(m->private_, &split, sizeof(split));
    bool adjacent = parts == 1 || split.host[1] == split.host[0] + op.first;
    if (split.flags[0] && (parts == 1 || split.flags[1]) && adjacent) {
        m->host = split.host[0];
        return;
    }
    if (!split_owned)
        pthread_mutex_lock(&split_lock);
    split_owned = true;
}

static unsigned rmw_first(const struct x86_rmw *m)
{
    unsigned room = (unsigned)(PAGE_SIZE - (m->lin & PAGE_OFFSET_MASK));
    return m->size <= room ? m->size : room;
}

// The span of the bytes from `at` on, and how many of `size` it holds.
static struct x86_span rmw_span(const struct x86_rmw *m, unsigned at, unsigned *size)
{
    struct rmw_split split;
    memcpy(&split, m->private_, sizeof(split));
    unsigned first = rmw_first(m), part = at >= first;
    unsigned skip = part ? at - first : at;
    if (!part && *size > first - at)
        *size = first - at;
    struct x86_span span = {.host = split.host[part], .gpa = split.gpa[part] + skip};
    if (span.host) {
        span.host += skip;
        span.flags = split.flags[part];
        span.rom = span.flags == NULL;
    }
    return span;
}

// At most eight bytes of the operand, from byte `part` on.
static struct operand rmw_operand(const struct x86_rmw *m, unsigned part)
{
    struct operand op = {.size = m->size - part > 8 ? 8 : m->size - part};
    op.first = op.size;
    op.span[0] = rmw_span(m, part, &op.first);
    if (op.first < op.size) {
        unsigned rest = op.size - op.first;
        op.span[1] = rmw_span(m, part + op.first, &rest);
    }
    return op;
}

uint64_t x86_rmw_load_part(struct x86_cpu *cpu, struct x86_rmw *m, unsigned part)
{
    struct operand op = rmw_operand(m, part);
    return operand_load(cpu, &op);
}

void x86_rmw_store_part(struct x86_cpu *cpu, struct x86_rmw *m, unsigned part, uint64_t value)
{
    struct operand op = rmw_operand(m, part);
    operand_store(cpu, &op, value);
}

uint64_t x86_rmw_load(struct x86_cpu *cpu, struct x86_rmw *m)
{
    return x86_rmw_load_part(cpu, m, 0);
}

void x86_rmw_store(struct x86_cpu *cpu, struct x86_rmw *m, uint64_t value)
{
    x86_rmw_store_part(cpu, m, 0, value);
}

void x86_rmw_end_slow(struct x86_cpu *cpu, struct x86_rmw *m)
{
    if (m->host == NULL) {
        if (split_owned)
            pthread_mutex_unlock(&split_lock);
        split_owned = false;
        return;
    }
    for (unsigned at = 0; at < m->size;) {
        unsigned n = m->size - at;
        struct x86_span span = rmw_span(m, at, &n);
        span_stored(cpu, &span, n);
        at += n;
    }
}

// --- the processor's own accesses ----------------------------------------------------------------

static gva_t sys_lin(const struct x86_cpu *cpu, gva_t lin)
{
    return cpu->long_mode ? lin : lin & 0xffffffff;
}

static void sys_translate(struct x86_cpu *cpu, struct operand *op, gva_t lin, unsigned size,
                          unsigned access)
{
    enum x86_tlb_set set = x86_tlb_implicit(cpu);
    unsigned room = (unsigned)(PAGE_SIZE - (lin & PAGE_OFFSET_MASK));
    op->size = size;
    op->first = size <= room ? size : room;
    x86_translate(cpu, X86_DS, sys_lin(cpu, lin), set, access, &op->span[0]);
    if (unlikely(size > room))
        x86_translate(cpu, X86_DS, sys_lin(cpu, lin + room), set, access, &op->span[1]);
}

uint64_t x86_sys_read(struct x86_cpu *cpu, gva_t lin, unsigned size)
{
    struct operand op;
    sys_translate(cpu, &op, lin, size, X86_ACCESS_READ);
    return operand_load(cpu, &op);
}

void x86_sys_write(struct x86_cpu *cpu, gva_t lin, uint64_t value, unsigned size)
{
    struct operand op;
    sys_translate(cpu, &op, lin, size, X86_ACCESS_WRITE);
    operand_store(cpu, &op, value);
}

void x86_sys_write_check(struct x86_cpu *cpu, gva_t lin, unsigned size)
{
    struct operand op;
    sys_translate(cpu, &op, lin, size, X86_ACCESS_WRITE);
}

// --- code ----------------------------------------------------------------------------------------

struct x86_code_page x86_fetch_page(struct x86_cpu *cpu, gva_t lin)
{
    struct x86_span span;
    x86_translate(cpu, X86_CS, lin, x86_tlb_current(cpu), X86_ACCESS_EXEC, &span);
    gpa_t offset = span.gpa & PAGE_OFFSET_MASK;
    return (struct x86_code_page){.gpa = span.gpa - offset,
                                  .host = span.host ? span.host - offset : NULL};
}
