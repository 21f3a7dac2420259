# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)
"""Where the stain has its ridge beside a traced axis: of all smooth ways to move the joints, the one that lies on most stain.

Around every joint, planes are seen through the difference of two Gaussians whose widths suit the radius: stain of that width stands out,
in the plane of its focus the most. A joint may move to a lattice of places; what it costs is how much less stain there is than at its best
place, the square of its distance from the trace, and the square of how much farther it moved than the joint before it. The cheapest way
for all joints of a tree together is found exactly (messages from the tips to the root and back), then refined between lattice points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from brightfield.core.space import Grid
    from brightfield.stages.rasterize.joints import Joints
    from brightfield.stages.rasterize.predicted import Shown

    type Places = NDArray[np.int16]

_WIDTH_STEP_UM, _WIDEST = 0.05, 18
_NO_DATA = -32768
_SCALE = 1e4
"""Stain is kept in ten-thousandths of absorbance."""
_LEAST_KNOWN = 0.9
"""A plane counts where so much of the pixels around a joint is known."""
_SWEEPS = 12
_LAG_UM = 0.5
"""Blur grows faster on one side of focus, so that stain looks darkest a little to the other: so far, over what `_lopsided` measures."""


@dataclass(frozen=True, slots=True)
class RidgeFit:
    """How far joints are moved, um, and what that costs.

    reach_um, reach_z_um: how far at most, and steps of the lattice in y and x, and in z. stain: cost of no stain, against that of the
    best place (at least `least` of absorbance). bend_um2, bend_z_um2: variance, per um of path, of how much more a joint moves than the
    one before. from_trace_um, from_trace_z_um: standard deviation of traces from their stain. error_um, error_z_um: of what is measured.
    """

    reach_um: float = 0.6
    reach_z_um: float = 1.8
    step_um: float = 0.2
    step_z_um: float = 0.3
    stain: float = 6.0
    least: float = 0.05
    bend_um2: float = 0.05
    bend_z_um2: float = 0.5
    from_trace_um: float = 0.7
    from_trace_z_um: float = 2.2
    error_um: float = 0.12
    error_z_um: float = 0.24

    @property
    def n_steps(self) -> tuple[int, int]:
        """Steps of the lattice to either side: along z, and along y and x."""
        return round(self.reach_z_um / self.step_z_um), round(self.reach_um / self.step_um)


def moves_to_ridge(
    joints: Joints,
    movable: NDArray[np.bool_],
    grid: Grid,
    shown: Callable[[int], Shown],
    planes: Sequence[int],
    rules: RidgeFit,
) -> NDArray[np.float64]:
    """(n, 3) um: how far each joint is moved so that the tubes lie on their stain.

    movable: (n,) joints that may be; those that may not stay, and hold what hangs on them. grid, shown, planes: the planes of the image.
    """
    n_z, n_xy = rules.n_steps
    shape = np.array([2 * n_z + 1, 2 * n_xy + 1, 2 * n_xy + 1])
    stain = stain_beside(joints, movable, grid, shown, planes, rules)
    cost = np.empty((len(joints), int(shape.prod())), np.float32)
    numbers = np.array([rules.stain, rules.least * _SCALE, rules.step_z_um, rules.step_um, rules.from_trace_z_um, rules.from_trace_um])
    _costs(stain, movable, shape, numbers, cost)
    length = np.maximum(joints.length_um, 0.1)
    bend = np.stack([rules.step_z_um**2 / (2 * rules.bend_z_um2 * length), rules.step_um**2 / (2 * rules.bend_um2 * length)], axis=1)
    order = joints.parents_first()
    chosen = np.zeros(len(joints), np.int64)
    _solve(cost, joints.up, order, bend.astype(np.float32), shape, chosen)
    moved: NDArray[np.float64] = np.zeros((len(joints), 3))
    _costs(stain, movable, shape, numbers, cost)  # again: a copy of them is the largest array of all
    _refine(cost, joints.up, bend, shape, chosen, movable, moved)
    moved *= np.array([rules.step_z_um, rules.step_um, rules.step_um])
    moved[movable, 0] += _LAG_UM * _lopsided(stain, chosen, movable, shape, rules.step_z_um)
    return _trusted(_across(moved, joints), rules)


def _across(moved: NDArray[np.float64], joints: Joints) -> NDArray[np.float64]:
    """Without what joints move along their new path, which shows nowhere; branch points may move anywhere."""
    n_below = np.bincount(joints.up[joints.up >= 0], minlength=len(joints))
    below = np.arange(len(joints))
    below[joints.up[joints.up >= 0]] = np.flatnonzero(joints.up >= 0)
    above = np.where(joints.up >= 0, joints.up, np.arange(len(joints)))
    position = joints.position_zyx_um + moved
    along = position[below] - position[above]
    length2 = (along * along).sum(axis=1)
    share = np.where((n_below < 2) & (length2 > 0), (moved * along).sum(axis=1) / np.where(length2 > 0, length2, 1.0), 0.0)
    across: NDArray[np.float64] = moved - share[:, None] * along
    return across


def _trusted(moved: NDArray[np.float64], rules: RidgeFit) -> NDArray[np.float64]:
    """Moves that are no larger than their error are none, and those that are much larger stay as they are."""
    squared = (moved[:, 1] ** 2 + moved[:, 2] ** 2) / rules.error_um**2 + moved[:, 0] ** 2 / rules.error_z_um**2
    share = 1 - 1 / np.maximum(squared, 1.0) ** 2
    return np.round(moved * share[:, None], 4)


def _lopsided(stain: Places, chosen: NDArray[np.int64], movable: NDArray[np.bool_], shape: NDArray[np.int64], step_z_um: float) -> float:
    """How much more stain is seen below the ridge than above it, 0.9 to 1.2 um away, over what is seen on it; mean of all joints."""
    area = int(shape[1] * shape[2])
    at, side = chosen // area, chosen % area
    here = np.flatnonzero(movable & (at >= shape[0] // 4) & (at < shape[0] - shape[0] // 4))
    if not len(here):
        return 0.0
    steps = [round(um / step_z_um) for um in (0.9, 1.2)]
    heights = np.array([0, *(-k for k in steps), *steps])
    inside = np.clip(at[here, None] + heights, 0, shape[0] - 1) * area + side[here, None]
    peak, *rest = stain[here[:, None], inside].sum(axis=0, dtype=np.int64).tolist()
    return float(np.clip((sum(rest[:2]) - sum(rest[2:])) / (2 * max(peak, 1)), -0.5, 0.5))


def stain_beside(
    joints: Joints,
    movable: NDArray[np.bool_],
    grid: Grid,
    shown: Callable[[int], Shown],
    planes: Sequence[int],
    rules: RidgeFit,
) -> Places:
    """(n, places) int16 ten-thousandths of absorbance at every place of the lattice around every joint; 0 where nothing is known."""
    n_z, n_xy = rules.n_steps
    size = np.array(grid.voxel_size_zyx_um)
    at = grid.to_voxel(joints.position_zyx_um)
    reach = ceil(n_z * rules.step_z_um / size[0]) + 1
    seen = np.full((len(joints), 2 * reach + 1, (2 * n_xy + 1) ** 2), _NO_DATA, np.int16)
    width = np.clip(np.ceil(0.6 * joints.radius_um / _WIDTH_STEP_UM), 0, _WIDEST).astype(np.int64)
    weights = np.stack([_weights(k, float(size[1])) for k in range(_WIDEST + 1)])
    middle = np.floor(at[:, 0] + 0.5).astype(np.int64)
    order = np.argsort(middle, kind="stable")
    order = order[movable[order]]
    for plane in planes:
        first, end = np.searchsorted(middle[order], [plane - reach, plane + reach + 1])
        if first < end:
            here = shown(plane)
            which = order[first:end]
            step = np.array([rules.step_um / size[1], rules.step_um / size[2]])
            _look(here.absorbance, here.known, at, which, plane - middle[which] + reach, width, weights, n_xy, step, seen)
    places = np.empty((len(joints), 2 * n_z + 1, (2 * n_xy + 1) ** 2), np.int16)
    _between_planes(seen, at[:, 0] - middle, reach, rules.step_z_um / size[0], n_z, places)
    return places.reshape(len(joints), -1)


@lru_cache(maxsize=64)
def _weights(width: int, pixel_um: float) -> NDArray[np.float32]:
    """(2, 2 half + 1) profiles of the two Gaussians for tubes of a width, padded with zeros to the longest of all."""
    narrow = max(0.16, width * _WIDTH_STEP_UM, 0.6 * pixel_um)
    half = ceil(2.5 * max(_WIDEST * _WIDTH_STEP_UM, pixel_um) / pixel_um) + ceil(0.9 / pixel_um)
    away = np.arange(-half, half + 1) * pixel_um
    both = np.stack([np.exp(-0.5 * (away / um) ** 2).round(12) for um in (narrow, max(narrow + 0.35, 1.6 * narrow))])
    both[both < 0.03] = 0.0
    return (both / both.sum(axis=1, keepdims=True)).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _look(plane: Any, known: Any, at: Any, which: Any, where: Any, width: Any, weights: Any, n_xy: int, step: Any, seen: Any) -> None:
    """The difference of Gaussians of a plane at the places around joints; `where` in `seen` this plane goes."""
    n_y, n_x = plane.shape
    longest = weights.shape[2] // 2
    inner = int(np.ceil(n_xy * max(step[0], step[1]))) + 1
    rows = np.zeros((2, 2 * (inner + longest) + 1, 2 * inner + 1), np.float32)
    field = np.zeros((2 * inner + 1, 2 * inner + 1), np.float32)
    for n, i in enumerate(which):
        half = longest
        while half > 1 and weights[width[i], 1, longest - half] == 0.0:
            half -= 1
        y, x = int(np.floor(at[i, 1] + 0.5)), int(np.floor(at[i, 2] + 0.5))
        reach = inner + half
        n_known = 0
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                n_known += 0 <= y + dy < n_y and 0 <= x + dx < n_x and known[y + dy, x + dx]
        if n_known < _LEAST_KNOWN * (2 * reach + 1) ** 2:
            continue
        _difference(plane, y, x, inner, half, weights[width[i]], rows, field)
        for p in range((2 * n_xy + 1) ** 2):
            dy = at[i, 1] - y + (p // (2 * n_xy + 1) - n_xy) * step[0] + inner
            dx = at[i, 2] - x + (p % (2 * n_xy + 1) - n_xy) * step[1] + inner
            a, b = min(max(int(dy), 0), 2 * inner - 1), min(max(int(dx), 0), 2 * inner - 1)
            dy, dx = dy - a, dx - b
            upper = field[a, b] * (1 - dx) + field[a, b + 1] * dx
            lower = field[a + 1, b] * (1 - dx) + field[a + 1, b + 1] * dx
            seen[i, where[n], p] = int(np.floor(_SCALE * (upper * (1 - dy) + lower * dy) + 0.5))


@njit(cache=True, nogil=True)
def _difference(plane: Any, y: int, x: int, inner: int, half: int, weights: Any, rows: Any, field: Any) -> None:
    """Fill `field` with the difference of the two Gaussians around a pixel; beyond the border the border's pixels count."""
    n_y, n_x = plane.shape
    longest = weights.shape[1] // 2
    for dy in range(-inner - half, inner + half + 1):
        source = plane[min(max(y + dy, 0), n_y - 1)]
        for dx in range(-inner, inner + 1):
            narrow, wide = np.float32(0.0), np.float32(0.0)
            for k in range(-half, half + 1):
                value = source[min(max(x + dx + k, 0), n_x - 1)]
                narrow += weights[0, longest + k] * value
                wide += weights[1, longest + k] * value
            rows[0, dy + inner + half, dx + inner], rows[1, dy + inner + half, dx + inner] = narrow, wide
    for dy in range(2 * inner + 1):
        for dx in range(2 * inner + 1):
            narrow, wide = np.float32(0.0), np.float32(0.0)
            for k in range(2 * half + 1):
                narrow += weights[0, longest - half + k] * rows[0, dy + k, dx]
                wide += weights[1, longest - half + k] * rows[1, dy + k, dx]
            field[dy, dx] = narrow - wide


