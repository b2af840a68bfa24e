// SPDX-License-Identifier: Apache-2.0
// One case of the oracle laboratory: an instruction or a sequence of them, the state it starts from, and
// what came of it. The host's processor (native.c) and an engine of Croft's (croft.c) both run it;
// compare.c judges.
//
// Linear layout, the same on both sides (everything else is unmapped, or the harness's own):
//   CODE    one page, execute and read only, filled with HLT; the instruction lies somewhere in it,
//           and an unmapped page follows. HLT at CPL 3 is #GP(0), which marks the end of a case.
//   WINDOW  six pages of data: read-write, read-write, unmapped, the second one again, read-only,
//           unmapped.
// Segments (segments.c): flat ones as a Linux process has them, and an LDT with bases and limits.
#pragma once

#include "base/types.h"
#include "x86/insn.h"
#include <stdio.h>

#define ORACLE_CODE_BASE UINT64_C(0x20000000)
#define ORACLE_WINDOW_BASE UINT64_C(0x30000000)
#define ORACLE_WINDOW_END (ORACLE_WINDOW_BASE + 6 * PAGE_SIZE)
#define ORACLE_ALIAS_BASE (ORACLE_WINDOW_BASE + 3 * PAGE_SIZE) // of the second page
#define ORACLE_RO_BASE (ORACLE_WINDOW_BASE + 4 * PAGE_SIZE)
#define ORACLE_FILLER 0xf4 // HLT

// The mapped pages of the window, as both sides store them: RW0, RW1, RO.
#define ORACLE_PAGES 3
#define ORACLE_MEMORY_SIZE (ORACLE_PAGES * PAGE_SIZE)

// Selectors as a Linux process has them.
#define ORACLE_CS64 0x33
#define ORACLE_CS32 0x23
#define ORACLE_DATA 0x2b

struct oracle_fpu {
    uint8_t in_use; // XSTATE_BV it is loaded with: what is clear is in its initial configuration
    uint16_t fcw, fsw, fop;
    uint8_t ftw; // one bit per physical register: 1 means not empty
    uint64_t fip, fdp;
    uint32_t mxcsr;
    uint8_t st[8][16]; // ST0 first; bytes 0..9
    uint8_t ymm[16][32];
};

struct oracle_state {
    uint64_t gpr[16];
    uint64_t rip; // within CS
    uint64_t rflags, fs_base, gs_base;
    uint16_t cs, ss, ds, es, fs, gs;
    struct oracle_fpu fpu;
};

struct oracle_patch {
    uint16_t offset; // into the window's mapped pages
    uint16_t size;
    uint8_t data[64];
};

#define ORACLE_INSN_SIZE 24
#define ORACLE_PARTS_MAX 40

// An instruction of a sequence behind the first: it lies where the one before leads.
struct oracle_part {
    uint16_t offset; // in the code page
    uint8_t size;
    uint8_t bytes[ORACLE_INSN_SIZE];
    uint16_t form; // the row it was made from, ORACLE_SETUP: it brings a register or memory into
    uint32_t undefined; // flags that the architecture leaves undefined once it has completed
    uint64_t rip;
};
#define ORACLE_SETUP 0xffff // shape for the next instruction

#define ORACLE_LOOP_COUNTER (ORACLE_WINDOW_BASE + PAGE_SIZE + 0xff8) // 4 bytes: rounds to go

struct oracle_case {
    uint64_t number, seed;
    uint16_t form;     // the row the bytes were made from; extra prefixes may turn it into another
    uint8_t code_size; // enum x86_code_size
    uint8_t size;      // bytes made; more than 15 is a fault to expect
    uint8_t steps;     // instructions to run: 2 where a NOP follows to show a MOV SS shadow
    uint8_t sequence;  // instructions at most; 0: a case of one
    uint8_t parts;     // in part[], behind the first
    uint8_t loop;      // of a sequence: how often it is to run; 0: once, straight on
    bool looped;       // its last two parts count down and lead back to the first instruction
    uint8_t bytes[ORACLE_INSN_SIZE];
    uint16_t code_offset; // in the code page; the instruction may run past the page's end
    uint8_t filling;      // which filling of the window
    uint8_t patches;
    struct oracle_patch patch[4];
    uint64_t image; // linear address of the image that an FXSAVE or XSAVE stores, or 0
    struct oracle_state in;
    uint32_t undefined; // as of a part, of the first instruction; a sequence's only
    struct oracle_part part[ORACLE_PARTS_MAX];
};

