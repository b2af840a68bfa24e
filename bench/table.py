# SPDX-License-Identifier: Apache-2.0
"""Figures to tables: medians, ratios, means, and what Croft is to reach.

Everything here is a function of the runs' records, so that made-up records can test it:
    record = {"part": PART, "programs": {NAME: {"host": s, "guest": s, "cpu": s, ...}},
              "boot": s or None, "all": s, "cpu": s, "memory": bytes or None}
    figures[engine][row] = median, in seconds per unit, or bytes in the row "memory"
Rows: the programs on one processor; NAME@2 on two processors; boot, off, off2, memory.
"""
import math
import statistics

# How many times slower than native a program may be under the translator.
TARGETS = {"sort": 1.5, "sieve": 1.2, "crc": 1.5, "fib": 2.0, "chase": 1.2, "icall": 2.5, "nbody": 1.3,
           "matmul": 1.5, "x87": 1.3, "memcpy": 1.3, "getppid": 2.5, "pgfault": 4.0, "fork": 3.0, "pipe": 5.0}
TARGET_OFF_SECONDS = 1.0     # boot and power off, the whole process
TARGET_OFF_RATIO = 0.5       # the same against TCG
TARGET_MEAN = 4.0            # faster than TCG, geometric mean over the programs
TARGET_WORST = 1.0           # faster than TCG on every program
TARGET_PARALLEL = 1.7        # speed on two processors over one
TARGET_MEMORY = 32 << 20     # bytes beyond guest RAM

MILESTONES = ["boot", "off", "off2"]
PARALLEL = ["threads", "processes"]  # not in the mean: they are about two processors
NOT_CROFT = ["native", "tcg", "bochs"]


def median(values):
    return statistics.median(values) if values else None


def samples(records, clock="host"):
    """{row: [seconds or bytes]} of one engine's runs."""
    out = {}

    def add(row, value):
        if value is not None:
            out.setdefault(row, []).append(value)

    for r in records:
        if r["part"] == "off" or r["part"] == "programs":
            add("boot", r.get("boot") if clock != "cpu" else None)
        if r["part"].startswith("off"):
            add(r["part"], r.get("all" if clock != "cpu" else "cpu"))
        if r["part"] == "off":
            add("memory", r.get("memory"))
        for name, figure in r.get("programs", {}).items():
            add(name + "@2" if r["part"] == "parallel" else name, figure[clock])
    return out


def summarise(runs, clock="host"):
    """figures of {engine: records}. Natively the program's own clock is better than the host's; two
    processors are a matter of wall-clock time alone."""
    figures = {}
    for e, records in runs.items():
        rows = samples(records, "guest" if e == "native" and clock == "host" else clock)
        figures[e] = {row: median(v) for row, v in rows.items() if clock == "host" or "@" not in row}
    return figures


def ratio(a, b):
    return a / b if a is not None and b else None


def geometric_mean(values):
    values = [v for v in values if v]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def against(figures, engine, peer, programs):
    """{program: how many times faster than `peer` engine is}, over the programs of the mean."""
    mine, its = figures.get(engine, {}), figures.get(peer, {})
    rows = {p: ratio(its.get(p), mine.get(p)) for p in programs if p not in PARALLEL}
    return {p: r for p, r in rows.items() if r}


