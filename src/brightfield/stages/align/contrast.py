"""The stain under a path and beside it: absorbance in the tube, in the ring around it, and how much the one stands out of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.stages.align.absorbance import NO_DATA
from brightfield.stages.align.paths import Reals, Stretch
from brightfield.stages.align.views import View

_SD_FLOOR = 2.0
_RING_RADII = 3


@dataclass(frozen=True, slots=True)
class Contrast:
    """Absorbance inside the tube and beside it, (m,) and (m, k) in `UNIT` steps; NaN inside where there are no pixels."""

    inside: Reals
    ring: NDArray[np.int16]

    @classmethod
    def none(cls) -> Contrast:
        """Of a path without samples."""
        return cls(np.empty(0), np.empty((0, 2 * _RING_RADII), np.int16))

    @classmethod
    def along(cls, path: Stretch, view: View, ring_um: Sequence[float], s_um: float = 0.0, dz_um: float = 0.0) -> Contrast:
        """What a path shows, moved sideways and axially. ring_um: inner and outer radius of the ring around the thinnest path."""
        size = np.asarray(view.grid.voxel_size_zyx_um)
        position = view.grid.to_voxel(path.position)
        across = path.normal / size[1:]
        position[:, 0] += dz_um / size[0]
        position[:, 1:] += s_um * across
        rings = np.linspace(ring_um[0], ring_um[1], _RING_RADII)
        return cls(*_cross_kernel(view.tube, view.beside, position, across, path.radius, path.wall, rings))

    @classmethod
    def pooled(cls, contrasts: Sequence[Contrast]) -> Contrast:
        """Of several paths together."""
        together = [cls.none(), *contrasts]
        return cls(np.concatenate([c.inside for c in together]), np.concatenate([c.ring for c in together]))

    def ring_moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the ring without what is far darker than most of it: the neighbours' stain."""
        n, total, squares = map(int, _moments_kernel(self.ring.reshape(-1)))
        if not n:
            return nan, nan
        return total / n, max(sqrt(max(n * squares - total * total, 0)) / n, _SD_FLOOR)

    def measures(self) -> tuple[float, float]:
        """Two numbers: d' and the coverage.

        d' = (mean inside - mean of the ring) / standard deviation of the ring. The coverage is the share of the samples with pixels that
        are darker than the ring by more than its standard deviation.
        """
        mean, sd = self.ring_moments()
        total, n_dark, n = _inside_kernel(self.inside, mean + sd)
        return ((total / n - mean) / sd, n_dark / n) if n else (nan, nan)

    @property
    def n_samples(self) -> int:
        """Samples with pixels."""
        return int(np.count_nonzero(~np.isnan(self.inside)))


# ---------------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _cross_kernel(tube, beside, position, across, radius, wall, ring_um):  # type: ignore[no-untyped-def]  # numba infers the types
    """The mean of three voxels inside, NaN where one is not known, and the voxels of the ring on either side."""
    n = len(ring_um)
    inside, ring = np.empty(len(position)), np.empty((len(position), 2 * n), np.int16)
    for m in range(len(position)):
        total, known = 0, True
        for k in range(3):
            value = _across(tube, position[m], across[m], radius[m] * (0.5 * k - 0.5))
            total, known = total + value, known and value != NO_DATA
        inside[m] = total / 3 if known else np.nan
        for k in range(n):
            ring[m, k] = _across(beside, position[m], across[m], -(wall[m] + ring_um[k]))
            ring[m, n + k] = _across(beside, position[m], across[m], wall[m] + ring_um[k])
    return inside, ring


@njit(cache=True, nogil=True)
def _across(values, position, across, um):  # type: ignore[no-untyped-def]
    """The voxel so far sideways of a position; `values` has a border of one voxel."""
    k = int(np.floor(position[0] + 0.5))
    j = int(np.floor(position[1] + um * across[0] + 0.5))
    i = int(np.floor(position[2] + um * across[1] + 0.5))
    n_z, n_y, n_x = values.shape
    inside = 0 <= k < n_z - 2 and 0 <= j < n_y - 2 and 0 <= i < n_x - 2
    return int(values[k + 1, j + 1, i + 1]) if inside else NO_DATA


@njit(cache=True, nogil=True)
def _moments_kernel(ring):  # type: ignore[no-untyped-def]
    """Number, sum and sum of squares of the known values that are not far darker than most; 0 values where fewer than four are known."""
    values = np.sort(ring[ring != NO_DATA])
    n = len(values)
    if n < 4:
        return 0, 0, 0
    middle = np.int64(values[n // 2])
    spread = np.sort(np.abs(values.astype(np.int64) - middle))[n // 2]
    limit = middle + max(5 * spread, 20)
    kept = values[values <= limit].astype(np.int64)
    return len(kept), kept.sum(), (kept * kept).sum()


@njit(cache=True, nogil=True)
def _inside_kernel(inside, limit):  # type: ignore[no-untyped-def]
    """Sum of the known values, one after the other; how many exceed the limit; how many are known."""
    total, n_dark, n = 0.0, 0, 0
    for value in inside:
        if not np.isnan(value):
            total, n_dark, n = total + value, n_dark + (value > limit), n + 1
    return total, n_dark, n
