"""The tube fitted to its stain: on the stain where there is some, as traced where there is none, in one piece always."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from brightfield.config.options import LabelKind, LabelsConfig, TubeShape
from brightfield.core.codes import Label, Reason, Verdict
from brightfield.core.errors import CheckError
from brightfield.core.layout import REASON_GROUP
from brightfield.core.schema import LABEL_STATS
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, download_grid
from brightfield.core.tables import frame_of
from brightfield.raster.cones import cones_of, spans_of
from brightfield.raster.lines import lines_of
from brightfield.raster.runs import Runs, paint, union
from brightfield.raster.topology import component_count, loop_count
from brightfield.raster.voxels import label_runs, rasterize
from brightfield.sources.demo.phantom import ArborPlan, Optics, Phantom, canvas, grow
from brightfield.sources.demo.rendering import render_crop
from brightfield.stages.rasterize import tube as tubes
from brightfield.stages.rasterize.evidence import Evidence, Traced, evidence_of
from brightfield.stages.rasterize.joints import Joints
from brightfield.stages.rasterize.labels import write_labels
from brightfield.stages.rasterize.misregistered import StretchVerdict
from brightfield.stages.rasterize.plan import LabelPlan
from brightfield.stages.rasterize.predicted import Shown
from brightfield.stages.rasterize.ridge import RidgeFit, moves_to_ridge
from brightfield.stages.rasterize.tube import FittedTube
from brightfield.testing.skeletons import neurons
from brightfield.volumes.volume import Volume, create_volume, open_volume

LEVEL, R_MIN_UM, STRETCH_UM = 2, 0.23, 15.0
GRID = Grid((30, 60, 80), (0.5, 0.4, 0.4))


def joints_of(skeleton: Skeleton, step_um: float = 1.0) -> Joints:
    return Joints.of(skeleton, cones_of(skeleton, R_MIN_UM, "capsule"), step_um)


def traced_spans(skeleton: Skeleton, grid: Grid, connect: int = 26) -> Runs:
    cones = cones_of(skeleton, R_MIN_UM, "capsule")
    return np.concatenate([spans_of(cones, grid, threads=1), lines_of(cones, grid, connect)])


def neuron() -> Skeleton:
    """A soma with a dendrite in the middle of GRID, a thin oblique axon, and a lone axon fragment."""
    position = [[7, 8, 8], [7, 8, 14], [7, 12, 20], [9, 16, 26], [5, 5, 5], [3, 4, 3], [12, 20, 8], [12, 21, 14]]
    kind, radius = [1, 3, 3, 3, 2, 2, 2, 2], [2.5, 0.6, 0.5, 0.4, 0.1, 0.1, 0.1, 0.1]
    return Skeleton(np.arange(1, 9), kind, position, radius, [-1, 0, 1, 2, 0, 4, -1, 6])


def wavy(joints: Joints, seed: int, xy_um: float = 0.5, z_um: float = 1.2) -> NDArray[np.float64]:
    """Offsets that differ from joint to joint; the soma stays."""
    offset = np.random.default_rng(seed).uniform(-1, 1, (len(joints), 3)) * np.array([z_um, xy_um, xy_um])
    offset[joints.cones.label[joints.node] == Label.SOMA] = 0.0
    return offset


# ------------------------------------------------------------------------------------------------------------------------- joints


@given(skeleton=neurons(), step=st.sampled_from([0.7, 2.0, 50.0]))
@settings(max_examples=30)
def test_joints_lie_along_the_edges_no_farther_apart_than_the_step(skeleton: Skeleton, step: float) -> None:
    joints = joints_of(skeleton, step)
    n = len(skeleton)
    assert np.array_equal(joints.position_zyx_um[:n], skeleton.position_zyx_um)
    assert np.all(joints.length_um <= step * (1 + 1e-9))
    total = np.bincount(joints.node, joints.length_um, n)
    assert total == pytest.approx(skeleton.edge_length_um, abs=1e-6)
    hangs = np.flatnonzero(joints.up >= 0)
    apart = np.linalg.norm(joints.position_zyx_um[hangs] - joints.position_zyx_um[joints.up[hangs]], axis=1)
    assert apart == pytest.approx(joints.length_um[hangs], abs=1e-6)
    rank = np.empty(len(joints), np.int64)
    rank[joints.parents_first()] = np.arange(len(joints))
    assert np.all(rank[joints.up[hangs]] < rank[hangs])


def test_pieces_that_do_not_move_draw_the_tube_that_was_traced() -> None:
    joints = joints_of(neuron())
    everything, still = np.ones(len(joints), bool), np.zeros((len(joints), 3))
    pieces = joints.moved(still, np.ones(len(joints)), everything)
    drawn, expected = (paint(union(spans_of(cones, GRID, threads=1), 1), GRID.window) for cones in (pieces, joints.cones))
    assert np.count_nonzero(drawn != expected) <= 2  # a cut end rounds another way
    for label in (1, 2, 3):
        assert set(pieces.radius_um[pieces.label == label].ravel()) <= {2.5, 0.1} or label == 3


# -------------------------------------------------------------------------------------------------------------------------- ridge


def pictures(skeleton: Skeleton, grid: Grid, noise: float = 1.0) -> list[Shown]:
    """Planes that show the tube of a skeleton, wider the farther from focus, on noise."""
    rng = np.random.default_rng(0)
    inside = rasterize(skeleton, grid, "inside", r_min_um=0.3).astype(float)
    planes = []
    for z in range(len(inside)):
        depth = np.abs(np.arange(len(inside)) - z) * grid.voxel_size_zyx_um[0]
        stain = sum(weight * inside[k] for k, weight in enumerate(np.exp(-2 * depth)) if weight > 0.02)
        grey = 180 * np.exp(-0.5 * stain) + noise * rng.standard_normal(inside.shape[1:])
        planes.append(Shown.of(np.rint(grey).astype(np.uint8), np.ones(inside.shape[1:], bool), grid.voxel_size_zyx_um[2]))
    return planes


def fitted_moves(trace: Skeleton, planes: list[Shown], grid: Grid, movable: NDArray[np.bool_] | None = None, usable: range | None = None):
    joints = joints_of(trace)
    movable = np.ones(len(joints), bool) if movable is None else movable
    return joints, moves_to_ridge(joints, movable, grid, planes.__getitem__, usable or range(len(planes)), RidgeFit())


def off_by(moves: NDArray[np.float64], shift: tuple[float, float, float]) -> NDArray[np.float64]:
    return np.abs(np.median(moves, axis=0) - shift)


def line() -> Skeleton:
    """40 um of axon along x."""
    n = 21
    position = np.column_stack([np.full(n, 6.0), np.full(n, 10.0), 4.0 + 2.0 * np.arange(n)])
    return Skeleton(np.arange(n), [2] * n, position, [0.3] * n, np.arange(n) - 1)


LINE_GRID = Grid((24, 60, 140), (0.5, 0.35, 0.35))


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (1.0, 0.3, 0.0), (-0.8, -0.4, 0.0), (0.5, 0.45, 0.0)])
def test_a_line_beside_its_stain_moves_onto_it(shift: tuple[float, float, float]) -> None:
    stain = line()
    trace = stain.moved_to(stain.position_zyx_um - np.array(shift))
    _, moves = fitted_moves(trace, pictures(stain, LINE_GRID), LINE_GRID)
    assert np.all(off_by(moves, shift)[:2] < (0.2, 0.1))
    assert np.all(np.abs(moves[:, :2] - shift[:2]).max(axis=0) < (0.5, 0.3))


def test_planes_that_are_missing_are_done_without() -> None:
    stain = line()
    trace = stain.moved_to(stain.position_zyx_um - np.array((0.6, 0.3, 0.0)))
    usable = [z for z in range(24) if z not in (9, 15, 16)]
    _, moves = fitted_moves(trace, pictures(stain, LINE_GRID), LINE_GRID, usable=usable)
    assert np.all(off_by(moves, (0.6, 0.3, 0.0))[:2] < (0.25, 0.1))


def test_without_stain_or_without_pixels_nothing_moves() -> None:
    trace = line()
    grey = np.full(LINE_GRID.shape_zyx[1:], 180, np.uint8)
    blank, unknown = (Shown.of(grey, np.full(grey.shape, known), 0.35) for known in (True, False))
    for planes in ([blank] * 24, [unknown] * 24):
        assert not fitted_moves(trace, planes, LINE_GRID)[1].any()


def test_what_may_not_move_stays_and_holds_what_hangs_on_it() -> None:
    stain = line()
    trace = stain.moved_to(stain.position_zyx_um - np.array((0.0, 0.4, 0.0)))
    joints = joints_of(trace)
    along = joints.position_zyx_um[:, 2] - trace.position_zyx_um[0, 2]
    _, moves = fitted_moves(trace, pictures(stain, LINE_GRID), LINE_GRID, movable=along > 20)
    assert not moves[along <= 20].any()
    assert np.abs(np.median(moves[along > 25, 1]) - 0.4) < 0.15
    assert np.all(np.abs(np.diff(moves[np.argsort(along), 1])) < 0.3)


# ------------------------------------------------------------------------------------------------------------------------ drawing


@pytest.mark.parametrize("connect", [26, 6])
def test_a_tube_that_does_not_move_is_the_traced_one(connect: int) -> None:
    joints = joints_of(neuron())
    tube = FittedTube(joints, np.zeros((len(joints), 3)), np.ones(len(joints)))
    drawn = tube.drawn(traced_spans(neuron(), GRID, connect), GRID, connect)
    assert np.array_equal(drawn.classes, label_runs(neuron(), GRID, connect=connect))
    assert len(drawn.removed) == 0
    assert drawn.change.to_row() == {"tube_overlap": 1.0, "tube_added": 0, "tube_removed": 0}


@pytest.mark.parametrize("connect", [26, 6])
@given(skeleton=neurons(), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_components_and_loops_are_those_of_the_trace_wherever_joints_move(connect: int, skeleton: Skeleton, seed: int) -> None:
    joints = joints_of(skeleton)
    tube = FittedTube(joints, wavy(joints, seed), np.ones(len(joints)))
    low, high = skeleton.bounding_box_um
    size = np.array((0.5, 0.35, 0.35)) * (1 + seed % 3)
    shape = np.ceil((np.array(high) - low + 4) / size).astype(int)
    grid = Grid(tuple(np.minimum(shape, 200).tolist()), tuple(size.tolist()), tuple((np.array(low) - 1 - seed % 2).tolist()))
    spans = traced_spans(skeleton, grid, connect)
    if len(spans):
        traced, now = union(spans, 1), union(tube.drawn(spans, grid, connect).classes, 1)
        assert component_count(now, connect) == component_count(traced, connect)
        if connect == 26:
            assert loop_count(now) == loop_count(traced)


def test_the_moved_tube_lies_where_its_joints_are_with_the_class_of_the_nearest_axis() -> None:
    joints = joints_of(neuron())
    offset = np.tile((0.6, 0.4, 0.0), (len(joints), 1))
    offset[0] = 0.0
    tube = FittedTube(joints, offset, np.ones(len(joints)))
    drawn = tube.drawn(traced_spans(neuron(), GRID), GRID, 26)
    moved = rasterize(tube.skeleton(neuron()), GRID)
    found = paint(drawn.classes, GRID.window)
    known = (found > 0) & (moved > 0)
    assert known.sum() > 0.9 * max((found > 0).sum(), (moved > 0).sum())
    assert np.mean(found[known] == moved[known]) > 0.99
    assert set(np.unique(found)) == {0, 1, 2, 3}
    change = drawn.change
    traced = rasterize(neuron(), GRID)
    assert (change.added, change.removed) == (((found > 0) & (traced == 0)).sum(), ((found == 0) & (traced > 0)).sum())
    one, other = (traced > 0) & (found != 1), (found > 0) & (found != 1)
    assert change.overlap == pytest.approx(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_a_tube_that_fell_to_pieces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    joints = joints_of(neuron())
    tube = FittedTube(joints, wavy(joints, 1), np.ones(len(joints)))
    monkeypatch.setattr(tubes, "warped", lambda source, target, room, connect: source[::7].copy())
    with pytest.raises(CheckError, match=r"fitted tube has \d+ components, the traced one 2; .*labels.tube=traced"):
        tube.drawn(traced_spans(neuron(), GRID), GRID, 26)


# ------------------------------------------------------------------------------------------------------------ on a rendered neuron


@lru_cache
def phantom() -> Phantom:
    traced = grow(ArborPlan(31, (20.0, 50.0, 50.0), n_basal=3, reach_um=26.0, axon_um=50.0))
    return Phantom(traced, *canvas(traced), 31, optics=Optics.drawn(31))


def jittered(skeleton: Skeleton, seed: int, xy_um: float = 0.3, z_um: float = 1.0, over_um: float = 15.0) -> Skeleton:
    """A trace beside its neurites: the error of a node is mostly that of the one before, as a tracer errs. The soma is in place."""
    noise, error = np.random.default_rng(seed).standard_normal((len(skeleton), 3)), np.zeros((len(skeleton), 3))
    for i in np.argsort(skeleton.depth, kind="stable").tolist():
        alike = np.exp(-skeleton.edge_length_um[i] / over_um)
        error[i] = alike * error[skeleton.parent[i]] + np.sqrt(1 - alike**2) * noise[i] if skeleton.parent[i] >= 0 else 0.0
    return skeleton.moved_to(np.round(skeleton.position_zyx_um + error * np.array([z_um, xy_um, xy_um]), 4))


def stored(path: Path, chunk_zyx: tuple[int, int, int]) -> Volume:
    cell = phantom()
    grid = download_grid(cell.grid, LEVEL, 1)
    image = create_volume(path, [grid], np.uint8, chunk_zyx=chunk_zyx, shard_zyx=chunk_zyx)
    for shard in np.ndindex(image.spec(0).n_shards_zyx):
        (z0, z1), y, x = image.spec(0).shard_window(shard)
        image.write_dense_shard(0, shard, rendered()[z0:z1, slice(*y), slice(*x)])
    return image


@lru_cache
def rendered() -> NDArray[np.uint8]:
    n_z, n_y, n_x = download_grid(phantom().grid, LEVEL, 1).shape_zyx
    return np.stack([render_crop(phantom(), z, 0, 0, n_y << LEVEL, n_x << LEVEL, LEVEL) for z in range(n_z)])


def looked_at(path: Path, trace: Skeleton, verdict: Verdict = Verdict.ON, chunk_zyx: tuple[int, int, int] = (16, 64, 64)) -> Evidence:
    image = stored(path, chunk_zyx)
    verdicts = {k: StretchVerdict(verdict, 1.5, 0.0, 1.0) for k in range(int(trace.stretches(STRETCH_UM).max()) + 1)}
    cones = cones_of(trace, R_MIN_UM, "capsule")
    boxes = np.array([[side for axis in image.grid.window for side in axis]], np.int64)
    return evidence_of(image, boxes, Traced(trace, verdicts, STRETCH_UM, R_MIN_UM, to_fit=cones))


@pytest.fixture(scope="module")
def trace() -> Skeleton:
    return jittered(phantom().skeleton, 3)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory, trace: Skeleton) -> Evidence:
    return looked_at(tmp_path_factory.mktemp("image") / "1.zarr", trace)


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


RULES = LabelsConfig(evidence=True, tube=TubeShape.fitted)


def drawn(path: Path, evidence: Evidence, grid: Grid, rules: LabelsConfig = RULES, **options):
    skeleton = evidence.traced.skeleton
    stats = write_labels(path, skeleton, grid, LabelPlan(), rules, image_reasons=evidence.reasons, tube=evidence.tube, **options)
    labels = open_volume(path)
    return stats, labels, labels.sub(REASON_GROUP)


def test_a_fitted_tube_lies_on_the_stain_in_as_many_pieces_as_there_are_trees(tmp_path: Path, evidence: Evidence, trace: Skeleton) -> None:
    for level in (1, 2):
        grid = download_grid(phantom().grid, level, 1)
        truth, traced = (rasterize(skeleton, grid) for skeleton in (phantom().skeleton, trace))
        stats, labels, reasons = drawn(tmp_path / f"{level}.zarr", evidence, grid)
        codes, why = labels.read(), reasons.read()
        fitted = paint(evidence.tube.drawn(traced_spans(trace, grid), grid, 26).classes, grid.window)
        neurite = truth != Label.SOMA
        assert dice((fitted > 0) & neurite, (truth > 0) & neurite) > 0.3 + dice((traced > 0) & neurite, (truth > 0) & neurite)
        assert stats.topology.n_components == trace.n_trees == 1
        assert np.array_equal(np.where(why == 0, codes, 0), np.where(why == 0, fitted, 0))
        neurites = fitted > Label.SOMA
        assert np.mean(codes[neurites] == fitted[neurites]) > 0.98
        removed = (traced > 0) & (fitted == 0)
        assert np.all(why[removed] & Reason.RIM)
        assert removed.sum() == stats.tube.removed > 100
        row = stats.to_row(1)
        assert frame_of(LABEL_STATS, [row])["tube_removed"].tolist() == [removed.sum()]
        assert 0 < row["tube_overlap"] < 0.6
        assert labels.attributes["labels"]["tube"] == "fitted"


def test_where_the_trace_is_exact_most_of_it_stays(tmp_path: Path) -> None:
    found = looked_at(tmp_path / "1.zarr", phantom().skeleton)
    assert np.any(found.tube.offset_um != 0, axis=1).mean() < 0.4
    assert found.tube.drawn(traced_spans(phantom().skeleton, found.grid), found.grid, 26).change.overlap > 0.9


def test_stain_beside_the_trace_is_explained_once_the_tube_is_on_it(tmp_path: Path, evidence: Evidence, trace: Skeleton) -> None:
    as_traced = evidence_of(
        stored(tmp_path / "1.zarr", (16, 64, 64)),
        np.array([[0, evidence.grid.shape_zyx[0], 0, evidence.grid.shape_zyx[1], 0, evidence.grid.shape_zyx[2]]], np.int64),
        Traced(trace, evidence.traced.verdicts, STRETCH_UM, R_MIN_UM),
    )
    assert as_traced.tube is None
    own = rasterize(phantom().skeleton, evidence.grid, "inside") > 0
    own &= rasterize(trace, evidence.grid) != Label.SOMA
    share = [np.mean(paint(union(found.unexplained, 1), evidence.grid.window)[own] > 0) for found in (evidence, as_traced)]
    assert share[0] < 0.5 * share[1]


def test_a_stretch_without_stain_stays_as_traced(tmp_path: Path, trace: Skeleton) -> None:
    assert not looked_at(tmp_path / "1.zarr", trace, Verdict.NOT_ON).tube.offset_um.any()


def test_neither_chunks_nor_threads_change_a_fitted_label(tmp_path: Path, evidence: Evidence, trace: Skeleton) -> None:
    other = looked_at(tmp_path / "1.zarr", trace, chunk_zyx=(7, 50, 90))
    assert np.array_equal(other.tube.offset_um, evidence.tube.offset_um)
    grid = evidence.grid
    stores = [
        drawn(tmp_path / f"{number}.zarr", found, grid, **options)
        for number, found, options in ((2, evidence, {}), (3, other, {"threads": 3, "chunk_zyx": (5, 40, 70), "shard_zyx": (10, 80, 140)}))
    ]
    (one, _, why), (two, _, also) = ((stats, labels, reasons) for stats, labels, reasons in stores)
    assert one.to_row(1) == two.to_row(1)
    for level in range(len(grid.pyramid())):
        assert np.array_equal(stores[0][1].read(level=level), stores[1][1].read(level=level))
        assert np.array_equal(why.read(level=level), also.read(level=level))


def test_inside_labels_are_the_fitted_tube_too(tmp_path: Path, evidence: Evidence) -> None:
    rules = LabelsConfig(kind=LabelKind.inside, evidence=True, tube=TubeShape.fitted)
    _, inside, why = drawn(tmp_path / "1.zarr", evidence, evidence.grid, rules)
    _, semantic, also = drawn(tmp_path / "2.zarr", evidence, evidence.grid)
    known = (why.read() == 0) & (also.read() == 0)
    assert np.array_equal(inside.read()[known], semantic.read()[known] > 0)
    assert known.mean() > 0.5
