// SPDX-License-Identifier: Apache-2.0
// Makes cases: walks the forms of the instruction table and, for each, chooses prefixes, operands
// and a starting state from a seeded generator. A case depends on (seed, number) and the table
// only.
//
// Rules to keep:
//  - The generator encodes by itself from the table's encoding columns and knows where it aimed a
//    memory operand; it does not ask the decoder, which is under test. (The decoder is asked one
//    thing: whether stray prefixes made an excluded instruction of it.)
//  - An operand aims into the window, at an unmapped or non-canonical address, never at what the
//    test program itself has mapped: address_is_safe().
#include "case.h"
#include "values.h"
#include "x86/cpuid.h"
#include "x86/decode.h"
#include "x86/insn.h"
#include "x86/system.h"
#include <stdio.h>
#include <string.h>

#define REG_NONE 16

struct gen {
    struct rng rng;
    const struct x86_form *form;
    struct oracle_case *c;
    bool code64;
    uint8_t bytes[32];
    unsigned n;
    // What was chosen.
    bool opsize66, adsize67, w, lock;
    uint8_t rep; // 0, 0xf2, 0xf3
    int seg;     // overriding segment or -1
    unsigned rex_r, rex_x, rex_b, vex_l;
    unsigned modrm_mod, modrm_reg, modrm_rm;
    bool has_mem;
    uint64_t target; // linear address of the memory operand
    uint32_t locked; // registers whose value is settled
    uint8_t memory[ORACLE_MEMORY_SIZE];
};

static uint16_t eligible[X86_FORM_COUNT];
static unsigned eligible_count;
static uint16_t asked[X86_FORM_COUNT]; // positions in `eligible`
static unsigned asked_count;
static struct oracle_options options;
static uint8_t fillings[FILL_COUNT][ORACLE_MEMORY_SIZE];

// --- what takes part -----------------------------------------------------------------------------

// Instructions whose result is the host's own business, each with the reason.
static const struct {
    const char *mnemonic, *why;
} excluded[] = {
    {"cpuid", "names the host"},
    {"rdtsc", "time"},
    {"rdtscp", "time"},
    {"rdpmc", "host counters"},
    {"rdrand", "random"},
    {"rdseed", "random"},
    {"rdpid", "names the host's processor"},
    {"syscall", "enters the host's kernel"},
    {"sysenter", "enters the host's kernel"},
    {"vmcall", "reaches the host's hypervisor"},
    {"vmmcall", "reaches the host's hypervisor"},
    {"monitor", "offered by few hypervisors"},
    {"mwait", "offered by few hypervisors"},
    {"sgdt", "host tables; the kernel emulates it under UMIP"},
    {"sidt", "host tables; the kernel emulates it under UMIP"},
    {"sldt", "the kernel emulates it under UMIP"},
    {"str", "the kernel emulates it under UMIP"},
    {"smsw", "the kernel emulates it under UMIP"},
    {"int1", "hypervisors that watch #DB report it with the wrong address"},
    {"xgetbv", "the host enables more state than Croft has"},
    // The image's extent follows XCR0, which differs; tests/x86 holds these.
    {"xsave", "follows the host's XCR0"},
    {"xsave64", "follows the host's XCR0"},
    {"xsaveopt", "follows the host's XCR0"},
    {"xsaveopt64", "follows the host's XCR0"},
    {"xsavec", "follows the host's XCR0"},
    {"xsavec64", "follows the host's XCR0"},
    {"xrstor", "follows the host's XCR0"},
    {"xrstor64", "follows the host's XCR0"},
};

const char *oracle_excluded(const char *mnemonic)
{
    for (unsigned i = 0; i < ARRAY_SIZE(excluded); i++)
        if (!strcmp(excluded[i].mnemonic, mnemonic))
            return excluded[i].why;
    return NULL;
}

// VEX.W = 1 outside 64-bit mode: #UD on AMD processors, the form of W = 0 on Intel's.
static bool form_is_ambiguous(const struct x86_form *form)
{
    return options.code_size != X86_CODE64 && (form->attr & X86_INSN_VEX) && form->w == 1 &&
           form->w_is_size;
}

static bool form_takes_part(const struct x86_form *form)
{
    if (oracle_excluded(form->mnemonic) || form_is_ambiguous(form))
        return false;
    if (options.code_size == X86_CODE64 && (form->attr & X86_INSN_NO64) && form->map == X86_MAP_1 &&
        (form->opcode == 0x62 || form->opcode == 0xc4 || form->opcode == 0xc5))
        return false; // there they are the EVEX and VEX prefixes
    return true;
}

static bool form_is_asked_for(const struct x86_form *form)
{
    if (!options.form)
        return true;
    return options.exact ? !strcmp(form->name, options.form)
                         : !strncmp(form->name, options.form, strlen(options.form));
}

unsigned oracle_gen_init(const struct oracle_options *o)
{
    options = *o;
    eligible_count = 0;
    for (unsigned i = 0; i < X86_FORM_COUNT; i++)
        if (x86_forms[i].name && form_takes_part(&x86_forms[i]))
            eligible[eligible_count++] = (uint16_t)i;
    asked_count = 0;
    for (unsigned i = 0; i < eligible_count; i++)
        if (form_is_asked_for(&x86_forms[eligible[i]]))
            asked[asked_count++] = (uint16_t)i;
    struct rng rng = {.state = 0x0c0ffee};
    for (unsigned i = 0; i < FILL_COUNT; i++)
        value_fill(&rng, i, fillings[i], ORACLE_MEMORY_SIZE);
    return asked_count;
}

uint64_t oracle_gen_number(uint64_t i)
{
    return i / asked_count * eligible_count + asked[i % asked_count];
}

void oracle_memory(const struct oracle_case *c, uint8_t memory[ORACLE_MEMORY_SIZE])
{
    memcpy(memory, fillings[c->filling], ORACLE_MEMORY_SIZE);
    for (unsigned i = 0; i < c->patches; i++)
        memcpy(memory + c->patch[i].offset, c->patch[i].data, c->patch[i].size);
}

