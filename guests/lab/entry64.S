// SPDX-License-Identifier: Apache-2.0
// The 64-bit flavour: long mode over an identity map of 4 GiB that ring 3 may use too, one stub for each
// vector, and lab_enter(), which starts a state by IRETQ.
#define DATA0 0x10
#define STATE_GPR 0
#define STATE_IP 128
#define STATE_DS 168
#define STATE_ES 176
#define STATE_FS 184
#define STATE_GS 192
    .text
    .code32
    .globl lab_start
lab_start:
    movl $lab_pdpt + 7, lab_pml4
    mov $lab_pd, %edi       // 2048 pages of 2 MiB
    mov $0xe7, %eax
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $8, %edi
    add $0x200000, %eax
    cmp $lab_pd + 16384, %edi
    jne 1b
    movl $lab_pd + 7, lab_pdpt
    movl $lab_pd + 0x1007, lab_pdpt + 8
    movl $lab_pd + 0x2007, lab_pdpt + 16
    movl $lab_pd + 0x3007, lab_pdpt + 24
    mov $lab_pml4, %eax
    mov %eax, %cr3
    mov $0x20, %eax         // PAE
    mov %eax, %cr4
    mov $0xc0000080, %ecx   // EFER: LME, SCE
    mov $0x101, %eax
    xor %edx, %edx
    wrmsr
    mov %cr0, %eax
    or $0x80010021, %eax    // PG, WP, NE, PE
    mov %eax, %cr0
    ljmp $8, $1f
    .code64
1:  mov $DATA0, %eax
    mov %eax, %ss
    mov $lab_stack_top, %rsp
    pushq $0
    popfq
    call lab_main
1:  cli
    hlt
    jmp 1b

    .align 16
    .globl lab_stubs
lab_stubs:
    .set v, 0
    .rept 256
    .align 16
    .if !(v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21 || v == 29 || v == 30)
    pushq $0
    .endif
    pushq $v
    jmp stub
    .set v, v + 1
    .endr
stub:
    push %r15
    push %r14
    push %r13
    push %r12
    push %r11
    push %r10
    push %r9
    push %r8
    push %rdi
    push %rsi
    push %rbp
    push %rsp
    push %rbx
    push %rdx
    push %rcx
    push %rax
    mov %ds, %eax
    push %rax
    mov %es, %eax
    push %rax
    mov %fs, %eax
    push %rax
    mov %gs, %eax
    push %rax
    mov $DATA0, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %rsp, lab_frame_sp
    mov $trap_stack_top, %rsp
    cld
    call lab_trapped        // EAX = 0: back to what was interrupted
    test %eax, %eax
    jnz leave
    mov lab_frame_sp, %rsp
    add $16, %rsp           // FS and GS stay: a load would change the base
    pop %rax
    mov %eax, %es
    pop %rax
    mov %eax, %ds
    pop %rax
    pop %rcx
    pop %rdx
    pop %rbx
    add $8, %rsp
    pop %rbp
    pop %rsi
    pop %rdi
    pop %r8
    pop %r9
    pop %r10
    pop %r11
    pop %r12
    pop %r13
    pop %r14
    pop %r15
    add $16, %rsp
    iretq

    // Where a monitor that cannot go on with a trial puts the processor.
    .globl lab_gap
lab_gap:
    movl $2, lab_ended
    jmp leave

    // Out of the state that lab_enter() started.
    .globl lab_leave
lab_leave:
leave:
    mov lab_saved_sp, %rsp
    mov $DATA0, %eax
    mov %eax, %ss
    popq lab_saved_sp           // of the lab_enter() around this one
    pushq $2
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    .globl lab_enter_raw
lab_enter_raw:              // (const struct lab_state *)
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushq lab_saved_sp
    mov %rsp, lab_saved_sp
    mov STATE_DS(%rdi), %ds
    mov STATE_ES(%rdi), %es
    mov STATE_FS(%rdi), %fs
    mov STATE_GS(%rdi), %gs
    pushq STATE_IP + 32(%rdi) // SS, RSP, RFLAGS, CS, RIP
    pushq STATE_IP + 24(%rdi)
    pushq STATE_IP + 16(%rdi)
    pushq STATE_IP + 8(%rdi)
    pushq STATE_IP(%rdi)
    mov 0(%rdi), %rax
    mov 8(%rdi), %rcx
    mov 16(%rdi), %rdx
    mov 24(%rdi), %rbx
    mov 40(%rdi), %rbp
    mov 48(%rdi), %rsi
    mov 64(%rdi), %r8
    mov 72(%rdi), %r9
    mov 80(%rdi), %r10
    mov 88(%rdi), %r11
    mov 96(%rdi), %r12
    mov 104(%rdi), %r13
    mov 112(%rdi), %r14
    mov 120(%rdi), %r15
    mov 56(%rdi), %rdi
    iretq

    .globl lab_call_raw
lab_call_raw:               // (function, argument): ends like lab_enter(), or by the function's return
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushq lab_saved_sp
    mov %rsp, lab_saved_sp
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
    movl $0, lab_ended
    jmp leave

    .globl lab_user_return
lab_user_return:            // where a function that runs in ring 3 returns to
    ud2                     // (an INT that some monitors cannot do would be the obvious way)

    .bss
    .align 4096
    .globl lab_saved_sp, lab_frame_sp, lab_frame_ss, lab_pml4, lab_pdpt, lab_pd
lab_pml4: .skip 4096
lab_pdpt: .skip 4096
lab_pd: .skip 16384
lab_frame_sp: .skip 8
lab_frame_ss: .skip 8
lab_saved_sp: .skip 8
    .align 16
    .skip 16384
trap_stack_top:
    .section .note.GNU-stack, "", @progbits
