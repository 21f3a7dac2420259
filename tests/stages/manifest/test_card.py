"""The card and the Croissant file: valid, complete, and the same wherever they are built."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import mlcroissant as mlc
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from brightfield.config.options import Config, SourceConfig, SourceKind, TubeShape
from brightfield.core.errors import TableError
from brightfield.core.layout import CARD_FILE, CROISSANT_FILE
from brightfield.core.schema import MANIFEST, NODES, PATCHES, TABLES, TILES
from brightfield.core.tables import read_table, write_table
from brightfield.core.text import markdown
from brightfield.stages.manifest.card import card, croissant, license_answers, write_card, write_croissant
from brightfield.stages.manifest.checks import run_checks
from brightfield.testing.dataset import dataset_config, make_dataset
from brightfield.volumes.volume import open_volume


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    make_dataset(root)
    return root


@pytest.mark.filterwarnings("default")
def test_mlcroissant_accepts_the_file_without_error_or_warning(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = mlc.Dataset(jsonld=str(dataset / CROISSANT_FILE))
    issues = found.metadata.ctx.issues
    assert issues.errors == set()
    # A date would make two builds of the same data differ.
    assert [w for w in issues.warnings if "datePublished" not in w] == []
    assert str(found.metadata.ctx.conforms_to).endswith("1.1") or "1_1" in str(found.metadata.ctx.conforms_to)


@pytest.mark.filterwarnings("default")
def test_mlcroissant_reads_the_records(dataset: Path) -> None:
    found = mlc.Dataset(jsonld=str(dataset / CROISSANT_FILE))
    for table in (MANIFEST, PATCHES):
        records = list(found.records(table.name))
        frame = read_table(table, dataset)
        assert [record[f"{table.name}/specimen_id"] for record in records] == frame["specimen_id"].tolist()
        assert set(records[0]) == {f"{table.name}/{name}" for name in table.column_names}


def test_every_table_is_in_the_distribution_with_its_hash(dataset: Path) -> None:
    files = {entry["@id"]: entry for entry in croissant(dataset, dataset_config())["distribution"]}
    for table in TABLES:
        entry = files[f"{table.name}.parquet"]
        assert (dataset / "data" / entry["contentUrl"]).is_file()
        assert len(entry["sha256"]) == 64
    for name, pattern in (("image-stores", "images/*.zarr/**"), ("label-stores", "labels/*.zarr/**"), ("skeletons", "skeletons/*.swc")):
        assert files[name]["includes"] == pattern


def test_responsible_ai_fields_are_filled_from_facts(dataset: Path) -> None:
    described = croissant(dataset, dataset_config())
    assert "3 Mus musculus" in described["rai:dataBiases"]
    assert described["rai:dataCollectionMissingData"].startswith("0 of 768 tiles")
    assert all(described[f"rai:{name}"] for name in ("dataCollection", "dataAnnotationProtocol", "dataLimitations", "dataUseCases"))


def test_a_missing_table_is_named(dataset: Path, tmp_path: Path) -> None:
    root = shutil.copytree(dataset, tmp_path / "copy")
    (root / NODES.path).unlink()
    with pytest.raises(TableError, match="nodes table is not there"):
        croissant(root, dataset_config())


def test_the_front_matter_is_what_the_hub_reads(dataset: Path) -> None:
    _, front, body = (dataset / CARD_FILE).read_text().split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["license"] == "other"
    assert fields["license_name"]
    assert fields["license_link"].startswith("https://")
    assert fields["task_categories"] == ["image-segmentation"]
    for config in fields["configs"]:
        assert [file["split"] for file in config["data_files"]] == ["train", "val", "test"]
        assert all((dataset / "data" / file["path"]).is_file() for file in config["data_files"])
    assert "no donor, image series or skeleton is on two sides" in body
    assert "| test | 1 | 1 | 1 | 0.1 |" in body


@pytest.mark.parametrize("kind", list(SourceKind))
def test_the_four_licence_questions_are_answered(kind: SourceKind) -> None:
    answers = license_answers(Config(source=SourceConfig(kind=kind)))
    assert len(answers) == 4
    assert all(len(answer) > 20 for answer in answers.values())
    if kind is SourceKind.allen:
        assert answers["Commercial use?"].startswith("No.")


HOSTILE = "<img src=x onerror=alert(2)>|x\n\n# H [c](javascript:alert(3)) `a` *b* <!-- &lt; \\u202e"


def test_text_of_the_source_is_shown_and_does_nothing(dataset: Path, tmp_path: Path) -> None:
    root = shutil.copytree(dataset, tmp_path / "copy")
    frame = read_table(MANIFEST, root)
    for column in ("dendrite_type", "reconstruction_type", "species"):
        frame[column] = HOSTILE
    write_table(MANIFEST, frame.assign(license_url="javascript:alert(9)", source_url=HOSTILE), root)
    config = dataset_config()
    config = replace(config, source=replace(config.source, kind=SourceKind.folder, license=HOSTILE, citation=HOSTILE))
    text = card(root, config)
    front, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(front)["license_name"] == HOSTILE
    assert len(body.splitlines()) == len(card(dataset, config).split("---\n", 2)[2].splitlines())
    assert not re.search(r"<[a-zA-Z!/]|(?<!\\)`a|(?<!\\)\*b|(?<!\\)\]\(", body)
    assert body.count("&lt;img src=x onerror=alert(2)&gt;\\|x \\# H \\[c\\](javascript:alert(3))") == body.count("onerror=alert(2)") >= 5
    assert any(f.check == "terms" and "no http or https address" in f.message for f in run_checks(root))


@given(st.text(max_size=40))
def test_no_text_leaves_its_line_or_its_cell(text: str) -> None:
    shown = markdown(text)
    assert len(shown.splitlines()) <= 1
    assert not re.search(r"[<>]|(?<!\\)(\\\\)*[|`\[\]*]", shown)


def test_the_card_says_where_tubes_are(dataset: Path) -> None:
    config = dataset_config()
    assert "labels.tube" not in card(dataset, config)
    fitted = replace(config, labels=replace(config.labels, evidence=True, tube=TubeShape.fitted))
    assert "moved to the ridge of stain beside the trace" in card(dataset, fitted)


def test_the_card_counts_what_is_labelled(dataset: Path) -> None:
    """Recounted from the arrays: the four classes, without background and unknown."""
    manifest = read_table(MANIFEST, dataset)
    body = card(dataset, dataset_config())
    for side, rows in manifest[manifest["split"] != "excluded"].groupby("split"):
        labels = [open_volume(dataset / path).read() for path in rows["label_path"]]
        painted = sum(int(np.isin(of_cell, [1, 2, 3, 4]).sum()) for of_cell in labels)
        assert painted > 0
        assert re.search(rf"^\| {side} \| .* \| {painted} \|$", body, re.MULTILINE)
    tiles = read_table(TILES, dataset)
    came = tiles[tiles["specimen_id"].isin(manifest.loc[manifest["split"] != "excluded", "specimen_id"]) & (tiles["state"] == "ok")]
    assert f"| voxels downloaded | {((came['y1'] - came['y0']) * (came['x1'] - came['x0'])).sum()} |" in body


def test_both_files_are_the_same_when_built_again_and_hold_no_path_of_this_machine(dataset: Path) -> None:
    before = [(dataset / file).read_bytes() for file in (CARD_FILE, CROISSANT_FILE)]
    write_card(dataset, dataset_config())
    write_croissant(dataset, dataset_config())
    assert before == [(dataset / file).read_bytes() for file in (CARD_FILE, CROISSANT_FILE)]
    assert str(dataset).encode() not in before[0] + before[1]


def test_own_stacks_carry_their_own_terms(dataset: Path) -> None:
    config = dataset_config()
    config = replace(config, source=replace(config.source, kind=SourceKind.folder, license="CC-BY-4.0", citation="Us 2026"))
    assert "CC-BY-4.0" in card(dataset, config)
    assert "Allen Institute Terms" not in card(dataset, config)
    assert croissant(dataset, config)["license"] == "CC-BY-4.0"


def test_the_croissant_file_is_json_of_one_document(dataset: Path) -> None:
    assert json.loads((dataset / CROISSANT_FILE).read_text()) == croissant(dataset, dataset_config())
