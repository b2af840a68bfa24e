; SPDX-License-Identifier: Apache-2.0
; Programs that mean the same in 16-, 32- and 64-bit code (-DBITS_=16, 32, 64). The image starts with the
; addresses of the entry points; each ends with HLT.
bits BITS_
org 0x1000
        dd sum, smc_next, smc_loop, strings, calls

; EAX = sum of i * i for i = 1..1000, ECX = 0
sum:    xor eax, eax
        mov ecx, 1000
.next:  mov edx, ecx
        imul edx, ecx
        add eax, edx
        sub ecx, 1
        jnz .next
        hlt

; Writes the immediate of the very next instruction: AL = 42h.
smc_next:
        mov byte [.patch + 1], 0x42
.patch: mov al, 0x11
        hlt

; Increments the immediate of an instruction of its own loop each time round: EBX = 1 + 2 + ... + 100.
smc_loop:
        xor ebx, ebx
        xor edx, edx
        mov ecx, 100
        mov byte [.patch + 1], 0
.next:  inc byte [.patch + 1]
        nop
.patch: mov dl, 0
        add ebx, edx
        dec ecx
        jnz .next
        hlt

; An overlapping upward MOVSB spreads one byte; EAX = the last four, then SCASB finds the end: ECX.
strings:
        cld
%if BITS_ = 16
        mov si, buffer
        mov di, buffer + 1
        mov byte [si], 0x5a
        mov cx, 99
        rep movsb
        mov eax, [buffer + 96]
        mov di, buffer
        mov cx, 200
        xor edx, edx
        xchg eax, edx
        repne scasb
        xchg eax, edx
%else
        mov esi, buffer
        mov edi, buffer + 1
        mov byte [esi], 0x5a
        mov ecx, 99
        rep movsb
        mov eax, [buffer + 96]
        mov edi, buffer
        mov ecx, 200
        xor edx, edx
        xchg eax, edx
        repne scasb
        xchg eax, edx
%endif
        hlt

; fib(15) by recursion: EAX = 610
calls:  mov ecx, 15
        call fib
        hlt
fib:    cmp ecx, 2
        jb .small
        dec ecx
%if BITS_ = 64
        push rcx
        call fib
        pop rcx
        push rax
        dec ecx
        call fib
        pop rdx
%else
        push ecx
        call fib
        pop ecx
        push eax
        dec ecx
        call fib
        pop edx
%endif
        add eax, edx
        ret
.small: mov eax, ecx
        ret

align 16
buffer: times 100 db 0
        db 0
