#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""croft run --bt-dump: every instruction of every block is there, with the guest's own bytes and with host code.

usage: dump_test.py --croft FILE --guest ELF
"""
import argparse
import re
import struct
import subprocess
import sys
import tempfile

parser = argparse.ArgumentParser()
parser.add_argument("--croft", required=True)
parser.add_argument("--guest", required=True)
args = parser.parse_args()


def dump(*more):
    with tempfile.NamedTemporaryFile("r") as out:
        subprocess.run([args.croft, "run", "--engine", "bt", f"--bt-dump={out.name}", "--kernel", args.guest,
                        "--memory", "64M", "--timeout", "60", "--no-reboot", *more],
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return out.read()


def segments(name):  # of a 32-bit ELF: (address, bytes)
    image = open(name, "rb").read()
    (phoff,), (phsize, phnum) = struct.unpack_from("<I", image, 28), struct.unpack_from("<HH", image, 42)
    for i in range(phnum):
        kind, off, _, phys, size = struct.unpack_from("<5I", image, phoff + i * phsize)
        if kind == 1:
            yield phys, image[off:off + size]


def main():
    wrong = []
    text = dump()
    blocks = re.split(r"^(?=block )", text, flags=re.M)[1:]
    image = list(segments(args.guest))
    seen = same = 0
    for block in blocks:
        head = re.match(r"block (0x[0-9a-f]+) at (0x[0-9a-f]+), .*; (\d+) instructions, (\d+) bytes -> (\d+) bytes\n", block)
        if not head:
            wrong.append("head: " + block.splitlines()[0])
            continue
        lines = re.findall(r"^  (0x[0-9a-f]+)  ([0-9a-f]+) +(\S.*)$", block, flags=re.M)
        at, offset = int(head[1], 16), int(head[2], 16) - int(head[1], 16)
        if len(lines) != int(head[3]) or "(bad)" in block:
            wrong.append(f"{len(lines)} of {head[3]} instructions: {block}")
        for address, code, _ in lines:
            code = bytes.fromhex(code)
            if int(address, 16) != at:
                wrong.append(f"{address} follows {at:#x}")
            at += len(code)
            seen += 1
            for base, data in image:
                start = int(address, 16) + offset - base
                if 0 <= start < len(data):
                    same += data[start:start + len(code)] == code
        if at - int(head[1], 16) != int(head[4]):
            wrong.append(f"ends at {at:#x}: {block}")
        # Host code: contiguous from the entries to the end.
        host = [(int(a, 16), len(b) // 2) for a, b in re.findall(r"^    ([0-9a-f]{8})  ([0-9a-f]+)", block, flags=re.M)]
        if not host or any(a + n != b for (a, n), (b, _) in zip(host, host[1:])):
            wrong.append(f"host code has gaps: {block}")
    if len(blocks) < 20 or same * 2 < seen:
        wrong.append(f"{len(blocks)} blocks, {seen} instructions, {same} as in the file")
    first = re.match(r"block (0x[0-9a-f]+)", blocks[0])[1]
    some = re.findall(r"^block (0x[0-9a-f]+)", dump(f"--bt-dump-rip={first}"), flags=re.M)
    if set(some) != {first}:
        wrong.append(f"--bt-dump-rip={first}: {some}")
    print(f"{len(blocks)} blocks, {seen} instructions, {same} with the bytes of the file")
    print("\n".join(wrong[:5]))
    return 1 if wrong else 0


sys.exit(main())
