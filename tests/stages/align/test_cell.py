from __future__ import annotations

import tracemalloc
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from brightfield.config.options import AlignConfig
from brightfield.core.codes import Grade, Label, Verdict
from brightfield.core.errors import GridError
from brightfield.core.schema import ALIGNMENT, ALIGNMENT_CELLS
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Window
from brightfield.core.tables import read_table, write_table
from brightfield.sources.demo.phantom import ArborPlan, grow, shifted
from brightfield.stages.align import absorbance
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.cell import Alignment, align_cell
from brightfield.stages.align.views import is_empty, window_around
from brightfield.testing.grids import stain
from brightfield.testing.skeletons import cable, flipped, reordered, z_scaled

GATES = AlignConfig()
R_MIN_UM = 0.23
COARSE = Grid((72, 220, 220), (0.56, 0.4576, 0.4576))  # level 2, every second plane
ARBOR = grow(ArborPlan(3, (38.0, 95.0, 95.0), n_basal=4, reach_um=50.0, axon_um=60.0))


@lru_cache
def stained() -> NDArray[np.uint8]:
    return stain(ARBOR, COARSE, seed=5)


def near_the_skeleton(skeleton: Skeleton, grid: Grid, tile: int = 64, radius_um: float = 10.0) -> NDArray[np.int64]:
    """Tiles (z, y0, y1, x0, x1) within a radius of the nodes: what a download for this skeleton brings."""
    found = set()
    for position in skeleton.position_zyx_um:
        low = np.maximum(grid.to_index(position - radius_um), 0)
        high = np.minimum(grid.to_index(position + radius_um), np.subtract(grid.shape_zyx, 1))
        for y in range(low[1] // tile, high[1] // tile + 1):
            for x in range(low[2] // tile, high[2] // tile + 1):
                found |= {(z, y * tile, x * tile) for z in range(low[0], high[0] + 1)}
    _, n_y, n_x = grid.shape_zyx
    return np.array([(z, y, min(y + tile, n_y), x, min(x + tile, n_x)) for z, y, x in sorted(found)], np.int64)


def align(skeleton: Skeleton, volume: NDArray[np.uint8], grid: Grid = COARSE, tiles: NDArray[np.int64] | None = None) -> Alignment:
    def read(window: Window) -> NDArray[np.uint8]:
        part: NDArray[np.uint8] = volume[tuple(slice(*axis) for axis in window)]
        return part

    return align_cell(11, skeleton, Pixels(grid, read, tiles), GATES, R_MIN_UM)


def length_by_verdict(alignment: Alignment, verdict: Verdict) -> float:
    return sum(row["length_um"] for row in alignment.stretches if row["verdict"] == verdict)


def test_a_skeleton_on_its_stain_is_graded_a() -> None:
    cell = align(ARBOR, stained()).cell
    assert (cell["grade"], cell["best_transform"], cell["reason"]) == (Grade.A, "identity", None)
    assert cell["d_prime"] > 5
    assert abs(cell["shift_y_um"]) < 0.25
    assert abs(cell["shift_x_um"]) < 0.25
    assert abs(cell["shift_z_um"]) < 0.4


@pytest.mark.parametrize(("axis", "radius_um"), [(0, 0.2), (2, 0.2), (None, 1e6)])
def test_one_node_far_away_or_far_too_thick_is_refused_before_any_work(axis: int | None, radius_um: float) -> None:
    position, radius = ARBOR.position_zyx_um.copy(), ARBOR.radius_um.copy()
    if axis is not None:
        position[-1, axis] = 1e7
    radius[-1] = radius_um
    with pytest.raises(GridError, match=f"^node {ARBOR.node_id[-1]} of the SWC lies at"):
        align(Skeleton(ARBOR.node_id, ARBOR.type, position, radius, ARBOR.parent), stained())


def test_what_is_as_thick_as_the_stack_or_leads_out_of_it_costs_no_more_than_the_stack() -> None:
    """An edge 9 mm out and a tube of 900 um: both are stretches with little or nothing to say, and the others keep what they say."""
    ids = np.concatenate([ARBOR.node_id, ARBOR.node_id.max() + np.array([1, 2])])
    out, thick = (9000.0, 50.0, 50.0), ARBOR.position_zyx_um[0] + (0.0, 20.0, 0.0)
    position = np.vstack([ARBOR.position_zyx_um, out, thick])
    radius = np.concatenate([ARBOR.radius_um, [0.2, 900.0]])
    skeleton = Skeleton(ids, np.concatenate([ARBOR.type, [3, 3]]), position, radius, np.concatenate([ARBOR.parent, [0, 0]]))
    tracemalloc.start()
    try:
        alignment = align(skeleton, stained())
        assert tracemalloc.get_traced_memory()[1] < 20 * stained().size
    finally:
        tracemalloc.stop()
    assert len(alignment.stretches) == len(align(ARBOR, stained()).stretches) + 2


def test_a_window_across_a_large_stack_is_not_read() -> None:
    large = Grid((700, 12000, 12000), (0.28, 0.1144, 0.1144))
    ends = np.array([(5.0, 10.0, 10.0), (150.0, 1300.0, 1300.0)])
    assert is_empty(window_around(Pixels(large, lambda _: pytest.fail("read")), ends, 10.0))
    assert not is_empty(window_around(Pixels(large, lambda _: pytest.fail("read")), ends[:1], 10.0))


def test_every_stretch_has_a_row_with_its_length() -> None:
    alignment = align(ARBOR, stained())
    assert [row["stretch"] for row in alignment.stretches] == list(range(ARBOR.stretches(GATES.stretch_um).max() + 1))
    total = sum(row["length_um"] for row in alignment.stretches)
    assert np.isclose(total, sum(ARBOR.path_length_um().values()), atol=1e-3)


def test_the_tables_keep_their_contracts(tmp_path: Path) -> None:
    alignment = align(ARBOR, stained(), tiles=near_the_skeleton(ARBOR, COARSE)[::2])
    write_table(ALIGNMENT, pd.DataFrame(alignment.stretches), tmp_path)
    write_table(ALIGNMENT_CELLS, pd.DataFrame([alignment.cell]), tmp_path)
    assert len(read_table(ALIGNMENT, tmp_path)) == len(alignment.stretches)
    assert read_table(ALIGNMENT_CELLS, tmp_path)["grade"].tolist() == [str(alignment.cell["grade"])]


@pytest.mark.parametrize("shift", [(0.0, 3.0, 0.0), (0.0, -2.12, 2.12), (0.0, 0.0, -3.0), (3.0, 0.0, 0.0)])
def test_a_skeleton_three_um_off_is_rejected_and_its_shift_named(shift: tuple[float, float, float]) -> None:
    planted = shifted(ARBOR, shift)
    alignment = align(planted, stained(), tiles=near_the_skeleton(planted, COARSE))
    cell = alignment.cell
    assert (cell["grade"], cell["best_transform"]) == (Grade.REJECTED, "shift")
    assert np.allclose([cell["shift_z_um"], cell["shift_y_um"], cell["shift_x_um"]], np.negative(shift), atol=0.4)
    assert "fits better" in cell["reason"]
    assert cell["share_on"] < 0.3, "only what runs along the shift can still be on its stain"


@pytest.mark.parametrize("level", [3, 4, 5])
def test_a_cell_on_its_stain_is_taken_at_coarse_levels_and_one_that_is_off_is_not(level: int) -> None:
    factor = 2 ** (level - 2)
    shape = tuple(n // f for n, f in zip(COARSE.shape_zyx, (1, factor, factor), strict=True))
    whole = stained()[:, : shape[1] * factor, : shape[2] * factor]
    volume = whole.reshape(shape[0], shape[1], factor, shape[2], factor).mean(axis=(2, 4)).round().astype(np.uint8)
    size_um = COARSE.voxel_size_zyx_um[1] * factor
    first_um = (size_um - COARSE.voxel_size_zyx_um[1]) / 2
    grid = Grid(volume.shape, (COARSE.voxel_size_zyx_um[0], size_um, size_um), (0.0, first_um, first_um))
    cell = align(ARBOR, volume, grid).cell
    assert (cell["grade"] == Grade.REJECTED, cell["best_transform"]) == (False, "identity")
    for away_um in (max(3.0, size_um), -max(3.0, size_um)):
        assert align(shifted(ARBOR, (0.0, away_um, away_um)), volume, grid).cell["grade"] == Grade.REJECTED


def test_a_shift_within_the_gates_changes_nothing() -> None:
    cell = align(shifted(ARBOR, (0.3, 0.2, -0.2)), stained()).cell
    assert (cell["grade"], cell["best_transform"]) == (Grade.A, "identity")


def test_one_um_off_is_alongside_and_five_is_not_on() -> None:
    along_x = cable(60.0, start_zyx_um=(20.0, 40.0, 15.0))
    slanted = along_x.moved_to(along_x.position_zyx_um + (along_x.position_zyx_um[:, 2:] - 15.0) * (0.05, 0.4, 0.0))
    across = np.array([0.0, 1.0, -0.4]) / np.hypot(1.0, 0.4)
    volume = stain(slanted, COARSE, seed=1)
    one, five = (align(slanted.moved_to(slanted.position_zyx_um + off * across), volume) for off in (1.0, 5.0))
    assert {row["verdict"] for row in one.stretches} == {Verdict.ALONGSIDE}
    assert {row["verdict"] for row in five.stretches} == {Verdict.NOT_ON}
    assert all(abs(abs(row["shift_um"]) - 1.0) < 0.35 for row in one.stretches)


def test_contrast_falls_as_the_skeleton_leaves_the_stain() -> None:
    d_prime = [align(shifted(ARBOR, (0.0, off, 0.0)), stained()).cell["d_prime"] for off in (0.0, 0.5, 1.0, 2.0)]
    assert d_prime == sorted(d_prime, reverse=True)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("flip x", flipped(ARBOR, COARSE, 2)),
        ("flip y", flipped(ARBOR, COARSE, 1)),
        ("flip z", flipped(ARBOR, COARSE, 0)),
        ("transpose xy", ARBOR.moved_to(ARBOR.position_zyx_um[:, [0, 2, 1]])),
        ("z scale 0.8", z_scaled(ARBOR, 1.25)),
        ("z scale 2", z_scaled(ARBOR, 0.5)),
        ("shift", shifted(ARBOR, (3.0, 0.0, 0.0))),
    ],
)
def test_a_wrong_frame_is_named(name: str, wrong: Skeleton) -> None:
    cell = align(wrong, stained()).cell
    assert (cell["best_transform"], cell["grade"]) == (name, Grade.REJECTED)
    assert cell["best_score"] > cell["identity_score"]
    assert name in cell["reason"]


@pytest.mark.parametrize("factor", [0.85, 1.15, 1.2])
def test_a_z_scale_is_named_as_a_number(factor: float) -> None:
    cell = align(z_scaled(ARBOR, factor), stained()).cell
    name, number = cell["best_transform"].rsplit(" ", 1)
    assert (name, cell["grade"]) == ("z scale", Grade.REJECTED)
    assert abs(float(number) * factor - 1.0) < 0.03
    assert cell["reason"].startswith(cell["best_transform"])


@pytest.mark.parametrize("seed", [6, 7, 8])
def test_no_scale_is_named_where_only_the_stain_is_poor(seed: int) -> None:
    unstained = (ARBOR.type == Label.AXON) | (np.arange(len(ARBOR)) % 60 < 20)
    partly = Skeleton(ARBOR.node_id, ARBOR.type, ARBOR.position_zyx_um, ARBOR.radius_um, np.where(unstained, -1, ARBOR.parent))
    cell = align(ARBOR, stain(partly, COARSE, seed=seed)).cell
    assert (cell["best_transform"], cell["grade"] == Grade.A) == ("identity", False)


def test_empty_tissue_is_not_on() -> None:
    empty = stain(ARBOR, COARSE, seed=9, darkness=0.0)
    empty[:] = np.random.Generator(np.random.PCG64(2)).normal(189, 2.3, empty.shape).astype(np.uint8)
    alignment = align(ARBOR, empty)
    assert alignment.cell["grade"] == Grade.REJECTED
    assert length_by_verdict(alignment, Verdict.ON) == 0
    assert abs(alignment.cell["d_prime"]) < 0.5


def test_an_axon_without_stain_is_rejected_and_the_dendrites_are_not() -> None:
    unstained = ARBOR.type == Label.AXON
    dendrites = Skeleton(ARBOR.node_id, ARBOR.type, ARBOR.position_zyx_um, ARBOR.radius_um, np.where(unstained, -1, ARBOR.parent))
    cell = align(ARBOR, stain(dendrites, COARSE, seed=5)).cell
    assert cell["grade_dendrite"] == Grade.A
    assert cell["grade_axon"] == Grade.REJECTED
    assert cell["d_prime_axon"] < 1.5 < cell["d_prime_dendrite"]


def test_pixels_outside_the_download_have_no_influence() -> None:
    tiles = near_the_skeleton(ARBOR, COARSE)
    outside = ~Pixels(COARSE, lambda _: stained(), tiles).downloaded(COARSE.window)
    assert outside.any()
    zero, bright = stained().copy(), stained().copy()
    zero[outside], bright[outside] = 0, 255
    assert align(ARBOR, zero, tiles=tiles) == align(ARBOR, bright, tiles=tiles)
    assert align(ARBOR, zero, tiles=tiles).cell["grade"] == Grade.A


def test_a_cell_without_pixels_is_no_data_and_rejected() -> None:
    alignment = align(ARBOR, stained(), tiles=np.array([(0, 0, 8, 0, 8)]))
    assert {row["verdict"] for row in alignment.stretches} == {Verdict.NO_DATA}
    assert (alignment.cell["grade"], alignment.cell["d_prime"], alignment.cell["share_on"]) == (Grade.REJECTED, None, None)
    assert "have pixels" in alignment.cell["reason"]


def test_a_stack_read_window_by_window_gives_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = align(ARBOR, stained())
    monkeypatch.setattr(absorbance, "HELD_BYTES", 0)
    assert align(ARBOR, stained()) == whole


def test_the_order_of_the_nodes_does_not_matter() -> None:
    order = np.random.Generator(np.random.PCG64(4)).permutation(len(ARBOR))
    assert align(reordered(ARBOR, order.tolist()), stained()) == align(ARBOR, stained())


def test_a_skeleton_without_edges_is_rejected_not_a_crash() -> None:
    lone = cable(0.0)
    alignment = align(lone, stained())
    assert alignment.stretches == []
    assert alignment.cell["grade"] == Grade.REJECTED
