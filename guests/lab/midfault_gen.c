// SPDX-License-Identifier: Apache-2.0
// Makes the programs. While it does, the model executes them, so that the generator knows what the registers hold
// that do not depend on flags and memory (`fixed`): those can address memory. Others hold whatever comes.
#include "midfault.h"

struct insn program[INSNS_MAX];
u32 program_count;

#define P(page, offset) (STRESS_LINEAR + (page)*4096ul + (offset))
const ulong initial_gpr[LAB_GPRS] = {
    0x1234,      0x8000ff01,  0xfffffff0,        P(0, 0xff8),        P(7, 0x20),
    P(7, 0x40),  P(2, 0x10),  P(3, 0x7f0),
#ifdef __x86_64__
    P(4, 0xfff), P(1, 0x100), P(5, 0x20),        0x8000000000000000, P(0, 0x18),
    P(2, 0xff1), 0x7f,        0xffffffff80000000
#endif
};

static bool fixed[LAB_GPRS];
static bool conditional; // the next one may be jumped over
static bool ring3;
static u32 hot_page;

static struct insn *last(void)
{
    return &program[program_count - 1];
}

// Encodes and executes what program[program_count] holds.
static void emit(void)
{
    struct insn *in = &program[program_count++];
    u32 undefined = machine.undefined;
    bool skip;

    insn_encode(in);
    while (!insn_do(in, &skip))
        ;
    if (conditional) {
        machine.undefined |= undefined;
        ((u8 *)in->ip)[-1] = (u8)(in->next - in->ip);
    }
    conditional = in->op == OP_JCC;
}

static struct insn *fresh(enum op op)
{
    struct insn *in = &program[program_count];
    *in = (struct insn){.op = op, .size = sizeof(ulong)};
    return in;
}

static void set_register(u32 reg, ulong value)
{
    struct insn *in = fresh(OP_MOV);
    in->source = SRC_IMM;
    in->wide = true;
    in->rm = (u8)reg;
    in->imm = value;
    emit();
    fixed[reg] = true;
}

static u32 any_register(void)
{
    for (;;) {
        u32 r = stress_below(LAB_GPRS);
        if (r != 4)
            return r;
    }
}

// Where results go: seldom a register that can address memory.
static u32 result_register(void)
{
    u32 r = any_register();
    for (u32 i = 0; i < 6 && fixed[r]; i++)
        r = any_register();
    return r;
}

static ulong any_address(u32 size)
{
    u32 pages = ring3 ? PAGES : STACK_PAGE;
    if (stress_chance(40))
        hot_page = stress_below(pages);
    ulong at = stress_linear(hot_page);
    if (stress_chance(25))
        at += 4096 - stress_below(size + 1); // at and across the page's end
    else if (stress_chance(30))
        at += stress_below(64);
    else
        at += stress_below(4096 - size);
    ulong end = stress_linear(pages);
    return at + size > end ? end - size : at;
}

static bool fits(ulong want, ulong have)
{
    long d = (long)(want - have);
    return d == (int32_t)d;
}

// Chooses an address and how to say it. False: no register can. (Before the instruction's other fields are set.)
static bool operand(struct insn *in, u32 size, bool sp_moves)
{
    in->mem = true;
    in->address = any_address(size);
    u32 how = stress_below(10);
    if (how == 0 || (how == 1 && PROBE_LONG)) {
        in->form = how ? FORM_RIP : FORM_ABSOLUTE;
        return true;
    }
    for (u32 i = 0; i < 8; i++) {
        u32 base = stress_below(LAB_GPRS), index = any_register(), scale = stress_below(4);
        if (!fixed[base] || (base == 4 && sp_moves))
            continue;
        bool indexed = i < 4 && how < 5 && fixed[index];
        ulong have = machine.gpr[base] + (indexed ? machine.gpr[index] << scale : 0);
        if (!fits(in->address, have))
            continue;
        in->form = indexed ? FORM_INDEX : FORM_BASE;
        in->base = (u8)base;
        in->index = (u8)index;
        in->scale = (u8)scale;
        in->disp = (int32_t)(in->address - have);
        return true;
    }
    return false;
}

// A few registers point into the region again.
static void pointers_refresh(void)
{
    set_register(result_register(), any_address(16));
}

