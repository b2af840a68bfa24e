// SPDX-License-Identifier: Apache-2.0
// x87 control instructions: control and status word, FWAIT, FNINIT, and the environment and state
// images of FLDENV, FNSTENV, FRSTOR, FNSAVE (SDM vol. 1, 8.1.10; the four layouts are in figures
// 8-9 to 8-12).
//
// Images: 14 or 28 bytes of environment by operand size, laid out for protected mode (also 64-bit
// mode) or for real-address and virtual-8086 mode; FNSAVE appends ST0..ST7, 10 bytes each.

#include "engine/interp/exec_vector.h"

#include <string.h>

#define FSW_TOP 0x3800
#define FCW_WRITABLE 0x1f3f
#define FCW_FIXED 0x0040
#define ENV16 14
#define ENV32 28
#define REGS 80

// ES and B follow from the exception flags and masks.
static void update_es(struct x86_x87 *x)
{
    if (x->fsw & ~x->fcw & 0x3f)
        x->fsw |= X87_FSW_ES | X87_FSW_B;
    else
        x->fsw &= (uint16_t) ~(X87_FSW_ES | X87_FSW_B);
}

static void set_fcw(struct x86_x87 *x, uint16_t value)
{
    x->fcw = (value & FCW_WRITABLE) | FCW_FIXED;
    update_es(x);
}

static void exec_fldcw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_x87(cpu, true);
    uint16_t value = x86_read16(cpu, insn->seg, interp_ea(cpu, insn));
    if ((cpu->fpu_resident & X86_FPU_X87) && (value & 0x3f) == 0x3f) {
        value = (value & FCW_WRITABLE) | FCW_FIXED;
        __asm__ volatile("fldcw %0" : : "m"(value));
        cpu->x87.fcw = value;
        return;
    }
    x86_fpu_sync(cpu); // the host must not see an exception become pending
    set_fcw(&cpu->x87, value);
    x86_ferr_update(cpu);
}

static void exec_fnstcw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_x87(cpu, false);
    x86_write16(cpu, insn->seg, interp_ea(cpu, insn), cpu->x87.fcw);
}

static uint16_t status_word(struct x86_cpu *cpu)
{
    uint16_t fsw = cpu->x87.fsw;
    if (cpu->fpu_resident & X86_FPU_X87)
        __asm__ volatile("fnstsw %0" : "=m"(fsw));
    return fsw;
}

static void exec_fnstsw_mem(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_x87(cpu, false);
    x86_write16(cpu, insn->seg, interp_ea(cpu, insn), status_word(cpu));
}

static void exec_fnstsw_ax(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_x87(cpu, false);
    cpu->gpr[X86_RAX] = (cpu->gpr[X86_RAX] & ~UINT64_C(0xffff)) | status_word(cpu);
}

static void exec_fnclex(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_x87(cpu, false);
    if (cpu->fpu_resident & X86_FPU_X87)
        __asm__ volatile("fnclex");
    cpu->x87.fsw &= 0x7f00;
    x86_ferr_update(cpu);
}

static void exec_fninit(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_x87(cpu, false);
    x86_fninit(cpu);
}

// FENI, FDISI, FSETPM: nothing since the 80387.
static void exec_nothing(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    vector_check_x87(cpu, false);
}

static void exec_fwait(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    x86_check_fwait(cpu);
}

// --- images --------------------------------------------------------------------------------------

static void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static void put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}
static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static bool real_layout(const struct x86_cpu *cpu)
{
    return x86_real_mode(cpu) || x86_v86_mode(cpu);
}

static unsigned env_size(const struct x86_insn *insn)
{
    return insn->opsize == 2 ? ENV16 : ENV32;
}

