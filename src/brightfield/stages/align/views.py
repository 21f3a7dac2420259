"""The absorbance around one path, with and without the traced tubes beside it: what alignment is measured in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.skeleton import ROOT, Indices, Skeleton
from brightfield.core.space import Grid, Window
from brightfield.stages.align.absorbance import NO_DATA, Pixels
from brightfield.stages.align.paths import Reals

SEARCH_UM = 5.0
"""How far a whole cell is moved in search of a better place."""

LARGEST_VOXELS = 2**29
"""A path that needs more around it leads across a whole stack: what it shows is not measured."""

_NO_WINDOW: Window = ((0, 0), (0, 0), (0, 0))
_BESIDE_UM, _ELSEWHERE_UM = (0.7, 1.4), (1.5, 3.0)
"""How far around a traced tube, sideways and axially, stain is taken for its own: close by, and with its blur."""


class Tubes:
    """The edges and the soma of a skeleton, to be left out of what is tissue."""

    def __init__(self, skeleton: Skeleton) -> None:
        child = np.flatnonzero(skeleton.parent != ROOT)
        self._child, self._n_nodes = child, len(skeleton)
        self._start = skeleton.position_zyx_um[child]
        self._end = skeleton.position_zyx_um[skeleton.parent[child]]
        self._radius = skeleton.radius_um[child]
        soma = np.array([] if skeleton.soma is None else [skeleton.soma], np.int64)
        self._soma, self._soma_radius = skeleton.position_zyx_um[soma], skeleton.radius_um[soma]

    def left_out(
        self, values: NDArray[np.int16], grid: Grid, margin_um: tuple[float, float], own: Indices | Sequence[int] = ()
    ) -> NDArray[np.int16]:
        """A copy that has NO_DATA within radius + margin of every edge but those of the nodes `own`; twice the margin around the soma.

        values: absorbance of the grid inside a border of one voxel. margin_um: (sideways, axial).
        """
        others = np.ones(self._n_nodes, np.bool_)
        others[np.asarray(own, np.int64)] = False
        masked = values.copy()
        origin, size = np.asarray(grid.origin_zyx_um), np.asarray(grid.voxel_size_zyx_um)
        _mask_kernel(masked, self._start, self._end, self._radius, others[self._child], origin, size, *margin_um)
        every = np.ones(len(self._soma), np.bool_)
        lateral, axial = margin_um
        _mask_kernel(masked, self._soma, self._soma, self._soma_radius, every, origin, size, 2 * lateral, 2 * axial)
        return masked


@dataclass(frozen=True, slots=True)
class View:
    """Absorbance inside a border of one voxel without data, (n_z + 2, n_y + 2, n_x + 2) int16; grid: without the border.

    tube: what is under a path. beside: the same without the other traced tubes, so that a neighbour's stain is not taken for tissue.
    """

    tube: NDArray[np.int16]
    beside: NDArray[np.int16]
    grid: Grid

    @classmethod
    def of(cls, pixels: Pixels, window: Window, tubes: Tubes | None = None, own: Indices | Sequence[int] = ()) -> View:
        """What a window of the stack shows; beside, all tubes are left out but those of the nodes `own`."""
        tube = np.full([high - low + 2 for low, high in window], NO_DATA, np.int16)
        pixels.absorbance(window, tube[1:-1, 1:-1, 1:-1])
        grid = pixels.grid.crop(window)
        return cls(tube, tube if tubes is None else tubes.left_out(tube, grid, _BESIDE_UM, own), grid)

    def elsewhere(self, tubes: Tubes) -> View:
        """The same window without the traced tubes and their blur: what random placements are laid over."""
        values = tubes.left_out(self.tube, self.grid, _ELSEWHERE_UM)
        return View(values, values, self.grid)


def window_around(pixels: Pixels, position: Reals, margin_um: float) -> Window:
    """The part of the stack around positions (n, 3) um; less than the margin in z, where a cell is never moved as far.

    Empty where it would hold more than LARGEST_VOXELS.
    """
    if not len(position):
        return _NO_WINDOW
    z_margin = min(margin_um, SEARCH_UM + 1.0)
    margin = np.array([z_margin, margin_um, margin_um])
    low = pixels.grid.to_index(position.min(axis=0) - margin).tolist()
    high = (pixels.grid.to_index(position.max(axis=0) + margin) + 1).tolist()
    window = pixels.clipped(((low[0], high[0]), (low[1], high[1]), (low[2], high[2])))
    return window if prod(last - first for first, last in window) <= LARGEST_VOXELS else _NO_WINDOW


def is_empty(window: Window) -> bool:
    """Whether a window holds no voxel."""
    return any(low >= high for low, high in window)


# ---------------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _mask_kernel(  # type: ignore[no-untyped-def]  # numba infers the types, here and below
    values, start_um, end_um, radius_um, chosen, origin_um, size_um, lateral_um, axial_um
):
    """Forget the voxels within radius + margin of every chosen edge; `values` has a border of one voxel."""
    n_z, n_y, n_x = values.shape[0] - 2, values.shape[1] - 2, values.shape[2] - 2
    start, end, reach = np.empty(3), np.empty(3), np.empty(3)
    for e in range(len(start_um)):
        if not chosen[e]:
            continue
        for axis in range(3):
            start[axis] = (start_um[e, axis] - origin_um[axis]) / size_um[axis]
            end[axis] = (end_um[e, axis] - origin_um[axis]) / size_um[axis]
            reach[axis] = (radius_um[e] + (axial_um if axis == 0 else lateral_um)) / size_um[axis]
        if _meets(start[1], end[1], reach[1], n_y) and _meets(start[2], end[2], reach[2], n_x) and _meets(start[0], end[0], reach[0], n_z):
            _mask_edge(values, start, end, reach, size_um)


@njit(cache=True, nogil=True)
def _meets(start, end, reach, n):  # type: ignore[no-untyped-def]
    return max(start, end) + reach > 0 and min(start, end) - reach < n


@njit(cache=True, nogil=True)
def _mask_edge(values, start, end, reach, size_um):  # type: ignore[no-untyped-def]
    """Forget the voxels within ellipsoids of half axes `reach` every half um along an edge; positions in voxels."""
    n_z, n_y, n_x = values.shape[0] - 2, values.shape[1] - 2, values.shape[2] - 2
    span = 0.0
    for axis in range(3):
        span += ((end[axis] - start[axis]) * size_um[axis]) ** 2
    n = int(np.ceil(np.sqrt(span) / 0.5)) + 1
    if _covers(values.shape, start, reach):
        values[:] = NO_DATA
        return
    first, last = _samples_near(values.shape, start, end, reach, n)
    for k in range(first, last):
        share = k / max(n - 1, 1)
        z = start[0] + share * (end[0] - start[0])
        y = start[1] + share * (end[1] - start[1])
        x = start[2] + share * (end[2] - start[2])
        for i in range(max(int(np.ceil(z - reach[0])), 0), min(int(np.floor(z + reach[0])) + 1, n_z)):
            for j in range(max(int(np.ceil(y - reach[1])), 0), min(int(np.floor(y + reach[1])) + 1, n_y)):
                rest = 1.0 - ((i - z) / reach[0]) ** 2 - ((j - y) / reach[1]) ** 2
                if rest > 0.0:
                    half = np.sqrt(rest) * reach[2]
                    for x_index in range(max(int(np.ceil(x - half)), 0), min(int(np.floor(x + half)) + 1, n_x)):
                        values[i + 1, j + 1, x_index + 1] = NO_DATA


@njit(cache=True, nogil=True)
def _covers(shape, centre, reach):  # type: ignore[no-untyped-def]
    """Whether an ellipsoid holds every voxel inside the border."""
    total = 0.0
    for axis in range(3):
        total += (max(abs(centre[axis]), abs(shape[axis] - 3 - centre[axis])) / reach[axis]) ** 2
    return total < 1.0


@njit(cache=True, nogil=True)
def _samples_near(shape, start, end, reach, n):  # type: ignore[no-untyped-def]
    """The range of an edge's `n` samples whose ellipsoids may meet the voxels inside the border, with one to spare on either side."""
    low, high = 0.0, 1.0
    for axis in range(3):
        along = end[axis] - start[axis]
        if along != 0.0:
            one, other = (-reach[axis] - start[axis]) / along, (shape[axis] - 2 + reach[axis] - start[axis]) / along
            low, high = max(low, min(one, other)), min(high, max(one, other))
    if low > high:
        return 0, 0
    return max(int(low * (n - 1)) - 1, 0), min(int(high * (n - 1)) + 3, n)
