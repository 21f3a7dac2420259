"""A volume that is computed where it is asked for: brick by brick, the ones used last kept within a limit of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from numpy.typing import NDArray

from brightfield.core.space import Shape, Window

type _Box = tuple[slice, slice, slice]


class Bricks:
    """Bricks of a regular division of a volume of `shape_zyx`; what a brick holds must not depend on when it is made.

    make: window within the volume -> its voxels, or None where all of them are `empty`. limit_bytes: what may be kept at most; the brick
    in use is kept in any case.
    """

    def __init__(
        self, shape_zyx: Shape, brick_zyx: Shape, make: Callable[[Window], NDArray[Any] | None], *, empty: int, limit_bytes: int
    ) -> None:
        self.shape_zyx, self.brick_zyx = shape_zyx, brick_zyx
        self._make, self._empty, self._limit_bytes = make, empty, limit_bytes
        self._kept: dict[Shape, NDArray[Any] | None] = {}  # the one used last is at the end
        self._bytes = 0

    def fill(self, out: NDArray[Any], window: Window) -> None:
        """Write the voxels of a window within the volume into `out`, an array of its shape."""
        for box, voxels in self._parts(window):
            out[box] = self._empty if voxels is None else voxels

    def _parts(self, window: Window) -> Iterator[tuple[_Box, NDArray[Any] | None]]:
        """Where in the window each brick lies, and what of it."""
        planes, rows, columns = (_met(axis, n) for axis, n in zip(window, self.brick_zyx, strict=True))
        for (i, z, inner_z), (j, y, inner_y), (k, x, inner_x) in product(planes, rows, columns):
            brick = self._brick((i, j, k))
            yield (z, y, x), None if brick is None else brick[inner_z, inner_y, inner_x]

    def _brick(self, index: Shape) -> NDArray[Any] | None:
        if index in self._kept:
            self._kept[index] = voxels = self._kept.pop(index)
            return voxels
        z, y, x = ((i * n, min((i + 1) * n, size)) for i, n, size in zip(index, self.brick_zyx, self.shape_zyx, strict=True))
        self._kept[index] = voxels = self._make((z, y, x))
        self._bytes += 0 if voxels is None else voxels.nbytes
        while self._bytes > self._limit_bytes and len(self._kept) > 1:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._bytes -= 0 if oldest is None else oldest.nbytes
        return voxels


def _met(axis: tuple[int, int], size: int) -> list[tuple[int, slice, slice]]:
    """The bricks that a range of an axis meets: index, where in the range, where in the brick."""
    low, high = axis
    met = []
    for index in range(low // size, -(-high // size)):
        start = index * size
        first, last = max(low, start), min(high, start + size)
        met.append((index, slice(first - low, last - low), slice(first - start, last - start)))
    return met
