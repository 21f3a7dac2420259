"""What labels take from the image, on a rendered neuron whose stain is known."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from brightfield.config.options import LabelsConfig
from brightfield.core.codes import Label, Reason, Verdict
from brightfield.core.errors import CapacityError
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Shape, download_grid
from brightfield.raster.cones import cones_of, spans_of
from brightfield.raster.runs import overlay, paint, union
from brightfield.sources.demo.phantom import ArborPlan, Faults, Optics, Phantom, canvas, grow, untraced_axon
from brightfield.sources.demo.rendering import absorbance, render_crop
from brightfield.sources.demo.stain import soma_shape, within_lobes
from brightfield.stages.rasterize.chunks import Boxes
from brightfield.stages.rasterize.evidence import Evidence, Traced, evidence_of, moved
from brightfield.stages.rasterize.labels import write_labels
from brightfield.stages.rasterize.misregistered import Misregistered, StretchVerdict, without
from brightfield.stages.rasterize.optics import Stain
from brightfield.stages.rasterize.plan import LabelPlan
from brightfield.stages.rasterize.somata import Body
from brightfield.testing.skeletons import cable
from brightfield.volumes.pyramid import build_pyramid
from brightfield.volumes.volume import Volume, create_volume, open_volume

LEVEL, Z_STEP = 2, 2
EXTENT = (32.0, 80.0, 80.0)
R_MIN_UM = 0.23


@lru_cache
def phantom() -> Phantom:
    """A neuron of dendrites, 250 um of axon that nobody traced, specks, a slanting light."""
    traced = grow(ArborPlan(21, EXTENT, n_basal=4, reach_um=40.0, axon_um=30.0))
    axon = untraced_axon(traced, 22, EXTENT, 250.0)
    return Phantom(traced, *canvas(traced), 21, ((axon, 1.0),), optics=Optics.drawn(21), debris_per_mm3=60_000.0)


def grid_of(cell: Phantom) -> Grid:
    return download_grid(cell.grid, LEVEL, Z_STEP)


@lru_cache
def pixels(cell: Phantom) -> NDArray[np.uint8]:
    n_z, n_y, n_x = grid_of(cell).shape_zyx
    return np.stack([render_crop(cell, Z_STEP * z, 0, 0, n_y << LEVEL, n_x << LEVEL, LEVEL) for z in range(n_z)])


def stored(path: Path, voxels: NDArray[np.uint8], grid: Grid, boxes: Boxes, chunk: Shape = (16, 64, 64)) -> Volume:
    volume = create_volume(path, grid.pyramid(), voxels.dtype, chunk_zyx=chunk, shard_zyx=(2 * chunk[0], 2 * chunk[1], 2 * chunk[2]))
    for shard in np.ndindex(volume.spec(0).n_shards_zyx):
        volume.write_dense_shard(0, shard, voxels[tuple(slice(*side) for side in volume.spec(0).shard_window(shard))])
    build_pyramid(volume, boxes)
    return volume


def whole(grid: Grid) -> Boxes:
    return np.array([[side for axis in grid.window for side in axis]], np.int64)


def on_everywhere(skeleton: Skeleton) -> dict[int, StretchVerdict]:
    return {number: StretchVerdict(Verdict.ON) for number in range(int(skeleton.stretches(30.0).max()) + 1)}


def traced_of(skeleton: Skeleton, **options: object) -> Traced:
    return Traced(skeleton, on_everywhere(skeleton), 30.0, R_MIN_UM, **options)  # type: ignore[arg-type]


def looked_at(path: Path, boxes: Boxes | None = None, chunk: Shape = (16, 64, 64)) -> Evidence:
    cell, grid = phantom(), grid_of(phantom())
    boxes = whole(grid) if boxes is None else boxes
    return evidence_of(stored(path, pixels(cell), grid, boxes, chunk), boxes, traced_of(cell.skeleton))


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return looked_at(tmp_path_factory.mktemp("image") / "1.zarr")


def stain_of(cell: Phantom) -> NDArray[np.float64]:
    """The absorbance of every voxel without texture and noise."""
    grid = grid_of(cell)
    return np.stack([absorbance(cell, Z_STEP * z, 0, 0, grid.shape_zyx[1:], LEVEL) for z in range(grid.shape_zyx[0])])


def tube(skeletons: list[Skeleton], grid: Grid, more_um: float = 0.0) -> NDArray[np.bool_]:
    spans = [spans_of(cones_of(s, R_MIN_UM, "capsule").grown(more_um), grid, merge=True, threads=1) for s in skeletons]
    return paint(union(np.concatenate(spans), 1), grid.window) > 0


# ---------------------------------------------------------------------------------------------------------------------- untraced stain


def test_untraced_stain_is_found_and_blur_debris_and_empty_tissue_are_not(evidence: Evidence) -> None:
    cell, grid = phantom(), grid_of(phantom())
    (axon, _), sd = cell.others[0], 0.0115
    clean, alone = replace(cell, debris_per_mm3=0.0), replace(cell, debris_per_mm3=0.0, others=())
    full, both, own = stain_of(cell), stain_of(clean), stain_of(alone)
    found = paint(union(evidence.unexplained, 1), grid.window) > 0
    beside = tube([cell.skeleton], grid, 0.9)
    untraced = tube([axon], grid) & ~beside & (both - own > 4 * sd)
    empty = ~tube([cell.skeleton, axon], grid, 3.0)
    blur = (own > 3 * sd) & ~beside & ~tube([axon], grid, 1.5)
    specks = (full - both > 0.1) & ~tube([cell.skeleton, axon], grid, 1.0)
    assert untraced.sum() > 100
    assert specks.sum() > 50
    shares = {name: float(found[mask].mean()) for name, mask in (("stain", untraced), ("empty", empty), ("blur", blur), ("specks", specks))}
    assert shares["stain"] > 0.8, shares
    assert shares["empty"] < 0.006, shares
    assert shares["blur"] < 0.05, shares  # a quarter of it is the soma's in so small a stack
    assert shares["specks"] < 0.3, shares


def test_no_stain_is_unexplained_on_a_trace(evidence: Evidence) -> None:
    found = paint(union(evidence.unexplained, 1), evidence.grid.window) > 0
    labels = tube([phantom().skeleton], evidence.grid)
    assert found[labels].mean() < 0.02


def test_chunks_and_the_order_of_boxes_change_nothing(evidence: Evidence, tmp_path: Path) -> None:
    n_z, n_y, n_x = grid_of(phantom()).shape_zyx
    parts = [[z, min(z + 7, n_z), y, min(y + 50, n_y), 0, n_x] for y in range(0, n_y, 50) for z in range(0, n_z, 7)]
    other = looked_at(tmp_path / "1.zarr", np.array(parts[::-1], np.int64), (8, 32, 128))
    assert np.array_equal(other.unexplained, evidence.unexplained)
    assert other.bad_planes == evidence.bad_planes
    assert other.body is not None
    assert evidence.body is not None
    assert np.array_equal(other.body.ratio, evidence.body.ratio)


def test_workers_beside_each_other_change_nothing(evidence: Evidence, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        for other in pool.map(looked_at, [tmp_path / "1.zarr", tmp_path / "2.zarr"]):
            assert np.array_equal(other.unexplained, evidence.unexplained)


def test_what_was_not_downloaded_is_no_stain(tmp_path: Path) -> None:
    cell, grid = phantom(), grid_of(phantom())
    n_z, n_y, n_x = grid.shape_zyx
    boxes = np.array([[0, 12, 0, n_y, 0, n_x // 2], [15, n_z, 0, n_y, 0, n_x // 2]], np.int64)
    voxels = pixels(cell).copy()
    voxels[12:15] = 0
    voxels[:, :, n_x // 2 :] = 0
    found = evidence_of(stored(tmp_path / "1.zarr", voxels, grid, boxes), boxes, traced_of(cell.skeleton))
    mask = paint(union(found.unexplained, 1), grid.window) > 0
    assert mask.any()
    assert not mask[13].any()
    assert not mask[:, :, n_x // 2 + 3 :].any()
    border = mask[:, :, n_x // 2 - 3 : n_x // 2].mean()
    assert border < 0.05


def test_voxels_too_wide_for_thin_stain_are_a_finding(tmp_path: Path) -> None:
    grid = Grid((8, 40, 40), (2.0, 1.8, 1.8))
    voxels = np.random.default_rng(1).integers(180, 200, grid.shape_zyx).astype(np.uint8)
    found = evidence_of(stored(tmp_path / "1.zarr", voxels, grid, whole(grid)), whole(grid), traced_of(cable(20.0)))
    assert [finding.check for finding in found.findings] == ["too-coarse-for-stain"]
    assert not len(found.unexplained)


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


def test_runs_without_others_are_the_difference_of_masks() -> None:
    rng = np.random.default_rng(4)
    grid = Grid((4, 6, 40), (1.0, 1.0, 1.0))

    def random_runs(n: int) -> NDArray[np.int32]:
        z, y, x = (rng.integers(0, side, n) for side in grid.shape_zyx)
        return union(np.column_stack([z, y, x, np.minimum(x + rng.integers(1, 9, n), 40), np.ones(n, np.int64)]).astype(np.int32), 1)

    for _ in range(20):
        one, other = random_runs(15), random_runs(12)
        expected = (paint(one, grid.window) > 0) & (paint(other, grid.window) == 0)
        assert np.array_equal(paint(without(one, other, 16), grid.window), np.where(expected, 16, 0))


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
        assert ("evidence" in rules, "soma" in rules) == (evident, evident)


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
