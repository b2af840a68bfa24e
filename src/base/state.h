// SPDX-License-Identifier: Apache-2.0
// State described once. A struct that a snapshot must carry has one list of fields; the same list saves
// it, loads it, checks it and lets a test prove that nothing was forgotten.
//
//   static const struct state_field pit_fields[] = {
//       STATE_FIELD(struct pit, latch),           // one scalar (u8..u64, bool, enum), any array of them
//       STATE_STRUCT(struct pit, ch, struct pit_channel, channel_fields), // one nested struct, or an array of them
//       STATE_TRANSIENT(struct pit, irq),         // wiring, timers, pointers: rebuilt, not saved
//       STATE_END
//   };
//   const struct state_desc pit_state = { .name = "pit", .version = 1, .size = sizeof(struct pit),
//       .fields = pit_fields, .post_load = pit_post_load };
//
// Fields are listed in the order of the struct. `state_desc_check` (a unit test calls it for every
// description) fails when a byte of the struct that is not alignment padding is in no field.
//
// The saved form is little-endian: per field, its name, element size, count and bytes; a loader refuses
// unknown or missing fields of the same version, wrong sizes and short input. post_load validates what
// was loaded as guest input is validated, and rebuilds what is derived (timers, interrupt lines).
#pragma once

#include "base/error.h"
#include "base/types.h"

enum state_kind {
    STATE_KIND_END,
    STATE_KIND_SCALAR,
    STATE_KIND_STRUCT,
    STATE_KIND_TRANSIENT
};

struct state_field {
    const char *name;
    enum state_kind kind;
    uint32_t offset;
    uint32_t size;  // of the whole field, in bytes
    uint32_t elem;  // of one element
    uint32_t align; // alignment of the field's type
    bool is_bool;   // loaded as 0 or 1, whatever the byte says
    const struct state_field *sub;
};

struct state_desc {
    const char *name;
    uint32_t version;
    uint32_t size;
    const struct state_field *fields;
    // After loading: check and rebuild. Returns 0, or -1 with err set (the load as a whole fails).
    int (*post_load)(void *object, struct error *err);
    // Before saving: bring derived fields up to date. May be NULL.
    void (*pre_save)(void *object);
};

#define STATE_COMMON_(T, f, k, E, s)                                                    \
    {                                                                                   \
        .name = #f, .kind = (k), .offset = offsetof(T, f), .size = sizeof(((T *)0)->f), \
        .elem = sizeof(E), .align = _Alignof(__typeof__(((T *)0)->f)),                  \
        .is_bool = __builtin_types_compatible_p(E, bool), .sub = (s)                    \
    }
// A scalar of 1, 2, 4 or 8 bytes.
#define STATE_FIELD(T, f) STATE_COMMON_(T, f, STATE_KIND_SCALAR, __typeof__(((T *)0)->f), NULL)
// An array (of any rank) of scalars whose element type is `E`.
#define STATE_ARRAY(T, f, E) STATE_COMMON_(T, f, STATE_KIND_SCALAR, E, NULL)
// A nested struct, or an array of them, of type `E`, described by the field list `sub`.
#define STATE_STRUCT(T, f, E, sub) STATE_COMMON_(T, f, STATE_KIND_STRUCT, E, sub)
// Not saved.
#define STATE_TRANSIENT(T, f) STATE_COMMON_(T, f, STATE_KIND_TRANSIENT, char, NULL)
#define STATE_END              \
    {                          \
        .kind = STATE_KIND_END \
    }

struct state_buffer {
    uint8_t *data;
    size_t size, capacity;
};
void state_buffer_free(struct state_buffer *buffer);

// Appends the object as one section. Returns 0, or -1 when memory is exhausted.
int state_save(struct state_buffer *out, const struct state_desc *desc, void *object);
// Reads one section at *offset and advances it. Returns 0 or -1 with err naming section and field.
int state_load(const struct state_buffer *in, size_t *offset, const struct state_desc *desc,
               void *object, struct error *err);
// True when every byte of the struct is covered by a field or is padding; else names the gap.
bool state_desc_check(const struct state_desc *desc, char *why, size_t why_size);
