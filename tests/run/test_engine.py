from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import dask
import pytest
from distributed import LocalCluster, get_worker

from brightfield.config.options import ComputeConfig, Scheduler
from brightfield.core.errors import ConfigError, StackError
from brightfield.run import clusters
from brightfield.run.engine import Engine, map_cells


def double(x: int) -> int:
    return 2 * x


def pid_of_worker(_: int) -> int:
    return os.getpid()


def fail_on_three(x: int) -> int:
    if x == 3:
        raise StackError("no such plane", path="plane.tif")
    if x == 4:
        raise ValueError("a bug")
    return x


def die_on_three(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return x


def die_once(x: int, marks: str) -> int:
    mark = Path(marks) / str(x)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def count_attempts(x: int, marks: str) -> int:
    with (Path(marks) / str(x)).open("a") as log:
        log.write("x")
    raise OSError("disk is busy")


def deny(_: int) -> None:
    raise PermissionError("no such file system")


def thread_limit(_: int) -> str:
    return os.environ["NUMBA_NUM_THREADS"]


def sleep_long(mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    time.sleep(60)


def unpicklable(_: int) -> object:
    return lambda: None


def tasks(n: int) -> dict[int, tuple[int]]:
    return {i: (i,) for i in range(n, 0, -1)}


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """A cluster of Dask sets the number of threads and the hash seed in the environment of whoever starts it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() | before.keys():
        if os.environ.get(name) != before.get(name):
            os.environ.pop(name, None)
            os.environ |= {name: before[name]} if name in before else {}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    results, failures = map_cells(double, tasks(6), Engine(ComputeConfig(workers=workers)))
    assert list(results.items()) == [(i, 2 * i) for i in range(6, 0, -1)]
    assert failures == {}


def test_workers_are_reused_and_are_other_processes() -> None:
    results, _ = map_cells(pid_of_worker, tasks(8), Engine(ComputeConfig(workers=2)))
    assert os.getpid() not in results.values()
    assert len(set(results.values())) <= 2


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_fails_its_own_cell_only_and_is_told_in_words(workers: int) -> None:
    results, failures = map_cells(fail_on_three, tasks(5), Engine(ComputeConfig(workers=workers)))
    assert set(results) == {1, 2, 5}
    assert failures[3] == "plane.tif: no such plane"
    assert "ValueError: a bug" in failures[4]
    assert "test_engine.py" in failures[4]


def test_a_killed_worker_loses_only_its_cell() -> None:
    results, failures = map_cells(die_on_three, tasks(8), Engine(ComputeConfig(workers=2, retries=1)))
    assert set(results) == {1, 2, 4, 5, 6, 7, 8}
    assert "killed" in failures[3]


def test_a_cell_whose_worker_died_is_tried_again(tmp_path: Path) -> None:
    results, failures = map_cells(die_once, {1: (1, str(tmp_path)), 2: (2, str(tmp_path))}, Engine(ComputeConfig(workers=2, retries=1)))
    assert results == {1: 1, 2: 2}
    assert failures == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_retries_are_counted(workers: int, tmp_path: Path) -> None:
    _, failures = map_cells(count_attempts, {7: (7, str(tmp_path))}, Engine(ComputeConfig(workers=workers, retries=2)))
    assert (tmp_path / "7").read_text() == "xxx"
    assert failures == {7: "OSError: disk is busy"}


def test_the_threads_of_a_worker_are_limited() -> None:
    cores = len(os.sched_getaffinity(0))
    results, _ = map_cells(thread_limit, tasks(2), Engine(ComputeConfig(workers=2)))
    assert results[1] == str(max(1, cores // 2))


def test_a_result_that_cannot_be_pickled_is_a_failure() -> None:
    _, failures = map_cells(unpicklable, tasks(1), Engine(ComputeConfig(workers=2)))
    assert "cannot be sent back" in failures[1]


def test_nothing_to_do_starts_nothing() -> None:
    assert map_cells(double, {}, Engine(ComputeConfig(workers=2))) == ({}, {})


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = tmp_path / "parent.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_engine import sleep_long\nfrom brightfield.config.options import ComputeConfig\n"
        "from brightfield.run.engine import Engine, map_cells\n"
        f"if __name__ == '__main__': map_cells(sleep_long, {{1: ({str(mark)!r},)}}, Engine(ComputeConfig(workers=2)))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    while not (mark.exists() and mark.read_text()):
        time.sleep(0.05)
        assert parent.poll() is None
    worker = int(mark.read_text())
    parent.kill()
    parent.wait()
    for _ in range(1200):
        if not Path(f"/proc/{worker}").exists() or " Z " in Path(f"/proc/{worker}/stat").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent")


def test_no_bar_in_a_log(capfd: pytest.CaptureFixture[str]) -> None:
    map_cells(double, tasks(3), Engine(ComputeConfig(workers=1)))
    assert capfd.readouterr() == ("", "")


def test_the_engine_follows_the_configuration() -> None:
    engine = Engine(ComputeConfig(workers=3, retries=9, prologue=["module load x"]), "label")
    assert (engine.compute.workers, engine.retries, engine.compute.prologue) == (3, 2, ["module load x"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_loses_only_the_hopeless_cells() -> None:
    results, failures = map_cells(die_on_three, tasks(6), Engine(ComputeConfig(scheduler=Scheduler.dask, workers=2, retries=0)))
    assert set(results) == {1, 2, 4, 5, 6}
    assert set(failures) == {3}


def without_files_on_the_first(x: int, marks: str) -> int:
    if get_worker().name == 0:
        (Path(marks) / str(x)).touch()
        raise PermissionError("no such file system")
    return die_once(x, marks) if x == 3 else x


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cell_goes_on_elsewhere_where_a_node_lacks_the_files_and_another_dies(tmp_path: Path) -> None:
    work = {i: (i, str(tmp_path)) for i in range(1, 9)}
    results, failures = map_cells(without_files_on_the_first, work, Engine(ComputeConfig(scheduler=Scheduler.dask, workers=2)))
    assert len(list(tmp_path.iterdir())) > 1
    assert (results, failures) == ({i: i for i in work}, {})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_no_worker_can_do_is_told_in_a_line_with_the_worker() -> None:
    _, failures = map_cells(deny, tasks(2), Engine(ComputeConfig(scheduler=Scheduler.dask, workers=2, retries=1)))
    for reason in failures.values():
        assert re.fullmatch(r"PermissionError: no such file system \(worker tcp://127\.0\.0\.1:\d+\)", reason)
    assert set(failures) == {1, 2}


def test_a_dask_scheduler_that_does_not_answer_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    def refuse(*_: object, **__: object) -> None:
        raise OSError("refused")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(ConfigError, match=r"compute\.address = tcp://127\.0\.0\.1:1"):
        map_cells(double, tasks(1), Engine(ComputeConfig(scheduler=Scheduler.dask, address="tcp://127.0.0.1:1")))


@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_without_workers_ends_the_run_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters.Patience.__init__, "__defaults__", (0.3, 0.1))
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster:
        engine = Engine(ComputeConfig(scheduler=Scheduler.dask, address=cluster.scheduler_address))
        with pytest.raises(
            ConfigError, match=r"^no Dask worker was there for 0\.3 s: compute\.address = \S+ has a scheduler without workers"
        ):
            map_cells(double, tasks(3), engine)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_that_cannot_start_end_the_run_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters.Patience.__init__, "__defaults__", (3.0, 0.5))
    with (
        dask.config.set({"distributed.worker.preload": ["raise SystemExit(1)"]}),
        pytest.raises(ConfigError, match=r"^no Dask worker .* cannot start on this machine"),
    ):
        map_cells(double, tasks(3), Engine(ComputeConfig(scheduler=Scheduler.dask, workers=1)))


@dataclass
class SlowScheduler:
    """A client whose worker comes at the look of that number; `job` is what Slurm has of it till then."""

    comes_at: int
    job: str | None = None
    looks: int = 0
    thread_condition: threading.Condition = field(default_factory=threading.Condition)

    @property
    def cluster(self) -> SimpleNamespace:
        return SimpleNamespace(workers={0: SimpleNamespace(job_id=self.job)}, job_script=str)

    def scheduler_info(self, n_workers: int) -> dict[str, dict[str, str]]:
        self.looks += 1
        return {"workers": {"tcp://a": "worker"} if self.looks >= self.comes_at else {}}

    def has_ready(self) -> bool:
        return self.looks >= self.comes_at


@pytest.mark.parametrize("queued", [True, False])
def test_a_queue_may_take_as_long_as_it_likes(queued: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\n[ $2 = --jobs=17 ] && {'echo 17 PENDING' if queued else 'exit 1'}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    scheduler = SlowScheduler(8, job="17")
    patience = clusters.Patience(scheduler, limit_s=0.2, look_s=0.1)
    if queued:
        patience.await_any(scheduler)
        assert scheduler.looks == 8
    else:
        with pytest.raises(ConfigError, match=r"Slurm has no job of this run: slurm-\*\.out says why"):
            patience.await_any(scheduler)
