from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import oracle
from brightfield.config.options import LabelsConfig
from brightfield.core.codes import Label, Reason
from brightfield.core.errors import CapacityError, GridError
from brightfield.core.layout import REASON_GROUP
from brightfield.core.markers import Marker
from brightfield.core.schema import LABEL_STATS
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, stack_grid
from brightfield.core.swc import read_swc
from brightfield.core.tips import cut_tips
from brightfield.raster.runs import overlay
from brightfield.raster.topology import component_count
from brightfield.raster.voxels import label_runs, rasterize
from brightfield.stages.rasterize.chunks import coarser, merged
from brightfield.stages.rasterize.fit import check_fit
from brightfield.stages.rasterize.labels import downloaded_boxes, ignored_share, read_distance, write_labels
from brightfield.stages.rasterize.plan import LabelPlan, class_validity
from brightfield.testing.skeletons import cable, neurons
from brightfield.volumes.volume import open_volume

CHUNK, SHARD = (4, 16, 16), (8, 32, 32)
GRID = Grid((30, 60, 80), (0.5, 0.4, 0.4))


def write(path, skeleton, grid=GRID, plan=None, **rules):
    stats = write_labels(path, skeleton, grid, plan or LabelPlan(), LabelsConfig(**rules), chunk_zyx=CHUNK, shard_zyx=SHARD)
    labels = open_volume(path)
    return stats, labels, labels.sub(REASON_GROUP)


def neuron() -> Skeleton:
    """A soma with a dendrite in the middle of GRID, a thin oblique axon, and a lone axon fragment."""
    position = [[7, 8, 8], [7, 8, 14], [7, 12, 20], [9, 16, 26], [5, 5, 5], [3, 4, 3], [12, 20, 8], [12, 21, 14]]
    kind, radius = [1, 3, 3, 3, 2, 2, 2, 2], [2.5, 0.6, 0.5, 0.4, 0.1, 0.1, 0.1, 0.1]
    return Skeleton(np.arange(1, 9), kind, position, radius, [-1, 0, 1, 2, 0, 4, -1, 6])


# ------------------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize("kind", ["inside", "semantic", "centerline"])
@pytest.mark.parametrize("connect", [6, 26, None])
def test_a_store_holds_what_rasterize_draws_wherever_it_is_known(tmp_path, kind, connect):
    _, labels, reasons = write(tmp_path / "1.zarr", neuron(), kind=kind, connect=connect)
    for level, grid in enumerate(labels.grids):
        found, why = labels.read(level=level), reasons.read(level=level)
        assert np.array_equal(found == Label.UNKNOWN, why > 0)
        expected = rasterize(neuron(), grid, kind, connect=connect)
        assert np.array_equal(np.where(why > 0, 0, found), expected)


def test_every_level_of_the_pyramid_has_one_component_per_tree(tmp_path):
    grid = Grid((60, 300, 320), (0.25, 0.1, 0.1))
    stats, labels, _ = write(tmp_path / "1.zarr", neuron(), grid)
    assert len(labels.grids) == 2
    assert stats.topology.n_components_by_tree == (1, 1)
    for level in range(2):
        found = labels.read(level=level)
        assert oracle.n_components((found > 0) & (found != Label.UNKNOWN), 26) == 2


def test_distance_codes_are_the_signed_distance(tmp_path):
    _, labels, reasons = write(tmp_path / "1.zarr", neuron(), kind="distance", distance_band_um=2.0)
    expected = rasterize(neuron(), GRID, "distance", band_um=2.0)
    found, known = read_distance(labels.read(), 2.0), reasons.read() == 0
    np.testing.assert_allclose(found[known], expected[known], atol=2.0 / 254 + 1e-6)
    assert np.isnan(found[~known]).all()


# ------------------------------------------------------------------------------------------------------------------ the unknown