// --- small helpers -------------------------------------------------------------------------------

static uint64_t below(struct gen *g, uint64_t n)
{
    return rng_below(&g->rng, n);
}

static bool chance(struct gen *g, unsigned percent)
{
    return rng_chance(&g->rng, percent);
}

static bool is(const struct gen *g, const char *mnemonic)
{
    return !strcmp(g->form->mnemonic, mnemonic);
}

static bool starts(const struct gen *g, const char *prefix)
{
    return !strncmp(g->form->mnemonic, prefix, strlen(prefix));
}

static void emit(struct gen *g, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size && g->n < sizeof(g->bytes); i++, value >>= 8)
        g->bytes[g->n++] = (uint8_t)value;
}

// Puts bytes at a linear address of the window, as far as it is mapped.
static void patch(struct gen *g, uint64_t linear, const void *data, unsigned size)
{
    struct oracle_case *c = g->c;
    const uint8_t *from = data;
    while (size) {
        int offset = oracle_memory_offset(linear);
        unsigned room = (unsigned)(PAGE_SIZE - (linear & PAGE_OFFSET_MASK));
        unsigned part = size < room ? size : room;
        if (offset >= 0 && c->patches < ARRAY_SIZE(c->patch) && part <= sizeof(c->patch[0].data)) {
            struct oracle_patch *p = &c->patch[c->patches++];
            p->offset = (uint16_t)offset;
            p->size = (uint16_t)part;
            memcpy(p->data, from, part);
        }
        linear += part;
        from += part;
        size -= part;
    }
}

// A little-endian value of the window's content at a linear address; 0 where it is not mapped.
static uint64_t peek(struct gen *g, uint64_t linear)
{
    uint64_t value = 0;
    oracle_memory(g->c, g->memory);
    for (unsigned i = 0; i < 8; i++) {
        int offset = oracle_memory_offset(linear + i);
        if (offset >= 0)
            value |= (uint64_t)g->memory[offset] << (8 * i);
    }
    return value;
}

static uint64_t pick_selector(struct gen *g)
{
    static const uint16_t known[] = {0,    3,    0x2b, 0x2b, 0x2b, 0x33, 0x23, 0x28,
                                     0x30, 0x10, 0x13, 0x18, 0x08, 0x40, 0x63};
    if (chance(g, 75))
        return known[below(g, ARRAY_SIZE(known))];
    uint16_t sel = (uint16_t)rng_next(&g->rng);
    return (sel >> 3) == 15 ? 4 : sel; // index 15 tells the processor's number
}

// Where a branch may go: HLTs of the code page away from the instruction, or a place that faults.
static uint64_t pick_code(struct gen *g)
{
    unsigned start = g->c->code_offset;
    if (chance(g, 88)) {
        for (;;) {
            unsigned off = (unsigned)below(g, PAGE_SIZE);
            if (off + 1 < start || off > start + 32)
                return ORACLE_CODE_BASE + off;
        }
    }
    switch (below(g, g->code64 ? 4 : 2)) {
    case 0:
        return ORACLE_CODE_BASE + PAGE_SIZE + below(g, PAGE_SIZE); // unmapped
    case 1:
        return ORACLE_WINDOW_BASE + below(g, PAGE_SIZE); // no code
    case 2:
        return UINT64_C(0x8000000000000000) | rng_next(&g->rng) >> 2; // non-canonical
    default:
        return UINT64_C(0x0000800000000000);
    }
}

// Where a memory operand of `size` bytes may lie.
static uint64_t pick_data(struct gen *g, unsigned size)
{
    const uint64_t base = ORACLE_WINDOW_BASE;
    unsigned align = size ? size : 1;
    while (align & (align - 1))
        align &= align - 1;
    uint64_t cross = size > 1 ? 1 + below(g, size - 1) : 0;
    unsigned roll = (unsigned)below(g, 100);
    if (roll < 58)
        return (base + 0x200 + below(g, 0x1a00)) & ~(uint64_t)(align - 1);
    if (roll < 78)
        return base + 0x200 + below(g, 0x1a00);
    if (roll < 83) // across two mapped pages
        return base + PAGE_SIZE - cross;
    if (roll < 87) // into the hole
        return base + 2 * PAGE_SIZE - cross;
    if (roll < 89)
        return base + 2 * PAGE_SIZE + below(g, PAGE_SIZE - 64);
    if (roll < 90) // out of the hole
        return base + 3 * PAGE_SIZE - cross;
    if (roll < 93)
        return ORACLE_RO_BASE + (below(g, PAGE_SIZE - 64) & ~(uint64_t)(align - 1));
    if (roll < 94)
        return base + 4 * PAGE_SIZE - cross;
    if (roll < 95)
        return base - cross;
    if (!g->code64)
        return roll < 97 ? 0xfffff000 + below(g, 0x1000) : below(g, 0x1000);
    if (roll < 97)
        return UINT64_C(0x0001000000000000) << below(g, 14) | below(g, 0x1000); // non-canonical
    if (roll < 98)
        return UINT64_C(0x0000800000000000) - cross; // last bytes below the canonical hole
    if (roll < 99)
        return UINT64_C(0xffff800000000000) - cross;     // first above it
    return chance(g, 50) ? below(g, 0x1000) : 0 - cross; // null page, top of the space
}

static bool address_is_safe(uint64_t linear)
{
    return !(linear >= 0x7fff0000 && linear < UINT64_C(0x7fffffffe000)) &&
           !(linear >= UINT64_C(0xffffffffff600000) && linear < UINT64_C(0xffffffffff601000));
}

static void set_reg(struct gen *g, unsigned reg, uint64_t value)
{
    g->c->in.gpr[reg] = g->code64 ? value : (uint32_t)value;
    g->locked |= 1u << reg;
}

