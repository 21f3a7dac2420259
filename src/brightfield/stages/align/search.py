"""The search of a path: how much darker it is than what lies beside it, at every small shift, and against chance."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, nan
from typing import Any

import numpy as np

from brightfield.config.options import AlignConfig
from brightfield.core.space import Grid
from brightfield.stages.align.paths import Reals, Stretch
from brightfield.stages.align.ridge import LEAST_KNOWN, placements_as_high, ridge_sums
from brightfield.stages.align.views import View

N_PLACEMENTS = 60
_LEAST_CAP = 20.0
"""Steps of absorbance.UNIT: the noise of a voxel or two."""
_LEAST_PLACEMENTS = 19
"""Fewer random placements cannot reach p = 0.05; where the arbor leaves no room for them the other gates decide."""


@dataclass(frozen=True, slots=True)
class Region:
    """Which shifts are looked at: half-open ranges of the sideways and axial steps of a `Search`."""

    s: tuple[int, int]
    dz: tuple[int, int]


class Search:
    """The shifts that a path is tried at on a grid, sideways and axially: half a voxel apart, or a voxel where voxels are fine.

    The score of a shift is the mean absorbance in the tube above that beside it, NaN where too few samples have pixels. Beside is
    subtracted because the halo of a soma out of focus is darker than a thin neurite in focus.
    """

    def __init__(self, grid: Grid, gates: AlignConfig) -> None:
        size_z, size_y, size_x = grid.voxel_size_zyx_um
        self.gates = gates
        self.s_um = _symmetric(gates.alongside_um, min(max(size_y, size_x), 0.23))
        self.dz_um = _symmetric(1.5 * gates.max_shift_z_um, max(0.28, size_z / 2))
        self._step_um = float(self.s_um[-1] - self.s_um[-2])
        self._size = np.asarray(grid.voxel_size_zyx_um)

    def within(self, s_um: float, dz_um: float) -> Region:
        """The shifts of at most so much."""
        s, dz = (np.flatnonzero(np.abs(a) <= reach) for a, reach in ((self.s_um, s_um), (self.dz_um, dz_um)))
        return Region((int(s[0]), int(s[-1]) + 1), (int(dz[0]), int(dz[-1]) + 1))

    @property
    def everywhere(self) -> Region:
        """All shifts."""
        return Region((0, len(self.s_um)), (0, len(self.dz_um)))

    def scores(self, view: View, path: Stretch, region: Region, cap: float = np.inf) -> Reals:
        """The score of every shift of a region, (n_s, n_dz); no sample counts for more than `cap` or less than -`cap`."""
        total, count = ridge_sums(
            view.tube, view.beside, view.beside is not view.tube, self.laid(view, path), self._shifts(region), _sixfold(cap)
        )
        known = count >= LEAST_KNOWN * len(path.position)
        return np.where(known, total / np.maximum(6 * count, 1), nan).T[: region.s[1] - region.s[0]]

    @staticmethod
    def cap(score: float) -> float:
        """What a sample of a path with this score counts for at most, and below what lies beside it at least.

        Twice the score: a speck of debris, dark as it is, is no path, and a dark neighbour does not hide one.
        """
        return 2 * max(score, 0.0) + _LEAST_CAP

    def chance(self, path: Stretch, elsewhere: View, placements: Reals, region: Region, cap: float, own: float) -> float:
        """Share of placements, the path's own among them, whose best score in the region is as high; NaN without room for enough.

        placements: (n, 5), see `random_placements`. cap, own: what no sample exceeds, and the path's best score under the same cap.
        """
        laid, shifts = self.laid(elsewhere, path), self._shifts(region)
        n, as_high = placements_as_high(elsewhere.tube, placements, laid, shifts, _sixfold(cap), own)
        return nan if n < _LEAST_PLACEMENTS else (1 + as_high) / (1 + n)

    def laid(self, view: View, path: Stretch) -> tuple[Any, ...]:
        """A path as the inner loops take it: samples (um), what is sideways (um), the view's origin and voxel size (um), half and ring.

        half, ring: (m,) int64, how many sideways steps from the axis the sides of the tube are probed, and what lies beside it.
        """
        across_um = float(np.linalg.norm(self._size * view.grid.shape_zyx))  # beyond it there is no voxel of the view
        ring = np.rint(np.minimum(path.wall + sum(self.gates.ring_um) / 2, across_um) / self._step_um).astype(np.int64)
        half = np.rint(np.minimum(0.5 * path.radius, across_um) / self._step_um).astype(np.int64)
        return path.position, path.normal, np.asarray(view.grid.origin_zyx_um), self._size, half, ring

    def _shifts(self, region: Region) -> tuple[Any, ...]:
        first, last = region.s
        return self._step_um, first - len(self.s_um) // 2, last - first, self.dz_um[slice(*region.dz)] / self._size[0]


def random_placements(draws: Reals) -> Reals:
    """Random rigid moves (..., 5) from numbers (..., 5) in [0, 1): cosine and sine of the turn, and um in z, y and x.

    Turned by up to 30 degrees, perhaps reversed, moved by 3.5 to 6.5 um in the plane and by up to 2 um in z.
    """
    turn, flip, direction, reach, axial = np.moveaxis(draws, -1, 0)
    cos, sin = _direction((turn - 0.5) / 6)
    sign = np.where(flip < 0.5, -1.0, 1.0)
    away_y, away_x = _direction(direction)
    reach_um = 3.5 + 3.0 * reach
    return np.stack([sign * cos, sign * sin, 4.0 * (axial - 0.5), reach_um * away_y, reach_um * away_x], axis=-1)


def _direction(turns: Reals) -> tuple[Reals, Reals]:
    """Cosine and sine of shares of a full turn, rounded so that they are the same everywhere."""
    return np.round(np.cos(2 * np.pi * turns), 9), np.round(np.sin(2 * np.pi * turns), 9)


def highest(scores: Reals) -> float:
    """The best of the known scores; -inf where none is known."""
    return float(np.where(np.isnan(scores), -np.inf, scores).max())


def _symmetric(reach: float, step: float) -> Reals:
    n = floor(reach / step + 1e-9)
    return np.arange(-n, n + 1, dtype=np.float64) * step


def _sixfold(cap: float) -> np.float32:
    """The cap of 6 x (tube - beside), which the kernels sum in whole numbers; they are exact in float32 up to 2**24."""
    return np.float32(np.inf if 6 * cap >= 2**24 else int(6 * cap))
