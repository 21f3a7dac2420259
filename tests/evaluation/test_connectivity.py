"""Run lengths of volumes: components in slabs are those of the whole; planted errors cost the computed amount; unknown voxels never do."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import knowing_all, make_truth, neuron
from scipy import ndimage
from test_runlength import slow_runs
from test_scoring import WIDE, two_cables

from brightfield.config.options import LabelsConfig
from brightfield.core.codes import Label
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.evaluation import scoring, truth
from brightfield.evaluation.components import Components, mask_runs
from brightfield.evaluation.predictions import VoxelPrediction
from brightfield.evaluation.runlength import NO_SEGMENT, Runs
from brightfield.evaluation.truth import Truth

NO_RIM = LabelsConfig(rim_um=0, rim_share=0, rim_axial_um=0, face_planes=0, cut_ball_um=0, untraced_ball_um=0)
EVERYWHERE = np.ones((3, 3, 3))


def scored(voxels: np.ndarray, cell: Truth, *, is_mask: bool = False) -> Runs:
    codes = np.where(voxels == Label.UNKNOWN, 0, voxels).astype(np.uint8)
    prediction = VoxelPrediction(lambda window: codes[tuple(slice(*side) for side in window)], is_mask=is_mask)
    return scoring.score_volume(prediction, cell).runs


def labels_of(cell: Truth) -> np.ndarray:
    return cell.labels.read(cell.labels.grid.window)


@pytest.fixture(scope="module")
def cables(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Two dendrites of 60 um along x, 40 um apart."""
    return knowing_all(make_truth(tmp_path_factory.mktemp("cables"), two_cables(), WIDE))


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return knowing_all(make_truth(tmp_path_factory.mktemp("cell"), neuron()))


# -------------------------------------------------------------------------------------------------------------- components


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.15, 0.3]), st.lists(st.integers(1, 7), max_size=4), st.booleans())
def test_components_in_slabs_are_those_of_the_whole_mask(seed: int, density: float, cuts: list[int], halved: bool) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((8, 9, 10)) < density
    points = np.stack([random.integers(0, n, 60) for n in mask.shape], axis=1)
    components, borders = Components(points), [0, *sorted(set(cuts)), 8]
    for z0, z1 in pairwise(borders):
        windows = [((z0, z1), (0, 9), x) for x in ([(0, 4), (4, 10)] if halved else [(0, 10)])]
        parts = [mask_runs(mask[tuple(slice(*side) for side in window)].astype(np.uint8), 1, window) for window in windows]
        components.add((z0, z1), np.concatenate(parts))
    found, expected = components.segments(), ndimage.label(mask, EVERYWHERE)[0][tuple(points.T)]
    np.testing.assert_array_equal(found == NO_SEGMENT, expected == 0)
    assert len(set(zip(found.tolist(), expected.tolist(), strict=True))) == len(set(found.tolist())) == len(set(expected.tolist()))


def oracle(skeleton: Skeleton, mask: np.ndarray, grid: Grid) -> tuple[float, dict[str, int]]:
    """By scipy on the whole mask, and by the words of the definition."""
    segment = ndimage.label(mask, EVERYWHERE)[0][tuple(grid.to_index(skeleton.position_zyx_um).T)]
    return slow_runs(skeleton, segment)


@pytest.mark.parametrize("seed", range(6))
def test_where_all_is_known_it_is_what_scipy_and_the_definition_say(tmp_path: Path, seed: int) -> None:
    """Without soma, rim and unscored edges there is one mask only, and every edge counts."""
    skeleton, random = two_cables(), np.random.default_rng(seed)
    cell = knowing_all(make_truth(tmp_path, skeleton, WIDE, rules=NO_RIM))
    labels = labels_of(cell)
    assert not (labels == Label.UNKNOWN).any()
    voxels = np.where(random.random(labels.shape[2]) < 0.1, 0, labels)
    for _ in range(seed):
        y, x = random.integers(0, 150), random.integers(0, 140)
        voxels[10:14, y : y + 50, x : x + 12] = 3
    runs = scored(voxels, cell)
    erl, n = oracle(skeleton, voxels > 0, WIDE)
    assert (runs.erl_um or 0.0) == pytest.approx(erl)
    assert (runs.n_correct, runs.n_split, runs.n_merged, runs.n_omitted) == tuple(n.values())