static uint64_t seg_base(const struct gen *g, int seg)
{
    return seg == X86_FS ? g->c->in.fs_base : seg == X86_GS ? g->c->in.gs_base : 0;
}

// Aims [reg] at `linear` through the overriding segment (if `overridable`) or none, at the current
// address size.
static void aim_reg(struct gen *g, unsigned reg, uint64_t linear, bool overridable)
{
    uint64_t offset = linear - (overridable ? seg_base(g, g->seg) : 0);
    if (g->code64 && g->adsize67) {
        if (offset >> 32)
            offset =
                (uint32_t)offset; // lands elsewhere below 4 GiB, which is unmapped or the window
        if (chance(g, 50))
            offset |= rng_next(&g->rng) << 32;
    }
    set_reg(g, reg, offset);
}

// --- starting state ------------------------------------------------------------------------------

static enum filling pick_filling(struct gen *g)
{
    const struct x86_form *f = g->form;
    if (f->attr & X86_INSN_X87) {
        static const uint8_t kinds[] = {FILL_F32, FILL_F64, FILL_F80,
                                        FILL_INT, FILL_BCD, FILL_RANDOM};
        unsigned size = 0;
        for (unsigned i = 0; i < f->operand_count; i++)
            if (f->operand[i].kind == X86_OPND_RM_MEM || f->operand[i].kind == X86_OPND_RM)
                size = f->operand[i].size;
        if (chance(g, 60)) {
            if (size == 4)
                return chance(g, 60) ? FILL_F32 : FILL_INT8;
            if (size == 8)
                return chance(g, 60) ? FILL_F64 : FILL_INT;
            if (size == 10)
                return strstr(f->mnemonic, "fb") ? FILL_BCD : FILL_F80;
        }
        return kinds[below(g, ARRAY_SIZE(kinds))];
    }
    if (f->attr & X86_INSN_FPEXC) {
        if (strstr(f->mnemonic, "cvtph") && chance(g, 80))
            return FILL_F16;
        size_t n = strlen(f->mnemonic);
        if (chance(g, 85))
            return f->mnemonic[n - 1] == 'd' && !strstr(f->mnemonic, "cvtps") &&
                           !strstr(f->mnemonic, "cvtss")
                       ? FILL_F64
                       : FILL_F32;
        return chance(g, 50) ? FILL_F64 : FILL_F32;
    }
    static const uint8_t plain[] = {FILL_RANDOM, FILL_INT,  FILL_INT8,
                                    FILL_INT,    FILL_INT8, FILL_F32};
    return plain[below(g, ARRAY_SIZE(plain))];
}

static void make_fpu(struct gen *g)
{
    struct oracle_fpu *f = &g->c->in.fpu;
    struct rng *rng = &g->rng;
    f->fcw = 0x37f;
    if (chance(g, 40))
        f->fcw = (uint16_t)(0x7f | (rng_next(rng) & 0xf00));
    if (chance(g, 6))
        f->fcw &= (uint16_t) ~(rng_next(rng) & 0x3f);
    f->fsw = (uint16_t)(rng_next(rng) & 0x7800);
    if (chance(g, 50))
        f->fsw |= (uint16_t)(rng_next(rng) & 0x4700);
    if (chance(g, 20)) {
        uint16_t pending = (uint16_t)(rng_next(rng) & 0x7f);
        if (chance(g, 90))
            pending &= f->fcw | 0x40; // masked ones only: nothing to report
        f->fsw |= pending;
    }
    if (f->fsw & ~f->fcw & 0x3f)
        f->fsw |= 0x8080; // ES and B
    unsigned top = (f->fsw >> 11) & 7;
    switch (below(g, 4)) {
    case 0:
        f->ftw = (uint8_t)rng_next(rng);
        break;
    case 1:
        f->ftw = (uint8_t)(1u << top | 1u << ((top + 1) & 7) | 1u << ((top + 2) & 7));
        break;
    case 2:
        f->ftw = (uint8_t) ~(1u << ((top + 7) & 7)); // room for one push
        break;
    default:
        f->ftw = 0xff;
        break;
    }
    if (chance(g, 2))
        f->ftw = 0;
    f->fop = (uint16_t)(rng_next(rng) & 0x7ff);
    f->fip = rng_next(rng) >> 20;
    f->fdp = rng_next(rng) >> 20;
    memset(f->st, 0, sizeof(f->st));
    for (unsigned i = 0; i < 8; i++) {
        value_f80(rng, f->st[i]);
        if (chance(g, 10))
            f->st[i][8] = f->st[i][9] = 0xff; // as MMX leaves them
    }
    f->mxcsr = 0x1f80;
    if (chance(g, 50))
        f->mxcsr |= (uint32_t)(rng_next(rng) & 0xe07f);
    if (chance(g, 7))
        f->mxcsr &= ~(uint32_t)(rng_next(rng) & 0x1f80);
    for (unsigned i = 0; i < 16; i++) {
        enum filling kind = chance(g, 85) ? g->c->filling : below(g, FILL_COUNT);
        value_fill(rng, kind, f->ymm[i], 32);
        if (chance(g, 4))
            memset(f->ymm[i], (int)(0 - below(g, 2)), 32);
        if (i && chance(g, 5))
            memcpy(f->ymm[i], f->ymm[i - 1], 32);
    }
}

