from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from brightfield.core.space import Grid, Window
from brightfield.stages.align.absorbance import NO_DATA, UNIT, Pixels

GRID = Grid((3, 80, 90), (0.56, 0.4576, 0.4576))
TISSUE = np.clip(np.random.Generator(np.random.PCG64(1)).normal(189, 2.3, GRID.shape_zyx), 0, 255).astype(np.uint8)


def pixels(volume: NDArray[np.uint8] | NDArray[np.uint16], tiles: list[tuple[int, ...]] | None = None, grid: Grid = GRID) -> Pixels:
    def read(window: Window) -> NDArray[np.uint8] | NDArray[np.uint16]:
        part: NDArray[np.uint8] = volume[tuple(slice(*axis) for axis in window)]
        return part

    return Pixels(grid, read, None if tiles is None else np.array(tiles, np.int64))


def test_absorbance_is_minus_the_logarithm_of_the_light_that_is_left() -> None:
    volume = np.full(GRID.shape_zyx, 200, np.uint8)
    volume[1, 40, 45] = 100
    found = pixels(volume).absorbance(GRID.window)
    assert abs(found[1, 40, 45] * UNIT - np.log(2)) <= UNIT
    found[1, 40, 45] = 0
    assert not found.any()


def test_uneven_light_is_taken_out() -> None:
    light = np.linspace(140, 220, 90)
    volume = np.broadcast_to(np.round(light), GRID.shape_zyx).astype(np.uint8)
    found = pixels(volume).absorbance(GRID.window) * UNIT
    assert found[:, 10:-10, 10:-10].mean() < 0.05, "0.45 between the ends"


def test_a_trunk_as_wide_as_the_median_is_not_its_own_background() -> None:
    volume = np.full(GRID.shape_zyx, 200, np.uint8)
    volume[:, 36:44] = 100
    assert (pixels(volume).absorbance(GRID.window)[:, 36:44] * UNIT > 0.69).all()


@settings(deadline=None)
@given(st.data())
def test_a_voxel_has_the_same_absorbance_in_every_window(data: st.DataObject) -> None:
    axes = [sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)))) for n in GRID.shape_zyx]
    window: Window = tuple((low, max(high, low + 1)) for low, high in axes)  # type: ignore[assignment]
    view = pixels(TISSUE, tiles=[(0, 0, 32, 0, 64), (1, 32, 64, 32, 90), (2, 0, 80, 0, 90)])
    whole = view.absorbance(GRID.window)
    expected = whole[tuple(slice(*axis) for axis in window)]
    assert np.array_equal(view.absorbance(window), expected)
    assert np.array_equal(view.holding().absorbance(window), expected)


def test_what_was_not_downloaded_is_unknown_and_has_no_influence() -> None:
    tiles = [(0, 0, 32, 0, 32), (0, 32, 64, 0, 32), (2, 0, 80, 0, 90)]
    filled, random = TISSUE.copy(), TISSUE.copy()
    outside = ~pixels(TISSUE, tiles).downloaded(GRID.window)
    filled[outside] = 0
    random[outside] = 77
    found = pixels(filled, tiles).absorbance(GRID.window)
    assert np.array_equal(found, pixels(random, tiles).absorbance(GRID.window))
    assert np.array_equal(found == NO_DATA, outside)


def test_pixels_are_not_read_where_nothing_was_downloaded() -> None:
    def read(window: Window) -> NDArray[np.uint8]:
        raise AssertionError(window)

    found = Pixels(GRID, read, np.array([(0, 0, 8, 0, 8)])).absorbance(((1, 3), (20, 40), (20, 40)))
    assert (found == NO_DATA).all()


def test_sixteen_bits_give_the_same_answer_where_greys_are_in_proportion() -> None:
    wide = TISSUE.astype(np.uint16) * 16
    difference = pixels(wide).absorbance(GRID.window) - pixels(TISSUE).absorbance(GRID.window)
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 50), (1, 50, 2)])
def test_grids_smaller_than_the_median_are_read(shape: tuple[int, int, int]) -> None:
    grid = Grid(shape, GRID.voxel_size_zyx_um)
    assert (pixels(np.full(shape, 189, np.uint8), grid=grid).absorbance(grid.window) <= 0).all()
