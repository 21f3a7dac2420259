"""Voxel lines along the edges of a skeleton: what makes one component of each tree.

The exact mask of thin, oblique tubes falls to pieces (planes are farther apart than radii are wide). But every inside voxel reaches, by
steps that stay inside, the voxel that holds its nearest axis point; so a line of voxels along each axis connects all of them: a
26-connected line for 26-connectivity, every voxel that the axis passes through (6-connected) for 6-connectivity.
"""

# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.raster.cones import Cones, near_window, window_numbers

if TYPE_CHECKING:
    from brightfield.core.space import Grid, Window


def lines_of(cones: Cones, grid: Grid, connect: int, window: Window | None = None) -> NDArray[np.int32]:
    """The voxels of every cone's axis, end voxels included, as row intervals: (n, 5) int32 rows of z, y, x0, x1, cone.

    connect: 26 for the line that takes one step per voxel of the longest axis, 6 for the path through every face that the axis crosses.
    """
    if connect not in (6, 26):
        raise ValueError(f"connect is 26, 6 or None, found {connect!r}")
    box = window_numbers(grid, window)
    size_z, size_y, size_x = grid.voxel_size_zyx_um
    near = near_window(cones, grid, box, (2 * size_z, 2 * size_y, 2 * size_x))
    geometry = cones.geometry[near]
    ends = np.stack([grid.to_voxel(geometry[:, :3]), grid.to_voxel(geometry[:, 4:7])], axis=1)
    index = np.floor(ends + 0.5).astype(np.int64)
    within = np.minimum(np.abs(index[:, 1] - index[:, 0]), box[1::2] - box[0::2] + 2)  # the box bounds the work, however long an edge is
    room = int(within.sum()) + 4 * len(near)
    spans = np.empty((room, 5), np.int32)
    filled = _fill_lines(ends, index, near, connect == 6, box, spans)
    return spans[:filled].copy()


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_lines(ends: Any, index: Any, which: Any, faces: bool, box: Any, spans: Any) -> int:
    filled = 0
    for i, cone in enumerate(which):
        a, b = ends[i, 0], ends[i, 1]
        first, last = index[i, 0], index[i, 1]
        filled = _add_voxel(spans, filled, box, first[0], first[1], first[2], cone)
        if faces:
            filled = _walk_faces(spans, filled, box, a, b, first, last, cone)
        else:
            filled = _walk_line(spans, filled, box, a, b, first, last, cone)
            filled = _add_voxel(spans, filled, box, last[0], last[1], last[2], cone)
    return filled


@njit(cache=True, nogil=True, error_model="numpy")
def _walk_line(spans: Any, filled: int, box: Any, a: Any, b: Any, first: Any, last: Any, cone: int) -> int:
    """The voxels between the end voxels, one per step of the longest axis.

    The axis' own voxel in the first (last) slab is added only where the end voxel does not touch its successor (predecessor).
    """
    d = 0
    for axis in (1, 2):
        if abs(b[axis] - a[axis]) > abs(b[d] - a[d]):
            d = axis
    steps = abs(last[d] - first[d])
    sign = 1 if last[d] > first[d] else -1
    voxel = np.empty(3, np.int64)
    to_low, to_high = sign * (box[2 * d] - first[d]), sign * (box[2 * d + 1] - 1 - first[d])
    for step in range(max(min(to_low, to_high), 0), min(max(to_low, to_high), steps) + 1):
        if steps == 0:
            break
        if step == 0 or step == steps:
            end, towards = (first, 1) if step == 0 else (last, steps - 1)
            if steps == 1:
                beside = _touch(first, last)
            else:
                _at_slab(a, b, d, first[d] + sign * towards, voxel)
                beside = _touch(end, voxel)
            if beside:
                continue
        _at_slab(a, b, d, first[d] + sign * step, voxel)
        filled = _add_voxel(spans, filled, box, voxel[0], voxel[1], voxel[2], cone)
    return filled


@njit(cache=True, nogil=True, error_model="numpy")
def _at_slab(a: Any, b: Any, d: int, slab: int, voxel: Any) -> None:
    """The voxel that holds the axis at slab `slab` of the longest axis `d`."""
    t = min(max((slab - a[d]) / (b[d] - a[d]), 0.0), 1.0)
    for axis in range(3):
        voxel[axis] = floor(a[axis] + t * (b[axis] - a[axis]) + 0.5)
    voxel[d] = slab