static void make_state(struct gen *g)
{
    struct oracle_case *c = g->c;
    struct oracle_state *in = &c->in;
    for (unsigned i = 0; i < 16; i++) {
        in->gpr[i] = value_int(&g->rng);
        if (i && chance(g, 6))
            in->gpr[i] = in->gpr[i - 1];
        if (!g->code64)
            in->gpr[i] = i < 8 ? (uint32_t)in->gpr[i] : 0;
    }
    in->rflags = (rng_next(&g->rng) & X86_FLAGS_ARITH) | X86_FLAG_R1 | X86_FLAG_IF;
    if (chance(g, 30))
        in->rflags |= X86_FLAG_DF;
    if (chance(g, 2))
        in->rflags |= X86_FLAG_AC;
    in->cs = g->code64 ? ORACLE_CS64 : ORACLE_CS32;
    in->ss = ORACLE_DATA;
    in->ds = in->es = g->code64 ? 0 : ORACLE_DATA;
    in->fs_base = in->gs_base = 0;
    if (g->code64) {
        uint64_t *bases[2] = {&in->fs_base, &in->gs_base};
        for (unsigned i = 0; i < 2; i++) {
            if (chance(g, 70))
                *bases[i] =
                    below(g, 0x10000000) & (chance(g, 50) ? ~UINT64_C(0xfff) : ~UINT64_C(0));
            else if (chance(g, 30))
                *bases[i] = (uint64_t)((int64_t)rng_next(&g->rng) >> 17);
        }
    }
    c->code_offset =
        (uint16_t)(chance(g, 1) ? PAGE_SIZE - 1 - below(g, 12) : 0x80 + below(g, 0xe80));
    in->rip = ORACLE_CODE_BASE + c->code_offset;
    // A stack that works unless somebody aims it elsewhere.
    in->gpr[X86_RSP] = ORACLE_WINDOW_BASE + 0x400 + 8 * below(g, 0x180);
}

// --- encoding ------------------------------------------------------------------------------------

static bool has_kind(const struct gen *g, unsigned kind)
{
    for (unsigned i = 0; i < g->form->operand_count; i++)
        if (g->form->operand[i].kind == kind)
            return true;
    return false;
}

static bool is_string(const struct gen *g)
{
    return has_kind(g, X86_OPND_STR_SRC) || has_kind(g, X86_OPND_STR_DST);
}

static unsigned operand_size(const struct gen *g)
{
    const struct x86_form *f = g->form;
    if (g->code64 && g->w)
        return 8;
    if (g->code64 && (f->attr & X86_INSN_F64))
        return 8;
    if (g->opsize66)
        return 2;
    return g->code64 && (f->attr & X86_INSN_D64) ? 8 : 4;
}

// Bytes that the memory operand takes; a guess is good enough.
static unsigned memory_size(const struct gen *g)
{
    for (unsigned i = 0; i < g->form->operand_count; i++) {
        const struct x86_operand_desc *d = &g->form->operand[i];
        switch (d->kind) {
        case X86_OPND_RM:
        case X86_OPND_RM_MEM:
        case X86_OPND_VEC_RM:
        case X86_OPND_MMX_RM:
        case X86_OPND_MOFFS:
        case X86_OPND_VSIB:
        case X86_OPND_STR_SRC:
        case X86_OPND_STR_DST:
            if (d->size)
                return d->size;
            switch (d->vary) {
            case 'v':
                return operand_size(g);
            case 'z':
                return operand_size(g) == 2 ? 2 : 4;
            case 'y':
                return g->w ? 8 : 4;
            case 'x':
                return g->vex_l ? 32 : 16;
            case 'h':
                return g->vex_l ? 16 : 8;
            default:
                return 8;
            }
        default:
            break;
        }
    }
    return 8;
}

static void choose_prefixes(struct gen *g)
{
    const struct x86_form *f = g->form;
    bool vex = f->attr & X86_INSN_VEX;
    g->seg = -1;
    if (chance(g, 12))
        g->seg = chance(g, 50) ? X86_FS : X86_GS;
    else if (chance(g, 4))
        g->seg = (int)below(g, 4);
    if (!g->code64)
        g->seg = chance(g, 10) ? (int)(uint8_t[]){X86_ES, X86_SS, X86_DS, X86_CS}[below(g, 4)] : -1;
    g->adsize67 = g->code64 ? chance(g, 12) : false; // 16-bit addresses reach nothing yet
    if (seg_base(g, g->seg) >= ORACLE_WINDOW_BASE)
        g->adsize67 = false; // 32 bits of offset would not lead back to the window
    g->w = f->w >= 0 ? f->w : chance(g, 35);
    if (!g->code64 && !vex)
        g->w = false;
    g->rex_r = (unsigned)below(g, 2);
    g->rex_x = (unsigned)below(g, 2);
    g->rex_b = (unsigned)below(g, 2);
    if (f->rex_b == 0)
        g->rex_b = 0;
    if (!g->code64 || chance(g, 25))
        g->rex_r = g->rex_x = g->rex_b = 0;
    g->vex_l = f->l >= 0 ? (unsigned)f->l : (unsigned)below(g, 2);
    if (vex) {
        if (chance(g, 1))
            g->opsize66 = true; // #UD
        if (chance(g, 1))
            g->lock = true;
        if (chance(g, 1))
            g->rep = chance(g, 50) ? 0xf2 : 0xf3;
        return;
    }
    switch (f->prefix) {
    case 0x66:
        g->opsize66 = true;
        if (chance(g, 2))
            g->rep = chance(g, 50) ? 0xf2 : 0xf3;
        break;
    case 0xf2:
    case 0xf3:
        g->rep = f->prefix;
        g->opsize66 = chance(g, 8);
        break;
    case 1:
        g->opsize66 = chance(g, 2);
        if (chance(g, 2))
            g->rep = chance(g, 50) ? 0xf2 : 0xf3;
        break;
    default:
        g->opsize66 =
            chance(g, f->opsize_rule == X86_OPSIZE_V || f->opsize_rule == X86_OPSIZE_Z ? 25 : 6);
        if (f->prefix == 0 && chance(g, f->attr & X86_INSN_REP    ? 60
                                        : f->attr & X86_INSN_REPZ ? 70
                                                                  : 4))
            g->rep = chance(g, f->attr & X86_INSN_REP ? 15 : 50) ? 0xf2 : 0xf3;
        break;
    }
    if (starts(g, "loop"))
        g->rep = 0; // AMD's let it override the condition
    g->lock = chance(g, f->attr & X86_INSN_LOCKABLE ? 20 : 2);
    if (is(g, "verw"))
        g->lock = false; // Zen 4 executes it, microcode being microcode
}

