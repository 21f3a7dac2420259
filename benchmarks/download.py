"""Downloading a cell from a server on loopback, against the limit of the same machine in the same run.

Run: python benchmarks/download.py [--repeats 3]. Prints a table and writes benchmarks/results/download.json. The server is another process
and hands out JPEG tiles of real size (noise that compresses to about 0.1 bytes per pixel) from memory. Four ways to the same bytes, with
the same threads, each in a process of its own that has done a third of the work before it is timed:

- bare, the limit: sockets, each answer decoded by the decoder that we use too, which may paint over damage, and compressed with blosc-zstd
  in blocks of a chunk; nothing is hashed or written;
- bare and sure: the same loop keeps the download's promises: the decoder is strict, every tile hashed (sha256), and what was compressed is
  written and forced to the disk. What it loses to the limit is the price of the promises;
- ours, without and with the pyramid, which the others have no counterpart of.

Read the ratios, of processor time where the machine is busy with other things. Memory is the peak of a process that downloads half of the
planes, and of one that downloads all.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import simplejpeg
from numcodecs import blosc
from numpy.typing import NDArray
from PIL import Image

from brightfield.config.options import ComputeConfig, CoverageKind, ImageConfig, tile_of
from brightfield.core.cell import Cell, Plane, Stack
from brightfield.sources.allen.records import PICTURE_PATH
from brightfield.sources.allen.service import AllenSource
from brightfield.sources.http.client import HttpClient
from brightfield.stages.download import transfer
from brightfield.stages.download.plan import CellPlan, plan_cell
from brightfield.volumes.pyramid import build_pyramid
from brightfield.volumes.shards import COMPRESSION_LEVEL

RESULT = Path(__file__).parent / "results" / "download.json"
type Figures = dict[str, float]

CHUNK = (32, 128, 128)
SIDE_PX, PLANES, QUALITY, CONNECTIONS, VARIANTS = 2048, 384, 85, 8, 32
TILE_PX = tile_of(ImageConfig(coverage=CoverageKind.full))


def a_cell(n_planes: int) -> Cell:
    """A square stack."""
    planes = tuple(Plane(k, k, k) for k in range(n_planes))
    return Cell(1, "benchmark", 1, "Mus musculus", stack=Stack(1, SIDE_PX, SIDE_PX, 0.1144, 0.28, planes))


def a_plan(cell: Cell) -> CellPlan:
    """Every tile, at the default sizes."""
    return plan_cell(cell, None, ImageConfig(coverage=CoverageKind.full))


# -------------------------------------------------------------------------------------------------------------------- the server


def pictures() -> dict[tuple[int, int, int], bytes]:
    """JPEGs by width, height and variant: grey 189 and noise with a neighbourhood of two pixels; no two planes of a chunk are alike."""
    found = {}
    for width, height in {request_size(path) for path in paths(a_plan(a_cell(1)))}:
        for variant in range(VARIANTS):
            white = np.random.default_rng([width, height, variant]).normal(size=(height + 1, width + 1))
            smooth = white[1:, 1:] + white[:-1, 1:] + white[1:, :-1] + white[:-1, :-1]
            buffer = io.BytesIO()
            Image.fromarray(np.rint(189 + 1.1 * smooth).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
            found[width, height, variant] = buffer.getvalue()
    return found


def request_size(path: str) -> tuple[int, int]:
    """Width and height that a path asks for."""
    query = parse_qs(urlsplit(path).query)
    return int(query["width"][0]), int(query["height"][0])


def serve(pipe: Connection) -> None:
    """Answer until the process is ended; sends its port first."""
    answers = {
        size: b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        for size, body in pictures().items()
    }
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        pipe.send((listener.getsockname()[1], {size: len(answer) for size, answer in answers.items()}))
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection, answers), daemon=True).start()


def _answer(connection: socket.socket, answers: dict[tuple[int, int, int], bytes]) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        waiting = b""
        while block := connection.recv(65536):
            waiting += block
            while b"\r\n\r\n" in waiting:
                request, _, waiting = waiting.partition(b"\r\n\r\n")
                path = request.split(b" ", 2)[1].decode()
                variant = int(urlsplit(path).path.rpartition("/")[2]) % VARIANTS
                connection.sendall(answers[*request_size(path), variant])


# ----------------------------------------------------------------------------------------------------------------- the two ways


def paths(plan: CellPlan) -> list[str]:
    """What the plan's requests ask the service for."""
    found = []
    for unit in plan.units:
        for request in unit.requests:
            y0, y1, x0, x1 = request.box
            sizes = {"left": x0, "top": y0, "width": x1 - x0, "height": y1 - y0}
            found.append(PICTURE_PATH.format(image_id=request.z, level=0, quality=QUALITY, **sizes))
    return found


def bare(port: int, n_planes: int, *, sure: bool = False) -> Figures:
    """Sockets, decoding and compressing alone; `sure`: and checking, hashing and writing."""
    wanted = paths(a_plan(a_cell(n_planes)))
    blosc.use_threads = False
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(lane)) if sure else None for lane in range(CONNECTIONS)]
        clock = Clock()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda lane: _lane(port, wanted[lane::CONNECTIONS], files[lane]), range(CONNECTIONS)))
        return clock.figures()


