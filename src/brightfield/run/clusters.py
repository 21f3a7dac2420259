"""Cells over a Dask cluster: one that runs already, one on this machine, or jobs of Slurm that are its workers."""

from __future__ import annotations

import importlib
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from brightfield.config.options import DEFAULT_MEMORY_GB, DEFAULT_WORKERS, ComputeConfig, Scheduler
from brightfield.core.errors import ConfigError
from brightfield.run.attempt import THREAD_LIMITS, Event, Tasks, attempt

ANOTHER_WORKER_S = 60
"""In all of a run, for a worker to come in place of those that a cell has failed on."""

ANY_WORKER_S = 300.0
"""A run ends that has no worker for so long. The time in which jobs wait in Slurm's queue does not count: that may take days."""

_LOOK_S = 5.0


def map_on_cluster(function: Callable[..., Any], tasks: Tasks, compute: ComputeConfig, retries: int) -> Iterator[Event]:
    """Through dask.distributed. Never more tasks out than workers: a dying worker puts all its tasks under suspicion.

    Raises ConfigError where no scheduler answers, or no worker comes for `ANY_WORKER_S`.
    """
    distributed = _import_cluster("distributed")
    with _client(compute) as client:
        yield from _Sent(client, distributed.as_completed(), function, tasks, compute.workers, retries, Patience(client)).run()


@dataclass
class Patience:
    """How long a run goes on while there is no worker; measured from when it last saw one, or a job that may become one."""

    client: Any
    limit_s: float = ANY_WORKER_S
    look_s: float = _LOOK_S

    def await_any(self, running: Any) -> None:
        """Return once a cell has come back. Raises ConfigError where for `limit_s` there is nobody to work on it."""
        seen = looked = time.monotonic()
        while not running.has_ready():
            with running.thread_condition:  # as `distributed.as_completed` itself waits
                running.thread_condition.wait(0.1)
            now = time.monotonic()
            if now - looked < self.look_s:
                continue
            looked = now
            if workers_of(self.client) or _jobs_in_slurm(self.client):
                seen = now
            elif now - seen >= self.limit_s:
                raise ConfigError(_nobody_came(self.client, self.limit_s))


def workers_of(client: Any) -> set[str]:
    """The addresses of the workers that the scheduler knows."""
    return set(client.scheduler_info(n_workers=-1)["workers"])


