"""Runs: a labelled volume as sorted row intervals, at most a few hundred thousand numbers where the volume has billions of voxels.

A run is a row (z, y, x0, x1, value) of int32 with x0 < x1 half-open; the runs of an array are ordered by (z, y, x0) and never overlap.
Spans (see `cones.spans_of`) overlap and come in any order; `settle` turns them into runs, deciding each voxel's class.
"""

# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.codes import Label, Reason
from brightfield.raster.cones import Cones, grid_numbers
from brightfield.raster.conic import axis_distance2, lower_row

if TYPE_CHECKING:
    from brightfield.core.space import Grid, Shape, Window

type Runs = NDArray[np.int32]

_SOMA = int(Label.SOMA)
_UNKNOWN = int(Label.UNKNOWN)
_UNEXPLAINED = int(Reason.UNEXPLAINED)
_MISREGISTERED = int(Reason.MISREGISTERED)
_SOMA_UNCERTAIN = int(Reason.SOMA_UNCERTAIN)
REASON = 256
"""Values from here on are reason bits in the layers of `overlay`."""


def in_row_order(spans: NDArray[np.int32]) -> NDArray[np.int32]:
    """The spans ordered by (z, y, x0), otherwise as they came; the very array where they are already."""
    if len(spans) == 0 or _is_ordered(spans):
        return spans
    (z0, y0), (z1, y1) = row_bounds(spans)
    ordered: NDArray[np.int32] = _counting_sort(_counting_sort(spans, 1, y0, y1 - y0 + 1), 0, z0, z1 - z0 + 1)
    _sort_rows(ordered)
    return ordered


def planes_of(ordered: NDArray[np.int32], z0: int, z1: int) -> NDArray[np.int32]:
    """The rows of planes [z0, z1), a view: the spans or runs are ordered."""
    first, end = np.searchsorted(ordered[:, 0], [z0, z1])
    return ordered[first:end]


def strokes(tubes: NDArray[np.int32], lines: NDArray[np.int32], n_cones: int) -> NDArray[np.int32]:
    """Spans of tubes and of lines (see `lines.lines_of`) together, in order; a line's cone has `n_cones` added to tell it apart."""
    return in_row_order(_joined(tubes, lines, n_cones))


def _joined(first: NDArray[np.int32], second: NDArray[np.int32], mark: int) -> NDArray[np.int32]:
    """Both, with `mark` added to the last column of the second; numpy takes ten times as long to add a row of five."""
    both = np.concatenate([first, second])
    both[len(first) :, 4] += mark
    return both


def settle(strokes: NDArray[np.int32], cones: Cones, grid: Grid) -> Runs:
    """Runs of class codes from `strokes`.

    A voxel inside several tubes is soma where one of them is; else it has the class of the nearest axis in um, ties going to the lower
    node id. Lines count only where there is no tube, and follow the same rule among themselves.
    """
    runs = np.empty((len(strokes) + 1024, 5), np.int32)
    filled, done = 0, 0
    while done < len(strokes):
        filled, done = _settle_rows(strokes, done, cones.geometry, cones.label, cones.node_id, grid_numbers(grid), runs, filled)
        if done < len(strokes):
            runs = np.concatenate([runs, np.empty_like(runs)])
    return runs[:filled]


def union(spans: NDArray[np.int32], value: int) -> Runs:
    """Runs of one value wherever there is a span."""
    ordered = in_row_order(spans)
    runs = np.empty((len(ordered), 5), np.int32)
    return runs[: _merge_rows(ordered, value, runs)].copy()


def overlay(tubes: Runs, reasons: Runs) -> Runs:
    """One set of runs from labels and from reasons why a voxel is unknown: value = label + 256 * reason bits.

    tubes: runs or several sets of them, of label codes; where sets overlap the highest code counts, and 0 says "known, no label here".
    reasons: the same, of `codes.Reason` bits, which add up. A tube wins over every reason but MISREGISTERED, and a soma but SOMA_UNCERTAIN;
    a tube of unknown class is UNEXPLAINED.
    """
    layers = in_row_order(_joined(tubes, reasons, REASON))
    runs = np.empty((2 * len(layers) + 16, 5), np.int32)
    return runs[: _overlay_rows(layers, runs)].copy()


