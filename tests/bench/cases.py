"""What is measured. A case makes its input, names its rows, and says what the ratio of its table is.

A row is a function that measures once, with everything fresh, and gives a sample: seconds, or MiB of memory, and what else
it knows. Rows are taken turn by turn; see `compare.py`.
"""
import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from lab import MIB, Skip, bound, free_port, make_file, make_folder, same, wait_for, warm
from programs import (Nginx, Node, b3sum, curl_fetch, libtorrent_fetch, node_fetch, objects, sendme_fetch, settings)

CAP = 20_000_000
SLOW = 100_000
OURS, CURL, SENDME = "p2p-node", "curl from nginx", "sendme (iroh-blobs)"


class Case:
    """One table: `amount` of `unit` each time; the ratio is to `reference`.

    `ratio` says how it is to be read: "ours" for how many times as fast as the row the reference is, "row" for how many
    times as fast as the reference the row is.
    """

    def __init__(self, title, rows, amount, unit, reference, ratio, parameters=None):
        self.title, self.rows, self.amount, self.unit = title, rows, amount, unit
        self.reference, self.ratio, self.parameters = reference, ratio, parameters or {}


def megabytes(mib):
    return mib * MIB / 1e6


def size_text(mib):
    return f"{mib // 1024} GiB" if mib % 1024 == 0 else f"{mib} MiB"


def single(lab, exe, options):
    mib = options.mib or 1024
    source = make_file(lab.folder("src") / "file.bin", mib)
    rows = {OURS: lambda: node_fetch(lab, exe, source), CURL: lambda: curl_fetch(lab, source),
            f"{CURL}, then sync": lambda: curl_fetch(lab, source, sync=True),
            "libtorrent": lambda: libtorrent_fetch(lab, source), SENDME: lambda: sendme_fetch(lab, source)}
    return Case(f"One file of {size_text(mib)}, one sender, one receiver, to disk", rows, megabytes(mib), "MB", OURS, "ours")


def ingest(lab, exe, options):
    mib = options.mib or 2048
    source = make_file(lab.folder("src") / "file.bin", mib)
    ids = set()

    def share():
        warm(source)
        with Node(lab, exe) as node:
            before = node.cpu()
            shared, ended = node.share(source)
            ids.add(shared["id"])
            return {"seconds": ended.seconds, "cpu_receiver": node.cpu() - before + ended.cpu}

    def hash_alone():
        sample, digest = b3sum(lab, source)
        ids.add(digest)
        if len(ids) > 1:
            raise RuntimeError(f"p2p-node and b3sum name the same file differently: {ids}")
        return sample

    rows = {f"{OURS} share": share, "b3sum": hash_alone}
    return Case(f"Sharing {size_text(mib)} in place", rows, megabytes(mib), "MB", f"{OURS} share", "ours")


def folder(lab, exe, options):
    # ext4 does not use the inode of a deleted file again for minutes, and looks at all such for each new file: who comes after
    # ten thousand deleted files would pay for them, by seconds.
    lab.keeps = True
    files = options.files
    source = make_folder(lab.folder("src") / "folder", files)
    rows = {OURS: lambda: node_fetch(lab, exe, source), SENDME: lambda: sendme_fetch(lab, source)}
    return Case(f"A folder of {files:,} files of 4 KiB", rows, files, "files", OURS, "ours")


def capped(rate):
    return f'[limits]\nupload = "{rate}B"\nlan_exempt = false\n'


def fetch_from(lab, exe, source, rates):
    """One receiver of as many senders as there are rates."""
    warm(source)
    with ExitStack() as stack:
        senders = [stack.enter_context(Node(lab, exe, extra=capped(rate))) for rate in rates]
        shared = [sender.share(source)[0] for sender in senders][0]
        receiver = stack.enter_context(Node(lab, exe))
        for sender in senders:
            receiver.connect(sender)
        named = [part for sender in senders for part in ("--peer", sender.address())]
        got = receiver.folder / "got"
        ended = receiver.run("get", shared["id"], "-o", got, *named)
        same(OURS, source, got)
        done = [found for found in objects(ended.out) if found["type"] == "complete"][-1]
        return {"seconds": ended.seconds, "sources": len(done["sources"])}


