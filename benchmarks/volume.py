"""Writing volumes: whole shards assembled by us, against zarr-python's assignment and against nothing but compressing the same chunks.

Run: python benchmarks/volume.py [--repeats 3]. Prints a table and writes benchmarks/results/volume.json. One thread, but for zarr-python,
which has its own pool. Read the ratios: "bare" is blosc-zstd of exactly the chunks that hold something, in memory, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tensorstore
import zarr
from numcodecs import blosc
from numpy.typing import NDArray

from brightfield.core.space import Grid
from brightfield.volumes.shards import Index
from brightfield.volumes.volume import Volume, create_volume

RESULT = Path(__file__).parent / "results" / "volume.json"
CHUNK, SHARD = (32, 128, 128), (64, 1024, 1024)
GRID = Grid((64, 2048, 2048), (0.28, 0.1144, 0.1144))

type Chunks = dict[Index, dict[Index, NDArray[np.uint8]]]  # shard -> inner chunk -> voxels
type Figures = dict[str, float]


def label_chunks() -> Chunks:
    """Tubes through every eighth chunk: what a neurite leaves."""
    z, y, x = np.indices(CHUNK)
    found: Chunks = {}
    for number, (shard, inner) in enumerate(_places()):
        if number % 8 == 0:
            distance = np.hypot(y - 20 - z * (number % 3), x - 64 + z * (number % 5))
            found.setdefault(shard, {})[inner] = np.select([distance < 3, distance < 6], [2, 255], 0).astype(np.uint8)
    return found


def image_chunks() -> Chunks:
    """Background of a brightfield stack in every chunk: grey 189, noise of 2.2 with a neighbourhood of one pixel."""
    noise = np.random.default_rng(0)
    found: Chunks = {}
    for shard, inner in _places():
        white = noise.normal(size=(CHUNK[0], CHUNK[1] + 1, CHUNK[2] + 1)).astype(np.float32)
        smooth = (white[:, 1:, 1:] + white[:, :-1, 1:] + white[:, 1:, :-1] + white[:, :-1, :-1]) / 2
        found.setdefault(shard, {})[inner] = np.rint(189 + 2.2 * smooth).astype(np.uint8)
    return found


def bare(chunks: Chunks, _: Volume) -> None:
    """The limit: compress, keep nothing."""
    blosc.use_threads = False
    for inner in chunks.values():
        for chunk in inner.values():
            blosc.compress(chunk, b"zstd", 1, blosc.NOSHUFFLE, chunk.nbytes)


def whole_shards(chunks: Chunks, volume: Volume) -> None:
    """Ours."""
    for shard, inner in chunks.items():
        volume.write_shard(0, shard, inner)


def zarr_shards(chunks: Chunks, volume: Volume) -> None:
    """zarr-python, one assignment per shard, from an array of the shard that the caller has to hold."""
    array = zarr.open_array(volume.shard_path(0, (0, 0, 0)).parents[3], mode="r+")
    for shard, inner in chunks.items():
        dense = np.zeros(SHARD, np.uint8)
        for index, chunk in inner.items():
            dense[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, CHUNK, strict=True))] = chunk
        array[tuple(slice(*side) for side in volume.spec(0).shard_window(shard))] = dense


def zarr_chunks(chunks: Chunks, volume: Volume) -> None:
    """zarr-python, one assignment per chunk: every one reads and writes its whole shard."""
    array = zarr.open_array(volume.shard_path(0, (0, 0, 0)).parents[3], mode="r+")
    for shard, inner in chunks.items():
        for index, chunk in inner.items():
            array[tuple(slice(*side) for side in volume.spec(0).chunk_window(shard, index))] = chunk


def measure(chunks: Chunks, repeats: int) -> Figures:
    """Seconds of every way to write, the least of `repeats` runs, and of two readers."""
    ways: Mapping[str, Callable[[Chunks, Volume], None]] = {
        "bare": bare,
        "whole_shards": whole_shards,
        "zarr_shards": zarr_shards,
        "zarr_chunks": zarr_chunks,
    }
    figures: Figures = {
        "chunks": sum(map(len, chunks.values())),
        "voxels_bytes": sum(c.nbytes for s in chunks.values() for c in s.values()),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, write in ways.items():
            seconds = []
            for attempt in range(1 if name == "zarr_chunks" else repeats):
                volume = create_volume(Path(folder) / f"{name}{attempt}", [GRID], "uint8", chunk_zyx=CHUNK, shard_zyx=SHARD)
                seconds.append(_timed(lambda write=write, volume=volume: write(chunks, volume)))
            figures[f"{name}_s"] = min(seconds)
        ours = Path(folder) / "whole_shards0" / "0"
        figures["stored_bytes"] = sum(file.stat().st_size for file in ours.rglob("*") if file.is_file())
        figures |= _readers(ours, repeats)
    return figures


def _readers(path: Path, repeats: int) -> Figures:
    box = np.s_[0:64, 0:1024, 0:1024]
    array = zarr.open_array(path, mode="r")
    other = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}, read=True).result()
    return {
        "read_shard_zarr_s": min(_timed(lambda: array[box]) for _ in range(repeats)),
        "read_shard_tensorstore_s": min(_timed(lambda: other[box].read().result()) for _ in range(repeats)),
        "read_patch_zarr_s": min(_timed(lambda: array[16:48, 100:356, 100:356]) for _ in range(3 * repeats)),
    }


def codecs(chunks: Chunks) -> dict[str, Figures]:
    """Seconds and bytes of a shard's chunks by level, shuffle and block size: why the codec is what it is."""
    blosc.use_threads = False
    some = list(next(iter(chunks.values())).values())[:32]
    found = {}
    for level in (1, 3, 5):
        for name, shuffle in (("noshuffle", blosc.NOSHUFFLE), ("bitshuffle", blosc.BITSHUFFLE)):
            for block, size in (("whole", some[0].nbytes), ("auto", 0)):
                compressed = [blosc.compress(chunk, b"zstd", level, shuffle, size) for chunk in some]
                seconds = _timed(lambda a=(level, shuffle, size): [blosc.compress(chunk, b"zstd", *a) for chunk in some])
                found[f"zstd-{level} {name} {block}"] = {"s": seconds, "share": sum(map(len, compressed)) / sum(c.nbytes for c in some)}
    return found


