// SPDX-License-Identifier: Apache-2.0
// The 32-bit flavour: one stub for each vector, and lab_enter(), which starts a state by IRET.
#define DATA0 0x10
#define STATE_GPR 0
#define STATE_IP 32
#define STATE_CS 36
#define STATE_FLAGS 40
#define STATE_SP 44
#define STATE_SS 48
#define STATE_DS 52
#define STATE_ES 56
#define STATE_FS 60
#define STATE_GS 64
    .text
    .globl lab_start
lab_start:
    push $0
    popfl
    call lab_main
1:  cli
    hlt
    jmp 1b

    // Each stub leaves: error code (0 where the processor pushes none), vector.
    .align 16
    .globl lab_stubs
lab_stubs:
    .set v, 0
    .rept 256
    .align 16
    .if !(v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21 || v == 29 || v == 30)
    pushl $0
    .endif
    pushl $v
    jmp stub
    .set v, v + 1
    .endr
stub:
    pushal
    pushl %ds
    pushl %es
    pushl %fs
    pushl %gs
    mov $DATA0, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %esp, lab_frame_sp
    mov %ss, lab_frame_ss
    mov %eax, %ss           // whatever stack that was, C wants a flat one
    mov $trap_stack_top, %esp
    cld
    call lab_trapped        // EAX = 0: back to what was interrupted
    test %eax, %eax
    jnz leave
    mov lab_frame_ss, %ss
    mov lab_frame_sp, %esp
    popl %gs
    popl %fs
    popl %es
    popl %ds
    popal
    add $8, %esp
    iretl

    // Where a monitor that cannot go on with a trial puts the processor.
    .globl lab_gap
lab_gap:
    movl $2, lab_ended
    jmp leave

    // Out of the state that lab_enter() started. (The task register is the caller's business.)
    .globl lab_leave
lab_leave:
leave:
    mov lab_saved_sp, %esp
    mov $DATA0, %eax
    mov %eax, %fs
    mov %eax, %gs
    popl lab_saved_sp           // of the lab_enter() around this one
    pushl $2
    popfl
    popal
    ret

    .globl lab_enter_raw
lab_enter_raw:              // (const struct lab_state *)
    pushal
    pushl lab_saved_sp
    mov %esp, lab_saved_sp
    mov 40(%esp), %esi
    testl $0x20000, STATE_FLAGS(%esi)
    jnz to_v86
    mov STATE_CS(%esi), %eax
    test $3, %eax
    jnz to_outer
    // The same ring: IRET takes no stack, so the frame is on the new one.
    mov STATE_SP(%esi), %edx
    mov STATE_SS(%esi), %ecx
    mov %ecx, %ss
    mov %edx, %esp
    jmp push_same
to_v86:
    pushl STATE_GS(%esi)
    pushl STATE_FS(%esi)
    pushl STATE_DS(%esi)
    pushl STATE_ES(%esi)
to_outer:
    pushl STATE_SS(%esi)
    pushl STATE_SP(%esi)
push_same:
    pushl STATE_FLAGS(%esi)
    pushl STATE_CS(%esi)
    pushl STATE_IP(%esi)
    mov STATE_ES(%esi), %eax
    testl $0x20000, STATE_FLAGS(%esi)
    jnz 1f
    mov STATE_FS(%esi), %fs
    mov STATE_GS(%esi), %gs
    mov %eax, %es
1:  pushl STATE_DS(%esi)
    mov STATE_GPR + 0(%esi), %eax
    mov STATE_GPR + 4(%esi), %ecx
    mov STATE_GPR + 8(%esi), %edx
    mov STATE_GPR + 12(%esi), %ebx
    mov STATE_GPR + 20(%esi), %ebp
    mov STATE_GPR + 28(%esi), %edi
    testl $0x20000, STATE_FLAGS(%esi)
    mov STATE_GPR + 24(%esi), %esi
    jnz 2f
    popl %ds
    iretl
2:  add $4, %esp
    iretl

    .globl lab_sysexit_raw
lab_sysexit_raw:            // (ip, sp, flags): to flat ring 3 without IRET
    pushal
    pushl lab_saved_sp
    mov %esp, lab_saved_sp
    mov 40(%esp), %edx
    mov 44(%esp), %ecx
    mov $0x23, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    pushl 48(%esp)
    popfl
    sysexit

    .globl lab_call_raw
lab_call_raw:               // (function, argument): ends like lab_enter(), or by the function's return
    pushal
    pushl lab_saved_sp
    mov %esp, lab_saved_sp
    pushl 44(%esp)
    call *44(%esp)
    movl $0, lab_ended
    jmp leave

    .globl lab_user_return
lab_user_return:            // where a function that runs in ring 3 returns to
    ud2                     // (an INT that some monitors cannot do would be the obvious way)

    .bss
    .globl lab_saved_sp, lab_frame_sp, lab_frame_ss
lab_frame_sp: .skip 4
lab_frame_ss: .skip 4
lab_saved_sp: .skip 4
    .align 16
    .skip 16384
trap_stack_top:
    .section .note.GNU-stack, "", @progbits
