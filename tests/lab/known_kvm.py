# SPDX-License-Identifier: Apache-2.0
"""Where a host's KVM differs from the manuals, each with what settles it.

KNOWN: guest: [(pattern of the FAILED line, what the manual says and what was seen), ...]
STOPS: guest: why it does not come to its end (a gap in the host's emulation of supervisor code).
"""
INT_N = "SDM INT n: a gate of DPL 3 may be used from ring 3; a KVM that intercepts INT n there and cannot emulate it raises #UD"
SMAP_FETCH = "SDM vol. 3A, 4.6.1: SMAP concerns data accesses; the emulator applies it to its own fetches"
NO_OLD_PAGING = "SDM vol. 3A, 4.1.1: CR0.PG may be set without EFER.LME; a KVM that has only long mode's paging raises #GP"
INT1 = "SDM INT1: a trap, the saved IP is behind it; a KVM that emulates it leaves IP on it"
TWO_PAGES = "SDM vol. 3A, 4.7, 6.6: a fault in either page comes before any store; the emulator of ring 0 goes page by page"
PROTECTIONS = [
    (r"CR0 bit [3-6]\d: [1-9a-f][0-9a-f]*80010031: no trap", "SDM MOV CR: bits 63:32 of CR0 set is #GP(0); ignored"),
    (r"CR4 bit [3-6]\d: .*no trap", "SDM MOV CR: reserved bits of CR4 are #GP(0); ignored above 31"),
    (r"CR4 bit 22: .*no trap", "SDM vol. 3A, 2.5: PKE without CPUID's PKU is reserved; the host's own PKE stays on"),
    (r"EFER bit 14: ", "APM vol. 2, 3.1.7: CPUID offers FFXSR; the host's KVM has no such bit"),
    (r"IOPL and the I/O bitmap: .* at 1b:", "ring 3 runs with the host's IOPL and I/O map"),
    (r"RDTSC ring 3 TSD: got none", "ring 3 runs with the host's CR4"),
    (r"without FSGSBASE.*: got none", "supervisor and ring 3 run with the host's CR4"),
    (r"reserved registers: (from|to) CR\d: got vector 13 error 0 at 1b:",
     "SDM MOV CR: #UD; the host's processor itself raises #UD in a process, its KVM makes it #GP"),
    (r"XGETBV|XSETBV", "SDM XGETBV, XSETBV: ring 3 runs with the host's CR4 and XCR0"),
    (r"LOCK MOV CR0: got vector 6", "APM MOV CRn: LOCK is CR8 where CPUID says so; not emulated"),
]
RING3_GDT = ("SDM vol. 2, LAR, MOV: selectors name the guest's table; a KVM that runs ring 3 on the host kernel's own "
             "table shows the host's selectors and descriptors instead")
NO_RINGS = ("SDM vol. 3A, 5.5: rings 1 and 2 and IOPL; a KVM that interprets ring 0 and runs the rest as a user "
            "process has neither")
RING3_BASES = "SDM vol. 3A, 3.4.4: bases of FS and GS; ring 3 runs with the host kernel's, ring 0 by the emulator's rules"
SYSEXIT = "APM vol. 3, SYSEXIT: #UD in long mode; the emulator knows Intel's rule only"
LTR_ORDER = "SDM vol. 2, LTR, LLDT: the limit and the type are checked before P; TI set is #GP(selector)"
OWN_ACCESSES = ("SDM vol. 3A, 4.6, 6.15: a fault while a gate or descriptor is read is #PF; the emulator makes it #GP")
REAL_IDT = "SDM vol. 3A, 20.1.4: vectors come from IDTR's base; the emulator takes them from address 0"
LIMITS = "SDM vol. 3A, 5.3: limits; x87 instructions are not emulated in ring 0, and the emulator's order of checks is its own"
APIC_TPR = "SDM vol. 3A, 10.8.3.1: TPR has eight bits; now and then the lower four are lost there"
APIC = [(r"registers: TPR: ", APIC_TPR),
        (r"FAILED (priorities|errors|I/O APIC|timer|8259): ", "SDM vol. 3A, 10: its local APIC has no errors, no ISR to be seen, and takes its time")]
