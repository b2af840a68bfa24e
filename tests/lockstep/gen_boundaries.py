#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the body of the program that is interrupted everywhere (boundaries.asm): straight-line code, branches, loops
and calls of every kind, each stretch of it valid after any other.

usage: gen_boundaries.py SEED INSTRUCTIONS OUTPUT

R15 points to the work area and is never written; RSP is level between two stretches; everything else may hold
anything. What is repeated must come out the same: nothing reads time, and devices answer by address.
INSTRUCTIONS counts what executes, approximately.
"""
import random
import sys

WORK = 0x3000  # bytes of the work area that memory operands may begin in; strings reach beyond
NAMES = {
    "rax": ("al", "ax", "eax"), "rbx": ("bl", "bx", "ebx"), "rcx": ("cl", "cx", "ecx"), "rdx": ("dl", "dx", "edx"),
    "rsi": ("sil", "si", "esi"), "rdi": ("dil", "di", "edi"), "rbp": ("bpl", "bp", "ebp"),
    **{f"r{n}": (f"r{n}b", f"r{n}w", f"r{n}d") for n in range(8, 15)},
}
POOL = list(NAMES)
WIDTH = {1: "byte", 2: "word", 4: "dword", 8: "qword"}
COND = ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"]
ALU = ["add", "or", "adc", "sbb", "and", "sub", "xor", "cmp"]
SSE = ["addps", "subps", "mulps", "divps", "minps", "maxps", "addpd", "mulpd", "subpd", "sqrtps", "andps", "xorps",
       "orpd", "unpcklps", "unpckhpd", "paddb", "paddw", "paddd", "paddq", "psubb", "pmullw", "pmaddwd", "pand", "pxor",
       "pcmpeqb", "pcmpgtd", "packsswb", "punpcklbw", "pavgb", "psadbw", "pmuludq", "cvtdq2ps", "cvtps2dq"]
SCALAR = ["addss", "subss", "mulss", "divss", "sqrtss", "addsd", "subsd", "mulsd", "divsd", "sqrtsd", "cvtss2sd",
          "cvtsd2ss", "ucomiss", "ucomisd", "comisd", "minsd", "maxss"]


class Body:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.lines = []
        self.executed = 0
        self.labels = 0
        self.busy = set()
        self.factor = 1

    # --- pieces -----------------------------------------------------------------------------------------------------

    def put(self, text, instruction=True):
        self.lines.append("    " + text)
        if instruction:
            self.executed += self.factor

    def label(self):
        self.labels += 1
        return f".l{self.labels}"

    def here(self, label):
        self.lines.append(label + ":")

    def pick(self, *choices):
        return self.rng.choice(choices)

    def reg(self, size=8, but=()):
        name = self.rng.choice([r for r in POOL if r not in self.busy and r not in but])
        return self.name(name, size)

    @staticmethod
    def name(full, size):
        return full if size == 8 else NAMES[full][{1: 0, 2: 1, 4: 2}[size]]

    def size(self):
        return self.pick(1, 2, 4, 4, 8, 8)

    def imm(self, size):
        value = self.pick(0, 1, -1, 0x7f, -0x80, self.rng.getrandbits(8 * min(size, 4) - 1))
        return value if size > 1 else max(-128, min(value, 127))

    def mem(self, align=1):
        at = self.rng.randrange(0, WORK, align)
        if align == 1 and self.rng.random() < 0.1:
            at = 0x1000 - self.rng.randrange(1, 16)  # across two pages
        return f"[r15+{at:#x}]"

    # --- stretches --------------------------------------------------------------------------------------------------

    def alu(self):
        size, op = self.size(), self.rng.choice(ALU + ["test"])
        form = self.rng.randrange(5)
        if form == 0:
            self.put(f"{op} {self.reg(size)}, {self.reg(size)}")
        elif form == 1:
            self.put(f"{op} {self.reg(size)}, {self.imm(size)}")
        elif form == 2 and op != "test":
            self.put(f"{op} {self.reg(size)}, {self.mem()}")
        elif form == 3:
            lock = "lock " if op not in ("cmp", "test") and self.rng.random() < 0.2 else ""
            self.put(f"{lock}{op} {self.mem()}, {self.reg(size)}")
        else:
            self.put(f"{op} {WIDTH[size]} {self.mem()}, {self.imm(size)}")

    def unary(self):
        size = self.size()
        self.put(f"{self.pick('inc', 'dec', 'neg', 'not')} "
                 + (self.reg(size) if self.rng.random() < 0.6 else f"{WIDTH[size]} {self.mem()}"))

    def move(self):
        size = self.size()
        form = self.rng.randrange(9)
        if form == 0:
            self.put(f"mov {self.reg(size)}, {self.reg(size)}")
        elif form == 1:
            self.put(f"mov {self.reg(8)}, {self.rng.getrandbits(64):#x}")
        elif form == 2:
            self.put(f"mov {self.reg(size)}, {self.mem()}")
        elif form == 3:
            self.put(f"mov {self.mem()}, {self.reg(size)}")
        elif form == 4:
            self.put(f"mov {WIDTH[size]} {self.mem()}, {self.imm(size)}")
        elif form == 5:
            self.put(f"{self.pick('movzx', 'movsx')} {self.reg(self.pick(4, 8))}, {self.pick('byte', 'word')} {self.mem()}")
        elif form == 6:
            self.put(f"movsxd {self.reg(8)}, {self.reg(4)}")
        elif form == 7 and not self.busy:
            self.put(f"mov {self.pick('ah', 'bh', 'ch', 'dh')}, {self.pick('al', 'bl', 'ah', 'dh')}")
        else:
            self.put(f"lea {self.reg(self.pick(4, 8))}, [{self.reg()}+{self.reg()}*{self.pick(1, 2, 4, 8)}+{self.imm(4)}]")

    def indexed(self):
        index = self.reg(8)
        size = self.size()
        self.put(f"and {index}, 0x7f8")
        self.put(f"add {self.reg(size, but=(index,))}, [r15+{index}*2+{self.rng.randrange(64)}]")
        self.put(f"mov [r15+{index}+8], {self.reg(size)}")

    def shift(self):
        size = self.size()
        op = self.pick("shl", "shr", "sar", "rol", "ror", "rcl", "rcr")
        what = self.reg(size) if self.rng.random() < 0.7 else f"{WIDTH[size]} {self.mem()}"
        self.put(f"{op} {what}, {self.pick('1', 'cl', str(self.rng.randrange(1, 64)))}")
        if self.rng.random() < 0.2:
            size = self.pick(4, 8)
            self.put(f"{self.pick('shld', 'shrd')} {self.reg(size)}, {self.reg(size)}, {self.pick('cl', '13')}")

    def multiply(self):
        if {"rax", "rdx"} & self.busy:
            return
        size = self.pick(1, 2, 4, 8)
        form = self.rng.randrange(4)
        if form == 0:
            self.put(f"{self.pick('mul', 'imul')} {self.reg(size)}")
        elif form == 1:
            size = self.pick(2, 4, 8)
            self.put(f"imul {self.reg(size)}, {self.reg(size)}, {self.imm(size)}")
        elif form == 2:
            size = self.pick(2, 4, 8)
            self.put(f"imul {self.reg(size)}, {self.mem()}")
        else:
            by = self.reg(8, but=("rax", "rdx"))
            self.put("xor edx, edx")
            self.put(f"or {by}, 3")
            self.put(f"div {by}")

    def bits(self):
        size = self.pick(2, 4, 8)
        form = self.rng.randrange(4)
        if form == 0:
            self.put(f"{self.pick('bt', 'bts', 'btr', 'btc')} {self.reg(size)}, {self.rng.randrange(64)}")
        elif form == 1:
            self.put(f"{self.pick('bt', 'bts', 'btr', 'btc')} {WIDTH[size]} {self.mem()}, {self.rng.randrange(64)}")
        elif form == 2:
            self.put(f"{self.pick('bsf', 'bsr', 'popcnt')} {self.reg(size)}, {self.reg(size)}")
        else:
            self.put(f"bswap {self.reg(self.pick(4, 8))}")

    def conditional(self):
        form = self.rng.randrange(3)
        cond = self.rng.choice(COND)
        if form == 0:
            size = self.pick(2, 4, 8)
            self.put(f"cmov{cond} {self.reg(size)}, " + (self.reg(size) if self.rng.random() < 0.5 else self.mem()))
        elif form == 1:
            self.put(f"set{cond} " + (self.reg(1) if self.rng.random() < 0.5 else f"byte {self.mem()}"))
        else:
            end = self.label()
            self.put(f"j{cond} {end}")
            before, self.factor = self.factor, self.factor / 2
            for _ in range(self.rng.randrange(1, 4)):
                self.simple()
            self.factor = before
            self.here(end)

    def exchange(self):
        size = self.size()
        form = self.rng.randrange(6)
        lock = self.pick("", "lock ")
        if form == 0:
            self.put(f"xchg {self.reg(size)}, {self.reg(size)}")
        elif form == 1:
            self.put(f"xchg {self.mem()}, {self.reg(size)}")
        elif form == 2:
            self.put(f"{lock}xadd {self.mem()}, {self.reg(size)}")
        elif form == 3 and "rax" not in self.busy:
            self.put(f"{lock}cmpxchg {self.mem()}, {self.reg(size)}")
        elif form == 4 and not {"rax", "rdx"} & self.busy:
            self.put(f"{lock}cmpxchg8b {self.mem()}")
        elif not {"rax", "rdx"} & self.busy:
            self.put(f"{lock}cmpxchg16b {self.mem(16)}")

    def convert(self):
        if not {"rax", "rdx"} & self.busy:
            self.put(self.pick("cbw", "cwde", "cdqe", "cwd", "cdq", "cqo", "lahf", "sahf", "clc", "stc", "cmc"))

    def simple(self):
        self.rng.choice([self.alu, self.alu, self.alu, self.move, self.move, self.unary, self.shift, self.bits])()

    def stack(self):
        form = self.rng.randrange(6)
        if form == 0:
            self.put(f"push {self.reg()}")
            self.simple()
            self.put(f"pop {self.reg()}")
        elif form == 1:
            self.put(f"push qword {self.mem()}")
            self.put(f"push {self.imm(4)}")
            self.put(f"pop qword {self.mem()}")
            self.put(f"pop {self.reg()}")
        elif form == 2:
            self.put("pushfq")
            self.simple()
            self.put("popfq")
        elif form == 3:
            self.put(f"push {self.pick('ax', 'dx', 'r9w')}")
            self.put("add rsp, 2")
        elif form == 4 and "rbp" not in self.busy:
            self.put(f"enter {8 * self.rng.randrange(8)}, {self.pick(0, 0, 1)}")
            self.busy.add("rbp")
            self.simple()
            self.put(f"mov [rbp-8], {self.reg()}")
            self.busy.discard("rbp")
            self.put("leave")
        else:
            self.put(f"mov [rsp-{8 * self.rng.randrange(20, 40)}], {self.reg()}")

    def call(self):
        form = self.rng.randrange(4)
        n = self.rng.randrange(8)
        self.executed += 5 * self.factor
        if form == 0:
            self.put(f"call sub{n}")
        elif form == 1:
            r = self.reg()
            self.put(f"mov {r}, sub{n}")
            self.put(f"call {r}")
        elif form == 2:
            self.put(f"call [sub_table+{8 * n}]")
        else:
            target, r = self.label(), self.reg()
            self.put(f"lea {r}, [rel {target}]")
            self.put(f"jmp {r}")
            self.put("ud2", False)
            self.here(target)

    def loop(self):
        counter = self.rng.choice([r for r in POOL if r not in self.busy])
        count = self.rng.randrange(2, 7)
        top = self.label()
        self.put(f"mov {self.name(counter, 4)}, {count}")
        self.busy.add(counter)
        before, self.factor = self.factor, self.factor * count
        self.here(top)
        for _ in range(self.rng.randrange(1, 5)):
            self.rng.choice([self.simple, self.simple, self.stack, self.conditional, self.sse])()
        if counter == "rcx" and self.rng.random() < 0.5:
            self.put(f"loop {top}")
        else:
            self.put(f"{self.pick('dec ', 'sub ')}{self.name(counter, 4)}".replace("sub " + self.name(counter, 4),
                     f"sub {self.name(counter, 4)}, 1"))
            self.put(f"jnz {top}")
        self.factor = before
        self.busy.discard(counter)

    def string(self):
        if {"rax", "rcx", "rsi", "rdi"} & self.busy:
            return
        down = self.rng.random() < 0.3
        self.put(f"lea rsi, [r15+{self.rng.randrange(0x400, 0x2800):#x}]")
        self.put(f"lea rdi, [r15+{self.rng.randrange(0x400, 0x2800):#x}]")
        self.put(f"mov ecx, {self.rng.randrange(0, 40)}")
        if down:
            self.put("std")
        width = self.pick("b", "w", "d", "q")
        self.put(self.pick("rep movs", "rep movs", "rep stos", "repne scas", "repe cmps", "movs", "stos", "lods",
                           "rep lods", "cmps", "scas") + width)
        if down:
            self.put("cld")

    def device(self):
        if {"rax", "rcx", "rdx", "rsi", "rdi"} & self.busy:
            return
        form = self.rng.randrange(7)
        if form == 0:
            self.put(self.pick("in al, 0x80", "in eax, 0x80", "out 0x80, al", "out 0x80, ax"))
        elif form == 1:
            self.put(f"mov {self.reg(4)}, [MMIO+{4 * self.rng.randrange(64)}]")
            self.put(f"mov [MMIO+{4 * self.rng.randrange(64)}], {self.reg(4)}")
            self.put(f"{self.pick('add', 'xor')} {self.reg(4)}, [MMIO+{4 * self.rng.randrange(64)}]")
        else:
            self.put("mov edx, 0x80")
            self.put(f"mov ecx, {self.rng.randrange(2, 7)}")
            if form == 2:
                self.put(f"lea rdi, [r15+{self.rng.randrange(0x2000):#x}]")
                self.put(self.pick("rep insb", "rep insw", "rep insd"))
            elif form == 3:
                self.put(f"lea rsi, [r15+{self.rng.randrange(0x2000):#x}]")
                self.put(self.pick("rep outsb", "rep outsw", "rep outsd"))
            elif form == 4:
                self.put("mov esi, MMIO+0x40")
                self.put(f"lea rdi, [r15+{self.rng.randrange(0x2000):#x}]")
                self.put(self.pick("rep movsb", "rep movsd", "rep movsq"))
            elif form == 5:
                self.put("mov edi, MMIO+0x80")
                self.put(f"lea rsi, [r15+{self.rng.randrange(0x2000):#x}]")
                self.put(self.pick("rep movsw", "rep movsd"))
            else:
                self.put("mov edi, MMIO+0x100")
                self.put(self.pick("rep stosd", "repne scasb"))

    def x87(self):
        self.put(f"fld {self.pick('qword', 'dword', 'tword')} {self.mem()}")
        self.put(f"fild {self.pick('word', 'dword', 'qword')} {self.mem()}")
        for _ in range(self.rng.randrange(1, 4)):
            self.put(self.pick("fadd st0, st1", "fmul st1, st0", "fsub st0, st1", "fdivr st0, st1", "fxch st1", "fchs",
                               "fabs", "frndint", "fsqrt", f"fadd qword {self.mem()}", "fucomi st0, st1", "ftst",
                               "fscale", "fnop"))
        self.put(f"fstp {self.pick('qword', 'dword', 'tword')} {self.mem()}")
        self.put(self.pick(f"fistp {self.pick('word', 'dword', 'qword')} {self.mem()}", f"fstp qword {self.mem()}"))
        if self.rng.random() < 0.2 and "rax" not in self.busy:
            self.put(self.pick("fnstsw ax", f"fnstcw {self.mem()}", f"fnstenv {self.mem()}", "fnclex"))

    def mmx(self):
        a, b = self.rng.randrange(8), self.rng.randrange(8)
        self.put(f"movq mm{a}, {self.mem()}")
        self.put(f"{self.pick('paddw', 'pxor', 'pmullw', 'punpcklbw', 'psubsb', 'pcmpeqd')} mm{b}, mm{a}")
        self.put(f"movq {self.mem()}, mm{b}")
        self.put("emms")

    def sse(self):
        a, b = self.rng.randrange(16), self.rng.randrange(16)
        form = self.rng.randrange(7)
        if form == 0:
            self.put(f"{self.pick('movups', 'movdqu', 'movupd')} xmm{a}, {self.mem()}")
        elif form == 1:
            self.put(f"{self.pick('movups', 'movdqu')} {self.mem()}, xmm{a}")
        elif form == 2:
            self.put(f"{self.rng.choice(SSE)} xmm{a}, xmm{b}")
        elif form == 3:
            self.put(f"{self.rng.choice(SSE)} xmm{a}, {self.mem(16)}")
        elif form == 4:
            self.put(f"{self.rng.choice(SCALAR)} xmm{a}, xmm{b}")
        elif form == 5:
            self.put(self.pick(f"pshufd xmm{a}, xmm{b}, {self.rng.randrange(256)}", f"pmovmskb {self.reg(4)}, xmm{a}",
                               f"movd xmm{a}, {self.reg(4)}", f"movq {self.reg(8)}, xmm{a}",
                               f"cvtsi2sd xmm{a}, {self.reg(8)}", f"cvttsd2si {self.reg(8)}, xmm{a}",
                               f"psrldq xmm{a}, {self.rng.randrange(16)}", f"psllw xmm{a}, {self.rng.randrange(20)}"))
        else:
            self.lines.append("%ifdef AVX")
            c = self.rng.randrange(16)
            self.put(self.pick(f"vaddps ymm{a}, ymm{b}, ymm{c}", f"vmulpd ymm{a}, ymm{b}, {self.mem()}",
                               f"vmovups ymm{a}, {self.mem()}", f"vmovups {self.mem()}, ymm{a}",
                               f"vxorps ymm{a}, ymm{b}, ymm{c}", f"vpaddd xmm{a}, xmm{b}, xmm{c}",
                               f"vbroadcastss ymm{a}, {self.mem()}", f"vextractf128 xmm{a}, ymm{b}, 1",
                               f"vperm2f128 ymm{a}, ymm{b}, ymm{c}, {self.rng.randrange(256)}",
                               f"vsubsd xmm{a}, xmm{b}, xmm{c}", "vzeroupper"))
            self.lines.append("%endif")

    def shadow(self):
        """STI and MOV SS hold interrupts off for one instruction, CLI for more."""
        form = self.rng.randrange(4)
        if form == 0:
            self.put("cli")
            for _ in range(self.rng.randrange(0, 4)):
                self.simple()
            self.put("sti")
            self.simple()
        elif form == 1:
            self.put("sti")
            self.simple()
        elif "rax" not in self.busy:
            self.put("mov eax, ss")
            self.put("mov ss, eax")
            self.simple()
        else:
            self.put("pushfq")
            self.put("cli")
            self.simple()
            self.put("popfq")

    def system(self):
        if {"rax", "rbx", "rcx", "rdx"} & self.busy:
            return
        form = self.rng.randrange(9)
        if form == 0:
            self.put("mov rax, cr3")
            self.put("mov cr3, rax")
        elif form == 1:
            self.put(f"invlpg {self.mem()}")
        elif form == 2:
            self.put("mov ecx, 0xc0000080")
            self.put("rdmsr")
        elif form == 3:
            self.put("mov ecx, 0xc0000100")
            self.put("mov edx, 0")
            self.put("wrmsr")
            self.put("rdmsr")
        elif form == 4:
            self.put("swapgs")
            self.simple()
            self.put("swapgs")
        elif form == 5:
            self.put(f"sgdt {self.mem()}")
            self.put(f"smsw {self.reg(4)}")
        elif form == 6:
            self.put("mov eax, ds")
            self.put(f"lar {self.reg(4, but=('rax',))}, ax")
            self.put("mov es, eax")
        elif form == 7:
            self.put("mov eax, 1")
            self.put("xor ecx, ecx")
            self.put("cpuid")
        else:
            self.put(self.pick("mfence", "pause", "nop", "mov rax, cr0", "clts", "wbinvd", "int 0x42"))

    def modify(self):
        """Code that writes the code behind it; the same bytes every time."""
        at, value = self.label(), self.rng.randrange(256)
        self.put(f"mov byte [rel {at}-1], {value}")
        if self.rng.random() < 0.5:
            self.simple()
        self.put(f"mov {self.reg(1, but=('rsi', 'rdi', 'rbp'))}, 0x11")
        self.here(at)

    def make(self, wanted):
        kinds = [(self.simple, 30), (self.indexed, 5), (self.multiply, 4), (self.conditional, 14), (self.exchange, 5),
                 (self.convert, 4), (self.stack, 10), (self.call, 8), (self.loop, 6), (self.string, 5),
                 (self.device, 3), (self.x87, 4), (self.mmx, 1), (self.sse, 18), (self.shadow, 3), (self.system, 2),
                 (self.modify, 0.3)]
        what, weights = zip(*kinds)
        while self.executed < wanted:
            self.rng.choices(what, weights)[0]()

    def subroutines(self):
        for n in range(8):
            self.lines.append(f"sub{n}:")
            for _ in range(3):
                self.simple()
            if n % 3 == 2:
                self.put("pop qword [r15+0x2ff0]")
                self.put("push qword [r15+0x2ff0]")
            self.put("ret")
        self.lines.append("align 8")
        self.lines.append("sub_table: dq " + ", ".join(f"sub{n}" for n in range(8)))


def main():
    body = Body(int(sys.argv[1]))
    body.lines.append("body:")
    body.make(int(sys.argv[2]))
    body.lines.append("    jmp body_end")
    body.subroutines()
    with open(sys.argv[3], "w", encoding="utf-8") as f:
        f.write(f"; made by gen_boundaries.py, seed {sys.argv[1]}\n" + "\n".join(body.lines) + "\n")


main()
