from __future__ import annotations

import csv
import math
import os
import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.core.codes import Label, MarkerKind
from brightfield.core.errors import FileError, MarkerError, SkeletonError
from brightfield.core.markers import marker_nodes, read_markers
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.core.swc import format_swc, parse_swc, read_swc, write_swc
from brightfield.testing.skeletons import cable, forests, reordered, swc_bytes, swc_documents

SOMA = (1, 1, 10, 20, 30, 5, -1)
ALLEN_VOXEL = (0.28, 0.1144, 0.1144)
Y_SHAPED = swc_bytes(SOMA, (2, 3, 16, 20, 30, 1, 1), (3, 3, 20, 20, 30, 1, 2), (4, 3, 24, 23, 30, 1, 3), (5, 2, 20, 20, 42, 0.2, 3))


def checks(skeleton: Skeleton) -> list[str]:
    return [finding.check for finding in skeleton.findings]


# ------------------------------------------------------------------------------------------------------------------- reading


def test_text_is_xyz_and_arrays_are_zyx() -> None:
    skeleton = parse_swc(swc_bytes((7, 1, 1.5, 2.25, 3.125, 4, -1), (9, 3, 5, 6, 7, 0.5, 7)))
    assert skeleton.node_id.tolist() == [7, 9]
    assert skeleton.type.tolist() == [1, 3]
    assert skeleton.position_zyx_um.tolist() == [[3.125, 2.25, 1.5], [7, 6, 5]]
    assert skeleton.radius_um.tolist() == [4, 0.5]
    assert skeleton.parent.tolist() == [-1, 0]
    assert skeleton.findings == ()


def test_decimals_are_read_exactly() -> None:
    decimals = ["0.1", "415.6095", "1e-3", "0.1144", "123456.789012345678"]
    for decimal in decimals:
        skeleton = parse_swc(f"1 1 {decimal} 0 0 1 -1\n".encode())
        assert skeleton.position_zyx_um[0, 2] == float(decimal)


@given(swc_documents())
def test_any_way_of_writing_the_same_nodes_reads_the_same(document: tuple[bytes, Skeleton]) -> None:
    data, expected = document
    assert parse_swc(data) == expected


@given(forests())
def test_what_is_written_reads_back_equal(skeleton: Skeleton) -> None:
    assert parse_swc(format_swc(skeleton)) == skeleton


@pytest.mark.parametrize(
    "data",
    [
        swc_bytes((0, 1, 1, 1, 1, 5, -1), (1, 3, 2, 2, 2, 1, 0)),
        swc_bytes(SOMA, (2, 3, 1, 1, 1, 1, 1), newline="\r\n"),
        swc_bytes((5, 3, 1, 1, 1, 1, 9), (9, 1, 2, 2, 2, 5, -1)),
        swc_bytes(SOMA, (100, 3, 10, 20, 30, 1, 1)),
        swc_bytes(SOMA, (2, 2, 1, 1, 1, 1, -1)),
        b"\xef\xbb\xbf1 1 1 1 1 5 -1\n\n   \n\t2  3\t1 1 1 1 1 # the end\n",
        "# Herkunft: \u00b5m\n1 1 1 1 1 5 -1\n2 3 1 1 1 1 1\n".encode("latin-1"),
        b"1.0 1.0 1 1 1 5 -1.0\n2 3 1 1 1 1 1\n",
    ],
    ids=["0-based", "CRLF", "child first", "gap, same position", "two trees", "mark, blanks, tabs", "latin-1 comment", "whole floats"],
)
def test_sound_files_read_without_findings(data: bytes) -> None:
    skeleton = parse_swc(data)
    assert len(skeleton) == 2
    assert skeleton.findings == ()


