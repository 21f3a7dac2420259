# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)
"""One set of voxels made into another by simple points alone: its components, loops and cavities stay what they were.

A voxel is simple when adding or removing it changes neither what hangs together nor what surrounds it, and its 26 neighbours tell
(Bertrand and Malandain 1994, doi 10.1016/0167-8655(94)90046-9). For 26-connected voxels in 6-connected surroundings: the neighbours that
are set are one 26-component; and of the 18 nearest, those that are not set and hang together by faces with a face of the voxel are one
6-component. For 6-connected voxels the two are exchanged. What lies outside of the grid is not set.

The order decides the result, so it is fixed: layer after layer, a layer being the voxels that had a neighbour through a face on the other
side when it began, each tested in turn by (z, y, x). The whole set is done at once, in bricks that cover it and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from brightfield.raster.runs import union

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brightfield.raster.runs import Runs

_BRICK_ZYX = (8, 16, 16)
_Z, _Y, _X = _BRICK_ZYX
_BRICK = _Z * _Y * _X
_SET, _TARGET, _FRESH, _PENDING = 1, 2, 4, 8
"""Of a voxel: it is set; it is to be set; it was changed in the layer at work; its neighbours changed since it was tested."""
_GROW, _GROW_TO_TARGET, _SHRINK = 0, 1, 2
_MOST_ROUNDS = 4
"""Voxels of the target that others blocked are tried again so often."""


def warped(source: Runs, target: Runs, room: Runs, connect: int = 26) -> Runs:
    """Runs of 1: `source` grown by simple points within `room`, then shrunk by simple points to `target`, where topology allows it.

    source, target, room: runs or spans (see `runs`) of any values; the first two count as part of the room. connect: 26 or 6, how the
    voxels hang together. The result has the components, loops and cavities of the source, and all voxels that are in source and target.
    Raises ValueError for another `connect`.
    """
    if connect not in (6, 26):
        raise ValueError(f"connect is 26 or 6, found {connect!r}")
    everywhere = union(np.concatenate([source, target, room]), 1)
    if not len(everywhere):
        return everywhere
    n_bricks_yx, number = _bricks(everywhere)
    beside = _neighbours_of(number, n_bricks_yx)
    voxels = np.zeros(len(number) * _BRICK, np.uint8)
    for runs, bit in ((source, _SET), (target, _TARGET)):
        _mark(runs, number, n_bricks_yx, bit, voxels)
    undecided = _undecided(everywhere, number, n_bricks_yx, voxels)
    mode = _GROW
    for _ in range(_MOST_ROUNDS):
        n_changed = sum(_flip_layers(voxels, beside, undecided, step, connect == 6, _TOUCH) for step in (mode, _SHRINK))
        if n_changed == 0:
            break
        mode = _GROW_TO_TARGET
    runs = np.empty((len(everywhere) + len(undecided), 5), np.int32)
    return runs[: _set_runs(everywhere, number, n_bricks_yx, voxels, runs)].copy()


def _bricks(runs: Runs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bricks of a plane of bricks along y and x, (2,), with one to spare; and the numbers, in order, of those that the runs meet."""
    n_yx = np.array([int(runs[:, 1].max()) // _Y + 2, int(runs[:, 3].max()) // _X + 2], np.int64)
    first, last = runs[:, 2].astype(np.int64) // _X, (runs[:, 3].astype(np.int64) - 1) // _X
    row = (runs[:, 0].astype(np.int64) // _Z * n_yx[0] + runs[:, 1] // _Y) * n_yx[1]
    count = last - first + 1
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return n_yx, np.unique(np.repeat(row + first, count) + within)


def _neighbours_of(number: NDArray[np.int64], n_yx: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 27) the index of every brick's neighbours, the brick itself in the middle; -1 where there is none."""
    beside = np.full((len(number), 27), -1, np.int64)
    for k, (dz, dy, dx) in enumerate(np.ndindex(3, 3, 3)):
        wanted = number + ((dz - 1) * n_yx[0] + dy - 1) * n_yx[1] + dx - 1
        at = np.minimum(np.searchsorted(number, wanted), len(number) - 1)
        y, x = number // n_yx[1] % n_yx[0] + dy - 1, number % n_yx[1] + dx - 1
        found = (number[at] == wanted) & (y >= 0) & (y < n_yx[0]) & (x >= 0) & (x < n_yx[1])
        beside[found, k] = at[found]
    return beside


def _touching() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of bits 9 z + 3 y + x of the 27 neighbours: (2, 3, 512) what touches the bits of a plane; (2,) all that may count."""
    place = np.array(list(np.ndindex(3, 3, 3)))
    away, from_middle = np.abs(place[:, None] - place[None, :]), np.abs(place - 1).sum(axis=1)
    bit = np.left_shift(1, np.arange(27, dtype=np.int64))
    touch, counted = np.zeros((2, 3, 512), np.int64), np.zeros(2, np.int64)
    for kind, (touches, counts) in enumerate(
        ((away.max(axis=2) == 1, from_middle > 0), (away.sum(axis=2) == 1, (from_middle - 1) // 2 == 0))
    ):
        counted[kind] = bit[counts].sum()
        of_bit = ((touches & counts) @ bit).reshape(3, 9)
        for bits in range(512):
            which = [k for k in range(9) if bits >> k & 1]
            touch[kind, :, bits] = np.bitwise_or.reduce(of_bit[:, which], axis=1, initial=0)
    return touch, counted


_TOUCH, _COUNTED = _touching()
"""By 26-connection, and by faces among the 18 nearest."""
_ALL, _NEAREST = (int(bits) for bits in _COUNTED)
_STEP = np.array([(dz - 1) * _Y * _X + (dy - 1) * _X + dx - 1 for dz, dy, dx in np.ndindex(3, 3, 3)], np.int64)
"""How far a neighbour lies away in a brick."""
_FACES = sum(1 << k for k in (4, 10, 12, 14, 16, 22))


# ---------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _brick_of(number: Any, n_yx: Any, z: int, y: int, x: int) -> int:
    return np.searchsorted(number, (z // _Z * n_yx[0] + y // _Y) * n_yx[1] + x // _X)


@njit(cache=True, nogil=True)
def _mark(runs: Any, number: Any, n_yx: Any, bit: int, voxels: Any) -> None:
    for i in range(len(runs)):
        z, y, x = runs[i, 0], runs[i, 1], runs[i, 2]
        while x < runs[i, 3]:
            end = min(runs[i, 3], x // _X * _X + _X)
            row = _brick_of(number, n_yx, z, y, x) * _BRICK + (z % _Z * _Y + y % _Y) * _X
            for at in range(row + x % _X, row + x % _X + end - x):
                voxels[at] |= bit
            x = end


@njit(cache=True, nogil=True)
def _undecided(room: Any, number: Any, n_yx: Any, voxels: Any) -> Any:
    """Where in the bricks the voxels lie that are not in both source and target, in order."""
    found = np.empty(1024, np.int64)
    filled = 0
    for i in range(len(room)):
        z, y, x = room[i, 0], room[i, 1], room[i, 2]
        while x < room[i, 3]:
            end = min(room[i, 3], x // _X * _X + _X)
            row = _brick_of(number, n_yx, z, y, x) * _BRICK + (z % _Z * _Y + y % _Y) * _X
            if filled + _X > len(found):
                found = np.concatenate((found, np.empty_like(found)))
            for at in range(row + x % _X, row + x % _X + end - x):
                if voxels[at] & (_SET | _TARGET) != _SET | _TARGET:
                    found[filled] = at
                    filled += 1
            x = end
    return found[:filled].copy()


@njit(cache=True, nogil=True)
def _set_runs(room: Any, number: Any, n_yx: Any, voxels: Any, runs: Any) -> int:
    """Runs of what is set."""
    filled = 0
    for i in range(len(room)):
        z, y = room[i, 0], room[i, 1]
        start, row, brick_x = -1, 0, -1
        for x in range(room[i, 2], room[i, 3]):
            if x // _X != brick_x:
                brick_x = x // _X
                row = _brick_of(number, n_yx, z, y, x) * _BRICK + (z % _Z * _Y + y % _Y) * _X
            is_set = voxels[row + x % _X] & _SET
            if is_set and start < 0:
                start = x
            if start >= 0 and (not is_set or x + 1 == room[i, 3]):
                runs[filled, 0], runs[filled, 1], runs[filled, 2], runs[filled, 4] = z, y, start, 1
                runs[filled, 3] = x + 1 if is_set else x
                filled += 1
                start = -1
    return filled


@njit(cache=True, nogil=True)
def _neighbour(beside: Any, at: int, k: int) -> int:
    """Where neighbour `k` of a voxel lies; -1 outside of all bricks."""
    brick, inner = at // _BRICK, at % _BRICK
    z, y, x = inner // (_Y * _X) + k // 9 - 1, inner // _X % _Y + k // 3 % 3 - 1, inner % _X + k % 3 - 1
    step_z, step_y, step_x = (z + _Z) // _Z, (y + _Y) // _Y, (x + _X) // _X
    other = beside[brick, (step_z * 3 + step_y) * 3 + step_x]
    if other < 0:
        return -1
    return other * _BRICK + ((z - (step_z - 1) * _Z) * _Y + y - (step_y - 1) * _Y) * _X + x - (step_x - 1) * _X


@njit(cache=True, nogil=True)
def _is_inside(at: int) -> bool:
    """Whether all neighbours of a voxel lie in its own brick."""
    inner = at % _BRICK
    y, x = inner // _X % _Y, inner % _X
    return _Y * _X <= inner < _BRICK - _Y * _X and 0 < y < _Y - 1 and 0 < x < _X - 1


@njit(cache=True, nogil=True)
def _around(voxels: Any, beside: Any, at: int) -> tuple[int, int]:
    """Bits of the neighbours that are set now, and of those that were when the layer began."""
    now: Any = 0
    fresh: Any = 0
    if _is_inside(at):
        for k in range(27):
            value = np.int64(voxels[at + _STEP[k]])
            now |= (value & _SET) << k
            fresh |= (value >> 2 & 1) << k
    else:
        for k in range(27):
            other = _neighbour(beside, at, k)
            if other >= 0:
                value = np.int64(voxels[other])
                now |= (value & _SET) << k
                fresh |= (value >> 2 & 1) << k
    now &= _ALL
    return now, now ^ fresh & _ALL


@njit(cache=True, nogil=True)
def _reached(start: int, allowed: int, touch: Any) -> int:
    """Bits of `allowed` that hang together with those of `start`."""
    reached, front = start, start
    while front:
        found = touch[0, front & 511] | touch[1, front >> 9 & 511] | touch[2, front >> 18]
        front = found & allowed & ~reached
        reached |= front
    return reached


@njit(cache=True, nogil=True)
def is_simple(now: int, by_faces: bool, touch: Any) -> bool:
    """Whether a voxel is simple. now: bits of the neighbours that are set; by_faces: what is set is 6-connected."""
    inner = ~now & _ALL if by_faces else now
    if inner == 0 or _reached(inner & -inner, inner, touch[0]) != inner:
        return False
    outer = ~inner & _NEAREST
    faces = outer & _FACES
    return faces != 0 and faces & ~_reached(faces & -faces, outer, touch[1]) == 0


@njit(cache=True, nogil=True)
def _is_wanted(voxel: int, mode: int) -> bool:
    """Whether a voxel is one that the mode may change."""
    if mode == _SHRINK:
        return voxel & (_SET | _TARGET) == _SET
    return voxel & _SET == 0 and (mode == _GROW or voxel & _TARGET != 0)


@njit(cache=True, nogil=True)
def _flip_layers(voxels: Any, beside: Any, undecided: Any, mode: int, by_faces: bool, touch: Any) -> int:
    """Change voxels layer by layer until no layer changes any; returns how many were changed."""
    for at in undecided:
        voxels[at] |= _PENDING
    changed = np.empty(len(undecided), np.int64)
    total = 0
    while True:
        n = 0
        for at in undecided:
            if not voxels[at] & _PENDING or not _is_wanted(voxels[at], mode):
                continue
            now, before = _around(voxels, beside, at)
            if (before if mode != _SHRINK else ~before) & _FACES == 0:
                if now == before:
                    voxels[at] &= ~_PENDING
                continue
            voxels[at] &= ~_PENDING
            if is_simple(now, by_faces, touch):
                voxels[at] ^= _SET | _FRESH
                _wake(voxels, beside, at)
                changed[n] = at
                n += 1
        for at in changed[:n]:
            voxels[at] &= ~_FRESH
        total += n
        if n == 0:
            return total


@njit(cache=True, nogil=True)
def _wake(voxels: Any, beside: Any, at: int) -> None:
    if _is_inside(at):
        for k in range(27):
            voxels[at + _STEP[k]] |= _PENDING
        return
    for k in range(27):
        other = _neighbour(beside, at, k)
        if other >= 0:
            voxels[other] |= _PENDING
