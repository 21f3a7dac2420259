"""How dark the stain is: absorbance ``A = -ln(I / B)`` in any window of a stack, I the pixel, B the brightness of empty tissue around it.

Whole numbers throughout (thousandths of absorbance), so that the same pixels give the same answer on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.space import Grid, Shape, Window
from brightfield.stages.align.bricks import Bricks

UNIT = 0.001
"""One step of the whole numbers that stand for absorbance."""

NO_DATA = -32768
"""Stands where pixels were not downloaded, or where too few are around to know the background."""

WINDOW_UM = 41 * 0.1144
"""Side of the running median: 41 pixels of the full-resolution Allen stacks."""

HELD_BYTES = 2**27
"""How much absorbance `Pixels.holding` keeps, since the windows of a cell overlap."""

_BRICK_PLANES = 16
_BRICK_PX, _BRICK_MOST_PX = 64, 256
_BRICK_MEDIANS = 12
"""A brick is as many medians wide, or as wide as a brick may be: one and a half medians more are read around it on every side."""

_LEAST_VALID = 0.25


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels of one cell. read: window -> voxels of uint8 or uint16, dark is stain.

    tiles: (n, 5) int64 rows (z, y0, y1, x0, x1) of what was downloaded, in voxels of `grid`; None where everything was.
    held: the absorbance that was computed so far, see `holding`.
    """

    grid: Grid
    read: Callable[[Window], NDArray[np.uint8] | NDArray[np.uint16]]
    tiles: NDArray[np.int64] | None = None
    held: Bricks | None = None

    def holding(self) -> Pixels:
        """The same stack, computed brick by brick and but once as long as `HELD_BYTES` suffice; the answers are the same."""
        side = _BRICK_PX
        while side < min(_BRICK_MEDIANS * self._median_px, _BRICK_MOST_PX):
            side *= 2
        brick = (_BRICK_PLANES, side, side)
        return replace(self, held=Bricks(self.grid.shape_zyx, brick, self.computed, empty=NO_DATA, limit_bytes=HELD_BYTES))

    def clipped(self, window: Window) -> Window:
        """The part of a window that lies on the grid; empty axes have equal ends."""
        z, y, x = ((max(low, 0), max(min(high, n), max(low, 0))) for (low, high), n in zip(window, self.grid.shape_zyx, strict=True))
        return (z, y, x)

    def downloaded(self, window: Window) -> NDArray[np.bool_]:
        """Which voxels of a window on the grid were downloaded."""
        if self.tiles is None:
            return np.ones(_shape_of(window), np.bool_)
        here = np.zeros(_shape_of(window), np.bool_)
        (z, _), (y, _), (x, _) = window
        _cover_kernel(here, np.ascontiguousarray(self.tiles), z, y, x)
        return here

    def absorbance(self, window: Window, out: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
        """Absorbance of a window on the grid in steps of `UNIT`, NO_DATA where it is not known; in `out` where one is given.

        B is the running median over `WINDOW_UM` of the same plane; of the medians within half a window the brightest, so that a trunk or
        a soma as wide as the window is not its own background. A voxel's value does not depend on the window that it is read in.
        """
        if out is None:
            out = np.empty(_shape_of(window), np.int16)
        if self.held is not None:
            self.held.fill(out, window)
        else:
            found = self.computed(window)
            out[...] = NO_DATA if found is None else found
        return out

    @property
    def _median_px(self) -> int:
        return max(5, round(WINDOW_UM / self.grid.voxel_size_zyx_um[2]))

    def computed(self, window: Window) -> NDArray[np.int16] | None:
        """The absorbance of a window, computed anew; None where nothing of it was downloaded."""
        side = self._median_px
        step = side // 2
        halo = side // 2 + 2 * step  # the nearest median is half a step away, its neighbour one and a half, and both see half a side
        (z0, z1), (y0, y1), (x0, x1) = window
        wide = self.clipped(((z0, z1), (y0 - halo, y1 + halo), (x0 - halo, x1 + halo)))
        valid = self.downloaded(wide)
        if not valid[:, y0 - wide[1][0] : y1 - wide[1][0], x0 - wide[2][0] : x1 - wide[2][0]].any():
            return None
        raw = np.ascontiguousarray(self.read(wide))
        (_, (wy0, wy1), (wx0, wx1)) = wide
        rows, nearest_row = _lattice(wy0, wy1, y0, y1, step)
        columns, nearest_column = _lattice(wx0, wx1, x0, x1, step)
        out = np.full(_shape_of(window), NO_DATA, np.int16)
        sampling = (side // 2, max(2, side // 8), _LEAST_VALID)
        inner = (y0 - wy0, x0 - wx0, nearest_row, nearest_column)
        shade, unknown = _shade_space(raw, len(columns), side // 2, step)
        _absorbance_kernel(out, raw, valid, shade, unknown, rows, columns, *sampling, *inner, _log_table(raw.dtype.str))
        return out


def _shape_of(window: Window) -> Shape:
    (z0, z1), (y0, y1), (x0, x1) = window
    return (z1 - z0, y1 - y0, x1 - x0)


def _shade_space(raw: NDArray[Any], n_columns: int, half: int, step: int) -> tuple[NDArray[Any], int]:
    """Working space of `_shade`, in signed numbers that have room for `unknown`, one above the brightest grey."""
    unknown = np.iinfo(raw.dtype).max + 1
    shape = (raw.shape[1] + 2 * half, step, n_columns + 2 * half // step)
    return np.full(shape, unknown, np.int16 if raw.dtype.itemsize == 1 else np.int32), unknown


@lru_cache(maxsize=2)
def _log_table(dtype: str) -> NDArray[np.int16]:
    """Logarithm of every grey value in steps of `UNIT`; black counts as half a grey value."""
    grey = np.arange(np.iinfo(np.dtype(dtype)).max + 1, dtype=np.float64)
    return np.round(np.log(np.maximum(grey, 0.5)) / UNIT).astype(np.int16)


def _lattice(low: int, high: int, first: int, last: int, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where on an axis medians are taken (multiples of `step`, relative to `low`), and which one is nearest to each of first .. last."""
    points = np.arange(-(-low // step) * step, high, step)
    if not len(points):
        points = np.array([low])
    nearest = (np.arange(first, last) + step // 2) // step - points[0] // step
    return points - low, nearest.clip(0, len(points) - 1)


# ---------------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _cover_kernel(here, tiles, z, y, x):  # type: ignore[no-untyped-def]  # numba infers the types, here and below
    """Mark what tiles cover in a window that begins at (z, y, x)."""
    n_z, n_y, n_x = here.shape
    for t in range(len(tiles)):
        plane = tiles[t, 0] - z
        if 0 <= plane < n_z:
            left, right = max(tiles[t, 3] - x, 0), min(tiles[t, 4] - x, n_x)
            for row in range(max(tiles[t, 1] - y, 0), min(tiles[t, 2] - y, n_y)):
                for column in range(left, right):
                    here[plane, row, column] = True


@njit(cache=True, nogil=True)
def _absorbance_kernel(  # type: ignore[no-untyped-def]
    out, raw, valid, shade, unknown, rows, columns, half, stride, least_valid, top, left, nearest_row, nearest_column, logs
):
    """Absorbance of every plane; `out` begins at (top, left) of `raw`. shade: working space, see `_shade`."""
    medians = np.empty((len(rows), len(columns)), np.int64)
    background = np.empty_like(medians)
    step, slots = shade.shape[1], shade.shape[2]
    side = np.arange(0, 2 * half + 1, stride)
    pattern = np.empty((len(side), len(side)), np.uint64)
    for a in range(len(side)):
        for b in range(len(side)):
            pattern[a, b] = (side[a] * step + side[b] % step) * slots + side[b] // step
    for plane in range(len(raw)):
        if valid[plane].any():
            _shade(shade, raw[plane], valid[plane], columns[0] - half, half, unknown)
            for i in range(len(rows)):
                _row_of_medians(medians[i], shade[rows[i] :].reshape(-1), pattern.reshape(-1), unknown, least_valid)
            _brightest(background, medians)
            _fill(out[plane], raw[plane, top:, left:], valid[plane, top:, left:], background, nearest_row, nearest_column, logs)


@njit(cache=True, nogil=True)
def _shade(shade, grey, known, first, half, unknown):  # type: ignore[no-untyped-def]
    """A plane inside its border of `half`, `unknown` (brighter than anything) where it was not downloaded.

    shade: (row, column modulo the step of the lattice, column // step), columns counted from `first`: what is as far from every point of a
    row of the lattice lies side by side.
    """
    n_steps, n_columns = shade.shape[1], grey.shape[1]
    for y in range(len(grey)):
        for p in range(n_steps):
            for j in range(shade.shape[2]):
                x = first + j * n_steps + p
                shade[y + half, p, j] = grey[y, x] if 0 <= x < n_columns and known[y, x] else unknown


@njit(cache=True, nogil=True)
def _row_of_medians(out, shade, pattern, unknown, least_valid):  # type: ignore[no-untyped-def]
    """The median of the known pixels in the pattern around each lattice point of a row, -1 where too few are known.

    The bits of the answer are found one by one, for all points at a time.
    """
    n = len(out)
    below, rank = np.zeros(n, shade.dtype), np.empty(n, shade.dtype)
    found, tried = np.zeros(n, shade.dtype), np.full(n, unknown, shade.dtype)
    _count_below(below, shade, pattern, tried)
    for j in range(n):
        rank[j] = below[j] // 2
        out[j] = 0 if below[j] >= least_valid * len(pattern) else -1
    bit = unknown >> 1
    while bit:
        for j in range(n):
            tried[j] = found[j] | bit
        _count_below(below, shade, pattern, tried)
        for j in range(n):
            found[j] = tried[j] if below[j] <= rank[j] else found[j]
        bit >>= 1
    for j in range(n):
        out[j] = found[j] if out[j] == 0 else -1


@njit(cache=True, nogil=True)
def _count_below(below, shade, pattern, limit):  # type: ignore[no-untyped-def]
    """How many pixels of the pattern around each point are below its limit; three at a time, as there are 9, 36 or 81 at most levels."""
    n, rest = np.uint64(len(below)), len(pattern) % 3
    below[:] = 0
    for k in range(0, len(pattern) - rest, 3):
        a, b, c = pattern[k], pattern[k + 1], pattern[k + 2]
        for j in range(n):
            below[j] += np.int16(shade[a + j] < limit[j]) + np.int16(shade[b + j] < limit[j]) + np.int16(shade[c + j] < limit[j])
    for k in range(len(pattern) - rest, len(pattern)):
        a = pattern[k]
        for j in range(n):
            below[j] += shade[a + j] < limit[j]


@njit(cache=True, nogil=True)
def _brightest(out, medians):  # type: ignore[no-untyped-def]
    """The maximum of each median and its eight neighbours."""
    n_rows, n_columns = medians.shape
    for i in range(n_rows):
        for j in range(n_columns):
            best = medians[i, j]
            for k in range(max(i - 1, 0), min(i + 2, n_rows)):
                for m in range(max(j - 1, 0), min(j + 2, n_columns)):
                    best = max(best, medians[k, m])
            out[i, j] = best


@njit(cache=True, nogil=True)
def _fill(out, grey, known, background, row, column, logs):  # type: ignore[no-untyped-def]
    """Absorbance of one plane where its pixels and their background are known."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            light = background[row[y], column[x]]
            if known[y, x] and light >= 0:
                out[y, x] = logs[light] - logs[grey[y, x]]
