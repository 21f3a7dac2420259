"""Would the whole cell fit better elsewhere? Rigid shifts, flips, transposed axes and z scales, against the frame that was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, fsum, hypot, nan, sqrt

import numpy as np
from numba import njit

from brightfield.config.options import AlignConfig
from brightfield.core.space import Grid
from brightfield.stages.align.absorbance import NO_DATA, Pixels
from brightfield.stages.align.paths import Reals, Stretch
from brightfield.stages.align.search import Region, Search, highest
from brightfield.stages.align.shift import LateralShift
from brightfield.stages.align.views import SEARCH_UM, View, is_empty, window_around

DARK = 300
"""Steps of absorbance.UNIT above which a sample counts no more: dendrites in focus reach it, somata exceed it many times."""
_TRANSFORM_STRETCHES = 64
IDENTITY, SHIFT = "identity", "shift"
_Z_SCALE = "z scale"
_MIRRORED = ("flip x", "flip y", "flip z", "transpose xy")
_Z_SCALES = (0.5, *(k / 40 for k in range(32, 52)), 2.0)
"""Every 2.5 %: 40 um deep the next one is 1 um off, which a stretch's own search makes good."""
_LEAST_SCALING = 0.03
_CLOSE, _LEVEL = 0.11, 0.985
"""Scales so near the best one are held against each other by scores that forgive little; its number is the middle of those as good."""
_CLEARLY = 1.25
"""By how much another frame must fit better than the given one."""
_SCALED, _SHIFT_FIRST = 1.1, 1.005
"""The same for a z scale, whose scores forgive less (of clean cells at most 1.01), and by how much it must fit better than a shift."""


