// SPDX-License-Identifier: Apache-2.0
// The page walk (SDM vol. 3, chapter 4): no paging, 32-bit, PAE and 4-level paging.
//
// Rules to keep:
//  - Table entries are read once, whole, from host memory that other threads write. Memory that is
//    not RAM reads as all-ones.
//  - Not-present beats reserved bits of lower levels, both beat permissions.
//  - The page tables that walks end at are cached until the next flush of any kind. A fault is never
//    decided from the cache.
//  - Accessed and dirty bits are set only after the access was found to be permitted; when an entry
//    changed under the walk, the walk starts again.
#include "x86/paging.h"

#include "memory/memory.h"
#include "x86/cpuid.h"
#include "x86/system.h"

#define PTE_P (UINT64_C(1) << 0)
#define PTE_W (UINT64_C(1) << 1)
#define PTE_U (UINT64_C(1) << 2)
#define PTE_A (UINT64_C(1) << 5)
#define PTE_D (UINT64_C(1) << 6)
#define PTE_PS (UINT64_C(1) << 7)
#define PTE_G (UINT64_C(1) << 8)
#define PTE_NX (UINT64_C(1) << 63)
#define PTE_ADDR UINT64_C(0x000ffffffffff000)

#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

#define LEVELS_MAX 4

// One entry that the walk passed: what it was, and where to set its bits.
struct slot {
    uint64_t value;
    uint8_t *host; // NULL: not RAM, nothing to set
    _Atomic uint8_t *flags;
    gpa_t gpa;
};

// Every table access and every final address passes here: the seam for a second translation stage.
ALWAYS_INLINE gpa_t physical(struct x86_cpu *cpu, gpa_t gpa)
{
    return memory_mask(cpu->platform->memory, gpa);
}

static void slot_read(struct x86_cpu *cpu, struct slot *slot, gpa_t gpa, unsigned size)
{
    struct memory_page page;
    slot->gpa = physical(cpu, gpa);
    if (unlikely(!memory_page(cpu->platform->memory, slot->gpa, &page))) {
        slot->host = NULL;
        slot->value = size == 8 ? UINT64_MAX : UINT32_MAX;
        return;
    }
    slot->host = page.host + (slot->gpa & PAGE_OFFSET_MASK);
    slot->flags = page.flags;
    slot->value = size == 8 ? __atomic_load_n((uint64_t *)slot->host, __ATOMIC_RELAXED)
                            : __atomic_load_n((uint32_t *)slot->host, __ATOMIC_RELAXED);
}

