"""How far a whole cell lies beside its stain, to a few hundredths of a micrometre: finer than a voxel, since thousands of samples vote."""

from __future__ import annotations

from collections.abc import Callable
from math import floor, fsum, hypot

import numpy as np
from numba import njit

from brightfield.core.space import Grid
from brightfield.stages.align.absorbance import NO_DATA
from brightfield.stages.align.paths import Reals, Stretch
from brightfield.stages.align.views import View

_STEP_UM = 0.1
_REACH_STEPS, _DISC_STEPS = 16, 5


class LateralShift:
    """Mean absorbance on the axis for shifts in the plane, a tenth of a um apart (a quarter voxel where voxels are coarse).

    Each sample takes the voxel that holds it, so over a cell's samples the means are the stain's profile seen through one voxel, symmetric
    about the stain. Its middle is the top of the paraboloid through the means near the highest.
    """

    def __init__(self, grid: Grid, cap: int) -> None:
        self._size = np.asarray(grid.voxel_size_zyx_um)
        self._step_um = max(_STEP_UM, max(grid.voxel_size_zyx_um[1:]) / 4)
        n = 2 * _REACH_STEPS + 1
        self._total, self._count = np.zeros((n, n), np.int64), np.zeros((n, n), np.int64)
        self._cap, self._n_samples = cap, 0

    def add(self, view: View, path: Stretch) -> None:
        """Count in every second sample of a path."""
        position = view.grid.to_voxel(path.position[::2])
        self._n_samples += len(position)
        _lateral_kernel(view.tube, position, self._step_um / self._size[1:], self._cap, self._total, self._count)

    def best(self) -> tuple[float, float] | None:
        """The shift (y, x) um that centres the paths on their stain; None where there is no such place within reach."""
        known = self._count >= max(1.0, 0.25 * self._n_samples)
        means = np.where(known, self._total / np.maximum(self._count, 1), -np.inf)
        centre = np.unravel_index(int(np.argmax(means)), means.shape)
        row, column = int(centre[0]), int(centre[1])
        for _ in range(_REACH_STEPS):
            around = _disc_around(means, row, column)
            top = None if around is None else _top(around)
            if top is None:
                return None
            if max(abs(top[0]), abs(top[1])) <= 0.5:
                return (row - _REACH_STEPS + top[0]) * self._step_um, (column - _REACH_STEPS + top[1]) * self._step_um
            row, column = row + _toward(top[0]), column + _toward(top[1])
        return None


def _toward(steps: float) -> int:
    """One step in a direction, none for less than half a step."""
    return max(-1, min(1, floor(steps + 0.5)))


_OFFSETS = [
    (a, b) for a in range(-_DISC_STEPS, _DISC_STEPS + 1) for b in range(-_DISC_STEPS, _DISC_STEPS + 1) if hypot(a, b) <= _DISC_STEPS
]


def _disc_around(means: Reals, row: int, column: int) -> list[float] | None:
    """The means at `_OFFSETS` around a place; None where they are not all known."""
    n = len(means)
    if not (_DISC_STEPS <= row < n - _DISC_STEPS and _DISC_STEPS <= column < n - _DISC_STEPS):
        return None
    values = [float(means[row + a, column + b]) for a, b in _OFFSETS]
    return None if -np.inf in values else values


def _top(values: list[float]) -> tuple[float, float] | None:
    """Where the paraboloid that fits values at `_OFFSETS` best (least squares) is highest; None where it has no top."""
    slope_y, slope_x, twist, spread = (
        _projected(values, weight) for weight in (lambda a, _: a, lambda _, b: b, lambda a, b: a * b, lambda a, b: a * a - b * b)
    )
    n, away = len(values), [a * a + b * b for a, b in _OFFSETS]
    total = sum(away)
    bend = (n * fsum(u * f for u, f in zip(away, values, strict=True)) - total * fsum(values)) / (n * sum(u * u for u in away) - total**2)
    bend_y, bend_x = bend + spread, bend - spread
    determinant = 4 * bend_y * bend_x - twist * twist
    if bend_y >= 0 or determinant <= 0:
        return None
    return (twist * slope_x - 2 * bend_x * slope_y) / determinant, (twist * slope_y - 2 * bend_y * slope_x) / determinant


def _projected(values: list[float], weight: Callable[[int, int], int]) -> float:
    """The coefficient of a term that the disc's symmetry makes orthogonal to all others."""
    weights = [weight(a, b) for a, b in _OFFSETS]
    return fsum(w * f for w, f in zip(weights, values, strict=True)) / sum(w * w for w in weights)


# ---------------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _lateral_kernel(values, position, step, cap, total, count):  # type: ignore[no-untyped-def]  # numba infers the types
    """Add the voxel at every sample to the sums of every shift by multiples of `step` (y, x) voxels; `values` has a border of one voxel."""
    n_z, n_y, n_x = values.shape[0] - 2, values.shape[1] - 2, values.shape[2] - 2
    middle = len(total) // 2
    for m in range(len(position)):
        z = int(np.floor(position[m, 0] + 0.5))
        if z < 0 or z >= n_z:
            continue
        for a in range(total.shape[0]):
            y = int(np.floor(position[m, 1] + (a - middle) * step[0] + 0.5))
            if y < 0 or y >= n_y:
                continue
            for b in range(total.shape[1]):
                x = int(np.floor(position[m, 2] + (b - middle) * step[1] + 0.5))
                if 0 <= x < n_x:
                    value = np.int64(values[z + 1, y + 1, x + 1])
                    if value != NO_DATA:
                        total[a, b] += min(value, cap)
                        count[a, b] += 1
