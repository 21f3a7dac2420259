from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.config.options import CoverageKind, ImageConfig, SourceConfig, SwcOrigin, tile_of
from brightfield.core.cell import Cell, Plane, Stack
from brightfield.core.errors import CapacityError, GridError
from brightfield.core.skeleton import Skeleton
from brightfield.core.swc import read_swc
from brightfield.sources.allen.records import PICTURE_MAX_PX
from brightfield.stages.download import units as units_module
from brightfield.stages.download.estimate import STACK_FILES, CellSums, Pace, Plan, duration
from brightfield.stages.download.plan import PLANNED_COLUMNS, CellPlan, plan_cell, plan_inputs
from brightfield.stages.download.units import boxes_of, hull_of
from brightfield.testing.skeletons import cable

SKELETON = cable(60.0, start_zyx_um=(4.0, 20.0, 6.0))
OPTIONS = ImageConfig(tile_px=64, radius_um=3.0, shard_zyx=[16, 256, 256])


def a_cell(
    specimen_id: int = 5, *, n_planes: int = 50, height: int = 500, width: int = 700, missing: tuple[int, ...] = (), bits: int = 8
) -> Cell:
    planes = tuple(Plane(i, i, 100 + i, i not in missing) for i in range(n_planes))
    return Cell(specimen_id, "cell", 1, "Mus musculus", stack=Stack(1, width, height, 0.1144, 0.28, planes, bits=bits))


plans = st.builds(
    lambda coverage, level, z_step, tile_px, share, missing, bits: plan_cell(
        a_cell(missing=missing, bits=bits),
        SKELETON,
        replace(OPTIONS, coverage=coverage, level=level, z_step=z_step, tile_px=tile_px, background_share=share),
    ),
    coverage=st.sampled_from(["skeleton", "box", "full"]),
    level=st.integers(0, 2),
    z_step=st.integers(1, 3),
    tile_px=st.sampled_from([64, 128, 256]),
    share=st.sampled_from([0.0, 0.1, 0.5]),
    missing=st.sampled_from([(), (0,), (3, 4, 17)]),
    bits=st.sampled_from([8, 16]),
)


@settings(deadline=None, max_examples=60)
@given(plan=plans)
def test_tiles_are_aligned_boxes_of_the_grid_in_order_and_without_overlap(plan: CellPlan) -> None:
    tiles, (n_z, n_y, n_x) = plan.tiles, plan.grid.shape_zyx
    assert tuple(tiles.columns) == PLANNED_COLUMNS
    edge = int((tiles["x1"] - tiles["x0"]).max())
    assert ((tiles["y0"] % edge == 0) & (tiles["x0"] % edge == 0)).all()
    assert ((tiles["y1"] == np.minimum(tiles["y0"] + edge, n_y)) & (tiles["x1"] == np.minimum(tiles["x0"] + edge, n_x))).all()
    assert tiles["z"].between(0, n_z - 1).all()
    assert (tiles["bytes"] == (tiles["y1"] - tiles["y0"]) * (tiles["x1"] - tiles["x0"]) * plan.bytes_per_px).all()
    key = tiles[["z", "y0", "x0"]]
    assert not key.duplicated().any()
    pd.testing.assert_frame_equal(key, key.sort_values(["z", "y0", "x0"]))


@settings(deadline=None, max_examples=60)
@given(plan=plans, unit_bytes=st.sampled_from([1, 300_000, 2**28]), side=st.sampled_from([256, 300, PICTURE_MAX_PX]))
def test_requests_cover_every_wanted_tile_once_and_stay_in_their_unit(plan: CellPlan, unit_bytes: int, side: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units_module, "UNIT_BYTES", unit_bytes)
        patch.setattr(units_module, "PICTURE_MAX_PX", side)
        units = plan.units
    boxes, n_bytes = boxes_of(plan.tiles), plan.tiles["bytes"].to_numpy()
    rows = [row for unit in units for request in unit.requests for row in request.rows]
    assert sorted(rows) == np.flatnonzero(plan.usable[plan.tiles["z"]]).tolist()
    shards = [shard for unit in units for shard in unit.shards_zyx]
    assert len(set(shards)) == len(shards)
    shard = boxes[:, [0, 1, 3]] // plan.shard_zyx
    for unit in units:
        for request in unit.requests:
            y0, y1, x0, x1 = request.box
            own = boxes[list(request.rows)]
            assert set(own[:, 0].tolist()) == {request.z}
            assert request.box == hull_of(own)
            assert max(y1 - y0, x1 - x0) <= max(side, plan.tile)
        own_rows = [row for request in unit.requests for row in request.rows]
        assert set(map(tuple, shard[own_rows].tolist())) == set(unit.shards_zyx)
        assert unit.n_bytes == n_bytes[own_rows].sum()
        assert unit.n_bytes <= unit_bytes or len(unit.shards_zyx) == 1
    asked = [(y1 - y0) * (x1 - x0) for unit in units for r in unit.requests for y0, y1, x0, x1 in [r.box]]
    assert plan.n_requests == len(asked) <= len(rows)
    assert plan.n_bytes <= plan.n_bytes_asked == sum(asked) * plan.bytes_per_px


