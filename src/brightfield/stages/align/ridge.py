"""The inner loops of the search: how much darker the tube is than what lies beside it, at every shift of a path."""

from __future__ import annotations

import numpy as np
from numba import njit

from brightfield.stages.align.absorbance import NO_DATA

LEAST_KNOWN = 0.25
"""A shift is compared where at least this share of the samples has pixels."""

_LANES = 32
"""Shifts are added up so many at a time: fewer are no faster."""


@njit(cache=True, nogil=True)
def ridge_sums(tube, beside, apart, path, shifts, cap):  # type: ignore[no-untyped-def]  # numba infers the types, here and below
    """For every shift (dz, s) the sum of 6 x (tube - beside) over the samples, and how many samples have all their voxels.

    tube, beside: int16 with a border of one voxel; apart: whether they differ. path: see `Search.laid`. shifts: the sideways step in um,
    the number of the first and how many, the axial shifts in voxels. No sample counts for more than `cap`, nor for less than -`cap`.
    Columns beyond the last shift say nothing.
    """
    position, normal, origin, size, half, ring = path
    step_um, first, n_s, dz = shifts
    index, stored, inside, outside, ridge, total, count = _workspace(n_s, ring.max(), len(dz))
    voxel, across, shape = np.empty(3), np.empty(2), tube.shape
    tube_voxels, beside_voxels = tube.reshape(-1), beside.reshape(-1)
    for m in range(len(position)):
        for axis in range(3):
            voxel[axis] = (position[m, axis] - origin[axis]) / size[axis]
        across[0], across[1] = normal[m, 0] / size[1], normal[m, 1] / size[2]
        _index_across(index, n_s + 2 * ring[m], voxel, across, step_um, first - ring[m], shape[1], shape[2])
        rows = (index, stored, inside, outside, ridge)
        _add_sample(total, count, shape, tube_voxels, beside_voxels, apart, voxel[0], half[m], ring[m], n_s, dz, cap, *rows)
    return total, count


