"""Which tiles of which planes a configuration asks for, and what they cost: decided before any byte is fetched.

Pure and deterministic: the plan of a cell depends on that cell and on the options alone, so that adding cells changes nothing. Tiles are
boxes of the downloaded grid (`space.download_grid`), aligned to multiples of the tile's edge, one plane each.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brightfield.config.options import CoverageKind, ImageConfig, SourceConfig, SwcOrigin
from brightfield.core.cell import Cell, Stack
from brightfield.core.errors import CapacityError, ConfigError, GridError
from brightfield.core.reach import refuse_far
from brightfield.core.space import Grid, Shape, download_grid, swc_to_stack_um
from brightfield.stages.download.tiling import Mask, background, in_box, misfit, near_skeleton, tile_counts

if TYPE_CHECKING:
    from brightfield.core.skeleton import Skeleton

TILE_KINDS = ("skeleton", "background", "box", "full")

PLANNED_COLUMNS = ("specimen_id", "z", "y0", "y1", "x0", "x1", "kind", "bytes")
"""Those columns of `schema.TILES` that a plan knows; the others are what came of it."""


@dataclass(frozen=True, slots=True)
class Wire:
    """What crosses the wire for a byte of pixels: (low, high), on what basis, and whether levels above 0 read full resolution."""

    share: tuple[float, float]
    basis: str
    full_resolution: bool = False


JPEG_TILES = Wire((0.06, 0.17), "JPEG at 0.06-0.17 bytes per pixel")
"""Range measured on the Allen service's JPEG tiles."""

STACK_FILES = Wire((0.34, 1.0), "the files as they are: 0.34-1.00 of the pixels that are touched", full_resolution=True)
"""Lossless compression left 0.34 of a real crop at best; files without compression are read by rows."""

STORED_SHARE = (0.40, 0.60)
"""Of the uncompressed bytes: blosc-zstd left 0.34-0.42 of a real crop, and the pyramid adds 0.3 of that."""

MERGE_PX = 8192
"""Full-resolution width of the widest merged request: most rows of a neuron fit, and it stays well below what JPEG can hold."""

UNIT_BYTES = 2**28
"""Pixels that are fetched, written and recorded as a whole; with it memory and what a killed run loses are bounded."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Shards that are fetched, written and recorded together, so that no request ever spans two units.

    requests: slices of rows of `CellPlan.tiles`, in plane order.
    """

    shards_zyx: tuple[Shape, ...]
    requests: tuple[slice, ...]
    n_bytes: int


