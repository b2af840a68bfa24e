#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Drives tests/lockstep/lockstep.

usage: lockstep_test.py debian --lockstep FILE --selftest FILE --work DIR [-- OPTION...]
       lockstep_test.py notices --lockstep FILE --guest FILE

debian: the kernel and initramfs of tests/boot/boot_test.py; the options go to lockstep.
notices: an engine that goes wrong at one known instruction, in one way after the other: each must be noticed, the
instruction found, and the field named.
"""
import argparse
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../boot"))
import boot_test  # noqa: E402

AT = 23457
# what goes wrong, how the report names it, options
FAULTS = [
    ("register", r"cpu\.gpr\[4\]", []),
    ("hidden", r"cpu\.gpr\[4\]", []),
    ("flags", r"cpu\.rflags", ["--stretch", "2"]),
    ("vector", r"cpu\.vec\[47\]", []),
    ("x87", r"cpu\.x87\.fop", []),
    ("segment", r"cpu\.ldtr\.limit", []),
    ("count", "instructions", []),
    ("memory", r"memory\[1ff0120\]", []),
    ("device", r"pci_bus\.address", []),
]


def debian(args):
    os.makedirs(args.work, exist_ok=True)
    result = subprocess.run([args.lockstep, "--kernel", boot_test.stock_kernel(args), "--initrd",
                             boot_test.image(args), "--append", boot_test.APPEND, *args.more], check=False)
    return result.returncode


def notices(args):
    failed = 0
    common = [args.lockstep, "--kernel", args.guest, "--memory", "64", *args.more]
    if subprocess.run(common, check=False).returncode != 0:
        print("FAILED: no fault, but a difference")
        failed += 1
    for kind, field, more in FAULTS:
        result = subprocess.run([*common, "--engine-b", "faulty", "--fault", f"{kind}@{AT}", *more],
                                capture_output=True, text=True, check=False)
        found = re.search(r"differ after (\d+) instructions", result.stdout)
        report = result.stdout.split("fields that differ")[-1]
        good = result.returncode == 1 and found and int(found[1]) == AT and re.search(rf"^  {field}: ", report, re.M)
        print("ok" if good else "FAILED", kind)
        if not good:
            failed += 1
            print(result.stdout[-3000:], result.stderr[-1000:])
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["debian", "notices"])
    parser.add_argument("--lockstep", required=True)
    parser.add_argument("--selftest")
    parser.add_argument("--work")
    parser.add_argument("--guest")
    parser.add_argument("--kernel", default="")
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:cut])
    args.more = sys.argv[cut + 1:]
    sys.exit(debian(args) if args.what == "debian" else notices(args))


main()