static struct insn *with_operand(enum op op, u32 size, bool sp_moves)
{
    for (;;) {
        struct insn *in = fresh(op);
        if (operand(in, size, sp_moves))
            return in;
        if (conditional) { // nothing may come between
            in->form = FORM_ABSOLUTE;
            return in;
        }
        pointers_refresh();
    }
}

static u32 any_size(void)
{
    static const u8 sizes[] = {1, 2, 4, 4, 4, 8, 8, 8};
    u32 s = sizes[stress_below(8)];
    return s > sizeof(ulong) ? 4 : s;
}

// A condition that reads defined flags only. False: there is none at hand.
static bool any_condition(u8 *cc)
{
    for (u32 i = 0; i < 8; i++) {
        *cc = (u8)stress_below(16);
        if (!(condition_reads(*cc) & machine.undefined))
            return true;
    }
    return false;
}

// Byte registers: no SPL, which is the stack pointer.
static void tidy(struct insn *in)
{
    bool far = in->reg >= 8 || (!in->mem && in->rm >= 8) || in->size == 8 ||
               (in->mem && in->form <= FORM_INDEX &&
                (in->base >= 8 || (in->form == FORM_INDEX && in->index >= 8)));
    if (in->size != 1 && in->op != OP_MOVZX)
        return;
    if (!far && PROBE_LONG && in->reg != 4 && in->rm != 4)
        in->rex = stress_chance(20);
}

static void simple(void)
{
    static const u8 ops[] = {OP_ALU,   OP_ALU,     OP_ALU, OP_ALU,   OP_TEST,  OP_UNARY,
                             OP_SHIFT, OP_MOV,     OP_MOV, OP_MOV,   OP_MOVZX, OP_XCHG,
                             OP_XADD,  OP_CMPXCHG, OP_BT,  OP_SETCC, OP_CMOV};
    enum op op = ops[stress_below(sizeof(ops))];
    u32 size = any_size();
    bool memory = op == OP_CMPXCHG || stress_chance(60);
    u8 cc = 0;

    if ((op == OP_ALU || op == OP_SHIFT) && machine.undefined & FLAG_CF)
        op = OP_MOV;
    if ((op == OP_SETCC || op == OP_CMOV) && !any_condition(&cc))
        op = OP_MOV;
    if (op == OP_SETCC)
        size = 1;
    if ((op == OP_CMOV || op == OP_BT || op == OP_MOVZX) && size == 1)
        size = sizeof(ulong);
    struct insn *in = memory ? with_operand(op, size, false) : fresh(op);
    in->size = (u8)size;
    in->cc = cc;
    in->reg = (u8)result_register();
    if (!memory)
        in->rm = (u8)result_register();
    in->source = (u8)stress_below(3);
    in->imm = stress_word();
    if (size >= 4)
        in->imm = (ulong)(long)(int32_t)in->imm;
    in->sub = (u8)stress_below(op == OP_UNARY ? 4 : op == OP_MOVZX ? 2 : 8);
    if (op == OP_MOVZX)
        in->wide = size > 2 && stress_chance(50);
    if (op == OP_SHIFT) {
        in->wide = true; // the short form of a count of one
        in->imm = stress_chance(40) ? 1 : stress_below(size * 8);
        if (in->sub == 6)
            in->sub = 4;
        if (in->sub == 2 || in->sub == 3)
            in->imm = 1;
    }
    if (op == OP_BT) {
        in->sub = (u8)(4 + stress_below(4));
        in->imm = stress_below(size * 8);
    }
    bool modifies = op == OP_ALU     ? in->source != SRC_RM && in->sub != 7
                    : op == OP_UNARY ? true
                    : op == OP_BT    ? in->sub != 4
                                     : op == OP_XCHG || op == OP_XADD || op == OP_CMPXCHG;
    in->lock = memory && modifies && stress_chance(25);
    tidy(in);
    if (op == OP_CMPXCHG)
        fixed[0] = false;
    // The encoder decides on REX, so ask it before the model runs: SPL must not come up.
    u8 *at = stress_at;
    insn_encode(in);
    stress_at = at;
    bool bytes = in->size == 1 || (op == OP_MOVZX && !in->wide);
    if (bytes && in->rex) {
        in->reg = in->reg == 4 ? 0 : in->reg;
        in->rm = in->rm == 4 ? 0 : in->rm;
    }
    fixed[in->reg] = false;
    if (!memory)
        fixed[in->rm] = false;
    for (u32 r = 0; bytes && r < 4; r++) // AH to BH
        if (in->reg == r + 4 || (!memory && in->rm == r + 4))
            fixed[r] = false;
    fixed[4] = true; // (AH: there is no other use of number 4)
    emit();
}

