#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmark programs natively and in a guest under Croft, QEMU's TCG and Bochs, in turn.

The guest is Debian's stock cloud kernel with the programs as its first process. What counts is the time
between a program's `begin` and result lines as they arrive here, on the host's clock: a slow guest's own
clock need not be believed (it is recorded beside it). Figures are per unit of work, so that a slow engine
can do fewer units; the table shows the median over the repetitions, and for each program how many times
slower than native it is. "boot" is the time from start to the first program, "all" to the guest's end.

Repetitions take turns (native, croft, tcg, bochs, native, ...), so that a change in the host's mood
meets all of them.
"""
import argparse
import json
import os
import pty
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENGINES = ["native", "croft", "tcg", "bochs"]
# Units of work per program: enough to measure, little enough to wait for.
UNITS = {"native": 10, "tcg": 3, "croft": 1, "bochs": 1}
APPEND = "console=ttyS0 quiet panic=-1"


class Lines:
    """Notes when each line of a guest's console arrives."""

    def __init__(self):
        self.start = time.monotonic()
        self.rest = b""
        self.lines = []  # (seconds since the start, text)

    def feed(self, data):
        now = time.monotonic() - self.start
        *whole, self.rest = (self.rest + data).split(b"\n")
        for line in whole:
            self.lines.append((now, line.decode("ascii", "replace").strip("\r\n ")))

    def results(self):
        """Seconds per unit of each program, by the host's clock and by the guest's; and milestones."""
        out, begin, milestone = {}, {}, {}
        for at, text in self.lines:
            words = text.split()
            if text.endswith("=== bench"):
                milestone["boot"] = at
            elif text == "=== end":
                milestone["end"] = at
            elif len(words) == 2 and words[0] == "begin":
                begin[words[1]] = at
            elif len(words) == 4 and words[0] in begin:
                try:
                    guest, units = float(words[1]), int(words[2])
                except ValueError:
                    continue
                out[words[0]] = {"host": (at - begin[words[0]]) / units, "guest": guest / units,
                                 "units": units, "value": words[3]}
            elif words and words[0] == "failed":
                print(f"  {text}", file=sys.stderr)
        return out, milestone


def run_piped(command, lines, timeout):
    """Runs a command and times its standard output. Returns None, or why it failed."""
    with tempfile.TemporaryFile() as errors:
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        timer = threading.Timer(timeout, p.kill)
        timer.start()
        lines.start = time.monotonic()
        while data := os.read(p.stdout.fileno(), 65536):
            lines.feed(data)
        status = p.wait()
        lines.total = time.monotonic() - lines.start
        timed_out = not timer.is_alive()
        timer.cancel()
        if timed_out:
            return f"did not end within {timeout} s"
        if status:
            errors.seek(0)
            return f"exit status {status}: {errors.read()[-300:].decode('ascii', 'replace').strip()}"
    return None


def run_bochs(work, iso, lines, timeout):
    """Bochs writes the serial port to a file, which is watched; it wants a terminal, so it gets one."""
    serial, config, commands = (os.path.join(work, n) for n in ("serial.txt", "bochsrc", "commands"))
    open(serial, "w").close()
    with open(commands, "w") as f:
        f.write("c\n")
    with open(config, "w") as f:
        f.write(f"""config_interface: textconfig
display_library: term
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
megs: 512
cpu: model=corei7_haswell_4770, count=1, ips=50000000, reset_on_triple_fault=0
clock: sync=none, time0=utc
ata0-master: type=cdrom, path={iso}, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={serial}
log: {os.path.join(work, 'bochs.log')}
panic: action=fatal
error: action=ignore
info: action=ignore
""")
    master, slave = pty.openpty()
    env = dict(os.environ, TERM="xterm")
    p = subprocess.Popen(["bochs", "-q", "-f", config, "-rc", commands], cwd=work, stdin=slave,
                         stdout=slave, stderr=slave, env=env, start_new_session=True)
    os.close(slave)

    def drain():
        try:
            while os.read(master, 65536):
                pass
        except OSError:
            pass

    threading.Thread(target=drain, daemon=True).start()
    lines.start = time.monotonic()
    with open(serial, "rb") as f:
        while True:
            ended = p.poll() is not None
            data = f.read()
            if data:
                lines.feed(data)
            if ended:
                break
            if time.monotonic() - lines.start > timeout:
                p.kill()
                p.wait()
                os.close(master)
                return f"did not end within {timeout} s"
            time.sleep(0.002)
    lines.total = time.monotonic() - lines.start
    os.close(master)
    # The build with a debugger ends with 1 even after an orderly power-off: the console tells.
    if not any(text == "=== end" for _, text in lines.lines):
        return f"the guest did not finish; see {os.path.join(work, 'bochs.log')}"
    return None


