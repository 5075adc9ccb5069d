#!/usr/bin/env python3
"""Many small files in one store: how long each thing takes that a user waits for, and the memory of the daemon.

    cargo build --release
    tests/bench/many.py                           a folder of a million files; half an hour, 15 GB of disk
    tests/bench/many.py --files 100000 --folders 10

It makes the files (100 to 1000 bytes), shares them, lists them, restarts the daemon in order and after a kill, shares
them again unchanged, fetches all of them with a second daemon, and forgets them. Prints a table. Nothing is left behind.
"""
import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

from lab import MIB, Lab, isolate, machine, peak_of, say  # noqa: E402
from programs import objects, settings  # noqa: E402

TOP = Path(__file__).resolve().parents[2]
PER_FOLDER = 1000


def make_tree(root, first, files):
    """So many files, a thousand to a folder, each with bytes of its own."""
    bytes_of = random.Random(first)
    pool = bytes_of.randbytes(2000)
    for number in range(first, first + files):
        folder = root / f"d{number // PER_FOLDER:04}"
        if number % PER_FOLDER == 0 or number == first:
            folder.mkdir(parents=True, exist_ok=True)
        begin = number % 1000
        # The number makes it unlike all others.
        data = b"%016d" % number + pool[begin:begin + 84 + number * 7919 % 900]
        with open(folder / f"file-{number:07}.dat", "wb", buffering=0) as file:
            file.write(data)


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0


class Daemon:
    """A daemon in a folder that stays when it ends."""

    def __init__(self, lab, exe, extra=""):
        self.lab, self.exe = lab, exe
        self.folder = lab.folder("n")
        self.extra = extra
        self.process = None

    def start(self, bootstrap=()):
        """Starts it; the seconds until it is ready for commands and peers."""
        self.config = settings(self.folder, bootstrap, self.extra)
        started = time.monotonic()
        self.process = self.lab.start([self.exe, "--config", self.config, "--json", "run"], self.folder)
        while True:
            for found in objects((self.folder / "log").read_text()):
                if found.get("type") == "ready":
                    seconds = time.monotonic() - started
                    self.addresses = found["addresses"]
                    return seconds
            if self.process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.005)

    def stop(self, number=signal.SIGTERM):
        """Ends it; the seconds that takes."""
        started = time.monotonic()
        self.lab.stop(self.process, number)
        return time.monotonic() - started

    def run(self, *arguments):
        ended = self.lab.run([self.exe, "--config", self.config, "--json", *arguments], self.folder, timeout=3600)
        return ended.check(f"p2p-node {arguments[0]}")

    def rss(self):
        return resident(self.process.pid)

    def peak(self):
        return peak_of(self.process.pid)


class Table:
    def __init__(self, daemon):
        self.daemon, self.rows = daemon, []

    def add(self, what, seconds, note=""):
        row = (what, f"{seconds:.2f} s", f"{self.daemon.rss():.0f} MiB", f"{self.daemon.peak():.0f} MiB", note)
        self.rows.append(row)
        say(" | ".join(row))

    def text(self):
        head = ["| | time | memory after | peak | |", "| --- | ---: | ---: | ---: | --- |"]
        return "\n".join(head + ["| " + " | ".join(row) + " |" for row in self.rows])


def index_mib(daemon):
    return (daemon.folder / "data/index.redb").stat().st_size / MIB


def settled(daemon, pause=1.0):
    """Waits until the daemon uses no processor: what it does after its start is done."""
    stat = lambda: sum(map(int, Path(f"/proc/{daemon.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    started = time.monotonic()
    before = stat()
    while time.monotonic() - started < 600:
        time.sleep(pause)
        now = stat()
        if now - before <= 2 * pause:
            return time.monotonic() - started - pause
        before = now
    return 600


def listings(daemon, table, when):
    for command in ["ls", "shares", "status"]:
        ended = daemon.run(command)
        found = objects(ended.out)
        note = f"{when}, {len(found)} lines"
        if command == "status":
            status = next(one for one in found if one["type"] == "status")
            note = f"{when}; " + ", ".join(f"{key} {status[key]}" for key in sorted(status) if key.startswith("announce"))
        table.add(command, ended.seconds, note)


def measure(lab, options):
    roots = [lab.root / f"tree{number}" for number in range(options.folders)]
    each = options.files // options.folders
    say("making the files")
    for number, root in enumerate(roots):
        make_tree(root, number * each, each)
    os.sync()
    daemon = Daemon(lab, options.node, options.extra)
    started = daemon.start()
    table = Table(daemon)
    table.add("start", started, "empty")
    ids = []
    shared = daemon.run("share", *roots)
    ids = [found["id"] for found in objects(shared.out) if found["type"] == "shared"]
    assert len(ids) == options.folders, shared.out[-2000:]
    table.add("share", shared.seconds, f"index {index_mib(daemon):.0f} MiB")
    listings(daemon, table, "after sharing")
    stopped = daemon.stop()
    started = daemon.start()
    table.add("restart", started, f"stopped in {stopped:.2f} s")
    table.add("until at rest", settled(daemon))
    listings(daemon, table, "after a restart")
    daemon.stop(signal.SIGKILL)
    table.add("restart after a kill", daemon.start())
    settled(daemon)
    again = daemon.run("share", *roots)
    table.add("share again, unchanged", again.seconds)
    if options.get:
        other = Daemon(lab, options.node, options.extra)
        other.start(daemon.addresses)
        fetched = Table(other)
        seconds = 0
        for number, id in enumerate(ids):
            seconds += other.run("get", id, "-o", other.folder / f"got{number}").seconds
        fetched.add("get", seconds, f"a second daemon; index {index_mib(other):.0f} MiB")
        found = sum(1 for path in other.folder.glob("got*/*/*"))
        assert found == each * options.folders, found
        other.stop()
        fetched.add_started = other.start(daemon.addresses)
        fetched.add("restart", fetched.add_started, "of that")
        fetched.add("until at rest", settled(other), "of that")
        removed = sum(other.run("rm", id, "--delete-files").seconds for id in ids)
        fetched.add("rm --delete-files", removed, "of that")
        other.stop()
        table.rows += fetched.rows
    gone = sum(daemon.run("unshare", id).seconds for id in ids)
    table.add("unshare", gone)
    daemon.stop()
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=1, help="shared one by one, with that many files together [1]")
    parser.add_argument("--no-get", dest="get", action="store_false", help="leave out the second daemon")
    parser.add_argument("--node", type=Path, help="the program [target/release/p2p-node]")
    parser.add_argument("--dir", type=Path, help="where to put the files [the system's temporary folder]")
    parser.add_argument("--extra", default="", help="more lines of node.toml")
    options = parser.parse_args()
    target = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"))
    options.node = (options.node or target / "release/p2p-node").resolve()
    if not options.node.is_file():
        parser.error(f"{options.node} is not there: cargo build --release")
    isolate()
    with Lab(options.dir) as lab:
        say(json.dumps(machine(lab.root)))
        print(measure(lab, options).text())


if __name__ == "__main__":
    main()
