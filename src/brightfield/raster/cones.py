"""Round cones and the voxel rows they meet: exact, in micrometres, in float64.

A traced edge is the convex hull of the spheres at its two ends. With a, b the end points, r_a, r_b the radii, ba = b - a, dr = r_b - r_a,
A = |ba|² - dr² and pa = p - a, the point p is inside when |pa - u ba|² <= (r_a + u dr)² at u = clamp((pa·ba + r_a dr) / A, 0, 1);
A <= 0 means that one sphere holds the other. (The usual orthogonal projection misses up to 1.6 % of the voxels.)

The hull is convex, so a voxel row meets it in ONE interval, whose ends lie on a sphere or on the lateral surface: three square roots a row
instead of a test per voxel. Where the roots come too close to a voxel centre, or are badly conditioned, the test above decides.
Positions are always `origin + index * size` of the whole grid, so a window of the grid gets the very same voxels.
"""

# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.raster.conic import AMBIGUOUS_VOXEL, inside_cone, plane_rows, row_of, shell_row, silhouette_row, voxels_between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid, Window

type SomaEdges = Literal["capsule", "taper"]

_PARALLEL_JOBS_FROM = 2000
_FIRST_CAPACITY = 1 << 14
_LATEST_ROWS = 1 << 15
"""Rows whose latest interval is remembered when intervals are merged: cones come neighbour after neighbour, so few are needed."""


@dataclass(frozen=True, slots=True)
class Cones:
    """The round cones of a skeleton: one per edge, and one sphere per root.

    geometry: (n, 8) float64, um: z, y, x, r of end a (the parent), then of end b (the child).
    label: (n,) uint8, class of the child (of the root itself for a root's sphere).
    node_id: (n,) int64, the SWC id of the child: breaks ties.
    tree: (n,) int32, number of the tree, in the order of the roots.
    radius_um: (n, 2) float64, the radii before any floor: what the rim scales with.
    """

    geometry: NDArray[np.float64]
    label: NDArray[np.uint8]
    node_id: NDArray[np.int64]
    tree: NDArray[np.int32]
    radius_um: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.label)

    def grown(self, by_um: float | NDArray[np.float64]) -> Cones:
        """The cones with every end radius larger by `by_um`: a scalar, or (n, 2) for the two ends."""
        geometry = self.geometry.copy()
        geometry[:, 3::4] += by_um
        return replace(self, geometry=geometry)

    def take(self, index: NDArray[Any]) -> Cones:
        """The cones at `index` (integers or a mask)."""
        return Cones(self.geometry[index], self.label[index], self.node_id[index], self.tree[index], self.radius_um[index])


def cones_of(skeleton: Skeleton, r_min_um: float = 0.0, soma_edges: SomaEdges = "taper") -> Cones:
    """The round cones that a skeleton stands for.

    r_min_um: floor of every radius, um. soma_edges: ``taper`` draws the edge from the soma to its child as it stands, ``capsule`` with
    the child's radius all along (the taper from a 5 um soma to a 0.1 um neurite paints an ice-cream cone).
    """
    label = skeleton.label
    child = np.arange(len(label))
    start = np.where(skeleton.parent < 0, child, skeleton.parent)
    raw = np.stack([skeleton.radius_um[start], skeleton.radius_um], axis=1)
    if soma_edges == "capsule":
        leaves_soma = (label[start] == Label.SOMA) & (label != Label.SOMA)
        raw[leaves_soma, 0] = raw[leaves_soma, 1]
    radius = np.maximum(raw, r_min_um)
    position = skeleton.position_zyx_um
    geometry = np.concatenate([position[start], radius[:, :1], position, radius[:, 1:]], axis=1)
    return Cones(geometry, label.copy(), skeleton.node_id.copy(), skeleton.tree.astype(np.int32), raw)


