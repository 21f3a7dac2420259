from __future__ import annotations

from dataclasses import replace
from math import radians

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.core.codes import Label, Reason
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.learn.augment import Augment, Plan
from brightfield.learn.cells import DrawingRules, Graph, Keypoints
from brightfield.learn.samples import Recipe, make_sample
from brightfield.learn.turn import Turn
from brightfield.learn.warp import Warp, nearest, resampled, source_window
from brightfield.raster.cones import cones_of
from brightfield.raster.voxels import rasterize
from brightfield.testing.skeletons import cable

GRID = Grid((12, 90, 120), (1.12, 0.4, 0.4), (0.5, -2.0, 3.0))
WINDOW = ((2, 10), (20, 68), (30, 78))
CENTRE = tuple(GRID.to_um((np.array(WINDOW).sum(axis=1) - 1) / 2).tolist())
UNKNOWN = Label.UNKNOWN


def knots(seed: int, um: float = 0.6) -> np.ndarray:
    return (2 * np.random.default_rng(seed).random((5, 6, 6, 2)) - 1) * um


def warps() -> st.SearchStrategy[Warp]:
    made = st.builds(knots, st.integers(0, 5), st.sampled_from([0.0, 0.6]))
    return st.builds(lambda angle, zoom, k: Warp(CENTRE, angle, zoom, k, 8.0), st.floats(-0.3, 0.3), st.floats(0.8, 1.25), made)


class CellInMemory:
    """A cell as learning sees it, from arrays."""

    specimen_id = 1

    def __init__(self, skeleton: Skeleton, grid: Grid, image: np.ndarray, codes: np.ndarray, reasons: np.ndarray) -> None:
        self.grid, self.rules = grid, DrawingRules()
        self.graph = Graph(cones_of(skeleton, 0.23, "capsule"), Keypoints.of(skeleton, np.array([], np.int64)))
        self.image, self.codes, self.reasons = (self._reader(array) for array in (image, codes, reasons))

    @staticmethod
    def _reader(array: np.ndarray):
        return lambda window: array[tuple(slice(*side) for side in window)].copy()


def cell_of(skeleton: Skeleton, seed: int = 0) -> CellInMemory:
    """Noise, tubes with a rim of one voxel, a bad plane, a corner that was not downloaded."""
    noise = np.random.default_rng(seed)
    image = noise.integers(150, 200, GRID.shape_zyx).astype(np.uint8)
    codes = rasterize(skeleton, GRID)
    reasons = np.zeros(GRID.shape_zyx, np.uint8)
    grown = rasterize(replace(skeleton, radius_um=skeleton.radius_um + 0.5), GRID, "inside")
    reasons[(grown > 0) & (codes == 0)] = Reason.RIM
    reasons[7] = Reason.BAD_PLANE
    reasons[:, :35, :45] = Reason.NOT_DOWNLOADED
    image[:, :35, :45] = 0
    codes[reasons > 0] = UNKNOWN
    return CellInMemory(skeleton, GRID, image, codes, reasons)


def neuron() -> Skeleton:
    return cable(30.0, kind=2, radius_um=0.6, start_zyx_um=(CENTRE[0], CENTRE[1] - 1.0, CENTRE[2] - 12.0))


def sample_of(cell: CellInMemory, warp: Warp, *targets: str) -> dict[str, np.ndarray]:
    return make_sample(cell, WINDOW, Plan(Turn(), warp), Recipe.of(None, targets, "stain", Augment()))


@settings(max_examples=60)
@given(warps(), st.lists(st.tuples(st.floats(0, 12), st.floats(5, 25), st.floats(15, 40)), min_size=1, max_size=8))
def test_there_and_back_again(warp: Warp, places: list[tuple[float, float, float]]) -> None:
    position = np.array(places)
    np.testing.assert_allclose(warp.to_patch(warp.to_cell(position)), position, atol=1e-4)
    assert np.array_equal(warp.to_cell(position)[:, 0], position[:, 0])  # nothing moves along z


@settings(max_examples=25)
@given(warps())
def test_every_voxel_takes_the_pixel_that_the_map_says(warp: Warp) -> None:
    grid = warp.grid(GRID, WINDOW)
    source = warp.source(grid, GRID)
    for voxel in [(0, 0, 0), (7, 47, 47), (3, 11, 40), (5, 30, 2)]:
        expected = GRID.to_voxel(warp.to_cell(grid.to_um(np.array([voxel]))))[0, 1:]
        np.testing.assert_allclose(source[voxel], expected, atol=1e-3)


def test_zoom_makes_pixels_smaller_about_the_same_centre() -> None:
    grid = Warp(CENTRE, zoom=1.25).grid(GRID, WINDOW)
    np.testing.assert_allclose(grid.voxel_size_zyx_um, (1.12, 0.32, 0.32))
    np.testing.assert_allclose(grid.to_um((np.array(grid.shape_zyx) - 1) / 2), CENTRE)
    plain = Warp(CENTRE).grid(GRID, WINDOW)
    np.testing.assert_allclose(plain.origin_zyx_um, GRID.crop(WINDOW).origin_zyx_um)