@given(neurons(max_nodes=4), st.floats(0.05, 0.6), st.floats(0, 1), st.floats(0.0, 1.5))
@settings(max_examples=15)
def test_the_rim_is_the_swept_larger_cone(tmp_path_factory, skeleton, rim_um, share, axial):
    grid = Grid((12, 24, 24), (0.5, 0.4, 0.4), (-1.0, -1.0, -1.0))
    assume(2 * np.count_nonzero(grid.contains(skeleton.position_zyx_um)) >= len(skeleton))  # else `check_fit` refuses it
    path = tmp_path_factory.mktemp("labels") / "1.zarr"
    _, _, reasons = write(path, skeleton, grid, rim_um=rim_um, rim_share=share, rim_axial_um=axial, face_planes=0)
    points = oracle.voxel_centres(grid, grid.window)
    inner, outer = np.zeros(grid.shape_zyx, bool), np.zeros(grid.shape_zyx, bool)
    for cone in oracle.round_cones(skeleton, 0.23, "capsule"):
        grow = [max(rim_um, share * r) for r in cone["raw"]]
        for mask, by in ((inner, -1e-6), (outer, 1e-6 + axial / 100)):
            mask |= oracle.shell(cone | {"ra": cone["ra"] + grow[0] + by, "rb": cone["rb"] + grow[1] + by}, points, axial)
    tube, rim = rasterize(skeleton, grid, connect=26) > 0, reasons.read() == Reason.RIM
    assert not (inner & ~tube & ~rim).any()
    assert not (rim & ~outer).any()
    assert not (rim & tube).any()


def test_markers_make_balls_around_the_tube(tmp_path):
    markers = (Marker(10, (9, 16, 26)), Marker(20, (3, 4, 3)), Marker(30, (100, 8, 8)))
    plan = LabelPlan(markers=markers)
    _, labels, reasons = write(tmp_path / "1.zarr", neuron(), plan=plan, cut_ball_um=3.0, untraced_ball_um=4.0, face_planes=0)
    points = oracle.voxel_centres(GRID, GRID.window)
    ball = (((points - [9, 16, 26]) ** 2).sum(-1) <= 9) | (((points - [3, 4, 3]) ** 2).sum(-1) <= 16)
    tube = rasterize(neuron(), GRID) > 0
    assert np.array_equal((reasons.read() & Reason.MARKER) > 0, ball & ~tube)
    assert np.array_equal(labels.read()[tube], rasterize(neuron(), GRID)[tube])


def test_tips_at_the_faces_of_the_slice_are_cut(tmp_path):
    skeleton = neuron()
    tips = set(skeleton.tips.tolist())
    assert tips == {3, 5, 7}
    stack = stack_grid(30, 60, 80, 0.4, 0.5)
    assert cut_tips(skeleton, (), stack, 6).tolist() == [5, 7]
    assert cut_tips(skeleton, (Marker(30, (9.5, 8, 8)),), stack, 6).tolist() == [3, 5, 7]
    _, _, reasons = write(tmp_path / "1.zarr", skeleton, face_planes=6, cut_ball_um=1.5)
    points, tube = oracle.voxel_centres(GRID, GRID.window), rasterize(skeleton, GRID) > 0
    ball = (((points - [3, 4, 3]) ** 2).sum(-1) <= 2.25) | (((points - [12, 21, 14]) ** 2).sum(-1) <= 2.25)
    assert np.array_equal((reasons.read() & Reason.BAD_PLANE) > 0, ball & ~tube)


def test_a_bad_plane_is_unknown_even_on_the_tube(tmp_path):
    stats, labels, reasons = write(tmp_path / "1.zarr", neuron(), plan=LabelPlan(bad_planes=(14, 29)), face_planes=0)
    found, why = labels.read(), reasons.read()
    assert (found[[14, 29]] == Label.UNKNOWN).all()
    assert ((why & Reason.BAD_PLANE) > 0).nonzero()[0].tolist() == [14] * 4800 + [29] * 4800
    assert stats.tally.by_reason[3] == 9600


