"""Traces and whole datasets: the truth scores one, planted errors cost the computed amount, and the command line says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import GRID, knowing_all, make_truth, neuron

from brightfield.cli import main
from brightfield.core.layout import label_store, skeleton_file
from brightfield.core.schema import NODES
from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.core.space import Grid
from brightfield.core.swc import read_swc, write_swc
from brightfield.core.tables import read_table, write_table
from brightfield.evaluation import skeletons as paths
from brightfield.evaluation.scoring import score_trace
from brightfield.evaluation.truth import Truth, edges_of
from brightfield.testing.dataset import DATASET_CELLS, make_dataset
from brightfield.testing.skeletons import cable

WIDE = Grid((24, 200, 160), (1.0, 0.5, 0.5))
TWO_ROWS_UM = 40.0


def two_cables() -> Skeleton:
    """Two dendrites of 60 um that lie 40 um apart."""
    one = cable(60.0, start_zyx_um=(12.0, 20.0, 8.0))
    n = len(one)
    return Skeleton(
        np.arange(1, 2 * n + 1),
        np.tile(np.where(one.type == 1, 3, one.type), 2),
        np.concatenate([one.position_zyx_um, one.position_zyx_um + np.array([0, TWO_ROWS_UM, 0])]),
        np.full(2 * n, 0.4),
        np.concatenate([one.parent, np.where(one.parent == ROOT, ROOT, one.parent + n)]),
    )


@pytest.fixture(scope="module")
def cables(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return knowing_all(make_truth(tmp_path_factory.mktemp("cables"), two_cables(), WIDE))


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return knowing_all(make_truth(tmp_path_factory.mktemp("cell"), neuron()))


def with_parent(skeleton: Skeleton, node: int, parent: int) -> Skeleton:
    parents = skeleton.parent.copy()
    parents[node] = parent
    return Skeleton(skeleton.node_id, skeleton.type, skeleton.position_zyx_um, skeleton.radius_um, parents)


def joined(one: Skeleton, other: Skeleton) -> Skeleton:
    n = len(one)
    return Skeleton(
        np.arange(n + len(other)),
        np.concatenate([one.type, other.type]),
        np.concatenate([one.position_zyx_um, other.position_zyx_um]),
        np.concatenate([one.radius_um, other.radius_um]),
        np.concatenate([one.parent, np.where(other.parent == ROOT, ROOT, other.parent + n)]),
    )


@pytest.mark.parametrize("name", ["cables", "cell"])
def test_the_truth_scores_one(name: str, request: pytest.FixtureRequest) -> None:
    truth: Truth = request.getfixturevalue(name)
    score = score_trace(truth.skeleton, truth)
    assert (score.precision, score.recall, score.f1) == (1.0, 1.0, 1.0)
    assert score.runs.erl_um == score.runs.largest_erl_um
    assert (score.runs.n_split, score.runs.n_merges, score.runs.n_omitted) == (0, 0, 0)
    assert (score.distance.ssd_um, score.length_error) == (0.0, 0.0)
    assert score.bifurcation_error == (0.0 if name == "cell" else None)


@given(st.integers(2, 60))
def test_a_planted_split_costs_the_edge_and_parts_the_run(cables: Truth, node: int) -> None:
    score = score_trace(with_parent(cables.skeleton, node, ROOT), cables)
    upper, lower = node - 1.0, 60.0 - node
    assert score.runs.n_split == 1
    assert score.runs.erl_um == pytest.approx((60.0**2 + upper**2 + lower**2) / 120.0)
    assert score.recall == 1.0  # a gap shorter than twice the tolerance is not seen by path length: that is what run length is for


@given(st.integers(0, 60))
def test_a_planted_merge_takes_both_runs_away_and_adds_a_false_path(cables: Truth, node: int) -> None:
    score = score_trace(with_parent(cables.skeleton, 61, node), cables)
    across = np.hypot(TWO_ROWS_UM, node)
    assert (score.runs.n_merges, score.runs.erl_um) == (1, 0.0)
    assert score.runs.n_merged == 120
    assert score.wrong_um == pytest.approx(across - 2 * paths.TOLERANCE_UM * across / TWO_ROWS_UM, abs=2 * paths.STEP_UM)
    assert score.recall == 1.0


@given(st.integers(25, 56))
def test_a_lost_end_costs_its_length(cables: Truth, node: int) -> None:
    kept = np.ones(len(cables.skeleton), bool)
    kept[node + 1 : 61] = False
    score = score_trace(edges_of(cables.skeleton, kept), cables)
    lost = 60.0 - node
    assert score.recall == pytest.approx(1 - max(lost - paths.TOLERANCE_UM, 0) / 120, abs=2 * paths.STEP_UM / 120)
    assert score.length_error == pytest.approx(-lost / 120)
    assert (score.distance.of_truth.n_far, score.distance.of_truth.distance_um) == far_of_lost_end(lost)


def far_of_lost_end(lost_um: float) -> tuple[int, float]:
    """Nodes lie every um: those that are 2 um or more behind the end are far."""
    away = [d for d in range(1, round(lost_um) + 1) if d >= 2]
    return len(away), float(sum(away))


def test_a_false_branch_costs_precision_a_bifurcation_and_its_length(cell: Truth) -> None:
    stem = int(np.flatnonzero(cell.skeleton.type == 4)[9])
    start = cell.skeleton.position_zyx_um[stem]
    extra = cable(15.0).moved_to(start + np.arange(16)[:, None] * np.array([0.0, 0.0, 1.0]))
    trace = with_parent(joined(cell.skeleton, extra), len(cell.skeleton) + 1, stem)
    score = score_trace(trace, cell)
    true_um = float(cell.skeleton.edge_length_um.sum())
    assert score.recall == 1.0
    assert score.bifurcation_error == pytest.approx(1 / score.n_bifurcations)
    assert 15.0 - 3.0 <= score.wrong_um <= 15.0
    assert score.length_error == pytest.approx(15.0 / true_um, abs=1e-9)
    assert score.precision == pytest.approx(1 - score.wrong_um / (true_um + 15.0))


# ------------------------------------------------------------------------------------------------------------ what never counts


def test_edges_that_are_not_scored_count_neither_way(tmp_path: Path) -> None:
    skeleton = two_cables()
    scored = skeleton.position_zyx_um[:, 1] < 30
    truth = knowing_all(make_truth(tmp_path, skeleton, WIDE, scored=scored))
    whole, half = score_trace(skeleton, truth), score_trace(edges_of(skeleton, scored), truth)
    for score in (whole, half):
        assert (score.recall, score.precision, score.length_error) == (1.0, 1.0, 0.0)
        assert score.runs.erl_um == 60.0
        assert score.distance.ssd_um == 0.0
    none = score_trace(edges_of(skeleton, ~scored & (skeleton.parent != ROOT)), truth)
    assert (none.recall, none.precision) == (0.0, None)


def test_what_is_traced_in_unknown_voxels_is_not_wrong(tmp_path: Path) -> None:
    boxes = np.array([[0, 24, 0, 60, 0, 160]], np.int64)
    truth = knowing_all(make_truth(tmp_path, cable(60.0, start_zyx_um=(12.0, 20.0, 8.0)), WIDE, downloaded=boxes))
    unseen = cable(60.0, start_zyx_um=(12.0, 80.0, 8.0))
    assert score_trace(joined(truth.skeleton, unseen), truth).precision == 1.0
    outside = cable(10.0, start_zyx_um=(12.0, 20.0, 200.0))
    assert score_trace(joined(truth.skeleton, outside), truth).precision == 1.0
    seen = cable(60.0, start_zyx_um=(12.0, 9.0, 8.0))
    assert (score_trace(joined(truth.skeleton, seen), truth).precision or 1.0) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("kind", "precision"), [(2, 1.0), (3, 0.5), (0, 1.0)])
def test_axon_is_not_wrong_where_it_may_be_untraced(tmp_path: Path, kind: int, precision: float) -> None:
    truth = make_truth(tmp_path, cable(60.0, start_zyx_um=(12.0, 20.0, 8.0)), WIDE, reconstruction_type="dendrite-only")
    extra = cable(60.0, kind=kind, start_zyx_um=(12.0, 70.0, 8.0))
    assert (score_trace(joined(truth.skeleton, extra), truth).precision or 0) == pytest.approx(precision, abs=0.02)


def test_a_trace_without_types_has_no_precision_where_the_axon_may_be_untraced(tmp_path: Path) -> None:
    truth = make_truth(tmp_path, cable(60.0, start_zyx_um=(12.0, 20.0, 8.0)), WIDE, reconstruction_type="dendrite-only")
    traced = truth.skeleton
    untyped = Skeleton(traced.node_id, np.zeros(len(traced), int), traced.position_zyx_um, traced.radius_um, traced.parent)
    score = score_trace(untyped, truth)
    assert (score.recall, score.precision, score.length_error) == (1.0, None, None)


def test_labels_are_read_at_points_from_the_chunks_that_hold_them(cell: Truth) -> None:
    points = np.random.default_rng(0).uniform(-10, 90, (500, 3))
    labels = cell.labels.read()
    inside = GRID.contains(points)
    expected = np.where(inside, labels[tuple(GRID.to_index(points).clip(0, np.subtract(GRID.shape_zyx, 1)).T)], 255)
    assert (cell.labels_at(points) == expected).all()


# ------------------------------------------------------------------------------------------------------------ the command line


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset in miniature with every edge scored."""
    root = tmp_path_factory.mktemp("dataset")
    make_dataset(root)
    nodes = read_table(NODES, root)
    nodes["score"] = nodes["parent_id"].notna()
    write_table(NODES, nodes, root)
    return root


