"""Carry out the plan of a cell: ask for its tiles, hash them, and lay them straight into whole shards of an OME-Zarr image.

Work goes unit by unit (`units.Unit`: neighbouring shards that no request spans). A unit is written once, when its last tile has come, and
then recorded in a journal beside the image; a killed run repeats at most the units that were in flight, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brightfield.core.cell import Cell, Crop, Stack
from brightfield.core.errors import StackError, TransferError
from brightfield.core.schema import TILES
from brightfield.core.space import Shape
from brightfield.sources.source import Source, interruptible
from brightfield.stages.download.blocks import Blocks, Pixels
from brightfield.stages.download.journal import Journal, file_record, holds
from brightfield.stages.download.plan import CellPlan
from brightfield.stages.download.units import UNIT_BYTES, Request, Unit, boxes_of
from brightfield.volumes.pyramid import build_pyramid
from brightfield.volumes.shards import ShardFile, encode_chunk
from brightfield.volumes.volume import Volume, create_volume

IMAGE_NAME = "image.zarr"
"""The image within the directory of `download_cell`."""

_JOURNAL_NAME = "journal"
_OPEN_BYTES = 2 * UNIT_BYTES  # one unit is written while the next is fetched
_HEARING_S = 1.0  # a Ctrl-C that comes just before a wait is heard only after it
_ABSENT_PLANE = "the source does not have this plane"


@dataclass(frozen=True, slots=True)
class _Tile:
    """What came of one row of the plan's tiles: its pixels and their hash, or the reason why there are none."""

    row: int
    pixels: Pixels | None = None
    sha256: str | None = None
    reason: str | None = None


def download_cell(
    cell: Cell,
    plan: CellPlan,
    source: Source,
    directory: Path,
    *,
    chunk_zyx: Shape,
    attributes: Mapping[str, Any] | None = None,
    connections: int = 8,
    allow_missing: bool = False,
    progress: Callable[[int], object] | None = None,
) -> pd.DataFrame:
    """Fetch the tiles of `plan` into `directory / IMAGE_NAME`; returns the cell's rows of `schema.TILES`.

    directory: belongs to this cell and plan, and outlives a killed run: called again with it, only what was not finished is fetched, and
    when all is finished nothing is. Once the image is linked or moved to where it belongs, remove the directory.
    chunk_zyx: inner chunks of the image; its shards are the plan's. attributes: provenance, plain JSON values.
    connections: threads that fetch and decode. progress: called with the uncompressed bytes of each finished request.

    Tiles on planes that the source lacks are `missing`. Raises TransferError when other pixels cannot be had, unless `allow_missing`,
    which records them as `missing` with the reason.
    """
    if cell.stack is None or cell.specimen_id != plan.specimen_id:
        raise ValueError(f"the plan of cell {plan.specimen_id} is not one for cell {cell.specimen_id}")
    directory.mkdir(parents=True, exist_ok=True)
    image = directory / IMAGE_NAME
    work = _work_digest(cell.stack, plan, chunk_zyx, attributes or {}, allow_missing=allow_missing)
    with Journal(directory / _JOURNAL_NAME, work) as journal:
        _keep_believed(journal, work, image)
        dtype = np.uint8 if cell.stack.bits == 8 else np.uint16
        shard_zyx, grids = plan.shard_zyx, plan.grid.pyramid()
        volume = create_volume(image, grids, dtype, chunk_zyx=chunk_zyx, shard_zyx=shard_zyx, attributes=attributes)
        fetcher = _Fetcher(cell, cell.stack, plan, source, allow_missing=allow_missing)
        with _Flight(connections, progress) as flight, interruptible(source):
            _fetch_units(plan, fetcher, _Writer(plan, volume, image, journal), flight)
        ledger = _ledger(cell.stack, plan, journal)
        build_pyramid(volume, _boxes(ledger[ledger["state"] == "ok"]), threads=min(connections, os.cpu_count() or 1))
    return ledger


def _work_digest(stack: Stack, plan: CellPlan, chunk_zyx: Shape, attributes: Mapping[str, Any], *, allow_missing: bool) -> str:
    planes = [(plane.sub_image_id, plane.section_number, plane.usable) for plane in stack.planes]
    units = [unit.shards_zyx for unit in plan.units]  # the journal counts them
    parts = [plan.digest, units, planes, stack.bits, chunk_zyx, attributes, allow_missing]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _keep_believed(journal: Journal, work: str, image: Path) -> None:
    """Keep the units whose shards are on disk as the journal says, and no other file of the image."""
    believed = [record for record in journal.records if all(holds(file, image) for file in record["files"])]
    if len(believed) < len(journal.records):
        journal.rewrite(work, believed)
    keep = {image / file["file"] for record in believed for file in record["files"]}
    for folder, _, names in os.walk(image, topdown=False):
        for path in (Path(folder, name) for name in names):
            if path not in keep:
                path.unlink()
        if not os.listdir(folder):
            os.rmdir(folder)


