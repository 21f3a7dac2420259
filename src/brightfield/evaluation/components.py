"""Connected components of a mask that is never held whole: what segment the nodes of a skeleton lie in.

A mask comes as slabs of planes, from the top down. Kept are the runs of one slab (20 bytes each) and a number for each component that was
ever begun (8 bytes), whatever the size of the volume.
"""

# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.space import Window
from brightfield.evaluation.runlength import NO_SEGMENT
from brightfield.raster.runs import Runs, in_row_order
from brightfield.raster.topology import component_of

_NONE: Runs = np.empty((0, 5), np.int32)


class Components:
    """The 26-connected components that hold points. points_zyx: (n, 3) int64 voxels, in any order."""

    def __init__(self, points_zyx: NDArray[np.int64]) -> None:
        self._points = points_zyx
        self._number = np.full(len(points_zyx), NO_SEGMENT, np.int64)
        self._same = np.zeros(1, np.int64)
        self._last, self._last_number = _NONE, np.empty(0, np.int64)

    def add(self, planes: tuple[int, int], runs: Runs) -> None:
        """Go on with planes [z0, z1): runs of the mask, any order, without overlap. Slabs come in order and leave nothing out."""
        ordered = in_row_order(runs)
        both = np.concatenate([self._last, ordered])
        number, self._same = _numbered(component_of(both), self._last_number, self._same)
        here = np.flatnonzero((self._points[:, 0] >= planes[0]) & (self._points[:, 0] < planes[1]))
        self._number[here] = _at_points(both, number, self._points[here])
        last = both[:, 0] == planes[1] - 1
        self._last, self._last_number = both[last], number[last]

    def segments(self) -> NDArray[np.int64]:
        """(n,) the number of the component that holds each point; `NO_SEGMENT` where none does."""
        return _heads(self._same, self._number)


def mask_runs(flags: NDArray[np.uint8], bit: int, window: Window) -> Runs:
    """Runs of the voxels whose flags have a bit; flags: (z, y, x) uint8 of a window."""
    runs = np.empty((_count_runs(flags, bit), 5), np.int32)
    _fill_runs(flags, bit, window[0][0], window[1][0], window[2][0], runs)
    return runs


# ------------------------------------------------------------------------------------------------------------------ kernels


@njit(cache=True, nogil=True)
def _count_runs(flags: Any, bit: int) -> int:
    n = 0
    for z in range(flags.shape[0]):
        for y in range(flags.shape[1]):
            row, before = flags[z, y], False
            for x in range(len(row)):
                now = (row[x] & bit) != 0
                n += now and not before
                before = now
    return n


@njit(cache=True, nogil=True)
def _fill_runs(flags: Any, bit: int, z0: int, y0: int, x0: int, runs: Any) -> None:
    i = -1
    for z in range(flags.shape[0]):
        for y in range(flags.shape[1]):
            row, before = flags[z, y], False
            for x in range(len(row)):
                now = (row[x] & bit) != 0
                if now and not before:
                    i += 1
                    runs[i, 0], runs[i, 1], runs[i, 2], runs[i, 4] = z0 + z, y0 + y, x0 + x, 1
                if now:
                    runs[i, 3] = x0 + x + 1
                before = now


@njit(cache=True, nogil=True)
def _head(same: Any, i: int) -> int:
    while same[i] != i:
        same[i] = same[same[i]]
        i = same[i]
    return i


@njit(cache=True, nogil=True)
def _heads(same: Any, numbers: Any) -> Any:
    out = np.empty_like(numbers)
    for i in range(len(numbers)):
        out[i] = _head(same, numbers[i])
    return out


@njit(cache=True, nogil=True)
def _numbered(first: Any, last_number: Any, same: Any) -> tuple[Any, Any]:
    """A number for each run, and which numbers are of one component.

    first: index of the first run of each run's component in this slab. The runs of the plane before come first and have their numbers.
    """
    number = np.zeros(len(first), np.int64)
    n_new = 0
    for i in range(len(last_number), len(first)):
        n_new += first[i] == i
    grown = np.arange(len(same) + n_new)
    grown[: len(same)] = same
    following = len(same)
    for i in range(len(first)):
        if i < len(last_number):
            mine = _head(grown, last_number[i])
            if first[i] == i:
                number[i] = mine
                continue
            other = _head(grown, number[first[i]])
            grown[max(mine, other)] = min(mine, other)
        elif first[i] == i:
            number[i] = following
            following += 1
            continue
        number[i] = number[first[i]]
    return number, grown


@njit(cache=True, nogil=True)
def _at_points(runs: Any, number: Any, points: Any) -> Any:
    """The number of the run that holds each point, `NO_SEGMENT` where none does; runs in order."""
    found = np.zeros(len(points), np.int64)
    for i in range(len(points)):
        z, y, x = points[i]
        low, high = 0, len(runs)
        while low < high:  # the last run that begins at or before the point
            middle = (low + high) // 2
            run = runs[middle]
            if run[0] < z or (run[0] == z and (run[1] < y or (run[1] == y and run[2] <= x))):
                low = middle + 1
            else:
                high = middle
        if low > 0 and runs[low - 1, 0] == z and runs[low - 1, 1] == y and runs[low - 1, 3] > x:
            found[i] = number[low - 1]
    return found
