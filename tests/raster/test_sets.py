"""Runs as sets are the sets of their voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brightfield.core.space import Grid
from brightfield.raster.runs import in_row_order, paint, union
from brightfield.raster.sets import clipped, n_voxels, without

GRID = Grid((4, 6, 40), (1.0, 1.0, 1.0))


def random_runs(rng: np.random.Generator, n: int) -> NDArray[np.int32]:
    """Runs of several values, some of which meet."""
    z, y, x = (rng.integers(0, side, n) for side in GRID.shape_zyx)
    runs = union(np.column_stack([z, y, x, np.minimum(x + rng.integers(1, 9, n), 40), np.ones(n, np.int64)]).astype(np.int32), 1)
    halves = [runs.copy(), runs.copy()]
    middle = (runs[:, 2] + runs[:, 3]) // 2
    halves[0][:, 3], halves[1][:, 2] = middle, middle
    both = np.concatenate(halves)
    both[:, 4] = rng.integers(1, 5, len(both))
    return in_row_order(both[both[:, 2] < both[:, 3]])


def test_parts_of_runs_are_the_parts_of_their_masks() -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        one, other = random_runs(rng, 15), random_runs(rng, int(rng.integers(0, 14)))
        values, beside = paint(one, GRID.window), paint(other, GRID.window) > 0
        for found, expected in ((clipped(one, other), np.where(beside, values, 0)), (without(one, other), np.where(beside, 0, values))):
            assert np.array_equal(paint(found, GRID.window), expected)
            assert np.array_equal(found, in_row_order(found))
            assert n_voxels(found) == np.count_nonzero(expected)