def test_a_full_plane_is_one_request_where_it_fits() -> None:
    cell = a_cell(height=9000, width=13_000, missing=(16,))
    plan = plan_cell(cell, None, ImageConfig(coverage=CoverageKind.full, level=3, z_step=8))
    assert plan.n_requests == plan.n_planes == 6
    assert plan.n_bytes_asked == plan.n_bytes


def test_what_a_cell_is_found_by_does_not_depend_on_how_requests_merge_and_keeps_what_was_fetched() -> None:
    stack = a_cell().stack
    assert stack is not None
    demo = ImageConfig(level=2, z_step=2, shard_zyx=[32, 512, 512])
    expected = {"level": 2, "z_step": 2, "shard_zyx": [32, 512, 512], "tile_px": 512, "coverage": "skeleton", "swc_origin": "centre"}
    expected |= {"swc": ["ab", "um", "xyz"], "radius_um": 10.0, "background_share": 0.1}
    assert plan_inputs(stack, demo, SourceConfig(), "ab") == expected
    roomy = a_cell(height=9000, width=9000).stack
    assert roomy is not None
    assert plan_inputs(roomy, demo, SourceConfig(), "ab") == expected | {"background_tiles": 2}


@pytest.mark.parametrize(
    ("level", "coverage", "shard", "tile"),
    [(0, "skeleton", 1024, 512), (2, "skeleton", 512, 128), (5, "skeleton", 512, 64), (5, "full", 512, 512), (2, "box", 640, 128)],
)
def test_tiles_are_chosen_in_downloaded_pixels(level: int, coverage: str, shard: int, tile: int) -> None:
    assert tile_of(ImageConfig(level=level, coverage=CoverageKind(coverage), shard_zyx=[32, shard, shard])) == tile
    assert tile_of(ImageConfig(level=level, coverage=CoverageKind(coverage), tile_px=96)) == 96


def test_a_packed_plan_is_the_plan() -> None:
    plan = plan_cell(a_cell(missing=(7,)), SKELETON, OPTIONS)
    again = CellPlan.unpacked(plan.packed())
    pd.testing.assert_frame_equal(again.tiles, plan.tiles)
    assert (again.digest, again.units) == (plan.digest, plan.units)


def test_a_plan_is_a_value() -> None:
    first, again = (plan_cell(a_cell(), SKELETON, OPTIONS) for _ in range(2))
    pd.testing.assert_frame_equal(first.tiles, again.tiles)
    assert first.digest == again.digest
    others = [
        plan_cell(a_cell(6), SKELETON, OPTIONS),
        plan_cell(a_cell(missing=(40,)), SKELETON, OPTIONS),
        plan_cell(a_cell(), SKELETON, replace(OPTIONS, radius_um=4.0)),
        plan_cell(a_cell(), SKELETON, replace(OPTIONS, background_share=0.2)),
        plan_cell(a_cell(), SKELETON, replace(OPTIONS, shard_zyx=[32, 256, 256])),
        plan_cell(a_cell(bits=16), SKELETON, OPTIONS),
    ]
    assert len({plan.digest for plan in (first, *others)}) == 1 + len(others)


def test_kinds_and_shares() -> None:
    tiles = plan_cell(a_cell(), SKELETON, replace(OPTIONS, background_share=0.25)).tiles
    counts = tiles["kind"].value_counts()
    assert set(counts.index) == {"skeleton", "background"}
    assert counts["background"] == round(0.25 * counts["skeleton"])
    assert set(plan_cell(a_cell(), SKELETON, replace(OPTIONS, coverage=CoverageKind.box)).tiles["kind"]) == {"box"}
    full = plan_cell(a_cell(), None, replace(OPTIONS, coverage=CoverageKind.full))
    assert set(full.tiles["kind"]) == {"full"}
    assert full.n_bytes == full.grid.n_voxels


