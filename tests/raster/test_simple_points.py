"""Warping by simple points keeps what hangs together, and is the slow definition voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import warp_oracle
from brightfield.raster.runs import Runs, paint, union
from brightfield.raster.topology import component_count, loop_count
from brightfield.raster.warp import _TOUCH, is_simple, warped

type Mask = NDArray[np.bool_]


def runs_of(mask: Mask) -> Runs:
    edge = np.diff(np.pad(mask, ((0, 0), (0, 0), (1, 1))).astype(np.int8), axis=2)
    (z, y, first), end = np.nonzero(edge == 1), np.nonzero(edge == -1)[2]
    return np.stack([z, y, first, end, np.ones(len(z), np.int64)], axis=1).astype(np.int32)


def painted(runs: Runs, shape: tuple[int, ...]) -> Mask:
    z, y, x = ((0, n) for n in shape)
    return paint(runs, (z, y, x)) > 0


def test_simple_points_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    for _ in range(1500):
        around = rng.random((3, 3, 3)) < rng.random()
        around[1, 1, 1] = False
        bits = int((around.ravel() * (1 << np.arange(27, dtype=np.int64))).sum())
        for connect in (26, 6):
            assert is_simple(bits, connect == 6, _TOUCH) == warp_oracle.is_simple(around, connect)


def blobs(rng: np.random.Generator) -> tuple[Mask, Mask, Mask]:
    """Source, target and room of a rough, tangled kind, in an array that crosses bricks."""
    shape = (int(rng.integers(3, 14)), int(rng.integers(5, 24)), int(rng.integers(5, 40)))
    one, other = (ndimage.gaussian_filter(rng.standard_normal(shape), 1.2) for _ in range(2))
    both = one + other
    return one > np.quantile(one, 0.7), both > np.quantile(both, 0.7), one > np.quantile(one, 0.4)


@pytest.mark.parametrize("connect", [26, 6])
def test_the_result_is_the_slow_one_voxel_by_voxel_and_has_the_numbers_of_the_source(connect: int) -> None:
    rng, moved = np.random.default_rng(connect), 0
    for _ in range(12):
        source, target, room = blobs(rng)
        found = painted(warped(runs_of(source), runs_of(target), runs_of(room), connect), source.shape)
        assert np.array_equal(found, warp_oracle.warped(source, target, room, connect))
        assert warp_oracle.numbers(found, connect) == warp_oracle.numbers(source, connect)
        assert not (source & target & ~found).any()
        assert not (found & ~(source | target | room)).any()
        moved += int((found != source).sum())
    assert moved > 1000


def ball(shape: tuple[int, ...], middle: tuple[float, ...], radius: float) -> Mask:
    return sum((i - m) ** 2 for i, m in zip(np.indices(shape), middle, strict=True)) <= radius**2


def test_a_ball_moves_wholly_to_where_it_is_wanted() -> None:
    shape = (30, 40, 60)
    source, target = (ball(shape, (14, 18, x), 7) for x in (15, 40))
    room = np.logical_or.reduce([ball(shape, (14, 18, x), 7) for x in range(15, 41)])
    assert np.array_equal(painted(warped(runs_of(source), runs_of(target), runs_of(room)), shape), target)


def test_two_that_are_wanted_as_one_stay_two() -> None:
    shape = (12, 20, 40)
    source = ball(shape, (6, 10, 10), 4) | ball(shape, (6, 10, 30), 4)
    target = source.copy()
    target[4:8, 8:12, 10:30] = True
    found = warped(runs_of(source), runs_of(target), runs_of(target))
    assert component_count(found, 26) == 2
    assert (painted(found, shape) & target).sum() > 0.9 * target.sum()


def test_a_ring_stays_a_ring_and_no_hole_is_made() -> None:
    shape = (8, 40, 40)
    y, x = np.indices(shape[1:])
    away = np.hypot(y - 20, x - 20)
    source, target = np.zeros(shape, bool), np.zeros(shape, bool)
    source[3:5] = (away > 8) & (away < 12)
    target[3:5, 18:22, 5:35] = True
    found = warped(runs_of(source), runs_of(target), runs_of(np.ones(shape, bool)))
    assert (component_count(found, 26), loop_count(found)) == (1, loop_count(runs_of(source))) == (1, 1)


def test_what_is_cut_at_the_faces_of_the_grid_stays_in_one_piece() -> None:
    shape = (9, 17, 33)
    source, target = np.zeros(shape, bool), np.zeros(shape, bool)
    source[2, 3], target[6, 12] = True, True
    found = painted(warped(runs_of(source), runs_of(target), runs_of(np.ones(shape, bool))), shape)
    assert np.array_equal(found, target)


def test_spans_that_overlap_and_come_in_any_order_are_their_union() -> None:
    rng = np.random.default_rng(5)
    source, target, room = (runs_of(mask) for mask in blobs(rng))
    shuffled = rng.permutation(np.concatenate([room, room[::2]]))
    assert np.array_equal(warped(source, target, shuffled), warped(source, target, union(room, 1)))


def test_nothing_stays_nothing_and_other_connections_are_refused() -> None:
    nothing = np.empty((0, 5), np.int32)
    assert len(warped(nothing, nothing, nothing)) == 0
    with pytest.raises(ValueError, match="connect is 26 or 6, found 18"):
        warped(nothing, nothing, nothing, 18)
