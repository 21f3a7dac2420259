# mypy: disable-error-code="no-any-return"
"""The geometry of one round cone: points, rows, planes, distances. Compiled."""

from __future__ import annotations

from math import ceil, floor, inf, sqrt
from typing import Any

import numpy as np
from numba import njit

AMBIGUOUS_VOXEL = 1e-4
"""A row end nearer than this to a voxel centre is decided by the definition; root-finding errs by less than 1e-6 voxel."""


_ILL_CONDITIONED = 1e-9


@njit(cache=True, nogil=True, error_model="numpy")
def inside_cone(cone: Any, z: float, y: float, x: float) -> bool:
    """The definition: whether the point (z, y, x) um is in the round cone `cone` (8 numbers, see `Cones.geometry`)."""
    paz, pay, pax = z - cone[0], y - cone[1], x - cone[2]
    baz, bay, bax = cone[4] - cone[0], cone[5] - cone[1], cone[6] - cone[2]
    ra, dr = cone[3], cone[7] - cone[3]
    a = baz * baz + bay * bay + bax * bax - dr * dr
    if a <= 0.0:
        if dr > 0.0:
            paz, pay, pax, ra = z - cone[4], y - cone[5], x - cone[6], cone[7]
        return paz * paz + pay * pay + pax * pax <= ra * ra
    u = (paz * baz + pay * bay + pax * bax + ra * dr) / a
    u = min(max(u, 0.0), 1.0)
    qz, qy, qx, r = paz - u * baz, pay - u * bay, pax - u * bax, ra + u * dr
    return qz * qz + qy * qy + qx * qx <= r * r


@njit(cache=True, nogil=True, error_model="numpy")
def axis_distance2(cone: Any, z: float, y: float, x: float) -> float:
    """Squared distance in um² from a point to the axis of a cone; the same number for all cones that share the nearest end."""
    paz, pay, pax = z - cone[0], y - cone[1], x - cone[2]
    baz, bay, bax = cone[4] - cone[0], cone[5] - cone[1], cone[6] - cone[2]
    along = paz * baz + pay * bay + pax * bax
    length2 = baz * baz + bay * bay + bax * bax
    if along <= 0.0:
        return paz * paz + pay * pay + pax * pax
    if along >= length2:
        paz, pay, pax = z - cone[4], y - cone[5], x - cone[6]
        return paz * paz + pay * pay + pax * pax
    u = along / length2
    qz, qy, qx = paz - u * baz, pay - u * bay, pax - u * bax
    return qz * qz + qy * qy + qx * qx


@njit(cache=True, nogil=True, error_model="numpy")
def lower_row(cone: Any, z: float, y: float, origin_x: float, size_x: float, first: int, least: float, row: Any) -> None:
    """Lower `row` (float32, um; NaN stays) to the signed distance of its points from the surface of a round cone, not below `least`.

    Point k is at x = origin_x + (first + k) size_x. Negative inside: min over u of |pa - u ba| - r(u). What is the same along the row is
    taken out of the loop, and the loop has no branch, so that several points are computed at once.
    """
    baz, bay, bax = cone[4] - cone[0], cone[5] - cone[1], cone[6] - cone[2]
    ra, dr = cone[3], cone[7] - cone[3]
    length2 = baz * baz + bay * bay + bax * bax
    a = length2 - dr * dr
    if a <= 0.0:
        _lower_row_to_sphere(cone[4:] if dr > 0.0 else cone[:4], z, y, origin_x, size_x, first, least, row)
        return
    paz, pay, x_a = z - cone[0], y - cone[1], cone[2]
    for k in range(len(row)):
        pax = (origin_x + (first + k) * size_x) - x_a
        along = (paz * baz + pay * bay + pax * bax) / length2
        qz, qy, qx = paz - along * baz, pay - along * bay, pax - along * bax
        if dr != 0.0:
            along += dr * sqrt((qz * qz + qy * qy + qx * qx) / (length2 * a))
        u = min(max(along, 0.0), 1.0)
        qz, qy, qx = paz - u * baz, pay - u * bay, pax - u * bax
        distance = max(sqrt(qz * qz + qy * qy + qx * qx) - (ra + u * dr), least)
        row[k] = np.float32(distance) if distance < row[k] else row[k]


