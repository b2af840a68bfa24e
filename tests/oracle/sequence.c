// SPDX-License-Identifier: Apache-2.0
// Grows sequences: the host runs what there is, tells the state that it came to, and the generator adds an
// instruction for that state (gen_sequence.c). So operands reach memory all along, and the host's verdict is
// known for every beginning of a sequence.
//
// Rules to keep:
//  - Flags that an instruction leaves undefined are followed: a sequence in which one would be read is not
//    made, those left over at its end are not compared.
//  - Most instructions that fault are taken back; those that stay end their sequence.
#include "case.h"
#include "values.h"
#include "x86/decode.h"
#include <string.h>

#define BATCH 512
#define TRIES_MAX 40 // a sequence's, for all of its instructions

struct growing {
    unsigned made, wanted, tries;
    bool ended;
    struct oracle_state now; // before the part that was added last
    unsigned parts;          // there were then
    bool loses_count;        // something writes to the loop's counter
};

// The case of one that a part is, from the state before it.
static struct oracle_case single(const struct oracle_case *c, const uint8_t *bytes, unsigned size,
                                 const struct oracle_state *in)
{
    struct oracle_case t = {.code_size = c->code_size, .size = (uint8_t)size, .in = *in};
    memcpy(t.bytes, bytes, size);
    return t;
}

// Follows undefined flags across an instruction that completed. False: it reads one, or leaves its
// destination undefined.
static bool follow_undefined(const struct oracle_case *t, const struct oracle_result *r,
                             uint32_t before, uint32_t *after)
{
    struct x86_insn insn;
    uint32_t flags;
    *after = before;
    if (oracle_undefined(t, r, &flags))
        return false;
    if (x86_decode(&insn, t->bytes, t->size, t->code_size, NULL) != X86_DECODE_OK)
        return true;
    const struct x86_form *form = &x86_forms[insn.form];
    if (form->flags_read & before)
        return false;
    *after = (before & ~form->flags_written) | flags;
    return true;
}

static void start(struct oracle_case *c, struct growing *g, const struct oracle_result *r)
{
    struct oracle_case t = single(c, c->bytes, c->size, &c->in);
    struct rng rng = {.state = c->seed ^ c->number << 20};
    memset(g, 0, sizeof(*g));
    g->wanted = 2 + (unsigned)rng_below(&rng, c->sequence > 2 ? c->sequence - 1u : 1);
    g->now = c->in;
    if (r->vector == ORACLE_DONE && !c->image && follow_undefined(&t, r, 0, &c->undefined)) {
        g->made = 1;
        g->now = r->out;
        return;
    }
    // Nothing to build on: a NOP in its place.
    g->now.rip++;
    c->bytes[0] = 0x90;
    c->size = 1;
    c->undefined = 0;
    c->image = 0;
}

static uint32_t undefined_at(const struct oracle_case *c, unsigned parts)
{
    return parts ? c->part[parts - 1].undefined : c->undefined;
}

// What a MOV of an immediate to a register makes of the state (gen_sequence.c, setup_register()).
static void apply_setup(struct oracle_state *state, const struct oracle_part *p, uint8_t code_size)
{
    unsigned at = code_size == X86_CODE32 ? 0 : 1;
    uint64_t value = 0;
    if ((p->bytes[at] & 0xf8) != 0xb8)
        return;
    memcpy(&value, p->bytes + at + 1, code_size == X86_CODE64 ? 8 : 4);
    state->gpr[(p->bytes[at] & 7) | (code_size == X86_CODE64 ? (p->bytes[0] & 1) << 3 : 0)] = value;
}

// Whether what was added last stays.
static bool accept(struct oracle_case *c, struct growing *g, const struct oracle_result *r)
{
    struct oracle_part *last = &c->part[c->parts - 1];
    uint32_t flags = undefined_at(c, g->parts);
    struct rng rng = {.state = c->seed + c->number * 64 + g->tries};
    if (r->vector == ORACLE_DIED)
        return false;
    for (unsigned i = g->parts; i < c->parts; i++)
        c->part[i].undefined = flags; // setups touch none
    if (r->vector != ORACLE_DONE) {
        if (r->out.rip != last->rip && r->vector != X86_DB)
            return false; // not where it was meant to be
        g->ended = true;
        return rng_chance(&rng, 15);
    }
    struct oracle_case t = single(c, last->bytes, last->size, &g->now);
    for (unsigned i = g->parts; i + 1 < c->parts; i++)
        apply_setup(&t.in, &c->part[i], c->code_size);
    if (!follow_undefined(&t, r, flags, &last->undefined))
        return false;
    return true;
}

