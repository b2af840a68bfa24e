// SPDX-License-Identifier: Apache-2.0
// What the files of the paging guest share: the walk as the manual has it (paging_model.c), the guest's own
// tables and the accesses it tries (paging_map.c), and the groups of cases (paging_*.c).
//
// The linear address under test is always paging_lin; its entries, top first, are paging_entry(0) and on.
// The physical byte behind it is always at PAGING_TARGET, whatever the page's size.
#pragma once

#include "lab.h"

enum shape {
    SHAPE_32,  // 2 levels of 4-byte entries
    SHAPE_PAE, // 2 levels of 8-byte entries below the four PDPTEs
    SHAPE_64   // 4 levels
};
enum access {
    ACCESS_READ,
    ACCESS_WRITE,
    ACCESS_FETCH
};
#define LEVELS_MAX 4

#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_A 0x20u
#define PTE_D 0x40u
#define PTE_PS 0x80u
#define PTE_G 0x100u
#define PTE_NX (1ull << 63)
#define PTE_RIGHTS (PTE_P | PTE_W | PTE_U)

#define ERROR_P 1u
#define ERROR_W 2u
#define ERROR_U 4u
#define ERROR_RSVD 8u
#define ERROR_I 16u

#define CR0_WP (1u << 16)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)
#define CR4_PSE (1u << 4)
#define CR4_PAE (1u << 5)
#define CR4_PGE (1u << 7)
#define CR4_PCIDE (1u << 17)
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)
#define MSR_EFER 0xc0000080u
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NXE (1u << 11)

#define PAGING_TARGET 0x21e75a8u // physical; free RAM
#define PAGING_BYTE 0x0f         // there: UD2, so that fetching it is told apart from a fault

// What a walk depends on besides the entries.
struct paging {
    enum shape shape;
    enum access access;
    u8 cpl;
    bool implicit; // by the processor itself: supervisor rights at any CPL
    bool wp, pse, smep, smap, nxe, ac;
};
// How it ends.
struct walk {
    bool fault;
    u32 error;
    u64 after[LEVELS_MAX]; // the entries, accessed and dirty bits set; on a fault as before
    unsigned levels;       // entries used
};
void walk_model(const struct paging *p, const u64 entry[LEVELS_MAX], struct walk *walk);
// Bits that make a present entry invalid; level as in paging_entry().
u64 walk_reserved(const struct paging *p, unsigned level, u64 entry);

// The processor.
struct paging_cpu {
    bool pse, pse36, pae, pge, nx, smep, smap, gigabyte, pcid, invpcid, amd;
    u32 width; // of physical addresses
};
extern struct paging_cpu cpu;
extern bool paging_brief; // a slow monitor: a sample of the large matrices

// Switches the shape's tables on (32-bit flavour; the 64-bit one stays in SHAPE_64) and off.
void paging_on(enum shape shape);
void paging_off(void);
extern enum shape paging_shape;
extern bool paging_upper; // 64-bit: the address under test is in the upper half
extern ulong paging_lin;
extern ulong paging_second;   // the next page after paging_lin's 4 KiB page, first byte
unsigned paging_levels(void); // entries for a 4 KiB page
void *paging_entry_at(unsigned level);
u64 paging_entry(unsigned level);
void paging_entry_set(unsigned level, u64 value);
// The entry that points to the next table, or maps the target, with these flags; large: a leaf.
u64 paging_entry_make(unsigned level, bool large, u64 flags);
unsigned paging_size_shift(unsigned level); // log2 of the bytes that an entry covers
void paging_map(u64 flags);                 // all levels plain down to a 4 KiB page
u64 paging_second_entry(void);
void paging_second_set(u64 value);
bool paging_large_possible(unsigned level);

// CR0.WP, CR4 and EFER bits as a case wants them.
void paging_controls(const struct paging *p);
void paging_controls_default(void);
// The address where ring 3 sees `p` (the identity map is the supervisor's).
ulong paging_user_alias(const void *p);

// Tries one piece of code: AX and DX as given, SI = address, DI = a second one. The code ends with UD2.
struct tried {
    u32 vector, error;
    ulong ip, cr2, ax;
    bool skipped;
};
struct tried paging_run(const void *code, u8 cpl, bool ac, ulong si, ulong di, ulong ax, ulong dx);
extern char code_read[], code_write[], code_fetch[], code_end[];
// One access at paging_lin; true where it did what the model says, else the failure is printed.
bool paging_case(const struct paging *p, const char *what);

void paging_rights(void);   // paging_rights.c
void paging_reserved(void); // paging_rights.c
void paging_dirty(void);    // paging_rights.c
void paging_operands(void); // paging_more.c
void paging_implicit(void); // paging_more.c
void paging_flushes(void);  // paging_tlb.c
void paging_aliases(void);  // paging_more.c
void paging_switches(void); // paging_modes.c
