# SPDX-License-Identifier: Apache-2.0
"""What a guest says on its console, and what its process costs the host meanwhile."""
import os
import subprocess
import tempfile
import threading
import time


class Lines:
    """Notes when each line of a guest's console arrives, and the CPU time its process had used by then.

    on_line(text, pid), if given, is called for each line while the guest goes on.
    """

    def __init__(self, on_line=None):
        self.start = time.monotonic()
        self.total = None
        self.pid = None
        self.on_line = on_line
        self.rest = b""
        self.lines = []  # (seconds since the start, CPU seconds, text)

    def cpu(self):
        """CPU seconds of the watched process, all threads: clock_getcpuclockid(3)'s clock of a process."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2) if self.pid else 0.0
        except OSError:
            return 0.0

    def feed(self, data):
        now, cpu = time.monotonic() - self.start, self.cpu()
        *whole, self.rest = (self.rest + data).split(b"\n")
        for line in whole:
            text = line.decode("ascii", "replace").strip("\r\n ")
            self.lines.append((now, cpu, text))
            if self.on_line:
                self.on_line(text, self.pid)

    def ended(self, cpu):
        """The process has ended: CPU seconds of it and of its children, which cpu() does not see."""
        at, _, text = self.lines[-1]
        self.lines[-1] = at, cpu, text

    def results(self):
        """For each program seconds per unit by the host's clock, by the guest's, and of CPU time; the
        moments of the run (boot, end, all, and cpu: how much CPU time it took); and the lines that report failures."""
        out, begin, moments, failures = {}, {}, {"all": self.total}, []
        moments["cpu"] = max((cpu for _, cpu, _ in self.lines), default=None)
        for at, cpu, text in self.lines:
            words = text.split()
            if text.endswith("=== bench"):
                moments["boot"] = at
            elif text == "=== end":
                moments["end"] = at
            elif len(words) == 2 and words[0] == "begin":
                begin[words[1]] = at, cpu
            elif len(words) == 4 and words[0] in begin:
                try:
                    guest, units = float(words[1]), int(words[2])
                except ValueError:
                    continue
                since, cpu_since = begin[words[0]]
                out[words[0]] = {"host": (at - since) / units, "guest": guest / units,
                                 "cpu": (cpu - cpu_since) / units, "units": units, "value": words[3]}
            elif words and words[0] == "failed":
                failures.append(text)
        return out, moments, failures


def run_piped(command, lines, timeout):
    """Runs a command and times its standard output. Returns None, or why it failed."""
    with tempfile.TemporaryFile() as errors:
        lines.start = time.monotonic()
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        lines.pid = p.pid
        expired = threading.Event()

        def expire():
            expired.set()
            p.kill()

        timer = threading.Timer(timeout, expire)
        timer.start()
        with p.stdout:
            while data := os.read(p.stdout.fileno(), 65536):
                lines.feed(data)
        status = p.wait()
        lines.total = time.monotonic() - lines.start
        timer.cancel()
        if expired.is_set():
            return f"did not end within {timeout} s"
        if status:
            errors.seek(0)
            return f"exit status {status}: {errors.read()[-300:].decode('ascii', 'replace').strip()}"
    return None


def memory_beyond(smaps, ram_bytes):
    """From the text of /proc/PID/smaps: bytes of host memory the process holds beyond its guest's RAM.

    Guest RAM is the anonymous mapping, not executable, of about the guest's memory (Croft's is less by what
    lies around 1 MiB; that small rest counts as beyond). What counts is PSS: a page mapped twice counts
    once, a library shared with others in part. Returns None when no mapping can be guest RAM.
    """
    beyond, found, is_ram = 0, False, False
    for line in smaps.splitlines():
        words = line.split()
        if len(words) >= 5 and "-" in words[0]:  # start-end perms offset device inode [path]
            start, end = (int(x, 16) for x in words[0].split("-"))
            is_ram = (ram_bytes * 3 // 4 <= end - start <= ram_bytes + (2 << 20) and
                      words[1].startswith("rw-") and words[4] == "0")
            found |= is_ram
        elif words[0] == "Pss:" and not is_ram:
            beyond += int(words[1]) << 10
    return beyond if found else None
