; SPDX-License-Identifier: Apache-2.0
; The program that boundaries.c interrupts everywhere: rounds without end, each of which begins from the same state
; and leaves what it came to in END. 64-bit, ring 0; BODY is what gen_boundaries.py wrote.
;
;   100000  code; the table of addresses for the host first      200000  WORK: what the body works on
;   210000  PRISTINE: what WORK is at the start of a round       280000  the stack's top
;   290000  ENTRY: state at the interrupt, by the handler        2a0000  END: state at the end of a round
;   400000  MMIO: registers of a device
%define WORK 0x200000
%define PRISTINE 0x210000
%define STACK 0x280000
%define ENTRY 0x290000
%define END 0x2a0000
%define MMIO 0x400000
bits 64
org 0x100000
    dq start, body, body_end, handler, soft

; Every general register but RSP to %1; %1 is an absolute address.
%macro save_registers 1
    mov [abs dword %1], rax
    mov [abs dword %1+8], rcx
    mov [abs dword %1+16], rdx
    mov [abs dword %1+24], rbx
    mov [abs dword %1+40], rbp
    mov [abs dword %1+48], rsi
    mov [abs dword %1+56], rdi
    mov [abs dword %1+64], r8
    mov [abs dword %1+72], r9
    mov [abs dword %1+80], r10
    mov [abs dword %1+88], r11
    mov [abs dword %1+96], r12
    mov [abs dword %1+104], r13
    mov [abs dword %1+112], r14
    mov [abs dword %1+120], r15
%endmacro

start:
    mov esp, STACK
    mov esi, PRISTINE
    mov edi, WORK
    mov ecx, 0x4000/8
    cld
    rep movsq
    fxrstor64 [abs dword PRISTINE+0x4000]
%ifdef AVX
%assign n 0
%rep 16
    vmovups ymm%+n, [abs dword PRISTINE+n*32]
%assign n n+1
%endrep
%endif
    mov r15d, WORK
%assign n 8
%rep 7
    mov r%+n, 0x9e3779b97f4a7c15*n
%assign n n+1
%endrep
    mov rax, 0x0123456789abcdef
    mov rbx, 0xfedcba9876543210
    mov rcx, 0x55aa00ff12345678
    mov rdx, 0x8000000000000001
    mov rsi, 0x7fffffffffffffff
    mov rdi, 0xffffffff00000000
    mov rbp, 0x1111222233334444
    push 0x202
    popfq
%include BODY_FILE
    ud2
body_end:
    sti
    nop
    nop
    nop
    cli
    save_registers END
    mov [abs dword END+32], rsp
    pushfq
    pop qword [abs dword END+128]
    cld
    fxsave64 [abs dword END+256]
    jmp start

align 16
handler:
    save_registers ENTRY
    push rax
    mov rax, [rsp+8]
    mov [abs dword ENTRY+128], rax
    mov rax, [rsp+16]
    mov [abs dword ENTRY+136], rax
    mov rax, [rsp+24]
    mov [abs dword ENTRY+144], rax
    mov rax, [rsp+32]
    mov [abs dword ENTRY+152], rax
    mov rax, [rsp+40]
    mov [abs dword ENTRY+160], rax
    pop rax
    fxsave64 [abs dword ENTRY+256]
    inc qword [abs dword ENTRY+168]
    iretq

align 16
soft: ; INT 42h in the body
    iretq
