// SPDX-License-Identifier: Apache-2.0
// --bt-dump: a block's guest code and its host code, side by side, as text for people.
//
// Under each guest instruction stand the host instructions made from it; then the cold code with the site that
// each piece of it names. Host addresses are offsets in the code cache, so that jumps between blocks can be
// followed. It is written when the block is made: links that are patched later are not seen.
#include "engine/bt/translate.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[] = {
    [BT_SITE_ACCESS] = "access", [BT_SITE_EXEC] = "exec",     [BT_SITE_SEG] = "seg",
    [BT_SITE_EXIT] = "exit",     [BT_SITE_BRANCH] = "branch", [BT_SITE_STEP] = "step",
    [BT_SITE_POLL] = "poll",     [BT_SITE_FP] = "fp",         [BT_SITE_ENTRY] = "entry"};

bool bt_dump_open(struct bt *bt, const struct engine_options *options, struct error *err)
{
    if (!options || !options->bt_dump)
        return true;
    bt->dump_low = options->bt_dump_low;
    bt->dump_high = options->bt_dump_high ? options->bt_dump_high : UINT64_MAX;
    bt->dump = strcmp(options->bt_dump, "-") == 0 ? stderr : fopen(options->bt_dump, "we");
    if (!bt->dump)
        error_set(err, ERROR_INPUT, "--bt-dump: cannot write %s: %s", options->bt_dump,
                  strerror(errno));
    return bt->dump != NULL;
}

void bt_dump_close(struct bt *bt)
{
    if (bt->dump && bt->dump != stderr)
        fclose(bt->dump);
    bt->dump = NULL;
}

// --- names -------------------------------------------------------------------------------------------------------

static bool frame_name(char *out, size_t size, size_t at)
{
    const size_t slot = sizeof(struct x86_page_slot), target = sizeof(struct x86_branch_target);
    struct x86_code_frame *f = NULL;
    if (at < sizeof(f->slot)) {
        size_t n = at / slot;
        snprintf(out, size, "slot[%zu][%s][%zu].%s", n / X86_FRAME_SLOTS / X86_FRAME_KINDS,
                 n / X86_FRAME_SLOTS % X86_FRAME_KINDS ? "write" : "read", n % X86_FRAME_SLOTS,
                 at % slot ? "addend" : "page");
    } else if (at >= offsetof(struct x86_code_frame, mapped) &&
               at < offsetof(struct x86_code_frame, mapped) + sizeof(f->mapped)) {
        snprintf(out, size, "mapped[%zu]", (at - offsetof(struct x86_code_frame, mapped)) / 4);
    } else if (at >= offsetof(struct x86_code_frame, target) &&
               at < offsetof(struct x86_code_frame, target) + sizeof(f->target)) {
        at -= offsetof(struct x86_code_frame, target);
        snprintf(out, size, "target[%zu].%s", at / sizeof(f->target[0]),
                 at % target ? "code" : "rip");
    } else {
        return false;
    }
    return true;
}

const char *bt_field_name(char *out, size_t size, int64_t offset)
{
#define F(field)                                                                      \
    {                                                                                 \
#field, offsetof(struct x86_cpu, field), sizeof(((struct x86_cpu *)0)->field) \
    }
    static const struct {
        const char *name;
        size_t at, size;
    } fields[] = {F(gpr),        F(rflags),        F(icount),     F(soft.limit),
                  F(frame.site), F(frame.flags),   F(frame.poll), F(frame.scratch),
                  F(frame.cpu),  F(frame.host_sp), F(seg)};
#undef F
    const size_t at = (size_t)offset, frame = offsetof(struct x86_cpu, frame);
    if (at >= frame && at < frame + sizeof(struct x86_code_frame) &&
        frame_name(out, size, at - frame))
        return out;
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        if (at < fields[i].at || at >= fields[i].at + fields[i].size)
            continue;
        if (at == fields[i].at && fields[i].size <= 8)
            snprintf(out, size, "%s", fields[i].name);
        else if (fields[i].at == offsetof(struct x86_cpu, seg))
            snprintf(out, size, "seg[%zu]+%zu", (at - fields[i].at) / sizeof(struct x86_seg),
                     (at - fields[i].at) % sizeof(struct x86_seg));
        else
            snprintf(out, size, "%s[%zu]", fields[i].name, (at - fields[i].at) / 8);
        return out;
    }
    snprintf(out, size, "cpu+%#llx", (unsigned long long)offset);
    return out;
}

const char *bt_stub_name(const struct bt *bt, uint32_t offset)
{
    const struct {
        uint32_t at;
        const char *name;
    } stubs[] = {{bt->stub_miss, "stub_miss"},     {bt->stub_slow, "stub_slow"},
                 {bt->stub_seg, "stub_seg"},       {bt->stub_fp, "stub_fp"},
                 {bt->stub_exec, "stub_exec"},     {bt->stub_exit, "stub_exit"},
                 {bt->stub_branch, "stub_branch"}, {bt->stub_step, "stub_step"},
                 {bt->stub_poll, "stub_poll"},     {bt->stub_entry, "stub_entry"},   {bt->stub_system, "stub_system"}, {bt->stub_scattered, "stub_scattered"}};
    for (size_t i = 0; i < ARRAY_SIZE(stubs); i++)
        if (stubs[i].at == offset)
            return stubs[i].name;
    return NULL;
}

// --- text ---------------------------------------------------------------------------------------------------------