def senders(lab, exe, options):
    mib = options.mib or 256
    source = make_file(lab.folder("src") / "file.bin", mib)
    rows = {"one sender": lambda: fetch_from(lab, exe, source, [CAP]),
            "four senders": lambda: fetch_from(lab, exe, source, [CAP] * 4)}
    return Case(f"{size_text(mib)} from senders capped at 20 MB/s each", rows, megabytes(mib), "MB", "one sender", "row")


def slow(lab, exe, options):
    mib = options.mib or 256
    source = make_file(lab.folder("src") / "file.bin", mib)
    rows = {"two senders": lambda: fetch_from(lab, exe, source, [CAP] * 2),
            "two senders and a slow one": lambda: fetch_from(lab, exe, source, [CAP, CAP, SLOW])}
    return Case(f"{size_text(mib)} from two senders capped at 20 MB/s, and a third at 100 kB/s", rows, megabytes(mib), "MB",
                "two senders", "row")


def receivers(lab, exe, options):
    mib = options.mib or 256
    source = make_file(lab.folder("src") / "file.bin", mib)

    def fetch(count):
        warm(source)
        with ExitStack() as stack:
            sender = stack.enter_context(Node(lab, exe, extra=capped(CAP)))
            shared, _ = sender.share(source)
            nodes = [stack.enter_context(Node(lab, exe, bootstrap=sender.addresses)) for _ in range(count)]
            for node in nodes:
                node.connect(sender)
            started = time.monotonic()
            begun = [lab.begin(node.command("get", shared["id"], "-o", node.folder / "got"), node.folder)
                     for node in nodes]
            for running in begun:
                lab.end(running).check("p2p-node get")
            seconds = time.monotonic() - started
            for node in nodes:
                same(OURS, source, node.folder / "got")
            return {"seconds": seconds}

    rows = {"one receiver": lambda: fetch(1), "eight receivers": lambda: fetch(8)}
    return Case(f"{size_text(mib)} from one sender capped at 20 MB/s, until the last receiver has it", rows, megabytes(mib),
                "MB", "one receiver", "row")


