// SPDX-License-Identifier: Apache-2.0
// Into real mode and out again. The blob is copied to M16_TRAMPOLINE (mode16_real.c), where it runs in segment 0;
// LOW() is a label's address there. What it exchanges with C is struct area of mode16_real.c, at AREA.
//
// Rules to keep: real-mode segments keep the limits that they had in protected mode, so each way in says which.
#define BASE 0x2000
#define LOW(label) (label - m16_blob + BASE)
#define AREA 0x2c00
#define IN_GPR 0
#define IN_STACK 0x20
#define IN_TARGET 0x28
#define IN_FLAGS 0x2c
#define IN_DS 0x30
#define IN_ES 0x32
#define IN_FS 0x34
#define IN_GS 0x36
#define IN_IDTR 0x38
#define IN_PM 0x40 // selectors of DS ES FS GS SS before protected mode is left
#define OUT_GPR 0x60
#define OUT_VECTOR 0x80
#define OUT_FLAGS 0x84
#define OUT_DS 0x88
#define OUT_ES 0x8a
#define OUT_FS 0x8c
#define OUT_GS 0x8e
#define OUT_SS 0x90
#define OUT_CR0 0x94
#define STACK 0x3ff0

    .text
    .code32
    .globl m16_real_go, m16_real_back, m16_call_low
m16_real_go:
    pushal
    mov %esp, saved_esp
    sidt saved_idtr
    mov AREA + IN_PM + 2, %es
    mov AREA + IN_PM + 4, %fs
    mov AREA + IN_PM + 6, %gs
    mov AREA + IN_PM + 8, %ss
    mov AREA + IN_PM, %ds
    ljmp $0x38, $LOW(drop)

    // (low address): calls 32-bit code in the blob, which ends with a jump to m16_real_back; flat segments.
m16_call_low:
    mov 4(%esp), %eax
    pushal
    mov %esp, saved_esp
    sidt saved_idtr
    jmp *%eax

m16_real_back:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    mov saved_esp, %esp
    lidt saved_idtr
    push $2
    popfl
    popal
    ret

    .globl m16_blob, m16_blob_end, m16_common, m16_a20_pm, m16_bigcode, m16_toggle
m16_blob:
    .code16
drop:
    mov %cr0, %eax
    and $~1, %eax
    mov %eax, %cr0
    ljmp $0, $LOW(real)
real:
    xor %ax, %ax            // (DS may have any limit: CS reaches the area)
    mov %ax, %ss
    mov $STACK, %esp
    lidtl %cs:AREA + IN_IDTR
    pushl %cs:AREA + IN_FLAGS
    popfl
    mov %cs:AREA + IN_ES, %es
    mov %cs:AREA + IN_FS, %fs
    mov %cs:AREA + IN_GS, %gs
    mov %cs:AREA + IN_GPR + 0, %eax
    mov %cs:AREA + IN_GPR + 4, %ecx
    mov %cs:AREA + IN_GPR + 8, %edx
    mov %cs:AREA + IN_GPR + 12, %ebx
    mov %cs:AREA + IN_GPR + 20, %ebp
    mov %cs:AREA + IN_GPR + 24, %esi
    mov %cs:AREA + IN_GPR + 28, %edi
    lssl %cs:AREA + IN_STACK, %esp
    mov %cs:AREA + IN_DS, %ds
    ljmp *%cs:AREA + IN_TARGET

    // From the stubs, which have stored the vector; CS is 0.
m16_common:
    mov %eax, %cs:AREA + OUT_GPR + 0
    mov %ecx, %cs:AREA + OUT_GPR + 4
    mov %edx, %cs:AREA + OUT_GPR + 8
    mov %ebx, %cs:AREA + OUT_GPR + 12
    mov %esp, %cs:AREA + OUT_GPR + 16
    mov %ebp, %cs:AREA + OUT_GPR + 20
    mov %esi, %cs:AREA + OUT_GPR + 24
    mov %edi, %cs:AREA + OUT_GPR + 28
    mov %ds, %cs:AREA + OUT_DS
    mov %es, %cs:AREA + OUT_ES
    mov %fs, %cs:AREA + OUT_FS
    mov %gs, %cs:AREA + OUT_GS
    mov %ss, %cs:AREA + OUT_SS
    mov %cs, %ax
    mov %ax, %ss
    mov $STACK, %esp
    pushfl
    popl %cs:AREA + OUT_FLAGS
    mov %cr0, %eax
    mov %eax, %cs:AREA + OUT_CR0
    and $~0xe, %al          // MP, EM and TS may be a test's
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $m16_real_back

    // --- CR0.PE on and off without a far jump: CS keeps selector, base and rights, and code goes on ---------------
    // Entered in real mode as a tried state; ends with UD2. EAX: CR0, BX = CS, CX counts the steps.
