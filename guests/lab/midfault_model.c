// SPDX-License-Identifier: Apache-2.0
// What each instruction of the programs does, from the manuals (SDM vol. 2), with the flags that it leaves undefined.
#include "midfault.h"

struct machine machine;

ulong memory_get(ulong address, u32 size)
{
    ulong v = 0;
    for (u32 i = 0; i < size; i++)
        v |= (ulong)machine.memory[address - STRESS_LINEAR + i] << i * 8;
    return v;
}

void memory_put(ulong address, u32 size, ulong value)
{
    for (u32 i = 0; i < size; i++)
        machine.memory[address - STRESS_LINEAR + i] = (u8)(value >> i * 8);
}

static bool high_byte(const struct insn *in, u32 reg, u32 size)
{
    return size == 1 && reg >= 4 && reg < 8 && !in->rex;
}

static ulong reg_get(const struct insn *in, u32 reg, u32 size)
{
    if (high_byte(in, reg, size))
        return machine.gpr[reg - 4] >> 8 & 0xff;
    return machine.gpr[reg] & size_mask(size);
}

static void reg_put(const struct insn *in, u32 reg, u32 size, ulong v)
{
    v &= size_mask(size);
    if (high_byte(in, reg, size))
        machine.gpr[reg - 4] = (machine.gpr[reg - 4] & ~(ulong)0xff00) | v << 8;
    else if (size >= 4)
        machine.gpr[reg] = v;
    else
        machine.gpr[reg] = (machine.gpr[reg] & ~size_mask(size)) | v;
}

static ulong rm_get(const struct insn *in, u32 size)
{
    return in->mem ? memory_get(in->address, size) : reg_get(in, in->rm, size);
}

static void rm_put(const struct insn *in, u32 size, ulong v)
{
    if (in->mem)
        memory_put(in->address, size, v);
    else
        reg_put(in, in->rm, size, v);
}

// --- flags -------------------------------------------------------------------------------------------------

static void flags_set(u32 which, u32 value)
{
    machine.flags = (machine.flags & ~which) | (value & which);
    machine.undefined &= ~which;
}

static u32 result_flags(ulong v, u32 size)
{
    u32 ones = 0;
    for (u32 i = 0; i < 8; i++)
        ones += v >> i & 1;
    return (v & size_mask(size) ? 0 : FLAG_ZF) | (v >> (size * 8 - 1) & 1 ? FLAG_SF : 0) |
           (ones & 1 ? 0 : FLAG_PF);
}

static ulong add(ulong a, ulong b, u32 carry, u32 size, u32 which)
{
    ulong mask = size_mask(size), r = (a + b + carry) & mask, top = size * 8 - 1;
    ulong carries = (a & b) | ((a | b) & ~r);
    flags_set(which, result_flags(r, size) | (carries >> top & 1 ? FLAG_CF : 0) |
                         (carries >> 3 & 1 ? FLAG_AF : 0) |
                         (((a ^ r) & (b ^ r)) >> top & 1 ? FLAG_OF : 0));
    return r;
}

static ulong subtract(ulong a, ulong b, u32 borrow, u32 size, u32 which)
{
    ulong mask = size_mask(size), r = (a - b - borrow) & mask, top = size * 8 - 1;
    ulong borrows = (~a & b) | ((~a | b) & r);
    flags_set(which, result_flags(r, size) | (borrows >> top & 1 ? FLAG_CF : 0) |
                         (borrows >> 3 & 1 ? FLAG_AF : 0) |
                         (((a ^ b) & (a ^ r)) >> top & 1 ? FLAG_OF : 0));
    return r;
}

static ulong logic(ulong r, u32 size)
{
    r &= size_mask(size);
    flags_set(ARITHMETIC, result_flags(r, size));
    machine.undefined |= FLAG_AF;
    return r;
}

static u32 carry(void)
{
    return machine.flags & FLAG_CF;
}

