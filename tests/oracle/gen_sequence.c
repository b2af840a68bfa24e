// SPDX-License-Identifier: Apache-2.0
// Continues a sequence: one more instruction for the state that the host has come to.
//
// The generator of single cases chooses registers and memory freely; here they are what the instructions
// before made of them. Half of the time the instruction has to take the registers as they are (it aims with
// its displacement), else instructions before it move into registers and memory what it would like to find.
//
// Rules to keep:
//  - What brings things into shape changes no flag: flags live across it.
//  - An address that is not the generator's own choice is checked here (address_is_safe()).
//  - Code is placed only where the sequence has none yet, and branches do not lead back: no loops.
#include "gen.h"
#include "x86/decode.h"
#include <string.h>

#define SETUPS_MAX 6
#define ROOM 80 // bytes behind the place where the sequence goes on that must be free

// Makes g's rng the same for the same try.
static uint64_t seed_of(const struct oracle_case *c, unsigned attempt)
{
    struct rng rng = {.state = c->seed * UINT64_C(0x9e3779b97f4a7c15) ^ c->number};
    rng_next(&rng);
    rng.state += (uint64_t)c->parts << 32 | attempt;
    return rng_next(&rng);
}

static bool overlaps(unsigned from, unsigned size, unsigned offset, unsigned room)
{
    return from < offset + room && offset < from + size;
}

bool place_is_free(const struct oracle_case *c, unsigned offset, unsigned room)
{
    if (offset + room > PAGE_SIZE || overlaps(c->code_offset, c->size, offset, room))
        return false;
    for (unsigned i = 0; i < c->parts; i++)
        if (overlaps(c->part[i].offset, c->part[i].size, offset, room))
            return false;
    return true;
}

// --- which form ----------------------------------------------------------------------------------

static bool form_fits(const struct x86_form *form, enum x86_code_size code_size)
{
    static const char *const unfit[] = {
        "fxsave",  "fxrstor",  "xsave", "xrstor", "xgetbv", // images; what single cases are for
        "vgather", "vpgather", // their addresses come out of vector registers
        "hlt",     "int",      "ud",    "iret",   "retf",   "enter"};
    for (unsigned i = 0; i < ARRAY_SIZE(unfit); i++)
        if (!strncmp(form->mnemonic, unfit[i], strlen(unfit[i])))
            return false;
    if (form->privilege == X86_PRIV_CPL0 || form->privilege == X86_PRIV_IOPL)
        return false;
    return !(form->attr & (code_size == X86_CODE64 ? X86_INSN_NO64 : X86_INSN_ONLY64));
}

// What compilers write: a translator's daily bread.
static bool form_is_common(const struct x86_form *form)
{
    const uint32_t rare =
        X86_INSN_VEX | X86_INSN_X87 | X86_INSN_MMX | X86_INSN_SSE | X86_INSN_SENSITIVE;
    return form->map <= X86_MAP_0F && !(form->attr & rare);
}

static uint16_t pick_form(struct rng *rng, enum x86_code_size code_size)
{
    bool branch = rng_chance(rng, 8), common = rng_chance(rng, 65);
    for (;;) {
        uint16_t number = eligible_form(rng_next(rng) >> 16);
        const struct x86_form *form = &x86_forms[number];
        if (!form_fits(form, code_size) || (common && !form_is_common(form)))
            continue;
        if (branch && !(form->attr & X86_INSN_BRANCH))
            continue;
        return number;
    }
}

// --- what comes before it ------------------------------------------------------------------------

struct setup {
    unsigned count, bytes;
    struct oracle_part part[SETUPS_MAX];
};

static struct oracle_part *setup_new(struct setup *s)
{
    if (s->count == SETUPS_MAX)
        return NULL;
    struct oracle_part *p = &s->part[s->count++];
    memset(p, 0, sizeof(*p));
    p->form = ORACLE_SETUP;
    return p;
}

static void put(struct setup *s, struct oracle_part *p, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++, value >>= 8)
        p->bytes[p->size++] = (uint8_t)value;
    s->bytes += size;
}

static bool setup_register(struct setup *s, enum x86_code_size code_size, unsigned reg,
                           uint64_t value)
{
    struct oracle_part *p = setup_new(s);
    if (!p)
        return false;
    if (code_size == X86_CODE64)
        put(s, p, 0x48 | reg >> 3, 1);
    else if (code_size == X86_CODE16)
        put(s, p, 0x66, 1);
    put(s, p, 0xb8 | (reg & 7), 1);
    put(s, p, value, code_size == X86_CODE64 ? 8 : 4);
    return true;
}