static void emit_prefixes(struct gen *g)
{
    const struct x86_form *f = g->form;
    static const uint8_t seg_prefix[6] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    uint8_t list[5];
    unsigned count = 0;
    if (g->seg >= 0)
        list[count++] = seg_prefix[g->seg];
    if (g->opsize66)
        list[count++] = 0x66;
    if (g->adsize67)
        list[count++] = 0x67;
    if (g->lock)
        list[count++] = 0xf0;
    if (g->rep)
        list[count++] = g->rep;
    for (unsigned i = count; i > 1; i--) {
        unsigned j = (unsigned)below(g, i);
        uint8_t t = list[i - 1];
        list[i - 1] = list[j];
        list[j] = t;
    }
    for (unsigned i = 0; i < count; i++)
        emit(g, list[i], 1);
    if (f->attr & X86_INSN_VEX) {
        unsigned pp = f->prefix == 0x66 ? 1 : f->prefix == 0xf3 ? 2 : f->prefix == 0xf2 ? 3 : 0;
        unsigned vvvv = 0;
        if (has_kind(g, X86_OPND_VEC_VVVV) || has_kind(g, X86_OPND_VVVV_GPR))
            vvvv = (unsigned)below(g, g->code64 ? 16 : 8);
        else if (chance(g, 2))
            vvvv = (unsigned)below(g, g->code64 ? 16 : 8); // #UD unless 0
        unsigned r = !g->rex_r, x = !g->rex_x, b = !g->rex_b;
        if (f->map == X86_MAP_0F && x && b && (f->w < 0 || f->w == 0) && chance(g, 60)) {
            g->w = false;
            emit(g, 0xc5, 1);
            emit(g, r << 7 | (~vvvv & 15) << 3 | g->vex_l << 2 | pp, 1);
        } else {
            emit(g, 0xc4, 1);
            emit(g, r << 7 | x << 6 | b << 5 | f->map, 1);
            emit(g, (unsigned)g->w << 7 | (~vvvv & 15) << 3 | g->vex_l << 2 | pp, 1);
        }
    } else {
        if (g->code64 && (g->w || g->rex_r || g->rex_x || g->rex_b || chance(g, 10)))
            emit(g, 0x40u | (unsigned)g->w << 3 | g->rex_r << 2 | g->rex_x << 1 | g->rex_b, 1);
        if (f->map != X86_MAP_1)
            emit(g, 0x0f, 1);
        if (f->map == X86_MAP_0F38)
            emit(g, 0x38, 1);
        if (f->map == X86_MAP_0F3A)
            emit(g, 0x3a, 1);
    }
}

static unsigned imm_size(const struct gen *g)
{
    switch (g->form->imm) {
    case 'v':
        return operand_size(g);
    case 'z':
        return operand_size(g) == 2 ? 2 : 4;
    case 'p':
        return (operand_size(g) == 2 ? 2 : 4) + 2;
    case 'o':
        return g->code64 ? (g->adsize67 ? 4 : 8) : 4;
    default:
        return g->form->imm;
    }
}

// Gather: elements of the index register that keep near the base.
static void make_vsib(struct gen *g, unsigned vector, unsigned scale)
{
    bool dwords = strstr(g->form->mnemonic, "gatherd") != NULL;
    uint8_t *p = g->c->in.fpu.ymm[vector];
    for (unsigned i = 0; i < 32; i += dwords ? 4 : 8) {
        int64_t value = (int64_t)(below(g, 0x400) >> scale);
        if (chance(g, 25))
            value = -value;
        if (chance(g, 2))
            value = (int64_t)(rng_next(&g->rng) & 0x7ffffff);
        memcpy(p + i, &value, dwords ? 4 : 8);
    }
}