@njit(cache=True, nogil=True)
def _between_planes(seen: Any, offset: Any, reach: int, step: float, n_z: int, places: Any) -> None:
    """From planes to places along z, linearly; a plane that is not known is between its neighbours, and 0 where there are none."""
    n_planes, n_places = seen.shape[1], seen.shape[2]
    for i in range(len(seen)):
        last = -1
        for plane in range(n_planes):
            if seen[i, plane, 0] == _NO_DATA:
                continue
            for missing in range(last + 1, plane):
                for p in range(n_places):
                    share = (missing - last) / (plane - last)
                    seen[i, missing, p] = 0 if last < 0 else seen[i, last, p] + share * (seen[i, plane, p] - seen[i, last, p])
            last = plane
        seen[i, last + 1 :] = 0
        for k in range(2 * n_z + 1):
            z = offset[i] + (k - n_z) * step + reach
            lower = min(max(int(z), 0), n_planes - 2)
            share = z - lower
            for p in range(n_places):
                places[i, k, p] = int(np.floor(seen[i, lower, p] + share * (seen[i, lower + 1, p] - seen[i, lower, p]) + 0.5))


@njit(cache=True, nogil=True)
def _costs(stain: Any, movable: Any, shape: Any, numbers: Any, cost: Any) -> None:
    """The cost of every place of every joint by itself."""
    weight, least, step_z, step_xy, sd_z, sd_xy = numbers
    for i in range(len(stain)):
        best = max(np.float64(stain[i].max()), least)
        for k in range(len(stain[i])):
            z, y, x = k // (shape[1] * shape[2]) - shape[0] // 2, k // shape[2] % shape[1] - shape[1] // 2, k % shape[2] - shape[2] // 2
            away = 0.5 * ((z * step_z / sd_z) ** 2 + (y * y + x * x) * (step_xy / sd_xy) ** 2)
            cost[i, k] = away + (weight * (1.0 - stain[i, k] / best) if movable[i] else 1e6 * away)


