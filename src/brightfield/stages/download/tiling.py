"""Which tiles of a grid lie near a skeleton, in a box around it, or make good background. Pure geometry on boolean arrays.

A mask of tiles has shape (planes, tile rows, tile columns). Tile (k, j, i) is plane k from row j * tile and column i * tile on, cut at the
end of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.space import Grid, Shape

type Mask = NDArray[np.bool_]
type Reals = NDArray[np.float64]

SAMPLE_UM = 1.0
"""Spacing of the samples that stand for an edge; see `near_skeleton` for what that means."""

BACKGROUND_PLANES = 32
"""Background is taken in blocks of this many planes, so that a patch of the default depth fits into one."""

BACKGROUND_TILES, ROOMY_TILES = 2, 12
"""Tiles along a side of such a block where the stack has so many tiles along each: patches have room to move in it, and its tiles share
requests. In smaller stacks, where blocks of that size would leave little choice, a block is one tile column."""

_DARKEST = 10  # the darkest tenth of the columns that no tile of the skeleton touches
_DARK = (4, 5)  # a pixel is dark below this fraction of the median


def tile_counts(grid: Grid, tile: int) -> Shape:
    """Planes, rows and columns of tiles of `tile` voxels that cover a grid."""
    z, y, x = grid.shape_zyx
    return (z, -(-y // tile), -(-x // tile))


def near_skeleton(grid: Grid, position_zyx_um: Reals, parent: NDArray[np.int64], tile: int, radius_um: float) -> Mask:
    """Tiles within `radius_um` of a node or edge, in 3D.

    A tile is the rectangle of its pixels in the centre of its plane. Edges are sampled so that no point of one is farther than
    h / 2 = SAMPLE_UM / 2 from a sample, and the radius is enlarged to sqrt(R^2 + h^2 / 4): every tile within R is there, and none beyond
    it by more than that enlargement (0.012 um at R = 10).
    """
    reach_um = math.sqrt(radius_um**2 + (SAMPLE_UM / 2) ** 2)
    low, high = np.asarray(grid.extent_zyx_um)
    samples = grid.to_voxel(_samples(position_zyx_um, parent, np.array([low - reach_um - SAMPLE_UM, high + reach_um + SAMPLE_UM])))
    n_z, n_y, n_x = tile_counts(grid, tile)
    changes = np.zeros((n_z + 1, n_y, n_x), np.int32)
    _reach(changes, samples, np.array(grid.shape_zyx), np.array(grid.voxel_size_zyx_um), tile, reach_um)
    near: Mask = np.cumsum(changes[:-1], axis=0) > 0
    return near


@njit(cache=True, nogil=True)
def _reach(changes, samples, shape, size_um, tile, reach_um):  # type: ignore[no-untyped-def]  # numba infers the types, here and below
    """Add 1 to `changes` (planes + 1, rows, columns) where a tile is first reached by a sample (voxels), along z, and -1 behind the last.

    The planes of a tile that a sample reaches are one interval: summed up along z, the changes say how many samples reach it.
    """
    n_z, n_y, n_x = changes.shape[0] - 1, changes.shape[1], changes.shape[2]
    margin_y, margin_x = math.ceil(reach_um / (tile * size_um[1])), math.ceil(reach_um / (tile * size_um[2]))
    for k in range(len(samples)):
        z, y, x = samples[k]
        row, column = math.floor((y + 0.5) / tile), math.floor((x + 0.5) / tile)
        for j in range(max(0, row - margin_y), min(n_y, row + margin_y + 1)):
            left_y = reach_um**2 - (_outside(y, j * tile, shape[1], tile) * size_um[1]) ** 2
            for i in range(max(0, column - margin_x), min(n_x, column + margin_x + 1)):
                left = left_y - (_outside(x, i * tile, shape[2], tile) * size_um[2]) ** 2
                if left >= 0:
                    half = math.sqrt(left) / size_um[0]
                    first = min(max(math.ceil(z - half), 0), n_z)
                    changes[first, j, i] += 1
                    changes[min(max(math.floor(z + half) + 1, first), n_z), j, i] -= 1


def in_box(grid: Grid, position_zyx_um: Reals, tile: int, margin_um: float) -> Mask:
    """Tiles that touch the bounding box of the positions, enlarged by `margin_um` on all sides."""
    corners_um = np.stack([position_zyx_um.min(axis=0) - margin_um, position_zyx_um.max(axis=0) + margin_um])
    low, high = grid.to_index(corners_um)
    (z0, y0, x0), (z1, y1, x1) = np.clip([low, high + 1], 0, grid.shape_zyx).tolist()
    box = np.zeros(tile_counts(grid, tile), np.bool_)
    if y1 > y0 and x1 > x0:
        box[z0:z1, y0 // tile : -(-y1 // tile), x0 // tile : -(-x1 // tile)] = True
    return box


def background(free: Mask, n_tiles: int, specimen_id: int, *, untraced: Mask, projection: NDArray[np.integer[Any]] | None) -> Mask:
    """`n_tiles` of the `free` tiles: a third dark but untraced, a third at the edges of the stack, the rest from anywhere.

    untraced: (rows, columns), tile columns that the skeleton does not touch in any plane. projection: minimum along z of the whole
    stack, in which those of them that hold dark pixels are found; where there is none, or none is dark, the rest takes that third.
    Chosen by a hash of (cell, block), so that the choice is a matter of this cell alone.
    """
    edge = background_edge(free.shape)
    shape = (-(-free.shape[0] // BACKGROUND_PLANES), *(-(-n // edge) for n in free.shape[1:]))
    dark = np.broadcast_to(_any_of_block(_dark(untraced, projection), edge), shape)
    at_edge = np.zeros(shape, np.bool_)
    at_edge[[0, -1]] = at_edge[:, [0, -1]] = at_edge[:, :, [0, -1]] = True
    ordered = np.argsort(_hash(specimen_id, shape).ravel(), kind="stable")
    chosen = np.zeros(free.shape, np.bool_)
    for allowed, quota in ((dark, n_tiles // 3), (at_edge, 2 * (n_tiles // 3)), (np.ones(shape, np.bool_), n_tiles)):
        _take(chosen, free, np.stack(np.unravel_index(ordered[allowed.ravel()[ordered]], shape), axis=1), quota - int(chosen.sum()))
    return chosen


def background_edge(counts: Sequence[int]) -> int:
    """Tiles along a side of a block of background, in a stack of so many planes, rows and columns of tiles."""
    return BACKGROUND_TILES if min(counts[1:]) >= ROOMY_TILES else 1


def _any_of_block(columns: Mask, edge: int) -> Mask:
    """Whether any of the tile columns of a block is marked."""
    padded = np.pad(columns, [(0, -n % edge) for n in columns.shape])
    marked: Mask = padded.reshape(padded.shape[0] // edge, edge, padded.shape[1] // edge, edge).any(axis=(1, 3))
    return marked


def _take(chosen: Mask, free: Mask, blocks: NDArray[np.int64], quota: int) -> None:
    """Mark free tiles of the blocks (n, 3), one block and in it one tile column after the other, until `quota` tiles are marked."""
    edge = background_edge(free.shape)
    for block, row, column in blocks.tolist():
        if quota <= 0:
            return
        planes = slice(block * BACKGROUND_PLANES, (block + 1) * BACKGROUND_PLANES)
        place = planes, slice(row * edge, (row + 1) * edge), slice(column * edge, (column + 1) * edge)
        y, x, z = np.nonzero((free[place] & ~chosen[place]).transpose(1, 2, 0))
        chosen[place][z[:quota], y[:quota], x[:quota]] = True
        quota -= len(z[:quota])


def _dark(untraced: Mask, projection: NDArray[np.integer[Any]] | None) -> Mask:
    """The tenth of the untraced columns with most dark pixels in the minimum projection; none without dark pixels."""
    if projection is None or not untraced.any():
        return np.zeros_like(untraced)
    above, below = _DARK[1], _DARK[0] * int(np.sort(projection, axis=None)[projection.size // 2])
    is_dark = (projection.astype(np.int64) * above < below).astype(np.int64)
    for axis, n in enumerate(untraced.shape):
        is_dark = np.add.reduceat(is_dark, np.arange(n) * projection.shape[axis] // n, axis=axis)
    score = np.where(untraced, is_dark, 0)
    threshold = np.sort(score, axis=None)[-max(1, int(untraced.sum()) // _DARKEST)]
    darkest: Mask = (score >= threshold) & (score > 0)
    return darkest


def _samples(position_zyx_um: Reals, parent: NDArray[np.int64], box_um: Reals) -> Reals:
    """The nodes, and points along the edges so that neighbours are at most SAMPLE_UM apart; of an edge those within (2, 3) `box_um`.

    So the work is bounded by the box, however far a node lies.
    """
    child = np.flatnonzero(parent >= 0)
    start, step = position_zyx_um[parent[child]], position_zyx_um[child] - position_zyx_um[parent[child]]
    n_inner = np.maximum(np.ceil(np.sqrt((step**2).sum(axis=1)) / SAMPLE_UM).astype(np.int64) - 1, 0)
    enter, leave = _within(start, step, box_um)
    first = np.maximum(np.floor(enter * (n_inner + 1)).astype(np.int64), 1)
    count = np.maximum(np.minimum(np.ceil(leave * (n_inner + 1)).astype(np.int64), n_inner) - first + 1, 0)
    edge = np.repeat(np.arange(len(child)), count)
    number = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    along = number / (n_inner[edge] + 1)
    return np.concatenate([position_zyx_um, start[edge] + along[:, None] * step[edge]])


def _within(start: Reals, step: Reals, box_um: Reals) -> tuple[Reals, Reals]:
    """Where edges (start + t step, 0 <= t <= 1) enter and leave a box; leave < enter for those that miss it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        at = (box_um[:, None, :] - start) / step  # (2 faces, edges, axes)
    still = step == 0
    inside = (start >= box_um[0]) & (start <= box_um[1])
    low = np.where(still, np.where(inside, 0.0, 2.0), at.min(axis=0))
    high = np.where(still, np.where(inside, 1.0, -1.0), at.max(axis=0))
    return np.clip(low.max(axis=1), 0.0, 2.0), np.clip(high.min(axis=1), -1.0, 1.0)