static void put_site(const struct bt *bt, uint32_t number)
{
    const struct bt_site *site = &bt->sites[number];
    fprintf(bt->dump, "site %u: %s of +%u", number,
            site->kind < ARRAY_SIZE(kind_names) ? kind_names[site->kind] : "?", site->rip);
    if (site->kind == BT_SITE_ACCESS)
        fprintf(bt->dump, ", %u bytes at %+d of %u checked, retry %x, resume %x at +%u", site->size,
                site->head, site->span, site->retry, site->resume, site->next);
    else if (site->kind == BT_SITE_EXEC)
        fprintf(bt->dump, ", resume %x", site->resume);
    else if (site->kind == BT_SITE_EXIT)
        fprintf(bt->dump, " to %#llx%s", (unsigned long long)site->target,
                site->cross ? ", another page" : "");
}

// What the text of the instruction does not say.
static void put_comment(const struct bt *bt, const uint8_t *at, const struct x86_insn *x)
{
    const struct x86_form *form = x86_insn_form(x);
    char name[64];
    const char *stub;
    uint32_t to;
    if (x->has_mem && x->seg == X86_GS) {
        fprintf(bt->dump, "  ; %s", bt_field_name(name, sizeof(name), x->disp));
        if ((size_t)x->disp == FRAME(site) && x->imm < bt->site_count) {
            fputs(", ", bt->dump);
            put_site(bt, (uint32_t)x->imm);
        }
    } else if (form->operand_count && form->operand[0].kind == X86_OPND_REL) {
        to = (uint32_t)(at - bt->rw) + x->len + (uint32_t)x->imm;
        stub = bt_stub_name(bt, to);
        if (stub)
            fprintf(bt->dump, "  ; %s", stub);
    }
}

static void put_bytes(FILE *out, const uint8_t *bytes, unsigned n, unsigned width)
{
    for (unsigned i = 0; i < n; i++)
        fprintf(out, "%02x", bytes[i]);
    fprintf(out, "%*s", n * 2 < width ? (int)(width - n * 2) : 1, "");
}

// Host code [from, to).
static void put_host(const struct bt *bt, const struct bt_block *block, uint32_t from, uint32_t to)
{
    for (uint32_t at = from; at < to;) {
        const uint8_t *p = bt->rw + at;
        struct x86_insn x;
        char text[128];
        if (at == block->checked)
            fputs("    checked:\n", bt->dump);
        if (at == block->entry_a)
            fputs("    entry_a:\n", bt->dump);
        if (at == block->entry_e)
            fputs("    entry_e:\n", bt->dump);
        if (at == block->head)
            fputs("    head:\n", bt->dump);
        if (at == block->gone)
            fputs("    gone:\n", bt->dump);
        if (x86_decode(&x, p, to - at, X86_CODE64, NULL) != X86_DECODE_OK) {
            fprintf(bt->dump, "    %08x  (bad)\n", at);
            return;
        }
        x86_disassemble(text, sizeof(text), p, x.len, X86_CODE64, at);
        fprintf(bt->dump, "    %08x  ", at);
        put_bytes(bt->dump, p, x.len, 26);
        fputs(text, bt->dump);
        put_comment(bt, p, &x);
        fputc('\n', bt->dump);
        at += x.len;
    }
}

static void put_context(const struct bt *bt, uint32_t number)
{
    static const char *const codes[] = {
        [X86_CODE16] = "16-bit", [X86_CODE32] = "32-bit", [X86_CODE64] = "64-bit"};
    const uint32_t bits = bt->contexts[number].bits, segs = bt->contexts[number].segs;
    fprintf(bt->dump, "context %u: %s, set %u", number, codes[bits & BT_CTX_CODE],
            (bits & BT_CTX_SET) >> BT_CTX_SET_SHIFT);
    if ((bits & BT_CTX_CODE) != X86_CODE64)
        fprintf(bt->dump, ", segments %08x, code at %llx", segs,
                (unsigned long long)bt->contexts[number].cs_base);
    fprintf(bt->dump, "%s%s", bits & BT_CTX_COUNTED ? ", counted" : "",
            bits & BT_CTX_SINGLE ? ", single" : "");
}

void bt_dump_block(struct bt *bt, const struct bt_block *block, const uint8_t *guest)
{
    const struct bt_layout *l = block->layout;
    const unsigned code = bt->contexts[block->context].bits & BT_CTX_CODE;
    unsigned off = 0;
    if (block->rip < bt->dump_low || block->rip > bt->dump_high)
        return;
    flockfile(bt->dump);
    fprintf(bt->dump, "block %#llx at %#llx, ", (unsigned long long)block->rip,
            (unsigned long long)block->gpa);
    put_context(bt, block->context);
    fprintf(bt->dump, "; %u instructions, %u bytes -> %u bytes\n", block->count, block->bytes,
            block->end - l->start);
    put_host(bt, block, block->checked, l->boundary[0]);
    for (unsigned i = 0; i < block->count; i++) {
        struct x86_insn x;
        char text[128];
        // The same bytes that were translated: they decode.
        if (x86_decode(&x, guest + off, block->bytes - off, code, NULL) != X86_DECODE_OK)
            break;
        x86_disassemble(text, sizeof(text), guest + off, x.len, code, block->rip + off);
        fprintf(bt->dump, "  %#llx  ", (unsigned long long)(block->rip + off));
        put_bytes(bt->dump, guest + off, x.len, 22);
        fprintf(bt->dump, "%s\n", text);
        put_host(bt, block, l->boundary[i], l->boundary[i + 1]);
        off += x.len;
    }
    fputs("  last and cold code\n", bt->dump);
    put_host(bt, block, l->boundary[block->count], block->end);
    fputc('\n', bt->dump);
    funlockfile(bt->dump);
}
