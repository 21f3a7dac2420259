from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from brightfield.core.errors import BusyError
from brightfield.run import claim
from repositories import command

HELD = """
import sys, time
from pathlib import Path
from brightfield.run.claim import at_work, end_with_dvc
end_with_dvc()
with at_work(Path("."), Path(".work")):
    try:
        Path("started").write_text(str(__import__("os").getpid()))
        time.sleep(60)
    finally:
        Path("ended").touch()
"""


def wait_until(met: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not met():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and " Z " not in stat.read_text()


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    (tmp_path / "stage.py").write_text(HELD)
    return tmp_path


def test_a_second_run_on_a_repository_waits_a_little_and_is_refused(busy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "PATIENCE_S", 0.3)
    first = subprocess.Popen([sys.executable, "stage.py"], cwd=busy)
    wait_until((busy / "started").exists)
    with pytest.raises(BusyError, match=rf"is being built by process {first.pid} on "), claim.at_work(busy, busy / ".work"):
        pass
    first.kill()
    first.wait()
    with claim.at_work(busy, busy / ".work"):  # nothing is left behind that would have to be removed
        pass


def test_two_clones_may_build_with_one_work_cache(tmp_path: Path) -> None:
    with claim.at_work(tmp_path / "one", tmp_path / "work"), claim.at_work(tmp_path / "two", tmp_path / "work"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stage_ends_with_its_parent_and_cleans_up(busy: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "download")
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run([{sys.executable!r}, 'stage.py'])"], cwd=busy)
    wait_until(lambda: (busy / "started").exists() and bool((busy / "started").read_text()))
    stage = int((busy / "started").read_text())
    parent.send_signal(number)
    parent.wait()
    wait_until(lambda: not is_alive(stage))
    assert (busy / "ended").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_stage_ends_when_dvc_is_ended_and_the_next_run_can_start(busy: Path) -> None:
    command(busy, "git", "init", "-q")
    command(busy, "dvc", "init", "-q")
    stage = {"cmd": f'"{sys.executable}" stage.py', "deps": ["stage.py"], "outs": ["ended"]}
    (busy / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"held": stage}}))
    dvc = subprocess.Popen(["dvc", "repro"], cwd=busy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: (busy / "started").exists() and bool((busy / "started").read_text()))
    dvc.send_signal(signal.SIGTERM)
    dvc.wait()
    wait_until(lambda: not is_alive(int((busy / "started").read_text())))
    with claim.at_work(busy, busy / ".work"):
        pass


def test_by_hand_a_stage_outlives_the_shell_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    try:
        monkeypatch.setattr(claim, "end_with_parent", lambda _: pytest.fail("it would end with the shell"))
        claim.end_with_dvc()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
