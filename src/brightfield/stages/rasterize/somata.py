"""The soma as the image shows it: a dark body around one traced node, and the shell between the two (`Reason.SOMA_UNCERTAIN`).

Outlined in the planes through the soma's middle only: elsewhere defocus makes every body look larger. The background is taken well outside
the soma, for a running median as wide as the soma would take it for its own background. The outline is where absorbance leaves its plateau.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.raster.cones import Cones, spans_of
from brightfield.raster.runs import Runs, paint, union

if TYPE_CHECKING:
    from collections.abc import Callable

    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid, Window

type Reals = NDArray[np.float64]

N_ANGLES = 72
_CENTRAL = 0.15
"""Planes so near the middle, in radii, are averaged."""
_BACKGROUND = (2.0, 2.8)
_EDGE = (0.5, 1.7)
_STEP_UM = 0.15
_LEAST_ABSORBANCE = 0.15
_DOUBT = 0.03
"""How much farther out a body may reach than was found, in radii."""
_SMOOTH = 2
_SHARES = ((1.0, 2.5), (0.5, 0.92))
"""Absorbance of the plateau, and the share of it at the body's edge: half of it by blur alone, more where the plateau is cut off."""
_NONE: Runs = np.empty((0, 5), np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """The dark body around a soma: (n_angles,) its radius over that of the traced sphere, by the angle from +x towards +y."""

    centre_zyx_um: tuple[float, float, float]
    radius_um: float
    ratio: Reals

    @property
    def iou(self) -> float:
        """Overlap of the sphere and the body in the plane through the middle: intersection over union."""
        return float((np.minimum(self.ratio, 1.0) ** 2).sum() / (np.maximum(self.ratio, 1.0) ** 2).sum())

    @property
    def volume_um3(self) -> float:
        """Of the sphere whose sections have the outline."""
        return float(4 / 3 * np.pi * self.radius_um**3 * (self.ratio**2).mean())

    def holds(self, offset_zyx_um: tuple[Reals, Reals, Reals]) -> NDArray[np.bool_]:
        """Whether offsets from the middle lie in the body: every section of the sphere has the outline of the middle one."""
        z, y, x = offset_zyx_um
        turn = np.arctan2(y, x) / (2 * np.pi) % 1.0
        ratio = self.ratio[np.floor(turn * N_ANGLES + 0.5).astype(np.int64) % N_ANGLES]
        found: NDArray[np.bool_] = (y * y + x * x <= ratio**2 * (self.radius_um**2 - z * z)) & (np.abs(z) < self.radius_um)
        return found


def body_of(
    skeleton: Skeleton, grid: Grid, read: Callable[[Window], NDArray[Any]], known: Callable[[Window], NDArray[np.bool_]]
) -> Body | None:
    """The dark body at the soma; None without a soma, without pixels around it, or where nothing is dark."""
    if skeleton.soma is None:
        return None
    z, y, x = centre = skeleton.position_zyx_um[skeleton.soma].tolist()
    radius = float(skeleton.radius_um[skeleton.soma])
    window = _window(grid, centre, (_CENTRAL * radius, *(2 * (_BACKGROUND[1] * radius,))))
    if any(low >= high for low, high in window) or radius < 3 * grid.voxel_size_zyx_um[2]:
        return None
    profile = _profiles(read(window), known(window), grid.crop(window), (z, y, x), radius)
    if profile is None or float(np.median(profile[:, : max(1, profile.shape[1] // 4)])) < _LEAST_ABSORBANCE:
        return None
    return Body((z, y, x), radius, _edges(profile, radius))


def shell_runs(body: Body, cones: Cones, grid: Grid, *, outer: bool = True) -> Runs:
    """Runs of 1 where sphere and body do not agree; neurites that leave the soma are left out, so that they stay joined to it.

    cones: of the skeleton, as they are drawn. outer: also where the body, and what its outline may be wrong by, reaches beyond the sphere.
    """
    window, inside, sphere = _masks(body, grid)
    if window is None:
        return _NONE
    if outer:
        _, reached, _ = _masks(replace(body, ratio=body.ratio + _DOUBT), grid)
        inside |= reached & ~sphere
    neurites = union(spans_of(cones.take(np.flatnonzero(cones.label != Label.SOMA)), grid, window, merge=True, threads=1), 1)
    return _runs((sphere & ~inside | inside & ~sphere & outer) & (paint(neurites, window) == 0), window)


def body_runs(body: Body, grid: Grid) -> Runs:
    """Runs of `Label.SOMA` where the body is."""
    window, inside, _ = _masks(body, grid)
    return _NONE if window is None else _runs(inside, window)


def _masks(body: Body, grid: Grid) -> tuple[Window | None, NDArray[np.bool_], NDArray[np.bool_]]:
    reach = _EDGE[1] * body.radius_um
    window = _window(grid, body.centre_zyx_um, (body.radius_um, reach, reach))
    if any(low >= high for low, high in window):
        return None, np.zeros(0, np.bool_), np.zeros(0, np.bool_)
    z, y, x = _offsets(grid.crop(window), body.centre_zyx_um)
    shape = np.broadcast_shapes(z.shape, y.shape, x.shape)
    offset = (np.broadcast_to(z, shape), np.broadcast_to(y, shape), np.broadcast_to(x, shape))
    return window, body.holds(offset), z * z + y * y + x * x <= body.radius_um**2


def _window(grid: Grid, centre: tuple[float, float, float] | list[float], reach: tuple[float, ...]) -> Window:
    low = np.clip(grid.to_index(np.subtract(centre, reach)), 0, grid.shape_zyx).tolist()
    high = np.clip(grid.to_index(np.add(centre, reach)) + 1, 0, grid.shape_zyx).tolist()
    return ((low[0], high[0]), (low[1], high[1]), (low[2], high[2]))


def _offsets(grid: Grid, centre: tuple[float, float, float]) -> tuple[Reals, Reals, Reals]:
    """Offsets of voxel centres from a point along each axis, um, ready to be broadcast."""
    sides = zip(grid.origin_zyx_um, grid.shape_zyx, grid.voxel_size_zyx_um, centre, strict=True)
    axes: list[Reals] = [first + np.arange(n, dtype=np.float64) * size - middle for first, n, size, middle in sides]
    return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]


def _profiles(
    pixels: NDArray[Any], known: NDArray[np.bool_], grid: Grid, centre: tuple[float, float, float], radius: float
) -> Reals | None:
    """Mean absorbance of the planes, (n_angles, n_steps), outwards from the middle; None where too little is known."""
    _, y, x = _offsets(grid, centre)
    away2 = (y * y + x * x)[0]
    ring = known & ((away2 >= (_BACKGROUND[0] * radius) ** 2) & (away2 <= (_BACKGROUND[1] * radius) ** 2))
    body = known & (away2 <= (_EDGE[1] * radius) ** 2)
    if np.count_nonzero(ring) < 50 or np.count_nonzero(body) < 0.5 * np.count_nonzero(away2 <= (_EDGE[1] * radius) ** 2) * len(pixels):
        return None
    light = float(np.median(pixels[ring]))
    absorbance = np.where(known, np.log(max(light, 1.0)) - np.log(np.maximum(pixels.astype(np.float64), 0.5)), 0.0)
    plane = absorbance.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    steps = np.arange(0.0, _EDGE[1] * radius, _STEP_UM)
    angle = 2 * np.pi * np.arange(N_ANGLES)[:, None] / N_ANGLES
    rows = (centre[1] + steps * np.sin(angle) - grid.origin_zyx_um[1]) / grid.voxel_size_zyx_um[1]
    columns = (centre[2] + steps * np.cos(angle) - grid.origin_zyx_um[2]) / grid.voxel_size_zyx_um[2]
    return _interpolated(plane, rows, columns)


def _interpolated(plane: Reals, rows: Reals, columns: Reals) -> Reals:
    """Bilinear samples; beyond the border the border's."""
    rows, columns = (np.clip(v, 0.0, n - 1.001) for v, n in zip((rows, columns), plane.shape, strict=True))
    i, j = rows.astype(np.int64), columns.astype(np.int64)
    dy, dx = rows - i, columns - j
    upper = plane[i, j] * (1 - dx) + plane[i, j + 1] * dx
    lower = plane[i + 1, j] * (1 - dx) + plane[i + 1, j + 1] * dx
    values: Reals = upper * (1 - dy) + lower * dy
    return values


def _edges(profile: Reals, radius: float) -> Reals:
    """Where each profile leaves the plateau, over the radius; outliers, such as stems, give way to their neighbours' median.

    The nearer the plateau is to where absorbance saturates, the nearer to it lies the edge: see `_SHARES`.
    """
    plateau = float(np.median(profile[:, : max(1, profile.shape[1] // 4)]))
    share = float(np.interp(plateau, *_SHARES))
    away = np.arange(profile.shape[1]) * _STEP_UM
    within = (profile.round(6) >= share * plateau) | (away < _EDGE[0] * radius)
    edge = np.where(within.all(axis=1), away[-1], away[np.argmin(within, axis=1)]) / radius
    around = np.stack([np.roll(edge, shift) for shift in range(-2 * _SMOOTH, 2 * _SMOOTH + 1)])
    edge = np.median(around, axis=0)
    smooth: Reals = np.mean([np.roll(edge, shift) for shift in range(-_SMOOTH, _SMOOTH + 1)], axis=0)
    return smooth.round(4)


def _runs(mask: NDArray[np.bool_], window: Window) -> Runs:
    edge = np.diff(np.pad(mask, ((0, 0), (0, 0), (1, 1))).astype(np.int8), axis=2)
    z, y, first = np.nonzero(edge == 1)
    end = np.nonzero(edge == -1)[2]
    low = [low for low, _ in window]
    return np.stack([z + low[0], y + low[1], first + low[2], end + low[2], np.ones(len(z), np.int64)], axis=1).astype(np.int32)