def memory(lab, exe, options):
    sizes = [512, 4096] if not options.mib else [max(1, options.mib // 8), options.mib]
    small_cache = '[limits]\ncache = "16MiB"\n'
    top = lab.folder("src")
    sources = {size_text(mib): make_file(top / f"{mib}.bin", mib) for mib in sizes}
    rows = {name: lambda source=source: node_fetch(lab, exe, source, small_cache) for name, source in sources.items()}
    return Case("Peak memory of either side, with a cache of 16 MiB", rows, 0, "MiB", size_text(sizes[0]), "memory")


def cpu(lab, exe, options):
    mib = options.mib or 1024
    source = make_file(lab.folder("src") / "file.bin", mib)
    rows = {OURS: lambda: node_fetch(lab, exe, source), CURL: lambda: curl_fetch(lab, source)}
    return Case(f"Core-seconds for each GiB, by a file of {size_text(mib)}", rows, mib / 1024, "GiB", OURS, "cpu")


# ---- the first byte --------------------------------------------------------------------------------------------------

def first_byte_of(lab, folder, command, source):
    """Seconds from the start of a command to the first byte of its output, all of which is then compared."""
    with open(folder / "cat.err", "wb") as errors:
        started = time.monotonic()
        process = lab.start(command, folder, stdout=subprocess.PIPE, stderr=errors)
    try:
        first = os.read(process.stdout.fileno(), 1)
        seconds = time.monotonic() - started
        rest = process.stdout.read()
        if process.wait(60) != 0 or first + rest != source.read_bytes():
            raise RuntimeError(f"not what was sent: {(folder / 'cat.err').read_text()[-1000:]}")
        return {"seconds": seconds}
    finally:
        lab.stop(process)


def first_byte(lab, exe, options):
    mib = options.mib or 16
    source = make_file(lab.folder("src") / "file.bin", mib)

    def from_daemon():
        warm(source)
        with Node(lab, exe) as sender, Node(lab, exe, bootstrap=sender.addresses) as receiver:
            shared, _ = sender.share(source)
            receiver.connect(sender)
            return first_byte_of(lab, receiver.folder, receiver.command("cat", shared["ticket"]), source)

    def alone():
        warm(source)
        with Node(lab, exe) as sender:
            shared, _ = sender.share(source)
            folder = lab.folder("c")
            config = settings(folder, api="off")
            return first_byte_of(lab, folder, [exe, "--config", config, "cat", shared["ticket"]], source)

    def curl():
        warm(source)
        with Nginx(lab, source) as server:
            return first_byte_of(lab, server.folder, ["curl", "-sf", server.url], source)

    rows = {"cat, by a connected daemon": from_daemon, "cat, without a daemon": alone, CURL: curl}
    return Case(f"To the first byte, of a file of {size_text(mib)}", rows, 0, "ms", "cat, by a connected daemon", "ours")


# ---- a slow link -----------------------------------------------------------------------------------------------------

RTT, RATE_MBIT = "50ms", 200


def link_program(exe):
    named = os.environ.get("P2P_LINK")
    found = Path(named) if named else Path(exe).parent / "p2p-link"
    if not found.is_file():
        raise Skip("p2p-link is not beside p2p-node: cargo build --release --workspace, or set P2P_LINK")
    return found


def link(lab, exe, options):
    mib = options.mib or 512
    rows = over_link(lab, exe, mib)
    rows = {f"{OURS}, TCP": rows["tcp"], f"{OURS}, QUIC": rows["quic"], f"{CURL}, TCP": rows["curl"]}
    return Case(f"{size_text(mib)} over a link of {RATE_MBIT} Mbit/s and a round trip of {RTT}", rows, megabytes(mib), "MB",
                f"{OURS}, TCP", "ours", {"rtt": RTT, "rate_mbit": RATE_MBIT})


def loss(lab, exe, options):
    mib = options.mib or 16
    rows = over_link(lab, exe, mib)
    rows = {f"{OURS}, QUIC, 1 % of packets lost": rows["quic, lossy"], f"{OURS}, TCP, nothing lost": rows["tcp"],
            f"{CURL}, TCP, nothing lost": rows["curl"]}
    return Case(f"{size_text(mib)} over the same link when it loses packets", rows, megabytes(mib), "MB",
                f"{OURS}, QUIC, 1 % of packets lost", "ours", {"rtt": RTT, "rate_mbit": RATE_MBIT})


def over_link(lab, exe, mib):
    """What can be run through a link, by name."""
    source = make_file(lab.folder("src") / "file.bin", mib)

    def through(stack, target, protocol, loss):
        """The port of a link to `target`, with the delay and rate of this case, and its process."""
        program, port, folder = link_program(exe), free_port(), lab.folder("l")
        process = lab.start([program, f"--{protocol}", f"{port}:{target}", "--rtt", RTT, "--rate", f"{RATE_MBIT}Mbit",
                             "--loss", loss], folder)
        stack.callback(lab.stop, process)
        wait_for("p2p-link", lambda: bound(protocol, port))
        return port, (process, folder)

    def ended_well(seconds, running):
        """The sample, unless the bytes went past the link, which says at its end what it passed on."""
        process, folder = running
        lab.stop(process, signal.SIGINT)
        passed = objects((folder / "log").read_text())[-1]
        if max(passed["up"]["bytes"], passed["down"]["bytes"]) < mib * MIB:
            raise RuntimeError(f"the file did not come over the link: {passed}")
        return {"seconds": seconds}

    def ours(protocol, loss):
        warm(source)
        with ExitStack() as stack:
            sender = stack.enter_context(Node(lab, exe))
            shared, _ = sender.share(source)
            port, running = through(stack, sender.port(protocol), protocol, loss)
            receiver = stack.enter_context(Node(lab, exe))
            address = sender.address(protocol).replace(f"/{protocol}/{sender.port(protocol)}", f"/{protocol}/{port}")
            got = receiver.folder / "got"
            ended = receiver.run("get", shared["id"], "-o", got, "--peer", address)
            same(OURS, source, got)
            return ended_well(ended.seconds, running)

    def curl():
        warm(source)
        with ExitStack() as stack:
            server = stack.enter_context(Nginx(lab, source))
            port, running = through(stack, server.port, "tcp", "0%")
            got = server.folder / "got"
            url = server.url.replace(f":{server.port}/", f":{port}/")
            ended = lab.run(["curl", "-sf", "-o", got, url], server.folder).check("curl")
            same("curl", source, got)
            return ended_well(ended.seconds, running)

    return {"tcp": lambda: ours("tcp", "0%"), "quic": lambda: ours("udp", "0%"),
            "quic, lossy": lambda: ours("udp", "1%"), "curl": curl}


CASES = {"single": single, "ingest": ingest, "folder": folder, "senders": senders, "slow": slow, "receivers": receivers,
         "memory": memory, "first-byte": first_byte, "cpu": cpu, "link": link, "loss": loss}
