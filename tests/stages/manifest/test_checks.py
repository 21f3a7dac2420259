"""Every check is silent on a sound dataset, and says exactly what is wrong with one that has a fault planted."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from brightfield.built.cells import BuiltCell, built_cells
from brightfield.config.options import Config, SplitConfig
from brightfield.core.cell import Cell
from brightfield.core.codes import Finding, Severity
from brightfield.core.errors import CheckError
from brightfield.core.files import write_json
from brightfield.core.layout import (
    CARD_FILE,
    CROISSANT_FILE,
    FILES_FILE,
    PARAMS_FILE,
    REASON_GROUP,
    hub_file,
    image_store,
    label_store,
    skeleton_file,
)
from brightfield.core.schema import ALIGNMENT_CELLS, CELLS, FINDINGS, LABEL_STATS, MANIFEST, NODES, PATCHES, SPLITS, Table
from brightfield.core.tables import frame_of, read_table, write_table
from brightfield.stages.manifest.checks import CHECKS, check_hashes, run_checks
from brightfield.stages.manifest.findings import as_text, refuse_errors
from brightfield.stages.manifest.hub import write_hub
from brightfield.stages.manifest.listing import check_files, check_orphans, write_listing
from brightfield.stages.manifest.mix_checks import check_mix, check_quotas
from brightfield.stages.manifest.voxel_checks import cell_faults
from brightfield.testing.dataset import dataset_config, make_dataset, publish, table_row
from brightfield.volumes.volume import open_volume

type Fault = Callable[[Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    make_dataset(root)
    return root


@pytest.fixture
def dataset(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "dataset")


def _edit(root: Path, table: Table, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> None:
    frame = read_table(table, root)
    changed = change(frame)
    write_table(table, frame if changed is None else changed, root)


def _set(table: Table, specimen_id: int, column: str, value: Any) -> Fault:
    def change(frame: pd.DataFrame) -> None:
        frame.loc[frame["specimen_id"] == specimen_id, column] = value

    return lambda root: _edit(root, table, change)


def _redescribe(root: Path) -> None:
    """Card and Croissant of the tables as they are now, so that only the planted fault is seen."""
    from brightfield.stages.manifest.card import write_card, write_croissant

    write_hub(root)
    write_card(root, dataset_config())
    write_croissant(root, dataset_config())


def _rehash(root: Path) -> None:
    """The manifest's hashes of the volumes as they are now."""
    from brightfield.stages.manifest.table import build_manifest

    write_table(MANIFEST, build_manifest(root, dataset_config(), source_url="test"), root)
    _redescribe(root)


def _paint(root: Path, store: Path, value: int, level: int = 0) -> None:
    """Fill the first chunk of a level of a volume."""
    volume = open_volume(root / store)
    volume.write_dense_shard(level, (0, 0, 0), np.full(_shard_shape(volume, level), value, np.uint8))
    _rehash(root)


def _shard_shape(volume: Any, level: int) -> list[int]:
    return [hi - lo for lo, hi in volume.spec(level).shard_window((0, 0, 0))]


def _errors(findings: list[Finding]) -> list[tuple[str, int | None]]:
    return [(f.check, f.specimen_id) for f in findings]


# ------------------------------------------------------------------------------------------------------------------- sound


def test_a_sound_dataset_has_no_findings(sound: Path) -> None:
    findings = run_checks(sound)
    assert findings == []
    assert as_text(findings) == "0 error, 0 warning, 0 info"
    refuse_errors(findings)


def test_the_same_trouble_in_many_cells_is_told_once() -> None:
    many = [Finding(Severity.WARNING, "terms", "no licence", cell, "set source.license") for cell in range(500)]
    text = as_text([Finding(Severity.ERROR, "hashes", "another content", 3, "build again"), *many])
    assert len(text.splitlines()) == 2 + 5 + 2  # the page that explains, and the counts
    assert "and 497 more such, 500 cells in all" in text
    assert text.count("set source.license") == 1
    assert text.endswith("1 error, 500 warning, 0 info")


def test_every_check_is_in_the_list_once() -> None:
    names = [check.__name__ for check in CHECKS]
    assert len(set(names)) == len(names)


# ------------------------------------------------------------------------------------------------------------------ planted