FAULTS = {
    "cycle": (swc_bytes(SOMA, (2, 3, 0, 0, 0, 1, 3), (3, 3, 0, 0, 0, 1, 2)), 3, "2 -> 3 -> 2"),
    "own parent": (swc_bytes((1, 1, 0, 0, 0, 1, 1)), 2, "1 -> 1"),
    "long cycle": (swc_bytes(SOMA, *((i, 3, 0, 0, 0, 1, i + 1 if i < 20 else 2) for i in range(2, 21))), 3, "..."),
    "missing parent": (swc_bytes(SOMA, (2, 3, 0, 0, 0, 1, 7)), 3, "parent 7"),
    "parent 0 for a root": (swc_bytes((1, 1, 0, 0, 0, 1, 0)), 2, "root has parent -1"),
    "duplicate id": (swc_bytes(SOMA, (2, 3, 0, 0, 0, 1, 1), (2, 3, 1, 0, 0, 1, 1)), 4, "line 3"),
    "negative id": (swc_bytes((-5, 1, 0, 0, 0, 1, -1)), 2, "node id is negative"),
    "NaN": (b"# c\n\n1 1 0 nan 0 1 -1\n", 3, "not a number of micrometres"),
    "infinite": (b"1 1 0 0 -inf 1 -1\n", 1, "not a number of micrometres"),
    "ten metres": (b"1 1 0 0 1e9 1 -1\n", 1, "not a number of micrometres"),
    "NaN id": (b"nan 1 0 0 0 1 -1\n", 1, "id is not a whole number"),
    "negative radius": (swc_bytes(SOMA, (2, 3, 0, 0, 0, -0.5, 1)), 3, "radius is negative"),
    "word": (b"1 1 0 0 0 one -1\n", 1, "radius is not a number"),
    "decimal comma": (b"1 1 0 0,5 0 1 -1\n", 1, "y is not a number"),
    "underscore": (b"1 1 1_0 0 0 1 -1\n", 1, "x is not a number"),
    "half an id": (b"1.5 1 0 0 0 1 -1\n", 1, "id is not a whole number"),
    "huge id": (b"99999999999999999999 1 0 0 0 1 -1\n", 1, "id is not a whole number"),
    "six columns everywhere": (b"1 1 0 0 0 1\n", 1, "7 fields"),
    "eight columns": (swc_bytes(SOMA) + b"2 3 0 0 0 1 1 4\n", 3, "has 8"),
    "cut last line": (swc_bytes(SOMA) + b"2 3 0.5 0", 3, "cut off"),
    "cut behind a minus": (b"1 1 0 0 0 1 -", 1, "parent is not a number"),
    "cut inside a parent id": (
        swc_bytes(SOMA, (12, 3, 500, 0, 0, 1, 1), (123, 3, 0, 0, 0, 1, 12), (124, 3, 1, 0, 0, 1, 123))[:-2],
        5,
        "ends inside this line",
    ),
    "empty": (b"", 1, "empty"),
    "only comments": (b"# id type\n\n#\n", 1, "only comments"),
    "UTF-16": ("1 1 0 0 0 1 -1\n".encode("utf-16"), 1, "UTF-16"),
    "UTF-16 without mark": ("1 1 0 0 0 1 -1\n".encode("utf-16-le"), 1, "UTF-16"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x01", 3, "binary"),
    "HTML": (b"<html><body>Not found</body></html>", 1, "7 fields"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_file_line_and_remedy(fault: str, tmp_path: Path) -> None:
    data, line, says = FAULTS[fault]
    path = tmp_path / "cell.swc"
    path.write_bytes(data)
    with pytest.raises(SkeletonError) as caught:
        read_swc(path)
    assert caught.value.path == path
    assert caught.value.line == line
    assert says in str(caught.value)
    assert "fetch" in str(caught.value)


def test_a_file_that_is_not_there_is_a_skeleton_error(tmp_path: Path) -> None:
    with pytest.raises(SkeletonError, match="cannot be read"):
        read_swc(tmp_path / "none.swc")


@pytest.mark.parametrize("n_cut", range(1, 20))
def test_a_file_cut_short_is_an_error_or_a_finding(n_cut: int) -> None:
    rows = [SOMA, *((i, 3, 10 + i, 20.125, 30.5, 0.25, i - 1) for i in range(2, 113))]
    data = swc_bytes(*rows)[:-n_cut]
    if n_cut == 1:  # only the line end
        assert checks(parse_swc(data)) == ["swc-line-end"]
    else:
        with pytest.raises(SkeletonError) as caught:
            parse_swc(data)
        assert caught.value.line == len(rows) + 1


@pytest.mark.parametrize(
    ("row", "check"),
    [
        ((2, 7, 1, 1, 1, 1, 1), "swc-type"),
        ((2, 0, 1, 1, 1, 1, 1), "swc-type"),
        ((2, 300, 1, 1, 1, 1, 1), "swc-type"),
        ((2, 3, 1, 1, 1, 0, 1), "swc-radius"),
        ((2, 3, 1, -1, 1, 1, 1), "swc-frame"),
        ((2, 1, 1, 1, 1, 1, 1), "swc-soma"),
    ],
)
def test_what_is_odd_but_readable_is_a_finding_with_its_line(row: tuple[float, ...], check: str) -> None:
    skeleton = parse_swc(swc_bytes(SOMA, row))
    assert checks(skeleton) == [check]
    assert "line 3" in skeleton.findings[0].message or check == "swc-soma"
    assert skeleton.findings[0].remedy


def test_no_soma_and_a_soma_with_a_parent_are_findings() -> None:
    assert checks(parse_swc(swc_bytes((1, 3, 1, 1, 1, 1, -1)))) == ["swc-soma"]
    assert checks(parse_swc(swc_bytes((1, 3, 1, 1, 1, 1, -1), (2, 1, 1, 1, 1, 5, 1)))) == ["swc-soma"]


def test_types_beyond_the_four_are_kept_and_labelled_unknown() -> None:
    skeleton = parse_swc(swc_bytes(SOMA, (2, 7, 1, 1, 1, 1, 1), (3, 4, 1, 1, 1, 1, 1), (4, 300, 1, 1, 1, 1, 1)))
    assert skeleton.type.tolist() == [1, 7, 4, 300]
    assert skeleton.label.tolist() == [Label.SOMA, Label.UNKNOWN, Label.APICAL_DENDRITE, Label.UNKNOWN]


# --------------------------------------------------------------------------------------------------------------- the object


def test_a_skeleton_cannot_be_changed() -> None:
    skeleton = parse_swc(Y_SHAPED)
    with pytest.raises(ValueError, match="read-only"):
        skeleton.position_zyx_um[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        skeleton.tree[0] = 1
    with pytest.raises(AttributeError):
        skeleton.parent = skeleton.node_id  # type: ignore[misc]


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(SkeletonError, match="position_zyx_um"):
        Skeleton(np.array([1]), np.array([1]), np.zeros((2, 3)), np.ones(1), np.array([-1]))


@pytest.mark.parametrize(
    ("parent", "problem"),
    [
        ([0, 0, 1, 2], "node 4 .index 0. .* own ancestor"),
        ([-1, 3, 1, 2], "node 5 .* own ancestor"),
        ([1, 2, 0, 2], "node 4 .* own ancestor"),
        ([1, 2, 3, 0], "node 4 .* own ancestor"),
        ([-1, 0, 1, 3], "node 7 .* own ancestor"),
        ([-1, 0, 1, 4], "node 7 .* no index of the 4 nodes"),
        ([-2, 0, 1, 2], "node 4 .* no index"),
        ([-1, 0, 2**62, 2], "node 6 .* no index"),
    ],
)
def test_parents_that_are_no_forest_are_refused_before_anybody_follows_them(parent: list[int], problem: str) -> None:
    with pytest.raises(SkeletonError, match=problem) as raised:
        Skeleton([4, 5, 6, 7], [3] * 4, np.zeros((4, 3)), np.ones(4), parent)
    assert "\n" not in str(raised.value)


@given(st.lists(st.integers(-1, 7), min_size=8, max_size=8))
def test_what_is_taken_comes_to_an_end_from_every_node(parent: list[int]) -> None:
    def ends(node: int) -> bool:
        for _ in parent:
            node = parent[node] if node != -1 else -1
        return node == -1

    try:
        skeleton = Skeleton(range(8), [3] * 8, np.zeros((8, 3)), np.ones(8), parent)
    except SkeletonError:
        assert not all(map(ends, range(8)))
    else:
        assert all(map(ends, range(8)))
        assert skeleton.depth.max() < 8


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e10])
@pytest.mark.parametrize("column", [0, 2, 3])
def test_lengths_that_are_no_micrometres_are_refused(value: float, column: int) -> None:
    lengths = np.ones((2, 4))
    lengths[1, column] = value
    with pytest.raises(SkeletonError, match=r"node 9 .* not a number of micrometres"):
        Skeleton([8, 9], [1, 3], lengths[:, :3], lengths[:, 3], [-1, 0])


def test_ids_twice_or_below_zero_and_negative_radii_are_refused() -> None:
    for ids, radius in (([8, 8], 1.0), ([8, -1], 1.0), ([8, 9], -0.1)):
        with pytest.raises(SkeletonError, match=r"\(index 1\) makes no skeleton"):
            Skeleton(ids, [1, 3], np.zeros((2, 3)), [1.0, radius], [-1, 0])


def test_skeletons_travel_between_processes() -> None:
    skeleton = parse_swc(Y_SHAPED)
    assert skeleton.tree is not None
    assert pickle.loads(pickle.dumps(skeleton)) == skeleton


# ---------------------------------------------------------------------------------------------------------------- the graph


def test_answers_for_a_small_arbor() -> None:
    skeleton = parse_swc(Y_SHAPED)
    assert skeleton.roots.tolist() == [0]
    assert skeleton.n_children.tolist() == [1, 1, 2, 0, 0]
    assert skeleton.tips.tolist() == [3, 4]
    assert skeleton.branch_points.tolist() == [2]
    assert skeleton.depth.tolist() == [0, 1, 2, 3, 3]
    assert skeleton.edges.tolist() == [[0, 1], [1, 2], [2, 3], [2, 4]]
    assert skeleton.edge_length_um.tolist() == [0, 6, 4, 5, 12]
    lengths = skeleton.path_length_um()
    assert (lengths[Label.BASAL_DENDRITE], lengths[Label.AXON], lengths[Label.SOMA]) == (15, 12, 0)
    assert skeleton.n_stems == 1
    assert skeleton.n_bifurcations == 0
    assert skeleton.max_euclidean_distance_um == math.dist((10, 20, 30), (24, 23, 30))
    assert skeleton.bounding_box_um == ((30, 20, 10), (42, 23, 24))
    assert skeleton.soma == 0


def test_questions_about_a_soma_have_answers_without_one() -> None:
    skeleton = parse_swc(swc_bytes((1, 2, 0, 0, 0, 1, -1)))
    assert skeleton.soma is None
    assert skeleton.n_stems == 0
    assert math.isnan(skeleton.max_euclidean_distance_um)
    assert skeleton.n_bifurcations == 0
    assert skeleton.stretches(30).tolist() == [-1]


def slow_graph(skeleton: Skeleton) -> tuple[list[int], list[int], dict[int, list[int]]]:
    """Root, depth and children of every node, by walking."""
    root, depth, children = [], [], defaultdict(list)
    for node in range(len(skeleton)):
        at, steps = node, 0
        while skeleton.parent[at] != -1:
            at, steps = int(skeleton.parent[at]), steps + 1
        root.append(at)
        depth.append(steps)
        if steps:
            children[int(skeleton.parent[node])].append(node)
    return root, depth, children


@given(forests(types=(1, 2, 3, 4, 9)))
def test_the_graph_is_what_walking_it_finds(skeleton: Skeleton) -> None:
    root, depth, children = slow_graph(skeleton)
    assert skeleton.depth.tolist() == depth
    assert skeleton.roots[skeleton.tree].tolist() == root
    assert skeleton.n_children.tolist() == [len(children[i]) for i in range(len(skeleton))]
    assert sorted(skeleton.tips.tolist()) == [i for i in range(len(skeleton)) if not children[i] and skeleton.parent[i] != -1]
    assert sorted(skeleton.branch_points.tolist()) == [i for i in range(len(skeleton)) if len(children[i]) > 1]
    assert math.isclose(sum(skeleton.path_length_um().values()), math.fsum(skeleton.edge_length_um), abs_tol=1e-9)


@given(forests(), st.floats(0.5, 60))
def test_stretches_are_unbranched_paths_of_one_class_that_cover_every_edge(skeleton: Skeleton, stretch_um: float) -> None:
    number = skeleton.stretches(stretch_um)
    _, _, children = slow_graph(skeleton)
    assert ((number == -1) == (skeleton.parent == -1)).all()
    for stretch in range(number.max() + 1):
        edges = np.flatnonzero(number == stretch)
        assert len(set(skeleton.label[edges].tolist())) == 1
        inside = [i for i in edges.tolist() if skeleton.parent[i] in edges]
        assert len(inside) == len(edges) - 1, "a path: all edges but the first continue another one"
        for i in inside:
            assert len(children[int(skeleton.parent[i])]) == 1
        length = skeleton.edge_length_um[edges]
        assert length.sum() <= stretch_um + length.max() + 1e-9
    first = [skeleton.node_id[number == stretch].min() for stretch in range(number.max() + 1)]
    assert first == sorted(first)


def test_a_long_neurite_is_cut_evenly() -> None:
    number = cable(100).stretches(30)
    assert np.bincount(number[1:]).tolist() == [25, 25, 25, 25]


def test_a_stretch_ends_where_the_class_changes() -> None:
    skeleton = parse_swc(
        swc_bytes((9, 3, 0, 0, 0, 1, -1), (2, 3, 1, 0, 0, 1, 9), (3, 3, 2, 0, 0, 1, 2), (4, 2, 3, 0, 0, 1, 3), (5, 2, 4, 0, 0, 1, 4))
    )
    assert skeleton.stretches(30).tolist() == [-1, 0, 0, 1, 1]


@given(forests(), st.data())
def test_no_answer_depends_on_the_order_of_the_lines(skeleton: Skeleton, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(skeleton))))
    other = reordered(skeleton, order)
    for name in ("depth", "tree", "n_children", "edge_length_um", "label"):
        assert np.array_equal(getattr(other, name), getattr(skeleton, name)[order]), name
    for name in ("roots", "tips", "branch_points"):
        assert np.array_equal(other.node_id[getattr(other, name)], skeleton.node_id[getattr(skeleton, name)]), name
    assert np.array_equal(other.node_id[other.edges], skeleton.node_id[skeleton.edges])
    assert np.array_equal(other.stretches(7.5), skeleton.stretches(7.5)[order])
    assert other.path_length_um() == skeleton.path_length_um()
    assert (other.n_stems, other.n_bifurcations, other.bounding_box_um) == (
        skeleton.n_stems,
        skeleton.n_bifurcations,
        skeleton.bounding_box_um,
    )
    assert other.parents_first() == skeleton.parents_first()


