"""`dvc.yaml` says of every stage what it reads, writes and computes with, no less and no more."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from brightfield import cli
from brightfield.config.validate import group_names, options
from brightfield.run.algorithm import stage_folders

ROOT = Path(__file__).resolve().parent.parent
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def _names(entries: list[Any]) -> set[str]:
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def test_the_stages_are_those_of_the_command_line_in_their_order() -> None:
    assert tuple(STAGES) == cli.STAGES
    assert all(stage["cmd"] == f"brightfield stage {name}" for name, stage in STAGES.items())


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_exactly_the_packages_it_computes_with(name: str) -> None:
    declared = [dep for dep in STAGES[name]["deps"] if dep.startswith("src/")]
    assert tuple(declared) == stage_folders(name)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_names_parameters_that_exist_and_never_how_the_work_is_run(name: str) -> None:
    known = {*group_names(), *options()}
    assert set(STAGES[name]["params"]) <= known
    assert not any(key.split(".")[0] in ("compute", "meta") for key in STAGES[name]["params"])


@pytest.mark.parametrize("name", STAGES)
def test_what_a_stage_reads_was_written_by_an_earlier_one_or_is_in_git(name: str) -> None:
    earlier = list(STAGES)[: list(STAGES).index(name)]
    written = set().union(*(_names(STAGES[stage]["outs"]) for stage in earlier)) if earlier else set()
    read = {dep for dep in STAGES[name]["deps"] if not dep.startswith("src/")}
    assert {dep for dep in read if not (ROOT / dep).exists() or dep.startswith(("data/", "reports/"))} <= written


def test_labels_look_at_pixels_and_at_verdicts() -> None:
    assert {"data/images", "data/alignment.parquet", "data/keys/align.json"} <= set(STAGES["rasterize"]["deps"])
    assert {"labels", "align.stretch_um"} <= set(STAGES["rasterize"]["params"])


EXPECTED = {
    "core": set(STAGES),
    "volumes": {"query", "download", "align", "rasterize", "manifest", "report"},
    "built": {"download", "align", "rasterize", "manifest", "report"},
    "sources": {"query", "download"},
    "sources/mirror": {"query", "download"},
    "sources/demo": {"query", "download"},
    "raster": {"rasterize", "manifest"},
    "splitting": {"split", "manifest", "report"},
    "sampling": {"manifest", "report"},
    "run": set(),
    "config": set(),
    "versions": set(),
    "evaluation": set(),
    "testing": set(),
    "inspection": set(),
    "learn": set(),
    "viewing": set(),
    "": set(),  # the reader, the command line, the public face
} | {f"stages/{name}": {name} for name in STAGES}
"""Which stages run again after an edit in a package."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A DVC repository with the code, and stages that depend on it as ours do and do nothing; every stage is up to date."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("scratch")
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    stages = {
        name: {"cmd": "true", "deps": [dep for dep in stage["deps"] if dep.startswith("src/")], "outs": []}
        for name, stage in STAGES.items()
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    Repo.init(str(root), no_scm=True).close()
    with contextlib.chdir(root):
        Repo(str(root)).reproduce()
    return Repo(str(root))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", EXPECTED)
def test_an_edit_re_runs_the_stages_that_compute_with_it_and_no_other(scratch: Any, package: str) -> None:
    folder = Path(scratch.root_dir, "src", "brightfield", package)
    edited = next(path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py")
    before = edited.read_text()
    edited.write_text(before + "\n# a comment\n")
    try:
        assert {name.rpartition(":")[2] for name in scratch.status()} == EXPECTED[package]
    finally:
        edited.write_text(before)
    assert not scratch.status()


def test_every_package_has_its_row() -> None:
    folders = {path.parent.relative_to(ROOT / "src/brightfield").as_posix() for path in (ROOT / "src/brightfield").rglob("[a-z]*.py")}
    known = {name.removesuffix("/") or "." for name in EXPECTED}
    assert {folder for folder in folders if folder not in known and folder.split("/")[0] != "sources"} == set()
