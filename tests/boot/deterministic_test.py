#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots Debian twice with --deterministic: console and every counter must be equal to the last bit. A third run
with another seed must get there too, but with other random numbers. The reference interpreter must print the same
and count the same instructions.

usage: deterministic_test.py --croft FILE --selftest FILE --work DIR [--engine NAME]
"""
import os
import argparse
import json
import subprocess
import sys

import boot_test


def run(args, initrd, *more, engine=None):
    result = subprocess.run(
        [args.croft, "run", "--engine", engine or args.engine,
         *(["--bt-verify"] if os.environ.get("CROFT_BT_VERIFY") == "1" and (engine or args.engine) == "bt" else []), "--memory", "512M", "--no-reboot", "--timeout", "280",
         "--kernel",
         boot_test.stock_kernel(args), "--initrd", initrd, "--append", boot_test.APPEND, "--stats=json", *more],
        stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if result.returncode != 0 or b"=== end" not in result.stdout:
        print(result.stdout[-3000:].decode(errors="replace"))
        sys.exit(f"FAILED: status {result.returncode}: {result.stderr.decode(errors='replace')}")
    return result.stdout, json.loads(result.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--croft", required=True)
    parser.add_argument("--selftest", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--kernel", default="", help="as boot_test.py")
    parser.add_argument("--engine", default="interp")
    args = parser.parse_args()
    problems = []
    initrd = boot_test.image(args)
    first, second = run(args, initrd, "--deterministic"), run(args, initrd, "--deterministic=0")
    other = run(args, initrd, "--deterministic=1")
    reference = first if args.engine == "interp" else run(args, initrd, "--deterministic", engine="interp")
    for what, than in (("the second run", second), ("the interpreter", reference)):
        one, two = first[0].splitlines(), than[0].splitlines()
        if one != two:
            at = next((i for i, (a, b) in enumerate(zip(one, two)) if a != b), min(len(one), len(two)))
            problems.append(f"{what}: console line {at + 1} differs: {one[at:at + 1]} {two[at:at + 1]}")
        if than[1]["clock_ns"] != first[1]["clock_ns"]:
            problems.append(f"{what}: another time")
        if than[1]["vcpus"][0]["instructions"] != first[1]["vcpus"][0]["instructions"]:
            problems.append(f"{what}: {than[1]['vcpus'][0]['instructions']} instructions")
    for name, value in first[1]["vcpus"][0].items():
        if second[1]["vcpus"][0][name] != value:
            problems.append(f"{name}: {value}, then {second[1]['vcpus'][0][name]}")
    if first[1]["vcpus"][0]["instructions"] == other[1]["vcpus"][0]["instructions"]:
        problems.append("another seed makes no difference")
    print(f"{first[1]['vcpus'][0]['instructions']} instructions, {first[1]['clock_ns']} ns")
    for problem in problems:
        print("FAILED", problem)
    sys.exit(1 if problems else 0)


main()
