"""Paths within a tolerance, spatial distance, segments of nodes: against brute force, planted errors, and PyNeval."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.core.errors import GridError
from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.core.swc import parse_swc
from brightfield.evaluation import skeletons as paths
from brightfield.testing.skeletons import cable, forests, neurons, reordered

CASES = json.loads((Path(__file__).parent / "reference.json").read_text())["cases"]


def brute_distance(point: np.ndarray, skeleton: Skeleton, chosen: np.ndarray | None = None, steps: int = 1001) -> float:
    """Distance to the path by sampling every edge densely."""
    best = np.inf
    for node, parent in enumerate(skeleton.parent.tolist()):
        if (parent == ROOT and skeleton.n_children[node]) or (chosen is not None and not chosen[node]):
            continue
        a, b = skeleton.position_zyx_um[node], skeleton.position_zyx_um[max(parent, 0) if parent != ROOT else node]
        line = a + np.linspace(0, 1, steps)[:, None] * (b - a)
        best = min(best, float(np.linalg.norm(line - point, axis=1).min()))
    return best


@given(forests())
def test_pieces_are_short_and_add_up_to_the_path(skeleton: Skeleton) -> None:
    pieces = paths.pieces_of(skeleton)
    assert (pieces.length_um <= paths.STEP_UM + 1e-9).all()
    assert np.bincount(pieces.owner, pieces.length_um, len(skeleton)) == pytest.approx(skeleton.edge_length_um)
    last = np.append(np.flatnonzero(np.diff(pieces.owner)), len(pieces.owner) - 1)
    owner = pieces.owner[last]
    parent = np.where(skeleton.parent[owner] == ROOT, owner, skeleton.parent[owner])
    assert pieces.end_um[last] == pytest.approx(skeleton.position_zyx_um[parent])


@settings(max_examples=30)
@given(neurons(), neurons())
def test_distances_to_a_path_are_those_of_brute_force(truth: Skeleton, trace: Skeleton) -> None:
    points = trace.position_zyx_um
    found = paths.near_pieces(points, paths.pieces_of(truth), 2.0).nearest_um(len(points))
    for point, distance in zip(points, found, strict=True):
        slow = brute_distance(point, truth)
        if np.isinf(distance):
            assert slow > 2.0 - 1e-9
        else:
            assert distance == pytest.approx(slow, abs=2e-3)


@settings(max_examples=30)
@given(neurons(), neurons(), st.data())
def test_what_lies_on_the_truth_is_found_exempt_or_off_it(truth: Skeleton, trace: Skeleton, data: st.DataObject) -> None:
    scored = np.array(data.draw(st.lists(st.booleans(), min_size=len(truth), max_size=len(truth))))
    fit = paths.fit_of(trace.position_zyx_um, paths.pieces_of(truth), scored)
    assert not (fit.found & fit.exempt).any()
    for i, point in enumerate(trace.position_zyx_um):
        to_scored, to_any = brute_distance(point, truth, scored), brute_distance(point, truth)
        if abs(to_any - 2.0) > 0.01 and (to_scored == to_any or to_scored > to_any + 0.01):
            assert fit.found[i] == (to_any <= 2.0 and to_scored == to_any)
            assert fit.exempt[i] == (to_any <= 2.0 and to_scored > to_any)


@pytest.mark.parametrize(("shift_um", "share"), [(0.0, 1.0), (1.99, 1.0), (2.01, 0.0)])
def test_a_path_is_found_up_to_the_tolerance(shift_um: float, share: float) -> None:
    truth = cable(50.0)
    trace = truth.moved_to(np.add(truth.position_zyx_um, [0.0, shift_um, 0.0]))
    found = paths.path_found_um(paths.pieces_of(truth), paths.pieces_of(trace))
    assert found.sum() == pytest.approx(50.0 * share)


@given(st.integers(5, 45))
def test_a_trace_that_stops_early_loses_the_rest_less_the_tolerance(end: int) -> None:
    truth = cable(50.0)
    trace = cable(float(end))
    found = paths.path_found_um(paths.pieces_of(truth), paths.pieces_of(trace))
    assert found.sum() == pytest.approx(min(end + paths.TOLERANCE_UM, 50.0), abs=paths.STEP_UM)


# ------------------------------------------------------------------------------------------------------------ bifurcations


@given(forests(types=(2, 3, 4)))
def test_bifurcations_are_children_beyond_the_first_away_from_roots(skeleton: Skeleton) -> None:
    node, times = paths.bifurcations(skeleton)
    counted = {int(i): int(k) for i, k in zip(node, times, strict=True)}
    children = [sum(skeleton.parent == i) for i in range(len(skeleton))]
    assert counted == {i: n - 1 for i, n in enumerate(children) if n > 1 and skeleton.parent[i] != ROOT}


# -------------------------------------------------------------------------------------------------------------- distance


@given(forests(), forests())
def test_spatial_distance_is_that_of_all_pairs_of_points(truth: Skeleton, trace: Skeleton) -> None:
    found = paths.spatial_distance(truth, trace)
    one, other = paths.sampled(truth)[0], paths.sampled(trace)[0]
    away = np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1))
    for direction, nearest in ((found.of_truth, away.min(1)), (found.of_trace, away.min(0))):
        sure = np.abs(nearest - 2.0) > 1e-9
        if sure.all():
            assert direction.n_far == (nearest > 2.0).sum()
            assert direction.distance_um == pytest.approx(nearest[nearest > 2.0].sum())


@pytest.mark.parametrize("case", CASES)
def test_spatial_distance_agrees_with_pyneval(case: dict) -> None:
    truth, trace = (parse_swc("".join(" ".join(map(str, row)) + "\n" for row in case[name]).encode()) for name in ("gold", "test"))
    found, theirs = paths.spatial_distance(truth, trace), case["pyneval"]
    assert found.ssd_um == pytest.approx(theirs["ssd_score"], abs=2e-5)  # PyNeval's k-d tree rounds
    assert found.of_truth.share_near == pytest.approx(theirs["recall"])
    assert found.of_trace.share_near == pytest.approx(theirs["precision"])
    assert found.f1 == pytest.approx(theirs["f1_score"])


@given(forests())
def test_the_truth_is_at_no_distance_of_itself(skeleton: Skeleton) -> None:
    found = paths.spatial_distance(skeleton, skeleton)
    assert found.ssd_um == 0.0
    assert found.f1 == 1.0


@pytest.mark.parametrize("cut", [paths.pieces_of, paths.sampled])
def test_path_of_more_pieces_than_a_neuron_has_is_refused_before_any_is_made(cut: Callable[[Skeleton], object]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(GridError, match="pieces is no neuron's"):
            cut(cable(9e6, step_um=9e6))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    cut(cable(1e4, step_um=1e4))


# ------------------------------------------------------------------------------------------------------ segments of nodes


def beside(*skeletons: Skeleton) -> Skeleton:
    """One forest of several, 20 um apart in y."""
    first = np.cumsum([0, *(len(s) for s in skeletons)])
    return Skeleton(
        np.arange(1, first[-1] + 1),
        np.concatenate([s.type for s in skeletons]),
        np.concatenate([np.add(s.position_zyx_um, [0, 20.0 * i, 0]) for i, s in enumerate(skeletons)]),
        np.concatenate([s.radius_um for s in skeletons]),
        np.concatenate([np.where(s.parent == ROOT, ROOT, s.parent + n) for s, n in zip(skeletons, first, strict=False)]),
    )


@given(st.permutations(range(60)))
def test_every_tree_of_the_truth_is_one_segment_of_itself(order: list[int]) -> None:
    truth = beside(cable(19.0), cable(19.0), cable(19.0))
    segment = paths.tree_of_nodes(truth, reordered(truth, order))
    assert [len(set(segment[truth.tree == tree])) for tree in range(3)] == [1, 1, 1]
    assert len(set(segment.tolist())) == 3


def test_a_node_where_two_trees_cross_goes_to_the_tree_of_its_neighbours() -> None:
    flat = cable(20.0, start_zyx_um=(0.0, 0.0, 0.0))
    across = flat.moved_to(flat.position_zyx_um[:, [0, 2, 1]] + [0.0, -10.0, 10.0])
    both = beside(flat, across.moved_to(across.position_zyx_um - [0, 20.0, 0]))
    segment = paths.tree_of_nodes(both, both)
    assert (segment == both.tree + 1).all()


def test_nodes_beyond_the_tolerance_lie_in_no_segment() -> None:
    truth = cable(30.0)
    assert (paths.tree_of_nodes(truth, truth.moved_to(np.add(truth.position_zyx_um, [5.0, 0.0, 0.0]))) == 0).all()
    segment = paths.tree_of_nodes(truth, cable(10.0))
    assert segment.tolist() == [1] * 13 + [0] * 18