def test_labels_and_skeletons_of_a_dataset_score_one(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = DATASET_CELLS[0]
    for path in (dataset / label_store(first), dataset / skeleton_file(first)):
        assert main(["-C", str(dataset), "evaluate", str(path), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        cell = document["cells"][0]
        assert (cell["specimen_id"], cell["split"]) == (first, "train")
        scores = cell if cell["kind"] == "trace" else cell["classes"]["neurite"]
        assert scores["f1"] in (1.0, None)
        assert scores["recall"] == 1.0


def test_a_directory_is_scored_cell_by_cell_and_pooled(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for specimen_id in DATASET_CELLS[:3]:
        skeleton = read_swc(dataset / skeleton_file(specimen_id))
        write_swc(edges_of(skeleton, np.arange(len(skeleton)) < 46), tmp_path / f"{specimen_id}.swc")
    assert main(["-C", str(dataset), "evaluate", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [cell["split"] for cell in document["cells"]] == ["train", "val", "test"]
    assert sorted(document["pooled"]) == ["all", "test", "train", "val"]
    assert document["pooled"]["all"]["recall"] == pytest.approx(np.mean([cell["recall"] for cell in document["cells"]]))
    assert main(["-C", str(dataset), "evaluate", str(tmp_path), "--split", "val"]) == 0
    shown = capsys.readouterr().out
    assert "102 (val)" in shown
    assert "101" not in shown


def test_a_mistake_is_one_line_and_not_a_traceback(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "102.npy", np.zeros((4, 5, 6), np.uint8))
    for words, said in (
        ([str(tmp_path / "102.npy")], "(24, 96, 320) with voxels of (1, 0.5, 0.5) um"),
        ([str(tmp_path / "102.npy"), "--split", "test"], "no prediction of a cell of the side test, only of 102"),
        ([str(tmp_path / "102.npy"), "--cell", "9"], "no nodes of cell 9; it has 101, 102, 103, 104"),
    ):
        assert main(["-C", str(dataset), "evaluate", *words]) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert said in message
    assert main(["-C", str(dataset), "evaluate", str(tmp_path), "--tolerance", "-1"]) == 2
    assert "a distance in um above 0" in capsys.readouterr().err


def test_the_guide_scores_the_labels_as_it_says(dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "evaluate.md").read_text()
    block = page.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(dataset)
    exec(compile(block, "evaluate.md", "exec"), {})
    assert capsys.readouterr().out.startswith("102 {'soma': 1.0")


def test_the_guide_names_the_options_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "evaluate.md").read_text()
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    options = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}
    assert options == set(re.findall(r"(?<![-\w])--[a-z]+", page))