static ulong alu(u32 sub, ulong a, ulong b, u32 size)
{
    switch (sub) {
    case 0:
        return add(a, b, 0, size, ARITHMETIC);
    case 1:
        return logic(a | b, size);
    case 2:
        return add(a, b, carry(), size, ARITHMETIC);
    case 3:
        return subtract(a, b, carry(), size, ARITHMETIC);
    case 4:
        return logic(a & b, size);
    case 6:
        return logic(a ^ b, size);
    default: // SUB, CMP
        return subtract(a, b, 0, size, ARITHMETIC);
    }
}

// One bit at a time. Counts are below the operand's bits.
static ulong shift(u32 sub, ulong v, u32 count, u32 size)
{
    u32 bits = size * 8, c = carry();
    ulong mask = size_mask(size), first = v;

    count &= size == 8 ? 63 : 31;
    if (!count)
        return v;
    for (u32 i = 0; i < count; i++) {
        u32 low = v & 1, high = v >> (bits - 1) & 1, old = c;
        bool left = !(sub & 1);
        c = left ? high : low;
        ulong in = sub == 0 ? high : sub == 1 ? low : sub < 4 ? old : sub == 7 ? high : 0;
        v = left ? (v << 1 | in) & mask : v >> 1 | in << (bits - 1);
    }
    u32 high = v >> (bits - 1) & 1, second = v >> (bits - 2) & 1;
    u32 overflow = sub == 5   ? first >> (bits - 1) & 1
                   : sub == 7 ? 0
                   : sub & 1  ? high ^ second
                              : high ^ c;
    u32 which = sub < 4 ? FLAG_CF | FLAG_OF : ARITHMETIC;
    flags_set(which, (sub < 4 ? 0 : result_flags(v, size)) | c | (overflow ? FLAG_OF : 0));
    if (sub >= 4)
        machine.undefined |= FLAG_AF;
    if (count > 1)
        machine.undefined |= FLAG_OF;
    return v;
}

u32 condition_reads(u32 cc)
{
    static const u32 reads[8] = {FLAG_OF, FLAG_CF, FLAG_ZF,           FLAG_CF | FLAG_ZF,
                                 FLAG_SF, FLAG_PF, FLAG_SF | FLAG_OF, FLAG_SF | FLAG_OF | FLAG_ZF};
    return reads[cc >> 1];
}

bool condition(u32 cc, u32 flags)
{
    bool less = !(flags & FLAG_SF) != !(flags & FLAG_OF), yes;
    if (cc >> 1 >= 6)
        yes = less || (cc >> 1 == 7 && flags & FLAG_ZF);
    else
        yes = (flags & condition_reads(cc)) != 0;
    return yes != (cc & 1);
}

// --- accesses ----------------------------------------------------------------------------------------------

static u32 reach(struct reach *out, ulong address, u32 size, bool write)
{
    *out = (struct reach){address, (u8)size, write};
    return 1;
}

static u32 string_reaches(const struct insn *in, struct reach *out)
{
    u32 n = 0;
    if (in->sub && machine.gpr[1] == 0)
        return 0;
    // (The manuals leave open which operand CMPS reads first: so do AMD's processors.)
    if (in->imm == 0xa6 && !(in->sub == 1 && in->size == 1))
        return reach(out, machine.gpr[7], in->size, false) +
               reach(out + 1, machine.gpr[6], in->size, false);
    if (in->imm == 0xa4 || in->imm == 0xac || in->imm == 0xa6) // MOVS LODS CMPS
        n += reach(out, machine.gpr[6], in->size, false);
    if (in->imm != 0xac) // STOS and MOVS write; SCAS and CMPS read
        n += reach(out + n, machine.gpr[7], in->size, in->imm == 0xa4 || in->imm == 0xaa);
    return n;
}

