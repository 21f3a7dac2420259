"""How dark the stain is: absorbance ``A = -ln(I / B)`` in any window of a stack, I the pixel, B the brightness of empty tissue around it.

Whole numbers throughout (thousandths of absorbance), so that the same pixels give the same answer on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.space import Grid, Window

UNIT = 0.001
"""One step of the whole numbers that stand for absorbance."""

NO_DATA = -32768
"""Stands where pixels were not downloaded, or where too few are around to know the background."""

WINDOW_UM = 41 * 0.1144
"""Side of the running median: 41 pixels of the full-resolution Allen stacks."""

HELD_BYTES = 2**28
"""Below this the absorbance of a whole cell is kept in memory: windows overlap, and coarse stacks are small."""

_LEAST_VALID = 0.25


@dataclass(frozen=True, slots=True)
class Pixels:
    """The pixels of one cell. read: window -> voxels of uint8 or uint16, dark is stain.

    tiles: (n, 5) int64 rows (z, y0, y1, x0, x1) of what was downloaded, in voxels of `grid`; None where everything was.
    held: the absorbance of the whole grid, see `holding`.
    """

    grid: Grid
    read: Callable[[Window], NDArray[np.uint8] | NDArray[np.uint16]]
    tiles: NDArray[np.int64] | None = None
    held: NDArray[np.int16] | None = None

    def holding(self) -> Pixels:
        """The same stack with the absorbance of the whole grid computed once, where that fits `HELD_BYTES`; the answers are the same."""
        if 2 * self.grid.n_voxels > HELD_BYTES:
            return self
        return replace(self, held=self.absorbance(self.grid.window))

    def clipped(self, window: Window) -> Window:
        """The part of a window that lies on the grid; empty axes have equal ends."""
        z, y, x = ((max(low, 0), max(min(high, n), max(low, 0))) for (low, high), n in zip(window, self.grid.shape_zyx, strict=True))
        return (z, y, x)

    def downloaded(self, window: Window) -> NDArray[np.bool_]:
        """Which voxels of a window on the grid were downloaded."""
        shape = tuple(high - low for low, high in window)
        if self.tiles is None:
            return np.ones(shape, np.bool_)
        here = np.zeros(shape, np.bool_)
        (z0, z1), (y0, y1), (x0, x1) = window
        z, top, bottom, left, right = self.tiles.T
        for row in self.tiles[(z >= z0) & (z < z1) & (top < y1) & (bottom > y0) & (left < x1) & (right > x0)].tolist():
            here[row[0] - z0, max(row[1] - y0, 0) : row[2] - y0, max(row[3] - x0, 0) : row[4] - x0] = True
        return here

    def absorbance(self, window: Window) -> NDArray[np.int16]:
        """Absorbance of a window on the grid in steps of `UNIT`, NO_DATA where it is not known.

        B is the running median over `WINDOW_UM` of the same plane; of the medians within half a window the brightest, so that a trunk or
        a soma as wide as the window is not its own background. A voxel's value does not depend on the window that it is read in.
        """
        if self.held is not None:
            return self.held[tuple(slice(low, high) for low, high in window)].copy()
        side = max(5, round(WINDOW_UM / self.grid.voxel_size_zyx_um[2]))
        step = side // 2
        halo = side // 2 + 2 * step  # the nearest median is half a step away, its neighbour one and a half, and both see half a side
        (z0, z1), (y0, y1), (x0, x1) = window
        wide = self.clipped(((z0, z1), (y0 - halo, y1 + halo), (x0 - halo, x1 + halo)))
        out = np.full((z1 - z0, y1 - y0, x1 - x0), NO_DATA, np.int16)
        valid = self.downloaded(wide)
        if not valid.any():
            return out
        raw = self.read(wide)
        logs = _log_table(raw.dtype.str)
        (_, (wy0, wy1), (wx0, wx1)) = wide
        rows, nearest_row = _lattice(wy0, wy1, y0, y1, step)
        columns, nearest_column = _lattice(wx0, wx1, x0, x1, step)
        for plane in range(z1 - z0):
            if valid[plane].any():
                medians = _medians(raw[plane], valid[plane], rows, columns, side // 2, max(2, side // 8), _LEAST_VALID)
                inner = raw[plane, y0 - wy0 : y1 - wy0, x0 - wx0 : x1 - wx0]
                known = valid[plane, y0 - wy0 : y1 - wy0, x0 - wx0 : x1 - wx0]
                _fill(out[plane], inner, known, _brightest(medians), nearest_row, nearest_column, logs)
        return out


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


def _brightest(medians: NDArray[np.int32]) -> NDArray[np.int32]:
    """The maximum of each median and its eight neighbours."""
    rows = medians.copy()
    rows[1:] = np.maximum(rows[1:], medians[:-1])
    rows[:-1] = np.maximum(rows[:-1], medians[1:])
    best = rows.copy()
    best[:, 1:] = np.maximum(best[:, 1:], rows[:, :-1])
    best[:, :-1] = np.maximum(best[:, :-1], rows[:, 1:])
    return best


@njit(cache=True, nogil=True)
def _medians(plane, valid, rows, columns, half, stride, least_valid):  # type: ignore[no-untyped-def]  # numba infers the types
    """Median of the valid pixels around each lattice point, -1 where too few are."""
    n_rows, n_columns = plane.shape
    out = np.full((len(rows), len(columns)), -1, np.int32)
    values = np.empty((2 * half // stride + 1) ** 2, plane.dtype)
    for i in range(len(rows)):
        for j in range(len(columns)):
            n = 0
            for y in range(rows[i] - half, rows[i] + half + 1, stride):
                for x in range(columns[j] - half, columns[j] + half + 1, stride):
                    if 0 <= y < n_rows and 0 <= x < n_columns and valid[y, x]:
                        values[n] = plane[y, x]
                        n += 1
            if n >= least_valid * len(values):
                out[i, j] = np.partition(values[:n], n // 2)[n // 2]
    return out


@njit(cache=True, nogil=True)
def _fill(out, grey, known, background, row, column, logs):  # type: ignore[no-untyped-def]
    """Absorbance of one plane where its pixels and their background are known."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            light = background[row[y], column[x]]
            if known[y, x] and light >= 0:
                out[y, x] = logs[light] - logs[grey[y, x]]
