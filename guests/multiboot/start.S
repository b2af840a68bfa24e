// SPDX-License-Identifier: Apache-2.0
// Entry of the Multiboot guest. With ADDRESSES the header says itself where the file goes (flag 16), and
// the file is the bare image; without, it is an ELF file.
#define FLAGS_BASE 0x3      // modules on page boundaries, memory fields
#ifdef ADDRESSES
#define FLAGS (FLAGS_BASE | 0x10000)
#else
#define FLAGS FLAGS_BASE
#endif
#ifndef EXTRA
#define EXTRA 0
#endif

    .section .header, "a"
    .align 4
header:
    .long 0x1badb002, FLAGS | EXTRA, -(0x1badb002 + (FLAGS | EXTRA))
    .long header, image_start, data_end, bss_end, start

    .text
    .globl start
start:
    mov %eax, state         // before anything changes them
    mov %ebx, state + 4
    mov $stack_top, %esp
    pushf
    popl state + 8
    mov %cr0, %eax
    mov %eax, state + 12
    mov %cs, %eax
    lsl %eax, %eax
    mov %eax, state + 16
    mov %ds, %eax
    lsl %eax, %eax
    mov %eax, state + 20
    mov %ss, %eax
    lsl %eax, %eax
    mov %eax, state + 24
    push $state
    call main
    call power_off
1:  hlt
    jmp 1b

    .bss
    .align 16
    .globl state
state:
    .skip 32
    .skip 16384
stack_top:
    .section .note.GNU-stack, "", @progbits
