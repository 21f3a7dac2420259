"""Neighbouring tiles of a plane merge into pictures, one request each.

A service answers only so many requests a second. So a picture may hold tiles that nobody asked for, where fetching them costs less than
another request: they are thrown away when it has come, and are in no image, no table and no hash.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

type Ints = NDArray[np.int64]

REQUEST_PX = 2**20
"""Pixels that take as long as a request: at 0.1 bytes each and 10 MB/s, beside 8 connections that wait 0.1 s for an answer."""

REQUEST_TILES = 2.5
"""And no more than so many tiles are thrown away for a request, which is a seventh of what is kept of real neurons."""

_MOST_BANDS = 16  # the work grows with the fifth power


def merge(boxes: Ints, group: Ints, tile: int, side: int) -> Ints:
    """The picture of each tile, counted from 0 in the order of groups and planes; -1 where the group is.

    boxes: (n, 5) z, y0, y1, x0, x1 in voxels, tiles of edge `tile` ordered by (z, y0, x0). group: (n,); tiles of two groups share no
    picture, those of group -1 are in none. side: no picture has more rows or columns, unless a tile has.

    Of all ways to cut a plane of a group into rectangles, each cut from edge to edge, it takes one with the smallest sum of pixels and
    prices of requests.
    """
    wanted = np.flatnonzero(group >= 0)
    ordered = wanted[np.lexsort((wanted, boxes[wanted, 0], group[wanted]))]
    is_first = np.ones(len(ordered) + 1, np.bool_)
    is_first[1:-1] = (np.diff(boxes[ordered, 0]) != 0) | (np.diff(group[ordered]) != 0)
    price = min(REQUEST_PX, int(REQUEST_TILES * tile**2))
    picture = np.full(len(boxes), -1, np.int64)
    picture[ordered] = _merge_kernel(np.ascontiguousarray(boxes[ordered, 1:]), np.flatnonzero(is_first), tile, side, price)
    return picture


@njit(cache=True, nogil=True)
def _merge_kernel(boxes, starts, tile, side, price):  # type: ignore[no-untyped-def]  # numba infers the types, here and below
    """The picture of each tile; tiles from one start to the next may share pictures."""
    picture = np.empty(len(boxes), np.int64)
    first = 0
    for k in range(len(starts) - 1):
        low, high = starts[k], starts[k + 1]
        first += _merge_plane(boxes[low:high], picture[low:high], first, tile, side, price)
    return picture


@njit(cache=True, nogil=True)
def _merge_plane(boxes, picture, first, tile, side, price):  # type: ignore[no-untyped-def]
    """Number the pictures of one plane of a group from `first` on, into `picture`; returns how many there are."""
    row, column = boxes[:, 0] // tile, boxes[:, 2] // tile
    row, column = row - row.min(), column - column.min()
    mask = np.zeros((row.max() + 1, column.max() + 1), np.bool_)
    for k in range(len(boxes)):
        mask[row[k], column[k]] = True
    band_y, y = _bands(mask, boxes[:, 0].min(), boxes[:, 1].max(), tile, side)
    band_x, x = _bands(mask.T, boxes[:, 2].min(), boxes[:, 3].max(), tile, side)
    bands = np.zeros((len(y) - 1, len(x) - 1), np.bool_)
    for k in range(len(boxes)):
        bands[band_y[row[k]], band_x[column[k]]] = True
    number = np.full(bands.shape, -1, np.int64)
    n = 0
    for i in range(0, bands.shape[0], _MOST_BANDS):
        for j in range(0, bands.shape[1], _MOST_BANDS):
            part = bands[i : i + _MOST_BANDS, j : j + _MOST_BANDS]
            ends_y, ends_x = y[i : i + _MOST_BANDS + 1], x[j : j + _MOST_BANDS + 1]
            cut = _best_cuts(part, ends_y, ends_x, side, price)
            n = _number(cut, number[i : i + _MOST_BANDS, j : j + _MOST_BANDS], n)
    for k in range(len(boxes)):
        picture[k] = first + number[band_y[row[k]], band_x[column[k]]]
    return n


@njit(cache=True, nogil=True)
def _bands(mask, low, high, tile, side):  # type: ignore[no-untyped-def]
    """Rows of tiles that are alike and follow each other are one band, up to `side` voxels: the band of each row, and where bands begin."""
    band = np.zeros(len(mask), np.int64)
    begin = np.empty(len(mask) + 1, np.int64)
    begin[0], n = low, 1
    for k in range(1, len(mask)):
        alike = True
        for j in range(mask.shape[1]):
            alike &= mask[k, j] == mask[k - 1, j]
        end = min(low + (k + 1) * tile, high)
        if not alike or end - begin[n - 1] > side:
            begin[n] = low + k * tile
            n += 1
        band[k] = n - 1
    begin[n] = high
    return band, begin[: n + 1]


@njit(cache=True, nogil=True)
def _best_cuts(mask, y, x, side, price):  # type: ignore[no-untyped-def]
    """For every rectangle of bands [y0, y1, x0, x1]: 0 where empty, 1 a picture, else 2 + where it is best cut, columns after rows."""
    n_y, n_x = mask.shape
    cost = np.zeros((n_y + 1, n_y + 1, n_x + 1, n_x + 1), np.int64)
    cut = np.zeros(cost.shape, np.int8)
    for high in range(1, n_y + 1):
        for wide in range(1, n_x + 1):
            for y0 in range(n_y - high + 1):
                for x0 in range(n_x - wide + 1):
                    y1, x1 = y0 + high, x0 + wide
                    if not mask[y0:y1, x0:x1].any():
                        continue
                    rows, columns = y[y1] - y[y0], x[x1] - x[x0]
                    fits = (rows <= side and columns <= side) or (high == 1 and wide == 1)
                    best, where = (rows * columns + price, 1) if fits else (np.int64(2**62), 0)
                    for middle in range(y0 + 1, y1):
                        both = cost[y0, middle, x0, x1] + cost[middle, y1, x0, x1]
                        if both < best:
                            best, where = both, 2 + middle
                    for middle in range(x0 + 1, x1):
                        both = cost[y0, y1, x0, middle] + cost[y0, y1, middle, x1]
                        if both < best:
                            best, where = both, 2 + n_y + middle
                    cost[y0, y1, x0, x1], cut[y0, y1, x0, x1] = best, where
    return cut


@njit(cache=True, nogil=True)
def _number(cut, number, n):  # type: ignore[no-untyped-def]
    """Number the pictures that the cuts leave, from `n` on and from top to bottom; returns the next number."""
    n_y, n_x = number.shape
    waiting = [(0, n_y, 0, n_x)]
    while waiting:
        y0, y1, x0, x1 = waiting.pop()
        where = cut[y0, y1, x0, x1]
        if where == 1:
            number[y0:y1, x0:x1] = n
            n += 1
        elif where > 2 + n_y:
            waiting.append((y0, y1, where - 2 - n_y, x1))
            waiting.append((y0, y1, x0, where - 2 - n_y))
        elif where > 1:
            waiting.append((where - 2, y1, x0, x1))
            waiting.append((y0, where - 2, x0, x1))
    return n