static void look_at_counter(const struct oracle_case *c, struct growing *g,
                            const struct oracle_result *r)
{
    uint32_t rounds;
    memcpy(&rounds, r->memory + oracle_memory_offset(ORACLE_LOOP_COUNTER), 4);
    g->loses_count |= rounds != c->loop;
}

static void grow_batch(struct oracle_case *cases, struct oracle_result *native, unsigned count)
{
    static struct growing growing[BATCH];
    static struct oracle_case active[BATCH];
    static struct oracle_result results[BATCH];
    static unsigned which[BATCH];
    oracle_native_run(cases, native, count);
    for (unsigned i = 0; i < count; i++) {
        start(&cases[i], &growing[i], &native[i]);
        look_at_counter(&cases[i], &growing[i], &native[i]);
    }
    for (;;) {
        unsigned n = 0;
        for (unsigned i = 0; i < count; i++) {
            struct growing *g = &growing[i];
            g->parts = cases[i].parts;
            bool grown = false;
            while (!g->ended && g->made < g->wanted && g->tries < TRIES_MAX && !grown)
                grown = oracle_gen_more(&cases[i], &g->now, g->tries++);
            if (!grown)
                continue;
            active[n] = cases[i];
            which[n++] = i;
        }
        if (!n)
            break;
        oracle_native_run(active, results, n);
        for (unsigned k = 0; k < n; k++) {
            struct growing *g = &growing[which[k]];
            struct oracle_case *c = &cases[which[k]];
            if (accept(c, g, &results[k])) {
                g->made++;
                look_at_counter(c, g, &results[k]);
                g->now = results[k].out;
                g->ended |= g->now.cs != c->in.cs;
            } else {
                c->parts = (uint8_t)g->parts;
                g->ended = false;
            }
        }
    }
    for (unsigned i = 0; i < count; i++)
        if (!growing[i].ended && !growing[i].loses_count)
            oracle_gen_loop(&cases[i], &growing[i].now);
    oracle_native_run(cases, native, count);
    for (unsigned i = 0; i < count; i++)
        if (cases[i].looped && native[i].vector == ORACLE_DIED) { // it lost its count
            cases[i] = oracle_sequence_cut(&cases[i], cases[i].parts - 1u);
            oracle_native_run(&cases[i], &native[i], 1);
        }
}

void oracle_sequences_grow(struct oracle_case *cases, struct oracle_result *native, unsigned count)
{
    for (unsigned done = 0; done < count;) {
        unsigned n = count - done < BATCH ? count - done : BATCH;
        grow_batch(cases + done, native + done, n);
        done += n;
    }
}

static bool is_repeated(const uint8_t *bytes, unsigned size, uint8_t code_size)
{
    struct x86_insn insn;
    return x86_decode(&insn, bytes, size, code_size, NULL) == X86_DECODE_OK &&
           (x86_forms[insn.form].attr & (X86_INSN_REP | X86_INSN_REPZ)) &&
           (insn.prefixes & (X86_PREFIX_REP | X86_PREFIX_REPNE));
}

unsigned oracle_sequence_stops(const struct oracle_case *c)
{
    if (c->looped || is_repeated(c->bytes, c->size, c->code_size))
        return 0;
    for (unsigned i = 0; i < c->parts; i++)
        if (is_repeated(c->part[i].bytes, c->part[i].size, c->code_size))
            return i + 1;
    return c->parts;
}

struct oracle_case oracle_sequence_stop(const struct oracle_case *c, unsigned n, bool cli)
{
    struct oracle_case stop = *c;
    stop.part[n - 1].bytes[0] = cli ? 0xfa : ORACLE_FILLER;
    stop.part[n - 1].rip = ~UINT64_C(0); // what happens there is not the sequence's
    return stop;
}

struct oracle_case oracle_sequence_cut(const struct oracle_case *c, unsigned n)
{
    struct oracle_case cut = *c;
    cut.parts = (uint8_t)(n - 1);
    cut.looped = false;
    return cut;
}
