"""The compiled kernels give what `alignment_oracle` writes out: not nearly, but to the last bit that is stored."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from alignment_oracle import Oracle, absorbance, paths_of
from brightfield.config.options import AlignConfig
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Window
from brightfield.core.swc import read_swc
from brightfield.sources.demo.phantom import ArborPlan, grow, shifted
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.cell import Alignment, align_cell
from brightfield.stages.align.paths import stretches_of
from brightfield.stages.align.search import Search, highest
from brightfield.stages.align.transforms import RigidSearch
from brightfield.stages.align.views import View, is_empty, window_around
from brightfield.testing.grids import stain

R_MIN_UM = 0.23
FINE = Grid((50, 150, 150), (0.56, 0.4576, 0.4576))  # level 2, every second plane
COARSE = Grid((12, 40, 40), (2.24, 1.8304, 1.8304))  # level 4, every eighth plane
ARBOR = grow(ArborPlan(8, (26.0, 64.0, 64.0), n_basal=2, reach_um=26.0, axon_um=30.0))
MISPLACED = shifted(ARBOR, (0.4, 0.9, -0.7))


@lru_cache
def stained(grid: Grid) -> NDArray[np.uint8]:
    volume = stain(ARBOR, grid, seed=5)
    volume[:, ::7, ::5] = 150  # debris: chance must matter
    return volume


def pixels_of(grid: Grid, tiles: NDArray[np.int64] | None = None) -> Pixels:
    def read(window: Window) -> NDArray[np.uint8]:
        part: NDArray[np.uint8] = stained(grid)[tuple(slice(*axis) for axis in window)]
        return part

    return Pixels(grid, read, tiles)


def some_tiles(grid: Grid) -> NDArray[np.int64]:
    """Two thirds of the tiles of 16 pixels, in a pattern."""
    n_z, n_y, n_x = grid.shape_zyx
    corners = [(z, y, x) for z in range(n_z) for y in range(0, n_y, 16) for x in range(0, n_x, 16) if (z // 3 + y // 16 + x // 16) % 3]
    return np.array([(z, y, min(y + 16, n_y), x, min(x + 16, n_x)) for z, y, x in corners])


@lru_cache
def oracle(skeleton_name: str, grid: Grid, partly: bool = False) -> Oracle:
    known = pixels_of(grid, some_tiles(grid) if partly else None).downloaded(grid.window)
    whole = absorbance(stained(grid), known, grid.voxel_size_zyx_um[2])
    return Oracle(globals()[skeleton_name], whole, grid, AlignConfig(), R_MIN_UM)


@pytest.mark.parametrize(("name", "grid"), [("ARBOR", FINE), ("MISPLACED", FINE), ("ARBOR", COARSE)])
def test_the_rows_of_a_cell_are_the_oracles(name: str, grid: Grid) -> None:
    found: Alignment = align_cell(11, globals()[name], pixels_of(grid), AlignConfig(), R_MIN_UM)
    assert [{k: v for k, v in row.items() if k != "specimen_id"} for row in found.stretches] == oracle(name, grid).rows(11)


def test_where_only_some_tiles_came_the_rows_are_the_oracles() -> None:
    found = align_cell(11, ARBOR, pixels_of(FINE, some_tiles(FINE)), AlignConfig(), R_MIN_UM)
    expected = oracle("ARBOR", FINE, partly=True).rows(11)
    assert [{k: v for k, v in row.items() if k != "specimen_id"} for row in found.stretches] == expected
    assert len({row["verdict"] for row in expected}) > 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_absorbance_is_the_oracles(dtype: type) -> None:
    volume = stained(FINE)[:6].astype(dtype) * (1 if dtype is np.uint8 else 201)
    grid = Grid(volume.shape, FINE.voxel_size_zyx_um)
    tiles = some_tiles(grid)
    found = Pixels(grid, lambda window: volume[tuple(slice(*axis) for axis in window)], tiles)
    known = found.downloaded(grid.window)
    assert np.array_equal(found.absorbance(grid.window), absorbance(volume, known, grid.voxel_size_zyx_um[2]))


def test_the_means_of_all_rigid_shifts_are_the_oracles() -> None:
    pixels, rigid = pixels_of(FINE).holding(), RigidSearch(FINE)
    for path in stretches_of(ARBOR, AlignConfig().stretch_um, R_MIN_UM):
        window = window_around(pixels, path.position, 10.0)
        if not is_empty(window):
            rigid.add(View.of(pixels, window), path)
    assert np.array_equal(rigid.means(), oracle("ARBOR", FINE).rigid_means())


def test_the_fit_of_every_stretch_is_the_oracles() -> None:
    search, pixels = Search(FINE, AlignConfig()), pixels_of(FINE)
    for path, expected in zip(
        stretches_of(ARBOR, AlignConfig().stretch_um, R_MIN_UM), paths_of(ARBOR, AlignConfig().stretch_um, R_MIN_UM), strict=True
    ):
        if len(path.position):
            view = View.of(pixels, window_around(pixels, path.position, 4.0))
            assert highest(search.scores(view, path, search.within(1.0, 1.0), 300)) == oracle("ARBOR", FINE).fit(expected)


def assert_same_paths(skeleton: Skeleton) -> None:
    for path, expected in zip(stretches_of(skeleton, 30.0, R_MIN_UM), paths_of(skeleton, 30.0, R_MIN_UM), strict=True):
        assert (path.number, path.label, path.nodes.tolist(), path.length_um) == (
            expected.number,
            expected.label,
            expected.nodes,
            expected.length_um,
        )
        for name in ("position", "normal", "radius"):
            assert np.array_equal(getattr(path, name), getattr(expected, name)), name


def test_the_samples_of_a_generated_arbor_are_the_oracles() -> None:
    assert_same_paths(ARBOR)


@pytest.mark.real
def test_the_samples_of_real_cells_are_the_oracles(shared_data) -> None:
    for file in sorted((shared_data / "swc").glob("*.swc"))[::20]:
        assert_same_paths(read_swc(file))
