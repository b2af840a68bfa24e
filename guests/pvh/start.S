// SPDX-License-Identifier: Apache-2.0
// Entry of the small PVH guests: 32-bit protected mode, no paging, EBX = start info. main() gets it and
// the guest powers off with main's result shown when it returns.
    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18          // name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start

    .text
    .globl start
start:
    mov $stack_top, %esp
    push %ebx
    call main
    call power_off
1:  hlt
    jmp 1b

    .bss
    .align 16
    .skip 16384
stack_top:
    .section .note.GNU-stack, "", @progbits
