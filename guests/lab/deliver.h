// SPDX-License-Identifier: Apache-2.0
// Descriptor tables moved to pages that can be taken away, and handlers of faults in delivery that stand on stacks of
// their own: by IST in the 64-bit flavour, by task gates in the 32-bit one.
#pragma once

#include "probe.h"

void deliver_idt_limit(u16 limit); // of the lab's own IDT
// Copies of the tables, across a page's end; returns the address of the entry, which lies in the page that the
// entries of the other half do not touch. deliver_alias_end() takes the lab's own again.
ulong deliver_alias_idt(u32 vector);
ulong deliver_alias_gdt(u32 selector, u64 descriptor); // selector from 100h: in the second page
void deliver_alias_end(void);
// #DF, #TS, #NP, #SS, #GP and #PF on stacks of their own.
void deliver_safe_stacks(bool on);
