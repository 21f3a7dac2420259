"""Reading many windows of finished volumes: indexes and files of shards stay open, chunks are decoded straight into one buffer.

`shards.read_window` opens a shard at each call, which is right for a volume that is still being written. A loader of training patches asks
thousands of times for a few chunks each: here a shard is opened once a process, and no chunk is allocated anew.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import count, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from brightfield.core.errors import StackError
from brightfield.core.space import Window
from brightfield.volumes.shards import ArraySpec, Index, decode_index

if TYPE_CHECKING:
    from brightfield.volumes.volume import Volume

OPEN_SHARDS = 256
"""Files that a process keeps open: a quarter of what systems allow by default. The indexes of a shard are 2 to 20 KB."""

MISSING = 2**64 - 1
"""Offset and length, in the index of a shard, of a chunk that is not stored."""

_CHECKSUM_BYTES = 4
_SMALL_BYTES = 256
"""A chunk of one value is smaller than this: most of a label volume, so these are decoded once."""


def reader_of(volume: Volume, level: int = 0) -> Callable[[Window], NDArray[Any]]:
    """What reads half-open boxes of a level of a finished volume, many times over; `Volume.read` where the level is not ours, or afar."""
    spec = volume.specs[level]
    if volume.path is None or (volume.path / str(level) / "zarr.json").read_text(encoding="utf-8") != spec.metadata_json():
        return partial(volume.read, level=level)
    return WindowReader(spec, partial(volume.shard_path, level)).read


class WindowReader:
    """Windows of one level of a volume that is finished and lies here.

    spec: of the level. shard_path: the file of a shard; one that does not exist holds fill values. Any number of threads may read, and a
    process that was forked may go on reading.
    """

    def __init__(self, spec: ArraySpec, shard_path: Callable[[Index], Path]) -> None:
        self.spec = spec
        self._shard_path = shard_path
        self._number = next(_NUMBERS)
        self._absent: set[Index] = set()

    def read(self, window: Window) -> NDArray[Any]:
        """The voxels of a half-open box within the level, C order, of the level's dtype: the caller's own to change.

        Raises StackError for a shard or chunk that fails its checksum.
        """
        return self.assembled(window, self._opened)

    def assembled(self, window: Window, opened: Callable[[Index], Shard | None]) -> NDArray[Any]:
        """The voxels of a box from the shards that `opened` gives, None for one that holds fill values."""
        spec = self.spec
        out = np.empty([high - low for low, high in window], spec.dtype)
        scratch = np.empty(spec.chunk_zyx, spec.dtype)
        axes = [cuts(low, high, c, s // c) for (low, high), c, s in zip(window, spec.chunk_zyx, spec.shard_zyx, strict=True)]
        met: dict[Index, Shard | None] = {}
        for (sz, iz, tz, hz), (sy, iy, ty, hy), (sx, ix, tx, hx) in product(*axes):
            shard = (sz, sy, sx)
            if shard not in met:
                met[shard] = opened(shard)
            chunk = self._chunk(met[shard], (iz, iy, ix), scratch)
            out[tz, ty, tx] = chunk[hz, hy, hx] if chunk is scratch else chunk
        return out

    def _chunk(self, shard: Shard | None, inner: Index, scratch: NDArray[Any]) -> Any:
        """One chunk: the value that fills it, or `scratch` with its voxels."""
        data = b"" if shard is None else shard.read(inner)
        if not data:
            return self.spec.fill_value
        if len(data) < _SMALL_BYTES and (value := _single_value(data, self.spec.dtype.str, scratch.size)) is not None:
            return value
        blosc.use_threads = False
        blosc.decompress(data, scratch)
        return scratch

    def _opened(self, shard: Index) -> _OpenShard | None:
        if shard in self._absent:
            return None
        try:
            return _OPEN.get((self._number, shard), partial(_OpenShard, self._shard_path(shard), self.spec))
        except FileNotFoundError:
            self._absent.add(shard)
            return None


class Shard:
    """Where chunks of a shard come from. name: of the shard, for errors."""

    name: str

    def raw(self, inner: Index) -> bytes:
        """The bytes of a chunk as they are stored, its checksum last; empty where it is not stored."""
        raise NotImplementedError

    def read(self, inner: Index) -> bytes:
        """The compressed bytes of a chunk, their checksum tested and taken off; empty where it is not stored."""
        raw = self.raw(inner)
        data, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
        if raw and google_crc32c.value(data) != int.from_bytes(checksum, "little"):
            what = "a chunk fails its checksum"
            raise StackError(f"the shard is damaged ({what}); delete it and fetch it again with `dvc pull`", path=self.name)
        return data


class _OpenShard(Shard):
    """An open shard and its index; closed when nobody holds it any more."""

    def __init__(self, path: Path, spec: ArraySpec) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.name = str(path)
        size = os.fstat(self._descriptor).st_size
        tail = os.pread(self._descriptor, spec.index_bytes, max(size - spec.index_bytes, 0))
        self._index = decode_index(spec, tail, str(path))

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def raw(self, inner: Index) -> bytes:
        """See `Shard`."""
        offset, n_bytes = self._index[inner].tolist()
        return b"" if offset == MISSING else os.pread(self._descriptor, n_bytes, offset)


class _OpenShards:
    """The shards that were read last, opened; those that fall off are closed once no reader is in them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._shards: OrderedDict[tuple[int, Index], _OpenShard] = OrderedDict()
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._unlock)

    def get(self, key: tuple[int, Index], opening: Callable[[], _OpenShard]) -> _OpenShard:
        """The shard of a reader, by the reader's number and the shard's index; opened where it is not."""
        with self._lock:
            if (found := self._shards.get(key)) is not None:
                self._shards.move_to_end(key)
                return found
        opened = opening()
        with self._lock:
            self._shards[key] = opened
            while len(self._shards) > self._limit:
                self._shards.popitem(last=False)
        return opened

    def _unlock(self) -> None:
        self._lock = threading.Lock()  # a thread of the parent may have held it


_OPEN = _OpenShards(OPEN_SHARDS)
_NUMBERS = count()


def cuts(low: int, high: int, chunk: int, per_shard: int) -> Iterator[tuple[int, int, slice, slice]]:
    """How chunks of an axis meet [low, high): shard, chunk within it, where its voxels go, and which of them."""
    for i in range(low // chunk, -(-high // chunk) if low < high else 0):
        first, end = max(low, i * chunk), min(high, (i + 1) * chunk)
        yield i // per_shard, i % per_shard, slice(first - low, end - low), slice(first - i * chunk, end - i * chunk)


@lru_cache(maxsize=1024)
def _single_value(data: bytes, dtype: str, n_voxels: int) -> Any:
    """The one value of a compressed chunk, None where it has several."""
    voxels = np.frombuffer(blosc.decompress(data), dtype, n_voxels)
    return voxels[0] if (voxels == voxels[0]).all() else None