def test_background_is_never_on_a_plane_that_cannot_be_had() -> None:
    tiles = plan_cell(a_cell(missing=tuple(range(25, 50))), SKELETON, replace(OPTIONS, background_share=0.9)).tiles
    assert tiles["z"][tiles["kind"] == "background"].max() < 25


def test_the_half_voxel_question_moves_the_skeleton() -> None:
    face_um = 63.5 * 0.1144  # between the first two columns of tiles
    node = Skeleton(np.array([1]), np.array([1]), np.array([[4.2, 20.0, face_um + 0.53]]), np.array([1.0]), np.array([-1]))
    exact = replace(OPTIONS, radius_um=0.0, background_share=0.0)
    centre, corner = (plan_cell(a_cell(), node, exact, swc_origin=origin).tiles for origin in SwcOrigin)
    assert set(centre["x0"]) == {64}
    assert set(corner["x0"]) == {0, 64}


def test_cells_that_cannot_be_planned_say_why() -> None:
    with pytest.raises(GridError, match="cell 5: there is no image stack"):
        plan_cell(replace(a_cell(), stack=None), SKELETON, OPTIONS)
    with pytest.raises(GridError, match="needs a skeleton"):
        plan_cell(a_cell(), None, OPTIONS)
    far = Skeleton(np.array([1]), np.array([1]), np.array([[500.0, 500.0, 500.0]]), np.array([1.0]), np.array([-1]))
    for coverage in (CoverageKind.skeleton, CoverageKind.box):
        with pytest.raises(GridError, match="no part of the skeleton lies in the stack"):
            plan_cell(a_cell(), far, replace(OPTIONS, coverage=coverage, margin_um=1.0))


# ------------------------------------------------------------------------------------------------------------------- the whole plan


def _cell_plans() -> list[CellPlan]:
    return [plan_cell(a_cell(i, missing=(7,)), SKELETON, OPTIONS) for i in (9, 5, 7)]


def _plan(**changes: object) -> Plan:
    return Plan(tuple(CellSums.of(plan) for plan in _cell_plans()), **changes)  # type: ignore[arg-type]


def test_totals_add_up() -> None:
    plan = _plan()
    totals = plan.totals
    assert [cell.specimen_id for cell in plan.cells] == [5, 7, 9]
    cells = _cell_plans()
    assert sum(len(cell.tiles) for cell in cells) == totals["tiles"] + totals["tiles_missing"]
    assert totals["bytes"] == sum(cell.n_bytes for cell in cells) == totals["bytes_todo"]
    assert totals["requests"] == sum(cell.n_requests for cell in cells)
    low, high = totals["wire_bytes_todo"]
    assert (low, high) == (round(0.06 * totals["bytes_asked"]), round(0.17 * totals["bytes_asked"]))
    assert totals["bytes"] <= totals["bytes_asked"] <= 1.5 * totals["bytes"]


def test_files_are_read_at_full_resolution_and_as_they_are() -> None:
    jpeg, files = _plan(), _plan(wire=STACK_FILES)
    touched = jpeg.totals["bytes_asked"] * 4 ** jpeg.cells[0].level
    assert files.totals["wire_bytes_todo"] == [round(0.34 * touched), touched]
    assert files.totals["disk_bytes_todo"] == jpeg.totals["disk_bytes_todo"]
    assert "JPEG" not in files.as_text(Pace())


def test_what_is_there_is_not_to_do() -> None:
    totals = _plan(there=frozenset({5, 9})).totals
    assert (totals["cells"], totals["cells_there"]) == (3, 2)
    assert totals["requests_todo"] * 3 == pytest.approx(totals["requests"], rel=0.1)
    assert _plan(there=frozenset({5, 7, 9})).totals["wire_bytes_todo"] == [0, 0]


def test_a_plan_beyond_the_limit_or_the_disk_is_refused() -> None:
    gb = _plan().totals["bytes"] / 1e9
    needed = _plan().totals["disk_bytes_todo"][1]
    for plan in (
        _plan(max_gb=gb * 1.01),
        _plan(free_bytes=needed, max_gb=1e3),
        _plan(free_bytes=0, there=frozenset({5, 7, 9}), max_gb=1e3),
    ):
        plan.check_capacity()
        assert "refused" not in plan.as_text(Pace())
        assert json.loads(plan.as_json(Pace()))["refusal"] == ""
    for plan, reason in (
        (_plan(max_gb=gb * 0.99), r"more than image.max_gb=.*source.specimen_ids"),
        (_plan(free_bytes=needed - 1), "make room"),
    ):
        with pytest.raises(CapacityError, match=reason):
            plan.check_capacity()
        assert f"refused      {plan.refusal}" in plan.as_text(Pace())
        assert json.loads(plan.as_json(Pace()))["refusal"] == plan.refusal