class Bench:
    def __init__(self, args):
        self.args = args
        self.work = tempfile.mkdtemp(prefix="croft-bench-")
        self.binary = os.path.abspath(args.programs_binary or
                                      os.path.join(args.build, "bench", "bench-programs"))
        if not args.programs_binary:
            subprocess.run(["ninja", "-C", args.build, "bench/bench-programs"], check=True,
                           stdout=subprocess.DEVNULL)
        known = subprocess.run([self.binary], check=True, capture_output=True, text=True).stdout.split()
        self.programs = args.programs.split(",") if args.programs else known
        for name in self.programs:
            if name not in known:
                raise SystemExit(f"run.py: no program is named {name}; known: {' '.join(known)}")
        self.initrd = os.path.join(self.work, "bench.img")
        subprocess.run([os.path.join(ROOT, "scripts", "mkinitramfs"), self.initrd, "--no-busybox",
                        "--init", self.binary], check=True)

    def units(self, engine):
        return max(1, round(UNITS[engine] * self.args.scale))

    def append(self, engine):
        return f"{APPEND} bench=" + ",".join(f"{n}:{self.units(engine)}" for n in self.programs)

    def native(self, lines):
        lines.start = time.monotonic()
        for name in self.programs:
            p = subprocess.Popen([self.binary, name, str(self.units("native"))], stdout=subprocess.PIPE)
            while data := os.read(p.stdout.fileno(), 65536):
                lines.feed(data)
            p.wait()
        lines.total = time.monotonic() - lines.start

    def croft(self, lines):
        command = [self.args.croft or os.path.join(self.args.build, "croft"), "run",
                   "--kernel", self.args.kernel, "--initrd", self.initrd, "--memory", "512M",
                   "--append", self.append("croft"), *self.args.croft_args.split()]
        return run_piped(command, lines, self.args.timeout)

    def tcg(self, lines):
        return run_piped(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "512",
                          "-nographic", "-no-reboot", "-kernel", self.args.kernel,
                          "-initrd", self.initrd, "-append", self.append("tcg")],
                         lines, self.args.timeout)

    def bochs(self, lines):
        tree = os.path.join(self.work, "iso")
        shutil.rmtree(tree, ignore_errors=True)
        os.makedirs(os.path.join(tree, "boot", "grub"))
        shutil.copy(self.args.kernel, os.path.join(tree, "boot", "vmlinuz"))
        shutil.copy(self.initrd, os.path.join(tree, "boot", "initrd"))
        with open(os.path.join(tree, "boot", "grub", "grub.cfg"), "w") as f:
            f.write("set timeout=0\nmenuentry bench {\n"
                    f"  linux /boot/vmlinuz {self.append('bochs')}\n  initrd /boot/initrd\n}}\n")
        iso = os.path.join(self.work, "bench.iso")
        subprocess.run(["grub-mkrescue", "-o", iso, tree], check=True, capture_output=True)
        return run_bochs(self.work, iso, lines, self.args.timeout)

    def close(self):
        shutil.rmtree(self.work, ignore_errors=True)


def median(values):
    return statistics.median(values) if values else None