u32 insn_reaches(const struct insn *in, struct reach out[8])
{
    const u32 w = sizeof(ulong);
    ulong sp = machine.gpr[4];
    u32 n = 0;

    switch (in->op) {
    case OP_ALU:
        return in->mem ? reach(out, in->address, in->size, in->source != SRC_RM && in->sub != 7)
                       : 0;
    case OP_TEST:
        return in->mem ? reach(out, in->address, in->size, false) : 0;
    case OP_UNARY:
    case OP_SHIFT:
    case OP_XCHG:
    case OP_XADD:
    case OP_CMPXCHG:
        return in->mem ? reach(out, in->address, in->size, true) : 0;
    case OP_SETCC:
        return in->mem ? reach(out, in->address, 1, true) : 0;
    case OP_MOV:
        return in->mem ? reach(out, in->address, in->size, in->source != SRC_RM) : 0;
    case OP_MOVZX:
        return in->mem ? reach(out, in->address, in->wide ? 2 : 1, false) : 0;
    case OP_CMOV:
        return in->mem ? reach(out, in->address, in->size, false) : 0;
    case OP_BT:
        return in->mem ? reach(out, in->address, in->size, in->sub != 4) : 0;
    case OP_PUSH:
    case OP_CALLM:
        if (in->mem)
            n = reach(out, in->address, w, false);
        return n + reach(out + n, sp - w, w, true);
    case OP_POP:
        n = reach(out, sp, w, false);
        return in->mem ? n + reach(out + n, in->address, w, true) : n;
    case OP_STRING:
        return string_reaches(in, out);
    case OP_PUSHA:
        for (u32 i = 1; i <= 8; i++)
            n += reach(out + n, sp - i * w, w, true);
        return n;
    case OP_POPA:
        return reach(out, sp, 32, false);
    case OP_ENTER: // (as if the new top of the stack were written)
        n = reach(out, sp - w, w, true);
        return n + reach(out + n, sp - w - in->imm, w, true);
    case OP_CALL:
        return reach(out, sp - w, w, true);
    case OP_LEAVE:
        return reach(out, machine.gpr[5], w, false);
    case OP_RET:
        return reach(out, sp, w, false);
    case OP_FARCALL:
        return reach(out, sp - 8, 8, true);
    case OP_FARRET:
        return reach(out, sp, 8, false);
    case OP_XMM:
        return in->mem ? reach(out, in->address, 16, in->sub == 1) : 0;
    case OP_FILD:
    case OP_FISTP:
        return reach(out, in->address, 8, in->op == OP_FISTP);
    default:
        return 0;
    }
}

// --- execution ---------------------------------------------------------------------------------------------

static bool string_do(const struct insn *in)
{
    ulong *gpr = machine.gpr, a = 0;
    ulong step = machine.flags & FLAG_DF ? -(ulong)in->size : in->size;
    bool compares = in->imm == 0xa6 || in->imm == 0xae;

    if (in->sub && gpr[1] == 0)
        return true;
    if (in->imm == 0xa4 || in->imm == 0xac || in->imm == 0xa6) {
        a = memory_get(gpr[6], in->size);
        gpr[6] += step;
    }
    if (in->imm == 0xaa || in->imm == 0xae)
        a = gpr[0] & size_mask(in->size);
    if (compares)
        subtract(a, memory_get(gpr[7], in->size), 0, in->size, ARITHMETIC);
    else if (in->imm == 0xac)
        reg_put(in, 0, in->size, a);
    else
        memory_put(gpr[7], in->size, a);
    if (in->imm != 0xac)
        gpr[7] += step;
    if (!in->sub)
        return true;
    gpr[1]--;
    return gpr[1] == 0 || (compares && !(machine.flags & FLAG_ZF) == (in->sub == 1));
}

static void push(ulong v)
{
    machine.gpr[4] -= sizeof(ulong);
    memory_put(machine.gpr[4], sizeof(ulong), v);
}