static void env_store(const struct x86_cpu *cpu, uint8_t *p, bool wide)
{
    const struct x86_x87 *x = &cpu->x87;
    bool real = real_layout(cpu);
    uint32_t ip = (uint32_t)x->fip, dp = (uint32_t)x->fdp;
    if (real) {
        ip += (uint32_t)x->fcs << 4;
        dp += (uint32_t)x->fds << 4;
    }
    if (wide) {
        put32(p, 0xffff0000 | x->fcw);
        put32(p + 4, 0xffff0000 | x->fsw);
        put32(p + 8, 0xffff0000 | x->ftw);
        if (real) {
            put32(p + 12, 0xffff0000 | (ip & 0xffff));
            put32(p + 16, (ip >> 16) << 12 | x->fop);
            put32(p + 20, 0xffff0000 | (dp & 0xffff));
            put32(p + 24, (dp >> 16) << 12);
        } else {
            put32(p + 12, ip);
            put32(p + 16, (uint32_t)x->fop << 16 | x->fcs);
            put32(p + 20, dp);
            put32(p + 24, 0xffff0000 | x->fds);
        }
    } else {
        put16(p, x->fcw);
        put16(p + 2, x->fsw);
        put16(p + 4, x->ftw);
        put16(p + 6, ip);
        put16(p + 8, real ? (ip >> 4 & 0xf000) | x->fop : x->fcs);
        put16(p + 10, dp);
        put16(p + 12, real ? dp >> 4 & 0xf000 : x->fds);
    }
}

// Tags of registers that are not empty are computed from what the registers hold.
static void retag(struct x86_x87 *x)
{
    unsigned tags = 0;
    for (unsigned i = 0; i < 8; i++) {
        unsigned tag = (x->ftw >> (2 * i)) & 3;
        tags |= (tag == 3 ? 3 : x86_x87_tag(x->reg[i])) << (2 * i);
    }
    x->ftw = (uint16_t)tags;
}

static void env_load(struct x86_cpu *cpu, const uint8_t *p, bool wide)
{
    struct x86_x87 *x = &cpu->x87;
    bool real = real_layout(cpu);
    unsigned step = wide ? 4 : 2;
    uint32_t ip, dp;

    x->fcw = (get16(p) & FCW_WRITABLE) | FCW_FIXED;
    x->fsw = get16(p + step);
    x->ftw = get16(p + 2 * step);
    if (wide) {
        ip = get32(p + 12), dp = get32(p + 20);
        x->fcs = get16(p + 16), x->fds = get16(p + 24);
        x->fop = (real ? get16(p + 16) : get16(p + 18)) & 0x7ff;
        if (real) {
            ip = (ip & 0xffff) | (get32(p + 16) >> 12 & 0xffff) << 16;
            dp = (dp & 0xffff) | (get32(p + 24) >> 12 & 0xffff) << 16;
        }
    } else {
        ip = get16(p + 6), dp = get16(p + 10);
        x->fcs = get16(p + 8), x->fds = get16(p + 12);
        x->fop = 0; // the protected-mode layout has no room for it
        if (real) {
            x->fop = x->fcs & 0x7ff;
            ip |= (uint32_t)(x->fcs & 0xf000) << 4;
            dp |= (uint32_t)(x->fds & 0xf000) << 4;
        }
    }
    if (real)
        x->fcs = x->fds = 0;
    x->fip = ip;
    x->fdp = dp;
    update_es(x);
}

// Which part of an image is looked at first decides what faults. AMD's processors take the first word, then the
// last byte, then the rest, each at an address that wraps at the address size.
static uint64_t part_at(const struct x86_insn *insn, uint64_t ea, unsigned i)
{
    uint64_t at = ea + i;
    return insn->adsize == 8 ? at : insn->adsize == 4 ? (uint32_t)at : (uint16_t)at;
}

// Words of an image that wraps, the last register's last word included.
static unsigned part_size(const struct x86_insn *insn, unsigned i)
{
    return insn->opsize == 2 || i >= ENV32 ? 2 : 4;
}

static void image_read(struct x86_cpu *cpu, const struct x86_insn *insn, uint8_t *image,
                       unsigned size)
{
    uint64_t ea = interp_ea(cpu, insn), last = part_at(insn, ea, size - 1);
    x86_read_block(cpu, insn->seg, ea, image, part_size(insn, 0));
    x86_read8(cpu, insn->seg, last);
    if (likely(last >= ea)) {
        x86_read_block(cpu, insn->seg, ea, image, size);
        return;
    }
    for (unsigned i = 0; i < size; i += part_size(insn, i))
        x86_read_block(cpu, insn->seg, part_at(insn, ea, i), image + i, part_size(insn, i));
}