@njit(cache=True, nogil=True, error_model="numpy")
def _lower_row_to_sphere(sphere: Any, z: float, y: float, origin_x: float, size_x: float, first: int, least: float, row: Any) -> None:
    pz, py, x_a, r = z - sphere[0], y - sphere[1], sphere[2], sphere[3]
    for k in range(len(row)):
        px = (origin_x + (first + k) * size_x) - x_a
        distance = max(sqrt(pz * pz + py * py + px * px) - r, least)
        row[k] = np.float32(distance) if distance < row[k] else row[k]


@njit(cache=True, nogil=True, error_model="numpy")
def chord(q2a: float, q2b: float, k: float, bx: float, lateral: float, a: float, ra: float, rb: float) -> tuple[float, float, bool]:
    """Where a row meets a round cone: lowest and highest x relative to end a, and whether the roots can be believed.

    q2a, q2b: squared distances of the row from the two ends; k = ra dr + (the part of pa·ba that the row fixes); lateral = a - bx².
    The lateral surface meets the row where lateral x² - 2 k bx x + a (q2a - ra²) - k² = 0.
    """
    lo, hi = inf, -inf
    da = ra * ra - q2a
    db = rb * rb - q2b
    if da >= -_ILL_CONDITIONED * ra * ra:
        w = sqrt(max(da, 0.0))
        lo, hi = -w, w
    if db >= -_ILL_CONDITIONED * rb * rb:
        w = sqrt(max(db, 0.0))
        lo, hi = min(lo, bx - w), max(hi, bx + w)
    e = k * k + lateral * da
    if abs(e) <= _ILL_CONDITIONED * (k * k + abs(lateral) * (ra * ra + q2a)) or abs(lateral) <= _ILL_CONDITIONED * a:
        return lo, hi, False
    if e > 0.0:
        m = k * bx
        root = sqrt(a * e)
        s = m + root if m >= 0.0 else m - root
        for x in (s / lateral, (-a * da - k * k) / s):
            u = (k + x * bx) / a
            if -_ILL_CONDITIONED <= u <= 1.0 + _ILL_CONDITIONED:
                lo, hi = min(lo, x), max(hi, x)
    return lo, hi, True


@njit(cache=True, nogil=True, error_model="numpy")
def row_of(cone: Any, pz: float, py: float) -> tuple[float, float, bool]:
    """Where the row at (pz, py), relative to end a, meets a cone: x relative to end a, and whether that can be believed."""
    bz, by, bx = cone[4] - cone[0], cone[5] - cone[1], cone[6] - cone[2]
    ra, rb = cone[3], cone[7]
    dr = rb - ra
    lateral = bz * bz + by * by - dr * dr
    a = bz * bz + by * by + bx * bx - dr * dr
    q2a = pz * pz + py * py
    q2b = (pz - bz) * (pz - bz) + (py - by) * (py - by)
    if a <= 0.0:
        return sphere_row(q2a, 0.0, ra) if ra >= rb else sphere_row(q2b, bx, rb)
    lo, hi, sure = chord(q2a, q2b, ra * dr + pz * bz + py * by, bx, lateral, a, ra, rb)
    return lo, hi, sure and a > _ILL_CONDITIONED * dr * dr


@njit(cache=True, nogil=True, error_model="numpy")
def sphere_row(q2: float, centre: float, r: float) -> tuple[float, float, bool]:
    """Where a row at the squared distance `q2` from the centre meets a sphere, and whether that is well conditioned."""
    d = r * r - q2
    if d < -_ILL_CONDITIONED * r * r:
        return inf, -inf, True
    w = sqrt(max(d, 0.0))
    return centre - w, centre + w, True


