"""Would the whole cell fit better elsewhere? Rigid shifts, flips, transposed axes and z scales, against the frame that was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, hypot, nan

import numpy as np
from numba import njit

from brightfield.config.options import AlignConfig
from brightfield.core.space import Grid
from brightfield.stages.align.absorbance import NO_DATA, Pixels
from brightfield.stages.align.paths import Reals, Stretch
from brightfield.stages.align.search import Search, highest
from brightfield.stages.align.shift import LateralShift
from brightfield.stages.align.views import SEARCH_UM, View, is_empty, window_around

DARK = 300
"""Steps of absorbance.UNIT above which a sample counts no more: dendrites in focus reach it, somata exceed it many times."""
_TRANSFORM_STRETCHES = 64
_TRANSFORMS = ("identity", "flip x", "flip y", "flip z", "transpose xy", "z scale 0.5", "z scale 0.8", "z scale 1.25", "z scale 2")


class RigidSearch:
    """Mean absorbance on the axis for every rigid shift up to `reach_um`, summed path by path; capped, or all paths would seek the soma."""

    def __init__(self, grid: Grid, reach_um: float = SEARCH_UM) -> None:
        size = grid.voxel_size_zyx_um
        steps = [max(1, floor(0.25 / length)) for length in size]
        self._size = np.asarray(size)
        self._axes = [np.arange(-floor(reach_um / (d * h)), floor(reach_um / (d * h)) + 1) * h for d, h in zip(size, steps, strict=True)]
        shape = tuple(len(axis) for axis in self._axes)
        self._total = np.zeros(shape, np.int64)
        self._count = np.zeros(shape, np.int64)
        self._n_samples = 0
        self._lateral = LateralShift(grid, DARK)

    def add(self, view: View, path: Stretch) -> None:
        """Count in every second sample of a path."""
        position = view.grid.to_voxel(path.position[::2])
        self._n_samples += len(position)
        z_steps, y_steps, x_steps = self._axes
        _rigid_kernel(view.tube, position, z_steps, y_steps, x_steps, DARK, self._total, self._count)
        self._lateral.add(view, path)

    def means(self) -> Reals:
        """Mean absorbance by shift (z, y, x); -inf where under a quarter of the samples have pixels."""
        known = self._count >= max(1.0, 0.25 * self._n_samples)
        return np.where(known, self._total / np.maximum(self._count, 1), -np.inf)

    def best(self) -> tuple[Reals, float, float]:
        """The best shift (z, y, x) um; how far its mean and the given position's are above most shifts.

        Between voxels it is found by a parabola, within a um or so in the plane by `LateralShift`.
        """
        means = self.means()
        peak = np.unravel_index(int(np.argmax(means)), means.shape)
        if means[peak] == -np.inf:
            return np.full(3, nan), nan, nan
        floor_level = float(np.sort(means[means > -np.inf])[np.count_nonzero(means > -np.inf) // 2])
        shift = np.empty(3)
        lines = (means[:, peak[1], peak[2]], means[peak[0], :, peak[2]], means[peak[0], peak[1], :])
        for axis, (steps, line) in enumerate(zip(self._axes, lines, strict=True)):
            width = float(steps[1] - steps[0]) if len(steps) > 1 else 0.0
            shift[axis] = (steps[peak[axis]] + width * _vertex(line, int(peak[axis]))) * self._size[axis]
        lateral = self._lateral.best()
        if lateral is not None and np.abs(shift[1:]).max() <= self._lateral.reach_um:
            shift[1:] = lateral
        given = means[tuple(len(steps) // 2 for steps in self._axes)]
        return shift, float(means[peak]) - floor_level, float(given) - floor_level


def _vertex(line: Reals, peak: int) -> float:
    """Where between -0.5 and 0.5 steps from its highest point the parabola through three points has its top."""
    if not 0 < peak < len(line) - 1 or np.isinf(line[[peak - 1, peak + 1]]).any():
        return 0.0
    left, middle, right = line[peak - 1 : peak + 2].tolist()
    bend = left - 2 * middle + right
    return 0.0 if bend == 0 else 0.5 * (left - right) / bend


def _transformed(path: Stretch, name: str, grid: Grid) -> Stretch:
    position, normal = path.position.copy(), path.normal.copy()
    axis = {"flip z": 0, "flip y": 1, "flip x": 2}.get(name)
    if axis is not None:
        low, high = grid.to_um([0, 0, 0])[axis], grid.to_um(np.subtract(grid.shape_zyx, 1))[axis]
        position[:, axis] = low + high - position[:, axis]
        if axis:
            normal[:, 0] *= -1  # mirrored: (y, -x) and (-y, x) lie across the same line
    elif name == "transpose xy":
        position, normal = position[:, [0, 2, 1]], normal[:, ::-1].copy()
    elif name.startswith("z scale"):
        position[:, 0] *= float(name.split()[-1])
    return path.moved(position, normal)


def transform_scores(paths: Sequence[Stretch], pixels: Pixels, search: Search, sd: float) -> dict[str, float]:
    """How well every transform fits for which pixels were downloaded, over at most 64 stretches spread over the cell.

    The score is the capped mean absorbance in the tube above that beside it, each stretch at its best shift of up to 1 um, in `sd`.
    """
    paths = [path for path in paths if len(path.position)]
    chosen = paths[:: ceil(len(paths) / _TRANSFORM_STRETCHES) or 1]
    nearby = search.within(1.0, 1.0)
    scores = {}
    for name in _TRANSFORMS:
        total, n = 0.0, 0
        for path in chosen:
            moved = _transformed(path, name, pixels.grid)
            window = window_around(pixels, moved.position, 4.0)
            if not is_empty(window):
                ridge = highest(search.scores(View.of(pixels, window), moved, nearby, DARK))
                known = ridge > -np.inf
                total, n = total + (ridge * len(path.position) if known else 0.0), n + known * len(path.position)
        if n >= 0.25 * sum(len(path.position) for path in chosen) and n:
            scores[name] = total / n / sd
    return scores


@dataclass(frozen=True, slots=True)
class Fit:
    """The frame that fits best, and how much better than the given one."""

    name: str
    score: float
    identity: float


def best_frame(scores: dict[str, float], shift_um: Reals, shifted: float, given: float, grid: Grid, gates: AlignConfig) -> Fit:
    """Identity unless something else fits clearly better; a shift is compared in its own scale, means above those of most shifts."""
    identity = scores.get("identity", nan)
    fits = [Fit(name, score, identity) for name, score in scores.items() if name != "identity"]
    clear = [fit for fit in fits if fit.score >= 1.0 and not fit.score < 1.25 * fit.identity]
    if _beyond_gates(shift_um, grid, gates) and shifted >= 1.0 and shifted > given:
        clear.append(Fit("shift", shifted, given))
    return max(clear, key=lambda fit: fit.score, default=Fit("identity", identity, identity))


def _beyond_gates(shift_um: Reals, grid: Grid, gates: AlignConfig) -> bool:
    z, y, x = shift_um.tolist()
    return bool(abs(z) > gates.max_shift_z_um + grid.voxel_size_zyx_um[0] / 2 or hypot(y, x) > gates.max_shift_um)


# ---------------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _rigid_kernel(values, position, z_steps, y_steps, x_steps, cap, total, count):  # type: ignore[no-untyped-def]  # numba infers the types
    """Add the voxels at every sample to the sums of every shift by whole voxels; `values` has a border of one voxel."""
    n_z, n_y, n_x = values.shape[0] - 2, values.shape[1] - 2, values.shape[2] - 2
    stride = np.uint64(x_steps[1] - x_steps[0] if len(x_steps) > 1 else 1)
    for m in range(len(position)):
        z0 = int(np.floor(position[m, 0] + 0.5))
        y0 = int(np.floor(position[m, 1] + 0.5))
        x0 = int(np.floor(position[m, 2] + 0.5))
        first, last = _on_axis(x_steps, x0, n_x)
        for a in range(np.uint64(len(z_steps))):
            for b in range(np.uint64(len(y_steps))):
                z, y = z0 + z_steps[a], y0 + y_steps[b]
                if 0 <= z < n_z and 0 <= y < n_y and first < last:
                    k, j, i, offset = np.uint64(z + 1), np.uint64(y + 1), np.uint64(x0 + x_steps[first] + 1), np.uint64(first)
                    for c in range(np.uint64(last - first)):
                        value = np.int64(values[k, j, i + c * stride])
                        known = value != NO_DATA
                        total[a, b, offset + c] += min(value, cap) if known else 0
                        count[a, b, offset + c] += np.int64(known)


@njit(cache=True, nogil=True)
def _on_axis(steps, start, n):  # type: ignore[no-untyped-def]
    """The range of steps that stay on an axis of n voxels."""
    first, last = 0, len(steps)
    while first < last and start + steps[first] < 0:
        first += 1
    while last > first and start + steps[last - 1] >= n:
        last -= 1
    return first, last
