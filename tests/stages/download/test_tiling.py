from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.stages.download.tiling import BACKGROUND_PLANES, SAMPLE_UM, background, in_box, near_skeleton, tile_counts
from brightfield.testing.skeletons import forests


def _segment_to_tiles_um(a: np.ndarray, b: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The least distance of a segment and each box: convex in the position along the segment, so ternary search finds it."""

    def distance(u: np.ndarray) -> np.ndarray:
        point = a + u[:, None] * (b - a)
        return np.sqrt((np.maximum(np.maximum(low - point, point - high), 0) ** 2).sum(axis=1))

    left, right = np.zeros(len(low)), np.ones(len(low))
    for _ in range(60):
        third = (right - left) / 3
        nearer = distance(left + third) <= distance(right - third)
        left, right = np.where(nearer, left, left + third), np.where(nearer, right - third, right)
    return np.minimum(distance(left), np.minimum(distance(np.zeros(len(low))), distance(np.ones(len(low)))))


def _distances_um(grid: Grid, skeleton: Skeleton, tile: int) -> np.ndarray:
    """The oracle: the distance of every tile to the nearest node or edge, edge by edge."""
    size, origin, shape = np.array(grid.voxel_size_zyx_um), np.array(grid.origin_zyx_um), tile_counts(grid, tile)
    first = np.array(list(np.ndindex(*shape))) * [1, tile, tile]
    last = np.minimum(first + np.array([1, tile, tile]), grid.shape_zyx)
    low, high = (first - [0, 0.5, 0.5]) * size + origin, (last - [1, 0.5, 0.5]) * size + origin
    ends = [(skeleton.position_zyx_um[p if p >= 0 else i], skeleton.position_zyx_um[i]) for i, p in enumerate(skeleton.parent)]
    return np.min([_segment_to_tiles_um(a, b, low, high) for a, b in ends], axis=0).reshape(shape)


@settings(deadline=None, max_examples=40)
@given(
    skeleton=forests(max_nodes=6),
    radius_um=st.floats(0.1, 12),
    tile=st.sampled_from([3, 8]),
    origin=st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2)),
)
def test_tiles_near_a_skeleton_are_those_that_brute_force_finds(
    skeleton: Skeleton, radius_um: float, tile: int, origin: tuple[float, float, float]
) -> None:
    grid = Grid((5, 19, 22), (5.0, 1.7, 1.5), origin)
    near, distance = near_skeleton(grid, skeleton.position_zyx_um, skeleton.parent, tile, radius_um), _distances_um(grid, skeleton, tile)
    slack = 1e-6
    assert near[distance <= radius_um - slack].all()
    assert not near[distance > math.hypot(radius_um, SAMPLE_UM / 2) + slack].any()


def test_a_long_edge_counts_as_much_as_its_nodes() -> None:
    grid = Grid((3, 100, 1000), (0.28, 0.1, 0.1))
    ends = np.array([[0.28, 5.0, 1.0], [0.28, 5.0, 99.0]])
    near = near_skeleton(grid, ends, np.array([-1, 0]), 10, 0.5)
    assert near[1, 4:6].all()
    assert not near[1, :4].any()
    assert not near[1, 6:].any()


@given(low=st.tuples(*[st.floats(-5, 25)] * 3), extent=st.tuples(*[st.floats(0, 20)] * 3), margin=st.floats(0, 4))
def test_a_box_holds_every_voxel_within_it_and_no_tile_beyond(low: tuple[float, ...], extent: tuple[float, ...], margin: float) -> None:
    grid, tile = Grid((6, 20, 30), (2.0, 1.0, 0.8)), 8
    corners = np.array([low, np.add(low, extent)])
    box = in_box(grid, corners, tile, margin)
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij"), axis=-1)
    half = np.multiply(grid.voxel_size_zyx_um, 0.5)
    centre = grid.to_um(voxels)
    touched = np.all((centre + half > corners[0] - margin) & (centre - half <= corners[1] + margin), axis=-1)
    expected = np.zeros_like(box)
    for z, y, x in np.argwhere(touched):
        expected[z, y // tile, x // tile] = True
    np.testing.assert_array_equal(box, expected)


FREE = np.random.default_rng(1).random((70, 9, 11)) < 0.8


@given(n_tiles=st.integers(0, int(FREE.sum())), specimen_id=st.integers(0, 2**62))
@settings(deadline=None, max_examples=40)
def test_background_is_as_much_as_asked_for_and_free(n_tiles: int, specimen_id: int) -> None:
    chosen = background(FREE, n_tiles, specimen_id, untraced=FREE.all(axis=0), projection=None)
    assert chosen.sum() == n_tiles
    assert not (chosen & ~FREE).any()


def test_background_comes_in_blocks_deep_enough_for_a_patch() -> None:
    free = np.ones((3 * BACKGROUND_PLANES, 9, 11), np.bool_)
    chosen = background(free, 40 * BACKGROUND_PLANES, 3, untraced=free.all(axis=0), projection=None)
    blocks = chosen.reshape(3, BACKGROUND_PLANES, 9, 11).sum(axis=1)
    assert np.isin(blocks, [0, BACKGROUND_PLANES]).sum() >= blocks.size - 3  # the end of each third may cut a block


def test_background_is_a_matter_of_the_cell_alone_and_differs_between_cells() -> None:
    first, again, other = (background(FREE, 300, i, untraced=FREE.all(axis=0), projection=None) for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first & other).sum() < 150


def test_the_choice_of_background_never_changes() -> None:
    chosen = background(np.ones((64, 6, 6), np.bool_), 96, 529878215, untraced=np.ones((6, 6), np.bool_), projection=None)
    assert np.argwhere(chosen[::BACKGROUND_PLANES]).tolist() == [[0, 5, 3], [1, 2, 5], [1, 5, 0]]


def test_a_third_of_the_background_is_dark_but_untraced() -> None:
    free = np.ones((64, 12, 12), np.bool_)
    free[:, 2, 2] = False
    untraced = free.all(axis=0)
    projection = np.full((600, 600), 180, np.uint8)
    projection[100:150, 100:150] = 90  # the neuron's own stain
    projection[420:440, 310:330] = 100  # something else, in tile (8, 6)
    chosen = background(free, 90, 7, untraced=untraced, projection=projection)
    assert chosen[:, 8, 6].sum() >= 30
    without = background(free, 90, 7, untraced=untraced, projection=None)
    assert without.sum() == chosen.sum() == 90


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 1), (40, 1, 2)])
def test_background_of_the_smallest_grids(shape: tuple[int, int, int]) -> None:
    free = np.ones(shape, np.bool_)
    assert background(free, free.size, 1, untraced=free.all(axis=0), projection=np.zeros((3, 3), np.uint8)).all()


def test_a_node_far_away_costs_what_lies_in_the_grid_and_changes_nothing_else() -> None:
    """Edges that leave the grid by 10^7 um give the tiles that the same edges give when they are cut just outside of it."""
    grid = Grid((20, 300, 300), (0.28, 0.1144, 0.1144))
    towards = np.array([[0.3, 1.0, 0.4], [-0.2, 1.0, -1.0], [0.0, -1.0, 0.2], [1.0, 0.1, 0.1]])
    parent = np.array([-1, 0, 0, 0, 0])
    soma = np.array([[2.8, 17.0, 17.0]])
    far, cut = (near_skeleton(grid, np.vstack([soma, soma + length * towards]), parent, 64, 2.0) for length in (1e7, 1e2))
    assert np.array_equal(far, cut)
    assert far.any()
