; SPDX-License-Identifier: Apache-2.0
; Programs for 64-bit code with an IDT. The image starts with the addresses of the entry points.
bits 64
org 0x1000
        dd stepped, after_sti, rep_copy, divide, lock_ops, spin, code_far, fault_page, io_loop
        dd breakpoints
        dd db_handler, pf_handler, de_handler, irq_handler

; Sets TF by POPF; the handler counts in R15 and keeps the last RIP in R14.
stepped:
        xor r15d, r15d
        pushfq
        or qword [rsp], 0x100
        popfq
        nop                     ; first trap is behind this one
        mov eax, 1
        mov ecx, 3
        lea rsi, [rel source]
        lea rdi, [rel target]
        rep movsb               ; three traps
        pushfq
        and qword [rsp], ~0x100
        popfq                   ; traps for the last time
.end:   nop
        hlt

; An interrupt is pending: it must come behind the instruction that follows STI.
after_sti:
        cli
        mov eax, 1
        sti
        mov eax, 2
        mov eax, 3
        hlt

; RSI, RDI, RCX set by the test; the target's second page is not there: the handler maps it and counts.
rep_copy:
        xor r15d, r15d
        rep movsb
        hlt

divide: xor r15d, r15d
        xor edx, edx
        mov eax, 5
        xor ecx, ecx
        div ecx
        hlt

lock_ops:
        mov qword [rel cell], 0
        mov qword [rel cell + 8], 0
        mov ecx, 1000
.next:  lock inc qword [rel cell]
        mov eax, 2
        lock xadd [rel cell], rax
        dec ecx
        jnz .next
        mov rax, [rel cell]
        xor edx, edx
        mov rbx, 7
        mov rcx, 9
        lock cmpxchg16b [rel cell]
        setz r8b
        mov rax, [rel cell]
        mov rdx, [rel cell + 8]
        hlt

spin:   inc rax
        jmp spin

; Calls what R8 points at, a million times or until R9 is reached.
code_far:
        xor ecx, ecx
.next:  call r8
        inc ecx
        cmp ecx, r9d
        jb .next
        hlt

; Reads where R8 points: #PF counted in R15, with the error code in R13.
fault_page:
        xor r15d, r15d
        mov eax, 0x1234
        mov rax, [r8]
        hlt

; Sums what port 80h gives, ten times.
io_loop:
        xor ebx, ebx
        mov ecx, 10
        mov edx, 0x80
.next:  in al, dx
        movzx eax, al
        add ebx, eax
        out dx, al
        loop .next
        hlt

; DR0 on .here, DR1 on a write to the cell: R15 counts, RBX adds up the addresses behind the traps.
breakpoints:
        xor r15d, r15d
        xor ebx, ebx
        lea rax, [rel .here]
        mov dr0, rax
        lea rax, [rel cell]
        mov dr1, rax
        mov eax, 0x00d00005     ; L0: execution; L1: writes of 4 bytes
        mov dr7, rax
        mov ecx, 3
.here:  inc edx
        mov dword [rel cell], edx
.after: dec ecx
        jnz .here
        xor eax, eax
        mov dr7, rax
        hlt

db_handler:
        inc r15d
        mov r14, [rsp]
        add rbx, r14
        or qword [rsp + 16], 0x10000 ; RF: not again
        iretq
; Skips the instruction that R12 says is at fault, or maps the page by the entry that R11 points at.
pf_handler:
        add r15d, 1
        pop r13
        mov r10, cr2
        test r11, r11
        jz .skip
        or qword [r11], 3
        iretq
.skip:  add qword [rsp], 3
        iretq
de_handler:
        inc r15d
        mov r14, [rsp]
        add qword [rsp], 2
        iretq
irq_handler:
        inc r15d
        mov r14, [rsp]
        iretq

align 16
cell:   dq 0, 0
source: db "abc"
target: db 0, 0, 0