@pytest.mark.parametrize("kind", ["semantic", "distance"])
def test_what_was_not_downloaded_is_unknown_and_costs_nothing(tmp_path, kind):
    boxes = np.array([[4, 12, 0, 32, 16, 64], [12, 20, 13, 29, 16, 31]])
    stats, labels, reasons = write(tmp_path / "1.zarr", neuron(), plan=LabelPlan(downloaded=boxes), kind=kind, face_planes=0)
    _, everywhere, everywhere_why = write(tmp_path / "2.zarr", neuron(), kind=kind, face_planes=0)
    seen = np.zeros(GRID.shape_zyx, bool)
    for z0, z1, y0, y1, x0, x1 in boxes:
        seen[z0:z1, y0:y1, x0:x1] = True
    found, why = labels.read(), reasons.read()
    assert (found[~seen] == Label.UNKNOWN).all()
    assert (why[~seen] == Reason.NOT_DOWNLOADED).all()
    assert np.array_equal(found[seen], everywhere.read()[seen])
    assert np.array_equal(why[seen], everywhere_why.read()[seen])
    touched = np.unique(np.argwhere(seen) // CHUNK, axis=0)
    assert np.array_equal(labels.stored_chunks(0), touched)
    assert labels.spec(0).fill_value == 255
    assert reasons.spec(0).fill_value == Reason.NOT_DOWNLOADED
    assert everywhere.spec(0).fill_value == (254 if kind == "distance" else 0)
    assert stats.tally.by_label.sum() == seen.sum()


def test_tiles_that_cover_the_grid_are_a_whole_download(tmp_path):
    tiles = np.array([[z, z + 1, y, min(y + 32, 60), x, min(x + 32, 80)] for z in range(30) for y in (0, 32) for x in (0, 32, 64)])
    _, labels, reasons = write(tmp_path / "1.zarr", neuron(), plan=LabelPlan(downloaded=merged(tiles)))
    assert labels.spec(0).fill_value == Label.BACKGROUND
    assert reasons.spec(0).fill_value == 0


@given(st.data())
@settings(max_examples=20)
def test_statistics_are_those_of_the_voxels(tmp_path_factory, data):
    z, y, x = (st.tuples(st.integers(0, n - 1), st.integers(1, n)).map(lambda p: (min(p), max(*p, min(p) + 1))) for n in GRID.shape_zyx)
    box = [v for pair in (data.draw(z), data.draw(y), data.draw(x)) for v in pair]
    downloaded = data.draw(st.sampled_from([None, np.array([box])]))
    bad = data.draw(st.sets(st.integers(0, 29), max_size=2))
    plan = LabelPlan(downloaded=downloaded, bad_planes=tuple(bad), markers=(Marker(20, (3, 4, 3)),))
    stats, labels, reasons = write(tmp_path_factory.mktemp("labels") / "1.zarr", neuron(), plan=plan, untraced_ball_um=4.0)
    why = reasons.read()
    seen = (why & Reason.NOT_DOWNLOADED) == 0
    assert np.array_equal(stats.tally.by_label, np.bincount(labels.read()[seen], minlength=256))
    for bit in range(6):
        assert stats.tally.by_reason[bit] == np.count_nonzero(why[seen] >> bit & 1)
    row = stats.to_row(7)
    assert set(row) == set(LABEL_STATS.column_names)
    assert row["unknown_not_downloaded"] == np.count_nonzero(~seen)


def test_the_ignored_share_counts_the_unknown_near_the_arbor():
    skeleton, grid = neuron(), Grid((30, 30, 40), (0.5, 0.8, 0.8))
    rules = LabelsConfig(face_planes=0, rim_um=1.0)
    found = ignored_share(skeleton, grid, LabelPlan(), rules)
    points = oracle.voxel_centres(grid, grid.window)
    near, rim = (np.zeros(grid.shape_zyx, bool) for _ in range(2))
    for cone in oracle.round_cones(skeleton, 0.23, "capsule"):
        near |= oracle.in_cone(points, cone | {"ra": cone["ra"] + 5, "rb": cone["rb"] + 5})
        grow = [max(1.0, 0.3 * r) for r in cone["raw"]]
        rim |= oracle.shell(cone | {"ra": cone["ra"] + grow[0], "rb": cone["rb"] + grow[1]}, points, 0.84)
    assert found == pytest.approx((near & rim & (rasterize(skeleton, grid) == 0)).sum() / near.sum(), rel=0.01)


def test_misregistered_reasons_from_the_image_win_over_the_tube(tmp_path):
    def reasons_of(grid: Grid) -> np.ndarray:
        z, y, x = grid.to_index([7.0, 8.0, 14.0])
        bits = (Reason.MISREGISTERED, Reason.UNEXPLAINED)
        return np.array([[z, y, x, x + 3, bits[0]], [z, y, x + 1, x + 2, bits[1]], [z, y, 0, x + 1, bits[1]]], np.int32)

    write_labels(
        tmp_path / "1.zarr", neuron(), GRID, LabelPlan(), LabelsConfig(), chunk_zyx=CHUNK, shard_zyx=SHARD, image_reasons=reasons_of
    )
    z, y, x = GRID.to_index([7.0, 8.0, 14.0])
    labels = open_volume(tmp_path / "1.zarr")
    row, why = labels.read()[z, y], labels.sub(REASON_GROUP).read()[z, y]
    assert row[x : x + 3].tolist() == [255] * 3
    assert why[x : x + 3].tolist() == [Reason.MISREGISTERED] * 3
    assert row[x - 1] == Label.BASAL_DENDRITE
    assert why[0] == Reason.UNEXPLAINED


def test_a_traced_edge_of_unknown_type_is_unknown(tmp_path):
    odd = Skeleton([1, 2, 3], [1, 3, 7], [[7, 8, 8], [7, 8, 14], [7, 8, 20]], [2, 0.5, 0.5], [-1, 0, 1])
    _, labels, reasons = write(tmp_path / "1.zarr", odd)
    z, y, x = GRID.to_index([7, 8, 20])
    assert labels.read()[z, y, x] == Label.UNKNOWN
    assert reasons.read()[z, y, x] == Reason.UNEXPLAINED


@given(st.data())
def test_overlay_is_decided_voxel_by_voxel(data):
    spans = st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 20), st.integers(1, 20))
    tubes = data.draw(st.lists(st.tuples(spans, st.sampled_from([0, 1, 2, 255])), max_size=6))
    reasons = data.draw(st.lists(st.tuples(spans, st.sampled_from([1, 2, 4, 16])), max_size=6))
    label, bits = np.full((2, 2, 45), -1), np.zeros((2, 2, 45), int)
    for (z, y, x, n), value in tubes:
        label[z, y, x : x + n] = np.maximum(label[z, y, x : x + n], value)
    for (z, y, x, n), bit in reasons:
        bits[z, y, x : x + n] |= bit
    bits = np.where(label >= 0, (bits & 16) | np.where(label == 255, 2, 0), bits)
    expected = np.where(bits > 0, 255, np.maximum(label, 0)) + 256 * bits
    rows = [np.array([[z, y, x, x + n, v] for (z, y, x, n), v in part], np.int32).reshape(-1, 5) for part in (tubes, reasons)]
    found = np.zeros_like(expected)
    for z, y, x0, x1, value in overlay(*rows):
        assert (found[z, y, x0:x1] == 0).all()
        found[z, y, x0:x1] = value
    assert np.array_equal(found, expected)


