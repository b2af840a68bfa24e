# SPDX-License-Identifier: Apache-2.0
"""Starts the benchmark programs: natively, under Croft's engines, QEMU's TCG and Bochs.

A run is one start of one engine. Its part says what runs:
    programs   all programs, one processor
    parallel   those that work on two processors at once, two processors
    off, off2  nothing: boots and powers off, one and two processors
"""
import json
import os
import pty
import shutil
import subprocess
import tempfile
import threading
import time

from console import run_piped

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
APPEND = "console=ttyS0 quiet panic=-1"
MEMORY_MIB = 512
PARALLEL = ["threads", "processes"]
PARTS = {"programs": 1, "parallel": 2, "off": 1, "off2": 2}  # processors
# Units of work per program: enough to measure, little enough to wait for. Translators do the same.
UNITS = {"native": 10, "interp": 1, "bochs": 1}
UNITS_TRANSLATOR = 3


class Setup:
    """What every engine runs: the programs' binary, the kernel, the initramfs. close() removes its files."""

    def __init__(self, binary, kernel, scale=1.0, timeout=600):
        self.binary, self.kernel, self.scale, self.timeout = binary, kernel, scale, timeout
        self.known = subprocess.run([binary], check=True, capture_output=True, text=True).stdout.split()
        self.work = tempfile.mkdtemp(prefix="croft-bench-")
        self.initrd = os.path.join(self.work, "bench.img")
        subprocess.run([os.path.join(ROOT, "scripts", "mkinitramfs"), self.initrd, "--no-busybox",
                        "--init", binary], check=True)

    def close(self):
        shutil.rmtree(self.work, ignore_errors=True)


class Engine:
    """run(setup, part, programs, lines) fills `lines` and returns None or why it failed."""
    name = None  # of the column
    parts = list(PARTS)

    def units(self, setup):
        return max(1, round(UNITS.get(self.name, UNITS_TRANSLATOR) * setup.scale))

    def append(self, setup, part, programs):
        if part.startswith("off"):
            programs = []
        return f"{APPEND} bench=" + ",".join(f"{n}:{self.units(setup)}" for n in programs)


class Native(Engine):
    name = "native"
    parts = ["programs", "parallel"]

    def run(self, setup, part, programs, lines):
        lines.start = time.monotonic()
        for name in programs:
            # On one processor what works on two is to take as long as both pieces.
            cpus = sorted(os.sched_getaffinity(0))
            one = part == "programs" and name in PARALLEL
            p = subprocess.Popen([setup.binary, name, str(self.units(setup))], stdout=subprocess.PIPE,
                                 preexec_fn=(lambda: os.sched_setaffinity(0, cpus[:1])) if one else None)
            lines.pid = p.pid
            with p.stdout:
                while data := os.read(p.stdout.fileno(), 65536):
                    lines.feed(data)
            _, status, usage = os.wait4(p.pid, 0)
            p.returncode = os.waitstatus_to_exitcode(status)
            if p.returncode:
                return f"{name} ended with {p.returncode}"
            lines.ended(usage.ru_utime + usage.ru_stime)
        lines.total = time.monotonic() - lines.start
        return None


class Croft(Engine):
    def __init__(self, name, engine, croft, extra=()):
        """engine: for --engine; name: of the column; croft: path of the program."""
        self.name, self.engine, self.croft, self.extra = name, engine, croft, list(extra)

    def units(self, setup):
        return max(1, round(UNITS.get(self.engine, UNITS_TRANSLATOR) * setup.scale))

    def run(self, setup, part, programs, lines):
        return run_piped([self.croft, "run", "--kernel", setup.kernel, "--initrd", setup.initrd,
                          "--memory", f"{MEMORY_MIB}M", "--cpus", str(PARTS[part]), "--engine", self.engine,
                          "--append", self.append(setup, part, programs), *self.extra], lines, setup.timeout)


