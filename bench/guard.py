#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the speed of this tree's Croft with an earlier commit's, in turn, in the same run.

The earlier commit is --base, or else where this branch left the remote's (the merge base of HEAD and its
upstream, or origin/main), if HEAD or a change not yet committed goes beyond that; otherwise the commit
before HEAD. Both trees are built below --work with the same options, and both run this tree's programs and
kernel. Every engine that both have is compared, in the rows of bench/run.py, by wall-clock time and by CPU
time of the process (rows with "cpu"), and by host memory beyond guest RAM.

Noise: a row whose median or minimum is above the limit (1.05 times the base's) is only suspicious. The
suspicious rows are measured anew, with more repetitions, and then once more. A row is named when each of
these two rounds, judged apart, says all of: the ratio of the medians and that of the minima are above the
limit, and of all pairs of one time of this tree and one of the base, this tree's is the longer in 70 of 100
(equal trees: in 50). The minima are immune to a host that is busy now and then, the medians to one lucky
moment; a row that was unlucky once has to be so three times.

Exit status: 0 no row became slower, 1 those named did, 2 the trees cannot be compared.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys

from engines import PARTS, ROOT, Croft, Setup, croft_engines
from run import programs_of, run_once, say
from table import PARALLEL, samples

LIMIT = 1.05
PAIRS = 0.7


def judge(ours, base, limit=LIMIT):
    """Compares two lists of samples: {"median", "minimum": ratios, "suspicious", "slower": bool}."""
    if not min(base):
        return {"median": None, "minimum": None, "suspicious": False, "slower": False}
    by_median, by_minimum = statistics.median(ours) / statistics.median(base), min(ours) / min(base)
    longer = sum((a > b) + (a == b) / 2 for a in ours for b in base) / (len(ours) * len(base))
    return {"median": by_median, "minimum": by_minimum,
            "suspicious": by_median > limit or by_minimum > limit,
            "slower": by_median > limit and by_minimum > limit and longer >= PAIRS}


def judge_rows(ours, base, limit=LIMIT):
    """{row: judgement} of two lists of records; rows of CPU time are "ROW cpu"."""
    out = {}
    for clock, suffix in (("host", ""), ("cpu", " cpu")):
        a, b = samples(ours, clock), samples(base, clock)
        for row in a:
            if row in b and (clock == "host" or row != "memory"):
                out[row + suffix] = judge(a[row], b[row], limit)
    return out


def work_of(rows, programs):
    """{part: programs} that measures these rows again."""
    out = {}
    for row in rows:
        name = row.removesuffix(" cpu")
        if name in ("boot", "memory"):
            name = "off"
        if name in PARTS:
            out[name] = []
        elif name.endswith("@2"):
            out.setdefault("parallel", set()).add(name[:-2])
        else:
            out.setdefault("programs", set()).add(name)
    return {part: [p for p in programs if p in chosen] for part, chosen in out.items()}


def guard(measure, programs, parts, reps, limit=LIMIT, report=lambda text: None):
    """measure(part, programs, number) -> (our record, the base's). Returns (rows of the first round, named rows)."""
    def round_of(work, count):
        ours, base = [], []
        for i in range(count):
            for part, chosen in work.items():
                a, b = measure(part, chosen, i)
                ours.append(a)
                base.append(b)
        return judge_rows(ours, base, limit)

    work = {part: programs_of(part, programs) for part in parts if programs_of(part, programs) is not None}
    first = round_of(work, reps)
    named = {row: j for row, j in first.items() if j["suspicious"]}
    for count in (reps * 2 + 1, reps * 2 + 1):
        if not named:
            break
        report("again: " + ", ".join(named))
        again = round_of(work_of(named, programs), count)
        named = {row: again[row] for row in named if row in again and again[row]["slower"]}
    return first, named


def git(*words):
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True)


def find_base(wanted):
    """The commit to compare with; see the top."""
    if wanted:
        found = git("rev-parse", "--verify", "--quiet", wanted + "^{commit}").stdout.strip()
        if not found:
            raise SystemExit(f"guard: no commit is called {wanted}")
        return found
    head = git("rev-parse", "HEAD").stdout.strip()
    changed = bool(git("status", "--porcelain", "--untracked-files=no").stdout.strip())
    for upstream in ("@{upstream}", "origin/main"):
        base = git("merge-base", "HEAD", upstream).stdout.strip()
        if base and (base != head or changed):
            return base
        if base:
            break
    if changed:
        return head
    before = git("rev-parse", "--verify", "--quiet", "HEAD~").stdout.strip()
    if not before:
        print("guard: there is no earlier commit to compare with", file=sys.stderr)
        sys.exit(2)
    return before


def build(tree, folder):
    """Builds croft and returns its path."""
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["meson", "setup", folder, tree], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", folder, "--quiet", "src/cli/croft"], check=True, stdout=sys.stderr)
    return os.path.join(folder, "src", "cli", "croft")


