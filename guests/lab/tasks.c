// SPDX-License-Identifier: Apache-2.0
// Hardware task switches by the manual (SDM vol. 3, chapter 8: 7 in older editions). See tasks.h.
#include "tasks.h"

const char *const via_names[VIAS] = {"jmp",      "call", "jmp gate", "call gate",
                                     "int gate", "#GP",  "#BR",      "iret"};
union tss tss_a __attribute__((aligned(256))), tss_b __attribute__((aligned(256)));
struct task task_a = {&tss_a, true, SEL_A}, task_b = {&tss_b, true, SEL_B};
u16 task_tr, task_ldtr;
bool task_ts;
u8 *task_code(u32 at, const void *code, u32 size)
{
    u8 *to = (u8 *)(ulong)at;
    __asm__("" : "+r"(to)); // (an address that the compiler knows nothing of)
    for (u32 i = 0; i < size; i++)
        to[i] = ((const u8 *)code)[i];
    return to;
}

u32 task_vector(enum via via)
{
    return via == BY_INT ? VEC_TASK : via == BY_BOUND ? VEC_BR : VEC_GP;
}

bool task_busy(u32 selector)
{
    return *lab_gdt_entry(selector) >> 41 & 1;
}

// Each field gets a value of its own.
static void task_fill(struct task *task, u32 ip, u32 sp, u32 sp0, u32 cpl)
{
    u8 *bytes = (u8 *)task->tss;
    u16 code = ring_code[cpl], data = task->wide || cpl ? ring_data[cpl] : SEL_DATA16;

    for (u32 i = 0; i < sizeof(union tss); i++)
        bytes[i] = (u8)(0x40 + i * 7);
    if (cpl == 3 && !task->wide)
        data = SEL_DATA16_3;
    if (task->wide) {
        struct lab_tss *t = &task->tss->wide;
        t->esp0 = sp0;
        t->ss0 = SEL_DATA0;
        t->cr3 = lab_cr3();
        t->eip = ip;
        t->eflags = 2;
        t->gpr[4] = sp;
        t->cs = code;
        t->ss = t->ds = t->es = t->fs = t->gs = data;
        t->ldt = 0;
        t->trap = 0;
        t->iomap = sizeof(*t);
    } else {
        struct tss16 *t = &task->tss->narrow;
        t->sp0 = (u16)sp0;
        t->ss0 = SEL_DATA16;
        t->ip = (u16)ip;
        t->flags = 2;
        t->gpr[4] = (u16)sp;
        t->cs = code;
        t->ss = t->ds = t->es = data;
        t->ldt = 0;
    }
    *lab_gdt_entry(task->selector) = lab_descriptor((u32)(ulong)task->tss, task->wide ? 0x67 : 0x2b,
                                                    task->wide ? 0xe9 : 0xe1, 0);
}

void task_prepare(enum via via, bool wide_a, bool wide_b, u32 cpl_a, u32 cpl_b)
{
    static const u8 code[VIAS][4] = {{0xff, 0x2b, 0x0f, 0x0b},     {0xff, 0x1b, 0x0f, 0x0b},
                                     {0xff, 0x2b, 0x0f, 0x0b},     {0xff, 0x1b, 0x0f, 0x0b},
                                     {0xcd, VEC_TASK, 0x0f, 0x0b}, {0x8e, 0xd8, 0x0f, 0x0b},
                                     {0x62, 0x03, 0x0f, 0x0b},     {0xcf, 0x90, 0x0f, 0x0b}};
    static const u8 invalid[] = {0x0f, 0x0b, 0x0f, 0x0b};

    task_a.wide = wide_a;
    task_b.wide = wide_b;
    task_fill(&task_a, 0xeeee, 0xeeee, A_STACK0, cpl_a);
    task_fill(&task_b, B_CODE, B_STACK, B_STACK0, cpl_b);
    task_code(A_CODE, code[via], 4);
    task_code(B_CODE, invalid, 4);
    *lab_gdt_entry(SEL_GATE) = (u64)SEL_B << 16 | 0xe5ull << 40;
    if (via >= BY_INT && via <= BY_BOUND)
        lab_idt[task_vector(via)] = (struct lab_gate){.selector = SEL_B, .info = 0xe500};
    u8 pointer[8] = {0xef, 0xbe, 0xad, 0xde}; // the offset is not used
    pointer[4] = (u8)(via_gate(via) ? SEL_GATE : SEL_B);
    pointer[5] = SEL_B >> 8;
    task_code(POINTER, pointer, sizeof(pointer));
    ring_prepare(cpl_a, (void *)A_CODE);
    ring_state.sp = A_STACK;
    if (via == BY_IRET) {
        ring_state.flags |= FLAG_NT;
        TSS_SET(&task_a, link, SEL_B);
        *lab_gdt_entry(SEL_B) |= 2ull << 40;
    }
    for (u32 i = 0; i < 8; i++)
        if (i != 4)
            ring_state.gpr[i] = 0x3a3a0001 * (i + 1);
    ring_state.gpr[3] = POINTER;
    ring_state.gpr[0] = 0x1ec; // a bad selector, and beyond BOUND's limits
}

void task_restore(void)
{
    __asm__ volatile("str %0; sldt %1" : "=r"(task_tr), "=r"(task_ldtr));
    task_ts = lab_cr0() & 8;
    *lab_gdt_entry(SEL_TSS) &= ~(2ull << 40);
    *lab_gdt_entry(SEL_LDT) = lab_descriptor((u32)(ulong)lab_ldt, sizeof(lab_ldt) - 1, 0x82, 0);
    __asm__ volatile("ltr %w0; lldt %w1; clts" : : "r"(SEL_TSS), "r"(SEL_LDT));
    lab_gate_default(VEC_GP);
    lab_gate_default(VEC_BR);
    lab_gate_default(VEC_TASK);
}

u32 task_run(void)
{
    *lab_gdt_entry(SEL_A) &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_A));
    const struct lab_trap *t = ring_trap = lab_enter(&ring_state);
    task_restore();
    return t ? t->vector > 255 ? OUTCOME_SKIPPED : FAULT(t->vector, t->error) : 0;
}

int main(void)
{
    rings_setup();
    tasks_switch();
    tasks_check();
    tasks_io();
    return 0;
}