// Chooses ModRM, SIB and displacement for a memory operand at g->target and settles the registers.
static void emit_memory(struct gen *g)
{
    struct oracle_state *in = &g->c->in;
    bool vsib = has_kind(g, X86_OPND_VSIB);
    unsigned modrm_at = g->n;
    struct rng saved = g->rng;
    uint32_t locked = g->locked;
    uint64_t gprs[16];
    memcpy(gprs, in->gpr, sizeof(gprs));
    for (unsigned attempt = 0; attempt < 12; attempt++) {
        g->rng = saved;
        for (unsigned i = 0; i <= attempt; i++)
            rng_next(&g->rng);
        g->n = modrm_at;
        g->locked = locked;
        memcpy(in->gpr, gprs, sizeof(gprs));

        unsigned mod = (unsigned)below(g, 3), rm = vsib ? 4 : (unsigned)below(g, 8);
        unsigned base = rm | g->rex_b << 3, index = REG_NONE, scale = 0, sib = 0;
        bool rip_relative = false;
        if (rm == 4) {
            sib = (unsigned)rng_next(&g->rng) & 0xff;
            base = (sib & 7) | g->rex_b << 3;
            index = ((sib >> 3) & 7) | g->rex_x << 3;
            scale = sib >> 6;
            if (vsib)
                make_vsib(g, index, scale);
            if (vsib || index == X86_RSP)
                index = REG_NONE;
            if ((sib & 7) == 5 && mod == 0)
                base = REG_NONE;
        } else if (rm == 5 && mod == 0) {
            base = REG_NONE;
            rip_relative = g->code64;
        }
        unsigned disp_size = mod == 1 ? 1 : mod == 2 || base == REG_NONE ? 4 : 0;
        int segment = g->seg;
        uint64_t goal = g->target - seg_base(g, segment);
        uint64_t disp = disp_size == 1   ? (uint64_t)(int64_t)(int8_t)rng_next(&g->rng)
                        : disp_size == 4 ? (uint64_t)(int64_t)(int32_t)value_int(&g->rng)
                                         : 0;
        bool base_free = base != REG_NONE && !(g->locked >> base & 1);
        bool index_free = index != REG_NONE && !(g->locked >> index & 1);
        uint64_t base_value = base != REG_NONE ? in->gpr[base] : 0;
        uint64_t index_value = index != REG_NONE ? in->gpr[index] : 0;
        unsigned after = (rm == 4 ? 2 : 1) + disp_size + imm_size(g) + g->form->imm2;
        if (base_free && base != index) {
            if (index_free && chance(g, 50))
                index_value = below(g, 0x10000);
            base_value = goal - disp - (index_value << scale);
        } else if (index_free && base == index) {
            index_value = base_value = below(g, 0x8000000) >> scale;
            if (disp_size == 4)
                disp = goal - base_value - (index_value << scale);
            else
                index_value = base_value = (goal - disp) / (1 + (UINT64_C(1) << scale));
        } else if (index_free) {
            index_value = (goal - disp - base_value) >> scale;
            if (disp_size == 4)
                disp = goal - base_value - (index_value << scale);
        } else if (disp_size == 4) {
            disp = goal - base_value - (index_value << scale) -
                   (rip_relative ? in->rip + g->n + after : 0);
        }
        if (disp_size == 4)
            disp = (uint64_t)(int64_t)(int32_t)disp;
        // Where that leads.
        uint64_t offset = (base != REG_NONE ? base_value : 0) +
                          (index != REG_NONE ? index_value << scale : 0) + disp +
                          (rip_relative ? in->rip + g->n + after : 0);
        if (g->adsize67 || !g->code64)
            offset = (uint32_t)offset;
        uint64_t linear = offset + seg_base(g, segment);
        if (attempt < 11 && (!address_is_safe(linear) || !address_is_safe(linear + 64) ||
                             (linear != g->target && attempt < 6 && g->target < ORACLE_WINDOW_END)))
            continue;
        // AMD processors refuse such an offset even where the segment's base brings it back.
        if (attempt < 11 && x86_canonical(linear) && !x86_canonical(offset)) {
            g->target = ORACLE_WINDOW_BASE + 0x800;
            continue;
        }
        g->target = linear;
        uint64_t rubbish = g->adsize67 && g->code64 && chance(g, 50) ? rng_next(&g->rng) << 32 : 0;
        if (base != REG_NONE && base_free)
            set_reg(g, base, base_value + (base != index ? rubbish : 0));
        if (index != REG_NONE && index_free)
            set_reg(g, index, index_value);
        emit(g, mod << 6 | g->modrm_reg << 3 | rm, 1);
        if (rm == 4)
            emit(g, sib, 1);
        emit(g, disp, disp_size);
        return;
    }
}

static void emit_relative(struct gen *g, unsigned size)
{
    uint64_t next = g->c->in.rip + g->n + size;
    if (size == 1) {
        int64_t d = chance(g, 50) ? 20 + (int64_t)below(g, 108) : -128 + (int64_t)below(g, 96);
        emit(g, (uint64_t)d, 1);
    } else if (g->opsize66) {
        // Two bytes or four, the vendors differ; HLTs where four are two too many.
        emit(g, 0xf4f40000 | (uint16_t)(40 + below(g, 500)), 4);
    } else {
        uint64_t d = pick_code(g) - next;
        if ((uint64_t)(int64_t)(int32_t)d != d)
            d = 0x7fffff00;
        emit(g, d, size);
    }
}

static void emit_immediate(struct gen *g)
{
    unsigned size = imm_size(g);
    const struct x86_form *f = g->form;
    if (has_kind(g, X86_OPND_REL)) {
        emit_relative(g, size);
        return;
    }
    if (has_kind(g, X86_OPND_MOFFS)) {
        emit(g, g->target - seg_base(g, g->seg), size);
        return;
    }
    if (f->imm == 'p') {
        emit(g, pick_code(g), size - 2);
        emit(g, pick_selector(g), 2);
        return;
    }
    uint64_t value = value_int(&g->rng);
    if (is(g, "int"))
        value = (uint8_t)value == 0x80 ? 0x81 : value;
    if (is(g, "enter"))
        value = chance(g, 80) ? below(g, 0x300) : value;
    if ((is(g, "ret") || is(g, "retf")) && chance(g, 70))
        value = below(g, 0x200);
    emit(g, value, size);
    if (f->imm2)
        emit(g, is(g, "enter") && chance(g, 85) ? below(g, 8) : value_int(&g->rng), f->imm2);
}

// --- what particular instructions need -----------------------------------------------------------

static void prepare_strings(struct gen *g)
{
    unsigned size = memory_size(g);
    if (has_kind(g, X86_OPND_STR_SRC))
        aim_reg(g, X86_RSI, pick_data(g, size), true);
    if (has_kind(g, X86_OPND_STR_DST))
        aim_reg(g, X86_RDI, pick_data(g, size), false);
    if (has_kind(g, X86_OPND_STR_SRC) && has_kind(g, X86_OPND_STR_DST) && chance(g, 25)) {
        // Overlapping, near each other.
        uint64_t source = ORACLE_WINDOW_BASE + 0x800 + below(g, 0x800);
        aim_reg(g, X86_RSI, source, true);
        aim_reg(g, X86_RDI, source + below(g, 41) - 20, false);
    }
    if (g->rep) {
        uint64_t count = below(g, 41);
        if (g->adsize67 && g->code64 && chance(g, 50))
            count |= rng_next(&g->rng) << 32;
        set_reg(g, X86_RCX, count);
    }
}

