"""Expected run length: planted errors change it by the computed amount; it agrees with funlib.evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.evaluation.runlength import NO_SEGMENT, Runs, run_lengths
from brightfield.testing.skeletons import forests

CASES = json.loads((Path(__file__).parent / "reference.json").read_text())["cases"]


def runs_of(skeleton: Skeleton, segment: np.ndarray) -> Runs:
    child = np.flatnonzero(skeleton.parent != ROOT)
    edges = np.stack([skeleton.parent[child], child], axis=1)
    return run_lengths(edges, skeleton.edge_length_um[child], skeleton.tree, segment)


def slow_runs(skeleton: Skeleton, segment: np.ndarray) -> tuple[float, dict[str, int]]:
    """By the words of the definition, one edge and one dictionary at a time."""
    trees_of: dict[int, set[int]] = {}
    for node in range(len(skeleton)):
        trees_of.setdefault(int(segment[node]), set()).add(int(skeleton.tree[node]))
    length: dict[tuple[int, int], float] = {}
    n = {"correct": 0, "split": 0, "merged": 0, "omitted": 0}
    total = 0.0
    for node, parent in enumerate(skeleton.parent.tolist()):
        if parent == ROOT:
            continue
        a, b = int(segment[node]), int(segment[parent])
        edge = float(np.linalg.norm(skeleton.position_zyx_um[node] - skeleton.position_zyx_um[parent]))
        total += edge
        if NO_SEGMENT in (a, b):
            n["omitted"] += 1
        elif a != b:
            n["split"] += 1
        elif len(trees_of[a]) > 1:
            n["merged"] += 1
        else:
            n["correct"] += 1
            key = (int(skeleton.tree[node]), a)
            length[key] = length.get(key, 0.0) + edge
    return (sum(v * v for v in length.values()) / total if total else 0.0), n


def below(skeleton: Skeleton, node: int) -> np.ndarray:
    """The node and its descendants."""
    inside = np.zeros(len(skeleton), bool)
    for other in range(len(skeleton)):
        at = other
        while at not in (ROOT, node):
            at = int(skeleton.parent[at])
        inside[other] = at == node
    return inside


@given(forests(), st.data())
def test_it_is_what_the_definition_says(skeleton: Skeleton, data: st.DataObject) -> None:
    segment = np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(skeleton), max_size=len(skeleton))))
    runs = runs_of(skeleton, segment)
    erl, n = slow_runs(skeleton, segment)
    assert (runs.erl_um or 0.0) == pytest.approx(erl)
    assert (runs.n_correct, runs.n_split, runs.n_merged, runs.n_omitted) == tuple(n.values())


@given(forests())
def test_a_prediction_without_errors_has_the_largest_run_length(skeleton: Skeleton) -> None:
    runs = runs_of(skeleton, skeleton.tree + 1)
    assert runs.squared_um2 == runs.perfect_um2
    assert runs.erl_um == runs.largest_erl_um
    assert (runs.n_split, runs.n_merged, runs.n_omitted, runs.n_merges) == (0, 0, 0, 0)


@given(forests(), st.data())
def test_a_planted_split_changes_it_by_the_lost_edge_and_the_parted_run(skeleton: Skeleton, data: st.DataObject) -> None:
    children = np.flatnonzero(skeleton.parent != ROOT)
    if not len(children):
        return
    child = int(data.draw(st.sampled_from(children.tolist())))
    cut = below(skeleton, child)
    perfect, planted = runs_of(skeleton, skeleton.tree + 1), runs_of(skeleton, np.where(cut, 1000, skeleton.tree + 1))
    of_tree = skeleton.tree == skeleton.tree[child]
    edge = skeleton.edge_length_um
    whole, lower = edge[of_tree].sum(), edge[cut].sum() - edge[child]
    upper = whole - lower - edge[child]
    assert planted.n_split == 1
    lost = whole**2 - upper**2 - lower**2
    assert perfect.squared_um2 - planted.squared_um2 == pytest.approx(lost, abs=1e-6)


@given(forests(), st.data())
def test_a_planted_merge_takes_both_skeletons_runs_away(skeleton: Skeleton, data: st.DataObject) -> None:
    if skeleton.n_trees < 2:
        return
    one, other = data.draw(st.permutations(range(skeleton.n_trees)))[:2]
    segment = np.where(skeleton.tree == other, one, skeleton.tree) + 1
    planted = runs_of(skeleton, segment)
    length = np.array([skeleton.edge_length_um[skeleton.tree == tree].sum() for tree in (one, other)])
    assert planted.n_merges == 1
    assert planted.perfect_um2 - planted.squared_um2 == pytest.approx((length**2).sum(), abs=1e-6)


@given(forests(), forests())
def test_cells_add_up_to_what_all_their_skeletons_give_at_once(one: Skeleton, other: Skeleton) -> None:
    both = Skeleton(
        np.arange(len(one) + len(other)),
        np.concatenate([one.type, other.type]),
        np.concatenate([one.position_zyx_um, other.position_zyx_um]),
        np.concatenate([one.radius_um, other.radius_um]),
        np.concatenate([one.parent, np.where(other.parent == ROOT, ROOT, other.parent + len(one))]),
    )
    segments = [one.tree % 2 + 1, other.tree % 2 + 10]
    added = runs_of(one, segments[0]) + runs_of(other, segments[1])
    together = runs_of(both, np.concatenate(segments))
    assert (added.erl_um or 0) == pytest.approx(together.erl_um or 0)
    assert added.n_merges == together.n_merges


@pytest.mark.parametrize("case", CASES)
def test_it_agrees_with_funlib(case: dict) -> None:
    nodes, edges = np.array(case["nodes"]), np.array(case["edges"])
    length = np.linalg.norm(nodes[edges[:, 0], 1:] - nodes[edges[:, 1], 1:], axis=1)
    runs = run_lengths(edges, length, nodes[:, 0].astype(np.int64), np.array(case["segment"]))
    theirs = case["funlib"]
    assert runs.erl_um == pytest.approx(theirs["erl"], rel=1e-6)  # funlib keeps positions as float32
    ours = (runs.n_correct, runs.n_split, runs.n_merged, runs.n_omitted, runs.n_merges)
    assert ours == tuple(theirs[name] for name in ("correct", "split", "merged", "omitted", "merges"))
