"""The bytes of a Zarr v3 shard: inner chunks compressed one by one, then the index, assembled here and stored once.

The layout is the `sharding_indexed` codec of Zarr v3, the index at the end; every chunk and the index have their crc32c.
zarr-python can write it too, but piece by piece; spans and tiles come shard by shard, so nothing has to be read back and written again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import DTypeLike, NDArray

from brightfield.core.errors import GridError, StackError
from brightfield.core.space import Shape, Window

type Index = tuple[int, int, int]
type Chunk = NDArray[Any] | int | float | bytes

COMPRESSION_LEVEL = 1
"""zstd-1: level 3 takes 3 times as long for the same noisy pixels and 0.8 of the few bytes of a label chunk (benchmarks/volume.py)."""

_MISSING = 2**64 - 1
_CHECKSUM_BYTES = 4
_CONSTANT_BYTES, _CONSTANT_RATIO = 256, 1024
"""A chunk of one value compresses to less than 256 bytes and a thousandth: with more there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of a volume: its shape, inner chunks, shards, dtype and the value of what is not stored.

    All shapes are (z, y, x) voxels. Shards are whole multiples of chunks; the last ones may hang over the array's end.
    Raises GridError for shapes that cannot be stored.
    """

    shape_zyx: Shape
    chunk_zyx: Shape
    shard_zyx: Shape
    dtype: np.dtype[Any]
    fill_value: int | float = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        if min(*self.shape_zyx, *self.chunk_zyx, *self.shard_zyx) < 1:
            raise GridError(f"arrays, chunks and shards need at least one voxel per axis, found {self}")
        if any(shard % chunk for shard, chunk in zip(self.shard_zyx, self.chunk_zyx, strict=True)):
            raise GridError(f"a shard is a whole number of chunks per axis, found shard_zyx={self.shard_zyx}, chunk_zyx={self.chunk_zyx}")

    @classmethod
    def fitted(cls, shape_zyx: Shape, chunk_zyx: Shape, shard_zyx: Shape, dtype: DTypeLike, fill_value: float = 0) -> ArraySpec:
        """The spec with chunks and shards no larger than a small array needs."""
        chunk = tuple(min(c, n) for c, n in zip(chunk_zyx, shape_zyx, strict=True))
        whole = tuple(-(-n // c) * c for n, c in zip(shape_zyx, chunk, strict=True))
        wanted = tuple(s if c == given else -(-s // c) * c for s, c, given in zip(shard_zyx, chunk, chunk_zyx, strict=True))
        shard = tuple(min(s, w) for s, w in zip(wanted, whole, strict=True))
        return cls(shape_zyx, _index(chunk), _index(shard), np.dtype(dtype), fill_value)

    @classmethod
    def from_json(cls, text: str) -> ArraySpec:
        """The spec whose `metadata_json` is `text`. Raises ValueError, KeyError, IndexError or TypeError where there is none."""
        document = json.loads(text)
        shard = document["chunk_grid"]["configuration"]["chunk_shape"]
        chunk = document["codecs"][0]["configuration"]["chunk_shape"]
        spec = cls(_index(document["shape"]), _index(chunk), _index(shard), np.dtype(document["data_type"]), document["fill_value"])
        if spec.metadata_json() != text:
            raise ValueError("the array is stored in another way, or its metadata are spelt in another")
        return spec

    @property
    def n_shards_zyx(self) -> Shape:
        """Shards per axis of the array."""
        return _index(-(-n // s) for n, s in zip(self.shape_zyx, self.shard_zyx, strict=True))

    @property
    def n_chunks_zyx(self) -> Shape:
        """Chunks per axis of the array."""
        return _index(-(-n // c) for n, c in zip(self.shape_zyx, self.chunk_zyx, strict=True))

    @property
    def chunks_per_shard_zyx(self) -> Shape:
        """Inner chunks per axis of one shard."""
        return _index(s // c for s, c in zip(self.shard_zyx, self.chunk_zyx, strict=True))

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the end of a shard, checksum included."""
        return 16 * prod(self.chunks_per_shard_zyx) + _CHECKSUM_BYTES

    def shard_window(self, shard_index_zyx: Index) -> Window:
        """The voxels of a shard, cut at the array's end."""
        return self._window(shard_index_zyx, self.shard_zyx)

    def chunk_window(self, shard_index_zyx: Index, inner_index_zyx: Index) -> Window:
        """The voxels of one inner chunk of a shard, cut at the array's end (empty where it lies beyond)."""
        counts = self.chunks_per_shard_zyx
        chunk = _index(s * n + i for s, n, i in zip(shard_index_zyx, counts, inner_index_zyx, strict=True))
        return self._window(chunk, self.chunk_zyx)

    def inner_indices(self, shard_index_zyx: Index) -> Iterator[Index]:
        """The inner chunks of a shard that hold voxels of the array, in C order."""
        ranges = ((hi - lo + c - 1) // c for (lo, hi), c in zip(self.shard_window(shard_index_zyx), self.chunk_zyx, strict=True))
        for inner in product(*map(range, ranges)):
            yield _index(inner)

    def empty_chunk(self) -> NDArray[Any]:
        """A new chunk of the fill value."""
        return np.full(self.chunk_zyx, self.fill_value, self.dtype)

    def codecs(self) -> list[dict[str, Any]]:
        """The codecs of one inner chunk, as Zarr v3 metadata spells them."""
        itemsize = self.dtype.itemsize
        blosc_codec = {
            "cname": "zstd",
            "clevel": COMPRESSION_LEVEL,
            "shuffle": "noshuffle" if itemsize == 1 else "shuffle",
            "typesize": itemsize,
            "blocksize": self._chunk_bytes,
        }
        return [_bytes_codec(self.dtype), {"name": "blosc", "configuration": blosc_codec}, {"name": "crc32c"}]

    def metadata_json(self) -> str:
        """The `zarr.json` of the array."""
        sharding = {
            "chunk_shape": list(self.chunk_zyx),
            "codecs": self.codecs(),
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        return to_json(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": list(self.shape_zyx),
                "data_type": self.dtype.name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.shard_zyx)}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
                "fill_value": self.fill_value,
                "dimension_names": ["z", "y", "x"],
                "attributes": {},
            }
        )

    @property
    def _chunk_bytes(self) -> int:
        return prod(self.chunk_zyx) * self.dtype.itemsize

    def _window(self, index_zyx: Index, size_zyx: Shape) -> Window:
        z, y, x = ((min(i * s, n), min((i + 1) * s, n)) for i, s, n in zip(index_zyx, size_zyx, self.shape_zyx, strict=True))
        return (z, y, x)