def by_chunk(runs: Runs, chunk_zyx: Shape, n_chunks_zyx: Shape) -> tuple[Runs, NDArray[np.int64]]:
    """The runs cut at chunk borders and ordered by chunk, and where each chunk's begin: (n, 5) and (n_chunks + 1,), C order of chunks."""
    return _split_by_chunk(runs, np.array(chunk_zyx, np.int64), np.array(n_chunks_zyx, np.int64))


def voxels_by_value(runs: Runs) -> NDArray[np.int64]:
    """(256,) int64: voxels of each value."""
    counts: NDArray[np.int64] = np.bincount(runs[:, 4], weights=runs[:, 3] - runs[:, 2], minlength=256).astype(np.int64)
    return counts


def paint(runs: Runs, window: Window) -> NDArray[np.uint8]:
    """The window as a dense uint8 array; the runs lie within it."""
    out = np.zeros([hi - lo for lo, hi in window], np.uint8)
    _paint(runs, window[0][0], window[1][0], window[2][0], out)
    return out


@njit(cache=True, nogil=True)
def row_bounds(spans: Any) -> Any:
    """Lowest and highest z and y of spans; numpy takes twenty times as long down the columns."""
    z0 = z1 = np.int64(spans[0, 0])
    y0 = y1 = np.int64(spans[0, 1])
    for i in range(1, len(spans)):
        z0, z1 = min(z0, spans[i, 0]), max(z1, spans[i, 0])
        y0, y1 = min(y0, spans[i, 1]), max(y1, spans[i, 1])
    return (z0, y0), (z1, y1)


@njit(cache=True, nogil=True)
def _is_ordered(spans: Any) -> bool:
    for i in range(1, len(spans)):
        for column in range(3):
            if spans[i, column] != spans[i - 1, column]:
                if spans[i, column] < spans[i - 1, column]:
                    return False
                break
    return True