@given(forests())
def test_parents_first_keeps_the_forest(skeleton: Skeleton) -> None:
    ordered = skeleton.parents_first()
    assert (ordered.parent < np.arange(len(skeleton))).all()
    assert (np.diff(ordered.tree) >= 0).all()
    assert parents_by_id(ordered) == parents_by_id(skeleton)


def parents_by_id(skeleton: Skeleton) -> dict[int, tuple[int, ...]]:
    """Parent id and position of every node id."""
    parent_id = np.where(skeleton.parent == -1, -1, skeleton.node_id[skeleton.parent])
    return {
        int(i): (int(p), *position) for i, p, position in zip(skeleton.node_id, parent_id, skeleton.position_zyx_um.tolist(), strict=True)
    }


def test_moving_keeps_everything_else() -> None:
    skeleton = parse_swc(Y_SHAPED)
    moved = skeleton.moved_to(skeleton.position_zyx_um + 3)
    assert moved.moved_to(skeleton.position_zyx_um) == skeleton
    assert moved.position_zyx_um[0].tolist() == [33, 23, 13]


# ----------------------------------------------------------------------------------------------------------------- writing


def test_a_voxel_export_counts_voxel_centres_of_the_grid(tmp_path: Path) -> None:
    skeleton = parse_swc(Y_SHAPED)
    grid = Grid((50, 50, 50), (2.0, 0.5, 0.25), (10.0, 0.0, 1.0))
    path = write_swc(skeleton, tmp_path / "voxels.swc", grid)
    in_voxels = read_swc(path)
    assert in_voxels.position_zyx_um[0].tolist() == [10, 40, 36]
    assert in_voxels.radius_um[0] == 20
    assert in_voxels.node_id.tolist() == skeleton.node_id.tolist()
    assert b"voxels" in path.read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_swc(cable(5), tmp_path / "cell.swc")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FileError, match=r"cell.swc: cannot be written: disk full"):
        write_swc(cable(9), path)
    assert read_swc(path) == cable(5)
    assert [p.name for p in tmp_path.iterdir()] == ["cell.swc"]