#define ORACLE_DONE -1 // the instruction completed
#define ORACLE_DIED -2 // the runner died or hung: no result

struct oracle_result {
    int vector; // exception, ORACLE_DONE or ORACLE_DIED
    uint32_t error;
    uint64_t cr2; // #PF only
    uint64_t dr6; // #DB only: the bits that say why, as far as a process is told
    struct oracle_state out;
    uint8_t memory[ORACLE_MEMORY_SIZE];
};

// Offset into the mapped pages of a window address, or -1.
static inline int oracle_memory_offset(uint64_t linear)
{
    uint64_t off = linear - ORACLE_WINDOW_BASE;
    if (off < 2 * PAGE_SIZE)
        return (int)off;
    if (off >= 3 * PAGE_SIZE && off < 5 * PAGE_SIZE)
        return (int)(off - 2 * PAGE_SIZE);
    return -1;
}

// Whether an exception here is that of an instruction of the case, not of what it led to.
static inline bool oracle_is_within(const struct oracle_case *c, uint16_t cs, uint64_t rip)
{
    if (cs != c->in.cs)
        return false;
    for (unsigned i = 0; i < c->parts; i++)
        if (rip == c->part[i].rip)
            return true;
    return rip == c->in.rip;
}

static inline void oracle_put_bytes(uint8_t *page, unsigned offset, const uint8_t *bytes,
                                    unsigned size)
{
    for (unsigned i = 0; i < size && offset + i < PAGE_SIZE; i++)
        page[offset + i] = bytes ? bytes[i] : ORACLE_FILLER;
}

// Puts the case's code into the code page, or fills its place again.
static inline void oracle_put_code(const struct oracle_case *c, uint8_t *page, bool remove)
{
    oracle_put_bytes(page, c->code_offset, remove ? NULL : c->bytes, c->size);
    for (unsigned i = 0; i < c->parts; i++)
        oracle_put_bytes(page, c->part[i].offset, remove ? NULL : c->part[i].bytes,
                         c->part[i].size);
}

// segments.c
// ----------------------------------------------------------------------------------------
unsigned oracle_ldt_entries(void);
uint64_t oracle_descriptor(uint16_t sel);    // 0 where there is none
struct x86_seg oracle_segment(uint16_t sel); // what loading it gives; unusable where there is none
int oracle_ldt_install(void); // for this process and its children; -1 where the kernel has no LDTs

// Bits of the result that the host cannot show: outside 64-bit mode an exception saves 32 bits of
// RSP, and the kernel's way to a 16-bit stack leaves its own above them.
static inline void oracle_state_cut(const struct oracle_case *c, struct oracle_state *out)
{
    if (c->code_size != X86_CODE64 || (out->cs | 3) != ORACLE_CS64)
        out->gpr[X86_RSP] = (uint32_t)out->gpr[X86_RSP];
}