def test_blocks_of_any_size_give_the_same(cell: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    labels = labels_of(cell)
    voxels = np.where(random.random(labels.shape) < 0.2, 0, labels)
    whole = scored(voxels, cell)
    monkeypatch.setattr(truth, "BLOCK_VOXELS", (8, 32, 64))
    assert scored(voxels, cell) == whole
    assert whole.n_split > 0
    assert whole.n_omitted > 0


# ----------------------------------------------------------------------------------------------------------- planted errors


@pytest.mark.parametrize("name", ["cables", "cell"])
@pytest.mark.parametrize("is_mask", [False, True])
def test_the_labels_have_the_largest_run_length(name: str, is_mask: bool, request: pytest.FixtureRequest) -> None:
    one: Truth = request.getfixturevalue(name)
    labels = labels_of(one)
    runs = scored(np.where(labels == Label.UNKNOWN, 0, labels > 0) * 5 if is_mask else labels, one, is_mask=is_mask)
    assert runs.erl_um == runs.largest_erl_um
    assert runs.n_correct > 50
    assert (runs.n_split, runs.n_merged, runs.n_omitted, runs.n_merges) == (0, 0, 0, 0)


@settings(max_examples=8)
@given(st.integers(2, 58))
def test_a_planted_gap_costs_what_the_parted_run_loses(cables: Truth, node: int) -> None:
    """Nodes lie every um from x = 8 um, which is voxel 16: two voxels apart. The voxel between two of them is taken out."""
    voxels = labels_of(cables)
    voxels[:, :100, 16 + 2 * node + 1] = 0
    runs = scored(voxels, cables)
    assert (runs.n_split, runs.n_omitted, runs.n_merges) == (1, 0, 0)
    assert runs.erl_um == pytest.approx((node**2 + (59.0 - node) ** 2 + 60.0**2) / 120)


def test_a_planted_bridge_costs_both_runs(cables: Truth) -> None:
    voxels = labels_of(cables)
    voxels[12, 40:121, 70:73] = 3
    runs = scored(voxels, cables)
    assert (runs.n_merges, runs.n_merged, runs.erl_um) == (1, 120, 0.0)


def test_a_false_blob_that_touches_one_neurite_is_no_merge(cables: Truth) -> None:
    voxels = labels_of(cables)
    voxels[12, 40:70, 70:73] = 3
    assert scored(voxels, cables).erl_um == 60.0


# ------------------------------------------------------------------------------------------------------------ what never counts


def test_unknown_voxels_join_and_do_not_merge(tmp_path: Path) -> None:
    yx = [(y, x) for y in ((0, 90), (110, 200)) for x in ((0, 80), (90, 160))]  # all but a box between the two, and one across both
    downloaded = np.array([[0, 24, *y, *x] for y, x in yx], np.int64)
    cell = knowing_all(make_truth(tmp_path, two_cables(), WIDE, downloaded=downloaded))
    labels = labels_of(cell)
    runs = scored(labels, cell)
    assert runs.erl_um == runs.largest_erl_um
    assert 100 < runs.path_um < 110  # what lies in the box across both is not counted
    unknown = labels == Label.UNKNOWN
    assert scored(np.where(unknown, 3, labels), cell) == runs  # the box across both joins them
    bridge = labels.copy()
    bridge[12, 40:121, 30:33] = 3
    assert scored(bridge, cell).n_merges == 1  # it comes through known background as well


def test_edges_that_are_not_scored_are_no_gap(tmp_path: Path) -> None:
    skeleton = two_cables()
    hidden = (skeleton.position_zyx_um[:, 2] > 30) & (skeleton.position_zyx_um[:, 2] < 40)
    cell = knowing_all(make_truth(tmp_path, skeleton, WIDE, scored=~hidden))
    voxels = labels_of(cell)
    whole = scored(voxels, cell)
    voxels[:, :, 61:78] = 0  # between the nodes at 30 and 39 um
    assert scored(voxels, cell) == whole
    assert whole.erl_um == whole.largest_erl_um


def test_a_soma_need_not_be_predicted(cell: Truth) -> None:
    voxels = labels_of(cell)
    assert scored(np.where(voxels == Label.SOMA, 0, voxels), cell) == scored(voxels, cell)


def test_a_bridge_of_a_class_that_may_be_there_is_no_merge(tmp_path: Path) -> None:
    cell = make_truth(tmp_path, two_cables(), WIDE, reconstruction_type="dendrite-only")
    voxels = labels_of(cell)
    assert scored(voxels, cell).erl_um == 60.0
    for code, erl in ((int(Label.AXON), 60.0), (int(Label.BASAL_DENDRITE), 0.0)):
        voxels[12, 40:121, 70:73] = code
        assert scored(voxels, cell).erl_um == erl, code


def test_trees_that_touch_in_the_labels_are_one_object(tmp_path: Path) -> None:
    skeleton = two_cables()
    near = skeleton.position_zyx_um - np.where(skeleton.tree == 1, 1.0, 0.0)[:, None] * np.array([0.0, 39.5, 0.0])
    cell = knowing_all(make_truth(tmp_path, skeleton.moved_to(near), WIDE))
    runs = scored(labels_of(cell), cell)
    assert (runs.n_merges, runs.erl_um, runs.largest_erl_um) == (0, 120.0, 120.0)
