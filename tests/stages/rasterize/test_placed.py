"""Nodes are moved to where their stain lies: the linear problem is solved exactly, and a displaced trace finds its stain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.stages.rasterize.optics import Blur, Stain, saturated
from brightfield.stages.rasterize.placed import _solved, placed
from brightfield.stages.rasterize.predicted import Predicted, Shown

GRID = Grid((40, 90, 120), (0.56, 0.4576, 0.4576))
PLANES = list(range(GRID.shape_zyx[0]))


def line() -> Skeleton:
    """A dendrite that runs along x, 40 um long."""
    x = np.arange(8.0, 48.0, 2.0)
    position = np.stack([np.full_like(x, 11.0), np.full_like(x, 20.0), x], axis=1)
    return Skeleton(np.arange(len(x)), [3] * len(x), position, [0.35] * len(x), np.arange(len(x)) - 1)


def shown_of(stain: Stain, planes: list[int], seed: int = 1):
    noise = np.random.default_rng(seed)
    image = {z: saturated(stain.absorbance(z)) + noise.normal(0, 0.01, GRID.shape_zyx[1:]).astype(np.float32) for z in planes}
    known = np.ones(GRID.shape_zyx[1:], np.bool_)
    boxes = np.array([[0, GRID.shape_zyx[1], 0, GRID.shape_zyx[2]]], np.int64)
    return {z: Shown(plane, known, boxes, GRID.voxel_size_zyx_um[2]) for z, plane in image.items()}


def found(off: tuple[float, float, float], on: NDArray[np.bool_], rounds: int = 3) -> NDArray[np.float64]:
    """How far nodes are moved, (n, 3) um, where the trace lies so far from its stain."""
    there = line()
    trace = there.moved_to(there.position_zyx_um + np.array(off))
    truth = Stain.of(there, GRID)
    shown = shown_of(truth, PLANES)
    moved, stain = trace, Stain.of(trace, GRID)
    for _ in range(rounds):
        moved = placed(trace, moved, on, stain, shown.__getitem__, PLANES)
        stain = stain.along(moved, None)
    return moved.position_zyx_um - trace.position_zyx_um


@pytest.mark.parametrize("off", [(0.0, 0.25, 0.0), (0.8, 0.0, 0.0), (-0.6, -0.2, 0.0)])
def test_a_trace_beside_its_stain_is_moved_onto_it(off: tuple[float, float, float]) -> None:
    moved = found(off, np.ones(len(line()), np.bool_))[2:-2]
    assert np.abs(moved[:, 1] + off[1]).max() < 0.06
    assert np.abs(moved[:, 0] + off[0]).max() < 0.25


def test_what_lies_on_its_stain_stays_and_so_does_what_is_not_on() -> None:
    everything = np.ones(len(line()), np.bool_)
    assert np.abs(found((0.0, 0.0, 0.0), everything)[:, :2]).max() < 0.12
    assert not found((0.5, 0.2, 0.0), ~everything).any()


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_blocks_of_a_tree_are_solved_as_one_matrix_is(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    parent = np.array([random.integers(-1, i) if i else -1 for i in range(n)])
    whole, own, upward = np.zeros((3 * n, 3 * n)), np.zeros((n, 3, 3)), np.zeros((n, 3, 3))
    for i in range(n):
        for nodes in ([i], [i, parent[i]] if parent[i] >= 0 else [i]):
            columns = np.concatenate([np.arange(3 * k, 3 * k + 3) for k in nodes])
            part = random.normal(size=(9, len(columns)))
            whole[np.ix_(columns, columns)] += part.T @ part
    for i in range(n):
        own[i] = whole[3 * i : 3 * i + 3, 3 * i : 3 * i + 3]
        if parent[i] >= 0:
            upward[i] = whole[3 * i : 3 * i + 3, 3 * parent[i] : 3 * parent[i] + 3]
    aim = random.normal(size=(n, 3))
    expected = np.linalg.solve(whole, aim.ravel()).reshape(n, 3)
    assert np.allclose(_solved(np.arange(n)[::-1], parent, own, upward, aim.copy()), expected)


def test_slopes_along_z_are_differences_of_planes_that_have_pixels() -> None:
    stain = Stain.of(line(), GRID)
    planes = [z for z in PLANES if z != 21]
    shown = shown_of(stain, planes)
    predicted = Predicted(stain, shown.__getitem__, planes)
    fine = {z: predicted.bands(z).fine.copy() for z in (17, 18, 19, 20, 22, 23)}
    size = GRID.voxel_size_zyx_um[0]
    for plane, low, high in ((18, 17, 19), (20, 19, 20), (22, 22, 23)):
        expected = (fine[high] - fine[low]) / ((high - low) * size)
        assert np.allclose(predicted.slopes(plane).fine, expected, atol=1e-6)
    assert np.abs(predicted.slopes(18).fine).max() > 0.01


def test_a_stain_that_blurs_more_on_one_side_is_not_moved_to_the_other() -> None:
    there = line()
    stain = Stain.of(there, GRID)
    skewed = Stain(stain.grid, stain.near, stain.far, stain.group, stain.label, stain.strength, Blur((0.9, 0.47), (0.35, 0.0)))
    shown = shown_of(skewed, PLANES)
    moved = placed(there, there, np.ones(len(there), np.bool_), skewed, shown.__getitem__, PLANES)
    assert np.abs(moved.position_zyx_um - there.position_zyx_um)[:, 0].max() < 0.15