def shard_parts(spec: ArraySpec, chunks: Mapping[Index, Chunk], *, threads: int = 1) -> list[bytes]:
    """The bytes of a shard that holds `chunks`, in pieces to be written one after another; none when no chunk differs from the fill value.

    chunks: inner chunk index (z, y, x) within the shard -> the whole chunk, shape `spec.chunk_zyx`, dtype `spec.dtype`, what hangs over
    the array's end padded with the fill value; or a plain number for a chunk that holds nothing else; or what `encode_chunk` made of it. A
    mapping may make its chunks as they are asked for: each is asked for once, in C order when `threads` is 1, and not kept. The same chunks
    give the same bytes in whatever order they come and with any number of threads: each is compressed alone, and laid down in C order.

    Raises ValueError for an index outside the shard, or a chunk of another shape or dtype.
    """
    ordered = sorted(chunks)
    counts = spec.chunks_per_shard_zyx
    for inner in ordered:
        if not all(0 <= i < n for i, n in zip(inner, counts, strict=True)):
            raise ValueError(f"inner chunk {inner} is not in a shard of {counts} chunks")
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            encoded = list(pool.map(lambda inner: encode_chunk(spec, inner, chunks[inner]), ordered))
    else:
        encoded = [encode_chunk(spec, inner, chunks[inner]) for inner in ordered]
    index = np.full((*counts, 2), _MISSING, "<u8")
    parts: list[bytes] = []
    offset = 0
    for inner, data in zip(ordered, encoded, strict=True):
        if data:
            index[inner] = offset, len(data)
            offset += len(data)
            parts.append(data)
    raw = index.tobytes()
    return [*parts, raw, _checksum(raw)] if parts else []