static void move_pointer(void) // a fixed register stays one
{
    u32 r = any_register();
    if (!fixed[r])
        r = 3;
    if (!fixed[r])
        return;
    struct insn *in = fresh(stress_chance(50) ? OP_UNARY : OP_ALU);
    in->rm = (u8)r;
    if (in->op == OP_UNARY) {
        in->sub = (u8)stress_below(2);
    } else {
        in->source = SRC_IMM;
        in->sub = stress_chance(50) ? 0 : 5;
        in->imm = stress_below(64);
    }
    emit();
}

static void string(void)
{
    static const u8 opcodes[] = {0xa4, 0xa4, 0xaa, 0xaa, 0xac, 0xae, 0xa6};
    u32 opcode = opcodes[stress_below(sizeof(opcodes))], size = any_size();
    u32 sub = stress_below(3), count = stress_below(sub ? 40 : 2);
    bool down = stress_chance(30), repeats = sub != 0;
    u32 bytes = (count ? count : 1) * size;

    if (opcode != 0xae && opcode != 0xa6 && sub == 2)
        sub = 1;
    ulong from = any_address(bytes), to = any_address(bytes);
    ulong ahead = down ? bytes - size : 0;
    set_register(6, from + ahead);
    set_register(7, to + ahead);
    if (repeats)
        set_register(1, count);
    struct insn *in;
    if (down) {
        in = fresh(OP_FLAG);
        in->imm = 0xfd;
        emit();
    }
    if (stress_chance(50))
        simple();
    // (That one may have had its hands on the registers.)
    if (!fixed[6])
        set_register(6, from + ahead);
    if (!fixed[7])
        set_register(7, to + ahead);
    if (repeats && !fixed[1])
        set_register(1, count);
    in = fresh(OP_STRING);
    in->imm = opcode;
    in->sub = (u8)sub;
    in->size = (u8)size;
    emit();
    if (opcode == 0xac)
        fixed[0] = false;
    if (repeats && (opcode == 0xae || opcode == 0xa6))
        fixed[1] = fixed[6] = fixed[7] = false;
    if (down) {
        in = fresh(OP_FLAG);
        in->imm = 0xfc;
        emit();
    }
}

static bool stack_room(void)
{
    ulong sp = machine.gpr[4];
    return sp > stress_linear(STACK_PAGE) + 256 && sp < stress_linear(PAGES) - 256;
}

static void stack(void)
{
    struct insn *in;
    u32 what = stress_below(PROBE_LONG ? 8 : 11);

    switch (what) {
    case 0:
        in = fresh(OP_PUSH);
        if (stress_chance(40)) {
            in->source = SRC_IMM;
            in->imm = (ulong)(long)(int32_t)stress_word();
        } else {
            in->rm = (u8)stress_below(LAB_GPRS);
        }
        emit();
        break;
    case 1:
        in = with_operand(OP_PUSH, sizeof(ulong), false);
        emit();
        break;
    case 2:
        in = fresh(OP_POP);
        in->rm = (u8)result_register();
        fixed[in->rm] = false;
        emit();
        break;
    case 3:
        with_operand(OP_POP, sizeof(ulong), true);
        emit();
        break;
    case 4:
        in = fresh(OP_ENTER);
        // (In ring 0 of the 32-bit flavour exceptions write below the stack pointer: nothing may be read there.)
        in->imm = ring3 || PROBE_LONG ? stress_below(8) * 8 : 0;
        emit();
        fixed[5] = true;
        break;
    case 5:
        set_register(5, machine.gpr[4] + stress_below(16) * 8);
        fresh(OP_LEAVE);
        emit();
        fixed[5] = false;
        break;
    case 6:
        fresh(OP_CALL);
        emit();
        break;
    case 7: { // the address of the next instruction: two tries, as its length is not known before
        in = with_operand(OP_CALLM, sizeof(ulong), false);
        struct insn call = *in, *store = fresh(OP_MOV);
        u8 *at = stress_at;
        u32 index = program_count;
        ulong target = (ulong)at;
        for (u32 i = 0; i < 2; i++) {
            stress_at = at;
            program_count = index;
            store = fresh(OP_MOV);
            *store = call;
            store->op = OP_MOV;
            store->source = SRC_IMM;
            store->imm = target;
            emit();
            program[program_count] = call;
            emit();
            target = last()->next;
            machine.gpr[4] += i == 0 ? sizeof(ulong) : 0;
        }
        break;
    }
    case 8:
        fresh(OP_PUSHA);
        emit();
        break;
    case 9:
        fresh(OP_POPA);
        emit();
        for (u32 i = 0; i < 8; i++)
            fixed[i] = i == 4;
        break;
    default:
        in = fresh(OP_FARCALL);
        in->imm = ring3 ? SEL_CODE3 : SEL_CODE0;
        emit();
    }
}

