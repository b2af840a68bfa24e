; SPDX-License-Identifier: Apache-2.0
; Loops for speed.c; each runs R9 rounds and halts.
bits 64
org 0x1000
        dd alu, load, store, sieve, branchy, calls, indirect, chase, push, cmps, crc, lockinc, straddle, sse

alu:    add rax, rbx
        xor rbx, rcx
        lea rcx, [rcx + rax * 2 + 3]
        shr rdx, 3
        or rdx, rax
        sub r8, rdx
        dec r9
        jnz alu
        hlt

load:   mov rsi, 0x100000
.next:  mov rax, [rsi]
        add rbx, [rsi + 8]
        mov ecx, [rsi + 16]
        movzx edx, byte [rsi + 24]
        add rbx, rcx
        add rbx, rdx
        dec r9
        jnz .next
        hlt

store:  mov rsi, 0x100000
.next:  mov [rsi], rax
        mov [rsi + 8], ecx
        add [rsi + 16], r9
        mov byte [rsi + 24], 1
        dec r9
        jnz .next
        hlt

; sieve of 64 Ki bytes, R9 / 200000 times
sieve:  mov r10, r9
.again: mov rdi, 0x100000
        mov ecx, 8192
        mov rax, 0x0101010101010101
        rep stosq
        mov ebx, 2
.outer: cmp byte [rbx + 0x100000], 0
        je .skip
        mov eax, ebx
        add eax, ebx
.inner: cmp eax, 65536
        jae .skip
        mov byte [rax + 0x100000], 0
        add eax, ebx
        jmp .inner
.skip:  inc ebx
        cmp ebx, 65536
        jb .outer
        sub r10, 600000
        ja .again
        hlt

; a linear congruential generator decides
branchy:
        imul eax, eax, 1103515245
        add eax, 12345
        test eax, 0x10000
        jz .a
        inc ebx
        jmp .b
.a:     dec ecx
.b:     test eax, 0x20000
        jz .c
        inc edx
.c:     dec r9
        jnz branchy
        hlt

calls:  call .one
        dec r9
        jnz calls
        hlt
.one:   push rbp
        mov rbp, rsp
        call .two
        pop rbp
        ret
.two:   mov eax, 1
        ret

indirect:
        lea r10, [rel .table]
.next:  mov eax, r9d
        and eax, 3
        call [r10 + rax * 8]
        dec r9
        jnz .next
        hlt
.f0:    inc ebx
        ret
.f1:    dec ebx
        ret
.f2:    inc ecx
        ret
.f3:    dec ecx
        ret
align 8
.table: dq .f0, .f1, .f2, .f3

; a ring of 4096 cells, 64 bytes apart, stride 17
chase:  mov ecx, 0
.build: mov eax, ecx
        add eax, 17
        and eax, 4095
        shl eax, 6
        lea rdx, [rax + 0x100000]
        mov eax, ecx
        shl eax, 6
        mov [rax + 0x100000], rdx
        inc ecx
        cmp ecx, 4096
        jb .build
        mov eax, 0x100000
.next:  mov rax, [rax]
        mov rax, [rax]
        mov rax, [rax]
        mov rax, [rax]
        dec r9
        jnz .next
        hlt

push:   push rax
        push rbx
        pop rcx
        pop rdx
        dec r9
        jnz push
        hlt

cmps:   mov ecx, [0x100000 + 64]
.next:  cmp qword [rsi + 0x100000], 5
        setne al
        cmovne rbx, rcx
        cmp rbx, rdx
        cmova rcx, rdx
        movsxd rdx, ecx
        dec r9
        jnz .next
        hlt

; table-driven CRC over 4 KiB
crc:    xor esi, esi
.next:  movzx ecx, byte [rsi + 0x100000]
        xor ecx, eax
        shr eax, 8
        movzx ecx, cl
        xor eax, [rcx * 4 + 0x102000]
        inc esi
        and esi, 4095
        dec r9
        jnz .next
        hlt

lockinc:
        mov rsi, 0x100000
.next:  lock inc dword [rsi]
        mov eax, 1
        lock xadd [rsi], eax
        xchg [rsi + 8], ecx
        dec r9
        jnz .next
        hlt

; the loop's second instruction lies across a page border
        times 0x2000 - 11 - ($ - $$ + 0x1000) db 0x90
straddle:
        add rax, rbx
        add rax, rcx
        mov edx, 0x12345678
        mov edx, 0x12345678
        dec r9
        jnz straddle
        hlt

sse:    movsd xmm0, [rel .one]
        movsd xmm1, [rel .one]
.next:  addsd xmm1, xmm0
        mulsd xmm1, xmm0
        movapd xmm2, xmm1
        addsd xmm2, [rel .one]
        dec r9
        jnz .next
        hlt
align 8
.one:   dq 1.0
