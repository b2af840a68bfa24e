#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmark programs natively and in a guest under Croft's engines, QEMU's TCG and Bochs, in turn.

The guest is Debian's stock cloud kernel with the programs as its first process. What counts is the time
between a program's `begin` and result lines as they arrive here, on the host's clock: a slow guest's own
clock need not be believed (it is recorded beside it). Figures are per unit of work, so that a slow engine
can do fewer units; the table shows the median over the repetitions, how many times slower than native each
program is, and in the last columns how many times faster than its peers Croft is. docs/benchmarks.md
explains the rows.

Repetitions take turns (native, croft, tcg, bochs, native, ...), so that a change in the host's mood
meets all of them.
"""
import argparse
import json
import os
import subprocess
import sys

from console import Lines, memory_beyond
from engines import MEMORY_MIB, PARALLEL, PARTS, ROOT, Setup, find_engines
from table import NOT_CROFT, format_goals, format_table, goals, summarise


def say(text):
    print(text, file=sys.stderr, flush=True)


def run_once(setup, engine, part, programs, memory=False):
    """One start of one engine: its record (see table.py), or None after saying why."""
    record = {"part": part, "memory": None}

    def on_line(text, pid):
        if text.endswith("=== bench"):
            with open(f"/proc/{pid}/smaps") as f:
                record["memory"] = memory_beyond(f.read(), MEMORY_MIB << 20)

    lines = Lines(on_line if memory and part.startswith("off") else None)
    why = engine.run(setup, part, programs, lines)
    results, moments, failures = lines.results()
    if why or failures:
        say(f"{engine.name}: {why or '; '.join(failures)}")
        for _, _, text in lines.lines[-12:] if why else []:
            say(f"    {text}")
        return None
    record.update(programs=results, boot=moments.get("boot"), all=moments["all"],
                  cpu=moments["cpu"])
    return record


def programs_of(part, programs):
    """Which of the chosen programs a part runs; None: the part has nothing to do."""
    if part.startswith("off"):
        return []
    return ([p for p in programs if p in PARALLEL] if part == "parallel" else programs) or None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default="native,croft,tcg,bochs", metavar="ENGINES",
                   help="native, tcg, bochs, croft (Croft's default engine) or one of Croft's by name "
                        "(%(default)s); the goals are those of the first of Croft's")
    p.add_argument("--programs", help="programs, comma-separated (all)")
    p.add_argument("--parts", default=",".join(PARTS),
                   help="programs, parallel (two processors), off, off2 (boot and power off) (all)")
    p.add_argument("--reps", type=int, default=3)
    p.add_argument("--scale", type=float, default=1, help="times the usual work")
    p.add_argument("--timeout", type=int, default=600, help="seconds for one guest run")
    p.add_argument("--clock", choices=["host", "cpu"], default="host",
                   help="cpu: show CPU time instead of wall-clock time, for a host that others use too")
    p.add_argument("--memory", action="store_true", help="also host memory beyond guest RAM, after the boot")
    p.add_argument("--strict", action="store_true", help="exit status 1 when a goal is not met")
    p.add_argument("--json", metavar="FILE", help="write every figure there; - for standard output, no table")
    p.add_argument("--build", default=os.path.join(ROOT, "build"), help="build folder")
    p.add_argument("--croft", help="the croft program (BUILD/croft)")
    p.add_argument("--croft-args", default="", help="more options for croft run, as '--cpu x86-64-v2'")
    p.add_argument("--kernel", default=os.path.join(ROOT, "cache", "vmlinuz-cloud"))
    p.add_argument("--programs-binary", help="BUILD/bench/bench-programs, built elsewhere")
    args = p.parse_args()

    parts = args.parts.split(",")
    for part in parts:
        if part not in PARTS:
            p.error(f"no part is named {part}; known: {' '.join(PARTS)}")
    try:
        engines = find_engines(args.only.split(","), args.croft or os.path.join(args.build, "croft"),
                               args.croft_args.split())
    except ValueError as e:
        p.error(str(e))
    if any(e.name != "native" for e in engines) and not os.path.exists(args.kernel):
        subprocess.run([os.path.join(ROOT, "scripts", "fetch-kernel")], check=True)
    binary = os.path.abspath(args.programs_binary or os.path.join(args.build, "bench", "bench-programs"))
    if not args.programs_binary:
        subprocess.run(["ninja", "-C", args.build, "bench/bench-programs"], check=True,
                       stdout=subprocess.DEVNULL)
    setup = Setup(binary, args.kernel, args.scale, args.timeout)
    runs = {e.name: [] for e in engines}
    failed = False
    try:
        programs = args.programs.split(",") if args.programs else setup.known
        for name in programs:
            if name not in setup.known:
                p.error(f"no program is named {name}; known: {' '.join(setup.known)}")
        for rep in range(args.reps):
            for part in parts:
                chosen = programs_of(part, programs)
                for e in engines if chosen is not None else []:
                    if part not in e.parts:
                        continue
                    say(f"repetition {rep + 1} of {args.reps}: {part}: {e.name}")
                    record = run_once(setup, e, part, chosen, args.memory)
                    if record:
                        runs[e.name].append(record)
                    failed |= record is None
    finally:
        setup.close()

    figures = summarise(runs, args.clock)
    names = [e.name for e in engines]
    ours = next((n for n in names if n not in NOT_CROFT), None)
    reached = goals(figures, ours, programs) if ours else []
    if args.json != "-":
        print(format_table(programs, names, figures))
        if reached:
            print("\n" + format_goals(ours, reached))
    if args.json:
        text = json.dumps({"medians": figures, "goals": reached, "runs": runs,
                           "units": {e.name: e.units(setup) for e in engines},
                           "host": {"machine": os.uname().release, "cpus": os.cpu_count()}}, indent=1)
        if args.json == "-":
            print(text)
        else:
            with open(args.json, "w") as f:
                f.write(text + "\n")
    return 1 if failed or args.strict and any(g["met"] is False for g in reached) else 0


if __name__ == "__main__":
    sys.exit(main())
