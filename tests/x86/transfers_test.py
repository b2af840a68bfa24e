#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the guests of random transfers (guests/pvh/transfers32.c, transfers64.c) and holds their lines
against transfers.json: one digest for each guest, vendor and hundred tests.

The recorded lines were compared with Bochs 2.7's (corei7_haswell_4770, ryzen), line by line. Where the two
differ, manuals and measurements on an AMD Zen 4 decide for the recorded ones:
  - IRET of any operand size in 64-bit mode pops SS:RSP (measured); Bochs only with REX.W.
  - RIP bits 63:32 count when IRETQ or RETFQ goes to compatibility mode: #GP (measured; a far JMP or CALL with
    64-bit offset alike); Bochs drops them.
  - LAR of a call gate does not look at the upper half's type (open: not in the manuals); Bochs does.
  - SYSCALL and SYSRET trap by the TF they leave behind; Bochs by the one they found.
  - SYSRET clears RF (SDM); Bochs loads it.
  - A null SS with an RPL other than the new CPL is #GP for IRET (SDM); Bochs takes it.
  - An AMD processor has no SYSENTER in long mode and no far JMP or CALL with 64-bit offset (measured).
  - A far CALL, or INT n, that faults on its target has pushed nothing.
  - IRETQ on AMD checks the target's canonical form before SS (measured).
  - Error codes of #SS for a non-canonical inner stack.

usage: transfers_test.py --croft FILE --guest FILE --vendor intel|amd [--engine NAME] [--show N | --record]
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys

TESTS, GROUP = 3000, 100
EXPECTED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "transfers.json")


def run(args, first, count):
    command = [args.croft, "run", "--boot", "pvh", "--kernel", args.guest, "--cpu", f"max,vendor={args.vendor}",
               "--memory", "64M", "--append", f"{first} {count}", "--no-reboot", "--timeout", "100"]
    if args.engine:
        command += ["--engine", args.engine]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                            timeout=120)
    lines = [line.strip() for line in result.stdout.splitlines()]
    if "END" not in lines or result.returncode != 0:
        sys.exit(f"transfers_test: exit status {result.returncode}, last lines:\n" + "\n".join(lines[-3:]) +
                 result.stderr[-300:])
    return [line for line in lines if line.startswith("#")]


def digests(lines):
    groups = {}
    for line in lines:
        number = int(line[1:].split()[0])
        groups.setdefault((number - 1) // GROUP, []).append(line)
    return [hashlib.sha256("\n".join(groups.get(i, [])).encode()).hexdigest()[:12] for i in range(TESTS // GROUP)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--croft", required=True)
    parser.add_argument("--guest", required=True)
    parser.add_argument("--vendor", required=True, choices=["intel", "amd"])
    parser.add_argument("--engine")
    parser.add_argument("--show", type=int, help="print the lines of this test and the next")
    parser.add_argument("--record", action="store_true", help="make what comes out the expectation")
    args = parser.parse_args()
    if args.show:
        print("\n".join(run(args, args.show, 2)))
        return
    key = f"{os.path.basename(args.guest)} {args.vendor}"
    expected = {}
    if os.path.exists(EXPECTED):
        with open(EXPECTED, encoding="ascii") as file:
            expected = json.load(file)
    got = digests(run(args, 1, TESTS))
    if args.record:
        expected[key] = got
        with open(EXPECTED, "w", encoding="ascii") as file:
            json.dump(expected, file, indent=1, sort_keys=True)
            file.write("\n")
        return
    if key not in expected:
        sys.exit(f"transfers_test: nothing recorded for {key}")
    bad = [i for i in range(len(got)) if got[i] != expected[key][i]]
    if bad:
        sys.exit("transfers_test: other outcomes in tests " +
                 ", ".join(f"{i * GROUP + 1}..{(i + 1) * GROUP}" for i in bad))
    print(f"{key}: {TESTS} tests as recorded")


main()
