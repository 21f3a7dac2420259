"""All seven stages on somebody's own stacks, as a microscopist runs them: a real DVC, killed in every stage, on two unlike machines."""

from __future__ import annotations

import html
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tifffile
import yaml

from brightfield import manifest
from brightfield.core.space import Grid
from brightfield.core.swc import format_swc
from brightfield.testing.grids import stain
from brightfield.testing.skeletons import cable
from repositories import REPOSITORY, command
from warm import without

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("at_home")]

CELLS = (11, 12, 13, 14)
BY_CELL = ("download", "align", "rasterize", "manifest", "report")
"""Stages that work cell by cell; the folder of that name in the work cache shows their progress."""


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory per cell with a file per plane and an SWC, and a table that says which mouse a cell is of."""
    root = tmp_path_factory.mktemp("stacks")
    grid = Grid((40, 260, 420), (0.28, 0.1144, 0.1144), (0.0, 0.0, 0.0))
    for cell in CELLS:
        skeleton = cable(20.0 + cell, start_zyx_um=(5.0, 14.0, 6.0))
        (root / str(cell)).mkdir()
        (root / str(cell) / f"{cell}.swc").write_bytes(format_swc(skeleton))
        for number, plane in enumerate(stain(skeleton, grid, seed=cell), start=1):
            tifffile.imwrite(root / str(cell) / f"z{number}.tif", plane)
    rows = [f"{cell},{cell // 2},mouse {cell}" for cell in CELLS]
    (root / "cells.csv").write_text("\n".join(["directory,donor_id,name", *rows, ""]))
    return root


def checkout(root: Path, stacks: Path, *overrides: str) -> Path:
    """The files that git tracks, as a repository of its own that is configured for `stacks`."""
    for name in command(REPOSITORY, "git", "ls-files", "-z").strip("\0").split("\0"):
        if not name.startswith(("tests/", "benchmarks/", "docs/")) and (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, root / name)
    command(root, "git", "init", "-q")
    configure(root, stacks, *overrides)
    return root


def configure(root: Path, stacks: Path, *overrides: str) -> None:
    """Write params.yaml; without worker processes unless they are asked for."""
    place = [f"source.path={stacks}", f"source.metadata={stacks / 'cells.csv'}", "source.pixel_um=0.1144", "source.plane_um=0.28"]
    command(root, "brightfield", "config", "source=folder", *place, "image.level=0", "image.z_step=1", "compute.workers=1", *overrides)


def finished(root: Path, stage: str) -> list[Path]:
    return [path for path in (root / ".work" / stage).glob("*") if not path.name.startswith(".")]


def counts(told: str) -> dict[str, tuple[int, int]]:
    """By step, how many cells were computed and how many were found."""
    return {step: (int(new), int(old)) for step, new, old in re.findall(r"^(\w+): (\d+) computed, (\d+) found", told, re.MULTILINE)}


def kill(root: Path, stage: str) -> bool:
    """Begin a stage and kill all of it: once a cell is finished, or where it has none at once. Whether it came before the stage's end."""
    words = ["dvc", "repro", "-s", stage]
    heard = {**without(os.environ), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, cwd=root, start_new_session=True, stdout=subprocess.PIPE, text=True, env=heard) as process:
        assert process.stdout is not None
        assert any(line.startswith("Running stage") for line in process.stdout)
        while stage in BY_CELL and process.poll() is None and not finished(root, stage):
            time.sleep(0.002)
        in_time = process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    return in_time