def show(programs, engines, figures):
    """figures[engine][name]: median seconds per unit."""
    others = [e for e in engines if e != "native"]
    columns = [("native ms", 10)] + [(e, 10) for e in others]
    pairs = [(a, b) for a, b in (("croft", "tcg"), ("croft", "bochs")) if a in engines and b in engines]
    print(f"{'program':12}" + "".join(f"{t:>{w}}" for t, w in columns) +
          "".join(f"{a + '/' + b:>13}" for a, b in pairs))

    def ratio(a, b):
        return f"{a / b:.2f}x" if a is not None and b else "-"

    for name in programs:
        native = figures.get("native", {}).get(name)
        row = f"{name:12}" + (f"{native * 1e3:10.2f}" if native else f"{'-':>10}")
        for e in others:
            t = figures[e].get(name)
            row += f"{ratio(t, native) if native else (f'{t * 1e3:.1f} ms' if t else '-'):>10}"
        for a, b in pairs:
            row += f"{ratio(figures[a].get(name), figures[b].get(name)):>13}"
        print(row)
    for key in ("boot", "all"):
        row = f"{key:12}{'':10}"
        for e in others:
            t = figures[e].get(key)
            row += f"{f'{t:.1f} s' if t else '-':>10}"
        for a, b in pairs:
            row += f"{ratio(figures[a].get(key), figures[b].get(key)):>13}"
        print(row)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default=",".join(ENGINES), help="engines, of: " + " ".join(ENGINES))
    p.add_argument("--programs", help="programs, comma-separated (all)")
    p.add_argument("--reps", type=int, default=3)
    p.add_argument("--scale", type=float, default=1, help="times the usual work")
    p.add_argument("--timeout", type=int, default=600, help="seconds for one guest run")
    p.add_argument("--json", metavar="FILE", help="write every figure there")
    p.add_argument("--build", default=os.path.join(ROOT, "build"), help="build folder")
    p.add_argument("--croft", help="the croft program (BUILD/croft)")
    p.add_argument("--croft-args", default="", help="more options for croft run, as '--engine interp'")
    p.add_argument("--kernel", default=os.path.join(ROOT, "cache", "vmlinuz-cloud"))
    p.add_argument("--programs-binary", help="BUILD/bench/bench-programs, built elsewhere")
    args = p.parse_args()
    engines = args.only.split(",")
    for e in engines:
        if e not in ENGINES:
            raise SystemExit(f"run.py: no engine is named {e}; known: {' '.join(ENGINES)}")
    if any(e != "native" for e in engines) and not os.path.exists(args.kernel):
        subprocess.run([os.path.join(ROOT, "scripts", "fetch-kernel")], check=True)
    bench = Bench(args)
    runs = {e: [] for e in engines}
    failed = False
    try:
        for rep in range(args.reps):
            for e in engines:
                lines = Lines()
                print(f"run {rep + 1} of {args.reps}: {e}", file=sys.stderr)
                why = getattr(bench, e)(lines)
                if why:
                    print(f"run.py: {e}: {why}", file=sys.stderr)
                    for _, text in lines.lines[-12:]:
                        print(f"    {text}", file=sys.stderr)
                    failed = True
                    continue
                results, milestone = lines.results()
                runs[e].append({"programs": results, "boot": milestone.get("boot"), "all": lines.total})
    finally:
        bench.close()
    figures = {}
    for e in engines:
        clock = "guest" if e == "native" else "host"
        figures[e] = {n: median([r["programs"][n][clock] for r in runs[e] if n in r["programs"]])
                      for n in bench.programs}
        figures[e]["boot"] = median([r["boot"] for r in runs[e] if r["boot"]])
        figures[e]["all"] = median([r["all"] for r in runs[e]])
    show(bench.programs, engines, figures)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"medians": figures, "runs": runs,
                       "host": {"machine": os.uname().release, "cpus": os.cpu_count()}}, f, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
