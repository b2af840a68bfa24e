#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Real systems that are no Linux of their own, from Debian's packages (scripts/fetch-guest): how far they must come.

usage: guests_test.py --croft FILE [--engine NAME] NAME

  xen        Xen alone: its banner, then its panic for want of a dom0
  xen-dom0   Xen with Debian's kernel as PV dom0, to a shell script that powers off
  gnumach    GNU Mach: memory map, PCI, then its panic for want of a bootstrap module
  memtest    memtest86+ (64-bit): the first tests of the first pass without errors
  memtest-pentium   the 32-bit one on a Pentium
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GUESTS = os.path.join(ROOT, "cache/guests")
INIT = b"""#!/bin/sh
/bin/busybox mount -t proc proc /proc
echo "dom0 has $(/bin/busybox grep -c ^processor /proc/cpuinfo) processors, $(/bin/busybox cat /proc/sys/kernel/ostype)"
/bin/busybox poweroff -f
"""

parser = argparse.ArgumentParser()
parser.add_argument("--croft", required=True)
parser.add_argument("--engine", default="auto")
parser.add_argument("--timeout", type=int, default=500)
parser.add_argument("name")
args = parser.parse_args()


def fetch(*names):
    subprocess.run([os.path.join(ROOT, "scripts/fetch-guest"), *names], check=True)


def run(until, never, *words):
    """Runs until the output matches `until`; fails when it matches `never` or the guest ends before."""
    command = [args.croft, "run", "--engine", args.engine, *(["--bt-verify"] if os.environ.get("CROFT_BT_VERIFY") == "1" and args.engine == "bt" else []), "--no-reboot", "--timeout", str(args.timeout), *words]
    seen, started = "", time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
        while True:
            data = os.read(p.stdout.fileno(), 65536)
            seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", data.decode(errors="replace"))
            if never and re.search(never, seen):
                p.terminate()
                print(seen[-5000:])
                sys.exit(f"FAILED {args.name}: {never!r} was seen")
            if re.search(until, seen, re.S):
                p.terminate()
                print(f"ok {args.name}, {time.monotonic() - started:.1f} s")
                return
            if not data:
                print(seen[-5000:])
                sys.exit(f"FAILED {args.name}: {until!r} was not seen")


if args.name == "xen":
    fetch("xen")
    run(r"Xen version 4\..*Bootloader: Croft.*Panic on CPU 0:\s*\(XEN\) dom0 kernel not specified", r"FATAL|Double",
        "--kernel", f"{GUESTS}/xen", "--append", "console=com1 com1=115200 no-real-mode")
elif args.name == "xen-dom0":
    fetch("xen", "linux-amd64")
    with tempfile.TemporaryDirectory() as work:
        init, image = os.path.join(work, "init"), os.path.join(work, "image")
        with open(init, "wb") as f:
            f.write(INIT)
        os.chmod(init, 0o755)
        subprocess.run([os.path.join(ROOT, "scripts/mkinitramfs"), image, "--init", init], check=True)
        run(r"dom0 has 1 processors, Linux", r"Panic on CPU|Kernel panic|FATAL", "--memory", "1G",
            "--kernel", f"{GUESTS}/xen", "--append", "console=com1 com1=115200 no-real-mode dom0_mem=400M",
            "--module", f"{GUESTS}/vmlinuz-linux-amd64 console=hvc0 panic=-1", "--module", image)
elif args.name == "gnumach":
    fetch("gnumach")
    run(r"GNU Mach 1\.8.*biosmem: 000000000000100000:000000000010000000, available.*Probing PCI.*"
        r"bootstrap_create: No bootstrap code loaded", None, "--memory", "256M", "--cpu", "pentium,+cmov",
        "--kernel", f"{GUESTS}/gnumach", "--append", "console=com0")
elif args.name in ("memtest", "memtest-pentium"):
    fetch("memtest")
    pentium = args.name == "memtest-pentium"
    run(r"#4\s+\[Moving inversions", r"Errors: +[1-9]|Unexpected", "--memory", "32M",
        "--cpu", "pentium" if pentium else "max", "--kernel",
        f"{GUESTS}/memtest86+{'ia32' if pentium else 'x64'}.bin", "--append", "console=ttyS0,115200")
else:
    sys.exit(f"guests_test: no guest '{args.name}'")
