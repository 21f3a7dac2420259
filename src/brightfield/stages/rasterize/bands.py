"""Planes of a stack in two bands of width, where thin stain stands out and slow changes of the light do not show.

``fine`` is what a Gaussian of 0.37 um keeps and one of 1.37 um does not, ``coarse`` what 1.37 um keeps and 3.7 um does not: of a line whose
profile is narrower than about 1.1 um (standard deviation) the first is larger. What is not known is filled from what lies around it.
"""

# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

type Plane = NDArray[np.float32]
type Mask = NDArray[np.bool_]
type Boxes = NDArray[np.int64]
"""(n, 4) half-open rectangles y0, y1, x0, x1 of a plane: rows of squares of BLOCK_PX."""

FINE_UM, MIDDLE_UM, WIDE_UM = 0.37, 1.37, 3.7
"""Standard deviations: 0.8, 3 and 8 voxels of the Allen stacks at level 2."""
BLOCK_PX = 32
"""Planes are worked on in squares of this side: only those that hold pixels which are known."""
_FILL_PX = 16
NOISE_PX = 64
_LEAST_BINNED = 2.0
"""A Gaussian of so many bins or more is worked out in bins."""
_LEAST_SAMPLES = 60


class Bands(NamedTuple):
    """The two bands of a plane, (ny, nx) float32 each."""

    fine: Plane
    coarse: Plane


