// SPDX-License-Identifier: Apache-2.0
// Plain functions: rotates, double shifts, bit scans and counts, BMI, ADX, CRC32, MOVBE, BSWAP.
// Undefined flags become what AMD's processors make of them.
#include "engine/interp/exec.h"
#include "engine/interp/hot.h"

// --- rotates, through the carry or not ----------------------------------------------------------------------

enum rotate_op {
    ROT_ROL,
    ROT_ROR,
    ROT_RCL,
    ROT_RCR
};

static uint64_t rotate(struct x86_cpu *cpu, enum rotate_op op, unsigned size, uint64_t a,
                       unsigned count)
{
    unsigned bits = size * 8, n;
    uint64_t mask = exec_mask(size), r = a;
    bool cf = x86_cf(cpu), msb, next;
    count &= size == 8 ? 63 : 31;
    if (count == 0)
        return a;
    switch (op) {
    case ROT_ROL:
        n = count & (bits - 1);
        if (n)
            r = (a << n | a >> (bits - n)) & mask;
        cf = r & 1;
        break;
    case ROT_ROR:
        n = count & (bits - 1);
        if (n)
            r = (a >> n | a << (bits - n)) & mask;
        cf = r >> (bits - 1) & 1;
        break;
    case ROT_RCL:
        for (n = bits < 32 ? count % (bits + 1) : count; n; n--) {
            bool out = r >> (bits - 1) & 1;
            r = (r << 1 | cf) & mask;
            cf = out;
        }
        break;
    default:
        for (n = bits < 32 ? count % (bits + 1) : count; n; n--) {
            bool out = r & 1;
            r = r >> 1 | (uint64_t)cf << (bits - 1);
            cf = out;
        }
    }
    msb = r >> (bits - 1) & 1;
    next = r >> (bits - 2) & 1;
    x86_cc_set_cf_of(cpu, cf, op == ROT_ROL || op == ROT_RCL ? msb ^ cf : msb ^ next);
    return r;
}