def build_base(commit, work):
    """Its sources and its build stay in WORK/COMMIT for the next time."""
    folder = os.path.join(work, commit[:16])
    tree = os.path.join(folder, "tree")
    if not os.path.isdir(tree):
        os.makedirs(folder, exist_ok=True)
        shutil.rmtree(tree + ".new", ignore_errors=True)
        os.makedirs(tree + ".new")
        archive = subprocess.run(["git", "-C", ROOT, "archive", commit], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", tree + ".new"], input=archive, check=True)
        os.rename(tree + ".new", tree)
    return build(tree, os.path.join(folder, "build"))


def format_rows(rows):
    def cell(x):
        return "-" if x is None else f"{x:.2f}x"

    names = [r for r in rows if not r.endswith(" cpu")]
    out = [f"{'this / base':14}{'median':>9}{'minimum':>9}{'cpu median':>12}{'minimum':>9}"]
    for n in names:
        cpu = rows.get(n + " cpu", {"median": None, "minimum": None})
        out.append(f"{n:14}{cell(rows[n]['median']):>9}{cell(rows[n]['minimum']):>9}"
                   f"{cell(cpu['median']):>12}{cell(cpu['minimum']):>9}")
    return "\n".join(out)


def compare(setup, engine, ours, base, args):
    """Runs one engine of both programs. Returns (rows of the first round, named rows)."""
    sides = [Croft("this", engine, ours), Croft("base", engine, base)]

    def measure(part, programs, number):
        record = {}
        # this base, base this, ...: who comes first finds another machine than who comes second
        for side in sides if number % 2 == 0 else reversed(sides):
            what = " ".join([part, ",".join(programs) if len(programs) < 5 else ""]).strip()
            say(f"{engine}: {what}: {side.name} ({number + 1})")
            record[side.name] = run_once(setup, side, part, programs, memory=True)
            if not record[side.name]:
                print(f"guard: {side.name} failed under {engine}", file=sys.stderr)
                sys.exit(2)
        return record["this"], record["base"]

    programs = args.programs.split(",") if args.programs else setup.known
    return guard(measure, programs, args.parts.split(","), args.reps, args.limit, say)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--base", help="the commit to compare with (see above)")
    p.add_argument("--work", default=os.path.join(ROOT, "build-guard"), help="where both are built")
    p.add_argument("--engines", help="only these, comma-separated (all that both trees have)")
    p.add_argument("--programs", help="programs, comma-separated (all: " + ", ".join(PARALLEL) + " too)")
    p.add_argument("--parts", default=",".join(PARTS), help="of bench/run.py (all)")
    p.add_argument("--reps", type=int, default=4, help="repetitions of the first round; 2n+1 in the others (4)")
    p.add_argument("--limit", type=float, default=LIMIT, help="how many times as slow is still well (%(default)s)")
    p.add_argument("--scale", type=float, default=2, help="times run.py's units of work (2)")
    p.add_argument("--timeout", type=int, default=600, help="seconds for one guest run")
    p.add_argument("--croft", help="instead of building this tree: its program")
    p.add_argument("--base-croft", help="instead of building the base: its program")
    p.add_argument("--programs-binary", help="bench-programs, built elsewhere")
    p.add_argument("--kernel", default=os.path.join(ROOT, "cache", "vmlinuz-cloud"))
    p.add_argument("--json", metavar="FILE", help="write every ratio there")
    args = p.parse_args()

    here = os.path.join(args.work, "this")
    try:
        ours = args.croft or build(ROOT, here)
        commit = None if args.base_croft else find_base(args.base)
        base = args.base_croft or build_base(commit, args.work)
        if not args.programs_binary:
            build(ROOT, here)
            subprocess.run(["ninja", "-C", here, "--quiet", "bench/bench-programs"], check=True, stdout=sys.stderr)
        if not os.path.exists(args.kernel):
            subprocess.run([os.path.join(ROOT, "scripts", "fetch-kernel")], check=True)
        theirs = [n for n, _ in croft_engines(base)]
        engines = [n for n, _ in croft_engines(ours) if n in theirs]
    except (subprocess.CalledProcessError, OSError) as e:
        print(f"guard: {e}", file=sys.stderr)
        return 2
    if args.engines:
        for name in set(args.engines.split(",")) - set(engines):
            print(f"guard: this tree and its base do not both have the engine {name}", file=sys.stderr)
            return 2
        engines = args.engines.split(",")
    print(f"base: {git('log', '-1', '--format=%h %s', commit).stdout.strip() if commit else base}", flush=True)

    setup = Setup(args.programs_binary or os.path.join(here, "bench", "bench-programs"), args.kernel, args.scale,
                  args.timeout)
    result, slower = {}, []
    try:
        for engine in engines:
            first, named = compare(setup, engine, ours, base, args)
            result[engine] = {"rows": first, "slower": named}
            slower += [(engine, row, j) for row, j in named.items()]
            print(f"\n{engine}\n{format_rows(first)}", flush=True)
    finally:
        setup.close()
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"base": commit, "engines": result}, f, indent=1)
    for engine, row, j in slower:
        print(f"slower: {engine} {row}: median {j['median']:.2f}x, minimum {j['minimum']:.2f}x the base's")
    print(f"{len(slower)} rows slower by more than {(args.limit - 1) * 100:.0f} %")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
