// SPDX-License-Identifier: Apache-2.0
#include "values.h"
#include <string.h>

uint64_t rng_next(struct rng *rng)
{
    uint64_t z = rng->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t rng_below(struct rng *rng, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)rng_next(rng) * n) >> 64);
}

bool rng_chance(struct rng *rng, unsigned percent)
{
    return rng_below(rng, 100) < percent;
}

uint64_t value_int(struct rng *rng)
{
    static const uint8_t widths[4] = {8, 16, 32, 64};
    unsigned width = widths[rng_below(rng, 4)];
    uint64_t bit = UINT64_C(1) << rng_below(rng, 64);
    switch (rng_below(rng, 12)) {
    case 0:
        return 0;
    case 1:
        return ~UINT64_C(0);
    case 2:
        return rng_below(rng, 256);
    case 3:
        return 0 - rng_below(rng, 256);
    case 4:
        return bit;
    case 5:
        return bit - 1;
    case 6:
        return 0 - bit;
    case 7: // around the sign bit of some width, with rubbish above it or not
        return ((UINT64_C(1) << (width - 1)) + rng_below(rng, 3) - 1) |
               (width < 64 && rng_chance(rng, 50) ? rng_next(rng) << width : 0);
    case 8:
        return (uint64_t)(int64_t)(int32_t)rng_next(rng);
    case 9:
        return rng_next(rng) >> rng_below(rng, 64);
    case 10:
        return rng_below(rng, 256) * UINT64_C(0x0101010101010101);
    default:
        return rng_next(rng);
    }
}

// A float of any format with `exp_bits` and `frac_bits` (fraction without an explicit leading bit).
static uint64_t value_float(struct rng *rng, unsigned exp_bits, unsigned frac_bits)
{
    uint64_t max = (UINT64_C(1) << exp_bits) - 1, bias = max >> 1;
    uint64_t frac_mask = (UINT64_C(1) << frac_bits) - 1;
    uint64_t sign = rng_below(rng, 2), exponent = bias, frac = 0;
    switch (rng_below(rng, 16)) {
    case 0: // zero
        exponent = 0;
        break;
    case 1: // denormals: least, greatest, any
        exponent = 0;
        frac = rng_chance(rng, 30) ? 1 : rng_chance(rng, 30) ? frac_mask : rng_next(rng);
        break;
    case 2: // least normal and its neighbours
        exponent = 1;
        frac = rng_chance(rng, 50) ? 0 : rng_below(rng, 4);
        break;
    case 3: // greatest
        exponent = max - 1;
        frac = rng_chance(rng, 50) ? frac_mask : rng_next(rng);
        break;
    case 4: // infinity
        exponent = max;
        break;
    case 5: // quiet NaN with a payload
        exponent = max;
        frac = (UINT64_C(1) << (frac_bits - 1)) | (rng_chance(rng, 50) ? 0 : rng_next(rng));
        break;
    case 6: // signalling NaN
        exponent = max;
        frac = ((rng_next(rng) & (frac_mask >> 1)) | 1);
        break;
    case 7: // one
        break;
    case 8: // small whole numbers and halves
        exponent = bias + rng_below(rng, 8);
        frac = rng_next(rng) << (frac_bits - rng_below(rng, 6));
        break;
    case 9: // around the limits of int16, int32 and int64
        exponent = bias + (uint64_t[]){15, 31, 63, 30, 62, 7}[rng_below(rng, 6)];
        if (exponent > max - 1)
            exponent = max - 1;
        frac = rng_chance(rng, 30) ? 0 : rng_chance(rng, 50) ? frac_mask : rng_next(rng);
        break;
    case 10: // near one: cancellation and rounding
        exponent = bias - rng_below(rng, 2);
        frac = rng_chance(rng, 50) ? rng_below(rng, 4) : frac_mask - rng_below(rng, 4);
        break;
    case 11: // any bits
        return rng_next(rng) & ((UINT64_C(1) << (exp_bits + frac_bits)) * 2 - 1);
    default: // ordinary magnitudes
        exponent = bias - 10 + rng_below(rng, 20);
        frac = rng_next(rng);
        break;
    }
    return sign << (exp_bits + frac_bits) | (exponent & max) << frac_bits | (frac & frac_mask);
}