static ulong pop(void)
{
    ulong v = memory_get(machine.gpr[4], sizeof(ulong));
    machine.gpr[4] += sizeof(ulong);
    return v;
}

static void stack_do(const struct insn *in)
{
    ulong *gpr = machine.gpr, v;
    switch (in->op) {
    case OP_PUSH:
        push(in->mem                 ? memory_get(in->address, sizeof(ulong))
             : in->source == SRC_IMM ? (ulong)(long)(int32_t)in->imm
                                     : gpr[in->rm]);
        break;
    case OP_POP:
        v = pop();
        if (in->mem)
            memory_put(in->address, sizeof(ulong), v);
        else
            gpr[in->rm] = v;
        break;
    case OP_PUSHA:
        v = gpr[4];
        for (u32 i = 0; i < 8; i++)
            push(i == 4 ? v : gpr[i]);
        break;
    case OP_POPA:
        for (u32 i = 8; i--;) {
            v = pop();
            if (i != 4)
                gpr[i] = v;
        }
        break;
    case OP_ENTER:
        push(gpr[5]);
        gpr[5] = gpr[4];
        gpr[4] -= in->imm;
        break;
    case OP_LEAVE:
        gpr[4] = gpr[5];
        gpr[5] = pop();
        break;
    case OP_CALL:
    case OP_CALLM:
        push(in->next);
        break;
    case OP_FARCALL:
        push(in->imm);
        push(in->next);
        break;
    case OP_RET:
        pop();
        break;
    default: // OP_FARRET
        pop();
        pop();
    }
}

static void xmm_do(const struct insn *in)
{
    u64 *x = machine.xmm[in->reg];
    if (in->sub == 1) {
        for (u32 i = 0; i < 16; i++)
            memory_put(in->address + i, 1, (ulong)(x[i / 8] >> i % 8 * 8));
        return;
    }
    for (u32 half = 0; half < 2; half++) {
        u64 v = in->mem ? 0 : machine.xmm[in->rm][half];
        for (u32 i = 0; in->mem && i < 8; i++)
            v |= (u64)memory_get(in->address + half * 8 + i, 1) << i * 8;
        if (in->sub == 0)
            x[half] = v;
        else
            x[half] = (u32)(x[half] + v) | (u64)((u32)(x[half] >> 32) + (u32)(v >> 32)) << 32;
    }
}