static void image_write(struct x86_cpu *cpu, const struct x86_insn *insn, const uint8_t *image,
                        unsigned size)
{
    uint64_t ea = interp_ea(cpu, insn), last = part_at(insn, ea, size - 1);
    x86_write_check(cpu, insn->seg, ea, part_size(insn, 0));
    x86_write_check(cpu, insn->seg, last, 1);
    if (likely(last >= ea)) {
        x86_write_block(cpu, insn->seg, ea, image, size);
        return;
    }
    for (unsigned i = 0; i < size; i += part_size(insn, i))
        x86_write_check(cpu, insn->seg, part_at(insn, ea, i), part_size(insn, i));
    for (unsigned i = 0; i < size; i += part_size(insn, i))
        x86_write_block(cpu, insn->seg, part_at(insn, ea, i), image + i, part_size(insn, i));
}

static void exec_fnstenv(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    uint8_t image[ENV32];
    vector_check_x87(cpu, false);
    x86_fpu_sync(cpu);
    env_store(cpu, image, insn->opsize != 2);
    image_write(cpu, insn, image, env_size(insn));
    cpu->x87.fcw |= 0x3f;
    update_es(&cpu->x87);
    x86_ferr_update(cpu);
}

static void exec_fldenv(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    uint8_t image[ENV32];
    vector_check_x87(cpu, true);
    image_read(cpu, insn, image, env_size(insn));
    x86_fpu_sync(cpu);
    env_load(cpu, image, insn->opsize != 2);
    retag(&cpu->x87);
    x86_ferr_update(cpu);
}

static void exec_fnsave(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    uint8_t image[ENV32 + REGS];
    unsigned env = env_size(insn);
    vector_check_x87(cpu, false);
    x86_fpu_sync(cpu);
    env_store(cpu, image, insn->opsize != 2);
    unsigned top = (cpu->x87.fsw & FSW_TOP) >> 11;
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + env + 10 * i, cpu->x87.reg[(top + i) & 7], 10);
    image_write(cpu, insn, image, env + REGS);
    x86_fninit(cpu);
}

static void exec_frstor(struct x86_cpu *cpu, const struct x86_insn *insn)
{
    uint8_t image[ENV32 + REGS];
    unsigned env = env_size(insn);
    vector_check_x87(cpu, true);
    image_read(cpu, insn, image, env + REGS);
    x86_fpu_sync(cpu);
    env_load(cpu, image, insn->opsize != 2);
    unsigned top = (cpu->x87.fsw & FSW_TOP) >> 11;
    for (unsigned i = 0; i < 8; i++)
        memcpy(cpu->x87.reg[(top + i) & 7], image + env + 10 * i, 10);
    retag(&cpu->x87);
    x86_ferr_update(cpu);
}

interp_exec_fn *x87_select_env(const struct x86_insn *insn)
{
    static const struct {
        uint8_t opcode, modrm; // modrm: whole byte, or ModRM.reg << 3 with a memory operand
        interp_exec_fn *fn;
    } table[] = {
        {0xd9, 4 << 3, exec_fldenv},     {0xd9, 5 << 3, exec_fldcw},   {0xd9, 6 << 3, exec_fnstenv},
        {0xd9, 7 << 3, exec_fnstcw},     {0xdd, 4 << 3, exec_frstor},  {0xdd, 6 << 3, exec_fnsave},
        {0xdd, 7 << 3, exec_fnstsw_mem}, {0xdf, 0xe0, exec_fnstsw_ax}, {0xdb, 0xe0, exec_nothing},
        {0xdb, 0xe1, exec_nothing},      {0xdb, 0xe2, exec_fnclex},    {0xdb, 0xe3, exec_fninit},
        {0xdb, 0xe4, exec_nothing},
    };
    if (insn->opcode == 0x9b)
        return exec_fwait;
    uint8_t modrm = insn->modrm >= 0xc0 ? insn->modrm : insn->modrm & 0x38;
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        if (table[i].opcode == insn->opcode && table[i].modrm == modrm)
            return table[i].fn;
    }
    return NULL;
}
