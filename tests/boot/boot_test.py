#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots Debian's stock kernel under Croft, runs the guest's checks, and holds its log against the log that
the same kernel writes under QEMU's TCG.

usage: boot_test.py --croft FILE --selftest FILE --work DIR [--cpus N] [--cpu MODEL] [--timeout S]
                    [--engine NAME] [--entry long64|pm32|pvh] [--kernel NAME] [--no-compare]

--kernel is one of scripts/fetch-guest: linux-686, linux-686-pae (with a 32-bit busybox and self-test), linux-amd64;
without it, the cloud kernel.

Passes when every check in the guest says ok, the guest powers off with exit status 0, and the log holds no
warning or error (levels 0 to 4) that TCG's log lacks.
"""
import argparse
import fcntl
import hashlib
import os
import re
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
APPEND = "console=ttyS0 loglevel=7 panic=-1"
CHECKS_AT_LEAST = 18

# Lines that differ for a reason that is no fault of the processor or the board.
EXPECTED = [
    # pattern of the message, reason
    (r"clocksource: Long readout interval", "the host did not let the processor run for a while"),
]


def image(args):
    """The test's initramfs, made once per content."""
    os.makedirs(args.work, exist_ok=True)
    i386 = args.kernel.startswith("linux-686")
    out = os.path.join(args.work, "boot-test-i386.img" if i386 else "boot-test.img")
    more = ["--busybox", os.path.join(ROOT, "cache/guests/busybox-i386")] if i386 else []
    with open(out + ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        init = os.path.join(ROOT, "guests/initramfs/test-init")
        if not os.path.exists(out) or any(
                os.path.getmtime(f) > os.path.getmtime(out) for f in (init, args.selftest)):
            subprocess.run([os.path.join(ROOT, "scripts/mkinitramfs"), out, "--init", init, *more,
                            f"{args.selftest}=/selftest"], check=True)
    return out


def stock_kernel(args):
    return os.path.join(ROOT, "cache", f"guests/vmlinuz-{args.kernel}" if args.kernel else "vmlinuz-cloud")


def kernel_for(args):
    """The kernel as the entry wants it: the bzImage as it is, without its 64-bit entry, or the ELF within."""
    stock = stock_kernel(args)
    if args.entry == "long64":
        return stock
    out = os.path.join(args.work, f"kernel-{args.entry}")
    with open(out + ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(out) and os.path.getmtime(out) > os.path.getmtime(stock):
            return out
        with open(stock, "rb") as f:
            data = bytearray(f.read())
        if args.entry == "pm32":
            data[0x236] &= ~1  # XLF_KERNEL_64
        else:
            offset, length = struct.unpack_from("<II", data, 0x248)
            start = (data[0x1f1] + 1) * 512 + offset
            # The last four bytes are the unpacked size, not part of the LZ4 frame.
            data = subprocess.run(["lz4", "-d", "-c"], input=bytes(data[start:start + length - 4]),
                                  capture_output=True, check=True).stdout
        with open(out + ".new", "wb") as f:
            f.write(data)
        os.rename(out + ".new", out)
    return out


def split(text):
    """Guest output to (checks, log lines)."""
    text = text.replace("\r", "")
    checks = re.findall(r"^(ok|FAILED) (.*)$", text, re.M)
    log = text.split("=== log\n")[-1].split("=== end")[0].splitlines() if "=== log\n" in text else []
    return checks, log


def complaints(log):
    """Messages of level 0 (emergency) to 4 (warning), without time stamps and numbers."""
    found = []
    for line in log:
        m = re.match(r"<(\d+)>\[ *[\d.]+\] (.*)", line)
        if m and int(m.group(1)) % 8 <= 4:
            found.append(re.sub(r"0x[0-9a-f]+|\d+", "N", m.group(2)).strip())
    return found


def tcg_log(args, initrd):
    """TCG's log of the same boot, kept beside the images: it changes only with them."""
    kernel, cpu = stock_kernel(args), "max" + (",-lm" if ",-lm" in args.cpu else "")
    key = hashlib.sha256()
    for path in (kernel, initrd):
        with open(path, "rb") as f:
            key.update(f.read())
    key.update(APPEND.encode())
    if cpu != "max":
        key.update(cpu.encode())
    cached = os.path.join(args.work, f"tcg-{args.cpus}-{key.hexdigest()[:16]}.log")
    with open(os.path.join(args.work, "tcg.lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(cached):
            result = subprocess.run(
                ["qemu-system-x86_64", "-accel", "tcg", "-cpu", cpu, "-m", "512", "-smp", str(args.cpus),
                 "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", kernel,
                 "-initrd", initrd, "-append", APPEND],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=args.timeout, check=False)
            if b"=== end" not in result.stdout:
                sys.exit(f"the yardstick did not get there: {result.stderr.decode(errors='replace')}")
            with open(cached + ".new", "wb") as f:
                f.write(result.stdout)
            os.rename(cached + ".new", cached)
    with open(cached, encoding="utf-8", errors="replace") as f:
        return split(f.read())[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--croft", required=True)
    parser.add_argument("--selftest", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--cpu", default="max")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--entry", choices=["long64", "pm32", "pvh"], default="long64")
    parser.add_argument("--kernel", default="")
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("--no-compare", action="store_true")
    args = parser.parse_args()
    if args.kernel:
        wanted = [args.kernel] + (["busybox-i386"] if "686" in args.kernel else [])
        subprocess.run([os.path.join(ROOT, "scripts/fetch-guest"), *wanted], check=True)
    initrd = image(args)
    result = subprocess.run(
        [args.croft, "run", "--engine", args.engine, *(["--bt-verify"] if os.environ.get("CROFT_BT_VERIFY") == "1" and args.engine == "bt" else []), "--cpus", str(args.cpus), "--cpu", args.cpu,
         "--memory", "512M", "--no-reboot", "--timeout", str(args.timeout), "--kernel",
         kernel_for(args), "--initrd", initrd, "--append", APPEND, "--stats"],
        stdin=subprocess.DEVNULL, capture_output=True, check=False)
    text = result.stdout.decode(errors="replace")
    checks, log = split(text)
    problems = [f"check failed: {name}" for verdict, name in checks if verdict != "ok"]
    if len(checks) < CHECKS_AT_LEAST:
        problems.append(f"only {len(checks)} checks were seen")
    if f"cpus {args.cpus}" not in text.replace("\r", "").splitlines():
        problems.append(f"the guest does not see {args.cpus} processors")
    if result.returncode != 0:
        problems.append(f"exit status {result.returncode}, not 0: {result.stderr.decode(errors='replace')}")
    if "clocksource kvm-clock" not in text.replace("\r", "").splitlines():
        problems.append("Linux did not pick kvm-clock")
    if not args.no_compare:
        known = set(complaints(tcg_log(args, initrd)))
        for line in complaints(log):
            if line not in known and not any(re.search(p, line) for p, _ in EXPECTED):
                problems.append(f"not in TCG's log: {line}")
    for name in sorted({name for verdict, name in checks if verdict == "ok"}):
        print("ok", name)
    if problems:
        print(text[-20000:])
    for problem in problems:
        print("FAILED", problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