def test_text_and_json_say_the_same() -> None:
    plan = _plan(free_bytes=2 * 10**12, there=frozenset({7}))
    text, document = plan.as_text(Pace()), json.loads(plan.as_json(Pace()))
    assert "3, 1 of them already there" in text
    assert f"{document['requests']:,} after merging" in text
    assert "on planes that the source lacks" in text
    assert "2 TB" in text
    assert document["seconds_todo"] == [seconds for seconds, _ in plan.seconds(Pace())]
    assert document["pace"] == {"rate_mb_s": 10.0, "latency_s": 0.1, "connections": 8, "requests_per_s": 0.0}
    assert [cell["specimen_id"] for cell in document["cells_detail"]] == [5, 7, 9]
    assert sum(cell["bytes"] for cell in document["cells_detail"]) == document["bytes"]


@pytest.mark.parametrize(
    ("pace", "seconds", "cause"),
    [
        (Pace(1.0, 0.01, 10), 10.0, "bytes"),
        (Pace(1.0, 0.5, 10), 50.0, "answers"),
        (Pace(1.0, 0.5, 10, 4.0), 250.0, "the limit of requests"),
        (Pace(1.0, 0.5, 10, 400.0), 50.0, "answers"),
    ],
)
def test_the_time_is_that_of_what_takes_longest(pace: Pace, seconds: float, cause: str) -> None:
    assert pace.seconds(10_000_000, 1000) == (seconds, cause)
    assert duration(seconds).split()[0] == str(round(seconds / (60 if seconds > 90 else 1)))
    text = _plan().time_as_text(pace)
    assert text.endswith(f" ({pace})")
    assert all(found in text for _, found in _plan().seconds(pace))


def test_a_plan_of_nothing_is_a_plan() -> None:
    plan = Plan(())
    assert plan.totals["bytes"] == 0
    assert plan.as_text(Pace())


# ------------------------------------------------------------------------------------------------------------------------ real cells


def _real_cell(specimen_id: int, row: pd.Series, n_planes: int) -> Cell:
    planes = tuple(Plane(i, i, i) for i in range(n_planes))
    stack = Stack(1, int(row["si__width"]), int(row["si__height"]), 0.1144, 0.28, planes)
    return Cell(specimen_id, str(specimen_id), 1, "Mus musculus", stack=stack)


@pytest.fixture(scope="module")
def real(shared_data: Path) -> tuple[dict[int, Skeleton], pd.DataFrame]:
    table = pd.read_csv(shared_data / "cells" / "mouse_reconstructions_509.csv").set_index("specimen__id")
    return {int(path.stem): read_swc(path) for path in sorted((shared_data / "swc").glob("[0-9]*.swc"))}, table


@pytest.mark.real
@pytest.mark.parametrize(
    ("tile_px", "radius_um", "dendrite_gb", "full_gb"),
    [(512, 10, 1.33, 3.40), (256, 10, 0.75, 2.19), (512, 5, 0.88, 2.49), (512, 20, 2.18, 5.00), (1024, 10, 2.53, 5.54)],
)
def test_medians_of_the_real_cells(
    real: tuple[dict[int, Skeleton], pd.DataFrame], tile_px: int, radius_um: float, dendrite_gb: float, full_gb: float
) -> None:
    """Pinned from an independent prototype (`test_tiling.py` has the exact oracle); stacks end 25 planes above the arbor.

    Over all 509 an independent script found 1.24 and 2.97 GB at (512, 10); these 34 and 22 cells leave the medians at 1.16-1.51 and
    2.98-4.05 GB (95 %, bootstrap), as the full ones among them are larger than most.
    """
    skeletons, table = real
    gb: dict[str, list[float]] = {"dendrite-only": [], "full": []}
    for i, skeleton in skeletons.items():
        cell = _real_cell(i, table.loc[i], int(np.ceil(skeleton.position_zyx_um[:, 0].max() / 0.28)) + 26)
        plan = plan_cell(cell, skeleton, ImageConfig(tile_px=tile_px, radius_um=radius_um, background_share=0.0))
        gb[table.loc[i, "nr__reconstruction_type"]].append(plan.n_bytes / 1e9)
    assert np.median(gb["dendrite-only"]) == pytest.approx(dendrite_gb, rel=0.01)
    assert np.median(gb["full"]) == pytest.approx(full_gb, rel=0.01)
