#!/usr/bin/env python3
"""Runs the simulated networks of `benches/dht.rs`, gathers what came of them, and draws it over their size.

    tests/bench/dht.py --run 50 200 1000 [--case calm churn silent names]    # into docs/benchmarks/dht.json
    tests/bench/dht.py                                                 # the picture and the table, of what is there
"""
import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from plot import EDGE, FAINT, INK, OURS, PAPER, text  # noqa: E402

TOP = Path(__file__).resolve().parents[2]
RESULTS = TOP / "docs/benchmarks/dht.json"
PICTURE = TOP / "docs/benchmarks/dht.svg"
CASES = {"calm": ("nothing happens", OURS), "churn": ("10 % replaced each minute", "#b35900"), "silent": ("20 % say nothing", "#5b4b8a")}
# Searches by name: a table of their own.
NAMES = "names"
# What is drawn: its title, its value, and whether from zero.
PANELS = [("look-ups that succeed, %", lambda run: 100 * run["found"] / run["lookups"], (80, 100)),
          ("hops to the first provider", lambda run: run["hops"], (0, None)),
          ("requests until then", lambda run: run["requests"], (0, None)),
          ("MiB of memory for each node", lambda run: run["kib_per_node"] / 1024, (0, None))]
WIDTH, HEIGHT, PLOT_W, PLOT_H = 760, 560, 300, 150


def run(nodes, case):
    command = ["cargo", "bench", "-q", "-p", "p2p-core", "--bench", "dht", "--", "--nodes", str(nodes), "--case", case]
    lines = subprocess.run(command, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return json.loads(next(line for line in lines if line.startswith("{")))


def step_over(most):
    """A quarter of an axis that goes up to at least this: 1, 1.5, 2, 2.5 or 5 times a power of ten."""
    if most <= 0:
        return 1
    power = 10 ** math.floor(math.log10(most / 4))
    return next(power * digit for digit in (1, 1.5, 2, 2.5, 5, 10) if 4 * power * digit >= most)


def panel(left, top, title, value, limits, runs):
    low, high = limits
    values = [value(run) for run in runs]
    high = high or 4 * step_over(max(values))
    low = min([low] + [math.floor(v) for v in values])
    sizes = sorted({run["nodes"] for run in runs})
    first, last = math.log(sizes[0]), math.log(sizes[-1] if len(sizes) > 1 else sizes[0] * 2)
    x = lambda nodes: left + 40 + (PLOT_W - 60) * (math.log(nodes) - first) / (last - first)  # noqa: E731
    y = lambda v: top + 30 + PLOT_H * (1 - (v - low) / (high - low))  # noqa: E731
    parts = [text(left, top + 12, title, 13, weight="600")]
    for step in range(5):
        v = low + (high - low) * step / 4
        parts.append(f'<line x1="{left + 40}" x2="{left + PLOT_W}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="{EDGE}"/>')
        parts.append(text(left + 34, y(v) + 4, f"{v:.4g}", 11, FAINT, anchor="end"))
    for nodes in sizes:
        parts.append(text(x(nodes), top + 46 + PLOT_H, f"{nodes:,}", 11, FAINT, anchor="middle"))
    for case, (_, colour) in CASES.items():
        points = [(x(run["nodes"]), y(value(run))) for run in runs if run["case"] == case]
        if points:
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in points]
    return parts


def draw(runs):
    body = [text(24, 34, "Looking for a provider in networks of different size", 15, weight="600")]
    at = 24
    for name, colour in CASES.values():
        body.append(f'<circle cx="{at + 5}" cy="54" r="4" fill="{colour}"/>')
        body.append(text(at + 16, 58, name, 12, INK))
        at += 30 + 7 * len(name)
    for number, (title, value, limits) in enumerate(PANELS):
        body += panel(24 + (number % 2) * 370, 86 + (number // 2) * 230, title, value, limits, runs)
    body.append(text(24, HEIGHT - 14, "nodes, in one process over libp2p's memory transport", 12, FAINT))
    told = "; ".join(f"{r['nodes']} nodes, {CASES[r['case']][0]}: {100 * r['found'] / r['lookups']:.2f} % found" for r in runs)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-labelledby="title desc" font-family="system-ui, -apple-system, \'Segoe UI\', Roboto, Helvetica, Arial, sans-serif">\n'
            f'<title id="title">Look-ups in the DHT over the size of the network</title>\n<desc id="desc">{told}</desc>\n'
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" fill="{PAPER}" stroke="{EDGE}"/>\n'
            + "\n".join(body) + "\n</svg>\n")


def table(runs):
    yield "| case | nodes | found | hops | requests, mean and p95 | first provider, median, p95, p99 | connections | memory for each node |"
    yield "|---|---|---|---|---|---|---|---|"
    for r in runs:
        times = ", ".join(f"{1000 * r[k]:,.0f} ms" for k in ("time_median", "time_p95", "time_p99"))
        yield (f"| {CASES[r['case']][0]} | {r['nodes']:,} | {r['found']} of {r['lookups']} ({100 * r['found'] / r['lookups']:.2f} %) | "
               f"{r['hops']:.1f} | {r['requests']:.1f}, {r['requests_p95']:.0f} | {times} | {r['connections']:.0f} | "
               f"{r['kib_per_node'] / 1024:.2f} MiB |")


def table_of_names(runs):
    yield "| nodes | names | found | peers asked | time, median, p95, p99 |"
    yield "|---|---|---|---|---|"
    for r in runs:
        times = ", ".join(f"{1000 * r[k]:,.0f} ms" for k in ("time_median", "time_p95", "time_p99"))
        yield (f"| {r['nodes']:,} | {r['contents']} | {r['found']} of {r['lookups']} ({100 * r['found'] / r['lookups']:.2f} %) | "
               f"{r['asked']:.1f} | {times} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", type=int, default=[], metavar="NODES")
    parser.add_argument("--case", nargs="*", default=[*CASES, NAMES], choices=[*CASES, NAMES])
    given = parser.parse_args()
    runs = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for nodes in given.run:
        for case in given.case:
            runs = [old for old in runs if (old["case"], old["nodes"]) != (case, nodes)] + [run(nodes, case)]
            runs.sort(key=lambda one: ([*CASES, NAMES].index(one["case"]), one["nodes"]))
            RESULTS.write_text(json.dumps(runs, indent=1) + "\n")
    if not runs:
        sys.exit("no results: --run 50 200")
    names = [one for one in runs if one["case"] == NAMES]
    ids = [one for one in runs if one["case"] != NAMES]
    if ids:
        PICTURE.write_text(draw(ids))
        print("\n".join(table(ids)))
    if names:
        print("\n".join(table_of_names(names)))


if __name__ == "__main__":
    main()
