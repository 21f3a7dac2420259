"""The order of a download: requests, and the units of shards that are fetched, written and recorded together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brightfield.core.space import Shape
from brightfield.sources.allen.records import PICTURE_MAX_PX

UNIT_BYTES = 2**28
"""Pixels that are fetched, written and recorded as a whole; with it memory and what a killed run loses are bounded."""

type Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Request:
    """One picture of one plane: the box (y0, y1, x0, x1) in voxels, and the rows of `CellPlan.tiles` that are cut from it."""

    z: int
    box: tuple[int, int, int, int]
    rows: tuple[int, ...]

    def halves(self, tiles: Ints) -> Iterator[Request]:
        """Two requests for the same tiles, cut across the longer side. tiles: (n, 5) z, y0, y1, x0, x1 of all."""
        own, (y0, y1, x0, x1) = tiles[list(self.rows)], self.box
        has_rows, has_columns = (len(np.unique(own[:, column])) > 1 for column in (1, 3))
        edge = own[:, 1 if has_rows and (y1 - y0 >= x1 - x0 or not has_columns) else 3]
        middle = np.unique(edge)[len(np.unique(edge)) // 2]
        for part in (edge < middle, edge >= middle):
            yield Request(self.z, hull_of(own[part]), tuple(np.array(self.rows)[part].tolist()))


@dataclass(frozen=True, slots=True)
class Unit:
    """Shards that are fetched, written and recorded together, so that no request ever spans two units.

    requests: in plane order. n_bytes: of the tiles that they bring.
    """

    shards_zyx: tuple[Shape, ...]
    requests: tuple[Request, ...]
    n_bytes: int


def hull_of(tiles: Ints) -> tuple[int, int, int, int]:
    """The smallest box (y0, y1, x0, x1) that holds some tiles, (n, 5)."""
    _, y0, _, x0, _ = tiles.min(axis=0).tolist()
    _, _, y1, _, x1 = tiles.max(axis=0).tolist()
    return y0, y1, x0, x1


class Pictures:
    """How the tiles of a cell are asked for.

    tiles: (n, 5) z, y0, y1, x0, x1, ordered by (z, y0, x0). wanted: (n,), which of them. n_bytes: (n,) of each tile.
    """

    def __init__(self, tiles: Ints, wanted: NDArray[np.bool_], n_bytes: Ints, *, tile: int, shard_zyx: Shape) -> None:
        from brightfield.stages.download.merging import merge  # loads the compiler, which a plan that is not made does not need

        self._tiles, self._n_bytes, self._shard_zyx = tiles, n_bytes, shard_zyx
        self._shards = tiles[:, [0, 1, 3]] // np.array(shard_zyx) if len(tiles) else np.empty((0, 3), np.int64)
        self._unit = np.full(len(tiles), -1, np.int64)
        self._unit[wanted] = _units(self._shards[wanted], n_bytes[wanted], shard_zyx)
        self._picture = merge(tiles, self._unit, tile, PICTURE_MAX_PX)
        self.boxes = self._boxes()

    def _boxes(self) -> Ints:
        """(pictures, 4) y0, y1, x0, x1."""
        rows = np.flatnonzero(self._picture >= 0)
        boxes = np.empty((int(self._picture.max(initial=-1)) + 1, 4), np.int64)
        boxes[:, [0, 2]] = np.iinfo(np.int64).max
        boxes[:, [1, 3]] = -1
        for column, reduce in enumerate((np.minimum, np.maximum, np.minimum, np.maximum)):
            reduce.at(boxes[:, column], self._picture[rows], self._tiles[rows, 1 + column])
        return boxes

    def units(self) -> tuple[Unit, ...]:
        """What is fetched, in order."""
        rows = np.flatnonzero(self._picture >= 0)
        rows = rows[np.argsort(self._picture[rows], kind="stable")]
        requests = [self._request(some) for some in np.split(rows, np.flatnonzero(np.diff(self._picture[rows])) + 1)] if len(rows) else []
        by_unit: dict[int, list[Request]] = {}
        for request in requests:
            by_unit.setdefault(int(self._unit[request.rows[0]]), []).append(request)
        return tuple(self._unit_of(by_unit[number]) for number in sorted(by_unit))

    def _request(self, rows: Ints) -> Request:
        y0, y1, x0, x1 = self.boxes[self._picture[rows[0]]].tolist()
        return Request(int(self._tiles[rows[0], 0]), (y0, y1, x0, x1), tuple(rows.tolist()))

    def _unit_of(self, requests: list[Request]) -> Unit:
        rows = np.concatenate([request.rows for request in requests])
        shards = sorted({(z, y, x) for z, y, x in self._shards[rows].tolist()})
        return Unit(tuple(shards), tuple(requests), int(self._n_bytes[rows].sum()))


def _units(shards: Ints, n_bytes: Ints, shard_zyx: Shape) -> Ints:
    """The unit of each tile, by the (n, 3) shards that tiles are in.

    A unit is a block of shards as wide and high as the largest picture, counted from the first shard that the cell uses; where such a block
    holds more than UNIT_BYTES of tiles it is cut between shards.
    """
    if not len(shards):
        return np.empty(0, np.int64)
    z, y, x = (shards - shards.min(axis=0)).T
    high, wide = (max(1, PICTURE_MAX_PX // edge) for edge in shard_zyx[1:])
    counts = (int(z.max()) + 1, int(y.max()) // high + 1, int(x.max()) // wide + 1, high, wide)
    shard_of_tile = np.ravel_multi_index((z, y // high, x // wide, y % high, x % wide), counts)
    n_tiles, sizes = (np.bincount(shard_of_tile, weights, math.prod(counts)).astype(np.int64) for weights in (None, n_bytes))
    unit_of_shard = np.empty(len(sizes), np.int64)
    unit, filled, block_before = -1, 0, -1
    for shard in np.flatnonzero(n_tiles).tolist():
        block, size = shard // (high * wide), int(sizes[shard])
        if block != block_before or filled + size > UNIT_BYTES:
            unit, filled = unit + 1, 0
        filled += size
        unit_of_shard[shard], block_before = unit, block
    of_tile: Ints = unit_of_shard[shard_of_tile]
    return of_tile


def boxes_of(tiles: pd.DataFrame) -> Ints:
    """(n, 5) z, y0, y1, x0, x1 of a table of tiles."""
    boxes: Ints = tiles[["z", "y0", "y1", "x0", "x1"]].to_numpy(np.int64)
    return boxes