# ------------------------------------------------------------------------------------------------------------------ determinism


def test_threads_and_shards_change_no_voxel_and_threads_no_byte(tmp_path):
    def files(path):
        return {p.relative_to(path): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}

    plan = LabelPlan(bad_planes=(3,), downloaded=np.array([[0, 30, 0, 48, 0, 64]]))
    kwargs = {"chunk_zyx": CHUNK, "shard_zyx": SHARD}
    for name, threads in (("1.zarr", 1), ("2.zarr", 3)):
        write_labels(tmp_path / name, neuron(), GRID, plan, LabelsConfig(), threads=threads, **kwargs)
    assert files(tmp_path / "1.zarr") == files(tmp_path / "2.zarr")
    write_labels(tmp_path / "3.zarr", neuron(), GRID, plan, LabelsConfig(), chunk_zyx=(30, 60, 7), shard_zyx=(30, 60, 14))
    assert np.array_equal(open_volume(tmp_path / "3.zarr").read(), open_volume(tmp_path / "1.zarr").read())


# ---------------------------------------------------------------------------------------------------------------- boxes of tiles


@given(st.data())
def test_merged_and_coarser_boxes_hold_the_same_voxels(data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=36, max_size=36))).reshape(4, 3, 3)
    tiles = pd.DataFrame(
        [(z, 5 * y, min(5 * y + 5, 13), 5 * x, 5 * x + 5, "ok" if ok else "missing") for (z, y, x), ok in np.ndenumerate(mask)],
        columns=["z", "y0", "y1", "x0", "x1", "state"],
    )
    expected = mask.repeat(5, axis=1).repeat(5, axis=2)[:, :13]
    boxes = downloaded_boxes(tiles)

    def fill(boxes, shape):
        found = np.zeros(shape, int)
        for z0, z1, y0, y1, x0, x1 in boxes:
            found[z0:z1, y0:y1, x0:x1] += 1
        return found

    assert np.array_equal(fill(boxes, expected.shape), expected.astype(int))
    grid = Grid(expected.shape, (1, 1, 1)).binned((2, 2, 2))
    padded = np.pad(expected, [(0, n % 2) for n in expected.shape])
    blocks = padded.reshape(2, 2, 7, 2, 8, 2).any(axis=(1, 3, 5))
    assert np.array_equal(fill(coarser(boxes, (2, 2, 2), grid), grid.shape_zyx) > 0, blocks)
    assert len(merged(boxes)) == len(boxes)