uint16_t value_f16(struct rng *rng)
{
    return (uint16_t)value_float(rng, 5, 10);
}

uint32_t value_f32(struct rng *rng)
{
    return (uint32_t)value_float(rng, 8, 23);
}

uint64_t value_f64(struct rng *rng)
{
    return rng_chance(rng, 4) ? rng_next(rng) : value_float(rng, 11, 52);
}

void value_f80(struct rng *rng, uint8_t out[10])
{
    uint64_t f = value_f64(rng), significand = (f & ((UINT64_C(1) << 52) - 1)) << 11;
    unsigned exponent = (f >> 52) & 0x7ff, sign = (unsigned)(f >> 63);
    if (exponent == 0x7ff) {
        exponent = 0x7fff;
        significand |= UINT64_C(1) << 63;
    } else if (exponent) {
        exponent = rng_chance(rng, 6) ? (unsigned)rng_below(rng, 0x7fff) : exponent + 16383 - 1023;
        significand |= UINT64_C(1) << 63;
    } else if (significand && rng_chance(rng, 20)) {
        significand |= UINT64_C(1) << 63; // pseudo-denormal
    }
    if (rng_chance(rng, 30))
        significand |= rng_next(rng) & 0x7ff;
    if (rng_chance(rng, 3))
        significand &= ~(UINT64_C(1) << 63); // unnormal, pseudo-infinity, pseudo-NaN
    if (rng_chance(rng, 3))
        exponent =
            (unsigned)(uint64_t[]){0, 1, 0x7ffe, 0x7fff, 16383 + 63, 16383 - 66}[rng_below(rng, 6)];
    memcpy(out, &significand, 8);
    out[8] = (uint8_t)exponent;
    out[9] = (uint8_t)(exponent >> 8 | sign << 7);
}

static void fill_bcd(struct rng *rng, uint8_t out[16])
{
    uint64_t keep = rng_below(rng, 19);
    memset(out, 0, 16);
    for (unsigned i = 0; i < 18; i++)
        if (i < keep)
            out[i / 2] |= (uint8_t)((rng_chance(rng, 1) ? rng_below(rng, 16) : rng_below(rng, 10))
                                    << (4 * (i & 1)));
    out[9] = rng_chance(rng, 50) ? 0x80 : 0;
}

void value_fill(struct rng *rng, enum filling filling, void *data, unsigned size)
{
    uint8_t *p = data;
    for (unsigned at = 0; at < size; at += 16, p += 16) {
        uint64_t q[2] = {0, 0};
        uint16_t h[8];
        uint32_t w[4];
        switch (filling) {
        case FILL_INT8:
            for (unsigned i = 0; i < 4; i++) {
                uint32_t v = (uint32_t)value_int(rng);
                w[i] = i & 1 ? v : (uint32_t)(uint16_t)v | (uint32_t)value_int(rng) << 16;
            }
            memcpy(p, w, 16);
            continue;
        case FILL_F16:
            for (unsigned i = 0; i < 8; i++)
                h[i] = value_f16(rng);
            memcpy(p, h, 16);
            continue;
        case FILL_F32:
            for (unsigned i = 0; i < 4; i++)
                w[i] = value_f32(rng);
            memcpy(p, w, 16);
            continue;
        case FILL_F64:
            q[0] = value_f64(rng);
            q[1] = value_f64(rng);
            break;
        case FILL_F80:
            q[1] = rng_next(rng);
            memcpy(p, q, 16);
            value_f80(rng, p);
            continue;
        case FILL_BCD:
            fill_bcd(rng, p);
            continue;
        case FILL_INT:
            q[0] = value_int(rng);
            q[1] = value_int(rng);
            break;
        default:
            q[0] = rng_next(rng);
            q[1] = rng_next(rng);
            break;
        }
        memcpy(p, q, 16);
    }
}