def boxes_of(known: Mask) -> Boxes:
    """The squares that hold a known pixel, those beside each other joined along x."""
    n_y, n_x = known.shape
    squares = np.zeros((-(-n_y // BLOCK_PX), -(-n_x // BLOCK_PX)), np.bool_)
    _mark_squares(known, squares)
    edge = np.diff(np.pad(squares, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (row, first), (_, end) = np.nonzero(edge == 1), np.nonzero(edge == -1)
    corners = [row * BLOCK_PX, np.minimum((row + 1) * BLOCK_PX, n_y), first * BLOCK_PX, np.minimum(end * BLOCK_PX, n_x)]
    return np.stack(corners, axis=1).astype(np.int64)


def bands_of(plane: Plane, boxes: Boxes, pixel_um: float) -> Bands:
    """The bands within the boxes, 0 elsewhere."""
    narrow, middle = (smoothed(plane, boxes, um / pixel_um) for um in (FINE_UM, MIDDLE_UM))
    binning = max(1, int(WIDE_UM / pixel_um / _LEAST_BINNED))
    wide = _smoothed_in_bins(plane, WIDE_UM / pixel_um, binning)
    _differences(narrow, middle, wide, binning, boxes)
    return Bands(narrow, middle)


def smoothed(plane: Plane, boxes: Boxes, sigma_px: float) -> Plane:
    """The plane under a Gaussian that ends at 3 sigma, its border repeated; within the boxes, 0 elsewhere."""
    weights = _weights(sigma_px)
    out, between = np.zeros_like(plane), np.zeros_like(plane)
    _smooth_columns(plane, boxes, len(weights) // 2, weights, between)
    _smooth_rows(between, boxes, weights, out)
    return out


def _smoothed_in_bins(plane: Plane, sigma_px: float, binning: int) -> Plane:
    """The plane in squares of so many pixels, counted from its corner, under a Gaussian: what is as smooth as this needs no more."""
    binned = np.empty([ceil(n / binning) for n in plane.shape], np.float32)
    _bin(plane, binning, binned)
    whole = np.array([[0, binned.shape[0], 0, binned.shape[1]]], np.int64)
    return smoothed(binned, whole, float(np.sqrt(sigma_px**2 - (binning**2 - 1) / 12)) / binning)


def absorbance_of(grey: NDArray[np.uint8] | NDArray[np.uint16], known: Mask, boxes: Boxes) -> Plane:
    """-ln of the grey values, up to a constant; what is not known is the mean around it (of its square of 16 pixels), or of the plane."""
    table = _log_table(grey.dtype.str)
    overall = float(table[grey[::4, ::4][known[::4, ::4]]].mean()) if known[::4, ::4].any() else 0.0
    out = np.full(grey.shape, overall, np.float32)
    _absorb(grey, known, boxes, table, np.float32(overall), out)
    return out


def noise_of(fine: Plane, quiet: Mask) -> Plane:
    """The standard deviation of noise, for every square of 64 pixels, from the quiet pixels of it; of the whole plane where they are few.

    Robust: 1.4826 times the median of absolute values. A square counts as no quieter than 0.85 of the plane.
    """
    values = np.abs(fine[::2, ::2][quiet[::2, ::2]])
    overall = 1.4826 * float(np.median(values)) if len(values) else 1.0
    n_y, n_x = (ceil(n / NOISE_PX) for n in fine.shape)
    out = np.full((n_y, n_x), overall, np.float32)
    _noise(fine, quiet, out)
    return np.maximum(out, np.float32(max(0.85 * overall, 1e-6)))


@lru_cache(maxsize=16)
def _weights(sigma_px: float) -> NDArray[np.float32]:
    half = max(1, ceil(3 * sigma_px))
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma_px) ** 2).round(12)
    return (weights / weights.sum()).astype(np.float32)


@lru_cache(maxsize=2)
def _log_table(dtype: str) -> NDArray[np.float32]:
    """-ln of every grey value in thousandths; black counts as half a grey value."""
    grey = np.arange(np.iinfo(np.dtype(dtype)).max + 1, dtype=np.float64)
    return (-np.round(1000 * np.log(np.maximum(grey, 0.5))) / 1000).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _mark_squares(known: Any, squares: Any) -> None:
    for y in range(known.shape[0]):
        for x in range(known.shape[1]):
            if known[y, x]:
                squares[y // BLOCK_PX, x // BLOCK_PX] = True


@njit(cache=True, nogil=True)
def _smooth_columns(plane: Any, boxes: Any, margin: int, weights: Any, out: Any) -> None:
    """Along y; within the boxes and so far beside them as `_smooth_rows` will look."""
    n, half = plane.shape[0], len(weights) // 2
    for b in range(len(boxes)):
        x0, x1 = max(boxes[b, 2] - margin, 0), min(boxes[b, 3] + margin, plane.shape[1])
        if b > 0 and boxes[b - 1, 0] == boxes[b, 0]:
            x0 = max(x0, boxes[b - 1, 3] + margin)
        for i in range(boxes[b, 0], boxes[b, 1]):
            target = out[i, x0:x1]
            for k in range(-half, half + 1):
                source = plane[min(max(i + k, 0), n - 1), x0:x1]
                w = weights[k + half]
                for j in range(len(target)):
                    target[j] += w * source[j]


@njit(cache=True, nogil=True)
def _smooth_rows(plane: Any, boxes: Any, weights: Any, out: Any) -> None:
    n, half = plane.shape[1], len(weights) // 2
    row = np.empty(n + 2 * half, plane.dtype)
    for b in range(len(boxes)):
        x0, x1 = boxes[b, 2], boxes[b, 3]
        for i in range(boxes[b, 0], boxes[b, 1]):
            for j in range(x0 - half, x1 + half):
                row[j - x0 + half] = plane[i, min(max(j, 0), n - 1)]
            target = out[i, x0:x1]
            for k in range(len(weights)):
                w = weights[k]
                source = row[k : k + x1 - x0]
                for j in range(len(target)):
                    target[j] += w * source[j]


@njit(cache=True, nogil=True)
def _bin(plane: Any, binning: int, out: Any) -> None:
    """Means of squares; those at the border of what of them there is."""
    n_y, n_x = plane.shape
    for i in range(out.shape[0]):
        y0, y1 = i * binning, min((i + 1) * binning, n_y)
        for j in range(out.shape[1]):
            x0, x1 = j * binning, min((j + 1) * binning, n_x)
            total = np.float32(0.0)
            for y in range(y0, y1):
                for x in range(x0, x1):
                    total += plane[y, x]
            out[i, j] = total / np.float32((y1 - y0) * (x1 - x0))


@njit(cache=True, nogil=True)
def _differences(narrow: Any, middle: Any, wide: Any, binning: int, boxes: Any) -> None:
    """Take the middle from the narrow, and from the middle the wide between the centres of its bins."""
    (n_rows, n_columns), line = wide.shape, np.empty(wide.shape[1] + 1, np.float32)
    column, share = np.empty(narrow.shape[1], np.uint32), np.empty(narrow.shape[1], np.float32)
    for x in range(len(column)):
        column[x], share[x] = _between(x, binning, n_columns)
    for b in range(len(boxes)):
        for y in range(boxes[b, 0], boxes[b, 1]):
            row, weight = _between(y, binning, n_rows)
            below = min(row + 1, n_rows - 1)
            for j in range(n_columns):
                line[j] = wide[row, j] + weight * (wide[below, j] - wide[row, j])
            line[n_columns] = line[n_columns - 1]
            for x in range(boxes[b, 2], boxes[b, 3]):
                narrow[y, x] -= middle[y, x]
                before, after = line[column[x]], line[column[x] + np.uint32(1)]
                middle[y, x] -= before + share[x] * (after - before)


@njit(cache=True, nogil=True)
def _between(index: int, binning: int, n: int) -> tuple[int, np.float32]:
    """The bin whose centre lies before that of a pixel, and the weight of the next one; beyond the first and last centre these alone."""
    at = min(max((index + 0.5) / binning - 0.5, 0.0), n - 1.0)
    cell = int(at)
    return cell, np.float32(at - cell)


@njit(cache=True, nogil=True)
def _absorb(grey: Any, known: Any, boxes: Any, table: Any, overall: Any, out: Any) -> None:
    for b in range(len(boxes)):
        for y0 in range(boxes[b, 0], boxes[b, 1], _FILL_PX):
            for x0 in range(boxes[b, 2], boxes[b, 3], _FILL_PX):
                total, count = 0.0, 0
                y1, x1 = min(y0 + _FILL_PX, boxes[b, 1]), min(x0 + _FILL_PX, boxes[b, 3])
                for y in range(y0, y1):
                    for x in range(x0, x1):
                        if known[y, x]:
                            out[y, x] = table[grey[y, x]]
                            total += out[y, x]
                            count += 1
                mean = np.float32(total / count) if count else overall
                for y in range(y0, y1):
                    for x in range(x0, x1):
                        if not known[y, x]:
                            out[y, x] = mean


@njit(cache=True, nogil=True)
def _noise(fine: Any, quiet: Any, out: Any) -> None:
    values = np.empty((NOISE_PX // 2 + 1) ** 2, np.float32)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            n = 0
            for y in range(i * NOISE_PX, min((i + 1) * NOISE_PX, fine.shape[0]), 2):
                for x in range(j * NOISE_PX, min((j + 1) * NOISE_PX, fine.shape[1]), 2):
                    if quiet[y, x]:
                        values[n] = abs(fine[y, x])
                        n += 1
            if n >= _LEAST_SAMPLES:
                out[i, j] = 1.4826 * np.partition(values[:n], n // 2)[n // 2]
