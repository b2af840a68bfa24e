#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's logic on made-up figures: what a console says, medians, ratios, goals, the guard's verdict."""
import os
import sys
import unittest
from random import Random

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
from console import Lines, memory_beyond  # noqa: E402
from guard import find_base, guard, judge, work_of  # noqa: E402
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

    def test_clock(self):
        runs = {"native": [record("programs", {"fib": 1})], "bt": [record("parallel", {"threads": 3})]}
        runs["native"][0]["programs"]["fib"]["cpu"] = 0.5
        self.assertEqual(summarise(runs), {"native": {"fib": 1}, "bt": {"threads@2": 3}})
        self.assertEqual(summarise(runs, "cpu"), {"native": {"fib": 0.5}, "bt": {}})

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


def noisy(random, seconds, quiet=0.02, spikes=0.2):
    """A time as a busy host gives it: a few per cent of jitter, and now and then much more."""
    time = seconds * (1 + random.random() * quiet)
    return time * (1.5 + random.random()) if random.random() < spikes else time


class Guard(unittest.TestCase):
    PROGRAMS = ["sort", "fib", "crc", "threads"]
    PARTS = ["programs", "parallel", "off", "off2"]

    def run_guard(self, seed, slower=(), factor=1.15, spikes=0.2):
        """The guard on a made-up machine, on which the rows `slower` of this tree take `factor` as long."""
        random, rounds = Random(seed), []

        def measure(part, programs, number):
            rounds.append((part, tuple(programs)))
            pair = []
            for ours in (True, False):
                def time(row, seconds):
                    return noisy(random, seconds * (factor if ours and row in slower else 1), spikes=spikes)

                suffix = "@2" if part == "parallel" else ""
                r = record(part, {n: time(n + suffix, 0.1) for n in programs}, time("boot", 1), time(part, 2), 30 << 20)
                pair.append(dict(r, cpu=r["all"]))
            return pair

        first, named = guard(measure, self.PROGRAMS, self.PARTS, 4)
        return first, named, rounds

    def test_judge(self):
        self.assertTrue(judge([1.2, 1.21, 1.22, 1.2], [1.0, 1.01, 1.02, 1.0])["slower"])
        self.assertFalse(judge([1.04, 1.04], [1.0, 1.0])["suspicious"])
        # One good moment of this tree, or one bad one of it, is no proof; suspicious it is.
        spread = judge([1.0, 1.3, 1.3, 1.3], [1.0, 1.0, 1.0, 1.0])
        self.assertEqual((spread["slower"], spread["suspicious"]), (False, True))
        self.assertFalse(judge([1.2, 1.2, 1.2], [1.0, 1.3, 1.3])["slower"])
        self.assertFalse(judge([1.0], [0.0])["suspicious"])

    def test_equal(self):
        """The same tree twice: nothing is named, although rows were suspicious."""
        suspicious = 0
        for seed in range(50):
            first, named, _ = self.run_guard(seed)
            suspicious += sum(j["suspicious"] for j in first.values())
            self.assertEqual(named, {}, f"seed {seed}")
        self.assertGreater(suspicious, 0)

    def test_slower(self):
        """15 % slower on a very busy machine: mostly named; 8 % on a quiet one: always; and nothing else."""
        found = 0
        for seed in range(50):
            named = self.run_guard(seed, ["fib", "off2"])[1]
            self.assertLessEqual(set(named), {"fib", "fib cpu", "off2", "off2 cpu"})
            found += len({"fib", "off2"} & set(named))
            self.assertLessEqual({"fib", "off2"}, set(self.run_guard(seed, ["fib", "off2"], 1.08, spikes=0)[1]))
        self.assertGreater(found, 70)  # of 100

    def test_faster(self):
        self.assertEqual(self.run_guard(1, ["fib", "sort", "off"], 0.5)[1], {})

    def test_only_suspicious_again(self):
        _, named, rounds = self.run_guard(3, ["threads@2"], 1.3, spikes=0)
        self.assertEqual(set(named), {"threads@2", "threads@2 cpu"})
        self.assertEqual(set(rounds[4 * 4:]), {("parallel", ("threads",))})
        self.assertEqual(len(rounds), 4 * 4 + 2 * 9)

    def test_work(self):
        rows = ["crc cpu", "fib", "threads@2", "memory", "boot", "off2 cpu"]
        self.assertEqual(work_of(rows, self.PROGRAMS),
                         {"programs": ["fib", "crc"], "parallel": ["threads"], "off": [], "off2": []})

    def test_base(self):
        with self.assertRaises(SystemExit):
            find_base("no-such-commit")


if __name__ == "__main__":
    unittest.main()
