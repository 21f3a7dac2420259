"""Voxel scores: against masks in plain numpy, in blocks and whole; truth scores one; unknown and unscored voxels never count."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import GRID, knowing_all, make_truth, neuron, write_zarr
from skimage.morphology import skeletonize

from brightfield.config.options import LabelsConfig
from brightfield.core.errors import StackError
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.evaluation import scoring, thinning, truth, voxels
from brightfield.evaluation.predictions import VoxelPrediction, open_volume_prediction
from brightfield.evaluation.voxels import FOREGROUND, GROUPS, LEFT_OUT, NEURITE, Counts, confusion, counts_of, known_codes
from brightfield.raster import rasterize
from brightfield.testing.skeletons import cable

ALL = known_codes(dict.fromkeys(("soma", "axon", "basal", "apical"), "absent"))
NO_AXON = known_codes({"soma": "absent", "axon": "unknown", "basal": "absent", "apical": "absent"})


def array_prediction(codes: np.ndarray, *, is_mask: bool = False) -> VoxelPrediction:
    return VoxelPrediction(lambda window: codes[tuple(slice(*side) for side in window)].astype(np.uint8), is_mask=is_mask)


def slow_counts(true: np.ndarray, predicted: np.ndarray, group: str, known: frozenset[int]) -> Counts:
    """Every voxel by itself."""
    codes = GROUPS[group]
    found = missed = right = wrong = 0
    for t, p in zip(true.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if t == LEFT_OUT or (group == NEURITE and t == 1):
            continue
        found += t in codes and p in codes
        missed += t in codes and p not in codes
        right += t in codes and p in codes and p in known
        wrong += t not in codes and p in codes and p in known
    return Counts(found, missed, right, wrong)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5)), max_size=60), st.sampled_from(sorted(GROUPS)), st.sampled_from([ALL, NO_AXON])
)
def test_counts_are_those_of_every_voxel_by_itself(pairs: list[tuple[int, int]], group: str, known: frozenset[int]) -> None:
    true, predicted = np.array(pairs, np.uint8).reshape(-1, 2).T
    assert counts_of(confusion(true, predicted), group, known) == slow_counts(true, predicted, group, known)


@given(*[st.integers(0, 50)] * 4)
def test_f1_is_the_harmonic_mean(found: int, missed: int, right: int, wrong: int) -> None:
    counts = Counts(found, missed, right, wrong)
    if counts.precision and counts.recall:
        assert counts.f1 == pytest.approx(2 / (1 / counts.precision + 1 / counts.recall))
    elif counts.precision is None or counts.recall is None:
        assert counts.f1 is None
    else:
        assert counts.f1 == 0.0


@pytest.mark.parametrize("group", GROUPS)
def test_the_codes_of_a_group_are_those_that_it_names(group: str) -> None:
    codes = np.arange(7, dtype=np.uint8)
    assert voxels.in_group(codes, group).tolist() == [code in GROUPS[group] for code in codes.tolist()]


def test_the_absence_of_a_mask_is_known_only_where_that_of_all_classes_is() -> None:
    assert FOREGROUND in ALL
    assert FOREGROUND not in NO_AXON
    assert known_codes({}) == frozenset()


# ------------------------------------------------------------------------------------------------------------------ whole cells


@pytest.mark.parametrize("kind", ["full", "dendrite-only"])
def test_the_labels_score_one(tmp_path: Path, kind: str) -> None:
    cell = make_truth(tmp_path, neuron(), reconstruction_type=kind)
    cell = knowing_all(cell) if kind == "full" else cell
    score = scoring.score_volume(open_volume_prediction(tmp_path / "labels.zarr", cell.labels.grids), cell)
    for group, counts in score.voxels.items():
        unknown = kind != "full" and group == "axon"
        assert counts.recall == 1.0
        assert counts.precision == (None if unknown else 1.0)
        if group in score.centreline:
            assert score.centreline[group].recall == 1.0
            assert score.centreline[group].f1 == (None if unknown else 1.0)


def test_the_labels_as_a_mask_score_one(tmp_path: Path) -> None:
    cell = knowing_all(make_truth(tmp_path, neuron()))
    score = scoring.score_volume(open_volume_prediction(tmp_path / "labels.zarr", cell.labels.grids, threshold=0), cell)
    assert list(score.voxels) == [NEURITE]
    assert (score.voxels[NEURITE].f1, score.centreline[NEURITE].f1) == (1.0, 1.0)


def test_a_mask_has_no_precision_where_the_axon_may_go_on_untraced(tmp_path: Path) -> None:
    cell = make_truth(tmp_path, neuron(), reconstruction_type="dendrite-only")
    score = scoring.score_volume(open_volume_prediction(tmp_path / "labels.zarr", cell.labels.grids, threshold=0), cell)
    assert score.voxels[NEURITE].recall == 1.0
    assert score.voxels[NEURITE].precision is None


def noisy(labels: np.ndarray, seed: int) -> np.ndarray:
    """A prediction with errors of every kind: holes, wrong classes, blobs and specks elsewhere."""
    random = np.random.default_rng(seed)
    codes = np.where(labels == 255, 0, labels)
    codes = np.where(random.random(labels.shape) < 0.05, 0, codes)
    codes = np.where((random.random(labels.shape) < 0.1) & (codes > 0), random.integers(1, 5, labels.shape), codes)
    for _ in range(12):
        z, y, x = (int(random.integers(0, n - 6)) for n in labels.shape)
        codes[z : z + 4, y : y + 6, x : x + 30] = random.integers(1, 5)
    return codes.astype(np.uint8)


def slow_cldice(cell: truth.Truth, predicted: np.ndarray, group: str) -> tuple[float, float]:
    """Precision and sensitivity of centrelines, dense and whole: the traced axes, and the thinned prediction."""
    labels = cell.labels.read()
    codes = GROUPS[group]
    axes = rasterize(cell.skeleton, cell.labels.grid, "centerline") > 0
    true = np.isin(labels, codes) & (labels != 255)
    mask = np.isin(predicted, codes)
    line = skeletonize(mask, method="lee") > 0
    judged = line & (labels != 255) & ((labels != 1) | (group != NEURITE))
    return (judged & true).sum() / judged.sum(), (mask & axes & true).sum() / (axes & true).sum()


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_of_blocks_are_those_of_the_whole(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = knowing_all(make_truth(tmp_path, neuron()))
    labels = cell.labels.read()
    predicted = noisy(labels, seed)
    monkeypatch.setattr(truth, "BLOCK_VOXELS", (8, 32, 64))
    score = scoring.score_volume(array_prediction(predicted), cell)
    true = voxels.truth_codes("semantic")[labels]
    for group in GROUPS:
        assert score.voxels[group] == slow_counts(true, predicted, group, ALL)
    for group in score.centreline:
        precision, sensitivity = slow_cldice(cell, predicted, group)
        assert score.centreline[group].recall == pytest.approx(sensitivity)
        assert score.centreline[group].precision == pytest.approx(precision, abs=0.02)  # thinning knows a block and its margin


def test_a_centreline_of_blocks_is_that_of_the_whole_for_tubes_thinner_than_the_margin() -> None:
    mask = rasterize(neuron(), GRID, "inside") > 0
    whole, parts = thinning.thinned(mask), np.zeros_like(mask)
    for z in range(0, 24, 8):
        for x in range(0, 160, 40):
            window = ((z, z + 8), (0, 96), (x, x + 40))
            wide = thinning.widened(window, GRID)
            here = tuple(slice(*side) for side in window)
            parts[here] = thinning.thinned(mask[tuple(slice(*side) for side in wide)])[thinning.inner(window, wide)]
    assert (whole & mask).sum() == whole.sum()
    assert np.count_nonzero(parts != whole) <= 0.02 * whole.sum()


# ------------------------------------------------------------------------------------------------------------- what never counts


def test_what_is_predicted_on_unknown_voxels_changes_nothing(tmp_path: Path) -> None:
    cell = knowing_all(make_truth(tmp_path, neuron()))
    labels = cell.labels.read()
    assert (labels == 255).any()
    quiet, loud = noisy(labels, 3), noisy(labels, 3)
    quiet[labels == 255], loud[labels == 255] = 0, np.random.default_rng(0).integers(0, 5, (labels == 255).sum())
    scores = [scoring.score_volume(array_prediction(codes), cell) for codes in (quiet, loud)]
    assert scores[0].voxels == scores[1].voxels
    assert [c.recall for c in scores[0].centreline.values()] == [c.recall for c in scores[1].centreline.values()]


def test_recall_is_not_held_against_edges_that_are_not_scored(tmp_path: Path) -> None:
    skeleton = cable(60.0, start_zyx_um=(12.0, 24.0, 8.0))
    kept = skeleton.position_zyx_um[:, 2] < 40.0
    cell = knowing_all(make_truth(tmp_path, skeleton, scored=kept))
    labels = cell.labels.read()
    half = np.where(labels == 255, 0, labels)
    half[:, :, int(41.0 / 0.5) :] = 0
    score = scoring.score_volume(array_prediction(half), cell)
    assert score.voxels["basal"].recall == 1.0
    assert score.voxels["basal"].precision == 1.0
    assert score.centreline["basal"].f1 == 1.0
    full = scoring.score_volume(array_prediction(np.where(labels == 255, 0, labels)), cell)
    assert full.voxels["basal"].precision == 1.0


def test_neurites_leave_the_soma_out(tmp_path: Path) -> None:
    cell = knowing_all(make_truth(tmp_path, neuron()))
    labels = cell.labels.read()
    codes = np.where(labels == 255, 0, labels)
    codes[labels == 1] = 3
    score = scoring.score_volume(array_prediction(codes), cell)
    assert score.voxels[NEURITE].f1 == 1.0
    assert score.voxels["soma"].recall == 0.0
    assert (score.voxels["basal"].precision or 0) < 1.0


def test_a_gap_costs_cldice_what_it_costs_the_centreline(tmp_path: Path) -> None:
    cell = knowing_all(make_truth(tmp_path, cable(60.0, start_zyx_um=(12.0, 24.0, 8.0))))
    labels = cell.labels.read()
    axes = (rasterize(cell.skeleton, cell.labels.grid, "centerline") > 0) & (labels == 3)
    codes = np.where(labels == 255, 0, labels)
    codes[:, :, 80:90] = 0
    line = scoring.score_volume(array_prediction(codes), cell).centreline["basal"]
    assert (line.found, line.missed) == (axes.sum() - axes[:, :, 80:90].sum(), axes[:, :, 80:90].sum())
    assert line.precision == 1.0


def test_labels_without_classes_score_neurons_as_a_whole(tmp_path: Path) -> None:
    cell = knowing_all(make_truth(tmp_path, neuron(), rules=LabelsConfig(kind="inside")))
    score = scoring.score_volume(open_volume_prediction(tmp_path / "labels.zarr", cell.labels.grids), cell)
    assert list(score.voxels) == [NEURITE]
    assert score.voxels[NEURITE].f1 == 1.0


def test_labels_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    cell = make_truth(tmp_path, neuron(), rules=LabelsConfig(kind="distance"))
    with pytest.raises(StackError, match="labels are of the kind distance"):
        scoring.score_volume(array_prediction(cell.labels.read()), cell)


def test_a_mask_that_is_read_as_classes_is_refused(tmp_path: Path) -> None:
    cell = make_truth(tmp_path, neuron())
    labels = cell.labels.read()
    np.save(tmp_path / "7.npy", ((labels > 0) & (labels < 255)).astype(np.uint8))
    with pytest.raises(StackError, match=r"7\.npy: every predicted voxel is 1, soma, .* say --threshold 0"):
        scoring.score_file(tmp_path / "7.npy", cell, scoring.Options())
    np.save(tmp_path / "8.npy", (labels == 1).astype(np.uint8))
    score = scoring.score_file(tmp_path / "8.npy", cell, scoring.Options())
    assert isinstance(score, scoring.VoxelScore)
    assert score.voxels["soma"].f1 == 1.0


def test_a_coarser_level_is_scored_against_that_level(tmp_path: Path) -> None:
    grid = Grid((24, 96, 600), (1.0, 0.5, 0.5))
    cell = knowing_all(make_truth(tmp_path, neuron(grid), grid))
    assert len(cell.labels.grids) > 1
    coarse = write_zarr(tmp_path / "coarse.zarr", cell.labels.read(level=1), cell.labels.grids[1])
    prediction = open_volume_prediction(coarse, cell.labels.grids)
    assert prediction.level == 1
    assert scoring.score_volume(prediction, cell).voxels[NEURITE].f1 == 1.0


def test_memory_does_not_grow_with_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "BLOCK_VOXELS", (8, 32, 64))
    peaks = []
    for n_planes in (24, 24, 192):
        grid = Grid((n_planes, 96, 160), (1.0, 0.5, 0.5))
        folder = tmp_path / f"{n_planes}-{len(peaks)}"
        folder.mkdir()
        cell = knowing_all(make_truth(folder, _up_and_down(grid), grid))
        prediction = open_volume_prediction(folder / "labels.zarr", cell.labels.grids)
        tracemalloc.start()
        scoring.score_volume(prediction, cell)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]  # the first one imports and compiles


def _up_and_down(grid: Grid) -> Skeleton:
    """A cable along z through all planes."""
    n = grid.shape_zyx[0] - 4
    flat = cable(float(n - 1), start_zyx_um=(0.0, 0.0, 0.0))
    return flat.moved_to(flat.position_zyx_um[:, [2, 1, 0]] + [2.0, 24.0, 40.0])
