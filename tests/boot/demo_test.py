#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demo, both ways: with a person at a terminal, and without.

usage: demo_test.py BUILD-FOLDER

At the terminal: the shell's prompt comes, a command answers, Ctrl-C interrupts a program of the guest and
not Croft, poweroff ends the demo with status 0 and the terminal is as it was.
"""
import os
import pty
import select
import subprocess
import sys
import termios
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEMO = [os.path.join(ROOT, "scripts/demo"), os.path.abspath(sys.argv[1])]
PROMPT = b"croft-guest:/# "
problems = []


class Screen:
    def __init__(self, fd):
        self.fd, self.seen, self.read_to = fd, b"", 0

    def wait(self, text, what, seconds=120):
        """Until `text` comes after what was waited for last."""
        end = time.monotonic() + seconds
        while text not in self.seen[self.read_to:]:
            if time.monotonic() > end:
                problems.append(f"no {what}")
                return
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.fd, 4096)
                except OSError:
                    problems.append(f"ended before {what}")
                    return
        self.read_to = self.seen.index(text, self.read_to) + len(text)


def at_a_terminal():
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    screen = Screen(master)
    with subprocess.Popen(DEMO, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as demo:
        screen.wait(PROMPT, "prompt")
        os.write(master, b"echo $((6 * 7))\n")
        screen.wait(b"\n42\r\n", "answer")
        screen.wait(PROMPT, "second prompt")
        os.write(master, b"sleep 1000\n")
        time.sleep(3)
        os.write(master, b"\x03")
        screen.wait(PROMPT, "prompt after Ctrl-C")
        os.write(master, b"poweroff -f\n")
        try:
            status = demo.wait(timeout=60)
        except subprocess.TimeoutExpired:
            demo.kill()
            status = "none: it did not end"
    if status != 0:
        problems.append(f"status {status}")
    if termios.tcgetattr(slave) != before:
        problems.append("the terminal is not as it was")
    if problems:
        print(screen.seen.decode(errors="replace")[-3000:])


def without():
    result = subprocess.run(DEMO, stdin=subprocess.DEVNULL, capture_output=True, timeout=400, check=False)
    if result.returncode != 0 or b"croft-demo: all steps held" not in result.stdout:
        problems.append(f"the script's status is {result.returncode}")
        print((result.stdout + result.stderr).decode(errors="replace")[-3000:])


without()
at_a_terminal()
for problem in problems:
    print("FAILED", problem)
print(f"{2 - bool(problems)} passed, {int(bool(problems))} failed")
sys.exit(1 if problems else 0)