// Sets `bits` in the entry. False when the entry is no longer what the walk read.
static bool slot_set(struct x86_cpu *cpu, struct slot *slot, uint64_t bits, unsigned size)
{
    if (likely((slot->value & bits) == bits) || slot->host == NULL)
        return true;
    uint8_t flags = atomic_load_explicit(slot->flags, memory_order_relaxed);
    if (flags & PAGE_FLAG_ROM)
        return true;
    if (size == 8) {
        uint64_t old = slot->value;
        if (!__atomic_compare_exchange_n((uint64_t *)slot->host, &old, old | bits, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            return false;
    } else {
        uint32_t old = (uint32_t)slot->value;
        if (!__atomic_compare_exchange_n((uint32_t *)slot->host, &old, old | (uint32_t)bits, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            return false;
    }
    slot->value |= bits;
    if (atomic_load_explicit(slot->flags, memory_order_relaxed) != PAGE_FLAGS_PLAIN)
        memory_page_stored(cpu->platform->memory, cpu->engine_vcpu, slot->gpa, size, slot->flags);
    return true;
}

static unsigned phys_bits(const struct x86_cpu *cpu)
{
    return cpu->model ? cpu->model->phys_bits : 52;
}

static bool is_amd(const struct x86_cpu *cpu)
{
    return cpu->model && cpu->model->vendor == X86_VENDOR_AMD;
}

// Address bits at and above the processor's physical width.
static uint64_t beyond_phys(const struct x86_cpu *cpu)
{
    return PTE_ADDR & ~((UINT64_C(1) << phys_bits(cpu)) - 1);
}

// The tables of one address, root first. The leaf is slot[count - 1].
struct path {
    struct slot slot[LEVELS_MAX];
    unsigned count, size; // entry size in bytes
    uint64_t base;        // physical address of the mapping's first byte
};

enum verdict {
    WALK_OK,
    WALK_NOT_PRESENT,
    WALK_RESERVED
};

// 32-bit paging (SDM vol. 3, 4.3).
static enum verdict walk_32(struct x86_cpu *cpu, gva_t lin, struct path *path,
                            struct x86_walk *walk)
{
    struct slot *pde = &path->slot[0], *pte = &path->slot[1];
    path->size = 4;
    path->count = 1;
    slot_read(cpu, pde, (cpu->cr3 & 0xfffff000) | ((lin >> 20) & 0xffc), 4);
    if (!(pde->value & PTE_P))
        return WALK_NOT_PRESENT;
    walk->user = pde->value & PTE_U;
    walk->writable = pde->value & PTE_W;
    if ((pde->value & PTE_PS) && (cpu->cr4 & X86_CR4_PSE)) {
        // PSE-36: bits 20:13 are address bits 39:32, as far as the processor has them.
        unsigned width = x86_has(cpu->model, X86_FEATURE_pse36) ? phys_bits(cpu) : 32;
        uint64_t high = (pde->value >> 13) & 0xff;
        if (width > 40)
            width = 40;
        if ((pde->value & (UINT64_C(1) << 21)) || (high >> (width - 32)))
            return WALK_RESERVED;
        path->base = (pde->value & 0xffc00000) | high << 32;
        walk->shift = 22;
        return WALK_OK;
    }
    path->count = 2;
    slot_read(cpu, pte, (pde->value & 0xfffff000) | ((lin >> 10) & 0xffc), 4);
    if (!(pte->value & PTE_P))
        return WALK_NOT_PRESENT;
    walk->user &= (pte->value & PTE_U) != 0;
    walk->writable &= (pte->value & PTE_W) != 0;
    path->base = pte->value & 0xfffff000;
    walk->shift = 12;
    return WALK_OK;
}

// Bits that no present 8-byte entry may have.
static uint64_t entry_reserved(const struct x86_cpu *cpu)
{
    uint64_t reserved = beyond_phys(cpu);
    if (!(cpu->efer & X86_EFER_NXE))
        reserved |= PTE_NX;
    if (!(cpu->efer & X86_EFER_LMA))
        reserved |= UINT64_C(0x7ff) << 52;
    return reserved;
}

// PAE and 4-level paging (SDM vol. 3, 4.4, 4.5) from the table at `table`, which resolves address
// bits from `shift` up (39 or 21).
static enum verdict walk_64(struct x86_cpu *cpu, gva_t lin, gpa_t table, unsigned shift,
                            struct path *path, struct x86_walk *walk)
{
    const uint64_t reserved = entry_reserved(cpu);
    path->size = 8;
    path->count = 0;
    for (;; shift -= 9) {
        struct slot *slot = &path->slot[path->count++];
        slot_read(cpu, slot, table + ((lin >> shift) & 0x1ff) * 8, 8);
        uint64_t value = slot->value;
        if (!(value & PTE_P))
            return WALK_NOT_PRESENT;
        if (unlikely(value & reserved))
            return WALK_RESERVED;
        // APM vol. 2, 5.3.3: no global bit in a PML4E. (Intel's processors ignore it there.)
        if (unlikely((value & PTE_G) && shift == 39) && is_amd(cpu))
            return WALK_RESERVED;
        walk->user &= (value & PTE_U) != 0;
        walk->writable &= (value & PTE_W) != 0;
        walk->nx |= (value & PTE_NX) != 0;
        if (shift == 12)
            break;
        if (value & PTE_PS) {
            bool large = shift == 21 || (shift == 30 && x86_has(cpu->model, X86_FEATURE_pdpe1gb));
            // Between the PAT bit (12) and the page number.
            if (!large || (value & ((UINT64_C(1) << shift) - 1) & ~UINT64_C(0x1fff)))
                return WALK_RESERVED;
            break;
        }
        table = value & PTE_ADDR;
    }
    uint64_t leaf = path->slot[path->count - 1].value;
    path->base = leaf & PTE_ADDR & ~((UINT64_C(1) << shift) - 1);
    walk->shift = (uint8_t)shift;
    return WALK_OK;
}

// Reads the tables without changing them.
static enum verdict path_read(struct x86_cpu *cpu, gva_t lin, struct path *path,
                              struct x86_walk *walk)
{
    *walk = (struct x86_walk){.user = true, .writable = true};
    if (!(cpu->cr4 & X86_CR4_PAE))
        return walk_32(cpu, lin, path, walk);
    if (cpu->efer & X86_EFER_LMA)
        return walk_64(cpu, lin, cpu->cr3 & PTE_ADDR & ~beyond_phys(cpu), 39, path, walk);
    uint64_t pdpte = cpu->pdpte[(lin >> 30) & 3];
    if (!(pdpte & PTE_P))
        return WALK_NOT_PRESENT;
    return walk_64(cpu, lin, pdpte & PTE_ADDR, 21, path, walk);
}

unsigned x86_page_rights(const struct x86_cpu *cpu, enum x86_tlb_set set,
                         const struct x86_walk *walk)
{
    unsigned rights = 0;
    if (!(cpu->cr0 &
          X86_CR0_PG)) // no page is anybody's: SMAP and SMEP need paging (SDM vol. 3, 4.1.3)
        return X86_ACCESS_READ | X86_ACCESS_WRITE | X86_ACCESS_EXEC;
    if (set >= X86_TLB_USER) {
        if (!walk->user)
            return 0;
        rights = X86_ACCESS_READ | X86_ACCESS_EXEC;
        if (walk->writable)
            rights |= X86_ACCESS_WRITE;
    } else {
        bool smap = walk->user && set == X86_TLB_SUPERVISOR_SMAP;
        if (!smap) {
            rights = X86_ACCESS_READ;
            if (walk->writable || !(cpu->cr0 & X86_CR0_WP))
                rights |= X86_ACCESS_WRITE;
        }
        if (!(walk->user && (cpu->cr4 & X86_CR4_SMEP)))
            rights |= X86_ACCESS_EXEC;
    }
    if (walk->nx)
        rights &= ~(unsigned)X86_ACCESS_EXEC;
    return rights;
}

static uint32_t error_code(const struct x86_cpu *cpu, enum x86_tlb_set set, unsigned access)
{
    uint32_t error = 0;
    if (access & X86_ACCESS_WRITE)
        error |= PF_W;
    if (set >= X86_TLB_USER)
        error |= PF_U;
    bool nx_enabled = (cpu->efer & X86_EFER_NXE) && (cpu->cr4 & X86_CR4_PAE);
    if ((access & X86_ACCESS_EXEC) && (nx_enabled || (cpu->cr4 & X86_CR4_SMEP)))
        error |= PF_I;
    return error;
}

static struct x86_tlb_table *table_slot(struct x86_cpu *cpu, gva_t lin)
{
    return &cpu->tlb->table[(lin >> 21) % X86_TLB_TABLES];
}

// The leaf from the cached page table; false: not cached, or not plainly permitted.
static bool path_cached(struct x86_cpu *cpu, gva_t lin, enum x86_tlb_set set, unsigned access,
                        struct path *path, struct x86_walk *walk)
{
    const struct x86_tlb_table *t = table_slot(cpu, lin);
    if (t->generation != cpu->tlb->generation || t->region != lin >> 21)
        return false;
    unsigned offset = (unsigned)(lin >> 9) & 0xff8;
    struct slot *leaf = &path->slot[0];
    leaf->host = t->host + offset;
    leaf->flags = t->flags;
    leaf->gpa = t->gpa + offset;
    leaf->value = __atomic_load_n((uint64_t *)leaf->host, __ATOMIC_RELAXED);
    path->count = 1;
    path->size = 8;
    if (!(leaf->value & PTE_P) || (leaf->value & entry_reserved(cpu)))
        return false;
    *walk = (struct x86_walk){.shift = PAGE_SHIFT,
                              .user = t->user && (leaf->value & PTE_U),
                              .writable = t->writable && (leaf->value & PTE_W),
                              .nx = t->nx || (leaf->value & PTE_NX)};
    path->base = leaf->value & PTE_ADDR;
    return (x86_page_rights(cpu, set, walk) & access) == access;
}

// After a walk that ended at a 4 KiB page.
static void table_remember(struct x86_cpu *cpu, gva_t lin, const struct path *path)
{
    const struct slot *leaf = &path->slot[path->count - 1];
    if (path->count < 2 || path->size != 8 || leaf->host == NULL)
        return;
    struct x86_tlb_table *t = table_slot(cpu, lin);
    uint64_t all = PTE_U | PTE_W, any = 0;
    for (unsigned i = 0; i + 1 < path->count; i++) {
        all &= path->slot[i].value;
        any |= path->slot[i].value;
    }
    *t = (struct x86_tlb_table){.region = lin >> 21,
                                .generation = cpu->tlb->generation,
                                .host = leaf->host - (leaf->gpa & PAGE_OFFSET_MASK),
                                .flags = leaf->flags,
                                .gpa = leaf->gpa & PAGE_MASK,
                                .user = all & PTE_U,
                                .writable = all & PTE_W,
                                .nx = any & PTE_NX};
}

bool x86_page_walk(struct x86_cpu *cpu, gva_t lin, enum x86_tlb_set set, unsigned access,
                   struct x86_walk *walk, uint32_t *error)
{
    if (!(cpu->cr0 & X86_CR0_PG)) {
        *walk = (struct x86_walk){.gpa = physical(cpu, lin),
                                  .shift = PAGE_SHIFT,
                                  .user = true,
                                  .writable = true,
                                  .dirty = true};
        return true;
    }
    cpu->tlb->walks++;
    for (;;) {
        struct path path;
        bool cached = path_cached(cpu, lin, set, access, &path, walk);
        if (!cached) {
            enum verdict verdict = path_read(cpu, lin, &path, walk);
            if (verdict != WALK_OK) {
                *error = error_code(cpu, set, access);
                if (verdict == WALK_RESERVED)
                    *error |= PF_P | PF_RSVD;
                return false;
            }
            if ((x86_page_rights(cpu, set, walk) & access) != access) {
                *error = error_code(cpu, set, access) | PF_P;
                return false;
            }
        }
        uint64_t bits = PTE_A | ((access & X86_ACCESS_WRITE) ? PTE_D : 0);
        struct slot *leaf = &path.slot[path.count - 1];
        bool same = true;
        for (unsigned i = 0; i + 1 < path.count; i++)
            same = same && slot_set(cpu, &path.slot[i], PTE_A, path.size);
        if (unlikely(!same || !slot_set(cpu, leaf, bits, path.size)))
            continue;
        if (!cached && walk->shift == PAGE_SHIFT)
            table_remember(cpu, lin, &path);
        uint64_t offset = lin & ((UINT64_C(1) << walk->shift) - 1);
        walk->gpa = physical(cpu, path.base | offset);
        walk->dirty = leaf->value & PTE_D;
        walk->global = (leaf->value & PTE_G) && (cpu->cr4 & X86_CR4_PGE);
        return true;
    }
}

bool x86_pdpte_load(struct x86_cpu *cpu, uint64_t cr3, uint64_t out[4])
{
    // Bits 2:1, 8:5 and those beyond the physical width.
    uint64_t reserved = 0x1e6 | beyond_phys(cpu) | (UINT64_C(0xfff) << 52);
    for (unsigned i = 0; i < 4; i++) {
        struct slot slot;
        slot_read(cpu, &slot, (cr3 & 0xffffffe0) + i * 8, 8);
        if ((slot.value & PTE_P) && (slot.value & reserved))
            return false;
        out[i] = slot.value;
    }
    return true;
}

bool x86_translate_debug(struct x86_cpu *cpu, gva_t lin, gpa_t *gpa)
{
    struct path path;
    struct x86_walk walk;
    if (!(cpu->cr0 & X86_CR0_PG)) {
        *gpa = physical(cpu, lin & 0xffffffff);
        return true;
    }
    if (cpu->efer & X86_EFER_LMA) {
        if (!x86_canonical(lin))
            return false;
    } else {
        lin &= 0xffffffff;
    }
    if (path_read(cpu, lin, &path, &walk) != WALK_OK)
        return false;
    *gpa = physical(cpu, path.base | (lin & ((UINT64_C(1) << walk.shift) - 1)));
    return true;
}
