"""The work cache under a real DVC: counts of computed cells, never seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml

from repositories import command

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("at_home")]

STAGE = f"""
import os, sys, yaml
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_workcache import run
params = yaml.safe_load(open("params.yaml"))
done = run(Path("."), dict.fromkeys(range(1, params["cells"] + 1), params["text"]))
Path(os.environ["BRIGHTFIELD_LOG"]).open("a").write(f"{{done}}\\n")
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BRIGHTFIELD_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture
def root(tmp_path: Path, log: Path) -> Path:
    root = tmp_path / "origin"
    root.mkdir()
    command(root, "git", "init", "-q")
    command(root, "dvc", "init", "-q")
    command(root, "dvc", "config", "cache.type", "hardlink,symlink,copy")
    command(root, "dvc", "remote", "add", "-d", "team", str(tmp_path / "remote"))
    outs = ["data/images", "data/splits.parquet", "data/keys/download.json"]
    stage = {"cmd": f'"{sys.executable}" stage.py', "deps": ["stage.py"], "params": ["cells", "text"], "outs": outs}
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"download": stage}}))
    (root / ".gitignore").write_text("/data/\n/.work/\n")
    (root / ".dvcignore").write_text("/.work\n")
    build(root, 20)
    command(root, "git", "add", "-A")
    command(root, "git", "commit", "-q", "-m", "twenty")
    return root


def build(root: Path, cells: int, text: str = "a") -> None:
    (root / "params.yaml").write_text(yaml.safe_dump({"cells": cells, "text": text}))
    command(root, "dvc", "repro")


def runs(log: Path) -> list[str]:
    return log.read_text().splitlines()


def test_one_cell_more_computes_one_and_there_and_back_computes_nothing(root: Path, log: Path) -> None:
    first = (root / "dvc.lock").read_text()
    build(root, 21)
    build(root, 20, "b")
    build(root, 20)
    assert (root / "dvc.lock").read_text() == first
    assert runs(log)[:3] == ["20 computed, 0 found, 0 adopted", "1 computed, 20 found, 0 adopted", "20 computed, 0 found, 0 adopted"]
    assert all(line.startswith("0 computed") for line in runs(log)[3:])
    assert len(list((root / "data" / "images").iterdir())) == 20


def test_an_edit_of_the_stage_that_does_not_compute_runs_it_and_computes_nothing(root: Path, log: Path) -> None:
    with (root / "stage.py").open("a") as script:
        script.write("# a remark\n")
    command(root, "dvc", "repro")
    assert runs(log)[-1] == "0 computed, 20 found, 0 adopted"


def test_a_file_lies_on_the_disk_once(root: Path) -> None:
    output = root / "data" / "images" / "7.zarr" / "0" / "c"
    same = [
        path
        for folder in (".work", ".dvc/cache")
        for path in (root / folder).rglob("*")
        if path.is_file() and os.path.samefile(path, output)
    ]
    assert len(same) == 2
    assert output.stat().st_mode & 0o222 == 0


def test_a_clone_that_pulled_computes_only_what_is_new(root: Path, log: Path, tmp_path: Path) -> None:
    command(root, "dvc", "push", "-q")
    command(tmp_path, "git", "clone", "-q", str(root), "clone")
    clone = tmp_path / "clone"
    command(clone, "dvc", "pull", "-q")
    build(clone, 21)
    assert runs(log)[-1] == "1 computed, 0 found, 20 adopted"
    build(root, 21)
    assert (clone / "dvc.lock").read_text() == (root / "dvc.lock").read_text()


def test_an_experiment_in_a_temporary_clone_finds_finished_cells(root: Path, log: Path) -> None:
    command(root, "dvc", "exp", "run", "--temp", "-S", "cells=22")
    assert runs(log)[-1] == "2 computed, 20 found, 0 adopted"


def test_outputs_that_were_lost_are_linked_again(root: Path, log: Path) -> None:
    command(root, "dvc", "repro", "-f")
    assert runs(log)[-1] == "0 computed, 20 found, 0 adopted"
