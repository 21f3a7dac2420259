"""The demo's content: what the other stages are promised to meet in it."""

from __future__ import annotations

import csv
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from brightfield.config.options import SplitConfig
from brightfield.core.codes import NEURITE_LABELS, Label, MarkerKind, Split
from brightfield.core.markers import marker_nodes, read_markers
from brightfield.core.skeleton import Skeleton
from brightfield.core.swc import parse_swc
from brightfield.sources.demo import cells as demo
from brightfield.sources.demo.cells import DemoCell, demo_cells
from brightfield.splitting.groups import side_of

REAL_IDS = {314804042, 318331342, 318808427, 330080937, 395830185}


def cells() -> dict[int, DemoCell]:
    return {cell.specimen_id: cell for cell in demo_cells()}


def taken() -> list[DemoCell]:
    """What a default run takes: mouse, reconstructed, with images."""
    return [c for c in demo_cells() if c.swc and c.phantom and c.row["donor__species"] == "Mus musculus"]


def skeleton(cell: DemoCell) -> Skeleton:
    assert cell.swc is not None
    return parse_swc(cell.swc)


def test_there_are_enough_cells_and_donors_of_both_types() -> None:
    assert len(taken()) >= 12
    donors = Counter(cell.row["donor__id"] for cell in taken())
    assert len(donors) >= 8
    assert sum(n > 1 for n in donors.values()) >= 2
    assert {cell.row["nr__reconstruction_type"] for cell in taken()} == {"full", "dendrite-only"}


def test_ids_are_unique_and_made_up_cells_say_so() -> None:
    ids = [i for c in demo_cells() for i in (c.specimen_id, c.swc_file_id, c.marker_file_id, c.data_set_id, c.projection_id)]
    assert len(ids) == len(set(ids))
    for cell in demo_cells():
        synthetic = cell.specimen_id > 900_000_000
        assert synthetic == (cell.specimen_id not in REAL_IDS)
        assert synthetic == str(cell.row["specimen__name"]).startswith("Synthetic")
        assert synthetic == (int(str(cell.row["donor__id"])) > 900_000_000)


def test_every_plane_has_an_image_id_of_its_own() -> None:
    images = [c.sub_image_id(plane) for c in demo_cells() if c.phantom for plane in range(c.phantom.n_planes)]
    assert len(images) == len(set(images))
    assert not set(images) & {c.projection_id for c in demo_cells()}


def test_skeletons_lie_inside_their_stacks() -> None:
    for cell in demo_cells():
        if cell.phantom is not None:
            assert cell.phantom.grid.contains(skeleton(cell).position_zyx_um).all(), cell.specimen_id


def test_axon_length_tells_the_two_types_apart_and_columns_agree_with_the_file() -> None:
    for cell in demo_cells():
        if cell.swc is None:
            continue
        found = skeleton(cell)
        assert (found.path_length_um()[Label.AXON] > 280) == (cell.row["nr__reconstruction_type"] == "full")
        assert cell.row["nr__number_stems"] == found.n_stems
        assert cell.row["nr__max_euclidean_distance"] == pytest.approx(found.max_euclidean_distance_um, abs=1e-5)
        assert cell.reconstruction is not None
        assert cell.reconstruction["number_nodes"] == len(found)


def test_every_oddity_of_real_files_is_there() -> None:
    files = {cell.specimen_id: cell.swc for cell in demo_cells() if cell.swc}
    skeletons = [skeleton(cell) for cell in demo_cells() if cell.swc]
    assert any(s.node_id.min() == 0 for s in skeletons)
    assert any(b"\r\n" in data for data in files.values())
    assert any((s.parent > np.arange(len(s))).any() for s in skeletons)
    assert any(s.n_trees > 2 and set(s.type[s.roots[1:]]) == {Label.AXON} for s in skeletons)


