// SPDX-License-Identifier: Apache-2.0
// A few bytes of machine code, tried in every mode and ring that the flavour has, and what must be true of any
// exception they raise: which, where, with which flags, and nothing else changed.
//
// Memory that probes use (below 64 KiB, so that 16-bit segments reach it): code at PROBE_CODE, data at
// PROBE_DATA, the stack below PROBE_STACK. Behind the code stands UD2: a probe that comes to its
// end stops there. In every mode BX and DI point to the data, so that the ModRM byte 07h is [BX] or [EDI].
#pragma once

#include "lab.h"

enum probe_mode {
    PROBE_16, // 16-bit code; in the 64-bit flavour these two are compatibility mode
    PROBE_32,
    PROBE_64,
};
#ifdef __x86_64__
#define PROBE_MODES 3
#define PROBE_LONG true
#else
#define PROBE_MODES 2
#define PROBE_LONG false
#endif
#define PROBE_CODE 0x4000u
#define PROBE_STACK 0x8000u
#define PROBE_DATA 0x9000u
#define PROBE_FLAGS (2u | FLAG_CF | FLAG_AF | FLAG_SF) // what probe_begin() sets

// What is expected. END: the probe comes to its end.
enum {
    PROBE_END = 0x100,
    PROBE_TRAP = 0x200, // or'ed to a vector: the saved IP is behind the code, RF is as it was
};

void probe_begin(struct lab_state *s, enum probe_mode mode, unsigned cpl);
// False where a monitor that computes by itself, with gaps ("sysexit" on the command line), stands under this guest:
// then only ring 3 of 64-bit mode is tried, which such monitors leave to the processor.
bool probe_possible(enum probe_mode mode, unsigned cpl);
void probe_code(const void *bytes, unsigned count);
unsigned probe_length(void);
const struct lab_trap *probe_run(const struct lab_state *s);
const char *probe_mode_name(enum probe_mode mode);
// Everything that can be told from outside; `what` names the case. PROBE_END with changed registers: `loose`.
bool probe_expect(const char *what, const struct lab_state *s, const struct lab_trap *t,
                  unsigned want, u32 error);
extern bool probe_loose_registers; // the next expectations do not look at registers and memory
#define PROBE_BYTES(...) (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__})

// Paging of 4 KiB pages for the first 4 MiB (the 32-bit flavour turns paging on); the rest stays as it was.
void probe_paging_on(void);
void probe_paging_off(void);               // back to the flavour's own
void probe_page(ulong address, u64 entry); // 0: not present; flags alone: identity with them
void probe_entry(ulong address, u64 entry); // the same without INVLPG
#define PAGE_P 1u
#define PAGE_W 2u
#define PAGE_U 4u
