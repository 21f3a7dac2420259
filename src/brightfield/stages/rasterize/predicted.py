"""What a stain predicts of the planes of a stack, in bands of width, and how that changes from plane to plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from brightfield.stages.rasterize.bands import Bands, Boxes, Mask, Plane, absorbance_of, bands_of, boxes_of
from brightfield.stages.rasterize.optics import Stain, saturated

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LATEST = 3
"""A plane, and those before and after it."""


@dataclass(frozen=True)
class Shown:
    """A plane as the image shows it: absorbance up to a constant, which pixels are known, and where there are any."""

    absorbance: Plane
    known: Mask
    boxes: Boxes
    pixel_um: float

    @classmethod
    def of(cls, grey: NDArray[np.uint8] | NDArray[np.uint16], known: Mask, pixel_um: float) -> Shown:
        """From grey values, dark is stain."""
        boxes = boxes_of(known)
        return cls(absorbance_of(grey, known, boxes), known, boxes, pixel_um)

    @cached_property
    def bands(self) -> Bands:
        """Its bands of width."""
        return bands_of(self.absorbance, self.boxes, self.pixel_um)

    @staticmethod
    def n_bytes(shape_yx: tuple[int, int]) -> int:
        """The memory that a plane of so many pixels takes."""
        return 13 * shape_yx[0] * shape_yx[1]


type PlaneOf = Callable[[int], Shown]


class Held[T]:
    """What is made of planes: the first `most` are kept for good, of the others the latest few.

    Planes are looked at one after another, several times: what was used last is then no better guess of what is used next.
    """

    def __init__(self, make: Callable[[int], T], most: int) -> None:
        self._make, self._most = make, most
        self._first: dict[int, T] = {}
        self._latest: dict[int, T] = {}

    def __call__(self, plane: int) -> T:
        """What is made of a plane."""
        for held in (self._first, self._latest):
            if plane in held:
                return held[plane]
        chosen = self._first if len(self._first) < self._most else self._latest
        chosen[plane] = made = self._make(plane)
        while len(self._latest) > _LATEST:
            del self._latest[next(iter(self._latest))]
        return made


class Predicted:
    """The planes that a stain predicts, each computed once where they are asked for in order.

    shown: the planes as the image shows them; planes: those that have pixels and are in order.
    """

    def __init__(self, stain: Stain, shown: PlaneOf, planes: Sequence[int]) -> None:
        self.stain = stain
        self._shown, self._planes = shown, frozenset(planes)
        self._held: dict[int, tuple[Plane, Bands]] = {}

    def model(self, plane: int) -> Plane:
        """The absorbance, saturated; right where the plane has pixels, 0 elsewhere."""
        return self._plane(plane)[0]

    def bands(self, plane: int) -> Bands:
        """Its bands; 0 where the plane has no pixels."""
        return self._plane(plane)[1]

    def slopes(self, plane: int) -> Bands:
        """How the bands change along z, per um: from the plane before to the one after, or from this one where one has no pixels."""
        around = [k for k in (plane - 1, plane + 1) if k in self._planes]
        here, covered = self.bands(plane), self._covered(plane)
        low, high = (self.bands(k) if k in self._planes else here for k in (plane - 1, plane + 1))
        has_low, has_high = (self._covered(k) & covered if k in around else np.zeros_like(covered) for k in (plane - 1, plane + 1))
        per_um = np.float32(1 / self.stain.grid.voxel_size_zyx_um[0]) / np.maximum(has_low.astype(np.float32) + has_high, np.float32(1))
        fine, coarse = ((np.where(has_high, c, b) - np.where(has_low, a, b)) * per_um for a, b, c in zip(low, here, high, strict=True))
        return Bands(fine.astype(np.float32), coarse.astype(np.float32))

    def _plane(self, plane: int) -> tuple[Plane, Bands]:
        if plane not in self._held:
            for old in [k for k in self._held if abs(k - plane) > 1]:
                del self._held[old]
            boxes = self._shown(plane).boxes
            model = saturated(self.stain.absorbance(plane, boxes))
            self._held[plane] = model, bands_of(model, boxes, self.stain.pixel_um)
        return self._held[plane]

    def _covered(self, plane: int) -> Mask:
        covered = np.zeros(self.stain.grid.shape_zyx[1:], np.bool_)
        for y0, y1, x0, x1 in self._shown(plane).boxes.tolist():
            covered[y0:y1, x0:x1] = True
        return covered