static void prepare_stack(struct gen *g)
{
    uint64_t frame[5] = {0};
    if (chance(g, 25) || is(g, "ret") || is(g, "retf") || is(g, "iret") || is(g, "popf"))
        set_reg(g, X86_RSP, pick_data(g, 8));
    else
        g->locked |= 1u << X86_RSP;
    uint64_t sp = g->c->in.gpr[X86_RSP];
    unsigned size = operand_size(g);
    if (is(g, "leave") || is(g, "enter")) {
        set_reg(g, X86_RBP, pick_data(g, 8));
        if (!g->code64 || chance(g, 80))
            return;
    }
    if (is(g, "ret")) {
        frame[0] = pick_code(g);
        if (chance(g, 95))
            patch(g, sp, frame, 8);
    } else if (is(g, "retf") || is(g, "iret")) {
        uint8_t bytes[40];
        frame[0] = pick_code(g);
        frame[1] = chance(g, 60) ? g->c->in.cs : pick_selector(g);
        if (is(g, "iret")) {
            frame[2] = rng_next(&g->rng) & 0x254fff;
            frame[3] = pick_data(g, 8);
            frame[4] = chance(g, 80) ? ORACLE_DATA : pick_selector(g);
        }
        for (unsigned i = 0; i < 5; i++)
            memcpy(bytes + i * size, &frame[i], size);
        if (chance(g, 95))
            patch(g, sp, bytes, 5 * size);
    } else if (is(g, "popf")) {
        frame[0] = rng_next(&g->rng) & (chance(g, 50) ? 0xffffffff : 0x254dd5);
        patch(g, sp, frame, 8);
    } else if (is(g, "pop") && has_kind(g, X86_OPND_FIXED_SREG)) {
        frame[0] = pick_selector(g);
        patch(g, sp, frame, 8);
    }
}

static void prepare_registers(struct gen *g)
{
    struct oracle_state *in = &g->c->in;
    unsigned reg = g->modrm_reg | g->rex_r << 3;
    if (is_string(g))
        prepare_strings(g);
    if (g->form->attr & X86_INSN_STACK)
        prepare_stack(g);
    if (starts(g, "maskmov"))
        aim_reg(g, X86_RDI, pick_data(g, is(g, "maskmovq") ? 8 : 16), true);
    if (starts(g, "vmaskmovdqu"))
        aim_reg(g, X86_RDI, pick_data(g, 16), true);
    if (is(g, "xlatb"))
        aim_reg(g, X86_RBX, pick_data(g, 1) - (uint8_t)in->gpr[X86_RAX], true);
    if (starts(g, "loop") || starts(g, "jcxz") || starts(g, "jecxz") || starts(g, "jrcxz"))
        in->gpr[X86_RCX] = chance(g, 70) ? below(g, 3) : in->gpr[X86_RCX];
    if ((is(g, "bt") || is(g, "bts") || is(g, "btr") || is(g, "btc")) &&
        has_kind(g, X86_OPND_REG) && g->has_mem)
        set_reg(g, reg, (below(g, 0x10000) - 0x8000) & (chance(g, 50) ? ~UINT64_C(0) : 0xffff));
    if (has_kind(g, X86_OPND_FIXED_GPR) && chance(g, 50) && !(g->locked >> X86_RCX & 1))
        in->gpr[X86_RCX] = (in->gpr[X86_RCX] & ~UINT64_C(0xff)) | below(g, 72);
    if ((is(g, "div") || is(g, "idiv")) && chance(g, 75)) {
        unsigned bits = g->form->operand[0].size == 1 ? 8 : operand_size(g) * 8;
        int64_t low = (int64_t)(in->gpr[X86_RAX] << (64 - bits)) >> 63;
        if (bits == 8)
            in->gpr[X86_RAX] = (in->gpr[X86_RAX] & ~UINT64_C(0xff00)) |
                               (is(g, "div") ? below(g, 16) << 8 : (uint64_t)(low & 0xff00));
        else
            in->gpr[X86_RDX] = is(g, "div") ? below(g, 16) : (uint64_t)low;
    }
    if (has_kind(g, X86_OPND_VSIB)) // masks: whole elements set or clear, mostly
        for (unsigned i = 0; i < 16; i++)
            for (unsigned e = 0; e < 4; e++) {
                uint64_t mask = chance(g, 60)   ? ~UINT64_C(0)
                                : chance(g, 60) ? 0
                                                : rng_next(&g->rng);
                memcpy(in->fpu.ymm[i] + 8 * e, &mask, 8);
            }
}

// Values for the operand in memory or in the register that ModRM.rm names, once that is known.
static void prepare_operand(struct gen *g)
{
    struct oracle_state *in = &g->c->in;
    unsigned rm = g->modrm_rm | g->rex_b << 3;
    uint64_t value = 0;
    unsigned size = 0;
    if (starts(g, "jmp") || starts(g, "call")) {
        struct {
            uint64_t offset;
            uint16_t sel;
        } __attribute__((packed)) far_ptr;
        bool is_far = g->has_mem && g->form->operand[0].vary == 'p';
        if (has_kind(g, X86_OPND_RM) && !is_far) {
            value = pick_code(g);
            size = 8;
        } else if (is_far) {
            unsigned off_size = operand_size(g);
            far_ptr.offset = pick_code(g);
            far_ptr.sel = chance(g, 60) ? in->cs : (uint16_t)pick_selector(g);
            uint8_t bytes[10];
            memcpy(bytes, &far_ptr.offset, 8);
            if (off_size == 8 && g->form->attr & X86_INSN_AMD_W0)
                off_size = chance(g, 80) ? 4 : 8;
            memcpy(bytes + off_size, &far_ptr.sel, 2);
            patch(g, g->target, bytes, off_size + 2);
            return;
        }
    } else if (is(g, "mov") && has_kind(g, X86_OPND_SREG)) {
        value = pick_selector(g);
        size = 2;
    } else if (is(g, "lar") || is(g, "lsl") || is(g, "verr") || is(g, "verw") || is(g, "arpl")) {
        value = pick_selector(g);
        size = 2;
    } else if (g->has_mem &&
               (is(g, "lss") || is(g, "lfs") || is(g, "lgs") || is(g, "lds") || is(g, "les"))) {
        uint16_t sel = (uint16_t)pick_selector(g);
        unsigned off_size = operand_size(g) == 2 ? 2 : 4;
        patch(g, g->target + off_size, &sel, 2);
        return;
    } else if (is(g, "ldmxcsr") || is(g, "vldmxcsr")) {
        value = rng_next(&g->rng) & (chance(g, 70) ? 0xffff : 0xffffffff);
        size = 4;
    } else if (starts(g, "fxrstor") && g->has_mem) {
        uint32_t mxcsr = (uint32_t)rng_next(&g->rng) & (chance(g, 70) ? 0xffff : 0xffffffff);
        uint64_t control = in->fpu.fcw | (uint64_t)in->fpu.fsw << 16 | (uint64_t)0xff << 32;
        patch(g, g->target, &control, 8);
        patch(g, g->target + 24, &mxcsr, 4);
        return;
    } else if (is(g, "fldcw")) {
        value = chance(g, 80) ? 0x37f | (rng_next(&g->rng) & 0xf00) : rng_next(&g->rng);
        size = 2;
    } else if (is(g, "cmpxchg") && g->has_mem) {
        if (chance(g, 50))
            in->gpr[X86_RAX] = g->locked & 1 ? in->gpr[X86_RAX] : peek(g, g->target);
        return;
    } else if (starts(g, "cmpxchg") && g->has_mem && chance(g, 60)) {
        bool wide = g->w;
        if (!(g->locked >> X86_RAX & 1))
            in->gpr[X86_RAX] = peek(g, g->target);
        if (!(g->locked >> X86_RDX & 1))
            in->gpr[X86_RDX] = peek(g, g->target + (wide ? 8 : 4));
        return;
    }
    if (!size)
        return;
    if (g->has_mem)
        patch(g, g->target, &value, size);
    else if (!(g->locked >> rm & 1))
        in->gpr[rm] = size == 2 ? (in->gpr[rm] & ~UINT64_C(0xffff)) | value : value;
}

