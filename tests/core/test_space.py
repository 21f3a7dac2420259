from __future__ import annotations

from itertools import pairwise
from math import inf, nan

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from brightfield.core.errors import GridError
from brightfield.core.space import Grid, Shape, Window, download_grid, stack_grid, swc_to_stack_um
from brightfield.testing.grids import grids

FULL = stack_grid(520, 9433, 7605, 0.1144, 0.28)
FACTORS = st.tuples(*[st.integers(1, 5)] * 3)


@st.composite
def boxes(draw: st.DrawFn, grid: Grid) -> Window:
    z, y, x = (sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in grid.shape_zyx)
    return ((z[0], z[1]), (y[0], y[1]), (x[0], x[1]))


def centres(grid: Grid) -> np.ndarray:
    """The centre of every voxel in um, one by one from the definition: (z, y, x, 3)."""
    return np.array(
        [[[[o + i * s for o, i, s in zip(grid.origin_zyx_um, (k, j, i), grid.voxel_size_zyx_um, strict=True)]
           for i in range(grid.shape_zyx[2])] for j in range(grid.shape_zyx[1])] for k in range(grid.shape_zyx[0])]
    )  # fmt: skip


@given(grids())
def test_a_voxel_is_found_again_from_its_centre(grid: Grid) -> None:
    index = np.moveaxis(np.indices(grid.shape_zyx), 0, -1)
    np.testing.assert_allclose(grid.to_um(index), centres(grid), rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(grid.to_index(centres(grid)), index)
    np.testing.assert_allclose(grid.to_voxel(grid.to_um(index)), index, atol=1e-6)
    assert grid.contains(centres(grid)).all()


@given(grids(), st.tuples(*[st.floats(-3, 30)] * 3))
def test_a_position_is_in_the_voxel_whose_faces_enclose_it(grid: Grid, voxel: tuple[float, float, float]) -> None:
    position = grid.to_um(voxel)
    assume(np.all(np.abs(grid.to_voxel(position) % 1 - 0.5) > 1e-6))
    index = grid.to_index(position)
    half = np.divide(grid.voxel_size_zyx_um, 2)
    assert np.all(np.abs(grid.to_um(index) - position) < half * (1 + 1e-6))
    low, high = grid.extent_zyx_um
    assert grid.contains(position) == bool(np.all((position > low) & (position < high)))


def test_a_tie_between_two_voxels_goes_up() -> None:
    grid = Grid((4, 4, 4), (1.0, 1.0, 1.0))
    assert grid.to_index([0.5, 1.5, 2.5]).tolist() == [1, 2, 3]
    assert grid.contains([[-0.5, 0, 0], [3.5, 0, 0]]).tolist() == [True, False]


@given(st.data())
def test_a_crop_keeps_every_voxel_where_it_is(data: st.DataObject) -> None:
    grid = data.draw(grids())
    window = data.draw(boxes(grid))
    part = tuple(slice(*side) for side in window)
    np.testing.assert_allclose(centres(grid.crop(window)), centres(grid)[part], rtol=1e-12, atol=1e-9)
    assert grid.crop(grid.window) == grid


@given(grids(), FACTORS)
def test_a_binned_voxel_is_where_the_mean_of_its_voxels_is(grid: Grid, factor: Shape) -> None:
    whole = centres(grid)
    binned = grid.binned(factor)
    assert binned.shape_zyx == tuple(-(-n // f) for n, f in zip(grid.shape_zyx, factor, strict=True))
    if all(n >= f for n, f in zip(grid.shape_zyx, factor, strict=True)):
        z, y, x = factor
        np.testing.assert_allclose(binned.origin_zyx_um, whole[:z, :y, :x].mean(axis=(0, 1, 2)), rtol=1e-9, atol=1e-9)
        dropped = grid.binned(factor, partial="drop")
        assert dropped.shape_zyx == tuple(n // f for n, f in zip(grid.shape_zyx, factor, strict=True))
        assert (dropped.origin_zyx_um, dropped.voxel_size_zyx_um) == (binned.origin_zyx_um, binned.voxel_size_zyx_um)


@given(grids(), FACTORS)
def test_binning_loses_no_space_and_adds_less_than_a_block(grid: Grid, factor: Shape) -> None:
    (low, high), (low_binned, high_binned) = grid.extent_zyx_um, grid.binned(factor).extent_zyx_um
    np.testing.assert_allclose(low_binned, low, rtol=1e-9, atol=1e-8)
    excess = np.subtract(high_binned, high)
    assert np.all(excess > -1e-8)
    assert np.all(excess < np.multiply(grid.voxel_size_zyx_um, factor))


@given(grids(), st.integers(1, 7))
def test_picked_planes_stay_where_they_are(grid: Grid, step: int) -> None:
    np.testing.assert_allclose(centres(grid.picked(step)), centres(grid)[::step], rtol=1e-12, atol=1e-9)


@given(grids(), st.integers(2, 20))
def test_a_pyramid_ends_when_it_fits_and_covers_all_at_every_level(grid: Grid, min_size_px: int) -> None:
    levels = grid.pyramid(min_size_px=min_size_px)
    assert levels[0] == grid
    assert max(levels[-1].shape_zyx[1:]) <= min_size_px or len(levels) == 1
    for finer, coarser in pairwise(levels):
        assert max(finer.shape_zyx[1:]) > min_size_px
        np.testing.assert_allclose(coarser.extent_zyx_um[0], grid.extent_zyx_um[0], rtol=1e-9, atol=1e-8)
        assert np.all(np.subtract(coarser.extent_zyx_um[1], grid.extent_zyx_um[1]) > -1e-8)


def test_the_voxels_of_a_pyramid_approach_cubes() -> None:
    levels = FULL.pyramid()
    assert [level.shape_zyx for level in levels[:3]] == [(520, 9433, 7605), (520, 4717, 3803), (260, 2359, 1902)]
    for level in levels[1:]:
        size_z, size_y, size_x = level.voxel_size_zyx_um
        assert size_y == size_x
        assert 1 <= size_z / size_x < 2


@given(grids())
def test_a_grid_survives_being_written_down(grid: Grid) -> None:
    assert Grid.from_dict(grid.to_dict()) == grid


def test_the_full_grid_of_a_stack_begins_at_the_origin_of_the_skeleton() -> None:
    assert Grid((520, 9433, 7605), (0.28, 0.1144, 0.1144), (0.0, 0.0, 0.0)) == FULL
    assert FULL.n_voxels == 520 * 9433 * 7605
    assert FULL.to_index([0.28 * 100, 0.1144 * 7, 0.1144 * 5000]).tolist() == [100, 7, 5000]


@given(st.integers(0, 4), st.integers(1, 5))
def test_the_downloaded_grid_drops_the_ragged_edge_and_picks_planes(level: int, z_step: int) -> None:
    grid = download_grid(FULL, level, z_step)
    factor = 2**level
    assert grid.shape_zyx == (-(-520 // z_step), 9433 // factor, 7605 // factor)
    np.testing.assert_allclose(grid.voxel_size_zyx_um, (0.28 * z_step, 0.1144 * factor, 0.1144 * factor))
    np.testing.assert_allclose(grid.origin_zyx_um, (0, 0.1144 * (factor - 1) / 2, 0.1144 * (factor - 1) / 2), atol=1e-12)


def test_a_centre_stays_and_a_corner_moves_by_half_a_pixel() -> None:
    swc = np.array([[0.28, 0.1144, 0.2288]])
    assert swc_to_stack_um(swc, FULL, "centre") is swc
    corner = FULL.to_voxel(swc_to_stack_um(swc, FULL, "corner"))
    np.testing.assert_allclose(corner, [[1.0, 0.5, 1.5]])


@pytest.mark.parametrize(
    ("shape", "size", "origin", "said"),
    [
        ((0, 4, 4), (1, 1, 1), (0, 0, 0), "at least one voxel"),
        ((4, 4), (1, 1, 1), (0, 0, 0), "three values"),
        ((4, 4, 4), (1, 0, 1), (0, 0, 0), "micrometres > 0"),
        ((4, 4, 4), (1, -1, 1), (0, 0, 0), "micrometres > 0"),
        ((4, 4, 4), (1, nan, 1), (0, 0, 0), "micrometres > 0"),
        ((4, 4, 4), (1, 1, 1), (0, inf, 0), "must be finite"),
    ],
)
def test_what_is_no_grid_is_refused(shape: tuple[int, ...], size: tuple[float, ...], origin: tuple[float, ...], said: str) -> None:
    with pytest.raises(GridError, match=said):
        Grid(shape, size, origin)


def test_a_grid_too_small_for_a_whole_block_is_refused() -> None:
    with pytest.raises(GridError, match="at least one voxel"):
        Grid((4, 3, 4), (1, 1, 1)).binned((1, 4, 1), partial="drop")
    with pytest.raises(GridError, match="at least one voxel"):
        Grid((4, 3, 4), (1, 1, 1)).crop(((0, 4), (2, 2), (0, 4)))
