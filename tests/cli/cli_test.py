#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The command line on good and bad input: exit status, and one line that names the cause and the remedy.

usage: cli_test.py --croft FILE [--engine NAME] --hello FILE --rubbish FILE --flood FILE [--rounds N]
"""
import argparse
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time

parser = argparse.ArgumentParser()
parser.add_argument("--croft", required=True)
parser.add_argument("--hello", required=True)
parser.add_argument("--rubbish", required=True)
parser.add_argument("--flood", required=True)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--engine")
args = parser.parse_args()
RUN = ["run"] + (["--engine", args.engine] if args.engine else [])
work = tempfile.mkdtemp()
passed = failed = 0


def verdict(name, problems):
    global passed, failed
    if problems:
        failed += 1
        print(f"FAILED {name}: {'; '.join(problems)}")
    else:
        passed += 1
        print(f"ok {name}")


def croft(*words, stdin=subprocess.DEVNULL, timeout=120):
    if words[:1] == ("run",) and words[1:] != ("--help",):
        verify = os.environ.get("CROFT_BT_VERIFY") == "1" and args.engine == "bt" and "--engine" not in words
        words = (*RUN, *(["--bt-verify"] if verify else []), *words[1:])
    return subprocess.run([args.croft, *words], stdin=stdin, capture_output=True, timeout=timeout, check=False)


def expect(name, words, status, err="", out="", one_line=True):
    """Runs croft; its status, a pattern in stderr and one in stdout must fit."""
    result = croft(*words)
    stderr, stdout = result.stderr.decode(errors="replace"), result.stdout.decode(errors="replace")
    problems = []
    if result.returncode != status:
        problems.append(f"status {result.returncode}, not {status}")
    if not re.search(err, stderr):
        problems.append(f"stderr {stderr!r} lacks {err!r}")
    if not re.search(out, stdout):
        problems.append(f"stdout {stdout[-300:]!r} lacks {out!r}")
    if one_line and status in (1, 2, 3) and stderr.count("\n") != 1:
        problems.append(f"stderr has {stderr.count(chr(10))} lines, not one: {stderr!r}")
    verdict(name, problems)


def path(name, data=b""):
    at = os.path.join(work, name)
    with open(at, "wb") as f:
        f.write(data)
    return at


def run_hello(name, append, status, err="", out="", *more):
    expect(name, ["run", "--kernel", args.hello, "--append", append, "--timeout", "60", "--memory", "16M", *more],
           status, err, out, one_line=False)


def usage():
    expect("no verb", [], 2, "usage: croft VERB", one_line=False)
    expect("unknown verb", ["dance"], 2, "no verb 'dance'")
    expect("version", ["version"], 0, out=r"^croft \d+\.\d+")
    expect("help", ["help"], 0, out="run")
    expect("help run", ["help", "run"], 0, out="--kernel")
    expect("run --help", ["run", "--help"], 0, out="exit status")
    expect("help of nothing", ["help", "dance"], 2, "no verb")
    expect("engines", ["engines"], 0, out="interp")
    result = croft("engines", "--json")
    engines = json.loads(result.stdout)
    verdict("engines as JSON", [] if any(e["name"] == "interp" and e["usable"] for e in engines)
            else [f"{engines}"])
    verdict("engines tell why", [f"{e}" for e in engines if not e["why"] or not e["summary"]])
    first = next((e["name"] for e in engines if e["usable"]), None)
    verdict("the first usable engine is the automatic one",
            [f"{e}" for e in engines if e["auto"] != (e["name"] == first)])
    lines = croft("engines").stdout.decode().splitlines()
    verdict("engines, two lines each", [] if len(lines) == 2 * len(engines) and all(
        re.match(rf"{e['name']} +{'yes' if e['usable'] else 'no'} ", line) and
        line.endswith("(auto)") == e["auto"] and lines[2 * i + 1].strip() == e["why"]
        for i, (e, line) in enumerate(zip(engines, lines[::2]))) else lines)
    expect("engines, unknown option", ["engines", "--yaml"], 2, "--yaml")
    for name in ["auto"] + [e["name"] for e in engines if e["usable"]]:
        result = croft("run", "--engine", name, "--kernel", args.hello, "--append", "", "--timeout", "60",
                       "--memory", "16M", "--stats=json")
        stats = re.search(r'"engine": "(\w+)"', result.stderr.decode())
        verdict(f"--engine {name}", [] if stats and stats[1] == (first if name == "auto" else name)
                else [f"{result}"])
    for e in engines:
        if not e["usable"]:
            expect(f"--engine {e['name']}, which this host cannot use",
                   ["run", "--kernel", args.hello, "--engine", e["name"]], 1, re.escape(e["why"]))
    known = ", ".join(["auto"] + [e["name"] for e in engines])
    expect("no kernel", ["run"], 2, "--kernel FILE is needed")
    expect("unknown flag", ["run", "--frobnicate"], 2, "--frobnicate")
    expect("flag without value", ["run", "--kernel"], 2, "--kernel needs a value")
    expect("stray word", ["run", "--kernel", args.hello, "stray"], 2, "'stray'")
    for size in ("0", "1M", "x", "12Q", "-1", "99999999G", "3K5", "1025G"):
        expect(f"memory {size}", ["run", "--kernel", args.hello, "--memory", size], 2, "--memory")
    for size in ("3M", "1025M", "0", "x", "32Q", "4097K"):
        expect(f"translator's cache {size}", ["run", "--kernel", args.hello, "--engine", "bt", "--bt-cache", size], 2,
               "--bt-cache")
    for option in ("--bt-cache=8M", "--bt-verify", "--bt-dump"):
        expect(f"{option} elsewhere", ["run", "--kernel", args.hello, "--engine", "interp", option], 2,
               option.split("=")[0] + " is an option of the bt engine, and this run has the interp engine")
    for where in ("x", "10-", "20-10", "-1", "0"):
        expect(f"dump of {where!r}", ["run", "--kernel", args.hello, "--engine", "bt", "--bt-dump",
                                      f"--bt-dump-rip={where}"], 2, "--bt-dump-rip")
    expect("dump range without a dump", ["run", "--kernel", args.hello, "--engine", "bt", "--bt-dump-rip=1000"], 2,
           "give both")
    expect("dump to nowhere", ["run", "--kernel", args.hello, "--engine", "bt", "--bt-dump=/nowhere/x"], 3,
           "--bt-dump: cannot write /nowhere/x")
    for cpus in ("0", "65", "two", "-1", "1.5"):
        expect(f"cpus {cpus}", ["run", "--kernel", args.hello, "--cpus", cpus], 2, "--cpus")
    for model in ("z80", "max,-nosuch", "max,vendor=cyrix", "max,+monitor"):
        expect(f"cpu {model!r}", ["run", "--kernel", args.hello, "--cpu", model], 2, "cpu|model|feature")
    expect("486 alone", ["run", "--kernel", args.hello, "--cpu", "486", "--cpus", "2"], 2, "--cpus 2.*486.*APIC")
    expect("no APIC alone", ["run", "--kernel", args.hello, "--cpu", "max,-apic", "--cpus", "2"], 2, "no local APIC")
    expect("too new for a 486", ["run", "--kernel", args.hello, "--cpu", "486,+avx"], 2, "too new")
    for model in ("486", "pentium", "pentium,-apic"):
        expect(f"hello on {model}", ["run", "--kernel", args.hello, "--cpu", model], 0, out="hello from PVH")
    expect("engine", ["run", "--kernel", args.hello, "--engine", "steam"], 2, f'"steam"; known: {known}')
    expect("serial", ["run", "--kernel", args.hello, "--serial", "carrier-pigeon"], 2, "stdio, file=PATH")
    expect("stats", ["run", "--kernel", args.hello, "--stats=xml"], 2, "json")
    for seed in ("x", "-1", "18446744073709551616", ""):
        expect(f"seed {seed!r}", ["run", "--kernel", args.hello, f"--deterministic={seed}"], 2, "--deterministic")
    expect("deterministic processors", ["run", "--kernel", args.hello, "--deterministic", "--cpus", "2"], 2,
           "--cpus 2: a deterministic run has one processor")
    expect("deterministic", ["run", "--kernel", args.hello, "--deterministic=7"], 0, out="hello from PVH")
    expect("timeout", ["run", "--kernel", args.hello, "--timeout", "0"], 2, "--timeout")


def bad_files():
    with open(args.hello, "rb") as f:
        hello = f.read()
    kernel = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../cache/vmlinuz-cloud")
    with open(kernel, "rb") as f:
        linux = f.read()

    def bad(name, data, err, *more):
        at = path("bad", data)
        expect(name, ["run", "--kernel", at, "--memory", "64M", *more], 3, re.escape(at) + ".*" + err)

    expect("missing kernel", ["run", "--kernel", "/nonexistent"], 3, "kernel '/nonexistent'.*No such file")
    expect("folder as kernel", ["run", "--kernel", work], 3, "not a regular file")
    bad("empty kernel", b"", "empty")
    bad("text as kernel", b"hello\n" * 1000, "neither a Linux bzImage nor an ELF")
    bad("short text", b"x", "neither")
    bad("truncated bzImage", linux[:100000], "truncated: syssize")
    bad("only the setup code", linux[:2048], "truncated")
    bad("old boot protocol", linux[:0x206] + struct.pack("<H", 0x201) + linux[0x208:], "too old")
    bad("kernel too large for memory", linux[:0x260] + struct.pack("<I", 1 << 30) + linux[0x264:], "--memory")
    bad("truncated ELF", hello[:200], "truncated|damaged|without")
    bad("ELF header only", hello[:52], "damaged|truncated")
    bad("ELF without note", hello.replace(b"Xen\0", b"Xon\0"), "without a PVH entry")
    bad("ELF outside memory", hello.replace(struct.pack("<II", 0x100000, 0x100000),
                                            struct.pack("<II", 0x100000, 0xf0000000)), "outside the memory")
    expect("missing initrd", ["run", "--kernel", kernel, "--initrd", "/nonexistent"], 3, "initrd '/nonexistent'")
    big = path("big")
    os.truncate(big, 200 << 20)
    expect("initrd too large", ["run", "--kernel", kernel, "--initrd", big, "--memory", "128M"], 3,
           "does not fit.*--memory")
    expect("memory too small", ["run", "--kernel", kernel, "--memory", "16M"], 3, "--memory")
    expect("command line too long", ["run", "--kernel", kernel, "--append", "x" * 5000], 2, "--append")
    expect("serial file in no folder", ["run", "--kernel", args.hello, "--serial", "file=/nonexistent/x"], 3,
           "/nonexistent/x")
    expect("serial socket in the way", ["run", "--kernel", args.hello, "--serial", "socket=" + path("plain")], 3,
           "in the way")


def endings():
    run_hello("power off", "", 0, out="hello from PVH")
    expect("initrd arrives", ["run", "--kernel", args.hello, "--initrd", path("module", b"some text"), "--timeout",
                              "60"], 0, out="module of 9 bytes: some text")
    run_hello("triple fault", "triple", 6, "triple-faulted", "", "--no-reboot")
    run_hello("jump to nothing", "nowhere", 6, "triple-faulted", "", "--no-reboot")
    run_hello("reset by CF9", "reset-cf9", 5, "", "", "--no-reboot")
    run_hello("reset by the 8042", "reset-8042", 5, "", "", "--no-reboot")
    run_hello("reset by port 92h", "reset-port92", 5, "", "", "--no-reboot")
    for way in ("reset-cf9", "reset-8042", "reset-port92"):
        run_hello(f"deterministic {way}", way, 5, "", "", "--no-reboot", "--deterministic")
    run_hello("deterministic triple fault", "triple", 6, "triple-faulted", "", "--no-reboot", "--deterministic")
    run_hello("deterministic time-out, halted", "halt", 4, "--timeout", "", "--timeout", "2", "--deterministic")
    run_hello("deterministic time-out, spinning", "spin", 4, "--timeout", "", "--timeout", "2", "--deterministic")
    run_hello("time-out, halted", "halt", 4, "--timeout", "", "--timeout", "2")
    run_hello("time-out, spinning", "spin", 4, "--timeout", "", "--timeout", "2")
    run_hello("time-out, writing", "flood", 4, "--timeout", r"\.\.\.", "--timeout", "2")
    result = croft("run", "--kernel", args.hello, "--append", "reset-cf9", "--timeout", "3", "--memory", "16M")
    times = result.stdout.count(b"hello from PVH")
    verdict("a reset starts over", [] if times > 2 and result.returncode == 4 else
            [f"{times} boots, status {result.returncode}"])
    result = croft("run", "--kernel", args.hello, "--append", "triple", "--timeout", "3", "--memory", "16M")
    times = result.stdout.count(b"hello from PVH")
    again = croft("run", "--kernel", args.hello, "--append", "reset-cf9", "--timeout", "3", "--memory", "16M",
                  "--deterministic")
    verdict("a reset starts over, deterministic", [] if again.stdout.count(b"hello from PVH") > 2 and
            again.returncode == 4 else [f"status {again.returncode}"])
    verdict("a triple fault starts over", [] if times > 2 and result.returncode == 4 else
            [f"{times} boots, status {result.returncode}"])
    log = os.path.join(work, "serial.log")
    expect("serial to a file", ["run", "--kernel", args.hello, "--serial", "file=" + log], 0)
    with open(log, encoding="utf-8") as f:
        verdict("the file has it", [] if "hello from PVH" in f.read() else ["it has not"])
    expect("serial to nowhere", ["run", "--kernel", args.hello, "--serial", "none"], 0)
    result = croft("run", "--kernel", args.hello, "--stats=json")
    stats = json.loads(result.stderr)
    counters = stats["vcpus"][0]  # a translator counts what it translates
    verdict("statistics as JSON", [] if counters["instructions"] + counters.get("instructions_translated", 0) > 100
            else [result.stderr.decode()])
    expect("statistics as a table", ["run", "--kernel", args.hello, "--stats"], 0, r"instructions +\d+")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with subprocess.Popen([args.croft, *RUN, "--kernel", args.hello, "--append", "spin"],
                              stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
            process.stdout.readline()
            process.send_signal(number)
            status = process.wait(timeout=30)
        # The shell's convention for a process that handled the signal.
        verdict(f"ended by {number.name}", [] if status == 128 + number else [f"status {status}"])


def read_until(fd, text, seconds=30):
    seen = b""
    end = time.monotonic() + seconds
    while text not in seen and time.monotonic() < end:
        if select.select([fd], [], [], 0.2)[0]:
            try:
                seen += os.read(fd, 4096)
            except OSError:
                break
    return seen


def terminal():
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with subprocess.Popen([args.croft, *RUN, "--kernel", args.hello, "--append", "spin"], stdin=slave,
                          stdout=slave, stderr=slave) as process:
        seen = read_until(master, b"hello from PVH")
        raw = termios.tcgetattr(slave)
        os.write(master, b"\x01h")
        helped = read_until(master, b"Ctrl-a x")
        os.write(master, b"\x03")  # Ctrl-C is the guest's
        time.sleep(0.3)
        alive = process.poll() is None
        os.write(master, b"\x01x")
        status = process.wait(timeout=30)
    after = termios.tcgetattr(slave)
    verdict("terminal", [p for ok, p in (
        (b"hello from PVH" in seen, "no output"), (raw != before, "not raw"), (b"Ctrl-a x" in helped, "no help"),
        (alive, "Ctrl-C ended it"), (status == 7, f"status {status}"), (after == before, "not restored")) if not ok])
    for number in (signal.SIGTERM, signal.SIGSEGV):
        with subprocess.Popen([args.croft, *RUN, "--kernel", args.hello, "--append", "spin"], stdin=slave,
                              stdout=slave, stderr=slave) as process:
            read_until(master, b"hello from PVH")
            process.send_signal(number)
            process.wait(timeout=30)
        verdict(f"terminal restored after {number.name}",
                [] if termios.tcgetattr(slave) == before else ["it is not"])


def serial_socket():
    at = os.path.join(work, "serial.sock")
    with subprocess.Popen([args.croft, *RUN, "--kernel", args.hello, "--append", "flood", "--serial",
                           "socket=" + at], stdin=subprocess.DEVNULL) as process:
        for _ in range(100):
            if os.path.exists(at):
                break
            time.sleep(0.1)
        problems = []
        for _ in range(2):  # a client may go and another come
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(at)
                client.settimeout(30)
                if b"...." not in b"".join(client.recv(4096) for _ in range(40)):
                    problems.append("no output on the socket")
            time.sleep(0.3)
        process.terminate()
        if process.wait(timeout=30) != 128 + signal.SIGTERM:
            problems.append("bad status")
        if os.path.exists(at):
            problems.append("the socket is still there")
    verdict("serial to a socket", problems)


def rubbish():
    """No register of any chip takes Croft down, whatever is written there."""
    for seed in range(args.rounds):
        run_hello_rubbish = ["run", "--kernel", args.rubbish, "--append", str(seed), "--timeout", "120",
                             "--no-reboot", "--memory", "16M"]
        expect(f"rubbish {seed}", run_hello_rubbish, 0, out="survived", one_line=False)
        result = croft("run", "--kernel", args.rubbish, "--append", f"{seed}a", "--timeout", "20", "--no-reboot",
                       "--memory", "16M")
        verdict(f"rubbish everywhere {seed}", [] if result.returncode in (0, 4, 5, 6) else
                [f"status {result.returncode}: {result.stderr.decode()}"])


def flood():
    """A guest that keeps a device busy, with output that nobody reads, still ends when it is asked to."""
    for mode in ("port", "strings", "debug", "memory", "split"):
        with subprocess.Popen([args.croft, *RUN, "--verbose", "--kernel", args.flood, "--append", mode, "--memory",
                               "16M"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            time.sleep(1.5)
            process.terminate()
            try:
                status = process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                status = None
                process.kill()
            verdict(f"flood {mode}", [] if status == 128 + signal.SIGTERM else [f"status {status}"])


usage()
bad_files()
endings()
terminal()
serial_socket()
rubbish()
flood()
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
