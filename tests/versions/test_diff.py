from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from brightfield.core.codes import Finding, Severity
from brightfield.core.errors import CheckError, ConfigError, SourceError, TableError
from brightfield.versions.diff import Bump, diff
from brightfield.versions.pull import pull_targets
from brightfield.versions.release import next_version, release
from repositories import command, commit_version, data_repository, write_dataset

pytestmark = [pytest.mark.usefixtures("at_home"), pytest.mark.slow]

CELLS: dict[int, dict[str, Any]] = {1: {"split": "train"}, 2: {"split": "val"}, 3: {"split": "test"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "repository").mkdir()
    return data_repository(tmp_path / "repository", CELLS)


def test_equal_versions_differ_in_nothing(root: Path) -> None:
    difference = diff(root, "HEAD")
    assert (difference.added, difference.removed, difference.changed, difference.moved, difference.options) == ((), (), (), (), ())
    assert difference.bump is Bump.PATCH
    assert "cells: 3" in difference.as_text()


def test_cells_added_are_minor_and_removed_are_major(root: Path) -> None:
    commit_version(root, {**CELLS, 4: {}})
    added = diff(root, "HEAD~1", "HEAD")
    assert (added.added, added.removed, added.bump) == ((4,), (), Bump.MINOR)
    removed = diff(root, "HEAD", "HEAD~1")
    assert (removed.added, removed.removed, removed.bump) == ((), (4,), Bump.MAJOR)
    assert "cells: 3 -> 4" in added.as_text()


def test_a_cell_on_another_side_is_major_and_named(root: Path) -> None:
    commit_version(root, {**CELLS, 2: {"split": "test"}})
    difference = diff(root, "HEAD~1")
    assert difference.bump is Bump.MAJOR
    assert "2  val -> test" in difference.as_text()


def test_an_option_explains_what_depends_on_it(root: Path) -> None:
    labels = {i: {**cell, "labels": f"other {i}"} for i, cell in CELLS.items()}
    commit_version(root, labels, overrides=("labels.r_min_um=0.3", "align.stretch_um=25", "compute.workers=2"))
    difference = diff(root, "HEAD~1", "HEAD")
    assert difference.options == ("labels.r_min_um: 0.23 -> 0.3", "align.stretch_um: 15.0 -> 25.0")
    assert {change.specimen_id: (change.what, change.why) for change in difference.changed} == dict.fromkeys(
        CELLS, (("labels",), ("option: labels.r_min_um 0.23 -> 0.3",))
    )
    assert "1, 2, 3: labels because of option: labels.r_min_um 0.23 -> 0.3" in difference.as_text()
    assert difference.bump is Bump.MAJOR


def test_a_source_that_changed_a_cell_explains_that_cell(root: Path) -> None:
    commit_version(root, {**CELLS, 2: {"split": "val", "skeleton": "new", "reconstruction_id": 77, "layer": "6a"}})
    (change,) = diff(root, "HEAD~1", "HEAD").changed
    assert change.specimen_id == 2
    assert any(reason.startswith("source: reconstruction_id") and reason.endswith("77") for reason in change.why)
    assert any(reason.startswith("source: skeleton ") for reason in change.why)


def test_what_no_option_and_no_source_explains_is_the_codes_doing(root: Path) -> None:
    commit_version(root, {i: {**cell, "labels": "x", "code_version": "9.9"} for i, cell in CELLS.items()})
    (first, *_) = diff(root, "HEAD~1", "HEAD").changed
    assert len(first.why) == 1
    assert first.why[0].startswith("code ")
    assert first.why[0].endswith("-> 9.9")


def test_the_same_pixels_in_other_chunks_are_a_patch(root: Path) -> None:
    commit_version(root, {i: {**cell, "pixels": i} for i, cell in CELLS.items()})
    other = {i: {**cell, "pixels": i, "image": f"rechunked {i}"} for i, cell in CELLS.items()}
    commit_version(root, other, overrides=("image.chunk_zyx=[16,32,32]",))
    difference = diff(root, "HEAD~1", "HEAD")
    assert difference.bump is Bump.PATCH
    assert "same data, other serialisation" in difference.as_text()
    commit_version(root, {**other, 3: {"split": "test", "pixels": "altered", "image": "x"}}, overrides=("image.chunk_zyx=[16,64,32]",))
    assert diff(root, "HEAD~1", "HEAD").bump is Bump.MAJOR


def test_the_working_tree_is_compared_without_a_second_revision(root: Path) -> None:
    write_dataset(root, {1: {}, 2: {"split": "val"}})
    assert diff(root, "HEAD").removed == (3,)


def test_an_unknown_revision_and_a_missing_manifest_are_told(root: Path) -> None:
    with pytest.raises(SourceError, match="v9 is no revision"):
        diff(root, "v9")
    (root / "data" / "manifest.parquet").unlink()
    with pytest.raises(TableError, match="dvc repro"):
        diff(root, "HEAD")


@pytest.mark.parametrize(("bump", "version"), [(Bump.PATCH, "v1.2.4"), (Bump.MINOR, "v1.3.0"), (Bump.MAJOR, "v2.0.0")])
def test_the_next_version_follows_the_rule(bump: Bump, version: str) -> None:
    assert next_version("v1.2.3", bump) == version


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    found: list[Finding] = []
    monkeypatch.setitem(sys.modules, "brightfield.stages.manifest.checks", types.SimpleNamespace(run_checks=lambda _: found))
    monkeypatch.setattr("brightfield.stages.manifest.checks", sys.modules["brightfield.stages.manifest.checks"], raising=False)
    return found


@pytest.mark.usefixtures("findings")
def test_a_release_writes_changelog_and_tag_and_the_next_one_builds_on_it(root: Path) -> None:
    assert "would tag v1.0.0" in str(release(root, dry_run=True))
    assert command(root, "git", "tag") == ""
    assert release(root).version == "v1.0.0"
    commit_version(root, {**CELLS, 4: {}})
    assert "git push --follow-tags" in str(release(root))
    assert command(root, "git", "tag").split() == ["v1.0.0", "v1.1.0"]
    text = (root / "DATA_CHANGELOG.md").read_text()
    assert text.index("## v1.1.0") < text.index("1 cell(s) added: 4") < text.index("## v1.0.0")
    assert text.count("# Data changelog") == 1
    assert command(root, "git", "status", "--porcelain") == ""


def test_a_release_refuses_what_is_not_proven(root: Path, findings: list[Finding]) -> None:
    findings.append(Finding(Severity.WARNING, "harmless", "fine"))
    release(root, dry_run=True)
    findings.append(Finding(Severity.ERROR, "leak", "donor 7 is on both sides"))
    with pytest.raises(CheckError, match="donor 7 is on both sides"):
        release(root)


@pytest.mark.usefixtures("findings")
def test_a_release_refuses_what_is_not_committed_or_not_built(root: Path) -> None:
    params = root / "params.yaml"
    fresh = params.read_text()
    params.write_text(fresh.replace("r_min_um: 0.23", "r_min_um: 0.3"))
    with pytest.raises(ConfigError, match="stale"):
        release(root)
    params.write_text(fresh)
    (root / ".gitignore").write_text("/data/\n")
    with pytest.raises(CheckError, match="no commit holds"):
        release(root)
    command(root, "git", "checkout", ".gitignore")
    write_dataset(root, {1: {}})
    with pytest.raises(CheckError, match="dvc repro"):
        release(root)


def test_targets_of_a_part(root: Path) -> None:
    assert pull_targets(root, split="val") == ["data/skeletons/2.swc", "data/labels/2.zarr", "data/images/2.zarr"]
    assert pull_targets(root, cells=[3], labels_only=True) == ["data/skeletons/3.swc", "data/labels/3.zarr"]
    assert pull_targets(root, labels_only=True) == ["data/skeletons", "data/labels"]
    with pytest.raises(ConfigError, match="one of train, val, test, excluded"):
        pull_targets(root, split="vall")
    with pytest.raises(ConfigError, match="no cell 9"):
        pull_targets(root, cells=[1, 9])
