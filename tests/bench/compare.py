#!/usr/bin/env python3
"""Times `p2p-node` beside what a user would pick instead: the same bytes, one machine, turn by turn, on loopback only.

    cargo build --release
    tests/bench/compare.py                        every case, about an hour
    tests/bench/compare.py single cpu --rounds 3  some of them
    tests/bench/compare.py --mib 64               small, to see that it works
    tests/bench/compare.py --parts                takes over what `cargo bench -p p2p-core` measured last
    tests/bench/compare.py --report               the tables of the documentation, from results that are there

What is not installed is skipped and named: curl and nginx (nginx-light), python3-libtorrent and mktorrent, b3sum, sendme
(`cargo install sendme`, in PATH or $SENDME), p2p-link (built with the workspace, beside p2p-node or $P2P_LINK).

Rows are taken in turn, in another order each round. Every time is written to the results, together with the machine and
the versions; cases that are run alone are merged into them. Fetched bytes are compared with those sent, each time.
"""
import argparse
import json
import os
import signal
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

# No bytecode beside the scripts: a run leaves nothing behind.
sys.dont_write_bytecode = True

from cases import CASES  # noqa: E402
from lab import Lab, Skip, isolate, machine, say, touch  # noqa: E402
from programs import versions  # noqa: E402
import report  # noqa: E402

TOP = Path(__file__).resolve().parents[2]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all, if none is named")
    parser.add_argument("--node", type=Path, help="the program [target/release/p2p-node]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, help="the size of the file in all cases, instead of each one's own")
    parser.add_argument("--files", type=int, default=10_000, help="files of the folder [10000]")
    parser.add_argument("--touch", type=int, default=0, metavar="GIB", help="write to so much memory first: a virtual "
                        "machine that has never used its memory pays for each page once, whoever comes first")
    parser.add_argument("--dir", type=Path, help="where to put the files [the system's temporary folder]")
    parser.add_argument("--results", type=Path, default=TOP / "docs/benchmarks/results.json")
    parser.add_argument("--parts", action="store_true", help="measure nothing; add criterion's results of the parts")
    parser.add_argument("--report", action="store_true", help="measure nothing; rewrite docs/benchmarks.md from the results")
    options = parser.parse_args()
    unknown = [name for name in options.cases if name not in CASES]
    if unknown or options.rounds < 1 or (options.mib is not None and options.mib < 1):
        parser.error(f"no such case: {' '.join(unknown)}" if unknown else "rounds and sizes begin at 1")
    options.target = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"))
    options.node = (options.node or options.target / "release/p2p-node").resolve()
    if not (options.report or options.parts) and not options.node.is_file():
        parser.error(f"{options.node} is not there: cargo build --release")
    return options


def measure(case, rounds):
    """Samples of each row by round, and why rows were skipped. Each round begins with another row."""
    samples, skipped = {name: [] for name in case.rows}, {}
    names = list(case.rows)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            sample = None
            if name not in skipped:
                try:
                    sample = case.rows[name]()
                except Skip as why:
                    skipped[name] = str(why)
            samples[name].append(sample)
            say(f"  round {number + 1} of {rounds}, {name}: {line(sample) if sample else 'skipped'}")
    return {name: taken for name, taken in samples.items() if name not in skipped}, skipped


def line(sample):
    return ", ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
                     for key, value in sample.items())


def rounded(sample):
    return sample and {key: round(value, 4) for key, value in sample.items()}


def run_case(lab, name, options):
    say(f"{name}:")
    case = CASES[name](lab, str(options.node), options)
    load = os.getloadavg()[0]
    rows, skipped = measure(case, options.rounds)
    return {"title": case.title, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "rounds": options.rounds,
            "amount": case.amount, "unit": case.unit, "reference": case.reference, "ratio": case.ratio,
            "parameters": case.parameters, "load_before": round(load, 2), "versions": versions(options.node),
            "rows": {row: [rounded(sample) for sample in taken] for row, taken in rows.items()}, "skipped": skipped}


def load_results(path):
    return json.loads(path.read_text()) if path.exists() else {"machine": None, "cases": {}}


def save(path, here, case):
    """Adds cases to the results. One of another machine than the first says so: the rows of a case are compared, cases not."""
    results = load_results(path)
    if results["machine"] is None:
        results["machine"] = here
    if results["machine"] != here:
        case = {name: measured | {"machine": here} for name, measured in case.items()}
    results["cases"].update(case)
    write(path, results)


def write(path, results):
    results["cases"] = {name: results["cases"][name] for name in CASES if name in results["cases"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    new.replace(path)


def criterion(target, version):
    """The medians that criterion left, in nanoseconds, with what a run of each did."""
    rows, latest = {}, 0.0
    for path in sorted((target / "criterion").glob("*/*/new/benchmark.json"), key=lambda path: path.stat().st_mtime):
        about = json.loads(path.read_text())
        row = {"ns": json.loads(path.with_name("estimates.json").read_text())["median"]["point_estimate"]}
        for kind, amount in (about["throughput"] or {}).items():
            row[kind.lower()] = amount
        rows[about["full_id"]] = row
        latest = max(latest, path.stat().st_mtime)
    if not rows:
        raise SystemExit(f"nothing in {target}/criterion: cargo bench -p p2p-core")
    when = datetime.fromtimestamp(latest, timezone.utc).isoformat(timespec="seconds")
    return {"date": when, "version": version, "rows": rows}


def main():
    options = arguments()
    if options.report:
        report.rewrite(TOP / "docs/benchmarks.md", load_results(options.results))
        return
    if options.parts:
        # They are compared with nothing else, so they may be of another machine than the cases.
        found = criterion(options.target, versions(options.node)["p2p-node"])
        found["machine"] = machine(options.dir or tempfile.gettempdir())
        write(options.results, load_results(options.results) | {"parts": found})
        return
    # Either way everything on the way is cleaned up. A shell has what runs in its background ignore Ctrl-C; this does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not isolate():
        say("no network namespace of our own (that takes root): the programs are told to stay on loopback, which has to do")
    if options.touch:
        started = time.monotonic()
        touch(options.touch)
        say(f"wrote to {options.touch} GiB of memory in {time.monotonic() - started:.1f} s")
    for name in options.cases or CASES:
        with Lab(options.dir) as lab:
            case = run_case(lab, name, options)
            save(options.results, machine(lab.root), {name: case})
            print(report.plain(case) + "\n", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        sys.exit(f"compare.py: {error}")
