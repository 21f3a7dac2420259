"""Rotation about z, zoom and elastic deformation of a patch: pixels are resampled within their plane, tubes are drawn anew.

A patch of voxels q takes its pixels from the places ``c + R(angle) (q + u(q) - c)`` of the cell, c being its centre, all in um. Nothing
moves along z, so planes are never mixed. Zoom makes the patch's pixels smaller, not the tissue larger: radii stay what they are in um.
"""

# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, cos, floor, sin
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.space import Grid, Triple, Window
from brightfield.learn.cells import Graph
from brightfield.raster.cones import Cones

type Reals = NDArray[np.float64]

_INVERSE_STEPS = 12
"""The displacement changes by less than a third of the distance (see `augment.Augment`), so the error falls to under 1e-5 of it."""


def _still() -> Reals:
    return np.zeros((4, 4, 4, 2))


@dataclass(frozen=True, eq=False)
class Warp:
    """How a patch of `shape_zyx` voxels, whose centre is `centre_zyx_um`, is deformed.

    angle_rad: from y to x. zoom: 1.1 shows everything 10 % larger in y and x.
    knots_um: (kz, ky, kx, 2) displacements in y and x at the knots of a cubic B-spline, `spacing_um` apart, about the centre.
    """

    centre_zyx_um: Triple
    angle_rad: float = 0.0
    zoom: float = 1.0
    knots_um: Reals = field(default_factory=_still)
    spacing_um: float = 8.0

    def __bool__(self) -> bool:
        return self.angle_rad != 0.0 or self.zoom != 1.0 or bool(self.knots_um.any())

    def grid(self, cell: Grid, window: Window) -> Grid:
        """The grid of the deformed patch: as many voxels as the window has, about the centre."""
        nz, ny, nx = (hi - lo for lo, hi in window)
        size = np.divide(cell.voxel_size_zyx_um, (1.0, self.zoom, self.zoom))
        origin = np.array(self.centre_zyx_um) - (np.array((nz, ny, nx)) - 1) / 2 * size
        origin[0] = cell.to_um([window[0][0], 0, 0])[0]
        return Grid((nz, ny, nx), tuple(size.tolist()), tuple(origin.tolist()))

    def source(self, grid: Grid, cell: Grid) -> NDArray[np.float32]:
        """(z, y, x, 2) float32: row and column of the cell that each voxel of the patch takes its pixel from, continuous."""
        out = np.empty((*grid.shape_zyx, 2), np.float32)
        z_um, y_um, x_um = (
            origin + np.arange(n) * size for origin, n, size in zip(grid.origin_zyx_um, grid.shape_zyx, grid.voxel_size_zyx_um, strict=True)
        )
        frame = np.array([*self.centre_zyx_um, self.angle_rad, self.spacing_um])
        _fill_source(z_um, y_um, x_um, frame, self.knots_um, np.array(cell.origin_zyx_um), np.array(cell.voxel_size_zyx_um), out)
        return out

    def graph(self, graph: Graph) -> Graph:
        """The graph as it lies in the deformed patch: ends of edges move, radii do not."""
        geometry = graph.cones.geometry.copy()
        for end in (slice(0, 3), slice(4, 7)):
            geometry[:, end] = self.to_patch(geometry[:, end])
        cones: Cones = replace(graph.cones, geometry=geometry)
        return Graph(cones, graph.keypoints.moved_to(self.to_patch(graph.keypoints.position_zyx_um)))

    def to_patch(self, position_zyx_um: Reals) -> Reals:
        """Where places (n, 3) of the cell lie in the deformed patch, in um: the inverse of `to_cell`."""
        turned = self._rotated(position_zyx_um, -self.angle_rad)
        found = turned.copy()
        for _ in range(_INVERSE_STEPS if self.knots_um.any() else 1):
            found = turned - self.displacement(found)
        return found

    def to_cell(self, position_zyx_um: Reals) -> Reals:
        """Which places of the cell the places (n, 3) of the patch show, in um."""
        return self._rotated(position_zyx_um + self.displacement(position_zyx_um), self.angle_rad)

    def _rotated(self, position_zyx_um: Reals, angle: float) -> Reals:
        """Places turned about the centre, from y to x; z stays the very same."""
        out = position_zyx_um.copy()
        _, centre_y, centre_x = self.centre_zyx_um
        dy, dx = position_zyx_um[:, 1] - centre_y, position_zyx_um[:, 2] - centre_x
        out[:, 1] = centre_y + cos(angle) * dy - sin(angle) * dx
        out[:, 2] = centre_x + sin(angle) * dy + cos(angle) * dx
        return out

    def displacement(self, position_zyx_um: Reals) -> Reals:
        """(n, 3) um that the B-spline moves places by; 0 in z."""
        out = np.zeros_like(position_zyx_um)
        frame = np.array([*self.centre_zyx_um, self.angle_rad, self.spacing_um])
        _displace(np.ascontiguousarray(position_zyx_um), frame, self.knots_um, out)
        return out


def source_window(source: NDArray[np.float32], planes: tuple[int, int], cell: Grid) -> Window:
    """The box of the cell that the pixels of a deformed patch come from; within the cell, and never empty."""
    found = [planes]
    for axis in (0, 1):
        low, high = floor(float(source[..., axis].min())), ceil(float(source[..., axis].max())) + 1
        n = cell.shape_zyx[1 + axis]
        found.append((min(max(low, 0), n - 1), max(min(high + 1, n), 1)))
    return (found[0], found[1], found[2])


