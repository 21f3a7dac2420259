"""Windows of finished volumes that lie afar: indexes of shards are fetched once, chunks at the same time, neighbours in one request.

zarr asks for the index of a shard at each read, and then for each chunk by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.space import Window
from brightfield.volumes.fetching import Readable, at_once, read_at_once
from brightfield.volumes.reader import MISSING, Shard, WindowReader, cuts, reader_of
from brightfield.volumes.shards import ArraySpec, Index, decode_index

if TYPE_CHECKING:
    from brightfield.volumes.volume import Volume


def reader_anywhere(volume: Volume, level: int = 0) -> Callable[[Window], NDArray[Any]]:
    """What reads half-open boxes of a level of a finished volume, here (see `reader_of`) or afar, many times over."""
    if volume.path is not None:
        return reader_of(volume, level)
    from brightfield.volumes.remote import ObjectStore

    spec, store = volume.specs[level], volume.store
    if not isinstance(store, ObjectStore) or store.text(volume.key(f"{level}/zarr.json")) != spec.metadata_json():
        return partial(volume.read, level=level)
    return ReaderAfar(spec, lambda shard: store.file(volume.shard_key(level, shard))).read


class ReaderAfar(WindowReader):
    """Windows of one level of a volume whose shards are `Readable`; a shard that is None holds fill values."""

    def __init__(self, spec: ArraySpec, shard: Callable[[Index], Readable | None]) -> None:
        self.spec = spec
        self._object = shard
        self._indexes: dict[Index, NDArray[np.uint64]] = {}

    def read(self, window: Window) -> NDArray[Any]:
        """See `WindowReader`."""
        axes = [
            list(cuts(low, high, c, s // c)) for (low, high), c, s in zip(window, self.spec.chunk_zyx, self.spec.shard_zyx, strict=True)
        ]
        met = [((sz, sy, sx), (iz, iy, ix)) for (sz, iz, *_), (sy, iy, *_), (sx, ix, *_) in product(*axes)]
        shards = self._opened_all({shard for shard, _ in met})
        places = [(shard, inner, self._place(shard, inner)) for shard, inner in met if shard in shards]
        stored = [(shard, inner, place) for shard, inner, place in places if place[0] != MISSING]
        found = read_at_once([(shards[shard], offset, offset + n_bytes) for shard, _, (offset, n_bytes) in stored])
        fetched: dict[Index, dict[Index, bytes]] = {shard: {} for shard in shards}
        for (shard, inner, _), data in zip(stored, found, strict=True):
            fetched[shard][inner] = data
        return self.assembled(window, lambda shard: _Fetched(fetched[shard], str(shard)) if shard in fetched else None)

    def _opened_all(self, wanted: set[Index]) -> dict[Index, Readable]:
        """The shards that are there, by their index; those of the others are fetched."""
        shards = {index: shard for index in sorted(wanted) if (shard := self._object(index)) is not None}
        unread = [index for index in shards if index not in self._indexes]
        tails = at_once(lambda index: shards[index].read(-self.spec.index_bytes, None), unread)
        self._indexes |= {index: decode_index(self.spec, tail, str(index)) for index, tail in zip(unread, tails, strict=True)}
        return shards

    def _place(self, shard: Index, inner: Index) -> tuple[int, int]:
        offset, n_bytes = self._indexes[shard][inner].tolist()
        return offset, n_bytes


class _Fetched(Shard):
    """The chunks of a shard that a window needs."""

    def __init__(self, chunks: dict[Index, bytes], name: str) -> None:
        self._chunks, self.name = chunks, name

    def raw(self, inner: Index) -> bytes:
        return self._chunks.get(inner, b"")