def test_the_planted_cells_are_what_they_are_planted_for() -> None:
    by_id = cells()
    assert by_id[demo.WITHOUT_STACK_ID].phantom is None
    assert by_id[demo.WITHOUT_STACK_ID].swc is not None
    assert by_id[demo.HUMAN_ID].row["donor__species"] == "Homo Sapiens"
    broken = by_id[demo.MISSING_PLANES_ID].phantom
    assert broken is not None
    assert {0, broken.n_planes - 1}.isdisjoint(broken.faults.missing)
    assert len(broken.faults.missing) > 0
    beside = by_id[demo.MISREGISTERED_ID]
    assert beside.phantom is not None
    away = skeleton(beside).position_zyx_um - beside.phantom.skeleton.position_zyx_um
    np.testing.assert_allclose(np.sqrt((away**2).sum(axis=1)), 3.0, atol=1e-3)
    assert any(cell.swc is None for cell in demo_cells())


def test_markers_sit_on_tips(tmp_path: Path) -> None:
    cell = cells()[demo.MARKER_ID]
    assert cell.marker is not None
    path = tmp_path / "cell.marker"
    path.write_bytes(cell.marker)
    markers = read_markers(path, (0.28, 0.1144, 0.1144))
    assert Counter(m.kind for m in markers) == {MarkerKind.CUT_DENDRITE: 3, MarkerKind.UNTRACED_AXON: 1, MarkerKind.SOMA_SURFACE: 1}
    nodes, findings = marker_nodes(skeleton(cell), markers)
    assert len(nodes) == 4
    assert findings == []


def test_the_default_split_gives_every_side_three_cells_of_both_types_and_every_class() -> None:
    sides: dict[Split, list[DemoCell]] = {}
    for cell in taken():
        if cell.specimen_id != demo.MISREGISTERED_ID:
            sides.setdefault(side_of(str(cell.row["donor__id"]), SplitConfig()), []).append(cell)
    assert set(sides) == {Split.TRAIN, Split.VAL, Split.TEST}
    for side in sides.values():
        assert len(side) >= 3
        assert {cell.row["nr__reconstruction_type"] for cell in side} == {"full", "dendrite-only"}
        full = [skeleton(cell) for cell in side if cell.row["nr__reconstruction_type"] == "full"]
        assert set(np.concatenate([tree.label for tree in full]).tolist()) >= set(NEURITE_LABELS)


def test_a_seed_gives_the_same_files_and_another_seed_others() -> None:
    demo_cells.cache_clear()
    digest = sha256(b"".join(cell.swc or b"" for cell in demo_cells())).hexdigest()[:16]
    assert digest == "9f45cb7d6351f1e0"
    assert {c.specimen_id for c in demo_cells(8)} == set(cells())
    assert demo_cells(8)[-2].swc != demo_cells()[-2].swc


@pytest.mark.real
def test_facts_of_the_real_cells_are_those_of_the_table(shared_data: Path) -> None:
    with (shared_data / "cells" / "cell_types_specimen_details_2023.csv").open(encoding="utf-8", newline="") as file:
        table = {int(row["specimen__id"]): row for row in csv.DictReader(file)}
    assert not {i for i in table if i >= 900_000_000}
    same = (
        "specimen__name", "specimen__hemisphere", "structure__id", "structure__acronym", "structure__layer", "structure_parent__acronym",
        "line_name", "cell_reporter_status", "donor__id", "donor__name", "donor__species", "tag__dendrite_type", "tag__apical",
        "nr__reconstruction_type",
    )  # fmt: skip
    for specimen_id in REAL_IDS:
        ours, theirs = cells()[specimen_id].row, table[specimen_id]
        assert {name: str(ours[name]) for name in same} == {name: theirs[name] for name in same}
        assert float(str(ours["csl__normalized_depth"])) == pytest.approx(float(theirs["csl__normalized_depth"]), abs=1e-5)


def test_stacks_are_small_enough_for_a_demo() -> None:
    voxels = sum(c.phantom.grid.n_voxels / 32 for c in taken() if c.phantom)
    assert voxels < 1.5e9