class _Fetcher:
    """Turns rows of a plan's tiles into pixels and hashes."""

    def __init__(self, cell: Cell, stack: Stack, plan: CellPlan, source: Source, *, allow_missing: bool) -> None:
        self._cell, self._stack, self._plan, self._source = cell, stack, plan, source
        self._allow_missing = allow_missing
        self._dtype = np.dtype(np.uint8 if stack.bits == 8 else np.uint16)
        self._tiles = boxes_of(plan.tiles)
        self._absent: dict[int, TransferError] = {}

    def tiles(self, request: Request) -> Iterator[_Tile]:
        """The tiles of one request, one by one. A request for several that fails is asked for in halves: the service may cap what is large.

        Planes are asked for by their own number, so where the source insists that one is not there, it is not asked for its other tiles.
        """
        if request.z in self._absent:
            yield from self._missing(request, self._absent[request.z])
            return
        try:
            pixels = self._pixels(request)
        except (TransferError, StackError) as error:
            if isinstance(error, TransferError) and error.absent:
                self._absent[request.z] = error
            elif len(request.rows) > 1:
                for half in request.halves(self._tiles):
                    yield from self.tiles(half)
                return
            yield from self._missing(request, error)
            return
        for row in request.rows:
            yield self._cut(row, pixels, request.box)

    def _cut(self, row: int, pixels: Pixels, box: tuple[int, int, int, int]) -> _Tile:
        """One tile of a picture, a copy that is still in the processor's cache when it is laid; the rest of the picture is nobody's."""
        _, y0, y1, x0, x1 = self._tiles[row].tolist()
        tile = pixels[y0 - box[0] : y1 - box[0], x0 - box[2] : x1 - box[2]]
        tile = tile if tile.flags.c_contiguous else tile.copy()
        return _Tile(row, tile, hashlib.sha256(tile).hexdigest())

    def _pixels(self, request: Request) -> Pixels:
        (y0, y1, x0, x1), level = request.box, self._plan.level
        plane = self._stack.planes[request.z * self._plan.z_step]
        crop = Crop(plane, y0 << level, x0 << level, (y1 - y0) << level, (x1 - x0) << level, level)
        pixels = self._source.pixels(self._cell, crop)
        if pixels.shape != crop.shape_yx or pixels.dtype != self._dtype:
            found = f"{pixels.dtype} pixels of shape {pixels.shape}"
            raise TransferError(f"expected {self._dtype} pixels of shape {crop.shape_yx}, the source gave {found}")
        return pixels

    def _missing(self, request: Request, error: TransferError | StackError) -> list[_Tile]:
        reason = error.reason if isinstance(error, TransferError) else str(error)
        if not self._allow_missing:
            y0, y1, x0, _ = request.box
            raise TransferError(
                f"cell {self._cell.specimen_id}, plane {request.z * self._plan.z_step}, rows {y0}-{y1} from column {x0} of level "
                f"{self._plan.level}: {error}; what was finished is kept: run again, or set download.allow_missing=true to go on without",
                reason=reason,
            ) from error
        return [_Tile(row, reason=reason) for row in request.rows]


class _Writer:
    """Lays the tiles of each unit in flight into blocks, compresses blocks as they fill, and writes and records complete units."""

    def __init__(self, plan: CellPlan, volume: Volume, image: Path, journal: Journal) -> None:
        self._tiles = plan.tiles[["z", "y0", "x0", "y1", "x1"]].to_numpy()
        self._volume, self._image, self._journal = volume, image, journal
        self._blocks = Blocks(volume.spec(0), plan.tile)
        self._open: dict[int, _OpenUnit] = {}
        self._lock = threading.Lock()
        self.finished = {record["unit"] for record in journal.records}

    @property
    def open_bytes(self) -> int:
        """Pixels of the units that were begun and are not yet written."""
        with self._lock:
            return sum(state.unit.n_bytes for state in self._open.values())

    def begin(self, number: int, unit: Unit) -> None:
        """Expect the requests of a unit."""
        rows = np.concatenate([request.rows for request in unit.requests])
        awaited: Counter[Shape] = Counter()
        voxels: Counter[Shape] = Counter()
        for z, y0, x0, y1, x1 in self._tiles[rows].tolist():
            place = self._blocks.place((z, y0, x0))
            awaited[place] += 1
            voxels[place] += (y1 - y0) * (x1 - x0)
        chunks: dict[Shape, list[Shape]] = {shard: [] for shard in unit.shards_zyx}
        for place in awaited:
            for shard, inner, _ in self._blocks.chunks(place):
                chunks[shard].append(inner)
        shards = {shard: self._volume.begin_shard(0, shard, expected) for shard, expected in chunks.items()}
        whole = {place for place, n in voxels.items() if n == self._blocks.size}
        with self._lock:
            self._open[number] = _OpenUnit(unit, shards, awaited, whole)

    def in_order(self, unit: Unit) -> list[Request]:
        """The requests of a unit in the order that fills blocks soonest."""
        return sorted(unit.requests, key=lambda request: self._blocks.place(self._tiles[request.rows[0], :3].tolist()))

    def add(self, number: int, tiles: Iterable[_Tile]) -> None:
        """Take the tiles of one request of a unit; the last one finishes it."""
        state = self._open[number]
        told = [self._add_tile(state, tile) for tile in tiles]
        with self._lock:
            state.tiles.extend(told)
            state.n_requests += 1
            complete = state.n_requests == len(state.unit.requests)
        if complete:
            self._finish(number, state)

    def _add_tile(self, state: _OpenUnit, tile: _Tile) -> tuple[int, str | None, str | None]:
        z, y0, x0, y1, x1 = self._tiles[tile.row].tolist()
        place = self._blocks.place((z, y0, x0))
        if tile.pixels is not None or place in state.whole:
            with self._lock:
                block = state.blocks.get(place)
                if block is None:
                    block = state.blocks[place] = self._blocks.take(blank=place not in state.whole)
            pixels = self._blocks.blank((y1 - y0, x1 - x0)) if tile.pixels is None else tile.pixels
            self._blocks.lay(pixels, block, (z, y0, x0))
        with self._lock:
            state.awaited[place] -= 1
            complete = not state.awaited[place]
            block = state.blocks.pop(place, None) if complete else None
        if complete:
            for shard, inner, within in self._blocks.chunks(place):
                data = b"" if block is None else encode_chunk(self._volume.spec(0), inner, block[within])
                state.shards[shard].add(inner, data)
        if block is not None:
            self._blocks.give_back(block)
        return tile.row, tile.sha256, tile.reason

    def _finish(self, number: int, state: _OpenUnit) -> None:
        paths = {shard: self._volume.shard_path(0, shard) for shard in state.shards}
        files = [file_record(paths[shard], self._image, file.n_bytes, file.crc32c) for shard, file in state.shards.items() if file.finish()]
        with self._lock:
            self._journal.append({"unit": number, "files": files, "tiles": sorted(state.tiles)})
            del self._open[number]


