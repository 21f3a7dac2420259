"""The stain under a path and beside it: absorbance in the tube, in the ring around it, and how much the one stands out of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, nan, sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.stages.align.absorbance import NO_DATA
from brightfield.stages.align.paths import SAMPLE_UM, Reals, Stretch
from brightfield.stages.align.views import View

_SD_FLOOR = 2.0
_RING_RADII = 3
_LAG_UM, _LAG_VOXELS = 1.0, 2


@dataclass(frozen=True, slots=True)
class Contrast:
    """Absorbance inside the tube and beside it, (m,) and (m, 2 k) in `UNIT` steps; NaN inside where there are no pixels.

    rough: (j,) int64 second differences of the ring along the path, `lag` samples apart: what is left of it without the slopes of blur.
    """

    inside: Reals
    ring: NDArray[np.int16]
    rough: NDArray[np.int64]

    @classmethod
    def none(cls) -> Contrast:
        """Of a path without samples."""
        return cls(np.empty(0), np.empty((0, 2 * _RING_RADII), np.int16), np.empty(0, np.int64))

    @classmethod
    def along(cls, path: Stretch, view: View, ring_um: Sequence[float], s_um: float = 0.0, dz_um: float = 0.0) -> Contrast:
        """What a path shows, moved sideways and axially. ring_um: inner and outer radius of the ring around the thinnest path."""
        size = np.asarray(view.grid.voxel_size_zyx_um)
        position = view.grid.to_voxel(path.position)
        across = path.normal / size[1:]
        position[:, 0] += dz_um / size[0]
        position[:, 1:] += s_um * across
        rings = np.linspace(ring_um[0], ring_um[1], _RING_RADII)
        inside, ring = _cross_kernel(view.tube, view.beside, position, across, path.radius, path.wall, rings)
        lag = ceil(max(_LAG_UM, _LAG_VOXELS * float(size[1:].max())) / SAMPLE_UM)
        return cls(inside, ring, _rough_kernel(ring, lag))

    @classmethod
    def pooled(cls, contrasts: Sequence[Contrast]) -> Contrast:
        """Of several paths together."""
        together = [cls.none(), *contrasts]
        inside, ring = np.concatenate([c.inside for c in together]), np.concatenate([c.ring for c in together])
        return cls(inside, ring, np.concatenate([c.rough for c in together]))

    def ring_moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the ring without what is far darker than most of it: the neighbours' stain."""
        n, total, squares = map(int, _moments_kernel(self.ring.reshape(-1)))
        if not n:
            return nan, nan
        return total / n, max(sqrt(max(n * squares - total * total, 0)) / n, _SD_FLOOR)

    def noise(self) -> float:
        """Standard deviation of the ring about its own course along the path; of the whole ring where the path is too short to tell."""
        n, squares = map(int, _noise_kernel(self.rough))
        return max(sqrt(squares / (6 * n)), _SD_FLOOR) if n else self.ring_moments()[1]

    def measures(self) -> tuple[float, float, float]:
        """Three numbers: d', the coverage, and the longest gap, um.

        d' = mean (inside - ring) / `noise`, sample by sample, so that what blurs over both counts for neither. The coverage is the share
        of the samples that are darker than their ring by more than the noise, a gap a piece of the path without any.
        """
        noise = self.noise()
        total, n_dark, n, gap = _pairs_kernel(self.inside, self.ring, noise)
        return (total / n / noise, n_dark / n, gap * SAMPLE_UM) if n else (nan, nan, nan)

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
def _rough_kernel(ring, lag):  # type: ignore[no-untyped-def]
    """Second differences down every column of the ring where all three values are known."""
    found, n = np.empty(ring.size, np.int64), 0
    for m in range(lag, len(ring) - lag):
        for k in range(ring.shape[1]):
            before, here, after = np.int64(ring[m - lag, k]), np.int64(ring[m, k]), np.int64(ring[m + lag, k])
            if before != NO_DATA and here != NO_DATA and after != NO_DATA:
                found[n] = before - 2 * here + after
                n += 1
    return found[:n].copy()


@njit(cache=True, nogil=True)
def _noise_kernel(rough):  # type: ignore[no-untyped-def]
    """Number and sum of squares of the differences that are not far from most; 0 where fewer than four are known."""
    n = len(rough)
    if n < 4:
        return 0, 0
    size = np.sort(np.abs(rough))
    limit = max(5 * size[n // 2], 50)
    kept = size[size <= limit]
    return len(kept), (kept * kept).sum()


@njit(cache=True, nogil=True)
def _pairs_kernel(inside, ring, noise):  # type: ignore[no-untyped-def]
    """Over the samples where inside and beside are known: sum of the difference, how many exceed the noise, how many, longest run below."""
    total, n_dark, n, run, gap, half = 0.0, 0, 0, 0, 0, ring.shape[1] // 2
    for m in range(len(inside)):
        left, right = _mean_known(ring[m, :half]), _mean_known(ring[m, half:])
        beside = left if np.isnan(right) else (right if np.isnan(left) else 0.5 * (left + right))
        value = inside[m] - beside
        if not np.isnan(value):
            total, n_dark, n = total + value, n_dark + (value > noise), n + 1
            run = 0 if value > noise else run + 1
            gap = max(gap, run)
    return total, n_dark, n, gap


@njit(cache=True, nogil=True)
def _mean_known(values):  # type: ignore[no-untyped-def]
    total, n = np.int64(0), 0
    for value in values:
        if value != NO_DATA:
            total, n = total + np.int64(value), n + 1
    return total / n if n else np.nan