@njit(cache=True, nogil=True)
def placements_as_high(tissue, placements, path, shifts, cap, own):  # type: ignore[no-untyped-def]
    """How many random placements of a path have a known score, and how many of these one as high as `own`. Arguments: see `ridge_sums`."""
    position, normal, origin, size, half, ring = path
    step_um, first, n_s, dz = shifts
    index, stored, inside, outside, ridge, total, count = _workspace(n_s, ring.max(), len(dz))
    voxel, across, shape, voxels = np.empty(3), np.empty(2), tissue.shape, tissue.reshape(-1)
    n, as_high = 0, 0
    for p in range(len(placements)):
        total[:], count[:] = 0.0, 0.0
        for m in range(len(position)):
            _place(voxel, across, position[m], normal[m], position[len(position) // 2], placements[p], origin, size)
            _index_across(index, n_s + 2 * ring[m], voxel, across, step_um, first - ring[m], shape[1], shape[2])
            rows = (index, stored, inside, outside, ridge)
            _add_sample(total, count, shape, voxels, voxels, False, voxel[0], half[m], ring[m], n_s, dz, cap, *rows)
        best = _best(total, count, n_s, LEAST_KNOWN * len(position))
        n += best > -np.inf
        as_high += best >= own
    return n, as_high


@njit(cache=True, nogil=True)
def _workspace(n_s, ring_max, n_dz):  # type: ignore[no-untyped-def]
    """Rows for the voxels across a sample, as indices, as they are stored, and as float32 (tube, beside, ridge); sums and counts."""
    n_lanes = -(-n_s // _LANES) * _LANES
    width = n_lanes + 2 * ring_max
    row = np.zeros(width, np.float32)
    sums = np.zeros((n_dz, n_lanes))
    return np.zeros(width, np.uint64), np.zeros(width, np.int16), row, row.copy(), row.copy(), sums, sums.copy()


@njit(cache=True, nogil=True, forceinline=True)
def _place(voxel, across, position, normal, centre, placement, origin, size):  # type: ignore[no-untyped-def]
    """Where a sample lies under a placement, and one um sideways there, in voxels."""
    cos, sin = placement[0], placement[1]
    z, y, x = position[0] - centre[0], position[1] - centre[1], position[2] - centre[2]
    voxel[0] = (z + placement[2] + centre[0] - origin[0]) / size[0]
    voxel[1] = (cos * y - sin * x + placement[3] + centre[1] - origin[1]) / size[1]
    voxel[2] = (sin * y + cos * x + placement[4] + centre[2] - origin[2]) / size[2]
    across[0] = (cos * normal[0] - sin * normal[1]) / size[1]
    across[1] = (sin * normal[0] + cos * normal[1]) / size[2]


@njit(cache=True, nogil=True)
def _best(total, count, n_s, least):  # type: ignore[no-untyped-def]
    """The best score of a table of sums; -inf where no shift is known."""
    best = -np.inf
    for j in range(len(total)):
        for i in range(n_s):
            if count[j, i] >= least:
                best = max(best, total[j, i] / max(6.0 * count[j, i], 1.0))
    return best


@njit(cache=True, nogil=True, forceinline=True)
def _add_sample(  # type: ignore[no-untyped-def]
    total, count, shape, tube, beside, apart, z, half, ring, n_s, dz, cap, index, stored, inside, outside, ridge
):
    """Count in one sample at every shift."""
    plane, plane_voxels, width = -1, np.uint64(shape[1] * shape[2]), np.uint64(n_s + 2 * ring)
    for j in range(np.uint64(len(dz))):
        k = int(np.floor(z + dz[j] + 0.5))
        if 0 <= k < shape[0] - 2:
            if k != plane:
                plane = k
                base = np.uint64(k + 1) * plane_voxels
                _gather(inside, stored, tube, base, index, width)
                if apart:
                    _gather(outside, stored, beside, base, index, width)
                    _ridge(ridge, inside, outside, half, ring, total.shape[1], cap)
                else:
                    _ridge(ridge, inside, inside, half, ring, total.shape[1], cap)
            for i in range(np.uint64(total.shape[1])):
                known = ridge[i] == ridge[i]
                total[j, i] += ridge[i] if known else np.float32(0.0)
                count[j, i] += 1.0 if known else 0.0


@njit(cache=True, nogil=True, forceinline=True)
def _index_across(index, width, voxel, across, step_um, first, n_y, n_x):  # type: ignore[no-untyped-def]
    """Where in a plane the voxels across a sample lie; those beyond the window are its border."""
    for w in range(width):
        off = (first + w) * step_um
        y = np.floor(voxel[1] + off * across[0] + 0.5) + 1.0
        x = np.floor(voxel[2] + off * across[1] + 0.5) + 1.0
        row = np.uint64(min(max(y, 0.0), n_y - 1.0))
        index[w] = row * np.uint64(n_x) + np.uint64(min(max(x, 0.0), n_x - 1.0))


@njit(cache=True, nogil=True, forceinline=True)
def _gather(out, stored, voxels, base, index, width):  # type: ignore[no-untyped-def]
    """The voxels of a plane as whole numbers in float32, NaN where they are not known; in two steps, since the second runs in lanes."""
    for w in range(width):
        stored[w] = voxels[base + index[w]]
    for w in range(np.uint64(len(stored))):
        out[w] = np.float32(np.nan) if stored[w] == NO_DATA else np.float32(stored[w])


@njit(cache=True, nogil=True, forceinline=True)
def _ridge(out, inside, outside, half, ring, n, cap):  # type: ignore[no-untyped-def]
    """6 x (mean in the tube - mean beside it), NaN where a voxel is not known: with one side only a halo's slope would pass for a ridge."""
    middle, near, far = np.uint64(ring), np.uint64(half), np.uint64(2 * ring)
    for i in range(np.uint64(n)):
        tube = inside[i + middle - near] + inside[i + middle] + inside[i + middle + near]
        value = np.float32(2.0) * tube - np.float32(3.0) * (outside[i] + outside[i + far])
        value = cap if value > cap else value  # noqa: FURB136  # keeps NaN, which min does not
        out[i] = -cap if value < -cap else value  # noqa: FURB136  # and here