static void rotate_rm(struct x86_cpu *cpu, const struct x86_insn *x, enum rotate_op op,
                      unsigned count)
{
    unsigned size = x->opsize;
    if (x->has_mem) {
        struct x86_rmw m;
        uint64_t old;
        x86_rmw_begin(cpu, &m, x->seg, interp_ea(cpu, x), size);
        old = m.host ? hot_host_load(size * 8, m.host) : x86_rmw_load(cpu, &m);
        old = rotate(cpu, op, size, old, count);
        if (m.host)
            hot_host_store(size * 8, m.host, old);
        else
            x86_rmw_store(cpu, &m, old);
        x86_rmw_end(cpu, &m);
    } else {
        interp_put(cpu, x->rm, size, rotate(cpu, op, size, interp_get(cpu, x->rm, size), count));
    }
}
#define ROTATE(name, op)                                   \
    EXEC(name##_imm)                                       \
    {                                                      \
        rotate_rm(cpu, x, op, (uint8_t)x->imm);            \
    }                                                      \
    EXEC(name##_one)                                       \
    {                                                      \
        rotate_rm(cpu, x, op, 1);                          \
    }                                                      \
    EXEC(name##_cl)                                        \
    {                                                      \
        rotate_rm(cpu, x, op, (uint8_t)cpu->gpr[X86_RCX]); \
    }
ROTATE(rol, ROT_ROL)
ROTATE(ror, ROT_ROR)
ROTATE(rcl, ROT_RCL)
ROTATE(rcr, ROT_RCR)

// --- SHLD, SHRD -----------------------------------------------------------------------------------------------

// 16-bit counts above 16 are undefined. On AMD's processors the bits of src follow again, and CF and SHLD's
// OF come from shifting dest alone. (Intel's: dest:src:dest.)
static uint64_t double_shift(struct x86_cpu *cpu, bool right, unsigned size, uint64_t a, uint64_t b,
                             unsigned count)
{
    unsigned bits = size * 8;
    uint64_t r, mask = exec_mask(size);
    bool cf, of;
    count &= size == 8 ? 63 : 31;
    if (count == 0)
        return a;
    if (size == 2) {
        uint64_t wide;
        if (right) {
            wide = a | b << 16 | b << 32;
            cf = a >> (count - 1) & 1;
            r = wide >> count & mask;
        } else {
            wide = a << 32 | b << 16 | b;
            cf = a << count >> 16 & 1;
            r = wide >> (32 - count) & mask;
        }
    } else if (right) {
        cf = a >> (count - 1) & 1;
        r = (a >> count | b << (bits - count)) & mask;
    } else {
        cf = a >> (bits - count) & 1;
        r = (a << count | b >> (bits - count)) & mask;
    }
    of = right ? (r >> (bits - 1) ^ r >> (bits - 2)) & 1 : (a << count >> (bits - 1) & 1) ^ cf;
    x86_cc_logic(cpu, bits, r);
    cpu->cc_aux |= X86_CC_AF;
    x86_cc_set_cf_of(cpu, cf, of);
    return r;
}
static void double_shift_rm(struct x86_cpu *cpu, const struct x86_insn *x, bool right,
                            unsigned count)
{
    unsigned size = x->opsize;
    uint64_t b = interp_get(cpu, x->reg, size);
    if (x->has_mem) {
        struct x86_rmw m;
        uint64_t old;
        x86_rmw_begin(cpu, &m, x->seg, interp_ea(cpu, x), size);
        old = m.host ? hot_host_load(size * 8, m.host) : x86_rmw_load(cpu, &m);
        old = double_shift(cpu, right, size, old, b, count);
        if (m.host)
            hot_host_store(size * 8, m.host, old);
        else
            x86_rmw_store(cpu, &m, old);
        x86_rmw_end(cpu, &m);
    } else {
        interp_put(cpu, x->rm, size,
                   double_shift(cpu, right, size, interp_get(cpu, x->rm, size), b, count));
    }
}
EXEC(shld_imm)
{
    double_shift_rm(cpu, x, false, (uint8_t)x->imm);
}
EXEC(shld_cl)
{
    double_shift_rm(cpu, x, false, (uint8_t)cpu->gpr[X86_RCX]);
}
EXEC(shrd_imm)
{
    double_shift_rm(cpu, x, true, (uint8_t)x->imm);
}
EXEC(shrd_cl)
{
    double_shift_rm(cpu, x, true, (uint8_t)cpu->gpr[X86_RCX]);
}

// --- scans and counts -----------------------------------------------------------------------------------------

// A source of 0 leaves the destination alone, its upper half too.
static void scan(struct x86_cpu *cpu, const struct x86_insn *x, uint64_t a, uint64_t r)
{
    if (!a) {
        x86_cc_put(cpu, X86_FLAG_ZF | X86_FLAG_PF);
        return;
    }
    interp_put(cpu, x->reg, x->opsize, r);
    x86_cc_put(cpu, __builtin_parityll(r) ? 0 : X86_FLAG_PF);
}
EXEC(bsf)
{
    uint64_t a = interp_get_rm(cpu, x, x->opsize);
    scan(cpu, x, a, a ? (uint64_t)__builtin_ctzll(a) : 0);
}
EXEC(bsr)
{
    uint64_t a = interp_get_rm(cpu, x, x->opsize);
    scan(cpu, x, a, a ? 63 - (uint64_t)__builtin_clzll(a) : 0);
}
static void count_flags(struct x86_cpu *cpu, bool cf, bool zf)
{
    x86_cc_put(cpu,
               (x86_of(cpu) ? X86_FLAG_OF : 0) | (cf ? X86_FLAG_CF : 0) | (zf ? X86_FLAG_ZF : 0));
}
EXEC(tzcnt)
{
    uint64_t a = interp_get_rm(cpu, x, x->opsize);
    uint64_t r = a ? (uint64_t)__builtin_ctzll(a) : x->opsize * 8u;
    interp_put(cpu, x->reg, x->opsize, r);
    count_flags(cpu, a == 0, r == 0);
}
EXEC(lzcnt)
{
    uint64_t a = interp_get_rm(cpu, x, x->opsize);
    uint64_t r = a ? (uint64_t)__builtin_clzll(a) - (64 - x->opsize * 8u) : x->opsize * 8u;
    interp_put(cpu, x->reg, x->opsize, r);
    count_flags(cpu, a == 0, r == 0);
}
EXEC(popcnt)
{
    uint64_t a = interp_get_rm(cpu, x, x->opsize);
    interp_put(cpu, x->reg, x->opsize, (uint64_t)__builtin_popcountll(a));
    x86_cc_put(cpu, a == 0 ? X86_FLAG_ZF : 0);
}

// --- BMI1, BMI2: operands of 4 or 8 bytes by VEX.W ----------------------------------------------------------------

static unsigned ysize(const struct x86_insn *x)
{
    return x->opsize == 8 ? 8 : 4;
}
// SF and ZF from the result, CF as given, OF clear.
static void bmi_flags(struct x86_cpu *cpu, unsigned size, uint64_t r, bool cf)
{
    x86_cc_logic(cpu, size * 8, r);
    x86_cc_set_cf_of(cpu, cf, false);
}
EXEC(andn)
{
    unsigned size = ysize(x);
    uint64_t r = ~interp_get(cpu, x->vvvv, size) & interp_get_rm(cpu, x, size);
    interp_put(cpu, x->reg, size, r);
    bmi_flags(cpu, size, r, false);
}
EXEC(bextr)
{
    unsigned size = ysize(x);
    uint64_t a = interp_get_rm(cpu, x, size), control = cpu->gpr[x->vvvv & 15];
    unsigned start = control & 0xff, len = control >> 8 & 0xff;
    uint64_t r = start < size * 8 ? a >> start : 0;
    if (len < 64)
        r &= (UINT64_C(1) << len) - 1;
    interp_put(cpu, x->reg, size, r);
    bmi_flags(cpu, size, r, false);
    // SF, AF and PF are undefined: AF is set, SF follows the result of a length within the operand.
    cpu->cc_aux |= X86_CC_AF | (len > size * 8 && x86_sf(cpu));
}
EXEC(blsr)
{
    unsigned size = ysize(x);
    uint64_t a = interp_get_rm(cpu, x, size), r = a & (a - 1);
    interp_put(cpu, x->vvvv, size, r);
    bmi_flags(cpu, size, r, a == 0);
}
EXEC(blsmsk)
{
    unsigned size = ysize(x);
    uint64_t a = interp_get_rm(cpu, x, size), r = (a ^ (a - 1)) & exec_mask(size);
    interp_put(cpu, x->vvvv, size, r);
    bmi_flags(cpu, size, r, a == 0);
}
EXEC(blsi)
{
    unsigned size = ysize(x);
    uint64_t a = interp_get_rm(cpu, x, size), r = a & -a;
    interp_put(cpu, x->vvvv, size, r);
    bmi_flags(cpu, size, r, a != 0);
}
EXEC(bzhi)
{
    unsigned size = ysize(x), n = (uint8_t)cpu->gpr[x->vvvv & 15];
    uint64_t r = interp_get_rm(cpu, x, size);
    if (n < size * 8)
        r &= (UINT64_C(1) << n) - 1;
    interp_put(cpu, x->reg, size, r);
    bmi_flags(cpu, size, r, n > size * 8 - 1);
}
EXEC(pext)
{
    unsigned size = ysize(x), k = 0;
    uint64_t mask = interp_get_rm(cpu, x, size), a = interp_get(cpu, x->vvvv, size), r = 0;
    for (; mask; mask &= mask - 1, k++)
        r |= (a >> __builtin_ctzll(mask) & 1) << k;
    interp_put(cpu, x->reg, size, r);
}
EXEC(pdep)
{
    unsigned size = ysize(x), k = 0;
    uint64_t mask = interp_get_rm(cpu, x, size), a = interp_get(cpu, x->vvvv, size), r = 0;
    for (; mask; mask &= mask - 1, k++)
        r |= (a >> k & 1) << __builtin_ctzll(mask);
    interp_put(cpu, x->reg, size, r);
}
EXEC(mulx)
{
    unsigned size = ysize(x);
    uint64_t b = interp_get_rm(cpu, x, size);
    unsigned __int128 r = (unsigned __int128)interp_get(cpu, X86_RDX, size) * b;
    interp_put(cpu, x->vvvv, size, (uint64_t)r);
    interp_put(cpu, x->reg, size,
               (uint64_t)(r >> (size * 8))); // the high half wins if both are one
}
EXEC(shlx)
{
    unsigned size = ysize(x), n = cpu->gpr[x->vvvv & 15] & (size * 8 - 1);
    interp_put(cpu, x->reg, size, interp_get_rm(cpu, x, size) << n);
}
EXEC(shrx)
{
    unsigned size = ysize(x), n = cpu->gpr[x->vvvv & 15] & (size * 8 - 1);
    interp_put(cpu, x->reg, size, interp_get_rm(cpu, x, size) >> n);
}
EXEC(sarx)
{
    unsigned size = ysize(x), n = cpu->gpr[x->vvvv & 15] & (size * 8 - 1);
    uint64_t a = interp_get_rm(cpu, x, size);
    interp_put(cpu, x->reg, size,
               (uint64_t)(size == 8 ? (int64_t)a >> n : (int64_t)((int32_t)a >> n)));
}
EXEC(rorx)
{
    unsigned size = ysize(x), n = x->imm & (size * 8 - 1);
    uint64_t a = interp_get_rm(cpu, x, size);
    interp_put(cpu, x->reg, size, n ? a >> n | a << (size * 8 - n) : a);
}

// --- others ---------------------------------------------------------------------------------------------------

// Adds the r/m operand and `in` to the register operand; returns the carry out.
static bool add_rm(struct x86_cpu *cpu, const struct x86_insn *x, bool in)
{
    unsigned size = ysize(x);
    uint64_t b = interp_get_rm(cpu, x, size), a = interp_get(cpu, x->reg, size);
    uint64_t r = a + b + in;
    interp_put(cpu, x->reg, size, r);
    return size == 4 ? r >> 32 & 1 : r < a || (in && r == a);
}
EXEC(adcx)
{
    bool out = add_rm(cpu, x, x86_cf(cpu));
    x86_cc_set_cf_of(cpu, out, x86_of(cpu));
}
EXEC(adox)
{
    bool out = add_rm(cpu, x, x86_of(cpu));
    x86_cc_set_cf_of(cpu, x86_cf(cpu), out);
}
static uint32_t crc32c(uint32_t crc, uint64_t data, unsigned size)
{
    // The polynomial 11EDC6F41h reflected, four bits at a time.
    static const uint32_t step[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
        0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    for (unsigned i = 0; i < size; i++) {
        crc ^= (uint8_t)(data >> (8 * i));
        crc = crc >> 4 ^ step[crc & 15];
        crc = crc >> 4 ^ step[crc & 15];
    }
    return crc;
}
EXEC(crc32_b)
{
    uint64_t b = interp_get_rm(cpu, x, 1);
    cpu->gpr[x->reg & 15] = crc32c((uint32_t)cpu->gpr[x->reg & 15], b, 1);
}
EXEC(crc32_v)
{
    uint64_t b = interp_get_rm(cpu, x, x->opsize);
    cpu->gpr[x->reg & 15] = crc32c((uint32_t)cpu->gpr[x->reg & 15], b, x->opsize);
}
static uint64_t swap(uint64_t v, unsigned size)
{
    return __builtin_bswap64(v) >> (64 - size * 8);
}
EXEC(movbe_load)
{
    interp_put(cpu, x->reg, x->opsize, swap(interp_get_rm(cpu, x, x->opsize), x->opsize));
}
EXEC(movbe_store)
{
    interp_put_rm(cpu, x, x->opsize, swap(interp_get(cpu, x->reg, x->opsize), x->opsize));
}
EXEC(bswap) // 16 bits: undefined; processors clear the register
{
    interp_put(cpu, x->reg, x->opsize,
               x->opsize == 2 ? 0 : swap(interp_get(cpu, x->reg, x->opsize), x->opsize));
}

#define ROTATE_ENTRIES(op)                                                \
    EXEC_ENTRY(op##_Eb_Ib, op##_imm), EXEC_ENTRY(op##_Ev_Ib, op##_imm),   \
        EXEC_ENTRY(op##_Eb_1, op##_one), EXEC_ENTRY(op##_Ev_1, op##_one), \
        EXEC_ENTRY(op##_Eb_CL, op##_cl), EXEC_ENTRY(op##_Ev_CL, op##_cl)
const struct exec_entry exec_bits_entries[] = {
    ROTATE_ENTRIES(rol),
    ROTATE_ENTRIES(ror),
    ROTATE_ENTRIES(rcl),
    ROTATE_ENTRIES(rcr),
    EXEC_ENTRY(shld_Ev_Gv_Ib, shld_imm),
    EXEC_ENTRY(shld_Ev_Gv_CL, shld_cl),
    EXEC_ENTRY(shrd_Ev_Gv_Ib, shrd_imm),
    EXEC_ENTRY(shrd_Ev_Gv_CL, shrd_cl),
    EXEC_ENTRY(bsf_Gv_Ev, bsf),
    EXEC_ENTRY(bsr_Gv_Ev, bsr),
    EXEC_ENTRY(tzcnt_Gv_Ev, tzcnt),
    EXEC_ENTRY(lzcnt_Gv_Ev, lzcnt),
    EXEC_ENTRY(popcnt_Gv_Ev, popcnt),
    EXEC_ENTRY(andn_Gy_By_Ey, andn),
    EXEC_ENTRY(bextr_Gy_Ey_By, bextr),
    EXEC_ENTRY(blsr_By_Ey, blsr),
    EXEC_ENTRY(blsmsk_By_Ey, blsmsk),
    EXEC_ENTRY(blsi_By_Ey, blsi),
    EXEC_ENTRY(bzhi_Gy_Ey_By, bzhi),
    EXEC_ENTRY(pext_Gy_By_Ey, pext),
    EXEC_ENTRY(pdep_Gy_By_Ey, pdep),
    EXEC_ENTRY(mulx_Gy_By_Ey, mulx),
    EXEC_ENTRY(shlx_Gy_Ey_By, shlx),
    EXEC_ENTRY(shrx_Gy_Ey_By, shrx),
    EXEC_ENTRY(sarx_Gy_Ey_By, sarx),
    EXEC_ENTRY(rorx_Gy_Ey_Ib, rorx),
    EXEC_ENTRY(adcx_Gy_Ey, adcx),
    EXEC_ENTRY(adox_Gy_Ey, adox),
    EXEC_ENTRY(crc32_Gy_Eb, crc32_b),
    EXEC_ENTRY(crc32_Gy_Ev, crc32_v),
    EXEC_ENTRY(movbe_Gv_Mv, movbe_load),
    EXEC_ENTRY(movbe_Mv_Gv, movbe_store),
    EXEC_ENTRY(bswap_Zv, bswap),
    {0, NULL},
};
