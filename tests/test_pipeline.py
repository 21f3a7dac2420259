"""`dvc.yaml` says of every stage what it reads, writes and computes with, no less and no more."""

from __future__ import annotations

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


def test_labels_never_wait_for_pixels() -> None:
    assert "data/images" not in STAGES["rasterize"]["deps"]