@njit(cache=True, nogil=True)
def _outside(position, first, n, tile):  # type: ignore[no-untyped-def]
    """How far a position (voxels) is from the faces of a tile that begins at `first` and is cut at `n`; 0 inside."""
    return max(first - 0.5 - position, position - (min(first + tile, n) - 0.5), 0.0)


def _hash(specimen_id: int, shape: Shape) -> NDArray[np.uint64]:
    """A number per (cell, block, row, column) by splitmix64 (Steele et al. 2014, doi 10.1145/2660193.2660195), the same everywhere."""
    mixed = np.full(shape, specimen_id % 2**64, np.uint64)
    for index in np.indices(shape, np.uint64, sparse=True):
        mixed = (mixed + index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def misfit(position_zyx_um: NDArray[np.float64], grid: Grid) -> str:
    """Where skeleton and stack are, and what to check."""
    low, high = position_zyx_um.min(axis=0), position_zyx_um.max(axis=0)
    spans = ", ".join(f"{axis} {a:.0f} to {b:.0f}" for axis, a, b in zip("zyx", low, high, strict=True))
    stack = ", ".join(f"{axis} 0 to {n * edge:.0f}" for axis, n, edge in zip("zyx", grid.shape_zyx, grid.voxel_size_zyx_um, strict=True))
    scale = " x ".join(f"{edge:g}" for edge in grid.voxel_size_zyx_um)
    return (
        f"it spans {spans} um, the stack {stack} um at {scale} um a downloaded voxel (z, y, x); "
        "check the image's pixel size and plane spacing, and the frame and unit of the SWC"
    )
