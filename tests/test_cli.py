"""The command line explains itself, fails in words, and answers at once."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from brightfield import cli
from brightfield.config import params
from brightfield.config.options import Config
from brightfield.core.errors import BrightfieldError, CellFailures, ConfigError, SkeletonError, StackError, TransferError
from repositories import REPOSITORY

COMMANDS = (
    "config",
    "plan",
    "stage",
    "refresh",
    "check",
    "inspect",
    "report",
    "evaluate",
    "salt",
    "diff",
    "release",
    "pull",
    "push",
    "mirror",
    "gc",
    "view",
)


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def load(root: Path) -> Config:
        raise error

    monkeypatch.setattr(params, "load", load)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    listed = re.findall(r"^    (\w+)  ", capsys.readouterr().out, flags=re.MULTILINE)
    assert tuple(sorted(listed)) == tuple(sorted(COMMANDS))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"brightfield {command}" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    heavy = ("numpy", "pandas", "zarr", "numba", "hydra", "pydantic", "allensdk", "dvc", "dask", "matplotlib")
    code = f"import sys, brightfield.cli; sys.exit(' '.join(m for m in {heavy} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("split.test is 7, allowed is 0 <= split.test < 1"), 2),
        (SkeletonError("node 5 has no parent 99", path="data/skeletons/1.swc", line=12), 1),
        (CellFailures("download", {2: "no plane 7", 1: "refused"}, remedy="run again"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_mistake_is_told_in_words_and_by_the_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fail_with(monkeypatch, error)
    assert cli.main(["stage", "query"]) == code
    told = capsys.readouterr().err
    assert str(error) in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (SkeletonError("no parent 99", path="1.swc", line=12), "1.swc:12: no parent 99 (see docs/reference/errors.md#skeletonerror)\n"),
        (CellFailures("download", {1: "refused"}, remedy="run again"), "\nrun again\nsee docs/reference/errors.md#cellfailures\n"),
        (TransferError("it is not there; see docs/how-to/team-remote.md"), "see docs/how-to/team-remote.md\n"),
        (StackError("is not here; fetch it with `dvc pull`"), "fetch it with `dvc pull`\n"),
        (ConfigError("split.test is 7, allowed is 0 <= split.test < 1"), "split.test < 1\n"),
    ],
)
def test_a_message_ends_with_the_page_that_says_more_where_one_does(
    error: BrightfieldError, end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fail_with(monkeypatch, error)
    cli.main(["stage", "query"])
    told = capsys.readouterr().err
    assert told.endswith(end)
    assert told.count("errors.md") == end.count("errors.md")
    assert told.count("\n") == str(error).count("\n") + (1 if "\n" not in str(error) else 2)


def test_verbose_shows_where_it_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(monkeypatch, ConfigError("no"))
    with pytest.raises(BrightfieldError):
        cli.main(["-v", "stage", "query"])


def test_failed_cells_are_listed_by_id_whatever_their_order() -> None:
    text = str(CellFailures("download", {20: "b", 3: "a"}, remedy="run again"))
    assert text.index("  3  a") < text.index("  20  b") < text.index("run again")


def test_pull_refuses_words_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pull", "side=val"]) == 2
    assert "split=NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "data/x"), "error: data/x: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "data/x"), "error: data/x: Permission denied"),
        (MemoryError(), "error: out of memory"),
    ],
)
def test_what_the_machine_refuses_is_told_in_one_line(
    error: BaseException, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fail_with(monkeypatch, error)
    assert cli.main(["stage", "query"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(told)


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from brightfield import cli; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); sys.exit(cli.main(['config']))"
    )
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    (tmp_path / "params.yaml").write_text("old")
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: params.yaml: cannot be written: File too large\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf", "params.yaml"]
    assert (tmp_path / "params.yaml").read_text() == "old"


@pytest.mark.parametrize(
    "words",
    [
        *(["gc", "--keep-gb", number] for number in ("nan", "inf", "-1", "x")),
        *(["plan", "--rate", number] for number in ("nan", "inf", "0", "-1")),
        *(["salt", "--candidates", number] for number in ("0", "-3", "1.5", "nan")),
    ],
)
def test_numbers_that_are_none_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert f"argument {words[1]}: invalid" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["=3", "=", "==", "3", "source", ".=1"])
def test_a_word_that_is_no_override_is_a_config_error(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    assert cli.main(["-C", str(tmp_path), "config", word]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "params.yaml").exists()


def test_a_work_directory_that_holds_other_things_is_refused_when_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    for place in ("''", ".", "..", "/", "data", str(tmp_path)):
        assert cli.main(["-C", str(tmp_path), "config", f"compute.work_dir={place}"]) == 2
        assert "compute.work_dir = " in capsys.readouterr().err


@pytest.mark.parametrize("words", [["push"], ["push", "--repair"]])
@pytest.mark.parametrize("place", ["nothing", "no git", "broken"])
def test_where_dvc_finds_no_repository_is_told_in_one_line(
    words: list[str], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if place != "nothing":
        (tmp_path / ".dvc").mkdir()
    if place == "broken":
        (tmp_path / ".dvc" / "config").write_text("[core\nno_scm = perhaps\n")
    assert cli.main(["-C", str(tmp_path), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no DVC repository can be opened here: ")
    assert said.count("\n") == 1


def test_gc_may_keep_more_than_any_disk_holds(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    assert cli.main(["-C", str(tmp_path), "gc", "--keep-gb", "1e308"]) == 0
