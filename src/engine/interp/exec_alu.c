// SPDX-License-Identifier: Apache-2.0
// Plain functions: read-modify-write with LOCK, XCHG, XADD, CMPXCHG, multiply, divide, BCD, moves that the
// threaded handlers leave out.
//
// LOCK is host atomics on the guest's RAM: a compare-and-exchange loop around the same arithmetic that the
// unlocked form uses. Device memory and operands across unrelated pages: see struct x86_rmw.
#include "engine/interp/exec.h"
#include "engine/interp/hot.h"

enum rmw_op {
    RMW_ALU_LAST = ALU_COUNT - 1,
    RMW_INC,
    RMW_DEC,
    RMW_NOT,
    RMW_NEG,
    RMW_MOV,     // XCHG
    RMW_CMPXCHG, // b: new value, rAX: expected
    RMW_BTS,     // b: bit number
    RMW_BTR,
    RMW_BTC,
};

ALWAYS_INLINE uint64_t rmw_bits(struct x86_cpu *cpu, unsigned op, unsigned bits, uint64_t a,
                                uint64_t b)
{
    uint64_t bit = UINT64_C(1) << (b & (bits - 1));
    switch (op) {
    case RMW_INC:
        return hot_incdec(cpu, false, bits, a);
    case RMW_DEC:
        return hot_incdec(cpu, true, bits, a);
    case RMW_NOT:
        return ~a;
    case RMW_NEG:
        return hot_alu(cpu, ALU_SUB, bits, 0, a);
    case RMW_MOV:
        return b;
    case RMW_CMPXCHG:
        hot_alu(cpu, ALU_CMP, bits, hot_get(cpu, bits, X86_RAX * 8), a);
        return x86_zf(cpu) ? b : a;
    case RMW_BTS:
        x86_cc_set_cf_of(cpu, (a & bit) != 0, x86_of(cpu));
        return a | bit;
    case RMW_BTR:
        x86_cc_set_cf_of(cpu, (a & bit) != 0, x86_of(cpu));
        return a & ~bit;
    case RMW_BTC:
        x86_cc_set_cf_of(cpu, (a & bit) != 0, x86_of(cpu));
        return a ^ bit;
    default:
        return hot_alu(cpu, op, bits, a, b);
    }
}

static uint64_t rmw_value(struct x86_cpu *cpu, unsigned op, unsigned size, uint64_t a, uint64_t b)
{
    switch (size) {
    case 1:
        return rmw_bits(cpu, op, 8, a, b);
    case 2:
        return rmw_bits(cpu, op, 16, a, b);
    case 4:
        return rmw_bits(cpu, op, 32, a, b);
    default:
        return rmw_bits(cpu, op, 64, a, b);
    }
}

#define LOCKED(bits)                                                                          \
    static uint64_t locked##bits(struct x86_cpu *cpu, unsigned op, uint8_t *host, uint64_t b) \
    {                                                                                         \
        uint##bits##_t *p = (uint##bits##_t *)host;                                           \
        uint##bits##_t old = __atomic_load_n(p, __ATOMIC_RELAXED);                            \
        uint64_t res = cpu->cc_res, aux = cpu->cc_aux;                                        \
        for (;;) {                                                                            \
            uint##bits##_t r = (uint##bits##_t)rmw_bits(cpu, op, bits, old, b);               \
            if (__atomic_compare_exchange_n(p, &old, r, false, __ATOMIC_SEQ_CST,              \
                                            __ATOMIC_SEQ_CST))                                \
                return old;                                                                   \
            cpu->cc_res = res;                                                                \
            cpu->cc_aux = aux;                                                                \
        }                                                                                     \
    }
LOCKED(8)
LOCKED(16)
LOCKED(32)
LOCKED(64)

// Operates on memory at seg:ea, atomically if `lock`; returns the old value.
static uint64_t rmw_mem(struct x86_cpu *cpu, unsigned op, unsigned size, unsigned seg, uint64_t ea,
                        uint64_t b, bool lock)
{
    struct x86_rmw m;
    uint64_t old;
    x86_rmw_begin(cpu, &m, seg, ea, size);
    if (!m.host) {
        old = x86_rmw_load(cpu, &m);
        x86_rmw_store(cpu, &m, rmw_value(cpu, op, size, old, b));
    } else if (!lock) {
        old = hot_host_load(size * 8, m.host);
        hot_host_store(size * 8, m.host, rmw_value(cpu, op, size, old, b));
    } else {
        switch (size) {
        case 1:
            old = locked8(cpu, op, m.host, b);
            break;
        case 2:
            old = locked16(cpu, op, m.host, b);
            break;
        case 4:
            old = locked32(cpu, op, m.host, b);
            break;
        default:
            old = locked64(cpu, op, m.host, b);
        }
    }
    x86_rmw_end(cpu, &m);
    return old;
}

