"""What labels take from the image, on a rendered neuron whose stain is known."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from brightfield.config.options import LabelsConfig
from brightfield.core.codes import Label, Reason, Verdict
from brightfield.core.errors import CapacityError
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Shape
from brightfield.raster.runs import overlay, paint, union
from brightfield.sources.demo.phantom import Faults
from brightfield.sources.demo.stain import soma_shape, within_lobes
from brightfield.stages.rasterize.chunks import Boxes
from brightfield.stages.rasterize.evidence import Evidence, evidence_of, moved
from brightfield.stages.rasterize.labels import write_labels
from brightfield.stages.rasterize.misregistered import Misregistered, StretchVerdict, wrong_nodes
from brightfield.stages.rasterize.optics import Stain
from brightfield.stages.rasterize.plan import LabelPlan
from brightfield.stages.rasterize.somata import Body
from brightfield.testing.skeletons import cable
from brightfield.volumes.volume import open_volume
from stained import R_MIN_UM, grid_of, phantom, pixels, stored, traced_of, tube, whole


def looked_at(path: Path, boxes: Boxes | None = None, chunk: Shape = (16, 64, 64)) -> Evidence:
    cell, grid = phantom(), grid_of(phantom())
    boxes = whole(grid) if boxes is None else boxes
    return evidence_of(stored(path, pixels(cell), grid, boxes, chunk), boxes, traced_of(cell.skeleton))


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return looked_at(tmp_path_factory.mktemp("image") / "1.zarr")


# ------------------------------------------------------------------------------------------------------------------------- bad planes


def test_blank_repeated_and_lit_planes_are_bad_and_others_are_not(tmp_path: Path) -> None:
    cell = replace(phantom(), faults=Faults(blank=frozenset({20}), brighter=frozenset({40})))
    voxels = pixels(cell).copy()
    voxels[30] = voxels[29]
    voxels[5, ::20] = 0
    grid = grid_of(cell)
    found = evidence_of(stored(tmp_path / "1.zarr", voxels, grid, whole(grid)), whole(grid), traced_of(cell.skeleton))
    expected = {5: "has rows of one value", 10: "is blank", 20: "is under another light", 30: "repeats the plane before"}
    assert dict(found.bad_planes) == expected
    assert [finding.message for finding in found.findings if finding.check == "bad-plane"] == [
        f"plane {z} {w}" for z, w in expected.items()
    ]
    mask = paint(union(found.unexplained, 1), grid.window) > 0
    assert mask[15].any()


def test_a_stack_in_order_has_no_bad_plane(evidence: Evidence) -> None:
    assert not evidence.bad_planes


# ----------------------------------------------------------------------------------------------------------------------- the soma


def test_the_dark_body_is_the_stained_one(evidence: Evidence) -> None:
    cell, body = phantom(), evidence.body
    assert body is not None
    away = np.arange(-1.7 * body.radius_um, 1.7 * body.radius_um, 0.1)
    y, x = np.meshgrid(away, away, indexing="ij")
    points = np.stack([np.zeros_like(y), y, x], axis=-1).reshape(-1, 3)
    stained = within_lobes(points, body.radius_um, soma_shape(np.uint64(1000 * cell.seed))[1]).reshape(y.shape)
    inside = body.holds((np.zeros_like(y), y, x))
    assert (inside & stained).sum() / (inside | stained).sum() > 0.85
    assert (stained & ~inside & (y * y + x * x > body.radius_um**2)).sum() < 0.05 * stained.sum()


def test_between_sphere_and_body_the_soma_is_uncertain_or_soma() -> None:
    grid, skeleton = Grid((20, 60, 60), (0.56, 0.4576, 0.4576)), cable(12.0)
    body = Body((5.0, 10.0, 10.0), 4.0, np.where(np.arange(72) < 36, 1.3, 0.7))
    z, y, x = grid.to_index([5.0, 10.0, 10.0])
    outer, inner, stem = (tuple(grid.to_index([5.0, 10.0 + dy, 10.0 + dx])) for dy, dx in ((4.6, 0.0), (-3.4, 0.0), (0.0, 4.6)))
    in_place = Misregistered.of(skeleton, {}, 30.0, R_MIN_UM)
    for soma_from_image in (False, True):
        traced = traced_of(skeleton, soma_from_image=soma_from_image)
        found = Evidence(traced, grid, np.empty((0, 5), np.int32), in_place, body, {}, ())
        reasons, soma = paint(found.reasons(grid), grid.window), paint(found.soma(grid), grid.window)
        assert (reasons[inner], reasons[z, y, x], reasons[stem]) == (Reason.SOMA_UNCERTAIN, 0, 0)
        assert reasons[outer] == (0 if soma_from_image else Reason.SOMA_UNCERTAIN)
        assert soma[outer] == (Label.SOMA if soma_from_image else 0)
        assert soma[inner] == 0


def test_doubt_about_the_soma_wins_over_the_soma_and_not_over_a_neurite() -> None:
    tubes = np.array([[0, 0, 0, 4, Label.SOMA], [0, 1, 0, 4, Label.BASAL_DENDRITE]], np.int32)
    doubt = np.array([[0, 0, 2, 4, Reason.SOMA_UNCERTAIN], [0, 1, 2, 4, Reason.SOMA_UNCERTAIN]], np.int32)
    doubtful = Label.UNKNOWN + 256 * Reason.SOMA_UNCERTAIN
    assert overlay(tubes, doubt).tolist() == [[0, 0, 0, 2, 1], [0, 0, 2, 4, doubtful], [0, 1, 0, 4, 3]]


def test_without_soma_or_without_pixels_there_is_no_body(tmp_path: Path) -> None:
    grid = Grid((20, 60, 60), (0.56, 0.4576, 0.4576))
    voxels = np.random.default_rng(1).integers(180, 200, grid.shape_zyx).astype(np.uint8)
    image, skeleton = stored(tmp_path / "1.zarr", voxels, grid, whole(grid)), cable(12.0)
    assert evidence_of(image, whole(grid), traced_of(skeleton)).body is None  # nothing is dark
    assert evidence_of(image, whole(grid), traced_of(replace(skeleton, type=np.full(13, 3)))).body is None
    far = np.array([[0, 2, 0, 8, 40, 60]], np.int64)
    assert evidence_of(image, far, traced_of(skeleton)).body is None


# ------------------------------------------------------------------------------------------------------------------- misregistered

LINE = Grid((30, 60, 120), (0.5, 0.4, 0.4))


def lines() -> Skeleton:
    """Two dendrites along x, 1.6 um apart, each a stretch."""
    position = [[7, 8, 4], [7, 8, 14], [7, 8, 24], [7, 8, 34], [7, 9.6, 4], [7, 9.6, 14], [7, 9.6, 24], [7, 9.6, 34]]
    return Skeleton(np.arange(1, 9), [3] * 8, position, [0.3] * 8, [-1, 0, 1, 2, -1, 4, 5, 6])


def numbers() -> tuple[int, int]:
    stretch = lines().stretches(30.0)
    return int(stretch[2]), int(stretch[6])


def places(**verdicts: StretchVerdict) -> NDArray[np.bool_]:
    first, second = numbers()
    by_number = {first: verdicts["first"], second: verdicts.get("second", StretchVerdict(Verdict.ON))}
    runs = Misregistered.of(lines(), by_number, 30.0, R_MIN_UM).runs(LINE)
    assert set(runs[:, 4].tolist()) <= {int(Reason.MISREGISTERED)}
    return paint(union(runs, 1), LINE.window) > 0 if len(runs) else np.zeros(LINE.shape_zyx, bool)


def test_nothing_is_trusted_around_a_stretch_without_stain_but_other_tubes() -> None:
    found = places(first=StretchVerdict(Verdict.NOT_ON, 2.9, 1.4, 0.9))
    points = np.stack(
        np.meshgrid(*(np.arange(n) * s for n, s in zip(LINE.shape_zyx, LINE.voxel_size_zyx_um, strict=True)), indexing="ij"), -1
    )
    along = np.clip(points[..., 2], 4.0, 34.0)
    away = np.sqrt((points[..., 0] - 7) ** 2 + (points[..., 1] - 8) ** 2 + (points[..., 2] - along) ** 2)
    first, second = numbers()
    line = lines()
    other = tube([Skeleton(np.arange(1, 5), [3] * 4, line.position_zyx_um[4:], [0.3] * 4, [-1, 0, 1, 2])], LINE)
    assert first != second
    near = (away < 3.2) & (points[..., 2] > 4.8)  # a root belongs to no stretch and stays
    assert np.array_equal(found[near], ~other[near])
    assert not found[away > 3.4].any()


def test_between_a_trace_and_its_stain_nothing_is_trusted() -> None:
    found = places(first=StretchVerdict(Verdict.ALONGSIDE, -1.2, 0.0, 0.01))
    z, y, x = LINE.to_index([7.0, 8.0, 20.0])
    rows = np.flatnonzero(found[z, :, x])
    reach = max(y - rows.min(), rows.max() - y)
    assert reach * 0.4 == pytest.approx(1.2 + 0.6, abs=0.41)
    assert found[z, y, x]
    assert len(rows) * 0.4 == pytest.approx(1.2 + 2 * 0.6, abs=0.81)


@pytest.mark.parametrize(
    "verdict",
    [
        StretchVerdict(Verdict.ON, 0.4, 0.3, 0.01),
        StretchVerdict(Verdict.NO_DATA),
        StretchVerdict(Verdict.NOT_ON, 0.0, 0.28, 0.5),  # faint, and darkest where it was traced
        StretchVerdict(Verdict.NOT_ON, 0.46, 0.84, 0.02),
    ],
)
def test_what_is_in_place_or_cannot_be_judged_stays(verdict: StretchVerdict) -> None:
    assert not places(first=verdict).any()


def wrong_um(**verdicts: StretchVerdict) -> list[float]:
    """Of a straight neurite of 45 um in three stretches: where along it edges are wrong, um from its begin; verdicts: `s0` to `s2`."""
    line = cable(45.0)
    number = line.stretches(15.0)
    order = number[[8, 23, 38]].tolist()
    by_number = {k: verdicts.get(f"s{i}", StretchVerdict(Verdict.ON)) for i, k in enumerate(order)}
    return [float(line.position_zyx_um[k, 2] - 10.0) for nodes, _ in wrong_nodes(line, number, by_number) for k in nodes]


def test_a_doubtful_stretch_between_others_in_place_stays_and_none_beside_another_wrong_one() -> None:
    faint, elsewhere = StretchVerdict(Verdict.NOT_ON, 1.8, 0.6, 0.2), StretchVerdict(Verdict.ALONGSIDE, 1.4, -1.4, 0.02)
    off = StretchVerdict(Verdict.ALONGSIDE, 2.0, 0.3, 0.02)
    for doubtful in (faint, elsewhere):
        assert not wrong_um(s1=doubtful)
        assert len(wrong_um(s1=doubtful, s2=off)) == 30
    assert len(wrong_um(s1=off)) == 15


def test_of_a_stretch_that_is_partly_in_place_the_half_beside_the_wrong_one_is_wrong() -> None:
    off, partly = StretchVerdict(Verdict.ALONGSIDE, 2.0, 0.3, 0.02), StretchVerdict(Verdict.ALONGSIDE, 0.0, 0.28, 0.02)
    after, before = wrong_um(s0=off, s1=partly), wrong_um(s1=partly, s2=off)
    assert 22 <= max(after) <= 24
    assert 22 <= min(before) <= 24
    assert len(wrong_um(s1=partly)) == 15
    assert len(wrong_um(s0=off, s1=partly, s2=off)) == 45


# --------------------------------------------------------------------------------------------------------------------- other levels


def test_runs_on_other_levels_cover_what_they_covered() -> None:
    rng = np.random.default_rng(5)
    fine = Grid((8, 20, 32), (0.56, 0.4576, 0.4576))
    for coarse in fine.pyramid()[1:] or [fine]:
        z, y, x = (rng.integers(0, side, 12) for side in fine.shape_zyx)
        runs = union(np.column_stack([z, y, x, np.minimum(x + 3, 32), np.ones(12, np.int64)]).astype(np.int32), 1)
        factor = np.rint(np.divide(coarse.voxel_size_zyx_um, fine.voxel_size_zyx_um)).astype(int)
        mask = np.pad(paint(runs, fine.window), [(0, int(-n % f)) for n, f in zip(fine.shape_zyx, factor, strict=True)])
        shape = [part for n, f in zip(mask.shape, factor, strict=True) for part in (n // f, f)]
        down = paint(union(moved(runs, fine, coarse), 1), coarse.window)
        expected = mask.reshape(shape).max(axis=(1, 3, 5))[tuple(slice(n) for n in coarse.shape_zyx)]
        assert np.array_equal(down, expected)
        up = paint(union(moved(union(moved(runs, fine, coarse), 1), coarse, fine), 1), fine.window)
        wide = expected.repeat(factor[0], 0).repeat(factor[1], 1).repeat(factor[2], 2)[tuple(slice(n) for n in fine.shape_zyx)]
        assert np.array_equal(up, wide)


# ----------------------------------------------------------------------------------------------------------------------------- off


def test_rules_about_the_image_are_named_only_where_it_was_looked_at(tmp_path: Path) -> None:
    for evident in (False, True):
        path = tmp_path / f"{evident}.zarr"
        write_labels(path, lines(), LINE, LabelPlan(), LabelsConfig(evidence=evident))
        rules = open_volume(path).attributes["labels"]
        assert ("evidence" in rules, "soma" in rules, "tube" in rules) == (evident, evident, False)


# ------------------------------------------------------------------------------------------------------------------ extremes


def _thick(radius_um: float, *, kind: int = 3, n: int = 2, step_um: float = 20.0) -> Skeleton:
    position = np.array([(5.0, 20.0, 20.0 + step_um * (i % 2)) for i in range(n)])
    return Skeleton(np.arange(n), [kind] * n, position, [radius_um] * n, [-1] + [0] * (n - 1))


@pytest.mark.parametrize("radius_um", [100.0, 900.0])
def test_a_tube_or_soma_as_thick_as_the_stack_is_few_pieces_with_all_its_mass(radius_um: float) -> None:
    for skeleton, volume_um3 in (
        (_thick(radius_um), np.pi * radius_um**2 * 20),
        (_thick(radius_um, kind=1, n=1), 4 / 3 * np.pi * radius_um**3),
    ):
        stain = Stain.of(skeleton, LINE)
        for pieces in (stain.near, stain.far):
            assert len(pieces) < 10_000
            assert pieces[:, 3].sum() == pytest.approx(volume_um3)


def test_a_neurite_is_cut_as_finely_as_its_voxels_ask() -> None:
    pieces = Stain.of(_thick(0.25), LINE).near
    assert len(pieces) == np.ceil(20 / (0.6 * LINE.voxel_size_zyx_um[2]))


def _somata(n: int) -> Skeleton:
    return Skeleton(np.arange(n), [1] * n, np.full((n, 3), 20.0), [24.0] * n, [-1] * n)


@pytest.mark.parametrize("skeleton", [_thick(24.0, n=6000), _somata(1500), _thick(0.2, n=12, step_um=9e5)])
def test_more_pieces_than_memory_is_meant_for_are_refused_before_they_are_made(skeleton: Skeleton) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CapacityError, match="pieces, 16777216 are the most"):
            Stain.of(skeleton, LINE)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