class ShardFile:
    """A shard that grows beside `path`, chunk by chunk, and is put there as a whole by `finish`; its bytes are those of `shard_parts`.

    expected: the inner chunks that will come, each once, from any thread and in any order: they are written in C order, so a chunk waits
    in memory for those that precede it, and for no others.
    """

    def __init__(self, spec: ArraySpec, path: Path, expected: Iterable[Index]) -> None:
        self._path, self._partial = path, partial_file(path)
        self._partial.unlink(missing_ok=True)
        self._expected = sorted(expected, reverse=True)
        self._waiting: dict[Index, bytes] = {}
        self._index = np.full((*spec.chunks_per_shard_zyx, 2), _MISSING, "<u8")
        self._lock = threading.Lock()
        self._torn = False
        self.n_bytes, self.crc32c = 0, 0

    def add(self, inner: Index, data: bytes) -> None:
        """Take what `encode_chunk` made of a chunk."""
        with self._lock:
            self._waiting[inner] = data
            ready: list[bytes] = []
            offset = self.n_bytes
            while self._expected and self._expected[-1] in self._waiting:
                first = self._expected.pop()
                if chunk := self._waiting.pop(first):
                    self._index[first] = offset, len(chunk)
                    offset += len(chunk)
                    ready.append(chunk)
            self._append(ready)

    def finish(self) -> bool:
        """Force the shard to the disk and put it in place; False where no chunk holds anything, so that there is nothing to put."""
        if self._torn:
            raise ValueError(f"{self._path}: a chunk could not be written")
        if self._expected or self._waiting:
            raise ValueError(f"{self._path}: chunks {sorted(self._expected)} did not come, {sorted(self._waiting)} were not expected")
        if not self.n_bytes:
            return False
        raw = self._index.tobytes()
        self._append([raw, _checksum(raw)])
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self._partial, self._path)
        return True

    def _append(self, blocks: list[bytes]) -> None:
        torn, self._torn = self._torn, True  # until all is written: a disk may be full
        if blocks:
            with self._partial.open("ab") as file:  # not kept open: a row of shards may be more files than a process may have
                for block in blocks:
                    file.write(block)
        for block in blocks:
            self.n_bytes += len(block)
            self.crc32c = google_crc32c.extend(self.crc32c, block)
        self._torn = torn


def partial_file(path: Path) -> Path:
    """Where a file is written before it is moved to `path`; its directory is there on return.

    One writer per file, so the name needs no process number, and a killed run's leftover is overwritten by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.part")


def decode_index(spec: ArraySpec, tail: bytes, name: str) -> NDArray[np.uint64]:
    """Offset and length of every inner chunk, (nz, ny, nx, 2), from the last `spec.index_bytes` bytes of a shard.

    Chunks that are not stored have both at 2**64 - 1. Raises StackError when the checksum says that the shard is damaged.
    """
    raw, checksum = tail[:-_CHECKSUM_BYTES], tail[-_CHECKSUM_BYTES:]
    if len(tail) != spec.index_bytes or _checksum(raw) != checksum:
        raise StackError("the shard is damaged (its index fails the checksum); delete it and fetch it again with `dvc pull`", path=name)
    return np.frombuffer(raw, "<u8").reshape(*spec.chunks_per_shard_zyx, 2)


def read_window(spec: ArraySpec, shard_path: Callable[[Index], Path], window: Window) -> NDArray[Any]:
    """The voxels of a half-open box within the array, read straight from its shard files: only the inner chunks that the box meets.

    shard_path: the file of a shard; one that does not exist holds fill values. Raises StackError for a chunk that fails its checksum.
    """
    out = np.full([high - low for low, high in window], spec.fill_value, spec.dtype)
    for shard in _met(window, spec.shard_zyx):
        path = shard_path(shard)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue
        with file:
            index = decode_index(spec, read_tail(file, spec.index_bytes), str(path))
            for chunk in _met(_overlap(window, shard, spec.shard_zyx), spec.chunk_zyx):
                inner = _index(np.subtract(chunk, np.multiply(shard, spec.chunks_per_shard_zyx)))
                offset, n_bytes = (int(value) for value in index[inner])
                if offset != _MISSING:
                    file.seek(offset)
                    _lay(_decode_chunk(spec, file.read(n_bytes), path), chunk, window, out)
    return out


def read_tail(file: BinaryIO, n_bytes: int) -> bytes:
    """The last bytes of a file; all of it where it is shorter."""
    file.seek(-min(n_bytes, file.seek(0, os.SEEK_END)), os.SEEK_END)
    return file.read()


def _met(window: Window, size_zyx: Shape) -> Iterator[Index]:
    """The blocks of a regular division that a box meets; none for an empty box."""
    ranges = (range(low // size, -(-high // size)) if low < high else () for (low, high), size in zip(window, size_zyx, strict=True))
    yield from product(*ranges)


def _overlap(window: Window, index_zyx: Index, size_zyx: Shape) -> Window:
    """What a box and a block share."""
    z, y, x = ((max(low, i * n), min(high, (i + 1) * n)) for (low, high), i, n in zip(window, index_zyx, size_zyx, strict=True))
    return (z, y, x)


def _lay(voxels: NDArray[Any], chunk_zyx: Index, window: Window, out: NDArray[Any]) -> None:
    """Put a decoded chunk where it belongs in the voxels of a box."""
    shared = _overlap(window, chunk_zyx, _shape_of(voxels))
    there = tuple(slice(low - first, high - first) for (low, high), (first, _) in zip(shared, window, strict=True))
    here = tuple(slice(low - i * n, high - i * n) for (low, high), i, n in zip(shared, chunk_zyx, voxels.shape, strict=True))
    out[there] = voxels[here]


def _shape_of(voxels: NDArray[Any]) -> Shape:
    z, y, x = voxels.shape
    return (z, y, x)


def _decode_chunk(spec: ArraySpec, raw: bytes, path: Path) -> NDArray[Any]:
    data, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if _checksum(data) != checksum:
        raise StackError("the shard is damaged (a chunk fails its checksum); delete it and fetch it again with `dvc pull`", path=path)
    blosc.use_threads = False
    return np.frombuffer(blosc.decompress(data), spec.dtype).reshape(spec.chunk_zyx)


def stored_in(index: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The inner chunks (n, 3) that an index of `decode_index` says are stored, in C order."""
    return np.argwhere(index[..., 0] != _MISSING)