@njit(cache=True, nogil=True, error_model="numpy")
def plane_rows(cone: Any, pz: float, z: int = 0, y: int = 1) -> tuple[float, float]:
    """The y range, from end a, in which the plane at pz meets a cone: the row of its projection along x. Or with z and y swapped."""
    bz, by = cone[4 + z] - cone[z], cone[4 + y] - cone[y]
    ra, rb = cone[3], cone[7]
    dr = rb - ra
    a = bz * bz + by * by - dr * dr
    q2b = (pz - bz) * (pz - bz)
    if a <= 0.0:
        lo, hi, sure = sphere_row(pz * pz, 0.0, ra) if ra >= rb else sphere_row(q2b, by, rb)
    else:
        lo, hi, sure = chord(pz * pz, q2b, ra * dr + pz * bz, by, bz * bz - dr * dr, a, ra, rb)
    if not sure:
        return min(-ra, by - rb), max(ra, by + rb)
    return lo, hi


@njit(cache=True, nogil=True, error_model="numpy")
def voxels_between(lo_um: float, hi_um: float, origin: float, size: float, first: int, last: int, slack: float) -> tuple[int, int]:
    """The half-open range of voxel centres in [lo, hi] um, widened by `slack` voxels, clipped to [first, last)."""
    if not lo_um <= hi_um:
        return first, first
    lo, hi = (lo_um - origin) / size - slack, (hi_um - origin) / size + slack
    if hi < first or lo > last:
        return first, first
    return max(first, ceil(lo)), min(last, floor(hi) + 1)


@njit(cache=True, nogil=True, error_model="numpy")
def silhouette_row(cone: Any, py: float) -> tuple[float, float, float, float]:
    """The row of the cone's projection along z: lowest x and the height of the contour there, highest x and its height, all from end a.

    The contour of a sphere is at the height of its centre, so a contour point that the cone touches at u is at height u bz.
    """
    bz, by, bx = cone[4] - cone[0], cone[5] - cone[1], cone[6] - cone[2]
    ra, rb = cone[3], cone[7]
    dr = rb - ra
    row = (inf, 0.0, -inf, 0.0)
    da, db = ra * ra - py * py, rb * rb - (py - by) * (py - by)
    if da >= 0.0:
        w = sqrt(da)
        row = (-w, 0.0, w, 0.0)
    if db >= 0.0:
        w = sqrt(db)
        row = widened(widened(row, bx - w, bz), bx + w, bz)
    lateral = by * by - dr * dr
    a = lateral + bx * bx
    k = ra * dr + py * by
    e = k * k + lateral * da
    if a <= 0.0 or e < 0.0:
        return row
    m = k * bx
    root = sqrt(a * e)
    s = m + root if m >= 0.0 else m - root
    for x in (s / lateral, (-a * da - k * k) / s):
        u = (k + x * bx) / a
        if 0.0 <= u <= 1.0:
            row = widened(row, x, u * bz)
    return row


@njit(cache=True, nogil=True, error_model="numpy")
def widened(row: Any, x: float, height: float) -> Any:
    """The row with `x` within it, and the height of the silhouette there."""
    lo, lo_height, hi, hi_height = row
    if x < lo:
        lo, lo_height = x, height
    if x > hi:
        hi, hi_height = x, height
    return lo, lo_height, hi, hi_height


@njit(cache=True, nogil=True, error_model="numpy")
def shell_row(cone: Any, silhouette: Any, pz: float, py: float, axial: float) -> tuple[float, float]:
    """The row of the swept cone: a concave function of z is highest at its own peak, or at the end of the range that is nearer to it."""
    lo, lo_height, hi, hi_height = silhouette
    lo_end, hi_end = min(max(lo_height, pz - axial), pz + axial), min(max(hi_height, pz - axial), pz + axial)
    row_lo, row_hi, _ = row_of(cone, lo_end if lo_end != lo_height else hi_end, py)
    if lo_end != lo_height and hi_end != hi_height and lo_end != hi_end:
        _, row_hi, _ = row_of(cone, hi_end, py)
    return row_lo if lo_end != lo_height else lo, row_hi if hi_end != hi_height else hi