# --------------------------------------------------------------------------------------------------------- validity and sanity


def with_axon(length_um: float) -> Skeleton:
    return cable(length_um, step_um=5.0, kind=2)


@pytest.mark.parametrize(
    ("length_um", "kind", "markers", "axon", "n_findings"),
    [
        (400, "full", (), "absent", 0),
        (400, None, (), "absent", 0),
        (400, "full", (Marker(20, (5, 10, 410)),), "unknown", 0),
        (400, "dendrite-only", (), "unknown", 1),
        (100, "dendrite-only", (), "unknown", 0),
        (100, None, (), "unknown", 0),
        (100, "full", (), "unknown", 1),
    ],
)
def test_the_axon_is_absent_only_where_it_was_traced_to_its_end(length_um, kind, markers, axon, n_findings):
    validity, findings = class_validity(with_axon(length_um), LabelPlan(markers=markers, reconstruction_type=kind))
    assert validity == {"soma": "absent", "axon": axon, "basal": "absent", "apical": "absent"}
    assert len(findings) == n_findings


FULL = stack_grid(400, 6000, 6000, 0.1144, 0.28)


def spread(scale_zyx=(1, 1, 1), n=400) -> Skeleton:
    """A branchy arbor over most of FULL, as real ones lie: a quarter of the path along z."""
    rng = np.random.default_rng(1)
    position = rng.uniform([10, 50, 50], [105, 640, 640], (n, 3))
    return Skeleton(np.arange(n), [1] + [3] * (n - 1), position * scale_zyx, [4] + [0.5] * (n - 1), np.arange(n) - 1)