@settings(max_examples=25)
@given(warps())
def test_a_ramp_of_brightness_is_resampled_exactly_and_planes_are_not_mixed(warp: Warp) -> None:
    z, y, x = np.indices(GRID.shape_zyx).astype(np.float32)
    ramp = (1000 * z + 2 * y + 3 * x).astype(np.float32)
    grid = warp.grid(GRID, WINDOW)
    source = warp.source(grid, GRID)
    wide = source_window(source, WINDOW[0], GRID)
    found = resampled(ramp[tuple(slice(*side) for side in wide)], source, wide, -1.0)
    there = (source >= 0).all(axis=-1) & (source[..., 0] <= 89) & (source[..., 1] <= 119)
    expected = 1000 * np.arange(2, 10)[:, None, None] + 2 * source[..., 0] + 3 * source[..., 1]
    np.testing.assert_allclose(found[there], expected[there], atol=0.05)
    beyond = (source < -0.51).any(axis=-1) | (source[..., 0] > 89.51) | (source[..., 1] > 119.51)
    assert (found[beyond] == -1).all()


@settings(max_examples=15)
@given(warps())
def test_labels_are_picked_never_blurred(warp: Warp) -> None:
    codes = np.random.default_rng(0).choice([0, 3, 200], GRID.shape_zyx).astype(np.uint8)
    grid = warp.grid(GRID, WINDOW)
    source = warp.source(grid, GRID)
    wide = source_window(source, WINDOW[0], GRID)
    found = nearest(codes[tuple(slice(*side) for side in wide)], source, wide, UNKNOWN)
    assert set(np.unique(found)) <= {0, 3, 200, UNKNOWN}
    index = np.floor(source + 0.5).astype(int)
    inside = (index >= 0).all(axis=-1) & (index[..., 0] < 90) & (index[..., 1] < 120)
    planes = np.broadcast_to(np.arange(2, 10)[:, None, None], inside.shape)
    np.testing.assert_array_equal(found[inside], codes[planes[inside], index[inside][:, 0], index[inside][:, 1]])
    assert (found[~inside] == UNKNOWN).all()


@settings(max_examples=25)
@given(warps())
def test_targets_of_a_warped_patch_are_those_of_the_warped_skeleton(warp: Warp) -> None:
    skeleton = neuron()
    cell = cell_of(skeleton)
    sample = sample_of(cell, warp, "semantic", "inside", "centerline", "distance")
    grid = warp.grid(GRID, WINDOW)
    moved = skeleton.moved_to(warp.to_patch(skeleton.position_zyx_um))
    for kind in ("semantic", "inside", "centerline", "distance"):
        visible = sample["mask"]
        np.testing.assert_array_equal(sample[kind][visible], rasterize(moved, grid, kind)[visible], err_msg=kind)
    tube = rasterize(moved, grid) > 0
    away = np.ones(8, bool)
    away[5] = False  # plane 7 of the cell is bad
    source = warp.source(grid, GRID)
    fetched = ~((source[..., 0] < 36) & (source[..., 1] < 46))
    assert sample["mask"][tube & away[:, None, None] & fetched].all()  # a traced tube wins over the rim
    assert not sample["mask"][5].any()
    assert not sample["mask"][(source[..., 0] < 34) & (source[..., 1] < 44)].any()


def test_a_warp_that_moves_nothing_gives_the_stored_labels_and_pixels() -> None:
    cell = cell_of(neuron())
    nothing = Warp(CENTRE, zoom=1.0 + 1e-12)
    assert nothing
    still = sample_of(cell, nothing, "semantic", "distance")
    plain = sample_of(cell, Warp(CENTRE), "semantic", "distance")
    np.testing.assert_array_equal(still["semantic"], plain["semantic"])
    np.testing.assert_array_equal(still["mask"], plain["mask"])
    np.testing.assert_allclose(still["image"], plain["image"], atol=2e-3)
    np.testing.assert_allclose(still["distance"], plain["distance"], atol=1e-5)


def test_pixels_turn_with_the_tube() -> None:
    skeleton = neuron()
    cell = cell_of(skeleton)
    cell.image = CellInMemory._reader(np.where(rasterize(skeleton, GRID, "inside") > 0, 40, 190).astype(np.uint8))
    sample = sample_of(cell, Warp(CENTRE, radians(14.0), 1.1, knots(1), 8.0), "distance")
    deep, clear = sample["distance"] < -0.35, sample["distance"] > 0.35
    assert deep.sum() > 30
    assert sample["image"][0][deep].min() > 0.8
    assert sample["image"][0][clear].max() < 0.3


@pytest.mark.parametrize("square", [True, False])
def test_a_patch_at_the_corner_of_a_cell_is_unknown_beyond_it(square: bool) -> None:
    cell = cell_of(neuron())
    window = ((0, 8), (60, 90), (90, 120) if square else (80, 120))
    centre = tuple(GRID.to_um((np.array(window).sum(axis=1) - 1) / 2).tolist())
    sample = make_sample(cell, window, Plan(Turn(), Warp(centre, 0.2, 0.9)), Recipe.of(None, ["semantic"], "grey", Augment()))
    assert sample["semantic"].shape == tuple(hi - lo for lo, hi in window)
    corner = sample["image"][0, :, -1, -1]
    assert (sample["semantic"][:, -1, -1] == UNKNOWN).all()
    assert np.allclose(corner, 175 / 255, atol=0.05)  # the local background, neither black nor white
