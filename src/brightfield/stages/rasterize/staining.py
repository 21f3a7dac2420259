"""Fitting a predicted stain to an image: how dark each part of the neuron is, and how the blur grows above and below focus.

Sums of two bands of width are compared, so that the light's unevenness does not count for much. Strengths follow from the ratio of what is
seen to what is predicted along each part; the blur from a few planes with much stain; where the stain lies, from all (`placed.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from brightfield.core.codes import Label
from brightfield.raster.cones import cones_of, spans_of
from brightfield.raster.runs import in_row_order, planes_of
from brightfield.stages.rasterize.bands import Mask, Plane, bands_of
from brightfield.stages.rasterize.optics import Blur, Stain, saturated
from brightfield.stages.rasterize.placed import placed
from brightfield.stages.rasterize.predicted import PlaneOf, Shown

if TYPE_CHECKING:
    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid
    from brightfield.raster.runs import Runs
    from brightfield.stages.rasterize.somata import Body

GROWTHS = (0.35, 0.47, 0.60, 0.75, 0.90)
"""Of the blur, per um of defocus: the candidates on either side."""
RINGS = (0.0, 0.2, 0.35, 0.5)
SOMA_SCALES = (0.91, 0.94, 0.97, 1.0, 1.03, 1.06)
"""Of the outline of the soma, for it is found to a few per cent."""
SOMA_STRENGTHS = (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3)
_HALO, _HALO_Z_UM, _OUTLIER_OF_HALO = (1.1, 2.2), 8.0, 0.1
_PLANES_OF_BLUR = 3
_ROUNDS = (2, 1)
"""How often nodes are moved after strengths and blur were fitted."""
_OWN_UM = 0.35
_LEAST_VOXELS = 6
_FACTOR = (0.25, 4.0)
_OPAQUE = 1.2
_BESIDE_SOMA, _LEAST_PIXELS = 0.03, 2000
"""The blur is taken from neurites: where the soma is not sure to be what is predicted, pixels count only if there are few others."""
_OUTLIER = 6.0


def fitted(skeleton: Skeleton, grid: Grid, on: Mask, shown: PlaneOf, planes: Sequence[int], body: Body | None = None) -> Stain:
    """The stain of a skeleton with strengths, blur and soma as the planes show them.

    body: the outline of the soma, where it is known. on: (n_nodes,) whether the edge of a node lies on its stain; the others keep the
    strength that their class has on average. planes: the planes that have pixels and are in order.
    """
    trace, stain = skeleton, Stain.of(skeleton, grid, body)
    some = list(planes[::2]) if len(planes) > 24 else list(planes)
    for rounds in _ROUNDS:
        stain = _strengths(stain, _owned(stain, trace, on), shown, some)
        if len(planes) >= _PLANES_OF_BLUR:
            stain = replace(stain, blur=_blur(stain, shown, _dark_planes(stain, planes)))
        for _ in range(rounds):
            trace = placed(skeleton, trace, on, stain, shown, planes)
            stain = stain.along(trace, body)
    if body is not None:
        stain = _with_soma(stain, trace, body, shown, planes)
    return _strengths(stain, _owned(stain, trace, on), shown, some)


# -------------------------------------------------------------------------------------------------------------------------- strengths


def _owned(stain: Stain, skeleton: Skeleton, on: Mask) -> Runs:
    """Runs of the voxels around each edge that is ON; their value is the group."""
    cones = cones_of(skeleton, 0.0, "capsule")
    spans = spans_of(cones.take(on).grown(_OWN_UM), stain.grid, threads=1)
    spans[:, 4] = stain.group[np.flatnonzero(on)[spans[:, 4]]]
    return in_row_order(spans)


def _strengths(stain: Stain, own: Runs, shown: PlaneOf, planes: Sequence[int]) -> Stain:
    seen, predicted, count = (np.zeros(len(stain.strength)) for _ in range(3))
    for plane in planes:
        rows = planes_of(own, plane, plane + 1)
        if len(rows):
            here = shown(plane)
            model = sum(bands_of(saturated(stain.absorbance(plane, here.boxes)), here.boxes, stain.pixel_um))
            _sums(rows, sum(here.bands), model, here.known, seen, predicted, count)
    measured = (count >= _LEAST_VOXELS) & (predicted > 0)
    factor = np.clip(np.divide(seen, predicted, out=np.ones_like(seen), where=measured), *_FACTOR)
    for label in np.unique(stain.label):
        of_class = stain.label == label
        known = of_class & measured
        factor[of_class & ~measured] = np.median(factor[known]) if known.any() else 1.0
    return stain.scaled(factor)


@njit(cache=True, nogil=True)
def _sums(rows, found, model, known, seen, predicted, count):  # type: ignore[no-untyped-def]  # numba infers the types
    for i in range(len(rows)):
        y, group = rows[i, 1], rows[i, 4]
        for x in range(rows[i, 2], rows[i, 3]):
            if known[y, x]:
                seen[group] += found[y, x]
                predicted[group] += model[y, x]
                count[group] += 1


# ------------------------------------------------------------------------------------------------------------------------------- soma


def _with_soma(stain: Stain, skeleton: Skeleton, body: Body, shown: PlaneOf, planes: Sequence[int]) -> Stain:
    """The stain with the soma as dark and as large as the halo around it says: the best of the candidates."""
    group = int(stain.group[skeleton.soma or 0])
    options = list(product(SOMA_SCALES, SOMA_STRENGTHS))
    bodies = [replace(body, ratio=body.ratio * scale) for scale in SOMA_SCALES]
    stains = [stain.along(skeleton, other) for other in bodies]
    halos = [halo for plane in planes[::3] if (halo := _Halo.at(plane, stains, group, body, shown)) is not None]
    losses = [round(sum(halo.loss(SOMA_SCALES.index(scale), strength) for halo in halos), 9) for scale, strength in options]
    scale, strength = options[int(np.argmin(losses))]
    values = stain.strength.copy()
    values[group] = strength
    return replace(stains[SOMA_SCALES.index(scale)], strength=values)


@dataclass(frozen=True, slots=True)
class _Halo:
    """A part of a plane around the soma. seen: its bands; soma: what a soma of strength 1 adds, for each body; others: the rest."""

    seen: tuple[Plane, Plane]
    soma: list[Plane]
    others: list[Plane]
    pixels: Mask
    pixel_um: float

    @classmethod
    def at(cls, plane: int, stains: list[Stain], group: int, body: Body, shown: PlaneOf) -> _Halo | None:
        """None where the plane lies far from the soma or holds no pixel of its halo."""
        grid, (z, y, x) = stains[0].grid, body.centre_zyx_um
        if abs(grid.origin_zyx_um[0] + plane * grid.voxel_size_zyx_um[0] - z) > body.radius_um + _HALO_Z_UM:
            return None
        (y0, y1), (x0, x1) = (_reach(grid, axis, at, (_HALO[1] + 1) * body.radius_um) for axis, at in ((1, y), (2, x)))
        here = shown(plane)
        rows, columns = (
            np.arange(a, b) * grid.voxel_size_zyx_um[k] + grid.origin_zyx_um[k] for k, (a, b) in ((1, (y0, y1)), (2, (x0, x1)))
        )
        away = np.hypot(rows[:, None] - y, columns[None, :] - x) / body.radius_um
        pixels = here.known[y0:y1, x0:x1] & (away > _HALO[0]) & (away < _HALO[1])
        if not pixels.any():
            return None
        box, whole = np.array([[y0, y1, x0, x1]]), np.array([[0, y1 - y0, 0, x1 - x0]])
        alone = np.zeros(len(stains[0].strength))
        alone[group] = 1.0
        soma = [replace(s, strength=alone).absorbance(plane, box)[y0:y1, x0:x1] for s in stains]
        rest = [replace(s, strength=s.strength * (1 - alone)).absorbance(plane, box)[y0:y1, x0:x1] for s in stains[:1]]
        seen = bands_of(np.ascontiguousarray(here.absorbance[y0:y1, x0:x1]), whole, stains[0].pixel_um)
        return cls((seen.fine, seen.coarse), soma, rest, pixels, stains[0].pixel_um)

    def loss(self, body: int, strength: float) -> float:
        """Sum of absolute residuals of the bands."""
        model = saturated(self.others[0] + np.float32(strength) * self.soma[body])
        bands = bands_of(model, np.array([[0, model.shape[0], 0, model.shape[1]]]), self.pixel_um)
        return float(sum(np.minimum(np.abs(a - b)[self.pixels], _OUTLIER_OF_HALO).sum() for a, b in zip(self.seen, bands, strict=True)))


def _reach(grid: Grid, axis: int, at_um: float, reach_um: float) -> tuple[int, int]:
    """Indices of an axis within reach of a position."""
    first, size = grid.origin_zyx_um[axis], grid.voxel_size_zyx_um[axis]
    return max(int((at_um - reach_um - first) / size), 0), min(int((at_um + reach_um - first) / size) + 2, grid.shape_zyx[axis])


# ------------------------------------------------------------------------------------------------------------------------------- blur


def _dark_planes(stain: Stain, planes: Sequence[int]) -> list[int]:
    """A few planes, apart from each other, that have the most stain near them."""
    z = stain.grid.to_index(stain.near[:, :3])[:, 0]
    mass = stain.near[:, 3] * stain.strength[stain.near[:, 5].astype(np.int64)]
    near = np.bincount(np.clip(z, 0, stain.grid.shape_zyx[0] - 1), np.minimum(mass, 1.0), stain.grid.shape_zyx[0])
    reach = max(1, round(2.0 / stain.grid.voxel_size_zyx_um[0]))
    around = np.convolve(near, np.ones(2 * reach + 1), "same")
    chosen: list[int] = []
    for plane in sorted(planes, key=lambda k: (-round(float(around[k]), 6), k)):
        if len(chosen) < _PLANES_OF_BLUR and all(abs(plane - other) > 2 * reach for other in chosen):
            chosen.append(plane)
    return sorted(chosen)


def _blur(stain: Stain, shown: PlaneOf, planes: Sequence[int]) -> Blur:
    """The best of the candidates. Rings are those of a lens that is not made for what lies above its focus: on the side that blurs more."""
    above, below = (_near(growth) for growth in stain.blur.growth)
    parts = [_Parts(stain, shown(plane), plane, (above, below)) for plane in planes]
    options = [
        (growth, (ring * (growth[0] > growth[1]), ring * (growth[1] > growth[0])))
        for growth in product(above, below)
        for ring in (RINGS if growth[0] != growth[1] else RINGS[:1])
    ]
    losses = [round(sum(part.loss(growth, ring) for part in parts), 9) for growth, ring in options]
    return Blur(*options[int(np.argmin(losses))], stain.blur.focus_um)


def _near(growth: float) -> tuple[float, ...]:
    """The candidates beside one that was chosen; all of them where none was."""
    if growth not in GROWTHS:
        return GROWTHS
    at = GROWTHS.index(growth)
    return GROWTHS[max(at - 1, 0) : at + 2]


class _Parts:
    """The bands of one plane, and of what each side adds to it under every candidate, at the pixels that stain reaches."""

    def __init__(self, stain: Stain, here: Shown, plane: int, tried: Sequence[Sequence[float]]) -> None:
        whole = stain.absorbance(plane, here.boxes)
        pixels = here.known & (whole > 0.03) & (whole < _OPAQUE)
        somata = replace(stain, strength=np.where(stain.label == Label.SOMA, stain.strength, 0.0)).absorbance(plane, here.boxes)
        if np.count_nonzero(pixels & (somata < _BESIDE_SOMA)) > _LEAST_PIXELS:
            pixels &= somata < _BESIDE_SOMA
        self._seen = np.concatenate([band[pixels] for band in here.bands])
        self._side = [
            {growth: self._kernels(stain, here, plane, side, growth, pixels) for growth in growths}
            for side, growths in zip((1, -1), tried, strict=True)
        ]

    def _kernels(self, stain: Stain, here: Shown, plane: int, side: int, growth: float, pixels: Mask) -> tuple[Plane, Plane]:
        blurred = replace(stain, blur=replace(stain.blur, growth=(growth, growth), ring=(0.0, 0.0)))
        plain = self._at(blurred.absorbance(plane, here.boxes, side=side), here, stain, pixels)
        return plain, plain - self._at(blurred.absorbance(plane, here.boxes, side=side, kernel=0.55), here, stain, pixels)

    @staticmethod
    def _at(plane: Plane, here: Shown, stain: Stain, pixels: Mask) -> Plane:
        fine, coarse = bands_of(plane, here.boxes, stain.pixel_um)
        return np.concatenate([fine[pixels], coarse[pixels]])

    def loss(self, growths: tuple[float, float], rings: tuple[float, float]) -> float:
        """Mean of absolute residuals; what nobody traced counts for no more than an outlier."""
        rest = self._seen
        for of_side, growth, ring in zip(self._side, growths, rings, strict=True):
            plain, inner = of_side[growth]
            rest = rest - plain - np.float32(ring) * inner if ring else rest - plain
        rest = np.abs(rest, dtype=np.float64)
        return float(np.minimum(rest, _OUTLIER * 0.006).sum()) / max(len(rest), 1)
