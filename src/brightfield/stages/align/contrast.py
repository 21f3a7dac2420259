"""The stain under a path and beside it: absorbance in the tube, in the ring around it, and at every small shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, nan, sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.core.space import Grid, Window
from brightfield.stages.align.absorbance import NO_DATA, Pixels
from brightfield.stages.align.paths import Reals, Stretch

SEARCH_UM = 5.0
"""How far a whole cell is moved in search of a better place."""
_TUBE = np.array([-0.5, 0.0, 0.5])
_SD_FLOOR = 2.0


@dataclass(frozen=True, slots=True)
class Gates:
    """What counts as aligned; the options of the `align` configuration group and the drawn radius floor."""

    d_prime_min: float = 3.0
    max_shift_um: float = 0.5
    alongside_um: float = 3.0
    max_shift_z_um: float = 1.0
    coverage_min: float = 0.5
    stretch_um: float = 30.0
    ring_um: tuple[float, float] = (1.4, 1.7)
    r_min_um: float = 0.23


@dataclass(frozen=True, slots=True)
class Contrast:
    """Absorbance inside the tube and beside it, (m,) and (m, k) in `UNIT` steps; NaN inside where there are no pixels."""

    inside: Reals
    ring: NDArray[np.int16]

    def ring_moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the ring without what is far darker than most of it: the neighbours' stain."""
        values = np.sort(self.ring[self.ring != NO_DATA]).astype(np.int64)
        if len(values) < 4:
            return nan, nan
        middle = int(values[len(values) // 2])
        spread = int(np.sort(np.abs(values - middle))[len(values) // 2])
        kept = values[values <= middle + max(5 * spread, 20)]
        n, total, squares = len(kept), int(kept.sum()), int((kept * kept).sum())
        return total / n, max(sqrt(max(n * squares - total * total, 0)) / n, _SD_FLOOR)

    @property
    def d_prime(self) -> float:
        """(mean inside - mean of the ring) / standard deviation of the ring."""
        mean, sd = self.ring_moments()
        inside = self.inside[~np.isnan(self.inside)]
        return nan if not len(inside) else (_mean(inside) - mean) / sd

    @property
    def coverage(self) -> float:
        """Share of samples with pixels that are darker than the ring by more than its standard deviation."""
        mean, sd = self.ring_moments()
        inside = self.inside[~np.isnan(self.inside)]
        return nan if not len(inside) else np.count_nonzero(inside > mean + sd) / len(inside)

    @property
    def n_samples(self) -> int:
        """Samples with pixels."""
        return int(np.count_nonzero(~np.isnan(self.inside)))


def _mean(values: Reals) -> float:
    return float(np.add.accumulate(values)[-1]) / len(values)  # one after the other: numpy's own sum may group by vector width


class View:
    """The absorbance around one path, and how paths are laid over it.

    tube: what is under the path. beside: the same without the other traced tubes, so that a neighbour's stain is not taken for tissue.
    """

    def __init__(self, tube: NDArray[np.int16], beside: NDArray[np.int16], grid: Grid, gates: Gates) -> None:
        self.tube, self.beside, self.grid, self.gates = tube, beside, grid, gates
        self._size = np.asarray(grid.voxel_size_zyx_um)

    @classmethod
    def of(cls, pixels: Pixels, window: Window, gates: Gates, skeleton: Skeleton | None = None, own: Sequence[int] = ()) -> View:
        """What a window of the stack shows; beside, the edges of `skeleton` are left out, except those of the nodes `own`."""
        tube, grid = pixels.absorbance(window), pixels.grid.crop(window)
        beside = tube if skeleton is None else _without(tube, grid, skeleton, 0.7, 1.4, own)
        return cls(tube, beside, grid, gates)

    def elsewhere(self, skeleton: Skeleton) -> View:
        """The same window without the traced tubes and their blur: what random placements are laid over."""
        values = _without(self.tube, self.grid, skeleton, 1.5, 3.0)
        return View(values, values, self.grid, self.gates)

    @property
    def lattice(self) -> tuple[Reals, Reals]:
        """The shifts that are tried, sideways and axial, um: half a voxel apart, or a voxel where voxels are fine."""
        size_z, size_y, size_x = self._size.tolist()
        step_um = min(max(size_y, size_x), 0.23)
        return _symmetric(self.gates.alongside_um, step_um), _symmetric(1.5 * self.gates.max_shift_z_um, max(0.28, size_z / 2))

    def scores(self, path: Stretch, cap: float = np.inf) -> Reals:
        """Mean absorbance in the tube above that beside it, (n_s, n_dz), for every shift; NaN where too few samples have pixels.

        Beside is subtracted because the halo of a soma out of focus is darker than a thin neurite in focus. No sample counts for more
        than `cap`.
        """
        s_um, dz_um = self.lattice
        step_um = float(s_um[-1] - s_um[-2])
        wall = path.radius - self.gates.r_min_um
        ring = np.rint((wall + sum(self.gates.ring_um) / 2) / step_um).astype(np.int64)
        half = np.rint(0.5 * path.radius / step_um).astype(np.int64)
        reach = len(s_um) // 2 + int(ring.max())
        offsets_um = np.arange(-reach, reach + 1) * step_um
        position, across, dz = self.grid.to_voxel(path.position), path.normal / self._size[1:], dz_um / self._size[0]
        tube = _straight_kernel(self.tube, position, across, offsets_um, dz)
        beside = tube if self.beside is self.tube else _straight_kernel(self.beside, position, across, offsets_um, dz)
        total, count = _ridge_kernel(tube, beside, half, ring, len(s_um), int(min(6 * cap, 2**40)))
        return np.where(count >= 0.25 * len(position), total / np.maximum(6 * count, 1), nan)

    def contrast(self, path: Stretch, s_um: float, dz_um: float) -> Contrast:
        """Inside and ring with the path shifted."""
        wall = np.maximum(path.radius - self.gates.r_min_um, 0.0)[:, None]
        ring = wall + np.linspace(*self.gates.ring_um, 3)
        across = path.normal / self._size[1:]
        position = self.grid.to_voxel(path.position)
        position[:, 0] += dz_um / self._size[0]
        position[:, 1:] += s_um * across
        inside = _cross_kernel(self.tube, position, across, path.radius[:, None] * _TUBE)
        known = (inside != NO_DATA).all(axis=1)
        mean = np.where(known, inside.astype(np.int64).sum(axis=1) / len(_TUBE), nan)
        return Contrast(mean, _cross_kernel(self.beside, position, across, np.hstack([-ring, ring])))


def _symmetric(reach: float, step: float) -> Reals:
    n = floor(reach / step + 1e-9)
    return np.arange(-n, n + 1, dtype=np.float64) * step


def _without(
    values: NDArray[np.int16], grid: Grid, skeleton: Skeleton, lateral_um: float, axial_um: float, own: Sequence[int] = ()
) -> NDArray[np.int16]:
    """A copy that has NO_DATA within radius + margin of every edge but those of the nodes `own`; twice the margin around the soma."""
    position = grid.to_voxel(skeleton.position_zyx_um)
    size = np.asarray(grid.voxel_size_zyx_um)
    child = np.setdiff1d(np.flatnonzero(skeleton.parent != ROOT), own)
    reach = np.array([axial_um, lateral_um, lateral_um]) / size + skeleton.radius_um[child, None] / size
    low = np.minimum(position[child], position[skeleton.parent[child]]) - reach
    high = np.maximum(position[child], position[skeleton.parent[child]]) + reach
    child = child[((high > 0) & (low < values.shape)).all(axis=1)]
    masked = values.copy()
    _mask_kernel(masked, position[child], position[skeleton.parent[child]], skeleton.radius_um[child], size, lateral_um, axial_um)
    if skeleton.soma is not None:
        soma = position[[skeleton.soma]]
        _mask_kernel(masked, soma, soma, skeleton.radius_um[[skeleton.soma]], size, 2 * lateral_um, 2 * axial_um)
    return masked


def highest(scores: Reals) -> float:
    """The best of the known scores; -inf where none is known."""
    return float(np.where(np.isnan(scores), -np.inf, scores).max())


def window_around(pixels: Pixels, position: Reals, margin_um: float) -> Window:
    """The part of the stack around positions (n, 3) um; less than the margin in z, where a cell is never moved as far."""
    if not len(position):
        return ((0, 0), (0, 0), (0, 0))
    z_margin = min(margin_um, SEARCH_UM + 1.0)
    margin = np.array([z_margin, margin_um, margin_um])
    low = pixels.grid.to_index(position.min(axis=0) - margin).tolist()
    high = (pixels.grid.to_index(position.max(axis=0) + margin) + 1).tolist()
    return pixels.clipped(((low[0], high[0]), (low[1], high[1]), (low[2], high[2])))


def is_empty(window: Window) -> bool:
    """Whether a window holds no voxel."""
    return any(low >= high for low, high in window)


# ---------------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _at(values, z, y, x):  # type: ignore[no-untyped-def]  # numba infers the types, here and below
    """The voxel that holds a continuous position."""
    k, j, i = int(np.floor(z + 0.5)), int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
    inside = 0 <= k < values.shape[0] and 0 <= j < values.shape[1] and 0 <= i < values.shape[2]
    return values[k, j, i] if inside else NO_DATA


@njit(cache=True, nogil=True)
def _straight_kernel(values, position, across, offsets_um, dz):  # type: ignore[no-untyped-def]
    """The volume along a path, straightened: (n_dz, m, n_offsets); `across` is one um sideways in voxels."""
    out = np.empty((len(dz), len(position), len(offsets_um)), np.int16)
    for j in range(len(dz)):
        for m in range(len(position)):
            for i in range(len(offsets_um)):
                y = position[m, 1] + offsets_um[i] * across[m, 0]
                x = position[m, 2] + offsets_um[i] * across[m, 1]
                out[j, m, i] = _at(values, position[m, 0] + dz[j], y, x)
    return out


@njit(cache=True, nogil=True)
def _ridge_kernel(tube, beside, half, ring, n_s, cap):  # type: ignore[no-untyped-def]
    """For every shift, the sum over samples of 6 x (mean in the tube - mean beside it), and how many samples have all their voxels.

    A sample with only one side is left out: the slope of a halo would pass for a ridge.
    """
    n_dz, n, n_offsets = tube.shape
    total, count = np.zeros((n_s, n_dz), np.int64), np.zeros((n_s, n_dz), np.int64)
    first = n_offsets // 2 - n_s // 2
    for j in range(n_dz):
        for m in range(n):
            for i in range(n_s):
                at = first + i
                left, right = beside[j, m, at - ring[m]], beside[j, m, at + ring[m]]
                low, axis, high = tube[j, m, at - half[m]], tube[j, m, at], tube[j, m, at + half[m]]
                if min(left, right, low, axis, high) != NO_DATA:
                    total[i, j] += min(2 * (np.int64(low) + axis + high) - 3 * (np.int64(left) + right), cap)
                    count[i, j] += 1
    return total, count


@njit(cache=True, nogil=True)
def _cross_kernel(values, position, step, across_um):  # type: ignore[no-untyped-def]
    """The voxels at the given distances across every sample, (m, k)."""
    out = np.empty(across_um.shape, np.int16)
    for m in range(len(position)):
        for k in range(across_um.shape[1]):
            across = across_um[m, k]
            out[m, k] = _at(values, position[m, 0], position[m, 1] + across * step[m, 0], position[m, 2] + across * step[m, 1])
    return out


@njit(cache=True, nogil=True)
def _mask_kernel(values, start, end, radius_um, size_um, lateral_um, axial_um):  # type: ignore[no-untyped-def]
    """Forget the voxels within radius + margin of every edge; positions in voxels of the window."""
    shape = values.shape
    for e in range(len(start)):
        reach_z = (radius_um[e] + axial_um) / size_um[0]
        reach_y, reach_x = (radius_um[e] + lateral_um) / size_um[1], (radius_um[e] + lateral_um) / size_um[2]
        span = 0.0
        for axis in range(3):
            span += ((end[e, axis] - start[e, axis]) * size_um[axis]) ** 2
        n = int(np.ceil(np.sqrt(span) / 0.5)) + 1
        for k in range(n):
            share = k / max(n - 1, 1)
            z = start[e, 0] + share * (end[e, 0] - start[e, 0])
            y = start[e, 1] + share * (end[e, 1] - start[e, 1])
            x = start[e, 2] + share * (end[e, 2] - start[e, 2])
            for i in range(max(int(np.ceil(z - reach_z)), 0), min(int(np.floor(z + reach_z)) + 1, shape[0])):
                for j in range(max(int(np.ceil(y - reach_y)), 0), min(int(np.floor(y + reach_y)) + 1, shape[1])):
                    rest = 1.0 - ((i - z) / reach_z) ** 2 - ((j - y) / reach_y) ** 2
                    if rest > 0.0:
                        half = np.sqrt(rest) * reach_x
                        values[i, j, max(int(np.ceil(x - half)), 0) : max(min(int(np.floor(x + half)) + 1, shape[2]), 0)] = NO_DATA