// An instruction FF /reg or C7 /reg with four bytes of memory through DS; NULL where that does not reach them.
static struct oracle_part *setup_on_memory(struct setup *s, const struct oracle_case *c,
                                           uint16_t ds_selector, uint64_t linear, unsigned opcode,
                                           unsigned reg)
{
    struct x86_seg ds = oracle_segment(ds_selector);
    uint64_t offset = linear;
    if (c->code_size != X86_CODE64) {
        offset = (uint32_t)(linear - ds.base);
        if ((ds.attr & X86_ATTR_UNUSABLE) || (ds.attr & 0xe) != 2 || offset + 3 > ds.limit)
            return NULL;
    }
    struct oracle_part *p = setup_new(s);
    if (!p)
        return NULL;
    if (c->code_size == X86_CODE16)
        put(s, p, 0x6766, 2);
    put(s, p, opcode, 1);
    if (c->code_size == X86_CODE64)
        put(s, p, 0x2504 | reg << 3, 2);
    else
        put(s, p, 5 | reg << 3, 1);
    put(s, p, offset, 4);
    return p;
}

static bool setup_memory(struct setup *s, const struct oracle_case *t, uint64_t linear,
                         uint32_t value)
{
    struct oracle_part *p = setup_on_memory(s, t, t->in.ds, linear, 0xc7, 0);
    if (p)
        put(s, p, value, 4);
    return p != NULL;
}

// Appends it to the sequence at this place, which moves on.
static void add_setup(struct oracle_case *c, const struct setup *s, uint64_t *offset, uint64_t *rip)
{
    for (unsigned i = 0; i < s->count; i++) {
        struct oracle_part *p = &c->part[c->parts++];
        *p = s->part[i];
        p->offset = (uint16_t)*offset;
        p->rip = *rip;
        *offset += p->size;
        *rip += p->size;
    }
}

// What the instruction in `t` wants other than `now` has it.
static bool make_setup(struct setup *s, const struct oracle_case *t, unsigned patches_before,
                       const struct oracle_state *now)
{
    memset(s, 0, sizeof(*s));
    for (unsigned i = patches_before; i < t->patches; i++) {
        const struct oracle_patch *patch = &t->patch[i];
        uint64_t linear =
            ORACLE_WINDOW_BASE + patch->offset + (patch->offset >= 2 * PAGE_SIZE ? PAGE_SIZE : 0);
        for (unsigned at = 0; at < patch->size; at += 4) {
            uint32_t value = 0;
            memcpy(&value, patch->data + at, patch->size - at < 4 ? patch->size - at : 4);
            if (patch->size > 16 || linear + at + 4 > ORACLE_RO_BASE ||
                !setup_memory(s, t, linear + at, value))
                return false;
        }
    }
    for (unsigned i = 0; i < (t->code_size == X86_CODE64 ? 16 : 8); i++)
        if (t->in.gpr[i] != now->gpr[i] && !setup_register(s, t->code_size, i, t->in.gpr[i]))
            return false;
    return true;
}

// --- the instruction -----------------------------------------------------------------------------

// Not where the test program itself may have something mapped: a sanitizer's shadow, below 4 GiB.
static bool is_safe(const struct gen *g, uint64_t linear)
{
    if (g->code64)
        return address_is_safe(linear - 64) && address_is_safe(linear + 64);
    return !((uint32_t)linear >= 0x7fff0000 && (uint32_t)linear < 0x90000000);
}

static bool addresses_are_safe(const struct gen *g)
{
    const struct x86_form *f = g->form;
    struct x86_seg ss = oracle_segment(g->c->in.ss);
    uint64_t bp = g->c->in.gpr[X86_RBP];
    if (!g->code64)
        bp = ss.base + (ss.attr & X86_ATTR_DB ? bp : bp & 0xffff);
    if (g->has_mem && !is_safe(g, g->target))
        return false;
    // (A far CALL to 64-bit code pushes through all of ESP.)
    if ((f->attr & X86_INSN_STACK) &&
        !(is_safe(g, stack_linear(g)) && is_safe(g, g->c->in.gpr[X86_RSP])))
        return false;
    return !is(g, "leave") || is_safe(g, bp);
}

// `skip`: bytes of the setup before it.
static void make_part(struct gen *g, struct oracle_case *t, const struct oracle_case *c,
                      const struct oracle_state *now, unsigned offset, unsigned skip, uint64_t seed)
{
    struct rng rng = {.state = seed};
    memset(t, 0, sizeof(*t));
    t->number = c->number;
    t->seed = c->seed;
    t->code_size = c->code_size;
    t->filling = c->filling;
    t->patches = c->patches > 2 ? 2 : c->patches;
    memcpy(t->patch, c->patch, t->patches * sizeof(c->patch[0]));
    t->in = *now;
    t->in.rflags &= ~(uint64_t)(X86_FLAG_TF | X86_FLAG_RF);
    t->in.rip += skip;
    t->code_offset = (uint16_t)(offset + skip);
    t->form = pick_form(&rng, c->code_size);
    start_gen(g, t, t->form);
    g->rng = rng;
    g->behind = c;
    g->edge = !g->code64 && chance(g, 5);
    g->adsize67 = chance(g, g->code64 ? 6 : 10);
    if (!(g->form->attr & X86_INSN_BRANCH))
        g->locked = chance(g, 60) ? 0xffff : chance(g, 80) ? 1u << X86_RSP : 0;
    make_instruction(g);
}