def resampled(image: NDArray[Any], source: NDArray[np.float32], window: Window, outside: float) -> NDArray[np.float32]:
    """The image (z, y, x) of `window` at `source`, bilinear within each plane, float32; `outside` where the window has no pixel."""
    out = np.empty(source.shape[:3], np.float32)
    _resample(image, source, window[1][0], window[2][0], float(outside), out)
    return out


def nearest(codes: NDArray[np.uint8], source: NDArray[np.float32], window: Window, outside: int) -> NDArray[np.uint8]:
    """The codes (z, y, x) of `window` at `source`, each that of the nearest pixel of its plane: never blurred."""
    out = np.empty(source.shape[:3], np.uint8)
    _pick(codes, source, window[1][0], window[2][0], int(outside), out)
    return out


# ------------------------------------------------------------------------------------------------------------------ kernels


@njit(cache=True, nogil=True, error_model="numpy")
def _weights(at: float, n: int, weight: Any) -> int:
    """The four cubic B-spline weights at knot coordinate `at` (0 to n - 3 between the first and last full cell), and the first knot."""
    at = min(max(at, 0.0), n - 3.0)
    first = min(int(at), n - 4)
    t = at - first
    weight[0] = (1 - t) ** 3 / 6
    weight[1] = (3 * t * t * t - 6 * t * t + 4) / 6
    weight[2] = (-3 * t * t * t + 3 * t * t + 3 * t + 1) / 6
    weight[3] = t * t * t / 6
    return first


@njit(cache=True, nogil=True, error_model="numpy")
def _displace(position: Any, frame: Any, knots: Any, out: Any) -> None:
    weight = np.empty((3, 4))
    first = np.empty(3, np.int64)
    for i in range(len(position)):
        for axis in range(3):
            n = knots.shape[axis]
            first[axis] = _weights((position[i, axis] - frame[axis]) / frame[4] + (n - 3) / 2, n, weight[axis])
        for a in range(4):
            for b in range(4):
                for c in range(4):
                    share = weight[0, a] * weight[1, b] * weight[2, c]
                    knot = knots[first[0] + a, first[1] + b, first[2] + c]
                    out[i, 1] += share * knot[0]
                    out[i, 2] += share * knot[1]


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_source(z_um: Any, y_um: Any, x_um: Any, frame: Any, knots: Any, origin: Any, size: Any, out: Any) -> None:
    """`Warp.to_cell` at every voxel of a patch, knot axis by knot axis: four products a voxel instead of 64."""
    kz, ky, kx, _ = knots.shape
    c, s = np.cos(frame[3]), np.sin(frame[3])
    weight, across = np.empty(4), np.empty((len(x_um), 4))
    column = np.empty(len(x_um), np.int64)
    for x in range(len(x_um)):
        column[x] = _weights((x_um[x] - frame[2]) / frame[4] + (kx - 3) / 2, kx, across[x])
    plane, row = np.empty((ky, kx, 2)), np.empty((kx, 2))
    for z in range(len(z_um)):
        first = _weights((z_um[z] - frame[0]) / frame[4] + (kz - 3) / 2, kz, weight)
        plane[:] = 0.0
        for a in range(4):
            plane += weight[a] * knots[first + a]
        for y in range(len(y_um)):
            first = _weights((y_um[y] - frame[1]) / frame[4] + (ky - 3) / 2, ky, weight)
            row[:] = 0.0
            for a in range(4):
                row += weight[a] * plane[first + a]
            for x in range(len(x_um)):
                dy, dx = y_um[y] - frame[1], x_um[x] - frame[2]
                for a in range(4):
                    dy += across[x, a] * row[column[x] + a, 0]
                    dx += across[x, a] * row[column[x] + a, 1]
                out[z, y, x, 0] = (frame[1] + c * dy - s * dx - origin[1]) / size[1]
                out[z, y, x, 1] = (frame[2] + s * dy + c * dx - origin[2]) / size[2]


@njit(cache=True, nogil=True, error_model="numpy")
def _resample(image: Any, source: Any, y0: float, x0: float, outside: float, out: Any) -> None:
    _, ny, nx = image.shape
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                at_y, at_x = source[z, y, x, 0] - y0, source[z, y, x, 1] - x0
                if at_y < -0.5 or at_y >= ny - 0.5 or at_x < -0.5 or at_x >= nx - 0.5:
                    out[z, y, x] = outside
                    continue
                at_y, at_x = min(max(at_y, 0.0), ny - 1.0), min(max(at_x, 0.0), nx - 1.0)
                iy, ix = min(int(at_y), max(ny - 2, 0)), min(int(at_x), max(nx - 2, 0))
                jy, jx = min(iy + 1, ny - 1), min(ix + 1, nx - 1)
                ty, tx = at_y - iy, at_x - ix
                upper = image[z, iy, ix] * (1 - tx) + image[z, iy, jx] * tx
                lower = image[z, jy, ix] * (1 - tx) + image[z, jy, jx] * tx
                out[z, y, x] = upper * (1 - ty) + lower * ty


@njit(cache=True, nogil=True, error_model="numpy")
def _pick(codes: Any, source: Any, y0: int, x0: int, outside: int, out: Any) -> None:
    _, ny, nx = codes.shape
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                iy, ix = floor(source[z, y, x, 0] + 0.5) - y0, floor(source[z, y, x, 1] + 0.5) - x0
                out[z, y, x] = codes[z, iy, ix] if 0 <= iy < ny and 0 <= ix < nx else outside
