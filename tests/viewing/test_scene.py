from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from brightfield.core.codes import Label, Verdict
from brightfield.core.errors import BrightfieldError, ConfigError, GridError, StackError
from brightfield.core.layout import image_store, label_store
from brightfield.core.schema import NODES, PATCHES
from brightfield.core.tables import read_table
from brightfield.testing.dataset import DATASET_CELLS
from brightfield.viewing.choice import Filters, listed
from brightfield.viewing.material import WorkingTree
from brightfield.viewing.scene import Scene, scene_of
from brightfield.volumes.volume import open_volume

CELL = DATASET_CELLS[0]


@pytest.fixture(scope="module")
def scene(stained: Path) -> Scene:
    return scene_of(WorkingTree(stained), CELL)


def test_it_begins_at_the_soma_and_black_and_white_are_the_stains_and_the_papers(scene: Scene) -> None:
    np.testing.assert_allclose(scene.centre_zyx, (10, 48, 30))
    low, high = scene.contrast
    assert 30 <= low < 100, "the soma is 30, and the coarsest level has averages"
    assert 190 <= high <= 200, "the paper is 180 to 200; what was not downloaded does not count"


def test_every_edge_is_in_the_lines_of_its_class_once(stained: Path, scene: Scene) -> None:
    nodes = read_table(NODES, stained, specimen_id=CELL)
    edges = {code: len(lines.edges) for code, lines in scene.skeleton.items()}
    assert edges == nodes.loc[nodes["parent_id"].notna(), "label"].value_counts().to_dict()
    basal = scene.skeleton[Label.BASAL_DENDRITE]
    ends = basal.points_zyx[basal.edges]
    np.testing.assert_allclose(np.abs(np.diff(ends, axis=1)[:, 0]), np.tile([0, 0, 2.0], (90, 1)), err_msg="1 um is two voxels along x")


def test_the_stretches_that_are_not_on_are_apart(stained: Path, scene: Scene) -> None:
    nodes = read_table(NODES, stained, specimen_id=CELL)
    assert len(scene.verdicts[Verdict.NOT_ON].edges) == (nodes["stretch"] == 1).sum() > 0
    assert sum(len(lines.edges) for lines in scene.verdicts.values()) == nodes["parent_id"].notna().sum()


def test_markers_are_where_the_tracer_put_them(scene: Scene) -> None:
    found = {mark.name: mark.at_zyx for mark in scene.marks}
    np.testing.assert_allclose(found["cut dendrite"], (10, 48, 210), err_msg="the file counts voxels from one, in um")
    assert set(found) == {"soma", "cut dendrite", "surface over the soma"}


def test_a_place_is_a_node_or_a_patch(stained: Path) -> None:
    material = WorkingTree(stained)
    for at in ("11", "node:11"):
        np.testing.assert_allclose(scene_of(material, CELL, at=at).centre_zyx, (10, 48, 50))
    patch = read_table(PATCHES, stained, specimen_id=CELL).iloc[3]
    low, high = scene_of(material, CELL, at="patch:3").place or ()
    np.testing.assert_allclose(np.subtract(high, low), [patch[f"{axis}1"] - patch[f"{axis}0"] for axis in "zyx"])
    np.testing.assert_allclose(np.add(low, 0.5), [patch[f"{axis}0"] for axis in "zyx"])
    for at, what in (("0", "no node 0; its 91 nodes are 1 to 91"), ("patch:99", "its patches are 0 to 19"), ("x", "say node:ID")):
        with pytest.raises(ConfigError, match=what):
            scene_of(material, CELL, at=at)


def test_cells_that_cannot_be_shown_are_told_apart(stained: Path, tmp_path: Path) -> None:
    material = WorkingTree(stained)
    with pytest.raises(StackError, match="there is no cell 5; the manifest has 5 cells"):
        scene_of(material, 5)
    with pytest.raises(StackError, match=f"cell {DATASET_CELLS[4]} is excluded .* has no volumes"):
        scene_of(material, DATASET_CELLS[4])
    root = Path(shutil.copytree(stained, tmp_path / "copy"))
    shutil.rmtree(root / image_store(CELL))
    assert scene_of(WorkingTree(root), CELL).image is None, "labels alone are shown"
    shutil.rmtree(root / label_store(CELL))
    with pytest.raises(StackError, match=f"brightfield pull --cell {CELL}"):
        scene_of(WorkingTree(root), CELL)
    assert [row.specimen_id for row in listed(WorkingTree(root), Filters()) if not row.here] == [CELL, DATASET_CELLS[4]]


def test_the_list_has_the_cells_that_pass(stained: Path) -> None:
    material = WorkingTree(stained)
    assert [row.specimen_id for row in listed(material, Filters())] == list(DATASET_CELLS)
    assert [row.specimen_id for row in listed(material, Filters(split="val"))] == [DATASET_CELLS[1]]
    assert [row.specimen_id for row in listed(material, Filters(grade="rejected"))] == [DATASET_CELLS[3]]
    assert [row.specimen_id for row in listed(material, Filters(finding="marker-tip"))] == [DATASET_CELLS[1]]
    with pytest.raises(ConfigError, match="--finding nothing: one of marker-tip"):
        listed(material, Filters(finding="nothing"))
    with pytest.raises(ConfigError, match="no cell of 5 passes --split test --finding marker-tip"):
        listed(material, Filters(split="test", finding="marker-tip"))


# ----------------------------------------------------------------------------------------------------------------------- layers


def test_a_prediction_is_codes_or_intensities(stained: Path, tmp_path: Path) -> None:
    labels = open_volume(stained / label_store(CELL))
    np.save(tmp_path / f"{CELL}.npy", labels.read())
    np.save(tmp_path / f"{DATASET_CELLS[1]}.npy", labels.read())
    np.save(tmp_path / "soft.npy", np.full(labels.shape, 0.25, np.float32))
    layers = (tmp_path, tmp_path / "soft.npy", stained / label_store(CELL))
    codes, soft, store = scene_of(WorkingTree(stained), CELL, layers=layers).extras
    assert (codes.is_codes, soft.is_codes, store.is_codes) == (True, False, True)
    assert (codes.store, store.store) == (None, stained / label_store(CELL))
    assert len({codes.name, soft.name, store.name}) == 3, "two files have the cell's name"
    np.testing.assert_array_equal(codes[3:9, 40:60, 10:90], labels[3:9, 40:60, 10:90])


@pytest.mark.parametrize("shape", [(24, 96, 319), (320, 96, 24)])
def test_a_layer_of_another_shape_is_refused_in_one_line(stained: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "7.npy", np.zeros(shape, np.uint8))
    with pytest.raises(GridError, match=r"7\.npy: shape .* is on no level of the labels") as caught:
        scene_of(WorkingTree(stained), CELL, layers=[tmp_path / "7.npy"])
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_no_volume_is_refused(stained: Path, tmp_path: Path) -> None:
    (tmp_path / "7.swc").write_text("1 1 0 0 0 1 -1\n")
    for path in (tmp_path / "7.swc", tmp_path / "nowhere.npy"):
        with pytest.raises(BrightfieldError, match=path.name):
            scene_of(WorkingTree(stained), CELL, layers=[path])
