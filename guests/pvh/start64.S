// SPDX-License-Identifier: Apache-2.0
// Entry of a 64-bit PVH guest: identity map of 4 MiB that ring 3 may use, long mode, main(). Then the
// stubs of transfers64.c: go() starts a test by IRETQ, an exception ends it.
    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18          // name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start
    .align 4
    .long 0x1badb002, 0, -0x1badb002 // multiboot, for GRUB

    .text
    .code32
    .globl start
start:
    mov $stack_top, %esp
    movl $pdpt + 7, pml4
    movl $pd + 7, pdpt
    movl $0x87, pd
    movl $0x200087, pd + 8
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0x20, %eax         // PAE
    mov %eax, %cr4
    mov $0xc0000080, %ecx   // EFER: LME, SCE
    mov $0x101, %eax
    xor %edx, %edx
    wrmsr
    mov %cr0, %eax
    or $0x80010001, %eax    // PG, WP, PE
    mov %eax, %cr0
    lgdt gdtr
    ljmp $8, $long_mode
    .code64
long_mode:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %ebx, %edi
    call main
    call power_off
1:  hlt
    jmp 1b

    .globl go
go:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, saved_rsp
    mov start_data, %ds
    mov start_data, %es
    mov start_data, %fs
    mov $0xc0000100, %ecx   // FS, GS and kernel GS bases
    mov $0x1111, %eax
    xor %edx, %edx
    wrmsr
    inc %ecx
    mov $0x2222, %eax
    wrmsr
    inc %ecx
    mov $0x3333, %eax
    wrmsr
    mov start_regs, %rax
    mov start_regs + 8, %rcx
    mov start_regs + 16, %rdx
    mov start_regs + 24, %rbx
    mov start_regs + 32, %r11
    xor %esi, %esi
    xor %edi, %edi
    xor %ebp, %ebp
    mov $start_frame, %rsp
    iretq

    .align 16
    .globl stubs
stubs:
    .set v, 0
    .rept 33
    .align 16
    .if !(v == 8 || (v >= 10 && v <= 14) || v == 17)
    pushq $0x5a5a           // where the others have an error code
    .endif
    pushq $v
    jmp caught_here
    .set v, v + 1
    .endr
caught_here:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %r11
    mov %rsp, caught
    mov saved_rsp, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    pushq $2
    popfq
    ret

    .data
    .align 16
gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr: .word 23
    .quad gdt

    .bss
    .globl caught, start_frame, start_regs, start_data
    .align 4096
pml4: .skip 4096
pdpt: .skip 4096
pd: .skip 4096
saved_rsp: .skip 8
caught: .skip 8
start_frame: .skip 40
start_regs: .skip 40
start_data: .skip 8
    .skip 16384
    .align 16
stack_top:
    .section .note.GNU-stack, "", @progbits