static void make_case(struct gen *g)
{
    const struct x86_form *f = g->form;
    struct oracle_case *c = g->c;
    c->filling = pick_filling(g);
    make_state(g);
    make_fpu(g);
    choose_prefixes(g);
    emit_prefixes(g);
    g->modrm_reg = f->modrm_reg >= 0 ? (unsigned)f->modrm_reg : (unsigned)below(g, 8);
    g->modrm_rm = f->modrm_rm >= 0 ? (unsigned)f->modrm_rm : (unsigned)below(g, 8);
    g->has_mem = f->modrm == 2 || (f->modrm == 1 && f->modrm_rm < 0 && chance(g, 55));
    unsigned opcode = f->opcode;
    if (f->opcode_mask != 0xff)
        opcode |= (unsigned)below(g, 256) & ~(unsigned)f->opcode_mask & 7;
    emit(g, opcode, 1);
    g->target = pick_data(g, memory_size(g));
    prepare_registers(g);
    if (f->modrm) {
        if (g->has_mem)
            emit_memory(g);
        else
            emit(g, (f->modrm == 4 ? below(g, 4) : 3) << 6 | g->modrm_reg << 3 | g->modrm_rm, 1);
    }
    if (has_kind(g, X86_OPND_MOFFS) && !address_is_safe(g->target))
        g->target = ORACLE_WINDOW_BASE + 8;
    prepare_operand(g);
    emit_immediate(g);
    if (g->n > sizeof(c->bytes))
        g->n = sizeof(c->bytes);
    memcpy(c->bytes, g->bytes, g->n);
    c->size = (uint8_t)g->n;
    if (!g->code64)
        for (unsigned i = 0; i < 16; i++)
            c->in.gpr[i] = i < 8 ? (uint32_t)c->in.gpr[i] : 0;
}

// Whether the bytes are what must not run, for instance an excluded instruction by way of a prefix.
static bool case_is_acceptable(const struct oracle_case *c)
{
    struct x86_insn insn;
    enum x86_decode_result r = x86_decode(&insn, c->bytes, c->size, c->code_size, NULL);
    if (r == X86_DECODE_OK)
        return !oracle_excluded(x86_forms[insn.form].mnemonic);
    if (r != X86_DECODE_UD)
        return true;
    // #UD to Croft, not to every host: instructions that the table lacks on purpose.
    unsigned i = 0;
    bool rep = false, opsize = false;
    for (; i < c->size; i++) {
        uint8_t b = c->bytes[i];
        rep |= b == 0xf2 || b == 0xf3;
        opsize |= b == 0x66;
        if (b != 0x66 && b != 0x67 && b != 0xf0 && b != 0xf2 && b != 0xf3 && b != 0x26 &&
            b != 0x2e && b != 0x36 && b != 0x3e && b != 0x64 && b != 0x65 &&
            !(c->code_size == X86_CODE64 && (b & 0xf0) == 0x40))
            break;
    }
    if (i + 2 >= c->size || c->bytes[i] != 0x0f)
        return true;
    switch (c->bytes[i + 1]) {
    case 0x01: // SVM and others
    case 0x78: // SSE4a
    case 0x79:
        return false;
    case 0x2b: // MOVNTSS, MOVNTSD (SSE4a)
    case 0xc7:
    case 0xae:
    case 0x1e:
        return !rep && !opsize;
    default:
        return true;
    }
}

void oracle_gen(struct oracle_case *c, uint64_t number)
{
    static struct gen g;
    struct rng seed = {.state = options.seed * UINT64_C(0x2545f4914f6cdd1d) + number};
    uint64_t start = rng_next(&seed);
    for (unsigned attempt = 0; attempt < 32; attempt++) {
        memset(&g, 0, offsetof(struct gen, memory));
        memset(c, 0, sizeof(*c));
        c->number = number;
        c->seed = options.seed;
        c->code_size = options.code_size;
        c->form = eligible[number % eligible_count];
        g.rng.state = start + attempt;
        g.c = c;
        g.form = &x86_forms[c->form];
        g.code64 = options.code_size == X86_CODE64;
        make_case(&g);
        if (case_is_acceptable(c))
            return;
    }
    // Nothing acceptable: NOP.
    c->bytes[0] = 0x90;
    c->size = 1;
}