static uint64_t rmw(struct x86_cpu *cpu, const struct x86_insn *x, unsigned op, uint64_t b,
                    bool lock)
{
    unsigned size = x->opsize;
    uint64_t old;
    if (x->has_mem)
        return rmw_mem(cpu, op, size, x->seg, interp_ea(cpu, x), b, lock);
    old = interp_get(cpu, x->rm, size);
    interp_put(cpu, x->rm, size, rmw_value(cpu, op, size, old, b));
    return old;
}

ALWAYS_INLINE bool locked(const struct x86_insn *x)
{
    return (x->prefixes & X86_PREFIX_LOCK) != 0;
}

// --- with LOCK ---------------------------------------------------------------------------------------------

#define RMW_TWO(name, op)                                               \
    EXEC(name##_reg)                                                    \
    {                                                                   \
        rmw(cpu, x, op, interp_get(cpu, x->reg, x->opsize), locked(x)); \
    }                                                                   \
    EXEC(name##_imm)                                                    \
    {                                                                   \
        rmw(cpu, x, op, x->imm, locked(x));                             \
    }
#define RMW_ONE(name, op)              \
    EXEC(name)                         \
    {                                  \
        rmw(cpu, x, op, 0, locked(x)); \
    }
RMW_TWO(add, ALU_ADD)
RMW_TWO(or, ALU_OR)
RMW_TWO(adc, ALU_ADC)
RMW_TWO(sbb, ALU_SBB)
RMW_TWO(and, ALU_AND)
RMW_TWO(sub, ALU_SUB)
RMW_TWO(xor, ALU_XOR)
RMW_ONE(inc, RMW_INC)
RMW_ONE(dec, RMW_DEC)
RMW_ONE(not_, RMW_NOT)
RMW_ONE(neg, RMW_NEG)

// XCHG with memory locks with or without the prefix.
EXEC(xchg)
{
    uint64_t reg = interp_get(cpu, x->reg, x->opsize);
    uint64_t old = rmw(cpu, x, RMW_MOV, reg, true);
    interp_put(cpu, x->reg, x->opsize, old);
}
EXEC(xchg_rax)
{
    uint64_t a = interp_get(cpu, X86_RAX, x->opsize), b = interp_get(cpu, x->reg, x->opsize);
    interp_put(cpu, X86_RAX, x->opsize, b);
    interp_put(cpu, x->reg, x->opsize, a);
}
EXEC(xadd)
{
    unsigned size = x->opsize;
    uint64_t b = interp_get(cpu, x->reg, size);
    if (x->has_mem) {
        interp_put(cpu, x->reg, size, rmw(cpu, x, ALU_ADD, b, locked(x)));
    } else {
        uint64_t a = interp_get(cpu, x->rm, size);
        uint64_t r = rmw_value(cpu, ALU_ADD, size, a, b);
        interp_put(cpu, x->reg, size, a);
        interp_put(cpu, x->rm, size, r);
    }
}
EXEC(cmpxchg)
{
    unsigned size = x->opsize;
    if (!x->has_mem) {
        uint64_t dest = interp_get(cpu, x->rm, size), value = interp_get(cpu, x->reg, size);
        rmw_value(cpu, RMW_CMPXCHG, size, dest, value); // the flags
        // A destination that differs is left alone, its upper half too.
        if (x86_zf(cpu))
            interp_put(cpu, x->rm, size, value);
        else
            interp_put(cpu, X86_RAX, size, dest);
        return;
    }
    uint64_t old = rmw(cpu, x, RMW_CMPXCHG, interp_get(cpu, x->reg, size), locked(x));
    if (!x86_zf(cpu))
        interp_put(cpu, X86_RAX, size, old);
}

EXEC(cmpxchg8b)
{
    struct x86_rmw m;
    uint64_t expected = (cpu->gpr[X86_RDX] << 32) | (uint32_t)cpu->gpr[X86_RAX];
    uint64_t desired = (cpu->gpr[X86_RCX] << 32) | (uint32_t)cpu->gpr[X86_RBX], old = expected;
    bool equal;
    x86_rmw_begin(cpu, &m, x->seg, interp_ea(cpu, x), 8);
    if (m.host) {
        equal = __atomic_compare_exchange_n((uint64_t *)m.host, &old, desired, false,
                                            __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        old = x86_rmw_load(cpu, &m);
        equal = old == expected;
        x86_rmw_store(cpu, &m, equal ? desired : old);
    }
    x86_rmw_end(cpu, &m);
    exec_put_zf(cpu, equal);
    if (!equal) {
        cpu->gpr[X86_RAX] = (uint32_t)old;
        cpu->gpr[X86_RDX] = old >> 32;
    }
}
EXEC(cmpxchg16b)
{
    struct x86_rmw m;
    uint64_t ea = interp_ea(cpu, x), lo = cpu->gpr[X86_RAX], hi = cpu->gpr[X86_RDX];
    bool equal;
    if ((cpu->seg[x->seg].eff_base + ea) & 15)
        x86_raise_error(cpu, X86_GP, 0);
    x86_rmw_begin(cpu, &m, x->seg, ea, 16);
    if (m.host) {
        __asm__ volatile("lock cmpxchg16b %1"
                         : "=@ccz"(equal), "+m"(*(unsigned __int128 *)m.host), "+a"(lo), "+d"(hi)
                         : "b"(cpu->gpr[X86_RBX]), "c"(cpu->gpr[X86_RCX])
                         : "memory");
    } else {
        lo = x86_rmw_load_part(cpu, &m, 0);
        hi = x86_rmw_load_part(cpu, &m, 8);
        equal = lo == cpu->gpr[X86_RAX] && hi == cpu->gpr[X86_RDX];
        x86_rmw_store_part(cpu, &m, 0, equal ? cpu->gpr[X86_RBX] : lo);
        x86_rmw_store_part(cpu, &m, 8, equal ? cpu->gpr[X86_RCX] : hi);
    }
    x86_rmw_end(cpu, &m);
    exec_put_zf(cpu, equal);
    if (!equal) {
        cpu->gpr[X86_RAX] = lo;
        cpu->gpr[X86_RDX] = hi;
    }
}

// BTS, BTR, BTC: a register bit number reaches beyond a memory operand, in units of the operand.
static void bit_test(struct x86_cpu *cpu, const struct x86_insn *x, unsigned op, bool by_reg)
{
    unsigned size = x->opsize, bits = size * 8;
    uint64_t n = by_reg ? interp_get(cpu, x->reg, size) : x->imm;
    uint64_t ea;
    if (!x->has_mem) {
        rmw(cpu, x, op, n, false);
        return;
    }
    ea = interp_ea(cpu, x);
    if (by_reg) {
        int64_t s = (int64_t)(n << (64 - bits)) >> (64 - bits);
        ea = (ea + (uint64_t)(s >> (size == 2   ? 4
                                    : size == 4 ? 5
                                                : 6)) *
                       size) &
             exec_mask(x->adsize);
    }
    rmw_mem(cpu, op, size, x->seg, ea, n, locked(x));
}
EXEC(bts_reg)
{
    bit_test(cpu, x, RMW_BTS, true);
}
EXEC(bts_imm)
{
    bit_test(cpu, x, RMW_BTS, false);
}
EXEC(btr_reg)
{
    bit_test(cpu, x, RMW_BTR, true);
}
EXEC(btr_imm)
{
    bit_test(cpu, x, RMW_BTR, false);
}
EXEC(btc_reg)
{
    bit_test(cpu, x, RMW_BTC, true);
}
EXEC(btc_imm)
{
    bit_test(cpu, x, RMW_BTC, false);
}
static void bt(struct x86_cpu *cpu, const struct x86_insn *x, bool by_reg)
{
    unsigned size = x->opsize, bits = size * 8;
    uint64_t n = by_reg ? interp_get(cpu, x->reg, size) : x->imm, a;
    if (x->has_mem) {
        uint64_t ea = interp_ea(cpu, x);
        if (by_reg) {
            int64_t s = (int64_t)(n << (64 - bits)) >> (64 - bits);
            ea = (ea + (uint64_t)(s >> (size == 2   ? 4
                                        : size == 4 ? 5
                                                    : 6)) *
                           size) &
                 exec_mask(x->adsize);
        }
        a = interp_read(cpu, x->seg, ea, size);
    } else {
        a = interp_get(cpu, x->rm, size);
    }
    x86_cc_set_cf_of(cpu, a >> (n & (bits - 1)) & 1, x86_of(cpu));
}
EXEC(bt_reg)
{
    bt(cpu, x, true);
}
EXEC(bt_imm)
{
    bt(cpu, x, false);
}

// --- multiply and divide ------------------------------------------------------------------------------------

// The double-width result goes to AX (bytes) or rDX:rAX.
static void put_pair(struct x86_cpu *cpu, unsigned size, uint64_t lo, uint64_t hi)
{
    if (size == 1) {
        interp_put(cpu, X86_RAX, 2, (lo & 0xff) | hi << 8);
    } else {
        interp_put(cpu, X86_RAX, size, lo);
        interp_put(cpu, X86_RDX, size, hi);
    }
}
EXEC(mul)
{
    unsigned size = x->opsize;
    uint64_t b = interp_get_rm(cpu, x, size), a = interp_get(cpu, X86_RAX, size);
    unsigned __int128 r = (unsigned __int128)a * b;
    uint64_t hi = (uint64_t)(r >> (size * 8)) & exec_mask(size);
    put_pair(cpu, size, (uint64_t)r, hi);
    x86_cc_set_cf_of(cpu, hi != 0, hi != 0); // the others are undefined: kept, as by AMD's
}
EXEC(imul)
{
    unsigned size = x->opsize, shift = 64 - size * 8;
    int64_t b = (int64_t)(interp_get_rm(cpu, x, size) << shift) >> shift;
    int64_t a = (int64_t)(interp_get(cpu, X86_RAX, size) << shift) >> shift;
    __int128 r = (__int128)a * b;
    bool over = (int64_t)((uint64_t)r << shift) >> shift != r;
    put_pair(cpu, size, (uint64_t)r, (uint64_t)(r >> (size * 8)));
    x86_cc_set_cf_of(cpu, over, over);
}
// All flags are undefined after a division: AMD's processors set AF, clear SF, ZF and PF, keep CF and OF.
static void divide_flags(struct x86_cpu *cpu)
{
    cpu->cc_res = 1;
    cpu->cc_aux = (cpu->cc_aux & (UINT64_C(3) << 62)) | X86_CC_AF;
}
static unsigned __int128 get_pair(struct x86_cpu *cpu, unsigned size)
{
    if (size == 1)
        return (uint16_t)cpu->gpr[X86_RAX];
    return (unsigned __int128)interp_get(cpu, X86_RDX, size) << (size * 8) |
           interp_get(cpu, X86_RAX, size);
}
EXEC(div)
{
    unsigned size = x->opsize;
    uint64_t d = interp_get_rm(cpu, x, size);
    unsigned __int128 n = get_pair(cpu, size), q;
    if (d == 0 || (uint64_t)(n >> (size * 8)) >= d)
        x86_raise(cpu, X86_DE);
    q = n >> 64 ? n / d : (uint64_t)n / d;
    put_pair(cpu, size, (uint64_t)q, (uint64_t)(n - q * d));
    divide_flags(cpu);
}
EXEC(idiv)
{
    unsigned size = x->opsize, bits = size * 8, shift = 128 - 2 * bits;
    int64_t d = (int64_t)(interp_get_rm(cpu, x, size) << (64 - bits)) >> (64 - bits);
    __int128 n = (__int128)(get_pair(cpu, size) << shift) >> shift, q;
    bool negative = (n < 0) != (d < 0);
    unsigned __int128 un = n < 0 ? -(unsigned __int128)n : (unsigned __int128)n, uq;
    uint64_t ud = d < 0 ? -(uint64_t)d : (uint64_t)d;
    if (ud == 0)
        x86_raise(cpu, X86_DE);
    uq = un >> 64 ? un / ud : (uint64_t)un / ud;
    if (uq > (UINT64_C(1) << (bits - 1)) - !negative)
        x86_raise(cpu, X86_DE);
    q = negative ? -(__int128)uq : (__int128)uq;
    put_pair(cpu, size, (uint64_t)q, (uint64_t)(n - q * d));
    divide_flags(cpu);
}

// --- BCD (SDM vol. 2) ---------------------------------------------------------------------------------------
// The flags that are undefined come from the addition or subtraction of the adjustment, as AMD's processors
// have them.

static void bcd_flags(struct x86_cpu *cpu, bool cf, bool af)
{
    x86_cc_put(cpu, (x86_cc_get(cpu) & ~(X86_FLAG_CF | X86_FLAG_AF)) | (cf ? X86_FLAG_CF : 0) |
                        (af ? X86_FLAG_AF : 0));
}
static void daa_das(struct x86_cpu *cpu, int sign)
{
    uint8_t old = (uint8_t)cpu->gpr[X86_RAX], al = old;
    bool old_cf = x86_cf(cpu), cf = false, af = false;
    uint8_t adjust = 0;
    if ((al & 15) > 9 || x86_af(cpu)) {
        cf = old_cf || (sign > 0 ? al > 0xf9 : al < 6);
        adjust = 6;
        af = true;
    }
    if (old > 0x99 || old_cf) {
        adjust |= 0x60;
        cf = true;
    }
    al = (uint8_t)hot_alu(cpu, sign > 0 ? ALU_ADD : ALU_SUB, 8, al, adjust);
    interp_put8(cpu, X86_RAX, al);
    bcd_flags(cpu, cf, af);
}
EXEC(daa)
{
    daa_das(cpu, 1);
}
EXEC(das)
{
    daa_das(cpu, -1);
}
static void aaa_aas(struct x86_cpu *cpu, int sign)
{
    uint16_t ax = (uint16_t)cpu->gpr[X86_RAX];
    bool adjust = (ax & 15) > 9 || x86_af(cpu);
    ax = (uint16_t)hot_alu(cpu, sign > 0 ? ALU_ADD : ALU_SUB, 16, ax, adjust ? 0x106 : 0);
    interp_put(cpu, X86_RAX, 2, ax & 0xff0f);
    bcd_flags(cpu, adjust, adjust);
}
EXEC(aaa)
{
    aaa_aas(cpu, 1);
}
EXEC(aas)
{
    aaa_aas(cpu, -1);
}
EXEC(aam)
{
    uint8_t al = (uint8_t)cpu->gpr[X86_RAX], base = (uint8_t)x->imm;
    if (base == 0)
        x86_raise(cpu, X86_DE);
    interp_put(cpu, X86_RAX, 2, (uint64_t)(al / base) << 8 | al % base);
    x86_cc_logic(cpu, 8, al % base);
}
EXEC(aad)
{
    uint16_t ax = (uint16_t)cpu->gpr[X86_RAX];
    uint8_t add = (uint8_t)((ax >> 8) * (uint8_t)x->imm);
    interp_put(cpu, X86_RAX, 2, (uint8_t)hot_alu(cpu, ALU_ADD, 8, ax, add));
}

// --- others --------------------------------------------------------------------------------------------------

EXEC(xlat)
{
    uint64_t ea = (cpu->gpr[X86_RBX] + (uint8_t)cpu->gpr[X86_RAX]) & exec_mask(x->adsize);
    interp_put8(cpu, X86_RAX, x86_read8(cpu, x->seg, ea));
}
EXEC(salc)
{
    interp_put8(cpu, X86_RAX, x86_cf(cpu) ? 0xff : 0);
}
EXEC(lahf)
{
    interp_put8(cpu, X86_REG8_HIGH, (uint8_t)((x86_cc_get(cpu) & 0xd5) | X86_FLAG_R1));
}
EXEC(sahf)
{
    uint8_t ah = (uint8_t)(cpu->gpr[X86_RAX] >> 8);
    x86_cc_put(cpu, (ah & 0xd5) | (x86_of(cpu) ? X86_FLAG_OF : 0));
}
EXEC(movnti)
{
    unsigned size = x->opsize == 8 ? 8 : 4;
    interp_write(cpu, x->seg, interp_ea(cpu, x), size, interp_get(cpu, x->reg, size));
}
EXEC(bound)
{
    unsigned size = x->opsize, shift = 64 - size * 8;
    uint64_t ea = interp_ea(cpu, x);
    int64_t low = (int64_t)(interp_read(cpu, x->seg, ea, size) << shift) >> shift;
    int64_t high =
        (int64_t)(interp_read(cpu, x->seg, (ea + size) & exec_mask(x->adsize), size) << shift) >>
        shift;
    int64_t index = (int64_t)(interp_get(cpu, x->reg, size) << shift) >> shift;
    if (index < low || index > high)
        x86_raise(cpu, X86_BR);
}
// The destination is read first and written only when it changes.
EXEC(arpl)
{
    uint16_t reg = (uint16_t)cpu->gpr[x->reg];
    uint16_t old = (uint16_t)interp_get_rm(cpu, x, 2);
    bool lower = (old & 3) < (reg & 3);
    if (lower)
        interp_put_rm(cpu, x, 2, (old & ~3u) | (reg & 3));
    exec_put_zf(cpu, lower);
}

#define RMW_ENTRIES(op)                                                     \
    EXEC_ENTRY(op##_Eb_Gb, op##_reg), EXEC_ENTRY(op##_Ev_Gv, op##_reg),     \
        EXEC_ENTRY(op##_Eb_Ib, op##_imm), EXEC_ENTRY(op##_Ev_Iz, op##_imm), \
        EXEC_ENTRY(op##_Eb_Ib_alt, op##_imm), EXEC_ENTRY(op##_Ev_Ibs, op##_imm)
const struct exec_entry exec_alu_entries[] = {
    RMW_ENTRIES(add),
    RMW_ENTRIES(or),
    RMW_ENTRIES(adc),
    RMW_ENTRIES(sbb),
    RMW_ENTRIES(and),
    RMW_ENTRIES(sub),
    RMW_ENTRIES(xor),
    EXEC_ENTRY(inc_Eb, inc),
    EXEC_ENTRY(inc_Ev, inc),
    EXEC_ENTRY(dec_Eb, dec),
    EXEC_ENTRY(dec_Ev, dec),
    EXEC_ENTRY(not_Eb, not_),
    EXEC_ENTRY(not_Ev, not_),
    EXEC_ENTRY(neg_Eb, neg),
    EXEC_ENTRY(neg_Ev, neg),
    EXEC_ENTRY(xchg_Eb_Gb, xchg),
    EXEC_ENTRY(xchg_Ev_Gv, xchg),
    EXEC_ENTRY(xchg_Zv_rAX, xchg_rax),
    EXEC_ENTRY(xadd_Eb_Gb, xadd),
    EXEC_ENTRY(xadd_Ev_Gv, xadd),
    EXEC_ENTRY(cmpxchg_Eb_Gb, cmpxchg),
    EXEC_ENTRY(cmpxchg_Ev_Gv, cmpxchg),
    EXEC_ENTRY(cmpxchg8b_Mq, cmpxchg8b),
    EXEC_ENTRY(cmpxchg16b_Mdq, cmpxchg16b),
    EXEC_ENTRY(bt_Ev_Gv, bt_reg),
    EXEC_ENTRY(bt_Ev_Ib, bt_imm),
    EXEC_ENTRY(bts_Ev_Gv, bts_reg),
    EXEC_ENTRY(bts_Ev_Ib, bts_imm),
    EXEC_ENTRY(btr_Ev_Gv, btr_reg),
    EXEC_ENTRY(btr_Ev_Ib, btr_imm),
    EXEC_ENTRY(btc_Ev_Gv, btc_reg),
    EXEC_ENTRY(btc_Ev_Ib, btc_imm),
    EXEC_ENTRY(mul_Eb, mul),
    EXEC_ENTRY(mul_Ev, mul),
    EXEC_ENTRY(imul_Eb, imul),
    EXEC_ENTRY(imul_Ev, imul),
    EXEC_ENTRY(div_Eb, div),
    EXEC_ENTRY(div_Ev, div),
    EXEC_ENTRY(idiv_Eb, idiv),
    EXEC_ENTRY(idiv_Ev, idiv),
    EXEC_ENTRY(daa, daa),
    EXEC_ENTRY(das, das),
    EXEC_ENTRY(aaa, aaa),
    EXEC_ENTRY(aas, aas),
    EXEC_ENTRY(aam_Ib, aam),
    EXEC_ENTRY(aad_Ib, aad),
    EXEC_ENTRY(xlatb, xlat),
    EXEC_ENTRY(salc, salc),
    EXEC_ENTRY(lahf, lahf),
    EXEC_ENTRY(sahf, sahf),
    EXEC_ENTRY(movnti_My_Gy, movnti),
    EXEC_ENTRY(bound_Gv_Ma, bound),
    EXEC_ENTRY(arpl_Ew_Gw, arpl),
    {0, NULL},
};
