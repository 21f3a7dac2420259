# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)
"""Runs as sets of voxels: what lies inside of others, what lies outside, and how much it is. Runs as `runs` has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from brightfield.raster.runs import Runs


def clipped(runs: Runs, other: Runs) -> Runs:
    """The runs where the others are too, with their own values."""
    return _cut(runs, other, True)


def without(runs: Runs, other: Runs) -> Runs:
    """The runs where no others are, with their own values."""
    return _cut(runs, other, False)


def n_voxels(runs: Runs) -> int:
    """How many voxels there are in runs."""
    return int((runs[:, 3] - runs[:, 2]).sum(dtype=np.int64))


def _cut(runs: Runs, other: Runs, inside: bool) -> Runs:
    out = np.empty((len(runs) + len(other), 5), np.int32)
    return out[: _cut_rows(runs, other, inside, out)].copy()


# ---------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _is_before(a: Any, b: Any) -> bool:
    """Whether a run lies in an earlier row than another, or ends before it begins."""
    if a[0] != b[0]:
        return a[0] < b[0]
    if a[1] != b[1]:
        return a[1] < b[1]
    return a[3] <= b[2]


@njit(cache=True, nogil=True)
def _append(run: Any, x0: int, x1: int, out: Any, filled: int) -> int:
    if x0 >= x1:
        return filled
    out[filled] = run
    out[filled, 2], out[filled, 3] = x0, x1
    return filled + 1


@njit(cache=True, nogil=True)
def _cut_rows(runs: Any, other: Any, inside: bool, out: Any) -> int:
    filled, first = 0, 0
    for i in range(len(runs)):
        while first < len(other) and _is_before(other[first], runs[i]):
            first += 1
        x, j = runs[i, 2], first
        while j < len(other) and not _is_before(runs[i], other[j]):
            if inside:
                filled = _append(runs[i], max(x, other[j, 2]), min(runs[i, 3], other[j, 3]), out, filled)
            else:
                filled = _append(runs[i], x, other[j, 2], out, filled)
                x = other[j, 3]
            j += 1
        if not inside:
            filled = _append(runs[i], x, runs[i, 3], out, filled)
    return filled
