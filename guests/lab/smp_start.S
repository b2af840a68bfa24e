// SPDX-License-Identifier: Apache-2.0
// Where a started processor begins, in real mode at TRAMPOLINE, a page boundary: it tells its whole state before it
// changes anything, then goes to flat protected mode. And the stubs of its interrupts.
#define STATE 0x800
    .text
    .code16
    .globl trampoline, trampoline_end
trampoline:
    movl %eax, %cs:STATE + 0
    movl %ebx, %cs:STATE + 4
    movl %ecx, %cs:STATE + 8
    movl %edx, %cs:STATE + 12
    movl %esi, %cs:STATE + 16
    movl %edi, %cs:STATE + 20
    movl %ebp, %cs:STATE + 24
    movl %esp, %cs:STATE + 28
    mov %ss, %cs:STATE + 56
    mov %cs, %ax
    mov %ax, %cs:STATE + 36
    mov %ax, %ss            // a stack in this page
    mov $0x800, %sp
    pushfl
    popl %eax
    movl %eax, %cs:STATE + 32
    mov %ds, %cs:STATE + 40
    mov %es, %cs:STATE + 44
    mov %fs, %cs:STATE + 48
    mov %gs, %cs:STATE + 52
    movl %cr0, %eax
    movl %eax, %cs:STATE + 60
    movl %cr2, %eax
    movl %eax, %cs:STATE + 64
    movl %cr3, %eax
    movl %eax, %cs:STATE + 68
    movl %cr4, %eax
    movl %eax, %cs:STATE + 72
    movl %dr0, %eax
    movl %eax, %cs:STATE + 76
    movl %dr1, %eax
    movl %eax, %cs:STATE + 80
    movl %dr2, %eax
    movl %eax, %cs:STATE + 84
    movl %dr3, %eax
    movl %eax, %cs:STATE + 88
    movl %dr6, %eax
    movl %eax, %cs:STATE + 92
    movl %dr7, %eax
    movl %eax, %cs:STATE + 96
    sgdtl %cs:STATE + 100
    sidtl %cs:STATE + 106
    fnstcw %cs:STATE + 112
    lgdtl %cs:trampoline_gdtr - trampoline
    movl %cr0, %eax
    andl $~0x60000000, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $start32
trampoline_gdtr: .word 0x1ff
    .long lab_gdt
trampoline_end:

    .code32
start32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    movl 0xfee00020, %eax
    shr $24, %eax
    and $3, %eax
    inc %eax
    shl $12, %eax
    lea cpu_stacks(%eax), %esp
    call cpu_main
1:  cli
    hlt
    jmp 1b

    .globl cpu_stubs
    .align 16
cpu_stubs:
    .set v, 0
    .rept 256
    .align 16
    .if !(v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21 || v == 29 || v == 30)
    pushl $0
    .endif
    pushl $v
    jmp cpu_stub
    .set v, v + 1
    .endr
cpu_stub:
    pushal
    cld
    lea 40(%esp), %eax
    pushl %eax              // where the saved IP is; AX is at -12 from there
    pushl 36(%esp)          // (moved by the push above) vector
    call cpu_interrupt
    add $8, %esp
    popal
    add $8, %esp
    iretl

    .bss
    .align 4096
cpu_stacks: .skip 4 * 4096
    .section .note.GNU-stack, "", @progbits
