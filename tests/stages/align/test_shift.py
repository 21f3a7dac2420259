from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from brightfield.config.options import AlignConfig
from brightfield.core.codes import Grade
from brightfield.core.space import Grid
from brightfield.sources.demo.phantom import ArborPlan, grow, shifted
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.cell import align_cell
from brightfield.stages.align.shift import _OFFSETS, _top
from brightfield.testing.grids import stain

GRID = Grid((60, 190, 190), (0.56, 0.4576, 0.4576))
ARBOR = grow(ArborPlan(3, (32.0, 80.0, 80.0), n_basal=4, reach_um=40.0, axon_um=40.0))
STAINED = stain(ARBOR, GRID, seed=5)


def measured(y_um: float, x_um: float, volume: NDArray[np.uint8] = STAINED, grid: Grid = GRID) -> dict[str, object]:
    pixels = Pixels(grid, lambda window: volume[tuple(slice(*axis) for axis in window)])
    return align_cell(11, shifted(ARBOR, (0.0, y_um, x_um)), pixels, AlignConfig(), 0.23).cell


@pytest.mark.parametrize("size_um", [0.0, 0.25, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("turn", [0.1, 0.6, 2.4, 4.0])
def test_a_shift_in_the_plane_is_measured_to_a_tenth_of_a_voxel(size_um: float, turn: float) -> None:
    y_um, x_um = size_um * np.sin(turn), size_um * np.cos(turn)
    cell = measured(y_um, x_um)
    assert np.hypot(cell["shift_y_um"] + y_um, cell["shift_x_um"] + x_um) < 0.046


def test_the_gate_is_a_distance_not_one_for_each_axis() -> None:
    assert measured(0.45, 0.0)["best_transform"] == "identity"
    diagonal = measured(0.45, -0.45)
    assert (diagonal["best_transform"], diagonal["grade"]) == ("shift", Grade.REJECTED)


def test_a_shift_beyond_reach_is_still_found() -> None:
    cell = measured(-3.0, 2.0)
    assert np.allclose([cell["shift_y_um"], cell["shift_x_um"]], [3.0, -2.0], atol=0.4)


def test_empty_tissue_has_no_shift_to_speak_of() -> None:
    blank = np.full(GRID.shape_zyx, 189, np.uint8)
    cell = measured(0.0, 0.0, blank)
    assert cell["best_transform"] == "identity"


@pytest.mark.parametrize("bends", [(-1.0, -1.0, 0.0), (-2.0, -0.3, 0.4), (-0.1, -0.2, -0.05)])
def test_the_top_of_a_paraboloid_is_found_exactly(bends: tuple[float, float, float]) -> None:
    bend_y, bend_x, twist = bends
    y, x = np.array(_OFFSETS, float).T
    top = _top((5 + bend_y * (y - 0.7) ** 2 + bend_x * (x + 1.3) ** 2 + twist * (y - 0.7) * (x + 1.3)).tolist())
    assert top is not None
    assert np.allclose(top, (0.7, -1.3))


def test_a_saddle_and_a_valley_have_no_top() -> None:
    y, x = np.array(_OFFSETS, float).T
    assert _top((x * x - y * y).tolist()) is None
    assert _top((x * x + y * y).tolist()) is None