def bare_and_sure(port: int, n_planes: int) -> Figures:
    """`bare` with the promises kept."""
    return bare(port, n_planes, sure=True)


def _lane(port: int, wanted: list[str], kept: Path | None) -> None:
    with (
        socket.create_connection(("127.0.0.1", port)) as connection,
        connection.makefile("rb") as stream,
        open(kept or os.devnull, "wb") as file,
    ):
        for path in wanted:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            length = 0
            while (line := stream.readline()) != b"\r\n":
                if line.startswith(b"Content-Length"):
                    length = int(line.split(b":")[1])
            body = stream.read(length)
            pixels = simplejpeg.decode_jpeg(body, "GRAY", strict=kept is not None)[:, :, 0]
            if kept:
                _hash(pixels)
            for data in _compressed(pixels.reshape(-1)):
                if kept:
                    file.write(data)
        if kept:
            file.flush()
            os.fsync(file.fileno())


def _compressed(pixels: NDArray[np.uint8]) -> Iterator[bytes]:
    block = int(np.prod(CHUNK))
    for first in range(0, len(pixels), block):
        yield blosc.compress(pixels[first : first + block], b"zstd", COMPRESSION_LEVEL, blosc.NOSHUFFLE, block)


def _hash(pixels: NDArray[np.uint8]) -> None:
    for top, left in product(range(0, pixels.shape[0], TILE_PX), range(0, pixels.shape[1], TILE_PX)):
        hashlib.sha256(np.ascontiguousarray(pixels[top : top + TILE_PX, left : left + TILE_PX])).hexdigest()


def ours(port: int, n_planes: int, *, pyramid: bool = False) -> Figures:
    """The whole download of a cell, without its coarser levels unless `pyramid`."""
    transfer.build_pyramid = build_pyramid if pyramid else _no_pyramid
    cell = a_cell(n_planes)
    with tempfile.TemporaryDirectory() as folder, HttpClient(ComputeConfig(connections=CONNECTIONS)) as client:
        source = AllenSource(client, f"http://127.0.0.1:{port}", quality=QUALITY)
        clock = Clock()
        transfer.download_cell(cell, a_plan(cell), source, Path(folder), chunk_zyx=CHUNK, connections=CONNECTIONS)
        return clock.figures()


def ours_with_pyramid(port: int, n_planes: int) -> Figures:
    """The whole download of a cell."""
    return ours(port, n_planes, pyramid=True)


def _no_pyramid(*_: Any, **__: Any) -> None:
    """Stands in for the building of one."""


class Clock:
    """Seconds of the wall and of the processors since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def figures(self) -> Figures:
        """What passed."""
        return {"wall_s": time.perf_counter() - self._start[0], "cpu_s": time.process_time() - self._start[1]}


WAYS = {"bare": bare, "bare and sure": bare_and_sure, "ours": ours, "ours with pyramid": ours_with_pyramid}


def _in_process(pipe: Connection, way: str, port: int, n_planes: int) -> None:
    run = WAYS[way]
    run(port, PLANES // 3)  # imports, compiled kernels, and memory that the machine hands out for the first time
    figures = run(port, n_planes)
    pipe.send((figures, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measured(way: str, port: int, n_planes: int) -> tuple[Figures, int]:
    """Times and peak memory of a fresh process."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_in_process, args=(theirs, way, port, n_planes))
    process.start()
    result: tuple[Figures, int] = mine.recv()
    process.join()
    return result


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    port, sizes = mine.recv()
    runs: dict[str, list[Figures]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, row in runs.items():
            row.append(measured(way, port, PLANES)[0])
    memory = {str(n): measured("ours with pyramid", port, n)[1] for n in (PLANES // 2, PLANES)}
    server.terminate()
    pixels = PLANES * SIDE_PX**2
    best = {way: {key: min(figures[key] for figures in row) for key in row[0]} for way, row in runs.items()}
    ratios = {way: {key: best[way][key] / best["ours"][key] for key in ("wall_s", "cpu_s")} for way in ("bare", "bare and sure")}
    wire = sum(sizes.values()) / sum(width * height for width, height, _ in sizes)
    for way, figures in best.items():
        rate = pixels / figures["wall_s"] / 1e6
        print(f"{way}: {rate:.0f} MB/s of pixels, {', '.join(f'{key} {value:.2f}' for key, value in figures.items())}")
    for way, ratio in ratios.items():
        print(f"ours is {ratio['wall_s']:.2f} of {way} by the clock, {ratio['cpu_s']:.2f} by processor time")
    print(f"{wire:.3f} B/px on the wire")
    print(f"peak memory: {', '.join(f'{n} planes {peak / 1e6:.0f} MB' for n, peak in memory.items())}")
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    result = {"machine": machine, "runs": runs, "ratios": ratios, "wire_bytes_per_px": wire, "pixels": pixels, "peak_bytes": memory}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
