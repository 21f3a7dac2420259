"""The kernels that find the ridge are what they promise, the slow way."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.ndimage import correlate1d, map_coordinates

from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.raster.cones import cones_of
from brightfield.stages.rasterize.joints import Joints
from brightfield.stages.rasterize.predicted import Shown
from brightfield.stages.rasterize.ridge import RidgeFit, _solve, _weights, stain_beside


def test_the_cheapest_places_of_a_tree_are_those_of_all_combinations() -> None:
    rng = np.random.default_rng(3)
    up = np.array([-1, 0, 0, 1, 1], np.int64)
    shape = np.array([3, 1, 2])
    places = np.array(list(np.ndindex(3, 1, 2)))
    for _ in range(5):
        cost = rng.uniform(0, 4, (5, 6)).astype(np.float32)
        bend = rng.uniform(0, 2, (5, 2)).astype(np.float32)

        def total(chosen: tuple[int, ...], cost: np.ndarray = cost, bend: np.ndarray = bend) -> float:
            apart = [(places[chosen[i]] - places[chosen[up[i]]]) ** 2 for i in range(1, 5)]
            bends = sum(bend[i + 1, 0] * d[0] + bend[i + 1, 1] * (d[1] + d[2]) for i, d in enumerate(apart))
            return float(sum(cost[i, k] for i, k in enumerate(chosen)) + bends)

        found = np.zeros(5, np.int64)
        _solve(cost.copy(), up, np.array([0, 1, 2, 3, 4]), bend, shape, found)
        best = min(product(range(6), repeat=5), key=total)
        assert tuple(found.tolist()) == best


def test_stain_beside_joints_is_the_difference_of_two_gaussians_there() -> None:
    rng, rules = np.random.default_rng(5), RidgeFit()
    grid = Grid((30, 60, 70), (0.3, 0.4, 0.4), (1.0, 0.5, 0.0))
    grey = rng.integers(120, 200, grid.shape_zyx).astype(np.uint8)
    planes = [Shown.of(plane, np.ones(plane.shape, bool), 0.4) for plane in grey]
    position = [[5.3, 12.1, 13.7], [5.9, 12.6, 14.4], [6.1, 13.3, 15.2]]
    trace = Skeleton(np.arange(3), [3, 3, 3], position, [0.6, 0.6, 0.6], [-1, 0, 1])
    joints = Joints.of(trace, cones_of(trace), 5.0)
    found = stain_beside(joints, np.ones(3, bool), grid, planes.__getitem__, range(30), rules)
    narrow, wide = _weights(int(np.ceil(0.6 * 0.6 / 0.05)), 0.4)
    volume = np.stack([plane.absorbance for plane in planes]).astype(float)
    smooth = [correlate1d(correlate1d(volume, w, 1, mode="nearest"), w, 2, mode="nearest") for w in (narrow, wide)]
    n_z, n_xy = rules.n_steps
    steps = np.array(list(product(range(-n_z, n_z + 1), range(-n_xy, n_xy + 1), range(-n_xy, n_xy + 1))))
    for i, at in enumerate(joints.position_zyx_um):
        places = grid.to_voxel(at + steps * np.array([rules.step_z_um, rules.step_um, rules.step_um]))
        expected = map_coordinates(smooth[0] - smooth[1], places.T, order=1)
        assert np.abs(found[i] / 1e4 - expected).max() < 3e-4
