// SPDX-License-Identifier: Apache-2.0
// The parts of the guest "segments", and the descriptors it makes its tables of.
#pragma once

#include "rings.h"

// S and type in one number: 0 to 15 system descriptors, 16 to 31 segments.
#define KIND_SEGMENT 0x10
#define KIND_CODE 0x18
#define kind_is_segment(k) ((k) >= KIND_SEGMENT)
#define kind_is_code(k) ((k) >= KIND_CODE)
#define kind_is_data(k) (kind_is_segment(k) && !kind_is_code(k))
#define kind_is_conforming(k) (kind_is_code(k) && ((k)&4))
#define kind_is_readable(k) (kind_is_data(k) || (kind_is_code(k) && ((k)&2)))
#define kind_is_writable(k) (kind_is_data(k) && ((k)&2))
#define KIND_ACCESSED 1

static inline u64 kind_descriptor(u32 base, u32 limit, u32 kind, u32 dpl, bool present, u32 flags)
{
    return lab_descriptor(base, limit, kind | dpl << 5 | (present ? 0x80 : 0), flags);
}
// The accessed (or a TSS's busy) bit's byte.
static inline u32 descriptor_access(u64 descriptor)
{
    return (u32)(descriptor >> 40) & 0xff;
}

void segments_load(void);
void segments_query(void);
void segments_far(void);
void segments_limit(void);
void segments_long(void);