@njit(cache=True, nogil=True, error_model="numpy")
def _touch(one: Any, other: Any) -> bool:
    return abs(one[0] - other[0]) <= 1 and abs(one[1] - other[1]) <= 1 and abs(one[2] - other[2]) <= 1


@njit(cache=True, nogil=True, error_model="numpy")
def _walk_faces(spans: Any, filled: int, box: Any, a: Any, b: Any, first: Any, last: Any, cone: int) -> int:
    """The voxels after the first that the segment passes through, one face at a time (Amanatides and Woo 1987, without drift)."""
    z, y, x = _before_box(box, a, b, first, last)
    while (z != last[0] or y != last[1] or x != last[2]) and not _behind_box(box, first, last, z, y, x):
        tz, ty, tx = _next_face(a, b, last, 0, z), _next_face(a, b, last, 1, y), _next_face(a, b, last, 2, x)
        if tz <= ty and tz <= tx:
            z += 1 if last[0] > z else -1
        elif ty <= tx:
            y += 1 if last[1] > y else -1
        else:
            x += 1 if last[2] > x else -1
        filled = _add_voxel(spans, filled, box, z, y, x, cone)
    return filled


@njit(cache=True, nogil=True, error_model="numpy")
def _before_box(box: Any, a: Any, b: Any, first: Any, last: Any) -> Any:
    """Where the walk is when it has crossed all faces before the first one that may lead into the box."""
    start = 0.0
    for axis in range(3):
        at = max(box[2 * axis] - 2, first[axis]) if last[axis] > first[axis] else min(box[2 * axis + 1] + 1, first[axis])
        if at != first[axis]:
            start = max(start, _next_face(a, b, last, axis, at) if (last[axis] - at) * (last[axis] - first[axis]) > 0 else 2.0)
    if start == 0.0:
        return first[0], first[1], first[2]
    if start > 1.0:
        return last[0], last[1], last[2]
    voxel = np.empty(3, np.int64)
    for axis in range(3):
        sign = 1 if last[axis] > first[axis] else -1
        low, high = min(first[axis], last[axis]), max(first[axis], last[axis])
        at = min(max(floor(a[axis] + start * (b[axis] - a[axis]) + 0.5), low), high)
        while at != first[axis] and _next_face(a, b, last, axis, at - sign) >= start:
            at -= sign
        while at != last[axis] and _next_face(a, b, last, axis, at) < start:
            at += sign
        voxel[axis] = at
    return voxel[0], voxel[1], voxel[2]


@njit(cache=True, nogil=True, error_model="numpy")
def _behind_box(box: Any, first: Any, last: Any, z: int, y: int, x: int) -> bool:
    """Whether the walk has left the box for good."""
    for axis, at in enumerate((z, y, x)):
        if (last[axis] > first[axis] and at >= box[2 * axis + 1]) or (last[axis] < first[axis] and at < box[2 * axis]):
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _next_face(a: Any, b: Any, last: Any, axis: int, at: int) -> float:
    """Where on the segment (0 to 1) the next face across `axis` lies; infinite when the last voxel's slab is reached."""
    if at == last[axis]:
        return np.inf
    face = at + 0.5 if last[axis] > at else at - 0.5
    return (face - a[axis]) / (b[axis] - a[axis])


@njit(cache=True, nogil=True, error_model="numpy")
def _add_voxel(spans: Any, filled: int, box: Any, z: int, y: int, x: int, cone: int) -> int:
    """Append one voxel if it is in the box, lengthening the last span where it continues it."""
    if not (box[0] <= z < box[1] and box[2] <= y < box[3] and box[4] <= x < box[5]):
        return filled
    if filled > 0:
        row = spans[filled - 1]
        if row[4] == cone and row[0] == z and row[1] == y and row[2] - 1 <= x <= row[3]:
            row[2], row[3] = min(row[2], x), max(row[3], x + 1)
            return filled
    row = spans[filled]
    row[0], row[1], row[2], row[3], row[4] = z, y, x, x + 1, cone
    return filled + 1
