"""A place to measure in: a temporary folder, processes that do not outlive it, and facts about the machine."""
import ctypes
import fcntl
import mmap
import os
import platform
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MIB = 1 << 20
PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


class Skip(Exception):
    """Something that is not here, or does not work here: said in the results, and no reason to stop."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def isolate():
    """Moves this process to a network namespace that has nothing but loopback. False where that is not allowed.

    None of the programs can then reach the internet, whatever their settings, and a port they forget dies with them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        flags = struct.unpack("16sH14s", fcntl.ioctl(s, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", flags | IFF_UP, b""))
    return True


def touch(gib):
    """Writes to each page of so much memory, and gives it back: a virtual machine then has it from its host."""
    with mmap.mmap(-1, gib << 30) as memory:
        memory[::4096] = bytes((gib << 30) // 4096)


def free_port():
    """A port that was free a moment ago, for TCP and UDP, for programs that cannot choose one themselves."""
    for _ in range(100):
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


def wait_for(what, condition, seconds=30, pause=0.02):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(pause)
    return found


def bound(protocol, port):
    """Whether somebody has this port; a connection that looks would be one for the programs too."""
    lines = Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") for line in lines)


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def cpu_of(pid):
    """Core-seconds of a live process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def peak_of(pid):
    """The most memory a live process has had resident, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024


class Ended:
    """A command that has ended: what it printed, how long it took, and its core-seconds."""

    def __init__(self, code, seconds, cpu, out, err):
        self.code, self.seconds, self.cpu, self.out, self.err = code, seconds, cpu, out, err

    def check(self, what):
        if self.code != 0:
            raise RuntimeError(f"{what}: exit code {self.code}\n{self.out[-2000:]}\n{self.err[-2000:]}")
        return self


class Lab:
    """Owns the temporary folder and every process; leaving it ends them all and removes the folder."""

    def __init__(self, parent=None):
        self.root = Path(tempfile.mkdtemp(prefix="p2p-bench-", dir=parent))
        self.live = []
        self.number = 0
        self.keeps = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A second Ctrl-C must not leave half of it behind.
        ignored = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        for process in list(self.live):
            self.stop(process, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)
        for number, handler in ignored.items():
            signal.signal(number, handler)

    def folder(self, name):
        """A fresh folder; the name is kept short as sockets lie in it."""
        self.number += 1
        path = self.root / f"{name}{self.number}"
        path.mkdir()
        return path

    def remove(self, folder):
        """Makes room, unless the case keeps everything to its end."""
        if not self.keeps:
            shutil.rmtree(folder, ignore_errors=True)

    def start(self, command, folder, **options):
        """A process that goes on until it is stopped. Its output is in `log` of the folder."""
        with open(folder / "log", "wb") as log:
            settings = {"stdout": log, "stderr": log, "stdin": subprocess.DEVNULL, "cwd": folder, **options}
            command = [str(part) for part in command]
            process = subprocess.Popen(command, start_new_session=True, preexec_fn=die_with_parent, **settings)
        self.live.append(process)
        return process

    def stop(self, process, number=signal.SIGTERM):
        for signalled in (number, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, signalled)
            try:
                process.wait(10)
                break
            except subprocess.TimeoutExpired:
                continue
        if process.stdout:
            process.stdout.close()
        if process in self.live:
            self.live.remove(process)

    def begin(self, command, folder):
        """A command whose end is awaited with `end`: several may run at once."""
        self.number += 1
        out, err = folder / f"out{self.number}.txt", folder / f"err{self.number}.txt"
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            started = time.monotonic()
            process = subprocess.Popen([str(part) for part in command], stdout=stdout, stderr=stderr,
                                       stdin=subprocess.DEVNULL, cwd=folder, start_new_session=True)
        self.live.append(process)
        return process, started, out, err

    def end(self, begun, timeout=900):
        process, started, out, err = begun
        guard = threading.Timer(timeout, process.kill)
        guard.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            guard.cancel()
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        self.live.remove(process)
        texts = [path.read_text(errors="replace") for path in (out, err)]
        return Ended(process.returncode, seconds, usage.ru_utime + usage.ru_stime, *texts)

    def run(self, command, folder, timeout=900):
        return self.end(self.begin(command, folder), timeout)


# ---- files -----------------------------------------------------------------------------------------------------------

def make_file(path, mib):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    return path


def make_folder(path, files, size=4096):
    for number in range(files):
        file = path / f"d{number // 500}" / f"f{number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(size))
    return path


def files_in(path):
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def warm(path):
    """Reads it once, so that nobody's turn is the first to read it from the disk; and the disk has nothing left to do."""
    buffer = memoryview(bytearray(MIB))
    for file in files_in(path):
        with open(file, "rb", buffering=0) as source:
            while source.readinto(buffer):
                pass
    os.sync()


def same(what, expected, got):
    """Raises unless both are the same bytes; for folders, under the same names."""
    if expected.is_dir():
        names = [[str(file.relative_to(top)) for file in files_in(top)] for top in (expected, got)]
        if names[0] != names[1]:
            raise RuntimeError(f"{what}: fetched other files than were sent")
        pairs = [(expected / name, got / name) for name in names[0]]
    else:
        pairs = [(expected, got)]
    one, two = bytearray(MIB), bytearray(MIB)
    for left, right in pairs:
        with open(left, "rb", buffering=0) as a, open(right, "rb", buffering=0) as b:
            while True:
                # A regular file gives all there is, so both give the same lengths or differ.
                length, other = a.readinto(one), b.readinto(two)
                if length != other or memoryview(one)[:length] != memoryview(two)[:length]:
                    raise RuntimeError(f"{what}: fetched bytes differ from those sent")
                if not length:
                    break


# ---- facts -----------------------------------------------------------------------------------------------------------

def machine(folder):
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1))
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    below = [(len(at), kind) for at, kind in mounts if Path(folder).resolve().is_relative_to(at)]
    return {"cpu": cpu.group(1) if cpu else platform.machine(), "cores": os.cpu_count(),
            "memory_gib": round(memory / MIB), "kernel": platform.release(), "filesystem": max(below)[1]}
