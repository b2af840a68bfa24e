// SPDX-License-Identifier: Apache-2.0
// Gates and returns by the manual: call, interrupt and trap gates, the stacks of inner rings, the way back out.
#include "gates.h"

const char *const entry_names[ENTRIES] = {"jmp", "call", "int", "#BR", "#GP"};
static struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) pointer;
static u32 bounds[2] = {1, 2};
u32 land_offset = LAND;

#if IS_LONG
#define POINTER "(%rbx)"
SNIPPET(enter_gp, "mov %ax, %ds");
#define enter_bound enter_gp // (64-bit mode has no BOUND)
#else
#define POINTER "(%ebx)"
SNIPPET(enter_bound, "bound %eax, (%ecx)");
SNIPPET(enter_gp, "mov %ax, %ds");
#endif
SNIPPET(enter_jmp, "ljmp *" POINTER);
SNIPPET(enter_call, "lcall *" POINTER);
SNIPPET(enter_int, "int $0x91");

void gate_make(enum entry entry, u32 kind, u32 dpl, bool present, u32 target, u32 parameters)
{
    u32 access = kind | dpl << 5 | (present ? 0x80 : 0);

    if (entry <= BY_CALL) {
        u64 *gate = lab_gdt_entry(SEL_GATE);
        gate[0] = (u64)(land_offset & 0xffff) | (u64)target << 16 | (u64)parameters << 32 |
                  (u64)access << 40 | (u64)(land_offset >> 16) << 48;
        gate[1] = 0;
    } else {
        lab_gate_set(&lab_idt[entry_vector(entry)], land_offset, (u16)target, (u8)access, 0);
        lab_idt[entry_vector(entry)].info |= (u16)parameters;
    }
}

void gate_prepare(enum entry entry, u32 cpl, u32 rpl)
{
    static const char *const snippets[ENTRIES] = {enter_jmp, enter_call, enter_int, enter_bound,
                                                  enter_gp};

    pointer.selector = (u16)(SEL_GATE | rpl);
    ring_prepare(cpl, snippets[entry]);
    ring_state.gpr[0] = 0x1ec;
    ring_state.gpr[1] = (ulong)bounds;
    ring_state.gpr[3] = (ulong)&pointer;
}

void gates_setup(void)
{
    u8 *land = (u8 *)LAND;
    __asm__("" : "+r"(land)); // (an address that the compiler knows nothing of)
    land[0] = 0x0f;
    land[1] = 0x0b;
#if IS_LONG
    lab_tss.rsp[1] = (ulong)ring_stack[1] + RING_STACK / 2;
    lab_tss.rsp[2] = (ulong)ring_stack[2] + RING_STACK / 2;
#else
    lab_tss.esp1 = (ulong)ring_stack[1] + RING_STACK / 2;
    lab_tss.ss1 = ring_data[1];
    lab_tss.esp2 = (ulong)ring_stack[2] + RING_STACK / 2;
    lab_tss.ss2 = ring_data[2];
#endif
}

void gates_restore(void)
{
    lab_gate_default(VEC_GATE);
    lab_gate_default(VEC_BR);
    lab_gate_default(VEC_GP);
}

int main(void)
{
    rings_setup();
    gates_setup();
    gates_calls();
    gates_interrupts();
    gates_stacks();
    gates_returns();
    gates_fast();
    gates_long();

    return 0;
}
