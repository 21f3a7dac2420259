from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.core.codes import MarkerKind, TipKind, Verdict
from brightfield.core.markers import Marker, read_markers
from brightfield.core.schema import NODES
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.core.swc import parse_swc, read_swc
from brightfield.core.tables import read_table, write_table
from brightfield.core.tips import tip_kinds
from brightfield.stages.manifest.nodes import export_swc, nodes_frame
from brightfield.testing.skeletons import cable, forests, swc_bytes

GRID = Grid((101, 200, 200), (0.56, 0.46, 0.46), (0.0, 0.17, 0.17))
FORK = parse_swc(
    swc_bytes(
        (7, 1, 20, 20, 30, 5, -1), (3, 3, 26, 20, 30, 0.1, 7), (4, 3, 30, 24, 30, 1, 3), (5, 3, 30, 16, 0.5, 1, 3), (9, 2, 14, 20, 30, 1, 7)
    )
)


def positions(skeleton: Skeleton, node_id: int) -> tuple[float, float, float]:
    z, y, x = skeleton.position_zyx_um[skeleton.node_id == node_id][0].tolist()
    return (z, y, x)


def test_the_table_says_where_nodes_are_and_what_may_be_scored() -> None:
    verdicts = {0: Verdict.ON, 1: Verdict.ALONGSIDE, 2: Verdict.ON, 3: Verdict.NO_DATA}
    frame = nodes_frame(11, FORK, [], GRID, 0.23, verdicts, stretch_um=30.0).set_index("node_id")
    assert frame.index.tolist() == [3, 4, 5, 7, 9]
    assert frame.loc[7, ["parent_id", "stretch"]].isna().all()
    assert frame.loc[4, "parent_id"] == 3
    assert frame.loc[3, ["z_um", "y_um", "x_um"]].tolist() == [30, 20, 26]
    assert np.allclose(GRID.to_um(frame[["z_vox", "y_vox", "x_vox"]]), frame[["z_um", "y_um", "x_um"]], atol=1e-6)
    assert (frame.loc[3, "radius_um"], frame.loc[3, "r_eff_um"], frame.loc[4, "r_eff_um"]) == (0.1, 0.23, 1)
    assert frame["score"].to_dict() == {3: True, 4: False, 5: True, 7: False, 9: False}


def test_the_table_keeps_its_contract(tmp_path: Path) -> None:
    frame = nodes_frame(11, FORK, [], GRID, 0.23, {0: Verdict.ON}, stretch_um=30.0)
    write_table(NODES, frame, tmp_path)
    again = read_table(NODES, tmp_path)
    assert again["node_id"].tolist() == [3, 4, 5, 7, 9]
    assert again["tip"].fillna("").tolist() == ["", "natural", "cut", "", "natural"]
    assert again["stretch"].isna().tolist() == [False, False, False, True, False]


def test_a_tip_is_cut_at_a_slice_face_and_where_a_marker_says_so() -> None:
    markers = [Marker(MarkerKind.CUT_DENDRITE, positions(FORK, 4)), Marker(MarkerKind.UNTRACED_AXON, positions(FORK, 9))]
    assert tip_kinds(FORK, markers, GRID) == [None, None, TipKind.CUT, TipKind.CUT, TipKind.UNTRACED]
    assert tip_kinds(FORK, [], GRID, face_planes=0) == [None, None, TipKind.NATURAL, TipKind.NATURAL, TipKind.NATURAL]


def test_the_last_plane_is_a_face_too() -> None:
    shallow = Grid((56, 200, 200), GRID.voxel_size_zyx_um)  # its last plane lies at 30.8 um, the tips at 30
    assert tip_kinds(FORK, [], shallow)[2] == TipKind.CUT


def test_an_axon_that_was_not_traced_ends_untraced() -> None:
    assert tip_kinds(FORK, [], GRID, axon_traced=False)[4] == TipKind.UNTRACED
    assert tip_kinds(FORK, [], GRID, axon_traced=False)[2] == TipKind.NATURAL


@given(forests(), st.floats(1, 60))
def test_every_tip_has_a_kind_and_nothing_else_has(skeleton: Skeleton, stretch_um: float) -> None:
    frame = nodes_frame(1, skeleton, [], GRID, 0.23, {}, stretch_um=stretch_um)
    assert sorted(frame.loc[frame["tip"].notna(), "node_id"]) == sorted(skeleton.node_id[skeleton.tips])
    assert not frame["score"].any()


def test_exports_keep_the_ids_of_the_table(tmp_path: Path) -> None:
    um, voxels = (read_swc(path) for path in export_swc(11, FORK, GRID, tmp_path))
    assert um == FORK.parents_first()
    assert voxels.node_id.tolist() == um.node_id.tolist()
    assert np.allclose(GRID.to_um(voxels.position_zyx_um), um.position_zyx_um)
    assert (um.parent < np.arange(len(um))).all()


def test_exports_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in export_swc(1, cable(50), GRID, tmp_path / "a")]
    assert first == [path.read_bytes() for path in export_swc(1, cable(50), GRID, tmp_path / "b")]


@pytest.mark.real
def test_real_cut_tips_are_those_of_the_markers_and_the_faces(shared_data: Path) -> None:
    skeleton = read_swc(shared_data / "swc" / "479704527.swc")
    (path,) = (shared_data / "markers").glob("479704527*")
    markers = read_markers(path, (0.28, 0.1144, 0.1144))
    deep = Grid((1000, 9000, 9000), (0.28, 0.1144, 0.1144), (-10.0, 0.0, 0.0))
    assert tip_kinds(skeleton, markers, deep).count(TipKind.CUT) == 12
