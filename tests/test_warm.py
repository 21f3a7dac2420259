"""Warm commands do what those of a user do."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from warm import without

pytestmark = pytest.mark.usefixtures("at_home")


def told(*words: str, cwd: Path | None = None, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", [("--version",), ("stage", "split"), ("stage", "no such stage"), ()])
def test_code_and_words_are_those_of_a_command_that_starts_by_itself(words: tuple[str, ...], tmp_path: Path) -> None:
    warm = told("brightfield", *words, cwd=tmp_path)
    cold = subprocess.run(["brightfield", *words], cwd=tmp_path, env=without(os.environ), capture_output=True, text=True, check=False)
    assert warm == (cold.returncode, cold.stdout, cold.stderr)


@pytest.mark.parametrize("name", ["LC_ALL", "TZ", "PYTHONHASHSEED"])
def test_under_another_locale_a_command_starts_by_itself(name: str) -> None:
    assert told("brightfield", "--version", **{name: "0"}) == told("brightfield", "--version")


def at_work_in(folder: Path) -> list[int]:
    """Commands that are forks and have this working directory."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"warm.py" in (place / "cmdline").read_bytes() and (place / "cwd").resolve() == folder:
                found.append(int(place.name))
    return found


def test_a_command_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "till")
    (tmp_path / "dvc.yaml").write_text("stages: {wait: {cmd: echo > begun; read line < till, outs: [begun]}}")
    assert told("dvc", "init", "-q", "--no-scm", cwd=tmp_path)[0] == 0
    with subprocess.Popen(["dvc", "repro", "-q"], cwd=tmp_path) as process:
        while not (tmp_path / "begun").exists() and process.poll() is None:
            time.sleep(0.01)
        begun = len(at_work_in(tmp_path))
        process.kill()
    assert begun == 1
    with (tmp_path / "till").open("w"):  # the stage itself goes on without DVC, as it does under a user's
        pass
    for _ in range(1000):
        if not at_work_in(tmp_path):
            return
        time.sleep(0.01)
    pytest.fail("the command outlived who asked for it")