bool insn_do(const struct insn *in, bool *skip)
{
    ulong a, b, *gpr = machine.gpr;

    *skip = false;
    switch (in->op) {
    case OP_ALU:
        a = in->source == SRC_RM ? reg_get(in, in->reg, in->size) : rm_get(in, in->size);
        b = in->source == SRC_RM    ? rm_get(in, in->size)
            : in->source == SRC_IMM ? in->imm & size_mask(in->size)
                                    : reg_get(in, in->reg, in->size);
        a = alu(in->sub, a, b, in->size);
        if (in->sub == 7)
            break;
        if (in->source == SRC_RM)
            reg_put(in, in->reg, in->size, a);
        else
            rm_put(in, in->size, a);
        break;
    case OP_TEST:
        b = in->source == SRC_IMM ? in->imm : reg_get(in, in->reg, in->size);
        logic(rm_get(in, in->size) & b, in->size);
        break;
    case OP_UNARY:
        a = rm_get(in, in->size);
        if (in->sub == 0)
            a = add(a, 1, 0, in->size, ARITHMETIC & ~FLAG_CF);
        else if (in->sub == 1)
            a = subtract(a, 1, 0, in->size, ARITHMETIC & ~FLAG_CF);
        else if (in->sub == 2)
            a = ~a;
        else
            a = subtract(0, a, 0, in->size, ARITHMETIC);
        rm_put(in, in->size, a);
        break;
    case OP_SHIFT:
        a = shift(in->sub, rm_get(in, in->size), (u32)in->imm, in->size);
        rm_put(in, in->size, a);
        break;
    case OP_MOV:
        if (in->source == SRC_RM)
            reg_put(in, in->reg, in->size, rm_get(in, in->size));
        else
            rm_put(in, in->size, in->source == SRC_IMM ? in->imm : reg_get(in, in->reg, in->size));
        break;
    case OP_MOVZX:
        a = rm_get(in, in->wide ? 2 : 1);
        if (in->sub)
            a = in->wide ? (ulong)(long)(int16_t)a : (ulong)(long)(int8_t)a;
        reg_put(in, in->reg, in->size, a);
        break;
    case OP_LEA:
        reg_put(in, in->reg, in->size, in->address);
        break;
    case OP_XCHG:
        a = rm_get(in, in->size);
        b = reg_get(in, in->reg, in->size);
        rm_put(in, in->size, b);
        reg_put(in, in->reg, in->size, a);
        break;
    case OP_XADD: // (destination last: it counts when both are one register)
        a = rm_get(in, in->size);
        b = add(a, reg_get(in, in->reg, in->size), 0, in->size, ARITHMETIC);
        reg_put(in, in->reg, in->size, a);
        rm_put(in, in->size, b);
        break;
    case OP_CMPXCHG:
        a = rm_get(in, in->size);
        subtract(gpr[0] & size_mask(in->size), a, 0, in->size, ARITHMETIC);
        if (machine.flags & FLAG_ZF)
            rm_put(in, in->size, reg_get(in, in->reg, in->size));
        else
            reg_put(in, 0, in->size, a);
        break;
    case OP_BT:
        a = rm_get(in, in->size);
        b = (ulong)1 << in->imm;
        flags_set(FLAG_CF, a & b ? FLAG_CF : 0);
        machine.undefined |= FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF;
        if (in->sub != 4)
            rm_put(in, in->size, in->sub == 5 ? a | b : in->sub == 6 ? a & ~b : a ^ b);
        break;
    case OP_SETCC:
        rm_put(in, 1, condition(in->cc, machine.flags));
        break;
    case OP_CMOV: // (32 bits: the upper half is cleared either way)
        a = rm_get(in, in->size);
        reg_put(in, in->reg, in->size,
                condition(in->cc, machine.flags) ? a : reg_get(in, in->reg, in->size));
        break;
    case OP_JCC:
        *skip = condition(in->cc, machine.flags);
        break;
    case OP_SAHF:
        flags_set(ARITHMETIC & ~FLAG_OF, (u32)(gpr[0] >> 8));
        break;
    case OP_FLAG:
        if (in->imm == 0xf5)
            machine.flags ^= FLAG_CF;
        else if (in->imm <= 0xf9)
            flags_set(FLAG_CF, in->imm & 1);
        else
            flags_set(FLAG_DF, in->imm & 1 ? FLAG_DF : 0);
        break;
    case OP_STRING:
        return string_do(in);
    case OP_XMM:
        xmm_do(in);
        break;
    case OP_FILD:
        machine.st = 0;
        for (u32 i = 0; i < 8; i++)
            machine.st |= (u64)memory_get(in->address + i, 1) << i * 8;
        break;
    case OP_FISTP:
        for (u32 i = 0; i < 8; i++)
            memory_put(in->address + i, 1, (ulong)(machine.st >> i * 8));
        break;
    default:
        stack_do(in);
    }
    return true;
}

const char *insn_name(const struct insn *in)
{
    static const char *const names[] = {
        "ALU",      "TEST",    "unary",    "shift",   "MOV",  "MOVZX", "LEA",   "XCHG",
        "XADD",     "CMPXCHG", "BT",       "SETCC",   "CMOV", "Jcc",   "PUSH",  "POP",
        "SAHF",     "flag",    "string",   "PUSHA",   "POPA", "ENTER", "LEAVE", "CALL",
        "CALL mem", "RET",     "far CALL", "far RET", "SSE",  "FILD",  "FISTP"};
    return names[in->op];
}