def test_a_skeleton_that_fits_has_no_findings():
    assert check_fit(spread(), FULL) == ()


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ((1, 1 / 0.1144, 1 / 0.1144), "x and y were in pixels"),
        ((1 / 0.28, 1 / 0.1144, 1 / 0.1144), "in voxels"),
        ((1e3, 1e3, 1e3), "nanometres"),
        ((-1, -1, -1), "check that the SWC belongs to this image"),
    ],
)
def test_a_skeleton_in_other_units_is_refused_by_name(scale, message):
    with pytest.raises(GridError, match=message):
        check_fit(spread(scale), FULL)


def test_a_skeleton_that_leaves_its_image_a_little_is_not_called_a_wrong_unit():
    positions = np.linspace([20, 100, 100], [20, 100, 705], 300)
    past_the_edge = Skeleton(np.arange(300), [1] + [3] * 299, positions, np.full(300, 0.5), np.arange(300) - 1)
    (finding,) = (found for found in check_fit(past_the_edge, FULL) if found.check == "nodes-outside")
    assert 0 < int(finding.message.split()[0]) < 30
    assert "look" not in finding.remedy


def test_a_z_scale_that_is_off_is_told():
    with pytest.raises(GridError, match="z were in planes"):
        check_fit(spread((1 / 0.28, 1, 1)), FULL)
    with pytest.raises(GridError, match="scaled in z"):
        check_fit(spread((8, 1, 1)), FULL)
    (finding,) = check_fit(spread((0.28, 1, 1)), FULL)
    assert finding.check == "z-scale"


def test_nodes_outside_are_a_finding_with_their_number():
    skeleton = spread()
    (finding,) = [f for f in check_fit(skeleton, stack_grid(400, 5000, 6000, 0.1144, 0.28)) if f.check == "nodes-outside"]
    n_out = np.count_nonzero(skeleton.position_zyx_um[:, 1] > 4999.5 * 0.1144)
    assert f"{n_out} of 400 nodes" in finding.message


def test_a_grid_that_cannot_fit_the_disk_is_refused_before_any_work(tmp_path):
    fine = Grid((10**6, 10**8, 10**8), (1e-4, 1e-5, 1e-5))
    with pytest.raises(CapacityError, match="GB free"):
        write_labels(tmp_path / "1.zarr", cable(5.0, start_zyx_um=(50.0, 500.0, 500.0)), fine, LabelPlan(), LabelsConfig())
    assert not (tmp_path / "1.zarr").exists()


# ------------------------------------------------------------------------------------------------------------------ real cells


@pytest.mark.real
@pytest.mark.slow
def test_a_real_cell_at_full_resolution_is_read_back_by_an_independent_reader(shared_data, tmp_path):
    import tensorstore

    skeleton = read_swc(shared_data / "swc" / "314804042.swc")
    grid = Grid(tuple(int(v) for v in np.ceil((skeleton.position_zyx_um.max(0) + 10) / (0.28, 0.1144, 0.1144))), (0.28, 0.1144, 0.1144))
    stats = write_labels(tmp_path / "1.zarr", skeleton, grid, LabelPlan(), LabelsConfig())
    assert stats.topology.n_components_by_tree == (1,) * skeleton.n_trees
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "1.zarr" / "0")}}
    array = tensorstore.open(spec, open=True).result()
    reasons = tensorstore.open(spec | {"kvstore": {"driver": "file", "path": str(tmp_path / "1.zarr/reason/0")}}, open=True).result()
    assert array.shape == grid.shape_zyx
    for node in np.random.default_rng(0).integers(0, len(skeleton), 20):
        centre = grid.to_index(skeleton.position_zyx_um[node])
        window = tuple((max(0, int(c) - h), min(n, int(c) + h)) for c, h, n in zip(centre, (8, 40, 40), grid.shape_zyx, strict=True))
        cut = tuple(slice(*axis) for axis in window)
        found, why = array[cut].read().result(), reasons[cut].read().result()
        assert np.array_equal(np.where(why > 0, 0, found), rasterize(skeleton, grid, window=window))
    assert component_count(label_runs(skeleton, grid), 26) == stats.topology.n_components