MSRS = [
    (r"PAT: MSR 277: .*taken", "SDM vol. 3A, 11.12.2: a reserved memory type is #GP(0); this KVM takes any"),
    (r"TSC: (TSC_ADJUST|a write) moves the counter", "SDM vol. 3A, 17.17.3: RDTSC is the host's own there"),
    (r"no MISC_ENABLE", "APM: no such register on AMD's processors; KVM has it for every vendor"),
    (r"SPEC_CTRL without the feature", "CPUID does not offer it; KVM lets the host's through"),
]
KNOWN = {
    "apic32": APIC,
    "apic64": APIC,
    "msrs32": MSRS,
    "msrs64": MSRS,
    "exceptions64": [(r"64-bit int (80h|81h of ring 3|1 of ring 3|14 of ring 3) ring 3: want .* got 6", INT_N),
                     (r"64-bit int1 ring 3: ip", INT1)],
    "sensitive64": [(r": (iret|popf|pushf), .*: (outcome )?[0-9a-f]+, want", NO_RINGS),
                    (r"ring 3: (lar|lsl|verr|verw|lar ZF|lsl ZF|mov es|push fs|cs tells|ss tells|jmp|call|ret)", RING3_GDT),
                    (r"ring 3: int", INT_N), (r"ring 0: sysexit", SYSEXIT)],
    "sensitive32": [(r"real mode: int", REAL_IDT)],
    "real32": [(r"FAILED (int n|idtr)", REAL_IDT)],
    "segments64": [(r"cpl 3[ :]|\d+ failures in all", RING3_GDT), (r"FAILED (iretq?|retq?|ret n|jmp|call): ", NO_RINGS), (r"FAILED (lldt|ltr): ", LTR_ORDER),
                   (r"FAILED (limits|limits of the stack|stacks): ", LIMITS), (r"RDFSBASE and its like", "SDM RDFSBASE: ring 3 runs with the host's CR4"),
                   (r"FAILED (canonical addresses|bases of fs and gs): ", RING3_BASES)],
    "gates64": [(r"FAILED (call of|jmp to) a (16-bit )?call gate: |FAILED (int n|exception with error code): ", "SDM vol. 3A, 6.12: this emulator delivers and returns by its own code, without the gates' checks")],
    "segments32": [(r"FAILED limits: ", LIMITS)],
    "selftest64": [(r"int 80h: got vector 6", INT_N), (r"handlers: (resumed in ring 3|ran on): got", INT_N)],
    "selftest32": [(r"int 80h: got vector 6", INT_N), (r"handlers: (resumed in ring 3|ran on): got", INT_N)],
    "paging64": [(r"fetch cpl 0 .* smap 1 ac 0", SMAP_FETCH), (r"operands: .* ip 1[0-9a-f]{5}, want #PF", TWO_PAGES),
                 (r"operands: .*: cpl [03]: something was written", TWO_PAGES),
                 (r"the processor's own accesses", OWN_ACCESSES)],
    "paging32": [(r"paging on: got vector 13|PDPTEs:|PAE", NO_OLD_PAGING), (r"fetch cpl 0 .* smap 1 ac 0", SMAP_FETCH)],
    "protections32": PROTECTIONS,
    "protections64": PROTECTIONS,
}
STOPS = {
    "apic32": "interrupts that are waited for come late or not at all",
    "apic64": "interrupts that are waited for come late or not at all",
    "paging32": NO_OLD_PAGING,
    "gates32": "gates and rings 1 and 2 are not emulated",
    "gates64": "gates and rings 1 and 2 are not emulated",
    "smp32": "IRET and FLDCW of ring 0 are not emulated",
    "fpu64": "FNCLEX is not emulated in ring 0",
    "tasks32": "a task switch is not emulated: the guest's own TR is lost",
    "real32": "real mode is interpreted: ICEBP is not, and a run of this many trials takes minutes",
}
