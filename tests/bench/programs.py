"""The programs that are compared: `p2p-node`, and what a user would pick instead. Each says what it lacks with `Skip`."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from lab import Skip, bound, cpu_of, free_port, peak_of, same, wait_for, warm

LISTEN = '["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]'


def output_of(*command):
    """What a command prints, for its version; empty if there is no such command."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=20)
    except OSError:
        return ""
    return (done.stdout + done.stderr).strip()


def need(*names):
    missing = [name for name in names if not shutil.which(name)]
    if missing:
        raise Skip(f"{' and '.join(missing)} not installed")


# ---- p2p-node --------------------------------------------------------------------------------------------------------

def settings(folder, bootstrap=(), extra="", api=None):
    """A node.toml for a node that nobody finds but who is told of it."""
    path = folder / "node.toml"
    path.write_text(
        f'data_dir = "{folder}/data"\n[network]\nlisten = {LISTEN}\nbootstrap = {json.dumps(list(bootstrap))}\n'
        f'mdns = false\nupnp = false\nrelay = "off"\n[api]\nlisten = "{api or f"unix:{folder}/s"}"\n{extra}')
    return path


def objects(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


class Node:
    """A daemon in a folder of its own; stopped and removed at the end of the `with`."""

    def __init__(self, lab, exe, bootstrap=(), extra=""):
        self.lab, self.exe = lab, exe
        self.folder = lab.folder("n")
        self.config = settings(self.folder, bootstrap, extra)
        self.process = lab.start([exe, "--config", self.config], self.folder)
        self.peer, self.addresses = wait_for("a daemon that answers", self._reachable)

    def _reachable(self):
        if self.process.poll() is not None:
            raise RuntimeError("the daemon ended: " + (self.folder / "log").read_text()[-2000:])
        for found in objects(self.run("id", check=False).out):
            if found.get("type") == "id" and len(found["addresses"]) >= 2:
                return found["peer"], found["addresses"]
        return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lab.stop(self.process)
        self.lab.remove(self.folder)

    def command(self, *arguments):
        return [self.exe, "--config", self.config, "--json", *arguments]

    def run(self, *arguments, check=True):
        ended = self.lab.run(self.command(*arguments), self.folder)
        return ended.check(f"p2p-node {arguments[0]}") if check else ended

    def share(self, path):
        """Shares it; the object that tells its id and ticket, and how the command did."""
        ended = self.run("share", path)
        return [found for found in objects(ended.out) if found["type"] == "shared"][-1], ended

    def connect(self, other):
        self.run("connect", other.address())
        connected = lambda: any(peer.get("peer") == other.peer and peer.get("state") == "connected"
                                for peer in objects(self.run("peers").out))
        wait_for("a connection", connected)

    def address(self, kind="tcp"):
        return next(address for address in self.addresses if f"/{kind}/" in address and "127.0.0.1" in address)

    def port(self, kind="tcp"):
        return int(self.address(kind).split(f"/{kind}/")[1].split("/")[0])

    def cpu(self):
        return cpu_of(self.process.pid)

    def peak(self):
        return peak_of(self.process.pid)


def node_fetch(lab, exe, source, extra=""):
    """One sender, one receiver, both fresh; the receiver is told of the sender."""
    warm(source)
    with Node(lab, exe, extra=extra) as sender:
        shared, _ = sender.share(source)
        with Node(lab, exe, bootstrap=sender.addresses, extra=extra) as receiver:
            receiver.connect(sender)
            before = sender.cpu(), receiver.cpu()
            got = receiver.folder / "got"
            ended = receiver.run("get", shared["id"], "-o", got)
            after = sender.cpu(), receiver.cpu()
            sample = {"seconds": ended.seconds, "cpu_sender": after[0] - before[0],
                      "cpu_receiver": after[1] - before[1] + ended.cpu,
                      "peak_sender_mib": sender.peak(), "peak_receiver_mib": receiver.peak()}
            same("p2p-node", source, got)
            return sample


# ---- curl and nginx --------------------------------------------------------------------------------------------------

class Nginx:
    """Serves the folder of a file over plain HTTP, in one process."""

    def __init__(self, lab, source):
        need("nginx", "curl")
        self.lab, self.folder, port = lab, lab.folder("w"), free_port()
        temporary = "".join(f"{kind}_temp_path {self.folder}/{kind}; "
                            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = self.folder / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; pid {self.folder}/pid; error_log {self.folder}/log; events {{}}\n"
            f"http {{ {temporary} access_log off; sendfile on; tcp_nopush on;\n"
            f"server {{ listen 127.0.0.1:{port}; root {source.parent}; }} }}\n")
        self.process = lab.start(["nginx", "-e", self.folder / "log", "-c", config], self.folder)
        self.port, self.url = port, f"http://127.0.0.1:{port}/{source.name}"
        wait_for("nginx", lambda: bound("tcp", port))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lab.stop(self.process)
        self.lab.remove(self.folder)


def curl_fetch(lab, source, sync=False):
    """With `sync`, until the file is on the disk and not only in memory."""
    warm(source)
    with Nginx(lab, source) as server:
        before, got = cpu_of(server.process.pid), server.folder / "got"
        ended = lab.run(["curl", "-sf", "-o", got, server.url], server.folder).check("curl")
        seconds = ended.seconds
        if sync:
            seconds += lab.run(["sync", got, server.folder], server.folder).check("sync").seconds
        sample = {"seconds": seconds, "cpu_sender": cpu_of(server.process.pid) - before, "cpu_receiver": ended.cpu,
                  "peak_sender_mib": peak_of(server.process.pid)}
        same("curl", source, got)
        return sample


# ---- libtorrent ------------------------------------------------------------------------------------------------------

LIBTORRENT = r'''
import libtorrent as lt, sys, time
role, port, torrent, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
session = lt.session({
    "listen_interfaces": "127.0.0.1:%d" % port, "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
    "enable_natpmp": False, "enable_incoming_utp": False, "enable_outgoing_utp": False, "out_enc_policy": 2,
    "in_enc_policy": 2, "allow_multiple_connections_per_ip": True, "send_buffer_watermark": 8 << 20,
    "max_out_request_queue": 2000})
what = lt.add_torrent_params()
what.ti, what.save_path = lt.torrent_info(torrent), folder
if role == "seed":
    what.flags |= lt.torrent_flags.seed_mode
handle = session.add_torrent(what)
print("ready", flush=True)
if role == "seed":
    while True:
        time.sleep(3600)
started = time.monotonic()
handle.connect_peer(("127.0.0.1", int(sys.argv[5])))
while not handle.status().is_seeding:
    time.sleep(0.005)
print("%.4f" % (time.monotonic() - started), flush=True)
'''


def python_with_libtorrent():
    for python in (sys.executable, "/usr/bin/python3"):
        if output_of(python, "-c", "import libtorrent; print('here')") == "here":
            return python
    raise Skip("python3-libtorrent not installed")


def libtorrent_fetch(lab, source):
    """Plain TCP, no encryption; SHA-1 of pieces of 1 MiB. Timed inside, from the connection to the last piece."""
    python = python_with_libtorrent()
    need("mktorrent")
    warm(source)
    folder = lab.folder("t")
    torrent, script, got = folder / "it.torrent", folder / "peer.py", folder / "got"
    script.write_text(LIBTORRENT)
    got.mkdir()
    lab.run(["mktorrent", "-l", "20", "-a", "http://127.0.0.1:1/", "-o", torrent, source], folder).check("mktorrent")
    port = free_port()
    seed = lab.start([python, script, "seed", port, torrent, source.parent], folder)
    try:
        wait_for("libtorrent", lambda: bound("tcp", port))
        before = cpu_of(seed.pid)
        ended = lab.run([python, script, "get", free_port(), torrent, got, port], folder).check("libtorrent")
        sample = {"seconds": float(ended.out.split()[-1]), "cpu_sender": cpu_of(seed.pid) - before,
                  "cpu_receiver": ended.cpu, "peak_sender_mib": peak_of(seed.pid)}
        same("libtorrent", source, got / source.name)
        return sample
    finally:
        lab.stop(seed, signal.SIGKILL)
        lab.remove(folder)


# ---- sendme ----------------------------------------------------------------------------------------------------------

def find_sendme():
    exe = os.environ.get("SENDME") or shutil.which("sendme")
    if not exe or not Path(exe).is_file():
        raise Skip("sendme not installed")
    return exe


def sendme_fetch(lab, source):
    """iroh-blobs over QUIC. It has no daemon, so the receiver's start is part of its time."""
    exe = find_sendme()
    warm(source)
    folder = lab.folder("m")
    there, here = folder / "there", folder / "here"
    there.mkdir()
    here.mkdir()
    sender = lab.start([exe, "send", "--relay", "disabled", "--ticket-type", "addresses", "--magic-ipv4-addr",
                        "127.0.0.1:0", "--no-progress", source], there)
    try:
        # It copies what it sends into a store first.
        found = wait_for("sendme", lambda: re.search(r"receive (blob[a-z0-9]+)", (there / "log").read_text()), 120)
        before = cpu_of(sender.pid)
        command = [exe, "receive", "--relay", "disabled", "--no-progress", found.group(1)]
        ended = lab.run(command, here).check("sendme")
        sample = {"seconds": ended.seconds, "cpu_sender": cpu_of(sender.pid) - before, "cpu_receiver": ended.cpu,
                  "peak_sender_mib": peak_of(sender.pid)}
        same("sendme", source, here / source.name)
        return sample
    finally:
        lab.stop(sender, signal.SIGKILL)
        lab.remove(folder)


# ---- hashing alone ---------------------------------------------------------------------------------------------------

def b3sum(lab, source):
    need("b3sum")
    warm(source)
    folder = lab.folder("h")
    ended = lab.run(["b3sum", source], folder).check("b3sum")
    lab.remove(folder)
    return {"seconds": ended.seconds, "cpu_receiver": ended.cpu}, ended.out.split()[0]


def versions(exe):
    """What each program says of itself."""
    said = {"p2p-node": output_of(exe, "--version"), "curl": output_of("curl", "--version").split("(")[0],
            "nginx": output_of("nginx", "-v"), "mktorrent": output_of("mktorrent", "-h"),
            "b3sum": output_of("b3sum", "--version")}
    try:
        said["libtorrent"] = output_of(python_with_libtorrent(), "-c", "import libtorrent as l; print(l.__version__)")
    except Skip:
        pass
    try:
        said["sendme"] = output_of(find_sendme(), "--version")
    except Skip:
        pass
    numbers = {name: re.search(r"\d+(\.\d+)+", text) for name, text in said.items()}
    known = {name: found.group(0) for name, found in numbers.items() if found}
    return known