m16_toggle:
    xor %cx, %cx
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0          // protected mode in a real-mode segment
    inc %cx
    mov %cs, %bx
    jmp 1f
1:  add $0x100, %cx
    and $~1, %al
    mov %eax, %cr0
    inc %cx
    mov $1, %dx
    lmsw %dx                // PE on
    mov %cr0, %esi
    xor %dx, %dx
    lmsw %dx                // PE stays
    mov %cr0, %edi
    mov %eax, %cr0
    inc %cx
    ud2
m16_toggle_end: .globl m16_toggle_end

    // --- 32-bit code in real mode: D of CS survives ---------------------------------------------------------------
    // Reached by m16_call_low; the descriptor at 0x80 is 32-bit code at 10000h with 4 GiB.
    .code32
m16_bigcode:
    ljmp $0x80, $LOW(big) - 0x10000 // the same place, seen from base 10000h
big:
    mov %cr0, %eax
    and $~1, %eax
    mov %eax, %cr0
    mov $0x12345678, %ecx   // a 16-bit decoder would take half of it
    mov %ecx, AREA + OUT_GPR + 4
    ljmp $0x0200, $LOW(big2) - BASE // base 2000h; D and the limit stay
big2:
    mov $0x9abcdef0, %edx
    mov %edx, AREA + OUT_GPR + 8
    mov %cs, %ebx
    mov %ebx, AREA + OUT_GPR + 12
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmp $8, $m16_real_back

    // --- A20 from 32-bit code, paging off: 101F00h is read and written with A20 off and read with A20 on -----------
m16_a20_pm:
    mov $0x101f00, %esi
    in $0x92, %al
    and $~3, %al            // bit 0 resets
    out %al, $0x92
    mov (%esi), %ecx
    movl $0x600d600d, (%esi)
    or $2, %al
    out %al, $0x92
    mov (%esi), %edx
    mov %ecx, AREA + OUT_GPR + 4
    mov %edx, AREA + OUT_GPR + 8
    mov $m16_real_back, %eax
    jmp *%eax

    // --- A20 in real mode, as a tried state that ends with UD2: DS = FFFFh, ES = 0 ------------------------------------
    // The gate is closed and opened through the ports that the two routines behind each variant use.
    .code16
    .macro a20_body name, off, on
    .globl m16_a20_\name, m16_a20_\name\()_end
m16_a20_\name:
    call \off
    mov 0x1f10, %cx         // CX: read above 1 MiB with A20 off
    movw $0xbeef, 0x1f10    // written there
    mov %es:0x1f00, %dx     // DX: seen below
    lcall $0xffff, $0x1e10  // code there sets DI
    call \on
    mov 0x1f10, %bp         // BP: with A20 on
    ud2
    .endm
    .macro a20_wait         // until the controller takes a byte
9:  in $0x64, %al
    test $2, %al
    jnz 9b
    .endm
    .macro a20_bits value
    a20_wait
    mov $0xd1, %al          // write the output port
    out %al, $0x64
    a20_wait
    mov $\value, %al
    out %al, $0x60
    a20_wait
    ret
    .endm

    a20_body fast, 1f, 2f
1:  in $0x92, %al
    and $~3, %al
    out %al, $0x92
    in $0x92, %al
    mov %al, %bl            // BL, BH: bit 1 reads back
    ret
2:  in $0x92, %al
    or $2, %al
    and $~1, %al
    out %al, $0x92
    in $0x92, %al
    mov %al, %bh
    ret
m16_a20_fast_end:
    a20_body keyboard, 1f, 2f
1:  a20_bits 0xdd
2:  a20_bits 0xdf
m16_a20_keyboard_end:
m16_blob_end:
    .data
saved_idtr: .skip 8
saved_esp: .long 0
    .section .note.GNU-stack, "", @progbits