@pytest.fixture(scope="module")
def built(stacks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset as another machine makes it: two workers, a deeper path, another time zone and locale."""
    root = checkout(tmp_path_factory.mktemp("some where") / "deeper" / "b", stacks, "compute.workers=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        patch.setenv("LC_ALL", "tr_TR.UTF-8")
        command(root, "dvc", "repro")
    return root


def test_killed_in_every_stage_it_ends_with_what_another_machine_makes(built: Path, stacks: Path, tmp_path: Path) -> None:
    killed = checkout(tmp_path / "a", stacks)
    in_time, kept = {}, {}
    for stage in yaml.safe_load((killed / "dvc.yaml").read_text())["stages"]:
        in_time[stage] = kill(killed, stage)
        kept[stage] = len(finished(killed, stage)) if stage in BY_CELL else 0
        told = command(killed, "dvc", "repro", "-s", stage)
        assert not in_time[stage] or counts(told).get(stage, (0, 0)) == ((len(CELLS) - kept[stage], kept[stage]) if kept[stage] else (0, 0))
    assert sum(in_time.values()) > len(in_time) / 2, "a busy machine may miss a short stage, not most of them"
    assert any(0 < n < len(CELLS) for n in kept.values())
    assert all(0 < kept[stage] < len(CELLS) for stage in BY_CELL if in_time[stage])
    for name in ("dvc.lock", "reports/metrics.json"):
        assert (built / name).read_bytes() == (killed / name).read_bytes()


def test_a_change_costs_what_it_changes(built: Path, stacks: Path, tmp_path: Path) -> None:
    root = shutil.copytree(built, tmp_path / "c", symlinks=True)

    def build(*overrides: str) -> tuple[set[str], dict[str, tuple[int, int]]]:
        """The stages that ran, and their counts."""
        if overrides != ("as it is",):
            configure(root, stacks, *overrides)
        told = command(root, "dvc", "repro")
        return set(re.findall(r"Running stage '(\w+)'", told)), counts(told)

    assert build() == (set(), {}), "other workers re-run nothing"
    ran, done = build("split.val=0.25")
    assert (ran, done) == ({"split", "manifest", "report"}, {"manifest": (0, 4), "report": (0, 4)})
    ran, done = build("labels.rim_um=0.3")
    assert not ran & {"query", "download", "align"}
    assert done["rasterize"] == (4, 0)
    assert build()[1].get("rasterize", (0, 4)) == (0, 4)
    assert (root / "dvc.lock").read_bytes() == (built / "dvc.lock").read_bytes()

    report = root / "src/brightfield/stages/report/cell.py"
    report.write_text(report.read_text().replace('"""', '"""Edited. ', 1))
    assert build("as it is") == ({"report"}, {"report": (0, 4)})

    ran, done = build("source.specimen_ids=[11,12,13]")
    assert all(new == 0 for new, _ in done.values())
    assert sorted(path.name for path in (root / "data/images").iterdir()) == ["11.zarr", "12.zarr", "13.zarr"]
    assert not list((root / "data").rglob("14.*"))
    assert all(new == 0 for new, _ in build()[1].values())
    assert len(list((root / "data/images").iterdir())) == len(CELLS)


def test_two_branches_merge_as_the_page_says_and_no_finished_cell_is_computed_again(built: Path, stacks: Path, tmp_path: Path) -> None:
    """A colleague adds a cell, we draw thicker labels: after the merge only the new cell's thick labels are missing."""

    def commit(root: Path, *overrides: str) -> str:
        if overrides:
            configure(root, stacks, *overrides)
        told = command(root, "dvc", "repro")
        command(root, "git", "add", "-A")
        command(root, "git", "commit", "-q", "-m", "data")
        return told

    def computed(told: str) -> dict[str, int]:
        return {step: new for step, (new, _) in counts(told).items()}

    few, thick = "source.specimen_ids=[11,12,13]", "labels.r_min_um=0.35"
    theirs = shutil.copytree(built, tmp_path / "theirs", symlinks=True)
    command(theirs, "dvc", "remote", "add", "-q", "-d", "team", str(tmp_path / "remote"))
    command(theirs, "git", "switch", "-q", "-c", "main")
    commit(theirs, few)
    command(theirs, "dvc", "push", "-q")
    command(tmp_path, "git", "clone", "-q", str(theirs), "ours")
    ours = tmp_path / "ours"
    command(ours, "dvc", "pull", "-q")

    command(theirs, "git", "switch", "-q", "-c", "more-cells")
    commit(theirs, "source.specimen_ids=[]")
    command(theirs, "dvc", "push", "-q")
    command(ours, "git", "switch", "-q", "-c", "thicker-labels")
    assert computed(commit(ours, few, thick))["rasterize"] == 3

    command(ours, "git", "fetch", "-q")
    command(ours, "git", "switch", "-q", "more-cells")
    command(ours, "dvc", "pull", "-q")
    command(ours, "git", "switch", "-q", "thicker-labels")
    command(ours, "git", "merge", "-q", "more-cells", ok=False)
    command(ours, "git", "checkout", "-q", "--ours", "dvc.lock", "params.yaml", "reports")
    assert computed(commit(ours, thick)) == {"skeletons": 0, "download": 0, "align": 1, "rasterize": 1, "manifest": 1, "report": 1}
    assert len(list((ours / "data/labels").iterdir())) == len(CELLS)
    assert "0 error" in command(ours, "brightfield", "check")


def test_a_lock_that_nobody_built_is_noticed(built: Path, stacks: Path, tmp_path: Path) -> None:
    """Labels of one configuration beside the params of another, as a merge without conflict may leave them."""
    root = shutil.copytree(built, tmp_path / "mixed", symlinks=True)
    configure(root, stacks, "labels.r_min_um=0.35")
    told = command(root, "brightfield", "check", ok=False)
    assert "params.yaml" in told
    assert "dvc repro" in told


def test_a_plan_of_stacks_that_cannot_be_taken_says_why_and_what_to_do(stacks: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path, stacks)
    told = command(root, "brightfield", "plan", "source=folder", f"source.path={stacks}", ok=False)
    assert "no cell of 4 is selected: 4 x the files do not say their pixel_um; set source.pixel_um" in told


def test_bad_cells_stop_the_build_or_are_left_out_with_their_reasons(stacks: Path, tmp_path: Path) -> None:
    own = shutil.copytree(stacks, tmp_path / "stacks")
    (own / "13" / "13.swc").write_text("1 1 0 0 0 1 -1\n2 3 x 0 0 1 1\n")
    (own / "12" / "z20.tif").write_bytes((own / "12" / "z20.tif").read_bytes()[:2000])
    root = checkout(tmp_path / "a", own)
    told = command(root, "dvc", "repro", ok=False)
    assert "1 x 13/13.swc:2: x is not a number" in told
    assert "1 cell(s) failed" in told
    assert "  12  12: " in told
    assert [path.name for path in sorted((root / "data/images").iterdir())] == ["11.zarr", "14.zarr"]
    configure(root, own, "download.on_failure=exclude")
    command(root, "dvc", "repro")
    cells = manifest(root).set_index("specimen_id")
    assert set(cells.index[cells["split"] == "excluded"]) >= {12, 13}
    assert cells["reason"][13].startswith("13/13.swc:2: x is not a number")
    assert cells["reason"][12].startswith("download: ")
    report = html.unescape((root / "reports/report/index.html").read_text())
    assert all(reason in report for reason in cells["reason"][[12, 13]])
    assert str(tmp_path) not in "".join(cells["reason"].dropna())
    command(root, "brightfield", "check")


def test_cells_that_fail_in_a_stage_keep_their_outputs_one_or_all(built: Path, tmp_path: Path) -> None:
    for stage in ("align", "rasterize", "manifest"):
        root = shutil.copytree(built, tmp_path / stage, symlinks=True)
        before = {path: path.read_bytes() for path in (root / "data").rglob("*") if path.is_file()}
        shutil.rmtree(root / ".dvc" / "cache")
        for bad in ((12,), CELLS):
            shutil.rmtree(root / ".work" / stage)
            _run_with_failures(root, stage, bad)
            assert {path: path.read_bytes() for path in (root / "data").rglob("*") if path.is_file()} == before


def _run_with_failures(root: Path, stage: str, bad: tuple[int, ...]) -> None:
    """Run a stage in which cells fail that are good otherwise."""
    code = f"""
import dataclasses, importlib
from pathlib import Path
from brightfield.config.params import load
from brightfield.core.errors import CellFailures, StackError
from brightfield.run import workcache

compute = workcache.compute_cell
def fail(home, key, function, args, outputs):
    if args[1].specimen_id in {bad}:
        raise StackError("broken", path="x")
    compute(home, key, function, args, outputs)
workcache.compute_cell = fail
config = load("params.yaml")
config.compute.workers = 1
try:
    importlib.import_module("brightfield.stages.{stage}.stage").run(config, Path("."))
except CellFailures as failures:
    assert tuple(failures.reasons) == {bad}, failures
else:
    raise SystemExit("nothing failed")
"""
    command(root, sys.executable, "-c", code)
