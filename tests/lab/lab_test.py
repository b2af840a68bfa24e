#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs one fidelity guest (guests/lab) and reads its verdict.

usage: lab_test.py --guest FILE [--runner croft|kvm|tcg] [--croft FILE] [--engine NAME] [--cpu MODEL]
                   [--cpus N] [--memory MIB] [--append TEXT] [--timeout S]

Runners: Croft; the host's KVM, with QEMU as the board around it, as a second opinion; QEMU's TCG, by hand.
Where KVM stops in a trial (an instruction that the host does not emulate), the guest is run again without that
trial, and the gap is reported. Under KVM the differences listed in known_kvm.py, each with what settles it, do not count; anything else does.
Exit status 77, a skipped test, where the host has no KVM.
"""
import argparse
import os
import re
import select
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import known_kvm  # noqa: E402

SKIP = 77
TRIPLE_FAULT = 6      # Croft's exit status
REPEATS_MAX = 40      # runs after which a monitor with gaps is given up
STOPS_IN_SECTION = 3  # trials lost in one section before the rest of it is left out


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIP)


def command(args):
    if args.runner == "croft":
        line = [args.croft, "run", "--kernel", args.guest, "--cpus", str(args.cpus), "--memory", f"{args.memory}M",
                "--timeout", str(args.timeout)]
        if args.shutdown:
            line.append("--no-reboot")
        if args.engine:
            line += ["--engine", args.engine]
        if args.cpu:
            line += ["--cpu", args.cpu]
        return line + (["--append", args.append] if args.append else [])
    if args.runner == "kvm":
        try:
            os.close(os.open("/dev/kvm", os.O_RDWR))
        except OSError as error:
            skip(f"/dev/kvm: {error.strerror}")
    accel = ["-accel", "kvm", "-cpu", args.cpu or "host,-arch-capabilities"] if args.runner == "kvm" else \
        ["-accel", "tcg", "-cpu", args.cpu or "max"]
    return ["qemu-system-x86_64", *accel, "-smp", str(args.cpus), "-m", str(args.memory), "-display", "none",
            "-serial", "stdio", "-monitor", "none", "-no-reboot", "-nodefaults", "-kernel", args.guest]


def run(args, skip_trials, skip_sections):
    """One run; the last element tells the trial, the section's number and its name where it stopped."""
    line = command(args)
    with tempfile.TemporaryDirectory() as folder:
        trials = os.path.join(folder, "trials")
        if args.runner != "croft":
            words = ["trials", "sysexit"] + ([args.append] if args.append else [])
            if skip_trials:
                words.append("skip=" + ",".join(map(str, skip_trials)))
            if skip_sections:
                words.append("sections=" + ",".join(map(str, skip_sections)))
            line += ["-append", " ".join(words), "-debugcon", "file:" + trials]
        # With a terminal on standard input the guest would take its keys.
        with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            # QEMU stays, stopped, after an internal error of KVM.
            chunks = {process.stdout: b"", process.stderr: b""}
            end = time.monotonic() + args.timeout + 10
            error_at = None
            poll = select.poll()
            for stream in chunks:
                poll.register(stream, select.POLLIN | select.POLLHUP)
            open_streams = 2
            while open_streams:
                now = time.monotonic()
                if now > end or (error_at and now > error_at + 0.3):
                    process.kill()
                    if now > end:
                        chunks[process.stderr] += b"\nkilled after the time limit\n"
                    break
                for fd, _ in poll.poll(100):
                    stream = next(x for x in chunks if x.fileno() == fd)
                    data = os.read(fd, 65536)
                    chunks[stream] += data
                    if not data:
                        poll.unregister(stream)
                        open_streams -= 1
                if b"KVM internal error" in chunks[process.stderr] and not error_at:
                    error_at = time.monotonic()
        stop = None
        if os.path.exists(trials):
            with open(trials, encoding="utf-8", errors="replace") as f:
                told = [x.rstrip("\n").split(" ", 1) for x in f if " " in x]
            if told:
                stop = (int(told[-1][0]), int(told[-1][1].split(" ", 1)[0]), told[-1][1].split(" ", 1)[1])
        return process, chunks[process.stdout], chunks[process.stderr], stop


def main():
    parser = argparse.ArgumentParser(add_help=True, usage=__doc__)
    parser.add_argument("--guest", required=True)
    parser.add_argument("--runner", choices=["croft", "kvm", "tcg"], default="croft")
    parser.add_argument("--croft", default="croft")
    parser.add_argument("--engine")
    parser.add_argument("--cpu")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=64)
    parser.add_argument("--append")
    parser.add_argument("--shutdown", action="store_true", help="the guest is to end by shutdown (Croft only)")
    parser.add_argument("--timeout", type=int, default=100)
    args = parser.parse_args()
    name = os.path.basename(args.guest).removesuffix(".elf")

    gaps, process, out, err = [], None, b"", b""
    skip_trials, skip_sections, stops_in = [], [], {}
    while True:
        process, out, err, stop = run(args, skip_trials, skip_sections)
        if b"verdict: " in out or args.runner == "croft" or stop is None or len(gaps) == REPEATS_MAX:
            break
        trial, number, section = stop
        if trial in skip_trials or number in skip_sections:
            break
        if args.runner == "kvm" and name in known_kvm.STOPS:
            gaps.append(f"trial {trial} ({section}): stopped")
            break
        cause = re.search(r"KVM internal error.*?Code=.*?<(..)>((?: ..){0,5})", err.decode(errors="replace"), re.S)
        gaps.append(f"trial {trial} ({section}): " + (f"not emulated: {cause[1]}{cause[2]}" if cause else "stopped"))
        stops_in[number] = stops_in.get(number, 0) + 1
        if stops_in[number] > STOPS_IN_SECTION:
            skip_sections.append(number)
        else:
            skip_trials.append(trial)
    if args.shutdown:
        ok = process.returncode == TRIPLE_FAULT and b"verdict" not in out
        print(f"{name}: exit status {process.returncode}: {'shut down' if ok else 'FAILED'}")
        sys.exit(0 if ok else 1)
    for gap in gaps:
        print(f"gap: {gap}")
    text = out.decode(errors="replace").replace("\r", "")
    lines = text.splitlines()
    verdict = [m for m in (re.fullmatch(r"verdict: (\d+) checks, (\d+) failed", x) for x in lines) if m]
    failures = [x for x in lines if x.startswith("FAILED")]
    print("\n".join(x for x in lines if x.startswith(("ok ", "BAD", "note:", "FAILED", "verdict"))))
    bad = []
    known = known_kvm.KNOWN.get(name, []) if args.runner == "kvm" else []
    for line in failures:
        why = next((why for pattern, why in known if re.search(pattern, line)), None)
        if why:
            print(f"known: {line}\n       {why}")
        else:
            bad.append(line)
    if len(verdict) != 1:
        stops = known_kvm.STOPS.get(name) if args.runner == "kvm" else None
        if stops and (not lines or not verdict):
            print(f"known: the guest does not come to its end: {stops}")
        else:
            bad.append("no verdict; the last of what the guest said:\n" + "\n".join(lines[-5:]))
            bad.append(err.decode(errors="replace"))
    elif int(verdict[0][2]) != len(failures) or int(verdict[0][1]) == 0:
        bad.append("the verdict does not fit the report")
    if args.runner == "croft" and process.returncode != 0:
        bad.append(f"exit status {process.returncode}: {err.decode(errors='replace')}")
    for line in bad:
        print(line)
    print(f"{name} under {args.runner}: {'FAILED' if bad else 'passed'}")
    sys.exit(1 if bad else 0)


main()
