"""What a stain predicts of the planes of a stack, in bands of width, and how that changes from plane to plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brightfield.stages.rasterize.bands import Bands, Boxes, Mask, Plane, absorbance_of, bands_of, boxes_of
from brightfield.stages.rasterize.optics import Stain, saturated

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


class Predicted:
    """The planes that a stain predicts, each computed once where they are asked for in order.

    shown: the planes as the image shows them; planes: those that have pixels and are in order.
    """

    def __init__(self, stain: Stain, shown: PlaneOf, planes: Sequence[int]) -> None:
        self.stain = stain
        self._shown, self._planes = shown, frozenset(planes)
        self._held: dict[int, tuple[Plane, Bands]] = {}

    def seen(self, plane: int) -> Bands:
        """The bands of what the image shows."""
        here = self._shown(plane)
        return bands_of(here.absorbance, here.boxes, self.stain.pixel_um)

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
