#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's logic on made-up figures: what a console says, medians, ratios, goals, the guard's verdict."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
from console import Lines, memory_beyond  # noqa: E402
from table import format_goals, format_table, geometric_mean, goals, samples, summarise  # noqa: E402

PROGRAMS = ["sort", "fib", "threads"]


def record(part, programs, boot=None, total=None, memory=None):
    return {"part": part, "boot": boot, "all": total, "memory": memory,
            "programs": {n: {"host": s, "guest": s, "cpu": s} for n, s in programs.items()}}


def one(sort, fib, threads, threads2, off, memory=None):
    return [record("programs", {"sort": sort, "fib": fib, "threads": threads}, boot=off / 2),
            record("parallel", {"threads": threads2}), record("off", {}, off / 2, off, memory),
            record("off2", {}, off / 2, off * 1.1)]


RUNS = {"native": one(0.010, 0.010, 0.020, 0.010, 1)[:2], "bt": one(0.014, 0.030, 0.022, 0.012, 0.9, 30 << 20),
        "tcg": one(0.070, 0.060, 0.060, 0.040, 2.0)}


class Console(unittest.TestCase):
    def test_lines(self):
        lines = Lines()
        lines.feed(b"[ 0.1] noise === bench\r\nbegin sort\r\nsort 0.5")
        lines.feed(b"00000 5 00ff\r\nfailed fib status 9\n=== end\n")
        programs, moments, failures = lines.results()
        self.assertEqual(list(programs), ["sort"])
        self.assertEqual(programs["sort"]["guest"], 0.1)
        self.assertEqual(programs["sort"]["value"], "00ff")
        self.assertEqual(failures, ["failed fib status 9"])
        self.assertLessEqual(moments["boot"], moments["end"])

    def test_split_anywhere(self):
        text = b"=== bench\nbegin fib\nfib 1.0 2 aa\n=== end\n"
        for cut in range(len(text)):
            lines = Lines()
            lines.feed(text[:cut])
            lines.feed(text[cut:])
            self.assertEqual(lines.results()[0]["fib"]["guest"], 0.5)

    def test_memory(self):
        ram = 512 << 20
        smaps = (f"7f0000000000-{0x7f0000000000 + ram - 0x20000:x} rw-p 00000000 00:00 0 \nPss:  99999 kB\n"
                 f"7e0000000000-{0x7e0000000000 + ram:x} rwxp 00000000 00:00 0 \nPss:  4 kB\nVmFlags: rd wr\n"
                 f"7d0000000000-{0x7d0000000000 + ram:x} rw-s 00000000 00:01 77 /memfd:code\nPss:  8 kB\n"
                 "55d7e47cf000-55d7e47ee000 r--p 00000000 fe:00 11 /bin/croft\nPss:  16 kB\n")
        self.assertEqual(memory_beyond(smaps, ram), 28 << 10)
        self.assertIsNone(memory_beyond(smaps, ram * 4))


class Table(unittest.TestCase):
    def test_summary(self):
        figures = summarise({"tcg": one(1, 2, 3, 4, 5) + one(3, 2, 3, 4, 5) + one(2, 9, 3, 4, 5)})["tcg"]
        self.assertEqual((figures["sort"], figures["fib"], figures["threads@2"]), (2, 2, 4))
        self.assertEqual((figures["off"], figures["boot"]), (5, 2.5))
        self.assertNotIn("memory", figures)

    def test_samples(self):
        self.assertEqual(samples(RUNS["bt"])["off2"], [0.9 * 1.1])
        self.assertEqual(samples([]), {})

    def test_mean(self):
        self.assertAlmostEqual(geometric_mean([2, 8]), 4)
        self.assertIsNone(geometric_mean([]))

    def test_goals(self):
        reached = {g["goal"]: g for g in goals(summarise(RUNS), "bt", PROGRAMS)}
        self.assertTrue(reached["sort, against native"]["met"])
        self.assertFalse(reached["fib, against native"]["met"])
        mean = reached["faster than TCG, geometric mean"]  # (5 * 2) ** 0.5: threads are not in it
        self.assertAlmostEqual(mean["reached"], 10 ** 0.5)
        self.assertFalse(mean["met"])
        self.assertTrue(reached["faster than TCG, worst program (fib)"]["met"])
        self.assertTrue(reached["boot and power off"]["met"])
        self.assertTrue(reached["boot and power off, against TCG"]["met"])
        self.assertTrue(reached["threads: two processors over one"]["met"])
        self.assertTrue(reached["memory beyond guest RAM"]["met"])

    def test_goals_not_measured(self):
        for g in goals(summarise({"bt": []}), "bt", PROGRAMS):
            self.assertIsNone(g["met"])

    def test_text(self):
        figures = summarise(RUNS)
        table = format_table(PROGRAMS, ["native", "bt", "tcg"], figures)
        self.assertIn("tcg/bt", table)
        self.assertRegex(table, r"sort +10\.00 +1\.40x +7\.00x +5\.00x")
        self.assertRegex(table, r"worst +2\.00x")
        self.assertRegex(table, r"threads 1->2 +2\.00x +1\.83x +1\.50x")
        text = format_goals("bt", goals(figures, "bt", PROGRAMS))
        self.assertRegex(text, r"fib, against native +<= 2.0x +3.00x  missed")
        # Nothing measured, or without native: still a table.
        format_table(PROGRAMS, ["native", "bt"], summarise({"native": [], "bt": []}))
        self.assertIn("14.0 ms", format_table(PROGRAMS, ["bt"], {"bt": figures["bt"]}))


if __name__ == "__main__":
    unittest.main()
