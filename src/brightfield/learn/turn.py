"""Flips, and quarter turns in the plane: exact, so whatever was drawn is turned instead of drawn again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Turn:
    """Quarter turns from y to x, then flips of (z, y, x). Never a turn into z: planes are farther apart than pixels are wide."""

    quarters: int = 0
    flip_zyx: tuple[bool, bool, bool] = (False, False, False)

    def __bool__(self) -> bool:
        return self.quarters % 4 != 0 or any(self.flip_zyx)

    def apply[A: NDArray[Any]](self, array: A) -> A:
        """An array (..., z, y, x), turned; a view where that is possible."""
        turned = np.rot90(array, self.quarters, axes=(-2, -1)) if self.quarters % 4 else array
        flipped = tuple(axis - 3 for axis, flip in enumerate(self.flip_zyx) if flip)
        return np.flip(turned, flipped) if flipped else turned

    def apply_vectors[A: NDArray[Any]](self, field: A) -> A:
        """A field (3, z, y, x) of vectors (z, y, x): each vector is turned with the place it stands at."""
        z, y, x = self.apply(field)
        for _ in range(self.quarters % 4):
            y, x = -x, y  # np.rot90 puts what lies at (y, x) from the centre to (-x, y)
        signs = [-1 if flip else 1 for flip in self.flip_zyx]
        return np.stack([sign * part for sign, part in zip(signs, (z, y, x), strict=True)]).astype(field.dtype)  # type: ignore[return-value]
