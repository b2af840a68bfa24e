// SPDX-License-Identifier: Apache-2.0
// The headers by which a boot loader finds the guest, and where it enters: 32-bit protected mode
// without paging. Multiboot leaves its magic in EAX; PVH does not; EBX is the information of either.
    .section .note.boot, "a", @note
    .align 4
    .long 4, 4, 18          // name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start
    .align 4
    .long 0x1badb002, 2, -0x1badb004 // Multiboot 1, with the memory's size

    .text
    .code32
    .globl start
start:
    cli
    cld
    mov $lab_stack_top, %esp
    mov %eax, lab_boot_magic
    mov %ebx, lab_boot_info
    lgdt start_gdtr
    ljmp $0x50, $1f         // 32-bit code of ring 0, in both flavours
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    jmp lab_start

    .data
    .align 8
start_gdtr: .word 0x1ff
    .long lab_gdt

    .bss
    .align 16
    .globl lab_boot_magic, lab_boot_info, lab_stack_top
lab_boot_magic: .skip 8
lab_boot_info: .skip 8
    .skip 32768
lab_stack_top:
    .section .note.GNU-stack, "", @progbits