def balls(position_zyx_um: NDArray[np.float64], radius_um: NDArray[np.float64]) -> Cones:
    """Plain balls as cones of no length: positions (n, 3) and radii (n,) in um."""
    end = np.concatenate([position_zyx_um, radius_um[:, None]], axis=1)
    n = len(end)
    zero = np.zeros(n, np.int64)
    return Cones(np.concatenate([end, end], axis=1), zero.astype(np.uint8), zero, zero.astype(np.int32), end[:, [3, 3]])


def joined(parts: Sequence[Cones]) -> Cones:
    """All the cones of several sets, one set after the other."""
    names = ("geometry", "label", "node_id", "tree", "radius_um")
    return Cones(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def spans_of(
    cones: Cones, grid: Grid, window: Window | None = None, *, merge: bool = False, threads: int | None = None
) -> NDArray[np.int32]:
    """The voxels of every cone as row intervals: (n, 5) int32 rows of z, y, x0, x1 (half-open), cone; cone after cone.

    merge: an interval that meets the latest one of its row lengthens it, whatever its cone: far fewer, for those who ask only where.
    """
    return _collect(_fill_spans, cones, grid, window, 0.0, merge, threads)


def shell_spans_of(
    cones: Cones, axial_um: float, grid: Grid, window: Window | None = None, *, threads: int | None = None
) -> NDArray[np.int32]:
    """The same, merged, for each cone swept by `axial_um` to either side along z: its exact Minkowski sum with an axial segment."""
    return _collect(_fill_shell_spans, cones, grid, window, axial_um, True, threads)


def grid_numbers(grid: Grid) -> NDArray[np.float64]:
    """Origin and voxel size as the kernels take them: (6,) float64, z, y, x each, in um."""
    return np.array([*grid.origin_zyx_um, *grid.voxel_size_zyx_um], np.float64)


def window_numbers(grid: Grid, window: Window | None) -> NDArray[np.int64]:
    """The window, clipped to the grid, as the kernels take it: (6,) int64 z0, z1, y0, y1, x0, x1."""
    chosen = grid.window if window is None else window
    clipped = [(max(lo, 0), min(hi, n)) for (lo, hi), n in zip(chosen, grid.shape_zyx, strict=True)]
    return np.array(clipped, np.int64).reshape(6)


def n_threads(threads: int | None) -> int:
    """The number of threads to use: `threads`, or the cores this process may run on."""
    return max(1, threads or len(os.sched_getaffinity(0)))


def near_window(
    cones: Cones, grid: Grid, box: NDArray[np.int64], reach_zyx_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> NDArray[np.intp]:
    """Indices of the cones whose bounding box, grown by `reach_zyx_um`, meets the box of voxels."""
    near: NDArray[np.intp] = _near_window(cones.geometry, grid_numbers(grid), box, np.array(reach_zyx_um, np.float64))
    return near


def _collect(
    kernel: Any, cones: Cones, grid: Grid, window: Window | None, axial_um: float, merge: bool, threads: int | None
) -> NDArray[np.int32]:
    box = window_numbers(grid, window)
    near = near_window(cones, grid, box, (axial_um, 0.0, 0.0))
    numbers = grid_numbers(grid)
    jobs = n_threads(threads) if len(near) >= _PARALLEL_JOBS_FROM else 1

    def fill(part: NDArray[np.intp]) -> NDArray[np.int32]:
        latest = np.full(_LATEST_ROWS if merge else 0, -1, np.int32)
        spans = np.empty((_FIRST_CAPACITY, 5), np.int32)
        filled, done = 0, 0
        while done < len(part):
            filled, done = kernel(cones.geometry, part, done, axial_um, numbers, box, latest, spans, filled)
            if done < len(part):
                spans = np.concatenate([spans, np.empty_like(spans)])
        return spans[:filled]

    if jobs == 1:
        return fill(near)
    with ThreadPoolExecutor(jobs) as pool:
        return np.concatenate(list(pool.map(fill, np.array_split(near, jobs * 4))))


# ------------------------------------------------------------------------------------------------------------------ kernels
# No fastmath: the compiler may then neither reorder sums nor contract them, so every machine takes the same decisions.


@njit(cache=True, nogil=True, error_model="numpy")
def _near_window(cones: Any, grid: Any, box: Any, reach: Any) -> Any:
    near = np.empty(len(cones), np.intp)
    n = 0
    for i in range(len(cones)):
        meets = True
        for axis in range(3):
            low = min(cones[i, axis] - cones[i, 3], cones[i, 4 + axis] - cones[i, 7]) - reach[axis]
            high = max(cones[i, axis] + cones[i, 3], cones[i, 4 + axis] + cones[i, 7]) + reach[axis]
            origin, size = grid[axis], grid[3 + axis]
            meets = meets and (high - origin) / size >= box[2 * axis] - 1 and (low - origin) / size <= box[2 * axis + 1]
        if meets:
            near[n] = i
            n += 1
    return near[:n]


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_spans(
    cones: Any, which: Any, done: int, _axial: float, grid: Any, box: Any, latest: Any, spans: Any, filled: int
) -> tuple[int, int]:
    """Append the spans of cones `which[done:]`; returns rows filled and cones finished, early when the next row might not fit."""
    oz, oy, ox, sz, sy, sx = grid[0], grid[1], grid[2], grid[3], grid[4], grid[5]
    row_reserve = (box[5] - box[4]) // 2 + 1
    while done < len(which):
        index = which[done]
        cone = cones[index]
        before = filled
        bx = cone[6] - cone[2]
        z_lo, z_hi = min(cone[0] - cone[3], cone[4] - cone[7]), max(cone[0] + cone[3], cone[4] + cone[7])
        z0, z1 = voxels_between(z_lo, z_hi, oz, sz, box[0], box[1], AMBIGUOUS_VOXEL)
        for z in range(z0, z1):
            pz = (oz + z * sz) - cone[0]
            lo, hi = plane_rows(cone, pz)
            y0, y1 = voxels_between(lo + cone[1], hi + cone[1], oy, sy, box[2], box[3], AMBIGUOUS_VOXEL)
            for y in range(y0, y1):
                py = (oy + y * sy) - cone[1]
                lo, hi, sure = row_of(cone, pz, py)
                if not sure:
                    lo, hi = min(-cone[3], bx - cone[7]), max(cone[3], bx + cone[7])
                x0, x1 = voxels_between(lo + cone[2], hi + cone[2], ox, sx, box[4], box[5], AMBIGUOUS_VOXEL)
                if x0 >= x1:
                    continue
                if filled + row_reserve > len(spans) and filled + (x1 - x0) // 2 + 1 > len(spans):
                    return before, done
                if sure:
                    x0, x1 = _settle_ends(cone, oz + z * sz, oy + y * sy, ox, sx, x0, x1, lo + cone[2], hi + cone[2])
                    if x0 < x1:
                        filled = _append(spans, filled, z, y, x0, x1, index)
                else:
                    filled = _append_tested(cone, grid, spans, filled, z, y, x0, x1, index)
                if len(latest):
                    filled = _merge_latest(spans, filled, latest)
        done += 1
    return filled, done


@njit(cache=True, nogil=True, error_model="numpy")
def _settle_ends(
    cone: Any, z_um: float, y_um: float, ox: float, sx: float, x0: int, x1: int, lo_um: float, hi_um: float
) -> tuple[int, int]:
    """Let the definition decide for an end voxel whose centre the row's end almost touches."""
    if x0 <= (lo_um - ox) / sx + AMBIGUOUS_VOXEL and not inside_cone(cone, z_um, y_um, ox + x0 * sx):
        x0 += 1
    if x1 > x0 and x1 - 1 >= (hi_um - ox) / sx - AMBIGUOUS_VOXEL and not inside_cone(cone, z_um, y_um, ox + (x1 - 1) * sx):
        x1 -= 1
    return x0, x1


@njit(cache=True, nogil=True, error_model="numpy")
def _append_tested(cone: Any, grid: Any, spans: Any, filled: int, z: int, y: int, x0: int, x1: int, index: int) -> int:
    """Append the voxels of [x0, x1) that the definition, asked voxel by voxel, calls inside."""
    z_um, y_um = grid[0] + z * grid[3], grid[1] + y * grid[4]
    start = -1
    for x in range(x0, x1):
        if inside_cone(cone, z_um, y_um, grid[2] + x * grid[5]):
            if start < 0:
                start = x
        elif start >= 0:
            filled = _append(spans, filled, z, y, start, x, index)
            start = -1
    if start >= 0:
        filled = _append(spans, filled, z, y, start, x1, index)
    return filled


@njit(cache=True, nogil=True, error_model="numpy")
def _append(spans: Any, filled: int, z: int, y: int, x0: int, x1: int, index: int) -> int:
    spans[filled, 0] = z
    spans[filled, 1] = y
    spans[filled, 2] = x0
    spans[filled, 3] = x1
    spans[filled, 4] = index
    return filled + 1


@njit(cache=True, nogil=True, error_model="numpy")
def _merge_latest(spans: Any, filled: int, latest: Any) -> int:
    """Let the last span lengthen the latest one of its row where they meet.

    Rows share places in `latest`, and a retry overwrites spans, so a place may point at a span of another row, or at none.
    """
    if filled == 0:
        return filled
    span = spans[filled - 1]
    place = (span[0] * 1021 + span[1]) & (len(latest) - 1)
    i = latest[place]
    if 0 <= i < filled - 1:
        earlier = spans[i]
        if earlier[0] == span[0] and earlier[1] == span[1] and earlier[2] <= span[3] and span[2] <= earlier[3]:
            earlier[2], earlier[3] = min(earlier[2], span[2]), max(earlier[3], span[3])
            return filled - 1
    latest[place] = filled - 1
    return filled


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_shell_spans(
    cones: Any, which: Any, done: int, axial: float, grid: Any, box: Any, latest: Any, spans: Any, filled: int
) -> tuple[int, int]:
    """As `_fill_spans`, for cones swept by `axial` to either side along z: most planes of a y see the same contour, so z goes last."""
    oz, oy, ox, sz, sy, sx = grid[0], grid[1], grid[2], grid[3], grid[4], grid[5]
    while done < len(which):
        index = which[done]
        cone = cones[index]
        before = filled
        y_lo, y_hi = min(cone[1] - cone[3], cone[5] - cone[7]), max(cone[1] + cone[3], cone[5] + cone[7])
        y0, y1 = voxels_between(y_lo, y_hi, oy, sy, box[2], box[3], 0.0)
        for y in range(y0, y1):
            py = (oy + y * sy) - cone[1]
            lo, hi = plane_rows(cone, py, 1, 0)
            z0, z1 = voxels_between(lo + cone[0] - axial, hi + cone[0] + axial, oz, sz, box[0], box[1], 0.0)
            silhouette = silhouette_row(cone, py)
            lo, lo_height, hi, hi_height = silhouette
            whole_x0, whole_x1 = voxels_between(lo + cone[2], hi + cone[2], ox, sx, box[4], box[5], 0.0)
            for z in range(z0, z1):
                pz = (oz + z * sz) - cone[0]
                x0, x1 = whole_x0, whole_x1
                if abs(pz - lo_height) > axial or abs(pz - hi_height) > axial:
                    lo, hi = shell_row(cone, silhouette, pz, py, axial)
                    x0, x1 = voxels_between(lo + cone[2], hi + cone[2], ox, sx, box[4], box[5], 0.0)
                if x0 >= x1:
                    continue
                if filled == len(spans):
                    return before, done
                filled = _append(spans, filled, z, y, x0, x1, index)
                filled = _merge_latest(spans, filled, latest)
        done += 1
    return filled, done