// RET and far RET need the address that is on the stack: pushed just before, with something between.
static void returns(void)
{
    bool far = !PROBE_LONG && stress_chance(50);
    u8 *at = stress_at;
    u32 index = program_count;
    ulong target = (ulong)at, sp = machine.gpr[4];
    struct insn *in;
    for (u32 i = 0; i < 2; i++) {
        stress_at = at;
        program_count = index;
        machine.gpr[4] = sp;
        if (far) {
            in = fresh(OP_PUSH);
            in->source = SRC_IMM;
            in->imm = ring3 ? SEL_CODE3 : SEL_CODE0;
            emit();
        }
        in = fresh(OP_PUSH);
        in->source = SRC_IMM;
        in->imm = target;
        emit();
        fresh(far ? OP_FARRET : OP_RET);
        emit();
        target = last()->next;
    }
}

static void vector(void)
{
    u32 sub = stress_below(4);
    struct insn *in = sub == 3 ? fresh(OP_XMM) : with_operand(OP_XMM, 16, false);
    in->sub = (u8)sub;
    in->size = 4;
    in->reg = (u8)stress_below(8);
    in->rm = (u8)stress_below(8);
    if (sub == 2) { // an aligned operand
        u32 away = in->address & 15;
        in->address -= away;
        if (in->form <= FORM_INDEX)
            in->disp -= (int32_t)away;
    }
    emit();
}

static void one(void)
{
    u32 what = stress_below(100);
    struct insn *in;

    if (conditional || what < 55) {
        simple();
    } else if (what < 62) {
        move_pointer();
    } else if (what < 66) {
        pointers_refresh();
    } else if (what < 72) {
        string();
    } else if (what < 84) {
        if (stack_room())
            stack();
    } else if (what < 87) {
        if (stack_room())
            returns();
    } else if (what < 92) {
        if (stress_sse)
            vector();
    } else if (what < 95) {
        in = with_operand(machine.st_full ? OP_FISTP : OP_FILD, 8, false);
        in->size = 4;
        machine.st_full = !machine.st_full;
        emit();
    } else if (what < 97) {
        in = fresh(stress_chance(50) ? OP_SAHF : OP_FLAG);
        in->imm = stress_chance(50) || machine.undefined & FLAG_CF ? 0xf8 + stress_below(2) : 0xf5;
        emit();
    } else {
        in = fresh(OP_JCC);
        if (any_condition(&in->cc))
            emit();
    }
}

void program_make(ulong at, u32 count, bool user)
{
    stress_at = (u8 *)at;
    program_count = 0;
    ring3 = user;
    conditional = false;
    hot_page = stress_below(STACK_PAGE);
    for (u32 i = 0; i < LAB_GPRS; i++) {
        machine.gpr[i] = initial_gpr[i];
        fixed[i] = true;
    }
    machine.flags = 2;
    machine.undefined = 0;
    machine.st_full = false;
    while (program_count < count || conditional)
        one();
    if (machine.st_full) {
        struct insn *in = with_operand(OP_FISTP, 8, false);
        in->size = 4;
        emit();
    }
}
