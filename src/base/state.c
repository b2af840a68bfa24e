// SPDX-License-Identifier: Apache-2.0
// Saved form of one section, all numbers little-endian:
//
//   u32 magic 'CSEC'   u32 version   u16 name length   name
//   per leaf field in list order (nested structs are flattened, array elements in order):
//     u16 path length   path ("ch[2].count")   u32 element size   u32 count   bytes
//   u16 0xffff (end)
#include "base/state.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTION_MAGIC 0x43455343u
#define SECTION_END 0xffffu
#define PATH_MAX_LENGTH 200

void state_buffer_free(struct state_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct state_buffer){0};
}

static int put(struct state_buffer *out, const void *data, size_t size)
{
    if (out->capacity - out->size < size) {
        size_t capacity = (out->capacity + size) * 2 + 256;
        uint8_t *grown = realloc(out->data, capacity);
        if (!grown)
            return -1;
        out->data = grown;
        out->capacity = capacity;
    }
    memcpy(out->data + out->size, data, size);
    out->size += size;
    return 0;
}

static int put16(struct state_buffer *out, uint32_t v)
{
    uint16_t w = (uint16_t)v;
    return put(out, &w, 2);
}

static int put32(struct state_buffer *out, uint32_t v)
{
    return put(out, &v, 4);
}

// Walks a field list depth first; `visit` gets every scalar field with its path and address.
typedef int (*visit_fn)(void *ctx, const char *path, uint8_t *data,
                        const struct state_field *field);

static int walk(const struct state_field *fields, uint8_t *base, const char *prefix, visit_fn visit,
                void *ctx)
{
    for (const struct state_field *f = fields; f->kind != STATE_KIND_END; f++) {
        char path[PATH_MAX_LENGTH];
        if (f->kind == STATE_KIND_SCALAR) {
            snprintf(path, sizeof(path), "%s%s", prefix, f->name);
            if (visit(ctx, path, base + f->offset, f) < 0)
                return -1;
        } else if (f->kind == STATE_KIND_STRUCT) {
            for (uint32_t i = 0; i < f->size / f->elem; i++) {
                snprintf(path, sizeof(path), "%s%s[%u].", prefix, f->name, i);
                if (walk(f->sub, base + f->offset + (size_t)i * f->elem, path, visit, ctx) < 0)
                    return -1;
            }
        }
    }
    return 0;
}

static int save_field(void *ctx, const char *path, uint8_t *data, const struct state_field *f)
{
    struct state_buffer *out = ctx;
    uint32_t length = (uint32_t)strlen(path);
    return put16(out, length) || put(out, path, length) || put32(out, f->elem) ||
                   put32(out, f->size / f->elem) || put(out, data, f->size)
               ? -1
               : 0;
}

int state_save(struct state_buffer *out, const struct state_desc *desc, void *object)
{
    uint32_t length = (uint32_t)strlen(desc->name);
    if (desc->pre_save)
        desc->pre_save(object);
    if (put32(out, SECTION_MAGIC) || put32(out, desc->version) || put16(out, length) ||
        put(out, desc->name, length) || walk(desc->fields, object, "", save_field, out))
        return -1;
    return put16(out, SECTION_END);
}

struct reader {
    const struct state_buffer *in;
    size_t at;
    const char *section;
    struct error *err;
};

static int get(struct reader *r, void *data, size_t size)
{
    if (r->in->size - r->at < size) {
        error_set(r->err, ERROR_INPUT, "saved state of '%s' ends too early: the file is truncated",
                  r->section);
        return -1;
    }
    memcpy(data, r->in->data + r->at, size);
    r->at += size;
    return 0;
}