def to_json(document: Mapping[str, Any]) -> str:
    """The one way metadata is spelt: sorted keys, so that equal metadata are equal bytes."""
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"


def encode_chunk(spec: ArraySpec, inner: Index, chunk: Chunk) -> bytes:
    """The bytes of one chunk of `shard_parts`, for callers that have no use for its voxels until the shard is complete."""
    if isinstance(chunk, bytes):
        return chunk
    if not isinstance(chunk, np.ndarray):
        value = np.asarray(chunk, spec.dtype).tobytes()
    elif chunk.shape != spec.chunk_zyx or chunk.dtype != spec.dtype:
        raise ValueError(f"inner chunk {inner} is {chunk.dtype} {chunk.shape}, needed {spec.dtype} {spec.chunk_zyx}")
    else:
        chunk = np.ascontiguousarray(chunk)
        value, data = chunk.reshape(-1)[:1].tobytes(), _compress(spec, chunk)
        # The same voxels give the same bytes, so these tell a chunk of one value; a large answer cannot be one.
        if len(data) > _CONSTANT_BYTES + chunk.nbytes // _CONSTANT_RATIO or data != _compressed_constant(spec, value):
            return data
    return b"" if value == np.asarray(spec.fill_value, spec.dtype).tobytes() else _compressed_constant(spec, value)


@lru_cache(maxsize=256)
def _compressed_constant(spec: ArraySpec, value: bytes) -> bytes:
    return _compress(spec, np.full(spec.chunk_zyx, np.frombuffer(value, spec.dtype)[0]))


def _compress(spec: ArraySpec, chunk: NDArray[Any]) -> bytes:
    # With blosc's own threads the order of its blocks is a matter of chance. False selects the call without global state: one thread,
    # no lock, the GIL released. It is set at every call because the switch is global and others have it too.
    blosc.use_threads = False
    shuffle = blosc.NOSHUFFLE if spec.dtype.itemsize == 1 else blosc.SHUFFLE
    data: bytes = blosc.compress(chunk, b"zstd", COMPRESSION_LEVEL, shuffle, chunk.nbytes)
    return data + _checksum(data)  # zstd frames in blosc have none, and a range read from a remote passes no other check


def _checksum(raw: bytes) -> bytes:
    return int(google_crc32c.value(raw)).to_bytes(_CHECKSUM_BYTES, "little")


def _bytes_codec(dtype: np.dtype[Any]) -> dict[str, Any]:
    return {"name": "bytes"} if dtype.itemsize == 1 else {"name": "bytes", "configuration": {"endian": "little"}}


def _index(values: Any) -> Index:
    z, y, x = (int(v) for v in values)
    return (z, y, x)
