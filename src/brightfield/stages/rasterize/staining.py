"""Fitting a predicted stain to an image: how dark each part of the neuron is, and how the blur grows above and below focus.

Sums of two bands of width are compared, so that neither the light's unevenness nor a trace that lies a little beside its stain counts for
much. Strengths follow from the ratio of what is seen to what is predicted along each part; the blur from a few planes with much stain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.raster.cones import cones_of, spans_of
from brightfield.raster.runs import in_row_order, planes_of
from brightfield.stages.rasterize.bands import Boxes, Mask, Plane, absorbance_of, bands_of, boxes_of
from brightfield.stages.rasterize.optics import Blur, Stain, saturated

if TYPE_CHECKING:
    from brightfield.core.skeleton import Skeleton
    from brightfield.raster.runs import Runs

GROWTHS = (0.35, 0.47, 0.60, 0.75, 0.90)
"""Of the blur, per um of defocus: the candidates on either side."""
RINGS = (0.0, 0.2, 0.35, 0.5)
_PLANES_OF_BLUR = 3
_OWN_UM = 0.35
_LEAST_VOXELS = 6
_FACTOR = (0.25, 4.0)
_OPAQUE = 1.2
_OUTLIER = 6.0


@dataclass(frozen=True, slots=True)
class Shown:
    """A plane as the image shows it: absorbance up to a constant, which pixels are known, and where there are any."""

    absorbance: Plane
    known: Mask
    boxes: Boxes

    @classmethod
    def of(cls, grey: NDArray[np.uint8] | NDArray[np.uint16], known: Mask) -> Shown:
        """From grey values, dark is stain."""
        boxes = boxes_of(known)
        return cls(absorbance_of(grey, known, boxes), known, boxes)


type PlaneOf = Callable[[int], Shown]


def fitted(stain: Stain, skeleton: Skeleton, on: Mask, shown: PlaneOf, planes: Sequence[int]) -> Stain:
    """The stain with strengths and blur as the planes show them.

    on: (n_nodes,) whether the edge of a node lies on its stain; the others keep the strength that their class has on average.
    planes: the planes that have pixels and are in order.
    """
    own = _owned(stain, skeleton, on)
    some = list(planes[::2]) if len(planes) > 24 else list(planes)
    stain = _strengths(stain, own, shown, some)
    if len(planes) >= _PLANES_OF_BLUR:
        stain = replace(stain, blur=_blur(stain, shown, _dark_planes(stain, planes)))
    return _strengths(stain, own, shown, some)


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
            found = sum(bands_of(here.absorbance, here.boxes, stain.pixel_um))
            model = sum(bands_of(saturated(stain.absorbance(plane, here.boxes)), here.boxes, stain.pixel_um))
            _sums(rows, found, model, here.known, seen, predicted, count)
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
    """The best of the candidates: sides in turn, twice."""
    parts = [_Parts(stain, shown(plane), plane) for plane in planes]
    best = [(0.60, 0.0), (0.60, 0.0)]
    for _ in range(2):
        for side in (0, 1):
            options = list(product(GROWTHS, RINGS))
            losses = []
            for option in options:
                tried = [option if side == 0 else best[0], option if side == 1 else best[1]]
                losses.append(round(sum(part.loss(tried) for part in parts), 9))
            best[side] = options[int(np.argmin(losses))]
    (above, ring_above), (below, ring_below) = best
    return Blur((above, below), (ring_above, ring_below), stain.blur.focus_um)


class _Parts:
    """The bands of one plane, and of what each side adds to it under every candidate, at the pixels that stain reaches."""

    def __init__(self, stain: Stain, here: Shown, plane: int) -> None:
        whole = stain.absorbance(plane, here.boxes)
        pixels = here.known & (whole > 0.03) & (whole < _OPAQUE)
        self._seen = self._at(here.absorbance, here, stain, pixels)
        self._side = [{growth: self._kernels(stain, here, plane, side, growth, pixels) for growth in GROWTHS} for side in (1, -1)]

    def _kernels(self, stain: Stain, here: Shown, plane: int, side: int, growth: float, pixels: Mask) -> tuple[Plane, Plane]:
        blurred = replace(stain, blur=replace(stain.blur, growth=(growth, growth), ring=(0.0, 0.0)))
        plain = self._at(blurred.absorbance(plane, here.boxes, side=side), here, stain, pixels)
        return plain, plain - self._at(blurred.absorbance(plane, here.boxes, side=side, kernel=0.55), here, stain, pixels)

    @staticmethod
    def _at(plane: Plane, here: Shown, stain: Stain, pixels: Mask) -> Plane:
        fine, coarse = bands_of(plane, here.boxes, stain.pixel_um)
        return np.concatenate([fine[pixels], coarse[pixels]])

    def loss(self, sides: Sequence[tuple[float, float]]) -> float:
        """Mean of absolute residuals; what nobody traced counts for no more than an outlier."""
        rest = self._seen.astype(np.float64)
        for of_side, (growth, ring) in zip(self._side, sides, strict=True):
            plain, inner = of_side[growth]
            rest = rest - plain - ring * inner
        rest = np.abs(rest)
        return float(np.minimum(rest, _OUTLIER * 0.006).sum()) / max(len(rest), 1)