class Tcg(Engine):
    name = "tcg"

    def run(self, setup, part, programs, lines):
        return run_piped(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB),
                          "-smp", str(PARTS[part]), "-nographic", "-no-reboot", "-kernel", setup.kernel,
                          "-initrd", setup.initrd, "-append", self.append(setup, part, programs)],
                         lines, setup.timeout)


class Bochs(Engine):
    """Cannot start a kernel: gets a CD with GRUB. Writes the serial port to a file, which is watched;
    wants a terminal, so it gets one."""
    name = "bochs"
    parts = ["programs"]

    def make_iso(self, setup, part, programs):
        tree = os.path.join(setup.work, "iso")
        shutil.rmtree(tree, ignore_errors=True)
        os.makedirs(os.path.join(tree, "boot", "grub"))
        shutil.copy(setup.kernel, os.path.join(tree, "boot", "vmlinuz"))
        shutil.copy(setup.initrd, os.path.join(tree, "boot", "initrd"))
        with open(os.path.join(tree, "boot", "grub", "grub.cfg"), "w") as f:
            f.write("set timeout=0\nmenuentry bench {\n"
                    f"  linux /boot/vmlinuz {self.append(setup, part, programs)}\n  initrd /boot/initrd\n}}\n")
        iso = os.path.join(setup.work, "bench.iso")
        subprocess.run(["grub-mkrescue", "-o", iso, tree], check=True, capture_output=True)
        return iso

    def run(self, setup, part, programs, lines):
        work, iso = setup.work, self.make_iso(setup, part, programs)
        serial, config, commands = (os.path.join(work, n) for n in ("serial.txt", "bochsrc", "commands"))
        open(serial, "w").close()
        with open(commands, "w") as f:
            f.write("c\n")
        with open(config, "w") as f:
            f.write(f"""config_interface: textconfig
display_library: term
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
megs: {MEMORY_MIB}
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
        lines.start = time.monotonic()
        p = subprocess.Popen(["bochs", "-q", "-f", config, "-rc", commands], cwd=work, stdin=slave,
                             stdout=slave, stderr=slave, env=dict(os.environ, TERM="xterm"),
                             start_new_session=True)
        lines.pid = p.pid
        os.close(slave)

        def drain():
            try:
                while os.read(master, 65536):
                    pass
            except OSError:
                pass

        drainer = threading.Thread(target=drain, daemon=True)
        drainer.start()
        expired = False
        with open(serial, "rb") as f:
            while True:
                ended = p.poll() is not None
                if data := f.read():
                    lines.feed(data)
                if ended:
                    break
                if time.monotonic() - lines.start > setup.timeout:
                    expired = True
                    p.kill()
                    p.wait()
                time.sleep(0.002)
        lines.total = time.monotonic() - lines.start
        drainer.join(1)
        os.close(master)
        if expired:
            return f"did not end within {setup.timeout} s"
        # The build with a debugger ends with 1 even after an orderly power-off: the console tells.
        if not any(text == "=== end" for _, _, text in lines.lines):
            return "the guest did not finish"
        return None


def croft_engines(croft):
    """[(name, is it the default?)] of the engines this croft can use here."""
    listed = json.loads(subprocess.run([croft, "engines", "--json"], check=True,
                                       capture_output=True, text=True).stdout)
    return [(e["name"], e["auto"]) for e in listed if e["usable"]]


def find_engines(names, croft, extra=()):
    """Engine objects for the names of --only; "croft" is Croft's default engine. Raises ValueError."""
    ours = croft_engines(croft) if set(names) - {"native", "tcg", "bochs"} else []
    found = []
    for name in names:
        if name == "croft":
            name = next(n for n, is_default in ours if is_default)
        if name in (e.name for e in found):
            continue
        if name in [n for n, _ in ours]:
            found.append(Croft(name, name, croft, extra))
        elif name in ("native", "tcg", "bochs"):
            found.append({"native": Native, "tcg": Tcg, "bochs": Bochs}[name]())
        else:
            known = ["native", "croft", *(n for n, _ in ours), "tcg", "bochs"]
            raise ValueError(f"no engine is named {name}; known: {' '.join(known)}")
    return found