@dataclass(frozen=True, eq=False)
class CellPlan:
    """The tiles of one cell.

    grid: the downloaded grid. level, z_step: how it follows from the stack's.
    tiles: columns PLANNED_COLUMNS, ordered by (z, y0, x0).
    usable: per downloaded plane, whether pixels can be had; tiles of other planes are listed, never requested.
    tile: edge of a whole tile in voxels.
    """

    specimen_id: int
    grid: Grid
    level: int
    z_step: int
    tiles: pd.DataFrame
    usable: Mask
    shard_zyx: Shape
    tile: int
    bytes_per_px: int = 1

    @cached_property
    def requested(self) -> Mask:
        """Per tile: whether its plane can be had."""
        requested: Mask = self.usable[self.tiles["z"].to_numpy()]
        return requested

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """What is fetched, in the order that completes shards soonest: neighbouring shards of a row, up to UNIT_BYTES of tiles.

        Within a unit, neighbouring tiles of a row merge into one request, up to MERGE_PX.
        """
        counts = [-(-n // edge) for n, edge in zip(self.grid.shape_zyx, self.shard_zyx, strict=True)]
        z, y, x = (self.tiles[name].to_numpy() // edge for name, edge in zip(("z", "y0", "x0"), self.shard_zyx, strict=True))
        shard_of_row = (z * counts[1] + y) * counts[2] + x
        n_bytes = self.tiles["bytes"].to_numpy()
        unit_of_row = _unit_of_row(shard_of_row, counts[2], np.where(self.requested, n_bytes, 0))
        requests: dict[int, list[slice]] = {}
        for rows in _merged(self.tiles, np.where(self.requested, unit_of_row, -1), MERGE_PX >> self.level):
            requests.setdefault(int(unit_of_row[rows.start]), []).append(rows)
        return tuple(self._unit(requests[unit], shard_of_row, counts) for unit in sorted(requests))

    def _unit(self, requests: list[slice], shard_of_row: NDArray[np.int64], counts: list[int]) -> Unit:
        shards = sorted({shard for rows in requests for shard in shard_of_row[rows].tolist()})
        n_bytes = self.tiles["bytes"].to_numpy()
        places = tuple((shard // counts[2] // counts[1], shard // counts[2] % counts[1], shard % counts[2]) for shard in shards)
        return Unit(places, tuple(requests), sum(int(n_bytes[rows].sum()) for rows in requests))

    @cached_property
    def digest(self) -> str:
        """Hash of all that the plan says: equal plans have equal digests."""
        head = [self.specimen_id, self.grid.to_dict(), self.level, self.z_step, self.shard_zyx, self.bytes_per_px, self.usable.tolist()]
        digest = hashlib.sha256(json.dumps(head).encode())
        for name in ("z", "y0", "y1", "x0", "x1"):
            digest.update(self.tiles[name].to_numpy("<i4").tobytes())
        digest.update("".join(self.tiles["kind"].str[0]).encode())
        return digest.hexdigest()

    @property
    def n_requests(self) -> int:
        """Requests without retries."""
        return sum(len(unit.requests) for unit in self.units)

    @property
    def n_planes(self) -> int:
        """Planes from which something is fetched."""
        return int(self.tiles["z"][self.requested].nunique())

    @property
    def n_bytes(self) -> int:
        """Uncompressed bytes of what will be fetched."""
        return int(self.tiles["bytes"][self.requested].sum())


@dataclass(frozen=True, eq=False)
class Plan:
    """The plans of all cells (at least one), what is already there, and the room there is.

    there: specimen ids whose images are finished. free_bytes: of the disk that will hold them; None where unknown. max_gb: the limit of
    the pixels of all cells, uncompressed. wire: how the source sends pixels. failures: cells without a plan, and why. left_out: why
    other cells are not taken, a line for each reason.
    """

    cells: tuple[CellPlan, ...]
    there: frozenset[int] = frozenset()
    free_bytes: int | None = None
    max_gb: float = math.inf
    wire: Wire = JPEG_TILES
    failures: Mapping[int, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(sorted(self.cells, key=lambda cell: cell.specimen_id)))

    @cached_property
    def tiles(self) -> pd.DataFrame:
        """The tiles of all cells, ordered by key."""
        frames = [cell.tiles for cell in self.cells]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(PLANNED_COLUMNS))

    @cached_property
    def totals(self) -> dict[str, Any]:
        """The sums, of everything and of what is still to be fetched; ranges are (low, high) estimates."""
        todo = [cell for cell in self.cells if cell.specimen_id not in self.there]
        n_bytes_touched = sum(cell.n_bytes << (2 * cell.level if self.wire.full_resolution else 0) for cell in todo)
        n_bytes = sum(cell.n_bytes for cell in self.cells)
        n_bytes_todo = sum(cell.n_bytes for cell in todo)
        return {
            "cells": len(self.cells),
            "cells_there": len(self.cells) - len(todo),
            "planes": sum(cell.n_planes for cell in self.cells),
            "tiles": sum(int(cell.requested.sum()) for cell in self.cells),
            "tiles_missing": sum(int((~cell.requested).sum()) for cell in self.cells),
            "requests": sum(cell.n_requests for cell in self.cells),
            "requests_todo": sum(cell.n_requests for cell in todo),
            "bytes": n_bytes,
            "bytes_todo": n_bytes_todo,
            "wire_bytes_todo": [round(n_bytes_touched * share) for share in self.wire.share],
            "disk_bytes_todo": [round(n_bytes_todo * share) for share in STORED_SHARE],
            "free_bytes": self.free_bytes,
        }

    @property
    def refusal(self) -> str:
        """Why it must not be carried out as it is: more than `max_gb`, or than the disk can hold. Empty where it may be."""
        total, needed = self.totals["bytes"], self.totals["disk_bytes_todo"][1]
        if total > self.max_gb * 1e9:
            return (
                f"the plan is {_size(total)} of pixels, more than image.max_gb={self.max_gb:g}; raise the limit, or ask for less: "
                "source.specimen_ids, image.level, image.z_step, image.radius_um, image.coverage"
            )
        if self.free_bytes is not None and needed > self.free_bytes:
            return f"the plan needs up to {_size(needed)} on disk and {_size(self.free_bytes)} are free; make room, or ask for less pixels"
        return ""

    def check_capacity(self) -> None:
        """Raise CapacityError for a `refusal`."""
        if self.refusal:
            raise CapacityError(self.refusal)

    def as_json(self, rate_mb_s: float) -> str:
        """The totals, the time at a rate and the sums of each cell, for programs."""
        cells = [
            {
                "specimen_id": cell.specimen_id,
                "planes": cell.n_planes,
                "tiles": int(cell.requested.sum()),
                "tiles_missing": int((~cell.requested).sum()),
                "requests": cell.n_requests,
                "bytes": cell.n_bytes,
                "there": cell.specimen_id in self.there,
            }
            for cell in self.cells
        ]
        failures = {str(specimen_id): reason for specimen_id, reason in self.failures.items()}
        more = {"seconds_todo": self._seconds(rate_mb_s), "refusal": self.refusal, "cells_detail": cells, "failures": failures}
        more["left_out"] = [line.strip() for line in self.left_out]
        return json.dumps({**self.totals, **more}, indent=2)

    def as_text(self, rate_mb_s: float) -> str:
        """The totals and the time at a rate, for people; every estimate with its basis."""
        t = self.totals
        wire, disk, seconds = t["wire_bytes_todo"], t["disk_bytes_todo"], self._seconds(rate_mb_s)
        missing = f" (and {t['tiles_missing']:,} on planes that the source lacks)" if t["tiles_missing"] else ""
        free = "unknown" if self.free_bytes is None else _size(self.free_bytes)
        rows = [
            ("cells", f"{t['cells']:,}, {t['cells_there']:,} of them already there"),
            ("planes", f"{t['planes']:,}"),
            ("tiles", f"{t['tiles']:,}{missing}"),
            ("requests", f"{t['requests']:,} after merging neighbours in a row, {t['requests_todo']:,} to do"),
            ("pixels", f"{_size(t['bytes'])} uncompressed, {_size(t['bytes_todo'])} to do"),
            ("on the wire", f"{_size(wire[0])} to {_size(wire[1])} to do ({self.wire.basis})"),
            (
                "on disk",
                f"{_size(disk[0])} to {_size(disk[1])} to do (zstd and pyramid: {STORED_SHARE[0]:.2f}-{STORED_SHARE[1]:.2f} of the pixels)",
            ),
            ("time", f"{_duration(seconds[0])} to {_duration(seconds[1])} at {rate_mb_s:g} MB/s"),
            ("free disk", free),
            *([("refused", self.refusal)] if self.refusal else []),
            *((f"cell {specimen_id}", reason) for specimen_id, reason in self.failures.items()),
        ]
        left_out = ["left out", *self.left_out] if self.left_out else []
        return "\n".join([*(f"{name:<12} {value}" for name, value in rows), *left_out])

    def _seconds(self, rate_mb_s: float) -> list[float]:
        if rate_mb_s <= 0:
            raise ConfigError(f"a rate is more than 0 MB/s, found {rate_mb_s:g}")
        return [round(wire / (rate_mb_s * 1e6), 1) for wire in self.totals["wire_bytes_todo"]]


def tile_of(image: ImageConfig) -> int:
    """Edge of a tile in voxels of the downloaded grid."""
    return image.tile_px >> image.level


def plan_cell(
    cell: Cell,
    skeleton: Skeleton | None,
    image: ImageConfig,
    projection: NDArray[np.integer[Any]] | None = None,
    *,
    swc_origin: SwcOrigin = SwcOrigin.centre,
) -> CellPlan:
    """The tiles that `image` asks of one cell.

    skeleton: as in the file; the coverages `skeleton` and `box` need it. projection: the minimum projection of the stack along z, at any
    level, for background that is dark but untraced.

    Raises GridError for a cell without a stack or skeleton, or whose skeleton lies outside of its stack.
    """
    if cell.stack is None:
        raise GridError(f"cell {cell.specimen_id}: there is no image stack to plan for; select cells with images (source.require_images)")
    tile = tile_of(image)
    grid = download_grid(cell.stack.grid, image.level, image.z_step)
    usable = np.array([plane.usable for plane in cell.stack.planes[:: image.z_step]])
    if image.coverage == CoverageKind.full:
        kinds = np.full(tile_counts(grid, tile), TILE_KINDS.index("full") + 1, np.uint8)
    else:
        if skeleton is None:
            raise GridError(f"cell {cell.specimen_id}: coverage={image.coverage} needs a skeleton; use image.coverage=full for this cell")
        position_zyx_um = swc_to_stack_um(skeleton.position_zyx_um, cell.stack.grid, swc_origin.value)
        refuse_far(skeleton.node_id, position_zyx_um, skeleton.radius_um, cell.stack.grid)
        kinds = _kinds(cell.specimen_id, grid, usable, position_zyx_um, skeleton.parent, image, projection)
    return plan_of_tiles(cell.specimen_id, cell.stack, _frame(cell.specimen_id, kinds, grid, tile, cell.stack.bits // 8), image)


def plan_of_tiles(specimen_id: int, stack: Stack, tiles: pd.DataFrame, image: ImageConfig) -> CellPlan:
    """The plan of a cell whose tiles are known: columns PLANNED_COLUMNS, as of a plan or of the ledger of a finished image."""
    grid = download_grid(stack.grid, image.level, image.z_step)
    usable = np.array([plane.usable for plane in stack.planes[:: image.z_step]])
    z, y, x = image.shard_zyx
    known, shard = tiles[list(PLANNED_COLUMNS)], (z, y, x)
    return CellPlan(specimen_id, grid, image.level, image.z_step, known, usable, shard, tile_of(image), stack.bits // 8)


def plan_inputs(image: ImageConfig, source: SourceConfig, swc_sha256: str | None) -> dict[str, Any]:
    """The options that decide a plan, and the skeleton where they need it: plans of one stack with equal inputs are equal."""
    inputs: dict[str, Any] = {name: getattr(image, name) for name in ("level", "z_step", "tile_px", "shard_zyx")}
    inputs["coverage"] = image.coverage.value
    if image.coverage is not CoverageKind.full:
        inputs |= {"swc_origin": source.swc_origin.value, "swc": [swc_sha256, source.swc_unit.value, source.swc_axes.value]}
        names = ("margin_um",) if image.coverage is CoverageKind.box else ("radius_um", "background_share")
        inputs |= {name: getattr(image, name) for name in names}
    return inputs


def _kinds(
    specimen_id: int,
    grid: Grid,
    usable: Mask,
    position_zyx_um: NDArray[np.float64],
    parent: NDArray[np.int64],
    image: ImageConfig,
    projection: NDArray[np.integer[Any]] | None,
) -> NDArray[np.uint8]:
    """Per tile: 0, or 1 + index of its kind in TILE_KINDS."""
    tile = tile_of(image)
    kinds = np.zeros(tile_counts(grid, tile), np.uint8)
    if image.coverage == CoverageKind.box:
        kinds[in_box(grid, position_zyx_um, tile, image.margin_um)] = TILE_KINDS.index("box") + 1
    else:
        near = near_skeleton(grid, position_zyx_um, parent, tile, image.radius_um)
        n_tiles = round(image.background_share * int(near.sum()))
        free = ~near & usable[:, None, None]
        kinds[near] = TILE_KINDS.index("skeleton") + 1
        kinds[background(free, n_tiles, specimen_id, untraced=~near.any(axis=0), projection=projection)] = (
            TILE_KINDS.index("background") + 1
        )
    if not kinds.any():
        raise GridError(f"cell {specimen_id}: no part of the skeleton lies in the stack; {misfit(position_zyx_um, grid)}")
    return kinds


def _unit_of_row(shard_of_row: NDArray[np.int64], n_columns: int, n_bytes: NDArray[Any]) -> NDArray[np.int64]:
    """The unit of each tile, numbered in the order of its shards: a row of `n_columns` shards, cut where it exceeds UNIT_BYTES."""
    shards, of_row = np.unique(shard_of_row, return_inverse=True)
    bytes_of_shard = np.bincount(of_row, weights=n_bytes).astype(np.int64)
    unit_of_shard = np.empty(len(shards), np.int64)
    unit, filled, previous = -1, 0, -1
    for number, (shard, size) in enumerate(zip(shards.tolist(), bytes_of_shard.tolist(), strict=True)):
        if shard // n_columns != previous or filled + size > UNIT_BYTES:
            unit, filled, previous = unit + 1, 0, shard // n_columns
        filled += size
        unit_of_shard[number] = unit
    return unit_of_shard[of_row]


def _merged(tiles: pd.DataFrame, unit_of_row: NDArray[np.int64], widest: int) -> list[slice]:
    """Slices of rows of one unit (-1: not wanted) that touch in a row of a plane and are together at most `widest` voxels wide."""
    z, y0, x0, x1 = (tiles[name].to_numpy() for name in ("z", "y0", "x0", "x1"))
    joins = np.zeros(len(tiles), np.bool_)
    joins[1:] = (z[1:] == z[:-1]) & (y0[1:] == y0[:-1]) & (x0[1:] == x1[:-1]) & (unit_of_row[1:] == unit_of_row[:-1])
    slices: list[slice] = []
    for row in np.flatnonzero(unit_of_row >= 0).tolist():
        if joins[row] and x1[row] - x0[slices[-1].start] <= widest:
            slices[-1] = slice(slices[-1].start, row + 1)
        else:
            slices.append(slice(row, row + 1))
    return slices


def _frame(specimen_id: int, kinds: NDArray[np.uint8], grid: Grid, tile: int, bytes_per_px: int) -> pd.DataFrame:
    z, row, column = np.nonzero(kinds)
    y0, x0 = row * tile, column * tile
    y1, x1 = np.minimum(y0 + tile, grid.shape_zyx[1]), np.minimum(x0 + tile, grid.shape_zyx[2])
    box = {name: values.astype(np.int32) for name, values in zip(("z", "y0", "y1", "x0", "x1"), (z, y0, y1, x0, x1), strict=True)}
    kind = np.array(TILE_KINDS, object)[kinds[z, row, column] - 1]
    return pd.DataFrame({"specimen_id": np.int64(specimen_id), **box, "kind": kind, "bytes": (y1 - y0) * (x1 - x0) * bytes_per_px})


def _size(n_bytes: int) -> str:
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