@dataclass(eq=False)
class _OpenUnit:
    """A unit in flight: its shards, by block the tiles still awaited, blocks that fill, and what came of its tiles.

    whole: the blocks that its tiles cover to the last voxel.
    """

    unit: Unit
    shards: dict[Shape, ShardFile]
    awaited: Counter[Shape]
    whole: set[Shape]
    blocks: dict[Shape, Pixels] = field(default_factory=dict)
    tiles: list[tuple[int, str | None, str | None]] = field(default_factory=list)
    n_requests: int = 0


class _Flight:
    """A bounded number of requests in flight; the first failure comes out of `settle`."""

    def __init__(self, connections: int, progress: Callable[[int], object] | None) -> None:
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="tiles")
        self._most = 2 * connections
        self._progress = progress
        self._ended: SimpleQueue[Future[int]] = SimpleQueue()
        self.pending = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, task: Callable[[], int]) -> None:
        """Run a task that returns the bytes it fetched; waits while too many are in flight."""
        while self.pending >= self._most:
            self.settle()
        self.pending += 1
        self._pool.submit(task).add_done_callback(self._ended.put)

    def settle(self) -> None:
        """Wait for a task to end."""
        ended: Future[int] | None = None
        while ended is None:
            with suppress(Empty):
                ended = self._ended.get(timeout=_HEARING_S)
        n_bytes = ended.result()
        self.pending -= 1
        if self._progress is not None:
            self._progress(n_bytes)


def _fetch_units(plan: CellPlan, fetcher: _Fetcher, writer: _Writer, flight: _Flight) -> None:
    """Fetch all units that are not finished, in order."""
    n_bytes = plan.tiles["bytes"].to_numpy()

    def fetch(number: int, request: Request) -> int:
        writer.add(number, fetcher.tiles(request))
        return int(n_bytes[list(request.rows)].sum())

    for number, unit in enumerate(plan.units):
        if number in writer.finished:
            continue
        while flight.pending and writer.open_bytes + unit.n_bytes > _OPEN_BYTES:
            flight.settle()
        writer.begin(number, unit)
        for request in writer.in_order(unit):
            flight.submit(partial(fetch, number, request))
    while flight.pending:
        flight.settle()


def _ledger(stack: Stack, plan: CellPlan, journal: Journal) -> pd.DataFrame:
    """The plan's tiles with what came of them: columns of `schema.TILES`."""
    n = len(plan.tiles)
    hashes: list[str | None] = [None] * n
    reasons: list[str | None] = [stack.planes[z * plan.z_step].reason or _ABSENT_PLANE for z in plan.tiles["z"].tolist()]
    for record in journal.records:
        for row, sha256, reason in record["tiles"]:
            hashes[row], reasons[row] = sha256, reason
    state = ["missing" if sha256 is None else "ok" for sha256 in hashes]
    ledger = plan.tiles.assign(state=state, sha256=pd.Series(hashes, dtype=object), reason=pd.Series(reasons, dtype=object))
    return ledger[list(TILES.column_names)]


def _boxes(tiles: pd.DataFrame) -> NDArray[np.int64]:
    """(n, 6) half-open boxes (z0, z1, y0, y1, x0, x1) of tiles."""
    z, y0, y1, x0, x1 = (tiles[name].to_numpy(np.int64) for name in ("z", "y0", "y1", "x0", "x1"))
    return np.stack([z, z + 1, y0, y1, x0, x1], axis=1)
