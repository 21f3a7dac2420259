"""How DVC fares with a distant team remote: push, pull, status, gc and checkout of 509 cells x 2 volumes over SSH and S3, 30 ms away.

Run: python benchmarks/remote.py [--cells 509] [--one-way-ms 15] [--remotes ssh s3] [--json FILE]. The servers are those of the tests
(OpenSSH, and `rclone serve s3`) on loopback, behind a proxy that holds every byte back for 15 ms, each way; it counts what passes. Volumes
are of five files of a few hundred bytes to a few kB: it is the number of objects that is measured. Of each operation: seconds by the clock
and processor seconds of the client, objects that came or went, bytes on the wire.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from brightfield.core.layout import IMAGES_DIR, LABELS_DIR

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "tests")]

from repository import make_cell  # noqa: E402

from repositories import data_repository, write_dataset  # noqa: E402
from servers import Server, s3_server, ssh_server  # noqa: E402

SERVERS: dict[str, Callable[[Path], tuple[Server, subprocess.Popen[bytes]]]] = {"ssh": ssh_server, "s3": s3_server}
SHARD_KB = 4
SIDES = ("train", "train", "train", "val", "test")
"""The side of every fifth cell, in turn."""

type Row = dict[str, Any]

# ---------------------------------------------------------------------------------------------------------------------- distance


@dataclass
class Distance:
    """Listens on `port` and passes all on to a port of this machine, both ways, each byte `one_way_s` late; counts bytes and HTTP GETs."""

    upstream: int
    one_way_s: float
    port: int = 0
    sent: int = 0
    received: int = 0
    gets: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __enter__(self) -> Distance:
        listening = threading.Event()

        async def listen() -> None:
            server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            listening.set()

        def run() -> None:
            self._loop.create_task(listen())
            self._loop.run_forever()

        threading.Thread(target=run, daemon=True).start()
        listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        await asyncio.gather(self._carry(reader, far_writer, "sent"), self._carry(far_reader, writer, "received"))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                setattr(self, name, getattr(self, name) + len(data))
                self.gets += name == "sent" and data.startswith(b"GET ")
                self._loop.call_later(self.one_way_s, writer.write, data)
        self._loop.call_later(self.one_way_s, writer.close)


def behind(server: Server, distance: Distance) -> Server:
    """The same server as it is reached through the proxy."""
    port = urlsplit(server.public.get("endpointurl", server.url)).port

    def moved(text: str) -> str:
        return text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{distance.port}")

    return replace(server, url=moved(server.url), public={key: moved(value) for key, value in server.public.items()})


# -------------------------------------------------------------------------------------------------------------------- operations


@dataclass
class Clock:
    """Runs commands, and keeps a row of what each took."""

    remote: str
    distance: Distance
    rows: list[Row] = field(default_factory=list)

    def run(self, name: str, root: Path, *words: str) -> None:
        """A command that must succeed."""
        self.distance.sent = self.distance.received = 0
        before, objects, started = _client_s(), _objects(root), time.perf_counter()
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
        row: Row = {"remote": self.remote, "what": name, "wall_s": time.perf_counter() - started, "cpu_s": _client_s() - before}
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        row |= {"objects": abs(_objects(root) - objects), "sent_bytes": self.distance.sent, "received_bytes": self.distance.received}
        self.rows.append(row)
        print(
            f"{self.remote:4} {name:34} {row['wall_s']:7.1f} s, {row['cpu_s']:6.1f} s CPU, {row['objects']:6,} objects in the cache, "
            f"{row['sent_bytes'] / 1e6:6.1f} MB sent, {row['received_bytes'] / 1e6:6.1f} MB received",
            flush=True,
        )


def _client_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _objects(root: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(root / ".dvc" / "cache" / "files"))


def fill(root: Path, cells: int) -> None:
    """The dataset of so many cells, with volumes of five files."""
    write_dataset(root, {i: {"split": SIDES[i % len(SIDES)]} for i in range(1, cells + 1)})
    for volumes in (IMAGES_DIR, LABELS_DIR):
        shutil.rmtree(root / volumes)
    for i in range(1, cells + 1):
        make_cell(root, i, SHARD_KB)


def commit(root: Path) -> None:
    """What is in the working tree, as a version."""
    for words in (["dvc", "commit", "-q", "-f"], ["git", "add", "-A"], ["git", "commit", "-q", "-m", "data"]):
        subprocess.run(words, cwd=root, check=True, capture_output=True)


def operations(clock: Clock, server: Server, folder: Path, cells: int) -> None:
    """Everything that a team does with a remote, one after the other."""
    root, clone = data_repository(folder / "origin", {1: {}}), folder / "clone"
    server.join(root)
    fill(root, cells)
    commit(root)
    clock.run("status, data here", root, "dvc", "status")
    clock.run("status, nothing pushed", root, "dvc", "status", "-c")
    clock.run("push", root, "dvc", "push", "-q")
    clock.run("push, nothing to do", root, "dvc", "push", "-q")
    clock.run("status, all pushed", root, "dvc", "status", "-c")
    subprocess.run(["git", "clone", "-q", str(root), str(clone)], check=True)
    server.log_in(clone)
    clock.run("brightfield pull split=val", clone, "brightfield", "pull", "split=val")
    clock.run("the same again", clone, "brightfield", "pull", "split=val")
    clock.run("pull of the rest", clone, "dvc", "pull", "-q")
    shutil.rmtree(clone / "data")
    clock.run("checkout", clone, "dvc", "checkout", "-q")
    fill(root, cells - 1)
    commit(root)
    clock.run("push of a version less a cell", root, "dvc", "push", "-q")
    clock.run("gc of the remote", root, "dvc", "gc", "-q", "-f", "-w", "-c")


def alone(folder: Path) -> None:
    """Nothing of the user's git, SSH and DVC settings for the commands, as in the tests."""
    os.environ |= {"HOME": str(folder), "DVC_NO_ANALYTICS": "1", "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
        os.environ[name] = str(folder / name.lower())
    os.environ |= {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def main() -> None:
    """Serve, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=509)
    parser.add_argument("--one-way-ms", type=float, default=15.0)
    parser.add_argument("--remotes", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    rows: list[Row] = []
    for name in words.remotes:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "server").mkdir()
            alone(folder)
            server, process = SERVERS[name](folder / "server")
            try:
                with Distance(urlsplit(server.public.get("endpointurl", server.url)).port or 0, words.one_way_ms / 1000) as distance:
                    clock = Clock(name, distance, rows)
                    operations(clock, behind(server, distance), folder, words.cells)
            finally:
                process.terminate()
                process.wait()
    if words.json:
        found = {"cells": words.cells, "one_way_ms": words.one_way_ms, "cores": os.cpu_count(), "load": os.getloadavg()[0], "rows": rows}
        words.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
