#!/usr/bin/env python3
"""A watched tree of many files: the first share, a restart, a minute of nothing, and the change of one file.

    cargo build --release -p p2p-node && tests/bench/watch.py [--files 100000] [--idle 60]
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from programs import objects, settings

TICK = os.sysconf("SC_CLK_TCK")


def make_tree(root, files):
    """1,000 files to a folder, each 1 to 8 KiB that nothing else has."""
    for number in range(files):
        folder = root / f"{number // 1000:04}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"file-{number:07}.dat").write_bytes(number.to_bytes(8, "little") * (128 + number % 897))


class Daemon:
    def __init__(self, exe, config):
        self.command = [exe, "--config", config, "--json"]
        self.log = open(config.parent / "log", "a")
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [*self.command, "run"], stdout=subprocess.PIPE, stderr=self.log, text=True)
        for line in self.process.stdout:
            if json.loads(line)["type"] == "shared":
                break
        self.ready = time.monotonic() - self.begun

    def ask(self, *words):
        done = subprocess.run([*self.command, *words], capture_output=True, text=True, check=True)
        return objects(done.stdout)

    def cpu(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self, what="VmRSS"):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(what + ":")[1].split()[0]) * 1024

    def hashed(self):
        return self.ask("status")[0]["hashed"]["files"]

    def wait_quiet(self):
        """Until it has used no more than a hundredth of a second in two seconds."""
        before = self.cpu()
        while True:
            time.sleep(2)
            now = self.cpu()
            if now - before <= 0.02:
                return
            before = now

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--idle", type=float, default=60)
    parser.add_argument("--exe", default="target/release/p2p-node")
    parser.add_argument("--dir", default=None, help="where to put the tree")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="watch-") as folder:
        folder = Path(folder)
        tree = folder / "tree"
        make_tree(tree, arguments.files)
        extra = f'[[share]]\npath = "{tree}"\nwatch = true\n'
        config = settings(folder, extra=extra)
        exe = Path(arguments.exe).resolve()

        daemon = Daemon(exe, config)
        print(f"first share: {daemon.ready:.2f} s, {daemon.hashed()} files hashed")
        daemon.wait_quiet()
        daemon.stop()

        daemon = Daemon(exe, config)
        print(f"restart: {daemon.ready:.2f} s until shared, {daemon.hashed()} files hashed, {daemon.cpu():.2f} s of CPU")
        daemon.wait_quiet()
        print(f"until quiet: {daemon.cpu():.2f} s of CPU; memory {daemon.memory() / 1e6:.0f} MB, at most {daemon.memory('VmHWM') / 1e6:.0f} MB")
        before = daemon.cpu()
        time.sleep(arguments.idle)
        print(f"idle: {daemon.cpu() - before:.2f} s of CPU in {arguments.idle:.0f} s")

        old = daemon.ask("shares")[0]["id"]
        before, hashed, begun = daemon.cpu(), daemon.hashed(), time.monotonic()
        (tree / "0000" / "file-0000007.dat").write_text("changed")
        asked = 0
        while daemon.ask("shares")[0]["id"] == old:
            asked += 1
            time.sleep(0.5)
        took = time.monotonic() - begun
        after = daemon.cpu()
        # What the questions cost is taken off.
        daemon.ask("shares")
        question = daemon.cpu() - after
        print(f"one file changed: new form after {took:.1f} s, {daemon.hashed() - hashed} hashed, "
              f"{after - before - question * (asked + 1):.2f} s of CPU; memory {daemon.memory() / 1e6:.0f} MB, at most {daemon.memory('VmHWM') / 1e6:.0f} MB")
        daemon.stop()


if __name__ == "__main__":
    main()
