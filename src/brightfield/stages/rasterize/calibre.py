# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)
"""How thick a neurite is, where its stain shows it: the width of absorbance across the path, in the plane of its focus.

Joints of a piece of path together say how wide the profile is at half its height. On rendered tubes that half width is the radius (and 0.05
um, as paths bend) where it is wider than the pixels and the focus are sharp; thinner neurites keep the traced radius.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from brightfield.core.space import Grid
    from brightfield.stages.rasterize.joints import Joints
    from brightfield.stages.rasterize.predicted import Shown

GROUP_UM = 12.0
"""Length of neurite that is taken to be evenly wrong."""
_LEAST_JOINTS = 5
_STEP_UM, _N_STEPS = 0.1, 31
_ALONG_UM = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
_BESIDE_UM = (0.8, 1.4)
"""Beyond the radius: where there is background."""
_LEAST_ABSORBANCE = 0.15
_SHARP_UM, _SHARP_PIXELS = 0.4, 1.3
"""A half width tells a radius from here on."""
_BEND_UM = 0.05
_WRONG, _MOST = 1.5, 1.67
"""Radii that are wrong by less stay, and by more than the latter none is changed."""


def radius_factors(
    joints: Joints,
    moves: NDArray[np.float64],
    group: NDArray[np.int64],
    grid: Grid,
    shown: Callable[[int], Shown],
    planes: Sequence[int],
) -> NDArray[np.float64]:
    """(n,) what the radius of each joint is to be multiplied by; 1 where the stain does not tell.

    moves: (n, 3) um, where the joints are seen. group: (n,) joints that are as wrong as each other; -1 for those that are not measured.
    """
    profile = _profiles(joints, moves, group >= 0, grid, shown, planes)
    factor = np.ones(len(joints))
    seen = (group >= 0) & ~np.isnan(profile[:, 0])
    order = np.argsort(group[seen], kind="stable")
    index = np.flatnonzero(seen)[order]
    if not len(index):
        return factor
    numbers, first = np.unique(group[index], return_index=True)
    sharp_um = max(_SHARP_UM, _SHARP_PIXELS * grid.voxel_size_zyx_um[2])
    for number, members in zip(numbers.tolist(), np.split(index, first[1:]), strict=True):
        if len(members) >= _LEAST_JOINTS:
            radius = float(np.median(joints.radius_um[members]))
            factor[group == number] = _factor(np.median(profile[members], axis=0), radius, sharp_um)
    return factor


def _factor(profile: NDArray[np.float64], radius_um: float, sharp_um: float) -> float:
    """From the absorbance at every step from the middle outwards."""
    away = np.arange(_N_STEPS) * _STEP_UM
    wide = max(radius_um, _SHARP_UM)
    beside = profile[(away > wide + _BESIDE_UM[0]) & (away < wide + _BESIDE_UM[1])]
    peak = float(profile[:2].mean())
    if len(beside) < _LEAST_JOINTS or peak - float(np.median(beside)) < _LEAST_ABSORBANCE:
        return 1.0
    height = (profile - float(np.median(beside))) / (peak - float(np.median(beside)))
    below = int(np.argmax(height < 0.5))
    if below == 0:
        return 1.0
    half = float(away[below - 1] + _STEP_UM * (height[below - 1] - 0.5) / (height[below - 1] - height[below]))
    share = (half - _BEND_UM) / radius_um
    return float(np.clip(share, 1 / _MOST, _MOST).round(3)) if half >= sharp_um and not 1 / _WRONG < share < _WRONG else 1.0


def _profiles(
    joints: Joints,
    moves: NDArray[np.float64],
    wanted: NDArray[np.bool_],
    grid: Grid,
    shown: Callable[[int], Shown],
    planes: Sequence[int],
) -> NDArray[np.float64]:
    """(n, steps) absorbance across the path of each joint, both sides together; NaN where it runs steeply or is not known."""
    position = joints.position_zyx_um + moves
    along = position - position[np.where(joints.up >= 0, joints.up, np.arange(len(joints)))]
    flat = np.sqrt(along[:, 1] ** 2 + along[:, 2] ** 2)
    wanted = wanted & (flat > np.abs(along[:, 0]))
    at, size = grid.to_voxel(position), np.array(grid.voxel_size_zyx_um[1:])
    direction = along[:, 1:] / np.maximum(flat, 1e-9)[:, None]
    across = np.stack([direction[:, 1], -direction[:, 0]], axis=1)
    plane_of = np.floor(at[:, 0] + 0.5).astype(np.int64)
    out = np.full((len(joints), _N_STEPS), np.nan)
    for plane in planes:
        which = np.flatnonzero(wanted & (plane_of == plane))
        if len(which):
            here = shown(plane)
            _look_across(here.absorbance, here.known, at[:, 1:], direction / size, across / size, which, _ALONG_UM, out)
    return out


@njit(cache=True, nogil=True)
def _look_across(plane: Any, known: Any, at: Any, direction: Any, across: Any, which: Any, along_um: Any, out: Any) -> None:
    n_y, n_x = plane.shape
    for i in which:
        complete = True
        for step in range(out.shape[1]):
            total = 0.0
            for along in along_um:
                for side in (-_STEP_UM, _STEP_UM):
                    y = at[i, 0] + along * direction[i, 0] + side * step * across[i, 0]
                    x = at[i, 1] + along * direction[i, 1] + side * step * across[i, 1]
                    a, b = int(np.floor(y)), int(np.floor(x))
                    if a < 0 or b < 0 or a + 1 >= n_y or b + 1 >= n_x or not known[a, b]:
                        complete = False
                        continue
                    dy, dx = y - a, x - b
                    upper = plane[a, b] * (1 - dx) + plane[a, b + 1] * dx
                    lower = plane[a + 1, b] * (1 - dx) + plane[a + 1, b + 1] * dx
                    total += upper * (1 - dy) + lower * dy
            out[i, step] = total / (2 * len(along_um))
        if not complete:
            out[i] = np.nan