def _places() -> list[tuple[Index, Index]]:
    shards = np.ndindex(*(n // s for n, s in zip(GRID.shape_zyx, SHARD, strict=True)))
    inner = list(np.ndindex(*(s // c for s, c in zip(SHARD, CHUNK, strict=True))))
    return [(shard, index) for shard in shards for index in inner]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    results: dict[str, object] = {
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "versions": {name: version(name) for name in ("zarr", "numcodecs", "tensorstore", "numpy")},
    }
    for name, chunks in (("label", label_chunks()), ("image", image_chunks())):
        figures = measure(chunks, repeats)
        ratios = {way: figures[f"{way}_s"] / figures["bare_s"] for way in ("whole_shards", "zarr_shards", "zarr_chunks")}
        results[name] = {**figures, "ratio_to_bare": ratios, "codecs": codecs(chunks)}
        print(f"{name}: {figures['chunks']} chunks, {figures['voxels_bytes'] / 1e6:.0f} MB -> {figures['stored_bytes'] / 1e6:.2f} MB")
        for way in ("bare", "whole_shards", "zarr_shards", "zarr_chunks"):
            print(f"  {way:13} {figures[f'{way}_s']:8.3f} s  {figures[f'{way}_s'] / figures['bare_s']:6.2f} x bare")
        for reader in ("read_shard_zarr_s", "read_shard_tensorstore_s", "read_patch_zarr_s"):
            print(f"  {reader:25} {1e3 * figures[reader]:8.1f} ms")
        for codec, row in codecs(chunks).items():
            print(f"  {codec:25} {1e3 * row['s']:8.1f} ms  {row['share']:.4f} of the bytes")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
