#!/usr/bin/env python3
"""Draws docs/benchmarks/throughput.svg from docs/benchmarks/results.json: how fast, beside the others.

    tests/bench/plot.py [RESULTS [SVG]]
"""
import json
import sys
from html import escape
from pathlib import Path

sys.dont_write_bytecode = True

from report import given, middle, times_of  # noqa: E402

TOP = Path(__file__).resolve().parents[2]

WIDTH, NAMES, BARS, ROW, BAR = 760, 196, 330, 30, 18
# A background of its own and dark text on it: readable wherever the picture is put.
PAPER, INK, FAINT, OURS, OTHERS, EDGE = "#ffffff", "#1f2328", "#59636e", "#0a7d5a", "#9aa7b4", "#d1d9e0"
# What is drawn of which case: its title there, and the rows that are left out.
PANELS = [("single", "Fetch a file of {size}", ("curl from nginx, then sync",)), ("folder", "Fetch {files} files of 4 KiB", ()),
          ("ingest", "Share a file of {size} in place", ())]


def panel(case, title, left_out):
    """The title of a panel, and of each row its name, what it manages in a second, and its speed beside ours."""
    ours = case["reference"]
    rows = []
    for name, samples in case["rows"].items():
        seconds = given(samples, "seconds")
        if name in left_out or not seconds:
            continue
        beside = 1.0 if name == ours else times_of(samples, case["rows"][ours], invert=True)
        rows.append((name, case["amount"] / middle(seconds), beside, name == ours))
    mib = round(case["amount"] * 1e6 / (1 << 20)) if case["unit"] == "MB" else 0
    size = f"{mib // 1024} GiB" if mib % 1024 == 0 else f"{mib} MiB"
    return title.format(size=size, files=f"{case['amount']:,.0f}"), rows


def text(x, y, content, size=13, fill=INK, weight="400", anchor="start"):
    return (f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{fill}" font-weight="{weight}" '
            f'text-anchor="{anchor}">{escape(content)}</text>')


def draw_panel(top, title, unit, rows):
    parts = [text(24, top + 16, title, 14, weight="600")]
    most = max(rate for _, rate, _, _ in rows)
    for number, (name, rate, beside, is_ours) in enumerate(rows):
        y = top + 30 + number * ROW
        length = max(2, BARS * rate / most)
        weight = "600" if is_ours else "400"
        middle_y = y + BAR / 2 + 5
        parts.append(text(24 + NAMES - 12, middle_y, name, weight=weight, anchor="end"))
        parts.append(f'<rect x="{24 + NAMES}" y="{y}" width="{length:.1f}" height="{BAR}" rx="3" '
                     f'fill="{OURS if is_ours else OTHERS}"/>')
        parts.append(text(24 + NAMES + length + 8, middle_y, f"{rate:,.0f} {unit}/s", weight=weight))
        parts.append(text(WIDTH - 24, middle_y, f"{beside:.2f} ×", fill=INK if is_ours else FAINT, weight=weight,
                          anchor="end"))
    parts.append(f'<line x1="{24 + NAMES}" y1="{top + 26}" x2="{24 + NAMES}" y2="{top + 22 + len(rows) * ROW}" '
                 f'stroke="{EDGE}"/>')
    return parts, 30 + len(rows) * ROW + 18


def draw(results):
    panels = []
    for name, title, left_out in PANELS:
        if name in results["cases"]:
            case = results["cases"][name]
            heading, rows = panel(case, title, left_out)
            # A bar alone says nothing.
            if len(rows) > 1:
                panels.append((heading, case["unit"], rows))
    if not panels:
        sys.exit("no results to draw: run tests/bench/compare.py")
    body, top, told = [], 60, []
    body.append(text(24, 34, "Throughput on loopback, medians; longer is faster", 15, weight="600"))
    body.append(text(WIDTH - 24, 34, "speed beside p2p-node", 12, FAINT, anchor="end"))
    for heading, unit, rows in panels:
        parts, height = draw_panel(top, heading, unit, rows)
        body += parts
        top += height
        values = ", ".join(f"{name} {rate:,.0f} {unit}/s" for name, rate, _, _ in rows)
        told.append(f"{heading}: {values}.")
    facts = results["machine"]
    body.append(text(24, top + 8, f"{facts['cores']} cores of {facts['cpu']}, {facts['filesystem']}, both ends on one machine",
                     12, FAINT))
    height = top + 28
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
            f'role="img" aria-labelledby="title desc" '
            f'font-family="system-ui, -apple-system, \'Segoe UI\', Roboto, Helvetica, Arial, sans-serif">\n'
            f'<title id="title">Throughput of p2p-node beside other programs</title>\n'
            f'<desc id="desc">{escape(" ".join(told))}</desc>\n'
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="{PAPER}" stroke="{EDGE}"/>\n'
            + "\n".join(body) + "\n</svg>\n")


def main():
    given_paths = [Path(argument) for argument in sys.argv[1:]]
    source = given_paths[0] if given_paths else TOP / "docs/benchmarks/results.json"
    target = given_paths[1] if len(given_paths) > 1 else source.with_name("throughput.svg")
    target.write_text(draw(json.loads(source.read_text())))


if __name__ == "__main__":
    main()
