"""What the documentation tells users to type works as it is written."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from brightfield.config.compose import reference as configuration
from brightfield.core.schema import MANIFEST, PATCHES, TABLES
from brightfield.testing.dataset import make_dataset

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """`docs/make_reference.py`, which is no module of the package."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_pages_are_what_the_code_says(reference: ModuleType) -> None:
    for path, text in reference.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"write {path.name} anew: make reference"


def test_the_glossary_explains_columns_and_options_that_exist_and_those_nobody_guesses(reference: ModuleType) -> None:
    names = {name for table in TABLES for column in table.columns for name in (column.name, f"{table.name}.{column.name}")}
    names |= set(re.findall(r"^\| `([\w.]+)`", configuration(), re.MULTILINE))
    known = {pattern: fnmatch.filter(names, pattern) for pattern in reference.explained()}
    assert [pattern for pattern, found in known.items() if not found] == []
    explained = {name for found in known.values() for name in found}
    assert {
        "absent_axon",
        "d_prime",
        "weight",
        "difficulty",
        "fold",
        "grade",
        "patches.kind",
        "tip",
        "stretch",
        "image.z_step",
    } <= explained


PLAIN = (
    "patch",
    "*name",
    "*_id",
    "*_url",
    "*_path",
    "*_bytes",
    "bytes_*",
    "bits",
    "*_px",
    "pixel_um",
    *("z0", "z1", "y0", "y1", "x0", "x1"),
    *("voxels_background", "code_version", "license", "citation"),
)
"""Columns of the tables that people train by which mean what they are called: places, sizes, addresses."""


def test_every_column_that_people_train_by_is_plain_or_in_the_glossary(reference: ModuleType) -> None:
    page = (ROOT / "docs" / "reference" / "tables.md").read_text(encoding="utf-8")
    for table in (MANIFEST, PATCHES):
        rows = page.partition(f"## {table.name}:")[2].partition("\n## ")[0]
        assert re.findall(r"^\| \[?`(\w+)`", rows, re.MULTILINE) == list(table.column_names)
        linked = set(re.findall(r"^\| \[`(\w+)`\]\(glossary.md#", rows, re.MULTILINE))
        assert [
            name for name in table.column_names if name not in linked and not any(fnmatch.fnmatch(name, plain) for plain in PLAIN)
        ] == []


def test_the_glossary_has_the_words_of_training_scores_card_and_report(reference: ModuleType) -> None:
    text = (ROOT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8").lower()
    words = ["unknown", "rim", "reason", "spiny", "soma", "dendrite", "axon", "neurite", "arbor", "tip", "donor", "salt", "side", "fold"]
    words += ["stratum", "weight", "difficulty", "absorbance", "hard_negative", "keypoint", "class validity", "d'", "grade", "verdict"]
    words += ["stretch", "cldice", "expected run length", "merge"]
    assert [word for word in words if not re.search(rf"(?<![a-z]){re.escape(word)}", text)] == []


def run_first_python_block(page: str) -> dict[str, Any]:
    """The names that the page's first Python block leaves behind."""
    names: dict[str, Any] = {}
    block = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[0]
    exec(compile(block, page, "exec"), names)
    return names


def test_the_readme_opens_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = run_first_python_block("README.md")
    manifest = names["manifest"]
    assert names["cell"].specimen_id in set(manifest.loc[manifest["split"] == "train", "specimen_id"])
    assert names["cell"].image[8:10, 20:30, 40:50].any()


def test_the_training_guide_gives_stain_labels_and_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = run_first_python_block("docs/how-to/train.md")
    image, labels, known = (names[name] for name in ("image", "labels", "known"))
    assert image.shape == (1, *labels.shape) == (1, 8, 16, 16)
    assert 0 <= image.min() <= image.max() <= 1
    np.testing.assert_array_equal(known, labels != 255)
    assert known.any()