def _flip_byte(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_one_mutated_byte_in_any_file_is_found_and_named(dataset: Path) -> None:
    """Every file below data/, one at a time: the check that hashes tells which file, or which volume, it is in."""
    data = dataset / "data"
    files = [path for path in sorted(data.rglob("*")) if path.is_file()]
    assert {path.relative_to(data).parts[0] for path in files} == {path.name for path in data.iterdir()}
    assert len(files) > 60
    assert run_checks(dataset, (check_hashes, check_files, check_orphans)) == []
    for path in files:
        before = path.read_bytes()
        _flip_byte(path, len(before) // 2)
        parts = path.relative_to(dataset).parts
        found = run_checks(dataset, (check_hashes if parts[1] in ("images", "labels", "skeletons") else check_files,))
        name = "/".join(parts[: next((k + 1 for k, part in enumerate(parts) if part.endswith(".zarr")), len(parts))])
        assert any(f.severity is Severity.ERROR and name in f.message for f in found), name
        path.write_bytes(before)
    assert run_checks(dataset) == []


def test_a_file_that_nobody_names_is_found_wherever_it_lies(dataset: Path) -> None:
    strays = ["x.txt", "swc/7_um.swc", "keys/other.json", "hub/patches/all.parquet", "new/deep/y.bin", "skeletons/9.swc", "labels/9.zarr/z"]
    for name in strays:
        (dataset / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (dataset / "data" / name).write_text("x")
    (dataset / "data" / ".gitignore").write_text("in git")
    found = run_checks(dataset)
    assert {(f.severity, f.check) for f in found} == {(Severity.ERROR, "orphans")}
    assert {f.message.split()[0] for f in found} == {f"data/{name.removesuffix('/z')}" for name in strays}


def test_a_list_that_leaves_a_file_out_is_found(dataset: Path) -> None:
    path = dataset / FILES_FILE
    listed = json.loads(path.read_text())
    del listed["data/README.md"]
    write_json(path, listed)
    assert [f.message for f in run_checks(dataset)] == ["data/README.md is not in data/files.json"]
    path.unlink()
    assert [f.check for f in run_checks(dataset)] == ["files"]


def test_rows_of_another_side_in_a_file_for_hubs_are_found(dataset: Path) -> None:
    shutil.copy(dataset / hub_file("patches", "test"), dataset / hub_file("patches", "train"))
    write_listing(dataset)
    assert [(f.check, f.severity) for f in run_checks(dataset)] == [("hub", Severity.ERROR)]


def _two_rows(root: Path) -> None:
    arrow = pq.read_table(root / PATCHES.path)
    pq.write_table(arrow.take([1, 0, *range(2, len(arrow))]), root / PATCHES.path)
    _redescribe(root)


def _drop_units(root: Path) -> None:
    arrow = pq.read_table(root / NODES.path)
    schema = arrow.schema
    for k, field in enumerate(schema):
        schema = schema.set(k, field.with_metadata({"unit": "furlong"}))
    pq.write_table(arrow.cast(schema), root / NODES.path)
    _redescribe(root)


def _other_grid(root: Path) -> None:
    """Labels half a voxel beside their image."""
    file = root / label_store(102) / "zarr.json"
    document = json.loads(file.read_text())
    document["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][1]["translation"][2] += 0.25
    file.write_text(json.dumps(document))
    _rehash(root)


def _unreasoned(root: Path) -> None:
    reasons = open_volume(root / label_store(101) / REASON_GROUP)
    reasons.write_shard(0, (0, 0, 0), dict.fromkeys(reasons.spec(0).inner_indices((0, 0, 0)), 0))
    _rehash(root)


def _patch_row(column: str, value: Any) -> Fault:
    def change(root: Path) -> None:
        def edit(frame: pd.DataFrame) -> None:
            frame.loc[frame.index[frame["specimen_id"] == 101][0], column] = value

        _edit(root, PATCHES, edit)
        _redescribe(root)

    return change


def _shift_patch(root: Path) -> None:
    """A patch where nothing was downloaded."""

    def edit(frame: pd.DataFrame) -> None:
        row = frame.index[frame["specimen_id"] == 101][0]
        frame.loc[row, ["x0", "x1"]] = [300, 316]

    _edit(root, PATCHES, edit)
    _redescribe(root)


def _excluded_patch(root: Path) -> None:
    def edit(frame: pd.DataFrame) -> None:
        frame.loc[frame["specimen_id"] == 103, "specimen_id"] = 104

    _edit(root, PATCHES, edit)
    _redescribe(root)


def _move(root: Path) -> None:
    """One cell moved from train to test, in both tables."""
    for table in (SPLITS, MANIFEST):
        _set(table, 101, "split", "test")(root)
        _set(table, 101, "fold", pd.NA)(root)
    _set(PATCHES, 101, "split", "test")(root)
    _redescribe(root)


def _shared_donor(root: Path) -> None:
    donor = int(read_table(CELLS, root).set_index("specimen_id").loc[103, "donor_id"])
    for table in (CELLS, MANIFEST):
        _set(table, 101, "donor_id", donor)(root)
    digest = hashlib.sha256((root / CELLS.path).read_bytes()).hexdigest()
    _edit(root, MANIFEST, lambda frame: frame.assign(snapshot_sha256=digest))
    _redescribe(root)


def _other_config(root: Path) -> None:
    values = yaml.safe_load((root / PARAMS_FILE).read_text())
    values["labels"]["r_min_um"] = 0.3
    (root / PARAMS_FILE).write_text(yaml.safe_dump(values))


def _note(root: Path) -> None:
    row = table_row(FINDINGS, specimen_id=101, number=0, severity="warning", check="z-scale", message="steep", remedy="look")
    write_table(FINDINGS, frame_of(FINDINGS, [row]), root)
    _redescribe(root)


def _pieces(root: Path) -> None:
    _set(LABEL_STATS, 102, "n_components", 3)(root)
    _rehash(root)


def _fewer_nodes(root: Path) -> None:
    _edit(root, NODES, lambda frame: frame.drop(index=frame.index[frame["specimen_id"] == 101][5]))
    _redescribe(root)


def _beside(root: Path) -> None:
    for name, shift_um in (("shift_y_um", 0.16), ("shift_x_um", -0.16)):
        _set(ALIGNMENT_CELLS, 102, name, shift_um)(root)
    _redescribe(root)


def _no_license(root: Path) -> None:
    _set(MANIFEST, 102, "license", " ")(root)
    _redescribe(root)


def _stray(root: Path) -> None:
    (root / "data" / "images" / "999.zarr").mkdir()


def _lost(root: Path) -> None:
    (root / skeleton_file(103)).unlink()


def _disagree(root: Path) -> None:
    _set(MANIFEST, 102, "layer", "4")(root)
    _redescribe(root)


def _broken_card(root: Path) -> None:
    (root / CARD_FILE).write_text((root / CARD_FILE).read_text().replace("non-commercial", "commercial"))


def _broken_croissant(root: Path) -> None:
    croissant = json.loads((root / CROISSANT_FILE).read_text())
    croissant["distribution"][0]["sha256"] = "0" * 64
    (root / CROISSANT_FILE).write_text(json.dumps(croissant))


FAULTS: dict[str, tuple[Fault, str, int | None, str]] = {
    "a table is gone": (lambda root: (root / NODES.path).unlink(), "schema", None, "nodes.parquet is not there"),
    "units are wrong": (_drop_units, "schema", None, "units and descriptions"),
    "rows are out of order": (_two_rows, "schema", None, "not ordered"),
    "manifest disagrees": (_disagree, "join", 102, "disagree about layer"),
    "another configuration": (_other_config, "configuration", None, "another configuration"),
    "no licence": (_no_license, "terms", 102, "no license"),
    "a note of an earlier stage": (_note, "z-scale", 101, "steep"),
    "a skeleton is gone": (_lost, "hashes", 103, "is not there"),
    "a stray store": (_stray, "orphans", None, "999.zarr is named by no table"),
    "labels on another grid": (_other_grid, "grids", 102, "the label is on"),
    "a code that does not exist": (lambda root: _paint(root, label_store(104), 77), "codes", 104, r"codes \[77\]"),
    "unknown without reason": (_unreasoned, "codes", 101, "no reason"),
    "a coarse level of other pixels": (lambda root: _paint(root, image_store(102), 7, 1), "pyramids", 102, "not the mean"),
    "labels in pieces": (_pieces, "components", 102, "3 pieces"),
    "a node is gone": (_fewer_nodes, "nodes", 101, "90 rows"),
    "a cell moved to test": (_move, "splits", 101, "the cell is on test"),
    "a donor on two sides": (_shared_donor, "splits", None, "is in several splits"),
    "a cell beside its stain": (_beside, "alignment", 102, "0.23 um beside its stain"),
    "a patch out of the volume": (_patch_row("z1", 99), "patches", 101, "not within the volume"),
    "a patch where nothing was downloaded": (_shift_patch, "patches", 101, "outside of what was downloaded"),
    "a patch that counts wrong": (_patch_row("voxels_basal", 99999), "patches", 101, "row counts"),
    "a patch on another side": (_patch_row("split", "test"), "patches", 101, "on side"),
    "a weight": (_patch_row("weight", 0.9), "patches", 101, "weights that restore the mix"),
    "patches of an excluded cell": (_excluded_patch, "patches", 104, "excluded or unknown"),
    "a changed card": (_broken_card, "description", None, "README.md"),
    "a changed croissant": (_broken_croissant, "description", None, "croissant.json"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_the_one_finding(dataset: Path, fault: str) -> None:
    plant, check, specimen_id, message = FAULTS[fault]
    plant(dataset)
    found = run_checks(dataset, [check for check in CHECKS if check is not check_files])  # which finds any change of a file
    # The moved cell was the only one of its side; the patches of the excluded cell were another's, which now has none.
    follows = {"a cell moved to test": {"balance"}, "patches of an excluded cell": {"quotas"}}
    assert {f.check for f in found} - follows.get(fault, set()) == {check}, as_text(found)
    assert any(f.specimen_id == specimen_id and re.search(message, f.message) for f in found), as_text(found)
    assert all(f.remedy for f in found)


IN_A_CELL = [
    name for name, (_, check, _, said) in FAULTS.items() if check in ("codes", "patches") and not re.search("weights|excluded", said)
]


@pytest.mark.parametrize("fault", IN_A_CELL)
def test_a_build_looks_for_the_same_faults_in_the_cell_that_it_describes(dataset: Path, fault: str) -> None:
    plant, _, specimen_id, message = FAULTS[fault]
    cells = [built.cell for built in built_cells(dataset, dataset_config())]
    sides = read_table(SPLITS, dataset).set_index("specimen_id")["split"]

    def faults(cell: Cell) -> list[str]:
        patches = read_table(PATCHES, dataset, specimen_id=cell.specimen_id)
        return list(cell_faults(BuiltCell(dataset, cell, dataset_config()), patches, sides[cell.specimen_id]))

    assert [faults(cell) for cell in cells] == [[]] * len(cells)
    plant(dataset)
    found = {cell.specimen_id: told for cell in cells if (told := faults(cell))}
    assert list(found) == [specimen_id]
    assert re.search(message, found[specimen_id or 0][0])


@pytest.mark.slow
def test_unbalanced_sides_are_a_warning(dataset: Path) -> None:
    config = dataset_config()
    config.split = SplitConfig(test=0.0)
    _with_config(dataset, config)
    found = run_checks(dataset)
    assert [(f.severity, f.check) for f in found] == [(Severity.WARNING, "balance")]
    assert "no cell is on side test" in found[0].message


@pytest.mark.slow
def test_a_mix_that_the_cells_cannot_give_is_told_once_with_the_reason(dataset: Path) -> None:
    """Cables of dendrite in noise: no axon, and nothing that is dark."""
    _with_config(dataset, dataset_config(axon=0.25, hard_negative=0.15))
    found = run_checks(dataset)
    mix = [f for f in found if f.check == "mix"]
    assert [(f.severity, f.message.split(":")[0]) for f in mix] == [
        (Severity.WARNING, f"side {side} gives no axon, hard_negative") for side in ("test", "train", "val")
    ]
    told = [(f.severity, f.message) for f in found if f.check == "quotas"]
    few = "3 cell(s) give fewer than 80% of their {}: {} (101, 102, 103)"
    assert told == [
        (Severity.INFO, few.format("axon patches", "the axon is unknown where it is not traced")),
        (
            Severity.INFO,
            few.format("hard_negative patches", "the axon is unknown, and no stain of it is marked as unexplained"),
        ),
    ]
    assert len(found) == len(mix) + len(told)


@pytest.mark.slow
def test_a_cell_that_could_give_more_patches_is_named(dataset: Path) -> None:
    drop = lambda frame: frame[(frame["specimen_id"] != 102) | (frame["kind"] != "random")]  # noqa: E731
    _edit(dataset, PATCHES, drop)
    found = run_checks(dataset, (check_quotas, check_mix))
    assert [(f.check, f.specimen_id, f.severity) for f in found] == [("mix", None, Severity.WARNING), ("quotas", 102, Severity.WARNING)]
    assert "0 of 2 random patches" in found[1].message


@pytest.mark.slow
def test_a_folder_without_stated_terms_is_a_warning(dataset: Path) -> None:
    config = dataset_config()
    config.source.kind = type(config.source.kind).folder
    config.source.path = "stacks"
    _with_config(dataset, config)
    found = run_checks(dataset)
    assert {(f.severity, f.check) for f in found} == {(Severity.WARNING, "terms")}


def _with_config(root: Path, config: Config) -> None:
    from brightfield.config.compose import write_params

    write_params(config, root)
    publish(root, config)


def test_errors_forbid_to_publish_and_say_what_to_do(dataset: Path) -> None:
    _lost(dataset)
    with pytest.raises(CheckError, match=r"cell 103: .*is not there\n\s+-> fetch it"):
        refuse_errors(run_checks(dataset))