# ----------------------------------------------------------------------------------------------------------------- markers

MARKER_HEADER = "##x,y,z,radius,shape,name,comment, color_r,color_g,color_b\n"


def test_a_marker_counts_voxels_from_one(tmp_path: Path) -> None:
    path = tmp_path / "cell.marker"
    path.write_text(MARKER_HEADER + "1.1144, 2.1144,3.28,0.0, 1, 10, , 20,27,252\r\n\n4,5,6,0,1,20,,0,0,0\n")
    cut, untraced = read_markers(path, ALLEN_VOXEL)
    assert (cut.kind, untraced.kind) == (MarkerKind.CUT_DENDRITE, MarkerKind.UNTRACED_AXON)
    assert np.allclose(cut.position_zyx_um, (3, 2, 1), atol=1e-12)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1,2,3,0,1,10,,20,27", "has 9"),
        ("1,2,x,0,1,10,,0,0,0", "'1,2,x"),
        ("1,2,nan,0,1,10,,0,0,0", "numbers"),
        ("1,2,3,0,1,cut,,0,0,0", "kind"),
    ],
)
def test_a_bad_marker_names_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "cell.marker"
    path.write_text(MARKER_HEADER + "1,2,3,0,1,30,,0,0,0\n" + line + "\n")
    with pytest.raises(MarkerError, match=says) as caught:
        read_markers(path, ALLEN_VOXEL)
    assert (caught.value.path, caught.value.line) == (path, 3)