// Whether a relative branch leads into what there is, itself included.
static bool leads_back(const struct oracle_case *c, const struct oracle_case *t,
                       const struct x86_insn *insn)
{
    const struct x86_form *form = &x86_forms[insn->form];
    if (form->operand_count == 0 || form->operand[0].kind != X86_OPND_REL)
        return false;
    uint32_t offset = t->code_offset + insn->len + (uint32_t)insn->imm;
    uint32_t cut = (offset & 0xffff) & (PAGE_SIZE - 1);
    unsigned from = t->code_offset > ROOM ? t->code_offset - ROOM : 0;
    return overlaps(from, 2 * ROOM, cut, 1) || !place_is_free(c, cut, 1);
}

// Where in the code page the sequence goes on, if there is room.
static bool find_place(const struct oracle_case *c, const struct oracle_state *now,
                       uint64_t *offset)
{
    bool code64 = c->code_size == X86_CODE64;
    struct x86_seg cs = oracle_segment(now->cs);
    uint64_t linear = code64 ? now->rip : (uint32_t)(cs.base + now->rip);
    *offset = linear - ORACLE_CODE_BASE;
    return now->cs == c->in.cs && *offset < PAGE_SIZE &&
           place_is_free(c, (unsigned)*offset, ROOM) && (code64 || now->rip + ROOM <= cs.limit);
}

// Whether in another round the row may do what single cases are kept from, or leave something else undefined
// than in the first.
static bool varies(const struct oracle_part *p)
{
    const struct x86_form *form = &x86_forms[p->form];
    static const char *const scans[] = {"bsf",    "bsr",    "shld",   "shrd",
                                        "xgetbv", "xrstor", "xrstors"};
    if (p->form == ORACLE_SETUP)
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(scans); i++)
        if (!strcmp(form->mnemonic, scans[i]))
            return true;
    for (unsigned i = 0; i < form->operand_count; i++)
        if (form->operand[i].kind == X86_OPND_FIXED_GPR && form->flags_undefined)
            return true; // a count in CL
    return false;
}

bool oracle_gen_loop(struct oracle_case *c, const struct oracle_state *now)
{
    struct setup s = {0};
    struct oracle_part first = {.form = c->form};
    uint64_t offset, rip = now->rip;
    uint32_t undefined = c->parts ? c->part[c->parts - 1].undefined : c->undefined;
    if (!c->loop || c->parts + 2 > ORACLE_PARTS_MAX || (undefined & X86_FLAG_CF) ||
        !find_place(c, now, &offset) || varies(&first))
        return false;
    for (unsigned i = 0; i < c->parts; i++)
        if (varies(&c->part[i]))
            return false;
    if (!setup_on_memory(&s, c, now->ds, ORACLE_LOOP_COUNTER, 0xff, 1)) // DEC: all flags but CF
        return false;
    struct oracle_part *jump = setup_new(&s);
    unsigned size = c->code_size == X86_CODE16 ? 2 : 4;
    put(&s, jump, 0x850f, 2); // JNZ
    put(&s, jump, c->in.rip - (rip + s.bytes + size), size);
    add_setup(c, &s, &offset, &rip);
    c->looped = true;
    return true;
}

bool oracle_gen_more(struct oracle_case *c, const struct oracle_state *now, unsigned attempt)
{
    static struct gen g;
    static struct oracle_case t;
    static struct setup setup, again;
    uint64_t offset, seed = seed_of(c, attempt);
    if (!find_place(c, now, &offset))
        return false;
    unsigned patches = c->patches > 2 ? 2 : c->patches;
    make_part(&g, &t, c, now, (unsigned)offset, 0, seed);
    if (!make_setup(&setup, &t, patches, now))
        return false;
    if (setup.bytes) { // once more, for the place behind them
        make_part(&g, &t, c, now, (unsigned)offset, setup.bytes, seed);
        if (!make_setup(&again, &t, patches, now) || again.bytes != setup.bytes)
            return false;
        setup = again;
    }
    if (!addresses_are_safe(&g) || !case_is_acceptable(&t) || setup.bytes + t.size > ROOM ||
        c->parts + setup.count + 1 > ORACLE_PARTS_MAX)
        return false;
    struct x86_insn insn;
    bool valid = x86_decode(&insn, t.bytes, t.size, c->code_size, NULL) == X86_DECODE_OK;
    if (valid ? leads_back(c, &t, &insn) : chance(&g, 95))
        return false;
    uint64_t rip = now->rip;
    add_setup(c, &setup, &offset, &rip);
    struct oracle_part *p = &c->part[c->parts++];
    memset(p, 0, sizeof(*p));
    p->offset = (uint16_t)offset;
    p->rip = rip;
    p->size = t.size;
    p->form = t.form;
    memcpy(p->bytes, t.bytes, t.size);
    return true;
}
