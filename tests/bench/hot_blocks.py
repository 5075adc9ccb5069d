#!/usr/bin/env python3
"""The cache of hot blocks: runs its benchmark, writes the table of docs/benchmarks.md, and draws it.

    tests/bench/hot_blocks.py            measures (three minutes), then writes and draws
    tests/bench/hot_blocks.py --report   writes and draws again from the results there are
"""
import json
import re
import subprocess
import sys

sys.dont_write_bytecode = True

from plot import EDGE, FAINT, INK, OTHERS, OURS, PAPER, TOP, WIDTH, text  # noqa: E402
from report import LAST  # noqa: E402

RESULTS = TOP / "docs/benchmarks/hot_blocks.json"
PAGE = TOP / "docs/benchmarks.md"
PICTURE = RESULTS.with_suffix(".svg")
MARK = "<!-- hot blocks -->"

COLOURS = {"p2p-node": OURS, "TinyLFU alone": "#b5651d", "LRU": OTHERS}
LEFT, RIGHT, HEIGHT = 64, 150, 190


def measure():
    command = ["cargo", "bench", "-q", "-p", "p2p-core", "--bench", "hot_blocks"]
    done = subprocess.run(command, cwd=TOP, stdout=subprocess.PIPE, text=True, check=True)
    results = json.loads(done.stdout)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return results


def mb(count):
    return f"{count / 1e6:,.0f} MB"


def table(results):
    rows = []
    for run in results["runs"]:
        case = f"s = {run['skew']:.1f}" + (", with the scan" if run["scan"] else "")
        rate = run["served_bytes"] / run["seconds"] / 1e6
        hits = f"{run['hit_rate'] * 100:.1f} %" if run["keeping"] != "no cache" else ""
        rows.append([case, run["keeping"], hits, mb(run["read_bytes"]), f"{rate:,.0f} MB/s"])
    head = ["requests", "cache", "hit rate", "read from the files", "served"]
    lines = [head, ["---", "---", "---:", "---:", "---:"], *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def scale(y):
    """The height of a hit rate in a panel."""
    return HEIGHT * (1 - y)


def frame(top, title):
    parts = [text(24, top + 16, title, 14, weight="600")]
    for percent in range(0, 101, 25):
        y = top + 34 + scale(percent / 100)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{EDGE}"/>')
        parts.append(text(LEFT - 8, y + 4, f"{percent} %", 12, FAINT, anchor="end"))
    return parts


def bars(results, top):
    parts = frame(top, "Hit rate, past the first quarter; the content is ten times the cache")
    skews = sorted({run["skew"] for run in results["runs"]})
    width = (WIDTH - RIGHT - LEFT) / len(skews)
    for place, skew in enumerate(skews):
        x = LEFT + place * width
        parts.append(text(x + width / 2, top + HEIGHT + 54, f"Zipf, s = {skew:.1f}", anchor="middle"))
        for number, (name, colour) in enumerate(COLOURS.items()):
            rate = next(run["hit_rate"] for run in results["runs"]
                        if run["keeping"] == name and run["skew"] == skew and not run["scan"])
            left, bar = x + width / 2 + (number - 1.5) * 48, 40
            parts.append(f'<rect x="{left + 4:.1f}" y="{top + 34 + scale(rate):.1f}" width="{bar}" '
                         f'height="{HEIGHT * rate:.1f}" rx="3" fill="{colour}"/>')
            parts.append(text(left + 4 + bar / 2, top + 28 + scale(rate), f"{rate * 100:.0f} %", 12, anchor="middle"))
    for number, (name, colour) in enumerate(COLOURS.items()):
        y = top + 50 + number * 24
        parts.append(f'<rect x="{WIDTH - RIGHT + 16}" y="{y - 10}" width="12" height="12" rx="3" fill="{colour}"/>')
        parts.append(text(WIDTH - RIGHT + 34, y, name, weight="600" if colour == OURS else "400"))
    return parts, HEIGHT + 80


def course(results, top):
    parts = frame(top, "The same while one peer fetches a file of 20 times the cache, once (s = 1.0)")
    span = WIDTH - RIGHT - LEFT
    begin, end = results["scan"]
    parts.insert(1, f'<rect x="{LEFT + span * begin:.1f}" y="{top + 34}" width="{span * (end - begin):.1f}" '
                    f'height="{HEIGHT}" fill="#e8ecf0"/>')
    parts.append(text(LEFT + span / 2, top + 50, "the file is read", 12, FAINT, anchor="middle"))
    names = []
    for name, colour in reversed(COLOURS.items()):
        run = next(run for run in results["runs"] if run["keeping"] == name and run["scan"])
        rates = run["course"]
        points = " ".join(f"{LEFT + span * (at + 0.5) / len(rates):.1f},{top + 34 + scale(rate):.1f}"
                          for at, rate in enumerate(rates))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-linejoin="round"/>')
        names.append([top + 38 + scale(rates[-1]), name, colour])
    # Names beside the ends of their lines, and not over one another.
    names.sort()
    for one, other in zip(names, names[1:]):
        other[0] = max(other[0], one[0] + 17)
    for y, name, colour in names:
        parts.append(text(WIDTH - RIGHT + 8, y, name, 13, INK if colour == OURS else colour,
                          "600" if colour == OURS else "400"))
    parts.append(text(LEFT, top + HEIGHT + 54, "first request", 12, FAINT))
    parts.append(text(WIDTH - RIGHT, top + HEIGHT + 54, f"{results['requests']:,} blocks later", 12, FAINT, anchor="end"))
    return parts, HEIGHT + 76


def draw(results):
    body, top = [], 16
    for panel in (bars, course):
        parts, height = panel(results, top)
        body += parts
        top += height
    told = "; ".join(f"{run['keeping']}, s = {run['skew']}{', with a scan' if run['scan'] else ''}: {run['hit_rate'] * 100:.0f} %"
                     for run in results["runs"] if run["keeping"] in COLOURS)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" '
            f'role="img" aria-labelledby="title desc" '
            f'font-family="system-ui, -apple-system, \'Segoe UI\', Roboto, Helvetica, Arial, sans-serif">\n'
            f'<title id="title">Hit rate of the cache of hot blocks, beside TinyLFU alone and an LRU</title>\n'
            f'<desc id="desc">{told}.</desc>\n'
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{top - 1}" rx="8" fill="{PAPER}" stroke="{EDGE}"/>\n'
            + "\n".join(body) + "\n</svg>\n")


def main():
    results = json.loads(RESULTS.read_text()) if "--report" in sys.argv[1:] else measure()
    PICTURE.write_text(draw(results))
    pattern = re.escape(MARK) + ".*?" + re.escape(LAST)
    body = f"{MARK}\n{table(results)}\n{LAST}"
    PAGE.write_text(re.sub(pattern, lambda _: body, PAGE.read_text(), count=1, flags=re.S))


if __name__ == "__main__":
    main()