static int load_field(void *ctx, const char *path, uint8_t *data, const struct state_field *f)
{
    struct reader *r = ctx;
    char name[PATH_MAX_LENGTH];
    uint16_t length;
    uint32_t elem, count;

    if (get(r, &length, 2))
        return -1;
    if (length >= sizeof(name))
        return error_set(r->err, ERROR_INPUT, "saved state of '%s' lacks the field '%s'",
                         r->section, path);
    if (get(r, name, length))
        return -1;
    name[length] = 0;
    if (strcmp(name, path) != 0)
        return error_set(r->err, ERROR_INPUT,
                         "saved state of '%s' has the field '%s' where '%s' belongs", r->section,
                         name, path);
    if (get(r, &elem, 4) || get(r, &count, 4))
        return -1;
    if (elem != f->elem || count != f->size / f->elem)
        return error_set(
            r->err, ERROR_INPUT,
            "saved state of '%s': field '%s' has %u elements of %u bytes, not %u of %u", r->section,
            path, count, elem, f->size / f->elem, f->elem);
    if (get(r, data, f->size))
        return -1;
    for (uint32_t i = 0; f->is_bool && i < f->size; i++)
        data[i] = data[i] != 0; // any other value of a bool would be undefined behaviour
    return 0;
}

// The object is touched only when the whole section was read; what an enum may hold is for post_load.
int state_load(const struct state_buffer *in, size_t *offset, const struct state_desc *desc,
               void *object, struct error *err)
{
    struct reader r = {.in = in, .at = *offset, .section = desc->name, .err = err};
    uint32_t magic, version;
    uint16_t length, end;
    char name[PATH_MAX_LENGTH];

    if (get(&r, &magic, 4) || get(&r, &version, 4) || get(&r, &length, 2))
        return -1;
    if (magic != SECTION_MAGIC || length >= sizeof(name))
        return error_set(err, ERROR_INPUT, "saved state of '%s' is damaged: no section header",
                         desc->name);
    if (get(&r, name, length))
        return -1;
    name[length] = 0;
    if (strcmp(name, desc->name) != 0)
        return error_set(err, ERROR_INPUT, "saved state has the section '%s' where '%s' belongs",
                         name, desc->name);
    if (version != desc->version)
        return error_set(err, ERROR_INPUT,
                         "saved state of '%s' has version %u, this Croft reads version %u",
                         desc->name, version, desc->version);
    uint8_t *copy = malloc(desc->size);
    if (!copy)
        return error_set(err, ERROR_HOST, "out of memory while loading '%s'", desc->name);
    memcpy(copy, object, desc->size);
    int result = walk(desc->fields, copy, "", load_field, &r);
    if (result == 0)
        result = get(&r, &end, 2);
    if (result == 0 && end != SECTION_END)
        result = error_set(err, ERROR_INPUT, "saved state of '%s' has fields this Croft lacks",
                           desc->name);
    if (result == 0) {
        memcpy(object, copy, desc->size);
        *offset = r.at;
    }
    free(copy);
    if (result == 0 && desc->post_load)
        result = desc->post_load(object, err);
    return result;
}

static bool fields_check(const struct state_field *fields, uint32_t size, const char *where,
                         char *why, size_t why_size)
{
    uint32_t at = 0, struct_align = 1;

    for (const struct state_field *f = fields; f->kind != STATE_KIND_END; f++) {
        uint32_t aligned = (at + f->align - 1) / f->align * f->align;
        if (f->offset != aligned) {
            snprintf(why, why_size, "%s: bytes %u..%u before '%s' are in no field", where, at,
                     f->offset, f->name);
            return false;
        }
        if (f->kind == STATE_KIND_SCALAR &&
            ((f->elem != 1 && f->elem != 2 && f->elem != 4 && f->elem != 8) || f->size % f->elem)) {
            snprintf(why, why_size, "%s: '%s' is not an array of scalars", where, f->name);
            return false;
        }
        if (f->kind == STATE_KIND_STRUCT) {
            char path[PATH_MAX_LENGTH];
            snprintf(path, sizeof(path), "%s.%s", where, f->name);
            if (f->size % f->elem || !fields_check(f->sub, f->elem, path, why, why_size))
                return false;
        }
        at = f->offset + f->size;
        if (f->align > struct_align)
            struct_align = f->align;
    }
    if ((at + struct_align - 1) / struct_align * struct_align != size) {
        snprintf(why, why_size, "%s: bytes %u..%u at the end are in no field", where, at, size);
        return false;
    }
    return true;
}

bool state_desc_check(const struct state_desc *desc, char *why, size_t why_size)
{
    return fields_check(desc->fields, desc->size, desc->name, why, why_size);
}