@njit(cache=True, nogil=True)
def _cheapest(cost: Any, bend: float, n: int, stride: int, out: Any) -> None:
    """For every place the least of cost + bend (steps along one axis)^2 over all places of its row along that axis."""
    for k in range(len(cost)):
        i = k // stride % n
        first = k - i * stride
        best = cost[k]
        for j in range(n):
            value = cost[first + j * stride] + bend * np.float32((i - j) * (i - j))
            best = min(best, value)
        out[k] = best


@njit(cache=True, nogil=True)
def _solve(cost: Any, up: Any, order: Any, bend: Any, shape: Any, chosen: Any) -> None:
    """The places that cost least together. `cost` becomes what each place costs with all that hangs on the joint."""
    n_places = cost.shape[1]
    one, other = np.empty(n_places, np.float32), np.empty(n_places, np.float32)
    for i in order[::-1]:
        if up[i] >= 0:
            _cheapest(cost[i], bend[i, 1], shape[2], 1, one)
            _cheapest(one, bend[i, 1], shape[1], shape[2], other)
            _cheapest(other, bend[i, 0], shape[0], shape[1] * shape[2], one)
            for k in range(n_places):
                cost[up[i], k] += one[k] - one[n_places // 2]
    for i in order:
        best = np.inf
        for k in range(n_places):
            value = np.float64(cost[i, k])
            if up[i] >= 0:
                above = chosen[up[i]]
                z = k // (shape[1] * shape[2]) - above // (shape[1] * shape[2])
                y, x = k // shape[2] % shape[1] - above // shape[2] % shape[1], k % shape[2] - above % shape[2]
                value += bend[i, 0] * z * z + bend[i, 1] * (y * y + x * x)
            if value < best:
                best, chosen[i] = value, k


@njit(cache=True, nogil=True)
def _parabolas(own: Any, shape: Any, chosen: Any, moved: Any, pull: Any, vertex: Any) -> None:
    """Through the chosen place of each joint and its two neighbours along each axis: half the curvature, and where it is lowest."""
    strides = (shape[1] * shape[2], shape[2], 1)
    for i in range(len(own)):
        for axis in range(3):
            at = chosen[i] // strides[axis] % shape[axis]
            moved[i, axis] = at - shape[axis] // 2
            vertex[i, axis], pull[i, axis] = moved[i, axis], 1e-3
            if 0 < at < shape[axis] - 1:
                low, here, high = own[i, chosen[i] - strides[axis]], own[i, chosen[i]], own[i, chosen[i] + strides[axis]]
                bow = low + high - 2.0 * here
                if bow > 1e-3:
                    pull[i, axis] = bow
                    vertex[i, axis] += min(max(0.5 * (low - high) / bow, -1.0), 1.0)


@njit(cache=True, nogil=True)
def _refine(own: Any, up: Any, bend: Any, shape: Any, chosen: Any, movable: Any, moved: Any) -> None:
    """Places between those of the lattice, in steps: parabolas through each joint's own cost, and the same bends."""
    n = len(own)
    pull, vertex = np.zeros((n, 3)), np.zeros((n, 3))
    _parabolas(own, shape, chosen, moved, pull, vertex)
    total, weight = np.empty((n, 3)), np.empty((n, 3))
    for _ in range(_SWEEPS):
        total[:], weight[:] = pull * vertex, pull
        for i in range(n):
            if up[i] >= 0:
                for axis in range(3):
                    stiff = 2.0 * bend[i, min(axis, 1)]
                    total[i, axis] += stiff * moved[up[i], axis]
                    total[up[i], axis] += stiff * moved[i, axis]
                    weight[i, axis] += stiff
                    weight[up[i], axis] += stiff
        for i in range(n):
            for axis in range(3):
                moved[i, axis] = 0.5 * (moved[i, axis] + total[i, axis] / weight[i, axis]) if movable[i] else 0.0