def test_a_marker_file_may_be_empty_but_not_wide_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "cell.marker"
    path.write_text(MARKER_HEADER)
    assert read_markers(path, ALLEN_VOXEL) == ()
    path.write_bytes(MARKER_HEADER.encode("utf-16"))
    with pytest.raises(MarkerError, match="UTF-16"):
        read_markers(path, ALLEN_VOXEL)
    with pytest.raises(MarkerError, match="cannot be read"):
        read_markers(tmp_path / "none.marker", ALLEN_VOXEL)


def test_markers_name_tips_and_strays_are_findings(tmp_path: Path) -> None:
    skeleton = cable(20)
    tip = skeleton.position_zyx_um[-1]
    rows = [(10, tip), (20, tip + np.array([0.5, 0, 0])), (30, tip + 9), (77, tip)]
    path = tmp_path / "cell.marker"
    lines = [f"{p[2] + 0.1144},{p[1] + 0.1144},{p[0] + 0.28},0,1,{kind},,0,0,0\n" for kind, p in rows]
    path.write_text(MARKER_HEADER + "".join(lines))
    marked, findings = marker_nodes(skeleton, read_markers(path, ALLEN_VOXEL))
    assert marked == {20: MarkerKind.CUT_DENDRITE}
    assert [finding.check for finding in findings] == ["marker-tip", "marker-kind"]
    assert "0.50 um" in findings[0].message


