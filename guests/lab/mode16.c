// SPDX-License-Identifier: Apache-2.0
// Starting 16-bit code and reading how it ended. See mode16.h.
#include "mode16.h"

enum m16_mode m16_mode;
u32 m16_iopl = 3;
u32 m16_tag[3];
const struct lab_trap *m16_trap;
void (*m16_real_run)(const struct m16 *m, struct m16_end *e);

void m16_init(struct m16 *m)
{
    *m = (struct m16){
        .gpr = {0x11112222, 0x33334444, 0x55556666, 0x77778888, 0x8000, 0x9999aaaa, 0xbbbb1234,
                0xcccc5678},
        .ip = 0x100,
        .flags = 2,
        .cs = M16_CS,
        .ss = M16_SS,
        .ds = M16_DS,
        .es = M16_ES,
        .fs = M16_FS,
        .gs = M16_GS,
    };
    if (m16_mode == M16_V86)
        m->flags |= FLAG_VM | m16_iopl << 12;
}

void m16_code(const struct m16 *m, const void *bytes, u32 size)
{
    const u8 *from = bytes;
    u8 *to = m16_at(m->cs, 0);

    for (u32 i = 0; i < size + 2; i++)
        to[(m->ip + i) & 0xffff] = i < size ? from[i] : i == size ? 0x0f : 0x0b;
}

const struct m16_end *m16_run(const struct m16 *m)
{
    static struct m16_end e;

    e = (struct m16_end){.skipped = false};
    if (m16_mode != M16_V86) {
        m16_real_run(m, &e);
        return &e;
    }
    struct lab_state s = {.ip = m->ip,
                          .cs = m->cs,
                          .flags = m->flags,
                          .sp = m->gpr[SP],
                          .ss = m->ss,
                          .ds = m->ds,
                          .es = m->es,
                          .fs = m->fs,
                          .gs = m->gs};
    for (u32 i = 0; i < 8; i++)
        s.gpr[i] = m->gpr[i];
    const struct lab_trap *t = lab_enter(&s);
    m16_trap = t;
    if (!t || t->vector > 255) {
        m16_trap = NULL;
        e.skipped = true;
        return &e;
    }
    e.vector = t->vector;
    e.error = t->error;
    for (u32 i = 0; i < 8; i++)
        e.at.gpr[i] = t->gpr[i];
    e.at.gpr[SP] = t->sp;
    e.at.ip = t->ip;
    e.at.flags = t->flags;
    e.at.cs = (u16)t->cs;
    e.at.ss = (u16)t->ss;
    e.at.ds = (u16)t->ds;
    e.at.es = (u16)t->es;
    e.at.fs = (u16)t->fs;
    e.at.gs = (u16)t->gs;
    return &e;
}

const struct m16_end *m16_do(const struct m16 *m, const void *bytes, u32 size)
{
    m16_code(m, bytes, size);
    return m16_run(m);
}

bool m16_expect(const char *what, const struct m16 *m, const struct m16_end *e, u32 vector, u32 ip)
{
    u32 want = m->ip + ip;

    if (m16_mode == M16_REAL)
        want &= 0xffff;
    return lab_check(e->skipped || (e->vector == vector && e->error == 0 && e->at.ip == want &&
                                    e->at.cs == m->cs),
                     "%s (%x %x %x): got vector %u error %x at %x:%x, want %u at %x:%x", what,
                     m16_tag[0], m16_tag[1], m16_tag[2], e->vector, e->error, e->at.cs, e->at.ip,
                     vector, m->cs, want);
}

bool m16_expect_ran(const char *what, const struct m16 *m, const struct m16_end *e, u32 length)
{
    return m16_expect(what, m, e, VEC_UD, length);
}