@njit(cache=True, nogil=True)
def _counting_sort(spans: Any, column: int, low: int, n: int) -> Any:
    start = np.zeros(n + 1, np.int64)
    for i in range(len(spans)):
        start[spans[i, column] - low + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    out = np.empty_like(spans)
    for i in range(len(spans)):
        key = spans[i, column] - low
        target = start[key]
        start[key] = target + 1
        for j in range(5):
            out[target, j] = spans[i, j]
    return out


@njit(cache=True, nogil=True)
def _row_end(spans: Any, first: int) -> int:
    end = first + 1
    while end < len(spans) and spans[end, 1] == spans[first, 1] and spans[end, 0] == spans[first, 0]:
        end += 1
    return end


@njit(cache=True, nogil=True)
def _sort_row(spans: Any, first: int, end: int) -> None:
    """Order the spans of one row by x0, in place; rows are short, and mostly in order."""
    for i in range(first + 1, end):
        j = i
        while j > first and spans[j - 1, 2] > spans[j, 2]:
            for column in range(2, 5):
                spans[j - 1, column], spans[j, column] = spans[j, column], spans[j - 1, column]
            j -= 1


@njit(cache=True, nogil=True)
def _sort_rows(spans: Any) -> None:
    """Order the spans of every row by x0, in place; the rows themselves are in order already."""
    first = 0
    while first < len(spans):
        end = _row_end(spans, first)
        _sort_row(spans, first, end)
        first = end


@njit(cache=True, nogil=True)
def _append_run(runs: Any, filled: int, z: int, y: int, x0: int, x1: int, value: int) -> int:
    if filled > 0:
        last = runs[filled - 1]
        if last[3] == x0 and last[4] == value and last[1] == y and last[0] == z:
            last[3] = x1
            return filled
    runs[filled, 0] = z
    runs[filled, 1] = y
    runs[filled, 2] = x0
    runs[filled, 3] = x1
    runs[filled, 4] = value
    return filled + 1


@njit(cache=True, nogil=True)
def _merge_rows(spans: Any, value: int, runs: Any) -> int:
    filled, first = 0, 0
    while first < len(spans):
        end = _row_end(spans, first)
        z, y, x0, x1 = spans[first, 0], spans[first, 1], spans[first, 2], spans[first, 3]
        for i in range(first + 1, end):
            if spans[i, 2] <= x1:
                x1 = max(x1, spans[i, 3])
            else:
                filled = _append_run(runs, filled, z, y, x0, x1, value)
                x0, x1 = spans[i, 2], spans[i, 3]
        filled = _append_run(runs, filled, z, y, x0, x1, value)
        first = end
    return filled


@njit(cache=True, nogil=True, error_model="numpy")
def _settle_rows(spans: Any, done: int, cones: Any, label: Any, node_id: Any, grid: Any, runs: Any, filled: int) -> tuple[int, int]:
    """Append the runs of the rows from span `done` on; returns runs filled and spans finished, early when a row might not fit."""
    n = len(cones)
    while done < len(spans):
        end = _row_end(spans, done)
        most = 0
        for i in range(done, end):
            most += spans[i, 3] - spans[i, 2]
        if filled + most > len(runs):
            return filled, done
        first = done
        while first < end:
            x1 = spans[first, 3]
            value = label[spans[first, 4] % n]
            alike = True
            last = first + 1
            while last < end and spans[last, 2] < x1:
                x1 = max(x1, spans[last, 3])
                alike = alike and label[spans[last, 4] % n] == value
                last += 1
            if alike:
                filled = _append_run(runs, filled, spans[first, 0], spans[first, 1], spans[first, 2], x1, value)
            else:
                filled = _settle_cluster(spans, first, last, x1, cones, label, node_id, grid, runs, filled)
            first = last
        done = end
    return filled, done


@njit(cache=True, nogil=True, error_model="numpy")
def _settle_cluster(
    spans: Any, first: int, last: int, x1: int, cones: Any, label: Any, node_id: Any, grid: Any, runs: Any, filled: int
) -> int:
    """Decide voxel by voxel where spans of several classes overlap."""
    z, y = spans[first, 0], spans[first, 1]
    for x in range(spans[first, 2], x1):
        value = _class_at(spans, first, last, x, cones, label, node_id, grid)
        filled = _append_run(runs, filled, z, y, x, x + 1, value)
    return filled


@njit(cache=True, nogil=True, error_model="numpy")
def _class_at(spans: Any, first: int, last: int, x: int, cones: Any, label: Any, node_id: Any, grid: Any) -> int:
    n = len(cones)
    z_um, y_um, x_um = grid[0] + spans[first, 0] * grid[3], grid[1] + spans[first, 1] * grid[4], grid[2] + x * grid[5]
    best, nearest, in_tube = -1, np.inf, False
    for i in range(first, last):
        if not spans[i, 2] <= x < spans[i, 3]:
            continue
        cone = spans[i, 4] % n
        is_tube = spans[i, 4] < n
        if in_tube and not is_tube:
            continue
        if is_tube and not in_tube:
            best, nearest, in_tube = -1, np.inf, True
        distance2 = -1.0 if label[cone] == _SOMA else axis_distance2(cones[cone], z_um, y_um, x_um)
        if best < 0 or distance2 < nearest or (distance2 == nearest and node_id[cone] < node_id[best]):
            best, nearest = cone, distance2
    return label[best]


@njit(cache=True, nogil=True)
def _paint(runs: Any, z0: int, y0: int, x0: int, out: Any) -> None:
    for i in range(len(runs)):
        out[runs[i, 0] - z0, runs[i, 1] - y0, runs[i, 2] - x0 : runs[i, 3] - x0] = runs[i, 4]


@njit(cache=True, nogil=True, error_model="numpy")
def paint_distance(spans: Any, first_plane: int, cones: Any, grid: Any, band_um: float, z0: int, y0: int, x0: int, out: Any) -> None:
    """Lower `out` (float32, um, beginning at voxel z0, y0, x0) to the signed distance of each span's cone, not below -band_um; NaN stays.

    first_plane: the plane of the grid that z counts from.
    """
    for i in range(len(spans)):
        z, y, x, end = spans[i, 0], spans[i, 1], spans[i, 2], spans[i, 3]
        z_um, y_um = grid[0] + (first_plane + z) * grid[3], grid[1] + y * grid[4]
        lower_row(cones[spans[i, 4]], z_um, y_um, grid[2], grid[5], x, -band_um, out[z - z0, y - y0, x - x0 : end - x0])


@njit(cache=True, nogil=True)
def _overlay_rows(layers: Any, runs: Any) -> int:
    """Sweep each row from boundary to boundary; a row has few layers at any place, so looking at all that are open is quick."""
    filled, first = 0, 0
    while first < len(layers):
        end = _row_end(layers, first)
        opened, x = first, layers[first, 2]
        while opened < end:
            value, following = _overlay_at(layers, opened, end, x)
            if value > 0:
                filled = _append_run(runs, filled, layers[first, 0], layers[first, 1], x, following, value)
            x = following
            while opened < end and layers[opened, 3] <= x:
                opened += 1
        first = end
    return filled


@njit(cache=True, nogil=True)
def _overlay_at(layers: Any, opened: int, end: int, x: int) -> tuple[int, int]:
    """The value at x, and the next x at which it may change."""
    label, bits, following = -1, 0, 2**31
    for i in range(opened, end):
        x0, x1, value = layers[i, 2], layers[i, 3], layers[i, 4]
        if x0 > x:
            following = min(following, x0)
            break
        if x1 <= x:
            continue
        following = min(following, x1)
        if value < REASON:
            label = max(label, value)
        else:
            bits |= value - REASON
    if label >= 0:
        stays = _MISREGISTERED | (_SOMA_UNCERTAIN if label == _SOMA else 0)
        bits = (bits & stays) | (_UNEXPLAINED if label == _UNKNOWN else 0)
    if bits:
        label = _UNKNOWN
    return max(label, 0) + 256 * bits, following


@njit(cache=True, nogil=True)
def _split_by_chunk(runs: Any, chunk: Any, n_chunks: Any) -> tuple[Any, Any]:
    starts = np.zeros(n_chunks[0] * n_chunks[1] * n_chunks[2] + 1, np.int64)
    for i in range(len(runs)):
        row = (runs[i, 0] // chunk[0] * n_chunks[1] + runs[i, 1] // chunk[1]) * n_chunks[2]
        for cx in range(runs[i, 2] // chunk[2], (runs[i, 3] - 1) // chunk[2] + 1):
            starts[row + cx + 1] += 1
    for i in range(len(starts) - 1):
        starts[i + 1] += starts[i]
    at = starts[:-1].copy()
    pieces = np.empty((starts[-1], 5), np.int32)
    for i in range(len(runs)):
        row = (runs[i, 0] // chunk[0] * n_chunks[1] + runs[i, 1] // chunk[1]) * n_chunks[2]
        for cx in range(runs[i, 2] // chunk[2], (runs[i, 3] - 1) // chunk[2] + 1):
            target = at[row + cx]
            at[row + cx] += 1
            pieces[target] = runs[i]
            pieces[target, 2] = max(runs[i, 2], cx * chunk[2])
            pieces[target, 3] = min(runs[i, 3], (cx + 1) * chunk[2])
    return pieces, starts
