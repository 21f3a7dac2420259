"""Kernels of the targets that `raster` does not draw: direction, affinities, keypoints. Each touches the voxels of one patch only."""

# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)

from __future__ import annotations

from math import ceil, exp, floor, inf, isnan, nan
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.raster.cones import Cones, grid_numbers
from brightfield.raster.conic import axis_distance2
from brightfield.raster.runs import in_row_order

if TYPE_CHECKING:
    from brightfield.core.space import Grid, Window

_SOMA = int(Label.SOMA)
_UNKNOWN = int(Label.UNKNOWN)
_REACH_SIGMAS = 3.0


def empty_field(codes: NDArray[np.uint8], value: float, n_channels: int = 1) -> NDArray[np.float32]:
    """(n_channels, z, y, x) float32 of `value`, NaN where `codes` (z, y, x) are 255: what the kernels draw into, and let NaN stay."""
    out = np.empty((n_channels, *codes.shape), np.float32)
    _fill(codes.reshape(-1), np.float32(value), out.reshape(n_channels, codes.size))
    return out


def draw_direction(strokes: NDArray[np.int32], cones: Cones, grid: Grid, window: Window, out: NDArray[np.float32]) -> None:
    """Draw unit vectors (z, y, x) along the neurite, away from the root, into `out` (3, z, y, x) float32; not in the soma.

    strokes: see `runs.strokes`. A voxel has the direction of the edge that gives it its class: of the tubes that hold it the one with the
    nearest axis, else of the lines through it; a tie goes to the lower node id.
    """
    step = cones.geometry[:, 4:7] - cones.geometry[:, :3]
    length = np.sqrt((step * step).sum(axis=1, keepdims=True))
    tangent = np.divide(step, length, out=np.zeros_like(step), where=length > 0)
    is_soma = cones.label == _SOMA
    counts = is_soma | (length[:, 0] > 0)
    low = np.array([lo for lo, _ in window])
    _paint_direction(in_row_order(strokes), cones.geometry, is_soma, counts, cones.node_id, tangent, grid_numbers(grid), low, out)


