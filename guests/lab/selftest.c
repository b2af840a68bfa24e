// SPDX-License-Identifier: Apache-2.0
// The framework tries itself: both rings, every way of ending, handlers that go on.
#include "lab.h"

static volatile u32 ran;

static void returns(void *argument)
{
    ran = (u32)(ulong)argument;
}
static void invalid(void *argument)
{
    (void)argument;
    __asm__ volatile("ud2");
}
static void privileged(void *argument)
{
    (void)argument;
    __asm__ volatile("hlt");
}
static void interrupt(void *argument)
{
    (void)argument;
    __asm__ volatile("int $0x80");
}
static void selector(void *argument)
{
    __asm__ volatile("mov %w0, %%es" : : "r"((u32)(ulong)argument));
}
static void breakpoint(void *argument)
{
    (void)argument;
    __asm__ volatile("int3");
    ran++;
}
static bool resume(struct lab_trap *trap)
{
    ran = trap->vector;
    return true;
}

int main(void)
{
    lab_section("ring 0");
    lab_expect_none("return", lab_try(returns, (void *)7));
    lab_equal("argument", ran, 7);
    lab_expect_error("ud2", lab_try(invalid, 0), VEC_UD, 0);
    lab_expect_error("selector", lab_try(selector, (void *)0x84), VEC_GP, 0x84);
    const struct lab_trap *t = lab_try(interrupt, 0);
    if (lab_expect("int 80h", t, VEC_LAB))
        lab_equal("cs", t->cs, SEL_CODE0);
    lab_section("ring 3");
    lab_expect_none("return", lab_user(returns, (void *)9));
    lab_equal("argument", ran, 9);
    lab_expect_error("hlt", lab_user(privileged, 0), VEC_GP, 0);
    lab_expect_error("selector", lab_user(selector, (void *)0x84), VEC_GP, 0x84);
    t = lab_user(interrupt, 0);
    if (lab_expect("int 80h", t, VEC_LAB)) {
        lab_equal("cs", t->cs, SEL_CODE3);
        lab_equal("ss", t->ss, SEL_DATA3);
    }
    lab_section("handlers");
    lab_handler[VEC_BP] = resume;
    lab_expect_none("resumed in ring 0", lab_try(breakpoint, 0));
    lab_equal("ran on", ran, VEC_BP + 1);
    lab_expect_none("resumed in ring 3", lab_user(breakpoint, 0));
    lab_equal("ran on", ran, VEC_BP + 1);
    lab_handler[VEC_BP] = NULL;
    lab_expect("no handler", lab_try(breakpoint, 0), VEC_BP);
    lab_section("surroundings");
    lab_check(lab_memory_kib() >= 1024, "memory: %u KiB", lab_memory_kib());
    if (lab_asked("fail"))
        lab_check(false, "asked to fail");
    return 0;
}
