"""Which tiles of which planes a configuration asks for, and what they cost: decided before any byte is fetched.

Pure and deterministic: the plan of a cell depends on that cell and on the options alone, so that adding cells changes nothing. Tiles are
boxes of the downloaded grid (`space.download_grid`), aligned to multiples of the tile's edge, one plane each.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brightfield.config.options import CoverageKind, ImageConfig, SourceConfig, SwcOrigin, tile_of
from brightfield.core.cell import Cell, Stack
from brightfield.core.errors import GridError
from brightfield.core.reach import refuse_far
from brightfield.core.space import Grid, Shape, download_grid, swc_to_stack_um
from brightfield.stages.download.tiling import Mask, background, background_edge, in_box, misfit, near_skeleton, tile_counts
from brightfield.stages.download.units import Pictures, Unit, boxes_of

if TYPE_CHECKING:
    from brightfield.core.skeleton import Skeleton

TILE_KINDS = ("skeleton", "background", "box", "full")

PLANNED_COLUMNS = ("specimen_id", "z", "y0", "y1", "x0", "x1", "kind", "bytes")
"""Those columns of `schema.TILES` that a plan knows; the others are what came of it."""


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
    def _pictures(self) -> Pictures:
        n_bytes = self.tiles["bytes"].to_numpy(np.int64)
        return Pictures(boxes_of(self.tiles), self.requested, n_bytes, tile=self.tile, shard_zyx=self.shard_zyx)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """What is fetched, in the order that completes shards soonest."""
        return self._pictures.units()

    def packed(self) -> bytes:
        """The plan as few bytes as can be, for plans that wait: a tenth of what it is in memory, or less."""
        return zlib.compress(pickle.dumps(replace(self)), 1)

    @staticmethod
    def unpacked(data: bytes) -> CellPlan:
        """The plan that was `packed` by this program."""
        plan: CellPlan = pickle.loads(zlib.decompress(data))  # noqa: S301 - our own
        return plan

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
        return len(self._pictures.boxes)

    @property
    def n_bytes_asked(self) -> int:
        """Uncompressed bytes of all pictures: `n_bytes`, and what is thrown away to save requests."""
        y0, y1, x0, x1 = self._pictures.boxes.T
        return int(((y1 - y0) * (x1 - x0)).sum()) * self.bytes_per_px

    @property
    def n_planes(self) -> int:
        """Planes from which something is fetched."""
        return int(self.tiles["z"][self.requested].nunique())

    @property
    def n_bytes(self) -> int:
        """Uncompressed bytes of what will be fetched."""
        return int(self.tiles["bytes"][self.requested].sum())


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
        placed = skeleton.moved_to(swc_to_stack_um(skeleton.position_zyx_um, cell.stack.grid, swc_origin.value))
        refuse_far(placed, cell.stack.grid)
        kinds = _kinds(cell.specimen_id, grid, usable, placed.position_zyx_um, placed.parent, image, projection)
    return plan_of_tiles(cell.specimen_id, cell.stack, _frame(cell.specimen_id, kinds, grid, tile, cell.stack.bits // 8), image)


def plan_of_tiles(specimen_id: int, stack: Stack, tiles: pd.DataFrame, image: ImageConfig) -> CellPlan:
    """The plan of a cell whose tiles are known: columns PLANNED_COLUMNS, as of a plan or of the ledger of a finished image."""
    grid = download_grid(stack.grid, image.level, image.z_step)
    usable = np.array([plane.usable for plane in stack.planes[:: image.z_step]])
    z, y, x = image.shard_zyx
    known, shard = tiles[list(PLANNED_COLUMNS)], (z, y, x)
    return CellPlan(specimen_id, grid, image.level, image.z_step, known, usable, shard, tile_of(image), stack.bits // 8)


def plan_inputs(stack: Stack, image: ImageConfig, source: SourceConfig, swc_sha256: str | None) -> dict[str, Any]:
    """The options that decide which pixels a plan asks for, and the skeleton where they need it: with equal inputs it is the same tiles.

    How tiles merge into requests is not among them: it changes no pixel.
    """
    inputs: dict[str, Any] = {name: getattr(image, name) for name in ("level", "z_step", "shard_zyx")}
    inputs["tile_px"] = tile_of(image) << image.level  # of full resolution
    inputs["coverage"] = image.coverage.value
    if image.coverage is not CoverageKind.full:
        inputs |= {"swc_origin": source.swc_origin.value, "swc": [swc_sha256, source.swc_unit.value, source.swc_axes.value]}
        names = ("margin_um",) if image.coverage is CoverageKind.box else ("radius_um", "background_share")
        inputs |= {name: getattr(image, name) for name in names}
    grid = download_grid(stack.grid, image.level, image.z_step)
    if image.coverage is CoverageKind.skeleton and (edge := background_edge(tile_counts(grid, tile_of(image)))) > 1:
        inputs["background_tiles"] = edge
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


def _frame(specimen_id: int, kinds: NDArray[np.uint8], grid: Grid, tile: int, bytes_per_px: int) -> pd.DataFrame:
    z, row, column = np.nonzero(kinds)
    y0, x0 = row * tile, column * tile
    y1, x1 = np.minimum(y0 + tile, grid.shape_zyx[1]), np.minimum(x0 + tile, grid.shape_zyx[2])
    box = {name: values.astype(np.int32) for name, values in zip(("z", "y0", "y1", "x0", "x1"), (z, y0, y1, x0, x1), strict=True)}
    kind = np.array(TILE_KINDS, object)[kinds[z, row, column] - 1]
    return pd.DataFrame({"specimen_id": np.int64(specimen_id), **box, "kind": kind, "bytes": (y1 - y0) * (x1 - x0) * bytes_per_px})
