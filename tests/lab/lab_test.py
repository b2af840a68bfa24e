#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs one fidelity guest (guests/lab) and reads its verdict.

usage: lab_test.py --guest FILE [--runner croft|kvm|tcg] [--croft FILE] [--kvm-run FILE] [--engine NAME]
                   [--cpu MODEL] [--cpus N] [--memory MIB] [--append TEXT] [--timeout S] [--gaps]

Runners: Croft; the host's KVM as a second opinion, on the small board of kvm_run.c; QEMU's TCG, by hand.
A trial that KVM cannot run (an instruction that the host does not emulate) is a gap: it costs its checks and is
counted by cause (--gaps lists each). The differences listed in known_kvm.py, each with what settles it, do not
count either; any other does. Exit status 77, a skipped test, where the host has no KVM.
"""
import argparse
import collections
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import known_kvm  # noqa: E402

SKIP = 77
TRIPLE_FAULT = 6  # Croft's exit status


def command(args):
    append = args.append or ""
    if args.runner == "croft":
        line = [args.croft, "run", "--kernel", args.guest, "--cpus", str(args.cpus), "--memory", f"{args.memory}M",
                "--timeout", str(args.timeout)]
        if args.shutdown:
            line.append("--no-reboot")
        if args.engine:
            line += ["--engine", args.engine] + (["--bt-verify"] if os.environ.get("CROFT_BT_VERIFY") == "1" and args.engine == "bt" else [])
        if args.cpu:
            line += ["--cpu", args.cpu]
        return line + (["--append", append] if append else [])
    if args.runner == "kvm":
        return [args.kvm_run, args.guest, str(args.cpus), f"trials sysexit {append}"]
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", args.cpu or "max", "-smp", str(args.cpus), "-m",
            str(args.memory), "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot",
            "-nodefaults", "-kernel", args.guest, "-append", append]


def gaps(err, listed):
    """Tells the trials that KVM could not run, by cause."""
    causes = collections.Counter()
    for line in err.splitlines():
        match = re.fullmatch(r"gap: trial (\d+, [^:]*): (.*) at [0-9a-f]+", line)
        if not match:
            continue
        if listed:
            print(line)
        cause = re.match(r"(not emulated: (?:(?:2e|36|3e|26|64|65|66|67|f0|f2|f3|4\w) )*\w\w(?: \w\w)?).*", match[2])
        causes[cause[1] if cause else match[2]] += 1
    for cause, count in causes.most_common():
        print(f"gap: {count} trials: {cause}")
    return sum(causes.values())


def main():
    parser = argparse.ArgumentParser(add_help=True, usage=__doc__)
    parser.add_argument("--guest", required=True)
    parser.add_argument("--runner", choices=["croft", "kvm", "tcg"], default="croft")
    parser.add_argument("--croft", default="croft")
    parser.add_argument("--kvm-run", default="kvm-run")
    parser.add_argument("--engine")
    parser.add_argument("--cpu")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=64)
    parser.add_argument("--append")
    parser.add_argument("--shutdown", action="store_true", help="the guest is to end by shutdown (Croft only)")
    parser.add_argument("--timeout", type=int, default=100)
    parser.add_argument("--gaps", action="store_true")
    args = parser.parse_args()
    name = os.path.basename(args.guest).removesuffix(".elf")

    # With a terminal on standard input the guest would take its keys.
    try:
        ran = subprocess.run(command(args), stdin=subprocess.DEVNULL, capture_output=True, timeout=args.timeout + 10,
                             check=False)
        out, err, status = ran.stdout, ran.stderr, ran.returncode
    except subprocess.TimeoutExpired as late:
        out, err, status = late.stdout or b"", (late.stderr or b"") + b"\nkilled after the time limit\n", -1
    text, err = out.decode(errors="replace").replace("\r", ""), err.decode(errors="replace")
    if args.runner == "kvm" and status == SKIP:
        print(text)
        sys.exit(SKIP)
    if args.shutdown:
        ok = status == TRIPLE_FAULT and "verdict" not in text
        print(f"{name}: exit status {status}: {'shut down' if ok else 'FAILED'}")
        sys.exit(0 if ok else 1)
    lines = text.splitlines()
    verdict = [m for m in (re.fullmatch(r"verdict: (\d+) checks, (\d+) failed", x) for x in lines) if m]
    failures = [x for x in lines if x.startswith("FAILED")]
    bad = []
    lost = gaps(err, args.gaps) if args.runner == "kvm" else 0
    known = known_kvm.KNOWN.get(name, []) if args.runner == "kvm" else []
    if args.runner == "kvm" and name in known_kvm.STOPS:
        known = known + [(r"outside of a trial", known_kvm.STOPS[name])]
    differences = collections.Counter()
    for line in failures:
        why = next((why for pattern, why in known if re.search(pattern, line)), None)
        if why:
            differences[why] += 1
        else:
            bad.append(line)
    print("\n".join(x for x in lines if x.startswith(("ok ", "BAD", "note:", "verdict"))))
    for why, count in differences.items():
        print(f"known difference, {count} times: {why}")
    if len(verdict) != 1:
        stops = known_kvm.STOPS.get(name) if args.runner == "kvm" else None
        if stops:
            print(f"known: the guest does not come to its end: {stops}")
        else:
            bad.append("no verdict; the last of what the guest said:\n" + "\n".join(lines[-5:]) + "\n" + err[-1000:])
    elif int(verdict[0][2]) != len(failures) or (int(verdict[0][1]) == 0 and not lost):
        bad.append("the verdict does not fit the report")
    if args.runner == "croft" and status != 0:
        bad.append(f"exit status {status}: {err}")
    for line in bad:
        print(line)
    print(f"{name} under {args.runner}: {'FAILED' if bad else 'passed'}")
    sys.exit(1 if bad else 0)


main()