def affinities(objects: NDArray[np.uint8], offsets_zyx: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(k, z, y, x) uint8: 1 where a voxel and the one at `offset` from it belong to the same object, else 0.

    objects: (z, y, x), 0 background, 255 unknown. 255 where either voxel is unknown or the other one is outside of the patch.
    """
    out = np.full((len(offsets_zyx), *objects.shape), _UNKNOWN, np.uint8)
    _fill_affinities(objects, offsets_zyx, out)
    return out


def draw_blobs(
    position_zyx_um: NDArray[np.float64],
    channel: NDArray[np.int64],
    value: NDArray[np.float32],
    sigma_um: float,
    grid: Grid,
    window: Window,
    out: NDArray[np.float32],
) -> None:
    """Draw into `out` (channels, z, y, x) float32 the highest of Gaussians of height 1 in um, cut at 3 sigma.

    value: (n,) what a point's Gaussian is multiplied with; NaN makes the whole ball of 3 sigma NaN.
    """
    low = np.array([lo for lo, _ in window])
    _paint_blobs(position_zyx_um, channel, value, sigma_um, grid_numbers(grid), low, out)


# ------------------------------------------------------------------------------------------------------------------ kernels


@njit(cache=True, nogil=True, error_model="numpy")
def _row_end(spans: Any, first: int) -> int:
    end = first + 1
    while end < len(spans) and spans[end, 1] == spans[first, 1] and spans[end, 0] == spans[first, 0]:
        end += 1
    return end


@njit(cache=True, nogil=True, error_model="numpy")
def _paint_direction(spans: Any, cones: Any, is_soma: Any, counts: Any, node_id: Any, tangent: Any, grid: Any, low: Any, out: Any) -> None:
    n = len(cones)
    owner = np.empty(out.shape[3], np.int64)
    nearest = np.empty(out.shape[3], np.float64)
    first = 0
    while first < len(spans):
        end = _row_end(spans, first)
        x0, x1 = spans[first, 2], spans[first, 3]
        for i in range(first + 1, end):
            x1 = max(x1, spans[i, 3])
        owner[x0 - low[2] : x1 - low[2]], nearest[x0 - low[2] : x1 - low[2]] = -1, inf
        for is_line in (False, True):  # tubes first: a line counts only where there is no tube
            for i in range(first, end):
                if (spans[i, 4] >= n) == is_line and counts[spans[i, 4] % n]:
                    _claim_row(spans[i], spans[i, 4] % n, is_line, cones, is_soma, node_id, grid, low, owner, nearest)
        _lay_row(owner, x0 - low[2], x1 - low[2], is_soma, tangent, out[:, spans[first, 0] - low[0], spans[first, 1] - low[1]])
        first = end


@njit(cache=True, nogil=True, error_model="numpy")
def _lay_row(owner: Any, x0: int, x1: int, is_soma: Any, tangent: Any, row: Any) -> None:
    for x in range(x0, x1):
        cone = owner[x] % len(is_soma)
        if owner[x] >= 0 and not is_soma[cone] and not isnan(row[0, x]):
            for axis in range(3):
                row[axis, x] = tangent[cone, axis]


@njit(cache=True, nogil=True, error_model="numpy")
def _claim_row(
    span: Any, index: int, is_line: bool, cones: Any, is_soma: Any, node_id: Any, grid: Any, low: Any, owner: Any, nearest: Any
) -> None:
    """Let a cone own the voxels of its span that no nearer one owns; owners of lines have n added."""
    n, cone = len(cones), cones[index]
    z_um, y_um = grid[0] + span[0] * grid[3], grid[1] + span[1] * grid[4]
    for x in range(span[2], span[3]):
        before = owner[x - low[2]]
        if is_line and 0 <= before < n:
            continue
        distance2 = -1.0 if is_soma[index] else axis_distance2(cone, z_um, y_um, grid[2] + x * grid[5])
        best = nearest[x - low[2]]
        if distance2 < best or (distance2 == best and node_id[index] < node_id[before % n]):
            owner[x - low[2]], nearest[x - low[2]] = index + (n if is_line else 0), distance2


@njit(cache=True, nogil=True)
def _fill_affinities(objects: Any, offsets: Any, out: Any) -> None:
    nz, ny, nx = objects.shape
    for k in range(len(offsets)):
        dz, dy, dx = offsets[k]
        x0 = max(0, -dx)
        x1 = max(x0, min(nx, nx - dx))  # an offset may be longer than the patch
        for z in range(max(0, -dz), min(nz, nz - dz)):
            for y in range(max(0, -dy), min(ny, ny - dy)):
                here, there, row = objects[z, y, x0:x1], objects[z + dz, y + dy, x0 + dx : x1 + dx], out[k, z, y, x0:x1]
                for x in range(len(row)):
                    a, b = here[x], there[x]
                    row[x] = _UNKNOWN if (a == _UNKNOWN) | (b == _UNKNOWN) else (a == b) & (a > 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _paint_blobs(position: Any, channel: Any, value: Any, sigma_um: float, grid: Any, low: Any, out: Any) -> None:
    reach = _REACH_SIGMAS * sigma_um
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    for i in range(len(position)):
        for axis in range(3):
            centre = (position[i, axis] - grid[axis]) / grid[3 + axis] - low[axis]
            first[axis] = max(0, ceil(centre - reach / grid[3 + axis]))
            last[axis] = min(out.shape[1 + axis] - 1, floor(centre + reach / grid[3 + axis]))
        for z in range(first[0], last[0] + 1):
            dz = grid[0] + (z + low[0]) * grid[3] - position[i, 0]
            for y in range(first[1], last[1] + 1):
                dy = grid[1] + (y + low[1]) * grid[4] - position[i, 1]
                row = out[channel[i], z, y]
                for x in range(first[2], last[2] + 1):
                    dx = grid[2] + (x + low[2]) * grid[5] - position[i, 2]
                    away2 = dz * dz + dy * dy + dx * dx
                    if away2 <= reach * reach and not isnan(row[x]):
                        height = exp(-away2 / (2 * sigma_um * sigma_um)) * value[i]
                        if isnan(height) or height > row[x]:
                            row[x] = height


@njit(cache=True, nogil=True, boundscheck=False)
def _fill(codes: Any, value: Any, fields: Any) -> None:
    hidden = np.float32(nan)
    for k in range(len(fields)):
        field = fields[k]
        for i in range(len(codes)):
            field[i] = hidden if codes[i] == _UNKNOWN else value
