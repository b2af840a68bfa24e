// SPDX-License-Identifier: Apache-2.0
// FSTENV, FSAVE and FLDENV in the layouts of real-address form: see fpu.c.
#include "fpu.h"
#include "mode16.h"
#include "mode16_real.h"

#define CW 0x300
#define ZERO 0x310
#define IMAGE 0x320

static struct m16 m;

static const struct m16_end *pend_and_store(const char *store, u32 size)
{
    // fninit; fldcw [CW]; fld1; fdiv dword [ZERO]; store [IMAGE]
    static const char pend[] = "\xdb\xe3\xd9\x2e\x00\x03\xd9\xe8\xd8\x36\x10\x03";
    u8 code[32];
    u32 n = 0;

    for (u32 i = 0; i < sizeof(pend) - 1; i++)
        code[n++] = (u8)pend[i];
    for (u32 i = 0; i < size; i++)
        code[n++] = (u8)store[i];
    m16_init(&m);
    m16_put16(M16_DS, CW, ZE_UNMASKED);
    m16_put32(M16_DS, ZERO, 0);
    for (u32 i = 0; i < 112; i++)
        *m16_at(M16_DS, IMAGE + i) = 0xa5;
    const struct m16_end *e = m16_do(&m, code, n);
    m16_expect_ran("store with an exception pending", &m, e, n);
    return e;
}

static u32 image16(u32 at)
{
    return m16_get16(M16_DS, IMAGE + at);
}

static void layout_real(void)
{
    const u32 ip = M16_CS * 16 + 0x108, dp = M16_DS * 16 + ZERO, fop = 0x036;

    if (!pend_and_store("\xd9\x36\x20\x03", 4)->skipped) { // fnstenv, 14 bytes
        lab_equal("fcw", image16(0), ZE_UNMASKED);
        lab_equal("fsw", image16(2), FSW_PENDING);
        lab_equal("ftw", image16(4), 0x3fff);
        lab_equal("ip", image16(6), ip & 0xffff);
        lab_equal("ip and opcode", image16(8), (ip >> 16) << 12 | fop);
        lab_equal("dp", image16(10), dp & 0xffff);
        lab_equal("dp, upper", image16(12), (dp >> 16) << 12);
        lab_equal("14 bytes", image16(14), 0xa5a5);
    }
    if (!pend_and_store("\x66\xd9\x36\x20\x03", 5)->skipped) { // 28 bytes
        lab_equal("fcw", image16(0), ZE_UNMASKED);
        lab_equal("fsw", image16(4), FSW_PENDING);
        lab_equal("ftw", image16(8), 0x3fff);
        lab_equal("ip", image16(12), ip & 0xffff);
        lab_equal("ip and opcode", m16_get32(M16_DS, IMAGE + 16) & 0xfffffff,
                  (ip >> 16) << 12 | fop);
        lab_equal("dp", image16(20), dp & 0xffff);
        lab_equal("dp, upper", m16_get32(M16_DS, IMAGE + 24) & 0xfffffff, (dp >> 16) << 12);
        lab_equal("28 bytes", image16(28), 0xa5a5);
    }
    if (!pend_and_store("\xdd\x36\x20\x03", 4)->skipped) { // fnsave, 94 bytes; initialises
        lab_equal("fsave: fsw", image16(2), FSW_PENDING);
        lab_equal("fsave: ip", image16(6), ip & 0xffff);
        lab_equal("fsave: st0 = 1.0, low", m16_get32(M16_DS, IMAGE + 14), 0);
        lab_equal("fsave: st0 = 1.0, high", m16_get32(M16_DS, IMAGE + 18), 0x80000000);
        lab_equal("fsave: st0 = 1.0, exponent", image16(22), 0x3fff);
        lab_equal("94 bytes", image16(94), 0xa5a5);
        u16 fsw = 0xffff, fcw = 0;
        __asm__ volatile("fnstsw %0; fnstcw %1" : "+m"(fsw), "+m"(fcw));
        lab_equal("after fsave: fsw", fsw, 0);
        lab_equal("after fsave: fcw", fcw, 0x37f);
    }
    if (!pend_and_store("\x66\xdd\x36\x20\x03", 5)->skipped) { // 108 bytes
        lab_equal("fsave: st0 = 1.0, exponent", image16(36), 0x3fff);
        lab_equal("108 bytes", image16(108), 0xa5a5);
    }
    // And back: what FLDENV reads is what FNSTENV writes, the tags computed anew.
    static const u16 env[7] = {0x37f, 0x2000, 0x5555, 0x4321, 0xa123, 0x8765, 0xb000};
    for (u32 i = 0; i < 7; i++)
        m16_put16(M16_DS, IMAGE + 2 * i, env[i]);
    m16_init(&m);
    const struct m16_end *e = M16_DO(&m, "\xd9\x26\x20\x03\xd9\x36\x40\x03"); // fldenv, fnstenv
    if (m16_expect_ran("fldenv", &m, e, 8) && !e->skipped) {
        lab_equal("fldenv: fcw", m16_get16(M16_DS, 0x340), env[0]);
        lab_equal("fldenv: fsw", m16_get16(M16_DS, 0x342), env[1]);
        lab_equal("fldenv: ip", m16_get16(M16_DS, 0x346), env[3]);
        lab_equal("fldenv: ip and opcode", m16_get16(M16_DS, 0x348), env[4]);
        lab_equal("fldenv: dp", m16_get16(M16_DS, 0x34a), env[5]);
        lab_equal("fldenv: dp, upper", m16_get16(M16_DS, 0x34c), env[6]);
    }
    __asm__ volatile("fninit");
}

void fpu_real_layouts(void)
{
    m16_mode = M16_V86;
    lab_section("V86 mode");
    layout_real();
    m16_mode = M16_REAL;
    m16_real_prepare();
    lab_section("real mode");
    layout_real();
    m16_mode = M16_V86;
}