def goals(figures, engine, programs):
    """[{goal, wanted, reached, met}] for one of Croft's engines; reached and met None if not measured."""
    mine, native, tcg = (figures.get(e, {}) for e in (engine, "native", "tcg"))
    out = []

    def add(goal, sign, wanted, reached, unit="x"):
        met = None if reached is None else reached <= wanted if sign == "<=" else reached >= wanted
        out.append({"goal": goal, "sign": sign, "wanted": wanted, "reached": reached, "unit": unit, "met": met})

    for p in programs:
        if p in TARGETS:
            add(f"{p}, against native", "<=", TARGETS[p], ratio(mine.get(p), native.get(p)))
    faster = against(figures, engine, "tcg", programs)
    worst = min(faster, key=faster.get) if faster else None
    add("faster than TCG, geometric mean", ">=", TARGET_MEAN, geometric_mean(faster.values()))
    add("faster than TCG, worst program" + (f" ({worst})" if worst else ""), ">=", TARGET_WORST,
        faster.get(worst))
    add("boot and power off", "<=", TARGET_OFF_SECONDS, mine.get("off"), "s")
    add("boot and power off, against TCG", "<=", TARGET_OFF_RATIO, ratio(mine.get("off"), tcg.get("off")))
    for p in PARALLEL:
        if p in programs:
            add(f"{p}: two processors over one", ">=", TARGET_PARALLEL, ratio(mine.get(p), mine.get(p + "@2")))
    if mine.get("memory") is not None:
        add("memory beyond guest RAM", "<=", TARGET_MEMORY / 2**20, mine["memory"] / 2**20, "MiB")
    return out


def text_of(value, unit="x", digits=2):
    if value is None:
        return "-"
    return f"{value:.{digits}f}{unit}" if unit == "x" else f"{value:.{digits}f} {unit}"


def format_table(programs, engines, figures):
    """The table of all engines: native in ms, the others as multiples of it, then Croft against the peers."""
    native = figures.get("native", {})
    others = [e for e in engines if e != "native"]
    pairs = [(peer, e) for e in others if e not in NOT_CROFT for peer in ("tcg", "bochs") if peer in engines]
    out = [f"{'program':12}{'native ms':>10}" + "".join(f"{e:>10}" for e in others) +
           "".join(f"{a + '/' + b:>14}" for a, b in pairs)]

    def row(label, first, cells, last):
        out.append((f"{label:12}{first:>10}" + "".join(f"{c:>10}" for c in cells) +
                    "".join(f"{c:>14}" for c in last)).rstrip())

    def compared(name):
        return [text_of(ratio(figures[a].get(name), figures[b].get(name))) for a, b in pairs]

    for p in programs:
        base = native.get(p)
        cells = [text_of(ratio(figures[e].get(p), base)) if base else
                 text_of(figures[e].get(p) and figures[e][p] * 1e3, "ms", 1) for e in others]
        row(p, f"{base * 1e3:.2f}" if base else "-", cells, compared(p))
    faster = [against(figures, b, a, programs) for a, b in pairs]
    row("mean", "", [text_of(geometric_mean(ratio(figures[e].get(p), native.get(p)) for p in programs
                                            if p not in PARALLEL)) for e in others],
        [text_of(geometric_mean(f.values())) for f in faster])
    if any(faster):
        row("worst", "", [""] * len(others), [text_of(min(f.values(), default=None)) for f in faster])
    for key in MILESTONES:
        if any(figures[e].get(key) for e in others):
            row(key, "", [text_of(figures[e].get(key), "s") for e in others], compared(key))
    for p in PARALLEL:
        if any(figures[e].get(p + "@2") for e in engines):
            speed_up = {e: ratio(figures[e].get(p), figures[e].get(p + "@2")) for e in engines}
            row(f"{p} 1->2", text_of(speed_up.get("native")), [text_of(speed_up[e]) for e in others], [])
    if any(figures[e].get("memory") for e in others):
        row("memory", "", [text_of(figures[e].get("memory") and figures[e]["memory"] / 2**20, "MiB", 1)
                           for e in others], [])
    return "\n".join(out)


def format_goals(engine, reached):
    out = [f"{'goal of ' + engine:46}{'wanted':>12}{'reached':>12}"]
    for g in reached:
        verdict = {True: "met", False: "missed", None: "not measured"}[g["met"]]
        out.append(f"{g['goal']:46}{g['sign'] + ' ' + text_of(g['wanted'], g['unit'], 1):>12}"
                   f"{text_of(g['reached'], g['unit']):>12}  {verdict}")
    count = sum(g["met"] is True for g in reached)
    out.append(f"{count} of {len(reached)} met")
    return "\n".join(out)