# -------------------------------------------------------------------------------------------------------------- real files


def real_swc(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "swc").glob("*.swc"))


@pytest.mark.real
def test_real_files_agree_with_the_database(shared_data: Path) -> None:
    with (shared_data / "cells" / "mouse_reconstructions_509.csv").open(newline="") as file:
        table = {row["specimen__id"]: row for row in csv.DictReader(file)}
    paths = real_swc(shared_data)
    assert len(paths) == 56
    bifurcations = 0
    for path in paths:
        skeleton, row = read_swc(path), table[path.stem]
        assert skeleton.findings == (), path
        assert skeleton.n_stems == int(row["nr__number_stems"]), path
        assert abs(skeleton.max_euclidean_distance_um - float(row["nr__max_euclidean_distance"])) < 0.001, path
        bifurcations += skeleton.n_bifurcations == int(row["nr__number_bifurcations"])
        is_full = skeleton.path_length_um()[Label.AXON] > 280
        assert is_full == (row["nr__reconstruction_type"] == "full"), path
    assert bifurcations == 55


@pytest.mark.real
def test_real_files_have_the_nodes_and_trees_of_the_list(shared_data: Path) -> None:
    with (shared_data / "provenance.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["n_nodes"]]
    assert len(rows) > 60
    for row in rows:
        skeleton = read_swc(shared_data / row["file"])
        assert (len(skeleton), skeleton.n_trees) == (int(row["n_nodes"]), int(row["n_trees"])), row["file"]


@pytest.mark.slow
@pytest.mark.real
def test_real_files_survive_being_written(shared_data: Path, tmp_path: Path) -> None:
    for path in sorted((shared_data / "swc").rglob("*.swc")):
        skeleton = read_swc(path)
        assert read_swc(write_swc(skeleton, tmp_path / "again.swc")) == skeleton


@pytest.mark.real
def test_only_the_turned_file_is_outside_the_image_frame(shared_data: Path) -> None:
    found = {path.name: checks(read_swc(path)) for path in (shared_data / "swc").rglob("*.swc")}
    odd = {name: names for name, names in found.items() if names}
    assert [name.endswith("_pia.swc") for name in odd] == [True]
    assert list(odd.values()) == [["swc-frame"]]


@pytest.mark.real
def test_real_stretches_are_of_the_length_asked_for(shared_data: Path) -> None:
    for path in real_swc(shared_data)[:12]:
        skeleton = read_swc(path)
        number = skeleton.stretches(30.0)
        length = np.bincount(number[number >= 0], skeleton.edge_length_um[number >= 0])
        assert length.max() < 30 + skeleton.edge_length_um.max()
        assert math.isclose(length.sum(), sum(skeleton.path_length_um().values()), rel_tol=1e-9)


@pytest.mark.real
def test_all_real_markers_lie_on_tips(shared_data: Path) -> None:
    kinds: dict[int, int] = defaultdict(int)
    for path in sorted((shared_data / "markers").iterdir()):
        if path.suffix == ".csv":
            continue
        skeleton = read_swc(shared_data / "swc" / f"{path.name[:9]}.swc")
        markers = read_markers(path, ALLEN_VOXEL)
        marked, findings = marker_nodes(skeleton, markers)
        assert findings == [], path
        assert sum(m.kind == MarkerKind.SOMA_SURFACE for m in markers) == 1
        for kind in marked.values():
            kinds[kind] += 1
    assert kinds == {MarkerKind.CUT_DENDRITE: 75, MarkerKind.UNTRACED_AXON: 3}