// gen.c
// ---------------------------------------------------------------------------------------------
struct oracle_options {
    uint64_t seed;
    const char *form;  // only forms whose name starts with this; NULL: all
    bool exact;        // ... is exactly this
    uint8_t code_size; // enum x86_code_size
    bool ldt;          // the host has it; X86_CODE16 needs it
    uint8_t sequence;  // cases are sequences of at most so many instructions; 0: of one
    bool loops;        // that run several times over
};
// Number of forms that take part under these options (0: the name matches none).
unsigned oracle_gen_init(const struct oracle_options *options);
// The number of the i-th case among the forms that take part. A number keeps its meaning under
// every choice of forms.
uint64_t oracle_gen_number(uint64_t i);
// The case of this number: the same (number, seed, table) always gives the same case.
void oracle_gen(struct oracle_case *c, uint64_t number);
// Continues a sequence behind an instruction that completed with the state `now`: an instruction, and what
// brings its registers and memory into shape before. False: nothing is possible or fits this time; another
// `attempt` gives another one.
bool oracle_gen_more(struct oracle_case *c, const struct oracle_state *now, unsigned attempt);
// Lets a sequence run over and over: c->loop times, if its memory holds the count that long. False: it cannot.
bool oracle_gen_loop(struct oracle_case *c, const struct oracle_state *now);
// Why this row is never generated in this mode, or NULL.
const char *oracle_excluded(const struct x86_form *form);
// The window's content at the start of the case.
void oracle_memory(const struct oracle_case *c, uint8_t memory[ORACLE_MEMORY_SIZE]);

// native.c
// ------------------------------------------------------------------------------------------
// 0, or -1 with a message on stderr. *ldt: whether the LDT could be installed.
int oracle_native_init(bool *ldt);
// Runs `count` cases on the host's processor.
void oracle_native_run(const struct oracle_case *cases, struct oracle_result *results,
                       unsigned count);

// croft.c
// -------------------------------------------------------------------------------------------
// 0, or -1 with a message on stderr. `engine` by name; `rounds`: 0 for what fits it.
int oracle_croft_init(bool ldt, const char *engine, unsigned rounds);
// A case runs so many times in a row: first with nothing cached, later as translated code, if the engine
// translates. All of them must give the same.
unsigned oracle_croft_rounds(void);
// One round, from 0; before it, the code is put into memory by the first.
void oracle_croft_run(const struct oracle_case *c, unsigned round, struct oracle_result *result);
// The same again, stopped after so many instructions: the code is that of the case that ran last.
void oracle_croft_run_some(const struct oracle_case *c, unsigned instructions,
                           struct oracle_result *result);
void oracle_croft_counters(FILE *file); // the engine's, a line each

// sequence.c
// ----------------------------------------------------------------------------------------
// Makes sequences of cases of one, instruction by instruction; the host tells how each came out. Leaves in
// `native` what it makes of the whole.
void oracle_sequences_grow(struct oracle_case *cases, struct oracle_result *native, unsigned count);
// How many instructions (setups among them) a run can be stopped behind: not the last, and none from the first
// that is repeated and counts more than once.
unsigned oracle_sequence_stops(const struct oracle_case *c);
// The same sequence with an instruction that CPL 3 may not execute behind the n-th, HLT or CLI: the host
// stops there. Nothing else of the code differs, which a sequence may read.
struct oracle_case oracle_sequence_stop(const struct oracle_case *c, unsigned n, bool cli);
// Cuts a sequence behind its n-th instruction (1: the first).
struct oracle_case oracle_sequence_cut(const struct oracle_case *c, unsigned n);

// compare.c
// -----------------------------------------------------------------------------------------
enum oracle_verdict {
    ORACLE_EQUAL,
    ORACLE_UNDEFINED_DIFFERS,
    ORACLE_DIFFERS
};
// Judges; with `report` writes what differs to stdout.
enum oracle_verdict oracle_compare(const struct oracle_case *c, const struct oracle_result *native,
                                   const struct oracle_result *croft, bool report);
// Whether a destination is undefined after the case of one, and which flags.
bool oracle_undefined(const struct oracle_case *c, const struct oracle_result *native,
                      uint32_t *flags);
// What the architecture leaves undefined counts as a difference too.
void oracle_compare_strictly(void);
// For each row of undefined.c: the cases it applied to, and those that differ in what it masks.
void oracle_print_masked(void);
void oracle_write_masked(FILE *file); // the same as the elements of a JSON array
void oracle_print_case(const struct oracle_case *c);
void oracle_print_state(const struct oracle_state *s);
void oracle_print_stack(const struct oracle_case *c); // what rSP points to
