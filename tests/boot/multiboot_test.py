#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Multiboot kernels: what a guest receives from the loader, and files whose headers lie.

usage: multiboot_test.py --croft FILE [--engine NAME] --elf FILE --addresses FILE --demanding FILE --pvh FILE
"""
import argparse
import os
import re
import struct
import subprocess
import sys
import tempfile

parser = argparse.ArgumentParser()
for name in ("croft", "elf", "addresses", "demanding", "pvh"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--engine", default="auto")
args = parser.parse_args()
work = tempfile.mkdtemp()
failed = 0


def run(kernel, *more, memory="16M"):
    result = subprocess.run([args.croft, "run", "--engine", args.engine, *(["--bt-verify"] if os.environ.get("CROFT_BT_VERIFY") == "1" and args.engine == "bt" else []), "--kernel", kernel, "--memory", memory, "--timeout", "60", *more],
                            stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    return result.returncode, result.stdout.decode(errors="replace").replace("\r", ""), \
        result.stderr.decode(errors="replace")


def verdict(name, problems):
    global failed
    print(("FAILED " if problems else "ok ") + name + (": " + "; ".join(problems) if problems else ""))
    failed += bool(problems)


def path(name, data):
    at = os.path.join(work, name)
    with open(at, "wb") as f:
        f.write(data)
    return at


def content_sum(data):
    n = 0
    for byte in data:
        n = (n * 31 + byte) & 0xffffffff
    return n


def receives(name, kernel, modules, memory, append, elf):
    """Boots with modules [(file content, text)], the first as --initrd when it has no text."""
    words, lines = ["--append", append], []
    for i, (data, text) in enumerate(modules):
        at = path(f"module{i}", data)
        words += ["--initrd", at] if i == 0 and not text else ["--module", f"{at} {text}".rstrip()]
        string = f"module{i} {text}".rstrip()
        lines.append(f'module {i} bytes {len(data)} sum {content_sum(data):x} "{string}"')
    status, out, err = run(kernel, *words, memory=f"{memory}M")
    problems = [f"status {status}: {err}"] if status else []
    problems += re.findall("^FAILED .*", out, re.M)
    lines += [f'cmdline "{os.path.basename(kernel)}{" " + append if append else ""}"', "mem_lower 27f",
              f"mem_upper {(min(memory, 3072) - 1) * 1024:x}", 'loader "Croft"', "map 0 9fc00 1",
              f"map 100000 {(min(memory, 3072) - 1) << 20:x} 1", f"flags {0x24d | (0x20 if elf else 0):x}"]
    if memory > 3072:
        lines.append(f"map 100000000 {(memory - 3072) << 20:x} 1")
    seen = out.splitlines()
    problems += [f"no line {line!r}" for line in lines if line not in seen]
    if elf and "section .symtab" not in seen:
        problems.append("no section headers")
    if not elf and re.search("^section", out, re.M):
        problems.append("section headers of a file without")
    if len(re.findall("^module", out, re.M)) != len(modules):
        problems.append("not as many modules")
    if problems:
        print(out)
    verdict(name, problems)


def refused(name, data, pattern, *more, status=3, memory="16M"):
    at = path("bad", data)
    code, out, err = run(at, *more, memory=memory)
    problems = []
    if code != status:
        problems.append(f"status {code}, not {status}")
    if not re.search(pattern, err) or err.count("\n") != 1 or (status == 3 and at not in err):
        problems.append(f"stderr {err!r}")
    verdict(name, problems)


def header(flags, *fields, magic=0x1BADB002, checksum=None):
    if checksum is None:
        checksum = -(magic + flags) & 0xffffffff
    return struct.pack("<III", magic, flags, checksum) + b"".join(struct.pack("<I", f) for f in fields)


def elf32(phdrs, entry=0x100000, sections=(0, 0, 0), body=b"", machine=3):
    """An ELF file: header, program headers, Multiboot header, body."""
    return struct.pack("<4sBBB9xHHIIIIIHHHHHH", b"\x7fELF", 1, 1, 1, 2, machine, 1, entry, 52, sections[0], 0, 52,
                       32, len(phdrs), sections[2], sections[1], 0) + \
        b"".join(struct.pack("<8I", *p) for p in phdrs) + header(3) + body


def lying_files():
    a = 0x10000  # flag 16
    code = b"\xf4" * 64
    refused("unknown requirement", header(0x8, 0x100000) + code, "flags 0x8 demand")
    refused("flags of a later version", open(args.demanding, "rb").read(), "0x8003.*0x8000")
    refused("neither ELF nor addresses", header(3) + code, "no ELF file")
    refused("wrong checksum", header(3, checksum=1) + code * 20, "Multiboot")
    refused("demanded but not there", b"x" * 9000, "no Multiboot header", "--boot", "multiboot")
    refused("header behind the first 8192 bytes", b"\0" * 8184 + header(3) + code, "Multiboot header")
    refused("header not aligned", b"\0" * 2 + header(3) + code, "Multiboot header")
    refused("address fields cut off", header(a, 0x100000, 0x100000), "address fields lie outside")
    refused("load_addr above header", header(a, 0x100000, 0x100004, 0, 0, 0x100000) + code, "above header_addr")
    refused("load_addr before the file", header(a, 0x100010, 0x100000, 0, 0, 0x100000) + code, "first byte")
    refused("load_end below load", header(a, 0x100000, 0x100000, 0xfffff, 0, 0x100000) + code, "load_end_addr")
    refused("load_end behind the file", header(a, 0x100000, 0x100000, 0x200000, 0, 0x100000) + code, "last byte")
    refused("bss_end below data", header(a, 0x100000, 0x100000, 0, 0x100004, 0x100000) + code, "bss_end_addr")
    refused("entry outside", header(a, 0x100000, 0x100000, 0, 0, 0x180000) + code, "entry_addr")
    refused("bss to the end of the world", header(a, 0x100000, 0x100000, 0, 0xffffffff, 0x100000) + code,
            "image 0 wants.*--memory")
    refused("over the loader's data", header(a, 0x7000, 0x7000, 0, 0, 0x7000) + code, "outside the memory")
    refused("over the VGA window", header(a, 0x9fb00, 0x9fb00, 0, 0xa0000, 0x9fb00) + code, "outside the memory")
    refused("high wrap", header(a, 0xfffffff0, 0xfffffff0, 0, 0, 0xfffffff0) + code, "outside the memory")
    load = (1, 84, 0x100000, 0x100000, 64, 64, 7, 4)
    refused("no segments", elf32([]), "no segment to load")
    refused("program headers cut off", elf32([load] * 3)[:120] + b"", "program headers|Multiboot header")
    refused("segment outside the file", elf32([(1, 84, 0x100000, 0x100000, 5000, 5000, 7, 4)], body=code), "segment 0")
    refused("segment larger in the file", elf32([(1, 84, 0x100000, 0x100000, 64, 32, 7, 4)], body=code), "segment 0")
    refused("segment in the ROM area", elf32([(1, 84, 0xe0000, 0xe0000, 64, 64, 7, 4)], body=code), "outside the mem")
    refused("segment beyond memory", elf32([(1, 84, 0x100000, 0x2000000, 64, 64, 7, 4)], body=code), "--memory")
    refused("entry above memory", elf32([load], entry=0xf0000000, body=code), "entry 0xf0000000")
    refused("sections outside the file", elf32([load], sections=(100, 100, 40), body=code), "section headers.*strip")
    refused("small section headers", elf32([load], sections=(84, 1, 8), body=code), "section headers")
    section = struct.pack("<10I", 0, 1, 0, 0, 84, 0x10000, 0, 0, 4, 0)
    refused("section outside the file", elf32([load], sections=(96, 1, 40), body=section + code), "section 0")
    big = struct.pack("<10I", 0, 1, 0, 0, 0, 0x80000, 0, 0, 4, 0) * 40
    refused("sections that fill memory", elf32([load], sections=(96, 40, 40), body=big + b"\0" * 0x80000), "strip",
            memory="4M")
    refused("another processor's ELF", elf32([load], machine=40, body=code), "another processor.*40")
    refused("gzip", b"\x1f\x8b\x08\0" + code * 10, "gunzip")
    good = open(args.elf, "rb").read()
    for cut in (16, 40, 52, 60, 100, 4200, 5000, len(good) - 10):
        at = path("cut", good[:cut])
        code_, _, err = run(at)
        verdict(f"cut at {cut}", [] if code_ == 3 and at in err and err.count("\n") == 1 else [f"{code_} {err!r}"])


def options():
    def expect(name, words, status, pattern):
        code, out, err = run(*words)
        verdict(name, [] if code == status and re.search(pattern, err + out) else [f"{code} {err!r} {out[-300:]!r}"])

    plain = path("plain", b"some text")
    expect("missing module", [args.elf, "--module", "/nonexistent a b"], 3, "module '/nonexistent'.*No such file")
    expect("missing first module", [args.elf, "--initrd", "/nonexistent"], 3, "module '/nonexistent'.*No such file")
    expect("empty module", [args.elf, "--module", path("empty", b"")], 3, "is empty")
    expect("module without a name", [args.elf, "--module", " text"], 2, "--module.*FILE TEXT")
    expect("module too large", [args.elf, "--module", path("large", b"x" * (16 << 20))], 3, "--memory")
    expect("too many modules", [args.elf] + ["--module", plain] * 65, 2, "at most 64")
    expect("many modules", [args.elf] + ["--module", plain] * 64, 0, 'module 63 bytes 9 .*"plain"')
    expect("long strings", [args.elf] + ["--module", plain + " " + "x" * 60000] * 2, 2, "--module.*65536")
    expect("long command line", [args.elf, "--append", "x" * 66000], 2, "--append.*65536")
    expect("a space in the kernel's name", [path("a b", open(args.elf, "rb").read())], 0, 'cmdline "a_b"')
    expect("unknown protocol", [args.elf, "--boot", "carrier"], 2, "--boot 'carrier'.*multiboot")
    expect("Multiboot as PVH", [args.elf, "--boot", "pvh"], 3, "without a PVH entry")
    expect("Multiboot as Linux", [args.elf, "--boot", "linux"], 3, "neither")
    expect("PVH as Multiboot", [args.pvh, "--boot", "multiboot"], 3, "no Multiboot header")
    expect("PVH as asked", [args.pvh, "--boot", "pvh"], 0, "hello from PVH")
    expect("modules for PVH", [args.pvh, "--module", plain], 2, "--module is for Multiboot.*--initrd")
    code, out, err = run(args.elf, "--append", "reset")
    verdict("after a reset", [] if code == 0 and "boot 1\n" in out and "boot 2\n" in out and "FAILED" not in out and
            out.count('cmdline "multiboot-elf.elf reset"') == 2 else [f"{code} {err!r} {out!r}"])


three = [(b"first", ""), (bytes(range(256)) * 40, "with  two words"), (b"x" * 4096, "third")]
for kind, file in (("ELF", args.elf), ("addresses", args.addresses)):
    receives(f"{kind}, no module", file, [], 16, "", kind == "ELF")
    receives(f"{kind}, one module", file, three[:1], 64, "a b=c", kind == "ELF")
    receives(f"{kind}, three modules", file, three, 4096, "x", kind == "ELF")
receives("addresses in an ELF file", args.addresses, three[1:], 2, "x", False)
lying_files()
options()
print(f"{failed} failed")
sys.exit(1 if failed else 0)
