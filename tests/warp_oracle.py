"""What `raster.warp` promises, the slow way: whole volumes, every voxel tested by counting components with scipy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

type Mask = NDArray[np.bool_]

FACES = ndimage.generate_binary_structure(3, 1)
ALL = np.ones((3, 3, 3), bool)
_FROM_MIDDLE = np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0)


def is_simple(around: Mask, connect: int) -> bool:
    """Whether the middle of (3, 3, 3) voxels is simple, whatever it is itself."""
    inner = around.copy() if connect == 26 else ~around
    outer = ~inner & (_FROM_MIDDLE < 3)
    inner[1, 1, 1] = outer[1, 1, 1] = False
    pieces, _ = ndimage.label(outer, FACES)
    return ndimage.label(inner, ALL)[1] == 1 and len(np.unique(pieces[outer & (_FROM_MIDDLE == 1)])) == 1


def numbers(voxels: Mask, connect: int) -> tuple[int, int]:
    """Components of the voxels, and of what surrounds them; what is outside of the array surrounds it."""
    of_set, of_rest = (ALL, FACES) if connect == 26 else (FACES, ALL)
    return ndimage.label(voxels, of_set)[1], ndimage.label(np.pad(~voxels, 1, constant_values=True), of_rest)[1]


def warped(source: Mask, target: Mask, room: Mask, connect: int, most_rounds: int = 4) -> Mask:
    """The source grown within the room and shrunk to the target, layer after layer, voxel after voxel."""
    now, target, room = (np.pad(mask, 1) for mask in (source, target, source | target | room))
    for number in range(most_rounds):
        n_changed = _layers(now, room if number == 0 else target, connect, grow=True)
        n_changed += _layers(now, ~target, connect, grow=False)
        if n_changed == 0:
            break
    return now[1:-1, 1:-1, 1:-1]


def _layers(now: Mask, allowed: Mask, connect: int, *, grow: bool) -> int:
    total = 0
    while True:
        other = now if grow else ~now  # what a voxel becomes when it is changed
        beside = ndimage.binary_dilation(other, FACES)
        n = 0
        for z, y, x in np.argwhere(allowed & beside & ~other).tolist():
            if is_simple(now[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2], connect):
                now[z, y, x] = grow
                n += 1
        total += n
        if n == 0:
            return total