def _jobs_in_slurm(client: Any) -> bool:
    """Whether jobs of this run wait or run in Slurm; False with other schedulers, and where Slurm does not say so."""
    specs = getattr(client.cluster, "workers", {})
    jobs = [str(job.job_id) for job in specs.values() if getattr(job, "job_id", None)]
    if not jobs:
        return False
    words = ["squeue", "--noheader", f"--jobs={','.join(jobs)}"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - our own words
    except (OSError, subprocess.TimeoutExpired):
        return False
    return bool(told.stdout.strip())


def _nobody_came(client: Any, limit_s: float) -> str:
    told = f"no Dask worker was there for {limit_s:g} s"
    if client.cluster is None:
        return f"{told}: compute.address = {client.scheduler.address} has a scheduler without workers; start some with this environment"
    if hasattr(client.cluster, "job_script"):
        return f"{told} and Slurm has no job of this run: slurm-*.out says why they ended; correct compute.prologue, memory_gb or walltime"
    return f"{told}: they cannot start on this machine; `dask worker {client.scheduler.address}` shows why, and compute=local needs none"


@dataclass
class _Sent:
    """The cells that wait, and those that are out on workers. A node may lack the file system: a cell is not tried twice on one worker."""

    client: Any
    running: Any
    function: Callable[..., Any]
    tasks: Tasks
    workers: int
    retries: int
    patience: Patience
    patience_s: int = ANOTHER_WORKER_S

    def __post_init__(self) -> None:
        self.waiting = deque(self.tasks)
        self.attempts = dict.fromkeys(self.tasks, 0)
        self.failed_on: dict[int, set[str]] = {i: set() for i in self.tasks}
        self.out: dict[Any, int] = {}

    def run(self) -> Iterator[Event]:
        self._submit()
        while self.out:
            self.patience.await_any(self.running)
            future = next(self.running)
            if future.status in ("lost", "pending"):  # its worker died before the result was fetched: it is made again
                self.running.add(future)
                continue
            specimen_id = self.out.pop(future)
            state, value, address = future.result() if future.status == "finished" else ("again", _death(future), "")
            self.attempts[specimen_id] += state != "elsewhere"
            if state == "elsewhere" or (state == "again" and self.attempts[specimen_id] <= self.retries):
                self.failed_on[specimen_id] |= {address} - {""}
                self.waiting.append(specimen_id)
            else:
                yield specimen_id, state == "ok", f"{value} (worker {address})" if state == "again" and address else value
            self._submit()

    def _submit(self) -> None:
        asked_for = len(getattr(self.client.cluster, "worker_spec", ()))
        width = self.workers or max(1, asked_for, len(workers_of(self.client)))
        while self.waiting and len(self.out) < width:
            specimen_id = self.waiting.popleft()
            avoided = self._avoided(self.failed_on[specimen_id])
            where = {"workers": list(workers_of(self.client) - avoided), "allow_other_workers": True} if avoided else {}
            future = self.client.submit(_attempt_at, self.function, self.tasks[specimen_id], avoided, pure=False, **where)
            self.out[future] = specimen_id
            self.running.add(future)

    def _avoided(self, failed_on: set[str]) -> frozenset[str]:
        """The workers that a cell does not go to again, as long as there are others or some may come."""
        while failed_on and not workers_of(self.client) - failed_on:
            if self.patience_s <= 0:
                return frozenset()
            time.sleep(1)
            self.patience_s -= 1
        return frozenset(failed_on)


def _death(future: Any) -> str:
    return f"its worker died: {future.exception()}"


def _attempt_at(function: Callable[..., Any], args: tuple[Any, ...], avoided: frozenset[str]) -> tuple[str, Any, str]:
    """`attempt`, and the address of the worker that made it; ("elsewhere", ...) on one to be avoided, where the others died meanwhile."""
    import distributed

    address = str(distributed.get_worker().address)
    if address in avoided:
        time.sleep(0.2)
        return "elsewhere", None, address
    return *attempt(function, args), address


def _client(compute: ComputeConfig) -> Any:
    distributed = _import_cluster("distributed")
    if compute.scheduler is Scheduler.slurm:
        return _slurm_client(distributed, compute)
    if not compute.address:
        return _local_client(distributed, compute.workers or importlib.import_module("dask.system").CPU_COUNT)
    try:
        return distributed.Client(compute.address, timeout="20s")
    except OSError as error:
        raise ConfigError(f"compute.address = {compute.address}: no Dask scheduler answers there ({error})") from error


def _local_client(distributed: Any, workers: int) -> Any:
    """A cluster on this machine. Its workers are asked for when it stands: begun with them, it would wait for one that cannot start."""
    cluster = distributed.LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None, memory_limit=1.0 / workers)
    cluster.scale(workers)
    return _Owning(distributed.Client(cluster), cluster)


def _slurm_client(distributed: Any, compute: ComputeConfig) -> Any:
    jobqueue = _import_cluster("dask_jobqueue")
    cluster = jobqueue.SLURMCluster(
        cores=1,
        processes=1,
        memory=f"{compute.memory_gb or DEFAULT_MEMORY_GB}GB",
        queue=compute.partition or None,
        account=compute.account or None,
        walltime=compute.walltime,
        job_script_prologue=[*(f"export {name}=1" for name in THREAD_LIMITS), *compute.prologue],
    )
    cluster.scale(compute.workers or DEFAULT_WORKERS)
    return _Owning(distributed.Client(cluster), cluster)


@dataclass
class _Owning:
    """A client that closes the cluster it started."""

    client: Any
    cluster: Any

    def __enter__(self) -> Any:
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.cluster.close()


def _import_cluster(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"compute.scheduler needs {module}: pip install 'brightfield[pipeline]'") from error