_TILTED = 0.98
"""Both where the stretches themselves say that z is scaled."""
_LEAST_TILT, _SURE_TILT, _LEAST_STRETCHES = 0.015, 4.0, 12


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
        if lateral is not None and np.abs(shift[1:] - lateral).max() <= max(0.25, float(self._size[1:].max())):
            shift[1:] = lateral  # elsewhere it has found other stain, as it looks at no other depth
        given = means[tuple(len(steps) // 2 for steps in self._axes)]
        return shift, float(means[peak]) - floor_level, float(given) - floor_level


def _vertex(line: Reals, peak: int) -> float:
    """Where between -0.5 and 0.5 steps from its highest point the parabola through three points has its top."""
    if not 0 < peak < len(line) - 1 or np.isinf(line[[peak - 1, peak + 1]]).any():
        return 0.0
    left, middle, right = line[peak - 1 : peak + 2].tolist()
    bend = left - 2 * middle + right
    return 0.0 if bend == 0 else 0.5 * (left - right) / bend


class Frames:
    """What a skeleton's frame may be mistaken for, tried on at most 64 stretches spread over the cell, for which pixels were downloaded.

    The score of a frame is the capped mean absorbance in the tube above that beside it, each stretch at its best shift of up to 1 um.
    """

    def __init__(self, paths: Sequence[Stretch], pixels: Pixels, search: Search, sd: float) -> None:
        paths = [path for path in paths if len(path.position)]
        self._paths = paths[:: ceil(len(paths) / _TRANSFORM_STRETCHES) or 1]
        self._pixels, self._search, self._sd = pixels, search, sd
        self.nearby, self.here = search.within(1.0, 1.0), search.within(0.5, 0.3)

    def scores(self, frames: Sequence[str], shift_um: Reals, region: Region) -> dict[str, float]:
        """The score of each frame in `sd`, of those a quarter of which has pixels; `shift_um` is where the frame "shift" lies.

        region: how far each stretch may be off, `nearby` to find what is only about right, `here` to tell like frames apart.
        """
        scores = {}
        least = 0.25 * sum(len(path.position) for path in self._paths)
        for frame in frames:
            total, n = 0.0, 0
            for path in self._paths:
                score = highest(self._tried(_transformed(path, frame, self._pixels.grid, shift_um), region))
                if score > -np.inf:
                    total, n = total + score * len(path.position), n + len(path.position)
            if n >= least and n:
                scores[frame] = total / n / self._sd
        return scores

    def _tried(self, path: Stretch, region: Region) -> Reals:
        """The scores of a path at the shifts of a region; NaN without pixels."""
        window = window_around(self._pixels, path.position, 4.0)
        if is_empty(window):
            return np.full((1, 1), nan)
        return self._search.scores(View.of(self._pixels, window), path, region, DARK)


def _slope(x: list[float], y: list[float], weight: list[float]) -> float:
    """How y grows with x, by weighted least squares; 0 where x does not change."""
    total = fsum(weight) or 1.0
    middle_x = fsum(w * a for w, a in zip(weight, x, strict=True)) / total
    middle_y = fsum(w * b for w, b in zip(weight, y, strict=True)) / total
    spread = fsum(w * (a - middle_x) ** 2 for w, a in zip(weight, x, strict=True))
    return fsum(w * (a - middle_x) * (b - middle_y) for w, a, b in zip(weight, x, y, strict=True)) / spread if spread else 0.0


def _z_scale_name(factor: float) -> str:
    return f"{_Z_SCALE} {factor:g}"


def _factor(name: str) -> float:
    return float(name.removeprefix(_Z_SCALE))


def _transformed(path: Stretch, frame: str, grid: Grid, shift_um: Reals) -> Stretch:
    position, normal = path.position.copy(), path.normal.copy()
    axis = {"flip z": 0, "flip y": 1, "flip x": 2}.get(frame)
    if axis is not None:
        low, high = grid.to_um([0, 0, 0])[axis], grid.to_um(np.subtract(grid.shape_zyx, 1))[axis]
        position[:, axis] = low + high - position[:, axis]
        if axis:
            normal[:, 0] *= -1  # mirrored: (y, -x) and (-y, x) lie across the same line
    elif frame == "transpose xy":
        position, normal = np.ascontiguousarray(position[:, [0, 2, 1]]), normal[:, ::-1].copy()
    elif frame == SHIFT:
        position += shift_um
    elif frame.startswith(_Z_SCALE):
        position[:, 0] *= _factor(frame)
    return path.moved(position, normal)


@dataclass(frozen=True, slots=True)
class Fit:
    """The frame that fits best, and how much better than the given one."""

    name: str
    score: float
    identity: float


def is_tilted(depth_um: list[float], off_um: list[float], weight: list[float]) -> bool:
    """Whether stretches lie the more above or below their stain the deeper they are: a z scale, however small.

    depth_um: of every stretch that has stain; off_um: its axial shift; weight: its length. The slope must exceed what chance makes of it by
    4 standard errors (of clean cells of the demo at most 2.8; under a z scale of 0.95 or 1.05 at least 5).
    """
    slope = _slope(depth_um, off_um, weight)
    if abs(slope) < _LEAST_TILT or len(depth_um) < _LEAST_STRETCHES:
        return False
    total = fsum(weight)
    middle, mean = (fsum(w * a for w, a in zip(weight, v, strict=True)) / total for v in (depth_um, off_um))
    away = [a - middle for a in depth_um]
    rest = [b - mean - slope * a for a, b in zip(away, off_um, strict=True)]
    error = sqrt(fsum((w * a * r) ** 2 for w, a, r in zip(weight, away, rest, strict=True)))
    return abs(slope) * fsum(w * a * a for w, a in zip(weight, away, strict=True)) > _SURE_TILT * error


def best_frame(
    frames: Frames, rigid: RigidSearch, sd: float, grid: Grid, gates: AlignConfig, *, doubtful: bool, tilted: bool = False
) -> Fit:
    """Identity unless something else fits clearly better. Only where a cell is doubtful are frames other than shifts tried.

    tilted: that z is scaled is known (`is_tilted`); what scale fits best then needs to fit no worse than other frames.

    Whether a shift fits better shows in its own scale, means above those of most shifts; against other frames it is held by their scores.
    """
    shift_um, shifted, given = rigid.best()
    is_shift = _beyond_gates(shift_um, grid, gates) and shifted / sd >= 1.0 and shifted > given
    shifts = (SHIFT,) if is_shift else ()
    scores = frames.scores((IDENTITY, *shifts, *(_MIRRORED if doubtful else ())), shift_um, frames.nearby)
    identity = scores.get(IDENTITY, nan)
    fits = [Fit(name, scores[name], identity) for name in _MIRRORED if scores.get(name, -np.inf) > scores.get(SHIFT, -np.inf)]
    fits += [_z_scaled(frames, shift_um, shifts, tilted=tilted)] if doubtful or tilted else []
    scaled = _TILTED if tilted else _SCALED
    clear = [fit for fit in fits if fit.score >= 1.0 and not fit.score < (_CLEARLY if fit.name in _MIRRORED else scaled) * fit.identity]
    if clear:
        return max(clear, key=lambda fit: fit.score)
    return Fit(SHIFT, shifted / sd, given / sd) if is_shift else Fit(IDENTITY, identity, identity)


def _z_scaled(frames: Frames, shift_um: Reals, shifts: tuple[str, ...], *, tilted: bool) -> Fit:
    """The z scale that fits best, by scores that forgive little; of no account where a shift, the simpler reason, fits about as well."""
    tried = frames.scores(tuple(map(_z_scale_name, _Z_SCALES)), shift_um, frames.nearby)
    if not tried:
        return Fit(IDENTITY, nan, nan)
    near = _factor(max(tried, key=lambda name: tried[name]))
    close = [_z_scale_name(factor) for factor in _Z_SCALES if abs(factor - near) <= _CLOSE]
    scores = frames.scores((IDENTITY, *shifts, *close), shift_um, frames.here)
    score = max((scores[name] for name in close if name in scores), default=nan)
    level = [_factor(name) for name in close if scores.get(name, -np.inf) >= _LEVEL * score]
    factor = round(fsum(level) / max(len(level), 1), 2)
    if abs(factor - 1.0) < _LEAST_SCALING or not score > (_TILTED if tilted else _SHIFT_FIRST) * scores.get(SHIFT, -np.inf):
        score = nan
    return Fit(_z_scale_name(factor), score, scores.get(IDENTITY, nan))


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
